//! What is known at the moment of a rollback, and what became of stable afterwards.

use super::super::collect::Part;
use super::Supervisor;
use crate::rollout::Arm;
use crate::rollout::engine::Input;
use crate::rollout::incident::{Incident, Recheck};
use crate::rollout::report::{Entry, Facts, GateReport, Kind};
use crate::rollout::review::ArmReview;
use crate::rollout::stages::Span;
use crate::rollout::standing::Standing;
use std::sync::Arc;
use std::time::Duration;

/// The times that an incident looks back at.
const WINDOWS: [(&str, Span); 3] = [
    ("1m", Span::Last(Duration::from_secs(60))),
    ("10m", Span::Last(Duration::from_secs(600))),
    ("stage", Span::Stage),
];
/// Requests from which stable's rate says something.
const REQUESTS_MIN: u64 = 10;

impl Supervisor {
    /// Everything that is known at the moment of an entry, if that is a rollback.
    pub(super) fn incident(&self, entry: &Entry) -> Option<Incident> {
        let rollout = entry.rollout.as_ref().filter(|_| entry.kind == Kind::Rollback)?;
        let (Facts::Standing { weight: before, stage, .. }, Facts::Standing { weight: after, .. }) =
            (&entry.old, &entry.new)
        else {
            return None;
        };
        let (now, standing) = (self.clock.now(), self.engine.standing(rollout)?);
        let windows = WINDOWS.map(|(name, span)| {
            let of = |arm| self.collector.counts(rollout, Part::Of(arm, None), span, now);
            let covered = Arm::ALL.map(|arm| of(arm).1).into_iter().max().unwrap_or_default();
            let arms = Arm::ALL.map(|arm| {
                let (counts, seconds) = (of(arm).0, covered.as_secs_f64());
                let rps = if seconds > 0.0 { counts.ended as f64 / seconds } else { 0.0 };
                ArmReview { counts, rps }
            });
            (name, covered, arms)
        });
        let (gates, triggers) = standing.found(stage.as_deref());
        Some(Incident {
            stage: stage.clone(),
            to: entry.to.unwrap_or_default(),
            trigger: entry.trigger.clone(),
            weight: (*before, *after),
            windows: windows.into(),
            gates,
            triggers,
            resources: self.resources(now, self.clock.wall()),
        })
    }

    /// The gates of the stage that an entry tells of leaving, as they were judged last.
    pub(super) fn gates_at(&self, entry: &Entry) -> Vec<GateReport> {
        let left = match (&entry.kind, &entry.old) {
            (
                Kind::Stage | Kind::Complete | Kind::Rollback | Kind::Pause | Kind::Approval,
                Facts::Standing { stage, .. },
            ) => stage.as_deref(),
            _ => return Vec::new(),
        };
        let standing = entry.rollout.as_ref().and_then(|rollout| self.engine.standing(rollout));
        standing.map_or_else(Vec::new, |standing| standing.found(left).0)
    }

    /// Completes the incidents whose look at stable has ended without an alarm.
    pub(super) fn complete_incidents(&mut self) {
        let looks = |standing: Standing<'_>| {
            let looks = standing.runtime.course.rechecks();
            looks.then(|| Arc::clone(&standing.plan.name))
        };
        let under_way = self.engine.standings().filter_map(looks).collect();
        let before = std::mem::replace(&mut self.rechecking, under_way);
        let over: Vec<Arc<str>> = before.difference(&self.rechecking).cloned().collect();
        for rollout in over {
            let span = Span::Last(Duration::from_secs(60));
            let part = Part::Of(Arm::Stable, None);
            let (counts, _) = self.collector.counts(&rollout, part, span, self.clock.now());
            let told = format!("{} of {} requests of stable failed in the last 1m", counts.failures(), counts.ended);
            let recheck = if counts.ended < REQUESTS_MIN { Recheck::Unknown } else { Recheck::Healthy };
            self.rechecked(Some(&rollout), recheck, &told);
        }
    }

    /// What an earlier process was looking at when it ended is looked at again, as long as there is such a rollout.
    pub(super) fn resume_rechecks(&mut self) {
        let pending = self.store.pending_rechecks().unwrap_or_else(|error| {
            tracing::error!(%error, "the incidents cannot be read, so stable is not looked at again");
            Vec::new()
        });
        for rollout in pending {
            if self.carry_out(Input::LookAgain { rollout: Arc::clone(&rollout) }).is_err() {
                let reason = "the rollout left the config before stable was judged";
                self.rechecked(Some(&rollout), Recheck::Unknown, reason);
            }
        }
    }

    fn rechecked(&mut self, rollout: Option<&Arc<str>>, recheck: Recheck, reason: &str) {
        if let Err(error) = self.store.rechecked(rollout, recheck, reason) {
            tracing::error!(%error, "state cannot be written");
            self.notes.unwritten = Some(error.to_string());
        }
    }
}
