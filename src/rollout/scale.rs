//! The time scale of a rehearsal with real traffic: a plan of weeks carried out in minutes (`weir serve --time-scale N`).
//!
//! What a plan waits for (minimum and maximum durations, `for`, windows, cooldowns) is divided by the factor, never below
//! what can still be measured; numbers of requests shrink with the window they are counted in. What requests themselves
//! take (timeouts, latency limits, health checks, retries) and how often Prometheus is asked stays as written: the service
//! does not get faster. The control plane scales every plan before the engine sees it; nothing else knows.

use super::breaker::Rules;
use super::plan::Plan;
use super::stages::{Span, Stages};
use std::num::NonZeroU32;
use std::time::Duration;

/// How many times as fast as written plans run, 1 to `TimeScale::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeScale(NonZeroU32);

/// As written.
impl Default for TimeScale {
    fn default() -> Self {
        TimeScale(NonZeroU32::MIN)
    }
}

/// The least that a scale leaves of a window; shorter ones stay as they are.
pub const WINDOW_MIN: Duration = Duration::from_secs(2);
/// The least that it leaves of a trigger's `for` and of a cooldown.
const MOMENT_MIN: Duration = Duration::from_millis(200);
/// The least that it leaves of a stage's minimum.
const MIN_DURATION_MIN: Duration = Duration::from_secs(1);
/// The least that it leaves of a number of requests.
const REQUESTS_MIN: u64 = 10;

impl TimeScale {
    /// The largest factor: a stage of eleven days in a second.
    pub const MAX: u32 = 1_000_000;

    /// The scale of that factor; none if it is 0 or too large.
    pub fn new(factor: u32) -> Option<TimeScale> {
        NonZeroU32::new(factor).filter(|factor| factor.get() <= TimeScale::MAX).map(TimeScale)
    }

    /// The factor; 1 is as written.
    pub const fn factor(self) -> u32 {
        self.0.get()
    }

    /// Whether plans run otherwise than written.
    pub fn is_scaled(self) -> bool {
        self != TimeScale::default()
    }

    /// A duration divided by the factor, not below `least` or, if that is shorter, itself.
    pub fn shrunk(self, span: Duration, least: Duration) -> Duration {
        (span / self.factor()).max(least.min(span))
    }

    fn window(self, window: Duration) -> Duration {
        self.shrunk(window, WINDOW_MIN)
    }

    /// A number of requests in proportion to the window that it is counted in.
    fn requests(self, requests: u64, window: Duration) -> u64 {
        fewer(requests, window, self.window(window))
    }
}

impl Plan {
    /// The same plan at that scale.
    #[must_use]
    pub fn scaled(self, scale: TimeScale) -> Plan {
        if !scale.is_scaled() {
            return self;
        }
        Plan { stages: self.stages.scaled(scale), breaker: self.breaker.map(|rules| rules.scaled(scale)), ..self }
    }
}

impl Stages {
    /// The same stages and triggers at that scale. A maximum leaves time for the minimum, the longest window and the longest
    /// `for`: a stage that can pass as written can still pass.
    #[must_use]
    pub fn scaled(&self, scale: TimeScale) -> Stages {
        let mut stages = self.clone();
        if !scale.is_scaled() {
            return stages;
        }
        stages.scale = scale;
        for trigger in &mut stages.triggers {
            trigger.min_requests = scale.requests(trigger.min_requests, trigger.window);
            trigger.window = scale.window(trigger.window);
            trigger.held_for = scale.shrunk(trigger.held_for, MOMENT_MIN);
        }
        let held_for_max = stages.triggers.iter().map(|trigger| trigger.held_for).max().unwrap_or_default();
        let windows = stages.triggers.iter().map(|trigger| trigger.window);
        let window_max = windows.max().unwrap_or_default().max(WINDOW_MIN);
        for stage in &mut stages.list {
            let full = stage.min_duration;
            stage.min_duration = scale.shrunk(full, MIN_DURATION_MIN);
            let mut window_max = window_max;
            for gate in &mut stage.gates {
                match gate.span {
                    // A stage without a minimum lasts until there are enough requests: then those take all the time.
                    Span::Stage if full.is_zero() => {
                        let requests = gate.min_requests / u64::from(scale.factor());
                        gate.min_requests = requests.max(gate.min_requests.min(REQUESTS_MIN));
                    }
                    Span::Stage => gate.min_requests = fewer(gate.min_requests, full, stage.min_duration),
                    Span::Last(window) | Span::InStage(window) => {
                        gate.min_requests = scale.requests(gate.min_requests, window);
                        window_max = window_max.max(scale.window(window));
                        gate.span = match gate.span {
                            Span::InStage(_) => Span::InStage(scale.window(window)),
                            _ => Span::Last(scale.window(window)),
                        };
                    }
                }
            }
            let least = stage.min_duration + window_max + held_for_max;
            stage.max_duration = stage.max_duration.map(|max| (max / scale.factor()).max(least));
        }
        stages
    }
}

impl Rules {
    /// The same rules at that scale. How long a request may take or wait (`latency`, `no_answer`) stays as it is.
    #[must_use]
    pub fn scaled(self, scale: TimeScale) -> Rules {
        let mut rules = self;
        if let Some(rule) = &mut rules.error_rate {
            rule.min_requests = scale.requests(rule.min_requests, rule.window);
            rule.window = scale.window(rule.window);
        }
        if let Some(rule) = &mut rules.latency {
            rule.min_requests = scale.requests(rule.min_requests, rule.window);
            rule.window = scale.window(rule.window);
        }
        rules.cooldown = scale.shrunk(rules.cooldown, MOMENT_MIN);
        rules.cooldown_max = scale.shrunk(rules.cooldown_max, MOMENT_MIN);
        rules
    }
}

/// A number of requests in proportion to its shorter time, rounded up: one in ten of a minute's needs all of a second's.
fn fewer(requests: u64, before: Duration, after: Duration) -> u64 {
    let share = after.as_secs_f64() / before.as_secs_f64().max(f64::MIN_POSITIVE);
    let shrunk = (requests as f64 * share.min(1.0)).ceil() as u64;
    shrunk.clamp(requests.min(REQUESTS_MIN), requests)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::breaker::{COOLDOWN_MAX, LatencyRule, NoAnswerRule, RateRule};
    use crate::rollout::bucket::Weight;
    use crate::rollout::criterion::parse;
    use crate::rollout::stages::{Action, Gate, Stage, Trigger};
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn scale(factor: u32) -> TimeScale {
        TimeScale::new(factor).unwrap()
    }

    fn gate(span: Span, min_requests: u64) -> Gate {
        Gate { criterion: parse("error_rate < 1%").unwrap(), span, min_requests }
    }

    fn stage(min_s: u64, max_s: Option<u64>, gates: Vec<Gate>) -> Stage {
        Stage {
            name: "one".into(),
            weight: Weight::ZERO,
            shadow: None,
            min_duration: seconds(min_s),
            max_duration: max_s.map(seconds),
            cohorts: Vec::new(),
            after: None,
            gates,
            approval: false,
            capture_baseline: false,
        }
    }

    fn trigger(held_for_s: u64, window_s: u64, min_requests: u64) -> Trigger {
        Trigger {
            name: "errors".into(),
            criterion: parse("error_rate > 5%").unwrap(),
            held_for: seconds(held_for_s),
            action: Action::Rollback,
            dry_run: false,
            rollout: None,
            window: seconds(window_s),
            min_requests,
            spares_both: false,
            stages: Vec::new(),
        }
    }

    fn plan(list: Vec<Stage>, triggers: Vec<Trigger>) -> Stages {
        Stages { list, triggers, autostart: true, ..Stages::default() }
    }

    #[test]
    fn only_factors_of_the_contract_are_scales() {
        assert_eq!(TimeScale::new(0), None);
        assert_eq!(TimeScale::new(1_000_001), None);
        assert_eq!((scale(1), scale(1_000_000).factor()), (TimeScale::default(), 1_000_000));
        assert!(!scale(1).is_scaled() && scale(2).is_scaled());
    }

    #[test]
    fn a_scale_divides_times_down_to_what_can_be_measured() {
        let gates = vec![gate(Span::Stage, 100_000), gate(Span::Last(seconds(60)), 3)];
        let plan = plan(
            vec![stage(24 * 3600, Some(25 * 3600), gates), stage(0, None, vec![gate(Span::Stage, 60_000)])],
            vec![trigger(300, 60, 40)],
        );
        let fast = plan.scaled(scale(600));
        assert_eq!(fast.list[0].min_duration, seconds(144));
        assert_eq!(fast.triggers[0].held_for, Duration::from_millis(500));
        assert_eq!((fast.triggers[0].window, fast.triggers[0].min_requests), (seconds(2), 10));
        assert_eq!(fast.list[0].gates[0].min_requests, 167);
        assert_eq!((fast.list[0].gates[1].span, fast.list[0].gates[1].min_requests), (Span::Last(WINDOW_MIN), 3));
        assert_eq!(fast.list[0].max_duration, Some(seconds(150)));
        assert_eq!(fast.list[1].min_duration, Duration::ZERO, "nothing grows");
        assert_eq!(fast.list[1].gates[0].min_requests, 100, "without a minimum the requests are the time");
        assert_eq!(plan.scaled(scale(1)), plan);
        let extreme = plan.scaled(scale(1_000_000));
        assert_eq!(extreme.list[0].max_duration, Some(Duration::from_millis(3200)), "there is time to pass");
        assert_eq!(extreme.triggers[0].held_for, MOMENT_MIN);
    }

    #[test]
    fn a_breaker_is_scaled_but_for_what_requests_take() {
        let rules = Rules {
            consecutive_errors: 5,
            error_rate: Some(RateRule { above: Weight::FULL, window: seconds(600), min_requests: 6000 }),
            latency: Some(LatencyRule {
                quantile_permille: 990,
                above: seconds(2),
                window: seconds(10),
                min_requests: 50,
            }),
            no_answer: Some(NoAnswerRule { after: seconds(2), min_requests: 5 }),
            min_units: 3,
            max_unit_share: Weight::FULL,
            cooldown: seconds(30),
            cooldown_max: COOLDOWN_MAX,
            probe: Weight::FULL,
            max_trips: 3,
            spares_both: true,
        };
        let fast = rules.clone().scaled(scale(60));
        let rate = fast.error_rate.clone().unwrap();
        assert_eq!((rate.window, rate.min_requests), (seconds(10), 100));
        let latency = fast.latency.clone().unwrap();
        assert_eq!((latency.window, latency.min_requests, latency.above), (seconds(2), 10, seconds(2)));
        assert_eq!(fast.no_answer, rules.no_answer);
        assert_eq!((fast.cooldown, fast.cooldown_max), (Duration::from_millis(500), seconds(10)));
        assert_eq!(rules.clone().scaled(scale(1_000_000)).cooldown, MOMENT_MIN);
        assert_eq!(rules.clone().scaled(TimeScale::default()), rules);
    }

    proptest! {
        #[test]
        fn a_stage_can_still_pass_at_any_scale(
            factor in 2..=TimeScale::MAX, min_s in 0..10_000_000u64, extra_s in 0..10_000_000u64,
            window_s in 1..1_000_000u64, held_for_s in 0..1_000_000u64, requests in 1..1_000_000u64,
        ) {
            let gates = vec![gate(Span::Last(seconds(window_s)), requests), gate(Span::Stage, requests)];
            let trigger = trigger(held_for_s, window_s, requests);
            let plan = plan(vec![stage(min_s, Some(min_s + extra_s), gates)], vec![trigger]);
            let fast = plan.scaled(scale(factor));
            let (stage, trigger) = (&fast.list[0], &fast.triggers[0]);
            prop_assert!(stage.max_duration.unwrap() >= stage.min_duration + trigger.window + trigger.held_for);
            prop_assert!(trigger.window >= WINDOW_MIN.min(seconds(window_s)) && trigger.window <= seconds(window_s));
            prop_assert!(stage.min_duration <= seconds(min_s));
            for of in [trigger.min_requests, stage.gates[0].min_requests, stage.gates[1].min_requests] {
                prop_assert!(of >= requests.min(REQUESTS_MIN) && of <= requests);
            }
        }
    }
}
