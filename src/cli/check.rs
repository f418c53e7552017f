//! `weir check`: every problem of a config at once, what it means, and what a reload would change.

mod plans;

use super::args::{Check, Global, Output};
use super::console::Console;
use super::files;
use super::render::{self, Paint, Table, Tone};
use super::screen;
use super::stop::{Outcome, Stop};
use crate::admin::view;
use crate::config::change::{Change, Move, between};
use crate::config::{self, Config, Live, LiveRollout, Problem, Severity, UserFiles};
use crate::rollout::assign::Phase;
use crate::rollout::bucket::Weight;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Checks and prints. Warnings are shown and do not fail.
pub fn run(console: &mut Console, global: &Global, arguments: &Check) -> Outcome {
    let mut cache = UserFiles::default();
    let loaded = match config::load(&arguments.config, console.environment, &mut cache) {
        Ok(loaded) => loaded,
        Err(problems) => return Err(refuse(console, global, &problems)?),
    };
    if global.output == Output::Text {
        files::print_problems(console, global, &loaded.warnings)?;
    }
    let change = match &arguments.against {
        None => None,
        Some(against) => Some(changes(console, global, arguments, &loaded.config, against, &mut cache)?),
    };
    match global.output {
        Output::Json => {
            let mut report = report(&loaded.warnings, change.as_ref());
            report["rollouts"] = plans::plans(&loaded.config);
            if arguments.limits {
                report["limits"] = limits(&loaded.config);
                report["memory_bytes_max"] = json!(config::Budget::of(&loaded.config).total());
            }
            console.line(&report.to_string())
        }
        Output::Text => {
            let paint = console.paint(global);
            let mut text = format!("{}\n", paint.tone(Tone::Green, &format!("{}: ok", arguments.config.display())));
            let columns = if console.out_is_terminal { screen::columns() } else { COLUMNS };
            let columns = columns.clamp(COLUMNS_MIN, COLUMNS_MAX);
            text.push_str(&match (&change, arguments.limits) {
                (None, false) => format!("\n{}", config::describe(&loaded.config, columns)),
                (change, limits) => summary(&loaded.config, limits, change.as_ref(), paint),
            });
            Ok(console.out.write_all(text.as_bytes())?)
        }
    }
}

/// Prints all problems: for people to standard error, for programs to standard output.
fn refuse(console: &mut Console, global: &Global, problems: &[Problem]) -> Result<Stop, Stop> {
    match global.output {
        Output::Json => console.line(&report(problems, None).to_string())?,
        Output::Text => {
            files::print_problems(console, global, problems)?;
            let count = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
            let what = if count == 1 { "problem" } else { "problems" };
            writeln!(console.err, "{count} {what}; the config is not used")?;
        }
    }
    Ok(Stop::Problems)
}

fn report(problems: &[Problem], change: Option<&Change>) -> Value {
    let ok = problems.iter().all(|problem| problem.severity == Severity::Warning);
    let form = |problem: &Problem| {
        json!({
            "file": problem.file,
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "severity": if problem.severity == Severity::Warning { "warning" } else { "error" },
            "help": problem.help,
        })
    };
    let mut report = json!({ "ok": ok, "problems": problems.iter().map(form).collect::<Vec<_>>() });
    if let Some(change) = change {
        let form = |moved: &Move| {
            json!({
                "rollout": *moved.rollout,
                "to_canary_ppm": moved.to_canary_ppm,
                "to_stable_ppm": moved.to_stable_ppm,
                "members_to_canary": moved.members_to_canary,
                "members_to_stable": moved.members_to_stable,
            })
        };
        report["changes"] = json!(change.lines);
        report["moves"] = change.moves.iter().map(form).collect();
        report["needs_restart"] = json!(change.needs_restart);
    }
    report
}

fn limits(config: &Config) -> Value {
    let form = |(name, value, default, meaning): (String, String, String, String)| json!({ "name": name, "value": value, "default": default, "meaning": meaning });
    config::limits_table(config).into_iter().map(form).collect()
}

/// Its limits, or what it would change.
fn summary(config: &Config, limits: bool, change: Option<&Change>, paint: Paint) -> String {
    let mut text = String::new();
    if let Some(change) = change {
        text.push_str(&difference(change, paint));
    }
    if limits {
        let mut table = Table::new("<><");
        table.head(["limit", "value", "meaning"]);
        for (name, value, default, meaning) in config::limits_table(config) {
            let (tone, note) = match value == default {
                true => (Tone::Plain, String::new()),
                false => (Tone::Bold, format!(" (default {default})")),
            };
            table.tones([(Tone::Plain, name), (tone, value), (Tone::Plain, meaning + &note)]);
        }
        text.push_str(&format!("\n{}\n{}\n", table.print(paint), config::Budget::of(config)));
    }
    text
}

fn difference(change: &Change, paint: Paint) -> String {
    if change.lines.is_empty() && change.moves.is_empty() {
        return "\na reload would change nothing\n".to_owned();
    }
    let mut text = format!("\n{}\n", paint.tone(Tone::Bold, "a reload would change"));
    for line in &change.lines {
        text.push_str(&format!("  {}\n", render::clean(line)));
    }
    if !change.moves.is_empty() {
        text.push_str(&format!("\n{}\n", paint.tone(Tone::Bold, "users who would move")));
    }
    for moved in &change.moves {
        text.push_str(&format!("  {}\n", render::clean(&moved.to_string())));
    }
    for key in &change.needs_restart {
        let line = format!("{} changes only by a restart", render::clean(key));
        text.push_str(&format!("\n{}\n", paint.tone(Tone::Yellow, &line)));
    }
    text
}

/// What a reload from the older config to this one would do.
fn changes(
    console: &mut Console,
    global: &Global,
    arguments: &Check,
    new: &Config,
    against: &str,
    cache: &mut UserFiles,
) -> Result<Change, Stop> {
    if is_address(against) {
        // Its paths come absolute; what it leaves to defaults is where it would be beside this file.
        let folder = arguments.config.parent().unwrap_or(Path::new(""));
        return changes_to_running(console, global, folder, new, against, cache);
    }
    match config::load(Path::new(against), console.environment, cache) {
        Ok(old) => Ok(between(&old.config, &Live::default(), new, &Live::default())),
        Err(problems) => Err(unusable(console, global, &problems, against)?),
    }
}

/// Whether that is where a weir runs, as for `--admin`, rather than a file.
fn is_address(against: &str) -> bool {
    let has_port = against.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    ["http://", "https://", "unix:"].iter().any(|scheme| against.starts_with(scheme))
        || (has_port && !Path::new(against).exists())
}

fn changes_to_running(
    console: &mut Console,
    global: &Global,
    folder: &Path,
    new: &Config,
    address: &str,
    cache: &mut UserFiles,
) -> Result<Change, Stop> {
    let client = console.client_for(address, global)?;
    let text = client.ask("/api/v1/config")?.text;
    let old = match config::load_effective(address, &text, folder, cache) {
        Ok(loaded) => loaded.config,
        Err(problems) => return Err(unusable(console, global, &problems, address)?),
    };
    let view::Rollouts { rollouts, .. } = client.ask("/api/v1/rollouts")?.form()?;
    let (before, after) = live(&old, new, &rollouts);
    Ok(between(&old, &before, new, &after))
}

/// How the rollouts stand before and after. A weight set at run time holds until the file's own value changes.
fn live(old: &Config, new: &Config, rollouts: &[view::Rollout]) -> (Live, Live) {
    let (mut before, mut after) = (Live::default(), Live::default());
    for rollout in rollouts {
        let weight = Weight::from_ppm(rollout.weight_ppm).unwrap_or_default();
        // A kill at run time outlasts the reload, and for who moves it is the same as a rollback: everyone is on stable.
        let phase = match rollout.state.as_str() {
            _ if rollout.killed && !rollout.killed_by_config => Phase::RolledBack,
            "running" | "waiting_approval" | "completed" => Phase::Serving,
            "rolled_back" => Phase::RolledBack,
            _ => Phase::Pending,
        };
        let (probe, stage, admitted, shadow, overlays) = (None, None, None, None, BTreeMap::new());
        let stands = LiveRollout { phase, weight, probe, stage, admitted, shadow, overlays };
        let weight_in = |config: &Config| Some(config.rollouts.get(config.rollout(&rollout.name)?)?.plan.weight);
        let next = weight_in(new).filter(|next| Some(*next) != weight_in(old)).unwrap_or(weight);
        after.rollouts.insert(rollout.name.as_str().into(), LiveRollout { weight: next, ..stands.clone() });
        before.rollouts.insert(rollout.name.as_str().into(), stands);
    }
    (before, after)
}

fn unusable(console: &mut Console, global: &Global, problems: &[Problem], what: &str) -> Result<Stop, Stop> {
    files::print_problems(console, global, problems)?;
    Ok(Stop::Usage(format!("{what}: cannot be compared with")))
}

/// Where there is no terminal whose width could be asked.
const COLUMNS: usize = 100;
/// Tables that are narrower are harder to read than lines that are too long.
const COLUMNS_MIN: usize = 80;
/// Wider, and the eye loses the line.
const COLUMNS_MAX: usize = 120;
