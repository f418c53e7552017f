//! Breaker and plans under random fire, on a virtual clock, from a seed: the whole breaker with latch and decisions, and
//! the engine with several rollouts, their plans, a disk and a process that may be killed at any effect (`plans`).
//!
//! Each history of the breaker is one small rollout with rules, units, traffic, faults on either arm, an operator and restarts, all drawn
//! at random; `world` says what must hold at every step of it. A failing history prints its seed and is run again alone
//! by `WEIR_SIMULATION_SEED`; `WEIR_SIMULATION_HISTORIES` asks for more of them.

// All of it is test code; helpers outside `#[test]` functions fail by panicking too.
#![allow(clippy::expect_used, clippy::panic)]

#[path = "simulation/oracle.rs"]
mod oracle;
#[path = "simulation/plans/mod.rs"]
mod plans;
#[path = "simulation/traffic.rs"]
mod traffic;
#[path = "simulation/world.rs"]
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use world::{Kind, Met, World};

/// Histories unless more are asked for.
const HISTORIES: u64 = 100_000;
/// Of those, the ones in which both arms break alike; there are many requests in each.
const ALIKE: u64 = 1_000;

#[test]
fn no_history_exposes_more_than_it_may() {
    let met = run(histories(), Kind::Anything);
    // A simulation that never gets anywhere proves nothing.
    let Met { trips, half_opened, recovered, rolled_back, revived, restarts, canary, probes, spared: _ } = met;
    println!("{met:?}");
    let counts = [trips, half_opened, recovered, rolled_back, revived, restarts, canary, probes];
    assert!(counts.iter().all(|&count| count > 100 || histories() < HISTORIES), "{met:?}");
}

#[test]
fn arms_that_break_alike_never_trip() {
    let met = run(histories().div_ceil(HISTORIES / ALIKE), Kind::Alike);
    println!("{met:?}");
    assert!(met.spared > 0 || histories() < HISTORIES, "{met:?}");
}

#[test]
fn no_plan_moves_but_by_its_rules() {
    let met = run_plans(histories());
    println!("{met:?}");
    let alone = number("WEIR_SIMULATION_SEED").is_some() || histories() < HISTORIES;
    assert!(alone || met.counts().iter().all(|&count| count > 100), "{met:?}");
}

fn run(histories: u64, kind: Kind) -> Met {
    on_all(histories, &|seed| World::new(seed, kind).live(), Met::add)
}

fn run_plans(histories: u64) -> plans::Met {
    on_all(histories, &|seed| plans::World::new(seed).live(), plans::Met::add)
}

/// Lives so many histories on all processors; the first that fails ends the test with its seed.
fn on_all<M: Default + Send>(histories: u64, live: &(impl Fn(u64) -> M + Sync), add: fn(&mut M, &M)) -> M {
    if let Some(seed) = number("WEIR_SIMULATION_SEED") {
        return live(seed);
    }
    let next = AtomicU64::new(0);
    let work = || {
        let mut met = M::default();
        loop {
            let history = next.fetch_add(1, Ordering::Relaxed);
            if history >= histories {
                return met;
            }
            let seed = FIRST_SEED.wrapping_add(history);
            let told = Told(seed);
            add(&mut met, &live(seed));
            std::mem::forget(told);
        }
    };
    thread::scope(|scope| {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut sum = M::default();
        let failed = "a history failed; its seed is above";
        handles.into_iter().for_each(|handle| add(&mut sum, &handle.join().expect(failed)));
        sum
    })
}

/// The seed of the first history; the next ones follow.
const FIRST_SEED: u64 = 0x77e1_7000;

/// Dropped by a history that fails.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("history of seed {0} failed; again: WEIR_SIMULATION_SEED={0} cargo test --test simulation", self.0);
    }
}

fn histories() -> u64 {
    number("WEIR_SIMULATION_HISTORIES").unwrap_or(HISTORIES)
}

#[allow(clippy::disallowed_methods, reason = "a test has no command line to be asked by")]
fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}: `{value}` is no number")))
}
