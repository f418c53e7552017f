//! A connection to an HTTP/2 upstream that many requests of one worker share, over hyper's client.

use super::fault::{Fault, Progress};
use super::link::{Io, Link, Place};
use super::replay::{Broken, Outgoing};
use crate::clock::Time;
use crate::rollout::outcome::ErrorKind;
use crate::snapshot::Limits;
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
    streams: Rc<Cell<usize>>,
    /// Asked how many streams the upstream allows at once; it belongs to its task.
    connection: Weak<RefCell<Connection>>,
    born: Time,
}

impl Shared {
    /// Begins HTTP/2 on a new connection.
    pub async fn open(link: Link, now: Time, limits: &Limits) -> Result<Shared, Fault> {
        let (io, place) = link.into_io();
        let opened = handshake(io, place, limits).await;
        let (sender, connection) = opened.map_err(|_| Fault::Failed(ErrorKind::Protocol))?;
        Ok(Shared { sender, streams: Rc::default(), connection, born: now })
    }

    /// A place for one request on it.
    pub fn stream(&self) -> (http2::SendRequest<Upload>, Stream) {
        (self.sender.clone(), Stream::begin(&self.streams))
    }

    /// Whether it takes further requests.
    pub fn is_usable(&self, now: Time, lifetime: Duration) -> bool {
        !self.sender.is_closed() && now.since(self.born) < lifetime
    }

    /// Whether one more request may begin on it now.
    pub fn has_room(&self, streams_max: usize) -> bool {
        self.streams.get() < self.allowed().min(streams_max)
    }

    /// How many streams the upstream allows at once. While it has not said so, streams queue in the connection.
    fn allowed(&self) -> usize {
        let connection = self.connection.upgrade();
        let said = connection.and_then(|connection| Some(connection.try_borrow().ok()?.current_max_send_streams()));
        said.filter(|&streams| streams > 0).unwrap_or(usize::MAX)
    }

    /// Requests under way on it.
    pub fn in_flight(&self) -> usize {
        self.streams.get()
    }
}

/// A request body that counts what passes.
pub struct Upload {
    /// What the client sends.
    pub body: Option<Outgoing>,
    /// How far it has got.
    pub passed: Rc<Passed>,
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
    /// Who looks at the progress.
    watcher: RefCell<Option<Waker>>,
}

impl Passed {
    /// The same as one value.
    pub fn progress(&self) -> Progress {
        Progress { taken: self.taken.get(), waits_for_client: self.waits_for_client.get() }
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
        let Upload { body, passed } = &mut *self;
        let Some(body) = body else { return Poll::Ready(None) };
        let before = passed.progress();
        let polled = Pin::new(body).poll_frame(cx);
        passed.waits_for_client.set(polled.is_pending());
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, Bytes::len);
                passed.taken.set(passed.taken.get().saturating_add(length as u64));
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

/// One stream's place among its connection's; ends with the request.
pub struct Stream(Rc<Cell<usize>>);

impl Stream {
    fn begin(streams: &Rc<Cell<usize>>) -> Self {
        streams.set(streams.get().saturating_add(1));
        Stream(Rc::clone(streams))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

async fn handshake(
    io: Io,
    place: Place,
    limits: &Limits,
) -> hyper::Result<(http2::SendRequest<Upload>, Weak<RefCell<Connection>>)> {
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .initial_stream_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
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
    let asked = Rc::downgrade(&connection);
    tokio::task::spawn_local(async move {
        // The error of a connection reaches each of its requests; here it only ends.
        let _ = poll_fn(|cx| Pin::new(&mut *connection.borrow_mut()).poll(cx)).await;
        drop(place);
    });
    Ok((sender, asked))
}
