//! Gates and triggers on one cohort's own numbers. Nothing is decided by it: it is for whoever asks how a cohort does before
//! more are let in.

use super::watched::{Over, window_text};
use super::{Asked, Known, Measurements, Readings};
use crate::rollout::Arm;
use crate::rollout::criterion::{Criterion, Evaluation, Filter, Origin, Reading, Sample};
use crate::rollout::stages::{Gate, Span, Stages, Trigger, span_text};
use std::sync::Arc;

/// What gates and triggers come to on a cohort's own numbers, in the order of the plan; none where a criterion cannot be
/// narrowed, because it is of another arm, of a part already, or of what has no parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Narrowed {
    /// The gates of the stage.
    pub gates: Vec<Option<Evaluation>>,
    /// All triggers.
    pub triggers: Vec<Option<Evaluation>>,
}

/// Judges the gates of that stage and all triggers. What they refer to (stable, the baseline) stays that of everybody: a
/// cohort has no stable side.
pub fn narrowed(
    stages: &Stages,
    stage: Option<&str>,
    cohort: &Arc<str>,
    captures: &super::Captures,
    read: impl Fn(Span, &Asked) -> Reading,
) -> Narrowed {
    let own = Own { cohort: Filter::Cohort(Arc::clone(cohort)), captures, read };
    let gates = stage.and_then(|stage| stages.find(stage)).map(|(_, stage)| stage.gates.as_slice());
    let gate = |gate: &Gate| {
        let over = Over { measured: &own, span: gate.span.in_stage() };
        let criterion = narrow(&gate.criterion, &own.cohort)?;
        Some(criterion.evaluate(&over, gate.min_requests, &window_text(gate.span)))
    };
    let trigger = |trigger: &Trigger| {
        let over = Over { measured: &own, span: Span::Last(trigger.window) };
        let criterion = narrow(&trigger.criterion, &own.cohort).filter(|_| trigger.is_watched_in(stage))?;
        Some(criterion.evaluate(&over, trigger.min_requests, &span_text(trigger.window)))
    };
    Narrowed {
        gates: gates.unwrap_or_default().iter().map(gate).collect(),
        triggers: stages.triggers.iter().map(trigger).collect(),
    }
}

fn narrow(criterion: &Criterion, cohort: &Filter) -> Option<Criterion> {
    let quantity = &criterion.quantity;
    let can = quantity.arm == Arm::Canary && quantity.filter.is_none() && quantity.metric.has_parts();
    can.then(|| {
        let mut narrowed = criterion.clone();
        narrowed.quantity.filter = Some(cohort.clone());
        narrowed
    })
}

/// Measurements whose left side is the cohort's and whose right side is everybody's.
struct Own<'a, R> {
    cohort: Filter,
    captures: &'a super::Captures,
    read: R,
}

impl<R: Fn(Span, &Asked) -> Reading> Measurements for Own<'_, R> {
    fn read(&self, span: Span, sample: Sample<'_>) -> Reading {
        let live = *sample.origin == Origin::Live;
        if !live {
            let nothing = Readings::default();
            let known = Known { readings: &nothing, captures: self.captures };
            return known.read(span, Sample { filter: None, ..sample });
        }
        let filter = (sample.arm == Arm::Canary).then(|| self.cohort.clone());
        (self.read)(span, &Asked { arm: sample.arm, metric: sample.metric.clone(), filter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::course::Captured;
    use crate::rollout::criterion::parse;
    use crate::rollout::stages::{Action, Stage};
    use std::time::Duration;

    fn stages(gates: &[&str], trigger: &str) -> Stages {
        let gate = |text: &&str| Gate { criterion: parse(text).unwrap(), span: Span::Stage, min_requests: 10 };
        let stage = Stage {
            name: "beta".into(),
            weight: crate::rollout::bucket::Weight::ZERO,
            shadow: None,
            min_duration: Duration::ZERO,
            max_duration: None,
            cohorts: Vec::new(),
            after: None,
            gates: gates.iter().map(gate).collect(),
            approval: false,
            capture_baseline: false,
        };
        let trigger = Trigger {
            name: "errors".into(),
            criterion: parse(trigger).unwrap(),
            held_for: Duration::ZERO,
            action: Action::Pause,
            dry_run: false,
            rollout: None,
            window: Duration::from_secs(60),
            min_requests: 1,
            spares_both: false,
            stages: Vec::new(),
        };
        Stages { list: vec![stage], triggers: vec![trigger], ..Stages::default() }
    }

    #[test]
    fn the_left_side_is_the_cohorts_and_the_right_side_is_everybodys() {
        let gates = ["error_rate <= stable + 0.5%", "p95 < 1.1 * baseline", "share >= 40%", "p95{api} < 1s"];
        let stages = stages(&gates, "error_rate > 1%");
        let recorded = Captured { values: [("stable p95".to_owned(), (100.0, 50))].into() };
        let captures = [(Arc::from(""), recorded)].into();
        let read = |_: Span, asked: &Asked| {
            let cohorts = asked.filter == Some(Filter::Cohort("beta".into()));
            let value = match (asked.to_string().as_str(), cohorts) {
                ("canary error_rate{cohort:beta}", true) => 0.02,
                ("stable error_rate", false) => 0.001,
                ("canary p95{cohort:beta}", true) => 90.0,
                (other, _) => panic!("{other} was asked"),
            };
            Reading::Value { value, samples: 200 }
        };
        let found = narrowed(&stages, Some("beta"), &"beta".into(), &captures, read);
        let reasons: Vec<Option<&str>> =
            found.gates.iter().map(|gate| gate.as_ref().map(|gate| gate.reason.as_str())).collect();
        let expected = [
            Some("error_rate{cohort:beta} 2.0% > 0.60% (4 of 200 requests in the stage; stable 0.10%)"),
            Some("p95{cohort:beta} 90ms < 110ms (200 requests in the stage; baseline 100ms)"),
            None,
            None,
        ];
        assert_eq!(reasons, expected);
        assert_eq!(found.triggers[0].as_ref().unwrap().holds, Some(true));
    }

    #[test]
    fn a_cohort_without_requests_is_no_data() {
        let stages = stages(&["error_rate < 1%"], "error_rate > 1%");
        let read = |_: Span, _: &Asked| Reading::NoData("no requests".into());
        let found = narrowed(&stages, Some("beta"), &"beta".into(), &super::super::Captures::new(), read);
        assert_eq!(found.gates[0].as_ref().unwrap().holds, None);
        assert_eq!(found.triggers[0].as_ref().unwrap().reason, "error_rate{cohort:beta}: no requests");
    }
}
