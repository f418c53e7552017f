//! What the comparisons of a stage come to: fields with their noise, the share of samples that differ, and a verdict.
//!
//! **Fields.** Of `n` samples `k` differ in a field, of `m` noise samples (stable against stable) `j`. A field is *noise* where
//! `j > 0` and the canary is not shown to differ there oftener than stable does from itself: Fisher's exact test of `k` of `n`
//! against `j` of `m`, at `ALPHA_NOISE` over all fields together. A field in which stable was never seen to differ counts in full.
//! Where the keys of a table are data, its fields that were seen once or twice are judged as one.
//!
//! **Rate.** `D` is the share of samples that differ in a field that is not noise, `N` the same share of the noise samples. If
//! noise and differences come independently, `D = N + x - N x`, so with noise taken off the rate is `x = (D - N) / (1 - N)`
//! (Abbott, 1925), never below 0.
//!
//! **Verdict.** *pass*: enough samples, and `x` is at most the limit. *fail*: the lower 95 % bound of `x` (Clopper and Pearson's
//! of `D`, with the upper one of `N` where it is not 0) is above the limit, so that answers which keep the limit fail in at most 5 %
//! of all cases. In between, and with fewer samples than asked for: *not enough data*, with the number that would tell. Where stable
//! differs from itself in most samples, or in more fields than are told apart, nothing passes: what is wrong would not show.

use super::exact::{Share, chance_of_excess};
use super::samples::{Kind, OTHERS, Sample, Samples, one_each};
use super::{Difference, Field};
use crate::clock::Time;
use std::collections::BTreeMap;
use std::fmt;

/// What is asked of the comparisons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Relative difference up to which two numbers are equal.
    pub tolerance: f64,
    /// The share of samples that may differ, in parts of one.
    pub max_diff_rate: f64,
    /// Of which share of samples the noise is measured; without any there is none taken off.
    pub noise: f64,
    /// How many samples to judge by: the last ones.
    pub samples: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No more differs than may.
    Pass,
    /// More differs than may.
    Fail,
    /// That cannot be told yet.
    NotEnoughData,
}

impl Verdict {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::NotEnoughData => "not_enough_data",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The comparisons of a stage, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// Samples that differ in something that is not noise, of all.
    pub differing: Share,
    /// Samples that differ in anything, noise included.
    pub differing_at_all: u64,
    /// Noise samples that differ in something that is not noise, of all.
    pub noise: Share,
    /// The share of answers that differ, noise taken off.
    pub rate: f64,
    /// Its bounds, each wrong in at most 5 % of all cases.
    pub bounds: (f64, f64),
    /// The fields that differ, the worst first, at most `FIELDS_TOLD_MAX`.
    pub fields: Vec<FieldJudgement>,
    /// How many fields differ, also those that are not listed.
    pub fields_in_all: usize,
    /// How often numbers differed by how much, noise left out: upper edges of relative size with counts; the last edge is
    /// the largest size there is.
    pub sizes: Vec<(f64, u64)>,
    /// Differences that have no size, noise left out.
    pub without_size: u64,
}

/// One field, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldJudgement {
    /// Which.
    pub field: Field,
    /// Samples that differ there.
    pub canary: Share,
    /// Noise samples that differ there.
    pub noise: Share,
    /// The share of differing answers, noise taken off; 0 for noise.
    pub rate: f64,
    /// Whether its differences are those that stable has from itself.
    pub is_noise: bool,
    /// Whether it differs too often by itself, shown as the verdict is.
    pub fails: bool,
    /// The largest difference, or the last one where there is no size.
    pub outlier: Option<Difference>,
}

/// The rate of the samples since `since`, noise taken off, with their number: what criteria read.
///
/// # Errors
/// Why there is none.
pub fn rate(samples: &Samples, since: Time, limits: Limits) -> Result<(f64, u64), &'static str> {
    let chosen = Chosen::of(samples, since, limits.tolerance, u64::MAX);
    let of = chosen.canary.len() as u64;
    if of == 0 {
        return Err("no comparisons");
    }
    let masked = chosen.masked();
    let (differing, noise) = chosen.differing(&masked);
    if differing.hits > 0 && !noise_is_known(of, noise.of, limits.noise) {
        return Err("noise is not measured yet");
    }
    if noise.rate() > NOISE_MOST || masked.contains(&OTHERS) {
        return Err("stable differs from itself too often to tell");
    }
    Ok((corrected(differing.rate(), noise.rate()), of))
}

/// Judges the last samples of a stage.
pub fn judge(samples: &Samples, limits: Limits) -> Judgement {
    let chosen = Chosen::of(samples, samples.began(), limits.tolerance, limits.samples);
    let masked = chosen.masked();
    let (differing, noise) = chosen.differing(&masked);
    let rate = corrected(differing.rate(), noise.rate());
    let bounds = bounds(differing, noise);
    let mut fields: Vec<FieldJudgement> =
        chosen.fields.iter().map(|(id, counts)| chosen.field(samples, *id, counts, &masked)).collect();
    fields.sort_by(|one, other| {
        (other.rate.total_cmp(&one.rate))
            .then(other.canary.hits.cmp(&one.canary.hits))
            .then(one.field.cmp(&other.field))
    });
    let fields_in_all = fields.len();
    fields.truncate(FIELDS_TOLD_MAX);
    for told in fields.iter_mut().filter(|told| !told.is_noise && told.rate > limits.max_diff_rate) {
        told.fails = self::bounds(told.canary, told.noise).0 > limits.max_diff_rate;
    }
    let fails_alone = fields.iter().any(|told| told.fails);
    let (verdict, reason) = match verdict(differing, noise, rate, bounds, limits) {
        (Verdict::Pass, _) if noise.rate() > NOISE_MOST => (Verdict::NotEnoughData, drowned(noise)),
        (Verdict::Pass | Verdict::Fail, _) if masked.contains(&OTHERS) && !fails_alone => {
            (Verdict::NotEnoughData, OVERFLOWN.to_owned())
        }
        told => told,
    };
    let (sizes, without_size) = chosen.sizes(&masked);
    let differing_at_all = chosen.differing(&[]).0.hits;
    Judgement {
        verdict,
        reason,
        differing,
        differing_at_all,
        noise,
        rate,
        bounds,
        fields,
        fields_in_all,
        sizes,
        without_size,
    }
}

/// How many samples of the stage there are, and how many of noise.
pub fn count(samples: &Samples) -> (u64, u64) {
    let canary = samples.kept().filter(|sample| sample.kind == Kind::Canary).count() as u64;
    (canary, samples.kept().count() as u64 - canary)
}

/// The samples that are judged.
struct Chosen<'a> {
    canary: Vec<&'a Sample>,
    noise: Vec<&'a Sample>,
    tolerance: f64,
    /// Fields that are judged as another one, and those.
    rest: BTreeMap<u16, u16>,
    tables: BTreeMap<u16, Field>,
    /// By field: how many differ there, of each kind.
    fields: BTreeMap<u16, [Share; 2]>,
}

impl<'a> Chosen<'a> {
    /// The last samples since then, with the noise of the same time; where that is little, with that of the whole stage.
    fn of(samples: &'a Samples, since: Time, tolerance: f64, last: u64) -> Self {
        let last = usize::try_from(last).unwrap_or(usize::MAX);
        let recent = samples.kept().rev().filter(|sample| sample.kind == Kind::Canary && sample.at >= since);
        let canary: Vec<&Sample> = recent.take(last).collect();
        let began = canary.last().map_or(since, |oldest| oldest.at);
        let noise = || samples.kept().filter(|sample| sample.kind == Kind::Noise);
        let meanwhile: Vec<&Sample> = noise().filter(|sample| sample.at >= began).collect();
        let noise = if meanwhile.len() >= NOISE_ENOUGH { meanwhile } else { noise().collect() };
        let mut chosen = Chosen {
            canary,
            noise,
            tolerance,
            rest: BTreeMap::new(),
            tables: BTreeMap::new(),
            fields: BTreeMap::new(),
        };
        chosen.fields = chosen.count();
        chosen.gather(samples);
        if !chosen.rest.is_empty() {
            chosen.fields = chosen.count();
        }
        chosen
    }

    /// Judges those fields of a table as one that were seen once or twice, if some were seen in noise: its keys are data.
    fn gather(&mut self, samples: &Samples) {
        let mut tables: BTreeMap<Field, (u64, Vec<u16>)> = BTreeMap::new();
        let is_rare = |shares: &[Share; 2]| shares.iter().map(|share| share.hits).sum::<u64>() <= RARE_MAX;
        for (id, [_, noise]) in self.fields.iter().filter(|(_, shares)| is_rare(shares)) {
            let field = samples.fields().get(usize::from(*id)).map(|known| &known.field);
            if let Some(table) = field.and_then(Field::of_its_table).filter(|table| Some(table) != field) {
                let (seen, ids) = tables.entry(table).or_default();
                *seen += noise.hits;
                ids.push(*id);
            }
        }
        for (table, (seen, ids)) in tables {
            let id = samples.id_of(&table);
            let is_noisy =
                seen > 0 || id.is_some_and(|id| self.fields.get(&id).is_some_and(|[_, noise]| noise.hits > 0));
            let free =
                || u16::try_from(self.tables.len()).ok().and_then(|taken| OTHERS.checked_sub(1)?.checked_sub(taken));
            if let (true, Some(id)) = (is_noisy && ids.len() > 1, id.or_else(free)) {
                self.rest.extend(ids.into_iter().map(|of| (of, id)));
                self.tables.insert(id, table);
            }
        }
    }

    /// By field how many samples differ there.
    fn count(&self) -> BTreeMap<u16, [Share; 2]> {
        let mut fields: BTreeMap<u16, [Share; 2]> = BTreeMap::new();
        let lists = [&self.canary, &self.noise];
        for (kind, sample) in (0..).zip(lists).flat_map(|(kind, list)| list.iter().map(move |sample| (kind, sample))) {
            let mut marks: Vec<(u16, f64)> = self.beyond(sample).collect();
            one_each(&mut marks);
            for (id, _) in marks {
                let shares =
                    fields.entry(id).or_insert_with(|| lists.map(|list| Share { hits: 0, of: list.len() as u64 }));
                if let Some(share) = shares.get_mut::<usize>(kind) {
                    share.hits += 1;
                }
            }
        }
        fields
    }

    /// The marks of a sample that are beyond the tolerance, with the fields that they are judged as.
    fn beyond(&self, sample: &Sample) -> impl Iterator<Item = (u16, f64)> {
        let marks = sample.marks.iter().filter(|(_, size)| *size > self.tolerance);
        marks.map(|(id, size)| (self.rest.get(id).copied().unwrap_or(*id), *size))
    }

    /// The fields that are noise, in order.
    fn masked(&self) -> Vec<u16> {
        let noisy = self.fields.values().filter(|[_, noise]| noise.hits > 0).count().max(1);
        let alpha = ALPHA_NOISE / noisy as f64;
        let is_noise = |[canary, noise]: &[Share; 2]| noise.hits > 0 && chance_of_excess(*canary, *noise) > alpha;
        self.fields.iter().filter(|(_, shares)| is_noise(shares)).map(|(id, _)| *id).collect()
    }

    /// How many samples, and how many of noise, differ in a field that is not among `masked`.
    fn differing(&self, masked: &[u16]) -> (Share, Share) {
        let differs = |sample: &&&Sample| self.beyond(sample).any(|(id, _)| masked.binary_search(&id).is_err());
        let share =
            |list: &[&Sample]| Share { hits: list.iter().filter(differs).count() as u64, of: list.len() as u64 };
        (share(&self.canary), share(&self.noise))
    }

    fn field(&self, samples: &Samples, id: u16, shares: &[Share; 2], masked: &[u16]) -> FieldJudgement {
        let [canary, noise] = *shares;
        let is_noise = masked.binary_search(&id).is_ok();
        let known = samples.fields().get(usize::from(id)).filter(|_| id != OTHERS);
        let others = || Field { path: "(other fields)".to_owned(), class: super::Class::Value };
        let table = || self.tables.get(&id).cloned();
        FieldJudgement {
            field: known.map(|known| known.field.clone()).or_else(table).unwrap_or_else(others),
            canary,
            noise,
            rate: if is_noise { 0.0 } else { corrected(canary.rate(), noise.rate()) },
            is_noise,
            fails: false,
            outlier: known.and_then(|known| known.outlier.clone()),
        }
    }

    /// How often numbers differed by how much, and how often something without a size did.
    fn sizes(&self, masked: &[u16]) -> (Vec<(f64, u64)>, u64) {
        let mut sizes: Vec<(f64, u64)> = SIZES.iter().map(|edge| (*edge, 0)).collect();
        let mut without = 0;
        let marks = self.canary.iter().flat_map(|sample| sample.marks.iter());
        let counts = |id: &u16| masked.binary_search(self.rest.get(id).unwrap_or(id)).is_err();
        for (_, size) in marks.filter(|(id, _)| counts(id)) {
            match sizes.iter_mut().find(|(edge, _)| size <= edge) {
                Some((_, count)) => *count += 1,
                None => without += 1,
            }
        }
        (sizes, without)
    }
}

fn corrected(differing: f64, noise: f64) -> f64 {
    if noise >= 1.0 { 0.0 } else { ((differing - noise) / (1.0 - noise)).max(0.0) }
}

/// The bounds of a rate with noise taken off. Noise that was never seen is none.
fn bounds(differing: Share, noise: Share) -> (f64, f64) {
    let (most, least) = if noise.hits == 0 { (0.0, 0.0) } else { (noise.upper(ALPHA), noise.lower(ALPHA)) };
    (corrected(differing.lower(ALPHA), most), corrected(differing.upper(ALPHA), least))
}

fn verdict(differing: Share, noise: Share, rate: f64, bounds: (f64, f64), limits: Limits) -> (Verdict, String) {
    let Limits { max_diff_rate: limit, samples, .. } = limits;
    if differing.of < samples {
        return (Verdict::NotEnoughData, format!("{} of {samples} samples", differing.of));
    }
    let measured = format!("{} of {} samples differ, noise taken off {}", differing.hits, differing.of, percent(rate));
    let (limit_text, low, high) = (percent(limit), percent(bounds.0), percent(bounds.1));
    if differing.of == 0 {
        return (Verdict::NotEnoughData, "no samples".to_owned());
    }
    if differing.hits > 0 && !noise_is_known(differing.of, noise.of, limits.noise) {
        let reason = format!("{measured}; noise is not measured yet ({} of {NOISE_MIN} noise samples)", noise.of);
        return (Verdict::NotEnoughData, reason);
    }
    if rate <= limit {
        return (Verdict::Pass, format!("{measured} <= {limit_text} (with 95% confidence at most {high})"));
    }
    if bounds.0 > limit {
        return (Verdict::Fail, format!("{measured} > {limit_text} (with 95% confidence at least {low})"));
    }
    let needed = needed(rate, limit).max(differing.of.saturating_add(1));
    let reason =
        format!("{measured}; {low} to {high} cannot be told from {limit_text}: some {needed} samples would tell");
    (Verdict::NotEnoughData, reason)
}

/// Why samples do not pass in which stable differs from itself too often.
fn drowned(noise: Share) -> String {
    let seen = percent(noise.rate());
    format!(
        "stable differs from itself in {seen} of the noise samples: leave out what changes by itself, with `ignore`"
    )
}

/// How many samples tell a rate from the limit: where 1.645 standard deviations are as wide as their distance.
fn needed(rate: f64, limit: f64) -> u64 {
    let apart = (rate - limit).max(1e-6);
    (2.706 * rate * (1.0 - rate).max(0.0) / (apart * apart)).ceil() as u64
}

/// Whether enough noise samples are there to take noise off, or so many samples without any that none will come: requests with
/// other than safe methods are never sent to stable twice.
fn noise_is_known(samples: u64, noise_samples: u64, share: f64) -> bool {
    share <= 0.0 || noise_samples >= NOISE_MIN || samples as f64 * share >= 3.0 * NOISE_MIN as f64
}

/// A share as a percentage with as many digits as it takes.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == 0.0 || percent >= 10.0 { format!("{percent:.0}%") } else { format!("{percent:.2}%") }
}

/// Fields that are told of.
pub const FIELDS_TOLD_MAX: usize = 50;
/// How often a verdict may be `fail` although the limit is kept.
const ALPHA: f64 = 0.05;
/// How often noise may be taken for a difference, over all noisy fields together.
const ALPHA_NOISE: f64 = 0.01;
/// The share of noise samples that may differ where something passes.
const NOISE_MOST: f64 = 0.5;
const OVERFLOWN: &str =
    "stable differs from itself in more fields than are told apart: leave out what changes by itself, with `ignore`";
/// How often a field is seen that is judged with the others of its table, where its keys are data.
const RARE_MAX: u64 = 2;
/// Noise samples with which those of before are not asked.
const NOISE_ENOUGH: usize = 50;
/// Noise samples without which nothing fails where noise is measured.
const NOISE_MIN: u64 = 10;
/// Upper edges of the sizes of numeric differences. None is above 2: that is a number against its negative.
const SIZES: [f64; 14] = [1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5, 1.0, 2.0];
