//! Steps 2 of the request: what is asked for, and the route that takes it.

use super::refusal::Refusal;
use crate::snapshot::{HostPattern, Limits, Match, Route, Snapshot};
use http::Method;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};

/// Refuses what is not proxied whatever the routes say; gives the host that the request asks for, port included.
/// It is empty only for an HTTP/1.0 client that names none.
pub fn screen<'a>(parts: &'a Parts, limits: &Limits) -> Result<&'a str, Refusal> {
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Refusal::Method);
    }
    let target_bytes = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > limits.max_uri_bytes {
        return Err(Refusal::UriTooLong);
    }
    if !is_framed_clearly(&parts.headers) {
        return Err(Refusal::BadFraming);
    }
    host(parts).ok_or(Refusal::BadHost)
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
        Some(value) => Some(value.to_str().ok()?.trim()),
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

/// Letters, digits and the marks of names, addresses and ports (RFC 3986 §3.2.2, user information left out).
fn is_authority(host: &str) -> bool {
    let allowed = |byte: u8| {
        matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':')
            || b"[]%!$&'()*+,;=".contains(&byte)
    };
    !host.is_empty() && host.bytes().all(allowed)
}

/// The first route that matches, with its index.
pub fn find<'a>(snapshot: &'a Snapshot, parts: &Parts, host: &str) -> Option<(usize, &'a Route)> {
    let name = without_port(host);
    snapshot.routes.iter().enumerate().find(|(_, route)| route.matches.accepts(parts, name))
}

/// The host without its port: `[::1]:80` is `[::1]`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

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
        assert_eq!(asked(v11, "/", &["user@a"]), None);
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
}
