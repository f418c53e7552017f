//! The admin server: probes, metrics, the JSON API that operators and the command line use, and a page to look at.
//!
//! A thin door. Questions about numbers and every change go to `control::Handle`; `explain` and `/flags` ask the
//! published snapshot through the data plane's own function. It holds no state and decides nothing. The composition
//! root opens a `Listener` and runs `serve` on the control side's runtime.

mod api;
mod auth;
pub mod baseline;
mod body;
mod chart;
mod failure;
mod figures;
pub mod health;
pub mod history;
mod listen;
mod page;
mod patience;
pub mod question;
mod report;
mod server;
mod signal;
mod steer;
mod stream;
#[cfg(test)]
mod tests;
pub mod view;

pub use api::router;
pub use auth::Auth;
pub use listen::{ListenError, Listener, SocketFile};
pub use server::serve;
pub use stream::Feed;
