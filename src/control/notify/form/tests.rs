//! What targets are sent of events as the trail has them.

use super::*;
use crate::rollout::report::State;
use serde_json::json;

const TIME: Wall = Wall::from_millis(1_700_000_000_250);
const MINUTE_LATER: Wall = Wall::from_millis(1_700_000_060_250);

fn stand(state: State, stage: &str, ppm: u32) -> Value {
    json!({ "state": state.word(), "stage": stage, "weight_ppm": ppm, "killed": false, "breaker": "closed" })
}

fn told(kind: &'static str, old: Value, new: Value) -> Told {
    let arm = |requests: u32, errors: u32| json!({ "requests": requests, "errors": errors, "p95_ms": 12.5 });
    let event = Event {
        id: 17,
        time: TIME,
        rollout: Some("chat".into()),
        kind,
        actor: "plan".into(),
        reason: "trigger `errors`: error_rate 34% > 5% & p95 <20ms".into(),
        old: old.to_string(),
        new: new.to_string(),
        numbers: json!({ "canary": arm(50, 17), "stable": arm(0, 0) }).to_string(),
    };
    Told { event, key: 7 }
}

fn rollback() -> Told {
    let mut new = stand(State::Running, "canary-5", 50_000);
    (new["to"], new["trigger"]) = (json!("previous"), json!("errors"));
    told("rollback", stand(State::Running, "canary-10", 125_000), new)
}

fn sent(kind: NotifyKind, told: &Told) -> Value {
    serde_json::from_slice(&body(kind, told, MINUTE_LATER).unwrap()).unwrap()
}

#[test]
fn a_webhook_gets_the_contracts_object_and_nothing_else() {
    let told = rollback();
    let stand = |stage: &str, ppm: u32| json!({ "state": "running", "stage": stage, "weight_ppm": ppm });
    let expected = json!({
        "event": "rollback",
        "id": 17,
        "time": "2023-11-14T22:13:20.250Z",
        "rollout": "chat",
        "reason": told.event.reason,
        "old": stand("canary-10", 125_000),
        "new": stand("canary-5", 50_000),
        "to": "previous",
        "trigger": "errors",
        "numbers": serde_json::from_str::<Value>(&told.event.numbers).unwrap(),
    });
    assert_eq!(sent(NotifyKind::Webhook, &told), expected);
}

#[test]
fn what_has_no_old_side_is_told_without() {
    let held = sent(NotifyKind::Webhook, &told("pause", Value::Null, stand(State::Paused, "one", 0)));
    assert_eq!((&held["old"], &held["new"]["state"]), (&Value::Null, &json!("paused")));
    assert!(held.get("to").is_none() && held.get("trigger").is_none());
    let text = sent(NotifyKind::Slack, &told("pause", Value::Null, stand(State::Paused, "one", 0)));
    assert!(text["text"].as_str().unwrap().starts_with(":large_yellow_circle: *chat paused: paused in one at 0%*\n"));
}

#[test]
fn slack_gets_a_text_with_its_special_characters_escaped() {
    let message = sent(NotifyKind::Slack, &rollback());
    let text = ":red_circle: *chat was taken back to the previous stage: running in canary-5 at 5% \
                (was running in canary-10 at 12.5%)*\n\
                trigger `errors`: error_rate 34% &gt; 5% &amp; p95 &lt;20ms\n\
                by plan · 2023-11-14T22:13:20.250Z · canary 17 of 50 failed, p95 12.5ms";
    assert_eq!(message, json!({ "text": text }));
}

#[test]
fn long_reasons_are_cut() {
    let mut told = rollback();
    told.event.reason = "&".repeat(100_000);
    let text = sent(NotifyKind::Slack, &told)["text"].as_str().unwrap().to_owned();
    assert!(text.len() < 12_000 && text.contains("&amp;...\n"), "{}", text.len());
}

#[test]
fn an_alertmanager_gets_an_alert_that_lasts_and_the_end_of_what_it_ends() {
    let alerts = sent(NotifyKind::Alertmanager, &rollback());
    let own = &alerts[0];
    let labels = json!({ "alertname": "WeirRollback", "event": "rollback", "rollout": "chat", "severity": "critical" });
    assert_eq!((&own["labels"], &own["startsAt"]), (&labels, &json!("2023-11-14T22:13:20.250Z")));
    assert_eq!(own["endsAt"], "2023-11-21T22:14:20.250Z", "a week after it was told");
    assert!(own["annotations"]["summary"].as_str().unwrap().starts_with("chat was taken back to the previous stage"));
    assert_eq!(own["annotations"]["description"], rollback().event.reason);
    let names = |alerts: &Value| -> Vec<String> {
        let all = alerts.as_array().unwrap().iter();
        all.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&alerts), ["WeirRollback", "WeirApproval", "WeirPause"]);

    let stand = || stand(State::Running, "canary-5", 50_000);
    let ended = sent(NotifyKind::Alertmanager, &told("recover", stand(), stand()));
    assert_eq!(names(&ended), ["WeirTrip"], "a recovery is the end of a trip and no alert");
    let trip = sent(NotifyKind::Alertmanager, &told("trip", stand(), stand()));
    assert_eq!(trip[0]["labels"], ended[0]["labels"], "or else it would not end it");
    assert_eq!((ended[0].get("startsAt"), &ended[0]["endsAt"]), (None, &json!("2023-11-14T22:13:20.250Z")));
}

#[test]
fn every_kind_that_can_be_asked_for_has_words_and_alerts() {
    let stand = || stand(State::Running, "one", 50_000);
    let kinds = [
        "stage", "approval", "alert", "pause", "resume", "trip", "recover", "rollback", "escalate", "kill", "revive",
        "complete",
    ];
    for kind in kinds {
        let told = told(kind, stand(), stand());
        let headline = Happened::of(&told.event).unwrap().headline();
        assert!(headline.contains(' ') && !headline.starts_with(&format!("chat {kind}:")), "{headline}");
        assert!(!sent(NotifyKind::Alertmanager, &told).as_array().unwrap().is_empty(), "{kind}");
    }
}
