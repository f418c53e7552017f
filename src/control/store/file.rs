//! Opening the database file: permissions, schema, and what to do with one that cannot be read.
//!
//! A database is either there and whole, or absent, or lost. A new one is built beside its place and renamed into it,
//! so that an empty or half-made file is never ours and always counts as lost. What is lost is moved aside, never
//! deleted.

use super::{Store, Unwritten, last_id, read_saves};
use crate::clock::Wall;
use crate::rollout::engine::Saved;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An open database and what it said.
#[derive(Debug)]
pub struct Opened {
    /// The database.
    pub store: Store,
    /// What was saved.
    pub saved: Saved,
    /// Where a database that could not be read went, and why it could not.
    pub moved: Option<(PathBuf, String)>,
}

/// Why the process must not start with this state folder.
#[derive(Debug)]
pub enum OpenError {
    /// The folder cannot be made, or nothing can be written in it.
    Unwritable {
        /// The folder or the file in it.
        path: PathBuf,
        /// What was wrong.
        cause: String,
    },
    /// A newer weir wrote the database: this one would not understand it.
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema's version.
        found: i64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Unwritable { path, cause } => write!(f, "state_dir: cannot write {}: {cause}", path.display()),
            OpenError::Newer { path, found } => write!(
                f,
                "state_dir: {} was written by a newer weir (schema {found}, this one knows up to {SCHEMA}): \
                 start that version, or move the file away",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of the file at `path`; links are not followed.
    pub fn of(path: &Path) -> io::Result<Identity> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// See `Store::open`.
pub fn open(folder: &Path, now: Wall) -> Result<Opened, OpenError> {
    let unwritable = |path: &Path| {
        let path = path.to_owned();
        move |error: io::Error| OpenError::Unwritable { path, cause: error.to_string() }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unwritable(folder))?;
    // SQLite refuses every link on the way when told to follow none; those above the folder are the operator's.
    let folder = folder.canonicalize().map_err(unwritable(folder))?;
    let path = folder.join(FILE_NAME);
    let lost = match present(&path).map_err(unwritable(&path))? {
        Present::Whole => match read(&path) {
            Ok((connection, saves)) => return opened(path, connection, Saved::Known(saves), None),
            Err(ReadError::Lost(cause)) => Some(cause),
            Err(ReadError::Refused(error)) => return Err(error),
        },
        Present::Lost(cause) => Some(cause.to_owned()),
        Present::Absent => None,
    };
    let moved = match lost {
        Some(cause) => Some((move_aside(&path, now).map_err(unwritable(&path))?, cause)),
        None => None,
    };
    create(&path).map_err(|cause| OpenError::Unwritable { path: path.clone(), cause })?;
    let (connection, _) = read(&path).map_err(|error| match error {
        ReadError::Lost(cause) => OpenError::Unwritable { path: path.clone(), cause },
        ReadError::Refused(error) => error,
    })?;
    let saved = if moved.is_some() { Saved::Unreadable } else { Saved::Known(Vec::new()) };
    opened(path, connection, saved, moved)
}

fn opened(
    path: PathBuf,
    connection: Connection,
    saved: Saved,
    moved: Option<(PathBuf, String)>,
) -> Result<Opened, OpenError> {
    let unwritable = |cause: String| OpenError::Unwritable { path: path.clone(), cause };
    let identity = Identity::of(&path).map_err(|error| unwritable(error.to_string()))?;
    match connection.pragma_update(None, "user_version", SCHEMA) {
        Ok(()) => {}
        // Serving goes on with what was read; a step towards the canary will be denied until there is room again.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!(path = %path.display(), %error, "state cannot be written");
        }
        Err(error) => return Err(unwritable(error.to_string())),
    }
    connection.busy_timeout(BUSY_WHEN_SERVING).map_err(|error| unwritable(error.to_string()))?;
    let last_id = last_id(&connection).map_err(|error| unwritable(error.to_string()))?;
    let store = Store { connection, path, identity, unwritten: Unwritten::default(), last_id, given: 0..0 };
    Ok(Opened { store, saved, moved })
}

/// What stands at the database's place.
enum Present {
    Absent,
    Whole,
    Lost(&'static str),
}

fn present(path: &Path) -> io::Result<Present> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let log = fs::symlink_metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0);
            return Ok(if log {
                Present::Lost("it is gone, its write-ahead log is still there")
            } else {
                Present::Absent
            });
        }
        Err(error) => return Err(error),
    };
    if metadata.is_symlink() {
        return Err(io::Error::other("it is a symbolic link, and none is followed"));
    }
    if !metadata.is_file() {
        return Ok(Present::Lost("it is not a file"));
    }
    if metadata.len() == 0 {
        return Ok(Present::Lost("it is empty"));
    }
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    // SQLite reads a cut last page as if it ended in zeros. With a log beside it the rest may be in there.
    if !has_log(path) && metadata.len() % page_bytes(path)? != 0 {
        return Ok(Present::Lost("it is cut off"));
    }
    Ok(Present::Whole)
}

/// Whether a write-ahead log with something in it stands beside the database.
fn has_log(path: &Path) -> bool {
    fs::symlink_metadata(beside(path, "-wal")).is_ok_and(|log| log.len() > 0)
}

/// The page size that the file's header states; 1 if there is none.
fn page_bytes(path: &Path) -> io::Result<u64> {
    let mut header = [0; 18];
    match File::open(path)?.read_exact(&mut header) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    // SQLite's file format: two bytes, big-endian, where 1 means 65,536.
    Ok(match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size.max(1)),
    })
}

enum ReadError {
    Lost(String),
    Refused(OpenError),
}

fn read(path: &Path) -> Result<(Connection, Vec<super::Save>), ReadError> {
    let sorted = |error: rusqlite::Error| match error.sqlite_error_code() {
        // Nothing is wrong with the content: the process may not have it, now or at all.
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory,
        ) => ReadError::Refused(OpenError::Unwritable { path: path.to_owned(), cause: error.to_string() }),
        _ => ReadError::Lost(error.to_string()),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags).map_err(sorted)?;
    connection.busy_timeout(BUSY_WHEN_OPENING).map_err(sorted)?;
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("application_id").map_err(sorted)? != APPLICATION_ID {
        return Err(ReadError::Lost("it belongs to another program".into()));
    }
    let found = number("user_version").map_err(sorted)?;
    if found > SCHEMA {
        return Err(ReadError::Refused(OpenError::Newer { path: path.to_owned(), found }));
    }
    connection.pragma_update(None, "trusted_schema", false).map_err(sorted)?;
    let whole: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(sorted)?;
    if whole != "ok" {
        return Err(ReadError::Lost(whole));
    }
    if connection.is_readonly("main").map_err(sorted)? {
        let cause = "it can only be read".to_owned();
        return Err(ReadError::Refused(OpenError::Unwritable { path: path.to_owned(), cause }));
    }
    let wal = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
    wal.map_err(sorted)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(sorted)?;
    // A version below the first was never written: then nothing is upgraded, and what is read shows what it is.
    let from = usize::try_from(found.saturating_sub(1)).unwrap_or(UPGRADES.len());
    for upgrade in UPGRADES.iter().skip(from) {
        connection.execute_batch(upgrade).map_err(sorted)?;
    }
    let saves = read_saves(&connection).map_err(sorted)?;
    Ok((connection, saves))
}

/// Builds an empty database beside its place and renames it into it.
fn create(path: &Path) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let draft = beside(path, ".new");
    for leftover in [&draft, &beside(&draft, "-journal")] {
        match fs::remove_file(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(text(error)),
            _ => {}
        }
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(text)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let build = || {
        let connection = Connection::open_with_flags(&draft, flags)?;
        connection.execute_batch(TABLES)?;
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
        connection.pragma_update(None, "user_version", SCHEMA)?;
        connection.close().map_err(|(_, error)| error)
    };
    build().map_err(|error| error.to_string())?;
    fs::rename(&draft, path).map_err(text)?;
    sync_folder(path).map_err(text)
}

/// Moves a database and what belongs to it to its own name with `.corrupt-<unix time>`.
pub fn move_aside(path: &Path, now: Wall) -> io::Result<PathBuf> {
    let mut target = beside(path, &format!(".corrupt-{}", now.as_secs()));
    for again in 1.. {
        let taken = ["", "-wal"].iter().any(|part| fs::symlink_metadata(beside(&target, part)).is_ok());
        if !taken {
            break;
        }
        target = beside(path, &format!(".corrupt-{}-{again}", now.as_secs()));
    }
    for part in ["", "-wal", "-shm", "-journal"] {
        match fs::rename(beside(path, part), beside(&target, part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_folder(path)?;
    Ok(target)
}

/// Makes renames in the file's folder outlive a power cut.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// The path with `part` at the end of its file name.
pub fn beside(path: &Path, part: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(part);
    PathBuf::from(name)
}

/// The database's name in the state folder.
const FILE_NAME: &str = "weir.db";
/// Says in the file's header whose it is: "weir" in ASCII.
const APPLICATION_ID: i64 = 0x7765_6972;
/// The version of `TABLES`.
pub const SCHEMA: i64 = 5;
/// What leads from a version to the next, the first of them from version 1.
const UPGRADES: [&str; SCHEMA as usize - 1] = [
    "
BEGIN IMMEDIATE;
ALTER TABLE rollouts ADD COLUMN breaker TEXT NOT NULL DEFAULT 'closed';
ALTER TABLE rollouts ADD COLUMN trips INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN trip_level INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN rolled_back INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN trip_cause TEXT;
ALTER TABLE rollouts ADD COLUMN trip_reason TEXT;
PRAGMA user_version = 2;
COMMIT;
",
    "
BEGIN IMMEDIATE;
ALTER TABLE rollouts ADD COLUMN state TEXT NOT NULL DEFAULT 'pending';
ALTER TABLE rollouts ADD COLUMN stage TEXT;
ALTER TABLE rollouts ADD COLUMN served_ms INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN entered_ms INTEGER;
ALTER TABLE rollouts ADD COLUMN visit INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN approved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rollouts ADD COLUMN share_ppm INTEGER;
ALTER TABLE rollouts ADD COLUMN finished TEXT NOT NULL DEFAULT '';
ALTER TABLE rollouts ADD COLUMN went_back_from TEXT;
ALTER TABLE rollouts ADD COLUMN state_reason TEXT;
CREATE TABLE captures (
    rollout TEXT NOT NULL,
    stage TEXT NOT NULL,
    numbers TEXT NOT NULL,
    PRIMARY KEY (rollout, stage)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 3;
COMMIT;
",
    "
BEGIN IMMEDIATE;
ALTER TABLE events ADD COLUMN key INTEGER NOT NULL DEFAULT 0;
CREATE TABLE outbox (
    target TEXT NOT NULL,
    event INTEGER NOT NULL,
    PRIMARY KEY (target, event)
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 4;
COMMIT;
",
    "
BEGIN IMMEDIATE;
CREATE TABLE incidents (
    event INTEGER PRIMARY KEY,
    rollout TEXT,
    body TEXT NOT NULL,
    recheck TEXT,
    recheck_reason TEXT
) STRICT;
PRAGMA user_version = 5;
COMMIT;
",
];
/// How long a start waits for a process that is just ending.
const BUSY_WHEN_OPENING: Duration = Duration::from_secs(5);
/// How long a command waits for another process's lock; the control plane stands still meanwhile.
const BUSY_WHEN_SERVING: Duration = Duration::from_millis(250);
const TABLES: &str = "
BEGIN;
CREATE TABLE rollouts (
    name TEXT PRIMARY KEY,
    weight_ppm INTEGER,
    under_ppm INTEGER,
    killed INTEGER NOT NULL,
    kill_actor TEXT,
    kill_reason TEXT,
    held INTEGER NOT NULL,
    breaker TEXT NOT NULL DEFAULT 'closed',
    trips INTEGER NOT NULL DEFAULT 0,
    trip_level INTEGER NOT NULL DEFAULT 0,
    rolled_back INTEGER NOT NULL DEFAULT 0,
    trip_cause TEXT,
    trip_reason TEXT,
    state TEXT NOT NULL DEFAULT 'pending',
    stage TEXT,
    served_ms INTEGER NOT NULL DEFAULT 0,
    entered_ms INTEGER,
    visit INTEGER NOT NULL DEFAULT 0,
    approved INTEGER NOT NULL DEFAULT 0,
    share_ppm INTEGER,
    finished TEXT NOT NULL DEFAULT '',
    went_back_from TEXT,
    state_reason TEXT
) STRICT, WITHOUT ROWID;
CREATE TABLE captures (
    rollout TEXT NOT NULL,
    stage TEXT NOT NULL,
    numbers TEXT NOT NULL,
    PRIMARY KEY (rollout, stage)
) STRICT, WITHOUT ROWID;
CREATE TABLE cohort_overrides (
    rollout TEXT NOT NULL,
    cohort TEXT NOT NULL,
    killed INTEGER NOT NULL,
    PRIMARY KEY (rollout, cohort)
) STRICT, WITHOUT ROWID;
CREATE TABLE cohort_members (
    rollout TEXT NOT NULL,
    cohort TEXT NOT NULL,
    unit TEXT NOT NULL,
    present INTEGER NOT NULL,
    PRIMARY KEY (rollout, cohort, unit)
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ms INTEGER NOT NULL,
    rollout TEXT,
    kind TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    old TEXT NOT NULL,
    new TEXT NOT NULL,
    numbers TEXT NOT NULL,
    key INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE incidents (
    event INTEGER PRIMARY KEY,
    rollout TEXT,
    body TEXT NOT NULL,
    recheck TEXT,
    recheck_reason TEXT
) STRICT;
CREATE TABLE outbox (
    target TEXT NOT NULL,
    event INTEGER NOT NULL,
    PRIMARY KEY (target, event)
) STRICT, WITHOUT ROWID;
COMMIT;
";
