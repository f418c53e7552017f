//! Reading the config again: who asked for it, the reading itself on a blocking thread, and what it comes to.
//!
//! One reading is under way at a time; whoever asks meanwhile gets one that began after they asked. It applies nothing.

use super::inbox::Event;
use super::watch::Watch;
use super::{Denied, Origin, Reloaded};
use crate::clock::Clock;
use crate::config::change::{self, Change};
use crate::config::{self, Config, Live, LiveRollout, Loaded, UserFiles};
use crate::rollout::engine::Outlook;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Where readings of the config begin and end.
#[derive(Debug)]
pub struct Reloader {
    path: PathBuf,
    environment: Arc<[(String, String)]>,
    clock: Clock,
    events: mpsc::Sender<Event>,
    /// None while a blocking thread has them.
    hands: Option<Hands>,
    /// Whoever waits for the reading under way; not empty exactly while there is one.
    asking: Vec<Asker>,
    /// Whoever came too late for it.
    next: Vec<Asker>,
}

/// What a blocking thread needs to itself.
#[derive(Debug, Default)]
pub struct Hands {
    watch: Watch,
    users: UserFiles,
}

/// Who wants the config read.
#[derive(Debug)]
pub struct Asker {
    /// Who and why.
    pub origin: Origin,
    /// Whether nobody needs to hear of it if nothing is new.
    pub quiet: bool,
    /// Where the answer goes.
    pub reply: Option<oneshot::Sender<Result<Reloaded, Denied>>>,
}

/// A reading and what it found.
#[derive(Debug)]
pub struct Judged {
    hands: Option<Hands>,
    /// A config that can be used with what it would change, or everything that is wrong.
    pub found: Result<Box<(Loaded, Change)>, Vec<String>>,
}

/// What is in force when a reading begins, to compare with.
#[derive(Debug)]
pub struct InForce {
    /// The config.
    pub config: Arc<Config>,
    /// The engine's word.
    pub live: Live,
    /// What the engine would say under other plans.
    pub outlook: Outlook,
}

impl Reloader {
    /// For a config that was just read from `path` by someone else, with `users` as its cache.
    pub fn new(
        path: PathBuf,
        environment: Vec<(String, String)>,
        clock: Clock,
        events: mpsc::Sender<Event>,
        files: &[PathBuf],
        users: UserFiles,
    ) -> Self {
        let hands = Some(Hands { watch: Watch::new(files, clock.wall()), users });
        let environment = environment.into();
        Reloader { path, environment, clock, events, hands, asking: Vec::new(), next: Vec::new() }
    }

    /// Notes that somebody wants the config read.
    pub fn want(&mut self, asker: Asker) {
        self.next.push(asker);
    }

    /// Looks at the files, unless somebody is at them.
    pub fn look(&mut self) {
        let Some(mut hands) = self.hands.take() else { return };
        let task = tokio::task::spawn_blocking(move || {
            let changed = hands.watch.look();
            Event::Looked { hands, changed }
        });
        self.deliver(task, || Event::Looked { hands: Hands::default(), changed: true });
    }

    /// Takes back what a look needed.
    pub fn looked(&mut self, hands: Hands, changed: bool) {
        self.hands = Some(hands);
        if changed {
            let origin = Origin { actor: "config".into(), reason: "the file changed".into() };
            self.want(Asker { origin, quiet: true, reply: None });
        }
    }

    /// Whether a reading should begin now.
    pub fn is_due(&self) -> bool {
        !self.next.is_empty() && self.asking.is_empty() && self.hands.is_some()
    }

    /// Begins a reading, if one is due. `in_force` is what the config will be compared with.
    pub fn begin(&mut self, in_force: InForce) {
        let Some(mut hands) = self.hands.take() else { return };
        self.asking = std::mem::take(&mut self.next);
        let (path, environment, clock) = (self.path.clone(), Arc::clone(&self.environment), self.clock.clone());
        let task = tokio::task::spawn_blocking(move || {
            hands.watch.about_to_read();
            let loaded = config::load(&path, &environment, &mut hands.users);
            let files = loaded.as_ref().map(|loaded| loaded.files.as_slice()).unwrap_or_default();
            hands.watch.judged(files, clock.wall(), loaded.is_err());
            let found = match loaded {
                Ok(loaded) => {
                    let change = compare(&in_force, &loaded.config);
                    Ok(Box::new((loaded, change)))
                }
                Err(problems) => Err(problems.iter().map(ToString::to_string).collect()),
            };
            Event::Read(Judged { hands: Some(hands), found })
        });
        let crashed =
            || Err(vec!["the config could not be read because of a fault in weir; please report it".to_owned()]);
        self.deliver(task, move || Event::Read(Judged { hands: None, found: crashed() }));
    }

    /// Takes back what a reading needed.
    pub fn judged(&mut self, judged: Judged) -> Result<Box<(Loaded, Change)>, Vec<String>> {
        let path = std::slice::from_ref(&self.path);
        let anew = || Hands { watch: Watch::new(path, self.clock.wall()), users: UserFiles::default() };
        self.hands = Some(judged.hands.unwrap_or_else(anew));
        judged.found
    }

    /// Ends the reading: whoever asked for it.
    pub fn askers(&mut self) -> Vec<Asker> {
        std::mem::take(&mut self.asking)
    }

    /// Whether the reading under way, or about to be, is one that nobody needs to hear of if nothing is new.
    pub fn is_quiet(&self) -> bool {
        self.asking.iter().all(|asker| asker.quiet)
    }

    /// Whoever asked first for the reading under way by name, else whoever asked at all.
    pub fn origin(&self) -> Origin {
        let by_name = self.asking.iter().find(|asker| !asker.quiet);
        by_name.or(self.asking.first()).map(|asker| asker.origin.clone()).unwrap_or_default()
    }

    /// Whether a reading is under way or waits to begin.
    pub fn is_busy(&self) -> bool {
        !self.asking.is_empty() || !self.next.is_empty()
    }

    fn deliver(&self, task: tokio::task::JoinHandle<Event>, crashed: impl FnOnce() -> Event + Send + 'static) {
        let events = self.events.clone();
        tokio::spawn(async move {
            let event = task.await.unwrap_or_else(|_| crashed());
            // The receiver is gone only when the control plane ends.
            let _ = events.send(event).await;
        });
    }
}

/// The run-time word on every rollout of a config, under its plans.
pub fn live_under(outlook: &Outlook, config: &Config) -> Live {
    let of = |rollout: &config::RolloutConfig| {
        let (phase, weight, overlays) = outlook.under(&rollout.plan);
        (Arc::clone(&rollout.plan.name), LiveRollout { phase, weight, probe: None, overlays })
    };
    Live { rollouts: config.rollouts.iter().map(of).collect(), ..Live::default() }
}

fn compare(in_force: &InForce, new: &Config) -> Change {
    change::between(&in_force.config, &in_force.live, new, &live_under(&in_force.outlook, new))
}
