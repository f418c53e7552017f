//! The only publisher of snapshots and the control plane's hand on the latches: it sees to it that no kill is lost
//! between two snapshots.

use crate::config::{self, Config, Live};
use crate::latch::{Latch, Latches};
use crate::rollout::assign::Switches;
use crate::rollout::breaker::State;
use crate::rollout::cohort::Cohort;
use crate::snapshot::{Published, Snapshot};
use crate::tally::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Compiles, numbers and stores snapshots.
#[derive(Debug)]
pub struct Publisher {
    /// All cells; the collector reads them.
    pub registry: Registry,
    latches: Arc<Latches>,
    published: Option<Arc<Published<Snapshot>>>,
    generation: u64,
    /// What the engine wants to be on in each rollout's latch. Anything else that is on is a kill of which the engine
    /// has not heard yet: an operator's thread sets the latch before it sends the command.
    wanted: BTreeMap<Arc<str>, u64>,
    /// Each rollout's switches as they were when it was measured last: a step towards the canary goes by them.
    seen: BTreeMap<Arc<str>, Switches>,
    /// Of latches that the next snapshot replaces: what was wanted of the old one.
    replaced: BTreeMap<Arc<str>, u64>,
}

impl Publisher {
    /// A publisher that has published nothing.
    pub fn new(workers: usize) -> Self {
        Publisher {
            registry: Registry::new(workers),
            latches: Arc::default(),
            published: None,
            generation: 0,
            wanted: BTreeMap::new(),
            seen: BTreeMap::new(),
            replaced: BTreeMap::new(),
        }
    }

    /// The number of the present snapshot; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the workers see and what acts at once; none before the first snapshot.
    pub fn shared(&self) -> Option<(Arc<Published<Snapshot>>, Arc<Latches>)> {
        self.published.as_ref().map(|published| (Arc::clone(published), Arc::clone(&self.latches)))
    }

    /// The present snapshot; none before the first.
    pub fn present(&self) -> Option<Arc<Snapshot>> {
        self.published.as_ref().map(|published| published.load())
    }

    /// Switches on in a rollout's latch.
    pub fn set(&mut self, rollout: &Arc<str>, switches: Switches) {
        *self.wanted.entry(Arc::clone(rollout)).or_default() |= switches.bits();
        self.latches.of(rollout).set(switches);
    }

    /// Switches off in a rollout's latch.
    pub fn clear(&mut self, rollout: &Arc<str>, switches: Switches) {
        *self.wanted.entry(Arc::clone(rollout)).or_default() &= !switches.bits();
        self.latches.of(rollout).clear(switches);
    }

    /// The latch of a rollout that is about to be measured.
    pub fn watch(&mut self, rollout: &Arc<str>) -> Arc<Latch> {
        let latch = self.latches.of(rollout);
        let now = latch.read();
        match self.seen.get_mut(rollout) {
            Some(seen) => *seen = now,
            None => drop(self.seen.insert(Arc::clone(rollout), now)),
        }
        latch
    }

    /// Brings a rollout's circuit into that state; towards the canary only if it is as it was when it was measured.
    pub fn circuit(&mut self, rollout: &Arc<str>, state: State) -> bool {
        let latch = self.latches.of(rollout);
        let seen = self.seen.get(rollout).copied().unwrap_or_else(|| latch.read());
        let moved = match state {
            State::Open => latch.open(),
            State::HalfOpen => latch.half_open(seen),
            State::Closed => latch.read().state() != State::Closed && latch.close(seen),
        };
        self.watch(rollout);
        moved
    }

    /// Gives the rollout a new latch from the next snapshot on.
    pub fn renew(&mut self, rollout: &Arc<str>, switches: Switches) {
        let before = self.wanted.insert(Arc::clone(rollout), switches.bits()).unwrap_or(0);
        self.replaced.entry(Arc::clone(rollout)).or_insert(before);
        self.latches.renew(rollout, switches);
    }

    /// Compiles and stores the next snapshot.
    pub fn publish(&mut self, config: &Config, live: &Live) -> u64 {
        self.generation += 1;
        let next = config::compile(config, live, &mut self.registry, &self.latches, self.generation);
        let replaced = std::mem::take(&mut self.replaced);
        match &self.published {
            None => self.published = Some(Arc::new(Published::new(self.generation, next))),
            Some(published) => {
                let before = published.load();
                published.store(self.generation, next);
                let after = published.load();
                for (rollout, wanted) in &replaced {
                    carry_over(rollout, *wanted, &before, &after);
                }
            }
        }
        self.generation
    }
}

/// Sets what was switched on in the old latch without the engine's knowledge in the new one too. Whoever switches looks
/// at the snapshot once more afterwards: either it found the new latch then, or it was early enough to be seen here.
fn carry_over(rollout: &str, wanted: u64, before: &Snapshot, after: &Snapshot) {
    let (Some(old), Some(new)) = (latch_of(before, rollout), latch_of(after, rollout)) else { return };
    let late = Switches::from_bits(old.0.read().bits() & !wanted);
    if late.killed() {
        new.0.set(Switches::KILLED);
    }
    for (_, cohort) in old.1.iter().enumerate().filter(|(index, _)| late.cohort_killed(*index)) {
        let place = new.1.iter().position(|found| found.name == cohort.name);
        if let Some(switch) = place.and_then(Switches::cohort) {
            new.0.set(switch);
        }
    }
}

/// A rollout's latch in a snapshot, and the cohorts that its bits stand for.
pub fn latch_of<'s>(snapshot: &'s Snapshot, rollout: &str) -> Option<(&'s Latch, &'s [Cohort])> {
    let index = snapshot.splits.iter().position(|split| &*split.name == rollout)?;
    Some((&snapshot.rollouts.get(index)?.latch, &snapshot.splits.get(index)?.cohorts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Format, UserFiles, load_text};
    use std::path::Path;

    fn config(cohorts: &[&str]) -> Config {
        let cohorts: String =
            cohorts.iter().map(|name| format!("[rollouts.chat.cohorts.{name}]\nusers = [\"u\"]\n")).collect();
        let text = format!(
            "[[listeners]]\naddress = \"127.0.0.1:18080\"\n[upstreams.legacy]\nendpoints = [\"127.0.0.1:9001\"]\n\
             [rollouts.chat]\nunit = [\"client-ip\"]\nstable = {{ upstream = \"legacy\" }}\n\
             canary = {{ upstream = \"legacy\" }}\n{cohorts}"
        );
        let folder = Path::new("/nowhere");
        load_text("weir.toml", &text, Format::Toml, folder, &[], &mut UserFiles::default()).unwrap().config
    }

    #[test]
    fn what_was_switched_off_between_two_latches_is_off_in_the_new_one() {
        let mut publisher = Publisher::new(1);
        let chat: Arc<str> = "chat".into();
        let cohort = |index| Switches::cohort(index).unwrap();
        publisher.renew(&chat, Switches::KILLED);
        publisher.publish(&config(&["a", "b"]), &Live::default());
        let before = publisher.present().unwrap();

        publisher.renew(&chat, Switches::NONE);
        // An operator's thread still sees the old snapshot.
        latch_of(&before, "chat").unwrap().0.set(cohort(1));
        publisher.publish(&config(&["b", "a"]), &Live::default());
        let after = publisher.present().unwrap();
        assert_eq!(after.generation, 2);
        let switches = latch_of(&after, "chat").unwrap().0.read();
        assert!(switches.cohort_killed(0) && !switches.cohort_killed(1), "cohort b by name");
        assert!(!switches.killed(), "what the engine itself took back stays taken back");

        publisher.renew(&chat, Switches::NONE);
        latch_of(&after, "chat").unwrap().0.set(Switches::KILLED);
        publisher.publish(&config(&["a"]), &Live::default());
        assert!(latch_of(&publisher.present().unwrap(), "chat").unwrap().0.read().killed());
    }
}
