//! A worker: one thread, one current-thread runtime, its own listeners, pools and tallies. Connections never move.

use super::access::Log;
use super::admission::{Seated, TurnedAway, is_exhaustion};
pub use super::local::Drain;
use super::local::Worker;
use super::{conn, lasting};
use crate::clock::Clock;
use crate::snapshot::{Published, Snapshot};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept: when even the reserve is gone there is nothing to do but wait.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// See `closing`.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// How often idle upstream connections are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What a worker is started with.
pub struct Start {
    /// Its index; tallies are written under it.
    pub index: usize,
    /// Its sockets, in the snapshot's order of listeners.
    pub listeners: Vec<TcpListener>,
    /// Where snapshots come from.
    pub published: Arc<Published<Snapshot>>,
    /// The clock.
    pub clock: Clock,
    /// The access log, if there is one.
    pub log: Option<Log>,
    /// When to end.
    pub drain: watch::Receiver<Drain>,
}

/// How long a process that was told to end still accepts connections, while load balancers notice that it is not
/// ready: a sixth of the drain timeout, at most 5 s. It is a part of that timeout.
pub fn closing(drain_timeout: Duration) -> Duration {
    CLOSING_MAX.min(drain_timeout.checked_div(6).unwrap_or_default())
}

/// Sockets on one address, one for each worker, between which the kernel spreads connections. Port 0 picks a free port.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        address = listener.local_addr()?;
        sockets.push(listener);
    }
    Ok(sockets)
}

/// Starts a worker's thread. It ends when it has drained.
pub fn spawn(start: Start) -> io::Result<JoinHandle<()>> {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let name = format!("weir-worker-{}", start.index);
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let thread = Builder::new().name(name).spawn(move || {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let _ = ready.send(Ok(()));
        runtime.block_on(run(start));
    })?;
    started.recv().map_err(io::Error::other)??;
    Ok(thread)
}

async fn run(start: Start) {
    let worker = Rc::new(Worker::new(start.index, start.clock, start.published, start.log));
    let mut drain = start.drain;
    let mut accepting = Vec::new();
    for (index, listener) in start.listeners.into_iter().enumerate() {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => accepting.push(tokio::task::spawn_local(accept(Rc::clone(&worker), index, listener))),
            Err(error) => tracing::error!(%error, worker = worker.index, "cannot listen"),
        }
    }
    tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    tokio::task::spawn_local(lasting::watch(Rc::clone(&worker)));

    while drain.changed().await.is_ok() {
        let stage = *drain.borrow_and_update();
        worker.set_drain(stage);
        if stage >= Drain::Finish {
            break;
        }
    }
    // Whoever could have told us is gone: that is a reason to end, too.
    worker.set_drain(Drain::Finish.max(*drain.borrow()));
    // Each listener takes what the kernel has accepted already and closes.
    for listener in accepting {
        let _ = listener.await;
    }
    let drain_timeout = worker.adopted().snapshot.limits.drain_timeout;
    let limit = drain_timeout.saturating_sub(closing(drain_timeout));
    let now = async { while *drain.borrow_and_update() < Drain::Now && drain.changed().await.is_ok() {} };
    tokio::select! {
        _ = timeout(limit, worker.until_empty()) => {}
        () = now => {}
    }
    worker.close_idle();
}

async fn accept(worker: Rc<Worker>, index: usize, listener: tokio::net::TcpListener) {
    let mut reserve = Reserve::of(&listener);
    loop {
        let accepted = poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Pending if worker.must_finish() => Poll::Ready(None),
            Poll::Pending => {
                worker.wake_at_drain(cx.waker());
                Poll::Pending
            }
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        });
        match accepted.await {
            None => break,
            Some(Ok((stream, peer))) => {
                reserve.refill(&listener);
                welcome(&worker, index, stream, peer);
            }
            Some(Err(_)) if worker.must_finish() => break,
            Some(Err(error)) => {
                let closed = if is_exhaustion(&error) { reserve.spend(&listener) } else { Err(error) };
                match closed {
                    Ok(0) => {}
                    Ok(_) => turn_away(&worker, index, TurnedAway::Descriptors),
                    Err(error) => {
                        tracing::warn!(%error, worker = worker.index, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                        reserve.refill(&listener);
                    }
                }
            }
        }
    }
    // The reactor may not have told yet of what the kernel holds, and closing would reset it: so the kernel is asked.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            welcome(&worker, index, stream, peer);
        }
    }
}

/// Serves a connection for which there is a place, and closes any other one at once.
fn welcome(worker: &Rc<Worker>, index: usize, stream: TcpStream, peer: SocketAddr) {
    let adopted = worker.adopted();
    let snapshot = &adopted.snapshot;
    // Where a load balancer names the client, that is known later.
    let is_client = snapshot.listeners.get(index).is_none_or(|listener| !listener.proxy_protocol);
    let seated = Seated::connection(snapshot, worker.index);
    let seated = seated.and_then(|seated| if is_client { seated.of(snapshot, peer.ip()) } else { Ok(seated) });
    match seated {
        Ok(seated) => {
            tokio::task::spawn_local(conn::serve(Rc::clone(worker), index, stream, peer, seated));
        }
        Err(why) => turn_away(worker, index, why),
    }
}

fn turn_away(worker: &Worker, index: usize, why: TurnedAway) {
    if let Some(listener) = worker.adopted().snapshot.listeners.get(index) {
        listener.counts.turn_away(worker.index, why);
    }
}

/// A descriptor for bad times. Without any, a connection cannot even be accepted to be closed: its client would wait, and
/// the listener would stay ready and be asked again and again.
struct Reserve(Option<OwnedFd>);

impl Reserve {
    fn of(listener: &tokio::net::TcpListener) -> Self {
        let mut reserve = Reserve(None);
        reserve.refill(listener);
        reserve
    }

    /// Lays one aside, if there is none.
    fn refill(&mut self, listener: &tokio::net::TcpListener) {
        if self.0.is_none() {
            self.0 = listener.as_fd().try_clone_to_owned().ok();
        }
    }

    /// Takes the next connection with it and closes that, if there is one; how many it closed. (The system may report
    /// its want before it has looked whether anybody waits.)
    fn spend(&mut self, listener: &tokio::net::TcpListener) -> io::Result<usize> {
        if self.0.take().is_none() {
            return Err(Errno::MFILE.into());
        }
        let mut context = Context::from_waker(Waker::noop());
        let accepted = match listener.poll_accept(&mut context) {
            Poll::Ready(accepted) => accepted.map(|_| 1),
            Poll::Pending => Ok(0),
        };
        self.refill(listener);
        accepted
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut tick = interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        worker.sweep();
    }
}
