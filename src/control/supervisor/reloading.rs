//! What a reading of the config comes to: nothing new, a refusal, or a config that goes the way of every input once the
//! names it needs are known.

use super::super::Reloaded;
use super::{Denied, FORGET_AFTER, Supervisor, scaling};
use crate::config::Loaded;
use crate::config::change::{self, Change};
use crate::rollout::engine::{Input, Record, Refused};
use crate::rollout::report::{Entry, Facts, Kind};
use std::sync::Arc;

impl Supervisor {
    /// Takes in what a reading found.
    pub(super) fn read(&mut self, found: Result<Box<(Loaded, Change)>, Vec<String>>) {
        match found {
            Err(problems) => self.refuse(problems),
            Ok(read) => {
                let new = &read.0.config;
                let same = new.effective == self.config.effective
                    && new.digests == self.config.digests
                    && self.notifier.follows(&new.notify);
                if same && self.notes.refused.is_none() && self.reloader.is_quiet() {
                    self.reloader.askers();
                    return;
                }
                // Names of both configs, because the old one is in force until the new one's names are known.
                self.resolver.adopt(self.config.upstreams.iter().chain(&new.upstreams));
                self.resolver.ask();
                self.awaiting_names = Some((read, NAMES_WITHIN_TICKS));
                self.go_on_with_names();
            }
        }
    }

    /// Applies the config that waits for names, once they are known or there was enough time.
    pub(super) fn go_on_with_names(&mut self) {
        let enough = |ticks: u32| ticks == 0 || self.resolver.is_settled();
        if self.awaiting_names.as_ref().is_some_and(|(_, ticks)| enough(*ticks))
            && let Some((read, _)) = self.awaiting_names.take()
        {
            let (loaded, change) = *read;
            self.apply(loaded, change);
        }
    }

    fn apply(&mut self, loaded: Loaded, change: Change) {
        let origin = self.reloader.origin();
        let exposes = change::may_expose(&self.config, &loaded.config);
        let next = Arc::new(scaling::config(change::without_restart(&self.config, loaded.config), self.time_scale));
        let before = std::mem::replace(&mut self.config, next);
        let changes: Vec<String> =
            change.lines.into_iter().chain(change.moves.iter().map(ToString::to_string)).collect();
        let input = Input::Reload {
            plans: self.config.rollouts.iter().map(|rollout| rollout.plan.clone()).collect(),
            exposes,
            changes: changes.clone(),
            needs_restart: change.needs_restart.clone(),
            origin,
        };
        if let Err(refused) = self.carry_out(input) {
            self.config = before;
            self.resolver.adopt(&self.config.upstreams);
            let reason = match refused {
                Refused::Conflict(reason) | Refused::NotFound(reason) => reason,
                Refused::Invalid { message, .. } => message,
            };
            return self.refuse(vec![reason]);
        }
        self.resolver.adopt(&self.config.upstreams);
        self.adopt_notify();
        self.forget_at.get_or_insert(self.clock.now() + FORGET_AFTER);
        self.facade.reloaded(true);
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        tracing::info!(generation = self.publisher.generation(), changes = changes.len(), "config reloaded");
        if !change.needs_restart.is_empty() {
            tracing::warn!(keys = change.needs_restart.join(", "), "only a restart applies these keys");
        }
        self.notes.refused = None;
        self.notes.needs_restart.clone_from(&change.needs_restart);
        let generation = self.publisher.generation();
        for reply in self.reloader.askers().into_iter().filter_map(|asker| asker.reply) {
            let (changes, needs_restart) = (changes.clone(), change.needs_restart.clone());
            // Whoever asked may have stopped waiting.
            let _ = reply.send(Ok(Reloaded { generation, changes, needs_restart }));
        }
    }

    /// Leaves everything as it is, and says why.
    fn refuse(&mut self, problems: Vec<String>) {
        let known = self.notes.refused.as_ref() == Some(&problems);
        if !(known && self.reloader.is_quiet()) {
            for problem in &problems {
                tracing::warn!("config refused: {problem}");
            }
            self.facade.reloaded(false);
            let entry = Entry {
                rollout: None,
                kind: Kind::ReloadFailed,
                origin: self.reloader.origin(),
                old: Facts::None,
                new: Facts::Problems(problems.clone()),
                to: None,
                trigger: None,
            };
            self.record(&Record { first: false, saves: Vec::new(), entries: vec![entry] });
        }
        for reply in self.reloader.askers().into_iter().filter_map(|asker| asker.reply) {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(Err(Denied::Conflict(format!("config refused: {}", problems.join("\n")))));
        }
        self.notes.refused = Some(problems);
    }
}

/// How long a config waits for the names of its endpoints, in readings of the tallies (25 ms): they go on by the system's
/// clock whatever a test's clock does.
const NAMES_WITHIN_TICKS: u32 = 80;
