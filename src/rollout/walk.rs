//! What looks at a plan and a person's commands mean for a rollout: a change of state worked out from how things stand. It
//! carries nothing out; the engine calls it.

use super::course::{Command, Denied, Progress, Turn, act};
use super::engine::Refused;
use super::report::{Entry, Facts, Kind, Origin};
use super::stages::{After, Stages};
use super::standing::{Save, SavedRollout, Standing};
use super::step::Step;
use crate::clock::Wall;
use std::sync::Arc;
use std::time::Duration;

/// How often the time that a stage has served is written down when nothing else is.
pub const SERVED_SAVED_EVERY: Duration = Duration::from_secs(10);

/// Who moves a rollout by its plan.
const ACTOR: &str = "plan";

/// The step of one turn of a rollout's course.
pub fn turned(old: &Standing<'_>, turn: Turn, actor: &str) -> Step {
    let rollout = Arc::clone(&old.plan.name);
    let saved = SavedRollout { progress: turn.progress, ..old.saved.clone() };
    let new = Standing { saved: &saved, ..*old };
    let origin = |reason: String| Origin { actor: actor.to_owned(), reason };
    let mut entries = vec![Entry {
        rollout: Some(Arc::clone(&rollout)),
        kind: turn.kind,
        origin: origin(turn.reason),
        old: old.facts(),
        new: new.facts(),
    }];
    let mut saves = Vec::new();
    if let Some(ended) = turn.ended {
        let captured = old.runtime.record.clone();
        if ended.becomes_baseline {
            let reason = format!("recorded at the end of stage `{}`", ended.stage);
            entries.push(Entry {
                rollout: Some(Arc::clone(&rollout)),
                kind: Kind::Baseline,
                origin: origin(reason),
                old: Facts::None,
                new: Facts::None,
            });
            saves.push(Save::Captured { rollout: Arc::clone(&rollout), stage: "".into(), captured: captured.clone() });
        }
        saves.push(Save::Captured { rollout: Arc::clone(&rollout), stage: ended.stage, captured });
    }
    let (exposes, publishes) = (new.exposes_beyond(old), new.shows_otherwise(old));
    if saved != *old.saved {
        saves.push(Save::Rollout { rollout, saved: saved.clone() });
    }
    Step { exposes, publishes, saves, entries, ..Step::default() }
}

/// The step that a person's command asks for.
///
/// # Errors
/// `Conflict` with the reason if the rollout's state does not allow it.
pub fn command(
    old: &Standing<'_>,
    command: &Command,
    wall: Wall,
    has_finished: &dyn Fn(&After) -> bool,
    origin: &Origin,
) -> Result<Step, Refused> {
    if old.saved.held && *command != Command::Revive {
        return Err(Refused::Conflict(format!(
            "rollout `{}` is held ({}): revive it first",
            old.plan.name,
            old.reason().unwrap_or_default()
        )));
    }
    let turn = old.runtime.course.command(command, &old.ground(wall, has_finished), &origin.reason);
    match turn.map_err(|Denied(why)| Refused::Conflict(format!("rollout `{}`: {why}", old.plan.name)))? {
        Some(turn) => Ok(turned(old, turn, &origin.actor)),
        None => Ok(Step::default()),
    }
}

/// What another rollout's trigger makes of this one; nothing if it sends no traffic.
pub fn acted_on(
    old: &Standing<'_>,
    action: super::stages::Action,
    reason: &str,
    wall: Wall,
    has_finished: &dyn Fn(&After) -> bool,
) -> Step {
    let ground = old.ground(wall, has_finished);
    if !ground.serves() {
        return Step::default();
    }
    turned(old, act(action, reason.to_owned(), &ground), ACTOR)
}

/// The step of the turns that a look brought: at most one of them changes the progress.
pub fn looked(old: &Standing<'_>, turns: Vec<Turn>) -> Step {
    let mut step = Step::default();
    for turn in turns {
        step = step.and(turned(old, turn, ACTOR));
    }
    step
}

/// The step that only writes down how long the stage has been served.
pub fn served(old: &Standing<'_>) -> Step {
    let save = Save::Rollout { rollout: Arc::clone(&old.plan.name), saved: old.saved.clone() };
    Step { saves: vec![save], ..Step::default() }
}

/// What is left of the progress under a plan; on a start, when a plan cannot be refused any more, a rollout whose stage is
/// gone begins nothing by itself.
pub fn progress_under(stages: &Stages, progress: &Progress) -> (Progress, Option<String>) {
    match stages.adopt(progress) {
        Ok(progress) => (progress, None),
        Err(Denied(why)) => (Progress { reason: Some(why.clone()), ..progress.clone() }, Some(why)),
    }
}
