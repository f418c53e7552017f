//! The plan of a rollout as JSON: where it stands, its gates and its triggers.

use super::thousandths;
use crate::rollout::report::{GateReport, StageReport, TriggerReport};
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
}

impl Stage {
    pub(super) fn of(report: &StageReport) -> Stage {
        Stage {
            name: report.name.to_string(),
            index: report.index,
            count: report.count,
            entered_at: report.entered_at.map(|at| at.to_string()),
            served_s: thousandths(report.served.as_secs_f64()),
            min_duration_s: thousandths(report.min_duration.as_secs_f64()),
            max_duration_s: report.max_duration.map(|max| thousandths(max.as_secs_f64())),
            approval: report.approval,
            approved: report.approved,
        }
    }
}

impl Gate {
    pub(super) fn of(report: &GateReport) -> Gate {
        let GateReport { when, verdict, value, limit, reason } = report.clone();
        Gate { when, verdict: verdict.to_owned(), value, limit, reason }
    }
}

impl Trigger {
    pub(super) fn of(report: &TriggerReport) -> Trigger {
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
        }
    }
}
