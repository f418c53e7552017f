//! What a breaker looks at: every 25 ms, what both arms did since the last look, from the cells and the latch.
//!
//! A rollout that rests costs a glance at its latch. It judges nothing; the supervisor calls it and hands on what it says.

use super::collect::Moved;
use crate::clock::Time;
use crate::latch::Latch;
use crate::rollout::breaker::{Happened, Measured, Rules, State, UNIT_ROWS, UNIT_SLOTS, UnitCounts};
use crate::tally::{PerWorker, UnitCells, Units};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What was seen of every rollout.
#[derive(Debug, Default)]
pub struct Measurer {
    by_rollout: BTreeMap<Arc<str>, Seen>,
    turned: Time,
}

/// One rollout at the moment of a look.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub rollout: &'a Arc<str>,
    /// What its breaker watches.
    pub rules: &'a Rules,
    /// Where its breaker stands.
    pub state: State,
    /// What the request path shares with it.
    pub latch: &'a Latch,
    /// Its canary requests by unit.
    pub units: &'a PerWorker<Units>,
    /// Whether the canary's upstream has an endpoint to send to.
    pub healthy: bool,
}

/// One rollout as seen at the last look.
#[derive(Debug, Default)]
struct Seen {
    /// Failures and slow answers by slot, row after row, summed over the workers.
    failures: Vec<u64>,
    slow: Vec<u64>,
    /// Probes that were started.
    probes_started: u64,
    /// Of all canary requests: started, answered, ended without an answer.
    started: u64,
    answered: u64,
    unanswered: u64,
    /// Whether the next look must be taken though nothing moves, and whether something failed: a reading may fall between two
    /// cells of one request, so the slots are read once more although the rest has come to rest.
    restless: bool,
    failing: bool,
    looked: Time,
}

impl Measurer {
    /// Ends the older of the spans over which the latches remember units, every 10 s.
    pub fn turn<'a>(&mut self, latches: impl Iterator<Item = &'a Latch>, now: Time) {
        if now.since(self.turned) >= TURN_EVERY {
            self.turned = now;
            latches.for_each(Latch::turn);
        }
    }

    /// What happened to a rollout since the last look; none if there is nothing to judge.
    pub fn look(&mut self, subject: &Subject<'_>, moved: Option<Moved>, now: Time) -> Option<Measured> {
        if !self.by_rollout.contains_key(subject.rollout) {
            self.by_rollout.insert(Arc::clone(subject.rollout), Seen { restless: true, ..Seen::default() });
        }
        let seen = self.by_rollout.get_mut(subject.rollout)?;
        let (run, latched) = (subject.latch.run(), latched(subject));
        let waits = subject.rules.no_answer.is_some() && seen.waiting() > 0;
        let rests = subject.state == State::Closed && run.failures == 0 && !latched && !waits && subject.healthy;
        if rests && moved.is_none() && !seen.restless && now.since(seen.looked) < LOOK_AT_LEAST_EVERY {
            return None;
        }
        // A breaker that has just closed begins to count with the next look, so that must not wait for something to move.
        let was_restless = std::mem::replace(&mut seen.restless, moved.is_some() || subject.state != State::Closed);
        seen.looked = now;
        let moved = moved.unwrap_or_default();
        seen.probes_started += moved.probes_started;
        seen.started += moved.started;
        seen.answered += moved.answered;
        seen.unanswered += moved.unanswered;
        let [stable, canary] = moved.arms;
        // Probes are counted in the same slots: no other canary request is, while there are any.
        let fails = canary.failures() > 0 || moved.probes.failures() > 0;
        let failures = match std::mem::replace(&mut seen.failing, fails) || fails {
            true => grown(&mut seen.failures, subject.units, |units| &units.failures),
            false => None,
        };
        let slow = match subject.rules.latency.is_some() && (seen.restless || was_restless) {
            true => grown(&mut seen.slow, subject.units, |units| &units.slow),
            false => None,
        };
        let waits = subject.rules.no_answer.is_some() && seen.waiting() > 0;
        Some(Measured {
            stable: Happened { counts: stable, ..Happened::default() },
            canary: Happened { counts: canary, failures, slow },
            probes: Happened { counts: moved.probes, ..Happened::default() },
            probes_started: seen.probes_started,
            started: seen.started,
            answered: seen.answered,
            unanswered: seen.unanswered,
            waiting_units: if waits { waiting_units(subject.units) } else { 0 },
            units_seen: subject.latch.units_seen(),
            run: run.failures,
            run_units: run.units,
            latched,
            healthy: subject.healthy,
        })
    }

    /// Forgets rollouts that are watched no more.
    pub fn retain(&mut self, watched: impl Fn(&str) -> bool) {
        self.by_rollout.retain(|rollout, _| watched(rollout));
    }
}

/// Whether the request path has opened the circuit and the breaker does not know yet.
fn latched(subject: &Subject<'_>) -> bool {
    subject.state != State::Open && subject.latch.read().state() == State::Open
}

impl Seen {
    /// Canary requests that wait for an answer.
    fn waiting(&self) -> u64 {
        self.started.saturating_sub(self.answered).saturating_sub(self.unanswered)
    }
}

/// By how much each slot has grown, all workers together; none if none has.
fn grown(last: &mut Vec<u64>, units: &PerWorker<Units>, of: impl Fn(&Units) -> &UnitCells) -> Option<Box<UnitCounts>> {
    let now = summed(units, of);
    last.resize(now.len(), 0);
    if *last == now {
        return None;
    }
    let mut counts: Box<UnitCounts> = Box::new([[0; UNIT_SLOTS]; UNIT_ROWS]);
    let slots = counts.iter_mut().flatten().zip(now.iter().zip(last.iter()));
    slots.for_each(|(slot, (now, last))| *slot = u32::try_from(now.saturating_sub(*last)).unwrap_or(u32::MAX));
    *last = now;
    Some(counts)
}

/// Distinct units among the requests that wait: slots in use in the fuller row.
fn waiting_units(units: &PerWorker<Units>) -> u32 {
    let slots = summed(units, |units| &units.waiting);
    let rows = slots.chunks(UNIT_SLOTS).map(|row| row.iter().filter(|count| **count > 0).count());
    rows.max().and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
}

fn summed(units: &PerWorker<Units>, of: impl Fn(&Units) -> &UnitCells) -> Vec<u64> {
    let mut sums = vec![0; UNIT_ROWS * UNIT_SLOTS];
    for worker in units.iter() {
        sums.iter_mut().zip(of(worker).read()).for_each(|(sum, count)| *sum += count);
    }
    sums
}

/// How long units that are seen no more are remembered, half of it at least.
const TURN_EVERY: Duration = Duration::from_secs(10);
/// A rollout that rests is looked at all the same so often, because what was true of the last seconds ends by itself.
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::collect::Collector;
    use crate::latch::Guard;
    use crate::rollout::Arm;
    use crate::rollout::breaker::{COOLDOWN_MAX, LatencyRule, NoAnswerRule};
    use crate::rollout::bucket::Weight;
    use crate::rollout::outcome::{CodeClass, ErrorKind};
    use crate::tally::{Registry, Series, SeriesKey};

    const LOOK: Duration = Duration::from_millis(25);

    /// One rollout with its cells, its latch and whoever looks at it.
    struct Site {
        registry: Registry,
        collector: Collector,
        measurer: Measurer,
        latch: Latch,
        rules: Rules,
        state: State,
        healthy: bool,
        now: Time,
    }

    impl Site {
        fn new() -> Site {
            let second = Duration::from_secs(1);
            let rules = Rules {
                consecutive_errors: 5,
                error_rate: None,
                latency: Some(LatencyRule { quantile_permille: 990, above: second, window: second, min_requests: 1 }),
                no_answer: Some(NoAnswerRule { after: second, min_requests: 1 }),
                min_units: 1,
                max_unit_share: Weight::FULL,
                cooldown: second,
                cooldown_max: COOLDOWN_MAX,
                probe: Weight::FULL,
                max_trips: 0,
                spares_both: true,
            };
            let mut site = Site {
                registry: Registry::new(2),
                collector: Collector::default(),
                measurer: Measurer::default(),
                latch: Latch::default(),
                rules,
                state: State::Closed,
                healthy: true,
                now: Time::default(),
            };
            assert!(site.look().is_some(), "the first look is always taken");
            site
        }

        fn look(&mut self) -> Option<Measured> {
            self.now = self.now + LOOK;
            self.collector.collect(&self.registry, self.now, false);
            let units = self.registry.units(&"chat".into());
            let subject = Subject {
                rollout: &"chat".into(),
                rules: &self.rules,
                state: self.state,
                latch: &self.latch,
                units: &units,
                healthy: self.healthy,
            };
            let moved = self.collector.take_moved("chat");
            self.measurer.look(&subject, moved, self.now)
        }

        fn series(&mut self, arm: Arm, route: &str) -> Arc<PerWorker<Series>> {
            self.registry.series(SeriesKey::Arm { rollout: "chat".into(), arm, route: route.into() })
        }
    }

    fn end(series: &Series, failed: bool) {
        series.answered.add(1);
        series.codes[if failed { CodeClass::Server } else { CodeClass::Success } as usize].add(1);
        series.errors[ErrorKind::Status as usize].add(failed.into());
        series.first_byte.record(3_000);
        series.ended.add(1);
    }

    #[test]
    fn both_arms_are_summed_over_routes_and_workers_and_told_once() {
        let mut site = Site::new();
        let (api, web) = (site.series(Arm::Canary, "api"), site.series(Arm::Canary, "web"));
        let stable = site.series(Arm::Stable, "api");
        let units = site.registry.units(&"chat".into());
        for (series, worker, failed) in [(&api, 0, true), (&web, 1, true), (&web, 1, false), (&stable, 0, false)] {
            series.of(worker).unwrap().started.add(1);
            end(series.of(worker).unwrap(), failed);
        }
        api.of(1).unwrap().started.add(1);
        units.of(0).unwrap().failures.add([3, 200]);
        units.of(1).unwrap().failures.add([3, 200]);
        units.of(1).unwrap().slow.add([9, 9]);
        let measured = site.look().unwrap();
        let of = |happened: &Happened| (happened.counts.ended, happened.counts.failures());
        assert_eq!((of(&measured.stable), of(&measured.canary)), ((1, 0), (3, 2)));
        assert_eq!((measured.started, measured.answered, measured.unanswered), (4, 3, 0));
        let failures = measured.canary.failures.unwrap();
        assert_eq!((failures[0][3], failures[1][200], failures.iter().flatten().sum::<u32>()), (2, 2, 4));
        assert_eq!(measured.canary.slow.unwrap()[0][9], 1);
        let again = site.look().unwrap();
        assert_eq!((again.canary.counts.ended, again.started, again.canary.failures), (0, 4, None));
    }

    #[test]
    fn a_unit_that_is_counted_a_moment_after_its_request_is_not_lost() {
        let mut site = Site::new();
        let canary = site.series(Arm::Canary, "api");
        canary.of(0).unwrap().started.add(1);
        end(canary.of(0).unwrap(), true);
        assert!(site.look().unwrap().canary.failures.is_none());
        site.registry.units(&"chat".into()).of(0).unwrap().failures.add([1, 1]);
        assert_eq!(site.look().unwrap().canary.failures.unwrap()[0][1], 1);
    }

    #[test]
    fn a_rollout_that_rests_is_looked_at_once_a_second() {
        let mut site = Site::new();
        let canary = site.series(Arm::Canary, "api");
        canary.of(0).unwrap().started.add(1);
        end(canary.of(0).unwrap(), false);
        assert!(site.look().is_some());
        assert!(site.look().is_some(), "once more, for what may have been counted late");
        let looks: Vec<bool> = (0..80).map(|_| site.look().is_some()).collect();
        assert_eq!(looks.iter().filter(|looked| **looked).count(), 2);
    }

    #[test]
    fn what_may_turn_without_a_request_is_looked_at_every_time() {
        let mut waiting = Site::new();
        let canary = waiting.series(Arm::Canary, "api");
        canary.of(0).unwrap().started.add(3);
        let units = waiting.registry.units(&"chat".into());
        [[1, 5], [2, 5], [3, 6]].iter().for_each(|slots| units.of(0).unwrap().waiting.add(*slots));
        for _ in 0..50 {
            let measured = waiting.look().unwrap();
            assert_eq!((measured.started, measured.waiting_units), (3, 3));
        }
        let mut open = Site::new();
        open.state = State::Open;
        let mut sick = Site::new();
        sick.healthy = false;
        let mut running = Site::new();
        let guard =
            Guard { consecutive_errors: 2, min_units: 1, slow_us: None, counts_waiting: false, spares_both: true };
        running.latch.failed(running.latch.mark("ann"), 0, &guard);
        for site in [&mut open, &mut sick, &mut running] {
            (0..50).for_each(|_| assert!(site.look().is_some()));
        }
        running.latch.failed(running.latch.mark("bob"), 0, &guard);
        let measured = running.look().unwrap();
        assert!(measured.latched && measured.run == 2 && measured.run_units == 2, "{measured:?}");
        open.latch.open();
        assert!(!open.look().unwrap().latched, "the breaker knows");
        open.state = State::Closed;
        assert!(open.look().unwrap().latched);
    }

    #[test]
    fn probes_are_told_apart_with_their_units_in_the_same_slots() {
        let mut site = Site::new();
        site.state = State::HalfOpen;
        let probes = site.registry.series(SeriesKey::Probe { rollout: "chat".into() });
        probes.of(0).unwrap().started.add(2);
        end(probes.of(0).unwrap(), true);
        site.registry.units(&"chat".into()).of(0).unwrap().failures.add([7, 7]);
        let measured = site.look().unwrap();
        assert_eq!((measured.probes_started, measured.probes.counts.failures(), measured.started), (2, 1, 0));
        assert_eq!((measured.canary.counts.ended, measured.canary.failures.unwrap()[0][7]), (0, 1));
    }

    #[test]
    fn units_that_are_seen_no_more_are_forgotten_within_two_turns() {
        let mut site = Site::new();
        site.latch.saw(site.latch.mark("ann"));
        for (after, seen) in [(10, 1), (9, 1), (1, 0)] {
            site.now = site.now + Duration::from_secs(after);
            site.measurer.turn([&site.latch].into_iter(), site.now);
            assert_eq!(site.latch.units_seen(), seen);
        }
    }
}
