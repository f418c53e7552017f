//! `weir events`: the audit trail, the latest entries or all after an id, and on request whatever follows.

use super::args::{Events, Global, Output};
use super::client::Client;
use super::console::Console;
use super::contact::{Heard, Link};
use super::render::{self, Paint, Tone};
use super::stop::{Outcome, Stop};
use crate::admin::view;
use crate::clock::Clock;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

/// Prints what is there, then, with `--follow`, what comes until Ctrl-C.
pub fn run(console: &mut Console, global: &Global, arguments: &Events) -> Outcome {
    let client = console.client(global)?;
    let paint = console.paint(global);
    let mut latest = VecDeque::new();
    let mut next = arguments.since.unwrap_or(0);
    loop {
        let page = page(&client, next)?;
        let (full, moved) = (page.events.len() >= PAGE, page.next != next);
        next = page.next;
        match arguments.since {
            Some(_) => print(console, global, paint, page.events.iter())?,
            None => {
                latest.extend(page.events);
                latest.drain(..latest.len().saturating_sub(arguments.limit));
            }
        }
        if !full || !moved {
            break;
        }
    }
    print(console, global, paint, latest.iter())?;
    if !arguments.follow {
        return Ok(());
    }
    follow(console, global, &client, next)
}

/// Prints what comes after that id, across restarts of weir: it goes on where it was. The loss and the return are told on
/// standard error.
fn follow(console: &mut Console, global: &Global, client: &Client, mut next: u64) -> Outcome {
    let (paint, clock, mut link) = (console.paint(global), Clock::system(), Link::default());
    // It has answered before this.
    link.hear(Ok(()), clock.wall())?;
    loop {
        client.pause(FOLLOW_PERIOD);
        // Until it is back the last one is asked for too: a trail that does not have it is another one.
        let from = if link.is_away() { next.saturating_sub(1) } else { next };
        match link.hear(page(client, from), clock.wall())? {
            Heard::Answer { back: true, answer } if answer.events.is_empty() && next > 0 => {
                writeln!(console.err, "weir answers again, with a new audit trail: from its beginning")?;
                next = 0;
            }
            Heard::Answer { answer, back } => {
                if back {
                    writeln!(console.err, "weir answers again")?;
                }
                print(console, global, paint, answer.events.iter().filter(|event| event.id > next))?;
                next = answer.next;
            }
            Heard::Nothing { away, new: true } => writeln!(console.err, "{}; going on when it is back", away.line())?,
            Heard::Nothing { new: false, .. } => {}
        }
    }
}

fn page(client: &Client, since: u64) -> Result<view::Events, Stop> {
    client.ask(&format!("/api/v1/events?since={since}&limit={PAGE}"))?.form()
}

fn print<'a>(
    console: &mut Console,
    global: &Global,
    paint: Paint,
    events: impl Iterator<Item = &'a view::Event>,
) -> Outcome {
    for event in events {
        let text = match global.output {
            Output::Json => serde_json::to_string(event).map_err(std::io::Error::from)?,
            Output::Text => line(event, paint),
        };
        console.line(&text)?;
    }
    Ok(console.out.flush()?)
}

/// One entry on one line: its id, when, and what happened.
fn line(event: &view::Event, paint: Paint) -> String {
    let when = format!("{:>5} {}", event.id, render::clean(&event.time));
    format!("{}  {}", paint.tone(Tone::Dim, &when), what(event, paint))
}

/// What happened, to which rollout, old and new, who and why.
pub fn what(event: &view::Event, paint: Paint) -> String {
    let tone = match event.kind.as_str() {
        "kill" | "rollback" | "trip" | "reload_failed" => Tone::Red,
        "alert" | "pause" | "escalate" => Tone::Yellow,
        _ => Tone::Bold,
    };
    let mut text = format!(
        "{}  {}",
        paint.tone(tone, &format!("{:<13}", render::clean(&event.kind))),
        render::clean(event.rollout.as_deref().unwrap_or(render::DASH)),
    );
    // It is the same before and after, so it would not show among the changes.
    if let Some(cohort) = event.new.get("cohort").and_then(Value::as_str) {
        text.push_str(&format!(" cohort {}", render::clean(cohort)));
    }
    let changes = changes(&event.old, &event.new);
    if !changes.is_empty() {
        text.push_str(&format!("  {changes}"));
    }
    text.push_str(&format!("  by {}", render::clean(&event.actor)));
    if !event.reason.is_empty() {
        text.push_str(&format!(": {}", render::clean(&event.reason)));
    }
    text
}

/// The fields that differ, as `name old -> new`; fields that did not change are left out.
fn changes(old: &Value, new: &Value) -> String {
    let Value::Object(new) = new else { return String::new() };
    let mut parts = Vec::new();
    for (name, after) in new.iter().filter(|(name, _)| *name != "cohort") {
        match old.get(name) {
            _ if after.as_array().is_some_and(Vec::is_empty) => {}
            Some(before) if before == after => {}
            Some(before) => {
                parts.push(format!("{} {} -> {}", label(name), show(name, before), show(name, after)));
            }
            None => parts.push(format!("{} {}", label(name), show(name, after))),
        }
    }
    render::clean(&parts.join(", "))
}

fn label(name: &str) -> &str {
    name.strip_suffix("_ppm").unwrap_or(name)
}

fn show(name: &str, value: &Value) -> String {
    match value {
        Value::Number(ppm) if name.ends_with("_ppm") => {
            ppm.as_u64().and_then(|ppm| u32::try_from(ppm).ok()).map_or_else(|| ppm.to_string(), render::share)
        }
        // Problems come with the offending line; this is one line itself.
        Value::String(text) => text.lines().next().unwrap_or_default().to_owned(),
        Value::Array(items) => {
            let mut shown: Vec<String> = items.iter().take(ITEMS_SHOWN_MAX).map(|item| show("", item)).collect();
            if let Some(more) = items.len().checked_sub(ITEMS_SHOWN_MAX).filter(|more| *more > 0) {
                shown.push(format!("and {more} more"));
            }
            shown.join("; ")
        }
        other => other.to_string(),
    }
}

/// As many as the API gives at once.
const PAGE: usize = 1000;
/// Of a long list; `-o json` has all of it.
const ITEMS_SHOWN_MAX: usize = 5;
const FOLLOW_PERIOD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_is_one_line_that_says_what_changed() {
        let event = |old: Value, new: Value, reason: &str| view::Event {
            id: 12,
            time: "2026-03-01T12:00:00.250Z".to_owned(),
            rollout: Some("chat".to_owned()),
            kind: "weight".to_owned(),
            actor: "ada".to_owned(),
            reason: reason.to_owned(),
            old,
            new,
            numbers: Value::Null,
        };
        let old = json!({"state": "running", "weight_ppm": 100_000});
        let new = json!({"state": "running", "weight_ppm": 255_000});
        assert_eq!(
            line(&event(old, new, "flat p95\n\x1b[2J"), Paint::default()),
            "   12 2026-03-01T12:00:00.250Z  weight         chat  weight 10% -> 25.5%  by ada: flat p95\u{fffd}\u{fffd}[2J"
        );
        assert_eq!(
            line(&event(Value::Null, json!({"changes": ["a", "b"], "needs_restart": []}), ""), Paint::default()),
            "   12 2026-03-01T12:00:00.250Z  weight         chat  changes a; b  by ada"
        );
        let switch = |killed: bool| json!({"cohort": "internal", "enabled": true, "killed": killed});
        assert_eq!(
            line(&event(switch(false), switch(true), ""), Paint::default()),
            "   12 2026-03-01T12:00:00.250Z  weight         chat cohort internal  killed false -> true  by ada"
        );
        let problem = "f.toml:3:1: unknown key\n     3 | k = 1\n       | ^";
        let problems = json!({ "problems": vec![problem; 7] });
        let shown = line(&event(Value::Null, problems, ""), Paint::default());
        assert!(shown.contains("chat  problems f.toml:3:1: unknown key; f.toml") && shown.contains("; and 2 more  by"));
        assert!(!shown.contains('|'), "{shown}");
    }
}
