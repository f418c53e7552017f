//! A request's body that is copied while it passes. Where the copy would be too long or take too much it is given up, never
//! the request. A copy is sent when the body has ended, so that the canary never sees half a request.

use super::replay::{Broken, Outgoing};
use super::replica::{Copy, Replica, Skip};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// A body on its way to an upstream, and the copy of it.
pub struct Tee {
    body: Outgoing,
    /// None once it was sent or given up.
    copy: Option<Gathered>,
}

/// What has been copied.
struct Gathered {
    copy: Copy,
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Bytes that it may have, trailers included.
    bytes_max: u64,
}

impl Tee {
    /// That body, which is gathered for `copy` up to `bytes_max`.
    pub fn new(body: Outgoing, copy: Copy, bytes_max: u64) -> Tee {
        Tee { body, copy: Some(Gathered { copy, bytes: Vec::new(), trailers: None, bytes_max }) }
    }

    /// The next frame, as the body itself has it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                self.gather(frame);
                // Who knows the end need not ask for it; nothing comes after trailers.
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.give_up(Skip::BrokenOff),
            None => self.end(),
        }
        Poll::Ready(polled)
    }

    /// Whether the body has ended.
    pub fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// How long it is.
    pub fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn gather(&mut self, frame: &Frame<Bytes>) {
        let Some(gathered) = &mut self.copy else { return };
        if let Err(skip) = gathered.take(frame) {
            self.give_up(skip);
        }
    }

    fn end(&mut self) {
        let Some(Gathered { copy, bytes, trailers, .. }) = self.copy.take() else { return };
        let is_empty = bytes.is_empty() && trailers.is_none();
        copy.send((!is_empty).then(|| Replica::new(bytes.into(), trailers)));
    }

    fn give_up(&mut self, skip: Skip) {
        if let Some(gathered) = self.copy.take() {
            gathered.copy.skip(skip);
        }
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.give_up(Skip::BrokenOff);
    }
}

impl Gathered {
    /// Copied, not shared: a frame may keep far more memory alive than it shows.
    fn take(&mut self, frame: &Frame<Bytes>) -> Result<(), Skip> {
        let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
        let fields = frame.trailers_ref().into_iter().flatten();
        let field_bytes = fields.map(|(name, value)| name.as_str().len().saturating_add(value.len()));
        let fields = field_bytes.fold(0, usize::saturating_add);
        let length = self.bytes.len().saturating_add(data.len());
        if length.saturating_add(fields) as u64 > self.bytes_max {
            return Err(Skip::Body);
        }
        let capacity = self.bytes.capacity();
        if length > capacity {
            // Twice as much each time, so that few frames need another place; never more than the longest body.
            let most = usize::try_from(self.bytes_max).unwrap_or(usize::MAX);
            let larger = capacity.saturating_mul(2).max(length).min(most);
            self.copy.hold.grow(larger.saturating_sub(capacity) as u64)?;
            self.bytes.reserve_exact(larger.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(data);
        if let Some(trailers) = frame.trailers_ref() {
            self.copy.hold.grow(fields as u64)?;
            self.trailers = Some(trailers.clone());
        }
        Ok(())
    }
}
