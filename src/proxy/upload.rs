//! A request body on its way to an HTTP/1 upstream: sized or chunked, written as it comes, never gathered.

use super::fault::Fault;
use super::link::Link;
use super::replay::{Broken, Outgoing};
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as _, Frame};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Body pieces up to this size are copied behind what waits to be written; larger ones are written from where they are.
const COPY_BYTES_MAX: usize = 8 * 1024;

/// A request body on its way to the upstream.
pub struct Upload {
    /// What the client still has to send.
    pub body: Option<Outgoing>,
    chunked: bool,
    /// A large piece that is written from where it is, after `outbox`.
    piece: Bytes,
    /// Written to the connection so far, head included.
    pub written: u64,
    /// Body bytes taken from the client so far.
    pub taken: u64,
    /// Body bytes that the client may send.
    bytes_max: u64,
    flushed: bool,
    /// The upstream stopped reading; its answer may still come.
    pub broken: bool,
}

impl Upload {
    /// A body of at most `bytes_max` that is sent after the head in the link's outbox.
    pub fn new(body: Option<Outgoing>, chunked: bool, bytes_max: u64) -> Self {
        Upload { body, chunked, piece: Bytes::new(), written: 0, taken: 0, bytes_max, flushed: false, broken: false }
    }

    /// Whether the whole request is out, or nobody reads it any more.
    pub fn is_done(&self, link: &Link) -> bool {
        self.broken || (self.body.is_none() && self.piece.is_empty() && link.outbox.is_empty() && self.flushed)
    }

    /// Whether only the client can bring it forward.
    pub fn waits_for_client(&self, link: &Link) -> bool {
        self.body.is_some() && !self.broken && self.piece.is_empty() && link.outbox.is_empty()
    }

    /// Writes what there is to write. Ready when the whole request is out or the upstream takes no more.
    pub fn poll(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        while !self.is_done(link) {
            match ready!(self.poll_write(link, cx)) {
                Ok(()) => {}
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
            if let Some(body) = &mut self.body {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                self.take(link, frame)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, link: &mut Link, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !link.outbox.is_empty() {
                let count = ready!(Pin::new(&mut link.io).poll_write(cx, link.outbox.waiting()))?;
                self.note(count)?;
                link.outbox.advance(count);
            } else if !self.piece.is_empty() {
                let count = ready!(Pin::new(&mut link.io).poll_write(cx, &self.piece))?;
                self.note(count)?;
                self.piece.advance(count);
                if self.piece.is_empty() && self.chunked {
                    link.outbox.bytes.extend_from_slice(b"\r\n");
                }
            } else {
                if !self.flushed {
                    ready!(Pin::new(&mut link.io).poll_flush(cx))?;
                    self.flushed = true;
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    fn note(&mut self, count: usize) -> io::Result<()> {
        self.written = self.written.saturating_add(count as u64);
        self.flushed = false;
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    fn take(&mut self, link: &mut Link, frame: Option<Result<Frame<Bytes>, Broken>>) -> Result<(), Fault> {
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return self.take_data(link, data),
                Err(frame) => {
                    if let (Ok(fields), true) = (frame.into_trailers(), self.chunked) {
                        end_chunks(&mut link.outbox.bytes, Some(&fields));
                        self.body = None;
                    }
                }
            },
            Some(Err(_)) => return Err(Fault::ClientLeft),
            None => {
                if self.chunked {
                    end_chunks(&mut link.outbox.bytes, None);
                }
                self.body = None;
            }
        }
        Ok(())
    }

    fn take_data(&mut self, link: &mut Link, data: Bytes) -> Result<(), Fault> {
        if data.is_empty() {
            return Ok(());
        }
        self.taken = self.taken.saturating_add(data.len() as u64);
        if self.taken > self.bytes_max {
            return Err(Fault::BodyTooLong);
        }
        if self.chunked {
            link.outbox.bytes.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
        }
        if data.len() > COPY_BYTES_MAX {
            self.piece = data;
            return Ok(());
        }
        link.outbox.bytes.extend_from_slice(&data);
        if self.chunked {
            link.outbox.bytes.extend_from_slice(b"\r\n");
        }
        Ok(())
    }
}

/// The last chunk and the trailer section.
fn end_chunks(outbox: &mut Vec<u8>, fields: Option<&HeaderMap>) {
    outbox.extend_from_slice(b"0\r\n");
    for (name, value) in fields.into_iter().flatten() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            outbox.extend_from_slice(part);
        }
    }
    outbox.extend_from_slice(b"\r\n");
}
