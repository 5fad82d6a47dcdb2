//! How often entries were found void or stale, by reason: for the metrics, and for nobody's decision.

use std::sync::atomic::{AtomicU64, Ordering};

use super::view::{Liveness, Void};

/// The counts.
#[derive(Debug, Default)]
pub struct Tally {
    reasons: [AtomicU64; Tally::REASONS.len()],
    falsely: AtomicU64,
}

impl Tally {
    /// The reasons' words, in the order of [`Tally::reasons`].
    pub const REASONS: [&'static str; 6] = ["lease", "epoch", "rules", "floor", "purged", "stale"];

    /// Counts an entry that was found to be so; a live one is not counted. `falsely`: its tags share their marks with
    /// others, and nothing else was purged.
    pub fn count(&self, liveness: Liveness, falsely: bool) {
        let reason = match liveness {
            Liveness::Live => return,
            Liveness::Void(Void::Lease) => 0,
            Liveness::Void(Void::Epoch) => 1,
            Liveness::Void(Void::Rules) => 2,
            Liveness::Void(Void::Floor) => 3,
            Liveness::Void(Void::Purged) => 4,
            Liveness::Stale => 5,
        };
        self.reasons[reason].fetch_add(1, Ordering::Relaxed);
        if falsely {
            self.falsely.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each reason's word and count.
    pub fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Tally::REASONS.into_iter().zip(self.reasons.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// Of them, those whose mark was raised by another tag.
    pub fn falsely(&self) -> u64 {
        self.falsely.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_counts_under_its_own_word() {
        let tally = Tally::default();
        let all = [Void::Lease, Void::Epoch, Void::Rules, Void::Floor, Void::Purged].map(Liveness::Void);
        for (at, liveness) in all.into_iter().chain([Liveness::Stale]).enumerate() {
            for _ in 0..=at {
                tally.count(liveness, at == 4);
            }
        }
        tally.count(Liveness::Live, false);
        let counts: Vec<_> = tally.reasons().collect();
        let want = [("lease", 1), ("epoch", 2), ("rules", 3), ("floor", 4), ("purged", 5), ("stale", 6)];
        assert_eq!(counts, want);
        assert_eq!(tally.falsely(), 5);
    }
}
