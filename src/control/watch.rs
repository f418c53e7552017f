//! Notices that a file of the config changed.
//!
//! It looks at metadata through every link, which covers an editor that truncates or renames, a swapped symlink and a
//! Kubernetes ConfigMap alike. A change is told only when two looks in a row saw the same, so that a file that is being
//! written is not judged half-done, and only if the content differs. It reads files and nothing else; the supervisor
//! calls it on a blocking thread.

use crate::clock::Wall;
use std::collections::BTreeMap;
use std::fs;
use std::hash::Hasher;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long between two looks: a change is told after two of them at the latest.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The files of the config as last judged and as last seen.
#[derive(Debug, Default)]
pub struct Watch {
    files: BTreeMap<PathBuf, Watched>,
    /// The config in the files was refused: any change is worth another reading, whatever the content.
    refused: bool,
}

#[derive(Debug)]
struct Watched {
    /// What it was when the config was last read.
    judged: Content,
    /// What the latest look saw.
    seen: Option<Stamp>,
    /// `seen` was the same in two looks and its content is known to be `judged`.
    settled: bool,
}

/// What tells one version of a file from another without reading it; none for a file that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Unknown,
    Absent,
    Hash(u64),
}

impl Watch {
    /// Watches the files of a config that was read by someone else a moment ago. A file that was modified just before
    /// `now` may have changed between that reading and this look, so it will be read again.
    pub fn new(files: &[PathBuf], now: Wall) -> Self {
        let mut watch = Watch::default();
        watch.judged(files, now, false);
        watch
    }

    /// To be called before the config is read again: what is in the files now is what will be judged. A change from
    /// here on is told, whether the reading saw it or not.
    pub fn about_to_read(&mut self) {
        for (path, watched) in &mut self.files {
            watched.seen = stamp(path);
            watched.judged = content(path);
            watched.settled = true;
        }
    }

    /// To be called after the config was read: `files` are those it is made of now; if it was refused, those that were
    /// watched before are watched further.
    pub fn judged(&mut self, files: &[PathBuf], now: Wall, refused: bool) {
        self.refused = refused;
        let mut before = std::mem::take(&mut self.files);
        for path in files {
            let watched = before.remove(path).unwrap_or_else(|| Watched::first(path, now));
            self.files.insert(path.clone(), watched);
        }
        if refused {
            before.into_iter().for_each(|(path, watched)| {
                self.files.entry(path).or_insert(watched);
            });
        }
    }

    /// Looks once. True if something changed and has come to rest.
    pub fn look(&mut self) -> bool {
        let mut changed = false;
        for (path, watched) in &mut self.files {
            changed |= watched.look(path, self.refused);
        }
        changed
    }
}

impl Watched {
    fn first(path: &Path, now: Wall) -> Watched {
        let seen = stamp(path);
        let now_ns = i128::from(now.as_millis()) * 1_000_000;
        let fresh = seen.is_none_or(|stamp| now_ns - stamp.modified_ns < FRESH_NS);
        let judged = if fresh { Content::Unknown } else { content(path) };
        Watched { judged, seen, settled: !fresh }
    }

    fn look(&mut self, path: &Path, refused: bool) -> bool {
        let now = stamp(path);
        if now != self.seen {
            (self.seen, self.settled) = (now, false);
            return false;
        }
        if self.settled {
            return false;
        }
        self.settled = true;
        refused || self.judged == Content::Unknown || content(path) != self.judged
    }
}

/// A file that is younger than this when first seen may have changed since it was read.
const FRESH_NS: i128 = 2_000_000_000;

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    let modified_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    Some(Stamp { device: metadata.dev(), inode: metadata.ino(), bytes: metadata.len(), modified_ns })
}

fn content(path: &Path) -> Content {
    match fs::read(path) {
        Ok(bytes) => {
            let mut hasher = siphasher::sip::SipHasher13::new();
            hasher.write(&bytes);
            Content::Hash(hasher.finish())
        }
        Err(_) => Content::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// Late enough that no file in a test is fresh.
    const LATER: Wall = Wall::from_millis(u64::MAX / 2_000_000);

    fn written(text: &str) -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("weir.toml");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn watching(path: &Path) -> Watch {
        Watch::new(&[path.to_owned()], LATER)
    }

    /// What the next four looks say.
    fn looks(watch: &mut Watch) -> [bool; 4] {
        std::array::from_fn(|_| watch.look())
    }

    const ONCE_SETTLED: [bool; 4] = [false, true, false, false];
    const QUIET: [bool; 4] = [false; 4];

    #[test]
    fn a_change_is_told_once_and_only_when_it_has_come_to_rest() {
        let (_folder, path) = written("one");
        let mut watch = watching(&path);
        assert_eq!(looks(&mut watch), QUIET);
        fs::write(&path, "two!").unwrap();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
    }

    #[test]
    fn a_file_that_is_still_growing_is_not_told() {
        let (_folder, path) = written("one");
        let mut watch = watching(&path);
        for length in 4..20 {
            fs::write(&path, "x".repeat(length)).unwrap();
            assert!(!watch.look());
        }
        assert!(watch.look());
    }

    #[test]
    fn a_rename_over_the_file_and_a_swapped_link_are_changes() {
        let (folder, path) = written("one");
        let mut watch = watching(&path);
        fs::write(folder.path().join("draft"), "two").unwrap();
        fs::rename(folder.path().join("draft"), &path).unwrap();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);

        let link = folder.path().join("link");
        fs::write(folder.path().join("other"), "three").unwrap();
        symlink(&path, &link).unwrap();
        let mut watch = watching(&link);
        symlink(folder.path().join("other"), folder.path().join("link2")).unwrap();
        fs::rename(folder.path().join("link2"), &link).unwrap();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
    }

    #[test]
    fn a_config_map_that_swaps_its_data_folder_is_a_change() {
        let folder = TempDir::new().unwrap();
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(folder.path().join(version)).unwrap();
            fs::write(folder.path().join(version).join("weir.toml"), text).unwrap();
        }
        symlink("..1", folder.path().join("..data")).unwrap();
        symlink("..data/weir.toml", folder.path().join("weir.toml")).unwrap();
        let mut watch = watching(&folder.path().join("weir.toml"));
        symlink("..2", folder.path().join("..data_tmp")).unwrap();
        fs::rename(folder.path().join("..data_tmp"), folder.path().join("..data")).unwrap();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
    }

    #[test]
    fn the_same_content_again_is_no_change_unless_it_was_refused() {
        let (folder, path) = written("one");
        let mut watch = watching(&path);
        let rewrite = || {
            fs::write(folder.path().join("draft"), "one").unwrap();
            fs::rename(folder.path().join("draft"), &path).unwrap();
        };
        rewrite();
        assert_eq!(looks(&mut watch), QUIET);
        watch.judged(&[], LATER, true);
        rewrite();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
    }

    #[test]
    fn a_vanished_file_is_a_change_and_so_is_its_return() {
        let (_folder, path) = written("one");
        let mut watch = watching(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
        watch.about_to_read();
        watch.judged(&[], LATER, true);
        fs::write(&path, "one").unwrap();
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
    }

    #[test]
    fn a_change_during_a_reading_is_told_after_it() {
        let (_folder, path) = written("one");
        let mut watch = watching(&path);
        watch.about_to_read();
        fs::write(&path, "two").unwrap();
        watch.judged(std::slice::from_ref(&path), LATER, false);
        assert_eq!(looks(&mut watch), ONCE_SETTLED);
    }

    #[test]
    fn a_file_that_was_modified_just_before_the_first_look_is_read_again() {
        let (_folder, path) = written("one");
        let now = fs::metadata(&path).unwrap().mtime() as u64 * 1000;
        let mut watch = Watch::new(&[path], Wall::from_millis(now));
        assert_eq!(looks(&mut watch), [true, false, false, false]);
    }
}
