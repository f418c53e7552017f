//! Clients that cost much and pay nothing: requests taken back at once, frames that carry nothing, heads without end. Each
//! is stopped by a measure of its own connection, and others are served as ever.

use crate::harness::streams::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, GO_AWAY, HEADERS, RESET, SETTINGS, Streams, block, frame,
};
use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use crate::overload::{holding, limited};

const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
/// REFUSED_STREAM and ENHANCE_YOUR_CALM (RFC 9113, section 7).
const REFUSED: u32 = 7;
const CALM: u32 = 11;
const HEAD: [(&str, &str); 5] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/held"), ("x-user-id", "u")];

/// Waits until one connection was cut for that reason.
async fn cut(weir: &Weir, reason: &str) {
    let once = |metrics: &crate::harness::metrics::Metrics| {
        metrics.count("weir_connections_cut_total", &[("reason", reason)]) == 1
    };
    weir.metrics_until(reason, once).await;
}

/// Sends that many times these bytes; stops when nobody takes them any more.
async fn pour(client: &mut Streams, bytes: &[u8], times: usize) {
    for _ in 0..times {
        if !client.write(bytes).await {
            return;
        }
    }
}

/// Whether the connection is at its end, however it is told.
async fn is_over(client: &mut Streams) -> bool {
    soon("the end of the connection", async {
        loop {
            match client.next().await {
                None => return true,
                Some((GO_AWAY, _, _, payload)) if payload[7] != 0 => return true,
                Some(_) => {}
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_takes_its_requests_back_is_stopped() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "h2_resets = 40")).await;
    let mut good = Client::http2(weir.address).await;
    let mut client = Streams::connect(weir.address).await;
    let mut stream = 1;
    // One by one, so that each of them has reached the upstream before it is taken back.
    while stream < 400 && client.head(stream, END_STREAM, &HEAD).await {
        let asked = u64::from(stream).div_ceil(2);
        let stopped = eventually("the request or the end", || async {
            let metrics = weir.metrics().await;
            let stopped = metrics.count("weir_connections_cut_total", &[]) > 0;
            (stopped || origin.count() >= asked).then_some(stopped)
        });
        if stopped.await {
            break;
        }
        client.frame(RESET, 0, stream, &8_u32.to_be_bytes()).await;
        stream += 2;
    }
    assert!(is_over(&mut client).await);
    cut(&weir, "h2_resets").await;
    assert!(origin.count() < 60, "{} requests reached the upstream", origin.count());
    gate.open();
    assert_eq!(good.get("/", &[("x-user-id", "u")]).await.status, 200);
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0, "an arm was blamed");
    weir.stop().await;
}

#[tokio::test]
async fn requests_taken_back_before_they_are_looked_at_are_stopped() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "")).await;
    let mut client = Streams::connect(weir.address).await;
    let head = block(&HEAD);
    let mut bytes = Vec::new();
    for stream in (1..4_000).step_by(2) {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, stream, &head));
        bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    client.write(&bytes).await;
    assert!(is_over(&mut client).await);
    let reasons = ["h2_resets", "h2_flood", "h2_control_frames"];
    let once = |metrics: &crate::harness::metrics::Metrics| {
        let count = |reason: &&str| metrics.count("weir_connections_cut_total", &[("reason", *reason)]);
        reasons.iter().map(count).sum::<u64>() == 1
    };
    weir.metrics_until("the end of one connection", once).await;
    assert!(origin.count() < 400, "{} requests reached the upstream", origin.count());
    gate.open();
    weir.stop().await;
}

#[tokio::test]
async fn frames_that_carry_nothing_have_a_measure() {
    let origin = Origin::start("new").await;
    for (what, kind, flags, stream, payload) in [
        ("pings", PING, 0, 0, &[0; 8][..]),
        ("answers to pings", PING, 1, 0, &[0; 8]),
        ("settings", SETTINGS, 0, 0, &[]),
        ("openings of a window", WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        ("frames of no known kind", 0x42, 0, 0, &[0; 8]),
        ("orders of streams", 2, 0, 1, &[0, 0, 0, 0, 1]),
    ] {
        let weir = Weir::start(&limited(&origin, "h2_control_frames = 200")).await;
        let mut good = Client::http2(weir.address).await;
        let mut client = Streams::connect(weir.address).await;
        pour(&mut client, &frame(kind, flags, stream, payload).repeat(20), 30).await;
        assert!(is_over(&mut client).await, "{what}");
        cut(&weir, "h2_control_frames").await;
        assert_eq!(good.get("/", &[("x-user-id", "u")]).await.status, 200, "{what}");
        weir.stop().await;
    }
}

#[tokio::test]
async fn empty_pieces_of_a_body_have_a_measure() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "h2_control_frames = 200")).await;
    let mut client = Streams::connect(weir.address).await;
    let mut head = HEAD;
    head[0] = (":method", "POST");
    client.head(1, 0, &head).await;
    pour(&mut client, &frame(DATA, 0, 1, &[]).repeat(20), 30).await;
    assert!(is_over(&mut client).await);
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_downloads_may_send_many_of_them() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "h2_control_frames = 20")).await;
    // Small answers, each of which the client acknowledges by opening its windows.
    let mut client = Streams::connect(weir.address).await;
    for stream in (1..600).step_by(2) {
        let mut head = HEAD;
        head[3] = (":path", "/");
        assert!(client.head(stream, END_STREAM, &head).await);
        assert_eq!(client.end(stream).await, End::Answer(200));
        client.frame(WINDOW_UPDATE, 0, 0, &[0, 0, 2, 0]).await;
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_head_without_end_is_stopped() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "")).await;
    let mut client = Streams::connect(weir.address).await;
    client.frame(HEADERS, END_STREAM, 1, &block(&HEAD)).await;
    pour(&mut client, &frame(CONTINUATION, 0, 1, &block(&[("x", "y")])).repeat(20), 50).await;
    assert!(is_over(&mut client).await);
    cut(&weir, "h2_flood").await;
    assert_eq!(origin.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_malformed_requests_only_is_stopped() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "h2_local_resets = 16")).await;
    let mut client = Streams::connect(weir.address).await;
    for stream in (1..200).step_by(2) {
        let mut head = HEAD;
        head[4] = ("connection", "close");
        client.head(stream, END_STREAM, &head).await;
    }
    assert_eq!(client.end(1_001).await, End::GoAway(CALM));
    cut(&weir, "h2_flood").await;
    assert_eq!(origin.count(), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_head_with_too_many_fields_or_bytes_is_431_in_both_protocols() {
    let origin = Origin::start("new").await;
    let weir =
        Weir::start(&limited(&origin, "max_headers = 20\nmax_header_bytes = \"2KiB\"\nmax_h2_header_bytes = \"2KiB\""))
            .await;
    let long = "x".repeat(2_100);
    for (fields, status) in
        [(vec![("cookie", "a=1"); 15], 200), (vec![("cookie", "a=1"); 21], 431), (vec![("x-long", &*long)], 431)]
    {
        let mut head: Vec<(&str, &str)> = HEAD.to_vec();
        head[3] = (":path", "/");
        head.extend(fields.iter().copied());
        let mut client = Streams::connect(weir.address).await;
        client.head(1, END_STREAM, &head).await;
        assert_eq!(client.end(1).await, End::Answer(status), "HTTP/2, {} fields", fields.len());
        let mut client = RawClient::connect(weir.address).await;
        let fields: Vec<_> = [("x-user-id", "u")].into_iter().chain(fields).collect();
        assert_eq!(client.get("/", &fields).await.status, status, "HTTP/1.1, {} fields", fields.len());
    }
    assert_eq!(origin.count(), 2);
    weir.stop().await;
}

#[tokio::test]
async fn the_settings_of_a_connection_are_those_of_the_limits() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let limits = "h2_streams = 3\nh2_stream_window = \"32KiB\"\nh2_connection_window = \"128KiB\"\nmax_h2_header_bytes = \"4KiB\"";
    let weir = Weir::start(&limited(&origin, limits)).await;
    let mut client = Streams::connect(weir.address).await;
    let (mut settings, mut opened) = (Vec::new(), 0);
    while settings.is_empty() || opened == 0 {
        match client.next().await.expect("settings") {
            (SETTINGS, 0, 0, payload) => {
                let one = |six: &[u8]| {
                    (u16::from_be_bytes([six[0], six[1]]), u32::from_be_bytes([six[2], six[3], six[4], six[5]]))
                };
                settings = payload.chunks(6).map(one).collect();
            }
            (WINDOW_UPDATE, 0, 0, payload) => {
                opened = u32::from_be_bytes([payload[0], payload[1], payload[2], payload[3]])
            }
            _ => {}
        }
    }
    // Streams, window of a stream, bytes of a head (RFC 9113, section 6.5.2).
    for expected in [(3, 3), (4, 32 * 1024), (6, 4 * 1024)] {
        assert!(settings.contains(&expected), "{expected:?} in {settings:?}");
    }
    assert_eq!(opened, 128 * 1024 - 65_535);
    for stream in [1, 3, 5, 7] {
        client.head(stream, END_STREAM, &HEAD).await;
    }
    assert_eq!(client.end(7).await, End::Reset(REFUSED));
    gate.open();
    assert_eq!(client.end(5).await, End::Answer(200));
    weir.stop().await;
}

#[tokio::test]
async fn a_connection_that_gives_no_sign_of_life_ends_and_one_that_does_stays() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "h2_ping = \"100ms\"\nh2_ping_timeout = \"2s\"")).await;
    // hyper's client answers pings, the other one does not.
    let mut alive = Client::http2(weir.address).await;
    let asked = alive.request("GET", "/held", &[("x-user-id", "u")], crate::harness::piped::sized(""));
    let held = alive.begin(asked);
    let mut client = Streams::connect(weir.address).await;
    client.head(1, END_STREAM, &HEAD).await;
    assert!(is_over(&mut client).await);
    gate.open();
    assert_eq!(soon("the answer", held).await.expect("an answer").status(), 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_plain_connection_that_says_nothing_is_cut() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "first_byte_timeout = \"100ms\"")).await;
    let mut client = RawClient::connect(weir.address).await;
    assert!(client.ended().await);
    cut(&weir, "first_byte_timeout").await;
    weir.stop().await;
}

#[tokio::test]
async fn a_streaming_route_may_be_silent_where_others_are_cut() {
    let origin = Origin::start("new").await;
    for http2_up in [false, true] {
        let gate = Gate::closed();
        let held = gate.clone();
        origin.script(move |_| {
            let body = crate::harness::reply::Content::Paused {
                first: "first".into(),
                gate: held.clone(),
                last: "last".into(),
            };
            Reply::body(body)
        });
        let routes = "[limits]\nstream_idle = \"300ms\"\n\
                      [[routes]]\nname = \"streams\"\nmatch = { path_prefix = \"/streams\" }\nrollouts = [\"chat\"]\nstreaming = true\nmax_body = \"1KiB\"\n\
                      [[routes]]\nname = \"rest\"\nrollouts = [\"chat\"]\n";
        let config =
            Config::split(&origin, &origin).upstreams(if http2_up { "protocol = \"h2\"" } else { "" }).tables(routes);
        let weir = Weir::start(&config).await;
        let mut client = Client::http2(weir.address).await;
        let begin = |client: &mut Client, path: &str| {
            let request = client.request("GET", path, &[("x-user-id", "u")], crate::harness::piped::sized(""));
            client.begin(request)
        };
        let stream = begin(&mut client, "/streams").await.expect("a head");
        let other = begin(&mut client, "/other").await.expect("a head");
        assert!(crate::harness::client::read(other).await.is_err(), "silence has no limit");
        gate.open();
        let whole = crate::harness::client::read(stream).await.expect("a whole answer");
        assert_eq!(&whole.body[..], b"firstlast");
        let long = crate::harness::piped::sized(vec![b'x'; 2048]);
        assert_eq!(client.call("POST", "/streams", &[("x-user-id", "u")], long).await.status, 413);
        let long = crate::harness::piped::sized(vec![b'x'; 2048]);
        assert_eq!(client.call("POST", "/other", &[("x-user-id", "u")], long).await.status, 200);
        weir.stop().await;
    }
}

#[tokio::test]
async fn five_hundred_silent_connections_hold_nobody_up() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "max_connections_per_ip = \"off\"")).await;
    let mut silent = Vec::new();
    for number in 0..500 {
        let mut client = RawClient::connect(weir.address).await;
        if number % 2 == 0 {
            client.send("GET / HTTP/1.1\r\nx-slow: ").await;
        }
        silent.push(client);
    }
    let open = |metrics: &crate::harness::metrics::Metrics| metrics.count("weir_connections", &[]) == 500;
    weir.metrics_until("all of them", open).await;
    let mut good = Client::http1(weir.address).await;
    for _ in 0..50 {
        assert_eq!(good.get("/", &[("x-user-id", "u")]).await.status, 200);
    }
    drop(silent);
    eventually("their ends", || async { (weir.metrics().await.count("weir_connections", &[]) == 1).then_some(()) })
        .await;
    weir.stop().await;
}
