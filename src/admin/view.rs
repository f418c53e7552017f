//! The JSON forms of the admin API. They are the contract with scripts and dashboards: fields are added, never renamed.
//!
//! Plain translations of `rollout::report` and of decisions; the command line reads the same forms back. Domain types
//! know nothing of them. Times are RFC 3339 in UTC, spans are seconds, latencies milliseconds.

mod diff;
mod plan;
pub mod review;
mod shadow;

pub use diff::{Diff, DiffInShort, Difference, Example, Field, Size};
pub use plan::{Gate, Obstacle, OnCohort, Passage, Planned, Stage, Trigger, Validation};
pub use shadow::Shadow;

use crate::control::Reloaded;
use crate::rollout::assign::{Asker, Split, UnitAsker, decide};
use crate::rollout::bucket::Weight;
use crate::rollout::course::Narrowed;
use crate::rollout::flags::flags;
use crate::rollout::report::{ArmReport, BreakerReport, CohortReport, Event as EventReport, RolloutReport};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// `GET /api/v1/rollouts`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollouts {
    /// In config order.
    pub rollouts: Vec<Rollout>,
    /// The generation of the snapshot that the workers see.
    pub generation: u64,
}

/// `GET /api/v1/rollouts/{name}` and the answer to every change of a rollout.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rollout {
    /// Its name.
    pub name: String,
    /// `pending`, `running`, `paused`, `rolled_back`.
    pub state: String,
    /// Why it is killed, or else why it is in that state; null where there is nothing to say.
    pub state_reason: Option<String>,
    /// The present stage; null before the first and without stages.
    #[serde(default)]
    pub stage: Option<Stage>,
    /// The weight in force, kill aside.
    pub weight_ppm: u32,
    /// The weight of the file.
    pub file_weight_ppm: u32,
    /// Whether everything goes to stable by a kill.
    pub killed: bool,
    /// Whether that kill comes from file or environment, so that `revive` is refused.
    pub killed_by_config: bool,
    /// The breaker; null if it is switched off.
    pub breaker: Option<Breaker>,
    /// Both arms over the window.
    pub arms: Arms,
    /// What is mirrored to the canary over the window; null where nothing ever is.
    #[serde(default)]
    pub shadow: Option<Shadow>,
    /// What somebody should do about its plan, or null.
    #[serde(default)]
    pub note: Option<String>,
    /// The cohorts in config order.
    pub cohorts: Vec<Cohort>,
    /// Gates of the present stage.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// Triggers that are watched.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// All stages of the plan, in order.
    #[serde(default)]
    pub stages: Vec<Planned>,
    /// What stands between the rollout and its next stage; null without stages.
    #[serde(default)]
    pub next: Option<Passage>,
    /// The span that `arms` covers, in seconds.
    pub window_s: f64,
    /// How many times as fast as written its plan runs (`weir serve --time-scale`); 1 is as written.
    #[serde(default = "as_written")]
    pub time_scale: u32,
    /// The generation of the snapshot that carries this state.
    pub generation: u64,
}

/// The breaker of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// `closed`, `open`, `half_open`.
    pub state: String,
    /// Trips that count towards `max_trips`.
    pub trips: u32,
    /// Trips after which the rollout is rolled back; 0 is never.
    pub max_trips: u32,
    /// Why it tripped last, with numbers; null if it never did.
    pub last_reason: Option<String>,
    /// Seconds until some units probe; null unless it is open.
    pub cooldown_s: Option<f64>,
    /// The share of canary units that probe; null unless it is half-open.
    pub probe_ppm: Option<u32>,
    /// What an operator should know besides, or null.
    pub note: Option<String>,
}

/// Both arms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arms {
    /// The legacy side.
    pub stable: Arm,
    /// The new side.
    pub canary: Arm,
}

/// One arm over a window; forced requests are not among its counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arm {
    /// Requests ended.
    pub requests: u64,
    /// Of those, failures of the arm.
    pub errors: u64,
    /// Failures per request, 0 to 1; null without requests.
    pub error_rate: Option<f64>,
    /// Requests per second.
    pub rps: f64,
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
    /// Requests under way now.
    pub in_flight: u64,
}

/// One cohort.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cohort {
    /// Its name.
    pub name: String,
    /// Its switch in the file.
    pub enabled: bool,
    /// Whether it is switched off at run time.
    pub killed: bool,
    /// Whether its members are kept off the canary.
    pub exclude: bool,
    /// Members by list, file and API.
    pub units: usize,
}

/// `GET /api/v1/rollouts/{name}/explain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The rollout.
    pub rollout: String,
    /// The unit; null if the question was about a request without one.
    pub unit: Option<String>,
    /// The unit's position; null without a unit.
    pub bucket_ppm: Option<u32>,
    /// The arm.
    pub arm: String,
    /// The word for why.
    pub reason: String,
    /// The weight in force, kill aside.
    pub weight_ppm: u32,
    /// Whether everything goes to stable by a kill.
    pub killed: bool,
    /// Where the breaker stands: `closed`, `open`, `half_open`.
    #[serde(default)]
    pub breaker: String,
    /// The enabled cohorts that it belongs to, in config order; the first that admits is the reason.
    pub cohorts: Vec<String>,
    /// The rollout that this one requires and the unit's arm there.
    pub requires: Option<Requirement>,
    /// The generation of the snapshot that was asked; 0 for a file.
    pub generation: u64,
}

/// The arm in a rollout that another one requires.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Requirement {
    /// The required rollout.
    pub rollout: String,
    /// The unit's arm there.
    pub arm: String,
}

/// `GET /flags`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flags {
    /// The unit; null if the question was about a request without one.
    pub unit: Option<String>,
    /// By rollout name.
    pub flags: BTreeMap<String, Flag>,
}

/// One rollout's arm in `Flags`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flag {
    /// The arm.
    pub arm: String,
    /// The word for why.
    pub reason: String,
}

/// `GET /api/v1/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Events {
    /// Oldest first.
    pub events: Vec<Event>,
    /// What to ask with as `since` for those that follow.
    pub next: u64,
}

/// One entry of the audit trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Goes up by one.
    pub id: u64,
    /// RFC 3339 in UTC.
    pub time: String,
    /// Null for what concerns the whole process.
    pub rollout: Option<String>,
    /// `weight`, `kill`, `revive`, `cohort`, `reload`, ...
    pub kind: String,
    /// Who.
    pub actor: String,
    /// Why; may be empty.
    pub reason: String,
    /// What it was before, or null.
    pub old: Value,
    /// What it is now, or null.
    pub new: Value,
    /// Both arms' numbers at that moment, or null.
    pub numbers: Value,
}

/// `POST /api/v1/reload`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reload {
    /// The generation now in force.
    pub generation: u64,
    /// One line per change.
    pub changes: Vec<String>,
    /// Keys that only a restart applies.
    pub needs_restart: Vec<String>,
}

impl Rollout {
    /// The form of a report over `window`.
    pub fn of(report: &RolloutReport, window: Duration) -> Rollout {
        let [stable, canary] = &report.arms;
        Rollout {
            name: report.name.to_string(),
            state: report.state.word().to_owned(),
            state_reason: report.state_reason.clone(),
            stage: report.stage.as_ref().map(Stage::of),
            weight_ppm: report.weight.ppm(),
            file_weight_ppm: report.file_weight.ppm(),
            killed: report.killed,
            killed_by_config: report.killed_by_config,
            breaker: report.breaker.as_ref().map(Breaker::of),
            arms: Arms { stable: Arm::of(stable), canary: Arm::of(canary) },
            shadow: report.shadow.as_ref().map(Shadow::of),
            cohorts: report.cohorts.iter().map(Cohort::of).collect(),
            gates: report.gates.iter().map(Gate::of).collect(),
            triggers: report.triggers.iter().map(Trigger::of).collect(),
            stages: report.stages.iter().map(Planned::of).collect(),
            next: report.next.as_ref().map(Passage::of),
            note: report.note.clone(),
            window_s: thousandths(window.as_secs_f64()),
            time_scale: report.time_scale.factor(),
            generation: report.generation,
        }
    }
}

/// A weir that says nothing of a time scale has none.
fn as_written() -> u32 {
    1
}

impl Rollout {
    /// The same with gates and triggers on a cohort's own numbers beside them.
    #[must_use]
    pub fn with(mut self, narrowed: &Narrowed) -> Rollout {
        for (gate, found) in self.gates.iter_mut().zip(&narrowed.gates) {
            gate.cohort = found.as_ref().map(OnCohort::of);
        }
        for (trigger, found) in self.triggers.iter_mut().zip(&narrowed.triggers) {
            trigger.cohort = found.as_ref().map(OnCohort::of);
        }
        self
    }
}

impl Breaker {
    fn of(report: &BreakerReport) -> Breaker {
        Breaker {
            state: report.state.word().to_owned(),
            trips: report.trips,
            max_trips: report.max_trips,
            last_reason: report.last_reason.clone(),
            cooldown_s: report.cooldown_left.map(|left| thousandths(left.as_secs_f64())),
            probe_ppm: report.probe.map(Weight::ppm),
            note: report.note.clone(),
        }
    }
}

impl Arm {
    fn of(report: &ArmReport) -> Arm {
        Arm {
            requests: report.requests,
            errors: report.errors,
            error_rate: report.error_rate(),
            rps: thousandths(report.rps),
            p50_ms: report.p50_ms.map(thousandths),
            p75_ms: report.p75_ms.map(thousandths),
            p90_ms: report.p90_ms.map(thousandths),
            p95_ms: report.p95_ms.map(thousandths),
            p99_ms: report.p99_ms.map(thousandths),
            p999_ms: report.p999_ms.map(thousandths),
            in_flight: report.in_flight,
        }
    }
}

impl Cohort {
    fn of(report: &CohortReport) -> Cohort {
        Cohort {
            name: report.name.to_string(),
            enabled: report.enabled,
            killed: report.killed,
            exclude: report.exclude,
            units: report.units,
        }
    }
}

impl Explanation {
    /// What the rollout of that index decides for the asker; none if there is no such rollout.
    pub fn of(splits: &[Split], index: usize, asker: &UnitAsker, generation: u64) -> Option<Explanation> {
        let split = splits.get(index)?;
        let (unit, switches) = (asker.unit(index), asker.switches(index));
        let decision = decide(splits, index, asker);
        let requires = split.requires.and_then(|required| {
            let arm = decide(splits, required, asker).arm;
            Some(Requirement { rollout: splits.get(required)?.name.to_string(), arm: arm.name().to_owned() })
        });
        let cohorts = split.cohorts.iter().enumerate();
        let cohorts = cohorts.filter(|(cohort, _)| !switches.cohort_killed(*cohort)).map(|(_, cohort)| cohort);
        let cohorts = cohorts.filter(|cohort| cohort.enabled && cohort.contains(unit.as_deref(), asker));
        Some(Explanation {
            rollout: split.name.to_string(),
            bucket_ppm: unit.as_ref().map(|unit| split.bucketer.bucket(unit).ppm()),
            arm: decision.arm.name().to_owned(),
            reason: decision.reason.word(split).into_owned(),
            weight_ppm: split.weight.ppm(),
            killed: switches.killed(),
            breaker: switches.state().word().to_owned(),
            cohorts: cohorts.map(|cohort| cohort.name.to_string()).collect(),
            requires,
            generation,
            unit: unit.map(|unit| unit.into_owned()),
        })
    }
}

impl Flags {
    /// The arms of all rollouts for the asker.
    pub fn of(splits: &[Split], asker: &UnitAsker) -> Flags {
        let form = |arm: &str, reason: &str| Flag { arm: arm.to_owned(), reason: reason.to_owned() };
        let flags = flags(splits, asker);
        let flags = flags.iter().map(|flag| (flag.rollout.to_owned(), form(flag.arm.name(), &flag.reason)));
        Flags { unit: asker.unit(0).map(|unit| unit.into_owned()), flags: flags.collect() }
    }
}

impl Event {
    /// The form of an entry of the audit trail.
    pub fn of(event: &EventReport) -> Event {
        Event {
            id: event.id,
            time: event.time.to_string(),
            rollout: event.rollout.as_deref().map(str::to_owned),
            kind: event.kind.to_owned(),
            actor: event.actor.clone(),
            reason: event.reason.clone(),
            old: json(&event.old),
            new: json(&event.new),
            numbers: json(&event.numbers),
        }
    }
}

impl From<Reloaded> for Reload {
    fn from(reloaded: Reloaded) -> Reload {
        let Reloaded { generation, changes, needs_restart } = reloaded;
        Reload { generation, changes, needs_restart }
    }
}

/// Records are kept as JSON text; one that cannot be read is shown as null rather than hiding the rest.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or(Value::Null)
}

/// Microseconds are as fine as the measurements; more digits would only pretend.
fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
