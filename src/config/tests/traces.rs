//! The collector that is told of requests.

use super::*;

fn text(secret: &crate::snapshot::Secret) -> &str {
    std::str::from_utf8(&secret.0).unwrap()
}

#[test]
fn a_collector_is_read_with_its_defaults_and_told_below_its_url() {
    for (url, path) in [
        ("http://otel:4318", "/v1/traces"),
        ("http://otel:4318/base/", "/base/v1/traces"),
        ("http://otel:4318/v1/traces", "/v1/traces"),
    ] {
        let config = good(&format!("{BASE}[traces]\nurl = \"{url}\"\n"));
        let traces = config.traces.as_ref().unwrap();
        assert_eq!((text(&traces.server.path), &*traces.server.authority), (path, "otel:4318"), "{url}");
        assert_eq!((traces.share.ppm(), &*traces.service, traces.timeout.as_secs()), (10_000, "weir", 5));
        let summary = describe(&config, WIDE);
        assert!(summary.contains("1% of requests to otel:4318 as weir"), "{summary}");
    }
    assert!(good(BASE).traces.is_none(), "off unless set");
}

#[test]
fn the_snapshot_tells_only_if_there_is_a_collector() {
    let mut registry = crate::tally::Registry::new(1);
    let mut compiled = |text: &str| {
        let latches = crate::latch::Latches::default();
        compile(&good(text), &Live::default(), &mut registry, &latches, 1).traces.map(|traces| traces.share_ppm)
    };
    assert_eq!(compiled(BASE), None);
    assert_eq!(compiled(&format!("{BASE}[traces]\nurl = \"http://a\"\nshare = \"12.5%\"\n")), Some(125_000));
}

#[test]
fn mistakes_are_named_by_line_and_key() {
    check_added(
        "[traces]\nurl = \"otel:4318\"\nservice = \" \"\ntimeout = \"2m\"\n",
        &[
            "2:7 traces.url: expected an address such as \"http://127.0.0.1:4318\"",
            "3:11 traces.service: expected a name of 1 to 256 bytes",
            "4:11 traces.timeout: expected 100ms to 1m",
        ],
    );
    check_added(
        "[traces]\nurl = \"http://otel:4318\"\nshare = \"1\"\nservices = \"x\"\n",
        &[
            "3:9 traces.share: expected a share such as \"12.5%\", found \"1\" | did you mean \"1%\"?",
            "4:1 unknown key `traces.services` | did you mean `service`?",
        ],
    );
    check_added("[traces]\nshare = \"1%\"\n", &["1:1 traces.url: is missing"]);
}

#[test]
fn a_token_is_sent_and_never_shown() {
    let variables = [("WEIR__TRACES__TOKEN", "0123456789abcdef")];
    let variables: Vec<(String, String)> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.toml");
    std::fs::write(&file, format!("{BASE}[traces]\nurl = \"https://otel\"\n")).unwrap();
    let config = load(&file, &variables, &mut UserFiles::default()).unwrap().config;
    let server = &config.traces.as_ref().unwrap().server;
    assert_eq!(server.authorization.as_ref().map(text), Some("Bearer 0123456789abcdef"));
    assert!(server.tls.is_some() && !config.effective.to_string().contains("0123456789abcdef"));
}
