//! Cohorts: lists, files, opt-in headers and cookies, shares.

use super::hash;
use crate::config::decode::Spot;
use crate::config::model::CohortConfig;
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::validate::{Context, names};
use crate::rollout::bucket::Bucketer;
use crate::rollout::cohort::COHORTS_MAX;
use std::sync::Arc;

/// The cohorts of a rollout, in the order of the file.
pub fn cohorts(key: &str, raw: &raw::Rollout, bucketer: &Bucketer, context: &mut Context<'_, '_>) -> Vec<CohortConfig> {
    let Some(map) = &raw.cohorts else { return Vec::new() };
    names::names("a cohort", &map.value, context);
    super::super::at_most(&format!("{key}.cohorts"), map.value.len(), COHORTS_MAX, map.place, context);
    let empty = raw::Cohort::default();
    let mut cohorts = Vec::with_capacity(map.value.len());
    for entry in map.value.iter().take(COHORTS_MAX) {
        let cohort_key = format!("{key}.cohorts.{}", entry.name);
        let raw = entry.value.as_ref().unwrap_or(&empty);
        cohorts.push(cohort(&cohort_key, &entry.name, raw, bucketer, context));
    }
    cohorts
}

fn cohort(
    key: &str,
    name: &str,
    raw: &raw::Cohort,
    bucketer: &Bucketer,
    context: &mut Context<'_, '_>,
) -> CohortConfig {
    let header = raw.header.as_ref().and_then(|spot| header(key, spot, context));
    CohortConfig {
        name: Arc::from(name),
        enabled: raw.enabled.as_ref().is_none_or(|enabled| enabled.value),
        exclude: raw.exclude.as_ref().is_some_and(|exclude| exclude.value),
        members: context.members(key, raw.users.as_ref(), raw.users_file.as_ref()),
        header,
        cookie: raw.cookie.as_ref().and_then(|spot| cookie(key, spot, context)),
        share: raw.share.as_ref().map(|share| (hash::of_share(bucketer, name), share.value)),
    }
}

/// `x-beta: 1`.
fn header(key: &str, spot: &Spot<String>, context: &mut Context<'_, '_>) -> Option<(Arc<str>, Arc<str>)> {
    let Some((name, value)) = spot.value.split_once(':') else {
        let message = format!("{key}.header: expected a name and a value, found {}", quoted(&spot.value));
        context.problems.error(spot.place, message).with_help("write for example \"x-beta: 1\"");
        return None;
    };
    let key = format!("{key}.header");
    let name = names::request_header(&key, name.trim(), spot.place, context)?;
    let value = names::header_value(&key, value, spot.place, context)?;
    Some((Arc::from(name.as_str()), Arc::from(value.to_str().ok()?)))
}

/// `beta=1`.
fn cookie(key: &str, spot: &Spot<String>, context: &mut Context<'_, '_>) -> Option<(Arc<str>, Arc<str>)> {
    let pair = spot.value.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
    let Some((name, value)) = pair.filter(|(name, _)| names::is_token(name)) else {
        let message = format!("{key}.cookie: expected a name and a value, found {}", quoted(&spot.value));
        context.problems.error(spot.place, message).with_help("write for example \"beta=1\"");
        return None;
    };
    Some((Arc::from(name), Arc::from(value)))
}
