//! The JSON forms, key by key.

use super::*;
use crate::clock::Wall;
use crate::rollout::assign::{Phase, Switches};
use crate::rollout::breaker::State;
use crate::rollout::bucket::Bucketer;
use crate::rollout::cohort::Cohort;
use crate::rollout::report::{self, ShadowReport};
use crate::rollout::scale::TimeScale;
use serde_json::json;
use std::sync::Arc;

fn report() -> RolloutReport {
    let canary = ArmReport {
        requests: 8,
        errors: 2,
        rps: 0.133_333_3,
        p50_ms: Some(4.128_49),
        p75_ms: Some(6.0),
        p90_ms: Some(8.0),
        p95_ms: Some(9.0),
        p99_ms: Some(9.5),
        p999_ms: Some(9.75),
        in_flight: 1,
    };
    RolloutReport {
        name: "chat".into(),
        state: report::State::Running,
        state_reason: Some("slow".to_owned()),
        weight: Weight::from_ppm(125_000).unwrap(),
        file_weight: Weight::FULL,
        killed: true,
        killed_by_config: false,
        stage: None,
        gates: Vec::new(),
        triggers: Vec::new(),
        stages: Vec::new(),
        next: None,
        note: None,
        breaker: Some(BreakerReport {
            state: State::Open,
            trips: 2,
            max_trips: 3,
            last_reason: Some("error_rate 34.0% > 5.0%".to_owned()),
            cooldown_left: Some(Duration::from_micros(24_500_499)),
            probe: None,
            note: None,
        }),
        shadow: Some(ShadowReport { share: Weight::FULL, copies: canary.clone(), skipped: vec![("method", 3)] }),
        arms: [ArmReport::default(), canary],
        cohorts: vec![CohortReport { name: "internal".into(), enabled: true, killed: false, exclude: false, units: 2 }],
        time_scale: TimeScale::new(600).unwrap(),
        generation: 7,
    }
}

#[test]
fn a_rollout_has_the_fields_of_the_contract() {
    let form = serde_json::to_value(Rollout::of(&report(), Duration::from_secs(60))).unwrap();
    let empty = json!({
        "requests": 0, "errors": 0, "error_rate": null, "rps": 0.0,
        "p50_ms": null, "p75_ms": null, "p90_ms": null, "p95_ms": null, "p99_ms": null, "p999_ms": null,
        "in_flight": 0,
    });
    let busy = json!({
        "requests": 8, "errors": 2, "error_rate": 0.25, "rps": 0.133,
        "p50_ms": 4.128, "p75_ms": 6.0, "p90_ms": 8.0, "p95_ms": 9.0, "p99_ms": 9.5, "p999_ms": 9.75,
        "in_flight": 1,
    });
    let breaker = json!({
        "state": "open", "trips": 2, "max_trips": 3, "last_reason": "error_rate 34.0% > 5.0%", "cooldown_s": 24.5,
        "probe_ppm": null, "note": null,
    });
    let expected = json!({
        "name": "chat", "state": "running", "state_reason": "slow", "stage": null,
        "weight_ppm": 125_000, "file_weight_ppm": 1_000_000,
        "killed": true, "killed_by_config": false, "breaker": breaker,
        "arms": {"stable": empty, "canary": busy},
        "shadow": {
            "share_ppm": 1_000_000, "requests": 8, "errors": 2, "error_rate": 0.25, "rps": 0.133,
            "p50_ms": 4.128, "p95_ms": 9.0, "p99_ms": 9.5, "skipped": {"method": 3}, "diff": null,
        },
        "cohorts": [{"name": "internal", "enabled": true, "killed": false, "exclude": false, "units": 2}],
        "gates": [], "triggers": [], "stages": [], "next": null, "note": null, "window_s": 60.0,
        "time_scale": 600,
        "generation": 7,
    });
    assert_eq!(form, expected);
}

#[test]
fn the_command_line_reads_what_later_versions_add() {
    let mut form = serde_json::to_value(Rollout::of(&report(), Duration::from_secs(60))).unwrap();
    form["stage"] = json!({"name": "canary-10", "index": 1});
    form["breaker"] = json!({"state": "closed", "more": 1});
    form["gates"] = json!([{"when": "error_rate < 1%"}]);
    form["surprise"] = json!(1);
    let read: Rollout = serde_json::from_value(form).unwrap();
    assert_eq!((read.name.as_str(), read.arms.canary.errors), ("chat", 2));
}

fn splits() -> Vec<Split> {
    let cohort = |name: &str, exclude: bool| Cohort {
        exclude,
        users: Arc::new(["alice"].into_iter().collect()),
        ..Cohort::new(name)
    };
    let split = |name: &str, weight, requires| Split {
        name: name.into(),
        phase: Phase::Serving,
        bucketer: Bucketer::native(name),
        weight,
        cohorts: vec![cohort("internal", false), Cohort { enabled: false, ..cohort("off", false) }],
        requires,
        probe: None,
    };
    vec![split("objects", Weight::ZERO, None), split("chat", Weight::FULL, Some(0))]
}

#[test]
fn an_explanation_is_the_decision_with_its_facts() {
    let splits = splits();
    let chat = Explanation::of(&splits, 1, &UnitAsker::of("alice"), 7).unwrap();
    let expected = json!({
        "rollout": "chat", "unit": "alice", "bucket_ppm": Bucketer::native("chat").bucket("alice").ppm(),
        "arm": "canary", "reason": "cohort:internal", "weight_ppm": 1_000_000, "killed": false,
        "breaker": "closed", "cohorts": ["internal"], "requires": {"rollout": "objects", "arm": "canary"}, "generation": 7,
    });
    assert_eq!(serde_json::to_value(chat).unwrap(), expected);

    let killed = UnitAsker::of("alice").with_switches([Switches::KILLED]);
    let objects = Explanation::of(&splits, 0, &killed, 7).unwrap();
    assert_eq!((objects.reason.as_str(), objects.killed), ("kill", true));
    let open = UnitAsker::of("alice").with_switches([Switches::OPEN]);
    let objects = Explanation::of(&splits, 0, &open, 7).unwrap();
    assert_eq!((objects.reason.as_str(), objects.breaker.as_str()), ("breaker", "open"));
    assert_eq!(Explanation::of(&splits, 1, &killed, 7).unwrap().reason, "requires");
    assert_eq!(Explanation::of(&splits, 2, &killed, 7), None);
}

#[test]
fn flags_name_every_rollout() {
    let flags = serde_json::to_value(Flags::of(&splits(), &UnitAsker::of("bob"))).unwrap();
    let stable = |reason: &str| json!({"arm": "stable", "reason": reason});
    assert_eq!(flags, json!({"unit": "bob", "flags": {"objects": stable("bucket"), "chat": stable("requires")}}));
}

#[test]
fn an_event_carries_its_records_as_json() {
    let event = EventReport {
        id: 3,
        time: Wall::from_millis(1_600_000_000_250),
        rollout: None,
        kind: "reload",
        actor: "config".to_owned(),
        reason: String::new(),
        old: "null".to_owned(),
        new: r#"{"generation":2}"#.to_owned(),
        numbers: "damaged".to_owned(),
    };
    let expected = json!({
        "id": 3, "time": "2020-09-13T12:26:40.250Z", "rollout": null, "kind": "reload", "actor": "config",
        "reason": "", "old": null, "new": {"generation": 2}, "numbers": null,
    });
    assert_eq!(serde_json::to_value(Event::of(&event)).unwrap(), expected);
}
