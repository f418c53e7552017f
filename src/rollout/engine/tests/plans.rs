//! What becomes of rollouts when their plans are looked at: order of effects, record, disk, several rollouts at once.

use super::*;
use crate::rollout::course::{Back, asks};
use crate::rollout::criterion::{Reading, parse};
use crate::rollout::stages::{Action, Gate, Span, Trigger};

/// A plan `ten` (10%, cohort `friends`) and `fifty` (50%), an hour each.
fn ramp(name: &str) -> Plan {
    let stage = |name: &str, weight, cohorts: &[&str]| Stage {
        name: name.into(),
        weight: ppm(weight),
        shadow: None,
        min_duration: HOUR,
        max_duration: None,
        cohorts: cohorts.iter().map(|name| Arc::from(*name)).collect(),
        after: None,
        gates: vec![Gate { criterion: parse("error_rate <= 1%").unwrap(), span: Span::Stage, min_requests: 1 }],
        approval: false,
        capture_baseline: false,
    };
    let list = vec![stage("ten", 100_000, &["friends"]), stage("fifty", 500_000, &[])];
    let stages = Stages { list, autostart: true, ..Stages::default() };
    Plan { stages, cohorts: vec![cohort("friends")], ..plan(name, 1_000_000) }
}

fn trigger(name: &str, when: &str, action: Action) -> Trigger {
    Trigger {
        name: name.into(),
        criterion: parse(when).unwrap(),
        held_for: Duration::ZERO,
        action,
        dry_run: false,
        rollout: None,
        window: Duration::from_secs(60),
        min_requests: 1,
        spares_both: false,
        stages: Vec::new(),
    }
}

fn on(rollout: &str, trigger: Trigger) -> Trigger {
    Trigger { rollout: Some(rollout.into()), ..trigger }
}

fn with(mut plan: Plan, triggers: Vec<Trigger>) -> Plan {
    plan.stages.triggers = triggers;
    plan
}

/// A look after a second that finds this share of failures on the canary.
fn watched(world: &mut World, rollout: &str, errors: f64) -> Result<(), Refused> {
    world.now = world.now + Duration::from_secs(1);
    let standing = world.engine.standing(rollout).unwrap();
    let stage = standing.saved.progress.stage.clone();
    let asked = asks(&standing.plan.stages, stage.as_deref(), standing.runtime.course.went_back());
    let readings = Readings::take(asked, |_, asked| match asked.arm {
        crate::rollout::Arm::Canary => Reading::Value { value: errors, samples: 1000 },
        crate::rollout::Arm::Stable => Reading::Value { value: 0.0, samples: 1000 },
    });
    world.send(Input::Watched { rollout: rollout.into(), wall: Wall::default(), readings, record: Captured::default() })
}

/// Both rollouts in their last stage.
fn at_fifty(plans: [Plan; 2]) -> World {
    let mut world = World::of(plans);
    for rollout in ["chat", "pay"] {
        watched(&mut world, rollout, 0.0).unwrap();
        let command = Command::Promote { force: true, full: false };
        world.send(Input::Command { rollout: rollout.into(), command, origin: who() }).unwrap();
    }
    world.trail.clear();
    world
}

fn state(world: &World, rollout: &str) -> (State, Option<Arc<str>>, u32) {
    let standing = world.engine.standing(rollout).unwrap();
    (standing.state(), standing.saved.progress.stage.clone(), standing.weight().ppm())
}

fn told(world: &World) -> Vec<(&str, &'static str)> {
    world.trail.iter().map(|entry| (entry.rollout.as_deref().unwrap_or_default(), entry.kind.word())).collect()
}

#[test]
fn what_is_told_at_the_same_look_undoes_no_rollback() {
    let triggers =
        vec![trigger("loud", "error_rate > 1%", Action::Alert), trigger("sick", "error_rate > 5%", Action::Rollback)];
    let mut world = at_fifty([with(ramp("chat"), triggers), ramp("pay")]);
    watched(&mut world, "chat", 0.5).unwrap();
    assert_eq!(state(&world, "chat"), (State::RolledBack, Some("fifty".into()), 0));
    assert_eq!(world.restarted([ramp("chat")]).weight("chat"), 0);
    assert_eq!(told(&world), [("chat", "rollback"), ("chat", "alert")]);
    assert_eq!(world.trail[0].new, world.trail[1].old, "each is told from where the one before has led");
}

#[test]
fn a_full_disk_keeps_no_trigger_from_rolling_another_rollout_back() {
    let other = on("pay", trigger("sick", "error_rate > 5%", Action::Rollback));
    let mut chat = with(ramp("chat"), vec![other]);
    // A stage that may end at the same look.
    chat.stages.list[1].min_duration = Duration::ZERO;
    chat.stages.list[1].gates.clear();
    chat.stages.list.push(Stage { name: "full".into(), weight: ppm(1_000_000), ..chat.stages.list[1].clone() });
    let mut world = at_fifty([chat, ramp("pay")]);
    world.disk_full = true;
    watched(&mut world, "chat", 0.5).unwrap();
    assert_eq!(state(&world, "pay"), (State::RolledBack, Some("fifty".into()), 0));
    assert_eq!(state(&world, "chat"), (State::Running, Some("fifty".into()), 500_000));
    assert_eq!(conflict_of(watched(&mut world, "chat", 0.5)), CANNOT_WRITE, "and its own step waits for the disk");
}

#[test]
fn two_triggers_that_act_on_one_rollout_do_the_graver_thing() {
    let triggers = vec![
        on("pay", trigger("halts", "error_rate > 1%", Action::Pause)),
        on("pay", trigger("sick", "error_rate > 5%", Action::Rollback)),
    ];
    let mut world = at_fifty([with(ramp("chat"), triggers), ramp("pay")]);
    watched(&mut world, "chat", 0.5).unwrap();
    assert_eq!(state(&world, "pay").0, State::RolledBack);
    assert_eq!(told(&world), [("chat", "alert"), ("chat", "alert"), ("pay", "rollback")]);
}

#[test]
fn going_back_to_a_stage_that_admits_more_is_recorded_first_or_goes_to_stable() {
    let back = vec![trigger("sick", "error_rate > 5%", Action::Previous)];
    let mut world = at_fifty([with(ramp("chat"), back.clone()), ramp("pay")]);
    watched(&mut world, "chat", 0.5).unwrap();
    assert_eq!(state(&world, "chat"), (State::Running, Some("ten".into()), 100_000));
    let mut full = at_fifty([with(ramp("chat"), back), ramp("pay")]);
    full.disk_full = true;
    watched(&mut full, "chat", 0.5).unwrap();
    assert_eq!(state(&full, "chat"), (State::RolledBack, Some("fifty".into()), 0));
    let reason = full.engine.standing("chat").unwrap().reason().unwrap();
    assert!(reason.ends_with("(to stable, because state cannot be written)"), "{reason}");
}

#[test]
fn a_step_that_is_denied_comes_again_and_is_told_of_once() {
    let mut world = World::of([ramp("chat")]);
    watched(&mut world, "chat", 0.0).unwrap();
    world.now = world.now + HOUR;
    world.disk_full = true;
    for _ in 0..3 {
        assert_eq!(conflict_of(watched(&mut world, "chat", 0.0)), CANNOT_WRITE);
    }
    world.disk_full = false;
    watched(&mut world, "chat", 0.0).unwrap();
    assert_eq!(state(&world, "chat"), (State::Running, Some("fifty".into()), 500_000));
    assert_eq!(told(&world), [("chat", "stage"), ("chat", "stage")]);
}

#[test]
fn time_out_of_the_config_is_not_served_and_holds_no_trigger() {
    let mut slow = trigger("sick", "error_rate > 5%", Action::Rollback);
    slow.held_for = HOUR;
    let plans = || [with(ramp("chat"), vec![slow.clone()]), ramp("pay")];
    let mut world = at_fifty(plans());
    watched(&mut world, "chat", 0.5).unwrap();
    let served = |world: &World| world.engine.standing("chat").unwrap().saved.progress.served;
    let before = served(&world);
    world.send(reload([ramp("pay")])).unwrap();
    world.now = world.now + HOUR * 9;
    world.send(reload(plans())).unwrap();
    watched(&mut world, "chat", 0.5).unwrap();
    watched(&mut world, "chat", 0.5).unwrap();
    assert_eq!(state(&world, "chat").0, State::Running);
    assert!(served(&world) <= before + Duration::from_secs(2), "{:?}", served(&world));
}

#[test]
fn a_trigger_that_becomes_another_one_has_not_held_yet() {
    let mut slow = trigger("sick", "error_rate > 5%", Action::Rollback);
    slow.held_for = Duration::from_secs(5);
    let mut world = at_fifty([with(ramp("chat"), vec![slow.clone()]), ramp("pay")]);
    (0..4).for_each(|_| watched(&mut world, "chat", 0.5).unwrap());
    slow.criterion = parse("error_rate > 6%").unwrap();
    world.send(reload([with(ramp("chat"), vec![slow]), ramp("pay")])).unwrap();
    (0..5).for_each(|_| watched(&mut world, "chat", 0.5).unwrap());
    assert_eq!(state(&world, "chat").0, State::Running);
    watched(&mut world, "chat", 0.5).unwrap();
    assert_eq!(state(&world, "chat").0, State::RolledBack);
}

#[test]
fn gates_of_a_changed_plan_are_judged_before_anybody_promotes_by_them() {
    let mut world = at_fifty([ramp("chat"), ramp("pay")]);
    watched(&mut world, "chat", 0.0).unwrap();
    let mut stricter = ramp("chat");
    stricter.stages.list[1].gates[0].criterion = parse("error_rate < 0.1%").unwrap();
    world.send(reload([stricter, ramp("pay")])).unwrap();
    let command = Command::Promote { force: false, full: false };
    let promote = Input::Command { rollout: "chat".into(), command, origin: who() };
    assert!(conflict_of(world.send(promote)).contains("have not been judged yet"));
}

#[test]
fn a_stage_of_a_rollout_that_was_taken_back_opens_no_way() {
    let mut waits = ramp("pay");
    waits.stages.list[0].after = Some(After { rollout: "chat".into(), stage: "ten".into() });
    let mut world = World::of([ramp("chat"), waits]);
    watched(&mut world, "chat", 0.0).unwrap();
    world.now = world.now + HOUR;
    watched(&mut world, "chat", 0.0).unwrap();
    assert_eq!(state(&world, "chat").1.as_deref(), Some("fifty"));
    world.send(kill()).unwrap();
    watched(&mut world, "pay", 0.0).unwrap();
    assert_eq!(state(&world, "pay").0, State::Pending, "killed");
    world.send(revive()).unwrap();
    let back = Command::Rollback(Back::Stable);
    world.send(Input::Command { rollout: "chat".into(), command: back, origin: who() }).unwrap();
    watched(&mut world, "pay", 0.0).unwrap();
    assert_eq!(state(&world, "pay").0, State::Pending, "rolled back");
    world.send(revive()).unwrap();
    watched(&mut world, "pay", 0.0).unwrap();
    assert_eq!(state(&world, "pay").0, State::Running);
}

#[test]
fn a_rollout_that_comes_back_without_its_stage_is_held_and_begins_anew_when_revived() {
    let mut world = at_fifty([ramp("chat"), ramp("pay")]);
    world.send(reload([ramp("pay")])).unwrap();
    let mut other = ramp("chat");
    other.stages.list[1].name = "half".into();
    world.send(reload([other.clone(), ramp("pay")])).unwrap();
    assert_eq!(state(&world, "chat"), (State::Paused, Some("fifty".into()), 0));
    world.send(revive()).unwrap();
    watched(&mut world, "chat", 0.0).unwrap();
    assert_eq!(state(&world, "chat"), (State::Running, Some("ten".into()), 100_000));
    // One that is under way is not taken from under itself.
    world.send(Input::Command { rollout: "chat".into(), command: forced(), origin: who() }).unwrap();
    assert!(conflict_of(world.send(reload([ramp("chat"), ramp("pay")]))).contains("in stage `half`"));
}

#[test]
fn a_weight_above_what_its_stage_is_lowered_to_ends_unless_it_was_forced() {
    let set = |weight, force| Input::SetWeight { rollout: "chat".into(), weight: ppm(weight), force, origin: who() };
    let lowered = |to| {
        let mut plan = ramp("chat");
        plan.stages.list[1].weight = ppm(to);
        plan
    };
    let mut world = at_fifty([ramp("chat"), ramp("pay")]);
    world.send(set(400_000, false)).unwrap();
    world.send(reload([lowered(450_000), ramp("pay")])).unwrap();
    assert_eq!(world.weight("chat"), 400_000);
    world.send(reload([lowered(200_000), ramp("pay")])).unwrap();
    assert_eq!(world.weight("chat"), 200_000);
    assert_eq!(world.restarted([ramp("chat")]).weight("chat"), 500_000);
    world.send(set(700_000, true)).unwrap();
    world.send(reload([lowered(200_000), ramp("pay")])).unwrap();
    assert_eq!(world.weight("chat"), 700_000, "the stage is as it was");
    assert_eq!(
        world.restarted([lowered(200_000)]).weight("chat"),
        200_000,
        "nobody can tell any more that it was forced"
    );
}

#[test]
fn a_baseline_that_could_not_be_recorded_is_told_until_there_is_one() {
    let mut plan = ramp("chat");
    plan.stages.list[0].capture_baseline = true;
    plan.stages.list[1].gates[0].criterion = parse("error_rate <= baseline").unwrap();
    let mut world = World::of([plan]);
    watched(&mut world, "chat", 0.0).unwrap();
    let lacks = |world: &World| world.engine.standing("chat").unwrap().lacks_baseline();
    assert_eq!(lacks(&world), None, "its stage has not ended yet");
    let command = Command::Promote { force: true, full: false };
    world.send(Input::Command { rollout: "chat".into(), command, origin: who() }).unwrap();
    assert_eq!(
        lacks(&world).unwrap(),
        "stage `ten` ended with nothing measured, so there is no baseline, and what compares with it waits: \
         `weir baseline chat --capture` records the present stage"
    );
    let told = world.trail.last().unwrap();
    assert_eq!(
        (told.kind.word(), &*told.origin.reason),
        ("baseline", "nothing was measured in stage `ten`: there is no baseline")
    );
    let captured = Captured { values: [("stable error_rate".to_owned(), (0.01, 100))].into() };
    let input = Input::Baseline { rollout: "chat".into(), captured, replace: false, origin: who() };
    world.send(input).unwrap();
    assert_eq!(lacks(&world), None);
}

#[test]
fn what_stable_showed_before_it_lost_its_traffic_stays_in_the_baseline() {
    let captured = |values: &[(&str, f64)]| Captured {
        values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value, 100))).collect(),
    };
    let mut plan = ramp("chat");
    plan.stages.list[0].capture_baseline = true;
    let mut world = World::of([plan]);
    watched(&mut world, "chat", 0.0).unwrap();
    let ask = |command| Input::Command { rollout: "chat".into(), command, origin: who() };
    let both = |world: &World| {
        let captures = &world.engine.standing("chat").unwrap().runtime.captures;
        ["stable p95", "canary p95"].map(|name| captures[""].values[name].0)
    };
    for (record, baseline) in [
        (captured(&[("stable p95", 80.0), ("canary p95", 90.0)]), [80.0, 90.0]),
        (captured(&[("canary p95", 70.0)]), [80.0, 70.0]),
    ] {
        let (rollout, wall, readings) = ("chat".into(), Wall::default(), Readings::default());
        world.send(Input::Watched { rollout, wall, readings, record }).unwrap();
        world.send(ask(forced())).unwrap();
        assert_eq!(both(&world), baseline);
    }
    // The first stage again, without a single request in it.
    world.send(ask(Command::Rollback(Back::Previous))).unwrap();
    world.send(ask(forced())).unwrap();
    assert_eq!((both(&world), world.last().kind), ([80.0, 70.0], Kind::Baseline));
    assert!(world.last().origin.reason.ends_with("the baseline stays what it was"));
}

#[test]
fn a_rollout_that_the_config_switches_off_goes_nowhere() {
    let mut world = World::of([ramp("chat")]);
    watched(&mut world, "chat", 0.0).unwrap();
    world.now = world.now + HOUR;
    let mut off = Plan { enabled: false, ..ramp("chat") };
    off.stages.list[0].gates.clear();
    world
        .send(Input::Watched {
            rollout: "chat".into(),
            wall: Wall::default(),
            readings: Readings::default(),
            record: Captured::default(),
        })
        .unwrap();
    world.send(reload([off])).unwrap();
    watched(&mut world, "chat", 0.0).unwrap();
    assert_eq!(state(&world, "chat"), (State::Pending, Some("ten".into()), 0));
    world.send(reload([ramp("chat")])).unwrap();
    assert_eq!(state(&world, "chat"), (State::Running, Some("ten".into()), 100_000));
}

fn forced() -> Command {
    Command::Promote { force: true, full: false }
}

const HOUR: Duration = Duration::from_secs(3600);
