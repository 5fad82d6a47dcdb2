//! The judge: which versions were acknowledged when, and whether an answer is older than it may be.
//!
//! A mutation counts from the moment its client has read the whole answer: [`Ledger::acknowledge`]. A read is
//! judged by what was acknowledged *before it was sent*: [`Ledger::note`] is taken first, then the request leaves.
//! An answer that shows an older version of any item than its note is stale. An answer that shows a version which
//! the backend has not committed yet, or other items than were asked for, is wrong.
//!
//! Neither can be a false alarm: what is acknowledged only grows, and all of it was acknowledged before the request
//! left. What the judge does not claim: reads under way while a mutation is acknowledged may show either version.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::world::Shown;

/// Every acknowledged mutation.
#[derive(Debug)]
pub struct Ledger {
    began: Instant,
    items: Vec<Account>,
}

#[derive(Debug)]
struct Account {
    /// The newest acknowledged version.
    newest: AtomicU64,
    /// When each of them became the newest, oldest first.
    history: Mutex<Vec<Acknowledged>>,
}

/// A version and the moment from which nothing older may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The version.
    pub version: u64,
    /// Since the ledger began.
    pub at: Duration,
}

/// What a read must at least show, taken before it is sent. Made once per reader and used again and again.
#[derive(Debug, Default)]
pub struct Note {
    /// When it was taken, since the ledger began.
    pub taken: Duration,
    least: Vec<(usize, u64)>,
}

/// What is to be said of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing in it is older than acknowledged.
    Fresh,
    /// An item in it is; the one that has been untrue for longest.
    Stale(Stale),
    /// It cannot have been made by the backend for this request.
    Wrong(String),
}

/// An item shown in an old version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// Which.
    pub item: usize,
    /// The version in the answer.
    pub shown: u64,
    /// The version that had been acknowledged before the request was sent.
    pub acknowledged: u64,
    /// How long, when the request was sent, a newer version than the one shown had been acknowledged.
    pub age: Duration,
}

impl Ledger {
    /// For so many items, each of version 1.
    pub fn new(items: usize) -> Ledger {
        let account = || Account {
            newest: AtomicU64::new(1),
            history: Mutex::new(vec![Acknowledged { version: 1, at: Duration::ZERO }]),
        };
        Ledger { began: Instant::now(), items: (0..items).map(|_| account()).collect() }
    }

    /// The time since it began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A client has read, whole, the answer to a mutation that made this version.
    pub fn acknowledge(&self, item: usize, version: u64, at: Duration) {
        let account = &self.items[item];
        let mut history = account.history.lock().unwrap_or_else(PoisonError::into_inner);
        // Two mutations of one item may be answered in either order.
        if version > account.newest.load(Ordering::SeqCst) {
            history.push(Acknowledged { version, at });
            account.newest.store(version, Ordering::SeqCst);
        }
    }

    /// The newest acknowledged version.
    pub fn newest(&self, item: usize) -> u64 {
        self.items[item].newest.load(Ordering::SeqCst)
    }

    /// When a version newer than this one was first acknowledged; `None` if that has not happened.
    pub fn outdated_since(&self, item: usize, version: u64) -> Option<Acknowledged> {
        let history = self.items[item].history.lock().unwrap_or_else(PoisonError::into_inner);
        let first = history.partition_point(|entry| entry.version <= version);
        history.get(first).copied()
    }

    /// Notes what a read of these items must at least show. The request must be sent after this.
    pub fn note(&self, items: &[usize], note: &mut Note) {
        note.least.clear();
        note.least.extend(items.iter().map(|item| (*item, self.newest(*item))));
        note.taken = self.now();
    }

    /// Judges an answer. `committed` tells the version that the backend has now, after the answer was read.
    pub fn judge(&self, note: &Note, shown: &[Shown], committed: impl Fn(usize) -> u64) -> Verdict {
        if shown.len() != note.least.len() {
            return Verdict::Wrong(format!("{} items instead of {}", shown.len(), note.least.len()));
        }
        let mut worst: Option<Stale> = None;
        for (shown, (item, least)) in shown.iter().zip(&note.least) {
            if shown.id != *item {
                return Verdict::Wrong(format!("item {} in the place of {item}", shown.id));
            }
            if shown.version == 0 || shown.version > committed(*item) {
                return Verdict::Wrong(format!("version {} of item {item} was never made", shown.version));
            }
            if shown.version < *least {
                let since = self.outdated_since(*item, shown.version).map_or(note.taken, |newer| newer.at);
                let age = note.taken.saturating_sub(since);
                if worst.is_none_or(|worst| age > worst.age) {
                    worst = Some(Stale { item: *item, shown: shown.version, acknowledged: *least, age });
                }
            }
        }
        worst.map_or(Verdict::Fresh, Verdict::Stale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: u64 = 1_000;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn shown(pairs: &[(usize, u64)]) -> Vec<Shown> {
        pairs.iter().map(|&(id, version)| Shown { id, version }).collect()
    }

    fn noted(ledger: &Ledger, items: &[usize], taken: Duration) -> Note {
        let mut note = Note::default();
        ledger.note(items, &mut note);
        note.taken = taken;
        note
    }

    #[test]
    fn what_was_acknowledged_before_the_request_must_be_shown() {
        let ledger = Ledger::new(3);
        ledger.acknowledge(2, 5, ms(10));
        let note = noted(&ledger, &[2], ms(30));
        let stale = Stale { item: 2, shown: 4, acknowledged: 5, age: ms(20) };
        assert_eq!(ledger.judge(&note, &shown(&[(2, 4)]), |_| FAR), Verdict::Stale(stale));
        assert_eq!(ledger.judge(&note, &shown(&[(2, 5)]), |_| FAR), Verdict::Fresh);
        assert_eq!(ledger.judge(&note, &shown(&[(2, 6)]), |_| FAR), Verdict::Fresh);
    }

    #[test]
    fn what_is_acknowledged_while_the_read_is_under_way_does_not_count() {
        let ledger = Ledger::new(1);
        let note = noted(&ledger, &[0], ms(5));
        ledger.acknowledge(0, 2, ms(6));
        assert_eq!(ledger.judge(&note, &shown(&[(0, 1)]), |_| FAR), Verdict::Fresh);
        let later = noted(&ledger, &[0], ms(7));
        assert!(matches!(ledger.judge(&later, &shown(&[(0, 1)]), |_| FAR), Verdict::Stale(_)));
    }

    #[test]
    fn a_commit_that_nobody_acknowledged_promises_nothing() {
        let ledger = Ledger::new(1);
        let note = noted(&ledger, &[0], ms(5));
        assert_eq!(ledger.judge(&note, &shown(&[(0, 1)]), |_| 9), Verdict::Fresh);
        assert_eq!(ledger.judge(&note, &shown(&[(0, 9)]), |_| 9), Verdict::Fresh);
    }

    #[test]
    fn acknowledgements_out_of_order_never_lower_what_is_demanded() {
        let ledger = Ledger::new(1);
        ledger.acknowledge(0, 3, ms(10));
        ledger.acknowledge(0, 2, ms(11));
        assert_eq!(ledger.newest(0), 3);
        let note = noted(&ledger, &[0], ms(12));
        assert!(matches!(ledger.judge(&note, &shown(&[(0, 2)]), |_| FAR), Verdict::Stale(_)));
    }

    #[test]
    fn the_age_counts_from_the_first_newer_version() {
        let ledger = Ledger::new(1);
        for (version, at) in [(2, 100), (3, 200), (4, 300)] {
            ledger.acknowledge(0, version, ms(at));
        }
        let note = noted(&ledger, &[0], ms(1000));
        let age = |version| match ledger.judge(&note, &shown(&[(0, version)]), |_| FAR) {
            Verdict::Stale(stale) => stale.age,
            other => panic!("{other:?}"),
        };
        assert_eq!((age(1), age(2), age(3)), (ms(900), ms(800), ms(700)));
        assert_eq!(ledger.outdated_since(0, 4), None);
    }

    #[test]
    fn one_old_row_makes_a_view_stale_and_the_oldest_is_named() {
        let ledger = Ledger::new(4);
        ledger.acknowledge(1, 2, ms(50));
        ledger.acknowledge(3, 2, ms(10));
        let note = noted(&ledger, &[0, 1, 2, 3], ms(60));
        let row = |one, three| shown(&[(0, 1), (1, one), (2, 1), (3, three)]);
        assert_eq!(ledger.judge(&note, &row(2, 2), |_| FAR), Verdict::Fresh);
        for (answer, item) in [(row(1, 2), 1), (row(2, 1), 3), (row(1, 1), 3)] {
            match ledger.judge(&note, &answer, |_| FAR) {
                Verdict::Stale(stale) => assert_eq!(stale.item, item),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_the_backend_cannot_have_said_is_wrong() {
        let ledger = Ledger::new(3);
        let note = noted(&ledger, &[0, 1], ms(1));
        for answer in [
            shown(&[]),
            shown(&[(0, 1)]),
            shown(&[(0, 1), (1, 1), (2, 1)]),
            shown(&[(1, 1), (0, 1)]),
            shown(&[(0, 1), (1, 8)]),
            shown(&[(0, 0), (1, 1)]),
        ] {
            let verdict = ledger.judge(&note, &answer, |_| 7);
            assert!(matches!(verdict, Verdict::Wrong(_)), "{answer:?}: {verdict:?}");
        }
        assert_eq!(ledger.judge(&note, &shown(&[(0, 1), (1, 7)]), |_| 7), Verdict::Fresh);
    }

    #[test]
    fn a_note_that_is_used_again_forgets_the_last_read() {
        let ledger = Ledger::new(3);
        let mut note = Note::default();
        ledger.note(&[0, 1, 2], &mut note);
        ledger.acknowledge(1, 2, ms(0));
        ledger.note(&[1], &mut note);
        assert!(matches!(ledger.judge(&note, &shown(&[(1, 1)]), |_| FAR), Verdict::Stale(_)));
        assert_eq!(ledger.judge(&note, &shown(&[(1, 2)]), |_| FAR), Verdict::Fresh);
    }

    /// Many writers and readers at once, against a store that is always right: not one false alarm. And against
    /// one that lags by one version: found.
    #[test]
    fn threads_against_a_perfect_and_a_lagging_store() {
        for lag in [0, 1] {
            let ledger = Ledger::new(1);
            let committed = AtomicU64::new(6);
            ledger.acknowledge(0, 6, ledger.now());
            let stale = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..20_000 {
                            let version = committed.fetch_add(1, Ordering::SeqCst) + 1;
                            ledger.acknowledge(0, version, ledger.now());
                        }
                    });
                }
                for _ in 0..2 {
                    scope.spawn(|| {
                        let mut note = Note::default();
                        for _ in 0..20_000 {
                            ledger.note(&[0], &mut note);
                            let version = committed.load(Ordering::SeqCst).saturating_sub(lag * 3).max(1);
                            let answer = [Shown { id: 0, version }];
                            match ledger.judge(&note, &answer, |_| committed.load(Ordering::SeqCst)) {
                                Verdict::Fresh => {}
                                Verdict::Stale(_) => _ = stale.fetch_add(1, Ordering::SeqCst),
                                Verdict::Wrong(why) => panic!("{why}"),
                            }
                        }
                    });
                }
            });
            assert_eq!(stale.load(Ordering::SeqCst) > 0, lag > 0);
        }
    }
}
