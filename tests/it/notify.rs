//! Who is told of what happens: the wire forms, once per event, in order, whatever the target does.

use crate::harness::hook::{Say, Told};
use crate::harness::raw::call;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Hook, Origin, Reply, Weir};
use crate::process::Process;
use serde_json::{Value, json};
use std::net::SocketAddr;

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

#[tokio::test]
async fn slack_and_an_alertmanager_are_told_in_their_own_forms() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let (slack, alerts) = (Hook::start().await, Hook::start().await);
    let tables = target("alertmanager", &format!("http://{}/am", alerts.address), "token_file = \"token\"")
        + &target("slack", &format!("http://{}/services/T0/B0", slack.address), "rollouts = [\"chat\"]");
    let folder = folder();
    std::fs::write(folder.path().join("token"), "not-to-be-guessed\n").expect("the folder is ours");
    let weir = Weir::start_in(folder, &Config::split(&legacy, &new).tables(&tables)).await;
    act(&weir, "kill", json!({ "reason": "a < b & c", "actor": "anna" })).await;
    act(&weir, "revive", json!({})).await;

    let told = slack.count(2).await;
    assert_eq!(told[0].target, "/services/T0/B0");
    let text = told[0].body["text"].as_str().expect("a text");
    let headline =
        ":red_circle: *chat was killed: everything goes to stable: running at 50%*\na &lt; b &amp; c\nby anna · ";
    assert!(text.starts_with(headline), "{text}");

    let told = alerts.count(2).await;
    assert_eq!(told[0].target, "/am/api/v2/alerts");
    assert_eq!(told[0].field("authorization"), Some("Bearer not-to-be-guessed"));
    let labels = json!({ "alertname": "WeirKill", "event": "kill", "rollout": "chat", "severity": "critical" });
    let (killed, revived) = (&told[0].body, &told[1].body);
    assert_eq!((&killed[0]["labels"], &revived[0]["labels"]), (&labels, &labels));
    assert_eq!(killed[0]["annotations"]["description"], "a < b & c");
    let time = |alert: &Value, name: &str| alert[name].as_str().expect("a time").to_owned();
    assert!(time(&killed[0], "endsAt") > time(&killed[0], "startsAt"), "it lasts");
    assert!(time(&revived[0], "endsAt") < time(&killed[0], "endsAt"), "until it is ended");
    weir.stop().await;
}

#[tokio::test]
async fn who_was_away_is_told_everything_in_order() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let away = Hook::start().await;
    let config = telling(&legacy, &new, &away, "name = \"night-shift\"");
    let address = away.address;
    drop(away);
    let weir = Weir::start(&config).await;
    act(&weir, "kill", json!({})).await;
    act(&weir, "revive", json!({})).await;
    let text = eventually("a detail", async || {
        let text = weir.ask("GET", "/readyz", "").await.text().to_owned();
        text.contains("notify night-shift: cannot reach").then_some(text)
    })
    .await;
    assert!(
        text.contains(&format!("{address}")) && text.contains("; 2 events wait") && !text.contains("/hook"),
        "{text}"
    );
    let back = Hook::start_at(address).await;
    assert_eq!(told_of(&back.count(2).await), trail(&weir).await);
    eventually("no detail", async || (!weir.ask("GET", "/readyz", "").await.text().contains("notify")).then_some(()))
        .await;
    weir.stop().await;
}

#[tokio::test]
async fn what_was_not_delivered_is_told_after_a_restart_and_nothing_twice() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    hook.script(|count, _| Say::Status(if count == 1 { 200 } else { 503 }, None));
    let weir = Weir::start(&telling(&legacy, &new, &hook, "")).await;
    act(&weir, "kill", json!({})).await;
    act(&weir, "revive", json!({})).await;
    act(&weir, "kill", json!({})).await;
    hook.count(2).await;
    let weir = weir.restart().await;
    hook.script(|_, _| Say::Status(200, None));
    let told = hook.told_until("the rest", |told| told.last().is_some_and(|told| told.body["id"] == json!(3))).await;
    let mut events: Vec<(u64, String)> = told_of(&told);
    events.dedup();
    assert_eq!(events, trail(&weir).await);
    weir.stop().await;
}

#[tokio::test]
async fn a_killed_process_leaves_what_it_had_to_tell() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    hook.script(|count, _| Say::Status(if count == 1 { 200 } else { 503 }, None));
    let folder = folder();
    let file = folder.path().join("weir.toml");
    let admin = free_address();
    let config = telling(&legacy, &new, &hook, "").to_string();
    let text = config.replace("[admin]\naddress = \"127.0.0.1:0\"", &format!("[admin]\naddress = \"{admin}\""));
    std::fs::write(&file, text).expect("the folder is ours");
    let process = Process::start(&file).await;
    for verb in ["kill", "revive", "kill"] {
        command(admin, verb).await;
    }
    // The first was taken and written down, the second is under way.
    hook.told_until("the second", |told| told.iter().any(|told| told.body["id"] == json!(2))).await;
    drop(process);
    hook.script(|_, _| Say::Status(200, None));
    let _process = Process::start(&file).await;
    let told = hook.told_until("the third", |told| told.last().is_some_and(|told| told.body["id"] == json!(3))).await;
    let mut events: Vec<(u64, String)> = told_of(&told);
    events.dedup();
    assert_eq!(events, [(1, "kill".to_owned()), (2, "revive".to_owned()), (3, "kill".to_owned())]);
    let keys: Vec<_> =
        told.iter().filter(|told| told.body["id"] == json!(2)).map(|told| told.field("x-weir-event")).collect();
    assert!(keys.len() >= 2 && keys.iter().all(|key| *key == keys[0]), "the same key at every try: {keys:?}");
}

#[tokio::test]
async fn a_reload_changes_who_is_told_and_nobody_is_told_old_news() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let (first, second) = (Hook::start().await, Hook::start().await);
    let with = |hook: &Hook| telling(&legacy, &new, hook, "");
    let weir = Weir::start(&with(&first)).await;
    act(&weir, "kill", json!({})).await;
    sent(&weir, 1).await;
    weir.write_config(&with(&second));
    assert!(weir.reload_at_once().await);
    act(&weir, "revive", json!({})).await;
    sent(&weir, 2).await;
    weir.write_config(&with(&first));
    assert!(weir.reload_at_once().await);
    act(&weir, "kill", json!({})).await;
    sent(&weir, 3).await;
    assert_eq!((first.events(), second.events()), (vec!["kill".into(), "kill".into()], vec!["revive".to_owned()]));
    weir.stop().await;
}

#[tokio::test]
async fn what_a_plan_stands_at_is_in_the_metrics() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let plan = "[[rollouts.chat.stages]]\nname = \"first\"\nweight = \"50%\"\n\
                [[rollouts.chat.stages]]\nname = \"second\"\nweight = \"100%\"\ngates = [\"error_rate < 1%\", \"requests > 0\"]\n\
                [[rollouts.chat.triggers]]\nname = \"errors\"\nwhen = \"error_rate > 50%\"\naction = \"alert\"";
    let config = Config::split(&legacy, &new).weight("100%").tables(plan);
    let weir = Weir::start(&config).await;
    let second = [("rollout", "chat"), ("stage", "second")];
    let metrics =
        weir.metrics_until("the second stage", |metrics| metrics.sum("weir_rollout_stage", &second) == 1.0).await;
    assert!(metrics.has("weir_rollout_stage", &[("stage", "first")]));
    assert_eq!(metrics.sum("weir_rollout_stage", &[]), 1.0);
    assert_eq!(metrics.sum("weir_gate_verdict", &[("gate", "error_rate < 1%")]), 0.0);
    new.script(|_| Reply::status(500));
    let mut client = Client::http1(weir.address).await;
    for _ in 0..120 {
        client.get("/", &[("x-user-id", "u")]).await;
    }
    let metrics = weir
        .metrics_until("a trigger that fires", |metrics| {
            metrics.sum("weir_trigger_state", &[("rollout", "chat"), ("trigger", "errors")]) == 2.0
                && metrics.sum("weir_gate_verdict", &[("gate", "error_rate < 1%")]) == -1.0
        })
        .await;
    assert_eq!(metrics.sum("weir_gate_verdict", &[("gate", "requests > 0")]), 1.0);
    assert_eq!(metrics.count("weir_audit_events_total", &[("kind", "stage")]), 2);
    assert!(!metrics.has("weir_blocked_total", &[]), "no arm answers by itself");
    weir.stop().await;
}

#[tokio::test]
async fn how_far_back_a_rollout_went_is_told_and_by_which_trigger() {
    let (legacy, new, hook) = (Origin::start("legacy").await, Origin::start("new").await, Hook::start().await);
    let trigger = |action: &str| {
        format!(
            "[[rollouts.chat.triggers]]\nname = \"{action}\"\nwhen = \"signal.{action} > 10%\"\naction = \"{action}\"\n\
             [signals.{action}]\n"
        )
    };
    let plan = "[[rollouts.chat.stages]]\nname = \"first\"\nweight = \"40%\"\n\
                [[rollouts.chat.stages]]\nname = \"second\"\nweight = \"100%\"\napproval = true\n"
        .to_owned()
        + &trigger("half")
        + &trigger("rollback");
    let weir =
        Weir::start(&telling(&legacy, &new, &hook, "events = [\"rollback\"]").weight("100%").tables(&plan)).await;
    let mut client = Client::http1(weir.address).await;
    let second = [("rollout", "chat"), ("stage", "second")];
    weir.metrics_until("the second stage", |metrics| metrics.sum("weir_rollout_stage", &second) == 1.0).await;
    act(&weir, "rollback", json!({ "to": "previous" })).await;
    hook.count(1).await;
    weir.metrics_until("the second stage", |metrics| metrics.sum("weir_rollout_stage", &second) == 1.0).await;
    for (count, signal) in [(2, "half"), (3, "rollback")] {
        for unit in 0..20 {
            client.get("/", &[("x-user-id", &format!("u{unit}"))]).await;
        }
        weir.command(&format!("/api/v1/signals/{signal}"), json!({ "arm": "canary", "count": 100 })).await;
        hook.count(count).await;
    }
    let told = hook.told();
    let field = |name: &str| told.iter().map(|told| told.body[name].clone()).collect::<Vec<_>>();
    assert_eq!(field("to"), ["previous", "half", "stable"]);
    assert_eq!(field("trigger"), [Value::Null, json!("half"), json!("rollback")]);
    let weights = |side: &str| told.iter().map(|told| told.body[side]["weight_ppm"].clone()).collect::<Vec<_>>();
    assert_eq!(weights("old"), [1_000_000, 1_000_000, 500_000]);
    assert_eq!(weights("new"), [400_000, 500_000, 0]);
    assert_eq!(told[2].body["new"]["state"], "rolled_back");
    weir.stop().await;
}

#[tokio::test]
async fn requests_that_an_arm_answers_by_itself_are_counted() {
    let legacy = Origin::start("legacy").await;
    let blocking = "{ respond = { status = 403 } }";
    let config = Config::split(&legacy, &legacy).weight("0%").arms(blocking, "{ upstream = \"new\" }");
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    for _ in 0..3 {
        assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, 403);
    }
    let blocked = [("rollout", "chat")];
    weir.metrics_until("three", |metrics| metrics.count("weir_blocked_total", &blocked) == 3).await;
    // What an upstream has answered was not blocked, whatever its arm becomes, and what was blocked stays so.
    for (arms, status, count) in [
        (["{ upstream = \"legacy\" }", "{ upstream = \"new\" }"], 200, 3),
        (["{ upstream = \"legacy\" }", blocking], 200, 3),
        ([blocking, "{ upstream = \"new\" }"], 403, 4),
    ] {
        weir.write_config(&Config::split(&legacy, &legacy).weight("0%").arms(arms[0], arms[1]));
        assert!(weir.reload_at_once().await);
        assert_eq!(client.get("/", &[("x-user-id", "u")]).await.status, status);
        assert_eq!(weir.metrics().await.count("weir_blocked_total", &blocked), count, "{arms:?}");
    }
    weir.stop().await;
}

/// Waits until so many webhooks were taken and that is written down.
async fn sent(weir: &Weir, count: u64) {
    let labels = [("kind", "webhook"), ("result", "sent")];
    weir.metrics_until("webhooks", |metrics| metrics.count("weir_notifications_total", &labels) == count).await;
}

/// A port that was ours a moment ago.
fn free_address() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// Has a process carry out a command.
async fn command(admin: SocketAddr, verb: &str) {
    let host = admin.to_string();
    let fields = [("host", host.as_str()), ("content-type", "application/json"), ("connection", "close")];
    let answer = call(admin, "POST", &format!("/api/v1/rollouts/chat/{verb}"), &fields, b"{}").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}
