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
    /// The gates of that stage as they are written: -1 fails, 0 waits, 1 passes.
    pub gates: Vec<(String, i8)>,
    /// Its triggers: 0 is quiet, 1 pending, 2 firing.
    pub triggers: Vec<(Arc<str>, u8)>,
}

impl Stand {
    /// How a rollout stands.
    pub fn of(standing: &Standing<'_>) -> Stand {
        let stage = standing.stage().filter(|_| standing.serves());
        let stages = standing.plan.stages.list.iter().map(|stage| Arc::clone(&stage.name)).collect();
        let gates = standing.gate_reports().into_iter().map(|gate| (gate.when, verdict_number(gate.verdict)));
        let triggers =
            standing.trigger_reports().into_iter().map(|trigger| (trigger.name, alarm_number(trigger.state)));
        Stand {
            rollout: Arc::clone(&standing.plan.name),
            state: standing.state(),
            weight: standing.weight(),
            breaker: standing.breaker(),
            tripped: standing.runtime.tripped,
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
    for stand in stands {
        for (index, (gate, verdict)) in stand.gates.iter().enumerate() {
            // The same criterion may stand there over two windows.
            let before = stand.gates.iter().take(index).filter(|(other, _)| other == gate).count();
            let gate = if before > 0 { format!("{gate} ({})", before + 1) } else { gate.clone() };
            text.sample("", &[("rollout", &stand.rollout), ("gate", &gate)], verdict);
        }
    }
    text.family("weir_trigger_state", "gauge", "0 is quiet, 1 pending, 2 firing.");
    for stand in stands {
        for (trigger, state) in &stand.triggers {
            text.sample("", &[("rollout", &stand.rollout), ("trigger", trigger)], state);
        }
    }
}
