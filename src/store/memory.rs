//! L1: entries in process memory, bounded by bytes, scan-resistant.
//!
//! Each key holds a [`Slot`]: an entry, or an index of variants whose entries lie under keys of their own.
//! Nothing here is trusted for being here: each look-up proves liveness and expiry anew, so that there is no
//! window between a purge and the removal of what it voids. No look-up does I/O or holds a lock across work.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

use super::entry::{Entry, Slot, VaryIndex};
use super::{Absent, Lookup, Tier};
use crate::coherence::{Coherence, Liveness, Void};
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::semantics::freshness::date_value;
use crate::semantics::timestamp::Timestamp;
use crate::semantics::vary::Selecting;

type Slots = Cache<CacheKey, Slot, Bytes, KeyBits, DefaultLifecycle<CacheKey, Slot>>;

/// The tier.
pub struct Memory {
    slots: Slots,
    max_variants: usize,
    /// Two variants that arrive together must not lose each other from the index.
    indexing: Mutex<()>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<CacheKey, Slot> for Bytes {
    fn weight(&self, _: &CacheKey, slot: &Slot) -> u64 {
        match slot {
            Slot::Entry(entry) => entry.weight(),
            Slot::Index(index) => index.weight(),
        }
    }
}

/// Keys are keyed digests already: eight of their bytes are as good a hash as any.
#[derive(Clone, Default)]
struct KeyBits(u64);

impl BuildHasher for KeyBits {
    type Hasher = KeyBits;
    fn build_hasher(&self) -> KeyBits {
        KeyBits(0)
    }
}

impl Hasher for KeyBits {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
    fn write_usize(&mut self, _: usize) {
        // The length that precedes an array's bytes: the same for all.
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

/// What may be done with an entry.
enum Verdict {
    Usable,
    /// A soft purge has made it stale.
    Softened,
    /// Void, but its ETag may be asked about.
    Revalidate(Void),
    /// Perhaps live, but this instance cannot tell.
    Unproven,
    Useless(Option<Void>),
}

fn judge(entry: &Entry, liveness: Liveness, now: Timestamp) -> Verdict {
    if entry.response.is_gone(now) {
        return Verdict::Useless(None);
    }
    match liveness {
        Liveness::Live => Verdict::Usable,
        Liveness::Stale => Verdict::Softened,
        Liveness::Void(void) if entry.has_etag() => Verdict::Revalidate(void),
        Liveness::Void(Void::Lease) => Verdict::Unproven,
        Liveness::Void(void) => Verdict::Useless(Some(void)),
    }
}

/// By what is known here, lease or not: for who keeps house.
fn known(entry: &Entry, coherence: &Coherence) -> Liveness {
    coherence.liveness(&entry.stamp(), &entry.tags)
}

/// Who asks, and when.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Its fields.
    pub request: &'a HeaderMap,
    /// When it arrived, on `Clock::elapsed`.
    pub arrived: Duration,
    /// The time.
    pub now: Timestamp,
}

/// Of several candidates, the answer: the most recent live one by its `Date` (RFC 9111 §4, §4.1), else a void one that can be
/// asked about, else the reason why there is none.
pub struct Choice {
    found: Option<Arc<Entry>>,
    softened: Option<Arc<Entry>>,
    voided: Option<(Arc<Entry>, Void)>,
    absent: Absent,
}

impl Choice {
    /// Nothing seen yet; `absent` is the answer if it stays so.
    pub fn new(absent: Absent) -> Choice {
        Choice { found: None, softened: None, voided: None, absent }
    }

    /// Weighs one candidate for a request. Returns false if it is of no more use to anybody.
    pub fn offer(&mut self, entry: Arc<Entry>, asked: Asked<'_>, coherence: &Coherence) -> bool {
        if !entry.response.selecting().matches(asked.request) {
            return true;
        }
        let liveness = coherence.reusable_since(&entry.stamp(), &entry.tags, asked.arrived, &entry.last_live);
        match judge(&entry, liveness, asked.now) {
            Verdict::Usable => keep_newer(&mut self.found, entry),
            Verdict::Softened => keep_newer(&mut self.softened, entry),
            Verdict::Revalidate(void) => self.voided = Some((entry, void)),
            Verdict::Unproven => self.absent = Absent::Void(Void::Lease),
            Verdict::Useless(void) => {
                if let Some(void) = void {
                    self.absent = Absent::Void(void);
                    // Counted as it goes; what stays is counted once per look-up, by the store.
                    coherence.count(Liveness::Void(void), &entry.stamp(), &entry.tags);
                }
                return false;
            }
        }
        true
    }

    /// The answer.
    pub fn done(self, tier: Tier) -> Lookup {
        match (self.found, self.softened, self.voided) {
            (Some(entry), ..) => Lookup::Found(entry, tier),
            (None, Some(entry), _) => Lookup::Softened(entry, tier),
            (None, None, Some((entry, void))) => Lookup::Voided(entry, void),
            (None, None, None) => Lookup::Absent(self.absent),
        }
    }
}

fn keep_newer(kept: &mut Option<Arc<Entry>>, entry: Arc<Entry>) {
    // "As determined by the Date header field" (RFC 9111 §4); of one second, the last that came.
    let made = |entry: &Entry| {
        let received = entry.response.response_time();
        (date_value(&entry.response.fields(), received).seconds(), received)
    };
    let newer = |old: &Arc<Entry>| made(old) < made(&entry);
    if kept.as_ref().is_none_or(newer) {
        *kept = Some(entry);
    }
}

/// What an insertion pushed out on purpose, to be removed from L2 too.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Displaced(pub Vec<CacheKey>);

impl Memory {
    /// At most `bytes`; an item of `largest` bytes still fits.
    pub fn new(bytes: u64, largest: u64, max_variants: usize) -> Option<Memory> {
        // An item larger than a shard is silently not kept, so shards are as many as leave each room for two of
        // the largest, and at most 16.
        let shards = (bytes / largest.saturating_mul(2).max(1)).clamp(1, 16);
        let shards = 1usize << shards.ilog2();
        // Of half as many that had to go it keeps the hash, in 72 bytes each: at most a fiftieth of what entries may take.
        // The map itself grows with what comes.
        let items = usize::try_from(bytes / 2048).unwrap_or(usize::MAX).clamp(32 * shards, 1 << 20);
        let options = OptionsBuilder::new()
            .shards(shards)
            .estimated_items_capacity(items)
            .weight_capacity(bytes)
            .build()
            .ok()?;
        (bytes > 0).then(|| Memory {
            slots: Cache::with_options(options, Bytes, KeyBits::default(), DefaultLifecycle::default()),
            max_variants,
            indexing: Mutex::new(()),
        })
    }

    /// The answer for `request`, if memory has one. What is found to be of no more use is dropped.
    pub fn lookup(&self, key: &CacheKey, asked: Asked<'_>, coherence: &Coherence) -> Lookup {
        let index = match self.slots.get(key) {
            None => return Lookup::Absent(Absent::NotStored),
            Some(Slot::Entry(entry)) => {
                let mut choice = Choice::new(Absent::NotStored);
                self.offer(&mut choice, key, entry, asked, coherence);
                return choice.done(Tier::Memory);
            }
            Some(Slot::Index(index)) => index,
        };
        let mut choice = Choice::new(Absent::NoVariant);
        for fields in &index.fields {
            let variant = key.variant(&Selecting::from_request(fields, asked.request));
            if let Some(Slot::Entry(entry)) = self.slots.get(&variant)
                && entry.key == *key
            {
                self.offer(&mut choice, &variant, entry, asked, coherence);
            }
        }
        choice.done(Tier::Memory)
    }

    fn offer(
        &self,
        choice: &mut Choice,
        at: &CacheKey,
        entry: Arc<Entry>,
        asked: Asked<'_>,
        coherence: &Coherence,
    ) {
        if !choice.offer(Arc::clone(&entry), asked, coherence) {
            self.drop_entry(at, &entry);
        }
    }

    /// Takes an entry in: at its own key, or as a variant behind an index. A response that varies replaces one
    /// that did not, and the other way round.
    pub fn insert(&self, entry: &Arc<Entry>) -> Displaced {
        let _indexing = self.indexing.lock();
        let old = self.slots.peek(&entry.key);
        let mut displaced = Displaced::default();
        if entry.response.selecting().0.is_empty() {
            if let Some(Slot::Index(index)) = old {
                displaced.0.clone_from(&index.variants);
            }
            self.slots.insert(entry.key, Slot::Entry(Arc::clone(entry)));
        } else {
            let mut index = VaryIndex::of(entry);
            if let Some(Slot::Index(old)) = old {
                displaced.0 = index.absorb(&old, self.max_variants);
            }
            self.slots.insert(entry.storage_key(), Slot::Entry(Arc::clone(entry)));
            self.slots.insert(entry.key, Slot::Index(Arc::new(index)));
        }
        for variant in &displaced.0 {
            self.slots.remove(variant);
        }
        displaced
    }

    /// Takes in what another tier had, unless memory has got something newer meanwhile.
    pub fn promote(&self, entry: &Arc<Entry>, coherence: &Coherence, now: Timestamp) {
        let newer = match self.slots.peek(&entry.storage_key()) {
            Some(Slot::Entry(old)) => {
                old.response.response_time() > entry.response.response_time()
                    && matches!(judge(&old, known(&old, coherence), now), Verdict::Usable)
            }
            _ => false,
        };
        if !newer {
            self.insert(&Arc::new(entry.compact()));
        }
    }

    /// Removes a primary key and its variants; returns how many entries went.
    pub fn remove(&self, key: &CacheKey) -> u64 {
        match self.slots.remove(key) {
            None => 0,
            Some((_, Slot::Entry(_))) => 1,
            Some((_, Slot::Index(index))) => {
                index.variants.iter().map(|v| u64::from(self.slots.remove(v).is_some())).sum()
            }
        }
    }

    /// Removes this very entry, not one that has taken its place meanwhile.
    pub fn drop_entry(&self, at: &CacheKey, entry: &Arc<Entry>) -> bool {
        let same = |slot: &Slot| matches!(slot, Slot::Entry(there) if Arc::ptr_eq(there, entry));
        self.slots.remove_if(at, same).is_some()
    }

    /// Removes this very index.
    pub fn drop_index(&self, at: &CacheKey, index: &Arc<VaryIndex>) -> bool {
        let same = |slot: &Slot| matches!(slot, Slot::Index(there) if Arc::ptr_eq(there, index));
        self.slots.remove_if(at, same).is_some()
    }

    /// Walks over everything; locks one shard for one step at a time. What comes or goes meanwhile may be missed.
    pub fn iter(&self) -> impl Iterator<Item = (CacheKey, Slot)> + '_ {
        self.slots.iter()
    }

    /// Whether sweepers may drop a slot: gone, or void without an ETag to ask about.
    pub fn useless(slot: &Slot, coherence: &Coherence, now: Timestamp) -> bool {
        match slot {
            Slot::Entry(entry) => matches!(judge(entry, known(entry, coherence), now), Verdict::Useless(_)),
            Slot::Index(index) => index.gone_at <= now,
        }
    }

    /// Whether a slot is a live entry that carries one of `tags` (sorted).
    pub fn carries(slot: &Slot, tags: &[Tag], coherence: &Coherence, now: Timestamp) -> bool {
        match slot {
            Slot::Entry(entry) => {
                entry.tags.iter().any(|t| tags.binary_search(t).is_ok())
                    && matches!(
                        judge(entry, known(entry, coherence), now),
                        Verdict::Usable | Verdict::Softened
                    )
            }
            Slot::Index(_) => false,
        }
    }

    /// How many slots are taken, indexes included.
    pub fn len(&self) -> u64 {
        u64::try_from(self.slots.len()).unwrap_or(u64::MAX)
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes taken.
    pub fn bytes(&self) -> u64 {
        self.slots.weight()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("slots", &self.len()).field("bytes", &self.bytes()).finish()
    }
}

#[cfg(test)]
mod tests;
