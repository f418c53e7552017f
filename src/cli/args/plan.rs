//! The verbs that work with a plan.

use super::{Note, span};
use clap::{Args, ValueEnum};
use std::time::Duration;

/// `weir pause`, `resume`, `approve`.
#[derive(Debug, Args)]
pub struct Steer {
    /// The rollout
    pub rollout: String,
    /// Taken, so that the answer can say what is there for a cohort instead.
    #[arg(long, value_name = "NAME", hide = true)]
    pub cohort: Option<String>,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

/// `weir promote`.
#[derive(Debug, Args)]
pub struct Promote {
    /// The rollout
    pub rollout: String,
    /// Ask neither gates nor approval, nor what the stage should come after
    #[arg(long)]
    pub force: bool,
    /// Begin the last stage, passing over those between
    #[arg(long)]
    pub full: bool,
    /// Taken, so that the answer can say what is there for a cohort instead.
    #[arg(long, value_name = "NAME", hide = true)]
    pub cohort: Option<String>,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

/// `weir rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// The rollout
    pub rollout: String,
    /// How far: everyone to `stable`, to the start of the `previous` stage, or to `half` the weight and a pause
    #[arg(
        long,
        value_enum,
        default_value = "stable",
        hide_possible_values = true,
        value_name = "stable|previous|half"
    )]
    pub to: Back,
    /// Only take this cohort off the canary; `weir revive` with the same cohort lets it on again
    #[arg(long, value_name = "NAME")]
    pub cohort: Option<String>,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

/// How far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Back {
    /// Everyone to stable.
    Stable,
    /// To the start of the stage before.
    Previous,
    /// Half the weight, and a pause.
    Half,
}

impl Back {
    /// The word of the API.
    pub const fn word(self) -> &'static str {
        match self {
            Back::Stable => "stable",
            Back::Previous => "previous",
            Back::Half => "half",
        }
    }
}

/// `weir validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// The rollout
    pub rollout: String,
    /// Ask about the first stage that admits this cohort, instead of the next one
    #[arg(long, value_name = "NAME")]
    pub cohort: Option<String>,
}

/// `weir health`.
#[derive(Debug, Args)]
pub struct Health {
    /// The rollout
    pub rollout: String,
    /// How long, e.g. 1h
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub duration: Duration,
    /// Also judge by this cohort's own numbers, where a criterion can be narrowed to it
    #[arg(long, value_name = "NAME")]
    pub cohort: Option<String>,
}

pub(super) const HEALTH_HELP: &str = "\
Exit code 0 if no trigger fired and no gate failed all that time, 1 at once if one does, or if the rollout is
paused, rolled back or killed, or its breaker opens.
Example:  weir health chat --duration 1h
          weir health chat --cohort beta --duration 10m";

pub(super) const VALIDATE_HELP: &str = "\
Exit code 0 if it may begin, 1 if not or not yet.
Example:  weir validate chat
          weir validate chat --cohort friendly_gp && weir promote chat";

pub(super) const PROMOTE_HELP: &str = "\
Example:  weir promote chat
          weir promote chat --force --full --reason 'straight to 100%'";

pub(super) const ROLLBACK_HELP: &str = "\
Example:  weir rollback chat --reason 'support is flooded'
          weir rollback chat --to previous
          weir rollback chat --cohort partners";
