//! What measuring costs: the index of a latency on the request path, quantiles and windows beside it.

// Every public item of a benchmark is made by a macro.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use weir::clock::Time;
use weir::rollout::histogram::{Histogram, bucket_of};
use weir::rollout::window::{Counts, Window};

/// Latencies around 5 ms with a long tail, the same at every run.
fn latencies_us() -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..10_000).map(|_| 500 + (1_000.0 * (random.f64() * 5.0).exp()) as u64).collect()
}

fn record(criterion: &mut Criterion) {
    let latencies = latencies_us();
    let mut next = latencies.iter().cycle();
    criterion.bench_function("bucket_of", |bencher| {
        bencher.iter(|| next.next().map(|&us| bucket_of(black_box(us))));
    });
}

fn read(criterion: &mut Criterion) {
    let mut histogram = Histogram::default();
    latencies_us().into_iter().for_each(|us| histogram.record(us));
    criterion.bench_function("p99", |bencher| bencher.iter(|| black_box(&histogram).quantile(0.99)));

    let mut window = Window::default();
    let counts = Counts { ended: 10_000, first_byte: histogram.clone(), total: histogram, ..Counts::default() };
    (0..900).for_each(|second| window.push(Time::from_micros(second * 1_000_000), &counts));
    let now = Time::from_micros(900_000_000);
    for seconds in [60, 900] {
        let span = Duration::from_secs(seconds);
        criterion
            .bench_function(&format!("window over {seconds} s"), |bencher| bencher.iter(|| window.over(now, span)));
    }
}

criterion_group!(benches, record, read);
criterion_main!(benches);
