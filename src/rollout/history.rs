//! What happened to one series since its counting began, the finer the younger: seconds for 15 minutes, minutes for
//! 72 hours, hours beyond, and exactly what happened since a stage began.
//!
//! Every tier is sparse: a time in which nothing happened takes no memory. A history goes on where that of an earlier process
//! stopped, as if there had been no time between. Fed and read by the control plane.

use super::stages::Span;
use super::window::{Counted, Counts, SLICE, SLICES_KEPT, Window};
use crate::clock::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Seconds of a slice of the middle tier, and how many are kept: 72 hours.
const MINUTES: (u64, u64) = (60, 72 * 60);
/// Seconds of a slice of the coarsest tier, and how many are kept: 400 days.
const HOURS: (u64, u64) = (3600, 400 * 24);

/// What happened to one series.
#[derive(Clone, Debug, Default)]
pub struct History<T = Counts> {
    /// How far what an earlier process counted reaches back before this clock's zero: all times in here are that much later.
    reach: Duration,
    began: Time,
    recent: Window<T>,
    minutes: Tier<T>,
    hours: Tier<T>,
    /// When the present stage began, and what happened since.
    marked: Time,
    since_mark: T,
    /// What happened since it was last taken to be kept.
    unsaved: T,
}

/// Slices of one length, the oldest first.
#[derive(Clone, Debug, Default)]
struct Tier<T> {
    slices: VecDeque<(u64, Box<T>)>,
}

impl<T: Counted> History<T> {
    /// An empty history that counts from `now`.
    pub fn new(now: Time) -> Self {
        History { began: now, recent: Window::new(now), marked: now, ..History::default() }
    }

    /// A history that goes on `now`: an earlier process counted for as long as `reach`, and the present stage began `marked`
    /// ago. What was counted comes by `take_past`.
    pub fn resumed(now: Time, reach: Duration, marked: Duration) -> Self {
        let (reach, marked) = (reach.max(marked), now + reach.saturating_sub(marked));
        History { reach, began: now, recent: Window::new(now), marked, ..History::default() }
    }

    /// Takes in what an earlier process counted up to `ago` before `now`; the oldest comes first, and all of it before the
    /// first push. Some of it belongs to the present stage.
    pub fn take_past(&mut self, now: Time, ago: Duration, counts: &T, in_stage: bool) {
        self.age(now + self.reach.saturating_sub(ago), counts);
        if in_stage {
            self.since_mark.add(counts);
        }
    }

    /// Counts what ended since the last push, as having ended `now`.
    pub fn push(&mut self, now: Time, counts: &T) {
        self.age(now + self.reach, counts);
        if !counts.is_empty() {
            self.since_mark.add(counts);
            self.unsaved.add(counts);
        }
    }

    /// What happened since this was last called.
    pub fn take_unsaved(&mut self) -> T {
        std::mem::take(&mut self.unsaved)
    }

    /// What `take_unsaved` would give.
    pub fn unsaved(&self) -> &T {
        &self.unsaved
    }

    /// Counts into the tiers, and passes on what has grown too old for one.
    fn age(&mut self, now: Time, counts: &T) {
        let History { recent, minutes, hours, .. } = self;
        recent.push_and_pass_on(now, counts, |second, counts| minutes.take(second / MINUTES.0, counts));
        let second = now.as_secs();
        while let Some((minute, counts)) = minutes.expired(second, MINUTES) {
            hours.take(minute * MINUTES.0 / HOURS.0, counts);
        }
        while hours.expired(second, HOURS).is_some() {}
    }

    /// A stage begins: `since_mark` counts from here.
    pub fn mark(&mut self, now: Time) {
        self.marked = now + self.reach;
        self.since_mark = T::default();
    }

    /// Everything since the last mark.
    pub fn since_mark(&self) -> &T {
        &self.since_mark
    }

    /// The time that `since_mark` covers; at least a second.
    pub fn marked_for(&self, now: Time) -> Duration {
        (now + self.reach).since(self.marked.max(self.began)).max(SLICE)
    }

    /// Everything in the last `span`. Whole slices are counted, so it reaches up to one slice further back than the span:
    /// a second within 15 minutes, a minute within 72 hours, an hour beyond.
    pub fn over(&self, now: Time, span: Duration) -> T {
        let now = now + self.reach;
        if span.as_secs() < SLICES_KEPT {
            return self.recent.over(now, span);
        }
        // Seconds that are about to be passed on to the minutes are still among the recent ones, so all of these count.
        let first = (now - span).as_secs();
        let recent = self.recent.since(first, now);
        let minutes = recent.chain(self.minutes.since(first / MINUTES.0));
        // As far as minutes are kept, no hour holds anything of the span, though one may begin in it.
        if first / MINUTES.0 + MINUTES.1 >= now.as_secs() / MINUTES.0 {
            return T::total(minutes);
        }
        T::total(minutes.chain(self.hours.since(first / HOURS.0)))
    }

    /// What happened in the span of a criterion.
    pub fn taken(&self, span: Span, now: Time) -> T {
        match span {
            Span::Stage => self.since_mark().clone(),
            Span::InStage(last) if self.marked_for(now) <= last => self.since_mark().clone(),
            Span::Last(last) | Span::InStage(last) => self.over(now, last),
        }
    }

    /// The time that `taken` of the same arguments covers.
    pub fn taken_for(&self, span: Span, now: Time) -> Duration {
        match span {
            Span::Stage => self.marked_for(now),
            Span::InStage(last) => self.covered(now, last).min(self.marked_for(now)),
            Span::Last(last) => self.covered(now, last),
        }
    }

    /// The time that `over` of the same arguments covers: what a rate per second divides by. It begins when counting began
    /// if that was later, and is at least a second.
    pub fn covered(&self, now: Time, span: Duration) -> Duration {
        let now = now + self.reach;
        if span.as_secs() < SLICES_KEPT {
            return self.recent.covered(now, span);
        }
        now.since((now - span).max(self.began)).max(SLICE)
    }
}

impl<T: Counted> Tier<T> {
    /// Takes what happened in that slice, which is no older than the last one taken.
    fn take(&mut self, slice: u64, counts: Box<T>) {
        match self.slices.back_mut() {
            Some((last, sum)) if *last >= slice => sum.add(&counts),
            last => {
                if let Some((_, filled)) = last {
                    filled.shrink();
                }
                self.slices.push_back((slice, counts));
            }
        }
    }

    /// Takes the oldest slice out if it lies wholly before what is kept.
    fn expired(&mut self, second: u64, (seconds, kept): (u64, u64)) -> Option<(u64, Box<T>)> {
        let oldest = (second / seconds).saturating_sub(kept);
        self.slices.pop_front_if(|(slice, _)| *slice < oldest)
    }

    /// The slices from `first` on.
    fn since(&self, first: u64) -> impl Iterator<Item = &T> {
        self.slices.iter().rev().take_while(move |(slice, _)| *slice >= first).map(|(_, counts)| &**counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 86_400;

    fn at(second: u64) -> Time {
        Time::from_micros(second * 1_000_000)
    }

    fn requests(count: u64) -> Counts {
        Counts { ended: count, ..Counts::default() }
    }

    fn over(history: &History, now: u64, span: u64) -> u64 {
        history.over(at(now), Duration::from_secs(span)).ended
    }

    #[test]
    fn nothing_is_lost_while_it_ages_through_the_tiers() {
        let mut history = History::new(at(0));
        let mut pushed = 0;
        for step in 0..20_000 {
            history.push(at(step * 97), &requests(step % 7 + 1));
            pushed += step % 7 + 1;
        }
        let now = 19_999 * 97;
        assert_eq!(over(&history, now, 400 * DAY), pushed);
        assert!(history.recent.over(at(now), Duration::MAX).ended < 50);
        assert!(history.minutes.slices.len() as u64 <= MINUTES.1 + 1);
        assert!(history.hours.slices.len() <= 600, "{}", history.hours.slices.len());
    }

    #[test]
    fn long_spans_reach_back_to_the_minute_and_then_to_the_hour() {
        let mut history = History::new(at(0));
        (0..200 * 60).for_each(|minute| history.push(at(minute * 60 + 30), &requests(1)));
        let now = 200 * 3600;
        history.push(at(now), &Counts::default());
        assert_eq!(over(&history, now, 3600), 60);
        assert_eq!(over(&history, now, 48 * 3600), 48 * 60);
        assert_eq!(over(&history, now, 100 * 3600), 100 * 60);
        assert_eq!(history.covered(at(now), Duration::from_secs(400 * DAY)), Duration::from_secs(now));
    }

    #[test]
    fn a_mark_counts_exactly_from_its_moment() {
        let mut history = History::new(at(0));
        history.push(at(1), &requests(5));
        history.mark(at(1));
        assert_eq!(history.since_mark().ended, 0);
        history.push(at(1), &requests(2));
        history.push(at(90 * DAY), &requests(3));
        assert_eq!(history.since_mark().ended, 5);
        assert_eq!(history.marked_for(at(61)), Duration::from_secs(60));
    }

    #[test]
    fn a_series_that_has_come_to_rest_keeps_its_past() {
        let mut history = History::new(at(0));
        history.push(at(10), &3_u64);
        // Nothing is pushed any more, so nothing has been passed on to the minutes.
        assert_eq!(history.over(at(2_000), Duration::from_secs(3600)), 3);
        assert_eq!(history.over(at(2_000), Duration::from_secs(60)), 0);
        history.push(at(2_000), &0);
        assert_eq!(history.over(at(2_000), Duration::from_secs(3600)), 3);
    }

    #[test]
    fn what_is_older_than_all_tiers_is_forgotten() {
        let mut history = History::new(at(0));
        history.push(at(1), &requests(5));
        history.push(at(401 * DAY), &Counts::default());
        history.push(at(802 * DAY), &Counts::default());
        assert_eq!(over(&history, 802 * DAY, 900 * DAY), 0);
        assert!(history.minutes.slices.is_empty() && history.hours.slices.is_empty());
    }

    #[test]
    fn a_span_within_the_minutes_counts_nothing_that_has_passed_into_hours() {
        let mut history = History::new(at(0));
        let now = 73 * 3600 + 200;
        // The minute of the first one has passed into an hour in which the shorter span begins.
        [3700, 7100, now].into_iter().for_each(|second| history.push(at(second), &requests(1)));
        assert_eq!(over(&history, now, now - 7000), 2);
        assert_eq!(over(&history, now, now - 3700), 3);
    }

    #[test]
    fn a_history_goes_on_as_if_nothing_had_come_between() {
        let (mut whole, mut first) = (History::new(at(0)), History::new(at(0)));
        let mut log = Vec::new();
        for minute in 0..300_u64 {
            let counts = requests(minute % 7 + 1);
            whole.push(at(minute * 60), &counts);
            first.push(at(minute * 60), &counts);
            log.push((minute, first.take_unsaved()));
            if minute == 100 {
                whole.mark(at(minute * 60));
                first.mark(at(minute * 60));
            }
        }
        // The other process begins at its own zero, five hours after the first one did.
        let end = 300 * 60;
        let mut second = History::resumed(at(0), Duration::from_secs(end), Duration::from_secs(200 * 60));
        for (minute, counts) in &log {
            second.take_past(at(0), Duration::from_secs(end - minute * 60), counts, *minute > 100);
        }
        assert_eq!(second.unsaved().ended, 0);
        whole.push(at(end + 5), &requests(9));
        second.push(at(5), &requests(9));
        for span in [1, 60, 600, 3600, 4 * 3600, 6 * 3600] {
            assert_eq!(over(&second, 5, span), over(&whole, end + 5, span), "{span}");
            let covered = |history: &History, now| history.covered(at(now), Duration::from_secs(span));
            assert_eq!(covered(&second, 5), covered(&whole, end + 5), "{span}");
        }
        assert_eq!(second.since_mark(), whole.since_mark());
        assert_eq!(second.marked_for(at(5)), whole.marked_for(at(end + 5)));
        second.mark(at(5));
        assert_eq!(second.marked_for(at(65)), Duration::from_secs(60));
        assert_eq!(second.take_unsaved().ended, 9);
    }

    proptest! {
        #[test]
        fn a_span_counts_all_of_itself_and_at_most_one_slice_more(
            gaps in prop::collection::vec(0_u64..20_000, 1..200),
            span in 0_u64..600_000,
        ) {
            let mut history = History::new(at(0));
            let (mut second, mut log) = (0, Vec::new());
            for gap in gaps {
                second += gap;
                history.push(at(second), &requests(1));
                log.push(second);
            }
            let since = |reach: u64| log.iter().filter(|&&at| at >= second.saturating_sub(reach)).count() as u64;
            let counted = over(&history, second, span);
            let slice = if span < 900 { 1 } else if span <= 72 * 3600 - 60 { 60 } else { 3600 };
            prop_assert!(counted >= since(span) && counted <= since(span + slice), "{counted} of {}", since(span));
        }
    }
}
