//! Unit and salt to bucket: stable, documented, the same on every machine and version.
//!
//! A weight is a share in parts per million and a bucket is a place on the same scale, so a ramp is monotone by
//! construction: the denominator never changes and raising a weight only adds units. Knows nothing of requests; called
//! by `assign` and `cohort` for every decision and by the command line's `bucket`.

pub use super::scheme::{Scheme, SchemeError};
use std::fmt;
use std::sync::Arc;

/// The whole, in parts per million.
const WHOLE_PPM: u32 = 1_000_000;

/// A share of units in parts per million, 0 to 1,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight {
    ppm: u32,
}

impl Weight {
    /// Nobody.
    pub const ZERO: Weight = Weight { ppm: 0 };
    /// Everybody.
    pub const FULL: Weight = Weight { ppm: WHOLE_PPM };

    /// The weight of that many parts per million; none above 1,000,000.
    pub const fn from_ppm(ppm: u32) -> Option<Weight> {
        if ppm <= WHOLE_PPM { Some(Weight { ppm }) } else { None }
    }

    /// The weight of that many whole percents; none above 100.
    pub const fn from_percent(percent: u32) -> Option<Weight> {
        if percent <= 100 { Some(Weight { ppm: percent * 10_000 }) } else { None }
    }

    /// Parts per million.
    pub const fn ppm(self) -> u32 {
        self.ppm
    }
}

/// In percent, exact and without trailing zeros: `0%`, `12.5%`, `0.0001%`.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.ppm / 10_000, self.ppm % 10_000);
        if fraction == 0 {
            return f.pad(&format!("{whole}%"));
        }
        let fraction = format!("{fraction:04}");
        f.pad(&format!("{whole}.{}%", fraction.trim_end_matches('0')))
    }
}

/// The position of a unit: 0 to 999,999 parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    ppm: u32,
}

impl Bucket {
    /// The bucket at that many parts per million; none above 999,999.
    pub const fn from_ppm(ppm: u32) -> Option<Bucket> {
        if ppm < WHOLE_PPM { Some(Bucket { ppm }) } else { None }
    }

    /// Parts per million, as printed; a foreign scheme's own bucket is scaled to it.
    pub const fn ppm(self) -> u32 {
        self.ppm
    }
}

/// Maps units to buckets by one scheme and its parameters; `Scheme` says which parameter means what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucketer {
    /// The scheme.
    pub scheme: Scheme,
    /// `salt` of the config.
    pub salt: Arc<str>,
    /// `hash_key` of the config: the flag's name in the foreign scheme.
    pub key: Arc<str>,
    /// `hash_seed` of the config, where a scheme has one.
    pub seed: Option<Arc<str>>,
}

impl Bucketer {
    /// The native bucketing under that salt.
    pub fn native(salt: impl Into<Arc<str>>) -> Bucketer {
        Bucketer { scheme: Scheme::Murmur3, salt: salt.into(), key: Arc::from(""), seed: None }
    }

    /// The bucketing of a cohort's own share, independent of the arm's: salt `<salt>.cohort.<name>`. It is the native one
    /// whatever the arm's scheme, because some foreign schemes ignore the salt and would ask the arm's question again; a
    /// keyed arm has its shares keyed too, so that outsiders cannot choose their way in there either.
    pub fn cohort_share(&self, cohort: &str) -> Bucketer {
        self.asking(format!("{}.cohort.{cohort}", self.salt))
    }

    /// The bucketing of the breaker's trickle, independent of the arm's: salt `<salt>.probe`; native or keyed as a cohort's
    /// share is.
    pub fn probe_share(&self) -> Bucketer {
        self.asking(format!("{}.probe", self.salt))
    }

    /// The bucketing of which answers are compared, independent of the arm's: salt `<salt>.diff`; native or keyed as a cohort's
    /// share is.
    pub fn diff_share(&self) -> Bucketer {
        self.asking(format!("{}.diff", self.salt))
    }

    /// The bucketing of which of those requests stable answers twice: salt `<salt>.noise`; native or keyed as a cohort's share is.
    pub fn noise_share(&self) -> Bucketer {
        self.asking(format!("{}.noise", self.salt))
    }

    fn asking(&self, salt: String) -> Bucketer {
        let mut question = Bucketer::native(salt);
        if let Scheme::SipHash(secret) = self.scheme {
            question.scheme = Scheme::SipHash(secret);
        }
        question
    }

    /// The bucket of a unit: its position as a share of the scheme's steps, rounded down to parts per million.
    #[inline]
    pub fn bucket(&self, unit: &str) -> Bucket {
        let position = self.position(unit);
        let ppm = match self.scheme.steps() {
            // No division on the native path; and no overflow, because a position of 2^32 steps fits 32 bits.
            STEPS_32_BITS => (position * u64::from(WHOLE_PPM)) >> 32,
            steps => (u128::from(position) * u128::from(WHOLE_PPM) / u128::from(steps)) as u64,
        };
        // LaunchDarkly's last position is 1.0 itself; it belongs to the last bucket.
        Bucket { ppm: ppm.min(u64::from(WHOLE_PPM - 1)) as u32 }
    }

    /// Whether a unit is among the first `weight`. Exact for every scheme, because for a whole number of parts per
    /// million, floor(position x 1,000,000 / steps) < ppm is position / steps < ppm / 1,000,000. At 100 % everyone is.
    #[inline]
    pub fn admits(&self, unit: &str, weight: Weight) -> bool {
        self.bucket(unit).ppm < weight.ppm
    }

    /// The weights that the scheme's own system can express too are multiples of this many ppm: 1 where the scheme is
    /// finer than a millionth. Other weights would put units on an arm that the system does not.
    pub fn step_ppm(&self) -> u32 {
        u64::from(WHOLE_PPM).checked_div(self.scheme.steps()).map_or(1, |ppm| ppm.max(1) as u32)
    }

    /// The unit's position in the scheme's own steps; `Scheme::position`.
    #[inline]
    pub fn position(&self, unit: &str) -> u64 {
        self.scheme.position(&self.salt, &self.key, self.seed.as_deref(), unit)
    }
}

/// The steps of the schemes that use all 32 bits of their hash.
const STEPS_32_BITS: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_prints_as_the_percent_one_would_write() {
        for (ppm, text) in [
            (0, "0%"),
            (1, "0.0001%"),
            (5_000, "0.5%"),
            (10_000, "1%"),
            (125_000, "12.5%"),
            (333_333, "33.3333%"),
            (100_100, "10.01%"),
            (1_000_000, "100%"),
        ] {
            assert_eq!(Weight::from_ppm(ppm).expect("at most a million").to_string(), text);
        }
        assert_eq!(format!("{:>6}|{:<4}|", Weight::FULL, Weight::ZERO), "  100%|0%  |");
    }

    #[test]
    fn no_weight_exceeds_the_whole_and_no_bucket_reaches_it() {
        assert_eq!(Weight::from_ppm(1_000_001), None);
        assert_eq!(Weight::from_percent(101), None);
        assert_eq!(Weight::from_percent(100), Some(Weight::FULL));
        assert_eq!(Bucket::from_ppm(1_000_000), None);
        assert_eq!(Bucket::from_ppm(999_999).map(Bucket::ppm), Some(999_999));
    }

    #[test]
    fn steps_are_whole_percents_only_where_the_vendor_has_no_finer_ones() {
        let step = |name| {
            let scheme = Scheme::from_name(name, Some([0; 16])).expect("a listed name");
            Bucketer { scheme, ..Bucketer::native("s") }.step_ppm()
        };
        assert_eq!(
            Scheme::NAMES.map(step),
            [1, 1, 1, 10_000, 1_000, 100, 1, 100, 100, 100, 10_000],
            "{:?}",
            Scheme::NAMES
        );
    }

    #[test]
    fn a_cohort_share_has_a_salt_of_its_own_and_keeps_a_secret_key() {
        let arm = Bucketer { scheme: Scheme::Flagd, ..Bucketer::native("chat-v2") };
        assert_eq!(arm.cohort_share("beta"), Bucketer::native("chat-v2.cohort.beta"));
        let keyed = Bucketer { scheme: Scheme::SipHash([9; 16]), ..arm };
        assert_eq!(keyed.cohort_share("beta").scheme, Scheme::SipHash([9; 16]));
    }
}
