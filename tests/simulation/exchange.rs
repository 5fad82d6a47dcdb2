//! The request path, as `exchange` and `store` have it: look up, reuse or join a flight, fetch, store; forward, purge,
//! answer. Each function names what it mirrors; liveness and leases are judged by production's own view.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use weir::coherence::event::Settle;
use weir::coherence::{Event, EventKind, Liveness, Stamp, View, Void};
use weir::policy::tags::Tag;
use weir::store::redis::wire::Outside;
use weir::store::{Reach, UnreachableLog};

use crate::backend::{Backend, Condition, Content, EVERYTHING, Fate, Got, ITEMS, Outcome};
use crate::ledger::{FLIGHTS, Ledger, STALE};
use crate::log::Log;
use crate::redis;
use crate::sabotage::Sabotage;
use crate::world::{Micros, Signal};

/// What is asked for, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub thing: usize,
    pub subject: u8,
}

/// A stored response (`store::Entry`).
#[derive(Debug)]
pub struct Entry {
    pub key: Key,
    pub stamp: Stamp,
    pub tags: Vec<Tag>,
    pub content: Content,
    pub etag: bool,
    pub modified: Micros,
    pub stored: Micros,
    pub lifetimes: Lifetimes,
    pub last_live: AtomicU64,
}

impl Entry {
    /// As another instance decodes it.
    fn copied(&self) -> Rc<Entry> {
        Rc::new(Entry {
            key: self.key,
            stamp: self.stamp,
            tags: self.tags.clone(),
            content: self.content.clone(),
            etag: self.etag,
            modified: self.modified,
            stored: self.stored,
            lifetimes: self.lifetimes,
            last_live: AtomicU64::new(0),
        })
    }
}

/// How long a response is good for what, microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    pub fresh: Micros,
    pub while_revalidate: Micros,
    pub if_error: Micros,
    pub keep: Micros,
}

/// What tags mean something under: the secret that hashed them, and the rules that made them.
type Language = (u64, u64);

/// `store::settling`. Each author's holds are its own: what one lets go, another may still hold.
#[derive(Default)]
pub struct Settling {
    held: RefCell<BTreeMap<(Tag, u64), Duration>>,
    language: Cell<Language>,
    everything: Cell<Option<Duration>>,
    pub changed: Notify,
}

impl Settling {
    pub fn hold(&self, event: &Event, until: Duration) {
        let language = (event.hashed_with, event.rules);
        let mut held = self.held.borrow_mut();
        if !held.is_empty() && self.language.get() != language {
            let latest = held.values().copied().max().unwrap_or_default();
            held.clear();
            self.everything.set(self.everything.get().max(Some(latest.max(until))));
        } else {
            self.language.set(language);
            for tag in &event.tags {
                let present = held.entry((*tag, event.origin)).or_default();
                *present = (*present).max(until);
            }
        }
        self.changed.notify_one();
    }

    pub fn release(&self, event: &Event, whoever: bool) {
        if self.language.get() == (event.hashed_with, event.rules) {
            let origin = event.origin;
            self.held
                .borrow_mut()
                .retain(|(tag, of), _| !(event.tags.contains(tag) && (*of == origin || whoever)));
        }
    }

    fn holds(&self, tags: &[Tag], view: &View) -> bool {
        let held = self.held.borrow();
        self.everything.get().is_some()
            || (!held.is_empty() && self.language.get() != (view.secret_id, view.rules))
            || tags.iter().any(|tag| held.range((*tag, 0)..=(*tag, u64::MAX)).next().is_some())
    }

    /// What has settled, and when the next does. It is held on until it is purged once more. What others hold and do
    /// not get to is purged without a word on settling, which would let go what this author holds elsewhere.
    fn settled(&self, now: Duration, me: u64) -> (Option<Event>, Option<Duration>) {
        let held = self.held.borrow();
        let everything = self.everything.get().is_some_and(|until| until <= now).then(Event::flush);
        let event = everything.or_else(|| self.due(now, |origin| origin == me, Settle::Over));
        let event = event.or_else(|| self.due(now, |origin| origin != me, Settle::AtOnce));
        let later = held.values().copied().filter(|until| *until > now);
        (event, later.chain(self.everything.get().filter(|until| *until > now)).min())
    }

    fn due(&self, now: Duration, whose: impl Fn(u64) -> bool, settle: Settle) -> Option<Event> {
        let held = self.held.borrow();
        let due = held.iter().filter(|((_, origin), until)| **until <= now && whose(*origin));
        let due: BTreeSet<Tag> = due.map(|((tag, _), _)| *tag).collect();
        let (hashed_with, rules) = self.language.get();
        let tags: Vec<Tag> = due.into_iter().collect();
        (!tags.is_empty()).then(|| Event { tags, hashed_with, rules, settle, ..Event::default() })
    }

    /// What had settled at `now` has been purged by `event`: what has been held anew since is held on.
    fn end(&self, now: Duration, event: &Event, me: u64) {
        let mine = event.settle == Settle::Over;
        let flush = event.kind == EventKind::Flush;
        self.held
            .borrow_mut()
            .retain(|(_, origin), until| *until > now || (!flush && (*origin == me) != mine));
        self.everything.set(self.everything.get().filter(|until| *until > now));
    }
}

/// What an outside purge comes to.
pub fn translate(outside: &Outside) -> Event {
    let mut event = Event::default();
    for (field, value) in &outside.fields {
        match field.as_str() {
            "tag" => event.names.push(value.clone()),
            "soft" => event.kind = EventKind::Soft,
            _ => return Event::flush(),
        }
    }
    event
}

/// The names of tags under one set of rules; the three rules for unknowns as `policy::tags` has them.
fn name(rules: u64, what: &str, value: &str) -> String {
    format!("{rules}|{what}:{value}")
}

/// One fetch under way (`coalesce::Flight`).
struct Flight {
    began: Duration,
    stamp: Stamp,
    tags: Vec<Tag>,
    landing: RefCell<Option<Landing>>,
    landed: Signal,
}

/// `coalesce::Landing`.
#[derive(Clone)]
enum Landing {
    Stored(Rc<Entry>),
    Failed,
}

/// `coalesce::Lead`.
struct Lead {
    key: Option<Key>,
    flight: Rc<Flight>,
}

enum Seat {
    Lead(Lead),
    /// It may answer: it began after this request arrived, or was live under a lease held since.
    Follow(Rc<Flight>),
    /// It may not answer this request; the next one may.
    Next(Rc<Flight>),
}

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
}

#[derive(Clone)]
struct Validator {
    entry: Rc<Entry>,
    purged: bool,
}

impl Need {
    fn held(&self) -> Option<&Rc<Entry>> {
        self.validator.as_ref().filter(|v| !v.purged).map(|v| &v.entry)
    }
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

/// What a purge names of a mutation, as far as it is known.
#[derive(Debug, Clone, Copy)]
struct Known {
    item: usize,
    entered: usize,
    left: Option<usize>,
}

/// One life of one instance.
pub struct Exchange {
    pub log: Rc<Log>,
    pub ledger: Rc<Ledger>,
    pub backend: Rc<Backend>,
    pub rules: Cell<u64>,
    pub lifetimes: Lifetimes,
    pub settle: Option<Duration>,
    pub coalesce_timeout: Duration,
    pub late: Micros,
    memory: RefCell<BTreeMap<Key, Rc<Entry>>>,
    board: RefCell<BTreeMap<Key, Rc<Flight>>>,
    names: RefCell<HashMap<([u8; 32], String), Tag>>,
    mutations: Cell<usize>,
    pub draining: Cell<bool>,
    idle: Notify,
}

/// What an instance's request path is set to.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    pub lifetimes: Lifetimes,
    pub settle: Option<Duration>,
    pub coalesce_timeout: Duration,
    /// How late a value may be stored in Redis, microseconds.
    pub late: Micros,
}

impl Exchange {
    pub fn new(
        log: Rc<Log>,
        ledger: &Rc<Ledger>,
        backend: &Rc<Backend>,
        rules: u64,
        manner: Manner,
    ) -> Rc<Exchange> {
        let exchange = Rc::new(Exchange {
            log,
            ledger: Rc::clone(ledger),
            backend: Rc::clone(backend),
            rules: Cell::new(rules),
            lifetimes: manner.lifetimes,
            settle: manner.settle,
            coalesce_timeout: manner.coalesce_timeout,
            late: manner.late,
            memory: RefCell::default(),
            board: RefCell::default(),
            names: RefCell::default(),
            mutations: Cell::new(0),
            draining: Cell::new(false),
            idle: Notify::new(),
        });
        exchange.log.start();
        exchange.log.world.spawn(exchange.log.pid, Rc::clone(&exchange).end_settling());
        exchange
    }

    fn is(&self, sabotage: Sabotage) -> bool {
        self.log.is(sabotage)
    }

    fn tag(&self, secret: &[u8; 32], name: String) -> Tag {
        *self
            .names
            .borrow_mut()
            .entry((*secret, name))
            .or_insert_with_key(|(secret, name)| Tag::of(secret, name))
    }

    /// `TagPlan::entry_tags`: what can purge a response of this thing.
    fn entry_tags(&self, secret: &[u8; 32], key: Key) -> Vec<Tag> {
        let rules = self.rules.get();
        let names = match key.thing {
            item if item < ITEMS => vec![name(rules, "item", &item.to_string()), name(rules, "item", "?")],
            EVERYTHING => vec![name(rules, "group", "*"), name(rules, "group", "?")],
            list => vec![name(rules, "group", &(list - ITEMS).to_string()), name(rules, "group", "?")],
        };
        let tags: BTreeSet<Tag> = names.into_iter().map(|name| self.tag(secret, name)).collect();
        tags.into_iter().collect()
    }

    /// `TagPlan::mutation_tags`.
    fn mutation_tags(&self, rules: u64, secret: &[u8; 32], known: Known) -> Vec<Tag> {
        let mut names = Vec::new();
        if !self.is(Sabotage::ResponseTagsAlone) {
            names.push(name(rules, "item", &known.item.to_string()));
            names.push(name(rules, "group", &known.entered.to_string()));
        }
        match known.left {
            _ if self.is(Sabotage::RequestTagsAlone) => {}
            Some(left) => names.push(name(rules, "group", &left.to_string())),
            None if self.is(Sabotage::UnknownNamesNothing) => {}
            None => names.push(name(rules, "group", "?")),
        }
        if !self.is(Sabotage::ValuesWithoutWildcard) {
            names.push(name(rules, "group", "*"));
            names.push(name(rules, "item", "*"));
        }
        names.into_iter().map(|name| self.tag(secret, name)).collect()
    }

    // ── read.rs ─────────────────────────────────────────────────────────────────────────────────────────────────

    /// `Exchange::read`: what a client sees of it.
    pub async fn read(
        self: Rc<Self>,
        key: Key,
        required: Option<(crate::backend::Versions, &'static str)>,
    ) -> Option<&'static str> {
        let world = &self.log.world;
        let mut arrived = self.log.clock.elapsed();
        let (at, least) = (world.now(), required.map_or_else(|| self.ledger.required(), |r| r.0));
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

    async fn answer(self: &Rc<Self>, wanted: Wanted) -> Answer {
        let mut waits = 0;
        loop {
            let need = match self.look_up(wanted).await {
                Next::Done(answer) => return answer,
                Next::Forward(need) => need,
            };
            let seat = if waits >= WAITS { Seat::Lead(self.alone(wanted.key)) } else { self.join(wanted) };
            match seat {
                Seat::Lead(lead) => return self.lead(wanted, need, lead).await,
                Seat::Follow(flight) => {
                    waits += 1;
                    if let Some(answer) = self.follow(wanted, &need, &flight, &mut waits).await {
                        return answer;
                    }
                }
                Seat::Next(flight) => {
                    waits += 1;
                    self.ledger.count("waited for the next flight");
                    if self.landed(&flight).await.is_none() {
                        waits = WAITS;
                    }
                }
            }
        }
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
            (Found::Softened(entry), _) => {
                self.ledger.count("softened");
                let age = self.log.world.now() - entry.stored;
                let lifetimes = entry.lifetimes;
                if age < lifetimes.fresh + lifetimes.while_revalidate {
                    let answer = Answer { content: Some(entry.content.clone()), how: "stale: softly purged" };
                    self.refresh(wanted, Validator { entry, purged: true });
                    return Next::Done(answer);
                }
                Next::Forward(Need { validator: Some(Validator { entry, purged: true }) })
            }
            (Found::Voided(entry), _) => {
                Next::Forward(Need { validator: Some(Validator { entry, purged: true }) })
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
        Next::Forward(Need { validator: Some(Validator { entry, purged: false }) })
    }

    async fn landed(&self, flight: &Flight) -> Option<Option<Landing>> {
        let timeout = if self.is(Sabotage::WaitsForEver) {
            Duration::from_secs(1 << 20)
        } else {
            self.coalesce_timeout
        };
        self.log.clock.timeout(timeout, flight.landed.changed(0)).await?;
        Some(flight.landing.borrow().clone())
    }

    /// `Exchange::follow`.
    async fn follow(&self, wanted: Wanted, need: &Need, flight: &Flight, waits: &mut u32) -> Option<Answer> {
        match self.landed(flight).await {
            Some(Some(Landing::Stored(entry))) => self.share(wanted, flight, &entry),
            Some(Some(Landing::Failed)) => {
                if let Some(answer) = need.held().and_then(|entry| self.stand_in(entry)) {
                    return Some(answer);
                }
                (*waits >= WAITS).then_some(Answer { content: None, how: "failed" })
            }
            Some(None) => None,
            None => {
                *waits = WAITS;
                None
            }
        }
    }

    /// `Exchange::share`.
    fn share(&self, wanted: Wanted, flight: &Flight, entry: &Rc<Entry>) -> Option<Answer> {
        // What is not stored because it settles may lag behind what this request must see, too.
        let settles = self.log.settling.holds(&entry.tags, &self.log.coherence.view());
        let live = flight.began >= wanted.arrived
            || (self.log.coherence.liveness(&entry.stamp, &entry.tags) == Liveness::Live
                && (!settles || self.is(Sabotage::SharesWhatSettles)))
            || self.is(Sabotage::SharesUnjudged)
            || self.is(Sabotage::FollowsAnyFlight);
        let fresh = self.log.world.now() - entry.stored < entry.lifetimes.fresh;
        (live && fresh && entry.key == wanted.key)
            .then(|| Answer { content: Some(entry.content.clone()), how: "followed a flight" })
    }

    /// `Exchange::stand_in`.
    fn stand_in(&self, entry: &Rc<Entry>) -> Option<Answer> {
        let age = self.log.world.now() - entry.stored;
        let allowed = age < entry.lifetimes.fresh + entry.lifetimes.if_error;
        let live = self.log.coherence.liveness(&entry.stamp, &entry.tags) == Liveness::Live
            || self.is(Sabotage::StandsInUnjudged);
        (allowed && live).then(|| Answer { content: Some(entry.content.clone()), how: "stale if error" })
    }

    /// `Exchange::refresh`.
    fn refresh(self: &Rc<Self>, wanted: Wanted, validator: Validator) {
        if self.board.borrow().contains_key(&wanted.key) {
            return;
        }
        if let Seat::Lead(lead) = self.join(wanted) {
            self.ledger.count("refreshed behind the answer");
            drop(self.fetch(wanted.key, Some(validator), lead));
        }
    }

    // ── coalesce.rs ─────────────────────────────────────────────────────────────────────────────────────────────

    /// `Board::join`.
    fn join(&self, wanted: Wanted) -> Seat {
        let coherence = &self.log.coherence;
        let mut board = self.board.borrow_mut();
        if let Some(flight) = board.get(&wanted.key)
            && !self.is(Sabotage::FliesTwice)
        {
            if flight.began >= wanted.arrived || self.is(Sabotage::FollowsAnyFlight) {
                return Seat::Follow(Rc::clone(flight));
            }
            let lease = coherence.holds_lease(wanted.arrived) || self.is(Sabotage::FollowsWithoutLease);
            if !lease {
                return Seat::Next(Rc::clone(flight));
            }
            if coherence.liveness(&flight.stamp, &flight.tags) == Liveness::Live {
                return Seat::Follow(Rc::clone(flight));
            }
        }
        let mut lead = self.alone(wanted.key);
        lead.key = Some(wanted.key);
        let replaced = board.insert(wanted.key, Rc::clone(&lead.flight));
        if let Some(old) = replaced
            && old.landing.borrow().is_none()
            && coherence.liveness(&old.stamp, &old.tags) == Liveness::Live
        {
            self.ledger.violate(FLIGHTS, format!("#{}: {:?} takes off twice", self.log.host, wanted.key));
        }
        Seat::Lead(lead)
    }

    /// `Lead::alone`.
    fn alone(&self, key: Key) -> Lead {
        let view = self.log.coherence.view();
        let tags = self.entry_tags(&view.secret, key);
        let flight = Flight {
            began: self.log.clock.elapsed(),
            stamp: view.sample(),
            tags,
            landing: RefCell::default(),
            landed: Signal::default(),
        };
        Lead { key: None, flight: Rc::new(flight) }
    }

    /// `Lead::land`.
    fn land(&self, lead: &mut Lead, landing: Landing) {
        if let Some(key) = lead.key.take() {
            let mut board = self.board.borrow_mut();
            if board.get(&key).is_some_and(|f| Rc::ptr_eq(f, &lead.flight)) {
                board.remove(&key);
            }
        }
        lead.flight.landing.replace(Some(landing));
        lead.flight.landed.raise();
    }

    // ── fetch.rs ────────────────────────────────────────────────────────────────────────────────────────────────

    /// `Exchange::lead`.
    async fn lead(self: &Rc<Self>, wanted: Wanted, need: Need, lead: Lead) -> Answer {
        let held = need.held().cloned();
        match self.fetch(wanted.key, need.validator, lead).await {
            Ok(Some(answer)) => answer,
            Ok(None) => held
                .and_then(|entry| self.stand_in(&entry))
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
        self.doubt_validator(&mut validator);
        let condition = validator.as_ref().map(|v| condition(&v.entry));
        self.ledger.count("fetches");
        let (stamp, secret) = (lead.flight.stamp, self.log.coherence.view().secret);
        match self.backend.get(key.thing, key.subject, condition).await {
            Got::Broken => {
                self.land(&mut lead, Landing::Failed);
                None
            }
            Got::NotModified => {
                let Some(Validator { entry: old, .. }) = validator else {
                    self.land(&mut lead, Landing::Failed);
                    return None;
                };
                let stamp = if self.is(Sabotage::FreshensLate) { self.log.coherence.sample() } else { stamp };
                let entry = self.entry(key, stamp, &secret, old.content.clone(), old.etag, old.modified);
                self.insert(&entry);
                self.land(&mut lead, Landing::Stored(Rc::clone(&entry)));
                Some(Answer { content: Some(entry.content.clone()), how: "revalidated" })
            }
            Got::Full { content, etag, modified } => {
                let stamp = if self.is(Sabotage::StampsLate) { self.log.coherence.sample() } else { stamp };
                let entry = self.entry(key, stamp, &secret, content, etag, modified);
                self.insert(&entry);
                self.land(&mut lead, Landing::Stored(Rc::clone(&entry)));
                Some(Answer { content: Some(entry.content.clone()), how: "fetched" })
            }
        }
    }

    /// `Fetch::doubt_validator`.
    fn doubt_validator(&self, validator: &mut Option<Validator>) {
        if let Some(Validator { entry, purged }) = validator {
            if !self.is(Sabotage::TrustsValidators) {
                *purged |= self.log.coherence.liveness(&entry.stamp, &entry.tags) != Liveness::Live;
            }
            if *purged && !entry.etag && !self.is(Sabotage::PurgedByLastModified) {
                *validator = None;
            }
        }
    }

    /// `Fetch::entry`.
    fn entry(
        &self,
        key: Key,
        stamp: Stamp,
        _: &[u8; 32],
        content: Content,
        etag: bool,
        modified: Micros,
    ) -> Rc<Entry> {
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

    // ── mutate.rs ───────────────────────────────────────────────────────────────────────────────────────────────

    /// `Exchange::mutate`, `Exchange::carry_out`: changes an item and moves it into `group`.
    pub async fn mutate(self: Rc<Self>, item: usize, group: usize, fate: Fate) {
        self.mutations.set(self.mutations.get() + 1);
        self.carry_out(item, group, fate).await;
        self.mutations.set(self.mutations.get() - 1);
        if self.mutations.get() == 0 {
            self.idle.notify_waiters();
        }
    }

    async fn carry_out(self: &Rc<Self>, item: usize, group: usize, fate: Fate) {
        let (log, ledger) = (&self.log, &self.ledger);
        let number = ledger.begin(log.pid);
        let host = log.host;
        log.world.tell(|| format!("#{host} mutation {number}: item {item} into group {group} ({fate:?})"));
        let rules = self.rules.get();
        let widest = self.event(rules, Known { item, entered: group, left: None });
        let mut intent = None;
        if !self.is(Sabotage::IntendsNothing) {
            let event = log.signed(widest);
            let id = event.id;
            let recorded = log.intend(Arc::new(event)).await;
            if recorded
                || log.settings.unreachable == UnreachableLog::Forward
                || self.is(Sabotage::ForwardsWhatItShouldRefuse)
            {
                intent = Some(id);
                ledger.mutations.borrow_mut()[number].intent = Some((log.membership.me().0, id));
            } else {
                log.withdraw(id);
                ledger.count("mutations refused");
                log.world.tell(|| format!("#{host} refuses mutation {number}"));
                return;
            }
        }
        let told = Rc::clone(ledger);
        let mut outcome =
            self.backend.put(item, group, fate, move |effects| told.committed(number, effects)).await;
        if outcome == Outcome::Unknown && self.is(Sabotage::RetriesMutations) {
            outcome = self.backend.put(item, group, Fate::Refused, |_| ()).await;
        }
        ledger.returned(number);
        let left = match outcome {
            Outcome::NeverSent | Outcome::Refused => {
                intent.into_iter().for_each(|id| log.withdraw(id));
                ledger.count("mutations that came to nothing");
                return;
            }
            Outcome::Conflict if self.is(Sabotage::ConflictPurgesNothing) => {
                intent.into_iter().for_each(|id| log.withdraw(id));
                ledger.answered(number);
                return;
            }
            Outcome::Unknown if self.is(Sabotage::UnknownPurgesNothing) => {
                intent.into_iter().for_each(|id| log.withdraw(id));
                ledger.answered(number);
                return;
            }
            Outcome::Done { left } => Some(left),
            Outcome::Conflict | Outcome::Unknown => {
                ledger.count("mutations of unknown outcome");
                None
            }
        };
        let mut event = self.event(rules, Known { item, entered: group, left });
        if let Some(settle) = self.settle {
            event.settle = Settle::For(u64::try_from(settle.as_millis()).unwrap_or(u64::MAX));
        }
        let reach = self.publish(event, intent).await;
        log.world.tell(|| format!("#{host} mutation {number} is answered: {reach:?}"));
        ledger.count(match reach {
            Reach::Everywhere => "mutations everywhere",
            Reach::Owed => "mutations owed",
            Reach::Unconfirmed => "mutations unconfirmed",
        });
        if reach != Reach::Unconfirmed || self.is(Sabotage::AnswersTheUnconfirmed) {
            ledger.answered(number);
        }
    }

    /// The purge of what is known, as `Exchange::purge` makes it.
    fn event(&self, rules: u64, known: Known) -> Event {
        let view = self.log.coherence.view();
        let tags = self.mutation_tags(rules, &view.secret, known);
        Event { tags, hashed_with: view.secret_id, rules, ..Event::default() }
    }

    /// `Store::publish`.
    pub async fn publish(&self, event: Event, intent: Option<u64>) -> Reach {
        let event = self.log.signed(event);
        if let Settle::For(ms) = event.settle {
            let until = self.log.clock.elapsed() + Duration::from_millis(ms);
            self.log.settling.hold(&event, until);
        }
        self.log.publish(event, intent).await
    }

    /// `Store::end_settling`.
    async fn end_settling(self: Rc<Self>) {
        loop {
            let (now, me) = (self.log.clock.elapsed(), self.log.membership.me().0);
            let (event, next) = self.log.settling.settled(now, me);
            if let Some(mut event) = event {
                self.ledger.count("settled");
                if self.is(Sabotage::SettlesInOtherWords) {
                    event.rules = self.log.coherence.view().rules;
                }
                let ended = event.clone();
                if self.is(Sabotage::EndsSettlingEarly) {
                    self.log.settling.end(now, &ended, me);
                }
                if !self.is(Sabotage::SettlesInSilence) {
                    self.publish(event, None).await;
                }
                self.log.settling.end(now, &ended, me);
                continue;
            }
            let wait =
                next.map_or(Duration::from_secs(3600), |at| at.saturating_sub(self.log.clock.elapsed()));
            self.log.clock.timeout(wait, self.log.settling.changed.notified()).await;
        }
    }

    /// New rules.
    pub fn reload(&self, rules: u64) {
        self.rules.set(rules);
        self.log.coherence.set_rules(rules);
    }

    /// Waits for mutations under way, then takes leave; true once that is done.
    pub async fn close(self: Rc<Self>) {
        self.draining.set(true);
        while self.mutations.get() > 0 && !self.is(Sabotage::LeavesWithMutationsOpen) {
            self.idle.notified().await;
        }
        self.log.told_to_leave.set(true);
        self.log.leaving.notify_waiters();
    }

    /// Mutations under way.
    pub fn mutations(&self) -> usize {
        self.mutations.get()
    }
}

fn condition(entry: &Entry) -> Condition {
    if entry.etag { Condition::ETag(entry.content.clone()) } else { Condition::Modified(entry.modified) }
}
