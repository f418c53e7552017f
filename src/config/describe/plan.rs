//! A plan as tables: what each stage lets through and asks for, and what is watched meanwhile.

use super::columns::{Cell, lay_out};
use crate::config::model::RolloutConfig;
use crate::config::units::{print_share, print_span};
use crate::rollout::bucket::Weight;
use crate::rollout::stages::{Gate, Span, Stage, Stages, Trigger};
use std::time::Duration;

/// The table of the stages and that of the triggers, each under its name; nothing for a rollout without a plan.
pub fn tables(rollout: &RolloutConfig, columns: usize, text: &mut String) {
    let plan = &rollout.plan.stages;
    if !plan.list.is_empty() {
        text.push_str("  plan\n");
        lay_out(&stages(rollout), INDENT, columns, text);
    }
    if !plan.triggers.is_empty() {
        text.push_str("  triggers\n");
        lay_out(&triggers(plan), INDENT, columns, text);
    }
}

/// One row per stage under its head; columns that no stage fills are left out.
fn stages(rollout: &RolloutConfig) -> Vec<Vec<Cell>> {
    let usual = rollout.shadow.as_ref().map(|shadow| shadow.share);
    let head = ["stage", "weight", "shadow", "cohorts", "time", "gates", "also"];
    let mut rows: Vec<Vec<Cell>> = vec![head.map(|name| vec![name.to_owned()]).into()];
    for stage in &rollout.plan.stages.list {
        let shadow = usual.map(|usual| stage.shadow.unwrap_or(usual)).filter(|share| *share > Weight::ZERO);
        rows.push(vec![
            vec![stage.name.to_string()],
            vec![print_share(stage.weight)],
            shadow.map(print_share).into_iter().collect(),
            Some(stage.cohorts.join(", ")).filter(|cohorts| !cohorts.is_empty()).into_iter().collect(),
            vec![lasts(stage)],
            stage.gates.iter().map(gate).collect(),
            also(stage),
        ]);
    }
    let is_filled = |column: usize| rows.iter().skip(1).any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()));
    let filled: Vec<bool> = (0..head.len()).map(is_filled).collect();
    let keep = |row: Vec<Cell>| row.into_iter().zip(&filled).filter(|(_, filled)| **filled).map(|(cell, _)| cell);
    rows.into_iter().map(|row| keep(row).collect()).collect()
}

/// `7d..14d`, or `2d..` where its gates may take as long as they like.
fn lasts(stage: &Stage) -> String {
    format!("{}..{}", print_span(stage.min_duration), stage.max_duration.map_or(String::new(), print_span))
}

/// The criterion, with what differs from other gates.
fn gate(gate: &Gate) -> String {
    let (Span::Last(window) | Span::InStage(window)) = gate.span else {
        return judged(gate.criterion.to_string(), None, gate.min_requests, Gate::MIN_REQUESTS);
    };
    judged(gate.criterion.to_string(), Some(window), gate.min_requests, Gate::MIN_REQUESTS)
}

fn judged(criterion: String, window: Option<Duration>, requests: u64, usual: u64) -> String {
    let window = window.map(|window| format!("over {}", print_span(window)));
    let requests = (requests != usual).then(|| format!("of {requests} requests"));
    let how: Vec<String> = window.into_iter().chain(requests).collect();
    if how.is_empty() { criterion } else { format!("{criterion} ({})", how.join(", ")) }
}

/// What else happens at its start and its end.
fn also(stage: &Stage) -> Cell {
    let after = stage.after.as_ref().map(|after| format!("after {}:{}", after.rollout, after.stage));
    let approval = stage.approval.then(|| "approval".to_owned());
    let baseline = stage.capture_baseline.then(|| "baseline".to_owned());
    after.into_iter().chain(approval).chain(baseline).collect()
}

fn triggers(plan: &Stages) -> Vec<Vec<Cell>> {
    let mut rows: Vec<Vec<Cell>> =
        vec![["trigger", "when", "for", "action", "stages"].map(|name| vec![name.to_owned()]).into()];
    rows.extend(plan.triggers.iter().map(trigger));
    rows
}

fn trigger(trigger: &Trigger) -> Vec<Cell> {
    let window = (trigger.window != Trigger::WINDOW).then_some(trigger.window);
    let mut when = judged(trigger.criterion.to_string(), window, trigger.min_requests, Trigger::MIN_REQUESTS);
    if trigger.spares_both {
        when.push_str(" unless stable's does too");
    }
    let held = if trigger.held_for.is_zero() { "at once".to_owned() } else { print_span(trigger.held_for) };
    let other = trigger.rollout.as_deref().map_or(String::new(), |other| format!(" {other}"));
    let dry = if trigger.dry_run { " (dry run)" } else { "" };
    let stages = if trigger.stages.is_empty() { "all".to_owned() } else { trigger.stages.join(", ") };
    let action = format!("{}{other}{dry}", trigger.action.word());
    [trigger.name.to_string(), when, held, action, stages].map(|text| vec![text]).into()
}

/// Under the name of the table.
const INDENT: usize = 4;
