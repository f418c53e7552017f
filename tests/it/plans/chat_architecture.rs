//! Chat architecture: nine weeks from shadow to everybody, critical and warning triggers.

use super::cases::{self, Case, Then, case};
use super::faults::{Fault, What};
use super::plan::Plan;
use super::world::World;
use weir::rollout::Arm;

pub const PLAN: Plan = Plan {
    file: "chat-architecture.toml",
    rollout: "chat",
    unit: ("x-user-id", ""),
    // The internal team is busy with its beta.
    user: |nth| match nth % 5 {
        0 | 1 => format!("team-{}", nth % 2 + 1),
        _ => format!("user-{}", nth % 500),
    },
    targets: &["/messages", "/callbacks", "/session"],
    // The new architecture is faster: "meets or exceeds legacy baseline".
    takes: |_, arm| if arm == Arm::Canary { 20 } else { 60 },
    queries: &[
        ("memory", 33e6),
        ("memory_peak", 38e6),
        ("cpu_ratio", 1.02),
        ("successful_rps", 400.0),
        ("monitoring_up", 1.0),
        ("legacy_up", 1.0),
        ("complaints", 4.0),
        ("agui_processed", 1.0),
        ("conversion", 0.031),
        ("session_duration", 310.0),
    ],
    later: &[],
    vitals: None,
    environment: &[("WEIR__UPSTREAMS__NEW__HEALTH__INTERVAL", "100ms")],
    by_hand: false,
};

/// A week is a second.
const FAST: u32 = 604_800;
/// A week is a minute.
const STEADY: u32 = 10_080;

fn cases() -> Vec<Case> {
    use Then::{Alerts, Pauses, RollsBack};
    let all = |what| Fault::Canary("/", 1, what);
    let some = |what| Fault::Canary("/", 20, what);
    let one = |trigger, at, fault, then| case("chat", trigger, at, fault, then);
    vec![
        one("error-rate-spike", "public-50", some(What::Cut), RollsBack),
        one("p99-response-time", "public-50", some(What::Slow(700)), RollsBack),
        one("memory-leak", "beta", Fault::Query("memory", 81e6), RollsBack),
        // At once, while half a percent of failures would have to last for a second.
        Case { scale: Some(300), ..one("http-5xx", "public-50", Fault::Canary("/", 8, What::Status(503)), RollsBack) },
        one("unavailable", "public-50", Fault::Unhealthy, RollsBack),
        one("limited-rollout-errors", "public-10", some(What::Cut), RollsBack),
        // One of at least 200: more than 0.2 %, and not more than 0.5 %.
        Case { canary_requests: 230, ..one("error-rate-warning", "full", Fault::Once("/", What::Cut), Pauses) },
        one("p95-warning", "public-50", all(What::Slow(155)), Pauses),
        one("memory-warning", "beta", Fault::Query("memory", 47e6), Pauses),
        one("complaint-spike", "beta", Fault::Query("complaints", 13.0), Pauses),
        Case { canary_requests: 230, ..one("error-rate-alert", "full", Fault::Once("/", What::Cut), Alerts) },
        one("p95-alert", "public-50", all(What::Slow(250)), Alerts),
        one("memory-alert", "beta", Fault::Query("memory", 52e6), Alerts),
        one("cpu-alert", "beta", Fault::Query("cpu_ratio", 1.4), Alerts),
        one("throughput-alert", "beta", Fault::Query("successful_rps", 370.0), Alerts),
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
    cases::stands_without_users(&PLAN, FAST, "chat", "public-10").await;
}

#[tokio::test]
async fn the_shadow_does_not_pass_while_copies_fail() {
    let world = World::start(&PLAN, FAST).await;
    world.begin(&[Fault::Canary("/", 10, What::Status(500))]).await;
    world
        .until("a verdict on the copies", async || {
            let view = world.view("chat").await;
            let served = view["stage"]["served_s"].as_f64()? >= view["stage"]["min_duration_s"].as_f64()?;
            let failed =
                |gate: &serde_json::Value| gate["when"] == "shadow.error_rate <= 0%" && gate["verdict"] == "fail";
            (served && view["gates"].as_array()?.iter().any(failed)).then_some(())
        })
        .await;
    let view = world.view("chat").await;
    assert_eq!(view["stage"]["name"], "shadow");
    assert_eq!(view["arms"]["canary"]["requests"], 0, "no user noticed");
    world.end().await;
}

#[tokio::test]
async fn flags_reach_both_systems_as_headers() {
    let world = World::in_stage(&PLAN, STEADY, "chat", "public-50").await;
    let canary = world.request_of(Arm::Canary).await;
    for (name, value) in [
        ("x-flag-use-new-architecture", "true"),
        ("x-flag-enable-agui-events", "true"),
        ("x-flag-enable-verbose-logging", "false"),
        ("x-flag-performance-monitoring", "true"),
    ] {
        assert_eq!(canary.field(name), Some(value));
    }
    assert_eq!(world.request_of(Arm::Stable).await.field("x-flag-use-new-architecture"), Some("false"));
    world.end().await;
}

#[tokio::test]
async fn a_segment_is_taken_back_alone() {
    let world = World::in_stage(&PLAN, STEADY, "chat", "public-10").await;
    assert_eq!(world.reason("chat", "team-1").await, ("canary".into(), "cohort:beta".into()));
    let mut others = Vec::new();
    for nth in 0..200 {
        let user = format!("user-{nth}");
        if world.reason("chat", &user).await.1 == "bucket" && world.reason("chat", &user).await.0 == "canary" {
            others.push(user);
        }
    }
    assert!(!others.is_empty(), "some of 200 are in the ten percent");
    let kill = serde_json::json!({ "cohort": "beta", "reason": "complaints of the team" });
    assert_eq!(world.say("chat", "kill", kill).await, 200);
    // Whoever is in the ten percent without being in the beta stays.
    assert_ne!(world.reason("chat", "team-1").await.1, "cohort:beta");
    for user in others {
        assert_eq!(world.reason("chat", &user).await.0, "canary");
    }
    assert_eq!(world.view("chat").await["state"], "running");
    world.end().await;
}

#[tokio::test]
async fn a_rollback_that_does_not_help_is_escalated() {
    let world = World::in_stage(&PLAN, STEADY, "chat", "public-50").await;
    // Both systems fail alike: the document's limit is absolute, so the new one is taken back, and legacy is still sick.
    world.begin(&[Fault::Both("/", 4, What::Status(500))]).await;
    let kinds = world
        .until("an escalation", async || {
            let kinds: Vec<String> =
                world.events().await.iter().filter_map(|event| event["kind"].as_str().map(str::to_owned)).collect();
            kinds.iter().any(|kind| kind == "escalate").then_some(kinds)
        })
        .await;
    let at = |wanted: &str| kinds.iter().position(|kind| kind == wanted);
    assert!(at("rollback") < at("escalate"), "{kinds:?}");
    world.end().await;
}
