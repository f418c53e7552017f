//! How a rollout hashes its units, and how its cohorts' shares do.

use crate::config::decode::Spot;
use crate::config::raw::{self, Hash};
use crate::config::validate::Context;
use crate::rollout::bucket::{Bucketer, Scheme};
use std::sync::Arc;

/// The arm's own bucketing.
pub fn bucketer(key: &str, name: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> Bucketer {
    let text = |spot: &Option<Spot<String>>| Arc::from(spot.as_ref().map_or(name, |spot| spot.value.as_str()));
    let hash = raw.hash.as_ref().map_or(Hash::Murmur3, |hash| hash.value);
    if let Some(seed) = raw.hash_seed.as_ref().filter(|_| !takes_seed(hash)) {
        let message = format!("{key}.hash_seed: `{}` has no seed", hash.word());
        context.problems.error(seed.place, message);
    }
    if let Some(file) = raw.hash_key_file.as_ref().filter(|_| hash != Hash::Siphash) {
        let message = format!("{key}.hash_key_file: `{}` has no secret key, only `siphash` has", hash.word());
        context.problems.error(file.place, message);
    }
    Bucketer {
        scheme: scheme(key, hash, raw, context),
        salt: text(&raw.salt),
        key: text(&raw.hash_key),
        seed: raw.hash_seed.as_ref().map(|seed| Arc::from(seed.value.0.as_str())),
    }
}

/// The bucketing of a cohort's share. Its salt is its own, so that it is independent of the arm; foreign schemes that ignore
/// the salt would not be, so they share natively. A secret key stays in force, because outsiders must not choose their way in.
pub fn of_share(arm: &Bucketer, cohort: &str) -> Bucketer {
    let scheme = match &arm.scheme {
        Scheme::SipHash(key) => Scheme::SipHash(*key),
        _ => Scheme::Murmur3,
    };
    Bucketer { scheme, salt: Arc::from(format!("{}.cohort.{cohort}", arm.salt)), key: Arc::clone(&arm.key), seed: None }
}

fn scheme(key: &str, hash: Hash, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> Scheme {
    match hash {
        Hash::Murmur3 => Scheme::Murmur3,
        Hash::Siphash => siphash(key, raw, context),
        Hash::LaunchDarkly => Scheme::LaunchDarkly,
        Hash::Unleash => Scheme::Unleash,
        Hash::GrowthBookV1 => Scheme::GrowthBookV1,
        Hash::GrowthBook => Scheme::GrowthBook,
        Hash::Flagd => Scheme::Flagd,
        Hash::Optimizely => Scheme::Optimizely,
        Hash::Eppo => Scheme::Eppo,
        Hash::Statsig => Scheme::Statsig,
        Hash::Flipt => Scheme::Flipt,
    }
}

fn siphash(key: &str, raw: &raw::Rollout, context: &mut Context<'_, '_>) -> Scheme {
    let Some(file) = &raw.hash_key_file else {
        if let Some(hash) = &raw.hash {
            let message = format!("{key}.hash: `siphash` needs a secret key, named by `hash_key_file`");
            context.problems.error(hash.place, message).with_help("make one with `openssl rand -hex 16`");
        }
        return Scheme::Murmur3;
    };
    let Some((_, bytes)) = context.file(&format!("{key}.hash_key_file"), file) else { return Scheme::Murmur3 };
    let Some(secret) = siphash_key(&bytes) else {
        let message = format!("{key}.hash_key_file: expected 16 bytes, raw or as 32 hex digits");
        context.problems.error(file.place, message).with_help("make one with `openssl rand -hex 16`");
        return Scheme::Murmur3;
    };
    Scheme::SipHash(secret)
}

/// The key of a file: exactly 16 bytes, or 32 hex digits and perhaps a line break.
pub fn siphash_key(bytes: &[u8]) -> Option<[u8; 16]> {
    if let Ok(key) = bytes.try_into() {
        return Some(key);
    }
    let text = std::str::from_utf8(bytes).ok()?.trim_end();
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

/// Whether a scheme has a seed.
fn takes_seed(hash: Hash) -> bool {
    matches!(hash, Hash::LaunchDarkly | Hash::GrowthBook | Hash::GrowthBookV1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_raw_or_hex() {
        assert_eq!(siphash_key(b"0123456789abcdef"), Some(*b"0123456789abcdef"));
        let hex = siphash_key(b"000102030405060708090a0b0c0d0e0f\n").unwrap();
        assert_eq!(hex, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        for wrong in [&b""[..], b"short", b"+00102030405060708090a0b0c0d0e0f", b"000102030405060708090a0b0c0d0e0f00"] {
            assert_eq!(siphash_key(wrong), None);
        }
    }
}
