//! Who stands still, and who is blamed for it: clients that stop sending, upstreams that stop answering, and pauses that
//! are nobody's fault.

use crate::harness::client::next_data;
use crate::harness::metrics::Metrics;
use crate::harness::piped::{piped, sized};
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use bytes::Bytes;
use std::time::Duration;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
const HALF: &str = "POST /half HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\ncontent-length: 100\r\n\r\nhalf";

fn canary(origin: &Origin, http2_up: bool, limits: &str) -> Config {
    let config = Config::split(origin, origin).weight("100%").tables(&format!("[limits]\n{limits}"));
    config.upstreams(if http2_up { "protocol = \"h2\"" } else { "" })
}

/// Waits until so many requests have ended; the failures by kind must be these.
async fn ended(weir: &Weir, count: u64, errors: &[(&str, u64)], left: u64) -> Metrics {
    let all = |metrics: &Metrics| metrics.count("weir_requests_total", &[]) == count;
    let metrics = weir.metrics_until("the requests' ends", all).await;
    for (kind, count) in errors {
        assert_eq!(metrics.count("weir_request_errors_total", &[("kind", kind)]), *count, "{kind}");
    }
    let total: u64 = errors.iter().map(|(_, count)| count).sum();
    assert_eq!(metrics.count("weir_request_errors_total", &[]), total);
    assert_eq!(metrics.count("weir_client_left_total", &[]), left);
    metrics
}

#[tokio::test]
async fn a_client_that_aborts_its_upload_is_nobodys_failure() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let weir = Weir::start(&canary(&origin, http2_up, "")).await;
        let mut client = RawClient::connect(weir.address).await;
        client.send(HALF).await;
        origin.until("the head", |state| state.requests.len() == 1).await;
        drop(client);
        ended(&weir, 1, &[], 1).await;
        let (feed, body) = piped();
        let mut client = Client::http2(weir.address).await;
        let request = client.request("POST", "/", UNIT, body);
        let answer = client.begin(request);
        assert!(feed.data("half").await);
        origin.until("the head", |state| state.requests.len() == 2).await;
        feed.cut().await;
        assert!(soon("the stream's end", answer).await.is_err());
        ended(&weir, 2, &[], 2).await;
        assert!(origin.state().requests.iter().all(|seen| !seen.complete), "a cut upload passed for a whole one");
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_is_told_so_and_is_nobodys_failure() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        // The response timeout is beyond what the test waits for: it must not be the one that ends this.
        let config = canary(&origin, http2_up, "body_idle = \"100ms\"").upstreams("response_timeout = \"60s\"");
        let weir = Weir::start(&config).await;
        let mut client = RawClient::connect(weir.address).await;
        client.send(HALF).await;
        assert_eq!(client.answer().await.status, 408, "h2: {http2_up}");
        let (feed, body) = piped();
        let mut client = Client::http2(weir.address).await;
        let request = client.request("POST", "/", UNIT, body);
        let answer = client.begin(request);
        assert!(feed.data("half").await);
        assert_eq!(soon("an answer", answer).await.expect("an answer").status(), 408, "h2: {http2_up}");
        ended(&weir, 2, &[], 2).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_slow_but_steady_upload_may_take_longer_than_the_response_timeout() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let never = Gate::closed();
        let held = never.clone();
        origin.script(move |seen| if seen.target == "/held" { Reply::held(&held) } else { Reply::Hello });
        let weir = Weir::start(&canary(&origin, http2_up, "").upstreams("response_timeout = \"500ms\"")).await;
        let (feed, body) = piped();
        let mut uploading = Client::http2(weir.address).await;
        let request = uploading.request("POST", "/upload", UNIT, body);
        let answer = tokio::spawn(uploading.begin(request));
        assert!(feed.data("first").await);
        origin.until("its head", |state| state.requests.len() == 1).await;
        // Two requests in a row that are given up show that the timeout has passed twice meanwhile.
        let address = weir.address;
        let timeouts = tokio::spawn(async move {
            let mut client = Client::http1(address).await;
            (client.get("/held", UNIT).await.status, client.get("/held", UNIT).await.status)
        });
        while !timeouts.is_finished() {
            assert!(feed.data("more").await, "the upload was given up, h2: {http2_up}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(timeouts.await.expect("no panic"), (504, 504));
        drop(feed);
        let answer = soon("the answer", answer).await.expect("no panic").expect("an answer");
        assert_eq!(answer.status(), 200, "h2: {http2_up}");
        never.open();
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_answer_may_be_silent_for_longer_than_a_request_body_may() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let gate = Gate::closed();
        let pause = gate.clone();
        origin.script(move |seen| match seen.target.as_str() {
            "/events" => Reply::body(Content::Paused {
                first: Bytes::from_static(b"data: 1\n\n"),
                gate: pause.clone(),
                last: Bytes::from_static(b"data: 2\n\n"),
            }),
            _ => Reply::Hello,
        });
        let weir = Weir::start(&canary(&origin, http2_up, "body_idle = \"50ms\"")).await;
        let mut client = Client::http1(weir.address).await;
        let request = client.request("GET", "/events", UNIT, sized(""));
        let mut events = client.send(request).await.expect("an answer").into_body();
        assert_eq!(next_data(&mut events).await.expect("the first event"), "data: 1\n\n");
        // Clients that are told to be too slow show that the time has passed several times over.
        for _ in 0..3 {
            let mut client = RawClient::connect(weir.address).await;
            client.send(HALF).await;
            assert_eq!(client.answer().await.status, 408);
        }
        gate.open();
        assert_eq!(next_data(&mut events).await.expect("the second event"), "data: 2\n\n", "h2: {http2_up}");
        assert!(next_data(&mut events).await.is_none());
        ended(&weir, 4, &[], 3).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_silent_beyond_stream_idle_is_cut_as_a_timeout() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let never = Gate::closed();
        let pause = never.clone();
        let first = Bytes::from_static(b"data: 1\n\n");
        origin.script(move |_| {
            Reply::body(Content::Paused { first: first.clone(), gate: pause.clone(), last: Bytes::new() })
        });
        let weir = Weir::start(&canary(&origin, http2_up, "stream_idle = \"200ms\"")).await;
        let mut client = RawClient::connect(weir.address).await;
        client.send(crate::harness::raw::request("GET", "/", UNIT, b"")).await;
        let answer = client.answer().await;
        assert!(!answer.complete, "an answer that was cut looks whole, h2: {http2_up}");
        assert_eq!(answer.text(), "data: 1\n\n");
        ended(&weir, 1, &[("timeout", 1)], 0).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_request_that_weir_answers_in_a_silent_upstreams_place_shows_in_the_latency() {
    let origin = Origin::start("new").await;
    let never = Gate::closed();
    let held = never.clone();
    origin.script(move |_| Reply::held(&held));
    let weir = Weir::start(&canary(&origin, false, "").upstreams("response_timeout = \"300ms\"")).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", UNIT).await.status, 504);
    let metrics = ended(&weir, 1, &[("timeout", 1)], 0).await;
    let name = "weir_request_duration_seconds";
    assert_eq!(metrics.count(&format!("{name}_count"), &[("arm", "canary")]), 1);
    assert!(metrics.sum(&format!("{name}_sum"), &[("arm", "canary")]) >= 0.3);
    let p99 = eventually("the slow request in the view", || async {
        weir.view("/api/v1/rollouts/chat").await["arms"]["canary"]["p99_ms"].as_f64()
    })
    .await;
    assert!(p99 >= 300.0 * (1.0 - 1.0 / 64.0), "{p99} ms for a request that took 300 ms");
    weir.stop().await;
}
