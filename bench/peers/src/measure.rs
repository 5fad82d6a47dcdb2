//! One server, one turn: at full speed, and at the fixed rate. Before that, what it needs to have in its cache.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bench_rig::{Outcome, during};
use hyper::Method;
use tokio::task::JoinSet;

use crate::client::{Door, Target, counts};
use crate::keys::{Keys, token};
use crate::load::paced::Paced;
use crate::load::{Targets, Task, full, paced};
use crate::servers::{Name, Server, Stage};
use crate::summary::{Figure, Sample};
use crate::workloads::Kind;

/// How long one server may take to be filled.
const FILLING: Duration = Duration::from_secs(300);
/// Connections that fill.
const FILLERS: usize = 32;
/// Mutations per second in a storm.
const MUTATIONS: f64 = 500.0;
/// How long requests are sent at the fixed rate before they count, seconds.
const LEAD: f64 = 0.3;
/// How long they count, as a share of the time at full speed.
const COUNTED: f64 = 0.75;

/// What all turns of a workload have in common.
#[derive(Debug)]
pub struct Turns<'a> {
    /// Its stage.
    pub stage: &'a Stage<'a>,
    /// The list of requests, where there is one.
    pub list: Option<PathBuf>,
    /// Seconds at full speed, and again at the fixed rate.
    pub seconds: u64,
}

/// Requests that were answered, and what they cost.
struct Load {
    full: crate::load::Full,
    mutations: Option<Paced>,
}

impl Turns<'_> {
    /// Fills the cache and makes sure that it answers from there. What it returns is a note for readers.
    pub async fn prepare(&self, server: &Server) -> Outcome<Vec<String>> {
        let workload = self.stage.workload;
        let mut notes = Vec::new();
        if matches!(workload.kind, Kind::Hit | Kind::Storm) {
            let targets = Arc::new(workload.keys.all(workload.area(), workload.size));
            tokio::time::timeout(FILLING, self.fill(server, &targets))
                .await
                .map_err(|_| format!("not filled within {FILLING:?}"))??;
        }
        if matches!(workload.keys, Keys::Users(_)) {
            notes.push(if keeps_users_apart(server).await? {
                "keeps users apart".to_owned()
            } else {
                "gives users each other's answers".to_owned()
            });
        }
        if workload.kind == Kind::Storm && !self.heeds_mutations(server).await? {
            return Err(
                "does not drop what it stored when a PUT for the same URL passes through it".to_owned()
            );
        }
        Ok(notes)
    }

    /// Asks for everything until nothing of it reaches the origin any more; some servers store a moment later, or at
    /// the second request.
    async fn fill(&self, server: &Server, targets: &Arc<Vec<Target>>) -> Outcome<()> {
        if server.name == Name::Bare {
            return Ok(());
        }
        let passes = if targets.len() > 50_000 { 1 } else { 6 };
        for _ in 0..passes {
            let before = counts(self.stage.origin).await?;
            ask_for_all(&server.door, targets).await?;
            if counts(self.stage.origin).await?.reads == before.reads {
                return Ok(());
            }
            // Redis and caches with files are written behind the answer.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // Whether it matters shows when it is measured.
        Ok(())
    }

    /// GET, PUT, GET: true when the last one reaches the origin.
    async fn heeds_mutations(&self, server: &Server) -> Outcome<bool> {
        let target = Target::path(format!("/o/{}/0", self.stage.workload.size));
        server.door.get(&target).await?;
        let put = server.door.ask(&Method::PUT, &target).await?;
        if !(200..300).contains(&put.status) {
            return Err(format!("answers {} to a PUT", put.status));
        }
        let before = counts(self.stage.origin).await?;
        server.door.get(&target).await?;
        Ok(counts(self.stage.origin).await?.reads > before.reads)
    }

    /// Answers per second at full speed, for one second: warms up, and says what rates are possible.
    pub async fn calibrate(&self, server: &Server) -> Outcome<f64> {
        let task = self.task(server, self.stage.workload.seconds, "calibrate");
        let full = full(&task).await?;
        if full.requests == 0 {
            return Err("answered nothing while it was warmed up".to_owned());
        }
        Ok(full.requests as f64 / full.seconds.max(1e-3))
    }

    /// One turn. `label` makes paths that are new in this turn.
    pub async fn turn(&self, server: &Server, label: &str, rate: Option<f64>) -> Sample {
        let mut sample = Sample::default();
        let done = async {
            if let Some(rate) = rate {
                self.at_rate(server, label, rate, &mut sample).await?;
            }
            self.at_full_speed(server, label, &mut sample).await
        };
        if let Err(error) = done.await {
            sample.invalid.get_or_insert(error);
        }
        if !server.runs() {
            sample.invalid = Some(format!("it ended: {}", server.last_words()));
        }
        sample
    }

    async fn at_full_speed(&self, server: &Server, label: &str, sample: &mut Sample) -> Outcome<()> {
        let task = self.task(server, self.seconds, &format!("{label}f"));
        let (before, reads) = (server.processor(), counts(self.stage.origin).await?.reads);
        let load = self.load(&task).await?;
        let after = server.processor();
        let reads = counts(self.stage.origin).await?.reads.saturating_sub(reads);
        let full = load.full;
        if full.requests == 0 {
            return Err("it answered nothing".to_owned());
        }
        let answers = (full.requests + load.mutations.as_ref().map_or(0, |paced| paced.sent)).max(1) as f64;
        let own = (after.0 - before.0) / answers * 1e6;
        let figures = &mut sample.figures;
        figures.insert(Figure::Rate, full.requests as f64 / full.seconds.max(1e-3));
        figures.insert(Figure::P50, full.p50);
        figures.insert(Figure::P99, full.p99);
        figures.insert(Figure::Cpu, own);
        figures.insert(Figure::CpuTogether, own);
        if let (Some(before), Some(after)) = (before.1, after.1) {
            let redis = (after - before) / answers * 1e6;
            figures.insert(Figure::CpuRedis, redis);
            figures.insert(Figure::CpuTogether, own + redis);
        }
        figures.insert(Figure::Memory, server.memory() as f64 / (1024.0 * 1024.0));
        figures.insert(Figure::OriginShare, reads as f64 / full.requests.max(1) as f64 * 100.0);
        let errors = full.errors + load.mutations.map_or(0, |paced| paced.errors + paced.missed);
        if errors > 0 {
            sample.invalid.get_or_insert(format!("{errors} errors in {} requests", full.requests));
        }
        self.judge(server.name, full.requests, reads, sample);
        Ok(())
    }

    /// Full speed, with mutations beside it in a storm.
    async fn load(&self, task: &Task) -> Outcome<Load> {
        if self.stage.workload.kind != Kind::Storm {
            return Ok(Load { full: full(task).await?, mutations: None });
        }
        let mutations = Task { connections: 8, ..task.clone() };
        let (full, mutations) = tokio::join!(
            full(task),
            paced::start(&mutations, MUTATIONS, (0.0, task.seconds as f64), &Method::PUT)
        );
        Ok(Load { full: full?, mutations: Some(mutations?) })
    }

    async fn at_rate(&self, server: &Server, label: &str, rate: f64, sample: &mut Sample) -> Outcome<()> {
        let task = self.task(server, self.seconds, &format!("{label}p"));
        let counted = self.seconds as f64 * COUNTED;
        let (before, reads) = (server.processor(), counts(self.stage.origin).await?.reads);
        let paced = if self.stage.workload.kind == Kind::Storm {
            let mutations = Task { connections: 8, ..task.clone() };
            let (paced, mutations) = tokio::join!(
                paced::start(&task, rate, (LEAD, counted), &Method::GET),
                paced::start(&mutations, MUTATIONS, (0.0, LEAD + counted), &Method::PUT)
            );
            mutations?;
            paced?
        } else {
            paced::start(&task, rate, (LEAD, counted), &Method::GET).await?
        };
        let after = server.processor();
        let reads = counts(self.stage.origin).await?.reads.saturating_sub(reads);
        let all = |(own, redis): (f64, Option<f64>)| own + redis.unwrap_or_default();
        let figures = &mut sample.figures;
        figures.insert(Figure::PacedP50, paced.p50);
        figures.insert(Figure::PacedP99, paced.p99);
        figures.insert(Figure::PacedLongest, paced.longest);
        figures.insert(Figure::GeneratorBusy, paced.busy * 100.0);
        figures.insert(Figure::PacedCpu, (all(after) - all(before)) / paced.sent.max(1) as f64 * 1e6);
        if paced.errors > 0 {
            sample.invalid = Some(format!("{} errors at the fixed rate", paced.errors));
        }
        self.judge(server.name, paced.sent, reads, sample);
        Ok(())
    }

    /// Were hits hits, and misses misses?
    fn judge(&self, name: Name, requests: u64, reads: u64, sample: &mut Sample) {
        let share = reads as f64 / requests.max(1) as f64;
        let wrong = match self.stage.workload.kind {
            _ if name == Name::Bare => false,
            Kind::Hit => share > 0.001,
            Kind::Miss | Kind::Pass => share < 0.99,
            _ => false,
        };
        if wrong {
            sample.invalid.get_or_insert(format!("{reads} of {requests} requests reached the origin"));
        }
    }

    fn task(&self, server: &Server, seconds: u64, label: &str) -> Task {
        let workload = self.stage.workload;
        let (area, size) = (workload.area(), workload.size);
        let targets = match (&self.list, workload.keys) {
            (_, Keys::Fresh) => Targets::Fresh(format!("/{area}/{size}/{label}-")),
            (Some(list), _) => Targets::List(list.clone()),
            (None, _) => Targets::One(format!("/{area}/{size}/0")),
        };
        Task {
            door: server.door.clone(),
            connections: workload.connections,
            streams: workload.streams,
            targets,
            seconds,
            core: self.stage.beside(),
            scratch: self.stage.dir.to_owned(),
        }
    }
}

/// Asks for each of these once; an error when one is not answered 200.
pub async fn ask_for_all(door: &Door, targets: &Arc<Vec<Target>>) -> Outcome<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut fillers = JoinSet::new();
    for _ in 0..FILLERS.min(targets.len()) {
        let (door, targets, next) = (door.clone(), Arc::clone(targets), Arc::clone(&next));
        fillers.spawn(async move {
            let mut connection = door.open().await?;
            loop {
                let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
                let status = connection.send(door.request(&Method::GET, target)?).await?;
                if status != 200 {
                    return Err(format!("{} is answered {status}", target.path));
                }
            }
        });
    }
    while let Some(done) = fillers.join_next().await {
        done.map_err(during("filling"))??;
    }
    Ok(())
}

/// True when each of two users of one URL gets what is the user's own.
async fn keeps_users_apart(server: &Server) -> Outcome<bool> {
    for user in [1, 2] {
        let who = token(user);
        let target = Target { path: "/u/1024/0".to_owned(), authorization: Some(who.clone()) };
        let answer = server.door.get(&target).await?;
        if !answer.body.windows(who.len()).any(|window| window == who.as_bytes()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A sample of these figures.
pub fn sample(figures: &[(Figure, f64)]) -> Sample {
    Sample { figures: BTreeMap::from_iter(figures.iter().copied()), invalid: None }
}
