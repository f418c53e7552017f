//! The language by example: what is read, what it means, what is refused and where.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A source of fixed values, by the printed form of what is asked for.
#[derive(Default)]
struct Table(BTreeMap<String, (f64, u64)>);

impl Table {
    fn with(mut self, asked: &str, value: f64, samples: u64) -> Self {
        self.0.insert(asked.into(), (value, samples));
        self
    }
}

impl Source for Table {
    fn read(&self, sample: Sample<'_>) -> Reading {
        let origin = match sample.origin {
            Origin::Live => "live".to_owned(),
            Origin::Baseline => "baseline".to_owned(),
            Origin::Stage(name) => name.to_string(),
        };
        let key = format!("{origin} {} {}", sample.arm, sample.metric);
        match self.0.get(&key) {
            Some(&(value, samples)) => Reading::Value { value, samples },
            None => Reading::NoData(format!("no {origin}").into()),
        }
    }
}

#[track_caller]
fn read(text: &str) -> Criterion {
    parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[track_caller]
fn refused(text: &str) -> (String, String) {
    let error = parse(text).expect_err(text);
    let end = (error.at + error.length).min(text.len());
    (text.get(error.at..end).unwrap_or("").to_owned(), error.message)
}

#[test]
fn the_examples_of_the_contract_are_read() {
    for (text, normal) in [
        ("p99 > 5 * baseline", "p99 > 5 * baseline"),
        ("error_rate<=stable+0.5%", "error_rate <= stable + 0.5%"),
        ("p95{publish} < 20ms", "p95{publish} < 20ms"),
        ("share >= 40%", "share >= 40%"),
        ("canary.error_rate > 0.005", "error_rate > 0.005"),
        ("stable.p95 < 1s", "stable.p95 < 1s"),
        ("error_rate{cohort:beta} < 0.5%", "error_rate{cohort:beta} < 0.5%"),
        ("p95 < 1.1 * baseline.canary.p95", "p95 < 1.1 * baseline.canary.p95"),
        ("p95 <= 1.05 * stage(canary-10)", "p95 <= 1.05 * stage(canary-10)"),
        ("shadow.p99 < 1.2 * stable.p99", "shadow.p99 < 1.2 * stable.p99"),
        ("shadow.p99 < 1.2 * stable", "shadow.p99 < 1.2 * stable.p99"),
        ("shadow.error_rate <= baseline.stable + 0.1%", "shadow.error_rate <= baseline.stable.error_rate + 0.1%"),
        ("shadow.p95 < 2 * baseline", "shadow.p95 < 2 * baseline"),
        ("vitals.lcp.p75 > 2500ms", "vitals.lcp.p75 > 2500ms"),
        ("vitals.cls.p95 > 0.1", "vitals.cls.p95 > 0.1"),
        ("query.memory > 80MB", "query.memory > 80MB"),
        ("query.memory > 90%", "query.memory > 90%"),
        ("query.tickets > 3 * baseline", "query.tickets > 3 * baseline"),
        ("query.cpu <= 1.1 * stage(ramp)", "query.cpu <= 1.1 * stage(ramp)"),
        ("query.new >= baseline.query.old", "query.new >= baseline.query.old"),
        ("signal.validation_error < 0.1%", "signal.validation_error < 0.1%"),
        ("breaker.trips >= 1", "breaker.trips >= 1"),
        ("total.p95 < 2 * (stable - 10ms)", "total.p95 < 2 * (stable - 10ms)"),
        ("weir.memory < 200MiB", "weir.memory < 200MiB"),
    ] {
        assert_eq!(read(text).to_string(), normal);
    }
}

#[test]
fn units_that_clash_are_refused_with_the_reason() {
    for (text, at, message) in [
        ("p95 > 5%", "5%", "`p95` is a time, and `5%` is a share: compare it with a time such as `200ms`"),
        ("error_rate > 20ms", "20ms", "`error_rate` is a share, and `20ms` is a time"),
        ("p95 < stable + 10%", "stable + 10%", "a time and a share cannot be added; a part of something is a product"),
        ("p95 > 200", "200", "`p95` is a time, and `200` is a plain number"),
        ("requests > 10%", "10%", "`requests` is a plain number"),
        ("p95 < 2ms * 3ms", "2ms", "only one factor of a product may have a unit"),
        ("error_rate < stable.p95", "stable.p95", "`error_rate` is a share, and `stable.p95` is a time"),
    ] {
        let (where_, what) = refused(text);
        assert_eq!(where_, at, "{text}");
        assert!(what.starts_with(message), "{text}: {what}");
    }
}

#[test]
fn mistakes_are_shown_at_their_place() {
    for (text, at, message) in [
        ("eror_rate > 5%", "eror_rate", "there is no metric `eror_rate`"),
        ("error_rate => 5%", "=", "expected `<`, `<=`, `>` or `>=`"),
        ("error_rate >", "", "expected a number, `stable`, `canary`, `baseline` or `stage(NAME)`, but the text ends"),
        ("error_rate > 5% and p95 > 2s", "and", "the criterion should end here"),
        ("p95 > 5 hours", "hours", "the criterion should end here"),
        ("p95 > 5 ms", "ms", "a unit stands right behind its number"),
        ("error_rate > 0.5 %", "%", "a unit stands right behind its number"),
        ("p95 > 5msec", "msec", "there is no unit `msec`"),
        ("p95{publish > 5ms", ">", "expected `}`"),
        ("signal > 5%", "", "expected `.` and the name of a signal"),
        ("vitals.fid.p75 > 5ms", "vitals.fid", "expected one of `.lcp`, `.inp`, `.cls` after `vitals`"),
        ("stable.query.x > 1", "stable.query.x", "`query.x` does not belong to an arm"),
        ("share{api} > 1%", "share", "`share` cannot be narrowed"),
        ("error_rate > stage()", "", "expected the name of a stage"),
        ("query.memory > 2 * baseline.canary", "baseline", "`query.memory` does not belong to an arm"),
        ("", "", "expected a metric such as `error_rate` or `p95`, but the text ends"),
        ("error_rate > 1..2%", "1..2", "`1..2` is no number"),
    ] {
        let (where_, what) = refused(text);
        assert!(where_.starts_with(at), "{text}: at {where_:?}");
        assert!(what.starts_with(message), "{text}: {what}");
    }
    assert_eq!(parse("eror_rate > 5%").unwrap_err().suggestion.as_deref(), Some("error_rate"));
    assert_eq!(parse("p95 > 5MS").unwrap_err().suggestion.as_deref(), Some("5ms"));
}

#[test]
fn a_hostile_criterion_is_refused_without_harm() {
    assert!(parse(&format!("p95 > {}1ms{}", "(".repeat(200), ")".repeat(200))).is_err());
    assert!(parse(&"p".repeat(5000)).is_err());
    assert!(parse("p95 > \u{1F980}").is_err());
    assert!(parse(&format!("p95 > {}", "9".repeat(800))).is_err(), "a plain number is no time, however large");
}

#[test]
fn a_verdict_carries_value_limit_samples_window_and_the_other_arm() {
    let source = Table::default().with("live canary error_rate", 0.34, 50).with("live stable error_rate", 0.001, 900);
    let verdict = read("error_rate > stable + 4.9%").evaluate(&source, 1, "10s");
    assert_eq!((verdict.holds, verdict.samples), (Some(true), 50));
    assert!((verdict.limit.unwrap() - 0.05).abs() < 1e-12);
    assert_eq!(verdict.reason, "error_rate 34.0% > 5.0% (17 of 50 requests in 10s; stable 0.10%)");
    let passes = read("error_rate <= 50%").evaluate(&source, 1, "10s");
    assert_eq!(passes.reason, "error_rate 34.0% <= 50.0% (17 of 50 requests in 10s)");
    let fails = read("error_rate <= 5%").evaluate(&source, 1, "10s");
    assert_eq!((fails.holds, &*fails.reason), (Some(false), "error_rate 34.0% > 5.0% (17 of 50 requests in 10s)"));
}

#[test]
fn what_has_no_data_is_neither_pass_nor_failure() {
    let source = Table::default().with("live canary p95", 120.0, 99).with("live stable p95", 100.0, 5000);
    let few = read("p95 < 1.1 * stable").evaluate(&source, 100, "1m");
    assert_eq!((few.holds, &*few.reason), (None, "p95: 99 of 100 requests needed in 1m"));
    let none = read("p95 < 1.1 * baseline").evaluate(&source, 1, "1m");
    assert_eq!((none.holds, &*none.reason), (None, "baseline: no baseline"));
    assert_eq!(read("error_rate < 1%").evaluate(&source, 1, "1m").holds, None);
    let query = Table::default().with("live canary query.memory", 9e7, 1);
    let verdict = read("query.memory > 80MB").evaluate(&query, 100, "1m");
    assert_eq!((verdict.holds, &*verdict.reason), (Some(true), "query.memory 90.0MB > 80.0MB"));
}

#[test]
fn references_read_the_arm_that_the_contract_names() {
    let source = Table::default()
        .with("live canary p95", 100.0, 500)
        .with("baseline stable p95", 90.0, 1)
        .with("baseline canary p95", 80.0, 1)
        .with("ramp canary p95", 70.0, 1)
        .with("ramp stable p95", 60.0, 1);
    let limit = |text: &str| read(text).evaluate(&source, 1, "1m").limit.unwrap();
    assert!((limit("p95 < 2 * baseline") - 180.0).abs() < 1e-9);
    assert!((limit("p95 < baseline.canary + 1ms") - 81.0).abs() < 1e-9);
    assert!((limit("p95 < stage(ramp)") - 70.0).abs() < 1e-9);
    assert!((limit("p95 < stage(ramp).stable.p95 - 1ms") - 59.0).abs() < 1e-9);
}

#[test]
fn what_belongs_to_no_arm_has_one_record() {
    let source = Table::default()
        .with("live canary query.tickets", 30.0, 1)
        .with("baseline stable query.tickets", 4.0, 1)
        .with("ramp canary query.tickets", 5.0, 1);
    let verdict = read("query.tickets > 3 * baseline").evaluate(&source, 1, "1m");
    assert_eq!((verdict.limit, &*verdict.reason), (Some(12.0), "query.tickets 30 > 12 (baseline 4)"));
    assert_eq!(read("query.tickets > 2 * stage(ramp)").evaluate(&source, 1, "1m").limit, Some(10.0));
    assert_eq!(read("query.memory > 2 * baseline").evaluate(&source, 1, "1m").holds, None);
}

#[test]
fn a_limit_that_is_met_exactly_is_met() {
    let source = Table::default().with("live canary error_rate", 5.0 / 1000.0, 1000);
    assert_eq!(read("error_rate <= 0.5%").evaluate(&source, 1, "1m").holds, Some(true));
    assert_eq!(read("error_rate > 0.5%").evaluate(&source, 1, "1m").holds, Some(false));
    assert_eq!(read("error_rate >= 0.005").evaluate(&source, 1, "1m").holds, Some(true));
}

fn a_time() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (1_u32..1000).prop_map(|number| format!("{number}ms")),
        Just("stable".to_owned()),
        Just("baseline.canary".to_owned()),
        Just("stage(s-1).p50".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 2, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} + {right}")),
            (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("({left} - {right})")),
            (1_u32..9, inner).prop_map(|(factor, right)| format!("{factor} * ({right})")),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back_as_the_same(limit in a_time()) {
        let criterion = read(&format!("p95 < {limit}"));
        prop_assert_eq!(parse(&criterion.to_string()).unwrap(), criterion);
    }

    #[test]
    fn no_text_makes_it_panic_and_errors_point_into_the_text(text in "\\PC{0,40}") {
        if let Err(error) = parse(&text) {
            prop_assert!(error.at <= text.len() && error.length >= 1);
        }
    }

    #[test]
    fn mangled_criteria_never_panic(at in 0_usize..30, with in "\\PC{0,3}") {
        let text = "canary.p95{api} <= 1.1 * stage(a) + 5ms";
        let at = at.min(text.len());
        let _ = parse(&format!("{}{with}{}", &text[..at], &text[(at + 1).min(text.len())..]));
    }
}
