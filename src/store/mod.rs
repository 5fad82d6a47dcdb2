//! Where stored responses live: memory (L1), Redis (L2), and the purge log that orders both.

pub mod codec;
pub mod entry;
pub mod memory;
pub mod outside;
pub mod redis;
mod settling;
pub mod sweeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::HeaderMap;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::memory::{Asked, Displaced, Memory};
pub use self::redis::lock::{BOUND, Claim, Ended, Heard, Listener, Lock, Locks};
use self::redis::log::{LogStatus, Translate};
use self::redis::tier::Sought;
use self::redis::{Redis, Surroundings};
use self::settling::Settling;
use self::sweeper::Sweeper;
use crate::coherence::event::Settle;
use crate::coherence::{Agreement, Alone, Coherence, Epoch, Event, Liveness, MemberId, Stamp, Void};
use crate::metrics::{Metrics, StoreOp, StoreResult, StoreTier};
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::semantics::timestamp::Timestamp;
use crate::time::Clock;
pub use entry::{Entry, Slot};

/// Settings of the tiers, as `config` gives them.
#[derive(Clone)]
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
    /// What the namespace agrees on. Memory alone keeps no lease.
    pub agreement: Agreement,
    /// What to do when cut off from Redis as the only instance.
    pub alone: Alone,
    /// What to do with mutations when cut off from Redis.
    pub unreachable_log: UnreachableLog,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreConfig")
            .field("namespace", &self.namespace)
            .field("memory_bytes", &self.memory_bytes)
            .field("secret", &if self.secret.is_some() { "set" } else { "random" })
            .field("redis", &self.redis)
            .finish_non_exhaustive()
    }
}

/// Which tier answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// L1.
    Memory,
    /// L2.
    Redis,
}

impl Tier {
    /// Its name in `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Tier::Memory => "memory",
            Tier::Redis => "redis",
        }
    }
}

/// A look-up's result: never an error (DESIGN promise 3).
#[derive(Debug, Clone)]
pub enum Lookup {
    /// A live stored response that this request's fields select.
    Found(Arc<Entry>, Tier),
    /// One that a soft purge has made stale: to be used only where stale responses may.
    Softened(Arc<Entry>, Tier),
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
    /// The event's sequence number in the log; 0 = it is not in it yet.
    pub seq: u64,
    /// Who it has reached.
    pub reach: Reach,
}

impl Purged {
    /// Whether it is not in the log yet.
    pub fn is_owed(&self) -> bool {
        self.reach != Reach::Everywhere
    }
}

/// Who a purge has reached by the time its publisher goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Nobody on this log answers with anything older (in the eventual mode: it is in the log).
    Everywhere,
    /// The log could not be reached: it is in force here and owed to the log.
    Owed,
    /// As [`Reach::Owed`], where the operator wants mutations refused rather than owed.
    Unconfirmed,
}

/// What to do with mutations while the purge log cannot be reached (DESIGN §4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum UnreachableLog {
    /// Forward them; the purge is in force here and owed to the log.
    #[default]
    Forward,
    /// Answer 503 before forwarding.
    Refuse,
}

/// The purge log cannot be reached, and the operator wants mutations refused then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

/// An open mutation's record in the log: should this process end before the mutation's purge is published, whoever
/// evicts it from the log purges what the record names. Dropped without a word it stays open.
#[derive(Debug)]
#[must_use = "an intent is published or withdrawn"]
pub struct Intent(u64);

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
    /// `standalone`, `sentinel` or `cluster`.
    pub mode: &'static str,
    /// Host and port of the primary that has the purge log, as last connected to.
    pub primary: Option<String>,
    /// It answered just now.
    pub connected: bool,
    /// The purge log in it is being followed: other instances' purges arrive.
    pub log_followed: bool,
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
    memory: Option<Arc<Memory>>,
    redis: Option<Arc<Redis>>,
    namespace: String,
    max_body: u64,
    clock: Clock,
    metrics: Metrics,
    enabled: AtomicBool,
    sets: AtomicU64,
    /// Where there is Redis, entries removed there; else from memory.
    deletes: Arc<AtomicU64>,
    /// Who this is: tells our events from others'.
    origin: MemberId,
    /// Numbers our events.
    events: AtomicU64,
    settling: Arc<Settling>,
    unreachable_log: UnreachableLog,
    /// What makes purges by itself; it ends first, while there is a log to take them.
    settlers: TaskTracker,
    closing: CancellationToken,
    tasks: TaskTracker,
    /// Asks tasks to end once they have done what waits.
    stop: CancellationToken,
}

/// Most names an event carries as such; beyond them they are hashed here.
const MAX_NAMES: usize = 64;
/// How long a removal may take in Redis.
const REMOVE: Duration = Duration::from_secs(1);
/// How long opening waits for the purge log: what Redis kept is then of use from the first request on.
const JOIN: Duration = Duration::from_millis(500);

impl Store {
    /// Opens the tiers. Redis need not be there: it is joined when it answers. Spawns the log follower and sweeper.
    pub async fn open(config: StoreConfig, rules: u64, clock: Clock, metrics: Metrics) -> Arc<Store> {
        let secret = config.secret.unwrap_or_else(random);
        let epoch = Epoch(u128::from_le_bytes(random()));
        let coherence = Arc::new(Coherence::new(epoch, secret, rules, config.mark_slots));
        let largest = config.max_body.saturating_add(codec::MAX_OVERHEAD);
        let memory = Memory::new(config.memory_bytes, largest, config.max_variants).map(Arc::new);
        let (tasks, stop, deletes) = (TaskTracker::new(), CancellationToken::new(), Arc::default());
        let me = MemberId(u64::from_le_bytes(random()).max(1));
        let settling = Arc::<Settling>::default();
        let around = Surroundings {
            me,
            settling: &settling,
            coherence: &coherence,
            clock: &clock,
            metrics: &metrics,
            deletes: &deletes,
            tasks: &tasks,
            stop: &stop,
        };
        let redis = config.redis.as_ref().map(|r| Arc::new(Redis::start(r, &config, &around)));
        let sweeper = Sweeper {
            memory: memory.clone(),
            redis: redis.clone(),
            coherence: Arc::clone(&coherence),
            clock: clock.clone(),
            deletes: redis.is_none().then(|| Arc::clone(&deletes)),
        };
        tasks.spawn(sweeper.run(stop.clone()));
        if let Some(redis) = &redis
            && !redis.log.wait_joined(JOIN).await
        {
            tracing::warn!("Redis does not answer yet: requests go to the upstream until it does");
        }
        let store = Arc::new(Store {
            coherence,
            memory,
            redis,
            namespace: config.namespace,
            max_body: config.max_body,
            clock,
            metrics,
            enabled: AtomicBool::new(true),
            sets: AtomicU64::new(0),
            deletes,
            origin: me,
            events: AtomicU64::new(0),
            settling,
            unreachable_log: config.unreachable_log,
            settlers: TaskTracker::new(),
            closing: CancellationToken::new(),
            tasks,
            stop,
        });
        store.settlers.spawn(Arc::clone(&store).end_settling());
        store
    }

    /// The installation's namespace: part of keys.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The view of the purge log.
    pub fn coherence(&self) -> &Arc<Coherence> {
        &self.coherence
    }

    /// Looks in memory only: synchronous, no I/O. `arrived` is when the request did, on `Clock::elapsed`, read after
    /// it had. `None` = ask [`Store::lookup`].
    pub fn lookup_memory(
        &self,
        key: &CacheKey,
        request: &HeaderMap,
        arrived: Duration,
        now: Timestamp,
    ) -> Option<Lookup> {
        if !self.enabled() {
            return Some(Lookup::Absent(Absent::Disabled));
        }
        let near = self.near(key, Asked { request, arrived, now });
        self.count_near(&near);
        // What memory lacks, or has only void, Redis may have from another instance.
        let last = matches!(near, Lookup::Found(..)) || self.redis.is_none();
        last.then(|| self.noted(near))
    }

    /// Memory, then Redis within its deadline; what Redis has is promoted with its age. `route` is the route's
    /// name, part of names in Redis.
    pub async fn lookup(
        &self,
        key: &CacheKey,
        route: &Arc<str>,
        request: &HeaderMap,
        arrived: Duration,
    ) -> Lookup {
        if !self.enabled() {
            return Lookup::Absent(Absent::Disabled);
        }
        let near = self.near(key, Asked { request, arrived, now: self.clock.now() });
        if self.redis.is_none() {
            return self.noted(near);
        }
        if matches!(near, Lookup::Found(..)) {
            self.count_near(&near);
            return near;
        }
        if !self.coherence.holds_lease(arrived) {
            // Whatever Redis has could not be used either; what memory has may at least be asked about.
            return self.noted(match near {
                Lookup::Absent(Absent::NotStored | Absent::NoVariant) => {
                    Lookup::Absent(Absent::Void(Void::Lease))
                }
                near => near,
            });
        }
        self.noted(match (near, self.lookup_redis(key, route, request, arrived).await) {
            (_, found @ Lookup::Found(..)) => found,
            (softened @ Lookup::Softened(..), _) | (_, softened @ Lookup::Softened(..)) => softened,
            (voided @ Lookup::Voided(..), _) | (_, voided @ Lookup::Voided(..)) => voided,
            // The more telling of two reasons: why Redis could not help, else why memory did not.
            (near, Lookup::Absent(Absent::NotStored)) => near,
            (_, far) => far,
        })
    }

    /// Counts what is not live in a look-up's result and stays where it is.
    fn noted(&self, lookup: Lookup) -> Lookup {
        match &lookup {
            Lookup::Voided(entry, void) => {
                self.coherence.count(Liveness::Void(*void), &entry.stamp(), &entry.tags);
            }
            Lookup::Softened(entry, _) => {
                self.coherence.count(Liveness::Stale, &entry.stamp(), &entry.tags);
            }
            Lookup::Absent(Absent::Void(Void::Lease)) => {
                self.coherence.count(Liveness::Void(Void::Lease), &Stamp::default(), &[]);
            }
            Lookup::Found(..) | Lookup::Absent(_) => {}
        }
        lookup
    }

    /// Redis alone, whatever memory has: what another instance has just stored. It is promoted.
    pub async fn lookup_redis(
        &self,
        key: &CacheKey,
        route: &Arc<str>,
        request: &HeaderMap,
        arrived: Duration,
    ) -> Lookup {
        let Some(redis) = self.redis.as_ref().filter(|_| self.enabled()) else {
            return Lookup::Absent(Absent::Disabled);
        };
        let far = redis.tier.lookup(&Sought { key, route, request, arrived }).await;
        if let (Lookup::Found(entry, _), Some(memory)) = (&far, &self.memory) {
            memory.promote(entry, &self.coherence, self.clock.now());
        }
        far
    }

    /// The locks by which instances take turns; `None` = this instance is alone with its memory.
    pub fn locks(&self) -> Option<&Locks> {
        self.redis.as_ref().filter(|_| self.enabled()).map(|redis| &*redis.locks)
    }

    fn near(&self, key: &CacheKey, asked: Asked<'_>) -> Lookup {
        match &self.memory {
            Some(memory) => memory.lookup(key, asked, &self.coherence),
            None => Lookup::Absent(Absent::NotStored),
        }
    }

    /// Memory takes no time worth measuring: two readings of the clock would cost more.
    fn count_near(&self, near: &Lookup) {
        let result = match near {
            Lookup::Found(..) | Lookup::Softened(..) => StoreResult::Ok,
            Lookup::Voided(..) | Lookup::Absent(Absent::Void(_)) => StoreResult::Void,
            Lookup::Absent(_) => StoreResult::Absent,
        };
        self.metrics.store(StoreTier::Memory, StoreOp::Get, result, Duration::ZERO);
    }

    /// Stores under `entry.key` (primary) or its variant: memory at once, Redis in the background within bounds.
    /// An entry that is no longer live is not stored; the entry comes back either way, as followers may check it.
    ///
    /// A purge may come between the check here and the storing. That is no hole: the stamp goes with the entry, and
    /// every look-up in either tier, here and elsewhere, checks it again. The check here only saves the room.
    pub fn insert(&self, entry: Entry) -> Arc<Entry> {
        self.replace(entry, None)
    }

    /// [`Store::insert`] of what takes another entry's place, which is gone with it, wherever it lay.
    pub fn replace(&self, entry: Entry, from: Option<&Entry>) -> Arc<Entry> {
        let entry = Arc::new(entry);
        if !self.enabled() {
            return entry;
        }
        let live = !matches!(self.coherence.liveness(&entry.stamp(), &entry.tags), Liveness::Void(_))
            && !self.settling.holds(&entry.tags, &self.coherence.view());
        let size = u64::try_from(entry.response.body_bytes().len()).unwrap_or(u64::MAX);
        if !live || size > self.max_body || entry.response.is_gone(self.clock.now()) {
            let result = if live { StoreResult::Skipped } else { StoreResult::Void };
            self.metrics.store(StoreTier::Memory, StoreOp::Set, result, Duration::ZERO);
            return entry;
        }
        self.sets.fetch_add(1, Ordering::Relaxed);
        let mut displaced = match &self.memory {
            Some(memory) => memory.insert(&entry),
            None => Displaced::default(),
        };
        // At its primary key lies the new one or an index of it.
        let old = from.map(Entry::storage_key).filter(|old| ![entry.storage_key(), entry.key].contains(old));
        if let Some(old) = old {
            if let Some(memory) = &self.memory {
                memory.remove(&old);
            }
            displaced.0.push(old);
        }
        self.metrics.store(StoreTier::Memory, StoreOp::Set, StoreResult::Ok, Duration::ZERO);
        match &self.redis {
            // Before the log was joined, stamps are of this process' own epoch: nobody could use the entry.
            Some(redis) if redis.log.joined() => redis.tier.writes.put(Arc::clone(&entry), displaced.0),
            Some(_) => {
                self.metrics.store(StoreTier::Redis, StoreOp::Set, StoreResult::Skipped, Duration::ZERO);
            }
            None => self.deleted(u64::try_from(displaced.0.len()).unwrap_or(u64::MAX)),
        }
        entry
    }

    /// Removes one primary key and its variants, or one variant, from both tiers: from memory at once, from Redis within a
    /// second, if that may be.
    pub async fn remove(&self, key: &CacheKey, route: &str) {
        let from_memory = || self.memory.as_ref().map_or(0, |memory| memory.remove(key));
        let removed = from_memory();
        match &self.redis {
            Some(redis) => {
                redis.tier.writes.remove(key, route, REMOVE).await;
                // Somebody may have found it in Redis meanwhile.
                from_memory();
            }
            None => self.deleted(removed),
        }
    }

    fn deleted(&self, entries: u64) {
        self.deletes.fetch_add(entries, Ordering::Relaxed);
    }

    /// Records that a mutation is under way that will purge `event` or less. Without Redis there is nobody to tell.
    pub async fn intend(&self, event: Event) -> Result<Intent, Refused> {
        let event = self.signed(event);
        let intent = Intent(event.id);
        let Some(redis) = &self.redis else { return Ok(intent) };
        let recorded = redis.log.intend(Arc::new(event)).await;
        if recorded || self.unreachable_log == UnreachableLog::Forward {
            return Ok(intent);
        }
        redis.log.withdraw(intent.0);
        Err(Refused)
    }

    /// The mutation came to nothing: nothing is purged.
    pub fn withdraw(&self, intent: Intent) {
        if let Some(redis) = &self.redis {
            redis.log.withdraw(intent.0);
        }
    }

    /// Appends a purge to the log, applies it here, and returns once nobody answers with anything older, or with the
    /// reason why that is not known. Fulfils `intent`.
    ///
    /// The store numbers and signs the event. `hashed_with` should come from the view whose secret hashed the tags;
    /// left at 0, the present view's is taken, which is wrong if the epoch has changed in between.
    pub async fn publish(&self, event: Event, intent: Option<Intent>) -> Purged {
        let event = self.signed(event);
        if let Settle::For(ms) = event.settle {
            // First of all: between the purge and the hold nothing may slip in.
            self.settling.hold(&event, self.clock.elapsed() + Duration::from_millis(ms));
        }
        let named = event.tags.len() + event.names.len();
        let purged = match &self.redis {
            Some(redis) => redis.log.publish(event, intent.map(|intent| intent.0)).await,
            None => Purged { seq: self.coherence.append_local(&event), reach: Reach::Everywhere },
        };
        self.metrics.purge(named, purged.is_owed());
        purged
    }

    fn signed(&self, mut event: Event) -> Event {
        event.origin = self.origin.0;
        event.id = self.events.fetch_add(1, Ordering::Relaxed) + 1;
        let view = self.coherence.view();
        if event.names.len() > MAX_NAMES {
            event.tags.extend(event.names.drain(..).map(|name| Tag::of(&view.secret, &name)));
        }
        if event.hashed_with == 0 {
            event.hashed_with = view.secret_id;
        }
        event
    }

    /// From now on purges that somebody outside writes into the log's inbox are taken up, translated by this.
    pub fn translate_outside_with(&self, translate: Translate) {
        if let Some(redis) = &self.redis {
            redis.log.translate_with(translate);
        }
    }

    /// The log as this instance sees it; `None` = it is this process alone.
    pub fn log_status(&self) -> Option<LogStatus> {
        self.redis.as_ref().map(|redis| redis.log.status())
    }

    /// Purges what has settled, until the store closes; then, at once, what has not: others are told early rather
    /// than never.
    async fn end_settling(self: Arc<Self>) {
        loop {
            let stopping = self.closing.is_cancelled();
            let now = if stopping { Duration::MAX } else { self.clock.elapsed() };
            let (event, next) = self.settling.settled(now, self.origin.0);
            if let Some(event) = event {
                self.publish(event.clone(), None).await;
                self.settling.end(now, &event, self.origin.0);
                continue;
            }
            if stopping {
                return;
            }
            let wait = next.map_or(Duration::from_secs(3600), |at| at.saturating_sub(self.clock.elapsed()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.settling.changed() => {}
                () = self.closing.cancelled() => {}
            }
        }
    }

    /// How many live entries carry one of these tags: a bounded look-up for the admin API, made before a purge.
    /// `far` looks in Redis too, which takes round trips.
    pub async fn count(&self, tags: &[Tag], far: bool, limit: Duration) -> Counted {
        let places = sweeper::Places {
            memory: self.memory.as_deref(),
            redis: self.redis.as_deref(),
            coherence: &self.coherence,
            clock: &self.clock,
        };
        sweeper::count(&places, tags, far, limit).await
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
            memory_entries: self.memory.as_ref().map_or(0, |m| m.len()),
            memory_bytes: self.memory.as_ref().map_or(0, |m| m.bytes()),
        }
    }

    /// Redis' state; `None` without Redis.
    pub async fn redis_health(&self) -> Option<RedisHealth> {
        match &self.redis {
            Some(redis) => Some(redis.health().await),
            None => None,
        }
    }

    /// Ends background tasks and flushes pending writes and owed purges, within `limit`. What is then still
    /// waiting is lost with the process.
    pub async fn close(&self, limit: Duration) {
        self.closing.cancel();
        self.settlers.close();
        let ended = async {
            self.settlers.wait().await;
            self.stop.cancel();
            self.tasks.close();
            self.tasks.wait().await;
        };
        if tokio::time::timeout(limit, ended).await.is_err() {
            self.stop.cancel();
            let owed = self.redis.as_ref().map_or(0, |r| r.log.waiting());
            tracing::warn!(owed, "closed the store with work undone");
        }
    }
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
