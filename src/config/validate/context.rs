//! What every part of the validation needs: the problems, the folder that paths are relative to, and files, read within
//! limits and noted so that a reload can watch them.

use crate::config::decode::{FilePath, SecretText, Spot};
use crate::config::model::Members;
use crate::config::problem::Problems;
use crate::config::tree::Place;
use crate::config::users::UserFiles;
use crate::rollout::cohort::UserSet;
use crate::snapshot::Secret;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a validation works with.
pub struct Context<'p, 's> {
    /// What is wrong so far.
    pub problems: &'p mut Problems<'s>,
    /// SHA-256 of every file that was read.
    pub digests: BTreeMap<PathBuf, [u8; 32]>,
    /// Whether some value could not be read: what seems to be absent may only be wrong, which has been reported.
    pub unread: bool,
    /// Whether secrets were taken out of what is being read, so that none being there proves nothing.
    pub redacted: bool,
    folder: PathBuf,
    users: &'p mut UserFiles,
}

impl<'p, 's> Context<'p, 's> {
    /// A validation whose relative paths start at `folder`.
    pub fn new(problems: &'p mut Problems<'s>, folder: &Path, users: &'p mut UserFiles) -> Self {
        let unread = problems.any_error();
        Context { problems, digests: BTreeMap::new(), unread, redacted: false, folder: folder.to_owned(), users }
    }

    /// The absolute form of a path.
    pub fn path(&self, written: &str) -> PathBuf {
        self.folder.join(written)
    }

    /// The content of a small file: a certificate, a key, a secret. None after a problem.
    pub fn file(&mut self, key: &str, spot: &Spot<FilePath>) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.path(&spot.value.0);
        match read(&path) {
            Ok(bytes) => {
                self.digests.insert(path.clone(), crate::config::digest(&bytes));
                Some((path, bytes))
            }
            Err(reason) => {
                self.problems.error(spot.place, format!("{key}: cannot read {}: {reason}", path.display()));
                None
            }
        }
    }

    /// A secret from the environment or a file, without the newline at its end. None if there is none, or after a problem.
    pub fn secret(
        &mut self,
        key: &str,
        text: Option<&Spot<SecretText>>,
        file: Option<&Spot<FilePath>>,
    ) -> Option<Secret> {
        if let (Some(_), Some(file)) = (text, file) {
            self.problems.error(file.place, format!("{key}_file: the environment sets `{key}` as well: choose one"));
            return None;
        }
        let (bytes, place, key) = match (text, file) {
            (Some(text), _) => (text.value.0.clone().into_bytes(), text.place, key.to_owned()),
            (None, Some(file)) => (self.file(&format!("{key}_file"), file)?.1, file.place, format!("{key}_file")),
            (None, None) => return None,
        };
        let secret = without_newline(&bytes);
        if secret.is_empty() {
            self.problems.error(place, format!("{key}: the secret is empty"));
            return None;
        }
        Some(Secret(Arc::from(secret)))
    }

    /// Reports a secret that can be guessed: fewer than 128 bits, judged by its length and the kinds of its characters.
    pub fn strong_enough(&mut self, key: &str, secret: &[u8], place: Place) {
        let bits = (secret.len() as f64 * bits_per_byte(secret)) as usize;
        if bits < SECRET_BITS_MIN {
            let message = format!("{key}: the secret holds about {bits} bits, it needs at least {SECRET_BITS_MIN}");
            self.problems.error(place, message).with_help("make one with `openssl rand -hex 32`");
        }
    }

    /// The members that a cohort lists, inline and in a file.
    pub fn members(
        &mut self,
        key: &str,
        inline: Option<&Spot<Vec<Spot<String>>>>,
        file: Option<&Spot<FilePath>>,
    ) -> Members {
        let mut members = Members::default();
        if let Some(spot) = file {
            let path = self.path(&spot.value.0);
            match self.users.read(&path) {
                Ok(file) => {
                    self.digests.insert(path, file.digest);
                    members.set = file.set;
                }
                Err(message) => {
                    self.problems.error(spot.place, format!("{key}.users_file: {message}"));
                }
            }
        }
        if let Some(spot) = inline {
            let ids = spot.value.iter().map(|user| user.value.trim()).filter(|user| !user.is_empty());
            match UserSet::try_from_ids(members.set.iter().chain(ids)) {
                Ok(set) => members.set = Arc::new(set),
                Err(full) => {
                    self.problems.error(spot.place, format!("{key}.users: {full}"));
                }
            }
        }
        members.count = members.set.len();
        members
    }
}

/// Reads a file whole that must be small.
fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().map_err(|error| error.to_string())?.is_file() {
        return Err("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(SMALL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > SMALL_FILE_BYTES_MAX {
        return Err("it is larger than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// Without one line break at the end, as editors and `echo` leave it.
fn without_newline(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

/// What a character of this secret can be worth at most, by the kinds of characters in it.
fn bits_per_byte(secret: &[u8]) -> f64 {
    let all = |kind: fn(&u8) -> bool| secret.iter().all(kind);
    if all(u8::is_ascii_digit) {
        return 3.3;
    }
    if all(u8::is_ascii_hexdigit) {
        return 4.0;
    }
    if all(u8::is_ascii_lowercase) || all(u8::is_ascii_uppercase) {
        return 4.7;
    }
    if all(u8::is_ascii) { 6.0 } else { 8.0 }
}

/// Certificates, keys and secrets are a few kilobytes.
const SMALL_FILE_BYTES_MAX: u64 = 1 << 20;
/// What nobody can guess.
const SECRET_BITS_MIN: usize = 128;
