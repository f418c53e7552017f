//! A client's HTTP/2 byte stream, its frames counted: those that carry nothing cost weir work and the client almost
//! nothing. The library answers each ping and each setting, and has no measure for how many there are.
//!
//! A client may send so many of them in ten seconds as `h2_control_frames` says, four more for each head it sends and one
//! more for each KiB that it moves: who asks and downloads much has to open windows, and who streams measures its line by
//! pings. It is cut beyond that. Streams that
//! are reset are `pulse`'s business as well, which knows whether they had an answer.

use super::admission::Cut;
use super::pulse::Pulse;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The time in which that many are too many.
const WINDOW: Duration = Duration::from_secs(10);
/// What a connection begins with.
const PREFACE_BYTES: u64 = 24;
/// The head of a frame (RFC 9113, section 4.1).
const HEAD_BYTES: usize = 9;
/// Moved for each further frame.
const BYTES_PER_FRAME: u64 = 1024;
/// What a head is worth in such bytes.
const BYTES_PER_HEAD: u64 = 4 * BYTES_PER_FRAME;
/// Kinds of frames that carry something.
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// A byte stream whose frames are counted.
pub struct Paced<S> {
    stream: S,
    pulse: Rc<Pulse>,
    pace: Pace,
}

/// How many there have been. Pure.
struct Pace {
    frames_max: u64,
    /// Bytes of the preface or of a payload that are still to come.
    skip: u64,
    head: [u8; HEAD_BYTES],
    have: usize,
    /// Frames that carried nothing, since.
    empty: u64,
    /// Bytes that moved, since.
    moved: u64,
    since: Instant,
}

impl<S> Paced<S> {
    /// Counts the frames of the connection that `pulse` belongs to.
    pub fn new(stream: S, pulse: Rc<Pulse>, frames_max: u32) -> Self {
        let pace = Pace {
            frames_max: u64::from(frames_max),
            skip: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            have: 0,
            empty: 0,
            moved: 0,
            since: Instant::now(),
        };
        Paced { stream, pulse, pace }
    }
}

impl Pace {
    /// Follows what has come. Whether that was within the measure.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let count = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip = self.skip.saturating_sub(count as u64);
                bytes = bytes.get(count..).unwrap_or_default();
                continue;
            }
            let Some((&byte, rest)) = bytes.split_first() else { break };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.have) {
                *place = byte;
            }
            self.have = self.have.saturating_add(1);
            if self.have == HEAD_BYTES {
                self.have = 0;
                if !self.frame() {
                    return false;
                }
            }
        }
        true
    }

    /// Counts the frame whose head is there.
    fn frame(&mut self) -> bool {
        let [high, middle, low, kind, ..] = self.head;
        self.skip = u64::from(u32::from_be_bytes([0, high, middle, low]));
        if matches!(kind, DATA | HEADERS) && self.skip > 0 {
            let worth = if kind == HEADERS { BYTES_PER_HEAD } else { self.skip };
            self.moved = self.moved.saturating_add(worth);
            return true;
        }
        self.empty = self.empty.saturating_add(1);
        let earned = self.moved / BYTES_PER_FRAME;
        if self.empty <= self.frames_max.saturating_add(earned) {
            return true;
        }
        let now = Instant::now();
        let in_time = now.saturating_duration_since(self.since) >= WINDOW;
        (self.empty, self.moved, self.since) = (0, 0, now);
        in_time
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let fresh = buffer.filled().get(before..).unwrap_or_default();
        if this.pace.pass(fresh) {
            return Poll::Ready(Ok(()));
        }
        this.pulse.abused(Cut::ControlFrames);
        Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    fn wrote(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            self.pace.moved = self.pace.moved.saturating_add(*count as u64);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of these frames pass, sent in pieces of that size.
    fn passed(frame: &[u8], step: usize, moved: u64) -> u64 {
        let mut paced = Paced::new((), Rc::default(), 100);
        assert!(paced.pace.pass(&[0; PREFACE_BYTES as usize]));
        paced.pace.moved = moved;
        let mut count = 0;
        while count < 10_000 && frame.chunks(step).all(|piece| paced.pace.pass(piece)) {
            count += 1;
        }
        count
    }

    #[test]
    fn frames_that_carry_nothing_have_a_measure_and_others_have_none() {
        let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &[7; 8]].concat();
        let data = [&[0, 0, 8, 0, 0, 0, 0, 0, 1][..], &[7; 8]].concat();
        let empty_data = [0, 0, 0, 0, 0, 0, 0, 0, 1];
        for step in [1, 5, 100] {
            assert_eq!(passed(&ping, step, 0), 100);
            assert_eq!(passed(&empty_data, step, 0), 100);
            assert_eq!(passed(&data, step, 0), 10_000);
        }
        assert_eq!(passed(&ping, 100, 50 * 1024), 150, "who moves bytes may send more");
    }
}
