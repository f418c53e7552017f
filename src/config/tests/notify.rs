//! Who is told of what happens.

use super::*;
use crate::rollout::report::Kind;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn text(secret: &crate::snapshot::Secret) -> &str {
    std::str::from_utf8(&secret.0).unwrap()
}

#[test]
fn targets_are_read_with_their_defaults() {
    let config = good(&format!(
        "{BASE}[[notify]]\nkind = \"webhook\"\nurl = \"https://example.com/hook/?a=b\"\n\
         [[notify]]\nname = \"team\"\nkind = \"slack\"\nurl = \"http://10.0.0.1:81\"\nevents = [\"trip\", \"kill\"]\n\
         rollouts = [\"chat\"]\ntimeout = \"1s\"\nmax_age = \"2h\"\n"
    ));
    let [hook, team] = config.notify.as_slice() else { panic!() };
    assert_eq!((&*hook.name, &*hook.server.authority), ("webhook example.com:443", "example.com:443"));
    assert_eq!((text(&hook.server.path), text(&hook.server.parameters)), ("/hook/", "a=b"));
    assert!(hook.server.tls.is_some() && hook.rollouts.is_none() && hook.events.len() == 12);
    assert_eq!((hook.timeout.as_secs(), hook.max_age.as_secs()), (5, 86_400));
    assert_eq!((&*team.name, &*team.key, &team.events), ("team", "name team", &vec![Kind::Trip, Kind::Kill]));
    assert_eq!((team.timeout.as_secs(), team.max_age.as_secs()), (1, 7200));
    assert_eq!(team.rollouts, Some(vec!["chat".into()]));
    let summary = describe(&config, WIDE);
    for line in ["webhook example.com:443  of everything", "team  slack 10.0.0.1:81", "of trip, kill"] {
        assert!(summary.contains(line), "{line} in\n{summary}");
    }
}

#[test]
fn an_alertmanager_is_told_below_its_url_unless_that_leads_there_already() {
    for (url, path) in [
        ("http://am:9093", "/api/v2/alerts"),
        ("http://am:9093/", "/api/v2/alerts"),
        ("http://am/prefix/", "/prefix/api/v2/alerts"),
        ("http://am/api/v2/alerts", "/api/v2/alerts"),
    ] {
        let config = good(&format!("{BASE}[[notify]]\nkind = \"alertmanager\"\nurl = \"{url}\"\n"));
        assert_eq!(text(&config.notify[0].server.path), path, "{url}");
    }
}

#[test]
fn secrets_come_from_files_and_the_environment_and_are_shown_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("url"), "https://hooks.example.com/services/hush\n").unwrap();
    std::fs::write(folder.path().join("token"), "hushhush\n").unwrap();
    let toml = format!(
        "{BASE}[[notify]]\nkind = \"slack\"\nurl_file = \"url\"\n\
         [[notify]]\nkind = \"webhook\"\nurl = \"http://a/\"\ntoken_file = \"token\"\n\
         [[notify]]\nkind = \"webhook\"\n"
    );
    let environment = [("WEIR__NOTIFY__2__URL", "http://b/hush"), ("WEIR__NOTIFY__2__TOKEN", SECRET)];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let load =
        |text: &str| load_text("weir.toml", text, Format::Toml, folder.path(), &environment, &mut UserFiles::default());
    let loaded = load(&toml).unwrap();
    let [slack, file, variable] = loaded.config.notify.as_slice() else { panic!() };
    assert_eq!(text(&slack.server.path), "/services/hush");
    assert_eq!(file.server.authorization.as_ref().map(text), Some("Bearer hushhush"));
    assert_eq!(
        (text(&variable.server.path), variable.server.authorization.as_ref().map(text)),
        ("/hush", Some(format!("Bearer {SECRET}").as_str()))
    );
    let shown = [loaded.effective.to_string(), format!("{loaded:?}"), describe(&loaded.config, WIDE)];
    for shown in &shown {
        assert!(!shown.contains("hush") && !shown.contains(SECRET), "{shown}");
    }
    assert_eq!(loaded.files.len(), 2, "a reload notices when they change");
    let wrong = toml.replace("kind = \"slack\"", "kind = \"slack\"\nevents = []\nname = \"A\"");
    std::fs::write(folder.path().join("url"), "hooks.example.com/services/hush").unwrap();
    let problems = load(&wrong).unwrap_err();
    assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn what_tells_nobody_is_reported() {
    check_added(
        "[[notify]]\nkind = \"webhook\"\n\
         [[notify]]\nkind = \"slack\"\nurl = \"hooks.slack.com/x\"\n\
         [[notify]]\nkind = \"webhook\"\nurl = \"http://a:b@c\"\nrollouts = [\"chad\"]\ntimeout = \"2m\"\nmax_age = \"8d\"\n\
         [[notify]]\nkind = \"webhook\"\nurl = \"http://a:b@c\"\nrollouts = []\nevents = []\n",
        &[
            "2:8 notify[0]: needs `url`, or `url_file` where the URL is a secret",
            "5:7 notify[1].url: expected an address such as \"https://example.com/hook\"",
            "9:13 notify[2].rollouts: there is no rollout \"chad\" | did you mean `chat`?",
            "10:11 notify[2].timeout: expected 100ms to 1m",
            "11:11 notify[2].max_age: expected 1s to 7d",
            "12:1 notify[3]: is told the same way as another target: give each a `name` of its own",
            "15:12 notify[3].rollouts: names none, so nothing would be told",
            "16:10 notify[3].events: names none, so nothing would be told",
        ],
    );
    check_added(
        "[[notify]]\nkind = \"slak\"\nurl = \"http://a\"\nevents = [\"stages\"]\n",
        &[
            "2:8 notify[0].kind: \"slak\" is none of its words | did you mean `slack`?",
            "4:11 notify[0].events[0]: \"stages\" is none of its words | did you mean `stage`?",
        ],
    );
}

#[test]
fn a_target_is_known_by_its_name_or_its_whole_address() {
    let key = |lines: &str| {
        let config = good(&format!("{BASE}[[notify]]\nkind = \"webhook\"\n{lines}\n"));
        config.notify[0].key.to_string()
    };
    assert_eq!(key("url = \"http://a/x\""), key("url = \"http://a/x\"\nevents = [\"kill\"]"));
    assert_ne!(key("url = \"http://a/x\""), key("url = \"http://a/y\""));
    assert_eq!(key("name = \"x\"\nurl = \"http://a/x\""), key("name = \"x\"\nurl = \"http://a/y\""));
}
