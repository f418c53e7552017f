//! How a rollout ends in a rehearsal, why, and what is to be assumed for another end.

use super::Stand;
use crate::clock::Time;
use crate::rehearsal::assume::Assumptions;
use crate::rehearsal::story::{End, RolloutStory};
use crate::rehearsal::usual::{bound, fitting, written};
use crate::rollout::Arm;
use crate::rollout::breaker;
use crate::rollout::course::Verdict;
use crate::rollout::criterion::{Evaluation, Metric, Reading, Sample};
use crate::rollout::report::State;
use crate::rollout::stages::Gate;
use crate::rollout::standing::Standing;
use std::sync::Arc;
use std::time::Duration;

/// How it ends, `stand` being how it stood last; `read` is what limits refer to.
pub fn of(
    standing: &Standing<'_>,
    mut stand: Stand,
    assumed: &Assumptions,
    read: &impl Fn(Sample<'_>) -> Reading,
) -> RolloutStory {
    let end = match standing.state() {
        State::Completed => End::Completed,
        State::RolledBack => End::RolledBack,
        State::Paused => End::Paused,
        State::Pending | State::Running | State::WaitingApproval => End::Stuck,
    };
    if let Some(last) = stand.passages.last_mut().filter(|last| last.ended.is_none()) {
        last.gates = std::mem::take(&mut stand.gates);
    }
    let reason = match end {
        End::Stuck => Some(why_stuck(standing, assumed)),
        End::Completed => None,
        End::RolledBack | End::Paused => standing.reason(),
    };
    // What never ends is stuck since its minimum was over.
    let open = standing.stage().filter(|_| end == End::Stuck && standing.state() == State::Running);
    let served = open.map_or(Duration::ZERO, |stage| stage.min_duration);
    // Nobody asks what it costs to wait for ever, be it for another rollout.
    let (hurt, users_hurt, signals) = stand.cost;
    RolloutStory {
        name: Arc::clone(&standing.plan.name),
        stages: standing.plan.stages.list.len(),
        passages: stand.passages,
        end,
        ended: stand.since.since(Time::default()) + served,
        reason,
        hints: hints(standing, end, assumed, read),
        requests: hurt.requests,
        failed: hurt.failed,
        answered: hurt.answered,
        users_hurt,
        signals,
    }
}

/// What a rollout waits for that does not come.
fn why_stuck(standing: &Standing<'_>, assumed: &Assumptions) -> String {
    let stages = &standing.plan.stages;
    let waits_for = |index: usize| {
        let after = stages.list.get(index).and_then(|stage| stage.after.as_ref())?;
        Some(format!("it waits for stage `{}` of rollout `{}` to end", after.stage, after.rollout))
    };
    if standing.killed() {
        return "it is killed in the config (`kill = true`)".into();
    }
    let Some(stage) = standing.stage() else {
        let why = waits_for(0).or_else(|| standing.reason());
        return why.unwrap_or_else(|| "its plan does not begin".into());
    };
    if standing.state() == State::WaitingApproval {
        return format!("stage `{}` waits for an approval that does not come (--approve-after never)", stage.name);
    }
    let gates = standing.gate_reports().into_iter().filter(|gate| gate.verdict != "pass");
    let gates: Vec<String> = gates.map(|gate| format!("{}: {}", gate.verdict, gate.reason)).collect();
    if !gates.is_empty() {
        let traffic = if assumed.rps > 0.0 { "" } else { "there is no traffic (--rps 0); " };
        return format!("{traffic}stage `{}` never passes: {}", stage.name, gates.join("; "));
    }
    if standing.breaker() != breaker::State::Closed {
        return format!(
            "stage `{}` serves no time: its breaker is open, and nobody comes to probe the canary",
            stage.name
        );
    }
    let next = stages.find(&stage.name).map_or(0, |(index, _)| index + 1);
    waits_for(next).unwrap_or_else(|| format!("stage `{}` does not end", stage.name))
}

/// What is to be assumed for the gates of the present stage to pass, one option each, if it is they that hold it up.
fn hints(
    standing: &Standing<'_>,
    end: End,
    assumed: &Assumptions,
    read: &impl Fn(Sample<'_>) -> Reading,
) -> Vec<String> {
    let progress = &standing.saved.progress;
    let Some(stage) = standing.stage() else { return Vec::new() };
    let has_run_out = stage.max_duration.is_some_and(|max| progress.served >= max);
    if standing.killed() || !(end == End::Stuck || (end == End::Paused && has_run_out)) {
        return Vec::new();
    }
    let place = format!("{}:{}", standing.plan.name, stage.name);
    let found = standing.runtime.course.gates_of(progress.visit);
    let open = stage.gates.iter().zip(found).filter(|(_, found)| Verdict::of(found) != Verdict::Pass);
    let mut hints: Vec<String> = Vec::new();
    for hint in open.filter_map(|(gate, found)| hint(gate, found, &place, assumed, read)) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints
}

/// The option with which a gate would pass that does not; none if nothing that can be said would help.
fn hint(
    gate: &Gate,
    found: &Evaluation,
    place: &str,
    assumed: &Assumptions,
    read: &impl Fn(Sample<'_>) -> Reading,
) -> Option<String> {
    let quantity = &gate.criterion.quantity;
    let option = match (&quantity.metric, quantity.arm) {
        (metric, _) if !metric.has_arms() => "--assume",
        (_, Arm::Stable) => "--stable",
        (_, Arm::Canary) => "--canary",
    };
    let too_few = quantity.metric.counts_requests() && found.samples < gate.min_requests.max(1);
    let key = match quantity.metric {
        // A browser's report needs no more than that one is assumed.
        Metric::Vital(..) => quantity.metric.to_string(),
        // Without requests nothing that is said of them helps.
        _ if too_few && assumed.rps > 0.0 => return Some("--rps N or --cohort NAME=SHARE, for more requests".into()),
        _ if too_few => return Some("--rps N".into()),
        Metric::ErrorRate | Metric::Rate5xx => "errors".to_owned(),
        Metric::TimeoutRate => "timeouts".to_owned(),
        // They follow from weights, cohorts and the rest.
        Metric::Share | Metric::FallbackRate | Metric::BlockedRate | Metric::BreakerRate => return None,
        Metric::BreakerTrips | Metric::Rps | Metric::Requests | Metric::Total(_) => return None,
        _ => quantity.metric.to_string(),
    };
    let printed = quantity.to_string();
    let part = printed.find('{').and_then(|at| printed.get(at..)).unwrap_or_default();
    let value = fitting(&[bound(&gate.criterion, read)?], gate.criterion.dimension(), None)?;
    let text = format!("{key}{part}={}@{place}", written(value, gate.criterion.dimension()));
    // Shells take braces for theirs.
    Some(if part.is_empty() { format!("{option} {text}") } else { format!("{option} '{text}'") })
}
