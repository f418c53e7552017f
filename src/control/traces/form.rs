//! Spans as OTLP has them in JSON, named by OpenTelemetry's semantic conventions for HTTP and for feature flags: a rollout is a
//! flag, its arm the variant.
//!
//! No query of a URL, no header and no address of a client is told. `error.type` is on spans that failed alone; what else
//! weir's access log has a word for is `weir.error`.

use crate::spans::{Call, Flag, Request};
use http::Version;
use serde_json::{Value, json};

/// The body that tells a collector of these requests.
pub fn body(requests: &[Request], service: &str) -> String {
    let spans: Vec<Value> = requests.iter().flat_map(spans).collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "resourceSpans": [{
            "resource": { "attributes": [text("service.name", service), text("service.version", version)] },
            "scopeSpans": [{ "scope": { "name": "weir", "version": version }, "spans": spans }],
        }],
    })
    .to_string()
}

/// How many spans the collector says that it did not take, in the answer to a batch that it took.
pub fn rejected(answer: &[u8]) -> u64 {
    let answer: Option<Value> = serde_json::from_slice(answer).ok();
    let count = answer.as_ref().and_then(|answer| answer.get("partialSuccess")?.get("rejectedSpans"));
    // 64-bit numbers are texts in this form; not all collectors know that.
    count.and_then(|count| count.as_u64().or_else(|| count.as_str()?.parse().ok())).unwrap_or(0)
}

/// The request's own span and those of the upstreams that were asked.
fn spans(request: &Request) -> impl Iterator<Item = Value> {
    let last = request.calls.len().saturating_sub(1);
    let calls = request.calls.iter().enumerate().map(move |(number, call)| client(request, call, number == last));
    std::iter::once(server(request)).chain(calls)
}

fn server(request: &Request) -> Value {
    let (method, mut attributes) = method(request);
    attributes.extend([
        text("url.path", &request.path),
        text("url.scheme", if request.secure { "https" } else { "http" }),
        text("network.protocol.version", protocol(request.version)),
        text("weir.listener", &request.listener),
    ]);
    attributes.extend(request.route.as_ref().map(|route| text("weir.route", route)));
    attributes.extend(request.flags.get(request.choosing).map(flag).into_iter().flatten());
    // What is answered with 4xx is no failure of the one that answers.
    let is_refused = request.status.is_some_and(|status| (400..500).contains(&status));
    let why = why(request.status, fault(request).filter(|_| !is_refused), 500);
    attributes.extend(request.error.filter(|_| why.is_none()).map(|word| text("weir.error", word)));
    let fails = why.is_some();
    attributes.extend(ending(request.status, why));
    let events: Vec<Value> = request.flags.iter().map(|of| event(request, of)).collect();
    let name = request.route.as_ref().map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    span(
        request,
        &request.span,
        request.parent.as_ref(),
        (name, SERVER),
        (0, request.took_us),
        (attributes, events, fails),
    )
}

fn client(request: &Request, call: &Call, is_last: bool) -> Value {
    let (method, mut attributes) = method(request);
    let (host, port) = host_and_port(call);
    let scheme = if call.secure { "https" } else { "http" };
    attributes.extend([
        text("server.address", host),
        text("url.full", &format!("{scheme}://{}{}", call.authority, request.path)),
        text("network.protocol.version", if call.http2 { "2" } else { "1.1" }),
        text("peer.service", &call.upstream),
    ]);
    attributes.extend(port.map(|port| number("server.port", port)));
    attributes.push(json!({ "key": "weir.fallback", "value": { "boolValue": call.fallback } }));
    attributes.extend(request.flags.get(request.choosing).map(flag).into_iter().flatten());
    // An answer that is cut off behind its head is the last one's.
    let why = why(call.status, call.error.or(fault(request).filter(|_| is_last)), 400);
    let fails = why.is_some();
    attributes.extend(ending(call.status, why));
    let name = method.to_owned();
    let times = (call.began_us, call.took_us);
    span(request, &call.span, Some(&request.span), (name, CLIENT), times, (attributes, Vec::new(), fails))
}

fn span(
    request: &Request,
    id: &[u8; 16],
    parent: Option<&[u8; 16]>,
    (name, kind): (String, u8),
    (after_us, took_us): (u64, u64),
    (attributes, events, fails): (Vec<Value>, Vec<Value>, bool),
) -> Value {
    let digits = |id: &[u8]| String::from_utf8_lossy(id).into_owned();
    let mut span = json!({
        "traceId": digits(&request.trace),
        "spanId": digits(id),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": nanoseconds(request, after_us),
        "endTimeUnixNano": nanoseconds(request, after_us.saturating_add(took_us)),
        "attributes": attributes,
        "events": events,
        "status": if fails { json!({ "code": ERROR }) } else { json!({}) },
    });
    if let (Some(parent), Some(fields)) = (parent, span.as_object_mut()) {
        fields.insert("parentSpanId".to_owned(), digits(parent).into());
    }
    span
}

/// A decision as an event on the request's span: all of them, where several rollouts apply.
fn event(request: &Request, of: &Flag) -> Value {
    json!({
        "timeUnixNano": nanoseconds(request, 0),
        "name": "feature_flag.evaluation",
        "attributes": flag(of).collect::<Vec<Value>>(),
    })
}

fn flag(flag: &Flag) -> impl Iterator<Item = Value> {
    let known = [
        text("feature_flag.key", &flag.rollout),
        text("feature_flag.provider.name", "weir"),
        text("feature_flag.result.variant", flag.arm.name()),
        text("feature_flag.result.reason", general(&flag.reason)),
        text("weir.reason", &flag.reason),
    ];
    known.into_iter().chain(flag.stage.as_ref().map(|stage| text("weir.stage", stage)))
}

/// Our word in the conventions' words.
fn general(reason: &str) -> &'static str {
    match reason {
        "bucket" | "probe" => "split",
        "kill" | "rolled_back" | "pending" | "breaker" => "disabled",
        "no_unit" | "unmatched" => "default",
        _ => "targeting_match",
    }
}

/// The method as a name for spans and its attributes; those that nobody knows would make as many names.
fn method(request: &Request) -> (&str, Vec<Value>) {
    let method = request.method.as_str();
    match METHODS.contains(&method) {
        true => (method, vec![text("http.request.method", method)]),
        false => {
            let other = text("http.request.method", "_OTHER");
            ("HTTP", vec![other, text("http.request.method_original", method)])
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// What went wrong for a client, unless it is the client's own doing or the end that a stream was meant to have.
fn fault(request: &Request) -> Option<&'static str> {
    request.error.filter(|word| !["client_left", "client_slow", "stream_closed"].contains(word))
}

/// Why a span failed, if it did: in a word, or by a status from `least` on.
fn why(status: Option<u16>, error: Option<&'static str>, least: u16) -> Option<String> {
    error.map(str::to_owned).or_else(|| status.filter(|status| *status >= least).map(|status| status.to_string()))
}

fn ending(status: Option<u16>, why: Option<String>) -> impl Iterator<Item = Value> {
    let code = status.map(|status| number("http.response.status_code", status));
    code.into_iter().chain(why.map(|why| text("error.type", &why)))
}

/// Where the upstream was asked; what has no port has the scheme's.
fn host_and_port(call: &Call) -> (&str, Option<u16>) {
    let split = call.authority.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = split.map_or((&*call.authority, None), |(host, port)| (host, Some(port)));
    (host.trim_matches(['[', ']']), port)
}

fn number(key: &str, value: u16) -> Value {
    // 64-bit numbers are texts in this form.
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// A time of the request as OTLP has it: nanoseconds since the epoch, as a text.
fn nanoseconds(request: &Request, after_us: u64) -> String {
    let began_us = request.began.as_millis().saturating_mul(1_000);
    (u128::from(began_us.saturating_add(after_us)) * 1_000).to_string()
}

/// `SPAN_KIND_SERVER`.
const SERVER: u8 = 2;
/// `SPAN_KIND_CLIENT`.
const CLIENT: u8 = 3;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;
/// The methods that the conventions know: RFC 9110, and PATCH of RFC 5789.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_words_of_the_conventions() {
        for (ours, theirs) in
            [("bucket", "split"), ("kill", "disabled"), ("no_unit", "default"), ("cohort:beta", "targeting_match")]
        {
            assert_eq!(general(ours), theirs, "{ours}");
        }
    }

    #[test]
    fn what_a_collector_did_not_take_is_read_as_number_and_as_text() {
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"full"}}"#), 3);
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":2}}"#), 2);
        for none in ["", "{}", "[]", "null", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":{"rejectedSpans":"x"}}"#]
        {
            assert_eq!(rejected(none.as_bytes()), 0, "{none}");
        }
    }
}
