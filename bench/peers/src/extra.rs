//! Workloads that are not requests per second: one cold URL for many, memory per entry, memory per idle connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bench_rig::{Outcome, during};
use hyper::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{Connection, Target, counts};
use crate::measure::{ask_for_all, sample};
use crate::servers::{Server, Stage};
use crate::summary::{Figure, Sample};

/// Many requests at once for one URL that nobody asked for before: how many reach the origin, and when the last one is
/// answered.
pub async fn cold(server: &Server, stage: &Stage<'_>, label: &str) -> Outcome<Sample> {
    let workload = stage.workload;
    let connections = open(server, workload.connections).await?;
    let target = Target::path(format!("/{}/{}/{label}", workload.area(), workload.size));
    let before = counts(stage.origin).await?;
    let mut waiters = JoinSet::new();
    let began = Instant::now();
    for mut connection in connections {
        let request = server.door.request(&Method::GET, &target)?;
        waiters.spawn(async move { connection.send(request).await });
    }
    let mut failed = 0;
    while let Some(done) = waiters.join_next().await {
        failed += u64::from(done.map_err(during("a request"))? != Ok(200));
    }
    let last = began.elapsed();
    let upstream = counts(stage.origin).await?.reads - before.reads;
    let mut sample =
        sample(&[(Figure::Upstream, upstream as f64), (Figure::LastAnswer, last.as_secs_f64() * 1e3)]);
    if failed > 0 {
        sample.invalid = Some(format!("{failed} of {} requests failed", workload.connections));
    }
    Ok(sample)
}

/// What an entry takes beyond the bytes of its head and body.
pub async fn memory(server: &Server, stage: &Stage<'_>) -> Outcome<Sample> {
    let workload = stage.workload;
    let targets = Arc::new(workload.keys.all(workload.area(), workload.size));
    let first = targets.first().cloned().ok_or("no keys")?;
    let bytes = wire_bytes(stage, &first).await?;
    // What every request takes in the beginning (threads, buffers) is there before the first entry is.
    let warm = Arc::new(vec![Target::path("/pass/100/warm"); 20_000]);
    ask_for_all(&server.door, &warm).await?;
    let before = settled(server).await;
    ask_for_all(&server.door, &targets).await?;
    let after = settled(server).await;
    let each = (after as f64 - before as f64) / targets.len() as f64 - bytes as f64;
    let mut sample =
        sample(&[(Figure::EntryBytes, each), (Figure::Memory, after as f64 / (1024.0 * 1024.0))]);
    // Every hundredth: is it still there?
    let some = Arc::new(targets.iter().step_by(100).cloned().collect::<Vec<_>>());
    let reads = counts(stage.origin).await?.reads;
    ask_for_all(&server.door, &some).await?;
    let lost = counts(stage.origin).await?.reads - reads;
    if lost * 100 > some.len() as u64 {
        sample.invalid = Some(format!("{lost} of {} entries were not there any more", some.len()));
    }
    Ok(sample)
}

/// Some servers give a connection's buffers back only when it has been idle for a moment.
const IDLE: Duration = Duration::from_secs(5);

/// What idle connections take, each having had one answer.
pub async fn idle(server: &Server, stage: &Stage<'_>) -> Outcome<Sample> {
    let workload = stage.workload;
    let target = Target::path(format!("/{}/{}/0", workload.area(), workload.size));
    let warm = Arc::new(vec![target.clone(); 20_000]);
    ask_for_all(&server.door, &warm).await?;
    let before = settled(server).await;
    let mut connections = open(server, workload.connections).await?;
    for connection in &mut connections {
        let status = connection.send(server.door.request(&Method::GET, &target)?).await?;
        if status != 200 {
            return Err(format!("answers {status}"));
        }
    }
    tokio::time::sleep(IDLE).await;
    let after = settled(server).await;
    let each = (after as f64 - before as f64) / workload.connections as f64;
    Ok(sample(&[(Figure::ConnectionBytes, each), (Figure::Memory, after as f64 / (1024.0 * 1024.0))]))
}

async fn open(server: &Server, count: usize) -> Outcome<Vec<Connection>> {
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        // Not more at once than a listener lets wait.
        let batch = (count - connections.len()).min(100);
        let doors = (0..batch).map(|_| {
            let door = server.door.clone();
            async move { door.open().await }
        });
        for opened in doors.collect::<JoinSet<_>>().join_all().await {
            connections.push(opened?);
        }
    }
    Ok(connections)
}

/// Its memory once that stands still.
async fn settled(server: &Server) -> u64 {
    let began = Instant::now();
    let mut memory = server.memory();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = server.memory();
        let steady = now.abs_diff(memory) < (1 << 20);
        memory = now;
        if steady || began.elapsed() > Duration::from_secs(10) {
            return memory;
        }
    }
}

/// Bytes of the origin's answer, head and body.
async fn wire_bytes(stage: &Stage<'_>, target: &Target) -> Outcome<usize> {
    let exchange = async {
        let mut stream = TcpStream::connect(stage.origin).await?;
        let request = format!("GET {} HTTP/1.1\r\nHost: origin\r\nConnection: close\r\n\r\n", target.path);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.len())
    };
    exchange.await.map_err(during("the origin"))
}
