//! A criterion against what is known: holds, does not hold, or no data; and the sentence that says so.

use super::{Criterion, Dimension, Expression, Filter, Metric, Origin, Reference};
use crate::rollout::Arm;
use std::borrow::Cow;

/// One value that a criterion asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// From where.
    pub origin: &'a Origin,
    /// Whose; of no meaning for metrics without arms.
    pub arm: Arm,
    /// What.
    pub metric: &'a Metric,
    /// Of which part of the requests.
    pub filter: Option<&'a Filter>,
}

/// Where values come from.
pub trait Source {
    /// The value of a sample in the held unit (shares as fractions, times in milliseconds, sizes in bytes).
    fn read(&self, sample: Sample<'_>) -> Reading;
}

/// What a source says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// A value.
    Value {
        /// In the held unit.
        value: f64,
        /// From how many requests, or samples of another kind.
        samples: u64,
    },
    /// None, and why: `no requests`, `no baseline`.
    NoData(Cow<'static, str>),
}

/// What came of an evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Whether the criterion holds; none without data.
    pub holds: Option<bool>,
    /// The left side.
    pub value: Option<f64>,
    /// The right side.
    pub limit: Option<f64>,
    /// From how many requests the left side comes.
    pub samples: u64,
    /// `error_rate 34.0% > 5.0% (17 of 50 requests in 10s; stable 0.1%)`, or why there is no data.
    pub reason: String,
}

impl Criterion {
    /// Evaluates it. Fewer samples than `samples_min` on either live side are no data. `window` names the time that the
    /// source covers, for the sentence.
    pub fn evaluate(&self, source: &impl Source, samples_min: u64, window: &str) -> Evaluation {
        let own = match source.read(self.own_sample()) {
            Reading::Value { value, samples } => (value, samples),
            Reading::NoData(why) => return no_data(format!("{}: {why}", self.quantity)),
        };
        let (value, samples) = own;
        let counted = self.quantity.metric.counts_requests();
        if counted && samples < samples_min {
            let reason = format!("{}: {samples} of {samples_min} requests needed in {window}", self.quantity);
            return Evaluation { value: Some(value), samples, ..no_data(reason) };
        }
        let mut others = Vec::new();
        let limit = match self.value_of(&self.limit, source, samples_min, &mut others) {
            Ok(limit) => limit,
            Err(reason) => return Evaluation { value: Some(value), samples, ..no_data(reason) },
        };
        if !value.is_finite() || !limit.is_finite() {
            return no_data(format!("{}: the value is not finite", self.quantity));
        }
        let holds = self.comparison.holds(value, limit);
        let dimension = self.dimension();
        let sign = match holds {
            true => self.comparison.sign(),
            false => self.comparison.opposite(),
        };
        let mut reason = format!("{} {} {sign} {}", self.quantity, show(value, dimension), show(limit, dimension));
        let mut facts = Vec::new();
        if counted {
            facts.push(self.counted(value, samples, window));
        }
        facts.extend(others);
        if !facts.is_empty() {
            reason.push_str(&format!(" ({})", facts.join("; ")));
        }
        Evaluation { holds: Some(holds), value: Some(value), limit: Some(limit), samples, reason }
    }

    /// What kind of value its two sides have: a query's is what it is compared with.
    pub fn dimension(&self) -> Dimension {
        match self.quantity.metric.dimension() {
            Dimension::Any => self.limit.written_dimension(),
            known => known,
        }
    }

    /// `17 of 50 requests in 10s`, or `50 requests in 10s`.
    fn counted(&self, value: f64, samples: u64, window: &str) -> String {
        let what = self.quantity.metric.sample_word();
        match self.quantity.metric.dimension() {
            Dimension::Share if self.quantity.metric != Metric::Share => {
                // The share came from whole numbers: this gives them back.
                let hits = (value * samples as f64).round();
                format!("{hits} of {samples} {what} in {window}")
            }
            _ => format!("{samples} {what} in {window}"),
        }
    }

    fn value_of(
        &self,
        expression: &Expression,
        source: &impl Source,
        samples_min: u64,
        others: &mut Vec<String>,
    ) -> Result<f64, String> {
        let mut both = |left: &Expression, right: &Expression| -> Result<(f64, f64), String> {
            let left = self.value_of(left, source, samples_min, others)?;
            Ok((left, self.value_of(right, source, samples_min, others)?))
        };
        Ok(match expression {
            Expression::Number(number) => number.value(),
            Expression::Reference(reference) => self.refer(reference, source, samples_min, others)?,
            Expression::Sum(left, right) => both(left, right).map(|(left, right)| left + right)?,
            Expression::Difference(left, right) => both(left, right).map(|(left, right)| left - right)?,
            Expression::Product(left, right) => both(left, right).map(|(left, right)| left * right)?,
        })
    }

    fn refer(
        &self,
        reference: &Reference,
        source: &impl Source,
        samples_min: u64,
        others: &mut Vec<String>,
    ) -> Result<f64, String> {
        let sample = self.sample_of(reference);
        match source.read(sample) {
            Reading::Value { samples, .. }
                if *sample.origin == Origin::Live && sample.metric.counts_requests() && samples < samples_min =>
            {
                Err(format!("{reference}: {samples} of {samples_min} requests needed"))
            }
            Reading::Value { value, .. } => {
                let text = format!("{reference} {}", show(value, sample.metric.dimension()));
                if !others.contains(&text) {
                    others.push(text);
                }
                Ok(value)
            }
            Reading::NoData(why) => Err(format!("{reference}: {why}")),
        }
    }
}

impl Metric {
    /// Whether its samples are requests, or the like, of which there can be too few to judge.
    pub const fn counts_requests(&self) -> bool {
        !matches!(
            self,
            Metric::Requests
                | Metric::Rps
                | Metric::BreakerTrips
                | Metric::Query(_)
                | Metric::OwnMemory
                | Metric::OwnCpu
        )
    }

    const fn sample_word(&self) -> &'static str {
        match self {
            Metric::ShadowErrorRate | Metric::ShadowFirstByte(_) => "copies",
            Metric::ShadowDiffRate => "comparisons",
            Metric::Vital(..) => "reports",
            _ => "requests",
        }
    }
}

impl super::Comparison {
    /// The sign that is true where this one is not.
    const fn opposite(self) -> &'static str {
        match self {
            super::Comparison::Below => ">=",
            super::Comparison::AtMost => ">",
            super::Comparison::Above => "<=",
            super::Comparison::AtLeast => "<",
        }
    }
}

impl Expression {
    /// The kind of value that its numbers are written in: all there is to know of a query's unit.
    fn written_dimension(&self) -> Dimension {
        match self {
            Expression::Number(number) => number.dimension(),
            Expression::Reference(reference) => reference.metric.as_ref().map_or(Dimension::Plain, Metric::dimension),
            Expression::Sum(left, right) | Expression::Difference(left, right) | Expression::Product(left, right) => {
                match left.written_dimension() {
                    Dimension::Plain | Dimension::Any => right.written_dimension(),
                    known => known,
                }
            }
        }
    }
}

fn no_data(reason: String) -> Evaluation {
    Evaluation { reason, ..Evaluation::default() }
}

/// A value for people: `34.0%`, `212ms`, `48.2MB`, `0.12`.
pub fn show(value: f64, dimension: Dimension) -> String {
    match dimension {
        Dimension::Share => {
            let percent = value * 100.0;
            // Small shares keep two digits that say something: 0.05% is not 0.1%.
            let decimals = if percent != 0.0 && percent.abs() < 1.0 { 2 } else { 1 };
            format!("{percent:.decimals$}%")
        }
        Dimension::Time if value.abs() >= 10_000.0 => format!("{:.1}s", value / 1000.0),
        Dimension::Time if value.abs() < 10.0 => format!("{value:.2}ms"),
        Dimension::Time => format!("{value:.0}ms"),
        Dimension::Size if value.abs() >= 1e9 => format!("{:.2}GB", value / 1e9),
        Dimension::Size if value.abs() >= 1e6 => format!("{:.1}MB", value / 1e6),
        Dimension::Size => format!("{:.1}KB", value / 1e3),
        Dimension::Plain | Dimension::Any if value.fract() == 0.0 => format!("{value:.0}"),
        Dimension::Plain | Dimension::Any => format!("{value:.3}"),
    }
}
