//! Everything that an upstream may do wrong, again and again: each request ends as it should, and when all have ended nothing
//! of them is left. `WEIR_FAULT_REQUESTS` says how many.

use crate::edge::canary;
use crate::harness::chance::fault_requests;
use crate::harness::client::read;
use crate::harness::piped::sized;
use crate::harness::raw::request;
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Reply, Step};
use crate::process::Process;
use crate::upstreams::Refusing;
use bytes::Bytes;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
/// Requests under way at once.
const CLIENTS: u64 = 16;
/// What a config may grant: short, so that many requests fit into a test.
const TIMES: &str = "response_timeout = \"300ms\"\nconnect_timeout = \"300ms\"\nidle_timeout = \"200ms\"";

/// How a request ends for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// With a whole answer of that status.
    Whole(u16),
    /// With an answer that is cut.
    Cut,
}

/// One request over a kept connection of HTTP/1.1, or a new one where the last answer ended it.
async fn ask(client: &mut Option<RawClient>, address: SocketAddr, method: &str) -> End {
    let mut open = match client.take() {
        Some(open) => open,
        None => RawClient::connect(address).await,
    };
    let body = if method == "POST" { vec![b'x'; 200_000] } else { Vec::new() };
    // One that is answered early may be told before everything was sent.
    let _ = open.try_send(request(method, "/", UNIT, &body)).await;
    let answer = open.try_answer().await.expect("an answer, not an end");
    if !answer.complete {
        return End::Cut;
    }
    if answer.field("connection") != Some("close") {
        *client = Some(open);
    }
    End::Whole(answer.status)
}

/// The same over a stream of HTTP/2.
async fn ask_http2(client: &mut Client, method: &str) -> End {
    let body = if method == "POST" { vec![b'x'; 200_000] } else { Vec::new() };
    let asked = client.request(method, "/", UNIT, sized(body));
    let answer = client.send(asked).await.expect("an answer, not an end");
    match read(answer).await {
        Ok(whole) => End::Whole(whole.status),
        Err(_) => End::Cut,
    }
}

/// Sends so many requests, half of them over HTTP/2, and counts how they end.
async fn storm(address: SocketAddr, method: &'static str, requests: u64) -> BTreeMap<End, u64> {
    let left = Arc::new(AtomicU64::new(requests));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let left = Arc::clone(&left);
        let next = move || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        clients.push(tokio::spawn(async move {
            let mut ends = Vec::new();
            if number % 2 == 0 {
                let mut client = None;
                while next() {
                    ends.push(ask(&mut client, address, method).await);
                }
            } else {
                let mut client = Client::http2(address).await;
                while next() {
                    // After ten thousand requests a connection is to end.
                    if client.is_closed() {
                        client = Client::http2(address).await;
                    }
                    ends.push(ask_http2(&mut client, method).await);
                }
            }
            ends
        }));
    }
    let mut counts = BTreeMap::new();
    for client in clients {
        for end in client.await.expect("every request ends") {
            *counts.entry(end).or_default() += 1;
        }
    }
    counts
}

/// A weir in front of a faulty upstream: every request ends in one of these ways, and no descriptor is left of them.
async fn suffers(what: &str, config: &Config, method: &'static str, ends: &[End]) {
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let log = folder.path().join("access.log");
    let logged = format!("[access_log]\nmode = \"full\"\npath = \"{}\"", log.display());
    let config = config.clone().upstreams(TIMES).tables("[limits]\nstream_idle = \"300ms\"").tables(&logged);
    std::fs::write(&file, config.to_string()).expect("the folder is ours");
    let process = Process::start(&file).await;
    // What it opens once and keeps is open after this.
    storm(process.address, method, CLIENTS).await;
    let base = rested(&process, usize::MAX).await;
    let requests = fault_requests(64);
    let counts = storm(process.address, method, requests).await;
    assert!(counts.keys().all(|end| ends.contains(end)), "{what}: {counts:?}");
    assert_eq!(counts.values().sum::<u64>(), requests, "{what}");
    let left = rested(&process, base).await;
    let slowest = slowest(&process, &log, requests + CLIENTS).await;
    assert!(slowest < SLOWEST_MS, "{what}: a request took {slowest} ms");
    eprintln!(
        "{what}: {requests} requests, none took more than {slowest:.0} ms: {counts:?}; descriptors {base} before, {left} after"
    );
}

/// More than `TIMES` grant one after the other on the slowest machine, and less than any default: what took longer was ended by
/// something else, or by nothing.
const SLOWEST_MS: f64 = 10_000.0;

/// The longest time that weir itself says to have spent on any of so many requests.
async fn slowest(process: &Process, log: &Path, requests: u64) -> f64 {
    eventually("a line for each request", async || {
        let dropped = process.metrics().await?.count("weir_access_log_dropped_total", &[]);
        let text = std::fs::read_to_string(log).ok()?;
        let lines =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["duration_ms"].as_f64());
        let times: Vec<f64> = lines.collect::<Option<_>>()?;
        (times.len() as u64 + dropped >= requests).then(|| times.into_iter().fold(0.0, f64::max))
    })
    .await
}

/// How many descriptors are open once there is no connection to clients or upstreams, and no more than `most`.
async fn rested(process: &Process, most: usize) -> usize {
    eventually("an end of all connections", async || {
        let metrics = process.metrics().await?;
        let count = |name, state| metrics.count(name, &[("state", state)]);
        let upstreams = count("weir_upstream_connections", "active") + count("weir_upstream_connections", "idle");
        let open = process.descriptors();
        (upstreams == 0 && metrics.count("weir_connections", &[]) == 0 && open <= most).then_some(open)
    })
    .await
}

/// An origin that answers every request with these bytes and faults.
async fn raw(steps: fn() -> Vec<Step>) -> Origin {
    let origin = Origin::start("new").await;
    origin.script(move |_| Reply::Raw(steps()));
    origin
}

fn write(text: impl Into<String>) -> Step {
    Step::Write(text.into().into_bytes())
}

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole";

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_502() {
    let refusing = Refusing::new();
    suffers("refusing", &Config::between(refusing.0, refusing.0).weight("100%"), "GET", &[End::Whole(502)]).await;
    // A queue of connections that is full, and that nobody empties.
    let dead = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    dead.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    dead.listen(0).expect("a socket of ours");
    let address = dead.local_addr().expect("it is bound").as_socket().expect("an IP address");
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let one = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        one.set_nonblocking(true).expect("a socket of ours");
        let _ = one.connect(&address.into());
        waiting.push(one);
    }
    suffers("dead", &Config::between(address, address).weight("100%"), "GET", &[End::Whole(502)]).await;
}

#[tokio::test]
async fn an_upstream_that_says_nothing_or_no_more_is_given_up_in_time() {
    let origin = raw(|| vec![Step::Hang]).await;
    suffers("hanging before its head", &canary(&origin), "GET", &[End::Whole(504)]).await;
    let origin = raw(|| vec![write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"), Step::Hang]).await;
    suffers("hanging in its body", &canary(&origin), "GET", &[End::Cut]).await;
    let (origin, gate) = (Origin::start("new").await, Gate::closed());
    origin.script(move |_| Reply::held(&gate));
    let http2_up = canary(&origin).upstreams("protocol = \"h2\"");
    suffers("hanging before its head, HTTP/2", &http2_up, "GET", &[End::Whole(504)]).await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_fails_its_request_alone() {
    let origin = raw(|| vec![Step::Reset]).await;
    suffers("resetting before its head", &canary(&origin), "GET", &[End::Whole(502)]).await;
    let origin = raw(|| vec![write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"), Step::Reset]).await;
    // A reset may overtake what was sent before it.
    suffers("resetting in its body", &canary(&origin), "GET", &[End::Cut, End::Whole(502)]).await;
    let origin = Origin::start("new").await;
    origin.script(|_| Reply::body(Content::Cut(Bytes::from_static(b"half"))));
    suffers("closing in its body", &canary(&origin), "GET", &[End::Cut]).await;
    let http2_up = canary(&origin).upstreams("protocol = \"h2\"");
    suffers("resetting in its body, HTTP/2", &http2_up, "GET", &[End::Cut]).await;
}

#[tokio::test]
async fn an_upstream_that_answers_before_it_has_heard_everything_is_believed() {
    const EARLY: &str = "HTTP/1.1 413 Too Large\r\ncontent-length: 5\r\nconnection: close\r\n\r\nlarge";
    let origin = raw(|| vec![write(EARLY), Step::Hang]).await;
    suffers("answering early", &canary(&origin), "POST", &[End::Whole(413)]).await;
    let origin = raw(|| vec![write(EARLY), Step::Close]).await;
    // What it resets with what it has not read may overtake its answer.
    suffers("answering early and closing", &canary(&origin), "POST", &[End::Whole(413), End::Whole(502), End::Cut])
        .await;
}

#[tokio::test]
async fn an_upstream_that_speaks_no_http_is_502() {
    let origin = raw(|| vec![write("\u{1}\u{2}what?\r\n\r\n"), Step::Close]).await;
    suffers("garbage", &canary(&origin), "GET", &[End::Whole(502)]).await;
    let origin =
        raw(|| vec![write(format!("HTTP/1.1 200 OK\r\n{}", "x-more: field\r\n".repeat(20_000))), Step::Hang]).await;
    suffers("endless header fields", &canary(&origin), "GET", &[End::Whole(502)]).await;
    let origin = raw(|| vec![write("HTTP/1.1 102 Processing\r\n\r\n".repeat(5_000)), Step::Hang]).await;
    suffers("endless 1xx", &canary(&origin), "GET", &[End::Whole(502)]).await;
    let origin =
        raw(|| vec![write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nwhole"), Step::Close])
            .await;
    suffers("two lengths", &canary(&origin), "GET", &[End::Whole(502)]).await;
    let origin =
        raw(|| vec![write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\nxyz\r\n"), Step::Hang]);
    suffers("broken chunks", &canary(&origin.await), "GET", &[End::Cut]).await;
}

#[tokio::test]
async fn an_upstream_that_says_too_little_or_too_much_never_mixes_answers_up() {
    let origin = raw(|| vec![write("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhalf"), Step::Close]).await;
    suffers("too short", &canary(&origin), "GET", &[End::Cut]).await;
    let origin = raw(|| vec![write(format!("{WHOLE}HTTP/1.1 500 Stray\r\ncontent-length: 0\r\n\r\n"))]).await;
    suffers("too long", &canary(&origin), "GET", &[End::Whole(200)]).await;
}

#[tokio::test]
async fn an_upstream_that_closes_idle_connections_under_our_feet_costs_no_request() {
    let origin = raw(|| vec![write(WHOLE), Step::Close]).await;
    suffers("closing idle connections", &canary(&origin), "GET", &[End::Whole(200)]).await;
}
