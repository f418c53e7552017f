//! What a test must know of a plan besides its file: who asks for what, how fast it is answered, and what Prometheus says.

use weir::rollout::Arm;

/// One plan and its world when all is well.
pub struct Plan {
    /// The file's name.
    pub file: &'static str,
    /// The rollout whose arms the faults are about.
    pub rollout: &'static str,
    /// The field that carries the unit.
    pub unit: (&'static str, &'static str),
    /// The users, by number.
    pub user: fn(u64) -> String,
    /// What they ask for, in turn.
    pub targets: &'static [&'static str],
    /// How long an origin takes, in milliseconds.
    pub takes: fn(&str, Arm) -> u64,
    /// What Prometheus says to each query, in the unit that its criteria are written in.
    pub queries: &'static [(&'static str, f64)],
    /// What it says otherwise once a stage has begun: stage, query, value.
    pub later: &'static [(&'static str, &'static str, f64)],
    /// Where web vitals are posted.
    pub vitals: Option<&'static str>,
    /// What the environment says besides addresses.
    pub environment: &'static [(&'static str, &'static str)],
    /// Whether a person starts it.
    pub by_hand: bool,
}

/// All of them.
pub const ALL: [&Plan; 5] = [
    &super::structured_chart_payload::PLAN,
    &super::chat_architecture::PLAN,
    &super::chat_feature::PLAN,
    &super::cohort_canary::PLAN,
    &super::phase1_docflow::PLAN,
];
