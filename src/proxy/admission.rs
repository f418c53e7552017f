//! Who is let in: client connections, TLS handshakes and requests, each against a limit of the whole process.
//!
//! Beyond a limit weir answers at once and queues nothing, so that those who are in are served as well as ever. A
//! connection too many is accepted and closed: left in the kernel's queue it would wait without knowing for what, and a
//! load balancer could not take it elsewhere. A handshake too many waits for its turn within its own time, because
//! a crowd of clients that all come back at once is no attack, and is through soon. A request too many is refused with
//! 503 before anything of it is sent, and before it is counted on an arm: it says nothing about the arm.
//!
//! `worker` asks for connections, `conn` for handshakes, `request` for requests. What is admitted counts until the value
//! returned here is dropped; a request's is kept by its observation until the end of the answer's body.

use super::local::{Adopted, Worker};
use super::refusal::Refusal;
use crate::allowance::{Addresses, Allowance};
use crate::rollout::assign::Decision;
use crate::snapshot::{ROLLOUTS_PER_ROUTE_MAX, Route, Snapshot};
use crate::tally::{CONNECTIONS_CUT, CONNECTIONS_REFUSED, ListenerCounts, PerWorker};
use rustix::io::Errno;
use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Why a connection is closed unserved; in the order of `tally::CONNECTIONS_REFUSED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// The process has as many as it may.
    Connections,
    /// Its address has as many as it may.
    Address,
    /// No turn for its TLS handshake came in time.
    Handshakes,
    /// The process has no descriptor left.
    Descriptors,
}

/// Why a connection is cut; in the order of `tally::CONNECTIONS_CUT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The TLS handshake took too long.
    Handshake,
    /// The client sent nothing.
    FirstByte,
    /// A request's head took too long.
    Header,
    /// The client took nothing of an answer.
    WriteStall,
    /// The client took back too many requests before they had an answer.
    Resets,
    /// The client sent too many frames that carry nothing.
    ControlFrames,
    /// The client broke one of the measures that the HTTP/2 library has for heads, resets and empty frames.
    Flood,
}

impl PerWorker<ListenerCounts> {
    /// Counts a connection that is closed unserved.
    pub fn turn_away(&self, worker: usize, why: TurnedAway) {
        const { assert!(CONNECTIONS_REFUSED.len() == TurnedAway::Descriptors as usize + 1) };
        if let Some(count) = self.of(worker).and_then(|counts| counts.refused.get(why as usize)) {
            count.add(1);
        }
    }

    /// Counts a connection or stream that is cut.
    pub fn cut(&self, worker: usize, why: Cut) {
        const { assert!(CONNECTIONS_CUT.len() == Cut::Flood as usize + 1) };
        if let Some(count) = self.of(worker).and_then(|counts| counts.cut.get(why as usize)) {
            count.add(1);
        }
    }
}

/// Whether the system lacks something for a connection: a descriptor, memory, or a port of its own.
pub fn is_exhaustion(error: &io::Error) -> bool {
    let lacking = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| lacking.contains(&errno))
}

/// A client connection's place among those of the process and of its address.
pub struct Seated {
    worker: usize,
    connections: Arc<Allowance>,
    address: Option<(Arc<Addresses>, IpAddr)>,
}

impl Seated {
    /// A place for a connection.
    pub fn connection(snapshot: &Snapshot, worker: usize) -> Result<Self, TurnedAway> {
        if !snapshot.connections.take(worker) {
            return Err(TurnedAway::Connections);
        }
        Ok(Seated { worker, connections: Arc::clone(&snapshot.connections), address: None })
    }

    /// With a place among those of that client. Trusted proxies speak for many and have no limit of their own.
    pub fn of(mut self, snapshot: &Snapshot, client: IpAddr) -> Result<Self, TurnedAway> {
        let client = client.to_canonical();
        if let Some(limit) = snapshot.limits.max_connections_per_ip.filter(|_| !snapshot.trusts(client)) {
            if !snapshot.addresses.take(client, limit) {
                return Err(TurnedAway::Address);
            }
            self.address = Some((Arc::clone(&snapshot.addresses), client));
        }
        Ok(self)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.connections.give_back(self.worker);
        if let Some((addresses, peer)) = &self.address {
            addresses.give_back(*peer);
        }
    }
}

/// The turns for TLS handshakes of one worker: its share of the limit, rounded up, so that all workers together have at
/// most one each more than the limit.
pub struct Turns {
    free: Semaphore,
    dealt: Cell<usize>,
}

impl Default for Turns {
    fn default() -> Self {
        Turns { free: Semaphore::const_new(0), dealt: Cell::new(0) }
    }
}

impl Turns {
    /// Waits for a turn; those who came first have it first.
    pub async fn next(&self, snapshot_limit: u32, workers: usize) -> Option<SemaphorePermit<'_>> {
        let share = (snapshot_limit as usize).div_ceil(workers.max(1));
        let dealt = self.dealt.get();
        if share > dealt {
            self.free.add_permits(share.saturating_sub(dealt));
            self.dealt.set(share);
        } else if share < dealt {
            // Turns that are taken now are taken away by a later connection.
            let gone = self.free.forget_permits(dealt.saturating_sub(share));
            self.dealt.set(dealt.saturating_sub(gone));
        }
        self.free.acquire().await.ok()
    }
}

/// A request's place among those of the process, and of each arm it is on.
pub struct Admitted {
    worker: usize,
    /// What the request was decided under.
    pub adopted: Rc<Adopted>,
    /// Index of its route there.
    pub route: usize,
    /// The arms on which it has a place: of the route's first rollouts, as many as are in here, as one bit each.
    places: u8,
    canary: u8,
}

impl Admitted {
    /// Places for a request with these decisions on a route, or the refusal of one that is too many.
    pub fn request(
        worker: &Worker,
        adopted: &Rc<Adopted>,
        route: usize,
        decisions: &[Decision],
    ) -> Result<Self, Refusal> {
        let snapshot = &*adopted.snapshot;
        if !snapshot.in_flight.take(worker.index) {
            return Err(Refusal::Overloaded);
        }
        let mut admitted = Admitted { worker: worker.index, adopted: Rc::clone(adopted), route, places: 0, canary: 0 };
        for (decision, bit) in decisions.iter().zip(BITS) {
            admitted.canary |= if decision.arm.index() == 0 { 0 } else { bit };
            let free = admitted.arm(bit).is_some_and(|arm| arm.take(worker.index));
            if !free {
                return Err(Refusal::Overloaded);
            }
            admitted.places |= bit;
        }
        Ok(admitted)
    }

    /// Gives back its places on arms: stable answers in the canary's place, and has a budget of its own for that.
    pub fn off_its_arms(mut self) -> Self {
        self.leave_arms();
        self
    }

    fn leave_arms(&mut self) {
        let places = std::mem::take(&mut self.places);
        for bit in BITS.into_iter().filter(|bit| places & bit != 0) {
            if let Some(arm) = self.arm(bit) {
                arm.give_back(self.worker);
            }
        }
    }

    /// The allowance of the arm that stands for a bit.
    fn arm(&self, bit: u8) -> Option<&Allowance> {
        let snapshot = &*self.adopted.snapshot;
        let on = snapshot
            .routes
            .get(self.route)
            .and_then(|route: &Route| route.rollouts.get(bit.trailing_zeros() as usize))?;
        let arm = usize::from(self.canary & bit != 0);
        snapshot.rollouts.get(on.rollout)?.in_flight.get(arm).map(|arm| &**arm)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.leave_arms();
        self.adopted.snapshot.in_flight.give_back(self.worker);
    }
}

/// One bit for each rollout that a route may carry.
const BITS: [u8; ROLLOUTS_PER_ROUTE_MAX] = [1, 2, 4, 8, 16, 32, 64, 128];
