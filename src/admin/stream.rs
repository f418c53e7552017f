//! `GET /api/v1/stream`: how every rollout stands and what happens, as server-sent events, for the page and for whoever watches.
//!
//! One task asks the control plane once a second, and only while somebody listens; all listeners get the same bytes. The audit
//! trail each listener reads by itself, from the entry it has last: that is what leaves no gap after a lost connection. A
//! listener that does not take what it is given is let go and comes back with `Last-Event-ID`; nobody ever waits for it.

use super::api::Answer;
use super::auth::Role;
use super::body::Query;
use super::failure::Failure;
use super::view::{Event, Rollout};
use crate::control::{Denied, Handle};
use crate::rollout::report::REPORT_WINDOW;
use axum::Extension;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::IntoResponse;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use serde::Serialize;
use serde_json::json;
use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Where listeners come to; cheap to clone.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handle: Handle,
    news: broadcast::Sender<News>,
    room: Arc<Semaphore>,
    wanted: Notify,
    ended: watch::Sender<bool>,
    /// How long a listener may take nothing.
    patience: Duration,
}

/// What one look found, made into bytes once for all listeners.
#[derive(Clone, Debug)]
enum News {
    /// Rollouts that stand otherwise than before; with all names where those are others.
    Stand { names: Option<Bytes>, changed: Arc<[(String, Bytes)]> },
    /// Nothing is new, and the control plane said so.
    Beat,
    /// The control plane does not answer.
    Silent,
}

impl Feed {
    /// Starts to look once somebody listens. Must be called within a runtime.
    pub fn start(handle: Handle) -> Feed {
        Feed::patient(handle, SLOW_AFTER)
    }

    /// The same with another patience.
    pub fn patient(handle: Handle, patience: Duration) -> Feed {
        let (news, _) = broadcast::channel(NEWS_MAX);
        let (room, (ended, _)) = (Arc::new(Semaphore::new(LISTENERS_MAX)), watch::channel(false));
        let feed = Feed(Arc::new(Inner { handle, news, room, wanted: Notify::new(), ended, patience }));
        tokio::spawn(look(feed.clone()));
        feed
    }

    /// How many more may listen.
    #[cfg(test)]
    pub fn room(&self) -> usize {
        self.0.room.available_permits()
    }

    /// Says good-bye to every listener.
    pub fn end(&self) {
        self.0.ended.send_replace(true);
    }
}

/// Opens a stream.
pub async fn get(
    Extension(feed): Extension<Feed>,
    Extension(role): Extension<Role>,
    headers: HeaderMap,
    uri: Uri,
) -> Answer {
    let query = Query::parse(uri.query());
    let rollout = query.text("rollout").map(str::to_owned);
    if let Some(name) = &rollout {
        let snapshot = feed.0.handle.published.load();
        let names = snapshot.splits.iter().map(|split| &*split.name);
        if !names.clone().any(|known| known == name) {
            return Err(super::api::unknown_rollout(name, names));
        }
    }
    let newest = *feed.0.handle.trail().borrow();
    let since = match (headers.get("last-event-id"), query.text("last")) {
        (Some(id), _) => id
            .to_str()
            .ok()
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| Failure::field("last-event-id", "`Last-Event-ID` must be a whole number"))?,
        (None, Some(_)) => newest.saturating_sub(query.number("last", 0)?.min(LAST_MAX)),
        (None, None) => query.number("since", newest)?,
    };
    let room = Arc::clone(&feed.0.room).try_acquire_owned().map_err(|_| {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("{LISTENERS_MAX} listen to the stream already"))
    })?;
    let (out, lines) = mpsc::channel(LINES_MAX);
    let listener = Listener { feed, out, rollout, since, _room: room };
    tokio::spawn(listener.run(role));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (X_ACCEL_BUFFERING, "no")];
    Ok((headers, Body::new(Lines(lines))).into_response())
}

/// Asks how things stand, as long as somebody listens.
async fn look(feed: Feed) {
    let Inner { handle, news, wanted, ended, .. } = &*feed.0;
    let (mut ended, mut trail) = (ended.subscribe(), handle.trail());
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut known, mut names, mut quiet) = (HashMap::new(), Vec::new(), 0);
    loop {
        if news.receiver_count() == 0 {
            known.clear();
            tokio::select! {
                () = over(&mut ended) => return,
                () = wanted.notified() => {}
            }
        }
        tokio::select! {
            () = over(&mut ended) => return,
            _ = ticks.tick() => {}
            Ok(()) = trail.changed() => sleep(PACE).await,
        }
        let found = match handle.rollouts(REPORT_WINDOW).await {
            Err(_) => News::Silent,
            Ok(reports) => {
                let forms: Vec<Rollout> = reports.iter().map(|report| Rollout::of(report, REPORT_WINDOW)).collect();
                stand(handle, &forms, &mut known, &mut names)
            }
        };
        quiet = if matches!(found, News::Beat) { quiet + 1 } else { 0 };
        if quiet % BEAT_LOOKS == 0 || !matches!(found, News::Beat) {
            // Nobody listens any more: that is seen on the next turn.
            let _ = news.send(found);
        }
    }
}

/// Returns when weir ends.
async fn over(ended: &mut watch::Receiver<bool>) {
    // Without a sender nobody is left to say so.
    let _ = ended.wait_for(|ended| *ended).await.map(|_| ());
}

/// What has changed since the last look.
fn stand(handle: &Handle, forms: &[Rollout], known: &mut HashMap<String, Bytes>, names: &mut Vec<String>) -> News {
    let mut changed = Vec::new();
    for form in forms {
        let text = message("rollout", form);
        if known.get(&form.name) != Some(&text) {
            known.insert(form.name.clone(), text.clone());
            changed.push((form.name.clone(), text));
        }
    }
    let present: Vec<String> = forms.iter().map(|form| form.name.clone()).collect();
    let others = (present != *names).then(|| {
        known.retain(|name, _| present.contains(name));
        message("rollouts", &json!({ "names": &present, "generation": handle.published.generation() }))
    });
    *names = present;
    match changed.is_empty() && others.is_none() {
        true => News::Beat,
        false => News::Stand { names: others, changed: changed.into() },
    }
}

/// Who listens.
struct Listener {
    feed: Feed,
    out: mpsc::Sender<Bytes>,
    /// The only rollout it is told of.
    rollout: Option<String>,
    /// The entry of the audit trail that it has last.
    since: u64,
    _room: OwnedSemaphorePermit,
}

/// Why a stream ends: the listener is gone or too slow, or weir ends.
struct Over;

impl Listener {
    async fn run(mut self, role: Role) {
        let ended = self.feed.0.ended.subscribe();
        if self.tell_all(role, ended).await.is_ok() {
            let _ = self.send(message("end", &json!({ "reason": "weir ends" }))).await;
        }
    }

    /// Returns when weir ends.
    async fn tell_all(&mut self, role: Role, mut ended: watch::Receiver<bool>) -> Result<(), Over> {
        // Before the first look of its own, so that nothing falls between the two.
        let (mut news, mut trail) = (self.feed.0.news.subscribe(), self.feed.0.handle.trail());
        self.feed.0.wanted.notify_one();
        let hello = Hello { role: role.word(), version: env!("CARGO_PKG_VERSION"), newest: *trail.borrow_and_update() };
        self.send(Bytes::from(format!("retry: {RETRY_MS}\n\n"))).await?;
        self.send(message("hello", &hello)).await?;
        self.tell_state().await?;
        self.tell_trail().await?;
        loop {
            tokio::select! {
                () = over(&mut ended) => return Ok(()),
                () = self.out.closed() => return Err(Over),
                heard = trail.changed() => {
                    heard.map_err(|_| Over)?;
                    self.tell_trail().await?;
                    sleep(PACE).await;
                }
                heard = news.recv() => match heard {
                    Ok(News::Stand { names, changed }) => {
                        if let Some(names) = names.filter(|_| self.rollout.is_none()) {
                            self.send(names).await?;
                        }
                        for (_, text) in changed.iter().filter(|(name, _)| self.is_told_of(Some(name))) {
                            self.send(text.clone()).await?;
                        }
                    }
                    Ok(News::Beat) => self.send(Bytes::from_static(b": beat\n\n")).await?,
                    Ok(News::Silent) => self.send(message("silent", &json!({ "error": SILENT }))).await?,
                    // Too slow, or nobody looks any more.
                    Err(_) => return Err(Over),
                },
            }
        }
    }

    /// How everything stands at the beginning.
    async fn tell_state(&self) -> Result<(), Over> {
        let Ok(reports) = self.feed.0.handle.rollouts(REPORT_WINDOW).await else {
            return self.send(message("silent", &json!({ "error": SILENT }))).await;
        };
        let forms: Vec<Rollout> = reports.iter().map(|report| Rollout::of(report, REPORT_WINDOW)).collect();
        let names: Vec<&str> = forms.iter().map(|form| form.name.as_str()).collect();
        let generation = self.feed.0.handle.published.generation();
        self.send(message("rollouts", &json!({ "names": names, "generation": generation }))).await?;
        for form in forms.iter().filter(|form| self.is_told_of(Some(&form.name))) {
            self.send(message("rollout", form)).await?;
        }
        Ok(())
    }

    /// What has happened since the last entry.
    async fn tell_trail(&mut self) -> Result<(), Over> {
        loop {
            let (events, next) = match self.feed.0.handle.events(self.since, PAGE).await {
                Ok(page) => page,
                // It will be read with the next entry.
                Err(Denied::Unavailable) => return Ok(()),
                Err(_) => return Err(Over),
            };
            let full = events.len() >= PAGE;
            for event in events.iter().filter(|event| self.is_told_of(event.rollout.as_deref())) {
                let text = format!("id: {}\n", event.id).into_bytes();
                self.send([text.as_slice(), &message("audit", &Event::of(event))].concat().into()).await?;
            }
            self.since = next;
            if !full {
                return Ok(());
            }
        }
    }

    /// What concerns the whole process concerns everybody.
    fn is_told_of(&self, rollout: Option<&str>) -> bool {
        match (&self.rollout, rollout) {
            (Some(wanted), Some(of)) => wanted == of,
            _ => true,
        }
    }

    async fn send(&self, text: Bytes) -> Result<(), Over> {
        match timeout(self.feed.0.patience, self.out.send(text)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over),
        }
    }
}

#[derive(Serialize)]
struct Hello {
    role: &'static str,
    version: &'static str,
    newest: u64,
}

/// One server-sent event; JSON text has no line ends of its own.
fn message(kind: &str, form: &impl Serialize) -> Bytes {
    let text = serde_json::to_string(form).unwrap_or_else(|_| "null".to_owned());
    Bytes::from(format!("event: {kind}\ndata: {text}\n\n"))
}

/// A body of whatever arrives.
struct Lines(mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

const SILENT: &str = "the control plane does not answer";
/// Tells nginx and its like to pass events on as they come.
const X_ACCEL_BUFFERING: header::HeaderName = header::HeaderName::from_static("x-accel-buffering");
/// As often as a person can follow numbers.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks without news between two signs of life.
const BEAT_LOOKS: u32 = 5;
/// Between two readings of the trail: a burst of entries is read in few pages.
const PACE: Duration = Duration::from_millis(50);
/// Screens on walls and people; each costs some bytes a second.
pub const LISTENERS_MAX: usize = 64;
/// Looks that a listener may be behind.
const NEWS_MAX: usize = 16;
/// Messages that wait for a connection to take them.
const LINES_MAX: usize = 64;
/// A listener that takes nothing for so long has gone, or is a nuisance.
const SLOW_AFTER: Duration = Duration::from_secs(10);
/// After how many milliseconds a browser comes back.
const RETRY_MS: u64 = 1000;
/// Entries that `last` gives at most.
const LAST_MAX: u64 = 1000;
/// Entries that are read at once.
const PAGE: usize = 200;
