//! Where stored responses live: memory (L1), Redis (L2), and the purge log that orders both.

pub mod codec;
pub mod entry;
pub mod memory;
pub mod redis;
pub mod sweeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;

use crate::coherence::{Coherence, Epoch, Event, Liveness, Void};
use crate::metrics::Metrics;
use crate::policy::key::CacheKey;
use crate::time::Clock;
pub use entry::Entry;
use memory::Memory;

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
    coherence: Arc<Coherence>,
    memory: Option<Memory>,
    config: StoreConfig,
    clock: Clock,
    metrics: Metrics,
    enabled: AtomicBool,
    sets: AtomicU64,
    deletes: Arc<AtomicU64>,
    /// Random, per process start: tells our events from others'.
    origin: u64,
    /// Numbers our events.
    events: AtomicU64,
}

impl Store {
    /// Opens the tiers. Redis need not be there: it is joined when it answers. Spawns the log follower and sweeper.
    pub async fn open(config: StoreConfig, rules: u64, clock: Clock, metrics: Metrics) -> Arc<Store> {
        let secret = config.secret.unwrap_or_else(random);
        let epoch = Epoch(u128::from_le_bytes(random()));
        let coherence = Arc::new(Coherence::new(epoch, secret, rules, config.mark_slots));
        let largest = config.max_body.saturating_add(codec::MAX_OVERHEAD);
        let memory = Memory::new(config.memory_bytes, largest, config.max_variants);
        Arc::new(Store {
            coherence,
            memory,
            config,
            clock,
            metrics,
            enabled: AtomicBool::new(true),
            sets: AtomicU64::new(0),
            deletes: Arc::default(),
            origin: u64::from_le_bytes(random()).max(1),
            events: AtomicU64::new(0),
        })
    }
    /// The installation's namespace: part of keys.
    pub fn namespace(&self) -> &str {
        &self.config.namespace
    }
    /// The view of the purge log.
    pub fn coherence(&self) -> &Arc<Coherence> {
        &self.coherence
    }
    /// Looks in memory only: synchronous, no I/O. `None` = ask [`Store::lookup`].
    pub fn lookup_memory(&self, key: &CacheKey, request: &HeaderMap) -> Option<Lookup> {
        if !self.enabled() {
            return Some(Lookup::Absent(Absent::Disabled));
        }
        Some(self.near(key, request))
    }
    /// Memory, then Redis within its deadline; what Redis has is promoted with its age.
    pub async fn lookup(&self, key: &CacheKey, _route: &str, request: &HeaderMap) -> Lookup {
        if !self.enabled() {
            return Lookup::Absent(Absent::Disabled);
        }
        self.near(key, request)
    }
    fn near(&self, key: &CacheKey, request: &HeaderMap) -> Lookup {
        match &self.memory {
            Some(memory) => memory.lookup(key, request, &self.coherence, self.clock.now()),
            None => Lookup::Absent(Absent::NotStored),
        }
    }
    /// Stores under `entry.key` (primary) or its variant: memory at once, Redis in the background within bounds.
    /// An entry that is no longer live is not stored; the entry comes back either way, as followers may check it.
    pub fn insert(&self, entry: Entry) -> Arc<Entry> {
        let entry = Arc::new(entry);
        if self.enabled() && self.coherence.liveness(&entry.stamp, &entry.tags) == Liveness::Live {
            self.sets.fetch_add(1, Ordering::Relaxed);
            if let Some(memory) = &self.memory {
                memory.insert(&entry);
            }
        }
        entry
    }
    /// Removes one primary key and its variants from both tiers.
    pub async fn remove(&self, key: &CacheKey, _route: &str) {
        if let Some(memory) = &self.memory {
            self.deletes.fetch_add(memory.remove(key), Ordering::Relaxed);
        }
    }
    /// Appends a purge to the log and applies it here. Returns once it is applied here.
    pub async fn publish(&self, mut event: Event) -> Purged {
        event.origin = self.origin;
        event.id = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        Purged { seq: self.coherence.append_local(&event), owed: false }
    }
    /// How many live entries carry one of these tags: a bounded look-up for the admin API, made before a purge.
    pub async fn count(&self, tags: &[crate::policy::tags::Tag], _limit: Duration) -> Counted {
        let now = self.clock.now();
        let entries = self.memory.iter().flat_map(Memory::iter);
        let entries = entries.filter(|(_, slot)| Memory::carries(slot, tags, &self.coherence, now)).count();
        Counted { entries: u64::try_from(entries).unwrap_or(u64::MAX), complete: true }
    }
    /// Switches the cache off and on again (requests pass through while off; purges still count).
    pub fn set_enabled(&self, on: bool) {
        self.enabled.store(on, Ordering::Release);
    }
    /// Whether the cache is on.
    pub fn enabled(&self) -> bool {
        self.enabled.load(Ordering::Acquire)
    }
    /// Counts.
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            sets: self.sets.load(Ordering::Relaxed),
            deletes: self.deletes.load(Ordering::Relaxed),
            memory_entries: self.memory.as_ref().map_or(0, Memory::len),
            memory_bytes: self.memory.as_ref().map_or(0, Memory::bytes),
        }
    }
    /// Redis' state; `None` without Redis.
    pub async fn redis_health(&self) -> Option<RedisHealth> {
        None
    }
    /// Ends background tasks and flushes pending writes, within `limit`.
    pub async fn close(&self, _limit: Duration) {}
}

/// Random bytes for secrets, epochs and identities.
#[expect(
    clippy::expect_used,
    reason = "without randomness every secret could be guessed: better not to start"
)]
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}
