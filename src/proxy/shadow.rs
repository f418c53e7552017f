//! Step 6 of the request: of stable's requests, those of the units that come next are offered to the canary as copies.
//!
//! Offered, never waited for, and not before the request has its answer: what a copy costs falls behind what the client
//! waits for. Until then there is a `Mirror`, which knows what is to be copied and gathers the request's body while that passes.
//! It is released with the answer, or with weir's own in place of one that stable did not give; it is dropped, and nothing
//! copied, if the client leaves before.
//!
//! A copy has connections of its own, is sent once, and nothing that comes of it reaches the client, an arm's numbers, the
//! breaker or the health of an endpoint. Every request of the mirrored share is counted once, as what came of its copy or as
//! the reason why there is none. How a copy is sent is `replica`'s, when `courier`'s, how its body is gathered `tee`'s.

use super::compare::Meeting;
use super::conn::Client;
use super::headers::Ids;
use super::present::Present;
use super::replay::Outgoing;
use super::replica::{Copy, Original};
use super::request::{Decisions, Exchange, Routed, Target, target};
use super::tee::{Gathering, Tee};
use super::ticket::{Hold, Skip, Ticket};
use super::unit::RequestAsker;
use crate::rollout::Arm;
use crate::rollout::assign::{Asker, Decision};
use crate::rollout::diff::samples::Kind;
use crate::rollout::mirror::is_next;
use crate::snapshot::{Shadow, Snapshot};
use http::request::Parts;
use http::{Extensions, HeaderName};
use http_body::Body;
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// Marks copies, also those of another weir: none is ever copied again.
pub const SHADOW: HeaderName = HeaderName::from_static("x-weir-shadow");

/// The copies of a request that has no answer yet.
pub struct Mirror {
    client: Rc<Client>,
    host: Box<str>,
    trusted: bool,
    route: usize,
    decisions: Decisions,
    /// Stable's upstream.
    stable: usize,
    planned: Vec<Planned>,
}

/// One of them.
struct Planned {
    ticket: Ticket,
    place: usize,
    upstream: usize,
    /// Where the request's body is gathered, if it has one.
    body: Option<Rc<RefCell<Gathering>>>,
    meeting: Option<Rc<Meeting>>,
    /// Whether stable is to answer the request once more.
    twice: bool,
}

/// Finds out to which canaries a request is to be copied that goes to `stable`. The body is the request's own again: it passes
/// as before, and is copied while it does.
#[inline]
pub fn mirror(
    exchange: &Exchange<'_>,
    routed: &Routed<'_>,
    decisions: &Decisions,
    asker: &RequestAsker<'_>,
    stable: usize,
    body: Option<Outgoing>,
) -> (Option<Outgoing>, Option<Box<Mirror>>) {
    if routed.route.mirrors { plan(exchange, routed, decisions, asker, stable, body) } else { (body, None) }
}

fn plan(
    exchange: &Exchange<'_>,
    routed: &Routed<'_>,
    own: &Decisions,
    asker: &RequestAsker<'_>,
    stable: usize,
    mut body: Option<Outgoing>,
) -> (Option<Outgoing>, Option<Box<Mirror>>) {
    let snapshot = &*exchange.adopted.snapshot;
    let mut planned = Vec::new();
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
        let ticket = Ticket::new(exchange.worker, exchange.adopted, on.rollout, Kind::Canary);
        if let Some(skip) = unfit(exchange, routed, shadow, body.as_ref()) {
            ticket.skip(skip);
            continue;
        }
        let mut gathered = None;
        if let Some(own) = body.take() {
            // What is gathered is held from now on.
            let Some(hold) = hold(snapshot, shadow, exchange.parts) else {
                body = Some(own);
                ticket.skip(Skip::Memory);
                continue;
            };
            let (tee, gathering) = Tee::new(own, hold, shadow.max_body);
            (body, gathered) = (Some(Outgoing::Teed(Box::new(tee))), Some(gathering));
        }
        planned.push(Planned { ticket, place, upstream, body: gathered, meeting: None, twice: false });
    }
    if planned.is_empty() {
        return (body, None);
    }
    let mirror = Mirror {
        client: Rc::clone(exchange.client),
        host: routed.host.into(),
        trusted: routed.trusted,
        route: routed.index,
        decisions: own.clone(),
        stable,
        planned,
    };
    (body, Some(Box::new(mirror)))
}

/// Why no copy can be made of this request, whatever there is room for.
fn unfit(exchange: &Exchange<'_>, routed: &Routed<'_>, shadow: &Shadow, body: Option<&Outgoing>) -> Option<Skip> {
    let parts = exchange.parts;
    if exchange.present.shadow {
        return Some(Skip::Loop);
    }
    if routed.websocket {
        return Some(Skip::Upgrade);
    }
    if exchange.worker.is_draining() {
        return Some(Skip::Drain);
    }
    if !shadow.methods.contains(&parts.method) {
        return Some(Skip::Method);
    }
    body.is_some_and(|body| body.size_hint().lower() > shadow.max_body).then_some(Skip::Body)
}

/// What a copy of a request with that head takes without its body.
fn hold(snapshot: &Snapshot, shadow: &Shadow, parts: &Parts) -> Option<Hold> {
    let fields = parts.headers.iter().map(|(name, value)| name.as_str().len().saturating_add(value.len()));
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let head = fields.fold(target, usize::saturating_add);
    Hold::new(Arc::clone(&snapshot.copies), shadow.max_memory, head as u64)
}

impl Mirror {
    /// Where the answer that has just begun meets those to the copies, for each rollout that compares them.
    pub fn meet(&mut self, exchange: &Exchange<'_>, asker: &RequestAsker<'_>) -> Vec<Rc<Meeting>> {
        let meet = |planned: &mut Planned| {
            let (rollout, shadow) = (planned.ticket.rollout, planned.ticket.shadow()?);
            let unit = || asker.unit(rollout).map(Cow::into_owned);
            let (meeting, twice) = Meeting::of(exchange, rollout, shadow, unit)?;
            planned.twice = twice && planned.body.is_none();
            planned.meeting = Some(Rc::clone(&meeting));
            Some(meeting)
        };
        self.planned.iter_mut().filter_map(meet).collect()
    }

    /// The request has its answer: the copies are on their way as soon as nobody else is.
    pub fn release(self, mut parts: Parts, ids: Ids) {
        let Mirror { client, host, trusted, route, decisions, stable, planned } = self;
        // What the server keeps beside a head is its own.
        parts.extensions = Extensions::new();
        let present = Present::of(&parts.headers);
        let request = Rc::new(Original { client, parts, present, ids, host, trusted, route, decisions });
        for planned in planned {
            planned.release(&request, stable);
        }
    }
}

impl Planned {
    fn release(self, request: &Rc<Original>, stable: usize) {
        let Planned { ticket, place, upstream, body, meeting, twice } = self;
        if let Some(gathering) = body {
            let copy = Copy { request: Rc::clone(request), ticket, place, upstream, meeting };
            return gathering.borrow_mut().release(copy);
        }
        let second = twice.then(|| Ticket::new(&ticket.worker, &ticket.adopted, ticket.rollout, Kind::Noise));
        let copies = [second.map(|second| (second, stable)), Some((ticket, upstream))];
        for (ticket, upstream) in copies.into_iter().flatten() {
            let adopted = Rc::clone(&ticket.adopted);
            let hold = ticket.shadow().and_then(|shadow| hold(&adopted.snapshot, shadow, &request.parts));
            match hold {
                Some(hold) => {
                    let meeting = meeting.clone();
                    Copy { request: Rc::clone(request), ticket, place, upstream, meeting }.send(hold, None);
                }
                None => ticket.skip(Skip::Memory),
            }
        }
    }
}
