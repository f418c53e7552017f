//! What criteria read besides the requests themselves: signals and Prometheus queries.

use super::{Context, at_most, names, rollouts, upstreams};
use crate::config::decode::{Spot, Url};
use crate::config::model::{QueryConfig, QueryServer, RouteConfig};
use crate::config::raw;
use crate::config::tls;
use crate::config::tree::quoted;
use crate::config::units::print_span;
use crate::snapshot::{SIGNALS_MAX, Secret, Signal, SignalMatch};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use rustls_pki_types::ServerName;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// All signals.
pub fn signals(raw: &raw::Root, routes: &[RouteConfig], context: &mut Context<'_, '_>) -> Vec<Signal> {
    let Some(signals) = &raw.signals else { return Vec::new() };
    names::names("a signal", &signals.value, context);
    at_most("signals", signals.value.len(), SIGNALS_MAX, signals.place, context);
    let signal = |entry: &crate::config::decode::Named<raw::Signal>, context: &mut Context<'_, '_>| {
        let when = entry.value.as_ref()?.when.as_ref();
        let key = format!("signals.{}.when", entry.name);
        Some(Signal { name: entry.name.as_str().into(), when: when.map(|when| matches(&key, when, routes, context)) })
    };
    signals.value.iter().take(SIGNALS_MAX).filter_map(|entry| signal(entry, context)).collect()
}

fn matches(
    key: &str,
    spot: &Spot<raw::SignalWhen>,
    routes: &[RouteConfig],
    context: &mut Context<'_, '_>,
) -> SignalMatch {
    let raw = &spot.value;
    let headers = names::headers(&format!("{key}.response_header"), raw.response_header.as_ref(), context);
    let mut found = SignalMatch { headers, ..SignalMatch::default() };
    for status in raw.status.iter().flat_map(|list| &list.value) {
        match rollouts::status_range(&status.value) {
            Some(range) => found.statuses.push(range),
            None => {
                let message = format!("{key}.status: {} is no status", quoted(&status.value));
                context.problems.error(status.place, message).with_help("write \"422\", \"4xx\" or \"500-504\"");
            }
        }
    }
    for status in raw.grpc_status.iter().flat_map(|list| &list.value) {
        match u8::try_from(status.value).ok().filter(|code| *code <= GRPC_STATUS_MAX) {
            Some(code) => found.grpc_statuses.push(code),
            None => {
                let message = format!("{key}.grpc_status: expected 0 to {GRPC_STATUS_MAX}, found {}", status.value);
                context.problems.error(status.place, message);
            }
        }
    }
    if let Some(route) = &raw.route {
        found.route = routes.iter().position(|known| *known.name == *route.value);
        if found.route.is_none() {
            let known: Vec<&str> = routes.iter().map(|route| &*route.name).collect();
            names::dangling(&format!("{key}.route"), "route", &route.value, &known, route.place, context);
        }
    }
    let lists = [
        raw.response_header.as_ref().is_some_and(|map| !map.value.is_empty()),
        raw.status.as_ref().is_some_and(|list| !list.value.is_empty()),
        raw.grpc_status.as_ref().is_some_and(|list| !list.value.is_empty()),
    ];
    if !lists.contains(&true) && raw.route.is_none() && !context.unread {
        let help = "name a response_header, status, grpc_status or route; without `when` only posted events count";
        context.problems.error(spot.place, format!("{key}: says nothing of a response")).with_help(help);
    }
    found
}

/// All queries.
pub fn queries(raw: &raw::Root, context: &mut Context<'_, '_>) -> Vec<QueryConfig> {
    let Some(queries) = &raw.queries else { return Vec::new() };
    names::names("a query", &queries.value, context);
    at_most("queries", queries.value.len(), QUERIES_MAX, queries.place, context);
    // The system's authorities are read once for all queries.
    let mut https = None;
    let mut found = Vec::new();
    for entry in queries.value.iter().take(QUERIES_MAX) {
        let Some(raw) = &entry.value else { continue };
        found.extend(query(&entry.name, raw, &mut https, context));
    }
    found
}

type Https = Option<Arc<rustls::ClientConfig>>;

fn query(name: &str, raw: &raw::Query, https: &mut Https, context: &mut Context<'_, '_>) -> Option<QueryConfig> {
    let key = format!("queries.{name}");
    let mut span = |name: &str, spot: &Option<Spot<Duration>>, usual: Duration, bounds: RangeInclusive<Duration>| {
        let Some(spot) = spot else { return usual };
        if !bounds.contains(&spot.value) {
            let (least, most) = (print_span(*bounds.start()), print_span(*bounds.end()));
            context.problems.error(spot.place, format!("{key}.{name}: expected {least} to {most}"));
        }
        spot.value
    };
    let interval = span("interval", &raw.interval, INTERVAL, INTERVAL_MIN..=INTERVAL_MAX);
    let timeout = span("timeout", &raw.timeout, TIMEOUT, INTERVAL_MIN..=TIMEOUT_MAX);
    let max_age = span("max_age", &raw.max_age, MAX_AGE.max(interval), INTERVAL_MIN..=MAX_AGE_MAX);
    if let Some(spot) = raw.max_age.as_ref().filter(|spot| spot.value < interval) {
        let message = format!("{key}.max_age: is shorter than `interval`, so the value would be missing in between");
        context.problems.error(spot.place, message);
    }
    if let Some(expr) = raw.expr.as_ref().filter(|expr| expr.value.trim().is_empty()) {
        context.problems.error(expr.place, format!("{key}.expr: asks for nothing"));
    }
    let server = server(&format!("{key}.url"), raw.url.as_ref()?, https, context)?;
    let expr = raw.expr.as_ref()?.value.trim().to_owned();
    Some(QueryConfig { name: name.into(), server, expr, interval, timeout, max_age })
}

fn server(key: &str, spot: &Spot<Url>, https: &mut Https, context: &mut Context<'_, '_>) -> Option<QueryServer> {
    let Some((tls, mut server)) = parts(&spot.value.0) else {
        let message = format!("{key}: expected an address such as \"http://127.0.0.1:9090\"");
        context.problems.error(spot.place, message).without_excerpt();
        return None;
    };
    if !tls {
        return Some(server);
    }
    let Ok(name) = ServerName::try_from(server.host.clone()) else {
        let message = format!("{key}: its host is no name that a certificate can have");
        context.problems.error(spot.place, message).without_excerpt();
        return None;
    };
    if https.is_none() {
        match tls::client(None, None, "http/1.1") {
            Ok(config) => *https = Some(config),
            Err(reason) => {
                context.problems.error(spot.place, format!("{key}: {reason}")).without_excerpt();
            }
        }
    }
    server.tls = Some((https.clone()?, name));
    Some(server)
}

/// The parts of a URL, and whether it asks for TLS; none if it is not the URL of a server.
fn parts(url: &str) -> Option<(bool, QueryServer)> {
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
    let server = QueryServer {
        authority: format!("{host}:{port}").into(),
        host: bare.unwrap_or(&host).to_owned(),
        port,
        tls: None,
        path: secret(uri.path().trim_end_matches('/')),
        parameters: secret(uri.query().unwrap_or_default()),
        authorization,
    };
    is_host.then_some((tls, server))
}

fn secret(text: &str) -> Secret {
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

/// The last code there is: unauthenticated (gRPC "Status codes and their use").
const GRPC_STATUS_MAX: u8 = 16;
/// Each is a task, and a question every few seconds.
const QUERIES_MAX: usize = 64;
/// Time between two questions unless a query says otherwise.
const INTERVAL: Duration = Duration::from_secs(5);
/// No server is asked more often, nor given less time.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// A value that is asked for less often says nothing about the present.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Time for an answer unless a query says otherwise.
const TIMEOUT: Duration = Duration::from_secs(2);
/// What takes longer is not a question for every few seconds.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Age from which a value is no data unless a query says otherwise.
const MAX_AGE: Duration = Duration::from_secs(60);
/// A value from yesterday says nothing about the present.
const MAX_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

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
        assert_eq!((text(&server.path), text(&server.parameters)), ("/base".into(), "token=abc".into()));
        let authorization = format!("Basic {}", BASE64_STANDARD.encode("me:p@ss"));
        assert_eq!(server.authorization.as_ref().map(text), Some(authorization));
        let shown = format!("{server:?}");
        assert!(!shown.contains("abc") && !shown.contains("base/") && !shown.contains("Basic"), "{shown}");

        let (tls, server) = parts("http://[::1]:9090").unwrap();
        assert_eq!((tls, &*server.authority, server.host.as_str()), (false, "[::1]:9090", "::1"));
        assert!(text(&server.path).is_empty() && server.authorization.is_none());
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
