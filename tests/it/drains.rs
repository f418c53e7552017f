//! The end of a process as clients feel it: told in time to go elsewhere, and never refused while somebody else takes over.
//! `WEIR_DRAINS` says how often.

use crate::edge::canary;
use crate::harness::chance::drains;
use crate::harness::client::read;
use crate::harness::piped::sized;
use crate::harness::raw::{RawAnswer, request};
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Origin, RawClient, soon};
use crate::process::Process;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::net::TcpStream;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];

/// What clients have seen so far.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    /// Connections that the kernel reset in the moment in which a socket closed, before a byte of an answer.
    lost: AtomicU64,
    over: AtomicBool,
}

impl Tally {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks over HTTP/1.1; on new connections only, or on each for as long as it is not told to go elsewhere.
async fn ask(address: SocketAddr, tally: Arc<Tally>, anew: bool) {
    while tally.goes_on() {
        let stream = TcpStream::connect(address).await.expect("nobody is refused");
        let mut client = RawClient::over(stream);
        let mut first = true;
        while tally.goes_on() {
            let sent = client.try_send(request("GET", "/", UNIT, b"")).await;
            let answer = if sent.is_ok() { client.try_answer().await } else { None };
            let Some(answer) = answer else {
                assert!(first, "a connection ended that had not said so");
                tally.lost.fetch_add(1, Ordering::Relaxed);
                break;
            };
            assert!(answer.status == 200 && answer.complete, "{answer:?}");
            tally.answered();
            first = false;
            if anew || answer.field("connection") == Some("close") {
                break;
            }
        }
    }
}

/// Asks over HTTP/2, on each connection until it is told to go elsewhere.
async fn ask_http2(address: SocketAddr, tally: Arc<Tally>) {
    while tally.goes_on() {
        let mut client = Client::http2(address).await;
        while tally.goes_on() && !client.is_closed() {
            let asked = client.request("GET", "/", UNIT, sized(""));
            match client.send(asked).await {
                Ok(answer) => {
                    let got = read(answer).await.expect("a whole answer");
                    assert_eq!(got.status, 200);
                    tally.answered();
                }
                // Not sent, or said to be unprocessed: whoever asked may ask again elsewhere.
                Err(problem) if problem.is_canceled() || problem.is_closed() || unprocessed(&problem) => break,
                Err(problem) => panic!("a request failed: {problem:?}"),
            }
        }
    }
}

/// Whether the server has said that it never looked at the request.
fn unprocessed(problem: &hyper::Error) -> bool {
    let cause = std::error::Error::source(problem).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR))
}

#[tokio::test]
async fn one_process_after_another_takes_over_and_no_request_fails() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let config = canary(&origin).to_string().replacen("drain_timeout = \"5s\"", "drain_timeout = \"9s\"", 1);
    std::fs::write(&file, config).expect("the folder is ours");
    let mut process = Process::start(&file).await;
    let tally = Arc::<Tally>::default();
    let mut clients = Vec::new();
    for number in 0..6 {
        let (address, tally) = (process.address, Arc::clone(&tally));
        clients.push(tokio::spawn(async move {
            match number % 3 {
                0 => ask(address, tally, true).await,
                1 => ask(address, tally, false).await,
                _ => ask_http2(address, tally).await,
            }
        }));
    }
    let rounds = drains(2);
    for _ in 0..rounds {
        let next = process.start_beside(&file).await;
        process.signal("-TERM");
        assert_eq!(process.exit_code().await, Some(0));
        process = next;
        // The address is the new one's alone; it is asked before it has to go as well.
        let before = tally.answered.load(Ordering::Relaxed);
        eventually("more answers", || {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client has failed");
            std::future::ready((tally.answered.load(Ordering::Relaxed) > before + 20).then_some(()))
        })
        .await;
    }
    tally.over.store(true, Ordering::Relaxed);
    for client in clients {
        soon("a client's end", client).await.expect("no request failed");
    }
    let (answered, lost) = (tally.answered.load(Ordering::Relaxed), tally.lost.load(Ordering::Relaxed));
    eprintln!("{rounds} drains: {answered} requests answered, {lost} connections reset before their first answer");
    assert!(lost <= rounds, "{lost} of {answered}");
    process.signal("-TERM");
    assert_eq!(process.exit_code().await, Some(0));
}

/// What is heard of a process that was told to end, in the seconds in which it still accepts.
struct Told {
    ready: u16,
    kept: bool,
    fresh: bool,
}

#[tokio::test]
async fn for_some_seconds_a_process_that_was_told_to_end_accepts_and_sends_clients_elsewhere() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let config = canary(&origin).to_string().replacen("drain_timeout = \"5s\"", "drain_timeout = \"1m\"", 1);
    std::fs::write(&file, config).expect("the folder is ours");
    // The seconds may pass before a busy machine has asked; then it is asked again from the start.
    for attempt in 1.. {
        let mut process = Process::start(&file).await;
        let told = told(&process).await;
        process.signal("-TERM");
        assert_eq!(process.exit_code().await, Some(0));
        let Some(told) = told else {
            assert!(attempt < 10, "it accepts nothing once it is told to end, or leaves HTTP/2 connections open");
            continue;
        };
        assert_eq!(told.ready, 503);
        assert!(told.kept, "a kept connection is not told to go elsewhere");
        assert!(told.fresh, "a new connection is not told to go elsewhere");
        return;
    }
}

/// None if it had stopped accepting before everything was asked.
async fn told(process: &Process) -> Option<Told> {
    let mut kept = RawClient::connect(process.address).await;
    let first = kept.get("/", UNIT).await;
    assert_eq!((first.status, first.field("connection")), (200, None));
    let mut http2 = Client::http2(process.address).await;
    assert_eq!(http2.get("/", UNIT).await.status, 200);
    assert_eq!(process.readiness().await, Some(200));
    process.signal("-TERM");
    // It has heard when it is not ready any more.
    let ready =
        eventually("a word on its readiness", async || process.readiness().await.filter(|&status| status != 200)).await;
    let stream = TcpStream::connect(process.address).await.ok()?;
    let mut fresh = RawClient::over(stream);
    fresh.try_send(request("GET", "/", UNIT, b"")).await.ok()?;
    let fresh = fresh.try_answer().await?;
    let kept = kept.try_send(request("GET", "/", UNIT, b"")).await.ok().map(|()| kept)?.try_answer().await?;
    eventually("the end of the HTTP/2 connection", || std::future::ready(http2.is_closed().then_some(()))).await;
    // Only if it accepts even now was it not the end of accepting that has ended that.
    let accepts = TcpStream::connect(process.address).await.is_ok();
    let told = |answer: &RawAnswer| answer.status == 200 && answer.field("connection") == Some("close");
    accepts.then_some(Told { ready, kept: told(&kept), fresh: told(&fresh) })
}
