//! Whose requests are copied to the canary before they go there themselves: of the units on stable those that come next.
//!
//! A share of the units on stable is the range of buckets from the weight up, so a unit is mirrored with its whole session,
//! a larger share only adds units, and those that a higher weight would move first were mirrored first. Pure; the compiled
//! snapshot holds the end of the range, the data plane asks it for each request.

use super::Arm;
use super::assign::{Decision, Reason};
use super::bucket::{Bucketer, Weight};

/// The end of the range of buckets that is mirrored: the weight, and that share of what it leaves on stable. None if nobody
/// is in it.
pub fn reach(weight: Weight, share: Weight) -> Option<Weight> {
    let left = u64::from(Weight::FULL.ppm() - weight.ppm());
    let part = left * u64::from(share.ppm()) / u64::from(Weight::FULL.ppm());
    Weight::from_ppm(weight.ppm() + part as u32).filter(|reach| *reach > weight)
}

/// Whether a request with that decision is mirrored: its bucket has left it on stable, and lies before `reach`. At 100 % so
/// is one without a unit. One that is on stable for any other reason says nothing of who comes next.
#[inline]
pub fn is_next<U: AsRef<str>>(
    bucketer: &Bucketer,
    reach: Weight,
    decision: Decision,
    unit: impl FnOnce() -> Option<U>,
) -> bool {
    match decision {
        Decision { arm: Arm::Stable, reason: Reason::Bucket } => {
            reach == Weight::FULL || unit().is_some_and(|unit| bucketer.admits(unit.as_ref(), reach))
        }
        Decision { arm: Arm::Stable, reason: Reason::NoUnit } => reach == Weight::FULL,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(percent: u32) -> Weight {
        Weight::from_percent(percent).unwrap()
    }

    #[test]
    fn a_share_is_of_those_on_stable() {
        assert_eq!(reach(Weight::ZERO, percent(10)), Some(percent(10)));
        assert_eq!(reach(percent(50), percent(10)), Some(percent(55)));
        assert_eq!(reach(percent(25), Weight::FULL), Some(Weight::FULL));
        assert_eq!(reach(percent(25), Weight::ZERO), None);
        assert_eq!(reach(Weight::FULL, Weight::FULL), None, "nobody is left on stable");
        assert_eq!(reach(Weight::ZERO, Weight::from_ppm(1).unwrap()), Weight::from_ppm(1));
    }

    #[test]
    fn those_who_come_next_are_mirrored_first_and_no_others() {
        let bucketer = Bucketer::native("chat");
        let units: Vec<String> = (0..4000).map(|number| format!("user-{number}")).collect();
        for (weight, share) in [(0, 10), (10, 50), (25, 100), (60, 1)] {
            let (weight, reach) = (percent(weight), reach(percent(weight), percent(share)).unwrap());
            for unit in &units {
                let arm = if bucketer.admits(unit, weight) { Arm::Canary } else { Arm::Stable };
                let decision = Decision { arm, reason: Reason::Bucket };
                let bucket = bucketer.bucket(unit).ppm();
                let expected = (weight.ppm()..reach.ppm()).contains(&bucket);
                assert_eq!(is_next(&bucketer, reach, decision, || Some(unit)), expected, "{unit} at {weight}");
            }
        }
    }

    #[test]
    fn only_the_bucket_or_the_want_of_a_unit_makes_a_request_a_copy() {
        let bucketer = Bucketer::native("chat");
        let mirrored = |arm, reason, reach| is_next(&bucketer, reach, Decision { arm, reason }, || Some("user"));
        for reason in Reason::FIXED.into_iter().chain([Reason::Cohort(0)]) {
            let expected = matches!(reason, Reason::Bucket | Reason::NoUnit);
            assert_eq!(mirrored(Arm::Stable, reason, Weight::FULL), expected, "{reason:?}");
            assert!(!mirrored(Arm::Canary, reason, Weight::FULL), "{reason:?}");
        }
        assert!(!mirrored(Arm::Stable, Reason::NoUnit, percent(99)), "who has no bucket is nowhere in the range");
    }
}
