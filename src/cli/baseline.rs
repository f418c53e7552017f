//! `weir baseline`: what criteria compare with, shown, captured, imported or set by hand.

use super::args::{Baseline, Global};
use super::console::Console;
use super::operate::{origin, path};
use super::render::{self, DASH, Paint, Table, Tone};
use super::stages::value;
use super::stop::{Outcome, Stop};
use crate::admin::baseline::{Form, Recorded};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::Path;

/// Shows it, or changes it and shows it then.
pub fn run(console: &mut Console, global: &Global, arguments: &Baseline) -> Outcome {
    let path = path(&arguments.rollout, "baseline");
    let change = change(console, arguments)?;
    let client = console.client(global)?;
    let answer = match change {
        None => client.ask(&path)?,
        Some(body) => client.change(&path, &body.into())?,
    };
    let form: Form = answer.form()?;
    let (paint, alarm) = (console.paint(global), console.paint_errors(global.color).tone(Tone::Yellow, "warning:"));
    for warning in &form.warnings {
        writeln!(console.err, "{alarm} {}", render::clean(warning))?;
    }
    console.print(global, &answer.text, || Ok(text(&form, paint)))
}

/// What to ask for; nothing to show only.
fn change(console: &Console, arguments: &Baseline) -> Result<Option<Map<String, Value>>, Stop> {
    let mut body = origin(console, &arguments.note);
    if arguments.capture {
        body.insert("capture".to_owned(), true.into());
    } else if let Some(file) = &arguments.import {
        body.insert("import".to_owned(), import(file)?);
    } else if !arguments.set.is_empty() {
        let mut set = Map::new();
        for (name, value) in &arguments.set {
            if set.insert(name.clone(), value.as_str().into()).is_some() {
                return Err(Stop::Usage(format!("`{name}` is set twice")));
            }
        }
        body.insert("set".to_owned(), set.into());
    } else {
        return Ok(None);
    }
    Ok(Some(body))
}

/// The baseline of a file as `weir baseline -o json` prints it; the records of stages stay where they were made.
fn import(file: &Path) -> Result<Value, Stop> {
    let wrong = |what: String| Stop::Usage(format!("{}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let mut whole: Value = serde_json::from_str(&text).map_err(|error| wrong(format!("no JSON: {error}")))?;
    match whole.get_mut("baseline").map(Value::take) {
        Some(baseline @ Value::Object(_)) => Ok(json!({ "baseline": baseline })),
        _ => Err(wrong("there is no `baseline` in it; `weir baseline ROLLOUT -o json` writes such a file".to_owned())),
    }
}

/// The baseline with both arms side by side, then which stages have a record.
fn text(form: &Form, paint: Paint) -> String {
    let name = render::clean(&form.rollout);
    let mut text = match &form.baseline {
        None => format!("{name}: no baseline\n"),
        Some(both) => {
            let mut table = Table::new("<>>>>");
            table.head(["baseline", "stable", "samples", "canary", "samples"]);
            let metrics: BTreeSet<&String> = both.stable.keys().chain(both.canary.keys()).collect();
            for metric in metrics {
                let (stable, canary) = (cells(both.stable.get(metric)), cells(both.canary.get(metric)));
                table.row([metric.clone(), stable.0, stable.1, canary.0, canary.1]);
            }
            table.print(paint)
        }
    };
    if !form.stages.is_empty() {
        let stages: Vec<String> = form.stages.keys().map(|stage| render::clean(stage)).collect();
        text.push_str(&format!("recorded at the end of: {}\n", stages.join(", ")));
    }
    text
}

fn cells(recorded: Option<&Recorded>) -> (String, String) {
    let Some(Recorded { value: of, unit, samples }) = recorded else { return (DASH.to_owned(), DASH.to_owned()) };
    let samples = if *samples == 0 { "by hand".to_owned() } else { render::count(*samples) };
    (value(Some(*of), unit), samples)
}
