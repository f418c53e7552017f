//! Answers of copies compared with those that clients got: what differs is told with both values, what stable does to itself is
//! noise, and the client sees nothing of it.

use crate::harness::reply::Content;
use crate::harness::{Answer, Client, Config, Origin, Reply, Weir, soon};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

pub const DIFFS: &str = "weir_shadow_diffs_total";

/// Everybody is on stable, mirrored and compared, with these further keys of the comparison.
pub fn compared(legacy: &Origin, new: &Origin, keys: &str) -> Config {
    let diff = format!("diff = {{ share = \"100%\", {keys} }}");
    let shadow = format!("shadow = {{ share = \"100%\", timeout = \"10m\", {diff} }}");
    Config::split(legacy, new).patient().weight("0%").rollout(&shadow)
}

/// JSON in which `<n>` is another number for every answer.
fn answers(body: &'static str) -> impl Fn(&crate::harness::origin::Seen) -> Reply + Send + Sync + 'static {
    let number = AtomicU64::new(body.len() as u64 * 1_000);
    move |_| {
        let text = body.replace("<n>", &number.fetch_add(1, Ordering::Relaxed).to_string());
        let fields = vec![("content-type", "application/json".to_owned())];
        Reply::Answer(Answer { fields, body: Content::Sized(text.into()), ..Answer::default() })
    }
}

pub async fn ask(weir: &Weir, requests: usize) {
    let mut client = Client::http1(weir.address).await;
    for number in 0..requests {
        let unit = format!("user-{number}");
        let got =
            client.call("GET", "/items?secret=1", &[("x-user-id", &unit)], crate::harness::piped::sized("")).await;
        assert_eq!(got.status, 200);
    }
}

pub async fn counted(weir: &Weir, verdict: &str, count: u64) {
    let labels = [("rollout", "chat"), ("verdict", verdict)];
    weir.metrics_until(verdict, |metrics| metrics.count(DIFFS, &labels) >= count).await;
}

pub async fn run(weir: &Weir, line: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.args(line.split_whitespace()).args(["--admin", &weir.admin.to_string()]);
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().expect("the binary is built"));
    let output = soon(line, output).await.expect("it does not panic");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn a_number_that_drifts_fails_and_is_shown_with_both_values() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(answers(r#"{"items": [{"id": "<n>", "price": 1000}], "password": "stables-own"}"#));
    new.script(answers(r#"{"password": "canarys-own", "items": [{"price": 994, "id": "<n>"}]}"#));
    let weir = Weir::start(&compared(&legacy, &new, "tolerance = 0.005, noise = \"100%\"")).await;
    ask(&weir, 30).await;
    counted(&weir, "different", 30).await;
    counted(&weir, "noise_different", 30).await;
    assert!(legacy.state().requests.iter().any(|seen| seen.field("x-weir-shadow") == Some("1")), "noise is a copy");

    let view = weir.view("/api/v1/rollouts/chat/diff?samples=30").await;
    assert_eq!((view["verdict"].as_str(), view["samples"].as_u64()), (Some("fail"), Some(30)), "{view}");
    let field = |path: &str| {
        let fields = view["fields"].as_array().expect("fields");
        fields.iter().find(|field| field["path"] == path).cloned().unwrap_or(Value::Null)
    };
    assert_eq!(field("/items/*/id")["verdict"], "noise", "{view}");
    let price = field("/items/*/price");
    assert_eq!((price["verdict"].as_str(), price["samples"].as_u64()), (Some("fail"), Some(30)));
    assert_eq!((&price["outlier"]["stable"], &price["outlier"]["canary"]), (&"1000".into(), &"994".into()));
    assert_eq!(field("/password")["outlier"]["canary"], "(withheld)");
    let example = &view["examples"][0];
    assert_eq!((&example["method"], &example["path"]), (&"GET".into(), &"/items".into()), "without the query");

    let (code, out, err) = run(&weir, "diff chat --samples 30 --timeout 10m").await;
    assert_eq!(code, 1, "{out}{err}");
    for part in ["chat: fail: 30 of 30 samples differ", "/items/*/price", "1000", "994"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    // The last pairs are shown where somebody looks who does not know of them, and what is withheld is so everywhere.
    let (_, status, _) = run(&weir, "status chat").await;
    assert!(
        status.contains("diff not enough data: 30 of 1000 samples") && status.contains("GET /items  /items/0/"),
        "{status}"
    );
    let short = &weir.view("/api/v1/rollouts/chat").await["shadow"]["diff"];
    assert_eq!((&short["samples"], short["examples"].as_array().map(Vec::len)), (&30.into(), Some(1)), "{short}");
    for format in ["md", "html", "json"] {
        let (code, report, err) = run(&weir, &format!("report chat --format {format}")).await;
        assert_eq!(code, 0, "{err}");
        for part in ["/items/*/price", "1000", "994", "(withheld)"] {
            let escaped = part.replace('*', "\\*");
            assert!(report.contains(part) || report.contains(&escaped), "{part} in {format}: {report}");
        }
        assert!(!report.contains("-own") && !report.contains("secret=1"), "{report}");
    }
    // At 1 % the drift of 0.6 % is none, but the other password is there all the same.
    let wide = weir.view("/api/v1/rollouts/chat/diff?samples=30&tolerance=0.01").await;
    let fields: Vec<&Value> = wide["fields"].as_array().expect("fields").iter().map(|field| &field["path"]).collect();
    assert!(!fields.contains(&&"/items/*/price".into()) && fields.contains(&&"/password".into()), "{wide}");
    weir.stop().await;
}

#[tokio::test]
async fn answers_that_say_the_same_pass_whatever_their_order_and_their_noise() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(answers(r#"{"a": 1, "b": 1000, "tags": ["x", "y"], "request": "r<n>"}"#));
    new.script(answers(r#"{"tags":["y","x"],"request":"r<n>","b":1004,"a":1.0}"#));
    let keys = "tolerance = 0.005, noise = \"100%\", array_order = false";
    let weir = Weir::start(&compared(&legacy, &new, keys)).await;
    ask(&weir, 40).await;
    counted(&weir, "noise_different", 40).await;
    counted(&weir, "different", 40).await;
    let (code, out, err) = run(&weir, "diff chat --samples 40 --timeout 10m").await;
    assert_eq!(code, 0, "{out}{err}");
    let (code, out, _) = run(&weir, "diff chat --samples 41 --timeout 100ms -o json").await;
    let view: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, view["verdict"].as_str()), (1, Some("not_enough_data")), "{view}");
    weir.stop().await;
}

#[tokio::test]
async fn each_rollout_of_a_route_compares_the_answers_to_its_own_copies() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(|seen| {
        let banner = if seen.field("x-banner").is_some() { "new" } else { "old" };
        Reply::body(Content::Sized(format!("{{\"banner\": \"{banner}\", \"price\": 10}}").into()))
    });
    new.script(|_| Reply::body(Content::Sized("{\"banner\": \"old\", \"price\": 11}".into())));
    // One is another service, the other a flag to the same one.
    let banner = "[rollouts.banner]\nunit = [\"header:x-user-id\"]\nweight = \"0%\"\n\
                  stable = {}\ncanary = { set_headers = { x-banner = \"on\" } }\n\
                  shadow = { share = \"100%\", timeout = \"10m\", diff = { share = \"100%\" } }\n\
                  [[routes]]\nname = \"all\"\nrollouts = [\"chat\", \"banner\"]";
    let weir = Weir::start(&compared(&legacy, &new, "").tables(banner)).await;
    ask(&weir, 20).await;
    for (rollout, path) in [("chat", "/price"), ("banner", "/banner")] {
        let labels = [("rollout", rollout), ("verdict", "different")];
        weir.metrics_until(rollout, |metrics| metrics.count(DIFFS, &labels) >= 20).await;
        let view = weir.view(&format!("/api/v1/rollouts/{rollout}/diff?samples=20")).await;
        let fields: Vec<&Value> =
            view["fields"].as_array().expect("fields").iter().map(|field| &field["path"]).collect();
        assert_eq!((fields, &view["samples"]), (vec![&Value::from(path)], &20.into()), "{view}");
    }
    weir.stop().await;
}

#[tokio::test]
async fn without_a_comparison_there_is_no_verdict_and_it_says_why() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let weir = Weir::start(&Config::split(&legacy, &new)).await;
    let (code, _, err) = run(&weir, "diff chat --timeout 100ms").await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("it has no `shadow.diff`"), "{err}");
    let (code, _, err) = run(&weir, "diff caht --timeout 100ms").await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("chat"), "{err}");
    weir.stop().await;
}
