//! The rules of a course, one claim a test, on a virtual clock.

use super::*;
use crate::rollout::criterion::parse;
use crate::rollout::stages::Gate;
use std::cell::RefCell;
use std::collections::BTreeMap;

mod edges;

const HOUR: u64 = 3600;

/// Values by the printed form of what is asked for: `canary error_rate`.
#[derive(Default)]
struct Numbers(RefCell<BTreeMap<String, (f64, u64)>>);

impl Numbers {
    fn set(&self, asked: &str, value: f64) {
        self.0.borrow_mut().insert(asked.into(), (value, 1000));
    }

    fn forget(&self, asked: &str) {
        self.0.borrow_mut().remove(asked);
    }
}

impl Measurements for Numbers {
    fn read(&self, _: Span, sample: Sample<'_>) -> Reading {
        let arm = if sample.metric.has_arms() { sample.arm.name() } else { "-" };
        match self.0.borrow().get(&format!("{arm} {}", sample.metric)) {
            Some(&(value, samples)) => Reading::Value { value, samples },
            None => Reading::NoData("no requests".into()),
        }
    }
}

/// A rollout that goes on as the engine would let it.
struct World {
    stages: Stages,
    progress: Progress,
    course: Course,
    numbers: Numbers,
    frozen: bool,
    finished: bool,
    others_serve: bool,
    ceiling: Weight,
    now: Time,
    told: Vec<Turn>,
}

impl World {
    fn new(stages: Vec<Stage>, triggers: Vec<Trigger>) -> World {
        World {
            stages: Stages { list: stages, triggers, autostart: true, ..Stages::default() },
            progress: Progress::default(),
            course: Course::default(),
            numbers: Numbers::default(),
            frozen: false,
            finished: true,
            others_serve: true,
            ceiling: Weight::FULL,
            now: Time::from_micros(1),
            told: Vec::new(),
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Course, Time, &Ground<'_>, &Numbers) -> T) -> T {
        let finished = self.finished;
        let has_finished = move |_: &After| finished;
        let ground = Ground {
            stages: &self.stages,
            progress: &self.progress,
            ceiling: self.ceiling,
            enabled: true,
            frozen: self.frozen,
            wall: Wall::from_millis(0),
            has_finished: &has_finished,
        };
        act(&mut self.course, self.now, &ground, &self.numbers)
    }

    /// As the engine does it.
    fn take(&mut self, turn: Turn) {
        let before = self.with(|_, _, ground, _| ground.place());
        if turn.moves() {
            self.progress = turn.progress.clone();
        }
        let after = self.with(|_, _, ground, _| ground.place());
        if after != before {
            self.course.moved(self.now, Some(&before), &after);
        }
        self.told.push(turn);
    }

    fn look(&mut self) {
        let others_serve = self.others_serve;
        let look = |course: &mut Course, now, ground: &Ground<'_>, numbers: &Numbers| {
            course.look(now, ground, numbers, &|_| others_serve)
        };
        let (served, turns) = self.with(look);
        self.progress.served = served;
        for turn in turns {
            self.take(turn);
        }
    }

    /// Lets time pass, with a look every minute.
    fn pass(&mut self, seconds: u64) {
        let end = self.now.plus(Duration::from_secs(seconds));
        while self.now < end {
            self.now = self.now.plus(Duration::from_secs(60)).min(end);
            self.look();
        }
    }

    fn ask(&mut self, command: Command) -> Result<(), String> {
        let turn = self.with(|course, _, ground, _| course.command(&command, ground, "said so"));
        if let Some(turn) = turn.map_err(|denied| denied.0)? {
            self.take(turn);
        }
        Ok(())
    }

    fn weight(&mut self) -> u32 {
        self.with(|_, _, ground, _| ground.weight().ppm() / 10_000)
    }

    fn at(&mut self) -> (State, String, u32) {
        let weight = self.weight();
        (self.progress.state, self.progress.stage.as_deref().unwrap_or("-").to_owned(), weight)
    }

    #[track_caller]
    fn is_at(&mut self, state: State, stage: &str, weight: u32) {
        assert_eq!(self.at(), (state, stage.to_owned(), weight), "{:#?}", self.told.last());
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.told.iter().map(|turn| turn.kind.word()).collect()
    }
}

fn stage(name: &str, percent: u32, min_hours: u64, gates: &[&str]) -> Stage {
    let gate = |text: &&str| Gate { criterion: parse(text).unwrap(), span: Span::Stage, min_requests: 100 };
    Stage {
        name: name.into(),
        weight: Weight::from_percent(percent).unwrap(),
        shadow: None,
        min_duration: Duration::from_secs(min_hours * HOUR),
        max_duration: None,
        cohorts: Vec::new(),
        after: None,
        gates: gates.iter().map(gate).collect(),
        approval: false,
        capture_baseline: false,
    }
}

fn trigger(when: &str, minutes: u64, action: Action) -> Trigger {
    Trigger {
        name: "t".into(),
        criterion: parse(when).unwrap(),
        held_for: Duration::from_secs(minutes * 60),
        action,
        dry_run: false,
        rollout: None,
        window: Duration::from_secs(60),
        min_requests: 1,
        spares_both: false,
        stages: Vec::new(),
    }
}

fn ramp(triggers: Vec<Trigger>) -> World {
    let gates = ["error_rate <= 1%"];
    let mut world = World::new(
        vec![stage("ten", 10, 24, &gates), stage("fifty", 50, 24, &gates), stage("full", 100, 0, &[])],
        triggers,
    );
    world.numbers.set("canary error_rate", 0.001);
    world.look();
    world
}

#[test]
fn a_plan_walks_from_first_stage_to_completion() {
    let mut world = ramp(Vec::new());
    world.is_at(State::Running, "ten", 10);
    world.pass(24 * HOUR - 60);
    world.is_at(State::Running, "ten", 10);
    world.pass(60);
    world.is_at(State::Running, "fifty", 50);
    assert_eq!(world.told.last().unwrap().ended, Some(Ended { stage: "ten".into(), becomes_baseline: false }));
    world.pass(24 * HOUR);
    world.is_at(State::Running, "full", 100);
    world.pass(60);
    world.is_at(State::Completed, "full", 100);
    assert!(world.told.last().unwrap().ended.as_ref().unwrap().becomes_baseline, "completion captures the baseline");
    assert_eq!(world.kinds(), ["stage", "stage", "stage", "complete"]);
    world.pass(HOUR);
    assert_eq!(world.told.len(), 4, "each transition is told once");
}

#[test]
fn no_data_neither_advances_nor_rolls_back() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 5, Action::Rollback)]);
    world.numbers.forget("canary error_rate");
    world.pass(100 * HOUR);
    world.is_at(State::Running, "ten", 10);
    let (gate, alarm) =
        (world.course.gates_of(world.progress.visit)[0].clone(), world.course.trigger("t").unwrap().alarm);
    assert_eq!((Verdict::of(&gate), alarm), (Verdict::Wait, Alarm::Quiet));
}

#[test]
fn a_trigger_acts_only_after_holding_at_every_evaluation() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 5, Action::Rollback)]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(5 * 60);
    world.is_at(State::Running, "ten", 10);
    world.numbers.set("canary error_rate", 0.001);
    world.pass(60);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(5 * 60);
    world.is_at(State::Running, "ten", 10);
    world.pass(60);
    world.is_at(State::RolledBack, "ten", 0);
    let turn = world.told.last().unwrap();
    assert_eq!(
        (turn.kind, &*turn.reason),
        (Kind::Rollback, "trigger `t`: error_rate 2.0% > 0.50% (20 of 1000 requests in 1m) for 5m")
    );
    world.pass(200 * HOUR);
    world.is_at(State::RolledBack, "ten", 0);
}

#[test]
fn triggers_are_watched_in_every_state_that_sends_traffic() {
    for reach in ["paused", "waiting", "completed"] {
        let mut world = ramp(vec![trigger("error_rate > 0.5%", 5, Action::Rollback)]);
        match reach {
            "paused" => world.ask(Command::Pause).unwrap(),
            "waiting" => {
                world.stages.list[0].approval = true;
                world.pass(25 * HOUR);
                assert_eq!(world.progress.state, State::WaitingApproval);
            }
            _ => world.ask(Command::Promote { force: true, full: true }).unwrap(),
        }
        world.pass(60);
        world.numbers.set("canary error_rate", 0.02);
        world.pass(6 * 60);
        assert_eq!(world.progress.state, State::RolledBack, "{reach}");
    }
}

#[test]
fn previous_goes_back_one_stage_and_the_second_time_pauses() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 1, Action::Previous)]);
    world.pass(24 * HOUR);
    world.numbers.set("canary error_rate", 0.008);
    world.pass(2 * 60);
    world.is_at(State::Running, "ten", 10);
    assert_eq!(world.progress.served, Duration::ZERO, "the stage starts anew");
    world.numbers.set("canary error_rate", 0.001);
    world.pass(24 * HOUR);
    world.is_at(State::Running, "fifty", 50);
    world.numbers.set("canary error_rate", 0.008);
    world.pass(2 * 60);
    world.is_at(State::Paused, "ten", 10);
}

#[test]
fn previous_on_the_first_stage_is_a_rollback() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 1, Action::Previous)]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(2 * 60);
    world.is_at(State::RolledBack, "ten", 0);
}

#[test]
fn half_halves_once_and_pauses() {
    let mut world = ramp(vec![trigger("error_rate > 0.5%", 1, Action::Half)]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(HOUR);
    world.is_at(State::Paused, "ten", 5);
    world.numbers.set("canary error_rate", 0.001);
    world.ask(Command::Resume).unwrap();
    world.pass(25 * HOUR);
    world.is_at(State::Running, "fifty", 50);
}

#[test]
fn the_graver_of_two_triggers_moves_the_rollout() {
    let mut pause = trigger("error_rate > 0.5%", 1, Action::Pause);
    pause.name = "pause".into();
    let mut world = ramp(vec![pause, trigger("error_rate > 1%", 1, Action::Rollback)]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(3 * 60);
    world.is_at(State::RolledBack, "ten", 0);
    assert_eq!(world.kinds(), ["stage", "rollback"]);
}

#[test]
fn a_dry_run_only_tells_what_it_would_do() {
    let mut dry = trigger("error_rate > 0.5%", 1, Action::Rollback);
    dry.dry_run = true;
    let mut world = ramp(vec![dry]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(HOUR);
    world.is_at(State::Running, "ten", 10);
    assert_eq!(world.kinds(), ["stage", "alert"], "once an episode");
    assert!(world.told[1].reason.ends_with("(dry run: would rollback)"), "{}", world.told[1].reason);
}

#[test]
fn a_trigger_may_act_on_another_rollout() {
    let mut other = trigger("error_rate > 0.5%", 1, Action::Rollback);
    other.rollout = Some("prefer".into());
    let mut world = ramp(vec![other]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(5 * 60);
    world.is_at(State::Running, "ten", 10);
    assert_eq!(world.told[1].acts_on, Some(("prefer".into(), Action::Rollback)));
    assert_eq!(world.told.len(), 2);
}

#[test]
fn a_trigger_that_spares_both_arms_is_quiet_while_stable_is_as_bad() {
    let mut sparing = trigger("error_rate > 0.5%", 1, Action::Rollback);
    sparing.spares_both = true;
    let mut world = ramp(vec![sparing]);
    world.numbers.set("canary error_rate", 0.02);
    world.numbers.set("stable error_rate", 0.02);
    world.pass(HOUR);
    world.is_at(State::Running, "ten", 10);
    world.numbers.set("stable error_rate", 0.001);
    world.pass(2 * 60);
    world.is_at(State::RolledBack, "ten", 0);
}

#[test]
fn a_trigger_that_names_its_stages_is_watched_in_no_other() {
    let later = Trigger { stages: vec!["fifty".into()], ..trigger("error_rate > 0.5%", 1, Action::Rollback) };
    let mut world = ramp(vec![later]);
    world.numbers.set("canary error_rate", 0.02);
    world.pass(HOUR);
    world.is_at(State::Running, "ten", 10);
    world.ask(Command::Promote { force: true, full: false }).unwrap();
    world.pass(3 * 60);
    world.is_at(State::RolledBack, "fifty", 0);
}

#[test]
fn the_clock_stands_still_while_paused_killed_or_open() {
    let mut world = ramp(Vec::new());
    world.pass(12 * HOUR);
    world.ask(Command::Pause).unwrap();
    world.pass(100 * HOUR);
    world.ask(Command::Resume).unwrap();
    assert_eq!(world.progress.served, Duration::from_secs(12 * HOUR));
    world.frozen = true;
    world.pass(100 * HOUR);
    world.frozen = false;
    assert_eq!(world.progress.served, Duration::from_secs(12 * HOUR));
    world.pass(12 * HOUR);
    world.is_at(State::Running, "fifty", 50);
}

#[test]
fn a_stage_that_does_not_pass_in_time_pauses_and_says_which_gate() {
    let mut world = ramp(Vec::new());
    world.stages.list[0].max_duration = Some(Duration::from_secs(48 * HOUR));
    world.numbers.set("canary error_rate", 0.02);
    world.pass(47 * HOUR);
    world.is_at(State::Running, "ten", 10);
    world.pass(HOUR);
    world.is_at(State::Paused, "ten", 10);
    let reason = world.progress.reason.clone().unwrap();
    assert!(reason.starts_with("stage `ten` has lasted 48h without a pass: error_rate 2.0% > 1.0%"), "{reason}");
}

#[test]
fn a_stage_with_approval_waits_for_a_person_and_tells_once() {
    let mut world = ramp(Vec::new());
    world.stages.list[0].approval = true;
    world.pass(30 * HOUR);
    world.is_at(State::WaitingApproval, "ten", 10);
    assert_eq!(world.kinds(), ["stage", "approval"]);
    world.ask(Command::Approve).unwrap();
    world.pass(60);
    world.is_at(State::Running, "fifty", 50);
    assert!(!world.progress.approved, "the next stage needs its own");
    assert!(world.ask(Command::Approve).unwrap_err().contains("asks for no approval"));
}

#[test]
fn an_early_approval_counts_once_the_gates_pass() {
    let mut world = ramp(Vec::new());
    world.stages.list[0].approval = true;
    world.ask(Command::Approve).unwrap();
    world.pass(24 * HOUR);
    world.is_at(State::Running, "fifty", 50);
}

#[test]
fn promote_needs_passing_gates_unless_forced() {
    let mut world = ramp(Vec::new());
    world.numbers.set("canary error_rate", 0.02);
    world.look();
    let denied = world.ask(Command::Promote { force: false, full: false }).unwrap_err();
    assert!(denied.starts_with("a gate of stage `ten` does not pass (fail): error_rate 2.0% > 1.0%"), "{denied}");
    world.ask(Command::Promote { force: true, full: false }).unwrap();
    world.is_at(State::Running, "fifty", 50);
    world.ask(Command::Promote { force: true, full: true }).unwrap();
    world.is_at(State::Running, "full", 100);
    let mut passing = ramp(Vec::new());
    let unjudged = passing.ask(Command::Promote { force: false, full: false }).unwrap_err();
    assert_eq!(unjudged, "the gates of stage `ten` have not been judged yet");
    passing.look();
    passing.ask(Command::Promote { force: false, full: false }).unwrap();
    passing.is_at(State::Running, "fifty", 50);
}

#[test]
fn a_stage_waits_for_another_rollouts_stage() {
    let mut world = World::new(vec![stage("one", 10, 0, &[]), stage("two", 20, 0, &[])], Vec::new());
    world.stages.list[1].after = Some(After { rollout: "objects".into(), stage: "ramp".into() });
    world.finished = false;
    world.pass(HOUR);
    world.is_at(State::Running, "one", 10);
    let denied = world.ask(Command::Promote { force: false, full: false }).unwrap_err();
    assert_eq!(denied, "it waits for stage `ramp` of rollout `objects` to end");
    world.finished = true;
    world.look();
    world.is_at(State::Running, "two", 20);
}

#[test]
fn a_weight_moves_within_the_stage_and_ends_with_it() {
    let mut world = ramp(Vec::new());
    let weight = |percent| Weight::from_percent(percent).unwrap();
    world.ask(Command::Weight { weight: weight(5), force: false }).unwrap();
    world.is_at(State::Running, "ten", 5);
    let denied = world.ask(Command::Weight { weight: weight(20), force: false }).unwrap_err();
    assert_eq!(denied, "stage `ten` allows at most 10%; `force` sets more");
    world.ask(Command::Weight { weight: weight(20), force: true }).unwrap();
    world.is_at(State::Running, "ten", 20);
    world.ceiling = weight(15);
    let denied = world.ask(Command::Weight { weight: weight(20), force: true }).unwrap_err();
    assert_eq!(denied, "the config's weight 15% is a ceiling for every stage");
    world.is_at(State::Running, "ten", 15);
    world.ceiling = Weight::FULL;
    world.pass(24 * HOUR);
    world.is_at(State::Running, "fifty", 50);
    world.ask(Command::Rollback(Back::Stable)).unwrap();
    assert!(world.ask(Command::Weight { weight: weight(5), force: true }).unwrap_err().contains("rolled back"));
}

#[test]
fn revive_begins_the_stage_that_was_left_anew() {
    let mut world = ramp(Vec::new());
    world.pass(30 * HOUR);
    world.ask(Command::Rollback(Back::Stable)).unwrap();
    world.is_at(State::RolledBack, "fifty", 0);
    world.pass(HOUR);
    world.ask(Command::Revive).unwrap();
    world.is_at(State::Running, "fifty", 50);
    assert_eq!(world.progress.served, Duration::ZERO);
    assert!(world.ask(Command::Revive).is_err());
}

#[test]
fn stable_is_looked_at_after_a_rollback_and_escalated_once() {
    let mut world = ramp(Vec::new());
    world.ask(Command::Rollback(Back::Stable)).unwrap();
    world.numbers.set("stable error_rate", 0.3);
    world.now = world.now.plus(Duration::from_secs(5));
    world.look();
    assert_eq!(world.kinds(), ["stage", "rollback"], "what was under way ends first");
    world.now = world.now.plus(Duration::from_secs(6));
    world.look();
    world.pass(HOUR);
    assert_eq!(world.kinds(), ["stage", "rollback", "escalate"]);
    assert!(
        world.told[2].reason.starts_with("stable is not healthy after the rollback: stable.error_rate 30.0% > 5.0%")
    );
}

#[test]
fn a_look_at_stable_that_a_restart_cut_short_begins_anew() {
    let mut world = ramp(Vec::new());
    world.ask(Command::Rollback(Back::Stable)).unwrap();
    world.numbers.set("stable error_rate", 0.3);
    world.course = Course::default();
    world.pass(HOUR);
    assert_eq!(world.kinds(), ["stage", "rollback"], "a new process does not know");
    world.course.look_again(world.now);
    assert!(world.course.rechecks());
    world.now = world.now.plus(Duration::from_secs(5));
    world.look();
    assert_eq!(world.kinds(), ["stage", "rollback"], "it has counted nothing yet");
    world.now = world.now.plus(Duration::from_secs(6));
    world.look();
    world.pass(HOUR);
    assert_eq!(world.kinds(), ["stage", "rollback", "escalate"]);
    assert!(!world.course.rechecks());
}

#[test]
fn a_changed_plan_needs_the_present_stage() {
    let mut world = ramp(Vec::new());
    world.pass(25 * HOUR);
    let with = |names: &[&str]| Stages {
        list: names.iter().map(|name| stage(name, 10, 1, &[])).collect(),
        ..Stages::default()
    };
    assert_eq!(with(&["zero", "fifty"]).adopt(&world.progress).unwrap().stage.as_deref(), Some("fifty"));
    let denied = with(&["ten", "full"]).adopt(&world.progress).unwrap_err();
    assert_eq!(denied.0, "the rollout is in stage `fifty`, which the new plan does not have");
    assert!(with(&[]).adopt(&world.progress).is_err());
    world.progress.state = State::Completed;
    assert_eq!(with(&[]).adopt(&world.progress).unwrap().state, State::Pending);
    assert_eq!(with(&["last"]).adopt(&world.progress).unwrap().stage.as_deref(), Some("last"));
    let state = |names: &[&str], progress: &Progress| with(names).adopt(progress).unwrap().state;
    assert_eq!(state(&["ten", "fifty"], &world.progress), State::Completed);
    assert_eq!(state(&["ten", "fifty", "more"], &world.progress), State::Running, "stages were added after its last");
}

#[test]
fn triggers_of_a_rollout_without_stages_act_too() {
    let mut world = World::new(Vec::new(), vec![trigger("error_rate > 0.5%", 0, Action::Rollback)]);
    world.is_at(State::Pending, "-", 100);
    world.numbers.set("canary error_rate", 0.02);
    world.look();
    world.is_at(State::RolledBack, "-", 0);
    let visit = world.progress.visit;
    world.ask(Command::Revive).unwrap();
    world.is_at(State::Pending, "-", 100);
    assert!(world.progress.visit > visit && world.course.went_back(), "what rolled it back lies before");
}

#[test]
fn spans_read_as_people_say_them() {
    for (seconds, text) in
        [(30, "30s"), (90, "1m30s"), (300, "5m"), (86_400, "24h"), (172_800, "48h"), (349_200, "4d1h")]
    {
        assert_eq!(span_text(Duration::from_secs(seconds)), text);
    }
    assert_eq!(span_text(Duration::from_millis(200)), "200ms");
}
