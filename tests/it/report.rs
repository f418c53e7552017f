//! What is known of a rollback, and what a report says of everything: the figures are those of the requests that were sent.

use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Origin, Reply, Weir};
use serde_json::Value;

async fn send(weir: &Weir, requests: usize) {
    let mut client = Client::http1(weir.address).await;
    for number in 0..requests {
        client.get("/", &[("x-user-id", &format!("u{number}"))]).await;
    }
}

async fn chat_when(weir: &Weir, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let chat = weir.view("/api/v1/rollouts/chat").await;
        wanted(&chat).then_some(chat)
    })
    .await
}

async fn incidents(weir: &Weir) -> Vec<Value> {
    weir.view("/api/v1/rollouts/chat/incidents").await["incidents"].as_array().expect("a list").clone()
}

const STAGES: &str = "[rollouts.chat.breaker]\nconsecutive_errors = 0\nerror_rate = false\nfallback = \"off\"\n\
    [[rollouts.chat.stages]]\nname = \"first\"\nweight = \"50%\"\nmin_duration = \"1h\"\n\
    [[rollouts.chat.stages]]\nname = \"second\"\nweight = \"50%\"\nmin_duration = \"1h\"\n\
    gates = [{ when = \"error_rate < 50%\", min_requests = 1 }]\n";

#[tokio::test]
async fn a_rollback_is_an_incident_with_everything_that_was_known() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| Reply::status(500));
    let config = Config::split(&legacy, &new).weight("100%").tables(&format!(
        "{STAGES}[[rollouts.chat.triggers]]\nname = \"errors\"\nwhen = \"error_rate > 10%\"\nfor = \"0s\"\n\
         min_requests = 20\naction = \"rollback\""
    ));
    let weir = Weir::start(&config).await;
    chat_when(&weir, "the first stage", |chat| chat["stage"]["name"] == "first").await;
    let body = serde_json::json!({ "force": true, "actor": "anna", "reason": "on" });
    weir.command("/api/v1/rollouts/chat/promote", body).await;
    assert_eq!(incidents(&weir).await, Vec::<Value>::new());
    send(&weir, 80).await;
    chat_when(&weir, "the rollback", |chat| chat["state"] == "rolled_back").await;
    let incident = incidents(&weir).await.remove(0);
    let (failed, served) = (new.count(), legacy.count());
    assert_eq!(failed + served, 80);
    for (key, expected) in [
        ("rollout", "chat".into()),
        ("stage", "second".into()),
        ("to", "stable".into()),
        ("trigger", "errors".into()),
        ("actor", "plan".into()),
        ("weight_before_ppm", 500_000.into()),
        ("weight_after_ppm", Value::from(0)),
        ("recheck", "pending".into()),
    ] {
        assert_eq!(incident[key], expected, "{key} of {incident:#}");
    }
    assert!(incident["reason"].as_str().is_some_and(|reason| reason.contains("error_rate 100.")), "{incident:#}");
    // Everything that had ended by then, and no more.
    for (place, name) in ["1m", "10m", "stage"].into_iter().enumerate() {
        let window = &incident["windows"][place];
        let canary = &window["canary"];
        assert_eq!(window["window"], name);
        let requests = canary["requests"].as_u64().expect("a count");
        assert!((20..=failed).contains(&requests), "{window:#}");
        assert_eq!(canary["errors_by_kind"], serde_json::json!({ "status_5xx": requests }));
        assert_eq!((&canary["error_rate"], &window["stable"]["errors"]), (&1.0.into(), &0.into()), "{window:#}");
    }
    assert_eq!(incident["gates"][0]["verdict"], "fail", "{incident:#}");
    assert_eq!(incident["triggers"][0]["state"], "firing", "{incident:#}");
    assert!(incident["resources"]["memory"]["last"].as_f64().is_some_and(|bytes| bytes > 1e6), "{incident:#}");
    weir.stop().await;
}

#[tokio::test]
async fn persons_rollbacks_are_incidents_too_and_a_sick_stable_completes_them() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(|_| Reply::status(503));
    let folder = folder();
    let config = Config::split(&legacy, &new).weight("100%").tables(STAGES);
    std::fs::write(folder.path().join("weir.toml"), config.to_string()).expect("the folder is ours");
    let weir = Weir::start_scaled(folder, Vec::new(), 100).await;
    chat_when(&weir, "the first stage", |chat| chat["stage"]["name"] == "first").await;
    for to in ["half", "stable"] {
        let body = serde_json::json!({ "to": to, "actor": "anna", "reason": format!("to {to}") });
        weir.command("/api/v1/rollouts/chat/rollback", body).await;
    }
    let found = incidents(&weir).await;
    let told: Vec<(&Value, &Value)> = found.iter().map(|it| (&it["to"], &it["recheck"])).collect();
    assert_eq!(told, [(&"half".into(), &Value::Null), (&"stable".into(), &"pending".into())]);
    assert_eq!((&found[0]["weight_before_ppm"], &found[0]["weight_after_ppm"]), (&500_000.into(), &250_000.into()));
    assert_eq!((&found[1]["actor"], &found[1]["reason"]), (&"anna".into(), &"to stable".into()));
    let completed = eventually("the escalation", async || {
        send(&weir, 20).await;
        incidents(&weir).await.pop().filter(|it| it["recheck"] == "escalated")
    })
    .await;
    let reason = completed["recheck_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("stable is not healthy"), "{completed:#}");
    assert_eq!(weir.ask("GET", "/api/v1/rollouts/chaat/incidents", "").await.status, 404);
    assert_eq!(weir.ask("GET", "/api/v1/rollouts/chat/incidents?limit=x", "").await.status, 400);
    weir.stop().await;
}

#[tokio::test]
async fn a_sick_stable_is_noticed_although_weir_was_restarted_after_the_rollback() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(|_| Reply::status(503));
    let folder = folder();
    let config = Config::split(&legacy, &new).weight("100%").tables(STAGES);
    let weir = Weir::start_in(std::sync::Arc::clone(&folder), &config).await;
    chat_when(&weir, "the first stage", |chat| chat["stage"]["name"] == "first").await;
    weir.command("/api/v1/rollouts/chat/rollback", serde_json::json!({ "actor": "anna", "reason": "slow" })).await;
    weir.stop().await;
    // Twice as fast: stable is judged after 5 seconds instead of 10, for 25 more.
    let weir = Weir::start_scaled(std::sync::Arc::clone(&folder), Vec::new(), 2).await;
    let pending = incidents(&weir).await.remove(0);
    assert_eq!((&pending["recheck"], &pending["actor"]), (&"pending".into(), &"anna".into()));
    let escalated = eventually("the escalation", async || {
        send(&weir, 20).await;
        incidents(&weir).await.pop().filter(|it| it["recheck"] == "escalated")
    })
    .await;
    assert_eq!(escalated["event"], pending["event"]);
    let told = weir.view("/api/v1/events").await["events"].as_array().expect("a list").clone();
    let of = |kind: &str| told.iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((of("rollback"), of("escalate")), (1, 1), "{told:#?}");
    // A rollout that is gone cannot be looked at: the record says so.
    weir.command("/api/v1/rollouts/chat/revive", serde_json::json!({})).await;
    weir.command("/api/v1/rollouts/chat/rollback", serde_json::json!({})).await;
    weir.stop().await;
    let gone = config.to_string().replace("chat", "talk");
    let weir = Weir::start_in(std::sync::Arc::clone(&folder), &gone).await;
    assert_eq!(weir.ask("GET", "/api/v1/rollouts/chat/incidents", "").await.status, 404);
    weir.stop().await;
    let weir = Weir::start_in(folder, &config).await;
    let given_up = incidents(&weir).await.pop().expect("it was kept");
    assert_eq!(given_up["recheck"], "unknown");
    assert!(given_up["recheck_reason"].as_str().is_some_and(|why| why.contains("left the config")), "{given_up:#}");
    weir.stop().await;
}

#[tokio::test]
async fn a_reports_figures_are_those_of_the_requests() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|seen| if seen.target.starts_with("/bad") { Reply::status(500) } else { Reply::Hello });
    let config = Config::split(&legacy, &new).weight("100%").tables(&format!(
        "{STAGES}[[rollouts.chat.triggers]]\nname = \"errors\"\nwhen = \"error_rate > 30%\"\nfor = \"0s\"\n\
         min_requests = 20\naction = \"rollback\""
    ));
    let weir = Weir::start(&config).await;
    chat_when(&weir, "the first stage", |chat| chat["stage"]["name"] == "first").await;
    let empty = weir.ask("GET", "/api/v1/rollouts/chat/report?format=md", "").await.text();
    assert!(empty.contains("No requests were counted") && !empty.contains("p95"), "{empty}");
    send(&weir, 30).await;
    let (stable, canary) = (legacy.count(), new.count());
    let restarted = weir.restart().await;
    let body = serde_json::json!({ "force": true, "actor": "anna", "reason": "looks <b>good</b> | really" });
    restarted.command("/api/v1/rollouts/chat/promote", body).await;
    let mut client = Client::http1(restarted.address).await;
    for number in 0..40 {
        client.get("/bad", &[("x-user-id", &format!("v{number}"))]).await;
    }
    let chat = chat_when(&restarted, "the rollback", |chat| chat["state"] == "rolled_back").await;
    assert_eq!(chat["stage"]["name"], "second");
    let (stable_all, canary_all) = (legacy.count(), new.count());
    let report = eventually("all requests in the report", async || {
        let report = restarted.view("/api/v1/rollouts/chat/report?since=1h").await;
        let requests = |arm: &str| report["arms"][arm]["requests"].as_u64();
        (requests("stable") == Some(stable_all) && requests("canary") == Some(canary_all)).then_some(report)
    })
    .await;
    let arms = &report["arms"];
    let failed = canary_all - canary;
    assert_eq!((&arms["canary"]["errors"], &arms["stable"]["errors"]), (&failed.into(), &0.into()));
    assert_eq!(arms["canary"]["errors_by_kind"], serde_json::json!({ "status_5xx": failed }));
    assert_eq!(arms["canary"]["codes"], serde_json::json!({ "2xx": canary, "5xx": failed }));
    let stages = report["stages"].as_array().expect("a list");
    let names: Vec<&Value> = stages.iter().map(|stage| &stage["stage"]).filter(|name| !name.is_null()).collect();
    assert_eq!(names, ["first", "second"], "{stages:#?}");
    let of = |name: &str| stages.iter().find(|stage| stage["stage"] == name).expect("a stage");
    let requests = |name: &str, arm: &str| of(name)["arms"][arm]["requests"].as_u64();
    // The first stage as a whole, although weir was restarted in it.
    assert_eq!((requests("first", "stable"), requests("first", "canary")), (Some(stable), Some(canary)));
    assert_eq!(of("first")["arms"]["canary"]["errors"], 0);
    assert_eq!(of("second")["arms"]["canary"]["errors_by_kind"]["status_5xx"], failed);
    assert_eq!(of("second")["gates"][0]["verdict"], "fail", "{:#}", of("second"));
    assert_eq!(of("first")["why_left"], "looks <b>good</b> | really");
    let points = report["points"].as_array().expect("a list");
    let sum = |arm: &str| points.iter().filter_map(|point| point[arm]["requests"].as_u64()).sum::<u64>();
    assert_eq!((sum("stable"), sum("canary")), (stable_all, canary_all));
    assert_eq!(
        (&report["fired"][0]["trigger"], &report["incidents"][0]["trigger"]),
        (&"errors".into(), &"errors".into())
    );
    assert!(report["resources"]["memory"]["max"].as_f64().is_some_and(|bytes| bytes > 1e6));

    let text = restarted.ask("GET", "/api/v1/rollouts/chat/report?format=md", "").await.text();
    for part in ["# chat: report", "## Incidents", "status\\_5xx", "looks &lt;b>good&lt;/b> \\| really"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let page = restarted.ask("GET", "/api/v1/rollouts/chat/report?format=html", "").await;
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    let page = page.text();
    assert!(page.contains("<svg") && page.contains("looks &lt;b&gt;good") && !page.contains("<script"), "{page}");
    for (target, status) in [
        ("chaat/report", 404),
        ("chat/report?since=yesterday", 400),
        ("chat/report?since=500d", 400),
        ("chat/report?format=pdf", 400),
    ] {
        let answer = restarted.ask("GET", &format!("/api/v1/rollouts/{target}"), "").await;
        assert_eq!(answer.status, status, "{target}: {}", answer.text());
    }
    restarted.stop().await;
}
