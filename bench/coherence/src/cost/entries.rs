//! Whether the purge of one tag takes longer when the cache holds more: from ten entries to a million.
//!
//! Each size is a set of pages of its own, fetched through the first Weir, so that they are in its memory and in
//! Redis. Then single pages' tags are purged, in turns by a mutation and by the admin listener; every one of those
//! pages must have been a hit before and must not be one afterwards. In the end one tag that the whole set carries.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::plot::{self, Series};
use super::{Bench, cells, us};
use crate::client::{Connection, Source};
use crate::histogram::Histogram;
use crate::report::{ms, table};
use crate::rig::redis::Wire;
use crate::rig::weir::{TOKEN, Weir};
use crate::rig::{Outcome, during};

/// Purges of either kind per size.
const SAMPLES: usize = 200;

/// Connections that fill.
const FILLERS: usize = 64;

/// What was measured of one size.
struct Found {
    size: usize,
    in_memory: u64,
    in_redis: u64,
    mutation: Histogram,
    admin: Histogram,
    whole: Duration,
}

/// Measures and plots; the table and the number of failed requests.
pub async fn run(bench: &Bench<'_>) -> Outcome<(String, u64)> {
    let mode = bench.arguments.mode;
    let weirs = bench.weirs(mode, "4GiB").await?;
    let (mut found, mut failed) = (Vec::new(), 0);
    let mut size = 10;
    while size <= bench.arguments.entries {
        eprintln!("{size} entries");
        let (one, errors) = measure(bench, &weirs[0], size).await?;
        found.push(one);
        failed += errors;
        size *= 10;
    }
    let mut text = format!(
        "## Purge of one tag by number of entries: {} Weirs, {}, seed {}\n\n",
        weirs.len(),
        bench.called(mode),
        bench.seed
    );
    text.push_str(&table(&rows(&found)));
    let series = |name, of: fn(&Found) -> &Histogram| Series {
        name,
        points: found.iter().map(|one| (one.size as f64, spread(of(one)))).collect(),
    };
    let by_mutation = series("by a mutation", |one| &one.mutation);
    let by_admin = series("by POST /purge", |one| &one.admin);
    for series in [&by_mutation, &by_admin] {
        let medians = series.points.iter().map(|(_, [_, median, _])| *median);
        let (least, most) = medians.fold((f64::MAX, 0.0_f64), |(a, b), m| (a.min(m), b.max(m)));
        text.push_str(&format!("\n{}: slowest median ÷ fastest: {:.2}.\n", series.name, most / least));
    }
    let title = "Purge of one tag, by number of entries in the cache";
    let path = &bench.arguments.plot;
    std::fs::write(path, plot::svg(title, &[by_mutation, by_admin])).map_err(during("the plot"))?;
    text.push_str(&format!("\nPlot: {}\n", path.display()));
    Ok((text, failed))
}

fn rows(found: &[Found]) -> Vec<Vec<String>> {
    let head = [
        "entries",
        "in memory",
        "keys in Redis",
        "mutation: median",
        "p90",
        "POST /purge: median",
        "p90",
        "all at once",
    ];
    let mut rows = vec![cells(head)];
    for one in found {
        rows.push(vec![
            one.size.to_string(),
            one.in_memory.to_string(),
            one.in_redis.to_string(),
            us(one.mutation.percentile(0.5)),
            us(one.mutation.percentile(0.9)),
            us(one.admin.percentile(0.5)),
            us(one.admin.percentile(0.9)),
            ms(one.whole),
        ]);
    }
    rows
}

/// p10, median, p90, milliseconds.
fn spread(times: &Histogram) -> [f64; 3] {
    [0.1, 0.5, 0.9].map(|share| times.percentile(share).as_secs_f64() * 1e3)
}

async fn measure(bench: &Bench<'_>, weir: &Weir, size: usize) -> Outcome<(Found, u64)> {
    let mut failed = fill(weir.address, size).await?;
    let (in_memory, in_redis) = held(bench, weir).await;
    let mut proxy = Connection::open(weir.address).await.map_err(during("connecting"))?;
    let mut admin = Connection::open(weir.admin).await.map_err(during("connecting"))?;
    let (mut by_mutation, mut by_admin) = (Histogram::default(), Histogram::default());
    for sample in 0..SAMPLES * 2 {
        // Spread over the set; a small one is used again and again, and filled again by the look afterwards.
        let path = format!("/entries/{size}/{}", sample * size / (SAMPLES * 2));
        failed += u64::from(!becomes_a_hit(&mut proxy, &path).await);
        let sent = Instant::now();
        let (answer, times) = if sample % 2 == 0 {
            (proxy.mutate(&path, "{}").await, &mut by_mutation)
        } else {
            let tag = format!("entry:{size}-{}", sample * size / (SAMPLES * 2));
            let purge = format!(r#"{{"tags":["{tag}"],"count":"none"}}"#);
            (admin.post("/purge", TOKEN, purge).await, &mut by_admin)
        };
        times.record(sent.elapsed());
        failed += u64::from(!answer.is_ok_and(|answer| answer.status == 200));
        failed += u64::from(!is_no_hit(&mut proxy, &path).await);
    }
    let sent = Instant::now();
    let answer = admin.post("/purge", TOKEN, format!(r#"{{"tags":["set:{size}"],"count":"none"}}"#)).await;
    let whole = sent.elapsed();
    failed += u64::from(!answer.is_ok_and(|answer| answer.status == 200));
    failed += u64::from(!is_no_hit(&mut proxy, &format!("/entries/{size}/0")).await);
    let found = Found { size, in_memory, in_redis, mutation: by_mutation, admin: by_admin, whole };
    Ok((found, failed))
}

/// True as soon as this page is a hit: an answer may be stored a moment after its client has it.
async fn becomes_a_hit(proxy: &mut Connection, path: &str) -> bool {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        match proxy.read(path, None).await {
            Ok(answer) if answer.status == 200 && answer.source() == Source::Hit => return true,
            Ok(answer) if answer.status == 200 => {}
            other => return failure(path, &other),
        }
    }
    failure(path, &"never became a hit")
}

/// True when this page, purged, is answered otherwise.
async fn is_no_hit(proxy: &mut Connection, path: &str) -> bool {
    match proxy.read(path, None).await {
        Ok(answer) if answer.status == 200 && answer.source() != Source::Hit => true,
        other => failure(path, &other),
    }
}

/// Says what went wrong; false.
fn failure(path: &str, what: &dyn std::fmt::Debug) -> bool {
    eprintln!("{path}: {what:?}");
    false
}

/// Reads every page of the set once; the number that failed.
async fn fill(door: SocketAddr, size: usize) -> Outcome<u64> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut fillers = JoinSet::new();
    for _ in 0..FILLERS.min(size) {
        let next = Arc::clone(&next);
        fillers.spawn(async move {
            let mut failed = 0;
            let Ok(mut connection) = Connection::open(door).await else { return 1 };
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= size {
                    return failed;
                }
                match connection.read(&format!("/entries/{size}/{n}"), None).await {
                    Ok(answer) if answer.status == 200 => {}
                    _ => failed += 1,
                }
            }
        });
    }
    let mut failed = 0;
    while let Some(done) = fillers.join_next().await {
        failed += done.map_err(during("filling"))?;
    }
    Ok(failed)
}

/// Entries in this Weir's memory and keys in Redis, those of earlier sets that are not reclaimed yet included.
async fn held(bench: &Bench<'_>, weir: &Weir) -> (u64, u64) {
    // Entries are written to Redis behind the answer: wait until their number stands still.
    let mut keys = keys(bench.redis.address()).await;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = self::keys(bench.redis.address()).await;
        if now == keys {
            break;
        }
        keys = now;
    }
    let memory = match Connection::open(weir.admin).await {
        Ok(mut admin) => admin.read("/healthz", None).await.ok(),
        Err(_) => None,
    };
    let health = memory.and_then(|answer| serde_json::from_slice::<serde_json::Value>(&answer.body).ok());
    let entries = health.and_then(|health| health["memory"]["entries"].as_u64());
    (entries.unwrap_or(0), keys)
}

/// How many keys there are in database 1.
async fn keys(redis: SocketAddr) -> u64 {
    let Ok(mut wire) = Wire::open(redis).await else { return 0 };
    if wire.ask(&["SELECT", "1"]).await.is_err() {
        return 0;
    }
    wire.ask(&["DBSIZE"]).await.ok().and_then(|reply| reply.text().parse().ok()).unwrap_or(0)
}
