//! What weir knows about rollouts, as plain code: no sockets, clock, files, logging, serde or async.
//!
//! Time and measurements are handed in, effects are drained out.

pub mod assign;
pub mod breaker;
pub mod bucket;
pub mod cohort;
pub mod course;
pub mod criterion;
pub mod diff;
pub mod engine;
pub mod flags;
pub mod force;
pub mod hash;
pub mod histogram;
pub mod history;
pub mod incident;
pub mod metrics;
pub mod mirror;
pub mod outcome;
pub mod plan;
pub mod report;
pub mod review;
pub mod sample;
pub mod scale;
pub mod scheme;
pub mod stages;
pub mod standing;
mod step;
mod turn;
pub mod users;
pub mod vital;
mod walk;
pub mod window;

use std::fmt;

/// One side of a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arm {
    /// The legacy side: where everything goes unless something admits it to the other.
    Stable,
    /// The new side.
    Canary,
}

impl Arm {
    /// Both arms, in index order.
    pub const ALL: [Arm; 2] = [Arm::Stable, Arm::Canary];

    /// The arm's name in config, metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Arm::Stable => "stable",
            Arm::Canary => "canary",
        }
    }

    /// 0 for stable, 1 for canary.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The arm of that name.
    pub fn from_name(name: &str) -> Option<Arm> {
        Arm::ALL.into_iter().find(|arm| arm.name() == name)
    }
}

impl fmt::Display for Arm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
