//! How rollouts stand in their life and their plan, as gauges.

use super::Text;
use crate::rollout::breaker::{self, Cause};
use crate::rollout::bucket::Weight;
use crate::rollout::course::{Alarm, Verdict};
use crate::rollout::report::State;
use crate::rollout::standing::Standing;
use std::sync::Arc;

/// How a rollout stands, for its gauges.
#[derive(Clone, Debug)]
pub struct Stand {
    /// The rollout.
    pub rollout: Arc<str>,
    /// Where it is in its life.
    pub state: State,
    /// The weight in force, kill and breaker aside.
    pub weight: Weight,
    /// Where its breaker stands.
    pub breaker: breaker::State,
    /// Trips since the start, by cause.
    pub tripped: [u64; Cause::ALL.len()],
    /// The stages of its plan, and which of them it is in, if it is in one.
    pub stages: (Vec<Arc<str>>, Option<Arc<str>>),
    /// Whether everything goes to stable by a kill.
    pub killed: bool,
    /// The gates of that stage as they are written: -1 fails, 0 waits, 1 passes.
    pub gates: Vec<(String, i8, Sides)>,
    /// Its triggers: 0 is quiet, 1 pending, 2 firing.
    pub triggers: Vec<(Arc<str>, u8, Sides)>,
}

/// The value and the limit of a criterion as last found, in the base units of Prometheus; none without data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sides {
    /// The left side.
    pub value: Option<f64>,
    /// The right side.
    pub limit: Option<f64>,
}

impl Sides {
    /// Both sides, held in that unit of the reports.
    fn of(unit: &str, value: Option<f64>, limit: Option<f64>) -> Sides {
        let base = |side: f64| if unit == "ms" { side / 1000.0 } else { side };
        Sides { value: value.map(base), limit: limit.map(base) }
    }
}

impl Stand {
    /// How a rollout stands.
    pub fn of(standing: &Standing<'_>) -> Stand {
        let stage = standing.stage().filter(|_| standing.serves());
        let stages = standing.plan.stages.list.iter().map(|stage| Arc::clone(&stage.name)).collect();
        let gates = standing.gate_reports().into_iter().map(|gate| {
            let sides = Sides::of(gate.unit, gate.value, gate.limit);
            (gate.when, verdict_number(gate.verdict), sides)
        });
        let triggers = standing.trigger_reports().into_iter().map(|trigger| {
            let sides = Sides::of(trigger.unit, trigger.value, trigger.limit);
            (trigger.name, alarm_number(trigger.state), sides)
        });
        Stand {
            rollout: Arc::clone(&standing.plan.name),
            state: standing.state(),
            weight: standing.weight(),
            breaker: standing.breaker(),
            tripped: standing.runtime.tripped,
            killed: standing.killed(),
            stages: (stages, stage.map(|stage| Arc::clone(&stage.name))),
            gates: gates.filter(|_| stage.is_some()).collect(),
            triggers: triggers.collect(),
        }
    }
}

fn verdict_number(word: &str) -> i8 {
    match word {
        word if word == Verdict::Fail.word() => -1,
        word if word == Verdict::Pass.word() => 1,
        _ => 0,
    }
}

fn alarm_number(word: &str) -> u8 {
    match word {
        word if word == Alarm::Firing.word() => 2,
        word if word == Alarm::Pending.word() => 1,
        _ => 0,
    }
}

/// Weight and state.
pub fn rollouts(text: &mut Text, stands: &[Stand]) {
    text.family("weir_rollout_weight_ratio", "gauge", "Share of units on the canary, kill and breaker aside.");
    for stand in stands {
        text.sample("", &[("rollout", &stand.rollout)], f64::from(stand.weight.ppm()) / 1e6);
    }
    text.family("weir_rollout_state", "gauge", "1 for the state that the rollout is in.");
    for stand in stands {
        for state in State::ALL {
            let labels = [("rollout", &*stand.rollout), ("state", state.word())];
            text.sample("", &labels, u8::from(state == stand.state));
        }
    }
    text.family("weir_rollout_killed", "gauge", "1 while everything goes to stable by a kill.");
    for stand in stands {
        text.sample("", &[("rollout", &stand.rollout)], u8::from(stand.killed));
    }
}

/// Stages, gates and triggers.
pub fn plans(text: &mut Text, stands: &[Stand]) {
    text.family("weir_rollout_stage", "gauge", "1 for the stage that the rollout is in.");
    for stand in stands {
        let (stages, present) = &stand.stages;
        for stage in stages {
            let labels = [("rollout", &*stand.rollout), ("stage", stage)];
            text.sample("", &labels, u8::from(present.as_ref() == Some(stage)));
        }
    }
    let help = "The gates of the stage that the rollout is in: -1 fails, 0 waits, 1 passes.";
    text.family("weir_gate_verdict", "gauge", help);
    each_gate(stands, |labels, verdict, _| text.sample("", labels, verdict));
    let help = "What a gate looks at: shares as ratios, times in seconds, sizes in bytes; without data there is none.";
    text.family("weir_gate_value", "gauge", help);
    each_gate(stands, |labels, _, sides| sides.value.iter().for_each(|value| text.sample("", labels, value)));
    text.family("weir_gate_limit", "gauge", "What a gate compares it with, baselines and the other arm worked out.");
    each_gate(stands, |labels, _, sides| sides.limit.iter().for_each(|limit| text.sample("", labels, limit)));

    text.family("weir_trigger_state", "gauge", "0 is quiet, 1 pending, 2 firing.");
    each_trigger(stands, |labels, state, _| text.sample("", labels, state));
    let help =
        "What a trigger looks at: shares as ratios, times in seconds, sizes in bytes; without data there is none.";
    text.family("weir_trigger_value", "gauge", help);
    each_trigger(stands, |labels, _, sides| sides.value.iter().for_each(|value| text.sample("", labels, value)));
    let help = "What a trigger compares it with, baselines and the other arm worked out.";
    text.family("weir_trigger_limit", "gauge", help);
    each_trigger(stands, |labels, _, sides| sides.limit.iter().for_each(|limit| text.sample("", labels, limit)));
}

fn each_gate(stands: &[Stand], mut write: impl FnMut(&[(&str, &str)], i8, Sides)) {
    for stand in stands {
        for (index, (gate, verdict, sides)) in stand.gates.iter().enumerate() {
            // The same criterion may stand there over two windows.
            let before = stand.gates.iter().take(index).filter(|(other, ..)| other == gate).count();
            let gate = if before > 0 { format!("{gate} ({})", before + 1) } else { gate.clone() };
            write(&[("rollout", &stand.rollout), ("gate", &gate)], *verdict, *sides);
        }
    }
}

fn each_trigger(stands: &[Stand], mut write: impl FnMut(&[(&str, &str)], u8, Sides)) {
    for stand in stands {
        for (trigger, state, sides) in &stand.triggers {
            write(&[("rollout", &stand.rollout), ("trigger", trigger)], *state, *sides);
        }
    }
}
