//! The HTTP/1.1 leg to an upstream: one connection, one exchange at a time, no task of its own.
//!
//! The request's own future writes and reads, so both directions flow at once with back-pressure and nothing outlives
//! the request. A connection is used again only after an exchange whose both bodies ended exactly where they said.

use super::attempt::{Failed, Way, after, in_time};
use super::chunked::{Chunked, Piece};
use super::fault::{Fault, Progress};
use super::head::{Framing, Head, Wanted, take_head};
use super::link::Link;
use super::pool::Lease;
use super::upload::Upload;
use crate::rollout::outcome::ErrorKind;
use bytes::{Bytes, BytesMut};
use http::Method;
use http_body::Frame;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Room made for a head before a read, in bytes.
const HEAD_READ_BYTES: usize = 4 * 1024;
/// Room made for a body before a read, in bytes: large bodies then cost few calls.
const BODY_READ_BYTES: usize = 64 * 1024;
/// Interim answers (1xx) before the final one; more is hostile.
const INTERIM_MAX: u8 = 16;

/// One request and its answer on a connection.
pub struct Exchange {
    link: Box<Link>,
    lease: Lease,
    upload: Upload,
    interim: u8,
    /// Whether the request asks for a WebSocket.
    switches: bool,
}

/// What follows an answer's head.
pub enum Rest {
    /// Its body.
    Body(Download),
    /// Whatever the protocol says that the connection has been switched to.
    Switched(Switched),
}

/// A connection that speaks HTTP no more; it never goes back to the pool.
pub struct Switched {
    /// The connection, with what was read behind the head.
    pub link: Box<Link>,
    /// The claim on its endpoint.
    pub lease: Lease,
}

impl Exchange {
    /// An exchange whose request head is in the link's outbox already.
    pub fn new(link: Box<Link>, lease: Lease, upload: Upload) -> Box<Self> {
        Box::new(Exchange { link, lease, upload, interim: 0, switches: false })
    }

    /// The same for a request that asks for a WebSocket: then 101 is an answer.
    pub fn switching(mut self: Box<Self>, switches: bool) -> Box<Self> {
        self.switches = switches;
        self
    }

    /// Sends the request and waits for the answer's head.
    pub async fn head(mut self: Box<Self>, way: &Way<'_>, method: &Method) -> Result<(Head, Rest), Box<Failed>> {
        let bytes_max = way.limits.max_upstream_header_bytes;
        let mut alarm = std::mem::take(&mut self.link.alarm);
        let step = |cx: &mut Context<'_>| (self.poll_head(cx, method, bytes_max, way.only), self.progress());
        let result = in_time(way, &mut alarm, step).await;
        self.link.alarm = alarm;
        match result {
            Ok(head) if head.status.is_informational() => {
                Ok((head, Rest::Switched(Switched { link: self.link, lease: self.lease })))
            }
            Ok(head) => {
                self.lease.answered();
                let download = Download::new(self, &head, way.patience.stream_idle);
                Ok((head, Rest::Body(download)))
            }
            Err(fault) => {
                let unsent = (self.upload.written == 0).then(|| self.upload.body.take());
                let closed = matches!(fault, Fault::Failed(ErrorKind::Reset));
                let stale = closed && self.link.is_used() && self.link.inbox.is_empty();
                let stale = stale.then(|| self.link.idle_since());
                Err(Box::new(Failed { fault, unsent, stale, refused: false, lease: self.lease }))
            }
        }
    }

    /// Who is to blame for standing still.
    fn too_late(&self) -> Fault {
        if self.progress().waits_for_client { Fault::ClientSlow } else { Fault::Failed(ErrorKind::Timeout) }
    }

    fn progress(&self) -> Progress {
        Progress { taken: self.upload.taken, waits_for_client: self.upload.waits_for_client(&self.link) }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        bytes_max: usize,
        only: Option<Wanted>,
    ) -> Poll<Result<Head, Fault>> {
        if let Poll::Ready(Err(fault)) = self.upload.poll(&mut self.link, cx) {
            return Poll::Ready(Err(fault));
        }
        loop {
            while !self.link.inbox.is_empty() {
                match take_head(&mut self.link.inbox, method, bytes_max, only) {
                    Ok(Some(head)) if !head.status.is_informational() => return Poll::Ready(Ok(head)),
                    Ok(Some(head)) if self.switches && head.is_websocket => return Poll::Ready(Ok(head)),
                    Ok(Some(head)) if head.status.as_u16() == 101 || self.interim == INTERIM_MAX => {
                        return Poll::Ready(Err(Fault::Failed(ErrorKind::Protocol)));
                    }
                    Ok(Some(_)) => self.interim = self.interim.saturating_add(1),
                    Ok(None) => break,
                    Err(_) => return Poll::Ready(Err(Fault::Failed(ErrorKind::Protocol))),
                }
            }
            match ready!(self.link.poll_fill(cx, HEAD_READ_BYTES)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Err(Fault::Failed(ErrorKind::Reset))),
            }
        }
    }
}

/// An answer's body on its way from the upstream; the rest of the request body still flows beside it.
pub struct Download {
    exchange: Option<Box<Exchange>>,
    state: State,
    keep_alive: bool,
    uploaded: u64,
    idle_limit: Duration,
    /// When it will have been idle for too long; none while it moves.
    idle_until: Option<Instant>,
}

enum State {
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Done,
}

impl Download {
    fn new(exchange: Box<Exchange>, head: &Head, idle_limit: Duration) -> Self {
        let state = match head.framing {
            Framing::Empty => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(Chunked::default()),
            Framing::UntilClose => State::UntilClose,
        };
        let mut download = Download {
            exchange: Some(exchange),
            state,
            keep_alive: head.keep_alive,
            uploaded: 0,
            idle_limit,
            idle_until: None,
        };
        if matches!(download.state, State::Done) {
            download.finish();
        }
        download
    }

    /// Request body bytes sent so far.
    pub fn uploaded(&self) -> u64 {
        self.exchange.as_ref().map_or(self.uploaded, |exchange| exchange.upload.taken)
    }

    /// Whether everything has been handed out.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes still to come, where the head said.
    pub fn length(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// The next frame; none after the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let polled = self.poll_piece(cx);
        match &polled {
            Poll::Ready(_) => self.idle_until = None,
            Poll::Pending => {
                if self.poll_idle(cx).is_ready() {
                    let fault = self.exchange.as_ref().map_or(Fault::ClientLeft, |exchange| exchange.too_late());
                    return self.fail(fault);
                }
            }
        }
        polled
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(exchange) = self.exchange.as_mut().filter(|_| self.idle_limit < Duration::MAX) else {
            return Poll::Pending;
        };
        let alarm = &mut exchange.link.alarm;
        let until = *self.idle_until.get_or_insert_with(|| {
            // The body may be polled in another task than the head was.
            alarm.pass_on();
            after(Instant::now(), self.idle_limit)
        });
        alarm.poll_at(until, cx)
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        if let Poll::Ready(Err(fault)) = exchange.upload.poll(&mut exchange.link, cx) {
            return self.fail(fault);
        }
        loop {
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            match take_piece(&mut self.state, &mut exchange.link.inbox) {
                Ok(Some(frame)) => {
                    if matches!(self.state, State::Done) {
                        self.finish();
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
                Ok(None) if matches!(self.state, State::Done) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(None) => {}
                Err(fault) => return self.fail(fault),
            }
            match ready!(exchange.link.poll_fill(cx, BODY_READ_BYTES)) {
                Ok(1..) => {}
                Ok(0) if matches!(self.state, State::UntilClose) => {
                    self.exchange = None;
                    self.state = State::Done;
                    return Poll::Ready(None);
                }
                Ok(0) | Err(_) => return self.fail(Fault::Failed(ErrorKind::Truncated)),
            }
        }
    }

    fn fail(&mut self, fault: Fault) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.uploaded = self.uploaded();
        if let Some(exchange) = self.exchange.take() {
            exchange.lease.failed(fault);
        }
        self.state = State::Done;
        Poll::Ready(Some(Err(fault)))
    }

    /// The body has ended: the connection goes back to the pool if both sides ended where they said.
    fn finish(&mut self) {
        self.uploaded = self.uploaded();
        let Some(exchange) = self.exchange.take() else { return };
        let Exchange { link, lease, upload, .. } = *exchange;
        if self.keep_alive && upload.is_done(&link) && !upload.broken && link.inbox.is_empty() {
            lease.park(link);
        }
    }
}

/// The next piece that is in `inbox` already; `state` becomes `Done` with the last one.
fn take_piece(state: &mut State, inbox: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Fault> {
    let data = match state {
        State::Done => return Ok(None),
        State::UntilClose => inbox.split().freeze(),
        State::Length(left) => {
            let count = usize::try_from(*left).unwrap_or(usize::MAX).min(inbox.len());
            let data = inbox.split_to(count).freeze();
            *left = left.saturating_sub(data.len() as u64);
            if *left == 0 {
                *state = State::Done;
            }
            data
        }
        State::Chunked(chunked) => {
            let frame = match chunked.next(inbox).map_err(|_| Fault::Failed(ErrorKind::Protocol))? {
                Piece::Data(data) => Some(Frame::data(data)),
                Piece::Trailers(fields) => Some(Frame::trailers(fields)),
                Piece::End | Piece::NeedMore => None,
            };
            if chunked.finish_if_buffered(inbox) {
                *state = State::Done;
            }
            return Ok(frame);
        }
    };
    Ok((!data.is_empty()).then(|| Frame::data(data)))
}
