//! The last minutes of both arms, kept while somebody looks, as curves of block characters.

use crate::admin::view::review::{Point, PointArm};
use crate::admin::view::{Arm, Arms};
use crate::clock::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// What a curve may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// Requests per second; each arm on a scale of its own.
    Rps,
    /// Failures per request; one scale for both arms.
    Errors,
    /// The 95th percentile of latency; one scale for both arms.
    P95,
}

/// The newest numbers, a column each `STEP`; the oldest go first.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    columns: VecDeque<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    /// The number of its `STEP`.
    slot: u64,
    /// `[stable, canary]`, each of `[rps, errors, p95]`.
    peaks: [[Option<f64>; 3]; 2],
}

impl Ring {
    /// Takes what was counted before anybody looked: points, the oldest first, each with how long ago it ended.
    pub fn fill<'a>(&mut self, now: Time, points: impl Iterator<Item = (Duration, &'a Point)>) {
        let now = now.since(Time::default()) + BEFORE;
        let numbers = |arm: &PointArm| {
            let rate = (arm.requests > 0).then(|| arm.errors as f64 / arm.requests as f64);
            [Some(arm.rps), rate, arm.p95_ms]
        };
        for (ago, point) in points {
            let span = Duration::try_from_secs_f64(point.span_s).unwrap_or_default();
            let peaks = [numbers(&point.stable), numbers(&point.canary)];
            let (Some(end), Some(begin)) = (now.checked_sub(ago), now.checked_sub(ago + span)) else { continue };
            for slot in begin.as_secs() / STEP.as_secs()..end.as_secs() / STEP.as_secs() {
                if self.columns.back().is_none_or(|column| column.slot < slot) {
                    self.columns.push_back(Column { slot, peaks });
                }
            }
        }
        self.columns.drain(..self.columns.len().saturating_sub(COLUMNS_MAX));
    }

    /// Takes numbers in. Of those in one step the highest count: a peak is never smoothed away.
    pub fn add(&mut self, now: Time, arms: &Arms) {
        let slot = (now.since(Time::default()) + BEFORE).as_secs() / STEP.as_secs();
        let numbers = |arm: &Arm| [Some(arm.rps), arm.error_rate, arm.p95_ms];
        let seen = [numbers(&arms.stable), numbers(&arms.canary)];
        match self.columns.back_mut().filter(|column| column.slot == slot) {
            Some(column) => {
                for (peak, seen) in column.peaks.iter_mut().flatten().zip(seen.into_iter().flatten()) {
                    *peak = seen.into_iter().chain(*peak).reduce(f64::max);
                }
            }
            None => self.columns.push_back(Column { slot, peaks: seen }),
        }
        self.columns.drain(..self.columns.len().saturating_sub(COLUMNS_MAX));
    }

    /// The curves of stable and canary over the last `width` steps; steps without numbers are blank.
    pub fn draw(&self, curve: Curve, width: usize) -> [String; 2] {
        let Some(newest) = self.columns.back().map(|column| column.slot) else {
            return [" ".repeat(width), " ".repeat(width)];
        };
        let of = |arm: usize| {
            let mut values = vec![None; width];
            for column in &self.columns {
                let back = usize::try_from(newest - column.slot).unwrap_or(usize::MAX);
                let place = width.checked_sub(back.saturating_add(1)).and_then(|place| values.get_mut(place));
                let value = column.peaks.get(arm).and_then(|peaks| peaks.get(curve as usize)).copied().flatten();
                if let Some(place) = place {
                    *place = value;
                }
            }
            values
        };
        let top = |values: &[Option<f64>]| values.iter().flatten().copied().fold(0.0, f64::max);
        let (stable, canary) = (of(0), of(1));
        let both = top(&stable).max(top(&canary));
        let tops = match curve {
            Curve::Rps => [top(&stable), top(&canary)],
            // One failure in a thousand must not look like an outage.
            Curve::Errors => [both.max(0.01); 2],
            Curve::P95 => [both; 2],
        };
        let line = |values: &[Option<f64>], top: f64| values.iter().map(|value| block(*value, top)).collect();
        [line(&stable, tops[0]), line(&canary, tops[1])]
    }
}

/// Nothing is the lowest block; anything above nothing is higher.
fn block(value: Option<f64>, top: f64) -> char {
    let Some(value) = value else { return ' ' };
    let level = if value > 0.0 && top > 0.0 { (value / top * 7.0).ceil().clamp(1.0, 7.0) as usize } else { 0 };
    BLOCKS.get(level).copied().unwrap_or(' ')
}

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The time of one column, and the window of the numbers in it.
pub const STEP: Duration = Duration::from_secs(5);
/// Wider curves are never drawn: five minutes.
pub const COLUMNS_MAX: usize = 60;
/// How far curves reach back behind the moment at which somebody began to look.
pub const BEFORE: Duration = Duration::from_secs(STEP.as_secs() * COLUMNS_MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    fn arms(stable: (f64, f64, f64), canary: Option<(f64, f64, f64)>) -> Arms {
        let arm = |(rps, errors, p95)| Arm { rps, error_rate: Some(errors), p95_ms: Some(p95), ..Arm::default() };
        Arms { stable: arm(stable), canary: canary.map_or_else(Arm::default, arm) }
    }

    fn at(seconds: u64) -> Time {
        Time::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn curves_end_at_the_newest_number_and_gaps_are_blank() {
        let mut ring = Ring::default();
        assert_eq!(ring.draw(Curve::Rps, 3), ["   ", "   "]);
        ring.add(at(0), &arms((700.0, 0.0, 10.0), None));
        ring.add(at(5), &arms((100.0, 0.0, 20.0), Some((7.0, 0.5, 140.0))));
        ring.add(at(21), &arms((400.0, 0.001, 40.0), Some((3.0, 0.0, 70.0))));
        assert_eq!(ring.draw(Curve::Rps, 6), [" █▂  ▅", " ▁█  ▄"], "each arm on its own scale");
        assert_eq!(ring.draw(Curve::Errors, 6), [" ▁▁  ▂", "  █  ▁"], "both on one, and gaps stay gaps");
        assert_eq!(ring.draw(Curve::P95, 6), [" ▂▂  ▃", "  █  ▅"]);
        assert_eq!(ring.draw(Curve::Rps, 2), [" █", " █"], "a narrow window shows the newest");
        assert_eq!(ring.draw(Curve::Rps, 0), ["", ""]);
    }

    #[test]
    fn what_was_counted_before_is_on_the_curves_and_what_comes_goes_on() {
        let point = |rps: f64, span_s: f64| Point {
            span_s,
            stable: PointArm { rps, requests: 10, errors: 1, ..PointArm::default() },
            ..Point::default()
        };
        let (old, new) = (point(100.0, 10.0), point(400.0, 10.0));
        let ago = Duration::from_secs;
        let mut ring = Ring::default();
        ring.fill(at(2), [(ago(400), &old), (ago(22), &old), (ago(2), &new)].into_iter());
        ring.add(at(2), &arms((200.0, 0.0, 1.0), None));
        assert_eq!(ring.draw(Curve::Rps, 8)[0], " ▃▃  ██▅", "two columns for ten seconds each, and the gap between");
        assert_eq!(ring.draw(Curve::Errors, 8)[0], " ██  ██▁");
    }

    #[test]
    fn few_failures_look_like_few_and_peaks_stay() {
        let mut ring = Ring::default();
        ring.add(at(0), &arms((1.0, 0.000_1, 1.0), None));
        assert_eq!(ring.draw(Curve::Errors, 1), ["▂", " "]);
        ring.add(at(1), &arms((1.0, 0.9, 1.0), None));
        ring.add(at(2), &arms((1.0, 0.0, 1.0), None));
        assert_eq!(ring.draw(Curve::Errors, 1), ["█", " "]);
    }

    #[test]
    fn it_holds_a_stated_number() {
        let mut ring = Ring::default();
        (0..1000).for_each(|step| ring.add(at(step * 5), &arms((1.0, 0.0, 1.0), None)));
        assert_eq!(ring.columns.len(), COLUMNS_MAX);
    }
}
