//! The verbs that work with a plan.

use super::{Note, named, span};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
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

/// `weir baseline`.
#[derive(Debug, Args)]
pub struct Baseline {
    /// The rollout
    pub rollout: String,
    /// Take what both arms did in the present stage so far; what they did not do stays as it is
    #[arg(long, conflicts_with_all = ["set", "import"])]
    pub capture: bool,
    /// Set a value, e.g. "stable p95=150ms"; may be repeated, the others stay as they are
    #[arg(long, value_name = "NAME=VALUE", value_parser = named, conflicts_with = "import")]
    pub set: Vec<(String, String)>,
    /// Take the baseline of a file that `weir baseline -o json` wrote, in place of the present one
    #[arg(long, value_name = "FILE")]
    pub import: Option<PathBuf>,
    /// For the audit trail
    #[command(flatten)]
    pub note: Note,
}

pub(super) const BASELINE_HELP: &str = "\
A NAME is an arm and a metric of the criteria: \"stable error_rate\", \"canary total.p99\", \"stable p95{ROUTE}\",
\"stable p95{cohort:NAME}\"; what belongs to no arm does without: query.memory, weir.memory. A VALUE has its unit: 0.05%, 150ms, 30MB.
Plans compare with the new values at their next look.
Exit code 1 if nothing has been measured that could be captured.
Example:  weir baseline chat
          weir baseline chat --capture --reason 'a quiet week on legacy'
          weir baseline chat --set 'stable error_rate=0.05%' --set 'stable p95=150ms' --set query.memory=30MB
          weir baseline chat -o json > chat.json
          weir baseline chat --import chat.json";

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
