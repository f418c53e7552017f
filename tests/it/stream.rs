//! The stream of events and the history, on real sockets: live news, resumption, roles, an orderly end.

use crate::harness::client::next_data;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Origin, Weir, soon};
use hyper::body::Incoming;
use serde_json::{Value, json};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const READ_TOKEN: &str = "fedcba9876543210fedcba9876543210";

/// Who listens to a stream.
struct Listener {
    body: Incoming,
    text: String,
    _client: Client,
}

/// One event.
#[derive(Debug)]
struct Message {
    kind: String,
    id: Option<u64>,
    data: Value,
}

impl Listener {
    async fn open(weir: &Weir, target: &str, fields: &[(&str, &str)]) -> Listener {
        let mut client = Client::http1(weir.admin).await;
        let host = weir.admin.to_string();
        let fields: Vec<(&str, &str)> = [("host", host.as_str())].iter().chain(fields).copied().collect();
        let request = client.request("GET", target, &fields, crate::harness::piped::sized(""));
        let response = client.send(request).await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Listener { body: response.into_body(), text: String::new(), _client: client }
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let Some(kind) = line("event: ") else { continue };
                let data = serde_json::from_str(&line("data: ").expect("events have data")).expect("data is JSON");
                return Some(Message { kind, id: line("id: ").map(|id| id.parse().expect("a number")), data });
            }
            let more = next_data(&mut self.body).await?;
            self.text.push_str(std::str::from_utf8(&more).expect("text"));
        }
    }

    /// The next event that is wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        soon(what, async {
            loop {
                let message = self.next().await.unwrap_or_else(|| panic!("the stream ended before {what}"));
                if wanted(&message) {
                    return message;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn the_stream_tells_how_things_stand_and_at_once_what_happens() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    let mut listener = Listener::open(&weir, "/api/v1/stream", &[]).await;
    let hello = listener.next().await.expect("it begins");
    assert_eq!((hello.kind.as_str(), &hello.data["role"]), ("hello", &json!("operate")));
    let names = listener.next().await.expect("it goes on");
    assert_eq!((names.kind.as_str(), &names.data["names"]), ("rollouts", &json!(["chat"])));
    let first = listener.next().await.expect("it goes on");
    assert_eq!(
        (first.kind.as_str(), &first.data["name"], &first.data["killed"]),
        ("rollout", &json!("chat"), &json!(false))
    );

    weir.command("/api/v1/rollouts/chat/kill", json!({ "reason": "smoke", "actor": "ben" })).await;
    let (mut told, mut stands) = (None, false);
    while told.is_none() || !stands {
        let message = listener.until("the kill", |_| true).await;
        match message.kind.as_str() {
            "audit" => {
                assert_eq!([&message.data["kind"], &message.data["actor"]], [&json!("kill"), &json!("ben")]);
                assert_eq!(message.id, message.data["id"].as_u64());
                told = message.id;
            }
            "rollout" => stands = message.data["killed"] == json!(true),
            _ => {}
        }
    }
    drop(listener);

    // What happens meanwhile is told to who comes back, once and in order.
    weir.command("/api/v1/rollouts/chat/revive", json!({})).await;
    weir.weigh("20%").await;
    let last = told.expect("it was told").to_string();
    let mut back = Listener::open(&weir, "/api/v1/stream?rollout=chat", &[("last-event-id", &last)]).await;
    for kind in ["revive", "weight"] {
        let message = back.until(kind, |message| message.kind == "audit").await;
        assert_eq!(message.data["kind"], json!(kind));
    }
    weir.stop().await;
    // Whatever came before it, the last word is a good-bye.
    let end = back.until("the end", |message| message.kind == "end").await;
    assert_eq!(end.data["reason"], json!("weir ends"));
    assert!(soon("the end of the stream", back.next()).await.is_none());
}

#[tokio::test]
async fn a_token_to_look_looks_and_does_not_act() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    std::fs::write(folder.path().join("token"), TOKEN).expect("the folder is ours");
    std::fs::write(folder.path().join("read"), READ_TOKEN).expect("the folder is ours");
    let config = Config::split(&legacy, &new).admin("token_file = \"token\"\nread_token_file = \"read\"");
    let weir = Weir::start_in(folder, &config).await;
    let bearer = |token: &str| format!("Bearer {token}");
    for (token, role, status) in [(READ_TOKEN, "read", 403), (TOKEN, "operate", 200)] {
        let token = bearer(token);
        let mut listener = Listener::open(&weir, "/api/v1/stream", &[("authorization", &token)]).await;
        assert_eq!(listener.next().await.expect("it begins").data["role"], json!(role));
        let mut client = Client::http1(weir.admin).await;
        for verb in ["kill", "revive"] {
            let body = crate::harness::piped::sized("{}");
            let target = format!("/api/v1/rollouts/chat/{verb}");
            assert_eq!(client.call("POST", &target, &[("authorization", &token)], body).await.status, status, "{role}");
        }
        assert_eq!(client.get("/api/v1/rollouts", &[("authorization", &token)]).await.status, 200);
    }
    let mut client = Client::http1(weir.admin).await;
    assert_eq!(client.get("/api/v1/stream", &[]).await.status, 401);
    weir.stop().await;
}

#[tokio::test]
async fn the_history_has_both_arms_and_what_happened() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    let mut client = Client::http1(weir.address).await;
    for unit in 0..40 {
        client.origin_of(&format!("unit-{unit}")).await;
    }
    weir.command("/api/v1/rollouts/chat/kill", json!({ "reason": "smoke" })).await;
    for range in ["15m", "24h", "rollout"] {
        let history = weir.view(&format!("/api/v1/rollouts/chat/history?range={range}&draw=true")).await;
        let points = history["points"].as_array().expect("a list");
        let of = |arm: &str| points.iter().filter_map(|point| point[arm]["requests"].as_u64()).sum::<u64>();
        assert_eq!(of("stable") + of("canary"), 40, "{range}: {history}");
        assert!(points.iter().all(|point| point["stable"]["in_flight"].is_u64()));
        let charts: Vec<&str> =
            history["charts"].as_array().expect("drawn").iter().filter_map(|chart| chart["id"].as_str()).collect();
        assert_eq!(charts, ["rps", "errors", "p50", "p95", "p99", "in-flight", "weight"], "{range}");
        let trips = history["charts"][0]["marks"].as_array().expect("a list");
        assert_eq!(trips.iter().filter(|mark| mark["class"] == json!("trip")).count(), 1, "{range}: the kill");
        assert!(history["events"].as_array().expect("a list").iter().any(|event| event["kind"] == json!("kill")));
    }
    let plain = weir.view("/api/v1/rollouts/chat/history").await;
    assert!(plain["charts"].is_null() && plain["range"] == json!("15m"));
    for (query, field) in [("range=1s", "range"), ("range=x", "range"), ("draw=yes", "draw")] {
        let answer = weir.ask("GET", &format!("/api/v1/rollouts/chat/history?{query}"), "").await;
        assert_eq!((answer.status, &answer.json()["field"]), (400, &json!(field)), "{query}");
        assert_eq!(answer.text().contains("`rollout`"), field == "range", "the words that it takes: {}", answer.text());
    }
    assert_eq!(weir.ask("GET", "/api/v1/rollouts/none/history", "").await.status, 404);
    weir.stop().await;
}
