//! The config as it is in force, for people and the API: file and environment merged, paths absolute, secrets redacted.

use super::decode::Shape;
use super::tree::{Kind, Node};
use serde_json::{Map, Value};
use std::path::Path;

/// The JSON form of a tree. Keys that the shape does not know are left out; they refuse the config anyway.
pub fn of(node: &Node, shape: &Shape, folder: &Path) -> Value {
    match (&node.kind, shape) {
        (_, Shape::Secret) => Value::from(REDACTED),
        (_, Shape::Either(shapes)) => of(node, chosen(node, shapes), folder),
        (Kind::Table(table), Shape::Table(section)) => {
            let known = |key: &str| section.keys.iter().find(|known| known.name == key);
            let entries = table.entries().iter().filter_map(|entry| {
                let key = known(&entry.key)?;
                Some((entry.key.clone(), of(&entry.value, &key.shape, folder)))
            });
            Value::Object(entries.collect())
        }
        (Kind::Table(table), Shape::Map(inner)) => {
            let entries = table.entries().iter().map(|entry| {
                let hidden = matches!(**inner, Shape::Text) && names_a_secret(&entry.key);
                let value = if hidden { Value::from(REDACTED) } else { of(&entry.value, inner, folder) };
                (entry.key.clone(), value)
            });
            Value::Object(entries.collect())
        }
        (Kind::List(items), Shape::List(inner)) => items.iter().map(|item| of(item, inner, folder)).collect(),
        (Kind::Text(text), Shape::File) => absolute(text, folder),
        (Kind::Text(text), Shape::Output) if text != "stdout" && text != "stderr" => absolute(text, folder),
        (Kind::Text(text), Shape::Socket) => match text.strip_prefix("unix:") {
            Some(path) => Value::from(format!("unix:{}", folder.join(path).display())),
            None => Value::from(text.as_str()),
        },
        (Kind::Text(text), Shape::Url) => Value::from(without_secrets(text)),
        _ => plain(node),
    }
}

/// Takes out of an effective config what `of` has redacted whole: there is nothing to be read from it.
pub fn without_redacted(node: &mut Node, shape: &Shape) {
    if let Shape::Either(shapes) = shape {
        let shape = chosen(node, shapes);
        return without_redacted(node, shape);
    }
    match (&mut node.kind, shape) {
        (Kind::Table(table), Shape::Table(section)) => {
            for key in &section.keys {
                if matches!(key.shape, Shape::Secret) {
                    table.remove(key.name);
                } else if let Some(value) = table.value_mut(key.name) {
                    without_redacted(value, &key.shape);
                }
            }
        }
        (Kind::Table(table), Shape::Map(inner)) => table.values_mut().for_each(|value| without_redacted(value, inner)),
        (Kind::List(items), Shape::List(inner)) => items.iter_mut().for_each(|item| without_redacted(item, inner)),
        _ => {}
    }
}

/// The JSON form of a value that needs no redaction.
pub fn plain(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Bool(value) => Value::from(*value),
        Kind::Integer(value) => Value::from(*value),
        Kind::Float(value) => Value::from(*value),
        Kind::Text(text) | Kind::Date(text) => Value::from(text.as_str()),
        Kind::List(items) => items.iter().map(plain).collect(),
        Kind::Table(table) => {
            let entries = table.entries().iter().map(|entry| (entry.key.clone(), plain(&entry.value)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
    }
}

/// Of several shapes the one that this value has.
fn chosen<'s>(node: &Node, shapes: &'s [Shape]) -> &'s Shape {
    let fits = |shape: &&Shape| match node.kind {
        Kind::Table(_) => matches!(shape, Shape::Table(_) | Shape::Map(_)),
        Kind::List(_) => matches!(shape, Shape::List(_)),
        _ => !matches!(shape, Shape::Table(_) | Shape::Map(_) | Shape::List(_)),
    };
    shapes.iter().find(fits).unwrap_or(&Shape::Number)
}

fn absolute(path: &str, folder: &Path) -> Value {
    Value::from(folder.join(path).display().to_string())
}

/// Whether the value of a header of that name is probably a secret.
fn names_a_secret(header: &str) -> bool {
    let name = header.to_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Scheme and host: user, path and query of a hook are what one must know to call it.
fn without_secrets(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return REDACTED.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = if path.len() > 1 { format!("/{REDACTED}") } else { path.to_owned() };
    format!("{scheme}://{host}{path}")
}

const REDACTED: &str = "(secret)";
const SECRET_WORDS: [&str; 7] = ["authorization", "cookie", "token", "secret", "password", "api-key", "apikey"];
