//! What happened and how things stand, as plain data: the engine and the control plane fill it in, the store keeps it,
//! admin and command line print it. Nothing here decides anything.

use super::breaker;
use super::bucket::Weight;
use super::course::Back;
use super::scale::TimeScale;
use crate::clock::Wall;
use std::sync::Arc;
use std::time::Duration;

mod passage;

pub use passage::{ObstacleReport, PassageReport, PlannedStage};

/// The window that reports cover unless another is asked for.
pub const REPORT_WINDOW: Duration = Duration::from_secs(60);

/// A rollout's state in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started.
    Pending,
    /// The split flows.
    Running,
    /// Its stage's clock stands still until a person says how to go on.
    Paused,
    /// Its stage has passed and waits for a person.
    WaitingApproval,
    /// Its last stage has ended; it goes on serving.
    Completed,
    /// Rolled back until revived.
    RolledBack,
}

impl State {
    /// All states, in the order of a life.
    pub const ALL: [State; 6] =
        [State::Pending, State::Running, State::Paused, State::WaitingApproval, State::Completed, State::RolledBack];

    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Running => "running",
            State::Paused => "paused",
            State::WaitingApproval => "waiting_approval",
            State::Completed => "completed",
            State::RolledBack => "rolled_back",
        }
    }
}

/// How one rollout stands.
#[derive(Clone, Debug)]
pub struct RolloutReport {
    /// Its name.
    pub name: Arc<str>,
    /// Where it is in its life.
    pub state: State,
    /// Why it is killed, or else why it is in that state; none where there is nothing to say.
    pub state_reason: Option<String>,
    /// The weight in force, kill and breaker aside.
    pub weight: Weight,
    /// The weight of the file.
    pub file_weight: Weight,
    /// Whether everything goes to stable by a kill.
    pub killed: bool,
    /// Whether that kill comes from file or environment (then `revive` is refused).
    pub killed_by_config: bool,
    /// Its breaker; none if it is switched off.
    pub breaker: Option<BreakerReport>,
    /// The stage it is in, or was in when it was rolled back; none before the first and without stages.
    pub stage: Option<StageReport>,
    /// The gates of that stage, as last judged.
    pub gates: Vec<GateReport>,
    /// Its triggers, as last evaluated.
    pub triggers: Vec<TriggerReport>,
    /// All stages of its plan.
    pub stages: Vec<PlannedStage>,
    /// What stands between it and its next stage; none without stages.
    pub next: Option<PassageReport>,
    /// What somebody should do about its plan.
    pub note: Option<String>,
    /// Both arms over the window asked for, by arm index; forced and probe requests are not among them.
    pub arms: [ArmReport; 2],
    /// What is mirrored to its canary; none if nothing is.
    pub shadow: Option<ShadowReport>,
    /// Its cohorts.
    pub cohorts: Vec<CohortReport>,
    /// How many times as fast as written its plan runs.
    pub time_scale: TimeScale,
    /// The generation of the snapshot that carries this state.
    pub generation: u64,
}

/// Where a rollout is in its plan.
#[derive(Clone, Debug, PartialEq)]
pub struct StageReport {
    /// The stage.
    pub name: Arc<str>,
    /// Its place, from 0, and how many there are.
    pub index: usize,
    /// See `index`.
    pub count: usize,
    /// When it began.
    pub entered_at: Option<Wall>,
    /// Time served in it.
    pub served: Duration,
    /// Time it lasts at least.
    pub min_duration: Duration,
    /// Time after which it pauses without a pass.
    pub max_duration: Option<Duration>,
    /// Whether it ends only when a person has said so, and whether one has.
    pub approval: bool,
    /// See `approval`.
    pub approved: bool,
}

/// A gate as last judged.
#[derive(Clone, Debug, PartialEq)]
pub struct GateReport {
    /// The criterion.
    pub when: String,
    /// `pass`, `fail` or `wait`.
    pub verdict: &'static str,
    /// The left side in its held unit; none without data.
    pub value: Option<f64>,
    /// The right side; none without data.
    pub limit: Option<f64>,
    /// The verdict as a sentence, with samples and window.
    pub reason: String,
    /// From how many requests, or samples of another kind, the left side comes.
    pub samples: u64,
    /// How both sides are held: `ratio`, `ms`, `bytes`, or empty for a plain number.
    pub unit: &'static str,
    /// The distance to the limit as a share of it, below zero on the wrong side; none without data, or if the limit is 0.
    pub margin: Option<f64>,
    /// The time it looks at; none is the whole stage.
    pub window: Option<Duration>,
    /// Samples it needs.
    pub min_requests: u64,
}

/// A trigger as last evaluated.
#[derive(Clone, Debug, PartialEq)]
pub struct TriggerReport {
    /// Its name.
    pub name: Arc<str>,
    /// The criterion.
    pub when: String,
    /// `quiet`, `pending` or `firing`.
    pub state: &'static str,
    /// The left side in its held unit; none without data.
    pub value: Option<f64>,
    /// The right side; none without data.
    pub limit: Option<f64>,
    /// The evaluation as a sentence.
    pub reason: String,
    /// How long it must hold.
    pub held_for: Duration,
    /// How long it has held.
    pub held: Duration,
    /// What it does.
    pub action: &'static str,
    /// Whether it only tells.
    pub dry_run: bool,
    /// The rollout that is acted on, if it is another one.
    pub rollout: Option<Arc<str>>,
    /// See `GateReport`.
    pub samples: u64,
    /// See `GateReport`.
    pub unit: &'static str,
    /// The distance to the limit as a share of it, below zero where the criterion holds; see `GateReport`.
    pub margin: Option<f64>,
    /// The time it looks at.
    pub window: Duration,
    /// Samples it needs.
    pub min_requests: u64,
}

/// How a breaker stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BreakerReport {
    /// Where it stands.
    pub state: breaker::State,
    /// Trips that count towards `max_trips`.
    pub trips: u32,
    /// Trips after which the rollout is rolled back; 0 is never.
    pub max_trips: u32,
    /// Why it tripped last, with numbers.
    pub last_reason: Option<String>,
    /// While it is open: the time until some units probe.
    pub cooldown_left: Option<Duration>,
    /// While it is half-open: the share of canary units that probe.
    pub probe: Option<Weight>,
    /// What an operator should know besides.
    pub note: Option<String>,
}

/// One arm over a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmReport {
    /// Requests ended.
    pub requests: u64,
    /// Of those, failures of the arm.
    pub errors: u64,
    /// Requests per second.
    pub rps: f64,
    /// Quantiles of the time to the first byte, in milliseconds; none without requests.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p75_ms: Option<f64>,
    /// See `p50_ms`.
    pub p90_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// See `p50_ms`.
    pub p999_ms: Option<f64>,
    /// Requests under way now.
    pub in_flight: u64,
}

/// What is mirrored to a canary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShadowReport {
    /// Share of the units on stable that is mirrored at present.
    pub share: Weight,
    /// Copies over a window; those under way are not counted.
    pub copies: ArmReport,
    /// Requests of the mirrored share that were not copied, or whose copy says nothing, since the start, by reason.
    pub skipped: Vec<(&'static str, u64)>,
}

impl ArmReport {
    /// Failures per request; none without requests.
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.errors as f64 / self.requests as f64)
    }
}

/// One cohort.
#[derive(Clone, Debug)]
pub struct CohortReport {
    /// Its name.
    pub name: Arc<str>,
    /// Its switch in the file.
    pub enabled: bool,
    /// Whether its run-time switch is off.
    pub killed: bool,
    /// Whether its members are kept off the canary.
    pub exclude: bool,
    /// Members by list, file and API.
    pub units: usize,
}

/// Who asks for a change and why, for the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Who; `operator` if nobody says.
    pub actor: String,
    /// Why, may be empty.
    pub reason: String,
}

/// What sort of thing an entry of the audit trail tells; the words of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The weight in force changed.
    Weight,
    /// Everything goes to stable by a kill.
    Kill,
    /// A kill, an open breaker, a rollback or a hold was undone.
    Revive,
    /// A cohort was switched, or its members changed.
    Cohort,
    /// The rollout stopped serving without a kill.
    Pause,
    /// It serves again.
    Resume,
    /// The breaker sent everything to stable.
    Trip,
    /// The breaker closed: the split flows again.
    Recover,
    /// A stage began.
    Stage,
    /// A stage waits for approval.
    Approval,
    /// A person approved a stage.
    Approve,
    /// A trigger, or both arms' failures, should be looked at.
    Alert,
    /// The rollout went back: to stable, to the stage before, or to half its weight.
    Rollback,
    /// Stable is not healthy after a rollback.
    Escalate,
    /// The last stage has ended.
    Complete,
    /// A baseline was recorded.
    Baseline,
    /// A config was read and applied.
    Reload,
    /// A config was read and refused.
    ReloadFailed,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 18] = [
        Kind::Weight,
        Kind::Kill,
        Kind::Revive,
        Kind::Cohort,
        Kind::Pause,
        Kind::Resume,
        Kind::Trip,
        Kind::Recover,
        Kind::Stage,
        Kind::Approval,
        Kind::Approve,
        Kind::Alert,
        Kind::Rollback,
        Kind::Escalate,
        Kind::Complete,
        Kind::Baseline,
        Kind::Reload,
        Kind::ReloadFailed,
    ];

    /// The word of the contract.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Weight => "weight",
            Kind::Kill => "kill",
            Kind::Revive => "revive",
            Kind::Cohort => "cohort",
            Kind::Pause => "pause",
            Kind::Resume => "resume",
            Kind::Trip => "trip",
            Kind::Recover => "recover",
            Kind::Stage => "stage",
            Kind::Approval => "approval",
            Kind::Approve => "approve",
            Kind::Alert => "alert",
            Kind::Rollback => "rollback",
            Kind::Escalate => "escalate",
            Kind::Complete => "complete",
            Kind::Baseline => "baseline",
            Kind::Reload => "reload",
            Kind::ReloadFailed => "reload_failed",
        }
    }

    /// The kind of that word.
    pub fn from_word(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// One side, old or new, of what an entry tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Nothing to say on this side.
    None,
    /// How a rollout stands.
    Standing {
        /// Where it is in its life.
        state: State,
        /// The stage it is in, or was in when it was rolled back; none without stages.
        stage: Option<Arc<str>>,
        /// The weight in force, kill and breaker aside.
        weight: Weight,
        /// Whether it is killed.
        killed: bool,
        /// Where its breaker stands.
        breaker: breaker::State,
    },
    /// How a cohort is switched.
    Cohort {
        /// Its name.
        cohort: Arc<str>,
        /// Its switch in the file.
        enabled: bool,
        /// Whether its run-time switch is off.
        killed: bool,
    },
    /// How many members were changed at run time. Who they are stays out of the trail.
    Members {
        /// The cohort's name.
        cohort: Arc<str>,
        /// Members by the API besides the config's.
        added: usize,
        /// Members of the config taken out by the API.
        removed: usize,
    },
    /// What a reload did.
    Reload {
        /// One line per change.
        changes: Vec<String>,
        /// Keys that only a restart applies.
        needs_restart: Vec<String>,
    },
    /// Why a reload was refused.
    Problems(Vec<String>),
}

/// One thing to be told in the audit trail, before it has an id and a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The rollout it is about; none for the whole process.
    pub rollout: Option<Arc<str>>,
    /// What sort of thing.
    pub kind: Kind,
    /// Who and why.
    pub origin: Origin,
    /// What it was before.
    pub old: Facts,
    /// What it is now.
    pub new: Facts,
    /// How far back it went, if it did.
    pub to: Option<Back>,
    /// The trigger that fired, if one did.
    pub trigger: Option<Arc<str>>,
}

/// One entry of the audit trail.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Goes up by one.
    pub id: u64,
    /// When.
    pub time: Wall,
    /// The rollout it is about; none for the whole process.
    pub rollout: Option<Arc<str>>,
    /// `weight`, `kill`, `revive`, `cohort`, `reload`, `reload_failed`, ...
    pub kind: &'static str,
    /// Who: an operator's name, `config`, ...
    pub actor: String,
    /// Why, in the actor's words or the program's.
    pub reason: String,
    /// What it was before; JSON text of an object, or `null`.
    pub old: String,
    /// What it is now; JSON text of an object, or `null`.
    pub new: String,
    /// Both arms' numbers at that moment; JSON text of an object, or `null`.
    pub numbers: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_word() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_word(kind.word()), Some(kind));
        }
        assert_eq!(Kind::from_word("chat"), None);
    }

    #[test]
    fn an_arm_without_requests_has_no_error_rate() {
        assert_eq!(ArmReport::default().error_rate(), None);
        let arm = ArmReport { requests: 4, errors: 1, ..ArmReport::default() };
        assert_eq!(arm.error_rate(), Some(0.25));
    }
}
