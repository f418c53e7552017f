//! How large a test is and how lucky a chaos run: numbers and the seed, from the environment.
//!
//! `WEIR_CHAOS_REQUESTS` is the number of requests of all chaos tests together, `WEIR_CHAOS_SEED` chooses others than the
//! usual ones; the seed is printed with a failure.

use fastrand::Rng;
use std::env::{VarError, var};
use std::fmt::Display;

/// Requests without the variable: what a build machine does in some seconds.
const REQUESTS: u64 = 2000;
/// The seed without the variable. The same everywhere, so that a failure on one machine is one on the next.
const SEED: u64 = 0x77656972;

/// So many per cent of all requests.
pub fn requests(percent: u64) -> u64 {
    number("WEIR_CHAOS_REQUESTS", REQUESTS) * percent / 100
}

/// How often a process is killed: `WEIR_KILLS`, or else that many times.
pub fn kills(usual: u64) -> u64 {
    number("WEIR_KILLS", usual)
}

/// How many MiB pass each way where much passes: `WEIR_VOLUME_MIB`, or else that many.
pub fn volume_mib(usual: u64) -> u64 {
    number("WEIR_VOLUME_MIB", usual)
}

/// How often a certificate changes: `WEIR_ROTATIONS`, or else that many times.
pub fn rotations(usual: u64) -> u64 {
    number("WEIR_ROTATIONS", usual)
}

/// How often a process drains: `WEIR_DRAINS`, or else that many times.
pub fn drains(usual: u64) -> u64 {
    number("WEIR_DRAINS", usual)
}

/// Requests against each fault of an upstream: `WEIR_FAULT_REQUESTS`, or else that many.
pub fn fault_requests(usual: u64) -> u64 {
    number("WEIR_FAULT_REQUESTS", usual)
}

/// How many streams one client opens: `WEIR_STREAMS`, or else that many.
pub fn tiny_streams(usual: u64) -> u64 {
    number("WEIR_STREAMS", usual)
}

/// The seed of this run.
pub fn seed() -> u64 {
    number("WEIR_CHAOS_SEED", SEED)
}

/// Random numbers for one use of them.
pub fn rng(purpose: u64) -> Rng {
    Rng::with_seed(seed() ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[allow(clippy::disallowed_methods, reason = "these variables are for the tests alone")]
fn number(name: &str, usual: u64) -> u64 {
    match var(name) {
        Ok(text) => text.replace('_', "").parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no number")),
        Err(VarError::NotPresent) => usual,
        Err(problem) => panic!("{name}: {problem}"),
    }
}

/// Says where a test was when it panicked.
pub struct Telling<T: Display>(pub T);

impl<T: Display> Drop for Telling<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with WEIR_CHAOS_SEED={} at: {}", seed(), self.0);
        }
    }
}
