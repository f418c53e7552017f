//! A rollback with everything that was known at that moment, as plain data: the control plane fills it in, the store keeps it,
//! admin shows it. What becomes of stable afterwards is added later.

use super::bucket::Weight;
use super::course::Back;
use super::report::{GateReport, TriggerReport};
use super::review::ArmReview;
use super::sample::Resources;
use std::sync::Arc;
use std::time::Duration;

/// A rollback, as it happened. When, of which rollout, by whom and why stands in its entry of the audit trail.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// The stage that the rollout was in; none without stages.
    pub stage: Option<Arc<str>>,
    /// How far back it went.
    pub to: Back,
    /// The trigger, where one fired.
    pub trigger: Option<Arc<str>>,
    /// The weight in force before and after.
    pub weight: (Weight, Weight),
    /// Both arms over some times up to then: name, time covered, by arm index.
    pub windows: Vec<(&'static str, Duration, [ArmReview; 2])>,
    /// Gates of the stage.
    pub gates: Vec<GateReport>,
    /// Triggers.
    pub triggers: Vec<TriggerReport>,
    /// What weir took in the last seconds, and what the queries said.
    pub resources: Resources,
}

/// What became of stable after a rollback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// It is still looked at.
    Pending,
    /// It is healthy.
    Healthy,
    /// It is not, and somebody was told.
    Escalated,
    /// Nobody knows.
    Unknown,
}

impl Recheck {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Recheck::Pending => "pending",
            Recheck::Healthy => "healthy",
            Recheck::Escalated => "escalated",
            Recheck::Unknown => "unknown",
        }
    }
}

/// An incident as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRecord {
    /// Its entry of the audit trail.
    pub event: u64,
    /// Everything but what follows; JSON text of an object.
    pub body: String,
    /// What became of stable; none where it was not looked at, because the canary goes on serving.
    pub recheck: Option<String>,
    /// What was found; none if nothing yet.
    pub recheck_reason: Option<String>,
}
