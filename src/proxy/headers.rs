//! Which header fields go to the upstream, and which go back: one set of rules for HTTP/1 and HTTP/2.
//!
//! Fields of the connection are removed, `x-forwarded-for`, `-proto`, `-host` and `forwarded` are overwritten unless the peer
//! is trusted, cookie crumbs are joined, a trace is passed on or started. What else a client cannot say has gone before it was
//! routed (`present`). The rules write into a `Sink`, so the HTTP/1 leg needs no header map of its own.

use super::asked::{Arms, Role};
use super::conn::Client;
use super::head::{concerns_connection, stays_here};
use super::present::Present;
use super::shadow::SHADOW;
use crate::rollout::Arm;
use crate::rollout::assign::{Reason, Split};
use crate::snapshot::{ArmRoute, Endpoint};
use crate::spans::SpanId;
use arrayvec::ArrayVec;
use http::header::{AUTHORIZATION, COOKIE, FORWARDED, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

// Names as constants: looking a header up by text would check and fold the text each time.
/// The header that tells the upstream which arm was chosen, and why.
const ROLLOUT: HeaderName = HeaderName::from_static("x-weir-rollout");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The reason that the upstream is told where stable stands in for a canary that failed.
const FALLBACK: &str = "fallback";
/// The reason that it is told where it gets a copy.
const COPY: &str = "shadow";
/// Client-supplied request ids up to this length are passed on.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Members of a `tracestate`.
const TRACESTATE_MEMBERS_MAX: usize = 32;

/// Takes header fields one by one.
pub trait Sink {
    /// Adds a field whose value `write` appends to a buffer.
    fn field(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>));
}

/// HTTP/1 text.
impl Sink for Vec<u8> {
    fn field(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.extend_from_slice(name.as_bytes());
        self.extend_from_slice(b": ");
        write(self);
        self.extend_from_slice(b"\r\n");
    }
}

/// HTTP/2 fields; a value that is none is left out.
impl Sink for HeaderMap {
    fn field(&mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::new();
        write(&mut value);
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_maybe_shared(bytes::Bytes::from(value)))
        {
            self.append(name, value);
        }
    }
}

/// The ids a request carries: the client's where they are well-formed, new ones otherwise.
#[derive(Debug, Clone)]
pub struct Ids {
    request: Option<HeaderValue>,
    parent: Option<HeaderValue>,
    /// 128 random bits as hexadecimal digits: the new request id and the new trace's id.
    fresh: [u8; 32],
    /// Whether the client's `tracestate` can be passed on.
    state: bool,
    /// Whether a trace that begins here is to be kept by whoever meets it.
    sampled: bool,
    /// The spans that weir itself tells of, if it does.
    own: Option<Box<Own>>,
}

/// The spans of a request that a collector is told of.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// The caller's, if it named one.
    pub parent: Option<SpanId>,
    /// The request's.
    pub request: SpanId,
    /// That of the request to the arm's upstream.
    pub primary: SpanId,
    /// That of the request to stable in its place.
    pub fallback: SpanId,
}

impl Ids {
    /// The ids of a request; `random` is used where the client sent none.
    pub fn of(headers: &HeaderMap, present: Present, random: u128) -> Self {
        let request = present.request_id.then(|| headers.get(REQUEST_ID)).flatten();
        let parent = present.traceparent.then(|| only(headers, &TRACEPARENT)).flatten();
        let request = request.filter(|value| is_request_id(value.as_bytes())).cloned();
        let parent = parent.filter(|value| is_traceparent(value.as_bytes())).cloned();
        let state = parent.is_some() && is_tracestate(headers);
        Ids { request, parent, fresh: hexadecimal(random), state, sampled: true, own: None }
    }

    /// `x-request-id`.
    pub fn request(&self) -> &[u8] {
        self.request.as_ref().map_or(&self.fresh, HeaderValue::as_bytes)
    }

    /// The trace's id, 32 hexadecimal digits.
    pub fn trace(&self) -> &[u8] {
        self.parent.as_ref().and_then(|parent| parent.as_bytes().get(3..35)).unwrap_or(&self.fresh)
    }

    /// What the caller says of sampling, if it sent a trace context: the lowest bit of its flags.
    pub fn parent_samples(&self) -> Option<bool> {
        let flags = self.parent.as_ref()?.as_bytes().get(53..55)?;
        let digit = char::from(*flags.get(1)?).to_digit(16)?;
        Some(digit & 1 == 1)
    }

    /// A collector is told of this request, under spans made of these random bits.
    pub fn recorded(&mut self, random: u128, more: u128) -> Own {
        let of = |digits: &[u8; 32], half: usize| digits.as_chunks::<16>().0.get(half).copied().unwrap_or_default();
        let (first, second) = (hexadecimal(random), hexadecimal(more));
        let parent = self.parent.as_ref().and_then(|parent| parent.as_bytes().get(36..52)?.try_into().ok());
        let own = Own { parent, request: of(&first, 0), primary: of(&first, 1), fallback: of(&second, 0) };
        self.own = Some(Box::new(own));
        own
    }

    /// No collector is told of this request, though of others one is: nobody shall look for the beginning of its trace.
    pub fn not_recorded(&mut self) {
        self.sampled = false;
    }

    fn write_traceparent(&self, role: Role<'_>, out: &mut Vec<u8>) {
        // The span that asks: our own if we tell of it, else the caller's; of a new trace the first one, the half of the random
        // bits that may not be all zero by chance of 2^-64.
        let own = self.own.as_ref().map(|own| match role {
            Role::Primary => own.primary,
            Role::Fallback => own.fallback,
            Role::Copy { .. } => own.request,
        });
        match (&self.parent, own) {
            (Some(parent), None) => out.extend_from_slice(parent.as_bytes()),
            (_, own) => {
                let first = self.fresh.get(16..).unwrap_or_default();
                // Sampled unless we decided otherwise, so that no trace is lost because weir began it.
                let flags: &[u8] = if self.sampled { b"01" } else { b"00" };
                let span = own.as_ref().map_or(first, |own| own.as_slice());
                for part in [&b"00-"[..], self.trace(), b"-", span, b"-", flags] {
                    out.extend_from_slice(part);
                }
            }
        }
    }
}

/// Everything the rules look at for one request.
pub struct Rewrite<'a> {
    /// The client's request.
    pub parts: &'a Parts,
    /// Which fields it has, of those that are looked for.
    pub present: Present,
    /// Whether it asks for a WebSocket, which the route allows.
    pub websocket: bool,
    /// Who sent it.
    pub client: &'a Client,
    /// Whether that peer's forwarding headers are believed.
    pub trusted: bool,
    /// The authority it asked for; empty if an HTTP/1.0 client named none.
    pub host: &'a str,
    /// Its ids.
    pub ids: &'a Ids,
    /// The arms that the upstream stands for, and as what it is asked.
    pub arms: Arms<'a>,
}

/// A decision as the upstream is told of it.
pub struct Shown<'a> {
    /// The rollout.
    pub split: &'a Split,
    /// Its present stage.
    pub stage: Option<&'a str>,
    /// The arm that this upstream stands for.
    pub arm: Arm,
    /// Why.
    pub why: Why,
}

/// Why an upstream is asked.
pub enum Why {
    /// By the decision.
    Decided(Reason),
    /// Stable stands in for a canary that failed.
    Fallback,
    /// It gets a copy.
    Shadow,
}

impl Rewrite<'_> {
    /// The authority that is asked for: the client's, or the endpoint's if it named none.
    pub fn host<'b>(&'b self, endpoint: &'b Endpoint) -> &'b str {
        if self.host.is_empty() { &endpoint.authority } else { self.host }
    }

    /// Writes all fields but `host`, `content-length` and `transfer-encoding`, which belong to the protocol's leg.
    pub fn write(&self, sink: &mut impl Sink) {
        let headers = &self.parts.headers;
        let named = if self.present.connection { named_by_connection(headers) } else { Vec::new() };
        let replaces = self.arms.each().any(|(_, arm)| arm.has_rules());
        let mut cookie_written = false;
        for (name, value) in headers {
            let copy = match rule(name) {
                Rule::Copy => true,
                Rule::Drop => false,
                Rule::IfTrusted => self.trusted,
                Rule::Trailers => accepts_trailers(value),
                Rule::TraceState => self.ids.state,
                Rule::Cookie => !std::mem::replace(&mut cookie_written, true),
            };
            if !copy || named.contains(name) || (replaces && self.is_replaced(name)) || self.is_withheld(name) {
                continue;
            }
            if *name == TE {
                sink.field(TE.as_str(), |out| out.extend_from_slice(b"trailers"));
            } else if *name == COOKIE {
                sink.field(COOKIE.as_str(), |out| {
                    join(headers.get_all(COOKIE), b"; ", out);
                });
            } else {
                sink.field(name.as_str(), |out| out.extend_from_slice(value.as_bytes()));
            }
        }
        self.write_forwarded(sink);
        self.write_rollouts(sink);
        if matches!(self.arms.role, Role::Copy { .. }) {
            sink.field(SHADOW.as_str(), |out| out.push(b'1'));
        }
        sink.field(REQUEST_ID.as_str(), |out| out.extend_from_slice(self.ids.request()));
        sink.field(TRACEPARENT.as_str(), |out| self.ids.write_traceparent(self.arms.role, out));
        for (name, value) in self.arms.each().flat_map(|(_, arm)| &arm.set_headers) {
            sink.field(name.as_str(), |out| out.extend_from_slice(value.as_bytes()));
        }
    }

    fn is_replaced(&self, name: &HeaderName) -> bool {
        let by =
            |arm: &ArmRoute| arm.remove_headers.contains(name) || arm.set_headers.iter().any(|(set, _)| set == name);
        self.arms.each().any(|(_, arm)| by(arm))
    }

    /// Whether a copy goes without that header, because it identifies somebody.
    fn is_withheld(&self, name: &HeaderName) -> bool {
        match self.arms.role {
            Role::Copy { keep, .. } => (*name == AUTHORIZATION || *name == COOKIE) && !keep.contains(name),
            Role::Primary | Role::Fallback => false,
        }
    }

    /// `x-forwarded-for`, `-proto`, `-host` and `forwarded`: the peer's word if it is trusted, then our own.
    fn write_forwarded(&self, sink: &mut impl Sink) {
        let earlier = |name: HeaderName| self.trusted.then(|| self.parts.headers.get_all(name));
        sink.field(FORWARDED_FOR.as_str(), |out| {
            if earlier(FORWARDED_FOR).is_some_and(|values| join(values, b", ", out) > 0) {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(self.client.address_text.as_bytes());
        });
        for (name, own) in [(FORWARDED_PROTO, self.client.scheme()), (FORWARDED_HOST, self.host)] {
            let believed = self.trusted.then(|| self.parts.headers.get(&name)).flatten();
            let value = believed.map_or(own.as_bytes(), HeaderValue::as_bytes);
            if !value.is_empty() {
                sink.field(name.as_str(), |out| out.extend_from_slice(value));
            }
        }
        sink.field(FORWARDED.as_str(), |out| {
            if earlier(FORWARDED).is_some_and(|values| join(values, b", ", out) > 0) {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(self.client.forwarded_for.as_bytes());
            if !self.host.is_empty() {
                // No host has a quote in it: `route::screen` lets none through.
                for part in [";host=\"", self.host, "\""] {
                    out.extend_from_slice(part.as_bytes());
                }
            }
            out.extend_from_slice(b";proto=");
            out.extend_from_slice(self.client.scheme().as_bytes());
        });
    }

    /// `x-weir-rollout: chat=canary;stage=canary-10;reason=bucket`, one element per rollout.
    fn write_rollouts(&self, sink: &mut impl Sink) {
        let earlier = self.trusted.then(|| self.parts.headers.get_all(ROLLOUT));
        if self.arms.each().next().is_none() && earlier.as_ref().is_none_or(|values| values.iter().next().is_none()) {
            return;
        }
        sink.field(ROLLOUT.as_str(), |out| {
            let mut separate = earlier.is_some_and(|values| join(values, b", ", out) > 0);
            for (Shown { split, stage, arm, why }, _) in self.arms.each() {
                if std::mem::replace(&mut separate, true) {
                    out.extend_from_slice(b", ");
                }
                for part in [&split.name, "=", arm.name()] {
                    out.extend_from_slice(part.as_bytes());
                }
                if let Some(stage) = stage {
                    out.extend_from_slice(b";stage=");
                    out.extend_from_slice(stage.as_bytes());
                }
                out.extend_from_slice(b";reason=");
                let word = match why {
                    Why::Decided(reason) => reason.word(split),
                    Why::Fallback => FALLBACK.into(),
                    Why::Shadow => COPY.into(),
                };
                out.extend_from_slice(word.as_bytes());
            }
        });
    }
}

/// What happens to a client's header field.
enum Rule {
    Copy,
    Drop,
    IfTrusted,
    Trailers,
    TraceState,
    Cookie,
}

fn rule(name: &HeaderName) -> Rule {
    // By length first, which leaves few names to compare with.
    match (name.as_str().len(), name.as_str()) {
        // The usual ones: they pass without a further look.
        (6, "accept" | "origin") | (7, "referer") | (10, "user-agent") | (12, "content-type") => Rule::Copy,
        (13, "authorization" | "cache-control") | (15, "accept-encoding" | "accept-language") => Rule::Copy,
        (6, "cookie") => Rule::Cookie,
        (2, "te") => Rule::Trailers,
        (10, "tracestate") => Rule::TraceState,
        (4, "host") | (6, "expect") | (14, "content-length" | "http2-settings") | (19, "proxy-authorization") => {
            Rule::Drop
        }
        (9, "forwarded") | (15, "x-forwarded-for") | (16, "x-forwarded-host") | (17, "x-forwarded-proto") => Rule::Drop,
        (11, "traceparent") | (12, "x-request-id" | "x-weir-force") | (14, "x-weir-rollout") => Rule::Drop,
        (13, "x-weir-shadow") => Rule::IfTrusted,
        _ if concerns_connection(name) => Rule::Drop,
        // What else a stranger cannot say is not there any more: `present` has taken it away.
        _ => Rule::Copy,
    }
}

/// Whether `te` says so; its other words are about this connection alone.
fn accepts_trailers(te: &HeaderValue) -> bool {
    te.as_bytes().split(|&byte| byte == b',').any(|word| word.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// The fields that `Connection` names, which end at this hop.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let mut named = Vec::new();
    for value in headers.get_all(http::header::CONNECTION) {
        for option in value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            let is_option = option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"keep-alive");
            if let (false, Ok(name)) = (is_option, HeaderName::from_bytes(option)) {
                // `te: trailers` must be named here and still matters to the upstream.
                if name != TE {
                    named.push(name);
                }
            }
        }
    }
    named
}

/// Appends all values with `separator` between them; returns how many bytes.
fn join(values: http::header::GetAll<'_, HeaderValue>, separator: &[u8], out: &mut Vec<u8>) -> usize {
    let before = out.len();
    for value in values {
        if out.len() > before {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(value.as_bytes());
    }
    out.len().saturating_sub(before)
}

/// Removes from an HTTP/2 upstream's answer what its client does not get.
pub fn clean_answer(headers: &mut HeaderMap) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| stays_here(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// The value of a header that may stand there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// W3C Trace Context §3.3: at most 32 members `key=value` over all header lines, empty ones aside. What is no such list is not
/// passed on, because nobody could read it.
fn is_tracestate(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(TRACESTATE).iter();
    let members = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
    let mut count = 0_usize;
    members.filter(|member| !member.is_empty()).all(|member| {
        count = count.saturating_add(1);
        let equals = member.iter().position(|&byte| byte == b'=');
        let parts = equals.and_then(|at| Some((member.get(..at)?, member.get(at.saturating_add(1)..)?)));
        count <= TRACESTATE_MEMBERS_MAX && parts.is_some_and(|(key, value)| is_state_key(key) && is_state_value(value))
    })
}

/// A key alone, or one of a tenant: `tenant@system`.
fn is_state_key(key: &[u8]) -> bool {
    let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let is_part = |part: &[u8], bytes_max: usize, first: fn(&u8) -> bool| {
        part.len() <= bytes_max && part.first().is_some_and(first) && part.iter().all(allowed)
    };
    match key.iter().position(|&byte| byte == b'@') {
        None => is_part(key, 256, u8::is_ascii_lowercase),
        Some(at) => {
            let (tenant, system) =
                (key.get(..at).unwrap_or_default(), key.get(at.saturating_add(1)..).unwrap_or_default());
            is_part(tenant, 241, |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                && is_part(system, 14, u8::is_ascii_lowercase)
        }
    }
}

/// Visible characters and spaces but `,` and `=`.
fn is_state_value(value: &[u8]) -> bool {
    (1..=256).contains(&value.len()) && value.iter().all(|byte| matches!(byte, b' '..=b'~') && !b",=".contains(byte))
}

/// Letters, digits and a few marks: nothing that a log or a shell reads twice.
fn is_request_id(id: &[u8]) -> bool {
    let allowed = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(&byte);
    !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX && id.iter().all(allowed)
}

/// W3C Trace Context §3.2: version, trace id, parent id, flags; not all zero, version not ff. Later versions may be longer.
fn is_traceparent(value: &[u8]) -> bool {
    let fields: ArrayVec<&[u8], 5> = value.splitn(5, |&byte| byte == b'-').collect();
    let [version, trace, parent, flags, rest @ ..] = fields.as_slice() else { return false };
    let hex = |field: &[u8], length| {
        field.len() == length && field.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |field: &[u8]| field.iter().all(|&byte| byte == b'0');
    hex(version, 2)
        && *version != b"ff"
        && (*version != b"00" || rest.is_empty())
        && hex(trace, 32)
        && !zero(trace)
        && hex(parent, 16)
        && !zero(parent)
        && hex(flags, 2)
}

/// 32 hexadecimal digits.
pub fn hexadecimal(value: u128) -> [u8; 32] {
    /// What a letter is more than the digit before it and so many.
    const LETTERS: u64 = (b'a' - b'0' - 10) as u64;
    /// One in each byte.
    const ONES: u64 = 0x0101_0101_0101_0101;
    // Eight digits at a time, one in each byte of a word.
    let word = |half: u32| {
        let spread = (u64::from(half) | u64::from(half) << 16) & 0x0000_ffff_0000_ffff;
        let spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        let digits = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // From ten on a digit is a letter; six more carries those into their upper half.
        let letters = (digits.wrapping_add(6 * ONES) >> 4) & ONES;
        digits.wrapping_add(u64::from(b'0').wrapping_mul(ONES)).wrapping_add(letters.wrapping_mul(LETTERS))
    };
    let mut text = [0; 32];
    for (digits, bytes) in text.as_chunks_mut().0.iter_mut().zip(value.to_be_bytes().as_chunks().0) {
        *digits = word(u32::from_be_bytes(*bytes)).to_be_bytes();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_contexts_are_checked_as_the_standard_says() {
        for good in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(is_traceparent(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            assert!(!is_traceparent(bad.as_bytes()), "{bad}");
        }
    }

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn ids(fields: &[(&'static str, &str)]) -> Ids {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        Ids::of(&headers, Present::of(&headers), 0x0123_4567_89ab_cdef_0011_2233_4455_6677)
    }

    fn passed(ids: &Ids, role: Role<'_>) -> String {
        let mut out = Vec::new();
        ids.write_traceparent(role, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_trace_goes_on_as_it_came_or_begins_anew() {
        assert_eq!(passed(&ids(&[("traceparent", PARENT)]), Role::Primary), PARENT);
        let anew = "00-0123456789abcdef0011223344556677-0011223344556677-01";
        assert_eq!(passed(&ids(&[]), Role::Primary), anew);
        // Two contexts are none: nobody knows which one is meant.
        assert_eq!(passed(&ids(&[("traceparent", PARENT), ("traceparent", PARENT)]), Role::Primary), anew);
        assert_eq!(passed(&ids(&[("traceparent", "00-no")]), Role::Primary), anew);
    }

    #[test]
    fn spans_that_are_told_of_stand_between_the_caller_and_the_upstream() {
        let unsampled = PARENT.replace("-01", "-00");
        let mut ids = ids(&[("traceparent", unsampled.as_str())]);
        assert_eq!(ids.parent_samples(), Some(false));
        let own = ids.recorded((1 << 64) | 2, 3 << 64);
        assert_eq!(own.parent.as_ref().map(|id| id.as_slice()), Some(b"00f067aa0ba902b7".as_slice()));
        let copy = Role::Copy { place: 0, arm: Arm::Canary, keep: &[] };
        for (role, span) in [(Role::Primary, 2), (Role::Fallback, 3), (copy, 1)] {
            assert_eq!(passed(&ids, role), format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span:016x}-01"));
        }
        let mut new = self::ids(&[]);
        new.not_recorded();
        assert!(passed(&new, Role::Primary).ends_with("-00"), "nobody looks for a beginning that is not told");
        assert_eq!(new.parent_samples(), None);
    }

    #[test]
    fn a_trace_state_is_passed_on_if_it_is_one_and_belongs_to_a_trace() {
        let state = |values: &[&str]| {
            let fields: Vec<_> = values.iter().map(|value| ("tracestate", *value)).collect();
            ids(&[&[("traceparent", PARENT)][..], &fields[..]].concat()).state
        };
        let full: Vec<String> = (0..32).map(|number| format!("k{number}=v")).collect();
        for good in ["", "a=1", "a=1,b=2", " a=1 ,\tb=2 , ", "1a-_*/@sys=x y", "a=1,,b=2", &full.join(",")] {
            assert!(state(&[good]), "{good}");
        }
        assert!(state(&["a=1", "b=2"]), "over several lines");
        let long = format!("a={}", "v".repeat(257));
        let many = format!("{},more=1", full.join(","));
        for bad in ["a", "=1", "a=", "A=1", "a=1=2", "1a=1", "a b=1", "a@=1", "@a=1", "a@1=1", "a@b@c=1", &long, &many]
        {
            assert!(!state(&[bad]), "{bad}");
        }
        assert!(!state(&[&full.join(","), "more=1"]), "all lines count together");
        assert!(!ids(&[("tracestate", "a=1")]).state, "there is no trace that it belongs to");
        assert!(!ids(&[("traceparent", "00-no"), ("tracestate", "a=1")]).state);
    }

    #[test]
    fn request_ids_that_a_log_could_misread_are_replaced() {
        assert!(is_request_id(b"0198c0de-0000-7000-8000-000000000001"));
        assert!(!is_request_id(b""));
        assert!(!is_request_id(b"a b"));
        assert!(!is_request_id(b"\"}{\""));
        assert!(!is_request_id(&[b'a'; REQUEST_ID_BYTES_MAX + 1]));
    }

    #[test]
    fn hexadecimal_keeps_every_digit() {
        assert_eq!(&hexadecimal(0x0123_4567_89ab_cdef_0011_2233_4455_6677), b"0123456789abcdef0011223344556677");
        assert_eq!(hexadecimal(u128::MAX), [b'f'; 32]);
    }
}
