//! What queries say of which nobody has said anything: values with which gates pass and no trigger acts.
//!
//! A rehearsal is of a service without faults unless faults are assumed, and a query without a value would end every plan at
//! its first gate. Such values are chosen from the plan's own limits, kept for as long as they fit, and told of with the story,
//! so that nobody takes them for measured. A query that no gate asks for is not chosen: nothing waits for it.

use crate::rollout::criterion::{Comparison, Criterion, Dimension, Metric, Origin, Quantity, Reading, Sample, Source};
use crate::rollout::plan::Plan;
use crate::rollout::stages::{Gate, Stage};
use std::sync::Arc;

/// What a value must be, by one criterion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// How it compares.
    pub comparison: Comparison,
    /// With what.
    pub limit: f64,
}

/// A value that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Usual {
    /// Of which query.
    pub query: Arc<str>,
    /// The value in its held unit.
    pub value: f64,
    /// What it is by its criteria.
    pub dimension: Dimension,
    /// The rollout and the stage from which on it holds; none is from the beginning.
    pub from: Option<(Arc<str>, Arc<str>)>,
}

/// The queries that gates ask for, by name, with what kind of value they have.
pub fn asked<'a>(plans: impl Iterator<Item = &'a Plan>) -> Vec<(Arc<str>, Dimension)> {
    let stages = plans.flat_map(|plan| &plan.stages.list);
    let mut asked: Vec<(Arc<str>, Dimension)> = Vec::new();
    for gate in stages.flat_map(|stage| &stage.gates) {
        let Metric::Query(name) = &gate.criterion.quantity.metric else { continue };
        let dimension = gate.criterion.dimension();
        match asked.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) if matches!(known, Dimension::Plain | Dimension::Any) => *known = dimension,
            Some(_) => {}
            None => asked.push((Arc::clone(name), dimension)),
        }
    }
    asked
}

/// What the gates of these stages and the triggers of their plan leave a query, as far as `read` knows their limits.
pub fn bounds<'a>(
    query: &str,
    stages: impl IntoIterator<Item = &'a Stage>,
    plan: &'a Plan,
    read: &impl Fn(Sample<'_>) -> Reading,
) -> Vec<Bound> {
    let is_of = |criterion: &&Criterion| matches!(&criterion.quantity.metric, Metric::Query(name) if **name == *query);
    let gates = stages.into_iter().flat_map(|stage| &stage.gates).map(|gate: &Gate| &gate.criterion).filter(is_of);
    let mut bounds: Vec<Bound> = gates.filter_map(|criterion| bound(criterion, read)).collect();
    let triggers = plan.stages.triggers.iter().map(|trigger| &trigger.criterion);
    let quiet = triggers.filter(is_of).filter_map(|criterion| bound(criterion, read)).map(|bound| Bound {
        comparison: match bound.comparison {
            Comparison::Below => Comparison::AtLeast,
            Comparison::AtMost => Comparison::Above,
            Comparison::Above => Comparison::AtMost,
            Comparison::AtLeast => Comparison::Below,
        },
        ..bound
    });
    bounds.extend(quiet);
    bounds
}

/// What the left side of a criterion must be; none if its limit is not known.
pub fn bound(criterion: &Criterion, read: &impl Fn(Sample<'_>) -> Reading) -> Option<Bound> {
    let found = criterion.evaluate(&Limits { of: &criterion.quantity, read }, 0, "");
    found.limit.map(|limit| Bound { comparison: criterion.comparison, limit })
}

/// Any value on the left side, so that the right one is worked out.
struct Limits<'a, R> {
    of: &'a Quantity,
    read: &'a R,
}

impl<R: Fn(Sample<'_>) -> Reading> Source for Limits<'_, R> {
    fn read(&self, sample: Sample<'_>) -> Reading {
        let own = *sample.metric == self.of.metric && sample.arm == self.of.arm;
        match own && *sample.origin == Origin::Live {
            true => Reading::Value { value: 0.0, samples: 1 },
            false => (self.read)(sample),
        }
    }
}

/// A value within all bounds: the one before if that is, else one that leaves room on both sides. None if there is none.
pub fn fitting(bounds: &[Bound], dimension: Dimension, before: Option<f64>) -> Option<f64> {
    let fits = |value: &f64| *value >= 0.0 && bounds.iter().all(|bound| bound.comparison.holds(*value, bound.limit));
    if let Some(before) = before.filter(fits) {
        return Some(before);
    }
    let (mut low, mut high) = (0.0_f64, f64::INFINITY);
    for Bound { comparison, limit } in bounds {
        match comparison {
            Comparison::Below | Comparison::AtMost => high = high.min(*limit),
            Comparison::Above | Comparison::AtLeast => low = low.max(*limit),
        }
    }
    let whole = if dimension == Dimension::Share && low <= 1.0 { high.min(1.0) } else { high };
    let middle = if whole.is_finite() { (low + whole) / 2.0 } else { 2.0 * low };
    // A count may well be none or one; a limit itself is better than a number that nobody has written.
    let candidates: &[f64] = match (low > 0.0, high.is_finite()) {
        (false, false) => &[1.0],
        (false, true) if dimension == Dimension::Plain => &[0.0, high / 2.0],
        (false, true) => &[high / 2.0, high],
        (true, _) if dimension == Dimension::Plain => &[low, middle],
        (true, _) => &[middle, low],
    };
    candidates.iter().copied().find(fits)
}

/// A value as it is assumed: `0`, `97.5%`, `250ms`, `45MB`.
pub fn written(value: f64, dimension: Dimension) -> String {
    let (scaled, unit) = match dimension {
        Dimension::Share => (value * 100.0, "%"),
        Dimension::Time => (value, "ms"),
        Dimension::Size => (value / 1e6, "MB"),
        Dimension::Plain | Dimension::Any => (value, ""),
    };
    // As many digits as make a difference, and none that the division has made up.
    format!("{}{unit}", (scaled * 1e6).round() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::criterion::parse;

    /// The value for a query of which these criteria are asked.
    fn chosen(criteria: &[&str], before: Option<f64>) -> Option<String> {
        let criteria: Vec<Criterion> = criteria.iter().map(|text| parse(&format!("query.q {text}")).unwrap()).collect();
        let dimension = criteria.first().map_or(Dimension::Plain, Criterion::dimension);
        let baseline = |_: Sample<'_>| Reading::Value { value: 10.0, samples: 1 };
        let bounds: Vec<Bound> = criteria.iter().filter_map(|criterion| bound(criterion, &baseline)).collect();
        fitting(&bounds, dimension, before).map(|value| written(value, dimension))
    }

    #[test]
    fn a_value_is_one_that_an_operator_would_expect() {
        for (criteria, wanted) in [
            (&[][..], "1"),
            (&["< 1"], "0"),
            (&[">= 3"], "3"),
            (&["> 0"], "1"),
            (&[">= 40%"], "70%"),
            (&[">= 40%", ">= 100%"], "100%"),
            (&["> 80%"], "90%"),
            (&["< 500ms"], "250ms"),
            (&["< 45MB", "<= 80MB"], "22.5MB"),
            (&["< 115%"], "57.5%"),
            (&["< baseline"], "0"),
            (&["<= baseline"], "0"),
            (&[">= baseline"], "10"),
            (&["> baseline", "< 3 * baseline"], "20"),
        ] {
            assert_eq!(chosen(criteria, None).as_deref(), Some(wanted), "{criteria:?}");
        }
    }

    #[test]
    fn what_fits_is_kept_and_what_contradicts_itself_has_no_value() {
        assert_eq!(chosen(&[">= 40%"], Some(0.5)).as_deref(), Some("50%"));
        assert_eq!(chosen(&[">= 40%"], Some(0.3)).as_deref(), Some("70%"));
        assert_eq!(chosen(&["> 2", "< 1"], Some(1.5)), None);
        assert_eq!(chosen(&["< 0"], None), None);
    }
}
