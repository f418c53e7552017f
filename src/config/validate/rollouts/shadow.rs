//! What is mirrored: methods, limits, headers that are kept, and whether there is anything to mirror to.

use crate::config::model::ShadowConfig;
use crate::config::raw;
use crate::config::validate::{Context, names, routes};
use crate::rollout::bucket::Weight;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, Method};
use std::time::Duration;

/// What is mirrored to the canary; none if neither the rollout nor any of its stages speaks of it.
pub fn shadow(key: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> Option<ShadowConfig> {
    answered_by_itself(key, raw, context);
    let by_stages = raw.stages.iter().flat_map(|stages| &stages.value).any(|stage| stage.value.shadow.is_some());
    let default = raw::Shadow::default();
    let section = match &raw.shadow {
        Some(section) => &section.value,
        None if by_stages => &default,
        None => return None,
    };
    let key = format!("{key}.shadow");
    let methods = methods(&key, section, context);
    let keep_headers = keep_headers(&key, section, context);
    let config = ShadowConfig {
        share: section.share.as_ref().map_or(Weight::ZERO, |share| share.value),
        methods,
        max_body: section.max_body.as_ref().map_or(MAX_BODY, |bytes| bytes.value.0),
        max_in_flight: section.max_in_flight.as_ref().map_or(MAX_IN_FLIGHT, |count| count.value),
        timeout: section.timeout.as_ref().map_or(TIMEOUT, |time| time.value),
        max_memory: section.max_memory.as_ref().map_or(MAX_MEMORY, |bytes| bytes.value.0),
        keep_headers,
    };
    limits(&key, section, &config, context);
    Some(config)
}

/// Reports what is to be mirrored to or from an arm that answers by itself.
fn answered_by_itself(key: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) {
    let responds = |arm: &Option<_>| {
        arm.as_ref().is_some_and(|arm: &crate::config::decode::Spot<raw::Arm>| arm.value.respond.is_some())
    };
    let mut places = Vec::new();
    if let Some(section) = &raw.shadow {
        places.push((format!("{key}.shadow"), section.place));
    }
    for (index, stage) in raw.stages.iter().flat_map(|stages| &stages.value).enumerate() {
        if let Some(share) = stage.value.shadow.as_ref().filter(|share| share.value > Weight::ZERO) {
            places.push((format!("{key}.stages[{index}].shadow"), share.place));
        }
    }
    for (key, place) in places {
        if responds(&raw.canary) {
            context.problems.error(place, format!("{key}: a fixed answer cannot be mirrored to"));
        } else if responds(&raw.stable) {
            let message = format!("{key}: nothing is mirrored, because stable answers by itself");
            context.problems.error(place, message);
        }
    }
}

fn methods(key: &str, section: &raw::Shadow, context: &mut Context<'_, '_>) -> Vec<Method> {
    let Some(list) = &section.methods else { return vec![Method::GET, Method::HEAD] };
    if list.value.is_empty() {
        context.problems.error(list.place, format!("{key}.methods: without a method nothing is mirrored"));
    }
    let key = format!("{key}.methods");
    list.value.iter().filter_map(|spot| routes::method(&key, &spot.value, spot.place, context)).collect()
}

/// The headers to keep, of those that would be dropped: any other header is copied anyway.
fn keep_headers(key: &str, section: &raw::Shadow, context: &mut Context<'_, '_>) -> Vec<HeaderName> {
    let key = format!("{key}.keep_headers");
    let mut kept = Vec::new();
    for spot in section.keep_headers.iter().flat_map(|headers| &headers.value) {
        let Some(name) = names::header_name(&key, &spot.value, spot.place, context) else { continue };
        if name != AUTHORIZATION && name != COOKIE {
            let message = format!("{key}: `{name}` is kept anyway: only `authorization` and `cookie` are dropped");
            context.problems.warning(spot.place, message);
        }
        kept.push(name);
    }
    kept
}

fn limits(key: &str, section: &raw::Shadow, config: &ShadowConfig, context: &mut Context<'_, '_>) {
    if let Some(spot) = section.max_in_flight.as_ref().filter(|spot| spot.value == 0) {
        let message = format!("{key}.max_in_flight: expected at least 1, found 0");
        context.problems.error(spot.place, message).with_help("nothing is mirrored with `share = \"0%\"`");
    }
    if let Some(spot) = section.timeout.as_ref().filter(|spot| spot.value.is_zero() || spot.value > TIMEOUT_MAX) {
        context.problems.error(spot.place, format!("{key}.timeout: expected a duration of more than 0s, at most 10m"));
    }
    let place = section.max_body.as_ref().map(|spot| spot.place).or(section.max_memory.as_ref().map(|spot| spot.place));
    if let Some(place) = place.filter(|_| config.max_body >= config.max_memory) {
        let message = format!("{key}: `max_body` leaves no room for a copy in `max_memory`");
        context.problems.error(place, message);
    }
}

const MAX_BODY: u64 = 256 * 1024;
const MAX_IN_FLIGHT: u32 = 64;
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_MEMORY: u64 = 64 * 1024 * 1024;
/// A copy that takes longer says nothing that anybody waits for, and holds a place.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
