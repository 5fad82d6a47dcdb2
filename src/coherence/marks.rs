//! The newest sequence that purged each tag: a fixed array of atomics indexed by tag hash.
//!
//! Slots only ever rise. Two tags that share a slot share their purges: that costs a needless miss, never a
//! stale hit, and it is what bounds the memory. What it lacks: names, counts, and any way back down.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::tags::Tag;

/// 2^20 slots by default (8 MiB). A collision costs a needless miss, never a stale hit.
pub struct Marks {
    slots: Box<[AtomicU64]>,
}

impl Marks {
    /// All slots at zero; `slots` is rounded up to a power of two, at least 1.
    pub fn new(slots: usize) -> Marks {
        let slots = slots.max(1).checked_next_power_of_two().unwrap_or(1 << 20);
        Marks { slots: (0..slots).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Records that an event at `seq` purged `tag`. A slot never falls.
    pub fn raise(&self, tag: Tag, seq: u64) {
        self.slot(tag).fetch_max(seq, Ordering::AcqRel);
    }

    /// The newest sequence that purged `tag` or a tag that shares its slot; 0 = none.
    pub fn newest(&self, tag: Tag) -> u64 {
        self.slot(tag).load(Ordering::Acquire)
    }

    fn slot(&self, tag: Tag) -> &AtomicU64 {
        // The length is a power of two, so the mask keeps the index inside; truncation keeps the low bits it needs.
        #[allow(clippy::cast_possible_truncation)]
        let index = tag.0 as usize & (self.slots.len() - 1);
        &self.slots[index]
    }
}

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks").field("slots", &self.slots.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_never_falls() {
        let marks = Marks::new(8);
        marks.raise(Tag(3), 7);
        marks.raise(Tag(3), 5);
        assert_eq!(marks.newest(Tag(3)), 7);
        assert_eq!(marks.newest(Tag(4)), 0);
    }

    #[test]
    fn tags_of_one_slot_share_their_purges() {
        let marks = Marks::new(8);
        marks.raise(Tag(1), 7);
        assert_eq!(marks.newest(Tag(9)), 7);
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(Marks::new(0).slots(), 1);
        assert_eq!(Marks::new(5).slots(), 8);
    }
}
