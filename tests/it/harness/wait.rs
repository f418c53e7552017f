//! Waiting for events: every wait has a deadline, and no test goes on before the event is there.

use std::future::Future;
use std::time::Duration;

/// How long any event may take; far beyond what a loaded machine needs, so that only a missing event fails a test.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a condition is looked at that cannot announce itself.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The future's value, or a failed test that names what was awaited.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// The first value that `look` finds.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            if let Some(value) = look().await {
                return value;
            }
        }
    })
    .await
}

/// The value of a count once it has stayed the same for `looks` looks in a row, after being above zero.
pub async fn settled(what: &str, looks: u32, mut count: impl FnMut() -> u64) -> u64 {
    let (mut last, mut same) = (0, 0);
    eventually(what, || {
        let now = count();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        std::future::ready((same >= looks).then_some(now))
    })
    .await
}
