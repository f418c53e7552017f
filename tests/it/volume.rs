//! Much of everything: bodies of any size, pieces by the ten thousand, certificates that change again and again. `chance` says
//! how much.

use crate::edge::canary;
use crate::harness::chance::{rotations, volume_mib};
use crate::harness::client::next_data;
use crate::harness::frames::{Act, Frames};
use crate::harness::metrics::Metrics;
use crate::harness::piped::{piped, sized};
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::streams::{END_STREAM, SETTINGS, Streams};
use crate::harness::tls::Certificate;
use crate::harness::wait::{eventually, settled};
use crate::harness::weir::folder;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use crate::process::Process;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
const MIB: u64 = 1024 * 1024;
const WINDOW_UPDATE: u8 = 8;
const PIECE: &[u8] = b"a piece of 19 bytes";

fn head(path: &str) -> [(&str, &str); 5] {
    [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", path), ("x-user-id", "u")]
}

#[tokio::test]
async fn bodies_of_any_size_pass_each_way_without_growth_of_memory() {
    let length = volume_mib(128) * MIB;
    let origin = Origin::start("new").await;
    let folder = folder();
    let certificate = Certificate::new();
    certificate.write(folder.path());
    for (secure, http2) in [(false, false), (false, true), (true, false), (true, true)] {
        let file = folder.path().join("weir.toml");
        let tls = if secure { "tls = { cert = \"cert.pem\", key = \"key.pem\" }" } else { "" };
        std::fs::write(&file, canary(&origin).listener(tls).to_string()).expect("the folder is ours");
        let process = Process::start(&file).await;
        let mut client = if secure {
            let protocol = if http2 { "h2" } else { "http/1.1" };
            Client::over(certificate.connect(process.address, &[protocol]).await, http2).await
        } else {
            Client::to(process.address, http2).await
        };
        origin.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.status, 200);
        let before = process.peak_memory();
        download(&mut client, &origin, length).await;
        upload(&mut client, &origin, length).await;
        let grown = process.peak_memory().saturating_sub(before);
        eprintln!("TLS: {secure}, HTTP/2: {http2}, {} MiB each way: memory grew by {} KiB", length / MIB, grown / 1024);
        assert!(grown < 16 * MIB, "TLS: {secure}, HTTP/2: {http2}: memory grew by {grown} bytes");
    }
}

async fn download(client: &mut Client, origin: &Origin, length: u64) {
    origin.script(move |_| Reply::body(Content::Fill { bytes: length, sized: true }));
    let asked = client.request("GET", "/", UNIT, sized(""));
    let mut body = client.send(asked).await.expect("a head").into_body();
    let mut received = 0;
    while let Some(data) = next_data(&mut body).await {
        received += data.len() as u64;
    }
    assert_eq!(received, length);
}

async fn upload(client: &mut Client, origin: &Origin, length: u64) {
    origin.script(|_| Reply::Hello);
    let (feed, body) = piped();
    let fed = tokio::spawn(async move {
        let piece = Bytes::from(vec![7; 64 * 1024]);
        for _ in 0..length / (64 * 1024) {
            assert!(feed.data(piece.clone()).await);
        }
    });
    let asked = client.request("POST", "/", UNIT, body);
    let answer = tokio::spawn(client.send_patiently(asked));
    fed.await.expect("everything is taken");
    assert_eq!(soon("the answer", answer).await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(origin.last().body_bytes, length);
}

#[tokio::test]
async fn slow_readers_of_answers_in_small_pieces_end_nobody_elses() {
    let origin = Origin::start("new").await;
    origin.script(|seen| match seen.target.as_str() {
        "/tokens" => Reply::body(Content::Chunked(vec![Bytes::from_static(PIECE); 30_000])),
        _ => Reply::Hello,
    });
    let weir = Weir::start(&canary(&origin).upstreams("protocol = \"h2\"").workers(1)).await;
    let mut good = Client::http1(weir.address).await;
    assert_eq!(good.get("/", UNIT).await.status, 200);
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = Streams::connect(weir.address).await;
        client.head(1, END_STREAM, &head("/tokens")).await;
        slow.push(client);
    }
    origin.until("all of them", |state| state.requests.len() == 9).await;
    settled("answers that are held back", 40, || origin.filled()).await;
    for _ in 0..20 {
        assert_eq!(good.get("/", UNIT).await.status, 200);
    }
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0, "an arm was blamed for its slow readers");
    assert_eq!(origin.state().accepted, 1, "the connection to the upstream was ended");
    drop(slow);
    weir.stop().await;
}

#[tokio::test]
async fn small_pieces_that_an_upstream_does_not_take_yet_are_waited_with() {
    const PIECES: usize = 20_000;
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |_| Reply::Answer(Answer { read_after: Some(held.clone()), ..Answer::default() }));
    let weir = Weir::start(&canary(&origin).upstreams("protocol = \"h2\"")).await;
    let mut client = Client::http2(weir.address).await;
    let (feed, body) = piped();
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let fed = tokio::spawn(async move {
        for _ in 0..PIECES {
            assert!(feed.data(PIECE).await, "nobody takes them any more");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let asked = client.request("POST", "/", UNIT, body);
    let answer = tokio::spawn(client.send_patiently(asked));
    settled("an upload that is held back", 40, || sent.load(Ordering::Relaxed)).await;
    gate.open();
    fed.await.expect("everything is taken");
    assert_eq!(soon("the answer", answer).await.expect("no panic").expect("an answer").status(), 200);
    assert_eq!(origin.last().body_bytes, (PIECES * PIECE.len()) as u64);
    weir.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_client_of_http2_is_held_by_h2_send_buffer() {
    let mut taken = Vec::new();
    for buffer in ["16KiB", "64MiB"] {
        let origin = Origin::start("new").await;
        origin.script(|_| Reply::body(Content::Fill { bytes: 256 * MIB, sized: true }));
        let config = canary(&origin).tables(&format!("[limits]\nh2_send_buffer = \"{buffer}\""));
        let weir = Weir::start(&config).await;
        let mut client = Streams::connect(weir.address).await;
        // It grants everything and reads nothing.
        let all = 0x7fff_ffff_u32.to_be_bytes();
        client.frame(SETTINGS, 0, 0, &[&[0, 4][..], &all].concat()).await;
        client.frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()).await;
        client.head(1, END_STREAM, &head("/")).await;
        taken.push(settled("an answer that is held back", 40, || origin.filled()).await);
        drop(client);
        weir.stop().await;
    }
    assert!(taken[0] + 32 * MIB < taken[1], "{taken:?} bytes");
}

#[tokio::test]
async fn what_waits_for_a_client_of_http1_is_held_by_h1_buffer() {
    let mut taken = Vec::new();
    for buffer in ["8KiB", "64MiB"] {
        let origin = Origin::start("new").await;
        origin.script(|_| Reply::body(Content::Fill { bytes: 256 * MIB, sized: true }));
        let config =
            canary(&origin).tables(&format!("[limits]\nmax_header_bytes = \"4KiB\"\nh1_buffer = \"{buffer}\""));
        let weir = Weir::start(&config).await;
        let mut client = RawClient::connect(weir.address).await;
        client.send(request("GET", "/", UNIT, b"")).await;
        taken.push(settled("an answer that is held back", 40, || origin.filled()).await);
        drop(client);
        weir.stop().await;
    }
    // Beside what the kernel keeps, which is some MiB.
    assert!(taken[0] + 32 * MIB < taken[1], "{taken:?} bytes");
}

#[tokio::test]
async fn half_of_h2_connection_window_is_what_small_pieces_may_cost() {
    // As many as a stream's window holds and no upstream takes: each costs 256 bytes less its own. It is why the window is larger
    // by default than what bodies need: half of 1 MiB is too little for a single stream.
    for (window, is_cut) in [("1MiB", true), ("2MiB", false)] {
        let upstream = Frames::start(Act::Hold).await;
        let config = Config::between(upstream.address, upstream.address).weight("100%").upstreams("protocol = \"h2\"");
        let weir = Weir::start(&config.tables(&format!("[limits]\nh2_connection_window = \"{window}\""))).await;
        let mut client = Client::http2(weir.address).await;
        let (feed, body) = piped();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let fed = tokio::spawn(async move {
            while feed.data(PIECE).await {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let asked = client.request("POST", "/", UNIT, body);
        let answer = tokio::spawn(client.send_patiently(asked));
        let floods = |metrics: &Metrics| metrics.count("weir_connections_cut_total", &[("reason", "h2_flood")]);
        if is_cut {
            weir.metrics_until("the end of the connection", |metrics| floods(metrics) == 1).await;
            assert!(answer.await.expect("no panic").is_err());
        } else {
            settled("an upload that is held back", 40, || sent.load(Ordering::Relaxed)).await;
            assert_eq!(floods(&weir.metrics().await), 0, "{window}");
            answer.abort();
        }
        drop(client);
        fed.abort();
        weir.stop().await;
    }
}

#[tokio::test]
async fn certificates_change_under_load_without_an_error_and_a_bad_one_changes_nothing() {
    let origin = Origin::start("new").await;
    let folder = folder();
    let mut certificate = Certificate::new();
    certificate.write(folder.path());
    let config = canary(&origin).listener("tls = { cert = \"cert.pem\", key = \"key.pem\" }");
    let weir = Weir::start_in(folder, &config).await;
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = Vec::new();
    for http2 in [false, true] {
        let protocol: &[&str] = if http2 { &["h2"] } else { &["http/1.1"] };
        let mut client = Client::over(certificate.connect(weir.address, protocol).await, http2).await;
        let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
        load.push(tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(client.get("/", UNIT).await.status, 200);
                asked.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for round in 0..rotations(20) {
        let before = asked.load(Ordering::Relaxed);
        if round % 4 == 3 {
            std::fs::write(weir.folder.path().join("cert.pem"), "no certificate").expect("the folder is ours");
            assert_ne!(weir.reload().await.status, 200);
        } else {
            certificate = Certificate::new();
            certificate.write(weir.folder.path());
            // The watch may have seen one of the two files already, and both by now.
            eventually("the reload", || async { (weir.reload().await.status == 200).then_some(()) }).await;
        }
        let (weir, certificate) = (&weir, &certificate);
        eventually("the certificate", || async { certificate.try_connect(weir.address, &["h2"]).await.ok() }).await;
        eventually("requests", || std::future::ready((asked.load(Ordering::Relaxed) > before + 1).then_some(()))).await;
    }
    over.store(true, Ordering::Relaxed);
    for client in load {
        soon("a client's end", client).await.expect("no request failed");
    }
    weir.stop().await;
}
