//! `weir-history.db` in the state folder: samples in three tiers of slots, each tier made of the one before.
//!
//! Slots are numbered, not dated: a clock that jumps neither ages nor hides anything, and time in which nobody served takes no
//! slot. The calendar time is kept beside, for people. It is a file of its own so that a history that cannot be read or written
//! never touches the state of rollouts. Called by the archive's thread alone, and before that thread starts.

use super::super::store::{Identity, beside, move_aside};
use super::bytes;
use super::{Day, Kept, Tick};
use crate::clock::Wall;
use crate::rollout::sample::{Resources, Sample, Visit};
use rusqlite::{Connection, Error, OpenFlags, Transaction, TransactionBehavior, params};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The open history.
#[derive(Debug)]
pub struct File {
    pub(super) connection: Connection,
    path: PathBuf,
    identity: Identity,
    /// By tier: the number of the slot that is made next.
    pub(super) next: Next,
    /// The numbers of whoever has samples.
    names: Numbers,
    /// SQLite's word for what others have written: it changes with that.
    others: i64,
    /// Bytes beyond which the finest samples go before their time.
    pub(super) bytes_max: u64,
    /// Samples that could not be read.
    pub(super) damaged: Cell<u64>,
}

/// One step of thinning.
struct Tier {
    /// Slots of the tier before that make one of this.
    factor: u64,
    /// How many slots are kept.
    kept: u64,
}

/// At one slot every 10 s: 10 s for 30 days, minutes for 72 hours, hours for 400 days. The minutes are what the windows in
/// memory are made of after a restart. A few slots more than that are kept, because a slot is given up only when the next tier
/// has it.
const TIERS: [Tier; 3] =
    [Tier { factor: 1, kept: 30 * 24 * 360 }, Tier { factor: 6, kept: 75 * 60 }, Tier { factor: 60, kept: 400 * 24 }];
/// Slots of the first tier that are read one by one after a restart: 15 minutes.
const FINE: u64 = 90;
/// Slots of the first tier in as much time as minutes are read for: as far as the histories in memory have minutes.
const BY_MINUTES: u64 = 73 * 360;
/// Slots of the first tier up to which a review looks at each: an hour.
const REVIEWED_ONE_BY_ONE: u64 = 360;
/// Slots of a tier that are given up with one tick: more than one tick adds, and few enough to be quick.
const PRUNED_AT_ONCE: u64 = 64;
/// Slots that are made of finer ones with one tick.
const MADE_AT_ONCE: usize = 8;
/// Bytes of the file; a busy rollout takes some 200 MB in 30 days.
const BYTES_MAX: u64 = 1 << 30;

/// Some samples of a busy rollout fit one page.
const PAGE_BYTES: i64 = 8192;

const FILE_NAME: &str = "weir-history.db";
/// Says in the file's header whose it is: "weih" in ASCII.
const APPLICATION_ID: i64 = 0x7765_6968;
const SCHEMA: i64 = 1;
const TABLES: &str = "
BEGIN;
CREATE TABLE names (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;
CREATE TABLE samples (
    place INTEGER PRIMARY KEY,
    visit INTEGER NOT NULL,
    entered_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL,
    span_ms INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
COMMIT;
";
/// How long a write waits for a process that reads the file; nobody but this thread waits with it.
const BUSY: Duration = Duration::from_secs(5);
/// Under this number weir keeps what it took itself; rollouts have those above.
const OWN: i64 = 0;
/// Numbers of rollouts, those included that have left the config; more than anybody ever names.
const NAMES_MAX: i64 = (1 << 16) - 1;
/// Stays in stages that are told apart within one slot.
const PARTS: u64 = 1 << PART_BITS;
/// A sample's place is the number of its name, its tier, its slot and its part, from the highest bits down: rows of a name that
/// follow each other in time lie beside each other, whatever their size.
const PART_BITS: u32 = 10;
const SLOT_BITS: u32 = 34;
const TIER_BITS: u32 = 2;

/// By tier: the slot that is made next.
type Next = [u64; TIERS.len()];
/// The numbers of rollouts by name.
type Numbers = BTreeMap<Arc<str>, i64>;
/// A range of slots of a tier.
type Range = (usize, u64, u64);

/// One row: slot, visit, when it ended, how long it lasted, what is in it.
type Row = (u64, Visit, Wall, Duration, Vec<u8>);

impl File {
    /// Opens the history in that folder, made if absent. One that cannot be read is moved aside.
    ///
    /// # Errors
    /// What is in the way, if nothing can be kept there.
    pub fn open(folder: &Path, now: Wall) -> Result<File, String> {
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        let path = folder.join(FILE_NAME);
        match File::read(&path, BYTES_MAX) {
            Ok(file) => return Ok(file),
            Err(Unopened::Lost(cause)) => {
                let moved = move_aside(&path, now).map_err(|error| error.to_string())?;
                tracing::warn!(moved = %moved.display(), cause, "the metric history cannot be read: a new one begins");
            }
            // A log without its database would be played into the new one.
            Err(Unopened::Absent) if std::fs::symlink_metadata(beside(&path, "-wal")).is_ok() => {
                move_aside(&path, now).map_err(|error| error.to_string())?;
            }
            Err(Unopened::Absent) => {}
            Err(Unopened::Refused(cause)) => return Err(cause),
        }
        create(&path)?;
        File::read(&path, BYTES_MAX).map_err(|error| match error {
            Unopened::Lost(cause) | Unopened::Refused(cause) => cause,
            Unopened::Absent => "it is gone again".to_owned(),
        })
    }

    fn read(path: &Path, bytes_max: u64) -> Result<File, Unopened> {
        let identity = match Identity::of(path) {
            Ok(identity) => identity,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unopened::Absent),
            Err(error) => return Err(Unopened::Refused(error.to_string())),
        };
        let lost = |error: Error| Unopened::Lost(error.to_string());
        let connection = Connection::open_with_flags(path, flags()).map_err(lost)?;
        connection.busy_timeout(BUSY).map_err(lost)?;
        let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        if number("application_id").map_err(lost)? != APPLICATION_ID {
            return Err(Unopened::Lost("it belongs to another program".to_owned()));
        }
        let found = number("user_version").map_err(lost)?;
        if found > SCHEMA {
            return Err(Unopened::Refused(format!("a newer weir wrote {} (schema {found})", path.display())));
        }
        connection.pragma_update(None, "trusted_schema", false).map_err(lost)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0)).map_err(lost)?;
        // A power cut may take the last samples, and nothing else; a process that is killed loses none.
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(lost)?;
        let others = written_by_others(&connection).map_err(lost)?;
        let (names, next) = read_places(&connection).map_err(lost)?;
        let path = path.to_owned();
        Ok(File { connection, path, identity, next, names, others, bytes_max, damaged: Cell::new(0) })
    }

    /// Moves this history aside and begins another one.
    ///
    /// # Errors
    /// What is in the way.
    pub fn move_aside(self, folder: &Path, now: Wall) -> Result<File, String> {
        let File { connection, path, .. } = self;
        drop(connection);
        move_aside(&path, now).map_err(|error| error.to_string())?;
        File::open(folder, now)
    }

    /// How many samples could not be read since this was last called.
    pub fn take_damaged(&self) -> u64 {
        self.damaged.take()
    }

    /// Keeps what was counted in one tick, makes coarser slots of fine ones and gives up what is too old, a little of each.
    ///
    /// # Errors
    /// Why nothing of it was kept.
    pub fn keep(&mut self, tick: &Tick) -> Result<(), String> {
        self.write(tick).map_err(|error| error.to_string())
    }

    /// Whether the file is not the one any more that was opened.
    pub fn is_replaced(&self) -> bool {
        Identity::of(&self.path).ok() != Some(self.identity)
    }

    fn write(&mut self, tick: &Tick) -> Result<(), Error> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // The process whose port and state this one takes over keeps samples until it has ended.
        let others = written_by_others(&transaction)?;
        let known = (self.names.clone(), self.next);
        let (mut names, mut next) = if others == self.others { known } else { read_places(&transaction)? };
        let slot = next[0];
        let own = &tick.own;
        let row: Row = (slot, Visit::default(), own.ended_at, own.span, bytes::of_resources(own));
        insert(&transaction, (OWN, 0, 0), &row)?;
        let mut parts = BTreeMap::new();
        for (name, sample) in &tick.samples {
            let known = names.get(name).copied();
            let number = known.map_or_else(|| number_of(&transaction, name), Ok)?;
            names.insert(Arc::clone(name), number);
            let part = parts.entry(number).or_insert(0_u64);
            let row = (slot, sample.visit, sample.ended_at, sample.span, bytes::of_sample(sample));
            insert(&transaction, (number, 0, *part), &row)?;
            *part += 1;
        }
        next[0] += 1;
        for _ in 0..MADE_AT_ONCE {
            let Some(tier) = (1..TIERS.len()).find(|&tier| (next[tier] + 1) * TIERS[tier].factor <= next[tier - 1])
            else {
                break;
            };
            let mut damaged = thin_own(&transaction, tier, next[tier])?;
            for name in names.values() {
                damaged += thin(&transaction, *name, tier, next[tier])?;
            }
            self.damaged.set(self.damaged.get() + damaged);
            next[tier] += 1;
        }
        prune(&transaction, &names, &next, self.bytes_max)?;
        transaction.commit()?;
        (self.next, self.names, self.others) = (next, names, others);
        Ok(())
    }

    /// What weir took itself as far as that is kept: the time axis of everything, the oldest first, each with how long ago it
    /// ended in time that was counted.
    fn axis(&self, ranges: &[Range]) -> Result<Vec<(Range, Resources)>, Error> {
        let mut axis = Vec::new();
        for &(tier, from, to) in ranges {
            for (slot, _, ended_at, span, body) in select(&self.connection, OWN, tier, from, to)? {
                let known = bytes::resources(&body, ended_at, span);
                let own = known.unwrap_or_else(|_| self.damaged(Resources { ended_at, span, ..Resources::default() }));
                axis.push(((tier, slot, slot + 1), own));
            }
        }
        Ok(axis)
    }

    /// Everything that windows and stages need to go on after a restart: how far it reaches back, and by rollout the samples,
    /// the oldest first, each with how long ago it ended. Time in which nobody served does not count.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn past(&self, rollouts: &[Arc<str>]) -> Result<Kept, Error> {
        let ranges = self.ranges(FINE, BY_MINUTES)?;
        let mut reach = Duration::ZERO;
        let mut ago = BTreeMap::new();
        for ((tier, slot, _), own) in self.axis(&ranges)?.into_iter().rev() {
            ago.insert((tier, slot), reach);
            reach += own.span;
        }
        let mut pasts = Vec::new();
        for name in rollouts {
            let mut past = Vec::new();
            for &(tier, from, to) in &ranges {
                for (slot, sample) in self.samples(name, (tier, from, to))? {
                    past.push((ago.get(&(tier, slot)).copied().unwrap_or_default(), sample));
                }
            }
            pasts.push(past);
        }
        Ok(Kept { reach, rollouts: pasts })
    }

    /// What happened to a rollout since then, in slots of a length that suits the time.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn day(&self, rollout: &str, since: Wall) -> Result<Day, Error> {
        let slots: u64 = {
            let sql = "SELECT count(*) FROM samples WHERE place >= ?1 AND place < ?2 AND ended_ms > ?3";
            let mut statement = self.connection.prepare_cached(sql)?;
            let values = [place(OWN, 0, 0, 0), place(OWN, 1, 0, 0), signed(since.as_millis())];
            count(statement.query_row(values, |row| row.get::<_, i64>(0))?)
        };
        let ranges = match slots {
            slots if slots <= REVIEWED_ONE_BY_ONE => self.ranges(REVIEWED_ONE_BY_ONE, BY_MINUTES),
            slots if slots <= BY_MINUTES => self.ranges(0, BY_MINUTES),
            _ => self.ranges(0, 0),
        }?;
        let recent = |ended_at: Wall| ended_at > since;
        let own = self.axis(&ranges)?.into_iter().map(|(_, own)| own).filter(|own| recent(own.ended_at)).collect();
        let mut samples = Vec::new();
        for range in ranges {
            let read = self.samples(rollout, range)?.into_iter().map(|(_, sample)| sample);
            samples.extend(read.filter(|sample| recent(sample.ended_at)));
        }
        Ok(Day { own, samples })
    }

    /// When the first sample of a rollout began; none without any.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn began(&self, rollout: &str) -> Result<Option<Wall>, Error> {
        let Some(&name) = self.names.get(rollout) else { return Ok(None) };
        let sql = "SELECT ended_ms - span_ms FROM samples WHERE place >= ?1 AND place < ?2 ORDER BY place LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut first = None::<Wall>;
        for tier in 0..TIERS.len() {
            let mut rows = statement.query([place(name, tier, 0, 0), place(name, tier + 1, 0, 0)])?;
            if let Some(row) = rows.next()? {
                let began = Wall::from_millis(count(row.get::<_, i64>(0)?));
                first = Some(first.map_or(began, |first| first.min(began)));
            }
        }
        Ok(first)
    }

    fn samples(&self, name: &str, (tier, from, to): Range) -> Result<Vec<(u64, Sample)>, Error> {
        let mut samples = Vec::new();
        let Some(&name) = self.names.get(name) else { return Ok(samples) };
        for (slot, visit, ended_at, span, body) in select(&self.connection, name, tier, from, to)? {
            match bytes::sample(&body, visit, ended_at, span) {
                Ok(sample) => samples.push((slot, sample)),
                Err(bytes::Damaged) => self.damaged(()),
            }
        }
        Ok(samples)
    }

    fn damaged<T>(&self, instead: T) -> T {
        self.damaged.set(self.damaged.get() + 1);
        instead
    }

    /// Every slot there is exactly once: the last `fine` ones one by one, up to `by_minutes` by minutes, the rest by hours. A
    /// slot that only one of two tiers has, not made yet or given up already, is read in that one.
    fn ranges(&self, fine: u64, by_minutes: u64) -> Result<[Range; 3], Error> {
        let ([slots, minutes, hours], [_, per_minute, per_hour]) = (self.next, TIERS.map(|tier| tier.factor));
        let gone = |tier: usize, per: u64| first(&self.connection, tier).map(|slot| slot.div_ceil(per));
        let minute = (slots.saturating_sub(fine) / per_minute).max(gone(0, per_minute)?).min(minutes);
        let hour = (slots.saturating_sub(by_minutes) / per_minute / per_hour).max(gone(1, per_hour)?).min(hours);
        let minute = minute.max(hour * per_hour);
        Ok([(2, 0, hour), (1, hour * per_hour, minute), (0, minute * per_minute, slots)])
    }
}

enum Unopened {
    Absent,
    Lost(String),
    Refused(String),
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW
}

/// Builds an empty history beside its place and renames it into it.
fn create(path: &Path) -> Result<(), String> {
    let draft = beside(path, ".new");
    for leftover in [&draft, &beside(&draft, "-journal")] {
        match std::fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft);
    made.map_err(|error| error.to_string())?;
    let build = || {
        let connection = Connection::open_with_flags(&draft, flags())?;
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.execute_batch(TABLES)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", SCHEMA)?;
        connection.close().map_err(|(_, error)| error)
    };
    build().map_err(|error| error.to_string())?;
    std::fs::rename(&draft, path).map_err(|error| error.to_string())
}

fn written_by_others(connection: &Connection) -> Result<i64, Error> {
    connection.pragma_query_value(None, "data_version", |row| row.get(0))
}

/// The numbers of whoever has samples, and the slot that each tier makes next.
fn read_places(connection: &Connection) -> Result<(Numbers, Next), Error> {
    let mut statement = connection.prepare("SELECT name, id FROM names")?;
    let names = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut next = [0; TIERS.len()];
    for (tier, next) in next.iter_mut().enumerate() {
        let sql = "SELECT max(place) FROM samples WHERE place >= ?1 AND place < ?2";
        let places = [place(OWN, tier, 0, 0), place(OWN, tier + 1, 0, 0)];
        let last: Option<i64> = connection.query_row(sql, places, |row| row.get(0))?;
        *next = last.map_or(0, |last| slot_of(last) + 1);
    }
    Ok((names, next))
}

/// A number for a name that has none.
fn number_of(transaction: &Transaction<'_>, name: &str) -> Result<i64, Error> {
    transaction.execute("INSERT INTO names (name) VALUES (?1)", [name])?;
    match transaction.last_insert_rowid() {
        number @ 1..=NAMES_MAX => Ok(number),
        number => Err(Error::IntegralValueOutOfRange(0, number)),
    }
}

/// See `PART_BITS`.
fn place(name: i64, tier: usize, slot: u64, part: u64) -> i64 {
    let tier_and_slot = (tier as u64) << SLOT_BITS | slot.min((1 << SLOT_BITS) - 1);
    (name << (TIER_BITS + SLOT_BITS + PART_BITS)) | signed(tier_and_slot << PART_BITS | part.min(PARTS - 1))
}

fn slot_of(place: i64) -> u64 {
    count(place) >> PART_BITS & ((1 << SLOT_BITS) - 1)
}

fn insert(transaction: &Transaction<'_>, (name, tier, part): (i64, usize, u64), row: &Row) -> Result<(), Error> {
    let sql = "INSERT OR REPLACE INTO samples (place, visit, entered_ms, ended_ms, span_ms, body) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    let (slot, visit, ended_at, span, body) = row;
    transaction.prepare_cached(sql)?.execute(params![
        place(name, tier, *slot, part),
        signed(visit.number),
        signed(visit.entered_at.as_millis()),
        signed(ended_at.as_millis()),
        signed(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        body,
    ])?;
    Ok(())
}

fn select(connection: &Connection, name: i64, tier: usize, from: u64, to: u64) -> Result<Vec<Row>, Error> {
    let sql = "SELECT place, visit, entered_ms, ended_ms, span_ms, body FROM samples \
               WHERE place >= ?1 AND place < ?2 ORDER BY place";
    let mut statement = connection.prepare_cached(sql)?;
    let row = |row: &rusqlite::Row<'_>| {
        let number = |column: usize| row.get::<_, i64>(column).map(count);
        let visit = Visit { number: number(1)?, entered_at: Wall::from_millis(number(2)?) };
        let (ended_at, span) = (Wall::from_millis(number(3)?), Duration::from_millis(number(4)?));
        Ok((slot_of(row.get(0)?), visit, ended_at, span, row.get(5)?))
    };
    statement.query_map([place(name, tier, from, 0), place(name, tier, to, 0)], row)?.collect()
}

/// Makes one slot of a tier of the slots of the tier before; how many of those could not be read.
fn thin(transaction: &Transaction<'_>, name: i64, tier: usize, slot: u64) -> Result<u64, Error> {
    let (mut visits, mut damaged) = (BTreeMap::<Visit, Sample>::new(), 0);
    for (_, visit, ended_at, span, body) in finer(transaction, name, tier, slot)? {
        match (bytes::sample(&body, visit, ended_at, span), visits.get_mut(&visit)) {
            (Ok(sample), Some(sum)) => sum.then(sample),
            (Ok(sample), None) => drop(visits.insert(visit, sample)),
            (Err(bytes::Damaged), _) => damaged += 1,
        }
    }
    for ((visit, sample), part) in visits.iter().zip(0..) {
        let row = (slot, *visit, sample.ended_at, sample.span, bytes::of_sample(sample));
        insert(transaction, (name, tier, part), &row)?;
    }
    Ok(damaged)
}

/// `thin` of what weir took itself. The time of a row that cannot be read still counts.
fn thin_own(transaction: &Transaction<'_>, tier: usize, slot: u64) -> Result<u64, Error> {
    let (mut sum, mut damaged) = (None::<Resources>, 0);
    for (_, _, ended_at, span, body) in finer(transaction, OWN, tier, slot)? {
        let own = bytes::resources(&body, ended_at, span).unwrap_or_else(|bytes::Damaged| {
            damaged += 1;
            Resources { ended_at, span, ..Resources::default() }
        });
        match &mut sum {
            Some(sum) => sum.then(own),
            None => sum = Some(own),
        }
    }
    if let Some(own) = sum {
        let row = (slot, Visit::default(), own.ended_at, own.span, bytes::of_resources(&own));
        insert(transaction, (OWN, tier, 0), &row)?;
    }
    Ok(damaged)
}

/// What one slot of a tier is made of.
fn finer(transaction: &Transaction<'_>, name: i64, tier: usize, slot: u64) -> Result<Vec<Row>, Error> {
    let factor = TIERS[tier].factor;
    select(transaction, name, tier - 1, slot * factor, (slot + 1) * factor)
}

/// Gives up the oldest slots beyond what is kept, and while the file is too large the oldest fine ones. What the next tier does
/// not have yet stays.
fn prune(transaction: &Transaction<'_>, names: &Numbers, next: &Next, bytes_max: u64) -> Result<(), Error> {
    let pragma = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(count);
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    let too_large = pages.saturating_mul(pragma("page_size")?) > bytes_max;
    for tier in 0..TIERS.len() {
        let made = TIERS.get(tier + 1).map_or(next[tier], |coarser| next[tier + 1] * coarser.factor);
        let oldest = if too_large && tier == 0 { made } else { next[tier].saturating_sub(TIERS[tier].kept).min(made) };
        if oldest == 0 {
            continue;
        }
        let oldest = oldest.min(first(transaction, tier)? + PRUNED_AT_ONCE);
        for name in names.values().chain([&OWN]) {
            let sql = "DELETE FROM samples WHERE place >= ?1 AND place < ?2";
            let places = [place(*name, tier, 0, 0), place(*name, tier, oldest, 0)];
            transaction.prepare_cached(sql)?.execute(places)?;
        }
    }
    Ok(())
}

/// The oldest slot of a tier that is there: weir's own, because every slot has that.
fn first(connection: &Connection, tier: usize) -> Result<u64, Error> {
    let sql = "SELECT min(place) FROM samples WHERE place >= ?1 AND place < ?2";
    let places = [place(OWN, tier, 0, 0), place(OWN, tier + 1, 0, 0)];
    let first: Option<i64> = connection.prepare_cached(sql)?.query_row(places, |row| row.get(0))?;
    Ok(first.map_or(0, slot_of))
}

/// SQLite's numbers are signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
