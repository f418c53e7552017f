//! Chat feature: operated by environment variables, 403 for whoever is outside.

use super::cases::{self, Case, Then, case};
use super::faults::{Fault, What};
use super::plan::Plan;
use super::world::World;
use crate::harness::Client;

pub const PLAN: Plan = Plan {
    file: "chat-feature.toml",
    rollout: "chat",
    unit: ("x-user-id", ""),
    user: |nth| format!("user-{}", nth % 500),
    targets: &["/api/v1/chat/messages", "/api/v1/chat/intents"],
    takes: |_, _| 20,
    queries: &[
        ("tool_latency", 320.0),
        ("synth_latency", 1100.0),
        ("critical_alerts", 0.0),
        ("open_alerts", 0.0),
        ("core_error_rate", 0.001),
        ("ecs_used", 0.6),
        ("db_pool_used", 0.4),
        ("chat_memory_latency", 12.0),
        ("llm_quota_used", 0.3),
        ("llm_cost", 0.8),
    ],
    later: &[],
    vitals: None,
    environment: &[("WEIR__ROLLOUTS__CHAT__ENABLED", "true")],
    by_hand: false,
};

/// A day is a second.
const FAST: u32 = 86_400;
/// Ten minutes are two seconds: as long as the shortest window.
const STEADY: u32 = 300;

/// Slow answers leave few requests in a window, so their triggers hold for less than a second.
fn slow(case: Case) -> Case {
    Case { scale: Some(2000), ..case }
}

fn cases() -> Vec<Case> {
    use Then::{Alerts, Halves, Pauses, RollsBack};
    let all = |what| Fault::Canary("/", 1, what);
    let some = |one_in, what| Fault::Canary("/", one_in, what);
    let one = |trigger, at, fault, then| case("chat", trigger, at, fault, then);
    let (open, fell_back) = (What::Field("x-chat-circuit", "open"), What::Field("x-chat-fallback", "true"));
    vec![
        one("error-rate-critical", "rollout-50", some(15, What::Status(500)), RollsBack),
        slow(one("latency-critical", "rollout-50", all(What::Slow(2900)), RollsBack)),
        one("circuit-critical", "rollout-25", some(20, open.clone()), Pauses),
        // The failures that opened it are forgotten before they have lasted five minutes.
        Case { scale: Some(100), ..one("breaker-critical", "rollout-25", all(What::Status(503)), Pauses) },
        one("critical-alert", "rollout-10", Fault::Query("critical_alerts", 1.0), Pauses),
        one("fallback-critical", "rollout-25", some(5, fell_back.clone()), Pauses),
        one("tool-latency-critical", "rollout-10", Fault::Query("tool_latency", 1250.0), Pauses),
        one("synth-latency-critical", "rollout-10", Fault::Query("synth_latency", 2600.0), Pauses),
        one("error-rate-warning", "rollout-50", some(15, What::Status(500)), Alerts),
        slow(one("latency-warning", "rollout-50", all(What::Slow(2600)), Halves)),
        one("circuit-warning", "rollout-50", some(20, open), Alerts),
        one("fallback-warning", "rollout-50", some(12, fell_back), Alerts),
        one("tool-latency-warning", "rollout-10", Fault::Query("tool_latency", 900.0), Alerts),
        one("synth-latency-warning", "rollout-10", Fault::Query("synth_latency", 2100.0), Alerts),
        one("no-traffic", "rollout-25", Fault::NoUnits, Alerts),
        one("cost-overrun", "rollout-10", Fault::Query("llm_cost", 1.2), Alerts),
    ]
}

#[tokio::test]
async fn runs_from_its_first_stage_to_its_end() {
    cases::runs_to_its_end(&PLAN, FAST).await;
}

#[test]
fn each_trigger_does_what_its_document_says() {
    cases::provoke(&PLAN, STEADY, cases());
}

#[tokio::test]
async fn stands_still_without_users() {
    cases::stands_without_users(&PLAN, FAST, "chat", "rollout-10").await;
}

/// The status that a user gets there.
async fn status(world: &World, target: &str, user: &str) -> u16 {
    let mut client = Client::http1(world.weir.address).await;
    client.get(target, &[("x-user-id", user)]).await.status
}

#[tokio::test]
async fn it_starts_disabled_and_answers_403() {
    let world = World::without_users(&PLAN, 1, &[("WEIR__ROLLOUTS__CHAT__ENABLED", "false")]).await;
    assert_eq!(world.view("chat").await["state"], "pending");
    let mut client = Client::http1(world.weir.address).await;
    let got = client.get(PLAN.targets[0], &[("x-user-id", "user-1")]).await;
    assert_eq!((got.status, &got.json()["error"]), (403, &"feature_disabled".into()));
    assert_eq!(
        client.get("/api/v1/barcode", &[("x-user-id", "user-1")]).await.status,
        200,
        "the core is in no rollout"
    );
    world.end().await;
}

#[tokio::test]
async fn its_percentage_is_an_environment_variable() {
    let world = World::without_users(&PLAN, 1, &[("WEIR__ROLLOUTS__CHAT__WEIGHT", "10%")]).await;
    world.until("it begins", async || (world.view("chat").await["state"] == "running").then_some(())).await;
    let full = serde_json::json!({ "force": true, "full": true, "reason": "to see the ceiling" });
    assert_eq!(world.say("chat", "promote", full).await, 200);
    let view = world.view("chat").await;
    assert_eq!((&view["stage"]["name"], &view["weight_ppm"]), (&"full".into(), &100_000.into()), "never above it");
    let arms = world.arms(400).await;
    let canary = arms.iter().filter(|arm| *arm == "canary").count();
    assert!((15..=70).contains(&canary), "{canary} of 400");
    world.end().await;
    let none = World::without_users(&PLAN, 1, &[("WEIR__ROLLOUTS__CHAT__WEIGHT", "0%")]).await;
    none.until("it begins", async || (none.view("chat").await["state"] == "running").then_some(())).await;
    assert!(none.arms(100).await.iter().all(|arm| arm == "stable"));
    none.end().await;
}

#[tokio::test]
async fn its_kill_switch_is_an_environment_variable() {
    let world = World::without_users(&PLAN, 1, &[("WEIR__ROLLOUTS__CHAT__KILL", "true")]).await;
    let view = world.view("chat").await;
    assert_eq!((&view["killed"], &view["killed_by_config"]), (&true.into(), &true.into()));
    for user in ["user-1", "user-2", "user-3", "user-4", "user-5", "user-6", "user-7", "user-8", "user-9"] {
        assert_eq!(status(&world, PLAN.targets[0], user).await, 403);
    }
    world.end().await;
}

#[tokio::test]
async fn its_flags_endpoint_says_what_users_get() {
    let world = World::in_stage(&PLAN, STEADY, "chat", "rollout-25").await;
    let mut client = Client::http1(world.weir.address).await;
    let mut given = [0, 0];
    for nth in 0..60 {
        let user = (PLAN.user)(nth);
        let flags = client.get(&format!("/api/v1/chat/flags?unit={user}"), &[]).await.json();
        let on = flags["flags"]["chat"]["arm"] == "canary";
        assert_eq!(status(&world, PLAN.targets[0], &user).await, if on { 200 } else { 403 }, "{user}: {flags}");
        given[usize::from(on)] += 1;
    }
    assert!(given.iter().all(|count| *count > 0), "{given:?}");
    world.end().await;
}

#[tokio::test]
async fn at_ten_percent_nine_of_ten_are_blocked() {
    let world = World::start(&PLAN, STEADY).await;
    // The gate may have passed, and its stage be over, before there was enough to judge a share by.
    let (blocked, all) = world
        .until("enough requests", async || {
            let view = world.view("chat").await;
            assert_eq!(view["weight_ppm"].as_u64().unwrap_or(0).max(100_000), 100_000);
            let metrics = world.weir.metrics().await;
            let count = |name: &str| metrics.count(name, &[("rollout", "chat")]);
            let (blocked, all) = (count("weir_blocked_total"), count("weir_requests_total"));
            (all >= 1000).then_some((blocked, all))
        })
        .await;
    let rate = blocked as f64 / all as f64;
    assert!((0.85..=0.95).contains(&rate), "{blocked} of {all}");
    world.end().await;
}
