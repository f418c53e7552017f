//! Spans as OTLP has them in JSON, named by OpenTelemetry's semantic conventions for HTTP and for feature flags: a rollout is a
//! flag, its arm the variant.
//!
//! No query of a URL, no header and no address of a client is told.

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
    std::iter::once(server(request)).chain(request.calls.iter().map(|call| client(request, call)))
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
    // What the service answers with 4xx, and a client that leaves, is nobody's failure.
    let fails = request.status.is_some_and(|status| status >= 500)
        || request.error.is_some_and(|word| word != "client_left" && request.status.is_none());
    attributes.extend(ending(request.status, request.error, 500));
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

fn client(request: &Request, call: &Call) -> Value {
    let (method, mut attributes) = method(request);
    attributes.extend([text("server.address", &call.upstream), text("peer.service", &call.upstream)]);
    attributes.push(json!({ "key": "weir.fallback", "value": { "boolValue": call.fallback } }));
    attributes.extend(request.flags.get(request.choosing).map(flag).into_iter().flatten());
    attributes.extend(ending(call.status, call.error, 400));
    let fails = call.error.is_some() || call.status.is_some_and(|status| status >= 400);
    let what = if call.fallback { " (fallback)" } else { "" };
    let name = format!("{method} {}{what}", call.upstream);
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

/// The status, and the kind of error where it is one from `least` on, or where there is a word for it.
fn ending(status: Option<u16>, error: Option<&'static str>, least: u16) -> impl Iterator<Item = Value> {
    let code =
        status.map(|status| json!({ "key": "http.response.status_code", "value": { "intValue": status.to_string() } }));
    let kind = error.map(str::to_owned).or(status.filter(|status| *status >= least).map(|status| status.to_string()));
    code.into_iter().chain(kind.map(|kind| text("error.type", &kind)))
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
