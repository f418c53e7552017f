//! What clients may not do for long or in large: heads and bodies that drip, answers that nobody reads, connections on
//! which nothing happens, heads and bodies beyond a size. The client is told or cut, and no arm is blamed.

use crate::harness::client::{next_data, read};
use crate::harness::metrics::Metrics;
use crate::harness::piped::{piped, sized};
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::{Client, Gate, Origin, RawClient, Reply, Weir, soon};
use crate::overload::{holding, limited, tls};
use std::time::Duration;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
const HALF: &str = "GET / HTTP/1.1\r\nhost: x\r\nx-us";

async fn cut(weir: &Weir, reason: &str, count: u64) -> Metrics {
    let enough = |metrics: &Metrics| metrics.count("weir_connections_cut_total", &[("reason", reason)]) >= count;
    weir.metrics_until(reason, enough).await
}

#[tokio::test]
async fn a_head_has_its_time_from_its_first_byte_however_it_is_fed() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "header_timeout = \"200ms\"")).await;
    let mut idle = RawClient::connect(weir.address).await;
    assert_eq!(idle.get("/", UNIT).await.status, 200);
    // The first head of a connection, the second one, and one that comes before the answer to the first.
    let mut first = RawClient::connect(weir.address).await;
    first.send(HALF).await;
    let mut second = RawClient::connect(weir.address).await;
    assert_eq!(second.get("/", UNIT).await.status, 200);
    second.send(HALF).await;
    for client in [&mut first, &mut second] {
        assert!(client.try_answer().await.is_none());
    }
    let mut steady = RawClient::connect(weir.address).await;
    steady.send("GET / HTTP/1.1\r\nx-long: ").await;
    soon("the end of a connection that is fed byte by byte", async {
        while steady.wire.write(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    cut(&weir, "header_timeout", 3).await;
    assert_eq!(idle.get("/", UNIT).await.status, 200, "a connection that is idle is left alone");
    weir.stop().await;
}

#[tokio::test]
async fn a_head_that_comes_before_the_last_answer_has_its_time_after_it() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "header_timeout = \"100ms\"")).await;
    let mut client = RawClient::connect(weir.address).await;
    client.send(request("GET", "/held", UNIT, b"")).await;
    origin.until("the request", |state| state.requests.len() == 1).await;
    client.send(HALF).await;
    gate.open();
    assert_eq!(client.answer().await.text(), "held");
    assert!(client.ended().await);
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_after_its_handshake_is_cut() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = tls(&origin, "first_byte_timeout = \"200ms\"").await;
    for protocol in ["http/1.1", "h2"] {
        let mut client = RawClient::over(certificate.connect(weir.address, &[protocol]).await);
        while soon("the end of the connection", client.wire.fill()).await.is_ok_and(|more| more) {}
    }
    cut(&weir, "first_byte_timeout", 2).await;
    // One that has said so much is not silent any more.
    let mut client = Client::over(certificate.connect(weir.address, &["h2"]).await, true).await;
    assert_eq!(client.get("/", UNIT).await.status, 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_and_one_that_takes_little_is_not() {
    let origin = Origin::start("new").await;
    origin.script(|_| Reply::body(Content::Fill { bytes: 4 << 30, sized: true }));
    let weir = Weir::start(&limited(&origin, "write_stall = \"200ms\"")).await;
    let mut slow = Client::http1(weir.address).await;
    let asked = slow.request("GET", "/", UNIT, sized(""));
    let mut body = slow.send(asked).await.expect("an answer").into_body();
    for stalled in 1..=3 {
        let mut client = RawClient::connect(weir.address).await;
        client.send(request("GET", "/", UNIT, b"")).await;
        while weir.metrics().await.count("weir_connections_cut_total", &[("reason", "write_stall")]) < stalled {
            assert!(next_data(&mut body).await.is_some(), "a slow client is served on");
        }
    }
    drop((slow, body));
    let metrics = weir.metrics_until("the ends", |metrics| metrics.count("weir_requests_total", &[]) == 4).await;
    assert_eq!(metrics.count("weir_client_left_total", &[]), 4);
    assert_eq!(metrics.count("weir_connections_cut_total", &[]), 3);
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_stream_of_which_the_client_takes_nothing_is_reset_and_the_others_go_on() {
    let origin = Origin::start("new").await;
    origin.script(|seen| match seen.target.as_str() {
        "/large" => Reply::body(Content::Fill { bytes: 64 << 20, sized: true }),
        _ => Reply::Hello,
    });
    let weir = Weir::start(&limited(&origin, "write_stall = \"300ms\"")).await;
    let mut client = Client::http2(weir.address).await;
    let asked = client.request("GET", "/large", UNIT, sized(""));
    let unread = client.send(asked).await.expect("an answer");
    let metrics = cut(&weir, "write_stall", 1).await;
    assert_eq!(metrics.count("weir_connections", &[]), 1, "the connection was cut with its stream");
    assert_eq!(client.get("/", UNIT).await.status, 200);
    assert!(read(unread).await.is_err(), "a cut answer looks whole");
    let metrics = weir.metrics_until("the ends", |metrics| metrics.count("weir_requests_total", &[]) == 2).await;
    assert_eq!(metrics.count("weir_client_left_total", &[]), 1);
    weir.stop().await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413_whether_it_says_so_or_not() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let config = limited(&origin, "max_body = \"1KiB\"").upstreams(if http2_up { "protocol = \"h2\"" } else { "" });
        let weir = Weir::start(&config).await;
        for http2 in [false, true] {
            let mut client = Client::to(weir.address, http2).await;
            assert_eq!(client.call("POST", "/", UNIT, sized(vec![b'x'; 1024])).await.status, 200);
            let before = origin.count();
            assert_eq!(client.call("POST", "/", UNIT, sized(vec![b'x'; 1025])).await.status, 413);
            assert_eq!(origin.count(), before, "a body that says that it is too long is not sent");
            let mut client = Client::to(weir.address, http2).await;
            let (feed, body) = piped();
            let asked = client.request("POST", "/", UNIT, body);
            let fed = tokio::spawn(async move { while feed.data(vec![b'x'; 300]).await {} });
            let answer = read(client.send(asked).await.expect("an answer")).await.expect("whole");
            assert_eq!(answer.status, 413, "h2: {http2}, h2 up: {http2_up}");
            drop(client);
            soon("the end of the upload", fed).await.expect("no panic");
        }
        let whole = |state: &crate::harness::origin::State| state.requests.iter().filter(|seen| seen.complete).count();
        assert_eq!(whole(&origin.state()), 2, "a cut body passed for a whole one");
        let metrics = weir.metrics().await;
        assert_eq!(metrics.count("weir_refused_total", &[("reason", "body_too_long")]), 4);
        assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_http2_connection_without_a_stream_ends_and_one_with_a_stream_does_not() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "h2_idle = \"200ms\"")).await;
    let mut busy = Client::http2(weir.address).await;
    let asked = busy.request("GET", "/held", UNIT, sized(""));
    let held = busy.begin(asked);
    origin.until("the request", |state| state.requests.len() == 1).await;
    for _ in 0..2 {
        let mut idle = Client::http2(weir.address).await;
        assert_eq!(idle.get("/", UNIT).await.status, 200);
        eventually("the end of the connection", || std::future::ready(idle.is_closed().then_some(()))).await;
    }
    gate.open();
    assert_eq!(soon("the answer", held).await.expect("an answer").status(), 200);
    weir.stop().await;
}

#[tokio::test]
async fn an_idle_connection_ends_after_keep_alive_idle() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "keep_alive_idle = \"200ms\"")).await;
    let mut client = RawClient::connect(weir.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/", UNIT).await.status, 200);
    }
    assert!(client.ended().await);
    let metrics = weir.metrics_until("the end", |metrics| metrics.count("weir_connections", &[]) == 0).await;
    assert_eq!(metrics.count("weir_connections_cut_total", &[]), 0, "idleness is no fault");
    weir.stop().await;
}

#[tokio::test]
async fn a_body_that_drips_is_given_up_and_is_nobodys_failure() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let config =
            limited(&origin, "body_min_rate = \"1KiB\"").upstreams(if http2_up { "protocol = \"h2\"" } else { "" });
        let weir = Weir::start(&config).await;
        let mut client = Client::http2(weir.address).await;
        let (feed, body) = piped();
        let asked = client.request("POST", "/", UNIT, body);
        let fed = tokio::spawn(async move {
            while feed.data("x").await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert_eq!(client.send(asked).await.expect("an answer").status(), 408, "h2 up: {http2_up}");
        let metrics = weir.metrics_until("the end", |metrics| metrics.count("weir_requests_total", &[]) == 1).await;
        assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
        drop(client);
        soon("the end of the upload", fed).await.expect("no panic");
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_431() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "max_header_bytes = \"2KiB\"")).await;
    for (length, status) in [(1_900, 200), (2_100, 431)] {
        let mut client = RawClient::connect(weir.address).await;
        assert_eq!(client.get("/", &[("x-user-id", "u"), ("x-long", &"x".repeat(length))]).await.status, status);
    }
    weir.stop().await;
}
