//! What happens when a request cannot be proxied: the right status, the right kind in the metrics, nothing sent twice,
//! and nobody blamed for what a client did.

use crate::harness::client::read;
use crate::harness::metrics::Metrics;
use crate::harness::piped::{piped, sized};
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Step, Weir, soon};
use crate::upstreams::Refusing;
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

/// A weir whose canary gets everything, whatever it makes of it, and that soon gives up on a silent upstream.
async fn canary(origin: &Origin) -> Weir {
    Weir::start(&impatient(origin)).await
}

/// No breaker, so that every failure reaches its client.
fn impatient(origin: &Origin) -> Config {
    let config = Config::split(origin, origin).weight("100%").upstreams("response_timeout = \"300ms\"");
    config.tables("[rollouts.chat.breaker]\nenabled = false\nfallback = \"off\"")
}

/// Waits until so many requests have ended on the canary, then compares the failures by kind.
async fn failures(weir: &Weir, ended: u64, kinds: &[(&str, u64)]) {
    let arm = ("arm", "canary");
    let metrics =
        weir.metrics_until("the requests' ends", |metrics| metrics.count("weir_requests_total", &[arm]) == ended).await;
    for kind in ["status_5xx", "connect", "tls", "timeout", "reset", "truncated", "protocol", "grpc"] {
        let wanted = kinds.iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| *count);
        assert_eq!(metrics.count("weir_request_errors_total", &[arm, ("kind", kind)]), wanted, "{kind}");
    }
}

/// An address where nothing listens, nor ever will: a port that was given back might be the next origin's.
fn nowhere() -> SocketAddr {
    let refusing = Refusing::new();
    let address = refusing.0;
    std::mem::forget(refusing);
    address
}

#[tokio::test]
async fn a_request_without_a_route_is_404() {
    let origin = Origin::start("legacy").await;
    let config = Config::split(&origin, &origin).tables(
        "[[routes]]\nname = \"api\"\nmatch = { host = \"api.example\", path_prefix = \"/v1\", methods = [\"GET\"] }\n\
         rollouts = [\"chat\"]",
    );
    let weir = Weir::start(&config).await;
    let mut client = RawClient::connect(weir.address).await;
    let cases = [
        ("GET", "/v1/x", "api.example", 200),
        ("GET", "/v1", "API.example:80", 200),
        ("GET", "/v1", "api.example.", 200),
        ("GET", "/v1", "api.example.:80", 200),
        ("GET", "/v1/x", "www.example", 404),
        ("GET", "/v10", "api.example", 404),
        ("DELETE", "/v1", "api.example", 404),
    ];
    for (method, target, host, status) in cases {
        client.send(request(method, target, &[("host", host), UNIT[0]], b"")).await;
        assert_eq!(client.answer().await.status, status, "{method} {host}{target}");
    }
    assert_eq!(origin.count(), 4);
    weir.stop().await;
}

#[tokio::test]
async fn a_refused_connection_is_502() {
    let weir = Weir::start(&Config::between(nowhere(), nowhere()).weight("100%")).await;
    for http2 in [false, true] {
        let mut client = Client::to(weir.address, http2).await;
        assert_eq!(client.call("POST", "/", UNIT, sized("a body")).await.status, 502);
        assert_eq!(client.get("/", UNIT).await.status, 502);
        assert!(!client.is_closed());
    }
    failures(&weir, 4, &[("connect", 4)]).await;
    weir.stop().await;
}

#[tokio::test]
async fn an_upstream_without_a_known_address_is_503() {
    let weir = Weir::start(&Config::to("nothing.invalid:80", "nothing.invalid:80").weight("100%")).await;
    assert_eq!(Client::http1(weir.address).await.get("/", UNIT).await.status, 503);
    weir.stop().await;
}

#[tokio::test]
async fn no_answer_in_time_is_504() {
    for http2 in [false, true] {
        let origin = Origin::start("new").await;
        let never = Gate::closed();
        let held = never.clone();
        origin.script(move |_| Reply::held(&held));
        let config = impatient(&origin).upstreams(if http2 { "protocol = \"h2\"" } else { "" });
        let weir = Weir::start(&config).await;
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.get("/", UNIT).await.status, 504);
        failures(&weir, 1, &[("timeout", 1)]).await;
        never.open();
        origin.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.status, 200, "the next request is its own");
        weir.stop().await;
    }
}

#[tokio::test]
async fn what_is_not_http_is_502() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let answers: &[&[u8]] = &[
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 999999 What\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header line\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5x\r\n\r\nhello",
    ];
    let mut client = Client::http1(weir.address).await;
    for answer in answers {
        origin.script(move |_| Reply::bytes(*answer));
        let got = client.get("/", UNIT).await;
        assert_eq!(got.status, 502, "{:?}", String::from_utf8_lossy(answer));
    }
    let ended = answers.len() as u64;
    failures(&weir, ended, &[("protocol", ended)]).await;
    weir.stop().await;
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_502() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    origin.script(|_| {
        let long = "x".repeat(200 * 1024);
        Reply::bytes(format!("HTTP/1.1 200 OK\r\nx-long: {long}\r\ncontent-length: 0\r\n\r\n"))
    });
    assert_eq!(Client::http1(weir.address).await.get("/", UNIT).await.status, 502);
    weir.stop().await;
}

#[tokio::test]
async fn max_upstream_header_bytes_holds_in_both_protocols() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        origin.script(|seen| {
            let bytes = seen.target.trim_start_matches('/').parse().expect("a number");
            let long = ("x-long", "x".repeat(bytes));
            Reply::Answer(Answer { fields: vec![long], body: Content::Sized(Bytes::new()), ..Answer::default() })
        });
        let config = impatient(&origin).upstreams(if http2_up { "protocol = \"h2\"" } else { "" });
        let weir = Weir::start(&config.tables("[limits]\nmax_upstream_header_bytes = \"8KiB\"")).await;
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.get("/7000", UNIT).await.status, 200, "h2: {http2_up}");
        assert_eq!(client.get("/9000", UNIT).await.status, 502, "h2: {http2_up}");
        assert_eq!(client.get("/7000", UNIT).await.status, 200, "h2: {http2_up}");
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_upstream_that_closes_or_resets_before_its_answer_is_502() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let mut client = Client::http1(weir.address).await;
    origin.script(|_| Reply::Raw(vec![Step::Close]));
    assert_eq!(client.call("POST", "/", UNIT, sized("once")).await.status, 502);
    origin.script(|_| Reply::Raw(vec![Step::Reset]));
    assert_eq!(client.call("POST", "/", UNIT, sized("once")).await.status, 502);
    origin.script(|_| Reply::bytes(&b"HTTP/1.1 200 OK\r\ncontent-"[..]));
    assert_eq!(client.call("POST", "/", UNIT, sized("once")).await.status, 502);
    assert_eq!(origin.count(), 3);
    failures(&weir, 3, &[("reset", 3)]).await;
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_reaches_the_client_cut() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let config = impatient(&origin).upstreams(if http2_up { "protocol = \"h2\"" } else { "" });
        let weir = Weir::start(&config).await;
        origin.script(|_| Reply::body(Content::Cut(Bytes::from_static(b"the first half"))));
        for http2_down in [false, true] {
            let mut client = Client::to(weir.address, http2_down).await;
            let request = client.request("GET", "/", UNIT, sized(""));
            // The cut may overtake the head; what must not arrive is an answer that looks whole.
            if let Ok(response) = client.send(request).await {
                assert_eq!(response.status(), 200);
                assert!(
                    read(response).await.is_err(),
                    "a short answer passed for a whole one, {http2_down} {http2_up}"
                );
            }
        }
        failures(&weir, 2, &[("truncated", 2)]).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_chunked_answer_that_is_cut_or_broken_never_looks_whole() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies =
        ["5\r\nhello\r\n", "5\r\nhel", "5\r\nhello\r\n0\r\n", "zz\r\nhello\r\n0\r\n\r\n", "5\r\nhelloXX0\r\n\r\n"];
    for body in bodies {
        origin.script(move |_| Reply::bytes(format!("{head}{body}")));
        let mut client = RawClient::connect(weir.address).await;
        client.send(request("GET", "/", UNIT, b"")).await;
        let answer = client.try_answer().await;
        let whole = answer.is_some_and(|answer| answer.complete && answer.status != 502);
        assert!(!whole, "{body:?} passed for a whole answer");
    }
    weir.stop().await;
}

#[tokio::test]
async fn bytes_after_an_answer_never_become_the_next_answer() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let smuggled = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";
    let first = format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst{smuggled}");
    let mut client = Client::http1(weir.address).await;
    for _ in 0..5 {
        let reply = first.clone();
        origin.script(move |_| Reply::Raw(vec![Step::Write(reply.clone().into_bytes())]));
        assert_eq!(client.get("/", UNIT).await.body, "first");
        origin.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.origin(), "new");
    }
    weir.stop().await;
}

#[tokio::test]
async fn interim_answers_do_not_pass_for_the_answer() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    origin.script(|_| {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
                    HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfinal";
        Reply::Raw(vec![Step::Write(text.as_bytes().to_vec())])
    });
    let mut client = Client::http1(weir.address).await;
    for _ in 0..3 {
        let got = client.get("/", UNIT).await;
        assert_eq!((got.status, &got.body[..]), (200, &b"final"[..]));
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let mut client = Client::http1(weir.address).await;
    for round in 1..=20 {
        origin.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.status, 200);
        // The pooled connection takes the request and dies without a word.
        origin.script(|seen| Reply::Raw(vec![if seen.target.ends_with('r') { Step::Reset } else { Step::Close }]));
        let target = if round % 2 == 0 { "/r" } else { "/c" };
        assert_eq!(client.call("POST", target, UNIT, sized("pay")).await.status, 502);
        let posts = origin.state().requests.iter().filter(|seen| seen.method == "POST").count();
        assert_eq!(posts, round);
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_pooled_connection_that_the_origin_has_closed_costs_no_request() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let mut client = Client::http1(weir.address).await;
    let ordinary = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec();
    for round in 0..20 {
        // It promises to go on by saying nothing else, and closes after its answer.
        let answer = ordinary.clone();
        origin.script(move |_| Reply::Raw(vec![Step::Write(answer.clone()), Step::Close]));
        assert_eq!(client.get("/", UNIT).await.status, 200, "round {round}");
        origin.until("its close", |state| state.open == 0).await;
        assert_eq!(client.get("/", UNIT).await.status, 200, "round {round}: a GET after a close");
        origin.until("its close", |state| state.open == 0).await;
    }
    failures(&weir, 40, &[]).await;
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_nobodys_failure() {
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |_| Reply::held(&held));
    let weir = Weir::start(&Config::split(&origin, &origin).weight("100%")).await;
    let mut client = RawClient::connect(weir.address).await;
    client.send(request("GET", "/", UNIT, b"")).await;
    origin.until("the request", |state| state.requests.len() == 1).await;
    drop(client);
    // The same over HTTP/2, where the connection stays and the stream alone is given up.
    let mut client = Client::http2(weir.address).await;
    let request = client.request("GET", "/", UNIT, sized(""));
    let answer = tokio::spawn(client.begin(request));
    origin.until("the request", |state| state.requests.len() == 2).await;
    answer.abort();
    failures(&weir, 2, &[]).await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_requests_in_flight", &[("rollout", "chat")]), 0);
    gate.open();
    assert_eq!(client.get("/", UNIT).await.status, 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_is_nobodys_failure() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin).weight("100%")).await;
    let mut client = RawClient::connect(weir.address).await;
    client.send("POST / HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\ncontent-length: 100\r\n\r\nhalf").await;
    origin.until("the head", |state| state.requests.len() == 1).await;
    drop(client);
    failures(&weir, 1, &[]).await;
    let (feed, body) = piped();
    let mut client = Client::http2(weir.address).await;
    let request = client.request("POST", "/", UNIT, body);
    let answer = client.begin(request);
    assert!(feed.data("half").await);
    origin.until("the head", |state| state.requests.len() == 2).await;
    feed.cut().await;
    assert!(soon("the stream's end", answer).await.is_err());
    failures(&weir, 2, &[]).await;
    assert!(origin.state().requests.iter().all(|seen| !seen.complete), "a cut request passed for a whole one");
    weir.stop().await;
}

#[tokio::test]
async fn what_two_parsers_could_read_differently_is_refused() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\n";
    let requests = [
        format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
        format!("{head}content-length: +5\r\n\r\nhello"),
        format!("{head}transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        format!("{head}transfer-encoding : chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}host: b\r\ncontent-length: 0\r\n\r\n"),
        "GET / HTTP/1.1\r\nx-user-id: u\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\nx-bad\0: 1\r\n\r\n".to_owned(),
        "GET http://b/ HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\n\r\n".to_owned(),
    ];
    for bytes in &requests {
        let mut client = RawClient::connect(weir.address).await;
        client.send(bytes).await;
        let answer = client.try_answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{bytes:?}: {answer:?}");
    }
    assert_eq!(origin.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_body_in_a_coding_that_weir_does_not_undo_is_501_and_one_in_doubt_400() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let codings = [
        ("transfer-encoding: gzip, chunked\r\n", 501),
        ("transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: chunked, chunked\r\n", 400),
        ("transfer-encoding: gzip\r\n", 400),
        ("transfer-encoding: xchunked\r\n", 400),
    ];
    for (coding, status) in codings {
        let mut client = RawClient::connect(weir.address).await;
        client.send(format!("POST / HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\n{coding}\r\n0\r\n\r\n")).await;
        assert_eq!(client.answer().await.status, status, "{coding:?}");
    }
    assert_eq!(origin.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_request_with_two_framings_is_refused_and_is_the_last_of_its_connection() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let mut client = RawClient::connect(weir.address).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let head = "POST /outer HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\ntransfer-encoding: chunked\r\n";
    client.send(format!("{head}content-length: {}\r\n\r\n0\r\n\r\n{smuggled}", 5 + smuggled.len())).await;
    assert_eq!(client.answer().await.status, 400);
    assert!(client.try_answer().await.is_none(), "what followed was read as a request");
    assert_eq!(origin.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn what_is_too_long_is_refused() {
    let origin = Origin::start("new").await;
    let weir = canary(&origin).await;
    let target = format!("/{}", "x".repeat(9000));
    let answer = RawClient::connect(weir.address).await.get(&target, UNIT).await;
    assert_eq!(answer.status, 414);
    let many: Vec<(String, &str)> = (0..150).map(|number| (format!("x-{number}"), "1")).collect();
    let fields: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let answer = RawClient::connect(weir.address).await.get("/", &fields).await;
    assert_eq!(answer.status, 431);
    assert_eq!(origin.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_refused_grpc_call_is_told_in_grpc() {
    let weir = Weir::start(&Config::between(nowhere(), nowhere()).weight("100%")).await;
    let mut client = Client::http2(weir.address).await;
    let fields = [UNIT[0], ("content-type", "application/grpc"), ("te", "trailers")];
    let got = client.call("POST", "/s/m", &fields, sized("call")).await;
    assert_eq!((got.status, got.field("grpc-status")), (200, Some("14")));
    weir.stop().await;
}

#[tokio::test]
async fn one_dead_endpoint_of_two_fails_only_its_own_share_and_the_living_one_serves() {
    let origin = Origin::start("new").await;
    let (dead, alive) = (nowhere(), origin.address);
    let endpoints = format!("{dead}\", \"{alive}");
    let weir = Weir::start(&Config::to(&endpoints, &endpoints)).await;
    let mut client = Client::http1(weir.address).await;
    let served = AtomicU64::new(0);
    for _ in 0..40 {
        let status = client.get("/", UNIT).await.status;
        assert!(status == 200 || status == 502, "{status}");
        served.fetch_add(u64::from(status == 200), Ordering::Relaxed);
    }
    assert_eq!(served.load(Ordering::Relaxed), origin.count());
    assert!(origin.count() >= 10, "only {} of 40 reached the living endpoint", origin.count());
    weir.stop().await;
}

#[tokio::test]
async fn requests_go_to_the_endpoint_with_the_least_in_flight() {
    let (slow, fast) = (Origin::start("slow").await, Origin::start("fast").await);
    let gate = Gate::closed();
    let held = gate.clone();
    slow.script(move |_| Reply::held(&held));
    let endpoints = format!("{}\", \"{}", slow.address, fast.address);
    let weir = Weir::start(&Config::to(&endpoints, &endpoints).workers(1)).await;
    let mut client = Client::http2(weir.address).await;
    let first: Vec<_> = (0..2)
        .map(|_| {
            let request = client.request("GET", "/", UNIT, sized(""));
            tokio::spawn(client.begin(request))
        })
        .collect();
    slow.until("one of the two", |state| state.requests.len() == 1).await;
    // The other one must have ended: until then both endpoints have one each.
    let one = |metrics: &Metrics| metrics.count("weir_requests_in_flight", &[]) == 1;
    weir.metrics_until("one under way", |metrics| one(metrics) && fast.count() == 1).await;
    // While one request hangs on the slow endpoint, everything else belongs to the other.
    for _ in 0..20 {
        assert_eq!(client.get("/", UNIT).await.origin(), "fast");
    }
    assert_eq!(slow.count(), 1);
    gate.open();
    for answer in first {
        assert!(soon("an answer", answer).await.expect("no panic").is_ok());
    }
    weir.stop().await;
}
