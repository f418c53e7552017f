//! Everything that is known of a rollout over some time, for whoever asks for a report.
//!
//! What stands in memory is gathered here; the history is read, and the review worked out, on the history's own thread.

use super::super::archive::{Day, Since};
use super::{Denied, Supervisor};
use crate::clock::Wall;
use crate::rollout::incident::IncidentRecord;
use crate::rollout::review::{Dossier, Review};
use std::time::Duration;
use tokio::sync::oneshot;

/// The way back of a dossier.
pub type Reply = oneshot::Sender<Result<Box<Dossier>, Denied>>;

impl Supervisor {
    /// Answers with everything that is known of a rollout over the last `span`, or all of its time. Whoever asked may have stopped waiting.
    pub(super) fn review(&mut self, rollout: &str, span: Option<Duration>, reply: Reply) {
        let (now, wall) = (self.clock.now(), self.clock.wall());
        self.collector.collect(&self.publisher.registry, now, false);
        let snapshot = self.publisher.present();
        let Some(standing) = self.engine.standing(rollout) else {
            return drop(reply.send(Err(Denied::NotFound(format!("no rollout `{rollout}`")))));
        };
        let name = standing.plan.name.clone();
        let before = |span: Duration| {
            Wall::from_millis(wall.as_millis().saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
        };
        let since = span.map_or(Wall::default(), before);
        let asked = span.map_or(Since::Begin, |_| Since::Then(since));
        let trail = self.store.trail(rollout, since, TRAIL_MAX);
        let read = trail.and_then(|trail| Ok((trail, self.store.incidents(rollout, INCIDENTS_MAX)?)));
        let read = read.map_err(|error| {
            tracing::error!(%error, "the audit trail cannot be read");
            Denied::Conflict(format!("the audit trail cannot be read: {error}"))
        });
        let ((trail, trail_is_cut), incidents) = match read {
            Ok(read) => read,
            Err(denied) => return drop(reply.send(Err(denied))),
        };
        let mut dossier = Box::new(Dossier {
            now: wall,
            since,
            rollout: self.report(&standing, snapshot.as_deref(), super::REPORT_WINDOW, now),
            review: Review::default(),
            without_history: None,
            incidents: incidents.into_iter().filter(|it| trail.iter().any(|event| event.id == it.event)).collect(),
            trail,
            trail_is_cut,
            baselines: standing.runtime.captures.clone(),
        });
        let (own, samples) = (self.resources(now, wall), self.unkept(rollout, now, wall));
        let then = move |day: Result<Day, String>| {
            let mut day = day.unwrap_or_else(|cause| {
                dossier.without_history = Some(cause);
                Day::default()
            });
            day.own.push(own);
            day.samples.extend(samples);
            dossier.review = Review::of(&day.own, &day.samples, wall);
            if asked == Since::Begin {
                dossier.since = dossier.review.began;
            }
            drop(reply.send(Ok(dossier)));
        };
        match &self.archive {
            Some(archive) => archive.ask(name, asked, Box::new(then)),
            None => then(Err("the metric history is not open".to_owned())),
        }
    }
}

impl Supervisor {
    /// The incidents of a rollout, the oldest first, at most `limit` of the newest.
    pub(super) fn incidents(&self, rollout: &str, limit: usize) -> Result<Vec<IncidentRecord>, Denied> {
        if self.engine.standing(rollout).is_none() {
            return Err(Denied::NotFound(format!("no rollout `{rollout}`")));
        }
        self.store.incidents(rollout, limit.min(INCIDENTS_MAX)).map_err(|error| {
            tracing::error!(%error, "incidents cannot be read");
            Denied::Conflict(format!("incidents cannot be read: {error}"))
        })
    }
}

/// Incidents that one question returns, at most; each is some kilobytes.
const INCIDENTS_MAX: usize = 100;
/// Entries of the trail in a dossier; the newest are there.
const TRAIL_MAX: usize = 1000;
