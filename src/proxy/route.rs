//! Steps 2 of the request: what is asked for, and the route that takes it.

use super::head::decimal;
use super::present::{Present, is_hearsay};
use super::refusal::Refusal;
use super::websocket;
use crate::snapshot::{HostPattern, Match, Route, Snapshot};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use std::collections::HashSet;
use std::net::Ipv6Addr;

/// Refuses what is not proxied whatever the routes say; gives the host that the request asks for, port included.
/// It is empty only for an HTTP/1.0 client that names none.
pub fn screen<'a>(parts: &'a Parts, present: Present, snapshot: &Snapshot) -> Result<&'a str, Refusal> {
    let (limits, decisive) = (&snapshot.limits, &snapshot.decisive);
    if !is_let_through(&parts.method) {
        return Err(Refusal::Method);
    }
    // hyper counts the fields of HTTP/1 alone.
    if parts.headers.len() > limits.max_headers {
        return Err(Refusal::HeadTooLong);
    }
    let target_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > limits.max_uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    // What follows an HTTP/1 head has been judged before; hyper sees to a length that an HTTP/2 body has not.
    let may_be_unclear = present.transfer_encoding || (present.content_length && parts.version == Version::HTTP_2);
    if may_be_unclear && !is_framed_clearly(&parts.headers) {
        return Err(Refusal::BadFraming);
    }
    let is_stripped = present.connection && is_stripping(&parts.headers, decisive);
    let has_body_before = present.upgrade && websocket::has_body_before(&parts.headers);
    if !is_target(&parts.uri, &parts.method) || is_stripped || has_body_before || is_doubled(&parts.headers, decisive) {
        return Err(Refusal::BadRequest);
    }
    host(parts).ok_or(Refusal::BadHost)
}

/// No tunnel, and nothing that shows a request to whoever sent it; nor a method in small letters, which is another one for
/// those who read it without regard to case: `head` has no body in its answer for some.
fn is_let_through(method: &Method) -> bool {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            true
        }
        Method::CONNECT | Method::TRACE => false,
        _ => *method != "TRACK" && !method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()),
    }
}

/// A path of HTTP. Without one there is only the server as a whole, of which only OPTIONS may ask (RFC 9112, section 3.2.4).
fn is_target(uri: &Uri, method: &Method) -> bool {
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    let is_web = uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    is_web && (target.starts_with('/') || (target == "*" && method == Method::OPTIONS))
}

/// Whether `Connection` asks to strip the request of a field that goes to its end: who reads the fields before it is
/// stripped and who reads them after would see two requests (RFC 9110, section 7.6.1).
fn is_stripping(headers: &HeaderMap, decisive: &HashSet<HeaderName>) -> bool {
    let is_kept = |name: &[u8]| {
        let name = HeaderName::from_bytes(name);
        name.is_ok_and(|name| is_protected(name.as_str()) || decisive.contains(&name))
    };
    headers.get_all(CONNECTION).iter().any(|value| {
        let mut names = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.any(is_kept)
    })
}

/// Whether a field stands there twice that decides something: weir reads the first one, others the last one or both.
fn is_doubled(headers: &HeaderMap, decisive: &HashSet<HeaderName>) -> bool {
    let mut before = None;
    // Those of one name come one after the other.
    let mut is_another = |name| before.replace(name) == Some(name) && decisive.contains(name);
    headers.len() > headers.keys_len() && headers.iter().any(|(name, _)| is_another(name))
}

/// Whether the body's end can be understood in one way only: by one length, or by the chunked coding alone (RFC 9112 §6.3).
fn is_framed_clearly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match codings.next() {
        None => {
            let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
            lengths.next().is_none_or(|length| decimal(length.as_bytes()).is_some()) && lengths.next().is_none()
        }
        Some(coding) => {
            let chunked = coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
            chunked && codings.next().is_none() && !headers.contains_key(CONTENT_LENGTH)
        }
    }
}

/// The one host of a request: RFC 9112 §3.2 wants exactly one `Host`, which agrees with an absolute target.
fn host(parts: &Parts) -> Option<&str> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = match fields.next() {
        Some(value) => Some(value.to_str().ok()?.trim_ascii()),
        None => None,
    };
    if fields.next().is_some() {
        return None;
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let host = match (authority, field) {
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => return None,
        (_, None) if parts.version == Version::HTTP_11 => return None,
        (Some(authority), _) => authority,
        (None, Some(field)) => field,
        (None, None) if parts.version < Version::HTTP_11 => return Some(""),
        (None, None) => return None,
    };
    is_authority(host).then_some(host)
}

/// A name or an address, and a port if there is one (RFC 3986 §3.2.2, user information left out).
fn is_authority(authority: &str) -> bool {
    let (is_host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            (address.parse::<Ipv6Addr>().is_ok(), rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => match memchr::memchr(b':', authority.as_bytes()).and_then(|colon| authority.split_at_checked(colon)) {
            Some((host, port)) => (is_name(host), port.strip_prefix(':')),
            None => (is_name(authority), Some("")),
        },
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_host && port.is_some_and(|port| port.is_empty() || is_port(port))
}

/// Labels with a dot between them, and perhaps one at the end. Of what a URI may have besides nothing is in any name, and
/// some read `%61` as another one, or `a,b` as two.
fn is_name(name: &str) -> bool {
    let mut last = b'.';
    let is_next = |byte: u8| {
        let before = std::mem::replace(&mut last, byte);
        NAME.get(usize::from(byte)).copied().unwrap_or(false) && (byte != b'.' || before != b'.')
    };
    !name.is_empty() && name.bytes().all(is_next)
}

/// Which bytes a name or an address may have: looked up, because every request names its host.
#[expect(clippy::indexing_slicing, reason = "worked out when weir is built")]
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"-._~";
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
};

/// The first route that matches, with its index.
pub fn find<'a>(snapshot: &'a Snapshot, parts: &Parts, host: &str) -> Option<(usize, &'a Route)> {
    let name = without_port(host);
    // The dot at the end says that nothing is left out: it is the same host.
    let name = name.strip_suffix('.').unwrap_or(name);
    let accepts = |index: usize| snapshot.routes.get(index).is_some_and(|route| route.matches.accepts(parts, name));
    let index = match &snapshot.lookup {
        Some(lookup) => lookup.first(name, parts.uri.path(), accepts),
        None => (0..snapshot.routes.len()).find(|index| accepts(*index)),
    }?;
    snapshot.routes.get(index).map(|route| (index, route))
}

/// The host without its port: `[::1]:80` is `[::1]`.
fn without_port(host: &str) -> &str {
    let colon = memchr::memrchr(b':', host.as_bytes());
    match colon.and_then(|colon| Some((host.get(..colon)?, host.get(colon.saturating_add(1)..)?))) {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

impl Match {
    fn accepts(&self, parts: &Parts, host: &str) -> bool {
        self.host.as_ref().is_none_or(|pattern| pattern.accepts(host))
            && self.path_prefix.as_ref().is_none_or(|prefix| has_prefix(parts.uri.path(), prefix))
            && (self.methods.is_empty() || self.methods.contains(&parts.method))
            && self.headers.iter().all(|(name, value)| {
                let same = |sent: &HeaderValue| sent.as_bytes().trim_ascii() == value.as_bytes();
                parts.headers.get_all(name).iter().any(same)
            })
    }
}

impl HostPattern {
    fn accepts(&self, host: &str) -> bool {
        match self {
            HostPattern::Exact(name) => host.eq_ignore_ascii_case(name),
            HostPattern::Suffix(suffix) => {
                let start = host.len().checked_sub(suffix.len()).filter(|&start| start > 0);
                start.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

/// Whether `path` begins with whole segments of `prefix`.
fn has_prefix(path: &str, prefix: &str) -> bool {
    match path.strip_prefix(prefix.trim_end_matches('/')) {
        Some(rest) => rest.is_empty() && !prefix.ends_with('/') || rest.starts_with('/') || prefix.is_empty(),
        None => false,
    }
}

/// Whether a field has its meaning in the head and up to the request's end: of routing, framing, content, conditions,
/// identity, and what weir itself writes. `Connection` cannot take it away, and it cannot follow in trailers.
pub fn is_protected(name: &str) -> bool {
    is_hearsay(name)
        || name.starts_with("if-")
        || matches!(
            name,
            "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-type"
                | "cookie"
                | "date"
                | "expect"
                | "host"
                | "idempotency-key"
                | "range"
                | "traceparent"
                | "tracestate"
                | "transfer-encoding"
                | "x-request-id"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Lookup;
    use http::Request;
    use proptest::prelude::*;

    fn asked(version: Version, uri: &str, hosts: &[&str]) -> Option<String> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        host(&request.body(()).unwrap().into_parts().0).map(str::to_owned)
    }

    #[test]
    fn exactly_one_host_counts() {
        let v11 = Version::HTTP_11;
        assert_eq!(asked(v11, "/", &["a.example:80"]).as_deref(), Some("a.example:80"));
        assert_eq!(asked(v11, "http://a.example/", &["A.example"]).as_deref(), Some("a.example"));
        assert_eq!(asked(v11, "http://a.example/", &["b.example"]), None);
        assert_eq!(asked(v11, "/", &["a", "a"]), None);
        assert_eq!(asked(v11, "/", &[]), None);
        assert_eq!(asked(v11, "http://a.example/", &[]), None);
        assert_eq!(asked(Version::HTTP_10, "http://a.example/", &[]).as_deref(), Some("a.example"));
        assert_eq!(asked(v11, "/", &["a b"]), None);
        let odd =
            ["user@a", "a/b", "a:b", "a:99999", "a:1:2", "a:-1", ":80", "[::1", "[a]", "[::1]x", "a]", "a\\b", "a?b"];
        for odd in odd.into_iter().chain([".", ".a", "a..b", "a..", "%61", "a,b", "*", "a:b:c"]) {
            assert_eq!(asked(v11, "/", &[odd]), None, "{odd}");
        }
        for good in ["a:", "a.b:0", "a.b.", "[::1]", "[::1]:80", "a_b", "127.0.0.1:8080"] {
            assert_eq!(asked(v11, "/", &[good]).as_deref(), Some(good));
        }
        assert_eq!(asked(Version::HTTP_10, "/", &[]).as_deref(), Some(""));
    }

    #[test]
    fn prefixes_match_whole_segments() {
        for (path, prefix, matches) in [
            ("/api", "/api", true),
            ("/api/x", "/api", true),
            ("/apix", "/api", false),
            ("/api/x", "/api/", true),
            ("/api", "/api/", false),
            ("/anything", "/", true),
            ("/", "/", true),
            ("*", "/", false),
        ] {
            assert_eq!(has_prefix(path, prefix), matches, "{path} under {prefix}");
        }
    }

    #[test]
    fn hosts_match_without_case_and_port() {
        let exact = HostPattern::Exact("api.example.com".into());
        assert!(exact.accepts(without_port("API.example.com:8080")));
        let below = HostPattern::Suffix(".example.com".into());
        assert!(below.accepts("a.b.example.com"));
        assert!(!below.accepts("example.com"));
        assert!(!below.accepts(".example.com"));
        assert_eq!(without_port("[::1]:80"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
    }

    #[test]
    fn among_many_routes_the_first_that_matches_wins() {
        // Few names, so that routes and requests meet: one letter each, and slashes where nobody wants them.
        let name = || prop_oneof![Just("a"), Just("b"), Just("A"), Just("a.b")];
        let path = || prop::collection::vec(prop_oneof![Just("/a"), Just("/b"), Just("/"), Just("/ab")], 0..4);
        let parts = (0..3, name(), prop::option::weighted(0.8, path()), prop::bool::weighted(0.2));
        let matches = parts.prop_map(|(host, name, path, puts)| Match {
            host: match host {
                0 => None,
                1 => Some(HostPattern::Exact(name.to_lowercase().into())),
                _ => Some(HostPattern::Suffix(format!(".{}", name.to_lowercase()).into())),
            },
            path_prefix: path.map(|path| path.concat().into()),
            methods: if puts { vec![Method::PUT] } else { vec![] },
            headers: vec![],
        });
        let routes = prop::collection::vec(matches, 0..40);
        let labels = prop::collection::vec(name(), 1..4);
        proptest!(|(routes in routes, labels in labels, path in path())| {
            let (host, path) = (labels.join("."), path.concat());
            let target = if path.is_empty() { "*".to_owned() } else { path };
            let method = if target == "*" { Method::OPTIONS } else { Method::GET };
            let request = Request::builder().method(method).uri(&*target).body(()).unwrap();
            let (parts, ()) = request.into_parts();
            let accepts = |index: usize| routes[index].accepts(&parts, &host);
            let lookup = Lookup::of(routes.iter()).first(&host, parts.uri.path(), accepts);
            prop_assert_eq!(lookup, (0..routes.len()).find(|index| accepts(*index)));
        });
    }
}
