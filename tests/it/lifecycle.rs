//! How weir begins and ends: what a start that fails leaves alone, what an end still answers, and what a reload leaves
//! behind.

use crate::harness::raw::request;
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weir::cli::serve::{Options, start};
use weir::rollout::scale::TimeScale;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

/// Starts a weir that must refuse to start; what it says.
async fn refused(folder: &Path, config: &impl Display) -> String {
    std::fs::write(folder.join("weir.toml"), config.to_string()).expect("the folder is ours");
    let options = Options {
        config: folder.join("weir.toml"),
        environment: Vec::new(),
        signals: false,
        time_scale: TimeScale::default(),
        log_lost: Arc::default(),
    };
    let started = tokio::task::spawn_blocking(move || start(options).map(|running| running.stop()));
    let started = soon("a start's end", started).await.expect("a start does not panic");
    started.expect_err("it started").to_string()
}

/// Asks over new connections until told to end; how often it asked.
fn ask_anew(address: SocketAddr, over: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let mut asked = 0;
        while !over.load(Ordering::Relaxed) {
            assert_eq!(Client::http1(address).await.get("/", UNIT).await.status, 200, "request {asked}");
            asked += 1;
        }
        asked
    })
}

#[tokio::test]
async fn a_second_weir_whose_admin_address_is_taken_takes_no_connection_from_the_first() {
    let origin = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &origin)).await;
    let config = Config::split(&origin, &origin).to_string();
    // The first address of the text is the listener's, the second the admin API's.
    let config = config.replacen("127.0.0.1:0", &weir.address.to_string(), 1);
    let config = config.replacen("127.0.0.1:0", &weir.admin.to_string(), 1);
    let over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..4).map(|_| ask_anew(weir.address, &over)).collect();
    for _ in 0..5 {
        let folder = folder();
        let problem = refused(folder.path(), &config).await;
        assert!(problem.contains(&weir.admin.to_string()), "{problem}");
    }
    over.store(true, Ordering::Relaxed);
    let mut asked = 0;
    for client in asking {
        asked += soon("a client's end", client).await.expect("no request failed");
    }
    assert_eq!(origin.count(), asked, "every request was the first one's");
    weir.stop().await;
}

#[tokio::test]
async fn an_access_log_to_a_pipe_that_nobody_reads_is_refused_at_the_start() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let pipe = folder.path().join("access.pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo is there").success());
    let config = Config::split(&origin, &origin).tables("[access_log]\nmode = \"full\"\npath = \"access.pipe\"");
    let problem = refused(folder.path(), &config).await;
    assert!(problem.contains("access log") && problem.contains("access.pipe"), "{problem}");
}

#[tokio::test]
async fn every_connection_made_before_a_stop_is_answered() {
    let origin = Origin::start("new").await;
    for round in 0..5 {
        let mut weir = Weir::start(&Config::split(&origin, &origin).workers(2)).await;
        let address = weir.address;
        let mut waiting = Vec::new();
        for _ in 0..64 {
            waiting.push(RawClient::connect(address).await);
        }
        let over = Arc::new(AtomicBool::new(false));
        let arriving = tokio::spawn(arrive(address, Arc::clone(&over)));
        let stopped = weir.begin_stop();
        for (number, client) in waiting.iter_mut().enumerate() {
            client.send(request("GET", "/", UNIT, b"")).await;
            let answer = client.try_answer().await;
            let whole = answer.as_ref().is_some_and(|answer| answer.status == 200 && answer.complete);
            assert!(whole, "round {round}, connection {number}: {answer:?}");
        }
        over.store(true, Ordering::Relaxed);
        soon("the last arrival", arriving).await.expect("no answer was cut");
        soon("the end", stopped).await.expect("a stop does not panic");
    }
}

/// Connects and asks until told to end. A connection that arrives while the sockets close may be refused, or reset by
/// the kernel before weir hears of it; an answer that has begun must be whole.
async fn arrive(address: SocketAddr, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let Ok(stream) = TcpStream::connect(address).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut client = RawClient::over(stream);
        if client.try_send(request("GET", "/", UNIT, b"")).await.is_ok()
            && let Some(answer) = client.try_answer().await
        {
            assert!(answer.status == 200 && answer.complete, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn a_second_weir_takes_over_port_and_state_and_nobody_is_refused() {
    let origin = Origin::start("new").await;
    let shared = folder();
    let state = shared.path().join("state").display().to_string();
    let config = Config::split(&origin, &origin).to_string();
    let config = config.replacen("state_dir = \"state\"", &format!("state_dir = \"{state}\""), 1);
    let mut weir = Weir::start(&config).await;
    let config = config.replacen("127.0.0.1:0", &weir.address.to_string(), 1);
    let over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..4).map(|_| tokio::spawn(never_refused(weir.address, Arc::clone(&over)))).collect();
    for (round, weight) in ["30%", "40%", "50%"].into_iter().enumerate() {
        weir.weigh(weight).await;
        let second = Weir::start(&config).await;
        assert_eq!(second.view("/api/v1/rollouts/chat").await["weight_ppm"], (round as u64 + 3) * 100_000);
        soon("the first one's end", weir.begin_stop()).await.expect("a stop does not panic");
        // The address is the second one's alone now.
        let before = origin.count();
        assert_eq!(Client::http1(second.address).await.get("/", UNIT).await.status, 200);
        assert!(origin.count() > before);
        weir = second;
    }
    over.store(true, Ordering::Relaxed);
    for client in asking {
        assert!(soon("a client's end", client).await.expect("nobody was refused") > 0);
    }
    weir.stop().await;
}

/// Connects and asks until told to end; how often that was answered. The kernel may reset what arrives in the moment in which
/// sockets close, but somebody listens at all times.
async fn never_refused(address: SocketAddr, over: Arc<AtomicBool>) -> u64 {
    let mut answered = 0;
    while !over.load(Ordering::Relaxed) {
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        let mut client = RawClient::over(stream);
        if client.try_send(request("GET", "/", UNIT, b"")).await.is_ok()
            && let Some(answer) = client.try_answer().await
        {
            assert!(answer.status == 200 && answer.complete, "{answer:?}");
            answered += 1;
        }
    }
    answered
}

/// Waits until nothing listens there any more.
async fn closed(address: SocketAddr) {
    eventually("the listener's close", || async { TcpStream::connect(address).await.is_err().then_some(()) }).await;
}

#[tokio::test]
async fn a_request_and_a_tls_handshake_under_way_outlive_the_listener() {
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |seen| if seen.target == "/held" { Reply::held(&held) } else { Reply::Hello });
    let certificate = Certificate::new();
    let folder = folder();
    certificate.write(folder.path());
    let config = Config::split(&origin, &origin).listener("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let mut weir = Weir::start_in(folder, &config).await;
    let mut client = RawClient::over(certificate.connect(weir.address, &["http/1.1"]).await);
    client.send(request("GET", "/held", UNIT, b"")).await;
    origin.until("the request", |state| state.requests.len() == 1).await;
    let silent = TcpStream::connect(weir.address).await.expect("it listens");
    weir.metrics_until("both connections", |metrics| metrics.count("weir_connections", &[]) == 2).await;
    let address = weir.address;
    let stopped = weir.begin_stop();
    closed(address).await;
    let stream = certificate.try_connect_over(silent, &["http/1.1"]).await.expect("the handshake goes on");
    let mut late = RawClient::over(stream);
    assert_eq!(late.get("/", UNIT).await.status, 200);
    gate.open();
    assert_eq!(client.answer().await.text(), "held");
    soon("the end", stopped).await.expect("a stop does not panic");
}

#[tokio::test]
async fn the_idle_gauge_is_right_after_reloads_that_swap_endpoints_under_load() {
    let origins = [Origin::start("one").await, Origin::start("other").await];
    let unused = Origin::start("unused").await;
    let config = |turn: usize| Config::split(&unused, &origins[turn % 2]).weight("100%");
    let weir = Weir::start(&config(0)).await;
    let over = Arc::new(AtomicBool::new(false));
    let asking: Vec<_> = (0..8).map(|_| ask_anew(weir.address, &over)).collect();
    for turn in 1..=20 {
        weir.write_config(&config(turn));
        assert_eq!(weir.reload().await.status, 200);
        let before = origins[turn % 2].count();
        origins[turn % 2].until("requests again", |state| state.requests.len() as u64 > before).await;
    }
    over.store(true, Ordering::Relaxed);
    for client in asking {
        soon("a client's end", client).await.expect("no request failed");
    }
    let gauge = |upstream: &'static str| [("upstream", upstream), ("state", "idle")];
    // A worker without a request lets go of what the last config does not name when it next looks around.
    eventually("connections to the named endpoint alone, and a gauge that counts them", || async {
        let open = origins[0].state().open;
        let counted = weir.metrics().await.count("weir_upstream_connections", &gauge("new"));
        (origins[1].state().open == 0 && counted == open).then_some(())
    })
    .await;
    assert!(origins[0].state().open > 0, "nothing idle was left to compare with");
    let metrics = weir.metrics().await;
    assert!(metrics.has("weir_upstream_connections", &gauge("legacy")));
    assert_eq!(metrics.count("weir_upstream_connections", &gauge("legacy")), 0);
    weir.stop().await;
}
