//! The criteria language of gates and triggers: `[arm.]metric[{filter}] <|<=|>|>= expression`.
//!
//! ```text
//! criterion   = quantity comparison expression
//! quantity    = [ ( "stable" | "canary" ) "." ] metric [ "{" ( route | "cohort:" name ) "}" ]
//! comparison  = "<" | "<=" | ">" | ">="
//! expression  = product { ( "+" | "-" ) product }
//! product     = factor { "*" factor }
//! factor      = number [ unit ] | reference | "(" expression ")"
//! reference   = ( "stable" | "canary" | "baseline" | "stage(" name ")" ) [ "." arm ] [ "." metric ]
//! unit        = "%" | "us" | "ms" | "s" | "m" | "h" | "B" | "KB" | "MB" | "GB" | "KiB" | "MiB" | "GiB"
//! ```
//!
//! Units are checked when a criterion is read: a time is never compared with a share. It is evaluated literally against
//! whatever a `Source` says; what it has no data for is its own verdict, never a pass and never a failure. Pure: config
//! reads criteria with it, the engine evaluates them.

mod evaluate;
mod parse;
#[cfg(test)]
mod tests;

use super::Arm;
use std::fmt;
use std::sync::Arc;

pub use super::vital::Vital;
pub use evaluate::{Evaluation, Reading, Sample, Source, show};
pub use parse::{CriterionError, parse};

/// One criterion, its units known to agree.
#[derive(Clone, Debug, PartialEq)]
pub struct Criterion {
    /// What is measured.
    pub quantity: Quantity,
    /// How it is compared.
    pub comparison: Comparison,
    /// With what.
    pub limit: Expression,
}

/// Something measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantity {
    /// Whose; of metrics that belong to no arm it is the canary's and not printed.
    pub arm: Arm,
    /// What.
    pub metric: Metric,
    /// Of which part of the requests.
    pub filter: Option<Filter>,
}

/// A part of an arm's requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// Those of a route.
    Route(Arc<str>),
    /// Those that a cohort decided.
    Cohort(Arc<str>),
}

/// What can be measured.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Failures of the arm per request.
    ErrorRate,
    /// 5xx answers per request.
    Rate5xx,
    /// 4xx answers per request.
    Rate4xx,
    /// Timeouts per request.
    TimeoutRate,
    /// A quantile of the time to the first byte.
    FirstByte(Quantile),
    /// A quantile of the time to the end of the answer: `total.p95`.
    Total(Quantile),
    /// Requests per second.
    Rps,
    /// Requests.
    Requests,
    /// The canary's part of all requests.
    Share,
    /// Requests that stable answered for the canary, per request.
    FallbackRate,
    /// Requests answered by an arm that responds itself, per request.
    BlockedRate,
    /// The part of the requests meant for the canary that the breaker sent to stable.
    BreakerRate,
    /// Trips of the breaker since the rollout was last revived.
    BreakerTrips,
    /// Failures per mirrored copy.
    ShadowErrorRate,
    /// Differing answers per comparison.
    ShadowDiffRate,
    /// A quantile of the copies' time to the first byte.
    ShadowFirstByte(Quantile),
    /// A signal of the config, per request.
    Signal(Arc<str>),
    /// A web vital as browsers report it.
    Vital(Vital, Quantile),
    /// A Prometheus query of the config.
    Query(Arc<str>),
    /// Resident memory of weir itself.
    OwnMemory,
    /// CPU of weir itself, as a share of one core.
    OwnCpu,
}

/// A quantile, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantile {
    permille: u32,
}

impl Quantile {
    /// The quantiles there are, with their words.
    pub const ALL: [(&'static str, Quantile); 6] = [
        ("p50", Quantile { permille: 500 }),
        ("p75", Quantile { permille: 750 }),
        ("p90", Quantile { permille: 900 }),
        ("p95", Quantile { permille: 950 }),
        ("p99", Quantile { permille: 990 }),
        ("p999", Quantile { permille: 999 }),
    ];

    /// The quantile of that word.
    pub fn from_word(word: &str) -> Option<Quantile> {
        Quantile::ALL.into_iter().find(|(name, _)| *name == word).map(|(_, quantile)| quantile)
    }

    /// As a share, 0.5 to 0.999.
    pub fn share(self) -> f64 {
        f64::from(self.permille) / 1000.0
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        Quantile::ALL.into_iter().find(|(_, quantile)| *quantile == self).map_or("p50", |(name, _)| name)
    }
}

/// How a quantity is compared with its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
}

impl Comparison {
    /// Whether `value` compares so with `limit`.
    pub fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Comparison::Below => value < limit,
            Comparison::AtMost => value <= limit,
            Comparison::Above => value > limit,
            Comparison::AtLeast => value >= limit,
        }
    }

    /// The sign.
    pub const fn sign(self) -> &'static str {
        match self {
            Comparison::Below => "<",
            Comparison::AtMost => "<=",
            Comparison::Above => ">",
            Comparison::AtLeast => ">=",
        }
    }
}

/// A value that is worked out when a criterion is evaluated.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// A number.
    Number(Number),
    /// Something measured or recorded.
    Reference(Reference),
    /// The sum of two.
    Sum(Box<Expression>, Box<Expression>),
    /// The first less the second.
    Difference(Box<Expression>, Box<Expression>),
    /// The product of two, one of which has no unit.
    Product(Box<Expression>, Box<Expression>),
}

/// A number as it is written: shares as fractions, times in milliseconds, sizes in bytes once scaled.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// The number before its unit.
    pub written: f64,
    /// The unit; empty without one.
    pub unit: &'static str,
}

/// Something measured or recorded that a limit refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// From where.
    pub origin: Origin,
    /// Whose; none is stable's for a baseline, and the left side's arm for a stage.
    pub arm: Option<Arm>,
    /// What; none is the left side's metric.
    pub metric: Option<Metric>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The traffic of the window that the criterion looks at.
    Live,
    /// The baseline.
    Baseline,
    /// The record of a stage that has ended.
    Stage(Arc<str>),
}

/// What kind of value something is; only like is compared with like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// A share, held as a fraction.
    Share,
    /// A time, held in milliseconds.
    Time,
    /// A size, held in bytes.
    Size,
    /// A count, or a factor.
    Plain,
    /// Whatever it is compared with: the config does not say what a query gives.
    Any,
}

impl Metric {
    /// What kind of value it has.
    pub const fn dimension(&self) -> Dimension {
        match self {
            Metric::ErrorRate
            | Metric::Rate5xx
            | Metric::Rate4xx
            | Metric::TimeoutRate
            | Metric::Share
            | Metric::FallbackRate
            | Metric::BlockedRate
            | Metric::BreakerRate
            | Metric::ShadowErrorRate
            | Metric::ShadowDiffRate
            | Metric::Signal(_)
            | Metric::OwnCpu => Dimension::Share,
            Metric::FirstByte(_) | Metric::Total(_) | Metric::ShadowFirstByte(_) => Dimension::Time,
            Metric::Vital(Vital::Lcp | Vital::Inp, _) => Dimension::Time,
            Metric::Vital(Vital::Cls, _) | Metric::Rps | Metric::Requests | Metric::BreakerTrips => Dimension::Plain,
            Metric::OwnMemory => Dimension::Size,
            Metric::Query(_) => Dimension::Any,
        }
    }

    /// What an arm has of the same kind, where the metric is one of copies: those are compared with what they are copies of.
    fn of_an_arm(&self) -> Option<Metric> {
        match self {
            Metric::ShadowErrorRate => Some(Metric::ErrorRate),
            Metric::ShadowFirstByte(quantile) => Some(Metric::FirstByte(*quantile)),
            _ => None,
        }
    }

    /// Whether each arm has a value of its own.
    pub const fn has_arms(&self) -> bool {
        !matches!(
            self,
            Metric::Share
                | Metric::FallbackRate
                | Metric::BreakerRate
                | Metric::BreakerTrips
                | Metric::ShadowErrorRate
                | Metric::ShadowDiffRate
                | Metric::ShadowFirstByte(_)
                | Metric::Query(_)
                | Metric::OwnMemory
                | Metric::OwnCpu
        )
    }

    /// Whether it can be had of a part of the requests.
    pub const fn has_parts(&self) -> bool {
        matches!(
            self,
            Metric::ErrorRate
                | Metric::Rate5xx
                | Metric::Rate4xx
                | Metric::TimeoutRate
                | Metric::FirstByte(_)
                | Metric::Total(_)
                | Metric::Rps
                | Metric::Requests
        )
    }
}

impl Dimension {
    /// What it is called in an error.
    pub const fn word(self) -> &'static str {
        match self {
            Dimension::Share => "a share",
            Dimension::Time => "a time",
            Dimension::Size => "a size",
            Dimension::Plain => "a plain number",
            Dimension::Any => "anything",
        }
    }
}

/// Units by name: what kind of value they make, and how many of the held unit one of them is.
const UNITS: [(&str, Dimension, f64); 13] = [
    ("%", Dimension::Share, 0.01),
    ("us", Dimension::Time, 0.001),
    ("ms", Dimension::Time, 1.0),
    ("s", Dimension::Time, 1_000.0),
    ("m", Dimension::Time, 60_000.0),
    ("h", Dimension::Time, 3_600_000.0),
    ("B", Dimension::Size, 1.0),
    ("KB", Dimension::Size, 1e3),
    ("MB", Dimension::Size, 1e6),
    ("GB", Dimension::Size, 1e9),
    ("KiB", Dimension::Size, 1024.0),
    ("MiB", Dimension::Size, 1_048_576.0),
    ("GiB", Dimension::Size, 1_073_741_824.0),
];

impl Number {
    fn unit_of(&self) -> Option<(Dimension, f64)> {
        UNITS.into_iter().find(|(name, _, _)| *name == self.unit).map(|(_, dimension, scale)| (dimension, scale))
    }

    /// What kind of value it is.
    pub fn dimension(&self) -> Dimension {
        self.unit_of().map_or(Dimension::Plain, |(dimension, _)| dimension)
    }

    /// Its value in the held unit.
    pub fn value(&self) -> f64 {
        // Divided where that is exact: 0.5 / 100 is the closest double to half a percent, 0.5 * 0.01 need not be.
        match self.unit_of() {
            Some((Dimension::Share, _)) => self.written / 100.0,
            Some((_, scale)) => self.written * scale,
            None => self.written,
        }
    }
}

/// The metric in its normal form.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::ErrorRate => f.write_str("error_rate"),
            Metric::Rate5xx => f.write_str("rate_5xx"),
            Metric::Rate4xx => f.write_str("rate_4xx"),
            Metric::TimeoutRate => f.write_str("timeout_rate"),
            Metric::FirstByte(quantile) => f.write_str(quantile.word()),
            Metric::Total(quantile) => write!(f, "total.{}", quantile.word()),
            Metric::Rps => f.write_str("rps"),
            Metric::Requests => f.write_str("requests"),
            Metric::Share => f.write_str("share"),
            Metric::FallbackRate => f.write_str("fallback_rate"),
            Metric::BlockedRate => f.write_str("blocked_rate"),
            Metric::BreakerRate => f.write_str("breaker_rate"),
            Metric::BreakerTrips => f.write_str("breaker.trips"),
            Metric::ShadowErrorRate => f.write_str("shadow.error_rate"),
            Metric::ShadowDiffRate => f.write_str("shadow.diff_rate"),
            Metric::ShadowFirstByte(quantile) => write!(f, "shadow.{}", quantile.word()),
            Metric::Signal(name) => write!(f, "signal.{name}"),
            Metric::Vital(vital, quantile) => write!(f, "vitals.{}.{}", vital.word(), quantile.word()),
            Metric::Query(name) => write!(f, "query.{name}"),
            Metric::OwnMemory => f.write_str("weir.memory"),
            Metric::OwnCpu => f.write_str("weir.cpu"),
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.arm == Arm::Stable {
            f.write_str("stable.")?;
        }
        write!(f, "{}", self.metric)?;
        match &self.filter {
            None => Ok(()),
            Some(Filter::Route(name)) => write!(f, "{{{name}}}"),
            Some(Filter::Cohort(name)) => write!(f, "{{cohort:{name}}}"),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, self.arm) {
            (Origin::Live, arm) => f.write_str(arm.unwrap_or(Arm::Stable).name())?,
            (Origin::Baseline, None) => f.write_str("baseline")?,
            (Origin::Baseline, Some(arm)) => write!(f, "baseline.{arm}")?,
            (Origin::Stage(name), None) => write!(f, "stage({name})")?,
            (Origin::Stage(name), Some(arm)) => write!(f, "stage({name}).{arm}")?,
        }
        match &self.metric {
            Some(metric) => write!(f, ".{metric}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let factor = |f: &mut fmt::Formatter<'_>, factor: &Expression| match factor {
            Expression::Sum(..) | Expression::Difference(..) => write!(f, "({factor})"),
            _ => write!(f, "{factor}"),
        };
        match self {
            Expression::Number(number) => write!(f, "{}{}", number.written, number.unit),
            Expression::Reference(reference) => write!(f, "{reference}"),
            Expression::Sum(left, right) => write!(f, "{left} + {}", Grouped(right)),
            Expression::Difference(left, right) => write!(f, "{left} - {}", Grouped(right)),
            Expression::Product(left, right) => {
                factor(f, left)?;
                f.write_str(" * ")?;
                match **right {
                    Expression::Product(..) => write!(f, "({right})"),
                    _ => factor(f, right),
                }
            }
        }
    }
}

/// The right side of a sum or difference, in brackets where it is one itself.
struct Grouped<'a>(&'a Expression);

impl fmt::Display for Grouped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::Sum(..) | Expression::Difference(..) => write!(f, "({})", self.0),
            other => write!(f, "{other}"),
        }
    }
}

/// The criterion in its normal form; `parse` reads it back as the same.
impl fmt::Display for Criterion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.quantity, self.comparison.sign(), self.limit)
    }
}

impl Criterion {
    /// Everything it reads, the left side first.
    pub fn samples(&self) -> Vec<Sample<'_>> {
        let mut samples = vec![self.own_sample()];
        self.limit.each_reference(&mut |reference| samples.push(self.sample_of(reference)));
        samples
    }

    /// What its left side reads.
    pub fn own_sample(&self) -> Sample<'_> {
        let Quantity { arm, metric, filter } = &self.quantity;
        Sample { origin: &Origin::Live, arm: *arm, metric, filter: filter.as_ref() }
    }

    /// What a reference in its limit reads.
    pub fn sample_of<'a>(&'a self, reference: &'a Reference) -> Sample<'a> {
        let arm = reference.arm.unwrap_or(match reference.origin {
            Origin::Live | Origin::Baseline => Arm::Stable,
            Origin::Stage(_) => self.quantity.arm,
        });
        Sample {
            origin: &reference.origin,
            arm,
            metric: reference.metric.as_ref().unwrap_or(&self.quantity.metric),
            // Units of a cohort are on the canary: beside them stands what stable shows of everybody.
            filter: self.quantity.filter.as_ref().filter(|of| arm == Arm::Canary || matches!(of, Filter::Route(_))),
        }
    }
}

impl Expression {
    fn each_reference<'a>(&'a self, take: &mut impl FnMut(&'a Reference)) {
        match self {
            Expression::Number(_) => {}
            Expression::Reference(reference) => take(reference),
            Expression::Sum(left, right) | Expression::Difference(left, right) | Expression::Product(left, right) => {
                left.each_reference(take);
                right.each_reference(take);
            }
        }
    }
}
