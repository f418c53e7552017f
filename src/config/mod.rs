//! Config: text -> tree -> raw -> validated `Config` -> `Snapshot`. Every problem is reported at once, each with its place.
//!
//! `parse` reads TOML, YAML or JSON into a `tree`; `environment` lays variables over it; `decode` turns it into the mirror of
//! the file in `raw`; `validate` resolves names, reads files and builds the `model`; `compile` makes the snapshot. Raw types
//! never leave this room, and nothing here changes a running process: the control plane calls `load`, decides, and publishes.

mod budget;
pub mod change;
mod compile;
mod decode;
mod describe;
mod effective;
mod environment;
mod limits;
mod model;
mod parse;
mod problem;
mod raw;
mod schema;
#[cfg(test)]
mod tests;
mod tls;
mod tree;
pub mod units;
mod users;
mod validate;

pub use crate::rollout::standing::LiveRollout;
pub use budget::Budget;
pub use compile::{compile, splits};
pub use describe::describe;
pub use environment::variable;
pub use limits::table as limits_table;
pub use model::*;
pub use parse::{CONFIG_BYTES_MAX, Format};
pub use problem::{Problem, Severity, hint};
pub use schema::schema;
pub use users::UserFiles;
pub use validate::siphash_key;

use crate::snapshot::Endpoint;
use decode::Decode;
use problem::{Problems, Source};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is true at run time besides the file, handed to `compile`; rollouts that are not named follow their plan.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// By rollout name.
    pub rollouts: BTreeMap<Arc<str>, LiveRollout>,
    /// Resolved endpoints by upstream name; an upstream that is missing has none yet.
    pub endpoints: BTreeMap<Arc<str>, Vec<Endpoint>>,
}

/// A config that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// What somebody should know all the same.
    pub warnings: Vec<Problem>,
    /// Every file it was made from: the config itself first, then users files, certificates, keys and secrets.
    pub files: Vec<PathBuf>,
    /// File and environment merged, paths absolute, secrets never contained.
    pub effective: serde_json::Value,
}

/// Reads and checks a config file. `environment` is the whole environment; only `WEIR__` variables are looked at.
pub fn load(path: &Path, environment: &[(String, String)], cache: &mut UserFiles) -> Result<Loaded, Vec<Problem>> {
    let name = path.display().to_string();
    let one = |problem| vec![problem];
    let format = Format::of(path).map_err(|message| one(Problem::of_file(&name, message)))?;
    let bytes = parse::read(path, &name).map_err(one)?;
    let text = parse::text_of(&bytes, &name).map_err(one)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut loaded = load_text(&name, text, format, folder, environment, cache)?;
    loaded.files.insert(0, absolute(path));
    Ok(loaded)
}

/// Checks a config text as though it were the file `name` in `folder`.
pub fn load_text(
    name: &str,
    text: &str,
    format: Format,
    folder: &Path,
    environment: &[(String, String)],
    cache: &mut UserFiles,
) -> Result<Loaded, Vec<Problem>> {
    read(Given { name, text, format, folder: &absolute(folder), environment, redacted: false }, cache)
}

/// Reads what another process says is its config in force (`Config::effective` as JSON). Secrets are not in it, so the result
/// is for comparison by `change`, never to be served. Its paths are absolute; what it leaves to defaults is in `folder`.
pub fn load_effective(name: &str, text: &str, folder: &Path, cache: &mut UserFiles) -> Result<Loaded, Vec<Problem>> {
    let folder = &absolute(folder);
    let given = Given { name, text, format: Format::Json, folder, environment: &[], redacted: true };
    let mut loaded = read(given, cache)?;
    // As the process says it: a redacted secret is there, only not to be seen.
    if let Ok(effective) = serde_json::from_str::<serde_json::Value>(text) {
        loaded.config.effective.clone_from(&effective);
        loaded.effective = effective;
    }
    Ok(loaded)
}

/// What there is to be read.
struct Given<'a> {
    name: &'a str,
    text: &'a str,
    format: Format,
    folder: &'a Path,
    environment: &'a [(String, String)],
    redacted: bool,
}

fn read(given: Given<'_>, cache: &mut UserFiles) -> Result<Loaded, Vec<Problem>> {
    let mut problems = Problems::new(Source::new(given.name, given.text));
    let Some(mut tree) = parse::parse(given.text, given.format, &mut problems) else {
        return Err(problems.finish(Severity::Error));
    };
    let shape = raw::Root::shape();
    environment::apply(&mut tree, &shape, given.environment, &mut problems);
    if given.redacted {
        effective::without_redacted(&mut tree, &shape);
    }
    let Some(root) = raw::Root::decode(&tree, &decode::Path::Root, &mut problems) else {
        return Err(problems.finish(Severity::Error));
    };
    let effective = effective::of(&tree, &shape, given.folder);
    let mut context = validate::Context::new(&mut problems, given.folder, cache);
    context.redacted = given.redacted;
    let config = validate::config(&root, effective.clone(), &mut context);
    if problems.any_error() {
        return Err(problems.finish(Severity::Error));
    }
    let files: Vec<PathBuf> = config.digests.keys().cloned().collect();
    cache.retain(&files);
    Ok(Loaded { config, warnings: problems.finish(Severity::Warning), files, effective })
}

/// The absolute form of a path; the path itself where the working folder cannot be told.
fn absolute(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// SHA-256, to tell whether a file's content has changed.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut array = [0; 32];
    array.copy_from_slice(digest.as_ref());
    array
}
