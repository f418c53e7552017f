//! What was counted of a rollout in one stretch of time, as plain data: what the history on disk is made of.
//!
//! Everything in it adds up, so the sample of a long stretch is the sum of those of its parts, and a quantile over any span is
//! that of the merged histogram. Taken by the collector, kept by the archive, read by reviews.

use super::Arm;
use super::breaker;
use super::bucket::Weight;
use super::histogram::Histogram;
use super::report::State;
use super::vital::Vital;
use super::window::{Counted, Counts};
use crate::clock::Wall;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Which requests of a rollout were counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Those of an arm on a route; forced ones are in none.
    Route(Arm, Arc<str>),
    /// Of those, the ones that a cohort decided.
    Cohort(Arm, Arc<str>),
    /// Those that probed the canary.
    Probes,
    /// Copies of stable's requests that the canary got.
    Shadow,
}

/// A number that is counted besides the ends of requests.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// Requests that stable answered in the canary's place.
    Fallbacks,
    /// Requests that the breaker kept from the canary.
    Diverted,
    /// What a signal counts of an arm.
    Signal(Arm, Arc<str>),
}

/// Everything that was counted of a rollout in some time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums {
    /// Requests that ended.
    pub requests: BTreeMap<Key, Counts>,
    /// Numbers besides.
    pub numbers: BTreeMap<Number, u64>,
    /// Reports of web vitals.
    pub vitals: BTreeMap<(Arm, Vital), Histogram>,
}

/// One stay of a rollout in a stage. The same stage anew is another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Visit {
    /// How many stages have begun.
    pub number: u64,
    /// When it began. A database that was lost lets the numbers begin anew; the two together are never the same again.
    pub entered_at: Wall,
}

/// How a rollout stood at the end of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stood {
    /// Where it was in its life.
    pub state: State,
    /// Its stage.
    pub stage: Option<Arc<str>>,
    /// The weight in force, kill and breaker aside.
    pub weight: Weight,
    /// Whether it was killed.
    pub killed: bool,
    /// Where its breaker stood.
    pub breaker: breaker::State,
    /// Requests under way, by arm index.
    pub in_flight: [u64; 2],
}

/// What was counted of a rollout in one stretch of time, within one stay in a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The stay in a stage that it belongs to.
    pub visit: Visit,
    /// When it ended.
    pub ended_at: Wall,
    /// How much time it covers.
    pub span: Duration,
    /// How the rollout stood at its end.
    pub stood: Stood,
    /// What was counted.
    pub sums: Sums,
}

/// What weir itself took in one stretch of time, and what the queries said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// When the stretch ended.
    pub ended_at: Wall,
    /// How much time it covers.
    pub span: Duration,
    /// Resident memory in bytes; none where the system does not say.
    pub memory: Option<Gauge>,
    /// CPU time in microseconds.
    pub cpu_us: u64,
    /// By name of a query; one that said nothing is not there.
    pub queries: BTreeMap<Arc<str>, Gauge>,
}

/// A value that goes up and down, over a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gauge {
    /// The lowest.
    pub min: f64,
    /// The last.
    pub last: f64,
    /// The highest.
    pub max: f64,
}

impl Sums {
    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.numbers.is_empty() && self.vitals.is_empty()
    }

    /// Counts everything that `other` counted.
    pub fn add(&mut self, other: &Sums) {
        add_each(&mut self.requests, &other.requests);
        add_each(&mut self.numbers, &other.numbers);
        add_each(&mut self.vitals, &other.vitals);
    }

    /// All requests of an arm, over its routes.
    pub fn arm(&self, wanted: Arm) -> Counts {
        let own = self.requests.iter().filter(|(key, _)| matches!(key, Key::Route(arm, _) if *arm == wanted));
        Counts::total(own.map(|(_, counts)| counts))
    }
}

impl Sample {
    /// Takes in the sample that follows in the same stay.
    pub fn then(&mut self, later: Sample) {
        self.ended_at = later.ended_at;
        self.span += later.span;
        self.stood = later.stood;
        self.sums.add(&later.sums);
    }
}

impl Resources {
    /// Takes in what follows.
    pub fn then(&mut self, later: Resources) {
        self.ended_at = later.ended_at;
        self.span += later.span;
        self.cpu_us = self.cpu_us.saturating_add(later.cpu_us);
        self.memory = match (self.memory, later.memory) {
            (Some(before), Some(after)) => Some(before.then(after)),
            (before, after) => after.or(before),
        };
        for (query, after) in later.queries {
            self.queries.entry(query).and_modify(|before| *before = before.then(after)).or_insert(after);
        }
    }
}

impl Gauge {
    /// One reading.
    pub const fn of(value: f64) -> Gauge {
        Gauge { min: value, last: value, max: value }
    }

    /// This stretch and the one that follows as one.
    #[must_use]
    pub fn then(self, later: Gauge) -> Gauge {
        Gauge { min: self.min.min(later.min), last: later.last, max: self.max.max(later.max) }
    }
}

fn add_each<K: Ord + Clone, T: Counted>(sums: &mut BTreeMap<K, T>, others: &BTreeMap<K, T>) {
    for (key, other) in others {
        match sums.get_mut(key) {
            Some(sum) => sum.add(other),
            None => drop(sums.insert(key.clone(), other.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(route: &str, us: u64) -> Sums {
        let mut counts = Counts { ended: 1, ..Counts::default() };
        counts.first_byte.record(us);
        Sums {
            requests: [(Key::Route(Arm::Canary, route.into()), counts)].into(),
            numbers: [(Number::Fallbacks, 2)].into(),
            ..Sums::default()
        }
    }

    #[test]
    fn a_sum_is_what_its_parts_are_together() {
        let mut both = sums("api", 1_000);
        both.add(&sums("api", 9_000));
        both.add(&sums("web", 5_000));
        assert_eq!((both.requests.len(), both.numbers.get(&Number::Fallbacks)), (2, Some(&6)));
        let canary = both.arm(Arm::Canary);
        assert_eq!((canary.ended, canary.first_byte.count()), (3, 3));
        assert_eq!(
            canary.first_byte.quantile(0.5),
            Some(super::super::histogram::middle_us(super::super::histogram::bucket_of(5_000)))
        );
        assert!(both.arm(Arm::Stable).is_empty());
    }

    #[test]
    fn a_gauge_remembers_its_range_and_its_last_value() {
        let mut first = Resources { memory: Some(Gauge::of(5.0)), cpu_us: 7, ..Resources::default() };
        first.then(Resources {
            memory: Some(Gauge::of(3.0)),
            cpu_us: 1,
            queries: [("load".into(), Gauge::of(1.0))].into(),
            ..Resources::default()
        });
        first.then(Resources::default());
        assert_eq!(first.memory, Some(Gauge { min: 3.0, last: 3.0, max: 5.0 }));
        assert_eq!((first.cpu_us, first.queries.len()), (8, 1));
    }
}
