//! How many requests of a rollout stable may answer in the canary's place: a share of all its requests over the last ten
//! seconds, and never fewer than a floor, so that a canary that drowns cannot drown stable with it.
//!
//! Pure and of fixed size: time is handed in, and what a request is about is not asked. Each worker has one per rollout and
//! keeps it across reloads; `fallback` takes from it.

use crate::clock::Time;

/// A share of one rollout's requests on one worker.
#[derive(Clone, Debug)]
pub struct Budget {
    /// By second, round and round; the one of `second` is being filled.
    slices: [Slice; SLICES],
    /// Seconds of the clock that the newest slice stands for.
    second: u64,
    /// Taken in ten seconds at least.
    floor: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slice {
    requests: u64,
    taken: u64,
}

impl Budget {
    /// The budget of one of so many workers.
    pub fn new(workers: usize) -> Self {
        let workers = u64::try_from(workers).unwrap_or(u64::MAX).max(1);
        Budget { slices: [Slice::default(); SLICES], second: 0, floor: FLOOR.div_ceil(workers) }
    }

    /// Counts a request of the rollout, on whichever arm.
    #[inline]
    pub fn request(&mut self, now: Time) {
        if let Some(slice) = self.present(now) {
            slice.requests = slice.requests.saturating_add(1);
        }
    }

    /// Takes one request's worth; false if there is none left.
    pub fn take(&mut self, now: Time) -> bool {
        self.turn(now);
        let sum = |of: fn(&Slice) -> u64| self.slices.iter().map(of).fold(0, u64::saturating_add);
        let share = sum(|slice| slice.requests).saturating_mul(SHARE_PERCENT).div_euclid(100);
        if sum(|slice| slice.taken) >= share.max(self.floor) {
            return false;
        }
        if let Some(slice) = self.present(now) {
            slice.taken = slice.taken.saturating_add(1);
        }
        true
    }

    fn present(&mut self, now: Time) -> Option<&mut Slice> {
        self.turn(now);
        self.slices.get_mut(place(self.second))
    }

    /// Empties the slices of the seconds that have begun since. A request may bring a moment before the last one's: it
    /// counts as of now.
    #[inline]
    fn turn(&mut self, now: Time) {
        let second = now.as_secs();
        if second <= self.second {
            return;
        }
        let begun = second.saturating_sub(self.second).min(SLICES as u64);
        for back in 0..begun {
            if let Some(slice) = self.slices.get_mut(place(second.saturating_sub(back))) {
                *slice = Slice::default();
            }
        }
        self.second = second;
    }
}

fn place(second: u64) -> usize {
    second.rem_euclid(SLICES as u64) as usize
}

/// Slices of a second each; together the ten seconds of the contract.
const SLICES: usize = 10;
/// The share of a rollout's requests.
const SHARE_PERCENT: u64 = 20;
/// Taken in ten seconds at least, by all workers together: a rollout with little traffic has its failures covered.
const FLOOR: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Time {
        Time::default().plus(Duration::from_millis(ms))
    }

    /// Takes until there is none left.
    fn drain(budget: &mut Budget, now: Time) -> u64 {
        (0..1_000_000).take_while(|_| budget.take(now)).count() as u64
    }

    #[test]
    fn little_traffic_has_a_hundred_in_ten_seconds_and_no_more() {
        let mut budget = Budget::new(1);
        assert_eq!(drain(&mut budget, at(0)), 100);
        assert_eq!(drain(&mut budget, at(9_999)), 0);
        assert_eq!(drain(&mut budget, at(10_000)), 100);
    }

    #[test]
    fn much_traffic_has_a_fifth_of_it() {
        let mut budget = Budget::new(1);
        for ms in 0..10_000 {
            budget.request(at(ms));
        }
        assert_eq!(drain(&mut budget, at(9_999)), 2_000);
        for _ in 0..10 {
            budget.request(at(9_999));
        }
        assert_eq!(drain(&mut budget, at(9_999)), 2);
    }

    #[test]
    fn what_is_older_than_ten_seconds_gives_and_takes_nothing() {
        let mut budget = Budget::new(1);
        for _ in 0..10_000 {
            budget.request(at(500));
        }
        assert_eq!(drain(&mut budget, at(5_500)), 2_000);
        // The requests are forgotten, what they allowed to be taken is not: the floor is used up several times over.
        assert_eq!(drain(&mut budget, at(12_000)), 0);
        assert_eq!(drain(&mut budget, at(15_000)), 100);
        assert_eq!(drain(&mut budget, at(3_600_000)), 100);
    }

    #[test]
    fn workers_share_the_floor_rounded_up() {
        for (workers, floor) in [(0, 100), (1, 100), (3, 34), (64, 2), (1_000, 1)] {
            assert_eq!(drain(&mut Budget::new(workers), at(0)), floor, "{workers} workers");
        }
    }

    #[test]
    fn a_moment_before_the_last_one_counts_as_of_now() {
        let mut budget = Budget::new(1);
        budget.request(at(20_000));
        for _ in 0..999 {
            budget.request(at(1_000));
        }
        assert_eq!(drain(&mut budget, at(20_000)), 200);
    }
}
