//! Tags that may not be stored for a while after their purge, because the backend's reads lag its writes.
//!
//! Invariants:
//! - While a tag settles, no entry that carries it is stored here.
//! - When it has settled, it is purged once more: that voids what was fetched meanwhile, here and elsewhere.
//! - The tags held are bounded; beyond the bound nothing at all is stored until the last has settled.
//!
//! The purge tells other instances to hold its tags as well, a little longer; the second purge releases them. Should its
//! author not get to it, they purge themselves. What it lacks: any way to know when a backend has caught up. The
//! operator's `settle` is all there is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::coherence::{Event, EventKind};
use crate::policy::tags::Tag;

/// Most tags that settle at once.
const MOST: usize = 65_536;

/// The tags that are settling now.
#[derive(Debug, Default)]
pub struct Settling {
    /// Spares the usual case the lock.
    any: AtomicBool,
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// Until when, on `Clock::elapsed`.
    tags: HashMap<Tag, Duration>,
    /// Until when everything is held: there were too many tags, or their hashes mean nothing any more.
    everything: Option<Duration>,
    /// What hashed `tags`.
    hashed_with: u64,
}

impl Settling {
    /// Holds `tags`, hashed with the secret of this fingerprint, until `until`.
    pub(in crate::store) fn hold(&self, tags: &[Tag], hashed_with: u64, until: Duration) {
        let mut held = self.held.lock();
        let other_secret = !held.tags.is_empty() && held.hashed_with != hashed_with;
        if other_secret || held.tags.len() + tags.len() > MOST {
            let latest = held.tags.drain().map(|(_, until)| until).max().unwrap_or_default();
            held.everything = held.everything.max(Some(latest.max(until)));
        } else {
            held.hashed_with = hashed_with;
            for tag in tags {
                let present = held.tags.entry(*tag).or_default();
                *present = (*present).max(until);
            }
        }
        self.any.store(true, Ordering::Release);
        drop(held);
        self.changed.notify_one();
    }

    /// Somebody has purged these tags once more: they have settled. What else held them, or everything, holds on.
    pub(in crate::store) fn release(&self, tags: &[Tag], hashed_with: u64) {
        let mut held = self.held.lock();
        if held.hashed_with == hashed_with {
            for tag in tags {
                held.tags.remove(tag);
            }
            self.any.store(!held.tags.is_empty() || held.everything.is_some(), Ordering::Release);
        }
    }

    /// Whether an entry with these tags, hashed with the secret of this fingerprint, may not be stored now.
    pub(in crate::store) fn holds(&self, tags: &[Tag], hashed_with: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let held = self.held.lock();
        held.everything.is_some()
            || (!held.tags.is_empty() && held.hashed_with != hashed_with)
            || tags.iter().any(|tag| held.tags.contains_key(tag))
    }

    /// Takes what has settled at `now`, as the purge that ends it; and says when the next settles.
    pub(in crate::store) fn settled(&self, now: Duration) -> (Option<Event>, Option<Duration>) {
        let mut held = self.held.lock();
        let mut event = None;
        if held.everything.is_some_and(|until| until <= now) {
            held.everything = None;
            event = Some(Event::flush());
        }
        let due: Vec<Tag> =
            held.tags.iter().filter(|(_, until)| **until <= now).map(|(tag, _)| *tag).collect();
        if !due.is_empty() {
            for tag in &due {
                held.tags.remove(tag);
            }
            let hashed_with = held.hashed_with;
            let purge = Event { kind: EventKind::Purge, tags: due, hashed_with, ..Event::default() };
            event = event.or(Some(purge));
        }
        let next = held.tags.values().copied().chain(held.everything).min();
        self.any.store(next.is_some(), Ordering::Release);
        (event, next)
    }

    /// Waits until something else is held.
    pub(in crate::store) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_tag_is_held_until_it_has_settled_and_then_purged_once() {
        let settling = Settling::default();
        settling.hold(&[Tag(1), Tag(2)], 7, SECOND);
        settling.hold(&[Tag(2)], 7, 2 * SECOND);
        assert!(settling.holds(&[Tag(1)], 7) && !settling.holds(&[Tag(3)], 7));
        let (event, next) = settling.settled(SECOND);
        assert_eq!(event.unwrap().tags, [Tag(1)]);
        assert_eq!(next, Some(2 * SECOND));
        assert!(!settling.holds(&[Tag(1)], 7) && settling.holds(&[Tag(2)], 7));
        assert_eq!(settling.settled(2 * SECOND).0.unwrap().tags, [Tag(2)]);
        assert_eq!(settling.settled(3 * SECOND), (None, None));
        assert!(!settling.holds(&[Tag(2)], 7));
    }

    #[test]
    fn under_another_secret_nothing_is_stored() {
        let settling = Settling::default();
        settling.hold(&[Tag(1)], 7, SECOND);
        assert!(settling.holds(&[Tag(9)], 8));
        settling.hold(&[Tag(1)], 8, SECOND);
        assert!(settling.holds(&[Tag(9)], 8));
        assert_eq!(settling.settled(SECOND).0.unwrap().kind, EventKind::Flush);
    }

    #[test]
    fn beyond_the_bound_everything_is_held() {
        let settling = Settling::default();
        let many: Vec<Tag> = (0..MOST as u64).map(Tag).collect();
        settling.hold(&many, 7, 2 * SECOND);
        settling.hold(&[Tag(u64::MAX)], 7, SECOND);
        assert!(settling.holds(&[Tag(u64::MAX - 1)], 7));
        assert_eq!(settling.settled(SECOND), (None, Some(2 * SECOND)));
        assert_eq!(settling.settled(2 * SECOND).0.unwrap().kind, EventKind::Flush);
    }
}
