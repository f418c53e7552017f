//! Who is still to be told of which event: a row for each, written together with the event and removed once it was delivered.
//!
//! So a process that is killed between the two tells nobody twice, but for the one delivery that was under way.

use super::{Store, WriteError, event_of};
use crate::rollout::report::Event;
use rusqlite::{OptionalExtension, Transaction, params};
use std::collections::BTreeSet;
use std::sync::Arc;

/// An event as somebody is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The event.
    pub event: Event,
    /// Tells it from every other event of any process.
    pub key: u64,
}

impl Store {
    /// Who is still to be told of which event: target and id, the oldest first.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn outbox(&self) -> Result<Vec<(Arc<str>, u64)>, rusqlite::Error> {
        let mut statement = self.connection.prepare("SELECT target, event FROM outbox ORDER BY event")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        rows.collect()
    }

    /// An event of the trail; none if it is no longer there.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn told(&self, id: u64) -> Result<Option<Told>, rusqlite::Error> {
        if let Some(told) = self.unwritten.told(id) {
            return Ok(Some(told));
        }
        let sql = "SELECT id, time_ms, rollout, kind, actor, reason, old, new, numbers, key FROM events WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let told =
            |row: &rusqlite::Row<'_>| Ok(Told { event: event_of(row)?, key: row.get::<_, i64>(9)?.cast_unsigned() });
        statement.query_row([id.cast_signed()], told).optional()
    }

    /// A target need not be told of that event any more. What cannot be written down is kept for later.
    ///
    /// # Errors
    /// `WriteError` if nothing was written.
    pub fn delivered(&mut self, target: &Arc<str>, id: u64) -> Result<(), WriteError> {
        self.unwritten.delivered.insert((Arc::clone(target), id));
        self.retry()
    }

    /// These are the targets that there are: what others were to be told is forgotten, now or later.
    ///
    /// # Errors
    /// `WriteError` if nothing was written.
    pub fn keep_targets(&mut self, targets: Vec<Arc<str>>) -> Result<(), WriteError> {
        self.unwritten.targets = Some(targets);
        self.retry()
    }
}

/// Notes who is to be told of an event.
pub fn add(transaction: &Transaction<'_>, id: i64, targets: &[Arc<str>]) -> Result<(), rusqlite::Error> {
    let sql = "INSERT OR IGNORE INTO outbox (target, event) VALUES (?1, ?2)";
    for target in targets {
        transaction.prepare_cached(sql)?.execute(params![target, id])?;
    }
    Ok(())
}

/// Notes who has been told.
pub fn remove(transaction: &Transaction<'_>, delivered: &BTreeSet<(Arc<str>, u64)>) -> Result<(), rusqlite::Error> {
    for (target, id) in delivered {
        let sql = "DELETE FROM outbox WHERE target = ?1 AND event = ?2";
        transaction.prepare_cached(sql)?.execute(params![target, id.cast_signed()])?;
    }
    Ok(())
}

/// Forgets what targets that are gone were to be told.
pub fn retain(transaction: &Transaction<'_>, targets: Option<&[Arc<str>]>) -> Result<(), rusqlite::Error> {
    let Some(targets) = targets else { return Ok(()) };
    let known: Vec<String> = {
        let mut statement = transaction.prepare("SELECT DISTINCT target FROM outbox")?;
        statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for gone in known.iter().filter(|known| !targets.iter().any(|target| **target == ***known)) {
        transaction.prepare_cached("DELETE FROM outbox WHERE target = ?1")?.execute([gone])?;
    }
    Ok(())
}
