//! Sums the workers' tallies and keeps the last 15 minutes of every arm, route and cohort.
//!
//! Every 25 ms it reads what moved, subtracts the reading before and pushes the difference into a window. Only it
//! reads cells for judgement; it never writes one. Totals are not kept here: the cells are the totals.

use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::assign::Reason;
use crate::rollout::histogram::{BUCKETS, Histogram};
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::report::ArmReport;
use crate::rollout::window::{Counts, Window};
use crate::tally::{Decisions, GaugeKey, PerWorker, Registry, Series, SeriesKey};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The reader of all tallies.
#[derive(Debug, Default)]
pub struct Collector {
    tracked: BTreeMap<SeriesKey, Tracked>,
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
}

/// One series as last read, and what happened lately.
#[derive(Debug)]
struct Tracked {
    last: Reading,
    window: Window,
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
        for (key, cells) in registry.all_series() {
            if !matches!(key, SeriesKey::Arm { .. } | SeriesKey::Cohort { .. } | SeriesKey::Probe { .. }) {
                continue;
            }
            let tracked = match self.tracked.get_mut(key) {
                Some(tracked) => tracked,
                None => {
                    let tracked = Tracked { last: Reading::default(), window: Window::new(now), settled: false };
                    self.tracked.entry(key.clone()).or_insert(tracked)
                }
            };
            let moved = tracked.last.moved(cells);
            if moved || !tracked.settled || everything {
                let (before, counts) = tracked.read(cells, now);
                note(&mut self.moved, key, &counts, &before, &tracked.last);
            }
            tracked.settled = !moved;
        }
    }

    /// What a rollout's series did since the last call; none if nothing moved.
    pub fn take_moved(&mut self, rollout: &str) -> Option<Moved> {
        self.moved.remove(rollout)
    }

    /// Both arms of a rollout over the last `window`, at most 15 minutes; forced requests are not among them.
    pub fn arms(&self, registry: &Registry, rollout: &str, window: Duration, now: Time) -> [ArmReport; 2] {
        Arm::ALL.map(|wanted| {
            let mut report = Report::default();
            for (key, tracked) in &self.tracked {
                match key {
                    SeriesKey::Arm { rollout: of, arm, .. } if &**of == rollout && *arm == wanted => {
                        report.add(&tracked.window, window, now);
                    }
                    _ => {}
                }
            }
            let own = registry.all_series().filter(|(key, _)| match key {
                SeriesKey::Arm { rollout: of, arm, .. } => &**of == rollout && *arm == wanted,
                _ => false,
            });
            ArmReport { in_flight: own.map(|(_, cells)| in_flight(cells)).sum(), ..report.into() }
        })
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
        self.tracked.retain(|key, _| names.has_series(key));
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
            SeriesKey::Forced { rollout, .. } | SeriesKey::Probe { rollout } => self.rollouts.contains_key(rollout),
            SeriesKey::Plain { route } => self.routes.contains(route),
        }
    }

    fn has_gauge(&self, key: &GaugeKey) -> bool {
        match key {
            GaugeKey::UpstreamActive(upstream)
            | GaugeKey::UpstreamIdle(upstream)
            | GaugeKey::UpstreamEjections(upstream) => self.upstreams.contains(upstream),
            GaugeKey::StreamsClosed(rollout) => self.rollouts.contains_key(rollout),
            GaugeKey::Connections(_) => true,
        }
    }
}

impl Tracked {
    /// Reads the cells. The reading before, and what ended since.
    fn read(&mut self, cells: &PerWorker<Series>, now: Time) -> (Reading, Counts) {
        let reading = Reading::of(cells);
        let counts = reading.since(&self.last);
        self.window.push(now, &counts);
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

/// What all workers counted for one series, added up.
#[derive(Debug)]
pub struct Reading {
    /// Requests that were decided.
    pub started: u64,
    /// Requests that ended, and everything that is counted then.
    pub ended: u64,
    /// See `Series`.
    pub answered: u64,
    /// See `Series`.
    pub unanswered: u64,
    /// See `Series`.
    pub codes: [u64; CodeClass::COUNT],
    /// See `Series`.
    pub errors: [u64; ErrorKind::COUNT],
    /// See `Series`.
    pub client_left: u64,
    /// See `Series`.
    pub bytes_in: u64,
    /// See `Series`.
    pub bytes_out: u64,
    /// See `Series`.
    pub first_byte_us: u64,
    /// By bucket.
    pub first_byte: Box<[u64]>,
    /// See `Series`.
    pub total_us: u64,
    /// By bucket.
    pub total: Box<[u64]>,
}

impl Reading {
    /// Reads one series.
    pub fn of(cells: &PerWorker<Series>) -> Reading {
        let mut sum = Reading::default();
        for series in cells.iter() {
            sum.started += series.started.read();
            sum.ended += series.ended.read();
            sum.answered += series.answered.read();
            sum.unanswered += series.unanswered.read();
            add_all(&mut sum.codes, series.codes.iter().map(|cell| cell.read()));
            add_all(&mut sum.errors, series.errors.iter().map(|cell| cell.read()));
            sum.client_left += series.client_left.read();
            sum.bytes_in += series.bytes_in.read();
            sum.bytes_out += series.bytes_out.read();
            sum.first_byte_us += series.first_byte_us.read();
            add_all(&mut sum.first_byte, series.first_byte.read());
            sum.total_us += series.total_us.read();
            add_all(&mut sum.total, series.total.read());
        }
        sum
    }

    /// Adds another series' reading.
    pub fn add(&mut self, other: &Reading) {
        self.started += other.started;
        self.ended += other.ended;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        add_all(&mut self.codes, other.codes);
        add_all(&mut self.errors, other.errors);
        self.client_left += other.client_left;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.first_byte_us += other.first_byte_us;
        add_all(&mut self.first_byte, other.first_byte.iter().copied());
        self.total_us += other.total_us;
        add_all(&mut self.total, other.total.iter().copied());
    }

    fn moved(&self, cells: &PerWorker<Series>) -> bool {
        // None of these ever goes back, so their sum tells as much as they do.
        let sum = |series: &Series| {
            series.started.read() + series.ended.read() + series.answered.read() + series.unanswered.read()
        };
        cells.iter().map(sum).sum::<u64>() != self.started + self.ended + self.answered + self.unanswered
    }

    fn since(&self, before: &Reading) -> Counts {
        Counts {
            ended: self.ended.saturating_sub(before.ended),
            codes: difference(&self.codes, &before.codes),
            errors: difference(&self.errors, &before.errors),
            client_left: self.client_left.saturating_sub(before.client_left),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            first_byte_us: self.first_byte_us.saturating_sub(before.first_byte_us),
            first_byte: grown(&self.first_byte, &before.first_byte),
            total_us: self.total_us.saturating_sub(before.total_us),
            total: grown(&self.total, &before.total),
        }
    }
}

impl Default for Reading {
    fn default() -> Self {
        let empty = || vec![0; BUCKETS].into_boxed_slice();
        Reading {
            started: 0,
            ended: 0,
            answered: 0,
            unanswered: 0,
            codes: Default::default(),
            errors: Default::default(),
            client_left: 0,
            bytes_in: 0,
            bytes_out: 0,
            first_byte_us: 0,
            first_byte: empty(),
            total_us: 0,
            total: empty(),
        }
    }
}

/// An arm's routes, added up.
#[derive(Default)]
struct Report {
    counts: Counts,
    covered: Duration,
}

impl Report {
    fn add(&mut self, window: &Window, span: Duration, now: Time) {
        self.counts.add(&window.over(now, span));
        self.covered = self.covered.max(window.covered(now, span));
    }
}

impl From<Report> for ArmReport {
    fn from(report: Report) -> ArmReport {
        let Report { counts, covered } = report;
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
}

/// Requests of a series that have been decided and have not ended. The end is read first, so that it is never negative.
pub fn in_flight(cells: &PerWorker<Series>) -> u64 {
    let of = |series: &Series| {
        let ended = series.ended.read();
        series.started.read().saturating_sub(ended)
    };
    cells.iter().map(of).sum()
}

fn add_all(sums: &mut [u64], counts: impl IntoIterator<Item = u64>) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count;
    }
}

fn difference<const N: usize>(now: &[u64; N], before: &[u64; N]) -> [u64; N] {
    std::array::from_fn(|index| now[index].saturating_sub(before[index]))
}

fn grown(now: &[u64], before: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for (bucket, (now, before)) in now.iter().zip(before).enumerate() {
        histogram.add(bucket, now.saturating_sub(*before));
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::assign::Decision;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn key(arm: Arm, route: &str) -> SeriesKey {
        SeriesKey::Arm { rollout: "chat".into(), arm, route: route.into() }
    }

    /// One request of worker `worker`, from its start to its end.
    fn request(cells: &PerWorker<Series>, worker: usize, us: u64, error: Option<ErrorKind>) {
        let series = cells.of(worker).unwrap();
        series.started.add(1);
        series.codes[CodeClass::Success as usize].add(1);
        if let Some(kind) = error {
            series.errors[kind as usize].add(1);
        }
        series.first_byte.record(us);
        series.first_byte_us.add(us);
        series.ended.add(1);
    }

    fn names(cohorts: &[&str]) -> Names {
        let cohorts = cohorts.iter().map(|name| Arc::from(*name)).collect();
        Names {
            rollouts: BTreeMap::from([("chat".into(), cohorts)]),
            routes: ["api".into()].into(),
            ..Names::default()
        }
    }

    #[test]
    fn arms_add_up_routes_and_workers_over_the_window() {
        let mut registry = Registry::new(2);
        let (api, web) = (registry.series(key(Arm::Canary, "api")), registry.series(key(Arm::Canary, "web")));
        let mut collector = Collector::default();
        collector.collect(&registry, at(0), false);
        request(&api, 0, 1_000, None);
        request(&web, 1, 9_000, Some(ErrorKind::Timeout));
        web.of(0).unwrap().started.add(1);
        collector.collect(&registry, at(10_000), false);
        let minute = Duration::from_secs(60);
        let [stable, canary] = collector.arms(&registry, "chat", minute, at(10_000));
        assert_eq!(stable, ArmReport::default());
        assert_eq!((canary.requests, canary.errors, canary.in_flight), (2, 1, 1));
        assert!((canary.rps - 0.2).abs() < 0.001, "{}", canary.rps);
        assert!((canary.p99_ms.unwrap() - 9.0).abs() < 9.0 / 64.0);
        let [_, later] = collector.arms(&registry, "chat", minute, at(90_000));
        assert_eq!((later.requests, later.in_flight), (0, 1));
    }

    #[test]
    fn a_reading_between_two_cells_of_a_request_loses_nothing() {
        let mut registry = Registry::new(1);
        let cells = registry.series(key(Arm::Stable, "api"));
        let mut collector = Collector::default();
        collector.collect(&registry, at(0), false);
        let series = cells.of(0).unwrap();
        series.started.add(1);
        series.ended.add(1);
        collector.collect(&registry, at(25), false);
        series.errors[ErrorKind::Reset as usize].add(1);
        collector.collect(&registry, at(50), false);
        let [stable, _] = collector.arms(&registry, "chat", Duration::from_secs(1), at(50));
        assert_eq!((stable.requests, stable.errors), (1, 1));
    }

    #[test]
    fn cohorts_that_change_places_keep_their_decisions() {
        let mut registry = Registry::new(1);
        let mut collector = Collector::default();
        let decide = |registry: &mut Registry, reason| {
            registry.decisions(&"chat".into()).of(0).unwrap().record(Decision { arm: Arm::Canary, reason });
        };
        collector.adopt(&mut registry, &names(&["a", "b"]));
        decide(&mut registry, Reason::Cohort(0));
        decide(&mut registry, Reason::Bucket);
        collector.adopt(&mut registry, &names(&["b", "a"]));
        decide(&mut registry, Reason::Cohort(0));
        let expected = [("bucket", 1), ("cohort:a", 1), ("cohort:b", 1)];
        let told = |collector: &Collector| {
            collector.decisions().into_iter().map(|((_, _, word), count)| (word, count)).collect::<Vec<_>>()
        };
        assert_eq!(told(&collector), expected.map(|(word, count)| (word.to_owned(), count)));
        collector.retire(&mut registry, &names(&["b", "a"]));
        assert_eq!(told(&collector), expected.map(|(word, count)| (word.to_owned(), count)), "nothing goes back");
        decide(&mut registry, Reason::Cohort(1));
        assert_eq!(collector.decisions()[&("chat".into(), Arm::Canary, "cohort:a".to_owned())], 2);
    }

    #[test]
    fn what_left_the_config_is_forgotten_and_the_rest_goes_on() {
        let mut registry = Registry::new(1);
        let mut collector = Collector::default();
        collector.adopt(&mut registry, &names(&[]));
        let api = registry.series(key(Arm::Stable, "api"));
        registry.series(key(Arm::Stable, "gone"));
        registry.series(SeriesKey::Plain { route: "gone".into() });
        registry.gauge(GaugeKey::UpstreamIdle("gone".into()));
        registry.gauge(GaugeKey::Connections("127.0.0.1:1".into()));
        request(&api, 0, 5, None);
        collector.collect(&registry, at(0), false);
        collector.retire(&mut registry, &names(&[]));
        assert_eq!(registry.all_series().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [key(Arm::Stable, "api")]);
        assert_eq!(registry.all_gauges().count(), 1);
        assert!(Arc::ptr_eq(&api, &registry.series(key(Arm::Stable, "api"))));
        collector.retire(&mut registry, &Names::default());
        assert_eq!((registry.all_series().count(), registry.all_decisions().count()), (0, 0));
    }
}
