//! Two answers to one request compared under rules: what differs, where, and by how much.
//!
//! Pure: whoever has the bytes reads them first (`Body`); here values meet values. Numbers that differ are always told with the
//! size of the difference, so that a tolerance can be chosen after the fact. Whether a share of differing samples is too much is
//! `verdict`'s question; which of them are kept, `samples`'. Nothing here is unbounded: values come out cut, a field has a few
//! examples, a comparison a stated number of fields.

pub mod exact;
pub mod ignore;
mod lists;
pub mod samples;
#[cfg(test)]
mod tests;
mod tree;
pub mod value;
pub mod verdict;

use super::hash::Murmur3;
use ignore::Ignore;
use std::collections::BTreeMap;
use std::fmt;
use value::Value;

/// What is compared, and what counts as equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules {
    /// Relative difference up to which two numbers are equal: |a - b| <= tolerance x max(|a|, |b|).
    pub tolerance: f64,
    /// Difference up to which two numbers are equal, whatever their size.
    pub absolute: f64,
    /// The share of samples that may differ, in parts of one.
    pub max_diff_rate: f64,
    /// What is not compared.
    pub ignore: Vec<Ignore>,
    /// What is compared and never shown.
    pub redact: Vec<Ignore>,
    /// Whether the order of lists matters.
    pub array_order: bool,
    /// Whether fields that only the second answer has are differences.
    pub added_fields: bool,
    /// Bytes of a body beyond which it is not compared.
    pub max_body: usize,
}

/// One answer as it is compared.
#[derive(Clone, Debug)]
pub struct Side<'a> {
    /// Its status.
    pub status: u16,
    /// Its headers: lower-case name and value.
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// Its body.
    pub body: Body<'a>,
}

/// A body as far as it could be read.
#[derive(Clone, Debug)]
pub enum Body<'a> {
    /// JSON.
    Json(Value),
    /// Text, compared line by line.
    Text(&'a str),
    /// Anything else.
    Bytes(&'a [u8]),
    /// Longer than is compared; at least that many bytes.
    Longer(usize),
}

/// What kind of difference it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The status.
    Status,
    /// A header.
    Header,
    /// A field that only the first answer has.
    Missing,
    /// A field that only the second answer has.
    Added,
    /// Another type of value.
    Type,
    /// Another number.
    Number,
    /// Another text or boolean.
    Value,
    /// A list of another length.
    Length,
    /// Another text as the body.
    Text,
    /// Other bytes as the body.
    Bytes,
    /// Another kind of body: JSON against text, say.
    Form,
}

impl Class {
    /// All classes.
    pub const ALL: [Class; 11] = [
        Class::Status,
        Class::Header,
        Class::Missing,
        Class::Added,
        Class::Type,
        Class::Number,
        Class::Value,
        Class::Length,
        Class::Text,
        Class::Bytes,
        Class::Form,
    ];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Class::Status => "status",
            Class::Header => "header",
            Class::Missing => "missing",
            Class::Added => "added",
            Class::Type => "type",
            Class::Number => "number",
            Class::Value => "value",
            Class::Length => "length",
            Class::Text => "text",
            Class::Bytes => "bytes",
            Class::Form => "form",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A place in answers, whatever the index in a list: `/items/*/price`, `header:location`, `status`, `body`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Field {
    /// Where.
    pub path: String,
    /// What kind of difference.
    pub class: Class,
}

impl Field {
    /// Whatever stands beside it in its table: where keys are data there is no end of them, and they are told as one.
    /// None of what stands in no table.
    fn of_its_table(&self) -> Option<Field> {
        let table =
            self.path.rfind('/').and_then(|slash| self.path.get(..slash)).filter(|_| self.path.starts_with('/'))?;
        Some(Field { path: format!("{table}/*"), class: self.class })
    }
}

/// One difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// What kind.
    pub class: Class,
    /// Where exactly: `/items/3/price`.
    pub path: String,
    /// What the first answer has there; cut, or withheld by rule.
    pub first: String,
    /// What the second has.
    pub second: String,
    /// How far two numbers are apart: |a - b| / max(|a|, |b|), above 0 and at most 2. Infinite for everything else.
    pub size: f64,
}

/// The differences of one field of one pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Hits {
    /// How many.
    pub count: u64,
    /// The largest of them.
    pub largest: Difference,
}

/// What differs between two answers. Numbers are among it whatever their distance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// By field.
    pub fields: BTreeMap<Field, Hits>,
    /// How many fields of each table are told apart, by the field that the others of it are.
    tables: BTreeMap<Field, usize>,
    /// Differences that belong to more fields than are told apart.
    pub more: u64,
    /// Whether the bodies were left out because one is longer than is compared, or both are.
    pub unread: bool,
}

impl Found {
    /// Whether something differs under that tolerance.
    pub fn differs(&self, tolerance: f64) -> bool {
        self.more > 0 || self.fields.values().any(|hits| hits.largest.size > tolerance)
    }

    /// The largest differences of the fields that differ most, at most so many.
    pub fn worst(&self, count: usize) -> Vec<Difference> {
        let mut differences: Vec<&Difference> = self.fields.values().map(|hits| &hits.largest).collect();
        differences.sort_by(|one, other| other.size.total_cmp(&one.size));
        differences.into_iter().take(count).cloned().collect()
    }

    /// Counts a difference that is no larger than one that was told of that field; false if it has to be told.
    fn again(&mut self, path: &str, class: Class, size: f64) -> bool {
        let known = self.fields.get_mut(&Field { path: path.to_owned(), class });
        known.filter(|hits| size <= hits.largest.size).map(|hits| hits.count += 1).is_some()
    }

    fn add(&mut self, path: String, difference: Difference) {
        let mut field = Field { path, class: difference.class };
        if let (false, Some(rest)) = (self.fields.contains_key(&field), field.of_its_table()) {
            let told_apart = self.tables.get(&rest).copied().unwrap_or_default();
            if told_apart >= TABLE_FIELDS_MAX || self.fields.len() >= FIELDS_MAX {
                field = rest;
            } else {
                self.tables.insert(rest, told_apart + 1);
            }
        }
        let room = self.fields.len() < FIELDS_MAX + TABLES_MAX;
        match self.fields.get_mut(&field) {
            Some(hits) => {
                hits.count += 1;
                if difference.size >= hits.largest.size {
                    hits.largest = difference;
                }
            }
            None if room => {
                self.fields.insert(field, Hits { count: 1, largest: difference });
            }
            None if difference.size.is_infinite() => self.more += 1,
            None => {}
        }
    }
}

/// Compares two answers; the first is stable's.
pub fn compare(first: &Side<'_>, second: &Side<'_>, rules: &Rules) -> Found {
    let mut found = Found::default();
    if first.status != second.status {
        let texts = [first.status, second.status].map(|status| status.to_string());
        found.add("status".into(), plain(Class::Status, "status", texts));
    }
    for name in HEADERS {
        headers(name, first, second, rules, &mut found);
    }
    if !rules.ignore.iter().any(Ignore::is_whole_body) {
        bodies(first, second, rules, &mut found);
    }
    found
}

fn headers(name: &str, first: &Side<'_>, second: &Side<'_>, rules: &Rules, found: &mut Found) {
    if rules.ignore.iter().any(|ignore| ignore.is_header(name)) {
        return;
    }
    let [ours, theirs] = [first, second].map(|side| {
        let values = side.headers.iter().filter(|(of, _)| *of == name).map(|(_, value)| {
            let text = String::from_utf8_lossy(value).trim().to_owned();
            // Media types and their parameters know no case, and spaces around their marks mean nothing.
            if name == "content-type" { text.to_ascii_lowercase().replace(' ', "") } else { text }
        });
        values.collect::<Vec<String>>()
    });
    if ours == theirs {
        return;
    }
    let withheld = rules.redact.iter().any(|redact| redact.is_header(name));
    let texts = [ours, theirs].map(|values| match (values.is_empty(), withheld) {
        (true, _) => "(none)".to_owned(),
        (false, true) => WITHHELD.to_owned(),
        (false, false) => cut(&values.join(", ")),
    });
    let path = format!("header:{name}");
    found.add(path.clone(), plain(Class::Header, &path, texts));
}

fn bodies(first: &Side<'_>, second: &Side<'_>, rules: &Rules, found: &mut Found) {
    let whole = |class, texts| plain(class, "body", texts);
    let shown = |text: String| if rules.redact.iter().any(Ignore::is_whole_body) { WITHHELD.to_owned() } else { text };
    match (&first.body, &second.body) {
        (Body::Json(ours), Body::Json(theirs)) => tree::compare(ours, theirs, rules, found),
        (Body::Text(ours), Body::Text(theirs)) => {
            if let Some((line, ours, theirs)) = first_line(ours, theirs) {
                let texts = [ours, theirs].map(|line| shown(line.map_or_else(|| "(no line)".to_owned(), cut)));
                let difference = Difference { path: format!("body:{line}"), ..whole(Class::Text, texts) };
                found.add("body".into(), difference);
            }
        }
        (Body::Longer(_), Body::Longer(_)) => found.unread = true,
        (Body::Longer(least), other) | (other, Body::Longer(least)) => {
            found.unread = true;
            // The other one was read to its end, so it is shorter than what was not.
            if other.length().is_some_and(|length| length < *least) {
                let texts = [first, second].map(|side| side.body.described());
                found.add("body".into(), whole(Class::Bytes, texts));
            }
        }
        (ours, theirs) if ours.kind() == theirs.kind() => {
            if ours.raw() != theirs.raw() {
                found.add("body".into(), whole(Class::Bytes, [ours, theirs].map(Body::described)));
            }
        }
        (ours, theirs) if ours.raw().is_some_and(|bytes| theirs.raw() == Some(bytes)) => {}
        (ours, theirs) => found.add("body".into(), whole(Class::Form, [ours, theirs].map(Body::described))),
    }
}

impl Body<'_> {
    const fn kind(&self) -> &'static str {
        match self {
            Body::Json(_) => "JSON",
            Body::Text(_) => "text",
            Body::Bytes(_) => "bytes",
            Body::Longer(_) => "long",
        }
    }

    fn raw(&self) -> Option<&[u8]> {
        match self {
            Body::Text(text) => Some(text.as_bytes()),
            Body::Bytes(bytes) => Some(bytes),
            Body::Json(_) | Body::Longer(_) => None,
        }
    }

    fn length(&self) -> Option<usize> {
        self.raw().map(<[u8]>::len)
    }

    /// Kind, length and, so that two can be told apart, a checksum.
    fn described(&self) -> String {
        match (self, self.raw()) {
            (_, Some([])) => "nothing".to_owned(),
            (Body::Longer(least), _) => format!("at least {least} bytes"),
            (_, Some(bytes)) => {
                let sum = Murmur3::new(0).with(bytes).finish();
                format!("{}, {} bytes, checksum {sum:08x}", self.kind(), bytes.len())
            }
            (_, None) => self.kind().to_owned(),
        }
    }
}

/// The first line that differs, counted from 1; of a text that ended before, none. Ends of lines of either kind are equal.
fn first_line<'a>(first: &'a str, second: &'a str) -> Option<(usize, Option<&'a str>, Option<&'a str>)> {
    let (mut ours, mut theirs) = (first.lines(), second.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (ours.next(), theirs.next()) {
            (None, None) => return None,
            (one, other) if one == other => {}
            (one, other) => return Some((number, one, other)),
        }
    }
}

fn plain(class: Class, path: &str, [first, second]: [String; 2]) -> Difference {
    Difference { class, path: path.to_owned(), first, second, size: f64::INFINITY }
}

/// A text as it is shown: its first characters, control characters made visible.
pub fn cut(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(SHOWN_CHARACTERS_MAX));
    for (place, character) in text.chars().enumerate() {
        if place == SHOWN_CHARACTERS_MAX {
            shown.push('…');
            break;
        }
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}

/// Whether a field of that name is a secret by its name alone, and its value never shown.
fn is_secret(name: &str) -> bool {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    SECRETS.iter().any(|secret| plain.contains(secret))
}

/// The headers that are compared: those by which clients, browsers and caches treat an answer otherwise. What differs by its
/// nature (`date`, `etag`, ids of requests, cookies, servers' names) is not among them, nor is what only says how the bytes
/// travel.
pub const HEADERS: [&str; 10] = [
    "access-control-allow-credentials",
    "access-control-allow-origin",
    "allow",
    "cache-control",
    "content-disposition",
    "content-language",
    "content-type",
    "grpc-status",
    "location",
    "www-authenticate",
];
/// Parts of the names of fields whose values are never shown, without case and marks.
const SECRETS: [&str; 12] = [
    "apikey",
    "authorization",
    "cookie",
    "credential",
    "cvv",
    "iban",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "secret",
    "token",
];
/// What is shown in place of a value.
pub const WITHHELD: &str = "(withheld)";
/// Fields that one comparison tells apart.
pub const FIELDS_MAX: usize = 128;
/// Of these, fields of one table and of one class.
pub const TABLE_FIELDS_MAX: usize = 32;
/// Tables of which it tells what else is in them, as one field each; answers that differ in more differ anyhow.
pub const TABLES_MAX: usize = 32;
/// Characters of a value that are shown.
pub const SHOWN_CHARACTERS_MAX: usize = 96;
