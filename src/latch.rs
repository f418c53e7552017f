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

    /// Switches off everything that `switches` has on.
    pub fn clear(&self, switches: Switches) {
        self.bits.fetch_and(!switches.bits(), Ordering::SeqCst);
    }
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
