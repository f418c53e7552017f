//! The admin server's connections: accept, serve HTTP/1.1 with deadlines and a cap, end in order.
//!
//! It runs on the control side, never on a worker; a flood here costs operators their view, not clients their answers.

use super::api::router;
use super::auth::Auth;
use super::listen::Listener;
use super::patience::Patient;
use super::stream::Feed;
use crate::control::Handle;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// Serves the admin API until `shutdown` ends; then finishes the requests under way, for at most `DRAIN_TIMEOUT`.
pub async fn serve(listener: Listener, handle: Handle, auth: Auth, shutdown: impl Future<Output = ()>) {
    let feed = Feed::start(handle.clone());
    let router = router(handle, auth, feed.clone());
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (ending, ended) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((Stream::Tcp(stream), permit)) => {
                let _ = stream.set_nodelay(true);
                spawn(stream, router.clone(), ended.clone(), permit);
            }
            Ok((Stream::Unix(stream), permit)) => spawn(stream, router.clone(), ended.clone(), permit),
            Err(error) => {
                // Out of descriptors, or the client left already: neither ends the server, and neither may spin.
                tracing::warn!(%error, "admin address cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    feed.end();
    drop(ended);
    let _ = ending.send(());
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, ending.closed()).await;
}

enum Stream {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

type Permit = tokio::sync::OwnedSemaphorePermit;

/// Waits for room first: beyond the cap, connections wait in the kernel's queue.
async fn accept(listener: &Listener, room: &Arc<Semaphore>) -> io::Result<(Stream, Permit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let stream = match listener {
        Listener::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
        Listener::Unix(listener, _) => Stream::Unix(listener.accept().await?.0),
    };
    Ok((stream, permit))
}

fn spawn<S>(stream: S, router: Router, mut ended: watch::Receiver<()>, permit: Permit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        let service =
            service_fn(move |request: Request<hyper::body::Incoming>| router.clone().oneshot(request.map(Body::new)));
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_headers(HEADERS_MAX)
                .max_buf_size(BUFFER_BYTES)
                .serve_connection(TokioIo::new(Patient::new(stream, WRITE_PATIENCE)), service)
        );
        tokio::select! {
            _ = connection.as_mut() => {}
            _ = ended.changed() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
        }
        drop(permit);
    });
}

/// Dashboards, scrapers and operators together need a few dozen.
const CONNECTIONS_MAX: usize = 256;
/// From one request to the end of the next one's head, so an idle connection is closed after it too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of its answer.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
const HEADERS_MAX: usize = 64;
const BUFFER_BYTES: usize = 64 * 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A request under way at shutdown has this long.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
