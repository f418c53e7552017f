//! `[limits]`, as it is written. Defaults stand here and nowhere else; `limits` reads them from this table.

use crate::config::decode::{Bytes, OrOff, section};
use std::time::Duration;

section! {
    /// Limits of connections, times and sizes.
    Limits {
        /// TLS handshake of a client.
        tls_handshake_timeout: [optional] Duration = "5s",
        /// From accepting a connection to its first byte.
        first_byte_timeout: [optional] Duration = "10s",
        /// From the first byte of a request's head to its end.
        header_timeout: [optional] Duration = "10s",
        /// HTTP/1 connection without a request.
        keep_alive_idle: [optional] Duration = "60s",
        /// HTTP/2 connection without a stream.
        h2_idle: [optional] Duration = "5m",
        /// Request body of which the client sends no byte.
        body_idle: [optional] Duration = "15s",
        /// Bytes per second that a request body must reach after its first 5 seconds, while the client is waited for.
        body_min_rate: [optional] Bytes = "240B",
        /// Answer of which the client takes no byte.
        write_stall: [optional] Duration = "30s",
        /// Answer of which the upstream sends no byte; WebSocket in which nobody does.
        stream_idle: [optional] OrOff<Duration> = "5m",
        /// Connection to an upstream, TLS included.
        connect_timeout: [optional] Duration = "2s",
        /// From a request being sent to the head of its answer.
        response_timeout: [optional] Duration = "15s",
        /// Age, give or take a tenth, at which a client's connection is asked to close.
        connection_max_age: [optional] OrOff<Duration> = "off",
        /// Age at which a pooled upstream connection is not used again.
        upstream_max_lifetime: [optional] Duration = "5m",
        /// How long an upstream connection may lie idle in the pool.
        upstream_idle: [optional] Duration = "30s",
        /// Requests on one client connection, which is then asked to close.
        requests_per_connection: [optional] u32 = "10000",
        /// Client connections of the process; by default no more than 40 % of the descriptors that it may open.
        max_connections: [optional] u32 = "10000",
        /// Client connections of one address, or of one IPv6 network; trusted proxies have no such limit.
        max_connections_per_ip: [optional] OrOff<u32> = "256",
        /// TLS handshakes under way in the process; further ones wait for their turn.
        max_handshakes: [optional] u32 = "256",
        /// Requests under way in the process; further ones are refused with 503.
        max_in_flight: [optional] u32 = "10000",
        /// Requests under way on one arm of a rollout; further ones are refused with 503.
        max_in_flight_per_arm: [optional] u32 = "1024",
        /// Header fields of a request, cookie crumbs included.
        max_headers: [optional] u32 = "100",
        /// Head of an HTTP/1 request; `h1_buffer` must be larger.
        max_header_bytes: [optional] Bytes = "32KiB",
        /// Head of an HTTP/2 request.
        max_h2_header_bytes: [optional] Bytes = "16KiB",
        /// Target of a request.
        max_uri_bytes: [optional] Bytes = "8KiB",
        /// Head of an upstream's answer.
        max_upstream_header_bytes: [optional] Bytes = "64KiB",
        /// Read buffer of an HTTP/1 connection.
        h1_buffer: [optional] Bytes = "64KiB",
        /// Concurrent streams of an HTTP/2 connection.
        h2_streams: [optional] u32 = "100",
        /// Flow-control window of a stream.
        h2_stream_window: [optional] Bytes = "64KiB",
        /// Flow-control window of a client's HTTP/2 connection. Half of it is also what pieces of bodies may cost, 256 bytes each,
        /// that are smaller than that and not taken by an upstream yet; a client beyond that is cut.
        h2_connection_window: [optional] Bytes = "2MiB",
        /// Bytes queued for a stream.
        h2_send_buffer: [optional] Bytes = "64KiB",
        /// Requests of one connection that a client may take back before they are answered; beyond that the connection is cut,
        /// once they are half of all.
        h2_resets: [optional] u32 = "100",
        /// Streams reset by weir for the client's errors.
        h2_local_resets: [optional] u32 = "128",
        /// Frames without payload, such as pings and settings, that a client may send in 10 seconds, besides four for each request
        /// and one for each KiB that moves; beyond that the connection is cut.
        h2_control_frames: [optional] u32 = "1000",
        /// Silence after which an HTTP/2 connection is asked for a sign of life.
        h2_ping: [optional] Duration = "30s",
        /// Time for that sign.
        h2_ping_timeout: [optional] Duration = "10s",
        /// Longest request body; a longer one is refused with 413.
        max_body: [optional] OrOff<Bytes> = "off",
    }
}
