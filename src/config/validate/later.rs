//! The section that this version does not carry out: its names and references are checked all the same, so that a shadow
//! written today is right when it is carried out.

use super::{Context, names, routes};
use crate::config::decode::Map;
use crate::config::raw;

/// Reports what is wrong with them.
pub fn check(raw: &raw::Root, context: &mut Context<'_, '_>) {
    let rollouts: &Map<raw::Rollout> = match &raw.rollouts {
        Some(rollouts) => &rollouts.value,
        None => &Vec::new(),
    };
    for entry in rollouts {
        let Some(rollout) = &entry.value else { continue };
        let key = format!("rollouts.{}", entry.name);
        shadow(&key, rollout, context);
    }
}

fn shadow(key: &str, rollout: &raw::Rollout, context: &mut Context<'_, '_>) {
    let Some(shadow) = &rollout.shadow else { return };
    let canary = rollout.canary.as_ref().and_then(|canary| canary.value.respond.as_ref());
    if canary.is_some() {
        context.problems.error(shadow.place, format!("{key}.shadow: a fixed answer cannot be mirrored to"));
    }
    for spot in shadow.value.methods.iter().flat_map(|methods| &methods.value) {
        routes::method(&format!("{key}.shadow.methods"), &spot.value, spot.place, context);
    }
    for spot in shadow.value.keep_headers.iter().flat_map(|headers| &headers.value) {
        names::header_name(&format!("{key}.shadow.keep_headers"), &spot.value, spot.place, context);
    }
}
