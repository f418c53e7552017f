//! What becomes of a rollout when its breaker turns: order of effects, record, revival, restart, reload.

use super::*;
use crate::rollout::breaker::{COOLDOWN_MAX, Happened, Measured, Rules, State as Circuit};
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::window::Counts;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(25);
const COOLDOWN: Duration = Duration::from_secs(30);

fn watched() -> Plan {
    let rules = Rules {
        consecutive_errors: 5,
        error_rate: None,
        latency: None,
        no_answer: None,
        min_units: 3,
        max_unit_share: ppm(250_000),
        cooldown: COOLDOWN,
        cooldown_max: COOLDOWN_MAX,
        probe: ppm(10_000),
        max_trips: 3,
        spares_both: true,
    };
    Plan { breaker: Some(rules), ..plan("chat", 100_000) }
}

fn unwatched() -> Plan {
    Plan { breaker: None, ..watched() }
}

fn quiet() -> Measured {
    Measured { healthy: true, units_seen: 9, ..Measured::default() }
}

fn good_probes(count: u64) -> Measured {
    let mut probes = Happened::default();
    probes.counts.ended = count;
    probes.counts.codes[CodeClass::Success as usize] = count;
    Measured { probes, probes_started: count, ..quiet() }
}

fn failing(count: u64) -> Counts {
    let mut counts = Counts { ended: count, ..Counts::default() };
    counts.errors[ErrorKind::Connect as usize] = count;
    counts
}

/// Tripped, and the cooldown is over.
fn half_open(world: &mut World) {
    world.run_opens().unwrap();
    let cooldown = world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().cooldown_left.unwrap();
    world.look(cooldown, quiet()).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::HalfOpen);
}

fn kinds(world: &World) -> Vec<Kind> {
    world.trail.iter().map(|entry| entry.kind).collect()
}

fn order(world: &mut World, measured: Measured) -> Vec<&'static str> {
    let input = Input::Measured { rollout: "chat".into(), measured: Box::new(measured) };
    world.engine.handle(input, world.now).unwrap();
    let mut order = vec![];
    while let Some(effect) = world.engine.poll_effect() {
        order.push(match &effect {
            Effect::Record(record) if record.first => "record first",
            Effect::Record(_) => "record",
            Effect::Publish => "publish",
            Effect::Circuit { state, .. } => state.word(),
            _ => "switch",
        });
        match effect {
            Effect::Record(_) => world.engine.recorded(true).unwrap(),
            other => world.carry_out(other),
        }
    }
    order
}

#[test]
fn a_trip_takes_effect_and_is_recorded_and_every_step_back_is_recorded_first() {
    let mut world = World::of([watched()]);
    let run = Measured { latched: true, run: 5, run_units: 3, ..quiet() };
    assert_eq!(order(&mut world, run), ["open", "record"]);
    world.now = world.now + COOLDOWN;
    assert_eq!(order(&mut world, quiet()), ["record first", "publish", "half_open"]);
    world.now = world.now + LOOK;
    assert_eq!(order(&mut world, good_probes(5)), ["record first", "closed"]);
}

#[test]
fn a_trip_is_told_with_its_reason_and_with_old_and_new() {
    let mut world = World::of([watched()]);
    world.run_opens().unwrap();
    let entry = world.last();
    assert_eq!((entry.kind, entry.origin.actor.as_str()), (Kind::Trip, "breaker"));
    assert!(entry.origin.reason.starts_with("consecutive_errors 5 >= 5 ("), "{}", entry.origin.reason);
    let standing =
        |breaker| Facts::Standing { state: State::Running, stage: None, weight: ppm(100_000), killed: false, breaker };
    assert_eq!((&entry.old, &entry.new), (&standing(Circuit::Closed), &standing(Circuit::Open)));
    let standing = world.engine.standing("chat").unwrap();
    let report = standing.breaker_report(world.now).unwrap();
    assert_eq!((report.state, report.trips, report.max_trips), (Circuit::Open, 1, 3));
    assert_eq!((report.cooldown_left, report.probe), (Some(COOLDOWN), None));
    assert_eq!(report.last_reason.as_ref(), Some(&world.last().origin.reason));
    assert_eq!(standing.runtime.tripped, [1, 0, 0, 0, 0]);
    assert_eq!(world.open()["chat"].weight, Weight::ZERO);
}

#[test]
fn recovery_is_told_and_the_trips_are_remembered() {
    let mut world = World::of([watched()]);
    half_open(&mut world);
    assert_eq!(world.published["chat"].probe, ppm(10_000));
    assert_eq!(world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().probe, Some(ppm(10_000)));
    world.look(LOOK, good_probes(5)).unwrap();
    assert_eq!((world.circuit("chat"), kinds(&world)), (Circuit::Closed, vec![Kind::Trip, Kind::Recover]));
    assert_eq!(world.open()["chat"].weight, ppm(100_000));
    assert_eq!(world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().trips, 1);
}

#[test]
fn nobody_in_the_trickle_widens_it_by_a_snapshot_of_its_own() {
    let mut world = World::of([watched()]);
    half_open(&mut world);
    let before = world.publications;
    world.look(Duration::from_secs(11), quiet()).unwrap();
    assert_eq!((world.publications, world.published["chat"].probe), (before + 1, ppm(20_000)));
    let report = world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap();
    assert!(report.note.unwrap().contains("widened"), "it says so");
    assert_eq!(world.published["chat"].weight, ppm(100_000));
}

#[test]
fn a_full_disk_never_keeps_it_closed_and_always_keeps_it_open() {
    let mut world = World::of([watched()]);
    world.disk_full = true;
    world.run_opens().unwrap();
    assert_eq!(world.engine.standing("chat").unwrap().breaker(), Circuit::Open);
    assert!(world.look(COOLDOWN, quiet()).is_err());
    assert_eq!(
        (world.circuit("chat"), world.engine.standing("chat").unwrap().breaker()),
        (Circuit::Open, Circuit::Open)
    );
    let note = world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().note;
    assert!(note.unwrap().contains(CANNOT_WRITE));
    world.look(LOOK, quiet()).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::Open, "not tried at every look");
    world.disk_full = false;
    world.look(Duration::from_secs(1), quiet()).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::HalfOpen);
    assert_eq!(world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().note, None);

    world.disk_full = true;
    assert!(world.look(LOOK, good_probes(9)).is_err());
    assert_eq!(world.circuit("chat"), Circuit::HalfOpen);
    world.run_opens().unwrap();
    assert_eq!(world.circuit("chat"), Circuit::Open, "failing probes open it, disk or no disk");
}

#[test]
fn the_last_of_the_trips_rolls_back_until_somebody_revives() {
    let mut world = World::of([watched()]);
    half_open(&mut world);
    half_open(&mut world);
    world.run_opens().unwrap();
    assert_eq!(kinds(&world), [Kind::Trip, Kind::Trip, Kind::Trip, Kind::Rollback]);
    let standing = world.engine.standing("chat").unwrap();
    assert_eq!((standing.state(), standing.weight(), standing.phase()), (State::RolledBack, ppm(0), Phase::RolledBack));
    assert!(
        standing.reason().unwrap().starts_with("rolled back after 3 trips of the breaker, the last by consecutive")
    );
    assert!(matches!(world.last().new, Facts::Standing { state: State::RolledBack, .. }));
    assert_eq!(world.published["chat"].weight, ppm(0));
    world.look(Duration::from_secs(86_400), good_probes(100)).unwrap();
    assert_eq!(world.weight("chat"), 0, "no time and no probe brings it back");
    assert!(conflict_of(world.send(set(10))).contains("rolled back"));
    let mut again = world.restarted([watched()]);
    assert_eq!((again.weight("chat"), again.circuit("chat")), (0, Circuit::Open), "nor does a restart");
    world.send(reload([Plan { weight: ppm(200_000), ..watched() }])).unwrap();
    assert_eq!(world.weight("chat"), 0, "nor a reload");
    world.send(reload([unwatched()])).unwrap();
    assert_eq!(world.weight("chat"), 0, "nor switching the breaker off");

    for world in [&mut again, &mut world] {
        world.send(revive()).unwrap();
        assert_eq!((world.weight("chat"), world.circuit("chat")), (100_000, Circuit::Closed));
        assert_eq!(world.last().kind, Kind::Revive);
        let standing = world.engine.standing("chat").unwrap();
        assert_eq!((standing.state(), standing.saved.breaker.trips), (State::Running, 0));
    }
    again.run_opens().unwrap();
    assert_eq!(again.engine.standing("chat").unwrap().state(), State::Running, "its trips are counted anew");
}

#[test]
fn revive_undoes_the_kill_first_and_then_closes_the_breaker() {
    let mut world = World::of([watched()]);
    world.run_opens().unwrap();
    world.send(kill()).unwrap();
    world.send(revive()).unwrap();
    assert_eq!((world.killed("chat"), world.circuit("chat")), (false, Circuit::Open));
    world.disk_full = true;
    assert_eq!(conflict_of(world.send(revive())), CANNOT_WRITE);
    assert_eq!(world.circuit("chat"), Circuit::Open);
    world.disk_full = false;
    world.send(revive()).unwrap();
    assert_eq!((world.circuit("chat"), world.open()["chat"].weight), (Circuit::Closed, ppm(100_000)));
    assert!(conflict_of(world.send(revive())).contains("nothing to revive"));
    world.run_opens().unwrap();
    world.send(reload([Plan { killed: true, ..watched() }])).unwrap();
    assert!(conflict_of(world.send(revive())).contains("by file or environment"));
    assert_eq!(world.circuit("chat"), Circuit::Open);
}

#[test]
fn a_killed_rollout_is_not_judged_and_probes_nobody() {
    let mut world = World::of([watched()]);
    world.run_opens().unwrap();
    world.send(kill()).unwrap();
    world.look(COOLDOWN, quiet()).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::Open);
    world.send(revive()).unwrap();
    world.look(LOOK, quiet()).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::HalfOpen, "the cooldown went on");
}

#[test]
fn a_restart_never_reopens_the_way_to_a_sick_canary() {
    let mut world = World::of([watched()]);
    half_open(&mut world);
    let mut again = world.restarted([watched()]);
    assert_eq!((again.circuit("chat"), again.open()["chat"].weight), (Circuit::Open, ppm(0)));
    let report = again.engine.standing("chat").unwrap().breaker_report(again.now).unwrap();
    assert_eq!((report.state, report.trips, report.cooldown_left), (Circuit::Open, 1, Some(COOLDOWN)));
    assert!(report.last_reason.unwrap().starts_with("consecutive_errors"));
    again.look(COOLDOWN, quiet()).unwrap();
    assert_eq!(again.circuit("chat"), Circuit::HalfOpen);
}

#[test]
fn a_reload_keeps_the_breaker_and_one_that_is_switched_off_lets_go() {
    let mut world = World::of([watched()]);
    world.run_opens().unwrap();
    let mut other = watched();
    other.breaker.as_mut().unwrap().cooldown = Duration::from_secs(90);
    world.send(reload([other])).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::Open);
    let left = world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().cooldown_left;
    assert_eq!(left, Some(Duration::from_secs(90)), "under the new rules");

    world.disk_full = true;
    assert_eq!(conflict_of(world.send(reload([unwatched()]))), CANNOT_WRITE);
    assert_eq!(world.circuit("chat"), Circuit::Open, "it lets somebody through, so it is written down first");
    world.disk_full = false;
    world.send(reload([unwatched()])).unwrap();
    assert_eq!((world.circuit("chat"), world.weight("chat")), (Circuit::Closed, 100_000));
    assert!(kinds(&world).ends_with(&[Kind::Recover, Kind::Reload]), "{:?}", kinds(&world));
    assert_eq!(world.engine.standing("chat").unwrap().breaker_report(world.now), None);
    assert_eq!(world.restarted([watched()]).circuit("chat"), Circuit::Closed, "that was written down");
}

#[test]
fn a_rollout_that_leaves_the_config_with_an_open_breaker_comes_back_with_it() {
    let mut world = World::of([watched()]);
    half_open(&mut world);
    world.send(reload([])).unwrap();
    world.send(reload([watched()])).unwrap();
    assert_eq!((world.circuit("chat"), world.open()["chat"].weight), (Circuit::Open, ppm(0)));
}

#[test]
fn cohorts_that_change_places_leave_the_circuit_as_it_is() {
    let cohorts = |names: [&str; 2]| Plan { cohorts: names.map(cohort).to_vec(), ..watched() };
    let mut world = World::of([cohorts(["a", "b"])]);
    half_open(&mut world);
    let latch = world.latch_of["chat"];
    world.send(reload([cohorts(["b", "a"])])).unwrap();
    assert_ne!(world.latch_of["chat"], latch);
    assert_eq!(world.circuit("chat"), Circuit::HalfOpen);
}

#[test]
fn both_arms_alike_are_told_and_nothing_moves() {
    let mut rules = watched();
    rules.breaker.as_mut().unwrap().consecutive_errors = 2;
    let mut world = World::of([rules]);
    let arm = || Happened { counts: failing(10), ..Happened::default() };
    let both = Measured { stable: arm(), canary: arm(), run: 10, run_units: 5, ..quiet() };
    let saves = world.disk.len();
    world.look(LOOK, both).unwrap();
    assert_eq!((kinds(&world), world.circuit("chat")), (vec![Kind::Alert], Circuit::Closed));
    assert!(world.last().origin.reason.starts_with("both arms: consecutive_errors 10 >= 2"));
    assert_eq!(world.disk.len(), saves, "nothing to be remembered");
    let note = world.engine.standing("chat").unwrap().breaker_report(world.now).unwrap().note.unwrap();
    assert!(note.starts_with("both arms: "), "{note}");
}

#[test]
fn a_circuit_that_opened_while_stable_broke_as_well_is_handed_back_with_an_alert() {
    let mut world = World::of([watched()]);
    let stable = Happened { counts: failing(9), ..Happened::default() };
    let canary = Happened { counts: failing(9), ..Happened::default() };
    world.circuits.insert("chat".into(), Circuit::Open);
    world.disk_full = true;
    let both = Measured { stable, canary, latched: true, run: 5, run_units: 3, ..quiet() };
    world.look(LOOK, both).unwrap();
    assert_eq!(world.circuit("chat"), Circuit::Closed, "on the disk it has never been anything else");
    assert_eq!(world.engine.standing("chat").unwrap().runtime.tripped, [0; 5]);
}

/// Random histories of failures, recoveries, operators, reloads, full disks and restarts. The world checks the order of
/// effects; here that the circuit is what the engine says, and that nothing but a person ends a rollback.
#[test]
fn any_history_keeps_the_circuit_and_the_record_alike() {
    for seed in 0..400 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::of([watched()]);
        let mut present = watched();
        for _ in 0..80 {
            world.disk_full = random.u8(..4) == 0;
            let rolled_back = world.engine.standing("chat").unwrap().state() == State::RolledBack;
            let mut revived = false;
            match random.u8(..10) {
                0..=2 if world.open()["chat"].weight > Weight::ZERO && present.breaker.is_some() => {
                    world.run_opens().unwrap();
                }
                3 | 4 => drop(world.look(COOLDOWN * random.u32(1..5), quiet())),
                5 => drop(world.look(LOOK, good_probes(9))),
                6 => drop(world.send(kill())),
                7 => revived = world.send(revive()).is_ok(),
                8 => {
                    let next = if random.u8(..4) == 0 { unwatched() } else { watched() };
                    if world.send(reload([next.clone()])).is_ok() {
                        present = next;
                    }
                }
                9 if !world.disk_full => {
                    let mut unwritten = std::mem::take(&mut world.unwritten);
                    world.disk.append(&mut unwritten);
                    let (before, now) = (world.open(), world.now);
                    world = world.restarted([present.clone()]);
                    world.now = now;
                    assert!(world.open()["chat"].weight <= before["chat"].weight, "seed {seed}");
                }
                _ => {}
            }
            let standing = world.engine.standing("chat").unwrap();
            assert_eq!(world.circuit("chat"), standing.breaker(), "seed {seed}");
            let still = standing.state() == State::RolledBack;
            assert!(!rolled_back || still || revived, "seed {seed}: only a person ends a rollback");
            assert!(!still || world.published["chat"].weight == Weight::ZERO, "seed {seed}");
            let watching = standing.runtime.breaker.as_ref().map(|breaker| breaker.state());
            assert!(watching.is_none_or(|state| state == standing.breaker()), "seed {seed}");
        }
    }
}

#[test]
fn the_breaker_is_watched_in_every_state_that_sends_traffic() {
    for reached in [Command::Pause, Command::Promote { force: true, full: true }] {
        let mut plan = staged(watched());
        plan.stages.autostart = true;
        let mut world = World::of([plan]);
        let send = |world: &mut World, command| {
            world.send(Input::Command { rollout: "chat".into(), command, origin: who() }).unwrap();
        };
        send(&mut world, Command::Resume);
        send(&mut world, reached);
        assert_ne!(world.engine.standing("chat").unwrap().state(), State::Running);
        world.run_opens().unwrap();
        let standing = world.engine.standing("chat").unwrap();
        assert_eq!((standing.breaker(), standing.saved.breaker.trips), (Circuit::Open, 1));
        assert_eq!(world.last().kind, Kind::Trip);
    }
}

#[test]
fn stable_is_looked_at_after_the_breaker_has_rolled_back_a_rollout_without_a_plan() {
    let rules = Rules { max_trips: 1, ..watched().breaker.unwrap() };
    let mut world = World::of([Plan { breaker: Some(rules), ..watched() }]);
    assert!(!world.engine.standing("chat").unwrap().is_watched());
    world.run_opens().unwrap();
    assert!(world.engine.standing("chat").unwrap().is_watched());
}
