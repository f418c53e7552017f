//! How seldom a new connection is opened for copies to an endpoint where they come to nothing: a canary that refuses, resets or
//! talks nonsense would otherwise have the kernel open one for every copy, which whoever shares its machine would notice.
//!
//! Pure: `pool` keeps one per endpoint for the copies of a worker, `replica` tells it what became of them. A connection that is
//! kept from an earlier copy is used whatever this says.

use crate::clock::Time;
use std::time::Duration;

/// How copies to one endpoint fared lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    /// Pauses in a row that ended in a failure.
    level: u32,
    until: Time,
    /// Whether a copy is on its way that tries it after a pause.
    trying: bool,
}

impl Backoff {
    /// Until when other endpoints come first.
    pub fn until(&self) -> Time {
        self.until
    }

    /// Whether a copy may open a connection. After a pause one may; until it is known how that went the next ones wait as long
    /// again.
    pub fn permits(&mut self, now: Time) -> bool {
        if self.level == 0 {
            return true;
        }
        if now < self.until {
            return false;
        }
        (self.until, self.trying) = (now.plus(self.pause()), true);
        true
    }

    /// A copy failed. Those that were on their way together with one that failed say nothing new.
    pub fn failed(&mut self, now: Time) {
        if self.trying || now >= self.until {
            self.level = self.level.saturating_add(1);
            (self.until, self.trying) = (now.plus(self.pause()), false);
        }
    }

    /// A copy was answered to the end.
    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    fn pause(&self) -> Duration {
        let doublings = self.level.saturating_sub(1).min(u32::BITS.saturating_sub(1));
        PAUSE_MIN.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX)).min(PAUSE_MAX)
    }
}

/// A canary that restarts is missed for no longer than it takes.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// One connection a second is noticed by nobody, and finds out soon enough that it is well again.
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::default().plus(Duration::from_millis(ms))
    }

    #[test]
    fn pauses_double_up_to_a_second_and_one_copy_at_a_time_tries_it() {
        let mut backoff = Backoff::default();
        assert!((0..100).all(|_| backoff.permits(at(0))), "nothing is held back that goes well");
        let (mut now, mut pauses) = (0, Vec::new());
        backoff.failed(at(now));
        for _ in 0..9 {
            let begin = now;
            while !backoff.permits(at(now)) {
                now += 1;
            }
            pauses.push(now - begin);
            assert!(!backoff.permits(at(now)), "one is enough to find out");
            backoff.failed(at(now));
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
    }

    #[test]
    fn many_that_fail_together_are_one_failure() {
        let mut backoff = Backoff::default();
        (0..64).for_each(|_| backoff.failed(at(5)));
        assert!(!backoff.permits(at(14)) && backoff.permits(at(15)));
    }

    #[test]
    fn one_that_says_nothing_for_long_keeps_nobody_waiting_for_ever() {
        let mut backoff = Backoff::default();
        backoff.failed(at(0));
        assert!(backoff.permits(at(10)) && !backoff.permits(at(19)) && backoff.permits(at(20)));
    }

    #[test]
    fn one_answer_ends_it() {
        let mut backoff = Backoff::default();
        (0..50).for_each(|second| backoff.failed(at(second * 2_000)));
        backoff.succeeded();
        assert!(backoff.permits(at(98_000)) && backoff.permits(at(98_000)));
        backoff.failed(at(98_000));
        assert!(backoff.permits(at(98_010)), "and what was before is forgotten");
    }
}
