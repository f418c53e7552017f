//! What the tests stand on: scripted origins, clients, a running weir, and ways to wait for events.
//!
//! Nothing here knows what weir should do; that is said by the tests alone.

pub mod client;
pub mod config;
pub mod frames;
pub mod metrics;
pub mod origin;
pub mod piped;
pub mod raw;
pub mod reply;
pub mod tls;
pub mod wait;
pub mod weir;
pub mod wire;

pub use client::Client;
pub use config::Config;
pub use origin::Origin;
pub use raw::RawClient;
pub use reply::{Answer, Gate, Reply, Step};
pub use wait::soon;
pub use weir::Weir;
