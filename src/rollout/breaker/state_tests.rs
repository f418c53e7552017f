//! The states: what leads from one to the next, what survives, and what it costs to flap.

use super::tests::{Bench, each, failing, percent, rules};
use super::*;
use std::collections::BTreeSet;

const SECOND: Duration = Duration::from_secs(1);

/// Opens a breaker by a run that the latch saw.
fn trip(bench: &mut Bench) -> Trip {
    bench.measured.latched = true;
    let turns = bench.look();
    match &turns[..] {
        [Turn::Trip(trip)] => trip.clone(),
        _ => panic!("{turns:?}"),
    }
}

/// Looks until something turns; the time it took.
fn until_turn(bench: &mut Bench) -> (Turn, Duration) {
    let began = bench.now;
    loop {
        if let [turn, ..] = &bench.look()[..] {
            return (turn.clone(), bench.now.since(began));
        }
        assert!(bench.now.since(began) < Duration::from_secs(3600), "nothing turns");
    }
}

/// Opens it and waits until it is half-open.
fn half_open(bench: &mut Bench) {
    trip(bench);
    let (turn, _) = until_turn(bench);
    assert!(matches!(turn, Turn::HalfOpen { .. }), "{turn:?}");
}

fn probes(bench: &mut Bench, good: u64, bad: u64) -> Vec<Turn> {
    bench.measured.probes_started += good + bad;
    bench.measured.probes = failing(&[(1, good, bad)]);
    bench.look()
}

#[test]
fn a_fresh_rollout_behaves_as_closed() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.idle(60 * SECOND), []);
    assert_eq!(bench.breaker.state(), State::Closed);
    assert_eq!(bench.breaker.saved(), &Saved::default());
    assert_eq!((bench.breaker.cooldown_ends(), bench.breaker.both_arms()), (None, None));
}

#[test]
fn an_open_breaker_half_opens_after_its_cooldown_and_not_before() {
    let mut bench = Bench::new(rules());
    trip(&mut bench);
    let ends = bench.breaker.cooldown_ends();
    assert_eq!(ends, Some(bench.now + 30 * SECOND));
    // Failures of requests that began before it opened say nothing.
    bench.measured.run = 50;
    bench.measured.latched = true;
    assert_eq!(bench.arms(&[], &each(20, 0, 5)), []);
    bench.measured.run = 0;
    let (turn, _) = until_turn(&mut bench);
    assert_eq!(Some(bench.now), ends);
    let reason = "cooldown of 30s is over: 1% of the canary's units probe it".to_owned();
    assert_eq!((turn.state(), &turn), (Some(State::HalfOpen), &Turn::HalfOpen { probe: percent(1), reason }));
}

#[test]
fn enough_probes_that_succeed_close_it() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    // A large rollout: as many as the rate rule needs.
    assert_eq!(probes(&mut bench, 19, 0), []);
    assert_eq!(probes(&mut bench, 1, 0), [Turn::Closed { reason: "20 of 20 probes succeeded".to_owned() }]);
    assert_eq!((bench.breaker.state(), bench.breaker.trips()), (State::Closed, 1));
    assert!(bench.breaker.last_reason().is_some());
}

#[test]
fn a_small_rollout_recovers_after_a_window_with_few_probes() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    for _ in 0..4 {
        assert_eq!(probes(&mut bench, 1, 0), []);
    }
    assert_eq!(bench.idle(9 * SECOND), []);
    assert_eq!(probes(&mut bench, 1, 0), [], "five, but not a whole window yet");
    let closed = Turn::Closed { reason: "5 of 5 probes succeeded".to_owned() };
    assert_eq!(bench.idle(2 * SECOND), [closed]);
}

#[test]
fn neither_clients_that_left_nor_refusals_prove_anything() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    for _ in 0..200 {
        bench.measured.probes = failing(&[(1, 2, 0)]);
        bench.measured.probes.counts.client_left = 1;
        bench.measured.probes.counts.codes[crate::rollout::outcome::CodeClass::None as usize] = 2;
        assert_eq!(bench.look(), []);
    }
}

#[test]
fn probes_that_fail_open_it_again_by_each_rule() {
    let reopens = |probe: &dyn Fn(&mut Bench) -> Vec<Turn>| {
        let mut bench = Bench::new(rules());
        half_open(&mut bench);
        let turns = probe(&mut bench);
        match &turns[..] {
            [Turn::Trip(trip)] => assert_eq!((trip.trips, trip.cooldown), (2, Some(60 * SECOND)), "{trip:?}"),
            _ => panic!("{turns:?}"),
        }
        turns[0].reason().to_owned()
    };
    let by_run = reopens(&|bench| {
        bench.measured.latched = true;
        (bench.measured.units_seen, bench.measured.run, bench.measured.run_units) = (1, 5, 1);
        probes(bench, 0, 5)
    });
    assert_eq!(by_run, "consecutive_errors 5 >= 5 (probes in a row: status_5xx 5; 1 unit; stable 0.0% in 10s)");
    let by_rate = reopens(&|bench| {
        bench.measured.probes = failing(&each(20, 0, 1));
        // The cells by unit are those of the canary.
        bench.measured.canary.failures = bench.measured.probes.failures.take();
        bench.look()
    });
    assert_eq!(by_rate, "error_rate 100.0% > 50.0% (20 of 20 probes in 10s; stable without requests)");
}

#[test]
fn it_does_not_close_while_a_rule_would_trip_with_more_probes() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    for _ in 0..8 {
        bench.measured.units_seen = 1;
        assert_eq!(probes(&mut bench, 1, 1), []);
    }
    bench.idle(9 * SECOND);
    bench.measured.units_seen = 1;
    assert_eq!(probes(&mut bench, 0, 2), [], "10 of 18 failed");
    bench.measured.run = 1;
    assert_eq!(probes(&mut bench, 3, 0), [], "the last one failed");
    bench.measured.run = 0;
    assert!(matches!(bench.look()[..], [Turn::Closed { .. }]));
}

#[test]
fn the_requests_of_the_arm_are_not_judged_while_probes_are() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    assert_eq!(bench.arms(&[], &each(20, 0, 50)), []);
    assert_eq!(bench.breaker.state(), State::HalfOpen);
}

#[test]
fn what_tripped_it_once_cannot_trip_it_again() {
    let quick = Rules { cooldown: SECOND, ..rules() };
    let mut bench = Bench::new(quick);
    let turns = bench.arms(&[], &each(20, 0, 5));
    assert!(matches!(turns[..], [Turn::Trip(_)]));
    until_turn(&mut bench);
    assert!(matches!(probes(&mut bench, 20, 0)[..], [Turn::Closed { .. }]));
    // All of it lies within the last ten seconds.
    assert_eq!(bench.arms(&[], &[(1, 1, 0)]), []);
    assert_eq!(bench.idle(20 * SECOND), []);
}

#[test]
fn the_trickle_doubles_while_nobody_is_in_it() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    let mut widened = Vec::new();
    while bench.breaker.probe() < Weight::FULL {
        let (turn, took) = until_turn(&mut bench);
        assert_eq!(took, 10 * SECOND);
        assert!(matches!(turn, Turn::ProbeWidened { .. }), "{turn:?}");
        widened.push(turn.reason().to_owned());
    }
    assert_eq!(widened[0], "no probe for 10s: 2% of the canary's units probe it");
    assert_eq!(widened.len(), 7);
    assert_eq!(bench.idle(60 * SECOND), []);
    // The next half-opening begins with the configured share.
    half_open(&mut bench);
    assert_eq!(bench.breaker.probe(), percent(1));
}

#[test]
fn probes_that_have_not_ended_put_the_doubling_off() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    bench.measured.probes_started += 2;
    assert_eq!(bench.idle(59 * SECOND), []);
    assert!(matches!(bench.idle(2 * SECOND)[..], [Turn::ProbeWidened { .. }]));
    // Streams may go on for hours: they are waited for once.
    assert!(matches!(until_turn(&mut bench), (Turn::ProbeWidened { .. }, took) if took <= 10 * SECOND));
}

#[test]
fn cooldowns_double_to_ten_minutes_and_never_fall_below_the_configured_one() {
    let cooldowns = |cooldown: Duration| -> Vec<u64> {
        let mut bench = Bench::new(Rules { cooldown, max_trips: 0, ..rules() });
        (0..40)
            .map(|_| {
                let cooldown = trip(&mut bench).cooldown.expect("it will half-open").as_secs();
                let (_, took) = until_turn(&mut bench);
                assert_eq!(took.as_secs(), cooldown);
                cooldown
            })
            .collect()
    };
    assert_eq!(cooldowns(30 * SECOND)[..7], [30, 60, 120, 240, 480, 600, 600]);
    assert_eq!(cooldowns(30 * SECOND)[39], 600);
    assert_eq!(cooldowns(900 * SECOND)[..2], [900, 900]);
}

#[test]
fn a_long_steady_time_takes_one_doubling_back() {
    let mut bench = Bench::new(Rules { max_trips: 0, ..rules() });
    let next_cooldown = |steady: Duration| {
        let mut bench = Bench::new(Rules { max_trips: 0, ..rules() });
        half_open(&mut bench);
        half_open(&mut bench);
        probes(&mut bench, 20, 0);
        assert_eq!(bench.breaker.saved().level, 2);
        bench.idle(steady);
        trip(&mut bench).cooldown.map(|cooldown| cooldown.as_secs())
    };
    assert_eq!(next_cooldown(599 * SECOND), Some(120));
    assert_eq!(next_cooldown(600 * SECOND), Some(60));
    assert_eq!(next_cooldown(600 * SECOND + 300 * SECOND), Some(30));
    trip(&mut bench);
    assert_eq!(bench.breaker.trips(), 1);
}

#[test]
fn max_trips_roll_back_until_a_person_revives_it() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    half_open(&mut bench);
    let last = trip(&mut bench);
    assert_eq!((last.trips, last.rolled_back, last.cooldown), (3, true, None));
    assert_eq!(bench.idle(3600 * SECOND), []);
    assert_eq!((bench.breaker.state(), bench.breaker.cooldown_ends()), (State::Open, None));
    // Neither a restart nor another config undoes it.
    let mut bench = Bench::saved(rules(), bench.breaker.saved().clone());
    bench.breaker.reconfigure(Rules { max_trips: 0, ..rules() }, bench.now);
    assert_eq!(bench.idle(3600 * SECOND), []);
    assert_eq!(bench.breaker.revive(bench.now), Some(Turn::Closed { reason: "revived".to_owned() }));
    let saved = bench.breaker.saved();
    assert_eq!((saved.state, saved.trips, saved.level, saved.rolled_back), (State::Closed, 0, 0, false));
    assert_eq!(bench.breaker.revive(bench.now), None);
    assert_eq!(trip(&mut bench).cooldown, Some(30 * SECOND));
}

#[test]
fn a_restart_keeps_an_open_or_half_open_breaker_open_for_a_full_cooldown() {
    let mut bench = Bench::new(rules());
    half_open(&mut bench);
    trip(&mut bench);
    bench.idle(59 * SECOND);
    for half_open in [false, true] {
        if half_open {
            until_turn(&mut bench);
        }
        let mut again = Bench::saved(rules(), bench.breaker.saved().clone());
        assert_eq!((again.breaker.state(), again.breaker.trips()), (State::Open, 2));
        assert_eq!(again.breaker.last_reason(), bench.breaker.last_reason());
        let (turn, took) = until_turn(&mut again);
        assert_eq!(took, 60 * SECOND);
        assert!(matches!(turn, Turn::HalfOpen { .. }));
    }
}

#[test]
fn a_missing_endpoint_opens_it_without_counting_and_a_healthy_one_closes_it() {
    let mut bench = Bench::new(rules());
    for _ in 0..10 {
        bench.measured.healthy = false;
        // One unit alone suffices.
        bench.measured.units_seen = 64;
        let turns = bench.look();
        let (cause, reason) = (Cause::NoHealthyEndpoint, "no healthy endpoint".to_owned());
        let trip = Trip { cause, reason, trips: 0, rolled_back: false, cooldown: None, latched: false };
        assert_eq!(turns, [Turn::Trip(trip)]);
        assert_eq!(bench.idle(300 * SECOND), []);
        bench.measured.healthy = true;
        assert_eq!(bench.look(), [Turn::Closed { reason: "an endpoint is healthy again".to_owned() }]);
    }
    assert_eq!(trip(&mut bench).cooldown, Some(30 * SECOND));
    // A restart does not know yet what is healthy.
    let mut bench = Bench::new(rules());
    bench.measured.healthy = false;
    bench.look();
    let mut bench = Bench::saved(rules(), bench.breaker.saved().clone());
    let (turn, took) = until_turn(&mut bench);
    assert_eq!(took, 30 * SECOND);
    assert!(matches!(turn, Turn::Closed { .. }), "{turn:?}");
}

#[test]
fn a_missing_endpoint_puts_half_opening_off_and_probing_on_hold() {
    let mut bench = Bench::new(rules());
    trip(&mut bench);
    bench.measured.healthy = false;
    assert_eq!(bench.idle(100 * SECOND), []);
    bench.measured.healthy = true;
    assert!(matches!(bench.look()[..], [Turn::HalfOpen { .. }]));
    bench.measured.healthy = false;
    assert!(matches!(&bench.look()[..], [Turn::Trip(trip)] if trip.trips == 1));
    // What had tripped it has not been disproved.
    let mut again = Bench::saved(rules(), bench.breaker.saved().clone());
    assert!(matches!(until_turn(&mut again).0, Turn::HalfOpen { .. }));
    bench.measured.healthy = true;
    let turns = bench.look();
    let reason = "an endpoint is healthy again: 1% of the canary's units probe it".to_owned();
    assert_eq!(turns, [Turn::HalfOpen { probe: percent(1), reason }]);
}

#[test]
fn other_rules_keep_state_and_trips_and_move_the_end_of_a_cooldown() {
    let mut bench = Bench::new(rules());
    trip(&mut bench);
    let tripped = bench.now;
    bench.idle(10 * SECOND);
    bench.breaker.reconfigure(Rules { cooldown: 12 * SECOND, probe: percent(7), ..rules() }, bench.now);
    assert_eq!((bench.breaker.state(), bench.breaker.trips()), (State::Open, 1));
    assert_eq!(bench.breaker.cooldown_ends(), Some(tripped + 12 * SECOND));
    let (turn, _) = until_turn(&mut bench);
    assert!(matches!(turn, Turn::HalfOpen { probe, .. } if probe == percent(7)));
    bench.breaker.reconfigure(Rules { probe: percent(9), ..rules() }, bench.now);
    assert_eq!(bench.breaker.probe(), percent(9));
}

#[test]
fn a_window_survives_a_reload_that_leaves_its_rule_alone() {
    let mut bench = Bench::new(rules());
    bench.arms(&[], &each(19, 0, 1));
    bench.breaker.reconfigure(Rules { cooldown: SECOND, min_units: 2, ..rules() }, bench.now);
    assert!(matches!(bench.arms(&[], &[(19, 0, 1)])[..], [Turn::Trip(_)]));
    let mut bench = Bench::new(rules());
    bench.arms(&[], &each(19, 0, 1));
    let error_rate = RateRule { above: percent(50), window: 20 * SECOND, min_requests: 20 };
    bench.breaker.reconfigure(Rules { error_rate: Some(error_rate), ..rules() }, bench.now);
    assert_eq!(bench.arms(&[], &[(19, 0, 1)]), []);
}

#[test]
fn every_cause_has_a_word_of_its_own() {
    let words: BTreeSet<_> = Cause::ALL.iter().map(|cause| cause.word()).collect();
    assert_eq!(words.len(), Cause::ALL.len());
}
