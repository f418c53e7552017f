//! Steps 2 of the request: what is asked for, and the route that takes it.

use super::present::Present;
use super::refusal::Refusal;
use super::websocket;
use crate::snapshot::{HostPattern, Limits, Match, Route, Snapshot};
use http::Method;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};
use std::net::Ipv6Addr;

/// Refuses what is not proxied whatever the routes say; gives the host that the request asks for, port included.
/// It is empty only for an HTTP/1.0 client that names none.
pub fn screen<'a>(parts: &'a Parts, present: Present, limits: &Limits) -> Result<&'a str, Refusal> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
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
    if present.transfer_encoding && !is_framed_clearly(&parts.headers) {
        return Err(Refusal::BadFraming);
    }
    // Without a path there is only the server as a whole, of which only OPTIONS may ask (RFC 9112, section 3.2.4).
    let nothing = !parts.uri.path().starts_with('/') && parts.method != Method::OPTIONS;
    let is_stripped = present.connection && is_stripping(&parts.headers);
    if nothing || is_stripped || (present.upgrade && websocket::has_body_before(&parts.headers)) {
        return Err(Refusal::BadRequest);
    }
    host(parts).ok_or(Refusal::BadHost)
}

/// Whether `Connection` asks to strip the request of a field that goes to its end: who reads the fields before it is
/// stripped and who reads them after would see two requests (RFC 9110, section 7.6.1).
fn is_stripping(headers: &HeaderMap) -> bool {
    let is_protected = |name: &[u8]| {
        let is = |protected: &&str| name.eq_ignore_ascii_case(protected.as_bytes());
        let starts =
            |prefix: &&str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()));
        PROTECTED.iter().any(is) || PROTECTED_PREFIXES.iter().any(starts)
    };
    headers.get_all(CONNECTION).iter().any(|value| {
        let mut names = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.any(is_protected)
    })
}

/// Whether the body's end can be understood in one way only: by a length, or by the chunked coding alone (RFC 9112 §6.3).
fn is_framed_clearly(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match codings.next() {
        None => true,
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
        Some(value) => Some(std::str::from_utf8(value.as_bytes().trim_ascii()).ok()?),
        None => None,
    };
    if fields.next().is_some() {
        return None;
    }
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let host = match (authority, field) {
        (Some(authority), Some(field)) if !authority.eq_ignore_ascii_case(field) => return None,
        (Some(authority), _) => authority,
        (None, Some(field)) => field,
        (None, None) if parts.version < Version::HTTP_11 => return Some(""),
        (None, None) => return None,
    };
    is_authority(host).then_some(host)
}

/// A name or an address, and a port if there is one (RFC 3986 §3.2.2, user information left out).
fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => match address.parse::<Ipv6Addr>() {
            Ok(_) => (address, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
            Err(_) => return false,
        },
        None => match memchr::memchr(b':', authority.as_bytes()).and_then(|colon| authority.split_at_checked(colon)) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => (authority, Some("")),
        },
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let allowed = |byte: u8| NAME.get(usize::from(byte)).copied().unwrap_or(false);
    !host.is_empty() && host.bytes().all(allowed) && port.is_some_and(|port| port.is_empty() || is_port(port))
}

/// Which bytes a name or an address may have: looked up, because every request names its host.
#[expect(clippy::indexing_slicing, reason = "worked out when weir is built")]
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let marks = b"-._~%!$&'()*+,;=:";
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

/// Fields that `Connection` cannot take away: of routing, framing, content, identity, and those that weir itself writes.
const PROTECTED: [&str; 16] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "range",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "x-request-id",
    "x-real-ip",
];
/// Beginnings of such names.
const PROTECTED_PREFIXES: [&str; 2] = ["x-forwarded-", "x-weir-"];

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
        assert_eq!(asked(v11, "/", &["a b"]), None);
        for odd in
            ["user@a", "a/b", "a:b", "a:99999", "a:1:2", "a:-1", ":80", "[::1", "[a]", "[::1]x", "a]", "a\\b", "a?b"]
        {
            assert_eq!(asked(v11, "/", &[odd]), None, "{odd}");
        }
        for good in ["a:", "a.b:0", "[::1]", "[::1]:80", "a_b", "127.0.0.1:8080"] {
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
