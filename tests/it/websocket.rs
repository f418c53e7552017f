//! WebSockets through weir: what opens one, what passes, how it ends, and whose failure that is.

use crate::harness::metrics::Metrics;
use crate::harness::raw::status;
use crate::harness::reply::pattern;
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::websocket::{BINARY, CLOSE, Peer, Sockets, TEXT, frame, is_switched, switching};
use crate::harness::weir::folder;
use crate::harness::{Config, Origin, RawClient, Reply, Step, Weir, soon};
use crate::process::Process;
use std::net::SocketAddr;

const MIB: usize = 1024 * 1024;
const ALL: &[(&str, &str)] = &[];

fn canary(address: SocketAddr) -> Config {
    Config::between(address, address).weight("100%")
}

/// A weir, a client and the upstream's end of its WebSocket.
async fn opened(config: &Config, sockets: &Sockets) -> (Weir, Peer, Peer) {
    let weir = Weir::start(config).await;
    let (client, upstream) = tokio::join!(Peer::connect(weir.address, "u"), sockets.accept());
    (weir, client, upstream)
}

/// Waits for the end of the only request; what was counted.
async fn ended(weir: &Weir) -> Metrics {
    weir.metrics_until("the end of the tunnel", |metrics| {
        let over = metrics.count("weir_requests_total", ALL) == 1 && metrics.count("weir_requests_in_flight", ALL) == 0;
        // A connection is given back a moment after its request is counted.
        over && metrics.count("weir_upstream_connections", ALL) == 0 && metrics.count("weir_connections", ALL) == 0
    })
    .await
}

fn failures(metrics: &Metrics) -> (u64, u64) {
    (metrics.count("weir_request_errors_total", ALL), metrics.count("weir_client_left_total", ALL))
}

#[tokio::test]
async fn frames_pass_both_ways_on_the_arm_of_the_unit() {
    let (legacy, new) = (Sockets::start().await, Sockets::start().await);
    let weir = Weir::start(&Config::between(legacy.address, new.address)).await;
    let (mut on_stable, mut on_canary) = (0, 0);
    for number in 0..20 {
        let unit = format!("user-{number}");
        let arm = weir.explain(&unit).await["arm"].clone();
        let is_canary = arm == "canary";
        let sockets = if is_canary { &new } else { &legacy };
        let asked = Peer::ask(weir.address, "/socket?room=1", &unit);
        let ((mut client, answer), (mut upstream, head)) = tokio::join!(asked, async {
            let (mut upstream, head) = soon("a connection", sockets.asked()).await;
            upstream.write(&switching(&head)).await;
            (upstream, head)
        });
        assert!(is_switched(&answer), "{answer:?}");
        assert_eq!(head.start, "GET /socket?room=1 HTTP/1.1");
        for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")] {
            assert_eq!(head.field(name), Some(value), "{head:?}");
        }
        assert_eq!(head.field("sec-websocket-protocol"), Some("chat, superchat"));
        assert!(head.field("x-weir-rollout").is_some_and(|value| value.contains(if is_canary {
            "canary"
        } else {
            "stable"
        })));
        client.send(TEXT, b"hello").await;
        assert_eq!(upstream.frame().await.payload, "hello");
        upstream.send(BINARY, b"\x00\xff").await;
        assert_eq!(client.frame().await.payload, &b"\x00\xff"[..]);
        *(if is_canary { &mut on_canary } else { &mut on_stable }) += 1;
    }
    assert!(on_canary > 0 && on_stable > 0, "both arms");
    weir.stop().await;
}

#[tokio::test]
async fn a_tunnel_is_in_flight_to_its_end_and_then_a_success_that_left_nothing_behind() {
    let sockets = Sockets::start().await;
    let (weir, mut client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_requests_in_flight", &[("arm", "canary")]), 1);
    assert_eq!(metrics.count("weir_requests_total", ALL), 0);
    client.send(TEXT, b"hello").await;
    assert_eq!(upstream.frame().await.payload, "hello");
    client.close(1000).await;
    assert_eq!(upstream.frame().await.code(), 1000);
    upstream.close(1000).await;
    drop(upstream);
    assert_eq!(client.frame().await.code(), 1000);
    assert!(client.ended().await);
    drop(client);
    let metrics = ended(&weir).await;
    assert_eq!(metrics.count("weir_requests_total", &[("arm", "canary"), ("code", "1xx")]), 1);
    assert_eq!(failures(&metrics), (0, 0));
    weir.stop().await;
}

#[tokio::test]
async fn a_message_of_a_mebibyte_passes_unchanged_in_both_directions() {
    let weir = Weir::start(&canary(Sockets::start().await.echo())).await;
    let mut client = Peer::connect(weir.address, "u").await;
    let message = pattern(0, MIB);
    for _ in 0..4 {
        client.send(BINARY, &message).await;
        let echoed = client.frame().await;
        assert!(echoed.opcode == BINARY && echoed.payload == message);
    }
    weir.stop().await;
}

#[tokio::test]
async fn who_does_not_read_stops_the_other_side() {
    let sockets = Sockets::start().await;
    let (weir, mut client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
    let total = 64 * MIB;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        for at in (0..total).step_by(MIB) {
            let bytes = frame(BINARY, &pattern(at as u64, MIB), false);
            upstream.wire.write(&bytes).await.expect("the other side reads in the end");
            counted.fetch_add(MIB as u64, std::sync::atomic::Ordering::Relaxed);
        }
        upstream
    });
    let stalled = crate::harness::wait::settled("the upstream to be stopped", 60, || {
        sent.load(std::sync::atomic::Ordering::Relaxed)
    });
    assert!(stalled.await < 48 * MIB as u64);
    for at in (0..total).step_by(MIB) {
        assert!(client.frame().await.payload == pattern(at as u64, MIB), "message at {at}");
    }
    drop(sending.await.expect("no panic"));
    weir.stop().await;
}

#[tokio::test]
async fn bytes_behind_the_handshake_are_lost_on_neither_side() {
    let sockets = Sockets::start().await;
    let weir = Weir::start(&canary(sockets.address)).await;
    let stream = crate::harness::client::tcp(weir.address).await;
    let early = frame(TEXT, b"from the client", true);
    let asked = Peer::ask_over(stream, None, "/", "u", &early);
    let ((mut client, answer), mut upstream) = tokio::join!(asked, async {
        let (mut upstream, head) = soon("a connection", sockets.asked()).await;
        let bytes = [switching(&head), frame(TEXT, b"from the upstream", false)].concat();
        upstream.write(&bytes).await;
        upstream
    });
    assert!(is_switched(&answer), "{answer:?}");
    assert_eq!(client.frame().await.payload, "from the upstream");
    assert_eq!(upstream.frame().await.payload, "from the client");
    weir.stop().await;
}

#[tokio::test]
async fn a_tunnel_passes_through_tls_on_both_sides() {
    let certificate = Certificate::new();
    let folder = folder();
    certificate.write(folder.path());
    let sockets = Sockets::start().await;
    let config = canary(sockets.address).listener("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let weir = Weir::start_in(folder, &config).await;
    // A second weir in front of the first one speaks TLS to it.
    let front_folder = crate::harness::weir::folder();
    certificate.write(front_folder.path());
    let endpoint = format!("https://{}", weir.address);
    let front = Config::to(&endpoint, &endpoint).upstreams("tls = { ca = \"cert.pem\", sni = \"localhost\" }");
    let front = Weir::start_in(front_folder, &front).await;
    let (mut client, mut upstream) = tokio::join!(Peer::connect(front.address, "u"), sockets.accept());
    let message = pattern(0, MIB);
    client.send(BINARY, &message).await;
    assert!(upstream.frame().await.payload == message);
    upstream.send(BINARY, &message).await;
    assert!(client.frame().await.payload == message);
    client.shut().await;
    assert_eq!(upstream.next().await, None, "the client's end passes through");
    drop(upstream);
    assert_eq!(client.next().await, None);
    let metrics = ended(&weir).await;
    assert_eq!(failures(&metrics), (0, 0));
    front.stop().await;
    weir.stop().await;
}

#[tokio::test]
async fn any_other_answer_is_an_ordinary_answer() {
    let origin = Origin::start("new").await;
    origin.script(|seen| match seen.target.as_str() {
        "/refused" => Reply::status(403),
        _ => Reply::Hello,
    });
    let weir = Weir::start(&canary(origin.address)).await;
    let mut client = RawClient::connect(weir.address).await;
    let upgrade = [("x-user-id", "u"), ("connection", "upgrade"), ("upgrade", "websocket")];
    for _ in 0..2 {
        let answer = client.get("/refused", &upgrade).await;
        assert_eq!((answer.status, answer.text().as_str()), (403, "status 403"));
        assert_eq!(answer.field("upgrade"), None);
    }
    assert_eq!(origin.last().field("upgrade"), Some("websocket"));
    assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, 200, "the connection goes on");
    assert_eq!(origin.last().field("upgrade"), None);
    weir.stop().await;
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_or_to_something_else_is_a_failure() {
    let origin = Origin::start("new").await;
    origin.script(|seen| {
        let fields = if seen.target == "/h2c" {
            "connection: upgrade\r\nupgrade: h2c\r\n"
        } else {
            "connection: upgrade\r\nupgrade: websocket\r\n"
        };
        Reply::Raw(vec![Step::Write(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n").into_bytes())])
    });
    let weir = Weir::start(&canary(origin.address)).await;
    let upgrade = [("x-user-id", "u"), ("connection", "upgrade"), ("upgrade", "websocket")];
    let mut client = RawClient::connect(weir.address).await;
    assert_eq!(client.get("/", &upgrade[..1]).await.status, 502, "nobody asked");
    assert_eq!(client.get("/h2c", &upgrade).await.status, 502, "another protocol");
    weir.stop().await;
}

#[tokio::test]
async fn other_upgrades_are_not_forwarded_and_a_websocket_behind_a_body_is_refused() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&canary(origin.address)).await;
    let mut client = RawClient::connect(weir.address).await;
    let unit = ("x-user-id", "u");
    for (method, body, protocol) in [("GET", &b""[..], "h2c"), ("POST", b"x", "h2c"), ("POST", b"", "websocket")] {
        let fields = [unit, ("connection", "upgrade"), ("upgrade", protocol)];
        client.send(crate::harness::raw::request(method, "/", &fields, body)).await;
        assert_eq!(client.answer().await.status, 200, "{method} {protocol}");
        assert_eq!(origin.last().field("upgrade"), None, "{method} {protocol}");
    }
    let before = origin.count();
    for method in ["POST", "GET"] {
        let fields = [unit, ("connection", "upgrade"), ("upgrade", "websocket")];
        let mut client = RawClient::connect(weir.address).await;
        client.send(crate::harness::raw::request(method, "/", &fields, b"x")).await;
        assert_eq!(client.answer().await.status, 400, "{method}");
        assert!(client.ended().await, "{method}");
    }
    assert_eq!(origin.count(), before);
    weir.stop().await;
}

#[tokio::test]
async fn a_route_may_refuse_websockets() {
    let origin = Origin::start("new").await;
    let routes = "[[routes]]\nname = \"closed\"\nmatch = { path_prefix = \"/closed\" }\nrollouts = [\"chat\"]\n\
                  websocket = false\n[[routes]]\nname = \"open\"\nrollouts = [\"chat\"]\n";
    let weir = Weir::start(&canary(origin.address).tables(routes)).await;
    let mut client = RawClient::connect(weir.address).await;
    let upgrade = [("x-user-id", "u"), ("connection", "upgrade"), ("upgrade", "websocket")];
    assert_eq!(client.get("/closed", &upgrade).await.status, 403);
    assert_eq!(origin.count(), 0);
    assert_eq!(client.get("/closed", &upgrade[..1]).await.status, 200);
    assert_eq!(client.get("/open", &upgrade).await.status, 200);
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_refused_total", &[("reason", "websocket")]), 1);
    weir.stop().await;
}

#[tokio::test]
async fn a_half_closed_tunnel_still_carries_the_other_direction() {
    let sockets = Sockets::start().await;
    let (weir, mut client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
    client.send(TEXT, b"last words").await;
    client.shut().await;
    assert_eq!(upstream.frame().await.payload, "last words");
    assert_eq!(upstream.next().await, None);
    upstream.send(BINARY, &pattern(0, MIB)).await;
    drop(upstream);
    assert!(client.frame().await.payload == pattern(0, MIB));
    assert!(client.ended().await);
    assert_eq!(failures(&ended(&weir).await), (0, 0));
    weir.stop().await;
}

#[tokio::test]
async fn an_upstream_that_ends_between_frames_is_no_failure() {
    let sockets = Sockets::start().await;
    let (weir, mut client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
    upstream.send(TEXT, b"bye").await;
    drop(upstream);
    assert_eq!(client.frame().await.payload, "bye");
    assert!(client.ended().await);
    drop(client);
    assert_eq!(failures(&ended(&weir).await), (0, 0));
    weir.stop().await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_unasked_fails_and_one_that_was_told_to_close_does_not() {
    for (closed_before, resets) in [(false, true), (false, false), (true, true), (true, false)] {
        let sockets = Sockets::start().await;
        let (weir, mut client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
        if closed_before {
            client.close(1000).await;
            assert_eq!(upstream.frame().await.code(), 1000);
        }
        // Half of a frame.
        upstream.write(&frame(BINARY, &[7; 100], false)[..50]).await;
        if resets {
            upstream.reset();
        } else {
            drop(upstream);
        }
        assert_eq!(client.next().await, None);
        drop(client);
        let metrics = ended(&weir).await;
        let wanted = if closed_before { 0 } else { 1 };
        assert_eq!(failures(&metrics), (wanted, 0), "closed before: {closed_before}, reset: {resets}");
        assert_eq!(metrics.count("weir_request_errors_total", &[("arm", "canary"), ("kind", "truncated")]), wanted);
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_is_nobodys_failure() {
    let sockets = Sockets::start().await;
    let (weir, client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
    client.reset();
    assert!(upstream.ended().await);
    assert_eq!(failures(&ended(&weir).await), (0, 1));
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_handshake_is_nobodys_failure() {
    let sockets = Sockets::start().await;
    let weir = Weir::start(&canary(sockets.address)).await;
    let mut client = RawClient::connect(weir.address).await;
    let upgrade = [("x-user-id", "u"), ("connection", "upgrade"), ("upgrade", "websocket")];
    client.send(crate::harness::raw::request("GET", "/", &upgrade, b"")).await;
    let (mut upstream, _) = soon("a connection", sockets.asked()).await;
    drop(client);
    assert!(upstream.ended().await);
    assert_eq!(failures(&ended(&weir).await), (0, 1));
    weir.stop().await;
}

#[tokio::test]
async fn a_tunnel_in_which_nobody_speaks_is_closed_politely() {
    let sockets = Sockets::start().await;
    let config = canary(sockets.address).tables("[limits]\nstream_idle = \"300ms\"");
    let (weir, mut client, mut upstream) = opened(&config, &sockets).await;
    assert_eq!(client.frame().await.code(), 1001);
    assert_eq!(upstream.frame().await.code(), 1001);
    client.close(1001).await;
    assert!(client.ended().await && upstream.ended().await);
    assert_eq!(failures(&ended(&weir).await), (0, 0));
    weir.stop().await;
}

#[tokio::test]
async fn the_end_of_the_process_closes_tunnels_politely_and_waits_for_no_one_else() {
    let sockets = Sockets::start().await;
    // Far beyond what the test waits for: were the tunnels not told, they would hold the process that long.
    let config =
        canary(sockets.address).top("").to_string().replacen("drain_timeout = \"5s\"", "drain_timeout = \"1m\"", 1);
    let mut weir = Weir::start(&config).await;
    let mut pairs = Vec::new();
    for number in 0..4 {
        let unit = format!("user-{number}");
        let (mut client, mut upstream) = tokio::join!(Peer::connect(weir.address, &unit), sockets.accept());
        client.send(TEXT, b"hello").await;
        assert_eq!(upstream.frame().await.payload, "hello");
        // The first one is in the middle of a message: nothing can be said there until it goes on.
        if number == 0 {
            upstream.write(&frame(TEXT, b"interrupted", false)[..5]).await;
        }
        pairs.push((client, upstream));
    }
    let stopped = weir.begin_stop();
    for (number, (client, upstream)) in pairs.iter_mut().enumerate() {
        assert_eq!(upstream.frame().await.code(), 1001, "upstream {number}");
        if number == 0 {
            upstream.write(&frame(TEXT, b"interrupted", false)[5..]).await;
            assert_eq!(client.frame().await.payload, "interrupted");
        }
        assert_eq!(client.frame().await.code(), 1001, "client {number}");
        // One client does not answer; the others do.
        if number != 1 {
            client.close(1001).await;
        }
        assert!(client.ended().await && upstream.ended().await, "{number}");
    }
    soon("the end", stopped).await.expect("a stop does not panic");
}

#[tokio::test]
async fn tunnels_leave_no_descriptor_behind() {
    let sockets = Sockets::start().await;
    let address = sockets.address;
    tokio::spawn(async move {
        loop {
            let peer = sockets.accept().await;
            tokio::spawn(peer.echo());
        }
    });
    let folder = folder();
    let file = folder.path().join("weir.toml");
    std::fs::write(&file, canary(address).to_string()).expect("the folder is ours");
    let process = Process::start(&file).await;
    let mut most_of_first = None;
    for round in 0..4 {
        let mut clients = Vec::new();
        for number in 0..20 {
            let mut client = Peer::connect(process.address, &format!("user-{number}")).await;
            client.send(TEXT, b"hello").await;
            assert_eq!(client.frame().await.payload, "hello");
            clients.push(client);
        }
        // Each has two connections, and the first round sees some that belong to the start.
        let most = process.descriptors();
        assert!(
            most <= *most_of_first.get_or_insert(most) + 1,
            "{most} in round {round}, {most_of_first:?} in the first"
        );
        for (number, mut client) in clients.into_iter().enumerate() {
            match number % 3 {
                0 => client.reset(),
                1 => drop(client),
                _ => {
                    client.close(1000).await;
                    assert_eq!(client.frame().await.opcode, CLOSE);
                }
            }
        }
        let back = || std::future::ready((process.descriptors() + 38 <= most).then_some(()));
        eventually(&format!("the descriptors of round {round} back"), back).await;
    }
}

#[tokio::test]
async fn a_tunnels_connection_is_never_used_again() {
    let sockets = Sockets::start().await;
    let (weir, mut client, mut upstream) = opened(&canary(sockets.address), &sockets).await;
    client.close(1000).await;
    assert_eq!(upstream.frame().await.code(), 1000);
    upstream.close(1000).await;
    assert_eq!(client.frame().await.code(), 1000);
    client.shut().await;
    assert_eq!(upstream.next().await, None);
    let (answer, second) = tokio::join!(Peer::ask(weir.address, "/", "u"), async {
        let (mut second, head) = soon("another connection", sockets.asked()).await;
        second.write(&switching(&head)).await;
        second
    });
    assert_eq!(status(&answer.1), 101);
    drop(second);
    weir.stop().await;
}
