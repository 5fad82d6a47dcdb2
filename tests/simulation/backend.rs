//! The backend: versioned items, lists of them, and all the ways in which an answer can go missing.
//!
//! A mutation moves an item into a group and changes it. That shows in the item, in the lists of the group it leaves
//! and of the one it enters, and in the list of everything: each of these *things* has a version, which only rises.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::world::{Micros, Sleep, World};

pub const ITEMS: usize = 3;
pub const GROUPS: usize = 2;
/// Items, then groups, then everything.
pub const THINGS: usize = ITEMS + GROUPS + 1;
pub const EVERYTHING: usize = ITEMS + GROUPS;

/// What each thing's version is.
pub type Versions = [u64; THINGS];

/// What a mutation did: each thing it changed, with its new version.
pub type Effects = Vec<(usize, u64)>;

/// A response's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub thing: usize,
    pub version: u64,
    /// Whose it is.
    pub subject: u8,
}

/// A condition to be sent along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    ETag(Content),
    Modified(Micros),
}

#[derive(Debug)]
pub enum Got {
    Full { content: Content, etag: bool, modified: Micros },
    NotModified,
    Broken,
}

/// A mutation as its sender sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the response names the group that was left.
    Done { left: usize },
    /// 4xx: nothing was done.
    Refused,
    /// 409, and yet something was.
    Conflict,
    /// 5xx, a broken connection, or no answer in time.
    Unknown,
    /// It was never sent.
    NeverSent,
}

/// The backend's own plan for a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    Refused,
    Conflict,
    /// Committed, and then 500.
    Fails,
    /// 500 before anything was committed.
    FailsEarly,
    /// Committed; the answer never comes.
    Silent,
    NeverSent,
}

#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Longest usual way, microseconds, either way.
    pub way: u64,
    /// In how many percent of cases it takes up to `slow_way`.
    pub slow: u64,
    pub slow_way: u64,
    /// In how many percent of cases a read takes `stuck_way` besides.
    pub stuck: u64,
    pub stuck_way: u64,
    /// For how long a mutation is under way before it is committed, at most.
    pub mulls: u64,
    /// Of reads that fail, percent.
    pub broken: u64,
    /// Of responses with an ETag, percent; the others have a Last-Modified alone.
    pub etags: u64,
    /// How far reads lag behind writes.
    pub lag: Micros,
    /// After how long a mutation's sender gives up.
    pub patience: Micros,
}

pub struct Backend {
    world: Rc<World>,
    pub pace: Cell<Pace>,
    versions: RefCell<Versions>,
    /// Which group an item is in.
    groups: RefCell<[usize; ITEMS]>,
    /// When each thing was last changed.
    modified: RefCell<[Micros; THINGS]>,
    /// Every commit, for reads that lag.
    commits: RefCell<Vec<(Micros, usize, u64, Micros)>>,
}

/// The grain of `Last-Modified`, microseconds.
const GRAIN: Micros = 1_000_000;

impl Backend {
    pub fn new(world: &Rc<World>, pace: Pace) -> Rc<Backend> {
        Rc::new(Backend {
            world: Rc::clone(world),
            pace: Cell::new(pace),
            versions: RefCell::new([1; THINGS]),
            groups: RefCell::new([0; ITEMS]),
            modified: RefCell::new([0; THINGS]),
            commits: RefCell::default(),
        })
    }

    async fn travel(&self) {
        let pace = self.pace.get();
        let longest = if self.world.chance(pace.slow) { pace.slow_way } else { pace.way };
        let at = self.world.now() + 50 + self.world.range(0, longest);
        Sleep::until(&self.world, at).await;
    }

    /// A thing's version, as a read would see it now.
    fn seen(&self, thing: usize) -> (u64, Micros) {
        let lag = self.pace.get().lag;
        if lag == 0 {
            return (self.versions.borrow()[thing], self.modified.borrow()[thing]);
        }
        let horizon = self.world.now().saturating_sub(lag);
        let commits = self.commits.borrow();
        let old = commits.iter().rev().find(|(at, of, ..)| *of == thing && *at <= horizon);
        old.map_or((1, 0), |(_, _, version, modified)| (*version, *modified))
    }

    pub async fn get(&self, thing: usize, subject: u8, condition: Option<Condition>) -> Got {
        let pace = self.pace.get();
        if self.world.chance(pace.stuck) {
            Sleep::until(&self.world, self.world.now() + pace.stuck_way).await;
        }
        self.travel().await;
        let (version, modified) = self.seen(thing);
        let pace = self.pace.get();
        let broken = self.world.chance(pace.broken);
        let etag = self.world.chance(pace.etags);
        self.travel().await;
        let content = Content { thing, version, subject };
        match condition {
            _ if broken => Got::Broken,
            Some(Condition::ETag(old)) if old == content => Got::NotModified,
            Some(Condition::Modified(since)) if modified <= since => Got::NotModified,
            _ => Got::Full { content, etag, modified },
        }
    }

    /// Changes an item and moves it into `group`. `committed` is told as soon as it is done.
    pub async fn put(
        &self,
        item: usize,
        group: usize,
        fate: Fate,
        committed: impl FnOnce(Effects),
    ) -> Outcome {
        if fate == Fate::NeverSent {
            return Outcome::NeverSent;
        }
        let began = self.world.now();
        self.travel().await;
        let mulls = self.pace.get().mulls;
        if mulls > 0 {
            Sleep::until(&self.world, self.world.now() + self.world.range(0, mulls)).await;
        }
        let left = self.groups.borrow()[item];
        if !matches!(fate, Fate::Refused | Fate::FailsEarly) {
            committed(self.commit(item, group));
        }
        if fate == Fate::Silent {
            Sleep::until(&self.world, began + self.pace.get().patience).await;
            return Outcome::Unknown;
        }
        self.travel().await;
        match fate {
            Fate::Done => Outcome::Done { left },
            Fate::Refused => Outcome::Refused,
            Fate::Conflict => Outcome::Conflict,
            _ => Outcome::Unknown,
        }
    }

    fn commit(&self, item: usize, group: usize) -> Effects {
        let now = self.world.now();
        let left = std::mem::replace(&mut self.groups.borrow_mut()[item], group);
        let mut things = vec![item, ITEMS + left, EVERYTHING];
        if group != left {
            things.push(ITEMS + group);
        }
        let (mut versions, mut modified) = (self.versions.borrow_mut(), self.modified.borrow_mut());
        things
            .into_iter()
            .map(|thing| {
                versions[thing] += 1;
                modified[thing] = now / GRAIN * GRAIN;
                self.commits.borrow_mut().push((now, thing, versions[thing], modified[thing]));
                (thing, versions[thing])
            })
            .collect()
    }
}
