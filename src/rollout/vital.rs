//! The web vitals that browsers report: their names, and how a value becomes a whole number that a histogram counts.
//!
//! The data plane counts reports with it, criteria read them back. It knows of no request and no report's form.

use super::histogram::Histogram;

/// A web vital.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vital {
    /// Largest contentful paint, a time.
    Lcp,
    /// Interaction to next paint, a time.
    Inp,
    /// Cumulative layout shift, without unit.
    Cls,
}

impl Vital {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All vitals.
    pub const ALL: [Vital; Self::COUNT] = [Vital::Lcp, Vital::Inp, Vital::Cls];

    /// Its word in criteria and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Vital::Lcp => "lcp",
            Vital::Inp => "inp",
            Vital::Cls => "cls",
        }
    }

    /// The vital that browsers call so; none for one that weir does not keep.
    pub fn from_name(name: &str) -> Option<Vital> {
        match name {
            "LCP" => Some(Vital::Lcp),
            "INP" => Some(Vital::Inp),
            "CLS" => Some(Vital::Cls),
            _ => None,
        }
    }

    /// A reported value as what a histogram counts: microseconds of a time, millionths of a shift. None if it is no such
    /// value. What is larger than a histogram reaches counts as the largest.
    pub fn counted(self, reported: f64) -> Option<u64> {
        if !reported.is_finite() || reported < 0.0 {
            return None;
        }
        Some((reported * self.counted_per_one()).round() as u64)
    }

    /// A quantile of what was counted, in the reported unit (milliseconds of a time): at most 1/64 off a report of that
    /// rank, as with every histogram. None without reports.
    pub fn quantile(self, counted: &Histogram, share: f64) -> Option<f64> {
        counted.quantile(share).map(|value| value as f64 / self.counted_per_one())
    }

    const fn counted_per_one(self) -> f64 {
        match self {
            Vital::Lcp | Vital::Inp => 1e3,
            Vital::Cls => 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::histogram::MAX_RELATIVE_ERROR;

    #[test]
    fn a_reported_value_comes_back_within_the_stated_error() {
        let values =
            [(Vital::Lcp, 2600.5), (Vital::Inp, 8.0), (Vital::Cls, 0.1), (Vital::Cls, 0.0007), (Vital::Cls, 1.9)];
        for (vital, value) in values {
            let mut histogram = Histogram::default();
            histogram.record(vital.counted(value).unwrap());
            let back = vital.quantile(&histogram, 0.75).unwrap();
            assert!((back - value).abs() <= value * MAX_RELATIVE_ERROR, "{vital:?} {value}: {back}");
        }
        assert_eq!(Vital::Cls.quantile(&Histogram::default(), 0.75), None);
    }

    #[test]
    fn what_is_no_measurement_is_not_counted_and_what_is_absurd_is_the_largest() {
        for reported in [-0.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Vital::Lcp.counted(reported), None, "{reported}");
        }
        assert_eq!(Vital::Cls.counted(0.0), Some(0));
        assert_eq!(Vital::Lcp.counted(1e300), Some(u64::MAX));
    }

    #[test]
    fn names_are_those_that_browsers_write() {
        let found = ["LCP", "INP", "CLS", "TTFB", "lcp"].map(Vital::from_name);
        assert_eq!(found, [Some(Vital::Lcp), Some(Vital::Inp), Some(Vital::Cls), None, None]);
    }
}
