//! The two claims that every plan makes: it runs from its first stage to its end, and each of its triggers acts.

use super::faults::Fault;
use super::plan::Plan;
use super::world::World;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Mutex;
use weir::config::{Config, UserFiles};

/// One trigger, what provokes it, and what its document says.
#[derive(Clone)]
pub struct Case {
    /// Rollout and trigger.
    pub trigger: (&'static str, &'static str),
    /// The stage of its rollout in which it is provoked, at the earliest.
    pub at: &'static str,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// What it does.
    pub then: Then,
    /// Requests of the canary in the last two seconds before anything goes wrong, where the share of failures matters.
    pub canary_requests: u64,
    /// A time scale of its own, where what comes before it must have left its window.
    pub scale: Option<u32>,
}

/// What a trigger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Everything to stable.
    RollsBack,
    /// Another rollout is rolled back, its own goes on.
    RollsBackOther(&'static str),
    /// Half the weight, and it stands still.
    Halves,
    /// It stands still.
    Pauses,
    /// Somebody is told.
    Alerts,
}

/// A case without a need for many requests.
pub fn case(rollout: &'static str, trigger: &'static str, at: &'static str, fault: Fault, then: Then) -> Case {
    Case { trigger: (rollout, trigger), at, faults: vec![fault], then, canary_requests: 0, scale: None }
}

/// Worlds at once: they mostly wait.
const AT_ONCE: usize = 8;

/// Provokes every trigger of the plan, each in a world of its own; a trigger without a case fails.
pub fn provoke(plan: &'static Plan, scale: u32, cases: Vec<Case>) {
    let file = super::folder().join(plan.file);
    let config = weir::config::load(&file, &[], &mut UserFiles::default()).expect("it passes check").config;
    let provoked: BTreeSet<(&str, &str)> = cases.iter().map(|case| case.trigger).collect();
    assert_eq!(provoked.len(), cases.len(), "one case a trigger");
    assert_eq!(provoked, triggers(&config), "{}: every trigger needs a fault that provokes it", plan.file);
    let (left, failed) = (Mutex::new(cases.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let Some(case) = left.lock().expect("nobody panics with it").next() else { return };
                    let name = case.trigger.1;
                    let alone = std::thread::Builder::new().name(name.to_owned());
                    let ended = alone.spawn(move || alone_with(acts(plan, scale, case))).expect("a thread").join();
                    if ended.is_err() {
                        failed.lock().expect("nobody panics with it").push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    assert!(failed.is_empty(), "{}: {failed:?}", plan.file);
}

fn alone_with(world: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(world);
}

fn triggers(config: &Config) -> BTreeSet<(&str, &str)> {
    config
        .rollouts
        .iter()
        .flat_map(|rollout| rollout.plan.stages.triggers.iter().map(|trigger| (&*rollout.plan.name, &*trigger.name)))
        .collect()
}

/// The plan where the case wants it, before anything goes wrong, and the last event so far: a machine that was slow for a
/// moment may have been noticed; what counts is what comes from now on.
async fn ready(plan: &'static Plan, scale: u32, case: &Case) -> (World, Option<u64>) {
    let (rollout, trigger) = case.trigger;
    loop {
        let world = World::in_stage(plan, case.scale.unwrap_or(scale), rollout, case.at).await;
        world
            .until("traffic as it is wanted", async || {
                let view = world.weir.view(&format!("/api/v1/rollouts/{rollout}?window=2s")).await;
                let other = match case.then {
                    Then::RollsBackOther(other) => world.view(other).await["weight_ppm"].as_u64() > Some(0),
                    _ => true,
                };
                let enough = view["arms"]["canary"]["requests"].as_u64().unwrap_or(0) >= case.canary_requests;
                (view["state"] == "rolled_back" || (other && enough)).then_some(())
            })
            .await;
        let events = world.events().await;
        if events.iter().all(|event| event["kind"] != "rollback") {
            let last = events.last().and_then(|event| event["id"].as_u64());
            return (world, last);
        }
        let by_a_latency = world.was_stopped_by_a_latency().await;
        assert!(by_a_latency, "{trigger}: taken back before anything went wrong\n{}", world.story().await);
        world.end().await;
    }
}

async fn acts(plan: &'static Plan, scale: u32, case: Case) {
    let (rollout, trigger) = case.trigger;
    let (world, last) = ready(plan, scale, &case).await;
    let named = format!("trigger `{trigger}`: ");
    world.begin(&case.faults).await;

    let event = world
        .until(&format!("{trigger} acts"), async || {
            let events = world.events().await;
            events.into_iter().find(|event| {
                let later = event["id"].as_u64() > last;
                later
                    && event["rollout"] == rollout
                    && event["reason"].as_str().is_some_and(|why| why.starts_with(&named))
            })
        })
        .await;
    let story = world.story().await;
    let (old, new) = (&event["old"], &event["new"]);
    let kind = event["kind"].as_str().unwrap_or_default();
    match case.then {
        Then::RollsBack => {
            assert_eq!(
                (kind, &new["state"], &new["weight_ppm"]),
                ("rollback", &"rolled_back".into(), &0.into()),
                "{story}"
            );
            assert!(event["numbers"]["canary"]["requests"].is_u64(), "a snapshot of the numbers: {event}");
            // With the next request.
            let arms = world.arms(40).await;
            assert!(arms.iter().all(|arm| arm != "canary"), "{trigger}: {arms:?}\n{story}");
        }
        Then::RollsBackOther(other) => {
            assert_eq!(
                (kind, &old["state"], &old["weight_ppm"]),
                ("alert", &new["state"], &new["weight_ppm"]),
                "{story}"
            );
            world
                .until("the other one is rolled back", async || {
                    let view = world.view(other).await;
                    (view["state"] == "rolled_back" && view["weight_ppm"] == 0).then_some(())
                })
                .await;
        }
        Then::Halves => {
            let half = old["weight_ppm"].as_u64().map(|weight| weight / 2);
            assert_eq!(
                (kind, &new["state"], new["weight_ppm"].as_u64()),
                ("rollback", &"paused".into(), half),
                "{story}"
            );
        }
        Then::Pauses => {
            // Another one may have been first: it stands still already, and is told what else is wrong.
            assert!(matches!(kind, "pause" | "alert"), "{story}");
            assert_eq!((&new["state"], &new["weight_ppm"]), (&"paused".into(), &old["weight_ppm"]), "{story}");
        }
        Then::Alerts => assert_eq!(
            (kind, &old["state"], &old["weight_ppm"]),
            ("alert", &new["state"], &new["weight_ppm"]),
            "{story}"
        ),
    }
    world.is_told_of(trigger).await;
    world.end().await;
}

/// Runs a plan from its first stage to its end, and says in which order its stages began: each once, in the file's order, at
/// its weight, and nothing else happened.
pub async fn runs_to_its_end(plan: &'static Plan, scale: u32) {
    let (world, (events, story, arms)) = World::completed(plan, scale, async |world: &World| {
        (world.events().await, world.story().await, world.arms(40).await)
    })
    .await;
    let file = super::folder().join(plan.file);
    let config = weir::config::load(&file, &[], &mut UserFiles::default()).expect("it passes check").config;
    for rollout in config.rollouts.iter().filter(|rollout| !rollout.plan.stages.list.is_empty()) {
        let name = &*rollout.plan.name;
        let own = || events.iter().filter(|event| event["rollout"] == name);
        let began: Vec<(&str, u64)> = own()
            .filter(|event| event["new"]["stage"] != event["old"]["stage"])
            .map(|event| {
                (event["new"]["stage"].as_str().expect("a stage"), event["new"]["weight_ppm"].as_u64().expect("ppm"))
            })
            .collect();
        let planned: Vec<(&str, u64)> =
            rollout.plan.stages.list.iter().map(|stage| (&*stage.name, u64::from(stage.weight.ppm()))).collect();
        assert_eq!(began, planned, "{story}");
        let approvals = rollout.plan.stages.list.iter().filter(|stage| stage.approval).count();
        for kind in ["approval", "approve"] {
            assert_eq!(own().filter(|event| event["kind"] == kind).count(), approvals, "{kind}: {story}");
        }
        assert_eq!(own().filter(|event| event["kind"] == "complete").count(), 1, "{story}");
        let calm = ["stage", "approval", "approve", "complete", "baseline", "resume"];
        assert!(own().all(|event| calm.contains(&event["kind"].as_str().unwrap_or_default())), "{story}");
    }
    assert!(arms.iter().all(|arm| arm == "canary"), "everybody has it: {arms:?}");
    world.end().await;
}

/// Without any users a plan neither goes on nor back, in its first stage or in a later one.
pub async fn stands_without_users(plan: &'static Plan, scale: u32, rollout: &str, stage: &str) {
    let world = World::without_users(plan, scale, &[]).await;
    let first = world
        .until("its first stage has lasted long enough", async || {
            if plan.by_hand {
                world.say(rollout, "resume", serde_json::json!({})).await;
            }
            long_enough(&world, rollout).await
        })
        .await;
    while world.view(rollout).await["stage"]["name"] != stage {
        let forced = serde_json::json!({ "force": true, "reason": "to see what no users do to it" });
        assert_eq!(world.say(rollout, "promote", forced).await, 200);
    }
    let later = world.until("and so has a later one", async || long_enough(&world, rollout).await).await;
    assert_ne!(first, later);
    assert_eq!(later, stage);
    let kinds: Vec<Value> = world.events().await.into_iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.iter().all(|kind| kind != "rollback" && kind != "trip"), "{}", world.story().await);
    world.end().await;
}

/// The stage, once it has been served three times as long as it must be; it may have paused because it had to wait too long.
async fn long_enough(world: &World, rollout: &str) -> Option<String> {
    let view = world.view(rollout).await;
    let served = view["stage"]["served_s"].as_f64()? >= 3.0 * view["stage"]["min_duration_s"].as_f64()?;
    (served || view["state"] == "paused").then(|| view["stage"]["name"].as_str().map(str::to_owned)).flatten()
}

/// On both arms at once the same goes wrong: these triggers, which compare, do not blame the canary for it.
pub async fn spares_the_canary(
    plan: &'static Plan,
    scale: u32,
    rollout: &str,
    stage: &str,
    faults: &[Fault],
    quiet: &[&str],
) {
    let world = World::in_stage(plan, scale, rollout, stage).await;
    world.begin(faults).await;
    for name in quiet {
        world
            .until(&format!("{name} sees both arms"), async || {
                let view = world.view(rollout).await;
                let triggers = view["triggers"].as_array().cloned().unwrap_or_default();
                let own = triggers.into_iter().find(|trigger| trigger["name"] == *name)?;
                own["reason"].as_str().is_some_and(|why| why.starts_with("both arms: ")).then_some(())
            })
            .await;
    }
    let acted = world.events().await.into_iter().any(|event| {
        let why = event["reason"].as_str().unwrap_or_default();
        quiet.iter().any(|name| why.starts_with(&format!("trigger `{name}`")))
    });
    assert!(!acted, "{}", world.story().await);
    world.end().await;
}
