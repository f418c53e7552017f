//! `WEIR__A__B=value`: overrides laid over the tree before it is decoded, so that they are checked like the file.
//!
//! They may set keys that the file leaves out, but name no new rollout, upstream or list element. Called by `load`.

use super::decode::{Section, Shape};
use super::parse;
use super::problem::{Problems, nearest};
use super::tree::{Kind, Node, Table};
use std::collections::BTreeMap;

/// Lays every `WEIR__` variable over the tree, in the order of their names.
pub fn apply(root: &mut Node, shape: &Shape, environment: &[(String, String)], problems: &mut Problems<'_>) {
    let ours = environment.iter().map(|(name, value)| (folded(name), name, value));
    let ours = ours.filter(|(folded, ..)| folded.starts_with(PREFIX));
    let mut variables: BTreeMap<String, (&str, &str)> = BTreeMap::new();
    for (folded, name, value) in ours {
        let place = problems.place_of_variable(name);
        if let Some((other, _)) = variables.insert(folded, (name, value)) {
            problems.error(place, format!("sets the same key as `{other}`"));
        }
    }
    for (folded, (name, value)) in variables {
        let place = problems.place_of_variable(name);
        let steps: Vec<&str> = folded.get(PREFIX.len()..).unwrap_or_default().split("__").collect();
        if value.len() > VALUE_BYTES_MAX {
            problems.error(place, "is longer than 64 KiB");
            continue;
        }
        let value = parse::variable(value, place);
        if let Err(miss) = set(root, shape, &steps, value, "") {
            let problem = problems.error(place, miss.message);
            if let Some(help) = miss.help {
                problem.with_help(help);
            }
        }
    }
}

/// Why a variable names nothing.
struct Miss {
    message: String,
    help: Option<String>,
}

/// Sets what `steps` lead to. Where the tree already has a value of the wrong type, decoding will say so.
fn set(node: &mut Node, shape: &Shape, steps: &[&str], value: Node, path: &str) -> Result<(), Miss> {
    let [step, rest @ ..] = steps else {
        *node = value;
        return Ok(());
    };
    match structured(shape) {
        Shape::Table(section) => set_key(node, section, step, rest, value, path),
        Shape::Map(inner) => {
            let Kind::Table(table) = &mut node.kind else { return Ok(()) };
            let key = match_name(table, step, rest, path)?;
            let path = join(path, &key);
            table.value_mut(&key).map_or(Ok(()), |child| set(child, inner, rest, value, &path))
        }
        Shape::List(inner) => {
            let Kind::List(items) = &mut node.kind else { return Ok(()) };
            let count = items.len();
            let element = step.parse::<usize>().ok().and_then(|index| items.get_mut(index));
            let Some(element) = element else {
                let message = match count {
                    0 => format!("names nothing: `{path}` is empty"),
                    _ => format!("names nothing: the elements of `{path}` are 0 to {}", count - 1),
                };
                return Err(Miss { message, help: Some(whole(path)) });
            };
            set(element, inner, rest, value, &format!("{path}[{step}]"))
        }
        _ => Err(Miss { message: format!("names nothing: `{path}` is a single value without keys"), help: None }),
    }
}

fn set_key(node: &mut Node, section: &Section, step: &str, rest: &[&str], value: Node, path: &str) -> Result<(), Miss> {
    let names = section.keys.iter().map(|key| key.name);
    let Some(key) = section.keys.iter().find(|key| folded(key.name) == step) else {
        let of = if path.is_empty() { "the config".to_owned() } else { format!("`{path}`") };
        let help = nearest(step, names).map(|name| did_you_mean(path, name, rest));
        return Err(Miss { message: format!("names nothing: {of} has no key `{step}`"), help });
    };
    let Kind::Table(table) = &mut node.kind else { return Ok(()) };
    let path = join(path, key.name);
    if table.value(key.name).is_none() {
        let child = match (rest, structured(&key.shape)) {
            ([], _) => value.clone(),
            (_, Shape::Table(_)) => Node::new(Kind::Table(Table::default()), value.place),
            (_, Shape::Map(_) | Shape::List(_)) => {
                return Err(Miss { message: format!("names nothing: `{path}` is empty"), help: Some(whole(&path)) });
            }
            _ => {
                return Err(Miss {
                    message: format!("names nothing: `{path}` is a single value without keys"),
                    help: None,
                });
            }
        };
        // The key is absent, so nothing is given back.
        let _ = table.insert(key.name.to_owned(), value.place, child);
    }
    table.value_mut(key.name).map_or(Ok(()), |child| set(child, &key.shape, rest, value, &path))
}

/// The key of a table that a folded name means; two keys that fold alike are ambiguous.
fn match_name(table: &Table, step: &str, rest: &[&str], path: &str) -> Result<String, Miss> {
    let keys = || table.entries().iter().map(|entry| entry.key.as_str());
    let mut matching = keys().filter(|key| folded(key) == step);
    match (matching.next(), matching.next()) {
        (Some(key), None) => Ok(key.to_owned()),
        (Some(one), Some(other)) => {
            Err(Miss { message: format!("names both `{one}` and `{other}` of `{path}`"), help: None })
        }
        (None, _) => {
            let help = nearest(step, keys()).map(|name| did_you_mean(path, name, rest));
            Err(Miss { message: format!("names nothing: `{path}` has no `{step}`"), help })
        }
    }
}

/// Of several shapes the one with keys or elements.
fn structured(shape: &Shape) -> &Shape {
    let has_parts = |shape: &&Shape| matches!(shape, Shape::Table(_) | Shape::Map(_) | Shape::List(_));
    match shape {
        Shape::Either(shapes) => shapes.iter().find(has_parts).unwrap_or(shape),
        _ => shape,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Names are compared without case, with `-` and `_` equal.
fn folded(name: &str) -> String {
    name.to_lowercase().replace('-', "_")
}

/// Offers the whole variable, to be copied: the path as it should be with the steps that follow it.
fn did_you_mean(path: &str, name: &str, rest: &[&str]) -> String {
    let whole = rest.iter().fold(join(path, name), |path, step| join(&path, step));
    format!("did you mean `{}`?", variable(&whole))
}

/// The variable that sets a path.
pub fn variable(path: &str) -> String {
    let steps = path.replace('[', ".").replace(']', "");
    format!("WEIR__{}", steps.to_uppercase().replace('-', "_").replace('.', "__"))
}

fn whole(path: &str) -> String {
    format!("set it as a whole: {}=...", variable(path))
}

/// What our variables start with, folded.
const PREFIX: &str = "weir__";
/// No single value is longer.
const VALUE_BYTES_MAX: usize = 64 * 1024;
