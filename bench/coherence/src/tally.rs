//! What was counted. Each task has a tally of its own; they are added up in the end.

use std::time::Duration;

use crate::client::Source;
use crate::histogram::Histogram;

/// Counts and times.
#[derive(Debug, Default)]
pub struct Tally {
    /// Reads that were answered and judged.
    pub reads: u64,
    /// Of them from the cache.
    pub hits: u64,
    /// Of them from another request's fetch.
    pub collapsed: u64,
    /// Of them answered 304.
    pub not_modified: u64,
    /// Of them sent to an instance while it was frozen, and answered when it woke.
    pub woken: u64,
    /// Of them stale, those served on purpose left out.
    pub stale: u64,
    /// Stale ones by page: item, list, board.
    pub stale_pages: [u64; 3],
    /// Stale ones by instance.
    pub stale_doors: Vec<u64>,
    /// Found stale and served so on purpose; counted here and nowhere else.
    pub sabotaged: u64,
    /// The longest that what a stale read showed had been outdated.
    pub worst: Duration,
    /// Mutations acknowledged.
    pub mutations: u64,
    /// Mutations refused, where refusing is allowed.
    pub refused: u64,
    /// Everything that went wrong: other statuses, broken connections, no answer, impossible content.
    pub errors: u64,
    /// Connections that the proxy had closed between two requests.
    pub reconnects: u64,
    /// Times of hits.
    pub hit_time: Histogram,
    /// Times of all reads.
    pub read_time: Histogram,
    /// Times of acknowledged mutations.
    pub mutation_time: Histogram,
    /// The same without what the backend took: what the proxy added.
    pub added_time: Histogram,
}

impl Tally {
    /// For so many instances.
    pub fn new(doors: usize) -> Tally {
        Tally { stale_doors: vec![0; doors], ..Tally::default() }
    }

    /// One more read.
    pub fn read(&mut self, source: Source, time: Duration) {
        self.reads += 1;
        self.read_time.record(time);
        match source {
            Source::Hit => {
                self.hits += 1;
                self.hit_time.record(time);
            }
            Source::Collapsed => self.collapsed += 1,
            Source::Backend => {}
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Tally) {
        self.reads += other.reads;
        self.hits += other.hits;
        self.collapsed += other.collapsed;
        self.not_modified += other.not_modified;
        self.woken += other.woken;
        self.stale += other.stale;
        self.sabotaged += other.sabotaged;
        self.mutations += other.mutations;
        self.refused += other.refused;
        self.errors += other.errors;
        self.reconnects += other.reconnects;
        self.worst = self.worst.max(other.worst);
        for (mine, theirs) in self.stale_pages.iter_mut().zip(&other.stale_pages) {
            *mine += theirs;
        }
        for (mine, theirs) in self.stale_doors.iter_mut().zip(&other.stale_doors) {
            *mine += theirs;
        }
        self.hit_time.add(&other.hit_time);
        self.read_time.add(&other.read_time);
        self.mutation_time.add(&other.mutation_time);
        self.added_time.add(&other.added_time);
    }

    /// Reads from the cache, percent of all.
    pub fn hit_share(&self) -> f64 {
        percent(self.hits, self.reads)
    }
}

/// `part` of `whole` in percent; 0 of nothing.
pub fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}
