//! What the tasks of one worker share: the snapshot it keeps, its pools, its random numbers, its open connections.
//!
//! Everything here belongs to one thread; nothing is locked.

use super::access::{Line, Log};
use super::admission::Turns;
use super::budget::Budget;
use super::courier::Couriers;
use super::lasting::Streams;
use super::pool::{Pools, UpstreamPool};
use super::replica::LongCopies;
use super::vitals::Gate;
use crate::clock::Clock;
use crate::snapshot::{Published, Snapshot};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use tokio::sync::Notify;

/// How far the process has got on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drain {
    /// It serves.
    No,
    /// It still accepts, but asks clients to go elsewhere: answers say `connection: close`, HTTP/2 connections GOAWAY.
    Closing,
    /// It accepts no more; requests under way finish, within the drain timeout.
    Finish,
    /// It ends now.
    Now,
}

/// What the tasks of a worker share.
pub struct Worker {
    /// Its index.
    pub index: usize,
    /// The clock.
    pub clock: Clock,
    /// Turns for TLS handshakes.
    pub handshakes: Turns,
    published: Arc<Published<Snapshot>>,
    adopted: RefCell<Rc<Adopted>>,
    pools: RefCell<Pools>,
    copy_pools: RefCell<Pools>,
    budgets: RefCell<Budgets>,
    /// How many web vitals are taken.
    pub vitals_gate: RefCell<Gate>,
    random: RefCell<fastrand::Rng>,
    log: Option<Log>,
    drain: Cell<Drain>,
    seats: RefCell<Seats>,
    /// The tasks that accept connections, one per listener.
    accepting: RefCell<Vec<Waker>>,
    /// Told when the last connection is gone.
    empty: Notify,
    /// The streams that last.
    pub streams: Streams,
    /// Who sends copies.
    pub couriers: Couriers,
    /// Turns for copies with long answers.
    pub long_copies: LongCopies,
}

/// A snapshot with this worker's pools for it.
pub struct Adopted {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    /// The pools, in the snapshot's order of upstreams.
    pub pools: Vec<UpstreamPool>,
    /// Those of copies, in the same order: what hangs there takes nothing from users.
    pub copy_pools: Vec<UpstreamPool>,
    /// What stable may answer in the canary's place, in the snapshot's order of rollouts.
    pub budgets: Vec<Rc<RefCell<Budget>>>,
}

/// The fallback budgets by rollout: a reload neither refills nor exchanges them.
type Budgets = BTreeMap<Arc<str>, Rc<RefCell<Budget>>>;

/// The budgets of the rollouts that `snapshot` names, in its order; others are forgotten.
fn budgets(known: &mut Budgets, snapshot: &Snapshot) -> Vec<Rc<RefCell<Budget>>> {
    let workers = snapshot.counts.iter().count();
    let names = snapshot.splits.iter().map(|split| &split.name);
    let of =
        |name: &Arc<str>| known.get(name).map(Rc::clone).unwrap_or_else(|| Rc::new(RefCell::new(Budget::new(workers))));
    let present: Vec<_> = names.clone().map(of).collect();
    *known = names.map(Arc::clone).zip(present.iter().map(Rc::clone)).collect();
    present
}

/// The connections that must be told when the worker drains.
#[derive(Default)]
struct Seats {
    next: u64,
    wakers: BTreeMap<u64, Option<Waker>>,
}

/// One connection's seat; left when it ends.
pub struct Seat {
    worker: Rc<Worker>,
    number: u64,
}

impl Seat {
    /// The worker.
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// Whom to wake when the worker drains.
    pub fn wake_by(&self, waker: Waker) {
        self.worker.seats.borrow_mut().wakers.insert(self.number, Some(waker));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.worker.seats.borrow_mut();
        seats.wakers.remove(&self.number);
        if seats.wakers.is_empty() {
            self.worker.empty.notify_one();
        }
    }
}

impl Worker {
    /// What the worker of that index begins with.
    pub fn new(index: usize, clock: Clock, published: Arc<Published<Snapshot>>, log: Option<Log>) -> Self {
        let snapshot = published.load();
        let mut pools = Pools::new(index, clock.clone());
        let mut known = Budgets::new();
        let budgets = budgets(&mut known, &snapshot);
        let mut copy_pools = Pools::for_copies(index, clock.clone());
        let (own, copies) = (pools.adopt(&snapshot), copy_pools.adopt(&snapshot));
        let adopted = Adopted { pools: own, copy_pools: copies, budgets, snapshot };
        Worker {
            index,
            clock,
            handshakes: Turns::default(),
            published,
            adopted: RefCell::new(Rc::new(adopted)),
            pools: RefCell::new(pools),
            copy_pools: RefCell::new(copy_pools),
            budgets: RefCell::new(known),
            vitals_gate: RefCell::default(),
            random: RefCell::new(fastrand::Rng::new()),
            log,
            drain: Cell::new(Drain::No),
            seats: RefCell::default(),
            accepting: RefCell::default(),
            empty: Notify::new(),
            streams: Streams::default(),
            couriers: Couriers::default(),
            long_copies: LongCopies::default(),
        }
    }

    /// The present snapshot: the kept one unless the generation number moved.
    #[inline]
    pub fn adopted(&self) -> Rc<Adopted> {
        if self.published.generation() != self.adopted.borrow().snapshot.generation {
            self.adopt();
        }
        Rc::clone(&self.adopted.borrow())
    }

    #[cold]
    fn adopt(&self) {
        let snapshot = self.published.load();
        let pools = self.pools.borrow_mut().adopt(&snapshot);
        let copy_pools = self.copy_pools.borrow_mut().adopt(&snapshot);
        let budgets = budgets(&mut self.budgets.borrow_mut(), &snapshot);
        *self.adopted.borrow_mut() = Rc::new(Adopted { snapshot, pools, copy_pools, budgets });
    }

    /// 128 random bits for ids that nobody must guess from others but that protect nothing.
    pub fn random(&self) -> u128 {
        self.random.borrow_mut().u128(..)
    }

    /// A random number below `bound`, which is not nought.
    pub fn random_below(&self, bound: u32) -> u32 {
        self.random.borrow_mut().u32(..bound)
    }

    /// Something was counted of a rollout: whoever reads that, reads on.
    pub fn stir(&self, snapshot: &Snapshot) {
        if let Some(counts) = snapshot.counts.of(self.index) {
            counts.stirs.add(1);
        }
    }

    /// Queues a line for the access log if requests that end so are kept, and counts it if it does not fit.
    pub fn write_access(&self, line: Box<Line>, ended_well: bool) {
        let Some(log) = &self.log else { return };
        let adopted = self.adopted.borrow();
        if adopted.snapshot.access_log.keeps(ended_well, || self.random_below(1_000_000))
            && !log.offer(line)
            && let Some(counts) = adopted.snapshot.counts.of(self.index)
        {
            counts.access_dropped.add(1);
        }
    }

    /// Whether clients are asked to go elsewhere.
    pub fn is_draining(&self) -> bool {
        self.drain.get() > Drain::No
    }

    /// Whether connections must end after the requests they carry.
    pub fn must_finish(&self) -> bool {
        self.drain.get() >= Drain::Finish
    }

    /// A seat for a connection that was just accepted.
    pub fn seat(self: &Rc<Self>) -> Seat {
        let mut seats = self.seats.borrow_mut();
        let number = seats.next;
        seats.next = number.wrapping_add(1);
        seats.wakers.insert(number, None);
        Seat { worker: Rc::clone(self), number }
    }

    /// Notes how far the process has got on its way out.
    pub fn set_drain(&self, stage: Drain) {
        self.drain.set(stage);
        if stage > Drain::No {
            self.couriers.alert();
            self.seats.borrow().wakers.values().flatten().for_each(Waker::wake_by_ref);
        }
        if stage >= Drain::Finish {
            self.accepting.borrow().iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Whom to wake, besides the connections, when the worker drains: a task that accepts.
    pub fn wake_at_drain(&self, waker: &Waker) {
        let mut accepting = self.accepting.borrow_mut();
        if !accepting.iter().any(|known| known.will_wake(waker)) {
            accepting.push(waker.clone());
        }
    }

    /// Waits until the last connection is gone.
    pub async fn until_empty(&self) {
        while !self.seats.borrow().wakers.is_empty() {
            self.empty.notified().await;
        }
    }

    /// Looks through idle upstream connections, and lets go of an old snapshot even if no request comes.
    pub fn sweep(&self) {
        let adopted = self.adopted();
        self.pools.borrow().sweep(&adopted.snapshot);
        self.copy_pools.borrow().sweep(&adopted.snapshot);
    }

    /// Closes every idle upstream connection.
    pub fn close_idle(&self) {
        self.pools.borrow().close_idle();
        self.copy_pools.borrow().close_idle();
    }
}
