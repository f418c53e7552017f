//! How answers are compared: shares, tolerances, and places that are named rightly.

use crate::config::decode::Spot;
use crate::config::model::DiffConfig;
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::validate::Context;
use crate::rollout::bucket::{Bucketer, Weight};
use crate::rollout::diff::Rules;
use crate::rollout::diff::ignore::Ignore;
use std::sync::Arc;

/// How the answers to copies are compared; none if they are not.
pub fn diff(key: &str, raw: &raw::Rollout, bucketer: &Bucketer, context: &mut Context<'_, '_>) -> Option<DiffConfig> {
    let section = &raw.shadow.as_ref()?.value.diff.as_ref()?.value;
    let key = format!("{key}.shadow.diff");
    let tolerance = number(&format!("{key}.tolerance"), section.tolerance.as_ref(), 2.0, context);
    let absolute = number(&format!("{key}.absolute_tolerance"), section.absolute_tolerance.as_ref(), f64::MAX, context);
    let max_body = section.max_body.as_ref().map_or(MAX_BODY, |bytes| bytes.value.0);
    if let Some(spot) = section.max_body.as_ref().filter(|_| !(1..=MAX_BODY_MAX).contains(&max_body)) {
        let message = format!("{key}.max_body: expected a size of more than 0, at most {} MiB", MAX_BODY_MAX >> 20);
        context.problems.error(spot.place, message);
    }
    let share = |spot: &Option<Spot<Weight>>, default| spot.as_ref().map_or(default, |spot| spot.value);
    let rules = Rules {
        tolerance,
        absolute,
        max_diff_rate: section
            .max_diff_rate
            .as_ref()
            .map_or(tolerance.min(1.0), |rate| f64::from(rate.value.ppm()) / 1e6),
        ignore: places(&format!("{key}.ignore"), section.ignore.as_ref(), context),
        redact: places(&format!("{key}.redact"), section.redact.as_ref(), context),
        array_order: section.array_order.as_ref().is_none_or(|spot| spot.value),
        added_fields: section.added_fields.as_ref().is_none_or(|spot| spot.value),
        max_body: usize::try_from(max_body).unwrap_or(usize::MAX),
    };
    let ten_percent = Weight::from_percent(10).unwrap_or(Weight::FULL);
    Some(DiffConfig {
        rules: Arc::new(rules),
        share: (bucketer.diff_share(), share(&section.share, ten_percent)),
        noise: (bucketer.noise_share(), share(&section.noise, Weight::ZERO)),
    })
}

fn number(key: &str, spot: Option<&Spot<f64>>, most: f64, context: &mut Context<'_, '_>) -> f64 {
    let Some(spot) = spot else { return 0.0 };
    if (0.0..=most).contains(&spot.value) {
        return spot.value;
    }
    let upper = if most == f64::MAX { String::new() } else { format!(" to {most}") };
    context.problems.error(spot.place, format!("{key}: expected a number from 0{upper}, found {}", spot.value));
    0.0
}

fn places(key: &str, list: Option<&Spot<Vec<Spot<String>>>>, context: &mut Context<'_, '_>) -> Vec<Ignore> {
    let Some(list) = list else { return Vec::new() };
    if list.value.len() > PLACES_MAX {
        context.problems.error(list.place, format!("{key}: more than {PLACES_MAX} places"));
    }
    let mut places = Vec::new();
    for spot in list.value.iter().take(PLACES_MAX) {
        match Ignore::parse(&spot.value) {
            Ok(place) => places.push(place),
            Err(error) => drop(context.problems.error(spot.place, format!("{key}: {} {error}", quoted(&spot.value)))),
        }
    }
    places
}

const MAX_BODY: u64 = 256 * 1024;
/// A pair waits for its comparison with both bodies in memory, and 32 MiB of them is all that may wait.
const MAX_BODY_MAX: u64 = 8 * 1024 * 1024;
/// Every value is looked up among them.
const PLACES_MAX: usize = 64;
