//! The stages and triggers of a plan, as values that cannot be invalid: what `[[rollouts.NAME.stages]]` and
//! `[[rollouts.NAME.triggers]]` ask for.
//!
//! The config room makes them, `course` walks through them. Nothing here changes at run time.

use super::bucket::Weight;
use super::criterion::Criterion;
use std::sync::Arc;
use std::time::Duration;

/// A plan's stages in order, and what is watched beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stages {
    /// The stages; none for a rollout whose weight an operator moves.
    pub list: Vec<Stage>,
    /// What is watched in every state that sends traffic.
    pub triggers: Vec<Trigger>,
    /// Whether the first stage begins by itself.
    pub autostart: bool,
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name; no two stages of a plan share one.
    pub name: Arc<str>,
    /// Share of units on the canary.
    pub weight: Weight,
    /// Share of units that are mirrored; none is the rollout's own.
    pub shadow: Option<Weight>,
    /// Time served before it may end.
    pub min_duration: Duration,
    /// Time served after which it pauses if its gates do not pass.
    pub max_duration: Option<Duration>,
    /// Cohorts that it admits.
    pub cohorts: Vec<Arc<str>>,
    /// What must have ended before it may begin.
    pub after: Option<After>,
    /// What must pass before it ends.
    pub gates: Vec<Gate>,
    /// Whether it ends only when a person has said so.
    pub approval: bool,
    /// Whether both arms are recorded as the baseline when it ends.
    pub capture_baseline: bool,
}

/// A stage of another rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// The rollout.
    pub rollout: Arc<str>,
    /// Its stage.
    pub stage: Arc<str>,
}

/// A criterion to leave a stage forwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// The criterion.
    pub criterion: Criterion,
    /// Over which time.
    pub span: Span,
    /// Requests it needs.
    pub min_requests: u64,
}

/// The time that a criterion looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// All of the stage so far.
    Stage,
    /// The last so long.
    Last(Duration),
    /// The last so long, as far as it lies in the stage.
    InStage(Duration),
}

impl Span {
    /// The same span, reaching no further back than to the start of the stage.
    pub const fn in_stage(self) -> Span {
        match self {
            Span::Last(window) => Span::InStage(window),
            within => within,
        }
    }
}

impl Trigger {
    /// Over which time it looks; in a stage that was gone back to at nothing before that.
    pub const fn span(&self, went_back: bool) -> Span {
        match went_back {
            true => Span::InStage(self.window),
            false => Span::Last(self.window),
        }
    }
}

/// A criterion that is watched, and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// Its name; no two triggers of a plan share one.
    pub name: Arc<str>,
    /// The criterion.
    pub criterion: Criterion,
    /// How long it must hold at every evaluation.
    pub held_for: Duration,
    /// What it does then.
    pub action: Action,
    /// Whether it only tells what it would do.
    pub dry_run: bool,
    /// The rollout that is acted on, if it is another one.
    pub rollout: Option<Arc<str>>,
    /// Over which time.
    pub window: Duration,
    /// Requests it needs.
    pub min_requests: u64,
    /// Whether the canary is spared while stable breaches the same limit.
    pub spares_both: bool,
}

/// What a trigger does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Weight 0, cohorts off.
    Rollback,
    /// To the stage before.
    Previous,
    /// Half the weight, and pause.
    Half,
    /// Pause.
    Pause,
    /// Tell somebody.
    Alert,
}

impl Action {
    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Action::Rollback => "rollback",
            Action::Previous => "previous",
            Action::Half => "half",
            Action::Pause => "pause",
            Action::Alert => "alert",
        }
    }
}

/// The least that a time scale leaves of a window.
const WINDOW_MIN: Duration = Duration::from_secs(2);
/// The least that it leaves of a trigger's `for`.
const HELD_FOR_MIN: Duration = Duration::from_millis(200);
/// The least that it leaves of a stage's minimum.
const MIN_DURATION_MIN: Duration = Duration::from_secs(1);
/// The least that it leaves of a number of requests.
const REQUESTS_MIN: u64 = 10;

impl Stages {
    /// The stage of that name, with its place.
    pub fn find(&self, name: &str) -> Option<(usize, &Stage)> {
        self.list.iter().enumerate().find(|(_, stage)| &*stage.name == name)
    }

    /// The same plan for a rehearsal that runs `scale` times as fast: durations, windows and `for` are divided by it, but
    /// never below what can still be measured (2 s of a window, 200 ms of a `for`, 1 s of a minimum); numbers of requests
    /// shrink with their window, never below 10 or what they were. A maximum leaves time for the minimum, the longest
    /// window and the longest `for`.
    #[must_use]
    pub fn scaled(&self, scale: u32) -> Stages {
        if scale <= 1 {
            return self.clone();
        }
        let mut stages = self.clone();
        for trigger in &mut stages.triggers {
            let window = shrunk(trigger.window, scale, WINDOW_MIN);
            trigger.min_requests = fewer(trigger.min_requests, trigger.window, window);
            trigger.window = window;
            trigger.held_for = shrunk(trigger.held_for, scale, HELD_FOR_MIN);
        }
        let held_for_max = stages.triggers.iter().map(|trigger| trigger.held_for).max().unwrap_or_default();
        for stage in &mut stages.list {
            let full = stage.min_duration;
            stage.min_duration = shrunk(full, scale, MIN_DURATION_MIN);
            let mut window_max = Duration::ZERO;
            for gate in &mut stage.gates {
                let (before, after) = match gate.span {
                    Span::Stage => (full, stage.min_duration),
                    Span::Last(window) | Span::InStage(window) => {
                        let after = shrunk(window, scale, WINDOW_MIN);
                        gate.span = Span::Last(after);
                        window_max = window_max.max(after);
                        (window, after)
                    }
                };
                gate.min_requests = fewer(gate.min_requests, before, after);
            }
            let least = stage.min_duration + window_max + held_for_max;
            stage.max_duration = stage.max_duration.map(|max| (max / scale).max(least));
        }
        stages
    }
}

/// A duration divided by the scale, not below `least` or, if that is shorter, itself.
pub fn shrunk(span: Duration, scale: u32, least: Duration) -> Duration {
    (span / scale.max(1)).max(least.min(span))
}

/// A number of requests in proportion to its shorter time.
fn fewer(requests: u64, before: Duration, after: Duration) -> u64 {
    let floor = requests.min(REQUESTS_MIN);
    if before.is_zero() {
        return requests.min(REQUESTS_MIN);
    }
    let share = after.as_secs_f64() / before.as_secs_f64();
    ((requests as f64 * share) as u64).max(floor)
}

/// A duration for people, in its two largest units: `24h`, `1h30m`, `250ms`.
pub fn span_text(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return format!("{}ms", span.as_millis());
    }
    let seconds = span.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    // Up to some days people count in hours.
    let parts = match seconds < 4 * 86_400 {
        true => [(0, "d"), (seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")],
        false => parts,
    };
    let used = parts.into_iter().skip_while(|(count, _)| *count == 0).take(2).filter(|(count, _)| *count > 0);
    used.map(|(count, unit)| format!("{count}{unit}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::criterion::parse;

    fn stage(min_hours: u64, max_hours: Option<u64>) -> Stage {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        Stage {
            name: "one".into(),
            weight: Weight::ZERO,
            shadow: None,
            min_duration: hours(min_hours),
            max_duration: max_hours.map(hours),
            cohorts: Vec::new(),
            after: None,
            gates: vec![
                Gate { criterion: parse("error_rate < 1%").unwrap(), span: Span::Stage, min_requests: 100_000 },
                Gate {
                    criterion: parse("p95 < 1s").unwrap(),
                    span: Span::Last(Duration::from_secs(60)),
                    min_requests: 3,
                },
            ],
            approval: false,
            capture_baseline: false,
        }
    }

    #[test]
    fn a_scale_divides_times_down_to_what_can_be_measured() {
        let trigger = Trigger {
            name: "errors".into(),
            criterion: parse("error_rate > 5%").unwrap(),
            held_for: Duration::from_secs(300),
            action: Action::Rollback,
            dry_run: false,
            rollout: None,
            window: Duration::from_secs(60),
            min_requests: 40,
            spares_both: false,
        };
        let plan = Stages { list: vec![stage(24, Some(25)), stage(0, None)], triggers: vec![trigger], autostart: true };
        let fast = plan.scaled(600);
        assert_eq!(fast.list[0].min_duration, Duration::from_secs(144));
        assert_eq!(fast.triggers[0].held_for, Duration::from_millis(500));
        assert_eq!((fast.triggers[0].window, fast.triggers[0].min_requests), (Duration::from_secs(2), 10));
        assert_eq!(fast.list[0].gates[0].min_requests, 166);
        assert_eq!((fast.list[0].gates[1].span, fast.list[0].gates[1].min_requests), (Span::Last(WINDOW_MIN), 3));
        assert_eq!(fast.list[0].max_duration, Some(Duration::from_secs(150)));
        assert_eq!(fast.list[1].min_duration, Duration::ZERO, "nothing grows");
        assert_eq!(plan.scaled(1), plan);
        let extreme = plan.scaled(1_000_000);
        assert_eq!(extreme.list[0].max_duration, Some(Duration::from_millis(3200)), "there is time to pass");
        assert_eq!(extreme.triggers[0].held_for, HELD_FOR_MIN);
    }
}
