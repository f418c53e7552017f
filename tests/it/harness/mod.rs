//! What the tests stand on: scripted origins, clients, a running weir, and ways to wait for events.
//!
//! Nothing here knows what weir should do; that is said by the tests alone.

pub mod caller;
pub mod chance;
pub mod client;
pub mod config;
pub mod frames;
pub mod hook;
pub mod metrics;
pub mod oracle;
pub mod origin;
pub mod parts;
pub mod piped;
pub mod raw;
pub mod recorder;
pub mod relay;
pub mod reply;
pub mod seen;
pub mod streams;
pub mod tls;
pub mod wait;
pub mod websocket;
pub mod weir;
pub mod wire;

pub use client::Client;
pub use config::Config;
pub use hook::Hook;
pub use origin::Origin;
pub use raw::RawClient;
pub use relay::Relay;
pub use reply::{Answer, Gate, Reply, Step};
pub use wait::soon;
pub use weir::Weir;
