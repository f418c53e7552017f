//! Rollouts: who is asked for, how units are hashed, where the arms lead, and cohorts.

mod arms;
mod breaker;
mod cohorts;
mod diff;
mod hash;
mod shadow;
mod units;

pub use breaker::timeouts;
pub use hash::siphash_key;

use super::{Context, names, plan};
use crate::config::decode::{Named, Spot};
use crate::config::model::RolloutConfig;
use crate::config::problem::nearest;
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::units::{print_share, print_span};
use crate::rollout::bucket::{Bucketer, Weight};
use crate::rollout::outcome::ErrorRules;
use crate::rollout::plan::{CohortPlan, Plan};
use std::sync::Arc;
use std::time::Duration;

/// All rollouts, in the order of the file; the index of a name is its index in the raw map.
pub fn rollouts(raw: &raw::Root, context: &mut Context<'_, '_>) -> Vec<RolloutConfig> {
    let Some(map) = &raw.rollouts else { return Vec::new() };
    names::names("a rollout", &map.value, context);
    super::at_most("rollouts", map.value.len(), ROLLOUTS_MAX, map.place, context);
    let kill_all = raw.kill.as_ref().and_then(|kill| kill.value.all.as_ref()).is_some_and(|all| all.value);
    let empty = raw::Rollout::default();
    let mut rollouts = Vec::with_capacity(map.value.len());
    for entry in map.value.iter().take(ROLLOUTS_MAX) {
        let value = entry.value.as_ref().unwrap_or(&empty);
        let mut rollout = rollout(entry, value, raw, context);
        rollout.plan.killed |= kill_all;
        rollouts.push(rollout);
    }
    circles(&map.value, &rollouts, context);
    plan::circles(&map.value, &rollouts, context);
    rollouts
}

fn rollout(
    entry: &Named<raw::Rollout>,
    raw: &raw::Rollout,
    root: &raw::Root,
    context: &mut Context<'_, '_>,
) -> RolloutConfig {
    let key = format!("rollouts.{}", entry.name);
    let bucketer = hash::bucketer(&key, &entry.name, raw, context);
    let others = root.rollouts.iter().flat_map(|map| &map.value).map(|other| other.name.as_str());
    let meant = || nearest(&entry.name, others.filter(|other| *other != entry.name));
    let units = units::units(&key, entry, raw, meant, context);
    let arms = arms::arms(&key, entry, raw, root, context);
    let cohorts = cohorts::cohorts(&key, raw, &bucketer, context);
    let (breaker, fallback) = breaker::breaker(&key, raw, &arms, context);
    let stages = plan::stages(&key, &entry.name, raw, root, context);
    let staged = !stages.list.is_empty();
    let usual = if staged { Weight::FULL } else { Weight::ZERO };
    let weight = raw.weight.as_ref().map_or(usual, |weight| weight.value);
    if let Some(spot) = &raw.weight {
        exact(&format!("{key}.weight"), spot, &bucketer, raw, context);
    }
    for (index, stage) in raw.stages.iter().flat_map(|stages| &stages.value).enumerate() {
        if let Some(spot) = &stage.value.weight {
            exact(&format!("{key}.stages[{index}].weight"), spot, &bucketer, raw, context);
        }
    }
    let diff = diff::diff(&key, raw, &bucketer, context);
    let known = root.rollouts.as_ref().map(|map| map.value.as_slice()).unwrap_or_default();
    let requires = raw.requires.as_ref();
    let is = |spot: &Option<Spot<bool>>, usual: bool| spot.as_ref().map_or(usual, |spot| spot.value);
    RolloutConfig {
        requires: requires.and_then(|other| names::find(&format!("{key}.requires"), "rollout", other, known, context)),
        plan: Plan {
            name: Arc::from(entry.name.as_str()),
            weight,
            killed: is(&raw.kill, false),
            enabled: is(&raw.enabled, true),
            cohorts: cohorts.iter().map(cohort_plan).collect(),
            stages,
            breaker,
        },
        assign_cookie: raw.assign_cookie.as_ref().map(|cookie| Arc::from(cookie.value.as_str())),
        expose_arm: is(&raw.expose_arm, false),
        unit_texts: raw.unit.iter().flat_map(|list| &list.value).map(|unit| unit.value.clone()).collect(),
        units,
        bucketer,
        arms,
        cohorts,
        errors: errors(&key, raw, context),
        fallback,
        fallback_by_key: breaker::by_key(raw),
        close_streams: close_streams(&key, raw, context),
        shadow: shadow::shadow(&key, raw, context),
        diff,
    }
}

/// The time within which the canary's long streams end when it has lost its share.
fn close_streams(key: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> Option<Duration> {
    let spot = raw.breaker.as_ref()?.value.close_streams.as_ref()?;
    let raw::CloseStreams::Within(time) = spot.value else { return None };
    if !(CLOSE_STREAMS_MIN..=CLOSE_STREAMS_MAX).contains(&time) {
        let message = format!(
            "{key}.breaker.close_streams: expected \"leave\" or a duration from {} to {}, found {}",
            print_span(CLOSE_STREAMS_MIN),
            print_span(CLOSE_STREAMS_MAX),
            print_span(time)
        );
        context.problems.error(spot.place, message);
    }
    Some(time)
}

fn cohort_plan(cohort: &crate::config::model::CohortConfig) -> CohortPlan {
    CohortPlan {
        name: Arc::clone(&cohort.name),
        enabled: cohort.enabled,
        exclude: cohort.exclude,
        listed: cohort.members.count,
    }
}

/// Reports a weight that the hash scheme can only round.
fn exact(key: &str, spot: &Spot<Weight>, bucketer: &Bucketer, raw: &raw::Rollout, context: &mut Context<'_, '_>) {
    let (step, ppm) = (bucketer.step_ppm().max(1), spot.value.ppm());
    if ppm % step == 0 {
        return;
    }
    let below = ppm - ppm % step;
    let share = |ppm| print_share(Weight::from_ppm(ppm).unwrap_or(Weight::FULL));
    let hash = raw.hash.as_ref().map_or("murmur3", |hash| hash.value.word());
    let message =
        format!("{key}: `{hash}` divides units in steps of {}, so {} would be rounded", share(step), share(ppm));
    context.problems.error(spot.place, message).with_help(format!(
        "write \"{}\" or \"{}\"",
        share(below),
        share(below + step)
    ));
}

/// Reports rollouts that require each other in a circle: nobody could ever be on their canaries.
fn circles(entries: &[Named<raw::Rollout>], rollouts: &[RolloutConfig], context: &mut Context<'_, '_>) {
    for (start, entry) in entries.iter().enumerate().take(rollouts.len()) {
        let mut chain = vec![start];
        let mut next = rollouts.get(start).and_then(|rollout| rollout.requires);
        while let Some(index) = next.filter(|index| !chain.contains(index)) {
            chain.push(index);
            next = rollouts.get(index).and_then(|rollout| rollout.requires);
        }
        // Each circle is reported once, at its first rollout.
        if next == Some(start) && chain.iter().min() == Some(&start) {
            let names: Vec<&str> = chain
                .iter()
                .chain([&start])
                .filter_map(|index| entries.get(*index))
                .map(|entry| entry.name.as_str())
                .collect();
            let requires = entry.value.as_ref().and_then(|rollout| rollout.requires.as_ref());
            let place = requires.map_or(entry.place, |requires| requires.place);
            let message = format!("rollouts.{}.requires: goes in a circle: {}", entry.name, names.join(" -> "));
            context.problems.error(place, message);
        }
    }
}

fn errors(key: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> ErrorRules {
    let mut rules = ErrorRules::default();
    let Some(errors) = raw.errors.as_ref().map(|errors| &errors.value) else { return rules };
    if let Some(grpc) = &errors.grpc {
        rules.grpc = grpc.value;
    }
    let Some(statuses) = &errors.statuses else { return rules };
    rules.statuses = Vec::new();
    for spot in &statuses.value {
        match status_range(&spot.value) {
            Some(range) => rules.statuses.push(range),
            None => {
                let message = format!("{key}.errors.statuses: {} is no status", quoted(&spot.value));
                context.problems.error(spot.place, message).with_help("write \"5xx\", \"429\" or \"500-504\"");
            }
        }
    }
    rules
}

/// `5xx`, `429` or `500-504`.
pub fn status_range(text: &str) -> Option<(u16, u16)> {
    let single = |text: &str| text.parse::<u16>().ok().filter(|status| text.len() == 3 && (100..=599).contains(status));
    if let Some(class) = text.strip_suffix("xx") {
        let class = class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    match text.split_once('-') {
        Some((low, high)) => Some((single(low)?, single(high)?)).filter(|(low, high)| low <= high),
        None => single(text).map(|status| (status, status)),
    }
}

/// Each has counts per worker and route, and a snapshot walks them.
const ROLLOUTS_MAX: usize = 1_000;
/// What takes less than this is an ordinary answer.
const CLOSE_STREAMS_MIN: Duration = Duration::from_secs(1);
/// Longer is hardly different from leaving them.
const CLOSE_STREAMS_MAX: Duration = Duration::from_secs(3600);
