//! What nobody should do to an edge and somebody does: handshakes that are none, connections of which one half has ended,
//! protocols that nobody speaks, streams without number, an upstream that is somebody else all of a sudden.

use crate::edge::canary;
use crate::harness::chance::tiny_streams;
use crate::harness::client::read;
use crate::harness::metrics::Metrics;
use crate::harness::piped::sized;
use crate::harness::raw::request;
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Weir, soon};
use crate::overload::holding;
use crate::process::Process;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

async fn secure(origin: &Origin, listener: &str) -> (Certificate, Weir) {
    let (certificate, folder) = (Certificate::new(), folder());
    certificate.write(folder.path());
    let listener = format!("tls = {{ cert = \"cert.pem\", key = \"key.pem\" }}\n{listener}");
    let weir = Weir::start_in(folder, &canary(origin).listener(&listener)).await;
    (certificate, weir)
}

async fn open_connections(weir: &Weir, count: u64) {
    weir.metrics_until("the ends", |metrics| metrics.count("weir_connections", &[]) == count).await;
}

#[tokio::test]
async fn handshakes_that_are_none_end_and_leave_nothing_behind() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = secure(&origin, "").await;
    let mut good = Client::over(certificate.connect(weir.address, &["h2"]).await, true).await;
    let record = |kind: u8, length: u16, body: &[u8]| {
        let mut bytes = vec![kind, 3, 1];
        bytes.extend(length.to_be_bytes());
        bytes.extend(body);
        bytes
    };
    let cases = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"\0".repeat(64 * 1024),
        record(22, u16::MAX, &[1; 1000]),
        record(22, 0, &[]).repeat(100),
        record(22, 5, &[1, 0xff, 0xff, 0xff, 3]),
        record(22, 4, &[1, 0, 0, 0]),
        record(23, 5, b"hello"),
        record(21, 2, &[2, 40]),
        record(99, 5, b"hello"),
    ];
    for case in &cases {
        let mut stream = TcpStream::connect(weir.address).await.expect("it listens");
        // It may have ended before everything was sent.
        let _ = soon("room to send", stream.write_all(case)).await;
        let _ = stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = soon("the end of the connection", stream.read_to_end(&mut rest)).await;
        // Nothing but an alert is ever said.
        assert!(rest.is_empty() || rest[0] == 21, "{case:?} was answered by {rest:?}");
    }
    open_connections(&weir, 1).await;
    assert_eq!(good.get("/", UNIT).await.status, 200);
    assert_eq!(origin.count(), 1);
    weir.stop().await;
}

#[tokio::test]
async fn protocols_that_do_not_match_end_in_the_handshake() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = secure(&origin, "protocols = [\"h2\"]").await;
    for offered in [&["http/1.1"][..], &["h3"], &["http/1.0", "spdy/3"]] {
        assert!(certificate.try_connect(weir.address, offered).await.is_err(), "{offered:?}");
    }
    // Who offers nothing speaks HTTP/1.1, which this listener does not.
    let mut silent = RawClient::over(certificate.connect(weir.address, &[]).await);
    let _ = silent.try_send(request("GET", "/", UNIT, b"")).await;
    assert!(silent.try_answer().await.is_none());
    let mut client = Client::over(certificate.connect(weir.address, &["http/1.1", "h2"]).await, true).await;
    assert_eq!(client.get("/", UNIT).await.status, 200);
    open_connections(&weir, 1).await;
    weir.stop().await;
}

#[tokio::test]
async fn half_a_connection_is_one_whose_client_has_left() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&canary(&origin)).await;
    for (what, sent) in [
        ("a request that waits for its answer", request("GET", "/held", UNIT, b"")),
        ("half a head", b"GET / HTTP/1.1\r\nhost".to_vec()),
        ("nothing", Vec::new()),
    ] {
        let mut client = RawClient::connect(weir.address).await;
        client.send(&sent).await;
        // A client that leaves before weir has looked at its request has asked for nothing.
        origin.until(what, |state| state.requests.len() == 1).await;
        client.wire.close().await.expect("our half");
        assert!(client.try_answer().await.is_none(), "{what}");
        weir.metrics_until(what, |metrics| metrics.count("weir_client_left_total", &[]) == 1).await;
    }
    // Half a body is nobody's failure.
    let mut client = RawClient::connect(weir.address).await;
    client.send("POST / HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\ncontent-length: 100\r\n\r\nhalf").await;
    origin.until("half a body", |state| state.requests.len() == 2).await;
    client.wire.close().await.expect("our half");
    let answer = client.try_answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 400));
    open_connections(&weir, 0).await;
    let left = |metrics: &Metrics| metrics.count("weir_client_left_total", &[]) == 2;
    let metrics = weir.metrics_until("half a body", left).await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    gate.open();
    weir.stop().await;
}

#[tokio::test]
async fn a_chunked_body_that_breaks_is_the_clients_own_fault() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&canary(&origin)).await;
    for broken in ["xyz\r\n", "5\r\nhello!!\r\n"] {
        let mut client = RawClient::connect(weir.address).await;
        client
            .send("POST / HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await;
        client.send(broken).await;
        let answer = client.try_answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{answer:?}");
    }
    let left = |metrics: &Metrics| metrics.count("weir_client_left_total", &[]) == 2;
    let metrics = weir.metrics_until("both ends", left).await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    assert!(origin.state().requests.iter().all(|seen| !seen.complete), "half a body passed for a whole one");
    weir.stop().await;
}

#[tokio::test]
async fn streams_without_number_are_all_served_and_leave_nothing_behind() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let file = folder.path().join("weir.toml");
    std::fs::write(&file, canary(&origin).to_string()).expect("the folder is ours");
    let process = Process::start(&file).await;
    let (streams, mut answered, mut connections) = (tiny_streams(1_000), 0, 0);
    let mut grown = None;
    while answered < streams {
        let mut client = Client::http2(process.address).await;
        connections += 1;
        // A hundred at once, as many as may be; after ten thousand the connection is to end.
        while answered < streams && !client.is_closed() {
            let mut under_way = Vec::new();
            for _ in 0..100 {
                let asked = client.request("GET", "/", UNIT, sized(""));
                under_way.push(client.begin(asked));
            }
            for answer in under_way {
                match soon("an answer", answer).await {
                    Ok(answer) => {
                        assert_eq!(read(answer).await.expect("a whole answer").status, 200);
                        answered += 1;
                    }
                    Err(problem) => assert!(client.is_closed(), "{problem:?}"),
                }
            }
            grown.get_or_insert(process.peak_memory());
        }
    }
    let grown = process.peak_memory().saturating_sub(grown.expect("some were answered"));
    eprintln!("{answered} streams over {connections} connections: memory grew by {} KiB", grown / 1024);
    assert!(grown < 16 * 1024 * 1024, "memory grew by {grown} bytes");
}

/// A server over TLS that takes each request for the same and changes its certificate when it is told.
async fn changing(certificate: &Arc<RwLock<Arc<rustls::ServerConfig>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let certificate = Arc::clone(certificate);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = TlsAcceptor::from(Arc::clone(&certificate.read().expect("nobody panics with it")));
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                let _ = stream.write_all(answer).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upstream_with_another_certificate_is_believed_once_the_config_trusts_it() {
    let (one, other) = (Certificate::new(), Certificate::new());
    let shown = Arc::new(RwLock::new(one.server(&["http/1.1"])));
    let address = changing(&shown).await;
    let folder = folder();
    std::fs::write(folder.path().join("ca.pem"), &one.cert).expect("the folder is ours");
    let endpoint = format!("https://localhost:{}", address.port());
    let config = Config::to(&endpoint, &endpoint).upstreams("tls = { ca = \"ca.pem\" }").weight("100%");
    let weir = Weir::start_in(folder, &config).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", UNIT).await.status, 200);
    *shown.write().expect("nobody panics with it") = other.server(&["http/1.1"]);
    for _ in 0..10 {
        assert_eq!(client.get("/", UNIT).await.status, 502, "a stranger was believed");
    }
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_request_errors_total", &[("kind", "tls")]), 10);
    std::fs::write(weir.folder.path().join("ca.pem"), format!("{}{}", one.cert, other.cert))
        .expect("the folder is ours");
    assert_eq!(weir.reload().await.status, 200);
    let client = &mut client;
    eventually("trust", async || (client.get("/", UNIT).await.status == 200).then_some(())).await;
    *shown.write().expect("nobody panics with it") = one.server(&["http/1.1"]);
    for _ in 0..10 {
        assert_eq!(client.get("/", UNIT).await.status, 200);
    }
    weir.stop().await;
}
