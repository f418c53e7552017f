//! What stands between a rollout and a stage of its plan, and the plan itself, as plain data.

use crate::rollout::bucket::Weight;
use std::sync::Arc;
use std::time::Duration;

/// What stands between a rollout and a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct PassageReport {
    /// The stage that it is in; none before the first.
    pub from: Option<Arc<str>>,
    /// The stage that is asked about; none is the end of the plan.
    pub to: Option<Arc<str>>,
    /// Whether that stage has begun already.
    pub entered: bool,
    /// `pass` if it begins at the next look, `fail` if something says no, else `wait`.
    pub verdict: &'static str,
    /// Whether `promote` would be carried out.
    pub may_promote: bool,
    /// What holds it, in the order in which it is asked.
    pub obstacles: Vec<ObstacleReport>,
}

/// One thing that holds a rollout where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ObstacleReport {
    /// `gate`, `time`, `approval`, `after`, `start`, `paused`, `killed`, `breaker`, `held`, `off`, `rolled_back`,
    /// `completed`, `cohort`, `stages`.
    pub kind: &'static str,
    /// `fail` if it says no, `wait` if it may yet come.
    pub verdict: &'static str,
    /// What there is to say.
    pub reason: String,
    /// Of a time, how much is left.
    pub remaining: Option<Duration>,
}

/// One stage of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedStage {
    /// Its name.
    pub name: Arc<str>,
    /// Share of units on the canary.
    pub weight: Weight,
    /// Time it lasts at least.
    pub min_duration: Duration,
    /// Time after which it pauses without a pass.
    pub max_duration: Option<Duration>,
    /// Cohorts that it admits.
    pub cohorts: Vec<Arc<str>>,
    /// The rollout and the stage of it that must have ended before.
    pub after: Option<(Arc<str>, Arc<str>)>,
    /// Whether it ends only when a person has said so.
    pub approval: bool,
    /// Whether it has ended forwards.
    pub finished: bool,
}
