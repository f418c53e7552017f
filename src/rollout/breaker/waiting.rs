//! How many requests have waited for an answer longer than a time, from three counters that only go up.
//!
//! A request's own age is not known here, and need not be: of those that had been started `after` ago at most as many as
//! have gone since can be gone, so the rest wait still. Memory is a short ring of readings.

use crate::clock::Time;
use std::collections::VecDeque;
use std::time::Duration;

/// Readings within `after`, at most; closer ones are left out, so the rule acts up to `after / 64` late.
const READINGS_MAX: u32 = 64;

/// What is known of requests under way.
#[derive(Clone, Debug)]
pub struct Waiting {
    after: Duration,
    /// The oldest first; the first one is the latest that is at least `after` old, once there is one.
    readings: VecDeque<Reading>,
    /// Where counting began: what was started before belongs to another state of the breaker.
    base: Option<Reading>,
}

/// The counters at one moment; see `Measured`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// When.
    pub time: Time,
    /// Requests started.
    pub started: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests that ended without an answer.
    pub unanswered: u64,
}

impl Waiting {
    /// Knows nothing yet.
    pub fn new(after: Duration) -> Waiting {
        Waiting { after, readings: VecDeque::new(), base: None }
    }

    /// Forgets everything, requests that are under way included.
    pub fn clear(&mut self) {
        self.readings.clear();
        self.base = None;
    }

    /// Takes the present reading in. Returns how many requests have waited longer than `after` if none was answered within
    /// it; a lower bound.
    pub fn push(&mut self, reading: Reading) -> u64 {
        let base = self.base.get_or_insert(reading);
        if reading.started <= reading.gone() {
            // Nothing is under way, so nothing of an earlier state can be mistaken for what ends from now on.
            *base = reading;
        }
        let base = *base;
        if self.readings.back().is_none_or(|last| last.time + self.after / READINGS_MAX <= reading.time) {
            self.readings.push_back(reading);
        }
        let then = reading.time - self.after;
        while self.readings.get(1).is_some_and(|second| second.time <= then) {
            self.readings.pop_front();
        }
        match self.readings.front() {
            Some(old) if old.time <= then && old.time < reading.time && old.answered == reading.answered => {
                let started = old.started.saturating_sub(base.started);
                started.saturating_sub(reading.gone().saturating_sub(base.gone()))
            }
            _ => 0,
        }
    }
}

impl Reading {
    fn gone(&self) -> u64 {
        self.answered.saturating_add(self.unanswered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(2);

    fn at(ms: u64, started: u64, answered: u64, unanswered: u64) -> Reading {
        Reading { time: Time::from_micros(ms * 1000), started, answered, unanswered }
    }

    #[test]
    fn requests_wait_from_the_moment_that_they_are_older_than_the_limit() {
        let mut waiting = Waiting::new(AFTER);
        assert_eq!(waiting.push(at(0, 10, 10, 0)), 0);
        assert_eq!(waiting.push(at(100, 16, 10, 0)), 0);
        assert_eq!(waiting.push(at(2_099, 30, 10, 0)), 0);
        assert_eq!(waiting.push(at(2_100, 31, 10, 0)), 6);
        assert_eq!(waiting.push(at(2_200, 31, 10, 2)), 4);
    }

    #[test]
    fn one_answer_within_the_limit_shows_that_the_arm_lives() {
        let mut waiting = Waiting::new(AFTER);
        waiting.push(at(0, 0, 0, 0));
        waiting.push(at(100, 50, 0, 0));
        assert_eq!(waiting.push(at(2_100, 60, 1, 0)), 0);
        assert_eq!(waiting.push(at(4_000, 60, 1, 0)), 0);
        assert_eq!(waiting.push(at(4_100, 60, 1, 0)), 59);
    }

    #[test]
    fn requests_of_an_earlier_state_do_not_wait() {
        let mut waiting = Waiting::new(AFTER);
        // 40 are under way when counting begins, 3 more come, then some of the 40 end.
        waiting.push(at(0, 100, 60, 0));
        waiting.push(at(100, 103, 60, 0));
        assert_eq!(waiting.push(at(2_500, 103, 60, 0)), 3);
        assert_eq!(waiting.push(at(2_600, 103, 60, 30)), 0);
        // Once nothing is under way the count is exact again.
        waiting.push(at(3_000, 103, 60, 43));
        waiting.push(at(3_100, 110, 60, 43));
        assert_eq!(waiting.push(at(5_200, 110, 60, 43)), 7);
    }

    #[test]
    fn readings_are_bounded_whatever_the_pace() {
        let mut waiting = Waiting::new(Duration::from_secs(60));
        (0..100_000).for_each(|look| {
            waiting.push(at(look * 25, look, 0, 0));
            assert!(waiting.readings.len() <= READINGS_MAX as usize + 2);
        });
    }
}
