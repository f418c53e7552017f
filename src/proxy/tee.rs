//! A request's body that is copied while it passes. Where the copy would be too long or take too much it is given up, never
//! the request. A copy is sent when the body has ended and the request is answered, whichever comes last: the canary never sees
//! half a request, and nobody waits for an answer behind a copy.

use super::replay::{Broken, Outgoing};
use super::replica::{Copy, Replica};
use super::ticket::{Hold, Skip};
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A body on its way to an upstream, and the copy of it.
pub struct Tee {
    body: Outgoing,
    gathering: Rc<RefCell<Gathering>>,
}

/// What has been copied of a body, and the copy that it is for.
pub struct Gathering {
    state: State,
    /// None until the request is answered.
    copy: Option<Copy>,
}

enum State {
    /// More is to come.
    Open(Gathered),
    /// All of it has come; nothing if it was empty.
    Whole(Hold, Option<Replica>),
    /// There will be no copy.
    GivenUp(Skip),
}

/// What has come.
struct Gathered {
    hold: Hold,
    bytes: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Bytes that it may have, trailers included.
    bytes_max: u64,
}

impl Tee {
    /// That body, of which up to `bytes_max` are gathered.
    pub fn new(body: Outgoing, hold: Hold, bytes_max: u64) -> (Tee, Rc<RefCell<Gathering>>) {
        let gathered = Gathered { hold, bytes: Vec::new(), trailers: None, bytes_max };
        let gathering = Rc::new(RefCell::new(Gathering { state: State::Open(gathered), copy: None }));
        (Tee { body, gathering: Rc::clone(&gathering) }, gathering)
    }

    /// The next frame, as the body itself has it.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let mut gathering = self.gathering.borrow_mut();
        match &polled {
            Some(Ok(frame)) => {
                gathering.gather(frame);
                // Who knows the end need not ask for it; nothing comes after trailers.
                if frame.is_trailers() || self.body.is_end_stream() {
                    gathering.end();
                }
            }
            Some(Err(_)) => gathering.give_up(Skip::BrokenOff),
            None => gathering.end(),
        }
        drop(gathering);
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
}

impl Drop for Tee {
    fn drop(&mut self) {
        self.gathering.borrow_mut().give_up(Skip::BrokenOff);
    }
}

impl Gathering {
    /// The request is answered: the copy may be sent as soon as the body is whole.
    pub fn release(&mut self, copy: Copy) {
        self.copy = Some(copy);
        self.settle();
    }

    fn gather(&mut self, frame: &Frame<Bytes>) {
        let State::Open(gathered) = &mut self.state else { return };
        if let Err(skip) = gathered.take(frame) {
            self.give_up(skip);
        }
    }

    fn end(&mut self) {
        self.state = match std::mem::replace(&mut self.state, State::GivenUp(Skip::BrokenOff)) {
            State::Open(Gathered { hold, bytes, trailers, .. }) => {
                let is_empty = bytes.is_empty() && trailers.is_none();
                State::Whole(hold, (!is_empty).then(|| Replica::new(bytes.into(), trailers)))
            }
            over => over,
        };
        self.settle();
    }

    fn give_up(&mut self, skip: Skip) {
        if matches!(self.state, State::Open(_)) {
            self.state = State::GivenUp(skip);
            self.settle();
        }
    }

    /// Sends the copy or counts why there is none, once both are known.
    fn settle(&mut self) {
        if matches!(self.state, State::Open(_)) {
            return;
        }
        let Some(copy) = self.copy.take() else { return };
        match std::mem::replace(&mut self.state, State::GivenUp(Skip::BrokenOff)) {
            State::Whole(hold, body) => copy.send(hold, body),
            State::GivenUp(skip) => copy.ticket.skip(skip),
            State::Open(_) => {}
        }
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
            self.hold.grow(larger.saturating_sub(capacity) as u64)?;
            self.bytes.reserve_exact(larger.saturating_sub(self.bytes.len()));
        }
        self.bytes.extend_from_slice(data);
        if let Some(trailers) = frame.trailers_ref() {
            self.hold.grow(fields as u64)?;
            self.trailers = Some(trailers.clone());
        }
        Ok(())
    }
}
