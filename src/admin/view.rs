//! The JSON forms of the admin API. They are the contract with scripts and dashboards: fields are added, never renamed.
//!
//! Plain translations of `rollout::report` and of decisions; the command line reads the same forms back. Domain types
//! know nothing of them. Times are RFC 3339 in UTC, spans are seconds, latencies milliseconds.

mod diff;
mod plan;
pub mod review;
mod shadow;

pub use diff::{Diff, Difference, Field, Size};
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
mod tests {
    use super::*;
    use crate::clock::Wall;
    use crate::rollout::assign::{Phase, Switches};
    use crate::rollout::breaker::State;
    use crate::rollout::bucket::Bucketer;
    use crate::rollout::cohort::Cohort;
    use crate::rollout::report::{self, ShadowReport};
    use crate::rollout::scale::TimeScale;
    use serde_json::json;
    use std::sync::Arc;

    fn report() -> RolloutReport {
        let canary = ArmReport {
            requests: 8,
            errors: 2,
            rps: 0.133_333_3,
            p50_ms: Some(4.128_49),
            p75_ms: Some(6.0),
            p90_ms: Some(8.0),
            p95_ms: Some(9.0),
            p99_ms: Some(9.5),
            p999_ms: Some(9.75),
            in_flight: 1,
        };
        RolloutReport {
            name: "chat".into(),
            state: report::State::Running,
            state_reason: Some("slow".to_owned()),
            weight: Weight::from_ppm(125_000).unwrap(),
            file_weight: Weight::FULL,
            killed: true,
            killed_by_config: false,
            stage: None,
            gates: Vec::new(),
            triggers: Vec::new(),
            stages: Vec::new(),
            next: None,
            breaker: Some(BreakerReport {
                state: State::Open,
                trips: 2,
                max_trips: 3,
                last_reason: Some("error_rate 34.0% > 5.0%".to_owned()),
                cooldown_left: Some(Duration::from_micros(24_500_499)),
                probe: None,
                note: None,
            }),
            shadow: Some(ShadowReport { share: Weight::FULL, copies: canary.clone(), skipped: vec![("method", 3)] }),
            arms: [ArmReport::default(), canary],
            cohorts: vec![CohortReport {
                name: "internal".into(),
                enabled: true,
                killed: false,
                exclude: false,
                units: 2,
            }],
            time_scale: TimeScale::new(600).unwrap(),
            generation: 7,
        }
    }

    #[test]
    fn a_rollout_has_the_fields_of_the_contract() {
        let form = serde_json::to_value(Rollout::of(&report(), Duration::from_secs(60))).unwrap();
        let empty = json!({
            "requests": 0, "errors": 0, "error_rate": null, "rps": 0.0,
            "p50_ms": null, "p75_ms": null, "p90_ms": null, "p95_ms": null, "p99_ms": null, "p999_ms": null,
            "in_flight": 0,
        });
        let busy = json!({
            "requests": 8, "errors": 2, "error_rate": 0.25, "rps": 0.133,
            "p50_ms": 4.128, "p75_ms": 6.0, "p90_ms": 8.0, "p95_ms": 9.0, "p99_ms": 9.5, "p999_ms": 9.75,
            "in_flight": 1,
        });
        let breaker = json!({
            "state": "open", "trips": 2, "max_trips": 3, "last_reason": "error_rate 34.0% > 5.0%", "cooldown_s": 24.5,
            "probe_ppm": null, "note": null,
        });
        let expected = json!({
            "name": "chat", "state": "running", "state_reason": "slow", "stage": null,
            "weight_ppm": 125_000, "file_weight_ppm": 1_000_000,
            "killed": true, "killed_by_config": false, "breaker": breaker,
            "arms": {"stable": empty, "canary": busy},
            "shadow": {
                "share_ppm": 1_000_000, "requests": 8, "errors": 2, "error_rate": 0.25, "rps": 0.133,
                "p50_ms": 4.128, "p95_ms": 9.0, "p99_ms": 9.5, "skipped": {"method": 3},
            },
            "cohorts": [{"name": "internal", "enabled": true, "killed": false, "exclude": false, "units": 2}],
            "gates": [], "triggers": [], "stages": [], "next": null, "window_s": 60.0, "time_scale": 600,
            "generation": 7,
        });
        assert_eq!(form, expected);
    }

    #[test]
    fn the_command_line_reads_what_later_versions_add() {
        let mut form = serde_json::to_value(Rollout::of(&report(), Duration::from_secs(60))).unwrap();
        form["stage"] = json!({"name": "canary-10", "index": 1});
        form["breaker"] = json!({"state": "closed", "more": 1});
        form["gates"] = json!([{"when": "error_rate < 1%"}]);
        form["surprise"] = json!(1);
        let read: Rollout = serde_json::from_value(form).unwrap();
        assert_eq!((read.name.as_str(), read.arms.canary.errors), ("chat", 2));
    }

    fn splits() -> Vec<Split> {
        let cohort = |name: &str, exclude: bool| Cohort {
            exclude,
            users: Arc::new(["alice"].into_iter().collect()),
            ..Cohort::new(name)
        };
        let split = |name: &str, weight, requires| Split {
            name: name.into(),
            phase: Phase::Serving,
            bucketer: Bucketer::native(name),
            weight,
            cohorts: vec![cohort("internal", false), Cohort { enabled: false, ..cohort("off", false) }],
            requires,
            probe: None,
        };
        vec![split("objects", Weight::ZERO, None), split("chat", Weight::FULL, Some(0))]
    }

    #[test]
    fn an_explanation_is_the_decision_with_its_facts() {
        let splits = splits();
        let chat = Explanation::of(&splits, 1, &UnitAsker::of("alice"), 7).unwrap();
        let expected = json!({
            "rollout": "chat", "unit": "alice", "bucket_ppm": Bucketer::native("chat").bucket("alice").ppm(),
            "arm": "canary", "reason": "cohort:internal", "weight_ppm": 1_000_000, "killed": false,
            "breaker": "closed", "cohorts": ["internal"], "requires": {"rollout": "objects", "arm": "canary"}, "generation": 7,
        });
        assert_eq!(serde_json::to_value(chat).unwrap(), expected);

        let killed = UnitAsker::of("alice").with_switches([Switches::KILLED]);
        let objects = Explanation::of(&splits, 0, &killed, 7).unwrap();
        assert_eq!((objects.reason.as_str(), objects.killed), ("kill", true));
        let open = UnitAsker::of("alice").with_switches([Switches::OPEN]);
        let objects = Explanation::of(&splits, 0, &open, 7).unwrap();
        assert_eq!((objects.reason.as_str(), objects.breaker.as_str()), ("breaker", "open"));
        assert_eq!(Explanation::of(&splits, 1, &killed, 7).unwrap().reason, "requires");
        assert_eq!(Explanation::of(&splits, 2, &killed, 7), None);
    }

    #[test]
    fn flags_name_every_rollout() {
        let flags = serde_json::to_value(Flags::of(&splits(), &UnitAsker::of("bob"))).unwrap();
        let stable = |reason: &str| json!({"arm": "stable", "reason": reason});
        assert_eq!(flags, json!({"unit": "bob", "flags": {"objects": stable("bucket"), "chat": stable("requires")}}));
    }

    #[test]
    fn an_event_carries_its_records_as_json() {
        let event = EventReport {
            id: 3,
            time: Wall::from_millis(1_600_000_000_250),
            rollout: None,
            kind: "reload",
            actor: "config".to_owned(),
            reason: String::new(),
            old: "null".to_owned(),
            new: r#"{"generation":2}"#.to_owned(),
            numbers: "damaged".to_owned(),
        };
        let expected = json!({
            "id": 3, "time": "2020-09-13T12:26:40.250Z", "rollout": null, "kind": "reload", "actor": "config",
            "reason": "", "old": null, "new": {"generation": 2}, "numbers": null,
        });
        assert_eq!(serde_json::to_value(Event::of(&event)).unwrap(), expected);
    }
}
