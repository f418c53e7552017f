//! What each input to the engine means: a change of state worked out from how things stand, and not carried out.
//!
//! The rules on who may do what when are here; the order in which a step takes effect is the engine's.

use super::breaker::{self, Breaker};
use super::bucket::Weight;
use super::cohort::Overlay;
use super::course::{Command, Progress};
use super::engine::{Refused, UNREADABLE};
use super::plan::{CohortPlan, Plan};
use super::report::{Entry, Facts, Kind, Origin, State};
use super::standing::{
    LiveRollout, MEMBERS_MAX, Members, Runtime, Save, SavedRollout, SetWeight, Standing, UNIT_BYTES_MAX,
};
use super::walk;
use crate::clock::{Time, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One change of state, worked out but not carried out.
#[derive(Debug, Default)]
pub struct Step {
    /// Whether it lets anybody onto the canary who was kept off it.
    pub exposes: bool,
    /// Whether a snapshot must be published.
    pub publishes: bool,
    /// Plans that replace the present ones.
    pub plans: Option<Vec<Plan>>,
    /// State that changes.
    pub saves: Vec<Save>,
    /// What the audit trail tells of it.
    pub entries: Vec<Entry>,
    /// A breaker that takes the place of the rollout's present one.
    pub breaker: Option<(Arc<str>, Box<Breaker>)>,
    /// A circuit that opened by itself and is handed back: nothing has been recorded of that, and nothing is now.
    pub handed_back: Option<(Arc<str>, breaker::State)>,
    /// What happens instead if it waits for its record and that cannot be written: a step further towards stable.
    pub otherwise: Option<Box<Step>>,
}

impl Step {
    /// This step and another one in one piece.
    #[must_use]
    pub fn and(mut self, other: Step) -> Step {
        self.exposes |= other.exposes;
        self.publishes |= other.publishes;
        self.saves.extend(other.saves);
        self.entries.extend(other.entries);
        self.plans = other.plans.or(self.plans);
        self.breaker = other.breaker.or(self.breaker);
        self.handed_back = other.handed_back.or(self.handed_back);
        self.otherwise = match (self.otherwise, other.otherwise) {
            (Some(one), Some(two)) => Some(Box::new(one.and(*two))),
            (one, two) => one.or(two),
        };
        self
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        let Step { plans, saves, entries, breaker, handed_back, .. } = self;
        plans.is_none() && saves.is_empty() && entries.is_empty() && breaker.is_none() && handed_back.is_none()
    }
}

/// An operator sets the weight of a rollout without stages.
pub fn weight(standing: &Standing<'_>, weight: Weight, origin: Origin) -> Result<Step, Refused> {
    let rollout = &standing.plan.name;
    if !standing.plan.enabled {
        return Err(conflict(format!("rollout `{rollout}` is off in the config (enabled = false)")));
    }
    if standing.state() == State::RolledBack {
        return Err(conflict(format!("rollout `{rollout}` is rolled back: revive it first")));
    }
    if standing.plan.is_staged() {
        return Err(conflict(format!("rollout `{rollout}` is held: revive it first")));
    }
    let set = SetWeight { weight, under: standing.plan.weight };
    // What a trigger has halved or paused goes on with the weight that a person gives it.
    let progress = Progress { state: State::Pending, share: None, reason: None, ..standing.saved.progress.clone() };
    let saved = SavedRollout { set: Some(set), held: false, progress, ..standing.saved.clone() };
    let kind = if standing.saved.progress.state == State::Paused { Kind::Resume } else { Kind::Weight };
    Ok(standing_step(standing, saved, kind, origin))
}

/// An operator kills the rollout; never refused.
pub fn kill(standing: &Standing<'_>, origin: Origin) -> Step {
    if standing.saved.killed.is_some() {
        return Step::default();
    }
    let saved = SavedRollout { killed: Some(origin.clone()), ..standing.saved.clone() };
    standing_step(standing, saved, Kind::Kill, origin)
}

/// An operator undoes a kill, or else closes the breaker, which also restarts what it has rolled back, or else undoes a hold.
pub fn revive(standing: &Standing<'_>, origin: Origin, now: Time, wall: Wall) -> Result<Step, Refused> {
    let rollout = &standing.plan.name;
    if standing.plan.killed {
        return Err(conflict(format!("rollout `{rollout}` is killed by file or environment: undo it there")));
    }
    if standing.saved.killed.is_some() {
        let saved = SavedRollout { killed: None, ..standing.saved.clone() };
        return Ok(standing_step(standing, saved, Kind::Revive, origin));
    }
    if standing.breaker() != breaker::State::Closed || standing.saved.breaker.rolled_back {
        let mut closed = standing.runtime.breaker.clone();
        let turn = closed.as_mut().and_then(|breaker| breaker.revive(now));
        let kept = closed.as_ref().filter(|_| turn.is_some()).map(|breaker| breaker.saved().clone());
        // What the breaker has rolled back begins its stage anew.
        let rolled_back = standing.saved.breaker.rolled_back || standing.state() == State::RolledBack;
        let progress = match rolled_back {
            true => standing.ground(wall, &|_| true).restarted(),
            false => standing.saved.progress.clone(),
        };
        let saved = SavedRollout { breaker: kept.unwrap_or_default(), progress, ..standing.saved.clone() };
        let step = standing_step(standing, saved, Kind::Revive, origin);
        return Ok(Step { breaker: closed.map(|breaker| (Arc::clone(rollout), breaker)), ..step });
    }
    if standing.saved.held {
        // A stage that is gone is not gone back to: the plan begins anew.
        let gone = standing.stage().is_none() && standing.saved.progress.stage.is_some();
        let progress = match gone {
            true => Progress { visit: standing.saved.progress.visit + 1, ..Progress::default() },
            false => standing.saved.progress.clone(),
        };
        let saved = SavedRollout { held: false, progress, ..standing.saved.clone() };
        return Ok(standing_step(standing, saved, Kind::Revive, origin));
    }
    if standing.state() == State::RolledBack {
        return walk::command(standing, &Command::Revive, wall, &|_| true, &origin);
    }
    Err(conflict(format!(
        "rollout `{rollout}` is neither killed nor rolled back, and its breaker is closed: nothing to revive"
    )))
}

/// An operator switches a cohort off (`kill`) or on again.
pub fn cohort(standing: &Standing<'_>, cohort: &str, kill: bool, origin: Origin) -> Result<Step, Refused> {
    let plan = cohort_of(standing, cohort)?;
    let killed = standing.cohort_killed(cohort);
    if !kill && !plan.enabled {
        return Err(conflict(format!("cohort `{cohort}` is off in the config (enabled = false): undo it there")));
    }
    if !kill && !killed {
        return Err(conflict(format!("cohort `{cohort}` is not killed: nothing to revive")));
    }
    if kill && killed {
        return Ok(Step::default());
    }
    if kill && plan.exclude {
        return Err(conflict(format!(
            "cohort `{cohort}` keeps its members off the canary (exclude = true): there is nothing to kill"
        )));
    }
    let facts = |killed| Facts::Cohort { cohort: Arc::clone(&plan.name), enabled: plan.enabled, killed };
    let entry = Entry {
        rollout: Some(Arc::clone(&standing.plan.name)),
        kind: Kind::Cohort,
        origin,
        old: facts(killed),
        new: facts(kill),
        to: None,
        trigger: None,
    };
    let (rollout, cohort) = (Arc::clone(&standing.plan.name), Arc::clone(&plan.name));
    Ok(Step {
        exposes: !kill,
        publishes: false,
        saves: vec![Save::Cohort { rollout, cohort, killed: kill }],
        entries: vec![entry],
        ..Step::default()
    })
}

/// An operator changes a cohort's members.
pub fn members(
    standing: &Standing<'_>,
    cohort: &str,
    add: &[String],
    remove: &[String],
    origin: Origin,
) -> Result<Step, Refused> {
    let plan = cohort_of(standing, cohort)?;
    check_units("add", add)?;
    check_units("remove", remove)?;
    let added: BTreeSet<&str> = add.iter().map(String::as_str).collect();
    if let Some(both) = remove.iter().find(|unit| added.contains(unit.as_str())) {
        return Err(Refused::Invalid { field: "remove", message: format!("`{both}` is also in `add`") });
    }
    let none = Members::default();
    let members = standing.members(cohort).unwrap_or(&none);
    let wanted = add.iter().map(|unit| (unit.as_str(), true)).chain(remove.iter().map(|unit| (unit.as_str(), false)));
    let changes: BTreeMap<&str, bool> =
        wanted.filter(|(unit, present)| members.present(unit) != Some(*present)).collect();
    if changes.is_empty() {
        return Ok(Step::default());
    }
    let new = changes.keys().filter(|unit| members.present(unit).is_none()).count();
    if members.changed() + new > MEMBERS_MAX {
        return Err(conflict(format!(
            "cohort `{cohort}` would have more than {MEMBERS_MAX} members changed at run time: use `users_file`"
        )));
    }
    let (added, removed) = members.counts_after(&BTreeMap::new());
    let (added_new, removed_new) = members.counts_after(&changes);
    let facts = |added, removed| Facts::Members { cohort: Arc::clone(&plan.name), added, removed };
    let entry = Entry {
        rollout: Some(Arc::clone(&standing.plan.name)),
        kind: Kind::Cohort,
        origin,
        old: facts(added, removed),
        new: facts(added_new, removed_new),
        to: None,
        trigger: None,
    };
    let save = |(unit, present): (&str, bool)| Save::Member {
        rollout: Arc::clone(&standing.plan.name),
        cohort: Arc::clone(&plan.name),
        unit: Arc::from(unit),
        present,
    };
    Ok(Step {
        exposes: changes.values().any(|present| *present != plan.exclude),
        publishes: true,
        saves: changes.into_iter().map(save).collect(),
        entries: vec![entry],
        ..Step::default()
    })
}

/// What adopting these plans means: weights that were set under another value of the file end, and every rollout
/// whose standing changes is told of.
pub fn adoption(old_plans: &[Plan], states: &BTreeMap<Arc<str>, Runtime>, plans: Vec<Plan>, origin: &Origin) -> Step {
    let mut step = Step { publishes: true, ..Step::default() };
    for plan in &plans {
        let runtime = states.get(&plan.name);
        let before = runtime.map(|runtime| runtime.saved.clone()).unwrap_or_default();
        let old = old_plans.iter().find(|old| old.name == plan.name);
        let mut saved = saved_under(plan, before.clone());
        if lowered(old, plan, &saved) {
            saved.progress.share = None;
        }
        let ends = saved != before;
        if ends {
            step.saves.push(Save::Rollout { rollout: Arc::clone(&plan.name), saved: saved.clone() });
        }
        let new = Standing { saved: &saved, ..Standing::of(plan, runtime) };
        match old {
            Some(old) => {
                let old = Standing::of(old, runtime);
                step.exposes |= new.exposes_beyond(&old);
                tell_of_changes(&mut step.entries, &old, &new, origin);
            }
            None if ends => {
                tell_of_changes(&mut step.entries, &Standing::of(plan, runtime), &new, origin);
            }
            None => step.exposes |= !new.killed(),
        }
    }
    // A weight that was set does not wait for its rollout to come back.
    let gone = |name: &Arc<str>| !plans.iter().any(|plan| plan.name == *name);
    for (name, runtime) in states.iter().filter(|(name, runtime)| runtime.saved.set.is_some() && gone(name)) {
        let saved = SavedRollout { set: None, ..runtime.saved.clone() };
        step.saves.push(Save::Rollout { rollout: Arc::clone(name), saved });
    }
    step.plans = Some(plans);
    step
}

/// Whether the weight that was set within the stage is more than the stage has under this plan, and had not been before:
/// then nobody forced it. After a restart nobody can tell, so it is taken to be so.
fn lowered(old: Option<&Plan>, plan: &Plan, saved: &SavedRollout) -> bool {
    let Some(stage) = saved.progress.stage.as_deref() else { return false };
    let weight = |plan: &Plan| plan.stages.find(stage).map(|(_, stage)| stage.weight);
    let (before, now) = (old.and_then(weight), weight(plan));
    before != now && saved.progress.share.zip(now).is_some_and(|(share, now)| share > now)
}

/// What is left of the saved state under a plan: a weight that was set under another value of the file has ended, and a
/// breaker that is switched off lets go. What it has rolled back stays so until somebody revives it.
pub fn saved_under(plan: &Plan, saved: SavedRollout) -> SavedRollout {
    let set = saved.set.filter(|set| set.under == plan.weight);
    let watched = plan.breaker.is_some() || saved.breaker.rolled_back;
    let breaker = if watched { saved.breaker } else { breaker::Saved::default() };
    let (progress, gone) = walk::progress_under(&plan.stages, &saved.progress);
    SavedRollout { set, breaker, progress, held: saved.held || gone.is_some(), ..saved }
}

/// Whether plans may take the place of those that their rollouts follow. One that comes back to the config follows none:
/// if its stage is gone it is held, as after a restart, because nobody could finish it first.
///
/// # Errors
/// `Conflict` if a rollout is under way in a stage that its new plan does not have.
pub fn check_adoption(old_plans: &[Plan], states: &BTreeMap<Arc<str>, Runtime>, plans: &[Plan]) -> Result<(), Refused> {
    for plan in plans.iter().filter(|plan| old_plans.iter().any(|old| old.name == plan.name)) {
        let Some(runtime) = states.get(&plan.name).filter(|runtime| !runtime.saved.held) else { continue };
        if let (_, Some(why)) = walk::progress_under(&plan.stages, &runtime.saved.progress) {
            return Err(conflict(format!("rollouts.{}: {why}: finish, roll back or rename it back first", plan.name)));
        }
    }
    Ok(())
}

/// Members added and removed at run time, by cohort.
pub type Overlays = BTreeMap<Arc<str>, Arc<Overlay>>;

/// See `Engine::outlook`.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    pub(super) by_rollout: BTreeMap<Arc<str>, (SavedRollout, Overlays)>,
}

impl Outlook {
    /// What requests would see of a rollout under this plan.
    pub fn under(&self, plan: &Plan) -> LiveRollout {
        let (saved, overlays) = self.by_rollout.get(&plan.name).cloned().unwrap_or_default();
        let saved = saved_under(plan, saved);
        LiveRollout { overlays, ..Standing { saved: &saved, ..Standing::of(plan, None) }.live() }
    }
}

/// Adds to the first step that every rollout is held, because what was saved of it is lost.
pub fn hold(step: &mut Step) {
    for plan in step.plans.iter().flatten() {
        let saved = SavedRollout { held: true, ..SavedRollout::default() };
        step.entries.push(Entry {
            rollout: Some(Arc::clone(&plan.name)),
            kind: Kind::Pause,
            origin: Origin { actor: "weir".into(), reason: UNREADABLE.into() },
            old: Facts::None,
            new: Standing { saved: &saved, ..Standing::of(plan, None) }.facts(),
            to: None,
            trigger: None,
        });
        step.saves.push(Save::Rollout { rollout: Arc::clone(&plan.name), saved });
    }
}

/// The step that replaces what is saved of a rollout.
fn standing_step(old: &Standing<'_>, saved: SavedRollout, kind: Kind, origin: Origin) -> Step {
    let rollout = Arc::clone(&old.plan.name);
    let new = Standing { saved: &saved, ..*old };
    let entry = Entry {
        rollout: Some(Arc::clone(&rollout)),
        kind,
        origin,
        old: old.facts(),
        new: new.facts(),
        to: None,
        trigger: None,
    };
    Step {
        exposes: new.exposes_beyond(old),
        publishes: new.shows_otherwise(old),
        saves: vec![Save::Rollout { rollout, saved }],
        entries: vec![entry],
        ..Step::default()
    }
}

/// Tells of everything that differs between two standings of one rollout.
fn tell_of_changes(entries: &mut Vec<Entry>, old: &Standing<'_>, new: &Standing<'_>, origin: &Origin) {
    let reason = if origin.reason.is_empty() { VALUE_CHANGED.into() } else { origin.reason.clone() };
    let origin = Origin { actor: origin.actor.clone(), reason };
    let rollout = Some(Arc::clone(&new.plan.name));
    let mut tell = |kind, old, new| {
        let (rollout, origin) = (rollout.clone(), origin.clone());
        entries.push(Entry { rollout, kind, origin, old, new, to: None, trigger: None });
    };
    // Each is told from where the one before has led, and the last one leads to how things stand.
    let (before, after) = (old.facts(), new.facts());
    let Facts::Standing { state, stage, weight, killed, breaker } = before.clone() else { return };
    let mut present = before;
    if killed != new.killed() {
        let next = Facts::Standing { state, stage: stage.clone(), weight, killed: new.killed(), breaker };
        let kind = if new.killed() { Kind::Kill } else { Kind::Revive };
        tell(kind, std::mem::replace(&mut present, next.clone()), next);
    }
    if breaker != new.breaker() {
        let next = Facts::Standing { state, stage, weight, killed: new.killed(), breaker: new.breaker() };
        tell(Kind::Recover, std::mem::replace(&mut present, next.clone()), next);
    }
    if old.state() != new.state() {
        let kind = if new.serves() { Kind::Resume } else { Kind::Pause };
        tell(kind, present, after);
    } else if old.weight() != new.weight() {
        tell(Kind::Weight, present, after);
    } else if present != after {
        tell(Kind::Stage, present, after);
    }
    for cohort in &new.plan.cohorts {
        let facts = |plan: &CohortPlan| Facts::Cohort {
            cohort: Arc::clone(&plan.name),
            enabled: plan.enabled,
            killed: new.cohort_killed(&plan.name),
        };
        if let Some(before) = old.plan.cohort(&cohort.name).filter(|before| before.enabled != cohort.enabled) {
            tell(Kind::Cohort, facts(before), facts(cohort));
        }
    }
}

fn cohort_of<'a>(standing: &Standing<'a>, name: &str) -> Result<&'a CohortPlan, Refused> {
    let missing = || Refused::NotFound(format!("no cohort `{name}` in rollout `{}`", standing.plan.name));
    standing.plan.cohort(name).ok_or_else(missing)
}

fn check_units(field: &'static str, units: &[String]) -> Result<(), Refused> {
    let message = if units.iter().any(String::is_empty) {
        "an empty id is no unit".to_owned()
    } else if units.iter().any(|unit| unit.len() > UNIT_BYTES_MAX) {
        format!("an id is longer than {UNIT_BYTES_MAX} bytes")
    } else {
        return Ok(());
    };
    Err(Refused::Invalid { field, message })
}

fn conflict(reason: String) -> Refused {
    Refused::Conflict(reason)
}

/// Why a weight changed without anybody asking.
const VALUE_CHANGED: &str = "the config's value changed";
