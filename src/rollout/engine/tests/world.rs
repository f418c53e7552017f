//! A small world that carries the engine's effects out: latches, a published snapshot and a disk that may refuse to write.
//! It looks at itself after every single effect.

use super::super::*;
use crate::rollout::assign::Phase;

/// Who the canary is open to, as a worker would find it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Open {
    pub weight: Weight,
    pub admitted: BTreeSet<Arc<str>>,
    pub kept_off: BTreeSet<Arc<str>>,
}

/// One rollout as published: its plan, phase and weight, and the latch object that the snapshot holds.
#[derive(Clone, Debug)]
pub struct Published {
    plan: Plan,
    phase: Phase,
    pub weight: Weight,
    pub probe: Weight,
    latch: usize,
}

pub struct World {
    pub engine: Engine,
    /// The kills of each latch; its circuit is the rollout's.
    pub latches: Vec<u64>,
    pub circuits: BTreeMap<Arc<str>, breaker::State>,
    pub now: Time,
    pub latch_of: BTreeMap<Arc<str>, usize>,
    pub published: BTreeMap<Arc<str>, Published>,
    pub publications: usize,
    pub disk: Vec<Save>,
    pub trail: Vec<Entry>,
    pub disk_full: bool,
    /// What could not be written of steps that happened; a real disk gets it as soon as it takes anything.
    pub unwritten: Vec<Save>,
    pub late: Vec<Entry>,
}

impl World {
    pub fn new(plans: Vec<Plan>, saved: Saved) -> World {
        let disk = match &saved {
            Saved::Known(saves) => saves.clone(),
            Saved::Unreadable => Vec::new(),
        };
        let mut world = World {
            engine: Engine::new(plans, saved, Time::default()),
            latches: Vec::new(),
            circuits: BTreeMap::new(),
            now: Time::default(),
            latch_of: BTreeMap::new(),
            published: BTreeMap::new(),
            publications: 0,
            disk,
            trail: Vec::new(),
            disk_full: false,
            unwritten: Vec::new(),
            late: Vec::new(),
        };
        world.drain().unwrap();
        world
    }

    pub fn of(plans: impl IntoIterator<Item = Plan>) -> World {
        World::new(plans.into_iter().collect(), Saved::Known(Vec::new()))
    }

    /// The same disk and these plans in a new process.
    pub fn restarted(&self, plans: impl IntoIterator<Item = Plan>) -> World {
        World::new(plans.into_iter().collect(), Saved::Known(self.disk.clone()))
    }

    pub fn send(&mut self, input: Input) -> Result<(), Refused> {
        self.engine.handle(input, self.now)?;
        self.drain()
    }

    /// Time passes until a look at `chat` 25 ms later finds this.
    pub fn look(&mut self, after: Duration, measured: Measured) -> Result<(), Refused> {
        self.now = self.now + after;
        self.send(Input::Measured { rollout: "chat".into(), measured: Box::new(measured) })
    }

    /// Workers see a run of failures and open the circuit by themselves.
    pub fn run_opens(&mut self) -> Result<(), Refused> {
        self.circuits.insert("chat".into(), breaker::State::Open);
        let run = Measured { latched: true, run: 5, run_units: 3, units_seen: 9, healthy: true, ..Measured::default() };
        self.look(Duration::from_millis(25), run)
    }

    fn drain(&mut self) -> Result<(), Refused> {
        let before = self.open();
        let mut seen = vec![];
        let mut result = Ok(());
        let mut waited = false;
        while let Some(effect) = self.engine.poll_effect() {
            if let Effect::Record(record) = effect {
                if record.first {
                    waited = true;
                    for open in &seen {
                        self.assert_no_more(open, &[&before], "nothing opens before the record");
                    }
                }
                if !self.disk_full {
                    self.disk.append(&mut self.unwritten);
                    self.disk.extend(record.saves.iter().cloned());
                    self.trail.extend(record.entries.iter().cloned());
                } else if !record.first {
                    self.unwritten.extend(record.saves.iter().cloned());
                    self.late.extend(record.entries.iter().cloned());
                }
                let (first, answer) = (record.first, self.engine.recorded(!self.disk_full));
                assert!(answer.is_ok() || (first && self.disk_full), "{answer:?}");
                result = result.and(answer);
            } else {
                self.carry_out(effect);
            }
            seen.push(self.open());
        }
        let after = self.open();
        for open in &seen {
            self.assert_no_more(open, &[&before, &after], "no moment is more open than both ends");
        }
        if waited && self.disk_full {
            self.assert_no_more(&after, &[&before], "a denied step opens nothing");
        }
        result
    }

    pub fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::SetLatch { rollout, switches } => {
                let latch = self.latch(&rollout);
                self.latches[latch] |= switches.bits();
            }
            Effect::ClearLatch { rollout, switches } => {
                let latch = self.latch(&rollout);
                self.latches[latch] &= !switches.bits();
            }
            Effect::Circuit { rollout, state } => drop(self.circuits.insert(rollout, state)),
            Effect::RenewLatch { rollout, switches } => {
                assert_eq!(switches, switches.kills());
                self.latches.push(switches.bits());
                self.latch_of.insert(rollout, self.latches.len() - 1);
            }
            Effect::Publish => {
                self.publications += 1;
                let of =
                    |one: Standing<'_>| (one.plan.clone(), one.phase(), one.weight(), one.probe().unwrap_or_default());
                let standings: Vec<_> = self.engine.standings().map(of).collect();
                self.published.clear();
                for (plan, phase, weight, probe) in standings {
                    let latch = self.latch(&plan.name);
                    self.published.insert(Arc::clone(&plan.name), Published { plan, phase, weight, probe, latch });
                }
            }
            Effect::Record(_) => unreachable!("handled by drain"),
        }
    }

    pub fn circuit(&self, rollout: &str) -> breaker::State {
        self.circuits.get(rollout).copied().unwrap_or_default()
    }

    fn latch(&mut self, rollout: &Arc<str>) -> usize {
        if let Some(latch) = self.latch_of.get(rollout) {
            return *latch;
        }
        self.latches.push(0);
        self.latch_of.insert(Arc::clone(rollout), self.latches.len() - 1);
        self.latches.len() - 1
    }

    pub fn open(&self) -> BTreeMap<Arc<str>, Open> {
        let of = |published: &Published| {
            let switches = Switches::from_bits(self.latches[published.latch]);
            let circuit = self.circuit(&published.plan.name);
            if switches.killed() || published.phase != Phase::Serving || circuit == breaker::State::Open {
                return Open {
                    kept_off: published.plan.cohorts.iter().map(|c| c.name.clone()).collect(),
                    ..Open::default()
                };
            }
            let on = |exclude: bool| {
                let cohorts = published.plan.cohorts.iter().enumerate();
                let on = cohorts.filter(|(index, cohort)| {
                    let killed = switches.cohort_killed(*index) && !cohort.exclude;
                    cohort.enabled && cohort.exclude == exclude && !killed
                });
                on.map(|(_, cohort)| cohort.name.clone()).collect()
            };
            // Of those whom the rollout admits, half-open only some probe.
            let share = match circuit {
                breaker::State::HalfOpen => published.probe.ppm(),
                _ => Weight::FULL.ppm(),
            };
            let weight = u64::from(published.weight.ppm()) * u64::from(share) / 1_000_000;
            let weight = Weight::from_ppm(weight as u32).unwrap();
            Open { weight, admitted: on(false), kept_off: on(true) }
        };
        self.published.iter().map(|(name, published)| (name.clone(), of(published))).collect()
    }

    fn assert_no_more(&self, now: &BTreeMap<Arc<str>, Open>, ends: &[&BTreeMap<Arc<str>, Open>], claim: &str) {
        for (name, now) in now {
            let ends: Vec<&Open> = ends.iter().filter_map(|end| end.get(name)).collect();
            let weight = ends.iter().map(|end| end.weight).max().unwrap_or_default();
            assert!(now.weight <= weight, "{claim}: {name} has {:?}, ends {ends:?}", now.weight);
            for cohort in &now.admitted {
                assert!(ends.iter().any(|end| end.admitted.contains(cohort)), "{claim}: {name} admits {cohort}");
            }
            if let Some(first) = ends.first() {
                let always = first.kept_off.iter().filter(|c| ends.iter().all(|end| end.kept_off.contains(*c)));
                for cohort in always.filter(|cohort| self.has_cohort(name, cohort)) {
                    assert!(now.kept_off.contains(cohort), "{claim}: {name} lets {cohort} through");
                }
            }
        }
    }

    fn has_cohort(&self, rollout: &str, cohort: &str) -> bool {
        self.published.get(rollout).is_some_and(|published| published.plan.cohort(cohort).is_some())
    }

    pub fn weight(&self, rollout: &str) -> u32 {
        self.published[rollout].weight.ppm()
    }

    pub fn killed(&self, rollout: &str) -> bool {
        Switches::from_bits(self.latches[self.latch_of[rollout]]).killed()
    }

    pub fn last(&self) -> &Entry {
        self.trail.last().unwrap()
    }
}
