//! One event on its way to one target: tried until the target takes it, refuses it, or it is too old to be news.
//!
//! Between tries it waits ever longer, never in step with others, and as long as the target asks for within bounds. A target
//! whose config changes meanwhile is tried the new way at once.

use super::super::http::{self, Lookups};
use super::super::inbox::Event;
use super::super::store::Told;
use super::{Outcome, Report, form};
use crate::clock::{Clock, Time, Wall};
use crate::config::NotifyConfig;
use crate::config::units::print_span;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Request, StatusCode};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// What a delivery is made of.
pub struct Delivery {
    /// The event.
    pub told: Told,
    /// The target's key.
    pub target: Arc<str>,
    /// The target as it is now.
    pub config: watch::Receiver<Arc<NotifyConfig>>,
    /// Its way to look names up.
    pub lookups: Lookups,
    /// The process's clock.
    pub clock: Clock,
    /// Where it says what comes of it.
    pub reports: mpsc::Sender<Event>,
    /// Since when the event waits.
    pub since: Time,
    /// How old it was then.
    pub age: Duration,
}

/// Why a try failed.
#[derive(Debug, PartialEq)]
struct Failure {
    why: String,
    /// Whether another try may do better, and how long the target asks to be left alone.
    again: Option<Duration>,
}

impl Delivery {
    /// Tries until there is an end of it. Every event is tried once, however old it is: a clock that jumps loses none.
    pub async fn run(mut self) {
        for tries in 0.. {
            let config = Arc::clone(&self.config.borrow_and_update());
            let failure = match self.attempt(&config).await {
                Ok(()) => return self.report(Outcome::Sent).await,
                Err(failure) => failure,
            };
            let Some(asked) = failure.again else { return self.report(Outcome::GivenUp(failure.why)).await };
            let pause = pause(tries, fastrand::f64()).max(asked.min(RETRY_AFTER_MAX));
            if self.age + self.clock.now().since(self.since) + pause > config.max_age {
                let why = format!("{}; not within {}", failure.why, print_span(config.max_age));
                return self.report(Outcome::GivenUp(why)).await;
            }
            self.report(Outcome::Retried(failure.why)).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The target ends this task when it is gone.
                Ok(()) = self.config.changed() => {}
            }
        }
    }

    async fn attempt(&self, config: &NotifyConfig) -> Result<(), Failure> {
        let again = |why: String| Failure { why, again: Some(Duration::ZERO) };
        let now = self.clock.wall();
        let request = request(config, &self.told, now)
            .ok_or(Failure { why: "what is to be sent cannot be written as a request".to_owned(), again: None })?;
        let exchange = http::exchange(&config.server, request, &self.lookups);
        let authority = &config.server.authority;
        let answer = match tokio::time::timeout(config.timeout, exchange).await {
            Ok(answer) => answer.map_err(again)?,
            Err(_) => return Err(again(format!("no answer from {authority} within {}", print_span(config.timeout)))),
        };
        judge(answer.status, &answer.headers, authority, now)
    }

    async fn report(&self, outcome: Outcome) {
        let report = Report { target: Arc::clone(&self.target), id: self.told.event.id, outcome };
        // Without a control plane there is nobody to be told of it.
        let _ = self.reports.send(Event::Notified(report)).await;
    }
}

fn request(config: &NotifyConfig, told: &Told, now: Wall) -> Option<Request<Full<Bytes>>> {
    let (path, parameters) = (http::text(&config.server.path)?, http::text(&config.server.parameters)?);
    let separator = if parameters.is_empty() { "" } else { "?" };
    Request::post(format!("{path}{separator}{parameters}"))
        .header(CONTENT_TYPE, "application/json")
        .header(EVENT_HEADER, format!("{}-{:016x}", told.event.id, told.key))
        .body(Full::from(form::body(config.kind, told, now)?))
        .ok()
}

/// What an answer means. Its body is not looked at and never shown: many a server repeats the path there, which is a secret.
fn judge(status: StatusCode, headers: &HeaderMap, authority: &str, now: Wall) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let retried = status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    let redirected = if status.is_redirection() { ", and redirects are not followed" } else { "" };
    Err(Failure {
        why: format!("{authority} answers {}{redirected}", status.as_u16()),
        again: retried.then(|| retry_after(headers, now)),
    })
}

/// How long a target asks to be left alone: seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: Wall) -> Duration {
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return Duration::ZERO };
    if let Ok(seconds) = text.trim().parse() {
        return Duration::from_secs(seconds);
    }
    let date = httpdate::parse_http_date(text).ok().and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    date.unwrap_or_default().saturating_sub(Duration::from_millis(now.as_millis()))
}

/// How long to wait after that many tries: doubling up to the most, and between half and all of it by `chance` (0 to 1), so
/// that many who lost the same target do not come back together.
fn pause(tries: u32, chance: f64) -> Duration {
    let full = PAUSE_MIN.saturating_mul(1 << tries.min(PAUSE_DOUBLINGS_MAX)).min(PAUSE_MAX);
    full.mul_f64(0.5 + chance / 2.0)
}

/// Names an event the same at every try, so that who gets one twice can tell.
const EVENT_HEADER: &str = "x-weir-event";
/// Before the second try.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// A target that is back is told within a minute.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Enough to get from the least to the most.
const PAUSE_DOUBLINGS_MAX: u32 = 7;
/// No target keeps its own news back longer than that.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall::from_millis(784_111_777_000);

    fn judged(status: u16, after: Option<&str>) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.extend(after.map(|after| (RETRY_AFTER, after.parse().unwrap())));
        judge(StatusCode::from_u16(status).unwrap(), &headers, "host:1", NOW)
    }

    #[test]
    fn only_what_may_do_better_is_tried_again() {
        for status in [200, 201, 202, 204] {
            assert_eq!(judged(status, None), Ok(()));
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(judged(status, None).unwrap_err().again, Some(Duration::ZERO), "{status}");
        }
        for status in [300, 301, 302, 307, 308, 400, 401, 403, 404, 410, 413, 422] {
            assert_eq!(judged(status, Some("5")).unwrap_err().again, None, "{status}");
        }
        assert_eq!(judged(404, None).unwrap_err().why, "host:1 answers 404");
        assert_eq!(judged(307, None).unwrap_err().why, "host:1 answers 307, and redirects are not followed");
    }

    #[test]
    fn a_target_may_ask_for_time_in_seconds_or_by_a_date() {
        let after = |text: &str| judged(429, Some(text)).unwrap_err().again.unwrap().as_secs();
        assert_eq!(after("17"), 17);
        assert_eq!(after("Sun, 06 Nov 1994 08:50:37 GMT"), 60);
        for nothing in ["Sun, 06 Nov 1994 08:00:00 GMT", "soon", "-5", "1.5"] {
            assert_eq!(after(nothing), 0, "{nothing}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_differ() {
        assert_eq!((pause(0, 0.0), pause(0, 1.0)), (PAUSE_MIN / 2, PAUSE_MIN));
        assert_eq!(pause(1, 1.0), PAUSE_MIN * 2);
        assert_eq!((pause(7, 1.0), pause(u32::MAX, 1.0)), (PAUSE_MAX, PAUSE_MAX));
        assert!(pause(6, 1.0) < PAUSE_MAX && pause(6, 1.0) * 2 > PAUSE_MAX, "no more doublings than are needed");
    }
}
