//! Tells which part of an HTTP message each byte of a connection belongs to, for HTTP/1.1 and HTTP/2, without
//! understanding more of it: this is how a relay knows where the steps of the protocol are.

use std::collections::HashSet;

/// Part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What belongs to no message: HTTP/2's preface and the frames of the connection itself.
    Opening,
    /// Request line or status line, and fields; HTTP/2's first block of fields.
    Head,
    /// The body, with the sizes of its chunks or the headers of its frames.
    Body,
    /// What follows the last chunk, be it empty; HTTP/2's last block of fields.
    Trailers,
}

impl Part {
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// What a byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The part it belongs to.
    pub part: Part,
    /// Whether a message begins with it.
    pub begins: bool,
    /// Whether a message ends with it.
    pub ends: bool,
}

/// Reads one direction of one connection.
pub enum Scanner {
    /// HTTP/1.1.
    Http1(Http1),
    /// HTTP/2.
    Http2(Http2),
}

impl Scanner {
    /// For HTTP/1.1, either direction; answers must announce how they end.
    pub fn http1() -> Scanner {
        Scanner::Http1(Http1 { state: State::Head, text: Vec::new(), start_line: None })
    }

    /// For HTTP/2; the client's direction has the preface.
    pub fn http2(from_client: bool) -> Scanner {
        let preface_left = if from_client { PREFACE_BYTES } else { 0 };
        Scanner::Http2(Http2 { preface_left, frame: Frame::default(), streams: HashSet::new() })
    }

    /// What the first byte of `rest` is; none if that shows only with the bytes after it. Each call goes one byte on.
    pub fn step(&mut self, rest: &[u8]) -> Option<Mark> {
        match self {
            Scanner::Http1(scanner) => rest.first().map(|&byte| scanner.step(byte)),
            Scanner::Http2(scanner) => scanner.step(rest),
        }
    }

    /// The first line of the HTTP/1.1 message that has begun, once, as soon as it is there.
    pub fn take_start_line(&mut self) -> Option<String> {
        match self {
            Scanner::Http1(scanner) => scanner.start_line.take(),
            Scanner::Http2(_) => None,
        }
    }
}

const PREFACE_BYTES: usize = 24;

/// HTTP/1.1.
pub struct Http1 {
    state: State,
    /// The head, or the line of a chunk, as far as it has come.
    text: Vec<u8>,
    start_line: Option<String>,
}

enum State {
    Head,
    Sized(u64),
    ChunkLine,
    Chunk(u64),
    Trailers,
}

impl Http1 {
    fn step(&mut self, byte: u8) -> Mark {
        let begins = matches!(self.state, State::Head) && self.text.is_empty();
        let (part, ends) = match self.state {
            State::Head => (Part::Head, self.head(byte)),
            State::Sized(left) => {
                self.state = State::Sized(left - 1);
                (Part::Body, left == 1)
            }
            State::ChunkLine => {
                self.chunk_line(byte);
                (Part::Body, false)
            }
            State::Chunk(left) => {
                self.state = if left == 1 { State::ChunkLine } else { State::Chunk(left - 1) };
                (Part::Body, false)
            }
            State::Trailers => (Part::Trailers, self.trailers(byte)),
        };
        if ends {
            self.state = State::Head;
            self.text.clear();
        }
        Mark { part, begins, ends }
    }

    /// Whether the message ends with its head.
    fn head(&mut self, byte: u8) -> bool {
        self.text.push(byte);
        if byte == b'\n' && !self.text[..self.text.len() - 1].contains(&b'\n') {
            self.start_line = Some(String::from_utf8_lossy(&self.text).trim_end().to_owned());
        }
        if !self.text.ends_with(b"\r\n\r\n") {
            return false;
        }
        let head = String::from_utf8_lossy(&self.text).to_ascii_lowercase();
        self.text.clear();
        let field =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name).map(|rest| rest.trim().to_owned()));
        self.state = match (field("transfer-encoding:"), field("content-length:").and_then(|text| text.parse().ok())) {
            (Some(_), _) => State::ChunkLine,
            (None, Some(length)) if length > 0 => State::Sized(length),
            (None, _) => return true,
        };
        false
    }

    fn chunk_line(&mut self, byte: u8) {
        self.text.push(byte);
        if byte != b'\n' {
            return;
        }
        let line = String::from_utf8_lossy(&self.text).trim_end().to_owned();
        self.text.clear();
        self.state = match u64::from_str_radix(&line, 16) {
            Ok(0) | Err(_) => State::Trailers,
            // With the line end after the data.
            Ok(size) => State::Chunk(size + 2),
        };
    }

    fn trailers(&mut self, byte: u8) -> bool {
        self.text.push(byte);
        self.text == b"\r\n" || self.text.ends_with(b"\r\n\r\n")
    }
}

/// HTTP/2.
pub struct Http2 {
    preface_left: usize,
    frame: Frame,
    /// Streams whose first block of fields has been seen.
    streams: HashSet<u32>,
}

/// The frame that is on its way.
struct Frame {
    part: Part,
    /// Bytes to come, its header included.
    left: usize,
    /// Whether the message ends with it.
    last: bool,
}

impl Default for Frame {
    fn default() -> Self {
        Frame { part: Part::Opening, left: 0, last: false }
    }
}

impl Http2 {
    fn step(&mut self, rest: &[u8]) -> Option<Mark> {
        if self.preface_left > 0 {
            rest.first()?;
            self.preface_left -= 1;
            return Some(Mark { part: Part::Opening, begins: false, ends: false });
        }
        let mut begins = false;
        if self.frame.left == 0 {
            begins = self.frame(rest.first_chunk()?);
        }
        self.frame.left -= 1;
        Some(Mark { part: self.frame.part, begins, ends: self.frame.last && self.frame.left == 0 })
    }

    /// Reads a frame's header (RFC 9113 §4.1); whether a message begins with it.
    fn frame(&mut self, header: &[u8; 9]) -> bool {
        let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
        let stream = u32::from_be_bytes([header[5] & 0x7f, header[6], header[7], header[8]]);
        let (part, begins) = match header[3] {
            DATA => (Part::Body, false),
            HEADERS if self.streams.insert(stream) => (Part::Head, true),
            HEADERS => (Part::Trailers, false),
            CONTINUATION => (self.frame.part, false),
            _ => (Part::Opening, false),
        };
        let last = matches!(header[3], DATA | HEADERS) && header[4] & END_STREAM != 0;
        self.frame = Frame { part, left: length + header.len(), last };
        begins
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

mod tests {
    use super::*;

    /// The parts of `bytes` as letters, `|` after each end of a message.
    fn parts(scanner: &mut Scanner, bytes: &[u8]) -> String {
        let mut shown = String::new();
        for at in 0..bytes.len() {
            let mark = scanner.step(&bytes[at..]).expect("all is there");
            let letter = ['o', 'h', 'b', 't'][mark.part as usize];
            if mark.begins {
                shown.push('^');
            }
            if !shown.ends_with(letter) || mark.begins {
                shown.push(letter);
            }
            if mark.ends {
                shown.push('|');
            }
        }
        shown
    }

    #[test]
    fn the_scanner_finds_the_parts_of_http1_messages() {
        let mut scanner = Scanner::http1();
        let text = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n";
        assert_eq!(parts(&mut scanner, text), "^hb|^h|");
        assert_eq!(scanner.take_start_line().as_deref(), Some("GET / HTTP/1.1"));
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\nHTTP/1.1 204 No\r\n\r\n";
        assert_eq!(parts(&mut Scanner::http1(), text), "^hbt|^h|");
        assert_eq!(parts(&mut Scanner::http1(), b"X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX"), "^hbt|^h");
    }

    #[test]
    fn the_scanner_finds_the_parts_of_http2_messages() {
        let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
            [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream][..], payload].concat()
        };
        let bytes = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            frame(4, 0, 0, b""),
            frame(HEADERS, 4, 1, b"abc"),
            frame(DATA, 0, 1, b"abc"),
            frame(HEADERS, 5, 3, b"other"),
            frame(HEADERS, 5, 1, b"trailers"),
        ];
        let mut scanner = Scanner::http2(true);
        assert_eq!(parts(&mut scanner, &bytes.concat()), "o^hb^h|t|");
        assert_eq!(scanner.step(&[0; 8]), None);
    }
}
