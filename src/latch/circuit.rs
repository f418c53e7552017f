//! The breaker's part of a latch: its state, and the run of failures that may open it from the request path.
//!
//! All workers write here at once, with atomics and without locks. A request that succeeds writes nothing unless a run of
//! failures is under way; what is written often is kept apart from what every request reads.

use super::Guard;
use crate::rollout::assign::Switches;
use crate::rollout::breaker::{MIN_UNITS_MAX, State, UNIT_ROWS, UNIT_SLOTS};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A unit as the request path tells it from others: a hash under a key of the process, so that nobody can choose ids that
/// hide behind another's. Never shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitMark(pub u64);

impl UnitMark {
    /// The unit's slot in each row of `breaker::UnitCounts`.
    #[inline]
    pub const fn slots(self) -> [usize; UNIT_ROWS] {
        let mixed = self.mixed();
        [(mixed >> 26) as usize % UNIT_SLOTS, (mixed >> 18) as usize % UNIT_SLOTS]
    }

    /// The unit's place among those seen lately.
    const fn seen_bit(self) -> u64 {
        1 << (self.mixed() >> 58)
    }

    /// What stands for the unit in a run.
    const fn in_run(self) -> u64 {
        (self.mixed() >> 34) & LOW
    }

    /// Spread over all bits, so that marks that are small numbers are told apart as well as hashes are (the multiplier is
    /// 2^64 divided by the golden ratio).
    const fn mixed(self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A run of failures on the canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Failures.
    pub failures: u32,
    /// Distinct units among them, up to `MIN_UNITS_MAX`.
    pub units: u32,
}

/// The state of a breaker and what may change it inline.
#[derive(Debug)]
pub(super) struct Circuit {
    read: Apart<Read>,
    run: Apart<RunCells>,
    /// Failures on stable, of which only whether there were any matters.
    stable_failures: Apart<AtomicU64>,
    marks: RandomState,
}

/// What requests read and hardly anybody writes.
#[derive(Debug, Default)]
struct Read {
    /// State and era, as bits of `Switches`.
    switches: AtomicU64,
    /// Units seen in the present span, a bit for each.
    seen: AtomicU64,
    /// Units seen in the span before.
    seen_before: AtomicU64,
    stable_sick: AtomicBool,
}

/// A run of failures. Every cell has the number of a run in its high 40 bits, and 24 bits of its own. A new run is a new
/// number in `count`; what the other cells say of earlier runs is void by then, so nothing is ever cleared.
#[derive(Debug)]
struct RunCells {
    /// Number of the run and failures in it.
    count: AtomicU64,
    /// What `stable_failures` was at the run's first failure.
    stable_before: AtomicU64,
    /// The distinct units that failed, the first free cell at the end.
    units: [AtomicU64; MIN_UNITS_MAX as usize],
    /// The run as it was when the circuit opened, failures high and units low: a success that comes at the same moment may
    /// end the run itself.
    at_opening: AtomicU64,
}

/// Cells on cache lines of their own (two of them, because processors fetch pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Apart<T>(T);

const LOW_BITS: u32 = 24;
const LOW: u64 = (1 << LOW_BITS) - 1;

/// The number of the run that a cell speaks of, in place.
const fn number(cell: u64) -> u64 {
    cell & !LOW
}

/// What became of a note for a run.
enum Noted {
    /// It stands in the cell.
    Here,
    /// The run has something else there.
    Taken,
    /// The run is over.
    Over,
}

impl Default for Circuit {
    fn default() -> Self {
        // Cells that were never written speak of run 0, which never was.
        let first = AtomicU64::new(1 << LOW_BITS);
        let run = RunCells {
            count: first,
            stable_before: AtomicU64::default(),
            units: Default::default(),
            at_opening: AtomicU64::default(),
        };
        Circuit {
            read: Apart::default(),
            run: Apart(run),
            stable_failures: Apart::default(),
            marks: RandomState::new(),
        }
    }
}

/// State and era.
impl Circuit {
    // Relaxed: nothing is published with the switches that a request would read on their word. `failed`, which must know
    // the era of the run it counts in, has its order from the run.
    #[inline]
    pub(super) fn switches(&self) -> Switches {
        Switches::from_bits(self.read.0.switches.load(Ordering::Relaxed))
    }

    pub(super) fn open(&self) -> bool {
        let run = self.run.0.count.load(Ordering::Acquire);
        self.open_with(run, |now| now.state() != State::Open)
    }

    fn open_with(&self, run: u64, may: impl Fn(Switches) -> bool) -> bool {
        // Kept first: whoever sees the circuit open acquires this. Of several that try to open at once each keeps a run
        // that was there.
        if may(self.switches()) {
            let Run { failures, units } = self.read_run(run);
            self.run.0.at_opening.store(u64::from(failures) << 32 | u64::from(units), Ordering::Relaxed);
        }
        self.move_if(State::Open, may)
    }

    pub(super) fn half_open(&self, seen: Switches) -> bool {
        self.follow(State::HalfOpen, seen)
    }

    pub(super) fn close(&self, seen: Switches) -> bool {
        self.follow(State::Closed, seen)
    }

    /// A step towards the canary: it was decided on what `seen` says, and is void if the circuit has opened since.
    fn follow(&self, state: State, seen: Switches) -> bool {
        let moved = self.move_if(state, |now| now.era() == seen.era());
        if moved {
            self.new_run();
        }
        moved
    }

    fn move_if(&self, state: State, may: impl Fn(Switches) -> bool) -> bool {
        let next = |bits| {
            let now = Switches::from_bits(bits);
            may(now).then(|| now.moved_to(state).bits())
        };
        self.read.0.switches.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok()
    }

    /// Always after the era has moved: whoever sees the new run sees its era too, because this releases and `failed`
    /// acquires.
    fn new_run(&self) {
        let next = |count: u64| Some(number(count).wrapping_add(1 << LOW_BITS));
        let _ = self.run.0.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }
}

/// The run of failures.
impl Circuit {
    #[inline]
    pub(super) fn succeeded(&self, era: u16) {
        // Relaxed: a failure on another worker at this very moment may come before or after, as it likes. On this worker it
        // came before and is seen.
        if self.run.0.count.load(Ordering::Relaxed) & LOW != 0 {
            self.end_run(era);
        }
    }

    #[cold]
    fn end_run(&self, era: u16) {
        let next = |count: u64| {
            // The era is read after the run, as in `failed`.
            (count & LOW != 0 && self.switches().era() == era).then(|| number(count).wrapping_add(1 << LOW_BITS))
        };
        let _ = self.run.0.count.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
    }

    pub(super) fn failed(&self, unit: UnitMark, era: u16, guard: &Guard) -> bool {
        if guard.consecutive_errors == 0 {
            return false;
        }
        loop {
            // The era is read after the run. If it moves after this reading, a new run begins after that, so that this
            // failure is either not counted or counted in the old run, of which nothing follows.
            let run = self.run.0.count.load(Ordering::Acquire);
            let now = self.switches();
            if now.era() != era || now.state() == State::Open {
                return false;
            }
            let stable_failures = self.stable_failures.0.load(Ordering::Relaxed) & LOW;
            let begun = !matches!(self.note(&self.run.0.stable_before, run, stable_failures), Noted::Over);
            if !begun || !self.note_unit(run, unit) {
                continue;
            }
            // The notes are there before the failure counts. Releasing them here and acquiring those of all failures
            // before makes whoever counts last see every unit, so of several failures at once the last one crosses.
            let more = if run & LOW == LOW { run } else { run.wrapping_add(1) };
            let counted = self.run.0.count.compare_exchange_weak(run, more, Ordering::AcqRel, Ordering::Relaxed);
            if counted.is_ok() {
                let may_open = |now: Switches| now.era() == era && now.state() != State::Open;
                return self.crosses(more, guard) && self.open_with(more, may_open);
            }
        }
    }

    fn crosses(&self, run: u64, guard: &Guard) -> bool {
        let enough_units = || self.units_of(run) >= guard.min_units.min(self.units_seen().max(1));
        run & LOW >= u64::from(guard.consecutive_errors).min(LOW)
            && enough_units()
            && !(guard.spares_both && self.stable_suffers(run))
    }

    /// Whether stable has failed too since the run began, or does so all the time.
    fn stable_suffers(&self, run: u64) -> bool {
        let before = self.run.0.stable_before.load(Ordering::Relaxed);
        let now = self.stable_failures.0.load(Ordering::Relaxed) & LOW;
        self.read.0.stable_sick.load(Ordering::Relaxed) || before != number(run) | now
    }

    /// Notes the unit among those of the run, once; false if the run is over.
    fn note_unit(&self, run: u64, unit: UnitMark) -> bool {
        for cell in &self.run.0.units {
            match self.note(cell, run, unit.in_run()) {
                Noted::Here => return true,
                Noted::Over => return false,
                Noted::Taken => {}
            }
        }
        // There are as many units as anybody can ask for.
        true
    }

    /// Writes into a cell on behalf of a run, unless the run has written there.
    fn note(&self, cell: &AtomicU64, run: u64, what: u64) -> Noted {
        let note = number(run) | what;
        let mut found = cell.load(Ordering::Acquire);
        loop {
            if found == note {
                return Noted::Here;
            }
            if number(found) == number(run) {
                return Noted::Taken;
            }
            // The cell speaks of another run. If that is a later one, its writer had seen the later number, and so does
            // this thread after acquiring what it wrote.
            if number(self.run.0.count.load(Ordering::Acquire)) != number(run) {
                return Noted::Over;
            }
            match cell.compare_exchange(found, note, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Noted::Here,
                Err(other) => found = other,
            }
        }
    }

    fn units_of(&self, run: u64) -> u32 {
        let of_run = |cell: &&AtomicU64| number(cell.load(Ordering::Relaxed)) == number(run);
        self.run.0.units.iter().filter(of_run).count() as u32
    }

    pub(super) fn run(&self) -> Run {
        let switches = Switches::from_bits(self.read.0.switches.load(Ordering::Acquire));
        if switches.state() != State::Open {
            return self.live_run();
        }
        let kept = self.run.0.at_opening.load(Ordering::Relaxed);
        Run { failures: (kept >> 32) as u32, units: kept as u32 }
    }

    fn live_run(&self) -> Run {
        self.read_run(self.run.0.count.load(Ordering::Acquire))
    }

    fn read_run(&self, run: u64) -> Run {
        let failures = (run & LOW) as u32;
        // A unit may be noted whose failure does not count yet.
        Run { failures, units: self.units_of(run).min(failures) }
    }
}

/// Units seen, and stable.
impl Circuit {
    #[inline]
    pub(super) fn mark(&self, unit: impl Hash) -> UnitMark {
        UnitMark(self.marks.hash_one(unit))
    }

    #[inline]
    pub(super) fn saw(&self, unit: UnitMark) {
        let seen = &self.read.0.seen;
        if seen.load(Ordering::Relaxed) & unit.seen_bit() == 0 {
            seen.fetch_or(unit.seen_bit(), Ordering::Relaxed);
        }
    }

    pub(super) fn units_seen(&self) -> u32 {
        let Read { seen, seen_before, .. } = &self.read.0;
        // The present span is read first: at a turn its units are copied before they are taken away.
        let present = seen.load(Ordering::Acquire);
        (present | seen_before.load(Ordering::Acquire)).count_ones()
    }

    pub(super) fn turn(&self) {
        let Read { seen, seen_before, .. } = &self.read.0;
        let ending = seen.load(Ordering::Relaxed);
        seen_before.store(ending, Ordering::Relaxed);
        // Only what was copied is taken away; a unit seen meanwhile stays. Released, so that a reader who misses the units
        // here finds them in the copy.
        seen.fetch_and(!ending, Ordering::Release);
    }

    pub(super) fn stable_failed(&self) {
        // Relaxed: only that it moved matters, and the breaker looks again soon.
        self.stable_failures.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn mark_stable_sick(&self, sick: bool) {
        self.read.0.stable_sick.store(sick, Ordering::Relaxed);
    }
}
