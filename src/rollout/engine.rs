//! The one door for state: `handle(input, now)` in, effects out. Nothing else moves a rollout.
//!
//! The engine does no IO. Its caller, the supervisor, drains `poll_effect` after every input, carries the effects out
//! in that order, and answers a `Record` with `recorded`. The order is the fail-safe one: a step towards stable is
//! published first and recorded next; a step towards the canary is recorded first, and if that fails it never happens.

use super::assign::{Phase, Switches};
use super::bucket::Weight;
use super::cohort::Overlay;
use super::plan::Plan;
use super::report::{Entry, Facts, Kind, Origin};
use super::standing::{Runtime, Save, SavedRollout, Standing};
use super::step::{self, Step};
use crate::clock::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

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
    /// Undoes a kill, or else a hold.
    Revive {
        /// The rollout.
        rollout: String,
        /// Who asked.
        origin: Origin,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Switch these on in the rollout's present latch.
    SetLatch {
        /// The rollout.
        rollout: Arc<str>,
        /// What to switch on.
        switches: Switches,
    },
    /// Switch these off in the rollout's present latch.
    ClearLatch {
        /// The rollout.
        rollout: Arc<str>,
        /// What to switch off.
        switches: Switches,
    },
    /// Give the rollout a new latch with exactly these on, for the next snapshot: its cohorts have new places.
    RenewLatch {
        /// The rollout.
        rollout: Arc<str>,
        /// What is on.
        switches: Switches,
    },
    /// Compile and publish a snapshot.
    Publish,
    /// Write this down in one piece, then call `recorded`.
    Record(Record),
}

/// What is to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Members added and removed at run time, by cohort.
pub type Overlays = BTreeMap<Arc<str>, Arc<Overlay>>;

/// See `Engine::outlook`.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    by_rollout: BTreeMap<Arc<str>, (SavedRollout, Overlays)>,
}

impl Outlook {
    /// Phase, weight and changed members of a rollout under this plan.
    pub fn under(&self, plan: &Plan) -> (Phase, Weight, Overlays) {
        let (saved, overlays) = self.by_rollout.get(&plan.name).cloned().unwrap_or_default();
        let saved = step::saved_under(plan, saved);
        let standing = Standing { saved: &saved, ..Standing::of(plan, None) };
        (standing.phase(), standing.weight(), overlays)
    }
}

/// The mover of all rollouts.
#[derive(Debug)]
pub struct Engine {
    plans: Vec<Plan>,
    /// By rollout name; kept for rollouts that left the config, so that a kill outlives a removal.
    states: BTreeMap<Arc<str>, Runtime>,
    effects: VecDeque<Effect>,
    /// A step towards the canary whose record is under way.
    waiting: Option<Step>,
    /// The latest time handed in.
    now: Time,
}

impl Engine {
    /// The engine for these plans, going on where `saved` stopped. Its first effects set all latches and publish.
    pub fn new(plans: Vec<Plan>, saved: Saved, now: Time) -> Self {
        let mut engine =
            Engine { plans: Vec::new(), states: BTreeMap::new(), effects: VecDeque::new(), waiting: None, now };
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
        debug_assert!(self.waiting.is_none(), "the caller answers every record before the next input");
        self.now = self.now.max(now);
        let step = match input {
            Input::Reload { plans, exposes, changes, needs_restart, origin } => {
                let mut step = step::adoption(&self.plans, &self.states, plans, &origin);
                step.exposes |= exposes;
                let new = Facts::Reload { changes, needs_restart };
                step.entries.push(Entry { rollout: None, kind: Kind::Reload, origin, old: Facts::None, new });
                step
            }
            Input::SetWeight { rollout, weight, origin } => step::weight(&self.named(&rollout)?, weight, origin)?,
            Input::Kill { rollout, origin } => step::kill(&self.named(&rollout)?, origin),
            Input::Revive { rollout, origin } => step::revive(&self.named(&rollout)?, origin)?,
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

    /// Tells whether the last `Record` was written.
    ///
    /// # Errors
    /// `Conflict` if a step towards the canary waited for it: nothing has changed then, except that kills of a config
    /// that was to be adopted stay, because a kill needs no disk.
    pub fn recorded(&mut self, written: bool) -> Result<(), Refused> {
        let Some(step) = self.waiting.take() else { return Ok(()) };
        if written {
            self.carry_out(&step);
            return Ok(());
        }
        for new in step.plans.iter().flatten().filter(|plan| plan.killed) {
            if let Some(old) = self.plans.iter_mut().find(|plan| plan.name == new.name) {
                old.killed = true;
            }
        }
        Err(Refused::Conflict(CANNOT_WRITE.into()))
    }

    /// How every rollout stands, in config order.
    pub fn standings(&self) -> impl Iterator<Item = Standing<'_>> {
        self.plans.iter().map(|plan| Standing::of(plan, self.states.get(&plan.name)))
    }

    /// What each rollout's run-time state would make of other plans; to be asked elsewhere, without the engine.
    pub fn outlook(&self) -> Outlook {
        let of =
            |(name, runtime): (&Arc<str>, &Runtime)| (Arc::clone(name), (runtime.saved.clone(), runtime.overlays()));
        Outlook { by_rollout: self.states.iter().map(of).collect() }
    }

    /// How one rollout stands.
    pub fn standing(&self, rollout: &str) -> Option<Standing<'_>> {
        self.standings().find(|standing| &*standing.plan.name == rollout)
    }
}

/// How a step is carried out.
impl Engine {
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
            self.carry_out(&step);
            if !record.saves.is_empty() || !record.entries.is_empty() {
                self.effects.push_back(Effect::Record(record));
            }
            return;
        }
        // Kills in a new config do not wait for the disk, whatever else is in it.
        for plan in step.plans.iter().flatten().filter(|plan| plan.killed) {
            let effect = Effect::SetLatch { rollout: Arc::clone(&plan.name), switches: Switches::KILLED };
            self.effects.push_back(effect);
        }
        self.effects.push_back(Effect::Record(record));
        self.waiting = Some(step);
    }

    fn carry_out(&mut self, step: &Step) {
        let before = self.switches();
        if let Some(plans) = &step.plans {
            self.plans.clone_from(plans);
        }
        self.restore(step.saves.iter().cloned());
        let mut clears = Vec::new();
        for (rollout, (layout, on)) in self.switches() {
            match before.get(&rollout) {
                Some((old_layout, was_on)) if *old_layout == layout => {
                    let (set, clear) = (without(on, *was_on), without(*was_on, on));
                    if set != Switches::NONE {
                        let rollout = Arc::clone(&rollout);
                        self.effects.push_back(Effect::SetLatch { rollout, switches: set });
                    }
                    if clear != Switches::NONE {
                        clears.push(Effect::ClearLatch { rollout, switches: clear });
                    }
                }
                _ => self.effects.push_back(Effect::RenewLatch { rollout, switches: on }),
            }
        }
        if step.publishes {
            self.effects.push_back(Effect::Publish);
        }
        self.effects.extend(clears);
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

/// Why a step towards the canary is denied when it cannot be written down; the words of the contract.
pub const CANNOT_WRITE: &str = "state cannot be written";
/// Why rollouts are held after their state was lost; the words of the contract.
pub const UNREADABLE: &str = "state unreadable";
/// Why a staged rollout does not start.
pub const STAGED: &str = "and this version carries out no stages";
/// What is on in `these` but not in `others`.
const fn without(these: Switches, others: Switches) -> Switches {
    Switches::from_bits(these.bits() & !others.bits())
}

#[cfg(test)]
mod tests;
