//! The one body that goes to clients: it passes frames on, counts them, and closes the observation exactly once. A body
//! that lasts is put on the worker's list of streams and ends early when that says so.

use super::compare::Capture;
use super::ending::{Boundary, Kind, unavailable};
use super::fault::Fault;
use super::lasting::{Asked, Stream};
use super::observe::Observation;
use super::pulse::UnderWay;
use super::{h1, h2};
use crate::rollout::outcome::End;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Frames after which a body counts as one that lasts although it never had to be waited for.
const FRAMES_MANY: u8 = 16;

/// Where an answer's body comes from.
pub enum Flow {
    /// Memory; taken with the first frame.
    Fixed(Option<Bytes>),
    /// An HTTP/1 upstream.
    H1(h1::Download),
    /// An HTTP/2 upstream.
    H2(Box<h2::Download>),
    /// A connection that speaks HTTP no more: no body at all.
    Switched(Box<h1::Switched>),
}

impl Flow {
    /// Bytes of the request's body that went to the upstream so far.
    pub fn uploaded(&self) -> u64 {
        match self {
            Flow::Fixed(_) => 0,
            Flow::H1(download) => download.uploaded(),
            Flow::H2(download) => download.uploaded(),
            Flow::Switched(_) => 0,
        }
    }

    /// The next frame; none after the end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self {
            Flow::Fixed(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Flow::H1(download) => download.poll_frame(cx),
            Flow::H2(download) => download.poll_frame(cx),
            Flow::Switched(_) => Poll::Ready(None),
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
    lasting: Lasting,
    /// Why the body has failed, from then until the server is told so.
    cut: Option<Fault>,
    /// The request's part in what its connection is doing.
    under_way: Option<UnderWay>,
    /// What is copied of it, to be compared.
    capture: Option<Box<Capture>>,
}

/// Whether a body lasts.
enum Lasting {
    /// It ends by itself: its length is known.
    No,
    /// That is to be seen; so many frames have passed.
    Perhaps(Ending, u8),
    /// It is on the list of streams.
    Yes(Ending, Stream),
}

/// How a body can end early.
struct Ending {
    kind: Kind,
    boundary: Boundary,
}

/// Why a body ends before it should; the client then sees its connection or stream cut, never a short success.
#[derive(Debug)]
pub enum Cut {
    /// The upstream's body was cut, or its client left.
    Fault(Fault),
    /// The stream was to end, and has no polite way to.
    Closed,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cut::Fault(fault) => write!(f, "the upstream's body was cut: {fault:?}"),
            Cut::Closed => f.write_str("the stream was closed"),
        }
    }
}

impl std::error::Error for Cut {}

/// One step of a body.
type Step = Option<Result<Frame<Bytes>, Cut>>;

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Body {
            flow: Flow::Fixed(None),
            observation: None,
            lasting: Lasting::No,
            cut: None,
            under_way: None,
            capture: None,
        }
    }

    /// A body in memory.
    pub fn fixed(bytes: Bytes) -> Self {
        let flow = Flow::Fixed((!bytes.is_empty()).then_some(bytes));
        Body { flow, observation: None, lasting: Lasting::No, cut: None, under_way: None, capture: None }
    }

    /// The body of an answer with these headers, whose end closes `observation`.
    pub fn observed(flow: Flow, observation: Box<Observation>, headers: &HeaderMap) -> Self {
        let mut body = Body {
            flow,
            observation: Some(observation),
            lasting: Lasting::No,
            cut: None,
            under_way: None,
            capture: None,
        };
        if body.is_end_stream() {
            // Nobody polls a body that has ended already.
            body.close(End::Complete);
        } else if body.size_hint().exact().is_none() {
            let kind = Kind::of(headers);
            body.lasting = Lasting::Perhaps(Ending { kind, boundary: Boundary::of(kind, headers) }, 0);
        }
        body
    }

    /// The request is under way on its connection until this body is dropped.
    pub fn hold(&mut self, under_way: UnderWay) {
        self.under_way = Some(under_way);
    }

    /// Copies what passes, to be compared.
    #[must_use]
    pub fn captured(mut self, capture: Option<Capture>) -> Self {
        self.capture = capture.map(Box::new);
        if self.is_end_stream() {
            self.finish_capture();
        }
        self
    }

    fn finish_capture(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.finish();
        }
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

    /// Puts a body that lasts on the list. Others than event streams and gRPC only end early for their canary's sake.
    fn list(&mut self) {
        self.lasting = match (std::mem::replace(&mut self.lasting, Lasting::No), &self.observation) {
            (Lasting::Perhaps(ending, _), Some(observation)) => {
                if ending.kind == Kind::Other && observation.canaries().next().is_none() {
                    Lasting::No
                } else {
                    let stream = observation.lasting(ending.kind);
                    Lasting::Yes(ending, stream)
                }
            }
            (lasting, _) => lasting,
        };
    }

    /// Nothing comes at present: the stream can only end early if it is woken.
    fn wait(&mut self, cx: &Context<'_>) {
        if matches!(self.lasting, Lasting::Perhaps(..)) {
            self.list();
        }
        if let Lasting::Yes(_, stream) = &self.lasting {
            stream.wake_by(cx.waker());
        }
    }

    /// Follows a frame. A stream that is to end loses what begins behind the place where it can.
    fn follow(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let is_last = self.is_end_stream();
        let (ending, asked) = match &mut self.lasting {
            Lasting::No => return frame,
            Lasting::Perhaps(ending, frames) => {
                *frames = frames.saturating_add(1);
                (ending, false)
            }
            Lasting::Yes(ending, stream) => (ending, stream.asked() != Asked::No),
        };
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => return frame,
        };
        if asked
            && !is_last
            && let Some(end) = ending.boundary.within(&data)
        {
            data.truncate(end);
        }
        ending.boundary.pass(&data);
        if matches!(self.lasting, Lasting::Perhaps(_, FRAMES_MANY..)) {
            self.list();
        }
        Frame::data(data)
    }

    /// The last step of a stream that is to end, if it can end here.
    fn end_early(&mut self) -> Option<Step> {
        let Lasting::Yes(ending, stream) = &self.lasting else { return None };
        match stream.asked() {
            Asked::No => return None,
            Asked::Politely if !ending.boundary.is_here() => return None,
            Asked::Politely | Asked::AtOnce => {}
        }
        let step = match ending.kind {
            Kind::Events => None,
            Kind::Grpc => Some(Ok(Frame::trailers(unavailable()))),
            Kind::Other | Kind::Tunnel => Some(Err(Cut::Closed)),
        };
        if !stream.is_finishing()
            && let Some(observation) = &mut self.observation
        {
            observation.remark("stream_closed");
        }
        stream.obeyed();
        self.close(End::Complete);
        self.lasting = Lasting::No;
        self.flow = Flow::Fixed(None);
        Some(step)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Step> {
        if let Some(fault) = self.cut.take() {
            return Poll::Ready(Some(Err(Cut::Fault(fault))));
        }
        if let Some(step) = self.end_early() {
            return Poll::Ready(step);
        }
        let polled = self.flow.poll_frame(cx);
        if let Some(under_way) = &self.under_way {
            under_way.polled(&polled);
        }
        let Poll::Ready(frame) = polled else {
            self.wait(cx);
            return Poll::Pending;
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let frame = self.follow(frame);
                self.note(&frame);
                if let Some(capture) = &mut self.capture {
                    capture.take(&frame);
                }
                if self.is_end_stream() {
                    self.finish_capture();
                    self.close(End::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(fault)) => {
                self.close(fault.end());
                // The server forgets what it has not sent yet when a body fails, even the head, and clients send a
                // request again if a kept connection ends without a byte of an answer. So it gets a turn to send it.
                self.cut = Some(fault);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                self.finish_capture();
                self.close(End::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        let is_done = match &self.flow {
            Flow::Fixed(bytes) => bytes.is_none(),
            Flow::H1(download) => download.is_done(),
            Flow::H2(download) => download.is_done(),
            Flow::Switched(_) => true,
        };
        is_done && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let length = match &self.flow {
            Flow::Fixed(bytes) => Some(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Flow::H1(download) => download.length(),
            Flow::H2(download) => download.length(),
            Flow::Switched(_) => Some(0),
        };
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Looked up in every answer: as a constant its text is not checked each time.
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The `grpc-status` among `fields`, if it is a number.
pub fn grpc_status(fields: &HeaderMap) -> Option<u8> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
