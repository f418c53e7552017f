//! One connection to an upstream: its byte stream, its buffers, and its place in the upstream's quota.
//!
//! It knows no protocol; the legs (`h1`, `h2`) do, and the pool keeps it between requests.

use super::alarm::Alarm;
use crate::clock::Time;
use bytes::BytesMut;
use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;

/// A parked connection keeps a buffer of at most this size.
const PARKED_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// A connection's byte stream.
#[derive(Debug)]
pub enum Io {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection to an upstream.
pub struct Link {
    /// The byte stream.
    pub io: Io,
    /// What was read and not yet taken.
    pub inbox: BytesMut,
    /// What waits to be written.
    pub outbox: Outbox,
    /// For the deadlines of whoever uses it.
    pub alarm: Alarm,
    born: Time,
    parked: Time,
    used: bool,
    _place: Place,
}

impl Link {
    /// A connection that has carried nothing yet.
    pub fn new(io: Io, now: Time, place: Place) -> Self {
        Link {
            io,
            inbox: BytesMut::new(),
            outbox: Outbox::default(),
            alarm: Alarm::default(),
            born: now,
            parked: now,
            used: false,
            _place: place,
        }
    }

    /// Whether it has carried a request before; only then may the upstream have closed it for idleness.
    pub fn is_used(&self) -> bool {
        self.used
    }

    /// When its last request had ended.
    pub const fn idle_since(&self) -> Time {
        self.parked
    }

    /// The byte stream, for a protocol that takes it over.
    pub fn into_io(self) -> (Io, Place) {
        (self.io, self._place)
    }

    /// Whether it is young enough and was not idle for too long.
    pub fn is_fresh(&self, now: Time, idle_timeout: Duration, lifetime: Duration) -> bool {
        now.since(self.parked) < idle_timeout && now.since(self.born) < lifetime
    }

    /// Whether the upstream has neither closed it nor sent anything unasked. Costs no system call while nothing arrived.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut buffer = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(&mut self.io).poll_read(&mut context, &mut buffer).is_pending()
    }

    /// Makes it ready to lie idle.
    pub fn park(&mut self, now: Time) {
        self.used = true;
        self.parked = now;
        if self.inbox.capacity() > PARKED_BUFFER_BYTES_MAX {
            self.inbox = BytesMut::new();
        }
        if self.outbox.bytes.capacity() > PARKED_BUFFER_BYTES_MAX {
            self.outbox = Outbox::default();
        }
    }

    /// Reads more into `inbox`, with room for at least `room` bytes.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        let plenty = room.saturating_mul(2);
        // From the front again if nobody holds what was read before: the same memory is in the processor's cache, and the
        // next piece of it is not.
        let is_reclaimed = self.inbox.is_empty() && self.inbox.try_reclaim(plenty);
        if !is_reclaimed && self.inbox.capacity().saturating_sub(self.inbox.len()) < room {
            self.inbox.reserve(plenty);
        }
        // `read_buf` keeps no state between polls, so polling a new one each time loses nothing.
        pin!(self.io.read_buf(&mut self.inbox)).poll(cx)
    }
}

/// What waits to be written; its memory is used again.
#[derive(Default)]
pub struct Outbox {
    /// Where to append.
    pub bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// What is not written yet.
    pub fn waiting(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// Whether everything is written.
    pub fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Notes that so many bytes were written.
    pub fn advance(&mut self, count: usize) {
        self.written = self.written.saturating_add(count);
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        }
    }
}

/// How many connections an upstream has open in this worker.
#[derive(Default)]
pub struct Quota {
    /// Open now.
    pub open: Cell<usize>,
    /// Told when a connection has closed, or is free to be used again.
    pub freed: Notify,
}

/// A connection's place in the upstream's quota; ends with the connection.
pub struct Place {
    quota: Rc<Quota>,
}

impl Place {
    /// Takes a place.
    pub fn new(quota: &Rc<Quota>) -> Self {
        quota.open.set(quota.open.get().saturating_add(1));
        Place { quota: Rc::clone(quota) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.quota.open.set(self.quota.open.get().saturating_sub(1));
        self.quota.freed.notify_one();
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
