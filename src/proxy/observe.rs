//! Step 8 of the request: what is counted of it, closed exactly once however it ends.
//!
//! An observation that is dropped unclosed belongs to a client that left.

use super::access;
use super::admission::Admitted;
use super::ending::Kind;
use super::lasting::{Canary, Stream};
use super::local::{Adopted, Worker};
use super::watch::{Ended, Watches};
use super::{signals, trace};
use crate::clock::Time;
use crate::latch::UnitMark;
use crate::rollout::Arm;
use crate::rollout::assign::{Decision, Reason};
use crate::rollout::outcome::{CodeClass, End, Outcome};
use crate::snapshot::{ROLLOUTS_PER_ROUTE_MAX, Route, RouteRollout, Snapshot};
use crate::tally::Series;
use arrayvec::ArrayVec;
use http::{HeaderMap, StatusCode};
use std::rc::Rc;
use std::sync::Arc;

/// What is noted of a request besides what is counted; nothing unless somebody is told.
#[derive(Debug, Default)]
pub struct Notes {
    /// For the access log.
    pub line: Option<Box<access::Line>>,
    /// For a collector of traces.
    pub trace: Option<Box<trace::Notes>>,
}

/// The counting of one request, from its decision to its end.
pub struct Observation {
    worker: Rc<Worker>,
    adopted: Rc<Adopted>,
    route: usize,
    decisions: ArrayVec<Decision, ROLLOUTS_PER_ROUTE_MAX>,
    /// Whether it is a copy that another weir sent: that is counted apart, like a forced request.
    is_copy: bool,
    watches: Watches,
    started: Time,
    first_byte: Option<Time>,
    /// The status of the upstream's answer; none if there was none.
    answered: Option<StatusCode>,
    /// The status the client got.
    status: Option<StatusCode>,
    grpc_status: Option<u8>,
    /// The signals whose headers the answer has.
    signals: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// What went wrong for the client, where its end does not say it.
    word: Option<&'static str>,
    notes: Notes,
    /// Its places among the requests under way, until the end.
    admitted: Option<Admitted>,
    closed: bool,
}

impl Observation {
    /// Begins to count a request that was decided; `mark` is asked for its unit where a breaker must know it.
    pub fn start(
        worker: &Rc<Worker>,
        admitted: Admitted,
        decisions: ArrayVec<Decision, ROLLOUTS_PER_ROUTE_MAX>,
        is_copy: bool,
        started: Time,
        notes: Notes,
        mark: impl Fn(usize) -> UnitMark,
    ) -> Box<Self> {
        let (adopted, route) = (Rc::clone(&admitted.adopted), admitted.route);
        let snapshot = &*adopted.snapshot;
        let watch = |route| Watches::start(snapshot, worker.index, route, &decisions, mark);
        let watches = snapshot.routes.get(route).filter(|_| !is_copy).map(watch).unwrap_or_default();
        let observation = Box::new(Observation {
            worker: Rc::clone(worker),
            adopted,
            route,
            decisions,
            is_copy,
            watches,
            started,
            first_byte: None,
            answered: None,
            status: None,
            grpc_status: None,
            signals: 0,
            bytes_in: 0,
            bytes_out: 0,
            word: None,
            notes,
            admitted: Some(admitted),
            closed: false,
        });
        observation.each_series(|series, _| series.started.add(1));
        observation.count_decisions();
        observation
    }

    /// The upstream's answer has begun.
    pub fn answered(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.first_byte = Some(self.worker.clock.now());
        self.answered = Some(status);
        self.status = Some(status);
        self.grpc_status = super::body::grpc_status(headers);
        if !self.snapshot().signals.is_empty() {
            self.signals = signals::heads(&self.snapshot().signals, headers);
        }
        self.each_series(|series, _| series.answered.add(1));
        let outcome = self.outcome(End::Complete);
        self.watches.answered(&self.adopted.snapshot, self.worker.index, &outcome);
    }

    /// weir answers in the upstream's place; no status if the client is gone.
    pub fn replaced(&mut self, status: Option<StatusCode>, word: &'static str) {
        self.status = status;
        if status.is_some() {
            // The client waited that long for an answer, whoever gave it: a canary that hangs must show in its latency.
            self.first_byte = Some(self.worker.clock.now());
        }
        self.word = Some(word);
    }

    /// Stable answers in the canary's place from here on: the request is counted as what it was on the canary, at once.
    /// What follows is counted nowhere, because no decision led there; the access log alone tells of it.
    pub fn hand_over(&mut self, end: End, failure: &'static str, upstream: Option<Arc<str>>) {
        let notes = std::mem::take(&mut self.notes);
        let admitted = self.admitted.take();
        self.close(end);
        self.admitted = admitted.map(Admitted::off_its_arms);
        self.closed = false;
        self.decisions.clear();
        self.watches = Watches::default();
        self.first_byte = None;
        self.answered = None;
        self.status = None;
        self.grpc_status = None;
        self.signals = 0;
        self.word = None;
        self.notes = notes;
        if let Some(line) = &mut self.notes.line {
            (line.upstream, line.fallback) = (upstream, Some(failure));
        }
    }

    /// The answer ended in another way than by itself.
    pub fn remark(&mut self, word: &'static str) {
        self.word = Some(word);
    }

    /// An upstream is asked; `called` says what came of it.
    pub fn calls(&mut self, upstream: usize) {
        if let Some(trace) = &mut self.notes.trace {
            trace.calls(upstream, self.worker.clock.now());
        }
    }

    /// The upstream has answered with that status, or not for that reason.
    pub fn called(&mut self, answered: Result<StatusCode, &'static str>) {
        if let Some(trace) = &mut self.notes.trace {
            trace.called(answered.map(|status| status.as_u16()), self.worker.clock.now());
        }
    }

    /// The worker that counts.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The rollouts that sent the request to their canaries.
    pub fn canaries(&self) -> impl Iterator<Item = Canary> {
        let rollouts = self.route().map(|route| &route.rollouts[..]).unwrap_or_default();
        rollouts.iter().zip(&self.decisions).filter(|(_, decision)| decision.arm == Arm::Canary).filter_map(
            |(on_route, decision)| {
                let rollout = Arc::clone(&self.snapshot().splits.get(on_route.rollout)?.name);
                Some(Canary { rollout, forced: self.is_copy || decision.reason == Reason::Forced })
            },
        )
    }

    /// Puts the answer on the list of the streams that last.
    pub fn lasting(&self, kind: Kind) -> Stream {
        Stream::begin(&self.worker, kind, self.started, self.canaries().collect())
    }

    /// So many bytes of the answer's body went out.
    pub fn sent(&mut self, bytes: u64) {
        self.bytes_out = self.bytes_out.saturating_add(bytes);
        self.worker.long_copies.earn(bytes);
    }

    /// So many bytes of the request's body went to the upstream, in all.
    pub fn uploaded(&mut self, bytes: u64) {
        self.bytes_in = bytes;
    }

    /// The answer's trailers have arrived; gRPC's status is among them.
    pub fn trailers(&mut self, fields: &HeaderMap) {
        if let Some(status) = super::body::grpc_status(fields) {
            self.grpc_status = Some(status);
            let outcome = self.outcome(End::Complete);
            self.watches.learned(&self.adopted.snapshot, &outcome);
        }
    }

    /// Counts the request as ended in this way.
    pub fn close(&mut self, end: End) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.admitted = None;
        let now = self.worker.clock.now();
        let outcome = self.outcome(end);
        let class = self.status.map_or(CodeClass::None, |status| CodeClass::of(status.as_u16()));
        let total_us = now.since(self.started).as_micros() as u64;
        let first_us = self.first_byte.map(|time| time.since(self.started).as_micros() as u64);
        let ended = Ended { outcome: &outcome, first_us };
        self.watches.ended(&self.adopted.snapshot, self.worker.index, &ended);
        self.each_series(|series, rollout| {
            series.ended.add(1);
            if self.answered.is_none() {
                series.unanswered.add(1);
            }
            if let Some(code) = series.codes.get(class as usize) {
                code.add(1);
            }
            let rules = rollout.and_then(|index| self.snapshot().rollouts.get(index)).map(|rollout| &rollout.errors);
            let kind = rules.and_then(|rules| rules.failure(&outcome));
            if let Some(errors) = kind.and_then(|kind| series.errors.get(kind as usize)) {
                errors.add(1);
            }
            if end == End::ClientLeft {
                series.client_left.add(1);
            }
            series.bytes_in.add(self.bytes_in);
            series.bytes_out.add(self.bytes_out);
            if let Some(us) = first_us {
                series.first_byte.record(us);
                series.first_byte_us.add(us);
            }
            if end == End::Complete {
                series.total.record(total_us);
                series.total_us.add(total_us);
            }
        });
        if !self.snapshot().signals.is_empty() && !self.is_copy {
            self.count_signals();
        }
        self.write_line(end, &outcome, total_us);
        self.tell(end, now);
    }

    /// Counts the request for every signal it matches, on the arm it was decided for.
    fn count_signals(&self) {
        let (heads, status, grpc_status) = (self.signals, self.status, self.grpc_status);
        let ended = signals::Ended { heads, status, grpc_status, route: self.route };
        let Some(route) = self.route() else { return };
        for signal in signals::counted(&self.snapshot().signals, &ended) {
            for (on_route, decision) in route.rollouts.iter().zip(&self.decisions) {
                if matches!(decision.reason, Reason::Forced | Reason::Probe) {
                    continue;
                }
                let rollout = self.snapshot().rollouts.get(on_route.rollout);
                let arms = rollout.and_then(|rollout| rollout.signals.get(signal));
                let cells = arms.and_then(|arms| arms.get(decision.arm.index()));
                if let Some(cell) = cells.and_then(|cells| cells.of(self.worker.index)) {
                    cell.add(1);
                }
            }
        }
    }

    fn outcome(&self, end: End) -> Outcome {
        Outcome { status: self.answered.map(|status| status.as_u16()), grpc_status: self.grpc_status, end }
    }

    fn snapshot(&self) -> &Snapshot {
        &self.adopted.snapshot
    }

    fn route(&self) -> Option<&Route> {
        self.snapshot().routes.get(self.route)
    }

    /// Calls `count` for every series the request belongs to, with its rollout.
    fn each_series(&self, count: impl Fn(&Series, Option<usize>)) {
        let Some(route) = self.route() else { return };
        self.worker.stir(self.snapshot());
        let worker = self.worker.index;
        if let (true, Some(series)) = (route.rollouts.is_empty(), route.plain.of(worker)) {
            count(series, None);
        }
        for (on_route, decision) in route.rollouts.iter().zip(&self.decisions) {
            let arm = decision.arm.index();
            let Some(rollout) = self.snapshot().rollouts.get(on_route.rollout) else { continue };
            let of_arm = match decision.reason {
                _ if self.is_copy => rollout.forced_series.get(arm),
                Reason::Forced => rollout.forced_series.get(arm),
                Reason::Probe => Some(&rollout.probe_series),
                _ => on_route.series.get(arm),
            };
            let of_cohort = match decision.reason {
                Reason::Cohort(index) if !self.is_copy => {
                    rollout.cohort_series.get(usize::from(index)).and_then(|arms| arms.get(arm))
                }
                _ => None,
            };
            for series in of_arm.into_iter().chain(of_cohort).filter_map(|per_worker| per_worker.of(worker)) {
                count(series, Some(on_route.rollout));
            }
        }
    }

    fn count_decisions(&self) {
        let Some(route) = self.route().filter(|_| !self.is_copy) else { return };
        for (on_route, decision) in route.rollouts.iter().zip(&self.decisions) {
            let rollout = self.snapshot().rollouts.get(on_route.rollout);
            if let Some(decisions) = rollout.and_then(|rollout| rollout.decisions.of(self.worker.index)) {
                decisions.record(*decision);
            }
        }
    }

    /// What went wrong for the client.
    fn error(&self, end: End) -> Option<&'static str> {
        self.word.or(match end {
            End::Complete => None,
            End::ClientLeft => Some("client_left"),
            End::Failed(kind) => Some(kind.label()),
        })
    }

    fn tell(&mut self, end: End, now: Time) {
        let Some(trace) = self.notes.trace.take() else { return };
        let (status, error) = (self.status.map(|status| status.as_u16()), self.error(end));
        trace.tell(self.snapshot(), &trace::Ended { status, error, started: self.started, now });
    }

    /// Whether nobody has to look at it: it counts as nobody's failure, and the client got an answer that is none.
    fn ended_well(&self, outcome: &Outcome) -> bool {
        let rollouts = self.route().map(|route| &route.rollouts[..]).unwrap_or_default();
        let counts = |on_route: &RouteRollout| {
            let rollout = self.snapshot().rollouts.get(on_route.rollout);
            rollout.is_some_and(|rollout| rollout.errors.failure(outcome).is_some())
        };
        self.status.is_some_and(|status| !status.is_server_error()) && !rollouts.iter().any(counts)
    }

    fn write_line(&mut self, end: End, outcome: &Outcome, total_us: u64) {
        let Some(mut line) = self.notes.line.take() else { return };
        line.status = self.status.map_or(0, |status| status.as_u16());
        line.bytes = self.bytes_out;
        line.duration_us = total_us;
        line.error = self.error(end);
        let well = line.error.is_none() && line.fallback.is_none() && self.ended_well(outcome);
        self.worker.write_access(line, well);
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.close(End::ClientLeft);
    }
}
