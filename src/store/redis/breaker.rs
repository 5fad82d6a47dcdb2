//! The breaker of the read path: three failures in a row and Redis is not asked again until a probe succeeds.
//!
//! ```text
//!  closed ──3 failures──► open ──probe──► half-open ──success──► closed
//!                          ▲                  └──failure── backoff doubles, 50 ms to 1 s ──┐
//!                          └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! A state machine without clock or socket: the link probes and sleeps. Appends to the purge log do not ask it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Failures in a row that open it.
const TRIP: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

const CLOSED: u8 = 0;
const OPEN: u8 = 1;
const HALF_OPEN: u8 = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker {
    state: AtomicU8,
    failures: AtomicU32,
    openings: AtomicU64,
}

impl Breaker {
    /// Whether operations may be tried.
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// An operation was answered.
    pub fn succeeded(&self) {
        // Mostly zero already: a load does not take the cache line from other cores, a store would.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// An operation failed or was late. True exactly once per opening: whoever gets it starts the probes.
    pub fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let opened = failures >= TRIP
            && self.state.compare_exchange(CLOSED, OPEN, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if opened {
            self.openings.fetch_add(1, Ordering::AcqRel);
        }
        opened
    }

    /// A probe is about to be made.
    pub fn probing(&self) {
        self.state.store(HALF_OPEN, Ordering::Release);
    }

    /// How the probe went; a success closes the breaker.
    pub fn probed(&self, success: bool) {
        self.failures.store(0, Ordering::Release);
        self.state.store(if success { CLOSED } else { OPEN }, Ordering::Release);
    }

    /// How often it has opened: connections made before the last opening are not to be trusted.
    pub fn generation(&self) -> u64 {
        self.openings.load(Ordering::Acquire)
    }

    /// `closed`, `open` or `half-open`.
    pub fn name(&self) -> &'static str {
        match self.state.load(Ordering::Acquire) {
            CLOSED => "closed",
            OPEN => "open",
            _ => "half-open",
        }
    }
}

/// How long to wait before the `attempt`th try (from 0): doubling from 50 ms to 1 s, less up to a quarter by
/// `noise`, so that many instances do not come back in step.
pub fn pause(attempt: u32, noise: u64) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << attempt.min(10)).min(LONGEST_PAUSE);
    full - full / 4 * u32::try_from(noise % 1024).unwrap_or(0) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_three_failures_in_a_row_and_tells_once() {
        let b = Breaker::default();
        assert!(!b.failed() && !b.failed());
        b.succeeded();
        assert!(!b.failed() && !b.failed());
        assert!(b.is_closed());
        assert!(b.failed());
        assert!(!b.failed(), "somebody probes already");
        assert_eq!((b.name(), b.generation()), ("open", 1));
    }

    #[test]
    fn only_a_probe_closes_it() {
        let b = Breaker::default();
        while !b.failed() {}
        b.succeeded();
        assert!(!b.is_closed(), "an answer that was under way proves nothing");
        b.probing();
        assert_eq!(b.name(), "half-open");
        assert!(!b.is_closed() && !b.failed());
        b.probed(false);
        assert_eq!(b.name(), "open");
        b.probing();
        b.probed(true);
        assert_eq!(b.name(), "closed");
        assert!(!b.failed(), "counting starts anew");
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        let ms = |attempt| pause(attempt, 0).as_millis();
        assert_eq!([ms(0), ms(1), ms(2), ms(4), ms(5), ms(60)], [50, 100, 200, 800, 1000, 1000]);
        assert!((37..=50).contains(&pause(0, 1023).as_millis()));
    }
}
