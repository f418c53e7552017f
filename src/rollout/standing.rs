//! How a rollout stands: its plan and what happened to it at run time, read together. Every rule on which of the two
//! counts is here; the engine changes the run-time half, the control plane prints and compiles from both.

use super::assign::{Phase, Switches};
use super::bucket::Weight;
use super::cohort::{Overlay, UserSet};
use super::engine::{STAGED, UNREADABLE};
use super::plan::{CohortPlan, Plan};
use super::report::{Facts, Origin, State};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Members of one cohort that may be changed at run time; every change rebuilds the set, and more belong into a file.
pub const MEMBERS_MAX: usize = 100_000;
/// Bytes of a unit's id that is added or removed at run time: longer than any sane id, short enough for a table.
pub const UNIT_BYTES_MAX: usize = 1024;

/// A weight set at run time. It holds until the file's value is no longer the one it was set under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetWeight {
    /// Share of units on the canary.
    pub weight: Weight,
    /// The file's weight when it was set.
    pub under: Weight,
}

/// What is saved of a rollout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedRollout {
    /// The weight an operator set.
    pub set: Option<SetWeight>,
    /// Who killed it at run time, if it is.
    pub killed: Option<Origin>,
    /// Its state was lost, and no operator has said yet how to go on.
    pub held: bool,
}

/// One piece of state as it is saved; later ones replace earlier ones of the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Save {
    /// Of a rollout.
    Rollout {
        /// The rollout.
        rollout: Arc<str>,
        /// Its state.
        saved: SavedRollout,
    },
    /// The run-time switch of a cohort.
    Cohort {
        /// The rollout.
        rollout: Arc<str>,
        /// The cohort.
        cohort: Arc<str>,
        /// Whether it is off.
        killed: bool,
    },
    /// One unit's membership, over the config's word.
    Member {
        /// The rollout.
        rollout: Arc<str>,
        /// The cohort.
        cohort: Arc<str>,
        /// The unit.
        unit: Arc<str>,
        /// Whether it is a member.
        present: bool,
    },
}

impl Save {
    /// The rollout it is about.
    pub fn rollout(&self) -> &Arc<str> {
        match self {
            Save::Rollout { rollout, .. } | Save::Cohort { rollout, .. } | Save::Member { rollout, .. } => rollout,
        }
    }
}

/// What happened to a rollout at run time.
#[derive(Debug, Default)]
pub struct Runtime {
    /// The rollout's own part.
    pub saved: SavedRollout,
    /// Cohorts whose run-time switch is off.
    pub killed_cohorts: BTreeSet<Arc<str>>,
    /// Changed members by cohort.
    pub members: BTreeMap<Arc<str>, Members>,
}

impl Runtime {
    /// Nothing happened.
    pub const fn new() -> Self {
        let saved = SavedRollout { set: None, killed: None, held: false };
        Runtime { saved, killed_cohorts: BTreeSet::new(), members: BTreeMap::new() }
    }

    /// Takes one piece of state in. Names the cohort whose members changed: it must be sealed after the last one.
    pub fn take(&mut self, save: Save) -> Option<Arc<str>> {
        match save {
            Save::Rollout { saved, .. } => self.saved = saved,
            Save::Cohort { cohort, killed: true, .. } => {
                self.killed_cohorts.insert(cohort);
            }
            Save::Cohort { cohort, killed: false, .. } => {
                self.killed_cohorts.remove(&cohort);
            }
            Save::Member { cohort, unit, present, .. } => {
                self.members.entry(Arc::clone(&cohort)).or_default().by_unit.insert(unit, present);
                return Some(cohort);
            }
        }
        None
    }

    /// Members added and removed, by cohort.
    pub fn overlays(&self) -> BTreeMap<Arc<str>, Arc<Overlay>> {
        let of = |(cohort, members): (&Arc<str>, &Members)| (Arc::clone(cohort), Arc::clone(&members.overlay));
        self.members.iter().map(of).collect()
    }

    /// Builds what snapshots share of a cohort's changed members.
    pub fn seal(&mut self, cohort: &str) {
        if let Some(members) = self.members.get_mut(cohort) {
            let of = |wanted: bool| -> UserSet {
                members.by_unit.iter().filter(|(_, present)| **present == wanted).map(|(unit, _)| unit).collect()
            };
            members.overlay = Arc::new(Overlay { added: of(true), removed: of(false) });
        }
    }
}

/// The members of one cohort that were changed at run time.
#[derive(Debug, Default)]
pub struct Members {
    by_unit: BTreeMap<Arc<str>, bool>,
    overlay: Arc<Overlay>,
}

impl Members {
    /// How many units were changed.
    pub fn changed(&self) -> usize {
        self.by_unit.len()
    }

    /// Whether the unit was added (true) or removed (false); none if it was never changed.
    pub fn present(&self, unit: &str) -> Option<bool> {
        self.by_unit.get(unit).copied()
    }

    /// How many are added and how many removed, once `changes` are made too.
    pub fn counts_after(&self, changes: &BTreeMap<&str, bool>) -> (usize, usize) {
        let kept = self.iter().filter(|(unit, _)| !changes.contains_key(unit));
        let all = kept.chain(changes.iter().map(|(unit, present)| (*unit, *present)));
        all.fold((0, 0), |(added, removed), (_, present)| match present {
            true => (added + 1, removed),
            false => (added, removed + 1),
        })
    }

    /// Every changed unit and whether it is a member.
    pub fn iter(&self) -> impl Iterator<Item = (&str, bool)> {
        self.by_unit.iter().map(|(unit, present)| (&**unit, *present))
    }
}

/// How one rollout stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// What the config asks.
    pub plan: &'a Plan,
    /// What is saved of it.
    pub saved: &'a SavedRollout,
    /// What else happened to it.
    pub runtime: &'a Runtime,
}

impl<'a> Standing<'a> {
    /// Plan and run-time state together.
    pub fn of(plan: &'a Plan, runtime: Option<&'a Runtime>) -> Self {
        let runtime = runtime.unwrap_or(&UNTOUCHED);
        Standing { plan, saved: &runtime.saved, runtime }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        if self.saved.held {
            State::Paused
        } else if self.plan.staged || !self.plan.enabled {
            State::Pending
        } else {
            State::Running
        }
    }

    /// Why it is killed, or else why it does not run.
    pub fn reason(&self) -> Option<String> {
        match (&self.saved.killed, self.state()) {
            (Some(by), _) if by.reason.is_empty() => Some(format!("killed by {}", by.actor)),
            (Some(by), _) => Some(format!("killed by {}: {}", by.actor, by.reason)),
            (None, _) if self.plan.killed => Some("killed by the config".into()),
            (None, State::Paused) => Some(UNREADABLE.into()),
            (None, State::Pending) if self.plan.staged => Some(format!("the rollout has stages, {STAGED}")),
            (None, State::Pending) => Some("off in the config (enabled = false)".into()),
            (None, State::Running | State::WaitingApproval | State::Completed | State::RolledBack) => None,
        }
    }

    /// Where it stands, for a decision.
    pub fn phase(&self) -> Phase {
        match self.state() {
            State::Running | State::WaitingApproval | State::Completed => Phase::Serving,
            State::RolledBack => Phase::RolledBack,
            State::Pending | State::Paused => Phase::Pending,
        }
    }

    /// The weight in force, kill aside: the one an operator set, until the file's value changes; else the file's.
    pub fn weight(&self) -> Weight {
        match (self.state(), self.saved.set) {
            (State::Running, Some(set)) => set.weight,
            (State::Running, None) => self.plan.weight,
            _ => Weight::ZERO,
        }
    }

    /// Whether everything goes to stable by a kill, the config's or an operator's.
    pub fn killed(&self) -> bool {
        self.plan.killed || self.saved.killed.is_some()
    }

    /// Whether that cohort's run-time switch is off.
    pub fn cohort_killed(&self, cohort: &str) -> bool {
        self.runtime.killed_cohorts.contains(cohort)
    }

    /// The members of a cohort that were changed at run time.
    pub fn members(&self, cohort: &str) -> Option<&'a Members> {
        self.runtime.members.get(cohort)
    }

    /// Members added and removed at run time, by cohort.
    pub fn overlays(&self) -> BTreeMap<Arc<str>, Arc<Overlay>> {
        self.runtime.overlays()
    }

    /// What the rollout's latch must have on.
    pub fn switches(&self) -> Switches {
        let rollout = if self.killed() { Switches::KILLED } else { Switches::NONE };
        let killed = self.plan.cohorts.iter().enumerate().filter(|(_, cohort)| self.cohort_killed(&cohort.name));
        let cohorts = killed.filter_map(|(index, _)| Switches::cohort(index));
        cohorts.fold(rollout, |all, one| Switches::from_bits(all.bits() | one.bits()))
    }

    /// The rollout's side of an audit entry.
    pub fn facts(&self) -> Facts {
        Facts::Standing { state: self.state(), weight: self.weight(), killed: self.killed() }
    }

    /// Whether this standing lets anybody onto the canary whom `before` keeps off it. In doubt yes, and the kill does
    /// not excuse what lies under it: such a step is recorded before it happens.
    pub fn exposes_beyond(&self, before: &Standing<'_>) -> bool {
        let serves = self.state() == State::Running;
        let admits = |standing: &Standing<'_>, cohort: &CohortPlan| {
            cohort.enabled && !cohort.exclude && !standing.cohort_killed(&cohort.name)
        };
        // A decision minds no switch of an excluding cohort: only the file opens the way for its members.
        let keeps_off = |cohort: &CohortPlan| cohort.enabled && cohort.exclude;
        let admitted_before = |name: &str| before.plan.cohort(name).is_some_and(|cohort| admits(before, cohort));
        let kept_off_now = |name: &str| self.plan.cohort(name).is_some_and(keeps_off);
        (before.killed() && !self.killed())
            || (serves && before.state() != State::Running)
            || self.weight() > before.weight()
            || self.plan.cohorts.iter().any(|cohort| admits(self, cohort) && !admitted_before(&cohort.name))
            || before.plan.cohorts.iter().any(|cohort| keeps_off(cohort) && !kept_off_now(&cohort.name))
    }
}

/// A rollout to which nothing happened.
static UNTOUCHED: Runtime = Runtime::new();
