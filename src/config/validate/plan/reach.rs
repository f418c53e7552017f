//! What a criterion can ever see: who can be on which arm in a stage, what is counted at all, between which bounds a value lies.
//! What can never come is a mistake in the plan, not a gate that waits.
//!
//! An operator's switches (`weight` as the ceiling of all stages, `enabled` of a cohort) are no mistake of the plan: a plan that
//! is good with them on must not be refused because one is off.

use super::criteria::{Around, Use};
use crate::config::decode::Spot;
use crate::config::raw;
use crate::rollout::Arm;
use crate::rollout::bucket::Weight;
use crate::rollout::criterion::{Comparison, Criterion, Dimension, Expression, Filter, Metric, Origin, Sample};
use crate::rollout::stages::Stage;
use std::borrow::Cow;

/// Why there will never be a value for a sample; none if there can be one.
pub fn never_known(sample: Sample<'_>, around: &Around<'_>, used: Use) -> Option<String> {
    if let Some(why) = never_counted(sample, around) {
        return Some(why);
    }
    match sample.origin {
        Origin::Live => absent(sample, &around.judged, around),
        Origin::Baseline => {
            let records: Vec<&Stage> = around.before.iter().filter(|stage| stage.capture_baseline).collect();
            if records.is_empty() {
                let earlier = if used == Use::Gate { "earlier " } else { "" };
                return Some(format!("no {earlier}stage has `capture_baseline = true`"));
            }
            absent(sample, &records, around)
        }
        Origin::Stage(name) => match around.before.iter().find(|stage| stage.name == *name) {
            Some(stage) => absent(sample, &[stage], around),
            None => {
                // One whose weight cannot be read has its own problem.
                let known = around.raw.stages.iter().flat_map(|stages| &stages.value);
                let known = known.filter(|stage| stage.value.weight.is_some());
                let exists = known.filter_map(|stage| stage.value.name.as_ref()).any(|known| *known.value == **name);
                exists.then(|| format!("stage `{name}` ends no earlier"))
            }
        },
    }
}

/// Why a gate has little or nothing to compare with: the word that says so, and the reason.
pub fn seldom_known(criterion: &Criterion, around: &Around<'_>) -> Option<(&'static str, String)> {
    let stage = around.judged.first().filter(|stage| stage.weight == Weight::FULL)?;
    let leaves_some = around.raw.requires.is_some() || cohorts(around.raw).any(|(_, cohort)| is_true(&cohort.exclude));
    let of_stable = |sample: &Sample<'_>| {
        let live = *sample.origin == Origin::Live;
        live && (is_mirrored(sample.metric) || (sample.metric.has_arms() && sample.arm == Arm::Stable))
    };
    let samples = criterion.samples();
    let sample = samples.iter().find(|sample| of_stable(sample) && !leaves_some)?;
    let (word, what) = if is_mirrored(sample.metric) { ("shadow", "mirrored") } else { ("stable", "on stable") };
    Some((
        word,
        format!("everyone with a unit is on the canary in stage `{}`, and hardly anything is {what}", stage.name),
    ))
}

/// Why a criterion can never hold, whatever is measured; none if it can.
pub fn never_true(criterion: &Criterion, around: &Around<'_>) -> Option<String> {
    let metric = &criterion.quantity.metric;
    let (least, most) = bounds(metric, around)?;
    let Linear { terms, rest: limit } = Linear::of(&criterion.limit, criterion)?;
    let times = match terms.as_slice() {
        [] => 0.0,
        [(sample, times)] if *sample == criterion.own_sample() => *times,
        _ => return None,
    };
    // What the value is beyond its limit, at both ends of what it can be.
    let beyond = |value: f64| if times == 1.0 { -limit } else { value * (1.0 - times) - limit };
    let (low, high) = (beyond(least).min(beyond(most)), beyond(least).max(beyond(most)));
    let possible = match criterion.comparison {
        Comparison::Below => low < 0.0,
        Comparison::AtMost => low <= 0.0,
        Comparison::Above => high > 0.0,
        Comparison::AtLeast => high >= 0.0,
    };
    (!possible).then(|| match criterion.comparison {
        _ if !terms.is_empty() => format!("`{metric}` is compared with itself"),
        _ if least == most => format!("`{metric}` is {}% in a stage of weight 0%", most * 100.0),
        Comparison::Below | Comparison::AtMost => format!("`{metric}` is never below 0"),
        Comparison::Above | Comparison::AtLeast => format!("`{metric}` is never above 100%"),
    })
}

/// An expression as a sum: what is measured, each so many times, and a number.
struct Linear<'a> {
    terms: Vec<(Sample<'a>, f64)>,
    rest: f64,
}

impl<'a> Linear<'a> {
    /// None if something that is measured is multiplied with something else that is.
    fn of(expression: &'a Expression, criterion: &'a Criterion) -> Option<Linear<'a>> {
        let both = |left, right| Some((Linear::of(left, criterion)?, Linear::of(right, criterion)?));
        Some(match expression {
            Expression::Number(number) => Linear { terms: Vec::new(), rest: number.value() },
            Expression::Reference(reference) => {
                Linear { terms: vec![(criterion.sample_of(reference), 1.0)], rest: 0.0 }
            }
            Expression::Sum(left, right) => {
                let (left, right) = both(left, right)?;
                left.plus(right)
            }
            Expression::Difference(left, right) => {
                let (left, right) = both(left, right)?;
                left.plus(right.times(-1.0))
            }
            Expression::Product(left, right) => match both(left, right)? {
                (Linear { terms, rest }, other) | (other, Linear { terms, rest }) if terms.is_empty() => {
                    other.times(rest)
                }
                _ => return None,
            },
        })
    }

    fn plus(mut self, other: Self) -> Self {
        for (sample, times) in other.terms {
            match self.terms.iter_mut().find(|(known, _)| *known == sample) {
                Some((_, known)) => *known += times,
                None => self.terms.push((sample, times)),
            }
        }
        self.rest += other.rest;
        self.without_nothing()
    }

    fn times(mut self, factor: f64) -> Self {
        self.terms.iter_mut().for_each(|(_, times)| *times *= factor);
        self.rest *= factor;
        self.without_nothing()
    }

    fn without_nothing(mut self) -> Self {
        self.terms.retain(|(_, times)| *times != 0.0);
        self
    }
}

/// The routes by name, with the rollouts that apply there; none where every rollout there is does.
pub fn routes(root: &raw::Root) -> Vec<(Cow<'_, str>, Option<Vec<&str>>)> {
    let list = root.routes.as_ref().map(|routes| routes.value.as_slice()).unwrap_or_default();
    if list.is_empty() {
        return vec![("default".into(), None)];
    }
    let mut routes = Vec::new();
    for (index, route) in list.iter().enumerate() {
        let name = route.value.name.as_ref().map(|name| Cow::Borrowed(name.value.as_str()));
        let applied = route.value.rollouts.iter().flat_map(|rollouts| &rollouts.value);
        routes.push((
            name.unwrap_or_else(|| format!("route-{}", index + 1).into()),
            Some(applied.map(|rollout| rollout.value.as_str()).collect()),
        ));
    }
    routes
}

/// What nobody counts, in whatever stage.
fn never_counted(sample: Sample<'_>, around: &Around<'_>) -> Option<String> {
    let diff = around.raw.shadow.as_ref().and_then(|shadow| shadow.value.diff.as_ref());
    let breaker = around.raw.breaker.as_ref().and_then(|breaker| breaker.value.enabled.as_ref());
    match sample.metric {
        Metric::ShadowDiffRate if diff.is_none() => {
            return Some("answers are not compared (`shadow.diff`)".to_owned());
        }
        Metric::Vital(..) if !around.root.listeners.iter().flat_map(|list| &list.value).any(has_vitals) => {
            return Some("no listener has a `vitals_path`".to_owned());
        }
        Metric::BlockedRate if !Arm::ALL.into_iter().any(|arm| responds(around.raw, arm)) => {
            return Some("no arm answers by itself (`respond`)".to_owned());
        }
        Metric::BreakerTrips | Metric::BreakerRate if breaker.is_some_and(|enabled| !enabled.value) => {
            return Some("its breaker is off (`enabled = false`)".to_owned());
        }
        _ => {}
    }
    match sample.filter? {
        Filter::Route(name) => {
            let routes = routes(around.root);
            let (_, applied) = routes.iter().find(|(known, _)| **known == **name)?;
            let applies = applied.as_ref().is_none_or(|applied| applied.contains(&around.name));
            (!applies).then(|| format!("route `{name}` does not name rollout `{}`", around.name))
        }
        Filter::Cohort(name) if sample.arm == Arm::Stable => {
            Some(format!("the units of cohort `{name}` are never counted on stable"))
        }
        Filter::Cohort(_) => None,
    }
}

/// What a stage keeps from being measured in it.
#[derive(PartialEq)]
enum Lack {
    Copies,
    Canary,
    Cohort,
}

/// Why no such value can be measured in any of these stages; none without stages.
fn absent(sample: Sample<'_>, stages: &[&Stage], around: &Around<'_>) -> Option<String> {
    let own_share = around.raw.shadow.as_ref().and_then(|shadow| shadow.value.share.as_ref());
    let own_share = own_share.map_or(Weight::ZERO, |share| share.value);
    let of_canary = sample.metric.has_arms() && sample.arm == Arm::Canary && *sample.metric != Metric::BlockedRate
        || matches!(sample.metric, Metric::FallbackRate | Metric::BreakerRate);
    let lack = |stage: &&Stage| match sample.filter {
        _ if is_mirrored(sample.metric) => (stage.shadow.unwrap_or(own_share) == Weight::ZERO).then_some(Lack::Copies),
        _ if !of_canary => None,
        Some(Filter::Cohort(name)) if !stage.cohorts.contains(name) => {
            // One that does not exist is reported as that.
            cohorts(around.raw).any(|(known, _)| *known == **name).then_some(Lack::Cohort)
        }
        _ => is_empty(stage).then_some(Lack::Canary),
    };
    if stages.is_empty() && around.raw.stages.as_ref().is_none_or(|stages| stages.value.is_empty()) {
        // Without a plan what is mirrored is the rollout's own share, and anybody may be on the canary.
        let nothing = is_mirrored(sample.metric) && own_share == Weight::ZERO;
        return nothing.then(|| "nothing is mirrored (`shadow`)".to_owned());
    }
    let lacks: Vec<Lack> = stages.iter().map(lack).collect::<Option<_>>()?;
    let place = match stages {
        [stage] => format!("in stage `{}`", stage.name),
        _ => "in any of its stages".to_owned(),
    };
    Some(match lacks.first()? {
        Lack::Copies => "nothing is mirrored (`shadow`)".to_owned(),
        Lack::Canary => format!("nobody is on the canary {place}"),
        Lack::Cohort => match sample.filter {
            Some(Filter::Cohort(name)) => format!("cohort `{name}` is not admitted {place}"),
            _ => return None,
        },
    })
}

/// Whether nobody is on the canary.
fn is_empty(stage: &Stage) -> bool {
    stage.weight == Weight::ZERO && stage.cohorts.is_empty()
}

/// Between which values a metric lies; none if it may be anything.
fn bounds(metric: &Metric, around: &Around<'_>) -> Option<(f64, f64)> {
    let nobody = !around.judged.is_empty() && around.judged.iter().all(|stage| is_empty(stage));
    Some(match metric {
        // Requests are not units, so some room is left where somebody is on the canary.
        Metric::Share if nobody => (0.0, 0.0),
        Metric::BlockedRate if nobody => match responds(around.raw, Arm::Stable) {
            true => (1.0, 1.0),
            false => (0.0, 0.0),
        },
        // More may be posted than there are requests, and there may be several cores.
        Metric::Signal(_) | Metric::OwnCpu => (0.0, f64::INFINITY),
        metric => match metric.dimension() {
            Dimension::Any => return None,
            Dimension::Share => (0.0, 1.0),
            Dimension::Time | Dimension::Size | Dimension::Plain => (0.0, f64::INFINITY),
        },
    })
}

fn is_mirrored(metric: &Metric) -> bool {
    matches!(metric, Metric::ShadowErrorRate | Metric::ShadowFirstByte(_) | Metric::ShadowDiffRate)
}

fn cohorts(raw: &raw::Rollout) -> impl Iterator<Item = (&str, &raw::Cohort)> {
    let named = raw.cohorts.iter().flat_map(|cohorts| &cohorts.value);
    named.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_ref()?)))
}

fn is_true(spot: &Option<Spot<bool>>) -> bool {
    spot.as_ref().is_some_and(|spot| spot.value)
}

fn has_vitals(listener: &Spot<raw::Listener>) -> bool {
    listener.value.vitals_path.is_some()
}

fn responds(raw: &raw::Rollout, arm: Arm) -> bool {
    let arm = if arm == Arm::Stable { &raw.stable } else { &raw.canary };
    arm.as_ref().is_some_and(|arm| arm.value.respond.is_some())
}
