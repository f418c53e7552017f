//! Hands out the cells by key and keeps them across reloads, so that a counter never goes back. What has left the config long
//! ago is forgotten.

use super::{
    Cell, Decisions, Fallbacks, ListenerCounts, LostPairs, Mirrored, PerWorker, Series, SeriesKey, Units, Vitals,
    WorkerCounts,
};
use crate::allowance::{Addresses, Allowance, Copies};
use crate::pairs::Pairs;
use crate::rollout::Arm;
use crate::spans::Spans;
use std::collections::BTreeMap;
use std::sync::Arc;

/// All cells of the process by key. Owned by the publisher; snapshots and workers hold clones of the `Arc`s.
#[derive(Debug)]
pub struct Registry {
    pub(super) workers: usize,
    series: BTreeMap<SeriesKey, Arc<PerWorker<Series>>>,
    decisions: BTreeMap<Arc<str>, Arc<PerWorker<Decisions>>>,
    units: BTreeMap<Arc<str>, Arc<PerWorker<Units>>>,
    fallbacks: BTreeMap<Arc<str>, Arc<PerWorker<Fallbacks>>>,
    diverted: BTreeMap<Arc<str>, Arc<PerWorker<Cell>>>,
    mirrored: BTreeMap<Arc<str>, Arc<PerWorker<Mirrored>>>,
    pub(super) lost_pairs: BTreeMap<Arc<str>, Arc<PerWorker<LostPairs>>>,
    signals: BTreeMap<SignalKey, Arc<PerWorker<Cell>>>,
    vitals: BTreeMap<(Arc<str>, Arm), Arc<PerWorker<Vitals>>>,
    gauges: BTreeMap<GaugeKey, Arc<PerWorker<Cell>>>,
    listeners: BTreeMap<Arc<str>, Arc<PerWorker<ListenerCounts>>>,
    counts: Arc<PerWorker<WorkerCounts>>,
    allowances: BTreeMap<AllowanceKey, Arc<Allowance>>,
    addresses: Arc<Addresses>,
    copies: Arc<Copies>,
    pub(super) pairs: Arc<Pairs>,
    spans: Arc<Spans>,
}

/// Of what an allowance limits the number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AllowanceKey {
    /// Requests under way.
    Requests,
    /// Requests under way on one arm of a rollout.
    Arm(Arc<str>, Arm),
    /// Client connections.
    Connections,
}

/// Which answers a count of signals is about: rollout, arm, signal.
pub type SignalKey = (Arc<str>, Arm, Arc<str>);

/// What a per-worker gauge is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GaugeKey {
    /// Open client connections of a listener, by its address as configured.
    Connections(Arc<str>),
    /// Upstream connections that carry requests.
    UpstreamActive(Arc<str>),
    /// Upstream connections in the pool.
    UpstreamIdle(Arc<str>),
    /// Ejections of an upstream's endpoints; only ever goes up.
    UpstreamEjections(Arc<str>),
    /// Long streams that were ended because a rollout's canary had lost its share; only goes up.
    StreamsClosed(Arc<str>),
    /// Requests that an arm of a rollout answered by itself; only goes up.
    Blocked(Arc<str>),
}

impl Registry {
    /// An empty registry for that many workers.
    pub fn new(workers: usize) -> Self {
        Registry {
            workers,
            series: BTreeMap::new(),
            decisions: BTreeMap::new(),
            units: BTreeMap::new(),
            fallbacks: BTreeMap::new(),
            diverted: BTreeMap::new(),
            mirrored: BTreeMap::new(),
            lost_pairs: BTreeMap::new(),
            signals: BTreeMap::new(),
            vitals: BTreeMap::new(),
            gauges: BTreeMap::new(),
            listeners: BTreeMap::new(),
            allowances: BTreeMap::new(),
            addresses: Arc::default(),
            copies: Arc::default(),
            pairs: Arc::default(),
            spans: Arc::default(),
            counts: Arc::new(PerWorker::new(workers)),
        }
    }

    /// Where requests go that a collector of traces is told of.
    pub fn spans(&self) -> Arc<Spans> {
        Arc::clone(&self.spans)
    }

    /// How many workers the cells are for.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The series of that key, made if it is new.
    pub fn series(&mut self, key: SeriesKey) -> Arc<PerWorker<Series>> {
        let workers = self.workers;
        Arc::clone(self.series.entry(key).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The decision counts of that rollout, made if it is new.
    pub fn decisions(&mut self, rollout: &Arc<str>) -> Arc<PerWorker<Decisions>> {
        let workers = self.workers;
        Arc::clone(self.decisions.entry(Arc::clone(rollout)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The counts by unit of that rollout's canary, made if it is new.
    pub fn units(&mut self, rollout: &Arc<str>) -> Arc<PerWorker<Units>> {
        let workers = self.workers;
        Arc::clone(self.units.entry(Arc::clone(rollout)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// What came of the canary's failures of that rollout, made if it is new.
    pub fn fallbacks(&mut self, rollout: &Arc<str>) -> Arc<PerWorker<Fallbacks>> {
        let workers = self.workers;
        Arc::clone(self.fallbacks.entry(Arc::clone(rollout)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The requests of that rollout that its breaker kept from the canary, made if it is new.
    pub fn diverted(&mut self, rollout: &Arc<str>) -> Arc<PerWorker<Cell>> {
        let workers = self.workers;
        Arc::clone(self.diverted.entry(Arc::clone(rollout)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// What came of that rollout's mirrored share, made if it is new.
    pub fn mirrored(&mut self, rollout: &Arc<str>) -> Arc<PerWorker<Mirrored>> {
        let workers = self.workers;
        Arc::clone(self.mirrored.entry(Arc::clone(rollout)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The answers of an arm that a signal counts, made if it is new.
    pub fn signal(&mut self, rollout: &Arc<str>, arm: Arm, signal: &Arc<str>) -> Arc<PerWorker<Cell>> {
        let workers = self.workers;
        let key = (Arc::clone(rollout), arm, Arc::clone(signal));
        Arc::clone(self.signals.entry(key).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The web vitals of an arm, made if they are new.
    pub fn vitals(&mut self, rollout: &Arc<str>, arm: Arm) -> Arc<PerWorker<Vitals>> {
        let workers = self.workers;
        Arc::clone(self.vitals.entry((Arc::clone(rollout), arm)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The gauge of that key, made if it is new.
    pub fn gauge(&mut self, key: GaugeKey) -> Arc<PerWorker<Cell>> {
        let workers = self.workers;
        Arc::clone(self.gauges.entry(key).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The counts of that listener's connections, made if it is new.
    pub fn listener(&mut self, address: &Arc<str>) -> Arc<PerWorker<ListenerCounts>> {
        let workers = self.workers;
        Arc::clone(self.listeners.entry(Arc::clone(address)).or_insert_with(|| Arc::new(PerWorker::new(workers))))
    }

    /// The allowance of that key, made if it is new, with this limit from now on.
    pub fn allowance(&mut self, key: AllowanceKey, limit: u32) -> Arc<Allowance> {
        let workers = self.workers;
        let allowance = self.allowances.entry(key).or_insert_with(|| Arc::new(Allowance::new(limit, workers)));
        allowance.set(limit);
        Arc::clone(allowance)
    }

    /// How many connections each address has.
    pub fn addresses(&self) -> Arc<Addresses> {
        Arc::clone(&self.addresses)
    }

    /// What the process's copies of requests take.
    pub fn copies(&self) -> Arc<Copies> {
        Arc::clone(&self.copies)
    }

    /// The workers' own counts.
    pub fn counts(&self) -> Arc<PerWorker<WorkerCounts>> {
        Arc::clone(&self.counts)
    }

    /// What goes up with everything that is counted of a rollout.
    pub fn stirs(&self) -> u64 {
        self.counts.iter().map(|counts| counts.stirs.read()).sum()
    }

    /// Forgets every series and gauge that `keep` does not want. Workers that still hold their cells go on counting
    /// into them unseen, so this is for what left the config long ago.
    pub fn retain(&mut self, series: impl Fn(&SeriesKey) -> bool, gauges: impl Fn(&GaugeKey) -> bool) {
        self.series.retain(|key, _| series(key));
        self.gauges.retain(|key, _| gauges(key));
        // One that a request still holds is needed if its rollout comes back.
        self.allowances.retain(|_, allowance| Arc::strong_count(allowance) > 1);
        // Every rollout that is still there has a series of forced requests.
        let forced = |rollout: &Arc<str>| SeriesKey::Forced { rollout: Arc::clone(rollout), arm: Arm::Stable };
        let is_there = |rollout: &Arc<str>| self.series.contains_key(&forced(rollout));
        self.fallbacks.retain(|rollout, _| is_there(rollout));
        self.diverted.retain(|rollout, _| is_there(rollout));
        self.mirrored.retain(|rollout, _| is_there(rollout));
        self.lost_pairs.retain(|rollout, _| is_there(rollout));
        self.signals.retain(|(rollout, _, _), _| is_there(rollout));
        self.vitals.retain(|(rollout, _), _| is_there(rollout));
    }

    /// Forgets every signal that `keep` does not want, under the same conditions.
    pub fn retain_signals(&mut self, keep: impl Fn(&str) -> bool) {
        self.signals.retain(|(_, _, signal), _| keep(signal));
    }

    /// Lets go of a rollout's decision counts, so that the next snapshot gets new ones: its cohorts have new places, or
    /// it has left the config. The caller keeps what was counted.
    pub fn release_decisions(&mut self, rollout: &str) -> Option<Arc<PerWorker<Decisions>>> {
        self.decisions.remove(rollout)
    }

    /// Every series, for the collector.
    pub fn all_series(&self) -> impl Iterator<Item = (&SeriesKey, &Arc<PerWorker<Series>>)> {
        self.series.iter()
    }

    /// Every rollout's decision counts, for the collector.
    pub fn all_decisions(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerWorker<Decisions>>)> {
        self.decisions.iter()
    }

    /// Every listener's counts, for the collector.
    pub fn all_listeners(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerWorker<ListenerCounts>>)> {
        self.listeners.iter()
    }

    /// Every rollout's counts of fallbacks, for the exposition.
    pub fn all_fallbacks(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerWorker<Fallbacks>>)> {
        self.fallbacks.iter()
    }

    /// Every rollout's requests that its breaker kept from the canary, for the collector.
    pub fn all_diverted(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerWorker<Cell>>)> {
        self.diverted.iter()
    }

    /// What came of every rollout's mirrored share, for the exposition.
    pub fn all_mirrored(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<PerWorker<Mirrored>>)> {
        self.mirrored.iter()
    }

    /// Every count of signals, for the collector.
    pub fn all_signals(&self) -> impl Iterator<Item = (&SignalKey, &Arc<PerWorker<Cell>>)> {
        self.signals.iter()
    }

    /// Every arm's web vitals, for the collector.
    pub fn all_vitals(&self) -> impl Iterator<Item = (&(Arc<str>, Arm), &Arc<PerWorker<Vitals>>)> {
        self.vitals.iter()
    }

    /// Every gauge, for the collector.
    pub fn all_gauges(&self) -> impl Iterator<Item = (&GaugeKey, &Arc<PerWorker<Cell>>)> {
        self.gauges.iter()
    }
}
