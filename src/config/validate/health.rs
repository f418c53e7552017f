//! Health checks of an upstream: what is asked, how often, and how many answers it takes.

use super::Context;
use crate::config::decode::Spot;
use crate::config::model::{HealthCheck, HealthConfig};
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::units::print_span;
use http::uri::PathAndQuery;
use std::time::Duration;

/// The checks of the upstream whose key is `key`; none if what is asked cannot be told.
pub fn health(key: &str, spot: &Spot<raw::Health>, context: &mut Context<'_, '_>) -> Option<HealthConfig> {
    let key = format!("{key}.health");
    let raw = &spot.value;
    let mut span = |name: &str, spot: &Option<Spot<Duration>>, default: Duration, bounds: [Duration; 2]| {
        let Some(spot) = spot else { return default };
        let [least, most] = bounds;
        if spot.value < least || spot.value > most {
            let (least, most) = (print_span(least), print_span(most));
            let message = format!("{key}.{name}: expected a duration from {least} to {most}");
            context.problems.error(spot.place, message);
        }
        spot.value
    };
    let interval = span("interval", &raw.interval, INTERVAL, [INTERVAL_MIN, INTERVAL_MAX]);
    let timeout = span("timeout", &raw.timeout, TIMEOUT, [TIMEOUT_MIN, TIMEOUT_MAX]);
    let mut count = |name: &str, spot: &Option<Spot<u32>>, default: u32| {
        let Some(spot) = spot else { return default };
        if spot.value == 0 || spot.value > IN_A_ROW_MAX {
            let message = format!("{key}.{name}: expected 1 to {IN_A_ROW_MAX}, found {}", spot.value);
            context.problems.error(spot.place, message);
        }
        spot.value
    };
    let unhealthy_after = count("unhealthy_after", &raw.unhealthy_after, UNHEALTHY_AFTER);
    let healthy_after = count("healthy_after", &raw.healthy_after, HEALTHY_AFTER);
    let check = check(&key, spot, context)?;
    Some(HealthConfig { check, interval, timeout, unhealthy_after, healthy_after })
}

fn check(key: &str, spot: &Spot<raw::Health>, context: &mut Context<'_, '_>) -> Option<HealthCheck> {
    let tcp = spot.value.tcp.as_ref().is_some_and(|tcp| tcp.value);
    let path = match (&spot.value.path, tcp) {
        (None, true) => return Some(HealthCheck::Tcp),
        (Some(path), false) => path,
        _ => {
            if !context.unread {
                context.problems.error(spot.place, format!("{key}: expected either `path` or `tcp = true`"));
            }
            return None;
        }
    };
    // What follows `#` would be dropped in silence.
    let parsed = Some(path.value.as_str()).filter(|text| text.starts_with('/') && !text.contains('#'));
    let parsed = parsed.and_then(|text| text.parse::<PathAndQuery>().ok());
    if parsed.is_none() {
        let message = format!("{key}.path: expected a path such as \"/healthz\", found {}", quoted(&path.value));
        context.problems.error(path.place, message);
    }
    parsed.map(HealthCheck::Path)
}

/// The default of `interval`.
const INTERVAL: Duration = Duration::from_secs(5);
/// More often would be load, not a check.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Less often would tell nothing about the present.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// The default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Below the resolution of a timer a timeout means nothing.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Checks that hang take the places of others.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The default of `unhealthy_after`.
const UNHEALTHY_AFTER: u32 = 3;
/// The default of `healthy_after`.
const HEALTHY_AFTER: u32 = 2;
/// More would take hours at the usual interval.
const IN_A_ROW_MAX: u32 = 1000;
