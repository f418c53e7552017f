//! Where a rollout stands in its plan, and what moves it on: gates forwards, triggers and people backwards.
//!
//! Pure: time, measurements and the state of other rollouts are handed in, turns come out; the engine carries them out and
//! says what was saved. A turn holds the whole progress as it will be, so nothing changes that was not recorded. What is
//! kept here besides (how long a trigger has held, the last verdicts) is worked out anew after a restart.

use super::bucket::Weight;
use super::criterion::{Evaluation, Reading, Sample};
use super::report::{Kind, State};
pub use super::stages::span_text;
use super::stages::{Action, After, Span, Stage, Stages, Trigger};
use crate::clock::{Time, Wall};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

mod commands;
mod narrowed;
mod passage;
mod readings;
mod recheck;
pub mod recorded;
#[cfg(test)]
mod tests;
mod watched;

pub use commands::{Back, Command, Denied};
pub use narrowed::{Narrowed, narrowed};
pub use passage::Obstacle;
pub use readings::{Asked, Captured, Captures, Known, Readings, asks, records};
pub use watched::{Alarm, Verdict, Watched, judge};
use watched::{Over, evaluate, unwatched};

/// How far a rollout has got. Saved whole with every turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where it is in its life.
    pub state: State,
    /// The present stage, or the one it was in when it was rolled back; none before the first and without stages.
    pub stage: Option<Arc<str>>,
    /// Time served in the stage: running, not killed, the breaker not open.
    pub served: Duration,
    /// When the stage began; for people.
    pub entered_at: Option<Wall>,
    /// How many stages have begun, the same one anew included: what `Span::Stage` counts from.
    pub visit: u64,
    /// Whether a person has approved the stage.
    pub approved: bool,
    /// The weight that a person or a halving set in this stage.
    pub share: Option<Weight>,
    /// Stages that have ended forwards.
    pub finished: BTreeSet<Arc<str>>,
    /// Stages from which it has gone back to the one before.
    pub went_back_from: BTreeSet<Arc<str>>,
    /// Why it is in this state, where there is something to say.
    pub reason: Option<String>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            state: State::Pending,
            stage: None,
            served: Duration::ZERO,
            entered_at: None,
            visit: 0,
            approved: false,
            share: None,
            finished: BTreeSet::new(),
            went_back_from: BTreeSet::new(),
            reason: None,
        }
    }
}

/// What a rollout's course depends on at one moment.
pub struct Ground<'a> {
    /// Its plan.
    pub stages: &'a Stages,
    /// How far it has got.
    pub progress: &'a Progress,
    /// The file's weight: a ceiling for every stage, or the weight of a rollout without stages.
    pub ceiling: Weight,
    /// Whether the config lets it run (`enabled`).
    pub enabled: bool,
    /// Whether its stage's clock stands still: it is killed, or its breaker is not closed.
    pub frozen: bool,
    /// The calendar time, for people.
    pub wall: Wall,
    /// Whether a stage of another rollout has ended.
    pub has_finished: &'a dyn Fn(&After) -> bool,
}

/// Measurements of one rollout.
pub trait Measurements {
    /// The value of a sample over a span.
    fn read(&self, span: Span, sample: Sample<'_>) -> Reading;
}

/// One change of a rollout's progress, or something to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    /// What sort of thing it is in the record.
    pub kind: Kind,
    /// The progress after it.
    pub progress: Progress,
    /// Why, with numbers.
    pub reason: String,
    /// How far back it goes, if it does.
    pub to: Option<Back>,
    /// The trigger that caused it.
    pub trigger: Option<Arc<str>>,
    /// A stage that ended forwards: both arms are to be recorded under its name.
    pub ended: Option<Ended>,
    /// What another rollout is to do.
    pub acts_on: Option<(Arc<str>, Action)>,
}

/// A stage that ended forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The stage.
    pub stage: Arc<str>,
    /// Whether its record becomes the baseline.
    pub becomes_baseline: bool,
}

/// Where a rollout stands, as far as clocks and windows go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// How many stages have begun.
    pub visit: u64,
    /// The place of its stage in the plan.
    pub index: Option<usize>,
    /// Whether it sends traffic, kill and breaker aside.
    pub serves: bool,
    /// Whether time is served.
    pub counts: bool,
    /// Whether it is rolled back, by whomever.
    pub rolled_back: bool,
}

/// The moving part of a course.
#[derive(Debug, Default)]
pub struct Course {
    last: Option<Time>,
    gates: Vec<Evaluation>,
    /// The visit whose stage's gates these are.
    gates_of: Option<u64>,
    triggers: Vec<(Arc<str>, Watched)>,
    /// What triggers were found to be before the last move that made that void, for the record of the move.
    left: Vec<(Arc<str>, Watched)>,
    /// Whether the present stage was not come to forwards, so that triggers look at what happened in it alone.
    went_back: bool,
    /// Since when stable is looked at after a rollback.
    rechecks_since: Option<Time>,
}

impl Course {
    /// Looks at a rollout: how much time it has served by now, and what turns that brings, the gravest first. At most one
    /// of them changes the progress. `serves` says whether another rollout sends traffic, so that it can be acted on.
    pub fn look(
        &mut self,
        now: Time,
        ground: &Ground<'_>,
        measured: &impl Measurements,
        serves: &dyn Fn(&str) -> bool,
    ) -> (Duration, Vec<Turn>) {
        let passed = self.last.map_or(Duration::ZERO, |last| now.since(last));
        self.last = Some(now);
        let served = ground.progress.served + if ground.counts() { passed } else { Duration::ZERO };
        let ground = &Ground { progress: &Progress { served, ..ground.progress.clone() }, ..*ground };

        self.judge_gates(ground, measured);
        let mut turns = self.watch(now, ground, measured, serves);
        turns.extend(self.recheck(now, ground, measured));
        // What is told or leads towards stable must not wait with a step forwards for its record: that comes at the next look.
        if turns.is_empty() {
            turns.extend(self.forwards(ground));
        }
        (served, turns)
    }

    /// The last evaluations of the gates of the stage of that visit, in their order; none if they have not been judged yet.
    pub fn gates_of(&self, visit: u64) -> &[Evaluation] {
        if self.gates_of == Some(visit) { &self.gates } else { &[] }
    }

    /// What a trigger was last found to be.
    pub fn trigger(&self, name: &str) -> Option<&Watched> {
        self.triggers.iter().find(|(known, _)| &**known == name).map(|(_, watched)| watched)
    }

    /// Whether triggers look at the present stage alone.
    pub fn went_back(&self) -> bool {
        self.went_back
    }

    /// What gates and triggers were found to be at the last look, before a move that may just have made that void.
    pub fn last_found(&self) -> (&[Evaluation], &[(Arc<str>, Watched)]) {
        (&self.gates, if self.triggers.is_empty() { &self.left } else { &self.triggers })
    }

    /// Whether stable is still looked at after a rollback.
    pub fn rechecks(&self) -> bool {
        self.rechecks_since.is_some()
    }

    /// Stable is looked at as after a rollback, from now on: who looked at it before did not come to an end.
    pub fn look_again(&mut self, now: Time) {
        self.rechecks_since = Some(now);
    }

    /// Notes that the rollout has come from one place to another by whatever means; from none if it is new to the config.
    pub fn moved(&mut self, now: Time, was: Option<&Place>, is: &Place) {
        let Some(was) = was else {
            // While it was not looked at nothing was served, and nothing held.
            *self = Course { went_back: true, rechecks_since: self.rechecks_since, ..Course::default() };
            return;
        };
        if is.rolled_back && !was.rolled_back {
            self.rechecks_since = Some(now);
        }
        let begins = is.visit != was.visit;
        if begins || is.counts {
            self.last = Some(now);
        }
        if begins {
            self.went_back = !was.serves || is.index <= was.index;
        }
        if (begins && self.went_back) || is.rolled_back {
            self.left = std::mem::take(&mut self.triggers);
        } else if begins {
            // What held in the stage before goes on to hold, and may act on this one.
            self.triggers.iter_mut().for_each(|(_, watched)| (watched.acted, watched.told) = (false, false));
        }
    }

    /// Notes that another plan takes the place of the one it follows: what was found of a trigger or gate that is another one
    /// now is no finding of that.
    pub fn replanned(&mut self, old: &Stages, new: &Stages) {
        let same = |name: &str| {
            let of = |stages: &Stages| stages.triggers.iter().find(|trigger| *trigger.name == *name).cloned();
            of(old) == of(new)
        };
        self.triggers.retain(|(name, _)| same(name));
        self.gates_of = None;
    }

    fn judge_gates(&mut self, ground: &Ground<'_>, measured: &impl Measurements) {
        let gates = match ground.stage() {
            Some((_, stage)) if ground.serves() => stage.gates.as_slice(),
            _ => &[],
        };
        self.gates = gates.iter().map(|gate| judge(gate, measured)).collect();
        self.gates_of = Some(ground.progress.visit);
    }

    /// Evaluates the triggers; what they bring, the gravest first.
    fn watch(
        &mut self,
        now: Time,
        ground: &Ground<'_>,
        measured: &impl Measurements,
        serves: &dyn Fn(&str) -> bool,
    ) -> Vec<Turn> {
        if !ground.serves() {
            self.triggers.clear();
            return Vec::new();
        }
        let mut watched = Vec::with_capacity(ground.stages.triggers.len());
        let mut due: Vec<(usize, String)> = Vec::new();
        for (index, trigger) in ground.stages.triggers.iter().enumerate() {
            let before = self.trigger(&trigger.name).cloned().unwrap_or_default();
            let seen = match trigger.is_watched_in(ground.progress.stage.as_deref()) {
                true => evaluate(trigger, self.went_back, measured),
                false => unwatched(),
            };
            let after = before.after(now, trigger, seen);
            if after.alarm == Alarm::Firing && !after.acted {
                due.push((index, after.evaluation.reason.clone()));
            }
            watched.push((Arc::clone(&trigger.name), after));
        }
        self.triggers = watched;
        let order = |index: usize| ground.stages.triggers.get(index).map_or(u8::MAX, |trigger| trigger.action.rank());
        due.sort_by_key(|(index, _)| order(*index));

        let mut turns: Vec<Turn> = Vec::new();
        for (index, reason) in due {
            let Some(trigger) = ground.stages.triggers.get(index) else { continue };
            let moves = !trigger.dry_run && trigger.rollout.is_none() && trigger.action != Action::Alert;
            if moves && turns.iter().any(|turn| turn.moves()) {
                // The graver one has moved it: this one is looked at again under the new state.
                continue;
            }
            let Some((_, watched)) = self.triggers.get_mut(index) else { continue };
            // What cannot be acted on yet is told of once, and acted on as soon as it can be.
            watched.acted = trigger.dry_run || trigger.rollout.as_ref().is_none_or(|other| serves(other));
            if watched.acted || !watched.told {
                turns.push(fire(trigger, reason, ground, watched.acted));
            }
            watched.told = true;
        }
        turns
    }

    /// What time, gates and approval bring.
    fn forwards(&self, ground: &Ground<'_>) -> Option<Turn> {
        let obstacles = self.obstacles(ground);
        let Some(first) = obstacles.first() else {
            if ground.progress.state == State::Pending {
                let begins = !ground.stages.list.is_empty();
                return begins.then(|| ground.entering(0, "the plan begins".into()));
            }
            return ground.stage().map(|(index, stage)| ground.onwards(index, self.why_on(stage)));
        };
        match first {
            Obstacle::Unjudged(stage) | Obstacle::Gate(stage, _) => self.too_long(ground, stage),
            Obstacle::Approval(stage) => waits(ground, stage),
            _ => None,
        }
    }

    fn too_long(&self, ground: &Ground<'_>, stage: &Stage) -> Option<Turn> {
        let limit = stage.max_duration.filter(|max| ground.progress.served >= *max)?;
        if ground.progress.state != State::Running {
            return None;
        }
        let open = self.gates.iter().find(|gate| Verdict::of(gate) != Verdict::Pass);
        let gate = open.map_or(String::new(), |gate| format!(": {}", gate.reason));
        let reason = format!("stage `{}` has lasted {} without a pass{gate}", stage.name, span_text(limit));
        Some(ground.turn(Kind::Pause, Progress { state: State::Paused, ..ground.progress.clone() }, reason))
    }

    fn why_on(&self, stage: &Stage) -> String {
        let gates: Vec<&str> = self.gates.iter().map(|gate| gate.reason.as_str()).collect();
        let served = format!("{} served", span_text(stage.min_duration));
        match gates.is_empty() {
            true => served,
            false => format!("{served}; {}", gates.join("; ")),
        }
    }
}

impl Turn {
    /// Whether it is of a kind that moves a rollout; others are only told.
    pub fn moves(&self) -> bool {
        !matches!(self.kind, Kind::Alert | Kind::Escalate)
    }

    /// Whether the rollout moves by it.
    pub fn changes(&self, before: &Progress) -> bool {
        self.progress != *before
    }
}

impl<'a> Ground<'a> {
    /// Whether the rollout sends traffic, as far as its plan goes.
    pub fn serves(&self) -> bool {
        match self.progress.state {
            State::Running | State::Paused | State::WaitingApproval | State::Completed => self.enabled,
            State::Pending => self.stages.list.is_empty() && self.enabled,
            State::RolledBack => false,
        }
    }

    /// Whether time is served at present.
    pub fn counts(&self) -> bool {
        let runs = matches!(self.progress.state, State::Running | State::WaitingApproval);
        runs && self.serves() && !self.frozen
    }

    /// Where the rollout stands, as far as clocks and windows go.
    pub fn place(&self) -> Place {
        Place {
            visit: self.progress.visit,
            index: self.stage().map(|(index, _)| index),
            serves: self.serves(),
            counts: self.counts(),
            rolled_back: self.progress.state == State::RolledBack,
        }
    }

    /// The present stage and its place.
    pub fn stage(&self) -> Option<(usize, &'a Stage)> {
        self.stages.find(self.progress.stage.as_deref()?)
    }

    /// The weight in force, kill and breaker aside.
    pub fn weight(&self) -> Weight {
        if !self.serves() {
            return Weight::ZERO;
        }
        let planned = match self.stage() {
            Some((_, stage)) => stage.weight,
            None if self.stages.list.is_empty() => self.ceiling,
            None => Weight::ZERO,
        };
        self.progress.share.unwrap_or(planned).min(self.ceiling)
    }

    /// The progress at the start of the stage that it is in; of a rollout without stages, or whose stage is gone, at the
    /// start of everything.
    pub fn restarted(&self) -> Progress {
        match self.stage() {
            Some((index, _)) => self.at_start_of(index, State::Running),
            None => Progress { visit: self.progress.visit + 1, ..Progress::default() },
        }
    }

    fn turn(&self, kind: Kind, progress: Progress, reason: String) -> Turn {
        let progress = match kind {
            Kind::Alert | Kind::Escalate => progress,
            Kind::Stage | Kind::Complete => Progress { reason: None, ..progress },
            _ => Progress { reason: Some(reason.clone()), ..progress },
        };
        Turn { kind, progress, reason, to: None, trigger: None, ended: None, acts_on: None }
    }

    /// The stage at that place begins.
    fn entering(&self, index: usize, reason: String) -> Turn {
        self.turn(Kind::Stage, self.at_start_of(index, State::Running), reason)
    }

    fn at_start_of(&self, index: usize, state: State) -> Progress {
        Progress {
            state,
            stage: self.stages.list.get(index).map(|stage| Arc::clone(&stage.name)),
            served: Duration::ZERO,
            entered_at: Some(self.wall),
            visit: self.progress.visit + 1,
            approved: false,
            share: None,
            reason: None,
            ..self.progress.clone()
        }
    }

    /// The stage at that place ends forwards: the next one begins, or the rollout is complete.
    fn onwards(&self, index: usize, reason: String) -> Turn {
        let last = index + 1 >= self.stages.list.len();
        let mut turn = match last {
            true => self.turn(Kind::Complete, Progress { state: State::Completed, ..self.progress.clone() }, reason),
            false => self.entering(index + 1, reason),
        };
        if let Some(stage) = self.stages.list.get(index) {
            turn.progress.finished.insert(Arc::clone(&stage.name));
            turn.ended =
                Some(Ended { stage: Arc::clone(&stage.name), becomes_baseline: stage.capture_baseline || last });
        }
        turn
    }

    /// Everything to stable until somebody revives it.
    fn backwards_to_stable(&self, reason: String) -> Turn {
        let progress = Progress { state: State::RolledBack, share: None, approved: false, ..self.progress.clone() };
        self.backwards(Back::Stable, progress, reason)
    }

    fn backwards(&self, to: Back, progress: Progress, reason: String) -> Turn {
        Turn { to: Some(to), ..self.turn(Kind::Rollback, progress, reason) }
    }

    /// To the start of the stage before; from the first one to stable. The second time from the same stage, however far it
    /// has got in between, it also pauses, so that a rollout never swings by itself.
    fn backwards_to_previous(&self, reason: String) -> Turn {
        let Some((index, stage)) = self.stage() else { return self.backwards_to_stable(reason) };
        let Some(before) = index.checked_sub(1) else { return self.backwards_to_stable(reason) };
        let again = self.progress.went_back_from.contains(&stage.name);
        let paused = again || self.progress.state == State::Paused;
        let mut progress = self.at_start_of(before, if paused { State::Paused } else { State::Running });
        // A weight below that of the stage before was set for a reason: going back raises nothing.
        let planned = self.stages.list.get(before).map_or(Weight::ZERO, |stage| stage.weight);
        progress.share = Some(self.weight()).filter(|weight| *weight < planned.min(self.ceiling));
        progress.went_back_from.insert(Arc::clone(&stage.name));
        for ended in self.stages.list.iter().skip(before) {
            progress.finished.remove(&ended.name);
        }
        self.backwards(Back::Previous, progress, reason)
    }

    /// Half the weight in force, and a pause.
    fn halved(&self, reason: String) -> Turn {
        let half = Weight::from_ppm(self.weight().ppm() / 2).unwrap_or(Weight::ZERO);
        let progress = Progress { state: State::Paused, share: Some(half), ..self.progress.clone() };
        self.backwards(Back::Half, progress, reason)
    }

    fn paused(&self, reason: String) -> Turn {
        self.turn(Kind::Pause, Progress { state: State::Paused, ..self.progress.clone() }, reason)
    }
}

/// A stage that has passed waits for a person; told once.
fn waits(ground: &Ground<'_>, stage: &Stage) -> Option<Turn> {
    if ground.progress.state == State::WaitingApproval {
        return None;
    }
    let reason = format!("stage `{}` has passed and waits for approval", stage.name);
    Some(ground.turn(Kind::Approval, Progress { state: State::WaitingApproval, ..ground.progress.clone() }, reason))
}

/// What a trigger that fires brings.
fn fire(trigger: &Trigger, reason: String, ground: &Ground<'_>, acts: bool) -> Turn {
    let held = match trigger.held_for.is_zero() {
        true => String::new(),
        false => format!(" for {}", span_text(trigger.held_for)),
    };
    let reason = format!("trigger `{}`: {reason}{held}", trigger.name);
    let told = |reason: String| ground.turn(Kind::Alert, ground.progress.clone(), reason);
    let mut turn = if trigger.dry_run {
        told(format!("{reason} (dry run: would {})", trigger.action.word()))
    } else if let Some(other) = &trigger.rollout {
        let idle = if acts { "" } else { ", which serves nobody" };
        let mut turn = told(format!("{reason}: {} of `{other}`{idle}", trigger.action.word()));
        turn.acts_on = acts.then(|| (Arc::clone(other), trigger.action));
        turn
    } else {
        act(trigger.action, reason, ground)
    };
    turn.trigger = Some(Arc::clone(&trigger.name));
    turn
}

/// What an action makes of a rollout that serves.
pub fn act(action: Action, reason: String, ground: &Ground<'_>) -> Turn {
    let settled = matches!(ground.progress.state, State::Paused | State::Completed);
    match action {
        Action::Rollback => ground.backwards_to_stable(reason),
        Action::Previous => ground.backwards_to_previous(reason),
        Action::Half => ground.halved(reason),
        // There is nothing to hold up any more, but somebody should know.
        Action::Pause if settled => ground.turn(Kind::Alert, ground.progress.clone(), reason),
        Action::Pause => ground.paused(reason),
        Action::Alert => ground.turn(Kind::Alert, ground.progress.clone(), reason),
    }
}
