//! A worker: one thread, one current-thread runtime, its own listeners, pools and tallies. Connections never move.

use super::access::Log;
pub use super::local::Drain;
use super::local::Worker;
use super::{conn, lasting};
use crate::clock::Clock;
use crate::snapshot::{Published, Snapshot};
use socket2::{Domain, Protocol, Socket, Type};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::time::{interval, sleep, timeout};

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: i32 = 4096;
/// Pause after a failed accept: out of descriptors there is nothing to do but wait for one.
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
                tokio::task::spawn_local(conn::serve(Rc::clone(&worker), index, stream, peer));
            }
            Some(Err(_)) if worker.must_finish() => break,
            Some(Err(error)) => {
                tracing::warn!(%error, worker = worker.index, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // The reactor may not have told yet of what the kernel holds, and closing would reset it: so the kernel is asked.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        let stream = stream.set_nonblocking(true).and_then(|()| tokio::net::TcpStream::from_std(stream));
        if let Ok(stream) = stream {
            tokio::task::spawn_local(conn::serve(Rc::clone(&worker), index, stream, peer));
        }
    }
}

async fn sweep(worker: Rc<Worker>) {
    let mut tick = interval(SWEEP_EVERY);
    loop {
        tick.tick().await;
        worker.sweep();
    }
}
