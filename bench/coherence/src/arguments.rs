//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Looks for stale reads behind Weir while clients write and things break, and measures what coherence costs.
///
/// Starts everything itself, on loopback and in a temporary directory, and ends it again: a backend, Redis, Weirs.
/// Exit status: 0 what is promised was kept, 1 it was not, 2 the run could not be made.
#[derive(Debug, Clone, Parser)]
#[command(name = "coherence", version)]
pub struct Arguments {
    /// The release binary under test
    #[arg(long, default_value = "target/release/weir", value_name = "FILE")]
    pub weir: PathBuf,
    /// Measure this instead of Weir: one instance, same backend, same load, same judge
    #[arg(long, value_enum, value_name = "NAME")]
    pub peer: Option<Peer>,
    /// How many Weirs share one Redis
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub instances: usize,
    /// One Weir without Redis
    #[arg(long, conflicts_with_all = ["faults", "cost"])]
    pub without_redis: bool,
    /// The Weirs' `coherence`
    #[arg(long, value_enum, default_value_t = Mode::Strong)]
    pub mode: Mode,
    /// The Weirs' `lease`
    #[arg(long, default_value = "2s", value_parser = duration, value_name = "TIME")]
    pub lease: Duration,
    /// The Weirs' `on_unreachable_log`; with `refuse`, a 503 or 504 to a mutation is no error
    #[arg(long, value_enum, default_value_t = Unreachable::Forward)]
    pub unreachable: Unreachable,
    /// Write no keys that release 0.1.0 does not know; its instances follow each other unasked, as in `eventual`
    #[arg(long)]
    pub old: bool,

    /// How long, unless --reads says how many
    #[arg(long, default_value_t = 30, value_name = "N")]
    pub seconds: u64,
    /// Go on until there have been so many reads
    #[arg(long, value_name = "N")]
    pub reads: Option<u64>,
    /// How many items the backend has; a fifth as many lists and boards show five each
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub items: usize,
    /// The longest that a request takes at the backend
    #[arg(long, default_value = "80ms", value_parser = duration, value_name = "TIME")]
    pub delay: Duration,
    /// How many readers, each with a connection to every instance
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub readers: usize,
    /// How many writers
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub writers: usize,
    /// A writer's pause between two mutations, on average
    #[arg(long, default_value = "300ms", value_parser = duration, value_name = "TIME")]
    pub write_pause: Duration,
    /// How uneven readers and writers choose: the exponent of a Zipf distribution
    #[arg(long, default_value_t = 0.8, value_name = "S")]
    pub zipf: f64,
    /// The share of reads that are conditional (`If-None-Match`)
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub conditional: f64,

    /// What to break, in turn
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PLAN,…")]
    pub faults: Vec<Fault>,
    /// How long after one thing was mended the next one breaks
    #[arg(long, default_value = "3s", value_parser = duration, value_name = "TIME")]
    pub every: Duration,
    /// Replicas of the primary that sentinels watch (`failover`)
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub replicas: usize,
    /// Serve old answers now and then, on purpose, in front of the first instance: the judge must find every one
    #[arg(long)]
    pub sabotage: bool,

    /// Measure costs instead: latency of mutations, purges per second, purge time by number of entries
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0..=1, default_missing_value = "latency,throughput,entries")]
    pub cost: Vec<Cost>,
    /// Mutations per mode and number of writers (`latency`)
    #[arg(long, default_value_t = 20_000, value_name = "N")]
    pub mutations: u64,
    /// Clients that purge at once (`throughput`)
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub concurrency: usize,
    /// The largest number of entries (`entries`)
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub entries: usize,
    /// Where the plot of `entries` is written
    #[arg(long, default_value = "bench/coherence/purge-o1.svg", value_name = "FILE")]
    pub plot: PathBuf,

    /// Seed of all random choices; by default another one each time. Printed with the result
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Keep the temporary directory: configurations and logs of everything that ran
    #[arg(long)]
    pub keep: bool,
}

/// What can be measured in Weir's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Varnish, with a ban for every mutation that passes through it
    Varnish,
}

/// `[cache] coherence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A mutation is answered when every instance has applied its purge
    Strong,
    /// A mutation is answered when its purge is in the log
    Eventual,
}

/// `[cache] on_unreachable_log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Unreachable {
    /// Mutations are forwarded
    Forward,
    /// Mutations are refused
    Refuse,
}

/// What to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Nothing
    None,
    /// Redis is killed, and started again empty half a second later
    Kill,
    /// Redis is stopped for 0.3 to 3 seconds
    Freeze,
    /// FLUSHALL
    Flush,
    /// Redis fails over to a replica: by order, and because the primary dies (sentinels)
    Failover,
    /// One Weir cannot reach Redis: in silence, or with connections reset
    Cut,
    /// One Weir is stopped for longer than its lease
    Stop,
}

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cost {
    /// What `strong` adds to a mutation
    Latency,
    /// How many purges per second, with how much memory
    Throughput,
    /// Whether a purge takes longer when there is more in the cache
    Entries,
}

impl Mode {
    /// As Weir's configuration says it.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Strong => "strong",
            Mode::Eventual => "eventual",
        }
    }
}

impl Unreachable {
    /// As Weir's configuration says it.
    pub fn word(self) -> &'static str {
        match self {
            Unreachable::Forward => "forward",
            Unreachable::Refuse => "refuse",
        }
    }
}

impl Arguments {
    /// What is wrong with the combination, if anything.
    pub fn problem(&self) -> Option<&'static str> {
        let has = |fault| self.faults.contains(&fault);
        if self.instances == 0 || self.readers == 0 || self.items == 0 {
            Some("--instances, --readers and --items must be at least 1")
        } else if self.without_redis && self.instances != 1 {
            Some("--without-redis is for --instances 1")
        } else if has(Fault::Failover) && has(Fault::Cut) {
            Some("sentinels tell Weirs where Redis is, past the forwarders that `cut` needs: not both")
        } else if has(Fault::Failover) && self.replicas == 0 {
            Some("`failover` needs --replicas 1 or more")
        } else if self.peer.is_some() && (!self.faults.is_empty() || !self.cost.is_empty()) {
            Some("--peer runs without --faults and --cost")
        } else if !self.conditional.is_finite() || !(0.0..=1.0).contains(&self.conditional) {
            Some("--conditional is a share from 0 to 1")
        } else if !self.zipf.is_finite() || self.zipf < 0.0 {
            Some("--zipf is 0 or more")
        } else {
            None
        }
    }
}

/// `80ms`, `2s`, `1m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().map_err(|_| format!("{text:?} is not a time such as 80ms or 2s"))?;
    let seconds = match &text[digits.len()..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" => number * 60.0,
        unit => return Err(format!("{unit:?} is none of us, ms, s, m")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        let parse = |words: &[&str]| Arguments::try_parse_from([&["coherence"], words].concat());
        assert_eq!(parse(&[]).unwrap().problem(), None);
        let costs = parse(&["--cost"]).unwrap().cost;
        assert_eq!(costs, [Cost::Latency, Cost::Throughput, Cost::Entries]);
        assert_eq!(parse(&["--cost", "entries"]).unwrap().cost, [Cost::Entries]);
        assert_eq!(parse(&["--faults", "kill,cut"]).unwrap().faults, [Fault::Kill, Fault::Cut]);
        assert!(parse(&["--faults", "failover,cut"]).unwrap().problem().is_some());
        assert!(parse(&["--peer", "varnish", "--cost"]).unwrap().problem().is_some());
        assert!(parse(&["--without-redis"]).unwrap().problem().is_some());
    }

    #[test]
    fn durations() {
        assert_eq!(duration("80ms"), Ok(Duration::from_millis(80)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "5", "ms", "-1s", "1h", "1e400s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
