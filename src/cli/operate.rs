//! `weir weight`, `kill`, `revive`, `reload`: one change each, asked of a running weir, the new state printed.

use super::args::{Global, Kill, Note, Reload, Revive, Weight};
use super::client::{Client, encode};
use super::console::Console;
use super::plan;
use super::render::{self, Tone};
use super::stop::{Outcome, Stop};
use crate::admin::view;
use crate::config::units::print_share;
use serde_json::{Map, Value, json};

/// `weir weight`.
pub fn weight(console: &mut Console, global: &Global, arguments: &Weight) -> Outcome {
    let mut body = origin(console, &arguments.note);
    body.insert("weight".to_owned(), print_share(arguments.weight).into());
    if arguments.force {
        body.insert("force".to_owned(), true.into());
    }
    let client = console.client(global)?;
    let answer = client.change(&path(&arguments.rollout, "weight"), &body.into())?;
    let rollout: view::Rollout = answer.form()?;
    let now = render::share(rollout.weight_ppm);
    let mut said = format!("{}: weight is {now}", render::clean(&rollout.name));
    if rollout.killed {
        let until = if rollout.killed_by_config { "the config says otherwise" } else { "it is revived" };
        said.push_str(&format!("; it is killed, so everyone is on stable until {until}"));
    }
    console.print(global, &answer.text, || Ok(said + "\n"))
}

/// `weir kill`.
pub fn kill(console: &mut Console, global: &Global, arguments: &Kill) -> Outcome {
    let body = origin(console, &arguments.note);
    let client = console.client(global)?;
    match &arguments.rollout {
        Some(rollout) => kill_one(console, global, &client, rollout, arguments.cohort.as_deref(), body),
        None => kill_all(console, global, &client, body),
    }
}

fn kill_one(
    console: &mut Console,
    global: &Global,
    client: &Client,
    rollout: &str,
    cohort: Option<&str>,
    mut body: Map<String, Value>,
) -> Outcome {
    if let Some(cohort) = cohort {
        body.insert("cohort".to_owned(), cohort.into());
    }
    let answer = client.change(&path(rollout, "kill"), &body.into())?;
    let said = match cohort {
        Some(cohort) => format!("{}: cohort {} is off", render::clean(rollout), render::clean(cohort)),
        None => format!("{}: killed, everyone is on stable", render::clean(rollout)),
    };
    console.print(global, &answer.text, || Ok(said + "\n"))
}

/// Goes on after a failure: in an emergency every rollout that can be killed should be.
fn kill_all(console: &mut Console, global: &Global, client: &Client, body: Map<String, Value>) -> Outcome {
    let view::Rollouts { rollouts, .. } = client.ask("/api/v1/rollouts")?.form()?;
    let body = Value::from(body);
    let (mut killed, mut failed) = (Vec::new(), None);
    for rollout in &rollouts {
        match client.change(&path(&rollout.name, "kill"), &body) {
            Ok(answer) => killed.push(answer.form::<Value>()?),
            Err(stop) => {
                let message = stop.message().unwrap_or_default();
                writeln!(console.err, "{}: {message}", render::clean(&rollout.name))?;
                failed.get_or_insert(stop);
            }
        }
    }
    let said = match (killed.len(), rollouts.len()) {
        (_, 0) => "there are no rollouts\n".to_owned(),
        (done, all) if done == all => format!("killed all {all} rollouts, everyone is on stable\n"),
        (done, all) => format!("killed {done} of {all} rollouts\n"),
    };
    console.print(global, &json!({ "rollouts": killed }).to_string(), || Ok(said))?;
    failed.map_or(Ok(()), Err)
}

/// `weir revive`.
pub fn revive(console: &mut Console, global: &Global, arguments: &Revive) -> Outcome {
    let mut body = origin(console, &arguments.note);
    if let Some(cohort) = &arguments.cohort {
        body.insert("cohort".to_owned(), cohort.as_str().into());
    }
    let client = console.client(global)?;
    let answer = client.change(&path(&arguments.rollout, "revive"), &body.into())?;
    let rollout: view::Rollout = answer.form()?;
    let name = render::clean(&rollout.name);
    let said = match &arguments.cohort {
        Some(cohort) => format!("{name}: cohort {} is on", render::clean(cohort)),
        None => format!("{name}: {}", plan::stands(&rollout)),
    };
    console.print(global, &answer.text, || Ok(said + "\n"))
}

/// `weir reload`.
pub fn reload(console: &mut Console, global: &Global, arguments: &Reload) -> Outcome {
    let body = origin(console, &arguments.note);
    let paint = console.paint(global);
    let answer = console.client(global)?.change("/api/v1/reload", &body.into()).map_err(bad_config)?;
    let reload: view::Reload = answer.form()?;
    console.print(global, &answer.text, || {
        let mut text = match reload.changes.len() {
            0 => format!("nothing changed; generation {}\n", reload.generation),
            _ => format!("reloaded; generation {}\n", reload.generation),
        };
        for change in &reload.changes {
            text.push_str(&format!("  {}\n", render::clean(change)));
        }
        for key in &reload.needs_restart {
            let line = format!("{} changes only by a restart", render::clean(key));
            text.push_str(&format!("  {}\n", paint.tone(Tone::Yellow, &line)));
        }
        Ok(text)
    })
}

/// A reload is refused for what the config says: a mistake to mend, not the answer no.
fn bad_config(stop: Stop) -> Stop {
    match stop {
        Stop::Refused { status: 409, message, body } => Stop::BadConfig { message, body },
        other => other,
    }
}

/// What the audit trail gets: the reason, and who it is unless they say otherwise.
pub fn origin(console: &Console, note: &Note) -> Map<String, Value> {
    let user = || console.variable("USER").or_else(|| console.variable("LOGNAME")).map(str::to_owned);
    let mut body = Map::new();
    if let Some(actor) = note.actor.clone().or_else(user) {
        body.insert("actor".to_owned(), actor.into());
    }
    if let Some(reason) = &note.reason {
        body.insert("reason".to_owned(), reason.as_str().into());
    }
    body
}

/// Where a rollout takes that command.
pub fn path(rollout: &str, verb: &str) -> String {
    format!("/api/v1/rollouts/{}/{verb}", encode(rollout))
}
