//! What is counted of one rollout in a rehearsal: both arms, their parts, what a breaker looks at, and who was hurt.

use super::assume::Assumptions;
use super::draw::{Dice, Spread};
use crate::clock::Time;
use crate::config::{ArmTo, RolloutConfig};
use crate::rollout::Arm;
use crate::rollout::breaker::{self, Measured, Rules, UNIT_ROWS, UNIT_SLOTS, UnitCounts};
use crate::rollout::bucket::Weight;
use crate::rollout::criterion::{Criterion, Filter, Metric};
use crate::rollout::histogram::Histogram;
use crate::rollout::history::History;
use crate::rollout::metrics::Sum;
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::plan::Plan;
use crate::rollout::sample::Number;
use crate::rollout::stages::Span;
use crate::rollout::standing::Standing;
use crate::rollout::vital::Vital;
use crate::rollout::window::{Counted, Counts};
use crate::snapshot::Fallback;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the arms of a rollout do for some time.
pub struct Conduct {
    /// By arm index.
    pub arms: [Behaviour; 2],
    /// Parts of them that something was said of.
    pub parts: BTreeMap<(Arm, Filter), Behaviour>,
    /// Signals per request.
    pub signals: Vec<(Arm, Arc<str>, f64)>,
    /// Web vitals.
    pub vitals: Vec<((Arm, Vital), Rc<Spread>)>,
}

/// How requests end.
pub struct Behaviour {
    /// Failures per request.
    pub errors: f64,
    /// Of these, the ones without an answer in time.
    pub timeouts: f64,
    /// 4xx answers per request.
    pub client_errors: f64,
    /// Times to the first byte, in microseconds; the whole answer takes no longer.
    pub first_byte: Rc<Spread>,
}

/// Everything that was counted of a rollout.
#[derive(Debug)]
pub struct Series {
    /// Whether an arm answers by itself.
    pub responds: [bool; 2],
    /// Parts of arms that something was said of.
    pub parts: BTreeMap<(Arm, Filter), History>,
    /// Numbers besides.
    pub numbers: BTreeMap<Number, History<u64>>,
    /// Web vitals.
    pub vitals: BTreeMap<(Arm, Vital), History<Histogram>>,
    /// Windows that something looks at.
    pub windows: BTreeSet<Duration>,
    /// Share of the requests on stable that is copied to the canary now.
    pub copied: f64,
    /// Of the answers to copies, the share that is compared with those of stable.
    pub compared: f64,
    /// Trips of its breaker, if it has one.
    pub trips: Option<u64>,
    /// What the canary has cost.
    pub hurt: Hurt,
    rules: Option<Rules>,
    fallback: bool,
    /// What of stable is copied where a stage does not say.
    shadow: Weight,
    /// Whether something asks how long whole answers take.
    totals: bool,
    canary: f64,
    circuit: breaker::State,
    probe: f64,
    /// The length of a run of failures that opens the circuit on the request path; none if none does now.
    run_length: Option<u32>,
    arms: [History; 2],
    probes: History,
    moved: Measured,
    run: u32,
    /// What was added up already since something was counted.
    sums: RefCell<BTreeMap<SumKey, Rc<Sum>>>,
}

/// Of which requests a sum is.
type SumKey = (Span, Option<Arm>, Option<Filter>);

/// What has failed on the canary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hurt {
    /// Requests that the canary got, probes included.
    pub requests: u64,
    /// Of those, failures.
    pub failed: u64,
    /// Of those, the ones that stable answered instead.
    pub answered: u64,
    /// The failures.
    failures: Spell,
    /// Signals of the canary.
    pub signals: BTreeMap<Arc<str>, Spell>,
}

/// How often something happened, by the share of users that was on the canary then, in ppm.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spell(BTreeMap<u32, u64>);

/// Breakers compare arms over this time where a rule has no window of its own.
const RECENT: Duration = Duration::from_secs(10);
/// The least of a budget of fallbacks, per second, and its share of requests: those of the data plane.
const FALLBACKS_PER_S: f64 = 10.0;
const FALLBACK_SHARE: f64 = 0.2;
/// Share of requests that are pages whose browsers report vitals.
const PAGES: f64 = 0.1;
/// Distinct units that a breaker tells apart.
const UNITS_SEEN_MAX: f64 = 64.0;

impl Series {
    /// Nothing was counted yet.
    pub fn new(rollout: &RolloutConfig, assumed: &Assumptions) -> Series {
        let said = assumed.list.iter().filter_map(|assumption| Some((assumption.arm, assumption.filter.clone()?)));
        let parts = said.flat_map(|(arm, filter)| {
            let arms = Arm::ALL.into_iter().filter(move |of| arm.is_none_or(|arm| arm == *of));
            arms.map(move |arm| ((arm, filter.clone()), History::default()))
        });
        Series {
            responds: Arm::ALL.map(|arm| matches!(rollout.arm(arm).to, ArmTo::Respond(_))),
            parts: parts.collect(),
            numbers: BTreeMap::new(),
            vitals: BTreeMap::new(),
            windows: windows(&rollout.plan),
            copied: 0.0,
            compared: rollout.diff.as_ref().map_or(0.0, |diff| share(diff.share.1)),
            trips: None,
            hurt: Hurt::default(),
            rules: rollout.plan.breaker.clone(),
            fallback: rollout.fallback != Fallback::Off,
            shadow: rollout.shadow.as_ref().map_or(Weight::ZERO, |shadow| shadow.share),
            totals: criteria(&rollout.plan).any(asks_total),
            canary: 0.0,
            circuit: breaker::State::Closed,
            probe: 0.0,
            run_length: None,
            arms: [History::default(), History::default()],
            probes: History::default(),
            moved: Measured::default(),
            run: 0,
            sums: RefCell::default(),
        }
    }

    /// Takes note of how the rollout stands, and of the share of requests that is meant for its canary.
    pub fn stands(&mut self, standing: &Standing<'_>, canary: f64) {
        let breaker = standing.runtime.breaker.as_ref();
        let opens = breaker.filter(|breaker| breaker.rules().consecutive_errors > 0 && !breaker.stable_sick());
        self.run_length = opens.map(|breaker| breaker.rules().consecutive_errors.max(breaker.rules().min_units));
        (self.canary, self.circuit) = (canary, standing.breaker());
        self.probe = standing.probe().map_or(0.0, share);
        self.copied = share(standing.stage().and_then(|stage| stage.shadow).unwrap_or(self.shadow));
        self.trips = breaker.map(|_| u64::from(standing.saved.breaker.trips));
    }

    /// A stage begins.
    pub fn mark(&mut self, now: Time) {
        self.sums.take();
        self.arms.iter_mut().chain([&mut self.probes]).chain(self.parts.values_mut()).for_each(|of| of.mark(now));
        self.numbers.values_mut().for_each(|of| of.mark(now));
        self.vitals.values_mut().for_each(|of| of.mark(now));
    }

    /// The share of requests that is meant for the canary.
    pub fn canary(&self) -> f64 {
        self.canary
    }

    /// The length of the runs of failures that open the circuit now, and the share of requests they are made of.
    pub fn runs(&self) -> Option<(u32, f64)> {
        let closed = self.circuit == breaker::State::Closed && self.canary > 0.0;
        self.run_length.filter(|_| closed).map(|length| (length, self.canary))
    }

    /// A run of failures has opened the circuit.
    pub fn latch(&mut self) {
        self.moved.latched = true;
        self.run = self.run_length.unwrap_or(1);
        self.circuit = breaker::State::Open;
    }

    /// What the breaker looks at; none without one.
    pub fn take_measured(&mut self, rps: f64, users: u64) -> Option<Measured> {
        self.rules.as_ref()?;
        let Measured { started, answered, unanswered, probes_started, .. } = self.moved;
        let fresh = Measured { started, answered, unanswered, probes_started, ..Measured::default() };
        let mut measured = std::mem::replace(&mut self.moved, fresh);
        let lately = self.canary * rps * RECENT.as_secs_f64();
        measured.units_seen = (self.canary * users as f64).min(lately).min(UNITS_SEEN_MAX).ceil() as u32;
        (measured.run, measured.run_units) = (self.run, self.run);
        (measured.healthy, self.run) = (true, 0);
        Some(measured)
    }

    /// What happened to a part of the requests over a span.
    pub fn sum(&self, arm: Option<Arm>, filter: Option<&Filter>, span: Span, now: Time) -> Rc<Sum> {
        let part = filter.filter(|filter| arm.is_some_and(|arm| self.parts.contains_key(&(arm, (*filter).clone()))));
        let key = (span, arm, part.cloned());
        if let Some(sum) = self.sums.borrow().get(&key) {
            return Rc::clone(sum);
        }
        let [stable, canary] = &self.arms;
        let of = match (arm, part) {
            (None, _) => &self.probes,
            (Some(arm), Some(part)) => self.parts.get(&(arm, part.clone())).unwrap_or(canary),
            (Some(Arm::Stable), None) => stable,
            (Some(Arm::Canary), None) => canary,
        };
        let sum = Rc::new((of.taken(span, now), of.taken_for(span, now)));
        self.sums.borrow_mut().insert(key, Rc::clone(&sum));
        sum
    }

    /// Counts what came of so many requests in so many seconds up to `end`.
    pub fn count(&mut self, dice: &mut Dice, conduct: &Conduct, came: u64, seconds: f64, users: u64, end: Time) {
        self.sums.take();
        let meant = dice.hits(came, self.canary);
        let (to_canary, to_probe) = match self.circuit {
            breaker::State::Closed => (meant, 0),
            breaker::State::Open => (0, 0),
            breaker::State::HalfOpen => (0, dice.hits(meant, self.probe)),
        };
        let [on_stable, on_canary] = &conduct.arms;
        let stable = on_stable.answers(dice, came - to_canary - to_probe, self.totals);
        let canary = on_canary.answers(dice, to_canary, self.totals);
        let probes = on_canary.answers(dice, to_probe, self.totals);
        let mut failed = canary.failures() + probes.failures();
        for (key, behaviour) in &conduct.parts {
            let whole = if key.0 == Arm::Stable { &stable } else { &canary };
            if let Some(history) = self.parts.get_mut(key) {
                let part = behaviour.answers(dice, whole.ended, self.totals);
                // A part is counted as if all requests were its own, and none of them fails twice.
                if key.0 == Arm::Canary {
                    failed = failed.max(part.failures());
                }
                push(history, end, &part);
            }
        }
        let most = (FALLBACK_SHARE * came as f64).max(FALLBACKS_PER_S * seconds) as u64;
        let answered = if self.fallback { failed.min(most) } else { 0 };
        self.number(Number::Fallbacks, end, answered);
        self.number(Number::Diverted, end, meant - to_canary - to_probe);
        for (arm, signal, rate) in &conduct.signals {
            let requests = if *arm == Arm::Stable { &stable } else { &canary }.ended;
            let count = dice.hits(requests, *rate);
            if *arm == Arm::Canary {
                self.hurt.signals.entry(Arc::clone(signal)).or_default().count(count, self.canary);
            }
            self.number(Number::Signal(*arm, Arc::clone(signal)), end, count);
        }
        for (key, spread) in &conduct.vitals {
            let requests = if key.0 == Arm::Stable { &stable } else { &canary }.ended;
            let pages = dice.hits(requests, PAGES);
            let history = self.vitals.entry(*key).or_insert_with(|| History::new(end));
            push(history, end, &spread.draw(dice, pages));
        }
        self.hurt.count(to_canary + to_probe, failed, answered, self.canary);
        let on_it = (self.canary * users as f64).max(1.0) as u64;
        self.moved(&stable, &canary, &probes, on_it);
        let [of_stable, of_canary] = &mut self.arms;
        push(of_stable, end, &stable);
        push(of_canary, end, &canary);
        push(&mut self.probes, end, &probes);
    }

    fn number(&mut self, number: Number, end: Time, count: u64) {
        push(self.numbers.entry(number).or_insert_with(|| History::new(end)), end, &count);
    }

    /// What the breaker will look at.
    fn moved(&mut self, stable: &Counts, canary: &Counts, probes: &Counts, users: u64) {
        let Some(rules) = &self.rules else { return };
        let slow_us = rules.latency.as_ref().map(|rule| u64::try_from(rule.above.as_micros()).unwrap_or(u64::MAX));
        let moved = &mut self.moved;
        moved.stable.counts.add(stable);
        for (happened, counts) in [(&mut moved.canary, canary), (&mut moved.probes, probes)] {
            happened.counts.add(counts);
            spread_out(&mut happened.failures, counts.failures(), users);
            let slow = slow_us.map_or(0, |above| counts.first_byte.count() - counts.first_byte.at_most(above));
            spread_out(&mut happened.slow, slow, users);
        }
        moved.started += canary.ended;
        moved.probes_started += probes.ended;
        moved.answered += canary.ended;
    }
}

impl Behaviour {
    /// How so many requests end; how long whole answers take only if that is asked.
    pub fn answers(&self, dice: &mut Dice, requests: u64, totals: bool) -> Counts {
        let mut counts = Counts { ended: requests, ..Counts::default() };
        if requests == 0 {
            return counts;
        }
        let failed = dice.hits(requests, self.errors);
        let timeouts = if self.errors > 0.0 { dice.hits(failed, self.timeouts / self.errors) } else { 0 };
        let refused = dice.hits(requests - failed, self.client_errors / (1.0 - self.errors).max(f64::MIN_POSITIVE));
        counts.codes[CodeClass::Server as usize] = failed;
        counts.codes[CodeClass::Client as usize] = refused;
        counts.codes[CodeClass::Success as usize] = requests - failed - refused;
        counts.errors[ErrorKind::Status as usize] = failed - timeouts;
        counts.errors[ErrorKind::Timeout as usize] = timeouts;
        counts.first_byte = self.first_byte.draw(dice, requests);
        if totals {
            counts.total = counts.first_byte.clone();
        }
        counts
    }
}

impl Hurt {
    fn count(&mut self, requests: u64, failed: u64, answered: u64, share: f64) {
        self.requests += requests;
        self.failed += failed;
        self.answered += answered;
        self.failures.count(failed, share);
    }

    /// Of so many users, those who met a failure.
    pub fn users(&self, users: u64) -> u64 {
        self.failures.users(users)
    }
}

impl Spell {
    fn count(&mut self, times: u64, share: f64) {
        if times > 0 {
            *self.0.entry((share * 1e6).round() as u32).or_default() += times;
        }
    }

    /// How often it happened.
    pub fn times(&self) -> u64 {
        self.0.values().sum()
    }

    /// Of so many users, those whom it happened to, each time being anyone's of those on the canary. Whoever was on the canary at
    /// a small share still is at a larger one.
    pub fn users(&self, users: u64) -> u64 {
        let (mut met, mut below) = (0.0, 0.0);
        for share_ppm in self.0.keys() {
            let share = f64::from(*share_ppm) / 1e6;
            let later = self.0.range(share_ppm..);
            let each: f64 = later
                .map(|(ppm, times)| *times as f64 / (f64::from((*ppm).max(1)) / 1e6 * users as f64).max(1.0))
                .sum();
            met += (share - below) * users as f64 * (1.0 - (-each).exp());
            below = share;
        }
        let times = self.times();
        (met.round() as u64).clamp(times.min(1), times)
    }
}

/// Adds to the counts by unit as many as are spread over so many units.
fn spread_out(slots: &mut Option<Box<UnitCounts>>, count: u64, users: u64) {
    if count == 0 {
        return;
    }
    let counts = slots.get_or_insert_with(|| Box::new([[0; UNIT_SLOTS]; UNIT_ROWS]));
    let used = users.clamp(1, UNIT_SLOTS as u64).min(count);
    for row in counts.iter_mut() {
        for (slot, cell) in (0..used).zip(row.iter_mut()) {
            let own = count / used + u64::from(slot < count % used);
            *cell = cell.saturating_add(u32::try_from(own).unwrap_or(u32::MAX));
        }
    }
}

/// Counts what came up to `end`. Nothing is kept anywhere, so nothing waits to be.
fn push<T: Counted>(history: &mut History<T>, end: Time, counts: &T) {
    history.push(end, counts);
    history.take_unsaved();
}

/// The criteria of all gates and triggers.
fn criteria(plan: &Plan) -> impl Iterator<Item = &Criterion> {
    let gates = plan.stages.list.iter().flat_map(|stage| &stage.gates).map(|gate| &gate.criterion);
    gates.chain(plan.stages.triggers.iter().map(|trigger| &trigger.criterion))
}

fn asks_total(criterion: &Criterion) -> bool {
    criterion.samples().iter().any(|sample| matches!(sample.metric, Metric::Total(_)))
}

/// A weight as a share.
fn share(weight: Weight) -> f64 {
    f64::from(weight.ppm()) / 1e6
}

/// The windows that gates, triggers, breaker and the look at stable after a rollback look at.
fn windows(plan: &Plan) -> BTreeSet<Duration> {
    let last = |span: Span| match span {
        Span::Stage => None,
        Span::Last(window) | Span::InStage(window) => Some(window),
    };
    let gates = plan.stages.list.iter().flat_map(|stage| &stage.gates).filter_map(|gate| last(gate.span));
    let rules = plan.breaker.as_ref();
    let rate = rules.and_then(|rules| rules.error_rate.as_ref()).map(|rule| rule.window);
    let latency = rules.and_then(|rules| rules.latency.as_ref()).map(|rule| rule.window);
    let triggers = plan.stages.triggers.iter().map(|trigger| trigger.window);
    gates.chain(triggers).chain(rate).chain(latency).chain([RECENT]).collect()
}
