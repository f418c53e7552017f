//! Several rollouts with their plans, their operator, a disk and a process that may end at any moment, all from one seed.
//!
//! It does by hand what the supervisor does: looks, carries effects out one by one, answers records. The process may be
//! killed before any of them, and what comes after it starts from what was written down.

use super::oracle::{Cause, Oracle};
use super::random::{self, Numbers, ROLLOUTS, Shows, edited, pick, ppm, shows};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use weir::clock::{Time, Wall};
use weir::rollout::Arm;
use weir::rollout::assign::Phase;
use weir::rollout::breaker::{self, Measured};
use weir::rollout::course::{Asked, Back, Captured, Command, Readings, asks};
use weir::rollout::criterion::{Metric, Reading};
use weir::rollout::engine::{Effect, Engine, Input, Saved};
use weir::rollout::plan::Plan;
use weir::rollout::report::{Kind, Origin, State};
use weir::rollout::standing::{LiveRollout, Save, Standing};

/// What came about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    pub stages: u64,
    pub completed: u64,
    pub rollbacks: u64,
    pub went_back: u64,
    pub pauses: u64,
    pub approvals: u64,
    pub escalations: u64,
    pub across: u64,
    pub denied: u64,
    pub unwritten: u64,
    pub kills: u64,
    pub restarts: u64,
    pub reloads: u64,
}

/// One history.
pub struct World {
    rng: fastrand::Rng,
    now: Time,
    engine: Engine,
    disk: BTreeMap<String, Save>,
    /// What happened but could not be written yet.
    unwritten: Vec<(String, Save)>,
    disk_full: bool,
    /// What requests see: the snapshot, and the switches beside it.
    published: BTreeMap<Arc<str>, LiveRollout>,
    killed: BTreeMap<Arc<str>, bool>,
    circuits: BTreeMap<Arc<str>, breaker::State>,
    numbers: BTreeMap<Arc<str>, Numbers>,
    probes: u64,
    oracle: Oracle,
    met: Met,
}

const STEPS: usize = 10;

impl World {
    pub fn new(seed: u64) -> World {
        let mut rng = fastrand::Rng::with_seed(seed);
        let plans = random::plans(&mut rng);
        let now = Time::from_micros(rng.u64(..1_000_000_000));
        let mut world = World {
            engine: Engine::new(plans, Saved::Known(Vec::new()), now),
            rng,
            now,
            disk: BTreeMap::new(),
            unwritten: Vec::new(),
            disk_full: false,
            published: BTreeMap::new(),
            killed: BTreeMap::new(),
            circuits: BTreeMap::new(),
            numbers: ROLLOUTS.iter().map(|name| (Arc::from(*name), [Some((0, 50, 500)); 2])).collect(),
            probes: 0,
            oracle: Oracle::default(),
            met: Met::default(),
        };
        world.started(false);
        world
    }

    /// Lives through the history and returns what came about.
    pub fn live(mut self) -> Met {
        for _ in 0..STEPS {
            self.fate();
            let time = match self.rng.u8(..10) {
                0..5 => Duration::from_millis(250),
                5..8 => Duration::from_millis(self.rng.u64(250..3_000)),
                _ => Duration::from_millis(self.rng.u64(3_000..20_000)),
            };
            self.oracle.passes(&self.engine, time);
            self.now = self.now + time;
            let names: Vec<Arc<str>> =
                self.engine.standings().map(|standing| Arc::clone(&standing.plan.name)).collect();
            for name in &names {
                self.look_at_circuit(name);
                self.look(name);
            }
        }
        self.met
    }

    /// What happens from outside.
    fn fate(&mut self) {
        let names: Vec<Arc<str>> = self.engine.standings().map(|standing| Arc::clone(&standing.plan.name)).collect();
        let name = Arc::clone(pick(&mut self.rng, &names));
        match self.rng.u8(..20) {
            0..5 => {
                let both = [shows(&mut self.rng), shows(&mut self.rng)];
                self.numbers.insert(name, both);
            }
            5 => self.numbers = ROLLOUTS.iter().map(|name| (Arc::from(*name), [None; 2])).collect(),
            6 => self.numbers = ROLLOUTS.iter().map(|name| (Arc::from(*name), [Some((0, 50, 500)); 2])).collect(),
            7..13 => self.operate(&name),
            13 => self.reload(),
            14 => self.disk_full = !self.disk_full,
            15 => self.restart(),
            16 => self.trip(&name),
            _ => {}
        }
    }

    fn operate(&mut self, name: &Arc<str>) {
        let rng = &mut self.rng;
        let command = match rng.u8(..14) {
            0 => Some(Command::Pause),
            1 | 2 => Some(Command::Resume),
            3 | 4 => Some(Command::Promote { force: rng.bool(), full: rng.u8(..4) == 0 }),
            5 => Some(Command::Rollback(*pick(rng, &[Back::Stable, Back::Previous, Back::Half]))),
            6 | 7 => Some(Command::Approve),
            _ => None,
        };
        let (rollout, origin) = (name.to_string(), Origin { actor: "anna".into(), reason: String::new() });
        let (cause, input) = match &command {
            Some(command) => {
                (Cause::Command(name, Some(command)), Input::Command { rollout, command: command.clone(), origin })
            }
            None => match rng.u8(..6) {
                0 | 1 => {
                    let weight = ppm(*pick(rng, &[0, 5_000, 50_000, 300_000, 1_000_000]));
                    let force = rng.u8(..3) == 0;
                    (Cause::Weight(name, force), Input::SetWeight { rollout, weight, force, origin })
                }
                2 => (Cause::Other, Input::Kill { rollout, origin }),
                _ => (Cause::Revive(name), Input::Revive { rollout, origin }),
            },
        };
        self.send(input, cause);
    }

    fn reload(&mut self) {
        let plans = self.plans();
        let plans = edited(&mut self.rng, &plans);
        let input = Input::Reload {
            plans,
            exposes: false,
            changes: Vec::new(),
            needs_restart: Vec::new(),
            origin: Origin { actor: "config".into(), reason: String::new() },
        };
        self.met.reloads += 1;
        self.send(input, Cause::Reload);
    }

    /// The request path sees a run of failures and opens the circuit by itself.
    fn trip(&mut self, name: &Arc<str>) {
        let watched = self.engine.standing(name).is_some_and(|standing| {
            standing.plan.breaker.is_some() && standing.serves() && !standing.killed() && standing.breaker() != OPEN
        });
        if watched {
            self.circuits.insert(Arc::clone(name), OPEN);
            let run =
                Measured { latched: true, run: 5, run_units: 3, units_seen: 9, healthy: true, ..Measured::default() };
            self.send(Input::Measured { rollout: Arc::clone(name), measured: Box::new(run) }, Cause::Breaker);
        }
    }

    fn look_at_circuit(&mut self, name: &Arc<str>) {
        let rests = |standing: Standing<'_>| standing.breaker() == breaker::State::Closed;
        if self.engine.standing(name).is_none_or(rests) {
            return;
        }
        let mut measured = Measured { healthy: true, units_seen: 9, ..Measured::default() };
        self.probes += 20;
        (measured.probes_started, measured.probes.counts.ended) = (self.probes, 20);
        measured.probes.counts.codes[weir::rollout::outcome::CodeClass::Success as usize] = 20;
        self.send(Input::Measured { rollout: Arc::clone(name), measured: Box::new(measured) }, Cause::Breaker);
    }

    fn look(&mut self, name: &Arc<str>) {
        let Some(standing) = self.engine.standing(name) else { return };
        let (stages, stage) = (&standing.plan.stages, standing.saved.progress.stage.clone());
        let numbers = self.numbers[name];
        let asked = asks(stages, stage.as_deref(), standing.runtime.course.went_back());
        let readings = Readings::take(asked, |_, asked| reading(&numbers, asked));
        // What is recorded of a stage opens no gate here: a few values stand for all of them.
        let value =
            |of: &str, shows: Shows| shows.map(|(_, p95_ms, samples)| (of.to_owned(), (f64::from(p95_ms), samples)));
        let [stable, canary] = numbers;
        let values = [value("stable p95", stable), value("canary p95", canary)].into_iter().flatten().collect();
        let record = Captured { values };
        // The calendar goes where it likes.
        let wall = match self.rng.u8(..4) {
            0 => Wall::from_millis(0),
            1 => Wall::from_millis(self.rng.u64(..)),
            _ => Wall::from_millis(1_700_000_000_000 + self.now.as_micros() / 1000),
        };
        self.oracle.looks(&self.engine, name, &numbers, self.now);
        let input = Input::Watched { rollout: Arc::clone(name), wall, readings, record };
        self.send(input, Cause::Look(name, &numbers));
    }

    fn restart(&mut self) {
        self.met.restarts += 1;
        let plans = self.plans();
        // A process that ends in peace writes what it still has to, if the disk takes it.
        if self.rng.bool() && !self.disk_full {
            self.flush();
        }
        let plans = if self.rng.u8(..4) == 0 { edited(&mut self.rng, &plans) } else { plans };
        self.begin_again(plans);
    }

    fn begin_again(&mut self, plans: Vec<Plan>) {
        self.unwritten.clear();
        self.published.clear();
        self.killed.clear();
        self.circuits.clear();
        let same = plans.iter().eq(self.engine.standings().map(|standing| standing.plan));
        // Whatever time it takes is time in which nothing is served.
        self.now = self.now + Duration::from_millis(self.rng.u64(..50_000));
        self.engine = Engine::new(plans, Saved::Known(self.disk.values().cloned().collect()), self.now);
        self.started(same);
    }

    /// The first effects, before any request.
    fn started(&mut self, same: bool) {
        let recorded = self.recorded();
        while let Some(effect) = self.engine.poll_effect() {
            self.carry_out(effect);
        }
        for (name, recorded) in recorded {
            let exposed = self.exposed(&name);
            assert!(exposed <= recorded, "`{name}` starts with {exposed} ppm, but {recorded} was recorded");
        }
        self.oracle.restarted(&self.engine, same, self.now);
    }

    /// One input and its effects, before any of which the process may be killed.
    fn send(&mut self, input: Input, cause: Cause<'_>) {
        self.oracle.before(&self.engine);
        let reloads = matches!(input, Input::Reload { .. });
        let plans = if reloads { self.plans() } else { Vec::new() };
        let recorded = if reloads { self.recorded() } else { BTreeMap::new() };
        if self.engine.handle(input, self.now).is_err() {
            assert!(self.engine.poll_effect().is_none(), "what is refused has no effects");
            self.met.denied += 1;
            self.oracle.after(&self.engine, &cause, &mut self.met);
            return;
        }
        let dies_before = (self.rng.u8(..24) == 0).then(|| self.rng.usize(..5));
        let mut next = self.engine.poll_effect();
        let recorded = if next.is_none() || reloads { recorded } else { self.recorded() };
        for number in 0.. {
            let Some(effect) = next else { break };
            if dies_before == Some(number) {
                self.met.kills += 1;
                let torn = self.rng.bool();
                if let (Effect::Record(record), true, false) = (&effect, torn, self.disk_full) {
                    // Written down, and killed before anything came of it.
                    self.write(&record.saves.clone());
                }
                // The file is the old one or the new one by now.
                let plans = if reloads && self.rng.bool() { plans } else { self.plans() };
                return self.begin_again(plans);
            }
            let shows = !matches!(effect, Effect::Record(_) | Effect::SetLatch { .. });
            self.carry_out(effect);
            if shows {
                self.no_more_than_recorded(&recorded);
            }
            next = self.engine.poll_effect();
        }
        self.oracle.after(&self.engine, &cause, &mut self.met);
        self.at_rest();
    }

    fn plans(&self) -> Vec<Plan> {
        self.engine.standings().map(|standing| standing.plan.clone()).collect()
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SetLatch { rollout, switches } => {
                *self.killed.entry(rollout).or_default() |= switches.killed();
            }
            Effect::ClearLatch { rollout, switches } => {
                let killed = self.killed.entry(rollout).or_default();
                *killed &= !switches.killed();
            }
            Effect::RenewLatch { rollout, switches } => drop(self.killed.insert(rollout, switches.killed())),
            Effect::Circuit { rollout, state } => drop(self.circuits.insert(rollout, state)),
            Effect::Publish => {
                let live = |standing: Standing<'_>| (Arc::clone(&standing.plan.name), standing.live());
                self.published = self.engine.standings().map(live).collect();
            }
            Effect::Record(record) => {
                let written = !self.disk_full;
                if written {
                    self.write(&record.saves);
                } else if !record.first {
                    self.met.unwritten += 1;
                    self.unwritten.extend(record.saves.iter().map(|save| (key(save), save.clone())));
                }
                if written || !record.first {
                    self.oracle.told(&record.entries);
                    self.met.escalations +=
                        record.entries.iter().filter(|entry| entry.kind == Kind::Escalate).count() as u64;
                }
                let answer = self.engine.recorded(written);
                assert!(answer.is_ok() || (record.first && !written), "{answer:?}");
            }
        }
    }

    fn write(&mut self, saves: &[Save]) {
        self.flush();
        self.disk.extend(saves.iter().map(|save| (key(save), save.clone())));
    }

    fn flush(&mut self) {
        self.disk.extend(std::mem::take(&mut self.unwritten));
    }

    /// Share of the units that requests find on the canary, cohorts aside.
    fn exposed(&self, name: &Arc<str>) -> u32 {
        let Some(live) = self.published.get(name) else { return 0 };
        let open = self.circuits.get(name) == Some(&OPEN);
        match live.phase {
            Phase::Serving if !self.killed.get(name).is_some_and(|killed| *killed) && !open => live.weight.ppm(),
            _ => 0,
        }
    }

    /// The share that a process would expose that started from the disk under this plan; said by hand.
    fn on_disk(&self, plan: &Plan) -> u32 {
        let saved = match self.disk.get(&format!("rollout {}", plan.name)) {
            Some(Save::Rollout { saved, .. }) => saved.clone(),
            _ => Default::default(),
        };
        let off = plan.killed || saved.killed.is_some() || !plan.enabled || saved.held;
        if off || saved.breaker.rolled_back || (saved.breaker.state == OPEN && plan.breaker.is_some()) {
            return 0;
        }
        let most = plan.weight.ppm();
        let progress = &saved.progress;
        if plan.stages.list.is_empty() {
            let set = saved.set.filter(|set| set.under == plan.weight).map_or(most, |set| set.weight.ppm());
            let share = progress.share.map_or(set, |share| share.ppm().min(set));
            return if progress.state == State::RolledBack { 0 } else { share };
        }
        let stage = plan.stages.list.iter().find(|stage| Some(&stage.name) == progress.stage.as_ref());
        match (progress.state, stage) {
            (State::Pending | State::RolledBack, _) => 0,
            // A plan that was changed meanwhile: the last stage stands for the one that is gone.
            (State::Completed, None) => plan.stages.list.last().map_or(0, |stage| stage.weight.ppm().min(most)),
            (_, None) => 0,
            (_, Some(stage)) => progress.share.unwrap_or(stage.weight).ppm().min(most),
        }
    }

    /// What a process would expose that started now.
    fn recorded(&self) -> BTreeMap<Arc<str>, u32> {
        self.engine.standings().map(|standing| (Arc::clone(&standing.plan.name), self.on_disk(standing.plan))).collect()
    }

    /// At no moment do requests find more on the canary than is written down, or was before the input. (A step may let one
    /// cohort on and lower the weight: it is recorded first, and for that moment the old weight is still there.)
    fn no_more_than_recorded(&self, before: &BTreeMap<Arc<str>, u32>) {
        for (name, recorded) in self.recorded() {
            let recorded = recorded.max(before.get(&name).copied().unwrap_or_default());
            let exposed = self.exposed(&name);
            assert!(exposed <= recorded, "`{name}` exposes {exposed} ppm, but {recorded} was recorded");
        }
    }

    /// Between two inputs requests see what the engine says, and nothing where nothing may be.
    fn at_rest(&mut self) {
        for standing in self.engine.standings() {
            let name = &standing.plan.name;
            let exposed = self.exposed(name);
            let nothing = standing.killed()
                || standing.breaker() == OPEN
                || matches!(standing.state(), State::RolledBack | State::Pending);
            let wanted = if nothing { 0 } else { standing.weight().ppm() };
            assert_eq!(exposed, wanted, "`{name}` in state {:?}", standing.state());
        }
    }
}

const OPEN: breaker::State = breaker::State::Open;

fn key(save: &Save) -> String {
    match save {
        Save::Rollout { rollout, .. } => format!("rollout {rollout}"),
        Save::Captured { rollout, stage, .. } => format!("captured {rollout} {stage}"),
        Save::Cohort { rollout, cohort, .. } => format!("cohort {rollout} {cohort}"),
        Save::Member { rollout, cohort, unit, .. } => format!("member {rollout} {cohort} {unit}"),
    }
}

fn reading(numbers: &Numbers, asked: &Asked) -> Reading {
    let Some((errors, p95_ms, samples)) = numbers[asked.arm.index()] else {
        return Reading::NoData("no requests".into());
    };
    let value = match asked.metric {
        Metric::ErrorRate => f64::from(errors) / 1000.0,
        Metric::FirstByte(_) => f64::from(p95_ms),
        Metric::Requests => samples as f64,
        _ => return Reading::NoData("not in this world".into()),
    };
    Reading::Value { value, samples }
}

impl Met {
    pub fn add(&mut self, other: &Met) {
        let Met { stages, completed, rollbacks, went_back, pauses, approvals, escalations, .. } = other;
        self.stages += stages;
        self.completed += completed;
        self.rollbacks += rollbacks;
        self.went_back += went_back;
        self.pauses += pauses;
        self.approvals += approvals;
        self.escalations += escalations;
        self.across += other.across;
        self.denied += other.denied;
        self.unwritten += other.unwritten;
        self.kills += other.kills;
        self.restarts += other.restarts;
        self.reloads += other.reloads;
    }

    /// Everything that must have come about often, or the histories prove nothing.
    pub fn counts(&self) -> [u64; 13] {
        let Met { stages, completed, rollbacks, went_back, pauses, approvals, escalations, .. } = *self;
        let Met { across, denied, unwritten, kills, restarts, reloads, .. } = *self;
        [
            stages,
            completed,
            rollbacks,
            went_back,
            pauses,
            approvals,
            escalations,
            across,
            denied,
            unwritten,
            kills,
            restarts,
            reloads,
        ]
    }
}

/// Stable's arm, for whoever reads `Numbers`.
pub const STABLE: usize = Arm::Stable as usize;
