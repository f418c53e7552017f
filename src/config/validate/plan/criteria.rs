//! The criteria of a plan: read, their names resolved, and judged whether they can ever say anything.

use crate::config::decode::Spot;
use crate::config::problem::nearest;
use crate::config::raw;
use crate::config::tree::quoted;
use crate::config::validate::{Context, names};
use crate::rollout::Arm;
use crate::rollout::bucket::Weight;
use crate::rollout::criterion::{Comparison, Criterion, Dimension, Expression, Filter, Metric, Origin, Sample, parse};
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
    /// The rollout.
    pub raw: &'a raw::Rollout,
    /// The config.
    pub root: &'a raw::Root,
    /// The stages that end before it is needed.
    pub before: &'a [Stage],
    /// The stage it is a gate of.
    pub stage: Option<&'a Stage>,
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
        if let Some(why) = never_known(sample, around, used) {
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
    if let Some(why) = never_true(&criterion, around) {
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
            let routes = root.routes.iter().flat_map(|routes| &routes.value);
            let mut known: Vec<&str> =
                routes.filter_map(|route| route.value.name.as_ref()).map(|name| name.value.as_str()).collect();
            if root.routes.as_ref().is_none_or(|routes| routes.value.is_empty()) {
                known.push("default");
            }
            must("route", name, known);
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

/// Why there will never be a value for a sample; none if there can be one.
fn never_known(sample: Sample<'_>, around: &Around<'_>, used: Use) -> Option<String> {
    match sample.origin {
        Origin::Baseline if !around.before.iter().any(|stage| stage.capture_baseline) => {
            let earlier = if used == Use::Gate { "earlier " } else { "" };
            return Some(format!("no {earlier}stage has `capture_baseline = true`"));
        }
        Origin::Stage(name) if !around.before.iter().any(|stage| stage.name == *name) => {
            let known = around.raw.stages.iter().flat_map(|stages| &stages.value);
            let exists = known.filter_map(|stage| stage.value.name.as_ref()).any(|known| *known.value == **name);
            return exists.then(|| format!("stage `{name}` ends no earlier"));
        }
        Origin::Live => {}
        Origin::Baseline | Origin::Stage(_) => return None,
    }
    let shadow = around.raw.shadow.as_ref().map(|shadow| &shadow.value);
    let own_share = shadow.and_then(|shadow| shadow.share.as_ref()).map_or(Weight::ZERO, |share| share.value);
    let mirrors = |stage: &Stage| stage.shadow.unwrap_or(own_share) > Weight::ZERO;
    let somewhere = |holds: &dyn Fn(&Stage) -> bool| match around.stage {
        Some(stage) => holds(stage),
        None => around.before.is_empty() || around.before.iter().any(holds),
    };
    match sample.metric {
        Metric::ShadowErrorRate | Metric::ShadowFirstByte(_) | Metric::ShadowDiffRate
            if !somewhere(&mirrors)
                || (around.before.is_empty() && around.stage.is_none() && own_share == Weight::ZERO) =>
        {
            Some("nothing is mirrored (`shadow`)".to_owned())
        }
        Metric::ShadowDiffRate if shadow.and_then(|shadow| shadow.diff.as_ref()).is_none() => {
            Some("answers are not compared (`shadow.diff`)".to_owned())
        }
        Metric::Vital(..) if !around.root.listeners.iter().flat_map(|list| &list.value).any(has_vitals) => {
            Some("no listener has a `vitals_path`".to_owned())
        }
        Metric::BlockedRate if !responds(around.raw) => Some("no arm answers by itself (`respond`)".to_owned()),
        metric
            if metric.has_parts() && sample.arm == Arm::Canary && !matches!(metric, Metric::Requests | Metric::Rps) =>
        {
            let nobody = |stage: &Stage| stage.weight == Weight::ZERO && stage.cohorts.is_empty();
            let stage = around.stage.filter(|stage| nobody(stage))?;
            Some(format!("nobody is on the canary in stage `{}`", stage.name))
        }
        _ => None,
    }
}

fn has_vitals(listener: &Spot<raw::Listener>) -> bool {
    listener.value.vitals_path.is_some()
}

fn responds(raw: &raw::Rollout) -> bool {
    [&raw.stable, &raw.canary].into_iter().flatten().any(|arm| arm.value.respond.is_some())
}

/// Why a criterion can never hold, whatever is measured; none if it can.
fn never_true(criterion: &Criterion, around: &Around<'_>) -> Option<String> {
    let limit = constant(&criterion.limit)?;
    let metric = &criterion.quantity.metric;
    let most = match metric.dimension() {
        Dimension::Share if matches!(metric, Metric::OwnCpu) => f64::INFINITY,
        Dimension::Share => match (metric, around.stage) {
            // Requests are not units, so some room is left.
            (Metric::Share, Some(stage)) if stage.cohorts.is_empty() && stage.weight == Weight::ZERO => 0.0,
            _ => 1.0,
        },
        Dimension::Any => return None,
        Dimension::Time | Dimension::Size | Dimension::Plain => f64::INFINITY,
    };
    let possible = match criterion.comparison {
        Comparison::Below => limit > 0.0,
        Comparison::AtMost => limit >= 0.0,
        Comparison::Above => limit < most,
        Comparison::AtLeast => limit <= most,
    };
    (!possible).then(|| match criterion.comparison {
        Comparison::Below | Comparison::AtMost => format!("`{metric}` is never below 0"),
        Comparison::Above | Comparison::AtLeast if most == 0.0 => format!("`{metric}` is 0 in a stage of weight 0%"),
        Comparison::Above | Comparison::AtLeast => format!("`{metric}` is never above 100%"),
    })
}

/// The value of an expression of numbers alone.
fn constant(expression: &Expression) -> Option<f64> {
    Some(match expression {
        Expression::Number(number) => number.value(),
        Expression::Reference(_) => return None,
        Expression::Sum(left, right) => constant(left)? + constant(right)?,
        Expression::Difference(left, right) => constant(left)? - constant(right)?,
        Expression::Product(left, right) => constant(left)? * constant(right)?,
    })
}
