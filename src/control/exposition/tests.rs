//! The text that is scraped, line by line.

use super::stands::Sides;
use super::*;
use crate::rollout::bucket::Weight;
use crate::rollout::histogram::lower_bound_us;
use crate::rollout::report::State;

#[test]
fn bounds_are_edges_of_buckets_from_256_us_to_67_s() {
    let bounds: Vec<u64> = bounds_us().collect();
    assert_eq!((bounds.len(), bounds[0], bounds[1], bounds[36]), (37, 256, 384, 1 << 26));
    assert!(bounds.iter().all(|us| lower_bound_us(bucket_of(*us)) == *us));
    assert!(bounds.is_sorted());
}

#[test]
fn seconds_are_written_exactly() {
    let cases = [(0, "0"), (256, "0.000256"), (1_500_000, "1.5"), (67_108_864, "67.108864"), (20_000_000, "20")];
    for (us, text) in cases {
        assert_eq!(seconds(us), text);
    }
}

#[test]
fn every_sample_is_counted_at_or_below_its_bound_and_in_the_end() {
    let mut registry = Registry::new(1);
    let key = SeriesKey::Arm { rollout: "chat".into(), arm: Arm::Canary, route: "api".into() };
    let cells = registry.series(key);
    for us in [100, 255, 256, 300, 1_000_000, 600_000_000] {
        cells.of(0).unwrap().first_byte.record(us);
        cells.of(0).unwrap().first_byte_us.add(us);
    }
    let text = render(&registry, &Collector::default(), &[]);
    let has = |line: &str| assert!(text.contains(line), "{line} in\n{text}");
    has("weir_request_duration_seconds_bucket{rollout=\"chat\",arm=\"canary\",le=\"0.000256\"} 2\n");
    has("weir_request_duration_seconds_bucket{rollout=\"chat\",arm=\"canary\",le=\"0.000384\"} 4\n");
    has("weir_request_duration_seconds_bucket{rollout=\"chat\",arm=\"canary\",le=\"67.108864\"} 5\n");
    has("weir_request_duration_seconds_bucket{rollout=\"chat\",arm=\"canary\",le=\"+Inf\"} 6\n");
    has("weir_request_duration_seconds_count{rollout=\"chat\",arm=\"canary\"} 6\n");
    has("weir_request_duration_seconds_sum{rollout=\"chat\",arm=\"canary\"} 601.000911\n");
}

#[test]
fn requests_are_told_by_route_and_class_and_without_a_rollout_as_stable() {
    let mut registry = Registry::new(2);
    let plain = registry.series(SeriesKey::Plain { route: "a\"b\\c\nd".into() });
    for worker in plain.iter() {
        worker.started.add(2);
        worker.ended.add(1);
        worker.codes[CodeClass::Success as usize].add(1);
    }
    let text = render(&registry, &Collector::default(), &[]);
    let labels = "rollout=\"\",arm=\"stable\",route=\"a\\\"b\\\\c\\nd\",code=\"2xx\"";
    assert!(text.contains(&format!("weir_requests_total{{{labels}}} 2\n")), "{text}");
    assert!(text.contains("weir_requests_in_flight{rollout=\"\",arm=\"stable\"} 2\n"), "{text}");
}

#[test]
fn every_family_has_help_and_type_and_a_state_is_one_of_all() {
    let mut registry = Registry::new(1);
    let probes = registry.series(SeriesKey::Probe { rollout: "chat".into() });
    probes.of(0).unwrap().codes[CodeClass::Server as usize].add(3);
    let stand = Stand {
        rollout: "chat".into(),
        state: State::Running,
        weight: Weight::from_ppm(125_000).unwrap(),
        breaker: breaker::State::HalfOpen,
        tripped: [1, 2, 0, 0, 0],
        stages: (vec!["one".into(), "two".into()], Some("two".into())),
        killed: true,
        gates: vec![
            ("p95 < 1s".into(), 1, Sides { value: Some(0.25), limit: Some(1.0) }),
            ("p95 < 1s".into(), -1, Sides { value: Some(1.5), limit: Some(1.0) }),
            ("rps > 1".into(), 0, Sides::default()),
        ],
        triggers: vec![
            ("errors".into(), 2, Sides { value: Some(0.34), limit: Some(0.05) }),
            ("slow".into(), 0, Sides::default()),
        ],
    };
    registry.gauge(GaugeKey::Blocked("chat".into())).of(0).unwrap().add(4);
    let text = render(&registry, &Collector::default(), &[stand]);
    assert!(text.contains("weir_rollout_weight_ratio{rollout=\"chat\"} 0.125\n"), "{text}");
    assert!(text.contains("weir_rollout_state{rollout=\"chat\",state=\"running\"} 1\n"), "{text}");
    assert!(text.contains("weir_rollout_state{rollout=\"chat\",state=\"pending\"} 0\n"), "{text}");
    assert!(text.contains("weir_breaker_state{rollout=\"chat\"} 1\n"), "{text}");
    assert!(text.contains("weir_breaker_trips_total{rollout=\"chat\",reason=\"error_rate\"} 2\n"), "{text}");
    assert!(text.contains("weir_breaker_trips_total{rollout=\"chat\",reason=\"no_answer\"} 0\n"), "{text}");
    assert!(text.contains("weir_probe_requests_total{rollout=\"chat\",code=\"5xx\"} 3\n"), "{text}");
    for line in [
        "weir_rollout_stage{rollout=\"chat\",stage=\"one\"} 0\n",
        "weir_rollout_stage{rollout=\"chat\",stage=\"two\"} 1\n",
        "weir_gate_verdict{rollout=\"chat\",gate=\"p95 < 1s\"} 1\n",
        "weir_gate_verdict{rollout=\"chat\",gate=\"p95 < 1s (2)\"} -1\n",
        "weir_gate_verdict{rollout=\"chat\",gate=\"rps > 1\"} 0\n",
        "weir_trigger_state{rollout=\"chat\",trigger=\"errors\"} 2\n",
        "weir_trigger_state{rollout=\"chat\",trigger=\"slow\"} 0\n",
        "weir_gate_value{rollout=\"chat\",gate=\"p95 < 1s (2)\"} 1.5\n",
        "weir_gate_limit{rollout=\"chat\",gate=\"p95 < 1s\"} 1\n",
        "weir_trigger_value{rollout=\"chat\",trigger=\"errors\"} 0.34\n",
        "weir_trigger_limit{rollout=\"chat\",trigger=\"errors\"} 0.05\n",
        "weir_rollout_killed{rollout=\"chat\"} 1\n",
        "weir_blocked_total{rollout=\"chat\"} 4\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("weir_trigger_value{rollout=\"chat\",trigger=\"slow\"}"), "no data is no number");
    assert!(!text.contains("weir_gate_limit{rollout=\"chat\",gate=\"rps > 1\"}"), "no data is no number");
    let canary = "weir_requests_total{rollout=\"chat\",arm=\"canary\"";
    assert!(!text.contains(canary), "probes are not among an arm's requests");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
        assert!(text.contains(&format!("# HELP {family} ")) && text.contains(&format!("# TYPE {family} ")), "{name}");
    }
}
