//! Values of a baseline that come from outside: by hand or from a file. Names and units are read by the parser of the
//! criteria, so that what is recorded is what criteria will look for.

use super::{Asked, Captured};
use crate::rollout::Arm;
use crate::rollout::criterion::{Criterion, Dimension, Expression, Quantity, parse};

/// Reads one value: a name like `stable p95` or `canary p95{api}`, and a number with its unit like `150ms`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn written(name: &str, text: &str) -> Result<Captured, String> {
    let (arm, criterion) = read(name, text)?;
    let Expression::Number(number) = &criterion.limit else {
        return Err(format!("`{name}`: expected a number with its unit, like `150ms`, `0.05%` or `30MB`"));
    };
    held(name, arm, criterion.quantity, number.value(), 0)
}

/// Takes one value in the unit that it is held in: shares as fractions, times in milliseconds, sizes in bytes.
///
/// # Errors
/// As `written`.
pub fn plain(name: &str, value: f64, samples: u64) -> Result<Captured, String> {
    let (arm, criterion) = read(name, ANY)?;
    held(name, arm, criterion.quantity, value, samples)
}

/// What a name speaks of; none if it is no name.
pub fn quantity(name: &str) -> Option<Quantity> {
    read(name, ANY).ok().map(|(_, criterion)| criterion.quantity)
}

/// How values of that name are held: `ratio`, `ms`, `bytes`, or empty for plain numbers and for queries, whose values are as
/// their server says.
pub fn unit(name: &str) -> &'static str {
    match quantity(name).map_or(Dimension::Plain, |quantity| quantity.metric.dimension()) {
        Dimension::Share => "ratio",
        Dimension::Time => "ms",
        Dimension::Size => "bytes",
        Dimension::Plain | Dimension::Any => "",
    }
}

/// A limit that has the unit of whatever is compared with it.
const ANY: &str = "baseline";

fn read(name: &str, limit: &str) -> Result<(Option<Arm>, Criterion), String> {
    let name = name.trim();
    let split = name.split_once([' ', '.']).and_then(|(arm, rest)| Some((Arm::from_name(arm)?, rest.trim())));
    let (arm, metric) = split.map_or((None, name), |(arm, rest)| (Some(arm), rest));
    if metric.split_once(['.', ' ']).is_some_and(|(arm, _)| Arm::from_name(arm).is_some()) {
        return Err(format!("`{name}`: it names an arm twice"));
    }
    let criterion = parse(&format!("{metric} <= {limit}")).map_err(|error| {
        let hint = error.suggestion.map(|hint| format!("; did you mean `{hint}`?")).unwrap_or_default();
        format!("`{name}`: {}{hint}", error.message)
    })?;
    if arm.is_none() && criterion.quantity.metric.has_arms() {
        return Err(format!("`{name}`: say whose it is: `stable {metric}` or `canary {metric}`"));
    }
    Ok((arm, criterion))
}

fn held(name: &str, arm: Option<Arm>, quantity: Quantity, value: f64, samples: u64) -> Result<Captured, String> {
    if !value.is_finite() {
        return Err(format!("`{name}`: that is not a number"));
    }
    let (dimension, has_arms) = (quantity.metric.dimension(), quantity.metric.has_arms());
    // A query may say anything.
    if value < 0.0 && dimension != Dimension::Any {
        return Err(format!("`{name}`: it cannot be below 0"));
    }
    if dimension == Dimension::Share && has_arms && value > 1.0 {
        return Err(format!("`{name}`: a share is at most 100%"));
    }
    let Quantity { metric, filter, .. } = quantity;
    // Of what belongs to no arm both names are looked for.
    let arms = arm.filter(|_| has_arms).map_or(Arm::ALL.to_vec(), |arm| vec![arm]);
    let key = |arm| Asked { arm, metric: metric.clone(), filter: filter.clone() }.to_string();
    Ok(Captured { values: arms.into_iter().map(|arm| (key(arm), (value, samples))).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &str) -> Vec<(String, f64)> {
        written(name, text).unwrap().values.into_iter().map(|(key, (value, _))| (key, value)).collect()
    }

    #[test]
    fn a_value_is_recorded_under_the_name_that_criteria_look_for() {
        assert_eq!(of("stable p95", "150ms"), [("stable p95".to_owned(), 150.0)]);
        assert_eq!(of("stable error_rate", "0.05%"), [("stable error_rate".to_owned(), 0.0005)]);
        assert_eq!(of("canary.total.p95{api}", "1s"), [("canary total.p95{api}".to_owned(), 1000.0)]);
        let memory = ["canary query.memory", "stable query.memory"].map(|key| (key.to_owned(), 30e6));
        for name in ["query.memory", "stable query.memory"] {
            assert_eq!(of(name, "30MB"), memory, "{name}");
        }
        assert_eq!(plain("stable p95{cohort:beta}", 150.0, 9).unwrap().values["stable p95{cohort:beta}"], (150.0, 9));
        assert_eq!(plain("query.memory", 3e7, 0).unwrap().values["stable query.memory"], (3e7, 0));
        assert_eq!(
            ["stable total.p95", "canary rate_5xx", "weir.memory", "stable rps"].map(unit),
            ["ms", "ratio", "bytes", ""]
        );
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        for (name, text, says) in [
            ("stable p96", "150ms", "p96"),
            ("stabel p95", "150ms", "stabel"),
            ("p95", "150ms", "`stable p95` or `canary p95`"),
            ("stable canary.p95", "150ms", "twice"),
            ("stable p95", "150MB", "a time"),
            ("stable p95", "5%", "a time"),
            ("stable p95", "150", "a time"),
            ("stable error_rate", "150%", "at most 100%"),
            ("stable p95", "1.1 * baseline", "a number with its unit"),
            ("stable p95", "", "expected a number"),
            ("stable p95 < 3ms", "1ms", ""),
        ] {
            let error = written(name, text).unwrap_err();
            assert!(error.contains(says), "{name}={text}: {error}");
        }
        assert!(plain("stable p95", -1.0, 0).is_err() && plain("stable p95", f64::NAN, 0).is_err());
        assert_eq!(plain("query.balance", -1.0, 0).unwrap().values["stable query.balance"], (-1.0, 0));
    }
}
