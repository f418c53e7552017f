//! A timer that is seldom set. To set one for each request is costly, and nearly none ever goes off: so one that would go
//! off too early is left as it is, and set again when it does. Whoever is busy touches it about once in its shortest limit.

use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep, sleep_until};

/// Such a timer.
#[derive(Default)]
pub struct Alarm {
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the timer will wake the task that asked last.
    is_armed: bool,
}

impl Alarm {
    /// From now on another task asks.
    pub fn pass_on(&mut self) {
        self.is_armed = false;
    }

    /// Whether the moment has come; if not, the task is woken then, or earlier.
    pub fn has_passed(&mut self, deadline: Instant, cx: &mut Context<'_>) -> bool {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
            self.is_armed = false;
        }
        loop {
            if self.is_armed && !timer.is_elapsed() {
                return false;
            }
            self.is_armed = timer.as_mut().poll(cx).is_pending();
            if self.is_armed {
                return false;
            }
            if timer.deadline() >= deadline {
                return true;
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// The same as a poll that is ready when the moment has come.
    pub fn poll_at(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_passed(deadline, cx) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Waker;
    use std::time::Duration;

    #[tokio::test]
    async fn it_goes_off_at_the_moment_it_was_asked_for_last_and_for_whoever_asked() {
        let at = |ms| Instant::now() + Duration::from_millis(ms);
        let (early, late, never) = (at(1), at(20), at(1_000_000));
        let mut alarm = Alarm::default();
        let nobody = &mut Context::from_waker(Waker::noop());
        // Somebody else asked, and is not heard of again.
        assert!(!alarm.has_passed(early, nobody) || Instant::now() >= early);
        alarm.pass_on();
        poll_fn(|cx| alarm.poll_at(late, cx)).await;
        assert!(Instant::now() >= late, "later than it was set for");
        assert!(!alarm.has_passed(never, nobody));
        let soon = at(1);
        alarm.pass_on();
        poll_fn(|cx| alarm.poll_at(soon, cx)).await;
        assert!(Instant::now() >= soon, "earlier than it was set for");
        assert!(alarm.has_passed(soon, nobody), "and stays so");
    }
}
