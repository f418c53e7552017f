//! What must survive a restart: run-time state and the audit trail, in `weir.db` in the state folder (SQLite).
//!
//! The store writes a record in one transaction or not at all. What could not be written of steps that have already
//! happened is kept in memory and written with the next record or `retry`. It decides nothing, and it is called by the
//! control plane's thread alone. `file` opens the database and deals with one that cannot be read.

mod audit;
mod file;
mod incidents;
mod outbox;
mod rollouts;
mod unwritten;

pub use audit::{Numbers, event};
pub use file::{Identity, OpenError, Opened, beside, move_aside};
pub use incidents::{NewIncident, incident};
pub use outbox::Told;

use crate::clock::Wall;
use crate::rollout::report::{Event, Kind, Origin};
use crate::rollout::standing::Save;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use unwritten::Unwritten;

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    identity: Identity,
    unwritten: Unwritten,
    /// The last id that an entry of the trail got, written or not.
    last_id: u64,
    /// See `given`.
    given: Range<u64>,
}

/// An entry of the audit trail before it has an id.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// When.
    pub time: Wall,
    /// The rollout it is about; none for the whole process.
    pub rollout: Option<Arc<str>>,
    /// What sort of thing.
    pub kind: Kind,
    /// Who and why.
    pub origin: Origin,
    /// JSON text of an object, or `null`.
    pub old: String,
    /// JSON text of an object, or `null`.
    pub new: String,
    /// JSON text of an object, or `null`.
    pub numbers: String,
    /// Tells it from every other event, those of other processes and of a state that was lost included.
    pub key: u64,
    /// The keys of the targets that are to be told of it.
    pub tell: Vec<Arc<str>>,
    /// Everything that was known at that moment, if it is a rollback.
    pub incident: Option<NewIncident>,
}

/// Why a record was not written; worth trying again.
#[derive(Debug)]
pub enum WriteError {
    /// The file at the database's path is no longer the one that was opened: what is written now would be lost.
    Replaced(PathBuf),
    /// SQLite says no: disk full, locked by another process, broken.
    Sqlite(rusqlite::Error),
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Replaced(path) => write!(f, "{} was removed or replaced: restart weir", path.display()),
            WriteError::Sqlite(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for WriteError {}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        WriteError::Sqlite(error)
    }
}

impl Store {
    /// Opens the database in `folder`, both made if absent, and reads what was saved.
    ///
    /// # Errors
    /// `OpenError` where the process must not start: nothing can be written there, or a newer weir wrote the file.
    /// A database that cannot be read is no error: it is moved aside.
    pub fn open(folder: &Path, now: Wall) -> Result<Opened, OpenError> {
        file::open(folder, now)
    }

    /// Writes state and entries, together with what is still unwritten. `first` is a step that has not happened yet
    /// and will not if this fails; anything else is kept for later.
    ///
    /// # Errors
    /// `WriteError` if nothing was written.
    pub fn write(&mut self, saves: &[Save], events: &[NewEvent], first: bool) -> Result<(), WriteError> {
        let result = self.write_all(saves, events);
        match result {
            Ok(()) => {}
            Err(_) if first => self.given = 0..0,
            Err(_) => {
                self.given = self.unwritten.keep(saves, events, self.last_id + 1);
                self.last_id = self.last_id.max(self.given.end.saturating_sub(1));
            }
        }
        result
    }

    /// The ids of the entries of the last `write`, in their order; none if they were not kept.
    pub fn given(&self) -> Range<u64> {
        self.given.clone()
    }

    /// The id of the newest entry, written or not; 0 without any.
    pub fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Tries to write what is unwritten; with nothing of that kind, whether anything can be written.
    ///
    /// # Errors
    /// `WriteError` if it still cannot be written.
    pub fn retry(&mut self) -> Result<(), WriteError> {
        self.write_all(&[], &[])
    }

    /// Whether something waits to be written.
    pub fn is_behind(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// The audit trail after event `since`, oldest first, at most `limit`; with the id to ask from next. What could not be
    /// written yet is part of it.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn events(&self, since: u64, limit: usize) -> Result<(Vec<Event>, u64), rusqlite::Error> {
        let sql = "SELECT id, time_ms, rollout, kind, actor, reason, old, new, numbers \
                   FROM events WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let since_id = i64::try_from(since).unwrap_or(i64::MAX);
        let limit = limit.min(EVENTS_PAGE_MAX);
        let rows = statement.query_map(params![since_id, i64::try_from(limit).unwrap_or(i64::MAX)], event_of)?;
        let mut events = rows.collect::<Result<Vec<Event>, _>>()?;
        let room = limit.saturating_sub(events.len());
        events.extend(self.unwritten.events_after(since).take(room));
        let next = events.last().map_or(since, |event| event.id);
        Ok((events, next))
    }

    /// The entries of the audit trail since then about a rollout and about the whole process, the oldest first, at most
    /// `limit` of the newest, and whether there are more. Looks at a bounded number of entries, because the loop waits.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn trail(&self, rollout: &str, since: Wall, limit: usize) -> Result<(Vec<Event>, bool), rusqlite::Error> {
        let sql =
            "SELECT id, time_ms, rollout, kind, actor, reason, old, new, numbers FROM events ORDER BY id DESC LIMIT ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([LOOKED_AT_MAX + 1])?;
        let (mut trail, mut seen, mut before) = (Vec::new(), 0, 0);
        let about = |of: Option<&str>| of.is_none_or(|of| of == rollout);
        trail.extend(self.unwritten.events_after(0).filter(|event| about(event.rollout.as_deref())));
        trail.reverse();
        let mut cut = false;
        while let Some(row) = rows.next()? {
            seen += 1;
            let time_ms = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            // A clock that was set back leaves some that look older than they are.
            before = if time_ms > since.as_millis() { 0 } else { before + 1 };
            if before > OLDER_MAX {
                break;
            }
            let of: Option<String> = row.get(2)?;
            if before > 0 || !about(of.as_deref()) {
                continue;
            }
            if trail.len() >= limit || seen > LOOKED_AT_MAX {
                cut = true;
                break;
            }
            trail.push(event_of(row)?);
        }
        trail.reverse();
        Ok((trail, cut))
    }

    fn write_all(&mut self, saves: &[Save], events: &[NewEvent]) -> Result<(), WriteError> {
        if Identity::of(&self.path).ok() != Some(self.identity) {
            return Err(WriteError::Replaced(self.path.clone()));
        }
        let transaction = self.connection.transaction()?;
        // Always writes a page, so that success means that there is room even if there is nothing to say.
        transaction.pragma_update(None, "user_version", file::SCHEMA)?;
        for save in self.unwritten.saves.values().chain(saves) {
            write_save(&transaction, save)?;
        }
        outbox::retain(&transaction, self.unwritten.targets.as_deref())?;
        let mut last = last_id(&transaction)?;
        for (id, event) in &self.unwritten.events {
            // Another process that is just ending may have written meanwhile.
            last = (last + 1).max(*id);
            write_event(&transaction, last, event)?;
        }
        let first = last.max(self.last_id) + 1;
        for (id, event) in (first..).zip(events) {
            write_event(&transaction, id, event)?;
        }
        for (rollout, recheck, reason) in &self.unwritten.rechecks {
            incidents::complete(&transaction, rollout.as_ref(), *recheck, reason)?;
        }
        outbox::remove(&transaction, &self.unwritten.delivered)?;
        let end = first + events.len() as u64;
        trim_events(&transaction, end - 1)?;
        transaction.commit()?;
        (self.unwritten, self.last_id, self.given) = (Unwritten::default(), end - 1, first..end);
        Ok(())
    }
}

/// Entries that one question about a rollout looks at, at most.
const LOOKED_AT_MAX: i64 = 5000;
/// Entries from before the time asked for, one after the other, after which no younger one is expected.
const OLDER_MAX: u32 = 20;
/// Events that one question returns, at most.
pub const EVENTS_PAGE_MAX: usize = 1000;
/// Entries of the audit trail that are kept: years of careful work, or a month of a reload every half minute.
const EVENTS_MAX: u64 = 100_000;

fn write_save(transaction: &Transaction<'_>, save: &Save) -> Result<(), rusqlite::Error> {
    match save {
        Save::Rollout { rollout, saved } => rollouts::write(transaction, rollout, saved)?,
        Save::Captured { rollout, stage, captured } => rollouts::write_captured(transaction, rollout, stage, captured)?,
        Save::Cohort { rollout, cohort, killed } => {
            let sql = "INSERT OR REPLACE INTO cohort_overrides (rollout, cohort, killed) VALUES (?1, ?2, ?3)";
            transaction.prepare_cached(sql)?.execute(params![rollout, cohort, killed])?;
        }
        Save::Member { rollout, cohort, unit, present } => {
            let sql = "INSERT OR REPLACE INTO cohort_members (rollout, cohort, unit, present) VALUES (?1, ?2, ?3, ?4)";
            transaction.prepare_cached(sql)?.execute(params![rollout, cohort, unit, present])?;
        }
    }
    Ok(())
}

fn write_event(transaction: &Transaction<'_>, id: u64, event: &NewEvent) -> Result<(), rusqlite::Error> {
    let sql = "INSERT INTO events (id, time_ms, rollout, kind, actor, reason, old, new, numbers, key) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    let id = i64::try_from(id).unwrap_or(i64::MAX);
    let time_ms = i64::try_from(event.time.as_millis()).unwrap_or(i64::MAX);
    let NewEvent { rollout, kind, origin, old, new, numbers, key, .. } = event;
    let key = key.cast_signed();
    let values = params![id, time_ms, rollout, kind.word(), origin.actor, origin.reason, old, new, numbers, key];
    transaction.prepare_cached(sql)?.execute(values)?;
    incidents::write(transaction, id, event)?;
    outbox::add(transaction, id, &event.tell)
}

/// The last id that was given to an entry, trimmed ones included.
fn last_id(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
    let last: Option<i64> = connection.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?;
    Ok(last.and_then(|last| u64::try_from(last).ok()).unwrap_or(0))
}

fn trim_events(transaction: &Transaction<'_>, last: u64) -> Result<(), rusqlite::Error> {
    let oldest = i64::try_from(last.saturating_sub(EVENTS_MAX)).unwrap_or(i64::MAX);
    if oldest > 0 {
        transaction.prepare_cached("DELETE FROM events WHERE id <= ?1")?.execute([oldest])?;
        transaction.prepare_cached("DELETE FROM outbox WHERE event <= ?1")?.execute([oldest])?;
    }
    Ok(())
}

fn event_of(row: &Row<'_>) -> Result<Event, rusqlite::Error> {
    let kind: String = row.get(3)?;
    Ok(Event {
        id: u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0),
        time: Wall::from_millis(u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0)),
        rollout: row.get(2)?,
        kind: Kind::from_word(&kind).map_or("unknown", Kind::word),
        actor: row.get(4)?,
        reason: row.get(5)?,
        old: row.get(6)?,
        new: row.get(7)?,
        numbers: row.get(8)?,
    })
}

/// Everything that was saved. A value that cannot be is an error: the database is not to be trusted then.
fn read_saves(connection: &Connection) -> Result<Vec<Save>, rusqlite::Error> {
    let mut saves = rollouts::read(connection)?;
    let mut statement = connection.prepare("SELECT rollout, cohort, killed FROM cohort_overrides")?;
    for save in statement
        .query_map([], |row| Ok(Save::Cohort { rollout: row.get(0)?, cohort: row.get(1)?, killed: row.get(2)? }))?
    {
        saves.push(save?);
    }
    let mut statement = connection.prepare("SELECT rollout, cohort, unit, present FROM cohort_members")?;
    for save in statement.query_map([], |row| {
        Ok(Save::Member { rollout: row.get(0)?, cohort: row.get(1)?, unit: row.get(2)?, present: row.get(3)? })
    })? {
        saves.push(save?);
    }
    Ok(saves)
}

#[cfg(test)]
mod tests;
