//! Connections to upstreams: how many there are, who waits for one, which endpoint is spared, and what an HTTP/2 upstream
//! may ask of weir.

use crate::harness::client::read;
use crate::harness::frames::{Act, Frames, REFUSED};
use crate::harness::metrics::Metrics;
use crate::harness::origin::Ending;
use crate::harness::piped::sized;
use crate::harness::reply::{Answer, Content};
use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Gate, Origin, Reply, Weir, soon};
use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::time::Duration;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

/// One worker, whose quota is the whole one, and requests that wait for a connection as long as a test does.
fn patient(endpoints: &[&Origin], http2_up: bool, lines: &str) -> Config {
    let addresses: Vec<String> = endpoints.iter().map(|origin| origin.address.to_string()).collect();
    let endpoints = addresses.join("\", \"");
    Config::to(&endpoints, &endpoints)
        .workers(1)
        .weight("100%")
        .upstreams("connect_timeout = \"15s\"")
        .upstreams(if http2_up { "protocol = \"h2\"" } else { "" })
        .upstreams(lines)
}

/// Begins so many requests at once; their statuses are in the answer.
async fn begin(weir: &Weir, method: &str, count: usize) -> tokio::task::JoinHandle<Vec<u16>> {
    let mut client = Client::http2(weir.address).await;
    let mut answers = Vec::new();
    for _ in 0..count {
        let body = sized(if method == "POST" { "some body" } else { "" });
        let request = client.request(method, "/", UNIT, body);
        answers.push(tokio::spawn(client.begin(request)));
    }
    tokio::spawn(async move {
        let mut statuses = Vec::new();
        for answer in answers {
            let answer = soon("an answer", answer).await.expect("no panic").expect("an answer");
            statuses.push(read(answer).await.expect("a whole answer").status);
        }
        statuses
    })
}

fn in_flight(count: u64) -> impl Fn(&Metrics) -> bool {
    move |metrics| metrics.count("weir_requests_in_flight", &[]) == count
}

/// Waits for the gate, then takes its time.
fn slow(gate: &Gate) -> Reply {
    Reply::Answer(Answer {
        send_after: Some(gate.clone()),
        delay: Duration::from_millis(10),
        body: Content::Sized(Bytes::from_static(b"slow")),
        ..Answer::default()
    })
}

#[tokio::test]
async fn requests_beyond_max_connections_wait_for_one_of_them_and_succeed() {
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        let gate = Gate::closed();
        let held = gate.clone();
        origin.script(move |_| slow(&held));
        let weir = Weir::start(&patient(&[&origin], http2_up, "max_connections = 2")).await;
        let answers = begin(&weir, "GET", 20).await;
        weir.metrics_until("all under way", in_flight(20)).await;
        origin.until("two of them", |state| state.requests.len() >= 2).await;
        gate.open();
        assert_eq!(soon("all answers", answers).await.expect("no panic"), [200; 20], "h2: {http2_up}");
        assert!(origin.state().accepted <= 2, "{} connections, h2: {http2_up}", origin.state().accepted);
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_idle_connection_to_one_endpoint_makes_room_for_another_endpoint() {
    for http2_up in [false, true] {
        let (one, other) = (Origin::start("one").await, Origin::start("other").await);
        let weir = Weir::start(&patient(&[&one, &other], http2_up, "max_connections = 1")).await;
        let mut client = Client::http1(weir.address).await;
        for number in 0..20 {
            assert_eq!(client.get("/", UNIT).await.status, 200, "request {number}, h2: {http2_up}");
        }
        assert!(one.count() > 0 && other.count() > 0, "{} and {}", one.count(), other.count());
        eventually("one connection at most", || async { (one.state().open + other.state().open <= 1).then_some(()) })
            .await;
        let answers = begin(&weir, "GET", 20).await;
        assert_eq!(soon("all answers", answers).await.expect("no panic"), [200; 20], "h2: {http2_up}");
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_http2_upstream_that_ends_its_connections_between_requests_fails_none() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&patient(&[&origin], true, "")).await;
    let mut client = Client::http1(weir.address).await;
    for round in 0..30 {
        assert_eq!(client.get("/", UNIT).await.status, 200, "round {round}");
        match round % 3 {
            // The next request may be faster than the word.
            0 => origin.end_connections(Ending::GoAway),
            1 => {
                origin.end_connections(Ending::GoAway);
                origin.until("the end of its connections", |state| state.open == 0).await;
            }
            _ => {
                origin.end_connections(Ending::Close);
                origin.until("the end of its connections", |state| state.open == 0).await;
            }
        }
    }
    let ended = |metrics: &Metrics| metrics.count("weir_requests_total", &[]) == 30;
    let metrics = weir.metrics_until("all ends", ended).await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    weir.stop().await;
}

/// How often a request is sent that its upstream refuses each time.
const ATTEMPTS_MAX: u64 = 5;

#[tokio::test]
async fn what_an_http2_upstream_says_it_has_not_done_is_sent_again_some_times_unless_it_must_be_done_once() {
    for act in [Act::Reset(REFUSED), Act::GoAway] {
        let started = |upstream: &Frames| {
            let address = upstream.address.to_string();
            let config = Config::to(&address, &address).workers(1).weight("100%").upstreams("protocol = \"h2\"");
            config.tables("[rollouts.chat.breaker]\nenabled = false\nfallback = \"off\"")
        };
        // One refusal after the other, and then an answer.
        let upstream = Frames::scripted(move |heads| if heads < ATTEMPTS_MAX { act } else { Act::Answer }).await;
        let weir = Weir::start(&started(&upstream)).await;
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.get("/", UNIT).await.status, 200, "{act:?}");
        assert_eq!(upstream.state().heads, ATTEMPTS_MAX, "{act:?}");
        let metrics = weir.metrics_until("the end", |metrics| metrics.count("weir_requests_total", &[]) == 1).await;
        assert_eq!(metrics.count("weir_request_errors_total", &[]), 0, "{act:?}");
        assert_eq!(metrics.count("weir_upstream_retries_total", &[]), ATTEMPTS_MAX - 1, "{act:?}");
        weir.stop().await;
        // Nothing but refusals.
        let upstream = Frames::start(act).await;
        let weir = Weir::start(&started(&upstream)).await;
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.get("/", UNIT).await.status, 502, "{act:?}");
        assert_eq!(upstream.state().heads, ATTEMPTS_MAX, "{act:?}");
        for method in ["POST", "PATCH", "PUT", "DELETE"] {
            let before = upstream.state().heads;
            assert_eq!(client.call(method, "/", UNIT, sized("")).await.status, 502, "{act:?}");
            assert_eq!(upstream.state().heads, before + 1, "{act:?}: {method} was sent twice");
        }
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_http2_upstream_never_sees_more_streams_than_it_allows() {
    for lines in ["max_connections = 3", ""] {
        let origin = Origin::start("new").await;
        origin.limit_streams(5);
        let weir = Weir::start(&patient(&[&origin], true, lines)).await;
        for warm in [false, true] {
            let gate = Gate::closed();
            let held = gate.clone();
            origin.script(move |_| slow(&held));
            // A stream that the origin refuses shows as a failed POST: that cannot be sent again.
            let before = origin.count();
            let answers = begin(&weir, "POST", 40).await;
            weir.metrics_until("all under way", in_flight(40)).await;
            origin.until("five of them", |state| state.requests.len() as u64 >= before + 5).await;
            gate.open();
            let statuses = soon("all answers", answers).await.expect("no panic");
            assert_eq!(statuses, [200; 40], "{lines:?}, connections there before: {warm}");
            assert!(origin.state().streams_peak <= 5, "{} streams at once", origin.state().streams_peak);
        }
        if !lines.is_empty() {
            assert!(origin.state().accepted <= 3, "{} connections", origin.state().accepted);
        }
        assert_eq!(weir.metrics().await.count("weir_upstream_retries_total", &[]), 0, "a stream was refused");
        weir.stop().await;
    }
}

/// An address that refuses connections; nobody else can take it while this is there.
pub struct Refusing(pub SocketAddr, #[allow(dead_code, reason = "it holds the port")] Socket);

impl Refusing {
    /// A new one.
    pub fn new() -> Refusing {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
        let address = socket.local_addr().expect("it is bound").as_socket().expect("an IP address");
        Refusing(address, socket)
    }
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_spared_and_fails_no_request() {
    let (dead, origin) = (Refusing::new(), Origin::start("alive").await);
    let endpoints = format!("{}\", \"{}", dead.0, origin.address);
    let weir = Weir::start(&Config::to(&endpoints, &endpoints).workers(1)).await;
    let mut client = Client::http1(weir.address).await;
    for number in 0..100 {
        let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", "some body") };
        assert_eq!(client.call(method, "/", UNIT, sized(body)).await.status, 200, "request {number}");
    }
    assert_eq!(origin.count(), 100);
    // Each refused attempt is a request sent again, to the other endpoint.
    let retries = weir.metrics().await.count("weir_upstream_retries_total", &[]);
    assert!((1..=10).contains(&retries), "{retries} attempts on an endpoint that refuses");
    weir.stop().await;
}
