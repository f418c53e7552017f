//! The streams of one worker that last: WebSockets, server-sent events, gRPC streams, bodies without a stated end.
//!
//! A stream on a canary that has lost its share would keep its client there for hours, and one that stands still is polled
//! by nobody. So each is listed here with its waker, the list is looked through a few times a second while there is
//! anything on it, and those that are to end are told so. How a stream ends is its own business (`body`, `tunnel`).
//! Requests that are answered in one piece never come here.

use super::ending::Kind;
use super::local::Worker;
use crate::clock::Time;
use crate::rollout::assign::{Phase, Split, Switches};
use crate::snapshot::{Rollout, Snapshot};
use crate::tally::{Cell as Count, PerWorker};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// How often the streams are looked through.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a stream may take to end politely, at most; then it is cut.
const GRACE_MAX: Duration = Duration::from_secs(2);

/// Whether a stream is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// No.
    No,
    /// At the next place where its protocol can be told.
    Politely,
    /// Now.
    AtOnce,
}

/// A rollout that sent a request to its canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The rollout.
    pub rollout: Arc<str>,
    /// Whether the arm was forced: a breaker says nothing to those.
    pub forced: bool,
}

/// The streams of one worker.
#[derive(Default)]
pub struct Streams {
    next: Cell<u64>,
    list: RefCell<BTreeMap<u64, Rc<Entry>>>,
    lost: RefCell<Vec<Lost>>,
    /// Since when the worker finishes.
    finishing: Cell<Option<Time>>,
    /// Told when the first stream begins.
    begun: Notify,
}

/// One stream's place on the list; left when it ends.
pub struct Stream {
    worker: Rc<Worker>,
    number: u64,
    entry: Rc<Entry>,
}

struct Entry {
    kind: Kind,
    canaries: Box<[Canary]>,
    started: Time,
    waker: RefCell<Option<Waker>>,
    plan: RefCell<Option<Plan>>,
    asked: Cell<Asked>,
}

/// When and why a stream ends.
struct Plan {
    at: Time,
    /// It is cut then.
    by: Time,
    why: Why,
}

enum Why {
    /// This rollout's canary has lost its share; counted here.
    Lost(Arc<str>, Arc<PerWorker<Count>>),
    /// The worker finishes.
    Finishing,
}

/// A rollout whose canary has lost its share and whose streams are not left.
struct Lost {
    rollout: Arc<str>,
    /// Whether forced requests have lost it, too.
    killed: bool,
    /// When that was first seen.
    since: Time,
    window: Duration,
    counted: Arc<PerWorker<Count>>,
    /// Streams that were there then, to be spread over the window.
    streams: u32,
}

/// Looks through the streams of a worker for as long as it lives.
pub async fn watch(worker: Rc<Worker>) {
    loop {
        while worker.streams.list.borrow().is_empty() {
            worker.streams.begun.notified().await;
        }
        sleep(LOOK_EVERY).await;
        let snapshot = Arc::clone(&worker.adopted().snapshot);
        worker.streams.look(worker.clock.now(), &snapshot, worker.must_finish());
    }
}

impl Stream {
    /// Puts a stream on its worker's list.
    pub fn begin(worker: &Rc<Worker>, kind: Kind, started: Time, canaries: Box<[Canary]>) -> Stream {
        let (number, entry) = worker.streams.add(kind, started, canaries);
        Stream { worker: Rc::clone(worker), number, entry }
    }

    /// Whether it is to end.
    pub fn asked(&self) -> Asked {
        self.entry.asked.get()
    }

    /// Whether it is to end because the worker does, and not for its canary's sake.
    pub fn is_finishing(&self) -> bool {
        matches!(&*self.entry.plan.borrow(), Some(Plan { why: Why::Finishing, .. }))
    }

    /// Whom to wake when it is to end.
    pub fn wake_by(&self, waker: &Waker) {
        let mut known = self.entry.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    /// Notes that it ends because it was asked to.
    pub fn obeyed(&self) {
        if let Some(Plan { why: Why::Lost(_, counted), .. }) = &*self.entry.plan.borrow()
            && let Some(count) = counted.of(self.worker.index)
        {
            count.add(1);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.worker.streams.list.borrow_mut().remove(&self.number);
    }
}

impl Streams {
    fn add(&self, kind: Kind, started: Time, canaries: Box<[Canary]>) -> (u64, Rc<Entry>) {
        let entry = Rc::new(Entry {
            kind,
            canaries,
            started,
            waker: RefCell::default(),
            plan: RefCell::default(),
            asked: Cell::new(Asked::No),
        });
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let mut list = self.list.borrow_mut();
        if list.is_empty() {
            self.begun.notify_one();
        }
        list.insert(number, Rc::clone(&entry));
        (number, entry)
    }

    /// Plans the end of those that are to end, and tells those whose time has come.
    fn look(&self, now: Time, snapshot: &Snapshot, finishing: bool) {
        let list = self.list.borrow();
        let mut lost = self.lost.borrow_mut();
        update(&mut lost, now, snapshot);
        for lost in lost.iter_mut().filter(|lost| lost.since == now) {
            let count = list.values().filter(|entry| entry.is_lost_with(lost) && !entry.is_planned()).count();
            lost.streams = u32::try_from(count).unwrap_or(u32::MAX);
        }
        let mut ranks = vec![0; lost.len()];
        for entry in list.values() {
            entry.plan_for_lost(now, &lost, &mut ranks);
        }
        if finishing {
            let since = self.finishing.get().unwrap_or(now);
            self.finishing.set(Some(since));
            list.values().for_each(|entry| entry.plan_to_finish(since, snapshot.limits.drain_timeout));
        }
        list.values().for_each(|entry| entry.tell(now));
    }
}

/// Brings the list of rollouts up to date with their latches.
fn update(lost: &mut Vec<Lost>, now: Time, snapshot: &Snapshot) {
    let rollouts = || snapshot.splits.iter().zip(&snapshot.rollouts);
    let found = |split: &Split, rollout: &Rollout| {
        let window = rollout.close_streams?;
        loss(rollout.latch.read(), split.phase).map(|killed| (killed, window))
    };
    lost.retain_mut(|known| {
        let present = rollouts().find(|(split, _)| split.name == known.rollout);
        let found = present.and_then(|(split, rollout)| found(split, rollout));
        known.killed = found.is_some_and(|(killed, _)| killed);
        found.is_some()
    });
    for (split, rollout) in rollouts() {
        let Some((killed, window)) = found(split, rollout) else { continue };
        if lost.iter().all(|known| known.rollout != split.name) {
            let (rollout, counted) = (Arc::clone(&split.name), Arc::clone(&rollout.streams_closed));
            lost.push(Lost { rollout, killed, since: now, window, counted, streams: 0 });
        }
    }
}

/// Whether a canary has lost its share, and if so, whether by kill, which counts for forced requests as well. While the
/// breaker probes, what is there may stay.
fn loss(switches: Switches, phase: Phase) -> Option<bool> {
    if switches.killed() {
        return Some(true);
    }
    let open = switches.bits() & Switches::HALF_OPEN.bits() == Switches::OPEN.bits();
    (open || phase == Phase::RolledBack).then_some(false)
}

/// The part of `window` that a stream has to end politely.
fn grace(window: Duration) -> Duration {
    GRACE_MAX.min(window.checked_div(4).unwrap_or_default())
}

impl Entry {
    fn is_lost_with(&self, lost: &Lost) -> bool {
        self.canaries.iter().any(|canary| canary.rollout == lost.rollout && (lost.killed || !canary.forced))
    }

    fn is_planned(&self) -> bool {
        self.plan.borrow().is_some()
    }

    /// Its turn among those that are to end, one after the other; none any more if the canary has come back.
    fn plan_for_lost(&self, now: Time, lost: &[Lost], ranks: &mut [u32]) {
        let first = lost.iter().zip(ranks).find(|(lost, _)| self.is_lost_with(lost));
        let mut plan = self.plan.borrow_mut();
        match (&*plan, first) {
            (None, Some((lost, rank))) => {
                let spread = lost.window.saturating_sub(grace(lost.window));
                let mut at = now;
                if lost.since == now {
                    let share = f64::from(*rank) / f64::from(lost.streams.max(1));
                    *rank = rank.saturating_add(1);
                    at = now.plus(spread.mul_f64(share.min(1.0)));
                }
                if matches!(self.kind, Kind::Grpc | Kind::Other) {
                    // A call or a body that takes less time than this is no stream; it is left to end by itself.
                    at = at.max(self.started.plus(spread));
                }
                let why = Why::Lost(Arc::clone(&lost.rollout), Arc::clone(&lost.counted));
                *plan = Some(Plan { at, by: at.plus(grace(lost.window)), why });
            }
            (Some(Plan { why: Why::Lost(rollout, _), .. }), _) => {
                let still = lost.iter().any(|lost| lost.rollout == *rollout && self.is_lost_with(lost));
                if !still && self.asked.get() == Asked::No {
                    *plan = None;
                }
            }
            _ => {}
        }
    }

    /// When the process ends, clients of streams are told at once, since they would never end by themselves. A gRPC call
    /// may be about to end, so it gets half of the time; other bodies have all of it.
    fn plan_to_finish(&self, since: Time, drain_timeout: Duration) {
        let at = match self.kind {
            Kind::Tunnel | Kind::Events => since,
            Kind::Grpc => since.plus(drain_timeout.checked_div(2).unwrap_or_default()),
            Kind::Other => return,
        };
        let mut plan = self.plan.borrow_mut();
        if plan.as_ref().is_none_or(|plan| plan.at > at) {
            *plan = Some(Plan { at, by: at.plus(grace(drain_timeout)), why: Why::Finishing });
        }
    }

    fn tell(&self, now: Time) {
        let asked = match &*self.plan.borrow() {
            Some(plan) if now >= plan.by => Asked::AtOnce,
            Some(plan) if now >= plan.at => Asked::Politely,
            _ => return,
        };
        if self.asked.replace(asked) != asked
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Time {
        Time::default().plus(Duration::from_secs(seconds))
    }

    /// A list with a rollout `chat` that is lost from 100 s on, window 8 s: grace 2 s, spread over 6 s.
    struct World {
        streams: Streams,
        lost: Vec<Lost>,
    }

    impl World {
        fn new() -> World {
            World { streams: Streams::default(), lost: Vec::new() }
        }

        fn add(&self, kind: Kind, started: u64, forced: bool) -> Rc<Entry> {
            let canary = Canary { rollout: "chat".into(), forced };
            self.streams.add(kind, seconds(started), Box::new([canary])).1
        }

        fn lose(&mut self, now: u64, killed: bool) {
            let (rollout, counted) = ("chat".into(), crate::tally::Registry::new(1).gauge(key()));
            let streams = u32::try_from(self.streams.list.borrow().len()).unwrap();
            let window = Duration::from_secs(8);
            self.lost = vec![Lost { rollout, killed, since: seconds(now), window, counted, streams }];
        }

        fn plan(&self, now: u64) {
            let mut ranks = vec![0; self.lost.len()];
            for entry in self.streams.list.borrow().values() {
                entry.plan_for_lost(seconds(now), &self.lost, &mut ranks);
                entry.tell(seconds(now));
            }
        }
    }

    fn key() -> crate::tally::GaugeKey {
        crate::tally::GaugeKey::StreamsClosed("chat".into())
    }

    #[test]
    fn streams_of_a_lost_canary_end_one_after_the_other_within_the_window() {
        let mut world = World::new();
        let entries: Vec<_> = (0..3).map(|_| world.add(Kind::Events, 10, false)).collect();
        world.lose(100, true);
        let asked = |world: &World, now| {
            world.plan(now);
            entries.iter().map(|entry| entry.asked.get()).collect::<Vec<_>>()
        };
        use Asked::{AtOnce, No, Politely};
        assert_eq!(asked(&world, 100), [Politely, No, No]);
        assert_eq!(asked(&world, 102), [AtOnce, Politely, No]);
        assert_eq!(asked(&world, 104), [AtOnce, AtOnce, Politely]);
        assert_eq!(asked(&world, 106), [AtOnce, AtOnce, AtOnce]);
        let late = world.add(Kind::Tunnel, 107, false);
        world.plan(107);
        assert_eq!(late.asked.get(), Politely, "one that begins later has no turn to wait for");
    }

    #[test]
    fn what_is_shorter_than_the_window_is_left_to_end_by_itself() {
        let mut world = World::new();
        let [call, body] = [Kind::Grpc, Kind::Other].map(|kind| world.add(kind, 99, false));
        world.lose(100, true);
        for (now, wanted) in [(100, Asked::No), (104, Asked::No), (105, Asked::Politely), (107, Asked::AtOnce)] {
            world.plan(now);
            assert_eq!([call.asked.get(), body.asked.get()], [wanted; 2], "at {now}");
        }
    }

    #[test]
    fn a_breaker_says_nothing_to_forced_streams_and_a_kill_does() {
        let mut world = World::new();
        let forced = world.add(Kind::Events, 10, true);
        world.lose(100, false);
        world.plan(100);
        assert_eq!(forced.asked.get(), Asked::No);
        world.lose(101, true);
        world.plan(101);
        assert_eq!(forced.asked.get(), Asked::Politely);
    }

    #[test]
    fn a_canary_that_comes_back_keeps_the_streams_that_were_not_told_yet() {
        let mut world = World::new();
        let [first, second] = [0, 1].map(|_| world.add(Kind::Events, 10, false));
        world.lose(100, true);
        world.plan(100);
        world.lost.clear();
        world.plan(105);
        assert_eq!([first.asked.get(), second.asked.get()], [Asked::AtOnce, Asked::No]);
        assert!(first.is_planned() && !second.is_planned());
    }

    #[test]
    fn the_end_of_the_process_reaches_streams_at_once_and_calls_after_half_of_the_time() {
        let world = World::new();
        let kinds = [Kind::Tunnel, Kind::Events, Kind::Grpc, Kind::Other];
        let entries = kinds.map(|kind| world.add(kind, 10, false));
        let at = |now| {
            entries.iter().for_each(|entry| {
                entry.plan_to_finish(seconds(100), Duration::from_secs(30));
                entry.tell(seconds(now));
            });
            entries.each_ref().map(|entry| entry.asked.get())
        };
        use Asked::{AtOnce, No, Politely};
        assert_eq!(at(100), [Politely, Politely, No, No]);
        assert_eq!(at(115), [AtOnce, AtOnce, Politely, No]);
    }

    #[test]
    fn an_open_breaker_loses_the_share_and_a_half_open_one_does_not() {
        assert_eq!(loss(Switches::NONE, Phase::Serving), None);
        assert_eq!(loss(Switches::KILLED, Phase::Serving), Some(true));
        assert_eq!(loss(Switches::OPEN, Phase::Serving), Some(false));
        assert_eq!(loss(Switches::HALF_OPEN, Phase::Serving), None);
        assert_eq!(loss(Switches::HALF_OPEN.with(Switches::KILLED), Phase::Serving), Some(true));
        assert_eq!(loss(Switches::NONE, Phase::RolledBack), Some(false));
        assert_eq!(loss(Switches::NONE, Phase::Pending), None);
    }
}
