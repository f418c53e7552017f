//! TOML, YAML and JSON mean the same.

use super::*;

const TWINS: [(&str, Format); 3] = [
    (include_str!("../../../tests/fixtures/config/twin.toml"), Format::Toml),
    (include_str!("../../../tests/fixtures/config/twin.yaml"), Format::Yaml),
    (include_str!("../../../tests/fixtures/config/twin.json"), Format::Json),
];

fn load_as(text: &str, format: Format) -> Result<Loaded, Vec<Problem>> {
    load_text("weir.toml", text, format, Path::new("/nowhere"), &[], &mut UserFiles::default())
}

#[track_caller]
fn check_as(text: &str, format: Format, expected: &[&str]) {
    let problems = load_as(text, format).err().unwrap_or_default();
    assert_eq!(lines(&problems).lines().collect::<Vec<_>>(), expected, "in\n{text}");
}

#[test]
fn the_same_config_in_three_forms_is_the_same_config() {
    let loaded =
        TWINS.map(|(text, format)| load_as(text, format).unwrap_or_else(|problems| panic!("{}", lines(&problems))));
    let [toml, others @ ..] = loaded;
    for other in others {
        assert_eq!(toml.effective, other.effective);
        assert_eq!(format!("{:?}", toml.config), format!("{:?}", other.config));
    }
}

#[test]
fn problems_have_their_place_in_every_form() {
    let yaml = "listeners:\n  - address: 127.0.0.1:8080\nrollouts:\n  chat:\n    unit: [client-ip]\n    wieght: 10%\n";
    check_as(yaml, Format::Yaml, &["6:5 unknown key `rollouts.chat.wieght` | did you mean `weight`?"]);
    let json = "{\n  \"listeners\": [{\"address\": \"127.0.0.1:8080\"}],\n  \"workers\": 1.5,\n  \"workers\": 2\n}";
    check_as(json, Format::Json, &["4:3 `workers` stands here a second time"]);
    check_as(
        "{\"listeners\": null, \"admin\": []}",
        Format::Json,
        &["1:15 listeners: expected a list, found nothing", "1:30 admin: expected a table, found a list"],
    );
}

#[test]
fn broken_syntax_is_reported_with_its_line() {
    check(
        "[[listeners]]\naddress = \nworkers = 1 2\n",
        &[
            "2:11 not valid TOML: string values must be quoted, expected literal string",
            "3:11 not valid TOML: string values must be quoted, expected literal string",
        ],
    );
    for (text, format) in [
        ("{\n\"a\": 1,\n}", Format::Json),
        ("{\n\"a\": 1 // no\n}", Format::Json),
        ("a: [1\nb: 2\n", Format::Yaml),
        ("a: 1\n\tb: 2\n", Format::Yaml),
        ("a: *b\n", Format::Yaml),
        ("a: 1\n---\nb: 2\n", Format::Yaml),
        ("[1]: 2\n", Format::Yaml),
        ("a: !secret b\n", Format::Yaml),
        ("a: {<<: {b: 1}}\n", Format::Yaml),
        ("a: 1\na: 2\n", Format::Yaml),
        ("a = 1\na = 2\n", Format::Toml),
        ("a = 99999999999999999999\n", Format::Toml),
    ] {
        let problems = load_as(text, format).unwrap_err();
        assert_eq!(problems.len(), 1, "{text}\n{}", lines(&problems));
        assert!(problems[0].line.is_some(), "{text}\n{}", lines(&problems));
    }
}

#[test]
fn the_form_is_told_by_the_extension() {
    let of = |name: &str| Format::of(Path::new(name));
    assert_eq!(of("weir.toml"), Ok(Format::Toml));
    assert_eq!(of("weir"), Ok(Format::Toml));
    assert_eq!(of("a.YML"), Ok(Format::Yaml));
    assert_eq!(of("a.yaml"), Ok(Format::Yaml));
    assert_eq!(of("a.json"), Ok(Format::Json));
    assert!(of("a.ini").is_err());
}

#[test]
fn streams_of_a_lost_canary_are_left_or_end_within_a_time() {
    let config = |lines: &str| good(&format!("{BASE}[rollouts.chat.breaker]\n{lines}"));
    let closes = |lines: &str| config(lines).rollouts[0].close_streams;
    assert_eq!(good(BASE).rollouts[0].close_streams, None);
    assert_eq!(closes("close_streams = \"leave\""), None);
    assert_eq!(closes("close_streams = \"90s\""), Some(std::time::Duration::from_secs(90)));
    let range = "rollouts.chat.breaker.close_streams: expected \"leave\" or a duration from 1s to 1h, found 500ms";
    check_added("[rollouts.chat.breaker]\nclose_streams = \"500ms\"", &[&format!("2:17 {range}")]);
}
