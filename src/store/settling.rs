//! Tags that may not be stored for a while after their purge, because the backend's reads lag its writes.
//!
//! Invariants:
//! - While a tag settles, no entry that carries it is stored here.
//! - When it has settled, it is purged once more: that voids what was fetched meanwhile, here and elsewhere. Until that
//!   has been done it is held on.
//! - Each author's tags settle by themselves: what one ends does not end what another has begun since.
//! - Tags mean something under the secret that hashed them and the rules that made them; under others nothing at all is
//!   stored until they have settled.
//! - The tags held are bounded; beyond the bound nothing at all is stored until the last has settled.
//!
//! The purge tells other instances to hold its tags as well, a little longer; the second purge releases them. Should its
//! author not get to it, they purge themselves. What it lacks: any way to know when a backend has caught up. The
//! operator's `settle` is all there is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::coherence::event::Settle;
use crate::coherence::{Event, EventKind, View};
use crate::policy::tags::Tag;

/// Most tags that settle at once.
const MOST: usize = 65_536;

/// The secret that hashed tags, and the rules that made them, by their fingerprints.
type Language = (u64, u64);

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
    /// Until when, on `Clock::elapsed`, by tag and author.
    tags: BTreeMap<(Tag, u64), Duration>,
    language: Language,
    /// Until when everything is held: there were too many tags, or of several languages.
    everything: Option<Duration>,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.everything.is_none()
    }

    /// The tags of some authors that are due, as the purge that ends their settling.
    fn due(&self, now: Duration, whose: impl Fn(u64) -> bool, settle: Settle) -> Option<Event> {
        let due = self.tags.iter().filter(|((_, author), until)| **until <= now && whose(*author));
        let tags: BTreeSet<Tag> = due.map(|((tag, _), _)| *tag).collect();
        let (hashed_with, rules) = self.language;
        let tags: Vec<Tag> = tags.into_iter().collect();
        (!tags.is_empty()).then(|| Event { tags, hashed_with, rules, settle, ..Event::default() })
    }
}

impl Settling {
    /// Holds the event's tags for its author until `until`.
    pub(in crate::store) fn hold(&self, event: &Event, until: Duration) {
        let mut held = self.held.lock();
        let language = (event.hashed_with, event.rules);
        let other_language = !held.tags.is_empty() && held.language != language;
        if other_language || held.tags.len() + event.tags.len() > MOST {
            let latest = std::mem::take(&mut held.tags).into_values().max().unwrap_or_default();
            held.everything = held.everything.max(Some(latest.max(until)));
        } else {
            held.language = language;
            for tag in &event.tags {
                let present = held.tags.entry((*tag, event.origin)).or_default();
                *present = (*present).max(until);
            }
        }
        self.any.store(!held.is_empty(), Ordering::Release);
        drop(held);
        self.changed.notify_one();
    }

    /// The event's author has purged its tags once more: they have settled. Who else holds them, or everything, holds on.
    pub(in crate::store) fn release(&self, event: &Event) {
        let mut held = self.held.lock();
        if held.language == (event.hashed_with, event.rules) {
            for tag in &event.tags {
                held.tags.remove(&(*tag, event.origin));
            }
            self.any.store(!held.is_empty(), Ordering::Release);
        }
    }

    /// Whether an entry with these tags, stored under this view, may not be stored now.
    pub(in crate::store) fn holds(&self, tags: &[Tag], view: &View) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let held = self.held.lock();
        held.everything.is_some()
            || (!held.tags.is_empty() && held.language != (view.secret_id, view.rules))
            || tags.iter().any(|tag| held.tags.range((*tag, 0)..=(*tag, u64::MAX)).next().is_some())
    }

    /// What has settled at `now`, as the purge that ends it, to be followed by [`Settling::end`]; and when the next does.
    /// What others hold and did not get to is purged without a word on settling, which would let go what this author
    /// holds elsewhere.
    pub(in crate::store) fn settled(&self, now: Duration, me: u64) -> (Option<Event>, Option<Duration>) {
        let held = self.held.lock();
        let everything = held.everything.is_some_and(|until| until <= now).then(Event::flush);
        let event = everything
            .or_else(|| held.due(now, |author| author == me, Settle::Over))
            .or_else(|| held.due(now, |author| author != me, Settle::AtOnce));
        let later = held.tags.values().copied().chain(held.everything).filter(|until| *until > now);
        (event, later.min())
    }

    /// What had settled at `now` has been purged by `event`: what has been held anew since is held on.
    pub(in crate::store) fn end(&self, now: Duration, event: &Event, me: u64) {
        let (mine, flush) = (event.settle == Settle::Over, event.kind == EventKind::Flush);
        let mut held = self.held.lock();
        held.tags.retain(|(_, author), until| *until > now || (!flush && (*author == me) != mine));
        if flush {
            held.everything = held.everything.filter(|until| *until > now);
        }
        self.any.store(!held.is_empty(), Ordering::Release);
    }

    /// Waits until something else is held.
    pub(in crate::store) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coherence::{Coherence, Epoch};

    const SECOND: Duration = Duration::from_secs(1);
    const ME: u64 = 1;

    fn view() -> std::sync::Arc<View> {
        Coherence::new(Epoch(1), [0; 32], 5, 16).view().clone()
    }

    fn event(origin: u64, tags: &[u64]) -> Event {
        let tags = tags.iter().copied().map(Tag).collect();
        Event { tags, origin, hashed_with: view().secret_id, rules: 5, ..Event::default() }
    }

    #[test]
    fn a_tag_is_held_until_it_has_settled_and_been_purged_once_more() {
        let (settling, view) = (Settling::default(), view());
        settling.hold(&event(ME, &[1, 2]), SECOND);
        settling.hold(&event(ME, &[2]), 2 * SECOND);
        assert!(settling.holds(&[Tag(1)], &view) && !settling.holds(&[Tag(3)], &view));
        let (purge, next) = settling.settled(SECOND, ME);
        let purge = purge.unwrap();
        assert_eq!((&purge.tags[..], purge.settle, next), (&[Tag(1)][..], Settle::Over, Some(2 * SECOND)));
        assert!(settling.holds(&[Tag(1)], &view), "until the purge is in force");
        settling.end(SECOND, &purge, ME);
        assert!(!settling.holds(&[Tag(1)], &view) && settling.holds(&[Tag(2)], &view));
        let (purge, _) = settling.settled(2 * SECOND, ME);
        settling.end(2 * SECOND, &purge.unwrap(), ME);
        assert_eq!(settling.settled(3 * SECOND, ME), (None, None));
        assert!(!settling.holds(&[Tag(2)], &view));
    }

    #[test]
    fn what_one_author_ends_another_may_have_begun_again() {
        let (settling, view) = (Settling::default(), view());
        settling.hold(&event(2, &[1]), SECOND);
        settling.hold(&event(3, &[1]), SECOND);
        settling.release(&event(2, &[1]));
        assert!(settling.holds(&[Tag(1)], &view));
        settling.release(&event(3, &[1]));
        assert!(!settling.holds(&[Tag(1)], &view));
    }

    #[test]
    fn what_its_author_did_not_get_to_is_purged_here_in_another_s_name() {
        let (settling, view) = (Settling::default(), view());
        settling.hold(&event(2, &[1]), SECOND);
        settling.hold(&event(ME, &[1]), 2 * SECOND);
        let purge = settling.settled(SECOND, ME).0.unwrap();
        assert_eq!(purge.settle, Settle::AtOnce, "or others would let go what is held for this author");
        settling.end(SECOND, &purge, ME);
        assert!(settling.holds(&[Tag(1)], &view));
    }

    #[test]
    fn under_another_secret_or_other_rules_nothing_is_stored() {
        let (settling, view) = (Settling::default(), view());
        settling.hold(&Event { rules: 6, ..event(ME, &[1]) }, SECOND);
        assert!(settling.holds(&[Tag(9)], &view));
        settling.hold(&event(ME, &[1]), SECOND);
        assert!(settling.holds(&[Tag(9)], &view));
        let flush = settling.settled(SECOND, ME).0.unwrap();
        assert_eq!(flush.kind, EventKind::Flush);
        settling.end(SECOND, &flush, ME);
        assert!(!settling.holds(&[Tag(9)], &view));
    }

    #[test]
    fn beyond_the_bound_everything_is_held() {
        let (settling, view) = (Settling::default(), view());
        let many: Vec<u64> = (0..MOST as u64).collect();
        settling.hold(&event(ME, &many), 2 * SECOND);
        settling.hold(&event(ME, &[u64::MAX]), SECOND);
        assert!(settling.holds(&[Tag(u64::MAX - 1)], &view));
        assert_eq!(settling.settled(SECOND, ME), (None, Some(2 * SECOND)));
        assert_eq!(settling.settled(2 * SECOND, ME).0.unwrap().kind, EventKind::Flush);
    }
}
