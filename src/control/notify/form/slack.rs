//! A Slack message that is read at one glance: what happened, why, who, and both arms' numbers.

use super::{Happened, Severity, shortened};
use serde::Serialize;
use serde_json::Value;

/// What an incoming webhook of Slack takes.
#[derive(Debug, Serialize)]
pub struct Message {
    /// Everything.
    pub text: String,
}

/// The message of an event that `actor` caused.
pub fn message(happened: &Happened<'_>, actor: &str) -> Message {
    let mark = match Severity::of(happened.event) {
        Severity::Critical => ":red_circle:",
        Severity::Warning => ":large_yellow_circle:",
        Severity::Info => ":large_green_circle:",
    };
    let mut lines = vec![format!("{mark} *{}*", escaped(&happened.headline()))];
    if !happened.reason.is_empty() {
        lines.push(escaped(happened.reason));
    }
    let numbers = ["canary", "stable"].into_iter().filter_map(|arm| of_arm(arm, &happened.numbers));
    let by = (!actor.is_empty()).then(|| format!("by {}", escaped(actor)));
    let last: Vec<String> = by.into_iter().chain([happened.time.clone()]).chain(numbers).collect();
    lines.push(last.join(" · "));
    Message { text: lines.join("\n") }
}

/// `canary 17 of 50 failed, p95 12.5ms`; nothing of an arm without requests.
fn of_arm(arm: &str, numbers: &Value) -> Option<String> {
    let numbers = numbers.get(arm)?;
    let count = |name: &str| numbers.get(name).and_then(Value::as_u64);
    let requests = count("requests").filter(|requests| *requests > 0)?;
    let p95 = numbers.get("p95_ms").and_then(Value::as_f64).map_or(String::new(), |p95| format!(", p95 {p95}ms"));
    Some(format!("{arm} {} of {requests} failed{p95}", count("errors").unwrap_or(0)))
}

/// As Slack wants text: its three special characters as entities, and not without end.
fn escaped(text: &str) -> String {
    shortened(text, CHARS_MAX).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Of one part; Slack cuts a message at 40,000 characters, and nobody reads so many.
const CHARS_MAX: usize = 2000;
