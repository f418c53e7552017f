//! WebSockets on streams of HTTP/2 connections (RFC 8441), to upstreams that are asked in the way of HTTP/1.1.

use crate::harness::metrics::Metrics;
use crate::harness::piped::sized;
use crate::harness::wait::eventually;
use crate::harness::websocket::{BINARY, Peer, Sockets, TEXT, accepting};
use crate::harness::{Client, Config, Origin, RawClient, Weir, soon};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;

fn canary(address: SocketAddr) -> Config {
    Config::between(address, address).weight("100%")
}

/// Asks for a protocol on a stream; the status if there is none.
async fn ask(client: &mut Client, path: &str, protocol: &'static str) -> Result<Peer, u16> {
    let fields = [("x-user-id", "u"), ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")];
    let mut request = client.request("CONNECT", path, &fields, sized(""));
    request.extensions_mut().insert(Protocol::from_static(protocol));
    let response = client.send(request).await.expect("an answer");
    let status = response.status().as_u16();
    if status != 200 {
        return Err(status);
    }
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(name), "{:?}", response.headers());
    }
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    let stream = soon("the stream", hyper::upgrade::on(response)).await.expect("a stream");
    Ok(Peer::over(TokioIo::new(stream)))
}

/// A client that knows what the server can.
async fn connected(weir: &Weir) -> Client {
    let mut client = Client::http2(weir.address).await;
    // Its answer comes behind the server's settings.
    assert_eq!(client.get("/known", &[("x-user-id", "u")]).await.status, 404);
    client
}

/// With a route for WebSockets alone, so that anything else is 404.
fn sockets_only(config: Config) -> Config {
    let route = |path: &str, more: &str| {
        format!(
            "[[routes]]\nname = \"{path}\"\nmatch = {{ path_prefix = \"/{path}\" }}\nrollouts = [\"chat\"]\n{more}\n"
        )
    };
    config.tables(&(route("socket", "") + &route("closed", "websocket = false")))
}

async fn ended(weir: &Weir) -> Metrics {
    weir.metrics_until("the end of the tunnel", |metrics| {
        metrics.count("weir_requests_total", &[]) == 1 && metrics.count("weir_requests_in_flight", &[]) == 0
    })
    .await
}

#[tokio::test]
async fn frames_pass_both_ways_beside_other_streams() {
    let sockets = Sockets::start().await;
    let weir = Weir::start(&sockets_only(canary(sockets.address))).await;
    let mut client = connected(&weir).await;
    let (socket, (mut upstream, head)) = tokio::join!(ask(&mut client, "/socket?room=1", "websocket"), async {
        let (mut upstream, head) = soon("a connection", sockets.asked()).await;
        upstream.write(&accepting(&head)).await;
        (upstream, head)
    });
    let mut socket = socket.expect("a socket");
    assert_eq!(head.start, "GET /socket?room=1 HTTP/1.1");
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")] {
        assert_eq!(head.field(name), Some(value), "{head:?}");
    }
    assert!(head.field("x-weir-rollout").is_some_and(|value| value.contains("canary")), "{head:?}");
    for round in 0..10_u8 {
        socket.send(TEXT, &[b'a' + round; 300]).await;
        assert_eq!(upstream.frame().await.payload, &[b'a' + round; 300][..]);
        upstream.send(BINARY, &vec![round; 100_000]).await;
        assert_eq!(socket.frame().await.payload, vec![round; 100_000]);
        assert_eq!(client.get("/known", &[("x-user-id", "u")]).await.status, 404, "the connection carries others");
    }
    assert_eq!(weir.metrics().await.count("weir_requests_in_flight", &[]), 1);
    socket.close(1000).await;
    assert_eq!(upstream.frame().await.code(), 1000);
    upstream.close(1000).await;
    assert_eq!(socket.frame().await.code(), 1000);
    drop((socket, upstream));
    let metrics = ended(&weir).await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    assert!(!client.is_closed());
    weir.stop().await;
}

#[tokio::test]
async fn whatever_is_no_websocket_is_refused_or_a_failure() {
    let sockets = Sockets::start().await;
    let weir = Weir::start(&sockets_only(canary(sockets.address))).await;
    let mut client = connected(&weir).await;
    assert_eq!(ask(&mut client, "/closed", "websocket").await.err(), Some(403));
    assert_eq!(ask(&mut client, "/socket", "connect-udp").await.err(), Some(405));
    assert_eq!(ask(&mut client, "/elsewhere", "websocket").await.err(), Some(404));
    let foreign = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (answer, status) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], 502),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", 403),
        (foreign, 502),
    ] {
        let (asked, _upstream) = tokio::join!(ask(&mut client, "/socket", "websocket"), async {
            let (mut upstream, _) = soon("a connection", sockets.asked()).await;
            upstream.write(answer).await;
            upstream
        });
        assert_eq!(asked.err(), Some(status), "{:?}", String::from_utf8_lossy(answer));
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_stream_with_a_websocket_keeps_its_connection_from_being_idle() {
    let sockets = Sockets::start().await;
    let config =
        sockets_only(canary(sockets.address)).tables("[limits]\nh2_idle = \"200ms\"\nfirst_byte_timeout = \"200ms\"");
    let weir = Weir::start(&config).await;
    let mut client = connected(&weir).await;
    let accepted = async {
        let (mut upstream, head) = soon("a connection", sockets.asked()).await;
        upstream.write(&accepting(&head)).await;
        upstream
    };
    let (socket, mut upstream) = tokio::join!(ask(&mut client, "/socket", "websocket"), accepted);
    let mut socket = socket.expect("a socket");
    for _ in 0..3 {
        let idle = connected(&weir).await;
        eventually("the end of an idle connection", || std::future::ready(idle.is_closed().then_some(()))).await;
    }
    upstream.send(TEXT, b"still here").await;
    assert_eq!(socket.frame().await.payload, "still here");
    weir.stop().await;
}

#[tokio::test]
async fn the_end_of_the_process_closes_it_politely() {
    let sockets = Sockets::start().await;
    let mut weir = Weir::start(&sockets_only(canary(sockets.address))).await;
    let mut client = connected(&weir).await;
    let accepted = async {
        let (mut upstream, head) = soon("a connection", sockets.asked()).await;
        upstream.write(&accepting(&head)).await;
        upstream
    };
    let (socket, mut upstream) = tokio::join!(ask(&mut client, "/socket", "websocket"), accepted);
    let mut socket = socket.expect("a socket");
    let stopped = weir.begin_stop();
    assert_eq!(upstream.frame().await.code(), 1001);
    assert_eq!(socket.frame().await.code(), 1001);
    socket.close(1001).await;
    upstream.close(1001).await;
    soon("the end", stopped).await.expect("a stop does not panic");
}

#[tokio::test]
async fn a_websocket_to_an_upstream_of_http2_is_501_and_nobodys_failure() {
    let origin = Origin::start("new").await;
    let config = Config::split(&origin, &origin).weight("100%").upstreams("protocol = \"h2\"");
    let weir = Weir::start(&config).await;
    let mut client = Client::http2(weir.address).await;
    assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, 200);
    assert_eq!(ask(&mut client, "/", "websocket").await.err(), Some(501));
    let mut client = RawClient::connect(weir.address).await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let answer = client.answer().await;
    assert!(answer.status == 501 && answer.text().starts_with("websocket_http2"), "{answer:?}");
    // The connection goes on.
    assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, 200);
    assert_eq!(origin.count(), 2);
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_refused_total", &[("reason", "websocket_http2")]), 2);
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    weir.stop().await;
}
