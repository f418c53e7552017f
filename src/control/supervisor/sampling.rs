//! Every 10 s, and whenever a stage ends: what was counted of each rollout goes to the history on disk. And at a start the way
//! back: windows and stages go on where the process before stopped.

use super::super::archive::{Archive, SAMPLE_EVERY, SAMPLE_EVERY_MIN, Tick};
use super::super::collect::Past;
use super::{Supervisor, names};
use crate::clock::{Time, Wall};
use crate::rollout::criterion::Reading;
use crate::rollout::sample::{Gauge, Resources, Sample, Stood, Sums, Visit};
use crate::rollout::scale::TimeScale;
use crate::rollout::standing::Standing;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What waits to be kept.
#[derive(Debug)]
pub(super) struct Sampling {
    every: Duration,
    /// When the last sample was taken.
    taken_at: Time,
    rollouts: BTreeMap<Arc<str>, Stretch>,
    /// Stays in stages that have ended since the last sample.
    ended: Vec<(Arc<str>, Sample)>,
}

/// The present stay of a rollout in a stage, since it was last kept.
#[derive(Debug)]
struct Stretch {
    visit: Visit,
    began: Time,
    stood: Stood,
    /// Whether that is what the history has last.
    told: bool,
}

impl Sampling {
    pub(super) fn new(now: Time, scale: TimeScale) -> Sampling {
        let every = scale.shrunk(SAMPLE_EVERY, SAMPLE_EVERY_MIN);
        Sampling { every, taken_at: now, rollouts: BTreeMap::new(), ended: Vec::new() }
    }
}

impl Supervisor {
    /// Opens the history, and has everything that was counted before go on.
    pub(super) fn resume(&mut self) {
        let (now, names) = (self.clock.now(), names(&self.config));
        let rollouts: Vec<(Arc<str>, Visit, Stood)> =
            self.engine.standings().map(|standing| place(&standing)).collect();
        let asked: Vec<Arc<str>> = rollouts.iter().map(|(name, _, _)| Arc::clone(name)).collect();
        let (archive, kept) = Archive::open(&self.config.state_dir, &asked, self.clock.wall());
        self.archive = Some(archive);
        let pasts = kept.rollouts.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]));
        for ((name, visit, stood), samples) in rollouts.into_iter().zip(pasts) {
            // The first sample of a stay begins with it.
            let first = samples.iter().find(|(_, sample)| sample.visit == visit);
            let marked = first.map_or(Duration::ZERO, |(ago, sample)| *ago + sample.span);
            self.collector.resume(&name, &names, &Past { now, reach: kept.reach, visit, marked, kept: samples });
            self.own.mark(&name, now);
            self.sampling.rollouts.insert(name, Stretch { visit, began: now, stood, told: false });
        }
    }

    /// Where a rollout has begun another stage, what is counted from here on belongs to that one.
    pub(super) fn mark_stages(&mut self) {
        let now = self.clock.now();
        let places: Vec<(Arc<str>, Visit, Stood)> = self.engine.standings().map(|standing| place(&standing)).collect();
        for (name, visit, stood) in places {
            let Some(stretch) = self.sampling.rollouts.get_mut(&name) else {
                self.sampling.rollouts.insert(name, Stretch { visit, began: now, stood, told: false });
                continue;
            };
            if stretch.visit == visit {
                let in_flight = stretch.stood.in_flight;
                let stood = Stood { in_flight, ..stood };
                stretch.told &= stretch.stood == stood;
                stretch.stood = stood;
                continue;
            }
            let before = std::mem::replace(stretch, Stretch { visit, began: now, stood, told: false });
            let sums = self.collector.take_sums(&name);
            let sample = before.sample(sums, self.clock.wall(), now);
            self.sampling.ended.push((Arc::clone(&name), sample));
            let too_many = self.sampling.ended.len().saturating_sub(ENDED_MAX);
            self.sampling.ended.drain(..too_many);
            self.collector.mark(&name, now);
            self.own.mark(&name, now);
            self.compared.mark(&name, now);
        }
    }

    /// Keeps a sample if it is time.
    pub(super) fn sample(&mut self, now: Time) {
        if now.since(self.sampling.taken_at) >= self.sampling.every {
            self.keep_samples(now);
        }
    }

    /// Keeps what was counted up to now.
    pub(super) fn keep_samples(&mut self, now: Time) {
        let ended_at = self.clock.wall();
        let own = Resources { cpu_us: self.own.take_unsaved_us(), ..self.resources(now, ended_at) };
        self.sampling.taken_at = now;
        let mut samples = std::mem::take(&mut self.sampling.ended);
        for (name, stretch) in &mut self.sampling.rollouts {
            let in_flight = self.collector.in_flight(&self.publisher.registry, name);
            stretch.told &= stretch.stood.in_flight == in_flight;
            stretch.stood.in_flight = in_flight;
            let sums = self.collector.take_sums(name);
            if !sums.is_empty() || !stretch.told {
                samples.push((Arc::clone(name), stretch.sample(sums, ended_at, now)));
            }
            (stretch.began, stretch.told) = (now, true);
        }
        let engine = &self.engine;
        self.sampling.rollouts.retain(|name, _| engine.standing(name).is_some());
        if let Some(archive) = &self.archive {
            archive.keep(Tick { own, samples });
        }
    }

    /// What is not kept yet of a rollout, as samples, the oldest first.
    pub(super) fn unkept(&self, rollout: &str, now: Time, ended_at: Wall) -> Vec<Sample> {
        let ended = self.sampling.ended.iter().filter(|(name, _)| **name == *rollout);
        let mut samples: Vec<Sample> = ended.map(|(_, sample)| sample.clone()).collect();
        if let Some(stretch) = self.sampling.rollouts.get(rollout) {
            let mut sample = stretch.sample(self.collector.sums(rollout), ended_at, now);
            sample.stood.in_flight = self.collector.in_flight(&self.publisher.registry, rollout);
            samples.push(sample);
        }
        samples
    }

    /// What weir took since the last sample, CPU time aside, and what the queries say.
    pub(super) fn resources(&self, now: Time, ended_at: Wall) -> Resources {
        let queries = self.queries.names().filter_map(|name| match self.queries.reading(name, now) {
            Reading::Value { value, .. } => Some((Arc::clone(name), Gauge::of(value))),
            Reading::NoData(_) => None,
        });
        Resources {
            ended_at,
            span: now.since(self.sampling.taken_at),
            memory: self.own.memory.map(|bytes| Gauge::of(bytes as f64)),
            cpu_us: self.own.unsaved_us(),
            queries: queries.collect(),
        }
    }
}

impl Stretch {
    fn sample(&self, sums: Sums, ended_at: Wall, now: Time) -> Sample {
        Sample { visit: self.visit, ended_at, span: now.since(self.began), stood: self.stood.clone(), sums }
    }
}

/// Where a rollout is, but for its requests under way.
fn place(standing: &Standing<'_>) -> (Arc<str>, Visit, Stood) {
    let progress = &standing.saved.progress;
    let visit = Visit { number: progress.visit, entered_at: progress.entered_at.unwrap_or_default() };
    let stood = Stood {
        state: standing.state(),
        stage: progress.stage.clone(),
        weight: standing.weight(),
        killed: standing.killed(),
        breaker: standing.breaker(),
        in_flight: [0; 2],
    };
    (Arc::clone(&standing.plan.name), visit, stood)
}

/// Ended stays that wait for the next sample; who moves a rollout more often than that in 10 s is no person.
const ENDED_MAX: usize = 256;
