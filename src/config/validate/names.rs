//! Names, references, headers and networks: small checks that every section shares.

use super::Context;
use crate::config::decode::{Map, Named, Spot};
use crate::config::problem::did_you_mean;
use crate::config::tree::{Place, quoted};
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use std::net::IpAddr;

/// Reports a name that is none: labels, file names and variables are made of them.
pub fn name(kind: &str, name: &str, place: Place, context: &mut Context<'_, '_>) {
    let letters =
        |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if !name.is_empty() && name.len() <= NAME_BYTES_MAX && letters(name) {
        return;
    }
    let message = format!("{} is no name for {kind}: 1 to {NAME_BYTES_MAX} of a-z, 0-9, _ and -", quoted(name));
    let problem = context.problems.error(place, message);
    let lower = name.to_lowercase().replace([' ', '.'], "-");
    if !lower.is_empty() && lower.len() <= NAME_BYTES_MAX && letters(&lower) {
        problem.with_help(format!("did you mean `{lower}`?"));
    }
}

/// Reports the names of a map that are none.
pub fn names<T>(kind: &str, map: &Map<T>, context: &mut Context<'_, '_>) {
    for entry in map {
        name(kind, &entry.name, entry.place, context);
    }
}

/// The index of the entry that `reference` names; a name that points nowhere is reported.
pub fn find<T>(
    key: &str,
    kind: &str,
    reference: &Spot<String>,
    map: &[Named<T>],
    context: &mut Context<'_, '_>,
) -> Option<usize> {
    let found = map.iter().position(|entry| entry.name == reference.value);
    if found.is_none() {
        let known: Vec<&str> = map.iter().map(|entry| entry.name.as_str()).collect();
        dangling(key, kind, &reference.value, &known, reference.place, context);
    }
    found
}

/// Reports a name that points nowhere.
pub fn dangling(key: &str, kind: &str, name: &str, known: &[&str], place: Place, context: &mut Context<'_, '_>) {
    let problem = context.problems.error(place, format!("{key}: there is no {kind} {}", quoted(name)));
    if let Some(help) = did_you_mean(name, known.iter().copied()) {
        problem.with_help(help);
    }
}

/// Whether an optional text is this one.
pub fn is(spot: &Option<Spot<String>>, text: &str) -> bool {
    spot.as_ref().is_some_and(|spot| spot.value == text)
}

/// Whether this text is in a list.
pub fn among(list: &[Spot<String>], text: &str) -> bool {
    list.iter().any(|spot| spot.value == text)
}

/// Addresses and networks.
pub fn networks(key: &str, list: Option<&Spot<Vec<Spot<String>>>>, context: &mut Context<'_, '_>) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for item in list.iter().flat_map(|list| &list.value) {
        let text = item.value.trim();
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        match network {
            Some(network) => networks.push(network.trunc()),
            None => {
                let message = format!("{key}: {} is no address and no network", quoted(text));
                context
                    .problems
                    .error(item.place, message)
                    .with_help("write \"10.0.0.0/8\", \"192.0.2.7\" or \"fd00::/8\"");
            }
        }
    }
    networks
}

/// The name of a header in lower case. None after a problem.
pub fn header_name(key: &str, text: &str, place: Place, context: &mut Context<'_, '_>) -> Option<HeaderName> {
    let name = HeaderName::from_bytes(text.as_bytes()).ok();
    if name.is_none() {
        context.problems.error(place, format!("{key}: {} is no header name", quoted(text)));
    }
    name
}

/// The name of a header by which requests are told apart. One with `_` would never be seen, because no request keeps it.
pub fn request_header(key: &str, text: &str, place: Place, context: &mut Context<'_, '_>) -> Option<HeaderName> {
    let name = header_name(key, text, place, context)?;
    if name.as_str().contains('_') {
        let message = format!("{key}: no request has a header {}, names with `_` are dropped", quoted(text));
        let help = format!("write \"{}\", and have it sent so", text.replace('_', "-"));
        context.problems.error(place, message).with_help(help);
        return None;
    }
    Some(name)
}

/// The value of a header. None after a problem.
pub fn header_value(key: &str, text: &str, place: Place, context: &mut Context<'_, '_>) -> Option<HeaderValue> {
    let value = HeaderValue::from_str(text.trim()).ok();
    if value.is_none() {
        context.problems.error(place, format!("{key}: {} is no header value", quoted(text)));
    }
    value
}

/// Headers with their values.
pub fn headers(
    key: &str,
    map: Option<&Spot<Map<String>>>,
    context: &mut Context<'_, '_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    if let Some(map) = map {
        super::at_most(key, map.value.len(), HEADERS_MAX, map.place, context);
    }
    for entry in map.iter().flat_map(|map| &map.value).take(HEADERS_MAX) {
        let Some(value) = &entry.value else { continue };
        let name = header_name(key, &entry.name, entry.place, context);
        let value = header_value(key, value, entry.place, context);
        let (Some(name), Some(value)) = (name, value) else { continue };
        if headers.iter().any(|(other, _)| *other == name) {
            context.problems.error(entry.place, format!("{key}: the header `{name}` stands here a second time"));
        }
        headers.push((name, value));
    }
    headers
}

/// Whether a text is a token of RFC 9110, section 5.6.2: what a cookie's name is made of.
pub fn is_token(text: &str) -> bool {
    let marks = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || marks.contains(&byte))
}

/// Whether a text is a path that a request can have: starts with a slash, no query, no spaces.
pub fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#')
}

/// More headers than a request may have.
const HEADERS_MAX: usize = 64;
/// The longest name.
const NAME_BYTES_MAX: usize = 64;
