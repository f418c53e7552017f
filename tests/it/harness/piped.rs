//! A body that is fed frame by frame from elsewhere, for clients and origins alike.

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::HeaderMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The one body type of all clients and origins.
pub type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body of known length.
pub fn sized(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body of unknown length and the way to feed it.
pub fn piped() -> (Feed, AnyBody) {
    // One frame: a sender learns at once when the other side stops taking.
    let (sender, frames) = mpsc::channel(1);
    (Feed(sender), Piped(frames).boxed_unsync())
}

/// Feeds a body; dropping it ends the body.
pub struct Feed(mpsc::Sender<io::Result<Frame<Bytes>>>);

impl Feed {
    /// Sends data; false if nobody takes it any more.
    pub async fn data(&self, bytes: impl Into<Bytes>) -> bool {
        self.0.send(Ok(Frame::data(bytes.into()))).await.is_ok()
    }

    /// Sends trailers.
    pub async fn trailers(&self, trailers: HeaderMap) -> bool {
        self.0.send(Ok(Frame::trailers(trailers))).await.is_ok()
    }

    /// Breaks the body off.
    pub async fn cut(&self) {
        let _ = self.0.send(Err(io::ErrorKind::ConnectionReset.into())).await;
    }
}

struct Piped(mpsc::Receiver<io::Result<Frame<Bytes>>>);

impl Body for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context)
    }
}

/// Fields of a map as text.
pub fn pairs(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// A map of these fields.
pub fn header_map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let entries = fields.iter().map(|(name, value)| {
        (hyper::header::HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))
    });
    entries.collect()
}
