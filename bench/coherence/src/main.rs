//! `coherence`: is anything behind Weir ever stale after a mutation was acknowledged, whatever dies meanwhile?
//!
//! It starts a versioned backend, Redis and several Weirs, lets clients read and write, breaks things, and judges
//! every single answer by what had been acknowledged before its request was sent. `README.md` beside this crate
//! says what is counted and how each run is made.
//!
//! In reading order: [`world`] what there is to read, [`backend`] who serves it, [`ledger`] the judge, [`load`] the
//! clients, [`faults`] what breaks, [`race`] all of it together, [`report`] the result; [`rig`] the processes,
//! [`sabotage`] the judge's own test, [`cost`] the measurements.

mod arguments;
mod backend;
mod client;
mod cost;
mod faults;
mod ledger;
mod load;
mod race;
mod report;
mod rig;
mod sabotage;
mod tally;
mod world;

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use arguments::Arguments;
use bench_rig::{histogram, random, stage};
use clap::Parser as _;
use rig::{Outcome, during};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(problem) = arguments.problem() {
        eprintln!("coherence: {problem}");
        return ExitCode::from(2);
    }
    match start(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("coherence: {error}");
            ExitCode::from(2)
        }
    }
}

fn start(arguments: &Arguments) -> Outcome<ExitCode> {
    let dir = tempfile::Builder::new().prefix("coherence-").tempdir();
    let dir = dir.map_err(during("a temporary directory"))?;
    stage::run("coherence", dir, arguments.keep, async |dir| run(arguments, dir).await)
}

async fn run(arguments: &Arguments, dir: &Path) -> Outcome<ExitCode> {
    let seed = arguments.seed.unwrap_or_else(another_seed);
    if !arguments.cost.is_empty() {
        return cost::run(arguments, seed, dir).await;
    }
    let finish = race::run(arguments, seed, dir).await?;
    println!("{}", report::race(arguments, &finish, seed));
    let broken = report::broken_promises(arguments, &finish);
    for promise in &broken {
        println!("NOT KEPT: {promise}");
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn another_seed() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    random::Random::new(now.as_nanos() as u64, u64::from(std::process::id())).bits() % 1_000_000
}
