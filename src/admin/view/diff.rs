//! The comparisons of a rollout's stage as JSON.

use crate::control::compare::Comparison;
use crate::rollout::diff::Difference as Told;
use crate::rollout::diff::samples::Example as Kept;
use crate::rollout::diff::verdict::FieldJudgement;
use serde::{Deserialize, Serialize};

/// The comparisons of a rollout's stage, judged. Shares are fractions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Diff {
    /// The rollout.
    pub rollout: String,
    /// `pass`, `fail` or `not_enough_data`.
    pub verdict: String,
    /// The verdict as a sentence.
    pub reason: String,
    /// How many samples were asked for.
    pub samples_wanted: u64,
    /// The samples that were judged: the last ones of the stage.
    pub samples: u64,
    /// All samples of the stage that are kept.
    pub samples_kept: u64,
    /// Noise samples of the stage: stable against stable.
    pub noise_samples: u64,
    /// Samples that differ in anything.
    pub differing_with_noise: u64,
    /// Samples that differ in something that is not noise.
    pub differing: u64,
    /// The share of answers that differ, noise taken off.
    pub rate: f64,
    /// Its lower bound, with 95 % confidence.
    pub rate_low: f64,
    /// Its upper bound, with 95 % confidence.
    pub rate_high: f64,
    /// Relative difference up to which two numbers were equal.
    pub tolerance: f64,
    /// The share of samples that may differ.
    pub max_diff_rate: f64,
    /// How often numbers differed by how much, noise left out.
    pub histogram: Vec<Size>,
    /// Differences that have no size, noise left out.
    pub without_size: u64,
    /// How many fields differ.
    pub fields_in_all: usize,
    /// The worst of them.
    pub fields: Vec<Field>,
    /// The requests whose answers differed last, the latest first.
    pub examples: Vec<Example>,
}

/// A bar of the histogram.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Size {
    /// Relative difference of up to so much, and more than the bar before.
    pub up_to: f64,
    /// How many.
    pub count: u64,
}

/// A field that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Field {
    /// Where: `/items/*/price`, `header:location`, `status`, `body`.
    pub path: String,
    /// What kind of difference.
    pub class: String,
    /// `noise`, `fail`, or `ok` where it is not shown to differ too often by itself.
    pub verdict: String,
    /// Samples that differ there.
    pub samples: u64,
    /// Their share.
    pub rate: f64,
    /// The share of noise samples that differ there; null without noise samples.
    pub noise_rate: Option<f64>,
    /// The share that is left when noise is taken off.
    pub rate_without_noise: f64,
    /// The largest difference there, or the last one where there is no size.
    pub outlier: Option<Difference>,
}

/// A difference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// What kind.
    pub class: String,
    /// What stable has there; cut, or withheld.
    pub stable: String,
    /// What the canary has there.
    pub canary: String,
    /// How far two numbers are apart: |a - b| / max(|a|, |b|); null for everything else.
    pub size: Option<f64>,
}

/// A request whose answers differed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Example {
    /// When it was compared; RFC 3339 in UTC.
    pub time: String,
    /// Its method.
    pub method: String,
    /// Its path without the query.
    pub path: String,
    /// The largest differences.
    pub differences: Vec<Difference>,
}

/// The comparisons of a rollout's stage, in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffInShort {
    /// `pass`, `fail` or `not_enough_data`.
    pub verdict: String,
    /// The verdict as a sentence.
    pub reason: String,
    /// The samples that were judged: the last ones of the stage.
    pub samples: u64,
    /// The share of answers that differ, noise taken off.
    pub rate: f64,
    /// The requests whose answers differed last, the latest first, each only once; the diff itself has more of them.
    pub examples: Vec<Example>,
}

impl DiffInShort {
    /// Of that comparison.
    pub fn of(comparison: &Comparison) -> DiffInShort {
        let Comparison { judged, examples: kept, .. } = comparison;
        // The same request with the same difference, again and again, says no more than once.
        let mut examples: Vec<Example> = Vec::new();
        let place = |example: &Example| example.differences.first().map(|told| told.path.clone());
        for example in kept.iter().map(Example::of) {
            let is_known = |known: &Example| known.path == example.path && place(known) == place(&example);
            if examples.len() < EXAMPLES_IN_SHORT && !examples.iter().any(is_known) {
                examples.push(example);
            }
        }
        DiffInShort {
            verdict: judged.verdict.word().to_owned(),
            reason: judged.reason.clone(),
            samples: judged.differing.of,
            rate: judged.rate,
            examples,
        }
    }
}

/// Requests that are shown where there is more to show.
const EXAMPLES_IN_SHORT: usize = 3;

impl Diff {
    /// Of that rollout.
    pub fn of(rollout: &str, comparison: &Comparison) -> Diff {
        let Comparison { judged, limits, kept, examples } = comparison;
        Diff {
            rollout: rollout.to_owned(),
            verdict: judged.verdict.word().to_owned(),
            reason: judged.reason.clone(),
            samples_wanted: limits.samples,
            samples: judged.differing.of,
            samples_kept: kept.0,
            noise_samples: kept.1,
            differing_with_noise: judged.differing_at_all,
            differing: judged.differing.hits,
            rate: judged.rate,
            rate_low: judged.bounds.0,
            rate_high: judged.bounds.1,
            tolerance: limits.tolerance,
            max_diff_rate: limits.max_diff_rate,
            histogram: judged.sizes.iter().map(|(up_to, count)| Size { up_to: *up_to, count: *count }).collect(),
            without_size: judged.without_size,
            fields_in_all: judged.fields_in_all,
            fields: judged.fields.iter().map(Field::of).collect(),
            examples: examples.iter().map(Example::of).collect(),
        }
    }
}

impl Field {
    fn of(judged: &FieldJudgement) -> Field {
        let verdict = match (judged.is_noise, judged.fails) {
            (true, _) => "noise",
            (false, true) => "fail",
            (false, false) => "ok",
        };
        Field {
            path: judged.field.path.clone(),
            class: judged.field.class.word().to_owned(),
            verdict: verdict.to_owned(),
            samples: judged.canary.hits,
            rate: judged.canary.rate(),
            noise_rate: (judged.noise.of > 0).then(|| judged.noise.rate()),
            rate_without_noise: judged.rate,
            outlier: judged.outlier.as_ref().map(Difference::of),
        }
    }
}

impl Difference {
    fn of(told: &Told) -> Difference {
        Difference {
            path: told.path.clone(),
            class: told.class.word().to_owned(),
            stable: told.first.clone(),
            canary: told.second.clone(),
            size: told.size.is_finite().then_some(told.size),
        }
    }
}

impl Example {
    fn of(kept: &Kept) -> Example {
        Example {
            time: kept.at.to_string(),
            method: kept.method.clone(),
            path: kept.path.clone(),
            differences: kept.differences.iter().map(Difference::of).collect(),
        }
    }
}
