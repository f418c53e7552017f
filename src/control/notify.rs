//! Tells people what happens: webhooks, Slack, Alertmanagers.
//!
//! The outbox is the audit trail itself: the store notes with every event who is to be told of it, and forgets that once it
//! was delivered. So each target gets each event once and in order, whatever ends the process; only a delivery that was under
//! way then may come a second time, under the same key. Each target has one delivery under way, in a task of its own: one that
//! is slow or dead keeps up neither another target nor the loop. Nothing that a URL may hide is said.
//!
//! The supervisor hands in the config and what was recorded; `deliver` sends and tries again, `form` writes what is sent.

mod deliver;
mod form;
#[cfg(test)]
mod tests;

use super::http::Lookups;
use super::inbox::Event;
use super::store::Told;
use crate::clock::{Clock, Time};
use crate::config::{NotifyConfig, NotifyKind};
use crate::rollout::report::{Entry, Kind};
use deliver::Delivery;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// All targets of the config in force.
#[derive(Debug)]
pub struct Notifier {
    clock: Clock,
    reports: mpsc::Sender<Event>,
    lookups: Lookups,
    targets: Vec<Target>,
}

#[derive(Debug)]
struct Target {
    config: watch::Sender<Arc<NotifyConfig>>,
    lookups: Lookups,
    /// Events that it is to be told of, the oldest first; the first one may be under way.
    waiting: VecDeque<Waiting>,
    under_way: Option<JoinHandle<()>>,
    /// Why the last try failed, if it did.
    trouble: Option<String>,
}

/// An event that waits to be told.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: u64,
    since: Time,
    /// How old it was then.
    age: Duration,
}

/// What came of a try.
#[derive(Debug)]
pub struct Report {
    /// The target's key.
    target: Arc<str>,
    /// The event.
    id: u64,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// The target took it.
    Sent,
    /// It did not, and will be asked again.
    Retried(String),
    /// It did not, and will not be asked again.
    GivenUp(String),
}

/// What is counted of notifications; the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Delivered.
    Sent,
    /// A try failed and is made again.
    Retried,
    /// Refused, or not delivered in time.
    Failed,
    /// Never tried: too many waited.
    Dropped,
}

impl Count {
    /// All of them.
    pub const ALL: [Count; 4] = [Count::Sent, Count::Retried, Count::Failed, Count::Dropped];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Count::Sent => "sent",
            Count::Retried => "retried",
            Count::Failed => "failed",
            Count::Dropped => "dropped",
        }
    }
}

/// What follows from something that happened to a target's events.
#[derive(Debug)]
pub struct Done {
    /// The target's key.
    pub target: Arc<str>,
    /// The event that it need not be told of any more.
    pub id: u64,
}

impl Notifier {
    /// No targets yet; reports go to that inbox.
    pub fn new(clock: Clock, reports: mpsc::Sender<Event>) -> Notifier {
        Notifier { clock, reports, lookups: Lookups::new(), targets: Vec::new() }
    }

    /// Takes the targets of a config over: those that are known by their keys keep what they are still to be told. A new one is
    /// told of what happens from now on.
    pub fn adopt(&mut self, configs: &[NotifyConfig]) {
        let mut before = std::mem::take(&mut self.targets);
        for config in configs {
            let config = Arc::new(config.clone());
            let target = match before.iter().position(|target| target.key() == config.key) {
                Some(at) => {
                    let target = before.swap_remove(at);
                    if !is_same(&target.config.borrow(), &config) {
                        // Whoever waits to try again does so at once, the new way.
                        target.config.send_replace(config);
                    }
                    target
                }
                None => Target::new(config, self.lookups.another()),
            };
            self.targets.push(target);
        }
    }

    /// Whether these are the targets that there are. A secret part of a URL may differ where the shown config does not.
    pub fn follows(&self, configs: &[NotifyConfig]) -> bool {
        let same = |(target, config): (&Target, &NotifyConfig)| {
            target.key() == config.key && is_same(&target.config.borrow(), config)
        };
        self.targets.len() == configs.len() && self.targets.iter().zip(configs).all(same)
    }

    /// The keys of all targets.
    pub fn keys(&self) -> Vec<Arc<str>> {
        self.targets.iter().map(Target::key).collect()
    }

    /// The kinds of all targets.
    pub fn kinds(&self) -> Vec<NotifyKind> {
        self.targets.iter().map(|target| target.config.borrow().kind).collect()
    }

    /// The keys of the targets that ask for an entry.
    pub fn asked_by(&self, entry: &Entry) -> Vec<Arc<str>> {
        self.targets.iter().filter(|target| target.asks(entry)).map(Target::key).collect()
    }

    /// An event waits to be told to a target; `age` is how old it is already. If that is one too many, the oldest that is not
    /// under way is given up.
    pub fn add(&mut self, target: &str, id: u64, age: Duration) -> Option<(Done, NotifyKind)> {
        let since = self.clock.now();
        let target = self.targets.iter_mut().find(|known| *known.key() == *target)?;
        target.waiting.push_back(Waiting { id, since, age });
        if target.waiting.len() <= WAITING_MAX {
            return None;
        }
        let oldest = usize::from(target.under_way.is_some());
        let dropped = target.waiting.remove(oldest)?;
        target.trouble.get_or_insert_with(|| format!("more than {WAITING_MAX} events wait"));
        Some((Done { target: target.key(), id: dropped.id }, target.config.borrow().kind))
    }

    /// Begins every delivery that can begin; `read` fetches an event from the trail. Names the events that are no longer
    /// there. Must be called within a runtime.
    pub fn go_on<E>(&mut self, read: impl Fn(u64) -> Result<Option<Told>, E>) -> Result<Vec<(Done, NotifyKind)>, E> {
        let mut gone = Vec::new();
        for target in self.targets.iter_mut().filter(|target| target.under_way.is_none()) {
            while let Some(next) = target.waiting.front().copied() {
                let Some(told) = read(next.id)? else {
                    target.waiting.pop_front();
                    gone.push((Done { target: target.key(), id: next.id }, target.config.borrow().kind));
                    continue;
                };
                let delivery = Delivery {
                    told,
                    target: target.key(),
                    config: target.config.subscribe(),
                    lookups: target.lookups.clone(),
                    clock: self.clock.clone(),
                    reports: self.reports.clone(),
                    since: next.since,
                    age: next.age,
                };
                target.under_way = Some(tokio::spawn(delivery.run()));
                break;
            }
        }
        Ok(gone)
    }

    /// Takes in what came of a try: how it counts, and which event is done with.
    pub fn take(&mut self, report: Report) -> Option<(NotifyKind, Count, Option<Done>)> {
        let Report { target: key, id, outcome } = report;
        let target = self.targets.iter_mut().find(|target| target.key() == key)?;
        if target.under_way.is_none() || target.waiting.front().is_none_or(|first| first.id != id) {
            return None;
        }
        let (name, kind) = (Arc::clone(&target.config.borrow().name), target.config.borrow().kind);
        let count = match outcome {
            Outcome::Sent => {
                if target.trouble.take().is_some() {
                    tracing::info!(notify = &*name, "is told again");
                }
                Count::Sent
            }
            Outcome::Retried(why) => {
                if target.trouble.is_none() {
                    tracing::warn!(notify = &*name, event = id, "cannot be told: {why}");
                }
                target.trouble = Some(why);
                return Some((kind, Count::Retried, None));
            }
            Outcome::GivenUp(why) => {
                tracing::warn!(notify = &*name, event = id, "is not told: {why}");
                target.trouble = Some(why);
                Count::Failed
            }
        };
        target.waiting.pop_front();
        target.under_way = None;
        Some((kind, count, Some(Done { target: key, id })))
    }

    /// Whether something may be delivered at once.
    pub fn is_telling(&self) -> bool {
        self.targets.iter().any(|target| target.trouble.is_none() && !target.waiting.is_empty())
    }

    /// One line per target that is in trouble.
    pub fn problems(&self) -> impl Iterator<Item = String> {
        self.targets.iter().filter_map(|target| {
            let why = target.trouble.as_ref()?;
            let wait = match target.waiting.len() {
                0 => String::new(),
                1 => "; 1 event waits".to_owned(),
                several => format!("; {several} events wait"),
            };
            Some(format!("notify {}: {why}{wait}", target.config.borrow().name))
        })
    }
}

impl Target {
    fn new(config: Arc<NotifyConfig>, lookups: Lookups) -> Target {
        let config = watch::Sender::new(config);
        Target { config, lookups, waiting: VecDeque::new(), under_way: None, trouble: None }
    }

    fn key(&self) -> Arc<str> {
        Arc::clone(&self.config.borrow().key)
    }

    fn asks(&self, entry: &Entry) -> bool {
        let config = self.config.borrow();
        let of_rollout = |rollouts: &Vec<Arc<str>>| entry.rollout.as_ref().is_some_and(|name| rollouts.contains(name));
        config.events.contains(&entry.kind) && config.rollouts.as_ref().is_none_or(of_rollout)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(task) = &self.under_way {
            task.abort();
        }
    }
}

/// Whether a target is told the same things in the same way.
fn is_same(one: &NotifyConfig, other: &NotifyConfig) -> bool {
    let kinds = |of: &NotifyConfig| -> Vec<Kind> { of.events.clone() };
    let plain = |of: &NotifyConfig| (Arc::clone(&of.name), of.kind, of.rollouts.clone(), of.timeout, of.max_age);
    plain(one) == plain(other) && kinds(one) == kinds(other) && one.server.is_same(&other.server)
}

/// Events that wait for one target; older ones are given up. A day of a busy plan is a tenth of it.
const WAITING_MAX: usize = 1000;
