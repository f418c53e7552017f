//! The commands by which a person works with a plan: `pause`, `resume`, `promote`, `rollback`, `approve`,
//! and the question `validate`.

use super::api::{Answer, Body, Name, changed, json, path, refused};
use super::body::{Fields, Query};
use super::failure::Failure;
use super::view::Validation;
use crate::config::hint;
use crate::control::Handle;
use crate::rollout::course::{Back, Command};
use axum::extract::State;
use axum::http::{StatusCode, Uri};

/// One of the commands, by the last word of the path.
pub async fn command(State(handle): State<Handle>, names: Name<(String, String)>, body: Body) -> Answer {
    let ((name, word), mut fields) = (path(names)?, Fields::parse(&body?)?);
    let cohort = fields.text("cohort")?;
    let command = asked(&word, &mut fields)?;
    let origin = fields.origin()?;
    fields.end()?;
    let report = match &cohort {
        None => handle.command(&name, command, origin).await,
        // A cohort is on the canary or it is not: to take it back is to switch it off.
        Some(cohort) if command == Command::Rollback(Back::Stable) => handle.kill(&name, Some(cohort), origin).await,
        Some(_) => return Err(not_for_cohorts(&command)),
    };
    changed(&handle, &name, cohort.as_deref(), report)
}

/// Whether the next stage may begin, or the first one that admits a cohort, and what holds it: the engine's own answer.
pub async fn validate(State(handle): State<Handle>, name: Name, uri: Uri) -> Answer {
    let (name, query) = (path(name)?, Query::parse(uri.query()));
    let cohort = query.text("cohort");
    match handle.validate(&name, cohort).await {
        Ok((report, passage)) => json(&Validation::of(&report, &passage, cohort.map(str::to_owned))),
        Err(denied) => Err(refused(&handle, &name, cohort, denied)),
    }
}

fn asked(word: &str, fields: &mut Fields) -> Result<Command, Failure> {
    Ok(match word {
        "pause" => Command::Pause,
        "resume" => Command::Resume,
        "promote" => Command::Promote { force: fields.flag("force")?, full: fields.flag("full")? },
        "rollback" => Command::Rollback(match fields.text("to")?.as_deref() {
            None | Some("stable") => Back::Stable,
            Some("previous") => Back::Previous,
            Some("half") => Back::Half,
            Some(_) => return Err(Failure::field("to", "`to` must be `stable`, `previous` or `half`")),
        }),
        "approve" => Command::Approve,
        _ => {
            let shown: String = word.chars().take(64).collect();
            let message = format!("there is no command `{}`; {}", shown.escape_debug(), hint(&shown, COMMANDS));
            return Err(Failure::new(StatusCode::NOT_FOUND, message));
        }
    })
}

/// What there is for a cohort instead.
fn not_for_cohorts(command: &Command) -> Failure {
    let (field, instead) = match command {
        Command::Rollback(_) => ("to", "a cohort is on the canary or it is not: roll it back without `to`"),
        Command::Pause => ("cohort", "a cohort has no clock of its own: pause the rollout, or `rollback` the cohort"),
        Command::Resume => ("cohort", "a cohort is never paused: `revive` lets it onto the canary again"),
        Command::Approve => ("cohort", "a stage is approved, not a cohort: approve the rollout"),
        _ => (
            "cohort",
            "a cohort is admitted by the stage that names it: promote the rollout, and `validate` with the cohort says whether that stage may begin",
        ),
    };
    Failure::field(field, instead)
}

/// The last words of a rollout's path that take a POST.
const COMMANDS: &[&str] =
    &["pause", "resume", "promote", "rollback", "approve", "kill", "revive", "weight", "baseline"];
