//! Signals that are posted: who they count for is worked out here, by the unit's own arm or the one that is named, and told
//! back. The collector counts them; the admin API brings them.

use super::Denied;
use super::collect::Collector;
use crate::clock::Time;
use crate::config::hint;
use crate::rollout::Arm;
use crate::rollout::assign::{Reason, UnitAsker, decide};
use crate::snapshot::Snapshot;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Something that happened, as it is posted.
#[derive(Clone, Debug)]
pub struct Posting {
    /// The rollout that it is about; none is every one.
    pub rollout: Option<String>,
    /// Whose it is.
    pub whose: Whose,
    /// How often it happened; at least once.
    pub count: u64,
}

/// On which side something happened.
#[derive(Clone, Debug)]
pub enum Whose {
    /// On that arm.
    Arm(Arm),
    /// On the arm that this unit has now.
    Unit(String),
}

/// For which arm of which rollouts a posting was counted; a unit whose arm is forced or probes counts for none.
pub type Counted = BTreeMap<Arc<str>, Option<Arm>>;

/// Counts a posting of that signal.
///
/// # Errors
/// `NotFound` if there is no such signal or rollout.
pub fn post(
    snapshot: &Snapshot,
    collector: &mut Collector,
    signal: &str,
    posting: &Posting,
    now: Time,
) -> Result<Counted, Denied> {
    let Some(known) = snapshot.signals.iter().find(|known| *known.name == *signal) else {
        return Err(missing("signal", signal, snapshot.signals.iter().map(|signal| &*signal.name)));
    };
    let named = |name: &str| posting.rollout.as_ref().is_none_or(|wanted| wanted == name);
    let mut counted = Counted::new();
    for (index, split) in snapshot.splits.iter().enumerate().filter(|(_, split)| named(&split.name)) {
        let arm = match &posting.whose {
            Whose::Arm(arm) => Some(*arm),
            Whose::Unit(unit) => arm_of(snapshot, index, unit),
        };
        if let Some(arm) = arm {
            collector.beside.post(&split.name, arm, &known.name, posting.count, now);
        }
        counted.insert(Arc::clone(&split.name), arm);
    }
    match &posting.rollout {
        Some(wanted) if counted.is_empty() => {
            Err(missing("rollout", wanted, snapshot.splits.iter().map(|split| &*split.name)))
        }
        _ => Ok(counted),
    }
}

fn arm_of(snapshot: &Snapshot, index: usize, unit: &str) -> Option<Arm> {
    let asker = UnitAsker::of(unit).with_switches(snapshot.rollouts.iter().map(|rollout| rollout.latch.read()));
    let decision = decide(&snapshot.splits, index, &asker);
    (decision.reason != Reason::Probe).then_some(decision.arm)
}

fn missing<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Denied {
    let known: Vec<&str> = known.collect();
    let shown: String = name.chars().take(128).collect();
    Denied::NotFound(format!("there is no {what} `{}`; {}", shown.escape_debug(), hint(&shown, &known)))
}
