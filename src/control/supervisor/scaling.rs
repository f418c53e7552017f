//! The time scale of a rehearsal with real traffic: the one place where plans get it, and what an operator is told of it.
//!
//! A config is scaled after it is read and before anything looks at its plans; the file, and what is shown of it, stays as
//! written.

use crate::config::{Config, RolloutConfig};
use crate::rollout::criterion::{Criterion, Metric};
use crate::rollout::scale::TimeScale;
use std::sync::Arc;
use std::time::Duration;

/// The config with its plans at that scale. Says what cannot be judged well at it.
pub fn config(config: Config, scale: TimeScale) -> Config {
    let scaled = |rollout: RolloutConfig| RolloutConfig { plan: rollout.plan.scaled(scale), ..rollout };
    let rollouts = config.rollouts.into_iter().map(scaled).collect();
    let config = Config { rollouts, ..config };
    for doubt in doubts(&config, scale) {
        tracing::warn!("{doubt}");
    }
    config
}

/// The scale in words; none if plans run as written.
pub fn told(scale: TimeScale) -> Option<String> {
    let factor = scale.factor();
    scale
        .is_scaled()
        .then(|| format!("a rehearsal: plans run {factor} times as fast as written (--time-scale {factor})"))
}

/// Queries are asked as often as written. Where a trigger's `for` has become shorter than that, one answer decides; where a
/// stage has, it may end before there is a new one.
fn doubts(config: &Config, scale: TimeScale) -> Vec<String> {
    let mut doubts = Vec::new();
    if !scale.is_scaled() {
        return doubts;
    }
    for plan in config.rollouts.iter().map(|rollout| &rollout.plan) {
        for trigger in &plan.stages.triggers {
            let slow = interval(config, &trigger.criterion).filter(|interval| trigger.held_for < *interval);
            if let Some(interval) = slow.filter(|_| !trigger.held_for.is_zero()) {
                doubts.push(format!(
                    "rollouts.{}: trigger `{}` holds for {:?} at this time scale, but its query is asked every {interval:?}: \
                     one answer decides (a shorter `interval` mends it)",
                    plan.name, trigger.name, trigger.held_for
                ));
            }
        }
        for stage in &plan.stages.list {
            let of_gates = stage.gates.iter().filter_map(|gate| interval(config, &gate.criterion));
            if let Some(interval) = of_gates.max().filter(|interval| stage.min_duration < *interval) {
                doubts.push(format!(
                    "rollouts.{}: stage `{}` lasts {:?} at this time scale, but a query of its gates is asked every \
                     {interval:?}: an answer from before it may pass it (a shorter `interval` mends it)",
                    plan.name, stage.name, stage.min_duration
                ));
            }
        }
    }
    doubts
}

/// The longest time between two answers to a query that the criterion reads.
fn interval(config: &Config, criterion: &Criterion) -> Option<Duration> {
    let names = criterion.samples().into_iter().filter_map(|sample| match sample.metric {
        Metric::Query(name) => Some(name),
        _ => None,
    });
    let of = |name: &Arc<str>| config.queries.iter().find(|query| query.name == *name).map(|query| query.interval);
    names.filter_map(of).max()
}
