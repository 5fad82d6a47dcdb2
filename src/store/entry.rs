//! A stored response with everything that proves it may be used.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::coherence::Stamp;
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::semantics::stored::StoredResponse;

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
    /// Sequence at which it was last found live: an unchanged log then costs one load.
    pub last_live: AtomicU64,
}
