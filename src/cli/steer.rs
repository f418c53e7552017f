//! `weir pause`, `resume`, `promote`, `rollback`, `approve`: a person's word on a plan, and how it stands after that.

use super::args::{Global, Promote, Rollback, Steer};
use super::console::Console;
use super::operate::{origin, path};
use super::plan;
use super::render;
use super::stop::Outcome;
use crate::admin::view;
use serde_json::{Map, Value};

/// `weir pause`.
pub fn pause(console: &mut Console, global: &Global, arguments: &Steer) -> Outcome {
    steer(console, global, "pause", arguments)
}

/// `weir resume`.
pub fn resume(console: &mut Console, global: &Global, arguments: &Steer) -> Outcome {
    steer(console, global, "resume", arguments)
}

/// `weir approve`.
pub fn approve(console: &mut Console, global: &Global, arguments: &Steer) -> Outcome {
    steer(console, global, "approve", arguments)
}

/// `weir promote`.
pub fn promote(console: &mut Console, global: &Global, arguments: &Promote) -> Outcome {
    let mut body = origin(console, &arguments.note);
    for (name, wanted) in [("force", arguments.force), ("full", arguments.full)] {
        if wanted {
            body.insert(name.to_owned(), true.into());
        }
    }
    send(console, global, &arguments.rollout, "promote", body, arguments.cohort.as_deref())
}

/// `weir rollback`.
pub fn rollback(console: &mut Console, global: &Global, arguments: &Rollback) -> Outcome {
    let mut body = origin(console, &arguments.note);
    body.insert("to".to_owned(), arguments.to.word().into());
    send(console, global, &arguments.rollout, "rollback", body, arguments.cohort.as_deref())
}

fn steer(console: &mut Console, global: &Global, verb: &str, arguments: &Steer) -> Outcome {
    let body = origin(console, &arguments.note);
    send(console, global, &arguments.rollout, verb, body, arguments.cohort.as_deref())
}

/// Asks, and says how the rollout, or its cohort, stands now. Whether a cohort makes sense is the API's word.
fn send(
    console: &mut Console,
    global: &Global,
    rollout: &str,
    verb: &str,
    mut body: Map<String, Value>,
    cohort: Option<&str>,
) -> Outcome {
    if let Some(cohort) = cohort {
        body.insert("cohort".to_owned(), cohort.into());
    }
    let answer = console.client(global)?.change(&path(rollout, verb), &body.into())?;
    let rollout: view::Rollout = answer.form()?;
    let name = render::clean(&rollout.name);
    let said = match cohort.map(render::clean) {
        Some(cohort) => {
            format!("{name}: cohort {cohort} is off the canary until `weir revive {name} --cohort {cohort}`")
        }
        None => format!("{name}: {}", plan::stands(&rollout)),
    };
    let note = plan::note(&rollout).unwrap_or_default();
    console.print(global, &answer.text, || Ok(format!("{said}\n{note}")))
}
