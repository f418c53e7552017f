//! Four times a second: what was measured of each rollout goes to its plan's gates and triggers, by way of the engine like every
//! other input.

use super::super::sources::Sources;
use super::{Denied, Supervisor};
use crate::clock::Time;
use crate::config::Config;
use crate::rollout::course::{Asked, Captured, Narrowed, Readings, asks, narrowed, records};
use crate::rollout::engine::Input;
use crate::rollout::stages::Span;
use crate::rollout::standing::Standing;
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the plans: a trigger without `for` acts this soon.
pub(super) const WATCH_EVERY: Duration = Duration::from_millis(250);

impl Supervisor {
    /// Has every rollout that its plan or a rollback asks it for look at where it stands.
    pub(super) fn watch_plans(&mut self, now: Time) {
        if now.since(self.watched_at) < WATCH_EVERY {
            return;
        }
        self.watched_at = now;
        let config = Arc::clone(&self.config);
        let mut looks = Vec::new();
        {
            let sources = self.sources(&config, now);
            for standing in self.engine.standings().filter(Standing::is_watched) {
                let (name, stages) = (&standing.plan.name, &standing.plan.stages);
                let (stage, course) = (standing.saved.progress.stage.as_deref(), &standing.runtime.course);
                let asked = asks(stages, stage, course.went_back());
                let readings = Readings::take(asked, |span, asked| sources.reading(name, span, asked));
                let record = Captured::take(records(stages), |asked| sources.reading(name, Span::Stage, asked));
                looks.push((Arc::clone(name), standing.saved.progress.visit, readings, record));
            }
        }
        let wall = self.clock.wall();
        for (rollout, visit, readings, record) in looks {
            // Another rollout's trigger may have moved it a moment ago: what was read is of the stage that it left.
            if self.visit(&rollout) != Some(visit) {
                continue;
            }
            // What is denied, because it cannot be written down, comes again by itself.
            let _ = self.carry_out(Input::Watched { rollout, wall, readings, record });
        }
    }

    /// Everything that criteria can read at one moment.
    pub(super) fn sources<'a>(&'a self, config: &'a Config, now: Time) -> Sources<'a> {
        let trips = |standing: Standing<'_>| {
            let watched = standing.plan.breaker.is_some();
            watched.then(|| (Arc::clone(&standing.plan.name), u64::from(standing.saved.breaker.trips)))
        };
        let trips = self.engine.standings().filter_map(trips).collect();
        Sources::new(&self.collector, &self.queries, &self.own, &self.compared, config, trips, now)
    }

    /// Gates and triggers of a rollout on one cohort's own numbers.
    pub(super) fn narrowed(&self, rollout: &str, cohort: &str) -> Result<Narrowed, Denied> {
        let standing = self.engine.standing(rollout);
        let standing = standing.ok_or_else(|| Denied::NotFound(format!("no rollout `{rollout}`")))?;
        let Some(cohort) = standing.plan.cohort(cohort) else {
            return Err(Denied::NotFound(format!("rollout `{rollout}` has no cohort `{cohort}`")));
        };
        let sources = self.sources(&self.config, self.clock.now());
        let stage = standing.saved.progress.stage.as_deref();
        let captures = &standing.runtime.captures;
        let read = |span: Span, asked: &Asked| sources.reading(rollout, span, asked);
        Ok(narrowed(&standing.plan.stages, stage, &cohort.name, captures, read))
    }

    fn visit(&self, rollout: &str) -> Option<u64> {
        self.engine.standing(rollout).map(|standing| standing.saved.progress.visit)
    }
}
