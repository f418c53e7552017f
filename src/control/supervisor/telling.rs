//! Who is told of what was recorded: the store says what waits, the notifier delivers, and what came of it is written down.

use super::super::inbox::{Event, Inbox};
use super::super::notify::{Count, Done, Report};
use super::super::store::NewEvent;
use super::Supervisor;
use crate::config::NotifyKind;
use std::time::Duration;

impl Supervisor {
    /// Takes over what an earlier process did not get told, for the targets that are still there.
    pub(super) fn adopt_targets(&mut self) {
        self.adopt_notify();
        let waiting = self.store.outbox().unwrap_or_else(|error| {
            tracing::error!(%error, "what waits to be told cannot be read");
            Vec::new()
        });
        let wall = self.clock.wall();
        for (target, id) in waiting {
            let time = self.store.told(id).ok().flatten().map(|told| told.event.time);
            let age = time.map_or(0, |time| wall.as_millis().saturating_sub(time.as_millis()));
            let dropped = self.notifier.add(&target, id, Duration::from_millis(age));
            self.drop_told(dropped);
        }
    }

    /// Takes over the targets of the config.
    pub(super) fn adopt_notify(&mut self) {
        self.notifier.adopt(&self.config.notify);
        self.notifier.kinds().into_iter().for_each(|kind| self.facade.notifies(kind));
        let written = self.store.keep_targets(self.notifier.keys());
        self.note(written.map_err(|error| error.to_string()));
    }

    /// Has everybody told of what was just recorded who asked for it.
    pub(super) fn told(&mut self, events: &[NewEvent]) {
        for (id, event) in self.store.given().zip(events) {
            for target in &event.tell {
                let dropped = self.notifier.add(target, id, Duration::ZERO);
                self.drop_told(dropped);
            }
        }
        self.go_on_telling();
    }

    /// Begins what can begin.
    pub(super) fn go_on_telling(&mut self) {
        match self.notifier.go_on(|id| self.store.told(id)) {
            Ok(gone) => self.drop_told(gone),
            // It is tried again with everything else.
            Err(error) => tracing::error!(%error, "the audit trail cannot be read"),
        }
    }

    /// Takes in what came of a delivery. The next one begins when that is written down, so that no end of the process lets more
    /// than one be told twice.
    pub(super) fn notified(&mut self, report: Report) {
        let Some((kind, count, done)) = self.notifier.take(report) else { return };
        self.facade.notified(kind, count);
        if let Some(done) = done {
            self.delivered(&done);
            self.go_on_telling();
        }
    }

    /// At the end of the process: tells for a moment what can be told at once.
    pub(super) async fn tell_the_rest(&mut self, inbox: &mut Inbox) {
        let telling = async {
            while self.notifier.is_telling() {
                match inbox.next_own().await {
                    Some(Event::Notified(report)) => self.notified(report),
                    Some(_) => {}
                    None => return,
                }
            }
        };
        // What is not told by then waits for the next process.
        let _ = tokio::time::timeout(AT_THE_END, telling).await;
    }

    fn drop_told(&mut self, dropped: impl IntoIterator<Item = (Done, NotifyKind)>) {
        for (done, kind) in dropped {
            tracing::warn!(event = done.id, "somebody is not told of it: too much waits");
            self.facade.notified(kind, Count::Dropped);
            self.delivered(&done);
        }
    }

    fn delivered(&mut self, done: &Done) {
        let written = self.store.delivered(&done.target, done.id);
        self.note(written.map_err(|error| error.to_string()));
    }

    fn note(&mut self, written: Result<(), String>) {
        self.notes.unwritten = written.err();
    }
}

/// How long the end of the process waits for those who can be told at once.
const AT_THE_END: Duration = Duration::from_secs(2);
