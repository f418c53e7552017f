//! The same unit gets the same arm: on every worker, connection and protocol, after a restart, and as `explain`, the
//! command line and the documented hash say.

use crate::harness::wire::Head;
use crate::harness::{Client, Config, Origin, RawClient, Weir};
use serde_json::json;
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use weir::rollout::bucket::{Bucketer, Scheme, Weight};

const SALT: &str = "chat-v2";

fn native() -> Bucketer {
    Bucketer { scheme: Scheme::Murmur3, salt: Arc::from(SALT), key: Arc::from("chat"), seed: None }
}

fn weight(percent: u32) -> Weight {
    Weight::from_ppm(percent * 10_000).expect("a percentage")
}

fn expected(unit: &str, percent: u32) -> &'static str {
    if native().admits(unit, weight(percent)) { "new" } else { "legacy" }
}

/// The origin that each unit reaches, asked over one connection.
async fn origins(client: &mut Client, units: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for unit in units {
        found.push(client.origin_of(unit).await);
    }
    found
}

fn units(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("user-{number}")).collect()
}

#[tokio::test]
async fn a_unit_has_one_arm_on_every_connection_and_protocol_and_after_a_restart() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).workers(4).rollout(&format!("salt = \"{SALT}\""));
    let units = units(40);
    let wanted: Vec<&str> = units.iter().map(|unit| expected(unit, 50)).collect();
    let mut weir = Weir::start(&config).await;
    for round in 0..2 {
        // The kernel spreads connections over the workers by their ports: of 32, each of four workers gets some.
        for connection in 0..32 {
            let mut client = Client::to(weir.address, connection % 2 == 1).await;
            assert_eq!(origins(&mut client, &units).await, wanted, "round {round}, connection {connection}");
        }
        weir = weir.restart().await;
    }
    weir.stop().await;
}

#[tokio::test]
async fn a_unit_from_a_cookie_has_one_arm_however_its_cookies_are_split() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).rollout(&format!("salt = \"{SALT}\""));
    let weir = Weir::start(&config.to_string().replace("header:x-user-id", "cookie:session")).await;
    let mut clients = [Client::http1(weir.address).await, Client::http2(weir.address).await];
    for unit in units(40) {
        let session = format!("session={unit}");
        let joined = format!("theme=dark; {session}; session=other");
        for cookies in [
            &[("cookie", session.as_str())][..],
            &[("cookie", &*joined)],
            &[("cookie", "theme=dark"), ("cookie", &*session), ("cookie", "lang=de")],
            &[("cookie", "a=b"), ("cookie", &*joined)],
        ] {
            for client in &mut clients {
                let got = client.get("/", cookies).await;
                assert_eq!(got.origin(), expected(&unit, 50), "{cookies:?}");
            }
        }
    }
    weir.stop().await;
}

#[tokio::test]
async fn explain_flags_and_the_command_line_name_the_arm_that_requests_get() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).weight("30%").rollout(&format!("salt = \"{SALT}\""));
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    for unit in units(60) {
        let arm = if client.origin_of(&unit).await == "new" { "canary" } else { "stable" };
        let bucket = native().bucket(&unit).ppm();
        let explained = weir.explain(&unit).await;
        let said = ["unit", "bucket_ppm", "arm", "reason", "weight_ppm"].map(|key| explained[key].clone());
        assert_eq!(json!(said), json!([unit, bucket, arm, "bucket", 300_000]));
        let flags = weir.view(&format!("/flags?unit={unit}")).await;
        assert_eq!(flags["unit"], json!(unit));
        assert_eq!(flags["flags"]["chat"]["arm"], json!(arm));
        assert_eq!(flags["flags"]["chat"]["reason"], json!("bucket"));
    }
    let printed = command(&["bucket", "--salt", SALT, "--unit", "user-7", "-o", "json"]);
    assert_eq!(printed["bucket_ppm"], json!(native().bucket("user-7").ppm()));
    let admin = format!("http://{}", weir.admin);
    let printed = command(&["--admin", &admin, "explain", "chat", "--unit", "user-7", "-o", "json"]);
    assert_eq!(printed, weir.explain("user-7").await);
    weir.stop().await;
}

/// What a command prints as JSON.
fn command(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(arguments).output().expect("the binary is built");
    let (out, problem) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {problem}");
    serde_json::from_str(&out).unwrap_or_else(|problem| panic!("{problem} in {out}"))
}

#[tokio::test]
async fn the_share_of_ten_thousand_units_is_within_three_standard_deviations() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).weight("10%").rollout(&format!("salt = \"{SALT}\""));
    let weir = Weir::start(&config).await;
    let mut tasks = Vec::new();
    for part in 0..8 {
        let address = weir.address;
        tasks.push(tokio::spawn(async move {
            let mut client = RawClient::connect(address).await;
            let mut canaries = 0;
            for number in (part..10_000).step_by(8) {
                let answer = client.get("/", &[("x-user-id", &format!("user-{number}"))]).await;
                canaries += u32::from(origin(&answer.head) == "new");
            }
            canaries
        }));
    }
    let mut canaries = 0;
    for task in tasks {
        canaries += task.await.expect("no client failed");
    }
    // sqrt(10,000 x 0.1 x 0.9) = 30.
    assert!((910..=1090).contains(&canaries), "{canaries} of 10,000 units on the canary at 10 %");
    weir.stop().await;
}

fn origin(head: &Head) -> &str {
    head.field("x-origin").expect("an origin answered")
}

#[tokio::test]
async fn raising_the_weight_moves_nobody_back() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let config = Config::split(&legacy, &new).weight("0%").rollout(&format!("salt = \"{SALT}\""));
    let weir = Weir::start(&config).await;
    let mut client = Client::http1(weir.address).await;
    let units = units(200);
    let mut before: BTreeMap<&String, String> = BTreeMap::new();
    for percent in [0, 1, 10, 35, 70, 100] {
        weir.weigh(&format!("{percent}%")).await;
        for unit in &units {
            let now = client.origin_of(unit).await;
            assert_eq!(now, expected(unit, percent), "{unit} at {percent} %");
            assert!(before.get(unit).is_none_or(|then| then == "legacy" || now == "new"), "{unit} moved back");
            before.insert(unit, now);
        }
    }
    assert!(before.values().all(|origin| origin == "new"));
    weir.stop().await;
}
