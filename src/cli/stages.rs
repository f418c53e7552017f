//! A rollout's plan as tables: its stages with where it stands, its gates and its triggers. Text out of the API's forms.

use super::plan;
use super::render::{self, DASH, Paint, Table, Tone};
use crate::admin::view::{Gate, Planned, Rollout, Trigger};
use crate::rollout::criterion::{Dimension, show};

/// Everything there is to say of the plan, each part with an empty line after it; nothing without one.
pub fn tables(rollout: &Rollout, paint: Paint) -> String {
    let mut text = String::new();
    if !rollout.stages.is_empty() {
        text.push_str(&stages(rollout).print(paint));
        text.push_str(&format!("now: {}\n", plan::stands(rollout)));
        text.extend(plan::note(rollout));
        text.push('\n');
    }
    text.push_str(&criteria(rollout, paint));
    text
}

/// The gates and the triggers, each table with an empty line after it; nothing without them.
pub fn criteria(rollout: &Rollout, paint: Paint) -> String {
    let mut text = String::new();
    if !rollout.gates.is_empty() {
        text.push_str(&format!("{}\n", gates(&rollout.gates).print(paint)));
    }
    if !rollout.triggers.is_empty() {
        text.push_str(&format!("{}\n", triggers(&rollout.triggers).print(paint)));
    }
    text
}

/// The stages in order, the present one marked, with how long it has lasted.
pub fn stages(rollout: &Rollout) -> Table {
    let present = rollout.stage.as_ref();
    let mut table = Table::new("<<>>>><");
    table.head(["", "stage", "weight", "at least", "at most", "served", "asks for"]);
    for (index, stage) in rollout.stages.iter().enumerate() {
        let here = present.is_some_and(|present| present.index == index && rollout.state != "completed");
        let (mark, tone) = match (here, stage.finished) {
            (true, _) => (">", Tone::Bold),
            (false, true) => ("+", Tone::Green),
            (false, false) => ("", Tone::Dim),
        };
        let served = match present.filter(|_| here) {
            Some(present) => render::lasting(present.served_s),
            None if stage.finished => "done".to_owned(),
            None => DASH.to_owned(),
        };
        table.tones([
            (tone, mark.to_owned()),
            (tone, stage.name.clone()),
            (tone, render::share(stage.weight_ppm)),
            (tone, render::lasting(stage.min_duration_s)),
            (tone, stage.max_duration_s.map_or(DASH.to_owned(), render::lasting)),
            (tone, served),
            (tone, asks(stage)),
        ]);
    }
    table
}

fn asks(stage: &Planned) -> String {
    let mut asks = Vec::new();
    if !stage.cohorts.is_empty() {
        asks.push(format!("cohorts {}", stage.cohorts.join(", ")));
    }
    if let Some(after) = &stage.after {
        asks.push(format!("after {after}"));
    }
    if stage.approval {
        asks.push("approval".to_owned());
    }
    asks.join("; ")
}

fn gates(gates: &[Gate]) -> Table {
    let mut table = Table::new("<<>>><");
    table.head(["gate", "verdict", "value", "limit", "margin", "samples"]);
    for gate in gates {
        let tone = match gate.verdict.as_str() {
            "pass" => Tone::Green,
            "fail" => Tone::Red,
            _ => Tone::Yellow,
        };
        let samples = match gate.samples >= gate.min_requests {
            true => render::count(gate.samples),
            false => format!("{} of {}", render::count(gate.samples), render::count(gate.min_requests)),
        };
        table.tones([
            (Tone::Plain, gate.when.clone()),
            (tone, gate.verdict.clone()),
            (tone, value(gate.value, &gate.unit)),
            (Tone::Plain, value(gate.limit, &gate.unit)),
            (Tone::Plain, margin(gate.margin)),
            (Tone::Plain, samples),
        ]);
    }
    table
}

fn triggers(triggers: &[Trigger]) -> Table {
    let mut table = Table::new("<<<>>><<");
    table.head(["trigger", "when", "state", "value", "limit", "margin", "held", "then"]);
    for trigger in triggers {
        let tone = match trigger.state.as_str() {
            "quiet" => Tone::Green,
            "firing" => Tone::Red,
            _ => Tone::Yellow,
        };
        let held = match trigger.for_s > 0.0 {
            true => format!("{} of {}", render::lasting(trigger.held_s), render::lasting(trigger.for_s)),
            false => DASH.to_owned(),
        };
        let other = trigger.rollout.as_deref().map_or(String::new(), |other| format!(" {other}"));
        let dry = if trigger.dry_run { " (dry run)" } else { "" };
        table.tones([
            (Tone::Plain, trigger.name.clone()),
            (Tone::Plain, trigger.when.clone()),
            (tone, trigger.state.clone()),
            (tone, value(trigger.value, &trigger.unit)),
            (Tone::Plain, value(trigger.limit, &trigger.unit)),
            (Tone::Plain, margin(trigger.margin)),
            (tone, held),
            (Tone::Plain, format!("{}{other}{dry}", trigger.action)),
        ]);
    }
    table
}

/// A value in the unit that the API gives it.
pub fn value(value: Option<f64>, unit: &str) -> String {
    let dimension = match unit {
        "ratio" => Dimension::Share,
        "ms" => Dimension::Time,
        "bytes" => Dimension::Size,
        _ => Dimension::Plain,
    };
    value.map_or(DASH.to_owned(), |value| show(value, dimension))
}

/// How far from the limit, as a share of it.
fn margin(margin: Option<f64>) -> String {
    margin.map_or(DASH.to_owned(), |margin| format!("{:+.0}%", (margin * 100.0).clamp(-9999.0, 9999.0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_shows_where_it_stands_and_how_its_criteria_do() {
        let arm = json!({"requests": 0, "errors": 0, "error_rate": null, "rps": 0.0, "in_flight": 0});
        let form = json!({
            "name": "chat", "state": "running", "state_reason": null, "weight_ppm": 100_000, "file_weight_ppm": 1_000_000,
            "killed": false, "killed_by_config": false, "breaker": null, "arms": {"stable": arm, "canary": arm},
            "cohorts": [], "window_s": 60.0, "generation": 7,
            "stage": {"name": "ten", "index": 1, "count": 3, "served_s": 7200.0, "min_duration_s": 86_400.0},
            "stages": [
                {"name": "team", "weight_ppm": 0, "min_duration_s": 3600.0, "cohorts": ["internal"], "finished": true},
                {"name": "ten", "weight_ppm": 100_000, "min_duration_s": 86_400.0, "max_duration_s": 259_200.0,
                 "approval": true},
                {"name": "full", "weight_ppm": 1_000_000, "min_duration_s": 0.0, "after": "objects:ramp"},
            ],
            "next": {"to": "full", "obstacles": [{"kind": "time", "remaining_s": 79_200.0}]},
            "gates": [
                {"when": "p95 < 20ms", "verdict": "pass", "value": 12.0, "limit": 20.0, "margin": 0.4, "unit": "ms",
                 "samples": 1900, "min_requests": 100},
                {"when": "error_rate < 1%", "verdict": "wait", "value": null, "limit": null, "margin": null,
                 "unit": "ratio", "samples": 12, "min_requests": 100},
            ],
            "triggers": [
                {"name": "errors", "when": "error_rate > 0.5%", "state": "pending", "value": 0.02, "limit": 0.005,
                 "margin": -3.0, "unit": "ratio", "for_s": 300.0, "held_s": 90.0, "action": "rollback"},
            ],
        });
        let expected = "   stage  weight  at least  at most  served  asks for
+  team       0%        1h        -    done  cohorts internal
>  ten       10%       24h      72h      2h  approval
   full     100%        0s        -       -  after objects:ramp
now: stage ten (2 of 3) at 10%; 22h to serve, then the next stage begins if its 2 gates pass and objects:ramp has ended

gate             verdict  value  limit  margin  samples
p95 < 20ms       pass      12ms   20ms    +40%  1,900
error_rate < 1%  wait         -      -       -  12 of 100

trigger  when               state    value  limit  margin  held         then
errors   error_rate > 0.5%  pending   2.0%  0.50%   -300%  1m30s of 5m  rollback

";
        assert_eq!(tables(&serde_json::from_value(form).unwrap(), Paint::default()), expected);
    }
}
