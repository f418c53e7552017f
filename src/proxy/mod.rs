//! The data plane: one thread = one runtime. It takes no lock and waits for nothing but sockets.
//!
//! `worker` accepts, `conn` parses, `request` is the straight line that every request follows; everything else here is
//! a leaf that the line calls. The data plane never writes to the control plane's rooms: it reads a `Snapshot`, writes
//! its own `Tally` cells and reads latches.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod access;
mod admission;
mod alarm;
mod asked;
mod attempt;
mod backoff;
mod body;
mod budget;
mod chunked;
mod compare;
mod conn;
mod courier;
mod ejection;
mod ending;
mod fallback;
mod fault;
mod flags;
mod forward;
mod framing;
pub mod fuzzing;
mod h1;
mod h2;
mod head;
mod headers;
mod introduced;
mod lasting;
mod link;
mod local;
mod misread;
mod observe;
mod paced;
mod pool;
mod present;
mod pulse;
mod refusal;
mod replay;
mod replica;
mod request;
mod route;
mod shadow;
mod shared;
mod signals;
mod streams;
mod strict;
mod tee;
mod ticket;
mod trace;
mod tunnel;
mod unit;
mod upload;
mod vigil;
mod vitals;
mod watch;
mod websocket;
pub mod worker;
