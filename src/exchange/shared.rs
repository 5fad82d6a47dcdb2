//! Coalescing across instances (`coalesce = "shared"`): one of them fetches, the others take its entry from Redis.
//!
//! ```text
//!  leader of a flight ─► ask for the lock ─┬─ mine ─► look once more ─► fetch ─► entry written ─► lock ended
//!                              ▲           ├─ held ─► wait for its end ─► look ─┬─► found: land with it
//!                              └───────────┼────────────────────────────────────┘
//!                                          └─ nobody shares, or Redis does not answer ─► fetch
//! ```
//!
//! Invariants:
//! - Whether an entry may answer is for its stamp to say, and for the lease and the arrival of each request that it
//!   answers; never for the lock. So the lock can cost time, and nothing else.
//! - Only the leader of a flight asks, in a task that belongs to the flight, so there are never more questions than
//!   flights, and a client that leaves ends none.
//! - A wait ends with the holder's answer, with the bound of a lock whose holder has died, with Redis' budget if it
//!   does not answer, and at the latest when followers' patience ends too (`coalesce_timeout`). Nobody waits for
//!   more than [`HOLDERS`], nor for a fetch that a purge has voided: its lock is taken over.
//! - What brings nothing to share is said so in the lock's place, so that all go at once instead of in turn.
//!
//! Who refreshes behind an answer asks too. If another instance is at it, it keeps its flight in the air until the
//! other has landed (or else each stale hit would ask Redis), but fetches only if the other has died or Redis has.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Exchange;
use super::answer::Answer;
use super::coalesce::{Flight, Landing};
use super::deliver::deliver;
use super::fetch::{Arrived, Fetch, Lost, Underway};
use super::wanted::Wanted;
use crate::coherence::{Coherence, Liveness, Void};
use crate::metrics::SharedResult;
use crate::policy::key::CacheKey;
use crate::policy::route::Coalesce;
use crate::semantics::cache_status::{Forward, Outcome};
use crate::semantics::reuse::{self, Reuse};
use crate::store::{BOUND, Claim, Ended, Entry, Heard, Lock, Locks, Lookup};

/// How many holders of a lock one waits for, one after the other, before one goes without.
const HOLDERS: usize = 2;
/// How soon one who waits asks whether the lock is still held, and the longest pause between two such questions. They
/// are for what is not announced: a holder that has died.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// What a leader goes on with.
pub(super) enum Begun {
    /// Its fetch has arrived, or was lost.
    Fetched(Result<Arrived, Lost>),
    /// Another instance's has.
    Answered(Answer),
}

/// The same, before the leader's client has looked at it.
enum Started {
    Fetching(Underway),
    Found(Arc<Entry>),
}

/// How asking the other instances ended.
enum Turn {
    /// This instance fetches for all.
    Mine(Lock),
    /// Another has fetched; a lock that was taken in vain is to be ended.
    Found(Arc<Entry>, Option<Lock>),
    /// There is nobody to wait for, because…
    Alone(SharedResult),
}

impl Turn {
    fn result(&self) -> SharedResult {
        match self {
            Turn::Mine(_) => SharedResult::Led,
            Turn::Found(..) => SharedResult::Found,
            Turn::Alone(why) => *why,
        }
    }
}

impl Exchange {
    /// Starts a leader's fetch, or finds that another instance's has brought the answer.
    pub(super) async fn begin(self: &Arc<Self>, fetch: Fetch, forward: Forward) -> Begun {
        let Some(key) = self.shared_key(&fetch) else {
            return Begun::Fetched(fetch.start().await);
        };
        let (wanted, validator) = (Arc::clone(&fetch.wanted), fetch.validator.clone());
        let (spares, interim) = (fetch.spares, fetch.interim.clone());
        let (tell, told) = oneshot::channel();
        self.tasks.spawn(Arc::clone(self).take_turn(fetch, key, Some(tell)));
        match told.await {
            Err(_) => Begun::Fetched(Err(Lost)),
            Ok(Started::Fetching(arrived)) => Begun::Fetched(arrived.await),
            Ok(Started::Found(entry)) => match self.found_elsewhere(&wanted, forward, &entry) {
                Some(answer) => Begun::Answered(answer),
                None => {
                    // A purge came between. Once is enough: this one goes by itself.
                    let lead = self.board.alone(self.store.coherence());
                    let fetch =
                        Fetch { exchange: Arc::clone(self), wanted, lead, validator, spares, interim };
                    Begun::Fetched(fetch.start().await)
                }
            },
        }
    }

    /// Starts a fetch that nobody waits for, unless another instance is at it.
    pub(super) fn begin_behind(self: &Arc<Self>, fetch: Fetch) {
        match self.shared_key(&fetch) {
            // Not among the tasks that a shutdown waits for: what waits for another instance has nothing to lose.
            Some(key) => drop(tokio::spawn(Arc::clone(self).take_turn(fetch, key, None))),
            // Nobody waits for it: it goes on in a task.
            None => drop(fetch.start()),
        }
    }

    /// The key of the lock to ask for. `None` = the fetch is not for others, or what they have is not for it.
    fn shared_key(&self, fetch: &Fetch) -> Option<CacheKey> {
        let wanted = &fetch.wanted;
        let shares = wanted.route.coalesce == Coalesce::Shared
            && !wanted.parts.headers.contains_key(header::RANGE)
            && self.store.locks().is_some()
            && self.store.coherence().holds_lease(wanted.arrived);
        fetch.lead.key().filter(|_| shares)
    }

    /// The flight's task until its fetch goes, and from then on the lock's. `tell` = somebody waits here.
    async fn take_turn(
        self: Arc<Self>,
        mut fetch: Fetch,
        key: CacheKey,
        tell: Option<oneshot::Sender<Started>>,
    ) {
        let Some(locks) = self.store.locks() else { return };
        let turn = self.turn(locks, &mut fetch, &key).await;
        self.metrics.shared(turn.result());
        let behind = tell.is_none();
        let say = |started| drop(tell.map(|tell| tell.send(started)));
        match turn {
            Turn::Found(entry, lock) => {
                fetch.lead.land(Landing::Found(Arc::clone(&entry)));
                say(Started::Found(entry));
                if let Some(lock) = lock {
                    locks.end(&lock, Ended::Free).await;
                }
            }
            // Another instance has just tried what this one would, for the next one who needs it.
            Turn::Alone(SharedResult::NotShareable | SharedResult::Timeout) if behind => {}
            Turn::Alone(_) => {
                self.outlive_purges(&mut fetch);
                say(Started::Fetching(fetch.start()));
            }
            Turn::Mine(lock) => {
                let flight = fetch.lead.flight();
                say(Started::Fetching(fetch.start()));
                self.hold(locks, &lock, &flight).await;
            }
        }
    }

    /// Asks for the lock until it is ours or not needed any more.
    async fn turn(&self, locks: &Locks, fetch: &mut Fetch, key: &CacheKey) -> Turn {
        let wanted = Arc::clone(&fetch.wanted);
        let name = locks.name(&wanted.route.name, key);
        let until = self.clock.elapsed() + self.config.coalesce_timeout;
        let (mut listener, mut pause) = (None, FIRST_PAUSE);
        let (mut holders, mut holder, mut instead_of) = (0, String::new(), None);
        let mut waiting = None;
        loop {
            self.outlive_purges(fetch);
            let held = match locks.ask(&name, &fetch.lead.stamp(), instead_of.as_deref()).await {
                Claim::Held(held) => held,
                Claim::Unshared => return Turn::Alone(SharedResult::NotShareable),
                Claim::Unavailable => return Turn::Alone(SharedResult::StoreUnavailable),
                // It may have been stored, and the lock let go, since this request looked.
                Claim::Mine(lock) => match self.stored_elsewhere(&wanted).await {
                    Some(entry) => return Turn::Found(entry, Some(lock)),
                    None => return Turn::Mine(lock),
                },
            };
            match held.stamp.map(|stamp| self.store.coherence().liveness(&stamp, &wanted.request_tags(self)))
            {
                // Its entry will be absent here (a rolling deployment).
                Some(Liveness::Void(Void::Rules)) => return Turn::Alone(SharedResult::NotShareable),
                // A purge has voided what it fetches: nobody who arrives from now on can use that.
                Some(Liveness::Void(_) | Liveness::Stale) if instead_of.as_ref() != Some(&held.value) => {
                    instead_of = Some(held.value);
                    continue;
                }
                _ => {}
            }
            waiting.get_or_insert_with(|| self.metrics.waiting());
            let Some(listener) = &mut listener else {
                // What ended before this one listened was not heard: so it asks again.
                listener = Some(locks.listen(&name));
                continue;
            };
            if held.value != holder {
                (holder, holders, pause) = (held.value, holders + 1, FIRST_PAUSE);
            }
            let left = until.saturating_sub(self.clock.elapsed());
            if left.is_zero() || holders > HOLDERS {
                return Turn::Alone(SharedResult::Timeout);
            }
            let heard = listener.heard(pause.min(held.left + FIRST_PAUSE / 5).min(left)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            if heard == Heard::Ended
                && let Some(entry) = self.stored_elsewhere(&wanted).await
            {
                return Turn::Found(entry, None);
            }
        }
    }

    /// A flight whose stamp a purge has voided takes nobody aboard any more, and what it stored would be void too.
    /// Nothing has gone upstream yet, so the fetch begins anew, by itself; who was aboard boards the next flight.
    fn outlive_purges(&self, fetch: &mut Fetch) {
        let coherence = self.store.coherence();
        let tags = fetch.wanted.request_tags(self);
        if coherence.liveness(&fetch.lead.stamp(), &tags) != Liveness::Live {
            fetch.lead = self.board.alone(coherence);
        }
    }

    /// What another instance has stored meanwhile, if it answers this request.
    async fn stored_elsewhere(&self, wanted: &Wanted) -> Option<Arc<Entry>> {
        let (route, headers) = (&wanted.route.name, &wanted.parts.headers);
        let found = self.store.lookup_redis(&wanted.key, route, headers, wanted.arrived).await;
        let Lookup::Found(entry, _) = found else { return None };
        let decided = reuse::decide(&entry.response, headers, self.clock.now(), &wanted.terms);
        matches!(decided, Reuse::Fresh { .. }).then_some(entry)
    }

    /// Answers with an entry that another instance has fetched, if it is live for this request: by its own arrival,
    /// under a lease of its own. The leader's look-up says nothing about who came after it.
    pub(super) fn found_elsewhere(
        &self,
        wanted: &Wanted,
        forward: Forward,
        entry: &Arc<Entry>,
    ) -> Option<Answer> {
        let (headers, terms) = (&wanted.parts.headers, &wanted.terms);
        if !is_for(self.store.coherence(), entry, wanted.arrived)
            || entry.key != wanted.key
            || !entry.response.selecting().matches(headers)
        {
            return None;
        }
        let Reuse::Fresh { age } = reuse::decide(&entry.response, headers, self.clock.now(), terms) else {
            return None;
        };
        let response = deliver(&wanted.parts.method, headers, &entry.response, age, &self.via);
        let mut answer = Answer::forwarded(response, Outcome::Coalesced, forward, Some("shared"));
        answer.status.collapsed = true;
        answer.age = Some(age);
        Some(answer)
    }

    /// Keeps a lock while its fetch runs, and ends it when what came of it can be found, or is known to be for
    /// nobody. It is kept no longer than anybody would wait for it.
    async fn hold(&self, locks: &Locks, lock: &Lock, flight: &Flight) {
        let landing = timeout(self.config.coalesce_timeout, async {
            let landed = flight.landed();
            tokio::pin!(landed);
            loop {
                tokio::select! {
                    landing = &mut landed => return Some(landing),
                    () = sleep(BOUND / 3) => if !locks.renew(lock).await {
                        return None;
                    },
                }
            }
        })
        .await;
        let ended = match landing {
            // Somebody else's by now.
            Ok(None) => return,
            Ok(Some(Landing::Stored(entry))) => {
                let live = self.store.coherence().liveness(&entry.stamp(), &entry.tags) == Liveness::Live;
                // One that a purge has voided is fetched again, by one for all; one that Redis would not take, by each.
                if !live || locks.written(&entry).await { Ended::Free } else { Ended::Unshared }
            }
            Ok(Some(Landing::NotShareable | Landing::Failed(_))) => Ended::Unshared,
            Ok(Some(Landing::Dropped | Landing::Found(_))) | Err(_) => Ended::Free,
        };
        locks.end(lock, ended).await;
    }
}

/// Whether an entry that another instance has fetched may answer who arrived then. Its flight's leader had a lease at
/// its own arrival; who boarded later may have come after a mutation that this instance had not heard of by then.
fn is_for(coherence: &Coherence, entry: &Entry, arrived: Duration) -> bool {
    coherence.reusable(&entry.stamp(), &entry.tags, arrived) == Liveness::Live
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::coherence::{Epoch, Event};
    use crate::policy::tags::Tag;
    use crate::semantics::stored::{Lifetimes, StoredResponse};
    use crate::semantics::timestamp::Timestamp;
    use crate::semantics::vary::Selecting;

    #[test]
    fn what_another_has_fetched_is_for_whoever_arrived_under_the_lease() {
        let coherence = Coherence::new(Epoch(1), [7; 32], 10, 16);
        coherence.require_leases();
        let response = StoredResponse::new(
            StatusCode::OK,
            HeaderMap::new(),
            bytes::Bytes::new(),
            Timestamp(0),
            Timestamp(0),
            Lifetimes::default(),
            Selecting::default(),
        );
        let entry = Entry::new(CacheKey([1; 32]), &"page".into(), coherence.sample(), vec![Tag(5)], response);
        let (early, late) = (Duration::from_secs(9), Duration::from_secs(11));
        assert!(!is_for(&coherence, &entry, early), "nobody has a lease yet");
        coherence.offer_lease(Epoch(1), 0, Duration::from_secs(10));
        assert!(is_for(&coherence, &entry, early));
        assert!(!is_for(&coherence, &entry, late), "a mutation may have been answered since");
        coherence.apply(Epoch(1), 1, &Event { tags: vec![Tag(5)], ..Event::default() });
        assert!(!is_for(&coherence, &entry, early), "purged");
    }
}
