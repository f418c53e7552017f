//! What the turns of a breaker mean for its rollout: what is saved, what the audit trail tells, and whether anybody is let
//! onto the canary by it. It carries nothing out; the engine calls it after each look.

use super::breaker::{self, Trip, Turn};
use super::course::Back;
use super::report::{Entry, Facts, Kind, Origin};
use super::standing::{BOTH_ARMS, Save, SavedRollout, Standing};
use super::step::Step;
use std::sync::Arc;

/// The step from how a rollout stands to how it stands after these turns, which left its breaker like that.
pub fn turned(old: &Standing<'_>, after: &breaker::Saved, turns: &[Turn]) -> Step {
    let rollout = &old.plan.name;
    let saved = SavedRollout { breaker: after.clone(), ..old.saved.clone() };
    let new = Standing { saved: &saved, ..*old };
    let widens = turns.iter().any(|turn| matches!(turn, Turn::ProbeWidened { .. }));
    let trickles = turns.iter().any(|turn| matches!(turn, Turn::HalfOpen { .. }));
    let handed_back = turns.iter().find_map(|turn| match turn {
        Turn::Spared { state, .. } => Some((Arc::clone(rollout), *state)),
        _ => None,
    });
    Step {
        handed_back,
        exposes: widens || new.exposes_beyond(old),
        // The snapshot has the share of those who probe.
        publishes: widens || trickles || new.phase() != old.phase(),
        entries: turns.iter().flat_map(|turn| told(turn, old, &new)).collect(),
        saves: match saved == *old.saved {
            true => Vec::new(),
            false => vec![Save::Rollout { rollout: Arc::clone(rollout), saved: saved.clone() }],
        },
        ..Step::default()
    }
}

/// What the trail tells of a turn. That some units probe is no event: it is on the way between two. Nor is that a circuit was
/// handed back: the alert tells why.
fn told(turn: &Turn, old: &Standing<'_>, new: &Standing<'_>) -> Vec<Entry> {
    let rollout = &new.plan.name;
    let entry = |kind, reason: &str, old, new| Entry {
        rollout: Some(Arc::clone(rollout)),
        kind,
        origin: Origin { actor: ACTOR.into(), reason: reason.to_owned() },
        old,
        new,
        to: (kind == Kind::Rollback).then_some(Back::Stable),
        trigger: None,
    };
    match turn {
        Turn::Trip(Trip { reason, rolled_back: true, .. }) => {
            let between = tripped(new);
            let why = new.reason().unwrap_or_default();
            vec![
                entry(Kind::Trip, reason, old.facts(), between.clone()),
                entry(Kind::Rollback, &why, between, new.facts()),
            ]
        }
        Turn::Trip(trip) => vec![entry(Kind::Trip, &trip.reason, old.facts(), new.facts())],
        Turn::Closed { reason } => vec![entry(Kind::Recover, reason, old.facts(), new.facts())],
        Turn::BothArms { reason, .. } => {
            vec![entry(Kind::Alert, &format!("{BOTH_ARMS}: {reason}"), old.facts(), new.facts())]
        }
        Turn::HalfOpen { .. } | Turn::ProbeWidened { .. } | Turn::Spared { .. } => Vec::new(),
    }
}

/// How a rollout stands that its breaker has just tripped, but not rolled back yet.
fn tripped(new: &Standing<'_>) -> Facts {
    let breaker = breaker::Saved { rolled_back: false, ..new.saved.breaker.clone() };
    let saved = SavedRollout { breaker, ..new.saved.clone() };
    Standing { saved: &saved, ..*new }.facts()
}

/// Who did it.
const ACTOR: &str = "breaker";
