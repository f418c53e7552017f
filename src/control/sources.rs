//! What criteria read, as this process has counted it: requests, signals, vitals, answers of Prometheus servers, weir itself.
//!
//! One `Sources` is made for one look and asked many times; what several metrics need is added up once. What a metric makes of
//! that is `rollout::metrics`, the same for a rehearsal. It judges nothing and changes nothing.

#[cfg(test)]
mod tests;

use super::collect::{Collector, Part};
use super::compare::{self, Compared};
use super::own::Own;
use super::query::Queries;
use crate::clock::Time;
use crate::config::{ArmTo, Config};
use crate::rollout::Arm;
use crate::rollout::course::Asked;
use crate::rollout::criterion::{Filter, Metric, Reading};
use crate::rollout::histogram::Histogram;
use crate::rollout::metrics::{self, Gauge, Seen, Sum};
use crate::rollout::sample::Number;
use crate::rollout::stages::Span;
use crate::rollout::vital::Vital;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Everything there is to read at one moment.
#[derive(Debug)]
pub struct Sources<'a> {
    collector: &'a Collector,
    queries: &'a Queries,
    own: &'a Own,
    compared: &'a Compared,
    config: &'a Config,
    trips: BTreeMap<Arc<str>, u64>,
    now: Time,
    /// What was added up already.
    sums: RefCell<BTreeMap<SumKey, Rc<Sum>>>,
}

/// Of which requests a sum is: rollout, span, arm (none for probes), part.
type SumKey = (Arc<str>, Span, Option<Arm>, Option<Filter>);

impl<'a> Sources<'a> {
    /// What was counted, what Prometheus servers said, weir itself, what was compared, the arms that answer by themselves, and by rollout the
    /// trips of its breaker since it was last revived (none without a breaker), as they are `now`.
    pub fn new(
        collector: &'a Collector,
        queries: &'a Queries,
        own: &'a Own,
        compared: &'a Compared,
        config: &'a Config,
        trips: BTreeMap<Arc<str>, u64>,
        now: Time,
    ) -> Self {
        Sources { collector, queries, own, compared, config, trips, now, sums: RefCell::default() }
    }

    /// The value of a metric over a span, in the held unit of its dimension.
    pub fn reading(&self, rollout: &str, span: Span, asked: &Asked) -> Reading {
        metrics::reading(&Of { sources: self, rollout, span }, asked)
    }

    /// What the copies of a rollout say.
    fn shadow(&self, rollout: &str, span: Span, metric: &Metric) -> Reading {
        match metric {
            Metric::ShadowDiffRate => self.differing(rollout, span),
            metric => metrics::of_copies(&self.collector.counts(rollout, Part::Shadow, span, self.now).0, metric),
        }
    }

    /// `shadow.diff_rate`.
    fn differing(&self, rollout: &str, span: Span) -> Reading {
        let config = self.config.rollout(rollout).and_then(|index| self.config.rollouts.get(index));
        let Some(diff) = config.and_then(|config| config.diff.as_ref()) else {
            return Reading::NoData("answers are not compared".into());
        };
        // What is kept is of the present stage alone.
        let since = match span {
            Span::Stage => Time::default(),
            Span::Last(time) | Span::InStage(time) => self.now - time,
        };
        self.compared.reading(rollout, since, compare::limits(&diff.rules, diff.noise.1, 1, None))
    }

    fn sum(&self, rollout: &str, span: Span, arm: Option<Arm>, filter: Option<&Filter>) -> Rc<Sum> {
        let key = (Arc::from(rollout), span, arm, filter.cloned());
        if let Some(sum) = self.sums.borrow().get(&key) {
            return Rc::clone(sum);
        }
        let part = arm.map_or(Part::Probes, |arm| Part::Of(arm, filter));
        let sum = Rc::new(self.collector.counts(rollout, part, span, self.now));
        self.sums.borrow_mut().insert(key, Rc::clone(&sum));
        sum
    }
}

/// One rollout over one span.
struct Of<'a> {
    sources: &'a Sources<'a>,
    rollout: &'a str,
    span: Span,
}

impl Seen for Of<'_> {
    fn requests(&self, arm: Option<Arm>, filter: Option<&Filter>) -> Rc<Sum> {
        self.sources.sum(self.rollout, self.span, arm, filter)
    }

    fn number(&self, number: &Number) -> u64 {
        self.sources.collector.beside.count(self.rollout, number, self.span, self.sources.now)
    }

    fn reports(&self, arm: Arm, vital: Vital) -> Histogram {
        self.sources.collector.beside.reports(self.rollout, arm, vital, self.span, self.sources.now)
    }

    fn responds(&self, arm: Arm) -> bool {
        let config = self.sources.config;
        let rollout = config.rollout(self.rollout).and_then(|index| config.rollouts.get(index));
        rollout.is_some_and(|rollout| matches!(rollout.arm(arm).to, ArmTo::Respond(_)))
    }

    fn trips(&self) -> Option<u64> {
        self.sources.trips.get(self.rollout).copied()
    }

    fn gauge(&self, gauge: Gauge<'_>) -> Reading {
        let Sources { queries, own, now, .. } = self.sources;
        match gauge {
            Gauge::Shadow(metric) => self.sources.shadow(self.rollout, self.span, metric),
            Gauge::Query(name) => queries.reading(name, *now),
            Gauge::OwnMemory => system(own.memory.map(|bytes| bytes as f64)),
            Gauge::OwnCpu => system(own.cpu_share(self.rollout, self.span, *now)),
        }
    }
}

fn system(value: Option<f64>) -> Reading {
    match value {
        Some(value) => Reading::Value { value, samples: 1 },
        None => Reading::NoData("this system does not say".into()),
    }
}
