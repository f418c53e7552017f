//! How a rollout stands: its plan and what happened to it at run time, read together. Every rule on which of the two
//! counts is here; the engine changes the run-time half, the control plane prints and compiles from both.

use super::assign::{Phase, Switches};
use super::breaker::{self, Breaker, Cause};
use super::bucket::Weight;
use super::cohort::{Overlay, UserSet};
use super::course::{Captured, Captures, Course, Ground, Place, Progress};
use super::engine::UNREADABLE;
use super::plan::{CohortPlan, Plan};
use super::report::{BreakerReport, Facts, Origin, State};
use super::stages::{After, Stage};
use crate::clock::{Time, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

mod passage;
mod reports;

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
    /// How its breaker stands, and whether that has rolled it back.
    pub breaker: breaker::Saved,
    /// How far it has got in its plan.
    pub progress: Progress,
}

/// One piece of state as it is saved; later ones replace earlier ones of the same key.
#[derive(Clone, Debug, PartialEq)]
pub enum Save {
    /// Of a rollout.
    Rollout {
        /// The rollout.
        rollout: Arc<str>,
        /// Its state.
        saved: SavedRollout,
    },
    /// What was recorded of a stage when it ended.
    Captured {
        /// The rollout.
        rollout: Arc<str>,
        /// The stage; the empty name is the baseline.
        stage: Arc<str>,
        /// Both arms' numbers.
        captured: Captured,
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
            Save::Rollout { rollout, .. }
            | Save::Captured { rollout, .. }
            | Save::Cohort { rollout, .. }
            | Save::Member { rollout, .. } => rollout,
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
    /// What watches it; none while its plan has no breaker.
    pub breaker: Option<Box<Breaker>>,
    /// Trips since the process began, by cause in the order of `Cause::ALL`.
    pub tripped: [u64; Cause::ALL.len()],
    /// A step of its own towards the canary could not be written down: not tried again before.
    pub retry_at: Option<Time>,
    /// What moves it through its plan.
    pub course: Course,
    /// What was recorded of its stages.
    pub captures: Captures,
    /// Both arms over the stage so far, as last measured: what is recorded if the stage ends now.
    pub record: Captured,
    /// When its served time was last written down, and how much that was.
    pub served_saved_at: Time,
    /// See `served_saved_at`.
    pub served_saved: Duration,
}

impl Runtime {
    /// Takes one piece of state in. Names the cohort whose members changed: it must be sealed after the last one.
    pub fn take(&mut self, save: Save) -> Option<Arc<str>> {
        match save {
            Save::Rollout { saved, .. } => self.saved = saved,
            Save::Captured { stage, captured, .. } => {
                self.captures.insert(stage, captured);
            }
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

/// What requests must know of how a rollout stands: the engine's word to whoever compiles a snapshot.
#[derive(Clone, Debug)]
pub struct LiveRollout {
    /// Where it stands.
    pub phase: Phase,
    /// The weight in force.
    pub weight: Weight,
    /// Share of the canary's units that probe while the breaker is half-open; none is as configured.
    pub probe: Option<Weight>,
    /// The stage it is in.
    pub stage: Option<Arc<str>>,
    /// The cohorts that are admitted; none is all of them.
    pub admitted: Option<Vec<Arc<str>>>,
    /// The share that its stage mirrors; none is as configured.
    pub shadow: Option<Weight>,
    /// Members added and removed at run time, by cohort name.
    pub overlays: BTreeMap<Arc<str>, Arc<Overlay>>,
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
        let runtime = runtime.unwrap_or_else(|| &UNTOUCHED);
        Standing { plan, saved: &runtime.saved, runtime }
    }

    /// Where it is in its life.
    pub fn state(&self) -> State {
        if self.saved.held {
            State::Paused
        } else if self.saved.breaker.rolled_back {
            State::RolledBack
        } else if !self.plan.enabled {
            State::Pending
        } else {
            match self.saved.progress.state {
                State::Pending if !self.plan.is_staged() => State::Running,
                state => state,
            }
        }
    }

    /// Why it is killed, or else why it is in its state.
    pub fn reason(&self) -> Option<String> {
        match (&self.saved.killed, self.state()) {
            (Some(by), _) if by.reason.is_empty() => Some(format!("killed by {}", by.actor)),
            (Some(by), _) => Some(format!("killed by {}: {}", by.actor, by.reason)),
            (None, _) if self.plan.killed => Some("killed by the config".into()),
            (None, State::Paused) if self.saved.held => {
                Some(self.saved.progress.reason.clone().unwrap_or_else(|| UNREADABLE.into()))
            }
            (None, State::Pending) if !self.plan.enabled => Some("off in the config (enabled = false)".into()),
            (None, State::RolledBack) if self.saved.breaker.rolled_back => Some(rolled_back(&self.saved.breaker)),
            (None, State::Pending) if !self.plan.stages.autostart => {
                Some("it waits for somebody to start it (autostart = false)".into())
            }
            (None, State::Pending) => {
                Some(match self.plan.stages.list.first().and_then(|stage| stage.after.as_ref()) {
                    Some(After { rollout, stage }) => {
                        format!("its plan begins when stage `{stage}` of rollout `{rollout}` has ended")
                    }
                    None => "its plan has not begun".into(),
                })
            }
            (None, _) => self.saved.progress.reason.clone().filter(|reason| !reason.is_empty()),
        }
    }

    /// Whether it sends traffic to the canary, kill and breaker aside.
    pub fn serves(&self) -> bool {
        !self.saved.held && !matches!(self.state(), State::Pending | State::RolledBack)
    }

    /// Where it stands, for a decision.
    pub fn phase(&self) -> Phase {
        match self.state() {
            State::RolledBack => Phase::RolledBack,
            _ if self.serves() => Phase::Serving,
            _ => Phase::Pending,
        }
    }

    /// The weight in force, kill aside: the stage's, never above the file's; without stages the one that an operator set,
    /// until the file's value changes, else the file's.
    pub fn weight(&self) -> Weight {
        if !self.serves() {
            return Weight::ZERO;
        }
        let progress = &self.saved.progress;
        if let Some(stage) = self.stage() {
            return progress.share.unwrap_or(stage.weight).min(self.plan.weight);
        }
        if self.plan.is_staged() {
            return Weight::ZERO;
        }
        let set = self.saved.set.map_or(self.plan.weight, |set| set.weight);
        progress.share.map_or(set, |share| share.min(set))
    }

    /// The present stage.
    pub fn stage(&self) -> Option<&'a Stage> {
        let name = self.saved.progress.stage.as_deref()?;
        self.plan.stages.find(name).map(|(_, stage)| stage)
    }

    /// Whether somebody has to look at its course now and then: it has a plan, or stable is looked at after its rollback.
    pub fn is_watched(&self) -> bool {
        self.plan.is_staged() || !self.plan.stages.triggers.is_empty() || self.runtime.course.rechecks()
    }

    /// The cohorts that the present stage admits; none is all of them, because the plan has no stages.
    pub fn admitted(&self) -> Option<&'a [Arc<str>]> {
        self.plan.is_staged().then(|| self.stage().map_or(&[][..], |stage| &stage.cohorts))
    }

    /// What requests must know of it.
    pub fn live(&self) -> LiveRollout {
        LiveRollout {
            phase: self.phase(),
            weight: self.weight(),
            probe: self.probe(),
            stage: self.stage().filter(|_| self.serves()).map(|stage| Arc::clone(&stage.name)),
            admitted: self.admitted().map(<[_]>::to_vec),
            shadow: self.stage().and_then(|stage| stage.shadow),
            overlays: self.overlays(),
        }
    }

    /// Whether its stage's clock stands still, besides what its own state says.
    pub fn is_frozen(&self) -> bool {
        self.killed() || self.saved.held || self.breaker() != breaker::State::Closed
    }

    /// What its course is worked out on.
    pub fn ground<'g>(&'g self, wall: Wall, has_finished: &'g dyn Fn(&After) -> bool) -> Ground<'g> {
        let without_stages = self.saved.set.map_or(self.plan.weight, |set| set.weight);
        Ground {
            stages: &self.plan.stages,
            progress: &self.saved.progress,
            ceiling: if self.plan.is_staged() { self.plan.weight } else { without_stages },
            enabled: self.plan.enabled && !self.saved.held && !self.saved.breaker.rolled_back,
            frozen: self.is_frozen(),
            wall,
            has_finished,
        }
    }

    /// Where it stands, as far as the clocks of its course go.
    pub fn place(&self) -> Place {
        let place = self.ground(Wall::default(), &|_| true).place();
        Place { rolled_back: place.rolled_back || self.saved.breaker.rolled_back, ..place }
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

    /// Where its breaker stands; one that is switched off is closed.
    pub fn breaker(&self) -> breaker::State {
        self.saved.breaker.state
    }

    /// Share of the canary's units that probe while the breaker is half-open, if it is not the one of the plan.
    pub fn probe(&self) -> Option<Weight> {
        self.runtime.breaker.as_ref().map(|breaker| breaker.probe())
    }

    /// How its breaker stands, for people; none if it is switched off.
    pub fn breaker_report(&self, now: Time) -> Option<BreakerReport> {
        let rules = self.plan.breaker.as_ref()?;
        let saved = &self.saved.breaker;
        let watching = self.runtime.breaker.as_ref();
        let ends = watching.and_then(|breaker| breaker.cooldown_ends());
        let half_open = saved.state == breaker::State::HalfOpen;
        Some(BreakerReport {
            state: saved.state,
            trips: saved.trips,
            max_trips: rules.max_trips,
            last_reason: saved.reason.as_deref().map(str::to_owned),
            cooldown_left: ends.map(|ends| ends.since(now)),
            probe: watching.filter(|_| half_open).map(|breaker| breaker.probe()),
            note: watching
                .and_then(|breaker| note(breaker, self.runtime.retry_at.filter(|at| now.since(*at) < NOTED_FOR))),
        })
    }

    /// What the rollout's latch must have on, the breaker's era aside.
    pub fn switches(&self) -> Switches {
        let killed = if self.killed() { Switches::KILLED } else { Switches::NONE };
        let rollout = killed.with(match self.breaker() {
            breaker::State::Closed => Switches::NONE,
            breaker::State::Open => Switches::OPEN,
            breaker::State::HalfOpen => Switches::HALF_OPEN,
        });
        let killed = self.plan.cohorts.iter().enumerate().filter(|(_, cohort)| self.cohort_killed(&cohort.name));
        let cohorts = killed.filter_map(|(index, _)| Switches::cohort(index));
        cohorts.fold(rollout, Switches::with)
    }

    /// The rollout's side of an audit entry.
    pub fn facts(&self) -> Facts {
        let (state, weight) = (self.state(), self.weight());
        let stage = self.saved.progress.stage.clone().filter(|_| self.plan.is_staged());
        Facts::Standing { state, stage, weight, killed: self.killed(), breaker: self.breaker() }
    }

    /// Whether this standing lets anybody onto the canary whom `before` keeps off it. In doubt yes, and the kill does
    /// not excuse what lies under it: such a step is recorded before it happens.
    pub fn exposes_beyond(&self, before: &Standing<'_>) -> bool {
        let admits = |standing: &Standing<'_>, cohort: &CohortPlan| {
            cohort.enabled
                && !cohort.exclude
                && !standing.cohort_killed(&cohort.name)
                && standing.admitted().is_none_or(|admitted| admitted.contains(&cohort.name))
        };
        // A decision minds no switch of an excluding cohort: only the file opens the way for its members.
        let keeps_off = |cohort: &CohortPlan| cohort.enabled && cohort.exclude;
        let admitted_before = |name: &str| before.plan.cohort(name).is_some_and(|cohort| admits(before, cohort));
        let kept_off_now = |name: &str| self.plan.cohort(name).is_some_and(keeps_off);
        (before.killed() && !self.killed())
            || (self.serves() && !before.serves())
            || self.weight() > before.weight()
            || self.let_through() > before.let_through()
            || self.plan.cohorts.iter().any(|cohort| admits(self, cohort) && !admitted_before(&cohort.name))
            || before.plan.cohorts.iter().any(|cohort| keeps_off(cohort) && !kept_off_now(&cohort.name))
    }

    /// Whether requests see another rollout than before: then a snapshot must be published.
    pub fn shows_otherwise(&self, before: &Standing<'_>) -> bool {
        self.weight() != before.weight()
            || self.phase() != before.phase()
            || self.saved.progress.stage != before.saved.progress.stage
    }

    /// Share of the canary's units that the breaker lets through.
    fn let_through(&self) -> Weight {
        match (self.breaker(), &self.plan.breaker) {
            (breaker::State::Closed, _) => Weight::FULL,
            (breaker::State::HalfOpen, Some(rules)) => rules.probe,
            (breaker::State::HalfOpen | breaker::State::Open, _) => Weight::ZERO,
        }
    }
}

/// Why a rollout was rolled back, in words.
fn rolled_back(saved: &breaker::Saved) -> String {
    let trips = if saved.trips == 1 { "1 trip".to_owned() } else { format!("{} trips", saved.trips) };
    match &saved.reason {
        Some(reason) => format!("rolled back after {trips} of the breaker, the last by {reason}"),
        None => format!("rolled back after {trips} of the breaker"),
    }
}

/// What an operator should know of a breaker besides its state.
fn note(breaker: &Breaker, retry_at: Option<Time>) -> Option<String> {
    let rules = breaker.rules();
    let both = breaker.both_arms().map(|what| format!("{BOTH_ARMS}: {what}"));
    let few = breaker.few_units().map(|units| {
        let s = if units == 1 { "" } else { "s" };
        format!("only {units} unit{s} seen lately: failures of so many are enough (min_units = {})", rules.min_units)
    });
    let wider = (breaker.state() == breaker::State::HalfOpen && breaker.probe() > rules.probe)
        .then(|| "the trickle was widened, because no unit of the canary fell into it".to_owned());
    let unwritten = retry_at.map(|_| "it would let units through again, but state cannot be written".to_owned());
    let notes: Vec<String> = [both, few, wider, unwritten].into_iter().flatten().collect();
    (!notes.is_empty()).then(|| notes.join("; "))
}

/// How long it is said that something could not be written after it would have been tried again.
const NOTED_FOR: Duration = Duration::from_secs(1);
/// What is said where the canary is spared because stable is as sick.
pub const BOTH_ARMS: &str = "both arms";
/// A rollout to which nothing happened.
static UNTOUCHED: LazyLock<Runtime> = LazyLock::new(Runtime::default);
