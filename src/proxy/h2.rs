//! The HTTP/2 leg to an upstream: one request on a shared connection, and its answer's body.

use super::alarm::Alarm;
use super::attempt::{Failed, Way, in_room, in_time};
use super::fault::Fault;
use super::head::{may_trail, with_trailers};
use super::headers::Rewrite;
use super::link::Place;
use super::pool::Lease;
use super::replay::Outgoing;
use super::shared::{Passed, Shared, Stream, Upload};
use crate::rollout::outcome::ErrorKind;
use bytes::Bytes;
use http::response::Parts;
use http::uri::{Authority, Scheme, Uri};
use http::{HeaderMap, Request, Version};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use std::error::Error as _;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Sends a request over a shared connection, opening one if none has room, or if `fresh` asks for a new one.
pub async fn send(
    way: &Way<'_>,
    lease: Lease,
    rewrite: &Rewrite<'_>,
    body: Option<Outgoing>,
    fresh: bool,
) -> Result<(Parts, Download), Box<Failed>> {
    let failed = |fault, unsent, lease| Err(Box::new(Failed { fault, unsent, stale: None, refused: false, lease }));
    let (mut sender, stream, pooled) = match checkout(way, &lease, fresh).await {
        Ok(ready) => ready,
        Err(fault) => return failed(fault, Some(body), lease),
    };
    let passed = Rc::<Passed>::default();
    let Some(request) =
        prepare(way, &lease, rewrite, Upload { body, passed: Rc::clone(&passed), bytes_max: way.body_bytes_max })
    else {
        return failed(Fault::Failed(ErrorKind::Protocol), None, lease);
    };
    let (mut unsent, mut refused) = (None, false);
    let mut sending = pin!(sender.try_send_request(request));
    let mut alarm = Alarm::default();
    let answered = in_time(way, &mut alarm, |cx| {
        passed.watch(cx);
        let polled = sending.as_mut().poll(cx).map_err(|mut failure| {
            unsent = failure.take_message().map(|request| request.into_body().body);
            refused = is_refusal(failure.error());
            fault_of(failure.error(), &passed)
        });
        (polled, passed.progress())
    });
    match answered.await {
        Ok(response) => {
            lease.answered();
            let (head, body) = response.into_parts();
            let idle_limit = way.patience.stream_idle;
            let download = Download { body, passed, idle_limit, idle: None, held: (stream, lease) };
            Ok((head, download))
        }
        Err(fault) => {
            if fault == Fault::Failed(ErrorKind::Timeout) {
                // It may be dead without a word: no other request should learn that by waiting as long.
                lease.shared().borrow_mut().retain(|shared| !shared.carries(&stream));
                stream.condemn();
            }
            // A connection that others use is not idle.
            let stale = (pooled && fault == Fault::Failed(ErrorKind::Reset)).then(|| lease.now());
            Err(Box::new(Failed { fault, unsent, stale, refused, lease }))
        }
    }
}

/// A place on a connection, and whether that connection was there before.
async fn checkout(
    way: &Way<'_>,
    lease: &Lease,
    fresh: bool,
) -> Result<(http2::SendRequest<Upload>, Stream, bool), Fault> {
    let streams_max = way.limits.h2_streams as usize;
    let fits = |shared: &&Shared| {
        shared.is_usable(lease.now(), way.limits.upstream_max_lifetime) && shared.has_room(streams_max)
    };
    let mut passed_over = fresh;
    let room = in_room(way, || {
        // One that came free while this request waited is as good as a new one.
        if !std::mem::take(&mut passed_over)
            && let Some(shared) = lease.shared().borrow().iter().find(fits)
        {
            let (sender, stream) = shared.stream();
            return Some(Room::Stream(sender, stream, shared.has_room(streams_max)));
        }
        way.pool.place(way.upstream).map(Room::Place)
    });
    let (sender, stream, pooled, more) = match room.await? {
        Room::Stream(sender, stream, more) => (sender, stream, true, more),
        Room::Place(place) => {
            let link = lease.connect(way.upstream, place).await?;
            let shared = Shared::open(*link, lease.now(), way.limits).await?;
            let (sender, stream) = shared.stream();
            lease.share(shared);
            (sender, stream, false, true)
        }
    };
    if more {
        // Each of those who wait wakes the next one, as long as there is room.
        way.pool.tell_freed();
    }
    Ok((sender, stream, pooled))
}

/// Room for a request.
enum Room {
    /// A stream of a connection, and whether that has room for one more.
    Stream(http2::SendRequest<Upload>, Stream, bool),
    /// A place for a new connection.
    Place(Place),
}

fn prepare(way: &Way<'_>, lease: &Lease, rewrite: &Rewrite<'_>, body: Upload) -> Option<Request<Upload>> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if way.upstream.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::try_from(rewrite.host(lease.endpoint())).ok()?);
    uri.path_and_query = Some(rewrite.parts.uri.path_and_query()?.clone());
    let mut headers = HeaderMap::with_capacity(rewrite.parts.headers.len().saturating_add(8));
    rewrite.write(&mut headers);
    if let Some(length) = body.size_hint().exact().filter(|&length| length > 0) {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    let mut request = Request::new(body);
    *request.method_mut() = rewrite.parts.method.clone();
    *request.uri_mut() = Uri::from_parts(uri).ok()?;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Some(request)
}

fn fault_of(error: &hyper::Error, passed: &Passed) -> Fault {
    if let Some(fault) = passed.clients_fault() {
        return fault;
    }
    Fault::Failed(if error.is_parse() { ErrorKind::Protocol } else { ErrorKind::Reset })
}

/// Whether the upstream has said that it did nothing of the request. Of a connection that goes away only the streams beyond
/// the last one that it took end with that word.
fn is_refusal(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<::h2::Error>());
    cause.is_some_and(|cause| {
        let is_not_taken = cause.is_reset() && cause.reason() == Some(::h2::Reason::REFUSED_STREAM);
        cause.is_remote() && (cause.is_go_away() || is_not_taken)
    })
}

/// An answer's body on its way.
pub struct Download {
    body: Incoming,
    passed: Rc<Passed>,
    idle_limit: Duration,
    idle: Option<Pin<Box<tokio::time::Sleep>>>,
    held: (Stream, Lease),
}

impl Download {
    /// Request body bytes sent so far.
    pub fn uploaded(&self) -> u64 {
        self.passed.taken.get()
    }

    /// Whether everything has been handed out.
    pub fn is_done(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Bytes still to come, where the head said.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next frame; none after the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.idle = None;
                let fault = self.passed.clients_fault().unwrap_or(Fault::Failed(ErrorKind::Truncated));
                Poll::Ready(
                    frame.map(|frame| {
                        frame.map(|frame| with_trailers(frame, may_trail)).map_err(|_| self.failed(fault))
                    }),
                )
            }
            Poll::Pending => {
                let limit = self.idle_limit;
                let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
                let waits_for_client = self.passed.waits_for_client.get();
                let fault = if waits_for_client { Fault::ClientSlow } else { Fault::Failed(ErrorKind::Timeout) };
                idle.as_mut().poll(cx).map(|()| Some(Err(self.failed(fault))))
            }
        }
    }

    fn failed(&self, fault: Fault) -> Fault {
        self.held.1.failed(fault);
        fault
    }
}
