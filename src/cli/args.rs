//! The command line as types: every verb, option and help text. It parses and nothing else.

use crate::config::units::{UnitError, parse_share, parse_span};
use crate::rollout::scale::TimeScale;
use crate::rollout::{Arm, bucket};
use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

mod diff;
mod plan;

pub use diff::Diff;
pub use plan::{Baseline, Health, Promote, Rollback, Steer, Validate};

/// A proxy that carries out a rollout plan: it divides requests between `stable` and `canary` and measures both.
#[derive(Debug, Parser)]
#[command(name = "weir", version, subcommand_required = true)]
#[command(arg_required_else_help = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What holds for every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Where weir runs: http://HOST:PORT or unix:PATH [env: WEIR_ADMIN] [default: http://127.0.0.1:9900]
    #[arg(long, global = true, value_name = "URL")]
    pub admin: Option<String>,
    /// File with the bearer token of that address [env: WEIR_TOKEN holds the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The form of what is printed
    #[arg(short, long, global = true, value_enum, default_value = "text", hide_possible_values = true)]
    #[arg(value_name = "text|json")]
    pub output: Output,
    /// When to use colour; NO_COLOR is heeded
    #[arg(long, global = true, value_enum, default_value = "auto", hide_possible_values = true)]
    #[arg(value_name = "auto|always|never")]
    pub color: Colour,
}

/// The form of what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// The body of the admin API, for programs.
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Also into files and pipes.
    Always,
    /// Nowhere.
    Never,
}

/// What weir can be asked to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the proxy
    #[command(after_help = SERVE_HELP)]
    Serve(Serve),
    /// Read a config, report every problem, print what it means
    #[command(after_help = CHECK_HELP)]
    Check(Check),
    /// Carry the plans of a config out on a virtual clock: how long they take, what would act when
    #[command(after_help = super::rehearse::HELP)]
    Rehearse(Rehearse),
    /// See it all at work: two upstreams, a proxy, traffic and a live view
    #[command(after_help = DEMO_HELP)]
    Demo(Demo),
    /// Show how the rollouts stand, both arms side by side
    #[command(after_help = "Example:  weir status chat --watch\n          weir status chat --wait --timeout 2h")]
    Status(Status),
    /// Set the share of units on the canary
    #[command(after_help = "Example:  weir weight chat 25% --reason 'p95 is flat'")]
    Weight(Weight),
    /// Say whether the next stage of a plan may begin, and if not why
    #[command(after_help = plan::VALIDATE_HELP)]
    Validate(Validate),
    /// Watch gates and triggers for a while; stop at the first that fails or fires
    #[command(after_help = plan::HEALTH_HELP)]
    Health(Health),
    /// Show what criteria compare with as `baseline`, or capture, set or import it
    #[command(after_help = plan::BASELINE_HELP)]
    Baseline(Baseline),
    /// Stop the clock of a plan's stage; traffic stays as it is
    #[command(after_help = "Example:  weir pause chat --reason 'holidays'")]
    Pause(Steer),
    /// Let a plan go on after a pause, or begin one that waits to be started
    #[command(after_help = "Example:  weir resume chat")]
    Resume(Steer),
    /// Begin the next stage of a plan, if the gates of the present one pass
    #[command(after_help = plan::PROMOTE_HELP)]
    Promote(Promote),
    /// Take a rollout back: to stable, to the stage before, or to half its weight
    #[command(after_help = plan::ROLLBACK_HELP)]
    Rollback(Rollback),
    /// Let a stage that asks for a person's go-ahead end once its gates pass
    #[command(after_help = "Example:  weir approve chat --reason 'signed off by the product owner'")]
    Approve(Steer),
    /// Send everyone to stable, at once
    #[command(after_help = "Example:  weir kill chat --reason 'errors'\n          weir kill chat --cohort internal")]
    Kill(Kill),
    /// Undo a kill, or else close the breaker, or else begin a rolled-back rollout's stage anew
    #[command(after_help = "Example:  weir revive chat\n          weir revive chat --cohort internal")]
    Revive(Revive),
    /// Say which arm a unit gets, and why
    #[command(after_help = EXPLAIN_HELP)]
    Explain(Explain),
    /// Say whether the canary answers copies of requests as stable does
    #[command(after_help = diff::HELP)]
    Diff(Diff),
    /// Compute the bucket of a unit, without config or proxy
    #[command(after_help = BUCKET_HELP)]
    Bucket(Bucket),
    /// Sign a token that forces an arm, for the header or cookie x-weir-force
    #[command(after_help = "Example:  weir token -c weir.toml --rollout chat --arm canary --expires 1h")]
    Token(Token),
    /// Print the audit trail: who changed what, when and why
    #[command(after_help = "Example:  weir events --follow\n          weir events -o json --since 120")]
    Events(Events),
    /// Write what happened to a rollout: both arms, stages, gates, incidents, resources
    #[command(after_help = REPORT_HELP)]
    Report(Report),
    /// Make the running proxy read its config again
    Reload(Reload),
    /// Print the JSON Schema of the config, for editors
    #[command(after_help = "Example:  weir schema > weir.schema.json")]
    Schema,
    /// Print a completion script for a shell
    #[command(after_help = "Example:  weir completions bash > /etc/bash_completion.d/weir")]
    Completions {
        /// bash, elvish, fish, powershell or zsh
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: clap_complete::Shell,
    },
}

/// `weir serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// The config: TOML, YAML or JSON, by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Carry plans out this many times as fast as written, to rehearse them with real traffic: 1 to 1000000
    #[arg(long, value_name = "N", default_value = "1", hide_default_value = true, value_parser = time_scale)]
    pub time_scale: TimeScale,
}

/// `weir check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The config: TOML, YAML or JSON, by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print every limit with its value
    #[arg(long)]
    pub limits: bool,
    /// Print what a reload would change: from an older file, or from a running weir
    #[arg(long, value_name = "FILE|URL")]
    pub against: Option<String>,
}

/// `weir rehearse`.
#[derive(Debug, Args)]
pub struct Rehearse {
    /// The config: TOML, YAML or JSON, by its extension
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Tell of one rollout only; the others are rehearsed with it
    #[arg(long, value_name = "NAME")]
    pub rollout: Option<String>,
    /// Requests per second
    #[arg(long, value_name = "N", default_value_t = 100.0, value_parser = rps)]
    pub rps: f64,
    /// Users who send them
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub users: u64,
    /// What the canary does, e.g. "errors=2%@ramp"; may be repeated
    #[arg(long, value_name = "ASSUMPTION", allow_hyphen_values = true)]
    pub canary: Vec<String>,
    /// What stable does; may be repeated
    #[arg(long, value_name = "ASSUMPTION", allow_hyphen_values = true)]
    pub stable: Vec<String>,
    /// What both do, or what queries and weir itself say, e.g. query.memory=30MB; may be repeated
    #[arg(long, value_name = "ASSUMPTION", allow_hyphen_values = true)]
    pub assume: Vec<String>,
    /// Share of users in a cohort, e.g. beta=5%; may be repeated [default: by its list and share, 1% of an opt-in]
    #[arg(long, value_name = "NAME=SHARE", value_parser = cohort_share)]
    pub cohort: Vec<(String, bucket::Weight)>,
    /// How long people take to approve, or `never` [default: at once]
    #[arg(long, value_name = "SPAN", value_parser = patience)]
    pub approve_after: Option<Patience>,
    /// What chance follows from: the same seed gives the same story
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// How long people take to do something.
#[derive(Clone, Copy, Debug)]
pub enum Patience {
    /// So long.
    After(Duration),
    /// They do not do it at all.
    Never,
}

/// `weir demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// End by itself after this long, e.g. 10s
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub duration: Option<Duration>,
    /// Requests per second
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub rate: u32,
}

/// `weir status`.
#[derive(Debug, Args)]
pub struct Status {
    /// One rollout in detail; all of them if absent
    pub rollout: Option<String>,
    /// Keep showing, once a second, through restarts of weir; `q` ends it
    #[arg(long)]
    pub watch: bool,
    /// Wait until its plan is complete; rolled back or paused is exit code 1
    #[arg(long, requires = "rollout", conflicts_with = "watch")]
    pub wait: bool,
    /// Wait no longer than this, then exit with 1
    #[arg(long, value_name = "SPAN", requires = "wait", value_parser = span)]
    pub timeout: Option<Duration>,
    /// The span the numbers cover, up to 15m
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = span)]
    pub window: Duration,
}

/// `weir weight`.
#[derive(Debug, Args)]
pub struct Weight {
    /// The rollout
    pub rollout: String,
    /// The share of units on the canary, e.g. 25% or 0.5%
    #[arg(value_parser = share)]
    pub weight: bucket::Weight,
    /// Also where the plan says otherwise
    #[arg(long)]
    pub force: bool,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

/// `weir kill`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").required(true).args(["rollout", "all"]))]
pub struct Kill {
    /// The rollout
    pub rollout: Option<String>,
    /// Every rollout
    #[arg(long, conflicts_with = "cohort")]
    pub all: bool,
    /// One cohort of it only
    #[arg(long, value_name = "NAME")]
    pub cohort: Option<String>,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

/// `weir revive`.
#[derive(Debug, Args)]
pub struct Revive {
    /// The rollout
    pub rollout: String,
    /// One cohort of it only
    #[arg(long, value_name = "NAME")]
    pub cohort: Option<String>,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

/// What the audit trail remembers of a change.
#[derive(Debug, Default, Args)]
pub struct Note {
    /// Why, for the audit trail
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Who, for the audit trail [default: the user's name]
    #[arg(long, value_name = "NAME")]
    pub actor: Option<String>,
}

/// `weir explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The rollout
    pub rollout: String,
    /// The unit, e.g. a user id
    #[arg(long, value_name = "UNIT", required_unless_present_any = ["header", "cookie"])]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new(), allow_hyphen_values = true)]
    pub unit: Option<String>,
    /// A header the request would carry, e.g. "x-beta: 1"; may be repeated. Without --unit, headers and cookies also
    /// say who is asking
    #[arg(long, value_name = "NAME:VALUE", value_parser = header)]
    pub header: Vec<(String, String)>,
    /// A cookie the request would carry, e.g. beta=1; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = cookie)]
    pub cookie: Vec<(String, String)>,
    /// Ask this file instead of a running weir: its own weight, nothing switched at run time
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `weir bucket`.
#[derive(Debug, Args)]
pub struct Bucket {
    /// The salt of the rollout; schemes that use none do without
    #[arg(long, value_name = "TEXT")]
    pub salt: Option<String>,
    /// The unit; `-` reads one a line from standard input
    #[arg(long, value_name = "UNIT", allow_hyphen_values = true)]
    pub unit: String,
    /// The scheme, as in `hash` of the config
    #[arg(long, value_name = "NAME", default_value = "murmur3")]
    pub hash: String,
    /// The flag's name in a foreign scheme, as in `hash_key`
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub key: String,
    /// The seed of a foreign scheme, as in `hash_seed`
    #[arg(long, value_name = "TEXT")]
    pub seed: Option<String>,
    /// File with the 16-byte key of siphash, raw or as 32 hex digits, as in `hash_key_file`
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Also say the arm at this weight
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub weight: Option<bucket::Weight>,
}

/// `weir token`.
#[derive(Debug, Args)]
pub struct Token {
    /// The config that names the secret: `[force] secret_file`
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// The rollout
    #[arg(long, value_name = "NAME")]
    pub rollout: String,
    /// The arm to force: stable or canary
    #[arg(long, value_name = "ARM", value_parser = arm)]
    pub arm: Arm,
    /// How long it holds, e.g. 1h or 7d
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub expires: Duration,
}

/// `weir report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The rollout
    pub rollout: String,
    /// How far back, up to 400d
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = span)]
    pub since: Duration,
    /// Markdown, one self-contained HTML file, or everything as data [default: md, with -o json json]
    #[arg(long, value_enum, value_name = "md|html|json", hide_possible_values = true)]
    pub format: Option<Format>,
}

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Markdown, for a chat or a runbook.
    Md,
    /// One file with charts.
    Html,
    /// Everything as data.
    Json,
}

impl Format {
    /// The word of the API.
    pub const fn word(self) -> &'static str {
        match self {
            Format::Md => "md",
            Format::Html => "html",
            Format::Json => "json",
        }
    }
}

/// `weir events`.
#[derive(Debug, Args)]
pub struct Events {
    /// Keep printing as they happen
    #[arg(short, long)]
    pub follow: bool,
    /// Every event after this id, instead of the latest ones
    #[arg(long, value_name = "ID")]
    pub since: Option<u64>,
    /// How many of the latest to print
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "since")]
    pub limit: usize,
}

/// `weir reload`.
#[derive(Debug, Args)]
pub struct Reload {
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

fn span(text: &str) -> Result<Duration, String> {
    match parse_span(text) {
        Ok(span) if !span.is_zero() => Ok(span),
        Ok(_) => Err("it must be longer than nothing".to_owned()),
        Err(error) => Err(hint(error)),
    }
}

fn share(text: &str) -> Result<bucket::Weight, String> {
    parse_share(text).map_err(hint)
}

fn time_scale(text: &str) -> Result<TimeScale, String> {
    let factor = text.parse().ok().and_then(TimeScale::new);
    factor.ok_or_else(|| format!("give a whole number, 1 to {}", TimeScale::MAX))
}

fn patience(text: &str) -> Result<Patience, String> {
    if text == "never" { Ok(Patience::Never) } else { span(text).map(Patience::After) }
}

fn rps(text: &str) -> Result<f64, String> {
    let rps = text.parse().ok().filter(|rps: &f64| (0.0..=RPS_MAX).contains(rps));
    rps.ok_or_else(|| format!("give a number of requests per second, 0 to {RPS_MAX}"))
}

fn cohort_share(text: &str) -> Result<(String, bucket::Weight), String> {
    let (name, value) = pair(text, '=').ok_or_else(|| "give a cohort as NAME=SHARE".to_owned())?;
    share(&value).map(|share| (name, share))
}

/// More than any service of one rollout gets.
const RPS_MAX: f64 = 10_000_000.0;

fn hint(error: UnitError) -> String {
    match error.suggestion {
        Some(suggestion) => format!("{}; write {suggestion}", error.message),
        None => error.message,
    }
}

fn named(text: &str) -> Result<(String, String), String> {
    let wrong = "give a value as \"NAME=VALUE\", e.g. \"stable p95=150ms\"";
    pair(text, '=').filter(|(_, value)| !value.is_empty()).ok_or_else(|| wrong.to_owned())
}

fn arm(text: &str) -> Result<Arm, String> {
    Arm::from_name(text).ok_or_else(|| "the arms are `stable` and `canary`".to_owned())
}

fn header(text: &str) -> Result<(String, String), String> {
    pair(text, ':').ok_or_else(|| "give a header as \"NAME: VALUE\"".to_owned())
}

fn cookie(text: &str) -> Result<(String, String), String> {
    pair(text, '=').ok_or_else(|| "give a cookie as NAME=VALUE".to_owned())
}

fn pair(text: &str, separator: char) -> Option<(String, String)> {
    let (name, value) = text.split_once(separator)?;
    let (name, value) = (name.trim(), value.trim());
    (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
}

const AFTER_HELP: &str = "\
Start here:  weir demo
Exit codes:  0 ok, 1 the answer is no, 2 usage or config error, 3 the admin address does not answer";

const SERVE_HELP: &str = "\
With --time-scale, durations, windows, `for` and cooldowns of plans and breakers are divided by N (windows stay at least 2s,
`for` and cooldowns 200ms, minimum durations 1s) and numbers of requests shrink with their windows. What requests take
(timeouts, latency limits, health checks, retries) and how often queries are asked stays as written.

Example:  weir serve -c weir.toml
          weir serve -c weir.toml --time-scale 600";

const DEMO_HELP: &str = "\
Keys:     + - more or less weight, k kill, r revive, s f h the new upstream slow, failing or healthy, q quit
Example:  weir demo
          weir demo --duration 10s --rate 100 > lines.txt";

const CHECK_HELP: &str = "\
Example:  weir check -c weir.toml
          weir check -c new.toml --against weir.toml
          weir check -c new.toml --against http://127.0.0.1:9900";

const EXPLAIN_HELP: &str = "\
Example:  weir explain chat --unit alice
          weir explain chat --unit alice --header 'x-beta: 1'
          weir explain chat --unit alice -c weir.toml";

const REPORT_HELP: &str = "\
Example:  weir report chat
          weir report chat --since 7d --format html > chat.html";

const BUCKET_HELP: &str = "\
Example:  weir bucket --salt chat-v2 --unit alice --weight 25%
          weir bucket --salt s --key chat --hash launchdarkly --unit - < users.txt";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    fn refused(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_err()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "weir",
            "weir serve -c weir.toml --time-scale 0",
            "weir serve -c weir.toml --time-scale 1000001",
            "weir serve -c weir.toml --time-scale 1.5",
            "weir serve -c weir.toml --time-scale",
            "weir rehearse",
            "weir rehearse -c weir.toml --rps -1",
            "weir rehearse -c weir.toml --users 0",
            "weir rehearse -c weir.toml --cohort beta",
            "weir rehearse -c weir.toml --approve-after 5",
            "weir kill",
            "weir kill chat --all",
            "weir kill --all --cohort internal",
            "weir weight chat",
            "weir weight chat 25",
            "weir weight chat 101%",
            "weir explain chat",
            "weir explain chat --unit a --header x",
            "weir token -c weir.toml --rollout chat --arm blue --expires 1h",
            "weir token -c weir.toml --rollout chat --arm canary --expires 0s",
            "weir demo --rate 0",
            "weir pause",
            "weir promote",
            "weir rollback chat --to canary",
            "weir status --wait",
            "weir status chat --wait --watch",
            "weir status chat --timeout 1h",
            "weir health chat",
            "weir health chat --duration 0s",
            "weir baseline",
            "weir baseline chat --set p95",
            "weir baseline chat --set p95=",
            "weir baseline chat --capture --set stable.p95=1s",
            "weir baseline chat --capture --import x.json",
            "weir events --since 1 --limit 2",
            "weir report",
            "weir report chat --format pdf",
            "weir report chat --since 0s",
            "weir status -o yaml",
            "weir frobnicate",
        ] {
            assert!(refused(line), "{line}");
        }
    }

    #[test]
    fn global_options_may_follow_the_verb() {
        let line = "weir status chat --admin unix:/run/weir.sock -o json --color never";
        let parsed = Cli::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(parsed.global.admin.as_deref(), Some("unix:/run/weir.sock"));
        assert_eq!((parsed.global.output, parsed.global.color), (Output::Json, Colour::Never));
    }
}
