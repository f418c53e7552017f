//! What an origin does with a request: an answer with its pace and its faults, or exact bytes.

use bytes::Bytes;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::sync::watch;

/// What an origin does with one request.
pub enum Reply {
    /// 200 with a JSON description of the request.
    Hello,
    /// An answer, over whatever protocol the request came by.
    Answer(Answer),
    /// HTTP/1.1 only: exact bytes and faults. Without `Close` or `Reset` the connection goes on.
    Raw(Vec<Step>),
}

/// A proper answer.
#[derive(Default)]
pub struct Answer {
    /// The status; 0 means 200.
    pub status: u16,
    /// Fields besides framing.
    pub fields: Vec<(&'static str, String)>,
    /// The body.
    pub body: Content,
    /// Trailers; they make the body chunked.
    pub trailers: Vec<(&'static str, &'static str)>,
    /// The request's body is not read before this opens.
    pub read_after: Option<Gate>,
    /// The head is not sent before this opens.
    pub send_after: Option<Gate>,
    /// Injected latency before the head.
    pub delay: Duration,
}

/// An answer's body.
pub enum Content {
    /// Of known length.
    Sized(Bytes),
    /// These chunks.
    Chunked(Vec<Bytes>),
    /// That many bytes of `pattern`, as fast as they are taken; the origin counts what it has written.
    Fill {
        /// How many.
        bytes: u64,
        /// Whether the length is announced.
        sized: bool,
    },
    /// The request's body, piece by piece.
    Echo,
    /// Two pieces, with a pause until the gate opens.
    Paused {
        /// Before the pause.
        first: Bytes,
        /// Ends the pause.
        gate: Gate,
        /// After the pause.
        last: Bytes,
    },
    /// A body that announces more than it sends, then ends the connection or stream.
    Cut(Bytes),
}

impl Default for Content {
    fn default() -> Self {
        Content::Sized(Bytes::new())
    }
}

/// One step of a raw reply.
pub enum Step {
    /// Writes these bytes.
    Write(Vec<u8>),
    /// Writes byte by byte with pauses between.
    Trickle(Vec<u8>, Duration),
    /// Waits until the other side ends the connection.
    Hang,
    /// Ends the connection.
    Close,
    /// Resets the connection.
    Reset,
}

impl Reply {
    /// A status with a short text.
    pub fn status(status: u16) -> Reply {
        Reply::Answer(Answer {
            status,
            body: Content::Sized(Bytes::from(format!("status {status}"))),
            ..Answer::default()
        })
    }

    /// 200 with this body.
    pub fn body(body: Content) -> Reply {
        Reply::Answer(Answer { body, ..Answer::default() })
    }

    /// Waits for the gate, then answers 200.
    pub fn held(gate: &Gate) -> Reply {
        let body = Content::Sized(Bytes::from_static(b"held"));
        Reply::Answer(Answer { send_after: Some(gate.clone()), body, ..Answer::default() })
    }

    /// These bytes, then the end of the connection.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply::Raw(vec![Step::Write(bytes.into()), Step::Close])
    }
}

/// A gate that a test opens once, for good.
#[derive(Clone)]
pub struct Gate(watch::Sender<bool>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Gate {
        Gate(watch::Sender::new(false))
    }

    /// Opens it.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn passed(&self) {
        // The gate itself holds a sender, so the wait cannot end otherwise.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// The bytes of `Content::Fill` from `start` on; a prime period shows every shift.
pub fn pattern(start: u64, length: usize) -> Bytes {
    static PERIODS: LazyLock<Bytes> = LazyLock::new(|| (0..=250).cycle().take(PATTERN_STEP as usize + 251).collect());
    let first = (start % 251) as usize;
    if length <= PATTERN_STEP as usize {
        return PERIODS.slice(first..first + length);
    }
    PERIODS[first..first + 251].iter().copied().cycle().take(length).collect()
}

/// The checksum of that many bytes of `pattern`.
pub fn pattern_checksum(bytes: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    let mut at = 0;
    while at < bytes {
        let length = (bytes - at).min(PATTERN_STEP);
        hasher.update(&pattern(at, length as usize));
        at += length;
    }
    hasher.finalize()
}

/// How much of the pattern is made at once.
pub const PATTERN_STEP: u64 = 64 * 1024;

impl Answer {
    /// The status, 200 unless the script names one.
    pub fn status_or_ok(&self) -> u16 {
        if self.status == 0 { 200 } else { self.status }
    }
}
