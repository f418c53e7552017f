//! When an upstream with several endpoints passes one of them over for a while, told from nothing but requests.
//!
//! Pure: each worker keeps one such record per endpoint, the pool hands in time and neighbours. Two rules, both of which
//! only put an endpoint last: if every other one is worse off it is used all the same.
//!
//! - *Unreachable*: after one failed connection the others come first for `AVOID`. The request itself goes to another
//!   endpoint, so this costs nobody an answer and needs no proof.
//! - *Ejected*: `FAILURES` requests in a row that ended in a failed connection or TLS handshake, a timeout, a reset, a cut
//!   body or something that is no HTTP. It is passed over for `EJECT`, which doubles up to `EJECT_MAX`; when it comes back
//!   a single failure ejects it again, until one request went well.
//!
//! An answer with a bad status is no failure here: it is the service's word about a request, and any client can provoke
//! it. Whoever wants endpoints judged by answers configures health checks; arms are judged by the breaker.

use crate::clock::Time;
use std::time::Duration;

/// How one endpoint did lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ejection {
    /// Failures in a row.
    run: u32,
    /// Ejections without a success since.
    level: u32,
    /// Goes up with each ejection. Requests that started before one say nothing about what came after it.
    era: u32,
    ejected_until: Time,
    avoided_until: Time,
}

/// A moment between two ejections: what a request must remember of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(u32);

impl Ejection {
    /// Until when other endpoints come first; the zero of time if they do not.
    #[inline]
    pub fn spared_until(&self) -> Time {
        self.ejected_until.max(self.avoided_until)
    }

    /// Whether it is ejected at that moment.
    pub fn is_ejected(&self, now: Time) -> bool {
        self.ejected_until > now
    }

    /// The present era.
    #[inline]
    pub fn era(&self) -> Era {
        Era(self.era)
    }

    /// A connection was opened, or could not be.
    pub fn connected(&mut self, opened: bool, now: Time) {
        self.avoided_until = if opened { Time::default() } else { now.plus(AVOID) };
    }

    /// A request that began in `era` got an answer to its end.
    #[inline]
    pub fn succeeded(&mut self, era: Era) {
        if era.0 == self.era {
            self.run = 0;
            self.level = 0;
        }
    }

    /// A request that began in `era` failed; true if that ejects the endpoint. `allowed` is asked only then: see
    /// `leaves_half`.
    pub fn failed(&mut self, era: Era, now: Time, allowed: impl FnOnce() -> bool) -> bool {
        if era.0 != self.era {
            return false;
        }
        self.run = self.run.saturating_add(1);
        let limit = if self.level > 0 { 1 } else { FAILURES };
        if self.run < limit || !allowed() {
            return false;
        }
        let span = EJECT.saturating_mul(1_u32.checked_shl(self.level).unwrap_or(u32::MAX)).min(EJECT_MAX);
        *self = Ejection {
            run: 0,
            level: self.level.saturating_add(1),
            era: self.era.wrapping_add(1),
            ejected_until: now.plus(span),
            avoided_until: self.avoided_until,
        };
        true
    }
}

/// Whether one more endpoint may be ejected where `ejected` of `healthy` are already: never more than half of those that
/// take requests, so that at least one stays and the rest is not buried under their load.
pub fn leaves_half(ejected: usize, healthy: usize) -> bool {
    ejected.saturating_add(1).saturating_mul(2) <= healthy
}

/// How long others are preferred after a failed connection: a process that restarts is back by then.
const AVOID: Duration = Duration::from_secs(5);
/// Failures in a row that eject: as many as open the breaker by default, so that an upstream with a healthy endpoint
/// left mends itself no later than it is blamed.
const FAILURES: u32 = 5;
/// The first ejection: long enough for a restart, short enough for a hiccup of the network.
const EJECT: Duration = Duration::from_secs(10);
/// The longest one: how long a mended endpoint may go unused.
const EJECT_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::from_micros((100 + seconds) * 1_000_000)
    }

    /// So many failures in the present era; whether the last one ejected.
    fn fail(ejection: &mut Ejection, times: u32, now: Time) -> bool {
        (0..times).fold(false, |_, _| ejection.failed(ejection.era(), now, || true))
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let mut ejection = Ejection::default();
        assert!(!fail(&mut ejection, 4, at(0)));
        ejection.succeeded(ejection.era());
        assert!(!fail(&mut ejection, 4, at(0)));
        assert!(!ejection.is_ejected(at(0)));
        assert!(fail(&mut ejection, 1, at(0)));
        assert!(ejection.is_ejected(at(9)) && !ejection.is_ejected(at(10)));
        assert_eq!(ejection.spared_until(), at(10));
    }

    #[test]
    fn the_time_doubles_up_to_its_limit_at_each_single_failure_after_the_return() {
        let mut ejection = Ejection::default();
        let mut now = at(0);
        assert!(fail(&mut ejection, 5, now));
        for span in [10, 20, 40, 80, 160, 300, 300, 300] {
            assert_eq!(ejection.spared_until(), now + Duration::from_secs(span));
            now = ejection.spared_until();
            assert!(fail(&mut ejection, 1, now));
        }
        for _ in 0..100 {
            assert!(fail(&mut ejection, 1, now));
        }
        assert_eq!(ejection.spared_until(), now + EJECT_MAX, "no overflow at any level");
    }

    #[test]
    fn a_success_after_the_return_begins_anew() {
        let mut ejection = Ejection::default();
        assert!(fail(&mut ejection, 5, at(0)));
        ejection.succeeded(ejection.era());
        assert!(!fail(&mut ejection, 4, at(20)));
        assert!(fail(&mut ejection, 1, at(20)));
        assert_eq!(ejection.spared_until(), at(30));
    }

    #[test]
    fn requests_from_before_an_ejection_say_nothing_after_it() {
        let mut ejection = Ejection::default();
        let before = ejection.era();
        assert!(fail(&mut ejection, 5, at(0)));
        for _ in 0..50 {
            assert!(!ejection.failed(before, at(12), || true));
            ejection.succeeded(before);
        }
        assert_eq!(ejection.spared_until(), at(10));
        assert!(fail(&mut ejection, 1, at(12)), "their successes forgave nothing");
    }

    #[test]
    fn an_ejection_that_is_not_allowed_comes_with_the_next_failure_that_is() {
        let mut ejection = Ejection::default();
        assert!(!fail(&mut ejection, 4, at(0)));
        assert!(!ejection.failed(ejection.era(), at(0), || false));
        assert!(!ejection.is_ejected(at(0)));
        assert!(fail(&mut ejection, 1, at(1)));
    }

    #[test]
    fn a_failed_connection_spares_at_once_and_an_open_one_ends_that_but_no_ejection() {
        let mut ejection = Ejection::default();
        ejection.connected(false, at(0));
        assert_eq!(ejection.spared_until(), at(5));
        assert!(!ejection.is_ejected(at(0)));
        ejection.connected(true, at(1));
        assert_eq!(ejection.spared_until(), Time::default());
        assert!(fail(&mut ejection, 5, at(2)));
        ejection.connected(true, at(3));
        assert_eq!(ejection.spared_until(), at(12));
    }

    #[test]
    fn never_more_than_half_are_ejected_and_never_the_only_one() {
        let most = |healthy| (0..).find(|ejected| !leaves_half(*ejected, healthy)).unwrap();
        assert_eq!([0, 1, 2, 3, 4, 5, 10].map(most), [0, 0, 1, 1, 2, 2, 5]);
    }
}
