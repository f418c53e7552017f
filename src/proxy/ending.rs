//! How an answer's body can be ended before its time so that its client understands: which kind of stream it is, and
//! where in it nothing is cut in half.
//!
//! Pure. `body` follows its frames with it; when to end is said by `lasting`.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A kind of stream, by the end that its protocol has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket: a Close frame.
    Tunnel,
    /// Server-sent events: the end of the body between two events; clients come back by themselves.
    Events,
    /// gRPC: trailers that say `unavailable`.
    Grpc,
    /// Any other body of unknown length: it has no such end, so it is cut, never passed off as whole.
    Other,
}

impl Kind {
    /// The kind of an answer's body.
    pub fn of(headers: &HeaderMap) -> Kind {
        Kind::of_type(headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes))
    }

    /// The kind of a body with that content type.
    pub fn of_type(content: &[u8]) -> Kind {
        if is_type(content, b"text/event-stream", b"; ") {
            Kind::Events
        } else if is_type(content, b"application/grpc", b"; +") {
            Kind::Grpc
        } else {
            Kind::Other
        }
    }
}

/// Whether `content` is that type, alone or followed by one of the marks that may stand behind it.
fn is_type(content: &[u8], name: &[u8], marks: &[u8]) -> bool {
    let Some((head, tail)) = content.split_at_checked(name.len()) else { return false };
    head.eq_ignore_ascii_case(name) && tail.first().is_none_or(|mark| marks.contains(mark))
}

/// What a gRPC client is told: code 14, `unavailable`, on which it may try again.
pub fn unavailable() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("14"));
    let message = HeaderValue::from_static("stream closed by the proxy, try again");
    trailers.insert(HeaderName::from_static("grpc-message"), message);
    trailers
}

/// Where a body can be ended without cutting anything in half.
#[derive(Debug)]
pub enum Boundary {
    /// Anywhere.
    Anywhere,
    /// Behind an empty line. Holds the last bytes that passed; there is nothing to cut before the first.
    Events(Tail),
    /// Behind a message.
    Messages(Messages),
}

impl Boundary {
    /// The boundaries of an answer of that kind. Those of compressed events cannot be seen.
    pub fn of(kind: Kind, headers: &HeaderMap) -> Boundary {
        match kind {
            Kind::Events if !headers.contains_key(CONTENT_ENCODING) => Boundary::Events(Tail::default()),
            Kind::Grpc => Boundary::Messages(Messages::default()),
            Kind::Events | Kind::Tunnel | Kind::Other => Boundary::Anywhere,
        }
    }

    /// Follows what passes.
    pub fn pass(&mut self, data: &[u8]) {
        match self {
            Boundary::Anywhere => {}
            Boundary::Events(tail) => tail.pass(data),
            Boundary::Messages(messages) => {
                messages.pass(data);
            }
        }
    }

    /// Whether nothing is cut here.
    pub fn is_here(&self) -> bool {
        match self {
            Boundary::Anywhere => true,
            Boundary::Events(tail) => tail.is_empty_line(),
            Boundary::Messages(messages) => messages.between(),
        }
    }

    /// After how many bytes of what comes next nothing is cut; none if something is all the way.
    pub fn within(&self, data: &[u8]) -> Option<usize> {
        match self {
            Boundary::Anywhere => Some(data.len()),
            Boundary::Events(tail) => tail.empty_line_within(data),
            Boundary::Messages(messages) => messages.clone().pass(data),
        }
    }
}

/// The last bytes of an event stream: as many as an empty line can take, its own end and that of the line before.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    bytes: [u8; 4],
    have: usize,
}

impl Tail {
    fn pass(&mut self, data: &[u8]) {
        let last = data.get(data.len().saturating_sub(self.bytes.len())..).unwrap_or_default();
        last.iter().for_each(|&byte| self.push(byte));
    }

    fn push(&mut self, byte: u8) {
        self.bytes.rotate_left(1);
        if let Some(last) = self.bytes.last_mut() {
            *last = byte;
        }
        self.have = self.have.saturating_add(1);
    }

    /// Lines end with CR, LF or both (HTML Living Standard, "Parsing an event stream"). A CR behind a LF is taken for the
    /// first half of both: a parser that waits for the other half would lose the event.
    fn is_empty_line(&self) -> bool {
        match self.bytes {
            _ if self.have == 0 => true,
            [.., b'\n' | b'\r', b'\r', b'\n'] => true,
            [.., b'\r', b'\n'] => false,
            [.., b'\n', b'\n'] | [.., b'\r', b'\r'] => true,
            _ => false,
        }
    }

    fn empty_line_within(&self, data: &[u8]) -> Option<usize> {
        let mut tail = self.clone();
        let ends = data.iter().position(|&byte| {
            tail.push(byte);
            tail.is_empty_line()
        });
        ends.map(|at| at.saturating_add(1))
    }
}

/// The messages of a gRPC stream: a flag, a length of four bytes, so many bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
#[derive(Clone, Debug, Default)]
pub struct Messages {
    head: [u8; 5],
    have: usize,
    left: u32,
}

impl Messages {
    fn between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Follows what passes. Tells after how many of these bytes the last message that ends within them ends.
    fn pass(&mut self, data: &[u8]) -> Option<usize> {
        let mut rest = data;
        let mut last_end = None;
        while let Some((&byte, after)) = rest.split_first() {
            if self.left > 0 {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left = self.left.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
                rest = rest.get(count..).unwrap_or_default();
            } else {
                rest = after;
                if let Some(place) = self.head.get_mut(self.have) {
                    *place = byte;
                }
                self.have = self.have.saturating_add(1);
                if self.have == self.head.len() {
                    let [_, length @ ..] = self.head;
                    self.left = u32::from_be_bytes(length);
                    self.have = 0;
                }
            }
            if self.between() {
                last_end = Some(data.len().saturating_sub(rest.len()));
            }
        }
        last_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(content_type: &str) -> Kind {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap());
        Kind::of(&headers)
    }

    #[test]
    fn the_kind_is_told_by_the_content_type() {
        assert_eq!(kind("text/event-stream"), Kind::Events);
        assert_eq!(kind("Text/Event-Stream; charset=utf-8"), Kind::Events);
        assert_eq!(kind("application/grpc"), Kind::Grpc);
        assert_eq!(kind("application/grpc+proto"), Kind::Grpc);
        assert_eq!(kind("application/grpc-web"), Kind::Other);
        assert_eq!(kind("text/event-streams"), Kind::Other);
        assert_eq!(kind("text/html"), Kind::Other);
        assert_eq!(Kind::of(&HeaderMap::new()), Kind::Other);
    }

    #[test]
    fn events_end_with_an_empty_line_however_lines_end_and_bytes_come() {
        for (text, ends) in [
            ("data: 1\n\ndata: 2\n\nda", vec![9, 18]),
            ("data: 1\r\n\r\ndata", vec![11]),
            ("a\r\rb\r", vec![3]),
            ("a\n\r\nb\r\n", vec![4]),
        ] {
            for cut in 0..text.len() {
                let (before, after) = text.split_at(cut);
                let mut boundary = Boundary::Events(Tail::default());
                boundary.pass(before.as_bytes());
                assert_eq!(boundary.is_here(), cut == 0 || ends.contains(&cut), "{text:?} at {cut}");
                let within = boundary.within(after.as_bytes()).map(|at| at + cut);
                assert_eq!(within, ends.iter().copied().find(|end| *end > cut), "{text:?} after {cut}");
            }
        }
    }

    #[test]
    fn messages_end_where_their_length_says() {
        let text = [&[0, 0, 0, 0, 2, 9, 9][..], &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256], &[0, 0]].concat();
        let ends = [7, 12, 273];
        for cut in 0..text.len() {
            let (before, after) = text.split_at(cut);
            let mut boundary = Boundary::Messages(Messages::default());
            boundary.pass(before);
            assert_eq!(boundary.is_here(), cut == 0 || ends.contains(&cut), "at {cut}");
            let last = ends.iter().copied().rfind(|end| *end > cut);
            assert_eq!(boundary.within(after).map(|at| at + cut), last, "after {cut}");
        }
    }
}
