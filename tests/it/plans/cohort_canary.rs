//! Cohort canary: one cohort after the other, halt rules that pause.

use super::cases::{self, Case, Then, case};
use super::faults::{Fault, What};
use super::plan::Plan;
use super::world::World;
use weir::rollout::Arm;

pub const PLAN: Plan = Plan {
    file: "cohort-canary.toml",
    rollout: "canary",
    unit: ("x-user-id", ""),
    // A third of the requests come from those who were asked to try it.
    user: |nth| match nth % 9 {
        0 => "eng-team".to_owned(),
        1 => "pilot-partners".to_owned(),
        2 => "beta-opt-in".to_owned(),
        _ => format!("user-{}", nth % 500),
    },
    targets: &["/api/patients", "/", "/api/orders", "/api/engine/run", "/api/letters"],
    takes: |_, arm| if arm == Arm::Canary { 26 } else { 30 },
    queries: &[
        ("crashes", 0.0),
        ("sev_1_2_open", 0.0),
        ("sev_1_in_48h", 0.0),
        ("positive_feedback", 0.93),
        ("slos_missed_24h", 0.0),
        ("feature_adoption", 0.22),
        ("approval_denial_sigma", 0.4),
        ("db_connections_used", 0.5),
        ("memory_used", 0.6),
        ("cpu_used", 0.4),
    ],
    later: &[],
    vitals: Some("/.well-known/weir/vitals"),
    environment: &[("WEIR__UPSTREAMS__CANARY__RESPONSE_TIMEOUT", "2s")],
    by_hand: true,
};

/// A day is a second.
const FAST: u32 = 86_400;
/// Fifteen minutes are a second.
const STEADY: u32 = 900;

fn cases() -> Vec<Case> {
    let some = |path, one_in, what| Fault::Canary(path, one_in, what);
    let pauses = |trigger, at, fault| case("canary", trigger, at, fault, Then::Pauses);
    vec![
        pauses("lcp", "beta", Fault::Vitals(2600.0, 80.0, 0.02)),
        pauses("inp", "beta", Fault::Vitals(1200.0, 230.0, 0.02)),
        pauses("cls", "beta", Fault::Vitals(1200.0, 80.0, 0.2)),
        pauses("api-latency", "beta", some("/api/orders", 4, What::Slow(1500))),
        pauses("engine-timeouts", "beta", some("/api/engine", 8, What::Silence)),
        pauses("error-rate", "beta", some("/", 20, What::Status(500))),
        pauses("approval-denials", "friendly_gp", Fault::Query("approval_denial_sigma", 3.2)),
        pauses("database-connections", "friendly_gp", Fault::Query("db_connections_used", 1.0)),
        pauses("memory", "friendly_gp", Fault::Query("memory_used", 0.95)),
        pauses("cpu", "friendly_gp", Fault::Query("cpu_used", 0.85)),
        pauses("failed-transactions", "beta", some("/", 20, What::Field("x-transaction", "failed"))),
        pauses("data-inconsistency", "beta", some("/", 50, What::Field("x-data-consistency", "failed"))),
        pauses("security-alert", "friendly_gp", Fault::Post("security_alert")),
        pauses("compliance-violation", "friendly_gp", Fault::Post("compliance_violation")),
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
    cases::stands_without_users(&PLAN, FAST, "canary", "friendly_gp").await;
}

#[tokio::test]
async fn blames_no_canary_that_is_only_as_bad_as_stable() {
    let slow = [Fault::Both("/api", 4, What::Slow(1500))];
    cases::spares_the_canary(&PLAN, STEADY, "canary", "beta", &slow, &["api-latency"]).await;
}

#[tokio::test]
async fn the_diff_gate_passes_on_what_copies_answered() {
    let world = World::in_stage(&PLAN, FAST, "canary", "friendly_gp").await;
    let why = world
        .until("a stage that ended on what copies answered", async || {
            let events = world.events().await;
            let reasons = events.iter().filter(|event| event["kind"] == "stage").map(|event| event["reason"].clone());
            reasons.into_iter().find(|why| why.as_str().is_some_and(|why| why.contains("shadow.diff_rate")))
        })
        .await;
    let why = why.as_str().unwrap_or_default();
    assert!(why.contains("shadow.diff_rate 0.0% < 0.50%") && why.contains("comparisons in the stage"), "{why}");
    assert_eq!(world.view("canary").await["stage"]["name"], "beta", "nobody promoted it");
    world.end().await;
}

#[tokio::test]
async fn three_errors_in_a_row_disable_it() {
    let world = World::in_stage(&PLAN, STEADY, "canary", "beta").await;
    world.begin(&[Fault::Canary("/", 1, What::Status(500))]).await;
    let trip =
        world.until("a trip", async || world.events().await.into_iter().find(|event| event["kind"] == "trip")).await;
    assert!(trip["reason"].as_str().is_some_and(|why| why.contains("3 ")), "{trip}");
    let view = world.view("canary").await;
    assert_eq!((&view["state"], &view["weight_ppm"]), (&"rolled_back".into(), &0.into()), "{}", world.story().await);
    assert!(world.arms(40).await.iter().all(|arm| arm == "stable"));
    world.faults.end();
    assert_eq!(world.say("canary", "revive", serde_json::json!({ "reason": "fixed" })).await, 200);
    assert_eq!(world.reason("canary", "eng-team").await.0, "canary");
    world.end().await;
}

#[tokio::test]
async fn each_cohort_has_a_switch_of_its_own() {
    let off = ("WEIR__ROLLOUTS__CANARY__COHORTS__BETA__ENABLED", "false");
    let mut world = World::without_users(&PLAN, STEADY, &[off]).await;
    world.users_come();
    assert!(world.reach("canary", "beta").await, "{}", world.story().await);
    let arm = async |user: &str| world.reason("canary", user).await.0;
    // By the environment ...
    assert_eq!(arm("beta-opt-in").await, "stable");
    assert_eq!((arm("eng-team").await, arm("pilot-partners").await), ("canary".into(), "canary".into()));
    // ... by command ...
    let one = serde_json::json!({ "cohort": "friendly_gp", "reason": "a partner complains" });
    assert_eq!(world.say("canary", "kill", one.clone()).await, 200);
    assert_eq!((arm("eng-team").await, arm("pilot-partners").await), ("canary".into(), "stable".into()));
    assert_eq!(world.say("canary", "revive", one).await, 200);
    assert_eq!(arm("pilot-partners").await, "canary");
    // ... and all at once.
    assert_eq!(world.say("canary", "kill", serde_json::json!({ "reason": "everything" })).await, 200);
    assert_eq!((arm("eng-team").await, arm("pilot-partners").await), ("stable".into(), "stable".into()));
    world.end().await;
}

#[tokio::test]
async fn its_commands_are_those_of_the_document() {
    let world = World::start(&PLAN, STEADY).await;
    assert_eq!(world.view("canary").await["state"], "pending", "nothing begins before the deployment is green");
    let said = |reason: &str| serde_json::json!({ "reason": reason });
    assert_eq!(world.say("canary", "resume", said("deployed")).await, 200);
    let standing = async || {
        let view = world.view("canary").await;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        (text(&view["state"]), text(&view["stage"]["name"]))
    };
    assert_eq!(standing().await, ("running".into(), "internal_test".into()));
    assert_eq!(world.say("canary", "pause", said("odd")).await, 200);
    assert_eq!(standing().await, ("paused".into(), "internal_test".into()));
    assert_eq!(world.say("canary", "resume", said("fixed")).await, 200);
    let emergency = serde_json::json!({ "force": true, "full": true, "reason": "skip to 100%" });
    assert_eq!(world.say("canary", "promote", emergency).await, 200);
    assert_eq!(standing().await.1, "ga");
    assert!(world.arms(40).await.iter().all(|arm| arm == "canary"));
    assert_eq!(world.say("canary", "rollback", said("after all")).await, 200);
    assert!(world.arms(40).await.iter().all(|arm| arm == "stable"), "with the next request");
    world.end().await;
}
