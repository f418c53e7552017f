//! Step 7 of the request: pool -> answer or fault, over HTTP/1 or HTTP/2.
//!
//! A request is sent again only if no byte of it was sent, or if it is safe, has no body, and met a pooled connection
//! that the upstream was just closing, or an HTTP/2 upstream that says that it has not done it. Nothing else is ever
//! submitted twice here; whether stable may be asked for what the canary did not answer is `fallback`'s to say.

use super::attempt::{Failed, Way, connect};
use super::body::Flow;
use super::fault::Fault;
use super::h1::{Exchange, Rest};
use super::h2;
use super::head::Head;
use super::headers::{Rewrite, clean_answer};
use super::link::Link;
use super::pool::Lease;
use super::replay::Outgoing;
use super::upload::Upload;
use crate::rollout::outcome::ErrorKind;
use http::header::{CONNECTION, CONTENT_LENGTH, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Body as _;

/// An upstream's answer; its body is still on the way.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, cleaned.
    pub headers: HeaderMap,
    /// The body.
    pub flow: Flow,
}

/// A request without an answer.
pub struct Unanswered {
    /// Why.
    pub fault: Fault,
    /// The request's body if no byte of the request was sent, so that it may be sent elsewhere whatever it asks for.
    pub unsent: Option<Option<Outgoing>>,
}

/// Sends a request and waits for the answer's head; at most two attempts, or some more while the upstream says that it has
/// done nothing of it.
pub async fn send(way: &Way<'_>, rewrite: &Rewrite<'_>, mut body: Option<Outgoing>) -> Result<Answer, Unanswered> {
    let repeatable = body.is_none() && is_safe(&rewrite.parts.method);
    let Some(mut lease) = way.pool.pick(None) else {
        return Err(Unanswered { fault: Fault::NoEndpoint, unsent: Some(body) });
    };
    // A WebSocket keeps its connection, so a pooled one would be missed by others, and may be closing.
    let mut fresh = rewrite.websocket && !way.upstream.http2;
    let began = lease.picked();
    for tried in 1.. {
        let Failed { fault, unsent, stale, refused, lease: last } =
            match attempt(way, lease, rewrite, body.take(), fresh).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => *failed,
            };
        let in_time = || way.answer_timeout.is_none_or(|limit| last.now().since(began) < limit);
        let may_repeat = match tried {
            1 => unsent.is_some() || ((stale.is_some() || refused) && repeatable),
            // Nothing was wrong with it but where it went.
            2..ATTEMPTS_MAX => refused && repeatable && in_time(),
            _ => false,
        };
        if stale.is_none() && !(refused && may_repeat) {
            last.failed(fault);
        }
        let next = match fault {
            _ if !may_repeat => None,
            // An endpoint that cannot be reached now will not be a moment later; another may.
            Fault::Failed(ErrorKind::Connect | ErrorKind::Tls) => way.pool.pick(Some(&last)),
            Fault::Failed(ErrorKind::Reset) => Some(last),
            _ => None,
        };
        let Some(next) = next else { return Err(Unanswered { fault, unsent }) };
        lease = next;
        // What was pooled beside a connection that had just been closed is likely closed too.
        fresh = stale.is_some() || refused;
        body = unsent.flatten();
        if let Some(retries) = way.retries {
            retries.add(1);
        }
    }
    Err(Unanswered { fault: Fault::NoEndpoint, unsent: None })
}

/// How often a request is sent that its upstream refuses each time: often enough for one whose connections end under load,
/// and seldom enough for one that has no room.
const ATTEMPTS_MAX: u8 = 5;

/// Sends a request once.
pub async fn attempt(
    way: &Way<'_>,
    lease: Lease,
    rewrite: &Rewrite<'_>,
    body: Option<Outgoing>,
    fresh: bool,
) -> Result<Answer, Box<Failed>> {
    if way.upstream.http2 {
        // Large beside the HTTP/1 leg's state, whose requests would carry it as well.
        let (mut head, download) = Box::pin(h2::send(way, lease, rewrite, body, fresh)).await?;
        clean_answer(&mut head.headers);
        return Ok(Answer { status: head.status, headers: head.headers, flow: Flow::H2(Box::new(download)) });
    }
    let link = match connect(way, &lease, fresh).await {
        Ok(link) => link,
        Err(fault) => return Err(Box::new(Failed { fault, unsent: Some(body), stale: None, refused: false, lease })),
    };
    let exchange = begin(way, lease, link, rewrite, body);
    let (head, rest) = exchange.head(way, &rewrite.parts.method).await?;
    Ok(answer(head, rest))
}

/// A request that waits to be written to an HTTP/1 connection.
fn begin(
    way: &Way<'_>,
    lease: Lease,
    mut link: Box<Link>,
    rewrite: &Rewrite<'_>,
    body: Option<Outgoing>,
) -> Box<Exchange> {
    let length = body.as_ref().map_or(Some(0), |body| body.size_hint().exact());
    write_head(&mut link.outbox.bytes, rewrite, &lease, length, body.is_some());
    let upload = Upload::new(body, length.is_none(), way.body_bytes_max);
    Exchange::new(link, lease, upload).switching(rewrite.websocket)
}

/// An HTTP/1 upstream's answer.
fn answer(mut head: Head, rest: Rest) -> Answer {
    let flow = match rest {
        Rest::Body(download) => Flow::H1(download),
        Rest::Switched(switched) => {
            head.headers.remove(CONTENT_LENGTH);
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            Flow::Switched(Box::new(switched))
        }
    };
    Answer { status: head.status, headers: head.headers, flow }
}

/// The request's head as HTTP/1.1 text.
fn write_head(out: &mut Vec<u8>, rewrite: &Rewrite<'_>, lease: &Lease, length: Option<u64>, has_body: bool) {
    out.clear();
    let uri = &rewrite.parts.uri;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    for part in [rewrite.parts.method.as_str(), " ", target, " HTTP/1.1\r\nhost: "] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(rewrite.host(lease.endpoint()).as_bytes());
    out.extend_from_slice(b"\r\n");
    match length {
        None => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(length) if has_body || takes_body(&rewrite.parts.method) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(length.to_string().as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Some(_) => {}
    }
    if rewrite.websocket {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
    }
    rewrite.write(out);
    out.extend_from_slice(b"\r\n");
}

/// Methods whose requests say their length even if it is nought (RFC 9110 §8.6).
fn takes_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Methods that change nothing on the server (RFC 9110 §9.2.1), as far as weir lets them through.
pub fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}
