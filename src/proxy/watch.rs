//! What the breaker is told of a request, at the earliest moment at which it is known.
//!
//! A failing head counts when it arrives, so that the answer that crosses the limit is the last one that was begun on the
//! canary; a success counts when the whole answer went out. A client that left, a refusal by weir and a forced request
//! tell nothing, and no request tells two things. Called by `observe` alone.

use crate::latch::UnitMark;
use crate::rollout::Arm;
use crate::rollout::assign::{Decision, Reason};
use crate::rollout::outcome::{End, Outcome};
use crate::snapshot::{ROLLOUTS_PER_ROUTE_MAX, Rollout, Route, Snapshot};
use crate::tally::Units;
use arrayvec::ArrayVec;

/// The rollouts whose breakers watch one request.
#[derive(Default)]
pub struct Watches(ArrayVec<Watch, ROLLOUTS_PER_ROUTE_MAX>);

/// One rollout's.
struct Watch {
    /// Index of the rollout.
    rollout: usize,
    role: Role,
    /// Whether the breaker has been told of a failure.
    told: bool,
    /// Whether the request is counted among those that wait for an answer.
    waits: bool,
    /// The era of the breaker in which the request was started; it says nothing of a later one.
    era: u16,
    /// Who asks; only of requests on the canary.
    unit: UnitMark,
}

/// What a request is to a breaker.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Stable,
    Canary,
    Probe,
}

/// What is known when a request has ended.
pub struct Ended<'a> {
    /// How.
    pub outcome: &'a Outcome,
    /// Time from its head to the answer's, in microseconds; none if the client got no answer.
    pub first_us: Option<u64>,
}

impl Watches {
    /// Begins to watch a request; `mark` is asked for the unit where a breaker tells units apart.
    pub fn start(
        snapshot: &Snapshot,
        worker: usize,
        route: &Route,
        decisions: &[Decision],
        mark: impl Fn(usize) -> UnitMark,
    ) -> Self {
        let mut watches = Watches::default();
        for (on_route, decision) in route.rollouts.iter().zip(decisions) {
            let Some(rollout) = snapshot.rollouts.get(on_route.rollout) else { continue };
            if let Some(watch) = Watch::start(on_route.rollout, rollout, worker, *decision, &mark) {
                // A route has no more rollouts than there is room for.
                let _ = watches.0.try_push(watch);
            }
        }
        watches
    }

    /// The answer's head has arrived; it may be a failure already.
    pub fn answered(&mut self, snapshot: &Snapshot, worker: usize, outcome: &Outcome) {
        for (watch, rollout) in self.each(snapshot) {
            watch.stop_waiting(rollout, worker);
            watch.learn(rollout, outcome);
        }
    }

    /// More of the answer is known: its trailers.
    pub fn learned(&mut self, snapshot: &Snapshot, outcome: &Outcome) {
        for (watch, rollout) in self.each(snapshot) {
            watch.learn(rollout, outcome);
        }
    }

    /// The request has ended; nobody watches any more.
    pub fn ended(&mut self, snapshot: &Snapshot, worker: usize, ended: &Ended<'_>) {
        for (watch, rollout) in self.each(snapshot) {
            watch.stop_waiting(rollout, worker);
            watch.end(rollout, worker, ended);
        }
        self.0.clear();
    }

    fn each<'a>(&'a mut self, snapshot: &'a Snapshot) -> impl Iterator<Item = (&'a mut Watch, &'a Rollout)> {
        self.0.iter_mut().filter_map(|watch| {
            let rollout = snapshot.rollouts.get(watch.rollout)?;
            Some((watch, rollout))
        })
    }
}

impl Watch {
    fn start(
        index: usize,
        rollout: &Rollout,
        worker: usize,
        decision: Decision,
        mark: impl Fn(usize) -> UnitMark,
    ) -> Option<Watch> {
        let guard = rollout.guard.as_ref()?;
        let role = match (decision.reason, decision.arm) {
            (Reason::Forced, _) => return None,
            (Reason::Probe, _) => Role::Probe,
            (_, Arm::Canary) => Role::Canary,
            (_, Arm::Stable) => Role::Stable,
        };
        let mut watch = Watch { rollout: index, role, told: false, waits: false, era: 0, unit: UnitMark::default() };
        if role != Role::Stable {
            // Read here and not at the decision: what counts is under which state the request goes out.
            watch.era = rollout.latch.read().era();
            watch.unit = mark(index);
            rollout.latch.saw(watch.unit);
        }
        if let (true, Role::Canary, Some(units)) = (guard.counts_waiting, role, units(rollout, worker)) {
            units.waiting.add(watch.unit.slots());
            watch.waits = true;
        }
        Some(watch)
    }

    fn stop_waiting(&mut self, rollout: &Rollout, worker: usize) {
        if std::mem::take(&mut self.waits)
            && let Some(units) = units(rollout, worker)
        {
            units.waiting.sub(self.unit.slots());
        }
    }

    /// Tells the breaker of a failure, once.
    fn learn(&mut self, rollout: &Rollout, outcome: &Outcome) {
        if self.told || rollout.errors.failure(outcome).is_none() {
            return;
        }
        self.told = true;
        match (self.role, &rollout.guard) {
            (Role::Stable, _) => rollout.latch.stable_failed(),
            (Role::Canary | Role::Probe, Some(guard)) => {
                rollout.latch.failed(self.unit, self.era, guard);
            }
            (Role::Canary | Role::Probe, None) => {}
        }
    }

    fn end(&mut self, rollout: &Rollout, worker: usize, ended: &Ended<'_>) {
        let Ended { outcome, first_us } = *ended;
        self.learn(rollout, outcome);
        if self.role == Role::Stable {
            return;
        }
        // What weir answered itself without asking the upstream says nothing of it.
        if !self.told && outcome.end == End::Complete && outcome.status.is_some() {
            rollout.latch.succeeded(self.era);
        }
        // Units are counted where the series are, at the end, so that both speak of the same requests.
        let slow = rollout.guard.as_ref().and_then(|guard| guard.slow_us).zip(first_us);
        let is_slow = slow.is_some_and(|(limit, us)| us > limit);
        // Those of probes too: they are never there in the same era as others.
        if (self.told || is_slow)
            && rollout.latch.read().era() == self.era
            && let Some(units) = units(rollout, worker)
        {
            if self.told {
                units.failures.add(self.unit.slots());
            }
            if is_slow {
                units.slow.add(self.unit.slots());
            }
        }
    }
}

fn units(rollout: &Rollout, worker: usize) -> Option<&Units> {
    rollout.canary_units.of(worker)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, Live, UserFiles, compile, load_text};
    use crate::latch::{Guard, Latch, Latches, Run};
    use crate::rollout::assign::Switches;
    use crate::rollout::outcome::ErrorKind;
    use crate::tally::{Registry, UnitCells};
    use std::path::Path;

    const GUARD: Guard =
        Guard { consecutive_errors: 2, min_units: 1, slow_us: Some(1_000), counts_waiting: true, spares_both: true };
    const CANARY: Decision = Decision { arm: Arm::Canary, reason: Reason::Bucket };
    const STABLE: Decision = Decision { arm: Arm::Stable, reason: Reason::Bucket };
    const PROBE: Decision = Decision { arm: Arm::Canary, reason: Reason::Probe };
    const ANN: UnitMark = UnitMark(7);

    fn snapshot(guard: Option<Guard>) -> Snapshot {
        let text = "[[listeners]]\naddress = \"127.0.0.1:18080\"\n[upstreams.u]\nendpoints = [\"127.0.0.1:9001\"]\n\
                    [rollouts.chat]\nunit = [\"client-ip\"]\nstable = { upstream = \"u\" }\ncanary = { upstream = \"u\" }\n";
        let loaded = load_text("weir.toml", text, Format::Toml, Path::new("/"), &[], &mut UserFiles::default());
        let config = loaded.expect("a config").config;
        let mut snapshot = compile(&config, &Live::default(), &mut Registry::new(1), &Latches::default(), 1);
        snapshot.rollouts[0].guard = guard;
        snapshot
    }

    /// One request under way.
    struct Request<'a>(&'a Snapshot, Watches);

    impl<'a> Request<'a> {
        fn start(snapshot: &'a Snapshot, decision: Decision) -> Self {
            Request(snapshot, Watches::start(snapshot, 0, &snapshot.routes[0], &[decision], |_| ANN))
        }

        fn answered(mut self, status: u16) -> Self {
            self.1.answered(self.0, 0, &outcome(Some(status), None, End::Complete));
            self
        }

        fn ended(mut self, status: Option<u16>, end: End) {
            let first_us = status.map(|_| 1_000);
            self.1.ended(self.0, 0, &Ended { outcome: &outcome(status, None, end), first_us });
        }
    }

    fn outcome(status: Option<u16>, grpc_status: Option<u8>, end: End) -> Outcome {
        Outcome { status, grpc_status, end }
    }

    fn latch(snapshot: &Snapshot) -> &Latch {
        &snapshot.rollouts[0].latch
    }

    fn failures(snapshot: &Snapshot) -> u32 {
        latch(snapshot).run().failures
    }

    fn count(snapshot: &Snapshot, cells: impl Fn(&Units) -> &UnitCells) -> Vec<u64> {
        cells(units(&snapshot.rollouts[0], 0).expect("a worker")).read().filter(|count| *count != 0).collect()
    }

    #[test]
    fn a_failing_head_counts_when_it_arrives_and_only_once() {
        let snapshot = snapshot(Some(GUARD));
        let (first, second) = (Request::start(&snapshot, CANARY), Request::start(&snapshot, CANARY));
        let first = first.answered(500);
        assert_eq!(failures(&snapshot), 1);
        first.ended(Some(500), End::Failed(ErrorKind::Truncated));
        assert_eq!((failures(&snapshot), count(&snapshot, |units| &units.failures)), (1, vec![1, 1]));
        let _under_way = second.answered(503);
        assert_ne!(latch(&snapshot).read().bits() & Switches::OPEN.bits(), 0);
    }

    #[test]
    fn a_success_counts_when_the_whole_answer_went_out() {
        let snapshot = snapshot(Some(GUARD));
        Request::start(&snapshot, CANARY).answered(500).ended(Some(500), End::Complete);
        let good = Request::start(&snapshot, CANARY).answered(200);
        assert_eq!(failures(&snapshot), 1);
        good.ended(Some(200), End::Complete);
        assert_eq!(failures(&snapshot), 0);
    }

    #[test]
    fn whatever_is_nobodys_doing_neither_lengthens_a_run_nor_ends_it() {
        let snapshot = snapshot(Some(GUARD));
        Request::start(&snapshot, CANARY).answered(500).ended(Some(500), End::Complete);
        Request::start(&snapshot, CANARY).ended(None, End::ClientLeft);
        Request::start(&snapshot, CANARY).answered(200).ended(Some(200), End::ClientLeft);
        // A refusal by weir itself.
        Request::start(&snapshot, CANARY).ended(None, End::Complete);
        for arm in Arm::ALL {
            Request::start(&snapshot, Decision { arm, reason: Reason::Forced }).answered(500);
            Request::start(&snapshot, Decision { arm, reason: Reason::Forced }).ended(Some(200), End::Complete);
        }
        Request::start(&snapshot, STABLE).answered(200).ended(Some(200), End::Complete);
        assert_eq!(latch(&snapshot).run(), Run { failures: 1, units: 1 });
    }

    #[test]
    fn failures_without_a_status_count_at_the_end_and_grpc_trailers_when_they_arrive() {
        let snapshot = snapshot(Some(Guard { consecutive_errors: 10, ..GUARD }));
        Request::start(&snapshot, CANARY).ended(None, End::Failed(ErrorKind::Connect));
        Request::start(&snapshot, CANARY).answered(200).ended(Some(200), End::Failed(ErrorKind::Truncated));
        assert_eq!(failures(&snapshot), 2);
        let mut grpc = Request::start(&snapshot, CANARY).answered(200);
        grpc.1.learned(&snapshot, &outcome(Some(200), Some(14), End::Complete));
        assert_eq!(failures(&snapshot), 3);
        let grpc_ended = Ended { outcome: &outcome(Some(200), Some(14), End::Complete), first_us: None };
        grpc.1.ended(&snapshot, 0, &grpc_ended);
        assert_eq!((failures(&snapshot), count(&snapshot, |units| &units.failures)), (3, vec![3, 3]));
    }

    #[test]
    fn a_probe_is_in_the_run_and_counted_by_unit_when_it_fails() {
        let snapshot = snapshot(Some(GUARD));
        latch(&snapshot).open();
        latch(&snapshot).half_open(latch(&snapshot).read());
        let probe = Request::start(&snapshot, PROBE);
        assert_eq!(count(&snapshot, |units| &units.waiting), [0; 0]);
        probe.answered(500).ended(Some(500), End::Complete);
        assert_eq!((failures(&snapshot), latch(&snapshot).units_seen()), (1, 1));
        Request::start(&snapshot, PROBE).answered(200).ended(Some(200), End::Complete);
        assert_eq!(failures(&snapshot), 0);
        assert_eq!(count(&snapshot, |units| &units.failures), [1, 1]);
    }

    #[test]
    fn a_request_of_an_earlier_state_says_nothing_of_this_one() {
        let snapshot = snapshot(Some(GUARD));
        let (bad, good) = (Request::start(&snapshot, CANARY), Request::start(&snapshot, CANARY));
        latch(&snapshot).open();
        latch(&snapshot).close(latch(&snapshot).read());
        bad.answered(500).ended(Some(500), End::Complete);
        assert_eq!((failures(&snapshot), count(&snapshot, |units| &units.failures)), (0, vec![]));
        Request::start(&snapshot, CANARY).answered(500).ended(Some(500), End::Complete);
        good.ended(Some(200), End::Complete);
        assert_eq!(failures(&snapshot), 1);
    }

    #[test]
    fn a_unit_waits_until_the_first_byte_or_the_end() {
        let snapshot = snapshot(Some(GUARD));
        let waiting = || count(&snapshot, |units| &units.waiting);
        let (answered, cut) = (Request::start(&snapshot, CANARY), Request::start(&snapshot, CANARY));
        Request::start(&snapshot, STABLE);
        assert_eq!(waiting(), [2, 2]);
        let answered = answered.answered(200);
        assert_eq!(waiting(), [1, 1]);
        answered.ended(Some(200), End::Complete);
        cut.ended(None, End::ClientLeft);
        assert_eq!(waiting(), [0; 0]);
        let without = self::snapshot(Some(Guard { counts_waiting: false, ..GUARD }));
        let _request = Request::start(&without, CANARY);
        assert_eq!(count(&without, |units| &units.waiting), [0; 0]);
    }

    #[test]
    fn first_bytes_later_than_the_limit_are_counted_by_unit() {
        let at_limit = snapshot(Some(GUARD));
        Request::start(&at_limit, CANARY).answered(200).ended(Some(200), End::Complete);
        assert_eq!(count(&at_limit, |units| &units.slow), [0; 0]);
        let above = snapshot(Some(Guard { slow_us: Some(999), ..GUARD }));
        Request::start(&above, CANARY).answered(200).ended(Some(200), End::Complete);
        Request::start(&above, STABLE).answered(200).ended(Some(200), End::Complete);
        assert_eq!(count(&above, |units| &units.slow), [1, 1]);
    }

    #[test]
    fn a_stable_that_fails_too_leaves_the_run_to_the_breaker() {
        let snapshot = snapshot(Some(GUARD));
        Request::start(&snapshot, CANARY).answered(500).ended(Some(500), End::Complete);
        let under_way = Request::start(&snapshot, STABLE).answered(500);
        Request::start(&snapshot, CANARY).answered(500).ended(Some(500), End::Complete);
        under_way.ended(Some(500), End::Complete);
        assert_eq!(latch(&snapshot).read(), Switches::NONE);
        assert_eq!(failures(&snapshot), 2);
    }

    #[test]
    fn without_a_guard_nobody_watches() {
        let snapshot = snapshot(None);
        for decision in [CANARY, STABLE] {
            Request::start(&snapshot, decision).answered(500).ended(Some(500), End::Complete);
        }
        assert_eq!((latch(&snapshot).run(), latch(&snapshot).units_seen()), (Run::default(), 0));
    }
}
