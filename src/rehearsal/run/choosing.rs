//! When queries of which nothing is said get another value, and what their limits refer to.

use super::Rehearsal;
use crate::rehearsal::usual::{self, Bound, Usual};
use crate::rollout::course::{Asked, Known, Measurements, Readings};
use crate::rollout::criterion::{Dimension, Metric, Origin, Reading, Sample};
use crate::rollout::stages::Span;
use crate::rollout::standing::Standing;
use std::sync::Arc;

impl Rehearsal<'_> {
    /// At first queries say what all stages ask of them at once, as far as that is written in numbers.
    pub(super) fn begin_usual(&mut self) {
        let unknown = |_: Sample<'_>| Reading::NoData("".into());
        for (query, dimension) in self.asked.clone() {
            let plans = self.config.rollouts.iter().map(|rollout| &rollout.plan);
            let bounds: Vec<Bound> =
                plans.flat_map(|plan| usual::bounds(&query, &plan.stages.list, plan, &unknown)).collect();
            if let Some(value) = usual::fitting(&bounds, dimension, None) {
                self.usually(&query, value, dimension, None);
            }
        }
    }

    /// What a query says is kept while it fits the stages that rollouts are in now, and with it what was recorded.
    pub(super) fn choose_usual(&mut self) {
        let mut chosen = Vec::new();
        for (query, dimension) in &self.asked {
            let before = self.world.usual.get(query).copied();
            let (mut bounds, mut from) = (Vec::new(), None);
            for standing in self.engine.standings() {
                let read = |sample: Sample<'_>| self.recorded(&standing, sample);
                let own = usual::bounds(query, standing.stage(), standing.plan, &read);
                if before.is_none_or(|before| usual::fitting(&own, *dimension, Some(before)) != Some(before)) {
                    from = standing.stage().map(|stage| (Arc::clone(&standing.plan.name), Arc::clone(&stage.name)));
                }
                bounds.extend(own);
            }
            let fits = usual::fitting(&bounds, *dimension, before).filter(|value| Some(*value) != before);
            chosen.extend(fits.map(|value| (Arc::clone(query), value, *dimension, from)));
        }
        for (query, value, dimension, from) in chosen {
            self.usually(&query, value, dimension, from);
        }
    }

    fn usually(&mut self, query: &Arc<str>, value: f64, dimension: Dimension, from: Option<(Arc<str>, Arc<str>)>) {
        self.world.usual.insert(Arc::clone(query), value);
        // What is said everywhere is never asked of anybody else.
        let metric = Metric::Query(Arc::clone(query));
        if !self.assumed.list.iter().any(|said| said.metric == metric && said.place.is_none()) {
            self.story.usual.push(Usual { query: Arc::clone(query), value, dimension, from });
        }
    }

    /// What was recorded of a rollout, or what it measures now.
    pub(super) fn recorded(&self, standing: &Standing<'_>, sample: Sample<'_>) -> Reading {
        let asked = Asked { arm: sample.arm, metric: sample.metric.clone(), filter: sample.filter.cloned() };
        let live = || self.world.reading(&standing.plan.name, Span::Stage, &asked);
        let readings = match sample.origin {
            Origin::Live => return live(),
            _ => Readings::default(),
        };
        Known { readings: &readings, captures: &standing.runtime.captures }.read(Span::Stage, sample)
    }
}
