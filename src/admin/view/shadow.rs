//! What is mirrored to a canary as JSON.

use super::{DiffInShort, thousandths};
use crate::rollout::report::ShadowReport;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is mirrored to a canary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shadow {
    /// Share of the units on stable that is mirrored at present.
    pub share_ppm: u32,
    /// Copies over the window that have ended.
    pub requests: u64,
    /// Of those, failures.
    pub errors: u64,
    /// Failures per copy, 0 to 1; null without copies.
    pub error_rate: Option<f64>,
    /// Copies per second.
    pub rps: f64,
    /// Quantiles of the time to the first byte; null without copies.
    pub p50_ms: Option<f64>,
    /// See `p50_ms`.
    pub p95_ms: Option<f64>,
    /// See `p50_ms`.
    pub p99_ms: Option<f64>,
    /// Requests of that share that were not copied, since weir started, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// What comparing answers came to in the present stage; null where none are compared, and where only the copies are asked for.
    pub diff: Option<DiffInShort>,
}

impl Shadow {
    /// The form of a report.
    pub fn of(report: &ShadowReport) -> Shadow {
        let copies = &report.copies;
        Shadow {
            share_ppm: report.share.ppm(),
            requests: copies.requests,
            errors: copies.errors,
            error_rate: copies.error_rate(),
            rps: thousandths(copies.rps),
            p50_ms: copies.p50_ms.map(thousandths),
            p95_ms: copies.p95_ms.map(thousandths),
            p99_ms: copies.p99_ms.map(thousandths),
            skipped: report.skipped.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            diff: None,
        }
    }
}
