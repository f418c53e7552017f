//! What a rule remembers: the last seconds of one arm, slice by slice, in memory that does not grow with traffic.
//!
//! A rule keeps a ring per arm instead of a `window::Window`, which reaches back 15 minutes and knows no units: a ring is
//! as long as its rule, keeps running sums so that a quiet look costs next to nothing, and is emptied whole.

use super::{UNIT_ROWS, UNIT_SLOTS, UnitCounts};
use crate::clock::Time;
use crate::rollout::histogram::Histogram;
use std::collections::VecDeque;
use std::time::Duration;

/// Slices of a window at most; a longer window than that many seconds has longer slices. A slice with failures takes 2 KiB
/// for its units, so a ring stays below 150 KiB and its histograms.
const SLICES_MAX: u64 = 64;

/// The last slices of one arm.
#[derive(Clone, Debug)]
pub struct Ring {
    window: Duration,
    slice_s: u64,
    slices: VecDeque<Slice>,
    share: Share,
}

/// What is added to a ring; every part may be left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct More<'a> {
    /// Requests, and those of them that the rule holds against the arm.
    pub share: Share,
    /// The latter by unit.
    pub units: Option<&'a UnitCounts>,
    /// Times to the first byte.
    pub times: Option<&'a Histogram>,
    /// Distinct units seen on the arm lately.
    pub units_seen: u32,
}

#[derive(Clone, Debug, Default)]
struct Slice {
    /// Which slice since the clock began.
    index: u64,
    share: Share,
    units: Option<Box<UnitCounts>>,
    times: Histogram,
    units_seen: u32,
}

impl Ring {
    /// An empty ring over that time.
    pub fn new(window: Duration) -> Ring {
        let slice_s = window.as_secs().div_ceil(SLICES_MAX).max(1);
        Ring { window, slice_s, slices: VecDeque::new(), share: Share::default() }
    }

    /// Over which time.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.slices.clear();
        self.share = Share::default();
    }

    /// Adds what happened until `now` and forgets what is older than the window. Like those of a `Window`, slices are
    /// counted whole: the ring reaches up to one slice further back than the window, never less far.
    pub fn push(&mut self, now: Time, more: &More) {
        let oldest = (now - self.window).as_secs() / self.slice_s;
        while let Some(gone) = self.slices.pop_front_if(|slice| slice.index < oldest) {
            self.share.part = self.share.part.saturating_sub(gone.share.part);
            self.share.whole = self.share.whole.saturating_sub(gone.share.whole);
        }
        if more.share == Share::default() && more.units.is_none() {
            return;
        }
        let index = now.as_secs() / self.slice_s;
        if self.slices.back().is_none_or(|last| last.index < index) {
            self.slices.push_back(Slice { index, ..Slice::default() });
        }
        self.share.add(more.share);
        if let Some(last) = self.slices.back_mut() {
            last.add(more);
        }
    }

    /// Requests of the window, and those that are held against the arm.
    pub fn share(&self) -> Share {
        self.share
    }

    /// The times to the first byte in the window.
    pub fn times(&self) -> Histogram {
        let mut times = Histogram::default();
        self.slices.iter().for_each(|slice| times.merge(&slice.times));
        times
    }

    /// Distinct units seen while the window lasted: a lower bound.
    pub fn units_seen(&self) -> u32 {
        self.slices.iter().map(|slice| slice.units_seen).max().unwrap_or(0)
    }

    /// What the window holds against the arm, by unit.
    pub fn units(&self) -> Spread {
        let mut sum = [[0; UNIT_SLOTS]; UNIT_ROWS];
        self.slices.iter().filter_map(|slice| slice.units.as_deref()).for_each(|units| add_units(&mut sum, units));
        Spread(sum)
    }
}

impl Slice {
    fn add(&mut self, more: &More) {
        self.share.add(more.share);
        self.units_seen = self.units_seen.max(more.units_seen);
        if let Some(times) = more.times {
            self.times.merge(times);
        }
        match (&mut self.units, more.units) {
            (Some(sum), Some(units)) => add_units(sum, units),
            (none, Some(units)) => *none = Some(Box::new(*units)),
            (_, None) => {}
        }
    }
}

fn add_units(sum: &mut UnitCounts, units: &UnitCounts) {
    let slots = sum.as_flattened_mut().iter_mut().zip(units.as_flattened());
    slots.for_each(|(sum, count)| *sum = sum.saturating_add(*count));
}

/// Requests by unit, for cutting what single units contribute.
#[derive(Debug)]
pub struct Spread(UnitCounts);

impl Spread {
    /// How many requests there are if no unit counts for more than `most`. Units that share a slot are cut together, so of
    /// the rows the one that keeps more is nearer to the truth.
    pub fn cut_at(&self, most: u64) -> u64 {
        let row = |row: &[u32; UNIT_SLOTS]| row.iter().map(|&count| u64::from(count).min(most)).sum();
        self.0.iter().map(row).max().unwrap_or(0)
    }

    /// Distinct units among them: a lower bound.
    pub fn distinct(&self) -> u32 {
        let row = |row: &[u32; UNIT_SLOTS]| row.iter().map(|&count| u32::from(count > 0)).sum();
        self.0.iter().map(row).max().unwrap_or(0)
    }
}

/// A part of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// How many belong to the part.
    pub part: u64,
    /// How many there are.
    pub whole: u64,
}

impl Share {
    /// Adds requests of another time.
    pub fn add(&mut self, more: Share) {
        self.part = self.part.saturating_add(more.part);
        self.whole = self.whole.saturating_add(more.whole);
    }

    /// Whether it is more than that many parts per million; nothing of nothing is not.
    pub fn exceeds(self, limit_ppm: u32) -> bool {
        u128::from(self.part) * 1_000_000 > u128::from(self.whole) * u128::from(limit_ppm)
    }

    /// Whether it is more than `other` by at least that many parts per million; nothing of nothing counts as none.
    pub fn leads(self, other: Share, by_ppm: u32) -> bool {
        let [whole, other_whole] = [self.whole, other.whole].map(|whole| i128::from(whole.max(1)));
        // Exact up to 2^53 requests each, which no window will ever hold.
        let [mine, others] =
            [(self.part, other_whole), (other.part, whole)].map(|(part, of)| i128::from(part).saturating_mul(of));
        let lead = mine.saturating_sub(others).saturating_mul(1_000_000);
        lead >= whole.saturating_mul(other_whole).saturating_mul(i128::from(by_ppm))
    }

    /// Whether it is less than half of `other`; nothing of nothing counts as none.
    pub fn is_below_half_of(self, other: Share) -> bool {
        let [whole, other_whole] = [self.whole, other.whole].map(|whole| u128::from(whole.max(1)));
        (u128::from(self.part) * 2).saturating_mul(other_whole) < u128::from(other.part).saturating_mul(whole)
    }

    /// The larger of both.
    pub fn max(self, other: Share) -> Share {
        if other.leads(self, 0) { other } else { self }
    }

    /// In percent; nothing of nothing is 0.
    pub fn percent(self) -> f64 {
        100.0 * self.part as f64 / self.whole.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn more(part: u64, whole: u64) -> More<'static> {
        More { share: Share { part, whole }, ..More::default() }
    }

    #[test]
    fn a_ring_forgets_what_is_older_than_its_window_by_whole_slices() {
        let mut ring = Ring::new(Duration::from_secs(10));
        ring.push(at(500), &more(1, 2));
        ring.push(at(5_000), &more(1, 3));
        ring.push(at(10_999), &more(0, 0));
        assert_eq!(ring.share(), Share { part: 2, whole: 5 });
        ring.push(at(11_000), &more(0, 0));
        assert_eq!(ring.share(), Share { part: 1, whole: 3 });
        ring.push(at(90_000), &more(0, 0));
        assert_eq!(ring.share(), Share::default());
    }

    #[test]
    fn a_long_window_takes_no_more_slices_than_a_short_one() {
        for window_s in [1, 10, 64, 65, 900, 86_400] {
            let mut ring = Ring::new(Duration::from_secs(window_s));
            (0..2 * window_s).for_each(|second| ring.push(at(second * 1000), &more(1, 1)));
            assert!(ring.slices.len() as u64 <= SLICES_MAX + 2, "{window_s}: {}", ring.slices.len());
            assert!(ring.share().whole >= window_s, "{window_s}: {:?}", ring.share());
        }
    }

    #[test]
    fn a_unit_is_cut_and_counted_by_its_slots() {
        let mut units = [[0; UNIT_SLOTS]; UNIT_ROWS];
        // Two units that share a slot in the first row.
        (units[0][7], units[1][1], units[1][2]) = (12, 4, 8);
        let mut ring = Ring::new(Duration::from_secs(10));
        ring.push(at(0), &More { units: Some(&units), ..more(12, 20) });
        ring.push(at(3_000), &More { units: Some(&units), ..more(12, 20) });
        let spread = ring.units();
        assert_eq!((spread.distinct(), spread.cut_at(100), spread.cut_at(10), spread.cut_at(0)), (2, 24, 18, 0));
    }

    #[test]
    fn shares_are_compared_exactly() {
        let share = |part, whole| Share { part, whole };
        assert!(!share(10, 20).exceeds(500_000) && share(11, 20).exceeds(500_000));
        assert!(!share(0, 0).exceeds(0));
        assert!(share(60, 100).leads(share(35, 100), 250_000) && !share(60, 100).leads(share(36, 100), 250_000));
        assert!(share(3, 10).leads(share(0, 0), 300_000) && !share(0, 0).leads(share(1, 10), 0));
        assert!(share(49, 100).is_below_half_of(share(99, 100)) && !share(50, 100).is_below_half_of(share(100, 100)));
        assert!(share(0, 0).is_below_half_of(share(1, 9)) && !share(0, 0).is_below_half_of(share(0, 0)));
        assert_eq!(share(1, 3).max(share(1, 2)), share(1, 2));
        assert_eq!(share(1, 2).max(share(0, 0)), share(1, 2));
        let many = 1 << 53;
        assert!(
            share(many, many).leads(share(0, many), 1_000_000) && !share(many - 1, many).leads(share(0, 1), 1_000_000)
        );
    }
}
