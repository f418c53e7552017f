//! The command line: parse, dispatch, exit code. Each verb is a file; what they share is `console`, `client`, `render`
//! and `stop`.
//!
//! This is the outermost room: it reads the environment and hands it in, and it alone prints.

pub mod serve;

mod args;
mod baseline;
mod bucket;
mod check;
mod client;
mod console;
mod contact;
mod demo;
mod diff;
mod events;
mod explain;
mod files;
mod health;
mod log;
mod operate;
mod plan;
mod rehearse;
mod render;
mod report;
mod screen;
mod stages;
mod status;
mod steer;
mod stop;
mod token;
mod upstreams;
mod validate;
mod wait;
mod watch;

use args::{Cli, Colour, Output, Verb};
use clap::{CommandFactory, Parser};
use console::Console;
use render::Tone;
use serde_json::json;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;
use stop::{Outcome, Stop};

/// Runs the command line of this process and says how to end it.
pub fn main() -> ExitCode {
    let (environment, program) = (environment(), program());
    let (stdout, stderr, stdin) = (std::io::stdout(), std::io::stderr(), std::io::stdin());
    // None of them is locked: other threads log while `serve` runs.
    let mut console = Console {
        out_is_terminal: stdout.is_terminal(),
        err_is_terminal: stderr.is_terminal(),
        in_is_terminal: stdin.is_terminal(),
        out: &mut std::io::BufWriter::new(stdout),
        err: &mut { stderr },
        input: &mut std::io::BufReader::new(stdin),
        program: &program,
        environment: &environment,
    };
    ExitCode::from(run(&mut console, std::env::args_os()))
}

/// Runs one command line and returns the exit code: 0 ok, 1 no, 2 usage or config, 3 not reachable.
fn run(console: &mut Console, arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(console, &error),
    };
    let ended = dispatch(console, &cli).and_then(|()| Ok(console.out.flush()?));
    match ended {
        Ok(()) => 0,
        Err(stop) => report(console, &cli, &stop),
    }
}

fn dispatch(console: &mut Console, cli: &Cli) -> Outcome {
    let global = &cli.global;
    match &cli.verb {
        Verb::Serve(arguments) => serve(console, global, arguments),
        Verb::Check(arguments) => check::run(console, global, arguments),
        Verb::Rehearse(arguments) => rehearse::run(console, global, arguments),
        Verb::Demo(arguments) => demo::run(console, global, arguments),
        Verb::Status(arguments) => status::run(console, global, arguments),
        Verb::Weight(arguments) => operate::weight(console, global, arguments),
        Verb::Validate(arguments) => validate::run(console, global, arguments),
        Verb::Health(arguments) => health::run(console, global, arguments),
        Verb::Baseline(arguments) => baseline::run(console, global, arguments),
        Verb::Pause(arguments) => steer::pause(console, global, arguments),
        Verb::Resume(arguments) => steer::resume(console, global, arguments),
        Verb::Promote(arguments) => steer::promote(console, global, arguments),
        Verb::Rollback(arguments) => steer::rollback(console, global, arguments),
        Verb::Approve(arguments) => steer::approve(console, global, arguments),
        Verb::Kill(arguments) => operate::kill(console, global, arguments),
        Verb::Revive(arguments) => operate::revive(console, global, arguments),
        Verb::Diff(arguments) => diff::run(console, global, arguments),
        Verb::Explain(arguments) => explain::run(console, global, arguments),
        Verb::Bucket(arguments) => bucket::run(console, global, arguments),
        Verb::Token(arguments) => token::run(console, global, arguments),
        Verb::Events(arguments) => events::run(console, global, arguments),
        Verb::Report(arguments) => report::run(console, global, arguments),
        Verb::Reload(arguments) => operate::reload(console, global, arguments),
        Verb::Schema => schema(console),
        Verb::Completions { shell } => completions(console, *shell),
    }
}

fn serve(console: &mut Console, global: &args::Global, arguments: &args::Serve) -> Outcome {
    let log = log::Log::to(std::io::stderr()).map_err(|error| Stop::Usage(format!("cannot log: {error}")))?;
    log_to(log.clone(), global.output, console.paint_errors(global.color).on);
    let environment = console.environment.to_vec();
    let options = serve::Options {
        config: arguments.config.clone(),
        environment,
        signals: true,
        time_scale: arguments.time_scale,
        log_lost: log.lost(),
    };
    let result = serve::run(options).map_err(|error| Stop::Usage(error.to_string()));
    // What stopped it comes after what was logged before.
    log.flush();
    result
}

/// The process's own log, for `serve` alone: other verbs speak to the person who asked.
fn log_to(log: log::Log, output: Output, colour: bool) {
    let log = tracing_subscriber::fmt().with_writer(log).with_ansi(colour).with_target(false);
    // A log that is there already, as in tests, is as good.
    let _ = match output {
        Output::Text => log.try_init(),
        Output::Json => log.json().flatten_event(true).try_init(),
    };
}

fn schema(console: &mut Console) -> Outcome {
    let text = serde_json::to_string_pretty(&crate::config::schema()).map_err(std::io::Error::from)?;
    console.line(&text)
}

/// Into memory first: the generator panics if its output fails, and a pipe may close at any time.
fn completions(console: &mut Console, shell: clap_complete::Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
    Ok(console.out.write_all(&script)?)
}

/// Prints what clap has to say: help and version are answers, anything else is a mistake.
fn usage(console: &mut Console, error: &clap::Error) -> u8 {
    let (mistake, colour) = (error.use_stderr(), Colour::Auto);
    let text = error.render();
    let written = if mistake {
        let text = if console.paint_errors(colour).on { text.ansi().to_string() } else { text.to_string() };
        console.err.write_all(text.as_bytes())
    } else {
        console.out.write_all(text.to_string().as_bytes()).and_then(|()| console.out.flush())
    };
    match (written, mistake) {
        (_, true) => 2,
        (Ok(()), false) => 0,
        (Err(error), false) => Stop::Output(error).code(),
    }
}

/// Tells the person why it stopped, and a program what weir answered, or in the same form what else is wrong.
fn report(console: &mut Console, cli: &Cli, stop: &Stop) -> u8 {
    let told = match stop {
        Stop::Refused { body, .. } | Stop::BadConfig { body, .. } => Some(body.trim_end().to_owned()),
        Stop::Usage(_) | Stop::Unreachable { .. } => Some(json!({ "error": stop.to_string() }).to_string()),
        Stop::No | Stop::Problems | Stop::Output(_) => None,
    };
    if let (Output::Json, Some(told)) = (cli.global.output, told) {
        let _ = writeln!(console.out, "{told}");
    }
    // A second failure to write has nobody left to hear of it.
    let _ = console.out.flush();
    if let Some(message) = stop.message() {
        let error = console.paint_errors(cli.global.color).tone(Tone::Red, "error:");
        let _ = writeln!(console.err, "{error} {message}");
    }
    stop.code()
}

/// The path that it was called by, or its name alone if it was found by that.
fn program() -> String {
    let called = std::env::args_os().next().map(|called| called.to_string_lossy().into_owned());
    called.filter(|called| called.contains('/')).unwrap_or_else(|| "weir".to_owned())
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the environment; it is handed in from here")]
fn environment() -> Vec<(String, String)> {
    // A value of ours that is not UTF-8 must not pass for one that is not set: its check will say what is wrong.
    let readable = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (readable(name), readable(value))).collect()
}

#[cfg(test)]
mod tests;
