//! The one door for state: `handle(input, now)` in, effects out. Nothing else moves a rollout.
//!
//! The engine does no IO. Its caller, the supervisor, drains `poll_effect` after every input, carries the effects out
//! in that order, and answers a `Record` with `recorded`. The order is the fail-safe one: a step towards stable is
//! published first and recorded next; a step towards the canary is recorded first, and if that fails it never happens.

use super::assign::Switches;
use super::breaker::{self, Breaker, Measured};
use super::bucket::Weight;
use super::course::{Captured, Command, Readings};
use super::plan::Plan;
use super::report::{Entry, Facts, Kind, Origin};
use super::stages::After;
use super::standing::{Runtime, Save, Standing};
use super::step::{self, Step};
pub use super::step::{Outlook, Overlays};
use super::walk;
use crate::clock::{Time, Wall};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod looking;

/// Everything that can move a rollout.
#[derive(Clone, Debug)]
pub enum Input {
    /// A valid config was read.
    Reload {
        /// Its rollouts, in its order.
        plans: Vec<Plan>,
        /// Whether something outside the plans (routes, salts, arms, member lists) may send more to the canary.
        exposes: bool,
        /// One line per change, for the audit trail.
        changes: Vec<String>,
        /// Keys that only a restart applies.
        needs_restart: Vec<String>,
        /// Who asked.
        origin: Origin,
    },
    /// An operator sets the weight, which then holds until the file's value changes.
    SetWeight {
        /// The rollout.
        rollout: String,
        /// Share of units on the canary.
        weight: Weight,
        /// Whether it may be above the stage's.
        force: bool,
        /// Who asked.
        origin: Origin,
    },
    /// All to stable until revived.
    Kill {
        /// The rollout.
        rollout: String,
        /// Who asked.
        origin: Origin,
    },
    /// What happened to a rollout since the last look at it.
    Measured {
        /// The rollout.
        rollout: Arc<str>,
        /// What happened.
        measured: Box<Measured>,
    },
    /// Undoes a kill, or else closes the breaker and restarts what it rolled back, or else undoes a hold or a rollback.
    Revive {
        /// The rollout.
        rollout: String,
        /// Who asked.
        origin: Origin,
    },
    /// A look at a rollout's plan, taken a few times a second.
    Watched {
        /// The rollout.
        rollout: Arc<str>,
        /// The calendar time.
        wall: Wall,
        /// What `course::asks` asked for.
        readings: Readings,
        /// What `course::records` asked for, over the stage so far.
        record: Captured,
    },
    /// A person moves a rollout through its plan.
    Command {
        /// The rollout.
        rollout: String,
        /// What is asked.
        command: Command,
        /// Who asked.
        origin: Origin,
    },
    /// A person, or what was measured so far, says what criteria compare with.
    Baseline {
        /// The rollout.
        rollout: String,
        /// The values.
        captured: Captured,
        /// Whether they take the place of all that is there; otherwise only of what they name.
        replace: bool,
        /// Who asked.
        origin: Origin,
    },
    /// An earlier process ended while it looked at stable after a rollback: the look begins anew.
    LookAgain {
        /// The rollout.
        rollout: Arc<str>,
    },
    /// Switches one cohort off.
    CohortKill {
        /// The rollout.
        rollout: String,
        /// The cohort.
        cohort: String,
        /// Who asked.
        origin: Origin,
    },
    /// Undoes `CohortKill`.
    CohortRevive {
        /// The rollout.
        rollout: String,
        /// The cohort.
        cohort: String,
        /// Who asked.
        origin: Origin,
    },
    /// Changes a cohort's members over those of the config.
    CohortUsers {
        /// The rollout.
        rollout: String,
        /// The cohort.
        cohort: String,
        /// Units that become members.
        add: Vec<String>,
        /// Units that stop being members.
        remove: Vec<String>,
        /// Who asked.
        origin: Origin,
    },
}

/// What the caller has to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Switch these on in the rollout's present latch.
    SetLatch {
        /// The rollout.
        rollout: Arc<str>,
        /// Which kills to switch on.
        switches: Switches,
    },
    /// Switch these off in the rollout's present latch.
    ClearLatch {
        /// The rollout.
        rollout: Arc<str>,
        /// Which kills to switch off.
        switches: Switches,
    },
    /// Bring the rollout's circuit into that state. A step towards the canary is void if the circuit has opened by itself
    /// since what was measured last: then the next measurement tells.
    Circuit {
        /// The rollout.
        rollout: Arc<str>,
        /// The state.
        state: breaker::State,
    },
    /// Give the rollout a new latch with exactly these on and the circuit that it has, for the next snapshot: its cohorts
    /// have new places.
    RenewLatch {
        /// The rollout.
        rollout: Arc<str>,
        /// Which kills are on.
        switches: Switches,
    },
    /// Compile and publish a snapshot.
    Publish,
    /// Write this down in one piece, then call `recorded`.
    Record(Record),
}

/// What is to be written down.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whether the step waits for it; if not it has happened already and must be written sooner or later.
    pub first: bool,
    /// State to replace.
    pub saves: Vec<Save>,
    /// Entries of the audit trail.
    pub entries: Vec<Entry>,
}

/// Why an input was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No rollout or cohort of that name.
    NotFound(String),
    /// The state forbids it, with the reason.
    Conflict(String),
    /// The input itself is wrong.
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

/// What the state that was saved before is worth.
#[derive(Clone, Debug)]
pub enum Saved {
    /// It was read, or there was none yet.
    Known(Vec<Save>),
    /// There was one that could not be read: rollouts are held at weight 0 until an operator says how to go on.
    Unreadable,
}

/// The mover of all rollouts.
#[derive(Debug)]
pub struct Engine {
    plans: Vec<Plan>,
    /// By rollout name; kept for rollouts that left the config, so that a kill outlives a removal.
    states: BTreeMap<Arc<str>, Runtime>,
    effects: VecDeque<Effect>,
    /// For every record that is under way, the step towards the canary that waits for it, if one does.
    records: VecDeque<Option<Step>>,
    /// The latest time handed in.
    now: Time,
    /// The latest calendar time handed in; for people.
    wall: Wall,
}

impl Engine {
    /// The engine for these plans, going on where `saved` stopped. Its first effects set all latches and publish.
    pub fn new(plans: Vec<Plan>, saved: Saved, now: Time) -> Self {
        let mut engine = Engine {
            plans: Vec::new(),
            states: BTreeMap::new(),
            effects: VecDeque::new(),
            records: VecDeque::new(),
            now,
            wall: Wall::default(),
        };
        let held = match saved {
            Saved::Known(saves) => {
                engine.restore(saves);
                false
            }
            Saved::Unreadable => true,
        };
        let mut step =
            step::adoption(&[], &engine.states, plans, &Origin { actor: "config".into(), reason: String::new() });
        if held {
            step::hold(&mut step);
        }
        // A start has nothing to expose more than: what it writes down follows from file and store alone.
        step.exposes = false;
        engine.begin(step);
        engine
    }

    /// Takes one input. If it is refused nothing has changed and there are no effects to drain.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` and `Invalid` as their docs say.
    pub fn handle(&mut self, input: Input, now: Time) -> Result<(), Refused> {
        debug_assert!(self.records.is_empty(), "the caller answers every record before the next input");
        self.now = self.now.max(now);
        let step = match input {
            Input::Reload { plans, exposes, changes, needs_restart, origin } => {
                step::check_adoption(&self.plans, &self.states, &plans)?;
                let mut step = step::adoption(&self.plans, &self.states, plans, &origin);
                step.exposes |= exposes;
                let new = Facts::Reload { changes, needs_restart };
                let (rollout, old) = (None, Facts::None);
                step.entries.push(Entry { rollout, kind: Kind::Reload, origin, old, new, to: None, trigger: None });
                step
            }
            Input::SetWeight { rollout, weight, force, origin } => {
                let standing = self.named(&rollout)?;
                match standing.plan.is_staged() && !standing.saved.held {
                    true => {
                        let command = Command::Weight { weight, force };
                        walk::command(&standing, &command, self.wall, &|after| self.has_finished(after), &origin)?
                    }
                    false => step::weight(&standing, weight, origin)?,
                }
            }
            Input::Kill { rollout, origin } => step::kill(&self.named(&rollout)?, origin),
            Input::Measured { rollout, measured } => self.look(&rollout, &measured),
            Input::Revive { rollout, origin } => step::revive(&self.named(&rollout)?, origin, self.now, self.wall)?,
            Input::Watched { rollout, wall, readings, record } => {
                self.wall = wall;
                let (at_once, waits) = self.watch(&rollout, &readings, record);
                self.begin(at_once);
                waits
            }
            Input::Command { rollout, command, origin } => {
                let has_finished = |after: &After| self.has_finished(after);
                walk::command(&self.named(&rollout)?, &command, self.wall, &has_finished, &origin)?
            }
            Input::Baseline { rollout, captured, replace, origin } => {
                walk::baseline(&self.named(&rollout)?, captured, replace, origin)?
            }
            Input::LookAgain { rollout } => {
                self.named(&rollout)?;
                let runtime = self.states.entry(rollout).or_default();
                runtime.course.look_again(self.now);
                Step::default()
            }
            Input::CohortKill { rollout, cohort, origin } => {
                step::cohort(&self.named(&rollout)?, &cohort, true, origin)?
            }
            Input::CohortRevive { rollout, cohort, origin } => {
                step::cohort(&self.named(&rollout)?, &cohort, false, origin)?
            }
            Input::CohortUsers { rollout, cohort, add, remove, origin } => {
                step::members(&self.named(&rollout)?, &cohort, &add, &remove, origin)?
            }
        };
        self.begin(step);
        Ok(())
    }

    /// The next thing to do, if any.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Tells whether the next `Record`, in the order in which they were polled, was written.
    ///
    /// # Errors
    /// `Conflict` if a step towards the canary waited for it: nothing has changed then, except that kills of a config
    /// that was to be adopted stay, because a kill needs no disk.
    pub fn recorded(&mut self, written: bool) -> Result<(), Refused> {
        let Some(mut step) = self.records.pop_front().flatten() else { return Ok(()) };
        if written {
            self.carry_out(step);
            return Ok(());
        }
        for rollout in step.saves.iter().map(Save::rollout) {
            if let Some(runtime) = self.states.get_mut(rollout) {
                runtime.retry_at = Some(self.now + RETRY_AFTER);
            }
        }
        let kills: Vec<Arc<str>> =
            step.plans.iter().flatten().filter(|plan| plan.killed).map(|p| p.name.clone()).collect();
        for old in self.plans.iter_mut().filter(|old| kills.contains(&old.name)) {
            old.killed = true;
        }
        // They happened, so they are told, even if everything else that was to be told with them did not.
        step.entries
            .retain(|entry| entry.kind == Kind::Kill && entry.rollout.as_ref().is_some_and(|of| kills.contains(of)));
        if !step.entries.is_empty() {
            let record = Record { first: false, saves: Vec::new(), entries: step.entries };
            self.effects.push_back(Effect::Record(record));
            self.records.push_back(None);
        }
        if let Some(otherwise) = step.otherwise.take() {
            self.begin(*otherwise);
            return Ok(());
        }
        Err(Refused::Conflict(CANNOT_WRITE.into()))
    }

    /// How every rollout stands, in config order.
    pub fn standings(&self) -> impl Iterator<Item = Standing<'_>> {
        self.plans.iter().map(|plan| Standing::of(plan, self.states.get(&plan.name)))
    }

    /// What each rollout's run-time state would make of other plans.
    pub fn outlook(&self) -> Outlook {
        let of =
            |(name, runtime): (&Arc<str>, &Runtime)| (Arc::clone(name), (runtime.saved.clone(), runtime.overlays()));
        Outlook { by_rollout: self.states.iter().map(of).collect() }
    }

    /// How one rollout stands.
    pub fn standing(&self, rollout: &str) -> Option<Standing<'_>> {
        let plan = self.plans.iter().find(|plan| &*plan.name == rollout)?;
        Some(Standing::of(plan, self.states.get(rollout)))
    }

    fn named(&self, rollout: &str) -> Result<Standing<'_>, Refused> {
        self.standing(rollout).ok_or_else(|| Refused::NotFound(format!("no rollout `{rollout}`")))
    }

    fn begin(&mut self, step: Step) {
        if step.is_empty() {
            return;
        }
        let Step { saves, entries, .. } = &step;
        let record = Record { first: step.exposes, saves: saves.clone(), entries: entries.clone() };
        if !step.exposes {
            self.carry_out(step);
            if !record.saves.is_empty() || !record.entries.is_empty() {
                self.effects.push_back(Effect::Record(record));
                self.records.push_back(None);
            }
            return;
        }
        // Kills in a new config do not wait for the disk, whatever else is in it.
        for plan in step.plans.iter().flatten().filter(|plan| plan.killed) {
            let effect = Effect::SetLatch { rollout: Arc::clone(&plan.name), switches: Switches::KILLED };
            self.effects.push_back(effect);
        }
        self.effects.push_back(Effect::Record(record));
        self.records.push_back(Some(step));
    }

    fn carry_out(&mut self, step: Step) {
        let (before, places) = (self.switches(), self.places());
        let replans = step.plans.is_some();
        if let Some(plans) = step.plans {
            self.keep_alarms(&plans);
            self.plans = plans;
        }
        self.restore(step.saves);
        self.moved_on(&places);
        if let Some((rollout, breaker)) = step.breaker
            && let Some(runtime) = self.states.get_mut(&rollout)
        {
            (runtime.breaker, runtime.retry_at) = (Some(breaker), None);
        }
        if replans {
            self.adopt_breakers();
        }
        let mut towards_canary = Vec::new();
        for (rollout, (layout, on)) in self.switches() {
            let was_on = match before.get(&rollout) {
                Some((old_layout, was_on)) => {
                    if *old_layout == layout {
                        self.switch(&rollout, *was_on, on, &mut towards_canary);
                    } else {
                        self.effects
                            .push_back(Effect::RenewLatch { rollout: Arc::clone(&rollout), switches: on.kills() });
                    }
                    Some(was_on.state())
                }
                None => {
                    self.effects.push_back(Effect::RenewLatch { rollout: Arc::clone(&rollout), switches: on.kills() });
                    None
                }
            };
            match on.state() {
                state if was_on == Some(state) => {}
                breaker::State::Open => {
                    self.effects.push_back(Effect::Circuit { rollout, state: breaker::State::Open })
                }
                state => towards_canary.push(Effect::Circuit { rollout, state }),
            }
        }
        towards_canary.extend(step.handed_back.map(|(rollout, state)| Effect::Circuit { rollout, state }));
        if step.publishes {
            self.effects.push_back(Effect::Publish);
        }
        self.effects.extend(towards_canary);
    }

    /// Switches what has changed of the kills: on at once, off after what is to be published.
    fn switch(&mut self, rollout: &Arc<str>, was_on: Switches, on: Switches, later: &mut Vec<Effect>) {
        let (was_on, on) = (was_on.kills(), on.kills());
        let (set, clear) = (without(on, was_on), without(was_on, on));
        if set != Switches::NONE {
            self.effects.push_back(Effect::SetLatch { rollout: Arc::clone(rollout), switches: set });
        }
        if clear != Switches::NONE {
            later.push(Effect::ClearLatch { rollout: Arc::clone(rollout), switches: clear });
        }
    }

    /// Gives every rollout the breaker that its plan asks for. One that is there goes on under the new rules; one that is
    /// new goes on where it was saved, and never more open than that.
    fn adopt_breakers(&mut self) {
        for (name, runtime) in &mut self.states {
            let rules = self.plans.iter().find(|plan| plan.name == *name).and_then(|plan| plan.breaker.as_ref());
            match (rules, &mut runtime.breaker) {
                (None, breaker) => *breaker = None,
                (Some(rules), Some(breaker)) if breaker.rules() == rules => {}
                (Some(rules), Some(breaker)) => breaker.reconfigure(rules.clone(), self.now),
                (Some(_), None) => {}
            }
        }
        for plan in &self.plans {
            // Also without a breaker: its plan moves it.
            let runtime = self.states.entry(Arc::clone(&plan.name)).or_default();
            let Some(rules) = &plan.breaker else { continue };
            if runtime.breaker.is_none() {
                let breaker = Breaker::new(rules.clone(), runtime.saved.breaker.clone(), self.now);
                runtime.saved.breaker.clone_from(breaker.saved());
                runtime.breaker = Some(Box::new(breaker));
            }
        }
    }

    /// Takes saved state in, from the store or from a step that is being carried out.
    fn restore(&mut self, saves: impl IntoIterator<Item = Save>) {
        let mut touched = BTreeSet::new();
        for save in saves {
            let rollout = Arc::clone(save.rollout());
            if let Some(cohort) = self.states.entry(Arc::clone(&rollout)).or_default().take(save) {
                touched.insert((rollout, cohort));
            }
        }
        for (rollout, cohort) in touched {
            if let Some(runtime) = self.states.get_mut(&rollout) {
                runtime.seal(&cohort);
            }
        }
    }

    /// What must be switched on for each rollout, with the cohort names that the bits stand for.
    fn switches(&self) -> BTreeMap<Arc<str>, (Vec<Arc<str>>, Switches)> {
        let of = |standing: Standing<'_>| {
            let layout = standing.plan.cohorts.iter().map(|cohort| Arc::clone(&cohort.name)).collect();
            (Arc::clone(&standing.plan.name), (layout, standing.switches()))
        };
        self.standings().map(of).collect()
    }
}

/// How long a breaker's step towards the canary waits after it could not be written down.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Why a step towards the canary is denied when it cannot be written down; the words of the contract.
pub const CANNOT_WRITE: &str = "state cannot be written";
/// Why rollouts are held after their state was lost.
pub const UNREADABLE: &str = "state unreadable";
/// What is on in `these` but not in `others`.
const fn without(these: Switches, others: Switches) -> Switches {
    Switches::from_bits(these.bits() & !others.bits())
}

#[cfg(test)]
mod tests;
