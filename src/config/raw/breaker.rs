//! The breaker of a rollout, as it is written.

use crate::config::decode::{Decode, Path, Shape, Switch, section, words};
use crate::config::problem::Problems;
use crate::config::tree::{Kind, Node};
use crate::rollout::bucket::Weight;
use std::time::Duration;

section! {
    /// The local circuit that sends the canary's units to stable when it fails.
    Breaker {
        /// `false` switches the whole breaker off, and with it `fallback` unless that is set.
        enabled: [optional] bool = "true",
        /// Failures in a row that trip it; 0 switches the rule off.
        consecutive_errors: [optional] u32 = "5",
        /// Requests that wait without any of them being answered.
        no_answer: [optional] Switch<NoAnswer> = "false",
        /// Distinct units whose failures a trip needs, 1 to 16; 1 switches the guard off.
        min_units: [optional] u32 = "3",
        /// Share of a window's requests beyond which a unit's failures do not count.
        max_unit_share: [optional] Weight = "25%",
        /// The rule on the share of failures.
        error_rate: [optional] Switch<ErrorRate> = "{ above = \"50%\", window = \"10s\", min_requests = 20 }",
        /// The rule on latency.
        latency: [optional] Switch<Latency> = "false",
        /// Time until it lets some units probe, 200ms to 10m; doubles with each trip up to 10m.
        cooldown: [optional] Duration = "30s",
        /// Share of canary units let through while probing.
        probe: [optional] Weight = "1%",
        /// Trips after which the rollout is rolled back until somebody revives it; 0 is never.
        max_trips: [optional] u32 = "3",
        /// Whether stable answers a failed canary request; never where stable is a fixed answer.
        fallback: [optional] Fallback = "safe",
        /// Whether a request with an `Idempotency-Key` may be answered by stable although the canary may have acted on it.
        idempotency_key: [optional] bool = "false",
        /// What happens when stable is as bad: somebody is told, or the canary is blamed all the same.
        both_arms: [optional] BothArms = "alert",
        /// What becomes of the canary's long streams when it is tripped, killed or rolled back: WebSockets, server-sent events,
        /// gRPC streams. `"leave"`, or the time within which they are ended politely, 1s to 1h.
        close_streams: [optional] CloseStreams = "leave",
    }
}

section! {
    /// Requests that wait without any of them being answered.
    NoAnswer {
        /// How long they wait.
        after: [required] Duration,
        /// How many of them.
        min_requests: [optional] u32 = "5",
    }
}

section! {
    /// The rule on the share of failures.
    ErrorRate {
        /// The limit; a larger share trips.
        above: [required] Weight,
        /// Over which time, 1s to 15m.
        window: [optional] Duration = "10s",
        /// Requests it needs.
        min_requests: [optional] u32 = "20",
    }
}

section! {
    /// The rule on latency.
    Latency {
        /// Which quantile.
        quantile: [optional] Quantile = "p99",
        /// The limit; a slower quantile trips.
        above: [required] Duration,
        /// Over which time, 1s to 15m.
        window: [optional] Duration = "10s",
        /// Requests it needs.
        min_requests: [optional] u32 = "50",
    }
}

words! {
    /// A quantile of latency.
    Quantile {
        /// Half of the requests are faster.
        P50 = "p50",
        /// 75 %.
        P75 = "p75",
        /// 90 %.
        P90 = "p90",
        /// 95 %.
        P95 = "p95",
        /// 99 %.
        P99 = "p99",
        /// 99.9 %.
        P999 = "p999",
    }
}

words! {
    /// Whether stable answers a failed canary request.
    Fallback {
        /// Where that is provably safe.
        Safe = "safe",
        /// For idempotent requests as well.
        Idempotent = "idempotent",
        /// Never.
        Off = "off",
    }
}

words! {
    /// What happens when both arms are bad.
    BothArms {
        /// The canary is spared, somebody is told.
        Alert = "alert",
        /// The canary is blamed.
        Trip = "trip",
    }
}

/// What becomes of the canary's long streams when the canary has lost its share.
#[derive(Clone, Copy, Debug)]
pub enum CloseStreams {
    /// They go on.
    Leave,
    /// They are ended within this time.
    Within(Duration),
}

impl Decode for CloseStreams {
    fn shape() -> Shape {
        Shape::Either(vec![Shape::Span, Shape::Word(&["leave"])])
    }

    fn decode(node: &Node, path: &Path<'_>, problems: &mut Problems<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Text(text) if text == "leave" => Some(CloseStreams::Leave),
            _ => Duration::decode(node, path, problems).map(CloseStreams::Within),
        }
    }
}
