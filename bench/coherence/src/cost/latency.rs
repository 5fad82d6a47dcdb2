//! What `strong` adds to a mutation: the same mutations to Weirs of either mode, in turns, and PINGs between them.
//!
//! Both sets of Weirs run the whole time on one Redis, and the turns are short, so that whatever else the machine does
//! falls on all of them alike.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{Bench, cells, us};
use crate::arguments::Mode;
use crate::client::Connection;
use crate::histogram::Histogram;
use crate::random::Random;
use crate::report::table;
use crate::rig::redis::Wire;
use crate::rig::{Outcome, during};

/// Requests per writer and turn.
const TURN: u64 = 100;

/// What may be added at the 99th percentile, besides one round trip to Redis.
const ALLOWANCE: Duration = Duration::from_millis(2);

/// Measures; the table and the number of failed requests.
pub async fn run(bench: &Bench<'_>) -> Outcome<(String, u64)> {
    let modes: &[Mode] = if bench.arguments.old { &[Mode::Strong] } else { &[Mode::Strong, Mode::Eventual] };
    let mut weirs = Vec::new();
    for mode in modes {
        weirs.push(bench.weirs(*mode, "64MiB").await?);
    }
    let doors: Vec<Vec<SocketAddr>> =
        weirs.iter().map(|set| set.iter().map(|weir| weir.address).collect()).collect();
    let mut text = format!(
        "## What a mutation costs: {} Weirs per mode, healthy, backend without delay, seed {}\n\n",
        bench.arguments.instances, bench.seed
    );
    let mut rows = vec![cells(["writers", "what", "number", "p50", "p90", "p99", "longest"])];
    let (mut notes, mut failed) = (String::new(), 0);
    for writers in [1u64, 8] {
        let mut times = vec![Histogram::default(); modes.len()];
        let mut pings = Histogram::default();
        // One turn to warm up connections, not counted.
        for turn in 0..=bench.arguments.mutations.div_ceil(TURN * writers) {
            for (mode, doors) in doors.iter().enumerate() {
                let (counted, errors) = mutate(bench, doors, writers, turn).await?;
                failed += errors;
                if turn > 0 {
                    times[mode].add(&counted);
                }
            }
            let counted = ping(bench.redis.address(), writers).await?;
            if turn > 0 {
                pings.add(&counted);
            }
        }
        for (mode, times) in modes.iter().zip(&times) {
            rows.push(row(writers, bench.called(*mode), times));
        }
        rows.push(row(writers, "PING to Redis", &pings));
        if let [strong, eventual] = &times[..] {
            notes.push_str(&verdict(writers, strong, eventual, &pings));
        }
    }
    text.push_str(&table(&rows));
    text.push_str(&notes);
    Ok((text, failed))
}

fn row(writers: u64, what: &str, times: &Histogram) -> Vec<String> {
    let at = |share| us(times.percentile(share));
    let (number, longest) = (times.count().to_string(), us(times.longest()));
    vec![writers.to_string(), what.to_owned(), number, at(0.5), at(0.9), at(0.99), longest]
}

fn verdict(writers: u64, strong: &Histogram, eventual: &Histogram, pings: &Histogram) -> String {
    let added = |share| strong.percentile(share).saturating_sub(eventual.percentile(share));
    let allowed = pings.percentile(0.5) + ALLOWANCE;
    let kept = if added(0.99) <= allowed { "kept" } else { "**not kept**" };
    format!(
        "\n{writers} writers: strong adds {} at p50 and {} at p99; at most {} (a PING's p50 + {ALLOWANCE:?}): {kept}.\n",
        us(added(0.5)),
        us(added(0.99)),
        us(allowed)
    )
}

/// One turn of all writers.
async fn mutate(
    bench: &Bench<'_>,
    doors: &[SocketAddr],
    writers: u64,
    turn: u64,
) -> Outcome<(Histogram, u64)> {
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let (doors, items) = (doors.to_vec(), bench.arguments.items);
        let random = Random::new(bench.seed, turn * 64 + writer);
        tasks.spawn(writes(doors, items, random));
    }
    let (mut times, mut failed) = (Histogram::default(), 0);
    while let Some(done) = tasks.join_next().await {
        let (counted, errors) = done.map_err(during("a writer"))?;
        times.add(&counted);
        failed += errors;
    }
    Ok((times, failed))
}

async fn writes(doors: Vec<SocketAddr>, items: usize, mut random: Random) -> (Histogram, u64) {
    let (mut times, mut failed) = (Histogram::default(), 0);
    let mut connections = Vec::new();
    for door in &doors {
        match Connection::open(*door).await {
            Ok(connection) => connections.push(connection),
            Err(_) => return (times, TURN),
        }
    }
    for _ in 0..TURN {
        let path = format!("/items/{}", random.below(items));
        let door = random.below(connections.len());
        let sent = Instant::now();
        match connections[door].mutate(&path, "{}").await {
            Ok(answer) if answer.status == 200 => times.record(sent.elapsed()),
            _ => failed += 1,
        }
    }
    (times, failed)
}

/// As many PINGs at once as there are writers.
async fn ping(redis: SocketAddr, writers: u64) -> Outcome<Histogram> {
    let mut tasks = JoinSet::new();
    for _ in 0..writers {
        tasks.spawn(async move {
            let mut times = Histogram::default();
            let mut wire = Wire::open(redis).await?;
            for _ in 0..TURN {
                let sent = Instant::now();
                wire.ask(&["PING"]).await?;
                times.record(sent.elapsed());
            }
            Outcome::Ok(times)
        });
    }
    let mut times = Histogram::default();
    while let Some(done) = tasks.join_next().await {
        times.add(&done.map_err(during("a PING"))??);
    }
    Ok(times)
}
