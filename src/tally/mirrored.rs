//! What a worker counts of the requests that are mirrored.

use super::{Cell, PerWorker, Registry};
use crate::pairs::Pairs;
use crate::rollout::outcome::{CodeClass, ErrorKind};
use std::sync::Arc;

/// Why a request of the mirrored share was not copied, or its copy says nothing, in the order of `Mirrored::skipped`: words
/// of the `outcome` label of `weir_shadow_requests_total`.
pub const COPIES_SKIPPED: [&str; 12] = [
    "loop",
    "upgrade",
    "drain",
    "method",
    "body",
    "memory",
    "in_flight",
    "broken_off",
    "no_endpoint",
    "connections",
    "stale",
    "backoff",
];

/// One worker's counts of what came of the requests of one rollout's mirrored share; each is counted once.
#[derive(Debug, Default)]
pub struct Mirrored {
    /// Copies whose answer does not count as a failure, by the class of its status.
    pub answered: [Cell; CodeClass::COUNT],
    /// Copies that failed, by kind.
    pub failed: [Cell; ErrorKind::COUNT],
    /// What was not copied, by the words of `COPIES_SKIPPED`.
    pub skipped: [Cell; COPIES_SKIPPED.len()],
}

/// Why a pair of answers that was to be compared is not, in the order of `LostPairs::reasons`: words of the `verdict` label of
/// `weir_shadow_diffs_total`.
pub const PAIRS_LOST: [&str; 2] = ["dropped", "broken_off"];

/// One worker's counts of the pairs of answers of one rollout that did not come to be compared.
#[derive(Debug, Default)]
pub struct LostPairs {
    /// By the words of `PAIRS_LOST`.
    pub reasons: [Cell; PAIRS_LOST.len()],
}

impl Registry {
    /// The pairs of answers of that rollout that are lost, made if it is new.
    pub fn lost_pairs(&mut self, rollout: &Arc<str>) -> Arc<PerWorker<LostPairs>> {
        let workers = self.workers;
        Arc::clone(self.lost_pairs.entry(Arc::clone(rollout)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// Where answers go that are to be compared.
    pub fn pairs(&self) -> Arc<Pairs> {
        Arc::clone(&self.pairs)
    }

    /// The pairs of answers that every rollout lost, for the exposition.
    pub fn all_lost_pairs(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerWorker<LostPairs>>)> {
        self.lost_pairs.iter()
    }
}
