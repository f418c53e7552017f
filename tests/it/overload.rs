//! Too much at once: requests, connections, handshakes, descriptors. What is over a limit is turned away at
//! once, what is within it is served as ever, no arm is blamed, and a limit is free again when its holders have gone.

use crate::harness::client::{next_data, read, tcp};
use crate::harness::metrics::Metrics;
use crate::harness::piped::sized;
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use bytes::Bytes;
use hyper::Response;
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

/// Everything to the canary, with these limits.
pub fn limited(origin: &Origin, limits: &str) -> Config {
    Config::split(origin, origin).weight("100%").tables(&format!("[limits]\n{limits}"))
}

/// An origin that answers `/held` when the gate opens, and everything else at once.
pub async fn holding(gate: &Gate) -> Origin {
    let origin = Origin::start("new").await;
    let held = gate.clone();
    origin.script(move |seen| if seen.target == "/held" { Reply::held(&held) } else { Reply::Hello });
    origin
}

async fn refused(weir: &Weir, reason: &str, count: u64) -> Metrics {
    let enough = |metrics: &Metrics| metrics.count("weir_connections_refused_total", &[("reason", reason)]) >= count;
    weir.metrics_until(reason, enough).await
}

/// So many requests to `/held` at once, a hundred on each connection.
async fn flood(weir: &Weir, count: usize) -> (Vec<Client>, JoinSet<Response<Incoming>>) {
    let (mut clients, mut answers) = (Vec::new(), JoinSet::new());
    for number in 0..count {
        if number % 100 == 0 {
            clients.push(Client::http2(weir.address).await);
        }
        let client = clients.last_mut().expect("one was pushed");
        let unit = format!("u{number}");
        let request = client.request("GET", "/held", &[("x-user-id", &unit)], sized(""));
        let answer = client.begin(request);
        answers.spawn(async move { soon("an answer", answer).await.expect("an answer, not a cut") });
    }
    (clients, answers)
}

#[tokio::test]
async fn of_two_thousand_requests_at_once_exactly_the_limit_is_served_and_no_arm_is_blamed() {
    const LIMIT: usize = 24;
    for (workers, key) in [(1, "max_in_flight"), (3, "max_in_flight"), (2, "max_in_flight_per_arm")] {
        let gate = Gate::closed();
        let origin = holding(&gate).await;
        let weir = Weir::start(&limited(&origin, &format!("{key} = {LIMIT}")).workers(workers)).await;
        let (clients, mut answers) = flood(&weir, 2_000).await;
        for _ in LIMIT..2_000 {
            let answer = answers.join_next().await.expect("more answers").expect("no panic");
            assert_eq!(answer.status(), 503);
            assert_eq!(answer.headers()["retry-after"], "1");
            assert!(read(answer).await.expect("a whole answer").body.starts_with(b"overloaded\n"));
        }
        let state = origin.until("as many as may be", |state| state.requests.len() == LIMIT).await;
        assert_eq!(state.requests.len(), LIMIT);
        gate.open();
        while let Some(answer) = answers.join_next().await {
            assert_eq!(read(answer.expect("no panic")).await.expect("a whole answer").status, 200);
        }
        assert_eq!(origin.count(), LIMIT as u64);
        // The limit is free again: the same number fits in, which answers at once.
        let (more, mut answers) = flood(&weir, LIMIT).await;
        while let Some(answer) = answers.join_next().await {
            assert_eq!(answer.expect("no panic").status(), 200);
        }
        let ended = 2 * LIMIT as u64;
        let all = |metrics: &Metrics| metrics.count("weir_requests_total", &[]) == ended;
        let metrics = weir.metrics_until("the ends", all).await;
        assert_eq!(metrics.count("weir_requests_total", &[("code", "2xx")]), ended, "a refusal is no arm's answer");
        assert_eq!(metrics.count("weir_refused_total", &[("reason", "overloaded")]), 2_000 - LIMIT as u64);
        assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
        assert_eq!(metrics.count("weir_requests_in_flight", &[]), 0);
        drop((clients, more));
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_arm_at_its_limit_leaves_the_other_arm_alone() {
    let gate = Gate::closed();
    let (legacy, new) = (Origin::start("legacy").await, holding(&gate).await);
    let weir = Weir::start(&Config::split(&legacy, &new).tables("[limits]\nmax_in_flight_per_arm = 2")).await;
    let mut client = Client::http2(weir.address).await;
    let mut units: [Vec<String>; 2] = Default::default();
    for number in 0..64 {
        let unit = format!("u{number}");
        let arm = usize::from(client.origin_of(&unit).await == "new");
        units[arm].push(unit);
    }
    let before = new.count();
    let mut held = Vec::new();
    for unit in &units[1][..2] {
        let request = client.request("GET", "/held", &[("x-user-id", unit)], sized(""));
        held.push(client.begin(request));
    }
    new.until("two on the canary", |state| state.requests.len() as u64 == before + 2).await;
    for (stable, canary) in units[0].iter().zip(&units[1]) {
        assert_eq!(client.origin_of(stable).await, "legacy");
        let refused = client.get("/", &[("x-user-id", canary)]).await;
        assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
    }
    let fields = [("x-user-id", units[1][0].as_str()), ("content-type", "application/grpc")];
    assert_eq!(client.call("POST", "/", &fields, sized("")).await.field("grpc-status"), Some("14"));
    gate.open();
    for answer in held {
        assert_eq!(read(soon("an answer", answer).await.expect("an answer")).await.expect("whole").status, 200);
    }
    assert_eq!(client.origin_of(&units[1][0]).await, "new");
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_is_under_way_until_its_body_has_ended() {
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let pause = gate.clone();
    origin.script(move |seen| match seen.target.as_str() {
        "/events" => Reply::body(Content::Paused {
            first: Bytes::from_static(b"1"),
            gate: pause.clone(),
            last: Bytes::from_static(b"2"),
        }),
        _ => Reply::Hello,
    });
    let weir = Weir::start(&limited(&origin, "max_in_flight = 1")).await;
    let mut watching = Client::http1(weir.address).await;
    let asked = watching.request("GET", "/events", UNIT, sized(""));
    let mut events = watching.send(asked).await.expect("an answer").into_body();
    assert_eq!(next_data(&mut events).await.expect("the first event"), "1");
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", UNIT).await.status, 503);
    gate.open();
    assert_eq!(next_data(&mut events).await.expect("the second event"), "2");
    assert!(next_data(&mut events).await.is_none());
    assert_eq!(client.get("/", UNIT).await.status, 200, "a refused request leaves its connection open");
    // A client that leaves gives its place back as well.
    let asked = watching.request("GET", "/events", UNIT, sized(""));
    drop((watching.send(asked).await.expect("an answer"), watching));
    eventually("the place", || async {
        (Client::http1(weir.address).await.get("/", UNIT).await.status == 200).then_some(())
    })
    .await;
    weir.stop().await;
}

#[tokio::test]
async fn a_large_upload_that_is_too_many_is_told_so_and_not_just_cut() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "max_in_flight = 1")).await;
    let mut client = Client::http1(weir.address).await;
    let asked = client.request("GET", "/held", UNIT, sized(""));
    let held = tokio::spawn(async move { client.send(asked).await.map(|answer| answer.status()) });
    origin.until("the first request", |state| state.requests.len() == 1).await;
    for _ in 0..8 {
        let mut client = RawClient::connect(weir.address).await;
        client.send(request("POST", "/", UNIT, &vec![b'x'; 4 << 20])).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.complete), (503, true));
    }
    gate.open();
    assert_eq!(soon("the answer", held).await.expect("no panic").expect("an answer"), 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_reload_moves_the_limit_of_requests_under_way() {
    let gate = Gate::closed();
    let origin = holding(&gate).await;
    let weir = Weir::start(&limited(&origin, "max_in_flight = 2")).await;
    let mut client = Client::http2(weir.address).await;
    let mut held = Vec::new();
    for (limit, more) in [(2, 2), (4, 2), (1, 0)] {
        weir.write_config(&limited(&origin, &format!("max_in_flight = {limit}")));
        assert!(weir.reload_at_once().await);
        for _ in 0..more {
            let asked = client.request("GET", "/held", UNIT, sized(""));
            held.push(client.begin(asked));
        }
        let under_way = held.len();
        origin.until("those that are let in", |state| state.requests.len() == under_way).await;
        assert_eq!(client.get("/", UNIT).await.status, 503, "limit {limit}");
    }
    gate.open();
    for answer in held {
        assert_eq!(read(soon("an answer", answer).await.expect("an answer")).await.expect("whole").status, 200);
    }
    assert_eq!(client.get("/", UNIT).await.status, 200);
    weir.stop().await;
}

/// Which of so many connections get an answer; those that do stay open.
async fn served(address: SocketAddr, count: usize) -> Vec<RawClient> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(RawClient::connect(address).await);
    }
    let mut open = Vec::new();
    for mut client in clients {
        let sent = soon("room to send", client.wire.write(&request("GET", "/", UNIT, b""))).await;
        if sent.is_ok() && client.try_answer().await.is_some_and(|answer| answer.status == 200) {
            open.push(client);
        }
    }
    open
}

#[tokio::test]
async fn of_five_hundred_connections_exactly_the_limit_is_served() {
    const LIMIT: usize = 20;
    let origin = Origin::start("new").await;
    let weir =
        Weir::start(&limited(&origin, &format!("max_connections = {LIMIT}\nmax_connections_per_ip = \"off\""))).await;
    let open = served(weir.address, 500).await;
    assert_eq!(open.len(), LIMIT);
    let metrics = refused(&weir, "max_connections", 500 - LIMIT as u64).await;
    assert_eq!(metrics.count("weir_connections_refused_total", &[]), 500 - LIMIT as u64);
    assert_eq!(metrics.count("weir_connections", &[]), LIMIT as u64);
    drop(open);
    weir.metrics_until("their ends", |metrics| metrics.count("weir_connections", &[]) == 0).await;
    assert_eq!(served(weir.address, LIMIT).await.len(), LIMIT);
    weir.stop().await;
}

#[tokio::test]
async fn connections_of_one_address_have_a_limit_that_other_addresses_and_trusted_proxies_do_not_feel() {
    let origin = Origin::start("new").await;
    let config = limited(&origin, "max_connections_per_ip = 3");
    let weir = Weir::start(&config).await;
    let open = served(weir.address, 10).await;
    assert_eq!(open.len(), 3);
    refused(&weir, "max_connections_per_ip", 7).await;
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.2:0".parse().expect("an address")).expect("loopback has many addresses");
    let stream = soon("a connection", socket.connect(weir.address)).await.expect("weir listens");
    assert_eq!(RawClient::over(stream).get("/", UNIT).await.status, 200);
    drop(open);
    eventually("a place", || async { (!served(weir.address, 1).await.is_empty()).then_some(()) }).await;
    weir.stop().await;
    let weir = Weir::start(&config.top("trusted_proxies = [\"127.0.0.0/8\"]")).await;
    assert_eq!(served(weir.address, 10).await.len(), 10);
    weir.stop().await;
}

/// A weir that speaks TLS, with these limits.
pub async fn tls(origin: &Origin, limits: &str) -> (Certificate, Weir) {
    let folder = folder();
    let certificate = Certificate::new();
    certificate.write(folder.path());
    let config = limited(origin, limits).workers(1).listener("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    (certificate, Weir::start_in(folder, &config).await)
}

#[tokio::test]
async fn a_handshake_too_many_waits_for_its_turn() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = tls(&origin, "max_handshakes = 1\ntls_handshake_timeout = \"60s\"").await;
    let silent = tcp(weir.address).await;
    weir.metrics_until("the first one", |metrics| metrics.count("weir_connections", &[]) == 1).await;
    let address = weir.address;
    let second = tokio::spawn(async move {
        let stream = certificate.connect(address, &["h2"]).await;
        Client::over(stream, true).await.get("/", UNIT).await.status
    });
    weir.metrics_until("the second one", |metrics| metrics.count("weir_connections", &[]) == 2).await;
    assert!(!second.is_finished(), "both handshakes at once");
    drop(silent);
    assert_eq!(soon("the second handshake", second).await.expect("no panic"), 200);
    weir.stop().await;
}

#[tokio::test]
async fn handshakes_that_have_no_turn_in_time_are_refused_and_silent_ones_cut() {
    let origin = Origin::start("new").await;
    let (certificate, weir) = tls(&origin, "max_handshakes = 1\ntls_handshake_timeout = \"300ms\"").await;
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(RawClient::connect(weir.address).await);
    }
    for client in &mut silent {
        assert!(client.ended().await);
    }
    let metrics = refused(&weir, "max_handshakes", 1).await;
    let cut = metrics.count("weir_connections_cut_total", &[("reason", "tls_handshake_timeout")]);
    assert!(cut >= 1);
    assert_eq!(metrics.count("weir_connections_refused_total", &[("reason", "max_handshakes")]) + cut, 64);
    let mut client = Client::over(certificate.connect(weir.address, &["h2"]).await, true).await;
    assert_eq!(client.get("/", UNIT).await.status, 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_connection_ends_with_its_last_allowed_request_and_none_fails() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "requests_per_connection = 3")).await;
    for _ in 0..4 {
        let mut client = RawClient::connect(weir.address).await;
        for left in [2, 1, 0] {
            let answer = client.get("/", UNIT).await;
            assert_eq!((answer.status, answer.field("connection")), (200, (left == 0).then_some("close")));
        }
        assert!(client.ended().await);
    }
    let mut client = Client::http2(weir.address).await;
    let answers: Vec<_> = (0..8)
        .map(|_| {
            let asked = client.request("GET", "/", UNIT, sized(""));
            client.begin(asked)
        })
        .collect();
    for answer in answers {
        let answer = soon("an answer", answer).await.expect("a stream that was opened is served");
        assert_eq!(read(answer).await.expect("whole").status, 200);
    }
    eventually("the end of the connection", || std::future::ready(client.is_closed().then_some(()))).await;
    assert_eq!(origin.count(), 20);
    weir.stop().await;
}

#[tokio::test]
async fn a_connection_is_asked_to_close_at_its_age() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&limited(&origin, "connection_max_age = \"100ms\"")).await;
    let mut client = RawClient::connect(weir.address).await;
    eventually("the last answer", async || {
        let answer = client.get("/", UNIT).await;
        assert_eq!(answer.status, 200);
        (answer.field("connection") == Some("close")).then_some(())
    })
    .await;
    assert!(client.ended().await);
    let client = Client::http2(weir.address).await;
    eventually("the end of the connection", || std::future::ready(client.is_closed().then_some(()))).await;
    weir.stop().await;
}

/// Kills a process that a failed test leaves behind.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn without_descriptors_it_turns_connections_away_blames_no_arm_and_recovers() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let config =
        limited(&origin, "max_connections = 10000\nfirst_byte_timeout = \"60s\"\nmax_connections_per_ip = \"off\"")
            .workers(1);
    std::fs::write(&file, config.to_string()).expect("the folder is ours");
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("it is bound")
    };
    let (address, admin) = (free(), free());
    let command = format!("ulimit -n 64; exec '{}' serve -c '{}'", env!("CARGO_BIN_EXE_weir"), file.display());
    let child = Command::new("sh")
        .args(["-c", &command])
        .env("WEIR__LISTENERS__0__ADDRESS", address.to_string())
        .env("WEIR__ADMIN__ADDRESS", admin.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    let _child = Child(child);
    let stream = eventually("weir to listen", || async { tokio::net::TcpStream::connect(address).await.ok() }).await;
    let mut kept = RawClient::over(stream);
    let mut idle = Vec::new();
    for _ in 0..128 {
        idle.push(RawClient::connect(address).await);
    }
    let mut last = idle.pop().expect("there are many");
    assert!(last.ended().await, "a connection for which there is no descriptor was left waiting");
    let answer = kept.get("/", UNIT).await;
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
    drop((idle, last));
    eventually("an answer", async || (kept.get("/", UNIT).await.status == 200).then_some(())).await;
    let scraped =
        crate::harness::raw::call(admin, "GET", "/metrics", &[("host", "localhost"), ("connection", "close")], b"")
            .await;
    let metrics = Metrics::parse(&scraped.text());
    assert!(metrics.count("weir_connections_refused_total", &[("reason", "descriptors")]) > 0);
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0, "the arm was blamed for weir's own want");
}
