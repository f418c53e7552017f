//! How far a rehearsal may go before it must look again.
//!
//! After every change it looks as often as the control plane does; the longer nothing has changed, the longer the steps, a
//! fiftieth of that time. It stops exactly where something is due: the end of a minimum or maximum, of a `for`, of a cooldown.
//! Where a trigger holds, or a value is so near its limit that chance may carry it over, it looks more often again. What is
//! decided at a look is the engine's business alone.

use crate::clock::Time;
use crate::rollout::breaker;
use crate::rollout::course::Alarm;
use crate::rollout::report::State;
use crate::rollout::standing::Standing;
use std::time::Duration;

/// What the control plane takes between two looks.
pub const LOOK: Duration = Duration::from_millis(250);
/// Steps are this part of the time in which nothing has changed; near a limit that part.
const QUIET_PARTS: u32 = 50;
const NEAR_PARTS: u32 = 1000;
/// Looks while a trigger holds, and the longest step then.
const HOLDING_PARTS: u32 = 600;
const HOLDING_MAX: Duration = Duration::from_secs(5);
/// A step near a limit need not be shorter than this, or than that part of the window.
const NEAR_MIN: Duration = Duration::from_secs(1);
const WINDOW_PARTS: u32 = 8;
/// While a breaker is not closed, or stable is looked at after a rollback.
const RESTLESS: Duration = Duration::from_secs(1);
/// A value is near its limit within this part of it, or within so many standard deviations of a share.
const NEAR_PART: f64 = 0.05;
const NEAR_DEVIATIONS: f64 = 4.0;

/// When a rollout must be looked at next, if nothing has changed for `quiet`; and the moment at which something is due that
/// will happen whatever else does, if there is one.
pub fn next(standing: &Standing<'_>, now: Time, quiet: Duration) -> (Time, Option<Time>) {
    let mut step = (quiet / QUIET_PARTS).max(LOOK);
    let mut due: Option<Time> = None;
    let mut at = |moment: Time| {
        if moment > now {
            due = Some(due.map_or(moment, |due| due.min(moment)));
        }
    };
    let progress = &standing.saved.progress;
    if standing.runtime.course.rechecks() {
        step = step.min(RESTLESS);
        at(now + RESTLESS);
    }
    let circuit = standing.breaker();
    if circuit != breaker::State::Closed && !standing.saved.breaker.rolled_back {
        step = step.min(RESTLESS);
        if let Some(ends) = standing.runtime.breaker.as_ref().and_then(|breaker| breaker.cooldown_ends()) {
            at(ends);
        }
    }
    if let Some(stage) = standing.stage().filter(|_| !standing.is_frozen() && progress.state == State::Running) {
        let bounds = [Some(stage.min_duration), stage.max_duration];
        bounds.into_iter().flatten().filter(|bound| *bound > progress.served).for_each(|bound| {
            at(now + (bound - progress.served));
        });
    }
    let near = NEAR_MIN.max(quiet / NEAR_PARTS);
    if standing.serves() {
        for trigger in &standing.plan.stages.triggers {
            let Some(watched) = standing.runtime.course.trigger(&trigger.name) else { continue };
            if watched.alarm == Alarm::Pending {
                step = step.min((trigger.held_for / HOLDING_PARTS).clamp(LOOK, HOLDING_MAX));
                at(now + trigger.held_for.saturating_sub(watched.held));
            } else if watched.alarm == Alarm::Quiet
                && is_near(watched.evaluation.value, watched.evaluation.limit, watched.evaluation.samples)
            {
                step = step.min(near.max(trigger.window / WINDOW_PARTS));
            }
        }
        // What gates say counts once the minimum is over.
        let counts = standing.stage().is_some_and(|stage| progress.served >= stage.min_duration);
        for gate in standing.runtime.course.gates_of(progress.visit) {
            if counts && is_near(gate.value, gate.limit, gate.samples) {
                step = step.min(near);
            }
        }
    }
    (due.map_or(now + step, |due| due.min(now + step)), due)
}

fn is_near(value: Option<f64>, limit: Option<f64>, samples: u64) -> bool {
    let (Some(value), Some(limit)) = (value, limit) else { return false };
    let deviation = (value.clamp(0.0, 1.0) / (samples.max(1) as f64)).sqrt();
    let by_chance = if limit.abs() <= 1.0 { NEAR_DEVIATIONS * deviation } else { 0.0 };
    // Nothing has happened of what must not happen at all: the first time is seen at any look.
    value != limit && (value - limit).abs() <= (NEAR_PART * limit.abs()).max(by_chance)
}
