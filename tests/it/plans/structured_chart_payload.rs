//! Structured chart payload: two flags, each a rollout, taken back in order.

use super::cases::{self, Case, Then, case};
use super::faults::{Fault, What};
use super::plan::Plan;
use super::world::World;
use weir::rollout::Arm;

pub const PLAN: Plan = Plan {
    file: "structured-chart-payload.toml",
    rollout: "objects",
    unit: ("cookie", "session="),
    user: |nth| format!("session-{}", nth % 300),
    targets: &["/charts/1", "/charts/2", "/charts/3"],
    takes: |_, arm| if arm == Arm::Canary { 36 } else { 40 },
    queries: &[("alerts_firing", 0.0), ("structured_usage", 1.0), ("legacy_usage", 120.0)],
    later: &[("full-rollout", "legacy_usage", 0.0)],
    vitals: None,
    environment: &[],
    by_hand: false,
};

/// 24 hours are a second.
const FAST: u32 = 86_400;

fn cases() -> Vec<Case> {
    let failed = What::Field("x-chart-validation", "failed");
    let at = "structured-first";
    let prefer = Then::RollsBackOther("prefer");
    let invalid = || Fault::Canary("/charts", 5, failed.clone());
    let broken = || Fault::Report("/telemetry/chart-render-failure", 5);
    let slow = || Fault::Canary("/charts", 4, What::Slow(600));
    vec![
        case("objects", "validation-errors", at, invalid(), prefer),
        case("objects", "validation-errors-persist", at, invalid(), Then::RollsBack),
        case("objects", "render-failures", at, broken(), prefer),
        case("objects", "render-failures-persist", at, broken(), Then::RollsBack),
        case("objects", "latency-p95", at, slow(), prefer),
        case("objects", "latency-p95-persists", at, slow(), Then::RollsBack),
    ]
}

#[tokio::test]
async fn runs_from_its_first_stage_to_its_end() {
    cases::runs_to_its_end(&PLAN, FAST * 7).await;
}

#[test]
fn each_trigger_does_what_its_document_says() {
    // Slow enough that five minutes and ten are told apart.
    cases::provoke(&PLAN, 300, cases());
}

#[tokio::test]
async fn stands_still_without_users() {
    cases::stands_without_users(&PLAN, FAST, "objects", "canary-10").await;
}

#[tokio::test]
async fn blames_no_canary_that_is_only_as_bad_as_stable() {
    let slow = [Fault::Both("/charts", 4, What::Slow(600))];
    cases::spares_the_canary(&PLAN, 300, "objects", "canary-10", &slow, &["latency-p95", "latency-p95-persists"]).await;
}

#[tokio::test]
async fn the_preference_goes_first_and_the_objects_only_if_it_persists() {
    // Five minutes are five seconds, and windows shorter than the time between the two steps.
    let world = World::in_stage(&PLAN, 60, "objects", "structured-first").await;
    world.until("the preference", async || (world.view("prefer").await["weight_ppm"] == 500_000).then_some(())).await;
    // What is wrong with the preference alone is over once it is gone.
    world.begin(&[Fault::With("prefer", 5, What::Field("x-chart-validation", "failed"))]).await;
    let rolled_back = async |rollout: &str| (world.view(rollout).await["state"] == "rolled_back").then_some(());
    world.until("the preference is taken back", async || rolled_back("prefer").await).await;
    world
        .until("the objects' triggers are quiet again", async || {
            let view = world.view("objects").await;
            let triggers = view["triggers"].as_array().cloned().unwrap_or_default();
            triggers.iter().all(|trigger| trigger["state"] == "quiet").then_some(())
        })
        .await;
    assert_eq!(world.view("objects").await["state"], "running", "{}", world.story().await);
    let seen = world.request_of(Arm::Canary).await;
    assert_eq!(seen.field("x-enable-structured-chart-objects"), Some("true"));
    assert_eq!(seen.field("x-prefer-structured-chart-commands"), Some("false"));
    // What is wrong with the objects themselves is not.
    world.begin(&[Fault::Canary("/charts", 5, What::Field("x-chart-validation", "failed"))]).await;
    world.until("the objects are taken back", async || rolled_back("objects").await).await;
    let arms = world.arms(40).await;
    assert!(arms.iter().all(|arm| arm == "stable"), "{arms:?}");
    let events = world.events().await;
    let order: Vec<&str> = events
        .iter()
        .filter(|event| event["kind"] == "rollback")
        .filter_map(|event| event["rollout"].as_str())
        .collect();
    assert_eq!(order, ["prefer", "objects"], "{}", world.story().await);
    world.end().await;
}

#[tokio::test]
async fn both_flags_reach_the_service_and_its_log() {
    let world = World::start(&PLAN, 300).await;
    let flags = async |arm| {
        let seen = world.request_of(arm).await;
        ["x-enable-structured-chart-objects", "x-prefer-structured-chart-commands"]
            .map(|name| seen.field(name).map(str::to_owned))
    };
    let values = |objects: &str, prefer: &str| [Some(objects.to_owned()), Some(prefer.to_owned())];
    assert_eq!(flags(Arm::Stable).await, values("false", "false"));
    assert!(world.reach("objects", "canary-10").await, "{}", world.story().await);
    assert_eq!(flags(Arm::Canary).await, values("true", "false"));
    assert!(world.reach("objects", "structured-first").await, "{}", world.story().await);
    // Who prefers has the objects: both flags divide by the same hash.
    world.until("both flags", async || (flags(Arm::Canary).await == values("true", "true")).then_some(())).await;
    assert_eq!(flags(Arm::Stable).await, values("false", "false"));
    let log = world.weir.folder.path().join("access.log");
    world
        .until("a line of the stage", async || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().any(|line| line.contains("structured-first") && line.contains("canary")).then_some(())
        })
        .await;
    world.end().await;
}
