//! Flights: one fetch for all who want the same thing at the same time.
//!
//! Invariants:
//! - At most one flight per key is on the board; whoever boards an empty key leads.
//! - A flight belongs to its fetch task, not to the client that began it.
//! - However the task ends (also by panic or abort), its flight ends: a dropped [`Lead`] is `Dropped`.
//! - A flight whose stamp a purge has voided takes nobody aboard any more: an arrival after the purge was answered
//!   must not get what was fetched before it. What its response's own tags add is checked at the end, by the follower.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::answer::Failure;
use crate::coherence::{Coherence, Liveness, Stamp};
use crate::policy::key::CacheKey;
use crate::policy::tags::Tag;
use crate::store::Entry;

const SHARDS: usize = 64;

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

/// One fetch under way.
#[derive(Debug)]
pub(crate) struct Flight {
    stamp: Stamp,
    tags: Vec<Tag>,
    landing: watch::Receiver<Option<Landing>>,
}

impl Flight {
    /// Waits for the end.
    pub(crate) async fn landed(&self) -> Landing {
        let mut landing = self.landing.clone();
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
    /// Somebody else does.
    Follow(Arc<Flight>),
}

/// The leader's duty to end the flight.
pub(crate) struct Lead {
    /// Where others can join it; `None` = nobody can.
    board: Option<(Arc<Board>, CacheKey)>,
    flight: Arc<Flight>,
    landing: watch::Sender<Option<Landing>>,
}

/// All flights under way.
#[derive(Debug)]
pub(crate) struct Board {
    shards: Vec<Mutex<HashMap<CacheKey, Arc<Flight>>>>,
}

impl Board {
    pub(crate) fn new() -> Arc<Board> {
        Arc::new(Board { shards: (0..SHARDS).map(|_| Mutex::default()).collect() })
    }

    /// Joins the flight under `key`, or begins one. `tags` are those known from the request alone.
    pub(crate) fn join(
        self: &Arc<Self>,
        key: CacheKey,
        tags: impl FnOnce() -> Vec<Tag>,
        coherence: &Coherence,
    ) -> Seat {
        let mut shard = self.shard(&key).lock();
        if let Some(flight) = shard.get(&key)
            && coherence.liveness(&flight.stamp, &flight.tags) == Liveness::Live
        {
            return Seat::Follow(Arc::clone(flight));
        }
        let mut lead = Lead::new(coherence.sample(), tags());
        lead.board = Some((Arc::clone(self), key));
        shard.insert(key, Arc::clone(&lead.flight));
        Seat::Lead(lead)
    }

    /// Whether somebody is fetching this already.
    pub(crate) fn is_flying(&self, key: &CacheKey) -> bool {
        self.shard(key).lock().contains_key(key)
    }

    fn shard(&self, key: &CacheKey) -> &Mutex<HashMap<CacheKey, Arc<Flight>>> {
        &self.shards[usize::from(key.0[0]) % SHARDS]
    }
}

impl Lead {
    /// A fetch that nobody can join.
    pub(crate) fn alone(coherence: &Coherence) -> Lead {
        Lead::new(coherence.sample(), Vec::new())
    }

    fn new(stamp: Stamp, tags: Vec<Tag>) -> Lead {
        let (landing, receiver) = watch::channel(None);
        Lead { board: None, flight: Arc::new(Flight { stamp, tags, landing: receiver }), landing }
    }

    /// Sampled before the fetch goes upstream.
    pub(crate) fn stamp(&self) -> Stamp {
        self.flight.stamp
    }

    /// The key by which others can join it; `None` = nobody can.
    pub(crate) fn key(&self) -> Option<CacheKey> {
        self.board.as_ref().map(|(_, key)| *key)
    }

    /// The flight itself, for whoever wants to see it land.
    pub(crate) fn flight(&self) -> Arc<Flight> {
        Arc::clone(&self.flight)
    }

    /// Ends the flight. Later arrivals begin the next one.
    pub(crate) fn land(&mut self, landing: Landing) {
        if let Some((board, key)) = self.board.take() {
            let mut shard = board.shard(&key).lock();
            // A voided flight may already have been replaced by its successor.
            if shard.get(&key).is_some_and(|f| Arc::ptr_eq(f, &self.flight)) {
                shard.remove(&key);
            }
        }
        self.landing.send_if_modified(|end| {
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
mod tests {
    use super::*;
    use crate::coherence::Epoch;

    #[tokio::test]
    async fn a_flight_whose_task_vanishes_ends_and_leaves_the_board() {
        let (board, key) = (Board::new(), CacheKey([1; 32]));
        let coherence = Coherence::new(Epoch(1), [7; 32], 10, 16);
        let Seat::Lead(lead) = board.join(key, Vec::new, &coherence) else { panic!("nobody else leads") };
        let Seat::Follow(flight) = board.join(key, Vec::new, &coherence) else { panic!("somebody leads") };
        assert!(board.is_flying(&key));
        drop(lead);
        assert!(matches!(flight.landed().await, Landing::Dropped));
        assert!(!board.is_flying(&key));
        assert!(matches!(board.join(key, Vec::new, &coherence), Seat::Lead(_)));
    }
}
