//! What coherence costs: time per mutation, purges per second and their memory, purge time by number of entries.
//!
//! The backend answers at once here, so that what is left is the proxy's. Nothing else runs beside the measurement
//! but what this program starts; on a busy machine compare ratios within one run.

mod entries;
mod latency;
mod plot;
mod throughput;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::{Arguments, Cost, Mode};
use crate::backend::Backend;
use crate::race::settings;
use crate::rig::redis::Redis;
use crate::rig::weir::{Log, Settings, Weir};
use crate::rig::{Outcome, during};
use crate::world::World;

/// Measures what was asked for, prints tables; the exit status is 1 when a request failed.
pub async fn run(arguments: &Arguments, seed: u64, dir: &Path) -> Outcome<ExitCode> {
    let backend = Backend::new(World::new(arguments.items), Duration::ZERO, seed);
    let upstream = backend.serve().await.map_err(during("the backend"))?;
    let mut errors = 0;
    for cost in &arguments.cost {
        let dir = dir.join(format!("{cost:?}").to_lowercase());
        std::fs::create_dir(&dir).map_err(during("a directory"))?;
        let redis = Redis::start("redis", &dir, &[]).await?;
        let bench = Bench { arguments, seed, dir: &dir, redis, upstream };
        let (text, failed) = match cost {
            Cost::Latency => latency::run(&bench).await?,
            Cost::Throughput => throughput::run(&bench).await?,
            Cost::Entries => entries::run(&bench).await?,
        };
        println!("{text}");
        errors += failed;
    }
    if errors > 0 {
        println!("NOT KEPT: {errors} requests failed");
        return Ok(ExitCode::from(1));
    }
    Ok(ExitCode::SUCCESS)
}

/// A measurement's own Redis and directory.
struct Bench<'a> {
    arguments: &'a Arguments,
    seed: u64,
    dir: &'a Path,
    redis: Redis,
    upstream: SocketAddr,
}

impl Bench<'_> {
    /// Starts the Weirs of one mode, under a prefix of their own, straight on Redis.
    async fn weirs(&self, mode: Mode, memory: &'static str) -> Outcome<Vec<Weir>> {
        let common = settings(self.arguments, mode, self.upstream);
        let settings = Settings { prefix: mode.word(), memory, ..common };
        let mut weirs = Vec::new();
        for n in 1..=self.arguments.instances {
            let name = format!("{}-{n}", mode.word());
            weirs.push(Weir::start(&name, self.dir, &settings, &Log::Redis(self.redis.address())).await?);
        }
        Ok(weirs)
    }

    /// What the mode is called in tables.
    fn called(&self, mode: Mode) -> &'static str {
        if self.arguments.old { "without coherence keys" } else { mode.word() }
    }
}

/// Microseconds.
fn us(time: Duration) -> String {
    format!("{} µs", time.as_micros())
}

/// Mebibytes.
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1024.0 * 1024.0))
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}
