//! Alerts for an Alertmanager, as its API (version 2) takes them.
//!
//! What lasts until something else happens (a trip, a kill, a rollback, a pause, a wait) is an alert that stays; what ends it
//! posts the same labels again with an end. What only happens (a stage, the end of a plan, an alert of a trigger) is an alert that
//! ends by itself.

use super::{Happened, Severity, shortened};
use crate::clock::Wall;
use serde::Serialize;
use std::time::Duration;

/// One alert.
#[derive(Debug, PartialEq, Serialize)]
pub struct Alert {
    labels: Labels,
    annotations: Annotations,
    /// Left out where an alert ends: it keeps the start that it had.
    #[serde(rename = "startsAt", skip_serializing_if = "Option::is_none")]
    starts_at: Option<String>,
    #[serde(rename = "endsAt")]
    ends_at: String,
}

/// What makes an alert the one that it is.
#[derive(Debug, PartialEq, Serialize)]
struct Labels {
    alertname: String,
    event: String,
    rollout: String,
    severity: &'static str,
}

#[derive(Debug, PartialEq, Serialize)]
struct Annotations {
    summary: String,
    description: String,
}

/// The alerts of an event that happened at `time`, told at `now`.
pub fn alerts(happened: &Happened<'_>, time: Wall, now: Wall) -> Vec<Alert> {
    let own = lasts(happened.event).map(|span| Alert {
        labels: labels(happened, happened.event),
        annotations: annotations(happened),
        starts_at: Some(time.to_string()),
        // An Alertmanager passes over what has ended already: what is told late lasts from then on.
        ends_at: later(time.max(now), span).to_string(),
    });
    let ended = ends(happened.event).iter().map(|event| Alert {
        labels: labels(happened, event),
        annotations: annotations(happened),
        starts_at: None,
        ends_at: time.to_string(),
    });
    own.into_iter().chain(ended).collect()
}

/// How long an event's own alert lasts unless something ends it; none for what only ends others.
fn lasts(event: &str) -> Option<Duration> {
    match event {
        "trip" | "kill" | "rollback" | "escalate" | "pause" | "approval" => Some(STANDING),
        "alert" => Some(LOOKED_AT),
        "stage" | "complete" => Some(MOMENT),
        _ => None,
    }
}

/// The alerts that an event ends.
fn ends(event: &str) -> &'static [&'static str] {
    match event {
        "recover" => &["trip"],
        "resume" => &["pause", "rollback"],
        "revive" => &["kill", "trip", "rollback", "escalate", "pause"],
        "stage" | "complete" => &["approval", "pause", "rollback", "escalate"],
        "rollback" => &["approval", "pause"],
        "pause" => &["approval"],
        _ => &[],
    }
}

fn labels(happened: &Happened<'_>, event: &str) -> Labels {
    let mut name = String::from("Weir");
    let mut letters = event.chars();
    name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
    name.extend(letters);
    Labels {
        alertname: name,
        event: event.to_owned(),
        rollout: happened.rollout.unwrap_or_default().to_owned(),
        severity: Severity::of(event).word(),
    }
}

fn annotations(happened: &Happened<'_>) -> Annotations {
    Annotations { summary: happened.headline(), description: shortened(happened.reason, CHARS_MAX) }
}

fn later(time: Wall, span: Duration) -> Wall {
    Wall::from_millis(time.as_millis().saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

/// Until something ends it; by itself after a week, in case that was never heard of.
const STANDING: Duration = Duration::from_secs(7 * 24 * 3600);
/// A trigger that only alerts says nothing when it is quiet again.
const LOOKED_AT: Duration = Duration::from_secs(3600);
/// Long enough for an Alertmanager to pass it on.
const MOMENT: Duration = Duration::from_secs(300);
/// Of a reason.
const CHARS_MAX: usize = 4000;
