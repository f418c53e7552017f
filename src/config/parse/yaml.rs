//! YAML to tree: YAML 1.2 core schema, one document, text keys; anchors within a budget.

use super::{insert, too_deep};
use crate::config::problem::Problems;
use crate::config::tree::{DEPTH_MAX, Kind, Node, Place, Table};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// The tree of a YAML text.
pub fn parse(text: &str, problems: &mut Problems<'_>) -> Option<Node> {
    let mut builder = Builder::default();
    let before = problems.errors();
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                problems.error(place_of(error.marker()), format!("not valid YAML: {}", error.info()));
                return None;
            }
        };
        builder.take(event, place_of(&span.start), problems);
        if problems.errors() > before {
            return None;
        }
    }
    Some(builder.root.unwrap_or(Node::new(Kind::Null, Place::File)))
}

/// Builds the tree from the parser's events on a stack of its own, so that depth never meets the program's stack.
#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    copied: usize,
}

/// A list or table that is not closed yet.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    /// The table so far, and the key that waits for its value.
    Table(Table, Option<(String, Place)>),
}

impl Builder {
    fn take(&mut self, event: Event<'_>, place: Place, problems: &mut Problems<'_>) {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => {
                if self.root.is_some() {
                    problems.error(place, "a second document starts here: a config is one document");
                }
            }
            Event::Alias(anchor) => self.alias(anchor, place, problems),
            Event::Scalar(text, style, anchor, tag) => {
                if self.wants_key() {
                    self.key(text.into_owned(), place, problems);
                } else if let Some(kind) = scalar(text, style, tag.as_deref(), place, problems) {
                    self.value(Node::new(kind, place), anchor, problems);
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(place, anchor, tag.as_deref(), Content::List(Vec::new()), problems);
            }
            Event::MappingStart(anchor, tag) => {
                self.open(place, anchor, tag.as_deref(), Content::Table(Table::default(), None), problems);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(closed) = self.open.pop() {
                    let kind = match closed.content {
                        Content::List(items) => Kind::List(items),
                        Content::Table(table, _) => Kind::Table(table),
                    };
                    self.value(Node::new(kind, closed.place), closed.anchor, problems);
                }
            }
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Table(_, None), .. }))
    }

    fn key(&mut self, key: String, place: Place, problems: &mut Problems<'_>) {
        if let Some(Open { content: Content::Table(table, waiting), .. }) = self.open.last_mut() {
            if key == "<<" && table.value("<<").is_none() {
                problems.error(place, "merge keys are no part of YAML 1.2: write the keys out, or alias each value");
            }
            *waiting = Some((key, place));
        }
    }

    fn open(&mut self, place: Place, anchor: usize, tag: Option<&Tag>, content: Content, problems: &mut Problems<'_>) {
        if self.wants_key() {
            problems.error(place, "a key must be text, not a list or a table");
        }
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema()) {
            problems.error(place, format!("the tag `{tag}` means nothing here"));
        }
        if self.open.len() >= DEPTH_MAX {
            too_deep(place, problems);
        }
        self.open.push(Open { place, anchor, content });
    }

    fn value(&mut self, node: Node, anchor: usize, problems: &mut Problems<'_>) {
        if anchor > 0 && self.afford(&node, node.place, problems) {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { content: Content::List(items), .. }) => items.push(node),
            Some(Open { content: Content::Table(table, waiting), .. }) => {
                if let Some((key, place)) = waiting.take() {
                    insert(table, key, place, node, problems);
                }
            }
        }
    }

    fn alias(&mut self, anchor: usize, place: Place, problems: &mut Problems<'_>) {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            problems.error(place, "an alias cannot stand inside its own anchor");
            return;
        };
        if self.wants_key() {
            problems.error(place, "a key must be written out, not an alias");
        } else if self.open.len() + depth(&node) > DEPTH_MAX {
            too_deep(place, problems);
        } else if self.afford(&node, place, problems) {
            self.value(node, 0, problems);
        }
    }

    /// Counts a copy of `node`; false once all copies together are more than a config needs.
    fn afford(&mut self, node: &Node, place: Place, problems: &mut Problems<'_>) -> bool {
        self.copied += size(node);
        let affordable = self.copied <= COPIED_NODES_MAX;
        if !affordable {
            problems.error(place, format!("anchors and aliases copy more than {COPIED_NODES_MAX} values"));
        }
        affordable
    }
}

/// The value of a scalar under the core schema (YAML 1.2.2, chapter 10.3). None after an error.
fn scalar(
    text: Cow<'_, str>,
    style: ScalarStyle,
    tag: Option<&Tag>,
    place: Place,
    problems: &mut Problems<'_>,
) -> Option<Kind> {
    let Some(tag) = tag else {
        return Some(if style == ScalarStyle::Plain { resolved(text) } else { Kind::Text(text.into_owned()) });
    };
    let kind = match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
        (true, "str") => return Some(Kind::Text(text.into_owned())),
        (true, "int" | "float" | "bool" | "null") => resolved(text),
        _ => {
            problems.error(place, format!("the tag `{tag}` means nothing here"));
            return None;
        }
    };
    let fits = matches!(
        (tag.suffix.as_str(), &kind),
        ("int", Kind::Integer(_))
            | ("float", Kind::Float(_) | Kind::Integer(_))
            | ("bool", Kind::Bool(_))
            | ("null", Kind::Null)
    );
    if !fits {
        problems.error(place, format!("expected a value for the tag `{tag}`"));
    }
    fits.then_some(kind)
}

fn resolved(text: Cow<'_, str>) -> Kind {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" => return Kind::Bool(true),
        "false" | "False" | "FALSE" => return Kind::Bool(false),
        _ => {}
    }
    let radix = |prefix: &str, radix| text.strip_prefix(prefix).and_then(|digits| unsigned(digits, radix));
    if let Some(integer) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| text.parse().ok()) {
        return Kind::Integer(integer);
    }
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    match text.parse::<f64>() {
        Ok(float) if numeric && float.is_finite() => Kind::Float(float),
        _ => Kind::Text(text.into_owned()),
    }
}

/// Digits without a sign, which `from_str_radix` would let pass.
fn unsigned(digits: &str, radix: u32) -> Option<i64> {
    digits.chars().all(|digit| digit.is_digit(radix)).then(|| i64::from_str_radix(digits, radix).ok())?
}

/// How many values a tree has; recursion is bounded by `DEPTH_MAX`.
fn size(node: &Node) -> usize {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(size).sum(),
        Kind::Table(table) => table.entries().iter().map(|entry| size(&entry.value)).sum(),
        _ => 0,
    }
}

fn depth(node: &Node) -> usize {
    match &node.kind {
        Kind::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Kind::Table(table) => 1 + table.entries().iter().map(|entry| depth(&entry.value)).max().unwrap_or(0),
        _ => 0,
    }
}

fn place_of(marker: &Marker) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Place::Text { line: number(marker.line().max(1)), column: number(marker.col()).saturating_add(1) }
}

/// All copies that anchors and aliases make, in values: far more than any plan, far less than an attack wants.
const COPIED_NODES_MAX: usize = 100_000;
