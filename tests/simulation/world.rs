//! One rollout with its traffic, its faults and its operator, all from one seed.
//!
//! It does by hand what engine, supervisor and request path do: measures every look, carries turns out in the latch,
//! tells the latch of every end. Every decision is checked against the rules that no history may break.

use crate::oracle::Oracle;
use crate::traffic::{End, Fault, Flight, Role, TIMEOUT_US, count};
use std::time::Duration;
use weir::clock::Time;
use weir::latch::{Guard, Latch, UnitMark};
use weir::rollout::Arm;
use weir::rollout::assign::{Decision, Phase, Reason, Split, Switches, UnitAsker, decide};
use weir::rollout::breaker::{
    Breaker, COOLDOWN_MAX, LatencyRule, Measured, NoAnswerRule, RateRule, Rules, Saved, State, Turn,
};
use weir::rollout::bucket::{Bucketer, Weight};
use weir::rollout::cohort::{Cohort, UserSet};

/// What sort of history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever comes.
    Anything,
    /// Both arms always do the same, and stable has most of a steady traffic.
    Alike,
}

/// What came about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub trips: u64,
    pub half_opened: u64,
    pub recovered: u64,
    pub rolled_back: u64,
    pub revived: u64,
    pub restarts: u64,
    pub canary: u64,
    pub probes: u64,
    pub spared: u64,
}

/// One history.
pub struct World {
    kind: Kind,
    rng: fastrand::Rng,
    now: Time,
    rules: Rules,
    guard: Guard,
    latch: Latch,
    breaker: Breaker,
    splits: [Split; 1],
    units: Vec<Unit>,
    killed: bool,
    healthy: bool,
    faults: [Fault; 2],
    /// A unit that fails wherever it is.
    abuser: Option<usize>,
    flights: Vec<Flight>,
    measured: Measured,
    turned: Time,
    /// Whether the latch has opened by itself since the last look.
    opened: bool,
    oracle: Oracle,
    met: Met,
}

/// One unit and where it belongs, worked out beside `decide`.
struct Unit {
    name: String,
    bucket_ppm: u32,
    probe_ppm: u32,
    in_cohort: bool,
}

const LOOK: Duration = Duration::from_millis(25);
const STEPS: usize = 40;
const STEPS_ALIKE: usize = 400;

impl World {
    pub fn new(seed: u64, kind: Kind) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let rules = rules(&mut rng, kind);
        let bucketer = Bucketer::native(format!("salt-{}", rng.u8(..)));
        let members = UserSet::try_from_ids((0..rng.u32(..3)).map(|unit| format!("u{unit}"))).expect("few");
        let cohort = Cohort { users: members.into(), ..Cohort::new("friends") };
        let count = match kind {
            Kind::Alike => 60,
            Kind::Anything => *rng.choice(&[1, 2, 5, 12, 24]).expect("there are some"),
        };
        let probes = bucketer.probe_share();
        let unit = |unit: u32| {
            let name = format!("u{unit}");
            let bucket_ppm = bucketer.bucket(&name).ppm();
            let probe_ppm = probes.bucket(&name).ppm();
            Unit { in_cohort: cohort.users.contains(&name), name, bucket_ppm, probe_ppm }
        };
        let units: Vec<Unit> = (0..count).map(unit).collect();
        let now = Time::from_micros(rng.u64(..10_000_000));
        let splits = [Split {
            name: "chat".into(),
            phase: Phase::Serving,
            probe: Some((bucketer.probe_share(), rules.probe)),
            bucketer,
            weight: weight(&mut rng, kind),
            cohorts: vec![cohort],
            requires: None,
        }];
        World {
            guard: guard(&rules),
            latch: Latch::default(),
            breaker: Breaker::new(rules.clone(), Saved::default(), now),
            abuser: (kind == Kind::Anything && rng.bool()).then(|| rng.usize(..units.len())),
            faults: [Fault::None; 2],
            flights: Vec::new(),
            measured: Measured::default(),
            oracle: Oracle::default(),
            met: Met::default(),
            killed: false,
            healthy: true,
            turned: now,
            opened: false,
            kind,
            rng,
            now,
            rules,
            splits,
            units,
        }
    }

    /// Lives through the history and returns what came about.
    pub fn live(mut self) -> Met {
        for _ in 0..if self.kind == Kind::Alike { STEPS_ALIKE } else { STEPS } {
            self.fate();
            let requests = if self.kind == Kind::Alike { 24 } else { self.rng.usize(..6) };
            (0..requests).for_each(|_| {
                let unit = self.any_unit();
                self.request(unit);
            });
            let pace = if self.kind == Kind::Alike { 0 } else { self.rng.u8(..24) };
            let time = match pace {
                0..20 => LOOK,
                20..23 => Duration::from_millis(self.rng.u64(100..600)),
                _ => Duration::from_millis(self.rng.u64(1_000..4_000)),
            };
            self.pass(time);
            self.look();
        }
        if self.kind == Kind::Anything && self.rng.u8(..4) == 0 {
            self.recover();
        }
        self.met
    }

    /// Half of the requests are the abuser's, if there is one.
    fn any_unit(&mut self) -> usize {
        match self.abuser {
            Some(abuser) if self.rng.bool() => abuser,
            _ => self.rng.usize(..self.units.len()),
        }
    }

    /// What happens to the rollout from outside.
    fn fate(&mut self) {
        if self.kind == Kind::Alike {
            if self.rng.u8(..40) == 0 {
                let fails = self.rng.bool();
                let percent = self.rng.u32(20..=100);
                self.faults = [if fails { Fault::Fails(percent) } else { Fault::None }; 2];
            }
            return;
        }
        match self.rng.u8(..80) {
            0..6 => self.faults[Arm::Canary.index()] = Fault::any(&mut self.rng),
            6 | 7 => self.faults[Arm::Stable.index()] = Fault::any(&mut self.rng),
            8 => self.faults = [Fault::any(&mut self.rng); 2],
            9 | 10 => self.kill(true),
            11..14 => self.kill(false),
            14 => self.splits[0].weight = weight(&mut self.rng, self.kind),
            15 => self.splits[0].cohorts[0].enabled = self.rng.bool(),
            16 => self.revive(),
            17 => self.restart(),
            18 => self.healthy = false,
            19..22 => self.healthy = true,
            22 => {
                // Cooldowns stay: the oracle knows no others.
                self.rules = Rules { cooldown: self.rules.cooldown, ..rules(&mut self.rng, self.kind) };
                self.guard = guard(&self.rules);
                self.breaker.reconfigure(self.rules.clone(), self.now);
                self.splits[0].probe = Some((self.splits[0].bucketer.probe_share(), self.breaker.probe()));
            }
            _ => {}
        }
    }

    fn kill(&mut self, on: bool) {
        self.killed = on;
        if on {
            self.latch.set(Switches::KILLED);
        } else {
            self.latch.clear(Switches::KILLED);
        }
    }

    /// As the engine does it: the kill first, else the breaker with what it rolled back.
    fn revive(&mut self) {
        if self.killed {
            return self.kill(false);
        }
        let state = self.breaker.state();
        let turn = self.breaker.revive(self.now);
        assert_eq!(turn.is_some(), state != State::Closed);
        if turn.is_none() {
            return;
        }
        assert!(self.latch.close(self.latch.read()));
        self.splits[0].phase = Phase::Serving;
        self.oracle.revived();
        self.met.revived += 1;
    }

    fn restart(&mut self) {
        let saved = self.breaker.saved().clone();
        let before = saved.state;
        (self.latch, self.opened) = (Latch::default(), false);
        self.flights.clear();
        self.measured = Measured::default();
        self.breaker = Breaker::new(self.rules.clone(), saved.clone(), self.now);
        assert_eq!(self.breaker.state() == State::Closed, before == State::Closed);
        assert_eq!(self.breaker.saved().trips, saved.trips);
        if self.breaker.state() != State::Closed {
            self.latch.open();
        }
        let killed = self.killed;
        self.kill(killed);
        self.oracle.restarted(self.now, before, self.rules.cooldown);
        self.met.restarts += 1;
    }

    /// One request, from decision to departure.
    fn request(&mut self, index: usize) {
        let switches = self.latch.read();
        let asker = UnitAsker::of(&*self.units[index].name).with_switches([switches]);
        let Decision { arm, reason } = decide(&self.splits, 0, &asker);
        if arm == Arm::Canary {
            self.check(index, switches, reason);
        }
        let role = match (arm, reason) {
            (Arm::Stable, _) => Role::Stable,
            (Arm::Canary, Reason::Probe) => Role::Probe,
            (Arm::Canary, _) => Role::Canary,
        };
        let mark = UnitMark(index as u64 + 1);
        match role {
            Role::Stable => {}
            Role::Canary => {
                self.latch.saw(mark);
                self.measured.started += 1;
                self.met.canary += 1;
            }
            Role::Probe => {
                self.latch.saw(mark);
                self.measured.probes_started += 1;
                self.met.probes += 1;
            }
        }
        let (end, us) = self.faults[arm.index()].meets(&mut self.rng, self.abuser == Some(index));
        let due_us = self.now.as_micros() + us;
        self.flights.push(Flight { role, mark, era: switches.era(), due_us, first_us: us, end });
    }

    /// A request on the canary is there by right.
    fn check(&self, index: usize, switches: Switches, reason: Reason) {
        let (unit, split) = (&self.units[index], &self.splits[0]);
        assert!(!self.killed, "killed, and yet on the canary");
        assert!(!self.oracle.latched, "rolled back, and yet on the canary");
        let admitted = unit.bucket_ppm < split.weight.ppm() || (unit.in_cohort && split.cohorts[0].enabled);
        assert!(admitted, "more on the canary than weight and cohorts admit");
        match switches.state() {
            State::Open => panic!("open, and yet on the canary"),
            State::Closed => assert_ne!(reason, Reason::Probe),
            State::HalfOpen => {
                assert_eq!(reason, Reason::Probe);
                assert!(unit.probe_ppm < self.breaker.probe().ppm(), "half-open, and not of the trickle");
            }
        }
        assert!(self.breaker.state() != State::Open, "the latch is more open than the breaker knows");
    }

    /// Lets time pass; what is due ends, in its order.
    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        let mut due: Vec<Flight> =
            self.flights.extract_if(.., |flight| flight.due_us <= self.now.as_micros()).collect();
        due.sort_by_key(|flight| flight.due_us);
        due.iter().for_each(|flight| self.ended(flight));
    }

    fn ended(&mut self, flight: &Flight) {
        let now = self.latch.read();
        if flight.role == Role::Canary {
            match flight.end {
                End::Good => self.measured.answered += 1,
                End::Bad(_) if flight.first_us < TIMEOUT_US => self.measured.answered += 1,
                End::Bad(_) | End::Left => self.measured.unanswered += 1,
            }
        }
        match (flight.role, flight.end) {
            (Role::Stable, End::Bad(_)) => self.latch.stable_failed(),
            (Role::Stable, _) | (_, End::Left) => {}
            (_, End::Good) => self.latch.succeeded(flight.era),
            (_, End::Bad(_)) => {
                if self.latch.failed(flight.mark, flight.era, &self.guard) {
                    assert_eq!(self.latch.read().state(), State::Open, "the crossing failure was not the last");
                    assert_ne!(now.state(), State::Open, "opened twice");
                    self.opened = true;
                }
            }
        }
        let slow_us = self.guard.slow_us.unwrap_or(u64::MAX);
        let of_era = self.latch.read().era() == flight.era;
        count(&mut self.measured, flight, slow_us, of_era);
    }

    /// One look, as the supervisor takes it.
    fn look(&mut self) {
        let looked = self.now;
        let seen = self.latch.read();
        let before = self.breaker.state();
        let run = self.latch.run();
        self.measured.latched = before != State::Open && seen.state() == State::Open;
        (self.measured.run, self.measured.run_units) = (run.failures, run.units);
        self.measured.units_seen = self.latch.units_seen();
        self.measured.waiting_units = self.waiting_units();
        self.measured.healthy = self.healthy;
        self.opened = false;
        // A rollout that is killed has nothing to be judged by. One that is rolled back is looked at, and must not turn.
        let turns = if self.killed { Vec::new() } else { self.breaker.look(self.now, &self.measured) };
        let Measured { started, answered, unanswered, probes_started, .. } = self.measured;
        self.measured = Measured { started, answered, unanswered, probes_started, ..Measured::default() };
        self.latch.mark_stable_sick(self.breaker.stable_sick());
        if self.now.since(self.turned) >= Duration::from_secs(10) {
            self.turned = self.now;
            self.latch.turn();
        }
        if !turns.is_empty() && self.rng.bool() {
            // The request path does not wait until what was decided is carried out.
            let time = Duration::from_millis(self.rng.u64(1..40));
            self.pass(time);
        }
        turns.iter().for_each(|turn| self.carry_out(looked, seen, before, turn));
        // What opened meanwhile is not closed by what was decided without knowing it.
        assert!(!self.opened || self.latch.read().state() == State::Open);
    }

    fn carry_out(&mut self, looked: Time, seen: Switches, before: State, turn: &Turn) {
        self.oracle.turned(looked, &self.rules, before, turn, self.healthy);
        match turn {
            Turn::Trip(trip) => {
                assert!(self.kind == Kind::Anything, "stable is as sick: {trip:?}");
                self.met.trips += 1;
                self.met.rolled_back += u64::from(trip.rolled_back);
                if trip.rolled_back {
                    self.splits[0].phase = Phase::RolledBack;
                }
            }
            Turn::HalfOpen { probe, .. } | Turn::ProbeWidened { probe, .. } => {
                self.met.half_opened += u64::from(turn.state().is_some());
                self.splits[0].probe = Some((self.splits[0].bucketer.probe_share(), *probe));
            }
            Turn::Closed { .. } => self.met.recovered += 1,
            Turn::Spared { .. } | Turn::BothArms { .. } => self.met.spared += 1,
        }
        match turn.state() {
            None => {}
            Some(State::Open) => {
                self.latch.open();
            }
            Some(State::HalfOpen) => {
                self.latch.half_open(seen);
            }
            Some(State::Closed) => {
                self.latch.close(seen);
            }
        }
    }

    fn waiting_units(&self) -> u32 {
        let waiting = self.flights.iter().filter(|flight| flight.role == Role::Canary);
        // Marks count up from 1 to 60 at most.
        waiting.fold(0_u64, |units, flight| units | 1 << flight.mark.0).count_ones()
    }

    /// All is well from now on: a canary that serves anybody must come back by itself, unless a person is asked for.
    fn recover(&mut self) {
        self.faults = [Fault::None; 2];
        self.abuser = None;
        self.healthy = true;
        self.kill(false);
        self.splits[0].weight = Weight::FULL;
        for _ in 0..400 {
            if self.breaker.state() == State::Closed && self.latch.read().state() == State::Closed {
                return;
            }
            if self.breaker.saved().rolled_back {
                assert_eq!(self.breaker.state(), State::Open);
                return;
            }
            if let Some(ends) = self.breaker.cooldown_ends() {
                self.pass(ends.since(self.now));
            }
            (0..self.units.len().min(6)).for_each(|unit| self.request(unit));
            self.pass(Duration::from_millis(500));
            self.look();
        }
        panic!("a healthy canary does not come back: {:?}", self.breaker);
    }
}

impl Met {
    pub fn add(&mut self, other: &Met) {
        self.trips += other.trips;
        self.half_opened += other.half_opened;
        self.recovered += other.recovered;
        self.rolled_back += other.rolled_back;
        self.revived += other.revived;
        self.restarts += other.restarts;
        self.canary += other.canary;
        self.probes += other.probes;
        self.spared += other.spared;
    }
}

fn percent(percent: u32) -> Weight {
    Weight::from_percent(percent).expect("at most 100")
}

fn weight(rng: &mut fastrand::Rng, kind: Kind) -> Weight {
    match kind {
        Kind::Alike => percent(rng.u32(10..=20)),
        Kind::Anything => percent(*rng.choice(&[0, 1, 10, 50, 90, 100]).expect("there are some")),
    }
}

fn cooldown(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(rng.u64(50..800))
}

/// Small limits, so that short histories cross them.
fn rules(rng: &mut fastrand::Rng, kind: Kind) -> Rules {
    let alike = kind == Kind::Alike;
    let window = Duration::from_secs(if alike { 10 } else { rng.u64(1..4) });
    let rate =
        RateRule { above: percent(rng.u32(1..80)), window, min_requests: if alike { 20 } else { rng.u64(1..12) } };
    let quantile_permille = *rng.choice(&[500, 900, 990]).expect("there are some");
    let above = Duration::from_millis(200);
    let latency = LatencyRule { quantile_permille, above, window, min_requests: rng.u64(1..12) };
    let no_answer = NoAnswerRule { after: Duration::from_millis(rng.u64(50..800)), min_requests: rng.u64(1..5) };
    Rules {
        consecutive_errors: if alike { 5 } else { rng.u32(..6) },
        error_rate: (alike || rng.bool()).then_some(rate),
        latency: (!alike && rng.bool()).then_some(latency),
        no_answer: (!alike && rng.bool()).then_some(no_answer),
        min_units: rng.u32(1..6),
        max_unit_share: percent(*rng.choice(&[1, 25, 50, 100]).expect("there are some")),
        cooldown: cooldown(rng),
        cooldown_max: COOLDOWN_MAX,
        probe: percent(*rng.choice(&[1, 10, 50, 100]).expect("there are some")),
        max_trips: rng.u32(..5),
        spares_both: alike || rng.u8(..4) > 0,
    }
}

fn guard(rules: &Rules) -> Guard {
    Guard {
        consecutive_errors: rules.consecutive_errors,
        min_units: rules.min_units,
        slow_us: rules.latency.as_ref().map(|rule| rule.above.as_micros() as u64),
        counts_waiting: rules.no_answer.is_some(),
        spares_both: rules.spares_both,
    }
}
