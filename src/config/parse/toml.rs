//! TOML to tree.

use super::{insert, offset_of, too_deep};
use crate::config::problem::Problems;
use crate::config::tree::{DEPTH_MAX, Kind, Node, Place, Table};
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml_parser::Source;
use toml_parser::lexer::TokenKind;

/// The tree of a TOML text; all its syntax errors are reported, the first of each line.
pub fn parse(text: &str, problems: &mut Problems<'_>) -> Option<Node> {
    if let Some(offset) = too_nested(text) {
        too_deep(offset_of(offset), problems);
        return None;
    }
    let (document, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let before = problems.errors();
        let table = convert_table(document.into_inner(), 0, problems);
        let root = Node::new(Kind::Table(table), Place::Text { line: 1, column: 1 });
        return (problems.errors() == before).then_some(root);
    }
    let mut last_line = None;
    for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
        let place = error.span().map_or(Place::File, |span| offset_of(span.start));
        let line = problems.source().position(place).map(|(line, _)| line);
        if line.is_none() || line != last_line {
            problems.error(place, format!("not valid TOML: {}", error.message()));
        }
        last_line = line;
    }
    None
}

/// One TOML value at a place of its own; none if the text is no TOML value.
pub fn value(text: &str, place: Place) -> Option<Node> {
    if too_nested(text).is_some() {
        return None;
    }
    let value = DeValue::parse(text).ok()?.into_inner();
    at(value, place, 0)
}

fn convert(value: Spanned<DeValue<'_>>, depth: usize, problems: &mut Problems<'_>) -> Node {
    let place = offset_of(value.span().start);
    let kind = match value.into_inner() {
        DeValue::Array(items) if depth < DEPTH_MAX => {
            Kind::List(items.into_iter().map(|item| convert(item, depth + 1, problems)).collect())
        }
        DeValue::Table(table) if depth < DEPTH_MAX => Kind::Table(convert_table(table, depth + 1, problems)),
        DeValue::Array(_) | DeValue::Table(_) => {
            too_deep(place, problems);
            Kind::Null
        }
        scalar => match convert_scalar(scalar) {
            Some(kind) => kind,
            None => {
                problems.error(place, "this number is too large");
                Kind::Null
            }
        },
    };
    Node::new(kind, place)
}

fn convert_table(table: DeTable<'_>, depth: usize, problems: &mut Problems<'_>) -> Table {
    // The parser sorts by name; a reader expects the order of the file.
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut converted = Table::default();
    for (key, value) in entries {
        let place = offset_of(key.span().start);
        let value = convert(value, depth, problems);
        insert(&mut converted, key.into_inner().into_owned(), place, value, problems);
    }
    converted
}

/// A value of the environment: every part of it has the variable's place.
fn at(value: DeValue<'_>, place: Place, depth: usize) -> Option<Node> {
    if depth > DEPTH_MAX {
        return None;
    }
    let kind = match value {
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| at(item.into_inner(), place, depth + 1));
            Kind::List(items.collect::<Option<_>>()?)
        }
        DeValue::Table(entries) => {
            let mut table = Table::default();
            for (key, value) in entries {
                let value = at(value.into_inner(), place, depth + 1)?;
                table.insert(key.into_inner().into_owned(), place, value).ok()?;
            }
            Kind::Table(table)
        }
        scalar => convert_scalar(scalar)?,
    };
    Some(Node::new(kind, place))
}

/// None if it is a number that does not fit, or a table or list.
fn convert_scalar(value: DeValue<'_>) -> Option<Kind> {
    Some(match value {
        DeValue::String(text) => Kind::Text(text.into_owned()),
        DeValue::Integer(integer) => Kind::Integer(i64::from_str_radix(integer.as_str(), integer.radix()).ok()?),
        DeValue::Float(float) => Kind::Float(float.as_str().parse().ok()?),
        DeValue::Boolean(value) => Kind::Bool(value),
        DeValue::Datetime(date) => Kind::Date(date.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

/// Where brackets, or the parts of a dotted key, nest deeper than any config needs. The parser limits each of the two but
/// not their product, and its tables are dropped recursively, so it must not see such text. Judged by the parser's own
/// tokens, so that no string or comment is read differently here.
fn too_nested(text: &str) -> Option<usize> {
    let (mut depth, mut dots) = (0_usize, 0_usize);
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => depth += 1,
            TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => depth = depth.saturating_sub(1),
            TokenKind::Dot => dots += 1,
            TokenKind::Equals | TokenKind::Comma | TokenKind::Newline => dots = 0,
            _ => {}
        }
        if depth > DEPTH_MAX || dots > DOTS_MAX {
            return Some(token.span().start());
        }
    }
    None
}

/// A broken text can break every line; nobody reads more.
const SYNTAX_ERRORS_MAX: usize = 20;
/// Twice what the longest dotted key of weir needs. Brackets that do not match can hide depth from the count above, up to the
/// parser's own limit of 80; times this it is still far from the end of a thread's stack.
const DOTS_MAX: usize = 16;
