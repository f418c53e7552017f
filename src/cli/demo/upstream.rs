//! The demo's upstreams: small HTTP servers with a plausible latency, one of which can be made slow or failing, by a key
//! or by a POST to `/demo/slow`, `/demo/failing` or `/demo/healthy`.

use super::place::listen;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

/// How an upstream behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Fast and without errors.
    #[default]
    Healthy,
    /// Every answer takes hundreds of milliseconds.
    Slow,
    /// Every second answer is a 503.
    Failing,
}

impl Mode {
    const ALL: [Mode; 3] = [Mode::Healthy, Mode::Slow, Mode::Failing];

    /// Its name in paths and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Healthy => "healthy",
            Mode::Slow => "slow",
            Mode::Failing => "failing",
        }
    }
}

/// A running upstream; it ends with its runtime.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    mode: Arc<AtomicU8>,
}

impl Upstream {
    /// Starts on the usual port or, if that is taken, another. Must run inside a runtime.
    pub fn start(name: &'static str, usual_port: u16) -> io::Result<Upstream> {
        let listener = listen(usual_port)?;
        listener.set_nonblocking(true)?;
        let upstream = Upstream { address: listener.local_addr()?, mode: Arc::default() };
        tokio::spawn(serve(TcpListener::from_std(listener)?, name, Arc::clone(&upstream.mode)));
        Ok(upstream)
    }

    /// How it behaves now.
    pub fn mode(&self) -> Mode {
        read(&self.mode)
    }

    /// Makes it behave so from its next answer on.
    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}

async fn serve(listener: TcpListener, name: &'static str, mode: Arc<AtomicU8>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some will be free again.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let mode = Arc::clone(&mode);
        let service = service_fn(move |request| answer(name, Arc::clone(&mode), request));
        let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

async fn answer(
    name: &'static str,
    mode: Arc<AtomicU8>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Some(wanted) = request.uri().path().strip_prefix("/demo/") {
        return Ok(switch(name, &mode, wanted));
    }
    let mode = read(&mode);
    tokio::time::sleep(delay(name, mode)).await;
    if mode == Mode::Failing && fastrand::bool() {
        return Ok(reply(StatusCode::SERVICE_UNAVAILABLE, format!("{name} is failing\n")));
    }
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
    let text = format!("{name} answers {} ({})\n", header("x-user-id"), header("x-weir-rollout"));
    Ok(reply(StatusCode::OK, text))
}

fn switch(name: &str, mode: &AtomicU8, wanted: &str) -> Response<Full<Bytes>> {
    match Mode::ALL.into_iter().find(|mode| mode.name() == wanted) {
        Some(wanted) => {
            mode.store(wanted as u8, Ordering::Relaxed);
            reply(StatusCode::OK, format!("{name} is {} now\n", wanted.name()))
        }
        None => reply(StatusCode::NOT_FOUND, "there are /demo/healthy, /demo/slow and /demo/failing\n".to_owned()),
    }
}

fn reply(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

/// The new upstream is the faster one while it is healthy: that is why somebody rolls it out.
fn delay(name: &str, mode: Mode) -> Duration {
    let us = match (mode, name) {
        (Mode::Slow, _) => fastrand::u64(250_000..600_000),
        (_, "legacy") => 6_000 + fastrand::u64(..9_000) + tail_us(40_000),
        _ => 3_000 + fastrand::u64(..6_000) + tail_us(25_000),
    };
    Duration::from_micros(us)
}

/// One answer of fifty takes longer, as everywhere.
fn tail_us(longest_us: u64) -> u64 {
    if fastrand::u8(..50) == 0 { fastrand::u64(..longest_us) } else { 0 }
}

fn read(mode: &AtomicU8) -> Mode {
    let index = usize::from(mode.load(Ordering::Relaxed));
    Mode::ALL.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_is_kept_and_found_by_its_name() {
        let mode = AtomicU8::default();
        for wanted in Mode::ALL {
            assert_eq!(switch("new", &mode, wanted.name()).status(), StatusCode::OK);
            assert_eq!(read(&mode), wanted);
        }
        assert_eq!(switch("new", &mode, "broken").status(), StatusCode::NOT_FOUND);
        assert_eq!(read(&mode), Mode::Failing);
    }
}
