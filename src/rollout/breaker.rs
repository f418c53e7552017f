//! The breaker of one rollout: judges what both arms did lately and says when the canary must lose its share.
//!
//! Pure: measurements and time are handed in, turns come out; the engine carries them out. A run of failures is counted
//! on the request path (`latch`), which opens the circuit by itself; the breaker learns of it afterwards and gives it its
//! place in the record.

mod judge;
mod machine;
mod ring;
#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
mod turn;
mod waiting;
mod words;

pub use machine::{Breaker, STEADY_COOLDOWNS};
pub use turn::{Saved, Trip, Turn};

use super::bucket::Weight;
use super::window::Counts;
use std::time::Duration;

/// What the config asks of a breaker: `[rollouts.NAME.breaker]`, with the contract's defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row that trip it, across all workers; 0 is no such rule.
    pub consecutive_errors: u32,
    /// The rule on the share of failures.
    pub error_rate: Option<RateRule>,
    /// The rule on latency.
    pub latency: Option<LatencyRule>,
    /// The rule on requests that wait without any of them being answered.
    pub no_answer: Option<NoAnswerRule>,
    /// Distinct units whose failures a trip needs, 1 to `MIN_UNITS_MAX`; 1 is no guard.
    pub min_units: u32,
    /// Share of a window's requests beyond which one unit's failures do not count.
    pub max_unit_share: Weight,
    /// Time until the first half-opening; doubles with each trip up to `cooldown_max`.
    pub cooldown: Duration,
    /// The longest that it grows to: `COOLDOWN_MAX`, shorter under a time scale.
    pub cooldown_max: Duration,
    /// Share of the canary's units let through while half-open.
    pub probe: Weight,
    /// Trips after which the rollout is rolled back; 0 is never.
    pub max_trips: u32,
    /// Whether a canary that is no worse than stable is spared (`both_arms = "alert"`).
    pub spares_both: bool,
}

/// The rule on the share of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRule {
    /// The limit; a share above it trips.
    pub above: Weight,
    /// Over which time.
    pub window: Duration,
    /// Requests it needs.
    pub min_requests: u64,
}

/// The rule on latency to the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyRule {
    /// Which quantile, in thousandths: 500, 750, 900, 950, 990 or 999.
    pub quantile_permille: u32,
    /// The limit; a quantile above it trips.
    pub above: Duration,
    /// Over which time.
    pub window: Duration,
    /// Requests it needs.
    pub min_requests: u64,
}

/// The rule on requests without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswerRule {
    /// How long they must have waited.
    pub after: Duration,
    /// How many of them.
    pub min_requests: u64,
}

/// The largest `min_units`: what the latch can tell apart in a run of failures.
pub const MIN_UNITS_MAX: u32 = 16;
/// The longest cooldown.
pub const COOLDOWN_MAX: Duration = Duration::from_secs(600);

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The split flows.
    #[default]
    Closed,
    /// Everything goes to stable.
    Open,
    /// A trickle of units probes the canary.
    HalfOpen,
}

impl State {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// What tripped a breaker; the `reason` label of `weir_breaker_trips_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A run of failures.
    ConsecutiveErrors,
    /// The share of failures.
    ErrorRate,
    /// Latency.
    Latency,
    /// Requests without an answer.
    NoAnswer,
    /// No healthy endpoint; never counted towards `max_trips`.
    NoHealthyEndpoint,
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 5] =
        [Cause::ConsecutiveErrors, Cause::ErrorRate, Cause::Latency, Cause::NoAnswer, Cause::NoHealthyEndpoint];

    /// The word in metric, API and record.
    pub const fn word(self) -> &'static str {
        match self {
            Cause::ConsecutiveErrors => "consecutive_errors",
            Cause::ErrorRate => "error_rate",
            Cause::Latency => "latency",
            Cause::NoAnswer => "no_answer",
            Cause::NoHealthyEndpoint => "no_healthy_endpoint",
        }
    }
}

/// Rows of slots that tell units apart in fixed memory; two units that share a slot in one row rarely share one in the next.
pub const UNIT_ROWS: usize = 2;
/// Slots of a row.
pub const UNIT_SLOTS: usize = 256;

/// Requests by unit, each unit in one slot of every row. The number of slots in use is a lower bound of the number of units,
/// and cutting every slot at a limit takes at least what cutting every unit would take away.
pub type UnitCounts = [[u32; UNIT_SLOTS]; UNIT_ROWS];

/// What happened on one arm since the last measurement; forced, probe and shadow requests are not among it.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// Requests that ended.
    pub counts: Counts,
    /// Failures by unit; none if there was no failure.
    pub failures: Option<Box<UnitCounts>>,
    /// Answers slower than the latency rule's limit by unit; none if there was none, or without that rule.
    pub slow: Option<Box<UnitCounts>>,
}

/// One look at a rollout, taken every 25 ms.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Stable since the last look (its unit counts are not taken).
    pub stable: Happened,
    /// The canary since the last look.
    pub canary: Happened,
    /// Probe requests since the last look; only while half-open. They share the cells by unit with the canary's requests,
    /// of which there are none then, so what those gained may stand here or there.
    pub probes: Happened,
    /// Probe requests that were started, in all; goes only up.
    pub probes_started: u64,
    /// Canary requests that were started, in all; goes only up.
    pub started: u64,
    /// Of those, the ones whose answer has begun, in all.
    pub answered: u64,
    /// Of those, the ones that ended without an answer, in all.
    pub unanswered: u64,
    /// Distinct units among the requests that wait for an answer now (a lower bound); 0 without a no-answer rule.
    pub waiting_units: u32,
    /// Distinct units seen on the canary in the last 10 to 20 s, up to 64.
    pub units_seen: u32,
    /// Canary failures in a row at this moment.
    pub run: u32,
    /// Distinct units among them.
    pub run_units: u32,
    /// Whether the latch has opened by a run since the last look: the circuit is open already.
    pub latched: bool,
    /// Whether the canary's upstream has an endpoint that is healthy, or is not checked.
    pub healthy: bool,
}
