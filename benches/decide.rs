//! What a decision costs: one and ten rollouts, cohorts of nobody and of a million members.
//!
//!     cargo bench --bench decide
//!
//! "Returning" are a thousand units that ask again and again; "new" is one unit after the other all over a set that no
//! cache holds, which measures the machine's memory: a member costs one read of it, a stranger mostly none.

// Every public item of a benchmark is made by a macro.
#![allow(missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use weir::rollout::assign::{Phase, Split, UnitAsker, decide};
use weir::rollout::bucket::{Bucketer, Scheme, Weight};
use weir::rollout::cohort::{Cohort, UserSet};

const MEMBERS: usize = 1_000_000;
/// A prime, so that the asked units walk through the whole set and find nothing in the caches that a real stream of
/// users would not find there.
const STRIDE: usize = 611_953;

fn split(name: &str, cohorts: Vec<Cohort>) -> Split {
    Split {
        name: Arc::from(name),
        phase: Phase::Serving,
        bucketer: Bucketer::native(name),
        weight: Weight::from_percent(10).unwrap_or_default(),
        cohorts,
        requires: None,
        probe: None,
    }
}

fn unit(number: usize) -> String {
    format!("user-{number:07}")
}

fn decisions(criterion: &mut Criterion) {
    // Every second unit that asks is a member.
    let members: Arc<UserSet> = Arc::new((0..MEMBERS).map(|number| unit(2 * number)).collect());
    let units = (0..100_000).map(|index| unit(index * STRIDE % (2 * MEMBERS)));
    let all: Vec<UnitAsker> = units.map(UnitAsker::of).collect();
    let (new, returning) = (all.as_slice(), all.get(..1_000).unwrap_or_default());
    let listed = || Cohort { users: Arc::clone(&members), ..Cohort::new("listed") };

    let mut group = criterion.benchmark_group("decide");
    for (name, rollouts, cohorts, askers) in [
        ("1 rollout", 1, vec![], new),
        ("1 rollout, 1,000,000 members, returning", 1, vec![listed()], returning),
        ("1 rollout, 1,000,000 members, new", 1, vec![listed()], new),
        ("10 rollouts", 10, vec![], new),
        ("10 rollouts, 1,000,000 members each, returning", 10, vec![listed()], returning),
        ("10 rollouts, 1,000,000 members each, new", 10, vec![listed()], new),
    ] {
        let splits: Vec<Split> = (0..rollouts).map(|index| split(&format!("r{index}"), cohorts.clone())).collect();
        let mut next = askers.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                if let Some(asker) = next.next() {
                    for index in 0..splits.len() {
                        black_box(decide(black_box(&splits), index, asker));
                    }
                }
            });
        });
    }
    group.finish();
}

fn buckets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bucket");
    for name in Scheme::NAMES {
        let Ok(scheme) = Scheme::from_name(name, Some([7; 16])) else { continue };
        let bucketer = Bucketer { scheme, ..Bucketer::native("checkout-v2") };
        group.bench_function(name, |bencher| {
            bencher.iter(|| bucketer.bucket(black_box("0198c0de-0000-7000-8000-000000000001")));
        });
    }
    group.finish();
}

fn sets(criterion: &mut Criterion) {
    let ids: Vec<String> = (0..MEMBERS).map(unit).collect();
    let mut group = criterion.benchmark_group("users");
    group.sample_size(10);
    group.bench_function("build 1,000,000", |bencher| bencher.iter(|| ids.iter().collect::<UserSet>()));
    group.finish();
}

criterion_group!(benches, decisions, buckets, sets);
criterion_main!(benches);
