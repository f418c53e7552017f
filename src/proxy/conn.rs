//! One client connection: TLS or not, HTTP/1 or HTTP/2, its deadlines, and its polite end when the worker drains.

use super::admission::{Cut, Seated, TurnedAway};
use super::body::Body;
use super::framing::Caps;
use super::introduced;
use super::local::{Seat, Worker};
use super::misread;
use super::paced::Paced;
use super::pulse::{Pulse, UnderWay, Watched};
use super::refusal::Refusal;
use super::request;
use super::streams::{self, Streams};
use super::strict::{Remains, Strict};
use super::tunnel::Tunnel;
use super::vigil::{Verdict, Vigil};
use crate::snapshot::{Limits, ListenerTls};
use crate::tally::{Cell as Count, ListenerCounts, PerWorker};
use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::server::Acceptor;
use std::cell::Cell;
use std::convert::Infallible;
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

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
pub async fn serve(worker: Rc<Worker>, listener_index: usize, mut stream: TcpStream, peer: SocketAddr, seated: Seated) {
    // The snapshot is not kept: a connection may live for days, and each request adopts the one of its time.
    let Some(terms) = Terms::of(&worker, listener_index) else { return };
    let seat = worker.seat();
    let _counted = Counted::new(&worker, Arc::clone(&terms.connections));
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let served = match introduce(&worker, &terms, &mut stream, peer, seated).await {
        Ok(Some((peer, _seated))) => {
            let client = Rc::new(Client::new(peer, terms.tls.is_some(), listener_index));
            carry(&seat, client, &terms, stream).await
        }
        Ok(None) => Ok(()),
        Err(unserved) => Err(unserved),
    };
    match served {
        Ok(()) => {}
        Err(Unserved::Left) => {}
        Err(Unserved::Cut(why)) => terms.counts.cut(worker.index, why),
        Err(Unserved::TurnedAway(why)) => terms.counts.turn_away(worker.index, why),
    }
}

/// Who the client is: the peer, or who a header names where the listener asks for one, with his place among his own. None if
/// there is no such header.
async fn introduce(
    worker: &Worker,
    terms: &Terms,
    stream: &mut TcpStream,
    peer: SocketAddr,
    seated: Seated,
) -> Result<Option<(SocketAddr, Seated)>, Unserved> {
    if !terms.proxy_protocol {
        return Ok(Some((peer, seated)));
    }
    let named = timeout(terms.limits.first_byte_timeout, introduced::client(stream, peer)).await;
    let named = named.map_err(|_| Unserved::Cut(Cut::FirstByte))?;
    let Ok(Some(client)) = named else { return Ok(None) };
    let seated = seated.of(&worker.adopted().snapshot, client.ip()).map_err(Unserved::TurnedAway)?;
    Ok(Some((client, seated)))
}

/// TLS or not, then the protocol that the client speaks. What each step needs has a box of its own, so that a connection
/// holds what it is doing and not room for the largest thing that it might do.
async fn carry(seat: &Seat, client: Rc<Client>, terms: &Terms, stream: TcpStream) -> Result<(), Unserved> {
    let talk = Talk { seat, client, terms, pulse: Rc::default() };
    match &terms.tls {
        Some(tls) => {
            let stream = Watched::new(stream, Rc::clone(&talk.pulse));
            let shaken = Box::pin(async move {
                let shaken = shake_hands(seat.worker(), terms, tls, stream).await?;
                Ok::<_, Unserved>(shaken.map(|(protocol, stream)| talk.begin(protocol, stream)))
            });
            match shaken.await? {
                Some(conversation) => conversation.await,
                None => Ok(()),
            }
        }
        None => match timeout(terms.limits.first_byte_timeout, sniff(&stream, terms)).await {
            Ok(Some(protocol)) => {
                let stream = Watched::new(stream, Rc::clone(&talk.pulse));
                talk.begin(protocol, stream).await
            }
            Ok(None) => Ok(()),
            Err(_) => Err(Unserved::Cut(Cut::FirstByte)),
        },
    }
}

/// Why a connection ended other than by itself.
enum Unserved {
    /// The client did not end it when it was told.
    Left,
    Cut(Cut),
    TurnedAway(TurnedAway),
}

/// Waits for a turn, then for the handshake, both within its time; none if the client gives up or speaks nothing that
/// the listener does.
async fn shake_hands(
    worker: &Worker,
    terms: &Terms,
    tls: &ListenerTls,
    stream: Watched,
) -> Result<Option<(Protocol, TlsStream<Watched>)>, Unserved> {
    let late = sleep(terms.limits.tls_handshake_timeout);
    let mut late = pin!(late);
    let turn = tokio::select! {
        turn = worker.handshakes.next(terms.limits.max_handshakes, terms.workers) => turn,
        () = &mut late => return Err(Unserved::TurnedAway(TurnedAway::Handshakes)),
    };
    let accepted = tokio::select! {
        accepted = accept(tls, stream) => accepted,
        () = &mut late => return Err(Unserved::Cut(Cut::Handshake)),
    };
    drop(turn);
    let Ok(stream) = accepted else { return Ok(None) };
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ if terms.http1 => Protocol::Http1,
        _ => return Ok(None),
    };
    Ok(Some((protocol, stream)))
}

/// The handshake, with the cipher that is best for the client.
async fn accept(tls: &ListenerTls, stream: Watched) -> io::Result<TlsStream<Watched>> {
    let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = tls.for_client(&begun.client_hello());
    begun.into_stream(config).await
}

/// What a connection takes from the snapshot it is accepted under.
struct Terms {
    tls: Option<Arc<ListenerTls>>,
    proxy_protocol: bool,
    http1: bool,
    http2: bool,
    limits: Arc<Limits>,
    connections: Arc<PerWorker<Count>>,
    counts: Arc<PerWorker<ListenerCounts>>,
    workers: usize,
}

impl Terms {
    fn of(worker: &Worker, listener: usize) -> Option<Terms> {
        let adopted = worker.adopted();
        let listener = adopted.snapshot.listeners.get(listener)?;
        Some(Terms {
            tls: listener.tls.clone(),
            proxy_protocol: listener.proxy_protocol,
            http1: listener.http1,
            http2: listener.http2,
            limits: Arc::clone(&adopted.snapshot.limits),
            connections: Arc::clone(&listener.connections),
            counts: Arc::clone(&listener.counts),
            workers: listener.connections.iter().count(),
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

/// A connection that begins to speak HTTP.
struct Talk<'a> {
    seat: &'a Seat,
    client: Rc<Client>,
    terms: &'a Terms,
    pulse: Rc<Pulse>,
}

/// A connection from its first request to its end.
type Conversation<'a> = Pin<Box<dyn Future<Output = Result<(), Unserved>> + 'a>>;

/// A request that is being answered. In a box: hyper moves what it is given about, several times a stream over HTTP/2, and
/// over HTTP/1 keeps room for the next one in each connection that is idle.
type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>>>>;

impl<'a> Talk<'a> {
    fn begin<S: ClientStream>(self, protocol: Protocol, mut stream: S) -> Conversation<'a> {
        let http2 = matches!(protocol, Protocol::Http2);
        let limits = &self.terms.limits;
        let resets = u32::try_from(limits.h2_resets).unwrap_or(u32::MAX);
        self.pulse.open(http2, limits.requests_per_connection, stream.has_plaintext(), resets);
        if http2 { self.http2(stream) } else { self.http1(stream) }
    }

    fn http1<S: ClientStream>(self, stream: S) -> Conversation<'a> {
        let limits = &self.terms.limits;
        let io = TokioIo::new(Strict::new(stream, Rc::clone(&self.pulse), caps(limits)));
        let mut connection = http1_builder(limits).serve_connection(io, self.service(false));
        let watch = self.watch(false);
        Box::pin(async move {
            let ended = run(watch, Pin::new(&mut connection), |connection| connection.graceful_shutdown()).await?;
            let parts = connection.into_parts();
            let Remains { stream, kept, refused } = parts.io.into_inner().into_remains();
            let (worker, client, pulse) = (self.seat.worker(), &self.client, &self.pulse);
            match (ended, client.tunnel.take(), refused) {
                (Ok(()), Some(tunnel), _) => Box::pin(tunnel.run(stream, [parts.read_buf, kept.freeze()])).await,
                (_, _, Some(refusal)) => {
                    Box::pin(misread::tell(worker, client, pulse, stream, &kept, refusal)).await;
                }
                // hyper has told the client already.
                (Err(error), ..) if error.is_parse() => misread::count(worker, Refusal::BadRequest),
                _ => {}
            }
            Ok(())
        })
    }

    fn http2<S: ClientStream>(self, stream: S) -> Conversation<'a> {
        let Talk { seat, terms, pulse, .. } = &self;
        let (limits, counts) = (&terms.limits, Arc::clone(&terms.counts));
        let worker = seat.worker().index;
        let streams = streams::Terms { pulse: Rc::clone(pulse), stall: limits.write_stall, worker, counts };
        let streams = Streams(Rc::new(streams));
        let io = TokioIo::new(Paced::new(stream, Rc::clone(pulse), limits.h2_control_frames));
        let mut connection = Box::pin(http2_builder(limits, streams).serve_connection(io, self.service(true)));
        let watch = self.watch(true);
        Box::pin(async move {
            match run(watch, connection.as_mut(), |connection| connection.graceful_shutdown()).await? {
                Err(error) if is_flood(&error) => Err(Unserved::Cut(Cut::Flood)),
                _ => Ok(()),
            }
        })
    }

    /// What answers the connection's requests.
    fn service(
        &self,
        http2: bool,
    ) -> impl Service<Request<Incoming>, Response = Response<Body>, Error = Infallible, Future = Answering> + use<>
    {
        let (worker, client, pulse) = (Rc::clone(self.seat.worker()), Rc::clone(&self.client), Rc::clone(&self.pulse));
        service_fn(move |mut request: Request<Incoming>| -> Answering {
            // What an HTTP/2 stream becomes that asks for a WebSocket.
            let upgrade = request.extensions_mut().remove::<OnUpgrade>().filter(|_| http2);
            let under_way = pulse.begin(request.body().is_end_stream());
            let hand_out = |response: Response<Body>, client: &Client, under_way: UnderWay| {
                hand_out(response, client, upgrade, under_way)
            };
            Box::pin(request::handle(Rc::clone(&worker), Rc::clone(&client), request, under_way, hand_out))
        })
    }

    fn watch(&self, http2: bool) -> Watch<'a> {
        let (seat, limits) = (self.seat, &self.terms.limits);
        let age = limits.connection_max_age;
        let age = (age < Duration::MAX).then(|| with_jitter(age, seat.worker()));
        Watch {
            seat,
            pulse: Rc::clone(&self.pulse),
            patience: limits.first_byte_timeout,
            begun: http2,
            vigil: Vigil::new(Rc::clone(&self.pulse), http2, limits, age),
        }
    }
}

/// The answer as hyper gets it, whose body, or the WebSocket that it begins, keeps its request under way.
fn hand_out(
    mut response: Response<Body>,
    client: &Client,
    upgrade: Option<OnUpgrade>,
    under_way: UnderWay,
) -> Response<Body> {
    if under_way.is_last() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    under_way.answered();
    match (upgrade, client.tunnel.take()) {
        (Some(upgrade), Some(tunnel)) => {
            tokio::task::spawn_local(run_stream(upgrade, tunnel, under_way));
            return response;
        }
        // A client that asks for a WebSocket takes every 2xx for one.
        (Some(_), None) if response.status().is_success() => *response.status_mut() = StatusCode::BAD_GATEWAY,
        (_, tunnel) => client.tunnel.set(tunnel),
    }
    response.body_mut().hold(under_way);
    response
}

/// Carries a WebSocket on a stream of an HTTP/2 connection, whose request is under way to its end.
async fn run_stream(upgrade: OnUpgrade, tunnel: Box<Tunnel>, under_way: UnderWay) {
    if let Ok(stream) = upgrade.await {
        tunnel.run(TokioIo::new(stream), [Bytes::new(), Bytes::new()]).await;
    }
    drop(under_way);
}

/// Whether an HTTP/2 connection was ended because its client does too much of something.
fn is_flood(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_library() && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// A client's byte stream: TCP, or TLS over it.
trait ClientStream: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Whether something that the client sent came with the handshake already, so that no read will show it.
    fn has_plaintext(&mut self) -> bool;
}

impl ClientStream for Watched {
    fn has_plaintext(&mut self) -> bool {
        false
    }
}

impl ClientStream for TlsStream<Watched> {
    fn has_plaintext(&mut self) -> bool {
        let state = self.get_mut().1.process_new_packets();
        state.is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }
}

/// A tenth more or less, so that connections that began together do not end together.
fn with_jitter(age: Duration, worker: &Worker) -> Duration {
    let tenth = age.checked_div(10).unwrap_or_default();
    let per_mille = worker.random_below(1_000).saturating_mul(2);
    age.saturating_sub(tenth).saturating_add(tenth.saturating_mul(per_mille).checked_div(1_000).unwrap_or_default())
}

/// What a connection is watched with.
struct Watch<'a> {
    seat: &'a Seat,
    pulse: Rc<Pulse>,
    /// How long a connection without a request is left alone when the worker drains.
    patience: Duration,
    /// Whether it can tell its client that no request was taken.
    begun: bool,
    vigil: Vigil,
}

/// Polls a connection to its end, and tells it once to finish: when the worker drains, when it has lasted long enough,
/// when nothing happens on it. One whose first request may be on its way when the worker drains is told when that has
/// come: hyper would close it at once. How it ended.
fn run<C>(
    mut watch: Watch<'_>,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) -> impl Future<Output = Result<hyper::Result<()>, Unserved>>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut late: Option<Pin<Box<Sleep>>> = None;
    let mut is_seated = false;
    poll_fn(move |cx| {
        if !std::mem::replace(&mut is_seated, true) {
            watch.seat.wake_by(cx.waker().clone());
        }
        loop {
            let polled = connection.as_mut().poll(cx);
            if let Some(how) = watch.pulse.abuse() {
                watch.pulse.reset();
                return Poll::Ready(Err(Unserved::Cut(how)));
            }
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(Ok(ended));
            }
            let mut ends = false;
            if !watch.vigil.is_told() {
                // HTTP/1 is asked to go elsewhere with an answer, HTTP/2 as soon as it has carried a request.
                let elsewhere = watch.begun && watch.pulse.has_begun() && watch.seat.worker().is_draining();
                ends = watch.pulse.asks_goaway() || elsewhere;
                if !ends && watch.seat.worker().must_finish() {
                    ends = watch.begun || watch.pulse.has_begun() || {
                        let late = late.get_or_insert_with(|| Box::pin(sleep(watch.patience)));
                        late.as_mut().poll(cx).is_ready()
                    };
                }
            }
            match watch.vigil.look(cx) {
                Verdict::Wait if !ends => return Poll::Pending,
                Verdict::Wait | Verdict::Finish => {
                    watch.vigil.tell();
                    finish(connection.as_mut());
                }
                Verdict::Cut(why) => {
                    watch.pulse.reset();
                    return Poll::Ready(Err(why.map_or(Unserved::Left, Unserved::Cut)));
                }
            }
        }
    })
}

/// What a head may have; hyper's own limits are behind these.
fn caps(limits: &Limits) -> Caps {
    Caps { head_bytes: limits.max_header_bytes, fields: limits.max_headers, target_bytes: limits.max_uri_bytes }
}

fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // hyper sets a timer for each head; `vigil` does with one for the connection.
        .header_read_timeout(None)
        .max_buf_size(limits.h1_buffer)
        .max_header_size(limits.max_header_bytes)
        .keep_alive(true)
        .half_close(false)
        // One copy of a small answer is cheaper than a vectored write.
        .writev(false);
    if limits.max_headers != HYPER_HEADERS {
        builder.max_headers(limits.max_headers);
    }
    builder
}

fn http2_builder(limits: &Limits, streams: Streams) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
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
