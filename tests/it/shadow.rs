//! Copies for the canary: whose requests are copied and how, and that nothing which becomes of a copy reaches anybody else.

use crate::harness::client::{Got, read};
use crate::harness::metrics::Metrics;
use crate::harness::origin::Seen;
use crate::harness::piped::{header_map, piped, sized};
use crate::harness::reply::{Content, pattern, pattern_checksum};
use crate::harness::wait::eventually;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Step, Weir, soon};
use crate::upstreams::Refusing;
use serde_json::{Value, json};
use std::time::Duration;

pub const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
const COPIES: &str = "weir_shadow_requests_total";
const CHAT: &str = "/api/v1/rollouts/chat";
const KIB: usize = 1024;

/// Everybody is on stable and mirrored, with these further keys of the shadow; no copy ends by its time unless they say so.
pub fn mirrored(config: Config, keys: &str) -> Config {
    let patience = if keys.contains("timeout") { "" } else { "timeout = \"10m\", " };
    config.patient().weight("0%").rollout(&format!("shadow = {{ share = \"100%\", {patience}{keys} }}"))
}

/// Weir between two origins.
pub struct Pair {
    pub legacy: Origin,
    pub new: Origin,
    pub weir: Weir,
}

impl Pair {
    pub async fn start(config: impl FnOnce(Config) -> Config) -> Pair {
        let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
        let weir = Weir::start(&config(Config::split(&legacy, &new))).await;
        Pair { legacy, new, weir }
    }

    /// One request on a connection of its own; stable answers it, whatever becomes of its copy.
    pub async fn served(&self, method: &str, fields: &[(&str, &str)], body: &'static str) -> Got {
        let fields: Vec<_> = UNIT.iter().chain(fields).copied().collect();
        let got = Client::http1(self.weir.address).await.call(method, "/path?a=1", &fields, sized(body)).await;
        assert_eq!((got.status, got.origin()), (200, "legacy"));
        got
    }

    /// The copies with that outcome, once there are so many.
    pub async fn counted(&self, outcome: &str, count: u64) -> Metrics {
        counted(&self.weir, outcome, count).await
    }

    /// Once copies take no memory: what is counted as broken off may be given back a moment later.
    pub async fn gave_back(&self) {
        let is_free = |metrics: &Metrics| metrics.count("weir_shadow_memory_bytes", &[]) == 0;
        self.weir.metrics_until("all memory given back", is_free).await;
    }

    /// The copy that arrived as number `number`, with its whole body.
    pub async fn copy(&self, number: usize) -> Seen {
        let whole =
            |state: &crate::harness::origin::State| state.requests.get(number).is_some_and(|seen| seen.complete);
        self.new.until("a copy", whole).await.requests.swap_remove(number)
    }
}

async fn counted(weir: &Weir, outcome: &str, count: u64) -> Metrics {
    let labels = [("rollout", "chat"), ("outcome", outcome)];
    let metrics = weir.metrics_until(outcome, |metrics| metrics.count(COPIES, &labels) >= count).await;
    assert_eq!(metrics.count(COPIES, &labels), count, "{outcome}");
    metrics
}

/// Asks until there is one more copy with that outcome; how often. While copies come to nothing most are not even made.
async fn one_more(weir: &Weir, outcome: &str, mut ask: impl AsyncFnMut()) -> u64 {
    let count = |metrics: &Metrics| metrics.count(COPIES, &[("rollout", "chat"), ("outcome", outcome)]);
    let before = weir.metrics().await;
    let (had, all) = (count(&before), before.count(COPIES, &[]));
    let mut asked = 0;
    loop {
        ask().await;
        asked += 1;
        let counted = |metrics: &Metrics| metrics.count(COPIES, &[]) >= all + asked;
        let metrics = weir.metrics_until(outcome, counted).await;
        assert_eq!(metrics.count(COPIES, &[]), all + asked, "each is counted once");
        if count(&metrics) > had {
            return asked;
        }
    }
}

/// What the copies did is in no number of an arm, and moved nothing.
async fn only_copies(weir: &Weir, requests: u64) {
    let ended = |metrics: &Metrics| metrics.count("weir_requests_total", &[("code", "2xx")]) == requests;
    let metrics = weir.metrics_until("the requests", ended).await;
    assert_eq!(metrics.count("weir_requests_total", &[]), requests);
    assert_eq!(metrics.count("weir_requests_total", &[("arm", "canary")]), 0);
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    assert_eq!(metrics.count("weir_client_left_total", &[]), 0);
    assert_eq!(metrics.count("weir_upstream_ejections_total", &[]), 0);
    assert_eq!(metrics.count("weir_breaker_state", &[]), 0);
    assert_eq!(metrics.count("weir_breaker_trips_total", &[]), 0);
    assert_eq!(metrics.count("weir_upstream_retries_total", &[]), 0);
}

#[tokio::test]
async fn exactly_the_units_that_come_next_are_mirrored_with_their_whole_sessions() {
    let shadow = "shadow = { share = \"50%\", timeout = \"10m\" }";
    let config = |config: Config| config.patient().weight("30%").rollout(shadow);
    let pair = Pair::start(config).await;
    let mut client = Client::http1(pair.weir.address).await;
    let mut all_copies = 0;
    // Half of what 30 % leaves on stable, then half of what 60 % does.
    for (weight, reach) in [(300_000, 650_000), (600_000, 800_000)] {
        pair.weir.weigh(&format!("{}%", weight / 10_000)).await;
        let (mut expected, before) = (Vec::new(), pair.new.count() as usize);
        for number in 0..40 {
            let unit = format!("user-{number}");
            let bucket = pair.weir.explain(&unit).await["bucket_ppm"].as_u64().expect("a bucket");
            for _ in 0..2 {
                let origin = client.origin_of(&unit).await;
                assert_eq!(origin, if bucket < weight { "new" } else { "legacy" });
                if (weight..reach).contains(&bucket) {
                    expected.push(unit.clone());
                }
            }
        }
        assert!(expected.len() > 4, "the units do not try it");
        all_copies += expected.len() as u64;
        counted(&pair.weir, "2xx", all_copies).await;
        let seen = pair.new.state().requests.split_off(before);
        let copies = seen.iter().filter(|seen| seen.field("x-weir-shadow") == Some("1"));
        let mut copied: Vec<String> = copies.filter_map(|seen| seen.field("x-user-id")).map(str::to_owned).collect();
        copied.sort_unstable();
        expected.sort_unstable();
        assert_eq!(copied, expected);
    }
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_copy_is_the_request_for_the_canary_without_what_identifies_somebody() {
    let canary = "{ upstream = \"new\", set_headers = { x-flag = \"on\" }, remove_headers = [\"x-old\"] }";
    for (keep, kept) in [("", false), ("keep_headers = [\"authorization\", \"cookie\"]", true)] {
        let pair = Pair::start(|config| mirrored(config.arms("{ upstream = \"legacy\" }", canary), keep)).await;
        let fields = [
            ("host", "chat.example.com"),
            ("authorization", "Bearer secret"),
            ("cookie", "session=secret"),
            ("x-old", "1"),
            ("x-request-id", "request-7"),
        ];
        pair.served("GET", &fields, "").await;
        let (copy, own) = (pair.copy(0).await, pair.legacy.last());
        assert_eq!((copy.method.as_str(), copy.target.as_str()), ("GET", "/path?a=1"));
        for name in ["host", "x-request-id", "traceparent", "x-user-id", "x-forwarded-for", "x-forwarded-host"] {
            assert!(copy.field(name).is_some() && copy.field(name) == own.field(name), "{name}: {copy:?}");
        }
        assert_eq!(copy.field("host"), Some("chat.example.com"));
        assert_eq!(copy.all("x-weir-shadow"), ["1"]);
        assert_eq!(copy.field("x-weir-rollout"), Some("chat=canary;reason=shadow"));
        assert_eq!((copy.field("x-flag"), copy.field("x-old")), (Some("on"), None));
        assert_eq!(copy.field("authorization"), kept.then_some("Bearer secret"));
        assert_eq!(copy.field("cookie"), kept.then_some("session=secret"));
        assert_eq!((own.field("x-weir-shadow"), own.field("x-flag"), own.field("x-old")), (None, None, Some("1")));
        assert_eq!(own.field("x-weir-rollout"), Some("chat=stable;reason=bucket"));
        assert_eq!(own.field("authorization"), Some("Bearer secret"));
        pair.weir.stop().await;
    }
}

#[tokio::test]
async fn bodies_are_copied_whole_or_not_at_all_over_both_protocols() {
    for (http2_client, http2_up) in [(false, false), (true, false), (false, true), (true, true)] {
        let up = if http2_up { "protocol = \"h2\"" } else { "" };
        let keys = "methods = [\"POST\"], max_body = \"100KiB\"";
        let pair = Pair::start(|config| mirrored(config, keys).upstreams(up).workers(1)).await;
        let mut client = Client::to(pair.weir.address, http2_client).await;
        for (number, bytes) in [0, 1, 64 * KIB, 100 * KIB].into_iter().enumerate() {
            let got = client.call("POST", "/", UNIT, sized(pattern(0, bytes))).await;
            assert_eq!(got.origin(), "legacy");
            let copy = pair.copy(number).await;
            assert_eq!((copy.body_bytes, copy.body_checksum), (bytes as u64, pattern_checksum(bytes as u64)));
        }
        // In pieces, of a length that nobody knows, with trailers.
        let (feed, body) = piped();
        let request = client.request("POST", "/", &[UNIT[0], ("trailer", "x-sum")], body);
        let fed = async {
            for piece in 0..8 {
                assert!(feed.data(pattern(piece * 1000, 1000)).await);
            }
            assert_eq!(pair.new.count(), 4, "nobody sees half a request");
            assert!(feed.trailers(header_map(&[("x-sum", "abc")])).await);
            drop(feed);
        };
        let (answer, ()) = tokio::join!(client.send(request), fed);
        read(answer.expect("an answer")).await.expect("a whole one");
        let copy = pair.copy(4).await;
        assert_eq!((copy.body_bytes, copy.body_checksum), (8000, pattern_checksum(8000)));
        assert_eq!(copy.trailers, [("x-sum".to_owned(), "abc".to_owned())]);
        assert_eq!(pair.legacy.last().trailers, copy.trailers);
        pair.counted("2xx", 5).await;

        // One byte too long, announced and found out on the way: the request itself passes whole.
        let long = 100 * KIB + 1;
        client.call("POST", "/", UNIT, sized(pattern(0, long))).await;
        let (feed, body) = piped();
        let request = client.request("POST", "/", UNIT, body);
        let fed = async {
            let whole =
                feed.data(pattern(0, 60 * KIB)).await && feed.data(pattern(60 * KIB as u64, long - 60 * KIB)).await;
            assert!(whole);
            drop(feed);
        };
        let (answer, ()) = tokio::join!(client.send(request), fed);
        read(answer.expect("an answer")).await.expect("a whole one");
        let metrics = pair.counted("body", 2).await;
        let seen = pair.legacy.state().requests;
        for whole in &seen[5..] {
            assert_eq!((whole.body_bytes, whole.body_checksum), (long as u64, pattern_checksum(long as u64)));
        }
        assert_eq!((seen.len(), pair.new.count()), (7, 5));
        assert_eq!(metrics.count("weir_shadow_memory_bytes", &[]), 0, "all of it was given back");
        pair.weir.stop().await;
    }
}

type Script = Box<dyn Fn() -> Reply + Send + Sync>;

/// What a canary may do to a copy, what it is counted as, and what of the config lets it end in time.
fn sick(held: &Gate) -> Vec<(&'static str, Script, &'static str)> {
    let held = held.clone();
    vec![
        // What leaves a connection to be used again comes last.
        ("close", Box::new(|| Reply::Raw(vec![Step::Close])), "reset"),
        ("reset", Box::new(|| Reply::Raw(vec![Step::Reset])), "reset"),
        ("garbage", Box::new(|| Reply::bytes(&b"SSH-2.0-OpenSSH_9.2\r\n"[..])), "protocol"),
        ("hang", Box::new(move || Reply::held(&held)), "timeout"),
        ("cut", Box::new(|| Reply::body(Content::Cut("half".into()))), "truncated"),
        ("endless", Box::new(|| Reply::body(Content::Fill { bytes: 10 << 30, sized: false })), "2xx"),
        ("trickle", Box::new(trickle), "timeout"),
        ("500", Box::new(|| Reply::status(500)), "status_5xx"),
        ("404", Box::new(|| Reply::status(404)), "4xx"),
    ]
}

/// A byte now and then.
fn trickle() -> Reply {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n".to_vec();
    Reply::Raw(vec![Step::Write(head), Step::Trickle(vec![b'x'; 100_000], Duration::from_millis(20))])
}

#[tokio::test]
async fn whatever_becomes_of_a_copy_clients_see_nothing_of_it() {
    let held = Gate::closed();
    let breaker = "breaker = { consecutive_errors = 1, min_units = 1 }";
    // Short of time are those alone that are to run out of it.
    for (keys, is_late) in [("timeout = \"200ms\"", true), ("", false)] {
        let pair = Pair::start(|config| mirrored(config, keys).rollout(breaker).workers(1)).await;
        let sick = sick(&held).into_iter().filter(|(_, _, outcome)| (*outcome == "timeout") == is_late);
        unnoticed(&pair, sick.map(|(_, reply, outcome)| (reply, outcome))).await;
        if !is_late {
            stale(&pair).await;
        }
        pair.weir.stop().await;
    }
}

/// Copies come to this, and clients see nothing of it.
async fn unnoticed(pair: &Pair, sick: impl Iterator<Item = (Script, &'static str)>) {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    let mut requests = 0;
    for (reply, outcome) in sick {
        pair.new.script(move |_| reply());
        // The second one meets whatever the first has left behind.
        for _ in 0..2 {
            let ask = async || drop(pair.served("GET", &[], "").await);
            requests += one_more(&pair.weir, outcome, ask).await;
            *counts.entry(outcome).or_default() += 1;
            pair.counted(outcome, counts[outcome]).await;
        }
    }
    let copies: u64 = counts.values().sum();
    pair.counted("backoff", requests - copies).await;
    assert!(pair.new.filled() < 64 << 20, "an endless answer is not read on");
    only_copies(&pair.weir, requests).await;
    let shadow = pair.weir.view(&format!("{CHAT}?window=10m")).await["shadow"].clone();
    let failures = counts.iter().filter(|(outcome, _)| !matches!(**outcome, "2xx" | "4xx"));
    let errors: u64 = failures.map(|(_, count)| count).sum();
    assert_eq!((&shadow["requests"], &shadow["errors"]), (&json!(copies), &json!(errors)));
}

/// The last one has left a connection. If that is closed under a copy after it was idle for a second, nobody knows whose fault
/// it was.
async fn stale(pair: &Pair) {
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    pair.new.script(|_| Reply::Raw(vec![Step::Close]));
    pair.served("GET", &[], "").await;
    pair.counted("stale", 1).await;
}

#[tokio::test]
async fn a_canary_that_cannot_be_reached_changes_nothing_either() {
    let legacy = Origin::start("legacy").await;
    let refusing = Refusing::new();
    for up in ["", "protocol = \"h2\""] {
        let config = Config::between(legacy.address, refusing.0).upstreams(up);
        let weir = Weir::start(&mirrored(config, "")).await;
        let mut client = Client::http1(weir.address).await;
        let mut requests = 0;
        for _ in 0..5 {
            let ask = async || assert_eq!(client.get("/", UNIT).await.origin(), "legacy");
            requests += one_more(&weir, "connect", ask).await;
        }
        counted(&weir, "connect", 5).await;
        only_copies(&weir, requests).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn a_canary_where_copies_come_to_nothing_gets_few_connections_until_one_goes_well() {
    let pair = Pair::start(|config| mirrored(config, "").workers(1)).await;
    pair.new.script(|_| Reply::Raw(vec![Step::Close]));
    let ask = async || drop(pair.served("GET", &[], "").await);
    for _ in 0..3 {
        one_more(&pair.weir, "backoff", ask).await;
    }
    let metrics = pair.weir.metrics().await;
    let skipped = metrics.count(COPIES, &[("outcome", "backoff")]);
    assert_eq!(pair.new.state().accepted, metrics.count(COPIES, &[]) - skipped, "one for each that was made");
    pair.new.script(|_| Reply::Hello);
    one_more(&pair.weir, "2xx", ask).await;
    for _ in 0..5 {
        assert_eq!(one_more(&pair.weir, "2xx", ask).await, 1, "it is well again");
    }
    pair.weir.stop().await;
}

#[tokio::test]
async fn copies_that_hang_take_no_connection_and_no_place_from_users() {
    let never = Gate::closed();
    let held = never.clone();
    // One connection for users to each upstream; and the same origin is stable as well as canary.
    let origin = Origin::start("both").await;
    origin.script(move |seen| match seen.field("x-weir-shadow") {
        Some(_) => Reply::held(&held),
        None => Reply::Hello,
    });
    let config = Config::split(&origin, &origin).workers(1).upstreams("max_connections = 3");
    let weir = Weir::start(&mirrored(config, "max_in_flight = 2")).await;
    let mut client = Client::http1(weir.address).await;
    for number in 0..5 {
        assert_eq!(client.get("/", UNIT).await.status, 200);
        let copies = (number + 1).min(2);
        let arrived = |seen: &&Seen| seen.field("x-weir-shadow").is_some();
        origin.until("copies", |state| state.requests.iter().filter(arrived).count() == copies).await;
    }
    let metrics = counted(&weir, "in_flight", 3).await;
    assert_eq!(metrics.count("weir_shadow_in_flight", &[]), 2);
    never.open();
    let metrics = counted(&weir, "2xx", 2).await;
    assert_eq!(metrics.count("weir_shadow_in_flight", &[]), 0);
    assert_eq!(client.get("/", UNIT).await.status, 200);
    counted(&weir, "2xx", 3).await;
    weir.stop().await;
}

#[tokio::test]
async fn copies_take_no_more_memory_than_they_may() {
    let never = Gate::closed();
    let held = never.clone();
    // A copy takes 72 KiB besides its request.
    let keys = "methods = [\"POST\"], max_body = \"64KiB\", max_memory = \"220KiB\"";
    let pair = Pair::start(|config| mirrored(config, keys)).await;
    pair.new.script(move |_| Reply::held(&held));
    let body: &'static str = "x".repeat(40 * KIB).leak();
    pair.served("POST", &[], body).await;
    pair.new.until("the first", |state| state.requests.len() == 1).await;
    // Begins, and finds out on the way that there is not enough.
    pair.served("POST", &[], body).await;
    pair.counted("memory", 1).await;
    pair.served("POST", &[], "short").await;
    pair.new.until("the second", |state| state.requests.len() == 2).await;
    // Does not even begin.
    pair.served("POST", &[], "").await;
    let metrics = pair.counted("memory", 2).await;
    let bytes = metrics.count("weir_shadow_memory_bytes", &[]);
    assert!((184 * 1024..=220 * 1024).contains(&bytes), "{bytes}");
    never.open();
    let metrics = pair.counted("2xx", 2).await;
    assert_eq!(metrics.count("weir_shadow_memory_bytes", &[]), 0);
    pair.weir.stop().await;
}

#[tokio::test]
async fn copies_other_methods_and_upgrades_are_not_copied() {
    let pair = Pair::start(|config| mirrored(config, "")).await;
    let own = pair.served("GET", &[("x-weir-shadow", "1")], "").await;
    assert!(!own.body.is_empty());
    assert_eq!(pair.legacy.last().field("x-weir-shadow"), None, "a stranger's word is not passed on");
    pair.counted("loop", 1).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        pair.served(method, &[], "").await;
    }
    pair.counted("method", 4).await;
    pair.legacy.script(|_| Reply::status(400));
    let mut client = RawClient::connect(pair.weir.address).await;
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(upgrade).await;
    assert_eq!(client.answer().await.status, 400);
    pair.counted("upgrade", 1).await;
    assert_eq!(pair.new.count(), 0);
    pair.legacy.script(|_| Reply::Hello);
    pair.served("GET", &[], "").await;
    pair.counted("2xx", 1).await;
    let printed = pair.weir.view(CHAT).await["shadow"].clone();
    assert_eq!(printed["skipped"], json!({"loop": 1, "method": 4, "upgrade": 1}));
    assert_eq!((&printed["share_ppm"], &printed["requests"]), (&json!(1_000_000), &json!(1)));
    pair.weir.stop().await;
}

#[tokio::test]
async fn copies_of_a_trusted_weir_are_counted_apart_and_blame_nobody() {
    let breaker = "breaker = { consecutive_errors = 1, min_units = 1 }";
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = || Config::split(&legacy, &new).weight("100%").rollout(breaker).workers(1);
    new.script(|_| Reply::status(500));
    let copy: &[(&str, &str)] = &[("x-user-id", "u"), ("x-weir-shadow", "1")];
    let forced = |metrics: &Metrics, code| {
        let labels = [("rollout", "chat"), ("arm", "canary"), ("code", code)];
        metrics.count("weir_forced_requests_total", &labels)
    };

    let weir = Weir::start(&config().top("trusted_proxies = [\"127.0.0.1\"]")).await;
    let mut client = Client::http1(weir.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/", copy).await.status, 500, "nobody stands in for a canary that no client waits for");
    }
    assert_eq!(new.last().field("x-weir-shadow"), Some("1"), "it stays one on its way");
    let metrics = weir.metrics_until("the copies", |metrics| forced(metrics, "5xx") == 3).await;
    for name in ["weir_requests_total", "weir_request_errors_total", "weir_decisions_total", "weir_breaker_state"] {
        assert_eq!(metrics.count(name, &[]), 0, "{name}");
    }
    // A request of a user of theirs is one as ever, and stable makes good what the canary fails.
    assert_eq!(client.get("/", UNIT).await.origin(), "legacy");
    let metrics = weir.metrics_until("the trip", |metrics| metrics.count("weir_breaker_state", &[]) == 2).await;
    assert_eq!(forced(&metrics, "5xx"), 3);
    weir.stop().await;

    let weir = Weir::start(&config()).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", copy).await.origin(), "legacy", "from a stranger it is a request like any other");
    let metrics = weir.metrics_until("the trip", |metrics| metrics.count("weir_breaker_state", &[]) == 2).await;
    assert_eq!(forced(&metrics, "5xx"), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_long_answer_is_read_to_its_end_and_its_connection_used_again() {
    const BYTES: u64 = 900 * 1024;
    let long = || Content::Fill { bytes: BYTES, sized: true };
    let pair = Pair::start(|config| mirrored(config, "").workers(1)).await;
    pair.legacy.script(move |_| Reply::body(long()));
    let mut client = Client::http1(pair.weir.address).await;
    // The last time several take turns.
    for (copies, copied, connections) in [(1, 1, 1..=1), (1, 2, 1..=1), (1, 3, 1..=1), (8, 11, 1..=8)] {
        // Clients have theirs before, so that copies may read as much.
        let gate = Gate::closed();
        let held = gate.clone();
        let answer = move || Answer { body: long(), send_after: Some(held.clone()), ..Answer::default() };
        pair.new.script(move |_| Reply::Answer(answer()));
        for _ in 0..copies {
            assert_eq!(client.get("/", UNIT).await.body.len() as u64, BYTES);
        }
        gate.open();
        pair.counted("2xx", copied).await;
        let state = pair.new.state();
        assert_eq!(state.filled, copied * BYTES);
        assert!(connections.contains(&state.accepted), "{}", state.accepted);
    }
    pair.weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_far_longer_than_what_clients_get_is_not_read_to_its_end() {
    let pair = Pair::start(|config| mirrored(config, "").workers(1)).await;
    pair.new.script(|_| Reply::body(Content::Fill { bytes: 900 * 1024, sized: true }));
    for number in 1..=3 {
        pair.served("GET", &[], "").await;
        pair.counted("2xx", number).await;
    }
    assert_eq!(pair.new.state().accepted, 3, "each left its connection in the middle of the answer");
    let shadow = pair.weir.view(&format!("{CHAT}?window=10m")).await["shadow"].clone();
    assert_eq!((&shadow["requests"], &shadow["errors"]), (&json!(3), &json!(0)), "how soon it answers is known");
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_killed_rollout_mirrors_nothing_and_a_forced_request_is_not_copied() {
    let pair = Pair::start(|config| mirrored(config, "").top("[force]\ntrusted = [\"127.0.0.1\"]")).await;
    pair.served("GET", &[("x-weir-force", "chat=stable")], "").await;
    pair.weir.command(&format!("{CHAT}/kill"), json!({})).await;
    pair.served("GET", &[], "").await;
    pair.weir.command(&format!("{CHAT}/revive"), json!({})).await;
    pair.served("GET", &[], "").await;
    let metrics = pair.counted("2xx", 1).await;
    assert_eq!((metrics.count(COPIES, &[]), pair.new.count()), (1, 1));
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_drain_cancels_copies_and_waits_for_requests_alone() {
    let own = Gate::closed();
    let held = own.clone();
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = mirrored(Config::split(&legacy, &new), "").to_string();
    let weir = Weir::start(&config.replacen("drain_timeout = \"5s\"", "drain_timeout = \"10m\"", 1)).await;
    let mut pair = Pair { legacy, new, weir };
    let paused = move || Content::Paused { first: "half".into(), gate: held.clone(), last: "half".into() };
    pair.legacy.script(move |_| Reply::body(paused()));
    pair.new.script(|_| trickle());
    let address = pair.weir.address;
    let request = tokio::spawn(async move { Client::http1(address).await.get("/", UNIT).await });
    pair.new.until("the copy", |state| state.requests.len() == 1).await;
    pair.legacy.until("the request", |state| state.requests.len() == 1).await;
    let stopped = pair.weir.begin_stop();
    pair.new.until("the end of the copy", |state| state.open == 0).await;
    own.open();
    assert_eq!(soon("the answer", request).await.expect("no panic").status, 200);
    soon("the end", stopped).await.expect("no panic");
}

/// A plan whose first stage only mirrors.
const PLAN: &str = "
[[rollouts.chat.stages]]
name = \"shadow\"
weight = \"0%\"
shadow = \"100%\"
gates = [{ when = \"shadow.error_rate <= 0%\", min_requests = 20 }, { when = \"shadow.p95 < 600s\", min_requests = 20 }]

[[rollouts.chat.stages]]
name = \"live\"
weight = \"100%\"
";

async fn planned(legacy: &Origin, new: &Origin) -> Weir {
    let shadow = "shadow = { share = \"0%\", timeout = \"10m\" }";
    Weir::start(&Config::split(legacy, new).patient().weight("100%").rollout(shadow).tables(PLAN)).await
}

async fn gates(weir: &Weir) -> (Value, Vec<String>) {
    let chat = weir.view(CHAT).await;
    let words = chat["gates"].as_array().into_iter().flatten();
    (chat["stage"]["name"].clone(), words.filter_map(|gate| gate["verdict"].as_str()).map(str::to_owned).collect())
}

#[tokio::test]
async fn a_stage_that_mirrors_passes_by_what_its_copies_say() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = planned(&legacy, &new).await;
    let mut client = Client::http1(weir.address).await;
    eventually("the stage", async || (gates(&weir).await.0 == "shadow").then_some(())).await;
    // The last of them may find the next stage.
    for _ in 0..20 {
        client.get("/", UNIT).await;
    }
    eventually("the next stage", async || (gates(&weir).await.0 == "live").then_some(())).await;
    let before = weir.metrics().await.count(COPIES, &[]);
    assert!(before >= 20);
    assert_eq!(client.origin_of("u").await, "new");
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count(COPIES, &[]), before, "the next stage mirrors nothing");
    assert_eq!(metrics.count("weir_shadow_request_duration_seconds_count", &[("rollout", "chat")]), before);
    weir.stop().await;
}

#[tokio::test]
async fn a_stage_that_mirrors_to_a_sick_canary_stays_and_says_why_also_after_a_restart() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = planned(&legacy, &new).await;
    let mut client = Client::http1(weir.address).await;
    eventually("the stage", async || (gates(&weir).await.0 == "shadow").then_some(())).await;
    assert_eq!(gates(&weir).await.1, ["wait", "wait"], "no copies, no verdict");
    new.script(|_| Reply::Answer(Answer { status: 503, ..Answer::default() }));
    for _ in 0..20 {
        assert_eq!(client.get("/", UNIT).await.origin(), "legacy");
    }
    counted(&weir, "status_5xx", 20).await;
    let failed = ["fail".to_owned(), "pass".to_owned()];
    eventually("the verdict", async || (gates(&weir).await == (json!("shadow"), failed.to_vec())).then_some(())).await;
    let weir = weir.restart().await;
    eventually("the verdict", async || (gates(&weir).await == (json!("shadow"), failed.to_vec())).then_some(())).await;
    let shadow = weir.view(&format!("{CHAT}?window=10m")).await["shadow"].clone();
    assert_eq!((&shadow["requests"], &shadow["errors"]), (&json!(20), &json!(20)), "what was counted is not lost");
    weir.stop().await;
}
