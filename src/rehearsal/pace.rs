//! How far a rehearsal may go before it must look again.
//!
//! After every change it looks as often as the control plane does; the longer nothing has changed, the longer the steps, a
//! fiftieth of that time. It stops exactly where something is due: the end of a minimum or maximum, of a `for`, of a cooldown.
//! Where a trigger holds, or a value in which there is chance is so near its limit that it may be carried over, it looks more often
//! again. What is decided at a look is the engine's business alone.

use crate::clock::Time;
use crate::rollout::breaker;
use crate::rollout::course::Alarm;
use crate::rollout::criterion::{Criterion, Evaluation};
use crate::rollout::report::State;
use crate::rollout::standing::Standing;
use std::time::Duration;

/// What the control plane takes between two looks.
pub const LOOK: Duration = Duration::from_millis(250);
/// Steps are this part of the time in which nothing has changed; near a limit that part.
const QUIET_PARTS: u32 = 50;
const NEAR_PARTS: u32 = 200;
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
/// will happen whatever else does, if there is one. `wavers` says whether chance is in what a criterion reads.
pub fn next(
    standing: &Standing<'_>,
    now: Time,
    quiet: Duration,
    wavers: &dyn Fn(&Criterion) -> bool,
) -> (Time, Option<Time>) {
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
        // Where nobody comes to probe it may stay half-open for weeks.
        step = step.min(RESTLESS.max(quiet / NEAR_PARTS));
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
            } else if watched.alarm == Alarm::Quiet && wavers(&trigger.criterion) {
                match nearness(&watched.evaluation) {
                    Nearness::Far => {}
                    Nearness::Near => step = step.min(near.max(trigger.window / WINDOW_PARTS)),
                    // No window between two looks, so that none is passed over in which it happened.
                    Nearness::Never => step = step.min(near.max(trigger.window)),
                }
            }
        }
        // What gates say counts once the minimum is over.
        let counts = standing.stage().is_some_and(|stage| progress.served >= stage.min_duration);
        let gates = standing.stage().filter(|_| counts).map_or(&[][..], |stage| &stage.gates);
        for (gate, found) in gates.iter().zip(standing.runtime.course.gates_of(progress.visit)) {
            if nearness(found) == Nearness::Near && wavers(&gate.criterion) {
                step = step.min(near);
            }
        }
    }
    (due.map_or(now + step, |due| due.min(now + step)), due)
}

/// How likely chance carries a value over its limit soon.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nearness {
    /// Hardly.
    Far,
    /// It may at any time.
    Near,
    /// What must not happen at all has not happened yet.
    Never,
}

fn nearness(found: &Evaluation) -> Nearness {
    let (Some(value), Some(limit)) = (found.value, found.limit) else { return Nearness::Far };
    if value == 0.0 && limit == 0.0 {
        return Nearness::Never;
    }
    let deviation = (value.max(limit).clamp(0.0, 1.0) / (found.samples.max(1) as f64)).sqrt();
    let by_chance = if limit.abs() <= 1.0 { NEAR_DEVIATIONS * deviation } else { 0.0 };
    match value != limit && (value - limit).abs() <= (NEAR_PART * limit.abs()).max(by_chance) {
        true => Nearness::Near,
        false => Nearness::Far,
    }
}
