//! Whole weir against real sockets: scripted origins in this process, port 0, events instead of pauses.
//!
//! Each module makes the claims of one subject; each test is one claim.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails its test by panicking, with the reason in words"
)]

mod harness;

mod abuse;
mod access;
mod admin;
mod breaker;
mod chaos;
mod chaos_breaker;
mod chaos_cases;
mod chaos_relay;
mod chaos_storm;
mod commands;
mod counts;
mod crossing;
mod dashboards;
mod diff;
mod diff_cases;
mod drains;
mod edge;
mod fallback;
mod faults;
mod floods;
mod framing;
mod framing_cases;
mod framing_h2;
mod headers;
mod health;
mod history;
mod kills;
mod lasting;
mod lifecycle;
mod limits;
mod listeners;
mod notify;
mod overload;
mod plans;
mod process;
mod protocols;
mod queries;
mod reasons;
mod refusals;
mod reload;
mod report;
mod scale;
mod shadow;
mod shadow_moments;
mod signals;
mod stalls;
mod sticky;
mod stream;
mod traces;
mod upstreams;
mod vitals;
mod volume;
mod websocket;
mod websocket_h2;
