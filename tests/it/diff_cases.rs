//! Known pairs of answers, through real sockets: each is told as what it is, and a thousand of them come to the right verdict.

use crate::diff::{DIFFS, ask, compared, counted, run};
use crate::harness::origin::Seen;
use crate::harness::reply::Content;
use crate::harness::wait::eventually;
use crate::harness::{Answer, Client, Config, Origin, Reply, Step, Weir};
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What both upstreams answer under one path, and what is to be told of it: places and classes, or nothing.
struct Case {
    name: &'static str,
    first: Served,
    second: Served,
    told: &'static [(&'static str, &'static str)],
}

#[derive(Clone)]
struct Served {
    status: u16,
    kind: &'static str,
    coding: &'static str,
    body: Vec<u8>,
}

fn served(kind: &'static str, body: impl Into<Vec<u8>>) -> Served {
    Served { status: 200, kind, coding: "", body: body.into() }
}

fn json(body: impl Into<Vec<u8>>) -> Served {
    served("application/json", body)
}

fn coded(coding: &'static str, body: impl Into<Vec<u8>>) -> Served {
    Served { coding, ..json(body) }
}

fn status(status: u16, body: impl Into<Vec<u8>>) -> Served {
    Served { status, ..json(body) }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(body).expect("memory");
    out.finish().expect("memory")
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(body).expect("memory");
    out.finish().expect("memory")
}

/// Some five megabytes.
fn long(last: u32) -> String {
    let items: Vec<String> =
        (0..80_000).map(|n| format!(r#"{{"id":{n},"name":"the name of item {n}","tags":["a","b"]}}"#)).collect();
    format!(r#"{{"items":[{}],"last":{last}}}"#, items.join(","))
}

fn deep(innermost: &str) -> String {
    format!("{}{innermost}{}", "[".repeat(100_000), "]".repeat(100_000))
}

fn case(name: &'static str, first: Served, second: Served, told: &'static [(&'static str, &'static str)]) -> Case {
    Case { name, first, second, told }
}

fn known() -> Vec<Case> {
    const TEXT: &str = r#"{"items":[1,2,3],"name":"x"}"#;
    // What they hold is more than is ever decoded.
    let [bomb, other] = [b' ', b'1'].map(|fill| gzip(&vec![fill; 33 << 20]));
    vec![
        case("drift-of-0.4", json(r#"{"price":1000}"#), json(r#"{"price":996}"#), &[]),
        case("drift-of-0.6", json(r#"{"price":1000}"#), json(r#"{"price":994}"#), &[("/price", "number")]),
        case("reordered", json(r#"{"a":{"x":1,"y":2},"b":1}"#), json(r#"{ "b": 1.0, "a": {"y": 2, "x": 1} }"#), &[]),
        case("ignored", json(r#"{"timestamp":1,"m/n":[{"~x":1}]}"#), json(r#"{"timestamp":2,"m/n":[{"~x":2}]}"#), &[]),
        case("missing", json(r#"{"a":1,"b":{"c":2}}"#), json(r#"{"a":1,"b":{}}"#), &[("/b/c", "missing")]),
        case("added", json(r#"{"a":1}"#), json(r#"{"a":1,"b":2}"#), &[("/b", "added")]),
        case("type", json(r#"{"id":17}"#), json(r#"{"id":"17"}"#), &[("/id", "type")]),
        case("gone", json(r#"{"a":null}"#), json(r#"{"a":false}"#), &[("/a", "type")]),
        case("shorter", json("[1,2]"), json("[1]"), &[("/", "length")]),
        case("gzip", coded("gzip", gzip(TEXT.as_bytes())), json(TEXT), &[]),
        case("deflate", json(TEXT), coded("deflate", zlib(TEXT.as_bytes())), &[]),
        case("br", coded("br", *b"\x8b\x00\x80{}\x03"), json("{}"), &[]),
        case("gzip-differs", coded("gzip", gzip(br#"{"a":1}"#)), json(r#"{"a":3}"#), &[("/a", "number")]),
        case("zstd", coded("zstd", *b"\x28\xb5\x2f\xfd\x00"), json("{}"), &[("body", "form")]),
        case("zstd-both", coded("zstd", *b"\x28\xb5\x2f\xfd\x00"), coded("zstd", *b"\x28\xb5\x2f\xfd\x00"), &[]),
        case("bomb", coded("gzip", bomb.clone()), coded("gzip", bomb.clone()), &[]),
        case("bombs", coded("gzip", bomb), coded("gzip", other), &[("body", "bytes")]),
        case("five-megabytes", json(long(1)), json(long(2)), &[("/last", "number")]),
        case("deep", json(deep("1")), json(deep("1")), &[]),
        case("deep-differs", json(deep("1")), json(deep("2")), &[("body", "text")]),
        case("invalid", json(r#"{"a":"#), json(r#"{"a":"#), &[]),
        case("invalid-now", json(r#"{"a":1}"#), json(r#"{"a":"#), &[("body", "form")]),
        case(
            "binary",
            served("image/png", *b"\x89PNG\0\x01"),
            served("image/png", *b"\x89PNG\0\x02"),
            &[("body", "bytes")],
        ),
        case("empty", json(""), json(""), &[]),
        case("empty-now", json(r#"{"a":1}"#), json(""), &[("body", "form")]),
        case("no-content", status(204, ""), status(204, ""), &[]),
        case(
            "no-content-now",
            status(200, ""),
            status(204, ""),
            &[("header:content-type", "header"), ("status", "status")],
        ),
        case("not-modified", status(304, ""), status(304, ""), &[]),
        case("text", served("text/plain", "a\nb\nc"), served("text/plain", "a\nB\nc"), &[("body", "text")]),
        case("line-ends", served("text/plain", "a\r\nb\r\n"), served("text/plain", "a\nb\n"), &[]),
        case("kind", served("text/plain", "a"), served("text/html", "a"), &[("header:content-type", "header")]),
        case("twice", json(r#"{"a":1,"a":2}"#), json(r#"{"a":2}"#), &[]),
        case("twice-differs", json(r#"{"a":1,"a":2}"#), json(r#"{"a":1}"#), &[("/a", "number")]),
        case("huge", json("[1e400]"), json("[1e400]"), &[]),
        case("huge-now", json("[1]"), json("[1e400]"), &[("body", "form")]),
        case("beyond-64-bits", json("[18446744073709551616]"), json("[18446744073709551616.0]"), &[]),
        case("minus-nought", json("[0]"), json("[-0.0]"), &[]),
        case("nan", json("[NaN]"), json("[NaN]"), &[]),
        case("nan-now", json("[1]"), json("[NaN]"), &[("body", "form")]),
        case("mark", json("\u{feff}[1]"), json("\u{feff}[1]"), &[]),
        case("half-a-pair", json(r#"["\ud800"]"#), json(r#"["\ud801"]"#), &[("body", "text")]),
    ]
}

/// Answers as the cases say, with that side of them.
fn by_path(cases: &Arc<Vec<Case>>, side: fn(&Case) -> &Served) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let cases = Arc::clone(cases);
    move |seen| {
        let Some(case) = cases.iter().find(|case| seen.target.strip_prefix('/') == Some(case.name)) else {
            return Reply::status(404);
        };
        let Served { status, kind, coding, body } = side(case).clone();
        if matches!(status, 204 | 304) {
            // Nothing that says how long it is: no body follows.
            return Reply::Raw(vec![Step::Write(format!("HTTP/1.1 {status} Scripted\r\n\r\n").into())]);
        }
        let mut fields = vec![("content-type", kind.to_owned())];
        fields.extend((!coding.is_empty()).then(|| ("content-encoding", coding.to_owned())));
        Reply::Answer(Answer { status, fields, body: Content::Sized(body.into()), ..Answer::default() })
    }
}

#[tokio::test]
async fn every_known_pair_is_told_as_what_it_is() {
    let cases = Arc::new(known());
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(by_path(&cases, |case| &case.first));
    new.script(by_path(&cases, |case| &case.second));
    let keys = "tolerance = 0.005, max_body = \"8MiB\", ignore = [\"/timestamp\", \"/m~1n/*/~0x\"]";
    let weir = Weir::start(&compared(&legacy, &new, keys)).await;
    let mut client = Client::http1(weir.address).await;
    for (number, case) in cases.iter().enumerate() {
        let got = client.get(&format!("/{}", case.name), &[("x-user-id", "u")]).await;
        assert_eq!((got.status, got.body.len()), (case.first.status, case.first.body.len()), "{}", case.name);
        let compared = number as u64 + 1;
        let different = cases.iter().take(number + 1).filter(|case| !case.told.is_empty()).count() as u64;
        weir.metrics_until(case.name, |metrics| metrics.count(DIFFS, &[]) == compared).await;
        let view = weir.view("/api/v1/rollouts/chat/diff?samples=1").await;
        assert_eq!(view["samples_kept"].as_u64(), Some(compared), "{}: {view}", case.name);
        let metrics = weir.metrics().await;
        assert_eq!(metrics.count(DIFFS, &[("verdict", "different")]), different, "{}: {view}", case.name);
        if case.told.is_empty() {
            continue;
        }
        let example = &view["examples"][0];
        assert_eq!(example["path"], format!("/{}", case.name), "{view}");
        let differences = example["differences"].as_array().expect("differences");
        let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
        let told: Vec<(String, String)> =
            differences.iter().map(|one| (text(&one["path"]), text(&one["class"]))).collect();
        // `body:2` says in which line.
        let told: Vec<(&str, &str)> = told
            .iter()
            .map(|(path, class)| (if path.starts_with("body:") { "body" } else { path.as_str() }, class.as_str()))
            .collect();
        assert_eq!(told, case.told, "{}: {example}", case.name);
    }
    weir.stop().await;
}

#[tokio::test]
async fn the_answer_to_head_is_compared_by_its_head() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let head = |more: &'static str| {
        let text = format!("HTTP/1.1 200 OK\r\ncontent-length: 10\r\ncontent-type: application/json\r\n{more}\r\n");
        move |_: &Seen| Reply::Raw(vec![Step::Write(text.clone().into())])
    };
    legacy.script(head(""));
    new.script(head(""));
    let weir = Weir::start(&compared(&legacy, &new, "")).await;
    let mut client = Client::http1(weir.address).await;
    let unit = &[("x-user-id", "u")];
    assert_eq!(client.call("HEAD", "/", unit, crate::harness::piped::sized("")).await.status, 200);
    counted(&weir, "equal", 1).await;
    new.script(head("cache-control: no-store\r\n"));
    assert_eq!(client.call("HEAD", "/", unit, crate::harness::piped::sized("")).await.status, 200);
    counted(&weir, "different", 1).await;
    let view = weir.view("/api/v1/rollouts/chat/diff").await;
    assert_eq!(view["examples"][0]["differences"][0]["path"], "header:cache-control", "{view}");
    weir.stop().await;
}

#[tokio::test]
async fn a_hundred_thousand_items_in_another_order_are_compared_within_bounds() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    let list = |numbers: &mut dyn Iterator<Item = u32>| {
        let items: Vec<String> = numbers.map(|n| n.to_string()).collect();
        json(format!("[{}]", items.join(",")))
    };
    let first = list(&mut (0..100_000));
    // Turned round; then with other numbers in between, so that nobody has an equal.
    let cases = Arc::new(vec![
        case("turned", first.clone(), list(&mut (0..100_000).rev()), &[]),
        case("others", first, list(&mut (200_000..300_000).rev()), &[("/*", "number")]),
    ]);
    legacy.script(by_path(&cases, |case| &case.first));
    new.script(by_path(&cases, |case| &case.second));
    let weir = Weir::start(&compared(&legacy, &new, "array_order = false, max_body = \"8MiB\"")).await;
    let mut client = Client::http1(weir.address).await;
    assert_eq!(client.get("/turned", &[("x-user-id", "u")]).await.status, 200);
    counted(&weir, "equal", 1).await;
    assert_eq!(client.get("/others", &[("x-user-id", "u")]).await.status, 200);
    counted(&weir, "different", 1).await;
    let view = weir.view("/api/v1/rollouts/chat/diff").await;
    assert_eq!((&view["fields"][0]["path"], &view["fields_in_all"]), (&"/*".into(), &1.into()), "{view}");
    weir.stop().await;
}

/// JSON whose `<n>` is another number for every answer, and `<m>` a field that one answer in `missing` does not have.
fn stream(body: &'static str, missing: u64) -> impl Fn(&Seen) -> Reply + Send + Sync + 'static {
    let number = AtomicU64::new(body.len() as u64 * 1_000_000);
    move |_| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let field = if missing > 0 && number.is_multiple_of(missing) { "" } else { r#""total": 10,"# };
        let text = body.replace("<n>", &number.to_string()).replace("<m>", field);
        let fields = vec![("content-type", "application/json".to_owned())];
        Reply::Answer(Answer { fields, body: Content::Sized(text.into()), ..Answer::default() })
    }
}

/// Asks as a hundred users, again and again: what is dropped on a busy machine is asked for once more.
async fn asked_until(weir: &Weir, is_done: impl AsyncFn() -> bool) {
    for _ in 0..200 {
        ask(weir, 100).await;
        if is_done().await {
            return;
        }
    }
    panic!("20,000 requests did not do it");
}

/// What `weir diff` says of a thousand answers: exit code, and what it prints.
async fn verdict(first: &'static str, second: &'static str, missing: u64) -> (i32, String) {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(stream(first, 0));
    new.script(stream(second, missing));
    let weir = Weir::start(&compared(&legacy, &new, "tolerance = 0.005, noise = \"10%\"")).await;
    let kept = async || weir.view("/api/v1/rollouts/chat/diff").await["samples_kept"].as_u64().unwrap_or(0);
    asked_until(&weir, async || kept().await >= 1_000).await;
    let (code, out, err) = run(&weir, "diff chat --samples 1000 --tolerance 0.005 --timeout 60s").await;
    weir.stop().await;
    (code, out + &err)
}

#[tokio::test]
async fn a_thousand_answers_that_say_the_same_within_the_tolerance_pass() {
    let first = r#"{"request": "r<n>", <m> "price": 1000, "tags": ["x"]}"#;
    let (code, out) = verdict(first, r#"{"tags": ["x"], "price": 1004.0, <m> "request": "r<n>"}"#, 0).await;
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("chat: pass: 0 of 1000 samples differ") && out.contains("/request"), "{out}");
}

#[tokio::test]
async fn a_thousand_answers_of_which_one_in_eighty_lacks_a_field_fail_half_a_percent() {
    let same = r#"{"request": "r<n>", <m> "price": 1000}"#;
    let (code, out) = verdict(same, same, 80).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("chat: fail: 1") && out.contains("/total"), "{out}");
}

#[tokio::test]
async fn a_thousand_numbers_that_are_further_apart_than_the_tolerance_fail() {
    let (code, out) = verdict(r#"{"price": 1000}"#, r#"{"price": 994}"#, 0).await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("chat: fail: 1000 of 1000 samples differ") && out.contains("<= 1%"), "{out}");
}

/// The rollout, once it is as `wanted` says.
async fn until(weir: &Weir, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || Some(weir.view("/api/v1/rollouts/chat").await).filter(|view| wanted(view))).await
}

/// Everybody is on stable, by a plan whose first stage is left when answers are the same.
fn planned(legacy: &Origin, new: &Origin) -> Config {
    Config::split(legacy, new)
        .patient()
        .weight("100%")
        .rollout("shadow = { share = \"100%\", timeout = \"10m\", diff = { share = \"100%\", noise = \"0%\" } }")
        .tables(
            "[[rollouts.chat.stages]]\nname = \"shadow\"\nweight = \"0%\"\n\
             gates = [{ when = \"shadow.diff_rate < 0.5%\", min_requests = 50 }]\n\
             [[rollouts.chat.stages]]\nname = \"live\"\nweight = \"100%\"\n",
        )
}

#[tokio::test]
async fn a_stage_is_left_when_answers_are_the_same_and_not_before() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(stream(r#"{"price": 1000}"#, 0));
    new.script(stream(r#"{"price": 994}"#, 0));
    let weir = Weir::start(&planned(&legacy, &new)).await;
    until(&weir, "the stage", |view| view["stage"]["name"] == "shadow").await;
    asked_until(&weir, async || weir.metrics().await.count(DIFFS, &[("verdict", "different")]) >= 60).await;
    let gate = until(&weir, "the gate", |view| view["gates"][0]["verdict"] == "fail").await;
    assert_eq!((&gate["stage"]["name"], &gate["gates"][0]["value"]), (&"shadow".into(), &1.0.into()), "{gate}");
    weir.stop().await;

    new.script(stream(r#"{"price": 1000}"#, 0));
    let weir = Weir::start(&planned(&legacy, &new)).await;
    asked_until(&weir, async || weir.view("/api/v1/rollouts/chat").await["stage"]["name"] == "live").await;
    assert_eq!(weir.metrics().await.count(DIFFS, &[("verdict", "different")]), 0);
    weir.stop().await;
}

#[tokio::test]
async fn answers_over_http2_are_compared_like_others() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    legacy.script(stream(r#"{"price": 1000, <m> "id": "<n>"}"#, 0));
    new.script(stream(r#"{"id": "<n>", <m> "price": 994}"#, 1));
    let config = compared(&legacy, &new, "noise = \"100%\"").upstreams("protocol = \"h2\"");
    let weir = Weir::start(&config).await;
    let mut client = Client::http2(weir.address).await;
    for number in 0..20 {
        let unit = format!("user-{number}");
        assert_eq!(client.get("/", &[("x-user-id", &unit)]).await.status, 200);
    }
    counted(&weir, "different", 20).await;
    counted(&weir, "noise_different", 20).await;
    let view = weir.view("/api/v1/rollouts/chat/diff?samples=20").await;
    let fields: Vec<(&Value, &Value)> =
        view["fields"].as_array().expect("fields").iter().map(|field| (&field["path"], &field["verdict"])).collect();
    let expected =
        [("/price", "fail"), ("/total", "fail"), ("/id", "noise")].map(|(path, verdict)| (path.into(), verdict.into()));
    assert_eq!(fields, expected.each_ref().map(|(path, verdict): &(Value, Value)| (path, verdict)), "{view}");
    weir.stop().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_and_one_for_which_there_is_no_room_are_no_samples_and_counted() {
    let (legacy, new) = (Origin::start("legacy").await, Origin::start("new").await);
    new.script(|_| Reply::body(Content::Cut("half".into())));
    let weir = Weir::start(&compared(&legacy, &new, "")).await;
    ask(&weir, 3).await;
    counted(&weir, "broken_off", 3).await;
    weir.stop().await;

    // Enough for a copy and its comparison, and not for both answers of 200 KiB besides.
    let body = || Reply::body(Content::Fill { bytes: 200 * 1024, sized: true });
    legacy.script(move |_| body());
    new.script(move |_| body());
    let keys = "timeout = \"10m\", max_memory = \"300KiB\", diff = { share = \"100%\", noise = \"0%\" }";
    let config = Config::split(&legacy, &new).patient();
    let config = config.weight("0%").rollout(&format!("shadow = {{ share = \"100%\", {keys} }}"));
    let weir = Weir::start(&config).await;
    for number in 1..=3 {
        ask(&weir, 1).await;
        counted(&weir, "dropped", number).await;
        weir.metrics_until("the end", |metrics| metrics.count("weir_shadow_memory_bytes", &[]) == 0).await;
    }
    assert_eq!(weir.metrics().await.count("weir_requests_total", &[("code", "2xx")]), 3, "clients got what there was");
    weir.stop().await;
}
