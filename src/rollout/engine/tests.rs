//! The engine's rules, one by one and in random histories.

use super::*;
use crate::rollout::assign::Phase;
use crate::rollout::plan::CohortPlan;
use crate::rollout::report::State;
use crate::rollout::stages::{Stage, Stages};
use crate::rollout::standing::{MEMBERS_MAX, UNIT_BYTES_MAX};
use world::World;

mod breaker;
mod commands;
mod plans;
mod world;

fn ppm(ppm: u32) -> Weight {
    Weight::from_ppm(ppm).unwrap()
}

fn plan(name: &str, weight: u32) -> Plan {
    Plan {
        name: name.into(),
        weight: ppm(weight),
        killed: false,
        enabled: true,
        stages: Stages::default(),
        cohorts: vec![],
        breaker: None,
    }
}

/// The same with one stage that waits for somebody to start it.
fn staged(plan: Plan) -> Plan {
    let stage = Stage {
        name: "only".into(),
        weight: ppm(100_000),
        shadow: None,
        min_duration: Duration::ZERO,
        max_duration: None,
        cohorts: Vec::new(),
        after: None,
        gates: Vec::new(),
        approval: false,
        capture_baseline: false,
    };
    Plan { stages: Stages { list: vec![stage], ..Stages::default() }, ..plan }
}

fn cohort(name: &str) -> CohortPlan {
    CohortPlan { name: name.into(), enabled: true, exclude: false, listed: 0 }
}

fn with_cohorts(names: &[&str]) -> Plan {
    Plan { cohorts: names.iter().map(|name| cohort(name)).collect(), ..plan("chat", 100_000) }
}

fn who() -> Origin {
    Origin { actor: "anna".into(), reason: "errors".into() }
}

fn set(weight: u32) -> Input {
    Input::SetWeight { rollout: "chat".into(), weight: ppm(weight), force: false, origin: who() }
}

fn kill() -> Input {
    Input::Kill { rollout: "chat".into(), origin: who() }
}

fn revive() -> Input {
    Input::Revive { rollout: "chat".into(), origin: who() }
}

fn switch(cohort: &str, kill: bool) -> Input {
    let (rollout, cohort, origin) = ("chat".into(), cohort.into(), who());
    if kill { Input::CohortKill { rollout, cohort, origin } } else { Input::CohortRevive { rollout, cohort, origin } }
}

fn users(cohort: &str, add: &[&str], remove: &[&str]) -> Input {
    let own = |units: &[&str]| units.iter().map(|unit| unit.to_string()).collect();
    Input::CohortUsers {
        rollout: "chat".into(),
        cohort: cohort.into(),
        add: own(add),
        remove: own(remove),
        origin: who(),
    }
}

fn reload(plans: impl IntoIterator<Item = Plan>) -> Input {
    Input::Reload {
        plans: plans.into_iter().collect(),
        exposes: false,
        changes: vec![],
        needs_restart: vec![],
        origin: Origin { actor: "config".into(), reason: String::new() },
    }
}

fn conflict_of(result: Result<(), Refused>) -> String {
    match result {
        Err(Refused::Conflict(reason)) => reason,
        other => panic!("expected a conflict, got {other:?}"),
    }
}

#[test]
fn a_set_weight_holds_until_the_files_value_changes() {
    let mut world = World::of([plan("chat", 100_000)]);
    world.send(set(250_000)).unwrap();
    assert_eq!(world.weight("chat"), 250_000);
    world.send(reload([plan("chat", 100_000)])).unwrap();
    assert_eq!(world.weight("chat"), 250_000, "the file says what it said before");
    world.send(reload([plan("chat", 110_000)])).unwrap();
    assert_eq!(world.weight("chat"), 110_000);
    world.send(reload([plan("chat", 100_000)])).unwrap();
    assert_eq!(world.weight("chat"), 100_000, "what was set is gone for good");
}

#[test]
fn a_plan_begins_also_without_a_breaker_and_without_a_past() {
    let staged = staged(plan("chat", 1_000_000));
    let stages = Stages { autostart: true, ..staged.stages };
    let mut world = World::of([Plan { breaker: None, stages, ..staged }]);
    let (wall, readings, record) = (Wall::default(), Readings::default(), Captured::default());
    world.send(Input::Watched { rollout: "chat".into(), wall, readings, record }).unwrap();
    assert_eq!(world.weight("chat"), 100_000);
    assert_eq!(world.last().kind, Kind::Stage);
}

#[test]
fn a_set_weight_outlives_a_restart_but_not_another_value_in_the_file() {
    let mut world = World::of([plan("chat", 100_000)]);
    world.send(set(0)).unwrap();
    assert_eq!(world.restarted([plan("chat", 100_000)]).weight("chat"), 0);
    let mut changed = world.restarted([plan("chat", 200_000)]);
    assert_eq!(changed.weight("chat"), 200_000);
    assert_eq!(changed.last().kind, Kind::Weight);
    assert_eq!(changed.restarted([plan("chat", 100_000)]).weight("chat"), 100_000, "its end was written down");
    changed.send(set(1)).unwrap();
    assert_eq!(changed.restarted([]).restarted([plan("chat", 200_000)]).weight("chat"), 200_000, "it left the config");
}

#[test]
fn towards_stable_is_published_first_and_towards_the_canary_recorded_first() {
    let order = |world: &mut World, input| {
        world.engine.handle(input, Time::default()).unwrap();
        let mut order = vec![];
        while let Some(effect) = world.engine.poll_effect() {
            order.push(match &effect {
                Effect::Record(_) => "record",
                Effect::Publish => "publish",
                Effect::SetLatch { .. } => "set",
                Effect::ClearLatch { .. } => "clear",
                Effect::RenewLatch { .. } => "renew",
                Effect::Circuit { .. } => "circuit",
            });
            match effect {
                Effect::Record(_) => world.engine.recorded(true).unwrap(),
                other => world.carry_out(other),
            }
        }
        order
    };
    let mut world = World::of([plan("chat", 100_000)]);
    assert_eq!(order(&mut world, set(50_000)), ["publish", "record"]);
    assert_eq!(order(&mut world, set(60_000)), ["record", "publish"]);
    assert_eq!(order(&mut world, kill()), ["set", "record"]);
    assert_eq!(order(&mut world, revive()), ["record", "clear"]);
    let killed = Plan { killed: true, ..plan("chat", 200_000) };
    assert_eq!(order(&mut world, reload([killed])), ["set", "record", "set", "publish"], "the weight goes up under it");
    assert_eq!(order(&mut world, reload([plan("chat", 100_000)])), ["record", "publish", "clear"]);
    let reordered = [with_cohorts(&["a"])];
    assert_eq!(order(&mut world, reload(reordered)), ["record", "renew", "publish"]);
}

#[test]
fn a_full_disk_denies_the_way_up_and_never_the_way_down() {
    let mut world = World::of([with_cohorts(&["internal"])]);
    world.disk_full = true;
    assert_eq!(conflict_of(world.send(set(200_000))), CANNOT_WRITE);
    assert_eq!(world.weight("chat"), 100_000);
    assert_eq!(conflict_of(world.send(reload([plan("chat", 300_000)]))), CANNOT_WRITE);
    assert_eq!(world.weight("chat"), 100_000);
    world.send(set(50_000)).unwrap();
    assert_eq!(world.weight("chat"), 50_000);
    world.send(switch("internal", true)).unwrap();
    assert_eq!(conflict_of(world.send(switch("internal", false))), CANNOT_WRITE);
    world.send(kill()).unwrap();
    assert!(world.killed("chat"));
    assert_eq!(conflict_of(world.send(revive())), CANNOT_WRITE);
    assert!(world.killed("chat"));
}

#[test]
fn a_kill_in_a_new_file_needs_no_disk_even_if_the_rest_of_the_file_does() {
    let mut world = World::of([plan("chat", 100_000), plan("pay", 100_000)]);
    world.disk_full = true;
    let killed = Plan { killed: true, ..plan("chat", 100_000) };
    assert_eq!(conflict_of(world.send(reload([killed, plan("pay", 900_000)]))), CANNOT_WRITE);
    assert!(world.killed("chat"));
    assert_eq!(world.weight("pay"), 100_000);
    let told: Vec<Kind> = world.late.iter().map(|entry| entry.kind).collect();
    assert_eq!(told, [Kind::Kill], "it happened, so it is told as soon as that is possible");
    world.disk_full = false;
    assert!(conflict_of(world.send(revive())).contains("by file or environment"));
    world.send(reload([plan("chat", 100_000), plan("pay", 100_000)])).unwrap();
    assert!(!world.killed("chat"));
}

#[test]
fn either_kill_kills_and_revive_undoes_only_the_operators() {
    let mut world = World::of([Plan { killed: true, ..plan("chat", 100_000) }]);
    assert!(world.killed("chat"));
    assert!(conflict_of(world.send(revive())).contains("by file or environment"));
    world.send(kill()).unwrap();
    world.send(reload([plan("chat", 100_000)])).unwrap();
    assert!(world.killed("chat"), "the operator's kill outlives the file's");
    assert!(world.restarted([plan("chat", 100_000)]).killed("chat"));
    world.send(revive()).unwrap();
    assert!(!world.killed("chat"));
    assert!(conflict_of(world.send(revive())).contains("nothing to revive"));
}

#[test]
fn killing_twice_is_one_change() {
    let mut world = World::of([plan("chat", 100_000)]);
    world.send(kill()).unwrap();
    let told = world.trail.len();
    world.send(kill()).unwrap();
    assert_eq!(world.trail.len(), told);
    assert_eq!(world.engine.standing("chat").unwrap().reason().unwrap(), "killed by anna: errors");
}

#[test]
fn a_killed_rollout_that_leaves_the_config_comes_back_killed() {
    let mut world = World::of([plan("chat", 100_000)]);
    world.send(kill()).unwrap();
    world.send(reload([])).unwrap();
    assert!(matches!(world.send(revive()), Err(Refused::NotFound(_))));
    world.send(reload([plan("chat", 100_000)])).unwrap();
    assert!(world.killed("chat"));
}

#[test]
fn a_rollout_with_stages_waits_at_zero_and_takes_no_weight() {
    let mut world = World::of([staged(plan("chat", 500_000))]);
    let standing = world.engine.standing("chat").unwrap();
    assert_eq!((standing.state(), standing.weight(), standing.phase()), (State::Pending, Weight::ZERO, Phase::Pending));
    assert!(conflict_of(world.send(set(10))).contains("pending"));
}

#[test]
fn a_disabled_rollout_is_pending_and_says_why() {
    let mut world = World::of([plan("chat", 500_000)]);
    world.send(reload([Plan { enabled: false, ..plan("chat", 500_000) }])).unwrap();
    let told: Vec<Kind> = world.trail.iter().map(|entry| entry.kind).collect();
    assert_eq!(told, [Kind::Pause, Kind::Reload]);
    assert_eq!(world.weight("chat"), 0);
    assert!(conflict_of(world.send(set(10))).contains("enabled = false"));
    assert!(world.engine.standing("chat").unwrap().reason().unwrap().contains("enabled = false"));
    world.send(reload([plan("chat", 500_000)])).unwrap();
    assert_eq!(world.weight("chat"), 500_000);
}

#[test]
fn reordered_cohorts_keep_their_switches_by_name() {
    let mut world = World::of([with_cohorts(&["a", "b", "c"])]);
    world.send(switch("b", true)).unwrap();
    world.send(reload([with_cohorts(&["c", "a", "b"])])).unwrap();
    let admitted = &world.open()["chat"].admitted;
    assert_eq!(admitted.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "c"]);
    world.send(reload([with_cohorts(&["c"])])).unwrap();
    world.send(reload([with_cohorts(&["b", "c"])])).unwrap();
    assert!(!world.open()["chat"].admitted.contains("b"), "its switch outlives its absence");
    assert!(!world.restarted([with_cohorts(&["b"])]).open()["chat"].admitted.contains("b"));
}

#[test]
fn an_excluding_cohort_has_no_switch_and_only_the_file_lets_its_members_through() {
    let excluding = |enabled| {
        let cohorts = vec![CohortPlan { exclude: true, enabled, ..cohort("vip") }];
        Plan { cohorts, ..plan("chat", 500_000) }
    };
    let mut world = World::of([excluding(true)]);
    assert!(conflict_of(world.send(switch("vip", true))).contains("exclude = true"));
    world.disk_full = true;
    assert_eq!(conflict_of(world.send(reload([excluding(false)]))), CANNOT_WRITE);
    assert_eq!(conflict_of(world.send(users("vip", &[], &["u1"]))), CANNOT_WRITE);
    world.send(users("vip", &["u1"], &[])).unwrap();
}

#[test]
fn a_cohort_is_revived_only_if_an_operator_killed_it_and_the_file_enables_it() {
    let mut world = World::of([with_cohorts(&["a"])]);
    assert!(conflict_of(world.send(switch("a", false))).contains("nothing to revive"));
    assert!(matches!(world.send(switch("x", true)), Err(Refused::NotFound(_))));
    world.send(switch("a", true)).unwrap();
    let off = Plan { cohorts: vec![CohortPlan { enabled: false, ..cohort("a") }], ..plan("chat", 100_000) };
    world.send(reload([off])).unwrap();
    assert!(conflict_of(world.send(switch("a", false))).contains("enabled = false"));
}

#[test]
fn members_are_changed_over_the_configs_list_and_survive_a_restart() {
    let mut world = World::of([with_cohorts(&["a"])]);
    world.send(users("a", &["u1", "u2"], &["u3"])).unwrap();
    world.send(users("a", &[], &["u2"])).unwrap();
    for world in [&world, &world.restarted([with_cohorts(&["a"])])] {
        let overlay = &world.engine.standing("chat").unwrap().overlays()["a"];
        assert!(overlay.added.contains("u1") && !overlay.added.contains("u2"));
        assert!(overlay.removed.contains("u2") && overlay.removed.contains("u3"));
    }
    let publications = world.publications;
    world.send(users("a", &["u1"], &[])).unwrap();
    assert_eq!(world.publications, publications, "who is a member already changes nothing");
    assert_eq!(world.last().new, Facts::Members { cohort: "a".into(), added: 1, removed: 2 });
}

#[test]
fn members_are_checked_before_anything_changes() {
    let mut world = World::of([with_cohorts(&["a"])]);
    let field = |result| match result {
        Err(Refused::Invalid { field, .. }) => field,
        other => panic!("expected a field, got {other:?}"),
    };
    assert_eq!(field(world.send(users("a", &["u", ""], &[]))), "add");
    assert_eq!(field(world.send(users("a", &["u"], &["u"]))), "remove");
    let long = "u".repeat(UNIT_BYTES_MAX + 1);
    assert_eq!(field(world.send(users("a", &[], &[&long]))), "remove");
    let many: Vec<String> = (0..=MEMBERS_MAX).map(|n| format!("u{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(conflict_of(world.send(users("a", &many, &[]))).contains("users_file"));
    assert!(world.engine.standing("chat").unwrap().members("a").is_none());
}

#[test]
fn unreadable_state_holds_everything_until_an_operator_decides() {
    let mut world = World::new(vec![with_cohorts(&["a"]), plan("pay", 500_000)], Saved::Unreadable);
    for rollout in ["chat", "pay"] {
        let standing = world.engine.standing(rollout).unwrap();
        assert_eq!((standing.state(), standing.weight()), (State::Paused, Weight::ZERO));
        assert_eq!(standing.reason().unwrap(), UNREADABLE);
        assert_eq!(world.open()[rollout].admitted.len(), 0, "cohorts are off too");
    }
    world.send(reload([with_cohorts(&["a"]), plan("pay", 600_000)])).unwrap();
    assert_eq!(world.weight("pay"), 0, "another value in the file is no operator's word");
    let mut again = world.restarted([with_cohorts(&["a"]), plan("pay", 600_000)]);
    assert_eq!(again.weight("chat"), 0, "a restart neither");
    again.send(set(10)).unwrap();
    assert_eq!(again.weight("chat"), 10);
    again.send(Input::Revive { rollout: "pay".into(), origin: who() }).unwrap();
    assert_eq!(again.weight("pay"), 600_000);
}

#[test]
fn every_change_of_a_reload_is_told_with_old_and_new() {
    let mut world = World::of([with_cohorts(&["a"])]);
    let mut next = with_cohorts(&["a"]);
    next.weight = ppm(200_000);
    next.killed = true;
    next.cohorts[0].enabled = false;
    world.send(reload([next])).unwrap();
    let told: Vec<Kind> = world.trail.iter().map(|entry| entry.kind).collect();
    assert_eq!(told, [Kind::Kill, Kind::Weight, Kind::Cohort, Kind::Reload]);
    assert!(world.trail.iter().all(|entry| entry.origin.actor == "config"));
    let standing = |weight, killed| {
        let breaker = super::breaker::State::Closed;
        Facts::Standing { state: State::Running, stage: None, weight: ppm(weight), killed, breaker }
    };
    assert_eq!(world.trail[0].new, standing(100_000, true));
    assert_eq!(world.trail[1].old, standing(100_000, true), "each from where the one before has led");
    assert_eq!(world.trail[1].new, standing(200_000, true));
}

/// Random histories of operators, reloads, full disks and restarts. The world checks the order of effects by itself; here
/// the weight is checked against the rule of ownership, and a restart against what was there before it.
#[test]
fn any_history_keeps_weights_owned_kills_killed_and_restarts_alike() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut plans = random_plans(&mut random);
        let mut world = World::of(plans.clone());
        // By rollout: what an operator set, and the file's weight it was set under.
        let mut owned: BTreeMap<Arc<str>, (Weight, Weight)> = BTreeMap::new();
        let mut killed: BTreeSet<Arc<str>> = BTreeSet::new();
        for _ in 0..60 {
            world.disk_full = random.u8(..5) == 0;
            let name = ["chat", "pay"][random.usize(..2)];
            match random.u8(..8) {
                0 | 1 => {
                    let weight = ppm(random.u32(..=1_000_000));
                    let input = Input::SetWeight { rollout: name.into(), weight, force: false, origin: who() };
                    if world.send(input).is_ok() {
                        let under = plans.iter().find(|plan| &*plan.name == name).unwrap().weight;
                        owned.insert(name.into(), (weight, under));
                    }
                }
                2 => {
                    world.send(Input::Kill { rollout: name.into(), origin: who() }).unwrap();
                    killed.insert(name.into());
                }
                3 => {
                    let revived = world.send(Input::Revive { rollout: name.into(), origin: who() });
                    killed.retain(|kept| revived.is_err() || **kept != *name);
                }
                4 | 5 => {
                    let cohort = ["a", "b", "c"][random.usize(..3)].to_owned();
                    let (rollout, origin) = (name.to_owned(), who());
                    let input = match random.bool() {
                        true => Input::CohortKill { rollout, cohort, origin },
                        false => Input::CohortRevive { rollout, cohort, origin },
                    };
                    let _ = world.send(input);
                }
                6 => {
                    let next = random_plans(&mut random);
                    if world.send(reload(next.clone())).is_ok() {
                        plans = next;
                    } else {
                        // The kills of the refused file stay.
                        for new in next.iter().filter(|plan| plan.killed) {
                            plans.iter_mut().filter(|plan| plan.name == new.name).for_each(|plan| plan.killed = true);
                        }
                    }
                }
                _ if !world.disk_full => {
                    let before = world.open();
                    let mut unwritten = std::mem::take(&mut world.unwritten);
                    world.disk.append(&mut unwritten);
                    world = world.restarted(plans.clone());
                    assert_eq!(world.open(), before, "seed {seed}");
                }
                _ => {}
            }
            owned.retain(|name, (_, under)| plans.iter().any(|p| p.name == *name && p.weight == *under));
            for plan in &plans {
                let standing = world.engine.standing(&plan.name).unwrap();
                let serves = plan.enabled && !plan.is_staged();
                let wanted = owned.get(&plan.name).map_or(plan.weight, |(weight, _)| *weight);
                assert_eq!(standing.weight(), if serves { wanted } else { Weight::ZERO }, "seed {seed}");
                let must_be = plan.killed || killed.contains(&plan.name);
                assert_eq!(world.killed(&plan.name), must_be, "seed {seed}");
                let bits = world.latches[world.latch_of[&plan.name]];
                assert_eq!(bits, standing.switches().kills().bits(), "seed {seed}");
            }
        }
    }
}

fn random_plans(random: &mut fastrand::Rng) -> Vec<Plan> {
    let mut plans = Vec::new();
    for name in ["chat", "pay"] {
        let mut cohorts = vec![cohort("a"), cohort("b"), CohortPlan { exclude: true, ..cohort("c") }];
        random.shuffle(&mut cohorts);
        cohorts.truncate(random.usize(1..=3));
        for cohort in &mut cohorts {
            cohort.enabled = random.u8(..4) > 0;
        }
        // Few different weights, so that a reload often leaves one as it is.
        let weight = ppm([100_000, 500_000, 1_000_000][random.usize(..3)]);
        let (killed, enabled) = (random.u8(..5) == 0, random.u8(..5) > 0);
        let new = Plan { killed, enabled, cohorts, ..plan(name, weight.ppm()) };
        plans.push(if random.u8(..8) == 0 { staged(new) } else { new });
    }
    plans
}
