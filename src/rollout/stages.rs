//! The stages and triggers of a plan, as values that cannot be invalid: what `[[rollouts.NAME.stages]]` and
//! `[[rollouts.NAME.triggers]]` ask for.
//!
//! The config room makes them, `course` walks through them. Nothing here changes at run time.

use super::bucket::Weight;
use super::criterion::Criterion;
use super::scale::TimeScale;
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
    /// How many times as fast as written all of it is.
    pub scale: TimeScale,
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

impl Gate {
    /// Requests that a gate needs unless it says otherwise.
    pub const MIN_REQUESTS: u64 = 100;
}

impl Trigger {
    /// Requests that a trigger needs unless it says otherwise.
    pub const MIN_REQUESTS: u64 = 1;
    /// The time a trigger looks at unless it says otherwise.
    pub const WINDOW: Duration = Duration::from_secs(60);

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
    /// The stages in which it is watched; none is all of them.
    pub stages: Vec<Arc<str>>,
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

impl Trigger {
    /// Whether it is watched in that stage.
    pub fn is_watched_in(&self, stage: Option<&str>) -> bool {
        self.stages.is_empty() || self.stages.iter().any(|named| Some(&**named) == stage)
    }
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

    /// Its place among the others, the gravest first.
    pub const fn rank(self) -> u8 {
        match self {
            Action::Rollback => 0,
            Action::Previous => 1,
            Action::Half => 2,
            Action::Pause => 3,
            Action::Alert => 4,
        }
    }
}

impl Stages {
    /// The stage of that name, with its place.
    pub fn find(&self, name: &str) -> Option<(usize, &Stage)> {
        self.list.iter().enumerate().find(|(_, stage)| &*stage.name == name)
    }
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
