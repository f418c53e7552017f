//! One health check on the wire: connect, TLS if the upstream speaks it, and for a path one GET over a connection of its
//! own, as HTTP/1.1 or HTTP/2 like the upstream's requests.
//!
//! It passes if the answer is 2xx and arrives whole within the timeout. A redirect is no 2xx and is not followed: it says
//! that the answer is somewhere else. Of a long answer only the beginning is read, and then the status decides alone.

use super::Target;
use crate::config::HealthCheck;
use crate::config::units::print_span;
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Why a check failed, for people.
#[derive(Debug)]
pub enum Failure {
    /// No connection.
    Connect(io::Error),
    /// No TLS over it.
    Tls(io::Error),
    /// Not done in time.
    Late(Duration),
    /// Another status than 2xx.
    Status(StatusCode),
    /// No answer, no HTTP, or a body that broke off.
    Broken(hyper::Error),
    /// The configured host and path make no request.
    Request(http::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(error) => write!(f, "connect: {error}"),
            Failure::Tls(error) => write!(f, "tls: {error}"),
            Failure::Late(limit) => write!(f, "no answer within {}", print_span(*limit)),
            Failure::Status(status) => write!(f, "status {}", status.as_u16()),
            Failure::Broken(error) => {
                let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
                write!(f, "no proper answer: {error}{cause}")
            }
            Failure::Request(error) => write!(f, "no such request: {error}"),
        }
    }
}

/// Carries out one check. Whatever was opened for it is closed at its end.
///
/// # Errors
/// `Failure` if the check is not passed.
pub async fn check(target: &Target) -> Result<(), Failure> {
    let limit = target.health.timeout;
    timeout(limit, reach(target)).await.unwrap_or(Err(Failure::Late(limit)))
}

async fn reach(target: &Target) -> Result<(), Failure> {
    let stream = TcpStream::connect(target.endpoint.address).await.map_err(Failure::Connect)?;
    stream.set_nodelay(true).map_err(Failure::Connect)?;
    let (Some(tls), Some(name)) = (&target.tls, &target.endpoint.server_name) else { return ask(target, stream).await };
    let stream = TlsConnector::from(Arc::clone(tls)).connect(name.clone(), stream).await.map_err(Failure::Tls)?;
    ask(target, stream).await
}

async fn ask<S>(target: &Target, mut stream: S) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match &target.health.check {
        HealthCheck::Tcp => {
            // Politely: an end without a word fills the logs of TLS servers. It was open, and that is all we ask.
            let _ = stream.shutdown().await;
            Ok(())
        }
        HealthCheck::Path(path) if target.http2 => ask_http2(target, path, stream).await,
        HealthCheck::Path(path) => ask_http1(target, path, stream).await,
    }
}

async fn ask_http1<S>(target: &Target, path: &PathAndQuery, stream: S) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::builder().method(Method::GET).uri(path.as_str()).header(HOST, &*target.endpoint.authority);
    let request = request.header(USER_AGENT, AGENT).header(ACCEPT, "*/*").header(CONNECTION, "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(Failure::Request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Failure::Broken)?;
    let answer = async { judge(sender.send_request(request).await.map_err(Failure::Broken)?).await };
    let mut answer = pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with the answer already in hand.
        _ = connection => answer.await,
    }
}

async fn ask_http2<S>(target: &Target, path: &PathAndQuery, stream: S) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let scheme = if target.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = Uri::builder().scheme(scheme).authority(&*target.endpoint.authority).path_and_query(path.as_str());
    let uri = uri.build().map_err(Failure::Request)?;
    let request = Request::builder().method(Method::GET).uri(uri).version(Version::HTTP_2);
    let request = request.header(USER_AGENT, AGENT).header(ACCEPT, "*/*");
    let request = request.body(Empty::<Bytes>::new()).map_err(Failure::Request)?;
    let tasks = Tasks::default();
    let opened = http2::Builder::new(tasks.clone())
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(TokioIo::new(stream));
    let _end = End(tasks);
    let (mut sender, connection) = opened.await.map_err(Failure::Broken)?;
    let answer = async { judge(sender.send_request(request).await.map_err(Failure::Broken)?).await };
    let mut answer = pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

async fn judge(answer: Response<Incoming>) -> Result<(), Failure> {
    if !answer.status().is_success() {
        return Err(Failure::Status(answer.status()));
    }
    let mut body = answer.into_body();
    let mut read = 0_usize;
    while let Some(frame) = body.frame().await {
        read = read.saturating_add(frame.map_err(Failure::Broken)?.data_ref().map_or(0, Bytes::len));
        if read > BODY_BYTES_MAX {
            break;
        }
    }
    Ok(())
}

/// Runs the tasks of one HTTP/2 connection, which must not outlive its check.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Ends the tasks when it is dropped, however the check ends.
struct End(Tasks);

impl Drop for End {
    fn drop(&mut self) {
        // Taken out first: what a task drops may ask for the lock.
        let tasks = std::mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        drop(tasks);
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.spawn(async move {
            task.await;
        });
    }
}

/// What services see in their logs.
const AGENT: &str = "weir-health";
/// An answer's head: as much as weir takes from an upstream for a client.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// As much of an answer's body as is waited for: more than any service says about its health.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// What an HTTP/2 upstream may send before it has been read: the protocol's own default.
const WINDOW_BYTES: u32 = 65_535;
