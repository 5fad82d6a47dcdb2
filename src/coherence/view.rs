//! One instance's view of the purge log, and the liveness test that guards every reuse.
//!
//! Invariants, each of which a stale answer would follow from:
//!
//! - marks and floor are written before `applied`: who samples a sequence is covered by every mark up to it;
//! - `applied` never passes a gap without raising the floor;
//! - a sample is read from one loaded [`View`], so that epoch, sequence and rules belong together;
//! - a view is swapped whole; what changes inside one only rises.
//!
//! Writers are serialised by a small mutex that is never held across anything slow; readers take no lock.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::event::{Event, EventKind};
use super::marks::Marks;
use crate::policy::tags::Tag;

/// A random identity of one life of the log. An entry of another epoch is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Epoch(pub u128);

/// What an entry carries to prove it is not older than a purge: sampled before its fetch's first byte went upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp {
    /// Epoch it was sampled in.
    pub epoch: Epoch,
    /// Sequence that had been applied then.
    pub seq: u64,
    /// Fingerprint of the rules its tags were made by.
    pub rules: u64,
}

/// Epoch, secret, rules, floor, marks and applied sequence: one object, swapped whole on a new epoch or new rules.
pub struct View {
    /// The epoch.
    pub epoch: Epoch,
    /// Secret of keys and tag hashes; belongs to the epoch unless configured.
    pub secret: [u8; 32],
    /// Names the secret without telling it: goes into events ([`Event::hashed_with`]). Never 0.
    pub secret_id: u64,
    /// Fingerprint of the rules in force.
    pub rules: u64,
    /// Entries below it are void.
    pub floor: AtomicU64,
    /// Every event up to here has been applied, without a gap.
    pub applied: AtomicU64,
    /// Newest purge per tag. New rules do not lose them, hence shared.
    pub marks: Arc<Marks>,
    /// Rises with every change of floor or marks, across views: never 0, never the same for two states.
    pub version: AtomicU64,
}

/// Why an entry may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Void {
    /// Made in another epoch.
    Epoch,
    /// Tagged by other rules.
    Rules,
    /// Older than the log reaches back, or than a flush.
    Floor,
    /// A purge named one of its tags after it was fetched.
    Purged,
}

/// The verdict on a stamp and its tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It may be used.
    Live,
    /// It may not.
    Void(Void),
}

impl View {
    fn new(epoch: Epoch, secret: [u8; 32], rules: u64, slots: usize, floor: u64, version: u64) -> View {
        View {
            epoch,
            secret,
            secret_id: secret_id(&secret),
            rules,
            floor: AtomicU64::new(floor),
            applied: AtomicU64::new(floor),
            marks: Arc::new(Marks::new(slots)),
            version: AtomicU64::new(version),
        }
    }

    /// (epoch, applied sequence, rules) as one triple.
    pub fn sample(&self) -> Stamp {
        Stamp { epoch: self.epoch, seq: self.applied.load(Ordering::Acquire), rules: self.rules }
    }

    /// The liveness test (DESIGN §4.3).
    pub fn liveness(&self, stamp: &Stamp, tags: &[Tag]) -> Liveness {
        if stamp.epoch != self.epoch {
            Liveness::Void(Void::Epoch)
        } else if stamp.rules != self.rules {
            Liveness::Void(Void::Rules)
        } else if stamp.seq < self.floor.load(Ordering::Acquire) {
            Liveness::Void(Void::Floor)
        } else if tags.iter().any(|tag| self.marks.newest(*tag) > stamp.seq) {
            Liveness::Void(Void::Purged)
        } else {
            Liveness::Live
        }
    }

    /// Marks what `event` names as purged at `seq`. Everything, where its tags mean nothing here: other rules may
    /// have tagged our entries otherwise, another secret hashes the same names otherwise.
    fn mark(&self, event: &Event, seq: u64) {
        let other_rules = event.rules != 0 && event.rules != self.rules;
        let other_secret =
            !event.tags.is_empty() && event.hashed_with != 0 && event.hashed_with != self.secret_id;
        if event.kind == EventKind::Flush || other_rules || other_secret {
            self.floor.fetch_max(seq, Ordering::AcqRel);
            return;
        }
        for tag in &event.tags {
            self.marks.raise(*tag, seq);
        }
        for name in &event.names {
            self.marks.raise(Tag::of(&self.secret, name), seq);
        }
    }

    fn advance(&self, seq: u64, event: &Event, owed: &[Arc<Event>]) -> bool {
        let applied = self.applied.load(Ordering::Acquire);
        if seq <= applied {
            return false;
        }
        if seq > applied.saturating_add(1) {
            // A gap: what the missing events purged is not known, so everything older is void.
            self.floor.fetch_max(seq, Ordering::AcqRel);
        }
        self.mark(event, seq);
        // What is still owed stays dead at the new sequence too; marked before anyone can sample it.
        for event in owed {
            self.mark(event, seq.saturating_add(1));
        }
        self.changed();
        self.applied.store(seq, Ordering::Release);
        true
    }

    fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("epoch", &self.epoch)
            .field("rules", &self.rules)
            .field("floor", &self.floor)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

fn secret_id(secret: &[u8; 32]) -> u64 {
    let digest = blake3::derive_key("weir 2025 fingerprint of a cache secret", secret);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first).max(1)
}

/// A view of another epoch while its log is being read: not in force, so nothing is judged by half a log.
#[derive(Debug)]
pub struct Draft {
    view: View,
    /// Origin and number of each numbered event in it: what is owed and has come through is owed no longer.
    seen: HashSet<(u64, u64)>,
}

impl Draft {
    /// Applies the event at `seq`; a gap raises the floor. Returns false if it was already applied.
    pub fn apply(&mut self, seq: u64, event: &Event) -> bool {
        if event.id != 0 {
            self.seen.insert((event.origin, event.id));
        }
        self.view.advance(seq, event, &[])
    }

    /// The log ends at `seq` and does not tell what lies between: everything older is void.
    pub fn skip_to(&mut self, seq: u64) {
        self.view.advance(seq, &Event::flush(), &[]);
    }

    /// Every event up to here has been applied.
    pub fn applied(&self) -> u64 {
        self.view.applied.load(Ordering::Acquire)
    }
}

/// Shared handle.
#[derive(Debug)]
pub struct Coherence {
    view: ArcSwap<View>,
    /// Serialises writers; holds what was applied here but is not in the log yet.
    owed: Mutex<Vec<Arc<Event>>>,
}

impl Coherence {
    /// A fresh log of its own: random epoch and secret come from the caller.
    pub fn new(epoch: Epoch, secret: [u8; 32], rules: u64, slots: usize) -> Coherence {
        Coherence {
            view: ArcSwap::from_pointee(View::new(epoch, secret, rules, slots, 0, 1)),
            owed: Mutex::new(Vec::new()),
        }
    }

    /// The view in force.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    /// (epoch, applied sequence, rules) as one triple: taken before a fetch's first byte goes upstream.
    pub fn sample(&self) -> Stamp {
        self.view.load().sample()
    }

    /// The liveness test (DESIGN §4.3).
    pub fn liveness(&self, stamp: &Stamp, tags: &[Tag]) -> Liveness {
        self.view.load().liveness(stamp, tags)
    }

    /// The liveness test, remembered: `last_live` keeps the [`View::version`] at which the entry was last found
    /// live, so that one load and one comparison do as long as nothing was purged. Starts at 0.
    pub fn liveness_since(&self, stamp: &Stamp, tags: &[Tag], last_live: &AtomicU64) -> Liveness {
        let view = self.view.load();
        // Loaded before the marks: a purge that comes between is seen next time, as it had not been applied yet.
        let version = view.version.load(Ordering::Acquire);
        if last_live.load(Ordering::Relaxed) == version {
            return Liveness::Live;
        }
        let liveness = view.liveness(stamp, tags);
        if liveness == Liveness::Live {
            last_live.store(version, Ordering::Relaxed);
        }
        liveness
    }

    /// Applies the event at `seq`: marks first, then `applied`. A gap raises the floor. Returns false if it was
    /// already applied, or belongs to another epoch.
    pub fn apply(&self, epoch: Epoch, seq: u64, event: &Event) -> bool {
        let mut owed = self.owed.lock();
        let view = self.view.load();
        if view.epoch != epoch {
            return false;
        }
        if seq > view.applied.load(Ordering::Acquire) {
            // An owed event that has come through needs no further marks than its own.
            owed.retain(|o| event.id == 0 || (o.origin, o.id) != (event.origin, event.id));
        }
        view.advance(seq, event, &owed)
    }

    /// Appends to a log that is this process alone: gives the event its sequence and applies it.
    pub fn append_local(&self, event: &Event) -> u64 {
        let owed = self.owed.lock();
        let view = self.view.load();
        let seq = view.applied.load(Ordering::Acquire).saturating_add(1);
        view.advance(seq, event, &owed);
        seq
    }

    /// The log of `epoch` ends at `seq` and does not tell what lies between: everything older is void.
    pub fn skip_to(&self, epoch: Epoch, seq: u64) -> bool {
        let owed = self.owed.lock();
        let view = self.view.load();
        if view.epoch != epoch || seq <= view.applied.load(Ordering::Acquire) {
            return false;
        }
        view.advance(seq, &Event::flush(), &owed)
    }

    /// Voids these tags here without an event in the log (it could not be reached): entries now stored or sampled
    /// are dead, and stay so until the event itself is applied or [`Coherence::settle_owed`] is called.
    pub fn apply_owed(&self, event: &Arc<Event>) {
        let mut owed = self.owed.lock();
        let view = self.view.load();
        view.mark(event, view.applied.load(Ordering::Acquire).saturating_add(1));
        view.changed();
        owed.push(Arc::clone(event));
    }

    /// The owed event is in the log and applied here, or another that covers it is owed instead. Returns false if
    /// its application has settled it already. True = what it named stays dead until the next event is applied.
    pub fn settle_owed(&self, event: &Arc<Event>) -> bool {
        let mut owed = self.owed.lock();
        let before = owed.len();
        owed.retain(|o| !Arc::ptr_eq(o, event));
        owed.len() < before
    }

    /// How many events are owed to the log.
    pub fn owed(&self) -> usize {
        self.owed.lock().len()
    }

    /// A view of `epoch` that knows nothing before `floor`, to replay the log into; see [`Coherence::enter`].
    pub fn draft(&self, epoch: Epoch, secret: [u8; 32], floor: u64) -> Draft {
        let view = self.view.load();
        let view = View::new(epoch, secret, view.rules, view.marks.slots(), floor, 0);
        Draft { view, seen: HashSet::new() }
    }

    /// Puts a draft in force: every entry of the old epoch is void. Returns false, and changes nothing, if its
    /// epoch is already in force (somebody else entered it, and has perhaps applied more since).
    pub fn enter(&self, draft: Draft) -> bool {
        let mut owed = self.owed.lock();
        let old = self.view.load_full();
        let mut view = draft.view;
        if view.epoch == old.epoch {
            return false;
        }
        let applied = view.applied.load(Ordering::Acquire);
        if view.rules != old.rules {
            // Reloaded meanwhile: the events were read by rules that are no longer ours.
            view.rules = old.rules;
            view.floor.fetch_max(applied, Ordering::AcqRel);
        }
        owed.retain(|o| !draft.seen.contains(&(o.origin, o.id)));
        for event in owed.iter() {
            view.mark(event, applied.saturating_add(1));
        }
        self.swap(&old, view);
        true
    }

    /// A new epoch whose log ends at `seq`, without replay: every older entry is void.
    pub fn enter_epoch(&self, epoch: Epoch, secret: [u8; 32], seq: u64) {
        self.enter(self.draft(epoch, secret, seq));
    }

    /// New rules (reload): entries tagged by others are void. If the same rules return, what they stored before
    /// revives only if nothing was purged meanwhile: those events may not have named all that these rules would.
    pub fn set_rules(&self, rules: u64) {
        let _owed = self.owed.lock();
        let old = self.view.load_full();
        if old.rules == rules {
            return;
        }
        let applied = old.applied.load(Ordering::Acquire);
        let view = View {
            epoch: old.epoch,
            secret: old.secret,
            secret_id: old.secret_id,
            rules,
            floor: AtomicU64::new(old.floor.load(Ordering::Acquire).max(applied)),
            applied: AtomicU64::new(applied),
            marks: Arc::clone(&old.marks),
            version: AtomicU64::new(0),
        };
        self.swap(&old, view);
    }

    /// Under the lock: the old view's version can no longer rise, so the new one's is new.
    fn swap(&self, old: &View, view: View) {
        view.version.store(old.version.load(Ordering::Acquire).saturating_add(1), Ordering::Release);
        self.view.store(Arc::new(view));
    }
}

#[cfg(test)]
mod tests;
