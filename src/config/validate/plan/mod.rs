//! The plan of a rollout: stages and triggers, their criteria read, their references resolved, and everything reported that
//! could never work: stages that fall, gates that can never pass, triggers that can never hold long enough.

mod circles;
mod criteria;
mod reach;

pub use circles::circles;

use super::{Context, names};
use crate::config::decode::{Map, Spot};
use crate::config::raw;
use crate::config::tree::{Place, quoted};
use crate::config::units::print_span;
use crate::rollout::Arm;
use crate::rollout::bucket::Weight;
use crate::rollout::scale::TimeScale;
use crate::rollout::stages::{Action, After, Gate, Span, Stage, Stages, Trigger};
use criteria::{Around, Use};
use std::sync::Arc;
use std::time::Duration;

/// The stages and triggers of one rollout.
pub fn stages(key: &str, name: &str, raw: &raw::Rollout, root: &raw::Root, context: &mut Context<'_, '_>) -> Stages {
    let mut plan = Stages {
        list: Vec::new(),
        triggers: Vec::new(),
        autostart: raw.autostart.as_ref().is_none_or(|autostart| autostart.value),
        scale: TimeScale::default(),
    };
    if let Some(list) = &raw.stages {
        super::at_most(&format!("{key}.stages"), list.value.len(), STAGES_MAX, list.place, context);
        for (index, spot) in list.value.iter().enumerate().take(STAGES_MAX) {
            let at = At { key: &format!("{key}.stages[{index}]"), rollout: name, raw, root };
            let before = list.value.iter().take(index).map(|stage| &stage.value.name);
            once(before, &spot.value.name, &format!("{}.name", at.key), "stage", context);
            if let Some(stage) = stage(&at, spot, &plan.list, context) {
                plan.list.push(stage);
            }
        }
    }
    if let Some(list) = &raw.triggers {
        super::at_most(&format!("{key}.triggers"), list.value.len(), TRIGGERS_MAX, list.place, context);
        for (index, spot) in list.value.iter().enumerate().take(TRIGGERS_MAX) {
            let at = At { key: &format!("{key}.triggers[{index}]"), rollout: name, raw, root };
            let before = list.value.iter().take(index).map(|trigger| &trigger.value.name);
            once(before, &spot.value.name, &format!("{}.name", at.key), "trigger", context);
            if let Some(trigger) = trigger(&at, spot, &plan, context) {
                plan.triggers.push(trigger);
            }
        }
    }
    plan
}

/// Where something of a plan stands.
struct At<'a> {
    key: &'a str,
    rollout: &'a str,
    raw: &'a raw::Rollout,
    root: &'a raw::Root,
}

impl At<'_> {
    fn excludes(&self, cohort: &str) -> bool {
        let mut cohorts = self.raw.cohorts.iter().flat_map(|cohorts| &cohorts.value);
        let named = cohorts.find(|entry| entry.name == cohort).and_then(|entry| entry.value.as_ref());
        named.and_then(|named| named.exclude.as_ref()).is_some_and(|exclude| exclude.value)
    }

    fn cohorts(&self) -> Vec<&str> {
        self.raw.cohorts.iter().flat_map(|cohorts| &cohorts.value).map(|cohort| cohort.name.as_str()).collect()
    }
}

fn stage(at: &At<'_>, spot: &Spot<raw::Stage>, before: &[Stage], context: &mut Context<'_, '_>) -> Option<Stage> {
    let (raw, key) = (&spot.value, at.key);
    if let Some(name) = &raw.name {
        names::name("a stage", &name.value, name.place, context);
    }
    if let (Some(weight), Some(last)) = (&raw.weight, before.last())
        && weight.value < last.weight
    {
        let message = format!("{key}.weight: is less than the {} of the stage before, `{}`", last.weight, last.name);
        context.problems.error(weight.place, message).with_help("a plan goes forwards; triggers take it back");
    }
    let cohorts = cohorts(at, raw, context);
    let min_duration = raw.min_duration.as_ref().map_or(Duration::ZERO, |spot| spot.value);
    let max_duration = raw.max_duration.as_ref().map(|spot| spot.value);
    if let Some(most) = raw.max_duration.as_ref().filter(|most| most.value < min_duration) {
        context.problems.error(most.place, format!("{key}.max_duration: is shorter than `min_duration`"));
    }
    let after = raw.after.as_ref().and_then(|after| self::after(at, after, context));
    let mut stage = Stage {
        name: raw.name.as_ref().map_or("", |name| &name.value).into(),
        // A stage without a readable weight goes no further than here; nothing must follow from what it is not.
        weight: raw.weight.as_ref().map_or(UNREADABLE, |weight| weight.value),
        shadow: raw.shadow.as_ref().map(|shadow| shadow.value),
        min_duration,
        max_duration,
        cohorts,
        after,
        gates: Vec::new(),
        approval: raw.approval.as_ref().is_some_and(|approval| approval.value),
        capture_baseline: raw.capture_baseline.as_ref().is_some_and(|capture| capture.value),
    };
    let gates = raw.gates.iter().flat_map(|gates| &gates.value).enumerate();
    let around = Around { name: at.rollout, raw: at.raw, root: at.root, before, judged: vec![&stage] };
    let gates = gates.filter_map(|(index, gate)| self::gate(&format!("{key}.gates[{index}]"), gate, &around, context));
    stage.gates = gates.collect();
    (raw.name.is_some() && raw.weight.is_some()).then_some(stage)
}

fn cohorts(at: &At<'_>, raw: &raw::Stage, context: &mut Context<'_, '_>) -> Vec<Arc<str>> {
    let known = at.cohorts();
    let mut named = Vec::new();
    for cohort in raw.cohorts.iter().flat_map(|cohorts| &cohorts.value) {
        if known.contains(&cohort.value.as_str()) {
            if at.excludes(&cohort.value) {
                let message = format!("{}.cohorts: `{}` keeps its members off the canary", at.key, cohort.value);
                context.problems.error(cohort.place, message).with_help("`exclude = true` needs no stage");
            }
        } else {
            let key = format!("{}.cohorts", at.key);
            names::dangling(&key, "cohort", &cohort.value, &known, cohort.place, context);
        }
        // Also one that does not exist: its mistake is reported, and what would follow from that is none of its own.
        named.push(cohort.value.as_str().into());
    }
    named
}

/// `ROLLOUT:STAGE`.
fn after(at: &At<'_>, spot: &Spot<String>, context: &mut Context<'_, '_>) -> Option<After> {
    let key = format!("{}.after", at.key);
    let Some((rollout, stage)) = spot.value.split_once(':') else {
        let message = format!("{key}: expected `ROLLOUT:STAGE`, found {}", quoted(&spot.value));
        context.problems.error(spot.place, message);
        return None;
    };
    let none: &Map<raw::Rollout> = &Vec::new();
    let rollouts = at.root.rollouts.as_ref().map_or(none, |rollouts| &rollouts.value);
    let reference =
        Spot { value: rollout.to_owned(), place: context.problems.source().inside(spot.place, &spot.value, 0) };
    let index = names::find(&key, "rollout", &reference, rollouts, context)?;
    let other = rollouts.get(index).and_then(|entry| entry.value.as_ref());
    let stages = other.into_iter().flat_map(|other| &other.stages).flat_map(|stages| &stages.value);
    let known: Vec<&str> =
        stages.filter_map(|stage| stage.value.name.as_ref()).map(|name| name.value.as_str()).collect();
    if !known.contains(&stage) {
        let place = context.problems.source().inside(spot.place, &spot.value, rollout.len() + 1);
        names::dangling(&key, &format!("stage of `{rollout}` named"), stage, &known, place, context);
        return None;
    }
    Some(After { rollout: rollout.into(), stage: stage.into() })
}

fn gate(key: &str, spot: &Spot<raw::Gate>, around: &Around<'_>, context: &mut Context<'_, '_>) -> Option<Gate> {
    let usual = |text: &Spot<String>, context: &mut Context<'_, '_>| {
        criteria::read(key, text, around, Use::Gate, context).map(|criterion| Gate {
            criterion,
            span: Span::Stage,
            min_requests: Gate::MIN_REQUESTS,
        })
    };
    let options = match &spot.value {
        raw::Gate::Text(text) => return usual(&Spot { value: text.clone(), place: spot.place }, context),
        raw::Gate::Options(options) => options,
    };
    let mut gate = usual(options.when.as_ref()?, context)?;
    if let Some(window) = &options.window {
        gate.span = match window.value {
            raw::GateWindow::Stage => Span::Stage,
            raw::GateWindow::Last(last) => Span::Last(window_of(key, last, window.place, context)),
        };
    }
    if let Some(requests) = &options.min_requests {
        gate.min_requests = requests_of(key, requests, context);
    }
    Some(gate)
}

fn trigger(at: &At<'_>, spot: &Spot<raw::Trigger>, plan: &Stages, context: &mut Context<'_, '_>) -> Option<Trigger> {
    let (raw, key) = (&spot.value, at.key);
    if let Some(name) = &raw.name {
        names::name("a trigger", &name.value, name.place, context);
    }
    let none: &Map<raw::Rollout> = &Vec::new();
    let rollouts = at.root.rollouts.as_ref().map_or(none, |rollouts| &rollouts.value);
    let rollout = raw.rollout.as_ref().filter(|other| other.value != at.rollout);
    if let Some(other) = rollout {
        names::find(&format!("{key}.rollout"), "rollout", other, rollouts, context);
    }
    let held_for = raw.r#for.as_ref().map_or(Duration::ZERO, |spot| spot.value);
    let stages = watched(at, raw, context);
    if let (Some(spot), Some(longest)) = (&raw.r#for, longest(plan, &stages))
        && held_for > longest
    {
        let message = format!(
            "{key}.for: no stage lasts longer than {}, so it can never have held for {}",
            print_span(longest),
            print_span(held_for)
        );
        context.problems.error(spot.place, message);
    }
    let is_watched = |stage: &&Stage| stages.is_empty() || stages.contains(&stage.name);
    let judged = plan.list.iter().filter(is_watched).collect();
    let around = Around { name: at.rollout, raw: at.raw, root: at.root, before: &plan.list, judged };
    let criterion = criteria::read(key, raw.when.as_ref()?, &around, Use::Trigger, context);
    let spares_both = raw.both_arms.as_ref().filter(|both| both.value == raw::BothArms::Alert);
    if let (Some(both), Some(of)) = (spares_both, &criterion)
        && of.quantity.arm == Arm::Stable
    {
        let message =
            format!("{key}.both_arms: the criterion is about stable, which would always spare it: it can never fire");
        context.problems.error(both.place, message);
    }
    let window = raw.window.as_ref().map_or(Trigger::WINDOW, |spot| window_of(key, spot.value, spot.place, context));
    let action = match raw.action.as_ref()?.value {
        raw::Action::Rollback => Action::Rollback,
        raw::Action::Previous => Action::Previous,
        raw::Action::Half => Action::Half,
        raw::Action::Pause => Action::Pause,
        raw::Action::Alert => Action::Alert,
    };
    Some(Trigger {
        name: raw.name.as_ref()?.value.as_str().into(),
        criterion: criterion?,
        held_for,
        action,
        dry_run: raw.dry_run.as_ref().is_some_and(|dry| dry.value),
        rollout: rollout.map(|other| other.value.as_str().into()),
        window,
        min_requests: raw.min_requests.as_ref().map_or(Trigger::MIN_REQUESTS, |spot| requests_of(key, spot, context)),
        spares_both: spares_both.is_some(),
        stages,
    })
}

/// The stages in which a trigger is watched, those that exist.
fn watched(at: &At<'_>, raw: &raw::Trigger, context: &mut Context<'_, '_>) -> Vec<Arc<str>> {
    // Also those with mistakes of their own.
    let stages = at.raw.stages.iter().flat_map(|stages| &stages.value).filter_map(|stage| stage.value.name.as_ref());
    let known: Vec<&str> = stages.map(|name| name.value.as_str()).collect();
    let mut named = Vec::new();
    for stage in raw.stages.iter().flat_map(|stages| &stages.value) {
        if known.contains(&stage.value.as_str()) {
            named.push(stage.value.as_str().into());
        } else {
            let key = format!("{}.stages", at.key);
            names::dangling(&key, "stage", &stage.value, &known, stage.place, context);
        }
    }
    named
}

/// The longest that any stage but the last can last; none if one of them may last for ever. After the last one a rollout
/// serves on, but a plan whose trigger can only fire then is not what anybody means. A trigger that names its stages means
/// those.
fn longest(plan: &Stages, watched: &[Arc<str>]) -> Option<Duration> {
    let last = plan.list.last()?;
    if watched.contains(&last.name) {
        return None;
    }
    let is_meant = |stage: &&Stage| match watched {
        [] => plan.list.len() == 1 || stage.name != last.name,
        watched => watched.contains(&stage.name),
    };
    let stages = plan.list.iter().filter(is_meant);
    let bound = |stage: &Stage| match stage.max_duration {
        Some(max) => Some(max),
        None if stage.gates.is_empty() && !stage.approval && plan.list.len() > 1 => Some(stage.min_duration),
        None => None,
    };
    stages.map(bound).try_fold(Duration::ZERO, |longest, bound| bound.map(|bound| longest.max(bound)))
}

fn window_of(key: &str, window: Duration, place: Place, context: &mut Context<'_, '_>) -> Duration {
    if window < WINDOW_MIN || window > WINDOW_MAX {
        let (least, most) = (print_span(WINDOW_MIN), print_span(WINDOW_MAX));
        context.problems.error(place, format!("{key}.window: expected {least} to {most}"));
    }
    window
}

fn requests_of(key: &str, spot: &Spot<u32>, context: &mut Context<'_, '_>) -> u64 {
    if spot.value == 0 {
        let message = format!("{key}.min_requests: expected 1 or more, found 0");
        context.problems.error(spot.place, message).with_help("without a request there is nothing to judge by");
    }
    u64::from(spot.value).max(1)
}

/// Reports a name that one before has already, whatever else is wrong with that one.
fn once<'a>(
    mut before: impl Iterator<Item = &'a Option<Spot<String>>>,
    name: &Option<Spot<String>>,
    key: &str,
    kind: &str,
    context: &mut Context<'_, '_>,
) {
    if let Some(name) = name
        && before.any(|other| other.as_ref().is_some_and(|other| other.value == name.value))
    {
        context.problems.error(name.place, format!("{key}: another {kind} is `{}` already", name.value));
    }
}

/// Neither nobody nor everybody.
const UNREADABLE: Weight = match Weight::from_percent(50) {
    Some(half) => half,
    None => Weight::FULL,
};
/// More stages than anyone steps through.
const STAGES_MAX: usize = 64;
/// All of them are evaluated at every look.
const TRIGGERS_MAX: usize = 64;
/// The grain of the measurements.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// What is kept of them.
const WINDOW_MAX: Duration = Duration::from_secs(400 * 86_400);
