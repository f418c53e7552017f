//! What crossed which limit with which numbers, in one line: metric, value, limit, samples, window, the other arm.
//!
//! These lines stand in audit trail, log, status and notification. They are made from numbers only where they are read.

use super::judge::{RECENT, micros};
use super::ring::Share;
use super::{LatencyRule, NoAnswerRule};
use crate::rollout::bucket::Weight;
use crate::rollout::outcome::ErrorKind;
use std::fmt;
use std::time::Duration;

/// The numbers of a crossed limit.
#[derive(Clone, Debug)]
pub enum Text {
    /// Failures in a row.
    Run(Run),
    /// The share of failures.
    Rate(Rate),
    /// Latency.
    Latency(Latency),
    /// No answer.
    NoAnswer(NoAnswer),
}

/// What the canary's requests are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// Its share of the traffic.
    Requests,
    /// The trickle of a half-open breaker.
    Probes,
}

/// Failures in a row.
#[derive(Clone, Debug)]
pub struct Run {
    /// How many.
    pub failures: u32,
    /// How many it takes.
    pub limit: u32,
    /// Distinct units among them.
    pub units: u32,
    /// Failures by kind since the run began; others may be among them.
    pub kinds: [u64; ErrorKind::COUNT],
    /// Failures of stable.
    pub stable: Share,
    /// Of what.
    pub noun: Noun,
}

/// The share of failures.
#[derive(Clone, Debug)]
pub struct Rate {
    /// What counts.
    pub counted: Share,
    /// All failures.
    pub failures: u64,
    /// The limit.
    pub above: Weight,
    /// Over which time.
    pub window: Duration,
    /// Failures of stable in that time.
    pub stable: Share,
    /// Of what.
    pub noun: Noun,
}

/// Latency.
#[derive(Clone, Debug)]
pub struct Latency {
    /// The rule.
    pub rule: LatencyRule,
    /// Slow answers that count.
    pub counted: Share,
    /// The quantile.
    pub value_us: u64,
    /// That of stable; none without requests.
    pub stable_us: Option<u64>,
    /// Of what.
    pub noun: Noun,
}

/// No answer.
#[derive(Clone, Debug)]
pub struct NoAnswer {
    /// The rule.
    pub rule: NoAnswerRule,
    /// Requests that wait.
    pub waiting: u64,
    /// Distinct units among them.
    pub units: u32,
    /// Failures of stable over the last 10 s.
    pub stable: Share,
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text::Run(run) => run.fmt(f),
            Text::Rate(rate) => rate.fmt(f),
            Text::Latency(latency) => latency.fmt(f),
            Text::NoAnswer(no_answer) => no_answer.fmt(f),
        }
    }
}

/// `consecutive_errors 5 >= 5 (requests in a row: connect 4, timeout 1; 3 units; stable 0.0% in 10s)`
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Run { failures, limit, units, kinds, stable, noun } = self;
        write!(f, "consecutive_errors {failures} >= {limit} ({noun} in a row")?;
        let mut found: Vec<(u64, ErrorKind)> = kinds.iter().copied().zip(ErrorKind::ALL).collect();
        found.retain(|(count, _)| *count > 0);
        found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        // Counts that are not those of the run alone would only confuse.
        let exact = kinds.iter().sum::<u64>() == u64::from(*failures);
        for (at, (count, kind)) in found.iter().enumerate() {
            f.write_str(if at == 0 { ": " } else { ", " })?;
            f.write_str(kind.label())?;
            if exact {
                write!(f, " {count}")?;
            }
        }
        let units = Units(*units);
        write!(f, "; {units}; stable {} in {})", Percent::of(*stable), Span(RECENT))
    }
}

/// `error_rate 34.0% > 5.0% (17 of 50 requests in 10s; stable 0.1%)`
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { counted, failures, above, window, stable, noun } = self;
        let limit = Share { part: above.ppm().into(), whole: 1_000_000 };
        let percent = |share: Share, decimals| Percent { share, decimals }.to_string();
        // As many decimals as the limit has, and as it takes to show that the value is larger.
        let exact = (1..4).find(|&decimals| above.ppm() % 10_u32.pow(4 - decimals as u32) == 0).unwrap_or(4);
        let apart = |&decimals: &usize| percent(*counted, decimals) != percent(limit, decimals);
        let decimals = (exact..4).find(apart).unwrap_or(4);
        write!(f, "error_rate {} > {} ", percent(*counted, decimals), percent(limit, exact))?;
        write!(f, "({} of {} {noun} in {}", counted.part, counted.whole, Span(*window))?;
        if let Some(cut @ 1..) = failures.checked_sub(counted.part) {
            write!(f, ", {cut} more of single units not counted")?;
        }
        match stable.whole {
            0 => f.write_str("; stable without requests)"),
            _ => write!(f, "; stable {})", percent(*stable, exact)),
        }
    }
}

/// `latency p99 2.51s > 2s (12 of 60 requests slower in 10s; stable 120ms)`
impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Latency { rule, counted, value_us, stable_us, noun } = self;
        let quantile = match rule.quantile_permille {
            permille if permille % 10 == 0 => permille / 10,
            permille => permille,
        };
        let value = Rounded(*value_us).to_string();
        let above = Span(rule.above).to_string();
        // Values that read alike: the count of slow answers says that it is more.
        let value = if value == above { format!("{}us", value_us.max(&(micros(rule.above) + 1))) } else { value };
        write!(f, "latency p{quantile} {value} > {above} ")?;
        write!(f, "({} of {} {noun} slower in {}; ", counted.part, counted.whole, Span(rule.window))?;
        match stable_us {
            Some(us) => write!(f, "stable {})", Rounded(*us)),
            None => f.write_str("stable without requests)"),
        }
    }
}

/// `no_answer 12 >= 5 (requests of 4 units waiting for more than 2s, none answered in 2s; stable 0.0% in 10s)`
impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoAnswer { rule, waiting, units, stable } = self;
        let (after, units) = (Span(rule.after), Units(*units));
        write!(f, "no_answer {waiting} >= {} (requests of {units} waiting for more than {after}, ", rule.min_requests)?;
        write!(f, "none answered in {after}; stable {} in {})", Percent::of(*stable), Span(RECENT))
    }
}

impl fmt::Display for Noun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Noun::Requests => "requests",
            Noun::Probes => "probes",
        })
    }
}

struct Units(u32);

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} unit{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

struct Percent {
    share: Share,
    decimals: usize,
}

impl Percent {
    fn of(share: Share) -> Percent {
        Percent { share, decimals: 1 }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.*}%", self.decimals, self.share.percent())
    }
}

/// A time as configs write it, exact: `500ms`, `2s`, `1m`.
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = micros(self.0);
        let units = [(3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")];
        match units.into_iter().find(|(unit, _)| us >= *unit && us.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", us / unit),
            None => write!(f, "{us}us"),
        }
    }
}

/// A measured time in microseconds, to three digits: `2.51s`, `120ms`, `85us`.
struct Rounded(u64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, name) = match self.0 {
            us @ 0..1_000 => return write!(f, "{us}us"),
            us @ 1_000..1_000_000 => (us as f64 / 1e3, "ms"),
            us => (us as f64 / 1e6, "s"),
        };
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        let text = format!("{value:.decimals$}");
        let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        write!(f, "{text}{name}")
    }
}
