//! Plans on a virtual clock: the happy path at its stated length, faults caught when they should be, what is stuck and why.

use super::assume::read;
use super::fixture::{CHAT, SERVICE};
use super::story::{End, Happening, RolloutStory, Story};
use super::{Assumptions, rehearse};
use crate::config::{Config, Format, UserFiles, load_text};
use crate::rollout::Arm;
use crate::rollout::report::Kind;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

mod plans;

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

const BESIDES: &str = r#"
[queries.memory]
url = "http://127.0.0.1:9"
expr = "up"
[[routes]]
name = "publish"
match = { path_prefix = "/publish" }
rollouts = ["chat"]
"#;

const STAGES: &str = r#"
[[rollouts.chat.stages]]
name = "base"
weight = "0%"
min_duration = "24h"
capture_baseline = true
[[rollouts.chat.stages]]
name = "ramp"
weight = "10%"
min_duration = "48h"
gates = ["error_rate <= stable + 0.5%", "p95 < 1.2 * baseline"]
[[rollouts.chat.stages]]
name = "full"
weight = "100%"
min_duration = "2h"
gates = ["error_rate < 1%"]
"#;

const TRIGGER: &str = r#"
[[rollouts.chat.triggers]]
name = "errors"
when = "error_rate > 0.5%"
for = "5m"
action = "rollback"
"#;

fn config(tables: &str) -> Config {
    let text = format!("{SERVICE}{BESIDES}{CHAT}{tables}");
    let loaded = load_text("weir.toml", &text, Format::Toml, Path::new("/nowhere"), &[], &mut UserFiles::default());
    loaded.unwrap_or_else(|problems| panic!("{}", problems[0])).config
}

/// The story of a config; assumptions are for the canary, or with a `!` before them for `--assume`.
fn story(config: &Config, assumptions: &[&str], change: impl Fn(&mut Assumptions)) -> Story {
    let read = |text: &&str| match text.strip_prefix('!') {
        Some(text) => read(text, None, config).unwrap(),
        None => read(text, Some(Arm::Canary), config).unwrap(),
    };
    let list = assumptions.iter().flat_map(read).collect();
    let (approve_after, cohorts) = (Some(Duration::ZERO), BTreeMap::new());
    let mut assumed = Assumptions { rps: 100.0, users: 10_000, seed: 1, approve_after, cohorts, list };
    change(&mut assumed);
    rehearse(config, &assumed)
}

fn of<'s>(story: &'s Story, name: &str) -> &'s RolloutStory {
    story.rollouts.iter().find(|rollout| *rollout.name == *name).unwrap()
}

fn first(story: &Story, kind: Kind) -> &Happening {
    let found = story.happenings.iter().find(|happening| happening.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind:?} in {story:#?}"))
}

/// That a moment is so late, within what a look takes.
#[track_caller]
fn at(moment: Duration, seconds: u64) {
    let wanted = Duration::from_secs(seconds);
    assert!(moment >= wanted && moment <= wanted + Duration::from_secs(2), "{moment:?} for {wanted:?}");
}

#[test]
fn without_a_fault_a_plan_takes_what_it_says() {
    let story = story(&config(&format!("{STAGES}{TRIGGER}")), &[], |_| {});
    let chat = of(&story, "chat");
    assert!(story.completes(), "{story:#?}");
    let began: Vec<Duration> = chat.passages.iter().map(|passage| passage.began).collect();
    at(began[0], 0);
    at(began[1], DAY);
    at(began[2], 3 * DAY);
    at(chat.ended, 3 * DAY + 2 * HOUR);
    let verdicts: Vec<&str> =
        chat.passages.iter().flat_map(|passage| &passage.gates).map(|gate| gate.verdict.word()).collect();
    assert_eq!(verdicts, ["pass"; 3]);
    assert_eq!((chat.failed, chat.users_hurt), (0, 0));
    let expected = 100.0 * (0.1 * 2.0 * DAY as f64 + 2.0 * HOUR as f64);
    assert!((chat.requests as f64 / expected - 1.0).abs() < 0.01, "{} for {expected}", chat.requests);
}

#[test]
fn a_fault_is_caught_after_the_for_of_its_trigger_and_costs_what_it_lets_through() {
    let story = story(&config(&format!("{STAGES}{TRIGGER}")), &["errors=5%@ramp+1h"], |_| {});
    let chat = of(&story, "chat");
    assert_eq!(chat.end, End::RolledBack);
    let rollback = first(&story, Kind::Rollback);
    // The first errors make a window of a minute exceed 0.5 % after some seconds.
    let since = rollback.at - Duration::from_secs(DAY + HOUR);
    assert!(since >= Duration::from_secs(5 * MINUTE) && since < Duration::from_secs(6 * MINUTE), "{since:?}");
    assert!(rollback.reason.starts_with("trigger `errors`: error_rate"), "{}", rollback.reason);
    let expected = 0.05 * 10.0 * since.as_secs_f64();
    assert!((chat.failed as f64 - expected).abs() < 6.0 * expected.sqrt(), "{} for {expected}", chat.failed);
    assert!(chat.users_hurt > chat.failed / 2 && chat.users_hurt <= chat.failed, "{}", chat.users_hurt);
    assert_eq!(chat.answered, chat.failed, "stable answers instead");
}

#[test]
fn a_query_of_which_nothing_is_said_says_what_its_gates_ask_for() {
    let tables = STAGES.replace("\"error_rate < 1%\"", "\"query.memory < 45MB\", \"query.memory < baseline\"");
    let config = config(&tables);
    let story = story(&config, &[], |_| {});
    assert!(story.completes(), "{story:#?}");
    let told: Vec<String> = story.usual.iter().map(|usual| format!("{} {:?}", usual.value, usual.from)).collect();
    // Half of the limit, and in the stage that asks for less than that less.
    assert_eq!(told, ["22500000 None", "11250000 Some((\"chat\", \"full\"))"]);
}

#[test]
fn a_gate_without_data_is_named_as_what_the_plan_waits_for() {
    let config = config(&STAGES.replace("\"error_rate < 1%\"", "\"query.memory < 45MB\""));
    let waits = story(&config, &["!query.memory=none"], |_| {});
    let chat = of(&waits, "chat");
    assert_eq!(chat.end, End::Stuck);
    let reason = "stage `full` never passes: wait: query.memory: no data, as assumed";
    assert_eq!(chat.reason.as_deref(), Some(reason));
    assert_eq!(chat.hints, ["--assume query.memory=22.5MB@chat:full"]);
    assert!(waits.usual.is_empty(), "{:?}", waits.usual);
    at(chat.ended, 3 * DAY + 2 * HOUR);
    assert!(story(&config, &["!query.memory=none", "!query.memory=22.5MB@chat:full"], |_| {}).completes());
    let fails = story(&config, &["!query.memory=50MB@full"], |_| {});
    assert!(of(&fails, "chat").reason.as_deref().unwrap().contains("fail: query.memory 50.0MB >= 45.0MB"));
    assert_eq!(of(&fails, "chat").hints, chat.hints);
}

#[test]
fn a_fault_in_between_pauses_at_the_maximum_or_passes_when_it_is_over() {
    let tables = STAGES.replace("min_duration = \"48h\"", "min_duration = \"48h\"\nmax_duration = \"60h\"");
    let paused = story(&config(&tables), &["p95=90ms@ramp"], |_| {});
    let chat = of(&paused, "chat");
    assert_eq!(chat.end, End::Paused);
    at(chat.ended, DAY + 60 * HOUR);
    assert!(chat.reason.as_deref().unwrap().contains("p95"), "{:?}", chat.reason);
    // Over the whole stage nine tenths of the requests must be quick again.
    let passed = story(&config(&tables), &["p95=90ms@ramp", "p95=10ms@ramp+10m"], |_| {});
    assert!(passed.completes());
    at(of(&passed, "chat").ended, 3 * DAY + 2 * HOUR);
}

#[test]
fn people_approve_after_the_time_they_are_said_to_take() {
    let config = config(&STAGES.replace("min_duration = \"48h\"", "min_duration = \"48h\"\napproval = true"));
    let at_once = story(&config, &[], |_| {});
    at(of(&at_once, "chat").ended, 3 * DAY + 2 * HOUR);
    let later = story(&config, &[], |assumed| assumed.approve_after = Some(Duration::from_secs(5 * HOUR)));
    at(first(&later, Kind::Approval).at, 3 * DAY);
    at(first(&later, Kind::Approve).at, 3 * DAY + 5 * HOUR);
    at(of(&later, "chat").ended, 3 * DAY + 7 * HOUR);
}

#[test]
fn a_dead_canary_trips_the_breaker_at_once_and_is_rolled_back_in_the_end() {
    let story = story(&config(STAGES), &["errors=100%@ramp+1h.."], |_| {});
    let trip = first(&story, Kind::Trip);
    at(trip.at, DAY + HOUR);
    assert!(trip.reason.contains("in a row"), "{}", trip.reason);
    assert!(trip.failed < 60, "{}", trip.failed);
    let chat = of(&story, "chat");
    assert_eq!(chat.end, End::RolledBack);
    assert!(chat.reason.as_deref().unwrap().contains("3 trips"), "{:?}", chat.reason);
}

const PAIR: &str = r#"
[rollouts.prefer]
unit = ["header:x-user-id"]
requires = "chat"
[[rollouts.prefer.stages]]
name = "half"
weight = "50%"
min_duration = "24h"
after = "chat:ramp"
gates = ["error_rate < 1%"]
[[rollouts.chat.triggers]]
name = "prefer first"
when = "error_rate > 0.5%"
for = "5m"
action = "rollback"
rollout = "prefer"
[[rollouts.chat.triggers]]
name = "then chat"
when = "error_rate > 0.5%"
for = "15m"
action = "rollback"
"#;

#[test]
fn rollouts_wait_for_each_other_and_take_each_other_back() {
    let config =
        config(&format!("{STAGES}{PAIR}").replace("prefer first", "prefer-first").replace("then chat", "then-chat"));
    let happy = story(&config, &[], |_| {});
    assert!(happy.completes(), "{happy:#?}");
    at(of(&happy, "prefer").passages[0].began, 3 * DAY);
    at(of(&happy, "prefer").ended, 4 * DAY);
    let sick = story(&config, &["errors=5%@chat:full+1h"], |_| {});
    let back: Vec<(&str, u64)> = sick
        .happenings
        .iter()
        .filter(|happening| happening.kind == Kind::Rollback)
        .map(|happening| (&*happening.rollout, happening.at.as_secs()))
        .collect();
    let begins = 3 * DAY + HOUR;
    assert_eq!(back.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["prefer", "chat"], "{sick:#?}");
    assert!(back[0].1 >= begins + 5 * MINUTE && back[0].1 < begins + 6 * MINUTE, "{back:?}");
    assert!(back[1].1 >= begins + 15 * MINUTE && back[1].1 < begins + 16 * MINUTE, "{back:?}");
}

#[test]
fn a_rollout_that_waits_for_one_that_was_taken_back_is_stuck() {
    let config = config(&format!("{STAGES}{TRIGGER}{}", PAIR.split("[[rollouts.chat").next().unwrap()));
    let story = story(&config, &["errors=5%@chat:ramp"], |_| {});
    let prefer = of(&story, "prefer");
    assert_eq!((of(&story, "chat").end, prefer.end), (End::RolledBack, End::Stuck));
    assert_eq!(prefer.reason.as_deref(), Some("it waits for stage `ramp` of rollout `chat` to end"));
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let config = config(&format!("{STAGES}{TRIGGER}"));
    let with = |seed| story(&config, &["errors=2%,p95=12ms@ramp"], |assumed| assumed.seed = seed);
    assert_eq!(with(5), with(5));
    assert_ne!(with(5).happenings.last().map(|last| last.failed), with(6).happenings.last().map(|last| last.failed));
}

#[test]
fn half_a_year_takes_few_looks() {
    let config = config(&format!("{STAGES}{TRIGGER}").replace("\"48h\"", "\"4320h\""));
    let story = story(&config, &["errors=0.1%@ramp"], |_| {});
    at(of(&story, "chat").ended, DAY + 180 * DAY + 2 * HOUR);
    assert!(story.looks < 30_000, "{}", story.looks);
}

#[test]
fn what_cannot_be_assumed_is_said_with_what_can() {
    let config = config(STAGES);
    for (text, arm, wanted) in [
        ("errors", Some(Arm::Canary), "`errors`: expected KEY=VALUE"),
        ("errors=5ms", Some(Arm::Canary), "`errors=5ms`: "),
        ("errors=120%", Some(Arm::Canary), "a share is 0% to 100%"),
        ("eror_rate=1%", Some(Arm::Canary), "`eror_rate=1%`: "),
        ("canary.errors=1%", None, "whose it is follows from the option"),
        ("rps=5", Some(Arm::Canary), "`rps` follows from what else is assumed"),
        ("errors=1%@rmap", Some(Arm::Canary), "`@rmap`: no stage `rmap`; there are base, ramp, full"),
        ("errors=1%@chet:ramp", Some(Arm::Canary), "no rollout with stages is called `chet`; there are chat"),
        ("errors=1%@ramp+1x", Some(Arm::Canary), "`@ramp+1x`: "),
        ("query.memory=30MB", Some(Arm::Canary), "`query.memory` belongs to no arm: say it with --assume"),
        ("query.cpu=1", None, "`query.cpu`: no query `cpu`; there are memory"),
        ("signal.bad=1%", Some(Arm::Canary), "`signal.bad`: no signal `bad`; there is none"),
        ("p95{pub}=20ms", Some(Arm::Canary), "`p95{pub}`: no route `pub`; there are publish"),
        ("p95=2 * stable", Some(Arm::Canary), "expected a number"),
        ("errors=none", Some(Arm::Canary), "only a query can be without data"),
        ("query.cpu=none", None, "no query `cpu`; there are memory"),
    ] {
        let wrong = read(text, arm, &config).unwrap_err();
        assert!(wrong.contains(wanted), "{text}: {wrong}");
    }
}

#[test]
fn a_part_of_the_requests_may_behave_otherwise() {
    let config = config(&STAGES.replace("\"error_rate < 1%\"", "\"p95{publish} < 20ms\""));
    assert!(story(&config, &[], |_| {}).completes(), "a part is as the whole unless it is said otherwise");
    let slow = story(&config, &["p95{publish}=40ms@full"], |_| {});
    assert!(of(&slow, "chat").reason.as_deref().unwrap().contains("fail: p95{publish}"), "{slow:#?}");
}

#[test]
fn what_hinders_a_gate_is_told_with_the_option_that_would_help() {
    let tables =
        STAGES.replace("\"error_rate < 1%\"", "\"p95{publish} < 20ms\", \"error_rate < 0.5%\", \"share >= 50%\"");
    let config = config(&tables);
    let fails = story(&config, &["p95{publish}=40ms,errors=0.7%@full"], |_| {});
    let hints = ["--canary 'p95{publish}=10ms@chat:full'", "--canary errors=0.25%@chat:full"];
    assert_eq!(of(&fails, "chat").hints, hints);
    let helped =
        story(&config, &["p95{publish}=40ms,errors=0.7%@full", "p95{publish}=10ms@full", "errors=0.25%@full"], |_| {});
    assert!(helped.completes(), "{helped:#?}");
}

#[test]
fn without_traffic_a_plan_neither_advances_nor_goes_back() {
    let tables = format!("{STAGES}{TRIGGER}");
    let story = story(&config(&tables), &["errors=100%"], |assumed| assumed.rps = 0.0);
    let chat = of(&story, "chat");
    assert_eq!((chat.end, chat.requests, chat.failed), (End::Stuck, 0, 0));
    at(chat.ended, 3 * DAY);
    let reason = chat.reason.as_deref().unwrap();
    assert!(
        reason.starts_with("there is no traffic (--rps 0); stage `ramp` never passes: wait: error_rate: no requests"),
        "{reason}"
    );
    assert_eq!(chat.hints, ["--rps N"]);
}

#[test]
fn nobody_approves_for_ever() {
    let config = config(&STAGES.replace("min_duration = \"48h\"", "min_duration = \"48h\"\napproval = true"));
    let story = story(&config, &[], |assumed| assumed.approve_after = None);
    let chat = of(&story, "chat");
    assert_eq!(chat.end, End::Stuck);
    at(chat.ended, 3 * DAY);
    assert_eq!(
        chat.reason.as_deref(),
        Some("stage `ramp` waits for an approval that does not come (--approve-after never)")
    );
}

#[test]
fn what_is_switched_off_is_rehearsed_as_if_it_were_on() {
    let tables = format!("enabled = false\n{STAGES}");
    let story = story(&config(&tables), &[], |_| {});
    assert!(story.completes(), "{story:#?}");
    assert_eq!(story.switched_on.iter().map(|name| &**name).collect::<Vec<_>>(), ["chat"]);
}

#[test]
fn a_failure_that_must_not_happen_at_all_is_seen_when_it_happens() {
    let tables =
        format!("{STAGES}{TRIGGER}").replace("error_rate > 0.5%", "error_rate > 0%").replace("for = \"5m\"\n", "");
    // On average one in about three hours, on a window of a minute.
    let story = story(&config(&tables), &["errors=0.001%@ramp.."], |_| {});
    let chat = of(&story, "chat");
    assert_eq!((chat.end, chat.failed), (End::RolledBack, 1), "{story:#?}");
}

#[test]
fn signals_are_told_with_the_users_they_came_from() {
    let tables = format!("{STAGES}[signals.crash]\n{TRIGGER}").replace("error_rate > 0.5%", "signal.crash > 0.5%");
    let story = story(&config(&tables), &["signal.crash=2%@ramp+1h"], |_| {});
    let back = first(&story, Kind::Rollback);
    let [met] = &back.signals[..] else { panic!("{back:#?}") };
    // Two of a hundred of ten requests a second, for five minutes.
    assert!(*met.signal == *"crash" && (35..90).contains(&met.requests) && met.users > met.requests / 2, "{met:?}");
    assert_eq!(back.failed, 0);
}
