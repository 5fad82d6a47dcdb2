//! What was promised, and what was seen instead.
//!
//! Every mutation is in the ledger from its commit on; once it is answered, no read that arrives later may show a
//! thing at a version below the one it made.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use weir::coherence::Epoch;

use crate::backend::{Content, Effects, THINGS, Versions};
use crate::world::{Micros, Pid, World};

/// What a schedule has shown to be untrue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub promise: &'static str,
    pub detail: String,
}

pub const STALE: &str = "2: nothing older than an answered mutation";
pub const FORGOTTEN: &str = "2: what its owner did not live to purge is purged";
pub const SUBJECT: &str = "1: nobody sees another subject's answer";
pub const UNANSWERED: &str = "3: every request is answered";
pub const BACK: &str = "3: caching returns by itself";
pub const FLIGHTS: &str = "one flight per key and instance";

/// One mutation.
#[derive(Debug, Clone)]
pub struct Mutation {
    pub owner: Pid,
    pub effects: Effects,
    /// It went to the backend.
    pub sent: Option<Micros>,
    pub committed: Option<Micros>,
    /// Its owner has heard from the backend, or has given up.
    pub returned: bool,
    pub answered: bool,
    /// The intent's number, and its owner's name in the log.
    pub intent: Option<(u64, u64)>,
    /// The epoch that was told of it before it was sent, or ought to have been.
    pub told_in: Option<Epoch>,
    /// Nobody could know of it (a hole).
    pub excused: bool,
}

/// How reads are answered.
const ANSWERS: [&str; 10] = [
    "hit in memory",
    "hit in Redis",
    "stale while revalidating",
    "stale: softly purged",
    "stale if error",
    "followed a flight",
    "followed a later flight",
    "revalidated",
    "fetched",
    "failed",
];

/// What else must have happened, as often as each of them, in a run of tens of thousands of schedules.
const EVENTS: [&str; 42] = [
    "waited for the next flight",
    "refreshed behind the answer",
    "void: no lease",
    "void: another epoch",
    "void: other rules",
    "void: below the floor",
    "void: purged",
    "not stored: settling",
    "settled",
    "mutations everywhere",
    "mutations owed",
    "mutations unconfirmed",
    "mutations refused",
    "mutations that came to nothing",
    "mutations of unknown outcome",
    "mutations appended again",
    "clients that left a mutation",
    "epochs entered",
    "ends of the log skipped to",
    "members evicted",
    "members refused",
    "purges for the dead",
    "purges from outside",
    "purges from outside taken up by another",
    "soft purges",
    "flushes",
    "instances crashed",
    "instances crashed mid mutation",
    "instances left",
    "instances frozen",
    "instances frozen past their lease",
    "instances cut off",
    "an instance with another lease",
    "rules reloaded",
    "Redis restarted",
    "Redis lost all",
    "Redis flushed",
    "Redis frozen",
    "Redis failed over",
    "the log spoilt",
    "the log trimmed",
    "operations",
];

/// Counts of what happened, by name.
#[derive(Debug, Default, Clone)]
pub struct Coverage(pub BTreeMap<&'static str, u64>);

impl Coverage {
    pub fn add(&mut self, other: &Coverage) {
        for (name, n) in &other.0 {
            *self.0.entry(name).or_default() += n;
        }
    }
}

impl std::fmt::Display for Coverage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|(what, n)| writeln!(f, "{n:>10}  {what}"))
    }
}

impl Coverage {
    fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// A simulation in which something never happens proves nothing about it.
    pub fn assert_complete(&self) {
        for what in ANSWERS.into_iter().chain(EVENTS) {
            let n = self.of(what);
            assert!(n >= 100, "{what}: {n} times only");
        }
        let answered: u64 = ANSWERS.iter().map(|how| self.of(how)).sum();
        let hits = self.of("hit in memory") + self.of("hit in Redis");
        assert!(hits * 100 > answered * 30, "{hits} hits among {answered} answers");
    }
}

fn raised(mut versions: Versions, effects: &Effects) -> Versions {
    for (thing, version) in effects {
        versions[*thing] = versions[*thing].max(*version);
    }
    versions
}

pub struct Ledger {
    world: Rc<World>,
    required: Cell<Versions>,
    /// What those must show that answered mutations which others cannot know of.
    required_of: RefCell<BTreeMap<Pid, Versions>>,
    pub mutations: RefCell<Vec<Mutation>>,
    pub violation: RefCell<Option<Violation>>,
    pub coverage: RefCell<Coverage>,
    /// Lag of the backend's reads: younger commits need not show.
    pub lag: Micros,
    /// When each version of a thing was made.
    made: RefCell<BTreeMap<(usize, u64), Micros>>,
    evicted: RefCell<BTreeMap<u64, Micros>>,
}

impl Ledger {
    pub fn new(world: &Rc<World>, lag: Micros) -> Rc<Ledger> {
        Rc::new(Ledger {
            world: Rc::clone(world),
            required: Cell::new([1; THINGS]),
            required_of: RefCell::default(),
            mutations: RefCell::default(),
            violation: RefCell::default(),
            coverage: RefCell::default(),
            lag,
            made: RefCell::default(),
            evicted: RefCell::default(),
        })
    }

    pub fn count(&self, what: &'static str) {
        *self.coverage.borrow_mut().0.entry(what).or_default() += 1;
    }

    pub fn violate(&self, promise: &'static str, detail: String) {
        self.world.tell(|| format!("VIOLATION of promise {promise}: {detail}"));
        self.violation.borrow_mut().get_or_insert(Violation { promise, detail });
    }

    pub fn begin(&self, owner: Pid) -> usize {
        let mut mutations = self.mutations.borrow_mut();
        mutations.push(Mutation {
            owner,
            effects: Vec::new(),
            sent: None,
            committed: None,
            returned: false,
            answered: false,
            intent: None,
            told_in: None,
            excused: false,
        });
        mutations.len() - 1
    }

    pub fn sent(&self, mutation: usize, epoch: Epoch) {
        let mutation = &mut self.mutations.borrow_mut()[mutation];
        mutation.sent = Some(self.world.now());
        mutation.told_in.get_or_insert(epoch);
    }

    /// A member is about to be evicted, or has been.
    pub fn evicts(&self, member: u64) {
        self.evicted.borrow_mut().insert(member, self.world.now());
    }

    /// When a member was last evicted, about.
    pub fn evicted(&self, member: u64) -> Option<Micros> {
        self.evicted.borrow().get(&member).copied()
    }

    pub fn committed(&self, mutation: usize, effects: Effects) {
        let now = self.world.now();
        self.world.tell(|| format!("backend commits {mutation}: {effects:?}"));
        for effect in &effects {
            self.made.borrow_mut().insert(*effect, now);
        }
        let mutation = &mut self.mutations.borrow_mut()[mutation];
        mutation.effects = effects;
        mutation.committed = Some(now);
        // A commit after its sender has given up: nobody was told (a hole).
        mutation.excused |= mutation.returned;
    }

    pub fn returned(&self, mutation: usize) {
        self.mutations.borrow_mut()[mutation].returned = true;
    }

    /// Its client has its answer.
    pub fn answered(&self, mutation: usize) {
        let mutation = &mut self.mutations.borrow_mut()[mutation];
        if mutation.excused {
            return;
        }
        mutation.answered = true;
        self.required.set(raised(self.required.get(), &mutation.effects));
    }

    /// Its client has its answer from one that cannot tell others; who answered it must not show anything older.
    pub fn answered_by(&self, mutation: usize, who: Pid) {
        let mutation = &self.mutations.borrow()[mutation];
        if !mutation.excused {
            let mut required_of = self.required_of.borrow_mut();
            let required = required_of.entry(who).or_insert([1; THINGS]);
            *required = raised(*required, &mutation.effects);
        }
    }

    /// What a read that arrives there now must show at least.
    pub fn required(&self, at: Pid) -> Versions {
        let mut required = self.required.get();
        if let Some(of) = self.required_of.borrow().get(&at) {
            required.iter_mut().zip(of).for_each(|(least, own)| *least = (*least).max(*own));
        }
        required
    }

    /// What must show once everything has come to rest.
    pub fn at_rest(&self) -> Versions {
        let mut required = self.required.get();
        for mutation in self.mutations.borrow().iter().filter(|m| !m.excused) {
            required = raised(required, &mutation.effects);
        }
        required
    }

    /// A read that arrived at `arrived`, when `required` was, has been answered.
    pub fn shown(
        &self,
        content: &Content,
        subject: u8,
        arrived: Micros,
        required: &Versions,
        promise: &'static str,
        how: &str,
    ) {
        if content.subject != subject {
            self.violate(SUBJECT, format!("{content:?} was given to {subject} ({how})"));
        }
        let required = required[content.thing];
        let made = self.made.borrow().get(&(content.thing, required)).copied().unwrap_or(0);
        if content.version < required && made + self.lag <= arrived {
            let detail =
                format!("thing {} at version {}, not {required} ({how})", content.thing, content.version);
            self.violate(promise, detail);
        }
    }
}
