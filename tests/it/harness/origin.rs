//! Upstreams in this process: HTTP/1.1 and HTTP/2 on one port, each on a thread of its own, following a script and
//! recording every request.

use super::piped::{AnyBody, header_map, pairs, piped, sized};
use super::reply::{Answer, Content, PATTERN_STEP, Reply, Step, pattern};
pub use super::seen::Seen;
use super::wait::soon;
use super::wire::{Left, Piece, Wire};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A scripted upstream. Dropping it ends it with all its connections.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// Ends the thread when dropped.
    _end: watch::Sender<()>,
}

struct Shared {
    name: String,
    script: RwLock<Arc<Script>>,
    state: watch::Sender<State>,
    /// Changes when the connections that are open are to end, and how.
    ending: watch::Sender<(u64, Ending)>,
    /// What HTTP/2 connections allow from the next one on.
    streams_max: AtomicU32,
}

/// How an origin ends its connections.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Ending {
    /// HTTP/2 says so before.
    #[default]
    GoAway,
    /// Without a word.
    Close,
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// What an origin has seen so far.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Connections accepted.
    pub accepted: u64,
    /// Of those, still open.
    pub open: u64,
    /// Requests that are being answered, by HTTP/2 connection.
    pub streams: BTreeMap<u64, u64>,
    /// The most of them there were at once on one connection.
    pub streams_peak: u64,
    /// Requests whose head has arrived, in order.
    pub requests: Vec<Seen>,
    /// Bytes of `Content::Fill` and `Content::Chunked` that were taken.
    pub filled: u64,
}

impl Origin {
    /// Starts one that answers `Reply::Hello` in clear text.
    pub async fn start(name: &str) -> Origin {
        Origin::launch(name, None).await
    }

    /// Starts one behind TLS; the protocol is chosen by ALPN.
    pub async fn start_tls(name: &str, config: Arc<rustls::ServerConfig>) -> Origin {
        Origin::launch(name, Some(TlsAcceptor::from(config))).await
    }

    async fn launch(name: &str, tls: Option<TlsAcceptor>) -> Origin {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let address = listener.local_addr().expect("it is bound");
        let script: Arc<Script> = Arc::new(|_| Reply::Hello);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            script: RwLock::new(script),
            state: watch::Sender::default(),
            ending: watch::Sender::default(),
            streams_max: AtomicU32::new(200),
        });
        let (end, ended) = watch::channel(());
        let served = Arc::clone(&shared);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(run(listener, tls, served, ended));
        };
        std::thread::Builder::new().name(format!("origin {name}")).spawn(body).expect("a thread");
        Origin { address, shared, _end: end }
    }

    /// From the next request on, this decides what happens.
    pub fn script(&self, script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *self.shared.script.write().expect("nobody panics with it") = Arc::new(script);
    }

    /// HTTP/2 connections allow that many streams from the next one on.
    pub fn limit_streams(&self, streams: u32) {
        self.shared.streams_max.store(streams, Ordering::Relaxed);
    }

    /// Ends the HTTP/2 connections that are open.
    pub fn end_connections(&self, ending: Ending) {
        self.shared.ending.send_modify(|present| *present = (present.0 + 1, ending));
    }

    /// Requests so far.
    pub fn count(&self) -> u64 {
        self.shared.state.borrow().requests.len() as u64
    }

    /// Bytes of `Content::Fill` and `Content::Chunked` that were taken.
    pub fn filled(&self) -> u64 {
        self.shared.state.borrow().filled
    }

    /// Everything so far.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// The latest request.
    pub fn last(&self) -> Seen {
        self.shared.state.borrow().requests.last().cloned().expect("a request has arrived")
    }

    /// Waits until what has been seen is as `wanted` says.
    pub async fn until(&self, what: &str, wanted: impl Fn(&State) -> bool) -> State {
        let mut state = self.shared.state.subscribe();
        let reached = soon(&format!("{}: {what}", self.shared.name), state.wait_for(|state| wanted(state))).await;
        reached.map(|state| state.clone()).expect("the origin holds the sender")
    }
}

async fn run(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    mut ended: watch::Receiver<()>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener of ours");
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.changed() => return,
        };
        let Ok((stream, _)) = stream else { continue };
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut number = 0;
            shared.state.send_modify(|state| {
                state.accepted += 1;
                state.open += 1;
                number = state.accepted;
            });
            // How a connection fails is seen by the other side; here it only ends.
            let _ = connection(stream, tls, &shared, number).await;
            shared.state.send_modify(|state| state.open -= 1);
        });
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, shared: &Arc<Shared>, number: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A second handle on the socket: closing with zero linger is how a reset is made.
    let socket = socket2::SockRef::from(&stream).try_clone()?;
    if let Some(tls) = tls {
        let stream = tls.accept(stream).await?;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            return http2(TokioIo::new(stream), shared, number).await;
        }
        return http1(Wire::new(stream), socket, shared, number).await;
    }
    let mut start = [0; 3];
    while let count @ ..3 = stream.peek(&mut start).await? {
        if count == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if &start == b"PRI" {
        return http2(TokioIo::new(stream), shared, number).await;
    }
    http1(Wire::new(stream), socket, shared, number).await
}

impl Shared {
    fn record(&self, seen: Seen) -> (usize, Reply) {
        let script = Arc::clone(&self.script.read().expect("nobody panics with it"));
        let reply = script(&seen);
        let mut index = 0;
        self.state.send_modify(|state| {
            index = state.requests.len();
            state.requests.push(seen);
        });
        (index, reply)
    }

    fn body_piece(&self, index: usize, data: &[u8], hasher: &mut crc32fast::Hasher) {
        hasher.update(data);
        let checksum = hasher.clone().finalize();
        self.state.send_modify(|state| {
            state.requests[index].body_bytes += data.len() as u64;
            state.requests[index].body_checksum = checksum;
        });
    }

    /// Who reads on after the end learns nothing new.
    fn body_end(&self, index: usize, trailers: Vec<(String, String)>) {
        self.state.send_if_modified(|state| {
            let seen = &mut state.requests[index];
            let ends = !seen.complete;
            if ends {
                (seen.trailers, seen.complete) = (trailers, true);
            }
            ends
        });
    }

    fn hello(&self, index: usize) -> Answer {
        let body = self.state.borrow().requests[index].describe(&self.name);
        let fields = vec![("content-type", "application/json".to_owned()), ("x-origin", self.name.clone())];
        Answer { status: 200, fields, body: Content::Sized(body), ..Answer::default() }
    }

    fn filled(&self, bytes: usize) {
        self.state.send_modify(|state| state.filled += bytes as u64);
    }
}

// HTTP/1.1.

async fn http1(mut wire: Wire, socket: socket2::Socket, shared: &Arc<Shared>, number: u64) -> io::Result<()> {
    while let Some(head) = wire.head().await? {
        let mut words = head.start.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let version = words.next().unwrap_or_default();
        let fields = head.fields.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
        let seen = Seen { connection: number, version, method, target, fields, ..Seen::default() };
        let (index, reply) = shared.record(seen);
        let mut body =
            Upload { index, left: head.framing().unwrap_or(Left::Nothing), hasher: crc32fast::Hasher::new() };
        let answer = match reply {
            Reply::Raw(steps) => {
                if !raw_steps(&mut wire, steps, &socket).await? {
                    return Ok(());
                }
                continue;
            }
            Reply::Answer(answer) => answer,
            Reply::Hello => {
                while body.next(&mut wire, shared).await?.is_some() {}
                shared.hello(index)
            }
        };
        if !http1_answer(&mut wire, answer, &mut body, shared).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// A request's body on its way in.
struct Upload {
    index: usize,
    left: Left,
    hasher: crc32fast::Hasher,
}

impl Upload {
    async fn next(&mut self, wire: &mut Wire, shared: &Shared) -> io::Result<Option<Bytes>> {
        match wire.piece(&mut self.left).await? {
            Piece::Data(data) => {
                shared.body_piece(self.index, &data, &mut self.hasher);
                Ok(Some(data))
            }
            Piece::End(trailers) => {
                shared.body_end(self.index, trailers);
                Ok(None)
            }
            Piece::Cut => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Carries out raw steps; false if the connection is over.
async fn raw_steps(wire: &mut Wire, steps: Vec<Step>, socket: &socket2::Socket) -> io::Result<bool> {
    for step in steps {
        match step {
            Step::Write(bytes) => wire.write(&bytes).await?,
            Step::Trickle(bytes, pause) => {
                for byte in bytes {
                    wire.write(&[byte]).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Step::Hang => {
                while wire.fill().await? {}
                return Ok(false);
            }
            Step::Close => {
                wire.close().await?;
                return Ok(false);
            }
            Step::Reset => {
                socket.set_linger(Some(Duration::ZERO))?;
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Sends a proper answer; false if the connection is over.
async fn http1_answer(wire: &mut Wire, answer: Answer, body: &mut Upload, shared: &Shared) -> io::Result<bool> {
    if let Some(gate) = &answer.read_after {
        gate.passed().await;
    }
    if !matches!(answer.body, Content::Echo) {
        while body.next(wire, shared).await?.is_some() {}
    }
    wait_to_send(&answer).await;
    let length = match &answer.body {
        Content::Sized(bytes) if answer.trailers.is_empty() => Some(bytes.len() as u64),
        Content::Fill { bytes, sized: true } => Some(*bytes),
        Content::Cut(bytes) => Some(bytes.len() as u64 + 1000),
        _ => None,
    };
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status_or_ok());
    for (name, value) in &answer.fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&length.map_or("transfer-encoding: chunked\r\n".to_owned(), |n| format!("content-length: {n}\r\n")));
    wire.write(format!("{head}\r\n").as_bytes()).await?;
    let chunked = length.is_none();
    match answer.body {
        Content::Sized(bytes) => http1_piece(wire, &bytes, chunked).await?,
        Content::Chunked(chunks) => {
            for chunk in chunks {
                http1_piece(wire, &chunk, true).await?;
                shared.filled(chunk.len());
            }
        }
        Content::Fill { bytes, .. } => {
            let mut at = 0;
            while at < bytes {
                let piece = pattern(at, (bytes - at).min(PATTERN_STEP) as usize);
                http1_piece(wire, &piece, chunked).await?;
                shared.filled(piece.len());
                at += piece.len() as u64;
            }
        }
        Content::Echo => {
            while let Some(data) = body.next(wire, shared).await? {
                http1_piece(wire, &data, true).await?;
            }
        }
        Content::Paused { first, gate, last } => {
            http1_piece(wire, &first, true).await?;
            gate.passed().await;
            http1_piece(wire, &last, true).await?;
        }
        Content::Cut(bytes) => {
            wire.write(&bytes).await?;
            wire.close().await?;
            return Ok(false);
        }
    }
    if chunked {
        let trailers: String = answer.trailers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        wire.write(format!("0\r\n{trailers}\r\n").as_bytes()).await?;
    }
    Ok(true)
}

async fn http1_piece(wire: &mut Wire, data: &[u8], chunked: bool) -> io::Result<()> {
    if !chunked {
        return wire.write(data).await;
    }
    if data.is_empty() {
        return Ok(());
    }
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    wire.write(&chunk).await
}

async fn wait_to_send(answer: &Answer) {
    if let Some(gate) = &answer.send_after {
        gate.passed().await;
    }
    if !answer.delay.is_zero() {
        tokio::time::sleep(answer.delay).await;
    }
}

// HTTP/2.

async fn http2<I>(io: I, shared: &Arc<Shared>, number: u64) -> io::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut ending = shared.ending.subscribe();
    let streams_max = shared.streams_max.load(Ordering::Relaxed);
    let shared = Arc::clone(shared);
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let _under_way = UnderWay::begin(&shared, number);
            Ok::<_, Infallible>(http2_answer(request, Arc::clone(&shared), number).await)
        }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // As little ahead on each stream as the protocol says, and room for all of it in small pieces.
    builder.initial_stream_window_size(65_535).initial_connection_window_size(4 << 20);
    let mut serving = pin!(builder.max_concurrent_streams(streams_max).serve_connection(io, service));
    loop {
        tokio::select! {
            served = serving.as_mut() => return served.map_err(io::Error::other),
            Ok(()) = ending.changed() => match ending.borrow_and_update().1 {
                Ending::GoAway => serving.as_mut().graceful_shutdown(),
                Ending::Close => return Ok(()),
            },
        }
    }
}

/// Counts a request as being answered.
struct UnderWay {
    shared: Arc<Shared>,
    connection: u64,
}

impl UnderWay {
    fn begin(shared: &Arc<Shared>, connection: u64) -> UnderWay {
        shared.state.send_modify(|state| {
            let streams = state.streams.entry(connection).or_default();
            *streams += 1;
            state.streams_peak = state.streams_peak.max(*streams);
        });
        UnderWay { shared: Arc::clone(shared), connection }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.shared.state.send_modify(|state| *state.streams.entry(self.connection).or_default() -= 1);
    }
}

async fn http2_answer(request: Request<Incoming>, shared: Arc<Shared>, number: u64) -> Response<AnyBody> {
    let (parts, mut upload) = request.into_parts();
    let mut fields = pairs(&parts.headers);
    fields.extend(parts.uri.authority().map(|authority| (":authority".to_owned(), authority.to_string())));
    let seen = Seen {
        connection: number,
        version: "HTTP/2".to_owned(),
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        fields,
        ..Seen::default()
    };
    let (index, reply) = shared.record(seen);
    let answer = match reply {
        Reply::Raw(_) => panic!("exact bytes are for HTTP/1.1 alone"),
        Reply::Answer(answer) => answer,
        Reply::Hello => {
            http2_upload(&mut upload, index, &shared, None).await;
            shared.hello(index)
        }
    };
    if let Some(gate) = &answer.read_after {
        gate.passed().await;
    }
    if !matches!(answer.body, Content::Echo) {
        http2_upload(&mut upload, index, &shared, None).await;
    }
    wait_to_send(&answer).await;
    let mut response = Response::builder().status(answer.status_or_ok());
    for (name, value) in &answer.fields {
        response = response.header(*name, value);
    }
    response.body(http2_body(answer, upload, index, shared)).expect("a script's answer is valid")
}

fn http2_body(answer: Answer, mut upload: Incoming, index: usize, shared: Arc<Shared>) -> AnyBody {
    let trailers = answer.trailers;
    if let (Content::Sized(bytes), true) = (&answer.body, trailers.is_empty()) {
        return sized(bytes.clone());
    }
    let (feed, body) = piped();
    tokio::spawn(async move {
        match answer.body {
            Content::Sized(bytes) => {
                feed.data(bytes).await;
            }
            Content::Chunked(chunks) => {
                for chunk in chunks {
                    let length = chunk.len();
                    if !feed.data(chunk).await {
                        return;
                    }
                    shared.filled(length);
                }
            }
            Content::Fill { bytes, .. } => {
                let mut at = 0;
                while at < bytes {
                    let piece = pattern(at, (bytes - at).min(PATTERN_STEP) as usize);
                    let length = piece.len();
                    if !feed.data(piece).await {
                        return;
                    }
                    shared.filled(length);
                    at += length as u64;
                }
            }
            Content::Echo => http2_upload(&mut upload, index, &shared, Some(&feed)).await,
            Content::Paused { first, gate, last } => {
                feed.data(first).await;
                gate.passed().await;
                feed.data(last).await;
            }
            Content::Cut(bytes) => {
                feed.data(bytes).await;
                feed.cut().await;
                return;
            }
        }
        if !trailers.is_empty() {
            feed.trailers(header_map(&trailers)).await;
        }
    });
    body
}

/// Reads a request's body to its end, handing it on where `echo` asks for it.
async fn http2_upload(upload: &mut Incoming, index: usize, shared: &Shared, echo: Option<&super::piped::Feed>) {
    let mut hasher = crc32fast::Hasher::new();
    let mut trailers = Vec::new();
    while let Some(frame) = upload.frame().await {
        let Ok(frame) = frame else { return };
        match frame.into_data() {
            Ok(data) => {
                shared.body_piece(index, &data, &mut hasher);
                if let Some(echo) = echo {
                    echo.data(data).await;
                }
            }
            Err(frame) => trailers = frame.trailers_ref().map(pairs).unwrap_or_default(),
        }
    }
    shared.body_end(index, trailers);
}
