//! Metrics equal what was sent, to the request, and their labels come from the config alone.

use crate::harness::piped::sized;
use crate::harness::reply::Content;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Weir};
use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

/// What clients got, by arm and class, must be what the metrics say.
#[tokio::test]
async fn requests_are_counted_by_arm_route_and_class_to_the_request() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let answer = |seen: &crate::harness::origin::Seen| match seen.field("x-want").unwrap_or("200") {
        "200" => Reply::Hello,
        status => Reply::status(status.parse().expect("a status")),
    };
    legacy.script(answer);
    new.script(answer);
    let config = Config::split(&legacy, &new).workers(3).weight("30%").tables(
        "[[routes]]\nname = \"api\"\nmatch = { path_prefix = \"/api\" }\nrollouts = [\"chat\"]\n\
         [[routes]]\nname = \"rest\"\nrollouts = [\"chat\"]",
    );
    let weir = Weir::start(&config).await;
    let mut tasks = Vec::new();
    for part in 0..6 {
        let address = weir.address;
        tasks.push(tokio::spawn(async move {
            let mut client = Client::to(address, part % 2 == 0).await;
            let mut got = BTreeMap::new();
            for number in 0..200 {
                let want = ["200", "201", "302", "404", "503"][number % 5];
                let (target, route) = if number % 3 == 0 { ("/api/x", "api") } else { ("/x", "rest") };
                let unit = format!("user-{part}-{number}");
                let status = client.get(target, &[("x-user-id", &unit), ("x-want", want)]).await.status;
                assert_eq!(status.to_string(), want);
                *got.entry((route, format!("{}xx", status / 100))).or_insert(0_u64) += 1;
            }
            got
        }));
    }
    let mut sent: BTreeMap<(&str, String), u64> = BTreeMap::new();
    for task in tasks {
        for (key, count) in task.await.expect("no client failed") {
            *sent.entry(key).or_default() += count;
        }
    }
    let total = "weir_requests_total";
    let all = |metrics: &crate::harness::metrics::Metrics| metrics.count(total, &[("rollout", "chat")]);
    let metrics = weir.metrics_until("all 1,200", |metrics| all(metrics) == 1200).await;
    for ((route, code), count) in &sent {
        assert_eq!(metrics.count(total, &[("route", route), ("code", code)]), *count, "{route} {code}");
    }
    for (arm, origin) in [("stable", &legacy), ("canary", &new)] {
        assert_eq!(metrics.count(total, &[("arm", arm)]), origin.count(), "{arm}");
        let seen = origin.state().requests;
        let failed = seen.iter().filter(|seen| seen.field("x-want") == Some("503")).count() as u64;
        assert_eq!(metrics.count("weir_request_errors_total", &[("arm", arm), ("kind", "status_5xx")]), failed);
        assert_eq!(metrics.count("weir_request_duration_seconds_count", &[("arm", arm)]), origin.count());
        let decided = metrics.count("weir_decisions_total", &[("arm", arm), ("reason", "bucket")]);
        assert_eq!(decided, origin.count());
    }
    assert_eq!(metrics.count("weir_requests_in_flight", &[]), 0);
    assert!((metrics.sum("weir_rollout_weight_ratio", &[("rollout", "chat")]) - 0.3).abs() < 1e-9);
    weir.stop().await;
}

#[tokio::test]
async fn what_is_under_way_is_in_flight() {
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |_| Reply::held(&held));
    let weir = Weir::start(&Config::split(&origin, &origin).weight("100%")).await;
    let mut client = Client::http2(weir.address).await;
    let mut answers = Vec::new();
    for _ in 0..7 {
        let request = client.request("GET", "/", &[("x-user-id", "u")], sized(""));
        answers.push(tokio::spawn(client.begin(request)));
    }
    let labels = [("rollout", "chat"), ("arm", "canary")];
    weir.metrics_until("seven", |metrics| metrics.count("weir_requests_in_flight", &labels) == 7).await;
    gate.open();
    for answer in answers {
        crate::harness::client::read(answer.await.expect("no panic").expect("an answer")).await.expect("a body");
    }
    weir.metrics_until("none", |metrics| metrics.count("weir_requests_in_flight", &labels) == 0).await;
    weir.stop().await;
}

#[tokio::test]
async fn latencies_are_right_within_the_stated_error() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    // An injected latency far above what the machine adds, so that bounds can be tight above it.
    let slow = Duration::from_millis(400);
    new.script(move |_| {
        Reply::Answer(Answer { delay: slow, body: Content::Sized(Bytes::from_static(b"x")), ..Answer::default() })
    });
    let config = Config::split(&legacy, &new).tables("[rollouts.chat.cohorts.slow]\nusers = [\"slow\"]").weight("0%");
    let weir = Weir::start(&config).await;
    let mut client = Client::http2(weir.address).await;
    let mut answers = Vec::new();
    for number in 0..40 {
        let unit = if number % 2 == 0 { "slow" } else { "quick" };
        let request = client.request("GET", "/", &[("x-user-id", unit)], sized(""));
        answers.push(tokio::spawn(client.begin(request)));
    }
    for answer in answers {
        crate::harness::client::read(answer.await.expect("no panic").expect("an answer")).await.expect("a body");
    }
    let labels = [("rollout", "chat"), ("arm", "canary")];
    let name = "weir_request_duration_seconds";
    let metrics =
        weir.metrics_until("twenty slow ones", |metrics| metrics.count(&format!("{name}_count"), &labels) == 20).await;
    let sum = metrics.sum(&format!("{name}_sum"), &labels);
    assert!(sum >= 20.0 * 0.4, "{sum} s for twenty answers of 400 ms");
    let rollout = weir.view("/api/v1/rollouts/chat").await;
    let p50 = rollout["arms"]["canary"]["p50_ms"].as_f64().expect("a quantile");
    // 1/64 below the injected latency is the histogram's stated error; above it the machine may add.
    assert!(p50 >= 400.0 * (1.0 - 1.0 / 64.0), "{p50} ms");
    let quick = rollout["arms"]["stable"]["p50_ms"].as_f64().expect("a quantile");
    assert!(quick < p50, "{quick} ms");
    weir.stop().await;
}

#[tokio::test]
async fn both_arms_have_the_same_histogram_bounds() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    let metrics = weir.metrics().await;
    let bounds = metrics.values("weir_request_duration_seconds_bucket", "le");
    assert!(bounds.len() > 5 && bounds.contains(&"+Inf"), "{bounds:?}");
    for bound in bounds {
        for arm in ["stable", "canary"] {
            assert!(
                metrics.has("weir_request_duration_seconds_bucket", &[("arm", arm), ("le", bound)]),
                "{arm} {bound}"
            );
        }
    }
    weir.stop().await;
}

#[tokio::test]
async fn users_paths_and_hosts_of_requests_make_no_series() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    let mut client = RawClient::connect(weir.address).await;
    for number in 0..50 {
        client.get("/warm", &[("x-user-id", &format!("warm-{number}"))]).await;
    }
    let ended = |count: u64| {
        move |metrics: &crate::harness::metrics::Metrics| metrics.count("weir_requests_total", &[]) == count
    };
    let before = weir.metrics_until("the first fifty", ended(50)).await.series();
    for number in 0..2000 {
        let (unit, host) = (format!("user-{number}"), format!("h{number}.example"));
        client.get(&format!("/p{number}?q={number}"), &[("x-user-id", &unit), ("host", &host)]).await;
    }
    let after = weir.metrics_until("all of them", ended(2050)).await.series();
    assert_eq!(before, after);
    weir.stop().await;
}

#[tokio::test]
async fn the_rollouts_view_counts_like_the_metrics() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    let mut client = Client::http1(weir.address).await;
    for number in 0..100 {
        client.get("/", &[("x-user-id", &format!("user-{number}"))]).await;
    }
    weir.metrics_until("a hundred", |metrics| metrics.count("weir_requests_total", &[]) == 100).await;
    let rollout = crate::harness::wait::eventually("a hundred in the view", || async {
        let rollout = weir.view("/api/v1/rollouts/chat").await;
        let requests = |arm: &str| rollout["arms"][arm]["requests"].as_u64().unwrap_or(0);
        (requests("stable") + requests("canary") == 100).then_some(rollout)
    })
    .await;
    let canary = &rollout["arms"]["canary"];
    assert_eq!([&canary["requests"], &canary["errors"]], [&json!(new.count()), &json!(new.count())]);
    assert_eq!(canary["error_rate"], json!(1.0));
    assert_eq!(rollout["arms"]["stable"]["errors"], json!(0));
    assert_eq!([&rollout["name"], &rollout["weight_ppm"]], [&json!("chat"), &json!(500_000)]);
    weir.stop().await;
}

#[tokio::test]
async fn open_connections_are_counted_and_forgotten() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let mut clients = Vec::new();
    for number in 0..10 {
        let mut client = Client::to(weir.address, number % 2 == 0).await;
        client.get("/", &[]).await;
        clients.push(client);
    }
    weir.metrics_until("ten", |metrics| metrics.count("weir_connections", &[]) == 10).await;
    clients.clear();
    weir.metrics_until("none", |metrics| metrics.count("weir_connections", &[]) == 0).await;
    weir.stop().await;
}
