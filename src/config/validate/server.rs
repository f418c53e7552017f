//! The HTTP servers that weir itself asks, from their URLs.

use super::{Context, upstreams};
use crate::config::decode::{FilePath, Spot};
use crate::config::model::HttpServer;
use crate::config::tls;
use crate::config::tree::Place;
use crate::snapshot::Secret;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use rustls_pki_types::ServerName;
use std::sync::Arc;

/// TLS with the system's authorities, which are read once for all servers, and only if one needs them.
pub type Https = Option<Arc<rustls::ClientConfig>>;

/// The server of a URL that stands at `place`; `example` shows what one looks like. None after a problem, and no problem shows
/// the URL.
pub fn server(
    key: &str,
    url: &str,
    place: Place,
    example: &str,
    https: &mut Https,
    context: &mut Context<'_, '_>,
) -> Option<HttpServer> {
    let Some((tls, mut server)) = parts(url) else {
        context.problems.error(place, format!("{key}: expected an address such as \"{example}\"")).without_excerpt();
        return None;
    };
    if !tls {
        return Some(server);
    }
    let Ok(name) = ServerName::try_from(server.host.clone()) else {
        let message = format!("{key}: its host is no name that a certificate can have");
        context.problems.error(place, message).without_excerpt();
        return None;
    };
    if https.is_none() {
        match tls::client(None, None, "http/1.1") {
            Ok(config) => *https = Some(config),
            Err(reason) => {
                context.problems.error(place, format!("{key}: {reason}")).without_excerpt();
            }
        }
    }
    server.tls = Some((https.clone()?, name));
    Some(server)
}

/// The same for a server whose certificate is signed by the authorities of a file, where one is named.
pub fn trusted(
    key: &str,
    ca: Option<&Spot<FilePath>>,
    https: &mut Https,
    context: &mut Context<'_, '_>,
    server: impl FnOnce(&mut Https, &mut Context<'_, '_>) -> Option<HttpServer>,
) -> Option<HttpServer> {
    let Some(ca) = ca else { return server(https, context) };
    let file = context.file(&format!("{key}.ca"), ca);
    let own = file.as_ref().map(|(path, bytes)| tls::client(Some(tls::Pem { path, bytes }), None, "http/1.1"));
    let mut own = match own.transpose() {
        Ok(own) => own,
        Err(reason) => {
            context.problems.error(ca.place, format!("{key}.ca: {reason}"));
            None
        }
    };
    let readable = own.is_some();
    let mut found = server(if readable { &mut own } else { https }, context)?;
    if found.tls.is_none() {
        context.problems.error(ca.place, format!("{key}.ca: has no effect without `https://`"));
    }
    found.ca = file.filter(|_| readable).map(|(_, bytes)| bytes.into());
    Some(found)
}

/// The parts of a URL, and whether it asks for TLS; none if it is not the URL of a server.
fn parts(url: &str) -> Option<(bool, HttpServer)> {
    let uri: Uri = url.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let host = uri.host()?.to_lowercase();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = bare.map_or_else(|| upstreams::is_host(&host), |host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let port = match uri.port() {
        Some(port) => Some(port.as_u16()).filter(|port| *port > 0)?,
        None if tls => 443,
        None => 80,
    };
    let user = uri.authority()?.as_str().rsplit_once('@').map(|(user, _)| user);
    let authorization = user.map(|user| {
        let credentials = BASE64_STANDARD.encode(percent_decoded(user));
        secret(&format!("Basic {credentials}"))
    });
    let server = HttpServer {
        authority: format!("{host}:{port}").into(),
        host: bare.unwrap_or(&host).to_owned(),
        port,
        tls: None,
        ca: None,
        path: secret(uri.path()),
        parameters: secret(uri.query().unwrap_or_default()),
        authorization,
    };
    is_host.then_some((tls, server))
}

/// A text that is not shown.
pub fn secret(text: &str) -> Secret {
    Secret(Arc::from(text.as_bytes()))
}

/// `%40` is `@`; what is no such triple stays as it is.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..2).filter(|digits| first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let code = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secret: &Secret) -> String {
        String::from_utf8(secret.0.to_vec()).unwrap()
    }

    #[test]
    fn a_url_is_taken_apart_and_its_secrets_stay_hidden() {
        let (tls, server) = parts("https://me:p%40ss@Prom.example/base/?token=abc").unwrap();
        assert!(tls);
        assert_eq!((&*server.authority, server.host.as_str(), server.port), ("prom.example:443", "prom.example", 443));
        assert_eq!((text(&server.path), text(&server.parameters)), ("/base/".into(), "token=abc".into()));
        let authorization = format!("Basic {}", BASE64_STANDARD.encode("me:p@ss"));
        assert_eq!(server.authorization.as_ref().map(text), Some(authorization));
        let shown = format!("{server:?}");
        assert!(!shown.contains("abc") && !shown.contains("base/") && !shown.contains("Basic"), "{shown}");

        let (tls, server) = parts("http://[::1]:9090").unwrap();
        assert_eq!((tls, &*server.authority, server.host.as_str()), (false, "[::1]:9090", "::1"));
        assert!(text(&server.path) == "/" && server.authorization.is_none());
        for wrong in ["127.0.0.1:9090", "ftp://x", "http://", "http:///x", "http://x:0", "http://x y", "prom"] {
            assert!(parts(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn percent_codes_are_read_and_anything_else_is_kept() {
        assert_eq!(percent_decoded("a%3Ab%2"), b"a:b%2");
        assert_eq!(percent_decoded("%zz%%41"), b"%zz%A");
    }
}
