//! Numbers and times as a report writes them.

use crate::config::units::{print_share, print_span};
use crate::rollout::bucket::Weight;
use std::time::Duration;

/// What stands where there is nothing to say.
pub const NONE: &str = "-";

/// A share of 1 as percent.
pub fn rate(rate: Option<f64>) -> String {
    match rate {
        None => NONE.to_owned(),
        Some(rate) if rate > 0.0 && rate < 0.0001 => "<0.01%".to_owned(),
        Some(rate) => format!("{:.2}%", rate * 100.0),
    }
}

/// Milliseconds.
pub fn ms(ms: Option<f64>) -> String {
    match ms {
        None => NONE.to_owned(),
        Some(ms) if ms.abs() >= 1000.0 => format!("{:.2} s", ms / 1000.0),
        Some(ms) if ms.abs() >= 100.0 => format!("{ms:.0} ms"),
        Some(ms) if ms.abs() >= 10.0 => format!("{ms:.1} ms"),
        Some(ms) => format!("{ms:.2} ms"),
    }
}

/// A count with separators.
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A plain number without needless digits.
pub fn plain(value: f64) -> String {
    match value {
        value if value == value.trunc() && value.abs() < 1e15 => format!("{value:.0}"),
        value if value.abs() >= 100.0 => format!("{value:.1}"),
        value => format!("{value:.3}"),
    }
}

/// Bytes.
pub fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS.get(unit).copied().unwrap_or_default())
}

/// A value in the unit of its criterion.
pub fn held(value: Option<f64>, unit: &str) -> String {
    match (value, unit) {
        (None, _) => NONE.to_owned(),
        (value, "ratio") => rate(value),
        (value, "ms") => ms(value),
        (Some(value), "bytes") => bytes(value),
        (Some(value), _) => plain(value),
    }
}

/// A span of seconds.
pub fn span(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e10);
    let rounded = if seconds < 10.0 { (seconds * 10.0).round() / 10.0 } else { seconds.round() };
    if seconds < 10.0 { format!("{rounded}s") } else { print_span(Duration::from_secs(rounded as u64)) }
}

/// A weight.
pub fn weight(ppm: u64) -> String {
    let ppm = u32::try_from(ppm).ok().and_then(Weight::from_ppm);
    ppm.map_or_else(|| NONE.to_owned(), print_share)
}

/// A time to the second: `2026-03-01 12:00:00`. The report says that it is UTC.
pub fn time(rfc3339: &str) -> String {
    match (rfc3339.get(..10), rfc3339.get(11..19)) {
        (Some(day), Some(time)) => format!("{day} {time}"),
        _ => rfc3339.to_owned(),
    }
}

/// A difference with its sign.
pub fn signed(text: &str, value: f64) -> String {
    if value > 0.0 { format!("+{text}") } else { text.to_owned() }
}
