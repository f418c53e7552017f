//! What the config asks of a rollout, as values that cannot be invalid.
//!
//! The config room makes plans, the engine works on them. A plan holds nothing that changes at run time.

use super::breaker::Rules;
use super::bucket::Weight;
use std::sync::Arc;

/// The part of a rollout's config that the engine works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The rollout's name.
    pub name: Arc<str>,
    /// The file's weight; with stages a ceiling.
    pub weight: Weight,
    /// Killed by file or environment (`kill = true`, or `[kill] all = true`).
    pub killed: bool,
    /// `enabled = false`: all to stable, shown as `pending`.
    pub enabled: bool,
    /// Whether it has stages. This version carries none out: such a rollout is `pending` at weight 0.
    pub staged: bool,
    /// Its cohorts by index: name and whether the file enables it.
    pub cohorts: Vec<CohortPlan>,
    /// What its breaker watches; none if it is switched off.
    pub breaker: Option<Rules>,
}

impl Plan {
    /// The cohort of that name.
    pub fn cohort(&self, name: &str) -> Option<&CohortPlan> {
        self.cohorts.iter().find(|cohort| &*cohort.name == name)
    }
}

/// One cohort of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CohortPlan {
    /// Its name.
    pub name: Arc<str>,
    /// Its switch in the file.
    pub enabled: bool,
    /// Whether its members are kept off the canary.
    pub exclude: bool,
    /// How many members the config lists.
    pub listed: usize,
}
