//! Health of endpoints: active checks over every protocol, what passes and what does not, what reloads leave alone, and
//! endpoints that are passed over because requests to them fail.

use crate::harness::metrics::Metrics;
use crate::harness::piped::sized;
use crate::harness::reply::{Answer, Content};
use crate::harness::tls::Certificate;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Gate, Origin, Reply, Step, Weir};
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const UNIT: &[(&str, &str)] = &[("x-user-id", "u")];
const PATH: &str = "/healthz";

/// Both upstreams lead to these endpoints; everything goes to stable.
fn config(endpoints: &[&Origin], health: &str) -> Config {
    let addresses: Vec<String> = endpoints.iter().map(|origin| origin.address.to_string()).collect();
    let endpoints = addresses.join("\", \"");
    Config::to(&endpoints, &endpoints).workers(1).weight("0%").upstreams(health)
}

/// Checks of a path, often, with these further keys.
fn often(more: &str) -> String {
    format!("health = {{ path = \"{PATH}\", interval = \"20ms\", {more} }}")
}

/// The switch of an origin that is well apart from what it says of its health.
fn switched(origin: &Origin) -> Arc<AtomicBool> {
    let well = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&well);
    origin.script(move |seen| match (seen.target.as_str(), switch.load(Ordering::Relaxed)) {
        (PATH, false) => Reply::status(503),
        _ => Reply::Hello,
    });
    well
}

/// What `/api/v1/upstreams` says of the endpoint of `legacy`.
async fn endpoint(weir: &Weir, origin: &Origin) -> Value {
    let view = weir.view("/api/v1/upstreams").await;
    let legacy = view["upstreams"].as_array().expect("a list").iter().find(|it| it["name"] == "legacy").cloned();
    let endpoints = legacy.expect("it is configured")["endpoints"].as_array().expect("a list").clone();
    let address = origin.address.to_string();
    endpoints.into_iter().find(|it| it["address"] == *address).expect("it is an endpoint")
}

async fn until_healthy(weir: &Weir, origin: &Origin, healthy: bool) -> Value {
    eventually(&format!("healthy: {healthy}"), || async {
        // The flag is a moment ahead of its reason.
        let is = |view: &Value| view["healthy"] == healthy && view["last_error"].is_null() == healthy;
        Some(endpoint(weir, origin).await).filter(is)
    })
    .await
}

/// Requests that were no health checks.
fn served(origin: &Origin) -> usize {
    origin.state().requests.iter().filter(|seen| seen.target != PATH).count()
}

/// Waits for so many more checks to arrive.
async fn checks(origin: &Origin, count: usize) {
    let made = |state: &crate::harness::origin::State| state.requests.iter().filter(|seen| seen.target == PATH).count();
    let before = made(&origin.state());
    origin.until("further checks", |state| made(state) >= before + count).await;
}

fn healthy(origin: &Origin, value: f64) -> impl Fn(&Metrics) -> bool {
    let address = origin.address.to_string();
    move |metrics| metrics.sum("weir_upstream_healthy", &[("upstream", "legacy"), ("endpoint", &address)]) == value
}

#[tokio::test]
async fn an_endpoint_that_fails_its_checks_gets_no_requests_until_it_passes_them_again() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    let well = switched(&one);
    let weir = Weir::start(&config(&[&one, &other], &often("unhealthy_after = 2, healthy_after = 2"))).await;
    let mut client = Client::http1(weir.address).await;
    for _ in 0..10 {
        assert_eq!(client.get("/", UNIT).await.status, 200);
    }
    assert_eq!((served(&one), served(&other)), (5, 5), "healthy from the start");

    well.store(false, Ordering::Relaxed);
    weir.metrics_until("an unhealthy endpoint", healthy(&one, 0.0)).await;
    let view = endpoint(&weir, &one).await;
    assert_eq!((&view["healthy"], &view["last_error"]), (&json!(false), &json!("status 503")));
    assert!(view["since"].is_string(), "{view}");
    for _ in 0..20 {
        assert_eq!(client.get("/", UNIT).await.origin(), "other");
    }
    assert_eq!(served(&one), 5);

    well.store(true, Ordering::Relaxed);
    let metrics = weir.metrics_until("a healthy endpoint", healthy(&one, 1.0)).await;
    assert!(healthy(&other, 1.0)(&metrics));
    let view = endpoint(&weir, &one).await;
    assert_eq!((&view["healthy"], &view["last_error"]), (&json!(true), &Value::Null));
    for _ in 0..10 {
        assert_eq!(client.get("/", UNIT).await.status, 200);
    }
    assert_eq!(served(&one), 10);

    let ended = |metrics: &Metrics| metrics.count("weir_requests_total", &[]) >= 40;
    let metrics = weir.metrics_until("all ends", ended).await;
    assert_eq!(metrics.count("weir_requests_total", &[]), 40, "checks are nobody's requests");
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    assert_eq!(metrics.count("weir_upstream_ejections_total", &[]), 0);
    weir.stop().await;
}

#[tokio::test]
async fn a_check_says_who_it_is_and_names_the_endpoint_as_configured() {
    for lines in ["", "protocol = \"h2\""] {
        let origin = Origin::start("legacy").await;
        let health = format!("{}\n{lines}", often("timeout = \"5s\"").replace(PATH, "/health/deep?why=weir"));
        let weir = Weir::start(&config(&[&origin], &health)).await;
        let state = origin.until("a check", |state| !state.requests.is_empty()).await;
        let seen = state.requests.first().expect("it has arrived");
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/health/deep?why=weir"));
        assert_eq!(seen.field("user-agent"), Some("weir-health"));
        let host = if lines.is_empty() { "host" } else { ":authority" };
        assert_eq!(seen.field(host), Some(origin.address.to_string().as_str()), "{lines}");
        assert!(seen.fields.iter().all(|(name, _)| !name.starts_with("x-")), "{:?}", seen.fields);
        weir.stop().await;
    }
}

#[tokio::test]
async fn stable_without_a_healthy_endpoint_answers_503_at_once_and_sends_nothing() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    let (well, too) = (switched(&one), switched(&other));
    let weir = Weir::start(&config(&[&one, &other], &often("unhealthy_after = 1, healthy_after = 1"))).await;
    let mut client = Client::http2(weir.address).await;
    well.store(false, Ordering::Relaxed);
    too.store(false, Ordering::Relaxed);
    until_healthy(&weir, &one, false).await;
    until_healthy(&weir, &other, false).await;
    for method in ["GET", "POST"] {
        let got = client.call(method, "/", UNIT, sized("")).await;
        assert_eq!(got.status, 503);
        assert!(got.body.starts_with(b"no_endpoint"), "{:?}", got.body);
    }
    assert_eq!(served(&one) + served(&other), 0);
    too.store(true, Ordering::Relaxed);
    until_healthy(&weir, &other, true).await;
    assert_eq!(client.get("/", UNIT).await.origin(), "other");
    weir.stop().await;
}

#[tokio::test]
async fn a_canary_without_a_healthy_endpoint_costs_its_users_nothing_whatever_they_ask_for() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let well = switched(&new);
    let health = often("unhealthy_after = 1, healthy_after = 1");
    let config = Config::split(&legacy, &new).workers(1).weight("100%").upstreams(&health);
    let weir = Weir::start(&config.rollout("expose_arm = true")).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", UNIT).await.origin(), "new");
    let sick = |metrics: &Metrics| metrics.sum("weir_upstream_healthy", &[("upstream", "new")]) == 0.0;

    well.store(false, Ordering::Relaxed);
    weir.metrics_until("an unhealthy canary", sick).await;
    for number in 0..40 {
        let (method, body) = if number % 2 == 0 { ("GET", "") } else { ("POST", "some body") };
        let got = client.call(method, "/", UNIT, sized(body)).await;
        assert_eq!((got.status, got.origin()), (200, "legacy"), "{method}");
        assert_eq!(got.field("x-weir-arm"), Some("chat=stable"));
    }
    let seen = legacy.state().requests.into_iter().rfind(|seen| seen.target != PATH).expect("a request");
    assert!(seen.field("x-weir-rollout").is_some_and(|value| value.contains("reason=breaker")), "{:?}", seen.fields);
    let ended = |metrics: &Metrics| metrics.count("weir_requests_total", &[]) == 41;
    let metrics = weir.metrics_until("all ends", ended).await;
    assert_eq!(metrics.count("weir_requests_total", &[("arm", "canary")]), 1, "it is not the canary's failure");
    assert_eq!(metrics.count("weir_request_errors_total", &[]), 0);
    assert_eq!(metrics.count("weir_decisions_total", &[("reason", "breaker")]), 40);
    assert_eq!(served(&new), 1);

    well.store(true, Ordering::Relaxed);
    weir.metrics_until("a healthy canary", |metrics| !sick(metrics)).await;
    eventually("the canary's share", async || (client.origin_of("u").await == "new").then_some(())).await;
    weir.stop().await;
}

#[tokio::test]
async fn a_canary_whose_name_has_no_address_is_left_to_stable() {
    let legacy = Origin::start("legacy").await;
    let weir = Weir::start(&Config::to(&legacy.address.to_string(), "nothing.invalid:80").weight("100%")).await;
    let mut client = Client::http1(weir.address).await;
    for method in ["GET", "POST"] {
        assert_eq!(client.call(method, "/", UNIT, sized("")).await.origin(), "legacy", "{method}");
    }
    weir.stop().await;
}

type Script = Box<dyn Fn() -> Reply + Send + Sync>;

/// What an endpoint may say to a check, and what `last_error` begins with; none if it passes.
fn answers(never: &Gate) -> Vec<(&'static str, Script, Option<&'static str>)> {
    let (held, stalled) = (never.clone(), never.clone());
    let paused = move || Content::Paused {
        first: Bytes::from_static(b"o"),
        gate: stalled.clone(),
        last: Bytes::from_static(b"k"),
    };
    let huge_head = || [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 1 << 20]].concat();
    let trickled = || Step::Trickle(b"HTTP/1.1 200 OK\r\nlong: long\r\n".repeat(40), Duration::from_millis(10));
    vec![
        ("no content", Box::new(|| Reply::status(204)), None),
        ("a redirect", Box::new(|| Reply::status(301)), Some("status 301")),
        ("not found", Box::new(|| Reply::status(404)), Some("status 404")),
        ("another protocol", Box::new(|| Reply::bytes(*b"SSH-2.0-OpenSSH_9.7\r\n")), Some("no proper answer")),
        ("no word", Box::new(|| Reply::Raw(vec![Step::Close])), Some("no proper answer")),
        ("a reset", Box::new(|| Reply::Raw(vec![Step::Reset])), Some("no proper answer")),
        ("silence", Box::new(move || Reply::held(&held)), Some("no answer within 250ms")),
        ("a head that drips", Box::new(move || Reply::Raw(vec![trickled()])), Some("no answer within 250ms")),
        ("a head without end", Box::new(move || Reply::bytes(huge_head())), Some("no proper answer")),
        ("a cut body", Box::new(|| Reply::body(Content::Cut(Bytes::from_static(b"o")))), Some("no proper answer")),
        ("a body that stalls", Box::new(move || Reply::body(paused())), Some("no answer within 250ms")),
        ("a huge body", Box::new(|| Reply::body(Content::Fill { bytes: 1 << 30, sized: true })), None),
        ("a body without end", Box::new(|| Reply::body(Content::Fill { bytes: 1 << 40, sized: false })), None),
    ]
}

#[tokio::test]
async fn whatever_an_endpoint_says_a_check_ends_and_only_a_whole_2xx_passes() {
    let origin = Origin::start("legacy").await;
    let health = often("timeout = \"250ms\", unhealthy_after = 1, healthy_after = 1");
    let weir = Weir::start(&config(&[&origin], &health)).await;
    let never = Gate::closed();
    for (what, reply, error) in answers(&never) {
        origin.script(|_| Reply::Hello);
        until_healthy(&weir, &origin, true).await;
        let before = origin.filled();
        origin.script(move |_| reply());
        let Some(error) = error else {
            checks(&origin, 4).await;
            let view = endpoint(&weir, &origin).await;
            assert_eq!((&view["healthy"], &view["last_error"]), (&json!(true), &Value::Null), "{what}");
            assert!(origin.filled() - before < 256 << 20, "{what}: {} bytes were taken", origin.filled() - before);
            continue;
        };
        let view = until_healthy(&weir, &origin, false).await;
        assert!(view["last_error"].as_str().is_some_and(|text| text.starts_with(error)), "{what}: {view}");
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_single_failed_check_is_no_verdict() {
    let origin = Origin::start("legacy").await;
    let failing = AtomicBool::new(false);
    // Every other check fails.
    origin.script(move |_| if failing.fetch_not(Ordering::Relaxed) { Reply::status(500) } else { Reply::Hello });
    // The other upstream has an endpoint of its own, whose checks do not come in between.
    let other = Origin::start("new").await;
    let weir = Weir::start(&Config::split(&origin, &other).upstreams(&often("unhealthy_after = 2"))).await;
    checks(&origin, 10).await;
    let view = endpoint(&weir, &origin).await;
    assert_eq!((&view["healthy"], &view["since"]), (&json!(true), &Value::Null), "it never turned");
    weir.stop().await;
}

#[tokio::test]
async fn checks_go_over_tls_as_the_requests_do() {
    let certificate = Certificate::new();
    for (http2, protocols) in [(false, &["http/1.1"]), (true, &["h2"])] {
        let origin = Origin::start_tls("legacy", certificate.server(protocols)).await;
        let well = switched(&origin);
        let folder = folder();
        certificate.write(folder.path());
        let address = format!("https://{}", origin.address);
        let lines = if http2 { "protocol = \"h2\"\n" } else { "" };
        let health = often("timeout = \"5s\", unhealthy_after = 1, healthy_after = 1");
        let config = Config::to(&address, &address)
            .workers(1)
            .weight("0%")
            .upstreams(&format!("tls = {{ ca = \"cert.pem\" }}\n{lines}{health}"));
        let weir = Weir::start_in(folder, &config).await;
        checks(&origin, 2).await;
        assert_eq!(endpoint(&weir, &origin).await["healthy"], true, "h2: {http2}");
        well.store(false, Ordering::Relaxed);
        assert_eq!(until_healthy(&weir, &origin, false).await["last_error"], "status 503", "h2: {http2}");
        well.store(true, Ordering::Relaxed);
        until_healthy(&weir, &origin, true).await;
        weir.stop().await;
    }
}

#[tokio::test]
async fn an_endpoint_with_a_strangers_certificate_is_unhealthy_also_by_its_connection_alone() {
    let (ours, strangers) = (Certificate::new(), Certificate::new());
    let origin = Origin::start_tls("legacy", strangers.server(&["http/1.1"])).await;
    let folder = folder();
    ours.write(folder.path());
    let address = format!("https://{}", origin.address);
    let health = "health = { tcp = true, interval = \"20ms\", unhealthy_after = 1 }";
    let config = Config::to(&address, &address).upstreams(&format!("tls = {{ ca = \"cert.pem\" }}\n{health}"));
    let weir = Weir::start_in(folder, &config).await;
    let view = until_healthy(&weir, &origin, false).await;
    assert!(view["last_error"].as_str().is_some_and(|text| text.starts_with("tls: ")), "{view}");
    weir.stop().await;
}

#[tokio::test]
async fn a_connection_is_enough_where_nothing_else_is_asked() {
    let origin = Origin::start("legacy").await;
    // Nobody listens on the port that this one had.
    let gone = Origin::start("gone").await.address;
    let endpoints = format!("{}\", \"{gone}", origin.address);
    let health = "health = { tcp = true, interval = \"20ms\", timeout = \"5s\" }";
    let weir = Weir::start(&Config::to(&endpoints, &endpoints).upstreams(health)).await;
    origin.until("further checks", |state| state.accepted >= 5).await;
    let gone = eventually("an unhealthy endpoint", || async {
        let view = weir.view("/api/v1/upstreams").await["upstreams"][0]["endpoints"][1].clone();
        (view["healthy"] == false).then_some(view)
    })
    .await;
    assert!(gone["last_error"].as_str().is_some_and(|text| text.starts_with("connect: ")), "{gone}");
    assert_eq!(endpoint(&weir, &origin).await["healthy"], true);
    assert_eq!(origin.count(), 0, "nothing was asked");
    weir.stop().await;
}

#[tokio::test]
async fn a_reload_keeps_what_was_found_and_takes_new_rules_at_once() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    let well = switched(&one);
    let of = |endpoints: &[&Origin], more: &str| config(endpoints, &often(more));
    let weir = Weir::start(&of(&[&one], "unhealthy_after = 1, healthy_after = 1000")).await;
    let reload = async |config: Config| {
        weir.write_config(&config);
        let answer = weir.reload().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    well.store(false, Ordering::Relaxed);
    until_healthy(&weir, &one, false).await;
    well.store(true, Ordering::Relaxed);

    // It passes its checks from here on, and stays unhealthy because it takes a thousand of them.
    reload(of(&[&one], "unhealthy_after = 1, healthy_after = 1000").weight("1%")).await;
    reload(of(&[&one, &other], "unhealthy_after = 2, healthy_after = 1000")).await;
    checks(&one, 3).await;
    assert_eq!(endpoint(&weir, &one).await["healthy"], false, "its state is kept");
    assert_eq!(endpoint(&weir, &other).await["healthy"], true, "a new one begins healthy");
    checks(&other, 3).await;

    // Another path and fewer checks to pass, at an interval that would take for ever.
    let slow = of(&[&one, &other], "healthy_after = 1").upstreams.replace("20ms", "1h");
    let plain = Config::to(&one.address.to_string(), &one.address.to_string()).workers(1).weight("0%");
    reload(plain.clone().upstreams(&slow)).await;
    assert_eq!(endpoint(&weir, &one).await["healthy"], false);
    reload(of(&[&one], "healthy_after = 1")).await;
    until_healthy(&weir, &one, true).await;

    // Without checks there is nobody to say that it is not healthy.
    well.store(false, Ordering::Relaxed);
    until_healthy(&weir, &one, false).await;
    reload(plain).await;
    until_healthy(&weir, &one, true).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", UNIT).await.status, 200);
    weir.stop().await;
}

#[tokio::test]
async fn a_name_without_an_address_is_not_healthy() {
    let origin = Origin::start("new").await;
    let config = Config::to("nothing.invalid:80", &origin.address.to_string()).weight("0%");
    let weir = Weir::start(&config).await;
    let legacy = weir.view("/api/v1/upstreams").await["upstreams"][0].clone();
    assert_eq!((&legacy["healthy"], &legacy["checked"]), (&json!(false), &json!(false)));
    assert_eq!(legacy["endpoints"][0]["address"], Value::Null);
    let metrics = weir.metrics().await;
    assert!(metrics.has("weir_upstream_healthy", &[("endpoint", "nothing.invalid:80")]));
    assert_eq!(metrics.sum("weir_upstream_healthy", &[("upstream", "legacy")]), 0.0);
    assert!(metrics.has("weir_upstream_healthy", &[("upstream", "new")]), "one that is not checked is healthy");
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/", UNIT).await.status, 503);
    weir.stop().await;
}

/// Resets every request.
fn reset(origin: &Origin) {
    origin.script(|_| Reply::Raw(vec![Step::Reset]));
}

#[tokio::test]
async fn an_endpoint_that_fails_five_requests_in_a_row_is_passed_over() {
    for (fault, reply) in [
        ("reset", Reply::Raw as fn(Vec<Step>) -> Reply),
        ("garbage", |_| Reply::bytes(*b"SSH-2.0-OpenSSH_9.7\r\n")),
        ("cut", |_| Reply::body(Content::Cut(Bytes::from_static(b"some")))),
    ] {
        let (bad, good) = (Origin::start("bad").await, Origin::start("good").await);
        bad.script(move |_| reply(vec![Step::Reset]));
        let weir = Weir::start(&config(&[&bad, &good], "")).await;
        let mut failed = 0;
        for _ in 0..60 {
            // A cut answer takes the connection with it.
            let mut client = Client::http1(weir.address).await;
            let request = client.request("POST", "/", UNIT, sized("some body"));
            let answer = client.send(request).await;
            let whole = match answer {
                Ok(answer) => crate::harness::client::read(answer).await,
                Err(error) => Err(error),
            };
            failed += u32::from(!whole.is_ok_and(|got| got.status == 200));
        }
        // Only a machine on which this takes longer than the ejection lasts sees one failure more for each of them.
        assert!((5..=8).contains(&failed), "{fault}: {failed} of 60 failed");
        let metrics = weir.metrics_until("an end", |metrics| metrics.count("weir_requests_total", &[]) == 60).await;
        let ejections = metrics.count("weir_upstream_ejections_total", &[("upstream", "legacy")]);
        assert_eq!(ejections, u64::from(failed) - 4, "{fault}");
        assert_eq!(metrics.count("weir_request_errors_total", &[("arm", "stable")]), u64::from(failed));
        weir.stop().await;
    }
}

#[tokio::test]
async fn the_only_endpoint_and_the_last_good_half_are_never_passed_over() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    for endpoints in [&[&one][..], &[&one, &other][..]] {
        for origin in endpoints {
            reset(origin);
        }
        let weir = Weir::start(&config(endpoints, "")).await;
        let mut client = Client::http1(weir.address).await;
        for _ in 0..40 {
            assert_eq!(client.call("POST", "/", UNIT, sized("some body")).await.status, 502);
        }
        let ejections = weir.metrics().await.count("weir_upstream_ejections_total", &[]);
        assert!(ejections < endpoints.len() as u64, "{ejections} of {}", endpoints.len());
        for origin in endpoints {
            origin.script(|_| Reply::Hello);
        }
        assert_eq!(client.get("/", UNIT).await.status, 200);
        weir.stop().await;
    }
}

#[tokio::test]
async fn answers_with_bad_statuses_and_clients_that_leave_eject_nobody() {
    let (one, other) = (Origin::start("one").await, Origin::start("other").await);
    let never = Gate::closed();
    for origin in [&one, &other] {
        let held = never.clone();
        origin.script(move |seen| match seen.target.as_str() {
            "/held" => Reply::Answer(Answer { send_after: Some(held.clone()), ..Answer::default() }),
            _ => Reply::status(500),
        });
    }
    let weir = Weir::start(&config(&[&one, &other], "")).await;
    let mut client = Client::http1(weir.address).await;
    for _ in 0..30 {
        assert_eq!(client.get("/", UNIT).await.status, 500);
    }
    for number in 0..20 {
        let mut leaver = Client::http2(weir.address).await;
        let request = leaver.request("GET", "/held", UNIT, sized(""));
        let waiting = tokio::spawn(leaver.begin(request));
        let held =
            |state: &crate::harness::origin::State| state.requests.iter().filter(|seen| seen.target == "/held").count();
        eventually("the request", || async { (held(&one.state()) + held(&other.state()) > number).then_some(()) })
            .await;
        waiting.abort();
    }
    let left = |metrics: &Metrics| metrics.count("weir_client_left_total", &[]) == 20;
    let metrics = weir.metrics_until("all have left", left).await;
    assert_eq!(metrics.count("weir_upstream_ejections_total", &[]), 0);
    weir.stop().await;
}
