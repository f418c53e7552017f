//! A connection to an HTTP/2 upstream that many requests of one worker share, over hyper's client.

use super::fault::{Fault, Progress};
use super::link::{Io, Link, Place};
use super::replay::{Broken, Outgoing};
use crate::clock::Time;
use crate::rollout::outcome::ErrorKind;
use crate::snapshot::{Limits, UPSTREAM_WINDOW_BYTES};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(async move {
            task.await;
        });
    }
}

type Connection = http2::Connection<TokioIo<Io>, Upload, LocalExecutor>;

/// One multiplexed connection.
pub struct Shared {
    sender: http2::SendRequest<Upload>,
    streams: Rc<Streams>,
    /// Asked how many streams the upstream allows at once; it belongs to its task.
    connection: Weak<RefCell<Connection>>,
    born: Time,
    /// When it was first seen without a request since the last one.
    idle_since: Cell<Option<Time>>,
}

impl Shared {
    /// Begins HTTP/2 on a new connection.
    pub async fn open(link: Link, now: Time, limits: &Limits) -> Result<Shared, Fault> {
        let (io, place) = link.into_io();
        let streams = Rc::<Streams>::default();
        let opened = handshake(io, place, limits, &streams).await;
        let (sender, connection) = opened.map_err(|_| Fault::Failed(ErrorKind::Protocol))?;
        Ok(Shared { sender, streams, connection, born: now, idle_since: Cell::new(None) })
    }

    /// A place for one request on it.
    pub fn stream(&self) -> (http2::SendRequest<Upload>, Stream) {
        self.idle_since.set(None);
        (self.sender.clone(), Stream::begin(&self.streams))
    }

    /// Whether that stream is one of its own.
    pub fn carries(&self, stream: &Stream) -> bool {
        Rc::ptr_eq(&self.streams, &stream.0)
    }

    /// Whether it has been seen without a request for that long, by looks that are made now and then.
    pub fn is_idle(&self, now: Time, idle_timeout: Duration) -> bool {
        if self.in_flight() > 0 {
            self.idle_since.set(None);
            return false;
        }
        let since = self.idle_since.get().unwrap_or(now);
        self.idle_since.set(Some(since));
        now.since(since) >= idle_timeout
    }

    /// Whether it takes further requests.
    pub fn is_usable(&self, now: Time, lifetime: Duration) -> bool {
        !self.sender.is_closed() && now.since(self.born) < lifetime
    }

    /// Whether one more request may begin on it now.
    pub fn has_room(&self, streams_max: usize) -> bool {
        self.streams.open.get() < self.allowed().min(streams_max)
    }

    /// How many streams the upstream allows at once. While it has not said so, streams queue in the connection.
    fn allowed(&self) -> usize {
        let connection = self.connection.upgrade();
        let said = connection.and_then(|connection| Some(connection.try_borrow().ok()?.current_max_send_streams()));
        said.filter(|&streams| streams > 0).unwrap_or(usize::MAX)
    }

    /// Requests under way on it.
    pub fn in_flight(&self) -> usize {
        self.streams.open.get()
    }
}

/// A request body that counts what passes.
pub struct Upload {
    /// What the client sends.
    pub body: Option<Outgoing>,
    /// How far it has got.
    pub passed: Rc<Passed>,
    /// Bytes that it may have.
    pub bytes_max: u64,
}

/// How far a body has got, seen from outside of it.
#[derive(Default)]
pub struct Passed {
    /// Bytes taken from the client.
    pub taken: Cell<u64>,
    /// Whether the next ones are the client's to send.
    pub waits_for_client: Cell<bool>,
    /// Whether the client broke off.
    pub client_left: Cell<bool>,
    /// Whether it sent more than it may.
    pub too_long: Cell<bool>,
    /// Who looks at the progress.
    watcher: RefCell<Option<Waker>>,
}

impl Passed {
    /// The same as one value.
    pub fn progress(&self) -> Progress {
        Progress { taken: self.taken.get(), waits_for_client: self.waits_for_client.get() }
    }

    /// What the client did to its body, if it was the one to break it.
    pub fn clients_fault(&self) -> Option<Fault> {
        match (self.too_long.get(), self.client_left.get()) {
            (true, _) => Some(Fault::BodyTooLong),
            (_, true) => Some(Fault::ClientLeft),
            (false, false) => None,
        }
    }

    /// Wakes this task when the progress is another one: the body is moved by a task of the connection.
    pub fn watch(&self, cx: &Context<'_>) {
        self.watcher.borrow_mut().get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
    }

    fn changed(&self) {
        if let Some(watcher) = self.watcher.borrow_mut().take() {
            watcher.wake();
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Upload { body, passed, bytes_max } = &mut *self;
        let Some(body) = body else { return Poll::Ready(None) };
        let before = passed.progress();
        let mut polled = Pin::new(body).poll_frame(cx);
        passed.waits_for_client.set(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                passed.taken.set(passed.taken.get().saturating_add(length as u64));
                if passed.taken.get() > *bytes_max {
                    passed.too_long.set(true);
                    polled = Poll::Ready(Some(Err(Broken)));
                }
            }
            Poll::Ready(Some(Err(_))) => passed.client_left.set(true),
            Poll::Ready(None) | Poll::Pending => {}
        }
        if passed.progress() != before {
            passed.changed();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// The streams of a connection.
#[derive(Default)]
struct Streams {
    open: Cell<usize>,
    /// Whether the connection ends with the last of them.
    condemned: Cell<bool>,
    /// Told when it is to end.
    over: Notify,
}

/// One stream's place among its connection's; ends with the request.
pub struct Stream(Rc<Streams>);

impl Stream {
    fn begin(streams: &Rc<Streams>) -> Self {
        streams.open.set(streams.open.get().saturating_add(1));
        Stream(Rc::clone(streams))
    }

    /// Lets the connection end with the last of its streams. One that is dead without a word would not notice by itself,
    /// least of all if its upstream never said how many streams it takes.
    pub fn condemn(&self) {
        self.0.condemned.set(true);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        if self.0.open.get() == 0 && self.0.condemned.get() {
            self.0.over.notify_one();
        }
    }
}

async fn handshake(
    io: Io,
    place: Place,
    limits: &Limits,
    streams: &Rc<Streams>,
) -> hyper::Result<(http2::SendRequest<Upload>, Weak<RefCell<Connection>>)> {
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window.max(UPSTREAM_WINDOW_BYTES))
        // None before the upstream has said how many it takes: it would refuse those beyond.
        .initial_max_send_streams(0)
        .max_send_buf_size(limits.h2_send_buffer)
        .max_header_list_size(u32::try_from(limits.max_upstream_header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_reset_streams(limits.h2_resets)
        .keep_alive_interval(limits.h2_ping)
        .keep_alive_timeout(limits.h2_ping_timeout)
        .handshake(TokioIo::new(io))
        .await?;
    let connection = Rc::new(RefCell::new(connection));
    let (asked, streams) = (Rc::downgrade(&connection), Rc::clone(streams));
    tokio::task::spawn_local(async move {
        tokio::select! {
            // The error of a connection reaches each of its requests; here it only ends.
            _ = poll_fn(|cx| Pin::new(&mut *connection.borrow_mut()).poll(cx)) => {}
            () = streams.over.notified() => {}
        }
        drop((connection, place));
    });
    Ok((sender, asked))
}
