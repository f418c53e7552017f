//! The latch of a rollout: one atomic that every worker reads for every request and that any thread may set at once.
//!
//! It carries the switches that must act without engine, disk or snapshot: kill, per rollout and per cohort. It knows
//! nothing of why; reasons are kept by the engine.

use crate::rollout::assign::Switches;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The switches of one rollout, shared by the control plane, the admin thread and all workers.
#[derive(Debug, Default)]
pub struct Latch {
    bits: AtomicU64,
}

impl Latch {
    /// What is switched at this moment.
    #[inline]
    pub fn read(&self) -> Switches {
        Switches::from_bits(self.bits.load(Ordering::Relaxed))
    }

    /// Switches on everything that `switches` has on.
    pub fn set(&self, switches: Switches) {
        self.bits.fetch_or(switches.bits(), Ordering::SeqCst);
    }

    /// A request on the canary ended well: a run of failures is over.
    #[inline]
    pub fn succeeded(&self) {}

    /// A request on the canary failed. Opens the circuit if this failure makes a run that `guard` does not suffer; true
    /// if it did.
    #[inline]
    pub fn failed(&self, _unit: UnitMark, _guard: &Guard) -> bool {
        false
    }

    /// A request on stable failed: a run on the canary that goes on beside it is left to the breaker's judgement.
    #[inline]
    pub fn stable_failed(&self) {}

    /// A request of that unit was started on the canary.
    #[inline]
    pub fn saw(&self, _unit: UnitMark) {}

    /// The run of failures at this moment.
    pub fn run(&self) -> Run {
        Run::default()
    }

    /// Distinct units seen on the canary since the turn before the last one, up to 64.
    pub fn units_seen(&self) -> u32 {
        0
    }

    /// Ends one of the two spans over which units are remembered; called every 10 s.
    pub fn turn(&self) {}

    /// Whether stable fails so often at present that a run on the canary must not open the circuit by itself.
    pub fn mark_stable_sick(&self, _sick: bool) {}

    /// Switches off everything that `switches` has on.
    pub fn clear(&self, switches: Switches) {
        self.bits.fetch_and(!switches.bits(), Ordering::SeqCst);
    }
}

/// What the request path must know of a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Failures in a row that open the circuit; 0 is never.
    pub consecutive_errors: u32,
    /// Distinct units that the run must have; fewer suffice if fewer are seen at all.
    pub min_units: u32,
    /// First bytes later than this, in microseconds, are counted by unit; none without a latency rule.
    pub slow_us: Option<u64>,
    /// Whether units that wait for an answer are counted: there is a no-answer rule.
    pub counts_waiting: bool,
    /// Whether a canary that is no worse than stable is spared.
    pub spares_both: bool,
}

/// A unit as the request path tells it from others: a hash that is never shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitMark(pub u64);

/// A run of failures on the canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Failures.
    pub failures: u32,
    /// Distinct units among them, up to `MIN_UNITS_MAX`.
    pub units: u32,
}

/// All latches by rollout name. A latch lives as long as the process, so that a reload never loses a kill; only a reload
/// that gives a rollout's cohorts new places puts another one in its stead.
#[derive(Debug, Default)]
pub struct Latches {
    by_rollout: Mutex<BTreeMap<Arc<str>, Arc<Latch>>>,
}

impl Latches {
    /// The latch of a rollout, made if it has none yet.
    pub fn of(&self, rollout: &str) -> Arc<Latch> {
        let mut latches = self.by_rollout.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latch) = latches.get(rollout) {
            return Arc::clone(latch);
        }
        let latch = Arc::<Latch>::default();
        latches.insert(Arc::from(rollout), Arc::clone(&latch));
        latch
    }

    /// A new latch for a rollout with exactly `switches` on, for snapshots from now on. Older ones keep the old latch,
    /// so that no bit ever stands for two cohorts.
    pub fn renew(&self, rollout: &str, switches: Switches) -> Arc<Latch> {
        let latch = Arc::new(Latch { bits: AtomicU64::new(switches.bits()) });
        let mut latches = self.by_rollout.lock().unwrap_or_else(PoisonError::into_inner);
        latches.insert(Arc::from(rollout), Arc::clone(&latch));
        latch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latch_outlives_the_snapshot_that_named_it() {
        let latches = Latches::default();
        latches.of("chat").set(Switches::KILLED);
        assert!(latches.of("chat").read().killed());
        assert!(!latches.of("other").read().killed());
        latches.of("chat").clear(Switches::KILLED);
        assert_eq!(latches.of("chat").read(), Switches::NONE);
    }
}
