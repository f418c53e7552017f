//! Comparison on known answers, its laws on made-up ones, and the verdict on streams of comparisons drawn from a seed.

use super::ignore::Ignore;
use super::samples::{EXAMPLES_MAX, Example, Kind, SAMPLES_MAX, Samples};
use super::value::{Number, Value};
use super::verdict::{Limits, Verdict, count, judge, rate};
use super::*;
use crate::clock::{Time, Wall};
use proptest::prelude::*;
use std::time::Duration;

fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => Value::Number(match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Number::Whole(whole.into()),
            (_, Some(whole)) => Number::Whole(whole.into()),
            _ => Number::float(number.as_f64().unwrap()),
        }),
        serde_json::Value::String(text) => Value::Text(text.as_str().into()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(value).collect()),
        serde_json::Value::Object(map) => {
            Value::table(map.iter().map(|(key, inner)| (key.as_str().into(), value(inner))).collect())
        }
    }
}

fn json(text: &str) -> Value {
    value(&serde_json::from_str(text).unwrap())
}

fn side(body: Body<'_>) -> Side<'_> {
    Side { status: 200, headers: vec![("content-type", b"application/json")], body }
}

fn rules() -> Rules {
    Rules { array_order: true, added_fields: true, max_body: 1 << 20, ..Rules::default() }
}

fn ignoring(pointers: &[&str]) -> Rules {
    Rules { ignore: pointers.iter().map(|text| Ignore::parse(text).unwrap()).collect(), ..rules() }
}

fn between(first: &Value, second: &Value, rules: &Rules) -> Found {
    compare(&side(Body::Json(first.clone())), &side(Body::Json(second.clone())), rules)
}

/// `class path first second` of everything that differs beyond the tolerance.
fn told(first: &str, second: &str, rules: &Rules) -> Vec<String> {
    let found = between(&json(first), &json(second), rules);
    assert_eq!(found.differs(rules.tolerance), found.fields.values().any(|hits| hits.largest.size > rules.tolerance));
    let beyond = found.fields.values().filter(|hits| hits.largest.size > rules.tolerance);
    beyond
        .map(|Hits { largest, .. }| format!("{} {} {} {}", largest.class, largest.path, largest.first, largest.second))
        .collect()
}

#[test]
fn every_kind_of_difference_is_told_with_its_place_and_both_values() {
    let (first, second) = (
        r#"{"a": 1, "b": "x", "c": [1, 2], "d": {"e": true, "gone": null}, "t": 5}"#,
        r#"{"t": "5", "a": 2, "b": "y", "c": [1, 3, 4], "d": {"e": false, "new": {"k": 1}}}"#,
    );
    assert_eq!(
        told(first, second, &rules()),
        [
            "number /a 1 2",
            "value /b \"x\" \"y\"",
            "length /c list of 2 list of 3",
            "number /c/1 2 3",
            "value /d/e true false",
            "missing /d/gone null (none)",
            "added /d/new (none) table of 1",
            "type /t 5 (number) \"5\" (text)",
        ]
    );
    let added = Rules { added_fields: false, ..ignoring(&["/a", "/b", "/c", "/*/e", "/d/gone", "/t"]) };
    assert_eq!(told(first, second, &added), [""; 0]);
}

#[test]
fn numbers_are_equal_within_the_tolerance_and_exact_without_one() {
    let tolerant = Rules { tolerance: 0.005, ..rules() };
    assert_eq!(told("[1000, 1.5]", "[996, 1.5]", &tolerant), [""; 0], "0.4 %");
    assert_eq!(told("[1000]", "[994]", &tolerant), ["number /0 1000 994"], "0.6 %");
    assert_eq!(told("[0]", "[0.0]", &rules()), [""; 0]);
    assert_eq!(told("[0]", "[-0.0]", &rules()), [""; 0]);
    assert_eq!(told("[9007199254740993]", "[9007199254740992]", &rules()).len(), 1, "beyond 2^53");
    assert_eq!(told("[18446744073709551615]", "[18446744073709551614]", &rules()).len(), 1);
    assert_eq!(told("[1e300]", "[-1e300]", &Rules { tolerance: 1.9, ..rules() }).len(), 1, "as far apart as can be");
    assert_eq!(told("[5e-324]", "[0]", &tolerant).len(), 1);
    let close = Rules { absolute: 0.01, ..rules() };
    assert_eq!(told("[0, 1000]", "[0.01, 1000.5]", &close), ["number /1 1000 1000.5"]);
    let found = between(&json("{\"n\": 1000}"), &json("{\"n\": 996}"), &tolerant);
    let hits = found.fields.values().next().unwrap();
    assert!((hits.largest.size - 0.004).abs() < 1e-12, "what is tolerated is told with its size all the same");
    assert!(!found.differs(0.005) && found.differs(0.003));
}

#[test]
fn without_order_lists_are_equal_whatever_their_order() {
    let loose = Rules { array_order: false, tolerance: 0.01, ..ignoring(&["/*/id"]) };
    assert_eq!(told("[3, [1, 2], 1]", "[1, 3, [2, 1]]", &loose), [""; 0]);
    assert_eq!(told("[1.0, 2.0]", "[2.001, 1.001]", &loose), [""; 0], "neighbours within the tolerance meet");
    let (first, second) = (
        r#"[{"id": 1, "name": "a", "n": 1}, {"id": 2, "name": "b", "n": 2}]"#,
        r#"[{"id": 7, "name": "b", "n": 9}, {"id": 8, "name": "a", "n": 1}]"#,
    );
    assert_eq!(told(first, second, &loose), ["number /1/n 2 9"], "the rest meets whoever is nearest");
    assert_eq!(told("[1, 1, 2]", "[1, 2, 2]", &loose), ["number /1 1 2"], "how often matters");
}

#[test]
fn status_and_chosen_headers_are_compared() {
    let of = |status, headers: &[(&'static str, &'static str)]| {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        Side { status, headers, body: Body::Bytes(b"") }
    };
    let first = of(200, &[("content-type", "Text/HTML; charset=UTF-8"), ("date", "1"), ("location", "/a?token=1")]);
    let second = of(404, &[("content-type", "text/html;charset=utf-8"), ("date", "2"), ("set-cookie", "secret")]);
    let found = compare(&first, &second, &rules());
    let fields: Vec<&str> = found.fields.keys().map(|field| field.path.as_str()).collect();
    assert_eq!(fields, ["header:location", "status"]);
    let silent = compare(&first, &second, &ignoring(&["header:Location"]));
    assert_eq!(silent.fields.len(), 1);
}

#[test]
fn bodies_are_compared_as_what_they_are() {
    let text = |first: &str, second: &str| {
        let found = compare(&side(Body::Text(first)), &side(Body::Text(second)), &rules());
        found
            .fields
            .into_values()
            .map(|hits| (hits.largest.path, hits.largest.first, hits.largest.second))
            .collect::<Vec<_>>()
    };
    assert_eq!(text("a\r\nb\n", "a\nb"), []);
    assert_eq!(text("a\nb\n", "a\nc\n"), [("body:2".into(), "b".into(), "c".into())]);
    assert_eq!(text("a\nb", "a"), [("body:2".into(), "b".into(), "(no line)".into())]);
    let classes = |first: Body<'_>, second: Body<'_>| {
        let found = compare(&side(first), &side(second), &rules());
        (found.fields.into_keys().map(|field| field.class).collect::<Vec<_>>(), found.unread)
    };
    assert_eq!(classes(Body::Bytes(&[0, 1]), Body::Bytes(&[0, 1])), (vec![], false));
    assert_eq!(classes(Body::Bytes(&[0, 1]), Body::Bytes(&[0, 2])), (vec![Class::Bytes], false));
    assert_eq!(classes(Body::Text("x"), Body::Bytes(b"x")), (vec![], false));
    assert_eq!(classes(Body::Json(json("{}")), Body::Text("{")), (vec![Class::Form], false));
    assert_eq!(classes(Body::Longer(100), Body::Longer(100)), (vec![], true));
    assert_eq!(classes(Body::Longer(100), Body::Bytes(&[0; 99])), (vec![Class::Bytes], true));
}

#[test]
fn secrets_are_shown_to_nobody() {
    let rules = Rules { redact: vec![Ignore::parse("/user/*").unwrap()], ..rules() };
    let told = told(
        r#"{"user": {"mail": "a@b", "deep": {"x": 1}}, "accessToken": "t1", "Api-Key": {"v": 1}, "n": 1}"#,
        r#"{"user": {"mail": "c@d", "deep": {"x": 2}}, "accessToken": "t2", "Api-Key": {"v": 2}, "n": 2}"#,
        &rules,
    );
    let hidden = |path: &str, class: &str| format!("{class} {path} {WITHHELD} {WITHHELD}");
    assert_eq!(
        told,
        [
            hidden("/Api-Key/v", "number"),
            hidden("/accessToken", "value"),
            "number /n 1 2".into(),
            hidden("/user/deep/x", "number"),
            hidden("/user/mail", "value"),
        ]
    );
}

#[test]
fn hostile_answers_take_a_stated_effort() {
    // Fields that have nothing in common, values of any length, and lists in which nobody meets an equal.
    let keys = |prefix: &str| {
        Value::table((0..5_000).map(|n| (format!("{prefix}{n}").into(), Value::Text("x".repeat(500).into()))).collect())
    };
    let found = between(&keys("a"), &keys("b"), &rules());
    assert_eq!(
        found.fields.len(),
        2 * (TABLE_FIELDS_MAX + 1),
        "some of what is missing and added, and the rest of each"
    );
    assert_eq!(found.fields.values().map(|hits| hits.count).sum::<u64>(), 10_000);
    assert_eq!(found.more, 0);
    assert!(found.fields.values().all(|hits| hits.largest.first.len() < 2 * SHOWN_CHARACTERS_MAX));
    let mut nested = Value::List((0..40).map(|n| Value::Number(Number::Whole(n))).collect());
    let mut other = Value::List((0..40).map(|n| Value::Number(Number::Whole(n * 1000 + 7))).collect());
    for _ in 0..3 {
        nested = Value::List(vec![nested; 12]);
        other = Value::List(vec![other; 12]);
    }
    let loose = Rules { array_order: false, ..rules() };
    assert!(between(&nested, &other, &loose).differs(0.0), "and it ends");
    let (mut deep, mut deeper) = (Value::Null, Value::Bool(true));
    for _ in 0..value::DEPTH_MAX {
        deep = Value::List(vec![deep]);
        deeper = Value::List(vec![deeper]);
    }
    assert!(between(&deep, &deeper, &rules()).differs(0.0) && between(&deep, &deeper, &loose).differs(0.0));
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-5_i128..5).prop_map(|n| Value::Number(Number::Whole(n))),
        any::<i64>().prop_map(|n| Value::Number(Number::Whole(n.into()))),
        (-1e6..1e6).prop_map(|n: f64| Value::Number(Number::float(n))),
        "[ab~/*]{0,2}".prop_map(|text| Value::Text(text.into())),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
            prop::collection::vec(("[abc]", inner), 0..5).prop_map(|entries| Value::table(
                entries.into_iter().map(|(key, value)| (key.into(), value)).collect()
            )),
        ]
    })
}

/// Turns every list around, and the keys' order with it.
fn turned(value: &Value) -> Value {
    match value {
        Value::List(items) => Value::List(items.iter().rev().map(turned).collect()),
        Value::Table(entries) => {
            Value::table(entries.iter().rev().map(|(key, inner)| (key.clone(), turned(inner))).collect())
        }
        other => other.clone(),
    }
}

fn swapped(found: &Found) -> Vec<(Field, u64, f64)> {
    let class = |class| match class {
        Class::Missing => Class::Added,
        Class::Added => Class::Missing,
        other => other,
    };
    let turn = |(field, hits): (&Field, &Hits)| {
        (Field { path: field.path.clone(), class: class(field.class) }, hits.count, hits.largest.size)
    };
    let mut turned: Vec<(Field, u64, f64)> = found.fields.iter().map(turn).collect();
    turned.sort_by(|one, other| one.0.cmp(&other.0));
    turned
}

fn beyond(found: &Found, tolerance: f64) -> Vec<&Field> {
    found.fields.iter().filter(|(_, hits)| hits.largest.size > tolerance).map(|(field, _)| field).collect()
}

proptest! {
    #[test]
    fn nothing_differs_from_itself(value in any_value(), order in any::<bool>()) {
        let found = between(&value, &value, &Rules { array_order: order, ..rules() });
        prop_assert!(found.fields.is_empty() && found.more == 0, "{:?}", found);
    }

    #[test]
    fn both_directions_tell_the_same(first in any_value(), second in any_value()) {
        let there = between(&first, &second, &rules());
        let back = between(&second, &first, &rules());
        let plain: Vec<_> = there.fields.iter().map(|(field, hits)| (field.clone(), hits.count, hits.largest.size)).collect();
        prop_assert_eq!(plain, swapped(&back));
        prop_assert_eq!(there.fields.is_empty(), first == second);
    }

    #[test]
    fn an_ignored_place_takes_away_its_differences_and_no_others(first in any_value(), second in any_value(), at in 0_usize..8) {
        let all = between(&first, &second, &rules());
        let Some(field) = all.fields.keys().nth(at) else { return Ok(()) };
        let less = between(&first, &second, &ignoring(&[&field.path]));
        // In a rule `*` is any key or index, in a field's path any index: an ignored `/*` takes away `/a` too.
        let ignored: Vec<&str> = field.path.split('/').skip(1).filter(|part| !part.is_empty()).collect();
        let below = |path: &str| {
            let parts: Vec<&str> = path.split('/').skip(1).filter(|part| !part.is_empty()).collect();
            parts.len() >= ignored.len() && ignored.iter().zip(&parts).all(|(own, part)| *own == "*" || own == part)
        };
        let expected: Vec<&Field> = all.fields.keys().filter(|other| !below(&other.path)).collect();
        prop_assert_eq!(less.fields.keys().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn without_order_no_order_matters(first in any_value(), second in any_value()) {
        let loose = Rules { array_order: false, ..rules() };
        prop_assert!(between(&first, &turned(&first), &loose).fields.is_empty());
        let (plain, turned) = (between(&first, &second, &loose), between(&first, &turned(&second), &loose));
        let counts = |found: &Found| found.fields.iter().map(|(field, hits)| (field.clone(), hits.count)).collect::<Vec<_>>();
        prop_assert_eq!(counts(&plain), counts(&turned));
    }

    #[test]
    fn a_larger_tolerance_tells_no_more(first in any_value(), second in any_value(), one in 0.0..2.5, other in 0.0..2.5) {
        let found = between(&first, &second, &rules());
        let (small, large) = if one < other { (one, other) } else { (other, one) };
        let (many, few) = (beyond(&found, small), beyond(&found, large));
        prop_assert!(few.iter().all(|field| many.contains(field)));
    }

    #[test]
    fn a_distance_is_nothing_for_equals_alone_and_the_same_both_ways(a in any::<i128>(), b in any::<i128>(), x in any::<f64>()) {
        let (a, b) = (Number::Whole(a), Number::Whole(b));
        prop_assert_eq!(a.distance(b), b.distance(a));
        prop_assert!(a.distance(a) == 0.0 && (a == b || a.distance(b) > 0.0) && a.distance(b) <= 2.0);
        if x.is_finite() {
            let x = Number::float(x);
            prop_assert!(a.distance(x) <= 2.0 && x.distance(x) == 0.0 && a.distance(x) == x.distance(a));
        }
    }
}

const LIMITS: Limits = Limits { tolerance: 0.005, max_diff_rate: 0.005, noise: 0.05, samples: 1_000 };

/// A service as its answers to one request differ: each field with the probability that stable differs from itself, that the
/// canary differs besides, and by how much.
struct Service(&'static [(&'static str, f64, f64, f64)]);

impl Service {
    fn found(&self, kind: Kind, random: &mut fastrand::Rng) -> Found {
        let mut found = Found::default();
        for (path, noise, drift, size) in self.0 {
            let by_itself = random.f64() < *noise;
            let by_change = kind == Kind::Canary && random.f64() < *drift;
            if by_itself || by_change {
                let class = if size.is_finite() { Class::Number } else { Class::Value };
                let difference =
                    Difference { class, path: (*path).into(), first: "1".into(), second: "2".into(), size: *size };
                found.add((*path).into(), difference);
            }
        }
        found
    }

    /// So many samples, with one of noise to every twenty.
    fn samples(&self, seed: u64, samples: u64) -> Samples {
        let (mut random, mut kept) = (fastrand::Rng::with_seed(seed), Samples::new(Time::default()));
        let rules = Rules { tolerance: 0.005, ..rules() };
        for number in 0..samples {
            let now = Time::from_micros(number * 1_000);
            kept.record(now, Kind::Canary, &self.found(Kind::Canary, &mut random), &rules, example);
            if number % 20 == 0 {
                kept.record(now, Kind::Noise, &self.found(Kind::Noise, &mut random), &rules, example);
            }
        }
        kept
    }

    fn verdicts(&self, limits: Limits) -> [usize; 3] {
        let mut verdicts = [0; 3];
        for seed in 0..STREAMS {
            verdicts[judge(&self.samples(seed, limits.samples), limits).verdict as usize] += 1;
        }
        verdicts
    }
}

fn example() -> Example {
    Example { at: Wall::default(), method: "GET".into(), path: "/".into(), differences: Vec::new() }
}

/// Streams of comparisons that a claim is tried on.
const STREAMS: u64 = 60;
const ALWAYS: f64 = f64::INFINITY;

#[test]
fn answers_that_are_the_same_pass_and_answers_that_are_not_fail() {
    let verdict = |fields| Service(fields).verdicts(LIMITS);
    assert_eq!(verdict(&[]), [60, 0, 0]);
    assert_eq!(verdict(&[("/n", 0.0, 1.0, 0.004)]), [60, 0, 0], "drift within the tolerance");
    assert_eq!(verdict(&[("/n", 0.0, 1.0, 0.006)]), [0, 60, 0], "drift beyond it");
    assert_eq!(verdict(&[("/time", 1.0, 0.0, ALWAYS), ("/id", 1.0, 0.0, ALWAYS)]), [60, 0, 0], "noise alone");
    assert_eq!(verdict(&[("/time", 1.0, 0.0, ALWAYS), ("/n", 0.0, 0.2, ALWAYS)]), [0, 60, 0], "noise hides nothing");
    let [pass, fail, unknown] = verdict(&[("/half", 0.5, 0.0, ALWAYS)]);
    assert!(fail <= 2 && unknown <= 3 && pass >= 55, "{:?}", (pass, fail, unknown));
    let [pass, fail, _] = verdict(&[("/noisy", 0.2, 0.5, ALWAYS)]);
    assert!(pass == 0 && fail >= 58, "a noisy field in which the canary differs far oftener");
    let [pass, fail, _] = verdict(&[("/rare", 0.0, 0.03, ALWAYS)]);
    assert!(pass == 0 && fail >= 57, "3 % of answers");
}

#[test]
fn answers_that_keep_the_limit_fail_no_oftener_than_is_stated() {
    // Exactly at the limit, the hardest case that still is none: of 60 streams 5 % are 3, and 3 standard deviations 5.
    let [_, fail, _] = Service(&[("/n", 0.0, 0.005, ALWAYS)]).verdicts(LIMITS);
    assert!(fail <= 8, "{fail} of {STREAMS}");
    let loose = Limits { max_diff_rate: 0.1, ..LIMITS };
    let [_, fail, _] = Service(&[("/n", 0.0, 0.1, ALWAYS)]).verdicts(loose);
    assert!(fail <= 8, "{fail} of {STREAMS}");
}

#[test]
fn one_missing_field_in_a_hundred_answers_fails_a_limit_of_half_a_percent() {
    let mut samples = Samples::new(Time::default());
    for number in 0..1_000_u64 {
        let mut found = Found::default();
        if number % 100 == 0 {
            found.add("/name".into(), plain(Class::Missing, "/name", ["\"x\"".into(), "(none)".into()]));
        }
        samples.record(Time::default(), Kind::Canary, &found, &rules(), example);
        if number % 20 == 0 {
            samples.record(Time::default(), Kind::Noise, &Found::default(), &rules(), example);
        }
    }
    let judged = judge(&samples, LIMITS);
    assert_eq!((judged.verdict, judged.differing.hits, judged.rate), (Verdict::Fail, 10, 0.01));
    assert_eq!(
        judged.reason,
        "10 of 1000 samples differ, noise taken off 1.00% > 0.50% (with 95% confidence at least 0.54%)"
    );
    assert_eq!((judged.without_size, judged.fields.len(), judged.fields[0].fails), (10, 1, true));
    assert_eq!(judge(&samples, Limits { max_diff_rate: 0.01, ..LIMITS }).verdict, Verdict::Pass);
    let near = judge(&samples, Limits { max_diff_rate: 0.008, ..LIMITS });
    assert_eq!(near.verdict, Verdict::NotEnoughData);
    assert!(near.reason.ends_with("samples would tell"), "{}", near.reason);
}

#[test]
fn fewer_samples_than_asked_for_are_no_verdict_and_so_is_noise_that_was_not_measured() {
    let samples = Service(&[("/n", 0.0, 1.0, ALWAYS)]).samples(1, 100);
    assert_eq!(judge(&samples, LIMITS).reason, "100 of 1000 samples");
    let asked = Limits { samples: 100, ..LIMITS };
    let judged = judge(&samples, asked);
    assert_eq!((judged.verdict, judged.noise.of), (Verdict::NotEnoughData, 5));
    assert_eq!(rate(&samples, Time::default(), asked), Err("noise is not measured yet"));
    let without = Limits { noise: 0.0, ..asked };
    assert_eq!(judge(&samples, without).verdict, Verdict::Fail);
    assert_eq!(rate(&samples, Time::default(), without), Ok((1.0, 100)));
    assert_eq!(rate(&samples, Time::from_micros(90_000), without), Ok((1.0, 10)), "a window is the last part");
    assert_eq!(rate(&Samples::new(Time::default()), Time::default(), without), Err("no comparisons"));
    assert_eq!(count(&samples), (100, 5));
}

#[test]
fn noise_is_taken_off_as_if_it_came_by_itself() {
    // D = N + x - N x, with N and x known: x comes back.
    let service = Service(&[("/noisy", 0.2, 0.4, ALWAYS)]);
    let samples = service.samples(7, 20_000);
    let (rate, of) = rate(&samples, Time::default(), LIMITS).unwrap();
    assert!((0.35..0.45).contains(&rate), "{rate} of {of}");
}

#[test]
fn a_field_that_comes_and_goes_by_itself_is_noise_in_both_directions() {
    let (mut samples, rules) = (Samples::new(Time::default()), rules());
    let one = |class| {
        let mut found = Found::default();
        found.add("/maybe".into(), plain(class, "/maybe", ["1".into(), "(none)".into()]));
        found
    };
    for number in 0..200 {
        let class = if number % 2 == 0 { Class::Missing } else { Class::Added };
        samples.record(Time::default(), Kind::Canary, &one(class), &rules, example);
        if number % 10 == 0 {
            samples.record(Time::default(), Kind::Noise, &one(Class::Missing), &rules, example);
        }
    }
    let judged = judge(&samples, Limits { samples: 200, ..LIMITS });
    assert_eq!((judged.verdict, judged.differing.hits, judged.differing_at_all), (Verdict::Pass, 0, 200));
    assert!(judged.fields.iter().all(|field| field.is_noise));
}

/// Comparisons of answers that have a table with data for keys, no two the same, and `/n` that differs or not.
fn with_data_for_keys(samples: u64, keys: u32, differs: impl Fn(u64) -> bool) -> Samples {
    let (mut kept, rules) = (Samples::new(Time::default()), rules());
    for number in 0..samples {
        for kind in [Kind::Canary, Kind::Noise].into_iter().filter(|kind| *kind == Kind::Canary || number % 10 == 0) {
            let table = |prefix: &str| {
                let key = |n| (format!("{prefix}{kind:?}{number}-{n}").into(), Value::Bool(true));
                Value::table((0..keys).map(key).collect())
            };
            let whole = |keys, number| {
                Value::table(vec![("map".into(), keys), ("n".into(), Value::Number(Number::Whole(number)))])
            };
            let changed = i128::from(kind == Kind::Canary && differs(number));
            let found = between(&whole(table("a"), 1), &whole(table("b"), 1 + changed), &rules);
            kept.record(Time::default(), kind, &found, &rules, example);
        }
    }
    kept
}

#[test]
fn keys_that_are_data_are_noise_and_hide_nothing_else() {
    for keys in [1, 2, 80] {
        let same = judge(&with_data_for_keys(1_000, keys, |_| false), LIMITS);
        assert_eq!(
            (same.verdict, same.differing.hits, same.noise.hits),
            (Verdict::Pass, 0, 0),
            "{keys}: {}",
            same.reason
        );
        let names = |field: &verdict::FieldJudgement| field.is_noise && field.field.path == "/map/*";
        assert!(same.fields.iter().all(names), "{keys}: {:?}", same.fields);
        let other = judge(&with_data_for_keys(1_000, keys, |number| number % 50 == 0), LIMITS);
        assert_eq!((other.verdict, other.differing.hits), (Verdict::Fail, 20), "{keys}: {}", other.reason);
        let failing = other.fields.iter().filter(|field| field.fails).map(|field| &*field.field.path);
        assert_eq!(failing.collect::<Vec<_>>(), ["/n"], "{keys}");
    }
}

#[test]
fn noise_is_that_of_the_same_time_where_there_is_enough_of_it() {
    let (mut samples, rules) = (Samples::new(Time::default()), rules());
    for number in 0..1_200_u64 {
        let mut found = Found::default();
        if number >= 800 {
            found.add("/id".into(), plain(Class::Value, "/id", ["1".into(), "2".into()]));
        }
        let now = Time::from_micros(number);
        samples.record(now, Kind::Canary, &found, &rules, example);
        if number % 5 == 0 {
            samples.record(now, Kind::Noise, &found, &rules, example);
        }
    }
    let last = |samples_asked| judge(&samples, Limits { samples: samples_asked, ..LIMITS });
    assert_eq!((last(400).verdict, last(400).noise.of), (Verdict::Pass, 80), "{}", last(400).reason);
    assert_eq!(last(100).noise.of, 240, "too little of it");
}

#[test]
fn nothing_passes_where_stable_is_never_the_same() {
    let mut samples = Samples::new(Time::default());
    for number in 0..1_000 {
        for kind in [Kind::Canary, Kind::Noise] {
            let mut found = Found::default();
            for table in 0..40 {
                let path = format!("/{kind:?}{number}-{table}/id");
                found.add(path.clone(), plain(Class::Value, &path, ["1".into(), "2".into()]));
            }
            samples.record(Time::default(), kind, &found, &rules(), example);
        }
    }
    let judged = judge(&samples, LIMITS);
    assert_eq!(judged.verdict, Verdict::NotEnoughData, "{}", judged.reason);
    assert!(judged.reason.ends_with("with `ignore`"), "{}", judged.reason);
    assert_eq!(rate(&samples, Time::default(), LIMITS), Err("stable differs from itself too often to tell"));
}

#[test]
fn what_is_kept_is_bounded_and_what_is_noise_is_no_example() {
    let (mut samples, rules) = (Samples::new(Time::default()), rules());
    for number in 0..8_000 {
        let mut found = Found::default();
        for field in 0..40 {
            let path = format!("/{}", (number * 40 + field) % 5_000);
            found.add(path.clone(), plain(Class::Value, &path, ["1".into(), "2".into()]));
        }
        samples.record(Time::from_micros(number), Kind::Canary, &found, &rules, example);
    }
    assert_eq!(samples.fields().len(), samples::TABLE_FIELDS_MAX + 1);
    assert_eq!(samples.examples().count(), EXAMPLES_MAX);
    let judged = judge(&samples, Limits { samples: 100, noise: 0.0, ..LIMITS });
    assert!(judged.fields.iter().any(|field| field.field.path == "/*"));

    let mut quiet = Samples::new(Time::default());
    let mut found = Found::default();
    found.add("/time".into(), plain(Class::Value, "/time", ["1".into(), "2".into()]));
    quiet.record(Time::default(), Kind::Noise, &found, &rules, example);
    quiet.record(Time::default() + Duration::from_secs(1), Kind::Canary, &found, &rules, example);
    assert_eq!(quiet.examples().count(), 0);
    for _ in 0..SAMPLES_MAX + 10 {
        quiet.record(Time::default(), Kind::Canary, &Found::default(), &rules, example);
    }
    assert_eq!(count(&quiet), (SAMPLES_MAX as u64, 0));
}
