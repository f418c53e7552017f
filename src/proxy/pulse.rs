//! What a client's connection is doing, noted where it shows: at its byte stream, at its requests and at their answers.
//!
//! It only notes; a byte or a request costs it a few stores, and no clock is read. How long each phase may last is
//! `vigil`'s business. Made by `conn`, one for each connection.

use super::admission::Cut;
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What is known of a connection at this moment.
#[derive(Default)]
pub struct Pulse {
    http2: Cell<bool>,
    requests: Cell<u32>,
    requests_max: Cell<u32>,
    under_way: Cell<u32>,
    /// Whether the client has sent anything since the connection can carry requests.
    heard: Cell<bool>,
    /// Whether a part of a head has come.
    in_head: Cell<bool>,
    /// Whether a part of a request's body is still to come, over HTTP/1.
    in_body: Cell<bool>,
    /// Whether the request under way has no body, so that what comes now belongs to the next head.
    bodiless: Cell<bool>,
    /// Whether a part of the next head has come with that.
    ahead: Cell<bool>,
    /// Whether bytes wait to be written that the client does not take.
    stuck: Cell<bool>,
    moves: Cell<u32>,
    retiring: Cell<bool>,
    /// Whether everything is said, and the client has not stopped talking.
    lingering: Cell<bool>,
    reset: Cell<bool>,
    /// Whether something came that is no request.
    misread: Cell<bool>,
    /// How many requests the client took back before they had an answer, and how many it may.
    taken_back: Cell<u32>,
    taken_back_max: Cell<u32>,
    /// What the client has done too often.
    abuse: Cell<Option<Cut>>,
    /// Whom to wake when a request is no longer under way.
    waiting: Cell<Option<Waker>>,
    /// What the body that was polled last in this task had to say.
    polled: Cell<Option<Polled>>,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The client has sent nothing yet.
    Silent,
    /// Nothing is under way.
    Idle,
    /// A part of an HTTP/1 head has come.
    Head,
    /// Requests are under way.
    Busy,
    /// The client does not take what is sent.
    Stuck,
    /// Everything is said; what the client still sends is thrown away.
    Lingering,
}

/// What an answer's body said when it was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// There is something to send.
    Ready,
    /// It waits for the upstream.
    Waits,
}

impl Pulse {
    /// A connection begins to carry requests, of which the last allowed one closes it. `heard` is whether something of
    /// the first one has come already.
    pub fn open(&self, http2: bool, requests_max: u32, heard: bool, taken_back_max: u32) {
        self.http2.set(http2);
        self.taken_back_max.set(taken_back_max);
        self.requests_max.set(requests_max);
        self.heard.set(heard);
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        if self.lingering.get() {
            Phase::Lingering
        } else if self.stuck.get() {
            Phase::Stuck
        } else if self.under_way.get() > 0 {
            Phase::Busy
        } else if !self.heard.get() {
            Phase::Silent
        } else if self.in_head.get() && !self.http2.get() {
            Phase::Head
        } else {
            Phase::Idle
        }
    }

    /// Goes up whenever a phase begins anew that was the last one as well.
    pub fn moves(&self) -> u32 {
        self.moves.get()
    }

    /// A request's head is complete.
    pub fn begin(self: &Rc<Self>, bodiless: bool) -> UnderWay {
        self.requests.set(self.requests.get().saturating_add(1));
        self.under_way.set(self.under_way.get().saturating_add(1));
        self.in_head.set(false);
        self.bodiless.set(bodiless);
        if self.requests.get() >= self.requests_max.get() {
            self.retire();
        }
        UnderWay { pulse: Rc::clone(self), answered: Cell::new(false) }
    }

    /// Whether it has had a request.
    pub fn has_begun(&self) -> bool {
        self.requests.get() > 0
    }

    /// The connection is to end with the requests under way.
    pub fn retire(&self) {
        self.retiring.set(true);
    }

    /// Whether a part of an HTTP/1 request's body is still to come.
    pub fn in_body(&self, is_to_come: bool) {
        self.in_body.set(is_to_come);
    }

    /// Whether HTTP/2 must be told so; HTTP/1 is told with an answer.
    pub fn asks_goaway(&self) -> bool {
        self.retiring.get() && self.http2.get()
    }

    /// The stream is to be reset when it is dropped: what waits in the kernel is not to be sent on.
    pub fn reset(&self) {
        self.reset.set(true);
    }

    /// Whether a request is under way.
    pub fn is_under_way(&self) -> bool {
        self.under_way.get() > 0
    }

    /// Whom to wake when a request ends.
    pub fn wake_after(&self, waker: &Waker) {
        self.waiting.set(Some(waker.clone()));
    }

    /// Something came that is no request; what the client goes on to send is thrown away.
    pub fn misread(&self) {
        self.misread.set(true);
    }

    /// The client has done that too often.
    pub fn abused(&self, how: Cut) {
        self.abuse.set(Some(how));
    }

    /// What the client has done too often, if anything.
    pub fn abuse(&self) -> Option<Cut> {
        self.abuse.get()
    }

    /// A request was dropped without an answer: its client has reset the stream. Each costs a request to an upstream and
    /// the client nothing; but a client that goes on for days may change its mind now and then.
    fn take_back(&self) {
        let (count, all) = (self.taken_back.get().saturating_add(1), self.requests.get());
        self.taken_back.set(count);
        if count >= self.taken_back_max.get() && count >= all / 2 {
            self.abused(Cut::Resets);
        }
    }

    /// What the body polled since the last call said, if one was polled.
    pub fn take_polled(&self) -> Option<Polled> {
        self.polled.take()
    }

    fn moved(&self) {
        self.moves.set(self.moves.get().wrapping_add(1));
    }

    fn read_some(&self) {
        self.heard.set(true);
        if self.under_way.get() == 0 {
            self.in_head.set(true);
        } else if self.bodiless.get() {
            self.ahead.set(true);
        }
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        let taken = polled.is_ready();
        if taken && self.stuck.get() {
            self.moved();
        }
        self.stuck.set(!taken);
    }
}

/// A request under way, until its answer's body is dropped.
pub struct UnderWay {
    pulse: Rc<Pulse>,
    answered: Cell<bool>,
}

impl UnderWay {
    /// Whether the answer is the last one of an HTTP/1 connection, and must say so. One that is early is: what then comes of
    /// the request's body may be for nobody, and is not waited for.
    pub fn is_last(&self) -> bool {
        (self.pulse.retiring.get() || self.pulse.in_body.get()) && !self.pulse.http2.get()
    }

    /// Whether its client is one that takes requests back, over HTTP/2.
    pub fn is_doubtful(&self) -> bool {
        self.pulse.taken_back.get() > 0
    }

    /// Its answer is there.
    pub fn answered(&self) {
        self.answered.set(true);
    }

    /// Notes what the answer's body said.
    pub fn polled<T>(&self, poll: &Poll<T>) {
        self.pulse.polled.set(Some(if poll.is_ready() { Polled::Ready } else { Polled::Waits }));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.pulse.under_way.set(self.pulse.under_way.get().saturating_sub(1));
        self.pulse.in_head.set(self.pulse.ahead.take());
        self.pulse.moved();
        if self.pulse.http2.get() && !self.answered.get() {
            self.pulse.take_back();
        }
        if let Some(waiting) = self.pulse.waiting.take() {
            waiting.wake();
        }
    }
}

/// A client's byte stream below TLS, so that each byte that really moves is seen.
pub struct Watched {
    stream: TcpStream,
    pulse: Rc<Pulse>,
}

impl Watched {
    /// Notes in `pulse` what moves.
    pub fn new(stream: TcpStream, pulse: Rc<Pulse>) -> Self {
        Watched { stream, pulse }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.pulse.reset.get() {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.pulse.read_some();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.pulse.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.pulse.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Ends what is sent and, after a request with a body or what was none, waits until the client has ended too: closed while a body is
    /// on its way the connection would be reset, and the client might lose the answer that tells it to stop (RFC 9112,
    /// section 9.6).
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.pulse.lingering.get() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            let silent = self.pulse.bodiless.get() || self.pulse.http2.get() || !self.pulse.has_begun();
            if silent && !self.pulse.misread.get() {
                return Poll::Ready(Ok(()));
            }
            self.pulse.lingering.set(true);
        }
        let mut waste = [MaybeUninit::uninit(); WASTE_BYTES];
        loop {
            let mut buffer = ReadBuf::uninit(&mut waste);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// How much is thrown away at once.
const WASTE_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn open(http2: bool) -> Rc<Pulse> {
        let pulse = Rc::<Pulse>::default();
        pulse.open(http2, 2, false, 2);
        pulse
    }

    #[test]
    fn a_head_lasts_from_its_first_byte_to_its_request() {
        let pulse = open(false);
        assert_eq!(pulse.phase(), Phase::Silent);
        pulse.read_some();
        assert_eq!(pulse.phase(), Phase::Head);
        let request = pulse.begin(true);
        assert_eq!(pulse.phase(), Phase::Busy);
        drop(request);
        assert_eq!(pulse.phase(), Phase::Idle);
        let request = pulse.begin(true);
        pulse.read_some();
        assert_eq!(pulse.phase(), Phase::Busy, "a head that comes early is not waited for");
        drop(request);
        assert_eq!(pulse.phase(), Phase::Head);
    }

    #[test]
    fn an_answer_before_the_end_of_the_request_is_the_last_one() {
        let pulse = Rc::<Pulse>::default();
        pulse.open(false, 10, false, 2);
        let request = pulse.begin(false);
        pulse.in_body(true);
        assert!(request.is_last());
        pulse.in_body(false);
        assert!(!request.is_last());
    }

    #[test]
    fn a_body_is_no_head_and_frames_are_neither() {
        let pulse = open(false);
        let request = pulse.begin(false);
        pulse.read_some();
        drop(request);
        assert_eq!(pulse.phase(), Phase::Idle);
        let pulse = open(true);
        pulse.read_some();
        assert_eq!(pulse.phase(), Phase::Idle);
    }

    #[test]
    fn what_the_client_does_not_take_comes_before_all_else() {
        let pulse = open(false);
        let request = pulse.begin(true);
        pulse.wrote(&Poll::Pending);
        drop(request);
        assert_eq!(pulse.phase(), Phase::Stuck);
        let before = pulse.moves();
        pulse.wrote(&Poll::Ready(Ok(1)));
        pulse.wrote(&Poll::Pending);
        assert_eq!(pulse.phase(), Phase::Stuck);
        assert_ne!(pulse.moves(), before, "a byte that was taken begins the time anew");
    }

    #[test]
    fn a_client_that_takes_back_half_of_what_it_asks_is_stopped_and_one_that_seldom_does_is_not() {
        let pulse = Rc::<Pulse>::default();
        pulse.open(true, u32::MAX, false, 3);
        for number in 0..30 {
            let request = pulse.begin(true);
            if number % 10 != 0 {
                request.answered();
            }
        }
        assert_eq!(pulse.abuse(), None);
        assert!(pulse.begin(true).is_doubtful());
        for _ in 0..11 {
            drop(pulse.begin(true));
            assert_eq!(pulse.abuse(), None);
        }
        let taken_back = (0..100).find(|_| {
            drop(pulse.begin(true));
            pulse.abuse().is_some()
        });
        assert!(taken_back.is_some());
    }

    #[test]
    fn the_last_allowed_request_retires_the_connection() {
        for http2 in [false, true] {
            let pulse = open(http2);
            assert!(!pulse.begin(true).is_last());
            assert!(!pulse.asks_goaway());
            assert_eq!(pulse.begin(true).is_last(), !http2);
            assert_eq!(pulse.asks_goaway(), http2);
        }
    }
}
