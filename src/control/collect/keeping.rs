//! What the histories give to be kept on disk, and how they go on from there.

use super::{Collector, Kind, Names, Part, Reading, Tracked, in_flight};
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::history::History;
use crate::rollout::sample::{Key, Sample, Sums, Visit};
use crate::rollout::window::Counted;
use crate::tally::{Registry, SeriesKey};
use std::sync::Arc;
use std::time::Duration;

/// What earlier processes counted of a rollout.
#[derive(Debug)]
pub struct Past<'a> {
    /// The present moment: no time has passed since the last sample, because nobody served.
    pub now: Time,
    /// How far it reaches back.
    pub reach: Duration,
    /// The stage's stay that the rollout is in, and how long ago that began.
    pub visit: Visit,
    /// See `visit`.
    pub marked: Duration,
    /// The samples, the oldest first, each with how long ago it ended.
    pub kept: &'a [(Duration, Sample)],
}

impl Past<'_> {
    /// The samples, with how long ago they ended and whether they belong to the present stage.
    pub fn samples(&self) -> impl Iterator<Item = (Duration, &Sample, bool)> {
        self.kept.iter().map(|(ago, sample)| (*ago, sample, sample.visit == self.visit))
    }

    /// A history that this is counted into.
    pub fn history<T: Counted>(&self) -> History<T> {
        History::resumed(self.now, self.reach, self.marked)
    }
}

impl Collector {
    /// What was counted of a rollout since `take_sums` was last called.
    pub fn sums(&self, rollout: &str) -> Sums {
        let mut sums = Sums::default();
        for (key, tracked) in self.of(rollout) {
            if let Some(key) = kept_as(key)
                && !tracked.history.unsaved().is_empty()
            {
                sums.requests.insert(key, tracked.history.unsaved().clone());
            }
        }
        self.beside.unsaved(rollout, &mut sums);
        sums
    }

    /// `sums`, which are kept from here on.
    pub fn take_sums(&mut self, rollout: &str) -> Sums {
        let sums = self.sums(rollout);
        let own = self.tracked.iter_mut().filter(|(key, _)| key.rollout().is_some_and(|of| **of == *rollout));
        own.for_each(|(_, tracked)| {
            tracked.history.take_unsaved();
        });
        self.beside.saved(rollout);
        sums
    }

    /// Requests of a rollout's arms that are under way, by arm index.
    pub fn in_flight(&self, registry: &Registry, rollout: &str) -> [u64; 2] {
        Arm::ALL.map(|arm| {
            let own = registry.all_series().filter(|(key, _)| Part::Of(arm, None).has(rollout, key));
            own.map(|(_, cells)| in_flight(cells)).sum()
        })
    }

    /// Goes on where an earlier process stopped, as far as the config still speaks of what it counted. Called before the
    /// first request.
    pub fn resume(&mut self, rollout: &Arc<str>, names: &Names, past: &Past<'_>) {
        for (ago, sample, in_stage) in past.samples() {
            for (key, counts) in &sample.sums.requests {
                let key = series_of(rollout, key);
                if !names.has_series(&key) {
                    continue;
                }
                let new = || Tracked { last: Reading::default(), history: past.history(), settled: false };
                let tracked = self.tracked.entry(key).or_insert_with(new);
                tracked.history.take_past(past.now, ago, counts, in_stage);
            }
        }
        let keeps = |kind: &Kind| !matches!(kind, Kind::Signal(_, signal) if !names.signals.contains(signal));
        self.beside.resume(rollout, past, keeps);
    }

    fn of<'a>(&'a self, rollout: &'a str) -> impl Iterator<Item = (&'a SeriesKey, &'a Tracked)> {
        self.tracked.iter().filter(move |(key, _)| key.rollout().is_some_and(|of| **of == *rollout))
    }
}

/// As what a series is kept; forced requests and those of no rollout are not.
fn kept_as(key: &SeriesKey) -> Option<Key> {
    match key {
        SeriesKey::Arm { arm, route, .. } => Some(Key::Route(*arm, Arc::clone(route))),
        SeriesKey::Cohort { arm, cohort, .. } => Some(Key::Cohort(*arm, Arc::clone(cohort))),
        SeriesKey::Probe { .. } => Some(Key::Probes),
        SeriesKey::Shadow { .. } => Some(Key::Shadow),
        SeriesKey::Forced { .. } | SeriesKey::Plain { .. } => None,
    }
}

fn series_of(rollout: &Arc<str>, key: &Key) -> SeriesKey {
    let rollout = Arc::clone(rollout);
    match key {
        Key::Route(arm, route) => SeriesKey::Arm { rollout, arm: *arm, route: Arc::clone(route) },
        Key::Cohort(arm, cohort) => SeriesKey::Cohort { rollout, arm: *arm, cohort: Arc::clone(cohort) },
        Key::Probes => SeriesKey::Probe { rollout },
        Key::Shadow => SeriesKey::Shadow { rollout },
    }
}
