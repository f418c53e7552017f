//! Why a request has no answer, or no complete one, and how far its body had got. Everything on the way to an upstream
//! speaks of it in these words.

use crate::rollout::outcome::{End, ErrorKind};

/// Why there is no answer, or no complete one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client's side ended first; nobody's failure.
    ClientLeft,
    /// The client stopped sending its body; nobody's failure.
    ClientSlow,
    /// Its body is longer than allowed; nobody's failure but its own.
    BodyTooLong,
    /// weir has no descriptor, port or memory left for a connection; not the upstream's failure.
    Exhausted,
    /// The upstream has no healthy endpoint, or no known address at all.
    NoEndpoint,
    /// Every allowed connection to it is taken.
    Busy,
    /// The upstream failed.
    Failed(ErrorKind),
}

impl Fault {
    /// How the request ended, for the tally. No endpoint and no free connection are the upstream's failure to connect.
    pub const fn end(self) -> End {
        match self {
            Fault::ClientLeft | Fault::ClientSlow | Fault::BodyTooLong => End::ClientLeft,
            Fault::Exhausted => End::Complete,
            Fault::NoEndpoint | Fault::Busy => End::Failed(ErrorKind::Connect),
            Fault::Failed(kind) => End::Failed(kind),
        }
    }
}

/// How far a request's body has got.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Bytes taken from the client.
    pub taken: u64,
    /// Whether only the client can bring it forward.
    pub waits_for_client: bool,
}
