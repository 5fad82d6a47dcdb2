//! Seeded choices: the same seed, the same requests.

/// SplitMix64: tiny, good enough to choose requests, the same everywhere.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0..n`, each as likely.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// True in `percent` of a hundred cases.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn unit(&mut self) -> f64 {
        let x = (self.next() >> 11) as f64;
        x / (1u64 << 53) as f64
    }
}

/// Zipf's law over `0..n` with exponent 1: the first is asked for twice as often as the second.
#[derive(Debug, Clone)]
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    pub(crate) fn new(n: usize) -> Zipf {
        let mut sum = 0.0;
        let mut bounds = Vec::with_capacity(n);
        for rank in 1..=n {
            let weight = 1.0 / rank as f64;
            sum += weight;
            bounds.push(sum);
        }
        Zipf(bounds)
    }

    pub(crate) fn pick(&self, rng: &mut Rng) -> usize {
        let x = rng.unit() * self.0.last().expect("not empty");
        self.0.partition_point(|bound| *bound <= x).min(self.0.len() - 1)
    }
}

/// Puts `items` into an order of its own, always the same one.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.below(i + 1));
    }
}

/// The path with its query as Weir forwards it: sorted by name, so that one question has one key. Backends write the
/// query they were asked into links, so a direct request has to ask in the same words to be answered in them.
pub(crate) fn normal(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let mut pairs: Vec<&str> = query.split('&').collect();
    pairs.sort_by_key(|pair| pair.split('=').next());
    format!("{path}?{}", pairs.join("&"))
}

/// Fails where two texts begin to differ, and shows that place alone.
#[track_caller]
pub(crate) fn assert_same_text(left: &str, right: &str, why: &dyn std::fmt::Display) {
    if left == right {
        return;
    }
    let same = left.bytes().zip(right.bytes()).take_while(|(l, r)| l == r).count();
    let around = |text: &str| {
        let (from, to) = (same.saturating_sub(60), (same + 60).min(text.len()));
        String::from_utf8_lossy(&text.as_bytes()[from.min(to)..to]).into_owned()
    };
    panic!("{why}: at byte {same}\n   one: …{}…\n other: …{}…", around(left), around(right));
}

#[test]
fn a_query_is_sorted_by_name_alone() {
    assert_eq!(normal("/x?b=1&a=2&b=0&a"), "/x?a=2&a&b=1&b=0");
    assert_eq!(normal("/x"), "/x");
}

#[test]
fn the_first_rank_is_the_most_frequent() {
    let (zipf, mut rng, mut counts) = (Zipf::new(10), Rng::new(1), [0usize; 10]);
    for _ in 0..10_000 {
        counts[zipf.pick(&mut rng)] += 1;
    }
    assert!(counts.is_sorted_by(|a, b| a + 200 > *b), "{counts:?}");
    assert!(counts[0] > 3 * counts[9], "{counts:?}");
}
