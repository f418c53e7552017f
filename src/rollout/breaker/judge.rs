//! The rules on what the windows hold: is a limit crossed, by enough units, and is the canary to blame?
//!
//! Three guards keep a few units from tripping a rollout for all. Of every unit at most `max_unit_share` of the window's
//! requests counts (an equal part, where that is more: one of two units may make up half). Failures of `min_units`
//! distinct units are needed, or of all that are seen if they are fewer. And fewer units than that must not suffice
//! however much they fail: of each at most such a part of the limit counts that only `min_units` of them can exceed it, so
//! stray failures of others do not complete what an abuser began.
//!
//! The canary is to blame only if it is worse than stable: by half of the limit, and by more than chance explains.

use super::ring::{Ring, Share};
use super::words::{Latency, NoAnswer, Noun, Rate, Run, Text};
use super::{Cause, LatencyRule, Measured, RateRule, Rules};
use crate::rollout::histogram::Histogram;
use crate::rollout::outcome::ErrorKind;
use crate::rollout::window::Counts;
use std::time::Duration;

/// Over which time stable is compared with the canary where a rule has no window of its own.
pub const RECENT: Duration = Duration::from_secs(10);

/// A run that a stable as sick would show more often than this in 10 s proves nothing against the canary.
const CHANCE_MAX: f64 = 1e-3;

/// Standard deviations that a difference between two shares must have to be none of chance. Looks are many and small shares
/// are skewed: five are reached by chance about once in a million windows.
const NOISE_MAX: f64 = 5.0;

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
    let leads = counted.leads(stable, rule.above.ppm() / 2) && stands_out(counted, stable);
    let (failures, window) = (sides.canary.share().part, rule.window);
    let text = Rate { counted, failures, above: rule.above, window, stable, noun: sides.noun };
    Some(Crossed { cause: Cause::ErrorRate, spared: rules.spares_both && !leads, text: Text::Rate(text) })
}

/// The rule on latency: crossed if more answers are slower than its limit than its quantile leaves room for.
pub fn latency(rules: &Rules, rule: &LatencyRule, sides: Sides, floor: bool) -> Option<Crossed> {
    let room_ppm = 1000_u32.saturating_sub(rule.quantile_permille) * 1000;
    let counted = crossing(rules, sides.canary, room_ppm, if floor { rule.min_requests } else { 1 })?;
    let of = |times: &Histogram| times.quantile(f64::from(rule.quantile_permille) / 1000.0);
    let above_us = micros(rule.above);
    // A histogram's quantile is up to 1.6 % off, the count of slow answers is not: they say that the limit is exceeded.
    let value_us = of(&sides.canary.times()).unwrap_or(above_us).max(above_us);
    let stable = sides.stable.times();
    let stable_us = of(&stable);
    let stable_slow = Share { part: stable.count().saturating_sub(stable.at_most(above_us)), whole: stable.count() };
    let leads = value_us >= stable_us.unwrap_or(0).saturating_add(above_us / 2) && stands_out(counted, stable_slow);
    let text = Latency { rule: rule.clone(), counted, value_us, stable_us, noun: sides.noun };
    Some(Crossed { cause: Cause::Latency, spared: rules.spares_both && !leads, text: Text::Latency(text) })
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

/// Whether the canary's share is larger than stable's by more than noise: with few requests arms that are sick alike often
/// differ by half of a low limit. A stable without a single failure is not sick, so no such question arises.
fn stands_out(canary: Share, stable: Share) -> bool {
    if stable.part == 0 {
        return true;
    }
    let [canary_whole, stable_whole] = [canary, stable].map(|share| share.whole.max(1) as f64);
    let pooled = (canary.part + stable.part) as f64 / (canary_whole + stable_whole);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / canary_whole + 1.0 / stable_whole)).max(0.0).sqrt();
    (canary.percent() - stable.percent()) / 100.0 >= NOISE_MAX * deviation
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

/// The rule on failures in a row, whether the latch has opened by it or has left it to this judgement because stable failed
/// as well. Stable is taken by the worse of its last 10 s and the time since the run began. The canary is to blame if it is
/// twice as bad over the last 10 s; or since the run began, but a run is all failures however rare they are, so that
/// proves something only if the run is too long to come about by chance at stable's rate.
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
    let (recent, lately) = (sides.canary.share(), sides.stable.share());
    let stable = lately.max(since.stable);
    // The run itself is counted a moment before the requests that it consists of.
    let least = u64::from(failures);
    let counted = |share: Share| Share { part: share.part.max(least), whole: share.whole.max(least) };
    let (recent, of_run) = (counted(recent), counted(since.canary));
    let by_rate = stable.is_below_half_of(recent) && stands_out(recent, lately);
    let by_run = stable.is_below_half_of(of_run) && runs_at(stable, failures, recent.whole) <= CHANCE_MAX;
    let spared = rules.spares_both && !by_rate && !by_run;
    let (limit, kinds) = (rules.consecutive_errors, since.kinds);
    let text = Run { failures, limit, units, kinds, stable: sides.stable.share(), noun: sides.noun };
    Some(Crossed { cause: Cause::ConsecutiveErrors, spared, text: Text::Run(text) })
}

/// How many runs of that length or more begin among so many requests on average if they fail as stable does. Few requests
/// say little of stable, and less still while it is only breaking: it may well fail as often as `DOUBT` deviations more.
fn runs_at(stable: Share, length: u32, requests: u64) -> f64 {
    if stable.part == 0 {
        return 0.0;
    }
    let whole = stable.whole as f64 + 1.0;
    let rate = (stable.part as f64 + 1.0) / whole;
    let rate = (rate + DOUBT * (rate * (1.0 - rate)).max(0.0).sqrt() / whole.sqrt()).min(1.0);
    rate.powi(length.try_into().unwrap_or(i32::MAX)) * requests as f64
}

/// Standard deviations that stable's rate may lie above what was seen of it.
const DOUBT: f64 = 3.0;

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
