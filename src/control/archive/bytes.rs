//! Samples as bytes: a version, what is in it, and a checksum at the end.
//!
//! Numbers are LEB128, histograms the gaps between the buckets that were hit with their counts, so a sample takes as many
//! bytes as something happened in it. Bytes that are not those of a sample give an error, never a wrong one.

use crate::clock::Wall;
use crate::rollout::Arm;
use crate::rollout::breaker;
use crate::rollout::bucket::Weight;
use crate::rollout::histogram::{BUCKETS, Histogram};
use crate::rollout::report::State;
use crate::rollout::sample::{Gauge, Key, Number, Resources, Sample, Stood, Sums, Visit};
use crate::rollout::vital::Vital;
use crate::rollout::window::Counts;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// These bytes are no sample that this weir knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// A sample as bytes. What is a column of its own (visit, time, span) is not among them.
pub fn of_sample(sample: &Sample) -> Vec<u8> {
    let mut out = Writer::new();
    out.standing(&sample.stood);
    out.number(sample.sums.requests.len() as u64);
    for (key, counts) in &sample.sums.requests {
        match key {
            Key::Route(arm, name) => out.tagged(ROUTE, *arm, name),
            Key::Cohort(arm, name) => out.tagged(COHORT, *arm, name),
            Key::Probes => out.tagged(PROBES, Arm::Canary, ""),
            Key::Shadow => out.tagged(SHADOW, Arm::Canary, ""),
        }
        out.counts(counts);
    }
    out.number(sample.sums.numbers.len() as u64);
    for (number, count) in &sample.sums.numbers {
        match number {
            Number::Fallbacks => out.tagged(FALLBACKS, Arm::Canary, ""),
            Number::Diverted => out.tagged(DIVERTED, Arm::Canary, ""),
            Number::Signal(arm, name) => out.tagged(SIGNAL, *arm, name),
        }
        out.number(*count);
    }
    out.number(sample.sums.vitals.len() as u64);
    for ((arm, vital), reports) in &sample.sums.vitals {
        out.number(arm.index() as u64);
        out.number(Vital::ALL.iter().position(|known| known == vital).unwrap_or(0) as u64);
        out.histogram(reports);
    }
    out.end()
}

/// The sample that these bytes and columns are.
///
/// # Errors
/// `Damaged` if the bytes are not those of a sample.
pub fn sample(bytes: &[u8], visit: Visit, ended_at: Wall, span: Duration) -> Result<Sample, Damaged> {
    let mut from = Reader::new(bytes)?;
    let stood = from.standing()?;
    let mut sums = Sums::default();
    for _ in 0..from.length()? {
        let key = match from.tagged()? {
            (ROUTE, arm, name) => Key::Route(arm, name),
            (COHORT, arm, name) => Key::Cohort(arm, name),
            (PROBES, _, _) => Key::Probes,
            (SHADOW, _, _) => Key::Shadow,
            _ => return Err(Damaged),
        };
        sums.requests.insert(key, from.counts()?);
    }
    for _ in 0..from.length()? {
        let number = match from.tagged()? {
            (FALLBACKS, _, _) => Number::Fallbacks,
            (DIVERTED, _, _) => Number::Diverted,
            (SIGNAL, arm, name) => Number::Signal(arm, name),
            _ => return Err(Damaged),
        };
        sums.numbers.insert(number, from.number()?);
    }
    for _ in 0..from.length()? {
        let (arm, vital) = (one_of(&Arm::ALL, from.number()?)?, one_of(&Vital::ALL, from.number()?)?);
        sums.vitals.insert((arm, vital), from.histogram()?);
    }
    from.end()?;
    Ok(Sample { visit, ended_at, span, stood, sums })
}

/// What weir took as bytes. What is a column of its own (time, span) is not among them.
pub fn of_resources(resources: &Resources) -> Vec<u8> {
    let mut out = Writer::new();
    out.number(resources.cpu_us);
    out.number(u64::from(resources.memory.is_some()));
    if let Some(memory) = resources.memory {
        out.gauge(memory);
    }
    out.number(resources.queries.len() as u64);
    for (query, gauge) in &resources.queries {
        out.text(query);
        out.gauge(*gauge);
    }
    out.end()
}

/// What weir took, from bytes and columns.
///
/// # Errors
/// `Damaged` if the bytes are not those of `of_resources`.
pub fn resources(bytes: &[u8], ended_at: Wall, span: Duration) -> Result<Resources, Damaged> {
    let mut from = Reader::new(bytes)?;
    let cpu_us = from.number()?;
    let memory = match from.number()? {
        0 => None,
        _ => Some(from.gauge()?),
    };
    let mut queries = BTreeMap::new();
    for _ in 0..from.length()? {
        queries.insert(from.text()?, from.gauge()?);
    }
    from.end()?;
    Ok(Resources { ended_at, span, memory, cpu_us, queries })
}

const VERSION: u8 = 1;
const ROUTE: u64 = 0;
const COHORT: u64 = 1;
const PROBES: u64 = 2;
const SHADOW: u64 = 3;
const FALLBACKS: u64 = 0;
const DIVERTED: u64 = 1;
const SIGNAL: u64 = 2;
const BREAKERS: [breaker::State; 3] = [breaker::State::Closed, breaker::State::Open, breaker::State::HalfOpen];
/// Bytes of the checksum at the end.
const CHECKSUM: usize = 4;

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Writer {
        Writer(vec![VERSION])
    }

    fn number(&mut self, mut value: u64) {
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                return self.0.push(low);
            }
            self.0.push(low | 0x80);
        }
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn tagged(&mut self, tag: u64, arm: Arm, name: &str) {
        self.number(tag << 1 | arm.index() as u64);
        self.text(name);
    }

    fn gauge(&mut self, gauge: Gauge) {
        for value in [gauge.min, gauge.last, gauge.max] {
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn standing(&mut self, stood: &Stood) {
        self.number(State::ALL.iter().position(|state| *state == stood.state).unwrap_or(0) as u64);
        self.number(u64::from(stood.stage.is_some()));
        self.text(stood.stage.as_deref().unwrap_or_default());
        self.number(u64::from(stood.weight.ppm()));
        self.number(u64::from(stood.killed));
        self.number(BREAKERS.iter().position(|state| *state == stood.breaker).unwrap_or(0) as u64);
        stood.in_flight.iter().for_each(|count| self.number(*count));
    }

    fn counts(&mut self, counts: &Counts) {
        let Counts { ended, codes, errors, client_left, bytes_in, bytes_out, first_byte_us, total_us, .. } = counts;
        let plain = [ended, client_left, bytes_in, bytes_out, first_byte_us, total_us];
        plain.into_iter().for_each(|count| self.number(*count));
        self.sparse(codes);
        self.sparse(errors);
        self.histogram(&counts.first_byte);
        self.histogram(&counts.total);
    }

    /// Most of these are zero.
    fn sparse(&mut self, counts: &[u64]) {
        let set: Vec<(usize, &u64)> = counts.iter().enumerate().filter(|(_, count)| **count > 0).collect();
        self.number(set.len() as u64);
        for (index, count) in set {
            self.number(index as u64);
            self.number(*count);
        }
    }

    fn histogram(&mut self, histogram: &Histogram) {
        self.number(histogram.buckets().count() as u64);
        let mut next = 0;
        for (bucket, count) in histogram.buckets() {
            self.number((bucket - next) as u64);
            self.number(count);
            next = bucket + 1;
        }
    }

    fn end(mut self) -> Vec<u8> {
        let checksum = crc32fast::hash(&self.0);
        self.0.extend_from_slice(&checksum.to_le_bytes());
        self.0
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Reader<'a>, Damaged> {
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(Damaged)?;
        let (version, rest) = content.split_first().ok_or(Damaged)?;
        let whole = *version == VERSION && crc32fast::hash(content) == u32::from_le_bytes(*checksum);
        if whole { Ok(Reader(rest)) } else { Err(Damaged) }
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Damaged)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Damaged)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }

    /// How many of something follow: never more than there are bytes.
    fn length(&mut self) -> Result<usize, Damaged> {
        let length = usize::try_from(self.number()?).map_err(|_| Damaged)?;
        if length <= self.0.len() { Ok(length) } else { Err(Damaged) }
    }

    fn text(&mut self) -> Result<Arc<str>, Damaged> {
        let length = self.length()?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        std::str::from_utf8(text).map(Arc::from).map_err(|_| Damaged)
    }

    fn tagged(&mut self) -> Result<(u64, Arm, Arc<str>), Damaged> {
        let tag = self.number()?;
        Ok((tag >> 1, one_of(&Arm::ALL, tag & 1)?, self.text()?))
    }

    fn gauge(&mut self) -> Result<Gauge, Damaged> {
        let mut value = || -> Result<f64, Damaged> {
            let (bytes, rest) = self.0.split_first_chunk::<8>().ok_or(Damaged)?;
            self.0 = rest;
            Ok(f64::from_le_bytes(*bytes))
        };
        Ok(Gauge { min: value()?, last: value()?, max: value()? })
    }

    fn standing(&mut self) -> Result<Stood, Damaged> {
        let state = one_of(&State::ALL, self.number()?)?;
        let has_stage = self.number()? != 0;
        let stage = Some(self.text()?).filter(|_| has_stage);
        let ppm = u32::try_from(self.number()?).map_err(|_| Damaged)?;
        Ok(Stood {
            state,
            stage,
            weight: Weight::from_ppm(ppm).ok_or(Damaged)?,
            killed: self.number()? != 0,
            breaker: one_of(&BREAKERS, self.number()?)?,
            in_flight: [self.number()?, self.number()?],
        })
    }

    fn counts(&mut self) -> Result<Counts, Damaged> {
        let mut counts = Counts::default();
        let Counts { ended, client_left, bytes_in, bytes_out, first_byte_us, total_us, .. } = &mut counts;
        for plain in [ended, client_left, bytes_in, bytes_out, first_byte_us, total_us] {
            *plain = self.number()?;
        }
        self.sparse(&mut counts.codes)?;
        self.sparse(&mut counts.errors)?;
        counts.first_byte = self.histogram()?;
        counts.total = self.histogram()?;
        Ok(counts)
    }

    fn sparse(&mut self, counts: &mut [u64]) -> Result<(), Damaged> {
        for _ in 0..self.length()? {
            let index = usize::try_from(self.number()?).map_err(|_| Damaged)?;
            *counts.get_mut(index).ok_or(Damaged)? = self.number()?;
        }
        Ok(())
    }

    fn histogram(&mut self) -> Result<Histogram, Damaged> {
        let (mut histogram, mut next) = (Histogram::default(), 0_usize);
        for _ in 0..self.length()? {
            let gap = usize::try_from(self.number()?).map_err(|_| Damaged)?;
            let bucket = next.checked_add(gap).filter(|bucket| *bucket < BUCKETS).ok_or(Damaged)?;
            histogram.add(bucket, self.number()?);
            next = bucket + 1;
        }
        Ok(histogram)
    }

    fn end(self) -> Result<(), Damaged> {
        if self.0.is_empty() { Ok(()) } else { Err(Damaged) }
    }
}

fn one_of<T: Copy>(all: &[T], index: u64) -> Result<T, Damaged> {
    usize::try_from(index).ok().and_then(|index| all.get(index)).copied().ok_or(Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(values: &[u64]) -> Counts {
        let mut counts = Counts { ended: values.len() as u64, bytes_out: u64::MAX, ..Counts::default() };
        values.iter().for_each(|us| counts.first_byte.record(*us));
        values.iter().for_each(|us| counts.total.record(us.saturating_mul(2)));
        counts.codes[2] = values.len() as u64;
        counts.errors[7] = 3;
        counts
    }

    fn sample_of(values: &[u64]) -> Sample {
        let mut reports = Histogram::default();
        values.iter().for_each(|value| reports.record(*value));
        Sample {
            visit: Visit { number: 3, entered_at: Wall::from_millis(77) },
            ended_at: Wall::from_millis(1_600_000_000_000),
            span: Duration::from_secs(10),
            stood: Stood {
                state: State::WaitingApproval,
                stage: Some("canary-10 ä".into()),
                weight: Weight::from_ppm(125_000).unwrap(),
                killed: true,
                breaker: breaker::State::HalfOpen,
                in_flight: [5, 300],
            },
            sums: Sums {
                requests: [
                    (Key::Route(Arm::Stable, "api".into()), counts(values)),
                    (Key::Cohort(Arm::Canary, "internal".into()), counts(&[1])),
                    (Key::Probes, counts(&[])),
                    (Key::Shadow, counts(&[7])),
                ]
                .into(),
                numbers: [(Number::Diverted, 1), (Number::Signal(Arm::Canary, "bad".into()), u64::MAX)].into(),
                vitals: [((Arm::Canary, Vital::Cls), reports)].into(),
            },
        }
    }

    fn back(bytes: &[u8]) -> Result<Sample, Damaged> {
        let like = sample_of(&[]);
        sample(bytes, like.visit, like.ended_at, like.span)
    }

    #[test]
    fn resources_come_back_as_they_were() {
        let gauge = Gauge { min: -1.5, last: 0.0, max: 1e300 };
        let whole = Resources {
            ended_at: Wall::from_millis(5),
            span: Duration::from_secs(10),
            memory: Some(Gauge::of(48e6)),
            cpu_us: 123_456,
            queries: [("memory".into(), gauge), ("load".into(), Gauge::of(0.25))].into(),
        };
        let bytes = of_resources(&whole);
        assert_eq!(resources(&bytes, whole.ended_at, whole.span), Ok(whole));
        assert_eq!(resources(&of_sample(&sample_of(&[1])), Wall::default(), Duration::ZERO), Err(Damaged));
    }

    #[test]
    fn every_damage_is_noticed() {
        let bytes = of_sample(&sample_of(&[1, 70, 5_000, 5_000, 1 << 40]));
        assert_eq!(back(&bytes), Ok(sample_of(&[1, 70, 5_000, 5_000, 1 << 40])));
        for length in 0..bytes.len() {
            assert_eq!(back(&bytes[..length]), Err(Damaged), "cut at {length}");
        }
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x10;
            assert_eq!(back(&damaged), Err(Damaged), "at {place}");
        }
    }

    #[test]
    fn a_quiet_sample_takes_few_bytes_and_a_busy_one_some_hundred() {
        let quiet = Sample { sums: Sums::default(), ..sample_of(&[]) };
        assert!(of_sample(&quiet).len() < 40);
        // A thousand requests of one arm between 1 and 50 ms.
        let spread: Vec<u64> = (0..1_000).map(|n| 1_000 + n * 49).collect();
        let busy =
            Sums { requests: [(Key::Route(Arm::Canary, "api".into()), counts(&spread))].into(), ..Sums::default() };
        let bytes = of_sample(&Sample { sums: busy, ..sample_of(&[]) }).len();
        assert!((200..1_000).contains(&bytes), "{bytes}");
    }

    proptest! {
        #[test]
        fn a_sample_comes_back_as_it_was(values in prop::collection::vec(0_u64..u64::MAX / 2, 0..200)) {
            prop_assert_eq!(back(&of_sample(&sample_of(&values))), Ok(sample_of(&values)));
        }

        #[test]
        fn bytes_of_another_kind_harm_nobody(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            // With a checksum that fits, so that every length and tag is looked at.
            bytes.insert(0, VERSION);
            let checksum = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&checksum.to_le_bytes());
            let _ = back(&bytes);
            let _ = resources(&bytes, Wall::default(), Duration::ZERO);
        }
    }
}
