//! The rules and their guards, each at its limits.

use super::*;
use crate::clock::Time;
use crate::rollout::histogram::bucket_of;
use crate::rollout::outcome::{CodeClass, ErrorKind};

/// A breaker on a clock, looked at once for every batch of requests that ended.
pub struct Bench {
    pub breaker: Breaker,
    pub now: Time,
    pub measured: Measured,
}

/// Requests of one arm: unit, good ones, bad ones.
pub type Requests<'a> = &'a [(u32, u64, u64)];

pub const LOOK: Duration = Duration::from_millis(25);

/// The rules of the contract's example without those that are off by default.
pub fn rules() -> Rules {
    Rules {
        consecutive_errors: 5,
        error_rate: Some(RateRule { above: percent(50), window: Duration::from_secs(10), min_requests: 20 }),
        latency: None,
        no_answer: None,
        min_units: 3,
        max_unit_share: percent(25),
        cooldown: Duration::from_secs(30),
        cooldown_max: COOLDOWN_MAX,
        probe: percent(1),
        max_trips: 3,
        spares_both: true,
    }
}

pub fn percent(percent: u32) -> Weight {
    Weight::from_percent(percent).expect("at most 100")
}

fn above(percent_above: u32) -> Rules {
    let error_rate = RateRule { above: percent(percent_above), window: Duration::from_secs(10), min_requests: 20 };
    Rules { error_rate: Some(error_rate), ..rules() }
}

fn p99_above_2s() -> Rules {
    let window = Duration::from_secs(10);
    let rule = LatencyRule { quantile_permille: 990, above: Duration::from_secs(2), window, min_requests: 50 };
    Rules { latency: Some(rule), ..rules() }
}

impl Bench {
    pub fn new(rules: Rules) -> Bench {
        Bench::saved(rules, Saved::default())
    }

    pub fn saved(rules: Rules, saved: Saved) -> Bench {
        let now = Time::from_micros(1_000_000_000);
        let measured = Measured { healthy: true, units_seen: 64, ..Measured::default() };
        Bench { breaker: Breaker::new(rules, saved, now), now, measured }
    }

    /// One look, at which nothing more has ended than `measured` says.
    pub fn look(&mut self) -> Vec<Turn> {
        self.now = self.now + LOOK;
        let turns = self.breaker.look(self.now, &self.measured);
        let happened = [&mut self.measured.stable, &mut self.measured.canary, &mut self.measured.probes];
        happened.into_iter().for_each(|arm| *arm = Happened::default());
        self.measured.latched = false;
        turns
    }

    /// Looks for so long at whatever `measured` says of the moment.
    pub fn idle(&mut self, time: Duration) -> Vec<Turn> {
        (0..time.as_micros() / LOOK.as_micros()).flat_map(|_| self.look()).collect()
    }

    pub fn arms(&mut self, stable: Requests, canary: Requests) -> Vec<Turn> {
        self.measured.stable = failing(stable);
        self.measured.canary = failing(canary);
        self.look()
    }

    pub fn slow_arms(&mut self, stable: Requests, canary: Requests) -> Vec<Turn> {
        self.measured.stable = slow(stable);
        self.measured.canary = slow(canary);
        self.look()
    }

    pub fn run(&mut self, run: u32, run_units: u32) -> Vec<Turn> {
        (self.measured.run, self.measured.run_units) = (run, run_units);
        self.look()
    }
}

/// Bad requests are failures.
pub fn failing(requests: Requests) -> Happened {
    let mut happened = Happened::default();
    for (unit, good, bad) in requests {
        happened.counts.ended += good + bad;
        happened.counts.codes[CodeClass::Success as usize] += good;
        happened.counts.codes[CodeClass::Server as usize] += bad;
        happened.counts.errors[ErrorKind::Status as usize] += bad;
        happened.counts.first_byte.add(bucket_of(10_000), good + bad);
        count(&mut happened.failures, *unit, *bad);
    }
    happened
}

/// Bad requests take 2.5 s.
fn slow(requests: Requests) -> Happened {
    let mut happened = Happened::default();
    for (unit, good, bad) in requests {
        happened.counts.ended += good + bad;
        happened.counts.first_byte.add(bucket_of(120_000), *good);
        happened.counts.first_byte.add(bucket_of(2_500_000), *bad);
        count(&mut happened.slow, *unit, *bad);
    }
    happened
}

fn count(units: &mut Option<Box<UnitCounts>>, unit: u32, bad: u64) {
    if bad > 0 {
        let units = units.get_or_insert_with(|| Box::new([[0; UNIT_SLOTS]; UNIT_ROWS]));
        units[0][unit as usize * 7 % UNIT_SLOTS] += bad as u32;
        units[1][unit as usize * 31 % UNIT_SLOTS] += bad as u32;
    }
}

/// So many units with as many requests each.
pub fn each(units: u32, good: u64, bad: u64) -> Vec<(u32, u64, u64)> {
    (0..units).map(|unit| (unit, good, bad)).collect()
}

fn is_trip(turns: &[Turn], cause: Cause) -> bool {
    matches!(turns, [Turn::Trip(trip)] if trip.cause == cause)
}

fn reason(turns: &[Turn]) -> &str {
    assert_eq!(turns.len(), 1, "{turns:?}");
    turns[0].reason()
}

#[test]
fn a_rate_exactly_at_its_limit_does_not_trip_and_one_failure_more_does() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.arms(&[(0, 1000, 0)], &each(20, 1, 1)), []);
    let turns = bench.arms(&[], &[(20, 0, 1)]);
    assert!(is_trip(&turns, Cause::ErrorRate), "{turns:?}");
    assert_eq!(reason(&turns), "error_rate 51.2% > 50.0% (21 of 41 requests in 10s; stable 0.0%)");
}

#[test]
fn one_request_below_the_sample_floor_is_no_sample() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.arms(&[], &each(19, 0, 1)), []);
    let turns = bench.arms(&[], &[(19, 0, 1)]);
    assert_eq!(reason(&turns), "error_rate 100.0% > 50.0% (20 of 20 requests in 10s; stable without requests)");
}

#[test]
fn a_reason_has_the_decimals_that_its_limit_needs() {
    let mut bench = Bench::new(above(5));
    let turns = bench.arms(&[(0, 999, 1)], &[(1, 11, 6), (2, 11, 6), (3, 11, 5)]);
    assert_eq!(reason(&turns), "error_rate 34.0% > 5.0% (17 of 50 requests in 10s; stable 0.1%)");
    let mut bench = Bench::new(Rules { error_rate: None, ..rules() });
    let above = Weight::from_ppm(2_500).expect("a share");
    let error_rate = RateRule { above, window: Duration::from_secs(60), min_requests: 20 };
    bench.breaker.reconfigure(Rules { error_rate: Some(error_rate), ..rules() }, bench.now);
    let turns = bench.arms(&[(0, 10_000, 5)], &[(1, 9_974, 6), (2, 0, 6), (3, 0, 5), (4, 0, 5), (5, 0, 4)]);
    assert_eq!(reason(&turns), "error_rate 0.26% > 0.25% (26 of 10000 requests in 1m; stable 0.05%)");
}

#[test]
fn failures_that_have_left_the_window_do_not_count() {
    let mut bench = Bench::new(rules());
    bench.arms(&[], &each(15, 0, 1));
    bench.idle(Duration::from_secs(11));
    assert_eq!(bench.arms(&[], &each(10, 1, 1)), []);
    assert_eq!(bench.idle(Duration::from_secs(20)), []);
}

#[test]
fn a_rate_trips_when_good_requests_have_left_the_window() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.arms(&[], &each(30, 1, 0)), []);
    bench.idle(Duration::from_secs(8));
    assert_eq!(bench.arms(&[], &each(25, 0, 1)), []);
    assert!(is_trip(&bench.idle(Duration::from_secs(4)), Cause::ErrorRate));
}

#[test]
fn one_abuser_with_half_of_the_canarys_traffic_trips_no_rate() {
    for limit in [50, 20, 5, 1] {
        let mut bench = Bench::new(above(limit));
        for round in 0..2_000 {
            // Now and then another unit fails as well.
            let stray = u64::from(round % 100 == 0);
            let others = (0..20).map(|unit| (unit + 1, 1, if unit == round / 100 % 20 { stray } else { 0 }));
            let canary: Vec<_> = std::iter::once((0, 0, 20)).chain(others).collect();
            assert_eq!(bench.arms(&each(20, 9, 0), &canary), [], "limit {limit}, round {round}");
        }
    }
}

#[test]
fn twenty_units_with_the_same_errors_trip() {
    for limit in [49, 20, 5, 1] {
        let mut bench = Bench::new(above(limit));
        let turns = bench.arms(&each(20, 9, 0), &each(20, 1, 1));
        assert!(is_trip(&turns, Cause::ErrorRate), "limit {limit}: {turns:?}");
    }
}

#[test]
fn failures_of_exactly_min_units_units_suffice() {
    let others = |failing: u32| (0..10).map(move |unit| if unit < failing { (unit, 0, 8) } else { (unit, 1, 0) });
    let mut bench = Bench::new(rules());
    assert_eq!(bench.arms(&[], &others(2).collect::<Vec<_>>()), []);
    let mut bench = Bench::new(rules());
    let turns = bench.arms(&[], &others(3).collect::<Vec<_>>());
    // 24 of 31; of each unit at most 7 count.
    assert_eq!(
        reason(&turns),
        "error_rate 67.7% > 50.0% (21 of 31 requests in 10s, 3 more of single units not counted; stable without requests)"
    );
}

#[test]
fn where_fewer_units_than_min_units_are_seen_all_of_them_suffice() {
    let mut bench = Bench::new(rules());
    bench.measured.units_seen = 2;
    assert_eq!(bench.arms(&[], &[(0, 0, 15), (1, 15, 0)]), [], "one of two");
    assert_eq!(bench.breaker.few_units(), Some(2));
    assert!(is_trip(&bench.arms(&[], &[(0, 0, 5), (1, 0, 30)]), Cause::ErrorRate));
    let mut bench = Bench::new(rules());
    bench.measured.units_seen = 1;
    assert!(is_trip(&bench.arms(&[], &[(0, 2, 18)]), Cause::ErrorRate));
    let mut bench = Bench::new(rules());
    bench.arms(&[], &each(3, 1, 0));
    assert_eq!(bench.breaker.few_units(), None);
}

#[test]
fn units_seen_earlier_in_the_window_are_seen() {
    let error_rate = RateRule { above: percent(50), window: Duration::from_secs(60), min_requests: 20 };
    let mut bench = Bench::new(Rules { error_rate: Some(error_rate), ..rules() });
    bench.arms(&[], &each(10, 1, 0));
    bench.idle(Duration::from_secs(30));
    bench.measured.units_seen = 1;
    assert_eq!(bench.arms(&[], &[(0, 0, 40)]), []);
}

#[test]
fn both_arms_alike_trip_nothing_and_alert_once_an_episode() {
    let mut bench = Bench::new(rules());
    let turns = bench.arms(&each(20, 5, 5), &each(20, 2, 3));
    let text = "error_rate 60.0% > 50.0% (60 of 100 requests in 10s; stable 50.0%)";
    assert!(matches!(turns[..], [Turn::BothArms { cause: Cause::ErrorRate, .. }]), "{turns:?}");
    assert_eq!((reason(&turns), turns[0].state()), (text, None));
    for _ in 0..4_000 {
        assert_eq!(bench.arms(&each(20, 5, 5), &each(20, 2, 3)), []);
    }
    assert_eq!(bench.breaker.both_arms(), Some(text));
    assert_eq!((bench.breaker.state(), bench.breaker.trips()), (State::Closed, 0));
    // The failures leave the window, and a minute later the episode is over.
    bench.idle(Duration::from_secs(60));
    assert!(bench.breaker.both_arms().is_some());
    bench.idle(Duration::from_secs(15));
    assert_eq!(bench.breaker.both_arms(), None);
    assert_eq!(bench.arms(&each(20, 5, 5), &each(20, 2, 3)).len(), 1);
}

#[test]
fn the_canary_is_to_blame_if_it_leads_by_half_of_the_limit() {
    let canary = each(20, 2, 3);
    // 60 % against 35 % and 36 %.
    assert!(is_trip(&Bench::new(rules()).arms(&each(20, 65, 35), &canary), Cause::ErrorRate));
    assert!(matches!(Bench::new(rules()).arms(&each(20, 64, 36), &canary)[..], [Turn::BothArms { .. }]));
    let unsparing = Rules { spares_both: false, ..rules() };
    assert!(is_trip(&Bench::new(unsparing).arms(&each(20, 0, 100), &canary), Cause::ErrorRate));
}

#[test]
fn a_difference_that_may_be_chance_blames_nobody() {
    // Both fail every third time; of 63 requests 23 is only 3 % beside the truth.
    let stable = each(20, 20, 10);
    let canary: Vec<_> = (0..20).map(|unit| (unit, 2, if unit < 3 { 2 } else { 1 })).collect();
    assert!(matches!(Bench::new(above(5)).arms(&stable, &canary)[..], [Turn::BothArms { .. }]));
    // Half of them, and ten times as many: that is none of chance.
    let turns = Bench::new(above(5)).arms(&stable, &each(20, 15, 15));
    assert!(is_trip(&turns, Cause::ErrorRate), "{turns:?}");
}

#[test]
fn a_run_that_opened_the_latch_is_a_trip() {
    let mut bench = Bench::new(rules());
    bench.arms(&each(20, 50, 0), &[(0, 10, 0)]);
    bench.measured.latched = true;
    (bench.measured.run, bench.measured.run_units) = (5, 3);
    let turns = bench.arms(&[], &[(0, 0, 2), (1, 0, 2), (2, 0, 1)]);
    let text = "consecutive_errors 5 >= 5 (requests in a row: status_5xx 5; 3 units; stable 0.0% in 10s)";
    let cooldown = Some(Duration::from_secs(30));
    let cause = Cause::ConsecutiveErrors;
    let trip = Trip { cause, reason: text.to_owned(), trips: 1, rolled_back: false, cooldown, latched: true };
    assert_eq!(turns, [Turn::Trip(trip)]);
    assert_eq!((turns[0].state(), bench.breaker.state()), (Some(State::Open), State::Open));
    assert_eq!(bench.breaker.last_reason(), Some(text));
    // A latch that has begun to count anew says nothing of its run.
    let mut bench = Bench::new(rules());
    bench.measured.latched = true;
    let turns = bench.look();
    assert_eq!(reason(&turns), "consecutive_errors 5 >= 5 (requests in a row; 1 unit; stable 0.0% in 10s)");
}

#[test]
fn a_run_names_kinds_without_counts_where_others_are_among_them() {
    let mut bench = Bench::new(rules());
    bench.measured.canary = failing(&each(8, 1, 1));
    bench.measured.canary.counts.errors[ErrorKind::Connect as usize] = 20;
    bench.measured.latched = true;
    let turns = bench.run(6, 4);
    let text = "consecutive_errors 6 >= 5 (requests in a row: connect, status_5xx; 4 units; stable 0.0% in 10s)";
    assert_eq!(reason(&turns), text);
}

#[test]
fn a_run_that_was_left_to_judgement_trips_if_stable_is_much_better() {
    // The canary fails all of its requests.
    for (stable, trips) in [((5_100, 4_900), true), ((5_000, 5_000), false)] {
        let mut bench = Bench::new(Rules { error_rate: None, ..rules() });
        bench.arms(&[(0, stable.0, stable.1)], &[]);
        (bench.measured.run, bench.measured.run_units) = (20, 16);
        let turns = bench.arms(&[], &each(20, 0, 1));
        assert_eq!(is_trip(&turns, Cause::ConsecutiveErrors), trips, "{turns:?}");
        assert_eq!(matches!(turns[..], [Turn::BothArms { .. }]), !trips, "{turns:?}");
    }
}

#[test]
fn a_run_that_may_be_chance_at_the_rate_of_stable_does_not_trip() {
    // Both fail every fifth time: among 1,000 requests there are runs of five, but none of nine.
    let mut bench = Bench::new(rules());
    bench.arms(&each(20, 40, 10), &each(20, 40, 10));
    for failures in 5..9 {
        bench.measured.canary = failing(&each(if failures == 5 { 5 } else { 1 }, 0, 1));
        assert!(!is_trip(&bench.run(failures, 4), Cause::ConsecutiveErrors), "{failures}");
    }
    bench.measured.canary = failing(&each(2, 0, 1));
    let turns = bench.run(10, 4);
    assert!(is_trip(&turns, Cause::ConsecutiveErrors), "{turns:?}");
}

#[test]
fn a_run_is_judged_since_it_began_where_that_is_worse() {
    // Long good on both arms; then both break at once.
    let mut bench = Bench::new(rules());
    for _ in 0..8 {
        bench.arms(&each(20, 50, 0), &each(20, 10, 0));
        bench.idle(Duration::from_secs(1));
    }
    bench.measured.stable = failing(&each(20, 1, 2));
    bench.measured.canary = failing(&[(0, 1, 2), (1, 0, 2), (2, 0, 1)]);
    assert!(matches!(bench.run(5, 3)[..], [Turn::BothArms { .. }]));
    // Stable recovers, the canary does not: the same run shows it.
    bench.measured.stable = failing(&each(20, 1, 0));
    assert_eq!(bench.run(6, 4), []);
    bench.measured.stable = failing(&each(20, 4, 0));
    assert_eq!(bench.run(8, 5), []);
    let turns = bench.run(30, 5);
    assert!(is_trip(&turns, Cause::ConsecutiveErrors), "{turns:?}");
}

#[test]
fn a_latch_that_opened_while_stable_broke_too_is_taken_back() {
    let mut bench = Bench::new(rules());
    bench.arms(&each(20, 50, 0), &each(20, 10, 0));
    let opens = |bench: &mut Bench| {
        bench.measured.latched = true;
        bench.measured.stable = failing(&each(10, 1, 1));
        bench.measured.canary = failing(&[(0, 0, 2), (1, 0, 2), (2, 0, 1)]);
        bench.run(5, 3)
    };
    let turns = opens(&mut bench);
    assert!(matches!(turns[..], [Turn::Spared { state: State::Closed, .. }, Turn::BothArms { .. }]), "{turns:?}");
    assert_eq!(turns[0].state(), Some(State::Closed));
    assert_eq!((bench.breaker.state(), bench.breaker.trips(), bench.breaker.last_reason()), (State::Closed, 0, None));
    // Each time, but told once.
    let turns = opens(&mut bench);
    assert!(matches!(turns[..], [Turn::Spared { .. }]), "{turns:?}");
    let mut bench = Bench::new(Rules { spares_both: false, ..rules() });
    assert!(is_trip(&opens(&mut bench), Cause::ConsecutiveErrors));
}

#[test]
fn a_run_needs_its_length_and_its_units() {
    let mut bench = Bench::new(rules());
    assert_eq!(bench.run(4, 4), []);
    assert_eq!(bench.run(50, 2), []);
    assert!(is_trip(&bench.run(5, 3), Cause::ConsecutiveErrors));
    let mut bench = Bench::new(rules());
    bench.measured.units_seen = 2;
    assert!(is_trip(&bench.run(5, 2), Cause::ConsecutiveErrors));
    let mut bench = Bench::new(Rules { consecutive_errors: 0, ..rules() });
    assert_eq!(bench.run(500, 16), []);
}

#[test]
fn latency_trips_when_more_answers_are_slow_than_the_quantile_leaves_room_for() {
    let mut bench = Bench::new(p99_above_2s());
    assert_eq!(bench.slow_arms(&each(20, 50, 0), &[(0, 491, 2), (1, 0, 2), (2, 0, 1), (3, 4, 0)]), [], "exactly 1 %");
    let turns = bench.slow_arms(&[], &[(4, 0, 1)]);
    assert!(is_trip(&turns, Cause::Latency), "{turns:?}");
    assert_eq!(reason(&turns), "latency p99 2.52s > 2s (6 of 501 requests slower in 10s; stable 120ms)");
}

#[test]
fn latency_needs_its_sample_and_its_units() {
    assert_eq!(Bench::new(p99_above_2s()).slow_arms(&[], &each(49, 0, 1)), []);
    assert!(is_trip(&Bench::new(p99_above_2s()).slow_arms(&[], &each(50, 0, 1)), Cause::Latency));
    // An abuser and one stray slow answer.
    assert_eq!(Bench::new(p99_above_2s()).slow_arms(&[], &[(0, 0, 500), (1, 498, 1), (2, 1, 0)]), []);
}

#[test]
fn a_canary_that_is_as_slow_as_stable_is_spared() {
    let turns = Bench::new(p99_above_2s()).slow_arms(&each(20, 9, 1), &each(20, 4, 1));
    let text = "latency p99 2.52s > 2s (20 of 100 requests slower in 10s; stable 2.52s)";
    assert_eq!(reason(&turns), text);
    assert!(matches!(turns[..], [Turn::BothArms { cause: Cause::Latency, .. }]));
}

#[test]
fn requests_that_nobody_answers_trip() {
    let no_answer = NoAnswerRule { after: Duration::from_secs(2), min_requests: 5 };
    let rules = Rules { no_answer: Some(no_answer), ..rules() };
    let hang = |waiting: u64, units: u32| {
        let mut bench = Bench::new(rules.clone());
        bench.look();
        (bench.measured.started, bench.measured.waiting_units) = (waiting, units);
        bench.idle(Duration::from_secs(3))
    };
    assert_eq!(hang(4, 4), []);
    assert_eq!(hang(100, 2), []);
    let turns = hang(5, 3);
    assert!(is_trip(&turns, Cause::NoAnswer), "{turns:?}");
    let text =
        "no_answer 5 >= 5 (requests of 3 units waiting for more than 2s, none answered in 2s; stable 0.0% in 10s)";
    assert_eq!(reason(&turns), text);
}

#[test]
fn requests_that_nobody_answers_on_either_arm_do_not_trip() {
    let no_answer = NoAnswerRule { after: Duration::from_secs(2), min_requests: 5 };
    let mut bench = Bench::new(Rules { no_answer: Some(no_answer), ..rules() });
    bench.look();
    (bench.measured.started, bench.measured.waiting_units) = (50, 20);
    bench.arms(&each(20, 1, 1), &[]);
    assert!(matches!(bench.idle(Duration::from_secs(3))[..], [Turn::BothArms { cause: Cause::NoAnswer, .. }]));
}

#[test]
fn a_rule_that_is_off_never_trips() {
    let off = Rules { consecutive_errors: 0, error_rate: None, ..rules() };
    let mut bench = Bench::new(off);
    for _ in 0..100 {
        bench.measured.started += 100;
        assert_eq!(bench.arms(&[], &each(20, 0, 5)), []);
    }
}

#[test]
fn stable_counts_as_sick_from_half_of_the_canarys_rate_and_a_twentieth_of_its_own() {
    let sick = |stable: (u64, u64), canary: (u64, u64)| {
        let mut bench = Bench::new(rules());
        bench.arms(&[(0, stable.0, stable.1)], &[(0, canary.0, canary.1)]);
        bench.breaker.stable_sick()
    };
    assert!(sick((50, 50), (0, 100)) && !sick((51, 49), (0, 100)));
    assert!(sick((95, 5), (100, 0)) && !sick((96, 4), (100, 0)));
    assert!(!sick((0, 0), (0, 0)));
}
