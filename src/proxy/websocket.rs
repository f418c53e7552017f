//! What must be known of WebSocket (RFC 6455) to tunnel it: who asks for it, where its frames end, how it is closed.
//!
//! Pure. It reads no payload and judges no frame: that is for the two ends. The request path asks `is_asked_for`, the
//! tunnel follows the frames so that it can put a Close frame between two of them.

use super::present::Present;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use hyper::ext::Protocol;

/// The longest head of a frame: two bytes, a length of eight, a mask of four (RFC 6455 §5.2).
const HEAD_BYTES_MAX: usize = 14;
/// What a key is taken together with (RFC 6455, section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The opcode of a Close frame.
const CLOSE: u8 = 0x8;
/// A Close frame that is whole in itself.
const FINAL_CLOSE: u8 = 0x80 | CLOSE;
/// In the second byte: the payload is masked.
const MASKED: u8 = 0x80;

/// Why an endpoint closes (RFC 6455 §7.4.1 and the IANA registry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// It goes away.
    GoingAway = 1001,
    /// The service restarts; clients may come back, after a moment.
    ServiceRestart = 1012,
}

/// Whether a request asks for a WebSocket: in the way of HTTP/1.1, a GET without a body and with both header fields, or in
/// that of HTTP/2, once `adopt` has had it.
pub fn is_asked_for(request: &Parts, present: Present) -> bool {
    let headers = &request.headers;
    if request.version == Version::HTTP_2 {
        return request.method == Method::GET && is_extended(request);
    }
    request.version == Version::HTTP_11
        && present.upgrade
        && request.method == Method::GET
        && lists(headers, &UPGRADE, b"websocket")
        && lists(headers, &CONNECTION, b"upgrade")
        && !headers.contains_key(TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length.as_bytes().trim_ascii() == b"0")
}

/// Brings an HTTP/2 client's request for a WebSocket (RFC 8441, section 5) into the form that upstreams are asked in: a GET
/// with a key, of which that client knows nothing. Whether it was one.
pub fn adopt(request: &mut Parts, random: impl FnOnce() -> u128) -> bool {
    if request.method != Method::CONNECT || request.version != Version::HTTP_2 || !is_extended(request) {
        return false;
    }
    let Ok(key) = HeaderValue::try_from(BASE64_STANDARD.encode(random().to_be_bytes())) else { return false };
    request.method = Method::GET;
    request.headers.insert(SEC_WEBSOCKET_KEY, key);
    true
}

fn is_extended(request: &Parts) -> bool {
    request.extensions.get::<Protocol>().is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"))
}

/// Whether an upstream's answer fits the key of the request (RFC 6455, section 4.2.2): it has understood what was asked.
pub fn is_accepted(request: &HeaderMap, answer: &HeaderMap) -> bool {
    let Some(key) = request.get(SEC_WEBSOCKET_KEY) else { return false };
    let mut text = key.as_bytes().to_vec();
    text.extend_from_slice(GUID);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    let accept = BASE64_STANDARD.encode(digest);
    answer.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value.as_bytes().trim_ascii() == accept.as_bytes())
}

/// Makes of an upstream's 101 what an HTTP/2 client is told.
pub fn told_in_http2(headers: &mut HeaderMap) {
    for name in [CONNECTION, UPGRADE, SEC_WEBSOCKET_ACCEPT] {
        headers.remove(name);
    }
}

/// Whether a body comes before a WebSocket: what is body and what is frames, two readers could see differently.
pub fn has_body_before(headers: &HeaderMap) -> bool {
    let has_body = || {
        headers.contains_key(TRANSFER_ENCODING)
            || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes().trim_ascii() != b"0")
    };
    lists(headers, &UPGRADE, b"websocket") && has_body()
}

/// Whether the field's list has that element, without case.
fn lists(headers: &HeaderMap, name: &HeaderName, element: &[u8]) -> bool {
    let elements = |value: &'_ HeaderValue| {
        let mut list = value.as_bytes().split(|&byte| byte == b',');
        list.any(|one| one.trim_ascii().eq_ignore_ascii_case(element))
    };
    headers.get_all(name).iter().any(elements)
}

/// The frames of one direction, as far as they have passed.
#[derive(Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    have: usize,
    /// Bytes of the payload that are still to come.
    left: u64,
    closed: bool,
}

impl Frames {
    /// Follows what passes now. Tells after how many of these bytes the last frame that ends within them ends.
    pub fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut rest = bytes;
        let mut last_end = None;
        while !rest.is_empty() {
            if self.left > 0 {
                let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                self.left = self.left.saturating_sub(count as u64);
                rest = rest.get(count..).unwrap_or_default();
            } else if let Some((byte, after)) = rest.split_first() {
                rest = after;
                self.take(*byte);
            }
            if self.between() {
                last_end = Some(bytes.len().saturating_sub(rest.len()));
            }
        }
        last_end
    }

    /// Whether no frame is cut here.
    pub fn between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Whether a Close frame has begun to pass.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Takes one byte of a head.
    fn take(&mut self, byte: u8) {
        if let Some(place) = self.head.get_mut(self.have) {
            *place = byte;
        }
        self.have = self.have.saturating_add(1);
        let [first, second, ..] = self.head;
        if self.have < 2 {
            return;
        }
        let length_bytes = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_bytes = if second & MASKED == 0 { 0 } else { 4 };
        if self.have < 2_usize.saturating_add(length_bytes).saturating_add(mask_bytes) {
            return;
        }
        let extended = self.head.iter().skip(2).take(length_bytes);
        self.left = match length_bytes {
            0 => u64::from(second & !MASKED),
            _ => extended.fold(0, |length, &byte| length << 8 | u64::from(byte)),
        };
        self.have = 0;
        self.closed |= first & 0x0f == CLOSE;
    }
}

/// A Close frame with its reason; masked, as a client's must be, if there is a mask.
pub fn close_frame(code: CloseCode, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    // A control frame's payload has at most 125 bytes (RFC 6455 §5.5).
    let reason = reason.get(..reason.floor_char_boundary(123)).unwrap_or_default();
    let payload = (code as u16).to_be_bytes().into_iter().chain(reason.bytes());
    let length = u8::try_from(reason.len().saturating_add(2)).unwrap_or(125);
    match mask {
        None => [FINAL_CLOSE, length].into_iter().chain(payload).collect(),
        Some(mask) => {
            let masked = payload.zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask);
            [FINAL_CLOSE, MASKED | length].into_iter().chain(mask).chain(masked).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn asks(method: &str, version: Version, fields: &[(&str, &str)]) -> bool {
        let mut request = Request::builder().method(method).version(version).uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        is_asked_for(&parts, Present::of(&parts.headers))
    }

    #[test]
    fn an_answer_fits_its_key_alone() {
        let one =
            |name: HeaderName, value: &'static str| HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
        // The example of RFC 6455, section 1.3.
        let request = one(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==");
        assert!(is_accepted(&request, &one(SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!is_accepted(&request, &one(SEC_WEBSOCKET_ACCEPT, "s3pPLMBiTxaQ9kYGzzhZRbK+xOO=")));
        assert!(!is_accepted(&request, &HeaderMap::new()) && !is_accepted(&HeaderMap::new(), &request));
    }

    #[test]
    fn only_a_get_without_a_body_that_says_so_twice_asks_for_a_websocket() {
        let both = [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")];
        let http11 = Version::HTTP_11;
        assert!(asks("GET", http11, &both));
        assert!(asks("GET", http11, &[both[0], both[1], ("content-length", "0")]));
        assert!(!asks("POST", http11, &both));
        assert!(!asks("GET", Version::HTTP_10, &both));
        assert!(!asks("GET", Version::HTTP_2, &both));
        assert!(!asks("GET", http11, &both[1..]));
        assert!(!asks("GET", http11, &both[..1]));
        assert!(!asks("GET", http11, &[both[0], ("upgrade", "h2c")]));
        assert!(!asks("GET", http11, &[both[0], both[1], ("content-length", "1")]));
        assert!(!asks("GET", http11, &[both[0], both[1], ("transfer-encoding", "chunked")]));
    }

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload {
            0..=125 => bytes.push(mask | payload as u8),
            126..=65_535 => {
                bytes.push(mask | 126);
                bytes.extend((payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0x88; if masked { 4 } else { 0 } + payload]);
        bytes
    }

    #[test]
    fn frames_end_where_they_end_however_they_are_cut() {
        for masked in [false, true] {
            // The payload of 0 at the end of a length of two and eight bytes is legal enough to be followed.
            let frames = [(2, 0), (1, 125), (2, 126), (9, 3), (2, 300), (2, 70_000), (10, 0)]
                .map(|(opcode, payload)| frame(opcode, payload, masked));
            let text = frames.concat();
            let ends: Vec<usize> = frames
                .iter()
                .scan(0, |at, frame| {
                    *at += frame.len();
                    Some(*at)
                })
                .collect();
            for cut in (0..1000).chain(text.len() - 1000..=text.len()) {
                let (head, tail) = text.split_at(cut);
                let mut scan = Frames::default();
                let last = scan.pass(head);
                assert_eq!(last, ends.iter().copied().rfind(|end| *end <= cut), "masked {masked}, cut at {cut}");
                assert_eq!(scan.between(), cut == 0 || ends.contains(&cut), "masked {masked}, cut at {cut}");
                scan.pass(tail);
                assert!(scan.between() && !scan.closed());
            }
            let mut scan = Frames::default();
            assert_eq!(text.iter().filter(|byte| scan.pass(&[**byte]).is_some()).count(), frames.len());
        }
    }

    #[test]
    fn a_close_frame_is_seen_and_a_payload_that_looks_like_one_is_not() {
        let mut scan = Frames::default();
        scan.pass(&frame(2, 200, false));
        assert!(!scan.closed());
        scan.pass(&close_frame(CloseCode::GoingAway, "bye", None));
        assert!(scan.closed() && scan.between());
    }

    #[test]
    fn a_close_frame_carries_code_and_reason() {
        assert_eq!(close_frame(CloseCode::ServiceRestart, "ab", None), [0x88, 4, 0x03, 0xf4, b'a', b'b']);
        let masked = close_frame(CloseCode::GoingAway, "", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
        assert_eq!(close_frame(CloseCode::GoingAway, &"ä".repeat(100), None).len(), 2 + 2 + 122);
    }
}
