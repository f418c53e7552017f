//! All rollouts for one unit at once: what `/flags` answers, on the admin address and on a listener's `flags_path`.
//!
//! It asks `decide`, like the data plane, and adds nothing to it; how the answer is written is its callers' business.

use super::Arm;
use super::assign::{Asker, Split, decide};
use std::borrow::Cow;

/// The arm of one rollout for the unit that was asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag<'a> {
    /// The rollout's name.
    pub rollout: &'a str,
    /// The arm.
    pub arm: Arm,
    /// The word for why: `bucket`, `cohort:<name>`, ...
    pub reason: Cow<'a, str>,
}

/// The arm of every rollout, in config order.
pub fn flags<'a, A: Asker>(splits: &'a [Split], asker: &A) -> Vec<Flag<'a>> {
    splits
        .iter()
        .enumerate()
        .map(|(index, split)| {
            let decision = decide(splits, index, asker);
            Flag { rollout: &split.name, arm: decision.arm, reason: decision.reason.word(split) }
        })
        .collect()
}
