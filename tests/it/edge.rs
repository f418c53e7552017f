//! What an edge meets in a day: clients that wait to be told to go on, streams of many small messages, upstreams that never
//! finish, an end that is not waited for.

use crate::harness::client::next_data;
use crate::harness::piped::{piped, sized};
use crate::harness::raw::{request, status};
use crate::harness::reply::Content;
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Step, Weir, soon};
use crate::overload::{holding, limited};
use crate::process::Process;
use bytes::Bytes;
use std::time::Duration;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

/// Everything to the canary.
pub fn canary(origin: &Origin) -> Config {
    Config::split(origin, origin).weight("100%")
}

#[tokio::test]
async fn a_client_that_waits_to_be_told_is_told_and_the_upstream_is_not_asked_to() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&canary(&origin)).await;
    let mut client = RawClient::connect(weir.address).await;
    for number in 1..=3 {
        client
            .send("POST / HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
            .await;
        let interim = soon("a word", client.wire.head()).await.expect("a head").expect("a head");
        assert_eq!(status(&interim), 100);
        client.send("hello").await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!((origin.count(), origin.last().field("expect"), origin.last().body_bytes), (number, None, 5));
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_refused_request_is_not_told_to_go_on() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&canary(&origin)).await;
    let mut client = RawClient::connect(weir.address).await;
    client.send("POST / HTTP/1.1\r\nhost: x y\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n").await;
    let answer = soon("a word", client.wire.head()).await.expect("a head").expect("a head");
    assert_eq!(status(&answer), 400);
    weir.stop().await;
}

#[tokio::test]
async fn answers_that_have_no_body_leave_the_connection_in_step() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&canary(&origin)).await;
    for (answer, expected) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 77\r\n\r\n", 304),
        ("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n", 304),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
    ] {
        for http2 in [false, true] {
            let mut client = Client::to(weir.address, http2).await;
            for _ in 0..3 {
                origin.script(move |_| Reply::Raw(vec![Step::Write(answer.as_bytes().to_vec())]));
                let got = client.get("/", UNIT).await;
                assert_eq!((got.status, got.body.len()), (expected, 0), "{answer:?}");
                origin.script(|_| Reply::Hello);
                assert_eq!(client.get("/", UNIT).await.origin(), "new", "after {answer:?}");
            }
        }
    }
    weir.stop().await;
}

#[tokio::test]
async fn ten_thousand_small_messages_reach_a_slow_reader_in_order_with_their_trailers() {
    const MESSAGES: usize = 10_000;
    for http2_up in [false, true] {
        let origin = Origin::start("new").await;
        origin.script(|_| {
            let message = |number: usize| Bytes::from(format!("message {number:06};"));
            Reply::Answer(Answer {
                fields: vec![("content-type", "application/grpc".to_owned())],
                body: Content::Chunked((0..MESSAGES).map(message).collect()),
                trailers: vec![("grpc-status", "9"), ("grpc-message", "not%20now")],
                ..Answer::default()
            })
        });
        let weir = Weir::start(&canary(&origin).upstreams(if http2_up { "protocol = \"h2\"" } else { "" })).await;
        let mut client = Client::http2(weir.address).await;
        let fields = [UNIT[0], ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "20S")];
        let asked = client.request("POST", "/service/method", &fields, sized("call"));
        let mut body = client.send(asked).await.expect("an answer").into_body();
        let (mut text, mut pieces) = (Vec::new(), 0_u32);
        let trailers = loop {
            let frame = http_body_util::BodyExt::frame(&mut body);
            let frame = soon("a frame", frame).await.expect("trailers before the end").expect("a whole answer");
            match frame.into_data() {
                Ok(data) => text.extend_from_slice(&data),
                Err(frame) => break frame.into_trailers().expect("trailers"),
            }
            pieces += 1;
            if pieces.is_multiple_of(64) {
                // Far behind the upstream, which has sent everything long ago.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let expected: String = (0..MESSAGES).map(|number| format!("message {number:06};")).collect();
        assert!(text == expected.as_bytes(), "{} bytes, messages are missing or mixed up", text.len());
        assert_eq!(
            (&trailers["grpc-status"], &trailers["grpc-message"]),
            (&"9".parse().unwrap(), &"not%20now".parse().unwrap())
        );
        assert_eq!(origin.last().field("grpc-timeout"), Some("20S"));
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_is_cancelled_at_the_upstream() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&canary(&origin).upstreams("protocol = \"h2\"")).await;
    let mut client = Client::http2(weir.address).await;
    let (feed, body) = piped();
    let asked = client.request("POST", "/held", &[UNIT[0], ("content-type", "application/grpc")], body);
    let call = tokio::spawn(client.begin(asked));
    assert!(feed.data("first message").await);
    origin.until("the call", |state| state.streams.values().sum::<u64>() == 1).await;
    call.abort();
    drop(feed);
    origin.until("its end", |state| state.streams.values().sum::<u64>() == 0).await;
    let metrics = weir.metrics_until("the end", |metrics| metrics.count("weir_requests_total", &[]) == 1).await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    gate.open();
    weir.stop().await;
}

#[tokio::test]
async fn each_event_of_a_stream_arrives_before_the_next_one_is_sent() {
    for http2_down in [false, true] {
        let origin = Origin::start("new").await;
        origin.script(|_| {
            Reply::Answer(Answer {
                fields: vec![("content-type", "text/event-stream".to_owned())],
                body: Content::Echo,
                ..Answer::default()
            })
        });
        let weir = Weir::start(&canary(&origin)).await;
        let mut client = Client::to(weir.address, http2_down).await;
        let (feed, body) = piped();
        let asked = client.request("POST", "/events", UNIT, body);
        let mut events = client.send(asked).await.expect("a head").into_body();
        for number in 0..50 {
            let event = format!("id: {number}\ndata: x\n\n");
            assert!(feed.data(event.clone()).await);
            assert_eq!(next_data(&mut events).await.as_deref(), Some(event.as_bytes()));
        }
        drop(feed);
        assert_eq!(next_data(&mut events).await, None);
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_upstream_that_never_finishes_its_head_is_given_up_in_time() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&canary(&origin).upstreams("response_timeout = \"300ms\"")).await;
    let mut client = Client::http1(weir.address).await;
    let fields = "x-more: field\r\n".repeat(4_000);
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(2_000);
    for (text, statuses) in [
        (format!("HTTP/1.1 200 OK\r\n{fields}"), [504, 504]),
        (interim.clone(), [504, 502]),
        ("HTTP/1.1 200 OK".to_owned() + &" ".repeat(50_000), [504, 502]),
    ] {
        origin.script(move |_| {
            Reply::Raw(vec![Step::Trickle(text.clone().into_bytes(), Duration::from_millis(1)), Step::Close])
        });
        let got = client.get("/", UNIT).await;
        assert!(statuses.contains(&got.status), "{}", got.status);
        let broken = origin.last().connection;
        origin.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.status, 200);
        assert_ne!(origin.last().connection, broken, "a connection in the middle of an answer was used again");
    }
    // As fast as they can be sent.
    origin.script(move |_| Reply::Raw(vec![Step::Write(interim.clone().into_bytes()), Step::Close]));
    assert_eq!(client.get("/", UNIT).await.status, 502);
    let open = |metrics: &crate::harness::metrics::Metrics| {
        let count = |state| metrics.count("weir_upstream_connections", &[("upstream", "new"), ("state", state)]);
        count("active") == 0 && count("idle") <= 1
    };
    weir.metrics_until("the ends of all broken connections", open).await;
    weir.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let folder = folder();
    let file = folder.path().join("weir.toml");
    // Far beyond what the test waits for: were the second signal not heard, the request would hold the process that long.
    let config = canary(&origin).to_string().replacen("drain_timeout = \"5s\"", "drain_timeout = \"10m\"", 1);
    std::fs::write(&file, config).expect("the folder is ours");
    let mut process = Process::start(&file).await;
    let mut client = RawClient::connect(process.address).await;
    client.send(request("GET", "/held", UNIT, b"")).await;
    origin.until("the request", |state| state.requests.len() == 1).await;
    process.signal("-TERM");
    // It is told when it stops accepting; until then it asks clients to go elsewhere. Either shows that it has heard.
    let address = process.address;
    eventually("a sign that it has heard", || async move {
        let Ok(stream) = tokio::net::TcpStream::connect(address).await else { return Some(()) };
        let mut client = RawClient::over(stream);
        client.wire.write(&request("GET", "/", UNIT, b"")).await.ok()?;
        let answer = client.try_answer().await?;
        assert_eq!(answer.status, 200);
        (answer.field("connection") == Some("close")).then_some(())
    })
    .await;
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(0));
    gate.open();
}

#[tokio::test]
async fn an_upstream_connection_ends_when_it_is_old_or_idle() {
    let origin = Origin::start("new").await;
    for limit in ["upstream_max_lifetime = \"100ms\"", "upstream_idle = \"100ms\""] {
        for http2_up in [false, true] {
            let config = limited(&origin, limit).upstreams(if http2_up { "protocol = \"h2\"" } else { "" });
            let weir = Weir::start(&config).await;
            let mut client = Client::http1(weir.address).await;
            assert_eq!(client.get("/", UNIT).await.status, 200);
            let first = origin.last().connection;
            if limit.starts_with("upstream_idle") {
                origin.until("the end of the idle connection", |state| state.open == 0).await;
            }
            let client = &mut client;
            eventually("another connection", async || {
                assert_eq!(client.get("/", UNIT).await.status, 200);
                (origin.last().connection != first).then_some(())
            })
            .await;
            weir.stop().await;
        }
    }
}

#[tokio::test]
async fn an_upstream_that_accepts_and_shakes_no_hands_is_given_up_within_the_time_for_connecting() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = silent.local_addr().expect("it is bound");
    let accepting = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            kept.push(stream);
        }
    });
    let folder = folder();
    Certificate::new().write(folder.path());
    let endpoint = format!("https://localhost:{}", address.port());
    let config = Config::to(&endpoint, &endpoint)
        .upstreams("connect_timeout = \"200ms\"\ntls = { ca = \"cert.pem\" }")
        .weight("100%");
    let weir = Weir::start_in(folder, &config).await;
    let got = Client::http1(weir.address).await.get("/", UNIT).await;
    assert!(matches!(got.status, 502 | 503), "{}", got.status);
    accepting.abort();
    weir.stop().await;
}
