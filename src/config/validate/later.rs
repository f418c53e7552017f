//! Sections that this version does not carry out: their names and references are checked all the same, so that a plan
//! written today is right when it is carried out.

use super::{Context, names, routes};
use crate::config::decode::{Map, Spot};
use crate::config::raw;
use crate::config::tree::{Place, quoted};
use crate::rollout::bucket::Weight;

/// Reports what is wrong with them.
pub fn check(raw: &raw::Root, context: &mut Context<'_, '_>) {
    let rollouts: &Map<raw::Rollout> = match &raw.rollouts {
        Some(rollouts) => &rollouts.value,
        None => &Vec::new(),
    };
    for entry in rollouts {
        let Some(rollout) = &entry.value else { continue };
        let key = format!("rollouts.{}", entry.name);
        stages(&key, rollout, rollouts, context);
        triggers(&key, rollout, rollouts, context);
        shadow(&key, rollout, context);
    }
    if let Some(signals) = &raw.signals {
        names::names("a signal", &signals.value, context);
        for entry in &signals.value {
            let when = entry.value.as_ref().and_then(|signal| signal.when.as_ref());
            let headers = when.and_then(|when| when.value.response_header.as_ref());
            names::headers(&format!("signals.{}.when.response_header", entry.name), headers, context);
        }
    }
    if let Some(queries) = &raw.queries {
        names::names("a query", &queries.value, context);
        for entry in &queries.value {
            url(
                &format!("queries.{}.url", entry.name),
                entry.value.as_ref().and_then(|query| query.url.as_ref()),
                context,
            );
        }
    }
    for (index, notify) in raw.notify.iter().flat_map(|notify| &notify.value).enumerate() {
        url(&format!("notify[{index}].url"), notify.value.url.as_ref(), context);
    }
}

fn stages(key: &str, rollout: &raw::Rollout, rollouts: &Map<raw::Rollout>, context: &mut Context<'_, '_>) {
    let Some(stages) = &rollout.stages else { return };
    let cohorts: Vec<&str> =
        rollout.cohorts.iter().flat_map(|cohorts| &cohorts.value).map(|cohort| cohort.name.as_str()).collect();
    let mut before: Vec<&str> = Vec::new();
    let mut weight = Weight::ZERO;
    super::at_most(&format!("{key}.stages"), stages.value.len(), STAGES_MAX, stages.place, context);
    for (index, spot) in stages.value.iter().enumerate().take(STAGES_MAX) {
        let (stage, key) = (&spot.value, format!("{key}.stages[{index}]"));
        if let Some(name) = &stage.name {
            names::name("a stage", &name.value, name.place, context);
            once(&format!("{key}.name"), "stage", &name.value, &before, name.place, context);
            before.push(&name.value);
        }
        if let Some(spot) = &stage.weight {
            if spot.value < weight {
                context.problems.error(spot.place, format!("{key}.weight: is less than in the stage before"));
            }
            weight = weight.max(spot.value);
        }
        for cohort in stage.cohorts.iter().flat_map(|cohorts| &cohorts.value) {
            if !cohorts.contains(&cohort.value.as_str()) {
                names::dangling(&format!("{key}.cohorts"), "cohort", &cohort.value, &cohorts, cohort.place, context);
            }
        }
        if let (Some(least), Some(most)) = (&stage.min_duration, &stage.max_duration)
            && most.value < least.value
        {
            context.problems.error(most.place, format!("{key}.max_duration: is shorter than `min_duration`"));
        }
        if let Some(after) = &stage.after {
            self::after(&format!("{key}.after"), after, rollouts, context);
        }
    }
}

/// `ROLLOUT:STAGE`.
fn after(key: &str, spot: &Spot<String>, rollouts: &Map<raw::Rollout>, context: &mut Context<'_, '_>) {
    let Some((rollout, stage)) = spot.value.split_once(':') else {
        let message = format!("{key}: expected `ROLLOUT:STAGE`, found {}", quoted(&spot.value));
        context.problems.error(spot.place, message);
        return;
    };
    let reference = Spot { value: rollout.to_owned(), place: spot.place };
    let Some(index) = names::find(key, "rollout", &reference, rollouts, context) else { return };
    let stages = rollouts.get(index).and_then(|entry| entry.value.as_ref()).and_then(|rollout| rollout.stages.as_ref());
    let known: Vec<&str> = stages
        .iter()
        .flat_map(|stages| &stages.value)
        .filter_map(|stage| stage.value.name.as_ref().map(|name| name.value.as_str()))
        .collect();
    if !known.contains(&stage) {
        names::dangling(key, &format!("stage of `{rollout}` named"), stage, &known, spot.place, context);
    }
}

fn triggers(key: &str, rollout: &raw::Rollout, rollouts: &Map<raw::Rollout>, context: &mut Context<'_, '_>) {
    let mut before: Vec<&str> = Vec::new();
    let Some(triggers) = &rollout.triggers else { return };
    super::at_most(&format!("{key}.triggers"), triggers.value.len(), TRIGGERS_MAX, triggers.place, context);
    for (index, spot) in triggers.value.iter().enumerate().take(TRIGGERS_MAX) {
        let (trigger, key) = (&spot.value, format!("{key}.triggers[{index}]"));
        if let Some(name) = &trigger.name {
            names::name("a trigger", &name.value, name.place, context);
            once(&format!("{key}.name"), "trigger", &name.value, &before, name.place, context);
            before.push(&name.value);
        }
        if let Some(other) = &trigger.rollout {
            names::find(&format!("{key}.rollout"), "rollout", other, rollouts, context);
        }
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

fn url(key: &str, spot: Option<&Spot<crate::config::decode::Url>>, context: &mut Context<'_, '_>) {
    let Some(spot) = spot else { return };
    let uri = spot.value.0.parse::<http::Uri>().ok();
    let whole = uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if !whole {
        let message = format!("{key}: expected an address such as \"https://example.com/hook\"");
        context.problems.error(spot.place, message).without_excerpt();
    }
}

fn once(key: &str, kind: &str, name: &str, before: &[&str], place: Place, context: &mut Context<'_, '_>) {
    if before.contains(&name) {
        context.problems.error(place, format!("{key}: another {kind} is `{name}` already"));
    }
}

/// More stages than anyone steps through.
const STAGES_MAX: usize = 64;
/// All of them are evaluated at every tick.
const TRIGGERS_MAX: usize = 64;
