//! The decision, from outside: published vectors, vendors' SDKs, statistics, and the order of reasons.

// All of it is test code; helpers outside `#[test]` functions say `expect` too.
#![allow(clippy::expect_used)]

mod precedence;
mod statistics;
mod vectors;

use weir::rollout::bucket::{Bucketer, Scheme};

/// A bucketer of every scheme under that salt, which is the flag's key too.
fn every_scheme(salt: &str) -> impl Iterator<Item = Bucketer> {
    Scheme::NAMES.into_iter().map(move |name| {
        let scheme = Scheme::from_name(name, Some(*b"0123456789abcdef")).expect("a listed name");
        Bucketer { scheme, key: salt.into(), ..Bucketer::native(salt) }
    })
}

/// A weight by its parts per million.
fn ppm(ppm: u32) -> weir::rollout::bucket::Weight {
    weir::rollout::bucket::Weight::from_ppm(ppm).expect("at most a million")
}
