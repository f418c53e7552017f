//! Every metric from cells fed by hand.

use super::*;
use crate::clock::Clock;
use crate::config::{Format, Live, UserFiles, compile, load_text};
use crate::control::signals::{Posting, Whose, post};
use crate::latch::Latches;
use crate::rollout::criterion::Metric;
use crate::rollout::criterion::{Quantile, Vital, parse};
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::snapshot::Snapshot;
use crate::tally::{Registry, SeriesKey};
use proptest::prelude::*;
use std::path::Path;
use std::time::Duration;

/// A rollout `chat` whose stable arm answers by itself, on two routes, with a cohort, two signals and web vitals.
const CONFIG: &str = r#"
[[listeners]]
address = "127.0.0.1:18080"
vitals_path = "/vitals"
[upstreams.new]
endpoints = ["127.0.0.1:9002"]
[[routes]]
name = "api"
match = { path_prefix = "/api" }
rollouts = ["chat"]
[[routes]]
name = "rest"
rollouts = ["chat"]
[rollouts.chat]
unit = ["header:x-user-id"]
weight = "50%"
stable = { respond = { status = 403 } }
canary = { upstream = "new" }
[rollouts.chat.cohorts.beta]
users = ["b"]
[signals.refused]
when = { status = ["422"] }
[signals.orders]
[queries.memory]
url = "http://127.0.0.1:9"
expr = "up"
"#;

struct World {
    config: Config,
    registry: Registry,
    snapshot: Snapshot,
    collector: Collector,
    queries: Queries,
    own: Own,
    compared: Compared,
    trips: BTreeMap<Arc<str>, u64>,
    now: Time,
}

/// One request as the cells see it.
#[derive(Clone, Copy, Debug)]
struct Request {
    arm: Arm,
    route: &'static str,
    status: u16,
    us: u64,
    error: Option<ErrorKind>,
}

const GOOD: Request = Request { arm: Arm::Canary, route: "api", status: 200, us: 1_000, error: None };

impl World {
    fn new() -> World {
        let loaded =
            load_text("weir.toml", CONFIG, Format::Toml, Path::new("/nowhere"), &[], &mut UserFiles::default());
        let config = loaded.unwrap().config;
        let mut registry = Registry::new(2);
        let snapshot = compile(&config, &Live::default(), &mut registry, &Latches::default(), 1);
        let now = at(100);
        let (queries, own) = (Queries::new(Clock::manual()), Own::new(now));
        let trips = BTreeMap::from([("chat".into(), 0)]);
        let mut world = World {
            config,
            registry,
            snapshot,
            collector: Collector::default(),
            queries,
            own,
            compared: Compared::default(),
            trips,
            now,
        };
        world.collect();
        world
    }

    fn collect(&mut self) {
        self.collector.collect(&self.registry, self.now, true);
    }

    fn passes(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
    }

    fn series(&mut self, key: SeriesKey, request: Request) {
        let cells = self.registry.series(key);
        let series = cells.of((request.us % 2) as usize).unwrap();
        series.started.add(1);
        series.codes[CodeClass::of(request.status) as usize].add(1);
        if let Some(kind) = request.error {
            series.errors[kind as usize].add(1);
        }
        series.first_byte.record(request.us);
        series.total.record(request.us * 2);
        series.ended.add(1);
    }

    fn request(&mut self, request: Request) {
        let key = SeriesKey::Arm { rollout: "chat".into(), arm: request.arm, route: request.route.into() };
        self.series(key, request);
    }

    fn sources(&self) -> Sources<'_> {
        Sources::new(
            &self.collector,
            &self.queries,
            &self.own,
            &self.compared,
            &self.config,
            self.trips.clone(),
            self.now,
        )
    }

    fn reading(&self, quantity: &str, span: Span) -> Reading {
        let quantity = ["", "%", "ms", "MB"].iter().find_map(|unit| parse(&format!("{quantity} > 0{unit}")).ok());
        let quantity = quantity.unwrap().quantity;
        let asked = Asked { arm: quantity.arm, metric: quantity.metric, filter: quantity.filter };
        self.sources().reading("chat", span, &asked)
    }

    /// Expects a value (to a millionth) from so many samples over the last minute.
    #[track_caller]
    fn expect(&self, quantity: &str, value: f64, samples: u64) {
        self.expect_over(quantity, Span::Last(Duration::from_secs(60)), value, samples);
    }

    #[track_caller]
    fn expect_over(&self, quantity: &str, span: Span, value: f64, samples: u64) {
        match self.reading(quantity, span) {
            Reading::Value { value: found, samples: of } => {
                assert!((found - value).abs() <= value.abs() * 1e-6 && of == samples, "{quantity}: {found} of {of}");
            }
            Reading::NoData(why) => panic!("{quantity}: {why}"),
        }
    }

    #[track_caller]
    fn expect_nothing(&self, quantity: &str, why: &'static str) {
        for span in [Span::Stage, Span::Last(Duration::from_secs(60))] {
            assert_eq!(self.reading(quantity, span), Reading::NoData(why.into()), "{quantity}");
        }
    }

    fn signal(&self, place: usize, arm: Arm, count: u64) {
        self.snapshot.rollouts[0].signals[place][arm.index()].of(1).unwrap().add(count);
    }

    fn report(&self, arm: Arm, vital: Vital, reported: f64) {
        let cells = self.snapshot.rollouts[0].vitals.as_ref().unwrap()[arm.index()].of(0).unwrap();
        cells.of(vital).values.record(vital.counted(reported).unwrap());
        cells.of(vital).reports.add(1);
    }
}

fn at(second: u64) -> Time {
    Time::from_micros(second * 1_000_000)
}

fn times(count: usize, mut once: impl FnMut()) {
    (0..count).for_each(|_| once());
}

#[test]
fn rates_and_latencies_are_of_the_arms_own_requests() {
    let mut world = World::new();
    times(6, || world.request(GOOD));
    world.request(Request { status: 404, ..GOOD });
    world.request(Request { status: 502, us: 50_000, error: Some(ErrorKind::Connect), route: "rest", ..GOOD });
    times(2, || world.request(Request { status: 504, us: 900_000, error: Some(ErrorKind::Timeout), ..GOOD }));
    times(30, || world.request(Request { arm: Arm::Stable, status: 403, us: 20, ..GOOD }));
    world.passes(10);
    world.collect();
    world.expect("error_rate", 0.3, 10);
    world.expect("rate_5xx", 0.3, 10);
    world.expect("rate_4xx", 0.1, 10);
    world.expect("stable.rate_4xx", 1.0, 30);
    world.expect("timeout_rate", 0.2, 10);
    world.expect("requests", 10.0, 10);
    world.expect("rps", 1.0, 10);
    world.expect("share", 0.25, 40);
    world.expect("blocked_rate", 0.75, 40);
    world.expect("stable.p50", 0.02, 30);
    let within = |quantity: &str, ms: f64| {
        let Reading::Value { value, .. } = world.reading(quantity, Span::Stage) else { panic!("{quantity}") };
        assert!((value - ms).abs() <= ms / 64.0, "{quantity} {value}");
    };
    for (quantity, ms) in [("p50", 1.0), ("p75", 50.0), ("p90", 900.0), ("p999", 900.0), ("total.p50", 2.0)] {
        within(quantity, ms);
    }
    world.expect("error_rate{rest}", 1.0, 1);
    world.expect("error_rate{api}", 2.0 / 9.0, 9);
    assert_eq!(world.reading("p95{rest}", Span::Stage), world.reading("total.p50{rest}", Span::Stage).halved());
}

impl Reading {
    fn halved(self) -> Reading {
        match self {
            // Twice the time lies in the bucket twice as large.
            Reading::Value { value, samples } => Reading::Value { value: value / 2.0, samples },
            nothing => nothing,
        }
    }
}

#[test]
fn a_cohorts_requests_are_read_by_themselves() {
    let mut world = World::new();
    let key = |arm| SeriesKey::Cohort { rollout: "chat".into(), arm, cohort: "beta".into() };
    times(3, || world.request(GOOD));
    world.series(key(Arm::Canary), Request { status: 500, error: Some(ErrorKind::Status), ..GOOD });
    world.series(key(Arm::Canary), GOOD);
    world.collect();
    world.expect("error_rate{cohort:beta}", 0.5, 2);
    world.expect("error_rate", 0.0, 3);
    world.expect_nothing("stable.error_rate{cohort:beta}", "no requests");
}

#[test]
fn without_requests_there_is_no_data_of_anything() {
    let mut world = World::new();
    world.collect();
    for quantity in [
        "error_rate",
        "rate_5xx",
        "rate_4xx",
        "timeout_rate",
        "p95",
        "total.p95",
        "rps",
        "requests",
        "share",
        "fallback_rate",
        "blocked_rate",
        "breaker_rate",
        "signal.orders",
        "stable.error_rate",
        "p99{api}",
        "error_rate{cohort:beta}",
    ] {
        world.expect_nothing(quantity, "no requests");
    }
    world.expect_nothing("vitals.lcp.p75", "no reports");
    for mirrored in ["shadow.error_rate", "shadow.p95"] {
        world.expect_nothing(mirrored, "no copies");
    }
    world.expect_nothing("shadow.diff_rate", "answers are not compared");
    world.expect_nothing("query.memory", "there is no such query");
    world.expect_nothing("weir.memory", "this system does not say");
    world.expect_nothing("weir.cpu", "this system does not say");
    // Requests of one arm alone are a share, and say nothing of the other.
    world.request(Request { arm: Arm::Stable, ..GOOD });
    world.collect();
    world.expect("share", 0.0, 1);
    world.expect_nothing("error_rate", "no requests");
}

#[test]
fn what_stands_beside_requests_is_read_per_request() {
    let mut world = World::new();
    times(8, || world.request(GOOD));
    times(4, || world.request(Request { arm: Arm::Stable, ..GOOD }));
    times(2, || world.series(SeriesKey::Probe { rollout: "chat".into() }, GOOD));
    let rollout = &world.snapshot.rollouts[0];
    rollout.fallbacks.of(0).unwrap().outcomes[0].add(2);
    // A fallback that its budget forbade is none.
    rollout.fallbacks.of(1).unwrap().outcomes[2].add(5);
    rollout.diverted.of(0).unwrap().add(20);
    rollout.diverted.of(1).unwrap().add(10);
    world.signal(0, Arm::Canary, 4);
    world.signal(0, Arm::Stable, 1);
    world.trips.insert("chat".into(), 2);
    world.passes(1);
    world.collect();
    world.expect("fallback_rate", 0.25, 8);
    world.expect("breaker_rate", 0.75, 40);
    world.expect("breaker.trips", 2.0, 2);
    world.expect("signal.refused", 0.5, 8);
    world.expect("stable.signal.refused", 0.25, 4);
    world.expect("signal.orders", 0.0, 8);
    world.trips.clear();
    world.expect_nothing("breaker.trips", "it has no breaker");
}

#[test]
fn what_copies_say_is_no_arms() {
    let mut world = World::new();
    let shadow = || SeriesKey::Shadow { rollout: "chat".into() };
    times(3, || world.series(shadow(), GOOD));
    world.series(shadow(), Request { error: Some(ErrorKind::Timeout), ..GOOD });
    world.collect();
    world.expect("shadow.error_rate", 0.25, 4);
    world.expect_nothing("error_rate", "no requests");
    world.expect_nothing("stable.p95", "no requests");
}

#[test]
fn posted_signals_count_for_the_arm_that_is_named_or_the_units_own() {
    let mut world = World::new();
    times(10, || world.request(GOOD));
    times(10, || world.request(Request { arm: Arm::Stable, ..GOOD }));
    world.collect();
    let now = world.now;
    let mut say = |signal: &str, rollout: Option<&str>, whose: Whose, count: u64| {
        let posting = Posting { rollout: rollout.map(str::to_owned), whose, count };
        post(&world.snapshot, &mut world.collector, signal, &posting, now)
    };
    assert_eq!(say("orders", None, Whose::Arm(Arm::Canary), 3).unwrap(), [("chat".into(), Some(Arm::Canary))].into());
    let of_member = say("orders", Some("chat"), Whose::Unit("b".into()), 1).unwrap();
    assert_eq!(of_member, [("chat".into(), Some(Arm::Canary))].into(), "a cohort admits it");
    let stranger = (0..).map(|number| format!("u{number}")).find(|unit| {
        matches!(say("refused", None, Whose::Unit(unit.clone()), 1).unwrap().get("chat"), Some(Some(Arm::Stable)))
    });
    assert!(stranger.is_some(), "some units are on stable");
    assert!(matches!(say("order", None, Whose::Arm(Arm::Stable), 1), Err(crate::control::Denied::NotFound(_))));
    assert!(matches!(
        say("orders", Some("chad"), Whose::Arm(Arm::Stable), 1),
        Err(crate::control::Denied::NotFound(_))
    ));
    world.signal(1, Arm::Canary, 1);
    world.passes(1);
    world.collect();
    world.expect("signal.orders", 0.5, 10);
    world.expect("stable.signal.orders", 0.0, 10);
    world.expect("stable.signal.refused", 0.1, 10);
}

#[test]
fn web_vitals_are_quantiles_of_reports_in_their_own_unit() {
    let mut world = World::new();
    (1..=4).for_each(|number| world.report(Arm::Canary, Vital::Lcp, f64::from(number) * 1000.0));
    world.report(Arm::Canary, Vital::Cls, 0.25);
    world.report(Arm::Stable, Vital::Inp, 40.0);
    world.passes(1);
    world.collect();
    let near = |quantity: &str, value: f64, reports: u64| match world.reading(quantity, Span::Stage) {
        Reading::Value { value: found, samples } => {
            assert!((found - value).abs() <= value / 64.0 && samples == reports, "{quantity}: {found} of {samples}");
        }
        Reading::NoData(why) => panic!("{quantity}: {why}"),
    };
    near("vitals.lcp.p75", 3000.0, 4);
    near("vitals.cls.p95", 0.25, 1);
    near("stable.vitals.inp.p75", 40.0, 1);
    world.expect_nothing("vitals.inp.p75", "no reports");
}

#[test]
fn a_stage_counts_from_its_beginning_and_a_window_reaches_behind_it() {
    let mut world = World::new();
    times(5, || world.request(Request { status: 500, error: Some(ErrorKind::Status), ..GOOD }));
    world.signal(0, Arm::Canary, 5);
    world.report(Arm::Canary, Vital::Lcp, 1.0);
    world.snapshot.rollouts[0].diverted.of(0).unwrap().add(7);
    world.passes(10);
    world.collect();
    world.collector.mark("chat", world.now);
    world.expect_nothing("vitals.inp.p75", "no reports");
    assert_eq!(world.reading("error_rate", Span::Stage), Reading::NoData("no requests".into()));
    times(5, || world.request(GOOD));
    world.passes(5);
    world.collect();
    for (quantity, in_stage, in_window) in [
        ("error_rate", (0.0, 5), (0.5, 10)),
        ("signal.refused", (0.0, 5), (0.5, 10)),
        ("rps", (1.0, 5), (10.0 / 15.0, 10)),
    ] {
        world.expect_over(quantity, Span::Stage, in_stage.0, in_stage.1);
        world.expect(quantity, in_window.0, in_window.1);
    }
    assert_eq!(world.reading("vitals.lcp.p75", Span::Stage), Reading::NoData("no reports".into()));
    world.expect_over("breaker_rate", Span::Stage, 0.0, 5);
    // Another rollout's stage is its own.
    world.collector.mark("other", world.now);
    world.expect_over("requests", Span::Stage, 5.0, 5);
}

#[test]
fn what_several_metrics_need_is_added_up_once() {
    let mut world = World::new();
    world.request(GOOD);
    world.collect();
    let sources = world.sources();
    let asked = |metric| Asked { arm: Arm::Canary, metric, filter: None };
    let (_, p95) = Quantile::ALL[3];
    for metric in [Metric::ErrorRate, Metric::FirstByte(p95), Metric::Total(p95), Metric::Rps] {
        assert!(matches!(sources.reading("chat", Span::Stage, &asked(metric)), Reading::Value { .. }));
    }
    assert_eq!(sources.sums.borrow().len(), 1);
}

fn requests() -> impl Strategy<Value = Vec<(Request, u64)>> {
    let kinds = prop_oneof![Just(None), Just(Some(ErrorKind::Timeout)), Just(Some(ErrorKind::Status))];
    let one = (prop_oneof![Just(Arm::Stable), Just(Arm::Canary)], any::<bool>(), 100_u16..600, 1_u64..5_000_000, kinds)
        .prop_map(|(arm, api, status, us, error)| {
            let route = if api { "api" } else { "rest" };
            Request { arm, route, status, us, error }
        });
    prop::collection::vec((one, 0_u64..400), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_arm_is_the_sum_of_its_routes(requests in requests(), back in 1_u64..4_000) {
        let mut world = World::new();
        let (mut marked, half) = (false, requests.len() / 2);
        for (number, (request, gap)) in requests.into_iter().enumerate() {
            world.request(request);
            world.passes(gap);
            world.collect();
            if number == half && !marked {
                marked = true;
                world.collector.mark("chat", world.now);
            }
        }
        for span in [Span::Stage, Span::Last(Duration::from_secs(back))] {
            for arm in Arm::ALL {
                let counts = |filter: Option<&Filter>| world.collector.counts("chat", Part::Of(arm, filter), span, world.now).0;
                let [api, rest] = ["api", "rest"].map(|route| Filter::Route(route.into()));
                let mut sum = counts(Some(&api));
                sum.add(&counts(Some(&rest)));
                prop_assert_eq!(sum, counts(None));
            }
        }
    }
}
