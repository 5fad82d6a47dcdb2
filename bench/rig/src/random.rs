//! Random numbers from a seed: SplitMix64, and a Zipf choice over a fixed number of things.
//!
//! Every task has a generator of its own, made from the run's seed and the task's number.

use std::time::Duration;

/// A generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator number `stream` of the run with this seed.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f));
        random.bits();
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0.0 up to, not including, 1.0.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number below `n`; 0 when `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.share() * n as f64) as usize).min(n.saturating_sub(1))
    }

    /// A time between the two.
    pub fn between(&mut self, from: Duration, to: Duration) -> Duration {
        from + to.saturating_sub(from).mul_f64(self.share())
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.share() < probability
    }
}

/// Chooses among `n` things: the one of rank r with weight 1/r^s, the ranks shuffled by the seed.
#[derive(Debug, Clone)]
pub struct Zipf {
    sums: Vec<f64>,
    order: Vec<usize>,
}

impl Zipf {
    /// Over `n` things (at least one) with exponent `s`; 0.0 chooses evenly.
    pub fn new(n: usize, s: f64, random: &mut Random) -> Zipf {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, random.below(i + 1));
        }
        let mut sum = 0.0;
        let sums = (1..=n)
            .map(|rank| {
                sum += (rank as f64).powf(-s);
                sum
            })
            .collect();
        Zipf { sums, order }
    }

    /// One of them.
    pub fn choose(&self, random: &mut Random) -> usize {
        let total = self.sums.last().copied().unwrap_or_default();
        let at = random.share() * total;
        let rank = self.sums.partition_point(|sum| *sum <= at).min(self.order.len() - 1);
        self.order[rank]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_prefers_its_first_rank_and_reaches_every_thing() {
        let mut random = Random::new(7, 0);
        let zipf = Zipf::new(10, 1.0, &mut random);
        let mut counts = [0usize; 10];
        for _ in 0..20_000 {
            counts[zipf.choose(&mut random)] += 1;
        }
        let favourite = zipf.order[0];
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert_eq!(counts.iter().max(), Some(&counts[favourite]));
        // 1 / (1 + 1/2 + … + 1/10) = 0.34
        assert!((6_000..7_700).contains(&counts[favourite]), "{counts:?}");
    }

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |stream| Random::new(1, stream).bits();
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
        let mut random = Random::new(1, 1);
        assert!((0..1000).all(|_| random.below(3) < 3));
        assert_eq!(random.below(0), 0);
    }
}
