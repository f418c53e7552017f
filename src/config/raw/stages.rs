//! Stages, gates and triggers of a plan, as they are written.

use super::BothArms;
use crate::config::decode::{Decode, Path, Shape, Spot, section, words};
use crate::config::problem::Problems;
use crate::config::tree::{Kind, Node};
use crate::rollout::bucket::Weight;
use std::time::Duration;

section! {
    /// A stage of the plan.
    Stage {
        /// Its name.
        name: [required] String,
        /// Share of units on the canary.
        weight: [required] Weight,
        /// Share of units that are mirrored.
        shadow: [optional] Weight,
        /// Time it lasts at least.
        min_duration: [optional] Duration = "0s",
        /// Time after which it pauses without a pass.
        max_duration: [optional] Duration,
        /// Cohorts that it admits.
        cohorts: [optional] Vec<Spot<String>> = "[]",
        /// `ROLLOUT:STAGE` that must be finished before it starts.
        after: [optional] String,
        /// Criteria that must pass before it ends.
        gates: [optional] Vec<Spot<Gate>> = "[]",
        /// Whether it ends only when somebody approves.
        approval: [optional] bool = "false",
        /// Whether both arms are recorded as the baseline when it ends.
        capture_baseline: [optional] bool = "false",
    }
}

/// A criterion as text, or a table with options.
#[derive(Clone, Debug)]
pub enum Gate {
    /// The criterion alone.
    Text(String),
    /// With options.
    Options(GateOptions),
}

impl Decode for Gate {
    fn shape() -> Shape {
        Shape::Either(vec![GateOptions::shape(), Shape::Text])
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match node.kind {
            Kind::Table(_) => GateOptions::decode(node, path, problems).map(Gate::Options),
            _ => String::decode(node, path, problems).map(Gate::Text),
        }
    }
}

section! {
    /// A criterion with options.
    GateOptions {
        /// The criterion.
        when: [required] String,
        /// Over which time: a duration, or `"stage"` for all of the stage.
        window: [optional] GateWindow = "stage",
        /// Requests it needs; fewer are no verdict.
        min_requests: [optional] u32 = "100",
    }
}

/// The time a gate looks at.
#[derive(Clone, Copy, Debug)]
pub enum GateWindow {
    /// All of the stage.
    Stage,
    /// The last part of it.
    Last(Duration),
}

impl Decode for GateWindow {
    fn shape() -> Shape {
        Shape::Either(vec![Shape::Span, Shape::Word(&["stage"])])
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Text(text) if text == "stage" => Some(GateWindow::Stage),
            _ => Duration::decode(node, path, problems).map(GateWindow::Last),
        }
    }
}

section! {
    /// A criterion that is watched while stages run, and what it does.
    Trigger {
        /// Its name.
        name: [required] String,
        /// The criterion.
        when: [required] String,
        /// How long it must hold.
        r#for: [optional] Duration = "0s",
        /// What it does.
        action: [required] Action,
        /// `true` only reports.
        dry_run: [optional] bool = "false",
        /// Another rollout that is acted on.
        rollout: [optional] String,
        /// Over which time.
        window: [optional] Duration = "1m",
        /// Requests it needs.
        min_requests: [optional] u32 = "1",
        /// Whether the canary is spared when stable breaches the same limit.
        both_arms: [optional] BothArms = "trip",
        /// The stages in which it is watched. Default: all.
        stages: [optional] Vec<Spot<String>> = "[]",
    }
}

words! {
    /// What a trigger does.
    Action {
        /// Weight 0, cohorts off.
        Rollback = "rollback",
        /// To the stage before.
        Previous = "previous",
        /// Half the weight, and pause.
        Half = "half",
        /// Pause.
        Pause = "pause",
        /// Tell somebody.
        Alert = "alert",
    }
}
