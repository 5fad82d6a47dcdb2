//! Tags that may not be stored for a while, as `store::settling` has them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::Notify;
use weir::coherence::event::Settle;
use weir::coherence::{Event, EventKind, View};
use weir::policy::tags::Tag;

/// What tags mean something under: the secret that hashed them, and the rules that made them.
type Language = (u64, u64);

/// `store::settling`. Each author's holds are its own: what one lets go, another may still hold.
#[derive(Default)]
pub struct Settling {
    held: RefCell<BTreeMap<(Tag, u64), Duration>>,
    language: Cell<Language>,
    everything: Cell<Option<Duration>>,
    pub changed: Notify,
}

impl Settling {
    pub fn hold(&self, event: &Event, until: Duration) {
        let language = (event.hashed_with, event.rules);
        let mut held = self.held.borrow_mut();
        if !held.is_empty() && self.language.get() != language {
            let latest = held.values().copied().max().unwrap_or_default();
            held.clear();
            self.everything.set(self.everything.get().max(Some(latest.max(until))));
        } else {
            self.language.set(language);
            for tag in &event.tags {
                let present = held.entry((*tag, event.origin)).or_default();
                *present = (*present).max(until);
            }
        }
        self.changed.notify_one();
    }

    pub fn release(&self, event: &Event, whoever: bool) {
        if self.language.get() == (event.hashed_with, event.rules) {
            let origin = event.origin;
            self.held
                .borrow_mut()
                .retain(|(tag, of), _| !(event.tags.contains(tag) && (*of == origin || whoever)));
        }
    }

    pub fn holds(&self, tags: &[Tag], view: &View) -> bool {
        let held = self.held.borrow();
        self.everything.get().is_some()
            || (!held.is_empty() && self.language.get() != (view.secret_id, view.rules))
            || tags.iter().any(|tag| held.range((*tag, 0)..=(*tag, u64::MAX)).next().is_some())
    }

    /// What has settled, and when the next does. It is held on until it is purged once more. What others hold and do
    /// not get to is purged without a word on settling, which would let go what this author holds elsewhere.
    pub fn settled(&self, now: Duration, me: u64) -> (Option<Event>, Option<Duration>) {
        let held = self.held.borrow();
        let everything = self.everything.get().is_some_and(|until| until <= now).then(Event::flush);
        let event = everything.or_else(|| self.due(now, |origin| origin == me, Settle::Over));
        let event = event.or_else(|| self.due(now, |origin| origin != me, Settle::AtOnce));
        let later = held.values().copied().filter(|until| *until > now);
        (event, later.chain(self.everything.get().filter(|until| *until > now)).min())
    }

    fn due(&self, now: Duration, whose: impl Fn(u64) -> bool, settle: Settle) -> Option<Event> {
        let held = self.held.borrow();
        let due = held.iter().filter(|((_, origin), until)| **until <= now && whose(*origin));
        let due: BTreeSet<Tag> = due.map(|((tag, _), _)| *tag).collect();
        let (hashed_with, rules) = self.language.get();
        let tags: Vec<Tag> = due.into_iter().collect();
        (!tags.is_empty()).then(|| Event { tags, hashed_with, rules, settle, ..Event::default() })
    }

    /// What had settled at `now` has been purged by `event`: what has been held anew since is held on.
    pub fn end(&self, now: Duration, event: &Event, me: u64) {
        let mine = event.settle == Settle::Over;
        let flush = event.kind == EventKind::Flush;
        self.held
            .borrow_mut()
            .retain(|(_, origin), until| *until > now || (!flush && (*origin == me) != mine));
        self.everything.set(self.everything.get().filter(|until| *until > now));
    }
}
