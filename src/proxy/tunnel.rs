//! A WebSocket between a client and its upstream, from the upstream's 101 to the end of both connections.
//!
//! Bytes pass as they are, both ways at once and with back-pressure; nothing of them is kept while nobody sends. Frames
//! are only followed, so that a tunnel that must end can say so with a Close frame between two of them. It runs in the task
//! of the client's connection, so a draining worker waits for it like for any connection. `conn` runs it.
//!
//! How it counts: the 101 is the answer, and the request stays in flight to the tunnel's end. An end by either side is
//! complete, also one without a Close frame. An upstream that resets, or ends in the middle of a frame, before anybody has
//! closed fails as one that cuts a body short does. A client that vanishes is nobody's failure.

use super::ending::Kind;
use super::h1::Switched;
use super::lasting::{Asked, Stream};
use super::link::Link;
use super::observe::Observation;
use super::websocket::{CloseCode, Frames, close_frame};
use crate::rollout::outcome::{End, ErrorKind};
use bytes::{Buf, Bytes, BytesMut};
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// Read at a time: what a TLS record holds at most.
const READ_BYTES: usize = 16 * 1024;
/// Silence after which a tunnel is over whose one side has ended already.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(30);
/// For the other side's Close frame where weir closes for silence, and for the last bytes of TLS.
const FAREWELL: Duration = Duration::from_secs(2);
/// What the Close frame gives as its reason.
const REASON: &str = "closed by the proxy, connect again";

/// A tunnel that begins when the client has its 101.
pub struct Tunnel {
    upstream: Box<Switched>,
    observation: Box<Observation>,
    idle_limit: Duration,
}

impl Tunnel {
    /// A tunnel to an upstream that has switched; `Duration::MAX` is no limit of silence.
    pub fn new(upstream: Box<Switched>, observation: Box<Observation>, idle_limit: Duration) -> Tunnel {
        Tunnel { upstream, observation, idle_limit }
    }

    /// Carries bytes until both sides have ended; `early` is what the client had sent already.
    pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut self, client: S, early: [Bytes; 2]) {
        let Switched { mut link, lease } = *self.upstream;
        let (mut down, mut up) = (Lane::default(), Lane::default());
        down.take(&std::mem::take(&mut link.inbox));
        up.waiting.extend_from_slice(link.outbox.waiting());
        early.iter().for_each(|early| up.take(early));
        let stream = self.observation.lasting(Kind::Tunnel);
        let random = self.observation.worker().random().to_le_bytes();
        let [first, second, third, fourth, ..] = random;
        let mut pump = Pump {
            client,
            link,
            down,
            up,
            stream,
            mask: [first, second, third, fourth],
            idle_limit: self.idle_limit,
            idle: None,
            bored: false,
            judged: false,
            failed: false,
        };
        let end = poll_fn(|cx| pump.poll(cx)).await;
        if end == End::Complete {
            pump.hang_up().await;
        }
        if pump.stream.asked() != Asked::No && !pump.stream.is_finishing() {
            pump.stream.obeyed();
            self.observation.remark("stream_closed");
        }
        self.observation.sent(pump.down.passed);
        self.observation.uploaded(pump.up.passed);
        self.observation.close(end);
        // The claim on the endpoint is held to the very end.
        drop(lease);
    }
}

/// Both connections and what is on its way between them.
struct Pump<S> {
    client: S,
    link: Box<Link>,
    /// From the upstream to the client.
    down: Lane,
    /// From the client to the upstream.
    up: Lane,
    stream: Stream,
    mask: [u8; 4],
    idle_limit: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    /// Nobody has said anything for too long.
    bored: bool,
    /// The upstream's end has been looked at.
    judged: bool,
    /// The upstream broke off.
    failed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.stream.wake_by(cx.waker());
        if self.stream.asked() == Asked::AtOnce {
            return Poll::Ready(self.end());
        }
        if self.is_asked() {
            self.say_goodbye();
        }
        let before = (self.down.moved, self.up.moved);
        if let Err(Gone) = self.poll_lanes(cx) {
            return Poll::Ready(End::ClientLeft);
        }
        if self.is_over() {
            return Poll::Ready(self.end());
        }
        self.poll_idle(cx, before != (self.down.moved, self.up.moved))
    }

    fn poll_lanes(&mut self, cx: &mut Context<'_>) -> Result<(), Gone> {
        match self.down.poll(cx, &mut self.link.io, &mut self.client) {
            Ok(()) => {}
            Err(Broken::Sink) => return Err(Gone),
            Err(Broken::Source) => {
                self.failed |= !self.is_excused();
                self.judged = true;
                self.down.state = State::Ended;
                self.up.go_deaf();
                // What came before the break still goes out.
                let _ = self.down.poll(cx, &mut self.link.io, &mut self.client);
            }
        }
        if self.down.source_ended && !self.judged {
            self.failed |= !self.down.frames.between() && !self.is_excused();
            self.judged = true;
        }
        match self.up.poll(cx, &mut self.client, &mut self.link.io) {
            Ok(()) => Ok(()),
            Err(Broken::Source) => Err(Gone),
            Err(Broken::Sink) => {
                self.failed |= !self.down.source_ended && !self.is_excused();
                self.up.go_deaf();
                self.up.poll(cx, &mut self.client, &mut self.link.io).map_err(|_| Gone)
            }
        }
    }

    /// Whether weir ends the tunnel.
    fn is_asked(&self) -> bool {
        self.bored || self.stream.asked() != Asked::No
    }

    /// Whether somebody but the upstream has begun to end it, or the upstream did so in order.
    fn is_excused(&self) -> bool {
        self.up.source_ended || self.up.frames.closed() || self.down.frames.closed() || self.is_asked()
    }

    fn say_goodbye(&mut self) {
        let polite = self.bored || self.stream.is_finishing();
        let code = if polite { CloseCode::GoingAway } else { CloseCode::ServiceRestart };
        self.down.say(|| close_frame(code, REASON, None));
        let mask = self.mask;
        self.up.say(|| close_frame(CloseCode::GoingAway, "", Some(mask)));
    }

    fn is_over(&self) -> bool {
        if self.is_asked() && self.up.has_closed() {
            // The client has answered the Close frame: nothing more is owed to anybody.
            return self.down.is_empty() && self.up.is_empty();
        }
        self.down.state == State::Closed && self.up.state == State::Closed
    }

    fn end(&self) -> End {
        if self.failed { End::Failed(ErrorKind::Truncated) } else { End::Complete }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>, moved: bool) -> Poll<End> {
        let half_closed = self.down.source_ended || self.up.source_ended;
        let limit = if self.bored {
            FAREWELL
        } else if half_closed {
            HALF_CLOSED_IDLE.min(self.idle_limit)
        } else {
            self.idle_limit
        };
        if limit == Duration::MAX {
            return Poll::Pending;
        }
        let moved = moved && !self.bored;
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(limit)));
        if moved {
            idle.as_mut().reset(Instant::now().checked_add(limit).unwrap_or_else(Instant::now));
        }
        ready!(idle.as_mut().poll(cx));
        if self.bored || half_closed {
            return Poll::Ready(self.end());
        }
        self.bored = true;
        self.idle = None;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Says in the way of TLS and TCP that nothing more comes.
    async fn hang_up(&mut self) {
        let both = async { tokio::join!(self.client.shutdown(), self.link.io.shutdown()) };
        let _ = timeout(FAREWELL, both).await;
    }
}

/// The client is gone.
struct Gone;

/// Which side of a lane failed.
enum Broken {
    Source,
    Sink,
}

/// One direction.
#[derive(Default)]
struct Lane {
    /// Read and not yet written.
    waiting: BytesMut,
    frames: Frames,
    state: State,
    /// Bytes that were taken to be passed on.
    passed: u64,
    /// The last end of a frame among them, as a count of bytes from the beginning.
    boundary: u64,
    /// The Close frame that is put in at the next end of a frame.
    farewell: Option<Vec<u8>>,
    unflushed: bool,
    source_ended: bool,
    /// Goes up with every read and write.
    moved: u64,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Bytes pass.
    #[default]
    Open,
    /// What comes is read, so that its end is seen, and passed on no more.
    Deaf,
    /// The source has ended; the sink is told when everything is written.
    Ended,
    /// The sink has been told, or there is nobody to tell.
    Closed,
}

impl Lane {
    /// Moves what can be moved. It reads only when everything is written: that is the back-pressure.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Result<(), Broken>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            match self.poll_write(cx, to) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(broken)) => return Err(broken),
                Poll::Pending => return Ok(()),
            }
            match self.state {
                State::Closed => return Ok(()),
                State::Ended => {
                    if Pin::new(&mut *to).poll_shutdown(cx).is_pending() {
                        return Ok(());
                    }
                    self.state = State::Closed;
                }
                State::Open | State::Deaf => {
                    if self.poll_read(cx, from)?.is_pending() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<Result<(), Broken>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting)) {
                Ok(count @ 1..) => {
                    self.waiting.advance(count);
                    self.moved = self.moved.wrapping_add(1);
                    self.unflushed = true;
                }
                Ok(0) | Err(_) => return Poll::Ready(Err(Broken::Sink)),
            }
        }
        if self.unflushed {
            if ready!(Pin::new(&mut *to).poll_flush(cx)).is_err() {
                return Poll::Ready(Err(Broken::Sink));
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_read<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Result<Poll<()>, Broken> {
        let mut scratch = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => {
                // Tunnels are silent most of their time; a silent one holds no memory for bytes.
                self.waiting = BytesMut::new();
                return Ok(Poll::Pending);
            }
            Poll::Ready(Err(_)) => {
                self.source_ended = true;
                return Err(Broken::Source);
            }
            Poll::Ready(Ok(())) => {}
        }
        self.moved = self.moved.wrapping_add(1);
        if buffer.filled().is_empty() {
            self.source_ended = true;
            self.state = if self.state == State::Deaf { State::Closed } else { State::Ended };
        }
        self.take(buffer.filled());
        Ok(Poll::Ready(()))
    }

    /// Takes what was read.
    fn take(&mut self, data: &[u8]) {
        let end = self.frames.pass(data);
        if self.state == State::Deaf {
            return;
        }
        if let Some(end) = end {
            self.boundary = self.passed.saturating_add(end as u64);
        }
        self.passed = self.passed.saturating_add(data.len() as u64);
        self.waiting.extend_from_slice(data);
        self.put_in();
    }

    /// Ends the lane with this frame, between two of its own; not at all if it has had its Close frame.
    fn say(&mut self, frame: impl FnOnce() -> Vec<u8>) {
        if self.state == State::Open && self.farewell.is_none() && !self.frames.closed() {
            self.farewell = Some(frame());
            self.put_in();
        }
    }

    /// Puts the Close frame where a frame ends, if that is not written yet; what begins behind it is dropped.
    fn put_in(&mut self) {
        let written = self.passed.saturating_sub(self.waiting.len() as u64);
        let Some(keep) = self.boundary.checked_sub(written) else { return };
        let Some(frame) = self.farewell.take() else { return };
        self.waiting.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        self.passed = self.boundary;
        self.waiting.extend_from_slice(&frame);
        self.state = State::Deaf;
    }

    /// Passes nothing on any more: nobody takes it.
    fn go_deaf(&mut self) {
        self.waiting.clear();
        self.unflushed = false;
        self.state = if self.source_ended { State::Closed } else { State::Deaf };
    }

    /// Whether the source has closed, by frame or by end.
    fn has_closed(&self) -> bool {
        self.source_ended || (self.frames.closed() && self.frames.between())
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && !self.unflushed
    }
}
