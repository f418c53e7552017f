//! Everything that can happen to the control plane, as one enum, and the place where it arrives.

use super::notify::Report;
use super::probe::{Found, UpstreamReport};
use super::reload::{Hands, Judged};
use super::resolve::{ASK_EVERY, Answer};
use super::signals::{Counted, Posting};
use super::watch::LOOK_EVERY;
use super::{Baselines, Denied, Origin, Rebase, Reloaded};
use crate::rollout::course::Narrowed;
use crate::rollout::engine::Input;
use crate::rollout::incident::IncidentRecord;
use crate::rollout::report::{self, PassageReport, RolloutReport};
use crate::rollout::review::Dossier;
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How a rollout stands, and what stands between it and a stage.
pub type Validated = Result<(RolloutReport, PassageReport), Denied>;

/// What a handle asks for.
#[derive(Debug)]
pub enum Command {
    /// A change of state.
    Change { rollout: String, input: Input, reply: oneshot::Sender<Result<RolloutReport, Denied>> },
    /// Whether a stage may begin: the next one, or the first that admits a cohort.
    Validate { rollout: String, cohort: Option<String>, reply: oneshot::Sender<Validated> },
    /// Gates and triggers on one cohort's own numbers.
    Narrowed { rollout: String, cohort: String, reply: oneshot::Sender<Result<Narrowed, Denied>> },
    /// What was recorded of a rollout.
    Baselines { rollout: String, reply: oneshot::Sender<Result<Baselines, Denied>> },
    /// Another baseline.
    Rebase { rollout: String, change: Rebase, origin: Origin, reply: oneshot::Sender<Result<Baselines, Denied>> },
    /// How every rollout stands.
    Rollouts { window: Duration, reply: oneshot::Sender<Vec<RolloutReport>> },
    /// How the endpoints of every upstream do.
    Upstreams { reply: oneshot::Sender<Vec<UpstreamReport>> },
    /// Reading the config again.
    Reload { origin: Origin, reply: oneshot::Sender<Result<Reloaded, Denied>> },
    /// A page of the audit trail.
    Events { since: u64, limit: usize, reply: oneshot::Sender<Result<(Vec<report::Event>, u64), Denied>> },
    /// Something that happened, for a signal.
    Signal { signal: String, posting: Posting, reply: oneshot::Sender<Result<Counted, Denied>> },
    /// Everything that is known of a rollout over some time, or all of its time.
    Review { rollout: String, span: Option<Duration>, reply: oneshot::Sender<Result<Box<Dossier>, Denied>> },
    /// The last rollbacks of a rollout.
    Incidents { rollout: String, limit: usize, reply: oneshot::Sender<Result<Vec<IncidentRecord>, Denied>> },
    /// The text for Prometheus.
    Metrics { reply: oneshot::Sender<String> },
    /// The effective config.
    Config { reply: oneshot::Sender<String> },
    /// What an operator should know.
    Readiness { reply: oneshot::Sender<Vec<String>> },
    /// The end.
    Stop,
}

/// Everything that can happen.
#[derive(Debug)]
pub enum Event {
    /// A handle asks.
    Command(Command),
    /// A name was looked up.
    Answer(Answer),
    /// An endpoint was checked, and there is something to tell.
    Checked(Found),
    /// The config's files were looked at.
    Looked { hands: Hands, changed: bool },
    /// The config was read.
    Read(Judged),
    /// A target was told of something, or could not be.
    Notified(Report),
    /// SIGHUP.
    Hangup,
    /// Time to read the tallies.
    Collect,
    /// Time to look at the config's files.
    Look,
    /// Time to ask for names.
    Ask,
    /// Time for what is to be tried again.
    Retry,
    /// Nobody can ask any more.
    Gone,
}

/// Where events arrive.
#[derive(Debug)]
pub struct Inbox {
    commands: mpsc::Receiver<Command>,
    own: mpsc::Receiver<Event>,
    answers: mpsc::Receiver<Answer>,
    hangup: Option<Signal>,
    collect: Interval,
    look: Interval,
    ask: Interval,
    retry: Interval,
}

impl Inbox {
    /// An inbox for commands, for the events of the control plane's own tasks and for the answers to its lookups. Must be
    /// called within a runtime.
    ///
    /// # Errors
    /// If `signals` are wanted and cannot be had.
    pub fn new(
        commands: mpsc::Receiver<Command>,
        own: mpsc::Receiver<Event>,
        answers: mpsc::Receiver<Answer>,
        signals: bool,
    ) -> io::Result<Self> {
        let hangup = if signals { Some(signal(SignalKind::hangup())?) } else { None };
        let [collect, look, ask, retry] = [COLLECT_EVERY, LOOK_EVERY, ASK_EVERY, RETRY_EVERY].map(every);
        Ok(Inbox { commands, own, answers, hangup, collect, look, ask, retry })
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            command = self.commands.recv() => command.map_or(Event::Gone, Event::Command),
            Some(event) = self.own.recv() => event,
            Some(answer) = self.answers.recv() => Event::Answer(answer),
            Some(()) = hangup => Event::Hangup,
            _ = self.collect.tick() => Event::Collect,
            _ = self.look.tick() => Event::Look,
            _ = self.ask.tick() => Event::Ask,
            _ = self.retry.tick() => Event::Retry,
        }
    }

    /// The next event of the control plane's own tasks, and nothing else.
    pub async fn next_own(&mut self) -> Option<Event> {
        self.own.recv().await
    }

    /// The next answer to a lookup, and nothing else.
    pub async fn next_answer(&mut self) -> Option<Answer> {
        self.answers.recv().await
    }
}

/// Between two readings of the tallies: rules on rates and latency must act within 100 ms of the data.
pub const COLLECT_EVERY: Duration = Duration::from_millis(25);
/// Between two tries of what could not be done.
const RETRY_EVERY: Duration = Duration::from_secs(1);

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
