//! One question to a Prometheus server: an HTTP/1.1 request on a connection of its own, over TLS if the URL asks for it. The
//! answer is bounded; redirects are not followed, so that no secret goes elsewhere. Deadlines are the caller's.

use super::answer;
use crate::config::{QueryConfig, QueryServer};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, USER_AGENT};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// The body of a good answer.
///
/// # Errors
/// Why there is none, in words that name host and port and nothing else of the URL.
pub async fn ask(query: &QueryConfig, lookups: &Arc<Semaphore>) -> Result<Bytes, String> {
    let server = &query.server;
    let unreachable = |why: String| format!("cannot reach {}: {why}", server.authority);
    let stream = connect(server, lookups).await.map_err(unreachable)?;
    let (status, body) = match &server.tls {
        None => exchange(stream, query).await?,
        Some((config, name)) => {
            let connector = TlsConnector::from(Arc::clone(config));
            let connected = connector.connect(name.clone(), stream).await;
            exchange(connected.map_err(|error| unreachable(error.to_string()))?, query).await?
        }
    };
    if status.is_success() {
        return Ok(body);
    }
    let words = serde_json::from_slice(&body).ok().and_then(|answer| answer::error(&answer));
    Err(words.unwrap_or_else(|| format!("{} answers {}", server.authority, status.as_u16())))
}

async fn connect(server: &QueryServer, lookups: &Arc<Semaphore>) -> Result<TcpStream, String> {
    let addresses = match server.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, server.port)],
        Err(_) => look_up(server.host.clone(), server.port, Arc::clone(lookups)).await?,
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

/// Looks a name up in a task of its own, which holds its place until the thread is free again, whether anybody waits or not.
async fn look_up(host: String, port: u16, lookups: Arc<Semaphore>) -> Result<Vec<SocketAddr>, String> {
    let lookup = tokio::spawn(async move {
        // The semaphore is never closed.
        let _place = lookups.acquire_owned().await;
        tokio::net::lookup_host((host, port)).await.map(Iterator::collect)
    });
    match lookup.await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err("its name could not be looked up".to_owned()),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    query: &QueryConfig,
) -> Result<(StatusCode, Bytes), String> {
    let broken = |why: &str| format!("{} breaks off: {why}", query.server.authority);
    let opened = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|error| broken(&error.to_string()))?;
    // Its error reaches the request as well; it ends with the request.
    let connection = Ending(tokio::spawn(async move { drop(connection.await) }));
    let request = request(query).ok_or("the query cannot be written as a request")?;
    let answer = sender.send_request(request).await.map_err(|error| broken(&error.to_string()))?;
    let status = answer.status();
    let body = match Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(format!("{} answers more than {BODY_BYTES_MAX} bytes", query.server.authority));
        }
        Err(error) => return Err(broken(&error.to_string())),
    };
    drop(connection);
    Ok((status, body))
}

/// A task that nobody needs any more once this is gone.
struct Ending(tokio::task::JoinHandle<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request(query: &QueryConfig) -> Option<Request<Empty<Bytes>>> {
    let server = &query.server;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let parameters = text(&server.parameters.0)?;
    let separator = if parameters.is_empty() { "" } else { "&" };
    let asked: String = form_urlencoded::Serializer::new(String::new()).append_pair("query", &query.expr).finish();
    let target = format!("{}/api/v1/query?{parameters}{separator}{asked}", text(&server.path.0)?);
    let mut request = Request::get(target).body(Empty::new()).ok()?;
    let headers: &mut HeaderMap = request.headers_mut();
    headers.insert(HOST, server.authority.parse().ok()?);
    headers.insert(ACCEPT, "application/json".parse().ok()?);
    headers.insert(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")).parse().ok()?);
    if let Some(authorization) = &server.authorization {
        headers.insert(AUTHORIZATION, text(&authorization.0)?.parse().ok()?);
    }
    Some(request)
}

/// One number takes a few hundred bytes; a query that finds thousands of series is a mistake.
const BODY_BYTES_MAX: usize = 1 << 20;
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;
