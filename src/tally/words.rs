//! The words of the metrics that say why weir refused, turned away or cut; the data plane's enums stand in their order.

/// Every way in which weir refuses a request, in the order of `WorkerCounts::refused`: words of log and metric.
pub const REFUSALS: [&str; 22] = [
    "bad_host",
    "bad_framing",
    "method",
    "uri_too_long",
    "no_route",
    "no_endpoint",
    "upstream_busy",
    "connect",
    "tls",
    "timeout",
    "reset",
    "protocol",
    "client_left",
    "client_slow",
    "websocket",
    "overloaded",
    "body_too_long",
    "bad_request",
    "head_too_long",
    "coding",
    "version",
    "websocket_http2",
];

/// Why a client's connection is closed unserved, in the order of `ListenerCounts::refused`: words of the metric.
pub const CONNECTIONS_REFUSED: [&str; 4] =
    ["max_connections", "max_connections_per_ip", "max_handshakes", "descriptors"];

/// Limits by which a client's connection is cut, in the order of `ListenerCounts::cut`: words of the metric.
pub const CONNECTIONS_CUT: [&str; 7] = [
    "tls_handshake_timeout",
    "first_byte_timeout",
    "header_timeout",
    "write_stall",
    "h2_resets",
    "h2_control_frames",
    "h2_flood",
];
