//! Upstreams and routes, as they are written.

use super::{CertificateFiles, Protocol};
use crate::config::decode::{Bytes, FilePath, Map, OrOff, Spot, section};
use std::time::Duration;

section! {
    /// A named set of endpoints; requests go to the one with the fewest in flight.
    Upstream {
        /// `HOST:PORT` or `https://HOST:PORT`, all of one kind.
        endpoints: [required] Vec<Spot<String>>,
        /// Protocol towards the endpoints.
        protocol: [optional] Protocol = "http/1.1",
        /// Time for the connection, TLS included. Default: `limits.connect_timeout`.
        connect_timeout: [optional] Duration,
        /// Time from the request being sent to the head of the answer. Default: `limits.response_timeout`.
        response_timeout: [optional] Duration,
        /// How long a connection may lie idle in the pool. Default: `limits.upstream_idle`.
        idle_timeout: [optional] Duration,
        /// Connections that one worker may hold open.
        max_connections: [optional] u32 = "1024",
        /// Active health checks; without them every endpoint counts as healthy.
        health: [optional] Health,
        /// TLS towards `https://` endpoints.
        tls: [optional] UpstreamTls,
    }
}

section! {
    /// Active health checks: give `path` or `tcp = true`. An endpoint is healthy until they say otherwise.
    Health {
        /// Path that answers 2xx when healthy; redirects are not followed.
        path: [optional] String,
        /// `true` checks only that a connection opens, TLS included.
        tcp: [optional] bool = "false",
        /// Time between checks, give or take a tenth.
        interval: [optional] Duration = "5s",
        /// Time for one check, connection included.
        timeout: [optional] Duration = "2s",
        /// Failed checks in a row until unhealthy.
        unhealthy_after: [optional] u32 = "3",
        /// Passed checks in a row until healthy.
        healthy_after: [optional] u32 = "2",
    }
}

section! {
    /// TLS towards an upstream.
    UpstreamTls {
        /// PEM file with the authorities that may sign its certificate. Default: those of the system.
        ca: [optional] FilePath,
        /// Name asked for and checked, if it is not the endpoint's host.
        sni: [optional] String,
        /// Certificate that weir shows.
        client_cert: [optional] CertificateFiles,
    }
}

section! {
    /// A route: what it matches and what applies there.
    Route {
        /// Its name, the `route` label. Default: `route-` and its position, from 1.
        name: [optional] String,
        /// What it matches; every part that is set must match. Default: everything.
        r#match: [optional] Match,
        /// Where requests go when no rollout says otherwise.
        upstream: [optional] String,
        /// Rollouts that apply, in order; at most one of them may choose the upstream.
        rollouts: [optional] Vec<Spot<String>> = "[]",
        /// `false` refuses websocket upgrades.
        websocket: [optional] bool = "true",
        /// Longest request body; a longer one is refused with 413. Default: `limits.max_body`.
        max_body: [optional] OrOff<Bytes>,
        /// `true` for long streams: their silence has no limit in either direction, be it `limits.stream_idle` or `limits.body_idle`.
        streaming: [optional] bool = "false",
    }
}

section! {
    /// What a route matches.
    Match {
        /// Host without port; `*.example.com` matches every name below.
        host: [optional] String,
        /// Prefix of the path by whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
        path_prefix: [optional] String,
        /// Methods.
        methods: [optional] Vec<Spot<String>> = "[]",
        /// Headers with their exact values.
        headers: [optional] Map<String> = "{}",
    }
}
