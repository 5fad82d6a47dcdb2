//! One race: rig, clients, faults, then the audit; and what came of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, JoinSet};

use crate::arguments::{Arguments, Fault, Mode, Peer, Unreachable};
use crate::backend::Backend;
use crate::faults::{self, Breakable, Store};
use crate::ledger::Ledger;
use crate::load::{Habits, Scene, audit, reader, writer};
use crate::rig::forward::Forwarder;
use crate::rig::redis::{Redis, Sentinels};
use crate::rig::varnish::Varnish;
use crate::rig::weir::{Log, Settings, Weir};
use crate::rig::{Outcome, during};
use crate::sabotage::Saboteur;
use crate::tally::Tally;
use crate::world::World;

/// What came of a race.
#[derive(Debug)]
pub struct Finish {
    /// Everything counted.
    pub tally: Tally,
    /// Examples, diary, instances.
    pub scene: Arc<Scene>,
    /// How long it took.
    pub took: Duration,
    /// How often something was broken.
    pub faults: u64,
    /// Pages that were outdated when all had been still for a while, and pages looked at.
    pub audit: (u64, u64),
    /// Old answers served on purpose, where that was asked for.
    pub sabotage: Option<u64>,
}

/// What is behind the doors. Dropped, it ends.
enum Behind {
    Weirs(Arc<Breakable>),
    Varnish { _process: Varnish },
}

/// Runs one.
pub async fn run(arguments: &Arguments, seed: u64, dir: &Path) -> Outcome<Finish> {
    let world = World::new(arguments.items);
    let backend = Backend::new(world, arguments.delay, seed);
    let upstream = backend.serve().await.map_err(during("the backend"))?;
    let ledger = Arc::new(Ledger::new(world.items()));
    let (behind, mut doors) = match arguments.peer {
        Some(Peer::Varnish) => {
            let varnish = Varnish::start(dir, upstream).await?;
            let doors = vec![("varnish".to_owned(), varnish.address)];
            (Behind::Varnish { _process: varnish }, doors)
        }
        None => {
            let rig = weirs(arguments, upstream, dir).await?;
            let doors = rig.weirs.iter().enumerate();
            let doors = doors.map(|(n, weir)| (format!("weir-{}", n + 1), weir.address)).collect();
            (Behind::Weirs(Arc::new(rig)), doors)
        }
    };
    let mut saboteur = None;
    if arguments.sabotage {
        let started = Saboteur::start(doors[0].1, Arc::clone(&ledger), seed).await;
        let (it, address) = started.map_err(during("the saboteur"))?;
        doors[0].1 = address;
        saboteur = Some(it);
    }
    let habits = Habits {
        write_pause: arguments.write_pause,
        conditional: arguments.conditional,
        may_refuse: arguments.unreachable == Unreachable::Refuse,
    };
    let scene = Arc::new(Scene::new(ledger, world, backend, doors, arguments.zipf, seed, habits));
    race(arguments, scene, &behind, saboteur).await
}

async fn weirs(arguments: &Arguments, backend: std::net::SocketAddr, dir: &Path) -> Outcome<Breakable> {
    let store = if arguments.without_redis {
        Store::None
    } else if arguments.faults.contains(&Fault::Failover) {
        Store::Sentinels(Sentinels::start(dir, arguments.replicas).await?)
    } else {
        Store::Single(Redis::start("redis", dir, &[]).await?)
    };
    let settings = settings(arguments, arguments.mode, backend);
    let (mut weirs, mut forwarders) = (Vec::new(), Vec::new());
    for n in 1..=arguments.instances {
        let log = match &store {
            Store::None => Log::Memory,
            Store::Sentinels(sentinels) => Log::Sentinels(sentinels.addresses()),
            Store::Single(redis) => {
                let started = Forwarder::start(redis.address()).await;
                let forwarder = started.map_err(during("a forwarder"))?;
                let log = Log::Redis(forwarder.address());
                forwarders.push(forwarder);
                log
            }
        };
        weirs.push(Weir::start(&format!("weir-{n}"), dir, &settings, &log).await?);
    }
    Ok(Breakable { store, weirs, forwarders, lease: arguments.lease })
}

/// What the command line says of Weirs.
pub fn settings(arguments: &Arguments, mode: Mode, backend: std::net::SocketAddr) -> Settings {
    Settings {
        binary: std::path::absolute(&arguments.weir).unwrap_or_else(|_| arguments.weir.clone()),
        backend,
        coherence: (!arguments.old).then_some(mode.word()),
        lease: arguments.lease,
        unreachable: arguments.unreachable.word(),
        prefix: "cache",
        memory: "256MiB",
    }
}

async fn race(
    arguments: &Arguments,
    scene: Arc<Scene>,
    behind: &Behind,
    saboteur: Option<Arc<Saboteur>>,
) -> Outcome<Finish> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for number in 0..arguments.readers as u64 {
        clients.spawn(reader(Arc::clone(&scene), number));
    }
    for number in 0..arguments.writers as u64 {
        clients.spawn(writer(Arc::clone(&scene), number));
    }
    let enough = Arc::new(AtomicBool::new(false));
    let mut breaking = breaking(arguments, &scene, behind, &enough);
    wait(arguments, &scene, began, breaking.as_ref()).await;
    enough.store(true, Ordering::Relaxed);
    // Everything is mended before the clients go.
    let (mut tally, faults) = match breaking.take() {
        Some(task) => task.await.map_err(during("breaking things"))??,
        None => (Tally::new(scene.doors.len()), 0),
    };
    scene.stop.store(true, Ordering::Relaxed);
    while let Some(counted) = clients.join_next().await {
        tally.add(&counted.map_err(during("a client"))?);
    }
    let took = began.elapsed();
    tokio::time::sleep(arguments.lease * 2 + Duration::from_secs(1)).await;
    let audit = audit(&scene).await;
    let sabotage = saboteur.map(|it| it.served());
    Ok(Finish { tally, scene, took, faults, audit, sabotage })
}

type Breaking = JoinHandle<Outcome<(Tally, u64)>>;

fn breaking(
    arguments: &Arguments,
    scene: &Arc<Scene>,
    behind: &Behind,
    enough: &Arc<AtomicBool>,
) -> Option<Breaking> {
    match behind {
        Behind::Weirs(rig) if arguments.faults.iter().any(|fault| *fault != Fault::None) => {
            let (scene, rig) = (Arc::clone(scene), Arc::clone(rig));
            let plan = arguments.faults.clone();
            Some(tokio::spawn(faults::run(scene, rig, plan, arguments.every, Arc::clone(enough))))
        }
        _ => None,
    }
}

/// Until there is enough, or what breaks things cannot go on; tells every five seconds how it goes.
async fn wait(arguments: &Arguments, scene: &Scene, began: Instant, breaking: Option<&Breaking>) {
    let mut told = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let reads = scene.reads.load(Ordering::Relaxed);
        let (seconds, of) = (began.elapsed().as_secs(), Ordering::Relaxed);
        if seconds >= told + 5 {
            told = seconds;
            let (stale, errors) = (scene.stale.load(of), scene.errors.load(of));
            eprintln!("{seconds:4} s: {reads} reads, {stale} stale, {errors} errors");
        }
        let done = arguments.reads.map_or(seconds >= arguments.seconds, |wanted| reads >= wanted);
        if done || breaking.is_some_and(JoinHandle::is_finished) {
            return;
        }
    }
}
