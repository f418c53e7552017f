//! The rules on what the windows hold: is a limit crossed, by enough units, and is the canary to blame?
//!
//! Three guards keep a few units from tripping a rollout for all. Of every unit at most `max_unit_share` of the window's
//! requests counts (an equal part, where that is more: one of two units may make up half). Failures of `min_units`
//! distinct units are needed, or of all that are seen if they are fewer. And fewer units than that must not suffice
//! however much they fail: of each at most such a part of the limit counts that only `min_units` of them can exceed it, so
//! stray failures of others do not complete what an abuser began.

use super::ring::{Ring, Share};
use super::words::{Latency, NoAnswer, Noun, Rate, Run, Text};
use super::{Cause, LatencyRule, Measured, RateRule, Rules};
use crate::rollout::histogram::Histogram;
use crate::rollout::outcome::ErrorKind;
use crate::rollout::window::Counts;
use std::time::Duration;

/// Over which time stable is compared with the canary where a rule has no window of its own.
pub const RECENT: Duration = Duration::from_secs(10);

/// A limit that is crossed.
#[derive(Clone, Debug)]
pub struct Crossed {
    /// By which rule.
    pub cause: Cause,
    /// Whether stable is as sick, so that the canary is not to blame.
    pub spared: bool,
    /// The numbers; put into words only where someone reads them.
    pub text: Text,
}

/// One rule's view of both arms.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// What the canary is held to account for: its own requests, or probes.
    pub canary: &'a Ring,
    /// Stable.
    pub stable: &'a Ring,
    /// What the canary's requests are called.
    pub noun: Noun,
}

/// The rule on the share of failures. Without `floor` also a few requests are judged.
pub fn rate(rules: &Rules, rule: &RateRule, sides: Sides, floor: bool) -> Option<Crossed> {
    let counted = crossing(rules, sides.canary, rule.above.ppm(), if floor { rule.min_requests } else { 1 })?;
    let stable = sides.stable.share();
    let spared = rules.spares_both && !counted.leads(stable, rule.above.ppm() / 2);
    let (failures, window) = (sides.canary.share().part, rule.window);
    let text = Rate { counted, failures, above: rule.above, window, stable, noun: sides.noun };
    Some(Crossed { cause: Cause::ErrorRate, spared, text: Text::Rate(text) })
}

/// The rule on latency: crossed if more answers are slower than its limit than its quantile leaves room for.
pub fn latency(rules: &Rules, rule: &LatencyRule, sides: Sides, floor: bool) -> Option<Crossed> {
    let room_ppm = 1000_u32.saturating_sub(rule.quantile_permille) * 1000;
    let counted = crossing(rules, sides.canary, room_ppm, if floor { rule.min_requests } else { 1 })?;
    let of = |times: &Histogram| times.quantile(f64::from(rule.quantile_permille) / 1000.0);
    let above_us = micros(rule.above);
    // A histogram's quantile is up to 1.6 % off, the count of slow answers is not: they say that the limit is exceeded.
    let value_us = of(&sides.canary.times()).unwrap_or(above_us).max(above_us);
    let stable_us = of(&sides.stable.times());
    let spared = rules.spares_both && value_us < stable_us.unwrap_or(0).saturating_add(above_us / 2);
    let text = Latency { rule: rule.clone(), counted, value_us, stable_us, noun: sides.noun };
    Some(Crossed { cause: Cause::Latency, spared, text: Text::Latency(text) })
}

/// What of a window counts against the canary, if that exceeds the limit in spite of all guards.
fn crossing(rules: &Rules, canary: &Ring, limit_ppm: u32, min_requests: u64) -> Option<Share> {
    let share = canary.share();
    if share.whole < min_requests || !share.exceeds(limit_ppm) {
        return None;
    }
    let units = canary.units();
    let seen = canary.units_seen().max(units.distinct()).max(1);
    let needed = rules.min_units.min(seen);
    if units.distinct() < needed {
        return None;
    }
    let most = part(share.whole, rules.max_unit_share.ppm()).max(share.whole / u64::from(seen)).max(1);
    let counted = Share { part: units.cut_at(most).min(share.part), ..share };
    if !counted.exceeds(limit_ppm) {
        return None;
    }
    if needed > 1 {
        // Rounded up, so that small windows can trip at all.
        let parts = 1_000_000 * u128::from(needed - 1);
        let fair = (u128::from(share.whole) * u128::from(limit_ppm)).div_ceil(parts).max(1);
        let fair = u64::try_from(fair).unwrap_or(u64::MAX).min(most);
        if !(Share { part: units.cut_at(fair), ..share }).exceeds(limit_ppm) {
            return None;
        }
    }
    Some(counted)
}

/// That many parts per million of a count, rounded down.
fn part(count: u64, ppm: u32) -> u64 {
    u64::try_from(u128::from(count) * u128::from(ppm) / 1_000_000).unwrap_or(u64::MAX)
}

/// Both arms since a run of failures began, look by look: finer than a window's slices, in which a run of milliseconds
/// would drown.
#[derive(Clone, Debug, Default)]
pub struct SinceRun {
    /// Failures in the run at the last look.
    pub failures: u32,
    canary: Share,
    stable: Share,
    kinds: [u64; ErrorKind::COUNT],
}

impl SinceRun {
    /// Takes a look in at which there was a run; `canary` is what the canary is held to account for.
    pub fn add(&mut self, measured: &Measured, canary: &Counts) {
        if measured.run < self.failures {
            *self = SinceRun::default();
        }
        self.failures = measured.run;
        self.canary.add(Share { part: canary.failures(), whole: canary.ended });
        let stable = &measured.stable.counts;
        self.stable.add(Share { part: stable.failures(), whole: stable.ended });
        self.kinds.iter_mut().zip(canary.errors).for_each(|(sum, count)| *sum = sum.saturating_add(count));
    }
}

/// The rule on failures in a row. Whether the latch has opened by it or has left it to this judgement because stable failed
/// as well: both arms are compared over the last 10 s and since the run began, by the worse of the two.
pub fn run(rules: &Rules, measured: &Measured, since: &SinceRun, sides: Sides) -> Option<Crossed> {
    let needed = rules.min_units.min(measured.units_seen.max(1));
    let long = rules.consecutive_errors > 0 && measured.run >= rules.consecutive_errors;
    let crossed = long && measured.run_units.max(1) >= needed;
    if !crossed && !measured.latched {
        return None;
    }
    // The latch may have crossed the limit of a moment ago.
    let failures = measured.run.max(rules.consecutive_errors).max(1);
    let units = measured.run_units.max(1);
    let stable = sides.stable.share().max(since.stable);
    let canary = sides.canary.share().max(since.canary);
    // The run itself is counted a moment before the requests that it consists of.
    let least = u64::from(failures);
    let canary = Share { part: canary.part.max(least), whole: canary.whole.max(least) };
    let spared = rules.spares_both && !stable.is_below_half_of(canary);
    let (limit, kinds) = (rules.consecutive_errors, since.kinds);
    let text = Run { failures, limit, units, kinds, stable: sides.stable.share(), noun: sides.noun };
    Some(Crossed { cause: Cause::ConsecutiveErrors, spared, text: Text::Run(text) })
}

/// The rule on requests that `waiting` long without any of them being answered.
pub fn no_answer(rules: &Rules, measured: &Measured, waiting: u64, stable: &Ring) -> Option<Crossed> {
    let rule = rules.no_answer.as_ref()?;
    let needed = rules.min_units.min(measured.units_seen.max(1));
    if waiting < rule.min_requests.max(1) || measured.waiting_units.max(1) < needed {
        return None;
    }
    // A canary of which nothing is answered fails wholly; stable is as sick if half of it fails.
    let spared = rules.spares_both && !stable.share().is_below_half_of(Share { part: 1, whole: 1 });
    let (rule, units) = (rule.clone(), measured.waiting_units.max(1));
    let text = NoAnswer { rule, waiting, units, stable: stable.share() };
    Some(Crossed { cause: Cause::NoAnswer, spared, text: Text::NoAnswer(text) })
}

/// Microseconds of a time.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
