//! Stable answers what the canary failed, where that is provably safe; nothing is done twice that must be done once, and
//! the canary's numbers are the same as without.

use crate::harness::client::{Got, read};
use crate::harness::frames::{Act, Frames, INTERNAL, REFUSED};
use crate::harness::metrics::Metrics;
use crate::harness::origin::{Ending, Seen};
use crate::harness::piped::{piped, sized};
use crate::harness::raw::request;
use crate::harness::reply::{Content, pattern, pattern_checksum};
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Answer, Client, Config, Gate, Origin, RawClient, Reply, Step, Weir, soon};
use crate::upstreams::Refusing;
use bytes::Bytes;
use std::sync::Arc;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
/// The largest body that is sent a second time.
const COPY_BYTES_MAX: u64 = 64 * 1024;

/// A config whose canary gets everything and keeps it however it fails.
fn tried(config: Config, http2_up: bool, fallback: &str) -> Config {
    let breaker = format!("breaker = {{ {fallback}, consecutive_errors = 0, error_rate = false }}");
    config.weight("100%").workers(1).upstreams(if http2_up { "protocol = \"h2\"" } else { "" }).rollout(&breaker)
}

fn safe(config: Config, http2_up: bool) -> Config {
    tried(config, http2_up, "fallback = \"safe\"")
}

/// Weir between two origins.
struct Pair {
    legacy: Origin,
    new: Origin,
    weir: Weir,
}

impl Pair {
    async fn start(config: impl FnOnce(Config) -> Config) -> Pair {
        let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
        let weir = Weir::start(&config(Config::split(&legacy, &new))).await;
        Pair { legacy, new, weir }
    }

    /// One request on a connection of its own.
    async fn call(&self, method: &str, fields: &[(&str, &str)], body: impl Into<Bytes>) -> Got {
        let fields: Vec<_> = UNIT.iter().chain(fields).copied().collect();
        Client::http1(self.weir.address).await.call(method, "/", &fields, sized(body)).await
    }

    /// The request was passed on as the canary failed it, and reached it once and stable never.
    async fn passes(&self, method: &str, fields: &[(&str, &str)], body: &'static str, status: u16) {
        let before = (self.legacy.count(), self.new.count());
        let got = self.call(method, fields, body).await;
        assert_eq!(got.status, status, "{method}");
        assert_eq!((self.legacy.count(), self.new.count()), (before.0, before.1 + 1), "{method}");
    }

    /// Stable answered, with the whole request before it.
    async fn made_good(&self, method: &str, fields: &[(&str, &str)], body: &'static str) {
        let before = (self.legacy.count(), self.new.count());
        let got = self.call(method, fields, body).await;
        assert_eq!(got.status, 200, "{method}");
        assert_eq!((self.legacy.count(), self.new.count()), (before.0 + 1, before.1 + 1), "{method}");
        assert_whole(&self.legacy.last(), method, body);
    }
}

fn assert_whole(seen: &Seen, method: &str, body: &str) {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(body.as_bytes());
    assert_eq!((seen.method.as_str(), seen.body_bytes, seen.complete), (method, body.len() as u64, true));
    assert_eq!(seen.body_checksum, hasher.finalize(), "{method}: another body");
}

/// The canary's failures by kind and what came of them; stable's own numbers show nothing of it.
async fn counted(weir: &Weir, kinds: &[(&str, u64)], outcomes: &[(&str, u64)]) -> Metrics {
    let canary = ("arm", "canary");
    let total: u64 = kinds.iter().map(|(_, count)| count).sum();
    let all = |metrics: &Metrics| metrics.count("weir_requests_total", &[canary, ("code", "5xx")]) == total;
    let metrics = weir.metrics_until("the canary's failures", all).await;
    for (kind, count) in kinds {
        assert_eq!(metrics.count("weir_request_errors_total", &[canary, ("kind", kind)]), *count, "{kind}");
    }
    assert_eq!(metrics.count("weir_request_errors_total", &[canary]), total);
    for outcome in ["answered", "failed", "budget", "unsafe", "too_large"] {
        let wanted = outcomes.iter().find(|(name, _)| *name == outcome).map_or(0, |(_, count)| *count);
        let labels = [("rollout", "chat"), ("outcome", outcome)];
        assert!(metrics.has("weir_fallbacks_total", &labels));
        assert_eq!(metrics.count("weir_fallbacks_total", &labels), wanted, "{outcome}");
    }
    assert_eq!(metrics.count("weir_requests_total", &[("arm", "stable")]), 0, "stable counts what it stood in for");
    assert_eq!(metrics.count("weir_requests_in_flight", &[]), 0);
    assert_eq!(metrics.count("weir_client_left_total", &[]), 0);
    metrics
}

#[tokio::test]
async fn a_safe_request_that_the_canary_fails_before_its_head_is_answered_by_stable() {
    let pair = Pair::start(|config| safe(config, false).upstreams("response_timeout = \"1s\"")).await;
    let never = Gate::closed();
    let held = never.clone();
    pair.new.script(move |seen| match seen.field("x-fail").unwrap_or_default() {
        "close" => Reply::Raw(vec![Step::Close]),
        "reset" => Reply::Raw(vec![Step::Reset]),
        "half a head" => Reply::bytes(&b"HTTP/1.1 200 OK\r\ncontent-"[..]),
        "garbage" => Reply::bytes(&b"SSH-2.0-OpenSSH_9.2\r\n"[..]),
        "silence" => Reply::held(&held),
        status => Reply::status(status.parse().expect("a status")),
    });
    for (number, fail) in ["close", "reset", "half a head", "garbage", "silence", "500", "503"].into_iter().enumerate()
    {
        let method = ["GET", "OPTIONS"][number % 2];
        pair.made_good(method, &[("x-fail", fail)], "").await;
    }
    assert_eq!(pair.call("HEAD", &[("x-fail", "close")], "").await.origin(), "legacy");
    let kinds = [("reset", 4), ("protocol", 1), ("timeout", 1), ("status_5xx", 2)];
    counted(&pair.weir, &kinds, &[("answered", 8)]).await;
    pair.weir.stop().await;
}

#[tokio::test]
async fn over_http2_stable_stands_in_as_well() {
    let pair = Pair::start(|config| safe(config, true).upstreams("response_timeout = \"1s\"")).await;
    let never = Gate::closed();
    let held = never.clone();
    pair.new.script(move |seen| match seen.field("x-fail").unwrap_or_default() {
        "500" => Reply::status(500),
        _ => Reply::held(&held),
    });
    for http2 in [false, true] {
        let mut client = Client::to(pair.weir.address, http2).await;
        for fail in ["500", "silence"] {
            let got = client.get("/", &[UNIT[0], ("x-fail", fail)]).await;
            assert_eq!((got.status, got.origin()), (200, "legacy"), "{fail}");
        }
    }
    let address = pair.weir.address;
    let before = pair.new.count();
    let got = tokio::spawn(async move { Client::http1(address).await.get("/", UNIT).await });
    pair.new.until("the request", |state| state.requests.len() as u64 > before).await;
    pair.new.end_connections(Ending::Close);
    // The connection was pooled, so the canary is asked once more, on a new one, before stable is.
    assert_eq!(soon("an answer", got).await.expect("no panic").origin(), "legacy");
    never.open();
    pair.weir.stop().await;
}

#[tokio::test]
async fn what_was_never_sent_is_answered_by_stable_whatever_it_asks_for() {
    let legacy = Origin::start("legacy").await;
    let stranger = Origin::start_tls("stranger", Certificate::new().server(&["h2", "http/1.1"])).await;
    let refusing = Refusing::new();
    let unreached = [(refusing.0.to_string(), "connect"), (format!("https://{}", stranger.address), "tls")];
    for (canary, kind) in unreached {
        for http2_up in [false, true] {
            let weir = Weir::start(&safe(Config::to(&legacy.address.to_string(), &canary), http2_up)).await;
            let mut client = Client::to(weir.address, http2_up).await;
            for (method, body) in [("POST", "pay once"), ("PATCH", "x"), ("DELETE", ""), ("GET", "")] {
                assert_eq!(client.call(method, "/", UNIT, sized(body)).await.origin(), "legacy", "{kind} {method}");
                assert_whole(&legacy.last(), method, body);
            }
            let (feed, body) = piped();
            let mut client = Client::http2(weir.address).await;
            let request = client.request("POST", "/", UNIT, body);
            let answer = client.begin(request);
            assert!(feed.data("begun, ").await && feed.data("not known how long").await);
            drop(feed);
            let answer = read(soon("an answer", answer).await.expect("an answer")).await.expect("a whole answer");
            assert_eq!(answer.origin(), "legacy");
            assert_whole(&legacy.last(), "POST", "begun, not known how long");
            counted(&weir, &[(kind, 5)], &[("answered", 5)]).await;
            weir.stop().await;
        }
    }
    assert_eq!(stranger.count(), 0);
}

#[tokio::test]
async fn a_post_that_may_have_reached_the_canary_is_never_sent_to_stable() {
    for http2_up in [false, true] {
        let pair = Pair::start(|config| safe(config, http2_up).upstreams("response_timeout = \"1s\"")).await;
        let never = Gate::closed();
        let held = never.clone();
        pair.new.script(move |seen| match seen.field("x-fail").unwrap_or_default() {
            "close" => Reply::Raw(vec![Step::Close]),
            "reset" => Reply::Raw(vec![Step::Reset]),
            "silence" => Reply::held(&held),
            _ => Reply::status(500),
        });
        let mut posts = vec![("500", 500), ("silence", 504)];
        posts.extend((!http2_up).then_some([("close", 502), ("reset", 502)]).into_iter().flatten());
        let count = posts.len() as u64;
        for (fail, status) in posts {
            pair.passes("POST", &[("x-fail", fail), ("idempotency-key", "k")], "pay once", status).await;
        }
        assert_eq!(pair.legacy.count(), 0);
        let resets = count - 2;
        let kinds = [("status_5xx", 1), ("timeout", 1), ("reset", resets)];
        counted(&pair.weir, &kinds, &[("unsafe", count)]).await;
        never.open();
        pair.weir.stop().await;
    }
}

#[tokio::test]
async fn a_post_on_a_pooled_connection_that_dies_is_sent_to_nobody_else() {
    let pair = Pair::start(|config| safe(config, false)).await;
    let mut client = Client::http1(pair.weir.address).await;
    for round in 1..=10 {
        pair.new.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.origin(), "new");
        pair.new.script(move |_| Reply::Raw(vec![if round % 2 == 0 { Step::Reset } else { Step::Close }]));
        assert_eq!(client.call("POST", "/", UNIT, sized("pay")).await.status, 502);
        let posts = pair.new.state().requests.iter().filter(|seen| seen.method == "POST").count();
        assert_eq!((posts, pair.legacy.count()), (round, 0));
    }
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_refused_stream_and_a_connection_that_goes_away_prove_nothing_for_a_post() {
    for act in [Act::Reset(REFUSED), Act::Reset(INTERNAL), Act::GoAway, Act::Garbage] {
        let (legacy, new) = (Origin::start("legacy").await, Frames::start(act).await);
        let weir = Weir::start(&safe(Config::between(legacy.address, new.address), true)).await;
        let mut client = Client::http1(weir.address).await;
        assert_eq!(client.call("POST", "/", UNIT, sized("pay once")).await.status, 502, "{act:?}");
        assert_eq!((legacy.count(), new.state().heads), (0, 1), "{act:?}");
        assert_eq!(client.get("/", UNIT).await.origin(), "legacy", "{act:?}");
        weir.stop().await;
    }
}

#[tokio::test]
async fn put_and_delete_are_sent_again_only_where_the_config_says_idempotent() {
    for http2_up in [false, true] {
        for (fallback, again) in [("safe", false), ("idempotent", true)] {
            let fallback = format!("fallback = \"{fallback}\"");
            let pair = Pair::start(|config| tried(config, http2_up, &fallback)).await;
            pair.new.script(|_| Reply::status(500));
            for (method, body) in [("PUT", "the same twice"), ("DELETE", ""), ("PUT", "")] {
                if again {
                    pair.made_good(method, &[], body).await;
                } else {
                    pair.passes(method, &[], body, 500).await;
                }
            }
            pair.passes("POST", &[], "not the same twice", 500).await;
            pair.passes("PATCH", &[], "not the same twice", 500).await;
            let outcomes = if again { [("answered", 3), ("unsafe", 2)] } else { [("answered", 0), ("unsafe", 5)] };
            counted(&pair.weir, &[("status_5xx", 5)], &outcomes).await;
            pair.weir.stop().await;
        }
    }
}

#[tokio::test]
async fn an_idempotency_key_counts_only_where_the_config_vouches_for_it() {
    let pair = Pair::start(|config| tried(config, false, "fallback = \"safe\", idempotency_key = true")).await;
    pair.new.script(|_| Reply::Raw(vec![Step::Close]));
    pair.made_good("POST", &[("idempotency-key", "8e03978e")], "pay once").await;
    pair.passes("POST", &[("idempotency-key", "")], "pay once", 502).await;
    pair.passes("POST", &[], "pay once", 502).await;
    assert_eq!(pair.legacy.last().field("idempotency-key"), Some("8e03978e"));
    counted(&pair.weir, &[("reset", 3)], &[("answered", 1), ("unsafe", 2)]).await;
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_body_is_sent_again_up_to_the_limit_and_beyond_it_only_the_copy_is_given_up() {
    for http2_up in [false, true] {
        let pair = Pair::start(|config| tried(config, http2_up, "fallback = \"idempotent\"")).await;
        let fails = |seen: &Seen| if seen.field("x-fail").is_some() { Reply::status(500) } else { Reply::Hello };
        pair.new.script(fails);
        for (bytes, announced) in
            [(COPY_BYTES_MAX, true), (COPY_BYTES_MAX, false), (COPY_BYTES_MAX + 1, true), (COPY_BYTES_MAX + 1, false)]
        {
            let within = bytes <= COPY_BYTES_MAX;
            for fail in [true, false] {
                let mut client = Client::http2(pair.weir.address).await;
                let fields = [UNIT[0], if fail { ("x-fail", "1") } else { ("x-fine", "1") }];
                let data = pattern(0, bytes as usize);
                let answer = if announced {
                    let request = client.request("PUT", "/", &fields, sized(data));
                    client.begin(request)
                } else {
                    let (feed, body) = piped();
                    let request = client.request("PUT", "/", &fields, body);
                    let answer = client.begin(request);
                    assert!(feed.data(data.slice(..20_000)).await && feed.data(data.slice(20_000..)).await);
                    answer
                };
                let answer = read(soon("an answer", answer).await.expect("an answer")).await.expect("a whole answer");
                let origin = match (fail, within) {
                    (false, _) => Some(&pair.new),
                    (true, true) => Some(&pair.legacy),
                    (true, false) => None,
                };
                assert_eq!(answer.status, if origin.is_some() { 200 } else { 500 }, "{bytes} {announced} {http2_up}");
                let seen = origin.unwrap_or(&pair.new).last();
                assert_eq!(
                    (seen.body_bytes, seen.body_checksum, seen.complete),
                    (bytes, pattern_checksum(bytes), true)
                );
            }
        }
        counted(&pair.weir, &[("status_5xx", 4)], &[("answered", 2), ("too_large", 2)]).await;
        pair.weir.stop().await;
    }
}

#[tokio::test]
async fn a_body_that_is_still_on_its_way_when_the_canary_fails_reaches_stable_whole() {
    let legacy = Origin::start("legacy").await;
    let (plain, frames) = (Origin::start("new").await, Frames::start(Act::FailEarly).await);
    plain.script(|_| Reply::Raw(vec![Step::Write(b"HTTP/1.1 500 Early\r\ncontent-length: 0\r\n\r\n".to_vec())]));
    for http2_up in [false, true] {
        let new = if http2_up { frames.address } else { plain.address };
        let config = tried(Config::between(legacy.address, new), http2_up, "fallback = \"idempotent\"");
        let weir = Weir::start(&config).await;
        let (feed, body) = piped();
        let mut client = Client::http2(weir.address).await;
        let request = client.request("PUT", "/", UNIT, body);
        let before = legacy.count();
        let answer = tokio::spawn(client.begin(request));
        assert!(feed.data("the first part, ").await);
        legacy.until("the head", |state| state.requests.len() as u64 > before).await;
        assert!(feed.data("the second part, ").await && feed.data("the end").await);
        drop(feed);
        let answer = soon("an answer", answer).await.expect("no panic").expect("an answer");
        assert_eq!(read(answer).await.expect("a whole answer").origin(), "legacy");
        assert_whole(&legacy.last(), "PUT", "the first part, the second part, the end");
        counted(&weir, &[("status_5xx", 1)], &[("answered", 1)]).await;
        if http2_up {
            frames.until("the end of the first submission", |state| state.resets == 1).await;
        }
        weir.stop().await;
    }
}

#[tokio::test]
async fn beyond_the_budget_the_failure_is_passed_on_and_counted() {
    let pair = Pair::start(|config| safe(config, false)).await;
    pair.new.script(|_| Reply::status(500));
    let mut client = Client::http1(pair.weir.address).await;
    let mut answered = 0;
    while client.get("/", UNIT).await.status == 200 {
        answered += 1;
        assert!(answered < 10_000, "there is no budget");
    }
    assert!(answered >= 100, "only {answered} of the first hundred");
    counted(&pair.weir, &[("status_5xx", answered + 1)], &[("answered", answered), ("budget", 1)]).await;
    // A reload does not fill it up again.
    pair.weir.write_config(&safe(Config::split(&pair.legacy, &pair.new), false).rollout("expose_arm = true"));
    assert!(pair.weir.reload_at_once().await);
    let after = client.get("/", UNIT).await;
    assert!(answered > 100 || after.status == 500, "a reload has filled the budget");
    pair.weir.stop().await;
}

#[tokio::test]
async fn only_a_5xx_that_counts_as_an_error_is_replaced() {
    let pair =
        Pair::start(|config| safe(config, false).tables("[rollouts.chat.errors]\nstatuses = [\"404\", \"500\"]")).await;
    pair.new.script(|seen| Reply::status(seen.field("x-status").and_then(|status| status.parse().ok()).unwrap_or(200)));
    pair.passes("GET", &[("x-status", "404")], "", 404).await;
    pair.passes("GET", &[("x-status", "503")], "", 503).await;
    pair.made_good("GET", &[("x-status", "500")], "").await;
    pair.weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_cut_after_its_head_stays_cut() {
    let pair = Pair::start(|config| safe(config, false)).await;
    pair.new.script(|_| Reply::body(Content::Cut(Bytes::from_static(b"half"))));
    let mut client = RawClient::connect(pair.weir.address).await;
    client.send(request("GET", "/", UNIT, b"")).await;
    // The cut may be faster than the head.
    let answer = client.try_answer().await;
    assert!(answer.as_ref().is_none_or(|answer| answer.status == 200 && !answer.complete), "{answer:?}");
    assert_eq!(pair.legacy.count(), 0);
    let cut = |metrics: &Metrics| metrics.count("weir_request_errors_total", &[("kind", "truncated")]) == 1;
    let metrics = pair.weir.metrics_until("the cut", cut).await;
    assert_eq!(metrics.count("weir_fallbacks_total", &[]), 0);
    pair.weir.stop().await;
}

#[tokio::test]
async fn forced_requests_and_those_of_a_rollout_without_fallback_are_passed_on() {
    let forced = "[force]\ntrusted = [\"127.0.0.0/8\"]";
    let pair = Pair::start(|config| safe(config, false).tables(forced)).await;
    pair.new.script(|_| Reply::status(500));
    pair.passes("GET", &[("x-weir-force", "chat=canary")], "", 500).await;
    pair.made_good("GET", &[], "").await;
    pair.weir.stop().await;
    for off in ["fallback = \"off\"", "enabled = false"] {
        let pair = Pair::start(|config| tried(config, false, off)).await;
        pair.new.script(|_| Reply::status(500));
        pair.passes("GET", &[], "", 500).await;
        counted(&pair.weir, &[("status_5xx", 1)], &[]).await;
        pair.weir.stop().await;
    }
}

#[tokio::test]
async fn a_fixed_answer_never_stands_in() {
    let arms =
        |config: Config| config.arms("{ respond = { status = 200, body = \"fixed\" } }", "{ upstream = \"new\" }");
    let pair = Pair::start(|config| safe(arms(config), false)).await;
    pair.new.script(|_| Reply::status(500));
    pair.passes("GET", &[], "", 500).await;
    counted(&pair.weir, &[("status_5xx", 1)], &[]).await;
    pair.weir.stop().await;
}

#[tokio::test]
async fn where_stable_fails_as_well_the_client_gets_stables_failure() {
    let (legacy, refusing) = (Origin::start("legacy").await, Refusing::new());
    legacy.script(|_| Reply::status(503));
    let weir = Weir::start(&safe(Config::between(legacy.address, refusing.0), false)).await;
    let got = Client::http1(weir.address).await.get("/", UNIT).await;
    assert_eq!((got.status, &got.body[..]), (503, &b"status 503"[..]));
    counted(&weir, &[("connect", 1)], &[("failed", 1)]).await;
    weir.stop().await;
    let new = Origin::start("new").await;
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&safe(Config::between(refusing.0, new.address), false)).await;
    assert_eq!(Client::http1(weir.address).await.get("/", UNIT).await.status, 502);
    assert_eq!(new.count(), 1, "it was asked once more");
    counted(&weir, &[("status_5xx", 1)], &[("failed", 1)]).await;
    weir.stop().await;
}

#[tokio::test]
async fn stable_gets_its_own_headers_and_everybody_is_told_who_answered() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let arms = |config: Config| {
        config.arms(
            "{ upstream = \"legacy\", set_headers = { x-own = \"stable\" }, remove_headers = [\"x-debug\"] }",
            "{ upstream = \"new\", set_headers = { x-flag = \"on\" } }",
        )
    };
    let config = safe(arms(Config::split(&legacy, &new)), false)
        .rollout("expose_arm = true")
        .tables("[access_log]\nmode = \"full\"\npath = \"access.log\"");
    let folder = folder();
    let weir = Weir::start_in(Arc::clone(&folder), &config).await;
    let mut client = Client::http1(weir.address).await;
    let fields = [UNIT[0], ("x-debug", "1")];
    new.script(|seen| if seen.target == "/fail" { Reply::status(500) } else { Reply::Hello });
    assert_eq!(client.get("/fine", &fields).await.field("x-weir-arm"), Some("chat=canary"));
    assert_eq!(client.get("/fail", &fields).await.field("x-weir-arm"), Some("chat=stable"));
    let seen = legacy.last();
    assert_eq!(seen.all("x-weir-rollout"), ["chat=stable;reason=fallback"]);
    assert_eq!((seen.field("x-own"), seen.field("x-flag"), seen.field("x-debug")), (Some("stable"), None, None));
    let seen = new.last();
    assert_eq!(seen.all("x-weir-rollout"), ["chat=canary;reason=bucket"]);
    assert_eq!((seen.field("x-own"), seen.field("x-flag"), seen.field("x-debug")), (None, Some("on"), Some("1")));
    weir.stop().await;
    let log = std::fs::read_to_string(folder.path().join("access.log")).expect("a log");
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |line: &serde_json::Value| {
        ["path", "status", "upstream", "arm", "reason", "fallback", "error"].map(|key| line[key].to_string()).join(" ")
    };
    assert_eq!(of(&lines[0]), r#""/fine" 200 "new" "canary" "bucket" false null"#);
    assert_eq!(of(&lines[1]), r#""/fail" 200 "legacy" "canary" "bucket" true "status_5xx""#);
}

#[tokio::test]
async fn a_flag_on_one_upstream_falls_back_to_the_same_upstream_without_it() {
    let origin = Origin::start("service").await;
    let arms = Config::split(&origin, &origin).arms("{}", "{ set_headers = { x-flag = \"on\" } }");
    let route = "[[routes]]\nname = \"all\"\nupstream = \"legacy\"\nrollouts = [\"chat\"]";
    let weir = Weir::start(&safe(arms, false).tables(route)).await;
    origin.script(|seen| if seen.field("x-flag").is_some() { Reply::status(500) } else { Reply::Hello });
    assert_eq!(Client::http1(weir.address).await.get("/", UNIT).await.status, 200);
    assert_eq!(origin.count(), 2);
    counted(&weir, &[("status_5xx", 1)], &[("answered", 1)]).await;
    weir.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_no_reason_to_ask_stable() {
    let pair = Pair::start(|config| safe(config, false)).await;
    let never = Gate::closed();
    let held = never.clone();
    pair.new.script(move |_| Reply::held(&held));
    let mut client = RawClient::connect(pair.weir.address).await;
    client.send("GET / HTTP/1.1\r\nhost: x\r\nx-user-id: u\r\n\r\n").await;
    pair.new.until("the request", |state| state.requests.len() == 1).await;
    drop(client);
    let left = |metrics: &Metrics| metrics.count("weir_client_left_total", &[]) == 1;
    let metrics = pair.weir.metrics_until("the client's end", left).await;
    assert_eq!((pair.legacy.count(), metrics.count("weir_fallbacks_total", &[])), (0, 0));
    never.open();
    pair.weir.stop().await;
}

#[tokio::test]
async fn a_discarded_answer_leaks_no_connection() {
    for http2_up in [false, true] {
        let pair = Pair::start(|config| safe(config, http2_up).upstreams("max_connections = 2")).await;
        let body = Content::Fill { bytes: 10 << 20, sized: true };
        pair.new.script(move |_| {
            let Content::Fill { bytes, sized } = body else { return Reply::Hello };
            Reply::Answer(Answer { status: 500, body: Content::Fill { bytes, sized }, ..Answer::default() })
        });
        let mut client = Client::http1(pair.weir.address).await;
        for _ in 0..20 {
            assert_eq!(client.get("/", UNIT).await.origin(), "legacy");
        }
        pair.new.script(|_| Reply::Hello);
        assert_eq!(client.get("/", UNIT).await.origin(), "new", "the canary's connections are used up");
        let labels = [("upstream", "new"), ("state", "active")];
        pair.weir.metrics_until("idle", |metrics| metrics.count("weir_upstream_connections", &labels) == 0).await;
        eventually("no more connections than allowed", || async { (pair.new.state().open <= 2).then_some(()) }).await;
        pair.weir.stop().await;
    }
}
