//! The breaker: its rules with the contract's defaults, and the bounds within which they make sense.

use crate::config::decode::{Spot, Switch};
use crate::config::model::{ArmConfig, ArmTo, RolloutConfig, UpstreamConfig};
use crate::config::raw;
use crate::config::units::print_span;
use crate::config::validate::Context;
use crate::rollout::breaker::{COOLDOWN_MAX, LatencyRule, MIN_UNITS_MAX, NoAnswerRule, RateRule, Rules};
use crate::rollout::bucket::Weight;
use crate::snapshot::Fallback;
use std::time::Duration;

/// The breaker of a rollout, none if it is switched off, and whether stable answers failed canary requests.
pub fn breaker(
    key: &str,
    raw: &raw::Rollout,
    arms: &[ArmConfig; 2],
    context: &mut Context<'_, '_>,
) -> (Option<Rules>, Fallback) {
    let nothing = raw::Breaker::default();
    let breaker = raw.breaker.as_ref().map_or(&nothing, |spot| &spot.value);
    let enabled = breaker.enabled.as_ref().is_none_or(|spot| spot.value);
    let rules = rules(&format!("{key}.breaker"), breaker, context);
    let fallback = fallback(breaker, enabled, arms);
    (enabled.then_some(rules), fallback)
}

fn rules(key: &str, raw: &raw::Breaker, context: &mut Context<'_, '_>) -> Rules {
    let mut reader = Reader { key, context };
    let rules = Rules {
        consecutive_errors: reader.count("consecutive_errors", &raw.consecutive_errors, 5, 0..=CONSECUTIVE_MAX),
        error_rate: match raw.error_rate.as_ref().map(|spot| &spot.value) {
            None => Some(RateRule { above: percent(50), window: WINDOW, min_requests: RATE_REQUESTS.into() }),
            Some(Switch::Off) => None,
            Some(Switch::On(rule)) => Some(reader.error_rate(rule)),
        },
        latency: raw.latency.as_ref().and_then(|spot| on(&spot.value)).map(|rule| reader.latency(rule)),
        no_answer: raw.no_answer.as_ref().and_then(|spot| on(&spot.value)).map(|rule| reader.no_answer(rule)),
        min_units: reader.count("min_units", &raw.min_units, 3, 1..=MIN_UNITS_MAX),
        max_unit_share: reader.share("max_unit_share", &raw.max_unit_share, percent(25)),
        cooldown: reader.span("cooldown", &raw.cooldown, COOLDOWN, COOLDOWN_MIN, COOLDOWN_MAX),
        cooldown_max: COOLDOWN_MAX,
        probe: reader.share("probe", &raw.probe, percent(1)),
        max_trips: reader.count("max_trips", &raw.max_trips, 3, 0..=TRIPS_MAX),
        spares_both: raw.both_arms.as_ref().is_none_or(|spot| spot.value == raw::BothArms::Alert),
    };
    run_needs_units(key, raw, &rules, context);
    rules
}

/// A run shorter than the units that it must come from never trips at its stated length.
fn run_needs_units(key: &str, raw: &raw::Breaker, rules: &Rules, context: &mut Context<'_, '_>) {
    let Some(spot) = &raw.consecutive_errors else { return };
    if rules.consecutive_errors == 0 || rules.consecutive_errors >= rules.min_units {
        return;
    }
    let (errors, units) = (rules.consecutive_errors, rules.min_units);
    let message = format!(
        "{key}.consecutive_errors: {errors} in a row cannot come from the {units} distinct units that a trip needs \
         (`min_units`), so it takes {units}"
    );
    context.problems.warning(spot.place, message).with_help("write min_units = 1 if one unit's failures are enough");
}

/// Says where a rule on missing answers can never be met, because a request that waits so long has ended in a timeout.
pub fn timeouts(
    raw: &raw::Root,
    rollouts: &[RolloutConfig],
    upstreams: &[UpstreamConfig],
    context: &mut Context<'_, '_>,
) {
    for (entry, rollout) in raw.rollouts.iter().flat_map(|map| &map.value).zip(rollouts) {
        let breaker = entry.value.as_ref().and_then(|rollout| rollout.breaker.as_ref());
        let Some(spot) = breaker.and_then(|breaker| breaker.value.no_answer.as_ref()) else { continue };
        let rule = rollout.plan.breaker.as_ref().and_then(|rules| rules.no_answer.as_ref());
        let [_, canary] = &rollout.arms;
        if let (Some(rule), ArmTo::Upstream(index)) = (rule, &canary.to)
            && let Some(upstream) = upstreams.get(*index)
            && upstream.response_timeout <= rule.after
        {
            let (name, timeout) = (&upstream.name, print_span(upstream.response_timeout));
            let message = format!(
                "rollouts.{}.breaker.no_answer: never trips, because no request waits longer than the {timeout} of \
                 `upstreams.{name}.response_timeout`",
                entry.name
            );
            context.problems.warning(spot.place, message);
        }
    }
}

/// Whether a request with `Idempotency-Key` counts as idempotent whatever its method.
pub fn by_key(raw: &raw::Rollout) -> bool {
    let breaker = raw.breaker.as_ref();
    breaker.and_then(|breaker| breaker.value.idempotency_key.as_ref()).is_some_and(|key| key.value)
}

/// Switched off with the breaker unless it is asked for by name. Never to a fixed answer: that is no service.
fn fallback(raw: &raw::Breaker, enabled: bool, [stable, _]: &[ArmConfig; 2]) -> Fallback {
    if matches!(stable.to, ArmTo::Respond(_)) {
        return Fallback::Off;
    }
    match raw.fallback.as_ref().map(|spot| spot.value) {
        None if enabled => Fallback::Safe,
        None | Some(raw::Fallback::Off) => Fallback::Off,
        Some(raw::Fallback::Safe) => Fallback::Safe,
        Some(raw::Fallback::Idempotent) => Fallback::Idempotent,
    }
}

/// Takes values with their defaults and reports what is out of range.
struct Reader<'k, 'c, 'p, 's> {
    key: &'k str,
    context: &'c mut Context<'p, 's>,
}

impl Reader<'_, '_, '_, '_> {
    fn error_rate(&mut self, raw: &raw::ErrorRate) -> RateRule {
        if let Some(spot) = raw.above.as_ref().filter(|spot| spot.value == Weight::FULL) {
            let message = format!("{}.error_rate.above: no share is above 100%, so this never trips", self.key);
            self.context.problems.warning(spot.place, message).with_help("write less, or error_rate = false");
        }
        RateRule {
            above: self.share("error_rate.above", &raw.above, percent(50)),
            window: self.span("error_rate.window", &raw.window, WINDOW, WINDOW_MIN, WINDOW_MAX),
            min_requests: self
                .count("error_rate.min_requests", &raw.min_requests, RATE_REQUESTS, 1..=REQUESTS_MAX)
                .into(),
        }
    }

    fn latency(&mut self, raw: &raw::Latency) -> LatencyRule {
        let quantile = raw.quantile.as_ref().map_or(raw::Quantile::P99, |spot| spot.value);
        LatencyRule {
            quantile_permille: match quantile {
                raw::Quantile::P50 => 500,
                raw::Quantile::P75 => 750,
                raw::Quantile::P90 => 900,
                raw::Quantile::P95 => 950,
                raw::Quantile::P99 => 990,
                raw::Quantile::P999 => 999,
            },
            above: self.span("latency.above", &raw.above, LIMIT_MAX, LIMIT_MIN, LIMIT_MAX),
            window: self.span("latency.window", &raw.window, WINDOW, WINDOW_MIN, WINDOW_MAX),
            min_requests: self
                .count("latency.min_requests", &raw.min_requests, LATENCY_REQUESTS, 1..=REQUESTS_MAX)
                .into(),
        }
    }

    fn no_answer(&mut self, raw: &raw::NoAnswer) -> NoAnswerRule {
        NoAnswerRule {
            after: self.span("no_answer.after", &raw.after, LIMIT_MAX, NO_ANSWER_MIN, NO_ANSWER_MAX),
            min_requests: self
                .count("no_answer.min_requests", &raw.min_requests, NO_ANSWER_REQUESTS, 1..=REQUESTS_MAX)
                .into(),
        }
    }

    fn count(&mut self, name: &str, spot: &Option<Spot<u32>>, usual: u32, range: std::ops::RangeInclusive<u32>) -> u32 {
        let Some(spot) = spot else { return usual };
        if !range.contains(&spot.value) {
            let (from, to) = range.into_inner();
            let message = format!("{}.{name}: expected {from} to {to}, found {}", self.key, spot.value);
            self.context.problems.error(spot.place, message);
        }
        spot.value
    }

    /// A share that is more than nothing.
    fn share(&mut self, name: &str, spot: &Option<Spot<Weight>>, usual: Weight) -> Weight {
        let Some(spot) = spot else { return usual };
        if spot.value == Weight::ZERO {
            let message = format!("{}.{name}: expected more than 0%", self.key);
            self.context.problems.error(spot.place, message);
        }
        spot.value
    }

    fn span(
        &mut self,
        name: &str,
        spot: &Option<Spot<Duration>>,
        usual: Duration,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let Some(spot) = spot else { return usual };
        if spot.value < least || spot.value > most {
            let (least, most, found) = (print_span(least), print_span(most), print_span(spot.value));
            let message = format!("{}.{name}: expected a duration from {least} to {most}, found {found}", self.key);
            self.context.problems.error(spot.place, message);
        }
        spot.value
    }
}

fn on<T>(switch: &Switch<T>) -> Option<&T> {
    match switch {
        Switch::Off => None,
        Switch::On(value) => Some(value),
    }
}

fn percent(percent: u32) -> Weight {
    Weight::from_percent(percent).unwrap_or(Weight::FULL)
}

/// The rule's window unless told otherwise.
const WINDOW: Duration = Duration::from_secs(10);
/// The grain of the windows.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// How far the windows reach back.
const WINDOW_MAX: Duration = Duration::from_secs(15 * 60);
const RATE_REQUESTS: u32 = 20;
const LATENCY_REQUESTS: u32 = 50;
const NO_ANSWER_REQUESTS: u32 = 5;
/// The first cooldown unless told otherwise.
const COOLDOWN: Duration = Duration::from_secs(30);
/// Shorter ones would flap between two looks.
const COOLDOWN_MIN: Duration = Duration::from_millis(200);
/// Latencies are told apart from here on.
const LIMIT_MIN: Duration = Duration::from_millis(1);
/// Longer than any response timeout.
const LIMIT_MAX: Duration = Duration::from_secs(3600);
/// A few looks long.
const NO_ANSWER_MIN: Duration = Duration::from_millis(100);
/// Longer than any client waits.
const NO_ANSWER_MAX: Duration = Duration::from_secs(600);
/// A longer run is a rate.
const CONSECUTIVE_MAX: u32 = 10_000;
/// More requests than a window is ever made to wait for.
const REQUESTS_MAX: u32 = 1_000_000_000;
const TRIPS_MAX: u32 = 1000;
