//! One flat table of atomics, a copy per shard; a reader adds the copies up.
//!
//! A thread keeps to one copy, so that additions on different threads rarely meet on a cache line. A histogram
//! is a run of [`WIDTH`] neighbouring cells: one per bucket (not cumulative), then the sum in nanoseconds. Its
//! count is the sum of its buckets, so that an observation costs two additions.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::{SharedResult, StoreOp, StoreResult, StoreTier};
use crate::semantics::cache_status::Outcome;

/// Upper bounds of the buckets, in seconds; the last, `+Inf`, is implied.
pub(super) const BOUNDS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// The same bounds in nanoseconds, for comparing without floating point.
const BOUNDS_NS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Buckets with `+Inf`.
pub(super) const BUCKETS: usize = BOUNDS.len() + 1;
/// Cells of one histogram.
const WIDTH: usize = BUCKETS + 1;
/// Status classes: `1xx` to `5xx`, and anything else.
pub(super) const CLASSES: usize = 6;

/// A status code's class as an index.
pub(super) fn class(status: u16) -> usize {
    match status / 100 {
        hundreds @ 1..=5 => usize::from(hundreds) - 1,
        _ => CLASSES - 1,
    }
}

/// Where in the table what is counted lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    routes: usize,
}

impl Layout {
    const OUTCOMES: usize = Outcome::ALL.len();
    const SERIES: usize = StoreTier::ALL.len() * StoreOp::ALL.len();

    pub(super) fn new(routes: usize) -> Layout {
        Layout { routes }
    }
    pub(super) fn request(self, route: usize, outcome: usize) -> usize {
        (route * Self::OUTCOMES + outcome) * WIDTH
    }
    pub(super) fn response_bytes(self, outcome: usize) -> usize {
        self.request(self.routes, 0) + outcome
    }
    pub(super) fn response_class(self, class: usize) -> usize {
        self.response_bytes(Self::OUTCOMES) + class
    }
    /// One cell per class, and after them one for "no answer".
    pub(super) fn upstream_result(self, result: usize) -> usize {
        self.response_class(CLASSES) + result
    }
    pub(super) fn upstream_first_byte(self) -> usize {
        self.upstream_result(CLASSES + 1)
    }
    pub(super) fn store_result(self, tier: usize, op: usize, result: usize) -> usize {
        let series = tier * StoreOp::ALL.len() + op;
        self.upstream_first_byte() + WIDTH + series * StoreResult::ALL.len() + result
    }
    pub(super) fn store_seconds(self, tier: usize, op: usize) -> usize {
        let results = self.store_result(0, 0, 0) + Self::SERIES * StoreResult::ALL.len();
        results + (tier * StoreOp::ALL.len() + op) * WIDTH
    }
    pub(super) fn log_epochs(self) -> usize {
        self.store_seconds(0, 0) + Self::SERIES * WIDTH
    }
    pub(super) fn log_evictions(self) -> usize {
        self.log_epochs() + 1
    }
    pub(super) fn purges(self, owed: bool) -> usize {
        self.log_evictions() + 1 + usize::from(owed)
    }
    pub(super) fn purge_tags(self) -> usize {
        self.purges(true) + 1
    }
    pub(super) fn mutation_wait(self) -> usize {
        self.purge_tags() + 1
    }
    pub(super) fn shared(self, result: usize) -> usize {
        self.mutation_wait() + WIDTH + result
    }
    /// Length of the table.
    pub(super) fn cells(self) -> usize {
        self.shared(SharedResult::ALL.len())
    }
}

/// A histogram read out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    /// Observations per bucket, not cumulative.
    pub(super) buckets: [u64; BUCKETS],
    /// All observations.
    pub(super) count: u64,
    /// Their sum, seconds.
    pub(super) sum: f64,
}

/// The table.
#[derive(Debug)]
pub(super) struct Slab {
    shards: Vec<Cells>,
}

/// One copy of it.
#[derive(Debug)]
pub(super) struct Cells(Box<[AtomicU64]>);

impl Slab {
    /// A table of zeroes; as many copies as there are processors, at most eight.
    pub(super) fn new(cells: usize) -> Slab {
        let shards = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let copy = || Cells((0..cells).map(|_| AtomicU64::new(0)).collect());
        Slab { shards: (0..shards).map(|_| copy()).collect() }
    }

    /// The calling thread's copy.
    pub(super) fn mine(&self) -> &Cells {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        let thread = THREAD.try_with(|t| *t).unwrap_or(0); // a thread on its way out has no locals any more
        &self.shards[thread % self.shards.len()]
    }

    /// A counter's value.
    pub(super) fn counter(&self, cell: usize) -> u64 {
        self.shards.iter().map(|shard| shard.0[cell].load(Ordering::Relaxed)).sum()
    }

    /// A histogram's state.
    pub(super) fn histogram(&self, start: usize) -> Reading {
        let buckets: [u64; BUCKETS] = std::array::from_fn(|i| self.counter(start + i));
        let sum = self.counter(start + BUCKETS) as f64 / 1e9;
        Reading { buckets, count: buckets.iter().sum(), sum }
    }
}

impl Cells {
    pub(super) fn add(&self, cell: usize, by: u64) {
        self.0[cell].fetch_add(by, Ordering::Relaxed);
    }

    pub(super) fn observe(&self, start: usize, elapsed: Duration) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        // A linear scan: hits end in the first buckets.
        let bucket = BOUNDS_NS.iter().position(|bound| ns <= *bound).unwrap_or(BOUNDS_NS.len());
        self.add(start + bucket, 1);
        self.add(start + BUCKETS, ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_bounds_agree() {
        for (seconds, ns) in BOUNDS.iter().zip(BOUNDS_NS) {
            assert_eq!((seconds * 1e9).round() as u64, ns);
        }
        assert!(BOUNDS_NS.is_sorted());
    }

    #[test]
    fn no_two_metrics_share_a_cell() {
        let layout = Layout::new(3);
        let mut taken = vec![0u8; layout.cells()];
        let mut take = |start: usize, width: usize| {
            for cell in &mut taken[start..start + width] {
                *cell += 1;
            }
        };
        for outcome in 0..Outcome::ALL.len() {
            (0..3).for_each(|route| take(layout.request(route, outcome), WIDTH));
            take(layout.response_bytes(outcome), 1);
        }
        (0..CLASSES).for_each(|class| take(layout.response_class(class), 1));
        (0..=CLASSES).for_each(|result| take(layout.upstream_result(result), 1));
        take(layout.upstream_first_byte(), WIDTH);
        for tier in 0..StoreTier::ALL.len() {
            for op in 0..StoreOp::ALL.len() {
                (0..StoreResult::ALL.len()).for_each(|r| take(layout.store_result(tier, op, r), 1));
                take(layout.store_seconds(tier, op), WIDTH);
            }
        }
        take(layout.log_epochs(), 1);
        take(layout.log_evictions(), 1);
        take(layout.purges(false), 1);
        take(layout.purges(true), 1);
        take(layout.purge_tags(), 1);
        (0..SharedResult::ALL.len()).for_each(|result| take(layout.shared(result), 1));
        take(layout.mutation_wait(), WIDTH);
        assert!(taken.iter().all(|n| *n == 1), "{taken:?}");
    }

    #[test]
    fn an_observation_on_a_bound_belongs_to_its_bucket() {
        let slab = Slab::new(WIDTH);
        slab.mine().observe(0, Duration::from_micros(100));
        slab.mine().observe(0, Duration::from_micros(101));
        slab.mine().observe(0, Duration::from_secs(61));
        let reading = slab.histogram(0);
        assert_eq!((reading.buckets[0], reading.buckets[1], reading.buckets[BUCKETS - 1]), (1, 1, 1));
        assert_eq!(reading.count, 3);
        assert!((reading.sum - 61.000_201).abs() < 1e-9);
    }

    #[test]
    fn classes_cover_every_status() {
        assert_eq!([100, 200, 304, 404, 599].map(class), [0, 1, 2, 3, 4]);
        assert_eq!([0, 99, 600, 999].map(class), [5; 4]);
    }
}
