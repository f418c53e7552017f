//! What a person may ask of a rollout's course, and when it is denied.

use super::{Course, Ground, Obstacle, Progress, Turn, act};
use crate::rollout::bucket::Weight;
use crate::rollout::report::{Kind, State};
use crate::rollout::stages::{Action, Stages};
use std::sync::Arc;

/// What a person asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The stage's clock stands still; traffic stays as it is.
    Pause,
    /// It goes on, or begins.
    Resume,
    /// The next stage, if the gates pass; `force` asks no gate, `full` means the last stage.
    Promote {
        /// Whether gates and `after` are passed over. Minimum time and approval are by every promotion: it is a person's word.
        force: bool,
        /// Whether it goes to the last stage at once.
        full: bool,
    },
    /// Towards stable.
    Rollback(Back),
    /// The stage may end once its gates pass.
    Approve,
    /// The weight within the stage; `force` may exceed the stage's, but not the file's.
    Weight {
        /// Share of units on the canary.
        weight: Weight,
        /// Whether it may exceed the stage's.
        force: bool,
    },
    /// A rolled-back rollout begins the stage it left anew.
    Revive,
}

/// How far back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Back {
    /// Everything to stable.
    #[default]
    Stable,
    /// To the stage before.
    Previous,
    /// Half the weight, and a pause.
    Half,
}

impl Back {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Back::Stable => "stable",
            Back::Previous => "previous",
            Back::Half => "half",
        }
    }
}

/// Why a person's wish is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied(pub String);

impl Course {
    /// What a command brings; none if it changes nothing. `reason` is the person's own word.
    ///
    /// # Errors
    /// If the rollout's state does not allow it, with the gate that does not pass where one does not.
    pub fn command(&self, command: &Command, ground: &Ground<'_>, reason: &str) -> Result<Option<Turn>, Denied> {
        let why = reason.to_owned();
        let progress = ground.progress;
        let turn = match command {
            Command::Pause => match progress.state {
                State::Paused => None,
                State::Running | State::WaitingApproval => Some(ground.paused(why)),
                State::Pending if ground.serves() => Some(ground.paused(why)),
                state => return Err(not_while(state, "nothing can be paused")),
            },
            Command::Resume => self.resume(ground, why)?,
            Command::Promote { force, full } => Some(self.promote(ground, *force, *full, why)?),
            Command::Rollback(back) => Some(rollback(*back, ground, why)?),
            Command::Approve => approve(ground, why)?,
            Command::Weight { weight, force } => set_weight(*weight, *force, ground, why)?,
            Command::Revive if progress.state == State::RolledBack => {
                Some(kind(Kind::Revive, ground.turn(Kind::Stage, ground.restarted(), why)))
            }
            Command::Revive => return Err(Denied("the rollout is not rolled back: nothing to revive".into())),
        };
        Ok(turn.filter(|turn| turn.changes(progress)))
    }

    fn resume(&self, ground: &Ground<'_>, why: String) -> Result<Option<Turn>, Denied> {
        match ground.progress.state {
            State::Running | State::WaitingApproval => Ok(None),
            // Without stages it is running.
            State::Pending if ground.stages.list.is_empty() && ground.serves() => Ok(None),
            // It was under way when it had no stages: now it begins the first one.
            State::Paused if ground.stage().is_none() && !ground.stages.list.is_empty() => {
                self.start(ground, 0, false, why).map(Some)
            }
            State::Paused => {
                let progress = match self.has_run_out(ground) {
                    true => ground.restarted(),
                    false => Progress { state: State::Running, reason: None, ..ground.progress.clone() },
                };
                Ok(Some(kind(Kind::Resume, ground.turn(Kind::Stage, progress, why))))
            }
            State::Pending if !ground.stages.list.is_empty() => self.start(ground, 0, false, why).map(Some),
            state => Err(not_while(state, "nothing can be resumed")),
        }
    }

    /// Whether the stage has lasted as long as it may and still does not pass: resumed as it is it would pause again at the
    /// next look, before anybody could do anything. It begins anew instead, with all of its time and with evidence of its own.
    fn has_run_out(&self, ground: &Ground<'_>) -> bool {
        let Some((_, stage)) = ground.stage() else { return false };
        let over = stage.max_duration.is_some_and(|most| ground.progress.served >= most);
        let closed = |obstacle: &Obstacle<'_>| matches!(obstacle, Obstacle::Gate(..) | Obstacle::Unjudged(_));
        over && self.obstacles(ground).iter().any(closed)
    }

    fn start(&self, ground: &Ground<'_>, index: usize, force: bool, why: String) -> Result<Turn, Denied> {
        let held = self.obstacles_before(index, ground);
        // A killed rollout may begin: its clock stands still until it is revived.
        let held = held.iter().filter(|obstacle| !obstacle.yields_to_promotion() && **obstacle != Obstacle::Frozen);
        match held.into_iter().find(|obstacle| !force || **obstacle == Obstacle::Off) {
            Some(obstacle) => Err(Denied(obstacle.to_string())),
            None => {
                let mut turn = ground.entering(index, why);
                turn.progress.finished.extend(ground.stages.names_before(index));
                Ok(turn)
            }
        }
    }

    fn promote(&self, ground: &Ground<'_>, force: bool, full: bool, why: String) -> Result<Turn, Denied> {
        let Some(last) = ground.stages.list.len().checked_sub(1) else {
            return Err(Denied("the rollout has no stages: set its weight".into()));
        };
        match ground.progress.state {
            State::Paused | State::Pending if ground.stage().is_none() => {
                return self.start(ground, if full { last } else { 0 }, force, why);
            }
            State::Running | State::Paused | State::WaitingApproval => {}
            state => return Err(not_while(state, "nothing can be promoted")),
        }
        let Some((index, _)) = ground.stage() else { return Err(Denied("the rollout is in no stage".into())) };
        let to = if full && index < last { last } else { index + 1 };
        let obstacles = self.obstacles_before(to, ground);
        if let Some(obstacle) = obstacles.iter().find(|obstacle| !force && !obstacle.yields_to_promotion()) {
            return Err(Denied(obstacle.to_string()));
        }
        let mut turn = ground.onwards(index, why);
        if full && index < last {
            // The stages between are passed over, and that counts as their end: others may wait for it.
            let mut finished = std::mem::take(&mut turn.progress.finished);
            finished.extend(ground.stages.names_before(last));
            turn.progress = Progress { finished, ..ground.at_start_of(last, State::Running) };
        }
        Ok(turn)
    }
}

impl Stages {
    fn names_before(&self, index: usize) -> impl Iterator<Item = Arc<str>> {
        self.list.iter().take(index).map(|stage| Arc::clone(&stage.name))
    }

    /// What becomes of a rollout's progress when this plan takes the place of the one it followed.
    ///
    /// # Errors
    /// If the rollout is under way in a stage that this plan does not have.
    pub fn adopt(&self, progress: &Progress) -> Result<Progress, Denied> {
        // A rollout that had no stages begins the first one; one that was paused or taken back stays so.
        let rests = matches!(progress.state, State::RolledBack | State::Paused);
        if progress.stage.is_none() && !self.list.is_empty() && !rests {
            return Ok(Progress { visit: progress.visit, ..Progress::default() });
        }
        let known = progress.stage.as_deref().is_none_or(|stage| self.find(stage).is_some());
        let mut adopted = progress.clone();
        adopted.finished.retain(|stage| self.find(stage).is_some());
        let ends = self.list.last().map(|stage| &stage.name) == progress.stage.as_ref();
        match progress.state {
            // Stages were added after the last one: it goes on.
            State::Completed if known && !ends && !self.list.is_empty() => adopted.state = State::Running,
            _ if known => {}
            State::Running | State::Paused | State::WaitingApproval => {
                let stage = progress.stage.as_deref().unwrap_or_default();
                return Err(Denied(format!("the rollout is in stage `{stage}`, which the new plan does not have")));
            }
            State::Completed => adopted.stage = self.list.last().map(|stage| Arc::clone(&stage.name)),
            State::Pending | State::RolledBack => adopted.stage = None,
        }
        if self.list.is_empty() && matches!(progress.state, State::Completed | State::Pending) {
            // A weight that a person has lowered stays below the file's.
            return Ok(Progress { visit: progress.visit, share: progress.share, ..Progress::default() });
        }
        Ok(adopted)
    }
}

fn rollback(back: Back, ground: &Ground<'_>, why: String) -> Result<Turn, Denied> {
    if !ground.serves() {
        return Err(not_while(ground.progress.state, "there is nothing to take back"));
    }
    let action = match back {
        Back::Stable => Action::Rollback,
        Back::Previous if ground.stages.list.is_empty() => {
            return Err(Denied("the rollout has no stages: there is no previous one".into()));
        }
        Back::Previous => Action::Previous,
        Back::Half => Action::Half,
    };
    Ok(act(action, why, ground))
}

fn approve(ground: &Ground<'_>, why: String) -> Result<Option<Turn>, Denied> {
    if ground.stages.list.is_empty() {
        return Err(Denied("the rollout has no stages: nothing waits for approval".into()));
    }
    let serves = ground.serves() && ground.progress.state != State::Completed;
    let Some((_, stage)) = ground.stage().filter(|_| serves) else {
        return Err(not_while(ground.progress.state, "nothing waits for approval"));
    };
    if !stage.approval {
        return Err(Denied(format!("stage `{}` asks for no approval", stage.name)));
    }
    if ground.progress.approved {
        return Ok(None);
    }
    let state = match ground.progress.state {
        State::WaitingApproval => State::Running,
        state => state,
    };
    let progress = Progress { state, approved: true, ..ground.progress.clone() };
    Ok(Some(kind(Kind::Approve, ground.turn(Kind::Stage, progress, why))))
}

fn set_weight(weight: Weight, force: bool, ground: &Ground<'_>, why: String) -> Result<Option<Turn>, Denied> {
    if !ground.serves() {
        return Err(not_while(ground.progress.state, "its weight stays 0"));
    }
    if weight > ground.ceiling {
        return Err(Denied(format!("the config's weight {} is a ceiling for every stage", ground.ceiling)));
    }
    if let (Some((_, stage)), false) = (ground.stage(), force)
        && weight > stage.weight
    {
        return Err(Denied(format!("stage `{}` allows at most {}; `force` sets more", stage.name, stage.weight)));
    }
    let progress = Progress { share: Some(weight), ..ground.progress.clone() };
    Ok(Some(kind(Kind::Weight, ground.turn(Kind::Alert, progress, why))))
}

/// The same turn, told as something else.
fn kind(kind: Kind, turn: Turn) -> Turn {
    Turn { kind, ..turn }
}

fn not_while(state: State, what: &str) -> Denied {
    let until = if state == State::RolledBack { " until it is revived" } else { "" };
    Denied(format!("the rollout is {}: {what}{until}", state.word().replace('_', " ")))
}
