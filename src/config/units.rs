//! Shares, durations and sizes as people write them, exactly: `"12.5%"`, `"2m30s"`, `"64KiB"`; parsed and printed back.
//!
//! No float takes part. A bare number is refused, and the error says what was probably meant.

use crate::rollout::bucket::Weight;
use std::fmt;
use std::time::Duration;

/// Why a text is no share, duration or size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitError {
    /// What was expected or exceeded, e.g. `expected a share such as "12.5%"`.
    pub message: String,
    /// What was probably meant, ready to be written.
    pub suggestion: Option<String>,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A share of units, `"0%"` to `"100%"`, at most four decimals.
pub fn parse_share(text: &str) -> Result<Weight, UnitError> {
    let expected = |suggestion: Option<String>| UnitError { message: SHARE_EXPECTED.to_owned(), suggestion };
    let Some(number) = text.strip_suffix('%') else {
        return Err(expected(decimal(text, SHARE_DECIMALS).map(|_| format!("{text}%"))));
    };
    let Some(ppm) = decimal(number, SHARE_DECIMALS) else {
        if decimal(number, DECIMALS_MAX).is_some() {
            let message = "a share has at most four decimals: one part per million is \"0.0001%\"";
            return Err(UnitError { message: message.to_owned(), suggestion: None });
        }
        let trimmed = number.trim();
        return Err(expected(decimal(trimmed, SHARE_DECIMALS).map(|_| format!("{trimmed}%"))));
    };
    let weight = u32::try_from(ppm).ok().and_then(Weight::from_ppm);
    weight.ok_or_else(|| UnitError { message: "a share is at most \"100%\"".to_owned(), suggestion: None })
}

/// The shortest text that `parse_share` reads as `weight`.
pub fn print_share(weight: Weight) -> String {
    let ppm = weight.ppm();
    let (whole, rest) = (ppm / PPM_PER_PERCENT, ppm % PPM_PER_PERCENT);
    if rest == 0 {
        return format!("{whole}%");
    }
    format!("{whole}.{}%", format!("{rest:04}").trim_end_matches('0'))
}

/// A duration: numbers with a unit each, the larger first, e.g. `"30s"`, `"1.5h"`, `"2m30s"`; to the microsecond.
pub fn parse_span(text: &str) -> Result<Duration, UnitError> {
    let expected = |suggestion: Option<String>| UnitError { message: SPAN_EXPECTED.to_owned(), suggestion };
    if decimal(text, DECIMALS_MAX).is_some() {
        return Err(expected(Some(format!("{text}s"))));
    }
    let (mut rest, mut total_ns, mut last_unit_ns) = (text, 0_u128, u128::MAX);
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let (unit, after) = after.split_at(after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len()));
        let Some(&(_, unit_ns)) = SPAN_UNITS.iter().find(|(name, _)| *name == unit) else {
            let known = !unit.is_empty() && decimal(number, DECIMALS_MAX).is_some();
            let message = match known {
                true => format!("{unit:?} is no unit of time: there is us, ms, s, m, h and d"),
                false => SPAN_EXPECTED.to_owned(),
            };
            return Err(UnitError { message, suggestion: span_suggestion(number, unit) });
        };
        let scaled = decimal(number, DECIMALS_MAX).ok_or_else(|| expected(None))?;
        let ns = u128::from(scaled) * unit_ns / DECIMALS_SCALE;
        if unit_ns >= last_unit_ns {
            let message = "a duration names each unit once, the larger first, such as \"2m30s\"".to_owned();
            return Err(UnitError { message, suggestion: None });
        }
        (rest, total_ns, last_unit_ns) = (after, total_ns + ns, unit_ns);
    }
    if last_unit_ns == u128::MAX {
        return Err(expected(None));
    }
    let us = u64::try_from(total_ns / 1000).ok().filter(|us| *us <= SPAN_US_MAX);
    us.map(Duration::from_micros)
        .ok_or_else(|| UnitError { message: "a duration is at most \"36500d\"".to_owned(), suggestion: None })
}

/// A text that `parse_span` reads as `span`, to the microsecond: `1h30m`, `250ms`.
pub fn print_span(span: Duration) -> String {
    let mut rest_ns = span.as_micros() * 1000;
    if rest_ns == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, unit_ns) in SPAN_UNITS {
        let count = rest_ns / unit_ns;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
            rest_ns %= unit_ns;
        }
    }
    text
}

/// A size in bytes: a number with `B`, `KB`, `MB`, `GB` (powers of 1000) or `KiB`, `MiB`, `GiB` (powers of 1024).
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split_number(text);
    let Some(scaled) = decimal(number, SIZE_DECIMALS) else {
        return Err(UnitError { message: SIZE_EXPECTED.to_owned(), suggestion: None });
    };
    let Some(&(_, unit_bytes)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let lower = unit.trim().to_lowercase();
        let near = match lower.as_str() {
            "" => "B",
            "k" | "ki" => "KiB",
            "m" | "mi" => "MiB",
            "g" | "gi" => "GiB",
            _ => SIZE_UNITS.iter().find(|(name, _)| name.to_lowercase() == lower).map_or("", |(name, _)| name),
        };
        let suggestion = (!near.is_empty()).then(|| format!("{number}{near}"));
        return Err(UnitError { message: SIZE_EXPECTED.to_owned(), suggestion });
    };
    let scale = 10_u128.pow(SIZE_DECIMALS);
    let bytes = u128::from(scaled) * u128::from(unit_bytes);
    if bytes % scale != 0 {
        return Err(UnitError { message: "a size is a whole number of bytes".to_owned(), suggestion: None });
    }
    let size = u64::try_from(bytes / scale).ok().filter(|size| *size <= SIZE_MAX);
    size.ok_or_else(|| UnitError { message: "a size is at most \"1024GiB\"".to_owned(), suggestion: None })
}

/// The shortest whole number with a unit that `parse_size` reads as `bytes`.
pub fn print_size(bytes: u64) -> String {
    let fitting = SIZE_UNITS.iter().filter(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    let best = fitting.max_by_key(|(_, unit)| *unit).unwrap_or(&("B", 1));
    format!("{}{}", bytes / best.1, best.0)
}

/// The number a text starts with, and what follows.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// A plain decimal number times ten to the power of `decimals`; none if it has more decimals, a sign or no digits.
fn decimal(text: &str, decimals: u32) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let missing = decimals.checked_sub(u32::try_from(fraction.trim_end_matches('0').len()).ok()?)?;
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction: u64 = format!("0{}", fraction.trim_end_matches('0')).parse().ok()?;
    whole.checked_mul(10_u64.pow(decimals))?.checked_add(fraction.checked_mul(10_u64.pow(missing))?)
}

/// What somebody meant who wrote another word for a unit of time.
fn span_suggestion(number: &str, unit: &str) -> Option<String> {
    decimal(number, DECIMALS_MAX)?;
    let unit = match unit.trim().to_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" | "m" => "m",
        "hr" | "hrs" | "hour" | "hours" | "h" => "h",
        "day" | "days" | "d" => "d",
        "msec" | "millis" | "milliseconds" | "ms" => "ms",
        "usec" | "micros" | "\u{b5}s" | "us" => "us",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

const SHARE_EXPECTED: &str = "expected a share such as \"12.5%\"";
const SPAN_EXPECTED: &str = "expected a duration such as \"30s\", \"250ms\" or \"2m30s\"";
const SIZE_EXPECTED: &str = "expected a size such as \"64KiB\" or \"1MB\"";
const PPM_PER_PERCENT: u32 = 10_000;
/// Four decimals of a percent are one part per million.
const SHARE_DECIMALS: u32 = 4;
const SIZE_DECIMALS: u32 = 3;
const DECIMALS_MAX: u32 = 6;
const DECIMALS_SCALE: u128 = 10_u128.pow(DECIMALS_MAX);
/// Units of time in nanoseconds, the largest first.
const SPAN_UNITS: [(&str, u128); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];
/// A hundred years: longer than any rollout, and far from every overflow.
const SPAN_US_MAX: u64 = 36_500 * 86_400 * 1_000_000;
const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];
const SIZE_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_are_exact_to_the_part_per_million() {
        let ppm = |text| parse_share(text).unwrap().ppm();
        assert_eq!(ppm("0%"), 0);
        assert_eq!(ppm("12.5%"), 125_000);
        assert_eq!(ppm("0.0001%"), 1);
        assert_eq!(ppm("33.3333%"), 333_333);
        assert_eq!(ppm("100.0000%"), 1_000_000);
    }

    #[test]
    fn shares_that_are_none_say_what_was_meant() {
        let suggestion = |text| parse_share(text).unwrap_err().suggestion;
        assert_eq!(suggestion("25").as_deref(), Some("25%"));
        assert_eq!(suggestion("25 %").as_deref(), Some("25%"));
        for text in [
            "",
            "%",
            "-1%",
            "100.0001%",
            "1.00001%",
            "25percent",
            "1e1%",
            "+5%",
            ".5%",
            "5.%",
            "999999999999999999999%",
        ] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_take_several_units_and_decimals() {
        let ms = |text| parse_span(text).unwrap().as_millis();
        assert_eq!(ms("30s"), 30_000);
        assert_eq!(ms("1.5h"), 5_400_000);
        assert_eq!(ms("250ms"), 250);
        assert_eq!(ms("2m30s"), 150_000);
        assert_eq!(ms("0s"), 0);
        assert_eq!(ms("1d"), 86_400_000);
    }

    #[test]
    fn durations_that_are_none_say_what_was_meant() {
        let suggestion = |text| parse_span(text).unwrap_err().suggestion;
        assert_eq!(suggestion("30").as_deref(), Some("30s"));
        assert_eq!(suggestion("30sec").as_deref(), Some("30s"));
        assert_eq!(suggestion("5 min").as_deref(), Some("5m"));
        for text in ["", "s", "-1s", "1s1m", "1s1s", "1x", "99999999999d", "1.s", "1m 30s", "\u{661}s"] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_know_both_kinds_of_kilo() {
        assert_eq!(parse_size("64KiB").unwrap(), 65_536);
        assert_eq!(parse_size("1MB").unwrap(), 1_000_000);
        assert_eq!(parse_size("1.5MiB").unwrap(), 1_572_864);
        assert_eq!(parse_size("0B").unwrap(), 0);
        assert_eq!(parse_size("64kb").unwrap_err().suggestion.as_deref(), Some("64KB"));
        assert_eq!(parse_size("64k").unwrap_err().suggestion.as_deref(), Some("64KiB"));
        assert_eq!(parse_size("512").unwrap_err().suggestion.as_deref(), Some("512B"));
        for text in ["", "KiB", "-1B", "1.5B", "9999999999GiB", "1 MB2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(ppm in 0_u32..=1_000_000, us in 0_u64..SPAN_US_MAX, bytes in 0_u64..SIZE_MAX) {
            let weight = Weight::from_ppm(ppm).unwrap();
            prop_assert_eq!(parse_share(&print_share(weight)).unwrap(), weight);
            let span = Duration::from_micros(us);
            prop_assert_eq!(parse_span(&print_span(span)).unwrap(), span);
            prop_assert_eq!(parse_size(&print_size(bytes)).unwrap(), bytes);
        }

        #[test]
        fn no_text_breaks_the_parsers(text in "[0-9.%a-zA-Z\u{b5} -]{0,40}") {
            let _ = parse_share(&text);
            let _ = parse_span(&text);
            let _ = parse_size(&text);
        }
    }
}
