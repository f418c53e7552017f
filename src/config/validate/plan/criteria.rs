//! The criteria of a plan: read, their names resolved, and judged whether they can ever say anything.

use super::reach;
use crate::config::decode::Spot;
use crate::config::problem::nearest;
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::validate::{Context, names};
use crate::rollout::criterion::{Criterion, Filter, Metric, Origin, Sample, parse};
use crate::rollout::stages::Stage;

/// What a criterion is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To leave a stage: what it can never see keeps the plan for ever.
    Gate,
    /// To be watched: what it can never see makes it quiet for ever.
    Trigger,
}

/// What a criterion can refer to.
pub struct Around<'a> {
    /// The rollout's name.
    pub name: &'a str,
    /// The rollout.
    pub raw: &'a raw::Rollout,
    /// The config.
    pub root: &'a raw::Root,
    /// The stages that end before it is needed.
    pub before: &'a [Stage],
    /// The stages in which it is judged; none where an operator sets the weight, so that anything may come.
    pub judged: Vec<&'a Stage>,
}

/// Reads a criterion. None after a problem with its text.
pub fn read(
    key: &str,
    spot: &Spot<String>,
    around: &Around<'_>,
    used: Use,
    context: &mut Context<'_, '_>,
) -> Option<Criterion> {
    let criterion = match parse(&spot.value) {
        Ok(criterion) => criterion,
        Err(error) => {
            let place = context.problems.source().inside(spot.place, &spot.value, error.at);
            let problem = context.problems.error(place, format!("{key}: {error}"));
            if let Some(suggestion) = &error.suggestion {
                problem.with_help(format!("did you mean `{suggestion}`?"));
            }
            return None;
        }
    };
    for sample in criterion.samples() {
        let place = place_of(spot, sample, context);
        names_exist(key, sample, around, &Spot { value: String::new(), place }, context);
        if let Some(why) = reach::never_known(sample, around, used) {
            let consequence = match (used, sample.origin) {
                (Use::Gate, Origin::Baseline) => "the gate waits for a baseline that is set by hand",
                (Use::Gate, _) => "the gate can never pass",
                (Use::Trigger, _) => "the trigger can never fire",
            };
            let message = format!("{key}: {why}, so {consequence}");
            // A baseline can also be set by hand.
            match used {
                Use::Gate if *sample.origin != Origin::Baseline => context.problems.error(place, message),
                Use::Gate | Use::Trigger => context.problems.warning(place, message),
            };
        }
    }
    if used == Use::Gate
        && let Some((word, why)) = reach::seldom_known(&criterion, around)
    {
        let at = spot.value.find(word).unwrap_or(0);
        let place = context.problems.source().inside(spot.place, &spot.value, at);
        let message = format!("{key}: {why}, so the gate may wait for ever");
        let problem = context.problems.warning(place, message);
        if word == "stable" {
            problem.with_help("compare with `baseline` or `stage(NAME)`");
        }
    }
    if let Some(why) = reach::never_true(&criterion, around) {
        let consequence = if used == Use::Gate { "the gate can never pass" } else { "the trigger can never fire" };
        let limit = spot.value.find(['<', '>']).map_or(0, |at| at + 1);
        let blank = spot.value.get(limit..).map_or(0, |rest| rest.len() - rest.trim_start_matches(['=', ' ']).len());
        let place = context.problems.source().inside(spot.place, &spot.value, limit + blank);
        context.problems.error(place, format!("{key}: {why}: {consequence}"));
    }
    Some(criterion)
}

/// Where a sample's name stands in the criterion, as far as that can be told.
fn place_of(spot: &Spot<String>, sample: Sample<'_>, context: &Context<'_, '_>) -> crate::config::tree::Place {
    let word = match sample.origin {
        Origin::Stage(name) => format!("stage({name})"),
        Origin::Baseline => "baseline".to_owned(),
        Origin::Live => sample.metric.to_string(),
    };
    let at = spot.value.find(&word).unwrap_or(0);
    context.problems.source().inside(spot.place, &spot.value, at)
}

/// Reports names that point nowhere.
fn names_exist(key: &str, sample: Sample<'_>, around: &Around<'_>, spot: &Spot<String>, context: &mut Context<'_, '_>) {
    let root = around.root;
    let mut must = |kind: &str, name: &str, known: Vec<&str>| {
        if !known.contains(&name) {
            names::dangling(key, kind, name, &known, spot.place, context);
        }
    };
    match sample.metric {
        Metric::Signal(name) => {
            must("signal", name, root.signals.iter().flat_map(|map| &map.value).map(|it| it.name.as_str()).collect());
        }
        Metric::Query(name) => {
            must("query", name, root.queries.iter().flat_map(|map| &map.value).map(|it| it.name.as_str()).collect());
        }
        _ => {}
    }
    match sample.filter {
        Some(Filter::Cohort(name)) => {
            let cohorts = around.raw.cohorts.iter().flat_map(|map| &map.value);
            must("cohort", name, cohorts.map(|it| it.name.as_str()).collect());
        }
        Some(Filter::Route(name)) => {
            let known = reach::routes(root);
            must("route", name, known.iter().map(|(name, _)| &**name).collect());
        }
        None => {}
    }
    if let Origin::Stage(name) = sample.origin {
        let stages = around.raw.stages.iter().flat_map(|stages| &stages.value);
        let known: Vec<&str> =
            stages.filter_map(|stage| stage.value.name.as_ref()).map(|name| name.value.as_str()).collect();
        if !known.contains(&&**name) {
            let near = nearest(name, known.iter().copied()).map(|near| format!("did you mean `{near}`?"));
            let problem = context.problems.error(spot.place, format!("{key}: there is no stage {}", quoted(name)));
            if let Some(help) = near {
                problem.with_help(help);
            }
        }
    }
}
