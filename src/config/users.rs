//! Files of user ids, read once: a file whose stamp has not moved is not read again, however often the config is.
//!
//! One id a line, trimmed; blank lines and lines that start with `#` are ignored. Called by `validate`; the caller of
//! `load` keeps the cache.

use crate::rollout::cohort::UserSet;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// The users files of the last load.
#[derive(Debug, Default)]
pub struct UserFiles {
    files: BTreeMap<PathBuf, UserFile>,
}

/// One file of user ids.
#[derive(Clone, Debug)]
pub struct UserFile {
    /// Its ids.
    pub set: Arc<UserSet>,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
    stamp: Stamp,
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    identity: (u64, u64, i64, i64),
}

impl UserFiles {
    /// The ids of a file; the message says why it cannot be used.
    pub fn read(&mut self, path: &Path) -> Result<UserFile, String> {
        let refused = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
        let file = std::fs::File::open(path).map_err(refused)?;
        let before = stamp(&file).map_err(refused)?;
        if let Some(known) = self.files.get(path).filter(|known| known.stamp == before) {
            return Ok(known.clone());
        }
        let mut bytes = Vec::new();
        (&file).take(USERS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refused)?;
        if bytes.len() as u64 > USERS_FILE_BYTES_MAX {
            return Err(format!("{} is larger than 1 GiB", path.display()));
        }
        let digest = super::digest(&bytes);
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
            let line = memchr::memchr_iter(b'\n', valid).count() + 1;
            format!("{}:{line}: is not UTF-8 text", path.display())
        })?;
        if let Some((line, _)) = text.lines().enumerate().find(|(_, line)| line.trim().len() > USER_BYTES_MAX) {
            let message = format!("{}:{}: an id is longer than {USER_BYTES_MAX} bytes", path.display(), line + 1);
            return Err(message);
        }
        let set = UserSet::try_from_ids(ids(&text)).map_err(|full| format!("{}: {full}", path.display()))?;
        let user_file = UserFile { set: Arc::new(set), digest, stamp: before };
        // A file that was written to while it was read is read again next time.
        if stamp(&file).map_err(refused)? == before {
            self.files.insert(path.to_owned(), user_file.clone());
        }
        Ok(user_file)
    }

    /// Forgets every file that the config names no more.
    pub fn retain(&mut self, named: &[PathBuf]) {
        self.files.retain(|path, _| named.contains(path));
    }
}

/// The ids of a text.
fn ids(text: &str) -> impl Iterator<Item = &str> {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn stamp(file: &std::fs::File) -> std::io::Result<Stamp> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    Ok(Stamp { bytes: metadata.len(), modified: metadata.modified().ok(), identity: identity(&metadata) })
}

/// Device, inode and the time of the last change of either content or inode, which nobody can set.
#[cfg(unix)]
fn identity(metadata: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_metadata: &std::fs::Metadata) -> (u64, u64, i64, i64) {
    (0, 0, 0, 0)
}

/// Some 90 million ids: more than a set holds.
const USERS_FILE_BYTES_MAX: u64 = 1 << 30;
/// The longest id; a longer line is some other file.
const USER_BYTES_MAX: usize = 1024;
