//! Traces: what a collector is told of requests, over its own socket and in its own form, and that requests never notice it.

use crate::harness::client::read;
use crate::harness::hook::{Say, Told};
use crate::harness::piped::sized;
use crate::harness::reply::Content;
use crate::harness::{Client, Config, Hook, Origin, Reply, Weir};
use serde_json::Value;

const UNIT: (&str, &str) = ("x-user-id", "u");
const COUNTED: &str = "weir_trace_spans_total";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

fn collector(hook: &Hook, more: &str) -> String {
    format!("[traces]\nurl = \"http://{}/base\"\nservice = \"edge\"\n{more}", hook.address)
}

/// All spans of what a collector was told.
fn spans(told: &[Told]) -> Vec<Value> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let resources = told.iter().flat_map(|told| list(&told.body["resourceSpans"]));
    let scopes = resources.flat_map(|resource| list(&resource["scopeSpans"]));
    scopes.flat_map(|scope| list(&scope["spans"])).collect()
}

/// The attributes of a span, an event or a resource as text.
fn attribute(of: &Value, key: &str) -> Option<String> {
    let attributes = of["attributes"].as_array()?;
    let found = attributes.iter().find(|attribute| attribute["key"] == key)?;
    let (_, value) = found["value"].as_object()?.iter().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn has(of: &Value, wanted: &[(&str, &str)]) {
    for (key, value) in wanted {
        assert_eq!(attribute(of, key).as_deref(), Some(*value), "{key} of {of}");
    }
}

fn parent_of(traceparent: &str) -> &str {
    traceparent.split('-').nth(2).expect("a span")
}

#[tokio::test]
async fn a_request_its_call_and_its_fallback_are_one_trace() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    let config = Config::split(&legacy, &new)
        .weight("100%")
        .top("trusted_proxies = [\"127.0.0.0/8\"]")
        .rollout("breaker = { consecutive_errors = 0, error_rate = false, fallback = \"safe\" }")
        .tables(&collector(&hook, "share = \"0%\""));
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    // The caller is trusted and samples this one, but not the next.
    let answer = client.get("/a?secret=1", &[UNIT, ("traceparent", &format!("00-{TRACE}-{CALLER}-01"))]).await;
    assert_eq!((answer.status, answer.origin().to_owned()), (200, "legacy".to_owned()));
    let unsampled = format!("00-{TRACE}-{CALLER}-00");
    let (asked, stood_in) = (new.last(), legacy.last());
    client.get("/b", &[UNIT, ("traceparent", &unsampled)]).await;
    assert_eq!(new.last().field("traceparent"), Some(unsampled.as_str()), "it goes through as it came");

    let told = hook.count(1).await;
    assert_eq!(told[0].target, "/base/v1/traces");
    assert_eq!(told[0].field("content-type"), Some("application/json"));
    has(&told[0].body["resourceSpans"][0]["resource"], &[("service.name", "edge")]);
    let spans = spans(&told);
    let [server, primary, fallback] = spans.as_slice() else { panic!("{spans:?}") };
    for span in &spans {
        assert_eq!(span["traceId"], TRACE);
        let time = |key: &str| span[key].as_str().expect("a text").parse::<u64>().expect("nanoseconds");
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano") && time("startTimeUnixNano") > 1 << 60, "{span}");
        has(span, &[("feature_flag.key", "chat"), ("feature_flag.provider.name", "weir")]);
        has(span, &[("feature_flag.result.variant", "canary"), ("feature_flag.result.reason", "split")]);
        has(span, &[("weir.reason", "bucket"), ("http.request.method", "GET")]);
    }
    assert_eq!((&server["kind"], &primary["kind"], &fallback["kind"]), (&2.into(), &3.into(), &3.into()));
    assert_eq!(server["parentSpanId"], CALLER);
    assert_eq!((&primary["parentSpanId"], &fallback["parentSpanId"]), (&server["spanId"], &server["spanId"]));
    // What the services see is the span that asked them.
    assert_eq!(primary["spanId"], parent_of(asked.field("traceparent").expect("a trace")));
    assert_eq!(fallback["spanId"], parent_of(stood_in.field("traceparent").expect("a trace")));
    has(server, &[("url.path", "/a"), ("url.scheme", "http"), ("http.response.status_code", "200")]);
    assert_eq!(server["events"][0]["name"], "feature_flag.evaluation");
    assert!(server["status"].get("code").is_none(), "the client got its answer");
    assert_eq!(
        (&server["name"], &primary["name"], &fallback["name"]),
        (&"GET default".into(), &"GET".into(), &"GET".into())
    );
    has(primary, &[("peer.service", "new"), ("http.response.status_code", "500"), ("error.type", "500")]);
    let (port, url) = (new.address.port().to_string(), format!("http://{}/a", new.address));
    has(primary, &[("server.address", "127.0.0.1"), ("server.port", &port), ("url.full", &url)]);
    has(primary, &[("weir.fallback", "false"), ("network.protocol.version", "1.1")]);
    assert_eq!(primary["status"]["code"], 2);
    assert_eq!(attribute(server, "error.type"), None);
    has(fallback, &[("peer.service", "legacy"), ("weir.fallback", "true"), ("http.response.status_code", "200")]);
    assert!(!told[0].body.to_string().contains("secret"), "nothing of the query is told");
    weir.metrics_until("counted", |metrics| metrics.count(COUNTED, &[("result", "sent")]) == 3).await;
    weir.stop().await;
    assert_eq!(self::spans(&hook.told()).len(), 3, "of the other request nothing is told");
}

#[tokio::test]
async fn a_share_is_told_of_traces_that_begin_here_and_the_rest_is_not_looked_for() {
    let (origin, hook) = (Origin::start("new").await, Hook::start().await);
    let weir = Weir::start(&Config::split(&origin, &origin).tables(&collector(&hook, "share = \"50%\""))).await;
    let mut client = Client::http1(weir.address).await;
    let mut sampled = 0;
    for _ in 0..60 {
        // A client's own word on sampling is not taken.
        client.get("/", &[UNIT]).await;
        let given = origin.last().field("traceparent").expect("a trace").to_owned();
        sampled += u64::from(given.ends_with("-01"));
    }
    assert!((5..=55).contains(&sampled), "{sampled} of 60");
    let sent = |metrics: &crate::harness::metrics::Metrics| metrics.count(COUNTED, &[("result", "sent")]);
    weir.metrics_until("all told", |metrics| sent(metrics) == 2 * sampled).await;
    weir.stop().await;
    assert_eq!(spans(&hook.told()).len() as u64, 2 * sampled);
}

#[tokio::test]
async fn a_collector_that_refuses_or_says_nothing_is_no_matter_for_requests() {
    let (origin, hook) = (Origin::start("new").await, Hook::start().await);
    hook.script(|number, _| match number {
        1 => Say::Status(503, None),
        2 => Say::Status(200, None),
        3 => Say::Status(400, None),
        _ => Say::Nothing,
    });
    let more = "share = \"100%\"\ntimeout = \"200ms\"";
    let weir = Weir::start(&Config::split(&origin, &origin).tables(&collector(&hook, more))).await;
    let mut client = Client::http1(weir.address).await;
    let of = |result: &'static str| {
        move |metrics: &crate::harness::metrics::Metrics| metrics.count(COUNTED, &[("result", result)])
    };
    client.get("/", &[UNIT]).await;
    // Later says 503, and then it is taken.
    weir.metrics_until("told at the second try", |metrics| of("sent")(metrics) == 2).await;
    client.get("/", &[UNIT]).await;
    // 400 is final.
    weir.metrics_until("refused", |metrics| of("failed")(metrics) == 2).await;
    // From here on it says nothing at all.
    for _ in 0..300 {
        assert_eq!(client.get("/", &[UNIT]).await.status, 200);
    }
    let metrics = weir.metrics_until("given up", |metrics| of("failed")(metrics) > 2).await;
    assert_eq!(of("sent")(&metrics), 2);
    weir.stop().await;
}

#[tokio::test]
async fn a_request_that_is_refused_is_a_span_of_its_own() {
    let (origin, hook) = (Origin::start("new").await, Hook::start().await);
    let config = Config::split(&origin, &origin)
        .tables(
            "[[routes]]\nname = \"api\"\nmatch = { path_prefix = \"/api\" }\nupstream = \"new\"\nrollouts = [\"chat\"]",
        )
        .tables(&collector(&hook, "share = \"100%\""));
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/elsewhere", &[UNIT]).await.status, 404);
    let told = hook.count(1).await;
    let spans = spans(&told);
    assert_eq!(spans.len(), 1, "{spans:?}");
    has(&spans[0], &[("http.response.status_code", "404"), ("weir.error", "no_route"), ("url.path", "/elsewhere")]);
    assert_eq!((attribute(&spans[0], "error.type"), &spans[0]["status"]), (None, &serde_json::json!({})));
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_a_failure_of_both_its_spans_whatever_its_status() {
    let (origin, hook) = (Origin::start("new").await, Hook::start().await);
    let weir = Weir::start(&Config::split(&origin, &origin).tables(&collector(&hook, "share = \"100%\""))).await;
    origin.script(|_| Reply::body(Content::Cut("short".into())));
    let mut client = Client::http1(weir.address).await;
    let request = client.request("GET", "/", &[UNIT], sized(""));
    let answer = client.send(request).await.expect("a head");
    assert!(read(answer).await.is_err(), "it is cut off");
    let spans = spans(&hook.count(1).await);
    assert_eq!(spans.len(), 2, "{spans:?}");
    for span in &spans {
        has(span, &[("http.response.status_code", "200"), ("error.type", "truncated")]);
        assert_eq!(span["status"]["code"], 2);
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_collector_may_come_and_go_by_a_reload() {
    let (origin, hook) = (Origin::start("new").await, Hook::start().await);
    let plain = Config::split(&origin, &origin);
    let weir = Weir::start(&plain).await;
    let mut client = Client::http1(weir.address).await;
    client.get("/before", &[UNIT]).await;
    weir.write_config(&plain.clone().tables(&collector(&hook, "share = \"100%\"")));
    assert_eq!(weir.reload().await.status, 200);
    client.get("/told", &[UNIT]).await;
    let told = hook.count(1).await;
    weir.write_config(&plain);
    assert_eq!(weir.reload().await.status, 200);
    client.get("/after", &[UNIT]).await;
    weir.stop().await;
    let paths: Vec<Option<String>> = spans(&told).iter().map(|span| attribute(span, "url.path")).collect();
    assert_eq!(paths, [Some("/told".to_owned()), None], "the request, and its call");
    assert_eq!(hook.told().len(), 1);
}
