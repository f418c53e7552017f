//! Text to tree: TOML, YAML and JSON by file extension, with limits on size, depth and alias expansion.
//!
//! Reports what is no text or no valid syntax; knows no key. Called by `load`.

mod json;
mod toml;
mod yaml;

use super::problem::{Problem, Problems};
use super::tree::{DEPTH_MAX, Kind, Node, Place, Table};
use std::io::Read;
use std::path::Path;

/// In which form a config is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.toml`, and files without an extension.
    Toml,
    /// `.yaml`, `.yml`.
    Yaml,
    /// `.json`.
    Json,
}

impl Format {
    /// The form that a file's name says; an error names the extensions there are.
    pub fn of(path: &Path) -> Result<Format, String> {
        let extension = path.extension().map(|text| text.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            None | Some("toml") => Ok(Format::Toml),
            Some("yaml" | "yml") => Ok(Format::Yaml),
            Some("json") => Ok(Format::Json),
            Some(other) => Err(format!("cannot tell the form of a `.{other}` file: use .toml, .yaml, .yml or .json")),
        }
    }
}

/// The longest config that is read, in bytes.
pub const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Reads a config file whole, never more than `CONFIG_BYTES_MAX`.
pub fn read(path: &Path, name: &str) -> Result<Vec<u8>, Problem> {
    let refused = |error: std::io::Error| Problem::of_file(name, format!("cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(refused)?;
    if file.metadata().map_err(refused)?.is_dir() {
        return Err(Problem::of_file(name, "is a folder, not a config file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        let mut problem = Problem::at_start_of(name, "is larger than 4 MiB: this is no config of weir".to_owned());
        problem.with_help("long lists of users belong into a `users_file`");
        return Err(problem);
    }
    Ok(bytes)
}

/// The text of a file, or the one problem that says why it is none.
pub fn text_of<'b>(bytes: &'b [u8], name: &str) -> Result<&'b str, Problem> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Problem::at_start_of(name, "is UTF-16 text: save it as UTF-8".to_owned()));
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    let (valid, bad) = match std::str::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            (std::str::from_utf8(valid).unwrap_or_default(), bytes.get(error.valid_up_to()).copied())
        }
    };
    let bad_at = match memchr::memchr(0, valid.as_bytes()) {
        Some(offset) => Some((offset, 0)),
        None => bad.map(|byte| (valid.len(), byte)),
    };
    let Some((offset, byte)) = bad_at else { return Ok(valid) };
    let mut problem = Problem::of_file(name, format!("is not a text file: byte 0x{byte:02x} is not UTF-8 text"));
    let before = valid.get(..offset).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    problem.line = u32::try_from(before.matches('\n').count() + 1).ok();
    problem.column = u32::try_from(before.get(line_start..).map_or(0, |line| line.chars().count()) + 1).ok();
    Err(problem)
}

/// The tree of a text. None after at least one error.
pub fn parse(text: &str, format: Format, problems: &mut Problems<'_>) -> Option<Node> {
    if text.trim().is_empty() {
        problems.error(Place::Offset(0), EMPTY);
        return None;
    }
    let tree = match format {
        Format::Toml => toml::parse(text, problems),
        Format::Yaml => yaml::parse(text, problems),
        Format::Json => json::parse(text, problems),
    }?;
    match &tree.kind {
        Kind::Table(table) if table.entries().is_empty() => {
            problems.error(Place::Offset(0), EMPTY);
            None
        }
        Kind::Null => {
            problems.error(Place::Offset(0), EMPTY);
            None
        }
        Kind::Table(_) => Some(tree),
        _ => {
            problems.error(tree.place, format!("expected keys with values, found {}", tree.described()));
            None
        }
    }
}

/// A value of the environment: as TOML if it is a TOML value, else text.
pub fn variable(text: &str, place: Place) -> Node {
    toml::value(text, place).unwrap_or_else(|| Node::new(Kind::Text(text.to_owned()), place))
}

/// Adds a key to a table, or reports it as the second of its name.
fn insert(table: &mut Table, key: String, place: Place, value: Node, problems: &mut Problems<'_>) {
    if let Err(key) = table.insert(key, place, value) {
        problems.error(place, format!("`{}` stands here a second time", super::tree::shortened(&key)));
    }
}

/// The place of a byte of the text.
fn offset_of(offset: usize) -> Place {
    Place::Offset(u32::try_from(offset).unwrap_or(u32::MAX))
}

/// Reports nesting that no config needs; the tree is walked recursively, so this protects the stack.
fn too_deep(place: Place, problems: &mut Problems<'_>) {
    problems.error(place, format!("nested deeper than {DEPTH_MAX} levels"));
}

const EMPTY: &str = "is empty: it sets nothing";
