//! `weir diff`.

use super::span;
use clap::Args;
use std::time::Duration;

/// `weir diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The rollout
    pub rollout: String,
    /// Judge the last so many samples of the present stage, and wait until there are as many
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=20_000))]
    pub samples: u64,
    /// Relative difference up to which two numbers are equal, and the share of samples that may differ [default: the config's]
    #[arg(long, value_name = "T", value_parser = tolerance)]
    pub tolerance: Option<f64>,
    /// Wait no longer than this for samples
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = span)]
    pub timeout: Duration,
}

fn tolerance(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').map(|number| number.trim().parse::<f64>().map(|number| number / 100.0));
    let number = percent.unwrap_or_else(|| text.parse()).ok();
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or("expected a number from 0 to 1, like 0.005 or 0.5%".to_owned())
}

pub(super) const HELP: &str = "\
Answers are compared where the rollout has `shadow.diff`. What differs between two answers of stable is noise and taken off.
Exit code 0 is a pass; 1 is a fail, or not enough samples within the time.

Example:  weir diff chat
          weir diff chat --samples 1000 --tolerance 0.005 --timeout 2m";
