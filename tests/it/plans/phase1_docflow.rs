//! Docflow phase 1: thirty minutes of canary, three features with switches of their own.

use super::cases::{self, Case, Then, case};
use super::faults::{Fault, What};
use super::plan::Plan;
use super::world::World;
use weir::rollout::Arm;

pub const PLAN: Plan = Plan {
    file: "phase1-docflow.toml",
    rollout: "phase1",
    unit: ("x-user-id", ""),
    // The internal team tries it all day.
    user: |nth| match nth % 4 {
        0 => "admin-1".to_owned(),
        _ => format!("user-{}", nth % 500),
    },
    targets: &[
        "/api/admin/queue?aiType=invoice",
        "/api/documents",
        "/api/admin/analytics/forecast",
        "/api/publish/7",
        "/api/admin/analytics/export/schedule",
    ],
    takes: |target, arm| match (target.starts_with("/api/publish"), arm) {
        (true, _) => 1,
        (false, Arm::Stable) => 60,
        (false, Arm::Canary) => 50,
    },
    queries: &[("phase1_metrics", 3.0), ("low_confidence", 0.04), ("forecast_deviation", 0.08), ("adoption", 0.61)],
    later: &[],
    vitals: None,
    environment: &[],
    by_hand: false,
};

/// A day is four seconds.
const FAST: u32 = 21_600;
/// Half an hour is half a minute.
const STEADY: u32 = 60;

fn cases() -> Vec<Case> {
    use Then::{Alerts, RollsBack};
    let one = |trigger, fault, then| case("phase1", trigger, "canary-10", fault, then);
    let failed = || What::Status(500);
    vec![
        // Any: one is enough.
        one("5xx-queue", Fault::Once("/api/admin/queue", failed()), RollsBack),
        one("5xx-analytics", Fault::Once("/api/admin/analytics/forecast", failed()), RollsBack),
        one("5xx-export", Fault::Once("/api/admin/analytics/export", failed()), RollsBack),
        one("ui-crashes", Fault::Report("/api/client/ui-crash", 20), RollsBack),
        one("degradation", Fault::Canary("/api", 1, What::Slow(400)), RollsBack),
        one("ai-confidence", Fault::Query("low_confidence", 0.12), Alerts),
        one("forecast-accuracy", Fault::Query("forecast_deviation", 0.25), Alerts),
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
    cases::stands_without_users(&PLAN, FAST, "phase1", "canary-10").await;
}

#[tokio::test]
async fn blames_no_canary_that_is_only_as_bad_as_stable() {
    let slow = [Fault::Both("/api", 1, What::Slow(400))];
    cases::spares_the_canary(&PLAN, STEADY, "phase1", "canary-10", &slow, &["degradation"]).await;
}

#[tokio::test]
async fn a_feature_is_taken_back_alone() {
    let world = World::in_stage(&PLAN, STEADY, "phase1", "canary-10").await;
    let flags = async |arm| {
        let seen = world.request_of(arm).await;
        let names = ["x-phase1-enabled", "x-enable-ai-queue", "x-enable-forecast", "x-enable-export-schedule"];
        names.map(|name| seen.field(name) == Some("true"))
    };
    assert_eq!(flags(Arm::Canary).await, [true; 4]);
    assert_eq!(flags(Arm::Stable).await, [false; 4]);
    for (feature, wanted) in [
        ("forecast", [true, true, false, true]),
        ("ai-queue", [true, false, false, true]),
        ("export-schedule", [true, false, false, false]),
    ] {
        assert_eq!(world.say(feature, "kill", serde_json::json!({ "reason": "it fails" })).await, 200);
        world.until(feature, async || (flags(Arm::Canary).await == wanted).then_some(())).await;
    }
    assert_eq!(world.view("phase1").await["state"], "running");
    world.end().await;
}

#[tokio::test]
async fn the_audit_event_has_the_canarys_numbers() {
    let (world, events) = World::completed(&PLAN, FAST, async |world: &World| world.events().await).await;
    let begun = events.iter().find(|event| event["kind"] == "stage" && event["new"]["stage"] == "full");
    let why = begun.and_then(|event| event["reason"].as_str()).expect("it says why");
    for number in ["p95{api} ", "p95{publish} ", "rate_5xx 0.0% < 1.0%"] {
        assert!(why.contains(number), "{why}");
    }
    let complete = events.iter().find(|event| event["kind"] == "complete").expect("it is told");
    assert!(complete["numbers"]["canary"]["p95_ms"].is_f64(), "{complete}");
    let baselines = events.iter().filter(|event| event["kind"] == "baseline").count();
    assert_eq!(baselines, 2, "before, and the new one with phase 1");
    world.end().await;
}
