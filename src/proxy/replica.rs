//! A copy on its way: sent once over connections of its own, its answer read, counted and thrown away.
//!
//! It runs in a courier's task beside the requests of its worker and ends with its time, with its answer, or when the worker
//! drains. Whatever the canary does to it (no connection, no answer, a byte a second, garbage, an endless body) ends there.

use super::asked::{Asked, Role};
use super::attempt::Way;
use super::backoff::Backoff;
use super::compare::{Capture, Meeting, Whose};
use super::conn::Client;
use super::courier::Errand;
use super::ending;
use super::fault::Fault;
use super::forward::attempt;
use super::headers::Ids;
use super::local::Worker;
use super::present::Present;
use super::replay::Outgoing;
use super::request::Decisions;
use super::ticket::{Hold, Skip, Ticket};
use super::{body, forward};
use crate::clock::{Clock, Time};
use crate::rollout::Arm;
use crate::rollout::diff::HEADERS;
use crate::rollout::diff::samples::Kind;
use crate::rollout::outcome::{CodeClass, End, ErrorKind, Outcome};
use crate::snapshot::{Patience, Shadow, Upstream};
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use std::cell::{Cell, OnceCell};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A request that is copied: its copies share it.
pub struct Original {
    /// Who sent it.
    pub client: Rc<Client>,
    /// Its head.
    pub parts: Parts,
    /// Which fields it has, of those that are looked for.
    pub present: Present,
    /// Its ids: copies have the same, so that all can be found by one.
    pub ids: Ids,
    /// The authority it asked for.
    pub host: Box<str>,
    /// Whether its peer's forwarding headers are believed.
    pub trusted: bool,
    /// The route, as an index.
    pub route: usize,
    /// What was decided of it.
    pub decisions: Decisions,
}

/// A copy of a request that is to be sent.
pub struct Copy {
    /// The request.
    pub request: Rc<Original>,
    /// What it is counted by.
    pub ticket: Ticket,
    /// The place on the route of the rollout that mirrors.
    pub place: usize,
    /// Where it goes.
    pub upstream: usize,
    /// Where its answer meets the client's, if they are compared.
    pub meeting: Option<Rc<Meeting>>,
}

/// Turns for those copies of a worker that read long answers, in the order in which they asked. What a worker reads of such
/// answers is at most twice as much as clients got meanwhile, so that copies of a service with long answers keep up, also
/// where stable is asked twice; and less than 2 MiB a second besides, which nobody notices, whatever the canary sends.
#[derive(Default)]
pub struct LongCopies {
    turn: tokio::sync::Mutex<()>,
    /// Bytes that may be read at once.
    credit: Cell<u64>,
}

/// Whether clients got as much as a copy is about to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// They did.
    Earned,
    /// They did not: it is read all the same.
    Unearned,
}

impl LongCopies {
    /// A client got so many bytes of an answer.
    pub fn earn(&self, bytes: u64) {
        self.add(bytes.saturating_mul(2));
    }

    fn add(&self, bytes: u64) {
        self.credit.set(self.credit.get().saturating_add(bytes).min(CREDIT_BYTES_MAX));
    }

    /// Waits until so many bytes may be read; others run in between in any case.
    async fn turn(&self, bytes: u64) -> Turn {
        let _turn = self.turn.lock().await;
        let bytes = bytes.min(CREDIT_BYTES_MAX);
        let mut turn = Turn::Earned;
        while !self.pay(bytes) {
            tokio::time::sleep(TURN).await;
            if self.pay(bytes) {
                return turn;
            }
            turn = Turn::Unearned;
            self.add(PIECE_BYTES as u64);
        }
        tokio::task::yield_now().await;
        turn
    }

    fn pay(&self, bytes: u64) -> bool {
        let left = self.credit.get().checked_sub(bytes);
        left.map(|left| self.credit.set(left)).is_some()
    }
}

/// A body in memory.
pub struct Replica {
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Replica {
    /// A body of these bytes and trailers; not both are missing.
    pub fn new(data: Bytes, trailers: Option<HeaderMap>) -> Replica {
        Replica { data, trailers }
    }

    /// The next frame; none after the end.
    pub fn next(&mut self) -> Option<Frame<Bytes>> {
        if !self.data.is_empty() {
            return Some(Frame::data(std::mem::take(&mut self.data)));
        }
        self.trailers.take().map(Frame::trailers)
    }

    /// Whether it has been handed out.
    pub fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// How long it is; only a body of unknown length may have trailers.
    pub fn size_hint(&self) -> SizeHint {
        match self.trailers {
            None => SizeHint::with_exact(self.data.len() as u64),
            Some(_) => SizeHint::default(),
        }
    }
}

/// What has been seen of a copy's answer.
#[derive(Default)]
struct Seen {
    status: Cell<Option<StatusCode>>,
    grpc_status: Cell<Option<u8>>,
    first_byte: Cell<Option<Time>>,
    /// Whether the body was read to its end.
    whole: Cell<bool>,
    /// Whether weir lets it wait, because other copies have long answers too.
    waits: Cell<bool>,
    /// How copies fare at the endpoint that it went to.
    fares: OnceCell<Rc<Cell<Backoff>>>,
    /// The present moment, if it was asked for since its task was woken: what follows then takes microseconds.
    now: Cell<Option<Time>>,
}

impl Copy {
    /// Gives it to those who send copies.
    pub fn send(self, mut hold: Hold, body: Option<Replica>) {
        let Some(limit) = self.ticket.shadow().map(|shadow| shadow.max_in_flight) else { return };
        if self.ticket.worker.is_draining() {
            return self.ticket.skip(Skip::Drain);
        }
        if !hold.begin(limit) {
            return self.ticket.skip(Skip::InFlight);
        }
        let worker = Rc::clone(&self.ticket.worker);
        worker.couriers.take(&worker, Errand { copy: self, hold, body });
    }

    /// Sends it, and sees to it that its answer ends in time. `alarm` is its courier's.
    pub async fn run(self, hold: Hold, body: Option<Replica>, mut alarm: Pin<&mut Sleep>) {
        let worker = Rc::clone(&self.ticket.worker);
        let Some(shadow) = self.ticket.shadow() else { return };
        let (started, seen) = (worker.clock.now(), Seen::default());
        let begun = worker.clock.instant(started).into();
        let head_timeout = self.upstream().map_or(Duration::ZERO, |upstream| upstream.response_timeout);
        alarm.as_mut().reset(after(begun, shadow.timeout.min(head_timeout)));
        let ended = {
            let mut exchange = pin!(self.exchange(shadow, body, started, &seen));
            poll_fn(|cx| {
                if worker.is_draining() {
                    return Poll::Ready(Err(Skip::Drain));
                }
                seen.now.set(None);
                if let Poll::Ready(ended) = exchange.as_mut().poll(cx) {
                    return Poll::Ready(ended);
                }
                ready!(alarm.as_mut().poll(cx));
                // What an upstream has for the head of an answer is over; the rest has what is left of the copy's time.
                let end = after(begun, shadow.timeout);
                if seen.first_byte.get().is_some() && alarm.deadline() < end {
                    alarm.as_mut().reset(end);
                    ready!(alarm.as_mut().poll(cx));
                }
                // What weir itself did not read in time is nobody's failure.
                Poll::Ready(Ok(if seen.waits.get() { End::Complete } else { End::Failed(ErrorKind::Timeout) }))
            })
            .await
        };
        // Whoever reads the count finds the place free.
        drop(hold);
        let now = seen.now(&worker.clock);
        seen.tell_endpoint(&ended, now);
        match ended {
            Ok(end) => {
                self.count(shadow, (started, now), &seen, end);
                self.ticket.settle();
            }
            Err(skip) => self.ticket.skip(skip),
        }
    }

    async fn exchange(&self, shadow: &Shadow, body: Option<Replica>, started: Time, seen: &Seen) -> Result<End, Skip> {
        let Ticket { worker, adopted, kind, .. } = &self.ticket;
        let snapshot = &*adopted.snapshot;
        let (Some(route), Some(upstream), Some(pool)) =
            (snapshot.routes.get(self.request.route), self.upstream(), adopted.copy_pools.get(self.upstream))
        else {
            return Err(Skip::NoEndpoint);
        };
        let way = Way {
            upstream,
            pool,
            limits: &snapshot.limits,
            body_bytes_max: route.body_bytes_max,
            // The courier's alarm does for all of it.
            answer_timeout: None,
            patience: Patience::ENDLESS,
            only: Some(if self.meeting.is_some() { is_compared } else { is_heard }),
            retries: None,
        };
        let Original { client, parts, present, ids, host, trusted, decisions, .. } = &*self.request;
        let asked = Asked { parts, present: *present, client, ids, host, trusted: *trusted, websocket: false };
        let arm = if *kind == Kind::Canary { Arm::Canary } else { Arm::Stable };
        let role = Role::Copy { place: self.place, arm, keep: &shadow.keep_headers };
        let rewrite = asked.rewrite(snapshot, route, decisions, role);
        let lease = pool.pick(None).ok_or(Skip::NoEndpoint)?;
        if !lease.permits_copy() {
            return Err(Skip::Backoff);
        }
        let _ = seen.fares.set(Rc::clone(lease.backoff()));
        let answer =
            match attempt(&way, lease, &rewrite, body.map(|copy| Outgoing::Replica(Box::new(copy))), false).await {
                Ok(answer) => answer,
                Err(failed) if is_stale(failed.unsent.is_some(), failed.stale, started) => return Err(Skip::Stale),
                Err(failed) => {
                    return match failed.fault {
                        Fault::Failed(kind) => Ok(End::Failed(kind)),
                        Fault::NoEndpoint => Err(Skip::NoEndpoint),
                        // Nobody sends a body here, so the others cannot be.
                        Fault::Busy | Fault::Exhausted | Fault::ClientLeft | Fault::ClientSlow | Fault::BodyTooLong => {
                            Err(Skip::Connections)
                        }
                    };
                }
            };
        seen.first_byte.set(Some(seen.now(&worker.clock)));
        seen.status.set(Some(answer.status));
        seen.grpc_status.set(body::grpc_status(&answer.headers));
        let capture = self
            .meeting
            .as_ref()
            .and_then(|meeting| meeting.gather(Whose::Copy(*kind), answer.status, &answer.headers));
        Ok(read(worker, answer, seen, capture).await)
    }

    /// Counts what came of it, as the request of an arm would be.
    fn count(&self, shadow: &Shadow, (started, now): (Time, Time), seen: &Seen, end: End) {
        let Ticket { worker, adopted, rollout, kind, .. } = &self.ticket;
        if *kind == Kind::Noise {
            return;
        }
        let (Some(series), Some(counts)) = (shadow.series.of(worker.index), shadow.counts.of(worker.index)) else {
            return;
        };
        let status = seen.status.get().map(|status| status.as_u16());
        let class = status.map_or(CodeClass::None, CodeClass::of);
        let rules = adopted.snapshot.rollouts.get(*rollout).map(|rollout| &rollout.errors);
        let outcome = Outcome { status, grpc_status: seen.grpc_status.get(), end };
        let kind = rules.and_then(|rules| rules.failure(&outcome));
        let cell = match kind {
            Some(kind) => counts.failed.get(kind as usize),
            None => counts.answered.get(class as usize),
        };
        cell.into_iter().for_each(|cell| cell.add(1));
        series.started.add(1);
        match seen.first_byte.get() {
            Some(first_byte) => {
                let us = first_byte.since(started).as_micros() as u64;
                series.answered.add(1);
                series.first_byte.record(us);
                series.first_byte_us.add(us);
            }
            None => series.unanswered.add(1),
        }
        if seen.whole.get() {
            let us = now.since(started).as_micros() as u64;
            series.total.record(us);
            series.total_us.add(us);
        }
        for cell in [series.codes.get(class as usize), kind.and_then(|kind| series.errors.get(kind as usize))] {
            cell.into_iter().for_each(|cell| cell.add(1));
        }
        series.ended.add(1);
    }

    fn upstream(&self) -> Option<&Upstream> {
        self.ticket.adopted.snapshot.upstreams.get(self.upstream)
    }
}

impl Seen {
    fn now(&self, clock: &Clock) -> Time {
        let now = self.now.get().unwrap_or_else(|| clock.now());
        self.now.set(Some(now));
        now
    }

    /// What became of it, for those that come after it.
    fn tell_endpoint(&self, ended: &Result<End, Skip>, now: Time) {
        let Some(fares) = self.fares.get() else { return };
        let mut backoff = fares.get();
        match ended {
            Ok(End::Failed(_)) => backoff.failed(now),
            Ok(End::Complete) => backoff.succeeded(),
            Ok(End::ClientLeft) | Err(_) => return,
        }
        fares.set(backoff);
    }
}

/// So much later, or as late as timers can count.
fn after(moment: Instant, span: Duration) -> Instant {
    moment.checked_add(span).unwrap_or(moment)
}

/// Whether a field of an answer is looked at that is to be compared.
fn is_compared(name: &str, _: &[u8]) -> bool {
    let is = |known: &str| known.len() == name.len() && known.eq_ignore_ascii_case(name);
    HEADERS.iter().any(|known| is(known)) || is(CONTENT_ENCODING.as_str())
}

/// Whether a field of an answer is looked at that is not: what says that it failed, or has no end.
fn is_heard(name: &str, value: &[u8]) -> bool {
    match name.len() {
        11 => name.eq_ignore_ascii_case("grpc-status"),
        12 => name.eq_ignore_ascii_case("content-type") && ending::Kind::of_type(value) == ending::Kind::Events,
        _ => false,
    }
}

/// Whether a copy met a connection that the upstream was just closing, as it may do with those that are idle. One that was
/// closed under a copy although it had hardly been idle was closed because of that copy, for all that can be known: a
/// service that dies of certain requests must not look like one that closes its connections.
fn is_stale(unsent: bool, idle_since: Option<Time>, started: Time) -> bool {
    idle_since.is_some_and(|idle_since| unsent || started.since(idle_since) >= IDLE_MIN)
}

/// Reads an answer's body and throws it away: to its end, so that its connection can be used again and a short one is seen,
/// unless it is longer than anybody needs to know, or events that have no end. What is beyond the size of most answers is
/// read piece by piece, in turns with the other copies of the worker, so that no upstream makes it read all the time; and
/// where clients get no such answers, so that there is nothing to learn from its end, no further than it is compared.
async fn read(worker: &Worker, mut answer: forward::Answer, seen: &Seen, mut capture: Option<Capture>) -> End {
    if ending::Kind::of(&answer.headers) == ending::Kind::Events {
        return End::Complete;
    }
    let compared = capture.as_ref().map_or(0, Capture::most);
    let mut most = compared.max(ANSWER_BYTES_MAX);
    let (mut bytes, mut paid, mut next_turn, mut unearned) = (0_usize, AT_ONCE_BYTES, AT_ONCE_BYTES, 0_usize);
    while let Some(frame) = poll_fn(|cx| answer.flow.poll_frame(cx)).await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(fault) => return fault.end(),
        };
        bytes = bytes.saturating_add(frame.data_ref().map_or(0, Bytes::len));
        if let Some(capture) = &mut capture {
            capture.take(&frame);
        }
        if let Some(status) = frame.trailers_ref().and_then(body::grpc_status) {
            seen.grpc_status.set(Some(status));
        }
        if bytes > next_turn && bytes <= most {
            let unpaid = bytes.saturating_sub(paid);
            (paid, next_turn) = (bytes, bytes.saturating_add(PIECE_BYTES));
            seen.waits.set(true);
            if worker.long_copies.turn(unpaid as u64).await == Turn::Unearned {
                unearned = unearned.saturating_add(unpaid);
            }
            seen.waits.set(false);
            if unearned >= UNEARNED_BYTES_MAX {
                most = compared;
            }
        }
        if bytes > most {
            capture.into_iter().for_each(Capture::finish);
            return End::Complete;
        }
    }
    seen.whole.set(true);
    capture.into_iter().for_each(Capture::finish);
    End::Complete
}

/// Bytes of an answer that are read; a longer one has said enough, and users' requests wait for the same thread.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of an answer that are read although clients got less meanwhile, if it is not compared.
const UNEARNED_BYTES_MAX: usize = 192 * 1024;
/// Bytes of an answer that are read as they come: as much as one read of a connection takes.
const AT_ONCE_BYTES: usize = 64 * 1024;
/// Bytes of a longer one that are read in a turn.
const PIECE_BYTES: usize = 32 * 1024;
/// Bytes that are earned ahead, as much as a long answer that clients got before its copy; a frame that has more is paid with
/// as much.
const CREDIT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How long it takes to earn a piece while clients get nothing.
const TURN: Duration = Duration::from_millis(20);
/// How long a connection was idle whose upstream may have closed it for that: the shortest limits in use are some seconds.
const IDLE_MIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    #[test]
    fn what_clients_got_may_be_read_without_a_pause_and_no_more() {
        let turns = LongCopies::default();
        turns.earn(100);
        let mut context = Context::from_waker(Waker::noop());
        for _canary_and_stable_again in 0..2 {
            // Others run in between, then it goes on.
            let mut paid = std::pin::pin!(turns.turn(100));
            while paid.as_mut().poll(&mut context) != Poll::Ready(Turn::Earned) {}
        }
        assert_eq!(turns.credit.get(), 0);
        turns.earn(u64::MAX);
        assert_eq!(turns.credit.get(), CREDIT_BYTES_MAX, "a long time without copies is no licence");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            assert_eq!(turns.turn(CREDIT_BYTES_MAX + 3 * PIECE_BYTES as u64).await, Turn::Earned);
            assert_eq!(turns.credit.get(), 0, "a frame of any length is paid with what there can be");
            assert_eq!(turns.turn(PIECE_BYTES as u64 + 1).await, Turn::Unearned);
            assert_eq!(turns.credit.get(), PIECE_BYTES as u64 - 1, "nobody earned anything, so it took two pauses");
        });
    }

    #[test]
    fn a_connection_closed_under_a_copy_is_stale_only_if_it_had_been_idle_or_nothing_was_sent() {
        let (started, at) = (Time::from_micros(9_000_000), |seconds: u64| Some(Time::from_micros(seconds * 1_000_000)));
        assert!(is_stale(false, at(8), started) && is_stale(false, at(1), started));
        assert!(!is_stale(false, Some(Time::from_micros(8_000_001)), started), "closed because of what it was sent");
        assert!(!is_stale(false, at(10), started), "given back while this one waited");
        assert!(is_stale(true, at(9), started));
        assert!(!is_stale(true, None, started), "one that was no pooled connection cannot be stale");
    }
}
