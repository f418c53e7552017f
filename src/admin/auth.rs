//! Who may use the admin address.
//!
//! Three guards, because an open loopback port is reachable by every page in a browser on the same machine: the bearer
//! token where one is set, the Host header against DNS rebinding, and the Origin header against posts from other sites.
//! It reads no file; tokens are handed in, and those that count are the ones of the snapshot in force.

use super::failure::Failure;
use super::page::is_page;
use crate::snapshot::Secret;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderName, StatusCode, header};
use std::net::{IpAddr, SocketAddr};

/// What whoever asks may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Look.
    Read,
    /// Look and act.
    Operate,
}

impl Role {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Operate => "operate",
        }
    }
}

/// The rule by which requests to the admin address are let in.
#[derive(Clone, Debug)]
pub struct Auth {
    token: Option<Secret>,
    /// Another token, with which one may look.
    read_token: Option<Secret>,
    /// Whether a browser could come in: then without a token only loopback names are let in.
    is_tcp: bool,
}

impl Auth {
    /// For a unix socket, whose file mode already says who may connect. A token is asked for if there is one.
    pub fn unix(token: Option<Secret>) -> Auth {
        Auth { token, read_token: None, is_tcp: false }
    }

    /// For a TCP address. None if it can be reached from elsewhere and there is no token: such a server must not start.
    pub fn tcp(address: SocketAddr, token: Option<Secret>) -> Option<Auth> {
        let may_start = token.is_some() || address.ip().to_canonical().is_loopback();
        may_start.then_some(Auth { token, read_token: None, is_tcp: true })
    }

    /// The same rule with other tokens: of who may act, and of who may only look.
    #[must_use]
    pub fn with_tokens(self, [token, read_token]: [Option<Secret>; 2]) -> Auth {
        Auth { token, read_token, ..self }
    }

    /// Lets a request in, or says why not. Only the probes and the page, which holds no data, need no token: who asks without
    /// one has no role.
    pub fn check(&self, request: &Parts) -> Result<Option<Role>, Failure> {
        self.check_host(request)?;
        let (safe, role) = (request.method.is_safe(), self.role(request));
        if !safe {
            check_origin(request)?;
        }
        match role {
            Some(Role::Read) if !safe => {
                let message = "this token may look and not act: use the one of `token_file`";
                return Err(Failure::new(StatusCode::FORBIDDEN, message));
            }
            Some(_) => return Ok(role),
            None if safe && (PROBES.contains(&request.uri.path()) || is_page(request.uri.path())) => return Ok(None),
            None => {}
        }
        let message = match request.headers.contains_key(header::AUTHORIZATION) {
            true => "the bearer token is not the one of this address",
            false => "this address asks for `Authorization: Bearer TOKEN`",
        };
        Err(Failure::new(StatusCode::UNAUTHORIZED, message))
    }

    /// Whether there is a token at all.
    pub fn asks_for_token(&self) -> bool {
        self.token.is_some()
    }

    /// What who asks may do: anything, unless a token is asked for.
    pub fn role(&self, request: &Parts) -> Option<Role> {
        let Some(token) = &self.token else { return Some(Role::Operate) };
        let given = request.headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes()))?;
        let is = |token: &Secret| verify_slices_are_equal(given, &token.0).is_ok();
        match is(token) {
            true => Some(Role::Operate),
            false => self.read_token.as_ref().is_some_and(is).then_some(Role::Read),
        }
    }

    fn check_host(&self, request: &Parts) -> Result<(), Failure> {
        if !self.is_tcp || self.token.is_some() {
            return Ok(());
        }
        let named = request.headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or(""));
        let target = request.uri.authority().map(Authority::as_str);
        for host in named.chain(target) {
            if !is_own_name(host_of(host)) {
                let message = format!("`{}` is no name of this server; use localhost", host.escape_default());
                return Err(Failure::new(StatusCode::FORBIDDEN, message));
            }
        }
        Ok(())
    }
}

/// Refuses what a browser sends on behalf of another site. Programs that are no browsers send neither header.
fn check_origin(request: &Parts) -> Result<(), Failure> {
    let text = |name: &HeaderName| request.headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let host = text(&header::HOST);
    let foreign = match text(&header::ORIGIN) {
        Some(origin) => origin.split_once("://").map(|(_, authority)| authority) != host,
        None => text(&SEC_FETCH_SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")),
    };
    if foreign {
        return Err(Failure::new(StatusCode::FORBIDDEN, "changes are not taken from pages of other sites"));
    }
    // A form of another site can send three types of bodies without asking first; this is none of them.
    let is_browser = request.headers.contains_key(header::ORIGIN) || request.headers.contains_key(SEC_FETCH_SITE);
    let kind = text(&header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default();
    if is_browser && !kind.trim().eq_ignore_ascii_case("application/json") {
        let message = "changes from a browser are `application/json`";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    Ok(())
}

/// The token of `Bearer TOKEN`; the scheme's name is matched without case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// A Host header or address without its port; the brackets of an IPv6 address stay.
fn host_of(text: &str) -> &str {
    match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') && !text[..colon].ends_with(':') => &text[..colon],
        _ => text,
    }
}

fn is_own_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Orchestrators ask these without credentials; what they say beyond yes and no is kept back.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{Method, Request};

    fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(auth: &Auth, method: Method, path: &str, headers: &[(&str, &str)]) -> u16 {
        auth.check(&request(method, path, headers)).map_or_else(|failure| failure.status.as_u16(), |_| 200)
    }

    fn loopback() -> Auth {
        Auth::tcp("127.0.0.1:9900".parse().unwrap(), None).unwrap()
    }

    #[test]
    fn an_open_loopback_address_answers_to_its_own_names_only() {
        let auth = loopback();
        for host in ["localhost", "LOCALHOST:9900", "127.0.0.1:1", "127.9.8.7", "[::1]", "[::1]:9900", "::1"] {
            assert_eq!(status(&auth, Method::GET, "/", &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example:9900", "10.0.0.1", "", "[::2]:9900", "127.0.0.1.nip.io"] {
            assert_eq!(status(&auth, Method::GET, "/", &[("host", host)]), 403, "{host}");
        }
        assert_eq!(status(&auth, Method::GET, "http://evil.example/", &[("host", "localhost")]), 403);
    }

    #[test]
    fn an_address_others_can_reach_needs_a_token() {
        let address = "0.0.0.0:9900".parse().unwrap();
        assert!(Auth::tcp(address, None).is_none());
        let auth = Auth::tcp(address, Some(Secret(b"0123456789abcdef".as_slice().into()))).unwrap();
        let with = |value: &str| status(&auth, Method::GET, "/metrics", &[("authorization", value)]);
        assert_eq!(status(&auth, Method::GET, "/metrics", &[]), 401);
        assert_eq!(with("Bearer 0123456789abcdef"), 200);
        assert_eq!(with("bearer 0123456789abcdef"), 200);
        for wrong in ["Bearer 0123456789abcdeg", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer", ""] {
            assert_eq!(with(wrong), 401, "{wrong}");
        }
        assert_eq!(status(&auth, Method::GET, "/readyz", &[]), 200);
        assert_eq!(auth.role(&request(Method::GET, "/readyz", &[])), None);
    }

    #[test]
    fn who_may_look_may_not_act() {
        let secret = |text: &str| Some(Secret(text.as_bytes().into()));
        let auth = loopback().with_tokens([secret("operate-operate-"), secret("read-read-read-r")]);
        let with = |method: Method, token: &str| {
            status(&auth, method, "/api/v1/rollouts/chat/kill", &[("authorization", &format!("Bearer {token}"))])
        };
        assert_eq!((with(Method::GET, "read-read-read-r"), with(Method::POST, "read-read-read-r")), (200, 403));
        assert_eq!((with(Method::GET, "operate-operate-"), with(Method::POST, "operate-operate-")), (200, 200));
        assert_eq!((with(Method::GET, "read-read-read-x"), with(Method::POST, "")), (401, 401));
        for open in ["/readyz", "/healthz", "/", "/page/page.js", "/page/session"] {
            assert_eq!(status(&auth, Method::GET, open, &[]), 200, "{open}");
            assert_eq!(status(&auth, Method::POST, open, &[]), 401, "{open}");
        }
        assert_eq!(auth.role(&request(Method::GET, "/", &[])), None);
        let reader_alone = loopback().with_tokens([None, secret("x")]);
        assert_eq!(reader_alone.role(&request(Method::GET, "/", &[])), Some(Role::Operate));
    }

    #[test]
    fn changes_from_pages_of_other_sites_are_refused() {
        let auth = loopback();
        let post = |headers: &[(&str, &str)]| {
            let mut all = vec![("host", "127.0.0.1:9900")];
            all.extend_from_slice(headers);
            status(&auth, Method::POST, "/api/v1/reload", &all)
        };
        let json = ("content-type", "application/json");
        assert_eq!(post(&[]), 200);
        assert_eq!(post(&[("content-type", "application/x-www-form-urlencoded")]), 200, "curl -d");
        assert_eq!(post(&[("origin", "http://127.0.0.1:9900"), json]), 200);
        assert_eq!(post(&[("sec-fetch-site", "same-origin"), json]), 200);
        for form in ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain", "", "application/jsonp"]
        {
            assert_eq!(post(&[("sec-fetch-site", "same-origin"), ("content-type", form)]), 415, "{form}");
        }
        assert_eq!(post(&[("origin", "https://evil.example"), json]), 403);
        assert_eq!(post(&[("origin", "https://evil.example")]), 403);
        assert_eq!(post(&[("origin", "null")]), 403);
        assert_eq!(post(&[("sec-fetch-site", "cross-site")]), 403);
    }
}
