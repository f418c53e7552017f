//! Signals: what answers say besides their status, and what is posted, counted on the right arm and for nobody else.

use crate::harness::metrics::Metrics;
use crate::harness::origin::Seen;
use crate::harness::piped::sized;
use crate::harness::reply::Content;
use crate::harness::{Answer, Client, Config, Gate, Origin, Reply, Weir};
use bytes::Bytes;
use serde_json::json;

const TOTAL: &str = "weir_signals_total";

const SIGNALS: &str = r#"[[routes]]
name = "publish"
match = { path_prefix = "/publish" }
rollouts = ["chat"]
[[routes]]
name = "rest"
rollouts = ["chat"]
[signals.validation]
when = { response_header = { x-validation = "failed" } }
[signals.rejected]
when = { response_header = { x-validation = "failed" }, status = ["422"], route = "publish" }
[signals.unpublished]
when = { status = ["4xx"], route = "publish" }
[signals.denied]
when = { grpc_status = [7] }
[signals.orders]
"#;

fn counted(metrics: &Metrics, signal: &str) -> [u64; 2] {
    ["stable", "canary"].map(|arm| metrics.count(TOTAL, &[("rollout", "chat"), ("arm", arm), ("signal", signal)]))
}

/// Scrapes once that many requests have ended on both arms together.
async fn after(weir: &Weir, requests: u64) -> Metrics {
    weir.metrics_until("all requests", |metrics| metrics.count("weir_requests_total", &[]) == requests).await
}

/// Answers as the request's own fields ask for.
fn as_asked(seen: &Seen) -> Reply {
    let status = seen.field("x-want").map_or(200, |status| status.parse().expect("a status"));
    let fields = seen.field("x-say").map(|value| ("x-validation", value.to_owned())).into_iter().collect();
    Reply::Answer(Answer { status, fields, ..Answer::default() })
}

#[tokio::test]
async fn answers_count_for_every_signal_they_match_on_their_own_arm() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(as_asked);
    new.script(as_asked);
    let weir = Weir::start(&Config::split(&legacy, &new).tables(SIGNALS)).await;
    let (mut first, mut second) = (Client::http1(weir.address).await, Client::http2(weir.address).await);
    let mut sent = 0;
    for number in 0..120 {
        let unit = format!("user-{number}");
        let (status, target) = (["200", "422", "404"][number % 3], ["/publish/x", "/publisher"][number / 3 % 2]);
        let mut fields = vec![("x-user-id", unit.as_str()), ("x-want", status)];
        if let Some(say) = [None, Some("failed"), None, Some("ok"), Some("failed")][number % 5] {
            fields.push(("x-say", say));
        }
        let client = if number % 2 == 0 { &mut first } else { &mut second };
        assert_eq!(client.get(target, &fields).await.status.to_string(), status);
        sent += 1;
    }
    let metrics = after(&weir, sent).await;
    let of = |wanted: &dyn Fn(&Seen) -> bool| {
        [&legacy, &new].map(|origin| origin.state().requests.iter().filter(|seen| wanted(seen)).count() as u64)
    };
    let failed = |seen: &Seen| seen.field("x-say") == Some("failed");
    let published = |seen: &Seen| seen.target == "/publish/x";
    let status = |seen: &Seen, status: &str| seen.field("x-want") == Some(status);
    assert_eq!(counted(&metrics, "validation"), of(&failed));
    let rejected = of(&|seen| failed(seen) && published(seen) && status(seen, "422"));
    assert!(rejected.iter().all(|count| *count > 0), "the test asks for some of each: {rejected:?}");
    assert_eq!(counted(&metrics, "rejected"), rejected);
    let unpublished = of(&|seen| published(seen) && !status(seen, "200"));
    assert_eq!(counted(&metrics, "unpublished"), unpublished);
    assert_eq!((counted(&metrics, "denied"), counted(&metrics, "orders")), ([0, 0], [0, 0]));
    weir.stop().await;
}

#[tokio::test]
async fn a_grpc_status_counts_from_head_and_trailers() {
    let origin = Origin::start("new").await;
    origin.script(|seen| {
        let kind = ("content-type", "application/grpc".to_owned());
        if seen.target.ends_with("/head") {
            return Reply::Answer(Answer { fields: vec![kind, ("grpc-status", "7".to_owned())], ..Answer::default() });
        }
        let body = Content::Chunked(vec![Bytes::from_static(b"message")]);
        let code = if seen.target.ends_with("/denied") { "7" } else { "0" };
        Reply::Answer(Answer { fields: vec![kind], body, trailers: vec![("grpc-status", code)], ..Answer::default() })
    });
    let config = Config::split(&origin, &origin).weight("100%").upstreams("protocol = \"h2\"").tables(SIGNALS);
    let weir = Weir::start(&config).await;
    let mut client = Client::http2(weir.address).await;
    for target in ["/head", "/denied", "/fine", "/denied"] {
        client.get(target, &[("x-user-id", "u"), ("te", "trailers")]).await;
    }
    assert_eq!(counted(&after(&weir, 4).await, "denied"), [0, 3]);
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_stable_replaced_counts_on_the_canary_and_a_forced_one_on_neither() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| {
        Reply::Answer(Answer { status: 503, fields: vec![("x-validation", "failed".to_owned())], ..Answer::default() })
    });
    let config = Config::split(&legacy, &new)
        .weight("100%")
        .rollout("breaker = { consecutive_errors = 0, error_rate = false, fallback = \"safe\" }")
        .tables(&format!("{SIGNALS}[force]\ntrusted = [\"127.0.0.0/8\"]"));
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    for _ in 0..5 {
        let got = client.get("/", &[("x-user-id", "u")]).await;
        assert_eq!((got.status, got.origin()), (200, "legacy"));
    }
    for _ in 0..3 {
        client.get("/", &[("x-user-id", "u"), ("x-weir-force", "chat=canary")]).await;
    }
    let metrics = after(&weir, 5).await;
    assert_eq!(metrics.count("weir_forced_requests_total", &[]), 3);
    assert_eq!(counted(&metrics, "validation"), [0, 5]);
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_counts_when_it_has_ended_like_the_request_it_belongs_to() {
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |_| {
        let body =
            Content::Paused { first: Bytes::from_static(b"a"), gate: held.clone(), last: Bytes::from_static(b"b") };
        Reply::Answer(Answer { fields: vec![("x-validation", "failed".to_owned())], body, ..Answer::default() })
    });
    let weir = Weir::start(&Config::split(&origin, &origin).weight("100%").tables(SIGNALS)).await;
    let mut client = Client::http2(weir.address).await;
    let request = client.request("GET", "/", &[("x-user-id", "u")], sized(""));
    let answer = client.send(request).await.expect("an answer's head");
    let metrics = weir.metrics().await;
    assert_eq!((counted(&metrics, "validation"), metrics.count("weir_requests_total", &[])), ([0, 0], 0));
    gate.open();
    crate::harness::client::read(answer).await.expect("a body");
    assert_eq!(counted(&after(&weir, 1).await, "validation"), [0, 1]);
    weir.stop().await;
}

#[tokio::test]
async fn posted_events_count_for_the_arm_or_the_units_own() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).tables(SIGNALS)).await;
    let post =
        async |signal: &str, body: serde_json::Value| weir.command(&format!("/api/v1/signals/{signal}"), body).await;
    let answer = post("orders", json!({ "arm": "canary", "count": 40 })).await;
    assert_eq!(
        [&answer["signal"], &answer["count"], &answer["arms"]],
        [&json!("orders"), &json!(40), &json!({ "chat": "canary" })]
    );
    post("orders", json!({ "rollout": "chat", "arm": "stable", "count": 2 })).await;
    let mut client = Client::http1(weir.address).await;
    let mut wanted = [2, 40];
    for number in 0..20 {
        let unit = format!("user-{number}");
        let arm = if client.origin_of(&unit).await == "new" { 1 } else { 0 };
        let answer = post("orders", json!({ "unit": unit })).await;
        assert_eq!(answer["arms"]["chat"], json!(["stable", "canary"][arm]));
        wanted[arm] += 1;
    }
    // A posted signal may have answers of its own as well.
    post("validation", json!({ "arm": "stable" })).await;
    let metrics = weir.metrics().await;
    assert_eq!((counted(&metrics, "orders"), counted(&metrics, "validation")), (wanted, [1, 0]));

    for (signal, body, status, field) in [
        ("order", json!({ "arm": "canary" }), 404, None),
        ("orders", json!({ "arm": "canary", "rollout": "chad" }), 404, None),
        ("orders", json!({}), 400, Some("arm")),
        ("orders", json!({ "arm": "new" }), 400, Some("arm")),
        ("orders", json!({ "unit": " " }), 400, Some("unit")),
        ("orders", json!({ "arm": "canary", "unit": "u" }), 400, Some("unit")),
        ("orders", json!({ "arm": "canary", "count": 0 }), 400, Some("count")),
        ("orders", json!({ "arm": "canary", "counts": 1 }), 400, Some("counts")),
    ] {
        let answer = weir.ask("POST", &format!("/api/v1/signals/{signal}"), &body.to_string()).await;
        assert_eq!((answer.status, answer.json()["field"].as_str()), (status, field), "{body}: {}", answer.text());
    }
    assert_eq!(counted(&weir.metrics().await, "orders"), wanted, "what was refused counts for nothing");
    weir.stop().await;
}

#[tokio::test]
async fn a_reload_brings_and_takes_signals_and_the_others_go_on() {
    let origin = Origin::start("new").await;
    origin.script(as_asked);
    let config = Config::split(&origin, &origin).weight("100%");
    let weir = Weir::start(&config.clone().tables("[signals.a]\nwhen = { status = [\"422\"] }")).await;
    let mut client = Client::http1(weir.address).await;
    let mut sent = 0;
    for (signals, wanted) in [("a", [1, 0]), ("a b", [2, 1]), ("b a", [3, 2]), ("b", [3, 3])] {
        let tables = signals.split(' ').map(|name| format!("[signals.{name}]\nwhen = {{ status = [\"422\"] }}\n"));
        weir.write_config(&config.clone().tables(&tables.collect::<String>()));
        assert!(weir.reload_at_once().await);
        client.get("/", &[("x-user-id", "u"), ("x-want", "422")]).await;
        sent += 1;
        let metrics = after(&weir, sent).await;
        assert_eq!(["a", "b"].map(|signal| counted(&metrics, signal)[1]), wanted, "with {signals}");
    }
    weir.stop().await;
}
