//! What every metric of the criteria is: a number with its samples made of what was counted, or why there is none.
//!
//! Pure: whoever counts says what it has seen of one rollout over one span (`Seen`); the control plane has counted requests, a
//! rehearsal has made them up. Both get the same numbers from the same counts. Without requests there is no data, never a zero
//! that something could pass on.

use super::Arm;
use super::course::Asked;
use super::criterion::{Filter, Metric, Reading};
use super::histogram::Histogram;
use super::outcome::{CodeClass, ErrorKind};
use super::sample::Number;
use super::vital::Vital;
use super::window::Counts;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Counts, and the time they cover: what a rate per second divides by.
pub type Sum = (Counts, Duration);

/// What was seen of one rollout over one span.
pub trait Seen {
    /// Requests of an arm, or of a part of it; of no arm those that probed the canary.
    fn requests(&self, arm: Option<Arm>, filter: Option<&Filter>) -> Rc<Sum>;
    /// A number that is counted besides.
    fn number(&self, number: &Number) -> u64;
    /// Web vitals as they were reported.
    fn reports(&self, arm: Arm, vital: Vital) -> Histogram;
    /// Whether that arm answers its requests itself.
    fn responds(&self, arm: Arm) -> bool;
    /// Trips of the breaker since it was last revived; none without a breaker.
    fn trips(&self) -> Option<u64>;
    /// What is not counted by request.
    fn gauge(&self, gauge: Gauge<'_>) -> Reading;
}

/// A metric that is not made of counted requests.
#[derive(Clone, Copy, Debug)]
pub enum Gauge<'a> {
    /// Of what is mirrored.
    Shadow(&'a Metric),
    /// A Prometheus query of the config.
    Query(&'a Arc<str>),
    /// Resident memory of weir itself.
    OwnMemory,
    /// CPU of weir itself.
    OwnCpu,
}

/// The value of a metric, in the held unit of its dimension.
pub fn reading(seen: &impl Seen, asked: &Asked) -> Reading {
    let Asked { arm, metric, filter } = asked;
    let own = || seen.requests(Some(*arm), filter.as_ref());
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
            let [stable, canary] = both(seen);
            rate(canary, stable.saturating_add(canary))
        }
        Metric::FallbackRate => {
            // Fallbacks are counted when the canary has failed, requests when they have ended.
            let [_, canary] = both(seen);
            rate(seen.number(&Number::Fallbacks).min(canary), canary)
        }
        Metric::BlockedRate => blocked(seen),
        Metric::BreakerRate => diverted(seen),
        Metric::BreakerTrips => match seen.trips() {
            Some(trips) => Reading::Value { value: trips as f64, samples: trips },
            None => Reading::NoData("it has no breaker".into()),
        },
        Metric::ShadowErrorRate | Metric::ShadowDiffRate | Metric::ShadowFirstByte(_) => {
            seen.gauge(Gauge::Shadow(metric))
        }
        Metric::Signal(name) => rate(seen.number(&Number::Signal(*arm, Arc::clone(name))), own().0.ended),
        Metric::Vital(vital, quantile) => {
            let reports = seen.reports(*arm, *vital);
            match vital.quantile(&reports, quantile.share()) {
                Some(value) => Reading::Value { value, samples: reports.count() },
                None => Reading::NoData("no reports".into()),
            }
        }
        Metric::Query(name) => seen.gauge(Gauge::Query(name)),
        Metric::OwnMemory => seen.gauge(Gauge::OwnMemory),
        Metric::OwnCpu => seen.gauge(Gauge::OwnCpu),
    }
}

/// The value of one of the metrics of copies, without the comparison of answers.
pub fn of_copies(copies: &Counts, metric: &Metric) -> Reading {
    let reading = match metric {
        Metric::ShadowFirstByte(quantile) => latency(&copies.first_byte, quantile.share()),
        _ => rate(copies.failures(), copies.ended),
    };
    match reading {
        Reading::NoData(_) => Reading::NoData("no copies".into()),
        known => known,
    }
}

/// Requests of both arms that were answered by an arm that responds itself.
fn blocked(seen: &impl Seen) -> Reading {
    let both = both(seen);
    let of = |arm: Arm| both.get(arm.index()).copied().unwrap_or(0);
    let blocked = Arm::ALL.into_iter().filter(|arm| seen.responds(*arm)).map(of).sum();
    rate(blocked, both.iter().sum())
}

/// Of the requests that were meant for the canary, those that the breaker sent to stable: the others ended there or probed.
fn diverted(seen: &impl Seen) -> Reading {
    let diverted = seen.number(&Number::Diverted);
    let [_, canary] = both(seen);
    let probes = seen.requests(None, None).0.ended;
    rate(diverted, diverted.saturating_add(canary).saturating_add(probes))
}

/// Requests that ended, by arm index.
fn both(seen: &impl Seen) -> [u64; 2] {
    Arm::ALL.map(|arm| seen.requests(Some(arm), None).0.ended)
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
