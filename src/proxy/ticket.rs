//! A request of a mirrored share, from its decision until it is counted: once, as what came of its copy or as the reason why
//! there is none; and what its copy takes of the process meanwhile.

use super::local::{Adopted, Worker};
use crate::allowance::Copies;
use crate::rollout::diff::samples::Kind;
use crate::snapshot::Shadow;
use crate::tally::COPIES_SKIPPED;
use std::rc::Rc;
use std::sync::Arc;

/// One request of a rollout's mirrored share. One that is dropped belongs to a client that left before there was a copy.
pub struct Ticket {
    /// The worker that serves it and sends its copy.
    pub worker: Rc<Worker>,
    /// What it was decided under.
    pub adopted: Rc<Adopted>,
    /// The rollout that mirrors, as an index.
    pub rollout: usize,
    /// Whose answer the copy asks for. Stable's second one is for the comparison alone, which sees by itself that it is
    /// missing, so that it is counted nowhere here.
    pub kind: Kind,
    counted: bool,
}

/// What a copy takes of the process; given back when it ends.
pub struct Hold {
    copies: Arc<Copies>,
    bytes: u64,
    bytes_max: u64,
    under_way: bool,
}

/// Why a request of the mirrored share was not copied, or its copy says nothing; in the order of `COPIES_SKIPPED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is a copy itself.
    Loop,
    /// It asks for another protocol.
    Upgrade,
    /// The worker drains.
    Drain,
    /// Its method is not mirrored.
    Method,
    /// Its body is too long.
    Body,
    /// The copies of the process take what they may.
    Memory,
    /// As many copies are under way as may be.
    InFlight,
    /// Its own body did not come to its end, or its client left before it was answered.
    BrokenOff,
    /// The canary has no healthy endpoint.
    NoEndpoint,
    /// There is no connection to be had, for want of places or of descriptors.
    Connections,
    /// A pooled connection that had been idle was closed just when it was to be used. Nothing is sent twice, so this copy is
    /// lost.
    Stale,
    /// Copies to that endpoint came to nothing lately, and no connection was there.
    Backoff,
}

impl Ticket {
    /// The ticket of a request that is mirrored for that rollout.
    pub fn new(worker: &Rc<Worker>, adopted: &Rc<Adopted>, rollout: usize, kind: Kind) -> Ticket {
        Ticket { worker: Rc::clone(worker), adopted: Rc::clone(adopted), rollout, kind, counted: false }
    }

    /// What its rollout mirrors.
    pub fn shadow(&self) -> Option<&Shadow> {
        self.adopted.snapshot.rollouts.get(self.rollout)?.shadow.as_ref()
    }

    /// Counts why there is no copy.
    pub fn skip(mut self, skip: Skip) {
        self.count_skip(skip);
    }

    /// It is counted elsewhere, as what came of its copy.
    pub fn settle(mut self) {
        self.counted = true;
    }

    fn count_skip(&mut self, skip: Skip) {
        const { assert!(COPIES_SKIPPED.len() == Skip::Backoff as usize + 1) };
        if std::mem::replace(&mut self.counted, true) || self.kind == Kind::Noise {
            return;
        }
        let counts = self.shadow().and_then(|shadow| shadow.counts.of(self.worker.index));
        if let Some(count) = counts.and_then(|counts| counts.skipped.get(skip as usize)) {
            count.add(1);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.count_skip(Skip::BrokenOff);
        self.worker.stir(&self.adopted.snapshot);
    }
}

impl Hold {
    /// Takes the memory of a copy whose head has so many bytes; none if there is not enough.
    pub fn new(copies: Arc<Copies>, bytes_max: u64, head_bytes: u64) -> Option<Hold> {
        let bytes = head_bytes.saturating_add(OWN_BYTES);
        copies.take(bytes, bytes_max).then(|| Hold { copies: Arc::clone(&copies), bytes, bytes_max, under_way: false })
    }

    /// Takes more.
    pub fn grow(&mut self, bytes: u64) -> Result<(), Skip> {
        if !self.copies.take(bytes, self.bytes_max) {
            return Err(Skip::Memory);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Takes a place among so many copies under way; false if there is none.
    pub fn begin(&mut self, limit: u32) -> bool {
        self.under_way = self.copies.begin(limit);
        self.under_way
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.copies.give_back(self.bytes);
        if self.under_way {
            self.copies.end();
        }
    }
}

/// What a copy takes besides its request: the buffer that its answer is read into, and its task.
const OWN_BYTES: u64 = 72 * 1024;
