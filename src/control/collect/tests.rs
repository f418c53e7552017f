//! What is summed, kept and forgotten, from cells fed by hand.

use super::*;
use crate::rollout::assign::Decision;
use crate::rollout::outcome::{CodeClass, ErrorKind};

fn at(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

fn key(arm: Arm, route: &str) -> SeriesKey {
    SeriesKey::Arm { rollout: "chat".into(), arm, route: route.into() }
}

/// One request of worker `worker`, from its start to its end.
fn request(cells: &PerWorker<Series>, worker: usize, us: u64, error: Option<ErrorKind>) {
    let series = cells.of(worker).unwrap();
    series.started.add(1);
    series.codes[CodeClass::Success as usize].add(1);
    if let Some(kind) = error {
        series.errors[kind as usize].add(1);
    }
    series.first_byte.record(us);
    series.first_byte_us.add(us);
    series.ended.add(1);
}

fn names(cohorts: &[&str]) -> Names {
    let cohorts = cohorts.iter().map(|name| Arc::from(*name)).collect();
    Names { rollouts: BTreeMap::from([("chat".into(), cohorts)]), routes: ["api".into()].into(), ..Names::default() }
}

#[test]
fn arms_add_up_routes_and_workers_over_the_window() {
    let mut registry = Registry::new(2);
    let (api, web) = (registry.series(key(Arm::Canary, "api")), registry.series(key(Arm::Canary, "web")));
    let mut collector = Collector::default();
    collector.collect(&registry, at(0), false);
    request(&api, 0, 1_000, None);
    request(&web, 1, 9_000, Some(ErrorKind::Timeout));
    web.of(0).unwrap().started.add(1);
    collector.collect(&registry, at(10_000), false);
    let minute = Duration::from_secs(60);
    let [stable, canary] = collector.arms(&registry, "chat", minute, at(10_000));
    assert_eq!(stable, ArmReport::default());
    assert_eq!((canary.requests, canary.errors, canary.in_flight), (2, 1, 1));
    assert!((canary.rps - 0.2).abs() < 0.001, "{}", canary.rps);
    assert!((canary.p99_ms.unwrap() - 9.0).abs() < 9.0 / 64.0);
    let [_, later] = collector.arms(&registry, "chat", minute, at(90_000));
    assert_eq!((later.requests, later.in_flight), (0, 1));
}

#[test]
fn a_reading_between_two_cells_of_a_request_loses_nothing() {
    let mut registry = Registry::new(1);
    let cells = registry.series(key(Arm::Stable, "api"));
    let mut collector = Collector::default();
    collector.collect(&registry, at(0), false);
    let series = cells.of(0).unwrap();
    series.started.add(1);
    series.ended.add(1);
    collector.collect(&registry, at(25), false);
    series.errors[ErrorKind::Reset as usize].add(1);
    collector.collect(&registry, at(50), false);
    let [stable, _] = collector.arms(&registry, "chat", Duration::from_secs(1), at(50));
    assert_eq!((stable.requests, stable.errors), (1, 1));
}

#[test]
fn cohorts_that_change_places_keep_their_decisions() {
    let mut registry = Registry::new(1);
    let mut collector = Collector::default();
    let decide = |registry: &mut Registry, reason| {
        registry.decisions(&"chat".into()).of(0).unwrap().record(Decision { arm: Arm::Canary, reason });
    };
    collector.adopt(&mut registry, &names(&["a", "b"]));
    decide(&mut registry, Reason::Cohort(0));
    decide(&mut registry, Reason::Bucket);
    collector.adopt(&mut registry, &names(&["b", "a"]));
    decide(&mut registry, Reason::Cohort(0));
    let expected = [("bucket", 1), ("cohort:a", 1), ("cohort:b", 1)];
    let told = |collector: &Collector| {
        collector.decisions().into_iter().map(|((_, _, word), count)| (word, count)).collect::<Vec<_>>()
    };
    assert_eq!(told(&collector), expected.map(|(word, count)| (word.to_owned(), count)));
    collector.retire(&mut registry, &names(&["b", "a"]));
    assert_eq!(told(&collector), expected.map(|(word, count)| (word.to_owned(), count)), "nothing goes back");
    decide(&mut registry, Reason::Cohort(1));
    assert_eq!(collector.decisions()[&("chat".into(), Arm::Canary, "cohort:a".to_owned())], 2);
}

#[test]
fn what_left_the_config_is_forgotten_and_the_rest_goes_on() {
    let mut registry = Registry::new(1);
    let mut collector = Collector::default();
    collector.adopt(&mut registry, &names(&[]));
    let api = registry.series(key(Arm::Stable, "api"));
    registry.series(key(Arm::Stable, "gone"));
    registry.series(SeriesKey::Plain { route: "gone".into() });
    registry.gauge(GaugeKey::UpstreamIdle("gone".into()));
    registry.gauge(GaugeKey::Connections("127.0.0.1:1".into()));
    request(&api, 0, 5, None);
    collector.collect(&registry, at(0), false);
    collector.retire(&mut registry, &names(&[]));
    assert_eq!(registry.all_series().map(|(key, _)| key.clone()).collect::<Vec<_>>(), [key(Arm::Stable, "api")]);
    assert_eq!(registry.all_gauges().count(), 1);
    assert!(Arc::ptr_eq(&api, &registry.series(key(Arm::Stable, "api"))));
    collector.retire(&mut registry, &Names::default());
    assert_eq!((registry.all_series().count(), registry.all_decisions().count()), (0, 0));
}
