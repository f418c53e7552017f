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
