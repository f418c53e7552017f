//! What happened but could not be written yet, so that it is written later.

use super::NewEvent;
use super::outbox::Told;
use crate::rollout::incident::{IncidentRecord, Recheck};
use crate::rollout::report::Event;
use crate::rollout::standing::Save;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// What a save is about: a rollout, perhaps one of its cohorts, perhaps a unit of that.
type SaveKey = (Arc<str>, Option<Arc<str>>, Option<Arc<str>>);

/// The last word on every piece of state, and what was told since.
#[derive(Debug, Default)]
pub struct Unwritten {
    /// State to replace.
    pub saves: BTreeMap<SaveKey, Save>,
    /// Entries of the audit trail with their ids.
    pub events: VecDeque<(u64, NewEvent)>,
    /// Targets that were told of an event, by target and event.
    pub delivered: BTreeSet<(Arc<str>, u64)>,
    /// The targets that there are, if that changed.
    pub targets: Option<Vec<Arc<str>>>,
    /// What became of stable after the last rollback of a rollout, or of every one that is open.
    pub rechecks: Vec<(Option<Arc<str>>, Recheck, String)>,
}

impl Unwritten {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        let Unwritten { saves, events, delivered, targets, rechecks } = self;
        saves.is_empty() && events.is_empty() && delivered.is_empty() && targets.is_none() && rechecks.is_empty()
    }

    /// Keeps a record; its entries get ids from `id` on.
    pub fn keep(&mut self, saves: &[Save], events: &[NewEvent], id: u64) -> Range<u64> {
        for save in saves {
            let (cohort, unit) = match save {
                Save::Rollout { .. } => (None, None),
                Save::Captured { stage, .. } => (None, Some(Arc::clone(stage))),
                Save::Cohort { cohort, .. } => (Some(Arc::clone(cohort)), None),
                Save::Member { cohort, unit, .. } => (Some(Arc::clone(cohort)), Some(Arc::clone(unit))),
            };
            self.saves.insert((Arc::clone(save.rollout()), cohort, unit), save.clone());
        }
        self.events.extend((id..).zip(events.iter().cloned()));
        let too_many = self.events.len().saturating_sub(EVENTS_UNWRITTEN_MAX);
        self.events.drain(..too_many);
        id..id + events.len() as u64
    }

    /// The entries after event `since`.
    pub fn events_after(&self, since: u64) -> impl Iterator<Item = Event> {
        self.events.iter().filter(move |(id, _)| *id > since).map(|(id, event)| event_of(*id, event))
    }

    /// The incidents of a rollout.
    pub fn incidents(&self, rollout: &str) -> impl Iterator<Item = IncidentRecord> {
        let own = self.events.iter().filter(move |(_, event)| event.rollout.as_deref() == Some(rollout));
        own.filter_map(|(id, event)| {
            let incident = event.incident.as_ref()?;
            Some(IncidentRecord {
                event: *id,
                body: incident.body.clone(),
                recheck: incident.rechecked.then(|| Recheck::Pending.word().to_owned()),
                recheck_reason: None,
            })
        })
    }

    /// The entry of that id.
    pub fn told(&self, id: u64) -> Option<Told> {
        let (_, event) = self.events.iter().find(|(known, _)| *known == id)?;
        Some(Told { event: event_of(id, event), key: event.key })
    }
}

fn event_of(id: u64, event: &NewEvent) -> Event {
    Event {
        id,
        time: event.time,
        rollout: event.rollout.clone(),
        kind: event.kind.word(),
        actor: event.origin.actor.clone(),
        reason: event.origin.reason.clone(),
        old: event.old.clone(),
        new: event.new.clone(),
        numbers: event.numbers.clone(),
    }
}

/// Entries that wait for a disk that takes no writes; older ones are given up, state never.
pub const EVENTS_UNWRITTEN_MAX: usize = 1000;
