//! After a rollback stable must be well, else somebody has to know: it is judged a while later, for a while.

use super::{Course, Ground, Measurements, Over, Turn};
use crate::clock::Time;
use crate::rollout::criterion::{Criterion, parse};
use crate::rollout::report::Kind;
use crate::rollout::scale::WINDOW_MIN;
use crate::rollout::stages::{Span, Stages, span_text};
use std::sync::LazyLock;
use std::time::Duration;

/// How long after a rollback stable is judged, and over which time: what was under way has ended by then.
const RECHECK_AFTER: Duration = Duration::from_secs(10);
/// How long it is looked at, and the least that a time scale leaves of that: a few windows.
const RECHECK_UNTIL: Duration = Duration::from_secs(60);
const RECHECK_UNTIL_MIN: Duration = Duration::from_secs(10);
/// Share of failures from which stable counts as sick after a rollback.
pub(super) static STABLE_SICK: LazyLock<Option<Criterion>> = LazyLock::new(|| parse("stable.error_rate > 5%").ok());
/// Requests that this needs.
const RECHECK_REQUESTS_MIN: u64 = 10;

impl Course {
    /// After a rollback stable must be well, else somebody has to know.
    pub(super) fn recheck(&mut self, now: Time, ground: &Ground<'_>, measured: &impl Measurements) -> Option<Turn> {
        let waited = now.since(self.rechecks_since?);
        let after = recheck_after(ground.stages);
        if waited < after {
            return None;
        }
        if waited > ground.stages.scale.shrunk(RECHECK_UNTIL, RECHECK_UNTIL_MIN) {
            self.rechecks_since = None;
        }
        let sick = STABLE_SICK.as_ref()?;
        let over = Over { measured, span: Span::Last(after) };
        let found = sick.evaluate(&over, RECHECK_REQUESTS_MIN, &span_text(after));
        if found.holds != Some(true) {
            return None;
        }
        self.rechecks_since = None;
        let reason = format!("stable is not healthy after the rollback: {}", found.reason);
        Some(ground.turn(Kind::Escalate, ground.progress.clone(), reason))
    }
}

/// How long after a rollback stable is judged under this plan, and over which time.
pub(super) fn recheck_after(stages: &Stages) -> Duration {
    stages.scale.shrunk(RECHECK_AFTER, WINDOW_MIN)
}
