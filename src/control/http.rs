//! The HTTP client of the control plane: one HTTP/1.1 request on a connection of its own, over TLS if the URL asks for it. The
//! answer is bounded; redirects are not followed, so that no secret goes elsewhere. Deadlines are the caller's.
//!
//! `query` asks Prometheus servers with it, `notify` tells people.

use crate::config::HttpServer;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// One asker's way to look names up. A lookup blocks a thread, and a resolver that hangs must not take them all: one asker has
/// one at a time, all together a few.
#[derive(Clone, Debug)]
pub struct Lookups {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Lookups {
    /// Of the first asker.
    pub fn new() -> Lookups {
        Lookups { all: Arc::new(Semaphore::new(LOOKUPS_MAX)), own: Arc::new(Semaphore::new(1)) }
    }

    /// Of another asker, who shares the threads.
    #[must_use]
    pub fn another(&self) -> Lookups {
        Lookups { all: Arc::clone(&self.all), own: Arc::new(Semaphore::new(1)) }
    }

    /// Looks a name up in a task of its own, which holds its place until the thread is free again, whether anybody waits or
    /// not.
    async fn find(&self, host: String, port: u16) -> Result<Vec<SocketAddr>, String> {
        let busy = |_| "its name is still being looked up".to_owned();
        let own = Arc::clone(&self.own).try_acquire_owned().map_err(busy)?;
        let all = Arc::clone(&self.all);
        let lookup = tokio::spawn(async move {
            // The semaphore is never closed.
            let _places = (own, all.acquire_owned().await);
            tokio::net::lookup_host((host, port)).await.map(Iterator::collect)
        });
        match lookup.await {
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err("its name could not be looked up".to_owned()),
        }
    }
}

/// Sends a request to a server and waits for its whole answer. Host, user agent and authorization are added.
///
/// # Errors
/// Why there is no answer, in words that name host and port and nothing else of the URL.
pub async fn exchange(server: &HttpServer, request: Request<Full<Bytes>>, lookups: &Lookups) -> Result<Answer, String> {
    let unreachable = |why: String| format!("cannot reach {}: {why}", server.authority);
    let request = addressed(server, request).ok_or("what is to be sent cannot be written as a request")?;
    let stream = connect(server, lookups).await.map_err(unreachable)?;
    match &server.tls {
        None => send(stream, request, server).await,
        Some((config, name)) => {
            let connector = TlsConnector::from(Arc::clone(config));
            let connected = connector.connect(name.clone(), stream).await;
            send(connected.map_err(|error| unreachable(error.to_string()))?, request, server).await
        }
    }
}

/// A secret as the text that it was made from.
pub fn text(secret: &crate::snapshot::Secret) -> Option<String> {
    String::from_utf8(secret.0.to_vec()).ok()
}

fn addressed(server: &HttpServer, mut request: Request<Full<Bytes>>) -> Option<Request<Full<Bytes>>> {
    let headers: &mut HeaderMap = request.headers_mut();
    // Servers that compare names know themselves without the usual port.
    let usual = if server.tls.is_some() { ":443" } else { ":80" };
    headers.insert(HOST, server.authority.strip_suffix(usual).unwrap_or(&server.authority).parse().ok()?);
    headers.insert(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")).parse().ok()?);
    if let Some(authorization) = &server.authorization {
        headers.insert(AUTHORIZATION, text(authorization)?.parse().ok()?);
    }
    Some(request)
}

async fn connect(server: &HttpServer, lookups: &Lookups) -> Result<TcpStream, String> {
    let addresses = match server.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, server.port)],
        Err(_) => lookups.find(server.host.clone(), server.port).await?,
    };
    let mut problem = "its name has no address".to_owned();
    for address in addresses.into_iter().take(ADDRESSES_MAX) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = error.to_string(),
        }
    }
    Err(problem)
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    server: &HttpServer,
) -> Result<Answer, String> {
    let broken = |why: &str| format!("{} breaks off: {why}", server.authority);
    let opened = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| broken(&error.to_string()))?;
    // Its error reaches the request as well; it ends with the request.
    let connection = Ending(tokio::spawn(async move { drop(connection.await) }));
    let answer = sender.send_request(request).await.map_err(|error| broken(&error.to_string()))?;
    let (head, body) = answer.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(format!("{} answers more than {BODY_BYTES_MAX} bytes", server.authority));
        }
        Err(error) => return Err(broken(&error.to_string())),
    };
    drop(connection);
    Ok(Answer { status: head.status, headers: head.headers, body })
}

/// A task that nobody needs any more once this is gone.
struct Ending(tokio::task::JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is asked for takes a few hundred bytes; a query that finds thousands of series is a mistake.
const BODY_BYTES_MAX: usize = 1 << 20;
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
/// Lookups under way at once, for all askers together.
const LOOKUPS_MAX: usize = 4;
