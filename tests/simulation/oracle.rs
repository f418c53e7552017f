//! What must hold, kept apart from the code that is judged by it: its own small memory of what has happened.

use std::time::Duration;
use weir::clock::Time;
use weir::rollout::breaker::{Cause, Rules, STEADY_COOLDOWNS, State, Trip, Turn};

/// The judge of one history.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Set by a trip that rolled back, taken away by a person only.
    pub latched: bool,
    /// Trips since the last revival.
    trips: u32,
    /// When it opened, and the earliest moment at which it may half-open.
    opened: Option<(Time, Time)>,
    last: Option<Last>,
}

/// The last trip that counted.
#[derive(Debug)]
struct Last {
    cooldown: Duration,
    /// Since when it has been closed, if it is.
    closed: Option<Time>,
    /// Whether it has ever been closed for long since.
    steady: bool,
}

impl Last {
    fn leaves(&mut self, now: Time) {
        let long = self.cooldown.saturating_mul(STEADY_COOLDOWNS);
        self.steady |= self.closed.take().is_some_and(|since| now.since(since) >= long);
    }
}

impl Oracle {
    /// A turn must be one that may follow.
    pub fn turned(&mut self, now: Time, rules: &Rules, before: State, turn: &Turn, healthy: bool) {
        assert!(!self.latched, "{turn:?} of a rollout that only a person may wake");
        match turn {
            Turn::Trip(trip) => self.tripped(now, rules, before, trip),
            Turn::HalfOpen { .. } => {
                let (_, earliest) = self.opened.expect("only an open breaker half-opens");
                assert!(before == State::Open && now >= earliest && healthy, "{turn:?} from {before:?}");
            }
            Turn::Closed { .. } => {
                assert!(before != State::Closed && healthy, "{turn:?} from {before:?}");
                self.closed(now);
            }
            Turn::ProbeWidened { .. } => assert_eq!(before, State::HalfOpen, "{turn:?}"),
            Turn::Spared { state, .. } => assert!(rules.spares_both && *state == before, "{turn:?} from {before:?}"),
            Turn::BothArms { .. } => assert!(rules.spares_both && before != State::Open, "{turn:?} from {before:?}"),
        }
    }

    fn tripped(&mut self, now: Time, rules: &Rules, before: State, trip: &Trip) {
        assert_ne!(before, State::Open, "{trip:?}");
        assert!(!trip.reason.is_empty() && trip.reason.lines().count() == 1, "{trip:?}");
        if let Some(last) = &mut self.last {
            last.leaves(now);
        }
        if trip.cause == Cause::NoHealthyEndpoint {
            assert_eq!((trip.trips, trip.rolled_back, trip.cooldown), (self.trips, false, None));
            self.opened = Some((now, now));
            return;
        }
        self.trips += 1;
        assert_eq!(trip.trips, self.trips);
        assert_eq!(trip.rolled_back, rules.max_trips > 0 && self.trips >= rules.max_trips, "{trip:?}");
        assert_eq!(trip.cooldown.is_none(), trip.rolled_back, "{trip:?}");
        self.latched = trip.rolled_back;
        let Some(cooldown) = trip.cooldown else { return };
        let most = rules.cooldown_max.max(rules.cooldown);
        match &self.last {
            None => assert_eq!(cooldown, rules.cooldown, "the first one"),
            Some(last) => {
                let doubled = last.cooldown.saturating_mul(2).min(most);
                assert!(cooldown <= doubled && cooldown >= rules.cooldown, "{cooldown:?} after {last:?}");
                assert!(cooldown == doubled || last.steady, "{cooldown:?} after {last:?}");
            }
        }
        self.last = Some(Last { cooldown, closed: None, steady: false });
        self.opened = Some((now, now + cooldown));
    }

    /// It is closed from now on.
    pub fn closed(&mut self, now: Time) {
        self.opened = None;
        if let Some(last) = &mut self.last {
            last.closed = Some(now);
        }
    }

    /// A person revived it.
    pub fn revived(&mut self) {
        *self = Oracle::default();
    }

    /// The process began anew: an open breaker has a full cooldown before it, of the configured length at least.
    pub fn restarted(&mut self, now: Time, state: State, cooldown: Duration) {
        if let Some(last) = &mut self.last {
            last.leaves(now);
            last.closed = (state == State::Closed).then_some(now);
        }
        if state != State::Closed {
            let least = self.last.as_ref().filter(|last| !last.steady).map_or(cooldown, |last| last.cooldown);
            self.opened = Some((now, now + least));
        }
    }
}
