//! Limits of the whole process on which all workers draw without meeting: requests and connections at once, connections
//! of one address, and what copies of requests take.
//!
//! An `Allowance` of `n` is `n` places, dealt out over the workers. A worker takes from its own share, which nobody else
//! touches as long as it lasts, and only when that is empty from the shares of the others. So never more than `n` places
//! are taken, whoever asks, and one is refused only where every share was found empty, which a place may be missing from
//! that is just on its way from one share to another.
//!
//! It counts and decides nothing else: what is refused, and how, is the data plane's business. Made by the registry, one
//! for each limit, and kept over reloads.

use std::net::IpAddr;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A number of places for which all workers compete.
#[derive(Debug)]
pub struct Allowance {
    limit: AtomicU32,
    /// Places that were taken away by a smaller limit while they were in use; whoever gives one back pays this first.
    debt: AtomicU32,
    shares: Box<[Share]>,
}

/// The free places of one worker; on a cache line of its own.
#[repr(align(64))]
#[derive(Debug)]
struct Share(AtomicU32);

impl Allowance {
    /// That many places for that many workers.
    pub fn new(limit: u32, workers: usize) -> Self {
        let shares = (0..workers).map(|_| Share(AtomicU32::new(0))).collect();
        let allowance = Allowance { limit: AtomicU32::new(0), debt: AtomicU32::new(0), shares };
        allowance.set(limit);
        allowance
    }

    /// Takes a place for that worker; false if there is none. Each place that was taken is given back once.
    #[inline]
    pub fn take(&self, worker: usize) -> bool {
        let own = self.shares.get(worker);
        own.is_some_and(|own| own.take(1) == 1 || self.borrow(worker, own))
    }

    /// Gives a place back to that worker's share.
    #[inline]
    pub fn give_back(&self, worker: usize) {
        if self.debt.load(Relaxed) > 0 && self.pay(1) == 0 {
            return;
        }
        if let Some(own) = self.shares.get(worker) {
            own.0.fetch_add(1, Relaxed);
        }
    }

    /// Makes the limit another one. Places in use stay in use: with a smaller limit they are not dealt out again.
    /// Only one thread at a time may call this.
    pub fn set(&self, limit: u32) {
        let before = self.limit.swap(limit, Relaxed);
        if limit < before {
            self.debt.fetch_add(before - limit, Relaxed);
            for share in &self.shares {
                let left = self.pay(share.0.swap(0, Relaxed));
                share.0.fetch_add(left, Relaxed);
            }
            return;
        }
        let mut left = self.pay(limit - before);
        for (index, share) in self.shares.iter().enumerate() {
            let part = left.div_ceil((self.shares.len() - index) as u32);
            share.0.fetch_add(part, Relaxed);
            left -= part;
        }
    }

    /// How many places are taken; a moment's view.
    pub fn taken(&self) -> u32 {
        let free = self.shares.iter().map(|share| share.0.load(Relaxed)).sum::<u32>();
        self.limit.load(Relaxed).saturating_add(self.debt.load(Relaxed)).saturating_sub(free)
    }

    /// A place from another worker's share, and half of what is there besides, so that this is needed rarely.
    #[cold]
    fn borrow(&self, worker: usize, own: &Share) -> bool {
        // Each worker begins with its neighbour, so that they do not all ask the same one.
        let others = self.shares.iter().cycle().skip(worker + 1).take(self.shares.len().saturating_sub(1));
        for other in others {
            let there = other.0.load(Relaxed);
            let taken = if there == 0 { 0 } else { other.take(there.div_ceil(2)) };
            if taken > 0 {
                own.0.fetch_add(taken - 1, Relaxed);
                return true;
            }
        }
        false
    }

    /// Pays what is owed with these places; how many are left.
    fn pay(&self, places: u32) -> u32 {
        let paid = self.debt.fetch_update(Relaxed, Relaxed, |debt| Some(debt.saturating_sub(places)));
        places.saturating_sub(paid.unwrap_or(0))
    }
}

impl Share {
    /// Takes up to `wanted` places; how many it got.
    #[inline]
    fn take(&self, wanted: u32) -> u32 {
        let before = self.0.fetch_update(Relaxed, Relaxed, |free| (free > 0).then(|| free.saturating_sub(wanted)));
        before.map_or(0, |free| free.min(wanted))
    }
}

/// How many connections each address has, in fixed memory: every address is counted in one cell of each row, and has as
/// many as its smallest cell says. So it is never taken for having fewer, and for having more only where other addresses
/// share every one of its cells, which nobody can arrange without knowing the keys.
#[derive(Debug)]
pub struct Addresses {
    keys: ahash::RandomState,
    rows: [Box<[AtomicU32]>; ROWS],
}

impl Default for Addresses {
    fn default() -> Self {
        Addresses {
            keys: ahash::RandomState::new(),
            rows: std::array::from_fn(|_| (0..ROW_CELLS).map(|_| AtomicU32::new(0)).collect()),
        }
    }
}

impl Addresses {
    /// Counts one more connection of that address; false, and nothing is counted, if it has `limit` already.
    pub fn take(&self, address: IpAddr, limit: u32) -> bool {
        // All cells are counted up before one is read, in one order for all threads: so of two that race for the last
        // place at least one sees the other. That both do, and nobody has it, is the harmless way to be wrong.
        self.each_cell(address, |cell| {
            cell.fetch_add(1, SeqCst);
        });
        let mut fewest = u32::MAX;
        self.each_cell(address, |cell| fewest = fewest.min(cell.load(SeqCst)));
        if fewest > limit {
            self.give_back(address);
        }
        fewest <= limit
    }

    /// Counts one connection less.
    pub fn give_back(&self, address: IpAddr) {
        self.each_cell(address, |cell| {
            cell.fetch_sub(1, SeqCst);
        });
    }

    fn each_cell(&self, address: IpAddr, mut with: impl FnMut(&AtomicU32)) {
        let mut hash = self.keys.hash_one(holder(address));
        for row in &self.rows {
            if let Some(cell) = row.get(hash as usize % ROW_CELLS) {
                with(cell);
            }
            hash >>= ROW_BITS;
        }
    }
}

/// What the copies of requests that are mirrored take. Every rollout brings limits of its own, and each of them is held
/// against what all of them take together. Only copies touch it, so that it needs no shares.
#[derive(Debug, Default)]
pub struct Copies {
    under_way: AtomicU32,
    bytes: AtomicU64,
}

impl Copies {
    /// Counts one more copy under way; false, and nothing is counted, if there are `limit` already.
    pub fn begin(&self, limit: u32) -> bool {
        let more = |under_way: u32| (under_way < limit).then(|| under_way + 1);
        self.under_way.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Counts one less.
    pub fn end(&self) {
        self.under_way.fetch_sub(1, Relaxed);
    }

    /// Takes so many bytes of memory; false, and none is taken, if they would be more than `limit` in all.
    pub fn take(&self, bytes: u64, limit: u64) -> bool {
        let more = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= limit);
        self.bytes.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Gives memory back.
    pub fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Copies under way, and the bytes that all of them take; a moment's view.
    pub fn taken(&self) -> (u32, u64) {
        (self.under_way.load(Relaxed), self.bytes.load(Relaxed))
    }
}

/// Who holds an address: of IPv6 it is the first half, because one client has all that follows (RFC 6177).
fn holder(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

/// Cells of a row as a power of two: ten thousand connections of as many addresses leave most of them empty.
const ROW_BITS: u32 = 14;
const ROW_CELLS: usize = 1 << ROW_BITS;
/// As many as one hash has bits for.
const ROWS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicI64;

    #[test]
    fn every_worker_can_have_all_places_and_none_has_more() {
        for (limit, workers) in [(1, 8), (7, 3), (100, 1), (1024, 64)] {
            for worker in [0, workers - 1] {
                let allowance = Allowance::new(limit, workers);
                let taken = (0..limit * 2).filter(|_| allowance.take(worker)).count();
                assert_eq!((taken, allowance.taken()), (limit as usize, limit), "{limit} over {workers}");
                allowance.give_back(worker);
                assert!(allowance.take((worker + 1) % workers), "a place that was given back is anybody's");
                assert!(!allowance.take(worker));
            }
        }
    }

    #[test]
    fn a_smaller_limit_holds_as_soon_as_places_come_back() {
        let allowance = Allowance::new(10, 2);
        (0..8).for_each(|_| assert!(allowance.take(0)));
        allowance.set(3);
        assert_eq!(allowance.taken(), 8);
        for _ in 0..5 {
            assert!(!allowance.take(1));
            allowance.give_back(0);
        }
        assert!(!allowance.take(1), "three are still in use");
        allowance.give_back(0);
        assert!(allowance.take(1));
        allowance.set(5);
        assert!(allowance.take(0) && allowance.take(0) && !allowance.take(0));
    }

    #[test]
    fn a_larger_limit_pays_what_a_smaller_one_left_owing() {
        let allowance = Allowance::new(4, 2);
        (0..4).for_each(|_| assert!(allowance.take(1)));
        allowance.set(1);
        allowance.set(6);
        assert!(allowance.take(0) && allowance.take(0) && !allowance.take(0));
    }

    #[test]
    fn threads_that_race_never_hold_more_than_the_limit_and_leave_all_of_it() {
        const LIMIT: u32 = 5;
        let (allowance, held) = (Allowance::new(LIMIT, 4), AtomicI64::new(0));
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (allowance, held) = (&allowance, &held);
                scope.spawn(move || {
                    for round in 0..20_000 {
                        if allowance.take(worker) {
                            assert!(held.fetch_add(1, Relaxed) < i64::from(LIMIT));
                            if round % 64 == 0 {
                                std::thread::yield_now();
                            }
                            held.fetch_sub(1, Relaxed);
                            allowance.give_back(worker);
                        }
                    }
                });
            }
        });
        assert_eq!(allowance.taken(), 0);
        assert_eq!((0..LIMIT * 2).filter(|_| allowance.take(0)).count(), LIMIT as usize);
    }

    #[test]
    fn addresses_are_counted_apart_and_ipv6_by_its_network() {
        let addresses = Addresses::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(addresses.take(address("192.0.2.1"), 2) && addresses.take(address("192.0.2.1"), 2));
        assert!(!addresses.take(address("192.0.2.1"), 2));
        assert!(addresses.take(address("192.0.2.2"), 1));
        addresses.give_back(address("192.0.2.1"));
        assert!(addresses.take(address("192.0.2.1"), 2), "a refusal counts nothing");
        assert!(addresses.take(address("2001:db8::1"), 1));
        assert!(!addresses.take(address("2001:db8::2"), 1));
        assert!(addresses.take(address("2001:db8:0:1::1"), 1));
    }

    #[test]
    fn threads_that_race_never_hold_more_of_an_address_than_its_limit() {
        const LIMIT: u32 = 2;
        let (addresses, held) = (Addresses::default(), AtomicI64::new(0));
        let address = IpAddr::from([192, 0, 2, 1]);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if addresses.take(address, LIMIT) {
                            assert!(held.fetch_add(1, SeqCst) < i64::from(LIMIT));
                            held.fetch_sub(1, SeqCst);
                            addresses.give_back(address);
                        }
                    }
                });
            }
        });
        assert!(addresses.take(address, 1), "everything was given back");
    }

    #[test]
    fn each_limit_is_held_against_what_all_copies_take() {
        let copies = Copies::default();
        assert!(copies.begin(2) && copies.begin(2) && !copies.begin(2), "two are two");
        assert!(copies.begin(3), "and another rollout may allow a third");
        copies.end();
        assert!(copies.take(60, 100) && !copies.take(41, 100) && copies.take(40, 100));
        assert!(!copies.take(u64::MAX, u64::MAX), "sums do not wrap");
        copies.give_back(100);
        assert_eq!(copies.taken(), (2, 0));
    }

    #[test]
    fn ten_thousand_strangers_are_not_taken_for_one() {
        let addresses = Addresses::default();
        let refused = (0..10_000_u32).filter(|bits| !addresses.take(IpAddr::from(bits.to_be_bytes()), 16)).count();
        assert_eq!(refused, 0);
    }
}
