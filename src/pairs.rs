//! Pairs of answers to one request, on their way from the workers to whoever compares them: a bounded channel that nobody waits
//! for, bounded in bytes besides.
//!
//! Bodies are the frames as they passed, not copies of them. What does not fit is dropped; the worker counts it.

use crate::clock::Time;
use crate::rollout::diff::Rules;
use crate::rollout::diff::samples::Kind;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An answer as far as it is compared.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Of its headers those that are compared, and how its body is coded.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body as it came.
    pub body: Vec<Bytes>,
    /// Whether the body is longer than is compared, and the rest of it missing.
    pub longer: bool,
}

/// Two answers to one request.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The rollout that compares them.
    pub rollout: Arc<str>,
    /// Under which rules.
    pub rules: Arc<Rules>,
    /// Whose answer the second one is.
    pub kind: Kind,
    /// When the request came.
    pub at: Time,
    /// Its method.
    pub method: Method,
    /// Its path without the query.
    pub path: Box<str>,
    /// What stable answered the client.
    pub first: Answer,
    /// What the canary, or stable once more, answered to the copy.
    pub second: Answer,
}

/// The way of the pairs.
#[derive(Debug)]
pub struct Pairs {
    given: SyncSender<Pair>,
    /// Until somebody compares.
    taken: Mutex<Option<Receiver<Pair>>>,
    /// Bytes on the way.
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Pair {
    /// The memory that its bodies keep alive, at least.
    pub fn bytes(&self) -> u64 {
        let frames = self.first.body.iter().chain(&self.second.body);
        frames.fold(OWN_BYTES, |sum, frame| sum.saturating_add(frame.len() as u64))
    }
}

impl Default for Pairs {
    fn default() -> Self {
        let (given, taken) = sync_channel(PAIRS_MAX);
        Pairs { given, taken: Mutex::new(Some(taken)), bytes: AtomicU64::new(0), ended: AtomicBool::new(false) }
    }
}

impl Pairs {
    /// Sends a pair to be compared; false if too many wait already. Never waits.
    pub fn offer(&self, pair: Pair) -> bool {
        let bytes = pair.bytes();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > BYTES_MAX {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        let sent = self.given.try_send(pair).is_ok();
        if !sent {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }

    /// Hands every pair to `compare`, on the thread that calls this, until `end`. Whoever calls it second gets none.
    pub fn each(&self, mut compare: impl FnMut(Pair)) {
        let Some(taken) = self.taken.lock().ok().and_then(|mut taken| taken.take()) else { return };
        while !self.ended.load(Ordering::Relaxed) {
            match taken.recv_timeout(LOOK_EVERY) {
                Ok(pair) => {
                    let bytes = pair.bytes();
                    compare(pair);
                    self.bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Lets `each` return after the pair that it has.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Pairs that wait.
const PAIRS_MAX: usize = 1_024;
/// Bytes of their bodies, those of the pair that is being compared included.
const BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a pair takes besides its bodies.
const OWN_BYTES: u64 = 1_024;
/// How often it is looked whether it is over while nothing comes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(bytes: usize) -> Pair {
        let first = Answer { body: vec![Bytes::from(vec![0; bytes])], ..Answer::default() };
        Pair {
            rollout: "chat".into(),
            rules: Arc::default(),
            kind: Kind::Canary,
            at: Time::default(),
            method: Method::GET,
            path: "/".into(),
            first,
            second: Answer::default(),
        }
    }

    #[test]
    fn too_many_pairs_and_too_many_bytes_are_dropped_and_room_comes_back() {
        let pairs = Pairs::default();
        let taken = (0..2 * PAIRS_MAX).filter(|_| pairs.offer(pair(1))).count();
        assert_eq!(taken, PAIRS_MAX);
        let mut seen = 0;
        pairs.each(|_| {
            seen += 1;
            if seen == PAIRS_MAX {
                pairs.end();
            }
        });
        assert_eq!((seen, pairs.bytes.load(Ordering::Relaxed)), (PAIRS_MAX, 0));

        let pairs = Pairs::default();
        let taken = (0..64).filter(|_| pairs.offer(pair(1 << 20))).count();
        assert_eq!(taken, 31, "32 MiB with what a pair takes besides");
    }
}
