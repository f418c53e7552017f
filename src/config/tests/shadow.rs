//! The shadow's section: defaults, what a stage alone asks for, bounds, and arms that cannot be mirrored.

use super::*;
use crate::config::model::ShadowConfig;
use http::Method;
use http::header::{AUTHORIZATION, COOKIE};
use std::time::Duration;

const STAGE: &str = "[[rollouts.chat.stages]]\nname = \"shadow\"\nweight = \"0%\"\nshadow = \"50%\"\n";

fn shadow(added: &str) -> Option<ShadowConfig> {
    good(&format!("{BASE}{added}")).rollouts.remove(0).shadow
}

/// Expects one problem with these words.
#[track_caller]
fn refused(text: &str, words: &str) {
    let problems = load_toml(text).err().unwrap_or_default();
    let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
    assert!(messages.len() == 1 && messages[0].contains(words), "{messages:?}");
}

#[test]
fn a_section_or_a_stage_asks_for_copies_with_the_defaults_of_the_contract() {
    assert_eq!(shadow(""), None);
    let defaults = ShadowConfig {
        share: Weight::ZERO,
        methods: vec![Method::GET, Method::HEAD],
        max_body: 256 << 10,
        max_in_flight: 64,
        timeout: Duration::from_secs(10),
        max_memory: 64 << 20,
        keep_headers: Vec::new(),
    };
    assert_eq!(shadow("[rollouts.chat.shadow]\n"), Some(defaults.clone()));
    assert_eq!(shadow(STAGE).as_ref(), Some(&defaults), "its share is the stage's own");
    let own = shadow(
        "[rollouts.chat.shadow]\nshare = \"5%\"\nmethods = [\"POST\"]\nmax_body = \"1KiB\"\nmax_in_flight = 1\n\
         timeout = \"1s\"\nmax_memory = \"1MiB\"\nkeep_headers = [\"Authorization\", \"cookie\"]\n",
    );
    let expected = ShadowConfig {
        share: Weight::from_percent(5).unwrap(),
        methods: vec![Method::POST],
        max_body: 1 << 10,
        max_in_flight: 1,
        timeout: Duration::from_secs(1),
        max_memory: 1 << 20,
        keep_headers: vec![AUTHORIZATION, COOKIE],
    };
    assert_eq!(own, Some(expected));
}

#[test]
fn an_arm_that_answers_by_itself_is_not_mirrored() {
    let respond = "{ respond = { status = 200 } }";
    let canary = BASE.replace("canary = { upstream = \"new\" }", &format!("canary = {respond}"));
    let stable = BASE.replace("stable = { upstream = \"legacy\" }", &format!("stable = {respond}"));
    for (text, words) in [(canary, "cannot be mirrored to"), (stable, "stable answers by itself")] {
        refused(&format!("{text}[rollouts.chat.shadow]\nshare = \"5%\"\n"), words);
        refused(&format!("{text}{STAGE}"), words);
    }
}

#[test]
fn limits_under_which_nothing_could_be_copied_are_refused() {
    let section = |line: &str| format!("{BASE}[rollouts.chat.shadow]\nshare = \"5%\"\n{line}\n");
    refused(&section("max_in_flight = 0"), "expected at least 1");
    refused(&section("methods = []"), "without a method nothing is mirrored");
    refused(&section("methods = [\"get\"]"), "is no method");
    refused(&section("timeout = \"0s\""), "timeout: expected a duration");
    refused(&section("max_memory = \"256KiB\""), "leaves no room");
    let warnings = load_toml(&section("keep_headers = [\"accept\"]")).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.message.contains("`accept` is kept anyway")), "{warnings:?}");
}
