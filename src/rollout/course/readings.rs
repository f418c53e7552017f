//! Everything a course needs to know at one moment, as plain data: what its criteria ask for, what was measured, what was
//! recorded when stages ended.

use super::Measurements;
use super::recheck::{STABLE_SICK, recheck_after};
use crate::rollout::Arm;
use crate::rollout::criterion::{Criterion, Filter, Metric, Origin, Quantile, Reading, Sample};
use crate::rollout::stages::{Span, Stages};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One value that is asked of the traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Whose; of no meaning for metrics without arms.
    pub arm: Arm,
    /// What.
    pub metric: Metric,
    /// Of which part of the requests.
    pub filter: Option<Filter>,
}

/// The key under which a value is recorded: `canary error_rate`, `stable p95{api}`.
impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.arm, self.metric)?;
        match &self.filter {
            None => Ok(()),
            Some(Filter::Route(name)) => write!(f, "{{{name}}}"),
            Some(Filter::Cohort(name)) => write!(f, "{{cohort:{name}}}"),
        }
    }
}

/// What was measured at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    values: BTreeMap<(Span, Asked), Reading>,
}

/// Both arms over a stage, as recorded when it ended: what `baseline` and `stage(NAME)` refer to. By the printed form of
/// `Asked`: the value in its held unit, and how many samples it came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Captured {
    /// The values.
    pub values: BTreeMap<String, (f64, u64)>,
}

/// Records by stage; the baseline is under the empty name.
pub type Captures = BTreeMap<Arc<str>, Captured>;

impl Readings {
    /// Asks `read` for everything in `asked`.
    pub fn take(asked: Vec<(Span, Asked)>, mut read: impl FnMut(Span, &Asked) -> Reading) -> Readings {
        let value = |(span, asked): (Span, Asked)| {
            let reading = read(span, &asked);
            ((span, asked), reading)
        };
        Readings { values: asked.into_iter().map(value).collect() }
    }
}

impl Captured {
    /// Asks `read` for everything in `asked`; what has no data is left out.
    pub fn take(asked: Vec<Asked>, mut read: impl FnMut(&Asked) -> Reading) -> Captured {
        let value = |asked: Asked| match read(&asked) {
            Reading::Value { value, samples } => Some((asked.to_string(), (value, samples))),
            Reading::NoData(_) => None,
        };
        Captured { values: asked.into_iter().filter_map(value).collect() }
    }
}

/// Measurements together with what was recorded.
pub struct Known<'a> {
    /// What was measured.
    pub readings: &'a Readings,
    /// What was recorded.
    pub captures: &'a Captures,
}

impl Measurements for Known<'_> {
    fn read(&self, span: Span, sample: Sample<'_>) -> Reading {
        let asked = Asked { arm: sample.arm, metric: sample.metric.clone(), filter: sample.filter.cloned() };
        let (name, missing): (&str, _) = match sample.origin {
            Origin::Live => {
                let found = self.readings.values.get(&(span, asked)).cloned();
                return found.unwrap_or(Reading::NoData("not measured".into()));
            }
            Origin::Baseline => ("", "no baseline".to_owned()),
            Origin::Stage(name) => (name, format!("no record of stage `{name}`")),
        };
        let recorded = self.captures.get(name).and_then(|captured| captured.values.get(&asked.to_string()));
        match recorded {
            Some(&(value, samples)) => Reading::Value { value, samples },
            None => Reading::NoData(missing.into()),
        }
    }
}

/// What the gates of that stage and all triggers ask of the traffic, and what is needed to look at stable after a rollback.
/// `went_back` is what the course says of it.
pub fn asks(stages: &Stages, stage: Option<&str>, went_back: bool) -> Vec<(Span, Asked)> {
    let mut asked = Vec::new();
    let mut ask = |span: Span, criterion: &Criterion, both: bool| {
        for sample in criterion.samples().into_iter().filter(|sample| *sample.origin == Origin::Live) {
            let one = |arm| Asked { arm, metric: sample.metric.clone(), filter: sample.filter.cloned() };
            asked.push((span, one(sample.arm)));
            if both {
                asked.extend(Arm::ALL.map(|arm| (span, one(arm))));
            }
        }
    };
    let present = stage.and_then(|stage| stages.find(stage));
    for gate in present.iter().flat_map(|(_, stage)| &stage.gates) {
        ask(gate.span.in_stage(), &gate.criterion, false);
    }
    for trigger in &stages.triggers {
        ask(trigger.span(went_back), &trigger.criterion, trigger.spares_both);
    }
    if let Some(sick) = STABLE_SICK.as_ref() {
        ask(Span::Last(recheck_after(stages)), sick, false);
    }
    asked
}

/// What is recorded of a stage when it ends: the usual numbers of both arms, and whatever the plan's criteria refer to.
pub fn records(stages: &Stages) -> Vec<Asked> {
    let usual =
        [Metric::ErrorRate, Metric::Rate5xx, Metric::Rate4xx, Metric::TimeoutRate, Metric::Rps, Metric::Requests];
    let quantiles =
        Quantile::ALL.into_iter().flat_map(|(_, quantile)| [Metric::FirstByte(quantile), Metric::Total(quantile)]);
    let mut asked: Vec<Asked> = usual
        .into_iter()
        .chain(quantiles)
        .flat_map(|metric| Arm::ALL.map(|arm| Asked { arm, metric: metric.clone(), filter: None }))
        .collect();
    let gates = stages.list.iter().flat_map(|stage| &stage.gates).map(|gate| &gate.criterion);
    for criterion in gates.chain(stages.triggers.iter().map(|trigger| &trigger.criterion)) {
        for sample in criterion.samples() {
            let of = |arm| Asked { arm, metric: sample.metric.clone(), filter: sample.filter.cloned() };
            asked.extend(Arm::ALL.map(of));
        }
    }
    asked.sort();
    asked.dedup();
    asked
}
