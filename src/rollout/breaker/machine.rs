//! The states of a breaker and how one leads to the next.
//!
//! It refuses to know latches, clocks and records: the engine hands in what was measured and carries out the turns.

use super::{Cause, Measured, Rules, State};
use crate::clock::Time;
use crate::rollout::bucket::Weight;
use std::sync::Arc;
use std::time::Duration;

/// The breaker of one rollout.
#[derive(Clone, Debug)]
pub struct Breaker {
    rules: Rules,
    saved: Saved,
    since: Time,
}

/// What is stored of a breaker. `default` is that of a fresh rollout: closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Where it stands.
    pub state: State,
    /// Trips that count towards `max_trips`, since the last revival.
    pub trips: u32,
    /// How the cooldown has grown: 0 is no trip lately, 1 a plain cooldown, and each one more doubles it.
    pub level: u32,
    /// Whether `max_trips` is reached: it stays open until a person revives the rollout.
    pub rolled_back: bool,
    /// What tripped it last.
    pub cause: Option<Cause>,
    /// That trip in words.
    pub reason: Option<Arc<str>>,
}

/// A change of a breaker, to be carried out by the engine. `saved()` has changed with all but the last two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It opened, from closed or half-open: everything goes to stable.
    Trip(Trip),
    /// The cooldown is over: a trickle of that share of the canary's units probes it.
    HalfOpen {
        /// The share.
        probe: Weight,
        /// Why, in words.
        reason: String,
    },
    /// The split flows again: probes succeeded, an endpoint is healthy again, or a person revived it.
    Closed {
        /// Why, in words.
        reason: String,
    },
    /// No canary unit fell into the trickle: it is wider now. The state stays half-open.
    ProbeWidened {
        /// The share.
        probe: Weight,
        /// Why, in words.
        reason: String,
    },
    /// The canary would have tripped, but stable is as sick; once per episode. The state stays.
    BothArms {
        /// The rule that was crossed.
        cause: Cause,
        /// What crossed it, in words.
        reason: String,
    },
}

impl Turn {
    /// The state that the latch must show from now on: `Open` is the open bit alone, `HalfOpen` both bits, `Closed` none.
    /// None if it stays as it is.
    pub fn state(&self) -> Option<State> {
        match self {
            Turn::Trip(_) => Some(State::Open),
            Turn::HalfOpen { .. } => Some(State::HalfOpen),
            Turn::Closed { .. } => Some(State::Closed),
            Turn::ProbeWidened { .. } | Turn::BothArms { .. } => None,
        }
    }

    /// Why, in one line.
    pub fn reason(&self) -> &str {
        match self {
            Turn::Trip(Trip { reason, .. })
            | Turn::HalfOpen { reason, .. }
            | Turn::Closed { reason }
            | Turn::ProbeWidened { reason, .. }
            | Turn::BothArms { reason, .. } => reason,
        }
    }
}

/// A trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trip {
    /// What tripped it.
    pub cause: Cause,
    /// What crossed which limit with which numbers, in one line.
    pub reason: String,
    /// Trips that count towards `max_trips`, this one included if it does.
    pub trips: u32,
    /// Whether this is the trip that reached `max_trips`: the rollout is rolled back until revived.
    pub rolled_back: bool,
    /// Time until it half-opens; none if it waits for a person, or for a healthy endpoint.
    pub cooldown: Option<Duration>,
    /// Whether the latch had opened by itself before: the circuit is open already.
    pub latched: bool,
}

impl Breaker {
    /// The breaker of a rollout that was saved like that, at the start of the process or of the rollout. One that was
    /// saved open or half-open starts open with a full cooldown: the first turn comes from `look`, so the caller sets
    /// the latch to `state()`.
    pub fn new(rules: Rules, saved: Saved, now: Time) -> Breaker {
        Breaker { rules, saved, since: now }
    }

    /// Judges what happened since the last look; called every 25 ms. Most looks come to nothing and allocate nothing.
    pub fn look(&mut self, _now: Time, _measured: &Measured) -> Vec<Turn> {
        Vec::new()
    }

    /// A person wants the split to flow again: closes it, forgets its trips and the growth of its cooldown. None if it is
    /// closed already.
    pub fn revive(&mut self, _now: Time) -> Option<Turn> {
        None
    }

    /// Goes on under other rules. State and trips stay; a running cooldown gets the new length.
    pub fn reconfigure(&mut self, rules: Rules, _now: Time) {
        self.rules = rules;
    }

    /// What must be stored.
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
        (self.saved.state == State::Open).then(|| self.since + self.rules.cooldown)
    }

    /// The share of the canary's units in the trickle: for `Split.probe`. As configured unless it had to be widened.
    pub fn probe(&self) -> Weight {
        self.rules.probe
    }

    /// What crossed a limit lately while stable was as sick, in words.
    pub fn both_arms(&self) -> Option<&str> {
        None
    }

    /// The number of units seen lately on the canary, if there is traffic and they are fewer than `min_units`: failures of
    /// that many suffice for a trip then.
    pub fn few_units(&self) -> Option<u32> {
        None
    }
}
