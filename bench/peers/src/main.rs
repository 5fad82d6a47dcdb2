//! `peers`: what an answer costs with Weir, with other caches, and with a bare HTTP server that decides nothing.
//!
//! It starts an origin and every server with a configuration of its own on loopback, lets one after the other be under
//! load, round by round, and reports requests per second, times, processor time per request and memory, as ratios
//! within the round. `README.md` one directory up says how to run it and how to read it.
//!
//! In reading order: [`workloads`] what is measured, [`goals`] what should come out, [`servers`] who is measured and
//! with which settings, [`load`] the generators, [`measure`] one measurement, [`run`] all of them in their order,
//! [`summary`] what they say together, [`report`] how it is shown. [`origin`], [`bare`] and [`load::paced`] are
//! processes of their own: this program, called by itself.

mod answers;
mod arguments;
mod bare;
mod client;
mod extra;
mod goals;
mod keys;
mod load;
mod measure;
mod origin;
mod report;
mod run;
mod servers;
mod summary;
mod tls;
mod workloads;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::ExitCode;

use arguments::{Arguments, Part};
use bench_rig::{Outcome, during, stage};
use clap::Parser as _;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.part {
        Some(Part::Origin(options)) => origin::run(options).map(|()| ExitCode::SUCCESS),
        Some(Part::Bare(options)) => bare::run(options).map(|()| ExitCode::SUCCESS),
        Some(Part::Paced(options)) => load::paced::run(options).map(|()| ExitCode::SUCCESS),
        Some(Part::Report(options)) => report::again(options).map(|()| ExitCode::SUCCESS),
        None => start(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("peers: {error}");
        ExitCode::from(2)
    })
}

fn start(arguments: &Arguments) -> Outcome<ExitCode> {
    if arguments.list {
        print!("{}", workloads::list());
        return Ok(ExitCode::SUCCESS);
    }
    allow_many_files();
    stage::run("peers", scratch()?, arguments.keep, async |dir| {
        run::run(arguments, dir).await.map(|()| ExitCode::SUCCESS)
    })
}

/// A directory in memory where there is one, because two of the peers keep what they cache in files. Their workers
/// run as users of their own and must get in.
fn scratch() -> Outcome<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = tempfile::Builder::new().prefix("peers-").tempdir_in(parent);
    let dir = dir.map_err(during("a temporary directory"))?;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).map_err(during("a temporary directory"))?;
    Ok(dir)
}

/// Thousands of connections are thousands of files; children inherit the limit.
fn allow_many_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        eprintln!("peers: the limit of open files stays as it is: {error}");
    }
}
