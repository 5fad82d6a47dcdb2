//! Reads, as `exchange::{read, fetch}` and `store` have them: look up, reuse or join a flight, fetch, store.

use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::oneshot;
use weir::coherence::{Liveness, Stamp, Void};
use weir::policy::tags::Tag;

use crate::backend::{Condition, Content, Got, Versions};
use crate::board::{Arrival, Landing, Lead, Passenger, Seat};
use crate::exchange::{Entry, Exchange, Key};
use crate::ledger::STALE;
use crate::redis;
use crate::sabotage::Sabotage;
use crate::world::Micros;

/// A request for a key.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    key: Key,
    arrived: Duration,
}

/// `read::Need`.
#[derive(Default)]
struct Need {
    validator: Option<Validator>,
    /// What may stand in for a failed fetch.
    held: Option<Rc<Entry>>,
}

#[derive(Clone)]
struct Validator {
    entry: Rc<Entry>,
    purged: bool,
}

/// `read::Waits`.
#[derive(Default)]
struct Waits {
    count: u32,
    since: Option<Duration>,
}

/// `read::Followed`.
enum Followed {
    Answered(Answer),
    Leads(Lead),
    Again,
}

enum Next {
    Done(Answer),
    Forward(Need),
}

enum Found {
    Usable(Rc<Entry>),
    Softened(Rc<Entry>),
    Voided(Rc<Entry>),
    Absent,
}

/// What a client gets; no content = an error.
struct Answer {
    content: Option<Content>,
    how: &'static str,
}

/// `read::WAITS`.
const WAITS: u32 = 2;
/// The read path's budget for Redis.
const BUDGET: Duration = Duration::from_millis(50);

impl Exchange {
    /// `Exchange::read`: what a client sees of it.
    pub async fn read(
        self: Rc<Self>,
        key: Key,
        required: Option<(Versions, &'static str)>,
    ) -> Option<&'static str> {
        let world = &self.log.world;
        let mut arrived = self.log.clock.elapsed();
        let key = Key { secret: self.log.coherence.view().secret_id, ..key };
        let (at, least) = (world.now(), required.map_or_else(|| self.ledger.required(self.log.pid), |r| r.0));
        if self.is(Sabotage::ArrivesEarly) {
            arrived = arrived.saturating_sub(self.log.settings.agreement.lease);
        }
        let answer = self.answer(Wanted { key, arrived }).await;
        self.ledger.count(answer.how);
        let (host, how) = (self.log.host, answer.how);
        world.tell(|| {
            format!(
                "#{host} {key:?} of {}.{:06}: {how}: {:?}",
                at / 1_000_000,
                at % 1_000_000,
                answer.content.as_ref().map(|c| c.version)
            )
        });
        if let Some(content) = &answer.content {
            let promise = required.map_or(STALE, |r| r.1);
            self.ledger.shown(content, key.subject, at, &least, promise, &format!("#{host}, {how}"));
        }
        Some(answer.how)
    }

    /// `Exchange::answer`.
    async fn answer(self: &Rc<Self>, wanted: Wanted) -> Answer {
        let mut waits = Waits::default();
        loop {
            let need = match self.look_up(wanted).await {
                Next::Done(answer) => return answer,
                Next::Forward(need) => need,
            };
            let coherence = &self.log.coherence;
            let seat = if waits.count >= WAITS {
                Seat::Lead(self.board.alone(coherence))
            } else {
                self.board.join(wanted.key, wanted.arrived, || self.request_tags(wanted.key), coherence)
            };
            match seat {
                Seat::Lead(lead) => return self.lead(wanted, need, lead).await,
                Seat::Aboard(passenger) => match self.follow(wanted, &need, passenger, &mut waits).await {
                    Followed::Answered(answer) => return answer,
                    Followed::Leads(lead) => return self.lead(wanted, need, lead).await,
                    Followed::Again => {}
                },
            }
        }
    }

    /// `Wanted::request_tags`: those that are known before the response is.
    fn request_tags(&self, key: Key) -> Vec<Tag> {
        let secret = self.log.coherence.view().secret;
        self.entry_tags(&secret, key)
    }

    /// `Exchange::look_up`, `Store::lookup`.
    async fn look_up(self: &Rc<Self>, wanted: Wanted) -> Next {
        let near = self.memory.borrow().get(&self.place(wanted.key)).cloned();
        let near = near.map_or(Found::Absent, |entry| self.judge(entry, wanted));
        let found = match near {
            Found::Usable(entry) => (Found::Usable(entry), "hit in memory"),
            near => {
                let log = &self.log;
                let far = redis::get(&log.redis, log.host, &log.clock, self.place(wanted.key), BUDGET).await;
                let far = far.map(|entry| entry.copied());
                let far = match far {
                    Some(entry) if self.is(Sabotage::TrustsRedis) => Found::Usable(entry),
                    Some(entry) => self.judge(entry, wanted),
                    None => Found::Absent,
                };
                if let Found::Usable(entry) = &far {
                    self.promote(entry);
                }
                let found = match (near, far) {
                    (_, far @ Found::Usable(_)) => far,
                    (near @ Found::Softened(_), _) => near,
                    (_, far @ Found::Softened(_)) => far,
                    (near @ Found::Voided(_), _) => near,
                    (_, far) => far,
                };
                (found, "hit in Redis")
            }
        };
        match found {
            (Found::Usable(entry), how) => self.reuse(wanted, entry, how),
            (Found::Softened(entry), _) => self.reuse_softened(wanted, entry),
            (Found::Voided(entry), _) => {
                Next::Forward(Need { validator: Some(Validator { entry, purged: true }), held: None })
            }
            (Found::Absent, _) => Next::Forward(Need::default()),
        }
    }

    fn place(&self, key: Key) -> Key {
        if self.is(Sabotage::SharesAmongSubjects) { Key { subject: 0, ..key } } else { key }
    }

    /// `memory::Choice::offer`.
    fn judge(&self, entry: Rc<Entry>, wanted: Wanted) -> Found {
        let (age, lifetimes) = (self.log.world.now() - entry.stored, entry.lifetimes);
        let coherence = &self.log.coherence;
        let liveness = if self.is(Sabotage::ReusesWithoutLease) {
            coherence.liveness(&entry.stamp, &entry.tags)
        } else if self.is(Sabotage::ServesStaleUnjudged)
            && age > lifetimes.fresh
            && age < lifetimes.fresh + lifetimes.while_revalidate
        {
            Liveness::Live
        } else {
            coherence.reusable_since(&entry.stamp, &entry.tags, wanted.arrived, &entry.last_live)
        };
        let longest = lifetimes.while_revalidate.max(lifetimes.if_error).max(lifetimes.keep);
        if age >= lifetimes.fresh + longest {
            return Found::Absent;
        }
        if let Liveness::Void(why) = liveness {
            self.ledger.count(match why {
                Void::Lease => "void: no lease",
                Void::Epoch => "void: another epoch",
                Void::Rules => "void: other rules",
                Void::Floor => "void: below the floor",
                Void::Purged => "void: purged",
            });
        }
        match liveness {
            Liveness::Live => Found::Usable(entry),
            Liveness::Stale => Found::Softened(entry),
            Liveness::Void(_) if entry.etag || self.is(Sabotage::PurgedByLastModified) => {
                Found::Voided(entry)
            }
            Liveness::Void(_) => Found::Absent,
        }
    }

    /// `Memory::promote`.
    fn promote(&self, entry: &Rc<Entry>) {
        let mut memory = self.memory.borrow_mut();
        let coherence = &self.log.coherence;
        let newer = memory.get(&entry.key).is_some_and(|old| {
            old.stored > entry.stored && coherence.liveness(&old.stamp, &old.tags) == Liveness::Live
        });
        if !newer {
            memory.insert(entry.key, Rc::clone(entry));
        }
    }

    /// `Exchange::reuse`.
    fn reuse(self: &Rc<Self>, wanted: Wanted, entry: Rc<Entry>, how: &'static str) -> Next {
        let (age, lifetimes) = (self.log.world.now() - entry.stored, entry.lifetimes);
        let content = Some(entry.content.clone());
        if age < lifetimes.fresh {
            return Next::Done(Answer { content, how });
        }
        if age < lifetimes.fresh + lifetimes.while_revalidate {
            self.refresh(wanted, Validator { entry, purged: false });
            return Next::Done(Answer { content, how: "stale while revalidating" });
        }
        let held = Some(Rc::clone(&entry));
        Next::Forward(Need { validator: Some(Validator { entry, purged: false }), held })
    }

    /// `Exchange::reuse_softened`.
    fn reuse_softened(self: &Rc<Self>, wanted: Wanted, entry: Rc<Entry>) -> Next {
        self.ledger.count("softened");
        let (age, lifetimes) = (self.log.world.now() - entry.stored, entry.lifetimes);
        let held = Some(Rc::clone(&entry));
        let validator = Validator { entry, purged: true };
        if age < lifetimes.fresh + lifetimes.while_revalidate {
            let content = Some(validator.entry.content.clone());
            self.refresh(wanted, validator);
            return Next::Done(Answer { content, how: "stale: softly purged" });
        }
        Next::Forward(Need { validator: Some(validator), held })
    }

    /// `Exchange::follow`.
    async fn follow(&self, wanted: Wanted, need: &Need, passenger: Passenger, waits: &mut Waits) -> Followed {
        waits.count += 1;
        let now = self.log.clock.elapsed();
        let since = *waits.since.get_or_insert(now);
        let mut left = self.coalesce_timeout.saturating_sub(now.saturating_sub(since));
        if self.is(Sabotage::WaitsForEver) {
            left = Duration::from_secs(1 << 20);
        }
        let after_arrival = passenger.after_arrival;
        let flown = passenger.fly(|| self.request_tags(wanted.key), &self.log.coherence);
        let answer = match self.log.clock.timeout(left, flown).await {
            Some(Arrival::Leads(lead)) => return Followed::Leads(lead),
            Some(Arrival::Landed(Some(Landing::Stored(entry)))) => self.share(wanted, &entry, after_arrival),
            Some(Arrival::Landed(Some(Landing::Failed))) => {
                let stand_in = need.held.as_ref().and_then(|entry| self.stand_in(wanted, entry));
                let failed = Answer { content: None, how: "failed" };
                stand_in.or_else(|| (waits.count >= WAITS).then_some(failed))
            }
            Some(Arrival::Landed(None)) => None,
            None => {
                waits.count = WAITS;
                None
            }
        };
        answer.map_or(Followed::Again, Followed::Answered)
    }

    /// `Exchange::share`. What is not stored because it settles may lag behind what this request must see, too.
    fn share(&self, wanted: Wanted, entry: &Rc<Entry>, after_arrival: bool) -> Option<Answer> {
        let settles = self.log.settling.holds(&entry.tags, &self.log.coherence.view());
        let proved = after_arrival
            || self.is(Sabotage::SharesUnjudged)
            || (self.liveness(wanted, entry) == Liveness::Live
                && (!settles || self.is(Sabotage::SharesWhatSettles)));
        let fresh = self.log.world.now() - entry.stored < entry.lifetimes.fresh;
        let how = if after_arrival { "followed a later flight" } else { "followed a flight" };
        (proved && fresh && entry.key == wanted.key)
            .then(|| Answer { content: Some(entry.content.clone()), how })
    }

    /// `Exchange::liveness`.
    fn liveness(&self, wanted: Wanted, entry: &Entry) -> Liveness {
        let coherence = &self.log.coherence;
        if self.is(Sabotage::FollowsWithoutLease) {
            return coherence.liveness(&entry.stamp, &entry.tags);
        }
        coherence.reusable(&entry.stamp, &entry.tags, wanted.arrived)
    }

    /// `Exchange::stand_in`.
    fn stand_in(&self, wanted: Wanted, entry: &Rc<Entry>) -> Option<Answer> {
        let age = self.log.world.now() - entry.stored;
        let allowed = age < entry.lifetimes.fresh + entry.lifetimes.if_error;
        let live =
            !matches!(self.liveness(wanted, entry), Liveness::Void(_)) || self.is(Sabotage::StandsInUnjudged);
        (allowed && live).then(|| Answer { content: Some(entry.content.clone()), how: "stale if error" })
    }

    /// `Exchange::refresh`.
    fn refresh(self: &Rc<Self>, wanted: Wanted, validator: Validator) {
        let tags = || self.request_tags(wanted.key);
        if let Some(lead) = self.board.begin(wanted.key, tags, &self.log.coherence) {
            self.ledger.count("refreshed behind the answer");
            drop(self.fetch(wanted.key, Some(validator), lead));
        }
    }

    /// `Exchange::lead`.
    async fn lead(self: &Rc<Self>, wanted: Wanted, need: Need, lead: Lead) -> Answer {
        let held = need.held.clone();
        match self.fetch(wanted.key, need.validator, lead).await {
            Ok(Some(answer)) => answer,
            Ok(None) => held
                .and_then(|entry| self.stand_in(wanted, &entry))
                .unwrap_or(Answer { content: None, how: "failed" }),
            Err(_) => Answer { content: None, how: "lost" },
        }
    }

    /// `Fetch::start`: in a task of its own.
    fn fetch(
        self: &Rc<Self>,
        key: Key,
        validator: Option<Validator>,
        lead: Lead,
    ) -> oneshot::Receiver<Option<Answer>> {
        let (client, receiver) = oneshot::channel();
        let exchange = Rc::clone(self);
        self.log.world.spawn(self.log.pid, async move {
            let answer = exchange.run(key, validator, lead).await;
            let _ = client.send(answer);
        });
        receiver
    }

    /// `Fetch::run`. The answer leaves when the entry is stored: a client that gets it earlier gets the same.
    async fn run(
        self: Rc<Self>,
        key: Key,
        mut validator: Option<Validator>,
        mut lead: Lead,
    ) -> Option<Answer> {
        self.doubt_validator(&mut validator, lead.departure.began);
        let condition = validator.as_ref().map(|v| condition(&v.entry));
        self.ledger.count("fetches");
        let stamp = lead.departure.stamp;
        match self.backend.get(key.thing, key.subject, condition).await {
            Got::Broken => {
                lead.land(Some(Landing::Failed));
                None
            }
            Got::NotModified => {
                let Some(Validator { entry: old, .. }) = validator else {
                    lead.land(Some(Landing::Failed));
                    return None;
                };
                let stamp = if self.is(Sabotage::FreshensLate) { self.log.coherence.sample() } else { stamp };
                let entry = self.entry(key, stamp, old.content.clone(), old.etag, old.modified);
                self.insert(&entry);
                lead.land(Some(Landing::Stored(Rc::clone(&entry))));
                Some(Answer { content: Some(entry.content.clone()), how: "revalidated" })
            }
            Got::Full { content, etag, modified } => {
                let stamp = if self.is(Sabotage::StampsLate) { self.log.coherence.sample() } else { stamp };
                let entry = self.entry(key, stamp, content, etag, modified);
                self.insert(&entry);
                lead.land(Some(Landing::Stored(Rc::clone(&entry))));
                Some(Answer { content: Some(entry.content.clone()), how: "fetched" })
            }
        }
    }

    /// `Fetch::doubt_validator`.
    fn doubt_validator(&self, validator: &mut Option<Validator>, began: Duration) {
        if let Some(Validator { entry, purged }) = validator {
            if !self.is(Sabotage::TrustsValidators) {
                *purged |= self.log.coherence.reusable(&entry.stamp, &entry.tags, began) != Liveness::Live;
            }
            if *purged && !entry.etag && !self.is(Sabotage::PurgedByLastModified) {
                *validator = None;
            }
        }
    }

    /// `Fetch::entry`.
    fn entry(&self, key: Key, stamp: Stamp, content: Content, etag: bool, modified: Micros) -> Rc<Entry> {
        let tags = self.entry_tags(&self.log.coherence.view().secret, key);
        let (stored, lifetimes) = (self.log.world.now(), self.lifetimes);
        Rc::new(Entry {
            key,
            stamp,
            tags,
            content,
            etag,
            modified,
            stored,
            lifetimes,
            last_live: AtomicU64::new(0),
        })
    }

    /// `Store::insert`.
    fn insert(&self, entry: &Rc<Entry>) {
        let log = &self.log;
        let live = !matches!(log.coherence.liveness(&entry.stamp, &entry.tags), Liveness::Void(_));
        let settles = log.settling.holds(&entry.tags, &log.coherence.view());
        if settles {
            self.ledger.count("not stored: settling");
        }
        if !live || (settles && !self.is(Sabotage::StoresWhatSettles)) {
            return;
        }
        let place = self.place(entry.key);
        log.world.tell(|| format!("#{} stores {:?} of {}", log.host, entry.content, entry.stamp.seq));
        self.memory.borrow_mut().insert(place, Rc::clone(entry));
        if log.joined.get() {
            let (redis, host, entry) = (Rc::clone(&log.redis), log.host, entry.copied());
            let entry = if place == entry.key {
                entry
            } else {
                Rc::new(Entry { key: place, ..Rc::into_inner(entry).unwrap() })
            };
            log.world.after(log.world.range(0, self.late), move || redis::put(&redis, host, entry));
        }
    }
}

fn condition(entry: &Entry) -> Condition {
    if entry.etag { Condition::ETag(entry.content.clone()) } else { Condition::Modified(entry.modified) }
}
