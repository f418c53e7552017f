//! What is counted of a rollout besides the ends of its requests, kept in the same tiers: fallbacks, requests that the
//! breaker kept from the canary, signals, web vitals.
//!
//! Signals come from the request path and by post; the posted ones are counted here, because no worker sees them.

use super::Past;
use super::cells::{add_buckets, grown};
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::histogram::Histogram;
use crate::rollout::history::History;
pub use crate::rollout::sample::Number as Kind;
use crate::rollout::sample::Sums;
use crate::rollout::stages::Span;
use crate::rollout::vital::Vital;
use crate::tally::{Cell, FALLBACKS, PerWorker, Registry, SignalKey, Vitals};
use std::collections::BTreeMap;
use std::sync::Arc;

/// All of it.
#[derive(Debug, Default)]
pub struct Beside {
    numbers: BTreeMap<(Arc<str>, Kind), Followed<u64>>,
    vitals: BTreeMap<(Arc<str>, Arm, Vital), Reported>,
    /// Signals that were posted, since the start.
    posted: BTreeMap<SignalKey, u64>,
}

/// A total as last read, and how it came about.
#[derive(Debug, Default)]
struct Followed<T: crate::rollout::window::Counted> {
    last: u64,
    history: History<T>,
}

/// Reports of one vital.
#[derive(Debug)]
struct Reported {
    /// By bucket, as last read.
    last: Vec<u64>,
    followed: Followed<Histogram>,
    /// Whether nothing moved between the last two readings; see `Tracked`.
    settled: bool,
}

impl Beside {
    /// Reads what moved since the last time; with `ages` also lets what has come to rest grow old.
    pub fn collect(&mut self, registry: &Registry, now: Time, ages: bool) {
        for (rollout, cells) in registry.all_fallbacks() {
            let total = cells.iter().filter_map(|counts| counts.outcomes.get(ANSWERED)).map(Cell::read).sum();
            self.number(rollout, Kind::Fallbacks, now).follow(total, now, ages);
        }
        for (rollout, cells) in registry.all_diverted() {
            let total = cells.iter().map(Cell::read).sum();
            self.number(rollout, Kind::Diverted, now).follow(total, now, ages);
        }
        for ((rollout, arm, signal), cells) in registry.all_signals() {
            let total = cells.iter().map(Cell::read).sum();
            self.number(rollout, Kind::Signal(*arm, Arc::clone(signal)), now).follow(total, now, ages);
        }
        for ((rollout, arm), cells) in registry.all_vitals() {
            for vital in Vital::ALL {
                let key = (Arc::clone(rollout), *arm, vital);
                self.vitals.entry(key).or_insert_with(|| Reported::new(now)).follow(cells, vital, now, ages);
            }
        }
    }

    /// Counts posted signals.
    pub fn post(&mut self, rollout: &Arc<str>, arm: Arm, signal: &Arc<str>, count: u64, now: Time) {
        let posted = self.posted.entry((Arc::clone(rollout), arm, Arc::clone(signal))).or_default();
        *posted = posted.saturating_add(count);
        self.number(rollout, Kind::Signal(arm, Arc::clone(signal)), now).history.push(now, &count);
    }

    /// How often a signal was posted, by rollout and arm, since the start.
    pub fn posted(&self) -> impl Iterator<Item = (&SignalKey, u64)> {
        self.posted.iter().map(|(key, count)| (key, *count))
    }

    /// How much of a number there was in a span.
    pub fn count(&self, rollout: &str, kind: &Kind, span: Span, now: Time) -> u64 {
        // A key of a map cannot be looked up by borrowed parts.
        let found = self.numbers.get(&(Arc::from(rollout), kind.clone()));
        found.map_or(0, |followed| followed.history.taken(span, now))
    }

    /// The reports of a vital in a span.
    pub fn reports(&self, rollout: &str, arm: Arm, vital: Vital, span: Span, now: Time) -> Histogram {
        let found = self.vitals.get(&(Arc::from(rollout), arm, vital));
        found.map(|reported| reported.followed.history.taken(span, now)).unwrap_or_default()
    }

    /// A stage of that rollout begins.
    pub fn mark(&mut self, rollout: &str, now: Time) {
        let numbers = self.numbers.iter_mut().filter(|((of, _), _)| **of == *rollout);
        numbers.for_each(|(_, followed)| followed.history.mark(now));
        let vitals = self.vitals.iter_mut().filter(|((of, _, _), _)| **of == *rollout);
        vitals.for_each(|(_, reported)| reported.followed.history.mark(now));
    }

    /// What was counted of a rollout since it was last taken to be kept.
    pub fn unsaved(&self, rollout: &str, sums: &mut Sums) {
        for ((_, kind), followed) in self.numbers.iter().filter(|((of, _), _)| **of == *rollout) {
            if *followed.history.unsaved() > 0 {
                sums.numbers.insert(kind.clone(), *followed.history.unsaved());
            }
        }
        for ((_, arm, vital), reported) in self.vitals.iter().filter(|((of, _, _), _)| **of == *rollout) {
            let unsaved = reported.followed.history.unsaved();
            if !unsaved.is_empty() {
                sums.vitals.insert((*arm, *vital), unsaved.clone());
            }
        }
    }

    /// What `unsaved` told is kept.
    pub fn saved(&mut self, rollout: &str) {
        let numbers = self.numbers.iter_mut().filter(|((of, _), _)| **of == *rollout);
        numbers.for_each(|(_, followed)| {
            followed.history.take_unsaved();
        });
        let vitals = self.vitals.iter_mut().filter(|((of, _, _), _)| **of == *rollout);
        vitals.for_each(|(_, reported)| {
            reported.followed.history.take_unsaved();
        });
    }

    /// Goes on where an earlier process stopped.
    pub fn resume(&mut self, rollout: &Arc<str>, past: &Past<'_>, keeps: impl Fn(&Kind) -> bool) {
        for (ago, sample, in_stage) in past.samples() {
            for (kind, count) in sample.sums.numbers.iter().filter(|(kind, _)| keeps(kind)) {
                let new = || Followed { last: 0, history: past.history() };
                let followed = self.numbers.entry((Arc::clone(rollout), kind.clone())).or_insert_with(new);
                followed.history.take_past(past.now, ago, count, in_stage);
            }
            for ((arm, vital), reports) in &sample.sums.vitals {
                let new =
                    || Reported { followed: Followed { last: 0, history: past.history() }, ..Reported::new(past.now) };
                let reported = self.vitals.entry((Arc::clone(rollout), *arm, *vital)).or_insert_with(new);
                reported.followed.history.take_past(past.now, ago, reports, in_stage);
            }
        }
    }

    /// Forgets what no config speaks of any more.
    pub fn retain(&mut self, rollouts: impl Fn(&str) -> bool, signals: impl Fn(&str) -> bool) {
        self.numbers.retain(|(rollout, kind), _| {
            rollouts(rollout) && !matches!(kind, Kind::Signal(_, signal) if !signals(signal))
        });
        self.vitals.retain(|(rollout, _, _), _| rollouts(rollout));
        self.posted.retain(|(rollout, _, signal), _| rollouts(rollout) && signals(signal));
    }

    fn number(&mut self, rollout: &Arc<str>, kind: Kind, now: Time) -> &mut Followed<u64> {
        let new = || Followed { last: 0, history: History::new(now) };
        self.numbers.entry((Arc::clone(rollout), kind)).or_insert_with(new)
    }
}

impl Followed<u64> {
    fn follow(&mut self, total: u64, now: Time, ages: bool) {
        let grown = total.saturating_sub(self.last);
        if grown > 0 || ages {
            self.last = total;
            self.history.push(now, &grown);
        }
    }
}

impl Reported {
    fn new(now: Time) -> Reported {
        let last = Vec::new();
        Reported { last, followed: Followed { last: 0, history: History::new(now) }, settled: false }
    }

    fn follow(&mut self, cells: &PerWorker<Vitals>, vital: Vital, now: Time, ages: bool) {
        let reports = cells.iter().map(|vitals| vitals.of(vital).reports.read()).sum();
        let moved = std::mem::replace(&mut self.followed.last, reports) != reports;
        let was_settled = std::mem::replace(&mut self.settled, !moved);
        if moved || !was_settled {
            let mut present = Vec::new();
            cells.iter().for_each(|vitals| add_buckets(&mut present, vitals.of(vital).values.read()));
            self.followed.history.push(now, &grown(&present, &self.last));
            self.last = present;
        } else if ages {
            self.followed.history.push(now, &Histogram::default());
        }
    }
}

/// The place of `answered` among the words of `FALLBACKS`.
const ANSWERED: usize = 0;
const _: () = assert!(matches!(FALLBACKS[ANSWERED].as_bytes(), b"answered"));
