//! Active health checks: who is checked, when, and what has been found.
//!
//! They run on a thread of their own: a disk that stalls the control plane must not look like a sick upstream, and many
//! TLS handshakes must not keep the breakers waiting. What they find goes to the data plane at once, through the flag that
//! every snapshot shares (`snapshot::Health`), and to the supervisor as an event if there is something to tell. None of it
//! is counted as a request of anybody.
//!
//! An endpoint is healthy when it is first seen, so that a start never waits for checks and never begins with a trip; it
//! takes the configured number of failed checks to lose it. It keeps its health over reloads for as long as it is checked.

mod check;
mod rule;

use super::inbox::Event;
use crate::clock::Wall;
use crate::config::{Config, HealthConfig, UpstreamConfig};
use crate::snapshot::{Endpoint, Snapshot};
use rule::{Rule, first_share, share};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// The supervisor's side of the checks.
#[derive(Debug)]
pub struct Prober {
    wanted: watch::Sender<Vec<Target>>,
    found: BTreeMap<u32, Finding>,
}

/// One endpoint that is checked, and how.
#[derive(Clone, Debug)]
pub struct Target {
    endpoint: Endpoint,
    http2: bool,
    tls: Option<Arc<rustls::ClientConfig>>,
    health: HealthConfig,
}

/// Something new about an endpoint.
#[derive(Debug)]
pub struct Found {
    id: u32,
    /// What it is from now on, if that changed.
    turned: Option<bool>,
    /// What its last check failed with.
    error: Option<String>,
}

/// What was last found of an endpoint.
#[derive(Clone, Debug, Default)]
struct Finding {
    turned: Option<Wall>,
    error: Option<String>,
}

/// How the endpoints of one upstream do.
#[derive(Clone, Debug)]
pub struct UpstreamReport {
    /// Its name.
    pub name: Arc<str>,
    /// Whether they are checked; if not, every one that has an address counts as healthy.
    pub checked: bool,
    /// One per address, in config order; a name without an address is one that is not healthy.
    pub endpoints: Vec<EndpointReport>,
}

/// How one endpoint does.
#[derive(Clone, Debug)]
pub struct EndpointReport {
    /// `host:port` as configured.
    pub endpoint: Arc<str>,
    /// What that stands for; none if it cannot be resolved.
    pub address: Option<SocketAddr>,
    /// Whether requests may go there.
    pub healthy: bool,
    /// Since when, if it has ever changed.
    pub since: Option<Wall>,
    /// What its last check failed with; none if it passed.
    pub last_error: Option<String>,
}

impl Prober {
    /// Starts the thread, which has nothing to do yet. What it finds goes to `events`.
    ///
    /// # Errors
    /// If the operating system gives no thread or runtime.
    pub fn start(events: mpsc::Sender<Event>) -> io::Result<Prober> {
        let (wanted, heard) = watch::channel(Vec::new());
        let (ready, started) = sync_channel(1);
        // It ends when `wanted` is dropped.
        thread::Builder::new().name("weir-health".into()).spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            // Whoever started this waits for it and does nothing else.
            let _ = ready.send(Ok(()));
            runtime.block_on(run(heard, events));
        })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Prober { wanted, found: BTreeMap::new() })
    }

    /// Checks the endpoints of `snapshot` as `upstreams` ask for it, from now on. Those that were checked before go on
    /// where they stand.
    pub fn adopt(&mut self, upstreams: &[UpstreamConfig], snapshot: &Snapshot) {
        let targets = targets(upstreams, snapshot);
        if targets.is_empty() && self.found.is_empty() {
            return;
        }
        let mut before = std::mem::take(&mut self.found);
        let ids = targets.iter().map(|target| target.endpoint.id);
        self.found = ids.map(|id| (id, before.remove(&id).unwrap_or_default())).collect();
        // The thread ends only with this sender.
        let _ = self.wanted.send(targets);
    }

    /// Takes in what was found; true if requests go another way now.
    pub fn take(&mut self, found: Found, snapshot: Option<&Snapshot>, now: Wall) -> bool {
        // What is not checked any more has been forgotten, and is healthy.
        let Some(finding) = self.found.get_mut(&found.id) else { return false };
        finding.error = found.error;
        let Some(healthy) = found.turned else { return false };
        finding.turned = Some(now);
        if let Some((upstream, endpoint)) = snapshot.and_then(|snapshot| named(snapshot, found.id)) {
            let (authority, address) = (&*endpoint.authority, endpoint.address);
            match &finding.error {
                Some(error) if !healthy => {
                    tracing::warn!(upstream, endpoint = authority, %address, error, "endpoint is unhealthy");
                }
                _ => tracing::info!(upstream, endpoint = authority, %address, "endpoint is healthy again"),
            }
        }
        true
    }

    /// How the endpoints of every upstream do, in config order.
    pub fn report(&self, config: &Config, snapshot: Option<&Snapshot>) -> Vec<UpstreamReport> {
        let of = |upstream: &UpstreamConfig| {
            let present = snapshot.and_then(|it| it.upstreams.iter().find(|present| present.name == upstream.name));
            let known = present.map(|present| present.endpoints.as_slice()).unwrap_or_default();
            let rows = upstream.endpoints.iter().flat_map(|configured| {
                let addresses = known.iter().filter(|endpoint| endpoint.authority == configured.authority);
                let mut rows: Vec<EndpointReport> = addresses.map(|endpoint| self.row(endpoint)).collect();
                if rows.is_empty() {
                    rows.push(unresolved(&configured.authority));
                }
                rows
            });
            let endpoints = rows.collect();
            UpstreamReport { name: Arc::clone(&upstream.name), checked: upstream.health.is_some(), endpoints }
        };
        config.upstreams.iter().map(of).collect()
    }

    fn row(&self, endpoint: &Endpoint) -> EndpointReport {
        let finding = self.found.get(&endpoint.id).cloned().unwrap_or_default();
        EndpointReport {
            endpoint: Arc::clone(&endpoint.authority),
            address: Some(endpoint.address),
            healthy: endpoint.health.is_up(),
            since: finding.turned,
            last_error: finding.error,
        }
    }
}

fn targets(upstreams: &[UpstreamConfig], snapshot: &Snapshot) -> Vec<Target> {
    let mut targets = Vec::new();
    for upstream in upstreams {
        let Some(health) = &upstream.health else { continue };
        let present = snapshot.upstreams.iter().filter(|present| present.name == upstream.name);
        targets.extend(present.flat_map(|present| &present.endpoints).map(|endpoint| Target {
            endpoint: endpoint.clone(),
            http2: upstream.http2,
            tls: upstream.tls.clone(),
            health: health.clone(),
        }));
    }
    targets
}

fn named(snapshot: &Snapshot, id: u32) -> Option<(&str, &Endpoint)> {
    snapshot.upstreams.iter().find_map(|upstream| {
        let endpoint = upstream.endpoints.iter().find(|endpoint| endpoint.id == id)?;
        Some((&*upstream.name, endpoint))
    })
}

fn unresolved(authority: &Arc<str>) -> EndpointReport {
    EndpointReport {
        endpoint: Arc::clone(authority),
        address: None,
        healthy: false,
        since: None,
        last_error: Some("its name has no address".to_owned()),
    }
}

/// The thread: one task for each endpoint that is wanted, and none for others.
async fn run(mut wanted: watch::Receiver<Vec<Target>>, events: mpsc::Sender<Event>) {
    let slots = Arc::new(Semaphore::new(CHECKS_MAX));
    let mut watches: BTreeMap<u32, Watch> = BTreeMap::new();
    loop {
        let targets = wanted.borrow_and_update().clone();
        let mut before = std::mem::take(&mut watches);
        for target in targets {
            let id = target.endpoint.id;
            let watch = match before.remove(&id) {
                Some(watch) => watch.with(target),
                None => Watch::start(target, &slots, &events),
            };
            watches.insert(id, watch);
        }
        before.into_values().for_each(Watch::end);
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

/// The checks of one endpoint.
struct Watch {
    target: watch::Sender<Target>,
    task: AbortHandle,
}

impl Watch {
    fn start(target: Target, slots: &Arc<Semaphore>, events: &mpsc::Sender<Event>) -> Watch {
        let (target, heard) = watch::channel(target);
        let task = tokio::spawn(look_after(heard, Arc::clone(slots), events.clone())).abort_handle();
        Watch { target, task }
    }

    /// Goes on in this way. Every publication comes by here, so that what is the same must cost nothing.
    fn with(self, target: Target) -> Watch {
        self.target.send_if_modified(|present| {
            let changed = !present.is_same(&target);
            *present = target;
            changed
        });
        self
    }

    /// Nobody checks it any more: it counts as healthy from here on. The task is on this thread and never runs again, so
    /// that nothing it finds comes after that.
    fn end(self) {
        self.task.abort();
        self.target.borrow().endpoint.health.set(true);
    }
}

impl Target {
    /// Whether it is checked in the same way. A reload makes a new TLS config even if nothing about it is new.
    fn is_same(&self, other: &Target) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        tls && self.http2 == other.http2 && self.health == other.health
    }
}

/// Checks one endpoint for as long as it is wanted: at its interval, never two checks at once. A new interval counts from
/// the start of the last check; everything else new counts from the next check on.
async fn look_after(mut target: watch::Receiver<Target>, slots: Arc<Semaphore>, events: mpsc::Sender<Event>) {
    let mut rule = Rule::default();
    let mut told: Option<String> = None;
    let mut started = Instant::now();
    let mut wait = first_share(fastrand::f64());
    loop {
        let due = started + target.borrow().health.interval.mul_f64(wait);
        tokio::select! {
            () = sleep_until(due) => {}
            changed = target.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        let Ok(slot) = slots.acquire().await else { return };
        let present = target.borrow_and_update().clone();
        started = Instant::now();
        let result = check::check(&present).await;
        drop(slot);
        let turned = rule.take(result.is_ok(), &present.health);
        if let Some(healthy) = turned {
            present.endpoint.health.set(healthy);
        }
        let error = result.err().map(|failure| failure.to_string().chars().take(ERROR_CHARS_MAX).collect());
        if turned.is_some() || error != told {
            told.clone_from(&error);
            // The receiver is gone only when the control plane ends.
            let _ = events.send(Event::Checked(Found { id: present.endpoint.id, turned, error })).await;
        }
        wait = share(fastrand::f64());
    }
}

/// Checks under way at once; more endpoints than that wait for each other.
const CHECKS_MAX: usize = 64;
/// As much of a failure's text as somebody reads.
const ERROR_CHARS_MAX: usize = 200;
