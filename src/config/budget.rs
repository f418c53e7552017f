//! How much memory weir takes if every limit is reached at once, worked out from the limits.
//!
//! It is a bound and no forecast: what is held in practice is far less. Printed by `weir check --limits` and at the start,
//! where it is compared with what the container may take.

use super::model::Config;
use super::units::print_size;
use crate::snapshot::UPSTREAM_WINDOW_BYTES;
use std::fmt;
use std::num::NonZero;
use std::thread::available_parallelism;

/// The parts of it, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// What connections of clients hold between requests and while a head comes.
    pub connections: u64,
    /// What requests under way hold.
    pub requests: u64,
    /// What small pieces of bodies cost beside their bytes, sent ahead over HTTP/2: by clients, and by upstreams over one
    /// connection a worker.
    pub pieces: u64,
    /// Copies of requests that are mirrored.
    pub copies: u64,
    /// Everything else.
    pub base: u64,
}

impl Budget {
    /// What the limits of a config allow.
    pub fn of(config: &Config) -> Budget {
        let limits = &config.limits;
        let wide = |bytes: usize| bytes as u64;
        // A connection has a buffer either way; a head that comes in pieces is kept beside them until it is whole. One of
        // HTTP/2 has a frame either way, both tables of fields and its streams instead.
        let h1 = 2 * wide(limits.h1_buffer) + wide(limits.max_header_bytes);
        let h2 = H2_BYTES + u64::from(limits.max_h2_header_bytes) + u64::from(limits.h2_streams) * STREAM_BYTES;
        let connection = h1.max(h2) + TASK_BYTES + TLS_BYTES;
        // A request has both heads, what its client and its upstream may send ahead, what waits for either of them, and the
        // copy of a short body that lets stable answer in the canary's place.
        let request = wide(limits.max_header_bytes)
            + wide(limits.max_upstream_header_bytes)
            + u64::from(limits.h2_stream_window)
            + u64::from(limits.h2_stream_window).max(READ_BYTES)
            + 2 * wide(limits.h2_send_buffer)
            + FALLBACK_BODY_BYTES
            + TASK_BYTES;
        // What is sent ahead in small pieces costs more than its bytes: so much on each connection with a request.
        let pieces = u64::from(limits.h2_connection_window) / 2;
        let with_request = limits.max_connections.min(limits.max_in_flight);
        let upstreams = config.upstreams.iter().filter(|upstream| upstream.http2).count() as u64;
        let workers = config.workers.unwrap_or_else(|| available_parallelism().map_or(1, NonZero::get)) as u64;
        let upstream_window = u64::from(limits.h2_connection_window.max(UPSTREAM_WINDOW_BYTES));
        let shadows = config.rollouts.iter().filter_map(|rollout| rollout.shadow.as_ref());
        Budget {
            connections: u64::from(limits.max_connections).saturating_mul(connection),
            requests: u64::from(limits.max_in_flight).saturating_mul(request),
            pieces: u64::from(with_request)
                .saturating_mul(pieces)
                .saturating_add(upstreams.saturating_mul(workers).saturating_mul(upstream_window / 2)),
            copies: shadows.map(|shadow| shadow.max_memory).max().unwrap_or(0),
            base: BASE_BYTES,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        let parts = [self.connections, self.requests, self.pieces, self.copies, self.base];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// One line: the sum and its parts.
impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| print_size(bytes.div_ceil(MIB).saturating_mul(MIB));
        write!(
            f,
            "at most {} of memory if every limit is reached at once: {} for connections, {} for requests under way, {} for \
             small pieces of their bodies, {} for copies, {} for all else",
            size(self.total()),
            size(self.connections),
            size(self.requests),
            size(self.pieces),
            size(self.copies),
            size(self.base)
        )
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// The state of a task: measured at about 5 KiB for a request, rounded up.
const TASK_BYTES: u64 = 8 * KIB;
/// What HTTP/2 reads and writes at once, a frame of 16 KiB either way and the buffers around it, and both tables of fields.
const H2_BYTES: u64 = 72 * KIB;
/// The state of a stream.
const STREAM_BYTES: u64 = KIB;
/// Records of a TLS connection that are not read or not written yet, one of 16 KiB either way.
const TLS_BYTES: u64 = 36 * KIB;
/// What is read of an answer's body at once.
const READ_BYTES: u64 = 64 * KIB;
/// What is kept of a request's body so that stable can answer in the canary's place; `proxy::replay` keeps no more.
const FALLBACK_BODY_BYTES: u64 = 64 * KIB;
/// Counters, histograms, history, state, answers that are compared, the code itself.
const BASE_BYTES: u64 = 128 * MIB;

#[cfg(test)]
mod tests {
    use super::super::{Format, UserFiles, load_text};
    use super::*;
    use std::path::Path;

    fn budget(limits: &str) -> Budget {
        let text = format!(
            "[limits]\nmax_connections = 100\nmax_in_flight = 50\n{limits}\n[[listeners]]\naddress = \"127.0.0.1:1\"\n\
             [[routes]]\nname = \"all\"\nupstream = \"a\"\n[upstreams.a]\nendpoints = [\"127.0.0.1:2\"]\n"
        );
        let loaded = load_text("weir.toml", &text, Format::Toml, Path::new("."), &[], &mut UserFiles::default());
        Budget::of(&loaded.unwrap().config)
    }

    #[test]
    fn every_limit_that_holds_memory_is_in_it() {
        let usual = budget("");
        assert_eq!(usual.connections, 100 * (72 + 16 + 100 + 36 + 8) * KIB);
        assert_eq!(usual.requests, 50 * (32 + 64 + 64 + 64 + 2 * 64 + 64 + 8) * KIB);
        assert_eq!(usual.pieces, 50 * 1024 * KIB);
        for more in [
            "h1_buffer = \"128KiB\"",
            "h2_streams = 200",
            "h2_connection_window = \"4MiB\"",
            "max_header_bytes = \"60KiB\"",
            "h2_stream_window = \"1MiB\"",
            "h2_send_buffer = \"1MiB\"",
            "max_upstream_header_bytes = \"1MiB\"",
        ] {
            assert!(budget(more).total() > usual.total(), "{more}");
        }
        let said = usual.to_string();
        assert!(said.starts_with("at most 222MiB of memory"), "{said}");
    }
}
