//! The metric history on disk: one sample per rollout and arm every 10 s, kept for 400 days in thinning steps.
//!
//! It has a thread of its own, because a disk that stalls must not keep the breakers waiting: the supervisor hands over what was
//! counted and never waits. What cannot be kept is lost and counted; nothing is ever refused for it. What it kept lets windows,
//! stages and reviews go on after a restart as if nobody had stopped.

mod bytes;
mod file;
#[cfg(test)]
mod tests;

use crate::clock::Wall;
use crate::rollout::sample::{Resources, Sample};
use file::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two samples; a time scale divides it.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// The least that a time scale leaves of it.
pub const SAMPLE_EVERY_MIN: Duration = Duration::from_secs(1);

/// What was counted up to one moment.
#[derive(Debug)]
pub struct Tick {
    /// What weir itself took.
    pub own: Resources,
    /// By rollout, with the stays in stages that have ended meanwhile; a rollout to which nothing happened is not there.
    pub samples: Vec<(Arc<str>, Sample)>,
}

/// What is known of one rollout from some moment on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Day {
    /// What weir itself took, the oldest first: every stretch of time in which something could be counted.
    pub own: Vec<Resources>,
    /// What was counted of the rollout, the oldest first.
    pub samples: Vec<Sample>,
}

/// From when on something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// That moment.
    Then(Wall),
    /// The first sample there is.
    Begin,
}

/// What earlier processes kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// How much time it covers.
    pub reach: Duration,
    /// By rollout, in the order asked: samples, the oldest first, each with how long ago it ended.
    pub rollouts: Vec<Vec<(Duration, Sample)>>,
}

/// The way to the thread that keeps the history.
#[derive(Debug)]
pub struct Archive {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    tally: Arc<Tally>,
}

/// How the keeping goes.
#[derive(Debug, Default)]
pub struct Tally {
    /// Samples that were kept.
    pub kept: AtomicU64,
    /// Samples that were lost.
    pub lost: AtomicU64,
}

/// A question about the history, with what is to be done with the answer.
pub type Question = Box<dyn FnOnce(Result<Day, String>) + Send>;

enum Order {
    Keep(Box<Tick>),
    Day { rollout: Arc<str>, since: Since, then: Question },
}

impl Archive {
    /// Opens the history in the state folder and starts its thread; with what is needed to go on with these rollouts. If it
    /// cannot be opened everything goes on without it, and samples are lost.
    pub fn open(folder: &Path, rollouts: &[Arc<str>], now: Wall) -> (Archive, Kept) {
        let mut kept = Kept::default();
        let file = File::open(folder, now).and_then(|file| match file.past(rollouts) {
            Ok(past) => {
                kept = past;
                Ok(file)
            }
            // What stands in it is no history: another one begins.
            Err(error) => {
                tracing::warn!(%error, "the metric history cannot be read");
                file.move_aside(folder, now)
            }
        });
        let file = file.inspect_err(|cause| tracing::error!(cause, "no metric history is kept")).ok();
        if let Some(damaged) = file.as_ref().map(File::take_damaged).filter(|damaged| *damaged > 0) {
            tracing::warn!(damaged, "samples of the metric history are damaged and left out");
        }
        (Archive::start(folder.to_owned(), file), kept)
    }

    fn start(folder: PathBuf, file: Option<File>) -> Archive {
        let (orders, given) = sync_channel(ORDERS_MAX);
        let tally = Arc::new(Tally::default());
        let mut keeper = Keeper { folder, file, tally: Arc::clone(&tally), failing: false };
        let thread = thread::Builder::new().name("weir-history".into()).spawn(move || keeper.run(&given));
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no metric history is kept")).ok();
        Archive { orders: thread.is_some().then_some(orders), thread, tally }
    }

    /// Keeps a tick, or loses it if the disk is that far behind. Never waits.
    pub fn keep(&self, tick: Tick) {
        let samples = tick.samples.len() as u64 + 1;
        let given = self.orders.as_ref().map(|orders| orders.try_send(Order::Keep(Box::new(tick))));
        if !matches!(given, Some(Ok(()))) {
            self.tally.lost.fetch_add(samples, Ordering::Relaxed);
        }
    }

    /// Asks what happened to a rollout since then. The answer comes on the history's own thread, after everything that was
    /// kept before the question. Never waits.
    pub fn ask(&self, rollout: Arc<str>, since: Since, then: Question) {
        let refused = match &self.orders {
            None => Some((then, "no metric history is kept")),
            Some(orders) => match orders.try_send(Order::Day { rollout, since, then }) {
                Ok(()) => None,
                Err(
                    TrySendError::Full(Order::Day { then, .. }) | TrySendError::Disconnected(Order::Day { then, .. }),
                ) => Some((then, "the disk that keeps the metric history is behind")),
                Err(_) => None,
            },
        };
        if let Some((then, why)) = refused {
            then(Err(why.to_owned()));
        }
    }

    /// How the keeping goes.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Ends it when everything is kept that was handed over.
    pub fn end(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the metric history's thread failed");
        }
    }
}

/// What runs on the history's thread.
struct Keeper {
    folder: PathBuf,
    file: Option<File>,
    tally: Arc<Tally>,
    /// Whether the last tick was lost: said once, not every 10 s.
    failing: bool,
}

impl Keeper {
    fn run(&mut self, given: &Receiver<Order>) {
        while let Ok(order) = given.recv() {
            match order {
                Order::Keep(tick) => self.keep(&tick),
                Order::Day { rollout, since, then } => then(self.day(&rollout, since)),
            }
            if let Some(damaged) = self.file.as_ref().map(File::take_damaged).filter(|damaged| *damaged > 0) {
                tracing::warn!(damaged, "samples of the metric history are damaged and left out");
            }
        }
    }

    fn keep(&mut self, tick: &Tick) {
        if self.file.as_ref().is_none_or(File::is_replaced) {
            // Closed first: SQLite takes a log away by its name, and that would be the new one's.
            self.file = None;
            self.file = File::open(&self.folder, tick.own.ended_at).ok();
        }
        let kept = match &mut self.file {
            Some(file) => file.keep(tick),
            None => Err("it cannot be opened".to_owned()),
        };
        let samples = tick.samples.len() as u64 + 1;
        match kept {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the metric history is kept again");
                }
                self.tally.kept.fetch_add(samples, Ordering::Relaxed);
            }
            Err(cause) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(cause, "the metric history cannot be written: samples are lost");
                }
                self.tally.lost.fetch_add(samples, Ordering::Relaxed);
            }
        }
    }

    fn day(&self, rollout: &str, since: Since) -> Result<Day, String> {
        let file = self.file.as_ref().ok_or("no metric history is kept")?;
        let day = match since {
            Since::Then(then) => file.day(rollout, then),
            Since::Begin => {
                file.began(rollout).and_then(|began| began.map_or(Ok(Day::default()), |began| file.day(rollout, began)))
            }
        };
        day.map_err(|error| format!("the metric history cannot be read: {error}"))
    }
}

/// Ticks and questions that wait for the disk: ten minutes of it standing still.
const ORDERS_MAX: usize = 64;
