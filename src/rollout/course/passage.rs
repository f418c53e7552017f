//! What stands between a rollout and its next stage. One answer for all who ask: the clock, a promotion, and whoever wants to
//! know beforehand.

use super::{Course, Ground, Verdict};
use crate::rollout::criterion::Evaluation;
use crate::rollout::report::State;
use crate::rollout::stages::{After, Stage, span_text};
use std::fmt;
use std::time::Duration;

/// One thing that holds a rollout where it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Obstacle<'a> {
    /// Its state goes nowhere by itself: over, taken back, paused, or not started.
    State(State),
    /// It is off, for a reason that its plan does not know.
    Off,
    /// It is killed, or its breaker is not closed: its clock stands still and gates wait.
    Frozen,
    /// Time still to serve.
    Time(Duration),
    /// The gates have not been judged since the stage began.
    Unjudged(&'a Stage),
    /// A gate that does not pass.
    Gate(&'a Stage, &'a Evaluation),
    /// Nobody has approved it.
    Approval(&'a Stage),
    /// A stage of another rollout that has not ended.
    After(&'a After),
}

impl Obstacle<'_> {
    /// Whether a person who says `promote` is a reason to pass over it: they have waited long enough, and approve by saying
    /// so. Gates are asked all the same.
    pub const fn yields_to_promotion(&self) -> bool {
        matches!(
            self,
            Obstacle::Time(_)
                | Obstacle::Approval(_)
                | Obstacle::State(State::Paused | State::Pending | State::WaitingApproval)
        )
    }

    /// What it comes to: a gate that fails and a rollout that is over or off say no, everything else may yet come.
    pub fn verdict(&self) -> Verdict {
        match self {
            Obstacle::Gate(_, gate) => Verdict::of(gate),
            Obstacle::State(State::Completed | State::RolledBack) | Obstacle::Off => Verdict::Fail,
            _ => Verdict::Wait,
        }
    }
}

/// As a refusal says it.
impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::State(State::Pending) => f.write_str("it waits for somebody to start it (autostart = false)"),
            Obstacle::State(state) => write!(f, "the rollout is {}", state.word().replace('_', " ")),
            Obstacle::Off => f.write_str("the rollout is off in the config (enabled = false)"),
            Obstacle::Frozen => f.write_str("the rollout is killed or its breaker is open: gates wait"),
            Obstacle::Time(left) => write!(f, "{} still to serve", span_text(*left)),
            Obstacle::Unjudged(stage) => write!(f, "the gates of stage `{}` have not been judged yet", stage.name),
            Obstacle::Gate(stage, gate) => {
                let verdict = Verdict::of(gate).word();
                write!(f, "a gate of stage `{}` does not pass ({verdict}): {}", stage.name, gate.reason)
            }
            Obstacle::Approval(stage) => write!(f, "stage `{}` waits for approval", stage.name),
            Obstacle::After(after) => {
                write!(f, "it waits for stage `{}` of rollout `{}` to end", after.stage, after.rollout)
            }
        }
    }
}

impl Course {
    /// Everything between a rollout and its next stage, or its completion after the last one; nothing if it goes on at the
    /// next look. The order is that in which they are asked.
    pub fn obstacles<'a>(&'a self, ground: &Ground<'a>) -> Vec<Obstacle<'a>> {
        self.obstacles_before(ground.next(), ground)
    }

    /// The same, where the stage at that place comes next.
    pub(super) fn obstacles_before<'a>(&'a self, next: usize, ground: &Ground<'a>) -> Vec<Obstacle<'a>> {
        let progress = ground.progress;
        let mut found = Vec::new();
        if matches!(progress.state, State::Completed | State::RolledBack) {
            return vec![Obstacle::State(progress.state)];
        }
        if !ground.enabled {
            found.push(Obstacle::Off);
        }
        if ground.frozen {
            found.push(Obstacle::Frozen);
        }
        let starts = progress.state == State::Pending;
        if progress.state == State::Paused || (starts && !ground.stages.autostart) {
            found.push(Obstacle::State(progress.state));
        }
        if let Some((_, stage)) = ground.stage().filter(|_| !starts) {
            let left = stage.min_duration.saturating_sub(progress.served);
            found.extend((!left.is_zero()).then_some(Obstacle::Time(left)));
            found.extend(self.closed_gates(progress.visit, stage));
            found.extend((stage.approval && !progress.approved).then_some(Obstacle::Approval(stage)));
        }
        let after = ground.stages.list.get(next).and_then(|stage| stage.after.as_ref());
        found.extend(after.filter(|after| !(ground.has_finished)(after)).map(Obstacle::After));
        found
    }

    /// The gates of the stage that do not pass.
    fn closed_gates<'a>(&'a self, visit: u64, stage: &'a Stage) -> Vec<Obstacle<'a>> {
        if stage.gates.is_empty() {
            return Vec::new();
        }
        if self.gates_of != Some(visit) || self.gates.len() != stage.gates.len() {
            return vec![Obstacle::Unjudged(stage)];
        }
        let closed = self.gates.iter().filter(|gate| Verdict::of(gate) != Verdict::Pass);
        closed.map(|gate| Obstacle::Gate(stage, gate)).collect()
    }
}

impl<'a> Ground<'a> {
    /// The place of the stage that comes next; behind the last one the plan is complete.
    pub fn next(&self) -> usize {
        match self.stage() {
            Some((index, _)) if self.progress.state != State::Pending => index + 1,
            _ => 0,
        }
    }
}
