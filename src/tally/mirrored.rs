//! What a worker counts of the requests that are mirrored.

use super::Cell;
use crate::rollout::outcome::{CodeClass, ErrorKind};

/// Why a request of the mirrored share was not copied, or its copy says nothing, in the order of `Mirrored::skipped`: words
/// of the `outcome` label of `weir_shadow_requests_total`.
pub const COPIES_SKIPPED: [&str; 11] = [
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
];

/// One worker's counts of what came of the requests of one rollout's mirrored share; each is counted once.
#[repr(align(64))]
#[derive(Debug, Default)]
pub struct Mirrored {
    /// Copies whose answer does not count as a failure, by the class of its status.
    pub answered: [Cell; CodeClass::COUNT],
    /// Copies that failed, by kind.
    pub failed: [Cell; ErrorKind::COUNT],
    /// What was not copied, by the words of `COPIES_SKIPPED`.
    pub skipped: [Cell; COPIES_SKIPPED.len()],
}
