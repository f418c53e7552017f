//! The JSON Schema of the whole file (draft 2020-12), made from the tables that also decode it, so that it is never behind.

use super::decode::{Decode, Key, Section, Shape};
use super::effective;
use super::parse;
use super::raw;
use super::tree::Place;
use serde_json::{Map, Value, json};

/// The schema, for editors and for whoever writes configs by program.
pub fn schema() -> Value {
    let mut root = of(&raw::Root::shape());
    if let Value::Object(object) = &mut root {
        object.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".to_owned(), json!("weir config"));
    }
    root
}

fn of(shape: &Shape) -> Value {
    match shape {
        Shape::Text | Shape::File | Shape::Output | Shape::Socket | Shape::Url => json!({"type": "string"}),
        Shape::Secret => json!({"not": {}}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::False => json!({"const": false}),
        Shape::Count => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Shape::Number => json!({"type": "number"}),
        Shape::Share => json!({"type": "string", "pattern": SHARE}),
        Shape::Span => json!({"type": "string", "pattern": SPAN}),
        Shape::Size => json!({"type": "string", "pattern": SIZE}),
        Shape::Word(words) => json!({"enum": words}),
        Shape::List(inner) => json!({"type": "array", "items": of(inner)}),
        Shape::Map(inner) => json!({"type": "object", "additionalProperties": of(inner)}),
        Shape::Table(section) => table(section),
        Shape::Either(shapes) => json!({"anyOf": shapes.iter().map(of).collect::<Vec<_>>()}),
    }
}

fn table(section: &Section) -> Value {
    let properties: Map<String, Value> = section.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let required: Vec<&str> = section.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut table = json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    if let Value::Object(object) = &mut table
        && !required.is_empty()
    {
        object.insert("required".to_owned(), json!(required));
    }
    table
}

fn property(key: &Key) -> Value {
    let mut property = of(&key.shape);
    if let Value::Object(object) = &mut property {
        let description = match key.later {
            Some(why) => format!("{} Accepted but not carried out by this version: {why}.", key.doc),
            None => key.doc.to_owned(),
        };
        object.insert("description".to_owned(), json!(description));
        if let Some(default) = key.default {
            let default = effective::plain(&parse::variable(default, Place::File));
            object.insert("default".to_owned(), default);
        }
    }
    property
}

const SHARE: &str = r"^[0-9]+(\.[0-9]{1,4})?%$";
const SPAN: &str = r"^([0-9]+(\.[0-9]{1,6})?(d|h|m|s|ms|us))+$";
const SIZE: &str = r"^[0-9]+(\.[0-9]{1,3})?(B|KB|MB|GB|KiB|MiB|GiB)$";
