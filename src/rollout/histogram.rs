//! Latency in fixed log-linear buckets: microseconds in, quantiles out, the error stated.
//!
//! Values up to 63 us have a bucket each; above, every power of two is cut into 32 equal buckets. A quantile is reported
//! as the middle of its bucket, so it is at most 1/64 (1.6 %) away from a true value of that rank. Values from 2^36 us
//! (19 hours) on share the last bucket and are reported as if they lay in it. The layout is the same for every arm, so
//! counts can be added, subtracted and compared bucket by bucket.
//!
//! The request path only calls `bucket_of`; `Histogram` is for the collector and for windows.

use std::fmt;

/// Each power of two is cut into this many buckets, as a power of two.
const SUB_BITS: u32 = 5;
/// Buckets per power of two.
const SUBS: usize = 1 << SUB_BITS;
/// Values of more bits than this land in the last bucket: 2^36 us is 19 hours, longer than any deadline.
const MAX_BITS: u32 = 36;
/// How many buckets a histogram has.
pub const BUCKETS: usize = (MAX_BITS - SUB_BITS) as usize * SUBS + SUBS;
/// The largest distance of a reported quantile from a true value of that rank, as a fraction of that value.
pub const MAX_RELATIVE_ERROR: f64 = 1.0 / 64.0;

/// The bucket of a value in microseconds; always below `BUCKETS`.
#[inline]
pub const fn bucket_of(us: u64) -> usize {
    let bits = u64::BITS - us.leading_zeros();
    if bits <= SUB_BITS + 1 {
        return us as usize;
    }
    if bits > MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - SUB_BITS - 1;
    (shift as usize) * SUBS + (us >> shift) as usize
}

/// The smallest value of a bucket, in microseconds; of `BUCKETS` the first value that no bucket was made for.
pub const fn lower_bound_us(bucket: usize) -> u64 {
    if bucket < 2 * SUBS {
        return bucket as u64;
    }
    let shift = bucket / SUBS - 1;
    ((bucket % SUBS + SUBS) as u64) << shift
}

/// The largest value of a bucket, in microseconds (2^36 - 1 of the last one, although it holds larger ones too).
pub const fn upper_bound_us(bucket: usize) -> u64 {
    lower_bound_us(bucket + 1) - 1
}

/// The value that stands for all values of a bucket: its middle, in microseconds.
pub const fn middle_us(bucket: usize) -> u64 {
    let lower = lower_bound_us(bucket);
    lower + (lower_bound_us(bucket + 1) - lower) / 2
}

/// Counts by bucket, only those that are not zero: memory follows use, eight bytes for each bucket that was hit.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Sorted by bucket.
    bins: Vec<Bin>,
    count: u64,
}

/// A bucket (the low `BIN_BUCKET_BITS`) and its count (the rest, up to 2^54) in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bin(u64);

const BIN_BUCKET_BITS: u32 = 10;
const BIN_COUNT_MAX: u64 = u64::MAX >> BIN_BUCKET_BITS;
const _: () = assert!(BUCKETS == 1 << BIN_BUCKET_BITS, "a bin's bucket must fit its bits");

impl Bin {
    const fn new(bucket: usize, count: u64) -> Bin {
        let count = if count < BIN_COUNT_MAX { count } else { BIN_COUNT_MAX };
        Bin(count << BIN_BUCKET_BITS | bucket as u64)
    }

    const fn bucket(self) -> usize {
        self.0 as usize % BUCKETS
    }

    const fn count(self) -> u64 {
        self.0 >> BIN_BUCKET_BITS
    }

    const fn plus(self, count: u64) -> Bin {
        Bin::new(self.bucket(), self.count().saturating_add(count))
    }
}

impl Histogram {
    /// Counts `count` values of a bucket; a bucket from `BUCKETS` on counts as the last. Cheapest in ascending order.
    /// A bucket stops counting at 2^54 values.
    pub fn add(&mut self, bucket: usize, count: u64) {
        if count == 0 {
            return;
        }
        let added = Bin::new(bucket.min(BUCKETS - 1), count);
        if self.bins.last().is_none_or(|last| last.bucket() < added.bucket()) {
            self.bins.push(added);
            self.count = self.count.saturating_add(added.count());
            return;
        }
        let at = self.bins.partition_point(|bin| bin.bucket() < added.bucket());
        let before = match self.bins.get_mut(at) {
            Some(bin) if bin.bucket() == added.bucket() => std::mem::replace(bin, bin.plus(count)).count(),
            _ => {
                self.bins.insert(at, added);
                0
            }
        };
        let after = self.bins.get(at).map_or(before, |bin| bin.count());
        self.count = self.count.saturating_add(after.saturating_sub(before));
    }

    /// Counts one value in microseconds.
    pub fn record(&mut self, us: u64) {
        self.add(bucket_of(us), 1);
    }

    /// Counts everything that `other` counted.
    pub fn merge(&mut self, other: &Histogram) {
        if self.bins.is_empty() {
            self.clone_from(other);
            return;
        }
        // Both are sorted, and those of one series have mostly the same bins: each one's place is right after the last.
        let mut at = 0;
        for added in &other.bins {
            let bucket = added.bucket();
            if self.bins.get(at).is_some_and(|bin| bin.bucket() < bucket) {
                at += self.bins.get(at..).map_or(0, |rest| rest.partition_point(|bin| bin.bucket() < bucket));
            }
            let gained = match self.bins.get_mut(at) {
                Some(bin) if bin.bucket() == bucket => {
                    let before = std::mem::replace(bin, bin.plus(added.count()));
                    bin.count() - before.count()
                }
                _ => {
                    self.bins.insert(at, *added);
                    added.count()
                }
            };
            self.count = self.count.saturating_add(gained);
            at += 1;
        }
    }

    /// How many values there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Whether there is no value.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The buckets that have values, ascending, with their counts.
    pub fn buckets(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.bins.iter().map(|bin| (bin.bucket(), bin.count()))
    }

    /// The quantile `q` (0 to 1, taken to a millionth) in microseconds, by nearest rank: the middle of the bucket that
    /// holds the value of rank ceil(q x count), the first value for 0. At most `MAX_RELATIVE_ERROR` off that value if it
    /// is below 2^36 us, and exact up to 63 us. None without values.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        // In whole millionths, because 0.07 x 100 is more than 7 in floating point and would be rank 8.
        let millionths = (q.clamp(0.0, 1.0) * 1e6).round() as u128;
        let rank = (u128::from(self.count) * millionths).div_ceil(1_000_000).max(1);
        let mut seen = 0_u128;
        self.buckets().find_map(|(bucket, count)| {
            seen += u128::from(count);
            (seen >= rank).then(|| middle_us(bucket))
        })
    }

    /// How many values are at most `us`: exact if `us` is an upper bound of a bucket (every `us` up to 63 is). Otherwise
    /// the values above `us` in its bucket count as well, which are at most 1/32 larger than it.
    pub fn at_most(&self, us: u64) -> u64 {
        let last = bucket_of(us);
        let within = self.buckets().take_while(|&(bucket, _)| bucket <= last);
        within.fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Gives back memory beyond what the counts need.
    pub(super) fn shrink(&mut self) {
        self.bins.shrink_to_fit();
    }
}

/// From one count per bucket, in order, as a tally has them.
impl FromIterator<u64> for Histogram {
    fn from_iter<T: IntoIterator<Item = u64>>(counts: T) -> Self {
        let mut histogram = Histogram::default();
        for (bucket, count) in counts.into_iter().enumerate() {
            histogram.add(bucket, count);
        }
        histogram
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.buckets().map(|(bucket, count)| (lower_bound_us(bucket), count))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The first value that has no bucket of its own.
    const END_US: u64 = 1 << MAX_BITS;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        assert_eq!(lower_bound_us(0), 0);
        for bucket in 0..BUCKETS {
            let (lower, upper) = (lower_bound_us(bucket), upper_bound_us(bucket));
            assert!(lower <= middle_us(bucket) && middle_us(bucket) <= upper);
            assert_eq!((bucket_of(lower), bucket_of(upper)), (bucket, bucket));
            assert_eq!(lower_bound_us(bucket + 1), upper + 1);
        }
        assert_eq!(lower_bound_us(BUCKETS), END_US);
    }

    #[test]
    fn values_up_to_63_us_are_exact_and_those_beyond_19_hours_share_the_last_bucket() {
        for us in 0..64 {
            assert_eq!((middle_us(bucket_of(us)), upper_bound_us(bucket_of(us))), (us, us));
        }
        for us in [END_US, END_US + 1, u64::MAX] {
            assert_eq!(bucket_of(us), BUCKETS - 1);
        }
    }

    #[test]
    fn both_ends_of_every_bucket_are_within_the_stated_error_of_its_middle() {
        for bucket in 0..BUCKETS {
            for value in [lower_bound_us(bucket), upper_bound_us(bucket)] {
                let off = middle_us(bucket).abs_diff(value) as f64;
                assert!(off <= MAX_RELATIVE_ERROR * value as f64, "bucket {bucket}: {off} off {value}");
            }
        }
    }

    #[test]
    fn ranks_are_not_shifted_by_rounding() {
        let mut histogram = Histogram::default();
        (1..=50).for_each(|us| histogram.record(us));
        for percent in 1..=100_u64 {
            let expected = (percent * 50).div_ceil(100);
            assert_eq!(histogram.quantile(percent as f64 / 100.0), Some(expected), "p{percent}");
        }
        assert_eq!(histogram.quantile(0.0), Some(1));
        assert_eq!(histogram.quantile(0.999), Some(50));
        assert_eq!(histogram.quantile(f64::NAN), Some(1));
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn a_count_that_outgrows_its_bin_stays_at_the_top() {
        let mut histogram = Histogram::default();
        histogram.add(3, u64::MAX);
        histogram.add(3, u64::MAX);
        histogram.add(BUCKETS + 5, 1);
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(3, BIN_COUNT_MAX), (BUCKETS - 1, 1)]);
        assert_eq!(histogram.count(), BIN_COUNT_MAX + 1);
        assert_eq!(histogram.quantile(0.5), Some(3));
        assert!(histogram.quantile(1.0).is_some());
    }

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        let us = prop_oneof![0_u64..100, 0_u64..1_000_000, (0_u32..36).prop_flat_map(|bits| 0..1_u64 << bits)];
        prop::collection::vec(us, 1..400)
    }

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|&us| histogram.record(us));
        histogram
    }

    proptest! {
        #[test]
        fn a_larger_value_is_never_in_a_lower_bucket(one: u64, other: u64) {
            prop_assert!(bucket_of(one.min(other)) <= bucket_of(one.max(other)));
            prop_assert!(bucket_of(one) < BUCKETS);
        }

        #[test]
        fn a_quantile_is_within_the_stated_error_of_the_value_of_its_rank(mut values in durations(), per_mille in 0..=1000_u64) {
            let reported = of(&values).quantile(per_mille as f64 / 1000.0).expect("there are values");
            values.sort_unstable();
            let rank = (values.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = values[rank as usize - 1];
            prop_assert!(reported.abs_diff(exact) as f64 <= MAX_RELATIVE_ERROR * exact as f64, "{reported} for {exact}");
        }

        #[test]
        fn cumulative_counts_are_exact_at_every_bucket_edge(values in durations(), bucket in 0..BUCKETS) {
            let edge = upper_bound_us(bucket);
            let exact = values.iter().filter(|&&us| us <= edge).count() as u64;
            prop_assert_eq!(of(&values).at_most(edge), exact);
        }

        #[test]
        fn merging_is_recording_everything(one in durations(), other in durations()) {
            let mut merged = of(&one);
            merged.merge(&of(&other));
            prop_assert_eq!(merged.count(), (one.len() + other.len()) as u64);
            prop_assert_eq!(&merged, &of(&[one, other].concat()));
            let mut dense = vec![0; BUCKETS];
            merged.buckets().for_each(|(bucket, count)| dense[bucket] = count);
            prop_assert_eq!(dense.into_iter().collect::<Histogram>(), merged);
        }
    }
}
