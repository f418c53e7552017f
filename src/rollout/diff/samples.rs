//! The comparisons of one rollout in its present stage: the last so many, by field and size, and the pairs that differed last.
//!
//! Everything is bounded: comparisons, fields that are told apart, pairs that are kept. Sizes of numeric differences are kept
//! and not only whether they were too large, so that another tolerance can be asked for later. Filled by whoever compares;
//! read by `verdict`.

use super::{Class, Difference, Field, Found, Rules};
use crate::clock::{Time, Wall};
use std::collections::{BTreeMap, VecDeque};

/// What was compared with stable's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The canary's.
    Canary,
    /// A second one of stable: what differs there is noise.
    Noise,
}

/// A request whose answers differed.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// When it was compared.
    pub at: Wall,
    /// Its method.
    pub method: String,
    /// Its path without the query.
    pub path: String,
    /// What differed, the largest of each field.
    pub differences: Vec<Difference>,
}

/// The comparisons of one rollout.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    began: Time,
    fields: Vec<Known>,
    ids: BTreeMap<Field, u16>,
    /// How many fields of each table are told apart, by the field that the others of it are.
    tables: BTreeMap<Field, usize>,
    kept: VecDeque<Sample>,
    /// How many marks there are in `kept`.
    marks: usize,
    examples: VecDeque<Example>,
}

/// A field that differed at least once.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub field: Field,
    /// The largest difference to the canary; of those that have no size the last.
    pub outlier: Option<Difference>,
    /// Whether stable was seen to differ from itself there.
    noisy: bool,
}

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub at: Time,
    pub kind: Kind,
    /// By field the size of the largest difference.
    pub marks: Box<[(u16, f64)]>,
}

impl Samples {
    /// No comparison, from now on.
    pub fn new(now: Time) -> Self {
        Samples { began: now, ..Samples::default() }
    }

    /// Takes in a comparison. What differed in something that is not known as noise is kept as an example.
    pub fn record(&mut self, now: Time, kind: Kind, found: &Found, rules: &Rules, example: impl FnOnce() -> Example) {
        let mut marks = Vec::with_capacity(found.fields.len());
        let mut telling = found.more > 0;
        for (field, hits) in &found.fields {
            let size = hits.largest.size;
            let beyond = size > rules.tolerance;
            let Some(id) = self.id(field) else {
                marks.push((OTHERS, size));
                telling |= beyond;
                continue;
            };
            marks.push((id, size));
            if kind == Kind::Noise {
                self.note_noise(id, beyond);
                // A field that comes and goes by itself is as often added as it is missing.
                if let Some(twin) = twin(field).and_then(|twin| self.id(&twin)) {
                    marks.push((twin, size));
                    self.note_noise(twin, beyond);
                }
            } else if let Some(known) = self.fields.get_mut(usize::from(id)) {
                telling |= beyond && !known.noisy;
                if known.outlier.as_ref().is_none_or(|outlier| size >= outlier.size) {
                    known.outlier = Some(hits.largest.clone());
                }
            }
        }
        if found.more > 0 {
            marks.push((OTHERS, f64::INFINITY));
        }
        one_each(&mut marks);
        if telling && kind == Kind::Canary {
            self.examples.push_back(example());
            let too_many = self.examples.len().saturating_sub(EXAMPLES_MAX);
            self.examples.drain(..too_many);
        }
        self.marks += marks.len();
        self.kept.push_back(Sample { at: now, kind, marks: marks.into() });
        while self.kept.len() > SAMPLES_MAX || self.marks > MARKS_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.marks -= oldest.marks.len();
        }
    }

    /// When it began: with the stage.
    pub fn began(&self) -> Time {
        self.began
    }

    /// The pairs that differed last, the latest first.
    pub fn examples(&self) -> impl Iterator<Item = &Example> {
        self.examples.iter().rev()
    }

    pub(super) fn kept(&self) -> impl DoubleEndedIterator<Item = &Sample> {
        self.kept.iter()
    }

    pub(super) fn fields(&self) -> &[Known] {
        &self.fields
    }

    pub(super) fn id_of(&self, field: &Field) -> Option<u16> {
        self.ids.get(field).copied()
    }

    /// The field's id: its own, or that of all others of its table where more of them have differed than are told apart.
    fn id(&mut self, field: &Field) -> Option<u16> {
        if let Some(id) = self.ids.get(field) {
            return Some(*id);
        }
        let rest = field.of_its_table().filter(|rest| rest != field);
        if self.fields.len() < FIELDS_MAX {
            let Some(rest) = &rest else { return self.new_id(field) };
            let told_apart = self.tables.entry(rest.clone()).or_default();
            *told_apart += 1;
            if *told_apart <= TABLE_FIELDS_MAX {
                return self.new_id(field);
            }
        }
        let rest = rest?;
        self.ids.get(&rest).copied().or_else(|| self.new_id(&rest))
    }

    fn new_id(&mut self, field: &Field) -> Option<u16> {
        let id = u16::try_from(self.fields.len()).ok().filter(|_| self.fields.len() < FIELDS_MAX + TABLES_MAX)?;
        self.ids.insert(field.clone(), id);
        self.fields.push(Known { field: field.clone(), outlier: None, noisy: false });
        Some(id)
    }

    fn note_noise(&mut self, id: u16, beyond: bool) {
        if let Some(known) = self.fields.get_mut(usize::from(id)) {
            known.noisy |= beyond;
        }
    }
}

/// The largest mark of each field, in their order.
pub(super) fn one_each(marks: &mut Vec<(u16, f64)>) {
    marks.sort_unstable_by(|(one, size), (other, than)| one.cmp(other).then(than.total_cmp(size)));
    marks.dedup_by_key(|(id, _)| *id);
}

fn twin(field: &Field) -> Option<Field> {
    let class = match field.class {
        Class::Missing => Class::Added,
        Class::Added => Class::Missing,
        _ => return None,
    };
    Some(Field { path: field.path.clone(), class })
}

/// The id of all fields of which nothing is told apart.
pub(super) const OTHERS: u16 = u16::MAX;
/// Fields of a rollout that are told apart.
pub const FIELDS_MAX: usize = 1_000;
/// Tables whose other fields are told apart from those of other tables, besides.
const TABLES_MAX: usize = 100;
/// Fields of one table, and of one class, that are told apart. A table that has more of them that differ has data for keys.
pub const TABLE_FIELDS_MAX: usize = 64;
/// Comparisons that are kept: half an hour of 10 a second.
pub const SAMPLES_MAX: usize = 20_000;
/// Differing fields that are kept, over all comparisons: 5 MB.
pub const MARKS_MAX: usize = 300_000;
/// Differing pairs that are kept.
pub const EXAMPLES_MAX: usize = 20;
