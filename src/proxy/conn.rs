//! One client connection: TLS or not, HTTP/1 or HTTP/2, its deadlines, and its polite end when the worker drains.

use super::local::{Seat, Worker};
use super::request;
use super::shared::LocalExecutor;
use super::tunnel::Tunnel;
use crate::snapshot::Limits;
use crate::tally::{Cell as Count, PerWorker};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How often a connection that has sent a part of the preface is looked at again.
const PREFACE_LOOK: Duration = Duration::from_millis(5);
/// hyper's own number of header fields; another one costs it an allocation a request, so it is set only if it differs.
const HYPER_HEADERS: usize = 100;

/// Who is at the other end of a connection.
pub struct Client {
    /// Its address.
    pub address: IpAddr,
    /// Its address as text.
    pub address_text: String,
    /// Its element of `forwarded`: `for=192.0.2.1` or `for="[2001:db8::1]"`.
    pub forwarded_for: String,
    /// Whether it came over TLS.
    pub secure: bool,
    /// Index of the listener.
    pub listener: usize,
    /// What the connection becomes when it has answered a request with 101.
    tunnel: Cell<Option<Box<Tunnel>>>,
}

impl Client {
    /// The client of a connection from that peer.
    pub fn new(peer: SocketAddr, secure: bool, listener: usize) -> Self {
        // A dual-stack listener sees IPv4 clients as mapped addresses; config and services mean the plain ones.
        let address = peer.ip().to_canonical();
        let address_text = address.to_string();
        let forwarded_for = match address {
            IpAddr::V4(_) => format!("for={address_text}"),
            IpAddr::V6(_) => format!("for=\"[{address_text}]\""),
        };
        Client { address, address_text, forwarded_for, secure, listener, tunnel: Cell::default() }
    }

    /// Makes the connection a tunnel when the answer that is given next has gone out.
    pub fn switch(&self, tunnel: Tunnel) {
        self.tunnel.set(Some(Box::new(tunnel)));
    }

    /// `https` or `http`.
    pub fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

enum Protocol {
    Http1,
    Http2,
}

/// Serves one connection to its end. What goes wrong on it concerns this client alone.
pub async fn serve(worker: Rc<Worker>, listener_index: usize, stream: TcpStream, peer: SocketAddr) {
    // The snapshot is not kept: a connection may live for days, and each request adopts the one of its time.
    let Some(terms) = Terms::of(&worker, listener_index) else { return };
    let seat = worker.seat();
    let _counted = Counted::new(&worker, Arc::clone(&terms.connections));
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let client = Rc::new(Client::new(peer, terms.tls.is_some(), listener_index));
    match &terms.tls {
        Some(tls) => {
            let accept = TlsAcceptor::from(Arc::clone(tls)).accept(stream);
            let Ok(Ok(stream)) = timeout(terms.limits.tls_handshake_timeout, accept).await else { return };
            let protocol = match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ if terms.http1 => Protocol::Http1,
                _ => return,
            };
            speak(&seat, client, &terms.limits, protocol, stream).await;
        }
        None => {
            let sniff = sniff(&stream, &terms);
            let Ok(Some(protocol)) = timeout(terms.limits.first_byte_timeout, sniff).await else { return };
            speak(&seat, client, &terms.limits, protocol, stream).await;
        }
    }
}

/// What a connection takes from the snapshot it is accepted under.
struct Terms {
    tls: Option<Arc<rustls::ServerConfig>>,
    http1: bool,
    http2: bool,
    limits: Limits,
    connections: Arc<PerWorker<Count>>,
}

impl Terms {
    fn of(worker: &Worker, listener: usize) -> Option<Terms> {
        let adopted = worker.adopted();
        let listener = adopted.snapshot.listeners.get(listener)?;
        Some(Terms {
            tls: listener.tls.clone(),
            http1: listener.http1,
            http2: listener.http2,
            limits: adopted.snapshot.limits.clone(),
            connections: Arc::clone(&listener.connections),
        })
    }
}

/// Which protocol a plain connection begins with; none if it ends, or begins with one that the listener does not speak.
async fn sniff(stream: &TcpStream, terms: &Terms) -> Option<Protocol> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await.ok().filter(|&count| count > 0)?;
        let sent = first.get(..count)?;
        if !PREFACE.starts_with(sent) {
            return terms.http1.then_some(Protocol::Http1);
        }
        if count == PREFACE.len() {
            return terms.http2.then_some(Protocol::Http2);
        }
        sleep(PREFACE_LOOK).await;
    }
}

async fn speak<S>(seat: &Seat, client: Rc<Client>, limits: &Limits, protocol: Protocol, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let handler = Rc::clone(seat.worker());
    let begun = Cell::new(matches!(protocol, Protocol::Http2));
    let service = service_fn(|request| {
        begun.set(true);
        let (worker, client) = (Rc::clone(&handler), Rc::clone(&client));
        async move { Ok::<_, Infallible>(request::handle(worker, client, request).await) }
    });
    let patience = Patience { begun: &begun, limit: limits.first_byte_timeout };
    let io = TokioIo::new(stream);
    match protocol {
        Protocol::Http1 => {
            let mut connection = http1_builder(limits).serve_connection(io, service);
            let ended =
                run(seat, Pin::new(&mut connection), patience, |connection| connection.graceful_shutdown()).await;
            if let (Ok(()), Some(tunnel)) = (ended, client.tunnel.take()) {
                let parts = connection.into_parts();
                tunnel.run(parts.io.into_inner(), parts.read_buf).await;
            }
        }
        Protocol::Http2 => {
            let connection = pin!(http2_builder(limits).serve_connection(io, service));
            let _ = run(seat, connection, patience, |connection| connection.graceful_shutdown()).await;
        }
    }
}

/// How long a connection without a request is left alone when the worker drains.
struct Patience<'a> {
    /// Whether it has had a request, or can tell its client that none was taken.
    begun: &'a Cell<bool>,
    limit: Duration,
}

/// Polls a connection to its end and tells it once to finish when the worker drains. One whose first request may be on
/// its way is told when that has come: hyper would close it at once.
async fn run<C, E>(
    seat: &Seat,
    mut connection: Pin<&mut C>,
    patience: Patience<'_>,
    finish: impl Fn(Pin<&mut C>),
) -> Result<(), E>
where
    C: Future<Output = Result<(), E>>,
{
    let mut told = false;
    let mut late: Option<Pin<Box<Sleep>>> = None;
    seat.wake_by(poll_fn(|cx| Poll::Ready(cx.waker().clone())).await);
    poll_fn(|cx: &mut Context<'_>| -> Poll<Result<(), E>> {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if told || !seat.worker().must_finish() {
                return Poll::Pending;
            }
            if !patience.begun.get() {
                ready!(late.get_or_insert_with(|| Box::pin(sleep(patience.limit))).as_mut().poll(cx));
            }
            told = true;
            finish(connection.as_mut());
        }
    })
    .await
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.keep_alive_idle)
        .max_buf_size(limits.h1_buffer)
        .keep_alive(true)
        .half_close(false)
        // One copy of a small answer is cheaper than a vectored write.
        .writev(false);
    if limits.max_headers != HYPER_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    builder
}

fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams)
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_send_buf_size(limits.h2_send_buffer)
        .max_header_list_size(limits.max_h2_header_bytes)
        .max_pending_accept_reset_streams(limits.h2_resets)
        .max_local_error_reset_streams(limits.h2_local_resets)
        .keep_alive_interval(limits.h2_ping)
        .keep_alive_timeout(limits.h2_ping_timeout);
    builder
}

/// A connection's part in the listener's gauge.
struct Counted {
    worker: usize,
    gauge: Arc<PerWorker<Count>>,
}

impl Counted {
    fn new(worker: &Worker, gauge: Arc<PerWorker<Count>>) -> Self {
        if let Some(gauge) = gauge.of(worker.index) {
            gauge.add(1);
        }
        Counted { worker: worker.index, gauge }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge.of(self.worker) {
            gauge.sub(1);
        }
    }
}
