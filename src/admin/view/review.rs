//! `GET /api/v1/rollouts/{name}/report` as JSON: everything that the Markdown and HTML forms show, as data.

mod fill;

use super::{Breaker, Diff, Event, Gate, Stage, Trigger};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What happened to a rollout over some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Review {
    /// The rollout.
    pub rollout: String,
    /// The time asked for; RFC 3339 in UTC.
    pub since: String,
    /// See `since`.
    pub until: String,
    /// When what is known begins, and how much of it weir served, in seconds.
    pub began: String,
    /// See `began`.
    pub covered_s: f64,
    /// Why numbers are missing, or null.
    pub note: Option<String>,
    /// How it stands now.
    pub state: String,
    /// Why; null where there is nothing to say.
    pub state_reason: Option<String>,
    /// Whether everything goes to stable by a kill.
    pub killed: bool,
    /// The weight in force, kill and breaker aside.
    pub weight_ppm: u32,
    /// How many times as fast as written its plan runs.
    pub time_scale: u32,
    /// The present stage; null before the first and without stages.
    pub stage: Option<Stage>,
    /// The breaker; null if it is switched off.
    pub breaker: Option<Breaker>,
    /// Both arms in all.
    pub arms: Compared,
    /// Canary requests as a share of all; null without requests.
    pub share: Option<f64>,
    /// Stays in stages, the oldest first.
    pub stages: Vec<Stayed>,
    /// Gates of the present stage.
    pub gates: Vec<Gate>,
    /// Triggers that are watched.
    pub triggers: Vec<Trigger>,
    /// Triggers that fired.
    pub fired: Vec<Told>,
    /// Trips of the breaker.
    pub trips: Vec<Told>,
    /// Approvals, and who gave them.
    pub approvals: Vec<Told>,
    /// Rollbacks, each with its numbers.
    pub incidents: Vec<Incident>,
    /// What was recorded of stages; the baseline under the empty name.
    pub baselines: Vec<Baseline>,
    /// What comparing the answers to copies with those that clients got came to in the present stage, as in the diff of the
    /// API; null where none are compared.
    pub diff: Option<Diff>,
    /// Routes, cohorts and probes.
    pub parts: Vec<Part>,
    /// Requests that stable answered in the canary's place.
    pub fallbacks: u64,
    /// Requests that the breaker kept from the canary.
    pub diverted: u64,
    /// What signals counted.
    pub signals: Vec<Signal>,
    /// The 75th percentiles of web vitals.
    pub vitals: Vec<VitalSum>,
    /// What weir took, and what the queries said.
    pub resources: Resources,
    /// The audit trail, the oldest first.
    pub events: Vec<Event>,
    /// Whether older entries are left out.
    pub events_cut: bool,
    /// How long a point is, in seconds.
    pub point_s: f64,
    /// The course of the numbers.
    pub points: Vec<Point>,
}

/// Both arms side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compared {
    /// The legacy side.
    pub stable: ArmSum,
    /// The new side.
    pub canary: ArmSum,
    /// Canary less stable by field; one that either side has not is not there.
    pub difference: BTreeMap<String, Difference>,
}

/// Canary less stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    /// In the field's own unit.
    pub absolute: f64,
    /// As a share of stable's; null where that is 0.
    pub relative: Option<f64>,
}

/// One arm over some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArmSum {
    /// Requests ended.
    pub requests: u64,
    /// Of those, failures of the arm.
    pub errors: u64,
    /// Failures per request, 0 to 1; null without requests.
    pub error_rate: Option<f64>,
    /// Requests per second of time served.
    pub rps: f64,
    /// Requests by class of the status that the client got.
    pub codes: BTreeMap<String, u64>,
    /// Failures by kind.
    pub errors_by_kind: BTreeMap<String, u64>,
    /// Requests whose client left before the end.
    pub client_left: u64,
    /// Request body bytes.
    pub bytes_in: u64,
    /// Answer body bytes.
    pub bytes_out: u64,
    /// Quantiles of the time to the first byte; null without requests.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p75_ms: Option<f64>,
    /// See `p50_ms`.
    pub p90_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// See `p50_ms`.
    pub p999_ms: Option<f64>,
    /// Quantiles of the time to the end of the answer; null without requests.
    pub total_p50_ms: Option<f64>,
    /// See `total_p50_ms`.
    pub total_p95_ms: Option<f64>,
    /// See `total_p50_ms`.
    pub total_p99_ms: Option<f64>,
}

/// One stay in a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stayed {
    /// The stage; null without stages.
    pub stage: Option<String>,
    /// When it began; null if that was before the time asked for and is not known.
    pub entered_at: Option<String>,
    /// When it ended; null if it goes on.
    pub left_at: Option<String>,
    /// For how long the stage's clock went within the time asked for, in seconds.
    pub served_s: f64,
    /// How long it lasted within the time asked for, downtime left out, in seconds.
    pub lasted_s: f64,
    /// The highest weight that was in force.
    pub weight_ppm: u32,
    /// The state in which it ended, or is.
    pub state: String,
    /// Why it began; empty if nobody said.
    pub why_entered: String,
    /// Why it ended; empty if it goes on.
    pub why_left: String,
    /// Its gates as they were judged when it ended, or are.
    pub gates: Vec<Gate>,
    /// Both arms.
    pub arms: Compared,
}

/// Something that was told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Told {
    /// RFC 3339 in UTC.
    pub time: String,
    /// What sort of thing.
    pub kind: String,
    /// The stage at that time; null without stages.
    pub stage: Option<String>,
    /// The trigger, where one fired.
    pub trigger: Option<String>,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// A rollback with its numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incident {
    /// The entry of the audit trail.
    pub event: u64,
    /// RFC 3339 in UTC.
    pub time: String,
    /// The rollout.
    pub rollout: String,
    /// The stage it was in; null without stages.
    pub stage: Option<String>,
    /// `stable`, `previous`, `half`.
    pub to: String,
    /// The trigger, where one fired; null for breaker and person.
    pub trigger: Option<String>,
    /// Who: `plan`, `breaker`, a person.
    pub actor: String,
    /// Why, with numbers.
    pub reason: String,
    /// The weight in force before and after.
    pub weight_before_ppm: u32,
    /// See `weight_before_ppm`.
    pub weight_after_ppm: u32,
    /// Both arms over the last 1 m, 10 m and since the stage began.
    pub windows: Vec<Window>,
    /// Gates of the stage at that moment.
    pub gates: Vec<Gate>,
    /// Triggers at that moment.
    pub triggers: Vec<Trigger>,
    /// What weir took, and what the queries said, at that moment.
    pub resources: Resources,
    /// What became of stable: `pending`, `healthy`, `escalated`, `unknown` (nobody looked), or null if it was not looked at
    /// because the canary goes on serving.
    pub recheck: Option<String>,
    /// What was found; null if nothing.
    pub recheck_reason: Option<String>,
}

/// `GET /api/v1/rollouts/{name}/incidents`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Incidents {
    /// The oldest first.
    pub incidents: Vec<Incident>,
}

/// Both arms over the time before an incident.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// `1m`, `10m`, `stage`.
    pub window: String,
    /// How much time it covers, in seconds.
    pub span_s: f64,
    /// The legacy side.
    pub stable: ArmSum,
    /// The new side.
    pub canary: ArmSum,
}

/// What was recorded of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baseline {
    /// The stage; empty for the baseline.
    pub stage: String,
    /// By name: value and samples.
    pub values: BTreeMap<String, (f64, u64)>,
}

/// A part of the requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    /// `route`, `cohort`, `probes`.
    pub kind: String,
    /// Its name; empty for probes.
    pub name: String,
    /// The arm.
    pub arm: String,
    /// Requests ended.
    pub requests: u64,
    /// Of those, failures of the arm.
    pub errors: u64,
    /// Failures per request; null without requests.
    pub error_rate: Option<f64>,
    /// The 95th percentile of the time to the first byte; null without requests.
    pub p95_ms: Option<f64>,
}

/// What a signal counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signal {
    /// Its name.
    pub name: String,
    /// The arm.
    pub arm: String,
    /// How often.
    pub count: u64,
    /// Per request of that arm; null without requests.
    pub rate: Option<f64>,
}

/// A web vital of an arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VitalSum {
    /// `lcp`, `inp`, `cls`.
    pub vital: String,
    /// The arm.
    pub arm: String,
    /// The 75th percentile, in milliseconds or without unit.
    pub p75: f64,
    /// How many reports.
    pub reports: u64,
}

/// What weir took, and what the queries said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Resident memory of weir in bytes.
    pub memory: Option<Gauge>,
    /// CPU time of weir as a share of one core.
    pub cpu_share: Option<f64>,
    /// By query.
    pub queries: BTreeMap<String, Gauge>,
}

/// A value that goes up and down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gauge {
    /// The lowest.
    pub min: f64,
    /// The last.
    pub last: f64,
    /// The highest.
    pub max: f64,
}

/// The numbers of a short time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    /// When it ended; RFC 3339 in UTC.
    pub at: String,
    /// How much of it weir served, in seconds.
    pub span_s: f64,
    /// The weight at its end; 0 while killed or the breaker is open.
    pub weight_ppm: u32,
    /// The legacy side.
    pub stable: PointArm,
    /// The new side.
    pub canary: PointArm,
}

/// An arm in a point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointArm {
    /// Requests ended.
    pub requests: u64,
    /// Of those, failures of the arm.
    pub errors: u64,
    /// Requests per second.
    pub rps: f64,
    /// Quantiles of the time to the first byte; null without requests.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// Requests under way at its end.
    pub in_flight: u64,
}
