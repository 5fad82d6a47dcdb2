//! Where stored responses live: memory (L1), Redis (L2), and the purge log that orders both.

pub mod codec;
pub mod entry;
pub mod memory;
pub mod redis;
pub mod sweeper;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::coherence::{Coherence, Event, Void};
use crate::metrics::Metrics;
use crate::policy::key::CacheKey;
use crate::time::Clock;
pub use entry::Entry;

/// Settings of the tiers, as `config` gives them.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Namespace: part of keys, epoch-wide.
    pub namespace: String,
    /// Bytes that L1 may take; 0 = no L1.
    pub memory_bytes: u64,
    /// Largest entry body kept, bytes.
    pub max_body: u64,
    /// Most variants per primary key.
    pub max_variants: usize,
    /// Marks slots (power of two).
    pub mark_slots: usize,
    /// Secret of keys and tag hashes; `None` = random, kept with the epoch.
    pub secret: Option<[u8; 32]>,
    /// L2; `None` = memory alone.
    pub redis: Option<redis::RedisConfig>,
}

/// Which tier answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// L1.
    Memory,
    /// L2.
    Redis,
}

/// A look-up's result: never an error (DESIGN promise 3).
#[derive(Debug, Clone)]
pub enum Lookup {
    /// A live stored response that this request's fields select.
    Found(Arc<Entry>, Tier),
    /// An entry that a purge has voided but whose strong validator may still be asked about (304 by ETag only).
    Voided(Arc<Entry>, Void),
    /// Nothing usable, because…
    Absent(Absent),
}

/// Why nothing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absent {
    /// No entry under the key.
    NotStored,
    /// Entries under the key, none that this request's fields select.
    NoVariant,
    /// An entry, but void.
    Void(Void),
    /// Redis did not answer in time, or the breaker is open.
    StoreUnavailable,
    /// The value could not be decoded, or its checksum failed.
    Corrupt,
    /// Caching is switched off.
    Disabled,
}

/// What became of a purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purged {
    /// The event's sequence number in the log (0 while owed).
    pub seq: u64,
    /// The log could not be reached: applied here, owed to the log.
    pub owed: bool,
}

/// How many entries a purge voided, from a bounded look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Entries that were live before and carry one of the tags.
    pub entries: u64,
    /// False when the look-up hit its bound before it had seen everything.
    pub complete: bool,
}

/// Counts since start, for `/stats`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StoreStats {
    /// Entries stored since start.
    pub sets: u64,
    /// Entries removed or voided-and-reclaimed since start.
    pub deletes: u64,
    /// Entries in memory now.
    pub memory_entries: u64,
    /// Bytes in memory now.
    pub memory_bytes: u64,
}

/// Redis as `/healthz` and `/stats` show it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RedisHealth {
    /// It answered just now.
    pub connected: bool,
    /// `closed` (normal), `open` (not tried), `half-open` (trying).
    pub breaker: &'static str,
    /// Round trip of a PING, milliseconds.
    pub response_ms: Option<f64>,
    /// Entries under our prefix, as far as counted (approximate).
    pub entries: Option<u64>,
    /// `used_memory` of INFO, bytes.
    pub used_memory: Option<u64>,
    /// `maxmemory_policy`.
    pub eviction_policy: Option<String>,
    /// `uptime_in_seconds`.
    pub uptime_seconds: Option<u64>,
    /// `connected_clients`.
    pub clients: Option<u64>,
    /// `total_commands_processed`.
    pub total_commands: Option<u64>,
    /// Server version.
    pub version: Option<String>,
    /// Last failure, in words; never holds a secret.
    pub last_error: Option<String>,
    /// Warnings in words (eviction policy, …).
    pub warnings: Vec<String>,
}

/// The tiers and the log.
#[derive(Debug)]
pub struct Store {
    #[allow(dead_code)]
    coherence: Arc<Coherence>,
}

impl Store {
    /// Opens the tiers. Redis need not be there: it is joined when it answers. Spawns the log follower and sweeper.
    pub async fn open(_config: StoreConfig, _rules: u64, _clock: Clock, _metrics: Metrics) -> Arc<Store> {
        unimplemented!()
    }
    /// The view of the purge log.
    pub fn coherence(&self) -> &Arc<Coherence> {
        &self.coherence
    }
    /// Looks in memory only: synchronous, no I/O. `None` = ask [`Store::lookup`].
    pub fn lookup_memory(&self, _key: &CacheKey, _request: &HeaderMap) -> Option<Lookup> {
        unimplemented!()
    }
    /// Memory, then Redis within its deadline; what Redis has is promoted with its age.
    pub async fn lookup(&self, _key: &CacheKey, _request: &HeaderMap) -> Lookup {
        unimplemented!()
    }
    /// Stores under `entry.key` (primary) or its variant: memory at once, Redis in the background within bounds.
    /// An entry that is no longer live is not stored; the entry comes back either way, as followers may check it.
    pub fn insert(&self, _entry: Entry) -> Arc<Entry> {
        unimplemented!()
    }
    /// Removes one primary key and its variants from both tiers.
    pub async fn remove(&self, _key: &CacheKey, _route: &str) {
        unimplemented!()
    }
    /// Appends a purge to the log and applies it here. Returns once it is applied here.
    pub async fn publish(&self, _event: Event) -> Purged {
        unimplemented!()
    }
    /// How many live entries carry one of these tags: a bounded look-up for the admin API, made before a purge.
    pub async fn count(&self, _tags: &[crate::policy::tags::Tag], _limit: Duration) -> Counted {
        unimplemented!()
    }
    /// Switches the cache off and on again (requests pass through while off; purges still count).
    pub fn set_enabled(&self, _on: bool) {}
    /// Whether the cache is on.
    pub fn enabled(&self) -> bool {
        true
    }
    /// Counts.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
    /// Redis' state; `None` without Redis.
    pub async fn redis_health(&self) -> Option<RedisHealth> {
        None
    }
    /// Ends background tasks and flushes pending writes, within `limit`.
    pub async fn close(&self, _limit: Duration) {}
}
