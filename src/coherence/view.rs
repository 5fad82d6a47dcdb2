//! One instance's view of the purge log, and the liveness test that guards every reuse.
//!
//! Invariants, each of which a stale answer would follow from:
//!
//! - marks and floor are written before `applied`: who samples a sequence is covered by every mark up to it;
//! - `applied` never passes a gap without raising the floor;
//! - a sample is read from one loaded [`View`], so that epoch, sequence and rules belong together;
//! - a view is swapped whole; what changes inside one only rises;
//! - a lease belongs to the view's epoch, is granted only once `applied` has reached the end that its beat was told,
//!   and is looked at before the marks are: who finds it valid at a moment at or after a request's arrival reads marks
//!   that hold every mutation answered before that arrival (DESIGN §4.5).
//!
//! Writers are serialised by a small mutex that is never held across anything slow; readers take no lock.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::event::{Event, EventKind};
use super::marks::Marks;
use super::tally::Tally;
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

/// How many leases may be on offer at once; the oldest goes first. A beat is sent four times per lease.
const MOST_OFFERS: usize = 8;
/// A lease that never ends: of a log that is this process alone, or where nobody waits for anybody.
const FOR_EVER: u64 = u64::MAX;

/// Epoch, secret, rules, floor, marks, lease and applied sequence: one object, swapped whole on a new epoch or new
/// rules.
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
    /// Newest soft purge per tag; there is none until the first.
    pub soft: Arc<OnceLock<Marks>>,
    /// Until when this view may answer for the log, in nanoseconds on `Clock::elapsed`.
    pub lease_until: AtomicU64,
    /// Rises with every change of floor or marks, across views: never 0, never the same for two states.
    pub version: AtomicU64,
}

/// Why an entry may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Void {
    /// This instance holds no lease: others' purges may not have arrived.
    Lease,
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
    /// A soft purge named one of its tags: it may be used where stale responses may.
    Stale,
    /// It may not.
    Void(Void),
}

impl View {
    fn new(epoch: Epoch, secret: [u8; 32], rules: u64, slots: usize, floor: u64, leased: bool) -> View {
        View {
            epoch,
            secret,
            secret_id: secret_id(&secret),
            rules,
            floor: AtomicU64::new(floor),
            applied: AtomicU64::new(floor),
            marks: Arc::new(Marks::new(slots)),
            soft: Arc::default(),
            lease_until: AtomicU64::new(if leased { 0 } else { FOR_EVER }),
            version: AtomicU64::new(1),
        }
    }

    /// Whether the lease was valid at `arrived` (on `Clock::elapsed`) or later. To be asked before the marks are read.
    pub fn holds_lease(&self, arrived: Duration) -> bool {
        self.lease_until.load(Ordering::Acquire) > nanoseconds(arrived)
    }

    /// How much of the lease is left; `None` = it never ends.
    pub fn lease_left(&self, now: Duration) -> Option<Duration> {
        match self.lease_until.load(Ordering::Acquire) {
            FOR_EVER => None,
            until => Some(Duration::from_nanos(until.saturating_sub(nanoseconds(now)))),
        }
    }

    /// (epoch, applied sequence, rules) as one triple.
    pub fn sample(&self) -> Stamp {
        Stamp { epoch: self.epoch, seq: self.applied.load(Ordering::Acquire), rules: self.rules }
    }

    /// The liveness test (DESIGN §4.3) by what is known here, lease or not.
    pub fn liveness(&self, stamp: &Stamp, tags: &[Tag]) -> Liveness {
        if stamp.epoch != self.epoch {
            Liveness::Void(Void::Epoch)
        } else if stamp.rules != self.rules {
            Liveness::Void(Void::Rules)
        } else if stamp.seq < self.floor.load(Ordering::Acquire) {
            Liveness::Void(Void::Floor)
        } else if tags.iter().any(|tag| self.marks.newest(*tag) > stamp.seq) {
            Liveness::Void(Void::Purged)
        } else if self.soft.get().is_some_and(|soft| tags.iter().any(|tag| soft.newest(*tag) > stamp.seq)) {
            Liveness::Stale
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
        let marks = match event.kind {
            EventKind::Soft => self.soft.get_or_init(|| Marks::new(self.marks.slots())),
            _ => &*self.marks,
        };
        for tag in &event.tags {
            marks.raise(*tag, seq);
        }
        for name in &event.names {
            marks.raise(Tag::of(&self.secret, name), seq);
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

fn nanoseconds(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(FOR_EVER - 1)
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
    /// Serialises writers.
    pending: Mutex<Pending>,
    /// Whether a view answers for the log only while it holds a lease.
    leased: AtomicBool,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Pending {
    /// What was applied here but is not in the log yet.
    owed: Vec<Arc<Event>>,
    /// Leases whose condition is not met yet.
    offers: VecDeque<Offer>,
}

/// A lease until `until`, once `epoch` is in force and applied up to `end`.
#[derive(Debug, Clone, Copy)]
struct Offer {
    epoch: Epoch,
    end: u64,
    until: u64,
}

impl Pending {
    /// Grants what is due; under the lock, after `applied` was written.
    fn grant(&mut self, view: &View) {
        let applied = view.applied.load(Ordering::Acquire);
        self.offers.retain(|offer| {
            let due = offer.epoch == view.epoch && offer.end <= applied;
            if due {
                view.lease_until.fetch_max(offer.until, Ordering::AcqRel);
            }
            !due
        });
    }
}

impl Coherence {
    /// A fresh log of its own: random epoch and secret come from the caller.
    pub fn new(epoch: Epoch, secret: [u8; 32], rules: u64, slots: usize) -> Coherence {
        Coherence {
            view: ArcSwap::from_pointee(View::new(epoch, secret, rules, slots, 0, false)),
            pending: Mutex::default(),
            leased: AtomicBool::new(false),
            tally: Tally::default(),
        }
    }

    /// Takes note of an entry that a look-up could not use, or only as stale, for this reason.
    pub fn count(&self, found: Liveness, stamp: &Stamp, tags: &[Tag]) {
        let view = self.view.load();
        let falsely = match found {
            Liveness::Void(Void::Purged) => view.marks.raised_by_others(tags, stamp.seq),
            Liveness::Stale => view.soft.get().is_some_and(|soft| soft.raised_by_others(tags, stamp.seq)),
            _ => false,
        };
        self.tally.count(found, falsely);
    }

    /// How often look-ups came upon entries that they could not use.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// From now on a view answers for the log only while it holds a lease; the present one holds none.
    pub fn require_leases(&self) {
        let _pending = self.pending.lock();
        self.leased.store(true, Ordering::Release);
        self.view.load().lease_until.store(0, Ordering::Release);
    }

    /// From now on a view answers for the log without one: nobody waits for anybody.
    pub fn waive_leases(&self) {
        let _pending = self.pending.lock();
        if self.leased.swap(false, Ordering::AcqRel) {
            self.view.load().lease_until.store(FOR_EVER, Ordering::Release);
        }
    }

    /// A lease until `until` (on `Clock::elapsed`), to be granted once `epoch` is in force and applied up to `end`.
    pub fn offer_lease(&self, epoch: Epoch, end: u64, until: Duration) {
        let mut pending = self.pending.lock();
        if pending.offers.len() == MOST_OFFERS {
            pending.offers.pop_front();
        }
        pending.offers.push_back(Offer { epoch, end, until: nanoseconds(until) });
        pending.grant(&self.view.load());
    }

    /// Prolongs the lease without the log's word, if `epoch` is in force: nobody else was there to be waited for.
    pub fn prolong_alone(&self, epoch: Epoch, until: Duration) {
        let _pending = self.pending.lock();
        let view = self.view.load();
        if view.epoch == epoch {
            view.lease_until.fetch_max(nanoseconds(until), Ordering::AcqRel);
        }
    }

    /// Gives the lease up, with what is on offer: nothing is answered from the store until another is granted.
    pub fn give_up_lease(&self) {
        let mut pending = self.pending.lock();
        pending.offers.clear();
        if self.leased.load(Ordering::Acquire) {
            self.view.load().lease_until.store(0, Ordering::Release);
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

    /// The liveness test (DESIGN §4.3) by what is known here, lease or not: for what is to be stored, and for what
    /// began under a lease that was looked at then.
    pub fn liveness(&self, stamp: &Stamp, tags: &[Tag]) -> Liveness {
        self.view.load().liveness(stamp, tags)
    }

    /// Whether the lease was valid at `arrived` (on `Clock::elapsed`) or later.
    pub fn holds_lease(&self, arrived: Duration) -> bool {
        self.view.load().holds_lease(arrived)
    }

    /// Whether a request that arrived at `arrived` may be answered by an entry: the lease, then the liveness test.
    pub fn reusable(&self, stamp: &Stamp, tags: &[Tag], arrived: Duration) -> Liveness {
        let view = self.view.load();
        if view.holds_lease(arrived) { view.liveness(stamp, tags) } else { Liveness::Void(Void::Lease) }
    }

    /// [`Coherence::reusable`], remembered: `last_live` keeps the [`View::version`] at which the entry was last found
    /// live, so that one load and two comparisons do as long as nothing was purged. Starts at 0.
    pub fn reusable_since(
        &self,
        stamp: &Stamp,
        tags: &[Tag],
        arrived: Duration,
        last_live: &AtomicU64,
    ) -> Liveness {
        let view = self.view.load();
        if !view.holds_lease(arrived) {
            return Liveness::Void(Void::Lease);
        }
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
        let mut pending = self.pending.lock();
        let view = self.view.load();
        if view.epoch != epoch {
            return false;
        }
        if seq > view.applied.load(Ordering::Acquire) {
            // An owed event that has come through needs no further marks than its own.
            pending.owed.retain(|o| event.id == 0 || (o.origin, o.id) != (event.origin, event.id));
        }
        let advanced = view.advance(seq, event, &pending.owed);
        pending.grant(&view);
        advanced
    }

    /// Appends to a log that is this process alone: gives the event its sequence and applies it.
    pub fn append_local(&self, event: &Event) -> u64 {
        let pending = self.pending.lock();
        let view = self.view.load();
        let seq = view.applied.load(Ordering::Acquire).saturating_add(1);
        view.advance(seq, event, &pending.owed);
        seq
    }

    /// The log of `epoch` ends at `seq` and does not tell what lies between: everything older is void.
    pub fn skip_to(&self, epoch: Epoch, seq: u64) -> bool {
        let mut pending = self.pending.lock();
        let view = self.view.load();
        if view.epoch != epoch || seq <= view.applied.load(Ordering::Acquire) {
            return false;
        }
        let advanced = view.advance(seq, &Event::flush(), &pending.owed);
        pending.grant(&view);
        advanced
    }

    /// Voids these tags here without an event in the log (it could not be reached): entries now stored or sampled
    /// are dead, and stay so until the event itself is applied or [`Coherence::settle_owed`] is called.
    pub fn apply_owed(&self, event: &Arc<Event>) {
        let mut pending = self.pending.lock();
        let view = self.view.load();
        view.mark(event, view.applied.load(Ordering::Acquire).saturating_add(1));
        view.changed();
        pending.owed.push(Arc::clone(event));
    }

    /// The owed event is in the log and applied here, or another that covers it is owed instead. Returns false if
    /// its application has settled it already. True = what it named stays dead until the next event is applied.
    pub fn settle_owed(&self, event: &Arc<Event>) -> bool {
        let mut pending = self.pending.lock();
        let before = pending.owed.len();
        pending.owed.retain(|o| !Arc::ptr_eq(o, event));
        pending.owed.len() < before
    }

    /// How many events are owed to the log.
    pub fn owed(&self) -> usize {
        self.pending.lock().owed.len()
    }

    /// A view of `epoch` that knows nothing before `floor`, to replay the log into; see [`Coherence::enter`].
    pub fn draft(&self, epoch: Epoch, secret: [u8; 32], floor: u64) -> Draft {
        let view = self.view.load();
        let leased = self.leased.load(Ordering::Acquire);
        let view = View::new(epoch, secret, view.rules, view.marks.slots(), floor, leased);
        Draft { view, seen: HashSet::new() }
    }

    /// Puts a draft in force: every entry of the old epoch is void. Returns false, and changes nothing, if its
    /// epoch is already in force (somebody else entered it, and has perhaps applied more since).
    pub fn enter(&self, draft: Draft) -> bool {
        let mut pending = self.pending.lock();
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
        // Whether leases are needed may have changed while the log was read.
        let leased = self.leased.load(Ordering::Acquire);
        view.lease_until = AtomicU64::new(if leased { 0 } else { FOR_EVER });
        pending.owed.retain(|o| !draft.seen.contains(&(o.origin, o.id)));
        for event in &pending.owed {
            view.mark(event, applied.saturating_add(1));
        }
        pending.grant(&self.swap(&old, view));
        true
    }

    /// A new epoch whose log ends at `seq`, without replay: every older entry is void.
    pub fn enter_epoch(&self, epoch: Epoch, secret: [u8; 32], seq: u64) {
        self.enter(self.draft(epoch, secret, seq));
    }

    /// New rules (reload): entries tagged by others are void. If the same rules return, what they stored before
    /// revives only if nothing was purged meanwhile: those events may not have named all that these rules would. What
    /// is owed under other rules voids everything, as it will once it is applied.
    pub fn set_rules(&self, rules: u64) {
        let pending = self.pending.lock();
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
            soft: Arc::clone(&old.soft),
            lease_until: AtomicU64::new(old.lease_until.load(Ordering::Acquire)),
            version: AtomicU64::new(1),
        };
        for event in &pending.owed {
            view.mark(event, applied.saturating_add(1));
        }
        self.swap(&old, view);
    }

    /// Under the lock: the old view's version can no longer rise, so the new one's is new.
    fn swap(&self, old: &View, view: View) -> Arc<View> {
        view.version.store(old.version.load(Ordering::Acquire).saturating_add(1), Ordering::Release);
        let view = Arc::new(view);
        self.view.store(Arc::clone(&view));
        view
    }
}

#[cfg(test)]
mod tests;
