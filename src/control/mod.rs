//! The control plane: one loop on its own thread, one enum of events.
//!
//! Everyone else speaks to it through `Handle`. It is the only publisher of snapshots and the only writer of the store.
//! `start` is called once, by the composition root; the loop ends when every handle is gone or one says `stop`.

mod archive;
pub mod collect;
pub mod compare;
pub mod exposition;
pub mod own;
pub mod query;
pub mod signals;
pub mod sources;
pub mod store;

mod facade;
mod http;
mod inbox;
mod measure;
mod notify;
mod probe;
mod publish;
mod reload;
mod resolve;
mod supervisor;
#[cfg(test)]
mod tests;
mod traces;
mod watch;

pub use crate::rollout::report::Origin;
pub use probe::{EndpointReport, UpstreamReport};
pub use supervisor::{Start, StartError, start, time_scale_told};

use crate::latch::Latches;
use crate::rollout::assign::Switches;
use crate::rollout::bucket::Weight;
use crate::rollout::course;
use crate::rollout::engine::{Input, Refused};
use crate::rollout::incident::IncidentRecord;
use crate::rollout::report::{Event, PassageReport, RolloutReport};
use crate::rollout::review::Dossier;
use crate::snapshot::{Published, Snapshot};
use compare::{Compared, Comparison};
use inbox::Command;
use signals::{Counted, Posting};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio::sync::{mpsc, oneshot};

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// No rollout, cohort or other thing of that name: 404.
    NotFound(String),
    /// The state forbids it, with the reason: 409.
    Conflict(String),
    /// The request itself is wrong: 400.
    Invalid {
        /// The field at fault.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The control plane has ended or does not answer: 503.
    Unavailable,
}

impl From<Refused> for Denied {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotFound(what) => Denied::NotFound(what),
            Refused::Conflict(reason) => Denied::Conflict(reason),
            Refused::Invalid { field, message } => Denied::Invalid { field: field.to_owned(), message },
        }
    }
}

/// What a reload did.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The generation now in force.
    pub generation: u64,
    /// One line per change; empty if nothing changed.
    pub changes: Vec<String>,
    /// Keys that only a restart applies.
    pub needs_restart: Vec<String>,
}

/// What was recorded of a rollout.
#[derive(Clone, Debug, Default)]
pub struct Baselines {
    /// By stage; the baseline is under the empty name.
    pub captures: course::Captures,
    /// What makes a change of it doubtful.
    pub warnings: Vec<String>,
}

/// Where another baseline comes from.
#[derive(Clone, Debug)]
pub enum Rebase {
    /// What the present stage measured so far; what it did not measure stays.
    Capture,
    /// Some values; the others stay.
    Set(course::Captured),
    /// All values; none stays.
    Import(course::Captured),
}

/// How ready the process is, for `/readyz`.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// Whether to answer 200.
    pub ready: bool,
    /// One line per thing an operator should know, e.g. the first problem of a refused reload.
    pub details: Vec<String>,
}

/// The way to the control plane; cheap to clone. Its questions must be asked within a tokio runtime with a timer.
#[derive(Clone, Debug)]
pub struct Handle {
    /// What the workers see.
    pub published: Arc<Published<Snapshot>>,
    /// The switches that act at once.
    pub latches: Arc<Latches>,
    compared: Arc<Compared>,
    commands: mpsc::Sender<Command>,
    trail: Receiver<u64>,
    draining: Arc<AtomicBool>,
}

impl Handle {
    /// How every rollout stands, over `window`, at most 15 minutes; in config order.
    pub async fn rollouts(&self, window: Duration) -> Result<Vec<RolloutReport>, Denied> {
        self.ask(ANSWER_WITHIN, |reply| Command::Rollouts { window, reply }).await
    }

    /// What stands between a rollout and its next stage, or the first one that admits a cohort.
    ///
    /// # Errors
    /// `NotFound` for names that are not there, `Conflict` for a rollout without stages, `Invalid` for a cohort that no stage
    /// admits.
    pub async fn validate(
        &self,
        rollout: &str,
        cohort: Option<&str>,
    ) -> Result<(RolloutReport, PassageReport), Denied> {
        let (rollout, cohort) = (rollout.to_owned(), cohort.map(str::to_owned));
        self.ask(ANSWER_WITHIN, |reply| Command::Validate { rollout, cohort, reply }).await?
    }

    /// Gates and triggers of a rollout on one cohort's own numbers.
    pub async fn narrowed(&self, rollout: &str, cohort: &str) -> Result<course::Narrowed, Denied> {
        let (rollout, cohort) = (rollout.to_owned(), cohort.to_owned());
        self.ask(ANSWER_WITHIN, |reply| Command::Narrowed { rollout, cohort, reply }).await?
    }

    /// What was recorded of a rollout: its baseline and its stages.
    pub async fn baselines(&self, rollout: &str) -> Result<Baselines, Denied> {
        let rollout = rollout.to_owned();
        self.ask(ANSWER_WITHIN, |reply| Command::Baselines { rollout, reply }).await?
    }

    /// Changes the baseline, and says what is recorded then.
    ///
    /// # Errors
    /// `Conflict` if there is nothing to capture, `Invalid` for values of what the config does not know.
    pub async fn rebase(&self, rollout: &str, change: Rebase, origin: Origin) -> Result<Baselines, Denied> {
        let (rollout, origin) = (rollout.to_owned(), named(origin));
        self.ask(ANSWER_WITHIN, |reply| Command::Rebase { rollout, change, origin, reply }).await?
    }

    /// How the endpoints of every upstream do; in config order.
    pub async fn upstreams(&self) -> Result<Vec<UpstreamReport>, Denied> {
        self.ask(ANSWER_WITHIN, |reply| Command::Upstreams { reply }).await
    }

    /// Sets the weight, which then holds until the file's value changes. Within a stage it holds until
    /// the stage ends, and only with `force` may it be above the stage's.
    pub async fn set_weight(
        &self,
        rollout: &str,
        weight: Weight,
        force: bool,
        origin: Origin,
    ) -> Result<RolloutReport, Denied> {
        let input = Input::SetWeight { rollout: rollout.to_owned(), weight, force, origin: named(origin) };
        self.change(rollout, input).await
    }

    /// Moves a rollout through its plan.
    ///
    /// # Errors
    /// `Conflict` with the reason if its state does not allow it, with the gate that does not pass where one does not.
    pub async fn command(
        &self,
        rollout: &str,
        command: course::Command,
        origin: Origin,
    ) -> Result<RolloutReport, Denied> {
        self.change(rollout, Input::Command { rollout: rollout.to_owned(), command, origin: named(origin) }).await
    }

    /// Kills a rollout, or one cohort of it. The latch is set before the control plane hears of it: the kill has taken
    /// effect even if this answers `Unavailable`, but it is then neither recorded nor shown.
    pub async fn kill(&self, rollout: &str, cohort: Option<&str>, origin: Origin) -> Result<RolloutReport, Denied> {
        self.switch_off(rollout, cohort);
        let (rollout_name, origin) = (rollout.to_owned(), named(origin));
        let input = match cohort {
            None => Input::Kill { rollout: rollout_name, origin },
            Some(cohort) => Input::CohortKill { rollout: rollout_name, cohort: cohort.to_owned(), origin },
        };
        self.change(rollout, input).await
    }

    /// Undoes `kill`; of a whole rollout also an open breaker, a rollback, or a hold after its state was lost.
    pub async fn revive(&self, rollout: &str, cohort: Option<&str>, origin: Origin) -> Result<RolloutReport, Denied> {
        let (rollout_name, origin) = (rollout.to_owned(), named(origin));
        let input = match cohort {
            None => Input::Revive { rollout: rollout_name, origin },
            Some(cohort) => Input::CohortRevive { rollout: rollout_name, cohort: cohort.to_owned(), origin },
        };
        self.change(rollout, input).await
    }

    /// Adds and removes members of a cohort.
    pub async fn cohort_users(
        &self,
        rollout: &str,
        cohort: &str,
        add: Vec<String>,
        remove: Vec<String>,
        origin: Origin,
    ) -> Result<RolloutReport, Denied> {
        let (rollout_name, cohort) = (rollout.to_owned(), cohort.to_owned());
        let input = Input::CohortUsers { rollout: rollout_name, cohort, add, remove, origin: named(origin) };
        self.change(rollout, input).await
    }

    /// Reads the config file again. A config that cannot be used is a `Conflict` with every problem, one after another.
    pub async fn reload(&self, origin: Origin) -> Result<Reloaded, Denied> {
        let origin = named(origin);
        self.ask(RELOAD_WITHIN, |reply| Command::Reload { origin, reply }).await?
    }

    /// The audit trail after event `since`, oldest first, at most `limit` (and 1,000); with the id to ask from next.
    pub async fn events(&self, since: u64, limit: usize) -> Result<(Vec<Event>, u64), Denied> {
        self.ask(ANSWER_WITHIN, |reply| Command::Events { since, limit, reply }).await?
    }

    /// The id of the newest entry of the audit trail, for whoever wants to know at once that there is another.
    pub fn trail(&self) -> Receiver<u64> {
        self.trail.clone()
    }

    /// Everything that is known of a rollout over the last `span`, or all of its time.
    pub async fn review(&self, rollout: &str, span: Option<Duration>) -> Result<Box<Dossier>, Denied> {
        let rollout = rollout.to_owned();
        self.ask(REVIEW_WITHIN, |reply| Command::Review { rollout, span, reply }).await?
    }

    /// The last rollbacks of a rollout with their numbers, the oldest first, at most `limit` (and 100).
    pub async fn incidents(&self, rollout: &str, limit: usize) -> Result<Vec<IncidentRecord>, Denied> {
        let rollout = rollout.to_owned();
        self.ask(ANSWER_WITHIN, |reply| Command::Incidents { rollout, limit, reply }).await?
    }

    /// The comparisons of a rollout's present stage, judged by its last so many samples; a tolerance takes the place of its own
    /// one and of its own limit.
    ///
    /// # Errors
    /// `NotFound`, or `Conflict` if its answers are not compared.
    pub async fn diff(&self, rollout: &str, samples: u64, tolerance: Option<f64>) -> Result<Comparison, Denied> {
        let snapshot = self.published.load();
        let Some(index) = snapshot.splits.iter().position(|split| *split.name == *rollout) else {
            return Err(Denied::NotFound(format!("there is no rollout `{rollout}`")));
        };
        let Some(diff) = snapshot.rollouts.get(index).and_then(|of| of.diff.as_ref()) else {
            let message = format!("answers of rollout `{rollout}` are not compared: it has no `shadow.diff`");
            return Err(Denied::Conflict(message));
        };
        let limits = compare::limits(&diff.rules, diff.noise.1, samples, tolerance);
        let (compared, rollout) = (Arc::clone(&self.compared), rollout.to_owned());
        let judged = tokio::task::spawn_blocking(move || compared.judge(&rollout, limits)).await;
        judged.map_err(|_| Denied::Unavailable)
    }

    /// Counts something that happened for the signal of that name.
    pub async fn post_signal(&self, signal: &str, posting: Posting) -> Result<Counted, Denied> {
        let signal = signal.to_owned();
        self.ask(ANSWER_WITHIN, |reply| Command::Signal { signal, posting, reply }).await?
    }

    /// The text of `GET /metrics`.
    pub async fn metrics(&self) -> Result<String, Denied> {
        self.ask(ANSWER_WITHIN, |reply| Command::Metrics { reply }).await
    }

    /// The effective config as JSON text, file and environment merged, paths absolute, secrets redacted.
    pub async fn config(&self) -> Result<String, Denied> {
        self.ask(ANSWER_WITHIN, |reply| Command::Config { reply }).await
    }

    /// How ready the process is: it is, until it drains. Requests are served without the control plane, so its silence
    /// is a detail.
    pub async fn readiness(&self) -> Readiness {
        let silent = |_| vec!["the control plane does not answer".to_owned()];
        let asked = self.ask(READINESS_WITHIN, |reply| Command::Readiness { reply }).await;
        let mut details = asked.unwrap_or_else(silent);
        let draining = self.draining.load(Ordering::Relaxed);
        if draining {
            details.insert(0, "draining".to_owned());
        }
        Readiness { ready: !draining, details }
    }

    /// From here on the process is not ready: it finishes what it has and takes nothing new.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Ends the control plane once it has written what is to be written. Workers serve on with the last snapshot.
    pub async fn stop(&self) {
        // A control plane that has ended already is what was asked for.
        let _ = self.commands.send(Command::Stop).await;
    }

    /// Sets the latch bit of a kill in the snapshot that is in force, and again if another took its place meanwhile.
    fn switch_off(&self, rollout: &str, cohort: Option<&str>) {
        let mut done: Option<Arc<Snapshot>> = None;
        loop {
            let snapshot = self.published.load();
            if done.is_some_and(|done| Arc::ptr_eq(&done, &snapshot)) {
                return;
            }
            if let Some((latch, cohorts)) = publish::latch_of(&snapshot, rollout) {
                let admits = |name: &str| cohorts.iter().position(|cohort| &*cohort.name == name && !cohort.exclude);
                let switch = cohort.map_or(Some(Switches::KILLED), |name| admits(name).and_then(Switches::cohort));
                if let Some(switch) = switch {
                    latch.set(switch);
                }
            }
            done = Some(snapshot);
        }
    }

    async fn change(&self, rollout: &str, input: Input) -> Result<RolloutReport, Denied> {
        let rollout = rollout.to_owned();
        self.ask(ANSWER_WITHIN, |reply| Command::Change { rollout, input, reply }).await?
    }

    async fn ask<T>(&self, within: Duration, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Denied> {
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.commands.send(command(reply)).await.map_err(|_| Denied::Unavailable)?;
            answer.await.map_err(|_| Denied::Unavailable)
        };
        tokio::time::timeout(within, exchange).await.unwrap_or(Err(Denied::Unavailable))
    }
}

/// An operator who does not say who they are is `operator`.
fn named(origin: Origin) -> Origin {
    if origin.actor.is_empty() { Origin { actor: "operator".into(), ..origin } } else { origin }
}

/// How long a question waits: long enough for a disk that is slow to sync.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a report waits: a year of samples is read from a disk.
const REVIEW_WITHIN: Duration = Duration::from_secs(60);
/// How long a reload waits: a million users in files take seconds.
const RELOAD_WITHIN: Duration = Duration::from_secs(120);
/// How long a probe of readiness waits; shorter than any prober does.
const READINESS_WITHIN: Duration = Duration::from_millis(800);
