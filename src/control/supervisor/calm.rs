//! When nobody asks for anything and no breaker is in the middle of something, there is nothing to look at: a process with
//! thousands of routes that rests costs nothing then. Pure.

use crate::clock::Time;
use std::time::Duration;

/// How often there was nothing, one look after the other.
#[derive(Debug, Default)]
pub(super) struct Calm {
    /// What the workers had stirred at the last look.
    stirs: u64,
    looks: u8,
    looked: Time,
}

impl Calm {
    /// Whether there is something to look at, `stirs` being what the workers have stirred up to now.
    pub(super) fn is_over(&mut self, stirs: u64, now: Time) -> bool {
        if std::mem::replace(&mut self.stirs, stirs) != stirs {
            self.end();
        }
        self.looks < LOOKS_ENOUGH || now.since(self.looked) >= LOOK_AT_LEAST_EVERY
    }

    /// A look was taken, in which something was not at rest or nothing was.
    pub(super) fn looked(&mut self, restless: bool, now: Time) {
        self.looks = if restless { 0 } else { self.looks.saturating_add(1) };
        self.looked = now;
    }

    /// There may be something that the workers have not stirred.
    pub(super) fn end(&mut self) {
        self.looks = 0;
    }
}

/// A look may fall between two cells of one request, so one more is taken when nothing moves any longer.
const LOOKS_ENOUGH: u8 = 2;
/// What has come to rest grows old all the same.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(25);

    #[test]
    fn what_rests_is_looked_at_once_a_second_and_what_moves_at_every_tick() {
        let (mut calm, mut now, mut looks) = (Calm::default(), Time::default(), 0);
        let mut tick = |calm: &mut Calm, stirs, restless| {
            now = now + TICK;
            let looks = calm.is_over(stirs, now);
            if looks {
                calm.looked(restless, now);
            }
            looks
        };
        for _ in 0..400 {
            looks += u32::from(tick(&mut calm, 0, false));
        }
        assert!((10..=12).contains(&looks), "{looks} looks in ten seconds");
        assert!((1..=40).all(|stirs| tick(&mut calm, stirs, false)), "with every request");
        assert!(tick(&mut calm, 40, false), "and once more");
        assert!(!tick(&mut calm, 40, false));
        assert!((41..=42).all(|stirs| tick(&mut calm, stirs, true)));
        assert!((0..40).all(|_| tick(&mut calm, 42, true)), "as long as a breaker is in the middle of something");
        calm.end();
        assert!(tick(&mut calm, 42, false) && tick(&mut calm, 42, false) && !tick(&mut calm, 42, false));
    }
}
