//! Redis behind Sentinel: the primary is killed under load, and nobody notices but the latency.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use support::{DEADLINE, Origin, RedisWithSentinels, Weir, WeirConfig, eventually};
use tokio::task::JoinSet;

/// Without memory every hit comes from Redis.
const ITEMS: &str =
    "[cache]\nmemory = \"0\"\n[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"\nttl = \"5m\"";

async fn weir(origin: &Origin, redis: &RedisWithSentinels) -> Weir {
    WeirConfig::new(ITEMS).upstream(&origin.url()).redis_section(&redis.section()).start().await
}

/// What has been acknowledged to whom: item to version.
type Acknowledged = Arc<Mutex<HashMap<String, u64>>>;

/// Readers and a writer on one Weir. What a read brings is never older than what that Weir had acknowledged before.
struct Traffic {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicUsize>,
    hits: Arc<AtomicUsize>,
    mutations: Arc<AtomicUsize>,
    slowest: Arc<AtomicU64>,
}

impl Traffic {
    fn start(weir: &Weir, items: &[&'static str]) -> Traffic {
        let mut traffic = Traffic {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            reads: Arc::default(),
            hits: Arc::default(),
            mutations: Arc::default(),
            slowest: Arc::default(),
        };
        let acknowledged = Acknowledged::default();
        for reader in 0..4 {
            traffic.read(weir, items, reader, &acknowledged);
        }
        traffic.write(weir, items, &acknowledged);
        traffic
    }

    fn read(&mut self, weir: &Weir, items: &[&'static str], from: usize, acknowledged: &Acknowledged) {
        let (client, items, acknowledged) = (weir.client().clone(), items.to_vec(), acknowledged.clone());
        let (stop, reads, hits) = (self.stop.clone(), self.reads.clone(), self.hits.clone());
        self.tasks.spawn(async move {
            for n in from.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let item = items[n % items.len()];
                let floor = acknowledged.lock().get(item).copied().unwrap_or(0);
                let answer = client.get(&format!("/items/{item}")).await;
                let version = answer.assert_code(200).item_version();
                assert!(
                    version >= floor,
                    "{item}: read {version} after {floor} was acknowledged: {answer:?}"
                );
                reads.fetch_add(1, Ordering::SeqCst);
                hits.fetch_add(usize::from(answer.hit()), Ordering::SeqCst);
            }
        });
    }

    fn write(&mut self, weir: &Weir, items: &[&'static str], acknowledged: &Acknowledged) {
        let (client, items, acknowledged) = (weir.client().clone(), items.to_vec(), acknowledged.clone());
        let (stop, mutations, slowest) = (self.stop.clone(), self.mutations.clone(), self.slowest.clone());
        self.tasks.spawn(async move {
            for n in 0.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let item = items[n % items.len()];
                let began = Instant::now();
                let answer = client.put(&format!("/items/{item}")).await;
                let version = answer.assert_code(200).item_version();
                acknowledged.lock().insert(item.to_owned(), version);
                let took = u64::try_from(began.elapsed().as_millis()).unwrap();
                slowest.fetch_max(took, Ordering::SeqCst);
                mutations.fetch_add(1, Ordering::SeqCst);
                // Items live a while between mutations, so that there are hits.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// Waits for `n` more hits and a few more mutations; fails as soon as a task has failed.
    async fn goes_on(&mut self, n: usize) {
        let (hits, mutations) = (self.hits.load(Ordering::SeqCst), self.mutations.load(Ordering::SeqCst));
        let began = Instant::now();
        while self.hits.load(Ordering::SeqCst) < hits + n
            || self.mutations.load(Ordering::SeqCst) < mutations + 5
        {
            if let Some(ended) = self.tasks.try_join_next() {
                ended.expect("no read and no mutation failed");
            }
            assert!(
                began.elapsed() < DEADLINE,
                "not within {DEADLINE:?}: {n} more hits, five more mutations"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn end(mut self, what: &str) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no read and no mutation failed");
        }
        let count = |n: &Arc<AtomicUsize>| n.load(Ordering::SeqCst);
        println!(
            "{what}: {} reads, {} hits, {} mutations, the slowest {} ms",
            count(&self.reads),
            count(&self.hits),
            count(&self.mutations),
            self.slowest.load(Ordering::SeqCst)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_killed_under_load() {
    let (origin, mut redis) = tokio::join!(Origin::versioned(), RedisWithSentinels::start());
    let (one, two) = (weir(&origin, &redis).await, weir(&origin, &redis).await);
    let mut at_one = Traffic::start(&one, &["a", "b", "c", "d", "e"]);
    let mut at_two = Traffic::start(&two, &["v", "w", "x", "y", "z"]);
    at_one.goes_on(100).await;
    at_two.goes_on(100).await;

    let began = Instant::now();
    redis.servers[0].kill();
    let new = redis.failed_over(0).await;
    println!("failed over to server {new} after {:?}", began.elapsed());
    at_one.goes_on(100).await;
    at_two.goes_on(100).await;
    println!("hits come from the new primary after {:?}", began.elapsed());
    at_one.end("the first Weir").await;
    at_two.end("the second").await;

    // The log goes on there, and purges travel through it.
    one.get("/items/shared").await;
    two.get("/items/shared").await;
    for round in 0..3 {
        eventually("a hit at the second Weir", DEADLINE, || async { two.get("/items/shared").await.hit() })
            .await;
        let before: u64 = redis.servers[new].run(&["XLEN", "cache:log"]).await;
        let version = one.put("/items/shared").await.item_version();
        let after: u64 = redis.servers[new].run(&["XLEN", "cache:log"]).await;
        assert!(
            after > before,
            "round {round}: the log on the new primary has grown from {before} to {after}"
        );
        eventually("the second Weir has heard of it", DEADLINE, || async {
            two.get("/items/shared").await.item_version() == version
        })
        .await;
    }
    for weir in [&one, &two] {
        weir.says("the primary of the purge log is another one").await;
    }
}

/// A primary that is demoted while it lives (`SENTINEL FAILOVER`): its connections lead to a replica from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_primary_is_demoted() {
    let (origin, redis) = tokio::join!(Origin::versioned(), RedisWithSentinels::start());
    let weir = weir(&origin, &redis).await;
    let mut traffic = Traffic::start(&weir, &["a", "b", "c"]);
    traffic.goes_on(50).await;
    redis.sentinels[0].run::<()>(&["SENTINEL", "FAILOVER", "mymaster"]).await;
    let new = redis.failed_over(0).await;
    traffic.goes_on(50).await;
    traffic.end("demoted").await;
    // The old primary lives, keeps its connections for a while and refuses writes only for want of replicas.
    eventually("purges go into the log on the new primary", DEADLINE, || async {
        let before: u64 = redis.servers[new].run(&["XLEN", "cache:log"]).await;
        let version = weir.put("/items/a").await.item_version();
        assert_eq!(weir.get("/items/a").await.item_version(), version);
        redis.servers[new].run::<u64>(&["XLEN", "cache:log"]).await > before
    })
    .await;
    let (held, asked) = (redis.servers[new].entries("item").await.len(), AtomicUsize::new(0));
    eventually("entries go to the new primary", DEADLINE, || async {
        let n = asked.fetch_add(1, Ordering::SeqCst);
        weir.get(&format!("/items/new-{n}")).await.assert_code(200);
        redis.servers[new].entries("item").await.len() > held
    })
    .await;
    let followed = || async { weir.admin().get("/healthz").await.json()["redis"]["log_followed"] == true };
    eventually("the log is followed", DEADLINE, followed).await;
}
