//! HTTP/1.1 and HTTP/2 on both sides, in clear text and over TLS: heads, bodies of any size both ways, trailers.

use crate::harness::client::{next_data, read};
use crate::harness::piped::{piped, sized};
use crate::harness::reply::{Content, pattern, pattern_checksum};
use crate::harness::tls::{Certificate, protocol};
use crate::harness::weir::folder;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Weir, raw, soon, wait};
use bytes::Bytes;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const MIB: u64 = 1024 * 1024;
/// More than all socket buffers and windows between client and origin hold together.
const BUFFERED_MAX: u64 = 48 * MIB;
const H2: &str = "protocol = \"h2\"";

/// Every pair of protocols: client speaks HTTP/2, origin is spoken to in HTTP/2.
const PAIRS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

async fn pair(http2_up: bool) -> (Weir, Origin) {
    let origin = Origin::start("new").await;
    let config = Config::split(&origin, &origin).weight("100%").upstreams(if http2_up { H2 } else { "" });
    (Weir::start(&config).await, origin)
}

#[tokio::test]
async fn each_side_speaks_its_own_protocol() {
    for (http2_down, http2_up) in PAIRS {
        let (weir, origin) = pair(http2_up).await;
        let mut client = Client::to(weir.address, http2_down).await;
        for number in 0..20 {
            let got = client.call("POST", &format!("/p?q={number}"), &[("x-user-id", "u")], sized("hello")).await;
            assert_eq!(got.status, 200, "{http2_down} {http2_up}");
            let said = got.json();
            assert_eq!(said["version"], json!(if http2_up { "HTTP/2" } else { "HTTP/1.1" }));
            assert_eq!(said["method"], json!("POST"));
            assert_eq!(said["target"], json!(format!("/p?q={number}")));
            assert_eq!(said["body_bytes"], json!(5));
        }
        assert!(!client.is_closed());
        assert_eq!(origin.last().connection, 1, "one client in turn needs one upstream connection");
        weir.stop().await;
    }
}

/// A weir whose listener speaks TLS, with its certificate.
async fn over_tls(origin: &Origin) -> (Certificate, Weir) {
    let certificate = Certificate::new();
    let folder = folder();
    certificate.write(folder.path());
    let config = Config::split(origin, origin).listener("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let weir = Weir::start_in(folder, &config).await;
    (certificate, weir)
}

#[tokio::test]
async fn a_listener_terminates_tls_and_chooses_the_protocol_by_alpn() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = over_tls(&origin).await;
    for (offered, chosen) in [(vec!["h2", "http/1.1"], "h2"), (vec!["http/1.1"], "http/1.1"), (vec![], "")] {
        let stream = certificate.connect(weir.address, &offered).await;
        assert_eq!(protocol(&stream), chosen, "offered {offered:?}");
        let mut client = Client::over(stream, chosen == "h2").await;
        let got = client.get("/", &[("x-user-id", "u")]).await;
        assert_eq!(got.status, 200);
        let proto = origin.last().field("x-forwarded-proto").map(str::to_owned);
        assert_eq!(proto.as_deref(), Some("https"), "offered {offered:?}");
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_tls_client_that_takes_its_leave_is_bidden_farewell_and_one_that_is_cut_off_is_told_nothing() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = over_tls(&origin).await;
    let mut rest = Vec::new();

    let mut polite = answered(&certificate, weir.address).await;
    polite.shutdown().await.unwrap();
    // Without the alert that ends it, this would be an error.
    polite.read_to_end(&mut rest).await.unwrap();

    let (mut cut, _) = answered(&certificate, weir.address).await.into_inner();
    cut.shutdown().await.unwrap();
    cut.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "neither heard anything more");
    weir.stop().await;
}

/// A connection that has had an answer, all of which was read.
async fn answered(certificate: &Certificate, address: SocketAddr) -> TlsStream<TcpStream> {
    let mut stream = certificate.connect(address, &["http/1.1"]).await;
    stream.write_all(b"HEAD / HTTP/1.1\r\nhost: a.example\r\nx-user-id: u\r\n\r\n").await.expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    stream
}

#[tokio::test]
async fn an_upstream_behind_tls_is_verified_and_spoken_to() {
    let certificate = Certificate::new();
    for protocols in [&["h2"][..], &["http/1.1"][..]] {
        let origin = Origin::start_tls("new", certificate.server(protocols)).await;
        let folder = folder();
        certificate.write(folder.path());
        let endpoint = format!("https://{}", origin.address);
        let http2 = protocols == ["h2"];
        let protocol = if http2 { H2 } else { "" };
        let config = Config::to(&endpoint, &endpoint)
            .upstreams(&format!("tls = {{ ca = \"cert.pem\", sni = \"localhost\" }}\n{protocol}"));
        let weir = Weir::start_in(folder, &config).await;
        let got = Client::http1(weir.address).await.get("/", &[("x-user-id", "u")]).await;
        assert_eq!(got.json()["version"], json!(if http2 { "HTTP/2" } else { "HTTP/1.1" }));
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_upstream_with_a_strangers_certificate_gets_no_request() {
    let (ours, strangers) = (Certificate::new(), Certificate::new());
    let origin = Origin::start_tls("new", strangers.server(&["http/1.1"])).await;
    let folder = folder();
    ours.write(folder.path());
    let endpoint = format!("https://{}", origin.address);
    let config =
        Config::to(&endpoint, &endpoint).weight("100%").upstreams("tls = { ca = \"cert.pem\", sni = \"localhost\" }");
    let weir = Weir::start_in(folder, &config).await;
    let got = Client::http1(weir.address).await.get("/", &[("x-user-id", "u")]).await;
    assert_eq!((got.status, origin.count()), (502, 0));
    let kind = [("arm", "canary"), ("kind", "tls")];
    weir.metrics_until("the failure", |metrics| metrics.count("weir_request_errors_total", &kind) == 1).await;
    weir.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_served_without_closing_what_is_open() {
    let origin = Origin::start("new").await;
    let (old, new) = (Certificate::new(), Certificate::new());
    let folder = folder();
    old.write(folder.path());
    let config = Config::split(&origin, &origin).listener("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let weir = Weir::start_in(folder, &config).await;
    let mut client = Client::over(old.connect(weir.address, &["h2"]).await, true).await;
    assert_eq!(client.get("/", &[]).await.status, 200);
    new.write(weir.folder.path());
    assert_eq!(weir.reload().await.status, 200);
    let renewed =
        wait::eventually("the new certificate", || async { new.try_connect(weir.address, &["h2"]).await.ok() });
    let mut second = Client::over(renewed.await, true).await;
    assert_eq!(second.get("/", &[]).await.status, 200);
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert!(!client.is_closed());
    weir.stop().await;
}

#[tokio::test]
async fn sixteen_mebibytes_go_up_and_down_unchanged() {
    let length = 16 * MIB;
    let checksum = pattern_checksum(length);
    for (http2_down, http2_up) in PAIRS {
        let (weir, origin) = pair(http2_up).await;
        for sized_up in [true, false] {
            origin.script(|_| Reply::Hello);
            let mut client = Client::to(weir.address, http2_down).await;
            let body = if sized_up { sized(pattern(0, length as usize)) } else { fed(length, None) };
            let got = client.call("PUT", "/up", &[("x-user-id", "u")], body).await;
            let said = got.json();
            assert_eq!([&said["body_bytes"], &said["body_checksum"]], [&json!(length), &json!(checksum)]);
            origin.script(move |_| Reply::body(Content::Fill { bytes: length, sized: sized_up }));
            let got = client.get("/down", &[("x-user-id", "u")]).await;
            assert_eq!((got.body.len() as u64, crc32fast::hash(&got.body)), (length, checksum));
        }
        weir.stop().await;
    }
}

/// A body of unknown length that counts what was taken of it.
fn fed(length: u64, taken: Option<Arc<AtomicU64>>) -> crate::harness::piped::AnyBody {
    let (feed, body) = piped();
    tokio::spawn(async move {
        let mut at = 0;
        while at < length {
            let piece = pattern(at, (length - at).min(64 * 1024) as usize);
            at += piece.len() as u64;
            if !feed.data(piece).await {
                return;
            }
            if let Some(taken) = &taken {
                taken.store(at, Ordering::Relaxed);
            }
        }
    });
    body
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_the_origin() {
    for (http2_down, http2_up) in PAIRS {
        let (weir, origin) = pair(http2_up).await;
        let length = 256 * MIB;
        origin.script(move |_| Reply::body(Content::Fill { bytes: length, sized: true }));
        let mut client = Client::to(weir.address, http2_down).await;
        let request = client.request("GET", "/", &[("x-user-id", "u")], sized(""));
        let response = client.send(request).await.expect("a head");
        let stalled = wait::settled("the origin to be stopped", 60, || origin.filled()).await;
        assert!(stalled < BUFFERED_MAX, "{stalled} bytes left the origin while nobody read, {http2_down} {http2_up}");
        let mut body = response.into_body();
        let mut received = 0;
        while let Some(data) = next_data(&mut body).await {
            received += data.len() as u64;
        }
        assert_eq!(received, length);
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_origin_that_does_not_read_stops_the_client() {
    for (http2_down, http2_up) in PAIRS {
        let (weir, origin) = pair(http2_up).await;
        let gate = Gate::closed();
        let held = gate.clone();
        origin.script(move |_| Reply::Answer(Answer { read_after: Some(held.clone()), ..Answer::default() }));
        let length = 128 * MIB;
        let taken = Arc::new(AtomicU64::new(0));
        let body = fed(length, Some(Arc::clone(&taken)));
        let mut client = Client::to(weir.address, http2_down).await;
        let request = client.request("POST", "/", &[("x-user-id", "u")], body);
        let answer = tokio::spawn(async move { client.send(request).await.map(|answer| (answer.status(), client)) });
        let stalled = wait::settled("the client to be stopped", 60, || taken.load(Ordering::Relaxed)).await;
        assert!(stalled < BUFFERED_MAX, "{stalled} bytes left the client while nobody read, {http2_down} {http2_up}");
        gate.open();
        let (status, _client) = soon("the answer", answer).await.expect("no panic").expect("an answer");
        assert_eq!((status.as_u16(), origin.last().body_bytes), (200, length));
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_body_streams_both_ways_at_once() {
    for (http2_down, http2_up) in PAIRS {
        let (weir, origin) = pair(http2_up).await;
        origin.script(|_| Reply::body(Content::Echo));
        let (feed, body) = piped();
        let mut client = Client::to(weir.address, http2_down).await;
        let request = client.request("POST", "/", &[("x-user-id", "u")], body);
        let mut echoed = client.send(request).await.expect("a head before the request's body").into_body();
        for word in ["one", "two", "three"] {
            assert!(feed.data(word).await);
            assert_eq!(next_data(&mut echoed).await.as_deref(), Some(word.as_bytes()));
        }
        drop(feed);
        assert_eq!(next_data(&mut echoed).await, None);
        weir.stop().await;
    }
}

#[tokio::test]
async fn trailers_pass_through_between_any_two_protocols() {
    for (http2_down, http2_up) in PAIRS {
        let (weir, origin) = pair(http2_up).await;
        origin.script(|_| {
            Reply::Answer(Answer {
                fields: vec![
                    ("trailer", "grpc-status, x-sum".to_owned()),
                    ("content-type", "application/grpc".to_owned()),
                ],
                body: Content::Chunked(vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]),
                trailers: vec![("grpc-status", "0"), ("x-sum", "42")],
                ..Answer::default()
            })
        });
        let mut client = Client::to(weir.address, http2_down).await;
        let got = client.call("POST", "/", &[("x-user-id", "u"), ("te", "trailers")], sized("x")).await;
        assert_eq!(got.body, "ab");
        let trailers: Vec<(&str, &str)> = got.trailers.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(trailers, [("grpc-status", "0"), ("x-sum", "42")], "{http2_down} {http2_up}");
        assert_eq!(origin.last().field("te"), Some("trailers"), "{http2_down} {http2_up}");
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_head_request_keeps_the_length_and_sends_no_body() {
    let (weir, origin) = pair(false).await;
    origin.script(|_| {
        Reply::Raw(vec![crate::harness::Step::Write(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n".to_vec())])
    });
    let mut client = RawClient::connect(weir.address).await;
    for _ in 0..2 {
        client.send(raw::request("HEAD", "/", &[("x-user-id", "u")], b"")).await;
        let (head, _) = client.head().await.expect("an answer");
        assert_eq!((raw::status(&head), head.field("content-length")), (200, Some("77")));
    }
    weir.stop().await;
}

#[tokio::test]
async fn many_streams_of_one_connection_are_served_at_once() {
    let (weir, origin) = pair(false).await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |_| Reply::held(&held));
    let mut client = Client::http2(weir.address).await;
    let mut answers = Vec::new();
    for number in 0..50 {
        let request = client.request("GET", &format!("/{number}"), &[("x-user-id", "u")], sized(""));
        answers.push(client.begin(request));
    }
    origin.until("all fifty at once", |state| state.requests.len() == 50).await;
    gate.open();
    for answer in answers {
        let got = read(soon("an answer", answer).await.expect("an answer")).await.expect("a whole answer");
        assert_eq!((got.status, &got.body[..]), (200, &b"held"[..]));
    }
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_whole() {
    let (weir, origin) = pair(false).await;
    origin.script(|_| Reply::bytes(&b"HTTP/1.0 200 OK\r\n\r\nuntil the end"[..]));
    for http2_down in [false, true] {
        let mut client = Client::to(weir.address, http2_down).await;
        for _ in 0..2 {
            let got = client.get("/", &[("x-user-id", "u")]).await;
            assert_eq!((got.status, &got.body[..]), (200, &b"until the end"[..]));
        }
        assert!(!client.is_closed());
    }
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_in_single_bytes_arrives_whole() {
    let (weir, origin) = pair(false).await;
    origin.script(|_| {
        let text = b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\nx-slow: yes\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            .to_vec();
        Reply::Raw(vec![crate::harness::Step::Trickle(text, std::time::Duration::from_micros(200))])
    });
    let mut client = Client::http1(weir.address).await;
    for _ in 0..2 {
        let got = client.get("/", &[("x-user-id", "u")]).await;
        assert_eq!((got.status, &got.body[..], got.field("x-slow")), (201, &b"hello"[..], Some("yes")));
    }
    weir.stop().await;
}
