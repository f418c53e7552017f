//! Who is told of what happens: the wire forms, once per event, in order, whatever the target does.

use crate::harness::hook::{Say, Told};
use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Hook, Origin, Reply, Weir};
use serde_json::{Value, json};

/// `chat` with a webhook and these lines of its own.
fn telling(legacy: &Origin, new: &Origin, hook: &Hook, lines: &str) -> Config {
    Config::split(legacy, new).tables(&target("webhook", &format!("http://{}/hook", hook.address), lines))
}

fn target(kind: &str, url: &str, lines: &str) -> String {
    format!("[[notify]]\nkind = \"{kind}\"\nurl = \"{url}\"\n{lines}\n")
}

async fn act(weir: &Weir, verb: &str, body: Value) {
    weir.command(&format!("/api/v1/rollouts/chat/{verb}"), body).await;
}

/// The kinds of the events that a webhook asks for, as the audit trail has them.
async fn trail(weir: &Weir) -> Vec<(u64, String)> {
    let events = weir.view("/api/v1/events?limit=1000").await;
    let quiet = ["weight", "approve", "reload", "reload_failed", "baseline", "cohort"];
    let all = events["events"].as_array().expect("a list").iter();
    let all =
        all.map(|event| (event["id"].as_u64().expect("an id"), event["kind"].as_str().expect("a kind").to_owned()));
    all.filter(|(_, kind)| !quiet.contains(&kind.as_str())).collect()
}

fn told_of(told: &[Told]) -> Vec<(u64, String)> {
    told.iter().map(|told| (told.body["id"].as_u64().expect("an id"), told.event().to_owned())).collect()
}

#[tokio::test]
async fn a_webhook_is_told_in_the_form_of_the_contract() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    let weir = Weir::start(&telling(&legacy, &new, &hook, "")).await;
    act(&weir, "kill", json!({ "reason": "errors & <others>", "actor": "anna" })).await;
    let told = hook.count(1).await.remove(0);
    assert_eq!((told.target.as_str(), told.field("content-type")), ("/hook", Some("application/json")));
    assert_eq!(told.field("host"), Some(hook.address.to_string().as_str()));
    let (id, key) = told.field("x-weir-event").and_then(|key| key.split_once('-')).expect("a key");
    assert_eq!((id, key.len()), (told.body["id"].to_string().as_str(), 16));
    let event = &weir.view("/api/v1/events").await["events"][0];
    assert_eq!((&told.body["id"], &told.body["time"]), (&event["id"], &event["time"]));
    assert_eq!((&told.body["numbers"], &told.body["reason"]), (&event["numbers"], &json!("errors & <others>")));
    let stand = json!({ "state": "running", "stage": null, "weight_ppm": 500_000 });
    assert_eq!((&told.body["old"], &told.body["new"]), (&stand, &stand));
    let mut names: Vec<&str> = told.body.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["event", "id", "new", "numbers", "old", "reason", "rollout", "time"]);
    weir.stop().await;
}

#[tokio::test]
async fn a_target_that_fails_is_tried_again_in_order_and_one_that_refuses_is_not() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    hook.script(|count, told| match (count, told.event()) {
        (1 | 2, _) => Say::Status(503, None),
        (_, "rollback") => Say::Status(400, None),
        _ => Say::Status(204, None),
    });
    let weir = Weir::start(&telling(&legacy, &new, &hook, "")).await;
    act(&weir, "kill", json!({})).await;
    act(&weir, "revive", json!({})).await;
    act(&weir, "rollback", json!({})).await;
    act(&weir, "revive", json!({})).await;
    let told = hook.count(6).await;
    let expected = ["kill", "kill", "kill", "revive", "rollback", "revive"];
    assert_eq!(told.iter().map(Told::event).collect::<Vec<_>>(), expected);
    let keys: Vec<_> = told.iter().map(|told| told.field("x-weir-event")).collect();
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3], "{keys:?}");
    assert_eq!(told[4].body["to"], json!("stable"));
    let metrics = weir
        .metrics_until("three taken", |metrics| {
            metrics.count("weir_notifications_total", &[("kind", "webhook"), ("result", "sent")]) == 3
        })
        .await;
    let count = |result| metrics.count("weir_notifications_total", &[("kind", "webhook"), ("result", result)]);
    assert_eq!((count("retried"), count("failed"), count("dropped")), (2, 1, 0));
    weir.stop().await;
}

#[tokio::test]
async fn every_transition_of_a_plan_is_told_once() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    let stages = "[[rollouts.chat.stages]]\nname = \"first\"\nweight = \"50%\"\n\
                  [[rollouts.chat.stages]]\nname = \"second\"\nweight = \"100%\"\napproval = true\n\
                  [rollouts.chat.breaker]\nconsecutive_errors = 3\nmin_units = 1\nfallback = \"off\"\ncooldown = \"200ms\"\n\
                  probe = \"100%\"";
    let weir = Weir::start(&telling(&legacy, &new, &hook, "").weight("100%").tables(stages)).await;
    let mut expected = vec!["stage", "stage", "approval"];
    let mut reached = async |kinds: &[&'static str]| {
        expected.extend(kinds);
        let told = hook.count(expected.len()).await;
        assert_eq!(told.iter().map(Told::event).collect::<Vec<_>>(), expected);
    };
    reached(&[]).await;
    act(&weir, "kill", json!({})).await;
    act(&weir, "kill", json!({})).await;
    act(&weir, "revive", json!({})).await;
    reached(&["kill", "revive"]).await;

    new.script(|_| Reply::status(500));
    let mut client = Client::http1(weir.address).await;
    for _ in 0..3 {
        client.get("/", &[("x-user-id", "u")]).await;
    }
    reached(&["trip"]).await;
    new.script(|_| Reply::Hello);
    eventually("a recovery", async || {
        client.get("/", &[("x-user-id", "u")]).await;
        hook.events().contains(&"recover".to_owned()).then_some(())
    })
    .await;
    reached(&["recover"]).await;
    act(&weir, "approve", json!({})).await;
    reached(&["complete"]).await;
    act(&weir, "rollback", json!({})).await;
    act(&weir, "revive", json!({})).await;
    reached(&["rollback", "revive"]).await;
    assert_eq!(told_of(&hook.told()), trail(&weir).await);
    weir.stop().await;
}

#[tokio::test]
async fn a_target_that_never_answers_holds_up_nobody() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let (slow, quick) = (Hook::start().await, Hook::start().await);
    slow.script(|_, _| Say::Nothing);
    let other = target("webhook", &format!("http://{}/", quick.address), "");
    let config = telling(&legacy, &new, &slow, "timeout = \"60s\"").weight("100%").tables(&other);
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.origin_of("u").await, "new");
    act(&weir, "kill", json!({})).await;
    assert_eq!(client.origin_of("u").await, "legacy");
    for _ in 0..20 {
        act(&weir, "revive", json!({})).await;
        act(&weir, "kill", json!({})).await;
    }
    let told = quick.count(41).await;
    assert_eq!(told_of(&told), trail(&weir).await);
    assert_eq!(slow.events(), ["kill"], "one at a time");
    weir.stop().await;
}
