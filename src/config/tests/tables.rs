//! Claims about every key of the contract, generated from the tables that decode it.

use super::decode::{Decode, Section, Shape};
use super::*;
use serde_json::{Value, json};

/// Every section with the JSON path to it, elements of lists and maps as 0 and `name`.
fn sections(shape: &Shape, path: &str, found: &mut Vec<(String, Section)>) {
    match shape {
        Shape::Table(section) => {
            found.push((path.to_owned(), section.clone()));
            for key in &section.keys {
                sections(&key.shape, &format!("{path}/{}", key.name), found);
            }
        }
        Shape::List(inner) => sections(inner, &format!("{path}/0"), found),
        Shape::Map(inner) => sections(inner, &format!("{path}/name"), found),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| sections(shape, path, found)),
        _ => {}
    }
}

fn all_sections() -> Vec<(String, Section)> {
    let mut found = Vec::new();
    sections(&raw::Root::shape(), "", &mut found);
    found
}

/// A config that has `key` with some value at `path` and nothing else.
fn config_with(path: &str, key: &str) -> String {
    let mut value = json!({ key: 0 });
    for step in path.split('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
        value = if step == "0" { json!([value]) } else { json!({ step: value }) };
    }
    value.to_string()
}

/// What `[rollouts.chat.breaker]` with these keys makes of a failed canary request.
#[test]
fn fallback_is_safe_unless_the_breaker_is_off_and_what_is_said_wins() {
    use crate::snapshot::Fallback::{self, Idempotent, Off, Safe};
    let of = |keys: &str| -> (Fallback, bool) {
        let rollout = &good(&format!("{BASE}[rollouts.chat.breaker]\n{keys}")).rollouts[0];
        (rollout.fallback, rollout.fallback_by_key)
    };
    assert_eq!(good(BASE).rollouts[0].fallback, Safe);
    for (keys, wanted) in [
        ("", Safe),
        ("enabled = true", Safe),
        ("enabled = false", Off),
        ("fallback = \"off\"", Off),
        ("fallback = \"idempotent\"", Idempotent),
        ("enabled = false\nfallback = \"safe\"", Safe),
    ] {
        assert_eq!(of(keys), (wanted, false), "{keys}");
    }
    assert_eq!(of("idempotency_key = true"), (Safe, true));
}

fn problems_of(json: &str) -> Vec<Problem> {
    load_text("f", json, Format::Json, Path::new("/nowhere"), &[], &mut UserFiles::default()).unwrap_err()
}

/// The key with one letter dropped, doubled, changed, and two swapped.
fn typos(key: &str) -> Vec<String> {
    let letters: Vec<char> = key.chars().collect();
    let mut typos = Vec::new();
    for at in 0..letters.len() {
        let with = |change: &dyn Fn(&mut Vec<char>)| {
            let mut letters = letters.clone();
            change(&mut letters);
            letters.into_iter().collect::<String>()
        };
        typos.push(with(&|letters| letters.truncate(at)) + &key[at + 1..]);
        typos.push(with(&|letters| letters.insert(at, letters[at])));
        typos.push(with(&|letters| letters[at] = 'q'));
        if at + 1 < letters.len() {
            typos.push(with(&|letters| letters.swap(at, at + 1)));
        }
    }
    typos
}

#[test]
fn every_key_mistyped_by_one_letter_is_reported_with_a_suggestion() {
    let sections = all_sections();
    assert!(sections.len() > 30);
    let mut tried = 0;
    for (path, section) in &sections {
        let names: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        for typo in names.iter().flat_map(|name| typos(name)).filter(|typo| !typo.is_empty()) {
            if names.contains(&typo.as_str()) {
                continue;
            }
            let problems = problems_of(&config_with(path, &typo));
            let reported = problems.iter().find(|problem| {
                problem.message.starts_with("unknown key") && problem.message.ends_with(&format!("{typo}`"))
            });
            let help = reported.and_then(|problem| problem.help.as_deref()).unwrap_or_default();
            assert!(help.starts_with("did you mean `"), "{path} {typo}: {help}\n{}", lines(&problems));
            tried += 1;
        }
    }
    assert!(tried > 3000, "{tried}");
}

#[test]
fn every_key_says_what_it_expects() {
    for (path, section) in all_sections() {
        for key in &section.keys {
            assert!(!key.doc.is_empty(), "{path}/{}", key.name);
            let wrong = config_with(&path, key.name).replace(":0", ":{\"no\":{\"such\":[]}}");
            let problems = problems_of(&wrong);
            let name = format!(".{}", key.name);
            let about = problems.iter().any(|problem| problem.message.contains(name.trim_start_matches('.')));
            assert!(about, "{path}/{}\n{}", key.name, lines(&problems));
        }
    }
}

#[test]
fn every_default_is_a_value_that_its_key_takes() {
    for (path, section) in all_sections() {
        for key in section.keys.iter().filter(|key| key.later.is_none()) {
            let Some(default) = key.default else { continue };
            let default = effective::plain(&parse::variable(default, tree::Place::File));
            let text = config_with(&path, key.name).replace(":0", &format!(":{default}"));
            let wrong: Vec<Problem> = problems_of(&text)
                .into_iter()
                .filter(|problem| problem.message.contains(key.name) && problem.message.contains("expected"))
                .collect();
            assert!(wrong.is_empty(), "{path}/{} = {default}\n{}", key.name, lines(&wrong));
        }
    }
}

#[test]
fn stating_every_default_of_the_limits_changes_nothing() {
    let mut text = String::from("[limits]\n");
    for (name, _, default, _) in limits_table(&good(BASE)) {
        let quoted = if default.parse::<u32>().is_ok() { default } else { format!("\"{default}\"") };
        text.push_str(&format!("{name} = {quoted}\n"));
    }
    let stated = good(&format!("{BASE}{text}"));
    assert_eq!(stated.limits, good(BASE).limits);
    assert_eq!(stated.upstreams[0].connect_timeout, good(BASE).upstreams[0].connect_timeout);
    assert_eq!(limits_table(&stated).len(), 36);
}

#[test]
fn the_schema_describes_every_key() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["listeners"]));
    assert_eq!(schema["additionalProperties"], false);
    let rollout = &schema["properties"]["rollouts"]["additionalProperties"];
    assert_eq!(rollout["properties"]["weight"]["default"], "0%");
    assert_eq!(rollout["properties"]["hash"]["enum"][0], "murmur3");
    assert_eq!(
        schema["properties"]["listeners"]["items"]["properties"]["protocols"]["default"],
        json!(["h2", "http/1.1"])
    );
    fn described(value: &Value, path: &str) {
        for (name, property) in value["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
            described(property, &path);
            described(&property["items"], &path);
            described(&property["additionalProperties"], &path);
        }
    }
    described(&schema, "");
}

#[test]
fn the_summary_says_what_a_config_means() {
    let text = include_str!("../../../tests/fixtures/config/twin.toml");
    let summary = describe(&good(text), WIDE);
    for part in [
        "unix:/nowhere/weir.sock",
        "127.0.0.1:8081  plain  h2, http/1.1  flags at /flags",
        "api   *.example.com/api, x-a: b  -> legacy by chat",
        "rest  everything                 -> legacy",
        "weight    12.5%",
        "unit      header:x-user-id, then client-ip",
        "hash      growthbook, key chat, seed 7",
        "canary    -> new, sets x-flag",
        "internal  on  1 user, or 0.5% of units  -> canary",
    ] {
        assert!(summary.contains(part), "{part}\n{summary}");
    }
}
