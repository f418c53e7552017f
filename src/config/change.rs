//! What a reload would do: every key that changes, what only a restart applies, and which share of units moves which way.
//!
//! Moves are counted by the very function that decides requests, asked for 100,000 made-up units under both configs, and for
//! every listed member of a cohort. Called by `weir check --against` and by every reload.

use super::Live;
use super::compile::splits;
use super::model::{AdminConfig, CohortConfig, Config, ListenerConfig, RolloutConfig};
use super::units::print_share;
use crate::rollout::Arm;
use crate::rollout::assign::{Asker, Split, Switches, decide};
use crate::rollout::bucket::Weight;
use crate::rollout::cohort::UserSet;
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

/// What a reload would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// One line per key or file, sorted; empty if nothing changes.
    pub lines: Vec<String>,
    /// Rollouts whose units move, in the order of the new config, removed ones last.
    pub moves: Vec<Move>,
    /// Keys that only a restart applies.
    pub needs_restart: Vec<String>,
}

/// How the units of one rollout move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The rollout.
    pub rollout: Arc<str>,
    /// Share of all units that go from stable to the canary, in ppm; by a sample, to about 0.3 %.
    pub to_canary_ppm: u32,
    /// Share of all units that go from the canary to stable, in ppm.
    pub to_stable_ppm: u32,
    /// Listed cohort members that go to the canary, exactly.
    pub members_to_canary: usize,
    /// Listed cohort members that go to stable, exactly.
    pub members_to_stable: usize,
    /// Ids are taken from other sources: then the same person may have another id, and no number tells how many move.
    pub other_units: bool,
}

/// `chat: about 15% of units move to the canary, 0% to stable; of the listed members 2 move to the canary, 0 to stable`.
impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A sample tells no more than a tenth of a percent; what it has seen at all is not called nothing.
        let rounded = |ppm: u32| if ppm < TOLD_PPM { ppm } else { (ppm + TOLD_PPM / 2) / TOLD_PPM * TOLD_PPM };
        let share = |ppm| print_share(Weight::from_ppm(rounded(ppm)).unwrap_or(Weight::FULL));
        let (canary, stable) = (share(self.to_canary_ppm), share(self.to_stable_ppm));
        write!(f, "{}: about {canary} of units move to the canary, {stable} to stable", self.rollout)?;
        if self.members_to_canary + self.members_to_stable > 0 {
            let (canary, stable) = (self.members_to_canary, self.members_to_stable);
            write!(f, "; of the listed members {canary} move to the canary, {stable} to stable")?;
        }
        if self.other_units {
            write!(f, "; units are taken from other sources, so whoever has another id there may move as well")?;
        }
        Ok(())
    }
}

/// What going from one config to another changes, each as it stands at run time.
pub fn between(old: &Config, old_live: &Live, new: &Config, new_live: &Live) -> Change {
    let mut change = Change { needs_restart: needs_restart(old, new), ..Change::default() };
    difference("", Some(&old.effective), Some(&new.effective), &mut change.lines);
    for (path, digest) in &new.digests {
        if old.digests.get(path).is_some_and(|before| before != digest) {
            change.lines.push(format!("{}: the file's content changes", path.display()));
        }
    }
    let (before, after) = (World::of(old, old_live), World::of(new, new_live));
    let removed = old.rollouts.iter().filter(|rollout| new.rollout(&rollout.plan.name).is_none());
    for name in new.rollouts.iter().chain(removed).map(|rollout| &rollout.plan.name) {
        if let (Some((_, was)), Some((_, is))) = (before.find(name), after.find(name))
            && was.weight != is.weight
        {
            let (was, is) = (print_share(was.weight), print_share(is.weight));
            change.lines.push(format!("rollouts.{name}: weight in force {was} -> {is}"));
        }
        change.lines.extend(breaker(name, old, new));
        change.moves.extend(moves(name, &before, &after));
    }
    change
}

/// What the keys of a breaker do not say by themselves: one that is switched off lets go of an open circuit.
fn breaker(name: &str, old: &Config, new: &Config) -> Option<String> {
    let has = |config: &Config| Some(config.rollouts.get(config.rollout(name)?)?.plan.breaker.is_some());
    match (has(old)?, has(new)?) {
        (true, false) => Some(format!("rollouts.{name}: the breaker is switched off; if it is open it closes")),
        (false, true) => Some(format!("rollouts.{name}: the breaker is switched on")),
        _ => None,
    }
}

/// The new config with everything that only a restart applies taken from the running one.
pub fn without_restart(running: &Config, new: Config) -> Config {
    let listener = |running: &ListenerConfig| {
        // Two listeners on port 0 are told apart by their order alone, like everything else about them.
        new.listeners.iter().find(|listener| listener.address == running.address).unwrap_or(running).clone()
    };
    let admin = match (&running.admin, &new.admin) {
        (Some(running), Some(new)) => {
            // A new address may need no token where the running one does.
            let kept = running.token.clone().filter(|_| new.address != running.address);
            let token = new.token.clone().or(kept);
            Some(AdminConfig { address: running.address.clone(), token, read_token: new.read_token.clone() })
        }
        (running, _) => running.clone(),
    };
    Config {
        listeners: running.listeners.iter().map(listener).collect(),
        admin,
        workers: running.workers,
        state_dir: running.state_dir.clone(),
        access_log: super::model::AccessLogConfig {
            keep: new.access_log.keep,
            target: running.access_log.target.clone(),
        },
        ..new
    }
}

/// Whether a config may send somebody to the canary by anything but weights, switches and breakers, which the rollout's engine
/// judges. In doubt it may.
pub fn may_expose(old: &Config, new: &Config) -> bool {
    old.digests != new.digests || without_switches(&old.effective) != without_switches(&new.effective)
}

fn without_switches(effective: &Value) -> Value {
    let mut value = effective.clone();
    let remove = |value: &mut Value, keys: &[&str]| {
        if let Value::Object(table) = value {
            keys.iter().for_each(|key| drop(table.remove(*key)));
        }
    };
    remove(&mut value, &["kill"]);
    for rollout in value.get_mut("rollouts").and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut())
    {
        remove(rollout, &["weight", "kill", "enabled", "breaker"]);
        for cohort in
            rollout.get_mut("cohorts").and_then(Value::as_object_mut).into_iter().flat_map(|all| all.values_mut())
        {
            remove(cohort, &["enabled"]);
        }
    }
    value
}

fn needs_restart(old: &Config, new: &Config) -> Vec<String> {
    let addresses = |config: &Config| config.listeners.iter().map(|listener| listener.address).collect::<BTreeSet<_>>();
    let admin = |config: &Config| config.admin.as_ref().map(|admin| admin.address.clone());
    let keys = [
        ("listeners", addresses(old) != addresses(new) || old.listeners.len() != new.listeners.len()),
        ("workers", old.workers != new.workers),
        ("state_dir", old.state_dir != new.state_dir),
        ("admin.address", admin(old) != admin(new)),
        ("access_log.path", old.access_log.target != new.access_log.target),
    ];
    keys.iter().filter(|(_, changes)| *changes).map(|(key, _)| (*key).to_owned()).collect()
}

/// One line per key that differs.
fn difference(path: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                difference(&path, old.get(key), new.get(key), lines);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.iter().chain(new).any(Value::is_object) => {
            for index in 0..old.len().max(new.len()) {
                difference(&format!("{path}[{index}]"), old.get(index), new.get(index), lines);
            }
        }
        (Some(old), Some(new)) if old != new => lines.push(format!("{path}: {} -> {}", shown(old), shown(new))),
        (None, Some(new)) => lines.push(format!("{path}: added, {}", shown(new))),
        (Some(old), None) => lines.push(format!("{path}: removed, was {}", shown(old))),
        _ => {}
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let short: String = text.chars().take(SHOWN_MAX).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

/// A config as it stands: what decisions see of it.
struct World<'c> {
    config: &'c Config,
    splits: Vec<Split>,
    switches: Vec<Switches>,
}

impl<'c> World<'c> {
    fn of(config: &'c Config, live: &Live) -> Self {
        let killed = |rollout: &RolloutConfig| if rollout.plan.killed { Switches::KILLED } else { Switches::NONE };
        World { config, splits: splits(config, live), switches: config.rollouts.iter().map(killed).collect() }
    }

    fn find(&self, name: &str) -> Option<(usize, &Split)> {
        self.config.rollout(name).and_then(|index| Some((index, self.splits.get(index)?)))
    }

    /// The arm of a unit; a rollout that is not there leaves everybody on stable.
    fn arm(&self, index: Option<usize>, unit: &str) -> Arm {
        let asker = MadeUp { unit, switches: &self.switches };
        index.map_or(Arm::Stable, |index| decide(&self.splits, index, &asker).arm)
    }

    fn rollout(&self, index: Option<usize>) -> Option<&'c RolloutConfig> {
        self.config.rollouts.get(index?)
    }
}

/// A request that has nothing but a unit.
struct MadeUp<'a> {
    unit: &'a str,
    switches: &'a [Switches],
}

impl Asker for MadeUp<'_> {
    fn unit(&self, _rollout: usize) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(self.unit))
    }

    fn header(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn cookie(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }

    fn forced(&self, _rollout: usize) -> Option<Arm> {
        None
    }

    fn switches(&self, rollout: usize) -> Switches {
        self.switches.get(rollout).copied().unwrap_or(Switches::NONE)
    }
}

/// How the units of one rollout move; none if nobody does.
fn moves(name: &Arc<str>, before: &World<'_>, after: &World<'_>) -> Option<Move> {
    let (was, is) = (before.config.rollout(name), after.config.rollout(name));
    let sources = |world: &World<'_>, index| world.rollout(index).map(|rollout| rollout.unit_texts.clone());
    let other_units = was.is_some() && is.is_some() && sources(before, was) != sources(after, is);
    if !other_units && alike(before, was, after, is) {
        return None;
    }
    let (mut to_canary, mut to_stable) = (0_u32, 0_u32);
    for number in 0..SAMPLE_UNITS {
        let unit = format!("unit-{number}");
        match (before.arm(was, &unit), after.arm(is, &unit)) {
            (Arm::Stable, Arm::Canary) => to_canary += 1,
            (Arm::Canary, Arm::Stable) => to_stable += 1,
            _ => {}
        }
    }
    let (mut members_to_canary, mut members_to_stable) = (HashSet::new(), HashSet::new());
    let cohorts = [before.rollout(was), after.rollout(is)].into_iter().flatten().flat_map(|rollout| &rollout.cohorts);
    for member in cohorts.flat_map(|cohort| cohort.members.set.iter()) {
        match (before.arm(was, member), after.arm(is, member)) {
            (Arm::Stable, Arm::Canary) => members_to_canary.insert(member),
            (Arm::Canary, Arm::Stable) => members_to_stable.insert(member),
            _ => false,
        };
    }
    let moved = Move {
        rollout: Arc::clone(name),
        to_canary_ppm: to_canary * PPM_PER_SAMPLE,
        to_stable_ppm: to_stable * PPM_PER_SAMPLE,
        members_to_canary: members_to_canary.len(),
        members_to_stable: members_to_stable.len(),
        other_units,
    };
    let nobody = to_canary + to_stable == 0 && members_to_canary.is_empty() && members_to_stable.is_empty();
    (other_units || !nobody).then_some(moved)
}

/// Whether a rollout decides every unit the same in both worlds, judged by what it decides from; saves asking.
fn alike(before: &World<'_>, was: Option<usize>, after: &World<'_>, is: Option<usize>) -> bool {
    let (Some(was), Some(is)) = (was, is) else { return was.is_none() && is.is_none() };
    let (Some(old), Some(new)) = (before.splits.get(was), after.splits.get(is)) else { return false };
    let (Some(old_config), Some(new_config)) = (before.rollout(Some(was)), after.rollout(Some(is))) else {
        return false;
    };
    let cohorts = old_config.cohorts.iter().zip(&new_config.cohorts);
    let overlays = old.cohorts.iter().zip(&new.cohorts);
    old.phase == new.phase
        && old.weight == new.weight
        && old.bucketer == new.bucketer
        && old_config.plan.killed == new_config.plan.killed
        && old.cohorts.len() == new.cohorts.len()
        && cohorts.into_iter().all(|(old, new)| same_cohort(old, new))
        && overlays.into_iter().all(|(old, new)| Arc::ptr_eq(&old.overlay, &new.overlay) || neither(old, new))
        && old.requires.is_some() == new.requires.is_some()
        && (old.requires.is_none() || alike(before, old.requires, after, new.requires))
}

/// Whether neither cohort was changed at run time.
fn neither(old: &crate::rollout::cohort::Cohort, new: &crate::rollout::cohort::Cohort) -> bool {
    [old, new].iter().all(|cohort| cohort.overlay.added.is_empty() && cohort.overlay.removed.is_empty())
}

fn same_cohort(old: &CohortConfig, new: &CohortConfig) -> bool {
    old.name == new.name
        && old.enabled == new.enabled
        && old.exclude == new.exclude
        && old.header == new.header
        && old.cookie == new.cookie
        && old.share == new.share
        && same_members(&old.members.set, &new.members.set)
}

fn same_members(old: &Arc<UserSet>, new: &Arc<UserSet>) -> bool {
    Arc::ptr_eq(old, new) || (old.len() == new.len() && old.iter().all(|id| new.contains(id)))
}

/// Made-up units that are asked for: their share is within 0.5 % of the truth at three standard deviations.
const SAMPLE_UNITS: u32 = 100_000;
/// The finest share that a line tells, in ppm.
const TOLD_PPM: u32 = 1000;
const PPM_PER_SAMPLE: u32 = 1_000_000 / SAMPLE_UNITS;
/// Characters of a value that a line shows.
const SHOWN_MAX: usize = 80;
