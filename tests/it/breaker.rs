//! The breaker from end to end: what trips it, where it says so, what survives, how it comes back.

use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::{Answer, Client, Config, Gate, Origin, Reply, Weir};
use bytes::Bytes;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

const CHAT: &str = "/api/v1/rollouts/chat";

/// Everything on the canary; a breaker that stays open for the whole test unless `lines` say otherwise.
fn config(legacy: &Origin, new: &Origin, lines: &str) -> Config {
    let cooldown = if lines.contains("cooldown") { "" } else { "cooldown = \"10m\"\n" };
    let breaker = format!("[rollouts.chat.breaker]\nfallback = \"off\"\n{cooldown}{lines}");
    Config::split(legacy, new).weight("100%").workers(1).tables(&breaker)
}

async fn origins() -> (Origin, Origin) {
    (Origin::start("legacy").await, Origin::start("new").await)
}

/// One request of each of so many units; who of them was served by the canary.
async fn ask(weir: &Weir, units: std::ops::Range<usize>) {
    let mut client = Client::http1(weir.address).await;
    for number in units {
        client.get("/", &[("x-user-id", &format!("user-{number}"))]).await;
    }
}

/// The breaker as soon as it is as wanted.
async fn breaker_until(weir: &Weir, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || async {
        let breaker = weir.view(CHAT).await["breaker"].clone();
        wanted(&breaker).then_some(breaker)
    })
    .await
}

async fn state_until(weir: &Weir, state: &str) -> Value {
    breaker_until(weir, state, |breaker| breaker["state"] == state).await
}

/// The entries of that kind.
async fn entries(weir: &Weir, kind: &str) -> Vec<Value> {
    let trail = weir.view("/api/v1/events?since=0").await;
    let all = trail["events"].as_array().expect("a list").iter();
    all.filter(|event| event["kind"] == kind).cloned().collect()
}

/// What the program prints for people.
fn printed(weir: &Weir, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .args(["--admin", &weir.admin.to_string()])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_trip_says_what_crossed_which_limit_wherever_one_looks() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config(&legacy, &new, "")).await;
    ask(&weir, 0..20).await;
    assert_eq!((new.count(), legacy.count()), (5, 15));
    let breaker = state_until(&weir, "open").await;
    let reason = breaker["last_reason"].as_str().expect("a reason").to_owned();
    assert!(reason.starts_with("consecutive_errors 5 >= 5 (requests in a row"), "{reason}");
    assert!(reason.contains("5 units") && reason.ends_with("in 10s)"), "{reason}");
    assert_eq!((&breaker["trips"], &breaker["max_trips"]), (&json!(1), &json!(3)));
    assert!(breaker["cooldown_s"].as_f64().is_some_and(|left| left > 500.0 && left <= 600.0), "{breaker}");
    assert_eq!(breaker["probe_ppm"], Value::Null);

    let trips = entries(&weir, "trip").await;
    assert_eq!(trips.len(), 1, "{trips:?}");
    assert_eq!((&trips[0]["reason"], &trips[0]["actor"]), (&json!(reason), &json!("breaker")));
    assert_eq!((&trips[0]["old"]["breaker"], &trips[0]["new"]["breaker"]), (&json!("closed"), &json!("open")));
    let metrics = weir.metrics().await;
    let chat = ("rollout", "chat");
    assert_eq!(metrics.count("weir_breaker_state", &[chat]), 2);
    assert_eq!(metrics.count("weir_breaker_trips_total", &[chat, ("reason", "consecutive_errors")]), 1);
    assert_eq!(metrics.count("weir_breaker_trips_total", &[chat]), 1);
    assert_eq!(metrics.count("weir_audit_events_total", &[("kind", "trip")]), 1);
    assert_eq!(metrics.count("weir_decisions_total", &[chat, ("reason", "breaker")]), 15);

    let one = printed(&weir, &["status", "chat"]);
    assert!(one.starts_with("chat  breaker open  weight 100%") && one.contains(&reason), "{one}");
    assert!(one.contains("breaker open, some units probe in ") && one.contains(", trip 1 of 3\n"), "{one}");
    let trail = printed(&weir, &["events"]);
    assert!(
        trail.contains("trip") && trail.contains(&format!("breaker closed -> open  by breaker: {reason}")),
        "{trail}"
    );
    let explained = printed(&weir, &["explain", "chat", "--unit", "user-1"]);
    assert!(explained.contains("stable, because the breaker is open"), "{explained}");
    weir.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_it_open_and_revive_closes_it() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config(&legacy, &new, "")).await;
    ask(&weir, 0..5).await;
    let before = state_until(&weir, "open").await;
    new.script(|_| Reply::Hello);
    let weir = weir.restart().await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.origin_of("user-1").await, "legacy", "from the first request on");
    let after = weir.view(CHAT).await["breaker"].clone();
    assert_eq!([&after["state"], &after["trips"]], [&json!("open"), &json!(1)]);
    assert_eq!(after["last_reason"], before["last_reason"]);
    assert!(after["cooldown_s"].as_f64().is_some_and(|left| left > 590.0), "a full cooldown: {after}");

    let revived = weir.command(&format!("{CHAT}/revive"), json!({ "reason": "fixed", "actor": "ana" })).await;
    assert_eq!([&revived["breaker"]["state"], &revived["breaker"]["trips"]], [&json!("closed"), &json!(0)]);
    assert_eq!(client.origin_of("user-1").await, "new");
    let entry = &entries(&weir, "revive").await[0];
    assert_eq!([&entry["old"]["breaker"], &entry["new"]["breaker"]], [&json!("open"), &json!("closed")]);
    let again = weir.ask("POST", &format!("{CHAT}/revive"), "{}").await;
    assert!(again.status == 409 && again.text().contains("nothing to revive"), "{}", again.text());
    let weir = weir.restart().await;
    assert_eq!(weir.view(CHAT).await["breaker"]["state"], "closed");
    weir.stop().await;
}

#[tokio::test]
async fn the_last_trip_rolls_the_rollout_back_until_somebody_revives_it() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::status(503));
    let weir = Weir::start(&config(&legacy, &new, "max_trips = 1")).await;
    ask(&weir, 0..10).await;
    let rolled_back = |rollout: &Value| rollout["state"] == "rolled_back";
    eventually("the rollback", || async { rolled_back(&weir.view(CHAT).await).then_some(()) }).await;
    let rollout = weir.view(CHAT).await;
    assert_eq!([&rollout["weight_ppm"], &rollout["breaker"]["state"]], [&json!(0), &json!("open")]);
    assert!(rollout["state_reason"].as_str().is_some_and(|text| text.contains("consecutive_errors")), "{rollout}");
    assert_eq!((entries(&weir, "trip").await.len(), entries(&weir, "rollback").await.len()), (1, 1));
    assert_eq!(weir.explain("user-1").await["reason"], "rolled_back");
    let denied = weir.ask("POST", &format!("{CHAT}/weight"), "{\"weight\":\"50%\"}").await;
    assert!(denied.status == 409 && denied.text().contains("rolled back"), "{}", denied.text());
    assert!(printed(&weir, &["status"]).contains("rolled_back"));

    new.script(|_| Reply::Hello);
    let weir = weir.restart().await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.origin_of("user-1").await, "legacy");
    let revived = weir.command(&format!("{CHAT}/revive"), json!({})).await;
    assert_eq!([&revived["state"], &revived["weight_ppm"]], [&json!("running"), &json!(1_000_000)]);
    assert_eq!(client.origin_of("user-1").await, "new", "one command is enough");
    weir.stop().await;
}

#[tokio::test]
async fn both_arms_alike_trip_nothing_and_alert_once() {
    let (legacy, new) = origins().await;
    legacy.script(|_| Reply::status(500));
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config(&legacy, &new, "").weight("50%")).await;
    ask(&weir, 0..100).await;
    let breaker = breaker_until(&weir, "a note", |breaker| breaker["note"].is_string()).await;
    assert!(breaker["note"].as_str().is_some_and(|note| note.starts_with("both arms: ")), "{breaker}");
    ask(&weir, 100..200).await;
    assert_eq!(legacy.count() + new.count(), 200);
    assert!(new.count() > 50, "the canary keeps its share: {}", new.count());
    let alerts = entries(&weir, "alert").await;
    assert_eq!((alerts.len(), entries(&weir, "trip").await.len()), (1, 0), "{alerts:?}");
    assert!(alerts[0]["reason"].as_str().is_some_and(|reason| reason.starts_with("both arms: ")), "{alerts:?}");
    assert_eq!(weir.view(CHAT).await["breaker"]["state"], "closed");
    assert!(printed(&weir, &["status"]).contains("  both arms: "));
    weir.stop().await;
}

#[tokio::test]
async fn a_canary_that_is_well_again_gets_its_share_back_by_way_of_probes() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config(&legacy, &new, "cooldown = \"200ms\"\nprobe = \"20%\"\nmax_trips = 0")).await;
    ask(&weir, 0..5).await;
    state_until(&weir, "half_open").await;
    let sick = new.count();
    ask(&weir, 0..100).await;
    let probed = new.count() - sick;
    assert!(probed > 0 && probed < 60, "a trickle: {probed} of 100");
    breaker_until(&weir, "another trip", |breaker| breaker["trips"].as_u64() >= Some(2)).await;

    new.script(|_| Reply::Hello);
    eventually("recovery", || async {
        ask(&weir, 0..100).await;
        (weir.view(CHAT).await["breaker"]["state"] == "closed").then_some(())
    })
    .await;
    let recovered = &entries(&weir, "recover").await[0];
    assert!(recovered["reason"].as_str().is_some_and(|reason| reason.contains("probes succeeded")), "{recovered}");
    let (before, legacy_before) = (new.count(), legacy.count());
    ask(&weir, 0..50).await;
    assert_eq!((new.count() - before, legacy.count() - legacy_before), (50, 0));
    let metrics = weir.metrics().await;
    let probes = metrics.count("weir_probe_requests_total", &[("rollout", "chat")]);
    assert_eq!(metrics.count("weir_decisions_total", &[("reason", "probe")]), probes);
    let counted = metrics.count("weir_requests_total", &[("rollout", "chat"), ("arm", "canary")]);
    assert_eq!(counted + probes, new.count(), "probes are told apart from the arm's requests");
    weir.stop().await;
}

#[tokio::test]
async fn a_share_of_failures_trips_though_no_run_is_long() {
    let (legacy, new) = origins().await;
    let turn = AtomicU64::new(0);
    new.script(
        move |_| if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) { Reply::status(500) } else { Reply::Hello },
    );
    let rule = "error_rate = { above = \"30%\", window = \"10s\", min_requests = 20 }";
    let weir = Weir::start(&config(&legacy, &new, rule)).await;
    ask(&weir, 0..40).await;
    let breaker = state_until(&weir, "open").await;
    let reason = breaker["last_reason"].as_str().expect("a reason");
    assert!(
        reason.starts_with("error_rate 5") && reason.contains("> 30.0% (") && reason.contains("requests in 10s"),
        "{reason}"
    );
    let metrics = weir.metrics().await;
    assert_eq!(metrics.count("weir_breaker_trips_total", &[("reason", "error_rate")]), 1);
    weir.stop().await;
}

#[tokio::test]
async fn requests_that_nobody_answers_trip_before_they_time_out() {
    let (legacy, new) = origins().await;
    let gate = Gate::closed();
    let held = gate.clone();
    new.script(move |_| Reply::held(&held));
    let rule = "no_answer = { after = \"200ms\", min_requests = 5 }";
    let weir = Weir::start(&config(&legacy, &new, rule)).await;
    let mut waiting = Vec::new();
    for number in 0..6 {
        let mut client = Client::http1(weir.address).await;
        waiting.push(tokio::spawn(async move { client.get("/", &[("x-user-id", &format!("user-{number}"))]).await }));
    }
    let breaker = state_until(&weir, "open").await;
    assert!(breaker["last_reason"].as_str().is_some_and(|reason| reason.starts_with("no_answer ")), "{breaker}");
    assert_eq!(Client::http1(weir.address).await.origin_of("user-1").await, "legacy");
    gate.open();
    for answer in waiting {
        assert_eq!(answer.await.expect("no panic").status, 200, "what was under way ends there");
    }
    weir.stop().await;
}

#[tokio::test]
async fn slow_answers_trip_the_rule_on_latency() {
    let (legacy, new) = origins().await;
    new.script(|_| {
        let body = Content::Sized(Bytes::from_static(b"late"));
        Reply::Answer(Answer { delay: std::time::Duration::from_millis(20), body, ..Answer::default() })
    });
    let rule = "latency = { quantile = \"p50\", above = \"5ms\", window = \"10s\", min_requests = 10 }";
    let weir = Weir::start(&config(&legacy, &new, rule)).await;
    ask(&weir, 0..20).await;
    let breaker = state_until(&weir, "open").await;
    assert!(breaker["last_reason"].as_str().is_some_and(|reason| reason.starts_with("latency p50 ")), "{breaker}");
    weir.stop().await;
}

#[tokio::test]
async fn a_reload_keeps_it_open_and_switching_it_off_lets_go() {
    let (legacy, new) = origins().await;
    new.script(|_| Reply::status(500));
    let weir = Weir::start(&config(&legacy, &new, "")).await;
    ask(&weir, 0..5).await;
    state_until(&weir, "open").await;
    new.script(|_| Reply::Hello);
    let cohort = "[rollouts.chat.cohorts.team]\nusers = [\"user-1\"]";
    weir.write_config(&config(&legacy, &new, "min_units = 2").tables(cohort));
    assert_eq!(weir.reload().await.status, 200);
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.origin_of("user-1").await, "legacy", "a cohort has no way around it");
    assert_eq!(weir.view(CHAT).await["breaker"]["trips"], 1);
    weir.write_config(&config(&legacy, &new, "enabled = false"));
    assert_eq!(weir.reload().await.status, 200);
    assert_eq!(client.origin_of("user-1").await, "new");
    assert_eq!(weir.view(CHAT).await["breaker"], Value::Null);
    assert_eq!(entries(&weir, "recover").await.len(), 1);
    weir.stop().await;
}
