//! What an attempt to send a request is given, and what is left of one that failed. Both legs to an upstream use it.

use super::fault::{Fault, Progress};
use super::link::{Link, Place};
use super::pool::{Lease, UpstreamPool};
use super::replay::Outgoing;
use crate::rollout::outcome::ErrorKind;
use crate::snapshot::{Limits, Upstream};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::time::{Instant, sleep};

/// How to reach one upstream.
pub struct Way<'a> {
    /// What the snapshot says of it.
    pub upstream: &'a Upstream,
    /// This worker's connections to it.
    pub pool: &'a UpstreamPool,
    /// The data plane's limits.
    pub limits: &'a Limits,
    /// Counts requests that were sent again.
    pub retries: Option<&'a crate::tally::Cell>,
}

/// An attempt that failed before an answer's head.
pub struct Failed {
    /// Why.
    pub fault: Fault,
    /// The request's body if no byte of the request was sent, so that it may be sent elsewhere.
    pub unsent: Option<Option<Outgoing>>,
    /// Whether the connection had been idle and ended without a byte of an answer: what a pooled connection does when
    /// the upstream closes it at the same moment.
    pub stale: bool,
    /// The endpoint that failed.
    pub lease: Lease,
}

/// A connection to the lease's endpoint: a pooled one unless `fresh`, else a new one. Where the upstream's quota is
/// used up it waits for a connection to come back, for at most the connect timeout.
pub async fn connect(way: &Way<'_>, lease: &Lease, fresh: bool) -> Result<Link, Fault> {
    let mut passed_over = fresh;
    let room = in_room(way, || {
        // One that was given back while this request waited is no staler than a new one.
        if !std::mem::take(&mut passed_over)
            && let Some(link) = lease.checkout(way.upstream, way.limits.upstream_max_lifetime)
        {
            return Some(Room::Link(link));
        }
        way.pool.place(way.upstream).map(Room::Place)
    });
    match room.await? {
        Room::Link(link) => Ok(link),
        Room::Place(place) => lease.connect(way.upstream, place).await,
    }
}

/// Room for a request.
enum Room {
    /// A pooled connection.
    Link(Link),
    /// A place for a new connection.
    Place(Place),
}

/// What `take` finds, asked again whenever something of the upstream's quota comes free, for at most the connect timeout.
pub async fn in_room<T>(way: &Way<'_>, mut take: impl FnMut() -> Option<T>) -> Result<T, Fault> {
    let mut late = pin!(sleep(way.upstream.connect_timeout));
    loop {
        if let Some(room) = take() {
            return Ok(room);
        }
        tokio::select! {
            () = way.pool.freed() => {}
            () = &mut late => return Err(Fault::Busy),
        }
    }
}

/// Polls `step` for an answer's head. The upstream has the response timeout, anew whenever the request's body moves; a
/// client that stops sending has the limit for idle bodies, and is to blame itself.
pub async fn in_time<T>(
    way: &Way<'_>,
    mut step: impl FnMut(&mut Context<'_>) -> (Poll<Result<T, Fault>>, Progress),
) -> Result<T, Fault> {
    let mut late = pin!(sleep(way.upstream.response_timeout));
    let mut seen = Progress::default();
    poll_fn(|cx| {
        let (polled, progress) = step(cx);
        if polled.is_ready() {
            return polled;
        }
        if progress != seen {
            seen = progress;
            let limit = if seen.waits_for_client { way.limits.body_idle } else { way.upstream.response_timeout };
            late.as_mut().reset(Instant::now().checked_add(limit).unwrap_or_else(Instant::now));
        }
        let fault = if seen.waits_for_client { Fault::ClientSlow } else { Fault::Failed(ErrorKind::Timeout) };
        late.as_mut().poll(cx).map(|()| Err(fault))
    })
    .await
}
