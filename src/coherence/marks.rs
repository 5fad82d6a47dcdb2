//! The newest sequence that purged each tag: a fixed array of atomics indexed by tag hash.
//!
//! Slots only ever rise. Two tags that share a slot share their purges: that costs a needless miss, never a
//! stale hit, and it is what bounds the memory. The latest tags are remembered beside the slots, so that somebody who
//! counts can tell such a miss from a purge ([`Marks::raised_by_others`]); nothing else asks them. What it lacks: names,
//! and any way back down.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::policy::tags::Tag;

/// How many of the latest purged tags are remembered.
const RECENT: usize = 4096;

/// 2^20 slots by default (8 MiB). A collision costs a needless miss, never a stale hit.
pub struct Marks {
    slots: Box<[AtomicU64]>,
    recent: Mutex<Recent>,
}

/// The latest purged tags, each with the newest sequence that purged it.
#[derive(Default)]
struct Recent {
    newest: HashMap<Tag, u64>,
    /// In the order of their purges; a tag purged again is in it again.
    order: VecDeque<(Tag, u64)>,
    /// Purges at or below may have been forgotten.
    forgotten: u64,
}

impl Recent {
    fn note(&mut self, tag: Tag, seq: u64) {
        self.newest.insert(tag, seq);
        self.order.push_back((tag, seq));
        if self.order.len() > RECENT
            && let Some((tag, seq)) = self.order.pop_front()
            && self.newest.get(&tag) == Some(&seq)
        {
            self.newest.remove(&tag);
            self.forgotten = self.forgotten.max(seq);
        }
    }
}

impl Marks {
    /// All slots at zero; `slots` is rounded up to a power of two, at least 1.
    pub fn new(slots: usize) -> Marks {
        let slots = slots.max(1).checked_next_power_of_two().unwrap_or(1 << 20);
        Marks { slots: (0..slots).map(|_| AtomicU64::new(0)).collect(), recent: Mutex::default() }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Records that an event at `seq` purged `tag`. A slot never falls.
    pub fn raise(&self, tag: Tag, seq: u64) {
        self.slot(tag).fetch_max(seq, Ordering::AcqRel);
        self.recent.lock().note(tag, seq);
    }

    /// The newest sequence that purged `tag` or a tag that shares its slot; 0 = none.
    pub fn newest(&self, tag: Tag) -> u64 {
        self.slot(tag).load(Ordering::Acquire)
    }

    /// Whether what voids an entry of `seq` with these tags is, as far as the latest purges tell, that other tags share
    /// their slots: some slot was raised after `seq`, each such slot by a purge that is remembered, and none of the
    /// remembered ones named a tag of the entry's. For counting: too slow for every look-up.
    pub fn raised_by_others(&self, tags: &[Tag], seq: u64) -> bool {
        let recent = self.recent.lock();
        let mut raised = tags.iter().map(|tag| self.newest(*tag)).filter(|newest| *newest > seq).peekable();
        raised.peek().is_some()
            && raised.all(|newest| newest > recent.forgotten)
            && !tags.iter().any(|tag| recent.newest.get(tag).is_some_and(|newest| *newest > seq))
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
    fn a_purge_of_another_tag_in_the_slot_is_told_from_one_of_its_own() {
        let marks = Marks::new(8);
        assert!(!marks.raised_by_others(&[Tag(1)], 3), "nothing was purged");
        marks.raise(Tag(9), 5);
        assert!(marks.raised_by_others(&[Tag(1), Tag(2)], 3));
        assert!(!marks.raised_by_others(&[Tag(1)], 5), "it is not void");
        assert!(!marks.raised_by_others(&[Tag(1), Tag(9)], 3), "one of its own was purged");
        marks.raise(Tag(1), 6);
        assert!(!marks.raised_by_others(&[Tag(1)], 3));
        assert!(!marks.raised_by_others(&[Tag(1)], 5));
    }

    #[test]
    fn what_has_been_forgotten_counts_as_a_purge() {
        let marks = Marks::new(1 << 20);
        marks.raise(Tag(1), 1);
        let slots = u64::try_from(marks.slots()).unwrap();
        marks.raise(Tag(1 + slots), 2);
        assert!(marks.raised_by_others(&[Tag(1)], 1));
        for n in 0..u64::try_from(RECENT).unwrap() {
            marks.raise(Tag(100 + n), 3 + n);
        }
        assert!(!marks.raised_by_others(&[Tag(1)], 0) && !marks.raised_by_others(&[Tag(1)], 1));
        assert!(marks.recent.lock().newest.len() <= RECENT);
        marks.raise(Tag(1 + slots), 9999);
        assert!(marks.raised_by_others(&[Tag(1)], 5000), "raised anew by what is remembered");
    }

    #[test]
    fn a_tag_that_is_purged_all_the_time_forgets_nothing_else() {
        let marks = Marks::new(8);
        for seq in 1..=2 * u64::try_from(RECENT).unwrap() {
            marks.raise(Tag(0), seq);
        }
        assert_eq!(marks.recent.lock().forgotten, 0);
        assert_eq!(marks.recent.lock().order.len(), RECENT);
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(Marks::new(0).slots(), 1);
        assert_eq!(Marks::new(5).slots(), 8);
    }
}
