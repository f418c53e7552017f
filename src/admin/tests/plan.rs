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

#[tokio::test]
async fn validate_is_the_engines_own_answer() {
    let site = site().await;
    let validate = async |query: &str| site.get(&format!("/api/v1/rollouts/chat/validate{query}")).await;
    let form = validate("").await.json();
    assert_eq!(
        (&form["may"], &form["verdict"], &form["from"]),
        (&json!(false), &json!("wait"), &json!("team")),
        "{form}"
    );
    assert_eq!((&form["to"], &form["entered"]), (&json!("ten"), &json!(false)));
    assert_eq!((&form["may_promote"], &form["obstacles"][0]["kind"]), (&json!(true), &json!("time")));
    let left = form["obstacles"][0]["remaining_s"].as_f64().unwrap();
    assert!(left > 3500.0 && left <= 3600.0, "{left}");
    assert_eq!(form["stage"]["remaining_s"].as_f64().unwrap().round(), left.round());
    let own = validate("?cohort=internal").await.json();
    assert_eq!((&own["to"], &own["entered"], &own["may"]), (&json!("team"), &json!(true), &json!(true)), "{own}");

    site.post("/api/v1/rollouts/chat/pause", r#"{"reason": "holidays"}"#).await;
    let form = validate("").await.json();
    assert_eq!((&form["state"], &form["obstacles"][0]["reason"]), (&json!("paused"), &json!("it is paused: holidays")));
    let view = site.get("/api/v1/rollouts/chat").await.json();
    assert_eq!(view["next"]["obstacles"][0]["kind"], json!("paused"));

    for (query, status, field, says) in [
        ("?cohort=beta", 400, json!("cohort"), "no stage of rollout `chat` admits cohort `beta`"),
        ("?cohort=internl", 404, json!(null), "did you mean `internal`"),
    ] {
        let answer = validate(query).await;
        assert_eq!((answer.status, &answer.json()["field"]), (status, &field), "{query}");
        assert!(answer.text.contains(says), "{}", answer.text);
    }
    let plain = Site::new();
    let answer = plain.get("/api/v1/rollouts/chat/validate").await;
    assert!(answer.status == 409 && answer.text.contains("has no stages"), "{}", answer.text);
    assert_eq!(plain.get("/api/v1/rollouts/chta/validate").await.status, 404);
    assert_eq!(plain.get("/api/v1/rollouts/chat").await.json()["next"], json!(null));
}

#[tokio::test]
async fn a_rollout_shows_its_plan() {
    let view = site().await.get("/api/v1/rollouts/chat").await.json();
    let stage = &view["stage"];
    assert_eq!((&stage["name"], &stage["index"], &stage["count"]), (&json!("team"), &json!(0), &json!(3)));
    assert_eq!((&stage["min_duration_s"], &stage["max_duration_s"]), (&json!(3600.0), &json!(null)));
    assert!(stage["entered_at"].is_string() && stage["served_s"].is_number());
    let third = json!({
        "name": "full", "weight_ppm": 0, "min_duration_s": 3600.0, "max_duration_s": null, "cohorts": [], "after": null,
        "approval": true, "finished": false,
    });
    assert_eq!(view["stages"][2], third, "under a ceiling of 0 %");
    assert_eq!(view["stages"][0]["cohorts"], json!(["internal"]));
}

#[tokio::test]
async fn a_baseline_is_set_and_imported_and_every_mistake_named() {
    let site = site().await;
    let path = "/api/v1/rollouts/chat/baseline";
    let none = site.get(path).await.json();
    assert_eq!(none, json!({"rollout": "chat", "baseline": null, "stages": {}, "warnings": []}));
    for (body, status, field, says) in [
        (r#"{"set": {"stable p96": "150ms"}}"#, 400, json!("set"), "`stable p96`: "),
        (r#"{"set": {"stable p95": "150MB"}}"#, 400, json!("set"), "a time"),
        (r#"{"set": {"stable p95": 150}}"#, 400, json!("set"), "with its unit"),
        (r#"{"set": {"p95": "150ms"}}"#, 400, json!("set"), "`stable p95` or `canary p95`"),
        (r#"{"set": {"query.memory": "30MB"}}"#, 400, json!("set"), "there is no query `memory`"),
        (r#"{"set": {"stable p95{cohort:internl}": "1ms"}}"#, 400, json!("set"), "did you mean `internal`"),
        (r#"{"set": {}}"#, 400, json!("set"), "holds no values"),
        (r#"{"set": "stable p95"}"#, 400, json!("set"), "object"),
        (r#"{"import": {"rollout": "chat", "baseline": null}}"#, 400, json!("import"), "no values"),
        (r#"{"import": {"baseline": {"stabel": {}}}}"#, 400, json!("import"), "stabel"),
        (r#"{"import": {"baseline": {"stable": {"p95": {"value": 1, "unit": "s"}}}}}"#, 400, json!("import"), "as ms"),
        (r#"{"import": {"baseline": {"stable": {"p95": {"samples": 1}}}}}"#, 400, json!("import"), "value"),
        (r#"{"capture": true, "set": {"stable p95": "1ms"}}"#, 400, json!("capture"), "one of"),
        ("{}", 400, json!("capture"), "one of"),
        (r#"{"captrue": true}"#, 400, json!("captrue"), "not a field"),
        (r#"{"capture": true}"#, 409, json!(null), "nothing has been measured of rollout `chat` in stage `team` yet"),
    ] {
        let answer = site.post(path, body).await;
        let form = answer.json();
        assert_eq!((answer.status, &form["field"]), (status, &field), "{body}: {form}");
        assert!(form["error"].as_str().unwrap().contains(says), "{body}: {form}");
    }
    assert_eq!(site.get(path).await.json(), none, "what is refused changes nothing");

    let body =
        r#"{"set": {"stable error_rate": "0.05%", "stable p95": "150ms", "weir.memory": "30MB"}, "actor": "ada"}"#;
    let set = site.post(path, body).await.json();
    let memory = json!({"value": 30e6, "unit": "bytes", "samples": 0});
    let both = json!({
        "stable": {
            "error_rate": {"value": 0.0005, "unit": "ratio", "samples": 0},
            "p95": {"value": 150.0, "unit": "ms", "samples": 0}, "weir.memory": memory,
        },
        "canary": {"weir.memory": memory},
    });
    assert_eq!((&set["baseline"], site.get(path).await.json()), (&both, set.clone()));
    let other = json!({"import": {"baseline": {"canary": {"p95": {"value": 90.5, "samples": 12}}}}, "reason": "moved"});
    let imported = site.post(path, &other.to_string()).await.json();
    let only = json!({"stable": {}, "canary": {"p95": {"value": 90.5, "unit": "ms", "samples": 12}}});
    assert_eq!(imported["baseline"], only, "it takes the place of all that was there");
    let back = site.post(path, &json!({ "import": set }).to_string()).await.json();
    assert_eq!(back, set, "an answer can be handed back as it is");

    let events = site.get("/api/v1/events").await.json();
    let told = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "baseline");
    let told: Vec<_> = told.map(|event| (event["actor"].clone(), event["reason"].clone())).collect();
    let named = "canary weir.memory, stable error_rate, stable p95, stable weir.memory";
    let expected = [
        (json!("ada"), json!(format!("set: {named}"))),
        (json!("operator"), json!("moved (imported: canary p95)")),
        (json!("operator"), json!(format!("imported: {named}"))),
    ];
    assert_eq!(told, expected);
    let unknown = site.get("/api/v1/rollouts/chta/baseline").await;
    assert!(unknown.status == 404 && unknown.text.contains("did you mean `chat`"), "{}", unknown.text);
}
