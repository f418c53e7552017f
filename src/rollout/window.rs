//! Rolling windows: what happened in the last seconds up to the last 15 minutes, as counts and histograms.
//!
//! A window is a row of slices of one second each; seconds in which nothing happened take no memory, and a histogram
//! takes eight bytes for each bucket that was hit. It holds anything that adds up: all that is counted of a series of
//! requests, a plain number, or a histogram alone. Time is handed in. Fed and read by the control plane, one window per
//! series; the request path never sees it.

use super::histogram::{BUCKETS, Histogram};
use super::outcome::{CodeClass, ErrorKind};
use crate::clock::Time;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The length of a slice: the grain at which a window can begin.
pub const SLICE: Duration = Duration::from_secs(1);
/// How many full slices are kept besides the one that is being filled: 15 minutes.
pub const SLICES_KEPT: u64 = 900;

/// Something that is counted over time and adds up.
pub trait Counted: Clone + Default + fmt::Debug {
    /// Whether nothing was counted.
    fn is_empty(&self) -> bool;
    /// Counts everything that `other` counted.
    fn add(&mut self, other: &Self);
    /// Gives memory back that is not needed as long as nothing is added.
    fn shrink(&mut self) {}
    /// Everything that all of them counted.
    fn total<'a>(parts: impl Iterator<Item = &'a Self>) -> Self
    where
        Self: 'a,
    {
        parts.fold(Self::default(), |mut sum, part| {
            sum.add(part);
            sum
        })
    }
}

impl Counted for u64 {
    fn is_empty(&self) -> bool {
        *self == 0
    }

    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

impl Counted for Histogram {
    fn is_empty(&self) -> bool {
        Histogram::is_empty(self)
    }

    fn add(&mut self, other: &Self) {
        self.merge(other);
    }

    fn shrink(&mut self) {
        Histogram::shrink(self);
    }

    fn total<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let mut sum = Dense::default();
        parts.for_each(|part| sum.add(part));
        sum.into()
    }
}

impl Counted for Counts {
    fn is_empty(&self) -> bool {
        Counts::is_empty(self)
    }

    fn add(&mut self, other: &Self) {
        Counts::add(self, other);
    }

    fn shrink(&mut self) {
        self.first_byte.shrink();
        self.total.shrink();
    }

    fn total<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let (mut first_byte, mut total) = (Dense::default(), Dense::default());
        let mut sum = Counts::default();
        for part in parts {
            sum.add_plain(part);
            first_byte.add(&part.first_byte);
            total.add(&part.total);
        }
        sum.first_byte = first_byte.into();
        sum.total = total.into();
        sum
    }
}

/// What happened in some time to the requests of one series. The fields are those of `tally::Series`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that ended.
    pub ended: u64,
    /// Of those, by the class of the status the client got, in `CodeClass` order.
    pub codes: [u64; CodeClass::COUNT],
    /// Of those, the ones that counted against the arm, by kind in `ErrorKind` order; a request has one kind at most.
    pub errors: [u64; ErrorKind::COUNT],
    /// Of those, the ones whose client left before the end.
    pub client_left: u64,
    /// Request body bytes sent upstream.
    pub bytes_in: u64,
    /// Answer body bytes sent to the client.
    pub bytes_out: u64,
    /// Sum of the times in `first_byte`, in microseconds.
    pub first_byte_us: u64,
    /// Time from the request's head to the answer's head.
    pub first_byte: Histogram,
    /// Sum of the times in `total`, in microseconds.
    pub total_us: u64,
    /// Time from the request's head to the end of the answer's body.
    pub total: Histogram,
}

impl Counts {
    /// Requests that counted against the arm.
    pub fn failures(&self) -> u64 {
        self.errors.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        *self == Counts::default()
    }

    /// Counts everything that `other` counted.
    pub fn add(&mut self, other: &Counts) {
        self.add_plain(other);
        self.first_byte.merge(&other.first_byte);
        self.total.merge(&other.total);
    }

    /// `add` without the histograms.
    fn add_plain(&mut self, other: &Counts) {
        let count = |sum: &mut u64, count: u64| *sum = sum.saturating_add(count);
        count(&mut self.ended, other.ended);
        count(&mut self.client_left, other.client_left);
        count(&mut self.bytes_in, other.bytes_in);
        count(&mut self.bytes_out, other.bytes_out);
        count(&mut self.first_byte_us, other.first_byte_us);
        count(&mut self.total_us, other.total_us);
        self.codes.iter_mut().zip(&other.codes).for_each(|(sum, own)| count(sum, *own));
        self.errors.iter_mut().zip(&other.errors).for_each(|(sum, own)| count(sum, *own));
    }
}

/// The last 15 minutes of one series, by the second.
#[derive(Clone, Debug, Default)]
pub struct Window<T = Counts> {
    /// When counting began; nothing is known of the time before.
    began: Time,
    /// Slices in which something happened, the oldest first.
    slices: VecDeque<Slice<T>>,
}

#[derive(Clone, Debug)]
struct Slice<T> {
    /// The second since the clock began that the slice covers.
    second: u64,
    /// Boxed, so that a slice that has gone leaves 16 bytes behind and not the place of all its counts.
    counts: Box<T>,
}

impl<T: Counted> Window<T> {
    /// An empty window that counts from `now`.
    pub fn new(now: Time) -> Self {
        Window { began: now, slices: VecDeque::new() }
    }

    /// Counts what ended since the last push, as having ended `now`. A moment before that of the last push counts as the
    /// last push's. Slices that are too old are dropped, also by a push of nothing.
    pub fn push(&mut self, now: Time, counts: &T) {
        self.push_and_pass_on(now, counts, |_, _| {});
    }

    /// `push` that hands over what would be dropped, each with the second it happened in, the oldest first.
    pub fn push_and_pass_on(&mut self, now: Time, counts: &T, mut pass_on: impl FnMut(u64, Box<T>)) {
        let second = now.as_secs();
        let oldest = second.saturating_sub(SLICES_KEPT);
        while let Some(slice) = self.slices.pop_front_if(|slice| slice.second < oldest) {
            pass_on(slice.second, slice.counts);
        }
        if counts.is_empty() {
            return;
        }
        match self.slices.back_mut() {
            Some(last) if last.second >= second => last.counts.add(counts),
            last => {
                if let Some(filled) = last {
                    filled.counts.shrink();
                }
                self.slices.push_back(Slice { second, counts: Box::new(counts.clone()) });
            }
        }
    }

    /// Everything in the slices that cover the last `span`: the one that `now` lies in, as far as it is filled, and every
    /// earlier one that the span touches. Only whole slices are counted, so this reaches up to one second further back
    /// than the span (`covered` says how far) and never less far, down to 15 minutes.
    pub fn over(&self, now: Time, span: Duration) -> T {
        T::total(self.since(first_second(now, span), now))
    }

    /// What is kept of the seconds from `first` to the one that `now` lies in. A slice ahead of `now` is of a push that came
    /// between; it is not part of what is asked for.
    pub(super) fn since(&self, first: u64, now: Time) -> impl Iterator<Item = &T> {
        let slices = self.slices.iter().rev().take_while(move |slice| slice.second >= first);
        slices.filter(move |slice| slice.second <= now.as_secs()).map(|slice| &*slice.counts)
    }

    /// The time that `over` of the same arguments covers: what a rate per second divides by. It begins with the first
    /// slice that is counted, or when counting began if that was later, and is at least one slice.
    pub fn covered(&self, now: Time, span: Duration) -> Duration {
        let first = Time::from_micros(first_second(now, span).saturating_mul(1_000_000));
        now.since(first.max(self.began)).max(SLICE)
    }
}

/// The second in which the first slice of a span begins.
fn first_second(now: Time, span: Duration) -> u64 {
    (now - span).as_secs().max(now.as_secs().saturating_sub(SLICES_KEPT))
}

/// One count per bucket while many histograms are added: each costs its own bins then, not those of the sum.
#[derive(Default)]
struct Dense {
    /// Empty until something is counted.
    counts: Vec<u64>,
    /// The buckets that were hit lie from here on,
    first: usize,
    /// and before this one.
    end: usize,
}

impl Dense {
    fn add(&mut self, histogram: &Histogram) {
        if histogram.is_empty() {
            return;
        }
        if self.counts.is_empty() {
            (self.counts, self.first, self.end) = (vec![0; BUCKETS], BUCKETS, 0);
        }
        for (bucket, count) in histogram.buckets() {
            if let Some(sum) = self.counts.get_mut(bucket) {
                *sum = sum.saturating_add(count);
            }
            (self.first, self.end) = (self.first.min(bucket), self.end.max(bucket + 1));
        }
    }
}

impl From<Dense> for Histogram {
    fn from(dense: Dense) -> Self {
        let mut histogram = Histogram::default();
        let counts = dense.counts.get(dense.first..dense.end).unwrap_or_default();
        counts.iter().enumerate().for_each(|(at, count)| histogram.add(dense.first + at, *count));
        histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    fn requests(count: u64, us: u64) -> Counts {
        let mut counts = Counts { ended: count, first_byte_us: count * us, ..Counts::default() };
        counts.codes[CodeClass::Success as usize] = count;
        counts.first_byte.add(super::super::histogram::bucket_of(us), count);
        counts
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_span_covers_the_present_second_and_every_second_it_touches() {
        let mut window = Window::new(at(0));
        (0..20).for_each(|second| window.push(at(second * 1000 + 500), &requests(1 << second, 10)));
        let span = Duration::from_secs(3);
        let over = |ms| window.over(at(ms), span).ended;
        assert_eq!(over(10_000), 1 << 10 | 1 << 9 | 1 << 8 | 1 << 7);
        assert_eq!(over(10_999), 1 << 10 | 1 << 9 | 1 << 8 | 1 << 7);
        assert_eq!(window.covered(at(10_400), span), Duration::from_millis(3_400));
        assert_eq!(window.over(at(10_400), Duration::ZERO).ended, 1 << 10);
        assert_eq!(window.covered(at(10_400), Duration::ZERO), SLICE);
    }

    #[test]
    fn a_rate_is_not_thinned_by_time_before_counting_began() {
        let mut window = Window::new(at(100_000));
        window.push(at(104_000), &requests(40, 10));
        assert_eq!(window.covered(at(105_000), MINUTE), Duration::from_secs(5));
    }

    #[test]
    fn fifteen_minutes_are_kept_and_no_more_after_any_gap() {
        let mut window = Window::default();
        for second in 0..2_000 {
            window.push(at(second * 1000), &requests(1, 10));
            assert!(window.slices.len() as u64 <= SLICES_KEPT + 1);
        }
        let now = at(1_999_000);
        assert_eq!(window.over(now, Duration::MAX).ended, SLICES_KEPT + 1);
        assert_eq!(window.covered(now, Duration::MAX), Duration::from_secs(SLICES_KEPT));
        window.push(at(86_400_000), &Counts::default());
        assert!(window.slices.is_empty());
        window.push(at(86_401_000), &requests(3, 10));
        assert_eq!(window.over(at(86_401_000), MINUTE).ended, 3);
    }

    #[test]
    fn idle_time_ages_what_was_counted_without_a_push() {
        let mut window = Window::default();
        window.push(at(1_000), &requests(5, 10));
        assert_eq!(window.over(at(30_000), MINUTE).ended, 5);
        assert_eq!(window.over(at(62_000), MINUTE), Counts::default());
        assert_eq!(window.over(at(5_000_000), Duration::MAX), Counts::default());
    }

    #[test]
    fn nothing_is_stored_for_a_second_in_which_nothing_happened() {
        let mut window = Window::default();
        (0..500).for_each(|second| window.push(at(second * 1000), &Counts::default()));
        window.push(at(501_000), &requests(1, 10));
        assert_eq!(window.slices.len(), 1);
    }

    #[test]
    fn a_push_from_the_past_is_counted_and_breaks_no_order() {
        let mut window = Window::default();
        window.push(at(9_000), &requests(1, 10));
        window.push(at(4_000), &requests(2, 10));
        assert_eq!(window.over(at(9_500), SLICE).ended, 3);
        assert_eq!(window.over(at(5_000), MINUTE).ended, 0);
    }

    #[test]
    fn failures_are_the_sum_of_their_kinds() {
        let counts = Counts { errors: [1, 2, 0, 0, 0, 0, 0, 4], ..Counts::default() };
        assert_eq!(counts.failures(), 7);
        assert!(!counts.is_empty());
    }

    proptest! {
        #[test]
        fn a_window_equals_the_sum_of_its_pushes(
            pushes in prop::collection::vec((0_u64..4_000, 1_u64..50, 0_u64..10_000_000), 0..60),
            asked_ms in 0_u64..4_000,
            span_ms in 0_u64..2_000_000,
        ) {
            let mut window = Window::default();
            let (mut ms, mut log) = (0, Vec::new());
            for (gap, count, us) in pushes {
                // Gaps from none to more than the whole window.
                ms += gap * gap / 10;
                window.push(at(ms), &requests(count, us));
                log.push((ms, requests(count, us)));
            }
            let now = ms + asked_ms;
            let first = (now.saturating_sub(span_ms) / 1000).max((now / 1000).saturating_sub(SLICES_KEPT));
            let mut expected = Counts::default();
            log.iter().filter(|(ms, _)| ms / 1000 >= first).for_each(|(_, counts)| expected.add(counts));
            prop_assert_eq!(window.over(at(now), Duration::from_millis(span_ms)), expected);
        }
    }
}
