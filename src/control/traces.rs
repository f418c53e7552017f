//! Tells a collector of requests, as OpenTelemetry spans: OTLP over HTTP, as JSON, in batches from a thread of its own.
//!
//! Workers put requests into a bounded channel and never wait for it. What the collector does not take is tried again a few times
//! and then given up; all of it is counted, and nothing of it touches requests, commands or measurements.

mod form;

use super::http::{self, Answer, Lookups};
use crate::clock::Clock;
use crate::config::TracesConfig;
use crate::spans::{Request, Spans};
use bytes::Bytes;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// The thread that tells, from the first collector on.
#[derive(Debug)]
pub struct Exporter {
    clock: Clock,
    spans: Arc<Spans>,
    collector: watch::Sender<Option<TracesConfig>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Nobody is told yet.
    pub fn new(spans: Arc<Spans>, clock: Clock) -> Exporter {
        let (collector, ended) = (watch::Sender::default(), Arc::default());
        Exporter { clock, spans, collector, ended, thread: None }
    }

    /// From now on that collector is told, or none.
    pub fn adopt(&mut self, collector: Option<&TracesConfig>) {
        self.collector.send_replace(collector.cloned());
        if self.thread.is_some() || collector.is_none() {
            return;
        }
        let Some(arriving) = self.spans.take() else { return };
        let run = Run {
            clock: self.clock.clone(),
            spans: Arc::clone(&self.spans),
            collector: self.collector.subscribe(),
            ended: Arc::clone(&self.ended),
            lookups: Lookups::new(),
            fails: false,
        };
        let started = thread::Builder::new().name("weir-traces".into()).spawn(move || run.run(&arriving));
        self.thread = started.inspect_err(|error| tracing::error!(%error, "no collector is told of requests")).ok();
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that tells a collector of requests failed");
        }
    }
}

/// What that thread works with.
struct Run {
    clock: Clock,
    spans: Arc<Spans>,
    collector: watch::Receiver<Option<TracesConfig>>,
    ended: Arc<AtomicBool>,
    lookups: Lookups,
    /// Whether the last batch was not taken: that is said once.
    fails: bool,
}

impl Run {
    fn run(mut self, arriving: &Receiver<Box<Request>>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!(%error, "no collector is told of requests"),
        };
        loop {
            // Looked at first, so that what came before the end is in the last batch.
            let over = self.is_over();
            let batch = self.gather(arriving, over);
            if !batch.is_empty() {
                runtime.block_on(self.tell(&batch));
            } else if over {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// What has come since the last batch: with the first request it begins to wait for more, for a moment.
    fn gather(&self, arriving: &Receiver<Box<Request>>, over: bool) -> Vec<Request> {
        let first = if over { arriving.try_recv().ok() } else { arriving.recv_timeout(LOOK_EVERY).ok() };
        let mut batch: Vec<Request> = first.into_iter().map(|request| *request).collect();
        let began = self.clock.now();
        while !batch.is_empty() && batch.len() < BATCH_MAX {
            let left = GATHER_FOR.saturating_sub(self.clock.now().since(began));
            let next = match over || self.is_over() || left.is_zero() {
                true => arriving.try_recv().ok(),
                false => arriving.recv_timeout(left.min(LOOK_EVERY)).ok(),
            };
            match next {
                Some(request) => batch.push(*request),
                None if over || self.is_over() || left.is_zero() => break,
                None => {}
            }
        }
        batch
    }

    async fn tell(&mut self, batch: &[Request]) {
        let count = batch.iter().map(Request::spans).sum::<u64>();
        let Some(collector) = self.collector.borrow().clone() else {
            // It left the config while these were under way.
            self.spans.counts.failed.fetch_add(count, Ordering::Relaxed);
            return;
        };
        let body = Bytes::from(form::body(batch, &collector.service));
        let rejected = match self.deliver(&collector, body).await {
            Ok(answer) => {
                if std::mem::take(&mut self.fails) {
                    tracing::info!("the collector takes spans again");
                }
                form::rejected(&answer.body).min(count)
            }
            Err(why) => {
                if !std::mem::replace(&mut self.fails, true) {
                    tracing::warn!("the collector is not told of requests: {why}");
                }
                count
            }
        };
        self.spans.counts.failed.fetch_add(rejected, Ordering::Relaxed);
        self.spans.counts.sent.fetch_add(count.saturating_sub(rejected), Ordering::Relaxed);
    }

    /// Sends a batch, again after a while where that may help.
    async fn deliver(&self, collector: &TracesConfig, body: Bytes) -> Result<Answer, String> {
        let mut pause = PAUSE;
        for _ in 1..TRIES_MAX {
            match self.send(collector, body.clone()).await {
                Err((_, true)) if !self.is_over() => sleep(pause).await,
                ended => return ended.map_err(|(why, _)| why),
            }
            pause = pause.saturating_mul(2);
        }
        self.send(collector, body).await.map_err(|(why, _)| why)
    }

    /// Sends it once. An error says whether another try may help.
    async fn send(&self, collector: &TracesConfig, body: Bytes) -> Result<Answer, (String, bool)> {
        let path = http::text(&collector.server.path).unwrap_or_default();
        let parameters = http::text(&collector.server.parameters).unwrap_or_default();
        let mark = if parameters.is_empty() { "" } else { "?" };
        let request = hyper::Request::post(format!("{path}{mark}{parameters}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body));
        let request = request.map_err(|_| ("its URL cannot be asked".to_owned(), false))?;
        // At the end nobody waits long.
        let within = if self.is_over() { collector.timeout.min(LAST_WITHIN) } else { collector.timeout };
        match timeout(within, http::exchange(&collector.server, request, &self.lookups)).await {
            Ok(Ok(answer)) if answer.status.is_success() => Ok(answer),
            Ok(Ok(answer)) => {
                let why = format!("{} answers {}", collector.server.authority, answer.status.as_u16());
                Err((why, may_be_tried_again(answer.status)))
            }
            Ok(Err(why)) => Err((why, true)),
            Err(_) => Err((format!("no answer from {} in time", collector.server.authority), true)),
        }
    }
}

/// OTLP, section OTLP/HTTP Response: these say "later", all others "never".
fn may_be_tried_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504)
}

/// Requests in one batch; with their calls about a megabyte of JSON at most.
const BATCH_MAX: usize = 256;
/// How long a batch is gathered once it has begun.
const GATHER_FOR: Duration = Duration::from_secs(1);
/// How often it is looked whether it is over while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Tries of one batch: after three, what waits meanwhile is worth more.
const TRIES_MAX: u32 = 3;
/// Before the second try; then twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// For the last batch, when the process ends.
const LAST_WITHIN: Duration = Duration::from_secs(1);
