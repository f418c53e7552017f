//! Requests on their way from the workers to whoever tells a collector of traces: a bounded channel for which nobody waits.
//!
//! What does not fit is dropped and counted. Of requests that are not sampled nothing comes here.

use crate::clock::Wall;
use crate::rollout::Arm;
use http::{Method, Version};
use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

/// A trace's id as hexadecimal digits.
pub type TraceId = [u8; 32];
/// A span's id as hexadecimal digits.
pub type SpanId = [u8; 16];

/// A request that has ended, with what it took to answer it.
#[derive(Debug)]
pub struct Request {
    /// The trace it belongs to.
    pub trace: TraceId,
    /// Its span.
    pub span: SpanId,
    /// The caller's span, if it named one.
    pub parent: Option<SpanId>,
    /// When it came.
    pub began: Wall,
    /// From its head to the end of the answer's body, in microseconds.
    pub took_us: u64,
    /// The listener's address as configured.
    pub listener: Arc<str>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The protocol's version.
    pub version: Version,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: Box<str>,
    /// The route it took, if any.
    pub route: Option<Arc<str>>,
    /// What the client got; none if it left before.
    pub status: Option<u16>,
    /// What went wrong, if anything.
    pub error: Option<&'static str>,
    /// What was decided, by rollout in the route's order.
    pub flags: Vec<Flag>,
    /// Which of them chose the upstream, or else the first.
    pub choosing: usize,
    /// What upstreams were asked.
    pub calls: Vec<Call>,
}

/// A decision.
#[derive(Debug)]
pub struct Flag {
    /// The rollout.
    pub rollout: Arc<str>,
    /// Its arm.
    pub arm: Arm,
    /// Why.
    pub reason: Cow<'static, str>,
    /// The stage that the plan was in.
    pub stage: Option<Arc<str>>,
}

/// A request to an upstream.
#[derive(Debug)]
pub struct Call {
    /// Its span.
    pub span: SpanId,
    /// The upstream.
    pub upstream: Arc<str>,
    /// Where it is reached, as configured; its name, if it has several endpoints.
    pub authority: Arc<str>,
    /// Whether it is asked over TLS.
    pub secure: bool,
    /// Whether it is asked over HTTP/2.
    pub http2: bool,
    /// Whether stable stood in for a canary that failed.
    pub fallback: bool,
    /// When it was sent, in microseconds after the request came.
    pub began_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// What it answered.
    pub status: Option<u16>,
    /// Why there is no answer.
    pub error: Option<&'static str>,
}

impl Request {
    /// How many spans it is.
    pub fn spans(&self) -> u64 {
        1 + self.calls.len() as u64
    }
}

/// Of which requests a collector of traces is told.
#[derive(Debug, Clone)]
pub struct Traces {
    /// So many ppm of those whose caller does not decide it.
    pub share_ppm: u32,
    /// The way there.
    pub spans: Arc<Spans>,
}

/// The way of the requests.
#[derive(Debug)]
pub struct Spans {
    given: SyncSender<Box<Request>>,
    /// Until somebody takes them.
    taken: Mutex<Option<Receiver<Box<Request>>>>,
    /// What came of all spans.
    pub counts: Counts,
}

/// What came of spans.
#[derive(Debug, Default)]
pub struct Counts {
    /// The collector has them.
    pub sent: AtomicU64,
    /// The collector would not take them, or could not be reached.
    pub failed: AtomicU64,
    /// Too many waited.
    pub dropped: AtomicU64,
}

impl Default for Spans {
    fn default() -> Self {
        let (given, taken) = sync_channel(REQUESTS_MAX);
        Spans { given, taken: Mutex::new(Some(taken)), counts: Counts::default() }
    }
}

impl Spans {
    /// Sends a request off; dropped and counted if too many wait already. Never waits.
    pub fn offer(&self, request: Box<Request>) {
        let spans = request.spans();
        if self.given.try_send(request).is_err() {
            self.counts.dropped.fetch_add(spans, Ordering::Relaxed);
        }
    }

    /// Where they arrive. Whoever calls it second gets none.
    pub fn take(&self) -> Option<Receiver<Box<Request>>> {
        self.taken.lock().ok().and_then(|mut taken| taken.take())
    }
}

/// Requests that wait; with paths as long as they may be 4 MiB.
const REQUESTS_MAX: usize = 2_048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_is_dropped_and_counted_by_spans() {
        let spans = Spans::default();
        let call = || Call {
            span: *b"00f067aa0ba902b8",
            upstream: "new".into(),
            authority: "127.0.0.1:9002".into(),
            secure: false,
            http2: false,
            fallback: false,
            began_us: 0,
            took_us: 1,
            status: Some(200),
            error: None,
        };
        let request = || {
            Box::new(Request {
                trace: *b"4bf92f3577b34da6a3ce929d0e0e4736",
                span: *b"00f067aa0ba902b7",
                parent: None,
                began: Wall::from_millis(0),
                took_us: 1,
                listener: "127.0.0.1:8080".into(),
                secure: false,
                version: Version::HTTP_11,
                method: Method::GET,
                path: "/".into(),
                route: None,
                status: Some(200),
                error: None,
                flags: Vec::new(),
                choosing: 0,
                calls: vec![call(), call()],
            })
        };
        for _ in 0..REQUESTS_MAX + 5 {
            spans.offer(request());
        }
        assert_eq!(spans.counts.dropped.load(Ordering::Relaxed), 5 * 3);
        assert_eq!(spans.take().map(|taken| taken.try_iter().count()), Some(REQUESTS_MAX));
        assert!(spans.take().is_none(), "there is one way out");
    }
}
