//! A request's body on its way to an upstream, and the copy that lets it be sent a second time.
//!
//! A copy is kept only of a body whose request may be sent again, and only up to `FALLBACK_BODY_BYTES_MAX`: beyond that the
//! copy is given up, never the request. Whether a request may be sent again is not decided here: `fallback` does.

use super::head::{may_trail, with_trailers};
use super::local::Adopted;
use super::present::has_underscore;
use super::replica::Replica;
use super::route::is_protected;
use super::tee::Tee;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Bytes of a request's body that are kept for a second submission, trailers included; a longer body is sent once at most.
pub const FALLBACK_BODY_BYTES_MAX: usize = 64 * 1024;

/// A request's body on its way.
pub enum Outgoing {
    /// The client's, as it comes. In a box: the futures of a request have room for it in several places, and most have none.
    Live(Box<Arriving>),
    /// The client's with a copy kept, or that copy and what follows it.
    Kept(Reading),
    /// Either, copied while it passes.
    Teed(Box<Tee>),
    /// A copy.
    Replica(Box<Replica>),
}

/// A client's body as it comes, without the trailers that would be taken for a part of the head by somebody: that is known,
/// and decisions were made by it.
pub struct Arriving {
    body: Incoming,
    adopted: Rc<Adopted>,
}

/// What a second submission of a body would be made of.
pub enum Again {
    /// There is no body.
    Empty,
    /// A copy of what was sent, as long as it is short enough.
    Copy(Rc<RefCell<Kept>>),
    /// Nothing: no copy was to be kept, or the body is announced to be too long.
    Nothing,
}

/// The body ended before it should: the client broke it off, or it is sent elsewhere meanwhile.
#[derive(Debug)]
pub struct Broken;

/// One submission of a kept body.
pub struct Reading {
    kept: Rc<RefCell<Kept>>,
    /// Whether this is the second one.
    second: bool,
}

/// A body with a copy of what was read of it.
pub struct Kept {
    /// What the client still has to send; none after its end.
    live: Option<Arriving>,
    /// Copied, not shared: a frame may keep far more memory alive than it shows.
    copy: Vec<u8>,
    trailers: Option<HeaderMap>,
    given_up: bool,
    /// Whether the second submission has begun, and the first is over wherever it is.
    second: bool,
    /// Whoever waits for the first submission to go on.
    waiting: Option<Waker>,
}

/// A request's body as its first submission takes it, and what a second one would be made of. With `keep` a copy is kept.
pub fn outgoing(adopted: &Rc<Adopted>, body: Incoming, keep: bool) -> (Option<Outgoing>, Again) {
    if body.is_end_stream() {
        return (None, Again::Empty);
    }
    let too_long = body.size_hint().lower() > FALLBACK_BODY_BYTES_MAX as u64;
    let body = Arriving { body, adopted: Rc::clone(adopted) };
    if !keep || too_long {
        return (Some(Outgoing::Live(Box::new(body))), Again::Nothing);
    }
    let kept =
        Kept { live: Some(body), copy: Vec::new(), trailers: None, given_up: false, second: false, waiting: None };
    let kept = Rc::new(RefCell::new(kept));
    (Some(Outgoing::Kept(Reading { kept: Rc::clone(&kept), second: false })), Again::Copy(kept))
}

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let snapshot = &self.adopted.snapshot;
        let may = |name: &HeaderName| {
            may_trail(name)
                && !is_protected(name.as_str())
                && !has_underscore(name.as_str())
                && !snapshot.decisive.contains(name)
                && !snapshot.ruled.contains(name)
        };
        Poll::Ready(polled.map(|frame| frame.map(|frame| with_trailers(frame, may)).map_err(|_| Broken)))
    }
}

impl Again {
    /// Whether the whole body can be sent a second time.
    pub fn is_whole(&self) -> bool {
        match self {
            Again::Empty => true,
            Again::Copy(kept) => !kept.borrow().given_up,
            Again::Nothing => false,
        }
    }

    /// The second submission; the first one breaks off if it still goes on. Only for a body that `is_whole`.
    pub fn outgoing(self) -> Option<Outgoing> {
        let Again::Copy(kept) = self else { return None };
        let waiting = {
            let mut kept = kept.borrow_mut();
            kept.second = true;
            kept.waiting.take()
        };
        // The task of an HTTP/2 connection may still wait for more of the first one.
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        Some(Outgoing::Kept(Reading { kept, second: true }))
    }
}

impl Kept {
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.poll_live(cx) {
            Poll::Ready(polled) => {
                if let Some(Ok(frame)) = &polled {
                    self.keep(frame);
                }
                Poll::Ready(polled)
            }
            Poll::Pending => {
                self.waiting.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
                Poll::Pending
            }
        }
    }

    fn poll_second(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.copy.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(std::mem::take(&mut self.copy))))));
        }
        if let Some(trailers) = self.trailers.take() {
            self.live = None;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        self.poll_live(cx)
    }

    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Some(live) = &mut self.live else { return Poll::Ready(None) };
        let polled = ready!(live.poll_frame(cx));
        if !matches!(polled, Some(Ok(_))) {
            self.live = None;
            // Half a body must not pass for a whole one the second time.
            self.given_up |= polled.is_some();
        }
        Poll::Ready(polled)
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
        let fields = frame.trailers_ref().into_iter().flatten();
        let field_bytes = fields.map(|(name, value)| name.as_str().len().saturating_add(value.len()));
        let more = field_bytes.fold(data.len(), usize::saturating_add);
        if self.given_up || self.copy.len().saturating_add(more) > FALLBACK_BODY_BYTES_MAX {
            self.given_up = true;
            self.copy = Vec::new();
            return;
        }
        self.copy.extend_from_slice(data);
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    fn is_end_stream(&self) -> bool {
        let sent_again = !self.second || (self.copy.is_empty() && self.trailers.is_none());
        sent_again && self.live.as_ref().is_none_or(|live| live.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let live = self.live.as_ref().map_or(Some(0), |live| live.body.size_hint().exact());
        let again = if self.second { self.copy.len() as u64 } else { 0 };
        match live {
            // Only a body of unknown length may have trailers.
            Some(live) if self.trailers.is_none() => SizeHint::with_exact(live.saturating_add(again)),
            _ => SizeHint::default(),
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut *self {
            Outgoing::Live(live) => live.poll_frame(cx),
            Outgoing::Kept(Reading { kept, second }) => {
                let mut kept = kept.borrow_mut();
                match (kept.second, *second) {
                    (false, false) => kept.poll_first(cx),
                    (true, true) => kept.poll_second(cx),
                    // An end here would make a short body look whole.
                    _ => Poll::Ready(Some(Err(Broken))),
                }
            }
            Outgoing::Teed(tee) => tee.poll_frame(cx),
            Outgoing::Replica(replica) => Poll::Ready(replica.next().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Outgoing::Live(live) => live.body.is_end_stream(),
            Outgoing::Kept(Reading { kept, second }) => {
                let kept = kept.borrow();
                kept.second == *second && kept.is_end_stream()
            }
            Outgoing::Teed(tee) => tee.is_end_stream(),
            Outgoing::Replica(replica) => replica.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Live(live) => live.body.size_hint(),
            Outgoing::Kept(Reading { kept, .. }) => kept.borrow().size_hint(),
            Outgoing::Teed(tee) => tee.size_hint(),
            Outgoing::Replica(replica) => replica.size_hint(),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body was broken off")
    }
}

impl std::error::Error for Broken {}
