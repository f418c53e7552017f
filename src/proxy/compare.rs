//! Two answers to one request meet here, and go to be compared: the one that the client got, and the one to its copy.
//!
//! Only for requests of the units that are sampled. What is copied of an answer is bounded, and counted among what copies of
//! requests may take; where there is no more of that, or an answer does not come to its end, the comparison is given up and
//! counted, never anything else.

use super::ending::Kind as Stream;
use super::request::Exchange;
use super::ticket::Hold;
use crate::clock::Time;
use crate::pairs::{Answer, Pair};
use crate::rollout::bucket::{Bucketer, Weight};
use crate::rollout::diff::HEADERS;
use crate::rollout::diff::samples::Kind;
use crate::snapshot::{Diff, Shadow, Snapshot};
use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method, StatusCode};
use http_body::Frame;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// Where the answers to one request meet.
pub struct Meeting {
    snapshot: Arc<Snapshot>,
    rollout: usize,
    worker: usize,
    at: Time,
    method: Method,
    path: Box<str>,
    hold: RefCell<Hold>,
    came: RefCell<Came>,
    /// How many comparisons are still expected.
    expected: Cell<u64>,
    /// Whether there was no room for an answer.
    no_room: Cell<bool>,
}

/// The answers that have come.
#[derive(Default)]
struct Came {
    first: Option<Answer>,
    canary: Option<Answer>,
    noise: Option<Answer>,
}

/// Whose answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Stable's, which the client gets.
    Client,
    /// That to a copy.
    Copy(Kind),
}

/// An answer that is being gathered while it passes.
pub struct Capture {
    meeting: Rc<Meeting>,
    whose: Whose,
    answer: Answer,
    bytes: Vec<u8>,
    /// The same answer, for another rollout.
    beside: Option<Box<Capture>>,
}

impl Meeting {
    /// A meeting for the answers to that request, if its unit is among those that are sampled; and whether stable is to
    /// answer it twice.
    pub fn of(
        exchange: &Exchange<'_>,
        rollout: usize,
        shadow: &Shadow,
        unit: impl FnOnce() -> Option<String>,
    ) -> Option<(Rc<Meeting>, bool)> {
        let snapshot = &exchange.adopted.snapshot;
        let diff = snapshot.rollouts.get(rollout)?.diff.as_ref()?;
        let everyone = [&diff.share, &diff.noise].iter().all(|(_, share)| *share == Weight::FULL);
        let unit = if everyone { None } else { unit() };
        let among = |(bucketer, share): &(Bucketer, Weight)| {
            *share == Weight::FULL || unit.as_deref().is_some_and(|unit| bucketer.admits(unit, *share))
        };
        if !among(&diff.share) {
            return None;
        }
        let parts = exchange.parts;
        let path = parts.uri.path();
        let hold = Hold::new(Arc::clone(&snapshot.copies), shadow.max_memory, path.len() as u64);
        let Some(hold) = hold else {
            lose(diff, exchange.worker.index, false, 1);
            return None;
        };
        let safe = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let twice = safe && among(&diff.noise);
        let meeting = Meeting {
            snapshot: Arc::clone(snapshot),
            rollout,
            worker: exchange.worker.index,
            at: exchange.worker.clock.now(),
            method: parts.method.clone(),
            path: path.into(),
            hold: RefCell::new(hold),
            came: RefCell::default(),
            expected: Cell::new(if twice { 2 } else { 1 }),
            no_room: Cell::new(false),
        };
        Some((Rc::new(meeting), twice))
    }

    /// Gathers an answer with that head. None for a stream without an end.
    pub fn gather(self: &Rc<Self>, whose: Whose, status: StatusCode, headers: &HeaderMap) -> Option<Capture> {
        if Stream::of(headers) == Stream::Events {
            return None;
        }
        let names = HEADERS.iter().copied().chain([CONTENT_ENCODING.as_str()]);
        let kept = names.flat_map(|name| headers.get_all(name).iter().map(move |value| (name, value)));
        let headers = kept.filter_map(|(name, value)| Some((name.parse().ok()?, value.clone()))).collect();
        let answer = Answer { status: status.as_u16(), headers, ..Answer::default() };
        Some(Capture { meeting: Rc::clone(self), whose, answer, bytes: Vec::new(), beside: None })
    }

    fn diff(&self) -> Option<&Diff> {
        self.snapshot.rollouts.get(self.rollout)?.diff.as_ref()
    }

    /// Takes in an answer; a pair that is complete goes to be compared.
    fn arrive(&self, whose: Whose, answer: Answer) {
        let Ok(mut came) = self.came.try_borrow_mut() else { return };
        match whose {
            Whose::Client => came.first = Some(answer),
            Whose::Copy(Kind::Canary) => came.canary = Some(answer),
            Whose::Copy(Kind::Noise) => came.noise = Some(answer),
        }
        let Some(first) = came.first.clone() else { return };
        for kind in [Kind::Canary, Kind::Noise] {
            let second = if kind == Kind::Canary { came.canary.take() } else { came.noise.take() };
            if let Some(second) = second {
                self.offer(kind, first.clone(), second);
            }
        }
    }

    fn offer(&self, kind: Kind, first: Answer, second: Answer) {
        let (Some(diff), Some(split)) = (self.diff(), self.snapshot.splits.get(self.rollout)) else { return };
        let pair = Pair {
            rollout: Arc::clone(&split.name),
            rules: Arc::clone(&diff.rules),
            kind,
            at: self.at,
            method: self.method.clone(),
            path: self.path.clone(),
            first,
            second,
        };
        self.expected.set(self.expected.get().saturating_sub(1));
        if !diff.pairs.offer(pair) {
            lose(diff, self.worker, false, 1);
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        if let Some(diff) = self.diff() {
            lose(diff, self.worker, !self.no_room.get(), self.expected.get());
        }
    }
}

impl Capture {
    /// Gathers the client's answer for each of these.
    pub fn of_client(meetings: &[Rc<Meeting>], status: StatusCode, headers: &HeaderMap) -> Option<Capture> {
        let captures = meetings.iter().filter_map(|meeting| meeting.gather(Whose::Client, status, headers));
        captures.reduce(|earlier, capture| Capture { beside: Some(Box::new(earlier)), ..capture })
    }

    /// Takes in a frame that passes. What is longer than is compared is not kept at all.
    pub fn take(&mut self, frame: &Frame<Bytes>) {
        if let Some(beside) = &mut self.beside {
            beside.take(frame);
        }
        let Some(data) = frame.data_ref() else { return };
        if self.answer.longer || self.meeting.no_room.get() {
            return;
        }
        let most = self.meeting.diff().map_or(0, |diff| diff.rules.max_body);
        if self.bytes.len().saturating_add(data.len()) > most {
            self.answer.longer = true;
            self.bytes = Vec::new();
            return;
        }
        if self.make_room(data.len(), most) {
            self.bytes.extend_from_slice(data);
        } else {
            self.meeting.no_room.set(true);
        }
    }

    /// Room for so many bytes more, as far as the process has some. What is held is all that is taken.
    fn make_room(&mut self, bytes: usize, most: usize) -> bool {
        let (length, capacity) = (self.bytes.len().saturating_add(bytes), self.bytes.capacity());
        if length <= capacity {
            return true;
        }
        // Twice as much each time, so that few frames need another place; never more than is compared.
        let larger = capacity.saturating_mul(2).max(length).min(most);
        let more = larger.saturating_sub(capacity) as u64;
        let grown = self.meeting.hold.try_borrow_mut().is_ok_and(|mut hold| hold.grow(more).is_ok());
        if grown {
            self.bytes.reserve_exact(larger.saturating_sub(self.bytes.len()));
        }
        grown
    }

    /// The answer came to its end, or is longer than anybody reads.
    pub fn finish(mut self) {
        if let Some(beside) = self.beside.take() {
            beside.finish();
        }
        if self.meeting.no_room.get() {
            return;
        }
        if !self.bytes.is_empty() {
            self.answer.body = vec![Bytes::from(self.bytes)];
        }
        self.meeting.arrive(self.whose, self.answer);
    }

    /// Bytes of an answer that are read for this.
    pub fn most(&self) -> usize {
        self.meeting.diff().map_or(0, |diff| diff.rules.max_body)
    }
}

/// Counts comparisons that do not come about: because there was no room, or because an answer broke off.
fn lose(diff: &Diff, worker: usize, broken_off: bool, count: u64) {
    let lost = diff.lost.of(worker).and_then(|lost| lost.reasons.get(usize::from(broken_off)));
    if let Some(cell) = lost.filter(|_| count > 0) {
        cell.add(count);
    }
}
