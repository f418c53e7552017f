//! Where rules of a course meet: triggers across stages, going back twice, stages that run out, clocks between looks.

use super::*;

#[test]
fn going_back_is_a_new_start_for_triggers_and_what_goes_on_failing_goes_further_back() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 1, Action::Previous)]);
    world.pass(24 * HOUR);
    world.is_at(State::Running, "fifty", 50);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(2 * 60);
    world.is_at(State::Running, "ten", 10);
    assert!(world.course.went_back(), "windows reach back to the start of the stage only");
    assert_eq!(world.course.trigger("t").map(|watched| watched.alarm), None, "nothing has held here yet");
    world.pass(2 * 60);
    world.is_at(State::RolledBack, "ten", 0);
    assert_eq!(world.kinds(), ["stage", "stage", "rollback", "rollback"]);
}

#[test]
fn what_holds_across_a_step_forwards_goes_on_holding() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 10, Action::Rollback)]);
    world.pass(24 * HOUR - 5 * 60);
    world.numbers.set("canary error_rate", 0.008);
    world.pass(5 * 60);
    world.is_at(State::Running, "fifty", 50);
    assert!(!world.course.went_back());
    world.pass(6 * 60);
    world.is_at(State::RolledBack, "fifty", 0);
}

#[test]
fn a_trigger_that_has_alerted_alerts_again_in_the_next_stage() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 0, Action::Alert)]);
    world.numbers.set("canary error_rate", 0.008);
    world.pass(25 * HOUR);
    assert_eq!(world.kinds(), ["stage", "alert", "stage", "alert"]);
}

#[test]
fn a_step_forwards_waits_for_the_look_after_what_is_told() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 0, Action::Alert)]);
    world.pass(24 * HOUR - 60);
    world.numbers.set("canary error_rate", 0.008);
    world.pass(60);
    assert_eq!(world.kinds(), ["stage", "alert"]);
    world.pass(60);
    assert_eq!(world.kinds(), ["stage", "alert", "stage"]);
}

#[test]
fn no_time_before_a_stage_or_while_nothing_is_served_counts_for_it() {
    let mut world = ramp(Vec::new());
    world.pass(HOUR);
    // Between two looks: half a minute of it, then the next stage.
    world.now = world.now.plus(Duration::from_secs(30));
    world.ask(Command::Promote { force: true, full: false }).unwrap();
    world.now = world.now.plus(Duration::from_secs(30));
    world.look();
    assert_eq!(world.progress.served, Duration::from_secs(30));
    world.ask(Command::Pause).unwrap();
    world.now = world.now.plus(Duration::from_secs(40));
    world.ask(Command::Resume).unwrap();
    world.now = world.now.plus(Duration::from_secs(20));
    world.look();
    assert_eq!(world.progress.served, Duration::from_secs(50));
}

#[test]
fn a_second_previous_from_a_stage_pauses_whatever_lay_between() {
    let mut world = ramp(Vec::new());
    let previous = || Command::Rollback(Back::Previous);
    world.ask(Command::Promote { force: true, full: true }).unwrap();
    world.ask(previous()).unwrap();
    world.is_at(State::Running, "fifty", 50);
    world.ask(previous()).unwrap();
    world.is_at(State::Running, "ten", 10);
    world.ask(Command::Promote { force: true, full: true }).unwrap();
    world.ask(previous()).unwrap();
    world.is_at(State::Paused, "fifty", 50);
}

#[test]
fn going_back_raises_no_weight() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 1, Action::Previous)]);
    world.pass(24 * HOUR);
    world.ask(Command::Weight { weight: Weight::from_percent(2).unwrap(), force: false }).unwrap();
    world.numbers.set("canary error_rate", 0.02);
    world.pass(2 * 60);
    world.is_at(State::Running, "ten", 2);
}

#[test]
fn a_stage_that_has_run_out_begins_anew_when_it_is_resumed() {
    let mut world = ramp(Vec::new());
    world.stages.list[0].max_duration = Some(Duration::from_secs(48 * HOUR));
    world.numbers.set("canary error_rate", 0.02);
    world.pass(48 * HOUR);
    world.is_at(State::Paused, "ten", 10);
    let visit = world.progress.visit;
    world.ask(Command::Resume).unwrap();
    world.pass(47 * HOUR);
    world.is_at(State::Running, "ten", 10);
    assert_eq!((world.progress.visit, world.kinds()), (visit + 1, vec!["stage", "pause", "resume"]));
    world.pass(HOUR);
    world.is_at(State::Paused, "ten", 10);
    // Where the gates pass by then there is nothing to begin anew.
    world.numbers.set("canary error_rate", 0.001);
    world.look();
    world.ask(Command::Resume).unwrap();
    world.look();
    world.is_at(State::Running, "fifty", 50);
}

#[test]
fn stages_that_are_passed_over_have_ended_for_whoever_waits_for_them() {
    let mut world = ramp(Vec::new());
    world.ask(Command::Promote { force: true, full: true }).unwrap();
    assert_eq!(world.progress.finished, ["ten".into(), "fifty".into()].into());
    world.progress = Progress::default();
    world.ask(Command::Promote { force: false, full: true }).unwrap();
    assert_eq!(world.progress.finished, ["ten".into(), "fifty".into()].into());
    world.ask(Command::Rollback(Back::Previous)).unwrap();
    assert_eq!(world.progress.finished, ["ten".into()].into(), "what has begun anew has not ended");
}

#[test]
fn a_rollout_that_begins_while_another_ones_trigger_fires_is_acted_on_then() {
    let mut other = trigger("error_rate > 0.5%", 1, Action::Rollback);
    other.rollout = Some("prefer".into());
    let mut world = ramp(vec![other]);
    world.others_serve = false;
    world.numbers.set("canary error_rate", 0.02);
    world.pass(HOUR);
    assert_eq!(world.kinds(), ["stage", "alert"], "told once");
    assert!(world.told[1].reason.ends_with("rollback of `prefer`, which serves nobody"), "{}", world.told[1].reason);
    assert_eq!(world.told[1].acts_on, None);
    world.others_serve = true;
    world.pass(HOUR);
    assert_eq!(world.kinds(), ["stage", "alert", "alert"]);
    assert_eq!(world.told[2].acts_on, Some(("prefer".into(), Action::Rollback)));
}

#[test]
fn a_rollout_that_was_paused_without_stages_begins_none_by_itself() {
    let mut world = World::new(Vec::new(), Vec::new());
    world.ask(Command::Pause).unwrap();
    world.is_at(State::Paused, "-", 100);
    world.stages = ramp(Vec::new()).stages;
    world.progress = world.stages.adopt(&world.progress).unwrap();
    world.pass(HOUR);
    world.is_at(State::Paused, "-", 0);
    world.ask(Command::Resume).unwrap();
    world.is_at(State::Running, "ten", 10);
}
