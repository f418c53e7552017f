//! What gates and triggers are found to be at one look: verdicts and alarms.

use super::Measurements;
use crate::clock::Time;
use crate::rollout::Arm;
use crate::rollout::criterion::{Evaluation, Reading, Sample, Source};
use crate::rollout::stages::{Gate, Span, Trigger, span_text};
use std::time::Duration;

/// A gate's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does not hold.
    Fail,
    /// There is not enough to judge by.
    Wait,
    /// It holds.
    Pass,
}

impl Verdict {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Fail => "fail",
            Verdict::Wait => "wait",
            Verdict::Pass => "pass",
        }
    }

    /// What an evaluation means for a gate.
    pub fn of(evaluation: &Evaluation) -> Verdict {
        match evaluation.holds {
            Some(true) => Verdict::Pass,
            Some(false) => Verdict::Fail,
            None => Verdict::Wait,
        }
    }
}

/// A trigger's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alarm {
    /// Its criterion does not hold, or has no data.
    #[default]
    Quiet,
    /// It holds, not yet for long enough.
    Pending,
    /// It has held for long enough.
    Firing,
}

impl Alarm {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Alarm::Quiet => "quiet",
            Alarm::Pending => "pending",
            Alarm::Firing => "firing",
        }
    }
}

/// What a trigger was last found to be.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Its criterion.
    pub evaluation: Evaluation,
    /// Since when it holds.
    pub(super) since: Option<Time>,
    /// For how long it has held.
    pub held: Duration,
    /// Its state.
    pub alarm: Alarm,
    /// Whether it has acted since it last began to hold, or since a stage began.
    pub(super) acted: bool,
    /// Whether it was told since then that it fires.
    pub(super) told: bool,
}

impl Watched {
    pub(super) fn after(self, now: Time, trigger: &Trigger, evaluation: Evaluation) -> Watched {
        if evaluation.holds != Some(true) {
            return Watched { evaluation, ..Watched::default() };
        }
        let since = self.since.unwrap_or(now);
        let held = now.since(since);
        let alarm = if held >= trigger.held_for { Alarm::Firing } else { Alarm::Pending };
        Watched { evaluation, since: Some(since), held, alarm, acted: self.acted, told: self.told }
    }
}

/// A source of one span's values.
pub(super) struct Over<'a, M> {
    pub(super) measured: &'a M,
    pub(super) span: Span,
}

impl<M: Measurements> Source for Over<'_, M> {
    fn read(&self, sample: Sample<'_>) -> Reading {
        self.measured.read(self.span, sample)
    }
}

/// Evaluates a gate. What it may pass on is of its own stage: a window reaches no further back than to its start.
pub fn judge(gate: &Gate, measured: &impl Measurements) -> Evaluation {
    let over = Over { measured, span: gate.span.in_stage() };
    gate.criterion.evaluate(&over, gate.min_requests, &window_text(gate.span))
}

/// A span as a verdict names it.
pub(super) fn window_text(span: Span) -> String {
    match span {
        Span::Stage => "the stage".to_owned(),
        Span::Last(window) | Span::InStage(window) => span_text(window),
    }
}

/// What is found of a trigger in a stage that it is not for.
pub(super) fn unwatched() -> Evaluation {
    Evaluation { reason: "not watched in this stage".into(), ..Evaluation::default() }
}

/// Evaluates a trigger. One that spares both arms does not hold while stable breaches the same limit. In a stage that was
/// gone back to its window reaches no further back than to the start: what led there was another exposure.
pub(super) fn evaluate(trigger: &Trigger, went_back: bool, measured: &impl Measurements) -> Evaluation {
    let over = Over { measured, span: trigger.span(went_back) };
    let window = span_text(trigger.window);
    let found = trigger.criterion.evaluate(&over, trigger.min_requests, &window);
    if !trigger.spares_both || found.holds != Some(true) || !trigger.criterion.quantity.metric.has_arms() {
        return found;
    }
    let mut of_stable = trigger.criterion.clone();
    of_stable.quantity.arm = Arm::Stable;
    let stable = of_stable.evaluate(&over, trigger.min_requests, &window);
    match stable.holds {
        Some(true) => Evaluation { holds: Some(false), reason: format!("both arms: {}", found.reason), ..found },
        _ => found,
    }
}
