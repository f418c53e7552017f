//! Signed, expiring tokens that force an arm: `v1.<rollout>.<arm>.<expiry, unix seconds>.<signature>`.
//!
//! The signature is base64url (no padding) of HMAC-SHA-256 over everything before the last dot. A token holds for one
//! rollout and one arm until it expires; there is no way to take a single one back except a new secret. Nothing here
//! reads a clock or a file. `weir token` signs, the data plane verifies.

use super::Arm;
use crate::clock::Wall;
use aws_lc_rs::hmac::{self, HMAC_SHA256, Key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Header and cookie that force arms.
pub const NAME: &str = "x-weir-force";
/// The longest token that is looked at, in bytes: bounds what a stranger can make the data plane hash.
pub const TOKEN_BYTES_MAX: usize = 512;

/// A token that forces `arm` for `rollout` until `expires`, cut to whole seconds.
pub fn sign(secret: &[u8], rollout: &str, arm: Arm, expires: Wall) -> String {
    let claim = format!("{VERSION}.{rollout}.{arm}.{}", expires.as_secs());
    let signature = hmac::sign(&Key::new(HMAC_SHA256, secret), claim.as_bytes());
    format!("{claim}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The rollout and arm that `token` forces, if the signature is right and the token has not expired at `now`.
///
/// The rollout's name is borrowed from the token; the caller compares it with the rollout at hand. The comparison of
/// signatures takes the same time wherever they differ.
pub fn verify<'a>(secret: &[u8], token: &'a str, now: Wall) -> Option<(&'a str, Arm)> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let (claim, signature) = token.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    hmac::verify(&Key::new(HMAC_SHA256, secret), claim.as_bytes(), &signature).ok()?;

    // From the right, because a rollout's name may hold dots and the other parts may not.
    let rest = claim.strip_prefix(VERSION)?.strip_prefix('.')?;
    let (rest, expires_s) = rest.rsplit_once('.')?;
    let (rollout, arm) = rest.rsplit_once('.')?;
    let expires_s: u64 = expires_s.parse().ok()?;
    (now.as_secs() < expires_s).then_some((rollout, Arm::from_name(arm)?))
}

/// The rollouts and arms that a header's or cookie's value forces: by tokens, and for who is `believed` by plain words
/// (`chat=canary`); several with commas between them.
pub fn arms<'a>(
    value: &'a str,
    secret: Option<&[u8]>,
    believed: bool,
    now: Wall,
) -> impl Iterator<Item = (&'a str, Arm)> {
    value.split(',').map(str::trim).filter_map(move |word| {
        let signed = secret.and_then(|secret| verify(secret, word, now));
        signed.or_else(|| {
            let (rollout, arm) = word.split_once('=').filter(|_| believed)?;
            Some((rollout, Arm::from_name(arm)?))
        })
    })
}

/// The only format so far; another one gets another word, so that old tokens are never misread.
const VERSION: &str = "v1";

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"an operator's secret";
    const NOW: Wall = Wall::from_millis(1_000_000_500);
    const LATER: Wall = Wall::from_millis(1_000_060_000);

    #[test]
    fn a_fresh_token_names_its_rollout_and_arm() {
        for arm in Arm::ALL {
            let token = sign(SECRET, "chat", arm, LATER);
            assert_eq!(verify(SECRET, &token, NOW), Some(("chat", arm)));
        }
        let dotted = sign(SECRET, "team.chat.v2", Arm::Canary, LATER);
        assert_eq!(verify(SECRET, &dotted, NOW), Some(("team.chat.v2", Arm::Canary)));
    }

    #[test]
    fn the_format_is_fixed() {
        let token = sign(SECRET, "chat", Arm::Canary, LATER);
        assert_eq!(token, "v1.chat.canary.1000060.UOdbHlwTYA8V3ZgOZFjSB0DBkcD2OqKttF3wTn_dQMA");
    }

    #[test]
    fn an_expired_token_is_nothing() {
        let token = sign(SECRET, "chat", Arm::Canary, LATER);
        assert!(verify(SECRET, &token, Wall::from_millis(1_000_059_999)).is_some());
        assert_eq!(verify(SECRET, &token, LATER), None);
    }

    #[test]
    fn a_change_of_any_byte_is_noticed() {
        let token = sign(SECRET, "chat", Arm::Canary, LATER);
        for position in 0..token.len() {
            for replacement in [b'A', b'b', b'0', b'.', b'-', b'='] {
                let mut bytes = token.clone().into_bytes();
                if bytes[position] == replacement {
                    continue;
                }
                bytes[position] = replacement;
                let tampered = String::from_utf8(bytes).unwrap();
                assert_eq!(verify(SECRET, &tampered, NOW), None, "{tampered}");
            }
        }
    }

    #[test]
    fn another_key_or_another_rollout_does_not_verify() {
        let token = sign(SECRET, "chat", Arm::Canary, LATER);
        assert_eq!(verify(b"another secret", &token, NOW), None);
        let moved = token.replacen("chat", "shop", 1);
        assert_eq!(verify(SECRET, &moved, NOW), None);
    }

    #[test]
    fn whatever_is_no_token_is_refused() {
        let unknown_version = {
            let claim = "v2.chat.canary.1000060";
            let signature = hmac::sign(&Key::new(HMAC_SHA256, SECRET), claim.as_bytes());
            format!("{claim}.{}", URL_SAFE_NO_PAD.encode(signature))
        };
        let long = sign(SECRET, &"x".repeat(TOKEN_BYTES_MAX), Arm::Canary, LATER);
        for token in ["", ".", "....", "v1", "v1.chat.canary.1000060.", "canary", &unknown_version, &long] {
            assert_eq!(verify(SECRET, token, NOW), None, "{token:?}");
        }
    }
}
