//! What a collector of traces is told of a request: noted on its way, sent off at its end. Of requests that are not sampled, and
//! without a collector of any, nothing is noted.

use super::access;
use super::conn::Client;
use super::headers::{Ids, Own};
use super::local::{Adopted, Worker};
use crate::clock::{Time, Wall};
use crate::rollout::assign::Decision;
use crate::snapshot::{ROLLOUTS_PER_ROUTE_MAX, Snapshot, Upstream};
use crate::spans::{self, Flag, TraceId};
use arrayvec::ArrayVec;
use http::request::Parts;
use http::{Method, Version};
use std::sync::Arc;

/// Notes on one request.
#[derive(Debug)]
pub struct Notes {
    trace: TraceId,
    own: Own,
    began: Wall,
    method: Method,
    path: Box<str>,
    version: Version,
    listener: usize,
    secure: bool,
    decided: Option<(usize, ArrayVec<Decision, ROLLOUTS_PER_ROUTE_MAX>)>,
    calls: ArrayVec<Call, CALLS_MAX>,
}

/// A request to an upstream.
#[derive(Debug)]
struct Call {
    upstream: usize,
    fallback: bool,
    began: Time,
    /// None while its answer goes on.
    ended: Option<Time>,
    status: Option<u16>,
    error: Option<&'static str>,
}

/// How a request ended.
pub struct Ended {
    /// What the client got.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<&'static str>,
    /// When it came.
    pub started: Time,
    /// Now.
    pub now: Time,
}

/// The arm's upstream, and stable's in its place.
const CALLS_MAX: usize = 2;

/// Begins to note, if a collector is to be told of this request; its ids then lead to its own spans.
///
/// The word of a trusted peer on that counts. Others say what they like in `traceparent`, so of theirs a share is taken as of the
/// traces that begin here.
pub fn begin(worker: &Worker, adopted: &Adopted, client: &Client, parts: &Parts, ids: &mut Ids) -> Option<Box<Notes>> {
    let traces = adopted.snapshot.traces.as_ref()?;
    let told = ids.parent_samples().filter(|_| adopted.snapshot.trusts(client.address));
    let sampled = told.unwrap_or_else(|| worker.random_below(1_000_000) < traces.share_ppm);
    if !sampled {
        ids.not_recorded();
        return None;
    }
    let own = ids.recorded(worker.random(), worker.random());
    Some(Box::new(Notes {
        trace: ids.trace().try_into().ok()?,
        own,
        began: worker.clock.wall(),
        method: access::method(&parts.method),
        path: access::cut(parts.uri.path()).into(),
        version: parts.version,
        listener: client.listener,
        secure: client.secure,
        decided: None,
        calls: ArrayVec::new(),
    }))
}

impl Notes {
    /// What was decided on the route of that index.
    pub fn decided(&mut self, route: usize, decisions: &[Decision]) {
        self.decided = Some((route, decisions.iter().copied().collect()));
    }

    /// An upstream is asked.
    pub fn calls(&mut self, upstream: usize, now: Time) {
        // Whatever was asked before is over.
        self.calls.iter_mut().for_each(|call| call.ended = call.ended.or(Some(now)));
        let fallback = !self.calls.is_empty();
        let call = Call { upstream, fallback, began: now, ended: None, status: None, error: None };
        // No request asks more upstreams than that.
        let _ = self.calls.try_push(call);
    }

    /// It has answered with that status, or not for that reason.
    pub fn called(&mut self, answered: Result<u16, &'static str>, now: Time) {
        let Some(call) = self.calls.last_mut() else { return };
        match answered {
            Ok(status) => call.status = Some(status),
            Err(word) => (call.error, call.ended) = (Some(word), Some(now)),
        }
    }

    /// Sends it off, as it ended.
    pub fn tell(self, snapshot: &Snapshot, ended: &Ended) {
        let Some(traces) = &snapshot.traces else { return };
        let after_us = |from: Time, to: Time| to.since(from).as_micros() as u64;
        let calls = self.calls.iter().zip([self.own.primary, self.own.fallback]).filter_map(|(call, span)| {
            let upstream = snapshot.upstreams.get(call.upstream)?;
            Some(spans::Call {
                span,
                upstream: upstream.name.clone(),
                authority: authority(upstream),
                secure: upstream.tls.is_some(),
                http2: upstream.http2,
                fallback: call.fallback,
                began_us: after_us(ended.started, call.began),
                took_us: after_us(call.began, call.ended.unwrap_or(ended.now)),
                status: call.status,
                error: call.error,
            })
        });
        let calls = calls.collect();
        let route = self.decided.as_ref().and_then(|(route, _)| snapshot.routes.get(*route));
        let decisions = self.decided.as_ref().map(|(_, decisions)| decisions.as_slice()).unwrap_or_default();
        let rollouts = route.map(|route| &route.rollouts[..]).unwrap_or_default();
        let flag = |(on, decision): (&crate::snapshot::RouteRollout, &Decision)| {
            let split = snapshot.splits.get(on.rollout)?;
            let stage = snapshot.rollouts.get(on.rollout).and_then(|rollout| rollout.stage.clone());
            Some(Flag { rollout: split.name.clone(), arm: decision.arm, reason: decision.reason.word(split), stage })
        };
        traces.spans.offer(Box::new(spans::Request {
            trace: self.trace,
            span: self.own.request,
            parent: self.own.parent,
            began: self.began,
            took_us: after_us(ended.started, ended.now),
            listener: snapshot.listeners.get(self.listener).map(|it| it.address.clone()).unwrap_or_default(),
            secure: self.secure,
            version: self.version,
            method: self.method,
            path: self.path,
            route: route.map(|route| route.name.clone()),
            status: ended.status,
            error: ended.error,
            flags: rollouts.iter().zip(decisions).filter_map(flag).collect(),
            choosing: rollouts.iter().position(|on| on.chooses).unwrap_or(0),
            calls,
        }));
    }
}

/// Where an upstream is reached, if that is one place whatever its addresses.
fn authority(upstream: &Upstream) -> Arc<str> {
    let mut all = upstream.endpoints.iter().map(|endpoint| &endpoint.authority);
    let first = all.next().filter(|first| all.all(|other| other == *first));
    Arc::clone(first.unwrap_or(&upstream.name))
}
