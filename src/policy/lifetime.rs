//! `jitter`: what was stored together should not expire together.
//!
//! What spreads is the key and the moment; no randomness is needed, only difference. A lifetime may grow by it only as far
//! as the operator's own word goes: nothing is fresh for longer than the backend states, where its word counts.

use std::time::Duration;

use super::key::CacheKey;
use crate::semantics::stored::Lifetimes;
use crate::semantics::timestamp::Timestamp;

/// What one entry is spread by.
pub fn seed(key: &CacheKey, at: Timestamp) -> u64 {
    let mut bytes = [0u8; 8];
    bytes.copy_from_slice(&key.0[..8]);
    u64::from_le_bytes(bytes) ^ at.0
}

/// Spreads freshness by ±`jitter`, a fraction up to a half; where that would go beyond `longest`, downwards alone.
pub fn spread(lifetimes: Lifetimes, jitter: f64, longest: Option<Duration>, seed: u64) -> Lifetimes {
    if jitter <= 0.0 {
        return lifetimes;
    }
    let jitter = jitter.min(0.5);
    // From 0.0 to 1.0, by the upper bits, which all of the seed's have a part in.
    let unit = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1u64 << 53) as f64;
    let around = lifetimes.fresh.mul_f64(1.0 + jitter * (2.0 * unit - 1.0));
    let fresh = match longest {
        Some(longest) if around > longest => lifetimes.fresh.mul_f64(1.0 - jitter * unit),
        _ => around,
    };
    Lifetimes { fresh, ..lifetimes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(100);

    /// The shortest and the longest lifetime that some seeds give.
    fn range(jitter: f64, longest: Option<u64>) -> (Duration, Duration) {
        let lifetimes = Lifetimes { fresh: FRESH, keep: FRESH, ..Lifetimes::default() };
        let longest = longest.map(Duration::from_secs);
        let all: Vec<_> = (0..1000)
            .map(|n| {
                let spread = spread(lifetimes, jitter, longest, n);
                assert_eq!(spread, Lifetimes { fresh: spread.fresh, ..lifetimes }, "freshness alone");
                spread.fresh
            })
            .collect();
        (all.iter().min().copied().unwrap(), all.iter().max().copied().unwrap())
    }

    #[test]
    fn lifetimes_spread_around_the_operators() {
        assert_eq!(range(0.0, None), (FRESH, FRESH));
        let (shortest, longest) = range(0.2, None);
        assert!(shortest >= FRESH.mul_f64(0.8) && shortest < FRESH.mul_f64(0.82), "{shortest:?}");
        assert!(longest <= FRESH.mul_f64(1.2) && longest > FRESH.mul_f64(1.18), "{longest:?}");
        assert_eq!(range(0.9, None), range(0.5, None));
    }

    #[test]
    fn nothing_is_fresh_for_longer_than_the_backend_states() {
        let (shortest, longest) = range(0.5, Some(100));
        assert!(longest <= FRESH, "{longest:?}");
        assert!(shortest < FRESH.mul_f64(0.52), "still spread: {shortest:?}");
        let (_, longest) = range(0.5, Some(120));
        assert!(longest <= Duration::from_secs(120) && longest > Duration::from_secs(118), "{longest:?}");
    }
}
