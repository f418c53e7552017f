//! `POST /api/v1/signals/{name}`: something happened that no response shows, e.g. an order was placed, and a criterion is to
//! know of it.

use super::api::{Answer, Body, Name, json, path};
use super::body::Fields;
use super::failure::Failure;
use crate::control::Handle;
use crate::control::signals::{Posting, Whose};
use crate::rollout::Arm;
use axum::extract::State;
use serde::Serialize;
use std::collections::BTreeMap;

/// What was counted.
#[derive(Debug, Serialize)]
struct Form {
    signal: String,
    count: u64,
    /// The arm it was counted for, by rollout; `null` where the unit probes the canary, which counts for no arm.
    arms: BTreeMap<String, Option<&'static str>>,
    generation: u64,
}

/// Counts it.
pub async fn post(State(handle): State<Handle>, name: Name, body: Body) -> Answer {
    let (signal, mut fields) = (path(name)?, Fields::parse(&body?)?);
    let (rollout, arm, unit) = (fields.text("rollout")?, fields.text("arm")?, fields.text("unit")?);
    let count = fields.count("count", 1, COUNT_MAX)?;
    fields.end()?;
    let whose = match (arm, unit) {
        (Some(arm), None) => match Arm::from_name(&arm) {
            Some(arm) => Whose::Arm(arm),
            None => return Err(Failure::field("arm", "`arm` must be \"stable\" or \"canary\"")),
        },
        (None, Some(unit)) if unit.trim().is_empty() => return Err(Failure::field("unit", "`unit` is empty")),
        (None, Some(unit)) => Whose::Unit(unit),
        (Some(_), Some(_)) => return Err(Failure::field("unit", "give `arm` or `unit`, not both")),
        (None, None) => {
            return Err(Failure::field("arm", "`arm` is missing; give it, or the `unit` that it happened to"));
        }
    };
    let counted = handle.post_signal(&signal, Posting { rollout, whose, count }).await?;
    let arms = counted.iter().map(|(rollout, arm)| (rollout.to_string(), arm.map(Arm::name))).collect();
    json(&Form { signal, count, arms, generation: handle.published.generation() })
}

/// As often as something may have happened at once.
const COUNT_MAX: u64 = 1_000_000;
