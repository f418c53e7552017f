//! The plans of a config as JSON, with the names that the API has for the same things.

use crate::config::{Config, RolloutConfig};
use crate::rollout::stages::{Gate, Span, Stage, Trigger};
use serde_json::{Value, json};

/// Every rollout with its stages and triggers.
pub fn plans(config: &Config) -> Value {
    let form = |rollout: &RolloutConfig| {
        let plan = &rollout.plan;
        let usual = rollout.shadow.as_ref().map(|shadow| shadow.share);
        let stage = |stage: &Stage| {
            let mut form = self::stage(stage);
            form["shadow_ppm"] = json!(usual.map(|usual| stage.shadow.unwrap_or(usual).ppm()));
            form
        };
        json!({
            "name": *plan.name,
            "weight_ppm": plan.weight.ppm(),
            "stages": plan.stages.list.iter().map(stage).collect::<Vec<_>>(),
            "triggers": plan.stages.triggers.iter().map(trigger).collect::<Vec<_>>(),
        })
    };
    config.rollouts.iter().map(form).collect()
}

fn stage(stage: &Stage) -> Value {
    json!({
        "name": *stage.name,
        "weight_ppm": stage.weight.ppm(),
        "cohorts": stage.cohorts.iter().map(|cohort| &**cohort).collect::<Vec<_>>(),
        "min_duration_s": stage.min_duration.as_secs_f64(),
        "max_duration_s": stage.max_duration.map(|max| max.as_secs_f64()),
        "after": stage.after.as_ref().map(|after| format!("{}:{}", after.rollout, after.stage)),
        "gates": stage.gates.iter().map(gate).collect::<Vec<_>>(),
        "approval": stage.approval,
        "capture_baseline": stage.capture_baseline,
    })
}

fn gate(gate: &Gate) -> Value {
    let window = match gate.span {
        Span::Stage => None,
        Span::Last(window) | Span::InStage(window) => Some(window.as_secs_f64()),
    };
    json!({ "when": gate.criterion.to_string(), "window_s": window, "min_requests": gate.min_requests })
}

fn trigger(trigger: &Trigger) -> Value {
    json!({
        "name": *trigger.name,
        "when": trigger.criterion.to_string(),
        "for_s": trigger.held_for.as_secs_f64(),
        "action": trigger.action.word(),
        "rollout": trigger.rollout.as_deref(),
        "dry_run": trigger.dry_run,
        "window_s": trigger.window.as_secs_f64(),
        "min_requests": trigger.min_requests,
        "spares_both": trigger.spares_both,
        "stages": trigger.stages.iter().map(|stage| &**stage).collect::<Vec<_>>(),
    })
}
