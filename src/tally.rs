//! Counters and latency histograms of the request path. Each cell has exactly one writer, the worker that owns it, so
//! a count is a plain load and store; the collector reads them all and subtracts successive readings.
//!
//! The registry hands out the cells by key and keeps them across reloads, so a counter never goes back.

mod mirrored;
mod registry;
mod words;

pub use mirrored::{COPIES_SKIPPED, LostPairs, Mirrored, PAIRS_LOST};
pub use registry::{AllowanceKey, GaugeKey, Registry, SignalKey};
pub use words::{CONNECTIONS_CUT, CONNECTIONS_REFUSED, REFUSALS};

use crate::rollout::Arm;
use crate::rollout::assign::{Decision, Reason};
use crate::rollout::breaker::{UNIT_ROWS, UNIT_SLOTS};
use crate::rollout::histogram::{BUCKETS, bucket_of};
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::vital::Vital;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A counter with a single writer.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds; only the owning worker may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Takes away, for gauges; only the owning worker may call this.
    #[inline]
    pub fn sub(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(count), Ordering::Relaxed);
    }

    /// The present count, from any thread.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's counts for one series of requests.
#[derive(Debug, Default)]
pub struct Series {
    /// Requests that were decided.
    pub started: Cell,
    /// Requests that have ended; `started - ended` are in flight.
    pub ended: Cell,
    /// Requests whose upstream's answer has begun.
    pub answered: Cell,
    /// Requests that ended without an upstream's answer.
    pub unanswered: Cell,
    /// Ended requests by the class of the status the client got.
    pub codes: [Cell; CodeClass::COUNT],
    /// Ended requests that counted against the arm, by kind.
    pub errors: [Cell; ErrorKind::COUNT],
    /// Requests whose client left before the end.
    pub client_left: Cell,
    /// Request body bytes sent upstream.
    pub bytes_in: Cell,
    /// Answer body bytes sent to the client.
    pub bytes_out: Cell,
    /// Sum of `first_byte`, in microseconds.
    pub first_byte_us: Cell,
    /// Time from the request's head to the answer's head.
    pub first_byte: Latency,
    /// Sum of `total`, in microseconds.
    pub total_us: Cell,
    /// Time from the request's head to the end of the answer's body.
    pub total: Latency,
}

/// A histogram of times with a single writer; the layout is `rollout::histogram`'s. It takes memory from the first time on:
/// of thousands of routes with two arms each most have few requests or none.
#[derive(Debug, Default)]
pub struct Latency(OnceLock<Box<[Cell]>>);

impl Latency {
    /// Counts one time; only the owning worker may call this.
    #[inline]
    pub fn record(&self, us: u64) {
        let cells = self.0.get_or_init(|| (0..BUCKETS).map(|_| Cell::default()).collect());
        if let Some(cell) = cells.get(bucket_of(us)) {
            cell.add(1);
        }
    }

    /// The counts by bucket; none before the first time.
    pub fn read(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.get().into_iter().flatten().map(Cell::read)
    }
}

/// One worker's counts of one rollout's canary requests by unit; see `breaker::UnitCounts`.
#[derive(Debug, Default)]
pub struct Units {
    /// Failures.
    pub failures: UnitCells,
    /// First bytes later than the latency rule's limit.
    pub slow: UnitCells,
    /// Requests that wait for an answer now.
    pub waiting: UnitCells,
}

/// Requests by unit, with a single writer.
#[derive(Debug)]
pub struct UnitCells(Box<[Cell]>);

impl UnitCells {
    /// Counts one request in its unit's slot of every row; only the owning worker may call this.
    #[inline]
    pub fn add(&self, slots: [usize; UNIT_ROWS]) {
        self.cells(slots).for_each(|cell| cell.add(1));
    }

    /// Takes one request away again; only the owning worker may call this.
    #[inline]
    pub fn sub(&self, slots: [usize; UNIT_ROWS]) {
        self.cells(slots).for_each(|cell| cell.sub(1));
    }

    /// The counts, row by row.
    pub fn read(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(Cell::read)
    }

    fn cells(&self, slots: [usize; UNIT_ROWS]) -> impl Iterator<Item = &Cell> {
        self.0.chunks_exact(UNIT_SLOTS).zip(slots).filter_map(|(row, slot)| row.get(slot))
    }
}

impl Default for UnitCells {
    fn default() -> Self {
        UnitCells((0..UNIT_ROWS * UNIT_SLOTS).map(|_| Cell::default()).collect())
    }
}

/// One worker's counts of decisions of one rollout, by arm and reason.
#[derive(Debug)]
pub struct Decisions([Cell; 2 * Reason::SLOTS]);

impl Decisions {
    /// Counts one decision; only the owning worker may call this.
    #[inline]
    pub fn record(&self, decision: Decision) {
        if let Some(cell) = self.0.get(Self::slot(decision.arm, decision.reason)) {
            cell.add(1);
        }
    }

    /// How often this arm was chosen for this reason.
    pub fn read(&self, arm: Arm, reason: Reason) -> u64 {
        self.0.get(Self::slot(arm, reason)).map_or(0, Cell::read)
    }

    fn slot(arm: Arm, reason: Reason) -> usize {
        arm.index() * Reason::SLOTS + reason.slot()
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions(std::array::from_fn(|_| Cell::default()))
    }
}

/// Which requests a series counts. Every name comes from the config, never from a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SeriesKey {
    /// Requests of a rollout's arm on a route; forced ones are not among them.
    Arm {
        /// The rollout.
        rollout: Arc<str>,
        /// The arm that was decided.
        arm: Arm,
        /// The route.
        route: Arc<str>,
    },
    /// Of those, the ones that a cohort decided.
    Cohort {
        /// The rollout.
        rollout: Arc<str>,
        /// The arm that was decided.
        arm: Arm,
        /// The cohort.
        cohort: Arc<str>,
    },
    /// Requests whose arm was forced: never part of gates, triggers or breaker.
    Forced {
        /// The rollout.
        rollout: Arc<str>,
        /// The arm that was forced.
        arm: Arm,
    },
    /// Requests that probe the canary while the breaker is half-open: never part of gates, triggers or the arm's numbers.
    Probe {
        /// The rollout.
        rollout: Arc<str>,
    },
    /// Copies of stable's requests that were sent to the canary: never part of an arm's numbers.
    Shadow {
        /// The rollout.
        rollout: Arc<str>,
    },
    /// Requests of a route on which no rollout applies.
    Plain {
        /// The route.
        route: Arc<str>,
    },
}

impl SeriesKey {
    /// The rollout that it counts for; none where no rollout applies.
    pub const fn rollout(&self) -> Option<&Arc<str>> {
        match self {
            SeriesKey::Arm { rollout, .. }
            | SeriesKey::Cohort { rollout, .. }
            | SeriesKey::Forced { rollout, .. }
            | SeriesKey::Probe { rollout }
            | SeriesKey::Shadow { rollout } => Some(rollout),
            SeriesKey::Plain { .. } => None,
        }
    }
}

/// One value per worker, each written by that worker alone, and on cache lines of its own: a line that two workers write
/// goes back and forth between their cores with every request.
#[derive(Debug)]
pub struct PerWorker<T>(Box<[Own<T>]>);

/// The value of one worker.
#[repr(align(64))]
#[derive(Debug, Default)]
struct Own<T>(T);

impl<T: Default> PerWorker<T> {
    fn new(workers: usize) -> Self {
        PerWorker((0..workers).map(|_| Own::default()).collect())
    }
}

impl<T> PerWorker<T> {
    /// The value that worker `index` owns.
    #[inline]
    pub fn of(&self, index: usize) -> Option<&T> {
        self.0.get(index).map(|own| &own.0)
    }

    /// All values, for the collector.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|own| &own.0)
    }
}

/// What a worker counts of one listener's connections.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Connections closed unserved, by the words of `CONNECTIONS_REFUSED`.
    pub refused: [Cell; CONNECTIONS_REFUSED.len()],
    /// Connections cut, and HTTP/2 streams of which the client takes nothing, by the words of `CONNECTIONS_CUT`.
    pub cut: [Cell; CONNECTIONS_CUT.len()],
}

/// What may come of a canary's failure where stable may stand in, in the order of `Fallbacks::outcomes`: the `outcome` label
/// of `weir_fallbacks_total`.
pub const FALLBACKS: [&str; 5] = ["answered", "failed", "budget", "unsafe", "too_large"];

/// One worker's counts of what came of the canary's failures of one rollout.
#[derive(Debug, Default)]
pub struct Fallbacks {
    /// By the words of `FALLBACKS`.
    pub outcomes: [Cell; FALLBACKS.len()],
}

/// One worker's counts of the web vitals that browsers reported of one arm.
#[derive(Debug, Default)]
pub struct Vitals([VitalCells; Vital::COUNT]);

/// One worker's counts of one web vital.
#[derive(Debug, Default)]
pub struct VitalCells {
    /// How many were reported.
    pub reports: Cell,
    /// What was reported, as `Vital::counted` counts it.
    pub values: Latency,
}

impl Vitals {
    /// The counts of that vital.
    pub fn of(&self, vital: Vital) -> &VitalCells {
        let [lcp, inp, cls] = &self.0;
        match vital {
            Vital::Lcp => lcp,
            Vital::Inp => inp,
            Vital::Cls => cls,
        }
    }
}

/// Why a report of web vitals is not counted, in the order of `WorkerCounts::vitals_dropped`: the `reason` label of
/// `weir_vitals_dropped_total`.
pub const VITALS_DROPPED: [&str; 5] = ["rate", "sender", "too_large", "invalid", "broken_off"];

/// What a worker counts that belongs to no rollout.
#[derive(Debug, Default)]
pub struct WorkerCounts {
    /// Goes up with everything that a worker counts of a rollout: as long as it stands still, there is nothing new to read.
    pub stirs: Cell,
    /// Access-log lines that did not fit into the queue.
    pub access_dropped: Cell,
    /// Requests that weir answered itself, by the words of `REFUSALS`.
    pub refused: [Cell; REFUSALS.len()],
    /// Requests sent again because a pooled connection had been closed under them.
    pub upstream_retries: Cell,
    /// Requests with web vitals that were not taken, by the words of `VITALS_DROPPED`.
    pub vitals_dropped: [Cell; VITALS_DROPPED.len()],
}
