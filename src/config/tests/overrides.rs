//! The environment over the file.

use super::*;

#[test]
fn variables_set_any_key_without_regard_to_case_and_dashes() {
    let text = format!("{BASE}[rollouts.chat.cohorts.in-house]\nenabled = true\n");
    let environment = [
        ("WEIR__ROLLOUTS__CHAT__WEIGHT", "25%"),
        ("WEIR__ROLLOUTS__CHAT__KILL", "true"),
        ("WEIR__LISTENERS__0__ADDRESS", "127.0.0.1:8081"),
        ("weir__rollouts__chat__cohorts__in_house__enabled", "false"),
        ("WEIR__TRUSTED_PROXIES", "[\"10.0.0.0/8\"]"),
        ("WEIR__KILL__ALL", "false"),
        ("WEIR__LIMITS__MAX_HEADERS", "7"),
        ("WEIR__ADMIN__ADDRESS", "127.0.0.1:9"),
        ("WEIR_ADMIN", "not ours"),
        ("PATH", "/bin"),
    ];
    let loaded = load_with(&text, &environment).unwrap();
    let config = loaded.config;
    assert_eq!(config.rollouts[0].plan.weight.ppm(), 250_000);
    assert!(config.rollouts[0].plan.killed);
    assert_eq!(config.listeners[0].address.port(), 8081);
    assert!(!config.rollouts[0].cohorts[0].enabled);
    assert_eq!(config.trusted_proxies.len(), 1);
    assert_eq!(config.limits.max_headers, 7);
    assert_eq!(config.admin.unwrap().address, AdminAddress::Tcp("127.0.0.1:9".parse().unwrap()));
    assert_eq!(loaded.effective["rollouts"]["chat"]["weight"], "25%");
}

#[test]
fn a_variable_that_names_nothing_is_an_error_at_its_name() {
    check_with(
        BASE,
        &[
            ("WEIR__ROLLOUTS__CAHT__WEIGHT", "25%"),
            ("WEIR__ROLLOUTS__CHAT__WIEGHT", "25%"),
            ("WEIR__LISTENERS__1__ADDRESS", "127.0.0.1:1"),
            ("WEIR__WORKERS__COUNT", "1"),
            ("WEIR__TRUSTED_PROXIES__0", "10.0.0.0/8"),
            ("WEIR__", "1"),
        ],
        &[
            "WEIR__ names nothing: the config has no key ``",
            "WEIR__LISTENERS__1__ADDRESS names nothing: the elements of `listeners` are 0 to 0 | \
             set it as a whole: WEIR__LISTENERS=...",
            "WEIR__ROLLOUTS__CAHT__WEIGHT names nothing: `rollouts` has no `caht` | did you mean `WEIR__ROLLOUTS__CHAT__WEIGHT`?",
            "WEIR__ROLLOUTS__CHAT__WIEGHT names nothing: `rollouts.chat` has no key `wieght` | \
             did you mean `WEIR__ROLLOUTS__CHAT__WEIGHT`?",
            "WEIR__TRUSTED_PROXIES__0 names nothing: `trusted_proxies` is empty | \
             set it as a whole: WEIR__TRUSTED_PROXIES=...",
            "WEIR__WORKERS__COUNT names nothing: `workers` is a single value without keys",
        ],
    );
}

#[test]
fn a_wrong_value_is_the_same_error_as_in_a_file() {
    check_with(
        BASE,
        &[("WEIR__ROLLOUTS__CHAT__WEIGHT", "25"), ("WEIR__DRAIN_TIMEOUT", "soon")],
        &[
            "WEIR__DRAIN_TIMEOUT drain_timeout: expected a duration such as \"30s\", \"250ms\" or \"2m30s\", found \"soon\"",
            "WEIR__ROLLOUTS__CHAT__WEIGHT rollouts.chat.weight: expected a share such as \"12.5%\", found the integer 25 | \
             did you mean \"25%\"?",
        ],
    );
}

#[test]
fn two_variables_for_one_key_are_an_error() {
    check_with(
        BASE,
        &[("WEIR__WORKERS", "1"), ("weir__workers", "2")],
        &["weir__workers sets the same key as `WEIR__WORKERS`"],
    );
}

#[test]
fn secrets_come_from_the_environment_and_are_shown_nowhere() {
    let secret = "0123456789abcdef0123456789abcdef";
    let environment =
        [("WEIR__FORCE__SECRET", secret), ("WEIR__ADMIN__TOKEN", secret), ("WEIR__ADMIN__ADDRESS", "0.0.0.0:1")];
    let loaded = load_with(BASE, &environment).unwrap();
    assert_eq!(&*loaded.config.force.secret.as_ref().unwrap().0, secret.as_bytes());
    assert_eq!(loaded.effective["force"]["secret"], "(secret)");
    assert!(!format!("{loaded:?}").contains(secret));
    check_with(
        BASE,
        &[("WEIR__FORCE__SECRET", "12345")],
        &["WEIR__FORCE__SECRET force.secret: the secret holds about 16 bits, it needs at least 128 | \
           make one with `openssl rand -hex 32`"],
    );
}

#[test]
fn what_might_be_secret_is_redacted_in_the_effective_config() {
    let text = format!(
        "{}[[notify]]\nkind = \"slack\"\nurl = \"https://user:pass@hooks.example.com/T0/B0\"\n",
        BASE.replace(
            "upstream = \"new\" }",
            "upstream = \"new\", set_headers = { authorization = \"Bearer abc\", x-a = \"b\" } }"
        )
    );
    let effective = load_toml(&text).unwrap().effective;
    assert_eq!(effective["notify"][0]["url"], "https://hooks.example.com/(secret)");
    assert_eq!(effective["rollouts"]["chat"]["canary"]["set_headers"]["authorization"], "(secret)");
    assert_eq!(effective["rollouts"]["chat"]["canary"]["set_headers"]["x-a"], "b");
}

#[test]
fn the_effective_config_can_be_read_again() {
    let secret = "0123456789abcdef0123456789abcdef";
    let environment = [("WEIR__ADMIN__TOKEN", secret), ("WEIR__ADMIN__ADDRESS", "0.0.0.0:1")];
    let first = load_with(BASE, &environment).unwrap();
    let again =
        load_effective("running", &first.effective.to_string(), "/".as_ref(), &mut UserFiles::default()).unwrap();
    let live = Live::default();
    let change = change::between(&again.config, &live, &first.config, &live);
    assert_eq!(change.lines, [""; 0]);
    assert_eq!(change.moves, []);
}
