//! What the steps of a request cost by themselves: the look at the snapshot, the route among many, the header rules, the
//! counting; and, off the request path, a config from text to snapshot.
//!
//!     cargo bench --bench steps
//!
//! `decide` and `histogram` have the other steps, `request` all of them over a loopback connection.

// Every public item of a benchmark is made by a macro.
#![allow(missing_docs)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::Request;
use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use weir::config::{Format, Live, Loaded, UserFiles, load_text};
use weir::latch::Latches;
use weir::proxy::fuzzing;
use weir::rollout::Arm;
use weir::rollout::assign::{Decision, Reason};
use weir::snapshot::{Lookup, Match, Published, Snapshot};
use weir::tally::{Registry, SeriesKey};

const ROUTES_MANY: usize = 10_000;

fn config_text(routes: usize) -> String {
    let route = |number: usize| {
        format!(
            "[[routes]]\nname = \"r{number}\"\nmatch = {{ path_prefix = \"/r{number}\" }}\nupstream = \"legacy\"\n\
             rollouts = [\"chat\"]\n"
        )
    };
    let head = "[[listeners]]\naddress = \"127.0.0.1:0\"\n[upstreams.legacy]\nendpoints = [\"127.0.0.1:9001\"]\n\
                [upstreams.new]\nendpoints = [\"127.0.0.1:9002\"]\n[rollouts.chat]\nunit = [\"header:x-user-id\"]\n\
                weight = \"10%\"\nstable = { upstream = \"legacy\" }\ncanary = { upstream = \"new\" }\n";
    (0..routes).map(route).fold(head.to_owned(), |text, route| text + &route)
}

fn loaded(text: &str) -> Option<Loaded> {
    load_text("weir.toml", text, Format::Toml, Path::new("/"), &[], &mut UserFiles::default()).ok()
}

fn snapshot_of(loaded: &Loaded, registry: &mut Registry) -> Snapshot {
    weir::config::compile(&loaded.config, &Live::default(), registry, &Latches::default(), 1)
}

/// A worker looks at the generation for every request, and takes the snapshot when that has moved.
fn snapshot(criterion: &mut Criterion) {
    let Some(loaded) = loaded(&config_text(1)) else { return };
    let published = Published::new(1, snapshot_of(&loaded, &mut Registry::new(1)));
    let mut group = criterion.benchmark_group("snapshot");
    group.bench_function("check", |bencher| bencher.iter(|| black_box(&published).generation() == black_box(1)));
    group.bench_function("take", |bencher| bencher.iter(|| black_box(&published).load()));
    group.finish();
}

/// The last of many routes, which a look at each would find after all others.
fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [10, 1_000, ROUTES_MANY] {
        let prefix = |number: usize| Match { path_prefix: Some(Arc::from(format!("/r{number}"))), ..Match::default() };
        let matches: Vec<Match> = (0..count).map(prefix).collect();
        let (lookup, path) = (Lookup::of(matches.iter()), format!("/r{}/hello", count - 1));
        group.bench_function(format!("the last of {count}"), |bencher| {
            bencher.iter(|| lookup.first(black_box("bench.example"), black_box(&path), |_| true));
        });
    }
    group.finish();
}

/// The rules for a request with six fields, and with an arm that sets and removes some.
fn headers(criterion: &mut Criterion) {
    let request = Request::builder()
        .uri("/hello")
        .header("host", "bench.example")
        .header("user-agent", "weir-bench/1.0")
        .header("accept", "text/plain,*/*;q=0.8")
        .header("accept-encoding", "gzip, deflate")
        .header("accept-language", "en-GB,en;q=0.7")
        .header("x-user-id", "user-4711");
    let Ok(request) = request.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let rewrite = fuzzing::rewriter(SocketAddr::from(([192, 0, 2, 1], 4711)));
    let plain = config_text(1);
    let rules = plain.replace(
        "canary = { upstream = \"new\" }",
        "canary = { upstream = \"new\", set_headers = { x-flag-chat = \"true\" }, \
         remove_headers = [\"accept-language\", \"x-debug\"] }",
    );
    let mut out = Vec::with_capacity(4096);
    let mut group = criterion.benchmark_group("headers");
    for (what, text) in [("without rules of an arm", &plain), ("one set, two removed", &rules)] {
        let Some(loaded) = loaded(text) else { continue };
        let snapshot = snapshot_of(&loaded, &mut Registry::new(1));
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                out.clear();
                rewrite(black_box(&parts), &snapshot, &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

/// What is counted of a request from its decision to its end.
fn tally(criterion: &mut Criterion) {
    let mut registry = Registry::new(1);
    let rollout: Arc<str> = Arc::from("chat");
    let key = SeriesKey::Arm { rollout: Arc::clone(&rollout), arm: Arm::Canary, route: Arc::from("api") };
    let (series, decisions) = (registry.series(key), registry.decisions(&rollout));
    let (Some(series), Some(decisions)) = (series.of(0), decisions.of(0)) else { return };
    criterion.bench_function("tally of a request", |bencher| {
        bencher.iter(|| {
            decisions.record(black_box(Decision { arm: Arm::Canary, reason: Reason::Bucket }));
            series.started.add(1);
            series.answered.add(1);
            series.codes.iter().take(1).for_each(|code| code.add(1));
            series.first_byte_us.add(black_box(1_234));
            series.first_byte.record(black_box(1_234));
            series.total_us.add(black_box(1_300));
            series.total.record(black_box(1_300));
            series.bytes_out.add(13);
            series.ended.add(1);
        });
    });
}

/// A config from its text, and from that to a snapshot, which is what a reload costs besides reading files.
fn config(criterion: &mut Criterion) {
    let annotated = include_str!("../config/weir.toml");
    let mut group = criterion.benchmark_group("config");
    group.sample_size(10);
    let texts = [("annotated", annotated.to_owned()), ("10,000 routes", config_text(ROUTES_MANY))];
    for (what, text) in &texts {
        group.bench_function(format!("load, {what}"), |bencher| bencher.iter(|| loaded(black_box(text))));
        let Some(loaded) = loaded(text) else { continue };
        group.bench_function(format!("compile, {what}"), |bencher| {
            bencher.iter_batched_ref(
                || Registry::new(1),
                |registry| snapshot_of(&loaded, registry),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, snapshot, routes, headers, tally, config);
criterion_main!(benches);
