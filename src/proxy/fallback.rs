//! Whether stable may answer a request that failed on the canary: only if it is certain that nothing is done twice that
//! must be done once.
//!
//! ```text
//! nothing of the request was sent                    any method
//! GET, HEAD, OPTIONS                                 they change nothing (RFC 9110 §9.2.1)
//! PUT, DELETE, with fallback = "idempotent"          twice is as good as once (RFC 9110 §9.2.2)
//! Idempotency-Key, with idempotency_key = true       the service tells the second one from a new one
//! ```
//!
//! Whatever of a request may have reached the canary counts as sent: a reset, a refused stream or a connection that was
//! going away prove nothing. It sends nothing and counts nothing against an arm; `request` asks it and does both.

use super::body::Flow;
use super::forward::{Answer, is_safe};
use super::local::Adopted;
use super::refusal::Refusal;
use super::replay::{Again, Outgoing};
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::assign::{Decision, Reason};
use crate::rollout::outcome::{End, Outcome};
use crate::snapshot::{Fallback, Rollout, Route};
use http::request::Parts;
use http::{HeaderName, Method};

/// Tells the service that two requests are one (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What came of sending a request to the upstream that its arms lead to.
pub type Sent = Result<Answer, Miss>;

/// A request that no upstream answered.
pub struct Miss {
    /// What the client is told.
    pub refusal: Refusal,
    /// How it counts.
    pub end: End,
    /// The request's body if no byte of the request was sent.
    pub unsent: Option<Option<Outgoing>>,
}

/// What came of a canary's failure; in the order of `tally::FALLBACKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sequel {
    /// Stable answered.
    Answered,
    /// Stable did not answer either, or with a 5xx.
    Failed,
    /// Stable has stood in often enough for now.
    Budget,
    /// The canary may have acted on the request, and it must not be done twice.
    Unsafe,
    /// The request's body is longer than the copy that is kept.
    TooLarge,
}

/// A request that stable may answer if the canary does not.
#[derive(Clone, Copy, Debug)]
pub struct Standby {
    /// The rollout whose canary would fail.
    rollout: usize,
    /// Whether the request may be sent again although the canary may have acted on it.
    pub repeatable: bool,
}

impl Standby {
    /// Counts the request into the budgets of its rollouts. None if stable never answers it: it is on stable, its arm was
    /// forced, the config says so, or stable's arm is a fixed answer.
    pub fn of(adopted: &Adopted, route: &Route, decisions: &[Decision], request: &Parts, now: Time) -> Option<Self> {
        let rollouts = &adopted.snapshot.rollouts;
        let mut standby = None;
        for (on, decision) in route.rollouts.iter().zip(decisions) {
            let Some(rollout) = rollouts.get(on.rollout) else { continue };
            if decision.reason == Reason::Forced {
                return None;
            }
            if rollout.fallback != Fallback::Off
                && let Some(budget) = adopted.budgets.get(on.rollout)
            {
                budget.borrow_mut().request(now);
            }
            // The one that chooses the upstream is to blame if it is on its canary, else the first that may be.
            if decision.arm == Arm::Canary && (on.chooses || (standby.is_none() && rollout.fallback != Fallback::Off)) {
                standby = Some((on.rollout, rollout));
            }
        }
        let (index, rollout) = standby.filter(|(_, rollout)| rollout.fallback != Fallback::Off)?;
        Some(Standby { rollout: index, repeatable: is_repeatable(rollout, request) })
    }

    /// Whether the canary failed the request in a way that nobody has seen yet: by no answer, or by a 5xx that counts.
    pub fn is_failure(&self, adopted: &Adopted, sent: &Sent) -> bool {
        match sent {
            Err(miss) => matches!(miss.end, End::Failed(_)),
            Ok(answer) => {
                let status = Some(answer.status.as_u16());
                let outcome = Outcome { status, grpc_status: None, end: End::Complete };
                let rules = adopted.snapshot.rollouts.get(self.rollout).map(|rollout| &rollout.errors);
                answer.status.is_server_error() && rules.is_some_and(|rules| rules.failure(&outcome).is_some())
            }
        }
    }

    /// Whether stable may be asked now; takes from the budget if so.
    pub fn permit(&self, adopted: &Adopted, sent: &Sent, again: &Again, now: Time) -> Result<(), Sequel> {
        let unsent = sent.as_ref().is_err_and(|miss| miss.unsent.is_some());
        if !unsent && !self.repeatable {
            return Err(Sequel::Unsafe);
        }
        if !unsent && !again.is_whole() {
            return Err(Sequel::TooLarge);
        }
        let budget = adopted.budgets.get(self.rollout);
        if budget.is_some_and(|budget| budget.borrow_mut().take(now)) { Ok(()) } else { Err(Sequel::Budget) }
    }

    /// Counts what came of the failure.
    pub fn count(&self, adopted: &Adopted, worker: usize, sequel: Sequel) {
        let counts = adopted.snapshot.rollouts.get(self.rollout).and_then(|rollout| rollout.fallbacks.of(worker));
        if let Some(count) = counts.and_then(|counts| counts.outcomes.get(sequel as usize)) {
            count.add(1);
        }
    }
}

impl Sequel {
    /// What came of asking stable; none if the client's side ended meanwhile.
    pub fn of(sent: &Sent) -> Option<Sequel> {
        match sent {
            Ok(answer) if !answer.status.is_server_error() => Some(Sequel::Answered),
            Err(Miss { end: End::ClientLeft, .. }) => None,
            _ => Some(Sequel::Failed),
        }
    }
}

/// The body to send to stable. What the canary may still say or take of the request ends here.
pub fn second(sent: Sent, again: Again) -> Option<Outgoing> {
    match sent {
        Err(Miss { unsent: Some(body), .. }) => body,
        Err(_) => again.outgoing(),
        Ok(Answer { flow, .. }) => {
            // First the copy is claimed: reading on in the answer could still move the request's body.
            let body = again.outgoing();
            Flow::discard(flow);
            body
        }
    }
}

/// Whether doing what the request asks for twice is the same as doing it once.
fn is_repeatable(rollout: &Rollout, request: &Parts) -> bool {
    is_safe(&request.method)
        || (rollout.fallback == Fallback::Idempotent && matches!(request.method, Method::PUT | Method::DELETE))
        || (rollout.fallback_by_key && request.headers.get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::FALLBACKS;

    #[test]
    fn words_stand_in_the_order_of_the_sequels() {
        let sequels = [
            (Sequel::Answered, "answered"),
            (Sequel::Failed, "failed"),
            (Sequel::Budget, "budget"),
            (Sequel::Unsafe, "unsafe"),
            (Sequel::TooLarge, "too_large"),
        ];
        assert_eq!(sequels.len(), FALLBACKS.len());
        for (sequel, word) in sequels {
            assert_eq!(FALLBACKS[sequel as usize], word);
        }
    }
}
