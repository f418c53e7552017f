//! What a breaker looks at: every 25 ms, what both arms did since the last look, from the cells and the latch.
//!
//! A rollout that rests costs a glance at its latch. It judges nothing; the supervisor calls it and hands on what it says.

use super::collect::Moved;
use crate::clock::Time;
use crate::latch::Latch;
use crate::rollout::breaker::{Happened, Measured, Rules, State, UNIT_ROWS, UNIT_SLOTS, UnitCounts};
use crate::tally::{PerWorker, UnitCells, Units};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What was seen of every rollout.
#[derive(Debug, Default)]
pub struct Measurer {
    by_rollout: BTreeMap<Arc<str>, Seen>,
    turned: Time,
}

/// One rollout at the moment of a look.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub rollout: &'a Arc<str>,
    /// What its breaker watches.
    pub rules: &'a Rules,
    /// Where its breaker stands.
    pub state: State,
    /// What the request path shares with it.
    pub latch: &'a Latch,
    /// Its canary requests by unit.
    pub units: &'a PerWorker<Units>,
    /// Whether the canary's upstream has an endpoint to send to.
    pub healthy: bool,
}

/// One rollout as seen at the last look.
#[derive(Debug, Default)]
struct Seen {
    /// Failures and slow answers by slot, row after row, summed over the workers.
    failures: Vec<u64>,
    slow: Vec<u64>,
    /// Probes that were started.
    probes_started: u64,
    /// Of all canary requests: started, answered, ended without an answer.
    started: u64,
    answered: u64,
    unanswered: u64,
    /// Whether something moved at the last look, and whether something failed: a reading may fall between two cells of one
    /// request, so the slots are read once more although the rest has come to rest.
    restless: bool,
    failing: bool,
    looked: Time,
}

impl Measurer {
    /// Ends the older of the spans over which the latches remember units, every 10 s.
    pub fn turn<'a>(&mut self, latches: impl Iterator<Item = &'a Latch>, now: Time) {
        if now.since(self.turned) >= TURN_EVERY {
            self.turned = now;
            latches.for_each(Latch::turn);
        }
    }

    /// What happened to a rollout since the last look; none if there is nothing to judge.
    pub fn look(&mut self, subject: &Subject<'_>, moved: Option<Moved>, now: Time) -> Option<Measured> {
        if !self.by_rollout.contains_key(subject.rollout) {
            self.by_rollout.insert(Arc::clone(subject.rollout), Seen::default());
        }
        let seen = self.by_rollout.get_mut(subject.rollout)?;
        let (run, latched) = (subject.latch.run(), latched(subject));
        let waits = subject.rules.no_answer.is_some() && seen.waiting() > 0;
        let rests = subject.state == State::Closed && run.failures == 0 && !latched && !waits && subject.healthy;
        if rests && moved.is_none() && !seen.restless && now.since(seen.looked) < LOOK_AT_LEAST_EVERY {
            return None;
        }
        let was_restless = std::mem::replace(&mut seen.restless, moved.is_some());
        seen.looked = now;
        let moved = moved.unwrap_or_default();
        seen.probes_started += moved.probes_started;
        seen.started += moved.started;
        seen.answered += moved.answered;
        seen.unanswered += moved.unanswered;
        let [stable, canary] = moved.arms;
        // Probes are counted in the same slots: no other canary request is, while there are any.
        let fails = canary.failures() > 0 || moved.probes.failures() > 0;
        let failures = match std::mem::replace(&mut seen.failing, fails) || fails {
            true => grown(&mut seen.failures, subject.units, |units| &units.failures),
            false => None,
        };
        let slow = match subject.rules.latency.is_some() && (seen.restless || was_restless) {
            true => grown(&mut seen.slow, subject.units, |units| &units.slow),
            false => None,
        };
        let waits = subject.rules.no_answer.is_some() && seen.waiting() > 0;
        Some(Measured {
            stable: Happened { counts: stable, ..Happened::default() },
            canary: Happened { counts: canary, failures, slow },
            probes: Happened { counts: moved.probes, ..Happened::default() },
            probes_started: seen.probes_started,
            started: seen.started,
            answered: seen.answered,
            unanswered: seen.unanswered,
            waiting_units: if waits { waiting_units(subject.units) } else { 0 },
            units_seen: subject.latch.units_seen(),
            run: run.failures,
            run_units: run.units,
            latched,
            healthy: subject.healthy,
        })
    }

    /// Forgets rollouts that are watched no more.
    pub fn retain(&mut self, watched: impl Fn(&str) -> bool) {
        self.by_rollout.retain(|rollout, _| watched(rollout));
    }
}

/// Whether the request path has opened the circuit and the breaker does not know yet.
fn latched(subject: &Subject<'_>) -> bool {
    subject.state != State::Open && subject.latch.read().state() == State::Open
}

impl Seen {
    /// Canary requests that wait for an answer.
    fn waiting(&self) -> u64 {
        self.started.saturating_sub(self.answered).saturating_sub(self.unanswered)
    }
}

/// By how much each slot has grown, all workers together; none if none has.
fn grown(last: &mut Vec<u64>, units: &PerWorker<Units>, of: impl Fn(&Units) -> &UnitCells) -> Option<Box<UnitCounts>> {
    let now = summed(units, of);
    last.resize(now.len(), 0);
    if *last == now {
        return None;
    }
    let mut counts: Box<UnitCounts> = Box::new([[0; UNIT_SLOTS]; UNIT_ROWS]);
    let slots = counts.iter_mut().flatten().zip(now.iter().zip(last.iter()));
    slots.for_each(|(slot, (now, last))| *slot = u32::try_from(now.saturating_sub(*last)).unwrap_or(u32::MAX));
    *last = now;
    Some(counts)
}

/// Distinct units among the requests that wait: slots in use in the fuller row.
fn waiting_units(units: &PerWorker<Units>) -> u32 {
    let slots = summed(units, |units| &units.waiting);
    let rows = slots.chunks(UNIT_SLOTS).map(|row| row.iter().filter(|count| **count > 0).count());
    rows.max().and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

fn summed(units: &PerWorker<Units>, of: impl Fn(&Units) -> &UnitCells) -> Vec<u64> {
    let mut sums = vec![0; UNIT_ROWS * UNIT_SLOTS];
    for worker in units.iter() {
        sums.iter_mut().zip(of(worker).read()).for_each(|(sum, count)| *sum += count);
    }
    sums
}

/// How long units that are seen no more are remembered, half of it at least.
const TURN_EVERY: Duration = Duration::from_secs(10);
/// A rollout that rests is looked at all the same so often, because what was true of the last seconds ends by itself.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
