//! Staying in contact with a weir that may be restarted meanwhile: what cannot be reached for a while is asked again.

use super::console::Console;
use super::render;
use super::stop::Stop;
use crate::clock::{Clock, Time, Wall};
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

/// Contact for as long as somebody looks: weir may be away for any time, and the loss is kept to be shown.
#[derive(Debug, Default)]
pub struct Link {
    reached: bool,
    away: Option<Away>,
}

/// Since when weir cannot be reached, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// When that was noticed.
    pub since: Wall,
    /// One line.
    pub cause: String,
}

/// What an answer, or its absence, changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<T> {
    /// It answers; `back` if it was away before.
    Answer { answer: T, back: bool },
    /// It is away; `new` if it was there before.
    Nothing { away: Away, new: bool },
}

impl Link {
    /// Whether the last question had no answer.
    pub fn is_away(&self) -> bool {
        self.away.is_some()
    }

    /// Takes in what came of a question.
    ///
    /// # Errors
    /// A refusal, and that weir cannot be reached if it never was: then the address may be wrong.
    pub fn hear<T>(&mut self, asked: Result<T, Stop>, now: Wall) -> Result<Heard<T>, Stop> {
        match asked {
            Ok(answer) => {
                self.reached = true;
                Ok(Heard::Answer { answer, back: self.away.take().is_some() })
            }
            Err(stop) if self.reached && is_lost(&stop) => {
                let message = stop.message().unwrap_or_default();
                let cause = render::clean(message.lines().next().unwrap_or_default());
                let (since, new) = self.away.as_ref().map_or((now, true), |away| (away.since, false));
                let away = Away { since, cause };
                self.away = Some(away.clone());
                Ok(Heard::Nothing { away, new })
            }
            Err(stop) => Err(stop),
        }
    }
}

impl Away {
    /// `weir is away since 12:26:40 UTC: cannot reach weir at ...`.
    pub fn line(&self) -> String {
        format!("weir is away since {}: {}", render::hour(self.since), self.cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(cause: &str) -> Result<u32, Stop> {
        Err(Stop::Unreachable { address: "unix:w.sock".to_owned(), cause: cause.to_owned() })
    }

    #[test]
    fn a_link_keeps_since_when_weir_is_away_and_notices_that_it_is_back() {
        let (mut link, at) = (Link::default(), |s: u64| Wall::from_millis(1_600_000_000_000 + s * 1000));
        assert_eq!(link.hear(lost("refused"), at(0)).unwrap_err().code(), 3, "it was never there");
        assert_eq!(link.hear(Ok(1), at(1)).unwrap(), Heard::Answer { answer: 1, back: false });
        let away = |cause: &str| Away { since: at(2), cause: format!("cannot reach weir at unix:w.sock: {cause}") };
        assert_eq!(link.hear(lost("refused"), at(2)).unwrap(), Heard::Nothing { away: away("refused"), new: true });
        assert_eq!(link.hear(lost("no\x1b"), at(9)).unwrap(), Heard::Nothing { away: away("no\u{fffd}"), new: false });
        assert_eq!(link.hear(Ok(2), at(10)).unwrap(), Heard::Answer { answer: 2, back: true });
        assert_eq!(
            away("refused").line(),
            "weir is away since 12:26:42 UTC: cannot reach weir at unix:w.sock: refused"
        );
        let gone = Stop::Refused { status: 404, message: "no rollout".to_owned(), body: String::new() };
        assert_eq!(link.hear(Err::<u32, _>(gone), at(11)).unwrap_err().code(), 2, "a refusal is an answer");
    }
}
