//! The file's mirror: every key of the contract with its type and meaning, one table per section. Nothing here is checked
//! beyond types and units; `validate` turns it into a `Config`, and none of it leaves `config`.

mod breaker;
mod limits;
mod notify;
mod rollout;
mod shadow;
mod sources;
mod stages;
mod traffic;

pub use breaker::*;
pub use limits::*;
pub use notify::*;
pub use rollout::*;
pub use shadow::*;
pub use sources::*;
pub use stages::*;
pub use traffic::*;

use super::decode::{FilePath, Map, Output, SecretText, Socket, Spot, section, words};
use crate::rollout::bucket::Weight;
use std::time::Duration;

section! {
    /// The config of weir: what it listens on, where requests go, and which rollouts divide them.
    Root {
        /// Folder of the state (SQLite): weights and switches set at run time, and the audit trail. Created if absent.
        state_dir: [optional] FilePath = "weir-state",
        /// Peers (addresses or networks) whose `x-forwarded-*`, `forwarded`, `x-real-ip` and `x-weir-*` headers are believed.
        trusted_proxies: [optional] Vec<Spot<String>> = "[]",
        /// How long open requests may take to finish after SIGTERM.
        drain_timeout: [optional] Duration = "30s",
        /// Number of worker threads. Default: one per core.
        workers: [optional] u32,
        /// Limits of connections, times and sizes. Every one has a default; `weir check --limits` prints them.
        limits: [optional] Limits,
        /// Who may force an arm.
        force: [optional] Force,
        /// The switch that sends everything to stable.
        kill: [optional] Kill,
        /// Which requests are logged, and where.
        access_log: [optional] AccessLog,
        /// Addresses that clients connect to.
        listeners: [required] Vec<Spot<Listener>>,
        /// The admin API. Without this section there is none.
        admin: [optional] Admin,
        /// Named sets of endpoints.
        upstreams: [optional] Map<Upstream> = "{}",
        /// Which requests go where; the first match wins. Without routes everything goes to the only rollout.
        routes: [optional] Vec<Spot<Route>> = "[]",
        /// Controlled changes, each with two arms.
        rollouts: [optional] Map<Rollout> = "{}",
        /// Named rates taken from responses.
        signals: [optional] Map<Signal> = "{}",
        /// Values read from a Prometheus server.
        queries: [optional] Map<Query> = "{}",
        /// Who is told of what happens.
        notify: [optional] Vec<Spot<Notify>> = "[]",
        /// A collector that is told of requests as OpenTelemetry spans. Without this section nobody is.
        traces: [optional] Traces,
    }
}

section! {
    /// Who may force an arm.
    Force {
        /// File with the secret that signs forced-arm tokens, at least 128 bits.
        secret_file: [optional] FilePath,
        /// The secret itself; only as the environment variable `WEIR__FORCE__SECRET`.
        secret: [optional] SecretText,
        /// Peers (addresses or networks) that may name an arm without a token.
        trusted: [optional] Vec<Spot<String>> = "[]",
    }
}

section! {
    /// The switch that sends everything to stable.
    Kill {
        /// `true` kills every rollout.
        all: [optional] bool = "false",
    }
}

section! {
    /// Which requests are logged, and where: one JSON object a line.
    AccessLog {
        /// `off`, `sampled` (requests that failed, and a share of the others) or `full`.
        mode: [optional] AccessLogMode = "off",
        /// Share of the requests that ended well that are logged with `mode = "sampled"`; those that failed are in any case.
        share: [optional] Weight = "1%",
        /// `stdout`, `stderr` or a file, which is appended to.
        path: [optional] Output = "stdout",
    }
}

words! {
    /// Which requests the access log keeps.
    AccessLogMode {
        /// None.
        Off = "off",
        /// Those that failed, and a share of the others.
        Sampled = "sampled",
        /// All.
        Full = "full",
    }
}

section! {
    /// An address that clients connect to.
    Listener {
        /// Address and port, e.g. `0.0.0.0:8080` or `[::]:8443`.
        address: [required] String,
        /// Certificate and key; with them the listener speaks TLS. Read again when the files change.
        tls: [optional] ListenerTls,
        /// `true`: every connection begins with a PROXY protocol header (version 1 or 2) that names the client. Only behind a
        /// load balancer that sends it: whoever can connect may name any address.
        proxy_protocol: [optional] bool = "false",
        /// Protocols spoken, chosen by ALPN, or without TLS by the first bytes.
        protocols: [optional] Vec<Spot<Protocol>> = "[\"h2\", \"http/1.1\"]",
        /// Path that answers `?unit=U` with the arms of that unit. Off unless set.
        flags_path: [optional] String,
        /// Path that takes web vitals from browsers by POST. Off unless set.
        vitals_path: [optional] String,
    }
}

section! {
    /// TLS of a listener.
    ListenerTls {
        /// PEM file with the certificate chain, the leaf first.
        cert: [required] FilePath,
        /// PEM file with the private key.
        key: [required] FilePath,
        /// Further certificates. A client that names a host (SNI) gets the first of all that is valid for it, else `cert`.
        certs: [optional] Vec<Spot<CertificateFiles>> = "[]",
        /// PEM file with the authorities whose certificates clients must show. Without it they are asked for none.
        client_ca: [optional] FilePath,
        /// What becomes of clients that show no certificate.
        client_auth: [optional] ClientAuth = "required",
    }
}

words! {
    /// Whether a client must show a certificate.
    ClientAuth {
        /// Its handshake fails without one.
        Required = "required",
        /// It may come without one; one that it shows must be valid.
        Optional = "optional",
    }
}

section! {
    /// A certificate and its key.
    CertificateFiles {
        /// PEM file with the certificate chain, the leaf first.
        cert: [required] FilePath,
        /// PEM file with the private key.
        key: [required] FilePath,
    }
}

words! {
    /// An HTTP version as ALPN names it.
    Protocol {
        /// HTTP/2.
        H2 = "h2",
        /// HTTP/1.1.
        Http1 = "http/1.1",
    }
}

section! {
    /// The admin API.
    Admin {
        /// A loopback address with port, or `unix:PATH`. Any other address needs a token.
        address: [optional] Socket = "127.0.0.1:9900",
        /// File with the bearer token, at least 128 bits.
        token_file: [optional] FilePath,
        /// The token itself; only as the environment variable `WEIR__ADMIN__TOKEN`.
        token: [optional] SecretText,
        /// File with another token: whoever has it may look and not act. Goes with `token_file`.
        read_token_file: [optional] FilePath,
        /// That token itself; only as the environment variable `WEIR__ADMIN__READ_TOKEN`.
        read_token: [optional] SecretText,
    }
}
