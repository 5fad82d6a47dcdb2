//! The writing side of L2: one queue, one connection, in order, in the background.
//!
//! One queue keeps the order, so that a removal is not overtaken by an older write of this instance. It is bounded
//! by number and by bytes; what does not fit is not written and stays in memory only. Several writes share a round
//! trip. Between instances the last write wins, which is harmless: each value carries the proof of its liveness.
//!
//! An index of variants is read, extended and written back. Two instances that do so at once can lose one
//! another's variant from the list; it is then found anyway as long as the fields that select are the same, and
//! else it is fetched once more and listed. So no lock is worth its round trip.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::RedisConfig;
use super::link::{Connector, Dedicated, Failure, Link, pipe};
use super::tier::{HEAVY, Names, result_of};
use super::wire;
use crate::metrics::{Metrics, StoreOp, StoreResult, StoreTier};
use crate::policy::key::CacheKey;
use crate::semantics::timestamp::Timestamp;
use crate::store::codec;
use crate::store::entry::{Entry, Slot, VaryIndex};
use crate::time::Clock;

/// An index is never larger; reading no more of a primary key spares a large entry's body.
const INDEX_BYTES: usize = 64 * 1024;
/// How many writes one round trip carries, and about how many bytes: the slower the round trips, the more wait for the
/// next, so that a storm of misses is not held up by them.
const BATCH: usize = 256;
const BATCH_BYTES: u64 = 4 << 20;
/// How long one round trip may take.
const LIMIT: Duration = Duration::from_secs(1);

/// Where writes are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Writes {
    queue: mpsc::Sender<Write>,
    pending: Arc<AtomicU64>,
    max_pending: u64,
    metrics: Metrics,
}

/// Something to write.
#[derive(Debug)]
pub enum Write {
    /// Store an entry (and index it), and remove what it displaced.
    Put {
        /// The entry.
        entry: Arc<Entry>,
        /// Variants that no longer fit under its key.
        displaced: Vec<CacheKey>,
        /// What it counts for while it waits.
        bytes: u64,
    },
    /// Remove a primary key and its variants.
    Remove {
        /// The primary key.
        key: CacheKey,
        /// Its route.
        route: Arc<str>,
        /// Told when it has gone, or cannot be reached.
        done: oneshot::Sender<()>,
    },
    /// Nothing: tell when all that was handed in before has been written.
    Flush {
        /// Told then; dropped if it was not.
        done: oneshot::Sender<()>,
    },
    /// Remove a value that was found void, if it is still the same.
    Reclaim {
        /// Its name in Redis.
        name: String,
        /// Its checksum.
        checksum: [u8; 8],
    },
}

impl Writes {
    /// The queue's two ends.
    pub fn new(config: &RedisConfig, metrics: Metrics) -> (Writes, mpsc::Receiver<Write>) {
        let (queue, receiver) = mpsc::channel(config.max_pending_writes.max(1));
        let writes =
            Writes { queue, pending: Arc::default(), max_pending: config.max_pending_bytes, metrics };
        (writes, receiver)
    }

    /// Has an entry written, unless too much waits already.
    pub fn put(&self, entry: Arc<Entry>, displaced: Vec<CacheKey>) {
        let bytes = entry.weight();
        let before = self.pending.fetch_add(bytes, Ordering::AcqRel);
        let fits = before.saturating_add(bytes) <= self.max_pending
            && self.queue.try_send(Write::Put { entry, displaced, bytes }).is_ok();
        if !fits {
            self.pending.fetch_sub(bytes, Ordering::AcqRel);
            self.metrics.store(StoreTier::Redis, StoreOp::Set, StoreResult::Skipped, Duration::ZERO);
        }
    }

    /// Has a void value removed, if there is room to say so; else a sweeper will.
    pub fn reclaim(&self, name: &str, checksum: [u8; 8]) {
        let _ = self.queue.try_send(Write::Reclaim { name: name.to_owned(), checksum });
    }

    /// Waits until what was handed in before has been written, at most `limit`. False = it was not, or not yet.
    pub async fn flushed(&self, limit: Duration) -> bool {
        let (done, written) = oneshot::channel();
        let flushed = tokio::time::timeout(limit, async {
            self.queue.send(Write::Flush { done }).await.is_ok() && written.await.is_ok()
        });
        flushed.await.unwrap_or(false)
    }

    /// Has a primary key and its variants removed, and waits for it, at most `limit`.
    pub async fn remove(&self, key: &CacheKey, route: &str, limit: Duration) {
        let (done, removed) = oneshot::channel();
        let write = Write::Remove { key: *key, route: Arc::from(route), done };
        let _ = tokio::time::timeout(limit, async {
            if self.queue.send(write).await.is_ok() {
                let _ = removed.await;
            }
        })
        .await;
    }
}

/// The task that writes.
#[derive(Debug)]
pub struct Writer {
    /// What is to be written.
    pub queue: mpsc::Receiver<Write>,
    /// The other end, for its count of bytes.
    pub writes: Writes,
    /// How entries are named.
    pub names: Names,
    /// Opens the writer's own connection.
    pub connector: Arc<Connector>,
    /// Whose breaker is asked and told.
    pub link: Arc<Link>,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Most variants per primary key.
    pub max_variants: usize,
    /// Counts removed entries.
    pub deletes: Arc<AtomicU64>,
}

impl Writer {
    /// Writes until `stop`, and then what still waits.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut connection = Dedicated::entries(Arc::clone(&self.connector));
        loop {
            let first = tokio::select! {
                biased;
                write = self.queue.recv() => write,
                () = stop.cancelled() => {
                    self.queue.close();
                    self.queue.recv().await
                }
            };
            let Some(first) = first else { return };
            let batch = self.fill(first);
            let bytes = batch.iter().map(Write::bytes).sum();
            let started = self.clock.elapsed();
            let puts = batch.iter().filter(|w| matches!(w, Write::Put { .. })).count();
            let (tried, skipped): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|write| self.is_tried(write));
            let passed_over = skipped.iter().filter(|w| matches!(w, Write::Put { .. })).count();
            drop(skipped);
            let outcome = if tried.is_empty() {
                Err(Failure::Skipped)
            } else {
                self.write(&mut connection, tried).await
            };
            self.writes.pending.fetch_sub(bytes, Ordering::AcqRel);
            let elapsed = self.clock.elapsed().saturating_sub(started);
            self.report(&Err(Failure::Skipped), passed_over, elapsed);
            self.report(&outcome, puts - passed_over, elapsed);
        }
    }

    /// Whether the breaker lets it through: in a cluster, that of its key.
    fn is_tried(&self, write: &Write) -> bool {
        let name = match write {
            Write::Put { entry, .. } => &self.names.of(entry.route(), &entry.storage_key()),
            Write::Remove { key, route, .. } => &self.names.of(route, key),
            Write::Reclaim { name, .. } => name,
            // It asks Redis for nothing.
            Write::Flush { .. } => return true,
        };
        self.link.is_closed_for(Some(name.as_bytes()))
    }

    /// As many writes as may share a round trip.
    fn fill(&mut self, first: Write) -> Vec<Write> {
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let Ok(next) = self.queue.try_recv() else { break };
            bytes = bytes.saturating_add(next.bytes());
            batch.push(next);
        }
        batch
    }

    fn report(&self, outcome: &Result<u64, Failure>, puts: usize, elapsed: Duration) {
        let (refused, result) = match outcome {
            Ok(refused) => (*refused, StoreResult::Ok),
            Err(failure) => {
                if !matches!(failure, Failure::Skipped) {
                    // Of a cluster, this is no node's failure in particular.
                    self.link.failed_for(None, failure);
                }
                (0, result_of(failure))
            }
        };
        for n in 0..u64::try_from(puts).unwrap_or(u64::MAX) {
            let result = if n < refused { StoreResult::Error } else { result };
            self.metrics.store(StoreTier::Redis, StoreOp::Set, result, elapsed);
        }
    }

    /// Writes a batch; returns how many entries Redis refused (its memory is full).
    async fn write(&self, connection: &mut Dedicated, batch: Vec<Write>) -> Result<u64, Failure> {
        let mut indexes = self.read_indexes(connection, &batch).await?;
        let now = self.clock.now();
        let mut plan = Plan { pipeline: pipe(), counted: Vec::new(), done: Vec::new() };
        for write in batch {
            match write {
                Write::Put { entry, displaced, .. } => {
                    self.plan_put(&mut plan, &mut indexes, &entry, &displaced, now).await;
                }
                Write::Remove { key, route, done } => {
                    let index = indexes.remove(&key).flatten();
                    for variant in index.iter().flat_map(|i| &i.index.variants) {
                        plan.unlink(&self.names.of(&route, variant));
                    }
                    plan.unlink(&self.names.of(&route, &key));
                    plan.done.push(done);
                }
                Write::Flush { done } => plan.done.push(done),
                Write::Reclaim { name, checksum } => {
                    plan.pipeline.add_command(wire::reclaim(&name, checksum));
                    plan.counted.push(Counts::Removed);
                }
            }
        }
        for (key, index) in indexes.iter().filter_map(|(key, i)| Some((key, i.as_ref()?))) {
            if let Some(route) = &index.route
                && let Some(value) = codec::encode_index(&index.index)
            {
                plan.set(&self.names.of(route, key), value, index.index.gone_at, now);
            }
        }
        let results = if plan.pipeline.is_empty() {
            Vec::new()
        } else {
            connection.pipeline(&plan.pipeline, LIMIT).await?
        };
        if self.connector.is_cluster() {
            self.link.judge_each(&plan.pipeline, &results);
        }
        for done in plan.done {
            let _ = done.send(());
        }
        Ok(self.tally(&plan.counted, &results))
    }

    fn tally(&self, counted: &[Counts], results: &[RedisResult<Value>]) -> u64 {
        let mut refused = 0;
        for (what, result) in counted.iter().zip(results) {
            match (what, result) {
                (Counts::Removed, Ok(Value::Int(n))) => {
                    self.deletes.fetch_add(u64::try_from(*n).unwrap_or(0), Ordering::Relaxed);
                }
                (Counts::Stored, Err(error)) => {
                    refused += 1;
                    self.connector.remember(&format!("write: {error}"));
                }
                _ => {}
            }
        }
        refused
    }

    async fn plan_put(
        &self,
        plan: &mut Plan,
        indexes: &mut HashMap<CacheKey, Option<Indexed>>,
        entry: &Arc<Entry>,
        displaced: &[CacheKey],
        now: Timestamp,
    ) {
        for variant in displaced {
            plan.unlink(&self.names.of(entry.route(), variant));
        }
        let Some(value) = encode(entry).await else { return };
        plan.set(&self.names.of(entry.route(), &entry.storage_key()), value, entry.gone_at(), now);
        if entry.response.selecting().0.is_empty() {
            // It has replaced an index, if there was one.
            indexes.insert(entry.key, None);
            return;
        }
        let mut index = VaryIndex::of(entry);
        if let Some(Some(old)) = indexes.get(&entry.key) {
            for variant in index.absorb(&old.index, self.max_variants) {
                plan.unlink(&self.names.of(entry.route(), &variant));
            }
        }
        indexes.insert(entry.key, Some(Indexed { index, route: Some(Arc::clone(entry.route())) }));
    }

    /// The indexes that this batch extends or removes, as they are now.
    async fn read_indexes(
        &self,
        connection: &mut Dedicated,
        batch: &[Write],
    ) -> Result<HashMap<CacheKey, Option<Indexed>>, Failure> {
        let mut wanted: HashMap<CacheKey, Arc<str>> = HashMap::new();
        for write in batch {
            match write {
                Write::Put { entry, .. } if !entry.response.selecting().0.is_empty() => {
                    wanted.insert(entry.key, Arc::clone(entry.route()));
                }
                Write::Remove { key, route, .. } => {
                    wanted.insert(*key, Arc::clone(route));
                }
                _ => {}
            }
        }
        let mut indexes = HashMap::new();
        if wanted.is_empty() {
            return Ok(indexes);
        }
        let mut pipeline = pipe();
        for (key, route) in &wanted {
            pipeline.cmd("GETRANGE").arg(self.names.of(route, key)).arg(0).arg(INDEX_BYTES);
        }
        let replies = connection.pipeline(&pipeline, LIMIT).await?;
        for ((key, route), reply) in wanted.iter().zip(replies) {
            // Anything but an index, cut off or not, is about to be overwritten.
            let index = match reply {
                Ok(Value::BulkString(value)) => match codec::decode(Bytes::from(value), key, route, 0) {
                    Ok(Slot::Index(index)) => {
                        Some(Indexed { index: Arc::unwrap_or_clone(index), route: None })
                    }
                    _ => None,
                },
                _ => None,
            };
            indexes.insert(*key, index);
        }
        Ok(indexes)
    }
}

/// An index while a batch is planned; `route` is set once it has to be written back.
struct Indexed {
    index: VaryIndex,
    route: Option<Arc<str>>,
}

/// One pipeline in the making, and what each command counts for.
struct Plan {
    pipeline: Pipeline,
    counted: Vec<Counts>,
    done: Vec<oneshot::Sender<()>>,
}

#[derive(Clone, Copy)]
enum Counts {
    Stored,
    Removed,
}

impl Plan {
    fn set(&mut self, name: &str, value: Vec<u8>, gone_at: Timestamp, now: Timestamp) {
        let life = gone_at.since(now).as_millis();
        if life > 0 {
            let life = u64::try_from(life).unwrap_or(u64::MAX).min(i64::MAX as u64 / 4);
            self.pipeline.cmd("SET").arg(name).arg(value).arg("PX").arg(life);
            self.counted.push(Counts::Stored);
        }
    }

    fn unlink(&mut self, name: &str) {
        self.pipeline.cmd("UNLINK").arg(name);
        self.counted.push(Counts::Removed);
    }
}

impl Write {
    fn bytes(&self) -> u64 {
        match self {
            Write::Put { bytes, .. } => *bytes,
            _ => 0,
        }
    }
}

/// Compression of a large body takes milliseconds: not on a thread that serves requests.
async fn encode(entry: &Arc<Entry>) -> Option<Vec<u8>> {
    if entry.response.body_bytes().len() < HEAVY {
        return codec::encode_entry(entry);
    }
    let entry = Arc::clone(entry);
    tokio::task::spawn_blocking(move || codec::encode_entry(&entry)).await.ok().flatten()
}
