//! The latch of a rollout: what every worker reads for every request and any thread may set at once.
//!
//! It carries the switches that must act without engine, disk or snapshot: the kills, per rollout and per cohort, and the
//! breaker's state with the run of failures that may open it from the request path (`circuit`). It knows nothing of why;
//! reasons are kept by the engine.

mod circuit;
#[cfg(test)]
mod tests;

pub use circuit::{Run, UnitMark};

use crate::rollout::assign::Switches;
use circuit::Circuit;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The switches of one rollout, shared by the control plane, the admin thread and all workers.
#[derive(Debug, Default)]
pub struct Latch {
    kills: AtomicU64,
    circuit: Arc<Circuit>,
}

impl Latch {
    /// A latch with the kills of `switches` and this one's circuit: whatever happens to that, both see it.
    #[must_use]
    pub fn renewed(&self, switches: Switches) -> Latch {
        Latch { kills: AtomicU64::new(switches.kills().bits()), circuit: Arc::clone(&self.circuit) }
    }

    /// What is switched at this moment.
    #[inline]
    pub fn read(&self) -> Switches {
        Switches::from_bits(self.kills.load(Ordering::Relaxed)).with(self.circuit.switches())
    }

    /// Switches on every kill that `switches` has on.
    pub fn set(&self, switches: Switches) {
        self.kills.fetch_or(switches.kills().bits(), Ordering::SeqCst);
    }

    /// Switches off every kill that `switches` has on.
    pub fn clear(&self, switches: Switches) {
        self.kills.fetch_and(!switches.kills().bits(), Ordering::SeqCst);
    }

    /// Opens the circuit, whatever its state; false if it is open already, as after a run of failures.
    pub fn open(&self) -> bool {
        self.circuit.open()
    }

    /// Lets the trickle through, unless the breaker has moved since `seen` was read; true if it did.
    pub fn half_open(&self, seen: Switches) -> bool {
        self.circuit.half_open(seen)
    }

    /// Lets the split flow, unless the breaker has moved since `seen` was read; true if it did.
    pub fn close(&self, seen: Switches) -> bool {
        self.circuit.close(seen)
    }

    /// The mark of a unit, or of an address in its place.
    #[inline]
    pub fn mark(&self, unit: impl Hash) -> UnitMark {
        self.circuit.mark(unit)
    }

    /// A request of that unit was started on the canary.
    #[inline]
    pub fn saw(&self, unit: UnitMark) {
        self.circuit.saw(unit);
    }

    /// A request on the canary that started in that era ended well: a run of failures is over.
    #[inline]
    pub fn succeeded(&self, era: u16) {
        self.circuit.succeeded(era);
    }

    /// A request on the canary that started in that era failed. Opens the circuit if this failure makes a run that `guard`
    /// does not suffer; true if it did.
    pub fn failed(&self, unit: UnitMark, era: u16, guard: &Guard) -> bool {
        self.circuit.failed(unit, era, guard)
    }

    /// A request on stable failed: a run on the canary that goes on beside it is left to the breaker's judgement.
    pub fn stable_failed(&self) {
        self.circuit.stable_failed();
    }

    /// Whether stable fails so often at present that a run on the canary must not open the circuit by itself.
    pub fn mark_stable_sick(&self, sick: bool) {
        self.circuit.mark_stable_sick(sick);
    }

    /// The run of failures at this moment; while the circuit is open, the one that was under way when it opened.
    pub fn run(&self) -> Run {
        self.circuit.run()
    }

    /// Distinct units seen on the canary since the turn before the last one: a lower bound, up to 64.
    pub fn units_seen(&self) -> u32 {
        self.circuit.units_seen()
    }

    /// Ends one of the two spans over which units are remembered; called every 10 s, by one thread.
    pub fn turn(&self) {
        self.circuit.turn();
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

    /// A new latch for a rollout with exactly the kills of `switches` on, for snapshots from now on. Older ones keep the old
    /// latch, so that no bit ever stands for two cohorts. Both have the same circuit, so that a request that started under
    /// an older snapshot still opens it for everyone.
    pub fn renew(&self, rollout: &str, switches: Switches) -> Arc<Latch> {
        let mut latches = self.by_rollout.lock().unwrap_or_else(PoisonError::into_inner);
        let renewed =
            latches.get(rollout).map_or_else(|| Latch::default().renewed(switches), |old| old.renewed(switches));
        let latch = Arc::new(renewed);
        latches.insert(Arc::from(rollout), Arc::clone(&latch));
        latch
    }
}
