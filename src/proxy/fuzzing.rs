//! What fuzzers and benchmarks reach of the data plane: bytes from upstreams and clients, read as a request reads them. Each door returns what
//! it read, so that two readings can be held against each other; see `fuzz/` and `tests/fuzz.rs`.

use super::asked::{Asked, Role};
use super::chunked::{Chunked, Piece};
use super::conn::Client;
use super::head::{Framing, take_head};
use super::headers::Ids;
use super::present::Present;
use super::unit;
use crate::clock::Wall;
use crate::rollout::Arm;
use crate::rollout::assign::{Decision, Reason};
use crate::snapshot::{Secret, Snapshot};
use bytes::BytesMut;
use http::header::{COOKIE, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use std::net::{IpAddr, SocketAddr};

/// The longest head that is read.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What was read of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status codes of its heads, 1xx before the last one.
    pub statuses: Vec<u16>,
    /// Names and values of the last head's fields.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Its body, as far as it came; only bodies in chunks are read.
    pub body: Vec<u8>,
    /// The names of its trailers.
    pub trailers: Vec<String>,
    /// Whether it came to its proper end.
    pub complete: bool,
    /// Whether it is no answer at all.
    pub malformed: bool,
}

/// Reads an HTTP/1 upstream's bytes that arrive in pieces of `step` bytes.
pub fn answer(bytes: &[u8], step: usize) -> Answer {
    let mut reader = Reader::default();
    for piece in bytes.chunks(step.max(1)) {
        reader.buffer.extend_from_slice(piece);
        while reader.advance() {}
    }
    reader.answer
}

#[derive(Default)]
struct Reader {
    buffer: BytesMut,
    answer: Answer,
    body: Option<Chunked>,
}

impl Reader {
    /// Takes one thing out of the buffer; false if more bytes are needed or would change nothing.
    fn advance(&mut self) -> bool {
        if self.answer.complete || self.answer.malformed {
            return false;
        }
        match &mut self.body {
            Some(chunks) => match chunks.next(&mut self.buffer) {
                Ok(Piece::Data(data)) => self.answer.body.extend_from_slice(&data),
                Ok(Piece::Trailers(fields)) => self.answer.trailers.extend(fields.keys().map(ToString::to_string)),
                Ok(Piece::End) => self.answer.complete = true,
                Ok(Piece::NeedMore) => return false,
                Err(_) => self.answer.malformed = true,
            },
            None => match take_head(&mut self.buffer, &Method::GET, HEAD_BYTES_MAX, None) {
                Ok(Some(head)) => {
                    self.answer.statuses.push(head.status.as_u16());
                    self.answer.fields = pairs(&head.headers);
                    if !head.status.is_informational() {
                        self.body = (head.framing == Framing::Chunked).then(Chunked::default);
                        self.answer.complete = self.body.is_none();
                    }
                }
                Ok(None) => return false,
                Err(_) => self.answer.malformed = true,
            },
        }
        true
    }
}

fn pairs(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// The cookie of that name in these `cookie` fields.
pub fn cookie(crumbs: &[&[u8]], name: &str) -> Option<String> {
    let mut headers = HeaderMap::new();
    for value in crumbs.iter().filter_map(|crumb| HeaderValue::from_bytes(crumb).ok()) {
        headers.append(COOKIE, value);
    }
    unit::cookie(&headers, name).map(Into::into)
}

/// A claim of the bearer token in an `authorization` field, which must be signed if there is a secret.
pub fn jwt_claim(authorization: &str, claim: &str, secret: Option<&Secret>, now: Wall) -> Option<String> {
    unit::jwt_claim(authorization, claim, secret, || now)
}

/// The addresses of an `x-forwarded-for` field, the last one first.
pub fn addresses(value: &str) -> Vec<IpAddr> {
    unit::addresses(value).collect()
}

/// What writes the fields of a request as the canary of the first route gets them over HTTP/1, for a client at that address
/// that nobody trusts.
pub fn rewriter(peer: SocketAddr) -> impl Fn(&Parts, &Snapshot, &mut Vec<u8>) {
    let client = Client::new(peer, false, 0);
    move |parts, snapshot, out| {
        let Some(route) = snapshot.routes.first() else { return };
        let mut parts = parts.clone();
        let present = Present::settle(&mut parts.headers, || false);
        let parts = &parts;
        let ids = Ids::of(&parts.headers, present, 1);
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let asked = Asked { parts, present, client: &client, ids: &ids, host, trusted: false, websocket: false };
        let decisions = [Decision { arm: Arm::Canary, reason: Reason::Bucket }];
        asked.rewrite(snapshot, route, &decisions, Role::Primary).write(out);
    }
}
