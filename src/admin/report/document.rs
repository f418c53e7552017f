//! What a report says, in which order: headings, paragraphs, lists and tables of plain text. `markdown` and `html` write them.

use super::text::{self, NONE};
use crate::admin::view::review::{ArmSum, Baseline, Difference, Gauge, Incident, Resources, Review, Stayed, Told};
use crate::admin::view::{Event, Field, Gate, Trigger};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A piece of a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Block {
    /// A heading and its level, from 1.
    Heading(u8, String),
    /// A paragraph.
    Text(String),
    /// A list.
    List(Vec<String>),
    /// A table: its name, heads, rows. All columns but the first are numbers where `numbers` says so.
    Table(Table),
    /// The place of the charts.
    Charts,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows, for those who hear it read.
    pub name: String,
    /// Heads of the columns.
    pub heads: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
    /// Whether the columns after the first are numbers.
    pub numbers: bool,
}

/// Entries of the trail that are written out; JSON has all of them.
const TIMELINE_MAX: usize = 200;
/// Fields that are written out, requests whose answers differ, and places in each.
const FIELDS_MAX: usize = 15;
/// See `FIELDS_MAX`.
const EXAMPLES_MAX: usize = 10;
/// See `FIELDS_MAX`.
const DIFFERENCES_MAX: usize = 3;

/// The whole report.
pub fn document(review: &Review) -> Vec<Block> {
    let mut out = Vec::new();
    lead(&mut out, review);
    match review.has_requests() {
        true => {
            heading(&mut out, 2, "Both arms");
            out.push(comparison("Both arms", &review.arms.stable, &review.arms.canary, &review.arms.difference));
            share(&mut out, review);
            out.push(Block::Charts);
            errors(&mut out, review);
        }
        false => {
            out.push(Block::Text("No requests were counted in this time, so there is nothing to compare.".to_owned()))
        }
    }
    stages(&mut out, review);
    gates(&mut out, review);
    answers(&mut out, review);
    triggers(&mut out, review);
    incidents(&mut out, review);
    told(&mut out, "Trips of the breaker", &review.trips);
    told(&mut out, "Approvals", &review.approvals);
    baselines(&mut out, &review.baselines);
    parts(&mut out, review);
    resources(&mut out, review);
    timeline(&mut out, review);
    out
}

fn lead(out: &mut Vec<Block>, review: &Review) {
    heading(out, 1, &format!("{}: report", review.rollout));
    out.push(Block::Text(format!(
        "{} to {} UTC. Numbers begin at {} and cover {} of service.",
        text::time(&review.since),
        text::time(&review.until),
        text::time(&review.began),
        text::span(review.covered_s)
    )));
    let mut facts = vec![format!("State: {}", review.state.replace('_', " "))];
    if let Some(stage) = &review.stage {
        facts.push(format!(
            "Stage: {} ({} of {}), served {} of at least {}",
            stage.name,
            stage.index + 1,
            stage.count,
            text::span(stage.served_s),
            text::span(stage.min_duration_s)
        ));
    }
    facts.push(format!("Weight: {}", text::weight(review.weight_ppm.into())));
    if review.killed {
        facts.push("Killed: everyone is on stable".to_owned());
    }
    if let Some(breaker) = &review.breaker {
        facts.push(format!("Breaker: {} ({} trips)", breaker.state.replace('_', " "), breaker.trips));
    }
    facts.extend(review.state_reason.iter().map(|reason| format!("Why: {reason}")));
    if review.time_scale > 1 {
        facts.push(format!("A rehearsal: the plan runs {} times as fast as written", review.time_scale));
    }
    facts.extend(review.note.iter().map(|note| format!("Numbers are missing: {note}")));
    out.push(Block::List(facts));
}

/// A cell of an arm's column.
type Cell = fn(&ArmSum) -> String;

/// Both arms side by side with the difference.
fn comparison(name: &str, stable: &ArmSum, canary: &ArmSum, difference: &BTreeMap<String, Difference>) -> Block {
    let row =
        |label: &str, of: fn(&ArmSum) -> String, last: String| vec![label.to_owned(), of(stable), of(canary), last];
    let apart = |key: &str| match difference.get(key) {
        None => NONE.to_owned(),
        Some(it) if key == "error_rate" => text::signed(&format!("{:.2} points", it.absolute * 100.0), it.absolute),
        Some(it) => {
            let relative = it.relative.map(|by| text::signed(&format!("{:.1}%", by * 100.0), by));
            let absolute = text::signed(&text::ms(Some(it.absolute)), it.absolute);
            relative.map_or(absolute.clone(), |relative| format!("{absolute} ({relative})"))
        }
    };
    let mut rows = vec![
        row("requests", |arm| text::count(arm.requests), NONE.to_owned()),
        row("requests per second", |arm| format!("{:.1}", arm.rps), NONE.to_owned()),
        row("errors", |arm| text::count(arm.errors), NONE.to_owned()),
        row("error rate", |arm| text::rate(arm.error_rate), apart("error_rate")),
    ];
    let latencies: [(&str, &str, Cell); 9] = [
        ("p50", "p50_ms", |arm| text::ms(arm.p50_ms)),
        ("p75", "p75_ms", |arm| text::ms(arm.p75_ms)),
        ("p90", "p90_ms", |arm| text::ms(arm.p90_ms)),
        ("p95", "p95_ms", |arm| text::ms(arm.p95_ms)),
        ("p99", "p99_ms", |arm| text::ms(arm.p99_ms)),
        ("p999", "p999_ms", |arm| text::ms(arm.p999_ms)),
        ("total p50", "total_p50_ms", |arm| text::ms(arm.total_p50_ms)),
        ("total p95", "total_p95_ms", |arm| text::ms(arm.total_p95_ms)),
        ("total p99", "total_p99_ms", |arm| text::ms(arm.total_p99_ms)),
    ];
    rows.extend(latencies.map(|(label, key, of)| row(label, of, apart(key))));
    table(name, &["", "stable", "canary", "difference"], rows, true)
}

fn share(out: &mut Vec<Block>, review: &Review) {
    let mut said = format!(
        "The canary took {} of the requests; its weight now is {} of the units.",
        text::rate(review.share),
        text::weight(review.weight_ppm.into())
    );
    if review.fallbacks > 0 {
        said.push_str(&format!(
            " Requests that the canary failed and stable answered: {}.",
            text::count(review.fallbacks)
        ));
    }
    if review.diverted > 0 {
        said.push_str(&format!(" The breaker kept {} requests from the canary.", text::count(review.diverted)));
    }
    out.push(Block::Text(said));
}

fn errors(out: &mut Vec<Block>, review: &Review) {
    let (stable, canary) = (&review.arms.stable, &review.arms.canary);
    let both = |name: &str, of: fn(&ArmSum) -> &BTreeMap<String, u64>| {
        let keys: BTreeSet<&String> = of(stable).keys().chain(of(canary).keys()).collect();
        let cell = |arm: &ArmSum, key: &String| text::count(of(arm).get(key).copied().unwrap_or(0));
        let rows = keys.into_iter().map(|key| vec![key.clone(), cell(stable, key), cell(canary, key)]).collect();
        table(name, &[name, "stable", "canary"], rows, true)
    };
    heading(out, 2, "Errors and statuses");
    match stable.errors + canary.errors {
        0 => out.push(Block::Text("Neither arm failed a request.".to_owned())),
        _ => out.push(both("errors by kind", |arm| &arm.errors_by_kind)),
    }
    out.push(both("status", |arm| &arm.codes));
}

fn stages(out: &mut Vec<Block>, review: &Review) {
    if review.stages.iter().all(|stay| stay.stage.is_none()) {
        return;
    }
    let name = |stay: &Stayed| stay.stage.clone().unwrap_or_else(|| NONE.to_owned());
    let at = |time: &Option<String>| time.as_deref().map_or_else(|| NONE.to_owned(), text::time);
    heading(out, 2, "Stages");
    let row = |stay: &Stayed| {
        let why = if stay.why_left.is_empty() { &stay.why_entered } else { &stay.why_left };
        let (left, served) = (at(&stay.left_at), text::span(stay.served_s));
        vec![name(stay), text::weight(stay.weight_ppm.into()), at(&stay.entered_at), left, served, why.clone()]
    };
    let heads = ["stage", "weight", "entered", "left", "served", "why it ended, or began"];
    out.push(table(
        "Stages",
        &heads,
        review.stages.iter().filter(|stay| stay.stage.is_some()).map(row).collect(),
        false,
    ));
    let arm = |stay: &Stayed, label: &str, arm: &ArmSum| {
        let ms = [arm.p50_ms, arm.p75_ms, arm.p90_ms, arm.p95_ms, arm.p99_ms, arm.p999_ms].map(text::ms);
        let mut row = vec![name(stay), label.to_owned(), text::count(arm.requests), text::rate(arm.error_rate)];
        row.push(format!("{:.1}", arm.rps));
        row.extend(ms);
        row
    };
    let rows: Vec<Vec<String>> = review
        .stages
        .iter()
        .filter(|stay| stay.arms.stable.requests + stay.arms.canary.requests > 0)
        .flat_map(|stay| [arm(stay, "stable", &stay.arms.stable), arm(stay, "canary", &stay.arms.canary)])
        .collect();
    if !rows.is_empty() {
        let heads = ["stage", "arm", "requests", "error rate", "rps", "p50", "p75", "p90", "p95", "p99", "p999"];
        out.push(table("Arms by stage", &heads, rows, true));
    }
}

fn gates(out: &mut Vec<Block>, review: &Review) {
    let row = |stage: &str, gate: &Gate| {
        let held = |value| text::held(value, &gate.unit);
        let (value, limit) = (held(gate.value), held(gate.limit));
        vec![stage.to_owned(), gate.when.clone(), gate.verdict.clone(), value, limit, gate.reason.clone()]
    };
    let of = |stay: &Stayed| {
        let stage = stay.stage.clone().unwrap_or_default();
        stay.gates.iter().map(|gate| row(&stage, gate)).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = review.stages.iter().flat_map(of).collect();
    if !rows.is_empty() {
        heading(out, 2, "Gates, as judged at the end of each stage");
        out.push(table("Gates", &["stage", "gate", "verdict", "value", "limit", "why"], rows, false));
    }
}

/// Whether the canary answers copies as stable answers clients: the verdict, where they differ, and who saw it last.
fn answers(out: &mut Vec<Block>, review: &Review) {
    let Some(diff) = &review.diff else { return };
    heading(out, 2, "Answers compared");
    out.push(Block::Text(format!(
        "{}: {}. Judged by {} of {} samples of the present stage and {} of noise; numbers are equal within {}, and {} may differ.",
        diff.verdict.replace('_', " "),
        diff.reason,
        text::count(diff.samples),
        text::count(diff.samples_kept),
        text::count(diff.noise_samples),
        diff.tolerance,
        text::rate(Some(diff.max_diff_rate))
    )));
    let field = |field: &Field| {
        let outlier = field.outlier.clone().unwrap_or_default();
        let (rate, noise) = (text::rate(Some(field.rate)), text::rate(field.noise_rate));
        let left = if field.verdict == "noise" { NONE.to_owned() } else { text::rate(Some(field.rate_without_noise)) };
        vec![
            field.path.clone(),
            field.class.clone(),
            field.verdict.clone(),
            rate,
            noise,
            left,
            outlier.stable,
            outlier.canary,
        ]
    };
    if !diff.fields.is_empty() {
        let heads = ["field", "class", "verdict", "differ", "of noise", "noise taken off", "stable", "canary"];
        out.push(table("Fields that differ", &heads, diff.fields.iter().take(FIELDS_MAX).map(field).collect(), false));
    }
    let rows = diff.examples.iter().take(EXAMPLES_MAX).flat_map(|example| {
        example.differences.iter().take(DIFFERENCES_MAX).map(|told| {
            let request = format!("{} {}", example.method, example.path);
            vec![text::time(&example.time), request, told.path.clone(), told.stable.clone(), told.canary.clone()]
        })
    });
    let rows: Vec<Vec<String>> = rows.collect();
    if !rows.is_empty() {
        out.push(table("Answers that differed last", &["time", "request", "field", "stable", "canary"], rows, false));
    }
}

fn triggers(out: &mut Vec<Block>, review: &Review) {
    if !review.triggers.is_empty() {
        heading(out, 2, "Triggers now");
        out.push(trigger_table(&review.triggers));
    }
    told(out, "Triggers that fired", &review.fired);
}

fn trigger_table(triggers: &[Trigger]) -> Block {
    let row = |trigger: &Trigger| {
        let held = |value| text::held(value, &trigger.unit);
        let action = if trigger.dry_run { format!("{} (dry run)", trigger.action) } else { trigger.action.clone() };
        let (value, limit) = (held(trigger.value), held(trigger.limit));
        vec![trigger.name.clone(), trigger.when.clone(), trigger.state.clone(), value, limit, action]
    };
    let heads = ["trigger", "when", "state", "value", "limit", "action"];
    table("Triggers", &heads, triggers.iter().map(row).collect(), false)
}

fn told(out: &mut Vec<Block>, name: &str, told: &[Told]) {
    if told.is_empty() {
        return;
    }
    let line = |it: &Told| {
        let stage = it.stage.as_ref().map(|stage| format!(" in stage {stage}")).unwrap_or_default();
        let reason = if it.reason.is_empty() { String::new() } else { format!(": {}", it.reason) };
        format!("{}{stage}, by {}{reason}", text::time(&it.time), it.actor)
    };
    heading(out, 2, name);
    out.push(Block::List(told.iter().map(line).collect()));
}

fn incidents(out: &mut Vec<Block>, review: &Review) {
    if review.incidents.is_empty() {
        return;
    }
    heading(out, 2, "Incidents");
    for incident in &review.incidents {
        one_incident(out, incident);
    }
}

fn one_incident(out: &mut Vec<Block>, incident: &Incident) {
    let stage = incident.stage.as_ref().map(|stage| format!(" in stage {stage}")).unwrap_or_default();
    heading(out, 3, &format!("{}: rollback to {}{stage}", text::time(&incident.time), incident.to));
    let mut facts = vec![
        format!("Why: {}", incident.reason),
        format!("By: {}", incident.actor),
        format!(
            "Weight: {} before, {} after",
            text::weight(incident.weight_before_ppm.into()),
            text::weight(incident.weight_after_ppm.into())
        ),
    ];
    facts.extend(incident.trigger.iter().map(|trigger| format!("Trigger: {trigger}")));
    if let Some(recheck) = &incident.recheck {
        let found = incident.recheck_reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        facts.push(format!("Stable afterwards: {recheck}{found}"));
    }
    let resources = resource_rows(&incident.resources);
    facts.extend(resources.into_iter().map(|row| format!("{}: {}", row[0], row[1])));
    out.push(Block::List(facts));
    let row = |window: &str, label: &str, arm: &ArmSum| {
        let kinds: Vec<String> = arm.errors_by_kind.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let kinds = if kinds.is_empty() { NONE.to_owned() } else { kinds.join(", ") };
        let mut row = vec![window.to_owned(), label.to_owned(), text::count(arm.requests), text::rate(arm.error_rate)];
        row.extend([arm.p50_ms, arm.p95_ms, arm.p99_ms].map(text::ms));
        row.push(kinds);
        row
    };
    let rows = incident
        .windows
        .iter()
        .flat_map(|it| [row(&it.window, "stable", &it.stable), row(&it.window, "canary", &it.canary)])
        .collect();
    let heads = ["up to then", "arm", "requests", "error rate", "p50", "p95", "p99", "errors by kind"];
    out.push(table("Both arms before the rollback", &heads, rows, true));
    if !incident.triggers.is_empty() {
        out.push(trigger_table(&incident.triggers));
    }
    let gate = |gate: &Gate| format!("{}: {} ({})", gate.when, gate.verdict, gate.reason);
    if !incident.gates.is_empty() {
        out.push(Block::List(incident.gates.iter().map(gate).collect()));
    }
}

fn baselines(out: &mut Vec<Block>, baselines: &[Baseline]) {
    if baselines.is_empty() {
        return;
    }
    heading(out, 2, "Recorded measurements");
    for baseline in baselines {
        let name = if baseline.stage.is_empty() { "baseline".to_owned() } else { format!("stage {}", baseline.stage) };
        let keys: BTreeSet<&str> = baseline.values.keys().filter_map(|key| Some(key.split_once(' ')?.1)).collect();
        let cell = |arm: &str, key: &str| match baseline.values.get(&format!("{arm} {key}")) {
            Some((value, _)) => text::plain(*value),
            None => NONE.to_owned(),
        };
        let row = |key: &str| vec![key.to_owned(), cell("stable", key), cell("canary", key)];
        let rows = keys.into_iter().map(row).collect();
        out.push(table(&name, &[name.as_str(), "stable", "canary"], rows, true));
    }
}

fn parts(out: &mut Vec<Block>, review: &Review) {
    if review.parts.len() > 2 {
        heading(out, 2, "By route and cohort");
        let rows = review.parts.iter().map(|part| {
            let name = if part.name.is_empty() { part.kind.clone() } else { format!("{} {}", part.kind, part.name) };
            let (requests, p95) = (text::count(part.requests), text::ms(part.p95_ms));
            vec![name, part.arm.clone(), requests, text::rate(part.error_rate), p95]
        });
        out.push(table("By part", &["part", "arm", "requests", "error rate", "p95"], rows.collect(), true));
    }
    let signals = review
        .signals
        .iter()
        .map(|it| vec![format!("signal {}", it.name), it.arm.clone(), text::count(it.count), text::rate(it.rate)]);
    let vitals = review.vitals.iter().map(|it| {
        let value = if it.vital == "cls" { text::plain(it.p75) } else { text::ms(Some(it.p75)) };
        vec![format!("{} p75", it.vital), it.arm.clone(), text::count(it.reports), value]
    });
    let rows: Vec<Vec<String>> = signals.chain(vitals).collect();
    if !rows.is_empty() {
        heading(out, 2, "Signals and web vitals");
        out.push(table("Signals and web vitals", &["what", "arm", "count", "value"], rows, true));
    }
}

fn resources(out: &mut Vec<Block>, review: &Review) {
    let rows = resource_rows(&review.resources);
    if !rows.is_empty() {
        heading(out, 2, "Resources");
        out.push(table("Resources", &["what", "last", "lowest", "highest"], rows, true));
    }
}

fn resource_rows(resources: &Resources) -> Vec<Vec<String>> {
    let row =
        |name: String, gauge: &Gauge, of: fn(f64) -> String| vec![name, of(gauge.last), of(gauge.min), of(gauge.max)];
    let mut rows = Vec::new();
    rows.extend(resources.memory.iter().map(|gauge| row("memory of weir".to_owned(), gauge, text::bytes)));
    if let Some(share) = resources.cpu_share {
        let average = format!("{} of a core on average", text::rate(Some(share)));
        rows.push(vec!["CPU of weir".to_owned(), average, NONE.to_owned(), NONE.to_owned()]);
    }
    rows.extend(resources.queries.iter().map(|(name, gauge)| row(format!("query {name}"), gauge, text::plain)));
    rows
}

fn timeline(out: &mut Vec<Block>, review: &Review) {
    heading(out, 2, "Timeline");
    if review.events.is_empty() {
        return out.push(Block::Text("Nothing was recorded in this time.".to_owned()));
    }
    let skipped = review.events.len().saturating_sub(TIMELINE_MAX);
    if skipped > 0 || review.events_cut {
        out.push(Block::Text(format!("The last {TIMELINE_MAX} entries at most; `weir events` has all of them.")));
    }
    let row = |event: &Event| {
        let (time, reason) = (text::time(&event.time), event.reason.clone());
        vec![time, event.kind.replace('_', " "), change(event), event.actor.clone(), reason]
    };
    let rows = review.events.iter().skip(skipped).map(row).collect();
    out.push(table("Timeline", &["time (UTC)", "what", "change", "by", "why"], rows, false));
}

/// What an entry changed, in a few words.
fn change(event: &Event) -> String {
    let part = |side: &Value, key: &str| match side.get(key) {
        Some(Value::String(text)) => text.replace('_', " "),
        Some(Value::Number(ppm)) if key == "weight_ppm" => text::weight(ppm.as_u64().unwrap_or(0)),
        _ => String::new(),
    };
    let one = |key: &str| {
        let (before, after) = (part(&event.old, key), part(&event.new, key));
        (before != after && !after.is_empty()).then(|| match before.is_empty() {
            true => after,
            false => format!("{before} → {after}"),
        })
    };
    let parts: Vec<String> = ["state", "stage", "weight_ppm", "breaker"].into_iter().filter_map(one).collect();
    if parts.is_empty() { NONE.to_owned() } else { parts.join(", ") }
}

fn heading(out: &mut Vec<Block>, level: u8, text: &str) {
    out.push(Block::Heading(level, text.to_owned()));
}

fn table(name: &str, heads: &[&str], rows: Vec<Vec<String>>, numbers: bool) -> Block {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    Block::Table(Table { name: name.to_owned(), heads, rows, numbers })
}
