//! The one body that goes to clients: it passes frames on, counts them, and closes the observation exactly once.

use super::fault::Fault;
use super::observe::Observation;
use super::{h1, h2};
use crate::rollout::outcome::End;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

/// Where an answer's body comes from.
pub enum Flow {
    /// Memory; taken with the first frame.
    Fixed(Option<Bytes>),
    /// An HTTP/1 upstream.
    H1(h1::Download),
    /// An HTTP/2 upstream.
    H2(h2::Download),
}

impl Flow {
    /// Bytes of the request's body that went to the upstream so far.
    pub fn uploaded(&self) -> u64 {
        match self {
            Flow::Fixed(_) => 0,
            Flow::H1(download) => download.uploaded(),
            Flow::H2(download) => download.uploaded(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self {
            Flow::Fixed(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Flow::H1(download) => download.poll_frame(cx),
            Flow::H2(download) => download.poll_frame(cx),
        }
    }

    /// Takes what has come already, up to a limit, and lets the rest go: a connection whose answer is all there can be used
    /// again, any other one ends here, or its stream does.
    pub fn discard(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut bytes = 0_usize;
        while let Poll::Ready(Some(Ok(frame))) = self.poll_frame(&mut cx) {
            bytes = bytes.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            if bytes > DISCARD_BYTES_MAX {
                break;
            }
        }
    }
}

/// Bytes of an answer that nobody wants which are read to save its connection; a new one costs less than more of them.
const DISCARD_BYTES_MAX: usize = 64 * 1024;

/// The body of an answer.
pub struct Body {
    flow: Flow,
    observation: Option<Box<Observation>>,
}

/// Why a body ends before it should; the client then sees its connection or stream cut, never a short success.
#[derive(Debug)]
pub struct Cut(Fault);

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the upstream's body was cut: {:?}", self.0)
    }
}

impl std::error::Error for Cut {}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Body { flow: Flow::Fixed(None), observation: None }
    }

    /// A body in memory.
    pub fn fixed(bytes: Bytes) -> Self {
        Body { flow: Flow::Fixed((!bytes.is_empty()).then_some(bytes)), observation: None }
    }

    /// A body whose end closes `observation`.
    pub fn observed(flow: Flow, observation: Box<Observation>) -> Self {
        let mut body = Body { flow, observation: Some(observation) };
        if body.is_end_stream() {
            // Nobody polls a body that has ended already.
            body.close(End::Complete);
        }
        body
    }

    fn close(&mut self, end: End) {
        if let Some(mut observation) = self.observation.take() {
            observation.uploaded(self.flow.uploaded());
            observation.close(end);
        }
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(observation) = &mut self.observation else { return };
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => observation.sent(data.len() as u64),
            (None, Some(trailers)) => observation.trailers(trailers),
            (None, None) => {}
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Poll::Ready(match ready!(self.flow.poll_frame(cx)) {
            Some(Ok(frame)) => {
                self.note(&frame);
                if self.is_end_stream() {
                    self.close(End::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(fault)) => {
                self.close(fault.end());
                Some(Err(Cut(fault)))
            }
            None => {
                self.close(End::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        match &self.flow {
            Flow::Fixed(bytes) => bytes.is_none(),
            Flow::H1(download) => download.is_done(),
            Flow::H2(download) => download.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = match &self.flow {
            Flow::Fixed(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Flow::H1(download) => download.length(),
            Flow::H2(download) => download.length(),
        };
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The `grpc-status` among `fields`, if it is a number.
pub fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}
