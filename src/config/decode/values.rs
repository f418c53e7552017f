//! The values that keys can have, and how each is read.

use super::{Decode, Path, Shape, Spot};
use crate::config::problem::{Problem, Problems, did_you_mean, listed};
use crate::config::tree::{Kind, Node, Place, quoted};
use crate::config::units::{UnitError, parse_share, parse_size, parse_span};
use crate::rollout::bucket::Weight;
use std::fmt;
use std::time::Duration;

/// Names that the user chose, in the order of the file.
pub type Map<T> = Vec<Named<T>>;

/// One named value.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The name.
    pub name: String,
    /// Where the name stands.
    pub place: Place,
    /// The value; none if it is wrong, which has been reported.
    pub value: Option<T>,
}

/// `false`, or a value.
#[derive(Clone, Debug)]
pub enum Switch<T> {
    /// `false`.
    Off,
    /// A value.
    On(T),
}

/// `"off"`, or a value.
#[derive(Clone, Debug)]
pub enum OrOff<T> {
    /// `"off"`.
    Off,
    /// A value.
    On(T),
}

/// The path of a file, as written.
#[derive(Clone, Debug)]
pub struct FilePath(pub String);

/// `stdout`, `stderr` or the path of a file, as written.
#[derive(Clone, Debug)]
pub struct Output(pub String);

/// An address, or `unix:` and a path, as written.
#[derive(Clone, Debug)]
pub struct Socket(pub String);

/// A secret from the environment.
#[derive(Clone)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// An address of the web, as written.
#[derive(Clone, Debug)]
pub struct Url(pub String);

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Decode for String {
    fn shape() -> Shape {
        Shape::Text
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        if let Kind::Text(text) = &node.kind {
            return Some(text.clone());
        }
        let problem = wrong_type(node, path, "text", problems);
        match &node.kind {
            Kind::Integer(value) => problem.with_help(format!("write \"{value}\", in quotes")),
            Kind::Float(value) => problem.with_help(format!("write \"{value}\", in quotes")),
            Kind::Bool(value) => problem.with_help(format!("write \"{value}\", in quotes")),
            _ => problem,
        };
        None
    }
}

/// Types that are text with a meaning.
macro_rules! text_like {
    ($($type:ident => $shape:ident),+ $(,)?) => {$(
        impl Decode for $type {
            fn shape() -> Shape {
                Shape::$shape
            }

            fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
                String::decode(node, path, problems).map($type)
            }
        }
    )+};
}

text_like!(Socket => Socket, Url => Url);

/// Types that are the path of a file.
macro_rules! path_like {
    ($($type:ident => $shape:ident),+ $(,)?) => {$(
        impl Decode for $type {
            fn shape() -> Shape {
                Shape::$shape
            }

            fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
                let text = String::decode(node, path, problems)?;
                if text.is_empty() || text.contains('\0') {
                    wrong_type(node, path, "a path", problems);
                    return None;
                }
                Some($type(text))
            }
        }
    )+};
}

path_like!(FilePath => File, Output => Output);

impl Decode for SecretText {
    fn shape() -> Shape {
        Shape::Secret
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        if !matches!(node.place, Place::Variable(_)) {
            let message = format!("{path}: a secret does not belong into the config");
            let variable = path.to_string().to_uppercase().replace('.', "__");
            let help = format!("name a file by `{path}_file`, or set the environment variable WEIR__{variable}");
            problems.error(node.place, message).without_excerpt().with_help(help);
            return None;
        }
        let text = match &node.kind {
            Kind::Text(text) => text.clone(),
            Kind::Integer(value) => value.to_string(),
            _ => {
                problems.error(node.place, format!("{path}: expected text"));
                return None;
            }
        };
        Some(SecretText(text))
    }
}

impl Decode for bool {
    fn shape() -> Shape {
        Shape::Bool
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        if let Kind::Bool(value) = node.kind {
            return Some(value);
        }
        let problem = wrong_type(node, path, "`true` or `false`", problems);
        let meant = match &node.kind {
            Kind::Text(text) => match text.to_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Some(true),
                "false" | "no" | "off" | "0" => Some(false),
                _ => None,
            },
            Kind::Integer(value) => Some(*value != 0),
            _ => None,
        };
        if let Some(meant) = meant {
            problem.with_help(format!("did you mean `{meant}`?"));
        }
        None
    }
}

impl Decode for u32 {
    fn shape() -> Shape {
        Shape::Count
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        if let Kind::Integer(value) = node.kind {
            if let Ok(count) = u32::try_from(value) {
                return Some(count);
            }
            problems
                .error(node.place, format!("{path}: expected a whole number from 0 to {}, found {value}", u32::MAX));
            return None;
        }
        let problem = wrong_type(node, path, "a whole number", problems);
        if let Kind::Text(text) = &node.kind
            && let Ok(count) = text.trim().parse::<u32>()
        {
            problem.with_help(format!("write {count}, without quotes"));
        }
        None
    }
}

impl Decode for f64 {
    fn shape() -> Shape {
        Shape::Number
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match node.kind {
            Kind::Integer(value) => Some(value as f64),
            Kind::Float(value) if value.is_finite() => Some(value),
            _ => {
                wrong_type(node, path, "a number", problems);
                None
            }
        }
    }
}

impl Decode for Weight {
    fn shape() -> Shape {
        Shape::Share
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let meant = match node.kind {
            Kind::Integer(value) => Some(format!("{value}%")),
            Kind::Float(value) if (0.0..=1.0).contains(&value) => Some(format!("{}%", value * 100.0)),
            Kind::Float(value) => Some(format!("{value}%")),
            _ => None,
        };
        with_unit(node, path, parse_share, "a share such as \"12.5%\"", meant, problems)
    }
}

impl Decode for Duration {
    fn shape() -> Shape {
        Shape::Span
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let meant = number_with(node, "s");
        with_unit(node, path, parse_span, "a duration such as \"30s\"", meant, problems)
    }
}

impl Decode for Bytes {
    fn shape() -> Shape {
        Shape::Size
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let meant = number_with(node, "B");
        with_unit(node, path, parse_size, "a size such as \"64KiB\"", meant, problems).map(Bytes)
    }
}

impl<T: Decode> Decode for Switch<T> {
    fn shape() -> Shape {
        Shape::Either(vec![T::shape(), Shape::False])
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match node.kind {
            Kind::Bool(false) => Some(Switch::Off),
            Kind::Bool(true) => {
                problems.error(node.place, format!("{path}: expected `false` or a table of values, found `true`"));
                None
            }
            _ => T::decode(node, path, problems).map(Switch::On),
        }
    }
}

impl<T: Decode> Decode for OrOff<T> {
    fn shape() -> Shape {
        Shape::Either(vec![T::shape(), Shape::Word(&["off"])])
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Text(text) if text == "off" => Some(OrOff::Off),
            _ => T::decode(node, path, problems).map(OrOff::On),
        }
    }
}

impl<T: Decode> Decode for Vec<Spot<T>> {
    fn shape() -> Shape {
        Shape::List(Box::new(T::shape()))
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let Kind::List(items) = &node.kind else {
            let problem = wrong_type(node, path, "a list", problems);
            if let Kind::Text(text) = &node.kind {
                problem.with_help(format!("write [{}]", quoted(text)));
            }
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if let Some(value) = T::decode(item, &Path::Index(path, index), problems) {
                values.push(Spot { value, place: item.place });
            }
        }
        Some(values)
    }
}

impl<T: Decode> Decode for Map<T> {
    fn shape() -> Shape {
        Shape::Map(Box::new(T::shape()))
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        let Kind::Table(table) = &node.kind else {
            wrong_type(node, path, "a table of names", problems);
            return None;
        };
        let mut values = Vec::with_capacity(table.entries().len());
        for entry in table.entries() {
            let value = T::decode(&entry.value, &Path::Key(path, &entry.key), problems);
            values.push(Named { name: entry.key.clone(), place: entry.place, value });
        }
        Some(values)
    }
}

/// One of fixed words.
pub fn word<T: Copy>(
    node: &Node,
    path: &Path<'_>,
    words: &[(&'static str, T)],
    problems: &mut Problems<'_>,
) -> Option<T> {
    let names = words.iter().map(|(name, _)| *name);
    let Kind::Text(text) = &node.kind else {
        let expected = listed(&names.collect::<Vec<_>>()).replace(" and ", " or ");
        wrong_type(node, path, &expected, problems);
        return None;
    };
    if let Some((_, value)) = words.iter().find(|(name, _)| name == text) {
        return Some(*value);
    }
    let problem = problems.error(node.place, format!("{path}: {} is none of its words", quoted(text)));
    if let Some(help) = did_you_mean(text, names) {
        problem.with_help(help);
    }
    None
}

/// Reports a value of the wrong type.
pub fn wrong_type<'p>(node: &Node, path: &Path<'_>, expected: &str, problems: &'p mut Problems<'_>) -> &'p mut Problem {
    let path = path.to_string();
    let prefix = if path.is_empty() { String::new() } else { format!("{path}: ") };
    problems.error(node.place, format!("{prefix}expected {expected}, found {}", node.described()))
}

/// A text with a unit; `meant` is the suggestion for a number without one.
fn with_unit<T>(
    node: &Node,
    path: &Path<'_>,
    parse: fn(&str) -> Result<T, UnitError>,
    expected: &str,
    meant: Option<String>,
    problems: &mut Problems<'_>,
) -> Option<T> {
    let Kind::Text(text) = &node.kind else {
        let problem = wrong_type(node, path, expected, problems);
        if let Some(meant) = meant.filter(|meant| parse(meant).is_ok()) {
            problem.with_help(format!("did you mean \"{meant}\"?"));
        }
        return None;
    };
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            let problem = problems.error(node.place, format!("{path}: {error}, found {}", quoted(text)));
            if let Some(suggestion) = error.suggestion.filter(|suggestion| parse(suggestion).is_ok()) {
                problem.with_help(format!("did you mean \"{suggestion}\"?"));
            }
            None
        }
    }
}

fn number_with(node: &Node, unit: &str) -> Option<String> {
    match node.kind {
        Kind::Integer(value) => Some(format!("{value}{unit}")),
        Kind::Float(value) => Some(format!("{value}{unit}")),
        _ => None,
    }
}
