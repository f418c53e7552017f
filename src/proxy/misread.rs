//! What becomes of an HTTP/1 connection on which something came that is no request, or more than one: its client is told
//! why, the refusal is counted and logged as any other, and the connection ends.
//!
//! `conn` calls it when hyper has let go of the stream, so that the answers to earlier requests have gone out.

use super::access::{self, Line};
use super::conn::Client;
use super::headers::Ids;
use super::local::Worker;
use super::present::Present;
use super::pulse::Pulse;
use super::refusal::Refusal;
use crate::snapshot::AccessLog;
use http::{HeaderMap, Method};
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Longest path that the log is told of such a head, in bytes.
const PATH_BYTES_MAX: usize = 1024;
/// For the answer and for what the client still sends meanwhile.
const FAREWELL: Duration = Duration::from_secs(2);

/// Tells the client, and ends what is sent to it. `head` is what came, as far as it was kept.
pub async fn tell<S: AsyncWrite + Unpin>(
    worker: &Worker,
    client: &Client,
    pulse: &Pulse,
    mut stream: S,
    head: &[u8],
    refusal: Refusal,
) {
    let ids = Ids::of(&HeaderMap::new(), Present::default(), worker.random());
    count(worker, refusal);
    let text = refusal.text(&ids);
    // The answer to a HEAD request has no body, even if that request cannot be read.
    let body = if head.starts_with(b"HEAD ") { "" } else { &text };
    log(worker, client, head, refusal, &ids, body.len() as u64);
    let date = httpdate::fmt_http_date(
        UNIX_EPOCH.checked_add(Duration::from_millis(worker.clock.wall().as_millis())).unwrap_or(UNIX_EPOCH),
    );
    let answer = format!(
        "HTTP/1.1 {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\
         date: {date}\r\n\r\n{body}",
        refusal.status(),
        text.len(),
    );
    pulse.misread();
    let told = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await
    };
    // Whether the client takes it is its own business.
    let _ = timeout(FAREWELL, told).await;
}

/// Counts a refusal.
pub fn count(worker: &Worker, refusal: Refusal) {
    let adopted = worker.adopted();
    let counts = adopted.snapshot.counts.of(worker.index);
    if let Some(count) = counts.and_then(|counts| counts.refused.get(refusal as usize)) {
        count.add(1);
    }
}

fn log(worker: &Worker, client: &Client, head: &[u8], refusal: Refusal, ids: &Ids, bytes: u64) {
    let adopted = worker.adopted();
    if adopted.snapshot.access_log == AccessLog::Off {
        return;
    }
    let line = head.split(|&byte| byte == b'\r' || byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let method = words.next().and_then(|word| Method::from_bytes(word).ok());
    let target = words.next().unwrap_or_default();
    let path = target.split(|&byte| byte == b'?' || byte == b'#').next().unwrap_or_default();
    let path = path.get(..PATH_BYTES_MAX).unwrap_or(path);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let line = Line {
        time: worker.clock.wall(),
        listener: adopted.snapshot.listeners.get(client.listener).map(|it| it.address.clone()).unwrap_or_default(),
        method: access::method(&method.unwrap_or_default()),
        path: text(path),
        status: refusal.status().as_u16(),
        bytes,
        duration_us: 0,
        upstream: None,
        rollout: None,
        arm: None,
        stage: None,
        reason: None,
        trace_id: text(ids.trace()),
        request_id: text(ids.request()),
        fallback: None,
        error: Some(refusal.word()),
    };
    worker.write_access(Box::new(line), false);
}
