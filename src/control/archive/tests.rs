//! The history on real files: what is kept comes back, however often it is thinned, and what cannot be is left out.

use super::file::File;
use super::*;
use crate::rollout::Arm;
use crate::rollout::breaker;
use crate::rollout::bucket::Weight;
use crate::rollout::histogram::Histogram;
use crate::rollout::report::State;
use crate::rollout::sample::{Gauge, Key, Stood, Sums, Visit};
use crate::rollout::window::Counts;
use std::fs;
use tempfile::TempDir;

/// Calendar time of the first tick.
const EPOCH_MS: u64 = 1_600_000_000_000;

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn open(folder: &TempDir) -> File {
    File::open(folder.path(), Wall::from_millis(EPOCH_MS)).unwrap()
}

fn wall(tick: u64) -> Wall {
    Wall::from_millis(EPOCH_MS + tick * 10_000)
}

fn sums(us: u64) -> Sums {
    let mut counts = Counts { ended: 1, total_us: us, ..Counts::default() };
    counts.first_byte.record(us);
    Sums { requests: [(Key::Route(Arm::Canary, "api".into()), counts)].into(), ..Sums::default() }
}

fn sample(tick: u64, visit: u64, us: u64) -> Sample {
    Sample {
        visit: Visit { number: visit, entered_at: Wall::from_millis(visit) },
        ended_at: wall(tick),
        span: SAMPLE_EVERY,
        stood: Stood {
            state: State::Running,
            stage: Some(format!("stage-{visit}").into()),
            weight: Weight::FULL,
            killed: false,
            breaker: breaker::State::Closed,
            in_flight: [0; 2],
        },
        sums: sums(us),
    }
}

fn tick(tick: u64, samples: Vec<Sample>) -> Tick {
    let memory = Some(Gauge::of(tick as f64));
    let own = Resources { ended_at: wall(tick), span: SAMPLE_EVERY, memory, cpu_us: 5, ..Resources::default() };
    Tick { own, samples: samples.into_iter().map(|sample| ("chat".into(), sample)).collect() }
}

/// A latency for each tick, spread over some decades.
fn us_of(tick: u64) -> u64 {
    tick.wrapping_mul(2_654_435_761) % 100_000
}

/// That many ticks, a stage of 700 ticks after another, in each tick one request.
fn fill(file: &mut File, ticks: std::ops::Range<u64>) {
    for at in ticks {
        file.keep(&tick(at, vec![sample(at, at / 700, us_of(at))])).unwrap();
    }
}

fn past(file: &File) -> (Duration, Vec<(Duration, Sample)>) {
    let mut past = file.past(&["chat".into()]).unwrap();
    (past.reach, past.rollouts.remove(0))
}

fn total<'a>(samples: impl Iterator<Item = &'a Sample>) -> Histogram {
    let mut sum = Sums::default();
    samples.for_each(|sample| sum.add(&sample.sums));
    sum.arm(Arm::Canary).first_byte
}

#[test]
fn thinned_samples_have_the_percentiles_of_the_whole_and_every_slot_counts_once() {
    let folder = folder();
    let mut file = open(&folder);
    // Across several hours, with a rest that fills neither minute nor hour.
    let ticks = 3_000_u64;
    for part in [0..1, 1..5, 5..97, 97..361, 361..2_161, 2_161..ticks] {
        let end = part.end;
        fill(&mut file, part);
        let whole: Histogram = {
            let mut whole = Histogram::default();
            (0..end).for_each(|tick| whole.record(us_of(tick)));
            whole
        };
        let (reach, samples) = past(&file);
        assert_eq!(reach, SAMPLE_EVERY * u32::try_from(end).unwrap());
        assert_eq!(total(samples.iter().map(|(_, sample)| sample)), whole, "{end}");
        let day = file.day("chat", Wall::default()).unwrap();
        assert_eq!(total(day.samples.iter()), whole, "{end}");
        assert_eq!(day.own.iter().map(|own| own.span).sum::<Duration>(), reach);
        assert_eq!(day.own.iter().map(|own| own.cpu_us).sum::<u64>(), end * 5);
        assert_eq!(day.own.last().unwrap().memory.unwrap().last, (end - 1) as f64);
    }
    let (_, samples) = past(&file);
    assert!(samples.len() < 700, "{} samples are read for 3,000 ticks", samples.len());
    assert!(samples.windows(2).all(|pair| pair[0].0 >= pair[1].0), "the oldest come first");
    assert_eq!(file.next, [3_000, 500, 8]);
}

#[test]
fn stays_in_stages_are_never_mixed() {
    let folder = folder();
    let mut file = open(&folder);
    fill(&mut file, 0..2_000);
    // Two stages begin within one tick.
    file.keep(&tick(2_000, vec![sample(2_000, 2, 1), sample(2_000, 3, 2), sample(2_000, 4, 3)])).unwrap();
    fill(&mut file, 2_800..3_000);
    let day = file.day("chat", Wall::default()).unwrap();
    for (visit, requests) in [(0, 700), (1, 700), (2, 601), (3, 1), (4, 201)] {
        let own = day.samples.iter().filter(|sample| sample.visit.number == visit);
        assert_eq!(total(own).count(), requests, "{visit}");
    }
    let stages = day.samples.iter().map(|sample| (sample.visit.number, sample.stood.stage.clone().unwrap()));
    assert!(stages.into_iter().all(|(visit, stage)| *stage == *format!("stage-{visit}")));
}

#[test]
fn a_review_covers_its_time_and_no_more() {
    let folder = folder();
    let mut file = open(&folder);
    fill(&mut file, 0..1_000);
    // The last half hour, tick by tick.
    let day = file.day("chat", wall(819)).unwrap();
    assert_eq!((total(day.samples.iter()).count(), day.own.len()), (180, 180));
    assert_eq!(file.day("other", Wall::default()).unwrap().samples, []);
    assert_eq!(file.day("chat", wall(5_000)).unwrap(), Day::default());
}

#[test]
fn what_was_kept_survives_a_process_that_is_killed() {
    let folder = folder();
    let mut first = open(&folder);
    fill(&mut first, 0..50);
    // Nothing is closed: the next process finds database and log as they are.
    let mut second = open(&folder);
    assert_eq!((past(&second).1.len(), second.next), (past(&first).1.len(), first.next));
    fill(&mut second, 50..60);
    assert_eq!(total(past(&second).1.iter().map(|(_, sample)| sample)).count(), 60);
    std::mem::forget(first);
}

#[test]
fn two_processes_that_keep_samples_for_a_while_lose_none() {
    let folder = folder();
    let (mut first, mut second) = (open(&folder), open(&folder));
    for at in 0..20 {
        let file = if at % 2 == 0 { &mut first } else { &mut second };
        file.keep(&tick(at, vec![sample(at, 1, us_of(at))])).unwrap();
    }
    // What took over goes on alone.
    drop(first);
    second.keep(&tick(20, vec![sample(20, 1, us_of(20))])).unwrap();
    for file in [&second, &open(&folder)] {
        let kept = file.past(&["chat".into()]).unwrap();
        let ended: Vec<Wall> = kept.rollouts[0].iter().map(|(_, sample)| sample.ended_at).collect();
        assert_eq!(ended, (0..=20).map(wall).collect::<Vec<_>>());
    }
}

#[test]
fn a_damaged_sample_is_left_out_and_told() {
    let folder = folder();
    let mut file = open(&folder);
    fill(&mut file, 0..4);
    file.connection.execute("UPDATE samples SET body = x'0102030405' WHERE (place >> 10) % 65536 = 2", []).unwrap();
    let (reach, samples) = past(&file);
    assert_eq!((reach, samples.len()), (SAMPLE_EVERY * 4, 3), "the time still counts");
    assert_eq!((file.take_damaged(), file.take_damaged()), (2, 0));
    fill(&mut file, 4..12);
    assert_eq!(total(file.day("chat", Wall::default()).unwrap().samples.iter()).count(), 11);
    assert!(file.take_damaged() >= 2);
}

#[test]
fn a_file_that_is_no_history_is_moved_aside() {
    for content in [
        "",
        "this is no database, and it is longer than a header of one would be: one hundred bytes at least, so it is",
    ] {
        let folder = folder();
        fs::write(folder.path().join("weir-history.db"), content).unwrap();
        let (mut archive, kept) = Archive::open(folder.path(), &["chat".into()], wall(0));
        assert!(kept.rollouts.iter().all(Vec::is_empty));
        archive.keep(tick(0, vec![sample(0, 0, 1)]));
        archive.end();
        let names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.iter().any(|name| name == &format!("weir-history.db.corrupt-{}", EPOCH_MS / 1000)), "{names:?}");
        assert_eq!(past(&open(&folder)).1.len(), 1);
    }
}

#[test]
fn a_history_of_a_newer_weir_is_left_alone() {
    let folder = folder();
    let mut file = open(&folder);
    fill(&mut file, 0..3);
    file.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let (mut archive, kept) = Archive::open(folder.path(), &["chat".into()], wall(0));
    assert!(kept.rollouts.is_empty());
    archive.keep(tick(0, vec![]));
    archive.end();
    assert_eq!(archive.tally().lost.load(Ordering::Relaxed), 1);
    let connection = rusqlite::Connection::open(folder.path().join("weir-history.db")).unwrap();
    let rows: i64 = connection.query_row("SELECT count(*) FROM samples", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 6);
}

#[test]
fn pruning_takes_a_little_at_a_time_and_nothing_that_is_nowhere_else() {
    let folder = folder();
    let mut file = open(&folder);
    fill(&mut file, 0..2_000);
    let rows = |file: &File| -> i64 {
        let sql = "SELECT count(*) FROM samples WHERE place >> 44 = 1 << 2";
        file.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    file.bytes_max = 0;
    let mut before = rows(&file);
    while before > 6 {
        let at = file.next[0];
        fill(&mut file, at..at + 1);
        let after = rows(&file);
        assert!(after < before && before - after <= 64, "{before} {after}");
        before = after;
    }
    let day = file.day("chat", Wall::default()).unwrap();
    assert_eq!(total(day.samples.iter()).count(), file.next[0]);
    let connection = &file.connection;
    let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0)).unwrap();
    assert!(free > 0, "the room is there for what comes");
}

#[test]
fn a_full_disk_loses_samples_and_counts_them() {
    let folder = folder();
    let mut file = open(&folder);
    fill(&mut file, 0..100);
    let pages: i64 = file.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    file.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let mut archive = Archive::start(folder.path().to_owned(), Some(file));
    let wait_for = |lost: bool, archive: &Archive, at: &mut u64| {
        let count = |archive: &Archive| match lost {
            true => archive.tally().lost.load(Ordering::Relaxed),
            false => archive.tally().kept.load(Ordering::Relaxed),
        };
        let before = count(archive);
        while count(archive) == before {
            archive.keep(tick(*at, vec![sample(*at, 0, *at)]));
            *at += 1;
            thread::yield_now();
        }
    };
    let mut at = 100;
    wait_for(true, &archive, &mut at);
    archive.end();
    // With room again everything goes on where the last sample was kept.
    let mut archive = Archive::start(folder.path().to_owned(), Some(open(&folder)));
    wait_for(false, &archive, &mut at);
    archive.end();
    let file = open(&folder);
    assert_eq!(past(&file).0, SAMPLE_EVERY * u32::try_from(file.next[0]).unwrap());
}

#[test]
fn a_file_that_is_taken_away_is_begun_anew() {
    let folder = folder();
    let (mut archive, _) = Archive::open(folder.path(), &[], wall(0));
    archive.keep(tick(0, vec![sample(0, 0, 1)]));
    let (told, answer) = sync_channel(1);
    archive.ask("chat".into(), Since::Then(Wall::default()), Box::new(move |day| told.send(day).unwrap()));
    assert_eq!(answer.recv().unwrap().unwrap().samples.len(), 1);
    fs::remove_file(folder.path().join("weir-history.db")).unwrap();
    archive.keep(tick(1, vec![sample(1, 0, 1)]));
    archive.end();
    assert_eq!(past(&open(&folder)).1.len(), 1);
}
