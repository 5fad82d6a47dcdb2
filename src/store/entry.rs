//! What the tiers hold: a stored response with everything that proves it may be used, or, where responses vary,
//! an index that says which request fields select and which variants there are.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::HeaderName;

use crate::coherence::{Epoch, Stamp};
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::semantics::stored::StoredResponse;
use crate::semantics::timestamp::Timestamp;

/// One entry. There may be millions, so each field is as small as it can be, and what many have in common is kept once.
#[derive(Debug)]
pub struct Entry {
    /// Primary key (not the variant's).
    pub key: CacheKey,
    source: Arc<Source>,
    seq: u64,
    /// What can purge it; sorted, without repeats.
    pub tags: Tags,
    /// The response.
    pub response: StoredResponse,
    /// `View::version` at which it was last found live (0 = never): an unchanged log then costs one load.
    pub last_live: AtomicU64,
}

/// What the entries of one route have in common until something big happens.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    route: Arc<str>,
    epoch: Epoch,
    rules: u64,
}

impl Source {
    /// The one that the thread's last entries had too, if it is this.
    fn of(route: &Arc<str>, stamp: &Stamp) -> Arc<Source> {
        const REMEMBERED: usize = 32;
        thread_local! {
            static LAST: RefCell<VecDeque<Arc<Source>>> = const { RefCell::new(VecDeque::new()) };
        }
        LAST.with_borrow_mut(|last| {
            let same = |source: &Arc<Source>| {
                source.epoch == stamp.epoch && source.rules == stamp.rules && source.route == *route
            };
            if let Some(source) = last.iter().find(|source| same(source)) {
                return Arc::clone(source);
            }
            let source = Source { route: Arc::clone(route), epoch: stamp.epoch, rules: stamp.rules };
            let source = Arc::new(source);
            last.truncate(REMEMBERED - 1);
            last.push_front(Arc::clone(&source));
            source
        })
    }
}

/// An entry's tags. One or two, as most have, need no memory of their own.
#[derive(Clone)]
pub enum Tags {
    /// So many of these.
    Few(u8, [Tag; 2]),
    /// More.
    Many(Box<[Tag]>),
}

impl std::ops::Deref for Tags {
    type Target = [Tag];

    fn deref(&self) -> &[Tag] {
        match self {
            Tags::Few(count, tags) => tags.get(..usize::from(*count)).unwrap_or(tags),
            Tags::Many(tags) => tags,
        }
    }
}

impl From<&[Tag]> for Tags {
    fn from(tags: &[Tag]) -> Tags {
        match *tags {
            [] => Tags::Few(0, [Tag(0); 2]),
            [one] => Tags::Few(1, [one; 2]),
            [one, two] => Tags::Few(2, [one, two]),
            _ => Tags::Many(tags.into()),
        }
    }
}

impl From<Vec<Tag>> for Tags {
    fn from(tags: Vec<Tag>) -> Tags {
        if tags.len() > 2 { Tags::Many(tags.into()) } else { Tags::from(&*tags) }
    }
}

impl FromIterator<Tag> for Tags {
    fn from_iter<I: IntoIterator<Item = Tag>>(tags: I) -> Tags {
        Tags::from(tags.into_iter().collect::<Vec<_>>())
    }
}

impl PartialEq for Tags {
    fn eq(&self, other: &Tags) -> bool {
        **self == **other
    }
}

impl Eq for Tags {}

impl std::fmt::Debug for Tags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl Entry {
    /// One that nobody has found live yet. `stamp` was taken before its fetch went upstream; `tags` are sorted, without
    /// repeats.
    pub fn new(
        key: CacheKey,
        route: &Arc<str>,
        stamp: Stamp,
        tags: impl Into<Tags>,
        response: StoredResponse,
    ) -> Entry {
        let (source, tags) = (Source::of(route, &stamp), tags.into());
        Entry { key, source, seq: stamp.seq, tags, response, last_live: AtomicU64::new(0) }
    }

    /// The same for keeping: see [`StoredResponse::compact`].
    pub fn compact(&self) -> Entry {
        Entry::new(self.key, self.route(), self.stamp(), self.tags.clone(), self.response.compact())
    }

    /// Route that stored it.
    pub fn route(&self) -> &Arc<str> {
        &self.source.route
    }

    /// Taken before its fetch went upstream.
    pub fn stamp(&self) -> Stamp {
        Stamp { epoch: self.source.epoch, seq: self.seq, rules: self.source.rules }
    }

    /// Stamps it anew.
    pub fn restamp(&mut self, stamp: Stamp) {
        self.source = Source::of(&self.source.route, &stamp);
        self.seq = stamp.seq;
    }

    /// The moment from which nothing can be done with it any more.
    pub fn gone_at(&self) -> Timestamp {
        let response = &self.response;
        response
            .response_time()
            .plus(response.lifetimes().gone_after().saturating_sub(response.initial_age()))
    }

    /// Where it is kept: its own key, or its variant's if request fields selected it.
    pub fn storage_key(&self) -> CacheKey {
        let selecting = self.response.selecting();
        if selecting.0.is_empty() { self.key } else { self.key.variant(selecting) }
    }

    /// What could purge another entry can purge this one too.
    pub fn inherit_tags(&mut self, of: &Entry) {
        let all: BTreeSet<Tag> = self.tags.iter().chain(&*of.tags).copied().collect();
        self.tags = all.into_iter().collect();
    }

    /// Whether a 304 may vouch for it by ETag.
    pub fn has_etag(&self) -> bool {
        self.response.fields().contains(&http::header::ETAG)
    }

    /// The bytes it takes in memory, with everything that keeping it costs.
    pub fn weight(&self) -> u64 {
        // The two counts that an `Arc` has.
        let this = allocated(2 * size_of::<usize>() + size_of::<Entry>());
        let tags = if let Tags::Many(tags) = &self.tags { allocated(size_of_val(&**tags)) } else { 0 };
        let [first, second, selecting] = self.response.pieces();
        let second = if second > 0 { allocated(2 * size_of::<bytes::Bytes>()) + shared(second) } else { 0 };
        let selecting = if selecting > 0 { allocated(0) + allocated(selecting) } else { 0 };
        u64::try_from(SLOT + this + tags + shared(first) + second + selecting).unwrap_or(u64::MAX)
    }
}

/// What the map of slots takes for each: key, slot and links, and its share of the table.
const SLOT: usize = 80;

/// What a piece of memory of this many bytes takes: the allocator's own word before it, in steps of 16.
fn allocated(bytes: usize) -> usize {
    (bytes + size_of::<usize>()).next_multiple_of(16).max(32)
}

/// A piece of memory in shares: these are counted in a piece beside it.
fn shared(bytes: usize) -> usize {
    allocated(bytes) + allocated(3 * size_of::<usize>())
}

/// Most field lists an index remembers: a backend seldom has more than one `Vary` per URL at a time.
pub const MAX_FIELD_LISTS: usize = 4;

/// What lies at a primary key whose responses vary (RFC 9111 §4.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaryIndex {
    /// The primary key.
    pub key: CacheKey,
    /// Stamp of the newest entry under it; only its epoch matters, to sweepers.
    pub stamp: Stamp,
    /// Lists of selecting fields, the most recent first.
    pub fields: Vec<Vec<HeaderName>>,
    /// Storage keys of the variants, the oldest first.
    pub variants: Vec<CacheKey>,
    /// When the longest-lived variant is gone.
    pub gone_at: Timestamp,
}

impl VaryIndex {
    /// The index over one variant.
    pub fn of(entry: &Entry) -> VaryIndex {
        VaryIndex {
            key: entry.key,
            stamp: entry.stamp(),
            fields: vec![entry.response.selecting().0.iter().map(|(name, _)| name.clone()).collect()],
            variants: vec![entry.storage_key()],
            gone_at: entry.gone_at(),
        }
    }

    /// Takes up what an older index knew, within `max_variants`. Returns the variants that no longer fit.
    pub fn absorb(&mut self, older: &VaryIndex, max_variants: usize) -> Vec<CacheKey> {
        for list in &older.fields {
            if self.fields.len() < MAX_FIELD_LISTS && !self.fields.contains(list) {
                self.fields.push(list.clone());
            }
        }
        let mut variants: Vec<CacheKey> =
            older.variants.iter().filter(|v| !self.variants.contains(v)).copied().collect();
        variants.append(&mut self.variants);
        let over = variants.len().saturating_sub(max_variants.max(1));
        self.variants = variants.split_off(over);
        self.gone_at = self.gone_at.max(older.gone_at);
        variants
    }

    /// The bytes it takes in memory, near enough.
    pub fn weight(&self) -> u64 {
        let names: usize = self.fields.iter().flatten().map(|n| n.as_str().len() + 40).sum();
        u64::try_from(names + self.variants.len() * 32 + 256).unwrap_or(u64::MAX)
    }
}

/// What one key holds, in either tier.
#[derive(Debug, Clone)]
pub enum Slot {
    /// A response that every request selects, or one variant.
    Entry(Arc<Entry>),
    /// Responses vary: look further.
    Index(Arc<VaryIndex>),
}
