//! Whole weir against real sockets: scripted origins in this process, port 0, events instead of pauses.
//!
//! Each module makes the claims of one subject; each test is one claim.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails its test by panicking, with the reason in words"
)]

mod harness;

mod admin;
mod counts;
mod crossing;
mod fallback;
mod headers;
mod lifecycle;
mod process;
mod protocols;
mod reasons;
mod refusals;
mod reload;
mod stalls;
mod sticky;
mod upstreams;
