//! What was counted before a restart counts after it, for gates, triggers and whoever looks.

use crate::harness::wait::eventually;
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

async fn counted(weir: &Weir, requests: u64) {
    let all = |metrics: &crate::harness::metrics::Metrics| {
        metrics.count("weir_requests_total", &[("rollout", "chat"), ("arm", "canary")])
    };
    weir.metrics_until("all requests", |metrics| all(metrics) >= requests).await;
}

#[tokio::test]
async fn a_gate_over_the_stage_counts_what_came_before_a_restart() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).weight("100%").tables(
        "[rollouts.chat.breaker]\nconsecutive_errors = 0\n\
         [[rollouts.chat.stages]]\nname = \"all\"\nweight = \"100%\"\nmin_duration = \"1s\"\n\
         gates = [{ when = \"error_rate < 50%\", min_requests = 30 }]\n\
         [[rollouts.chat.stages]]\nname = \"last\"\nweight = \"100%\"\nmin_duration = \"1h\"",
    );
    let weir = Weir::start(&config).await;
    chat_when(&weir, "the first stage", |chat| chat["stage"]["name"] == "all").await;
    send(&weir, 20).await;
    counted(&weir, 20).await;
    let weir = weir.restart().await;
    let chat = chat_when(&weir, "a judged gate", |chat| chat["gates"][0]["value"] == 0.0).await;
    assert_eq!((&chat["stage"]["name"], &chat["gates"][0]["verdict"]), (&"all".into(), &"wait".into()), "{chat:#}");
    assert!(chat["gates"][0]["reason"].as_str().is_some_and(|reason| reason.contains("20")), "{chat:#}");
    // Ten more do for all thirty; by themselves they would not.
    send(&weir, 10).await;
    let chat = chat_when(&weir, "the next stage", |chat| chat["stage"]["name"] == "last").await;
    assert_eq!(chat["stage"]["index"], 1);
    // What belongs to a stage that is over does not count for the next one, restart or not.
    let weir = weir.restart().await;
    send(&weir, 5).await;
    counted(&weir, 5).await;
    let arms = weir.view("/api/v1/rollouts/chat?window=15m").await["arms"].clone();
    assert_eq!(arms["canary"]["requests"], 35, "{arms:#}");
    weir.stop().await;
}

#[tokio::test]
async fn a_trigger_with_a_long_window_sees_both_sides_of_a_restart() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| Reply::status(500));
    let config = Config::split(&legacy, &new).weight("100%").tables(
        "[rollouts.chat.breaker]\nconsecutive_errors = 0\nerror_rate = false\n\
         [[rollouts.chat.stages]]\nname = \"all\"\nweight = \"100%\"\nmin_duration = \"1h\"\n\
         [[rollouts.chat.triggers]]\nname = \"errors\"\nwhen = \"error_rate > 10%\"\nwindow = \"30m\"\nfor = \"0s\"\n\
         min_requests = 40\naction = \"rollback\"",
    );
    let weir = Weir::start(&config).await;
    chat_when(&weir, "the first stage", |chat| chat["stage"]["name"] == "all").await;
    send(&weir, 25).await;
    counted(&weir, 25).await;
    let weir = weir.restart().await;
    send(&weir, 15).await;
    let chat = chat_when(&weir, "the rollback", |chat| chat["state"] == "rolled_back").await;
    let reason = chat["state_reason"].as_str().unwrap_or_default();
    assert!(reason.contains("40 of 40 requests"), "{reason}");
    weir.stop().await;
}
