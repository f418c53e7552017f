//! What a rehearsal comes to, as plain data: what happened when, how each stage went, how each rollout ended.

use super::usual::Usual;
use crate::rollout::bucket::Weight;
use crate::rollout::course::Verdict;
use crate::rollout::report::Kind;
use std::sync::Arc;
use std::time::Duration;

/// A whole rehearsal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Story {
    /// What happened, in order.
    pub happenings: Vec<Happening>,
    /// The rollouts with stages, in config order.
    pub rollouts: Vec<RolloutStory>,
    /// How long it took on the virtual clock.
    pub took: Duration,
    /// How often the plans were looked at.
    pub looks: u64,
    /// Values of queries that were chosen because nothing is said of them, as they came up.
    pub usual: Vec<Usual>,
    /// Rollouts that the config switches off (`enabled = false`), rehearsed as if it did not.
    pub switched_on: Vec<Arc<str>>,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Happening {
    /// When.
    pub at: Duration,
    /// To which rollout.
    pub rollout: Arc<str>,
    /// What sort of thing, as in the record.
    pub kind: Kind,
    /// Who did it: `plan`, `breaker`, or the person that is assumed.
    pub actor: String,
    /// Why, in the engine's words.
    pub reason: String,
    /// The stage after it.
    pub stage: Option<Arc<str>>,
    /// The weight after it.
    pub weight: Weight,
    /// The share of users on the canary after it, by weight, cohorts and `requires`; breaker aside.
    pub share: f64,
    /// Requests that had failed on the canary by then.
    pub failed: u64,
    /// Users who had met such a failure by then.
    pub users_hurt: u64,
    /// Users on the canary right before.
    pub users_exposed: u64,
    /// Signals that had come from the canary by then.
    pub signals: Vec<Met>,
    /// How often it was told again right after.
    pub again: u64,
}

/// One stay in a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Passage {
    /// The stage.
    pub stage: Arc<str>,
    /// Its place in the plan.
    pub index: usize,
    /// The weight it began with.
    pub weight: Weight,
    /// When it began.
    pub began: Duration,
    /// When it ended; none if it did not.
    pub ended: Option<Duration>,
    /// Its gates as last judged.
    pub gates: Vec<Judged>,
}

/// A gate as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The criterion.
    pub when: String,
    /// Whether it passes.
    pub verdict: Verdict,
    /// The left side in its held unit; none without data.
    pub value: Option<f64>,
    /// The right side; none without data.
    pub limit: Option<f64>,
    /// The verdict as a sentence.
    pub reason: String,
}

/// How one rollout went.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutStory {
    /// Its name.
    pub name: Arc<str>,
    /// How many stages its plan has.
    pub stages: usize,
    /// Every stay in a stage, in order.
    pub passages: Vec<Passage>,
    /// How it ended.
    pub end: End,
    /// Since when it has been like that.
    pub ended: Duration,
    /// Why, where there is something to say.
    pub reason: Option<String>,
    /// Options with which the gates would pass that hold it up.
    pub hints: Vec<String>,
    /// Requests that its canary got.
    pub requests: u64,
    /// Of those, failures.
    pub failed: u64,
    /// Of those, the ones that stable answered instead.
    pub answered: u64,
    /// Users who met a failure on the canary.
    pub users_hurt: u64,
    /// Signals that came from the canary.
    pub signals: Vec<Met>,
}

/// How often something was met on the canary, and by how many users.
#[derive(Clone, Debug, PartialEq)]
pub struct Met {
    /// The signal.
    pub signal: Arc<str>,
    /// Requests with it.
    pub requests: u64,
    /// Users of these.
    pub users: u64,
}

/// How a rollout ends in a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its last stage has ended.
    Completed,
    /// Everything is back on stable.
    RolledBack,
    /// It waits for a person.
    Paused,
    /// It waits for something that does not come.
    Stuck,
}

impl End {
    /// The word in the output.
    pub const fn word(self) -> &'static str {
        match self {
            End::Completed => "completed",
            End::RolledBack => "rolled_back",
            End::Paused => "paused",
            End::Stuck => "stuck",
        }
    }
}

impl Story {
    /// Whether every rollout has completed.
    pub fn completes(&self) -> bool {
        self.rollouts.iter().all(|rollout| rollout.end == End::Completed)
    }
}
