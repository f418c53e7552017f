//! The states of a breaker and how one leads to the next.
//!
//! - **Closed.** The canary's own requests are judged. A rule that is crossed opens the breaker, unless stable is as sick:
//!   then there is one alert per episode, and a latch that has opened by itself is taken back.
//! - **Open.** Nothing is judged. After the cooldown it half-opens, or waits on for a healthy endpoint or, once `max_trips`
//!   is reached, for a person. If a missing endpoint was all there was, it closes as soon as there is one.
//! - **Half-open.** Probes are judged by the same rules and guards. A crossed rule opens it again. It closes when enough
//!   probes have succeeded and no rule has anything to say: as many as failures in a row would have tripped it, trust
//!   being as dear as distrust; and so many as each rule needs to judge at all, or what came in a window or a cooldown,
//!   whichever is shorter, so that a rollout with little traffic recovers too. The trickle doubles while nobody is in it.
//!
//! Every change of state begins with empty windows: what tripped it once cannot trip it again.
//!
//! **Flapping** is bounded: each trip doubles the cooldown up to `cooldown_max`, and only a time in the closed state that
//! is `STEADY_COOLDOWNS` times the last cooldown takes one doubling back. So a canary that recovers and fails again in a
//! rhythm trips at most once in such a time. Trips do not wear off: `max_trips` counts since the last revival.
//!
//! It refuses to know latches, clocks and records: the engine hands in what was measured and carries out the turns.

use super::judge::{self, Crossed, RECENT, Sides, SinceRun};
use super::ring::{More, Ring, Share};
use super::turn::{Saved, Trip, Turn};
use super::waiting::{Reading, Waiting};
use super::words::{Noun, Span};
use super::{Cause, Happened, Measured, Rules, State};
use crate::clock::Time;
use crate::rollout::bucket::Weight;
use crate::rollout::outcome::CodeClass;
use std::sync::Arc;
use std::time::Duration;

/// Time in the closed state, in cooldowns of the last length, after which the cooldown is halved again.
pub const STEADY_COOLDOWNS: u32 = 10;
/// How long stable must not have been as sick for the next time to be another episode.
const EPISODE_GAP: Duration = Duration::from_secs(60);
/// Time without a probe after which the trickle doubles: long enough for any unit that comes back within seconds.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// With cooldowns of moments, as in rehearsals, the trickle waits so much shorter, but for at least `IDLE_MIN`.
const IDLE_COOLDOWNS: u32 = 10;
const IDLE_MIN: Duration = Duration::from_secs(2);
/// Probes under way put the doubling off for so long: they hang, or are streams that say nothing for hours.
const IDLE_UNDER_WAY: Duration = Duration::from_secs(60);
/// Successes that close it: the limit of failures in a row within these bounds, so that one lucky probe is not enough and
/// a small rollout is not kept waiting.
const SUCCESSES_MIN: u32 = 3;
const SUCCESSES_MAX: u32 = 10;
/// Successes that close it without a limit of failures in a row.
const SUCCESSES: u32 = 5;
/// The share of failures from which stable may count as sick.
const SICK_PPM: u32 = 50_000;
/// Growth of the cooldown beyond which nothing is counted; 2^31 of any cooldown is far beyond any maximum.
const LEVEL_MAX: u32 = 32;

/// The breaker of one rollout.
#[derive(Clone, Debug)]
pub struct Breaker {
    rules: Rules,
    saved: Saved,
    stand: Stand,
    windows: Windows,
    /// The latest look.
    looked: Time,
    /// Both arms since the run of failures began, while there is one.
    since_run: Option<SinceRun>,
    both_arms: Option<Episode>,
    units_seen: u32,
}

/// Where it stands, with what belongs to that alone.
#[derive(Clone, Debug)]
enum Stand {
    Closed {
        /// When it closed, or when the cooldown was last halved.
        since: Time,
    },
    Open {
        since: Time,
        waits: Waits,
    },
    HalfOpen(Probing),
}

/// What an open breaker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// The end of the cooldown, and then a healthy endpoint.
    Cooldown,
    /// A healthy endpoint.
    Endpoint {
        /// Whether it half-opens then, because something else had tripped it before.
        probes: bool,
    },
    /// A person.
    Person,
}

/// A half-open breaker.
#[derive(Clone, Debug)]
struct Probing {
    since: Time,
    /// The trickle.
    probe: Weight,
    /// When somebody was last known to be in it.
    idle_since: Time,
    /// `Measured.probes_started` at the last look.
    started: u64,
    /// Those of them that have not ended, as far as they are waited for.
    under_way: u64,
    ended: u64,
    succeeded: u64,
}

/// A time in which stable was as sick.
#[derive(Clone, Debug)]
struct Episode {
    reason: String,
    last: Time,
}

/// What both arms did lately, as far as rules ask; the canary's part is that of the probes while half-open.
#[derive(Clone, Debug)]
struct Windows {
    recent: Arms,
    rate: Option<Arms>,
    latency: Option<Arms>,
    waiting: Option<Waiting>,
}

#[derive(Clone, Debug)]
struct Arms {
    canary: Ring,
    stable: Ring,
}

impl Breaker {
    /// The breaker of a rollout that was saved like that, at the start of the process or of the rollout. One that was
    /// saved open or half-open starts open with a full cooldown. No turn tells of it: the caller sets the latch to `state()`.
    pub fn new(rules: Rules, saved: Saved, now: Time) -> Breaker {
        let windows = Windows::new(&rules);
        let (stand, state) = match saved.state {
            _ if saved.rolled_back => (Stand::Open { since: now, waits: Waits::Person }, State::Open),
            State::Closed => (Stand::Closed { since: now }, State::Closed),
            State::Open | State::HalfOpen => (Stand::Open { since: now, waits: Waits::Cooldown }, State::Open),
        };
        let saved = Saved { state, level: saved.level.min(LEVEL_MAX), ..saved };
        Breaker { rules, saved, stand, windows, looked: now, since_run: None, both_arms: None, units_seen: 0 }
    }

    /// Judges what happened since the last look; called every 25 ms. Most looks come to nothing and allocate nothing.
    pub fn look(&mut self, now: Time, measured: &Measured) -> Vec<Turn> {
        let now = now.max(self.looked);
        if self.both_arms.as_ref().is_some_and(|episode| now.since(episode.last) > EPISODE_GAP) {
            self.both_arms = None;
        }
        let mut turns = Vec::new();
        match self.stand {
            Stand::Closed { since } => {
                self.units_seen = measured.units_seen;
                self.steady(since, now);
                let waiting = self.windows.push(now, measured, &measured.canary);
                self.judge(now, measured, waiting, Noun::Requests, &mut turns);
            }
            Stand::Open { since, waits } => turns.extend(self.wait(since, waits, now, measured)),
            Stand::HalfOpen(_) => {
                self.units_seen = measured.units_seen;
                self.windows.push(now, measured, &measured.probes);
                self.judge(now, measured, 0, Noun::Probes, &mut turns);
                turns.extend(self.probed(now, measured));
            }
        }
        self.looked = now;
        turns
    }

    /// A person wants the split to flow again: closes it, forgets its trips and the growth of its cooldown. None if it is
    /// closed already. A latch that opened by itself before this must not be reported afterwards.
    pub fn revive(&mut self, now: Time) -> Option<Turn> {
        if self.saved.state == State::Closed {
            return None;
        }
        self.saved = Saved { trips: 0, level: 0, rolled_back: false, ..self.saved.clone() };
        Some(self.close(now.max(self.looked), "revived".to_owned()))
    }

    /// Goes on under other rules. State and trips stay; a running cooldown gets the new length, and the trickle of a
    /// half-open breaker the new share if that has changed. Windows whose rule has changed begin empty.
    pub fn reconfigure(&mut self, rules: Rules, _now: Time) {
        let new = Windows::new(&rules);
        let span = |arms: &Option<Arms>| arms.as_ref().map(|arms| arms.canary.window());
        // What is slow is counted under the limit of that time.
        let same_limit = |old: &Rules, new: &Rules| {
            old.latency.as_ref().map(|rule| rule.above) == new.latency.as_ref().map(|rule| rule.above)
        };
        if span(&new.rate) != span(&self.windows.rate) {
            self.windows.rate = new.rate;
        }
        if span(&new.latency) != span(&self.windows.latency) || !same_limit(&self.rules, &rules) {
            self.windows.latency = new.latency;
        }
        if rules.no_answer != self.rules.no_answer {
            self.windows.waiting = new.waiting;
        }
        if let Stand::HalfOpen(probing) = &mut self.stand
            && rules.probe != self.rules.probe
        {
            probing.probe = rules.probe;
        }
        self.rules = rules;
    }

    /// What must be stored, and after which turns: all that have a state.
    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// The rules in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.saved.state
    }

    /// Trips that count towards `max_trips`, since the last revival.
    pub fn trips(&self) -> u32 {
        self.saved.trips
    }

    /// What tripped it last, in words.
    pub fn last_reason(&self) -> Option<&str> {
        self.saved.reason.as_deref()
    }

    /// When it half-opens; none unless it is open, and if it waits for a person or for a healthy endpoint.
    pub fn cooldown_ends(&self) -> Option<Time> {
        match self.stand {
            Stand::Open { since, waits: Waits::Cooldown } => Some(since + self.cooldown()),
            _ => None,
        }
    }

    /// The share of the canary's units in the trickle: for `Split.probe`. As configured unless it had to be widened.
    pub fn probe(&self) -> Weight {
        match &self.stand {
            Stand::HalfOpen(probing) => probing.probe,
            _ => self.rules.probe,
        }
    }

    /// What crossed a limit lately while stable was as sick, in words.
    pub fn both_arms(&self) -> Option<&str> {
        self.both_arms.as_ref().map(|episode| episode.reason.as_str())
    }

    /// Whether stable fails so often that a run of failures on the canary must be judged here, and not open the latch by
    /// itself: at least half as often as the canary over the last 10 s, and at least every twentieth time.
    pub fn stable_sick(&self) -> bool {
        let Arms { canary, stable } = &self.windows.recent;
        stable.share().leads(Share::default(), SICK_PPM) && !stable.share().is_below_half_of(canary.share())
    }

    /// The number of units seen lately on the canary, if there is traffic and they are fewer than `min_units`: failures of
    /// that many suffice for a trip then.
    pub fn few_units(&self) -> Option<u32> {
        (1..self.rules.min_units).contains(&self.units_seen).then_some(self.units_seen)
    }

    /// Takes back one doubling of the cooldown after a long time without a trip.
    fn steady(&mut self, since: Time, now: Time) {
        if self.saved.level > 0 && now.since(since) >= self.cooldown().saturating_mul(STEADY_COOLDOWNS) {
            self.saved.level -= 1;
            self.stand = Stand::Closed { since: now };
        }
    }

    /// An open breaker: is what it waits for there?
    fn wait(&mut self, since: Time, waits: Waits, now: Time, measured: &Measured) -> Option<Turn> {
        let cooldown = self.cooldown();
        let probes = match waits {
            Waits::Person => return None,
            Waits::Cooldown if now.since(since) < cooldown => return None,
            Waits::Cooldown => self.saved.cause != Some(Cause::NoHealthyEndpoint),
            Waits::Endpoint { probes } => probes,
        };
        if !measured.healthy {
            return None;
        }
        if !probes {
            return Some(self.close(now, "an endpoint is healthy again".to_owned()));
        }
        let probe = self.rules.probe;
        let why = match waits {
            Waits::Cooldown => format!("cooldown of {} is over", Span(cooldown)),
            _ => "an endpoint is healthy again".to_owned(),
        };
        let started = measured.probes_started;
        let counts = Probing { since: now, probe, idle_since: now, started, under_way: 0, ended: 0, succeeded: 0 };
        self.enter(Stand::HalfOpen(counts), State::HalfOpen);
        Some(Turn::HalfOpen { probe, reason: format!("{why}: {probe} of the canary's units probe it") })
    }

    /// The first rule that is crossed to the canary's blame opens it; one that is not to its blame is told once.
    fn judge(&mut self, now: Time, measured: &Measured, waiting: u64, noun: Noun, turns: &mut Vec<Turn>) {
        if !measured.healthy && !measured.latched {
            let (cause, reason) = (Cause::NoHealthyEndpoint, "no healthy endpoint".to_owned());
            return turns.push(Turn::Trip(self.trip(now, cause, reason, false)));
        }
        let of_run = self.of_run(measured, noun);
        let crossed = of_run.into_iter().chain(self.crossed(noun, true));
        let no_answer = judge::no_answer(&self.rules, measured, waiting, &self.windows.recent.stable);
        let mut spared = None;
        for Crossed { cause, spared: is_spared, text } in crossed.chain(no_answer) {
            if !is_spared {
                let trip = self.trip(now, cause, text.to_string(), measured.latched);
                return turns.push(Turn::Trip(trip));
            }
            spared = spared.or(Some((cause, text)));
        }
        if measured.latched
            && let Some((_, text)) = &spared
        {
            self.since_run = None;
            turns.push(Turn::Spared { state: self.saved.state, reason: text.to_string() });
        }
        match (&mut self.both_arms, spared) {
            (_, None) => {}
            (Some(episode), Some(_)) => episode.last = now,
            (none, Some((cause, text))) => {
                let reason = text.to_string();
                *none = Some(Episode { reason: reason.clone(), last: now });
                turns.push(Turn::BothArms { cause, reason });
            }
        }
    }

    /// The rule on failures in a row, if it is crossed.
    fn of_run(&mut self, measured: &Measured, noun: Noun) -> Option<Crossed> {
        if measured.run == 0 && !measured.latched {
            self.since_run = None;
            return None;
        }
        let canary = match noun {
            Noun::Requests => &measured.canary.counts,
            Noun::Probes => &measured.probes.counts,
        };
        let since = self.since_run.get_or_insert_default();
        since.add(measured, canary);
        judge::run(&self.rules, measured, since, self.windows.recent.sides(noun))
    }

    /// The rules on windows that are crossed; without `floor` also by fewer requests than they ask for.
    fn crossed(&self, noun: Noun, floor: bool) -> impl Iterator<Item = Crossed> + use<> {
        let Breaker { rules, windows, .. } = self;
        let rate = rules.error_rate.as_ref().zip(windows.rate.as_ref());
        let rate = rate.and_then(|(rule, arms)| judge::rate(rules, rule, arms.sides(noun), floor));
        let latency = rules.latency.as_ref().zip(windows.latency.as_ref());
        let latency = latency.and_then(|(rule, arms)| judge::latency(rules, rule, arms.sides(noun), floor));
        rate.into_iter().chain(latency)
    }

    /// A half-open breaker that no rule has opened: do the probes suffice, or are there none?
    fn probed(&mut self, now: Time, measured: &Measured) -> Option<Turn> {
        let needed = u64::from(match self.rules.consecutive_errors {
            0 => SUCCESSES,
            limit => limit.clamp(SUCCESSES_MIN, SUCCESSES_MAX),
        });
        let (idle_max, cooldown) = (self.idle_max(), self.rules.cooldown);
        let judged = |window: Duration, arms: &Option<Arms>, floor: u64, since: Time| {
            arms.as_ref().is_none_or(|arms| arms.canary.share().whole >= floor)
                || now.since(since) >= window.min(cooldown)
        };
        let Stand::HalfOpen(probing) = &mut self.stand else { return None };
        probing.count(now, measured);
        let since = probing.since;
        let rate = self.rules.error_rate.as_ref();
        let rate_judged = rate.is_none_or(|rule| judged(rule.window, &self.windows.rate, rule.min_requests, since));
        let latency = self.rules.latency.as_ref();
        let latency_judged =
            latency.is_none_or(|rule| judged(rule.window, &self.windows.latency, rule.min_requests, since));
        if probing.succeeded >= needed && measured.run == 0 && rate_judged && latency_judged {
            let (succeeded, ended) = (probing.succeeded, probing.ended);
            if self.crossed(Noun::Probes, false).all(|crossed| crossed.spared) {
                return Some(self.close(now, format!("{succeeded} of {ended} probes succeeded")));
            }
            return None;
        }
        probing.widen(now, idle_max)
    }

    /// How long the trickle may be empty.
    fn idle_max(&self) -> Duration {
        self.rules.cooldown.saturating_mul(IDLE_COOLDOWNS).clamp(IDLE_MIN, IDLE_MAX)
    }

    /// Opens it.
    fn trip(&mut self, now: Time, cause: Cause, reason: String, latched: bool) -> Trip {
        let counts = cause != Cause::NoHealthyEndpoint;
        if counts {
            self.saved.trips = self.saved.trips.saturating_add(1);
            self.saved.level = (self.saved.level + 1).min(LEVEL_MAX);
            self.saved.rolled_back = self.rules.max_trips > 0 && self.saved.trips >= self.rules.max_trips;
        }
        // Half-open, something else has yet to be disproved, also after a restart.
        let probes = self.saved.state == State::HalfOpen;
        if counts || !probes {
            self.saved.cause = Some(cause);
        }
        self.saved.reason = Some(Arc::from(reason.as_str()));
        let waits = match (self.saved.rolled_back, counts) {
            (true, _) => Waits::Person,
            (false, true) => Waits::Cooldown,
            (false, false) => Waits::Endpoint { probes },
        };
        self.enter(Stand::Open { since: now, waits }, State::Open);
        let cooldown = (waits == Waits::Cooldown).then(|| self.cooldown());
        Trip { cause, reason, trips: self.saved.trips, rolled_back: self.saved.rolled_back, cooldown, latched }
    }

    fn close(&mut self, now: Time, reason: String) -> Turn {
        self.enter(Stand::Closed { since: now }, State::Closed);
        Turn::Closed { reason }
    }

    fn enter(&mut self, stand: Stand, state: State) {
        (self.stand, self.saved.state) = (stand, state);
        self.windows.clear();
        self.since_run = None;
        self.units_seen = 0;
    }

    /// The cooldown as it has grown; never shorter than configured.
    fn cooldown(&self) -> Duration {
        let plain = self.rules.cooldown;
        let grown = plain.saturating_mul(1 << self.saved.level.saturating_sub(1).min(LEVEL_MAX - 1));
        grown.min(self.rules.cooldown_max.max(plain))
    }
}

impl Probing {
    fn count(&mut self, now: Time, measured: &Measured) {
        let counts = &measured.probes.counts;
        let started = measured.probes_started.saturating_sub(self.started);
        if started > 0 || counts.ended > 0 {
            self.idle_since = now;
        }
        self.started = measured.probes_started;
        self.under_way = self.under_way.saturating_add(started).saturating_sub(counts.ended);
        self.ended = self.ended.saturating_add(counts.ended);
        // A client that left and a request that weir refused prove nothing, and both may have got no answer.
        let without_answer = counts.codes[CodeClass::None as usize];
        let wanting = counts.failures().saturating_add(counts.client_left).max(without_answer);
        self.succeeded = self.succeeded.saturating_add(counts.ended.saturating_sub(wanting));
    }

    /// Doubles the trickle if nobody has been in it for too long.
    fn widen(&mut self, now: Time, idle_max: Duration) -> Option<Turn> {
        let idle_max = if self.under_way > 0 { idle_max.max(IDLE_UNDER_WAY) } else { idle_max };
        if self.probe == Weight::FULL || now.since(self.idle_since) < idle_max {
            return None;
        }
        let doubled = self.probe.ppm().saturating_mul(2).max(1);
        self.probe = Weight::from_ppm(doubled).unwrap_or(Weight::FULL);
        // Whatever was under way all that time is not waited for again.
        (self.idle_since, self.under_way) = (now, 0);
        let probe = self.probe;
        let reason = format!("no probe for {}: {probe} of the canary's units probe it", Span(idle_max));
        Some(Turn::ProbeWidened { probe, reason })
    }
}

impl Windows {
    fn new(rules: &Rules) -> Windows {
        let arms = |window| Arms { canary: Ring::new(window), stable: Ring::new(window) };
        Windows {
            recent: arms(RECENT),
            rate: rules.error_rate.as_ref().map(|rule| arms(rule.window)),
            latency: rules.latency.as_ref().map(|rule| arms(rule.window)),
            waiting: rules.no_answer.as_ref().map(|rule| Waiting::new(rule.after)),
        }
    }

    fn clear(&mut self) {
        for arms in [Some(&mut self.recent), self.rate.as_mut(), self.latency.as_mut()].into_iter().flatten() {
            arms.canary.clear();
            arms.stable.clear();
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.clear();
        }
    }

    /// Takes one look in. Returns how many requests have waited too long; see `Waiting::push`.
    fn push(&mut self, now: Time, measured: &Measured, canary: &Happened) -> u64 {
        let units_seen = measured.units_seen;
        let units = canary.failures.as_deref().or(measured.canary.failures.as_deref());
        let slow = canary.slow.as_deref().or(measured.canary.slow.as_deref());
        let stable = &measured.stable;
        self.recent.canary.push(now, &failures(canary));
        self.recent.stable.push(now, &failures(stable));
        if let Some(arms) = &mut self.rate {
            arms.canary.push(now, &More { units, units_seen, ..failures(canary) });
            arms.stable.push(now, &failures(stable));
        }
        if let Some(arms) = &mut self.latency {
            let part = slow.map_or(0, |units| units[0].iter().copied().map(u64::from).sum());
            let times = &canary.counts.first_byte;
            let share = Share { part, whole: times.count() };
            arms.canary.push(now, &More { share, units: slow, times: Some(times), units_seen });
            let times = &stable.counts.first_byte;
            let share = Share { part: 0, whole: times.count() };
            arms.stable.push(now, &More { share, times: Some(times), ..More::default() });
        }
        let Measured { started, answered, unanswered, .. } = *measured;
        let reading = Reading { time: now, started, answered, unanswered };
        self.waiting.as_mut().map_or(0, |waiting| waiting.push(reading))
    }
}

impl Arms {
    fn sides(&self, noun: Noun) -> Sides<'_> {
        Sides { canary: &self.canary, stable: &self.stable, noun }
    }
}

/// Requests that ended, and how many of them failed.
fn failures(happened: &Happened) -> More<'static> {
    let share = Share { part: happened.counts.failures(), whole: happened.counts.ended };
    More { share, ..More::default() }
}
