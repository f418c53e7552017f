//! What criteria read: every metric of the language as a number with its samples, or why there is none.
//!
//! One `Sources` is made for one look and asked many times; what several metrics need is added up once. It judges nothing and
//! changes nothing. Without requests there is no data, never a zero that something could pass on.

#[cfg(test)]
mod tests;

use super::collect::{Collector, Kind, Part};
use super::own::Own;
use super::query::Queries;
use crate::clock::Time;
use crate::config::{ArmTo, Config};
use crate::rollout::Arm;
use crate::rollout::course::Asked;
use crate::rollout::criterion::{Filter, Metric, Reading};
use crate::rollout::histogram::Histogram;
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::stages::Span;
use crate::rollout::window::Counts;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Everything there is to read at one moment.
#[derive(Debug)]
pub struct Sources<'a> {
    collector: &'a Collector,
    queries: &'a Queries,
    own: &'a Own,
    config: &'a Config,
    trips: BTreeMap<Arc<str>, u64>,
    now: Time,
    /// What was added up already.
    sums: RefCell<BTreeMap<SumKey, Rc<Sum>>>,
}

/// Of which requests a sum is: rollout, span, arm (none for probes), part.
type SumKey = (Arc<str>, Span, Option<Arm>, Option<Filter>);
/// Counts, and the time they cover.
type Sum = (Counts, Duration);

impl<'a> Sources<'a> {
    /// What was counted, what Prometheus servers said, weir itself, the arms that answer by themselves, and by rollout the
    /// trips of its breaker since it was last revived (none without a breaker), as they are `now`.
    pub fn new(
        collector: &'a Collector,
        queries: &'a Queries,
        own: &'a Own,
        config: &'a Config,
        trips: BTreeMap<Arc<str>, u64>,
        now: Time,
    ) -> Self {
        Sources { collector, queries, own, config, trips, now, sums: RefCell::default() }
    }

    /// The value of a metric over a span, in the held unit of its dimension.
    pub fn reading(&self, rollout: &str, span: Span, asked: &Asked) -> Reading {
        let Asked { arm, metric, filter } = asked;
        let own = || self.arm(rollout, span, *arm, filter.as_ref());
        match metric {
            Metric::ErrorRate => own_rate(&own(), Counts::failures),
            Metric::Rate5xx => own_rate(&own(), |counts| class(counts, CodeClass::Server)),
            Metric::Rate4xx => own_rate(&own(), |counts| class(counts, CodeClass::Client)),
            Metric::TimeoutRate => {
                own_rate(&own(), |counts| counts.errors.get(ErrorKind::Timeout as usize).copied().unwrap_or(0))
            }
            Metric::FirstByte(quantile) => latency(&own().0.first_byte, quantile.share()),
            Metric::Total(quantile) => latency(&own().0.total, quantile.share()),
            Metric::Rps => {
                let of = own();
                of_requests(of.0.ended, |requests| requests / of.1.as_secs_f64().max(f64::MIN_POSITIVE))
            }
            Metric::Requests => of_requests(own().0.ended, |requests| requests),
            Metric::Share => {
                let [stable, canary] = self.both(rollout, span);
                rate(canary, stable.saturating_add(canary))
            }
            Metric::FallbackRate => {
                let fallbacks = self.collector.beside.count(rollout, &Kind::Fallbacks, span, self.now);
                // Fallbacks are counted when the canary has failed, requests when they have ended.
                let [_, canary] = self.both(rollout, span);
                rate(fallbacks.min(canary), canary)
            }
            Metric::BlockedRate => self.blocked(rollout, span),
            Metric::BreakerRate => self.diverted(rollout, span),
            Metric::BreakerTrips => match self.trips.get(rollout) {
                Some(trips) => Reading::Value { value: *trips as f64, samples: *trips },
                None => Reading::NoData("it has no breaker".into()),
            },
            Metric::ShadowErrorRate | Metric::ShadowDiffRate | Metric::ShadowFirstByte(_) => {
                Reading::NoData("nothing is mirrored yet".into())
            }
            Metric::Signal(name) => {
                let kind = Kind::Signal(*arm, Arc::clone(name));
                let signals = self.collector.beside.count(rollout, &kind, span, self.now);
                rate(signals, own().0.ended)
            }
            Metric::Vital(vital, quantile) => {
                let reports = self.collector.beside.reports(rollout, *arm, *vital, span, self.now);
                match vital.quantile(&reports, quantile.share()) {
                    Some(value) => Reading::Value { value, samples: reports.count() },
                    None => Reading::NoData("no reports".into()),
                }
            }
            Metric::Query(name) => self.queries.reading(name, self.now),
            Metric::OwnMemory => system(self.own.memory.map(|bytes| bytes as f64)),
            Metric::OwnCpu => system(self.own.cpu_share(rollout, span, self.now)),
        }
    }

    /// Requests of both arms that were answered by an arm that responds itself.
    fn blocked(&self, rollout: &str, span: Span) -> Reading {
        let config = self.config.rollout(rollout).and_then(|index| self.config.rollouts.get(index));
        let responds = |arm| config.is_some_and(|config| matches!(config.arm(arm).to, ArmTo::Respond(_)));
        let both = self.both(rollout, span);
        let of = |arm: Arm| both.get(arm.index()).copied().unwrap_or(0);
        let blocked = Arm::ALL.into_iter().filter(|arm| responds(*arm)).map(of).sum();
        rate(blocked, both.iter().sum())
    }

    /// Of the requests that were meant for the canary, those that the breaker sent to stable: the others ended there or probed.
    fn diverted(&self, rollout: &str, span: Span) -> Reading {
        let diverted = self.collector.beside.count(rollout, &Kind::Diverted, span, self.now);
        let [_, canary] = self.both(rollout, span);
        let probes = self.sum(rollout, span, None, None).0.ended;
        rate(diverted, diverted.saturating_add(canary).saturating_add(probes))
    }

    /// Requests that ended, by arm index.
    fn both(&self, rollout: &str, span: Span) -> [u64; 2] {
        Arm::ALL.map(|arm| self.arm(rollout, span, arm, None).0.ended)
    }

    fn arm(&self, rollout: &str, span: Span, arm: Arm, filter: Option<&Filter>) -> Rc<Sum> {
        self.sum(rollout, span, Some(arm), filter)
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

fn own_rate(of: &Sum, hits: impl Fn(&Counts) -> u64) -> Reading {
    rate(hits(&of.0), of.0.ended)
}

fn class(counts: &Counts, class: CodeClass) -> u64 {
    counts.codes.get(class as usize).copied().unwrap_or(0)
}

fn rate(hits: u64, requests: u64) -> Reading {
    of_requests(requests, |requests| hits as f64 / requests)
}

fn of_requests(requests: u64, value: impl Fn(f64) -> f64) -> Reading {
    match requests {
        0 => Reading::NoData("no requests".into()),
        _ => Reading::Value { value: value(requests as f64), samples: requests },
    }
}

/// In milliseconds. Requests whose client left before any answer have no time, so there may be fewer of them.
fn latency(times: &Histogram, share: f64) -> Reading {
    match times.quantile(share) {
        Some(us) => Reading::Value { value: us as f64 / 1000.0, samples: times.count() },
        None => Reading::NoData("no requests".into()),
    }
}

fn system(value: Option<f64>) -> Reading {
    match value {
        Some(value) => Reading::Value { value, samples: 1 },
        None => Reading::NoData("this system does not say".into()),
    }
}
