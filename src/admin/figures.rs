//! Which charts show the course of a rollout: the same on the page and in the report.

use super::chart::{Chart, Line, Mark, Unit};
use super::report::time;
use super::view::Event;
use super::view::review::{Point, PointArm};
use serde_json::Value;

/// The charts of these points, of which one is `point_s` seconds long, with marks for what happened; those with nothing to show
/// left out.
pub fn figures(points: &[Point], point_s: f64, events: &[Event]) -> Vec<Chart<'static>> {
    let times: Vec<u64> = points.iter().map(|point| millis(&point.at)).collect();
    let (Some(first), Some(last)) = (times.first(), times.last()) else { return Vec::new() };
    let (span_ms, marks) = ((point_s * 1000.0) as u64, marks(events));
    let of = |name, class, value: &dyn Fn(&Point) -> Option<f64>| Line {
        name,
        class,
        steps: false,
        points: times.iter().zip(points).map(|(at, point)| (*at, value(point))).collect(),
    };
    let chart = |id, title, unit, lines: Vec<Line<'static>>| {
        let mut chart = Chart { id, title, unit, lines, marks: marks.clone(), ..Chart::default() };
        (chart.from_ms, chart.to_ms, chart.gap_ms) = (first.saturating_sub(span_ms), *last, span_ms * 5 / 2);
        chart.description = describe(&chart);
        chart
    };
    let rate = |arm: &PointArm| (arm.requests > 0).then(|| arm.errors as f64 / arm.requests as f64);
    let arms = |value: fn(&PointArm) -> Option<f64>| {
        vec![
            of("stable", "stable", &move |point| value(&point.stable)),
            of("canary", "canary", &move |point| value(&point.canary)),
        ]
    };
    let weight = |point: &Point| Some(f64::from(point.weight_ppm) / 1e6);
    let mut figures = vec![
        chart("rps", "Requests per second", Unit::Plain, arms(|arm| Some(arm.rps))),
        chart("errors", "Error rate", Unit::Share, arms(rate)),
        chart("p50", "p50 to the first byte", Unit::Milliseconds, arms(|arm| arm.p50_ms)),
        chart("p95", "p95 to the first byte", Unit::Milliseconds, arms(|arm| arm.p95_ms)),
        chart("p99", "p99 to the first byte", Unit::Milliseconds, arms(|arm| arm.p99_ms)),
        chart("in-flight", "Requests in flight", Unit::Plain, arms(|arm| Some(arm.in_flight as f64))),
        chart("weight", "Weight in force", Unit::Share, vec![Line { steps: true, ..of("weight", "weight", &weight) }]),
    ];
    figures.retain(|chart| !chart.is_empty());
    figures
}

/// Changes of stage, trips and rollbacks.
fn marks(events: &[Event]) -> Vec<Mark> {
    let class = |kind: &str| match kind {
        "stage" | "complete" => Some("stage"),
        "trip" | "kill" => Some("trip"),
        "rollback" => Some("rollback"),
        _ => None,
    };
    let mark = |event: &Event| {
        let stage = event.new.get("stage").and_then(Value::as_str).unwrap_or_default();
        Some(Mark {
            at_ms: millis(&event.time),
            class: class(&event.kind)?,
            text: format!("{} {} {stage}: {}", time(&event.time), event.kind, event.reason),
            label: if event.kind == "stage" { stage.to_owned() } else { event.kind.clone() },
        })
    };
    events.iter().filter_map(mark).collect()
}

/// What a chart shows, in words.
fn describe(chart: &Chart<'_>) -> String {
    let line = |line: &Line<'_>| {
        let values: Vec<f64> = line.points.iter().filter_map(|(_, value)| *value).collect();
        let last = values.last()?;
        let (least, most) =
            values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
        let step = if most > 0.0 { (most / 100.0).max(1e-4) } else { 1.0 };
        let text = |value: f64| chart.unit.text(value, step);
        Some(format!("{}: from {} to {}, last {}", line.name, text(least), text(most), text(*last)))
    };
    let lines: Vec<String> = chart.lines.iter().filter_map(line).collect();
    lines.join("; ") + "."
}

/// The milliseconds of a time that this program wrote; 0 for anything else.
fn millis(rfc3339: &str) -> u64 {
    let since = humantime::parse_rfc3339(rfc3339).ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.and_then(|since| u64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
