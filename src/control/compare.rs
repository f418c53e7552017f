//! Compares the answers that workers hand over, on a thread of its own: neither a worker nor the control plane's loop waits for
//! a comparison. What came of it is kept by rollout (`rollout::diff::samples`) and read by criteria, metrics and `weir diff`.

mod read;
#[cfg(test)]
mod tests;

use crate::clock::{Clock, Time};
use crate::pairs::{Pair, Pairs};
use crate::rollout::bucket::Weight;
use crate::rollout::criterion::Reading;
use crate::rollout::diff::samples::{Example, Kind, Samples};
use crate::rollout::diff::verdict::{self, Judgement, Limits};
use crate::rollout::diff::{Rules, cut};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// What was compared so far; shared by the thread that compares and those that read.
#[derive(Debug, Default)]
pub struct Compared {
    rollouts: Mutex<BTreeMap<Arc<str>, Ledger>>,
}

/// What was compared of one rollout.
#[derive(Debug, Default)]
struct Ledger {
    samples: Samples,
    totals: Totals,
}

/// What came of comparisons since the start, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By the words of `VERDICTS`.
    pub verdicts: [u64; VERDICTS.len()],
}

/// What may come of a comparison: the `verdict` label of `weir_shadow_diffs_total`. The last is an answer that is longer than is
/// compared where nothing else differs: that is no sample.
pub const VERDICTS: [&str; 5] = ["equal", "different", "noise_equal", "noise_different", "too_large"];

/// The comparisons of a rollout's stage, as they are asked for.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The verdict and what it is made of.
    pub judged: Judgement,
    /// By what it was judged.
    pub limits: Limits,
    /// Samples of the stage, and those of noise; of which the last were judged.
    pub kept: (u64, u64),
    /// The pairs that differed last, the latest first.
    pub examples: Vec<Example>,
}

impl Compared {
    /// A stage of that rollout begins: what was compared before says nothing of it.
    pub fn mark(&self, rollout: &str, now: Time) {
        if let Some(ledger) = self.lock().get_mut(rollout) {
            ledger.samples = Samples::new(now);
        }
    }

    /// Forgets rollouts that are gone.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|rollout, _| is_there(rollout));
    }

    /// `shadow.diff_rate` since then.
    pub fn reading(&self, rollout: &str, since: Time, limits: Limits) -> Reading {
        let rollouts = self.lock();
        let Some(ledger) = rollouts.get(rollout) else { return Reading::NoData("no comparisons".into()) };
        match verdict::rate(&ledger.samples, since, limits) {
            Ok((value, samples)) => Reading::Value { value, samples },
            Err(why) => Reading::NoData(why.into()),
        }
    }

    /// The comparisons of a rollout's stage, judged.
    pub fn judge(&self, rollout: &str, limits: Limits) -> Comparison {
        // Judged from a copy, because bounds take their time, and the control plane's loop reads here too.
        let samples = self.lock().get(rollout).map(|ledger| ledger.samples.clone()).unwrap_or_default();
        let judged = verdict::judge(&samples, limits);
        Comparison { judged, limits, kept: verdict::count(&samples), examples: samples.examples().cloned().collect() }
    }

    /// What came of all comparisons, by rollout.
    pub fn totals(&self) -> BTreeMap<Arc<str>, Totals> {
        self.lock().iter().map(|(rollout, ledger)| (Arc::clone(rollout), ledger.totals)).collect()
    }

    fn take(&self, pair: &Pair, clock: &Clock) {
        let rules = match pair.kind {
            Kind::Canary => Arc::clone(&pair.rules),
            // What comes and goes by itself is noise in either direction.
            Kind::Noise => Arc::new(Rules { added_fields: true, ..Rules::clone(&pair.rules) }),
        };
        // Not under the lock: a comparison may take a while.
        let found = read::compared(pair, &rules);
        let differs = found.differs(rules.tolerance);
        let mut rollouts = self.lock();
        let ledger = rollouts.entry(Arc::clone(&pair.rollout)).or_default();
        let verdict = match (pair.kind, differs) {
            (_, false) if found.unread => 4,
            (Kind::Canary, false) => 0,
            (Kind::Canary, true) => 1,
            (Kind::Noise, false) => 2,
            (Kind::Noise, true) => 3,
        };
        if let Some(count) = ledger.totals.verdicts.get_mut(verdict) {
            *count += 1;
        }
        // A request of an earlier stage says nothing of this one.
        if (found.unread && !differs) || pair.at < ledger.samples.began() {
            return;
        }
        let example = || Example {
            at: clock.wall(),
            method: pair.method.as_str().to_owned(),
            path: cut(&pair.path),
            differences: found.worst(DIFFERENCES_SHOWN_MAX),
        };
        ledger.samples.record(clock.now(), pair.kind, &found, &rules, example);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Ledger>> {
        // What a thread that panicked left behind is whole: it changes by single steps.
        self.rollouts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that compares.
#[derive(Debug)]
pub struct Comparer {
    pairs: Arc<Pairs>,
    thread: Option<JoinHandle<()>>,
}

impl Comparer {
    /// Starts it. If the system has no thread for it nothing is compared, and pairs are dropped.
    pub fn start(pairs: Arc<Pairs>, compared: Arc<Compared>, clock: Clock) -> Comparer {
        let way = Arc::clone(&pairs);
        let run = move || way.each(|pair| compared.take(&pair, &clock));
        let thread = thread::Builder::new().name("weir-diff".into()).spawn(run);
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no answers are compared")).ok();
        Comparer { pairs, thread }
    }
}

impl Drop for Comparer {
    fn drop(&mut self) {
        self.pairs.end();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that compares answers failed");
        }
    }
}

/// What a rollout's own rules ask, judged by so many samples.
pub fn limits(rules: &Rules, noise: Weight, samples: u64, tolerance: Option<f64>) -> Limits {
    Limits {
        tolerance: tolerance.unwrap_or(rules.tolerance),
        max_diff_rate: tolerance.unwrap_or(rules.max_diff_rate),
        noise: f64::from(noise.ppm()) / 1e6,
        samples,
    }
}

/// Differences of one pair that are kept.
const DIFFERENCES_SHOWN_MAX: usize = 8;
