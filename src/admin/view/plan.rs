//! The plan of a rollout as JSON: where it stands, its gates and its triggers.

use super::thousandths;
use crate::rollout::criterion::Evaluation;
use crate::rollout::report::{
    GateReport, ObstacleReport, PassageReport, PlannedStage, RolloutReport, StageReport, TriggerReport,
};
use serde::{Deserialize, Serialize};

/// Where a rollout is in its plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stage {
    /// The stage.
    pub name: String,
    /// Its place, from 0.
    pub index: usize,
    /// How many stages there are.
    pub count: usize,
    /// When it began; RFC 3339 in UTC.
    pub entered_at: Option<String>,
    /// Time served in it, in seconds.
    pub served_s: f64,
    /// Time it lasts at least, in seconds.
    pub min_duration_s: f64,
    /// How much of that is still to serve, in seconds.
    pub remaining_s: f64,
    /// Time after which it pauses without a pass, in seconds; null without one.
    pub max_duration_s: Option<f64>,
    /// Whether it ends only when a person has said so.
    pub approval: bool,
    /// Whether one has.
    pub approved: bool,
}

/// A gate as last judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    /// The criterion.
    pub when: String,
    /// `pass`, `fail` or `wait`.
    pub verdict: String,
    /// The left side: shares as fractions, times in milliseconds, sizes in bytes; null without data.
    pub value: Option<f64>,
    /// The right side; null without data.
    pub limit: Option<f64>,
    /// The verdict as a sentence.
    pub reason: String,
    /// From how many requests, or samples of another kind, the value comes.
    pub samples: u64,
    /// How many it needs.
    pub min_requests: u64,
    /// How value and limit are held: `ratio`, `ms`, `bytes`, or empty for a plain number.
    pub unit: String,
    /// The distance to the limit as a share of it, below zero on the wrong side; null without data, or if the limit is 0.
    pub margin: Option<f64>,
    /// The time it looks at, in seconds; null is the whole stage.
    pub window_s: Option<f64>,
    /// The same on the numbers of the cohort that was asked about; absent if none was, or if it cannot be narrowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cohort: Option<OnCohort>,
}

/// A criterion on one cohort's own numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OnCohort {
    /// Whether it holds; null without data.
    pub holds: Option<bool>,
    /// The left side; null without data.
    pub value: Option<f64>,
    /// The right side; null without data.
    pub limit: Option<f64>,
    /// From how many requests the value comes.
    pub samples: u64,
    /// The evaluation as a sentence.
    pub reason: String,
}

/// A trigger as last evaluated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// The criterion.
    pub when: String,
    /// `quiet`, `pending` or `firing`.
    pub state: String,
    /// The left side, as in `Gate`; null without data.
    pub value: Option<f64>,
    /// The right side; null without data.
    pub limit: Option<f64>,
    /// How long it must hold, in seconds.
    pub for_s: f64,
    /// How long it has held, in seconds.
    pub held_s: f64,
    /// What it does.
    pub action: String,
    /// Whether it only tells.
    pub dry_run: bool,
    /// The evaluation as a sentence.
    pub reason: String,
    /// The rollout that is acted on, if it is another one.
    pub rollout: Option<String>,
    /// See `Gate`.
    pub samples: u64,
    /// See `Gate`.
    pub min_requests: u64,
    /// See `Gate`.
    pub unit: String,
    /// The distance to the limit as a share of it, below zero where the criterion holds; see `Gate`.
    pub margin: Option<f64>,
    /// The time it looks at, in seconds.
    pub window_s: f64,
    /// See `Gate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cohort: Option<OnCohort>,
}

/// One stage of the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Share of units on the canary.
    pub weight_ppm: u32,
    /// Time it lasts at least, in seconds.
    pub min_duration_s: f64,
    /// Time after which it pauses without a pass, in seconds; null without one.
    pub max_duration_s: Option<f64>,
    /// Cohorts that it admits.
    pub cohorts: Vec<String>,
    /// What must have ended before, as `rollout:stage`; null if nothing must.
    pub after: Option<String>,
    /// Whether it ends only when a person has said so.
    pub approval: bool,
    /// Whether it has ended forwards.
    pub finished: bool,
}

/// What stands between a rollout and a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Passage {
    /// The stage that it is in; null before the first.
    pub from: Option<String>,
    /// The stage that is asked about; null is the end of the plan.
    pub to: Option<String>,
    /// Whether that stage has begun already.
    pub entered: bool,
    /// `pass` if it begins at the next look, `fail` if something says no, else `wait`.
    pub verdict: String,
    /// Whether `promote` would be carried out.
    pub may_promote: bool,
    /// What holds it.
    pub obstacles: Vec<Obstacle>,
}

/// One thing that holds a rollout where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Obstacle {
    /// `gate`, `time`, `approval`, `after`, `start`, `paused`, `killed`, `breaker`, `held`, `off`, `rolled_back`,
    /// `completed`, `cohort`, `stages`.
    pub kind: String,
    /// `fail` if it says no, `wait` if it may yet come.
    pub verdict: String,
    /// What there is to say.
    pub reason: String,
    /// Of a time, how much is left, in seconds.
    pub remaining_s: Option<f64>,
}

/// `GET /api/v1/rollouts/{name}/validate`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Validation {
    /// The rollout.
    pub rollout: String,
    /// The cohort that was asked about, or null.
    pub cohort: Option<String>,
    /// Whether the stage may begin, or has begun already.
    pub may: bool,
    /// The rollout's state.
    pub state: String,
    /// What stands in the way.
    #[serde(flatten)]
    pub passage: Passage,
    /// Where the rollout is in its plan; null before the first stage.
    pub stage: Option<Stage>,
    /// The gates of that stage.
    pub gates: Vec<Gate>,
    /// The generation of the snapshot that carries this state.
    pub generation: u64,
}

impl Stage {
    /// The form of a report.
    pub fn of(report: &StageReport) -> Stage {
        Stage {
            name: report.name.to_string(),
            index: report.index,
            count: report.count,
            entered_at: report.entered_at.map(|at| at.to_string()),
            served_s: thousandths(report.served.as_secs_f64()),
            min_duration_s: thousandths(report.min_duration.as_secs_f64()),
            remaining_s: thousandths(report.min_duration.saturating_sub(report.served).as_secs_f64()),
            max_duration_s: report.max_duration.map(|max| thousandths(max.as_secs_f64())),
            approval: report.approval,
            approved: report.approved,
        }
    }
}

impl Gate {
    /// The form of a report.
    pub fn of(report: &GateReport) -> Gate {
        Gate {
            when: report.when.clone(),
            verdict: report.verdict.to_owned(),
            value: report.value,
            limit: report.limit,
            reason: report.reason.clone(),
            samples: report.samples,
            min_requests: report.min_requests,
            unit: report.unit.to_owned(),
            margin: report.margin.map(thousandths),
            window_s: report.window.map(|window| thousandths(window.as_secs_f64())),
            cohort: None,
        }
    }
}

impl Trigger {
    /// The form of a report.
    pub fn of(report: &TriggerReport) -> Trigger {
        Trigger {
            name: report.name.to_string(),
            when: report.when.clone(),
            state: report.state.to_owned(),
            value: report.value,
            limit: report.limit,
            for_s: thousandths(report.held_for.as_secs_f64()),
            held_s: thousandths(report.held.as_secs_f64()),
            action: report.action.to_owned(),
            dry_run: report.dry_run,
            reason: report.reason.clone(),
            rollout: report.rollout.as_deref().map(str::to_owned),
            samples: report.samples,
            min_requests: report.min_requests,
            unit: report.unit.to_owned(),
            margin: report.margin.map(thousandths),
            window_s: thousandths(report.window.as_secs_f64()),
            cohort: None,
        }
    }
}

impl OnCohort {
    pub(super) fn of(found: &Evaluation) -> OnCohort {
        OnCohort {
            holds: found.holds,
            value: found.value,
            limit: found.limit,
            samples: found.samples,
            reason: found.reason.clone(),
        }
    }
}

impl Planned {
    pub(super) fn of(report: &PlannedStage) -> Planned {
        Planned {
            name: report.name.to_string(),
            weight_ppm: report.weight.ppm(),
            min_duration_s: thousandths(report.min_duration.as_secs_f64()),
            max_duration_s: report.max_duration.map(|max| thousandths(max.as_secs_f64())),
            cohorts: report.cohorts.iter().map(|cohort| cohort.to_string()).collect(),
            after: report.after.as_ref().map(|(rollout, stage)| format!("{rollout}:{stage}")),
            approval: report.approval,
            finished: report.finished,
        }
    }
}

impl Passage {
    pub(super) fn of(report: &PassageReport) -> Passage {
        let obstacle = |obstacle: &ObstacleReport| Obstacle {
            kind: obstacle.kind.to_owned(),
            verdict: obstacle.verdict.to_owned(),
            reason: obstacle.reason.clone(),
            remaining_s: obstacle.remaining.map(|left| thousandths(left.as_secs_f64())),
        };
        Passage {
            from: report.from.as_deref().map(str::to_owned),
            to: report.to.as_deref().map(str::to_owned),
            entered: report.entered,
            verdict: report.verdict.to_owned(),
            may_promote: report.may_promote,
            obstacles: report.obstacles.iter().map(obstacle).collect(),
        }
    }
}

impl Validation {
    /// The form of what stands between a rollout and a stage.
    pub fn of(report: &RolloutReport, passage: &PassageReport, cohort: Option<String>) -> Validation {
        Validation {
            rollout: report.name.to_string(),
            cohort,
            may: passage.verdict == "pass",
            state: report.state.word().to_owned(),
            passage: Passage::of(passage),
            stage: report.stage.as_ref().map(Stage::of),
            gates: report.gates.iter().map(Gate::of).collect(),
            generation: report.generation,
        }
    }
}
