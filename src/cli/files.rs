//! What several verbs need of a config file: loading it with every problem printed, and asking it without a proxy.

use super::args::Global;
use super::console::Console;
use super::render::{self, Tone};
use super::stop::{Outcome, Stop};
use crate::config::{self, Config, Loaded, Problem, Severity};
use crate::rollout::assign::Switches;
use std::path::Path;

/// Loads a config under the environment. Warnings and problems go to standard error; problems stop the command.
pub fn load(console: &mut Console, global: &Global, path: &Path) -> Result<Loaded, Stop> {
    match config::load(path, console.environment, &mut config::UserFiles::default()) {
        Ok(loaded) => {
            print_problems(console, global, &loaded.warnings)?;
            Ok(loaded)
        }
        Err(problems) => {
            print_problems(console, global, &problems)?;
            Err(Stop::Problems)
        }
    }
}

/// Prints problems and warnings to standard error, each with its place, line and advice.
pub fn print_problems(console: &mut Console, global: &Global, problems: &[Problem]) -> Outcome {
    let paint = console.paint_errors(global.color);
    for problem in problems {
        let text = problem.to_string();
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let tone = if problem.severity == Severity::Warning { Tone::Yellow } else { Tone::Red };
        writeln!(console.err, "{}", paint.tone(tone, &render::clean(first)))?;
        for line in rest.lines() {
            writeln!(console.err, "{}", render::clean(line))?;
        }
    }
    Ok(())
}

/// The kills that the file or the environment sets.
pub fn switches(config: &Config) -> Vec<Switches> {
    let switch = |killed| if killed { Switches::KILLED } else { Switches::NONE };
    config.rollouts.iter().map(|rollout| switch(rollout.plan.killed)).collect()
}

/// The names of all rollouts.
pub fn rollout_names(config: &Config) -> Vec<&str> {
    config.rollouts.iter().map(|rollout| &*rollout.plan.name).collect()
}

/// The mistake of naming a rollout that is not there.
pub fn unknown_rollout(name: &str, known: &[&str]) -> Stop {
    Stop::Usage(format!("there is no rollout `{}`; {}", render::clean(name), config::hint(name, known)))
}
