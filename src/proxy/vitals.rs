//! Web vitals as browsers report them: a POST to a listener's `vitals_path` with the JSON that the `web-vitals` library sends
//! by `sendBeacon`, one object or a list of `{"name": "LCP", "value": 2600}`.
//!
//! Each report counts for the arm that the sender's own unit has in every rollout, by the same `decide` as its requests. What
//! anybody can post is bounded: the body, reports in it, posts of a worker per second, posts of one address. Nothing of a
//! report is kept but a count in a histogram. `request` asks whether a request is one.

use super::body::Body;
use super::conn::Client;
use super::local::Worker;
use super::present::Present;
use super::unit::RequestAsker;
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::assign::{Asker, Reason, Switches, decide};
use crate::rollout::vital::Vital;
use crate::snapshot::Snapshot;
use arrayvec::ArrayVec;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

/// Whether a request is for the listener's `vitals_path`.
pub fn is_for(snapshot: &Snapshot, client: &Client, parts: &Parts) -> bool {
    let path = snapshot.listeners.get(client.listener).and_then(|listener| listener.vitals_path.as_deref());
    path.is_some_and(|path| path == parts.uri.path())
}

/// Takes the reports in.
pub async fn answer(
    worker: &Worker,
    snapshot: &Snapshot,
    client: &Client,
    parts: &Parts,
    body: Incoming,
) -> Response<Body> {
    match take(worker, snapshot, client, parts, body).await {
        Ok(()) => plain(StatusCode::NO_CONTENT, ""),
        Err(Refused::Method) => {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "web vitals are posted\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            answer
        }
        Err(Refused::Kind) => {
            plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "expected JSON as text/plain or application/json\n")
        }
        Err(Refused::Dropped(why)) => {
            let counts = snapshot.counts.of(worker.index);
            if let Some(cell) = counts.and_then(|counts| counts.vitals_dropped.get(why as usize)) {
                cell.add(1);
            }
            match why {
                Dropped::Rate | Dropped::Sender => plain(StatusCode::TOO_MANY_REQUESTS, "too many web vitals\n"),
                Dropped::TooLarge => plain(StatusCode::PAYLOAD_TOO_LARGE, "more than 16 KiB of web vitals\n"),
                Dropped::Invalid => {
                    plain(StatusCode::BAD_REQUEST, "expected {\"name\": \"LCP\", \"value\": 2600} or a list\n")
                }
                Dropped::BrokenOff => plain(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
            }
        }
    }
}

/// Why nothing was counted.
enum Refused {
    Method,
    Kind,
    Dropped(Dropped),
}

/// In the order of `tally::VITALS_DROPPED`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dropped {
    Rate,
    Sender,
    TooLarge,
    Invalid,
    BrokenOff,
}

async fn take(
    worker: &Worker,
    snapshot: &Snapshot,
    client: &Client,
    parts: &Parts,
    body: Incoming,
) -> Result<(), Refused> {
    // Whatever the answer: a stream that is answered before its body has come is reset, and a connection with many of those
    // is closed under the requests that share it.
    let body = read(body).await;
    if parts.method != Method::POST {
        return Err(Refused::Method);
    }
    if !parts.headers.get(CONTENT_TYPE).is_none_or(is_json) {
        return Err(Refused::Kind);
    }
    let trusted = snapshot.trusts(client.address);
    let request = RequestAsker::new(worker, snapshot, parts, Present::of(&parts.headers), client, trusted);
    worker.vitals_gate.borrow_mut().pass(request.address(), worker.clock.now()).map_err(Refused::Dropped)?;
    let reports = reports(&body.map_err(Refused::Dropped)?).ok_or(Refused::Dropped(Dropped::Invalid))?;
    let sender = Sender(request);
    for (index, rollout) in snapshot.rollouts.iter().enumerate() {
        let Some(arm) = arm_of(snapshot, index, &sender) else { continue };
        let vitals = rollout.vitals.as_ref().and_then(|arms| arms.get(arm.index()));
        let Some(vitals) = vitals.and_then(|cells| cells.of(worker.index)) else { continue };
        for (vital, value) in &reports {
            let cells = vitals.of(*vital);
            cells.values.record(*value);
            cells.reports.add(1);
        }
    }
    worker.stir(snapshot);
    Ok(())
}

/// The arm that the sender's page came from; none if that cannot be told, or if it must not count.
fn arm_of(snapshot: &Snapshot, index: usize, sender: &Sender<'_>) -> Option<Arm> {
    let decision = decide(&snapshot.splits, index, sender);
    match decision.reason {
        Reason::Forced | Reason::Probe => None,
        // The page had an id that was minted for it and that its browser does not keep: on either arm.
        Reason::NoUnit if snapshot.rollouts.get(index)?.assign_cookie.is_some() => None,
        _ => Some(decision.arm),
    }
}

async fn read(body: Incoming) -> Result<Bytes, Dropped> {
    match tokio::time::timeout(BODY_WITHIN, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Dropped::TooLarge),
        Ok(Err(_)) | Err(_) => Err(Dropped::BrokenOff),
    }
}

type Reports = ArrayVec<(Vital, u64), REPORTS_MAX>;

/// The reports of a body that weir keeps; other vitals are passed over. None if it is no list of reports.
fn reports(body: &[u8]) -> Option<Reports> {
    let list = match serde_json::from_slice(body).ok()? {
        OneOrMany::One(report) => vec![report],
        OneOrMany::Many(reports) if reports.len() <= REPORTS_MAX => reports,
        OneOrMany::Many(_) => return None,
    };
    let kept = list.iter().filter_map(|report| Vital::from_name(&report.name).map(|vital| (vital, report.value)));
    kept.map(|(vital, value)| vital.counted(value).map(|value| (vital, value))).collect()
}

/// What browsers send; whatever else is in it is passed over.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<'a> {
    #[serde(borrow)]
    One(Report<'a>),
    Many(Vec<Report<'a>>),
}

#[derive(Deserialize)]
struct Report<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    value: f64,
}

/// A string is sent as text/plain, which also needs no permission from another origin.
fn is_json(kind: &HeaderValue) -> bool {
    let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/plain") || kind.eq_ignore_ascii_case("application/json")
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::fixed(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    if !text.is_empty() {
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    answer
}

/// The sender of a report: as its requests, except that no id is made up for it.
struct Sender<'a>(RequestAsker<'a>);

impl Asker for Sender<'_> {
    fn unit(&self, rollout: usize) -> Option<Cow<'_, str>> {
        self.0.brought_unit(rollout)
    }

    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.header(name)
    }

    fn cookie(&self, name: &str) -> Option<Cow<'_, str>> {
        self.0.cookie(name)
    }

    fn forced(&self, rollout: usize) -> Option<Arm> {
        self.0.forced(rollout)
    }

    fn switches(&self, rollout: usize) -> Switches {
        self.0.switches(rollout)
    }
}

/// How many posts a worker takes: so many a second, and of those so many from one address. Of fixed size: addresses share
/// slots by a keyed hash, so somebody may rarely be dropped for another's posts.
pub struct Gate {
    /// Posts that may be taken now, in millionths: a bucket that fills with time.
    millionths: u64,
    filled: Time,
    /// By slot: the span of time, and the posts in it.
    senders: Box<[(u64, u32)]>,
    hasher: ahash::RandomState,
}

impl Default for Gate {
    fn default() -> Self {
        let senders = vec![(0, 0); SENDER_SLOTS].into_boxed_slice();
        Gate { millionths: BURST_MILLIONTHS, filled: Time::default(), senders, hasher: ahash::RandomState::new() }
    }
}

impl Gate {
    fn pass(&mut self, address: std::net::IpAddr, now: Time) -> Result<(), Dropped> {
        let gained = now.since(self.filled).as_micros().saturating_mul(u128::from(POSTS_PER_SECOND));
        self.filled = now.max(self.filled);
        let gained = u64::try_from(gained).unwrap_or(u64::MAX);
        self.millionths = self.millionths.saturating_add(gained).min(BURST_MILLIONTHS);
        let left = self.millionths.checked_sub(POST_MILLIONTHS).ok_or(Dropped::Rate)?;
        let span = now.as_secs().div_euclid(SENDER_SPAN_SECONDS);
        let slot = self.hasher.hash_one(address).rem_euclid(SENDER_SLOTS as u64) as usize;
        if let Some((of, posts)) = self.senders.get_mut(slot) {
            if *of != span {
                (*of, *posts) = (span, 0);
            }
            if *posts >= SENDER_POSTS {
                return Err(Dropped::Sender);
            }
            *posts = posts.saturating_add(1);
        }
        self.millionths = left;
        Ok(())
    }
}

/// A report with all its attribution is a kilobyte or two.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// A page has five vitals; no list is a way to outvote everybody else.
const REPORTS_MAX: usize = 16;
/// A beacon is sent as a whole.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// Posts that a worker takes in a second: a hundredth of its time at the worst. More is a sample all the same.
const POSTS_PER_SECOND: u64 = 500;
const POST_MILLIONTHS: u64 = 1_000_000;
/// Two seconds' worth may come at once.
const BURST_MILLIONTHS: u64 = 2 * POSTS_PER_SECOND * POST_MILLIONTHS;
/// Posts of one address in such a span, on one worker: a few people behind one address, not a flood that outvotes the rest.
const SENDER_POSTS: u32 = 60;
const SENDER_SPAN_SECONDS: u64 = 10;
const SENDER_SLOTS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn from(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    #[test]
    fn one_report_and_a_list_are_read_and_unknown_vitals_are_passed_over() {
        let of = |text: &str| reports(text.as_bytes()).map(|reports| reports.to_vec());
        let library = r#"{"name":"LCP","value":2600.4,"rating":"needs-improvement","delta":2600.4,"id":"v4-1-2","entries":[{"a":1}]}"#;
        assert_eq!(of(library), Some(vec![(Vital::Lcp, 2_600_400)]));
        let list = r#"[{"name":"CLS","value":0.25,"id":"x"},{"name":"TTFB","value":-1},{"name":"I\u004eP","value":8}]"#;
        assert_eq!(of(list), Some(vec![(Vital::Cls, 250_000), (Vital::Inp, 8_000)]));
        assert_eq!(of("[]"), Some(vec![]));
        let many = vec![r#"{"name":"LCP","value":1}"#; REPORTS_MAX + 1].join(",");
        for wrong in [
            "",
            "null",
            "1",
            "\"LCP\"",
            "{}",
            "[[]]",
            r#"{"name":"LCP"}"#,
            r#"{"name":"LCP","value":null}"#,
            r#"{"name":"LCP","value":-1}"#,
            r#"{"name":"LCP","value":"1"}"#,
            r#"{"name":1,"value":1}"#,
            &format!("[{many}]"),
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..random.usize(0..64))
                .map(|_| *random.choice(b"{}[]\":,0123456789eE.-LCPINSnamevlu\\\xff").unwrap())
                .collect();
            let _ = reports(&bytes);
        }
    }

    #[test]
    fn a_worker_takes_so_many_posts_and_more_with_time() {
        let mut gate = Gate::default();
        let taken = |gate: &mut Gate, now| (0..5_000).filter(|number| gate.pass(from(*number), now).is_ok()).count();
        let first = taken(&mut gate, at(1000));
        assert!((900..=1000).contains(&first), "{first}: a burst, less those whose slots collide too often");
        assert_eq!(gate.pass(from(1), at(1000)), Err(Dropped::Rate));
        let mut gate = Gate { millionths: 0, filled: at(1000), ..Gate::default() };
        assert_eq!(taken(&mut gate, at(1100)), 50);
    }

    #[test]
    fn one_address_has_its_own_bound_and_gets_it_anew() {
        let mut gate = Gate::default();
        let taken = |gate: &mut Gate, now| (0..100).filter(|_| gate.pass(from(7), now).is_ok()).count();
        assert_eq!(taken(&mut gate, at(1000)), 60);
        assert_eq!(gate.pass(from(7), at(9_999)), Err(Dropped::Sender));
        assert_eq!(taken(&mut gate, at(10_000)), 60);
    }

    #[test]
    fn reasons_stand_in_the_order_of_their_words() {
        let words = [Dropped::Rate, Dropped::Sender, Dropped::TooLarge, Dropped::Invalid, Dropped::BrokenOff];
        assert_eq!(words.map(|word| crate::tally::VITALS_DROPPED[word as usize]), crate::tally::VITALS_DROPPED);
    }
}
