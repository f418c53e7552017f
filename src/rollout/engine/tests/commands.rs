//! What the engine makes of a plan and of a person's word on it.

use super::*;
use crate::rollout::breaker as circuit;
use crate::rollout::course::{Back, Progress};
use crate::rollout::standing::SavedRollout;

fn watched(world: &mut World) -> Result<(), Refused> {
    let (readings, record) = (Readings::default(), Captured::default());
    world.send(Input::Watched { rollout: "chat".into(), wall: Wall::default(), readings, record })
}

fn command(command: Command) -> Input {
    Input::Command { rollout: "chat".into(), command, origin: who() }
}

#[test]
fn a_plan_begins_though_nothing_ever_happened_to_its_rollout() {
    let mut plan = staged(plan("chat", 1_000_000));
    plan.stages.autostart = true;
    plan.stages.list[0].min_duration = Duration::from_secs(60);
    let mut world = World::of([plan]);
    watched(&mut world).unwrap();
    assert_eq!((world.weight("chat"), world.last().kind), (100_000, Kind::Stage));
    let unknown = Input::Watched {
        rollout: "chta".into(),
        wall: Wall::default(),
        readings: Readings::default(),
        record: Captured::default(),
    };
    world.send(unknown).unwrap();
    assert_eq!(world.engine.standings().count(), 1);
}

#[test]
fn a_stage_without_gates_needs_no_look_to_be_left_by_hand() {
    let mut world = World::of([staged(plan("chat", 1_000_000))]);
    world.send(command(Command::Resume)).unwrap();
    world.send(command(Command::Promote { force: false, full: false })).unwrap();
    assert_eq!(world.engine.standing("chat").unwrap().state(), State::Completed);
}

#[test]
fn what_a_breaker_rolled_back_or_the_file_switched_off_takes_no_commands() {
    let given_up = circuit::Saved { rolled_back: true, trips: 3, ..circuit::Saved::default() };
    let progress = Progress { state: State::Running, stage: Some("only".into()), ..Progress::default() };
    let saved = SavedRollout { breaker: given_up, progress, ..SavedRollout::default() };
    let save = Save::Rollout { rollout: "chat".into(), saved };
    let mut world = World::new(vec![staged(plan("chat", 1_000_000))], Saved::Known(vec![save.clone()]));
    let told = world.trail.len();
    world.send(command(Command::Rollback(Back::Stable))).unwrap();
    assert_eq!(world.trail.len(), told, "it is where it was asked to go");
    for refused in [Command::Pause, Command::Approve, Command::Rollback(Back::Half)] {
        let why = conflict_of(world.send(command(refused)));
        assert_eq!(why, "rollout `chat` is rolled back after 3 trips of the breaker: revive it first");
    }
    let off = Plan { enabled: false, ..staged(plan("chat", 1_000_000)) };
    let mut world = World::of([off]);
    assert!(conflict_of(world.send(command(Command::Resume))).contains("off in the config (enabled = false)"));
}

#[test]
fn a_baseline_by_command_is_recorded_whatever_the_disk_and_moves_nothing() {
    let baseline = |rollout: &str, values: &[(&str, f64)], replace| Input::Baseline {
        rollout: rollout.into(),
        captured: Captured { values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value, 0))).collect() },
        replace,
        origin: who(),
    };
    let held = |world: &World| {
        let standing = world.engine.standing("chat").unwrap();
        let values = standing.runtime.captures.get("").map(|captured| captured.values.clone()).unwrap_or_default();
        values.into_iter().map(|(name, (value, _))| (name, value)).collect::<Vec<_>>()
    };
    let named = |name: &str, value: f64| (name.to_owned(), value);
    let mut world = World::of([staged(plan("chat", 1_000_000))]);
    let (told, publications) = (world.trail.len(), world.publications);
    world.send(baseline("chat", &[("stable p95", 150.0), ("stable error_rate", 0.0005)], false)).unwrap();
    world.send(baseline("chat", &[("stable p95", 120.0)], false)).unwrap();
    let both = [named("stable error_rate", 0.0005), named("stable p95", 120.0)];
    assert_eq!(held(&world), both, "what is not named stays");
    assert_eq!(held(&world.restarted([staged(plan("chat", 1_000_000))])), both);
    let last = world.last();
    assert_eq!((last.kind, &last.origin, last.rollout.as_deref()), (Kind::Baseline, &who(), Some("chat")));
    assert_eq!((world.trail.len(), world.publications), (told + 2, publications), "one event each, nothing to publish");
    world.send(baseline("chat", &[("canary p95", 90.0)], true)).unwrap();
    assert_eq!(held(&world), [named("canary p95", 90.0)], "what is not named goes");

    assert!(conflict_of(world.send(baseline("chat", &[], true))).contains("nothing to record"));
    let many: Vec<String> = (0..1001).map(|number| format!("stable query.q{number}")).collect();
    let many: Vec<(&str, f64)> = many.iter().map(|name| (name.as_str(), 1.0)).collect();
    assert!(conflict_of(world.send(baseline("chat", &many, true))).contains("at most 1000"));
    let unknown = world.send(baseline("chta", &[("stable p95", 1.0)], false));
    assert!(matches!(unknown, Err(Refused::NotFound(_))), "{unknown:?}");
    assert_eq!(held(&world), [named("canary p95", 90.0)]);
    // It lets nobody onto the canary, so it waits for no disk.
    world.disk_full = true;
    world.send(baseline("chat", &[("canary p95", 80.0)], false)).unwrap();
    assert_eq!(held(&world), [named("canary p95", 80.0)]);
}
