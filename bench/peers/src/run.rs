//! All workloads in their order. Within a workload the servers take turns, round by round, and each round begins with
//! another one: whatever slows the machine for a while falls on all of them, and ratios are taken within a round.
//!
//! A server that cannot be started, filled or measured is left out with its reason; the others go on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bench_rig::process::Process;
use bench_rig::{Outcome, START, during, free_port, until};

use crate::arguments::Arguments;
use crate::client::counts;
use crate::extra;
use crate::measure::Turns;
use crate::report;
use crate::servers::{Name, Server, Stage, start};
use crate::summary::{Entrant, Figure, Measured, Results, Sample};
use crate::tls::{self, Pair};
use crate::workloads::{Kind, Workload, table};

/// Everything that was asked for.
pub async fn run(arguments: &Arguments, dir: &Path) -> Outcome<()> {
    let workloads = chosen_workloads(arguments)?;
    let servers = chosen_servers(arguments)?;
    let weir = weir(arguments)?;
    let pair = tls::pair(dir)?;
    std::fs::create_dir_all(&arguments.out).map_err(during("--out"))?;
    let mut results = Results { about: report::about(arguments, &weir), workloads: Vec::new() };
    for workload in &workloads {
        let began = std::time::Instant::now();
        let all = All { arguments, workload, servers: &servers, dir, weir: &weir, pair: &pair };
        let measured = all.measure(&results).await?;
        println!("{}", report::one(&measured));
        eprintln!("{}: {:.0} s", workload.name, began.elapsed().as_secs_f64());
        results.workloads.push(measured);
        // After each, so that an interrupted run leaves what it has.
        report::write(&arguments.out, &results)?;
    }
    println!("{}", report::goals(&results));
    eprintln!("written: {}", arguments.out.display());
    Ok(())
}

fn chosen_workloads(arguments: &Arguments) -> Outcome<Vec<Workload>> {
    let all = table(arguments.quick);
    for name in &arguments.only {
        if !all.iter().any(|row| row.name.starts_with(name.as_str())) {
            return Err(format!("there is no workload {name:?}; --list says which there are"));
        }
    }
    let wanted = |row: &Workload| {
        // A whole name means that one alone, even where it is the beginning of another.
        let whole = |name: &String| all.iter().any(|other| other.name == name);
        let fits =
            |name: &String| if whole(name) { row.name == name } else { row.name.starts_with(name.as_str()) };
        let all_are = arguments.only.is_empty() && (row.quick || !arguments.quick);
        all_are || arguments.only.iter().any(fits)
    };
    Ok(all.iter().filter(|row| wanted(row)).cloned().collect())
}

fn chosen_servers(arguments: &Arguments) -> Outcome<Vec<Name>> {
    if arguments.servers.is_empty() {
        return Ok(Name::ALL.to_vec());
    }
    let find = |word: &String| {
        let found = Name::ALL.into_iter().find(|name| name.word() == word);
        found.ok_or_else(|| format!("there is no server {word:?}; --list says which there are"))
    };
    arguments.servers.iter().map(find).collect()
}

/// The binary: named, or beside this program.
fn weir(arguments: &Arguments) -> Outcome<PathBuf> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("weir"));
    let path = match &arguments.weir {
        Some(path) => path.clone(),
        None => beside().map_err(during("this program"))?,
    };
    path.canonicalize().map_err(|error| {
        format!("{}: {error} (cargo build --release --bin weir, or --weir FILE)", path.display())
    })
}

/// One workload and what it is measured with.
struct All<'a> {
    arguments: &'a Arguments,
    workload: &'a Workload,
    servers: &'a [Name],
    dir: &'a Path,
    weir: &'a Path,
    pair: &'a Pair,
}

impl All<'_> {
    async fn measure(&self, earlier: &Results) -> Outcome<Measured> {
        let workload = self.workload;
        let dir = self.dir.join(workload.name);
        std::fs::create_dir_all(&dir).map_err(during("a directory"))?;
        crate::servers::let_in(&dir)?;
        let cores = (self.arguments.generator_core, self.arguments.server_core);
        let unknown = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let stage = Stage { workload, dir: &dir, origin: unknown, pair: self.pair, weir: self.weir, cores };
        let _origin = origin(&stage).await?;
        let list = match workload.keys.count() {
            0 | 1 => None,
            _ => Some(workload.keys.draw(
                workload.area(),
                workload.size,
                self.arguments.seed,
                &dir.join("requests"),
            )?),
        };
        let turns = Turns { stage: &stage, list, seconds: self.arguments.seconds().max(workload.seconds) };
        let takes_part = |name: &&Name| self.servers.contains(name);
        let entrants: Vec<Entrant> =
            workload.servers.iter().filter(takes_part).map(|name| Entrant::new(*name)).collect();
        let mut measured = Measured {
            name: workload.name.to_owned(),
            shows: workload.shows.to_owned(),
            rate: None,
            entrants,
        };
        if workload.alone {
            self.one_after_the_other(&turns, &mut measured, earlier).await;
        } else {
            self.interleaved(&turns, &mut measured).await;
        }
        if !self.arguments.keep {
            std::fs::remove_dir_all(&dir).ok();
        }
        Ok(measured)
    }

    fn rounds(&self) -> usize {
        self.arguments.rounds() * self.workload.weight
    }

    async fn interleaved(&self, turns: &Turns<'_>, measured: &mut Measured) {
        let mut running: Vec<Option<Server>> = Vec::new();
        for entrant in &mut measured.entrants {
            running.push(admit(turns, entrant).await);
        }
        if is_timed(self.workload.kind) {
            measured.rate = self.calibrate(turns, measured, &mut running).await;
        }
        let count = running.len().max(1);
        for round in 0..self.rounds() {
            let mut order: Vec<usize> = (0..running.len()).collect();
            order.rotate_left(round % count);
            for index in order {
                let entrant = &mut measured.entrants[index];
                let sample = match &running[index] {
                    Some(server) => self.turn(turns, server, round, measured.rate).await,
                    None => continue,
                };
                progress(self.workload, round, entrant.name, &sample);
                entrant.samples.push(sample);
            }
        }
    }

    /// Each with all its rounds, and ended before the next is started.
    async fn one_after_the_other(&self, turns: &Turns<'_>, measured: &mut Measured, earlier: &Results) {
        // They are not there together to find out what all can do: the smaller set's rate.
        measured.rate = earlier.workload("zipf-10k").and_then(|other| other.rate);
        let rounds = if is_timed(self.workload.kind) { self.rounds() } else { 1 };
        let rate = measured.rate;
        for entrant in &mut measured.entrants {
            let Some(server) = admit(turns, entrant).await else { continue };
            if is_timed(self.workload.kind)
                && let Err(error) = turns.calibrate(&server).await
            {
                leave_out(entrant, error);
                continue;
            }
            for round in 0..rounds {
                let sample = self.turn(turns, &server, round, rate).await;
                progress(self.workload, round, entrant.name, &sample);
                entrant.samples.push(sample);
            }
        }
    }

    /// Every server at full speed for a second; the fixed rate is a share of what the best peer did.
    async fn calibrate(
        &self,
        turns: &Turns<'_>,
        measured: &mut Measured,
        running: &mut [Option<Server>],
    ) -> Option<f64> {
        let mut rates: Vec<(Name, f64)> = Vec::new();
        for (entrant, server) in measured.entrants.iter_mut().zip(running) {
            let Some(found) = server else { continue };
            match turns.calibrate(found).await {
                Ok(rate) => rates.push((entrant.name, rate)),
                Err(error) => {
                    leave_out(entrant, error);
                    *server = None;
                }
            }
        }
        let best = |among: &dyn Fn(Name) -> bool| {
            rates.iter().filter(|(name, _)| among(*name)).map(|(_, rate)| *rate).max_by(f64::total_cmp)
        };
        let fastest = best(&Name::is_peer).or_else(|| best(&|_| true))?;
        Some((fastest * self.arguments.rate).max(1.0).round())
    }

    async fn turn(&self, turns: &Turns<'_>, server: &Server, round: usize, rate: Option<f64>) -> Sample {
        let label = format!("{}-{round}", server.name.word());
        let stage = turns.stage;
        let done = match self.workload.kind {
            Kind::Cold => extra::cold(server, stage, &label).await,
            Kind::Memory => extra::memory(server, stage).await,
            Kind::Idle => extra::idle(server, stage).await,
            Kind::Hit | Kind::Miss | Kind::Pass | Kind::Storm => Ok(turns.turn(server, &label, rate).await),
        };
        done.unwrap_or_else(|error| Sample { invalid: Some(error), ..Sample::default() })
    }
}

/// Requests per second are its subject.
fn is_timed(kind: Kind) -> bool {
    !matches!(kind, Kind::Cold | Kind::Memory | Kind::Idle)
}

/// Starts a server and prepares it; `None`, and the reason in its place, when that fails.
async fn admit(turns: &Turns<'_>, entrant: &mut Entrant) -> Option<Server> {
    let server = match start(entrant.name, turns.stage).await {
        Ok(server) => server,
        Err(error) => {
            leave_out(entrant, error);
            return None;
        }
    };
    match turns.prepare(&server).await {
        Ok(notes) => {
            entrant.notes.extend(notes);
            Some(server)
        }
        Err(error) => {
            leave_out(entrant, error);
            None
        }
    }
}

fn leave_out(entrant: &mut Entrant, error: String) {
    eprintln!("  {} is left out: {error}", entrant.name.word());
    entrant.left_out = Some(error);
}

fn progress(workload: &Workload, round: usize, name: Name, sample: &Sample) {
    let figure = |figure| sample.figures.get(&figure).copied();
    let mut line = format!("  {} round {}: {}", workload.name, round + 1, name.word());
    for (key, what) in [
        (Figure::Rate, "/s"),
        (Figure::CpuTogether, "µs CPU"),
        (Figure::PacedP99, "µs p99"),
        (Figure::Upstream, "at the origin"),
        (Figure::LastAnswer, "ms"),
        (Figure::EntryBytes, "bytes per entry"),
        (Figure::ConnectionBytes, "bytes per connection"),
    ] {
        if let Some(value) = figure(key) {
            line.push_str(&format!("  {value:.1} {what}"));
        }
    }
    if let Some(why) = &sample.invalid {
        line.push_str(&format!("  INVALID: {why}"));
    }
    eprintln!("{line}");
}

async fn origin(stage: &Stage<'_>) -> Outcome<Process> {
    let program = std::env::current_exe().map_err(during("this program"))?;
    let words = ["origin", "--port", &stage.origin.port().to_string()].map(str::to_owned);
    let process = stage.process("origin", stage.beside(), &program, &words)?;
    let there = until("the origin answers", START, || async {
        !process.runs() || counts(stage.origin).await.is_ok()
    });
    there.await.map_err(|error| format!("{error}\n{}", process.last_words()))?;
    if process.runs() { Ok(process) } else { Err(format!("the origin ended:\n{}", process.last_words())) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn workloads_by_name_and_by_beginning() {
        let names = |only: &str| {
            let arguments = Arguments::parse_from(["peers", "--only", only]);
            let rows = chosen_workloads(&arguments);
            rows.map(|rows| rows.iter().map(|row| row.name).collect::<Vec<_>>())
        };
        assert_eq!(names("hot").unwrap(), ["hot-1k", "hot-16k", "hot-256k"]);
        assert_eq!(names("hot-1k,cold").unwrap(), ["hot-1k", "cold"]);
        assert!(names("nothing").is_err());
        let quick = chosen_workloads(&Arguments::parse_from(["peers", "--quick"])).unwrap();
        assert!(quick.iter().any(|row| row.name == "miss-1k"));
        assert!(!quick.iter().any(|row| row.name == "miss-16k"));
        assert_eq!(
            chosen_workloads(&Arguments::parse_from(["peers", "--quick", "--only", "miss"])).unwrap().len(),
            2
        );
        let arguments = Arguments::parse_from(["peers", "--servers", "weir,bare"]);
        assert_eq!(chosen_servers(&arguments).unwrap(), [Name::Weir, Name::Bare]);
        let arguments = Arguments::parse_from(["peers", "--servers", "apache"]);
        assert!(chosen_servers(&arguments).is_err());
    }
}
