//! Flights: one fetch for all who want the same thing at the same time.
//!
//! ```text
//!  join ─┬─ nothing flies ───────────────────────────────► Lead
//!        ├─ nothing flies, one landed since the look-up ──► look again: it may have left what was not found
//!        ├─ a flight in the air that may answer this ─────► Aboard: wait for its landing
//!        ├─ one that a purge has voided, a lease is held ─► Lead: nobody need wait for what is void
//!        └─ one of which nobody here can tell ────────────► Aboard the *next* flight: it takes off when this one
//!                                                           has landed; its first passenger leads
//! ```
//!
//! Two things prove that a flight shows everything a passenger may know of (DESIGN §4.4):
//!
//! - **Order.** It took off after the passenger had arrived. Whatever was answered before that arrival was done at the
//!   backend before the fetch asked. This needs neither lease nor marks.
//! - **Knowledge.** A lease valid at the passenger's arrival, and marks under which the flight is live: the marks then
//!   hold every mutation that was answered before the arrival. The lease is looked at first.
//!
//! Invariants:
//! - Per key at most one flight on the board is in the air, and at most one waits for it; only where a lease tells that
//!   the one in the air is void does another take its place before it has landed.
//! - Nobody begins a flight on the strength of a look-up that another flight's landing has overtaken: between the two
//!   lies no await, but another thread may store and land there. What is stored is stored before its flight lands.
//! - A flight belongs to its fetch task, not to the client that began it.
//! - However the task ends (also by panic or abort), its flight ends: a dropped [`Lead`] is `Dropped`, and the next
//!   flight is cleared.
//! - A flight that waits without passengers is on no board.
//! - Stamp and moment of take-off are taken under the board's lock, in this order, and before the first byte goes
//!   upstream. The moment last: any order before the first byte is safe, and the later it is, the more arrivals it can be
//!   shown to come after.
//! - Tags are made of the leader's request, and after the stamp was taken: if hashed by a secret of a later epoch, they
//!   belong to a void stamp. Who looks at the stamp and these tags does so after they were made.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Semaphore, watch};

use super::answer::Failure;
use crate::coherence::{Coherence, Liveness, Stamp, Void};
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::store::Entry;
use crate::time::Clock;

const SHARDS: usize = 64;
/// How many moments of landing a shard remembers: keys that share one cost each other a look-up, now and then.
const LANDINGS: usize = 64;

/// How a flight ended.
#[derive(Debug, Clone)]
pub(crate) enum Landing {
    /// The response was stored (or at least may be shared).
    Stored(Arc<Entry>),
    /// Another instance has stored the response. When its fetch began is for its stamp to say, not for this flight's.
    Found(Arc<Entry>),
    /// It may not be shared; those who waited fetch for themselves, all at once.
    NotShareable,
    /// The fetch failed.
    Failed(Failure),
    /// The task vanished.
    Dropped,
}

/// One fetch, waiting or under way.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Set when it takes off.
    departure: OnceLock<Departure>,
    /// Holds one permit while it may take off and nobody has taken the lead. First come, first served; who leaves
    /// hands it on.
    cleared: Semaphore,
    landing: watch::Sender<Option<Landing>>,
}

/// Makes the tags that are known from a request alone.
pub(crate) type MakeTags = Box<dyn FnOnce() -> Vec<Tag> + Send>;

/// What is known of a fetch before its first byte goes upstream.
#[derive(Debug)]
struct Departure {
    stamp: Stamp,
    /// Those known from the request alone. Made when somebody asks whether to board: mostly nobody does.
    tags: LazyLock<Vec<Tag>, MakeTags>,
    /// On `Clock::elapsed`.
    began: Duration,
}

impl Flight {
    fn new() -> Arc<Flight> {
        Arc::new(Flight {
            departure: OnceLock::new(),
            cleared: Semaphore::new(0),
            landing: watch::Sender::new(None),
        })
    }

    /// Waits for the end.
    pub(crate) async fn landed(&self) -> Landing {
        let mut landing = self.landing.subscribe();
        match landing.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Landing::Dropped),
            Err(_) => Landing::Dropped,
        }
    }
}

/// A place on a flight.
pub(crate) enum Seat {
    /// The caller fetches.
    Lead(Lead),
    /// Somebody else does; or the caller, when its turn comes.
    Aboard(Passenger),
    /// Somebody else has, since the caller looked.
    LookAgain,
}

/// The leader's duty to end the flight.
#[derive(Debug)]
pub(crate) struct Lead {
    /// Where others can join it; `None` = nobody can.
    board: Option<(Arc<Board>, CacheKey)>,
    flight: Arc<Flight>,
    stamp: Stamp,
    began: Duration,
}

/// Somebody who waits.
pub(crate) struct Passenger {
    flight: Arc<Flight>,
    /// It takes off, or took off, after this passenger had arrived.
    after_arrival: bool,
    /// Where it waits for its flight to take off.
    waits_at: Option<(Arc<Board>, CacheKey)>,
}

/// How a passenger's wait ended.
pub(crate) enum Arrival {
    /// With the flight.
    Landed(Landing),
    /// The flight is cleared, and this passenger leads it.
    Leads(Lead),
}

/// All flights.
#[derive(Debug)]
pub(crate) struct Board {
    clock: Clock,
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug)]
struct Shard {
    gates: HashMap<CacheKey, Gate, BuildHasherDefault<PartOfKey>>,
    /// When a flight last landed that left something to know, on `Clock::elapsed`, by a part of its key.
    landings: [Option<Duration>; LANDINGS],
}

/// A key is a hash already, and one that nobody can aim at: a part of it will do, other than what its shard is chosen by.
#[derive(Debug, Default)]
struct PartOfKey(u64);

impl Hasher for PartOfKey {
    fn write(&mut self, bytes: &[u8]) {
        // A length comes, too; it is always the same.
        if let Some(part) = bytes.last_chunk() {
            self.0 ^= u64::from_le_bytes(*part);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Shard {
    fn new() -> Mutex<Shard> {
        Mutex::new(Shard { gates: HashMap::default(), landings: [None; LANDINGS] })
    }

    fn landing(&mut self, key: &CacheKey) -> &mut Option<Duration> {
        &mut self.landings[usize::from(key.0[1]) % LANDINGS]
    }

    /// Whether a flight under `key` may have landed at `looked` or later.
    fn landed_since(&mut self, key: &CacheKey, looked: Duration) -> bool {
        self.landing(key).is_some_and(|landed| landed >= looked)
    }
}

/// One key's flights.
#[derive(Debug, Default)]
struct Gate {
    /// In the air.
    flying: Option<Arc<Flight>>,
    /// Takes off when that has landed. Its passengers sat down before, so order is on their side.
    next: Option<Next>,
}

#[derive(Debug)]
struct Next {
    flight: Arc<Flight>,
    /// Passengers aboard, at least one.
    seats: usize,
}

impl Board {
    pub(crate) fn new(clock: Clock) -> Arc<Board> {
        Arc::new(Board { clock, shards: (0..SHARDS).map(|_| Shard::new()).collect() })
    }

    /// Joins a flight under `key`, or begins one, for a request that arrived at `arrived` and has looked in vain since
    /// `looked` (both on `Clock::elapsed`). `tags` are those known from the request alone.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: CacheKey,
        arrived: Duration,
        looked: Duration,
        tags: impl FnOnce() -> Vec<Tag> + Send + 'static,
        coherence: &Coherence,
    ) -> Seat {
        let mut shard = self.shard(&key);
        let gate = shard.gates.get(&key);
        let departed =
            gate.and_then(|gate| gate.flying.as_ref()).and_then(|f| f.departure.get().zip(Some(f)));
        match departed {
            Some((departure, flight)) => {
                // Two equal readings tell no order.
                let after_arrival = departure.began > arrived;
                match coherence.reusable(&departure.stamp, &departure.tags, arrived) {
                    liveness if after_arrival || liveness == Liveness::Live => {
                        let flight = Arc::clone(flight);
                        return Seat::Aboard(Passenger { flight, after_arrival, waits_at: None });
                    }
                    Liveness::Void(Void::Lease) => return Seat::Aboard(self.sit_down(&mut shard, key)),
                    // A lease is held, and the flight is void: it can be of no use to any later arrival either.
                    _ => {}
                }
            }
            None if gate.is_some_and(|gate| gate.next.is_some()) => {
                // Cleared, and about to take off.
                return Seat::Aboard(self.sit_down(&mut shard, key));
            }
            None => {}
        }
        if shard.landed_since(&key, looked) {
            return Seat::LookAgain;
        }
        Seat::Lead(self.take_off(&mut shard, key, tags, coherence))
    }

    /// Begins a flight under `key`, unless there is one already, or was since the caller `looked`.
    pub(crate) fn begin(
        self: &Arc<Self>,
        key: CacheKey,
        looked: Duration,
        tags: impl FnOnce() -> Vec<Tag> + Send + 'static,
        coherence: &Coherence,
    ) -> Option<Lead> {
        let mut shard = self.shard(&key);
        let idle = !shard.gates.contains_key(&key) && !shard.landed_since(&key, looked);
        idle.then(|| self.take_off(&mut shard, key, tags, coherence))
    }

    fn shard(&self, key: &CacheKey) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(key.0[0]) % SHARDS].lock()
    }

    /// A seat on the next flight.
    fn sit_down(self: &Arc<Self>, shard: &mut Shard, key: CacheKey) -> Passenger {
        let next = &mut shard.gates.entry(key).or_default().next;
        let next = next.get_or_insert_with(|| Next { flight: Flight::new(), seats: 0 });
        next.seats += 1;
        let flight = Arc::clone(&next.flight);
        Passenger { flight, after_arrival: true, waits_at: Some((Arc::clone(self), key)) }
    }

    /// The flight that waits, or else a new one, takes the place of the one in the air, if there is one.
    fn take_off(
        self: &Arc<Self>,
        shard: &mut Shard,
        key: CacheKey,
        tags: impl FnOnce() -> Vec<Tag> + Send + 'static,
        coherence: &Coherence,
    ) -> Lead {
        let departure = self.departure(tags, coherence);
        let gate = shard.gates.entry(key).or_default();
        let flight = gate.next.take().map_or_else(Flight::new, |next| next.flight);
        gate.flying = Some(Arc::clone(&flight));
        Lead::new(Some((Arc::clone(self), key)), flight, departure)
    }

    fn departure(
        &self,
        tags: impl FnOnce() -> Vec<Tag> + Send + 'static,
        coherence: &Coherence,
    ) -> Departure {
        let stamp = coherence.sample();
        let tags: MakeTags = Box::new(tags);
        Departure { stamp, tags: LazyLock::new(tags), began: self.clock.elapsed() }
    }

    /// A fetch that nobody can join.
    pub(crate) fn alone(&self, coherence: &Coherence) -> Lead {
        Lead::new(None, Flight::new(), self.departure(Vec::new, coherence))
    }

    /// A flight has landed: the one that waits for it is cleared.
    fn clear(&self, key: &CacheKey, landed: &Arc<Flight>, landing: &Landing) {
        let mut shard = self.shard(key);
        if !matches!(landing, Landing::Failed(_) | Landing::Dropped) {
            *shard.landing(key) = Some(self.clock.elapsed());
        }
        let Some(gate) = shard.gates.get_mut(key) else { return };
        // A voided flight may already have been replaced by its successor.
        if gate.flying.as_ref().is_some_and(|flying| Arc::ptr_eq(flying, landed)) {
            gate.flying = None;
            match &gate.next {
                Some(next) => next.flight.cleared.add_permits(1),
                None => drop(shard.gates.remove(key)),
            }
        }
    }

    /// A passenger has got up from its seat on a flight that waits.
    fn leave(&self, key: &CacheKey, left: &Arc<Flight>) {
        let mut shard = self.shard(key);
        let Some(gate) = shard.gates.get_mut(key) else { return };
        let Some(next) = gate.next.as_mut().filter(|next| Arc::ptr_eq(&next.flight, left)) else { return };
        next.seats -= 1;
        if next.seats == 0 {
            gate.next = None;
            if gate.flying.is_none() {
                shard.gates.remove(key);
            }
        }
    }
}

impl Passenger {
    /// Whether the flight takes off, or took off, after this passenger had arrived: then its result needs no other
    /// proof.
    pub(crate) fn after_arrival(&self) -> bool {
        self.after_arrival
    }

    /// Waits for the landing, or to lead. Dropped, it gives its place up.
    pub(crate) async fn fly(
        mut self,
        tags: impl FnOnce() -> Vec<Tag> + Send + 'static,
        coherence: &Coherence,
    ) -> Arrival {
        let flight = Arc::clone(&self.flight);
        tokio::select! {
            biased;
            landing = flight.landed() => Arrival::Landed(landing),
            // Never closed; and only a flight that waits is ever cleared.
            Ok(permit) = flight.cleared.acquire() => {
                permit.forget();
                match self.waits_at.take() {
                    Some((board, key)) => {
                        let mut shard = board.shard(&key);
                        Arrival::Leads(board.take_off(&mut shard, key, tags, coherence))
                    }
                    None => Arrival::Landed(Landing::Dropped),
                }
            }
        }
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        if let Some((board, key)) = self.waits_at.take() {
            board.leave(&key, &self.flight);
        }
    }
}

impl Lead {
    fn new(board: Option<(Arc<Board>, CacheKey)>, flight: Arc<Flight>, departure: Departure) -> Lead {
        let (stamp, began) = (departure.stamp, departure.began);
        // A flight takes off once: it is off the waiting place before anybody else can see it.
        let _ = flight.departure.set(departure);
        Lead { board, flight, stamp, began }
    }

    /// Sampled before the fetch goes upstream.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// When it took off, on `Clock::elapsed`: everybody who may take its result on the strength of order had arrived
    /// by then.
    pub(crate) fn began(&self) -> Duration {
        self.began
    }

    /// The key by which others can join it; `None` = nobody can.
    pub(crate) fn key(&self) -> Option<CacheKey> {
        self.board.as_ref().map(|(_, key)| *key)
    }

    /// The flight itself, for whoever wants to see it land.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// Ends the flight. Later arrivals board the next one.
    pub(crate) fn land(&mut self, landing: Landing) {
        if let Some((board, key)) = self.board.take() {
            board.clear(&key, &self.flight, &landing);
        }
        self.flight.landing.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(landing);
            }
            first
        });
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.land(Landing::Dropped);
    }
}

#[cfg(test)]
mod tests;
