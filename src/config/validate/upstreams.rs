//! Upstreams: endpoints, timeouts and TLS towards them.

use super::listeners::IdentityFiles;
use super::{Context, health, names};
use crate::config::decode::Spot;
use crate::config::limits::{UpstreamDefaults, waiting};
use crate::config::model::{EndpointConfig, UpstreamConfig};
use crate::config::raw::{self, Protocol};
use crate::config::tls;
use crate::config::tree::{Place, quoted};
use rustls_pki_types::ServerName;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

/// All upstreams, in the order of the file; the index of a name is its index in the raw map.
pub fn upstreams(raw: &raw::Root, defaults: UpstreamDefaults, context: &mut Context<'_, '_>) -> Vec<UpstreamConfig> {
    let Some(map) = &raw.upstreams else { return Vec::new() };
    names::names("an upstream", &map.value, context);
    super::at_most("upstreams", map.value.len(), UPSTREAMS_MAX, map.place, context);
    let empty = raw::Upstream::default();
    let upstream = |entry: &crate::config::decode::Named<raw::Upstream>| {
        upstream(&entry.name, entry.value.as_ref().unwrap_or(&empty), entry.place, defaults, context)
    };
    map.value.iter().take(UPSTREAMS_MAX).map(upstream).collect()
}

fn upstream(
    name: &str,
    raw: &raw::Upstream,
    place: Place,
    defaults: UpstreamDefaults,
    context: &mut Context<'_, '_>,
) -> UpstreamConfig {
    let key = format!("upstreams.{name}");
    let mut endpoints = endpoints(&key, raw, context);
    let encrypted = endpoints.iter().any(|endpoint| endpoint.tls);
    server_names(&key, raw, &mut endpoints, context);
    let http2 = raw.protocol.as_ref().is_some_and(|protocol| protocol.value == Protocol::H2);
    let max_connections = raw.max_connections.as_ref().map_or(MAX_CONNECTIONS, |count| count.value);
    if let Some(spot) = raw.max_connections.as_ref().filter(|count| count.value == 0 || count.value > 65_535) {
        context.problems.error(spot.place, format!("{key}.max_connections: expected 1 to 65535, found {}", spot.value));
    }
    let mut span = |name: &str, spot: &Option<Spot<Duration>>, default: Duration| {
        let Some(spot) = spot else { return default };
        waiting(&format!("{key}.{name}"), spot, context.problems);
        spot.value
    };
    let connect_timeout = span("connect_timeout", &raw.connect_timeout, defaults.connect_timeout);
    let response_timeout = span("response_timeout", &raw.response_timeout, defaults.response_timeout);
    let idle_timeout = span("idle_timeout", &raw.idle_timeout, defaults.idle_timeout);
    UpstreamConfig {
        name: Arc::from(name),
        http2,
        tls: if encrypted { client(&key, raw, http2, place, context) } else { None },
        endpoints,
        connect_timeout,
        response_timeout,
        idle_timeout,
        max_connections: max_connections as usize,
        health: raw.health.as_ref().and_then(|spot| health::health(&key, spot, context)),
    }
}

fn endpoints(key: &str, raw: &raw::Upstream, context: &mut Context<'_, '_>) -> Vec<EndpointConfig> {
    let Some(list) = &raw.endpoints else { return Vec::new() };
    if list.value.is_empty() {
        context.problems.error(list.place, format!("{key}.endpoints: an upstream has at least one endpoint"));
    }
    super::at_most(&format!("{key}.endpoints"), list.value.len(), ENDPOINTS_MAX, list.place, context);
    let mut endpoints: Vec<EndpointConfig> = Vec::new();
    for spot in list.value.iter().take(ENDPOINTS_MAX) {
        let endpoint = match endpoint(&spot.value) {
            Ok(endpoint) => endpoint,
            Err(help) => {
                let expected = "expected an endpoint such as \"10.0.0.1:8080\" or \"https://api.internal:8443\"";
                let message = format!("{key}.endpoints: {expected}, found {}", quoted(&spot.value));
                context.problems.error(spot.place, message).with_help(help);
                continue;
            }
        };
        if endpoints.iter().any(|other| other.authority == endpoint.authority) {
            let message = format!("{key}.endpoints: {} stands here a second time", endpoint.authority);
            context.problems.error(spot.place, message);
        }
        if endpoints.first().is_some_and(|first| first.tls != endpoint.tls) {
            let message = format!("{key}.endpoints: either all endpoints of an upstream are https:// or none");
            context.problems.error(spot.place, message);
        }
        endpoints.push(endpoint);
    }
    endpoints
}

/// An endpoint from its text; an error says what to write.
fn endpoint(text: &str) -> Result<EndpointConfig, String> {
    let (tls, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some((scheme, _)) => return Err(format!("`{scheme}` is no scheme of an endpoint: use https:// or none")),
        None => (false, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return Err("an endpoint has no path".to_owned());
    }
    let Some((host, port)) = rest.rsplit_once(':').filter(|(host, _)| !host.ends_with(':')) else {
        return Err(format!("add the port: \"{text}:{}\"", if tls { 443 } else { 80 }));
    };
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("the port is a number from 1 to 65535")?;
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    if let Some(inner) = bare {
        inner.parse::<Ipv6Addr>().map_err(|_| "between [ and ] stands an IPv6 address")?;
    } else if host.contains(':') {
        return Err("write an IPv6 address in brackets: \"[::1]:8080\"".to_owned());
    } else if !is_host(host) {
        return Err("a host is a name or an address".to_owned());
    }
    let host = host.to_lowercase();
    Ok(EndpointConfig {
        authority: Arc::from(format!("{host}:{port}")),
        host: bare.map_or(host, str::to_lowercase),
        port,
        tls,
        server_name: None,
    })
}

/// Whether a text can be looked up: labels of letters, digits, hyphens and underscores (names in clusters have them).
pub fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        !label.is_empty() && label.len() <= 63 && inner
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

/// Gives each `https://` endpoint the name that TLS asks for.
fn server_names(key: &str, raw: &raw::Upstream, endpoints: &mut [EndpointConfig], context: &mut Context<'_, '_>) {
    let sni = raw.tls.as_ref().and_then(|tls| tls.value.sni.as_ref());
    if let Some(spot) = &raw.tls
        && !endpoints.is_empty()
        && !endpoints.iter().any(|endpoint| endpoint.tls)
    {
        let message = format!("{key}.tls: has no effect, because no endpoint is https://");
        context.problems.error(spot.place, message);
    }
    let place = sni.map(|sni| sni.place).or(raw.endpoints.as_ref().map(|list| list.place)).unwrap_or_default();
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.tls) {
        let name = sni.map_or(endpoint.host.as_str(), |sni| &sni.value);
        match ServerName::try_from(name.to_owned()) {
            Ok(server_name) => endpoint.server_name = Some(server_name),
            Err(_) => {
                let message = format!("{key}: {} is no name that a certificate can have", quoted(name));
                context.problems.error(place, message).with_help("name one by `tls = { sni = \"...\" }`");
            }
        }
    }
}

fn client(
    key: &str,
    raw: &raw::Upstream,
    http2: bool,
    place: Place,
    context: &mut Context<'_, '_>,
) -> Option<Arc<rustls::ClientConfig>> {
    let default = raw::UpstreamTls::default();
    let (section, place) = raw.tls.as_ref().map_or((&default, place), |tls| (&tls.value, tls.place));
    let key = format!("{key}.tls");
    let ca = match &section.ca {
        Some(ca) => Some(context.file(&format!("{key}.ca"), ca)?),
        None => None,
    };
    let identity = match &section.client_cert {
        Some(files) => {
            let (key, files) = (format!("{key}.client_cert"), &files.value);
            Some(IdentityFiles::read(&key, files.cert.as_ref(), files.key.as_ref(), context)?)
        }
        None => None,
    };
    let protocol = if http2 { Protocol::H2 } else { Protocol::Http1 };
    let ca = ca.as_ref().map(|(path, bytes)| tls::Pem { path, bytes });
    let config = tls::client(ca, identity.as_ref().map(IdentityFiles::identity), protocol.word());
    config.map_err(|reason| context.problems.error(place, format!("{key}: {reason}")).severity).ok()
}

/// Each has gauges and a pool per worker.
const UPSTREAMS_MAX: usize = 256;
/// Each request looks at all of them for the one with the fewest in flight.
const ENDPOINTS_MAX: usize = 256;
/// Open connections of one worker to one upstream.
const MAX_CONNECTIONS: u32 = 1024;
