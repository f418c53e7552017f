//! What all workers counted for one series, added up, and what came to it between two readings.

use crate::rollout::histogram::{BUCKETS, Histogram};
use crate::rollout::outcome::{CodeClass, ErrorKind};
use crate::rollout::window::Counts;
use crate::tally::{PerWorker, Series};

/// What all workers counted for one series, added up.
#[derive(Debug, Default)]
pub struct Reading {
    /// Requests that were decided.
    pub started: u64,
    /// Requests that ended, and everything that is counted then.
    pub ended: u64,
    /// See `Series`.
    pub answered: u64,
    /// See `Series`.
    pub unanswered: u64,
    /// See `Series`.
    pub codes: [u64; CodeClass::COUNT],
    /// See `Series`.
    pub errors: [u64; ErrorKind::COUNT],
    /// See `Series`.
    pub client_left: u64,
    /// See `Series`.
    pub bytes_in: u64,
    /// See `Series`.
    pub bytes_out: u64,
    /// See `Series`.
    pub first_byte_us: u64,
    /// By bucket; empty if there was none.
    pub first_byte: Vec<u64>,
    /// See `Series`.
    pub total_us: u64,
    /// By bucket; empty if there was none.
    pub total: Vec<u64>,
}

impl Reading {
    /// Reads one series.
    pub fn of(cells: &PerWorker<Series>) -> Reading {
        let mut sum = Reading::default();
        for series in cells.iter() {
            sum.started += series.started.read();
            sum.ended += series.ended.read();
            sum.answered += series.answered.read();
            sum.unanswered += series.unanswered.read();
            add_all(&mut sum.codes, series.codes.iter().map(|cell| cell.read()));
            add_all(&mut sum.errors, series.errors.iter().map(|cell| cell.read()));
            sum.client_left += series.client_left.read();
            sum.bytes_in += series.bytes_in.read();
            sum.bytes_out += series.bytes_out.read();
            sum.first_byte_us += series.first_byte_us.read();
            add_buckets(&mut sum.first_byte, series.first_byte.read());
            sum.total_us += series.total_us.read();
            add_buckets(&mut sum.total, series.total.read());
        }
        sum
    }

    /// Adds another series' reading.
    pub fn add(&mut self, other: &Reading) {
        self.started += other.started;
        self.ended += other.ended;
        self.answered += other.answered;
        self.unanswered += other.unanswered;
        add_all(&mut self.codes, other.codes);
        add_all(&mut self.errors, other.errors);
        self.client_left += other.client_left;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.first_byte_us += other.first_byte_us;
        add_buckets(&mut self.first_byte, other.first_byte.iter().copied());
        self.total_us += other.total_us;
        add_buckets(&mut self.total, other.total.iter().copied());
    }

    /// Whether the cells have moved since this reading.
    pub fn moved(&self, cells: &PerWorker<Series>) -> bool {
        // None of these ever goes back, so their sum tells as much as they do.
        let sum = |series: &Series| {
            series.started.read() + series.ended.read() + series.answered.read() + series.unanswered.read()
        };
        cells.iter().map(sum).sum::<u64>() != self.started + self.ended + self.answered + self.unanswered
    }

    /// What ended between a reading and this one.
    pub fn since(&self, before: &Reading) -> Counts {
        Counts {
            ended: self.ended.saturating_sub(before.ended),
            codes: difference(&self.codes, &before.codes),
            errors: difference(&self.errors, &before.errors),
            client_left: self.client_left.saturating_sub(before.client_left),
            bytes_in: self.bytes_in.saturating_sub(before.bytes_in),
            bytes_out: self.bytes_out.saturating_sub(before.bytes_out),
            first_byte_us: self.first_byte_us.saturating_sub(before.first_byte_us),
            first_byte: grown(&self.first_byte, &before.first_byte),
            total_us: self.total_us.saturating_sub(before.total_us),
            total: grown(&self.total, &before.total),
        }
    }
}

pub fn add_all(sums: &mut [u64], counts: impl IntoIterator<Item = u64>) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count;
    }
}

/// Adds the counts of a histogram, which takes memory once there are some.
pub fn add_buckets(sums: &mut Vec<u64>, counts: impl IntoIterator<Item = u64>) {
    let mut counts = counts.into_iter().peekable();
    if sums.is_empty() && counts.peek().is_some() {
        sums.resize(BUCKETS, 0);
    }
    add_all(sums, counts);
}

fn difference<const N: usize>(now: &[u64; N], before: &[u64; N]) -> [u64; N] {
    std::array::from_fn(|index| now[index].saturating_sub(before[index]))
}

/// What came to a histogram; `before` may be empty.
pub fn grown(now: &[u64], before: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for (bucket, now) in now.iter().enumerate() {
        histogram.add(bucket, now.saturating_sub(before.get(bucket).copied().unwrap_or(0)));
    }
    histogram
}
