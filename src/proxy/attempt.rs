//! What an attempt to send a request is given, and what is left of one that failed. Both legs to an upstream use it.

use super::alarm::Alarm;
use super::fault::{Fault, Progress};
use super::head::Wanted;
use super::link::{Link, Place};
use super::pool::{Lease, UpstreamPool};
use super::replay::Outgoing;
use crate::clock::Time;
use crate::rollout::outcome::ErrorKind;
use crate::snapshot::{Limits, Patience, Upstream};
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How to reach one upstream.
pub struct Way<'a> {
    /// What the snapshot says of it.
    pub upstream: &'a Upstream,
    /// This worker's connections to it.
    pub pool: &'a UpstreamPool,
    /// The data plane's limits.
    pub limits: &'a Limits,
    /// Longest request body.
    pub body_bytes_max: u64,
    /// How long the upstream may take for an answer's head while it waits for nobody; none if the caller sees to that.
    pub answer_timeout: Option<Duration>,
    /// How long either side may be silent.
    pub patience: Patience,
    /// The fields of an answer that are wanted; none for all. Those that say how its body ends are understood in any case.
    pub only: Option<Wanted>,
    /// Counts requests that were sent again.
    pub retries: Option<&'a crate::tally::Cell>,
}

/// An attempt that failed before an answer's head.
pub struct Failed {
    /// Why.
    pub fault: Fault,
    /// The request's body if no byte of the request was sent, so that it may be sent elsewhere.
    pub unsent: Option<Option<Outgoing>>,
    /// Since when the connection had been idle, if it was a pooled one and ended without a byte of an answer: what it does
    /// when the upstream closes it at the same moment.
    pub stale: Option<Time>,
    /// Whether the upstream says itself that it has done nothing of the request: it takes no further streams on that
    /// connection, or not this one (RFC 9113, sections 6.8 and 8.7).
    pub refused: bool,
    /// The endpoint that failed.
    pub lease: Lease,
}

/// A connection to the lease's endpoint: a pooled one unless `fresh`, else a new one. Where the upstream's quota is
/// used up it waits for a connection to come back, for at most the connect timeout.
pub async fn connect(way: &Way<'_>, lease: &Lease, fresh: bool) -> Result<Box<Link>, Fault> {
    let pooled = || lease.checkout(way.upstream, way.limits.upstream_max_lifetime);
    match (!fresh).then(pooled).flatten() {
        Some(link) => Ok(link),
        // Rare, so its state is not part of every request's.
        None => Box::pin(wait_or_open(way, lease, pooled)).await,
    }
}

async fn wait_or_open(
    way: &Way<'_>,
    lease: &Lease,
    pooled: impl Fn() -> Option<Box<Link>>,
) -> Result<Box<Link>, Fault> {
    let mut waited = false;
    let room = in_room(way, || {
        // One that was given back while this request waited is no staler than a new one.
        let back = std::mem::replace(&mut waited, true).then(&pooled).flatten();
        back.map(Room::Link).or_else(|| way.pool.place(way.upstream).map(Room::Place))
    });
    match room.await? {
        Room::Link(link) => Ok(link),
        Room::Place(place) => lease.connect(way.upstream, place).await,
    }
}

/// Room for a request.
enum Room {
    /// A pooled connection.
    Link(Box<Link>),
    /// A place for a new connection.
    Place(Place),
}

/// What `take` finds, asked again whenever something of the upstream's quota comes free, for at most the connect timeout.
pub async fn in_room<T>(way: &Way<'_>, mut take: impl FnMut() -> Option<T>) -> Result<T, Fault> {
    // Nearly always there is some, and no timer is needed.
    if let Some(room) = take() {
        return Ok(room);
    }
    let mut late = pin!(sleep(way.upstream.connect_timeout));
    loop {
        tokio::select! {
            () = way.pool.freed() => {}
            () = &mut late => return Err(Fault::Busy),
        }
        if let Some(room) = take() {
            return Ok(room);
        }
    }
}

/// Polls `step` for an answer's head. The upstream has the response timeout, anew whenever the request's body moves; a
/// client that stops sending has the limit for idle bodies, one that sends too slowly what its bytes are worth, and each
/// is to blame itself.
pub async fn in_time<T>(
    way: &Way<'_>,
    alarm: &mut Alarm,
    mut step: impl FnMut(&mut Context<'_>) -> (Poll<Result<T, Fault>>, Progress),
) -> Result<T, Fault> {
    let Some(answer_timeout) = way.answer_timeout else {
        return poll_fn(|cx| step(cx).0).await;
    };
    alarm.pass_on();
    let mut since = Instant::now();
    let mut late = after(since, answer_timeout);
    let (mut seen, mut waited) = (Progress::default(), Duration::ZERO);
    poll_fn(|cx| {
        let (polled, progress) = step(cx);
        if polled.is_ready() {
            return polled;
        }
        if progress != seen {
            let now = Instant::now();
            if seen.waits_for_client {
                waited = waited.saturating_add(now.saturating_duration_since(since));
            }
            (seen, since) = (progress, now);
            let limit = match seen.waits_for_client {
                true => {
                    way.patience.body_idle.min(patience(seen.taken, way.patience.body_min_rate).saturating_sub(waited))
                }
                false => answer_timeout,
            };
            late = after(now, limit);
        }
        let fault = if seen.waits_for_client { Fault::ClientSlow } else { Fault::Failed(ErrorKind::Timeout) };
        alarm.poll_at(late, cx).map(|()| Err(fault))
    })
    .await
}

/// The moment so much later, as far as timers can count.
pub fn after(now: Instant, limit: Duration) -> Instant {
    now.checked_add(limit.min(FOR_EVER)).unwrap_or(now)
}

/// How long a client may be waited for in all that has sent so many bytes: some seconds, and one for each `body_min_rate`.
fn patience(taken: u64, min_rate: u64) -> Duration {
    let earned = taken.checked_mul(1_000).and_then(|bytes| bytes.checked_div(min_rate));
    earned.map_or(Duration::MAX, |ms| SLOW_START.saturating_add(Duration::from_millis(ms)))
}

/// A connection that has just begun, or a client that reads its file first, is slow for no bad reason.
const SLOW_START: Duration = Duration::from_secs(5);

/// Longer than any exchange, and short enough that timers can count it.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_earns_a_slow_client_some_time() {
        assert_eq!(patience(0, 240), Duration::from_secs(5));
        assert_eq!(patience(2_400, 240), Duration::from_secs(15));
        assert_eq!(patience(u64::MAX, 240), Duration::MAX);
        assert_eq!(patience(0, 0), Duration::MAX);
    }
}
