//! Who gets which arm, and why: the printed precedence as one function.
//!
//! The data plane, `explain`, `/flags` and the command line all call `decide`, so they cannot disagree. It does not know
//! what a request is: an `Asker` answers what it asks. It allocates nothing of its own.

use super::Arm;
use super::breaker::State;
use super::bucket::{Bucketer, Weight};
use super::cohort::{COHORTS_MAX, Cohort};
use std::borrow::Cow;
use std::sync::Arc;

/// Why an arm was chosen, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No rollout applies on this route.
    Unmatched,
    /// The rollout is killed, by an operator or the config.
    Kill,
    /// A signed token or a trusted peer named the arm.
    Forced,
    /// The rollout was rolled back and stays so until revived.
    RolledBack,
    /// The rollout has not started.
    Pending,
    /// The breaker is open.
    Breaker,
    /// The breaker is half-open and this unit belongs to the trickle.
    Probe,
    /// The rollout that this one requires did not put the unit on its canary.
    Requires,
    /// A cohort with `exclude` has the unit.
    Excluded,
    /// The cohort of that index admitted the unit.
    Cohort(u8),
    /// The request has no unit.
    NoUnit,
    /// The bucket decided, either way.
    Bucket,
}

impl Reason {
    /// Reasons that are no cohort, in slot order.
    pub const FIXED: [Reason; 11] = [
        Reason::Unmatched,
        Reason::Kill,
        Reason::Forced,
        Reason::RolledBack,
        Reason::Pending,
        Reason::Breaker,
        Reason::Probe,
        Reason::Requires,
        Reason::Excluded,
        Reason::NoUnit,
        Reason::Bucket,
    ];
    /// How many slots `slot` may return.
    pub const SLOTS: usize = Self::FIXED.len() + COHORTS_MAX;

    /// A dense index for counting: the fixed reasons first, then one per cohort.
    #[inline]
    pub const fn slot(self) -> usize {
        match self {
            Reason::Unmatched => 0,
            Reason::Kill => 1,
            Reason::Forced => 2,
            Reason::RolledBack => 3,
            Reason::Pending => 4,
            Reason::Breaker => 5,
            Reason::Probe => 6,
            Reason::Requires => 7,
            Reason::Excluded => 8,
            Reason::NoUnit => 9,
            Reason::Bucket => 10,
            Reason::Cohort(index) => Self::FIXED.len() + index as usize,
        }
    }

    /// The word of the contract: `kill`, `forced`, ..., `cohort:<name>`; cohort names come from the split.
    pub fn word(self, split: &Split) -> Cow<'static, str> {
        self.word_with(|index| split.cohorts.get(index).map(|cohort| &*cohort.name))
    }

    /// `word`, where cohort names come from elsewhere.
    pub fn word_with<'a>(self, cohort_name: impl FnOnce(usize) -> Option<&'a str>) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Reason::Unmatched => "unmatched",
            Reason::Kill => "kill",
            Reason::Forced => "forced",
            Reason::RolledBack => "rolled_back",
            Reason::Pending => "pending",
            Reason::Breaker => "breaker",
            Reason::Probe => "probe",
            Reason::Requires => "requires",
            Reason::Excluded => "excluded",
            Reason::NoUnit => "no_unit",
            Reason::Bucket => "bucket",
            Reason::Cohort(index) => match cohort_name(usize::from(index)) {
                Some(name) => return Cow::Owned(format!("cohort:{name}")),
                None => "cohort",
            },
        })
    }
}

/// The arm a request gets and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The arm.
    pub arm: Arm,
    /// Why.
    pub reason: Reason,
}

/// Switches that act at once, as bits: kill of the rollout (0), breaker open (1), half-open (2, beside 1), the era of the
/// breaker (3 to 15), kill of cohort n (16 + n).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Switches(u64);

impl Switches {
    /// Nothing is switched.
    pub const NONE: Switches = Switches(0);
    /// The rollout is killed.
    pub const KILLED: Switches = Switches(1);
    /// The breaker has opened the circuit.
    pub const OPEN: Switches = Switches(1 << 1);
    /// The breaker lets a trickle through an open circuit.
    pub const HALF_OPEN: Switches = Switches(Self::OPEN.0 | 1 << 2);

    /// The kill of one cohort; none beyond `COHORTS_MAX`.
    pub const fn cohort(index: usize) -> Option<Switches> {
        if index < COHORTS_MAX { Some(Switches(1 << (16 + index))) } else { None }
    }

    /// From the form a latch keeps.
    pub const fn from_bits(bits: u64) -> Self {
        Switches(bits)
    }

    /// The form a latch keeps.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The kills alone, without what the breaker says.
    pub const fn kills(self) -> Switches {
        Switches(self.0 & !BREAKER_BITS)
    }

    /// What is on in either.
    pub const fn with(self, other: Switches) -> Switches {
        Switches(self.0 | other.0)
    }

    /// Where the breaker stands.
    #[inline]
    pub const fn state(self) -> State {
        if self.0 & Self::OPEN.0 == 0 {
            State::Closed
        } else if self.0 & Self::HALF_OPEN.0 == Self::HALF_OPEN.0 {
            State::HalfOpen
        } else {
            State::Open
        }
    }

    /// Which state of the breaker this is, counted from the start of the process: a request that started under another one
    /// says nothing of this one. Begins again after 8,192 states, which no request outlives by chance.
    #[inline]
    pub const fn era(self) -> u16 {
        ((self.0 & ERA_BITS) >> ERA_SHIFT) as u16
    }

    /// The same kills with the breaker in that state, an era later.
    pub const fn moved_to(self, state: State) -> Switches {
        let era = ((self.era() as u64 + 1) << ERA_SHIFT) & ERA_BITS;
        let state = match state {
            State::Closed => 0,
            State::Open => Self::OPEN.0,
            State::HalfOpen => Self::HALF_OPEN.0,
        };
        Switches(self.kills().0 | era | state)
    }

    /// The same with the circuit open and no trickle through it, in the same era.
    pub const fn opened(self) -> Switches {
        Switches((self.0 & !Self::HALF_OPEN.0) | Self::OPEN.0)
    }

    /// Whether the rollout is killed.
    pub const fn killed(self) -> bool {
        self.0 & Self::KILLED.0 != 0
    }

    /// Whether the cohort of that index is killed.
    pub const fn cohort_killed(self, index: usize) -> bool {
        index < COHORTS_MAX && self.0 & (1 << (16 + index)) != 0
    }
}

const ERA_SHIFT: u32 = 3;
const ERA_BITS: u64 = 0xfff8;
const BREAKER_BITS: u64 = ERA_BITS | Switches::HALF_OPEN.0;

/// Where a rollout stands in its life, as far as a decision must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The split flows.
    Serving,
    /// Not started: stable.
    Pending,
    /// Rolled back: stable until revived.
    RolledBack,
}

/// One rollout as a decision sees it.
#[derive(Clone, Debug)]
pub struct Split {
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands.
    pub phase: Phase,
    /// The arm's own bucketing.
    pub bucketer: Bucketer,
    /// Share of units on the canary.
    pub weight: Weight,
    /// Its cohorts; at most `COHORTS_MAX`, the index is the one in `Reason::Cohort` and `Switches`.
    pub cohorts: Vec<Cohort>,
    /// Index of the rollout whose canary a unit must be on to be eligible; never forms a circle.
    pub requires: Option<usize>,
    /// The trickle of a half-open breaker: its bucketing and its share of the canary's units. At 100 % those without a unit
    /// belong to it too. Without a trickle nobody probes.
    pub probe: Option<(Bucketer, Weight)>,
}

impl Split {
    /// Every reason a decision about this rollout can have, for those who read counts by reason.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        let cohorts = (0_u8..).zip(self.cohorts.iter().take(COHORTS_MAX));
        Reason::FIXED.into_iter().chain(cohorts.map(|(index, _)| Reason::Cohort(index)))
    }
}

/// What a decision asks about the request at hand. `rollout` is the index of the split.
pub trait Asker {
    /// The unit for that rollout: the first present, non-empty source.
    fn unit(&self, rollout: usize) -> Option<Cow<'_, str>>;
    /// A request header by lower-case name.
    fn header(&self, name: &str) -> Option<Cow<'_, str>>;
    /// A cookie by name.
    fn cookie(&self, name: &str) -> Option<Cow<'_, str>>;
    /// The arm that a valid token or a trusted peer forces.
    fn forced(&self, rollout: usize) -> Option<Arm>;
    /// The rollout's switches.
    fn switches(&self, rollout: usize) -> Switches;
}

/// The decision of rollout `index` for one request, by the first of these that applies:
///
/// | reason | arm | when |
/// |---|---|---|
/// | `unmatched` | stable | there is no such rollout |
/// | `kill` | stable | it is killed |
/// | `forced` | the one named | a token or a trusted peer names an arm |
/// | `rolled_back`, `pending` | stable | it does not serve |
/// | `breaker` | stable | its breaker is open, or half-open and the request is no probe |
/// | `probe` | canary | its breaker is half-open, what follows says canary, and the unit is in the trickle |
/// | `requires` | stable | the rollout it requires has this request on stable |
/// | `excluded` | stable | a cohort with `exclude` has it |
/// | `cohort:<name>` | canary | a cohort admits it; the first in config order |
/// | `no_unit` | stable | nobody is asking |
/// | `bucket` | either | the unit's bucket against the weight |
///
/// A cohort that is not `enabled` neither admits nor excludes. The run-time kill of a cohort stops it admitting, after
/// which its members go by their buckets; it does not stop it excluding, because a kill never puts anybody on the canary.
#[inline]
pub fn decide<A: Asker>(splits: &[Split], index: usize, asker: &A) -> Decision {
    // A chain without circles is shorter than the list, so the bound only ends what the config should have refused.
    decide_within(splits, index, asker, splits.len())
}

fn decide_within<A: Asker>(splits: &[Split], index: usize, asker: &A, chain_left: usize) -> Decision {
    let Some(split) = splits.get(index) else { return stable(Reason::Unmatched) };
    let switches = asker.switches(index);
    if switches.killed() {
        return stable(Reason::Kill);
    }
    if let Some(arm) = asker.forced(index) {
        return Decision { arm, reason: Reason::Forced };
    }
    match split.phase {
        Phase::Serving => {}
        Phase::RolledBack => return stable(Reason::RolledBack),
        Phase::Pending => return stable(Reason::Pending),
    }
    match switches.state() {
        State::Closed => by_split(splits, index, split, switches, asker, chain_left),
        State::Open => stable(Reason::Breaker),
        State::HalfOpen if !in_trickle(index, split, asker) => stable(Reason::Breaker),
        State::HalfOpen => match by_split(splits, index, split, switches, asker, chain_left).arm {
            Arm::Canary => canary(Reason::Probe),
            Arm::Stable => stable(Reason::Breaker),
        },
    }
}

/// Whether a request that got stable for the reason `breaker` would be on the canary if the circuit were closed: by
/// everything that comes after the breaker in the order of reasons.
pub fn is_diverted<A: Asker>(splits: &[Split], index: usize, asker: &A) -> bool {
    let Some(split) = splits.get(index) else { return false };
    by_split(splits, index, split, asker.switches(index), asker, splits.len()).arm == Arm::Canary
}

/// Whether a request belongs to those that probe the canary, if it would be there at all.
fn in_trickle<A: Asker>(index: usize, split: &Split, asker: &A) -> bool {
    let Some((bucketer, share)) = &split.probe else { return false };
    let has_unit = |unit: &Cow<'_, str>| !unit.is_empty();
    *share == Weight::FULL || asker.unit(index).filter(has_unit).is_some_and(|unit| bucketer.admits(&unit, *share))
}

/// What the rollout itself says while nothing stands in its way.
#[inline]
fn by_split<A: Asker>(
    splits: &[Split],
    index: usize,
    split: &Split,
    switches: Switches,
    asker: &A,
    chain_left: usize,
) -> Decision {
    if let Some(required) = split.requires {
        let eligible = chain_left > 0 && decide_within(splits, required, asker, chain_left - 1).arm == Arm::Canary;
        if !eligible {
            return stable(Reason::Requires);
        }
    }
    let unit = asker.unit(index);
    let unit = unit.as_deref().filter(|unit| !unit.is_empty());
    if let Some(decision) = by_cohort(&split.cohorts, switches, unit, asker) {
        return decision;
    }
    match unit {
        None => stable(Reason::NoUnit),
        Some(unit) if split.bucketer.admits(unit, split.weight) => canary(Reason::Bucket),
        Some(_) => stable(Reason::Bucket),
    }
}

#[inline]
fn by_cohort<A: Asker>(cohorts: &[Cohort], switches: Switches, unit: Option<&str>, asker: &A) -> Option<Decision> {
    let has = |cohort: &Cohort| cohort.enabled && cohort.contains(unit, asker);
    if cohorts.iter().any(|cohort| cohort.exclude && has(cohort)) {
        return Some(stable(Reason::Excluded));
    }
    let admits = |index: u8, cohort: &Cohort| !cohort.exclude && !switches.cohort_killed(index.into()) && has(cohort);
    let mut including = (0_u8..).zip(cohorts.iter().take(COHORTS_MAX));
    including.find(|&(index, cohort)| admits(index, cohort)).map(|(index, _)| canary(Reason::Cohort(index)))
}

const fn stable(reason: Reason) -> Decision {
    Decision { arm: Arm::Stable, reason }
}

const fn canary(reason: Reason) -> Decision {
    Decision { arm: Arm::Canary, reason }
}

/// An asker that is no request: one unit for all rollouts, with the headers, cookies and switches it is given. Nothing is
/// forced. For `explain`, `/flags` and the command line.
#[derive(Clone, Debug, Default)]
pub struct UnitAsker<'a> {
    unit: Option<Cow<'a, str>>,
    units: Vec<Option<String>>,
    headers: Vec<(String, Cow<'a, str>)>,
    cookies: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    forced: Vec<(usize, Arm)>,
    switches: Vec<Switches>,
}

impl<'a> UnitAsker<'a> {
    /// Asks for that unit; an empty one is none. `default` asks without a unit.
    pub fn of(unit: impl Into<Cow<'a, str>>) -> Self {
        UnitAsker { unit: Some(unit.into()), ..UnitAsker::default() }
    }

    /// With the unit that each rollout finds by itself, by index; they count where the asker has none for all.
    #[must_use]
    pub fn with_units(mut self, units: impl IntoIterator<Item = Option<String>>) -> Self {
        self.units = units.into_iter().collect();
        self
    }

    /// With that header; its name is matched without case.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// With that cookie; its name is matched as it is.
    #[must_use]
    pub fn with_cookie(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) -> Self {
        self.cookies.push((name.into(), value.into()));
        self
    }

    /// With the arms that are forced on it, each with the rollout's index.
    #[must_use]
    pub fn with_forced(mut self, forced: impl IntoIterator<Item = (usize, Arm)>) -> Self {
        self.forced = forced.into_iter().collect();
        self
    }

    /// With the switches of all rollouts by index; those beyond the list have nothing switched.
    #[must_use]
    pub fn with_switches(mut self, switches: impl IntoIterator<Item = Switches>) -> Self {
        self.switches = switches.into_iter().collect();
        self
    }
}

impl Asker for UnitAsker<'_> {
    fn unit(&self, rollout: usize) -> Option<Cow<'_, str>> {
        let own = || self.units.get(rollout)?.as_deref();
        self.unit.as_deref().or_else(own).filter(|unit| !unit.is_empty()).map(Cow::Borrowed)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.headers.iter().find(|(sent, _)| sent == name).map(|(_, value)| Cow::Borrowed(&**value))
    }

    fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.cookies.iter().find(|(sent, _)| sent == name).map(|(_, value)| Cow::Borrowed(&**value))
    }

    fn forced(&self, rollout: usize) -> Option<Arm> {
        self.forced.iter().find(|(index, _)| *index == rollout).map(|(_, arm)| *arm)
    }

    fn switches(&self, rollout: usize) -> Switches {
        self.switches.get(rollout).copied().unwrap_or(Switches::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(name: &str, percent: u32) -> Split {
        Split {
            name: Arc::from(name),
            phase: Phase::Serving,
            bucketer: Bucketer::native(name),
            weight: Weight::from_percent(percent).expect("at most 100"),
            cohorts: Vec::new(),
            requires: None,
            probe: None,
        }
    }

    fn listing(name: &str, units: &[&str]) -> Cohort {
        Cohort { users: Arc::new(units.iter().collect()), ..Cohort::new(name) }
    }

    #[test]
    fn a_rollout_that_is_not_there_is_unmatched() {
        assert_eq!(decide(&[], 0, &UnitAsker::of("ann")), stable(Reason::Unmatched));
    }

    #[test]
    fn a_chain_of_requirements_holds_from_end_to_end_and_a_circle_ends_on_stable() {
        let mut splits: Vec<Split> = (0..50).map(|index| split(&format!("r{index}"), 100)).collect();
        for (before, split) in splits[1..].iter_mut().enumerate() {
            split.requires = Some(before);
        }
        let asker = UnitAsker::of("ann");
        assert_eq!(decide(&splits, 49, &asker), canary(Reason::Bucket));
        let killed_first = asker.clone().with_switches([Switches::KILLED]);
        assert_eq!(decide(&splits, 49, &killed_first), stable(Reason::Requires));
        splits[0].requires = Some(49);
        assert_eq!(decide(&splits, 49, &asker), stable(Reason::Requires));
        splits[0].requires = Some(50);
        assert_eq!(decide(&splits, 0, &asker), stable(Reason::Requires));
    }

    #[test]
    fn the_kill_of_a_cohort_ends_its_admission_but_not_its_exclusion() {
        let mut split = split("chat", 0);
        split.cohorts = vec![listing("beta", &["ann"]), Cohort { exclude: true, ..listing("vip", &["ann", "bob"]) }];
        let ask = |split: &Split, unit: &str, killed: usize| {
            let switches = Switches::cohort(killed).expect("a cohort's bit");
            decide(std::slice::from_ref(split), 0, &UnitAsker::of(unit.to_owned()).with_switches([switches]))
        };
        assert_eq!(ask(&split, "ann", 1), stable(Reason::Excluded));
        split.weight = Weight::FULL;
        assert_eq!(ask(&split, "bob", 1), stable(Reason::Excluded));
        split.cohorts[1].enabled = false;
        assert_eq!(ask(&split, "ann", 1), canary(Reason::Cohort(0)));
        assert_eq!(ask(&split, "ann", 0), canary(Reason::Bucket));
        assert_eq!(ask(&split, "bob", 1), canary(Reason::Bucket));
    }

    #[test]
    fn without_a_unit_nobody_is_bucketed_even_at_full_weight() {
        let splits = [split("chat", 100)];
        assert_eq!(decide(&splits, 0, &UnitAsker::default()), stable(Reason::NoUnit));
        assert_eq!(decide(&splits, 0, &UnitAsker::of("")), stable(Reason::NoUnit));
    }

    #[test]
    fn reasons_have_distinct_slots_and_words() {
        let mut split = split("chat", 10);
        split.cohorts = (0..COHORTS_MAX).map(|index| Cohort::new(format!("c{index}"))).collect();
        let mut slots: Vec<usize> = split.reasons().map(Reason::slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..Reason::SLOTS).collect::<Vec<_>>());
        let mut words: Vec<_> = split.reasons().map(|reason| reason.word(&split)).collect();
        assert!(words.contains(&Cow::Borrowed("rolled_back")) && words.contains(&Cow::Borrowed("cohort:c47")));
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::SLOTS);
    }
}
