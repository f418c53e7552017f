//! Health checks of upstreams: what they come to, what people get wrong, and how they are explained.

use super::*;

/// `BASE` with that health of `new`.
fn with(health: &str) -> String {
    BASE.replace("[rollouts.chat]", &format!("health = {health}\n[rollouts.chat]"))
}

fn health(text: &str) -> Option<HealthConfig> {
    good(&with(text)).upstreams.into_iter().find(|upstream| &*upstream.name == "new")?.health
}

#[test]
fn what_is_not_said_is_as_the_schema_says() {
    assert_eq!(good(BASE).upstreams[1].health, None);
    let span = |value: &str| units::parse_span(value).unwrap();
    let schema = schema();
    let keys = &schema["properties"]["upstreams"]["additionalProperties"]["properties"]["health"]["properties"];
    let default = |key: &str| keys[key]["default"].clone();
    let health = health("{ tcp = true }").unwrap();
    assert_eq!(health.check, HealthCheck::Tcp);
    assert_eq!(health.interval, span(default("interval").as_str().unwrap()));
    assert_eq!(health.timeout, span(default("timeout").as_str().unwrap()));
    assert_eq!(default("unhealthy_after"), health.unhealthy_after);
    assert_eq!(default("healthy_after"), health.healthy_after);
}

#[test]
fn every_key_is_taken_and_nothing_is_left_for_later() {
    let said = "{ path = \"/health?deep=1\", interval = \"250ms\", timeout = \"50ms\", unhealthy_after = 1, healthy_after = 9 }";
    assert_eq!(load_toml(&with(said)).unwrap().warnings, []);
    let health = health(said).unwrap();
    assert!(matches!(&health.check, HealthCheck::Path(path) if path.as_str() == "/health?deep=1"));
    assert_eq!((health.interval.as_millis(), health.timeout.as_millis()), (250, 50));
    assert_eq!((health.unhealthy_after, health.healthy_after), (1, 9));
}

#[test]
fn what_is_wrong_is_said_at_its_place() {
    let either = "7:10 upstreams.new.health: expected either `path` or `tcp = true`";
    let path = |at: u32, found: &str| {
        format!("7:{at} upstreams.new.health.path: expected a path such as \"/healthz\", found \"{found}\"")
    };
    for (said, expected) in [
        ("{}", either.to_owned()),
        ("{ tcp = false }", either.to_owned()),
        ("{ tcp = true, path = \"/\" }", either.to_owned()),
        ("{ path = \"healthz\" }", path(19, "healthz")),
        ("{ path = \"/a#b\" }", path(19, "/a#b")),
        ("{ path = \"/a b\" }", path(19, "/a b")),
        (
            "{ tcp = true, interval = \"1ms\" }",
            "7:35 upstreams.new.health.interval: expected a duration from 10ms to 1h".to_owned(),
        ),
        (
            "{ tcp = true, timeout = \"2m\" }",
            "7:34 upstreams.new.health.timeout: expected a duration from 1ms to 1m".to_owned(),
        ),
        (
            "{ tcp = true, unhealthy_after = 0 }",
            "7:42 upstreams.new.health.unhealthy_after: expected 1 to 1000, found 0".to_owned(),
        ),
        (
            "{ tcp = true, healthy_after = 1001 }",
            "7:40 upstreams.new.health.healthy_after: expected 1 to 1000, found 1001".to_owned(),
        ),
    ] {
        check(&with(said), &[&expected]);
    }
}

#[test]
fn the_summary_says_what_is_asked_and_what_it_means() {
    let summary = describe(&good(&with("{ path = \"/healthz\" }")), WIDE);
    let checked = "checked by GET /healthz every 5s within 2s: unhealthy after 3 failed, healthy after 2 passed";
    assert!(summary.contains(checked) && summary.contains("not checked: always healthy"), "{summary}");
    assert!(describe(&good(&with("{ tcp = true }")), WIDE).contains("checked by a connection every 5s"));
}
