//! The two times weir knows: a forward-only `Time` for every decision and a `Wall` time for records.
//!
//! This is the only room that reads the operating system's clocks; everything else is handed a `Time`. A jump of the
//! wall clock therefore never reaches a decision.

// The one place that may.
#![allow(clippy::disallowed_methods)]

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment on a clock that only goes forward, in microseconds since that clock was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    us: u64,
}

impl Time {
    /// The moment `us` microseconds after the clock was made.
    pub const fn from_micros(us: u64) -> Self {
        Self { us }
    }

    /// Microseconds since the clock was made.
    pub const fn as_micros(self) -> u64 {
        self.us
    }

    /// Whole seconds since the clock was made.
    pub const fn as_secs(self) -> u64 {
        self.us / 1_000_000
    }

    /// The moment `span` later; the last moment there is if that lies beyond.
    pub fn plus(self, span: Duration) -> Time {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Time { us: self.us.saturating_add(us) }
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.us.saturating_sub(earlier.us))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    fn add(self, span: Duration) -> Time {
        self.plus(span)
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    fn sub(self, span: Duration) -> Time {
        let us = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Time { us: self.us.saturating_sub(us) }
    }
}

/// A calendar time in milliseconds since 1970-01-01T00:00:00Z; for records and tokens, never for a decision's pace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall {
    ms: u64,
}

impl Wall {
    /// The calendar time `ms` milliseconds after the epoch.
    pub const fn from_millis(ms: u64) -> Self {
        Self { ms }
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.ms
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.ms / 1000
    }
}

/// RFC 3339 in UTC with milliseconds, e.g. `2026-03-01T12:00:00.250Z`.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_millis(self.ms);
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

/// Where `Time` and `Wall` come from: the system, or a test's hand.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's monotonic and calendar clocks; `Time` counts from `start`.
    System {
        /// The moment that is `Time` zero.
        start: Instant,
    },
    /// A clock that moves only when told to; its `Wall` starts at 2020-09-13T12:26:40Z.
    Manual(Arc<AtomicU64>),
}

/// The calendar time at which a manual clock stands when it is made.
const MANUAL_EPOCH_MS: u64 = 1_600_000_000_000;

impl Clock {
    /// The system's clock, counting from now.
    pub fn system() -> Self {
        Clock::System { start: Instant::now() }
    }

    /// A clock for tests, at zero.
    pub fn manual() -> Self {
        Clock::Manual(Arc::default())
    }

    /// Moves a manual clock forward; a system clock goes by itself and ignores the call.
    pub fn advance(&self, span: Duration) {
        if let Clock::Manual(us) = self {
            us.fetch_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    /// The present moment.
    #[inline]
    pub fn now(&self) -> Time {
        match self {
            Clock::System { start } => {
                let elapsed = start.elapsed();
                let us = elapsed.as_secs().wrapping_mul(1_000_000).wrapping_add(u64::from(elapsed.subsec_micros()));
                Time { us }
            }
            Clock::Manual(us) => Time { us: us.load(Ordering::Relaxed) },
        }
    }

    /// That moment as timers count; for a manual clock, which they do not know, the present.
    pub fn instant(&self, time: Time) -> Instant {
        match self {
            Clock::System { start } => {
                start.checked_add(Duration::from_micros(time.as_micros())).unwrap_or_else(Instant::now)
            }
            Clock::Manual(_) => Instant::now(),
        }
    }

    /// The present calendar time.
    pub fn wall(&self) -> Wall {
        match self {
            Clock::System { .. } => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Wall { ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
            }
            Clock::Manual(us) => Wall { ms: MANUAL_EPOCH_MS.saturating_add(us.load(Ordering::Relaxed) / 1000) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_goes_below_zero_or_wraps() {
        let early = Time::from_micros(5);
        assert_eq!(early - Duration::from_secs(1), Time::default());
        assert_eq!(early.since(Time::from_micros(9)), Duration::ZERO);
        assert_eq!(Time::from_micros(u64::MAX) + Duration::MAX, Time::from_micros(u64::MAX));
    }

    #[test]
    fn a_manual_clock_moves_both_times_alike() {
        let clock = Clock::manual();
        let (time, wall) = (clock.now(), clock.wall());
        clock.advance(Duration::from_secs(3600));
        assert_eq!(clock.now().since(time), Duration::from_secs(3600));
        assert_eq!(clock.wall().as_secs() - wall.as_secs(), 3600);
        assert_eq!(wall.to_string(), "2020-09-13T12:26:40.000Z");
    }
}
