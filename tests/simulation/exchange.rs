//! The request path, as `exchange` and `store` have it: here what mutations do (`exchange::mutate`), and what tags there
//! are; in `reading` what reads do. Each function names what it mirrors; liveness and leases are judged by
//! production's own view.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::Notify;
use weir::coherence::event::Settle;
use weir::coherence::{Event, EventKind, Stamp};
use weir::policy::tags::Tag;
use weir::store::redis::wire::Outside;
use weir::store::{Reach, UnreachableLog};

use crate::backend::{Backend, Content, EVERYTHING, Fate, ITEMS, Outcome};
use crate::board::Board;
use crate::ledger::Ledger;
use crate::log::Log;
use crate::sabotage::Sabotage;
use crate::world::Micros;

/// What is asked for, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub thing: usize,
    pub subject: u8,
    /// Names the secret it is hashed with; 0 before it is.
    pub secret: u64,
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
    pub fn copied(&self) -> Rc<Entry> {
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
    pub severed: bool,
    pub memory: RefCell<BTreeMap<Key, Rc<Entry>>>,
    pub board: Rc<Board>,
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
    /// Others may reach Redis while an instance does not, and mutations are forwarded all the same.
    pub severed: bool,
}

impl Exchange {
    pub fn new(
        log: Rc<Log>,
        ledger: &Rc<Ledger>,
        backend: &Rc<Backend>,
        rules: u64,
        manner: Manner,
    ) -> Rc<Exchange> {
        let board = Board::new(log.clock.clone(), ledger, log.settings.sabotage);
        let exchange = Rc::new(Exchange {
            log,
            ledger: Rc::clone(ledger),
            backend: Rc::clone(backend),
            rules: Cell::new(rules),
            lifetimes: manner.lifetimes,
            settle: manner.settle,
            coalesce_timeout: manner.coalesce_timeout,
            late: manner.late,
            severed: manner.severed,
            memory: RefCell::default(),
            board,
            names: RefCell::default(),
            mutations: Cell::new(0),
            draining: Cell::new(false),
            idle: Notify::new(),
        });
        exchange.log.start();
        exchange.log.world.spawn(exchange.log.pid, Rc::clone(&exchange).end_settling());
        exchange
    }

    pub fn is(&self, sabotage: Sabotage) -> bool {
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
    pub fn entry_tags(&self, secret: &[u8; 32], key: Key) -> Vec<Tag> {
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
            if recorded.is_some()
                || log.settings.unreachable == UnreachableLog::Forward
                || self.is(Sabotage::ForwardsWhatItShouldRefuse)
            {
                intent = Some(id);
                let mutation = &mut ledger.mutations.borrow_mut()[number];
                mutation.intent = Some((log.membership.me().0, id));
                mutation.told_in = recorded;
            } else {
                log.withdraw(id);
                ledger.count("mutations refused");
                log.world.tell(|| format!("#{host} refuses mutation {number}"));
                return;
            }
        }
        ledger.sent(number, log.coherence.view().epoch);
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
        let event = self.event(rules, Known { item, entered: group, left });
        let reach = self.publish(event, intent).await;
        log.world.tell(|| format!("#{host} mutation {number} is answered: {reach:?}"));
        ledger.count(match reach {
            Reach::Everywhere => "mutations everywhere",
            Reach::Owed => "mutations owed",
            Reach::Unconfirmed => "mutations unconfirmed",
        });
        // Others may answer from the store before this instance has paid what it owes (a hole); it itself may not.
        if reach == Reach::Owed && (log.may_be_the_only_one_away() || self.severed) {
            ledger.answered_by(number, log.pid);
            return;
        }
        if reach != Reach::Unconfirmed || self.is(Sabotage::AnswersTheUnconfirmed) {
            ledger.answered(number);
        }
    }

    /// The purge of what is known, as `Exchange::purge` makes it.
    fn event(&self, rules: u64, known: Known) -> Event {
        let view = self.log.coherence.view();
        let tags = self.mutation_tags(rules, &view.secret, known);
        let settle = self.settle.map_or(Settle::AtOnce, |settle| Settle::For(settle.as_millis() as u64));
        Event { tags, hashed_with: view.secret_id, rules, settle, ..Event::default() }
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
