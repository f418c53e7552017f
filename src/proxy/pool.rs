//! The upstream connections of one worker: checkout by least in flight among healthy endpoints, connect, reuse, sweep.
//!
//! Nothing here is shared with other workers. A pool belongs to an endpoint id and outlives snapshots, so a reload
//! drops no connection. It never retries: `forward` decides what may be sent again.

use super::admission::is_exhaustion;
use super::backoff::Backoff;
use super::ejection::{Ejection, Era, leaves_half};
use super::fault::Fault;
use super::link::{Io, Link, Place, Quota};
use super::shared::Shared;
use crate::clock::{Clock, Time};
use crate::rollout::outcome::ErrorKind;
use crate::snapshot::{Endpoint, Snapshot, Upstream};
use crate::tally::{Cell as Count, PerWorker};
use ahash::AHashMap;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The pools of one worker, by endpoint id.
pub struct Pools {
    worker: usize,
    clock: Clock,
    endpoints: AHashMap<u32, Rc<EndpointPool>>,
    upstreams: AHashMap<Arc<str>, Rc<Quota>>,
    /// Whether how requests go is held against endpoints.
    judges: bool,
}

/// The pools of one upstream's endpoints, as one snapshot names them.
pub struct UpstreamPool {
    /// One per endpoint, in the snapshot's order.
    endpoints: Rc<[Rc<EndpointPool>]>,
    /// The same, if one of them may be passed over for failing.
    judged: Rc<[Rc<EndpointPool>]>,
    quota: Rc<Quota>,
    turn: Cell<usize>,
}

/// The connections to one endpoint.
pub struct EndpointPool {
    endpoint: Endpoint,
    clock: Clock,
    worker: usize,
    /// Requests under way; what balancing compares.
    in_flight: Cell<usize>,
    #[expect(clippy::vec_box, reason = "a connection is moved several times for each request that it carries")]
    idle: RefCell<Vec<Box<Link>>>,
    /// The multiplexed connections, if the upstream speaks HTTP/2.
    shared: RefCell<Vec<Shared>>,
    active_gauge: Arc<PerWorker<Count>>,
    idle_gauge: Arc<PerWorker<Count>>,
    quota: Rc<Quota>,
    ejection: Cell<Ejection>,
    /// How copies fare; requests leave it alone.
    backoff: Rc<Cell<Backoff>>,
    /// Bytes that the kernel may keep of what comes from there; none leaves that to itself.
    receive_bytes: Option<u32>,
    ejections: Arc<PerWorker<Count>>,
    /// Whether no snapshot names it any more: nothing is kept for later then.
    retired: Cell<bool>,
}

/// A request's claim on an endpoint; ends with the request, and tells the endpoint then how it went.
pub struct Lease {
    pool: Rc<EndpointPool>,
    /// The endpoints it was picked from.
    among: Rc<[Rc<EndpointPool>]>,
    era: Era,
    picked: Time,
    went: Cell<Went>,
}

/// How a request went, as far as its endpoint is concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Went {
    /// Nothing can be said: it is under way, or its client ended it.
    Unknown,
    /// An answer has begun.
    Well,
    /// The endpoint failed.
    Badly,
}

impl Pools {
    /// No pools yet, for worker `worker`.
    pub fn new(worker: usize, clock: Clock) -> Self {
        Pools { worker, clock, endpoints: AHashMap::new(), upstreams: AHashMap::new(), judges: true }
    }

    /// No pools yet, for copies: what becomes of those is held against no endpoint.
    pub fn for_copies(worker: usize, clock: Clock) -> Self {
        Pools { judges: false, ..Pools::new(worker, clock) }
    }

    /// The pools that `snapshot` names, in its order; those it no longer names lose their idle connections.
    pub fn adopt(&mut self, snapshot: &Snapshot) -> Vec<UpstreamPool> {
        let mut kept = AHashMap::new();
        let mut quotas = AHashMap::new();
        let mut adopted = Vec::with_capacity(snapshot.upstreams.len());
        for upstream in &snapshot.upstreams {
            let quota = self.upstreams.get(&upstream.name).map(Rc::clone).unwrap_or_default();
            quotas.insert(Arc::clone(&upstream.name), Rc::clone(&quota));
            let pool_of = |endpoint: &Endpoint| match self.endpoints.get(&endpoint.id) {
                Some(pool) => Rc::clone(pool),
                None => Rc::new(EndpointPool {
                    receive_bytes: (!self.judges).then_some(COPY_RECEIVE_BYTES),
                    ..EndpointPool::new(endpoint, upstream, &quota, self.worker, self.clock.clone())
                }),
            };
            let endpoints: Rc<[_]> = upstream.endpoints.iter().map(pool_of).collect();
            kept.extend(endpoints.iter().map(|pool| (pool.endpoint.id, Rc::clone(pool))));
            let judged = if self.judges { Rc::clone(&endpoints) } else { Rc::default() };
            adopted.push(UpstreamPool { endpoints, judged, quota, turn: Cell::new(0) });
        }
        for (id, pool) in &self.endpoints {
            if !kept.contains_key(id) {
                pool.retired.set(true);
                pool.close_idle();
            }
        }
        self.endpoints = kept;
        self.upstreams = quotas;
        adopted
    }

    /// Closes idle connections that are too old or that the upstream has closed.
    pub fn sweep(&self, snapshot: &Snapshot) {
        let now = self.clock.now();
        for upstream in &snapshot.upstreams {
            for endpoint in &upstream.endpoints {
                if let Some(pool) = self.endpoints.get(&endpoint.id) {
                    pool.sweep(now, upstream.idle_timeout, snapshot.limits.upstream_max_lifetime);
                }
            }
        }
    }

    /// Closes every idle connection; the worker is ending.
    pub fn close_idle(&self) {
        self.endpoints.values().for_each(|pool| pool.close_idle());
    }
}

impl UpstreamPool {
    /// The healthy endpoint with the fewest requests under way, other than `except`; ties go round. Those that failed
    /// lately come last.
    pub fn pick(&self, except: Option<&Lease>) -> Option<Lease> {
        let turn = self.turn.get();
        if except.is_none() {
            self.turn.set(turn.wrapping_add(1));
        }
        let count = self.endpoints.len();
        let start = turn.checked_rem(count)?;
        let others = |pool: &&Rc<EndpointPool>| except.is_none_or(|lease| !Rc::ptr_eq(&lease.pool, pool));
        let rotated = self.endpoints.iter().cycle().skip(start).take(count);
        let healthy = rotated.filter(others).filter(|pool| pool.is_healthy());
        let pool = healthy.min_by_key(|pool| (pool.is_spared(), pool.in_flight.get()))?;
        Some(Lease::new(pool, &self.judged))
    }

    /// A place for one more connection, if the upstream's quota has one or an idle connection can give its own up.
    pub fn place(&self, upstream: &Upstream) -> Option<Place> {
        while self.quota.open.get() >= upstream.max_connections {
            if self.endpoints.iter().find_map(|pool| pool.take_idle()).is_none() {
                // A multiplexed connection ends a moment after it is let go, and says so then.
                self.endpoints.iter().find(|pool| pool.let_go_shared());
                return None;
            }
        }
        Some(Place::new(&self.quota))
    }

    /// Lets one of those who wait look again.
    pub fn tell_freed(&self) {
        self.quota.freed.notify_one();
    }

    /// Waits until a connection has been closed or given back.
    pub async fn freed(&self) {
        self.quota.freed.notified().await;
    }
}

impl EndpointPool {
    fn new(endpoint: &Endpoint, upstream: &Upstream, quota: &Rc<Quota>, worker: usize, clock: Clock) -> Self {
        EndpointPool {
            endpoint: endpoint.clone(),
            clock,
            worker,
            in_flight: Cell::new(0),
            idle: RefCell::default(),
            shared: RefCell::default(),
            active_gauge: Arc::clone(&upstream.active),
            idle_gauge: Arc::clone(&upstream.idle),
            quota: Rc::clone(quota),
            ejection: Cell::default(),
            backoff: Rc::default(),
            receive_bytes: None,
            ejections: Arc::clone(&upstream.ejections),
            retired: Cell::default(),
        }
    }

    fn is_healthy(&self) -> bool {
        self.endpoint.health.is_up()
    }

    fn is_spared(&self) -> bool {
        let until = self.ejection.get().spared_until().max(self.backoff.get().until());
        until > Time::default() && until > self.clock.now()
    }

    fn judge<T>(&self, judge: impl FnOnce(&mut Ejection) -> T) -> T {
        let mut ejection = self.ejection.get();
        let judged = judge(&mut ejection);
        self.ejection.set(ejection);
        judged
    }

    fn take_idle(&self) -> Option<Box<Link>> {
        let link = self.idle.borrow_mut().pop()?;
        self.count_idle(1, 0);
        Some(link)
    }

    /// Lets a multiplexed connection go that carries nothing; false if there is none.
    fn let_go_shared(&self) -> bool {
        let mut shared = self.shared.borrow_mut();
        let unused = shared.iter().position(|shared| shared.in_flight() == 0);
        unused.map(|index| shared.swap_remove(index)).is_some()
    }

    fn sweep(&self, now: Time, idle_timeout: Duration, lifetime: Duration) {
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain_mut(|link| link.is_fresh(now, idle_timeout, lifetime) && link.is_quiet());
        self.count_idle(before, idle.len());
        self.shared.borrow_mut().retain(|shared| {
            let over = shared.is_idle(now, idle_timeout) || !shared.is_usable(now, lifetime);
            !over || shared.in_flight() > 0
        });
    }

    fn close_idle(&self) {
        let closed = std::mem::take(&mut *self.idle.borrow_mut());
        self.count_idle(closed.len(), 0);
        self.shared.borrow_mut().clear();
    }

    fn count_idle(&self, before: usize, after: usize) {
        if let Some(gauge) = self.idle_gauge.of(self.worker) {
            gauge.add(after.saturating_sub(before) as u64);
            gauge.sub(before.saturating_sub(after) as u64);
        }
    }
}

impl Lease {
    fn new(pool: &Rc<EndpointPool>, among: &Rc<[Rc<EndpointPool>]>) -> Self {
        pool.in_flight.set(pool.in_flight.get().saturating_add(1));
        if let Some(gauge) = pool.active_gauge.of(pool.worker) {
            gauge.add(1);
        }
        let era = pool.ejection.get().era();
        let (picked, went) = (pool.clock.now(), Cell::new(Went::Unknown));
        Lease { pool: Rc::clone(pool), among: Rc::clone(among), era, picked, went }
    }

    /// The endpoint has begun to answer. What comes of it is known at the end.
    pub fn answered(&self) {
        self.went.set(Went::Well);
    }

    /// The request failed; counts against the endpoint unless the client is to blame, or the service by its own word.
    pub fn failed(&self, fault: Fault) {
        if let Fault::Failed(kind) = fault
            && !matches!(kind, ErrorKind::Status | ErrorKind::Grpc)
        {
            self.went.set(Went::Badly);
        }
    }

    /// Tells the endpoint how the request went; where there is no other endpoint to turn to, nobody needs to know.
    fn settle(&self) {
        match self.went.get() {
            Went::Well if self.among.len() > 1 => self.pool.judge(|ejection| ejection.succeeded(self.era)),
            Went::Badly if self.among.len() > 1 => self.settle_badly(),
            _ => {}
        }
    }

    #[cold]
    fn settle_badly(&self) {
        let now = self.pool.clock.now();
        let healthy = || self.among.iter().filter(|pool| pool.is_healthy());
        let allowed =
            || leaves_half(healthy().filter(|pool| pool.ejection.get().is_ejected(now)).count(), healthy().count());
        let ejected = self.pool.judge(|ejection| ejection.failed(self.era, now, allowed));
        if let (true, Some(count)) = (ejected, self.pool.ejections.of(self.pool.worker)) {
            count.add(1);
        }
    }

    /// The multiplexed connections to the endpoint.
    pub fn shared(&self) -> &RefCell<Vec<Shared>> {
        &self.pool.shared
    }

    /// Keeps a multiplexed connection for further requests.
    pub fn share(&self, shared: Shared) {
        if !self.pool.retired.get() {
            self.pool.shared.borrow_mut().push(shared);
        }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.pool.endpoint
    }

    /// How copies to the endpoint fare.
    pub fn backoff(&self) -> &Rc<Cell<Backoff>> {
        &self.pool.backoff
    }

    /// Whether a copy may be sent: over a connection that is there, or over one that may be opened.
    pub fn permits_copy(&self) -> bool {
        let is_there = !self.pool.idle.borrow().is_empty() || !self.pool.shared.borrow().is_empty();
        is_there || {
            let mut backoff = self.pool.backoff.get();
            let permitted = backoff.permits(self.now());
            self.pool.backoff.set(backoff);
            permitted
        }
    }

    /// An idle connection that is young enough and that the upstream has not closed.
    pub fn checkout(&self, upstream: &Upstream, lifetime: Duration) -> Option<Box<Link>> {
        loop {
            let mut link = self.pool.take_idle()?;
            if link.is_fresh(self.picked, upstream.idle_timeout, lifetime) && link.is_quiet() {
                return Some(link);
            }
        }
    }

    /// A new connection.
    pub async fn connect(&self, upstream: &Upstream, place: Place) -> Result<Box<Link>, Fault> {
        let opened = timeout(upstream.connect_timeout, self.open(upstream)).await;
        let io = opened.unwrap_or(Err(Fault::Failed(ErrorKind::Connect)));
        let now = self.now();
        if !matches!(io, Err(Fault::Exhausted)) {
            self.pool.judge(|ejection| ejection.connected(io.is_ok(), now));
        }
        Ok(Box::new(Link::new(io?, now, place)))
    }

    async fn open(&self, upstream: &Upstream) -> Result<Io, Fault> {
        let endpoint = &self.pool.endpoint;
        let connect = match self.pool.receive_bytes {
            Some(bytes) => connect_narrowly(endpoint.address, bytes).await,
            None => TcpStream::connect(endpoint.address).await,
        };
        let stream = connect.map_err(|error| match is_exhaustion(&error) {
            true => Fault::Exhausted,
            false => Fault::Failed(ErrorKind::Connect),
        })?;
        stream.set_nodelay(true).map_err(|_| Fault::Failed(ErrorKind::Connect))?;
        let (Some(tls), Some(name)) = (&upstream.tls, &endpoint.server_name) else {
            return Ok(Io::Plain(stream));
        };
        let connect = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await;
        connect.map(|stream| Io::Tls(Box::new(stream))).map_err(|_| Fault::Failed(ErrorKind::Tls))
    }

    /// Puts a connection back for the next request.
    pub fn park(&self, mut link: Box<Link>) {
        if self.pool.retired.get() {
            return;
        }
        link.park(self.pool.clock.now());
        self.pool.idle.borrow_mut().push(link);
        self.pool.count_idle(0, 1);
    }

    /// When the endpoint was picked.
    pub const fn picked(&self) -> Time {
        self.picked
    }

    /// The present moment of the worker's clock.
    pub fn now(&self) -> Time {
        self.pool.clock.now()
    }
}

/// A connection of which the kernel keeps no more than so many bytes that nobody has read.
async fn connect_narrowly(address: SocketAddr, bytes: u32) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_recv_buffer_size(bytes)?;
    socket.connect(address).await
}

/// What the kernel keeps of an answer to a copy. By itself it would keep megabytes of one that has no end, for every copy, and
/// take their time to throw them away.
const COPY_RECEIVE_BYTES: u32 = 128 * 1024;

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle();
        self.pool.in_flight.set(self.pool.in_flight.get().saturating_sub(1));
        if let Some(gauge) = self.pool.active_gauge.of(self.pool.worker) {
            gauge.sub(1);
        }
        self.pool.quota.freed.notify_one();
    }
}
