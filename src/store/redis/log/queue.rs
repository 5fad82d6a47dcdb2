//! What waits to be written to the log, in order.
//!
//! It is bounded: beyond [`MOST`], all events in it become one flush, which is owed at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::coherence::{Coherence, Event, Roster};
use crate::store::random;

/// Most that may wait.
const MOST: usize = 4096;

/// Something to be written.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// An intent, under its event's number.
    Intend(Arc<Event>),
    /// An intent is to be forgotten.
    Withdraw,
    /// An event; with the intent that it fulfils, and the purge from outside that it takes up.
    Append { event: Arc<Event>, intent: Option<u64>, claim: Option<Arc<str>> },
}

/// Told when it is in the log, and, if it is an event, applied here.
#[derive(Debug, Clone)]
pub(super) struct Done {
    /// Its place.
    pub(super) seq: u64,
    /// Who was registered then.
    pub(super) told: Arc<Roster>,
    /// When the answer had come.
    pub(super) at: Duration,
}

/// One of those who wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) what: What,
    /// The intent's number, for intents.
    pub(super) id: u64,
    /// Those who want to know; more than one where events have collapsed.
    pub(super) done: Mutex<Vec<oneshot::Sender<Done>>>,
}

impl Waiting {
    pub(super) fn event(&self) -> Option<&Arc<Event>> {
        match &self.what {
            What::Append { event, .. } => Some(event),
            What::Intend(_) | What::Withdraw => None,
        }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Shared with a batch under way, so that what was written is found again by identity.
    waiting: VecDeque<Arc<Waiting>>,
}

impl Queue {
    /// Adds to the end.
    pub(super) fn push(
        &mut self,
        what: What,
        id: u64,
        done: Option<oneshot::Sender<Done>>,
        coherence: &Coherence,
    ) {
        let done = Mutex::new(done.into_iter().collect());
        self.waiting.push_back(Arc::new(Waiting { what, id, done }));
        if self.waiting.len() > MOST {
            self.collapse(coherence);
        }
    }

    /// All events become one flush. It is owed before what it stands for is settled: no moment without either.
    /// Intents that were not recorded in time never will be; a withdrawal that is lost only leaves one purge too many.
    fn collapse(&mut self, coherence: &Coherence) {
        let flush = Arc::new(Event { id: number(), ..Event::flush() });
        coherence.apply_owed(&flush);
        let mut done = Vec::new();
        for waiting in self.waiting.drain(..) {
            if let Some(event) = waiting.event() {
                coherence.settle_owed(event);
                done.append(&mut waiting.done.lock());
            }
        }
        tracing::warn!("too many purges wait for the log: they become one flush");
        let what = What::Append { event: flush, intent: None, claim: None };
        self.waiting.push_back(Arc::new(Waiting { what, id: 0, done: Mutex::new(done) }));
    }

    /// The first `most`.
    pub(super) fn batch(&self, most: usize) -> Vec<Arc<Waiting>> {
        self.waiting.iter().take(most).cloned().collect()
    }

    /// Takes one out, unless it has collapsed meanwhile.
    pub(super) fn remove(&mut self, waiting: &Arc<Waiting>) -> bool {
        let Some(at) = self.waiting.iter().position(|w| Arc::ptr_eq(w, waiting)) else { return false };
        self.waiting.remove(at).is_some()
    }

    /// Whether this very event waits.
    pub(super) fn holds(&self, event: &Arc<Event>) -> bool {
        self.waiting.iter().any(|w| w.event().is_some_and(|e| Arc::ptr_eq(e, event)))
    }

    /// Events that wait.
    pub(super) fn events(&self) -> usize {
        self.waiting.iter().filter(|w| w.event().is_some()).count()
    }
}

/// A number for an event of the log's own making; publishers count from 1 and do not get there.
pub(super) fn number() -> u64 {
    u64::from_le_bytes(random()) | 1 << 63
}
