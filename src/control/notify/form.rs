//! What a target is sent of an event: the JSON of a webhook, a text for Slack, alerts for an Alertmanager. Pure.

use super::super::store::Told;
use crate::clock::Wall;
use crate::config::NotifyKind;
use crate::rollout::report::Event;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod alerts;
mod slack;

/// The body of the request; none if the event's record cannot be read.
pub fn body(kind: NotifyKind, told: &Told, now: Wall) -> Option<Vec<u8>> {
    let happened = Happened::of(&told.event)?;
    match kind {
        NotifyKind::Webhook => serde_json::to_vec(&happened).ok(),
        NotifyKind::Slack => serde_json::to_vec(&slack::message(&happened, &told.event.actor)).ok(),
        NotifyKind::Alertmanager => serde_json::to_vec(&alerts::alerts(&happened, told.event.time, now)).ok(),
    }
}

/// An event as webhooks are told of it: the contract's form.
#[derive(Debug, Serialize)]
struct Happened<'a> {
    event: &'a str,
    id: u64,
    time: String,
    rollout: Option<&'a str>,
    reason: &'a str,
    old: Option<Stand>,
    new: Option<Stand>,
    /// How far back, of a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    /// The trigger, where one fired.
    #[serde(skip_serializing_if = "Option::is_none")]
    trigger: Option<String>,
    numbers: Value,
}

/// How a rollout stood.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Stand {
    state: String,
    stage: Option<String>,
    weight_ppm: u32,
}

/// What else the trail says of how a rollout stands now.
#[derive(Debug, Default, Deserialize)]
struct Cause {
    to: Option<String>,
    trigger: Option<String>,
}

impl<'a> Happened<'a> {
    fn of(event: &'a Event) -> Option<Happened<'a>> {
        let stand = |text: &str| serde_json::from_str::<Option<Stand>>(text).unwrap_or_default();
        let Cause { to, trigger } = serde_json::from_str::<Option<Cause>>(&event.new).ok()?.unwrap_or_default();
        Some(Happened {
            event: event.kind,
            id: event.id,
            time: event.time.to_string(),
            rollout: event.rollout.as_deref(),
            reason: &event.reason,
            old: stand(&event.old),
            new: stand(&event.new),
            to,
            trigger,
            numbers: serde_json::from_str(&event.numbers).unwrap_or_default(),
        })
    }

    /// The event in one line: `chat rolled back to previous: running in canary-5 at 5% (was running in canary-10 at 10%)`.
    fn headline(&self) -> String {
        let who = self.rollout.unwrap_or("weir");
        let what = match (self.event, self.to.as_deref()) {
            ("stage", _) => "entered a stage".to_owned(),
            ("approval", _) => "waits for approval".to_owned(),
            ("alert", _) => "should be looked at".to_owned(),
            ("pause", _) => "paused".to_owned(),
            ("resume", _) => "goes on".to_owned(),
            ("trip", _) => "was tripped: everything goes to stable".to_owned(),
            ("recover", _) => "recovered: the canary has its share again".to_owned(),
            ("rollback", Some("half")) => "was taken back to half its weight".to_owned(),
            ("rollback", Some("previous")) => "was taken back to the previous stage".to_owned(),
            ("rollback", _) => "was rolled back to stable".to_owned(),
            ("escalate", _) => "was rolled back, and stable is not healthy".to_owned(),
            ("kill", _) => "was killed: everything goes to stable".to_owned(),
            ("revive", _) => "was revived".to_owned(),
            ("complete", _) => "is complete".to_owned(),
            (other, _) => other.to_owned(),
        };
        let Some(new) = &self.new else { return format!("{who} {what}") };
        match self.old.as_ref().filter(|old| *old != new) {
            Some(old) => format!("{who} {what}: {} (was {})", new.words(), old.words()),
            None => format!("{who} {what}: {}", new.words()),
        }
    }
}

impl Stand {
    fn words(&self) -> String {
        let state = self.state.replace('_', " ");
        let stage = self.stage.as_ref().map_or(String::new(), |stage| format!(" in {stage}"));
        format!("{state}{stage} at {}%", f64::from(self.weight_ppm) / 10_000.0)
    }
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Critical,
    Warning,
    Info,
}

impl Severity {
    fn of(event: &str) -> Severity {
        match event {
            "rollback" | "escalate" | "trip" | "kill" => Severity::Critical,
            "approval" | "alert" | "pause" => Severity::Warning,
            _ => Severity::Info,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Severity::Critical => "critical",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
    }
}

/// The start of a text, for those who take only so much.
fn shortened(text: &str, chars_max: usize) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(chars_max).collect();
    if chars.next().is_some() { format!("{start}...") } else { start }
}

#[cfg(test)]
mod tests;
