//! Sends requests at their due times, whether or not the answers before them have come, and says what came back.
//!
//! Requests are made up (`--path`, `--users`, `--rate`) or read from a file: weir's access log, `weir diff -o json`, or lines
//! of `METHOD TARGET [UNIT]`. With `--against` every request goes to two services, and their answers are compared as a
//! rollout's shadow compares them. Latencies count from the due time, so that a service that stalls is not spared the
//! requests that had to wait for it. Built as an example; load-tests/README.md says how it is used.

#![allow(clippy::disallowed_methods, reason = "it is no room of weir's: it has a clock and a thread of its own")]

mod dial;
mod list;
mod pace;
mod report;
mod send;
mod shown;

use bytes::Bytes;
use clap::Parser;
use list::Asked;
use report::Report;
use send::{Job, Meeting, Target};
use std::cell::Cell;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir::clock::Clock;
use weir::control::compare::{Compared, Comparer};
use weir::pairs::Pairs;
use weir::rollout::diff::Rules;
use weir::rollout::diff::ignore::Ignore;
use weir::rollout::diff::samples::Kind;

/// An error that ends the program.
type Failure = Box<dyn Error>;

/// Sends requests at their due times and says what came back.
#[derive(Parser)]
#[command(name = "load")]
struct Options {
    /// Where to send them: http://HOST:PORT or https://HOST:PORT
    #[arg(long)]
    target: String,
    /// A second service, which gets every request as well; the answers of both are compared
    #[arg(long)]
    against: Option<String>,
    /// Requests to send: weir's access log, the output of `weir diff -o json`, or lines of METHOD TARGET [UNIT]; - reads stdin
    #[arg(long, conflicts_with = "path")]
    requests: Option<PathBuf>,
    /// What to ask for, if there is no file; may be given several times
    #[arg(long, default_value = "/")]
    path: Vec<String>,
    /// Requests a second; without it an access log is replayed at its own pace
    #[arg(long)]
    rate: Option<f64>,
    /// How many times as fast as its own pace a log is replayed
    #[arg(long, default_value_t = 1.0)]
    speed: f64,
    /// How long requests without a file are sent
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// At most so many requests
    #[arg(long, default_value_t = 10_000_000)]
    limit: usize,
    /// Users in turn, where a request names no unit of its own; 0 for none
    #[arg(long, default_value_t = 0)]
    users: u64,
    /// The header that carries the unit
    #[arg(long, default_value = "x-user-id")]
    unit_header: String,
    /// Methods that are sent (default: GET,HEAD; without a file the first one, and POST if there is a body); what else a file has
    /// is left out, because it may change something and its body is not there
    #[arg(long, value_delimiter = ',')]
    methods: Vec<String>,
    /// A file that every POST, PUT and PATCH has as its body
    #[arg(long, conflicts_with = "body_size")]
    body: Option<PathBuf>,
    /// Or a body of so many bytes: 4096, 64KiB, 1MiB
    #[arg(long, value_parser = bytes)]
    body_size: Option<usize>,
    /// A further header of every request, "name: value"; may be given several times
    #[arg(long)]
    header: Vec<String>,
    /// Connections to each service
    #[arg(long, default_value_t = 64, value_parser = above_0)]
    connections: usize,
    /// Requests at a time on each of them, where it speaks HTTP/2
    #[arg(long, default_value_t = 1, value_parser = above_0)]
    streams: usize,
    /// The version of HTTP that is spoken (default: 1.1, and over TLS what the service chooses of both)
    #[arg(long, value_parser = ["1.1", "2"])]
    http: Option<String>,
    /// The authorities that https:// services are believed by, as PEM (default: the system's)
    #[arg(long)]
    ca: Option<PathBuf>,
    /// How long an answer is waited for
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The answer's header that tells arms apart
    #[arg(long, default_value = "x-weir-arm")]
    arm_header: String,
    /// With --against: the share of requests that --target gets twice, to know how it differs from itself
    #[arg(long, default_value_t = 0.05)]
    noise: f64,
    /// With --against: the relative difference up to which two numbers are equal
    #[arg(long, default_value_t = 0.0)]
    tolerance: f64,
    /// With --against: the share of answers that may differ (default: the tolerance)
    #[arg(long)]
    max_diff_rate: Option<f64>,
    /// With --against: a place that is not compared, as /items/*/id or header:NAME; may be given several times
    #[arg(long)]
    ignore: Vec<String>,
    /// How the result is printed
    #[arg(short, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    if options.methods.is_empty() {
        options.methods = methods(&options);
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("load: {failure}");
            ExitCode::from(2)
        }
    }
}

/// The methods that are sent where nobody names them.
fn methods(options: &Options) -> Vec<String> {
    let has_body = options.body.is_some() || options.body_size.is_some();
    let methods: &[&str] = if has_body && options.requests.is_none() { &["POST"] } else { &["GET", "HEAD"] };
    methods.iter().map(|&method| method.to_owned()).collect()
}

fn above_0(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "write a number above 0".to_owned())
}

/// A number of bytes.
fn bytes(text: &str) -> Result<usize, String> {
    let (digits, unit) = text.split_at(text.find(|digit: char| !digit.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return Err("write a number of bytes, KiB or MiB".to_owned()),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes <= SENT_BYTES_MAX).ok_or_else(|| "write a number of bytes up to 1024MiB".to_owned())
}

/// The body that requests have.
fn body(options: &Options) -> Result<Bytes, Failure> {
    match (&options.body, options.body_size) {
        (Some(path), _) => Ok(std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?.into()),
        (None, size) => Ok(vec![b'x'; size.unwrap_or(0)].into()),
    }
}

/// Whether every request had an answer, and where two services are compared, whether they answer the same.
fn run(options: &Options) -> Result<bool, Failure> {
    let list = list::requests(options)?;
    if list.asked.is_empty() {
        return Err(format!("there is nothing to send{}", list.left_out_told()).into());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report = tokio::task::LocalSet::new().block_on(&runtime, sent(options, &list.asked))?;
    report.left_out = list.left_out;
    print!("{}", if options.output == "json" { report.json()? } else { report.text() });
    Ok(report.is_good())
}

async fn sent(options: &Options, list: &[Asked]) -> Result<Report, Failure> {
    let comparison = options.against.is_some().then(|| comparison(options)).transpose()?;
    let body = body(options)?;
    let first = Target::start(&options.target, &body, options)?;
    let second = options.against.as_deref().map(|against| Target::start(against, &body, options)).transpose()?;
    let (mut due, pacing) = pace::start(list.iter().map(|asked| asked.due).collect())?;
    let (began, mut since_noise) = (Instant::now(), 0.0);
    while let Some((number, at)) = due.recv().await {
        let Some(asked) = list.get(number) else { break };
        let asked = Rc::new(asked.clone());
        let meeting = comparison.as_ref().map(|comparison| comparison.meeting(&asked));
        let job = |kind| Job { asked: Rc::clone(&asked), at, meeting: meeting.clone().map(|meeting| (meeting, kind)) };
        first.push(job(None));
        if let Some(second) = &second {
            second.push(job(Some(Kind::Canary)));
            since_noise += options.noise;
            if since_noise >= 1.0 {
                since_noise -= 1.0;
                first.push(job(Some(Kind::Noise)));
            }
        }
    }
    let mut targets = vec![first.finish().await];
    if let Some(second) = second {
        targets.push(second.finish().await);
    }
    let late = pacing.join().map_err(|_| "the thread that keeps the pace failed")?;
    let diff = comparison.map(|comparison| comparison.judged(options));
    Ok(Report { targets, late, diff, seconds: began.elapsed().as_secs_f64(), ..Report::default() })
}

/// Compares as a rollout's shadow does, with its parts.
struct Comparison {
    rules: Arc<Rules>,
    pairs: Arc<Pairs>,
    compared: Arc<Compared>,
    clock: Clock,
    offered: Rc<Cell<u64>>,
    _comparer: Comparer,
}

/// The name under which the comparison is kept.
const NAME: &str = "load";
/// Bytes of a body up to which it is compared.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

fn comparison(options: &Options) -> Result<Comparison, Failure> {
    let shares = [options.noise, options.tolerance, options.max_diff_rate.unwrap_or(0.0)];
    if !shares.iter().all(|share| (0.0..=1.0).contains(share)) {
        return Err("--noise, --tolerance and --max-diff-rate are from 0 to 1".into());
    }
    let ignore =
        options.ignore.iter().map(|text| Ignore::parse(text).map_err(|why| format!("--ignore {text}: it {why}")));
    let rules = Arc::new(Rules {
        tolerance: options.tolerance,
        max_diff_rate: options.max_diff_rate.unwrap_or(options.tolerance),
        ignore: ignore.collect::<Result<_, String>>()?,
        array_order: true,
        max_body: BODY_BYTES_MAX,
        ..Rules::default()
    });
    let (pairs, compared, clock) = (Arc::<Pairs>::default(), Arc::<Compared>::default(), Clock::system());
    let comparer = Comparer::start(Arc::clone(&pairs), Arc::clone(&compared), clock.clone());
    Ok(Comparison { rules, pairs, compared, clock, offered: Rc::default(), _comparer: comparer })
}

impl Comparison {
    fn meeting(&self, asked: &Rc<Asked>) -> Rc<Meeting> {
        let (rules, pairs) = (Arc::clone(&self.rules), Arc::clone(&self.pairs));
        Rc::new(Meeting::new(NAME, rules, pairs, self.clock.now(), Rc::clone(asked), Rc::clone(&self.offered)))
    }

    /// Waits until everything that was handed over is compared.
    fn judged(&self, options: &Options) -> weir::admin::view::Diff {
        let done = || self.compared.totals().get(NAME).map_or(0, |totals| totals.verdicts.iter().sum());
        let patience = Instant::now() + COMPARING_MAX;
        while done() < self.offered.get() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
        let limits = weir::rollout::diff::verdict::Limits {
            tolerance: self.rules.tolerance,
            max_diff_rate: self.rules.max_diff_rate,
            noise: options.noise,
            samples: 1,
        };
        let all = self.compared.judge(NAME, limits).kept.0;
        let limits = weir::rollout::diff::verdict::Limits { samples: all.max(1), ..limits };
        weir::admin::view::Diff::of(NAME, &self.compared.judge(NAME, limits))
    }
}

/// Bytes that a request may have.
const SENT_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// How long the last comparisons may take.
const COMPARING_MAX: Duration = Duration::from_secs(60);
