//! The process's own log on standard error, by way of a thread: whoever logs never waits for whoever reads.
//!
//! A reader that stands still costs lines, not service: what does not fit into the queue is lost. How much was is a metric, and
//! is said once somebody reads again. Used by `serve` alone.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// Where lines are put; cheap to clone.
#[derive(Clone, Debug)]
pub struct Log {
    lines: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Everything before it is written once this is answered.
    Flush(SyncSender<()>),
}

impl Log {
    /// A log that ends up in `target`, written by a thread of its own.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn to(target: impl Write + Send + 'static) -> io::Result<Log> {
        let (lines, queue) = sync_channel(LINES_MAX);
        let lost = Arc::<AtomicU64>::default();
        let told = Arc::clone(&lost);
        thread::Builder::new().name("weir-log".into()).spawn(move || write(target, &queue, &told))?;
        Ok(Log { lines, lost })
    }

    /// How many lines have been lost so far, as it goes on.
    pub fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Waits until what was put in before is written, but not for a reader that stands still.
    pub fn flush(&self) {
        let (written, answer) = sync_channel(1);
        for _ in 0..FLUSH_TRIES {
            if self.lines.try_send(Message::Flush(written.clone())).is_ok() {
                // Either it is written or it took too long; both are the end of it.
                let _ = answer.recv_timeout(FLUSH_WITHIN);
                return;
            }
            // The queue is full. There is nothing to do meanwhile: the process is ending.
            thread::sleep(FLUSH_WITHIN / FLUSH_TRIES);
        }
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.lines.try_send(Message::Line(one_line(line))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

/// A line that is one: line breaks and other controls inside it, which may come from a reason that somebody gave, become visible.
/// Only the escapes stay that colours are made of; the formatter has taken those of others out.
fn one_line(line: &[u8]) -> Vec<u8> {
    let (inside, end) = line.strip_suffix(b"\n").map_or((line, &b""[..]), |inside| (inside, b"\n"));
    let mut written = Vec::with_capacity(line.len());
    for &byte in inside {
        match byte {
            b'\x1b' | b' '..=b'~' | 0x80.. => written.push(byte),
            other => written.extend(other.escape_ascii()),
        }
    }
    written.extend_from_slice(end);
    written
}

/// Writes until nobody can log any more. A target that is gone takes nothing, and there is nobody to tell but the metric.
fn write(mut target: impl Write, queue: &Receiver<Message>, lost: &AtomicU64) {
    let mut told = 0;
    while let Ok(message) = queue.recv() {
        match message {
            Message::Line(line) => {
                if target.write_all(&line).is_err() {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(written) => {
                let _ = target.flush();
                let _ = written.send(());
            }
        }
        let so_far = lost.load(Ordering::Relaxed);
        let lines = so_far.saturating_sub(told);
        if lines > 0 && writeln!(target, "weir: {lines} lines of the log were lost, because nobody read them").is_ok() {
            told = so_far;
        }
    }
}

/// Lines that wait for their reader: more than any moment brings forth.
const LINES_MAX: usize = 1024;
/// How long the end of the process waits for a reader.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// How often it looks for room in the queue in that time.
const FLUSH_TRIES: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// A target that takes a line only when it is let.
    struct Held {
        may: Receiver<()>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Held {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.may.recv();
            self.written.lock().unwrap().push_str(std::str::from_utf8(line).unwrap());
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_nobody_waits() {
        let (let_go, may) = sync_channel(1);
        let written = Arc::<Mutex<String>>::default();
        let mut log = Log::to(Held { may, written: Arc::clone(&written) }).unwrap();
        for line in 0..2 * LINES_MAX {
            log.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
        drop(let_go);
        log.flush();
        let written = written.lock().unwrap();
        assert!(written.starts_with("0\n") && written.contains("lines of the log were lost"), "{written}");
        assert!(written.lines().count() > LINES_MAX, "what fitted is there");
        let lost = log.lost().load(Ordering::Relaxed);
        let said = written.matches("lines of the log were lost").count();
        assert_eq!(written.lines().count() - said + lost as usize, 2 * LINES_MAX, "what did not is counted");
    }

    /// A target that has gone.
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_as_lost() {
        let mut log = Log::to(Gone).unwrap();
        log.write_all(b"one\n").unwrap();
        log.write_all(b"two\n").unwrap();
        log.flush();
        assert_eq!(log.lost().load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_line_stays_one_whatever_stands_in_it() {
        assert_eq!(one_line(b"kill: x\r\nINFO forged\x00\t\n"), b"kill: x\\r\\nINFO forged\\x00\\t\n");
        assert_eq!(one_line("\x1b[33mWARN\x1b[0m größer\n".as_bytes()), "\x1b[33mWARN\x1b[0m größer\n".as_bytes());
        assert_eq!(one_line(b"without an end"), b"without an end");
    }

    #[test]
    fn what_was_logged_is_written_when_it_is_flushed() {
        let (let_go, may) = sync_channel(1);
        drop(let_go);
        let written = Arc::<Mutex<String>>::default();
        let mut log = Log::to(Held { may, written: Arc::clone(&written) }).unwrap();
        log.write_all(b"one\n").unwrap();
        log.write_all(b"two\n").unwrap();
        log.flush();
        assert_eq!(*written.lock().unwrap(), "one\ntwo\n");
    }
}
