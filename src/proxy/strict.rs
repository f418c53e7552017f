//! A client's HTTP/1 byte stream as hyper gets to see it: one whole request after the other, and none with two readings.
//!
//! hyper reads leniently and mends some of what it reads. So each head is kept back until it is complete and `framing` has
//! judged it, and what comes behind a request is kept back until that is answered. At a head that is refused the stream
//! ends, as far as hyper can see: what comes behind it is never taken for a request. `conn` then tells the client, by
//! `misread`. What comes behind a request for a WebSocket waits here as well, until it is known whether it is frames.

use super::framing::{self, Caps, Chunks, Follows};
use super::pulse::Pulse;
use super::refusal::Refusal;
use bytes::{Buf, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte stream that is looked at before it is read.
pub struct Strict<S> {
    stream: S,
    pulse: Rc<Pulse>,
    caps: Caps,
    place: Place,
    /// What has come and is not handed on yet.
    kept: BytesMut,
    /// How much of that may be handed on.
    cleared: usize,
    refused: Option<Refusal>,
    /// Whether the client has left without a word, where its protocol has one: a TLS stream that was just cut off.
    gone: bool,
}

/// Where the bytes stand that come next.
enum Place {
    /// In a head whose first bytes, so many, have been looked through.
    Head(usize),
    /// In a body with so many bytes to come.
    Body(u64),
    /// In a chunked body.
    Chunks(Chunks),
}

/// What is left of a stream whose connection speaks HTTP no more.
pub struct Remains<S> {
    /// The stream.
    pub stream: S,
    /// What has come and was not handed on.
    pub kept: BytesMut,
    /// Why the head at the front of that was refused, if one was.
    pub refused: Option<Refusal>,
}

impl<S> Strict<S> {
    /// Looks at what comes through `stream`, the stream of the connection that `pulse` belongs to.
    pub fn new(stream: S, pulse: Rc<Pulse>, caps: Caps) -> Self {
        Strict {
            stream,
            pulse,
            caps,
            place: Place::Head(0),
            kept: BytesMut::new(),
            cleared: 0,
            refused: None,
            gone: false,
        }
    }

    /// Takes it apart.
    pub fn into_remains(self) -> Remains<S> {
        let refused = self.refused.filter(|_| matches!(self.place, Place::Head(_)));
        Remains { stream: self.stream, kept: self.kept, refused }
    }

    /// How many of these bytes, the next ones of the stream, may be handed on now.
    fn clear(&mut self, bytes: &[u8]) -> usize {
        let cleared = self.pass(bytes);
        self.pulse.in_body(!matches!(self.place, Place::Head(_)));
        cleared
    }

    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut cleared = 0;
        if let Place::Head(seen) = self.place {
            match self.head(bytes, seen) {
                Ok(0) => return 0,
                Ok(end) => cleared = end,
                Err(refusal) => {
                    self.refused = Some(refusal);
                    return 0;
                }
            }
        }
        let rest = bytes.get(cleared..).unwrap_or_default();
        let more = match &mut self.place {
            Place::Head(_) => 0,
            Place::Body(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left = left.saturating_sub(count as u64);
                if *left == 0 {
                    self.place = Place::Head(0);
                }
                count
            }
            Place::Chunks(chunks) => match chunks.pass(rest) {
                Ok(count) => {
                    if chunks.is_done() {
                        self.place = Place::Head(0);
                    }
                    count
                }
                Err(refusal) => {
                    self.refused = Some(refusal);
                    0
                }
            },
        };
        cleared.saturating_add(more)
    }

    /// The length of the head at the front of these bytes, or nothing if it is not all here.
    fn head(&mut self, bytes: &[u8], seen: usize) -> Result<usize, Refusal> {
        let Some((end, follows)) = framing::head(bytes, seen, &self.caps)? else {
            self.place = Place::Head(bytes.len());
            return Ok(0);
        };
        self.place = match follows {
            Follows::Nothing => Place::Head(0),
            Follows::Sized(length) => Place::Body(length),
            Follows::Chunks => Place::Chunks(Chunks::default()),
        };
        Ok(end)
    }

    /// Whether a request is under way, and the next one is not due.
    fn waits(&self) -> bool {
        matches!(self.place, Place::Head(_)) && self.pulse.is_under_way()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.get_mut();
        loop {
            if this.cleared > 0 {
                let count = this.cleared.min(buffer.remaining());
                buffer.put_slice(this.kept.get(..count).unwrap_or_default());
                this.kept.advance(count);
                this.cleared = this.cleared.saturating_sub(count);
                return Poll::Ready(Ok(()));
            }
            if this.refused.is_some() {
                let in_body = !matches!(this.place, Place::Head(_));
                return Poll::Ready(if in_body { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) });
            }
            if !this.kept.is_empty() {
                if this.waits() {
                    this.pulse.wake_after(cx.waker());
                    return Poll::Pending;
                }
                let kept = std::mem::take(&mut this.kept);
                this.cleared = this.clear(&kept);
                this.kept = kept;
                if this.cleared > 0 || this.refused.is_some() {
                    continue;
                }
            }
            let before = buffer.filled().len();
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer));
            this.gone = read.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
            read?;
            let fresh = buffer.filled().get(before..).unwrap_or_default();
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            // As a rule everything is handed on where it is. More is only read behind kept bytes if those are a part of a
            // head.
            let count = if this.kept.is_empty() && !this.waits() { this.clear(fresh) } else { 0 };
            this.kept.extend_from_slice(fresh.get(count..).unwrap_or_default());
            buffer.set_filled(before.saturating_add(count));
            if count > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Put off where a head was refused: the client is still to be told. One that has gone is told nothing: a farewell would only
    /// make its system say that nobody is there.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone || (self.refused.is_some() && matches!(self.place, Place::Head(_))) {
            return Pin::new(&mut self.stream).poll_flush(cx);
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
