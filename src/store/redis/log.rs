//! The purge log as a Redis stream: what this instance adds to it, and when that is known to everybody.
//!
//! ```text
//!  intend, publish ─► queue ─► append ─┐ one script per batch, in order
//!  beat, evict, leave ─────────────────┤
//!  acknowledge ────────────────────────┼─► Redis ─► follow ─► applied, acknowledged, wait over
//! ```
//!
//! Events leave through one queue, in order, and stay in it until Redis has said where each one stands *and* it is
//! applied here. So an event is never lost while the process lives, and may be appended twice (an answer was
//! lost), which only purges twice. A publisher waits for its event within the append budget; after that the
//! event is *owed*: its tags are dead here, and it stays in the queue. Once appended, a publisher waits until nobody
//! can answer with anything older ([`Membership::wait`]); if the epoch changes before, it appends again.
//!
//! [`follow`] is how others' events come in, [`members`] how this instance takes part, [`append`] how the queue empties.

pub mod append;
pub mod follow;
pub mod members;
mod queue;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use self::queue::{Done, Queue, What};
use super::RedisConfig;
use super::link::Connector;
use super::wire::{Candidate, LogKeys, LogState, Outside};
use crate::coherence::event::Settle;
use crate::coherence::lease::{Pending, Status};
use crate::coherence::{Agreement, Alone, Coherence, Epoch, Event, MemberId, Membership, Mode};
use crate::metrics::{Metrics, StoreOp, StoreResult, StoreTier};
use crate::store::settling::Settling;
use crate::store::{Purged, Reach, UnreachableLog, random};
use crate::time::Clock;

/// Turns what somebody outside has written into an event; made where the rules are known.
pub type Translate = Box<dyn Fn(&Outside) -> Event + Send + Sync>;

/// The log.
pub struct Log {
    keys: LogKeys,
    coherence: Arc<Coherence>,
    membership: Membership,
    connector: Arc<Connector>,
    settling: Arc<Settling>,
    /// The operator's secret, which goes before the log's.
    secret: Option<[u8; 32]>,
    unreachable: UnreachableLog,
    /// Budget of an append.
    budget: Duration,
    /// Budget of an append while the log is known to be away, or where nobody else is there to be told.
    brief: Duration,
    clock: Clock,
    metrics: Metrics,
    queue: Mutex<Queue>,
    queued: Notify,
    /// Mutations under way whose purge is not on its way to the log yet, by number. Locked before the queue is.
    open: Mutex<BTreeMap<u64, Arc<Event>>>,
    translate: OnceLock<Translate>,
    /// Something has been applied that another instance may wait for.
    applied: Notify,
    /// Events have been applied.
    advanced: watch::Sender<()>,
    /// Acknowledgements or rosters have come in.
    heard: watch::Sender<u64>,
    /// One at a time changes epochs.
    entering: tokio::sync::Mutex<()>,
    joined: watch::Sender<bool>,
    following: AtomicBool,
    /// The log's end as last told; minus what is applied, the lag.
    end: AtomicU64,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("keys", &self.keys).finish_non_exhaustive()
    }
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
    /// Who this is.
    pub me: MemberId,
    /// What the namespace is to agree on.
    pub agreement: Agreement,
    /// What to do when cut off and alone.
    pub alone: Alone,
    /// What to do with mutations when cut off.
    pub unreachable: UnreachableLog,
    /// Where events are applied.
    pub coherence: &'a Arc<Coherence>,
    /// What may not be stored for a while.
    pub settling: &'a Arc<Settling>,
    /// Opens connections.
    pub connector: &'a Arc<Connector>,
    /// Time.
    pub clock: &'a Clock,
    /// Counters.
    pub metrics: &'a Metrics,
}

/// The log as health and metrics show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogStatus {
    /// Membership.
    pub membership: Status,
    /// What this instance wants the namespace to agree on.
    pub agreement: Agreement,
    /// The log's end as last told.
    pub end: u64,
    /// Events not in the log yet.
    pub owed: usize,
    /// Mutations under way whose purge is not on its way to the log yet.
    pub open_intents: usize,
    /// Events are being received just now.
    pub following: bool,
}

impl Log {
    /// Nothing is connected yet; [`Log::follow`], [`Log::append`], [`Log::take_part`] and [`Log::acknowledge`] are to
    /// be spawned.
    pub fn new(settings: Settings<'_>) -> Log {
        let Settings { config, coherence, clock, metrics, agreement, .. } = settings;
        let membership = Membership::new(settings.me, agreement, settings.alone, Arc::clone(coherence));
        Log {
            keys: LogKeys::new(settings.prefix),
            coherence: Arc::clone(coherence),
            membership,
            connector: Arc::clone(settings.connector),
            settling: Arc::clone(settings.settling),
            secret: settings.secret,
            unreachable: settings.unreachable,
            budget: config.append_timeout.max(agreement.lease),
            brief: config.timeout.min(config.append_timeout),
            clock: clock.clone(),
            metrics: metrics.clone(),
            queue: Mutex::default(),
            queued: Notify::new(),
            open: Mutex::default(),
            translate: OnceLock::new(),
            applied: Notify::new(),
            advanced: watch::Sender::new(()),
            heard: watch::Sender::new(0),
            entering: tokio::sync::Mutex::default(),
            joined: watch::Sender::new(false),
            following: AtomicBool::new(false),
            end: AtomicU64::new(0),
        }
    }

    /// From now on purges from outside are taken up, translated by this.
    pub fn translate_with(&self, translate: Translate) {
        // A second translation has nothing to say that the first does not.
        let _ = self.translate.set(translate);
    }

    /// Whether the view in force is one of Redis' log (and not this process' own, from before the first contact).
    pub fn joined(&self) -> bool {
        *self.joined.borrow()
    }

    /// Waits until the log has been joined and, where a lease is needed, one is held; at most `limit`.
    pub async fn wait_joined(&self, limit: Duration) -> bool {
        let mut joined = self.joined.subscribe();
        let ready = async {
            joined.wait_for(|joined| *joined).await.is_ok()
                && self.heard_until(|log| log.coherence.holds_lease(log.clock.elapsed())).await
        };
        timeout(limit, ready).await.unwrap_or(false)
    }

    async fn heard_until(&self, condition: impl Fn(&Log) -> bool) -> bool {
        let mut heard = self.heard.subscribe();
        heard.wait_for(|_| condition(self)).await.is_ok()
    }

    /// Whether events are being received just now.
    pub fn following(&self) -> bool {
        self.following.load(Ordering::Acquire)
    }

    /// Events not in the log yet.
    pub fn waiting(&self) -> usize {
        self.queue.lock().events()
    }

    /// For health and metrics.
    pub fn status(&self) -> LogStatus {
        LogStatus {
            membership: self.membership.status(),
            agreement: self.membership.agreement(),
            end: self.end.load(Ordering::Relaxed),
            owed: self.waiting(),
            open_intents: self.open.lock().len(),
            following: self.following(),
        }
    }

    /// Records that a mutation is under way that will purge `event` or less: should this process end before it has,
    /// whoever evicts it does. False = it could not be recorded in time.
    pub async fn intend(&self, event: Arc<Event>) -> bool {
        let id = event.id;
        self.open.lock().insert(id, Arc::clone(&event));
        if self.membership.agreement().mode == Mode::Eventual {
            return true;
        }
        let away = self.membership.status().away_since.is_some();
        let patience = match self.unreachable {
            UnreachableLog::Forward if away => Duration::ZERO,
            UnreachableLog::Forward => self.brief,
            UnreachableLog::Refuse => self.patience(),
        };
        let recorded = self.enqueue(What::Intend(event), id);
        timeout(patience, recorded).await.is_ok_and(|done| done.is_ok())
    }

    /// The mutation came to nothing.
    pub fn withdraw(&self, intent: u64) {
        let mut open = self.open.lock();
        if open.remove(&intent).is_some() && self.membership.agreement().mode == Mode::Strong {
            drop(self.enqueue(What::Withdraw, intent));
        }
    }

    /// Appends, applies and waits until nobody can answer with anything older; what that came to is in the result.
    pub async fn publish(&self, event: Event, intent: Option<u64>) -> Purged {
        let started = self.clock.elapsed();
        let event = Arc::new(event);
        let purged = loop {
            let Some(done) = self.appended(&event, intent).await else {
                break Purged { seq: 0, reach: self.out_of_reach() };
            };
            if self.everywhere(&done).await {
                break Purged { seq: done.seq, reach: Reach::Everywhere };
            }
        };
        let result = if purged.seq > 0 { StoreResult::Ok } else { StoreResult::Timeout };
        let elapsed = self.clock.elapsed().saturating_sub(started);
        self.metrics.store(StoreTier::Redis, StoreOp::Log, result, elapsed);
        purged
    }

    /// What a purge has come to that is not in the log.
    fn out_of_reach(&self) -> Reach {
        match self.unreachable {
            UnreachableLog::Forward => Reach::Owed,
            UnreachableLog::Refuse if self.membership.agreement().mode == Mode::Eventual => Reach::Owed,
            UnreachableLog::Refuse => Reach::Unconfirmed,
        }
    }

    /// Has an event appended within the budget; else applies it here, and owes it. Then, where others may be cut off
    /// as well, waits until they answer nothing from their stores.
    async fn appended(&self, event: &Arc<Event>, intent: Option<u64>) -> Option<Done> {
        let mut appended = {
            // In one step, so that the intent is not recorded anew behind what takes it out.
            let mut open = self.open.lock();
            if let Some(intent) = intent {
                open.remove(&intent);
            }
            self.enqueue(What::Append { event: Arc::clone(event), intent, claim: None }, 0)
        };
        if let Some(done) = self.in_time(&mut appended).await {
            return Some(done);
        }
        if let Some(done) = self.owe(event, &mut appended) {
            return Some(done);
        }
        // Should the log have been heard from just now, others may be cut off from now on.
        let strong = self.membership.agreement().mode == Mode::Strong;
        let from_now = || strong.then(|| self.clock.elapsed() + self.membership.agreement().patience());
        if self.unreachable == UnreachableLog::Forward
            && let Some(mut until) = self.membership.detached_until(self.clock.elapsed()).or_else(from_now)
        {
            loop {
                let wait = until.saturating_sub(self.clock.elapsed());
                if let Ok(done) = timeout(wait, &mut appended).await {
                    return done.ok();
                }
                let now = self.clock.elapsed();
                match self.membership.detached_until(now) {
                    Some(later) if later > now => until = later,
                    _ => return None,
                }
            }
        }
        None
    }

    /// Waits until the appended event has been applied wherever it must be. False = its epoch is over.
    async fn everywhere(&self, done: &Done) -> bool {
        let mut wait = self.membership.wait(&done.told, done.seq, done.at);
        let mut heard = self.heard.subscribe();
        loop {
            heard.mark_unchanged();
            let now = self.clock.elapsed();
            match self.membership.pending(&mut wait, now) {
                Pending::Over => return true,
                Pending::EpochOver => return false,
                Pending::Until(moment) => {
                    // Out of time, or something was heard: look again either way.
                    let _ = timeout(moment.saturating_sub(now), heard.changed()).await;
                }
            }
        }
    }

    /// Waits for the append within the budget, which may shrink when something is heard.
    async fn in_time(&self, appended: &mut oneshot::Receiver<Done>) -> Option<Done> {
        let began = self.clock.elapsed();
        let mut heard = self.heard.subscribe();
        loop {
            heard.mark_unchanged();
            let left = (began + self.patience()).saturating_sub(self.clock.elapsed());
            tokio::select! {
                biased;
                done = &mut *appended => return done.ok(),
                () = tokio::time::sleep(left) => return None,
                _ = heard.changed() => {}
            }
        }
    }

    /// The budget counts from the first failed contact: when the log is known to be away, one mutation after the
    /// other need not find out anew.
    fn patience(&self) -> Duration {
        if self.membership.agreement().mode == Mode::Eventual {
            return self.brief;
        }
        let away = self.membership.status().away_since;
        let spent = away.map_or(Duration::ZERO, |since| self.clock.elapsed().saturating_sub(since));
        self.budget.saturating_sub(spent).max(self.brief)
    }

    /// Something was not answered.
    fn unanswered(&self) {
        self.membership.unanswered(self.clock.elapsed());
        self.heard.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn enqueue(&self, what: What, id: u64) -> oneshot::Receiver<Done> {
        let (done, receiver) = oneshot::channel();
        self.queue.lock().push(what, id, Some(done), &self.coherence);
        self.queued.notify_one();
        receiver
    }

    /// Voids the event's tags here, unless it has been appended and applied after all. Whether it has is decided
    /// under the queue's lock, as settling is, so that nothing stays owed that is in the log.
    fn owe(&self, event: &Arc<Event>, appended: &mut oneshot::Receiver<Done>) -> Option<Done> {
        let queue = self.queue.lock();
        if let Ok(done) = appended.try_recv() {
            return Some(done);
        }
        // If it is not in the queue, it has collapsed into a flush, which is owed already.
        if queue.holds(event) {
            self.coherence.apply_owed(event);
        }
        self.unanswered();
        None
    }

    /// Whether this place in the log has been applied here.
    fn stands(&self, epoch: Epoch, seq: u64) -> bool {
        let view = self.coherence.view();
        view.epoch == epoch && view.applied.load(Ordering::Acquire) >= seq
    }

    /// Applies one event: what is to settle is held before its purge counts, and let go after its second one does.
    fn apply(&self, epoch: Epoch, seq: u64, event: &Event) {
        self.hold(event);
        self.coherence.apply(epoch, seq, event);
        if event.settle == Settle::Over && event.origin != self.membership.me().0 {
            self.settling.release(event);
        }
    }

    /// Whoever purged will purge again when its tags have settled; until that has come through nothing is stored. Should
    /// it not come through, it is purged from here.
    fn hold(&self, event: &Event) {
        if let Settle::For(ms) = event.settle
            && event.origin != self.membership.me().0
        {
            let settle = Duration::from_millis(ms) + self.membership.agreement().lease;
            self.settling.hold(event, self.clock.elapsed() + settle);
        }
    }

    /// Takes note of what a script told.
    fn heard(&self, state: &LogState) {
        self.membership.observe(&state.roster, self.clock.elapsed());
        self.end.store(state.end, Ordering::Relaxed);
        self.heard.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// What to make a new epoch of. The secret in use goes on, so that keys stay what they are; an operator's
    /// secret is not put into Redis.
    fn candidate(&self) -> Candidate {
        let secret = if self.secret.is_some() { random() } else { self.coherence.view().secret };
        let agreement = self.membership.agreement();
        Candidate { epoch: Epoch(u128::from_le_bytes(random())), secret, agreement }
    }

    fn secret_of(&self, state: &LogState) -> [u8; 32] {
        self.secret.unwrap_or(state.secret)
    }
}
