//! `GET /api/v1/rollouts/{name}/history`: the course of both arms from the stored samples, as numbers and, with `draw=true`, as
//! charts that are worked out, for the page.

use super::api::{Answer, Name, json, path, refused};
use super::body::Query;
use super::chart::Drawing;
use super::failure::Failure;
use super::figures::figures;
use super::view::Event;
use super::view::review::{Point, Review};
use crate::config::units::print_span;
use crate::control::Handle;
use axum::extract::State;
use axum::http::Uri;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The course of a rollout.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// The rollout.
    pub rollout: String,
    /// What was asked for: a span, or `rollout` for all of its time.
    pub range: String,
    /// RFC 3339 in UTC.
    pub since: String,
    /// See `since`.
    pub until: String,
    /// Why numbers are missing, or null.
    pub note: Option<String>,
    /// How long a point is, in seconds.
    pub point_s: f64,
    /// The oldest first; at most some hundreds.
    pub points: Vec<Point>,
    /// The audit trail, the oldest first.
    pub events: Vec<Event>,
    /// Whether older entries are left out.
    pub events_cut: bool,
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    charts: Option<Vec<Drawing>>,
}

/// Answers for `range=15m`, `24h`, any other span, or `rollout`.
pub async fn get(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let (name, query) = (path(name)?, Query::parse(uri.query()));
    let range = query.text("range").unwrap_or("15m").to_owned();
    let span = match range.as_str() {
        "rollout" => None,
        _ => Some(query.span("range", RANGE_DEFAULT, RANGE_MIN, RANGE_MAX).map_err(|_| no_range())?),
    };
    let draw = match query.text("draw") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Failure::field("draw", "`draw` must be true or false")),
    };
    let dossier = handle.review(&name, span).await.map_err(|denied| refused(&handle, &name, None, denied))?;
    let mut review = Review::of(&dossier);
    let charts = draw.then(|| figures(&review.points, review.point_s, &review.events));
    let charts = charts.map(|figures| figures.iter().map(|chart| chart.drawing()).collect());
    let older = review.events.len().saturating_sub(EVENTS_MAX);
    review.events.drain(..older);
    json(&History {
        rollout: review.rollout,
        range,
        since: review.since,
        until: review.until,
        note: review.note,
        point_s: review.point_s,
        points: review.points,
        events_cut: review.events_cut || older > 0,
        events: review.events,
        charts,
    })
}

fn no_range() -> Failure {
    let (min, max) = (print_span(RANGE_MIN), print_span(RANGE_MAX));
    Failure::field("range", format!("`range` must be `rollout`, or a time from {min} to {max} such as `15m` or `24h`"))
}

const RANGE_DEFAULT: Duration = Duration::from_secs(15 * 60);
const RANGE_MIN: Duration = Duration::from_secs(60);
/// As long as the history is kept.
const RANGE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);
/// Entries of the trail, as many as somebody reads.
const EVENTS_MAX: usize = 100;
