//! The straight line that every request follows.
//!
//! ```text
//! 1 snapshot   the worker's; held for the whole request
//! 2 route      host, path, method, headers -> route, or refuse
//! 3 unit       who is asking
//! 4 decide     pure -> arm and reason per rollout
//! 5 prepare    headers, trace context; a fixed answer returns here
//! 6 mirror     find out who gets a copy, which starts behind the answer
//! 7 send       pool -> answer or fault; stable instead of a canary that failed, if that is provably safe
//! 8 observe    wrap the body; at its end: tally and access log; the breaker hears of failures as they are seen
//! ```
//!
//! Each step returns a value or a `Refusal`; no step calls the next.

use super::access::{self, Line};
use super::admission::Admitted;
use super::asked::{Asked, Role};
use super::attempt::Way;
use super::body::{Body, Flow};
use super::compare::{Capture, Meeting};
use super::conn::Client;
use super::fallback::{Miss, Sent, Sequel, Standby, second};
use super::fault::Fault;
use super::forward::{Answer, Unanswered, send};
use super::headers::{Ids, Rewrite};
use super::local::{Adopted, Worker};
use super::observe::{Notes, Observation};
use super::present::Present;
use super::pulse::UnderWay;
use super::refusal::Refusal;
use super::replay::{Again, Outgoing, outgoing};
use super::shadow::{self, Mirror};
use super::tunnel::Tunnel;
use super::unit::RequestAsker;
use super::{flags, route, trace, vitals, websocket};
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::assign::{Decision, Reason, decide, is_diverted};
use crate::rollout::outcome::{End, ErrorKind};
use crate::snapshot::{AccessLog, ArmRoute, ArmTarget, FixedAnswer, ROLLOUTS_PER_ROUTE_MAX, Route, Snapshot};
use arrayvec::ArrayVec;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

/// What is known of a request before it is routed.
pub struct Exchange<'a> {
    /// The worker that serves it.
    pub worker: &'a Rc<Worker>,
    /// The snapshot that it started under.
    pub adopted: &'a Rc<Adopted>,
    /// Who sent it.
    pub client: &'a Rc<Client>,
    /// Its head.
    pub parts: &'a Parts,
    /// Which fields it has, of those that are looked for.
    pub present: Present,
    /// Its ids.
    pub ids: &'a Ids,
    started: Time,
}

/// What is known once it is routed.
pub struct Routed<'a> {
    /// The route, and its index.
    pub route: &'a Route,
    /// See `route`.
    pub index: usize,
    /// The authority it asked for.
    pub host: &'a str,
    /// Whether its peer's forwarding headers are believed.
    pub trusted: bool,
    /// Whether it asks for a WebSocket that may be had.
    pub websocket: bool,
    /// Whether it is a copy that another weir sent. From a peer that is not trusted it is a request like any other.
    pub is_copy: bool,
}

/// Decisions of the rollouts on a route, in its order.
pub type Decisions = ArrayVec<Decision, ROLLOUTS_PER_ROUTE_MAX>;

/// What a request comes to.
type Answered = Result<Response<Body>, Refusal>;

/// The copies that a request has once it is answered.
type Copies = Option<Box<Mirror>>;

/// Answers one request; `hand_out` makes of the answer what its connection gives its client.
///
/// The future is as small as can be, because the server moves it: it holds the request once, in parts.
pub fn handle(
    worker: Rc<Worker>,
    client: Rc<Client>,
    request: Request<Incoming>,
    under_way: UnderWay,
    hand_out: impl FnOnce(Response<Body>, &Client, UnderWay) -> Response<Body>,
) -> impl Future<Output = Result<Response<Body>, Infallible>> {
    let (mut parts, body) = request.into_parts();
    async move {
        if under_way.is_doubtful() {
            // hyper looks in between whether the client has taken it back: then it costs no upstream anything.
            tokio::task::yield_now().await;
        }
        let started = worker.clock.now();
        let adopted = worker.adopted();
        websocket::adopt(&mut parts, || worker.random());
        let present = Present::settle(&mut parts.headers, || adopted.snapshot.trusts(client.address));
        let mut ids = Ids::of(&parts.headers, present, worker.random());
        let trace = trace::begin(&worker, &adopted, &client, &parts, &mut ids);
        let mut notes = Notes { line: access_line(&worker, &adopted, &client, &parts, &ids), trace };
        let exchange = Exchange {
            worker: &worker,
            adopted: &adopted,
            client: &client,
            parts: &parts,
            present,
            ids: &ids,
            started,
        };
        let mut mirror = None;
        let (mut response, doubt) = match exchange.answer(body, &mut notes, &mut mirror).await {
            Ok(response) => (response, false),
            Err(refusal) => (exchange.refuse(refusal, notes), refusal.leaves_doubt()),
        };
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if (doubt || worker.is_draining()) && parts.version <= Version::HTTP_11 && !switches {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(mirror) = mirror {
            mirror.release(parts, ids);
        }
        Ok(hand_out(response, &client, under_way))
    }
}

impl Exchange<'_> {
    async fn answer(&self, body: Incoming, notes: &mut Notes, copies: &mut Copies) -> Answered {
        let snapshot = &*self.adopted.snapshot;
        let host = route::screen(self.parts, self.present, snapshot)?;
        if let Some(answer) = flags::answer(self.worker, snapshot, self.client, self.parts) {
            return Ok(answer);
        }
        if vitals::is_for(snapshot, self.client, self.parts) {
            // Rare, so its state is not part of every request's.
            return Ok(Box::pin(vitals::answer(self.worker, snapshot, self.client, self.parts, body)).await);
        }
        let (index, route) = route::find(snapshot, self.parts, host).ok_or(Refusal::NoRoute)?;
        let websocket = websocket::is_asked_for(self.parts, self.present);
        if websocket && !route.websocket {
            return Err(Refusal::WebSocket);
        }

        let trusted = snapshot.trusts(self.client.address);
        let asker = RequestAsker::new(self.worker, snapshot, self.parts, self.present, self.client, trusted);
        let of_rollout = |on: &crate::snapshot::RouteRollout| decide(&snapshot.splits, on.rollout, &asker);
        let mut decisions: Decisions = route.rollouts.iter().map(of_rollout).collect();

        let target = target(snapshot, route, &decisions);
        note(notes, snapshot, index, &decisions, &target);
        fits(snapshot, route, &target, websocket, &body)?;
        let admitted = Admitted::request(self.worker, self.adopted, index, &decisions)?;
        let is_copy = trusted && self.present.shadow;
        let routed = Routed { route, index, host, trusted, websocket, is_copy };
        let mut observation = self.observe(admitted, &routed, &decisions, &asker, std::mem::take(notes));
        let rewrite = self.rewrite(&routed, &decisions, Role::Primary);

        let (sent, failed) = match target {
            Target::Fixed(answer) => (Ok(self.blocked(answer, route, &decisions)), None),
            Target::Nowhere => (Err(NOWHERE), None),
            Target::Upstream(upstream) => {
                let standby = || Standby::of(self.adopted, route, &decisions, self.parts, self.started);
                let standby = (!is_copy).then(standby).flatten();
                let (body, again) = outgoing(self.adopted, body, standby.is_some_and(|standby| standby.repeatable));
                let (body, mirror) = shadow::mirror(self, &routed, &decisions, &asker, upstream, body);
                *copies = mirror;
                let sent = self.send(upstream, route, &rewrite, body, &mut observation).await;
                let failed = standby.filter(|standby| standby.is_failure(self.adopted, &sent));
                (sent, failed.map(|standby| (standby, again)))
            }
        };
        let sent = match failed {
            None => sent,
            // Rare, so its state is not part of every request's.
            Some(failed) => Box::pin(self.fall_back(&routed, failed, sent, &mut decisions, &mut observation)).await,
        };
        let meetings = copies.as_mut().map(|copies| copies.meet(self, &asker)).unwrap_or_default();
        let mut answer = match sent {
            Ok(answer) => answer,
            Err(miss) => return Ok(self.missed(&miss, &mut observation)),
        };

        self.put_in_its_words(&mut answer);
        observation.answered(answer.status, &answer.headers);
        let body = match answer.flow {
            Flow::Switched(upstream) => {
                self.client.switch(Tunnel::new(upstream, observation, route.patience.stream_idle));
                Body::empty()
            }
            flow => observed(flow, observation, &meetings, (answer.status, &answer.headers)),
        };
        let mut headers = answer.headers;
        expose(&mut headers, snapshot, route, &decisions);
        asker.keep_minted(&mut headers, route.rollouts.iter().map(|on| on.rollout));
        Ok(response(answer.status, headers, body))
    }

    /// Asks an upstream, and notes what came of it.
    async fn send(
        &self,
        upstream: usize,
        route: &Route,
        rewrite: &Rewrite<'_>,
        body: Option<Outgoing>,
        observation: &mut Observation,
    ) -> Sent {
        let Some(way) = self.way(upstream, route) else { return Err(NOWHERE) };
        observation.calls(upstream);
        let sent = send(&way, rewrite, body).await.and_then(|answer| self.as_asked(answer, rewrite.websocket));
        let sent =
            sent.map_err(|Unanswered { fault, unsent }| Miss { refusal: fault.into(), end: fault.end(), unsent });
        observation.called(sent.as_ref().map(|answer| answer.status).map_err(|miss| miss.refusal.word()));
        sent
    }

    /// How to reach an upstream with what came by that route.
    fn way(&self, upstream: usize, route: &Route) -> Option<Way<'_>> {
        let snapshot = &*self.adopted.snapshot;
        let pool = self.adopted.pools.get(upstream)?;
        let upstream = snapshot.upstreams.get(upstream)?;
        Some(Way {
            upstream,
            pool,
            limits: &snapshot.limits,
            body_bytes_max: route.body_bytes_max,
            answer_timeout: Some(upstream.response_timeout),
            patience: route.patience,
            only: None,
            retries: snapshot.counts.of(self.worker.index).map(|counts| &counts.upstream_retries),
        })
    }

    /// The answer, if it is one to what was asked: an HTTP/2 client does not see the key of a WebSocket, and takes every 2xx
    /// for one.
    fn as_asked(&self, answer: Answer, websocket: bool) -> Result<Answer, Unanswered> {
        if !websocket || self.parts.version != Version::HTTP_2 {
            return Ok(answer);
        }
        let fits = match answer.flow {
            Flow::Switched(_) => websocket::is_accepted(&self.parts.headers, &answer.headers),
            _ => !answer.status.is_success(),
        };
        if fits { Ok(answer) } else { Err(Unanswered { fault: Fault::Failed(ErrorKind::Protocol), unsent: None }) }
    }

    /// An answer as this client's protocol says it: a WebSocket over HTTP/2 begins with 200.
    fn put_in_its_words(&self, answer: &mut Answer) {
        if matches!(answer.flow, Flow::Switched(_)) && self.parts.version == Version::HTTP_2 {
            websocket::told_in_http2(&mut answer.headers);
            answer.status = StatusCode::OK;
        }
    }

    /// Stable's answer in place of the canary's failure, where that is provably safe; otherwise the failure as it is. The
    /// canary's part is counted first, as if nobody stood in for it.
    async fn fall_back(
        &self,
        routed: &Routed<'_>,
        (standby, again): (Standby, Again),
        sent: Sent,
        decisions: &mut Decisions,
        observation: &mut Observation,
    ) -> Sent {
        let snapshot = &*self.adopted.snapshot;
        let stable = decisions.iter().map(|decision| Decision { arm: Arm::Stable, ..*decision }).collect();
        let instead = target(snapshot, routed.route, &stable);
        if routed.websocket && is_http2(snapshot, &instead) {
            return sent;
        }
        let Target::Upstream(upstream) = instead else { return sent };
        if let Err(sequel) = standby.permit(self.adopted, &sent, &again, self.worker.clock.now()) {
            standby.count(self.adopted, self.worker.index, sequel);
            return sent;
        }
        let (end, failure) = match &sent {
            Ok(answer) => {
                observation.answered(answer.status, &answer.headers);
                observation.uploaded(answer.flow.uploaded());
                (End::Complete, ErrorKind::Status.label())
            }
            Err(miss) => {
                observation.replaced(Some(miss.refusal.status()), miss.refusal.word());
                (miss.end, miss.refusal.word())
            }
        };
        observation.hand_over(
            end,
            failure,
            snapshot.upstreams.get(upstream).map(|upstream| Arc::clone(&upstream.name)),
        );
        let rewrite = self.rewrite(routed, decisions, Role::Fallback);
        let answered = self.send(upstream, routed.route, &rewrite, second(sent, again), observation).await;
        if let Some(sequel) = Sequel::of(&answered) {
            standby.count(self.adopted, self.worker.index, sequel);
        }
        *decisions = stable;
        answered
    }

    fn rewrite<'b>(&'b self, routed: &Routed<'b>, decisions: &'b Decisions, role: Role<'b>) -> Rewrite<'b> {
        let Exchange { parts, present, client, ids, .. } = *self;
        let Routed { route, host, trusted, websocket, .. } = *routed;
        let asked = Asked { parts, present, client, ids, host, trusted, websocket };
        asked.rewrite(&self.adopted.snapshot, route, decisions, role)
    }

    /// Begins to count the request; that a breaker keeps it from the canary is known at once.
    fn observe(
        &self,
        admitted: Admitted,
        routed: &Routed<'_>,
        decisions: &Decisions,
        asker: &RequestAsker<'_>,
        notes: Notes,
    ) -> Box<Observation> {
        let mark = |rollout| asker.mark(rollout);
        if !routed.is_copy {
            self.count_diverted(routed.route, decisions, asker);
        }
        Observation::start(self.worker, admitted, decisions.clone(), routed.is_copy, self.started, notes, mark)
    }

    /// Counts the requests that a breaker keeps from the canary. While every circuit is closed there is nothing to ask.
    fn count_diverted(&self, route: &Route, decisions: &Decisions, asker: &RequestAsker<'_>) {
        let snapshot = &*self.adopted.snapshot;
        for (on, _) in route.rollouts.iter().zip(decisions).filter(|(_, decision)| decision.reason == Reason::Breaker) {
            let diverted = snapshot.rollouts.get(on.rollout).and_then(|rollout| rollout.diverted.of(self.worker.index));
            if let Some(cell) = diverted.filter(|_| is_diverted(&snapshot.splits, on.rollout, asker)) {
                cell.add(1);
            }
        }
    }

    /// The answer of an arm that answers by itself; counted, unless somebody has forced the request there.
    fn blocked(&self, answer: &FixedAnswer, route: &Route, decisions: &Decisions) -> Answer {
        let choosing = route.rollouts.iter().zip(decisions).find(|(on, _)| on.chooses);
        let choosing = choosing.filter(|(_, decision)| decision.reason != Reason::Forced);
        let rollout = choosing.and_then(|(on, _)| self.adopted.snapshot.rollouts.get(on.rollout));
        if let Some(cell) = rollout.and_then(|rollout| rollout.blocked.as_ref()?.of(self.worker.index)) {
            cell.add(1);
        }
        fixed(answer, &self.parts.method)
    }

    /// weir's own answer where there is none from an upstream; ends the observation.
    fn missed(&self, miss: &Miss, observation: &mut Observation) -> Response<Body> {
        let gone = miss.refusal == Refusal::ClientLeft;
        observation.replaced((!gone).then_some(miss.refusal.status()), miss.refusal.word());
        let answer = self.refusal(miss.refusal);
        observation.sent(answer.body().size_hint().exact().unwrap_or(0));
        observation.close(miss.end);
        answer
    }

    /// Counts a refusal and gives its answer.
    fn refusal(&self, refusal: Refusal) -> Response<Body> {
        let counts = self.adopted.snapshot.counts.of(self.worker.index);
        if let Some(count) = counts.and_then(|counts| counts.refused.get(refusal as usize)) {
            count.add(1);
        }
        refusal.answer(self.parts, self.ids)
    }

    /// A refusal before any route was found: nobody observes it but the access log and the collector of traces.
    fn refuse(&self, refusal: Refusal, notes: Notes) -> Response<Body> {
        let answer = self.refusal(refusal);
        let now = self.worker.clock.now();
        if let Some(trace) = notes.trace {
            let (status, error) = (Some(refusal.status().as_u16()), Some(refusal.word()));
            trace.tell(&self.adopted.snapshot, &trace::Ended { status, error, started: self.started, now });
        }
        if let Some(mut line) = notes.line {
            line.status = refusal.status().as_u16();
            line.error = Some(refusal.word());
            line.duration_us = now.since(self.started).as_micros() as u64;
            line.bytes = answer.body().size_hint().exact().unwrap_or(0);
            self.worker.write_access(line, false);
        }
        answer
    }
}

/// A request that no arm and no route leads anywhere with; nobody's failure.
const NOWHERE: Miss = Miss { refusal: Refusal::NoEndpoint, end: End::Complete, unsent: None };
/// Tells clients their arm.
const ARM: HeaderName = HeaderName::from_static("x-weir-arm");

/// Where a request goes.
pub enum Target<'a> {
    /// Nowhere: it has its answer.
    Fixed(&'a FixedAnswer),
    /// To that upstream, by index.
    Upstream(usize),
    /// Nowhere, and there is no answer.
    Nowhere,
}

/// An answer of these parts.
fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The body of an answer with that head, copied while it passes where it is to be compared.
fn observed(
    flow: Flow,
    observation: Box<Observation>,
    meetings: &[Rc<Meeting>],
    (status, headers): (StatusCode, &HeaderMap),
) -> Body {
    Body::observed(flow, observation, headers).captured(Capture::of_client(meetings, status, headers))
}

/// The chosen arm of the rollout that chooses, else the route's own upstream.
pub fn target<'a>(snapshot: &'a Snapshot, route: &Route, decisions: &Decisions) -> Target<'a> {
    let choosing = route.rollouts.iter().zip(decisions).find(|(on, _)| on.chooses);
    let arm = choosing.and_then(|(on, decision)| arm_of(snapshot, on.rollout, *decision));
    match arm.map(|arm| &arm.to) {
        Some(ArmTarget::Respond(answer)) => Target::Fixed(answer),
        Some(ArmTarget::Upstream(upstream)) => Target::Upstream(*upstream),
        Some(ArmTarget::Route) | None => route.upstream.map_or(Target::Nowhere, Target::Upstream),
    }
}

/// Whether the request can be sent there as it is.
fn fits(snapshot: &Snapshot, route: &Route, to: &Target<'_>, websocket: bool, body: &Incoming) -> Result<(), Refusal> {
    if websocket && is_http2(snapshot, to) {
        return Err(Refusal::WebSocketHttp2);
    }
    if body.size_hint().lower() > route.body_bytes_max {
        return Err(Refusal::BodyTooLong);
    }
    Ok(())
}

/// Whether requests go there over HTTP/2, which carries no WebSockets to upstreams.
fn is_http2(snapshot: &Snapshot, target: &Target<'_>) -> bool {
    matches!(target, Target::Upstream(index) if snapshot.upstreams.get(*index).is_some_and(|upstream| upstream.http2))
}

fn arm_of(snapshot: &Snapshot, rollout: usize, decision: Decision) -> Option<&ArmRoute> {
    snapshot.rollouts.get(rollout)?.arms.get(decision.arm.index())
}

/// A fixed answer. Where no body may follow the head, none is given, and its length is stated as HEAD asks.
fn fixed(answer: &FixedAnswer, method: &Method) -> Answer {
    let mut headers: HeaderMap = answer.headers.iter().filter(|(name, _)| *name != ARM).cloned().collect();
    let bodiless = answer.status.is_informational()
        || matches!(answer.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::RESET_CONTENT);
    if *method == Method::HEAD && !bodiless {
        headers.insert(CONTENT_LENGTH, answer.body.len().into());
    }
    let body = (*method != Method::HEAD && !bodiless && !answer.body.is_empty()).then(|| answer.body.clone());
    Answer { status: answer.status, headers, flow: Flow::Fixed(body) }
}

/// `x-weir-arm` for the rollouts that show their arm.
fn expose(headers: &mut HeaderMap, snapshot: &Snapshot, route: &Route, decisions: &Decisions) {
    let mut text = String::new();
    for (on, decision) in route.rollouts.iter().zip(decisions) {
        let exposed = snapshot.rollouts.get(on.rollout).is_some_and(|rollout| rollout.expose_arm);
        if let (true, Some(split)) = (exposed, snapshot.splits.get(on.rollout)) {
            let separator = if text.is_empty() { "" } else { ", " };
            for part in [separator, &split.name, "=", decision.arm.name()] {
                text.push_str(part);
            }
        }
    }
    if text.is_empty() {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(ARM, value);
    }
}

/// A line for the access log, if there is one: whether this request is among those it keeps depends on its end.
fn access_line(worker: &Worker, adopted: &Adopted, client: &Client, parts: &Parts, ids: &Ids) -> Option<Box<Line>> {
    if adopted.snapshot.access_log == AccessLog::Off {
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Box::new(Line {
        time: worker.clock.wall(),
        listener: adopted.snapshot.listeners.get(client.listener).map(|it| it.address.clone()).unwrap_or_default(),
        method: access::method(&parts.method),
        path: access::cut(parts.uri.path()).to_owned(),
        status: 0,
        bytes: 0,
        duration_us: 0,
        upstream: None,
        rollout: None,
        arm: None,
        stage: None,
        reason: None,
        trace_id: text(ids.trace()),
        request_id: text(ids.request()),
        fallback: None,
        error: None,
    }))
}

/// Notes what was decided. With several rollouts the access line names the one that chooses, else the first.
fn note(notes: &mut Notes, snapshot: &Snapshot, index: usize, decisions: &Decisions, target: &Target<'_>) {
    if let Some(trace) = &mut notes.trace {
        trace.decided(index, decisions);
    }
    let (Some(line), Some(route)) = (&mut notes.line, snapshot.routes.get(index)) else { return };
    if let Target::Upstream(upstream) = target {
        line.upstream = snapshot.upstreams.get(*upstream).map(|upstream| upstream.name.clone());
    }
    let place = route.rollouts.iter().position(|on| on.chooses).unwrap_or(0);
    let (Some(on), Some(decision)) = (route.rollouts.get(place), decisions.get(place)) else { return };
    if let (Some(split), Some(rollout)) = (snapshot.splits.get(on.rollout), snapshot.rollouts.get(on.rollout)) {
        line.rollout = Some(split.name.clone());
        line.arm = Some(decision.arm);
        line.stage = rollout.stage.clone();
        line.reason = Some(decision.reason.word(split).into_owned());
    }
}
