//! A JSON value as it is compared: numbers exact where they are whole, tables in the order of their keys.
//!
//! Whoever reads JSON makes it; how deep and how large it may be is decided there (`NODES_MAX`, `DEPTH_MAX`).

use std::cmp::Ordering;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(Box<str>),
    /// A list.
    List(Vec<Value>),
    /// A table; made by `Value::table`.
    Table(Vec<(Box<str>, Value)>),
}

impl Value {
    /// A table; of keys that are there several times the last counts, as with most readers.
    pub fn table(mut entries: Vec<(Box<str>, Value)>) -> Value {
        // Stable, so that the last of equal keys stays the last.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut unique: Vec<(Box<str>, Value)> = Vec::with_capacity(entries.len());
        for entry in entries {
            match unique.last_mut() {
                Some(last) if last.0 == entry.0 => *last = entry,
                _ => unique.push(entry),
            }
        }
        Value::Table(unique)
    }

    /// Its type's word.
    pub const fn word(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Text(_) => "text",
            Value::List(_) => "list",
            Value::Table(_) => "table",
        }
    }

    /// As it is shown: scalars themselves, the others by how much is in them.
    pub fn shown(&self) -> String {
        match self {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(Number::Whole(value)) => value.to_string(),
            Value::Number(Number::Float(value)) => value.to_string(),
            Value::Text(text) => format!("\"{}\"", super::cut(text)),
            Value::List(items) => format!("list of {}", items.len()),
            Value::Table(entries) => format!("table of {}", entries.len()),
        }
    }
}

/// A number. Whole ones of up to 128 bits are exact, which floating point is not beyond 2^53.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number.
    Whole(i128),
    /// Any other; finite.
    Float(f64),
}

impl Number {
    /// A floating-point number, as the whole number that it is where it is one.
    pub fn float(value: f64) -> Number {
        // Up to there every whole number has a float of its own.
        if value.fract() == 0.0 && value.abs() <= EXACT_MAX {
            Number::Whole(value as i128)
        } else {
            Number::Float(value)
        }
    }

    /// As a floating-point number, rounded.
    pub fn approximate(self) -> f64 {
        match self {
            Number::Whole(value) => value as f64,
            Number::Float(value) => value,
        }
    }

    /// |a - b| / max(|a|, |b|): 0 for equal numbers and above 0 for others, at most 2.
    pub fn distance(self, other: Number) -> f64 {
        if let (Number::Whole(a), Number::Whole(b)) = (self, other) {
            let apart = a.abs_diff(b);
            return if apart == 0 { 0.0 } else { apart as f64 / a.unsigned_abs().max(b.unsigned_abs()) as f64 };
        }
        let (a, b) = (self.approximate(), other.approximate());
        let larger = a.abs().max(b.abs());
        if a == b {
            return 0.0;
        }
        // Divided first, so that the difference of the largest numbers is not infinite; never 0 for what differs.
        (a / larger - b / larger).abs().max(f64::MIN_POSITIVE)
    }

    /// |a - b|.
    pub fn apart(self, other: Number) -> f64 {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => a.abs_diff(b) as f64,
            _ => (self.approximate() - other.approximate()).abs(),
        }
    }

    /// An order of all numbers.
    pub fn order(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Whole(a), Number::Whole(b)) => a.cmp(&b),
            _ => self.approximate().total_cmp(&other.approximate()),
        }
    }
}

/// 2^53.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
/// Values that a body may consist of to be compared as JSON: some 20 MB of memory.
pub const NODES_MAX: usize = 500_000;
/// How deep it may be nested; what is deeper is compared as text.
pub const DEPTH_MAX: usize = 120;
