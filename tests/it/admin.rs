//! The admin API and what survives a restart: who may speak, what commands answer, the audit trail, drains.

use crate::harness::raw::call;
use crate::harness::wait::eventually;
use crate::harness::weir::folder;
use crate::harness::{Client, Config, Gate, Origin, RawClient, Reply, Weir, soon};
use serde_json::json;
use std::sync::Arc;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[tokio::test]
async fn a_weight_set_at_run_time_holds_over_a_restart_until_the_files_value_changes() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("10%")).await;
    assert_eq!(weir.weigh("42.5%").await["weight_ppm"], json!(425_000));
    let weir = weir.restart().await;
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(425_000));
    // Another change of the file leaves the operator's weight alone.
    weir.write_config(&Config::split(&legacy, &new).weight("10%").rollout("expose_arm = true"));
    assert_eq!(weir.reload().await.status, 200);
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(425_000));
    weir.write_config(&Config::split(&legacy, &new).weight("15%"));
    assert_eq!(weir.reload().await.status, 200);
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(150_000));
    let weir = weir.restart().await;
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(150_000));
    weir.stop().await;
}

#[tokio::test]
async fn a_kill_survives_a_restart() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("100%")).await;
    weir.command("/api/v1/rollouts/chat/kill", json!({})).await;
    let weir = weir.restart().await;
    assert_eq!(Client::http1(weir.address).await.origin_of("u").await, "legacy");
    weir.command("/api/v1/rollouts/chat/revive", json!({})).await;
    let weir = weir.restart().await;
    assert_eq!(Client::http1(weir.address).await.origin_of("u").await, "new");
    weir.stop().await;
}

#[tokio::test]
async fn every_change_of_state_is_in_the_audit_trail() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("10%")).await;
    let weight = json!({ "weight": "20%", "reason": "looks good", "actor": "ana" });
    weir.command("/api/v1/rollouts/chat/weight", weight).await;
    weir.command("/api/v1/rollouts/chat/kill", json!({ "reason": "smoke", "actor": "ben" })).await;
    weir.command("/api/v1/rollouts/chat/revive", json!({})).await;
    let weir = weir.restart().await;
    let trail = weir.view("/api/v1/events?since=0").await;
    let events = trail["events"].as_array().expect("a list");
    let ours: Vec<_> = events.iter().filter(|event| event["rollout"] == json!("chat")).collect();
    let kinds: Vec<&str> = ours.iter().filter_map(|event| event["kind"].as_str()).collect();
    let wanted = ["weight", "kill", "revive"];
    let kept: Vec<&str> = kinds.iter().copied().filter(|kind| wanted.contains(kind)).collect();
    assert_eq!(kept, wanted, "{kinds:?}");
    let change = ours.iter().find(|event| event["kind"] == json!("weight")).expect("it is there");
    assert_eq!([&change["actor"], &change["reason"]], [&json!("ana"), &json!("looks good")]);
    assert_eq!(change["old"]["weight_ppm"], json!(100_000));
    assert_eq!(change["new"]["weight_ppm"], json!(200_000));
    assert!(change["numbers"].is_object() && change["time"].is_string(), "{change}");
    let next = trail["next"].as_u64().expect("a number");
    let later = weir.view(&format!("/api/v1/events?since={next}")).await;
    assert_eq!(later["events"], json!([]));
    weir.stop().await;
}

#[tokio::test]
async fn wrong_commands_are_told_what_is_wrong_and_change_nothing() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("10%")).await;
    let cases = [
        ("/api/v1/rollouts/chta/weight", json!({ "weight": "20%" }), 404, "chta"),
        ("/api/v1/rollouts/chat/weight", json!({ "weight": "120%" }), 400, "weight"),
        ("/api/v1/rollouts/chat/weight", json!({ "weight": "much" }), 400, "weight"),
        ("/api/v1/rollouts/chat/weight", json!({}), 400, "weight"),
        ("/api/v1/rollouts/chat/weight", json!({ "weight": "20%", "wieght": 1 }), 400, "wieght"),
        ("/api/v1/rollouts/chat/kill", json!({ "cohort": "nobody" }), 404, "nobody"),
        ("/api/v1/cohorts/chat/nobody/users", json!({ "add": ["a"] }), 404, "nobody"),
        ("/api/v1/nonsense", json!({}), 404, "nonsense"),
    ];
    for (target, body, status, word) in cases {
        let answer = weir.ask("POST", target, &body.to_string()).await;
        assert_eq!(answer.status, status, "{target} {body}: {}", answer.text());
        assert!(answer.text().contains(word), "{target} {body}: {}", answer.text());
    }
    let broken = weir.ask("POST", "/api/v1/rollouts/chat/weight", "{ not json").await;
    assert_eq!(broken.status, 400);
    assert_eq!(weir.ask("GET", "/api/v1/rollouts/chat/kill", "").await.status, 405);
    let rollout = weir.view("/api/v1/rollouts/chat").await;
    assert_eq!([&rollout["weight_ppm"], &rollout["killed"]], [&json!(100_000), &json!(false)]);
    weir.stop().await;
}

#[tokio::test]
async fn with_a_token_file_nothing_but_health_is_told_to_strangers() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).expect("the folder is ours");
    let config = Config::split(&legacy, &new).admin("token_file = \"token\"");
    let weir = Weir::start_in(folder, &config).await;
    let host = weir.admin.to_string();
    let bearer = format!("Bearer {TOKEN}");
    let wrong = format!("Bearer {}x", &TOKEN[1..]);
    let basic = format!("Basic {TOKEN}");
    for (authorization, status) in
        [(None, 401), (Some(wrong.as_str()), 401), (Some(basic.as_str()), 401), (Some(bearer.as_str()), 200)]
    {
        let mut fields = vec![("host", host.as_str())];
        fields.extend(authorization.map(|value| ("authorization", value)));
        for target in ["/metrics", "/api/v1/rollouts", "/api/v1/config", "/flags?unit=u"] {
            let answer = call(weir.admin, "GET", target, &fields, b"").await;
            assert_eq!(answer.status, status, "{target} with {authorization:?}");
        }
        let body = json!({ "weight": "90%" }).to_string();
        let answer = call(weir.admin, "POST", "/api/v1/rollouts/chat/weight", &fields, body.as_bytes()).await;
        assert_eq!(answer.status, status);
        for target in ["/healthz", "/readyz"] {
            assert_eq!(call(weir.admin, "GET", target, &fields, b"").await.status, 200, "{target}");
        }
    }
    weir.stop().await;
}

#[tokio::test]
async fn tokens_are_exchanged_by_a_reload_and_the_old_ones_are_worth_nothing() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    let write = |file: &str, token: &str| std::fs::write(folder.path().join(file), token).expect("the folder is ours");
    let [old, old_reader, fresh, fresh_reader] = ["0a", "1b", "2c", "3d"].map(|digits| digits.repeat(32));
    write("act", &old);
    write("look", &old_reader);
    let config = Config::split(&legacy, &new).admin("token_file = \"act\"\nread_token_file = \"look\"");
    let weir = Weir::start_in(Arc::clone(&folder), &config).await;
    let (host, address) = (weir.admin.to_string(), weir.admin);
    let ask = async |method: &str, target: &str, token: &str| {
        let bearer = format!("Bearer {token}");
        call(address, method, target, &[("host", &host), ("authorization", &bearer)], b"{}").await.status
    };
    // To look and to act, with either token.
    let may = async |token: &str, reader: &str| {
        let act = "/api/v1/rollouts/chat/kill";
        [
            ask("GET", "/metrics", token).await,
            ask("POST", act, token).await,
            ask("GET", "/metrics", reader).await,
            ask("POST", act, reader).await,
        ]
    };
    assert_eq!(may(&old, &old_reader).await, [200, 200, 200, 403]);
    // One that is too weak changes nothing.
    write("act", "short");
    assert_eq!(ask("POST", "/api/v1/reload", &old).await, 409);
    assert_eq!(may(&old, &old_reader).await, [200, 200, 200, 403]);
    write("act", &fresh);
    write("look", &fresh_reader);
    eventually("the new tokens", async || (ask("GET", "/metrics", &fresh_reader).await == 200).then_some(())).await;
    assert_eq!(may(&fresh, &fresh_reader).await, [200, 200, 200, 403]);
    assert_eq!(may(&old, &old_reader).await, [401; 4]);
    weir.stop().await;
}

#[tokio::test]
async fn a_web_page_elsewhere_cannot_reach_the_admin_api_by_rebinding_a_name() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new).weight("10%")).await;
    let body = json!({ "weight": "90%" }).to_string();
    let target = "/api/v1/rollouts/chat/weight";
    let answer = call(weir.admin, "POST", target, &[("host", "evil.example")], body.as_bytes()).await;
    assert!((400..500).contains(&answer.status), "{}", answer.status);
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(100_000));
    weir.stop().await;
}

#[tokio::test]
async fn the_config_is_shown_without_its_secrets() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    std::fs::write(folder.path().join("force.key"), TOKEN).expect("the folder is ours");
    let config = Config::split(&legacy, &new).tables("[force]\nsecret_file = \"force.key\"");
    let weir = Weir::start_in(folder, &config).await;
    let answer = weir.ask("GET", "/api/v1/config", "").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.text().contains(TOKEN));
    assert_eq!(answer.json()["rollouts"]["chat"]["weight"], json!("50%"));
    weir.stop().await;
}

#[tokio::test]
async fn flags_can_be_published_on_a_listener() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).weight("100%").listener("flags_path = \"/flags\"");
    let weir = Weir::start(&config).await;
    let mut client = RawClient::connect(weir.address).await;
    let answer = client.get("/flags?unit=u", &[]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({ "unit": "u", "flags": { "chat": { "arm": "canary", "reason": "bucket" } } }));
    assert_eq!(client.get("/flags2", &[("x-user-id", "u")]).await.field("x-origin"), Some("new"));
    weir.stop().await;
}

#[tokio::test]
async fn a_visitor_without_a_unit_keeps_the_flags_that_it_was_told() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config =
        Config::split(&legacy, &new).listener("flags_path = \"/flags\"").rollout("assign_cookie = \"weir_id\"");
    let weir = Weir::start(&config).await;
    let mut client = RawClient::connect(weir.address).await;
    let mut arms = [0; 2];
    for _ in 0..20 {
        let told = client.get("/flags", &[]).await;
        let cookie = told.field("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("an id").to_owned();
        let again = client.get("/flags", &[("cookie", &cookie)]).await;
        assert_eq!((again.json(), again.field("set-cookie")), (told.json(), None));
        let arm = told.json()["flags"]["chat"]["arm"] == "canary";
        arms[usize::from(arm)] += 1;
        let served = client.get("/", &[("cookie", &cookie)]).await;
        assert_eq!(served.field("x-origin"), Some(if arm { "new" } else { "legacy" }));
    }
    assert!(arms.iter().all(|of| *of > 0), "{arms:?}");
    weir.stop().await;
}

#[tokio::test]
async fn environment_variables_override_the_file() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let folder = folder();
    let config = Config::split(&legacy, &new).weight("10%");
    std::fs::write(folder.path().join("weir.toml"), config.to_string()).expect("the folder is ours");
    let environment = vec![
        ("WEIR__ROLLOUTS__CHAT__WEIGHT".to_owned(), "25%".to_owned()),
        ("WEIR__ROLLOUTS__CHAT__EXPOSE_ARM".to_owned(), "true".to_owned()),
        ("PATH".to_owned(), "/usr/bin".to_owned()),
    ];
    let weir = Weir::start_with(folder, environment).await;
    assert_eq!(weir.explain("u").await["weight_ppm"], json!(250_000));
    let answer = RawClient::connect(weir.address).await.get("/", &[("x-user-id", "u")]).await;
    assert!(answer.field("x-weir-arm").is_some());
    weir.stop().await;
}

#[tokio::test]
async fn a_drain_fails_readiness_and_finishes_what_is_under_way() {
    let origin = Origin::start("new").await;
    let gate = Gate::closed();
    let held = gate.clone();
    origin.script(move |_| Reply::held(&held));
    let mut weir = Weir::start(&Config::split(&origin, &origin)).await;
    let mut http1 = RawClient::connect(weir.address).await;
    http1.send(crate::harness::raw::request("GET", "/", &[("x-user-id", "u")], b"")).await;
    let mut http2 = Client::http2(weir.address).await;
    let request = http2.request("GET", "/", &[("x-user-id", "u")], crate::harness::piped::sized(""));
    let answer = tokio::spawn(http2.begin(request));
    origin.until("both", |state| state.requests.len() == 2).await;
    let stopped = weir.begin_stop();
    gate.open();
    assert_eq!(http1.answer().await.text(), "held");
    let got = soon("the answer", answer).await.expect("no panic").expect("an answer");
    assert_eq!(crate::harness::client::read(got).await.expect("a whole answer").body, "held");
    assert!(http1.ended().await, "a drained connection ends");
    soon("the end", stopped).await.expect("a stop does not panic");
}
