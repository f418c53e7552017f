//! The latch by itself: its kills, every short history of its circuit against a plain list, and many threads at once.

use super::*;
use crate::rollout::breaker::State;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

const GUARD: Guard =
    Guard { consecutive_errors: 5, min_units: 3, slow_us: None, counts_waiting: false, spares_both: true };

/// Marks of distinct units.
fn units(count: u64) -> impl Iterator<Item = UnitMark> + Clone {
    (1..=count).map(UnitMark)
}

/// Fails once for each of these units, in the present era; how many of the failures opened the circuit.
fn fail(latch: &Latch, guard: &Guard, units: impl IntoIterator<Item = UnitMark>) -> usize {
    let era = latch.read().era();
    units.into_iter().filter(|unit| latch.failed(*unit, era, guard)).count()
}

/// A latch on whose canary that many units have been seen.
fn latch_that_saw(count: u64) -> Latch {
    let latch = Latch::default();
    units(count).for_each(|unit| latch.saw(unit));
    latch
}

#[test]
fn a_latch_outlives_the_snapshot_that_named_it() {
    let latches = Latches::default();
    latches.of("chat").set(Switches::KILLED);
    assert!(latches.of("chat").read().killed());
    assert!(!latches.of("other").read().killed());
    latches.of("chat").clear(Switches::KILLED);
    assert_eq!(latches.of("chat").read(), Switches::NONE);
}

#[test]
fn kills_and_breaker_do_not_touch_each_other() {
    let latch = Latch::default();
    latch.set(Switches::KILLED.with(Switches::HALF_OPEN));
    assert_eq!(latch.read(), Switches::KILLED, "the breaker moves by its own methods");
    assert!(latch.open());
    latch.clear(Switches::from_bits(u64::MAX));
    assert_eq!((latch.read().state(), latch.read().kills()), (State::Open, Switches::NONE));
}

#[test]
fn a_renewed_latch_has_its_own_kills_and_the_same_circuit() {
    let latches = Latches::default();
    let old = latches.of("chat");
    old.set(Switches::KILLED);
    let new = latches.renew("chat", Switches::NONE);
    assert!(!new.read().killed() && old.read().killed());
    assert_eq!(old.mark("ann"), new.mark("ann"));
    assert_eq!(fail(&old, &GUARD, units(3).cycle().take(5)), 1);
    assert_eq!((new.read().state(), new.run()), (State::Open, Run { failures: 5, units: 3 }));
}

#[test]
fn the_failure_that_completes_the_run_opens_the_circuit_and_no_other() {
    let latch = latch_that_saw(10);
    assert_eq!(fail(&latch, &GUARD, units(3).cycle().take(4)), 0);
    assert_eq!(latch.read().state(), State::Closed);
    assert_eq!(fail(&latch, &GUARD, units(1)), 1);
    assert_eq!(latch.read().state(), State::Open);
    assert_eq!(fail(&latch, &GUARD, units(10)), 0, "open already");
    assert_eq!(latch.run(), Run { failures: 5, units: 3 }, "what opened it stays to be told");
}

#[test]
fn a_success_ends_the_run_and_nothing_else_does() {
    let latch = latch_that_saw(10);
    fail(&latch, &GUARD, units(4));
    latch.succeeded(latch.read().era().wrapping_add(1));
    assert_eq!(latch.run(), Run { failures: 4, units: 4 }, "a success of another era");
    latch.succeeded(latch.read().era());
    assert_eq!(latch.run(), Run::default());
    assert_eq!(fail(&latch, &GUARD, units(4)), 0);
}

#[test]
fn one_unit_that_fails_alone_opens_nothing_while_others_are_seen() {
    let latch = latch_that_saw(3);
    assert_eq!(fail(&latch, &GUARD, units(1).cycle().take(1000)), 0);
    assert_eq!(latch.run(), Run { failures: 1000, units: 1 });
    assert_eq!(fail(&latch, &GUARD, units(2)), 0);
    assert_eq!(fail(&latch, &GUARD, units(3)), 1, "the third unit");
}

#[test]
fn where_fewer_units_are_seen_fewer_suffice() {
    for seen in 0..3 {
        let latch = latch_that_saw(seen);
        assert_eq!(fail(&latch, &GUARD, units(seen.max(1)).cycle().take(5)), 1, "{seen} seen");
    }
}

#[test]
fn as_many_units_are_told_apart_as_a_guard_may_ask_for() {
    let guard = Guard { consecutive_errors: 1, min_units: crate::rollout::breaker::MIN_UNITS_MAX, ..GUARD };
    let latch = latch_that_saw(1000);
    assert_eq!(latch.units_seen(), 64);
    let opened: Vec<u64> = (1..=40).filter(|unit| fail(&latch, &guard, [UnitMark(*unit)]) == 1).collect();
    assert_eq!(opened, [16]);
}

#[test]
fn units_are_forgotten_at_the_second_turn_after_they_were_seen() {
    let latch = latch_that_saw(2);
    latch.turn();
    latch.saw(UnitMark(3));
    assert_eq!(latch.units_seen(), 3);
    latch.turn();
    assert_eq!(latch.units_seen(), 1);
    latch.turn();
    assert_eq!(latch.units_seen(), 0);
}

#[test]
fn a_stable_that_fails_beside_the_run_leaves_it_to_the_breaker() {
    let latch = latch_that_saw(10);
    latch.stable_failed();
    assert_eq!(fail(&latch, &GUARD, units(5)), 1, "stable failed before the run, not beside it");

    let latch = latch_that_saw(10);
    fail(&latch, &GUARD, units(1));
    latch.stable_failed();
    assert_eq!(fail(&latch, &GUARD, units(10)), 0);
    assert_eq!(latch.run().failures, 11, "the breaker sees it");
    let strict = Guard { spares_both: false, ..GUARD };
    assert_eq!(fail(&latch, &strict, units(1)), 1);
}

#[test]
fn a_stable_that_is_sick_leaves_every_run_to_the_breaker() {
    let latch = latch_that_saw(10);
    latch.mark_stable_sick(true);
    assert_eq!(fail(&latch, &GUARD, units(10)), 0);
    latch.mark_stable_sick(false);
    assert_eq!(fail(&latch, &GUARD, units(1)), 1);
}

#[test]
fn a_limit_of_nought_is_never_crossed() {
    let latch = latch_that_saw(10);
    assert_eq!(fail(&latch, &Guard { consecutive_errors: 0, ..GUARD }, units(100)), 0);
}

#[test]
fn a_step_towards_the_canary_is_void_if_the_circuit_opened_meanwhile() {
    let latch = latch_that_saw(10);
    latch.open();
    assert!(latch.half_open(latch.read()));
    let seen = latch.read();
    assert_eq!(fail(&latch, &GUARD, units(5)), 1, "the probes fail");
    assert!(!latch.close(seen));
    assert_eq!(latch.read().state(), State::Open);
    assert!(!latch.open(), "nothing to do");
}

#[test]
fn eras_go_up_with_every_state_and_go_round() {
    let latch = Latch::default();
    let mut eras = BTreeSet::from([latch.read().era()]);
    for _ in 0..8191 {
        if latch.read().state() == State::Open {
            latch.close(latch.read())
        } else {
            latch.open()
        };
        assert!(eras.insert(latch.read().era()));
    }
    latch.close(latch.read());
    assert_eq!((latch.read().state(), latch.read().era()), (State::Closed, 0));
}

/// One step of a history.
#[derive(Clone, Copy, Debug)]
enum Step {
    Fail(u64),
    LateFail,
    Succeed,
    LateSuccess,
    StableFails,
    Open,
    HalfOpen,
    Close,
}

/// The circuit as one would draw it: a state and a list.
#[derive(Default, Debug)]
struct Drawn {
    state: State,
    run: Vec<u64>,
    stable_failed: bool,
    told: Run,
}

impl Drawn {
    const GUARD: Guard = Guard { consecutive_errors: 3, min_units: 2, ..GUARD };

    fn step(&mut self, step: Step) {
        match step {
            Step::Fail(unit) if self.state != State::Open => {
                self.stable_failed &= !self.run.is_empty();
                self.run.push(unit);
                if self.run.len() >= 3 && self.units() >= 2 && !self.stable_failed {
                    self.turn_to(State::Open);
                }
            }
            Step::Succeed if self.state != State::Open => self.run.clear(),
            Step::StableFails => self.stable_failed = true,
            Step::Open if self.state != State::Open => self.turn_to(State::Open),
            Step::HalfOpen => self.turn_to(State::HalfOpen),
            Step::Close => self.turn_to(State::Closed),
            _ => {}
        }
    }

    fn turn_to(&mut self, state: State) {
        self.told = self.run();
        self.state = state;
        self.run.clear();
    }

    fn units(&self) -> u32 {
        self.run.iter().collect::<BTreeSet<_>>().len() as u32
    }

    fn run(&self) -> Run {
        if self.state == State::Open { self.told } else { Run { failures: self.run.len() as u32, units: self.units() } }
    }
}

#[test]
fn every_short_history_goes_as_a_plain_list_would() {
    use Step::{Close, Fail, HalfOpen, LateFail, LateSuccess, Open, StableFails, Succeed};
    let steps = [Fail(1), Fail(2), LateFail, Succeed, LateSuccess, StableFails, Open, HalfOpen, Close];
    let mut ends = BTreeSet::new();
    for history in 0..9_usize.pow(6) {
        let latch = latch_that_saw(3);
        let mut drawn = Drawn::default();
        for at in 0..6 {
            let step = steps[history / 9_usize.pow(at) % 9];
            let (seen, era) = (latch.read(), latch.read().era());
            match step {
                Fail(unit) => drop(latch.failed(UnitMark(unit), era, &Drawn::GUARD)),
                LateFail => assert!(!latch.failed(UnitMark(3), era.wrapping_sub(1), &Drawn::GUARD)),
                Succeed => latch.succeeded(era),
                LateSuccess => latch.succeeded(era.wrapping_sub(1)),
                StableFails => latch.stable_failed(),
                Open => drop(latch.open()),
                HalfOpen => assert!(latch.half_open(seen)),
                Close => assert!(latch.close(seen)),
            }
            drawn.step(step);
            let stands = (latch.read().state(), latch.run());
            assert_eq!(stands, (drawn.state, drawn.run()), "{step:?}, step {at} of history {history}");
        }
        ends.insert((drawn.state.word(), drawn.run.len()));
    }
    assert!(
        ends.contains(&("closed", 6)) && ends.contains(&("half_open", 2)) && ends.contains(&("open", 0)),
        "{ends:?}"
    );
}

const THREADS: u64 = 4;
const ROUNDS: usize = 300;

/// Runs `work` on several threads that begin at once, with their number from 1; what each returned.
fn at_once<T: Send>(work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(THREADS as usize);
    let begin = |number| {
        barrier.wait();
        work(number)
    };
    thread::scope(|scope| {
        let begin = &begin;
        let threads: Vec<_> = (1..=THREADS).map(|number| scope.spawn(move || begin(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}

#[test]
fn of_many_failures_at_once_exactly_one_opens_the_circuit() {
    // Every thread is a unit of its own, and the run needs all of them and all their failures.
    let exact = Guard { consecutive_errors: 5 * THREADS as u32, min_units: THREADS as u32, ..GUARD };
    let early = Guard { consecutive_errors: 7, min_units: 2, ..GUARD };
    for (guard, failures) in [(&exact, 5), (&early, 10)] {
        for round in 0..ROUNDS {
            let latch = latch_that_saw(10);
            let opened = at_once(|unit| fail(&latch, guard, std::iter::repeat_n(UnitMark(unit), failures)));
            assert_eq!(opened.iter().sum::<usize>(), 1, "round {round}: {opened:?}");
            assert_eq!(latch.read().state(), State::Open);
            let run = latch.run();
            assert!(run.failures >= guard.consecutive_errors && run.units >= guard.min_units, "{run:?}");
        }
    }
}

#[test]
fn failures_at_once_with_successes_are_counted_or_ended_never_lost_between() {
    for round in 0..ROUNDS {
        let latch = latch_that_saw(10);
        // One thread less than the run needs fails; the successes of the others cannot make it longer.
        let guard = Guard { consecutive_errors: 5 * (THREADS as u32 - 1) + 1, min_units: 1, ..GUARD };
        let opened = at_once(|unit| match unit {
            1 => {
                (0..20).for_each(|_| latch.succeeded(0));
                0
            }
            unit => fail(&latch, &guard, [UnitMark(unit); 5]),
        });
        assert_eq!(opened.iter().sum::<usize>(), 0, "round {round}");
        let run = latch.run();
        assert!(run.units <= 3 && run.failures <= 15 && (run.units == 0) == (run.failures == 0), "{run:?}");
        latch.succeeded(0);
        assert_eq!(latch.run(), Run::default());
        assert_eq!(fail(&latch, &GUARD, units(5)), 1, "what earlier runs left behind is void");
    }
}

#[test]
fn nothing_of_an_earlier_state_gets_into_the_run_of_a_later_one() {
    let guard = Guard { consecutive_errors: 1000, min_units: 1, ..GUARD };
    for round in 0..ROUNDS {
        let latch = latch_that_saw(10);
        let era = latch.read().era();
        at_once(|unit| match unit {
            1 => {
                latch.open();
                latch.half_open(latch.read());
                latch.close(latch.read());
            }
            unit => (0..20).for_each(|_| assert!(!latch.failed(UnitMark(unit), era, &guard))),
        });
        assert_eq!((latch.read().state(), latch.run()), (State::Closed, Run::default()), "round {round}");
    }
}

#[test]
fn units_seen_at_once_are_all_seen_and_a_turn_beside_them_loses_none() {
    for _ in 0..ROUNDS {
        let latch = Latch::default();
        at_once(|number| match number {
            1 => latch.turn(),
            number => units(20 * number).for_each(|unit| latch.saw(unit)),
        });
        assert_eq!(latch.units_seen(), latch_that_saw(20 * THREADS).units_seen());
    }
}
