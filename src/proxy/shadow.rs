//! Step 6 of the request: of stable's requests, those of the units that come next are offered to the canary as copies.
//!
//! Offered, never waited for: everything here takes memory within its limit, starts a task and returns. A copy has
//! connections of its own, is sent once, and nothing that comes of it reaches the client, an arm's numbers, the breaker or
//! the health of an endpoint. Every request of the mirrored share is counted once, as what came of its copy or as the reason
//! why there is none. How a copy is sent is `replica`'s, how its body is gathered `tee`'s.

use super::compare::Meeting;
use super::replay::Outgoing;
use super::replica::{Copy, Hold, Skip};
use super::request::{Decisions, Exchange, Routed, Target, target};
use super::tee::Tee;
use super::unit::RequestAsker;
use crate::rollout::Arm;
use crate::rollout::assign::{Asker, Decision};
use crate::rollout::diff::samples::Kind;
use crate::rollout::mirror::is_next;
use crate::snapshot::Shadow;
use http::request::Parts;
use http::{HeaderName, Request};
use http_body::Body;
use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

/// Marks copies, also those of another weir: none is ever copied again.
pub const SHADOW: HeaderName = HeaderName::from_static("x-weir-shadow");

/// Offers copies of a request to the canaries that mirror it. The body is the request's own again: it passes as before,
/// and is copied while it does. Where answers are compared, the client's is wanted too.
#[inline]
pub fn mirror(
    exchange: &Exchange<'_>,
    routed: &Routed<'_>,
    decisions: &Decisions,
    asker: &RequestAsker<'_>,
    body: Option<Outgoing>,
) -> (Option<Outgoing>, Option<Rc<Meeting>>) {
    if routed.route.mirrors { offer(exchange, routed, decisions, asker, body) } else { (body, None) }
}

fn offer(
    exchange: &Exchange<'_>,
    routed: &Routed<'_>,
    own: &Decisions,
    asker: &RequestAsker<'_>,
    mut body: Option<Outgoing>,
) -> (Option<Outgoing>, Option<Rc<Meeting>>) {
    let mut met = None;
    let snapshot = &*exchange.adopted.snapshot;
    for (place, (on, decision)) in routed.route.rollouts.iter().zip(own).enumerate() {
        let rollout = snapshot.rollouts.get(on.rollout).and_then(|rollout| rollout.shadow.as_ref());
        let (Some(shadow), Some(split)) = (rollout, snapshot.splits.get(on.rollout)) else { continue };
        if !is_next(&split.bucketer, shadow.reach, *decision, || asker.unit(on.rollout)) {
            continue;
        }
        let mut decisions = own.clone();
        if let Some(mirrored) = decisions.get_mut(place) {
            *mirrored = Decision { arm: Arm::Canary, ..*mirrored };
        }
        let Target::Upstream(upstream) = target(snapshot, routed.route, &decisions) else { continue };
        let hold = match admit(exchange, routed, shadow, body.as_ref()) {
            Ok(hold) => hold,
            Err(skip) => {
                skip.count(shadow, exchange.worker.index);
                continue;
            }
        };
        // The answers of one request are compared for one rollout.
        let compared = Some(shadow).filter(|_| met.is_none()).and_then(|shadow| {
            Meeting::of(exchange, on.rollout, shadow, || asker.unit(on.rollout).map(Cow::into_owned))
        });
        let (meeting, twice) = compared.unzip();
        let copy = |kind, decisions, upstream, hold| Copy {
            worker: Rc::clone(exchange.worker),
            adopted: Rc::clone(exchange.adopted),
            client: Rc::clone(exchange.client),
            parts: parts(exchange.parts),
            ids: exchange.ids.clone(),
            host: routed.host.into(),
            trusted: routed.trusted,
            route: routed.index,
            rollout: on.rollout,
            place,
            decisions,
            upstream,
            hold,
            kind,
            meeting: meeting.clone(),
        };
        if twice == Some(true)
            && body.is_none()
            && let Target::Upstream(stable) = target(snapshot, routed.route, own)
            && let Ok(hold) = admit(exchange, routed, shadow, None)
        {
            copy(Kind::Noise, own.clone(), stable, hold).send(None);
        }
        let copy = copy(Kind::Canary, decisions, upstream, hold);
        met = met.or(meeting);
        match body.take() {
            None => copy.send(None),
            Some(own) => body = Some(Outgoing::Teed(Box::new(Tee::new(own, copy, shadow.max_body)))),
        }
    }
    (body, met)
}

/// Whether a copy may be made of this request; what it takes without its body.
fn admit(exchange: &Exchange<'_>, routed: &Routed<'_>, shadow: &Shadow, body: Option<&Outgoing>) -> Result<Hold, Skip> {
    let parts = exchange.parts;
    if parts.headers.contains_key(SHADOW) {
        return Err(Skip::Loop);
    }
    if routed.websocket {
        return Err(Skip::Upgrade);
    }
    if exchange.worker.is_draining() {
        return Err(Skip::Drain);
    }
    if !shadow.methods.contains(&parts.method) {
        return Err(Skip::Method);
    }
    if body.is_some_and(|body| body.size_hint().lower() > shadow.max_body) {
        return Err(Skip::Body);
    }
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let head = fields.fold(target, usize::saturating_add);
    let copies = Arc::clone(&exchange.adopted.snapshot.copies);
    Hold::new(copies, shadow.max_memory, head as u64).ok_or(Skip::Memory)
}

/// The head of a request without what the server keeps beside it.
fn parts(of: &Parts) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version) = (of.method.clone(), of.uri.clone(), of.version);
    parts.headers = of.headers.clone();
    parts
}
