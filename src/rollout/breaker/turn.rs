//! What leaves a breaker: its turns, to be carried out by the engine, and what is stored of it.

use super::{Cause, State};
use crate::rollout::bucket::Weight;
use std::sync::Arc;
use std::time::Duration;

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

/// A change of a breaker, to be carried out by the engine. `saved()` has changed with the first three alone.
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
    /// The latch has opened by itself, but stable is as sick: the latch goes back to the state that the breaker never left.
    /// Nothing to be recorded or told; `BothArms` tells it, once.
    Spared {
        /// That state.
        state: State,
        /// What crossed which limit, in words.
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
            Turn::Spared { state, .. } => Some(*state),
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
            | Turn::Spared { reason, .. }
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
