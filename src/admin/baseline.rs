//! `GET` and `POST /api/v1/rollouts/{name}/baseline`: what criteria compare with, shown, captured, set by hand or imported.

use super::api::{Answer, Body, Name, json, path, refused};
use super::body::Fields;
use super::failure::Failure;
use crate::control::{Baselines, Handle, Rebase};
use crate::rollout::course::{Captured, recorded};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The answer of both, and what `import` takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Form {
    /// The rollout.
    pub rollout: String,
    /// What `baseline` in criteria means; null if nothing was recorded.
    pub baseline: Option<Both>,
    /// What was recorded of each stage that has ended: `stage(NAME)` in criteria.
    pub stages: BTreeMap<String, Both>,
    /// What makes a change doubtful.
    pub warnings: Vec<String>,
}

/// Both arms, by metric as criteria name it: `p95`, `error_rate{api}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Both {
    /// The legacy side.
    pub stable: BTreeMap<String, Recorded>,
    /// The new side.
    pub canary: BTreeMap<String, Recorded>,
}

/// One value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// In `unit`.
    pub value: f64,
    /// `ratio`, `ms`, `bytes`; empty for a plain number and for what a query said.
    #[serde(default)]
    pub unit: String,
    /// Of how many requests or reports; 0 if it was set by hand.
    #[serde(default)]
    pub samples: u64,
}

/// Shows it.
pub async fn get(State(handle): State<Handle>, name: Name) -> Answer {
    let name = path(name)?;
    answer(&handle, &name, handle.baselines(&name).await)
}

/// Changes it: `capture` takes what the present stage measured so far, `set` some values by hand, both in addition to what is
/// there; `import` takes the place of it all.
pub async fn post(State(handle): State<Handle>, name: Name, body: Body) -> Answer {
    let (name, mut fields) = (path(name)?, Fields::parse(&body?)?);
    let capture = fields.flag("capture")?;
    let (set, import) = (fields.object("set")?, fields.object("import")?);
    let origin = fields.origin()?;
    fields.end()?;
    let change = match (capture, set, import) {
        (true, None, None) => Rebase::Capture,
        (false, Some(set), None) => Rebase::Set(by_hand(set)?),
        (false, None, Some(import)) => Rebase::Import(imported(import)?),
        _ => return Err(Failure::field("capture", "give one of `capture`, `set` and `import`")),
    };
    answer(&handle, &name, handle.rebase(&name, change, origin).await)
}

fn answer(handle: &Handle, name: &str, baselines: Result<Baselines, crate::control::Denied>) -> Answer {
    match baselines {
        Ok(baselines) => json(&Form::of(name, &baselines)),
        Err(denied) => Err(refused(handle, name, None, denied)),
    }
}

/// Names with values as they are written in criteria.
fn by_hand(set: Map<String, Value>) -> Result<Captured, Failure> {
    let wrong = |message: String| Failure::field("set", message);
    let mut all = Captured::default();
    for (name, value) in &set {
        let Value::String(text) = value else {
            return Err(wrong(format!("`{name}`: give a text with its unit, like \"150ms\"")));
        };
        all.values.extend(recorded::written(name, text).map_err(wrong)?.values);
    }
    if all.values.is_empty() {
        return Err(wrong("`set` holds no values; give some like {\"stable p95\": \"150ms\"}".to_owned()));
    }
    Ok(all)
}

/// The baseline of an answer to `get`.
fn imported(import: Map<String, Value>) -> Result<Captured, Failure> {
    let wrong = |message: String| Failure::field("import", message);
    let form: Form = serde_json::from_value(import.into()).map_err(|error| wrong(format!("`import`: {error}")))?;
    let both = form.baseline.unwrap_or_default();
    let mut all = Captured::default();
    for (arm, values) in [("stable", both.stable), ("canary", both.canary)] {
        for (metric, Recorded { value, unit, samples }) in values {
            let name = format!("{arm} {metric}");
            let read = recorded::plain(&name, value, samples).map_err(wrong)?;
            let held = recorded::unit(&name);
            if !unit.is_empty() && unit != held {
                let held = if held.is_empty() { "a plain number" } else { held };
                return Err(wrong(format!("`{name}` is held as {held}, not in `{unit}`")));
            }
            all.values.extend(read.values);
        }
    }
    if all.values.is_empty() {
        return Err(wrong("`import` holds no values under `baseline`".to_owned()));
    }
    Ok(all)
}

impl Form {
    fn of(rollout: &str, baselines: &Baselines) -> Form {
        let captures = &baselines.captures;
        let stages = captures.iter().filter(|(stage, _)| !stage.is_empty());
        Form {
            rollout: rollout.to_owned(),
            baseline: captures.get("").filter(|captured| !captured.values.is_empty()).map(Both::of),
            stages: stages.map(|(stage, captured)| (stage.to_string(), Both::of(captured))).collect(),
            warnings: baselines.warnings.clone(),
        }
    }
}

impl Both {
    fn of(captured: &Captured) -> Both {
        let arm = |arm: &str| {
            let value = |(name, (value, samples)): (&String, &(f64, u64))| {
                let metric = name.strip_prefix(arm)?.strip_prefix(' ')?;
                let unit = recorded::unit(name).to_owned();
                Some((metric.to_owned(), Recorded { value: *value, unit, samples: *samples }))
            };
            captured.values.iter().filter_map(value).collect()
        };
        Both { stable: arm("stable"), canary: arm("canary") }
    }
}
