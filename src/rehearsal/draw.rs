//! Draws from a seed: how many of many requests fail, how long they take, when a run of failures comes.
//!
//! The same seed gives the same draws on every machine. Large numbers are drawn as such, so that an hour costs no more than a
//! second.

use crate::rollout::histogram::{Histogram, bucket_of};

/// A source of chance.
#[derive(Clone, Debug)]
pub struct Dice(fastrand::Rng);

/// Below so many expected hits each request is drawn, or each hit; above, their number at once.
const NORMAL_FROM: f64 = 30.0;

impl Dice {
    /// The dice of that seed.
    pub fn new(seed: u64) -> Dice {
        Dice(fastrand::Rng::with_seed(seed))
    }

    /// How many of `requests` are hit, each with that chance.
    pub fn hits(&mut self, requests: u64, chance: f64) -> u64 {
        if requests == 0 || chance <= 0.0 {
            return 0;
        }
        if chance >= 1.0 {
            return requests;
        }
        if chance > 0.5 {
            return requests - self.hits(requests, 1.0 - chance);
        }
        self.hits_or_about(requests, chance, NORMAL_FROM)
    }

    /// `hits` of a chance that is no more than a half, from that mean on by the normal distribution.
    fn hits_or_about(&mut self, requests: u64, chance: f64, normal_from: f64) -> u64 {
        let mean = requests as f64 * chance;
        if mean >= normal_from {
            let spread = (mean * (1.0 - chance)).sqrt();
            return (mean + spread * self.normal()).round().clamp(0.0, requests as f64) as u64;
        }
        // From hit to hit: the gaps are geometric.
        let (mut at, mut hits) = (0.0, 0);
        loop {
            at += (self.open().ln() / (-chance).ln_1p()).floor() + 1.0;
            if at > requests as f64 {
                return hits;
            }
            hits += 1;
        }
    }

    /// The time until something happens that happens so often per second; none if it never does.
    pub fn wait_s(&mut self, per_second: f64) -> Option<f64> {
        (per_second > 0.0).then(|| -self.open().ln() / per_second)
    }

    /// Above 0 and below 1.
    fn open(&mut self) -> f64 {
        self.0.f64().max(f64::MIN_POSITIVE)
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.open().ln()).sqrt() * (std::f64::consts::TAU * self.0.f64()).cos()
    }
}

/// A distribution of values, given by quantiles.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Chance of a value and the bucket that counts it, from small values to large.
    strata: Vec<(f64, usize)>,
}

/// Where values of a spread are taken: dense where quantiles are asked for.
const EDGES: [(f64, u32); 6] = [(0.5, 10), (0.75, 8), (0.9, 8), (0.95, 6), (0.99, 8), (0.999, 6)];
/// From that mean on how many values a stratum gets is drawn by the normal distribution: quantiles do not tell the difference.
const ABOUT_FROM: f64 = 8.0;
/// Of so many values chance moves no quantile by as much as a stratum.
const EVEN_FROM: u64 = 10_000;
/// Strata beyond the last of them.
const LAST_STRATA: u32 = 3;

impl Spread {
    /// The spread with these values (as a histogram counts them) at 50, 75, 90, 95, 99 and 99.9 %; between them values grow
    /// evenly by their logarithm. Some of the values around such a share are exactly the one that was given: what is asked
    /// of many draws is then what was said, and two arms of which the same was said do not differ by a bucket.
    pub fn new(quantiles: [f64; 6]) -> Spread {
        let [first, .., last] = quantiles;
        let mut strata: Vec<(f64, usize)> = Vec::new();
        let (mut from, mut low) = (0.0, (first / 3.0).max(1.0));
        let ends = EDGES.into_iter().zip(quantiles).chain([((1.0, LAST_STRATA), last * 1.3)]);
        for ((to, count), high) in ends {
            let high = high.max(low);
            for node in 0..=count {
                let part = if node == 0 || node == count { 0.5 } else { 1.0 };
                let chance = part * (to - from) / f64::from(count);
                let value = low * (high / low).powf(f64::from(node) / f64::from(count));
                let bucket = bucket_of(value.round() as u64);
                match strata.last_mut() {
                    Some((sum, last)) if *last == bucket => *sum += chance,
                    _ => strata.push((chance, bucket)),
                }
            }
            (from, low) = (to, high);
        }
        Spread { strata }
    }

    /// The bucket of the value at that share of the spread.
    fn one(&self, mut share: f64) -> usize {
        let found = self.strata.iter().find(|(chance, _)| {
            share -= chance;
            share < 0.0
        });
        found.or(self.strata.last()).map_or(0, |(_, bucket)| *bucket)
    }

    /// So many values.
    pub fn draw(&self, dice: &mut Dice, count: u64) -> Histogram {
        let mut values = Histogram::default();
        if count < self.strata.len() as u64 {
            for _ in 0..count {
                values.add(self.one(dice.0.f64()), 1);
            }
            return values;
        }
        if count >= EVEN_FROM {
            return self.evenly(dice.0.f64(), count);
        }
        let (mut left, mut chance_left) = (count, 1.0_f64);
        for (chance, bucket) in &self.strata {
            let part = chance / chance_left;
            let hits = match part {
                _ if left == 0 => break,
                part if part >= 1.0 => left,
                part if part > 0.5 => left - dice.hits_or_about(left, 1.0 - part, ABOUT_FROM).min(left),
                part => dice.hits_or_about(left, part, ABOUT_FROM),
            };
            values.add(*bucket, hits);
            (left, chance_left) = (left - hits, chance_left - chance);
        }
        if left > 0
            && let Some((_, bucket)) = self.strata.last()
        {
            values.add(*bucket, left);
        }
        values
    }

    /// So many values that every stratum gets its part of, rounded by one throw for all.
    fn evenly(&self, throw: f64, count: u64) -> Histogram {
        let (mut values, mut given, mut share) = (Histogram::default(), 0, 0.0);
        for (at, (chance, bucket)) in self.strata.iter().enumerate() {
            share += chance;
            let last = at + 1 == self.strata.len();
            let by_now = if last { count } else { ((count as f64 * share + throw) as u64).clamp(given, count) };
            values.add(*bucket, by_now - given);
            given = by_now;
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_have_the_mean_and_spread_of_single_draws() {
        let mut dice = Dice::new(7);
        for (requests, chance) in
            [(10, 0.3), (1000, 0.002), (1000, 0.5), (100_000, 0.01), (50, 0.9), (7, 1.0), (9, 0.0)]
        {
            let draws: Vec<f64> = (0..4000).map(|_| dice.hits(requests, chance) as f64).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let expected = requests as f64 * chance;
            let spread = (expected * (1.0 - chance)).sqrt();
            assert!((mean - expected).abs() <= 5.0 * spread / 63.0, "{requests} {chance}: {mean}");
            let variance = draws.iter().map(|draw| (draw - expected).powi(2)).sum::<f64>() / draws.len() as f64;
            assert!(
                (variance - spread * spread).abs() <= 0.15 * spread * spread + 1e-9,
                "{requests} {chance}: {variance}"
            );
        }
    }

    #[test]
    fn a_spread_has_the_quantiles_it_was_given() {
        let quantiles = [40_000.0, 60_000.0, 80_000.0, 100_000.0, 300_000.0, 900_000.0];
        let drawn = Spread::new(quantiles).draw(&mut Dice::new(1), 4_000_000);
        assert_eq!(drawn.count(), 4_000_000);
        for (share, wanted) in [0.5, 0.75, 0.9, 0.95, 0.99, 0.999].into_iter().zip(quantiles) {
            let found = drawn.quantile(share).unwrap() as f64;
            assert!((found / wanted - 1.0).abs() < 0.15, "{share}: {found} for {wanted}");
        }
        let few = Spread::new(quantiles).draw(&mut Dice::new(1), 3);
        assert_eq!(few.count(), 3);
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let draws = |seed| {
            let mut dice = Dice::new(seed);
            (0..50).map(|_| (dice.hits(1000, 0.1), dice.wait_s(2.0).map(f64::to_bits))).collect::<Vec<_>>()
        };
        assert_eq!(draws(3), draws(3));
        assert_ne!(draws(3), draws(4));
    }
}
