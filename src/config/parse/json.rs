//! JSON to tree: strict JSON, no comments, no trailing commas.

use super::{insert, offset_of, too_deep};
use crate::config::problem::Problems;
use crate::config::tree::{DEPTH_MAX, Kind, Node, Place, Table};
use jsonc_parser::ast::{NumberLit, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};

/// The tree of a JSON text.
pub fn parse(text: &str, problems: &mut Problems<'_>) -> Option<Node> {
    if let Some(offset) = deeper_than(text, DEPTH_MAX) {
        too_deep(offset_of(offset), problems);
        return None;
    }
    let parsed = match parse_to_ast(text, &CollectOptions::default(), &STRICT) {
        Ok(parsed) => parsed,
        Err(error) => {
            problems.error(
                offset_of(error.range().start),
                format!("not valid JSON: {}", error.kind().to_string().to_lowercase()),
            );
            return None;
        }
    };
    match parsed.value {
        Some(value) => {
            let before = problems.errors();
            let node = convert(value, problems);
            (problems.errors() == before).then_some(node)
        }
        None => Some(Node::new(Kind::Null, Place::File)),
    }
}

fn convert(value: Value<'_>, problems: &mut Problems<'_>) -> Node {
    let place = offset_of(value.start());
    let kind = match value {
        Value::NullKeyword(_) => Kind::Null,
        Value::BooleanLit(literal) => Kind::Bool(literal.value),
        Value::NumberLit(literal) => number(&literal, place, problems),
        Value::StringLit(literal) => Kind::Text(literal.value.into_owned()),
        Value::Array(array) => Kind::List(array.elements.into_iter().map(|item| convert(item, problems)).collect()),
        Value::Object(object) => {
            let mut table = Table::default();
            for property in object.properties {
                let key_place = offset_of(property.range.start);
                let value = convert(property.value, problems);
                insert(&mut table, property.name.into_string(), key_place, value, problems);
            }
            Kind::Table(table)
        }
    };
    Node::new(kind, place)
}

fn number(literal: &NumberLit<'_>, place: Place, problems: &mut Problems<'_>) -> Kind {
    if let Ok(integer) = literal.value.parse() {
        return Kind::Integer(integer);
    }
    match literal.value.parse::<f64>() {
        Ok(float) if float.is_finite() => Kind::Float(float),
        _ => {
            problems.error(place, "this number is too large");
            Kind::Null
        }
    }
}

/// Where brackets outside of strings nest deeper than `depth_max`. The parser is recursive, so it must not see such text.
fn deeper_than(text: &str, depth_max: usize) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > depth_max {
                    return Some(offset);
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

/// JSON as in RFC 8259 and nothing more.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};
