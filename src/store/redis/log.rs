//! The purge log as a Redis stream: what this instance adds to it.
//!
//! Events leave through one queue, in order, and stay in it until Redis has said where each one stands *and* it is
//! applied here. So an event is never lost while the process lives, and may be appended twice (an answer was
//! lost), which only purges twice. A publisher waits for its event within the append budget; after that the
//! event is *owed*: its tags are dead here, and it stays in the queue. [`follow`] is how others' events come in.
//!
//! It lacks acknowledgements by other instances, leases and intents; the append script's reply has room for them.

pub mod follow;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::RedisConfig;
use super::breaker::pause;
use super::link::{Connector, Dedicated, Failure, pipe};
use super::wire::{self, Candidate, LogKeys, LogState};
use crate::coherence::{Coherence, Epoch, Event, EventKind};
use crate::metrics::{Metrics, StoreOp, StoreResult, StoreTier};
use crate::store::{Purged, random};
use crate::time::Clock;

/// Most events waiting to be appended; beyond them, all collapse into one flush.
const MAX_WAITING: usize = 4096;
/// Most events appended in one round trip.
const BATCH: usize = 64;

/// The log.
#[derive(Debug)]
pub struct Log {
    keys: LogKeys,
    coherence: Arc<Coherence>,
    connector: Arc<Connector>,
    /// The operator's secret, which goes before the log's.
    secret: Option<[u8; 32]>,
    /// Budget of an append.
    budget: Duration,
    /// Budget of an append while the log is known to be away.
    brief: Duration,
    clock: Clock,
    metrics: Metrics,
    queue: Mutex<VecDeque<Waiting>>,
    arrived: Notify,
    /// When the log was first found away ([`Clock::elapsed`]); `None` = it answered last time.
    away_since: Mutex<Option<Duration>>,
    /// One at a time changes epochs.
    entering: tokio::sync::Mutex<()>,
    joined: watch::Sender<bool>,
    following: AtomicBool,
}

/// What a log is made of.
#[derive(Debug)]
pub struct Settings<'a> {
    /// Budgets.
    pub config: &'a RedisConfig,
    /// Prefix of keys, namespace included.
    pub prefix: &'a str,
    /// The operator's secret, if there is one.
    pub secret: Option<[u8; 32]>,
    /// Where events are applied.
    pub coherence: &'a Arc<Coherence>,
    /// Opens connections.
    pub connector: &'a Arc<Connector>,
    /// Time.
    pub clock: &'a Clock,
    /// Counters.
    pub metrics: &'a Metrics,
}

#[derive(Debug)]
struct Waiting {
    event: Arc<Event>,
    publishers: Vec<oneshot::Sender<u64>>,
}

impl Log {
    /// Nothing is connected yet; [`Log::follow`] and [`Log::append`] are to be spawned.
    pub fn new(settings: Settings<'_>) -> Log {
        let Settings { config, prefix, secret, coherence, connector, clock, metrics } = settings;
        Log {
            keys: LogKeys::new(prefix),
            coherence: Arc::clone(coherence),
            connector: Arc::clone(connector),
            secret,
            budget: config.append_timeout,
            brief: config.timeout.min(config.append_timeout),
            clock: clock.clone(),
            metrics: metrics.clone(),
            queue: Mutex::default(),
            arrived: Notify::new(),
            away_since: Mutex::new(None),
            entering: tokio::sync::Mutex::default(),
            joined: watch::Sender::new(false),
            following: AtomicBool::new(false),
        }
    }

    /// Whether the view in force is one of Redis' log (and not this process' own, from before the first contact).
    pub fn joined(&self) -> bool {
        *self.joined.borrow()
    }

    /// Waits until the log has been joined, at most `limit`.
    pub async fn wait_joined(&self, limit: Duration) -> bool {
        let mut joined = self.joined.subscribe();
        timeout(limit, joined.wait_for(|joined| *joined)).await.is_ok_and(|r| r.is_ok())
    }

    /// Whether events are being received just now.
    pub fn following(&self) -> bool {
        self.following.load(Ordering::Acquire)
    }

    /// Events not in the log yet.
    pub fn waiting(&self) -> usize {
        self.queue.lock().len()
    }

    /// Appends and applies, within the budget; else applies here and owes.
    pub async fn publish(&self, event: Event) -> Purged {
        let started = self.clock.elapsed();
        let event = Arc::new(event);
        let (publisher, mut appended) = oneshot::channel();
        self.enqueue(Arc::clone(&event), publisher);
        let in_time = timeout(self.patience(), &mut appended).await;
        let seq = match in_time {
            Ok(Ok(seq)) => Some(seq),
            // Out of time, unless it has come through just now.
            _ => self.owe(&event, &mut appended),
        };
        let result = if seq.is_some() { StoreResult::Ok } else { StoreResult::Timeout };
        let elapsed = self.clock.elapsed().saturating_sub(started);
        self.metrics.store(StoreTier::Redis, StoreOp::Log, result, elapsed);
        Purged { seq: seq.unwrap_or(0), owed: seq.is_none() }
    }

    /// The budget counts from the first failed contact: when the log is known to be away, one mutation after the
    /// other need not find out anew.
    fn patience(&self) -> Duration {
        let away = *self.away_since.lock();
        let spent = away.map_or(Duration::ZERO, |since| self.clock.elapsed().saturating_sub(since));
        self.budget.saturating_sub(spent).max(self.brief)
    }

    fn enqueue(&self, event: Arc<Event>, publisher: oneshot::Sender<u64>) {
        let mut queue = self.queue.lock();
        queue.push_back(Waiting { event, publishers: vec![publisher] });
        if queue.len() > MAX_WAITING {
            let flush = Arc::new(Event {
                kind: EventKind::Flush,
                origin: queue[0].event.origin,
                id: number(),
                ..Event::default()
            });
            // The flush is owed before what it stands for is settled: no moment without either.
            self.coherence.apply_owed(&flush);
            let mut publishers = Vec::new();
            for waiting in queue.drain(..) {
                self.coherence.settle_owed(&waiting.event);
                publishers.extend(waiting.publishers);
            }
            tracing::warn!("too many purges wait for the log: they become one flush");
            queue.push_back(Waiting { event: flush, publishers });
        }
        drop(queue);
        self.arrived.notify_one();
    }

    /// Voids the event's tags here, unless it has been appended and applied after all. Whether it has is decided
    /// under the queue's lock, as settling is, so that nothing stays owed that is in the log.
    fn owe(&self, event: &Arc<Event>, appended: &mut oneshot::Receiver<u64>) -> Option<u64> {
        let queue = self.queue.lock();
        if let Ok(seq) = appended.try_recv() {
            return Some(seq);
        }
        // If it is not in the queue, it has collapsed into a flush, which is owed already.
        if queue.iter().any(|w| Arc::ptr_eq(&w.event, event)) {
            self.coherence.apply_owed(event);
        }
        self.away_since.lock().get_or_insert_with(|| self.clock.elapsed());
        None
    }

    /// The event is in the log and applied here.
    fn settle(&self, event: &Arc<Event>, seq: u64) {
        let mut queue = self.queue.lock();
        let Some(at) = queue.iter().position(|w| Arc::ptr_eq(&w.event, event)) else {
            return;
        };
        let lingers = self.coherence.settle_owed(event);
        let settled = queue.remove(at);
        if lingers {
            // It came through unseen, in a gap. An event that names nothing moves the log past its last mark.
            let nothing = Event { origin: event.origin, id: number(), ..Event::default() };
            queue.push_back(Waiting { event: Arc::new(nothing), publishers: Vec::new() });
        }
        for publisher in settled.into_iter().flat_map(|w| w.publishers) {
            // A publisher that no longer waits owes, and has just been settled.
            let _ = publisher.send(seq);
        }
    }

    /// Appends what waits, for ever; ends when `stop` is cancelled and the queue is empty.
    pub async fn append(self: Arc<Log>, stop: CancellationToken) {
        let mut connection = Dedicated::new(Arc::clone(&self.connector));
        let mut attempt = 0;
        loop {
            let batch: Vec<_> = self.queue.lock().iter().take(BATCH).map(|w| Arc::clone(&w.event)).collect();
            if batch.is_empty() {
                tokio::select! {
                    () = self.arrived.notified() => {}
                    () = stop.cancelled() => return,
                }
                continue;
            }
            match self.append_batch(&mut connection, &batch).await {
                Ok(()) => {
                    attempt = 0;
                    *self.away_since.lock() = None;
                }
                Err(failure) => {
                    if attempt == 0 {
                        tracing::warn!(%failure, "the purge log cannot be reached: purges are owed to it");
                    }
                    self.away_since.lock().get_or_insert_with(|| self.clock.elapsed());
                    // A new event cuts the pause short, down to a little that keeps this from spinning.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let noise = u64::from_le_bytes(random());
                    let _ = timeout(pause(attempt, noise), self.arrived.notified()).await;
                    attempt += 1;
                }
            }
        }
    }

    async fn append_batch(&self, connection: &mut Dedicated, batch: &[Arc<Event>]) -> Result<(), Failure> {
        let mut pipeline = pipe();
        for event in batch {
            pipeline.add_command(wire::append(&self.keys, self.candidate(), event));
        }
        let limit = self.budget.max(Duration::from_millis(100));
        let replies = connection.pipeline(&pipeline, limit).await?;
        for (event, reply) in batch.iter().zip(replies) {
            let reply = reply?;
            let state = wire::state(&reply).ok_or_else(follow::not_understood)?;
            if !self.stands(state.epoch, state.seq) {
                if self.coherence.view().applied.load(Ordering::Acquire) + 1 == state.seq {
                    self.coherence.apply(state.epoch, state.seq, event);
                }
                if !self.stands(state.epoch, state.seq) {
                    // Not next in line: others' events lie between, or it is a new epoch. Read them first.
                    self.catch_up(connection).await?;
                }
            }
            if self.stands(state.epoch, state.seq) {
                self.settle(event, state.seq);
            }
            // Else the epoch has changed since: it stays in the queue, to be appended there too.
        }
        Ok(())
    }

    /// Whether this place in the log has been applied here.
    fn stands(&self, epoch: Epoch, seq: u64) -> bool {
        let view = self.coherence.view();
        view.epoch == epoch && view.applied.load(Ordering::Acquire) >= seq
    }

    /// What to make a new epoch of. The secret in use goes on, so that keys stay what they are; an operator's
    /// secret is not put into Redis.
    fn candidate(&self) -> Candidate {
        let secret = if self.secret.is_some() { random() } else { self.coherence.view().secret };
        Candidate { epoch: Epoch(u128::from_le_bytes(random())), secret }
    }

    fn secret_of(&self, state: &LogState) -> [u8; 32] {
        self.secret.unwrap_or(state.secret)
    }
}

/// A number for an event of the log's own making; publishers count from 1 and do not get there.
fn number() -> u64 {
    u64::from_le_bytes(random()) | 1 << 63
}
