//! The virtual world of a rehearsal: requests that are made up from what is assumed, counted in the same histories that the
//! control plane keeps, and read through the same metrics.
//!
//! It decides nothing. Time goes on in steps that its caller chooses; within one step nothing that is assumed changes. A long
//! step is counted in slices that end where windows begin, so that a window holds what happened in it.

use super::assume::{Assumptions, Spots};
use super::draw::{Dice, Spread};
use super::series::{Behaviour, Conduct, Hurt, Series, Spell};
use super::story::Met;
use crate::clock::Time;
use crate::config::RolloutConfig;
use crate::rollout::Arm;
use crate::rollout::breaker::Measured;
use crate::rollout::course::Asked;
use crate::rollout::criterion::{Criterion, Filter, Metric, Origin, Quantile, Reading, Sample};
use crate::rollout::histogram::Histogram;
use crate::rollout::metrics::{self, Gauge, Seen, Sum};
use crate::rollout::sample::Number;
use crate::rollout::stages::Span;
use crate::rollout::standing::Standing;
use crate::rollout::vital::Vital;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Times to the first byte at the six quantiles unless something else is assumed, in milliseconds: a quick service, so that
/// a plan without assumed faults is judged by its times alone.
const USUAL_MS: [f64; 6] = [5.0, 6.5, 8.0, 10.0, 12.0, 15.0];
/// Resident memory of weir itself, in bytes, and its CPU as a share of one core.
const OWN_MEMORY: f64 = 50e6;
const OWN_CPU: f64 = 0.05;
/// Slices of a window within a long step, and of one that is no longer than `SHORT`.
const SLICES: u32 = 12;
const SLICES_SHORT: u32 = 4;
const SHORT: Duration = Duration::from_secs(30);

/// Everything that is counted.
#[derive(Debug)]
pub struct World {
    /// The present.
    pub now: Time,
    /// Where every rollout is.
    pub spots: Spots,
    /// What queries say of which nothing is said.
    pub usual: BTreeMap<Arc<str>, f64>,
    assumed: Assumptions,
    dice: Dice,
    /// A part of a request that has not come yet.
    carry: f64,
    series: BTreeMap<Arc<str>, Series>,
    spreads: BTreeMap<[u64; 6], Rc<Spread>>,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(rollouts: &[RolloutConfig], assumed: Assumptions) -> World {
        // What nothing looks at is not counted: the weights of such a rollout are all there is to it.
        let looked_at = |rollout: &&RolloutConfig| {
            let plan = &rollout.plan;
            plan.is_staged() || !plan.stages.triggers.is_empty() || plan.breaker.is_some()
        };
        let series = rollouts
            .iter()
            .filter(looked_at)
            .map(|rollout| (Arc::clone(&rollout.plan.name), Series::new(rollout, &assumed)));
        let (now, dice, series) = (Time::default(), Dice::new(assumed.seed), series.collect());
        World {
            now,
            spots: Spots::new(),
            usual: BTreeMap::new(),
            assumed,
            dice,
            carry: 0.0,
            series,
            spreads: BTreeMap::new(),
        }
    }

    /// The moment at which an assumption changes next by itself.
    pub fn next_change(&self) -> Option<Time> {
        self.assumed.next_change(&self.spots, self.now)
    }

    /// Takes note of how a rollout stands: requests are divided by it until it is told otherwise.
    pub fn stands(&mut self, standing: &Standing<'_>, canary: f64) {
        if let Some(series) = self.series.get_mut(&standing.plan.name) {
            series.stands(standing, canary);
        }
    }

    /// A stage of that rollout begins.
    pub fn mark(&mut self, rollout: &str) {
        let now = self.now;
        if let Some(series) = self.series.get_mut(rollout) {
            series.mark(now);
        }
    }

    /// What its breaker looks at; once.
    pub fn take_measured(&mut self, rollout: &str) -> Option<Measured> {
        let (rps, users) = (self.assumed.rps, self.assumed.users);
        self.series.get_mut(rollout)?.take_measured(rps, users)
    }

    /// What the canary has cost so far, and how many users have met a failure on it.
    pub fn hurt(&self, rollout: &str) -> (Hurt, u64) {
        let hurt = self.series.get(rollout).map(|series| series.hurt.clone()).unwrap_or_default();
        let users = hurt.users(self.assumed.users);
        (hurt, users)
    }

    /// Users on the canary of a rollout, as it stood when that was noted last.
    pub fn exposed(&self, rollout: &str) -> u64 {
        let share = self.series.get(rollout).map_or(0.0, Series::canary);
        (share * self.assumed.users as f64).round() as u64
    }

    /// The signals among what the canary has cost.
    pub fn signals(&self, hurt: &Hurt) -> Vec<Met> {
        let users = self.assumed.users;
        let met = |(signal, spell): (&Arc<str>, &Spell)| Met {
            signal: Arc::clone(signal),
            requests: spell.times(),
            users: spell.users(users),
        };
        hurt.signals.iter().map(met).filter(|met| met.requests > 0).collect()
    }

    /// The value of a metric.
    pub fn reading(&self, rollout: &str, span: Span, asked: &Asked) -> Reading {
        match self.series.get(rollout) {
            Some(series) => metrics::reading(&Of { world: self, rollout, series, span }, asked),
            None => Reading::NoData("no such rollout".into()),
        }
    }

    /// Whether there is chance in what a criterion reads: what never or always happens, and what was said, does not waver.
    pub fn wavers(&self, rollout: &str, criterion: &Criterion) -> bool {
        let live = criterion.samples().into_iter().filter(|sample| *sample.origin == Origin::Live);
        live.into_iter().any(|Sample { arm, metric, filter, .. }| {
            let moment = (&self.spots, self.now);
            let said = |arm, metric: &Metric| {
                let of = |filter| self.assumed.of(rollout, arm, metric, filter, moment);
                of(filter).or_else(|| of(None)).unwrap_or(0.0)
            };
            let errors = |arm| said(arm, &Metric::ErrorRate).max(said(arm, &Metric::TimeoutRate));
            let rate = match metric {
                Metric::ErrorRate | Metric::Rate5xx => errors(arm),
                Metric::FallbackRate => errors(Arm::Canary),
                Metric::TimeoutRate | Metric::Rate4xx | Metric::Signal(_) => said(arm, metric),
                Metric::FirstByte(_) | Metric::Total(_) | Metric::Vital(..) => return true,
                Metric::Share | Metric::BlockedRate | Metric::BreakerRate => return true,
                _ => return false,
            };
            rate > 0.0 && rate < 1.0
        })
    }

    /// Time goes on to `to`, or to the first run of failures that opens a circuit, if that comes before.
    pub fn advance(&mut self, to: Time) {
        let names: Vec<Arc<str>> = self.series.keys().cloned().collect();
        let conducts: Vec<Conduct> = names.iter().map(|name| self.conduct(name)).collect();
        let to = self.first_run(&names, &conducts, to);
        let windows: BTreeSet<Duration> = self.series.values().flat_map(|series| series.windows.clone()).collect();
        for end in slices(self.now, to, &windows) {
            let seconds = end.since(self.now).as_secs_f64();
            let came = self.assumed.rps * seconds + self.carry;
            self.carry = came.fract();
            for (name, conduct) in names.iter().zip(&conducts) {
                if let Some(series) = self.series.get_mut(name) {
                    series.count(&mut self.dice, conduct, came as u64, seconds, self.assumed.users, end);
                }
            }
            self.now = end;
        }
    }

    /// The moment of the first run of failures up to `to`; its circuit opens there.
    fn first_run(&mut self, names: &[Arc<str>], conducts: &[Conduct], to: Time) -> Time {
        let mut first: Option<(Time, &Arc<str>)> = None;
        for (name, conduct) in names.iter().zip(conducts) {
            let Some(series) = self.series.get(name) else { continue };
            let Some((length, share)) = series.runs() else { continue };
            let (errors, per_second) = (conduct.arms[Arm::Canary.index()].errors, share * self.assumed.rps);
            // A run begins with a failure after a request that did not fail: so often per request a long enough one does.
            let begins = (1.0 - errors).max(1.0 / f64::from(length)) * errors.powi(length as i32);
            let Some(wait) = self.dice.wait_s(per_second * begins).filter(|wait| *wait < RUN_WAIT_MAX_S) else {
                continue;
            };
            // On average as late as such a run takes; steps are shorter than that, so it is drawn without memory.
            let at = self.now + Duration::from_secs_f64(wait);
            if at < to && first.is_none_or(|(first, _)| at < first) {
                first = Some((at, name));
            }
        }
        let Some((at, name)) = first else { return to };
        if let Some(series) = self.series.get_mut(name) {
            series.latch();
        }
        at
    }

    /// What the arms of a rollout do now.
    fn conduct(&mut self, rollout: &str) -> Conduct {
        let parts: Vec<(Arm, Filter)> =
            self.series.get(rollout).map(|series| series.parts.keys().cloned().collect()).unwrap_or_default();
        let arms = Arm::ALL.map(|arm| self.behaviour(rollout, arm, None));
        let parts = parts.into_iter().map(|(arm, part)| {
            let behaviour = self.behaviour(rollout, arm, Some(&part));
            ((arm, part), behaviour)
        });
        let parts = parts.collect();
        let mut conduct = Conduct { arms, parts, signals: Vec::new(), vitals: Vec::new() };
        let said: BTreeSet<Metric> = self.assumed.list.iter().map(|assumption| assumption.metric.clone()).collect();
        for (metric, arm) in said.iter().flat_map(|metric| Arm::ALL.map(|arm| (metric, arm))) {
            match metric {
                Metric::Signal(name) => {
                    let rate = self.assumed.of(rollout, arm, metric, None, (&self.spots, self.now));
                    conduct.signals.extend(rate.map(|rate| (arm, Arc::clone(name), rate)));
                }
                Metric::Vital(vital, _) => {
                    let of = |quantile| {
                        self.assumed.of(rollout, arm, &Metric::Vital(*vital, quantile), None, (&self.spots, self.now))
                    };
                    let said: Vec<Option<f64>> = Quantile::ALL.iter().map(|(_, quantile)| of(*quantile)).collect();
                    if said.iter().any(Option::is_some) {
                        let counted = |value: f64| vital.counted(value).unwrap_or(0) as f64;
                        let spread = self.spread(quantiles(&said).map(counted));
                        conduct.vitals.push(((arm, *vital), spread));
                    }
                }
                _ => {}
            }
        }
        conduct.vitals.dedup_by_key(|(key, _)| *key);
        conduct
    }

    fn behaviour(&mut self, rollout: &str, arm: Arm, part: Option<&Filter>) -> Behaviour {
        let moment = (&self.spots, self.now);
        // What is not said of a part is as for the whole.
        let said = |metric: &Metric| {
            let of = |filter| self.assumed.of(rollout, arm, metric, filter, moment);
            of(part).or_else(|| of(None))
        };
        let rate = |metric: &Metric| said(metric).unwrap_or(0.0);
        let timeouts = rate(&Metric::TimeoutRate);
        let errors = rate(&Metric::ErrorRate).max(timeouts);
        let client_errors = rate(&Metric::Rate4xx).min(1.0 - errors);
        let times: Vec<Option<f64>> = Quantile::ALL.iter().map(|(_, of)| said(&Metric::FirstByte(*of))).collect();
        let first_byte = self.spread(quantiles(&times).map(|ms| ms * 1000.0));
        Behaviour { errors, timeouts, client_errors, first_byte }
    }

    fn spread(&mut self, quantiles: [f64; 6]) -> Rc<Spread> {
        let spread = self.spreads.entry(quantiles.map(f64::to_bits)).or_insert_with(|| Rc::new(Spread::new(quantiles)));
        Rc::clone(spread)
    }
}

/// What is read of one rollout over one span.
struct Of<'a> {
    world: &'a World,
    rollout: &'a str,
    series: &'a Series,
    span: Span,
}

impl Of<'_> {
    fn said(&self, metric: &Metric) -> Option<f64> {
        let World { assumed, spots, now, .. } = self.world;
        assumed.of(self.rollout, Arm::Canary, metric, None, (spots, *now))
    }
}

impl Seen for Of<'_> {
    fn requests(&self, arm: Option<Arm>, filter: Option<&Filter>) -> Rc<Sum> {
        self.series.sum(arm, filter, self.span, self.world.now)
    }

    fn number(&self, number: &Number) -> u64 {
        self.series.numbers.get(number).map_or(0, |of| of.taken(self.span, self.world.now))
    }

    fn reports(&self, arm: Arm, vital: Vital) -> Histogram {
        self.series.vitals.get(&(arm, vital)).map(|of| of.taken(self.span, self.world.now)).unwrap_or_default()
    }

    fn responds(&self, arm: Arm) -> bool {
        self.series.responds[arm.index()]
    }

    fn trips(&self) -> Option<u64> {
        self.series.trips
    }

    fn gauge(&self, gauge: Gauge<'_>) -> Reading {
        let value = |value| Reading::Value { value, samples: 1 };
        match gauge {
            Gauge::Query(name) => self.query(name),
            Gauge::OwnMemory => value(self.said(&Metric::OwnMemory).unwrap_or(OWN_MEMORY)),
            Gauge::OwnCpu => value(self.said(&Metric::OwnCpu).unwrap_or(OWN_CPU)),
            Gauge::Shadow(metric) => self.shadow(metric),
        }
    }
}

impl Of<'_> {
    /// A query says what is assumed, else what its gates ask for.
    fn query(&self, name: &Arc<str>) -> Reading {
        let World { assumed, spots, usual, now, .. } = self.world;
        let metric = Metric::Query(Arc::clone(name));
        let value = match assumed.holding(self.rollout, Arm::Canary, &metric, None, (spots, *now)) {
            Some(assumption) => assumption.value.ok_or("no data, as assumed"),
            None => usual.get(name).copied().ok_or("nothing is assumed"),
        };
        match value {
            Ok(value) => Reading::Value { value, samples: 1 },
            Err(why) => Reading::NoData(why.into()),
        }
    }

    /// Copies fail and last as the canary does, and their answers do not differ, unless it is said otherwise.
    fn shadow(&self, metric: &Metric) -> Reading {
        let said = self.said(metric);
        let Series { copied, compared, .. } = *self.series;
        if copied == 0.0 {
            return Reading::NoData("this stage mirrors nothing".into());
        }
        if *metric == Metric::ShadowDiffRate && compared == 0.0 {
            return Reading::NoData("answers are not compared".into());
        }
        let part = if *metric == Metric::ShadowDiffRate { copied * compared } else { copied };
        let stable = self.requests(Some(Arm::Stable), None).0.ended;
        let copies = (stable as f64 * part).round() as u64;
        let World { assumed, spots, now, .. } = self.world;
        let of_canary = |metric: &Metric| assumed.of(self.rollout, Arm::Canary, metric, None, (spots, *now));
        let usual = match metric {
            Metric::ShadowErrorRate => of_canary(&Metric::ErrorRate).unwrap_or(0.0),
            Metric::ShadowFirstByte(quantile) => {
                let times: Vec<Option<f64>> =
                    Quantile::ALL.iter().map(|(_, of)| of_canary(&Metric::FirstByte(*of))).collect();
                let at = Quantile::ALL.iter().position(|(_, of)| of == quantile);
                at.and_then(|at| quantiles(&times).get(at).copied()).unwrap_or(0.0)
            }
            _ => 0.0,
        };
        match copies {
            0 if *metric == Metric::ShadowDiffRate => Reading::NoData("nothing is compared yet".into()),
            0 => Reading::NoData("no copies".into()),
            samples => Reading::Value { value: said.unwrap_or(usual), samples },
        }
    }
}

/// All six quantiles from those that are said: the others keep their usual proportion to the nearest of them.
fn quantiles(said: &[Option<f64>]) -> [f64; 6] {
    let mut all = USUAL_MS;
    for (at, value) in all.iter_mut().enumerate() {
        let nearest = said.iter().enumerate().filter_map(|(of, said)| Some((of, (*said)?)));
        if let Some((of, said)) = nearest.min_by_key(|(of, _)| of.abs_diff(at)) {
            *value = said * USUAL_MS[at] / USUAL_MS[of];
        }
    }
    let mut least = 0.0_f64;
    all.map(|value| {
        least = least.max(value);
        least
    })
}

/// Where a step is cut: right before the slices in which its windows begin, and some times within them.
fn slices(from: Time, to: Time, windows: &BTreeSet<Duration>) -> Vec<Time> {
    let mut cuts = BTreeSet::from([to]);
    if to.since(from) > Duration::from_secs(2) {
        // As far back as a shorter window reaches it has cut finer already.
        let mut finer = Duration::ZERO;
        for window in windows {
            let parts = if *window <= SHORT { SLICES_SHORT } else { SLICES };
            for part in 1..=parts {
                let back = *window * part / parts;
                if back > finer {
                    let second = (to - back).as_secs();
                    cuts.insert(Time::from_micros((second * 1_000_000).saturating_sub(1)));
                }
            }
            finer = *window;
        }
    }
    cuts.into_iter().filter(|cut| *cut > from && *cut <= to).collect()
}

/// A run of failures that comes later than this does not come.
const RUN_WAIT_MAX_S: f64 = 1e9;
