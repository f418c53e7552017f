//! The demo's clients: a thousand users who ask at a steady rate over real connections, however slow the answers are.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// What the clients have seen so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests answered or failed.
    pub requests: u64,
    /// Of those, 5xx, cut connections and no answer in time.
    pub failed: u64,
}

/// Running clients.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    pace: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Connections that wait for their next request.
    idle: Mutex<Vec<Sender>>,
    room: Arc<Semaphore>,
    requests: AtomicU64,
    failed: AtomicU64,
}

type Sender = SendRequest<Empty<Bytes>>;

impl Traffic {
    /// Starts to send `rate` requests a second to `target`. Must run inside a runtime.
    pub fn start(target: SocketAddr, rate: u32) -> Traffic {
        let shared = Arc::new(Shared {
            target,
            idle: Mutex::default(),
            room: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let pace = tokio::spawn(pace(Arc::clone(&shared), rate));
        Traffic { shared, pace }
    }

    /// What the clients have seen so far.
    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.shared.requests.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
        }
    }

    /// Sends nothing more, waits for the answers that are due, closes the connections.
    pub async fn stop(self) {
        self.pace.abort();
        let all = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(ANSWER_TIMEOUT, self.shared.room.acquire_many(all)).await;
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Sends what is due at every tick. Requests that find no room are not sent later: users do not queue up.
async fn pace(shared: Arc<Shared>, rate: u32) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut due = 0.0;
    loop {
        ticks.tick().await;
        due += f64::from(rate) * TICK.as_secs_f64();
        while due >= 1.0 {
            due -= 1.0;
            let Ok(permit) = Arc::clone(&shared.room).try_acquire_owned() else { continue };
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                let well = tokio::time::timeout(ANSWER_TIMEOUT, ask(&shared)).await.unwrap_or(false);
                shared.requests.fetch_add(1, Ordering::Relaxed);
                shared.failed.fetch_add(u64::from(!well), Ordering::Relaxed);
                drop(permit);
            });
        }
    }
}

/// One request of a random user; true if it went well.
async fn ask(shared: &Shared) -> bool {
    let user = format!("user-{:04}", fastrand::u32(1..=USERS));
    let request = Request::get("/").header(header::HOST, "demo.test").header("x-user-id", user);
    let Ok(request) = request.body(Empty::new()) else { return false };
    let Some(mut sender) = connection(shared).await else { return false };
    let Ok(response) = sender.send_request(request).await else { return false };
    let well = !response.status().is_server_error();
    if response.into_body().collect().await.is_err() {
        return false;
    }
    if sender.ready().await.is_ok() {
        shared.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }
    well
}

/// A connection that was waiting and is still open, or a new one.
async fn connection(shared: &Shared) -> Option<Sender> {
    loop {
        let waiting = shared.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match waiting {
            Some(sender) if !sender.is_closed() => return Some(sender),
            Some(_) => {}
            None => break,
        }
    }
    let stream = TcpStream::connect(shared.target).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

const USERS: u32 = 1000;
const TICK: Duration = Duration::from_millis(5);
/// Enough for a slow upstream at the full weight; more would measure the demo itself.
const IN_FLIGHT_MAX: usize = 512;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::super::upstream::{Mode, Upstream};
    use super::*;

    /// Waits until the clients have seen what the test is about.
    async fn until(traffic: &Traffic, seen: impl Fn(Counts) -> bool) -> Counts {
        while !seen(traffic.counts()) {
            tokio::time::sleep(TICK).await;
        }
        traffic.counts()
    }

    #[tokio::test]
    async fn clients_count_what_the_upstream_fails() {
        let upstream = Upstream::start("new", 0).unwrap();
        let traffic = Traffic::start(upstream.address, 500);
        let healthy = until(&traffic, |counts| counts.requests >= 20).await;
        assert_eq!(healthy.failed, 0);
        upstream.set_mode(Mode::Failing);
        until(&traffic, |counts| counts.failed >= 10).await;
        let shared = Arc::clone(&traffic.shared);
        traffic.stop().await;
        assert_eq!(shared.room.available_permits(), IN_FLIGHT_MAX, "every answer is in");
        assert!(shared.idle.lock().unwrap().is_empty());
    }
}
