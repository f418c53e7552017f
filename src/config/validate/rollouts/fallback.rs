//! Whether stable answers a request that failed on the canary: `fallback` and `idempotency_key` of `[rollouts.NAME.breaker]`.

use crate::config::raw;
use crate::snapshot::Fallback;

/// What `fallback` says. Without it, what is provably safe, unless the whole breaker is switched off.
pub fn fallback(raw: &raw::Rollout) -> Fallback {
    let breaker = raw.breaker.as_ref().map(|breaker| &breaker.value);
    let enabled = breaker.and_then(|breaker| breaker.enabled.as_ref()).is_none_or(|enabled| enabled.value);
    match breaker.and_then(|breaker| breaker.fallback.as_ref()).map(|fallback| fallback.value) {
        Some(raw::Fallback::Safe) => Fallback::Safe,
        Some(raw::Fallback::Idempotent) => Fallback::Idempotent,
        Some(raw::Fallback::Off) => Fallback::Off,
        None if enabled => Fallback::Safe,
        None => Fallback::Off,
    }
}

/// Whether a request with `Idempotency-Key` counts as idempotent whatever its method.
pub fn by_key(raw: &raw::Rollout) -> bool {
    let breaker = raw.breaker.as_ref();
    breaker.and_then(|breaker| breaker.value.idempotency_key.as_ref()).is_some_and(|key| key.value)
}
