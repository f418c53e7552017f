//! Sums the workers' tallies and keeps the history of every arm, route and cohort, and of what is counted besides.
//!
//! Every 25 ms it reads what moved, subtracts the reading before and pushes the difference into a history. Only it
//! reads cells for judgement; it never writes one. Totals are not kept here: the cells are the totals.

mod beside;
mod cells;
mod keeping;
#[cfg(test)]
mod tests;

pub use beside::{Beside, Kind};
pub use cells::Reading;
pub use keeping::Past;

use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::assign::Reason;
use crate::rollout::bucket::Weight;
use crate::rollout::criterion::Filter;
use crate::rollout::history::History;
use crate::rollout::report::{ArmReport, ShadowReport};
use crate::rollout::stages::Span;
use crate::rollout::window::{Counted, Counts};
use crate::tally::{COPIES_SKIPPED, Cell, Decisions, GaugeKey, PerWorker, Registry, Series, SeriesKey};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The reader of all tallies.
#[derive(Debug, Default)]
pub struct Collector {
    tracked: BTreeMap<SeriesKey, Tracked>,
    /// What is counted besides the ends of requests.
    pub beside: Beside,
    /// When what has come to rest was aged last.
    aged: Time,
    /// By rollout: what the arms' series did since it was taken last.
    moved: BTreeMap<Arc<str>, Moved>,
    /// Decision counts by the cohort order they were counted under; the latest of a rollout is the present one.
    ledgers: Vec<Ledger>,
    /// What was counted in ledgers that are gone.
    banked: BTreeMap<(Arc<str>, Arm, String), u64>,
}

/// What both arms of a rollout and its probes did, over all routes.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// Requests that ended, by arm index; forced and probe requests are not among them.
    pub arms: [Counts; 2],
    /// Probe requests that ended.
    pub probes: Counts,
    /// Probe requests that were started.
    pub probes_started: u64,
    /// Canary requests that were started.
    pub started: u64,
    /// Canary requests whose answer began.
    pub answered: u64,
    /// Canary requests that ended without an answer.
    pub unanswered: u64,
}

/// The names a config speaks of; what is not among them may be forgotten after a while.
#[derive(Debug, Default)]
pub struct Names {
    /// Rollouts with their cohorts in order.
    pub rollouts: BTreeMap<Arc<str>, Vec<Arc<str>>>,
    /// Routes.
    pub routes: BTreeSet<Arc<str>>,
    /// Upstreams.
    pub upstreams: BTreeSet<Arc<str>>,
    /// Signals.
    pub signals: BTreeSet<Arc<str>>,
}

/// A part of a rollout's requests; forced ones are in none.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Those of an arm, or of a part of it.
    Of(Arm, Option<&'a Filter>),
    /// Those that probe the canary.
    Probes,
    /// Copies of stable's that the canary got.
    Shadow,
}

/// One series as last read, and what happened lately.
#[derive(Debug)]
struct Tracked {
    last: Reading,
    history: History,
    /// Whether nothing moved between the last two readings. A reading may fall between two cells of one request, so a
    /// series that moved is read once more although it has come to rest.
    settled: bool,
}

/// Decision counts and the cohort names that their slots stand for.
#[derive(Debug)]
struct Ledger {
    rollout: Arc<str>,
    cohorts: Vec<Arc<str>>,
    cells: Arc<PerWorker<Decisions>>,
}

impl Collector {
    /// Reads what moved since the last time; with `everything` also what seems at rest.
    pub fn collect(&mut self, registry: &Registry, now: Time, everything: bool) {
        let ages = now.since(self.aged) >= AGE_EVERY;
        if ages {
            self.aged = now;
        }
        self.beside.collect(registry, now, ages);
        let (tracked, moved) = (&mut self.tracked, &mut self.moved);
        let mut news = Vec::new();
        // Both are in the same order: there may be many thousands, forty times a second, and most of them are at rest.
        let mut known = tracked.iter_mut().peekable();
        for (key, cells) in registry.all_series() {
            if matches!(key, SeriesKey::Forced { .. } | SeriesKey::Plain { .. }) {
                continue;
            }
            while known.next_if(|(other, _)| *other < key).is_some() {}
            match known.next_if(|(other, _)| *other == key) {
                Some((_, tracked)) => tracked.follow((key, cells), now, ages, everything, moved),
                None => news.push((key, cells)),
            }
        }
        for (key, cells) in news {
            let mut new = Tracked { last: Reading::default(), history: History::new(now), settled: false };
            new.follow((key, cells), now, ages, everything, moved);
            tracked.insert(key.clone(), new);
        }
    }

    /// What a rollout's series did since the last call; none if nothing moved.
    pub fn take_moved(&mut self, rollout: &str) -> Option<Moved> {
        self.moved.remove(rollout)
    }

    /// A stage of that rollout begins: `Span::Stage` counts from what was collected so far.
    pub fn mark(&mut self, rollout: &str, now: Time) {
        let own = self.tracked.iter_mut().filter(|(key, _)| key.rollout().is_some_and(|of| **of == *rollout));
        own.for_each(|(_, tracked)| tracked.history.mark(now));
        self.beside.mark(rollout, now);
    }

    /// What happened to a part of a rollout's requests, and the time that this covers: what a rate per second divides by.
    pub fn counts(&self, rollout: &str, part: Part<'_>, span: Span, now: Time) -> (Counts, Duration) {
        let own: Vec<&History> = self
            .tracked
            .iter()
            .filter(|(key, _)| part.has(rollout, key))
            .map(|(_, tracked)| &tracked.history)
            .collect();
        let covered = own.iter().map(|history| history.taken_for(span, now)).max().unwrap_or_default();
        match own.as_slice() {
            [one] => (one.taken(span, now), covered),
            several => {
                let parts: Vec<Counts> = several.iter().map(|history| history.taken(span, now)).collect();
                (Counts::total(parts.iter()), covered)
            }
        }
    }

    /// Both arms of a rollout over the last `window`; forced requests are not among them.
    pub fn arms(&self, registry: &Registry, rollout: &str, window: Duration, now: Time) -> [ArmReport; 2] {
        Arm::ALL.map(|wanted| {
            let part = Part::Of(wanted, None);
            let report = report(self.counts(rollout, part, Span::Last(window), now));
            let own = registry.all_series().filter(|(key, _)| part.has(rollout, key));
            ArmReport { in_flight: own.map(|(_, cells)| in_flight(cells)).sum(), ..report }
        })
    }

    /// The copies that a rollout's canary got over the last `window`, and what was not copied since the start.
    pub fn shadow(
        &self,
        registry: &Registry,
        rollout: &str,
        share: Weight,
        window: Duration,
        now: Time,
    ) -> ShadowReport {
        let copies = report(self.counts(rollout, Part::Shadow, Span::Last(window), now));
        let cells = registry.all_mirrored().find(|(of, _)| ***of == *rollout).map(|(_, cells)| cells);
        let skipped = COPIES_SKIPPED.iter().enumerate().map(|(index, reason)| {
            let counts = cells.iter().flat_map(|cells| cells.iter()).filter_map(|worker| worker.skipped.get(index));
            (*reason, counts.map(Cell::read).sum())
        });
        ShadowReport { share, copies, skipped: skipped.filter(|(_, count)| *count > 0).collect() }
    }

    /// Takes note of the cohort order of every rollout in a config that is about to be compiled. Where it changed the
    /// registry lets go of the decision counts, because their slots would change meaning.
    pub fn adopt(&mut self, registry: &mut Registry, names: &Names) {
        for (rollout, cohorts) in &names.rollouts {
            let present = self.ledgers.iter().rev().find(|ledger| ledger.rollout == *rollout);
            if present.is_some_and(|ledger| ledger.cohorts == *cohorts) {
                continue;
            }
            if present.is_some() {
                registry.release_decisions(rollout);
            }
            let (rollout, cohorts, cells) = (Arc::clone(rollout), cohorts.clone(), registry.decisions(rollout));
            self.ledgers.push(Ledger { rollout, cohorts, cells });
        }
    }

    /// Forgets what no config speaks of any more. Called a window's length after a reload, when nobody counts into it.
    pub fn retire(&mut self, registry: &mut Registry, names: &Names) {
        registry.retain(|key| names.has_series(key), |key| names.has_gauge(key));
        registry.retain_signals(|signal| names.signals.contains(signal));
        self.tracked.retain(|key, _| names.has_series(key));
        self.beside.retain(|rollout| names.rollouts.contains_key(rollout), |signal| names.signals.contains(signal));
        self.moved.retain(|rollout, _| names.rollouts.contains_key(rollout));
        let mut seen = BTreeSet::new();
        for ledger in std::mem::take(&mut self.ledgers).into_iter().rev() {
            let known = names.rollouts.contains_key(&ledger.rollout);
            if known && seen.insert(Arc::clone(&ledger.rollout)) {
                self.ledgers.push(ledger);
                continue;
            }
            if !known {
                registry.release_decisions(&ledger.rollout);
                continue;
            }
            for (arm, word, count) in ledger.counts() {
                *self.banked.entry((Arc::clone(&ledger.rollout), arm, word.into_owned())).or_default() += count;
            }
        }
        self.banked.retain(|(rollout, _, _), _| names.rollouts.contains_key(rollout));
    }

    /// How often each arm was chosen for each reason, since the start; what never happened is left out.
    pub fn decisions(&self) -> BTreeMap<(Arc<str>, Arm, String), u64> {
        let mut totals = self.banked.clone();
        for ledger in &self.ledgers {
            for (arm, word, count) in ledger.counts() {
                *totals.entry((Arc::clone(&ledger.rollout), arm, word.into_owned())).or_default() += count;
            }
        }
        totals
    }
}

impl Names {
    fn has_series(&self, key: &SeriesKey) -> bool {
        match key {
            SeriesKey::Arm { rollout, route, .. } => self.rollouts.contains_key(rollout) && self.routes.contains(route),
            SeriesKey::Cohort { rollout, cohort, .. } => {
                self.rollouts.get(rollout).is_some_and(|cohorts| cohorts.contains(cohort))
            }
            SeriesKey::Forced { rollout, .. } | SeriesKey::Probe { rollout } | SeriesKey::Shadow { rollout } => {
                self.rollouts.contains_key(rollout)
            }
            SeriesKey::Plain { route } => self.routes.contains(route),
        }
    }

    fn has_gauge(&self, key: &GaugeKey) -> bool {
        match key {
            GaugeKey::UpstreamActive(upstream)
            | GaugeKey::UpstreamIdle(upstream)
            | GaugeKey::UpstreamEjections(upstream) => self.upstreams.contains(upstream),
            GaugeKey::StreamsClosed(rollout) | GaugeKey::Blocked(rollout) => self.rollouts.contains_key(rollout),
            GaugeKey::Connections(_) => true,
        }
    }
}

impl Tracked {
    /// Reads the cells of its series if they moved, or with `everything` in any case, and adds to what its rollout did; with
    /// `ages` also lets what has come to rest grow old.
    fn follow(
        &mut self,
        (key, cells): (&SeriesKey, &PerWorker<Series>),
        now: Time,
        ages: bool,
        everything: bool,
        all_moved: &mut BTreeMap<Arc<str>, Moved>,
    ) {
        let moved = self.last.moved(cells);
        if moved || !self.settled || everything {
            let (before, counts) = self.read(cells, now);
            note(all_moved, key, &counts, &before, &self.last);
        } else if ages {
            // What has come to rest grows old all the same, and gives its memory back.
            self.history.push(now, &Counts::default());
        }
        self.settled = !moved;
    }

    /// Reads the cells. The reading before, and what ended since.
    fn read(&mut self, cells: &PerWorker<Series>, now: Time) -> (Reading, Counts) {
        let reading = Reading::of(cells);
        let counts = reading.since(&self.last);
        self.history.push(now, &counts);
        (std::mem::replace(&mut self.last, reading), counts)
    }
}

/// Adds to what a rollout did, unless it is nothing.
fn note(moved: &mut BTreeMap<Arc<str>, Moved>, key: &SeriesKey, counts: &Counts, before: &Reading, now: &Reading) {
    let (SeriesKey::Arm { rollout, .. } | SeriesKey::Probe { rollout }) = key else { return };
    let [started, answered, unanswered] = [
        now.started.saturating_sub(before.started),
        now.answered.saturating_sub(before.answered),
        now.unanswered.saturating_sub(before.unanswered),
    ];
    if counts.is_empty() && (started, answered, unanswered) == (0, 0, 0) {
        return;
    }
    let moved = moved.entry(Arc::clone(rollout)).or_default();
    let [stable, canary] = &mut moved.arms;
    match key {
        SeriesKey::Arm { arm: Arm::Stable, .. } => stable.add(counts),
        SeriesKey::Arm { arm: Arm::Canary, .. } => {
            canary.add(counts);
            moved.started += started;
            moved.answered += answered;
            moved.unanswered += unanswered;
        }
        _ => {
            moved.probes.add(counts);
            moved.probes_started += started;
        }
    }
}

impl Ledger {
    /// What happened at all, by arm and the reason's word.
    fn counts(&self) -> Vec<(Arm, Cow<'static, str>, u64)> {
        let cohorts = (0_u8..).take(self.cohorts.len()).map(Reason::Cohort);
        let reasons: Vec<Reason> = Reason::FIXED.into_iter().chain(cohorts).collect();
        let mut counts = Vec::new();
        for arm in Arm::ALL {
            for reason in &reasons {
                let count: u64 = self.cells.iter().map(|cells| cells.read(arm, *reason)).sum();
                if count > 0 {
                    let word = reason.word_with(|index| self.cohorts.get(index).map(|name| &**name));
                    counts.push((arm, word, count));
                }
            }
        }
        counts
    }
}

impl Part<'_> {
    fn has(&self, wanted: &str, key: &SeriesKey) -> bool {
        match (self, key) {
            (Part::Of(of, None), SeriesKey::Arm { rollout, arm, .. }) => arm == of && **rollout == *wanted,
            (Part::Of(of, Some(Filter::Route(name))), SeriesKey::Arm { rollout, arm, route }) => {
                arm == of && **rollout == *wanted && route == name
            }
            (Part::Of(of, Some(Filter::Cohort(name))), SeriesKey::Cohort { rollout, arm, cohort }) => {
                arm == of && **rollout == *wanted && cohort == name
            }
            (Part::Probes, SeriesKey::Probe { rollout }) | (Part::Shadow, SeriesKey::Shadow { rollout }) => {
                **rollout == *wanted
            }
            _ => false,
        }
    }
}

fn report((counts, covered): (Counts, Duration)) -> ArmReport {
    let quantile_ms = |share: f64| counts.first_byte.quantile(share).map(|us| us as f64 / 1000.0);
    let seconds = covered.as_secs_f64();
    ArmReport {
        requests: counts.ended,
        errors: counts.failures(),
        rps: if seconds > 0.0 { counts.ended as f64 / seconds } else { 0.0 },
        p50_ms: quantile_ms(0.50),
        p75_ms: quantile_ms(0.75),
        p90_ms: quantile_ms(0.90),
        p95_ms: quantile_ms(0.95),
        p99_ms: quantile_ms(0.99),
        p999_ms: quantile_ms(0.999),
        in_flight: 0,
    }
}

/// Requests of a series that have been decided and have not ended. The end is read first, so that it is never negative.
pub fn in_flight(cells: &PerWorker<Series>) -> u64 {
    let of = |series: &Series| {
        let ended = series.ended.read();
        series.started.read().saturating_sub(ended)
    };
    cells.iter().map(of).sum()
}

/// Seconds are passed on to minutes so often.
const AGE_EVERY: Duration = Duration::from_secs(1);
