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
