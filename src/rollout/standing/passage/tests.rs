//! What is said to whoever asks whether a stage may begin.

use super::*;
use crate::rollout::breaker::Saved;
use crate::rollout::bucket::Weight;
use crate::rollout::course::Progress;
use crate::rollout::criterion::parse;
use crate::rollout::plan::{CohortPlan, Plan};
use crate::rollout::report::Origin;
use crate::rollout::stages::{Gate, Span, Stages};
use crate::rollout::standing::{Runtime, SavedRollout};

const HOUR: Duration = Duration::from_secs(3600);

fn stage(name: &str, cohorts: &[&str]) -> Stage {
    Stage {
        name: name.into(),
        weight: Weight::ZERO,
        shadow: None,
        min_duration: HOUR,
        max_duration: None,
        cohorts: cohorts.iter().map(|cohort| Arc::from(*cohort)).collect(),
        after: None,
        gates: Vec::new(),
        approval: false,
        capture_baseline: false,
    }
}

/// Stages `team`, `pilot`, `beta` and `full`; the first three admit a cohort each.
fn plan() -> Plan {
    let cohort = |name: &str, enabled, exclude| CohortPlan { name: name.into(), enabled, exclude, listed: 0 };
    let list = vec![stage("team", &["team"]), stage("pilot", &["gp"]), stage("beta", &["beta"]), stage("full", &[])];
    Plan {
        name: "chat".into(),
        weight: Weight::FULL,
        killed: false,
        enabled: true,
        stages: Stages { list, autostart: true, ..Stages::default() },
        cohorts: vec![
            cohort("team", true, false),
            cohort("gp", true, false),
            cohort("beta", false, false),
            cohort("never", true, false),
            cohort("out", true, true),
        ],
        breaker: None,
    }
}

fn progress(state: State, stage: Option<&str>, served: Duration) -> Progress {
    Progress { state, stage: stage.map(Arc::from), served, ..Progress::default() }
}

fn runtime(progress: Progress) -> Runtime {
    Runtime { saved: SavedRollout { progress, ..SavedRollout::default() }, ..Runtime::default() }
}

fn obstacles(passage: &PassageReport) -> Vec<(&'static str, &'static str)> {
    passage.obstacles.iter().map(|obstacle| (obstacle.kind, obstacle.verdict)).collect()
}

fn reasons(passage: &PassageReport) -> Vec<&str> {
    passage.obstacles.iter().map(|obstacle| obstacle.reason.as_str()).collect()
}

fn next(plan: &Plan, runtime: &Runtime) -> PassageReport {
    Standing::of(plan, Some(runtime)).passage(&|_| false).unwrap()
}

fn to(cohort: &str, runtime: &Runtime) -> Result<PassageReport, Refused> {
    Standing::of(&plan(), Some(runtime)).passage_to(cohort, &|_| false)
}

#[test]
fn nothing_holds_a_stage_that_was_served_and_asks_for_nothing() {
    let passage = next(&plan(), &runtime(progress(State::Running, Some("team"), HOUR)));
    let expected = PassageReport {
        from: Some("team".into()),
        to: Some("pilot".into()),
        entered: false,
        verdict: "pass",
        may_promote: true,
        obstacles: Vec::new(),
    };
    assert_eq!(passage, expected);
    let last = next(&plan(), &runtime(progress(State::Running, Some("full"), HOUR)));
    assert_eq!((last.to, last.verdict), (None, "pass"), "after the last stage the plan is complete");
    let first = next(&plan(), &runtime(progress(State::Pending, None, Duration::ZERO)));
    assert_eq!((first.from, first.to, first.verdict), (None, Some("team".into()), "pass"));
    let without = Plan { stages: Stages::default(), ..plan() };
    assert_eq!(Standing::of(&without, None).passage(&|_| false), None);
}

#[test]
fn everything_that_holds_it_is_told_in_the_order_in_which_it_is_asked() {
    let mut plan = plan();
    plan.stages.list[0].gates =
        vec![Gate { criterion: parse("error_rate < 1%").unwrap(), span: Span::Stage, min_requests: 1 }];
    plan.stages.list[0].approval = true;
    plan.stages.list[1].after = Some(After { rollout: "objects".into(), stage: "ramp".into() });
    let mut paused = progress(State::Paused, Some("team"), HOUR / 4);
    paused.reason = Some("holidays".to_owned());
    let mut runtime = runtime(paused);
    runtime.saved.killed = Some(Origin { actor: "ana".to_owned(), reason: "smoke".to_owned() });
    let passage = next(&plan, &runtime);
    let expected = [
        "killed by ana: smoke",
        "it is paused: holidays",
        "45m still to serve",
        "the gates of stage `team` have not been judged yet",
        "stage `team` waits for approval",
        "it waits for stage `ramp` of rollout `objects` to end",
    ];
    assert_eq!(reasons(&passage), expected);
    assert_eq!((passage.verdict, passage.may_promote), ("wait", false));
    assert_eq!(passage.obstacles[2].remaining, Some(HOUR * 3 / 4));
    runtime.saved.killed = None;
    runtime.saved.breaker = Saved { state: breaker::State::Open, reason: Some("5 errors".into()), ..Saved::default() };
    assert_eq!(next(&plan, &runtime).obstacles[0].reason, "its breaker is open: 5 errors");
}

#[test]
fn what_is_over_off_or_taken_back_says_no() {
    for (state, kind) in [(State::Completed, "completed"), (State::RolledBack, "rolled_back")] {
        let passage = next(&plan(), &runtime(progress(state, Some("full"), HOUR)));
        assert_eq!((obstacles(&passage), passage.verdict), (vec![(kind, "fail")], "fail"));
        assert!(!passage.may_promote);
    }
    let running = || progress(State::Running, Some("team"), HOUR);
    let off = next(&Plan { enabled: false, ..plan() }, &runtime(running()));
    assert_eq!(obstacles(&off), [("off", "fail")]);
    let mut given_up = runtime(running());
    given_up.saved.breaker = Saved { rolled_back: true, trips: 3, ..Saved::default() };
    let passage = next(&plan(), &given_up);
    assert_eq!(reasons(&passage), ["rolled back after 3 trips of the breaker"]);
    let mut held = runtime(running());
    held.saved.held = true;
    assert_eq!(reasons(&next(&plan(), &held)), ["it is held (state unreadable): revive it first"]);
    let mut waits = plan();
    waits.stages.autostart = false;
    let passage = next(&waits, &runtime(progress(State::Pending, None, Duration::ZERO)));
    assert_eq!((obstacles(&passage), passage.may_promote), (vec![("start", "wait")], true));
}

#[test]
fn a_cohort_waits_for_the_first_stage_that_admits_it() {
    let team = runtime(progress(State::Running, Some("team"), HOUR));
    let own = to("team", &team).unwrap();
    assert_eq!((own.to.as_deref(), own.entered, own.verdict), (Some("team"), true, "pass"));
    let pilot = to("gp", &team).unwrap();
    assert_eq!((pilot.to.as_deref(), pilot.entered, pilot.verdict), (Some("pilot"), false, "pass"));
    let beta = to("beta", &team).unwrap();
    assert_eq!(obstacles(&beta), [("stages", "wait"), ("cohort", "fail")]);
    let off = "cohort `beta` is off in the config (enabled = false)";
    assert_eq!(reasons(&beta), ["stage `pilot` comes before it", off]);
    let first = to("gp", &runtime(progress(State::Pending, None, Duration::ZERO))).unwrap();
    assert_eq!(reasons(&first), ["stage `team` comes before it"]);
    let far = to("beta", &runtime(progress(State::Pending, None, Duration::ZERO))).unwrap();
    assert_eq!(far.obstacles[0].reason, "stages `team`, `pilot` come before it");
}

#[test]
fn a_cohort_that_was_admitted_may_be_off_all_the_same() {
    let mut team = runtime(progress(State::Running, Some("team"), Duration::ZERO));
    assert_eq!(to("team", &team).unwrap().verdict, "pass", "what holds the next stage is of no concern");
    team.killed_cohorts.insert("team".into());
    assert_eq!(reasons(&to("team", &team).unwrap()), ["cohort `team` was switched off: `revive` it"]);
    let back = to("team", &runtime(progress(State::RolledBack, Some("pilot"), HOUR))).unwrap();
    assert_eq!((back.entered, obstacles(&back)), (true, vec![("rolled_back", "fail")]));
}

#[test]
fn a_cohort_that_no_stage_lets_in_is_a_mistake() {
    let team = runtime(progress(State::Running, Some("team"), HOUR));
    assert!(matches!(to("gpp", &team), Err(Refused::NotFound(_))));
    for (cohort, says) in [("never", "no stage of rollout `chat` admits"), ("out", "exclude = true")] {
        let Err(Refused::Invalid { field: "cohort", message }) = to(cohort, &team) else { panic!("{cohort}") };
        assert!(message.contains(says), "{message}");
    }
}
