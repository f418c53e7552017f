//! What is promised about shares: exact at every boundary, monotone, right in size, independent by salt.

use super::{every_scheme, ppm};
use proptest::prelude::*;
use weir::rollout::bucket::{Bucketer, Scheme, Weight};

const UNITS: u32 = 100_000;

/// Ids as a random generator makes them, the same at every run: 32 hex digits.
fn ids(seed: u64) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..UNITS).map(move |_| format!("{:032x}", random.u128(..)))
}

/// How many standard deviations `hits` of `n` lie from a share of `p`.
fn deviations(hits: usize, n: u32, p: f64) -> f64 {
    let n = f64::from(n);
    (hits as f64 - n * p) / (n * p * (1.0 - p)).sqrt()
}

#[test]
fn the_share_of_a_hundred_thousand_units_is_within_three_standard_deviations() {
    for bucketer in every_scheme("checkout-v2") {
        let units: Vec<u32> = ids(1).map(|id| bucketer.bucket(&id).ppm()).collect();
        for percent in [1, 5, 10, 25, 50, 75, 90, 99] {
            let hits = units.iter().filter(|&&bucket| bucket < percent * 10_000).count();
            let off = deviations(hits, UNITS, f64::from(percent) / 100.0);
            assert!(off.abs() <= 3.0, "{:?} at {percent}%: {hits} units, {off:.2} deviations", bucketer.scheme);
        }
    }
}

#[test]
fn numbered_units_are_shared_out_as_well_as_random_ones() {
    let units: Vec<String> = (0..UNITS).map(|number| format!("user-{number}")).collect();
    for bucketer in every_scheme("checkout-v2") {
        for percent in [1, 10, 50, 90] {
            let hits = units.iter().filter(|unit| bucketer.admits(unit, ppm(percent * 10_000))).count();
            let off = deviations(hits, UNITS, f64::from(percent) / 100.0);
            assert!(off.abs() <= 3.0, "{:?} at {percent}%: {hits} units, {off:.2} deviations", bucketer.scheme);
        }
    }
}

#[test]
fn over_many_salts_shares_scatter_as_chance_does_and_no_more() {
    let units: Vec<String> = (0..UNITS / 10).map(|number| format!("user-{number}")).collect();
    let weight = ppm(100_000);
    let offs: Vec<f64> = (0..200)
        .map(|salt| {
            let native = Bucketer::native(format!("salt-{salt}"));
            let hits = units.iter().filter(|unit| native.admits(unit, weight)).count();
            deviations(hits, UNITS / 10, 0.1)
        })
        .collect();
    let beyond_three = offs.iter().filter(|off| off.abs() > 3.0).count();
    let variance = offs.iter().map(|off| off * off).sum::<f64>() / offs.len() as f64;
    // Of 200 draws 0.5 are expected beyond three deviations; more than 4 come once in 6,000 times. The variance is 1,
    // itself uncertain by 0.1.
    assert!(beyond_three <= 4, "{beyond_three} of 200 salts are beyond three deviations");
    assert!((0.7..1.3).contains(&variance), "variance {variance:.2}");
}

#[test]
fn the_arm_and_a_cohorts_share_are_independent() {
    let half = ppm(500_000);
    for arm in every_scheme("chat-v2") {
        let share = arm.cohort_share("beta");
        let (mut on_canary, mut both) = (0_u32, 0);
        for id in ids(2) {
            if arm.admits(&id, ppm(100_000)) {
                on_canary += 1;
                both += usize::from(share.admits(&id, half));
            }
        }
        let off = deviations(both, on_canary, 0.5);
        assert!(off.abs() <= 3.0, "{:?}: {both} of {on_canary} on both sides, {off:.2} deviations", arm.scheme);
    }
}

#[test]
fn salts_ask_independent_questions_and_the_same_salt_asks_the_same_one() {
    let (one, other) = (Bucketer::native("chat"), Bucketer::native("search"));
    let tenth = ppm(100_000);
    let on_one: Vec<String> = ids(3).filter(|id| one.admits(id, tenth)).collect();
    let both = on_one.iter().filter(|id| other.admits(id, tenth)).count();
    let off = deviations(both, u32::try_from(on_one.len()).expect("few"), 0.1);
    assert!(off.abs() <= 3.0, "{both} of {}: {off:.2} deviations", on_one.len());
    assert!(on_one.iter().all(|id| one.admits(id, ppm(500_000))));
}

#[test]
fn launchdarkly_compares_whole_numbers_of_sixty_bits() {
    let launchdarkly = every_scheme("chat").find(|b| b.scheme == Scheme::LaunchDarkly).expect("it is listed");
    for id in ids(4).take(10_000) {
        let (position, bucket) = (u128::from(launchdarkly.position(&id)), launchdarkly.bucket(&id).ppm());
        for weight in [bucket, bucket + 1, 0, 1, 500_000] {
            let exact = position * 1_000_000 < u128::from(weight) * ((1 << 60) - 1);
            assert_eq!(launchdarkly.admits(&id, ppm(weight)), exact, "{id} at {weight}");
        }
    }
}

fn a_weight() -> impl Strategy<Value = u32> {
    prop_oneof![
        Just(0),
        Just(1),
        Just(999_999),
        Just(1_000_000),
        0..=1_000_000_u32,
        (0..=100_u32).prop_map(|p| p * 10_000)
    ]
}

proptest! {
    #[test]
    fn raising_the_weight_never_moves_a_unit_off_the_canary(
        unit in ".{0,40}", salt in "[a-z0-9.-]{1,20}", one in a_weight(), other in a_weight(),
    ) {
        let (low, high) = (ppm(one.min(other)), ppm(one.max(other)));
        for bucketer in every_scheme(&salt) {
            prop_assert!(!bucketer.admits(&unit, low) || bucketer.admits(&unit, high), "{:?}", bucketer.scheme);
        }
    }

    #[test]
    fn a_bucket_is_where_admission_begins(unit in ".{0,40}", salt in "[a-z0-9.-]{1,20}") {
        for bucketer in every_scheme(&salt) {
            let bucket = bucketer.bucket(&unit).ppm();
            prop_assert!(bucket < 1_000_000);
            prop_assert!(!bucketer.admits(&unit, ppm(bucket)));
            prop_assert!(bucketer.admits(&unit, ppm(bucket + 1)));
            prop_assert!(bucketer.admits(&unit, Weight::FULL) && !bucketer.admits(&unit, Weight::ZERO));
            prop_assert_eq!(bucket % bucketer.step_ppm(), 0);
        }
    }

    #[test]
    fn whole_steps_are_compared_as_the_vendor_compares_them(unit in ".{0,40}", steps in 0..=10_000_u64) {
        for bucketer in every_scheme("s") {
            let of = bucketer.scheme.steps();
            if of > 10_000 {
                continue;
            }
            let steps = steps % (of + 1);
            let weight = ppm(u32::try_from(steps).expect("few") * bucketer.step_ppm());
            prop_assert_eq!(bucketer.admits(&unit, weight), bucketer.position(&unit) < steps);
        }
    }
}
