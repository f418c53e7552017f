//! When checks make an endpoint unhealthy and healthy again, and how long to wait between two of them. Pure.

use crate::config::HealthConfig;

/// What the checks of one endpoint have come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    healthy: bool,
    /// Checks in a row that say the opposite.
    against: u32,
}

/// An endpoint of which nothing is known is healthy.
impl Default for Rule {
    fn default() -> Self {
        Rule { healthy: true, against: 0 }
    }
}

impl Rule {
    /// Takes in a check; what the endpoint is from now on, if that changed.
    pub fn take(&mut self, passed: bool, health: &HealthConfig) -> Option<bool> {
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        let enough = if passed { health.healthy_after } else { health.unhealthy_after };
        if self.against < enough {
            return None;
        }
        *self = Rule { healthy: passed, against: 0 };
        Some(passed)
    }
}

/// How much of the interval lies between the starts of two checks: all of it, give or take up to `JITTER`. `random` is from
/// 0 to 1.
pub fn share(random: f64) -> f64 {
    1.0 - JITTER + 2.0 * JITTER * random
}

/// How much of it passes until the first check: hardly any, but not all endpoints are checked at the same moment.
pub fn first_share(random: f64) -> f64 {
    JITTER * random
}

/// Enough to keep the checks of many endpoints, and of many weirs, from falling into step; little enough that the number of
/// failures in a row still says how long it takes.
const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HealthCheck;
    use proptest::prelude::*;
    use std::time::Duration;

    fn health(unhealthy_after: u32, healthy_after: u32) -> HealthConfig {
        let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(2));
        HealthConfig { check: HealthCheck::Tcp, interval, timeout, unhealthy_after, healthy_after }
    }

    /// What a series of checks turns the endpoint to: `+` passed, `-` failed.
    fn turns(checks: &str, unhealthy_after: u32, healthy_after: u32) -> String {
        let (mut rule, health) = (Rule::default(), health(unhealthy_after, healthy_after));
        let turned = checks.chars().map(|check| rule.take(check == '+', &health));
        turned.map(|turned| turned.map_or('.', |healthy| if healthy { 'U' } else { 'D' })).collect()
    }

    #[test]
    fn it_takes_so_many_in_a_row_either_way() {
        for (checks, down, up, expected) in [
            ("+++", 3, 2, "..."),
            ("---", 3, 2, "..D"),
            ("--+---", 3, 2, ".....D"),
            ("-----", 3, 2, "..D.."),
            ("---++", 3, 2, "..D.U"),
            ("---+-++", 3, 2, "..D...U"),
            ("---++---", 3, 2, "..D.U..D"),
            ("-+-+", 1, 1, "DUDU"),
            ("-+", 1, 3, "D."),
        ] {
            assert_eq!(turns(checks, down, up), expected, "{checks} with {down} and {up}");
        }
    }

    #[test]
    fn thresholds_may_change_between_two_checks() {
        let mut rule = Rule::default();
        assert_eq!(rule.take(false, &health(5, 1)), None);
        assert_eq!(rule.take(false, &health(2, 1)), Some(false));
        assert_eq!(rule.take(true, &health(2, 1)), Some(true));
    }

    proptest! {
        #[test]
        fn the_last_checks_in_a_row_say_what_it_is(checks: Vec<bool>, down in 1_u32..5, up in 1_u32..5) {
            let (mut rule, health) = (Rule::default(), health(down, up));
            for (index, passed) in checks.iter().enumerate() {
                let before = rule.healthy;
                let turned = rule.take(*passed, &health);
                let run = checks[..=index].iter().rev().take_while(|check| *check == passed).count();
                let enough = if *passed { up } else { down } as usize;
                prop_assert_eq!(turned.is_some(), *passed != before && run >= enough);
                prop_assert_eq!(rule.healthy, turned.unwrap_or(before));
            }
        }

        #[test]
        fn pauses_stay_within_a_tenth_of_the_interval(random in 0.0..1.0) {
            prop_assert!((0.9..=1.1).contains(&share(random)), "{}", share(random));
            prop_assert!((0.0..=0.1).contains(&first_share(random)), "{}", first_share(random));
        }
    }
}
