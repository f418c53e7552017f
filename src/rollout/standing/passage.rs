//! What stands between a rollout and a stage of its plan, for people and programs that ask: the obstacles of its course, in
//! the words of what is known beyond the course.

use super::Standing;
use crate::clock::Wall;
use crate::rollout::breaker;
use crate::rollout::course::{Command, Obstacle, Verdict};
use crate::rollout::engine::Refused;
use crate::rollout::report::{ObstacleReport, Origin, PassageReport, PlannedStage, State};
use crate::rollout::stages::{After, Stage};
use crate::rollout::walk;
use std::sync::Arc;
use std::time::Duration;

impl Standing<'_> {
    /// What stands between the rollout and its next stage; none for one without stages.
    pub fn passage(&self, has_finished: &dyn Fn(&After) -> bool) -> Option<PassageReport> {
        if !self.plan.is_staged() {
            return None;
        }
        let ground = self.ground(Wall::default(), has_finished);
        let course = &self.runtime.course;
        let found = course.obstacles(&ground);
        let next = self.plan.stages.list.get(ground.next());
        let completed = self.state() == State::Completed;
        Some(PassageReport {
            from: ground.stage().map(|(_, stage)| Arc::clone(&stage.name)),
            to: next.filter(|_| !completed).map(|stage| Arc::clone(&stage.name)),
            entered: false,
            verdict: worst(found.iter().map(Obstacle::verdict)).word(),
            may_promote: walk::command(self, &PROMOTE, Wall::default(), has_finished, &Origin::default()).is_ok(),
            obstacles: found.iter().filter_map(|obstacle| self.told(obstacle)).collect(),
        })
    }

    /// What stands between the rollout and the first stage that admits a cohort.
    ///
    /// # Errors
    /// `NotFound` for a cohort that is not there, `Invalid` for one that no stage can let onto the canary, `Conflict` for a
    /// rollout without stages.
    pub fn passage_to(&self, cohort: &str, has_finished: &dyn Fn(&After) -> bool) -> Result<PassageReport, Refused> {
        let (rollout, stages) = (&self.plan.name, &self.plan.stages);
        let Some(plan) = self.plan.cohort(cohort) else {
            return Err(Refused::NotFound(format!("rollout `{rollout}` has no cohort `{cohort}`")));
        };
        let invalid = |message: String| Refused::Invalid { field: "cohort", message };
        if plan.exclude {
            let message = format!("cohort `{cohort}` keeps its members off the canary (exclude = true)");
            return Err(invalid(message));
        }
        let Some(passage) = self.passage(has_finished) else {
            let why = format!("rollout `{rollout}` has no stages: an enabled cohort is admitted at once");
            return Err(Refused::Conflict(why));
        };
        let admits = |stage: &Stage| stage.cohorts.iter().any(|name| **name == *cohort);
        let Some((index, stage)) = stages.list.iter().enumerate().find(|(_, stage)| admits(stage)) else {
            return Err(invalid(format!("no stage of rollout `{rollout}` admits cohort `{cohort}`")));
        };
        let next = self.ground(Wall::default(), has_finished).next();
        let mut passage = PassageReport { to: Some(Arc::clone(&stage.name)), ..passage };
        if index < next {
            // What holds the stage after it is of no concern, unless nobody is on the canary at all.
            let grave = |obstacle: &ObstacleReport| GRAVE.contains(&obstacle.kind);
            (passage.entered, passage.may_promote) = (true, false);
            passage.obstacles.retain(|obstacle| grave(obstacle));
        }
        if index > next {
            let between = stages.list.iter().take(index).skip(next);
            let names: Vec<String> = between.map(|stage| format!("`{}`", stage.name)).collect();
            let (s, comes) = if names.len() == 1 { ("", "comes") } else { ("s", "come") };
            let reason = format!("stage{s} {} {comes} before it", names.join(", "));
            passage.may_promote = false;
            passage.obstacles.push(held("stages", Verdict::Wait, reason));
        }
        if !plan.enabled {
            let reason = format!("cohort `{cohort}` is off in the config (enabled = false)");
            passage.obstacles.push(held("cohort", Verdict::Fail, reason));
        } else if self.cohort_killed(cohort) {
            let reason = format!("cohort `{cohort}` was switched off: `revive` it");
            passage.obstacles.push(held("cohort", Verdict::Fail, reason));
        }
        let verdict = |obstacle: &ObstacleReport| match obstacle.verdict {
            "fail" => Verdict::Fail,
            _ => Verdict::Wait,
        };
        passage.verdict = worst(passage.obstacles.iter().map(verdict)).word();
        Ok(passage)
    }

    /// The stages of the plan.
    pub fn planned(&self) -> Vec<PlannedStage> {
        let planned = |stage: &Stage| PlannedStage {
            name: Arc::clone(&stage.name),
            weight: stage.weight.min(self.plan.weight),
            min_duration: stage.min_duration,
            max_duration: stage.max_duration,
            cohorts: stage.cohorts.clone(),
            after: stage.after.as_ref().map(|after| (Arc::clone(&after.rollout), Arc::clone(&after.stage))),
            approval: stage.approval,
            finished: self.saved.progress.finished.contains(&stage.name),
        };
        self.plan.stages.list.iter().map(planned).collect()
    }

    /// An obstacle in full; none if another one says it already.
    fn told(&self, obstacle: &Obstacle<'_>) -> Option<ObstacleReport> {
        let verdict = obstacle.verdict();
        let because = |what: &str| match &self.saved.progress.reason {
            Some(reason) if !reason.is_empty() => format!("{what}: {reason}"),
            _ => what.to_owned(),
        };
        let own = || self.reason().unwrap_or_else(|| obstacle.to_string());
        let (kind, reason) = match obstacle {
            Obstacle::Off if self.saved.held => ("held", format!("it is held ({}): revive it first", own())),
            Obstacle::Off if self.saved.breaker.rolled_back => ("rolled_back", own()),
            Obstacle::Off => ("off", obstacle.to_string()),
            Obstacle::Frozen if self.killed() => ("killed", own()),
            Obstacle::Frozen if self.breaker() == breaker::State::Closed => return None,
            Obstacle::Frozen => ("breaker", self.circuit()),
            Obstacle::State(State::RolledBack) => ("rolled_back", because("it is rolled back")),
            Obstacle::State(State::Completed) => ("completed", "the plan is complete: no stage follows".to_owned()),
            Obstacle::State(State::Paused) => ("paused", because("it is paused")),
            Obstacle::State(_) => ("start", obstacle.to_string()),
            Obstacle::Time(_) => ("time", obstacle.to_string()),
            Obstacle::Unjudged(_) => ("gate", obstacle.to_string()),
            Obstacle::Gate(_, gate) => ("gate", gate.reason.clone()),
            Obstacle::Approval(_) => ("approval", obstacle.to_string()),
            Obstacle::After(_) => ("after", obstacle.to_string()),
        };
        let remaining: Option<Duration> = if let Obstacle::Time(left) = obstacle { Some(*left) } else { None };
        Some(ObstacleReport { remaining, ..held(kind, verdict, reason) })
    }

    fn circuit(&self) -> String {
        let state = self.breaker().word().replace('_', "-");
        match &self.saved.breaker.reason {
            Some(reason) => format!("its breaker is {state}: {reason}"),
            None => format!("its breaker is {state}"),
        }
    }
}

fn held(kind: &'static str, verdict: Verdict, reason: String) -> ObstacleReport {
    ObstacleReport { kind, verdict: verdict.word(), reason, remaining: None }
}

fn worst(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    verdicts.fold(Verdict::Pass, |worst, verdict| match (worst, verdict) {
        (Verdict::Fail, _) | (_, Verdict::Fail) => Verdict::Fail,
        (Verdict::Wait, _) | (_, Verdict::Wait) => Verdict::Wait,
        _ => Verdict::Pass,
    })
}

/// What a person would ask for.
const PROMOTE: Command = Command::Promote { force: false, full: false };
/// Obstacles that keep everybody off the canary.
const GRAVE: &[&str] = &["killed", "breaker", "held", "off", "rolled_back"];

#[cfg(test)]
mod tests;
