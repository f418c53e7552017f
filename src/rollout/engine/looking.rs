//! The looks that are taken at a rollout by themselves: its breaker's every 25 ms, its plan's a few times a second; and what
//! a change of state, by whomever, means for the clocks that run between them.

use super::{Engine, Measured, Readings, Refused, Step};
use crate::rollout::breaker::{self, Turn};
use crate::rollout::course::{Captured, Known, Place};
use crate::rollout::plan::Plan;
use crate::rollout::report::PassageReport;
use crate::rollout::stages::After;
use crate::rollout::standing::{Runtime, Save, Standing};
use crate::rollout::turn::turned;
use crate::rollout::walk;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

impl Engine {
    /// Has the breaker of a rollout judge. A rollout that serves nobody has nothing to be judged by.
    pub(super) fn look(&mut self, rollout: &Arc<str>, measured: &Measured) -> Step {
        let now = self.now;
        let serves = |standing: Standing<'_>| standing.serves() && !standing.killed();
        if !self.standing(rollout).is_some_and(serves) {
            return Step::default();
        }
        let Some(breaker) = self.states.get_mut(rollout).and_then(|runtime| runtime.breaker.as_mut()) else {
            return Step::default();
        };
        // What may lead towards the canary is tried on a copy: it happens only once it is written down. Only a breaker that
        // is not closed can do so, and such a one has little in its windows to be copied.
        let mut copy = (breaker.state() != breaker::State::Closed).then(|| breaker.clone());
        let turns = copy.as_mut().unwrap_or(breaker).look(now, measured);
        if turns.is_empty() {
            if let Some(looked) = copy {
                *breaker = looked;
            }
            return Step::default();
        }
        let after = copy.as_ref().unwrap_or(breaker).saved().clone();
        let Some(standing) = self.standing(rollout) else { return Step::default() };
        let mut step = turned(&standing, &after, &turns);
        step.breaker = copy.map(|looked| (Arc::clone(rollout), looked));
        if step.exposes && standing.runtime.retry_at.is_some_and(|at| now < at) {
            return Step::default();
        }
        if let Some(runtime) = self.states.get_mut(rollout) {
            count_trips(runtime, &turns);
        }
        step
    }

    /// Has the course of a rollout judge gates and triggers: what happens at once, and what waits for its record. The first
    /// never waits with the second, or a full disk could keep a sick canary where it is.
    pub(super) fn watch(&mut self, rollout: &Arc<str>, readings: &Readings, record: Captured) -> (Step, Step) {
        let (now, wall) = (self.now, self.wall);
        if self.standing(rollout).is_none() {
            return (Step::default(), Step::default());
        }
        let runtime = self.states.entry(Arc::clone(rollout)).or_default();
        runtime.record = record;
        let mut course = std::mem::take(&mut runtime.course);
        let has_finished = |after: &After| self.has_finished(after);
        let serves = |other: &str| self.standing(other).is_some_and(|standing| standing.serves());
        let Some(standing) = self.standing(rollout) else { return (Step::default(), Step::default()) };
        let known = Known { readings, captures: &standing.runtime.captures };
        let (served, turns) = course.look(now, &standing.ground(wall, &has_finished), &known, &serves);
        let (mut at_once, mut waits) = (Step::default(), Step::default());
        let mut others: Vec<Arc<str>> = Vec::new();
        for turn in &turns {
            let Some((other, action)) = &turn.acts_on else { continue };
            // The gravest comes first; what another trigger asks of the same rollout is asked again if it still holds.
            let Some(standing) = self.standing(other).filter(|_| !others.contains(other)) else { continue };
            others.push(Arc::clone(other));
            let (now, later) = walk::acted_on(&standing, *action, turn, wall, &has_finished);
            (at_once, waits) = (at_once.and(now), waits.and(later));
        }
        let (now_too, later) = walk::looked(&standing, turns, wall, &has_finished);
        (at_once, waits) = (now_too.and(at_once), later.and(waits));
        // A step of its own that could not be written down is not tried at every look; one towards stable is.
        let again = standing.runtime.retry_at.is_some_and(|at| now < at) && waits.otherwise.is_none();
        if let Some(runtime) = self.states.get_mut(rollout) {
            (runtime.course, runtime.saved.progress.served) = (course, served);
        }
        let waits = if again { Step::default() } else { self.with_served(waits, rollout, served) };
        let at_once = self.with_served(at_once, rollout, served);
        match at_once.is_empty() && waits.is_empty() {
            true => (self.serving_on(rollout, served), Step::default()),
            false => (at_once, waits),
        }
    }

    /// The time served is part of what every step saves.
    fn with_served(&self, mut step: Step, rollout: &Arc<str>, served: Duration) -> Step {
        let visit = self.states.get(rollout).map(|runtime| runtime.saved.progress.visit);
        for save in &mut step.saves {
            if let Save::Rollout { rollout: of, saved } = save
                && of == rollout
                && visit == Some(saved.progress.visit)
            {
                saved.progress.served = served;
            }
        }
        step
    }

    /// The time served is also written down by itself now and then.
    fn serving_on(&mut self, rollout: &Arc<str>, served: Duration) -> Step {
        let now = self.now;
        let Some(runtime) = self.states.get_mut(rollout) else { return Step::default() };
        if now.since(runtime.served_saved_at) < walk::SERVED_SAVED_EVERY {
            return Step::default();
        }
        runtime.served_saved_at = now;
        if served == runtime.served_saved {
            return Step::default();
        }
        runtime.served_saved = served;
        self.standing(rollout).map_or(Step::default(), |standing| walk::served(&standing))
    }

    /// Whether a stage of a rollout has ended forwards, and the rollout has not been taken back since: what was finished by
    /// one that serves nobody any more is no ground to build on.
    pub(super) fn has_finished(&self, after: &After) -> bool {
        let stands = |standing: Standing<'_>| standing.serves() && !standing.killed();
        self.standing(&after.rollout)
            .filter(|standing| standing.saved.progress.finished.contains(&after.stage))
            .is_some_and(stands)
    }

    /// What stands between a rollout and its next stage; none for one without stages.
    pub fn passage(&self, standing: &Standing<'_>) -> Option<PassageReport> {
        standing.passage(&|after| self.has_finished(after))
    }

    /// What stands between a rollout and the first stage that admits a cohort.
    ///
    /// # Errors
    /// As `Standing::passage_to`.
    pub fn passage_to(&self, standing: &Standing<'_>, cohort: &str) -> Result<PassageReport, Refused> {
        standing.passage_to(cohort, &|after| self.has_finished(after))
    }

    /// Where every rollout of the config stands, as far as its course's clocks go.
    pub(super) fn places(&self) -> BTreeMap<Arc<str>, Place> {
        self.standings().map(|standing| (Arc::clone(&standing.plan.name), standing.place())).collect()
    }

    /// After a change of state: clocks and windows of a rollout begin where it has moved, and stable is looked at where one
    /// was rolled back.
    pub(super) fn moved_on(&mut self, before: &BTreeMap<Arc<str>, Place>) {
        let now = self.now;
        for (rollout, place) in self.places() {
            let was = before.get(&rollout);
            if was == Some(&place) {
                continue;
            }
            let Some(runtime) = self.states.get_mut(&rollout) else { continue };
            runtime.course.moved(now, was, &place);
            if was.is_some_and(|was| was.visit != place.visit) {
                runtime.record = Captured::default();
            }
        }
    }

    /// Before other plans are adopted: what was seen of a trigger or a gate that is another one now says nothing about it.
    pub(super) fn keep_alarms(&mut self, plans: &[Plan]) {
        for old in &self.plans {
            let Some(runtime) = self.states.get_mut(&old.name) else { continue };
            if let Some(new) = plans.iter().find(|new| new.name == old.name).filter(|new| new.stages != old.stages) {
                runtime.course.replanned(&old.stages, &new.stages);
            }
        }
    }
}

fn count_trips(runtime: &mut Runtime, turns: &[Turn]) {
    for turn in turns {
        if let Turn::Trip(trip) = turn
            && let Some(count) = runtime.tripped.get_mut(trip.cause as usize)
        {
            *count += 1;
        }
    }
}
