//! Staying in contact with a weir that may be restarted meanwhile: what cannot be reached for a while is asked again.

use super::console::Console;
use super::stop::Stop;
use crate::clock::{Clock, Time};
use std::time::Duration;

/// Whether weir could be reached.
#[derive(Debug)]
pub struct Contact {
    clock: Clock,
    grace: Duration,
    /// Whether it was ever reached.
    reached: bool,
    lost: Option<(Time, Stop)>,
}

impl Contact {
    /// Nothing has been asked yet; once weir has been reached it may be gone for as long as `grace`.
    pub fn new(clock: Clock, grace: Duration) -> Contact {
        Contact { clock, grace, reached: false, lost: None }
    }

    /// What `ask` says; none if weir is out of reach and there is still time. The loss and the return are told once each.
    ///
    /// # Errors
    /// What `ask` says otherwise, and that weir cannot be reached if it never was or has been gone for too long.
    pub fn with<T>(&mut self, console: &mut Console, ask: impl FnOnce() -> Result<T, Stop>) -> Result<Option<T>, Stop> {
        match ask() {
            Ok(answer) => {
                if self.lost.take().is_some() {
                    writeln!(console.err, "weir answers again")?;
                }
                self.reached = true;
                Ok(Some(answer))
            }
            Err(stop) if self.reached && is_lost(&stop) => {
                let now = self.clock.now();
                let lost_at = match &self.lost {
                    Some((at, _)) => *at,
                    None => {
                        let message = stop.message().unwrap_or_default();
                        let first = message.lines().next().unwrap_or_default();
                        writeln!(console.err, "{first}; trying again for {} s", self.grace.as_secs())?;
                        now
                    }
                };
                if now.since(lost_at) >= self.grace {
                    return Err(stop);
                }
                self.lost = Some((lost_at, stop));
                Ok(None)
            }
            Err(stop) => Err(stop),
        }
    }
}

impl Contact {
    /// Why weir cannot be reached at present: whoever has no time left has no answer either.
    pub fn gone(self) -> Option<Stop> {
        self.lost.map(|(_, stop)| stop)
    }
}

/// Whether it may be a restart. A weir that is starting or ending answers 503.
pub fn is_lost(stop: &Stop) -> bool {
    matches!(stop, Stop::Unreachable { .. } | Stop::Refused { status: 503, .. })
}
