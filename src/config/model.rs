//! The validated config: what exists here is coherent, so that nobody after `load` has to ask again.
//!
//! Plain values without sockets; `compile` makes a `Snapshot` of it, `change` compares two of them.

use crate::rollout::Arm;
use crate::rollout::bucket::{Bucketer, Weight};
use crate::rollout::cohort::UserSet;
use crate::rollout::diff::Rules;
use crate::rollout::outcome::ErrorRules;
use crate::rollout::plan::Plan;
use crate::rollout::report::Kind;
use crate::snapshot::{AccessLog, Fallback, FixedAnswer, Limits, ListenerTls, Secret, Signal, UnitSource};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything a config says. Indices point into its own lists.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the state; absolute.
    pub state_dir: PathBuf,
    /// Number of worker threads; none is one per core.
    pub workers: Option<usize>,
    /// How long open requests may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// Peers whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Who may force an arm.
    pub force: ForceConfig,
    /// Which requests are logged, and where.
    pub access_log: AccessLogConfig,
    /// The data plane's limits.
    pub limits: Limits,
    /// Addresses that clients connect to; at least one.
    pub listeners: Vec<ListenerConfig>,
    /// The admin API, if there is one.
    pub admin: Option<AdminConfig>,
    /// Named sets of endpoints.
    pub upstreams: Vec<UpstreamConfig>,
    /// First match wins; at least one.
    pub routes: Vec<RouteConfig>,
    /// All rollouts.
    pub rollouts: Vec<RolloutConfig>,
    /// Named rates; their names differ.
    pub signals: Vec<Signal>,
    /// Values read from Prometheus servers; their names differ.
    pub queries: Vec<QueryConfig>,
    /// Who is told of what happens; their keys differ.
    pub notify: Vec<NotifyConfig>,
    /// Who is told of requests, if anybody.
    pub traces: Option<TracesConfig>,
    /// The config as a reader would write it: file and environment merged, paths absolute, secrets never contained.
    pub effective: serde_json::Value,
    /// SHA-256 of every file it was made from besides the config itself.
    pub digests: BTreeMap<PathBuf, [u8; 32]>,
}

/// Who may force an arm.
#[derive(Clone, Debug, Default)]
pub struct ForceConfig {
    /// Signs tokens; without it none is believed.
    pub secret: Option<Secret>,
    /// Peers that may name an arm unsigned.
    pub trusted: Vec<IpNet>,
}

/// The access log.
#[derive(Clone, Debug)]
pub struct AccessLogConfig {
    /// Which requests it keeps.
    pub keep: AccessLog,
    /// Where it goes.
    pub target: LogTarget,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to; absolute.
    File(PathBuf),
}

/// An address that clients connect to.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// The address as it is written: the `listener` label.
    pub label: Arc<str>,
    /// TLS with ALPN prepared, if it terminates TLS.
    pub tls: Option<Arc<ListenerTls>>,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Whether HTTP/1.1 is spoken.
    pub http1: bool,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// The path that answers with a unit's flags.
    pub flags_path: Option<Arc<str>>,
    /// The path that takes web vitals; never the same.
    pub vitals_path: Option<Arc<str>>,
}

/// The admin API.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// Where it listens.
    pub address: AdminAddress,
    /// The bearer token it asks for; always there unless the address is loopback or a unix socket.
    pub token: Option<Secret>,
    /// The bearer token with which one may look and not act; only where there is the other one.
    pub read_token: Option<Secret>,
}

/// Where the admin API listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket; absolute.
    Unix(PathBuf),
}

/// A named set of endpoints, all with TLS or all without.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Its endpoints; at least one.
    pub endpoints: Vec<EndpointConfig>,
    /// Whether requests go out as HTTP/2.
    pub http2: bool,
    /// TLS with ALPN prepared, if its endpoints are `https://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Time for TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time from the request being sent to the answer's head.
    pub response_timeout: Duration,
    /// How long a pooled connection may lie idle.
    pub idle_timeout: Duration,
    /// Open connections of one worker, at most.
    pub max_connections: usize,
    /// Active checks of its endpoints; without them every endpoint counts as healthy.
    pub health: Option<HealthConfig>,
}

/// Active checks of an upstream's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthConfig {
    /// What is asked.
    pub check: HealthCheck,
    /// Time between the starts of two checks.
    pub interval: Duration,
    /// Time for one check, connection included.
    pub timeout: Duration,
    /// Failed checks in a row until unhealthy; at least 1.
    pub unhealthy_after: u32,
    /// Passed checks in a row until healthy; at least 1.
    pub healthy_after: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// That a GET of this path is answered with 2xx.
    Path(PathAndQuery),
    /// That a connection opens, TLS included where the upstream speaks it.
    Tcp,
}

/// One endpoint of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointConfig {
    /// `host:port`, without a scheme.
    pub authority: Arc<str>,
    /// A name to be resolved, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Whether it is `https://`.
    pub tls: bool,
    /// The name that TLS asks for and checks, set if `tls`: `tls.sni`, else the host.
    pub server_name: Option<ServerName<'static>>,
}

/// A value read from a Prometheus server.
#[derive(Clone, Debug)]
pub struct QueryConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Who is asked.
    pub server: HttpServer,
    /// What is asked.
    pub expr: String,
    /// Time between two questions.
    pub interval: Duration,
    /// Time for an answer.
    pub timeout: Duration,
    /// Age from which a value is no data; never shorter than `interval`.
    pub max_age: Duration,
}

/// Who is told of what happens.
#[derive(Clone, Debug)]
pub struct NotifyConfig {
    /// What messages call it.
    pub name: Arc<str>,
    /// By what it is known over restarts: its name, or else what its kind and address come to. No secret.
    pub key: Arc<str>,
    /// In which form it is told.
    pub kind: NotifyKind,
    /// Where; the path is the whole one.
    pub server: HttpServer,
    /// Of what.
    pub events: Vec<Kind>,
    /// Of which rollouts; none is all of them.
    pub rollouts: Option<Vec<Arc<str>>>,
    /// Time for one try.
    pub timeout: Duration,
    /// Age from which an event is not tried again.
    pub max_age: Duration,
}

/// A collector of traces.
#[derive(Clone, Debug)]
pub struct TracesConfig {
    /// Where; the path is the whole one.
    pub server: HttpServer,
    /// Of how many requests, where their caller does not decide it.
    pub share: Weight,
    /// What weir is called there.
    pub service: String,
    /// Time for one try.
    pub timeout: Duration,
}

/// In which form somebody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyKind {
    /// A JSON object by POST.
    Webhook,
    /// A Slack webhook: text.
    Slack,
    /// An Alertmanager: alerts.
    Alertmanager,
}

impl NotifyKind {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            NotifyKind::Webhook => "webhook",
            NotifyKind::Slack => "slack",
            NotifyKind::Alertmanager => "alertmanager",
        }
    }
}

/// An HTTP server that weir itself asks. What may be secret in its URL is not shown.
#[derive(Clone, Debug)]
pub struct HttpServer {
    /// `host:port`; all that messages may show.
    pub authority: Arc<str>,
    /// A name to be resolved, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// TLS and the name it asks for, if the URL is `https://`.
    pub tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    /// The file of the authorities that are trusted; none are those of the system.
    pub ca: Option<Arc<[u8]>>,
    /// The path of the URL; of a Prometheus server without a slash at its end.
    pub path: Secret,
    /// The parameters of the URL, without the question mark.
    pub parameters: Secret,
    /// What goes into `authorization`: user and password of the URL, or a token.
    pub authorization: Option<Secret>,
}

impl HttpServer {
    /// Whether both are asked at the same place in the same way.
    pub fn is_same(&self, other: &HttpServer) -> bool {
        let secrets = |of: &HttpServer| {
            let authorization = of.authorization.as_ref().map(|secret| Arc::clone(&secret.0));
            (Arc::clone(&of.path.0), Arc::clone(&of.parameters.0), authorization)
        };
        let place = |of: &HttpServer| (Arc::clone(&of.authority), of.tls.is_some(), of.ca.clone());
        place(self) == place(other) && secrets(self) == secrets(other)
    }
}

/// One route.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// Its name; `default` for the one that is there without any configured.
    pub name: Arc<str>,
    /// Host in lower case; a leading `*.` stands for every name below.
    pub host: Option<Arc<str>>,
    /// Prefix of the path by whole segments, without a slash at its end.
    pub path_prefix: Option<Arc<str>>,
    /// Methods; empty means any.
    pub methods: Vec<Method>,
    /// Headers with exact values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Where requests go when no rollout says otherwise; an index into `upstreams`.
    pub upstream: Option<usize>,
    /// Rollouts that apply, in order: an index into `rollouts`, and whether it is the one that chooses the upstream.
    pub rollouts: Vec<(usize, bool)>,
    /// Whether a WebSocket may be opened there.
    pub websocket: bool,
    /// Longest request body, if it is not that of the limits; `u64::MAX` is no limit.
    pub body_bytes_max: Option<u64>,
    /// Whether its streams may be silent for as long as they like.
    pub streaming: bool,
}

/// One rollout.
#[derive(Clone, Debug)]
pub struct RolloutConfig {
    /// The part that the engine works on.
    pub plan: Plan,
    /// Who is asking; the first present and non-empty source wins. With `assign_cookie` that cookie is the last one.
    pub units: Vec<UnitSource>,
    /// The sources as they are written.
    pub unit_texts: Vec<String>,
    /// The cookie that a new unit id is minted for.
    pub assign_cookie: Option<Arc<str>>,
    /// Whether answers carry `x-weir-arm`.
    pub expose_arm: bool,
    /// The arm's own bucketing.
    pub bucketer: Bucketer,
    /// The rollout whose canary a unit must be on; an index into `rollouts`, never in a circle.
    pub requires: Option<usize>,
    /// The arms, by arm index.
    pub arms: [ArmConfig; 2],
    /// Its cohorts, in the order of the plan's.
    pub cohorts: Vec<CohortConfig>,
    /// Which outcomes count against an arm.
    pub errors: ErrorRules,
    /// Whether stable answers what fails on the canary; never where stable is a fixed answer.
    pub fallback: Fallback,
    /// Whether a request with `Idempotency-Key` counts as idempotent whatever its method.
    pub fallback_by_key: bool,
    /// The time within which its canary's long streams end when the canary has lost its share; none leaves them.
    pub close_streams: Option<Duration>,
    /// How the answers to copies are compared; none if they are not.
    pub diff: Option<DiffConfig>,
    /// What is mirrored to its canary; never where that is a fixed answer.
    pub shadow: Option<ShadowConfig>,
}

/// What of stable's requests is mirrored to the canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowConfig {
    /// Share of the units on stable; a stage may have another.
    pub share: Weight,
    /// The methods that are mirrored.
    pub methods: Vec<Method>,
    /// Bytes of a request's body up to which it is mirrored.
    pub max_body: u64,
    /// Copies under way in the process.
    pub max_in_flight: u32,
    /// Time for a copy.
    pub timeout: Duration,
    /// Bytes that all copies in the process may take.
    pub max_memory: u64,
    /// Of the headers that identify somebody, those that copies keep.
    pub keep_headers: Vec<HeaderName>,
}

impl RolloutConfig {
    /// Whether its arms choose the upstream or a fixed answer: then at most one such rollout may apply to a route.
    pub fn chooses(&self) -> bool {
        self.arms.iter().any(|arm| !matches!(arm.to, ArmTo::Route))
    }

    /// One of its arms.
    pub fn arm(&self, arm: Arm) -> &ArmConfig {
        let [stable, canary] = &self.arms;
        match arm {
            Arm::Stable => stable,
            Arm::Canary => canary,
        }
    }
}

/// How the answers to copies are compared.
#[derive(Clone, Debug)]
pub struct DiffConfig {
    /// What counts as equal.
    pub rules: Arc<Rules>,
    /// The units whose answers are compared, under a salt of their own.
    pub share: (Bucketer, Weight),
    /// Of those, the ones that stable answers twice, under another.
    pub noise: (Bucketer, Weight),
}

/// What an arm does with its requests.
#[derive(Clone, Debug)]
pub struct ArmConfig {
    /// Where they go.
    pub to: ArmTo,
    /// Headers set on the request to the upstream.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers removed from it.
    pub remove_headers: Vec<HeaderName>,
}

/// Where an arm's requests go.
#[derive(Clone, Debug)]
pub enum ArmTo {
    /// Where the route says.
    Route,
    /// An upstream, by index.
    Upstream(usize),
    /// A fixed answer.
    Respond(Arc<FixedAnswer>),
}

/// One cohort.
#[derive(Clone, Debug)]
pub struct CohortConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Its switch.
    pub enabled: bool,
    /// Whether its members are kept off the canary.
    pub exclude: bool,
    /// Its listed members.
    pub members: Members,
    /// Opt-in header: lower-case name and exact value.
    pub header: Option<(Arc<str>, Arc<str>)>,
    /// Opt-in cookie: name and exact value.
    pub cookie: Option<(Arc<str>, Arc<str>)>,
    /// Its own share of all units, under its own salt.
    pub share: Option<(Bucketer, Weight)>,
}

/// The listed members of a cohort, inline and in a file.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// The set.
    pub set: Arc<UserSet>,
    /// How many distinct ids it has.
    pub count: usize,
}

impl Config {
    /// The index of the rollout of that name.
    pub fn rollout(&self, name: &str) -> Option<usize> {
        self.rollouts.iter().position(|rollout| &*rollout.plan.name == name)
    }
}
