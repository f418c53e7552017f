//! The head of an upstream's HTTP/1 answer: bytes to status, headers and the framing of the body.
//!
//! Pure: it reads a buffer and refuses what can be understood in two ways (RFC 9112 §6.3). The upstream leg calls it.

use arrayvec::ArrayVec;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Frame;
use std::mem::MaybeUninit;
use std::ops::Range;

/// Header fields of one answer; more is refused.
const FIELDS_MAX: usize = 128;

/// A parsed head.
#[derive(Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those that concern this connection alone.
    pub headers: HeaderMap,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the connection may be used again after the body.
    pub keep_alive: bool,
    /// Whether it switches the connection to WebSocket: a 101 whose fields say so.
    pub is_websocket: bool,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(u64),
    /// By the chunked coding.
    Chunked,
    /// With the connection.
    UntilClose,
}

/// Why bytes are no acceptable head, chunk or trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MalformedHead {
    /// Not HTTP/1.
    Syntax,
    /// More bytes than allowed.
    TooLong,
    /// More fields than allowed.
    TooManyFields,
    /// Lengths that contradict each other or cannot be read.
    Length,
    /// A transfer coding other than chunked.
    Coding,
    /// A chunk or trailer section that is no such thing.
    Chunk,
}

/// Whether a field is wanted that has that name, in whatever case, and that value.
pub type Wanted = fn(&str, &[u8]) -> bool;

/// Takes a head off the front of `buffer`; none if it is not all here yet. Of its fields only those are kept that `only` wants,
/// if it is there; what concerns the framing or the connection is understood in any case.
pub fn take_head(
    buffer: &mut BytesMut,
    request: &Method,
    bytes_max: usize,
    only: Option<Wanted>,
) -> Result<Option<Head>, MalformedHead> {
    // Left uninitialised: writing 128 empty fields first would cost as much as parsing a usual head.
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let length = match config.parse_response_with_uninit_headers(&mut response, buffer, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= bytes_max => length,
        Ok(httparse::Status::Partial) if buffer.len() <= bytes_max => return Ok(None),
        Ok(_) => return Err(MalformedHead::TooLong),
        Err(httparse::Error::TooManyHeaders) => return Err(MalformedHead::TooManyFields),
        Err(_) => return Err(MalformedHead::Syntax),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(MalformedHead::Syntax)?;
    let http_1_1 = response.version == Some(1);
    let mut hop = Hop::default();
    let mut spans = ArrayVec::<(HeaderName, Range<usize>), FIELDS_MAX>::new();
    let base = buffer.as_ptr() as usize;
    for field in response.headers.iter() {
        let passes = hop.understand(field.name, field.value)?;
        if !passes || only.is_some_and(|only| !only(field.name, field.value)) {
            continue;
        }
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MalformedHead::Syntax)?;
        let start = (field.value.as_ptr() as usize).saturating_sub(base);
        spans.push((name, start..start.saturating_add(field.value.len())));
    }
    let headers = collect(buffer, length, &mut spans)?;
    hop.end(status, http_1_1, request, headers).map(Some)
}

/// Takes so many bytes off the buffer, and of them these fields.
fn collect(
    buffer: &mut BytesMut,
    length: usize,
    spans: &mut ArrayVec<(HeaderName, Range<usize>), FIELDS_MAX>,
) -> Result<HeaderMap, MalformedHead> {
    if spans.is_empty() {
        buffer.advance(length);
        return Ok(HeaderMap::new());
    }
    let block = buffer.split_to(length).freeze();
    // With room for one that weir adds. A usual answer's map then takes less than a KiB, which is got much faster than more.
    let mut headers = HeaderMap::with_capacity(spans.len().saturating_add(1));
    for (name, span) in spans.drain(..) {
        let value = HeaderValue::from_maybe_shared(block.slice(span)).map_err(|_| MalformedHead::Syntax)?;
        if !stays_here(&name) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// What the fields of a head say of the body's end and of the connection.
#[derive(Default)]
struct Hop {
    coded: bool,
    length: Option<u64>,
    close: bool,
    keep_alive: bool,
    /// Fields that concern the connection by its own word.
    named: Vec<HeaderName>,
    /// Whether it offers to speak WebSocket.
    websocket: bool,
}

impl Hop {
    /// Takes in a field; whether it says something to others, too.
    fn understand(&mut self, name: &str, value: &[u8]) -> Result<bool, MalformedHead> {
        // Nearly all of them are none of these.
        let is = |known: &HeaderName| name.eq_ignore_ascii_case(known.as_str());
        match name.len() {
            17 if is(&TRANSFER_ENCODING) => {
                if self.coded || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(MalformedHead::Coding);
                }
                self.coded = true;
            }
            14 if is(&CONTENT_LENGTH) => {
                let stated = decimal(value).ok_or(MalformedHead::Length)?;
                let earlier = self.length.replace(stated);
                if earlier.is_some_and(|earlier| earlier != stated) {
                    return Err(MalformedHead::Length);
                }
                return Ok(earlier.is_none());
            }
            10 if is(&CONNECTION) => self.read_options(value),
            7 if is(&UPGRADE) => self.websocket = value.eq_ignore_ascii_case(b"websocket"),
            _ => return Ok(true),
        }
        Ok(false)
    }

    fn read_options(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(option) {
                self.named.push(name);
            }
        }
    }

    /// The head, all of whose fields it has seen, of which those were kept.
    fn end(
        self,
        status: StatusCode,
        http_1_1: bool,
        request: &Method,
        mut headers: HeaderMap,
    ) -> Result<Head, MalformedHead> {
        if self.coded && (self.length.is_some() || !http_1_1) {
            return Err(MalformedHead::Coding);
        }
        let is_websocket = status == StatusCode::SWITCHING_PROTOCOLS && self.websocket && self.named.contains(&UPGRADE);
        for name in &self.named {
            headers.remove(name);
        }
        let framing = framing(status, request, self.coded, self.length);
        let persistent = if http_1_1 { !self.close } else { self.keep_alive };
        let keep_alive = persistent && framing != Framing::UntilClose;
        Ok(Head { status, headers, framing, keep_alive, is_websocket })
    }
}

/// RFC 9112 §6.3, the cases of an answer.
fn framing(status: StatusCode, request: &Method, coded: bool, length: Option<u64>) -> Framing {
    let bodiless = status.is_informational() || matches!(status.as_u16(), 204 | 304);
    if bodiless || request == Method::HEAD {
        return Framing::Empty;
    }
    match (coded, length) {
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::Empty,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    }
}

/// Fields about this connection alone (RFC 9110 §7.6.1), besides those that `Connection` names.
pub fn concerns_connection(name: &HeaderName) -> bool {
    // By length first, which leaves few names to compare with.
    matches!(
        (name.as_str().len(), name.as_str()),
        (2, "te")
            | (7, "upgrade")
            | (10, "connection" | "keep-alive")
            | (16, "proxy-connection")
            | (17, "transfer-encoding")
            | (18, "proxy-authenticate")
    )
}

/// Fields of an answer that its client does not get: those about this connection, and the word about arms that is weir's own.
pub fn stays_here(name: &HeaderName) -> bool {
    name.as_str() == "x-weir-arm" || concerns_connection(name)
}

/// A number of decimal digits alone, without sign or space; none beyond 19 digits, nor one that a counter with a sign would
/// take for a negative one.
pub fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    let number = text.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte & 0x0f))?;
        Some(number.wrapping_mul(10).wrapping_add(digit))
    });
    number.filter(|&number| number <= i64::MAX as u64)
}

/// The fields of a trailer section, without those that must not stand there (RFC 9110 §6.5.1).
pub fn trailers(section: &[u8]) -> Result<HeaderMap, MalformedHead> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let parsed = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((_, parsed))) => parsed,
        Ok(httparse::Status::Partial) | Err(_) => return Err(MalformedHead::Chunk),
    };
    let mut headers = HeaderMap::with_capacity(parsed.len());
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MalformedHead::Chunk)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| MalformedHead::Chunk)?;
        if may_trail(&name) {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// A frame of a body without the trailers that may not stand there.
pub fn with_trailers(frame: Frame<Bytes>, may: impl Fn(&HeaderName) -> bool) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut fields) => {
            let unwanted: Vec<HeaderName> = fields.keys().filter(|name| !may(name)).cloned().collect();
            for name in unwanted {
                fields.remove(name);
            }
            Frame::trailers(fields)
        }
        Err(frame) => frame,
    }
}

/// Whether a field may stand in trailers: none for framing, routing, authentication or content negotiation, and none that
/// weir sets itself.
pub fn may_trail(name: &HeaderName) -> bool {
    !concerns_connection(name)
        && !["x-weir-", "x-forwarded-"].iter().any(|prefix| name.as_str().starts_with(prefix))
        && !matches!(
            name.as_str(),
            "authorization"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "forwarded"
                | "host"
                | "http2-settings"
                | "proxy-authorization"
                | "set-cookie"
                | "trailer"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Head>, MalformedHead> {
        take_head(&mut BytesMut::from(text), &Method::GET, 1000, None)
    }

    #[test]
    fn of_an_answer_that_nobody_gets_only_what_is_wanted_is_kept_and_its_end_is_understood() {
        let text = b"HTTP/1.1 200 OK\r\ndate: x\r\nconnection: close, allow\r\ncontent-length: 3\r\nallow: a\r\nServer: s\r\n\r\n";
        let wanted: Wanted = |name, value| name.eq_ignore_ascii_case("server") && value == b"s" || name == "allow";
        let head = take_head(&mut BytesMut::from(&text[..]), &Method::GET, 1000, Some(wanted)).unwrap().unwrap();
        assert_eq!((head.framing, head.keep_alive), (Framing::Length(3), false));
        let kept: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(kept, ["server"], "`allow` is about this connection, by its own word");
        let mut buffer = BytesMut::from(&[text, &b"abc"[..]].concat()[..]);
        let head = take_head(&mut buffer, &Method::GET, 1000, Some(|_, _| false)).unwrap().unwrap();
        assert_eq!((head.framing, head.headers.len(), &buffer[..]), (Framing::Length(3), 0, &b"abc"[..]));
    }

    #[test]
    fn a_head_comes_whole_or_not_at_all() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\n";
        for cut in 0..text.len() {
            let mut buffer = BytesMut::from(&text[..cut]);
            assert!(take_head(&mut buffer, &Method::GET, 1000, None).unwrap().is_none());
            assert_eq!(buffer.len(), cut);
        }
        let mut buffer = BytesMut::from(format!("{text}hello").as_str());
        let head = take_head(&mut buffer, &Method::GET, 1000, None).unwrap().unwrap();
        assert_eq!((head.status.as_u16(), head.framing, head.keep_alive), (200, Framing::Length(5), true));
        assert_eq!(head.headers["x-a"], "b");
        assert_eq!(&buffer[..], b"hello");
    }

    #[test]
    fn framing_follows_the_rfc() {
        let framing = |text: &str| parse(text).unwrap().unwrap().framing;
        assert_eq!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), Framing::Chunked);
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n"), Framing::UntilClose);
        assert_eq!(framing("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"), Framing::Empty);
        assert_eq!(framing("HTTP/1.1 304 No\r\nContent-Length: 5\r\n\r\n"), Framing::Empty);
        let mut buffer = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(take_head(&mut buffer, &Method::HEAD, 1000, None).unwrap().unwrap().framing, Framing::Empty);
    }

    #[test]
    fn contradictions_are_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn fields_of_the_connection_stay_on_it() {
        let head = parse(
            "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-End: 2\r\n\r\n",
        );
        let head = head.unwrap().unwrap();
        assert!(!head.keep_alive);
        assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-end"]);
    }

    #[test]
    fn only_a_101_that_says_so_twice_switches_to_websocket() {
        let switches = |text: &str| parse(&format!("HTTP/1.1 {text}\r\n\r\n")).unwrap().unwrap().is_websocket;
        let both = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket";
        assert!(switches(&format!("101 Switching\r\n{both}")));
        assert!(!switches(&format!("200 OK\r\n{both}")));
        assert!(!switches("101 Switching\r\nUpgrade: websocket"));
        assert!(!switches("101 Switching\r\nConnection: upgrade"));
        assert!(!switches("101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c"));
    }

    #[test]
    fn http_1_0_closes_unless_it_says_otherwise() {
        let keep = |extra: &str| {
            parse(&format!("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n{extra}\r\n")).unwrap().unwrap().keep_alive
        };
        assert!(!keep(""));
        assert!(keep("Connection: keep-alive\r\n"));
    }
}
