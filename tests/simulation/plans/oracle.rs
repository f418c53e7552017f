//! What must hold of plans, kept apart from the code that is judged by it: its own memory of time, approvals, ended stages,
//! alarms and the trail, and every rule of the contract said once more.

use super::random::{Numbers, holds, passes};
use super::world::{Met, STABLE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use weir::clock::Time;
use weir::rollout::breaker;
use weir::rollout::course::Command;
use weir::rollout::engine::Engine;
use weir::rollout::plan::Plan;
use weir::rollout::report::{Entry, Facts, Kind, State};
use weir::rollout::stages::{Action, After, Stage, Trigger};
use weir::rollout::standing::Standing;

/// What was done to the engine.
pub enum Cause<'a> {
    /// A look at a rollout that found these numbers.
    Look(&'a Arc<str>, &'a Numbers),
    Breaker,
    Command(&'a Arc<str>, Option<&'a Command>),
    /// A weight that was set, perhaps by force.
    Weight(&'a Arc<str>, bool),
    Revive(&'a Arc<str>),
    Reload,
    Other,
}

/// A rollout as it was before an input or is after it.
#[derive(Clone, Debug)]
struct Seen {
    state: State,
    facts: Facts,
    index: Option<usize>,
    visit: u64,
    weight: u32,
    served: Duration,
    serves: bool,
    killed: bool,
    closed: bool,
}

/// The judge of one history.
#[derive(Debug, Default)]
pub struct Oracle {
    now: Time,
    before: BTreeMap<Arc<str>, Seen>,
    told: Vec<Entry>,
    /// The last thing that was told of each rollout.
    trail: BTreeMap<Arc<str>, Facts>,
    /// The most that may have been served in each visit of a stage.
    upper: BTreeMap<(Arc<str>, u64), Duration>,
    approved: BTreeSet<(Arc<str>, u64)>,
    forced: BTreeSet<(Arc<str>, u64)>,
    ended: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Since when a trigger has held at every look.
    since: BTreeMap<(Arc<str>, Arc<str>), Time>,
    /// The visit that was looked at last, and what was found.
    looked: BTreeMap<Arc<str>, (u64, Numbers)>,
    /// Rolled back; only a person ends that.
    latched: BTreeSet<Arc<str>>,
    escalated: BTreeSet<Arc<str>>,
    triggers: BTreeMap<Arc<str>, Vec<Trigger>>,
}

impl Seen {
    fn of(standing: Standing<'_>) -> (Arc<str>, Seen) {
        let progress = &standing.saved.progress;
        let index =
            progress.stage.as_deref().and_then(|stage| standing.plan.stages.find(stage)).map(|(index, _)| index);
        let seen = Seen {
            state: standing.state(),
            facts: plain(standing.facts()),
            index,
            visit: progress.visit,
            weight: standing.weight().ppm(),
            served: progress.served,
            serves: standing.serves(),
            killed: standing.killed(),
            closed: standing.breaker() == breaker::State::Closed,
        };
        (Arc::clone(&standing.plan.name), seen)
    }

    fn counts(&self) -> bool {
        let runs = matches!(self.state, State::Running | State::WaitingApproval);
        runs && self.serves && !self.killed && self.closed
    }
}

/// That some units probe is no event: half-open is on the way between two.
fn plain(facts: Facts) -> Facts {
    match facts {
        Facts::Standing { state, stage, weight, killed, breaker: breaker::State::HalfOpen } => {
            Facts::Standing { state, stage, weight, killed, breaker: breaker::State::Open }
        }
        other => other,
    }
}

impl Oracle {
    /// Time goes by, and is served where it may be.
    pub fn passes(&mut self, engine: &Engine, time: Duration) {
        for (name, seen) in engine.standings().map(Seen::of) {
            *self.upper.entry((name, seen.visit)).or_default() += if seen.counts() { time } else { Duration::ZERO };
        }
    }

    /// A rollout is about to be looked at.
    pub fn looks(&mut self, engine: &Engine, name: &Arc<str>, numbers: &Numbers, now: Time) {
        self.now = now;
        let Some(standing) = engine.standing(name) else { return };
        let serves = standing.serves();
        for trigger in &standing.plan.stages.triggers {
            let key = (Arc::clone(name), Arc::clone(&trigger.name));
            let stage = standing.saved.progress.stage.as_ref();
            let watched = trigger.stages.is_empty() || stage.is_some_and(|stage| trigger.stages.contains(stage));
            match serves && watched && holds(trigger, numbers) {
                true => drop(self.since.entry(key).or_insert(now)),
                false => drop(self.since.remove(&key)),
            }
        }
        self.looked.insert(Arc::clone(name), (standing.saved.progress.visit, *numbers));
    }

    pub fn before(&mut self, engine: &Engine) {
        self.before = engine.standings().map(Seen::of).collect();
        self.told.clear();
    }

    fn knows_triggers(&mut self, engine: &Engine) {
        let of = |standing: Standing<'_>| (Arc::clone(&standing.plan.name), standing.plan.stages.triggers.clone());
        self.triggers = engine.standings().map(of).collect();
    }

    pub fn told(&mut self, entries: &[Entry]) {
        self.told.extend(entries.iter().cloned());
    }

    /// The process began anew from what was written down.
    pub fn restarted(&mut self, engine: &Engine, same: bool, now: Time) {
        self.now = now;
        self.knows_triggers(engine);
        let present: BTreeMap<Arc<str>, Seen> = engine.standings().map(Seen::of).collect();
        self.since.clear();
        self.escalated.clear();
        self.looked.clear();
        // What was not written down never happened.
        let happened = |name: &Arc<str>, visit: u64| present.get(name).is_none_or(|seen| visit <= seen.visit);
        self.upper.retain(|(name, visit), _| happened(name, *visit));
        self.approved.retain(|(name, visit)| happened(name, *visit));
        self.forced.retain(|(name, visit)| happened(name, *visit));
        for (name, seen) in &present {
            let least = if same { self.upper.get(&(Arc::clone(name), seen.visit)) } else { None };
            assert!(least.is_none_or(|upper| seen.served <= *upper), "`{name}` has served its downtime: {seen:?}");
        }
        // What was written down a moment before the kill did happen, though nobody was there to see it.
        for standing in engine.standings() {
            let (name, progress) = (&standing.plan.name, &standing.saved.progress);
            self.ended.extend(progress.finished.iter().map(|stage| (Arc::clone(name), Arc::clone(stage))));
            let visit = (Arc::clone(name), progress.visit);
            match progress.approved {
                true => self.approved.insert(visit.clone()),
                false => self.approved.remove(&visit),
            };
            if standing.stage().is_some_and(|stage| standing.weight() > stage.weight) {
                self.forced.insert(visit);
            }
        }
        let is_latched = |seen: &Seen| seen.state == State::RolledBack;
        self.latched = present.iter().filter(|(_, seen)| is_latched(seen)).map(|(name, _)| Arc::clone(name)).collect();
        self.trail = present.into_iter().map(|(name, seen)| (name, seen.facts)).collect();
    }

    /// An input was carried out, or denied.
    pub fn after(&mut self, engine: &Engine, cause: &Cause<'_>, met: &mut Met) {
        let (before, told) = (std::mem::take(&mut self.before), std::mem::take(&mut self.told));
        let mut present: BTreeSet<Arc<str>> = BTreeSet::new();
        let mut judged = Vec::new();
        for (name, is) in engine.standings().map(Seen::of) {
            let plan = engine.standing(&name).expect("it is there").plan;
            present.insert(Arc::clone(&name));
            let Some(was) = before.get(&name) else {
                self.trail.insert(Arc::clone(&name), is.facts);
                self.since.retain(|(of, _), _| *of != name);
                continue;
            };
            let own: Vec<&Entry> = told.iter().filter(|entry| entry.rollout.as_ref() == Some(&name)).collect();
            self.replays(&name, was, &is, &own, cause);
            self.stays_within(&name, was, &is, plan, cause);
            let forwards = is.index > was.index || (is.state == State::Completed && was.state != State::Completed);
            match cause {
                Cause::Look(of, numbers) => {
                    if forwards {
                        assert_eq!(name, **of, "only a look at itself moves a rollout forwards");
                        self.may_go_on(&name, was, &is, plan, numbers, &before);
                        met.stages += 1;
                        met.completed += u64::from(is.state == State::Completed);
                    } else {
                        self.may_turn(&name, was, &is, plan, of, numbers, &own, met);
                    }
                    self.escalates(&name, &own, numbers);
                }
                Cause::Command(of, Some(Command::Promote { force, full })) if **of == name && forwards => {
                    self.may_promote(&name, was, plan, *force, *full, &before);
                }
                Cause::Command(of, Some(Command::Resume)) if **of == name => {
                    assert!(!forwards || (is.index == Some(0) && was.index.is_none()), "{was:?} -> {is:?}");
                }
                Cause::Command(of, Some(Command::Approve)) if **of == name => {
                    let approved = engine.standing(&name).is_some_and(|standing| standing.saved.progress.approved);
                    if approved {
                        self.approved.insert((Arc::clone(&name), is.visit));
                    }
                }
                Cause::Reload => {}
                _ => assert!(!forwards, "nothing else moves a rollout forwards: {was:?} -> {is:?}"),
            }
            judged.push((name, was, is, plan, forwards));
        }
        // Not before all are judged: what was remembered of one is why another moved.
        for (name, was, is, plan, forwards) in judged {
            self.remembers(&name, was, &is, plan, forwards, cause);
        }
        if matches!(cause, Cause::Reload) {
            self.trail.retain(|name, _| present.contains(name));
            self.knows_triggers(engine);
        }
    }

    /// The trail tells every change, each from where the one before has led, and ends where things stand.
    fn replays(&mut self, name: &Arc<str>, was: &Seen, is: &Seen, told: &[&Entry], cause: &Cause<'_>) {
        let mut present = self.trail.get(name).cloned().unwrap_or_else(|| was.facts.clone());
        let mut moves = 0;
        for entry in told {
            if !matches!(entry.new, Facts::Standing { .. }) {
                continue;
            }
            let (old, new) = (plain(entry.old.clone()), plain(entry.new.clone()));
            assert_eq!(present, old, "`{name}`: {entry:?} does not begin where the last one ended");
            moves += u32::from(old != new);
            present = new;
        }
        assert_eq!(present, is.facts, "`{name}`: the trail does not lead to how it stands: {told:#?}");
        let most = match cause {
            Cause::Reload => 4,
            // A trip that is the last one, and the rollback that it is.
            Cause::Breaker => 2,
            _ => 1,
        };
        assert!(moves <= most, "`{name}`: one thing was told {moves} times: {told:#?}");
        self.trail.insert(Arc::clone(name), present);
    }

    fn stays_within(&mut self, name: &Arc<str>, was: &Seen, is: &Seen, plan: &Plan, cause: &Cause<'_>) {
        let visit = (Arc::clone(name), is.visit);
        if let Cause::Weight(of, true) = cause
            && **of == *name
        {
            self.forced.insert(visit.clone());
        }
        assert!(is.weight <= plan.weight.ppm() || !plan.is_staged(), "above the file's weight: {is:?}");
        if let Some(stage) = is.index.and_then(|index| plan.stages.list.get(index)) {
            let within = is.weight <= stage.weight.ppm() || self.forced.contains(&visit);
            assert!(within, "`{name}` is above its stage's weight: {is:?}");
        }
        let upper = self.upper.get(&visit).copied().unwrap_or_default();
        assert!(is.served <= upper, "`{name}` has served more than {upper:?}: {is:?}");
        let anew = was.visit != is.visit || (matches!(cause, Cause::Reload) && is.index.is_none());
        assert!(anew || was.served <= is.served, "time served is lost: {was:?} -> {is:?}");
        if self.latched.contains(name) && !matches!(cause, Cause::Revive(of) if **of == *name) {
            assert!(!is.serves && is.weight == 0, "rolled back, and nobody revived it: {is:?}");
        }
        assert!(is.visit >= was.visit, "{was:?} -> {is:?}");
    }

    /// Everything that a step forwards needs.
    fn may_go_on(
        &self,
        name: &Arc<str>,
        was: &Seen,
        is: &Seen,
        plan: &Plan,
        numbers: &Numbers,
        all: &BTreeMap<Arc<str>, Seen>,
    ) {
        assert!(plan.enabled && !was.killed && was.closed, "{was:?} -> {is:?}");
        let Some((index, stage)) = was.index.and_then(|index| Some((index, plan.stages.list.get(index)?))) else {
            assert!(was.state == State::Pending && plan.stages.autostart && is.index == Some(0), "{was:?} -> {is:?}");
            return self.follows(plan.stages.list.first(), all);
        };
        assert!(matches!(was.state, State::Running | State::WaitingApproval), "{was:?} -> {is:?}");
        for gate in &stage.gates {
            assert_eq!(passes(gate, numbers), Some(true), "`{name}` went on from {was:?} past {gate:?} on {numbers:?}");
        }
        let visit = (Arc::clone(name), was.visit);
        let served = self.upper.get(&visit).copied().unwrap_or_default();
        assert!(served >= stage.min_duration, "`{name}` went on after {served:?} of {:?}", stage.min_duration);
        assert!(!stage.approval || self.approved.contains(&visit), "`{name}` went on without approval: {was:?}");
        match is.state {
            State::Completed => assert_eq!(index + 1, plan.stages.list.len()),
            _ => assert_eq!(is.index, Some(index + 1), "one stage at a time"),
        }
        self.follows(plan.stages.list.get(index + 1), all);
    }

    /// What a stage waits for has ended, and still stands.
    fn follows(&self, stage: Option<&Stage>, all: &BTreeMap<Arc<str>, Seen>) {
        let Some(After { rollout, stage }) = stage.and_then(|stage| stage.after.as_ref()) else { return };
        let ended = self.ended.contains(&(Arc::clone(rollout), Arc::clone(stage)));
        let stands = all.get(rollout).is_some_and(|seen| seen.serves && !seen.killed);
        assert!(ended && stands, "`{rollout}:{stage}` has not ended, or was taken back");
    }

    fn may_promote(
        &self,
        name: &Arc<str>,
        was: &Seen,
        plan: &Plan,
        force: bool,
        full: bool,
        all: &BTreeMap<Arc<str>, Seen>,
    ) {
        if force {
            return;
        }
        let list = &plan.stages.list;
        if let Some((index, stage)) = was.index.and_then(|index| Some((index, list.get(index)?))) {
            let looked = self.looked.get(name).filter(|(visit, _)| *visit == was.visit);
            let pass = |gate| looked.is_some_and(|(_, numbers)| passes(gate, numbers) == Some(true));
            assert!(stage.gates.iter().all(pass), "{stage:?} on {looked:?}");
            self.follows(if full { list.last() } else { list.get(index + 1) }, all);
        } else if !full {
            self.follows(list.first(), all);
        }
    }

    fn due(&self, of: &Arc<str>, trigger: &Trigger) -> bool {
        let since = self.since.get(&(Arc::clone(of), Arc::clone(&trigger.name)));
        !trigger.dry_run && since.is_some_and(|since| self.now.since(*since) >= trigger.held_for)
    }

    /// A look moved a rollout anywhere but forwards, or left it: its triggers and its time say which of them it must be.
    #[allow(clippy::too_many_arguments, reason = "a judge wants to know everything")]
    fn may_turn(
        &self,
        name: &Arc<str>,
        was: &Seen,
        is: &Seen,
        plan: &Plan,
        of: &Arc<str>,
        numbers: &Numbers,
        told: &[&Entry],
        met: &mut Met,
    ) {
        let triggers = self.triggers.get(of).map(Vec::as_slice).unwrap_or_default();
        let aims = |trigger: &&Trigger| match &trigger.rollout {
            Some(other) => other == name && of != name,
            None => of == name,
        };
        let due: Vec<Action> = triggers
            .iter()
            .filter(aims)
            .filter(|trigger| self.due(of, trigger))
            .map(|trigger| trigger.action)
            .collect();
        let moved = told.iter().find(|entry| entry.old != entry.new);
        if of == name && was.serves {
            // What must happen.
            assert!(
                !due.contains(&Action::Rollback) || is.state == State::RolledBack,
                "{was:?} -> {is:?} though {due:?}"
            );
            let back = is.visit != was.visit || is.state == State::RolledBack;
            assert!(!due.contains(&Action::Previous) || back, "{was:?} -> {is:?} though {due:?}");
        }
        let Some(entry) = moved else { return };
        assert!(was.serves, "{entry:?}");
        assert!(is.weight <= was.weight, "a look raised a weight: {entry:?}");
        met.across += u64::from(of != name);
        match entry.kind {
            Kind::Rollback if is.state == State::RolledBack => {
                assert!(due.contains(&Action::Rollback) || due.contains(&Action::Previous), "{entry:?} by {due:?}");
                met.rollbacks += 1;
            }
            Kind::Rollback if is.visit != was.visit => {
                assert!(due.contains(&Action::Previous), "{entry:?} by {due:?}");
                met.went_back += 1;
            }
            Kind::Rollback => {
                assert!(due.contains(&Action::Half) && is.state == State::Paused, "{entry:?} by {due:?}");
                assert_eq!(is.weight, was.weight / 2, "{entry:?}");
            }
            Kind::Pause => {
                assert_eq!(is.state, State::Paused);
                assert!(due.contains(&Action::Pause) || self.has_run_out(name, was, plan, numbers), "{entry:?}");
                met.pauses += 1;
            }
            Kind::Approval => {
                let stage = was.index.and_then(|index| plan.stages.list.get(index)).expect("a stage waits");
                assert!(stage.approval && !self.approved.contains(&(Arc::clone(name), was.visit)), "{entry:?}");
                assert!(stage.gates.iter().all(|gate| passes(gate, numbers) == Some(true)), "{entry:?}");
                met.approvals += 1;
            }
            _ => panic!("a look brought {entry:?}"),
        }
    }

    fn has_run_out(&self, name: &Arc<str>, was: &Seen, plan: &Plan, numbers: &Numbers) -> bool {
        let Some(stage) = was.index.and_then(|index| plan.stages.list.get(index)) else { return false };
        let served = self.upper.get(&(Arc::clone(name), was.visit)).copied().unwrap_or_default();
        let stuck = stage.gates.iter().any(|gate| passes(gate, numbers) != Some(true));
        was.state == State::Running && stuck && stage.max_duration.is_some_and(|most| served >= most)
    }

    /// Once for every rollback, and only if stable is sick.
    fn escalates(&mut self, name: &Arc<str>, told: &[&Entry], numbers: &Numbers) {
        for _ in told.iter().filter(|entry| entry.kind == Kind::Escalate) {
            assert!(numbers[STABLE].is_some_and(|(errors, _, samples)| errors > 50 && samples >= 10), "{numbers:?}");
            assert!(self.escalated.insert(Arc::clone(name)), "escalated twice");
        }
    }

    fn remembers(&mut self, name: &Arc<str>, was: &Seen, is: &Seen, plan: &Plan, forwards: bool, cause: &Cause<'_>) {
        let stage = |index: usize| plan.stages.list.get(index).map(|stage| (Arc::clone(name), Arc::clone(&stage.name)));
        if forwards && !matches!(cause, Cause::Reload) {
            let to = if is.state == State::Completed { plan.stages.list.len() } else { is.index.unwrap_or(0) };
            self.ended.extend((was.index.unwrap_or(0)..to).filter_map(stage));
        }
        if is.visit != was.visit && is.index < was.index {
            let from = is.index.unwrap_or(0);
            for ended in (from..plan.stages.list.len()).filter_map(stage) {
                self.ended.remove(&ended);
            }
        }
        if is.state == State::RolledBack && was.state != State::RolledBack {
            self.latched.insert(Arc::clone(name));
            self.escalated.remove(name);
        }
        let revived = matches!(cause, Cause::Revive(of) if **of == *name) && was.state == State::RolledBack;
        if is.state != State::RolledBack && revived {
            self.latched.remove(name);
        }
        let goes_on = was.serves && is.index > was.index;
        if is.visit != was.visit && !goes_on {
            self.since.retain(|(of, _), _| of != name);
        }
        if matches!(cause, Cause::Reload) {
            // A trigger that is another one now has not held yet.
            let old = self.triggers.get(name).cloned().unwrap_or_default();
            let same = |trigger: &Arc<str>| {
                let find = |list: &[Trigger]| list.iter().find(|known| known.name == *trigger).cloned();
                find(&old) == find(&plan.stages.triggers)
            };
            self.since.retain(|(of, trigger), _| of != name || same(trigger));
        }
    }
}
