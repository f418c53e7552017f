//! The API of a plan.

use super::Site;
use serde_json::json;

/// Two stages that wait for time, a third that waits for a person.
const PLAN: &str = r#"
[[rollouts.chat.stages]]
name = "team"
weight = "0%"
min_duration = "1h"
cohorts = ["internal"]
[[rollouts.chat.stages]]
name = "ten"
weight = "10%"
min_duration = "1h"
cohorts = ["internal"]
[[rollouts.chat.stages]]
name = "full"
weight = "100%"
min_duration = "1h"
approval = true
"#;

/// A plan under a ceiling of 100 %, in its first stage.
async fn site() -> Site {
    let site = Site::with(PLAN);
    site.post("/api/v1/rollouts/chat/resume", "{}").await;
    site
}

#[tokio::test]
async fn commands_refuse_what_makes_no_sense_and_name_the_field() {
    let site = site().await;
    for (verb, body, status, field, says) in [
        ("pause", r#"{"cohort": "internal"}"#, 400, json!("cohort"), "`rollback` the cohort"),
        ("resume", r#"{"cohort": "internal"}"#, 400, json!("cohort"), "`revive`"),
        ("promote", r#"{"cohort": "internal"}"#, 400, json!("cohort"), "`validate`"),
        ("approve", r#"{"cohort": "internal"}"#, 400, json!("cohort"), "approve the rollout"),
        ("rollback", r#"{"cohort": "internal", "to": "half"}"#, 400, json!("to"), "without `to`"),
        ("rollback", r#"{"to": "canary"}"#, 400, json!("to"), "`previous`"),
        ("rollback", r#"{"to": 1}"#, 400, json!("to"), "string"),
        ("promote", r#"{"force": 1}"#, 400, json!("force"), "true or false"),
        ("pause", r#"{"force": true}"#, 400, json!("force"), "not a field"),
        ("puase", "{}", 404, json!(null), "did you mean `pause`"),
        ("rollback", r#"{"cohort": "internl"}"#, 404, json!(null), "did you mean `internal`"),
        ("approve", "{}", 409, json!(null), "stage `team` asks for no approval"),
    ] {
        let answer = site.post(&format!("/api/v1/rollouts/chat/{verb}"), body).await;
        let form = answer.json();
        assert_eq!((answer.status, &form["field"]), (status, &field), "{verb} {body}: {form}");
        assert!(form["error"].as_str().unwrap().contains(says), "{verb} {body}: {form}");
    }
    let unknown = site.post("/api/v1/rollouts/chta/pause", "{}").await;
    assert!(unknown.status == 404 && unknown.text.contains("did you mean `chat`"), "{}", unknown.text);
}

#[tokio::test]
async fn repeated_commands_change_nothing_and_are_no_error() {
    let site = site().await;
    let events = async || site.get("/api/v1/events").await.json()["events"].as_array().unwrap().len();
    for (verb, state) in [("pause", "paused"), ("resume", "running"), ("rollback", "rolled_back")] {
        let path = format!("/api/v1/rollouts/chat/{verb}");
        let first = site.post(&path, "{}").await.json();
        let told = events().await;
        let second = site.post(&path, "{}").await;
        assert_eq!((&first["state"], second.status, &second.json()["state"]), (&json!(state), 200, &json!(state)));
        assert_eq!(events().await, told, "{verb} is told once");
    }
    let back = site.post("/api/v1/rollouts/chat/rollback", r#"{"to": "previous"}"#).await;
    assert_eq!(back.status, 409, "{}", back.text);
}

#[tokio::test]
async fn a_cohort_is_rolled_back_alone() {
    let site = site().await;
    let form = site.post("/api/v1/rollouts/chat/rollback", r#"{"cohort": "internal", "reason": "odd"}"#).await.json();
    assert_eq!((&form["state"], &form["cohorts"][0]["killed"]), (&json!("running"), &json!(true)), "{form}");
    assert_eq!(site.get("/api/v1/rollouts/chat/explain?unit=eng-1").await.json()["arm"], json!("stable"));
    let revived = site.post("/api/v1/rollouts/chat/revive", r#"{"cohort": "internal"}"#).await.json();
    assert_eq!(revived["cohorts"][0]["killed"], json!(false));
    assert_eq!(site.get("/api/v1/rollouts/chat/explain?unit=eng-1").await.json()["reason"], json!("cohort:internal"));
}
