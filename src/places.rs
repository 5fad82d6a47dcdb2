//! A fixed number of places for what need not be worked out anew: found by the hash of what it was worked out from,
//! replaced by what comes later.
//!
//! Invariants:
//! - The hash only chooses a place: whoever looks compares what lies there, whole.
//! - Nobody waits: readers take no lock, and of two that come at once one stays.
//! - It never grows; where all places are taken, a newcomer seldom takes one, so that a crowd of strangers costs those who
//!   come often little.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::{ArcSwapOption, Guard};
use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

/// How many there are: a power of two.
const PLACES: usize = 16_384;
/// Of how many newcomers one takes the place of another.
const PUSHES: u32 = 8;

pub(crate) struct Places<T> {
    places: Box<[ArcSwapOption<T>]>,
    seed: u64,
    newcomers: AtomicU32,
}

/// What lies at a place, for as long as it is looked at.
pub(crate) type Found<T> = Guard<Option<Arc<T>>>;

impl<T> Default for Places<T> {
    fn default() -> Places<T> {
        Places::of(PLACES)
    }
}

impl<T> Places<T> {
    /// So many: a power of two.
    pub(crate) fn of(count: usize) -> Places<T> {
        let mut seed = [0; 8];
        // Without a random source, whoever knows this program can make others' things push each other out.
        let _ = getrandom::fill(&mut seed);
        let places = (0..count).map(|_| ArcSwapOption::empty()).collect();
        Places { places, seed: u64::from_ne_bytes(seed), newcomers: AtomicU32::new(0) }
    }

    /// A hash of two texts.
    pub(crate) fn hash(&self, one: &[u8], other: &[u8]) -> u64 {
        xxh3_64_with_seed(other, xxh3_64_with_seed(one, self.seed))
    }

    /// A hash of one text, so wide that two texts have the same one only if they are the same, or by somebody who knows the
    /// seed.
    pub(crate) fn wide(&self, text: &[u8]) -> u128 {
        xxh3_128_with_seed(text, self.seed)
    }

    pub(crate) fn at(&self, hash: u64, is_it: impl FnOnce(&T) -> bool) -> Option<Found<T>> {
        let there = self.place(hash).load();
        there.as_ref().is_some_and(|there| is_it(there)).then_some(there)
    }

    /// Puts there what `make` makes, unless what lies there `is_it`, or is somebody else's whose turn to go has not come.
    /// What `counts` no longer goes at once.
    pub(crate) fn put(
        &self,
        hash: u64,
        counts: impl FnOnce(&T) -> bool,
        is_it: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
    ) {
        let place = self.place(hash);
        let there = place.load();
        if let Some(there) = there.as_ref().filter(|there| counts(there)) {
            let turn = || self.newcomers.fetch_add(1, Ordering::Relaxed).is_multiple_of(PUSHES);
            if is_it(there) || !turn() {
                return;
            }
        }
        place.store(Some(Arc::new(make())));
    }

    fn place(&self, hash: u64) -> &ArcSwapOption<T> {
        // Reduced below the number of places, which is a power of two.
        &self.places[hash as usize & (self.places.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newcomers_seldom_push_and_what_does_not_count_goes_at_once() {
        let places = Places::of(1);
        let put = |value: u32, counts: bool| {
            places.put(7, |_| counts, |there| *there == value, || value);
            *places.at(7, |_| true).unwrap().as_ref().unwrap().as_ref()
        };
        assert_eq!(put(0, true), 0);
        // The first newcomer's turn comes at once, the next one's after seven others.
        assert_eq!(put(1, true), 1);
        let after: Vec<u32> = (2..10).map(|value| put(value, true)).collect();
        assert_eq!(after, [1, 1, 1, 1, 1, 1, 1, 9]);
        assert_eq!(put(10, false), 10);
        assert!(places.at(8, |there| *there == 11).is_none());
    }

    #[test]
    fn seeds_differ() {
        let (one, other) = (Places::<()>::of(1), Places::<()>::of(1));
        assert_ne!(one.wide(b"a"), other.wide(b"a"));
        assert_ne!(one.hash(b"a", b"b"), one.hash(b"b", b"a"));
    }
}
