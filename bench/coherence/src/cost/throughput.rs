//! How many purges per second, and what happens to memory meanwhile: by the admin listener, then by mutations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Bench, cells, mib, us};
use crate::client::Connection;
use crate::histogram::Histogram;
use crate::random::Random;
use crate::report::table;
use crate::rig::weir::{TOKEN, Weir};
use crate::rig::{Outcome, during};

/// What is hoped for.
const WANTED: f64 = 10_000.0;

/// Tags that are purged, in turn by chance.
const TAGS: usize = 1_000_000;

/// More events than Weir's log keeps: when there have been so many, the log has its full size.
const WARM_UP: u64 = 60_000;

/// How long that may take.
const WARM_UP_LIMIT: Duration = Duration::from_secs(120);

/// Memory that grows by no more than this while it is measured is flat.
const FLAT: f64 = 0.05;

/// How purges come in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Admin,
    Mutation,
}

/// Memory of every process, named, bytes.
type Memory = Vec<(String, u64)>;

/// Measures; the tables and the number of failed requests.
pub async fn run(bench: &Bench<'_>) -> Outcome<(String, u64)> {
    let mode = bench.arguments.mode;
    let weirs = bench.weirs(mode, "64MiB").await?;
    let mut text = format!(
        "## Purges per second: {} Weirs, {}, {} clients, seed {}\n\n",
        weirs.len(),
        bench.called(mode),
        bench.arguments.concurrency,
        bench.seed
    );
    let mut rows = vec![cells(["by", "purges", "per second", "slowest second", "p50", "p99", "errors"])];
    let mut rest = String::new();
    let mut failed = 0;
    for (kind, name) in [(Kind::Admin, "POST /purge"), (Kind::Mutation, "mutations")] {
        let found = measure(bench, &weirs, kind).await?;
        failed += found.errors;
        rows.push(vec![
            name.to_owned(),
            found.times.count().to_string(),
            format!("{:.0}", found.rate),
            found.slowest.to_string(),
            us(found.times.percentile(0.5)),
            us(found.times.percentile(0.99)),
            found.errors.to_string(),
        ]);
        let reached = if found.rate >= WANTED { "reached" } else { "**not reached**" };
        rest.push_str(&format!("\n{name}: {WANTED:.0} per second {reached}. Memory:\n\n"));
        rest.push_str(&memory_table(&found.memory));
    }
    text.push_str(&table(&rows));
    text.push_str(&rest);
    Ok((text, failed))
}

struct Found {
    times: Histogram,
    rate: f64,
    slowest: u64,
    errors: u64,
    /// At the start, when the log was full, at the end.
    memory: [Memory; 3],
}

async fn measure(bench: &Bench<'_>, weirs: &[Weir], kind: Kind) -> Outcome<Found> {
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = memory(bench, weirs).await;
    let mut clients = JoinSet::new();
    for n in 0..bench.arguments.concurrency {
        let weir = &weirs[n % weirs.len()];
        let door = if kind == Kind::Admin { weir.admin } else { weir.address };
        let random = Random::new(bench.seed, (7 << 40) + n as u64);
        clients.spawn(purge(kind, door, random, Arc::clone(&stop), Arc::clone(&done)));
    }
    let warming = Instant::now();
    while done.load(Ordering::Relaxed) < WARM_UP && warming.elapsed() < WARM_UP_LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let warm = memory(bench, weirs).await;
    let (began, first) = (Instant::now(), done.load(Ordering::Relaxed));
    let (mut slowest, mut before) = (u64::MAX, first);
    for second in 1..=bench.arguments.seconds.max(1) {
        tokio::time::sleep(Duration::from_secs(second).saturating_sub(began.elapsed())).await;
        let now = done.load(Ordering::Relaxed);
        slowest = slowest.min(now - before);
        before = now;
    }
    let rate = (before - first) as f64 / began.elapsed().as_secs_f64();
    let end = memory(bench, weirs).await;
    stop.store(true, Ordering::Relaxed);
    let (mut times, mut errors) = (Histogram::default(), 0);
    while let Some(client) = clients.join_next().await {
        let (counted, failed) = client.map_err(during("a client"))?;
        times.add(&counted);
        errors += failed;
    }
    Ok(Found { times, rate, slowest, errors, memory: [start, warm, end] })
}

async fn purge(
    kind: Kind,
    door: SocketAddr,
    mut random: Random,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> (Histogram, u64) {
    let (mut times, mut errors) = (Histogram::default(), 0);
    let mut open = None;
    while !stop.load(Ordering::Relaxed) {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => match Connection::open(door).await {
                Ok(connection) => connection,
                Err(_) => {
                    errors += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let number = random.below(TAGS);
        let sent = Instant::now();
        let answer = match kind {
            Kind::Admin => {
                let body = format!(r#"{{"tags":["entry:p-{number}"]}}"#);
                connection.post("/purge", TOKEN, body).await
            }
            Kind::Mutation => connection.mutate(&format!("/entries/p/{number}"), "{}").await,
        };
        match answer {
            Ok(answer) if answer.status == 200 => {
                times.record(sent.elapsed());
                done.fetch_add(1, Ordering::Relaxed);
                open = Some(connection);
            }
            _ => errors += 1,
        }
    }
    (times, errors)
}

async fn memory(bench: &Bench<'_>, weirs: &[Weir]) -> Memory {
    let resident = |n: usize, weir: &Weir| (format!("Weir {n}"), weir.process.resident().unwrap_or(0));
    let mut all: Memory = weirs.iter().enumerate().map(|(n, weir)| resident(n + 1, weir)).collect();
    all.push(("Redis".to_owned(), bench.redis.process().resident().unwrap_or(0)));
    all.push(("Redis: used_memory".to_owned(), bench.redis.info("used_memory").await.unwrap_or(0)));
    all
}

fn memory_table([start, warm, end]: &[Memory; 3]) -> String {
    let mut rows = vec![cells(["resident", "before", "log full", "at the end", "growth since then", ""])];
    for ((name, before), ((_, middle), (_, last))) in start.iter().zip(warm.iter().zip(end)) {
        let growth = (*last as f64 / (*middle).max(1) as f64) - 1.0;
        let flat = if growth <= FLAT { "flat" } else { "**grows**" };
        rows.push(vec![
            name.clone(),
            mib(*before),
            mib(*middle),
            mib(*last),
            format!("{:+.1} %", growth * 100.0),
            flat.to_owned(),
        ]);
    }
    table(&rows)
}
