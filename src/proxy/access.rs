//! The access log: one JSON object a line, written by a thread of its own. A request never waits for it; lines that
//! find the queue full are dropped and counted.

use crate::clock::Wall;
use crate::rollout::Arm;
use http::Method;
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Lines that may wait to be written: usually about 4 MiB, and with everything as long as it may be 12 MiB.
const QUEUE_LINES_MAX: usize = 8192;
/// Longest text of one field, in bytes; the rest is cut.
const FIELD_BYTES_MAX: usize = 1024;
/// Longest method.
const METHOD_BYTES_MAX: usize = 32;

/// One request's line.
#[derive(Debug)]
pub struct Line {
    /// When it arrived.
    pub time: Wall,
    /// The listener's address as configured.
    pub listener: Arc<str>,
    /// Its method, as `method` has it.
    pub method: Method,
    /// Its path, without the query, as `cut` has it.
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
    Form::from(line).serialize(&mut Serializer::with_formatter(&mut *out, Plain)).map_err(io::Error::other)?;
    out.write_all(b"\n")
}

/// JSON that is safe to look at as well: besides what JSON escapes, everything that a terminal or an editor would carry out or show
/// in another place than it stands.
struct Plain;

impl Formatter for Plain {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, character)) = rest.char_indices().find(|(_, character)| is_unsafe(*character)) {
            let (before, from) = rest.split_at(at);
            // All of them are in the first plane, so that one escape is one of them.
            write!(out, "{before}\\u{:04x}", u32::from(character))?;
            rest = from.get(character.len_utf8()..).unwrap_or_default();
        }
        out.write_all(rest.as_bytes())
    }
}

/// DEL and the C1 controls, line and paragraph separators, marks that turn the direction of writing.
fn is_unsafe(character: char) -> bool {
    matches!(character,
        '\u{7f}'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A method as long as is kept of it.
pub fn method(method: &Method) -> Method {
    match method.as_str().as_bytes().get(..METHOD_BYTES_MAX) {
        Some(front) => Method::from_bytes(front).unwrap_or_default(),
        None => method.clone(),
    }
}

/// The front of `text`, at most `FIELD_BYTES_MAX` bytes.
pub fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(FIELD_BYTES_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
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

    /// What is written of these lines.
    fn written(lines: impl IntoIterator<Item = Box<Line>>) -> String {
        let out = Shared::default();
        let (log, thread) = Log::start(Box::new(out.clone())).unwrap();
        for line in lines {
            assert!(log.offer(line));
        }
        drop(log);
        thread.join().unwrap();
        String::from_utf8(out.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_are_json_with_the_fields_of_the_contract() {
        let text = written([line("/a\"\n{}\u{0}"), line(&"é".repeat(2000))]);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["path"], "/a\"\n{}\u{0}");
        assert_eq!(lines[0]["duration_ms"], 1.5);
        assert_eq!(lines[0]["arm"], "canary");
        assert_eq!(lines[1]["path"].as_str().unwrap().len(), FIELD_BYTES_MAX);
        let at = |key: &str| text.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} in {text}"));
        assert!(FIELDS.map(at).is_sorted(), "{text}");
    }

    const FIELDS: [&str; 16] = [
        "ts",
        "listener",
        "method",
        "path",
        "status",
        "bytes",
        "duration_ms",
        "upstream",
        "rollout",
        "arm",
        "stage",
        "reason",
        "trace_id",
        "request_id",
        "fallback",
        "error",
    ];

    /// Whatever a client writes where a line shows it.
    fn hostile() -> impl Strategy<Value = String> {
        let mean = [
            "\"",
            "\\",
            "\n",
            "\r\n{\"ts\":1}\n",
            "\u{0}",
            "\u{1b}[2J",
            "\u{9b}2J",
            "\u{2028}",
            "\u{202e}",
            "</script>",
            "\\u0022",
        ];
        let part = prop_oneof![any::<String>(), prop::sample::select(mean.to_vec()).prop_map(str::to_owned)];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn what_a_client_writes_stays_inside_its_string(path in hostile(), trace in hostile(), id in hostile(), method in "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,80}") {
            let hostile = Line {
                path: cut(&path).to_owned(),
                trace_id: trace.clone(),
                request_id: id.clone(),
                method: super::method(&Method::from_bytes(method.as_bytes()).unwrap()),
                ..*line("")
            };
            let text = written([Box::new(hostile), line("/next")]);
            let (first, rest) = text.split_once('\n').unwrap();
            prop_assert!(!first.chars().any(|c| c.is_control() || is_unsafe(c)), "{first:?}");
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(first).unwrap();
            let keys: std::collections::BTreeSet<&str> = object.keys().map(String::as_str).collect();
            prop_assert_eq!(keys, std::collections::BTreeSet::from(FIELDS));
            prop_assert_eq!(object["path"].as_str(), Some(cut(&path)));
            prop_assert_eq!(object["trace_id"].as_str(), Some(cut(&trace)));
            prop_assert_eq!(object["request_id"].as_str(), Some(cut(&id)));
            prop_assert_eq!(object["method"].as_str(), Some(&method[..method.len().min(METHOD_BYTES_MAX)]));
            prop_assert_eq!(object.len(), FIELDS.len());
            prop_assert!(rest.ends_with("}\n") && rest.matches('\n').count() == 1, "{rest:?}");
        }
    }

    /// A reader that stands still until it is let go.
    struct Stalled(Receiver<()>);

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_nobody_waits() {
        let (let_go, stalled) = sync_channel(1);
        let (log, thread) = Log::start(Box::new(Stalled(stalled))).unwrap();
        let offered = 10 * QUEUE_LINES_MAX;
        let taken = (0..offered).filter(|_| log.offer(line("/"))).count();
        // The queue, and what the buffer took before it met the reader.
        assert!((QUEUE_LINES_MAX..2 * QUEUE_LINES_MAX).contains(&taken), "{taken} of {offered}");
        drop(let_go);
        drop(log);
        thread.join().unwrap();
    }
}
