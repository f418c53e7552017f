//! The API through its router, without sockets but with a real control plane behind it: what is let in, what is answered,
//! how refusals look.

use super::auth::Auth;
use super::{Feed, router};
use crate::clock::Clock;
use crate::config::{self, UserFiles};
use crate::control::{self, Handle, Start};
use crate::rollout::assign::Switches;
use crate::rollout::scale::TimeScale;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

mod page;
mod plan;
mod stream;

const SPLIT: &str = r#"
[[listeners]]
address = "127.0.0.1:8080"
[upstreams.legacy]
endpoints = ["127.0.0.1:9001"]
[upstreams.new]
endpoints = ["127.0.0.1:9002"]
[rollouts.chat]
unit = ["header:x-user-id"]
weight = "0%"
stable = { upstream = "legacy" }
canary = { upstream = "new" }
[rollouts.chat.cohorts.internal]
users = ["eng-1"]
[rollouts.chat.cohorts.beta]
header = "x-beta: 1"
cookie = "beta=1"
"#;

/// Of who may act, and of who may look.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const READ_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// A control plane on files of its own; the folder goes with it.
struct Site {
    handle: Handle,
    feed: Feed,
    _folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        Site::with("")
    }

    /// One that asks for tokens.
    fn guarded() -> Site {
        Site::with("[admin]\naddress = \"127.0.0.1:9900\"\ntoken_file = \"act\"\nread_token_file = \"look\"\n")
    }

    /// One whose config has these tables too.
    fn with(tables: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let config_path = folder.path().join("weir.toml");
        for (file, text) in [("weir.toml", &*format!("{SPLIT}{tables}")), ("act", TOKEN), ("look", READ_TOKEN)] {
            std::fs::write(folder.path().join(file), text).unwrap();
        }
        let mut users = UserFiles::default();
        let loaded = config::load(&config_path, &[], &mut users).unwrap();
        let (clock, environment) = (Clock::system(), Vec::new());
        let start = Start {
            config_path,
            environment,
            loaded,
            users,
            clock,
            workers: 1,
            signals: false,
            time_scale: TimeScale::default(),
            log_lost: std::sync::Arc::default(),
        };
        let (handle, _) = control::start(start).unwrap();
        Site { feed: Feed::start(handle.clone()), handle, _folder: folder }
    }

    async fn send(&self, auth: Auth, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "127.0.0.1:9900");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = router(self.handle.clone(), auth, self.feed.clone()).oneshot(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status, headers, text }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(open(), "GET", path, &[], "").await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send(open(), "POST", path, &[], body).await
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

fn open() -> Auth {
    Auth::tcp("127.0.0.1:9900".parse().unwrap(), None).unwrap()
}

#[tokio::test]
async fn explain_and_flags_ask_the_published_snapshot() {
    let site = Site::new();
    let explained = site.get("/api/v1/rollouts/chat/explain?unit=eng-1").await;
    let form = explained.json();
    assert_eq!((explained.status, &form["arm"], &form["reason"]), (200, &json!("canary"), &json!("cohort:internal")));
    assert_eq!(
        (&form["unit"], &form["weight_ppm"], &form["generation"]),
        (&json!("eng-1"), &json!(0), &json!(site.handle.published.generation()))
    );
    assert!(form["bucket_ppm"].is_u64());
    for query in ["unit=ann&header=X-Beta:1", "cookie=beta:1"] {
        let form = site.get(&format!("/api/v1/rollouts/chat/explain?{query}")).await.json();
        assert_eq!(form["reason"], json!("cohort:beta"), "{query}");
    }
    let flags = site.get("/flags?unit=ann").await.json();
    assert_eq!(flags, json!({"unit": "ann", "flags": {"chat": {"arm": "stable", "reason": "bucket"}}}));
}

#[tokio::test]
async fn explain_sees_a_kill_the_moment_the_latch_is_set() {
    let site = Site::new();
    site.handle.latches.of("chat").set(Switches::KILLED);
    let path = "/api/v1/rollouts/chat/explain?unit=eng-1";
    let form = site.send(open(), "GET", path, &[], "").await.json();
    assert_eq!((&form["arm"], &form["reason"], &form["killed"]), (&json!("stable"), &json!("kill"), &json!(true)));
}

#[tokio::test]
async fn refusals_are_json_with_the_field() {
    let site = Site::new();
    for (path, status, field) in [
        ("/api/v1/rollouts/chat/explain", 400, json!("unit")),
        ("/api/v1/rollouts/chat/explain?unit=", 400, json!("unit")),
        ("/api/v1/rollouts/chat/explain?unit=a&header=x", 400, json!("header")),
        ("/api/v1/rollouts/chta/explain?unit=a", 404, Value::Null),
        ("/api/v1/rollouts/chat?window=5", 400, json!("window")),
        ("/api/v1/rollouts?window=1h", 400, json!("window")),
        ("/api/v1/events?since=x", 400, json!("since")),
        ("/api/v1/rollouts/%ff/explain?unit=a", 400, Value::Null),
        ("/api/v2/rollouts", 404, Value::Null),
        ("/api/v1/reload", 405, Value::Null),
    ] {
        let answer = site.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers["content-type"], "application/json", "{path}");
        let form = answer.json();
        assert!(form["error"].is_string() && form["field"] == field, "{path}: {form}");
    }
    assert_eq!(site.get("/api/v1/reload").await.headers["allow"], "POST");
}

#[tokio::test]
async fn bodies_are_checked_before_anything_changes() {
    let site = Site::new();
    for (verb, body, status, field) in [
        ("weight", r#"{"weight": "25%", "forse": true}"#, 400, json!("forse")),
        ("weight", r#"{"weight": "25"}"#, 400, json!("weight")),
        ("weight", "{}", 400, json!("weight")),
        ("weight", "weight=25%", 400, Value::Null),
        ("kill", r#"{"weight": "25%"}"#, 400, json!("weight")),
        ("kill", r#"{"cohort": 1}"#, 400, json!("cohort")),
        ("revive", r#"{"reason": ["a"]}"#, 400, json!("reason")),
    ] {
        let answer = site.post(&format!("/api/v1/rollouts/chat/{verb}"), body).await;
        assert_eq!((answer.status, &answer.json()["field"]), (status, &field), "{verb} {body}");
    }
    let users = "/api/v1/cohorts/chat/internal/users";
    for (body, field) in [("{}", "add"), (r#"{"add": "a"}"#, "add"), (r#"{"remove": [" "]}"#, "remove")] {
        let answer = site.post(users, body).await;
        assert_eq!((answer.status, &answer.json()["field"]), (400, &json!(field)), "{body}");
    }
}

#[tokio::test]
async fn bodies_have_a_size_that_fits_their_path() {
    let site = Site::new();
    let reason = format!(r#"{{"reason": "{}"}}"#, "x".repeat(70_000));
    assert_eq!(site.post("/api/v1/rollouts/chat/kill", &reason).await.status, 413);
    assert_eq!(site.post("/api/v1/cohorts/chat/internal/users", &reason).await.json()["field"], json!("reason"));
    assert_eq!(site.post("/api/v1/cohorts/chat/internal/users", &" ".repeat(17 << 20)).await.status, 413);
}

#[tokio::test]
async fn a_token_guards_everything_but_the_probes() {
    let site = Site::guarded();
    let asked = async |path: &str, headers: &[(&str, &str)]| site.send(open(), "GET", path, headers, "").await;
    assert_eq!(asked("/healthz", &[]).await.text, "ok\n");
    let refused = asked("/flags?unit=a", &[]).await;
    assert_eq!((refused.status, refused.headers["www-authenticate"].as_bytes()), (401, &b"Bearer realm=\"weir\""[..]));
    assert_eq!(asked("/nothing", &[]).await.status, 401);
    assert_eq!(
        asked("/flags?unit=a", &[("authorization", "Bearer 0123456789abcdef0123456789abcdef")]).await.status,
        200
    );
}

#[tokio::test]
async fn pages_of_other_sites_get_nowhere() {
    let site = Site::new();
    let foreign = site.send(open(), "POST", "/api/v1/reload", &[("origin", "http://evil.example")], "").await;
    assert_eq!(foreign.status, 403);
    let rebound = Request::get("/flags?unit=a").header("host", "evil.example:9900").body(Body::empty()).unwrap();
    assert_eq!(router(site.handle.clone(), open(), site.feed.clone()).oneshot(rebound).await.unwrap().status(), 403);
}

#[tokio::test]
async fn answers_are_not_cached_or_sniffed() {
    let site = Site::new();
    let answer = site.get("/healthz").await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn a_change_answers_with_the_new_state_and_is_on_record() {
    let site = Site::new();
    let body = r#"{"weight": "25%", "actor": "ada", "reason": "calm"}"#;
    let answer = site.post("/api/v1/rollouts/chat/weight", body).await;
    let (status, form) = (answer.status, answer.json());
    assert_eq!((status, &form["name"], &form["weight_ppm"]), (200, &json!("chat"), &json!(250_000)), "{form}");
    assert_eq!(form["generation"], json!(site.handle.published.generation()));
    assert_eq!(site.get("/api/v1/rollouts/chat").await.json()["weight_ppm"], json!(250_000));

    let killed = site.post("/api/v1/rollouts/chat/kill", "").await.json();
    assert_eq!((&killed["killed"], &killed["killed_by_config"]), (&json!(true), &json!(false)));
    let revived = site.post("/api/v1/rollouts/chat/revive", "{}").await.json();
    assert_eq!(revived["killed"], json!(false));

    let events = site.get("/api/v1/events").await.json();
    let kinds: Vec<&str> = events["events"].as_array().unwrap().iter().filter_map(|it| it["kind"].as_str()).collect();
    assert_eq!(kinds[kinds.len() - 3..], ["weight", "kill", "revive"]);
    let weight = &events["events"][kinds.len() - 3];
    assert_eq!((&weight["actor"], &weight["reason"]), (&json!("ada"), &json!("calm")));
    assert_eq!((&weight["old"]["weight_ppm"], &weight["new"]["weight_ppm"]), (&json!(0), &json!(250_000)));
    let page = site.get("/api/v1/events?since=1&limit=1").await.json();
    assert_eq!((&page["events"][0]["id"], &page["next"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn cohort_members_come_and_go_at_run_time() {
    let site = Site::new();
    let changed = site.post("/api/v1/cohorts/chat/internal/users", r#"{"add": ["ann"], "remove": ["eng-1"]}"#).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let explain = async |unit: &str| site.get(&format!("/api/v1/rollouts/chat/explain?unit={unit}")).await.json();
    assert_eq!(explain("ann").await["reason"], json!("cohort:internal"));
    assert_eq!(explain("eng-1").await["reason"], json!("bucket"));
    let killed = site.post("/api/v1/rollouts/chat/kill", r#"{"cohort": "internal"}"#).await.json();
    assert_eq!((&killed["killed"], &killed["cohorts"][0]["killed"]), (&json!(false), &json!(true)));
    assert_eq!(explain("ann").await["reason"], json!("bucket"));
    assert_eq!(site.post("/api/v1/cohorts/chat/nobody/users", r#"{"add": ["ann"]}"#).await.status, 404);
    assert_eq!(site.post("/api/v1/rollouts/chta/kill", "").await.status, 404);
}

#[tokio::test]
async fn probes_metrics_config_and_reload_answer() {
    let site = Site::new();
    assert_eq!(
        site.get("/healthz").await.text,
        "ok
"
    );
    let ready = site.get("/readyz").await;
    assert_eq!((ready.status, ready.text.lines().next()), (200, Some("ready")));
    let metrics = site.get("/metrics").await;
    assert!(metrics.text.contains("weir_rollout_weight_ratio"), "{}", metrics.text);
    assert_eq!(metrics.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(site.get("/api/v1/config").await.json()["rollouts"]["chat"]["weight"], json!("0%"));
    let reload = site.post("/api/v1/reload", "").await.json();
    assert_eq!((&reload["changes"], &reload["needs_restart"]), (&json!([]), &json!([])));
    let rollouts = site.get("/api/v1/rollouts?window=5m").await.json();
    assert_eq!(
        (&rollouts["rollouts"][0]["name"], &rollouts["rollouts"][0]["window_s"]),
        (&json!("chat"), &json!(300.0))
    );
    site.handle.draining();
    let draining = site.get("/readyz").await;
    assert_eq!((draining.status, draining.text.lines().next()), (503, Some("not ready")));
}
