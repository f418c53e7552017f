//! Answers as bytes: each read as what it is, whatever it is.

use super::*;
use crate::pairs::Answer;
use crate::rollout::diff::verdict::Verdict;
use crate::rollout::diff::{Class, Found};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use std::io::Write;

fn answer(headers: &[(&'static str, &'static str)], body: &[u8]) -> Answer {
    let header =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    // In two frames, as bodies come.
    let (one, other) = body.split_at(body.len() / 2);
    let body = [one, other].into_iter().filter(|part| !part.is_empty()).map(Bytes::copy_from_slice).collect();
    Answer { status: 200, headers: headers.iter().map(header).collect(), body, longer: false }
}

fn json(body: &str) -> Answer {
    answer(&[("content-type", "application/json; charset=utf-8")], body.as_bytes())
}

fn rules() -> Rules {
    Rules { array_order: true, added_fields: true, max_body: 256 * 1024, ..Rules::default() }
}

fn pair(first: Answer, second: Answer) -> Pair {
    Pair {
        rollout: "chat".into(),
        rules: Arc::new(rules()),
        kind: Kind::Canary,
        at: Time::default(),
        method: Method::GET,
        path: "/items".into(),
        first,
        second,
    }
}

fn found(first: Answer, second: Answer) -> Found {
    read::compared(&pair(first, second), &rules())
}

fn classes(first: Answer, second: Answer) -> Vec<Class> {
    found(first, second).fields.into_keys().map(|field| field.class).collect()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(body).unwrap();
    out.finish().unwrap()
}

#[test]
fn json_is_compared_by_what_it_says() {
    assert_eq!(classes(json(r#"{"a": 1, "b": [1.0]}"#), json(r#"{ "b":[1], "a":1.0 }"#)), []);
    assert_eq!(classes(json(r#"{"a": 1}"#), json(r#"{"a": 2, "a": 1}"#)), [], "the last of equal keys counts");
    assert_eq!(classes(json(r#"{"a": "\u00e9"}"#), json(r#"{"a": "é"}"#)), []);
    assert_eq!(classes(json("9007199254740993"), json("9007199254740992")), [Class::Number]);
    let unnamed = |body: &str| answer(&[], body.as_bytes());
    assert_eq!(classes(unnamed(r#" {"a": [1, 2]}"#), unnamed(r#"{"a":[1,2]}"#)), [], "as it looks");
    let problem = |body: &str| answer(&[("content-type", "application/problem+json")], body.as_bytes());
    assert_eq!(classes(problem("[1, 2]"), problem("[1,2]")), []);
}

#[test]
fn what_is_no_json_is_compared_as_text_or_as_bytes() {
    assert_eq!(classes(json("{\"a\": 1"), json("{\"a\": 1")), [], "broken, and the same");
    assert_eq!(classes(json("{\"a\": 1"), json("{\"a\": 2")), [Class::Text]);
    assert_eq!(classes(json("{}"), json("{\"a\"")), [Class::Form]);
    let deep = |innermost: &str| json(&format!("{}{innermost}{}", "[".repeat(100_000), "]".repeat(100_000)));
    assert_eq!(classes(deep("1"), deep("1")), []);
    assert_eq!(classes(deep("1"), deep("2")), [Class::Text]);
    assert_eq!(classes(json("1e999"), json("2e999")), [Class::Text], "no number that there is");
    let binary = |body: &[u8]| answer(&[("content-type", "image/png")], body);
    assert_eq!(classes(binary(&[0, 159, 146, 150]), binary(&[0, 159, 146, 151])), [Class::Bytes]);
    let latin = |body: &[u8]| answer(&[("content-type", "text/plain")], body);
    assert_eq!(classes(latin(b"caf\xe9"), latin(b"caf\xe9")), []);
    assert_eq!(classes(latin(b"caf\xe9"), latin(b"caf\xe8")), [Class::Bytes]);
}

#[test]
fn coded_bodies_are_compared_without_their_coding() {
    let text = r#"{"items": [1, 2, 3], "name": "x"}"#;
    let with = |coding: &'static str, body: &[u8]| {
        answer(&[("content-type", "application/json"), ("content-encoding", coding)], body)
    };
    let plain = || answer(&[("content-type", "application/json")], text.as_bytes());
    assert_eq!(classes(with("gzip", &gzip(text.as_bytes())), plain()), [], "on one side");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(text.as_bytes()).unwrap();
    assert_eq!(classes(plain(), with("deflate", &zlib.finish().unwrap())), []);
    let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    bare.write_all(text.as_bytes()).unwrap();
    assert_eq!(classes(plain(), with("deflate", &bare.finish().unwrap())), []);
    // `{}` as Brotli: one last meta-block without compression would need a second; this one is compressed by hand's tools.
    assert_eq!(
        classes(
            with("br", &[0x8b, 0x00, 0x80, b'{', b'}', 0x03]),
            answer(&[("content-type", "application/json")], b"{}")
        ),
        []
    );
    let other = gzip(text.replace('3', "4").as_bytes());
    assert_eq!(classes(with("gzip", &gzip(text.as_bytes())), with("gzip", &other)), [Class::Number]);
    assert_eq!(
        classes(with("zstd", b"\x28\xb5\x2f\xfd1"), with("zstd", b"\x28\xb5\x2f\xfd2")),
        [Class::Bytes],
        "as it came"
    );
    assert_eq!(classes(with("gzip", b"no gzip at all"), plain()), [Class::Form]);
}

#[test]
fn a_body_that_decodes_to_more_than_its_budget_is_compared_as_it_came() {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(&vec![b' '; 16 * 1024 * 1024]).unwrap();
    let bomb = out.finish().unwrap();
    assert!(bomb.len() < rules().max_body, "{}", bomb.len());
    let with = |body: &[u8]| answer(&[("content-type", "application/json"), ("content-encoding", "gzip")], body);
    assert_eq!(classes(with(&bomb), with(&bomb)), []);
    let mut other = bomb.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_eq!(classes(with(&bomb), with(&other)), [Class::Bytes]);
}

#[test]
fn what_is_longer_than_is_compared_is_no_sample_unless_something_else_differs() {
    let long = || Answer { longer: true, ..json("[1, 2") };
    let compared = Compared::default();
    compared.take(&pair(long(), long()), &Clock::manual());
    compared.take(&pair(Answer { status: 500, ..long() }, long()), &Clock::manual());
    compared.take(&pair(long(), json("[1]")), &Clock::manual());
    assert_eq!(compared.totals()["chat"].verdicts, [0, 2, 0, 0, 1]);
    let limits = Limits { tolerance: 0.0, max_diff_rate: 0.0, noise: 0.0, samples: 2 };
    assert_eq!(compared.judge("chat", limits).kept, (2, 0));
    // What is coded otherwise cannot be told by its length.
    let coded = Answer { longer: true, ..answer(&[("content-encoding", "gzip")], &[1; 100]) };
    assert!(!found(coded, answer(&[], b"x")).differs(0.0));
}

#[test]
fn five_megabytes_are_compared_by_structure() {
    let list = |last: u32| {
        let items: Vec<String> =
            (0..70_000).map(|n| format!(r#"{{"id": {n}, "name": "item number {n}", "n": {last}}}"#)).collect();
        format!("[{}]", items.join(","))
    };
    let (first, second) = (list(1), list(2));
    assert!(first.len() > 3_000_000);
    let rules = Rules { max_body: 8 << 20, ..rules() };
    let compared = read::compared(&pair(json(&first), json(&second)), &rules);
    let hits: Vec<(&str, u64)> =
        compared.fields.iter().map(|(field, hits)| (field.path.as_str(), hits.count)).collect();
    assert_eq!(hits, [("/*/n", 70_000)]);
}

#[test]
fn a_stage_that_begins_knows_nothing_of_what_was_compared_before() {
    let (compared, clock) = (Compared::default(), Clock::manual());
    let limits = Limits { tolerance: 0.0, max_diff_rate: 0.0, noise: 0.0, samples: 1 };
    compared.take(&pair(json("1"), json("2")), &clock);
    assert_eq!(compared.judge("chat", limits).judged.verdict, Verdict::Fail);
    assert_eq!(compared.reading("chat", Time::default(), limits), Reading::Value { value: 1.0, samples: 1 });
    compared.mark("chat", Time::from_micros(5));
    compared.take(&pair(json("1"), json("2")), &clock);
    assert_eq!(compared.judge("chat", limits).judged.reason, "0 of 1 samples");
    clock.advance(std::time::Duration::from_micros(6));
    compared.take(&Pair { at: Time::from_micros(6), ..pair(json("1"), json("1")) }, &clock);
    let judged = compared.judge("chat", limits);
    assert_eq!((judged.judged.verdict, judged.kept, judged.examples.len()), (Verdict::Pass, (1, 0), 0));
    compared.retain(|_| false);
    assert_eq!(compared.reading("chat", Time::default(), limits), Reading::NoData("no comparisons".into()));
}

proptest! {
    #[test]
    fn bytes_of_any_kind_are_equal_to_themselves(
        body in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop::sample::select(vec!["application/json", "text/plain", "image/png", "nonsense", ""]),
        coding in prop::sample::select(vec!["gzip", "deflate", "br", "identity", "zstd", "gzip, br"]),
    ) {
        let own = answer(&[("content-type", kind), ("content-encoding", coding)], &body);
        prop_assert!(found(own.clone(), own).fields.is_empty());
    }
}
