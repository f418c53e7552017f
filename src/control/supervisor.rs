//! The loop of the control plane: event in, engine, effects out in the order the engine gives them.
//!
//! It owns everything that only one thread may own: engine, store, publisher, collector, resolver, reloader. It decides
//! nothing about rollouts; it carries out, measures and answers.

pub use scaling::told as time_scale_told;

use super::archive::Archive;
use super::collect::{Collector, Names};
use super::compare::{Compared, Comparer};
use super::facade::Facade;
use super::inbox::{Command, Event, Inbox};
use super::measure::Measurer;
use super::notify::Notifier;
use super::own::Own;
use super::probe::Prober;
use super::publish::Publisher;
use super::query::Queries;
use super::reload::{Asker, InForce, Reloader};
use super::resolve::Resolver;
use super::store::{self, Numbers, OpenError, Store};
use super::traces::Exporter;
use super::{Denied, Handle, Origin};
use crate::clock::{Clock, Time};
use crate::config::change::Change;
use crate::config::{Config, Live, Loaded, UserFiles};
use crate::rollout::engine::{Effect, Engine, Input, Record, Refused, Saved};
use crate::rollout::report::{Entry, Facts, Kind, REPORT_WINDOW};
use crate::rollout::scale::TimeScale;
use crate::rollout::standing::Standing;
use calm::Calm;
use sampling::Sampling;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::{mpsc, watch as channel};

mod answers;
mod baselines;
mod calm;
mod incidents;
mod looking;
mod reloading;
mod reviewing;
mod sampling;
mod scaling;
mod telling;
mod watching;

/// What the control plane starts from.
#[derive(Debug)]
pub struct Start {
    /// The config file, to be read again.
    pub config_path: PathBuf,
    /// The whole environment; only `WEIR__` variables are looked at.
    pub environment: Vec<(String, String)>,
    /// What was read from them.
    pub loaded: Loaded,
    /// The cache it was read with.
    pub users: UserFiles,
    /// The process's clock.
    pub clock: Clock,
    /// Worker threads that will count.
    pub workers: usize,
    /// Whether SIGHUP means reload; for one control plane in a process.
    pub signals: bool,
    /// How many times as fast as written plans run.
    pub time_scale: TimeScale,
    /// Lines of the process's own log that were lost.
    pub log_lost: Arc<AtomicU64>,
}

/// Why the control plane cannot start.
#[derive(Debug)]
pub enum StartError {
    /// The state folder cannot be used.
    State(OpenError),
    /// The operating system gives no thread, runtime or signal.
    System(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::State(error) => write!(f, "{error}"),
            StartError::System(error) => write!(f, "cannot start the control plane: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// Opens the state, publishes the first snapshot and starts the loop on its own thread. Waits up to two seconds for the
/// names of endpoints to be resolved.
///
/// # Errors
/// `StartError`; nothing runs then.
pub fn start(start: Start) -> Result<(Handle, JoinHandle<()>), StartError> {
    let opened = Store::open(&start.loaded.config.state_dir, start.clock.wall()).map_err(StartError::State)?;
    let lost = opened.moved.as_ref().map(|(moved, cause)| {
        tracing::error!(moved = %moved.display(), cause, "state unreadable: rollouts are held at weight 0");
        format!("state unreadable ({cause}); moved to {}", moved.display())
    });
    let (started, has_started) = sync_channel(1);
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("weir-control-io")
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(started.send(Err(error))),
        };
        runtime.block_on(async move {
            match Supervisor::set_up(start, opened.store, opened.saved, lost).await {
                Ok((supervisor, inbox, handle)) => {
                    // Whoever started this waits for it and does nothing else.
                    let _ = started.send(Ok(handle));
                    supervisor.run(inbox).await;
                }
                Err(error) => drop(started.send(Err(error))),
            }
        });
        // A lookup that hangs must not keep the process.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("weir-control".into()).spawn(run).map_err(StartError::System)?;
    match has_started.recv() {
        Ok(Ok(handle)) => Ok((handle, thread)),
        Ok(Err(error)) => Err(StartError::System(error)),
        Err(_) => Err(StartError::System(io::Error::other("its thread ended at once"))),
    }
}

/// Commands that wait; each is one person or script.
const COMMANDS_MAX: usize = 256;
/// Events of our own tasks that wait; there are a look, a reading and a few lookups at a time.
const EVENTS_MAX: usize = 64;
/// Threads for lookups and files.
const BLOCKING_THREADS_MAX: usize = 16;
/// How long the first snapshot waits for names to be resolved.
const NAMES_WITHIN: Duration = Duration::from_secs(2);
/// A config that was refused is tried again this often, in tries of the inbox: a file it needs may come later.
const REREAD_EVERY_TRIES: u32 = 5;
/// How long after a reload what it removed is forgotten: as long as windows reach back.
const FORGET_AFTER: Duration = Duration::from_secs(900);

#[derive(Debug)]
struct Supervisor {
    clock: Clock,
    time_scale: TimeScale,
    /// The config in force, its plans at that scale.
    config: Arc<Config>,
    engine: Engine,
    store: Store,
    /// Says outside which entry of the audit trail is the newest.
    trail: channel::Sender<u64>,
    publisher: Publisher,
    collector: Collector,
    measurer: Measurer,
    queries: Queries,
    compared: Arc<Compared>,
    /// Compares answers as long as this is there.
    _comparer: Comparer,
    notifier: Notifier,
    exporter: Exporter,
    own: Own,
    resolver: Resolver,
    prober: Prober,
    reloader: Reloader,
    facade: Facade,
    /// The metric history on disk; none before it is opened.
    archive: Option<Archive>,
    sampling: Sampling,
    /// Rollouts that were rolled back and whose stable is still looked at.
    rechecking: BTreeSet<Arc<str>>,
    /// A config that was read and waits for its names to be resolved, at most that many ticks.
    awaiting_names: Option<(Box<(Loaded, Change)>, u32)>,
    /// What to tell an operator.
    notes: Notes,
    /// When names that left the config are forgotten.
    forget_at: Option<Time>,
    /// When plans were last looked at.
    watched_at: Time,
    /// For how long there has been nothing to look at.
    calm: Calm,
    tries: u32,
}

/// What an operator should know, besides what can be seen at any time.
#[derive(Debug, Default)]
struct Notes {
    /// The state that could not be read at the start.
    lost: Option<String>,
    /// Why the config in the files is not in force.
    refused: Option<Vec<String>>,
    /// Why the last record was not written.
    unwritten: Option<String>,
    /// What only a restart applies.
    needs_restart: Vec<String>,
}

impl Supervisor {
    async fn set_up(
        start: Start,
        store: Store,
        saved: Saved,
        lost: Option<String>,
    ) -> io::Result<(Supervisor, Inbox, Handle)> {
        let Start { config_path, environment, loaded, users, clock, workers, signals, time_scale, log_lost } = start;
        let loaded = Loaded { config: scaling::config(loaded.config, time_scale), ..loaded };
        let (commands, asked) = mpsc::channel(COMMANDS_MAX);
        let (events, own) = mpsc::channel(EVENTS_MAX);
        let (answers, answered) = mpsc::channel(EVENTS_MAX);
        let mut inbox = Inbox::new(asked, own, answered, signals)?;
        let plans = loaded.config.rollouts.iter().map(|rollout| rollout.plan.clone()).collect();
        let (publisher, compared) = (Publisher::new(workers), Arc::new(Compared::default()));
        let (trail, last_told) = channel::channel(store.last_id());
        let mut supervisor = Supervisor {
            engine: Engine::new(plans, saved, clock.now()),
            store,
            trail,
            exporter: Exporter::new(publisher.registry.spans(), clock.clone()),
            _comparer: Comparer::start(publisher.registry.pairs(), Arc::clone(&compared), clock.clone()),
            publisher,
            collector: Collector::default(),
            measurer: Measurer::default(),
            queries: Queries::new(clock.clone()),
            compared,
            notifier: Notifier::new(clock.clone(), events.clone()),
            own: Own::new(clock.now()),
            resolver: Resolver::new(answers),
            prober: Prober::start(events.clone())?,
            reloader: Reloader::new(config_path, environment, clock.clone(), events, &loaded.files, users),
            archive: None,
            sampling: Sampling::new(clock.now(), time_scale),
            rechecking: BTreeSet::new(),
            facade: Facade::new(time_scale, log_lost),
            awaiting_names: None,
            notes: Notes { lost, ..Notes::default() },
            forget_at: None,
            watched_at: Time::default(),
            calm: Calm::default(),
            tries: 0,
            config: Arc::new(loaded.config),
            clock,
            time_scale,
        };
        supervisor.resolver.adopt(&supervisor.config.upstreams);
        supervisor.resolver.ask();
        // What is not known by then is published later, and its upstream has no endpoint until then.
        let _ = tokio::time::timeout(NAMES_WITHIN, supervisor.hear_names(&mut inbox)).await;
        supervisor.resume();
        supervisor.resume_rechecks();
        // Before anything can happen that somebody is to be told of.
        supervisor.adopt_targets();
        supervisor.go_on_telling();
        // The first effects set latches, publish and record what has happened already: nothing to be refused.
        let _ = supervisor.carry_out_effects();
        // Before the first request, so that every one of them is seen to start.
        supervisor.look(supervisor.clock.now());
        let (published, latches) =
            supervisor.publisher.shared().ok_or_else(|| io::Error::other("nothing published"))?;
        let handle = Handle {
            published,
            latches,
            compared: Arc::clone(&supervisor.compared),
            commands,
            trail: last_told,
            draining: Arc::new(AtomicBool::new(false)),
        };
        Ok((supervisor, inbox, handle))
    }

    async fn hear_names(&mut self, inbox: &mut Inbox) {
        while !self.resolver.is_settled() {
            let Some(answer) = inbox.next_answer().await else { return };
            self.resolver.take(answer);
        }
    }

    async fn run(mut self, mut inbox: Inbox) {
        loop {
            let event = inbox.next().await;
            if !matches!(event, Event::Collect) {
                // Whatever it brings may be something to look at.
                self.calm.end();
            }
            match event {
                Event::Command(Command::Stop) | Event::Gone => break,
                Event::Command(command) => self.answer(command),
                Event::Answer(answer) => {
                    if self.resolver.take(answer) {
                        self.publish();
                    }
                    self.go_on_with_names();
                }
                Event::Checked(found) => {
                    let snapshot = self.publisher.present();
                    if self.prober.take(found, snapshot.as_deref(), self.clock.wall()) {
                        // An arm may have lost its last endpoint, or got one back: that is for now, not for the next tick.
                        self.collect();
                    }
                }
                Event::Notified(report) => self.notified(report),
                Event::Looked { hands, changed } => self.reloader.looked(hands, changed),
                Event::Read(judged) => {
                    let found = self.reloader.judged(judged);
                    self.read(found);
                }
                Event::Hangup => self.reloader.want(Asker {
                    origin: Origin { actor: "signal".into(), reason: "SIGHUP".into() },
                    quiet: false,
                    reply: None,
                }),
                Event::Collect => self.collect(),
                Event::Look => self.reloader.look(),
                Event::Ask => self.resolver.ask(),
                Event::Retry => self.retry(),
            }
            if self.reloader.is_due() {
                let in_force =
                    InForce { config: Arc::clone(&self.config), live: self.live(), outlook: self.engine.outlook() };
                self.reloader.begin(in_force);
            }
        }
        self.tell_the_rest(&mut inbox).await;
        let now = self.clock.now();
        self.collector.collect(&self.publisher.registry, now, true);
        self.keep_samples(now);
        if let Some(archive) = &mut self.archive {
            archive.end();
        }
        if self.store.is_behind()
            && let Err(error) = self.store.retry()
        {
            tracing::error!(%error, "state is lost: it could not be written before the end");
        }
    }

    fn collect(&mut self) {
        let now = self.clock.now();
        if self.calm.is_over(self.publisher.registry.stirs(), now) {
            self.collector.collect(&self.publisher.registry, now, false);
            let restless = self.look(now);
            self.calm.looked(restless, now);
        }
        self.own.read(now);
        self.watch_plans(now);
        self.complete_incidents();
        self.sample(now);
        if self.forget_at.is_some_and(|at| now >= at) {
            self.forget_at = None;
            self.collector.retire(&mut self.publisher.registry, &names(&self.config));
            self.measurer.retain(|rollout| self.config.rollout(rollout).is_some());
            self.compared.retain(|rollout| self.config.rollout(rollout).is_some());
            self.own.retain(|rollout| self.config.rollout(rollout).is_some());
        }
        if let Some((_, ticks)) = &mut self.awaiting_names {
            *ticks = ticks.saturating_sub(1);
            self.go_on_with_names();
        }
    }

    fn retry(&mut self) {
        if self.store.is_behind() || self.notes.unwritten.is_some() {
            match self.store.retry() {
                Ok(()) => self.notes.unwritten = None,
                Err(error) => self.notes.unwritten = Some(error.to_string()),
            }
        }
        self.go_on_telling();
        self.tries = self.tries.wrapping_add(1);
        let reread = self.notes.refused.is_some() && self.tries.is_multiple_of(REREAD_EVERY_TRIES);
        if reread && !self.reloader.is_busy() {
            let origin = Origin { actor: "config".into(), reason: "tried again".into() };
            self.reloader.want(Asker { origin, quiet: true, reply: None });
        }
    }
}

/// The way of an input: engine, effects, latches, snapshot, store.
impl Supervisor {
    fn carry_out(&mut self, input: Input) -> Result<(), Refused> {
        self.engine.handle(input, self.clock.now())?;
        self.carry_out_effects()
    }

    fn carry_out_effects(&mut self) -> Result<(), Refused> {
        let (mut result, mut any) = (Ok(()), false);
        while let Some(effect) = self.engine.poll_effect() {
            any = true;
            match effect {
                Effect::SetLatch { rollout, switches } => self.publisher.set(&rollout, switches),
                Effect::ClearLatch { rollout, switches } => self.publisher.clear(&rollout, switches),
                Effect::RenewLatch { rollout, switches } => self.publisher.renew(&rollout, switches),
                Effect::Circuit { rollout, state } => {
                    if self.publisher.circuit(&rollout, state) {
                        tracing::info!(%rollout, "breaker {}", state.word());
                    }
                }
                Effect::Publish => self.publish(),
                Effect::Record(record) => {
                    let written = self.record(&record);
                    result = result.and(self.engine.recorded(written));
                }
            }
        }
        if any {
            self.mark_stages();
        }
        result
    }

    fn publish(&mut self) {
        self.calm.end();
        let config = Arc::clone(&self.config);
        self.collector.adopt(&mut self.publisher.registry, &names(&config));
        self.queries.adopt(&config.queries);
        self.exporter.adopt(config.traces.as_ref());
        let mut live = self.live();
        live.endpoints = self.resolver.endpoints(&config.upstreams, self.clock.now());
        let generation = self.publisher.publish(&config, &live);
        self.facade.published(generation);
        if let Some(snapshot) = self.publisher.present() {
            self.prober.adopt(&config.upstreams, &snapshot);
        }
    }

    fn live(&self) -> Live {
        let of = |standing: Standing<'_>| (Arc::clone(&standing.plan.name), standing.live());
        Live { rollouts: self.engine.standings().map(of).collect(), ..Live::default() }
    }

    /// Writes a record down. What happened already is kept for later if it cannot be written.
    fn record(&mut self, record: &Record) -> bool {
        let time = self.clock.wall();
        let event = |entry| {
            let (numbers, tell, incident) = (self.numbers(entry), self.notifier.asked_by(entry), self.incident(entry));
            store::event(entry, time, &numbers, tell, incident.as_ref())
        };
        let events: Vec<_> = record.entries.iter().map(event).collect();
        let result = self.store.write(&record.saves, &events, record.first);
        if result.is_ok() || !record.first {
            record.entries.iter().for_each(|entry| self.tell(entry));
            self.told(&events);
            self.trail.send_replace(self.store.last_id());
        }
        match result {
            Ok(()) => self.notes.unwritten = None,
            Err(ref error) => {
                tracing::error!(%error, denied = record.first, "state cannot be written");
                self.notes.unwritten = Some(error.to_string());
            }
        }
        result.is_ok()
    }

    /// Counts an entry and says it aloud, what nobody asked for as a warning.
    fn tell(&mut self, entry: &Entry) {
        self.facade.told(entry.kind);
        let (kind, rollout) = (entry.kind.word(), entry.rollout.as_deref().unwrap_or_default());
        let stage = match &entry.new {
            Facts::Standing { stage: Some(stage), .. } => &**stage,
            _ => "",
        };
        let step = match (&entry.old, &entry.new) {
            (Facts::Standing { weight: old, .. }, Facts::Standing { weight: new, .. }) if old != new => {
                format!(" {old} -> {new}")
            }
            _ => String::new(),
        };
        let Origin { actor, reason } = &entry.origin;
        match entry.kind {
            Kind::Trip | Kind::Rollback | Kind::Alert => {
                tracing::warn!(rollout, stage, actor, "{kind}{step}: {reason}");
            }
            Kind::Escalate => {
                tracing::error!(rollout, stage, actor, "{kind}{step}: {reason}");
                self.rechecking.retain(|of| entry.rollout.as_ref() != Some(of));
            }
            // Whoever read the config says more of it.
            Kind::Reload | Kind::ReloadFailed => {}
            _ => tracing::info!(rollout, stage, actor, "{kind}{step}: {reason}"),
        }
    }

    fn numbers(&self, entry: &Entry) -> Numbers {
        let now = self.clock.now();
        let arms = |rollout: &str| self.collector.arms(&self.publisher.registry, rollout, REPORT_WINDOW, now);
        match &entry.rollout {
            Some(rollout) => Numbers::One(Box::new(arms(rollout)), self.gates_at(entry)),
            None => {
                let names = self.engine.standings().map(|standing| Arc::clone(&standing.plan.name));
                Numbers::All(names.map(|name| (Arc::clone(&name), arms(&name))).collect())
            }
        }
    }
}

/// The names that a config speaks of.
fn names(config: &Config) -> Names {
    let rollouts = config.rollouts.iter().map(|rollout| {
        let cohorts = rollout.cohorts.iter().map(|cohort| Arc::clone(&cohort.name)).collect();
        (Arc::clone(&rollout.plan.name), cohorts)
    });
    Names {
        rollouts: rollouts.collect(),
        routes: config.routes.iter().map(|route| Arc::clone(&route.name)).collect(),
        upstreams: config.upstreams.iter().map(|upstream| Arc::clone(&upstream.name)).collect(),
        signals: config.signals.iter().map(|signal| Arc::clone(&signal.name)).collect(),
    }
}
