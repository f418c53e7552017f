//! How long a client's connection may do what it does: every deadline of a connection under one timer.
//!
//! The deadline of a phase is worked out when the connection has nothing else to do, and the `alarm` is told of it.
//!
//! `conn` asks it whenever a connection waits, and carries out what it says.

use super::admission::Cut;
use super::alarm::Alarm;
use super::pulse::{Phase, Polled, Pulse};
use crate::snapshot::Limits;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a client may go on sending a body that nobody wants, after it was told so.
const LINGER: Duration = Duration::from_secs(2);

/// Watches over one connection.
pub struct Vigil {
    pulse: Rc<Pulse>,
    spans: Spans,
    phase: Phase,
    moves: u32,
    since: Instant,
    retire_at: Option<Instant>,
    /// Whether the other side was told that the connection ends.
    told: bool,
    alarm: Alarm,
}

/// How long each phase may last.
struct Spans {
    silent: Duration,
    idle: Duration,
    head: Duration,
    stuck: Duration,
}

/// What is to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Wait,
    /// It is to end politely.
    Finish,
    /// It is to end at once; the client exceeded a limit, unless it merely did not end when it was told.
    Cut(Option<Cut>),
}

impl Vigil {
    /// For a connection that begins now. It is asked to close at `age`, if there is one.
    pub fn new(pulse: Rc<Pulse>, http2: bool, limits: &Limits, age: Option<Duration>) -> Self {
        let now = Instant::now();
        let spans = Spans {
            silent: limits.first_byte_timeout,
            idle: if http2 { limits.h2_idle } else { limits.keep_alive_idle },
            head: limits.header_timeout,
            stuck: limits.write_stall,
        };
        Vigil {
            phase: pulse.phase(),
            moves: pulse.moves(),
            pulse,
            spans,
            since: now,
            retire_at: age.and_then(|age| now.checked_add(age)),
            told: false,
            alarm: Alarm::default(),
        }
    }

    /// The other side was told that the connection ends: from now on it is not left idle for long.
    pub fn tell(&mut self) {
        self.told = true;
        self.since = Instant::now();
    }

    /// Whether it was.
    pub fn is_told(&self) -> bool {
        self.told
    }

    /// What is to be done with a connection that waits; wakes the task when that will be something else.
    pub fn look(&mut self, cx: &mut Context<'_>) -> Verdict {
        let (phase, moves) = (self.pulse.phase(), self.pulse.moves());
        if phase != self.phase || moves != self.moves {
            (self.phase, self.moves) = (phase, moves);
            if phase != Phase::Busy {
                self.since = Instant::now();
            }
        }
        loop {
            let Some(deadline) = self.deadline() else { return Verdict::Wait };
            if !self.alarm.has_passed(deadline, cx) {
                return Verdict::Wait;
            }
            if let Some(verdict) = self.due() {
                return verdict;
            }
        }
    }

    /// The next moment at which there is something to do.
    fn deadline(&self) -> Option<Instant> {
        let phase = self.span().and_then(|span| self.since.checked_add(span));
        match (phase, self.retire_at) {
            (Some(phase), Some(retire)) => Some(phase.min(retire)),
            (phase, retire) => phase.or(retire),
        }
    }

    fn span(&self) -> Option<Duration> {
        match self.phase {
            Phase::Busy => None,
            Phase::Silent => Some(self.spans.silent),
            Phase::Idle if self.told => Some(self.spans.silent.min(self.spans.idle)),
            Phase::Idle => Some(self.spans.idle),
            Phase::Head => Some(self.spans.head),
            Phase::Stuck => Some(self.spans.stuck),
            Phase::Lingering => Some(LINGER),
        }
    }

    /// What there is to do at a deadline; nothing if only its age has come.
    fn due(&mut self) -> Option<Verdict> {
        let now = Instant::now();
        if self.retire_at.is_some_and(|at| at <= now) {
            self.retire_at = None;
            self.pulse.retire();
            return (self.pulse.asks_goaway() && !self.told).then_some(Verdict::Finish);
        }
        match self.phase {
            Phase::Busy => None,
            Phase::Silent => Some(Verdict::Cut(Some(Cut::FirstByte))),
            Phase::Head => Some(Verdict::Cut(Some(Cut::Header))),
            Phase::Stuck => Some(Verdict::Cut(Some(Cut::WriteStall))),
            Phase::Idle if self.told => Some(Verdict::Cut(None)),
            Phase::Lingering => Some(Verdict::Cut(None)),
            Phase::Idle => Some(Verdict::Finish),
        }
    }
}

/// One HTTP/2 stream: its client's windows may be closed while the connection is alive, which shows nowhere else.
pub struct StreamVigil {
    pulse: Rc<Pulse>,
    limit: Duration,
    /// Whether its answer has begun.
    answering: bool,
    /// Whether the client is waited for.
    waiting: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl StreamVigil {
    /// For a stream that begins now.
    pub fn new(pulse: Rc<Pulse>, limit: Duration) -> Self {
        StreamVigil { pulse, limit, answering: false, waiting: false, timer: None }
    }

    /// Before the stream is polled.
    pub fn before(&self) {
        self.pulse.take_polled();
    }

    /// After the stream was polled and waits: ready if the client has taken nothing of its answer for too long.
    pub fn after(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let polled = self.pulse.take_polled();
        self.answering |= polled.is_some();
        if !self.answering || polled == Some(Polled::Waits) {
            self.waiting = false;
            return Poll::Pending;
        }
        let late = self.waiting && polled.is_none() && self.timer.as_ref().is_some_and(|timer| timer.is_elapsed());
        let Some(until) = Instant::now().checked_add(self.limit).filter(|_| !late) else {
            return if late { Poll::Ready(()) } else { Poll::Pending };
        };
        // Whatever else wakes a stream that waits for room is room.
        self.waiting = true;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        timer.as_mut().reset(until);
        timer.as_mut().poll(cx)
    }
}
