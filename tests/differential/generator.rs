//! Histories: random, from a seed, and drawn towards where the rules change.
//!
//! A history is about one cache key. Most of its fields are as a backend and its clients send them; some are malformed,
//! doubled, huge or contradictory. The clock is advanced to the very ends of windows, and a millisecond beside them.

mod requests;
mod responses;
mod values;

pub use values::any_date;

use crate::model::{MILLISECOND, Nanos, Operator, Origin, Request, Response, SECOND, Stored};

/// SplitMix64.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// One request, and what the backend says should it be asked.
#[derive(Debug, Clone)]
pub struct Step {
    /// When the request comes.
    pub now: Nanos,
    pub request: Request,
    /// How long the backend takes; less than nothing where the clock is set back meanwhile.
    pub delay: Nanos,
    /// The first answer, to a conditional request where there is something to ask about; `None` = no connection.
    pub first: Option<Response>,
    /// The answer to the request without conditions, where the first one could not be used.
    pub second: Option<Response>,
}

/// Everything that makes a run.
#[derive(Debug, Clone)]
pub struct History {
    pub operator: Operator,
    pub steps: Vec<Step>,
}

/// What is the same all through a history.
pub struct Shape {
    rng: Rng,
    pub operator: Operator,
    method: &'static str,
    vary: Vec<&'static str>,
    /// The backend's clock less this one's.
    skew: Nanos,
    /// In percent, how often something is not as it should be.
    oddness: usize,
    now: Nanos,
}

/// The first moment of every history.
pub const START: Nanos = 1_790_000_000_000 * MILLISECOND;

const VARY: [&str; 16] = [
    "accept",
    "Accept",
    "accept-language",
    "Accept-Language, accept",
    "accept-encoding",
    "x-v",
    "x-v, x-v,",
    "X-V, accept",
    "cookie",
    "user-agent , x-v",
    "*",
    "x-v, *",
    "x v",
    "\"x-v\"",
    "",
    "x-v,,accept",
];

impl Shape {
    pub fn new(seed: u64) -> Shape {
        let mut rng = Rng(seed);
        let operator = operator(&mut rng);
        let methods = ["GET", "GET", "GET", "GET", "GET", "GET", "GET", "GET", "POST", "QUERY"];
        let method = rng.pick(&methods);
        let mut vary = Vec::new();
        for _ in 0..rng.below(6).saturating_sub(2) {
            let some = if rng.chance(20) { VARY.len() } else { 10 };
            vary.push(*rng.pick(&VARY[..some]));
        }
        let skews = [0, 0, 0, 0, 0, 0, 1, -1, 3, -3, 60, -60, 86_400, -86_400];
        let skew = *rng.pick(&skews) * SECOND;
        let oddness = *rng.pick(&[2, 5, 10, 30]);
        let now = START + rng.below(100_000) as Nanos * MILLISECOND;
        Shape { rng, operator, method, vary, skew, oddness, now }
    }

    /// The next step, knowing what is stored.
    pub fn step(&mut self, stored: &[Stored]) -> Step {
        self.advance(stored);
        let request = self.request(stored);
        let delays = [0, 0, 0, 1, 1, 7, 7, 80, 80, 80, 500, 999, 1_000, 1_001, 2_500, 30_000];
        let mut delay = *self.rng.pick(&delays) * MILLISECOND;
        if self.rng.chance(1) {
            delay = -delay;
        }
        let received = self.now + delay;
        let first = match self.rng.below(100) {
            0..12 => None,
            12..55 => Some(self.not_modified(stored, received)),
            _ => Some(self.response(received)),
        };
        let second = (!self.rng.chance(5)).then(|| self.response(received));
        Step { now: self.now, request, delay, first, second }
    }

    fn odd(&mut self) -> bool {
        let oddness = self.oddness;
        self.rng.chance(oddness)
    }

    fn advance(&mut self, stored: &[Stored]) {
        if !stored.is_empty() && self.rng.chance(65) {
            let one = self.rng.pick(stored).clone();
            let windows = &one.windows;
            let ends = [
                windows.fresh,
                windows.fresh,
                windows.fresh + windows.stale_while_revalidate,
                windows.fresh + windows.stale_if_error,
                windows.fresh + windows.keep,
                windows.fresh / 2,
                windows.fresh + self.rng.below(20) as Nanos * SECOND,
                self.rng.below(20) as Nanos * SECOND,
            ];
            let wanted = *self.rng.pick(&ends) + *self.rng.pick(&[-1, 0, 0, 1]) * MILLISECOND;
            let at = one.response_time + wanted - one.initial_age;
            // Whole milliseconds, as clocks here have.
            let at = at.div_euclid(MILLISECOND) * MILLISECOND;
            if at >= self.now && at < self.now + 40_000_000 * SECOND {
                self.now = at;
                return;
            }
        }
        self.now += match self.rng.below(20) {
            0..6 => self.rng.below(20) as Nanos * MILLISECOND,
            6..15 => self.rng.below(9_000) as Nanos * MILLISECOND,
            15..18 => self.rng.below(30_000) as Nanos * MILLISECOND,
            18 => self.rng.below(400_000) as Nanos * MILLISECOND,
            _ => -(self.rng.below(5_000) as Nanos) * MILLISECOND,
        };
    }
}

fn operator(rng: &mut Rng) -> Operator {
    let spans = [0, 1, 5, 10, 60, 600];
    let mut span = |percent: usize| {
        rng.chance(percent).then(|| {
            let seconds = *rng.pick(&spans) * SECOND;
            if rng.chance(10) { seconds + 500 * MILLISECOND } else { seconds }
        })
    };
    let (ttl, negative_ttl) = (span(75), span(40));
    let (stale_while_revalidate, stale_if_error) = (span(40), span(40));
    let keep = span(70).unwrap_or(0);
    let lists: [&[&str]; 4] =
        [&["cdn-cache-control"], &["cdn-cache-control"], &["weir-cache-control", "cdn-cache-control"], &[]];
    Operator {
        ttl,
        negative_ttl,
        stale_while_revalidate,
        stale_if_error,
        keep,
        origin: *rng.pick(&[Origin::Stricter, Origin::Ignore, Origin::Honour, Origin::Honour]),
        per_subject: rng.chance(20),
        public: rng.chance(20),
        store_set_cookie: rng.chance(40),
        store_errors: rng.chance(30),
        client_refresh: rng.chance(75),
        asks_uncoded: rng.chance(25),
        vary: if rng.chance(10) { vec!["x-v".to_owned()] } else { Vec::new() },
        target_list: rng.pick(&lists).iter().map(|name| (*name).to_owned()).collect(),
    }
}
