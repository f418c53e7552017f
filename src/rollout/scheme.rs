//! The schemes that map a unit to a position: weir's own and those of the flag systems it agrees with.
//!
//! A position is exact, in the scheme's own steps; shares of a million are made of it in `bucket`. Every scheme is fixed
//! for ever: a change would move every unit of every user. Called by `bucket` alone, by `config` for the names.

use super::hash::{Fnv1a, Murmur3};
use aws_lc_rs::digest;
use md5::{Digest, Md5};
use siphasher::sip::SipHasher24;
use std::fmt;
use std::hash::Hasher;

/// Which scheme maps units to buckets: the config's `hash`.
///
/// What the parameters mean to each scheme, under their config names; a scheme ignores those that it does not list.
///
/// | scheme | `salt` | `hash_key` (default: the rollout's name) | `hash_seed` | steps |
/// |---|---|---|---|---|
/// | `murmur3` | murmur3 of `salt.unit` | | | 2^32 |
/// | `siphash` | SipHash-2-4 of `salt.unit` under the key of `hash_key_file` | | | 2^32 |
/// | `launchdarkly` | the flag's salt | the flag's key | the rollout's seed: replaces key and salt | 2^60 - 1 |
/// | `unleash` | | `groupId`, the toggle's name unless set there | | 100 |
/// | `growthbook-v1` | | the experiment's key | the seed, instead of the key | 1,000 |
/// | `growthbook` | | the feature's key | the seed, instead of the key | 10,000 |
/// | `flagd` | | the flag's key | | 2^32 |
/// | `optimizely` | | the experiment's id | | 10,000 |
/// | `eppo` | the shard's salt | | | 10,000 |
/// | `statsig` | `config salt.rule salt` | | | 10,000 |
/// | `flipt` | | the flag's key | | 100 |
///
/// Text is hashed as UTF-8, except that both GrowthBook schemes hash UTF-16 code units as its JavaScript reference does;
/// a GrowthBook SDK that hashes UTF-8 agrees on ASCII ids only. `flagd` is the scheme of its core 1.x.
///
/// A rollout whose `salt` the scheme ignores is told apart from others by its key alone.
#[derive(Clone, PartialEq, Eq)]
pub enum Scheme {
    /// The native one: murmur3_x86_32, seed 0.
    Murmur3,
    /// SipHash-2-4 under a secret key, so that outsiders cannot choose ids that land on the canary.
    SipHash([u8; 16]),
    /// LaunchDarkly's: the first 60 bits of SHA-1.
    LaunchDarkly,
    /// Unleash's: murmur3 modulo 100.
    Unleash,
    /// GrowthBook's first, for experiments that began with it: FNV-1a modulo 1,000.
    GrowthBookV1,
    /// GrowthBook's second: FNV-1a twice, modulo 10,000.
    GrowthBook,
    /// flagd's, core 1.x: murmur3 scaled.
    Flagd,
    /// Optimizely's: murmur3 under seed 1, scaled to 10,000.
    Optimizely,
    /// Eppo's: the first 32 bits of MD5, modulo 10,000.
    Eppo,
    /// Statsig's: the first 64 bits of SHA-256, modulo 10,000.
    Statsig,
    /// Flipt's: CRC-32 modulo 100.
    Flipt,
}

/// Why there is no scheme of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemeError {
    /// No scheme has that name; `Scheme::NAMES` are the ones there are.
    Unknown,
    /// `siphash` without a key.
    KeyMissing,
}

impl fmt::Display for SchemeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SchemeError::Unknown => "no such hash",
            SchemeError::KeyMissing => "the hash `siphash` needs a secret key of 16 bytes",
        })
    }
}

impl std::error::Error for SchemeError {}

impl Scheme {
    /// The words of the config, the native one first.
    pub const NAMES: [&'static str; 11] = [
        "murmur3",
        "siphash",
        "launchdarkly",
        "unleash",
        "growthbook-v1",
        "growthbook",
        "flagd",
        "optimizely",
        "eppo",
        "statsig",
        "flipt",
    ];

    /// The scheme of that name; `key` is the secret of `siphash`, and no other scheme looks at it.
    pub fn from_name(name: &str, key: Option<[u8; 16]>) -> Result<Scheme, SchemeError> {
        Ok(match name {
            "murmur3" => Scheme::Murmur3,
            "siphash" => Scheme::SipHash(key.ok_or(SchemeError::KeyMissing)?),
            "launchdarkly" => Scheme::LaunchDarkly,
            "unleash" => Scheme::Unleash,
            "growthbook-v1" => Scheme::GrowthBookV1,
            "growthbook" => Scheme::GrowthBook,
            "flagd" => Scheme::Flagd,
            "optimizely" => Scheme::Optimizely,
            "eppo" => Scheme::Eppo,
            "statsig" => Scheme::Statsig,
            "flipt" => Scheme::Flipt,
            _ => return Err(SchemeError::Unknown),
        })
    }

    /// The word of the config.
    pub const fn name(&self) -> &'static str {
        match self {
            Scheme::Murmur3 => "murmur3",
            Scheme::SipHash(_) => "siphash",
            Scheme::LaunchDarkly => "launchdarkly",
            Scheme::Unleash => "unleash",
            Scheme::GrowthBookV1 => "growthbook-v1",
            Scheme::GrowthBook => "growthbook",
            Scheme::Flagd => "flagd",
            Scheme::Optimizely => "optimizely",
            Scheme::Eppo => "eppo",
            Scheme::Statsig => "statsig",
            Scheme::Flipt => "flipt",
        }
    }

    /// How many positions there are.
    pub const fn steps(&self) -> u64 {
        match self {
            Scheme::Murmur3 | Scheme::SipHash(_) | Scheme::Flagd => 1 << 32,
            Scheme::LaunchDarkly => LAUNCHDARKLY_STEPS,
            Scheme::GrowthBookV1 => 1_000,
            Scheme::GrowthBook | Scheme::Optimizely | Scheme::Eppo | Scheme::Statsig => 10_000,
            Scheme::Unleash | Scheme::Flipt => 100,
        }
    }

    /// The position of a unit, below `steps` (LaunchDarkly's may equal it: its last position is 1.0). A unit is among the
    /// first `weight` if position / steps < weight, and always at 100 %.
    #[inline]
    pub fn position(&self, salt: &str, key: &str, seed: Option<&str>, unit: &str) -> u64 {
        match self {
            Scheme::Murmur3 => u64::from(Murmur3::new(0).with(salt).with(b".").with(unit).finish()),
            Scheme::SipHash(secret) => siphash(secret, [salt, ".", unit]) >> 32,
            Scheme::LaunchDarkly => match seed {
                Some(seed) => launchdarkly(&[seed, ".", unit]),
                None => launchdarkly(&[key, ".", salt, ".", unit]),
            },
            // Unleash counts from 1 and admits up to and including the percentage: the same from 0 and below it.
            Scheme::Unleash => u64::from(Murmur3::new(0).with(key).with(b":").with(unit).finish()) % 100,
            Scheme::GrowthBookV1 => {
                u64::from(Fnv1a::EMPTY.with_utf16(unit).with_utf16(seed.unwrap_or(key)).finish()) % 1_000
            }
            Scheme::GrowthBook => {
                let once = Fnv1a::EMPTY.with_utf16(seed.unwrap_or(key)).with_utf16(unit).finish();
                u64::from(fnv1a_of_decimal(once)) % 10_000
            }
            // flagd scales to the sum of its weights first, which moves no boundary: floor(h x total / 2^32) < part is
            // h / 2^32 < part / total for whole parts.
            Scheme::Flagd => u64::from(Murmur3::new(0).with(key).with(unit).finish()),
            Scheme::Optimizely => (u64::from(Murmur3::new(1).with(unit).with(key).finish()) * 10_000) >> 32,
            Scheme::Eppo => eppo(salt, unit),
            Scheme::Statsig => leading_u64(&digest::SHA256, &[salt, ".", unit]) % 10_000,
            Scheme::Flipt => flipt(unit, key),
        }
    }
}

/// Prints the name; the secret key stays out.
impl fmt::Debug for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// LaunchDarkly divides by the largest number of 15 hex digits.
const LAUNCHDARKLY_STEPS: u64 = (1 << 60) - 1;

fn launchdarkly(parts: &[&str]) -> u64 {
    leading_u64(&digest::SHA1_FOR_LEGACY_USE_ONLY, parts) >> 4
}

fn leading_u64(algorithm: &'static digest::Algorithm, parts: &[&str]) -> u64 {
    let mut context = digest::Context::new(algorithm);
    for part in parts {
        context.update(part.as_bytes());
    }
    // Every digest here is longer than 8 bytes, so the chunk is always there.
    context.finish().as_ref().first_chunk::<8>().map_or(0, |chunk| u64::from_be_bytes(*chunk))
}

fn siphash(secret: &[u8; 16], parts: [&str; 3]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(secret);
    for part in parts {
        hasher.write(part.as_bytes());
    }
    hasher.finish()
}

fn eppo(salt: &str, unit: &str) -> u64 {
    let digest = Md5::new().chain_update(salt).chain_update("-").chain_update(unit).finalize();
    let [a, b, c, d, ..] = digest.0;
    u64::from(u32::from_be_bytes([a, b, c, d])) % 10_000
}

fn flipt(unit: &str, key: &str) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(unit.as_bytes());
    crc.update(key.as_bytes());
    u64::from(crc.finalize()) % 100
}

/// FNV-1a of the number's decimal text.
fn fnv1a_of_decimal(number: u32) -> u32 {
    let mut power = 1_000_000_000;
    while power > 1 && number < power {
        power /= 10;
    }
    let mut hash = Fnv1a::EMPTY;
    while power > 0 {
        hash = hash.with_bytes(&[b'0' + (number / power % 10) as u8]);
        power /= 10;
    }
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_scheme_and_back() {
        for name in Scheme::NAMES {
            let scheme = Scheme::from_name(name, Some([1; 16])).expect("a listed name");
            assert_eq!(scheme.name(), name);
        }
        assert_eq!(Scheme::from_name("md5", None), Err(SchemeError::Unknown));
        assert_eq!(Scheme::from_name("Murmur3", None), Err(SchemeError::Unknown));
        assert_eq!(Scheme::from_name("siphash", None), Err(SchemeError::KeyMissing));
    }

    #[test]
    fn siphash_gives_the_value_of_its_paper() {
        let key = std::array::from_fn(|index| index as u8);
        let text: String = (0..15_u8).map(char::from).collect();
        assert_eq!(siphash(&key, [&text[..4], &text[4..5], &text[5..]]), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn a_decimal_text_is_hashed_like_the_formatted_number() {
        for number in [0, 1, 9, 10, 99, 100, 1_000_000, 999_999_999, 1_000_000_000, u32::MAX] {
            let formatted = Fnv1a::EMPTY.with_bytes(number.to_string().as_bytes()).finish();
            assert_eq!(fnv1a_of_decimal(number), formatted, "{number}");
        }
    }

    #[test]
    fn a_secret_key_is_not_printed() {
        assert_eq!(format!("{:?}", Scheme::SipHash([7; 16])), "siphash");
    }
}
