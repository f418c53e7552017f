//! The files under `config/` that other programs read, as values.

use saphyr_parser::{Event, Parser};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A folder of the repository.
pub fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The files in a folder with that extension, by name, with their texts.
pub fn texts(path: &str, extension: &str) -> Vec<(String, String)> {
    let entries =
        std::fs::read_dir(folder(path)).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|own| own == extension)).collect();
    files.sort();
    let named = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.iter().map(|path| (named(path), std::fs::read_to_string(path).expect("a text"))).collect()
}

/// A YAML document as a value; every scalar is a text.
pub fn yaml(text: &str) -> Value {
    enum Open {
        List(Vec<Value>),
        Table(Map<String, Value>, Option<String>),
    }
    let mut open = vec![Open::List(Vec::new())];
    for event in Parser::new_from_str(text) {
        let ended = match event.expect("valid YAML").0 {
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open::Table(Map::new(), None));
                continue;
            }
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::SequenceEnd | Event::MappingEnd => match open.pop().expect("what ends has begun") {
                Open::List(list) => Value::Array(list),
                Open::Table(table, _) => Value::Object(table),
            },
            _ => continue,
        };
        match open.last_mut().expect("the document is open") {
            Open::List(list) => list.push(ended),
            Open::Table(table, key) => match key.take() {
                None => *key = Some(ended.as_str().expect("keys are texts").to_owned()),
                Some(key) => assert!(table.insert(key, ended).is_none(), "a key occurs once"),
            },
        }
    }
    match open.pop() {
        Some(Open::List(mut documents)) => documents.pop().expect("a document"),
        _ => panic!("a document that does not end"),
    }
}

/// The rules of one file of Prometheus.
pub fn rules(text: &str) -> Vec<Value> {
    let file = yaml(text);
    let groups = file["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}
