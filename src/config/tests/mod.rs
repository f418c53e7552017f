//! Text in, problems out: the config as its users meet it.

mod breaker;
mod changes;
mod files;
mod forms;
mod health;
mod hostile;
mod mistakes;
mod notify;
mod overrides;
mod plans;
mod shadow;
mod sources;
mod tables;
mod traces;

use super::*;
use crate::rollout::assign::Phase;
use crate::rollout::bucket::Weight;
use std::fmt::Write;

/// A small config that is right.
const BASE: &str = r#"[[listeners]]
address = "127.0.0.1:8080"
[upstreams.legacy]
endpoints = ["127.0.0.1:9001"]
[upstreams.new]
endpoints = ["127.0.0.1:9002"]
[rollouts.chat]
unit = ["header:x-user-id"]
weight = "10%"
stable = { upstream = "legacy" }
canary = { upstream = "new" }
"#;

/// Columns in which every line of a summary finds room.
const WIDE: usize = 1000;

/// Loads a TOML text without files and environment.
fn load_toml(text: &str) -> Result<Loaded, Vec<Problem>> {
    load_with(text, &[])
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, Vec<Problem>> {
    let environment: Vec<(String, String)> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load_text("weir.toml", text, Format::Toml, Path::new("/nowhere"), &environment, &mut UserFiles::default())
}

/// The config of a text that must be right.
fn good(text: &str) -> Config {
    match load_toml(text) {
        Ok(loaded) => loaded.config,
        Err(problems) => panic!("{}", lines(&problems)),
    }
}

/// Expects exactly these problems, each as `LINE:COLUMN MESSAGE`, with ` | HELP` where there is help.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    check_with(text, &[], expected);
}

#[track_caller]
fn check_with(text: &str, environment: &[(&str, &str)], expected: &[&str]) {
    let problems = load_with(text, environment).err().unwrap_or_default();
    assert_eq!(lines(&problems).lines().collect::<Vec<_>>(), expected, "in\n{text}");
}

/// Expects exactly these problems in a text that is `BASE` with lines put behind it.
#[track_caller]
fn check_added(added: &str, expected: &[&str]) {
    let first = BASE.lines().count() as u32;
    let problems = load_toml(&format!("{BASE}{added}")).err().unwrap_or_default();
    let moved: Vec<Problem> = problems
        .into_iter()
        .map(|problem| Problem { line: problem.line.map(|line| line.saturating_sub(first)), ..problem })
        .collect();
    assert_eq!(lines(&moved).lines().collect::<Vec<_>>(), expected, "after\n{added}");
}

fn lines(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        match (problem.line, problem.column) {
            (Some(line), Some(column)) => write!(text, "{line}:{column} ").unwrap(),
            _ if problem.file != "weir.toml" => write!(text, "{} ", problem.file).unwrap(),
            _ => {}
        }
        text.push_str(&problem.message);
        if let Some(help) = &problem.help {
            write!(text, " | {help}").unwrap();
        }
        text.push('\n');
    }
    text
}

#[test]
fn a_small_config_is_right_and_says_nothing() {
    let loaded = load_toml(BASE).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.routes.len(), 1);
    assert_eq!(&*config.routes[0].name, "default");
    assert_eq!(config.rollouts[0].plan.weight.ppm(), 100_000);
    assert_eq!(&*config.rollouts[0].bucketer.salt, "chat");
    assert_eq!(config.state_dir, Path::new("/nowhere/weir-state"));
    assert!(config.admin.is_none());
}
