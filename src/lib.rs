//! weir stands in front of a service and carries out a rollout: it divides requests between `stable` (the legacy
//! upstream) and `canary` (the new one), measures both arms on the request path, and moves the split while it runs.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | unit | what is bucketed: a user id, a session id, an address |
//! | bucket | the unit's fixed position, 0 to 999,999 parts per million, from salt and unit |
//! | weight | share of units on the canary; parts per million inside |
//! | rollout | one controlled change: unit, salt, two arms |
//! | arm | `stable` or `canary` |
//! | upstream | a named set of endpoints |
//! | cohort | a named set of units with its own switch |
//! | kill | an operator's switch, wins over everything |
//! | outcome | the classified end of a request |
//! | decision | arm and reason |
//!
//! # Rooms, in reading order
//!
//! [`clock`] (the only reader of time) · [`rollout`] (what weir knows, as plain code) · [`snapshot`], [`tally`],
//! [`latch`], [`pairs`], [`spans`], [`allowance`] (what the planes share: down, up, at once, answers to be compared, requests to be
//! traced; what workers share:
//! limits) · [`config`] (text to snapshot) · [`proxy`] (the data plane;
//! its `request` is the straight line of every request) · [`control`] (the one loop that moves rollouts) · [`admin`]
//! (probes, metrics, API) · [`rehearsal`] (plans on a virtual clock) · [`cli`] (the commands; `serve` wires the rooms). An import only goes towards the front of
//! this list; ARCHITECTURE.md draws it and `tests/tidy.rs` checks it.
#![forbid(unsafe_code)]

pub mod admin;
pub mod allowance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod latch;
pub mod pairs;
pub mod proxy;
pub mod rehearsal;
pub mod rollout;
pub mod snapshot;
pub mod spans;
pub mod tally;
