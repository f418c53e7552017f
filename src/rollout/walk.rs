//! What looks at a plan and a person's commands mean for a rollout: a change of state worked out from how things stand. It
//! carries nothing out; the engine calls it.

use super::course::{Back, Captured, Command, Denied, Progress, Turn, act};
use super::engine::Refused;
use super::report::{Entry, Facts, Kind, Origin, State};
use super::stages::{Action, After, Stages};
use super::standing::{Save, SavedRollout, Standing};
use super::step::Step;
use crate::clock::Wall;
use std::sync::Arc;
use std::time::Duration;

/// How often the time that a stage has served is written down when nothing else is.
pub const SERVED_SAVED_EVERY: Duration = Duration::from_secs(10);

/// More than any plan asks for.
const BASELINE_VALUES_MAX: usize = 1000;
/// Who moves a rollout by its plan.
const ACTOR: &str = "plan";
/// Why a rollout goes further back than it was to.
const INSTEAD: &str = "to stable, because state cannot be written";

/// The step of one turn of a rollout's course.
pub fn turned(old: &Standing<'_>, turn: Turn, actor: &str) -> Step {
    let rollout = Arc::clone(&old.plan.name);
    // A stage that ends forwards is a step towards the canary even where the next one has no more weight at present: what is
    // written down must not lie behind, or another weight in the file would make the difference.
    let leads_on = matches!(turn.kind, Kind::Stage | Kind::Complete);
    // What is only told changes nothing, least of all what another turn of the same look has changed.
    let progress = if turn.moves() { turn.progress } else { old.saved.progress.clone() };
    let saved = SavedRollout { progress, ..old.saved.clone() };
    let new = Standing { saved: &saved, ..*old };
    let origin = |reason: String| Origin { actor: actor.to_owned(), reason };
    let mut entries = vec![Entry {
        rollout: Some(Arc::clone(&rollout)),
        kind: turn.kind,
        origin: origin(turn.reason),
        old: old.facts(),
        new: new.facts(),
        to: turn.to,
        trigger: turn.trigger,
    }];
    let mut saves = Vec::new();
    if let Some(ended) = turn.ended {
        let captured = old.runtime.record.clone();
        if ended.becomes_baseline && captured.values.is_empty() {
            let what = match old.runtime.captures.contains_key("") {
                true => "the baseline stays what it was",
                false => "there is no baseline",
            };
            let reason = format!("nothing was measured in stage `{}`: {what}", ended.stage);
            entries.push(of_baseline(&rollout, origin(reason)));
        } else if ended.becomes_baseline {
            let reason = format!("recorded at the end of stage `{}`", ended.stage);
            entries.push(of_baseline(&rollout, origin(reason)));
            // What had no data, as stable has none once everything is on the canary, keeps the value that was recorded last.
            let captured = over_present(old, captured.clone());
            saves.push(Save::Captured { rollout: Arc::clone(&rollout), stage: "".into(), captured });
        }
        saves.push(Save::Captured { rollout: Arc::clone(&rollout), stage: ended.stage, captured });
    }
    let exposes = leads_on || new.exposes_beyond(old);
    let publishes = new.shows_otherwise(old);
    if saved != *old.saved {
        saves.push(Save::Rollout { rollout, saved: saved.clone() });
    }
    Step { exposes, publishes, saves, entries, ..Step::default() }
}

/// The step that changes what criteria compare with, in addition to what is there or in place of it. It moves nothing itself: the
/// next look at the plan compares with it.
///
/// # Errors
/// `Conflict` if there is nothing to record, or more than any plan asks for.
pub fn baseline(old: &Standing<'_>, captured: Captured, replace: bool, origin: Origin) -> Result<Step, Refused> {
    let rollout = Arc::clone(&old.plan.name);
    if captured.values.is_empty() {
        return Err(Refused::Conflict(format!("there is nothing to record for rollout `{rollout}`")));
    }
    let captured = if replace { captured } else { over_present(old, captured) };
    if captured.values.len() > BASELINE_VALUES_MAX {
        return Err(Refused::Conflict(format!("a baseline holds at most {BASELINE_VALUES_MAX} values")));
    }
    let entries = vec![of_baseline(&rollout, origin)];
    Ok(Step { saves: vec![Save::Captured { rollout, stage: "".into(), captured }], entries, ..Step::default() })
}

fn of_baseline(rollout: &Arc<str>, origin: Origin) -> Entry {
    Entry {
        rollout: Some(Arc::clone(rollout)),
        kind: Kind::Baseline,
        origin,
        old: Facts::None,
        new: Facts::None,
        to: None,
        trigger: None,
    }
}

/// The present baseline with these values over it.
fn over_present(old: &Standing<'_>, captured: Captured) -> Captured {
    let mut values = old.runtime.captures.get("").map(|before| before.values.clone()).unwrap_or_default();
    values.extend(captured.values);
    Captured { values }
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
    let state = old.state();
    if state == State::RolledBack && *command == Command::Rollback(Back::Stable) {
        return Ok(Step::default());
    }
    // The course knows nothing of a breaker that has given up, nor of a switch in the file.
    if old.saved.breaker.rolled_back && *command != Command::Revive {
        let why = old.reason().unwrap_or_default();
        return Err(Refused::Conflict(format!("rollout `{}` is {why}: revive it first", old.plan.name)));
    }
    if !old.plan.enabled {
        return Err(Refused::Conflict(format!("rollout `{}` is off in the config (enabled = false)", old.plan.name)));
    }
    let turn = old.runtime.course.command(command, &old.ground(wall, has_finished), &origin.reason);
    match turn.map_err(|Denied(why)| Refused::Conflict(format!("rollout `{}`: {why}", old.plan.name)))? {
        Some(turn) => Ok(turned(old, turn, &origin.actor)),
        None => Ok(Step::default()),
    }
}

/// What another rollout's trigger, which caused that turn, makes of this one, as `looked` says it; nothing if it sends no traffic.
pub fn acted_on(
    old: &Standing<'_>,
    action: Action,
    cause: &Turn,
    wall: Wall,
    has_finished: &dyn Fn(&After) -> bool,
) -> (Step, Step) {
    let ground = old.ground(wall, has_finished);
    if !ground.serves() {
        return (Step::default(), Step::default());
    }
    let turn = Turn { trigger: cause.trigger.clone(), ..act(action, cause.reason.clone(), &ground) };
    looked(old, vec![turn], wall, has_finished)
}

/// The steps of the turns that a look brought, at most one of which moves the rollout: what happens at once, and what waits
/// for its record because it lets somebody onto the canary.
///
/// Going back may do that too, if the stage before admits cohorts that the present one does not. If it cannot be written
/// down, everything goes to stable instead: a full disk must not keep a rollout where a trigger wants it away from.
pub fn looked(old: &Standing<'_>, turns: Vec<Turn>, wall: Wall, has_finished: &dyn Fn(&After) -> bool) -> (Step, Step) {
    let (mut at_once, mut waits) = (Step::default(), Step::default());
    let mut saved = old.saved.clone();
    for turn in turns {
        let present = Standing { saved: &saved, ..*old };
        let back =
            (turn.kind == Kind::Rollback).then(|| (format!("{} ({INSTEAD})", turn.reason), turn.trigger.clone()));
        let mut step = turned(&present, turn, ACTOR);
        if step.exposes {
            step.otherwise = back.map(|(reason, trigger)| {
                let turn = act(Action::Rollback, reason, &present.ground(wall, has_finished));
                Box::new(turned(&present, Turn { trigger, ..turn }, ACTOR))
            });
            waits = waits.and(step);
            continue;
        }
        let after = step.saves.iter().find_map(|save| match save {
            Save::Rollout { saved, .. } => Some(saved.clone()),
            _ => None,
        });
        saved = after.unwrap_or(saved);
        at_once = at_once.and(step);
    }
    (at_once, waits)
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
