//! The time scale: a plan of hours carried out in seconds with real traffic, and said so everywhere.

use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Origin, Reply, Weir};
use serde_json::{Value, json};
use std::process::{Command, Stdio};

const CHAT: &str = "/api/v1/rollouts/chat";
/// An hour a second.
const FACTOR: u32 = 3600;

const PLAN: &str = "
[[rollouts.chat.stages]]
name = \"half\"
weight = \"50%\"
min_duration = \"1h\"
max_duration = \"24h\"
gates = [\"error_rate <= stable + 0.5%\"]

[[rollouts.chat.stages]]
name = \"full\"
weight = \"100%\"
min_duration = \"2h\"
gates = [{ when = \"error_rate < 1%\", window = \"30m\", min_requests = 300 }]

[[rollouts.chat.triggers]]
name = \"errors\"
when = \"error_rate > 50%\"
for = \"10m\"
action = \"rollback\"
";

async fn start(legacy: &Origin, new: &Origin) -> Weir {
    let config = Config::split(legacy, new).weight("100%").tables(PLAN);
    let folder = folder();
    std::fs::write(folder.path().join("weir.toml"), config.to_string()).expect("the folder is ours");
    Weir::start_scaled(folder, Vec::new(), FACTOR).await
}

/// Asks as one unit after the other until the rollout is in that state.
async fn ask_until(weir: &Weir, state: &str) -> Value {
    let mut client = Client::http1(weir.address).await;
    let mut unit = 0_u64;
    eventually(state, async || {
        for _ in 0..5 {
            unit += 1;
            client.get("/", &[("x-user-id", &format!("user-{unit}"))]).await;
        }
        let chat = weir.view(CHAT).await;
        (chat["state"] == state).then_some(chat)
    })
    .await
}

fn printed(weir: &Weir, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .args(["--admin", &weir.admin.to_string()])
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_plan_of_hours_completes_in_seconds_with_traffic() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = start(&legacy, &new).await;
    let chat = ask_until(&weir, "completed").await;
    assert_eq!(chat["time_scale"], json!(FACTOR));
    assert_eq!((&chat["weight_ppm"], &chat["stage"]["name"]), (&json!(1_000_000), &json!("full")));
    assert_eq!(chat["stage"]["min_duration_s"], json!(2.0));
    assert_eq!(chat["triggers"][0]["for_s"], json!(0.2), "never below what can be measured");
    assert!(chat["stage"]["served_s"].as_f64().expect("a number") >= 2.0, "{chat}");
    let trail = weir.view("/api/v1/events?since=0").await;
    let kinds: Vec<&str> =
        trail["events"].as_array().expect("a list").iter().filter_map(|event| event["kind"].as_str()).collect();
    assert_eq!(kinds, ["stage", "stage", "complete", "baseline"], "{trail}");
    weir.stop().await;
}

#[tokio::test]
async fn the_factor_is_said_everywhere_and_survives_a_reload() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = start(&legacy, &new).await;
    let config = Config::split(&legacy, &new).weight("100%").tables(&PLAN.replace("\"2h\"", "\"3h\""));
    weir.write_config(&config);
    assert_eq!(weir.reload().await.status, 200);
    let chat = ask_until(&weir, "completed").await;
    assert_eq!((&chat["time_scale"], &chat["stage"]["min_duration_s"]), (&json!(FACTOR), &json!(3.0)));
    assert_eq!(weir.view("/api/v1/rollouts").await["rollouts"][0]["time_scale"], json!(FACTOR));
    let ready = weir.ask("GET", "/readyz", "").await.text();
    assert!(ready.contains("plans run 3600 times as fast as written (--time-scale 3600)"), "{ready}");
    assert_eq!(weir.metrics().await.sum("weir_time_scale", &[]), f64::from(FACTOR));
    for arguments in [&["status"][..], &["status", "chat"]] {
        let text = printed(&weir, arguments);
        assert!(text.contains("rehearsal: time x 3600"), "{text}");
    }
    let effective = weir.view("/api/v1/config").await;
    assert_eq!(effective["rollouts"]["chat"]["stages"][0]["min_duration"], "1h", "the file is shown as written");
    weir.stop().await;
}

#[tokio::test]
async fn a_sick_canary_is_rolled_back_at_the_scale_of_its_trigger() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| Reply::status(500));
    let weir = start(&legacy, &new).await;
    let chat = ask_until(&weir, "rolled_back").await;
    let reason = chat["state_reason"].as_str().expect("a reason");
    assert!(reason.contains("trigger `errors`: error_rate") && reason.contains("in 2s"), "{reason}");
    weir.stop().await;
}

/// What moved the rollout, and the stage it was in after that.
fn moves(events: &Value) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let moved = |event: &&Value| ["stage", "rollback", "complete", "pause"].contains(&word(&event["kind"]).as_str());
    let events = events.as_array().expect("a list").iter().filter(moved);
    let stage =
        |event: &Value| if event["stage"].is_null() { word(&event["new"]["stage"]) } else { word(&event["stage"]) };
    events.map(|event| (word(&event["kind"]), stage(event))).collect()
}

/// What `weir rehearse` tells of the config of that weir, and its exit code.
fn rehearsed(weir: &Weir, arguments: &[&str]) -> (Vec<(String, String)>, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["rehearse", "-o", "json", "-c", &weir.config_file().to_string_lossy()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary is built");
    let story: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|problem| panic!("{problem}: {output:?}"));
    (moves(&story["events"]), output.status.code())
}

#[tokio::test]
async fn a_rehearsal_tells_what_then_happens_in_that_order() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    for (sick, ends, arguments, code) in
        [(false, "completed", &[][..], 0), (true, "rolled_back", &["--canary", "errors=100%"], 1)]
    {
        new.script(move |_| if sick { Reply::status(500) } else { Reply::status(200) });
        let weir = start(&legacy, &new).await;
        ask_until(&weir, ends).await;
        let happened = moves(&weir.view("/api/v1/events?since=0").await["events"]);
        assert!(happened.len() >= 2, "{happened:?}");
        assert_eq!(rehearsed(&weir, arguments), (happened, Some(code)));
        weir.stop().await;
    }
}
