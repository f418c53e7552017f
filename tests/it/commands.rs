//! The commands by which a person works with a plan, as people type them: against a running weir, with their effect on
//! traffic, over restarts too.

use crate::harness::wait::eventually;
use crate::harness::{Client, Config, Origin, Reply, Weir, soon};
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Duration;

const CHAT: &str = "/api/v1/rollouts/chat";

/// Five stages. Time moves none of them within a test; people do.
const PLAN: &str = r#"
[rollouts.chat.cohorts.team]
users = ["eng-1"]
[rollouts.chat.cohorts.partners]
users = ["gp-1"]
[[rollouts.chat.stages]]
name = "team"
weight = "0%"
min_duration = "1h"
cohorts = ["team"]
[[rollouts.chat.stages]]
name = "ten"
weight = "10%"
min_duration = "1h"
cohorts = ["team", "partners"]
gates = [{ when = "error_rate < 5%", min_requests = 10 }]
[[rollouts.chat.stages]]
name = "half"
weight = "50%"
min_duration = "1h"
approval = true
[[rollouts.chat.stages]]
name = "most"
weight = "90%"
min_duration = "1h"
[[rollouts.chat.stages]]
name = "full"
weight = "100%"
min_duration = "1h"
"#;

/// A weir whose plan has begun, with its origins.
async fn begun() -> (Weir, Origin, Origin) {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("100%").tables(PLAN)).await;
    in_stage(&weir, "team").await;
    (weir, legacy, new)
}

/// What the program printed and how it ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// Runs the program against a running weir. The test's origins go on answering meanwhile.
async fn run(weir: &Weir, line: &str) -> Ran {
    run_at(&weir.admin.to_string(), line).await
}

async fn run_at(admin: &str, line: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(line.split_whitespace()).args(["--admin", admin]);
    command.env("NO_COLOR", "1").env("USER", "ana").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("the binary is built"));
    let output = soon(line, output).await.expect("it does not panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Runs it, and it must say yes; what it printed.
async fn said(weir: &Weir, line: &str) -> String {
    let ran = run(weir, line).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}: {}", ran.out);
    ran.out
}

async fn in_stage(weir: &Weir, stage: &str) -> Value {
    eventually(stage, || async {
        let rollout = weir.view(CHAT).await;
        (rollout["stage"]["name"] == stage).then_some(rollout)
    })
    .await
}

/// How many of a hundred users are served by the canary, one request each.
async fn on_canary(weir: &Weir) -> usize {
    let mut client = Client::http1(weir.address).await;
    let mut count = 0;
    for number in 0..100 {
        count += usize::from(client.origin_of(&format!("user-{number}")).await == "new");
    }
    count
}

async fn origin_of(weir: &Weir, unit: &str) -> String {
    Client::http1(weir.address).await.origin_of(unit).await
}

/// Requests of people who are on the canary, until the present stage's gates have so many to judge by.
async fn judged(weir: &Weir, verdict: &str) {
    let mut client = Client::http1(weir.address).await;
    eventually("a verdict", async || {
        for _ in 0..5 {
            client.get("/", &[("x-user-id", "eng-1")]).await;
        }
        let rollout = weir.view(CHAT).await;
        rollout["gates"].as_array()?.iter().all(|gate| gate["verdict"] == verdict).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_plan_is_walked_by_hand_and_traffic_follows() {
    let (weir, _legacy, _new) = begun().await;
    assert_eq!((origin_of(&weir, "eng-1").await.as_str(), on_canary(&weir).await), ("new", 0));

    let promoted = said(&weir, "promote chat --reason go").await;
    assert!(
        promoted.starts_with("chat: stage ten (2 of 5) at 10%; 1h to serve, then the next stage begins if its gate"),
        "{promoted}"
    );
    let ten = on_canary(&weir).await;
    assert!((1..30).contains(&ten), "{ten}");
    judged(&weir, "pass").await;
    let promoted = said(&weir, "promote chat").await;
    assert!(promoted.contains("half (3 of 5) at 50%") && promoted.contains("if somebody approves"), "{promoted}");
    let half = on_canary(&weir).await;
    assert!(half > ten, "{half}");
    let approved = said(&weir, "approve chat --reason signed").await;
    assert!(approved.ends_with("to serve, then the next stage begins\n"), "{approved}");
    assert_eq!(weir.view(CHAT).await["stage"]["approved"], json!(true));

    let full = said(&weir, "promote chat --full").await;
    assert!(full.starts_with("chat: stage full (5 of 5) at 100%"), "{full}");
    assert_eq!(on_canary(&weir).await, 100);
    let done = said(&weir, "promote chat").await;
    assert_eq!(done, "chat: completed at 100%; breaker and triggers go on watching\n");
    let ran = run(&weir, "promote chat").await;
    assert!(ran.code == 1 && ran.err.contains("completed: nothing can be promoted"), "{ran:?}");
    assert_eq!(on_canary(&weir).await, 100);
    weir.stop().await;
}

#[tokio::test]
async fn a_gate_that_fails_holds_a_promotion_and_force_does_not_ask_it() {
    let (weir, _legacy, new) = begun().await;
    new.script(|_| Reply::status(500));
    said(&weir, "promote chat").await;
    judged(&weir, "fail").await;
    let ran = run(&weir, "promote chat").await;
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(ran.err.contains("a gate of stage `ten` does not pass (fail): error_rate 100.0% >= 5.0% ("), "{}", ran.err);
    let ran = run(&weir, "promote chat -o json").await;
    let body: Value = serde_json::from_str(&ran.out).expect("the body of the API");
    assert!(ran.code == 1 && body["error"].as_str().is_some_and(|error| error.contains("does not pass")), "{ran:?}");
    assert_eq!(weir.view(CHAT).await["stage"]["name"], "ten");
    assert!(said(&weir, "promote chat --force").await.starts_with("chat: stage half (3 of 5) at 50%"));
    weir.stop().await;
}

#[tokio::test]
async fn validate_says_whether_the_next_stage_may_begin_and_what_holds_it() {
    let (weir, _legacy, new) = begun().await;
    said(&weir, "promote chat").await;
    let ran = run(&weir, "validate chat").await;
    assert_eq!((ran.code, ran.err.as_str()), (1, ""));
    assert!(ran.out.starts_with("chat: stage half may not begin yet\n  wait  gate  error_rate"), "{}", ran.out);
    assert!(ran.out.contains(" still to serve: "), "{}", ran.out);
    judged(&weir, "pass").await;
    let ran = run(&weir, "validate chat").await;
    assert!(ran.code == 1 && ran.out.contains("\n  pass  gate  error_rate 0.0% < 5.0% ("), "{}", ran.out);
    assert!(ran.out.ends_with("`weir promote chat` does not wait for that\n"), "{}", ran.out);
    new.script(|_| Reply::status(500));
    judged(&weir, "fail").await;
    let ran = run(&weir, "validate chat").await;
    assert!(
        ran.code == 1 && ran.out.starts_with("chat: stage half may not begin\n  fail  gate  error_rate"),
        "{}",
        ran.out
    );
    let body = weir.view(&format!("{CHAT}/validate")).await;
    assert_eq!([&body["may"], &body["verdict"], &body["may_promote"]], [&json!(false), &json!("fail"), &json!(false)]);

    let partners = said(&weir, "validate chat --cohort partners").await;
    assert_eq!(partners, "chat: stage ten, the first that admits cohort partners, has begun\n");
    said(&weir, "rollback chat").await;
    let ran = run(&weir, "validate chat --cohort partners").await;
    assert!(ran.code == 1 && ran.out.contains("fail  rolled back  it is rolled back"), "{}", ran.out);
    assert!(ran.out.ends_with("`weir revive chat` takes that back\n"), "{}", ran.out);
    for (line, code) in [("validate chta", 2), ("validate chat --cohort partnrs", 2), ("validate", 2)] {
        assert_eq!(run(&weir, line).await.code, code, "{line}");
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port");
    assert_eq!(run_at(&gone.to_string(), "validate chat").await.code, 3);
    weir.stop().await;
}

#[tokio::test]
async fn a_stage_that_may_begin_does() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let plan = PLAN.replacen("min_duration = \"1h\"", "min_duration = \"1s\"", 1);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("100%").tables(&plan)).await;
    // It is asked from the outside: by the time that the answer is yes, the stage may have begun.
    eventually("the next stage", || async {
        let passage = weir.view(&format!("{CHAT}/validate?cohort=partners")).await;
        match passage["entered"].as_bool() {
            Some(true) => {
                assert_eq!(passage["may"], json!(true));
                Some(())
            }
            _ => {
                let kind = &passage["obstacles"][0]["kind"];
                assert!(passage["may"] == true || kind == "time" || kind == "stages", "{passage}");
                None
            }
        }
    })
    .await;
    assert_eq!(weir.view(CHAT).await["stage"]["name"], "ten");
    weir.stop().await;
}

#[tokio::test]
async fn a_pause_outlives_a_restart_and_resume_ends_it() {
    let (weir, _legacy, _new) = begun().await;
    said(&weir, "promote chat").await;
    let paused = said(&weir, "pause chat --reason holidays").await;
    assert_eq!(paused, "chat: paused in stage ten (2 of 5) at 10%; the stage's clock stands still\n");
    assert_eq!(said(&weir, "pause chat").await, paused, "twice is no error");
    let served = weir.view(CHAT).await["stage"]["served_s"].clone();
    let weir = weir.restart().await;
    let rollout = weir.view(CHAT).await;
    assert_eq!([&rollout["state"], &rollout["stage"]["served_s"]], [&json!("paused"), &served], "{rollout}");
    assert_eq!(rollout["state_reason"], "holidays");
    assert!(on_canary(&weir).await > 0, "traffic stays as it is");
    let resumed = said(&weir, "resume chat").await;
    assert!(resumed.starts_with("chat: stage ten (2 of 5) at 10%; "), "{resumed}");
    assert_eq!(weir.view(CHAT).await["state"], "running");
    weir.stop().await;
}

#[tokio::test]
async fn a_rollout_without_stages_is_running_and_a_weight_ends_its_pause() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("10%")).await;
    assert_eq!(said(&weir, "resume chat").await, said(&weir, "resume chat").await, "nothing to resume is no error");
    let approve = run(&weir, "approve chat").await;
    assert!(approve.code == 1 && approve.err.contains("the rollout has no stages"), "{approve:?}");
    said(&weir, "pause chat").await;
    let paused = weir.view(CHAT).await;
    assert_eq!([&paused["state"], &paused["state_reason"]], [&json!("paused"), &json!(null)], "no reason was given");
    said(&weir, "weight chat 21% --reason onwards").await;
    let trail = weir.view("/api/v1/events?since=0").await;
    let kinds = trail["events"].as_array().expect("a list").iter().filter_map(|event| event["kind"].as_str());
    assert_eq!(kinds.collect::<Vec<_>>(), ["pause", "resume"], "whoever was told of the pause is told of its end");
    let rollout = weir.view(CHAT).await;
    assert_eq!([&rollout["state"], &rollout["weight_ppm"]], [&json!("running"), &json!(210_000)]);
    weir.stop().await;
}

#[tokio::test]
async fn a_rollback_goes_as_far_as_asked_and_outlives_a_restart() {
    let (weir, _legacy, _new) = begun().await;
    said(&weir, "promote chat --full").await;
    assert!(said(&weir, "rollback chat --to previous").await.starts_with("chat: stage most (4 of 5) at 90%"));
    let half = said(&weir, "rollback chat --to half").await;
    assert_eq!(half, "chat: paused in stage most (4 of 5) at 45%; the stage's clock stands still\n");
    let on = on_canary(&weir).await;
    assert!((20..70).contains(&on), "{on}");
    let back = said(&weir, "rollback chat --reason flooded").await;
    assert_eq!(back, "chat: rolled back, everyone is on stable; `weir revive chat` begins stage most anew\n");
    assert_eq!(said(&weir, "rollback chat").await, back, "twice is no error");
    assert_eq!((on_canary(&weir).await, origin_of(&weir, "eng-1").await.as_str()), (0, "legacy"));
    let weir = weir.restart().await;
    assert_eq!(on_canary(&weir).await, 0);
    let rollout = weir.view(CHAT).await;
    assert_eq!([&rollout["state"], &rollout["state_reason"]], [&json!("rolled_back"), &json!("flooded")]);
    for refused in ["pause", "resume", "promote", "approve", "rollback --to half"] {
        let mut words = refused.split(' ');
        let (verb, rest) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>().join(" "));
        let ran = run(&weir, &format!("{verb} chat {rest}")).await;
        assert!(ran.code == 1 && ran.err.contains("the rollout is rolled back"), "{refused}: {ran:?}");
        assert!(ran.err.contains("until it is revived"), "{refused}: {ran:?}");
    }
    let revived = said(&weir, "revive chat").await;
    assert!(revived.starts_with("chat: stage most ") && revived.contains(" at 90%; "), "{revived}");
    assert!(on_canary(&weir).await > 70);
    let trail = weir.view("/api/v1/events?since=0").await;
    let told = trail["events"].as_array().expect("a list").iter().filter(|event| event["kind"] == "rollback");
    let told: Vec<(&str, &str)> =
        told.filter_map(|event| Some((event["actor"].as_str()?, event["reason"].as_str()?))).collect();
    assert_eq!(told, [("ana", ""), ("ana", ""), ("ana", "flooded")]);
    weir.stop().await;
}

#[tokio::test]
async fn one_cohort_is_rolled_back_alone() {
    let (weir, _legacy, _new) = begun().await;
    said(&weir, "promote chat").await;
    // Neither of the two is on the canary by bucket: their cohorts admit them.
    for unit in ["eng-1", "gp-1"] {
        assert!(weir.explain(unit).await["reason"].as_str().is_some_and(|reason| reason.starts_with("cohort:")));
    }
    let off = said(&weir, "rollback chat --cohort partners --reason odd").await;
    assert_eq!(off, "chat: cohort partners is off the canary until `weir revive chat --cohort partners`\n");
    assert_eq!(weir.explain("gp-1").await["reason"], "bucket");
    assert_eq!(origin_of(&weir, "eng-1").await, "new");
    let weir = weir.restart().await;
    assert_eq!(weir.explain("gp-1").await["reason"], "bucket");
    assert_eq!(weir.view(CHAT).await["state"], "running");
    said(&weir, "revive chat --cohort partners").await;
    assert_eq!(origin_of(&weir, "gp-1").await, "new");
    weir.stop().await;
}

#[tokio::test]
async fn mistakes_are_exit_code_2_and_say_what_was_probably_meant() {
    let (weir, _legacy, _new) = begun().await;
    for (line, says) in [
        ("pause chta", "did you mean `chat`?"),
        ("rollback chat --cohort partnrs", "did you mean `partners`?"),
        ("pause chat --cohort team", "a cohort has no clock of its own"),
        ("resume chat --cohort team", "`revive` lets it onto the canary again"),
        ("promote chat --cohort team", "a cohort is admitted by the stage that names it"),
        ("approve chat --cohort team", "a stage is approved, not a cohort"),
        ("rollback chat --cohort team --to half", "roll it back without `to`"),
        ("rollback chat --to canary", "stable"),
        ("pause", "ROLLOUT"),
    ] {
        let ran = run(&weir, line).await;
        assert!(ran.code == 2 && ran.err.contains(says), "{line}: {ran:?}");
    }
    assert_eq!(weir.view("/api/v1/events?since=0").await["events"].as_array().map(Vec::len), Some(1), "only the start");
    weir.stop().await;
}

#[tokio::test]
async fn a_wait_ends_with_the_plan_and_with_its_rollback() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let hurried = PLAN
        .replace("\"1h\"", "\"1s\"")
        .replace("approval = true\n", "")
        .replace("min_requests = 10", "min_requests = 1");
    let weir = Weir::start(&Config::split(&legacy, &new).weight("100%").tables(&hurried)).await;
    let mut client = Client::http1(weir.address).await;
    let traffic = async {
        // Paced, or a slow machine meets the limit of requests on one connection.
        let mut due = tokio::time::interval(Duration::from_millis(5));
        loop {
            due.tick().await;
            client.get("/", &[("x-user-id", "eng-1")]).await;
        }
    };
    let ran = tokio::select! {
        ran = run(&weir, "status chat --wait --timeout 60s") => ran,
        () = traffic => unreachable!("traffic never ends"),
    };
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.ends_with("chat: completed at 100%; breaker and triggers go on watching\n"), "{}", ran.out);
    let (waited, _) = tokio::join!(run(&weir, "status chat --wait"), async {});
    assert_eq!(waited.code, 0, "it is complete already");
    weir.stop().await;

    let (weir, _legacy, _new) = begun().await;
    assert_eq!(run(&weir, "status chat --wait --timeout 300ms").await.code, 1);
    let (waited, _) = tokio::join!(run(&weir, "status chat --wait"), said(&weir, "rollback chat"));
    assert!(waited.code == 1 && waited.out.contains("chat: rolled back, everyone is on stable"), "{waited:?}");
    weir.stop().await;
}

#[tokio::test]
async fn health_is_no_as_soon_as_a_gate_fails_or_the_rollout_stops() {
    let (weir, _legacy, new) = begun().await;
    said(&weir, "promote chat").await;
    judged(&weir, "pass").await;
    let well = said(&weir, "health chat --duration 600ms").await;
    assert!(well.ends_with("chat: healthy for 0.6s: no trigger fired and no gate failed\n"), "{well}");
    let team = said(&weir, "health chat --cohort team --duration 600ms").await;
    assert!(team.contains("gate error_rate < 5% on the cohort: pass  error_rate{cohort:team} 0.0% < 5.0%"), "{team}");
    new.script(|_| Reply::status(500));
    let (ran, ()) = tokio::join!(run(&weir, "health chat --duration 1h"), judged(&weir, "fail"));
    assert!(ran.code == 1 && ran.out.contains("not healthy: gate fails: error_rate"), "{ran:?}");
    said(&weir, "promote chat --force").await;
    let (ran, _) = tokio::join!(run(&weir, "health chat --duration 1h"), said(&weir, "pause chat --reason odd"));
    assert!(ran.code == 1 && ran.out.contains("not healthy: it is paused: odd"), "{ran:?}");
    assert_eq!(run(&weir, "health chat --cohort nobody --duration 1s").await.code, 2);
    weir.stop().await;
}

#[tokio::test]
async fn a_baseline_by_command_is_what_gates_compare_with_and_outlives_a_restart() {
    const COMPARED: &str = r#"
[[rollouts.chat.stages]]
name = "half"
weight = "50%"
min_duration = "1h"
gates = [{ when = "p95 < 1.1 * baseline", min_requests = 1 }]
[[rollouts.chat.stages]]
name = "full"
weight = "100%"
"#;
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("100%").tables(COMPARED)).await;
    in_stage(&weir, "half").await;
    assert_eq!(said(&weir, "baseline chat").await, "chat: no baseline\n");
    let ran = run(&weir, "baseline chat --capture").await;
    assert!(
        ran.code == 1 && ran.err.contains("nothing has been measured of rollout `chat` in stage `half`"),
        "{ran:?}"
    );
    for (line, says) in [
        ("baseline chta", "did you mean `chat`?"),
        ("baseline chat --set stable.p96=1ms", "p96"),
        ("baseline chat --set stable.p95=1MB", "a time"),
        ("baseline chat --set stable.p95", "NAME=VALUE"),
        ("baseline chat --import /dev/null", "no JSON"),
    ] {
        let ran = run(&weir, line).await;
        assert!(ran.code == 2 && ran.err.contains(says), "{line}: {ran:?}");
    }
    assert!((20..80).contains(&on_canary(&weir).await), "both arms are asked");
    judged_in(&weir, "wait", "no baseline").await;

    let set = said(&weir, "baseline chat --set stable.p95=1h --set stable.error_rate=0.05% --reason legacy").await;
    assert!(
        set.contains("\nerror_rate    0.05%  by hand  ") && set.contains("\np95         3600.0s  by hand  "),
        "{set}"
    );
    judged_in(&weir, "pass", "baseline").await;
    said(&weir, "baseline chat --set stable.p95=1us").await;
    judged_in(&weir, "fail", "baseline").await;
    let by_hand = weir.view(&format!("{CHAT}/baseline")).await;
    assert_eq!(by_hand["baseline"]["stable"]["p95"], json!({"value": 0.001, "unit": "ms", "samples": 0}));

    let weir = weir.restart().await;
    assert_eq!(weir.view(&format!("{CHAT}/baseline")).await, by_hand);
    on_canary(&weir).await;
    judged_in(&weir, "fail", "baseline").await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("chat.json");
    std::fs::write(&file, said(&weir, "baseline chat -o json").await).expect("a file");
    let ran = run(&weir, "baseline chat --capture --reason quiet").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("\np95 ") && !ran.out.contains("by hand"), "{}", ran.out);
    let captured = weir.view(&format!("{CHAT}/baseline")).await;
    assert!(captured["baseline"]["stable"]["p95"]["samples"].as_u64() > Some(0), "{captured}");
    assert!(captured["baseline"]["canary"]["error_rate"]["samples"].as_u64() > Some(0), "{captured}");
    said(&weir, &format!("baseline chat --import {}", file.display())).await;
    assert_eq!(weir.view(&format!("{CHAT}/baseline")).await, by_hand, "what was captured is gone");
    let trail = weir.view("/api/v1/events?since=0").await;
    let told = trail["events"].as_array().expect("a list").iter().filter(|event| event["kind"] == "baseline");
    let told: Vec<&Value> = told.collect();
    let reasons: Vec<&str> = told.iter().filter_map(|event| event["reason"].as_str()).collect();
    let expected = [
        "legacy (set: stable error_rate, stable p95)",
        "set: stable p95",
        "quiet (captured)",
        "imported: stable error_rate, stable p95",
    ];
    assert_eq!(reasons, expected);
    assert!(told.iter().all(|event| event["actor"] == "ana" && event["numbers"].is_object()), "{told:?}");
    weir.stop().await;
}

/// The only gate has that verdict, and its line says that.
async fn judged_in(weir: &Weir, verdict: &str, says: &str) {
    eventually(verdict, async || {
        let gate = weir.view(CHAT).await["gates"][0].clone();
        (gate["verdict"] == verdict && gate["reason"].as_str()?.contains(says)).then_some(())
    })
    .await;
}
