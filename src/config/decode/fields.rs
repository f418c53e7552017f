//! The keys of one table: which are unknown, which are missing, and what was probably meant.

use super::{Decode, Path, Spot, plain, wrong_type};
use crate::config::problem::{Problems, did_you_mean, nearest};
use crate::config::tree::{Entry, Kind, Node, Table};

/// The keys of one table while they are being read.
pub struct Fields<'n> {
    table: &'n Table,
    /// Keys that were written slightly wrong: the right name and what stands under the wrong one.
    corrected: Vec<(&'static str, &'n Entry)>,
}

impl<'n> Fields<'n> {
    /// Reports what is no table, keys that are unknown and keys that are missing.
    pub fn open(
        node: &'n Node,
        path: &Path<'_>,
        keys: &[(&'static str, bool)],
        problems: &mut Problems<'_>,
    ) -> Option<Self> {
        let Kind::Table(table) = &node.kind else {
            wrong_type(node, path, "a table", problems);
            return None;
        };
        let names = keys.iter().map(|(name, _)| plain(name));
        let mut fields = Fields { table, corrected: Vec::new() };
        for entry in table.entries() {
            if !names.clone().any(|name| name == entry.key) {
                fields.unknown(entry, path, names.clone(), problems);
            }
        }
        for name in keys.iter().filter(|(_, required)| *required).map(|(name, _)| plain(name)) {
            if fields.entry(name).is_none() {
                problems.error(node.place, format!("{}: is missing", Path::Key(path, name)));
            }
        }
        Some(fields)
    }

    /// The value of a key; none if it is absent or wrong.
    pub fn take<T: Decode>(
        &self,
        name: &'static str,
        later: Option<&str>,
        path: &Path<'_>,
        problems: &mut Problems<'_>,
    ) -> Option<Spot<T>> {
        let entry = self.entry(plain(name))?;
        let path = Path::Key(path, plain(name));
        if let Some(why) = later {
            let message = format!("`{path}` is accepted but not carried out by this version: {why}");
            problems.warning(entry.place, message);
        }
        let value = T::decode(&entry.value, &path, problems)?;
        Some(Spot { value, place: entry.value.place })
    }

    fn entry(&self, name: &str) -> Option<&'n Entry> {
        self.table
            .entry(name)
            .or_else(|| self.corrected.iter().find(|(right, _)| *right == name).map(|(_, entry)| *entry))
    }

    fn unknown(
        &mut self,
        entry: &'n Entry,
        path: &Path<'_>,
        names: impl Iterator<Item = &'static str> + Clone,
        problems: &mut Problems<'_>,
    ) {
        let key = entry.key.as_str();
        if problems.full() {
            problems.error(entry.place, String::new());
            return;
        }
        let meant = nearest(key, names.clone()).or_else(|| foreign(key, names.clone()));
        let help = match meant {
            Some(name) => Some(format!("did you mean `{name}`?")),
            None => did_you_mean(key, names),
        };
        let problem = problems.error(entry.place, format!("unknown key `{}`", Path::Key(path, key)));
        if let Some(help) = help {
            problem.with_help(help);
        }
        if let Some(name) = meant.filter(|name| self.entry(name).is_none()) {
            self.corrected.push((name, entry));
        }
    }
}

/// The key that another program's word stands for, if this table has it.
fn foreign(word: &str, names: impl Iterator<Item = &'static str> + Clone) -> Option<&'static str> {
    let word = word.to_lowercase().replace('-', "_");
    let ours = FOREIGN_WORDS.iter().filter(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours);
    ours.filter_map(|ours| names.clone().find(|name| *name == ours)).next()
}

/// Words of other programs and their word here; several meanings are tried in order.
const FOREIGN_WORDS: &[(&str, &str)] = &[
    ("backend", "upstream"),
    ("backends", "upstreams"),
    ("clusters", "upstreams"),
    ("cluster", "upstream"),
    ("listen", "listeners"),
    ("listen", "address"),
    ("bind", "address"),
    ("servers", "endpoints"),
    ("hosts", "endpoints"),
    ("percent", "weight"),
    ("percentage", "weight"),
    ("percentage", "share"),
    ("traffic", "weight"),
    ("segments", "cohorts"),
    ("phases", "stages"),
    ("steps", "stages"),
    ("flags", "rollouts"),
    ("experiments", "rollouts"),
    ("prefix", "path_prefix"),
    ("path", "path_prefix"),
    ("treatment", "canary"),
    ("certificate", "cert"),
    ("private_key", "key"),
    ("seed", "hash_seed"),
    ("mirror", "shadow"),
    ("rules", "triggers"),
    ("alerts", "triggers"),
];
