//! Streams that outlive their canary's share: left, or ended in their protocol's own way within the stated time.

use crate::harness::client::next_data;
use crate::harness::metrics::Metrics;
use crate::harness::piped::{pairs, sized};
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::websocket::{Peer, Sockets, TEXT};
use crate::harness::wire::Piece;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
const CLOSE_STREAMS: &str = "[rollouts.chat.breaker]\nclose_streams = \"1s\"";
const EVENT: &str = "data: 1\n\n";
/// A gRPC message of three bytes.
const MESSAGE: &[u8] = b"\x00\x00\x00\x00\x03abc";

async fn kill(weir: &Weir) {
    weir.command("/api/v1/rollouts/chat/kill", json!({ "reason": "a test" })).await;
}

/// Waits until so many streams were ended; nothing of it is anybody's failure.
async fn closed(weir: &Weir, count: u64) {
    let metrics = weir
        .metrics_until("the streams' ends", |metrics| {
            metrics.count("weir_streams_closed_total", &[("rollout", "chat")]) == count
                && metrics.count("weir_requests_in_flight", &[("arm", "canary")]) == 0
        })
        .await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    assert_eq!(metrics.count("weir_client_left_total", &[]), 0);
}

/// An origin whose answers of that type send `first` and then stand still until the gate opens.
async fn standing(content_type: &'static str, first: &'static [u8], gate: &Gate) -> Origin {
    let origin = Origin::start("new").await;
    let gate = gate.clone();
    origin.script(move |_| {
        let body = Content::Paused { first: Bytes::from_static(first), gate: gate.clone(), last: Bytes::new() };
        Reply::Answer(Answer { fields: vec![("content-type", content_type.to_owned())], body, ..Answer::default() })
    });
    origin
}

fn canary(origin: &Origin, http2_up: bool) -> Config {
    let config = Config::split(origin, origin).weight("100%").tables(CLOSE_STREAMS);
    config.upstreams(if http2_up { "protocol = \"h2\"" } else { "" })
}

/// With a drain far longer than a test waits for: what is not told to end holds the process that long.
fn slow_drain(config: &Config) -> String {
    config.to_string().replacen("drain_timeout = \"5s\"", "drain_timeout = \"1m\"", 1)
}

async fn begun(client: &mut Client, method: &str, first: &'static [u8]) -> Incoming {
    let request = client.request(method, "/", UNIT, sized(""));
    let mut body = client.send(request).await.expect("a head").into_body();
    assert_eq!(next_data(&mut body).await.as_deref(), Some(first));
    body
}

#[tokio::test]
async fn websockets_of_a_killed_canary_are_told_that_the_service_restarts() {
    let (legacy, new) = (Sockets::start().await, Sockets::start().await);
    let weir = Weir::start(&Config::between(legacy.address, new.address).tables(CLOSE_STREAMS)).await;
    let mut on_canary = Vec::new();
    let mut on_stable = Vec::new();
    for number in 0..24 {
        let unit = format!("user-{number}");
        let is_canary = weir.explain(&unit).await["arm"] == "canary";
        let (sockets, list) = if is_canary { (&new, &mut on_canary) } else { (&legacy, &mut on_stable) };
        list.push(tokio::join!(Peer::connect(weir.address, &unit), sockets.accept()));
    }
    assert!(!on_canary.is_empty() && !on_stable.is_empty(), "both arms");
    kill(&weir).await;
    let count = on_canary.len() as u64;
    for (client, upstream) in &mut on_canary {
        assert_eq!(client.frame().await.code(), 1012);
        assert_eq!(upstream.frame().await.code(), 1001);
        client.close(1012).await;
        assert!(client.ended().await && upstream.ended().await);
    }
    closed(&weir, count).await;
    for (client, upstream) in &mut on_stable {
        client.send(TEXT, b"still here").await;
        assert_eq!(upstream.frame().await.payload, "still here");
    }
    weir.stop().await;
}

#[tokio::test]
async fn streams_of_a_tripped_canary_end_and_a_half_open_breaker_leaves_those_of_its_probes() {
    let gate = Gate::closed();
    let origin = Origin::start("new").await;
    let held = gate.clone();
    let pause = gate.clone();
    origin.script(move |seen| match seen.target.as_str() {
        "/sick" => Reply::status(500),
        _ => Reply::Answer(Answer {
            fields: vec![("content-type", "text/event-stream".to_owned())],
            body: Content::Paused {
                first: Bytes::from_static(EVENT.as_bytes()),
                gate: held.clone(),
                last: Bytes::new(),
            },
            ..Answer::default()
        }),
    });
    let breaker = "consecutive_errors = 3\nmin_units = 1\nerror_rate = false\nboth_arms = \"trip\"\nfallback = \"off\"\n\
                   cooldown = \"2s\"\nprobe = \"100%\"";
    let config = Config::split(&origin, &origin).weight("100%").tables(&format!("{CLOSE_STREAMS}\n{breaker}"));
    let weir = Weir::start(&config).await;
    let mut client = Client::http2(weir.address).await;
    let mut stream = begun(&mut client, "GET", EVENT.as_bytes()).await;
    for _ in 0..3 {
        assert_eq!(client.get("/sick", UNIT).await.status, 500);
    }
    assert_eq!(next_data(&mut stream).await, None);
    let ended = |metrics: &Metrics| metrics.count("weir_streams_closed_total", &[("rollout", "chat")]);
    weir.metrics_until("the stream's end", |metrics| ended(metrics) == 1).await;
    let half_open =
        || async { (weir.view("/api/v1/rollouts/chat").await["breaker"]["state"] == "half_open").then_some(()) };
    eventually("the breaker to be half-open", half_open).await;
    let mut probe = begun(&mut client, "GET", EVENT.as_bytes()).await;
    weir.metrics_until("the probe", |metrics| metrics.count("weir_decisions_total", &[("reason", "probe")]) >= 1).await;
    pause.open();
    assert_eq!(next_data(&mut probe).await, None);
    assert_eq!(ended(&weir.metrics().await), 1, "the probe's stream ended by itself");
    weir.stop().await;
}

#[tokio::test]
async fn without_a_word_about_streams_they_are_left() {
    let never = Gate::closed();
    let origin = standing("text/event-stream", EVENT.as_bytes(), &never).await;
    let weir = Weir::start(&Config::split(&origin, &origin).weight("100%")).await;
    let mut events = begun(&mut Client::http1(weir.address).await, "GET", EVENT.as_bytes()).await;
    let mut calls = begun(&mut Client::http2(weir.address).await, "GET", EVENT.as_bytes()).await;
    kill(&weir).await;
    // The policy of another rollout runs its whole course meanwhile: what it had to end, it has ended.
    let witness_origin = standing("text/event-stream", EVENT.as_bytes(), &never).await;
    let witness = Weir::start(&canary(&witness_origin, false)).await;
    let mut witnessed = begun(&mut Client::http1(witness.address).await, "GET", EVENT.as_bytes()).await;
    kill(&witness).await;
    assert_eq!(next_data(&mut witnessed).await, None);
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_requests_in_flight", &[("arm", "canary")]), 2);
    assert_eq!(metrics.count("weir_streams_closed_total", &[]), 0);
    never.open();
    assert_eq!((next_data(&mut events).await, next_data(&mut calls).await), (None, None));
    weir.stop().await;
    witness.stop().await;
}

#[tokio::test]
async fn event_streams_of_a_killed_canary_end_whole_so_that_clients_come_back() {
    let never = Gate::closed();
    for http2_up in [false, true] {
        let origin = standing("text/event-stream; charset=utf-8", EVENT.as_bytes(), &never).await;
        let weir = Weir::start(&canary(&origin, http2_up)).await;
        let mut raw = RawClient::connect(weir.address).await;
        raw.send(request("GET", "/", UNIT, b"")).await;
        let mut multiplexed = begun(&mut Client::http2(weir.address).await, "GET", EVENT.as_bytes()).await;
        origin.until("both streams", |state| state.requests.len() == 2).await;
        kill(&weir).await;
        let answer = raw.answer().await;
        assert!(answer.complete, "the body was cut, h2 up: {http2_up}");
        assert_eq!(answer.text(), EVENT);
        assert_eq!(next_data(&mut multiplexed).await, None, "h2 up: {http2_up}");
        closed(&weir, 2).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_event_is_not_cut_in_two() {
    let sockets = Sockets::start().await;
    let config = slow_drain(&Config::between(sockets.address, sockets.address).workers(1));
    let mut weir = Weir::start(&config).await;
    let mut streams = Vec::new();
    for first in ["data: 1\n\ndata: ", EVENT] {
        let mut client = RawClient::connect(weir.address).await;
        client.send(request("GET", "/", &[], b"")).await;
        let (mut upstream, _) = soon("a connection", sockets.asked()).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        upstream.write(format!("{head}{:x}\r\n{first}\r\n", first.len()).as_bytes()).await;
        let (_, mut left) = client.head().await.expect("a head");
        let piece = soon("the first event", client.wire.piece(&mut left)).await;
        assert!(matches!(piece, Ok(Piece::Data(data)) if data == first));
        streams.push((client, left, upstream));
    }
    let stopped = weir.begin_stop();
    let (mut client, mut left, _upstream) = streams.pop().expect("two streams");
    let end = soon("the end of the one between two events", client.wire.piece(&mut left)).await;
    assert!(matches!(end, Ok(Piece::End(_))), "{end:?}");
    // Both were told at once; the other one is in the middle of an event.
    let (mut client, mut left, mut upstream) = streams.pop().expect("two streams");
    upstream.write(b"a\r\n2\n\ndata: 3\r\n").await;
    let piece = soon("the rest of the event", client.wire.piece(&mut left)).await;
    assert!(matches!(&piece, Ok(Piece::Data(data)) if data == "2\n\n"), "{piece:?}");
    let end = soon("the end", client.wire.piece(&mut left)).await;
    assert!(matches!(end, Ok(Piece::End(_))), "{end:?}");
    drop(client);
    soon("the end of the process", stopped).await.expect("a stop does not panic");
}

#[tokio::test]
async fn grpc_streams_of_a_killed_canary_end_as_unavailable() {
    let never = Gate::closed();
    for http2_up in [false, true] {
        let origin = standing("application/grpc", MESSAGE, &never).await;
        let weir = Weir::start(&canary(&origin, http2_up)).await;
        let mut client = Client::http2(weir.address).await;
        let mut body = begun(&mut client, "POST", MESSAGE).await;
        kill(&weir).await;
        let frame = soon("the trailers", body.frame()).await.expect("a frame").expect("an unbroken body");
        let trailers = pairs(&frame.into_trailers().expect("trailers"));
        assert!(trailers.contains(&("grpc-status".to_owned(), "14".to_owned())), "{trailers:?}");
        assert!(trailers.iter().any(|(name, value)| name == "grpc-message" && !value.is_empty()), "{trailers:?}");
        assert!(soon("the end", body.frame()).await.is_none());
        closed(&weir, 1).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_body_of_stated_length_finishes_and_one_without_is_cut_not_shortened() {
    let gate = Gate::closed();
    let origin = Origin::start("new").await;
    let pause = gate.clone();
    origin.script(move |seen| match seen.target.as_str() {
        "/sized" => Reply::Raw(vec![crate::harness::Step::Write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n0123456789".to_vec(),
        )]),
        _ => Reply::body(Content::Paused {
            first: Bytes::from_static(b"first"),
            gate: pause.clone(),
            last: Bytes::new(),
        }),
    });
    let weir = Weir::start(&canary(&origin, false)).await;
    let mut sized_one = RawClient::connect(weir.address).await;
    sized_one.send(request("GET", "/sized", UNIT, b"")).await;
    let (_, mut left) = sized_one.head().await.expect("a head");
    let mut endless = RawClient::connect(weir.address).await;
    endless.send(request("GET", "/endless", UNIT, b"")).await;
    origin.until("both", |state| state.requests.len() == 2).await;
    kill(&weir).await;
    let answer = endless.answer().await;
    assert!(!answer.complete, "a body that was cut looks whole");
    assert_eq!(answer.text(), "first");
    // The other one is still there, in the middle of its body.
    let piece = soon("the first half", sized_one.wire.piece(&mut left)).await;
    assert!(matches!(piece, Ok(Piece::Data(data)) if data == "0123456789"));
    let metrics = weir.metrics_until("the end of one", |metrics| {
        metrics.count("weir_streams_closed_total", &[("rollout", "chat")]) == 1
    });
    assert_eq!(metrics.await.count("weir_requests_in_flight", &[("arm", "canary")]), 1);
    drop(sized_one);
    weir.stop().await;
}

#[tokio::test]
async fn streams_of_a_killed_canary_end_one_after_the_other() {
    let never = Gate::closed();
    let origin = standing("text/event-stream", EVENT.as_bytes(), &never).await;
    let config = Config::split(&origin, &origin).weight("100%").workers(1);
    let weir = Weir::start(&config.tables("[rollouts.chat.breaker]\nclose_streams = \"6s\"")).await;
    let mut client = Client::http2(weir.address).await;
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(begun(&mut client, "GET", EVENT.as_bytes()).await);
    }
    kill(&weir).await;
    let mut partly = 0;
    for (number, stream) in streams.iter_mut().enumerate() {
        assert_eq!(next_data(stream).await, None, "stream {number}");
        let metrics = weir.metrics().await;
        let count = metrics.count("weir_streams_closed_total", &[("rollout", "chat")]);
        partly += u64::from(count < 8);
    }
    assert!(partly >= 4, "they ended all at once");
    closed(&weir, 8).await;
    weir.stop().await;
}

#[tokio::test]
async fn the_end_of_the_process_ends_event_streams_of_any_arm() {
    let never = Gate::closed();
    let origin = standing("text/event-stream", EVENT.as_bytes(), &never).await;
    let config = slow_drain(&Config::split(&origin, &origin));
    let mut weir = Weir::start(&config).await;
    let mut raw = RawClient::connect(weir.address).await;
    raw.send(request("GET", "/", &[], b"")).await;
    origin.until("the stream", |state| state.requests.len() == 1).await;
    let stopped = weir.begin_stop();
    let answer = raw.answer().await;
    assert!(answer.complete, "the stream was cut");
    assert_eq!(answer.text(), EVENT);
    drop(raw);
    soon("the end", stopped).await.expect("a stop does not panic");
}
