//! Where the arms lead, and which headers they set and remove.

use crate::config::decode::{Map, Named, Spot};
use crate::config::model::{ArmConfig, ArmTo};
use crate::config::raw;
use crate::config::validate::{Context, names};
use crate::rollout::Arm;
use crate::snapshot::FixedAnswer;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use std::sync::Arc;

/// Both arms, by arm index.
pub fn arms(
    key: &str,
    entry: &Named<raw::Rollout>,
    raw: &raw::Rollout,
    root: &raw::Root,
    context: &mut Context<'_, '_>,
) -> [ArmConfig; 2] {
    let default = raw::Arm::default();
    let arms = [(Arm::Stable, &raw.stable), (Arm::Canary, &raw.canary)].map(|(arm, spot)| {
        let raw = spot.as_ref().map_or(&default, |arm| &arm.value);
        self::arm(&format!("{key}.{arm}"), raw, root, context)
    });
    let [stable, canary] = &arms;
    if alike(stable, canary) && !context.unread {
        let message =
            format!("`{key}` has two arms that do the same: only the `x-weir-rollout` header tells them apart");
        context.problems.warning(entry.place, message);
    }
    arms
}

fn arm(key: &str, raw: &raw::Arm, root: &raw::Root, context: &mut Context<'_, '_>) -> ArmConfig {
    let upstreams = root.upstreams.as_ref().map(|map| map.value.as_slice()).unwrap_or_default();
    let set_headers = passed_on(&format!("{key}.set_headers"), raw.set_headers.as_ref(), context);
    let remove_headers = removed(&format!("{key}.remove_headers"), raw, context);
    let to = match (&raw.upstream, &raw.respond) {
        (Some(_), Some(respond)) => {
            let message = format!("{key}: an arm has an `upstream` or a `respond`, not both");
            context.problems.error(respond.place, message);
            ArmTo::Upstream(0)
        }
        // A name that points nowhere has been reported; the index is not used then.
        (Some(reference), None) => {
            let index = names::find(&format!("{key}.upstream"), "upstream", reference, upstreams, context);
            ArmTo::Upstream(index.unwrap_or_default())
        }
        (None, Some(respond)) => {
            let places =
                [raw.set_headers.as_ref().map(|map| map.place), raw.remove_headers.as_ref().map(|list| list.place)];
            for place in places.into_iter().flatten() {
                let message = format!("{key}: a fixed answer sends no request whose headers could be changed");
                context.problems.error(place, message).with_help("headers of the answer go into respond.headers");
            }
            ArmTo::Respond(Arc::new(answer(&format!("{key}.respond"), respond, context)))
        }
        (None, None) => ArmTo::Route,
    };
    ArmConfig { to, set_headers, remove_headers }
}

fn answer(key: &str, spot: &Spot<raw::Respond>, context: &mut Context<'_, '_>) -> FixedAnswer {
    let raw = &spot.value;
    let status = raw.status.as_ref().and_then(|status| {
        let code = u16::try_from(status.value).ok().filter(|code| (200..=599).contains(code));
        let code = code.and_then(|code| StatusCode::from_u16(code).ok());
        if code.is_none() {
            let message = format!("{key}.status: expected 200 to 599, found {}", status.value);
            context.problems.error(status.place, message);
        }
        code
    });
    let status = status.unwrap_or(StatusCode::OK);
    let body = raw.body.as_ref().map_or("", |body| body.value.as_str());
    if let Some(spot) = &raw.body {
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        if bodiless && !body.is_empty() {
            context.problems.error(spot.place, format!("{key}.body: an answer with status {status} has no body"));
        }
        if body.len() > BODY_BYTES_MAX {
            context.problems.error(spot.place, format!("{key}.body: is longer than 64 KiB"));
        }
    }
    let header_key = format!("{key}.headers");
    let mut headers = names::headers(&header_key, raw.headers.as_ref(), context);
    for (name, _) in &headers {
        if is_hop_by_hop(name) || *name == CONTENT_LENGTH {
            let place = raw.headers.as_ref().map_or(spot.place, |headers| headers.place);
            context.problems.error(place, format!("{header_key}: `{name}` is set by weir itself"));
        }
    }
    if !body.is_empty() && !headers.iter().any(|(name, _)| *name == CONTENT_TYPE) {
        headers.push((CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")));
    }
    FixedAnswer { status, headers, body: Bytes::copy_from_slice(body.as_bytes()) }
}

/// Headers that an arm sets on requests.
fn passed_on(
    key: &str,
    map: Option<&Spot<Map<String>>>,
    context: &mut Context<'_, '_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let headers = names::headers(key, map, context);
    for entry in map.iter().flat_map(|map| &map.value) {
        if let Ok(name) = HeaderName::from_bytes(entry.name.as_bytes()) {
            reserved(key, &name, entry.place, context);
        }
    }
    headers
}

fn removed(key: &str, raw: &raw::Arm, context: &mut Context<'_, '_>) -> Vec<HeaderName> {
    let mut removed = Vec::new();
    for spot in raw.remove_headers.iter().flat_map(|list| &list.value) {
        if let Some(name) = names::header_name(key, &spot.value, spot.place, context) {
            reserved(key, &name, spot.place, context);
            removed.push(name);
        }
    }
    removed
}

/// Reports headers that frame the message or carry weir's own word.
fn reserved(key: &str, name: &HeaderName, place: crate::config::tree::Place, context: &mut Context<'_, '_>) {
    let own = name.as_str().starts_with("x-weir-");
    if own || is_hop_by_hop(name) || *name == CONTENT_LENGTH || *name == http::header::HOST {
        context.problems.error(place, format!("{key}: `{name}` is set by weir itself"));
    }
}

/// RFC 9110, section 7.6.1, and what older software treats alike.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    let names = ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
    names.contains(&name.as_str())
}

fn alike(stable: &ArmConfig, canary: &ArmConfig) -> bool {
    let to = match (&stable.to, &canary.to) {
        (ArmTo::Route, ArmTo::Route) => true,
        (ArmTo::Upstream(one), ArmTo::Upstream(other)) => one == other,
        _ => false,
    };
    to && stable.set_headers == canary.set_headers && stable.remove_headers == canary.remove_headers
}

/// The body is copied into every snapshot's memory and printed by nobody.
const BODY_BYTES_MAX: usize = 64 * 1024;
