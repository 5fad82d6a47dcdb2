//! What the tiers hold: a stored response with everything that proves it may be used, or, where responses vary,
//! an index that says which request fields select and which variants there are.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::HeaderName;

use crate::coherence::Stamp;
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::semantics::stored::StoredResponse;
use crate::semantics::timestamp::Timestamp;

/// One entry.
#[derive(Debug)]
pub struct Entry {
    /// Primary key (not the variant's).
    pub key: CacheKey,
    /// Route that stored it.
    pub route: Arc<str>,
    /// Taken before its fetch went upstream.
    pub stamp: Stamp,
    /// What can purge it; sorted, without repeats.
    pub tags: Box<[Tag]>,
    /// The response.
    pub response: StoredResponse,
    /// `View::version` at which it was last found live (0 = never): an unchanged log then costs one load.
    pub last_live: AtomicU64,
}

impl Entry {
    /// The moment from which nothing can be done with it any more.
    pub fn gone_at(&self) -> Timestamp {
        let response = &self.response;
        response.response_time.plus(response.lifetimes.gone_after().saturating_sub(response.initial_age))
    }

    /// Where it is kept: its own key, or its variant's if request fields selected it.
    pub fn storage_key(&self) -> CacheKey {
        let selecting = &self.response.selecting;
        if selecting.0.is_empty() { self.key } else { self.key.variant(selecting) }
    }

    /// What could purge another entry can purge this one too.
    pub fn inherit_tags(&mut self, of: &Entry) {
        let all: BTreeSet<Tag> = self.tags.iter().chain(&of.tags).copied().collect();
        self.tags = all.into_iter().collect();
    }

    /// Whether a 304 may vouch for it by ETag.
    pub fn has_etag(&self) -> bool {
        self.response.headers.contains_key(http::header::ETAG)
    }

    /// The bytes it takes in memory, near enough to bound it: content, fields, tags and their overhead.
    pub fn weight(&self) -> u64 {
        /// What a header map keeps per field beside its bytes, and an entry beside its parts.
        const PER_FIELD: usize = 100;
        const PER_ENTRY: usize = 512;
        let fields: usize =
            self.response.headers.iter().map(|(n, v)| n.as_str().len() + v.len() + PER_FIELD).sum();
        let selecting: usize = self
            .response
            .selecting
            .0
            .iter()
            .map(|(n, v)| n.as_str().len() + v.as_ref().map_or(0, http::HeaderValue::len) + PER_FIELD)
            .sum();
        let bytes = self.response.body.len() + fields + selecting + self.tags.len() * 8 + PER_ENTRY;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
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
            stamp: entry.stamp,
            fields: vec![entry.response.selecting.0.iter().map(|(name, _)| name.clone()).collect()],
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
