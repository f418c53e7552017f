//! A config as a tree of values, each with its place: the same for TOML, YAML and JSON, and what the environment overrides.
//!
//! Knows no key of weir. Made by `parse`, changed by `environment`, read by `decode`.

use std::collections::HashMap;

/// Where a value stands. Places sort as a reader meets them: the file, its lines, then variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The file as a whole.
    #[default]
    File,
    /// In its text, as bytes from its start; line and column are counted only when somebody is told.
    Offset(u32),
    /// In its text.
    Text {
        /// From 1.
        line: u32,
        /// In characters, from 1.
        column: u32,
    },
    /// In the environment variable of that index.
    Variable(u32),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub kind: Kind,
    /// Where it starts.
    pub place: Place,
}

/// A value.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Nothing: `null` of YAML and JSON.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// Text.
    Text(String),
    /// A date or time of TOML, as written; no key takes one.
    Date(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with values.
    Table(Table),
}

/// Keys with values in the order of the file; a key occurs once.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: Vec<Entry>,
    positions: HashMap<String, usize>,
}

/// One key with its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// A value at a place.
    pub fn new(kind: Kind, place: Place) -> Self {
        Node { kind, place }
    }

    /// The value in words for an error: `the integer 25`, `a list`.
    pub fn described(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(value) => format!("`{value}`"),
            Kind::Integer(value) => format!("the integer {value}"),
            Kind::Float(value) => format!("the number {value}"),
            Kind::Text(value) => format!("the text {}", quoted(value)),
            Kind::Date(value) => format!("the date {value}"),
            Kind::List(_) => "a list".to_owned(),
            Kind::Table(_) => "a table".to_owned(),
        }
    }
}

impl Table {
    /// All entries, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A key with its value.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(*self.positions.get(key)?)
    }

    /// The value of a key, to be changed.
    pub fn value_mut(&mut self, key: &str) -> Option<&mut Node> {
        let position = *self.positions.get(key)?;
        self.entries.get_mut(position).map(|entry| &mut entry.value)
    }

    /// All values, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Node> {
        self.entries.iter_mut().map(|entry| &mut entry.value)
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|entry| entry.key != key);
        self.positions = self.entries.iter().enumerate().map(|(at, entry)| (entry.key.clone(), at)).collect();
    }

    /// Adds a key; a key that is there already is given back.
    pub fn insert(&mut self, key: String, place: Place, value: Node) -> Result<(), String> {
        if self.positions.contains_key(&key) {
            return Err(key);
        }
        self.positions.insert(key.clone(), self.entries.len());
        self.entries.push(Entry { key, place, value });
        Ok(())
    }
}

/// Text in double quotes, shortened, with control characters escaped.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_MAX).collect();
    let more = if short.len() < text.len() { "..." } else { "" };
    format!("{short:?}{more}")
}

/// No error needs more of a value to tell which one is meant.
const QUOTED_MAX: usize = 60;
/// How deep tables and lists may nest. The deepest key of weir is at 8; the tree is walked recursively.
pub const DEPTH_MAX: usize = 32;

/// A key for an error message: shortened, without control characters.
pub fn shortened(key: &str) -> String {
    key.chars().take(QUOTED_MAX).map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
