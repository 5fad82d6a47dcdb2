//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures Weir beside other caches and a bare HTTP server, interleaved, on one machine.
///
/// Starts everything itself, on loopback and in a temporary directory, and ends it again. `bench/install` installs what
/// is measured. Results are files in --out: results.json, results.md, goals.md and plots.
#[derive(Debug, Clone, Parser)]
#[command(name = "peers", version)]
pub struct Arguments {
    /// Where results are written
    #[arg(long, default_value = "target/peers", value_name = "DIR")]
    pub out: PathBuf,
    /// The release binary of Weir [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    pub weir: Option<PathBuf>,
    /// Workloads to measure, by name or the beginning of a name [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub only: Vec<String>,
    /// Servers to measure [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub servers: Vec<String>,
    /// How often each server has its turn in a workload [default: 3]
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// How long each turn lasts at full speed; at a fixed rate three quarters of that [default: 2]
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
    /// One round of one second, smaller sets of URLs, and without the workloads that vary another
    #[arg(long)]
    pub quick: bool,
    /// The fixed rate, as a share of what the fastest peer does at full speed
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    pub rate: f64,
    /// The core of the generator, and of origin and Redis, where a workload divides the cores
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub generator_core: usize,
    /// The core of the server, where a workload divides the cores
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub server_core: usize,
    /// Seed of all random choices
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Say what there is to measure, and end
    #[arg(long)]
    pub list: bool,
    /// Keep the temporary directory: configurations and logs of everything that ran
    #[arg(long)]
    pub keep: bool,

    /// What to be instead
    #[command(subcommand)]
    pub part: Option<Part>,
}

/// What this program calls itself as.
#[derive(Debug, Clone, Subcommand)]
pub enum Part {
    /// The origin behind every server
    Origin(OriginOptions),
    /// The reference: a bare hyper server
    Bare(BareOptions),
    /// The generator of requests at a fixed rate
    Paced(PacedOptions),
    /// Writes tables and plots once more from results.json
    Report(ReportOptions),
}

/// The origin.
#[derive(Debug, Clone, Args)]
pub struct OriginOptions {
    /// Where it listens, on loopback
    #[arg(long)]
    pub port: u16,
    /// How long `/slow` takes
    #[arg(long, default_value_t = 300)]
    pub delay_ms: u64,
}

/// The reference.
#[derive(Debug, Clone, Args)]
pub struct BareOptions {
    /// Where it listens, on loopback
    #[arg(long)]
    pub port: u16,
    /// HTTP/2 alone, by prior knowledge or ALPN
    #[arg(long)]
    pub h2: bool,
    /// Copy the body behind the head (best for small ones) instead of a vectored write
    #[arg(long)]
    pub copy: bool,
    /// PEM file of a certificate: TLS
    #[arg(long, requires = "key")]
    pub certificate: Option<PathBuf>,
    /// PEM file of its key
    #[arg(long, requires = "certificate")]
    pub key: Option<PathBuf>,
}

/// The generator.
#[derive(Debug, Clone, Args)]
pub struct PacedOptions {
    /// The server
    #[arg(long)]
    pub address: SocketAddr,
    /// Requests per second
    #[arg(long)]
    pub rate: f64,
    /// How long they are counted
    #[arg(long)]
    pub seconds: f64,
    /// How long before that they are sent and not counted
    #[arg(long, default_value_t = 0.0)]
    pub lead: f64,
    /// Connections
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Requests at once on each connection (HTTP/2)
    #[arg(long, default_value_t = 1)]
    pub streams: usize,
    /// A file of requests: path, and after a tab the `Authorization`
    #[arg(long, conflicts_with_all = ["path", "fresh"])]
    pub list: Option<PathBuf>,
    /// One path for all
    #[arg(long, conflicts_with = "fresh")]
    pub path: Option<String>,
    /// Paths that begin so and are all different
    #[arg(long)]
    pub fresh: Option<String>,
    /// The method
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// HTTP/2
    #[arg(long)]
    pub h2: bool,
    /// TLS, trusting this certificate
    #[arg(long)]
    pub certificate: Option<PathBuf>,
}

/// Tables and plots once more.
#[derive(Debug, Clone, Args)]
pub struct ReportOptions {
    /// The directory with results.json
    pub dir: PathBuf,
}

impl Arguments {
    /// Rounds of each workload.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }).max(1)
    }

    /// Seconds of each measurement.
    pub fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 2 }).max(1)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        let parse = |words: &[&str]| Arguments::try_parse_from([&["peers"], words].concat()).unwrap();
        assert_eq!((parse(&[]).rounds(), parse(&[]).seconds()), (3, 2));
        let quick = parse(&["--quick", "--only", "hot,miss-1k"]);
        assert_eq!((quick.rounds(), quick.seconds(), quick.only.len()), (1, 1, 2));
        assert_eq!(parse(&["--quick", "--rounds", "2"]).rounds(), 2);
        assert!(matches!(parse(&["origin", "--port", "1"]).part, Some(Part::Origin(_))));
        assert!(Arguments::try_parse_from(["peers", "bare", "--port", "1", "--key", "k"]).is_err());
    }
}
