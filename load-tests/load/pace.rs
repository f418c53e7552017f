//! A thread that says when a request is due. It sleeps in between, so a request is told some tens of microseconds late; how
//! late is measured, because it is part of every latency.

use crate::Failure;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, channel};

/// Requests that are due and were not yet taken; more than that are not sent.
const WAITING_MAX: usize = 100_000;

/// The number of a request, and when it was due.
pub type Due = (usize, Instant);

/// How far behind the requests were told.
#[derive(Default)]
pub struct Late {
    /// In microseconds, sorted.
    pub us: Vec<u32>,
    /// Requests that were never sent, because too many waited.
    pub lost: u64,
}

/// Tells the numbers of requests with these due times, which go up, and the moments at which they were due.
pub fn start(due: Vec<Duration>) -> Result<(Receiver<Due>, JoinHandle<Late>), Failure> {
    let (told, taken) = channel(WAITING_MAX);
    let run = move || {
        let (began, mut late) = (Instant::now(), Late::default());
        for (number, due) in due.into_iter().enumerate() {
            let at = began + due;
            loop {
                let left = at.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left);
            }
            late.us.push(u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX));
            if told.try_send((number, at)).is_err() {
                late.lost += 1;
            }
        }
        late.us.sort_unstable();
        late
    };
    Ok((taken, std::thread::Builder::new().name("pace".into()).spawn(run)?))
}
