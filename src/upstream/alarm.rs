//! A timer that is set anew for every exchange on a connection, at next to no cost.
//!
//! Nearly all exchanges end long before their time is up, so what counts is the price of a timer that never goes off.
//! Entering one among the runtime's timers, and taking it out again, costs two locks. This one stays entered: set to a
//! later time, it goes off at the earlier one, sees that it is not yet time, and enters itself anew. That is once per
//! time limit and connection instead of once per request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer for one wait after the other.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready once it is `until`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        loop {
            match sleep.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if sleep.deadline() >= until || Instant::now() >= until => {
                    return Poll::Ready(());
                }
                Poll::Ready(()) => sleep.as_mut().reset(until),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn rings_after(alarm: &mut Alarm, wait: Duration) -> Duration {
        let start = Instant::now();
        std::future::poll_fn(|cx| alarm.poll(cx, start + wait)).await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_its_own_length() {
        let mut alarm = Alarm::default();
        for seconds in [5, 60, 2, 2, 0, 7] {
            let wait = Duration::from_secs(seconds);
            let waited = rings_after(&mut alarm, wait).await;
            assert!(waited >= wait && waited < wait + Duration::from_millis(5), "{waited:?} for {wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_ended_early_leaves_the_next_its_whole_length() {
        let mut alarm = Alarm::default();
        let (first, second) = (Duration::from_secs(10), Duration::from_secs(30));
        let cut = tokio::time::timeout(Duration::from_secs(9), rings_after(&mut alarm, first)).await;
        assert!(cut.is_err());
        let waited = rings_after(&mut alarm, second).await;
        assert!(waited >= second && waited < second + Duration::from_millis(5), "{waited:?}");
    }
}
