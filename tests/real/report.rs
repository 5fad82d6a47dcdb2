//! What a run saw, in words and as a row of the READMEs' table.

use std::io::Write;
use std::time::Duration;

use crate::client::{Answer, Served};

/// Times and outcomes of one run's reads.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    times: Vec<Duration>,
    pub(crate) hits: usize,
    pub(crate) shared: usize,
}

impl Reads {
    pub(crate) fn add(&mut self, answer: &Answer) {
        self.times.push(answer.elapsed);
        match answer.served() {
            Served::Hit => self.hits += 1,
            Served::Shared => self.shared += 1,
            Served::Forwarded | Served::Unsaid => {}
        }
    }

    pub(crate) fn merge(&mut self, other: Reads) {
        self.times.extend(other.times);
        self.hits += other.hits;
        self.shared += other.shared;
    }

    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// The `percent`th percentile, in milliseconds.
    fn percentile(&self, percent: usize) -> f64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(at).map_or(0.0, |t| t.as_secs_f64() * 1000.0)
    }
}

/// One backend's figures, with and without Weir.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub(crate) name: &'a str,
    pub(crate) without: &'a Reads,
    pub(crate) with: &'a Reads,
    pub(crate) mutations: usize,
    /// Reads that reached the backend while Weir stood before it, by the backend's own log.
    pub(crate) backend_reads: usize,
}

impl Report<'_> {
    pub(crate) fn print(&self) {
        let reads = self.with.count();
        let share = |part: usize| 100.0 * part as f64 / reads.max(1) as f64;
        let avoided = reads.saturating_sub(self.backend_reads);
        say(&format!(
            "\n| backend | reads | mutations | hit rate | shared fetches | backend reads avoided | p50 without → with | p99 without → with |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n\
             | {} | {reads} | {} | {:.1} % | {} | {avoided} ({:.1} %) | {:.1} ms → {:.1} ms | {:.0} ms → {:.0} ms |",
            self.name,
            self.mutations,
            share(self.with.hits),
            self.with.shared,
            share(avoided),
            self.without.percentile(50),
            self.with.percentile(50),
            self.without.percentile(99),
            self.with.percentile(99),
        ));
    }
}

/// Says a line past the test harness, which would keep what a passing test prints to itself.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
}
