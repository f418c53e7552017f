//! The access log: one JSON object a line, written by a thread of its own. A request never waits for it; lines that
//! find the queue full are dropped and counted.

use crate::clock::Wall;
use crate::rollout::Arm;
use http::Method;
use serde::Serialize;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Lines that may wait to be written; about 4 MiB.
const QUEUE_LINES_MAX: usize = 8192;
/// Longest text of one field, in bytes; the rest is cut.
const FIELD_BYTES_MAX: usize = 1024;

/// One request's line.
#[derive(Debug)]
pub struct Line {
    /// When it arrived.
    pub time: Wall,
    /// The listener's address as configured.
    pub listener: Arc<str>,
    /// Its method.
    pub method: Method,
    /// Its path, without the query.
    pub path: String,
    /// What the client got; 0 if it left before.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: u64,
    /// From the request's head to the end of the answer's body.
    pub duration_us: u64,
    /// Where it was sent, if anywhere.
    pub upstream: Option<Arc<str>>,
    /// The first rollout on its route, if any.
    pub rollout: Option<Arc<str>>,
    /// Its arm there.
    pub arm: Option<Arm>,
    /// The stage.
    pub stage: Option<Arc<str>>,
    /// Why that arm.
    pub reason: Option<String>,
    /// Of the trace it belongs to.
    pub trace_id: String,
    /// `x-request-id`.
    pub request_id: String,
    /// How the canary failed, if stable answered in its place; `upstream` is then stable's, `arm` is still the canary.
    pub fallback: Option<&'static str>,
    /// What went wrong for the client, if anything.
    pub error: Option<&'static str>,
}

/// The line as it is written; `error` is what went wrong for the client, else what stable made good.
#[derive(Serialize)]
struct Form<'a> {
    ts: String,
    listener: &'a str,
    method: &'a str,
    path: &'a str,
    status: u16,
    bytes: u64,
    duration_ms: f64,
    upstream: Option<&'a str>,
    rollout: Option<&'a str>,
    arm: Option<&'a str>,
    stage: Option<&'a str>,
    reason: Option<&'a str>,
    trace_id: &'a str,
    request_id: &'a str,
    fallback: bool,
    error: Option<&'a str>,
}

impl<'a> From<&'a Line> for Form<'a> {
    fn from(line: &'a Line) -> Self {
        Form {
            ts: line.time.to_string(),
            listener: &line.listener,
            method: cut(line.method.as_str()),
            path: cut(&line.path),
            status: line.status,
            bytes: line.bytes,
            duration_ms: line.duration_us as f64 / 1000.0,
            upstream: line.upstream.as_deref(),
            rollout: line.rollout.as_deref(),
            arm: line.arm.map(Arm::name),
            stage: line.stage.as_deref(),
            reason: line.reason.as_deref(),
            trace_id: cut(&line.trace_id),
            request_id: cut(&line.request_id),
            fallback: line.fallback.is_some(),
            error: line.error.or(line.fallback),
        }
    }
}

/// Where the workers put their lines.
#[derive(Clone, Debug)]
pub struct Log {
    queue: SyncSender<Box<Line>>,
}

impl Log {
    /// Starts the writing thread. It ends when the last clone of the log is gone, having written what was queued.
    pub fn start(out: Box<dyn Write + Send>) -> io::Result<(Log, JoinHandle<()>)> {
        let (queue, lines) = sync_channel(QUEUE_LINES_MAX);
        let thread = Builder::new().name("weir-access".into()).spawn(move || write_all(&lines, out))?;
        Ok((Log { queue }, thread))
    }

    /// Queues a line; false if the queue is full.
    pub fn offer(&self, line: Box<Line>) -> bool {
        self.queue.try_send(line).is_ok()
    }
}

fn write_all(lines: &Receiver<Box<Line>>, out: Box<dyn Write + Send>) {
    let mut out = BufWriter::new(out);
    while let Ok(line) = lines.recv() {
        let mut next = Some(line);
        while let Some(line) = next {
            // A log that cannot be written must not end the service; what is lost is seen by its absence.
            let _ = write_line(&mut out, &line);
            next = lines.try_recv().ok();
        }
        let _ = out.flush();
    }
}

fn write_line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Form::from(line)).map_err(io::Error::other)?;
    out.write_all(b"\n")
}

/// The front of `text`, at most `FIELD_BYTES_MAX` bytes.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(FIELD_BYTES_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn line(path: &str) -> Box<Line> {
        Box::new(Line {
            time: Wall::from_millis(1_600_000_000_000),
            listener: "127.0.0.1:8080".into(),
            method: Method::GET,
            path: path.into(),
            status: 200,
            bytes: 13,
            duration_us: 1500,
            upstream: Some("new".into()),
            rollout: Some("chat".into()),
            arm: Some(Arm::Canary),
            stage: None,
            reason: Some("bucket".into()),
            trace_id: "t".into(),
            request_id: "r".into(),
            fallback: None,
            error: None,
        })
    }

    #[test]
    fn lines_are_json_whatever_a_client_writes_into_them() {
        let out = Shared::default();
        let (log, thread) = Log::start(Box::new(out.clone())).unwrap();
        assert!(log.offer(line("/a\"\n{}\u{0}")));
        assert!(log.offer(line(&"é".repeat(2000))));
        drop(log);
        thread.join().unwrap();
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["path"], "/a\"\n{}\u{0}");
        assert_eq!(lines[0]["duration_ms"], 1.5);
        assert_eq!(lines[0]["arm"], "canary");
        assert_eq!(lines[1]["path"].as_str().unwrap().len(), FIELD_BYTES_MAX);
    }
}
