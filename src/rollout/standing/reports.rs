//! Where a rollout is in its plan, its gates and its triggers, as reports.

use super::Standing;
use crate::rollout::course::{Verdict, Watched};
use crate::rollout::criterion::{Comparison, Criterion, Dimension, Evaluation, Origin};
use crate::rollout::report::{GateReport, StageReport, State, TriggerReport};
use crate::rollout::stages::{Gate, Span, Stage, Trigger};
use std::sync::Arc;
use std::time::Duration;

impl Standing<'_> {
    /// Where it is in its plan, for people.
    pub fn stage_report(&self) -> Option<StageReport> {
        let (progress, stages) = (&self.saved.progress, &self.plan.stages);
        let (index, stage) = stages.find(progress.stage.as_deref()?)?;
        Some(StageReport {
            name: Arc::clone(&stage.name),
            index,
            count: stages.list.len(),
            entered_at: progress.entered_at,
            served: progress.served,
            min_duration: stage.min_duration,
            max_duration: stage.max_duration,
            approval: stage.approval,
            approved: progress.approved,
        })
    }

    /// The gates of its stage, as last judged.
    pub fn gate_reports(&self) -> Vec<GateReport> {
        let gates = self.stage().map(|stage| stage.gates.as_slice()).unwrap_or_default();
        let judged = self.runtime.course.gates_of(self.saved.progress.visit);
        let report = |(index, gate): (usize, &Gate)| gate_report(gate, judged.get(index).cloned().unwrap_or_default());
        gates.iter().enumerate().map(report).collect()
    }

    /// The gates of the stage of that name and all triggers as they were found at the last look, even if the rollout has just
    /// been moved: what its record tells.
    pub fn found(&self, stage: Option<&str>) -> (Vec<GateReport>, Vec<TriggerReport>) {
        let (judged, watched) = self.runtime.course.last_found();
        let stage = stage.and_then(|name| self.plan.stages.find(name)).map(|(_, stage)| stage);
        let gates = stage.map(|stage| stage.gates.as_slice()).unwrap_or_default();
        let gates = gates.iter().zip(judged).filter(|_| gates.len() == judged.len());
        let trigger = |trigger: &Trigger| {
            let found = watched.iter().find(|(name, _)| *name == trigger.name).map(|(_, found)| found.clone());
            trigger_report(trigger, found.unwrap_or_default())
        };
        (
            gates.map(|(gate, found)| gate_report(gate, found.clone())).collect(),
            self.plan.stages.triggers.iter().map(trigger).collect(),
        )
    }

    /// What to do where a baseline that criteria wait for was not recorded when it should have been; none where all is well.
    pub fn lacks_baseline(&self) -> Option<String> {
        let (progress, plan) = (&self.saved.progress, &self.plan.stages);
        let is_there = self.runtime.captures.get("").is_some_and(|captured| !captured.values.is_empty());
        let (index, _) =
            plan.find(progress.stage.as_deref()?).filter(|_| !is_there && progress.state != State::RolledBack)?;
        let ended = |stage: &&Stage| stage.capture_baseline && progress.finished.contains(&stage.name);
        let meant = plan.list.iter().take(index).rev().find(ended)?;
        let gates = plan.list.iter().skip(index).flat_map(|stage| &stage.gates).map(|gate| &gate.criterion);
        let mut criteria = gates.chain(plan.triggers.iter().map(|trigger| &trigger.criterion));
        let compares = |of: &Criterion| of.samples().iter().any(|sample| *sample.origin == Origin::Baseline);
        criteria.any(compares).then(|| {
            format!(
                "stage `{}` ended with nothing measured, so there is no baseline, and what compares with it waits: \
                 `weir baseline {} --capture` records the present stage",
                meant.name, self.plan.name
            )
        })
    }

    /// Its triggers, as last evaluated.
    pub fn trigger_reports(&self) -> Vec<TriggerReport> {
        let found = |trigger: &Trigger| self.runtime.course.trigger(&trigger.name).cloned().unwrap_or_default();
        self.plan.stages.triggers.iter().map(|trigger| trigger_report(trigger, found(trigger))).collect()
    }
}

fn gate_report(gate: &Gate, found: Evaluation) -> GateReport {
    GateReport {
        when: gate.criterion.to_string(),
        verdict: Verdict::of(&found).word(),
        value: found.value,
        limit: found.limit,
        reason: found.reason,
        samples: found.samples,
        unit: unit(&gate.criterion),
        margin: margin(&gate.criterion, found.value, found.limit),
        window: window(gate.span),
        min_requests: gate.min_requests,
    }
}

fn trigger_report(trigger: &Trigger, watched: Watched) -> TriggerReport {
    TriggerReport {
        name: Arc::clone(&trigger.name),
        when: trigger.criterion.to_string(),
        state: watched.alarm.word(),
        value: watched.evaluation.value,
        limit: watched.evaluation.limit,
        reason: watched.evaluation.reason,
        held_for: trigger.held_for,
        held: watched.held,
        action: trigger.action.word(),
        dry_run: trigger.dry_run,
        rollout: trigger.rollout.clone(),
        samples: watched.evaluation.samples,
        unit: unit(&trigger.criterion),
        // A trigger says what is bad: it is well as long as that does not hold.
        margin: margin(&trigger.criterion, watched.evaluation.value, watched.evaluation.limit)
            .map(|margin| if margin == 0.0 { margin } else { -margin }),
        window: trigger.window,
        min_requests: trigger.min_requests,
    }
}

/// How values of a criterion are held.
fn unit(criterion: &Criterion) -> &'static str {
    match criterion.dimension() {
        Dimension::Share => "ratio",
        Dimension::Time => "ms",
        Dimension::Size => "bytes",
        Dimension::Plain | Dimension::Any => "",
    }
}

/// How far a criterion is from turning, as a share of its limit: above zero while it holds.
fn margin(criterion: &Criterion, value: Option<f64>, limit: Option<f64>) -> Option<f64> {
    let (value, limit) = value.zip(limit).filter(|(_, limit)| *limit != 0.0)?;
    let over = (value - limit) / limit.abs();
    Some(match criterion.comparison {
        Comparison::Above | Comparison::AtLeast => over,
        Comparison::Below | Comparison::AtMost => 0.0 - over,
    })
}

/// The time that a gate looks at; none is the whole stage.
const fn window(span: Span) -> Option<Duration> {
    match span {
        Span::Stage => None,
        Span::Last(window) | Span::InStage(window) => Some(window),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::criterion::parse;

    #[test]
    fn a_margin_is_the_distance_to_the_limit_on_the_side_where_the_criterion_holds() {
        for (when, value, limit, expected) in [
            ("p95 < 20ms", 15.0, 20.0, Some(0.25)),
            ("p95 < 20ms", 25.0, 20.0, Some(-0.25)),
            ("share >= 40%", 0.5, 0.4, Some(0.25)),
            ("share >= 40%", 0.3, 0.4, Some(-0.25)),
            ("error_rate <= stable", 0.0, 0.0, None),
        ] {
            let found = margin(&parse(when).unwrap(), Some(value), Some(limit));
            let close = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
                (found, expected) => found == expected,
            };
            assert!(close, "{when} at {value}: {found:?}");
        }
        assert_eq!(margin(&parse("p95 < 20ms").unwrap(), None, Some(20.0)), None);
    }

    #[test]
    fn a_query_is_held_in_the_unit_of_its_limit() {
        let of = |when: &str| unit(&parse(when).unwrap());
        assert_eq!(of("query.memory < 50MB"), "bytes");
        assert_eq!(of("query.conversion >= 3%"), "ratio");
        assert_eq!(of("query.depth < 7"), "");
        assert_eq!(of("p95 < 1.1 * baseline"), "ms");
        assert_eq!(of("rps > 3"), "");
    }
}
