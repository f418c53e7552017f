//! The snapshot: everything the data plane knows, compiled, immutable, swapped whole.
//!
//! The control plane publishes a new one for every change; a worker keeps its `Arc` and looks again only when the
//! generation number moved. A request keeps the snapshot it started under to its end.

mod handshake;
mod kept;
mod lookup;

pub use handshake::ListenerTls;
pub use kept::AccessLog;
pub use lookup::Lookup;

use crate::allowance::{Addresses, Allowance, Copies};
use crate::latch::{Guard, Latch};
use crate::pairs::Pairs;
use crate::rollout::assign::Split;
use crate::rollout::bucket::{Bucketer, Weight};
use crate::rollout::diff::Rules;
use crate::rollout::outcome::ErrorRules;
use crate::spans::Traces;
use crate::tally::{
    Cell, Decisions, Fallbacks, ListenerCounts, LostPairs, Mirrored, PerWorker, Series, Units, Vitals, WorkerCounts,
};
use arrayvec::ArrayVec;
use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How many rollouts one route may carry.
pub const ROLLOUTS_PER_ROUTE_MAX: usize = 8;

/// Everything the data plane knows. Indices into its lists are dense and valid within the same snapshot only.
#[derive(Debug)]
pub struct Snapshot {
    /// Goes up by one with every publication; the first is 1.
    pub generation: u64,
    /// In config order; the data plane holds the sockets under the same index.
    pub listeners: Vec<Listener>,
    /// First match wins. With no routes configured: one that matches everything.
    pub routes: Vec<Route>,
    /// The same by what they match; none if there are few.
    pub lookup: Option<Lookup>,
    /// What a decision needs of each rollout.
    pub splits: Vec<Split>,
    /// What the request path needs besides; same order and length as `splits`.
    pub rollouts: Vec<Rollout>,
    /// What is counted of answers besides; at most `SIGNALS_MAX`.
    pub signals: Vec<Signal>,
    /// All upstreams.
    pub upstreams: Vec<Upstream>,
    /// Peers whose `x-forwarded-*`, `forwarded`, `x-real-ip` and `x-weir-*` are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Request fields by which weir decides: those of units, cohorts and routes.
    pub decisive: HashSet<HeaderName>,
    /// Request fields that arms set or remove.
    pub ruled: HashSet<HeaderName>,
    /// Who may force an arm.
    pub force: Force,
    /// The tokens of the admin address: of who may act, and of who may only look.
    pub tokens: [Option<Secret>; 2],
    /// The limits of the data plane; every connection keeps those that it began under.
    pub limits: Arc<Limits>,
    /// Which requests the access log keeps.
    pub access_log: AccessLog,
    /// The workers' own counts.
    pub counts: Arc<PerWorker<WorkerCounts>>,
    /// Requests under way in the process.
    pub in_flight: Arc<Allowance>,
    /// Client connections of the process.
    pub connections: Arc<Allowance>,
    /// Client connections by address.
    pub addresses: Arc<Addresses>,
    /// What copies of requests take.
    pub copies: Arc<Copies>,
    /// Of which requests a collector of traces is told, if there is one.
    pub traces: Option<Traces>,
}

impl Snapshot {
    /// Whether the forwarding headers of that peer are believed.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&peer))
    }

    /// Whether the canary of a rollout has somewhere to go, or stable has not either because both lead to the same
    /// upstream: that is nobody's fault. Where the route says, or what is a fixed answer, is always somewhere.
    #[inline]
    pub fn canary_is_healthy(&self, rollout: &Rollout) -> bool {
        let [stable, canary] = &rollout.arms;
        match (&stable.to, &canary.to) {
            (ArmTarget::Upstream(stable), ArmTarget::Upstream(canary)) if stable == canary => true,
            (_, ArmTarget::Upstream(canary)) => self.upstreams.get(*canary).is_some_and(Upstream::is_healthy),
            (_, ArmTarget::Respond(_) | ArmTarget::Route) => true,
        }
    }

    /// Whether the upstream of that name has a healthy endpoint; one that is not there has none.
    pub fn is_healthy(&self, upstream: &str) -> bool {
        self.upstreams.iter().any(|present| *present.name == *upstream && present.is_healthy())
    }
}

/// What of a listener may change while it listens.
#[derive(Debug)]
pub struct Listener {
    /// Its address as configured: the `listener` label.
    pub address: Arc<str>,
    /// Set if it terminates TLS; ALPN is prepared in it.
    pub tls: Option<Arc<ListenerTls>>,
    /// Whether connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Whether HTTP/1.1 is spoken.
    pub http1: bool,
    /// Whether HTTP/2 is spoken (by ALPN, or by prior knowledge without TLS).
    pub http2: bool,
    /// The path that answers with a unit's flags, if any.
    pub flags_path: Option<Arc<str>>,
    /// The path that takes web vitals, if any.
    pub vitals_path: Option<Arc<str>>,
    /// Open client connections.
    pub connections: Arc<PerWorker<Cell>>,
    /// Connections that were refused or cut.
    pub counts: Arc<PerWorker<ListenerCounts>>,
}

/// One route: what it matches and what applies there.
#[derive(Debug)]
pub struct Route {
    /// Its name; `default` for the one that is there without any configured.
    pub name: Arc<str>,
    /// What it matches.
    pub matches: Match,
    /// Where requests go when no rollout chooses an upstream; an index into `upstreams`.
    pub upstream: Option<usize>,
    /// The rollouts that apply, in order.
    pub rollouts: ArrayVec<RouteRollout, ROLLOUTS_PER_ROUTE_MAX>,
    /// Counts of requests if no rollout applies.
    pub plain: Arc<PerWorker<Series>>,
    /// Whether a WebSocket may be opened here.
    pub websocket: bool,
    /// Longest request body; `u64::MAX` is no limit.
    pub body_bytes_max: u64,
    /// How long its streams may be silent.
    pub patience: Patience,
    /// Whether any of its rollouts mirrors at present.
    pub mirrors: bool,
}

/// How long the two directions of an exchange may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Request body of which the client sends no byte.
    pub body_idle: Duration,
    /// Bytes per second that a request body must reach.
    pub body_min_rate: u64,
    /// Answer of which the upstream sends no byte; `Duration::MAX` is no limit.
    pub stream_idle: Duration,
}

impl Patience {
    /// Without limits, for streams in which silence is usual.
    pub const ENDLESS: Patience = Patience { body_idle: Duration::MAX, body_min_rate: 0, stream_idle: Duration::MAX };

    /// What the limits say.
    pub fn of(limits: &Limits) -> Self {
        let Limits { body_idle, body_min_rate, stream_idle, .. } = *limits;
        Patience { body_idle, body_min_rate, stream_idle }
    }
}

/// One rollout on one route.
#[derive(Debug)]
pub struct RouteRollout {
    /// Index into `splits` and `rollouts`.
    pub rollout: usize,
    /// Whether this is the one whose arms choose the upstream or the fixed answer.
    pub chooses: bool,
    /// Counts of its requests here, by arm index.
    pub series: [Arc<PerWorker<Series>>; 2],
}

/// What a route matches; every part that is set must match.
#[derive(Debug, Default)]
pub struct Match {
    /// Host, lower case, without port; `*.example.com` matches every name below.
    pub host: Option<HostPattern>,
    /// Path prefix by whole segments: `/api` matches `/api` and `/api/x`, not `/apix`.
    pub path_prefix: Option<Arc<str>>,
    /// Methods; empty means any.
    pub methods: Vec<Method>,
    /// Headers with exact values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// How a route matches the request's host.
#[derive(Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This name alone.
    Exact(Arc<str>),
    /// Every name that ends with this text, which starts with a dot.
    Suffix(Arc<str>),
}

/// How many signals there may be: one bit each while a request is under way.
pub const SIGNALS_MAX: usize = 64;

/// A named rate that criteria read.
#[derive(Clone, Debug)]
pub struct Signal {
    /// Its name.
    pub name: Arc<str>,
    /// Which answers count; none if only posted events do.
    pub when: Option<SignalMatch>,
}

/// Which answers a signal counts; every part that is set must match, and at least one is set.
#[derive(Clone, Debug, Default)]
pub struct SignalMatch {
    /// Headers with exact values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Inclusive ranges of the status that the client gets; empty means any.
    pub statuses: Vec<(u16, u16)>,
    /// gRPC statuses; empty means any, and none.
    pub grpc_statuses: Vec<u8>,
    /// The route, as an index.
    pub route: Option<usize>,
}

/// What the request path needs to know of a rollout besides its `Split`.
#[derive(Debug)]
pub struct Rollout {
    /// Who is asking; the first present and non-empty source wins. With `assign_cookie` that cookie is the last one.
    pub units: Vec<UnitSource>,
    /// The cookie a new unit id is minted for, if any.
    pub assign_cookie: Option<Arc<str>>,
    /// Whether answers carry `x-weir-arm`.
    pub expose_arm: bool,
    /// The arms, by arm index.
    pub arms: [ArmRoute; 2],
    /// Which outcomes count against an arm.
    pub errors: ErrorRules,
    /// The switches that act at once.
    pub latch: Arc<Latch>,
    /// Name of the present stage, for `x-weir-rollout` and the access log.
    pub stage: Option<Arc<str>>,
    /// Counts of its decisions.
    pub decisions: Arc<PerWorker<Decisions>>,
    /// Counts by cohort index, then arm index.
    pub cohort_series: Vec<[Arc<PerWorker<Series>>; 2]>,
    /// Counts of forced requests by arm index.
    pub forced_series: [Arc<PerWorker<Series>>; 2],
    /// Counts of requests that probe the canary.
    pub probe_series: Arc<PerWorker<Series>>,
    /// Counts of requests that the breaker kept from the canary.
    pub diverted: Arc<PerWorker<Cell>>,
    /// Counts of requests that an arm answered by itself; none where no arm does.
    pub blocked: Option<Arc<PerWorker<Cell>>>,
    /// Counts of matching answers by signal, then arm index.
    pub signals: Vec<[Arc<PerWorker<Cell>>; 2]>,
    /// Web vitals by arm index; none if no listener takes any.
    pub vitals: Option<[Arc<PerWorker<Vitals>>; 2]>,
    /// Counts of canary requests by unit; only used with a guard.
    pub canary_units: Arc<PerWorker<Units>>,
    /// Requests under way by arm index.
    pub in_flight: [Arc<Allowance>; 2],
    /// What the request path watches for the breaker; none if it is off.
    pub guard: Option<Guard>,
    /// Whether stable answers a failed canary request.
    pub fallback: Fallback,
    /// Whether a request with `Idempotency-Key` counts as idempotent whatever its method.
    pub fallback_by_key: bool,
    /// What came of the canary's failures.
    pub fallbacks: Arc<PerWorker<Fallbacks>>,
    /// The time within which the canary's long streams end when the canary has lost its share; none leaves them.
    pub close_streams: Option<Duration>,
    /// Counts the streams that were ended so.
    pub streams_closed: Arc<PerWorker<Cell>>,
    /// Which answers are compared; none if no answers are.
    pub diff: Option<Diff>,
    /// What is mirrored to the canary; none if nothing is at present.
    pub shadow: Option<Shadow>,
}

/// What of stable's requests is copied to the canary.
#[derive(Debug)]
pub struct Shadow {
    /// Units on stable below this are mirrored.
    pub reach: Weight,
    /// The methods that are.
    pub methods: Vec<Method>,
    /// Bytes of a request's body, trailers included, up to which it is.
    pub max_body: u64,
    /// Copies under way in the process.
    pub max_in_flight: u32,
    /// Time for a copy, from its being sent to the end of its answer.
    pub timeout: Duration,
    /// Bytes that all copies in the process may take.
    pub max_memory: u64,
    /// Of the headers that identify somebody, those that copies keep.
    pub keep_headers: Vec<HeaderName>,
    /// Counts of copies.
    pub series: Arc<PerWorker<Series>>,
    /// What came of every request of the mirrored share.
    pub counts: Arc<PerWorker<Mirrored>>,
}

/// Which answers to copies are compared with those that clients got.
#[derive(Debug)]
pub struct Diff {
    /// What counts as equal.
    pub rules: Arc<Rules>,
    /// The units whose answers are compared.
    pub share: (Bucketer, Weight),
    /// Of those, the ones that stable answers twice.
    pub noise: (Bucketer, Weight),
    /// Where the answers go.
    pub pairs: Arc<Pairs>,
    /// Counts the pairs that are lost on the way.
    pub lost: Arc<PerWorker<LostPairs>>,
}

/// Whether stable answers a request that failed on the canary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Never.
    #[default]
    Off,
    /// Where nothing was sent, or the method is safe.
    Safe,
    /// Where nothing was sent, or the method is idempotent.
    Idempotent,
}

/// Where a unit's id comes from.
#[derive(Debug, Clone)]
pub enum UnitSource {
    /// A request header.
    Header(HeaderName),
    /// A cookie.
    Cookie(Arc<str>),
    /// A parameter of the query, percent-decoded.
    Query(Arc<str>),
    /// A claim of the bearer token's payload; with a secret only if the signature (HS256/384/512) is right and `exp` has not passed.
    Jwt {
        /// The claim's name.
        claim: Arc<str>,
        /// The secret of `jwt_secret_file`.
        secret: Option<Secret>,
    },
    /// The client's address as text; behind a trusted proxy the one it forwards for.
    ClientIp,
}

/// Bytes that no debug print shows.
#[derive(Clone)]
pub struct Secret(pub Arc<[u8]>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What an arm does with its requests.
#[derive(Debug)]
pub struct ArmRoute {
    /// Where they go.
    pub to: ArmTarget,
    /// Headers set on the request to the upstream.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Headers removed from it.
    pub remove_headers: Vec<HeaderName>,
}

impl ArmRoute {
    /// Whether it changes any header.
    pub fn has_rules(&self) -> bool {
        !self.set_headers.is_empty() || !self.remove_headers.is_empty()
    }
}

/// Where an arm's requests go.
#[derive(Debug)]
pub enum ArmTarget {
    /// Where the route says: an arm of headers only.
    Route,
    /// An upstream, by index.
    Upstream(usize),
    /// A fixed answer.
    Respond(Arc<FixedAnswer>),
}

/// A fixed answer, prepared.
#[derive(Debug)]
pub struct FixedAnswer {
    /// The status.
    pub status: http::StatusCode,
    /// The headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: bytes::Bytes,
}

/// A named set of endpoints.
#[derive(Debug)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Whether requests go out as HTTP/2.
    pub http2: bool,
    /// TLS towards it, if its endpoints are `https://`; ALPN is prepared in it.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The endpoints' present addresses; empty while no name could be resolved.
    pub endpoints: Vec<Endpoint>,
    /// Time for TCP and TLS together.
    pub connect_timeout: Duration,
    /// Time from the request being sent to the answer's head.
    pub response_timeout: Duration,
    /// How long a pooled connection may lie idle.
    pub idle_timeout: Duration,
    /// Open connections of one worker, at most.
    pub max_connections: usize,
    /// Connections that carry requests.
    pub active: Arc<PerWorker<Cell>>,
    /// Connections in the pool.
    pub idle: Arc<PerWorker<Cell>>,
    /// How often an endpoint was passed over for a while because requests to it failed in a row.
    pub ejections: Arc<PerWorker<Cell>>,
}

impl Upstream {
    /// Whether any of its endpoints is healthy, or not checked. Without a known address it is not.
    #[inline]
    pub fn is_healthy(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.health.is_up())
    }
}

/// One address of an upstream.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Stays the same across snapshots for the same upstream, authority and address; pools are keyed by it.
    pub id: u32,
    /// `host:port` as configured.
    pub authority: Arc<str>,
    /// Name for TLS, set if the endpoint is `https://`.
    pub server_name: Option<rustls_pki_types::ServerName<'static>>,
    /// Where to connect.
    pub address: SocketAddr,
    /// Whether requests may go there.
    pub health: Arc<Health>,
}

/// Whether requests may go to an endpoint: up unless its health checks say otherwise. All snapshots that name the
/// endpoint share it, so that a change takes effect without a publication. The health checks alone write it.
#[derive(Debug, Default)]
pub struct Health {
    down: AtomicBool,
}

impl Health {
    /// Whether requests may go there.
    #[inline]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    /// Notes what the checks found.
    pub fn set(&self, up: bool) {
        self.down.store(!up, Ordering::Relaxed);
    }
}

/// Who may force an arm.
#[derive(Debug, Default)]
pub struct Force {
    /// Signs tokens; without it none is believed.
    pub secret: Option<Secret>,
    /// Peers that may name an arm unsigned.
    pub trusted: Vec<IpNet>,
}

/// What the answers on one HTTP/2 connection to an upstream may send ahead together, at least. Each of them is held back by
/// its own window; half of this one is what the library grants to frames that are small and unread (it counts 256 bytes for
/// each, and ends the connection with all its requests beyond). Answers in small pieces are what streams of tokens are
/// made of, and a few clients that read slowly must not end everybody's.
pub const UPSTREAM_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// The data plane's limits; `limits.md` has the sources. Times are those of one occasion, counts those of one worker's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// TLS handshake of a client.
    pub tls_handshake_timeout: Duration,
    /// From accept to the first byte.
    pub first_byte_timeout: Duration,
    /// From the first byte of a request's head to its end.
    pub header_timeout: Duration,
    /// HTTP/1 connection without a request.
    pub keep_alive_idle: Duration,
    /// HTTP/2 connection without a stream.
    pub h2_idle: Duration,
    /// Request body without a byte, where the client is the one to send it.
    pub body_idle: Duration,
    /// Bytes per second of a request body after its first seconds.
    pub body_min_rate: u64,
    /// Answer that the client does not take.
    pub write_stall: Duration,
    /// Answer without a byte, or tunnel without one either way; `Duration::MAX` is no limit.
    pub stream_idle: Duration,
    /// Age at which a client's connection is asked to close; `Duration::MAX` is no limit.
    pub connection_max_age: Duration,
    /// Requests on one client connection.
    pub requests_per_connection: u32,
    /// Client connections of one address; none is no limit.
    pub max_connections_per_ip: Option<u32>,
    /// TLS handshakes under way in the process.
    pub max_handshakes: u32,
    /// Client connections of the process.
    pub max_connections: u32,
    /// Requests under way in the process.
    pub max_in_flight: u32,
    /// Requests under way on one arm.
    pub max_in_flight_per_arm: u32,
    /// Header fields of a request.
    pub max_headers: usize,
    /// Head of an HTTP/1 request.
    pub max_header_bytes: usize,
    /// Head of an HTTP/2 request.
    pub max_h2_header_bytes: u32,
    /// Request target.
    pub max_uri_bytes: usize,
    /// Head of an upstream's answer.
    pub max_upstream_header_bytes: usize,
    /// HTTP/1 read buffer of a connection.
    pub h1_buffer: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub h2_streams: u32,
    /// Flow-control window of a stream.
    pub h2_stream_window: u32,
    /// Flow-control window of a connection.
    pub h2_connection_window: u32,
    /// Bytes queued for a stream.
    pub h2_send_buffer: usize,
    /// Streams reset before they were served.
    pub h2_resets: usize,
    /// Streams reset by us for the client's errors.
    pub h2_local_resets: usize,
    /// Frames without payload in 10 seconds.
    pub h2_control_frames: u32,
    /// Silence after which a ping is sent.
    pub h2_ping: Duration,
    /// Time for its answer.
    pub h2_ping_timeout: Duration,
    /// Request body; `u64::MAX` is no limit.
    pub max_body: u64,
    /// Lifetime of a pooled upstream connection.
    pub upstream_max_lifetime: Duration,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// A value with a generation number: written by one publisher, read by everyone.
#[derive(Debug)]
pub struct Published<T> {
    generation: AtomicU64,
    current: Mutex<Arc<T>>,
}

impl<T> Published<T> {
    /// The first value, as generation `generation`.
    pub fn new(generation: u64, value: T) -> Self {
        Published { generation: AtomicU64::new(generation), current: Mutex::new(Arc::new(value)) }
    }

    /// The number of the present value; one atomic read.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The present value; takes a short lock, so readers keep the `Arc` until the generation moves.
    pub fn load(&self) -> Arc<T> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value.
    pub fn store(&self, generation: u64, value: T) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
        self.generation.store(generation, Ordering::Release);
    }
}
