//! The flags of a unit on a data-plane path, for applications that ask instead of being split.
//!
//! With `?unit=U` the answer is that of the admin endpoint; without, the request itself says who is asking.

use super::body::Body;
use super::conn::Client;
use super::local::Worker;
use super::present::Present;
use super::unit::RequestAsker;
use crate::rollout::Arm;
use crate::rollout::assign::{Asker, Switches};
use crate::rollout::flags::{Flag, flags};
use crate::snapshot::Snapshot;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// The answer, if the request is for the listener's `flags_path`.
pub fn answer(worker: &Worker, snapshot: &Snapshot, client: &Client, parts: &Parts) -> Option<Response<Body>> {
    let path = snapshot.listeners.get(client.listener)?.flags_path.as_deref()?;
    if parts.uri.path() != path || !matches!(parts.method, Method::GET | Method::HEAD) {
        return None;
    }
    let trusted = snapshot.trusts(client.address);
    let asker = RequestAsker::new(worker, snapshot, parts, Present::of(&parts.headers), client, trusted);
    let query = parts.uri.query().unwrap_or_default();
    let named = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "unit").map(|(_, unit)| unit);
    let asker = Named { unit: named, request: asker };
    let body = render(snapshot, &asker).to_string();
    let mut response = Response::new(Body::fixed(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    asker.request.keep_minted(response.headers_mut(), 0..snapshot.rollouts.len());
    Some(response)
}

fn render(snapshot: &Snapshot, asker: &Named<'_>) -> Value {
    let flags = flags(&snapshot.splits, asker).into_iter();
    let flag = |flag: Flag<'_>| (flag.rollout.to_owned(), json!({ "arm": flag.arm.name(), "reason": flag.reason }));
    json!({ "unit": asker.unit, "flags": flags.map(flag).collect::<Map<String, Value>>() })
}

/// A request that may name another unit than its own.
struct Named<'a> {
    unit: Option<Cow<'a, str>>,
    request: RequestAsker<'a>,
}

impl Asker for Named<'_> {
    fn unit(&self, rollout: usize) -> Option<Cow<'_, str>> {
        match &self.unit {
            Some(unit) => Some(Cow::Borrowed(unit)),
            None => self.request.unit(rollout),
        }
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.header(name)
    }

    fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.request.cookie(name)
    }

    fn forced(&self, rollout: usize) -> Option<Arm> {
        self.request.forced(rollout)
    }

    fn switches(&self, rollout: usize) -> Switches {
        self.request.switches(rollout)
    }
}
