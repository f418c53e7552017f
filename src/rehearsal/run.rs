//! The run of a rehearsal: looks at every rollout, effects as if all were carried out, people who do as assumed, and the next
//! step in time.

use super::assume::Assumptions;
use super::pace::{self, LOOK};
use super::series::Hurt;
use super::story::{End, Happening, Judged, Met, Passage, Story};
use super::usual;
use super::world::World;
use crate::clock::{Time, Wall};
use crate::config::{Config, RolloutConfig};
use crate::rollout::bucket::Bucketer;
use crate::rollout::course::{Captured, Command, Known, Readings, Verdict, asks, judge, records};
use crate::rollout::criterion::{Criterion, Dimension, Sample};
use crate::rollout::engine::{Effect, Engine, Input, Saved};
use crate::rollout::plan::Plan;
use crate::rollout::report::{Entry, Facts, Kind, Origin, State};
use crate::rollout::stages::Span;
use crate::rollout::standing::Standing;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

mod choosing;
mod ending;

/// A plan in which nothing has happened for so long, and nothing is due, waits for something that does not come.
const STUCK_AFTER: Duration = Duration::from_secs(400 * 86_400);
/// What waits for a rollout that has gone back or stands still does not go on; what else happens to it is watched for so long.
const HOPELESS_AFTER: Duration = Duration::from_secs(86_400);
/// Looks after which a rehearsal gives up: minutes of work.
const LOOKS_MAX: u64 = 3_000_000;
/// Happenings that are kept; what is told again and again is kept once.
const HAPPENINGS_MAX: usize = 5_000;
/// Share of users in a cohort that is an opt-in or a file of unknown users, unless it is said.
pub const COHORT_USUAL: f64 = 0.01;

/// Rehearses all rollouts of a config.
pub fn rehearse(config: &Config, assumed: &Assumptions) -> Story {
    // What is switched off is rehearsed as it will be when it is switched on, or there would be nothing to tell.
    let mut plans: Vec<Plan> = config.rollouts.iter().map(|rollout| rollout.plan.clone()).collect();
    let off = plans.iter_mut().filter(|plan| plan.is_staged() && !plan.enabled);
    let switched_on = off.map(|plan| {
        plan.enabled = true;
        Arc::clone(&plan.name)
    });
    let mut rehearsal = Rehearsal {
        config,
        assumed,
        story: Story { switched_on: switched_on.collect(), ..Story::default() },
        engine: Engine::new(plans, Saved::Known(Vec::new()), Time::default()),
        world: World::new(&config.rollouts, assumed.clone()),
        stands: BTreeMap::new(),
        asked: usual::asked(config.rollouts.iter().map(|rollout| &rollout.plan)),
        changed: Time::default(),
        looked: Time::default(),
    };
    rehearsal.begin_usual();
    rehearsal.carry_out();
    rehearsal.settle();
    while rehearsal.story.looks < LOOKS_MAX {
        rehearsal.look();
        let Some(next) = rehearsal.next() else { break };
        let change = rehearsal.world.next_change();
        rehearsal.world.advance(next);
        // From where an assumption begins to hold things may go another way.
        if change == Some(rehearsal.world.now) {
            rehearsal.changed = rehearsal.world.now;
        }
    }
    rehearsal.end()
}

struct Rehearsal<'a> {
    config: &'a Config,
    assumed: &'a Assumptions,
    engine: Engine,
    world: World,
    /// How each rollout stood when it was settled last.
    stands: BTreeMap<Arc<str>, Stand>,
    /// Queries that gates ask for.
    asked: Vec<(Arc<str>, Dimension)>,
    story: Story,
    /// When something changed last.
    changed: Time,
    /// When it was looked last.
    looked: Time,
}

/// What of a rollout's standing makes a difference to its story.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stand {
    visit: u64,
    state: Option<State>,
    circuit: Option<crate::rollout::breaker::State>,
    past_minimum: bool,
    /// When its stage or its state changed last.
    pub since: Time,
    /// Its stays in stages.
    pub passages: Vec<Passage>,
    /// The gates of the present one as last judged.
    pub gates: Vec<Judged>,
    /// What its canary had cost when something changed last, here or with another rollout.
    pub cost: (Hurt, u64, Vec<Met>),
}

impl Rehearsal<'_> {
    fn names(&self) -> Vec<Arc<str>> {
        self.config.rollouts.iter().map(|rollout| Arc::clone(&rollout.plan.name)).collect()
    }

    /// One look at every rollout, as the control plane takes them.
    fn look(&mut self) {
        self.story.looks += 1;
        for rollout in self.names() {
            self.people(&rollout);
            if let Some(measured) = self.world.take_measured(&rollout) {
                self.send(Input::Measured { rollout: Arc::clone(&rollout), measured: Box::new(measured) });
            }
        }
        for rollout in self.names() {
            let Some(standing) = self.engine.standing(&rollout).filter(Standing::is_watched) else { continue };
            let (stages, progress) = (&standing.plan.stages, &standing.saved.progress);
            let (stage, went_back) = (progress.stage.as_deref(), standing.runtime.course.went_back());
            let read = |span, asked: &_| self.world.reading(&rollout, span, asked);
            let readings = Readings::take(asks(stages, stage, went_back), read);
            let (mut record, mut gates) = (Captured::default(), Vec::new());
            if let Some(stage) = standing.stage() {
                let known = Known { readings: &readings, captures: &standing.runtime.captures };
                gates = stage.gates.iter().map(|gate| report(gate, judge(gate, &known))).collect();
                // Only a stage that may end is recorded.
                let passes = gates.iter().all(|gate: &Judged| gate.verdict == Verdict::Pass);
                if passes && progress.served + self.world.now.since(self.looked) >= stage.min_duration {
                    record = Captured::take(records(stages), |asked| read(Span::Stage, asked));
                }
            }
            if standing.serves()
                && let Some(stand) = self.stands.get_mut(&rollout)
            {
                stand.gates = gates;
            }
            let wall = wall(self.world.now);
            self.send(Input::Watched { rollout, wall, readings, record });
        }
        self.looked = self.world.now;
        self.settle();
    }

    /// People start what waits to be started, and approve what they are asked for, as soon as it is assumed.
    fn people(&mut self, rollout: &Arc<str>) {
        let Some(standing) = self.engine.standing(rollout) else { return };
        let since = self.stands.get(rollout).map_or(Time::default(), |stand| stand.since);
        let mut reason = String::new();
        let command = match standing.state() {
            State::Pending if standing.plan.is_staged() && !standing.plan.stages.autostart => {
                reason.push_str("somebody starts it (autostart = false)");
                Command::Resume
            }
            State::WaitingApproval => {
                let takes = self.assumed.approve_after;
                match takes.is_some_and(|takes| self.world.now.since(since) >= takes) {
                    true => Command::Approve,
                    false => return,
                }
            }
            _ => return,
        };
        let origin = Origin { actor: "a person".into(), reason };
        self.send(Input::Command { rollout: rollout.to_string(), command, origin });
    }

    /// Takes an input to the engine. What it refuses, such as a start before its time, is tried at the next look.
    fn send(&mut self, input: Input) {
        if self.engine.handle(input, self.world.now).is_ok() {
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            if let Effect::Record(record) = effect {
                // There is no disk that could be full.
                let _ = self.engine.recorded(true);
                record.entries.into_iter().for_each(|entry| self.tell(entry));
            }
        }
    }

    fn tell(&mut self, entry: Entry) {
        let (Some(rollout), Facts::Standing { stage, weight, .. }) = (entry.rollout, entry.new) else { return };
        let at = self.world.now.since(Time::default());
        let trigger = |reason: &str| reason.split_once(": ").map_or(String::new(), |(who, _)| who.to_owned());
        let last = self.story.happenings.iter_mut().rev().find(|last| last.rollout == rollout);
        if let Some(last) = last
            && (last.kind, entry.kind) == (Kind::Alert, Kind::Alert)
            && trigger(&last.reason) == trigger(&entry.origin.reason)
        {
            last.again += 1;
            return;
        }
        if self.story.happenings.len() >= HAPPENINGS_MAX {
            return;
        }
        let (hurt, users_hurt) = self.world.hurt(&rollout);
        let Origin { actor, reason } = entry.origin;
        let (kind, failed) = (entry.kind, hurt.failed);
        let index = self.config.rollout(&rollout).unwrap_or(usize::MAX);
        let users_exposed = self.world.exposed(&rollout);
        self.story.happenings.push(Happening {
            at,
            rollout,
            kind,
            actor,
            reason,
            stage,
            weight,
            share: self.required(index, &self.shares()),
            failed,
            users_hurt,
            users_exposed,
            signals: self.world.signals(&hurt),
            again: 0,
        });
    }

    /// After inputs: stages that began or ended, what requests are divided by, and whether anything has changed.
    fn settle(&mut self) {
        let now = self.world.now;
        let (mut differs, mut moves) = (false, false);
        for rollout in &self.config.rollouts {
            let Some(standing) = self.engine.standing(&rollout.plan.name) else { continue };
            let progress = &standing.saved.progress;
            let before = self.stands.remove(&rollout.plan.name).unwrap_or_default();
            let mut stand = before.clone();
            stand.visit = progress.visit;
            (stand.state, stand.circuit) = (Some(standing.state()), Some(standing.breaker()));
            stand.past_minimum = standing.stage().is_some_and(|stage| progress.served >= stage.min_duration);
            if stand.visit != before.visit || stand.state != before.state {
                stand.since = now;
            }
            let moved = stand.visit != before.visit;
            if moved || matches!(stand.state, Some(State::Completed | State::RolledBack)) {
                end_passage(&mut stand, now);
            }
            if moved
                && let Some((place, stage)) = progress.stage.as_deref().and_then(|name| standing.plan.stages.find(name))
            {
                self.world.mark(&rollout.plan.name);
                self.world.spots.insert(Arc::clone(&rollout.plan.name), (place, now));
                stand.passages.push(Passage {
                    stage: Arc::clone(&stage.name),
                    index: place,
                    weight: standing.weight(),
                    began: now.since(Time::default()),
                    ended: None,
                    gates: Vec::new(),
                });
                stand.gates.clear();
            }
            moves |= moved;
            differs |= (stand.visit, stand.state, stand.circuit, stand.past_minimum)
                != (before.visit, before.state, before.circuit, before.past_minimum);
            self.stands.insert(Arc::clone(&rollout.plan.name), stand);
        }
        let shares = self.shares();
        for (index, rollout) in self.config.rollouts.iter().enumerate() {
            let share = self.required(index, &shares);
            if let Some(standing) = self.engine.standing(&rollout.plan.name) {
                self.world.stands(&standing, share);
            }
        }
        if moves {
            self.choose_usual();
        }
        if differs {
            self.changed = now;
            for (name, stand) in &mut self.stands {
                let (hurt, users) = self.world.hurt(name);
                let signals = self.world.signals(&hurt);
                stand.cost = (hurt, users, signals);
            }
        }
    }

    /// The share of users on each canary, `requires` aside.
    fn shares(&self) -> Vec<f64> {
        let rollouts = self.config.rollouts.iter().enumerate();
        let one = |(index, rollout): (usize, &RolloutConfig)| {
            self.engine.standing(&rollout.plan.name).map_or(0.0, |standing| self.share(index, &standing))
        };
        rollouts.map(one).collect()
    }

    /// The share of users on the canary by weight and cohorts, `requires` aside.
    fn share(&self, index: usize, standing: &Standing<'_>) -> f64 {
        let Some(rollout) = self.config.rollouts.get(index).filter(|_| standing.serves() && !standing.killed()) else {
            return 0.0;
        };
        let admitted = standing.admitted();
        let (mut stays, mut kept) = (1.0 - f64::from(standing.weight().ppm()) / 1e6, 1.0);
        for cohort in rollout.cohorts.iter().filter(|cohort| cohort.enabled) {
            let members = self.members(cohort);
            if cohort.exclude {
                kept *= 1.0 - members;
            } else if admitted.is_none_or(|admitted| admitted.contains(&cohort.name)) {
                stays *= 1.0 - members;
            }
        }
        (1.0 - stays) * kept
    }

    /// The share of users that belongs to a cohort.
    fn members(&self, cohort: &crate::config::CohortConfig) -> f64 {
        members(cohort, self.assumed)
    }

    /// Only who is on the canary of the rollout that it requires is on this one's. One salt for both is one order of users.
    fn required(&self, index: usize, shares: &[f64]) -> f64 {
        let own = shares.get(index).copied().unwrap_or(0.0);
        let Some(rollout) = self.config.rollouts.get(index) else { return own };
        let Some(other) = rollout.requires else { return own };
        let theirs = self.required(other, shares);
        let theirs = match self.config.rollouts.get(other).and_then(|other| self.engine.standing(&other.plan.name)) {
            Some(standing) if standing.breaker() == crate::rollout::breaker::State::Closed => theirs,
            _ => 0.0,
        };
        let same =
            self.config.rollouts.get(other).is_some_and(|other| orders_alike(&other.bucketer, &rollout.bucketer));
        if same { own.min(theirs) } else { own * theirs }
    }

    /// The moment of the next look; none when nothing is to be expected any more.
    fn next(&self) -> Option<Time> {
        let now = self.world.now;
        let quiet = now.since(self.changed);
        let mut next: Option<Time> = None;
        let mut due = self.world.next_change();
        let (mut open, mut hopes) = (false, false);
        for standing in self.engine.standings() {
            let stand = self.stands.get(&standing.plan.name);
            let wavers = |criterion: &Criterion| self.world.wavers(&standing.plan.name, criterion);
            let (look, is_due) = pace::next(&standing, now, quiet, &wavers);
            next = Some(next.map_or(look, |next| next.min(look)));
            let waits = stand.filter(|_| standing.state() == State::WaitingApproval);
            let takes = self.assumed.approve_after;
            let approval = waits.and_then(|stand| Some((stand.since + takes?).max(now + LOOK)));
            due = [due, is_due, approval].into_iter().flatten().min();
            let serves = matches!(standing.state(), State::Running | State::WaitingApproval);
            open |= (standing.plan.is_staged() && serves) || standing.runtime.course.rechecks();
            hopes |= self.may_go_on(&standing, 0);
            // What stands still serves, and is watched as before.
            let watched = standing.plan.stages.triggers.iter().map(|trigger| trigger.held_for + trigger.window).max();
            let stands = stand.filter(|_| standing.state() == State::Paused && standing.plan.is_staged());
            open |= stands.is_some_and(|stand| now.since(stand.since) <= watched.unwrap_or_default());
        }
        let patience = if hopes { STUCK_AFTER } else { HOPELESS_AFTER };
        if !(open || hopes) || (due.is_none() && quiet > patience) {
            return None;
        }
        [next, due].into_iter().flatten().min()
    }

    /// Whether a rollout may still go on by itself, or by the people that are assumed. One that waits for a rollout that may not
    /// does not either, whatever else happens to it.
    fn may_go_on(&self, standing: &Standing<'_>, depth: usize) -> bool {
        let state = standing.state();
        let people = state != State::WaitingApproval || self.assumed.approve_after.is_some();
        let moves = matches!(state, State::Pending | State::Running | State::WaitingApproval);
        if !standing.plan.is_staged() || !moves || !people {
            return false;
        }
        let progress = &standing.saved.progress;
        let stages = &standing.plan.stages;
        let next = progress.stage.as_deref().and_then(|stage| stages.find(stage)).map_or(0, |(index, _)| index + 1);
        let Some(after) = stages.list.get(next).and_then(|stage| stage.after.as_ref()) else { return true };
        let Some(other) = self.engine.standing(&after.rollout) else { return true };
        let finished = other.saved.progress.finished.contains(&after.stage);
        finished || depth > self.config.rollouts.len() || self.may_go_on(&other, depth + 1)
    }

    fn end(mut self) -> Story {
        self.story.took = self.world.now.since(Time::default());
        let gave_up = self.story.looks >= LOOKS_MAX;
        for standing in self.engine.standings().filter(|standing| standing.plan.is_staged()) {
            let stand = self.stands.remove(&standing.plan.name).unwrap_or_default();
            let read = |sample: Sample<'_>| self.recorded(&standing, sample);
            self.story.rollouts.push(ending::of(&standing, stand, self.assumed, &read));
        }
        if gave_up {
            let open = self.story.rollouts.iter_mut().filter(|rollout| rollout.end == End::Stuck);
            open.for_each(|rollout| rollout.reason = Some(format!("the rehearsal gave up after {LOOKS_MAX} looks")));
        }
        self.story
    }
}

/// The share of users that belongs to a cohort: as assumed, else by its lists and its own share, else the usual one.
pub fn members(cohort: &crate::config::CohortConfig, assumed: &Assumptions) -> f64 {
    if let Some(share) = assumed.cohorts.get(&cohort.name) {
        return *share;
    }
    let listed = (cohort.members.count as f64 / assumed.users.max(1) as f64).min(1.0);
    let own = cohort.share.as_ref().map_or(0.0, |(_, share)| f64::from(share.ppm()) / 1e6);
    let opted = if cohort.header.is_some() || cohort.cookie.is_some() { COHORT_USUAL } else { 0.0 };
    1.0 - (1.0 - listed) * (1.0 - own) * (1.0 - opted)
}

/// Whether two bucketings put users in the same order. Which of their parameters make a difference is their scheme's business,
/// so some users are asked for.
fn orders_alike(one: &Bucketer, other: &Bucketer) -> bool {
    ["ana", "ben", "cleo", "dora"].iter().all(|unit| one.position(unit) == other.position(unit))
}

fn end_passage(stand: &mut Stand, now: Time) {
    let gates = std::mem::take(&mut stand.gates);
    if let Some(last) = stand.passages.last_mut().filter(|last| last.ended.is_none()) {
        (last.ended, last.gates) = (Some(now.since(Time::default())), gates);
    }
}

/// A gate as it was found.
fn report(gate: &crate::rollout::stages::Gate, found: crate::rollout::criterion::Evaluation) -> Judged {
    Judged {
        when: gate.criterion.to_string(),
        verdict: Verdict::of(&found),
        value: found.value,
        limit: found.limit,
        reason: found.reason,
    }
}

fn wall(now: Time) -> Wall {
    Wall::from_millis(now.as_micros() / 1000)
}
