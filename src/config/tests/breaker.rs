//! The breaker's section: defaults, switches, bounds, and what they come to in words.

use super::*;
use crate::rollout::breaker::{COOLDOWN_MAX, LatencyRule, NoAnswerRule, RateRule, Rules};
use crate::snapshot::Fallback;
use std::time::Duration;

fn percent(percent: u32) -> Weight {
    Weight::from_percent(percent).unwrap()
}

/// Rules and fallback of `BASE` with these lines in the breaker's section.
fn with(lines: &str) -> (Option<Rules>, Fallback) {
    let mut config = good(&format!("{BASE}[rollouts.chat.breaker]\n{lines}\n"));
    let rollout = config.rollouts.remove(0);
    (rollout.plan.breaker, rollout.fallback)
}

#[test]
fn a_rollout_that_says_nothing_has_the_breaker_of_the_contract() {
    let rollout = &good(BASE).rollouts[0];
    let rules = Rules {
        consecutive_errors: 5,
        error_rate: Some(RateRule { above: percent(50), window: Duration::from_secs(10), min_requests: 20 }),
        latency: None,
        no_answer: None,
        min_units: 3,
        max_unit_share: percent(25),
        cooldown: Duration::from_secs(30),
        cooldown_max: COOLDOWN_MAX,
        probe: percent(1),
        max_trips: 3,
        spares_both: true,
    };
    assert_eq!((rollout.plan.breaker.as_ref(), rollout.fallback), (Some(&rules), Fallback::Safe));
    assert_eq!(with(""), (Some(rules), Fallback::Safe), "an empty section says nothing either");
}

#[test]
fn each_rule_has_its_switch() {
    let rules = with("consecutive_errors = 0\nerror_rate = false\nlatency = false\nno_answer = false").0.unwrap();
    assert_eq!((rules.consecutive_errors, rules.error_rate, rules.latency, rules.no_answer), (0, None, None, None));
    assert_eq!(with("enabled = false"), (None, Fallback::Off));
    assert_eq!(with("enabled = false\nfallback = \"safe\""), (None, Fallback::Safe), "asked for by name");
    assert_eq!(with("fallback = \"off\"").1, Fallback::Off);
    assert_eq!(with("fallback = \"idempotent\"").1, Fallback::Idempotent);
    assert!(!with("both_arms = \"trip\"").0.unwrap().spares_both);
}

#[test]
fn a_rule_that_is_given_in_part_takes_the_rest_from_the_defaults() {
    let rules =
        with("error_rate = { above = \"5%\" }\nlatency = { above = \"800ms\" }\nno_answer = { after = \"3s\" }");
    let rules = rules.0.unwrap();
    let window = Duration::from_secs(10);
    assert_eq!(rules.error_rate, Some(RateRule { above: percent(5), window, min_requests: 20 }));
    let above = Duration::from_millis(800);
    assert_eq!(rules.latency, Some(LatencyRule { quantile_permille: 990, above, window, min_requests: 50 }));
    assert_eq!(rules.no_answer, Some(NoAnswerRule { after: Duration::from_secs(3), min_requests: 5 }));
}

#[test]
fn everything_out_of_bounds_is_reported_at_once() {
    check_added(
        r#"[rollouts.chat.breaker]
consecutive_errors = 20000
min_units = 17
max_unit_share = "0%"
error_rate = { above = "0%", window = "500ms", min_requests = 0 }
latency = { quantile = "p98", above = "0s", window = "16m" }
no_answer = { after = "50ms" }
cooldown = "100ms"
probe = "0%"
max_trips = 5000
"#,
        &[
            "2:22 rollouts.chat.breaker.consecutive_errors: expected 0 to 10000, found 20000",
            "3:13 rollouts.chat.breaker.min_units: expected 1 to 16, found 17",
            "4:18 rollouts.chat.breaker.max_unit_share: expected more than 0%",
            "5:24 rollouts.chat.breaker.error_rate.above: expected more than 0%",
            "5:39 rollouts.chat.breaker.error_rate.window: expected a duration from 1s to 15m, found 500ms",
            "5:63 rollouts.chat.breaker.error_rate.min_requests: expected 1 to 1000000000, found 0",
            "6:24 rollouts.chat.breaker.latency.quantile: \"p98\" is none of its words | did you mean `p90`?",
            "6:39 rollouts.chat.breaker.latency.above: expected a duration from 1ms to 1h, found 0s",
            "6:54 rollouts.chat.breaker.latency.window: expected a duration from 1s to 15m, found 16m",
            "7:23 rollouts.chat.breaker.no_answer.after: expected a duration from 100ms to 10m, found 50ms",
            "8:12 rollouts.chat.breaker.cooldown: expected a duration from 200ms to 10m, found 100ms",
            "9:9 rollouts.chat.breaker.probe: expected more than 0%",
            "10:13 rollouts.chat.breaker.max_trips: expected 0 to 1000, found 5000",
        ],
    );
    check_added(
        "[rollouts.chat.breaker]\nerror_rate = true\nfallback = false\n",
        &[
            "2:14 rollouts.chat.breaker.error_rate: expected `false` or a table of values, found `true`",
            "3:12 rollouts.chat.breaker.fallback: expected `safe`, `idempotent` or `off`, found `false`",
        ],
    );
}

#[test]
fn rules_that_cannot_be_met_as_they_stand_are_warned_of() {
    let text = "error_rate = { above = \"100%\" }\nconsecutive_errors = 1\nno_answer = { after = \"15s\" }";
    let loaded = load_toml(&format!("{BASE}[rollouts.chat.breaker]\n{text}\n")).unwrap();
    let warnings: Vec<&str> = loaded.warnings.iter().map(|warning| warning.message.as_str()).collect();
    let expected = [
        "rollouts.chat.breaker.error_rate.above: no share is above 100%, so this never trips",
        "rollouts.chat.breaker.consecutive_errors: 1 in a row cannot come from the 3 distinct units that a trip needs \
         (`min_units`), so it takes 3",
        "rollouts.chat.breaker.no_answer: never trips, because no request waits longer than the 15s of \
         `upstreams.new.response_timeout`",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn a_fixed_answer_is_no_fallback() {
    let text = BASE.replace("stable = { upstream = \"legacy\" }", "stable = { respond = { status = 403 } }");
    let text = text.replace("[upstreams.legacy]\nendpoints = [\"127.0.0.1:9001\"]\n", "");
    assert_eq!(good(&text).rollouts[0].fallback, Fallback::Off);
    assert!(describe(&good(&text), WIDE).contains("fallback  off: stable is a fixed answer"));
}

#[test]
fn the_request_path_is_told_what_it_must_watch() {
    let compiled = |lines: &str| {
        let config = good(&format!("{BASE}[rollouts.chat.breaker]\n{lines}\n"));
        let (mut registry, latches) = (crate::tally::Registry::new(1), crate::latch::Latches::default());
        compile(&config, &Live::default(), &mut registry, &latches, 1).rollouts.remove(0).guard
    };
    let guard = compiled("latency = { above = \"2s\" }\nno_answer = { after = \"2s\" }").unwrap();
    assert_eq!((guard.consecutive_errors, guard.min_units, guard.slow_us), (5, 3, Some(2_000_000)));
    assert!(guard.counts_waiting && guard.spares_both);
    assert_eq!(compiled("enabled = false"), None);
}

#[test]
fn what_a_breaker_does_is_said_in_words() {
    let expected = "
  breaker   trips after 5 failures in a row
            trips when more than 50% of at least 20 requests in 10s fail
            trips when the canary has no healthy endpoint
            failures must come from at least 3 units, and one unit counts for 25% of a window at most
            a canary that is no worse than stable is spared, with an alert
            everything to stable for 30s (doubling up to 10m), then 1% of canary units probe
            rolled back at trip 3, until revived
  fallback  stable answers what fails on the canary, where nothing was sent or the method is safe
";
    let text = describe(&good(BASE), WIDE);
    assert!(text.contains(expected), "{text}");
    let off = describe(&good(&format!("{BASE}[rollouts.chat.breaker]\nenabled = false\n")), WIDE);
    assert!(off.contains("breaker   off: nothing but an operator takes a failing canary's share\n"), "{off}");
}

#[test]
fn a_breaker_never_makes_a_reload_wait_for_the_disk_and_its_switch_is_told() {
    let off = format!("{BASE}[rollouts.chat.breaker]\nenabled = false\n");
    assert!(!change::may_expose(&good(BASE), &good(&off)), "the engine judges what a breaker lets go");
    let change = change::between(&good(BASE), &Live::default(), &good(&off), &Live::default());
    assert_eq!(
        change.lines,
        [
            "rollouts.chat.breaker: added, {\"enabled\":false}",
            "rollouts.chat: the breaker is switched off; if it is open it closes",
        ]
    );
    let cooler = format!("{BASE}[rollouts.chat.breaker]\ncooldown = \"1m\"\n");
    let hotter = format!("{BASE}[rollouts.chat.breaker]\ncooldown = \"10s\"\n");
    let change = change::between(&good(&cooler), &Live::default(), &good(&hotter), &Live::default());
    assert_eq!(change.lines, ["rollouts.chat.breaker.cooldown: \"1m\" -> \"10s\""]);
}
