//! Redis dead, slow, frozen, flushed, locked or full of garbage: every request is answered, and caching returns.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Client, Origin, Redis, Reply, Weir, WeirConfig, eventually, nobody, percentile};
use tokio::task::JoinHandle;

const PAGES: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page/{id}\"\nttl = \"5m\"";

/// Without memory every look-up asks Redis: what is cached then is cached there.
const REDIS_ALONE: &str =
    "[cache]\nmemory = \"0\"\n[[route]]\nname = \"page\"\nmatch = \"GET /page/{id}\"\nttl = \"5m\"";

/// Longest that a request may take while Redis is in trouble. Generous, so that a loaded machine passes; what the
/// latencies really were is printed.
const MARGIN: Duration = Duration::from_secs(10);

async fn pages() -> Origin {
    let origin = Origin::start().await;
    origin.on("GET /page/*", |seen| Reply::text(format!("page {}", seen.path)));
    origin
}

/// A client that keeps asking, for ever new and for known pages in turn, and counts.
struct Traffic {
    asking: JoinHandle<Vec<Duration>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Traffic {
    fn start(client: &Client) -> Traffic {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count, client) = (stop.clone(), answered.clone(), client.clone());
        let asking = tokio::spawn(async move {
            let mut latencies = Vec::new();
            for n in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let path = if n % 2 == 0 { format!("/page/new-{n}") } else { "/page/known".to_owned() };
                let answer = client.get(&path).await;
                assert_eq!(answer.assert_code(200).text(), format!("page {path}"));
                latencies.push(answer.elapsed);
                count.fetch_add(1, Ordering::SeqCst);
            }
            latencies
        });
        Traffic { asking, stop, answered }
    }

    /// Waits until `n` more requests were answered.
    async fn answers(&self, n: usize) {
        let from = self.answered.load(Ordering::SeqCst);
        eventually(&format!("{n} more answers"), Duration::from_secs(60), || async {
            assert!(!self.asking.is_finished(), "a request failed");
            self.answered.load(Ordering::SeqCst) >= from + n
        })
        .await;
    }

    /// Ends it, checks and prints the latencies.
    async fn end(self, what: &str) {
        self.stop.store(true, Ordering::SeqCst);
        let mut latencies = self.asking.await.expect("no request failed");
        let (p50, p99) = (percentile(&mut latencies, 0.50), percentile(&mut latencies, 0.99));
        let worst = latencies.last().copied().unwrap_or_default();
        println!("{what}: {} requests, p50 {p50:?}, p99 {p99:?}, worst {worst:?}", latencies.len());
        assert!(worst < MARGIN, "{what}: a request took {worst:?}");
    }
}

/// Waits until an answer is stored in Redis and comes from there again; prints how long that took.
async fn caching_back(what: &str, weir: &Weir) {
    let took = eventually("caching is back", Duration::from_secs(10), || async {
        weir.get("/page/back").await.assert_code(200).hit()
    })
    .await;
    println!("{what}: caching back after {took:?}");
}

/// The common course of an outage: warm, break, ask, mend, ask, caching is back.
async fn outage(what: &str, weir: &Weir, redis: &mut Redis, trouble: Trouble) {
    weir.get("/page/known").await;
    eventually("warm", Duration::from_secs(10), || async { weir.get("/page/known").await.hit() }).await;
    let before = Traffic::start(weir.client());
    before.answers(20).await;
    before.end(&format!("{what}, before")).await;
    let during = Traffic::start(weir.client());
    match trouble {
        Trouble::Killed => redis.kill(),
        Trouble::Frozen => redis.freeze(),
        Trouble::Restarted => redis.restart().await,
        Trouble::Flushed => redis.flush_all().await,
    }
    during.answers(150).await;
    during.end(&format!("{what}, during")).await;
    match trouble {
        Trouble::Killed => redis.restart().await,
        Trouble::Frozen => redis.thaw(),
        Trouble::Restarted | Trouble::Flushed => {}
    }
    caching_back(what, weir).await;
    let after = Traffic::start(weir.client());
    after.answers(20).await;
    after.end(&format!("{what}, after")).await;
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Killed,
    Frozen,
    Restarted,
    Flushed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_and_started_again() {
    let (origin, mut redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    outage("kill -9", &weir, &mut redis, Trouble::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_frozen_and_thawed() {
    let (origin, mut redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    outage("SIGSTOP", &weir, &mut redis, Trouble::Frozen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_restarted() {
    let (origin, mut redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    outage("restart", &weir, &mut redis, Trouble::Restarted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_flushed() {
    let (origin, mut redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    outage("FLUSHALL", &weir, &mut redis, Trouble::Flushed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_a_weir_with_memory() {
    let (origin, mut redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, PAGES).await;
    outage("kill -9, with memory", &weir, &mut redis, Trouble::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_frozen_and_thawed_several_times() {
    let (origin, redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    for round in 1..=3 {
        let traffic = Traffic::start(weir.client());
        redis.freeze();
        traffic.answers(30).await;
        redis.thaw();
        traffic.answers(30).await;
        traffic.end(&format!("freeze {round}")).await;
    }
    caching_back("three freezes", &weir).await;
}

#[tokio::test]
async fn redis_that_was_never_there() {
    let origin = pages().await;
    let url = format!("redis://{}/1", nobody());
    let weir = WeirConfig::new(PAGES).upstream(&origin.url()).redis_url(&url).start().await;
    for n in 0..20 {
        let answer = weir.get(&format!("/page/{n}")).await;
        assert!(answer.assert_code(200).elapsed < MARGIN, "{:?}", answer.elapsed);
    }
    assert_eq!(weir.operator().get("/readyz").await.code(), 200, "degraded is ready");
}

#[tokio::test]
async fn redis_that_comes_late_is_joined() {
    let origin = pages().await;
    let mut redis = Redis::start().await;
    redis.kill();
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    weir.get("/page/back").await.assert_code(200).assert_not_hit();
    redis.restart().await;
    caching_back("a late Redis", &weir).await;
}

#[tokio::test]
async fn a_wrong_password_costs_the_cache_and_nothing_else() {
    let origin = pages().await;
    let redis = Redis::with_password("right").await;
    let wrong =
        WeirConfig::new(REDIS_ALONE).upstream(&origin.url()).redis_url(&redis.url_with(Some("wrong")));
    let weir = wrong.start().await;
    let traffic = Traffic::start(weir.client());
    traffic.answers(50).await;
    traffic.end("wrong password").await;
    assert!(!weir.said().contains("wrong@") && !weir.said().contains(":wrong"), "secrets are not logged");
    let right = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    caching_back("the right password", &right).await;
}

#[tokio::test]
async fn garbage_under_our_names_is_a_miss_for_everybody() {
    let (origin, redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    for n in 0..10 {
        weir.get(&format!("/page/{n}")).await.assert_stored();
    }
    redis.filled("page", 10).await;
    redis.spoil("page", "\u{1}garbage\u{0}").await;
    for n in 0..10 {
        let path = format!("/page/{n}");
        assert_eq!(weir.get(&path).await.assert_not_hit().text(), format!("page {path}"));
    }
    // The log itself spoilt: another type under its name.
    for key in redis.keys("cache:*").await {
        redis.run::<()>(&["DEL", &key]).await;
        redis.run::<()>(&["SET", &key, "garbage"]).await;
    }
    let traffic = Traffic::start(weir.client());
    traffic.answers(50).await;
    traffic.end("everything spoilt").await;
    assert_eq!(weir.request("PUT", "/page/1").await.code(), 404, "mutations are answered too");
}

#[tokio::test]
async fn redis_full_to_the_brim() {
    let (origin, redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, REDIS_ALONE).await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let traffic = Traffic::start(weir.client());
    traffic.answers(50).await;
    traffic.end("out of memory").await;
    redis.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    caching_back("out of memory", &weir).await;
}

#[tokio::test]
async fn mutations_are_answered_while_redis_is_away_and_read_back_true() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    // Without memory every look-up asks Redis, so that nothing but Redis can bring something old back.
    let items =
        "[cache]\nmemory = \"0\"\n[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"\nttl = \"5m\"";
    let weir = Weir::with_redis(&origin, &redis, items).await;
    weir.get("/items/1").await.assert_stored();
    redis.filled("item", 1).await;
    redis.kill();
    for version in 2..=4 {
        let answer = weir.put("/items/1").await;
        assert_eq!(answer.assert_code(200).item_version(), version);
        println!("a mutation without Redis took {:?}", answer.elapsed);
        assert_eq!(weir.get("/items/1").await.item_version(), version);
    }
    redis.restart().await;
    for _ in 0..20 {
        assert_eq!(weir.get("/items/1").await.item_version(), 4);
    }
    // A frozen Redis keeps what it had: nothing of it may come back.
    eventually("stored again", Duration::from_secs(10), || async {
        // What memory took before Redis was joined is not written there again: ask for a new fetch.
        weir.get("/items/1").header("cache-control", "no-cache").await;
        !redis.entries("item").await.is_empty()
    })
    .await;
    redis.freeze();
    let answer = weir.put("/items/1").await;
    println!("a mutation under a frozen Redis took {:?}", answer.elapsed);
    assert_eq!(answer.assert_code(200).item_version(), 5);
    assert_eq!(weir.get("/items/1").await.item_version(), 5);
    redis.thaw();
    let thawed = Instant::now();
    while thawed.elapsed() < Duration::from_secs(1) {
        assert_eq!(weir.get("/items/1").await.item_version(), 5, "{:?} after the thaw", thawed.elapsed());
    }
}

#[tokio::test]
async fn what_memory_holds_is_purged_while_redis_is_away() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    let items = "[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"\nttl = \"5m\"";
    let weir = Weir::with_redis(&origin, &redis, items).await;
    for version in 2..=3 {
        weir.get("/items/1").await;
        weir.get("/items/1").await.assert_hit();
        if version == 2 {
            redis.freeze()
        } else {
            redis.kill()
        }
        assert_eq!(weir.put("/items/1").await.assert_code(200).item_version(), version);
        assert_eq!(weir.get("/items/1").await.assert_not_hit().item_version(), version);
        if version == 2 {
            redis.thaw()
        } else {
            redis.restart().await
        }
        eventually("caching is back", Duration::from_secs(10), || async {
            let answer = weir.get("/items/1").await;
            assert_eq!(answer.item_version(), version);
            answer.hit()
        })
        .await;
    }
}

#[tokio::test]
async fn a_flush_of_redis_voids_memory_too() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let items = "[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"\nttl = \"5m\"";
    let weir = Weir::with_redis(&origin, &redis, items).await;
    weir.get("/items/1").await.assert_stored();
    weir.get("/items/1").await.assert_hit();
    redis.flush_all().await;
    origin.bump("1");
    // The log is gone, so what was purged in between cannot be known: a new epoch, every older entry void.
    let took = eventually("the old epoch's entry is void", Duration::from_secs(10), || async {
        weir.get("/items/1").await.item_version() == 2
    })
    .await;
    println!("a flushed log was noticed within {took:?}");
}

#[tokio::test]
async fn a_second_instance_hits_what_the_first_has_filled() {
    let (origin, redis) = (pages().await, Redis::start().await);
    let one = Weir::with_redis(&origin, &redis, PAGES).await;
    one.get("/page/1").await.assert_stored();
    redis.filled("page", 1).await;
    let two = Weir::with_redis(&origin, &redis, PAGES).await;
    let first = two.get("/page/1").await;
    assert_eq!(first.assert_hit().cache().detail.as_deref(), Some("redis"));
    let second = two.get("/page/1").await;
    assert_eq!(second.assert_hit().cache().detail.as_deref(), Some("memory"), "promoted");
    assert_eq!(origin.count("/page/1"), 1);
}

#[tokio::test]
async fn promotion_keeps_the_age() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.always("GET /page/1", || Reply::text("old").header("age", "40"));
    let one = Weir::with_redis(&origin, &redis, PAGES).await;
    one.get("/page/1").await.assert_stored();
    redis.filled("page", 1).await;
    let two = Weir::with_redis(&origin, &redis, PAGES).await;
    eventually("it has aged", Duration::from_secs(10), || async {
        let age = one.get("/page/1").await.assert_hit().age().unwrap();
        assert!((40..60).contains(&age), "{age}");
        age >= 42
    })
    .await;
    for tier in ["redis", "memory"] {
        let answer = two.get("/page/1").await;
        assert_eq!(answer.assert_hit().cache().detail.as_deref(), Some(tier));
        assert!((42..60).contains(&answer.age().unwrap()), "{tier}: {answer:?}");
        assert!(answer.cache().ttl.unwrap() <= 300 - 42, "{tier}: {answer:?}");
    }
}

#[tokio::test]
async fn redis_holds_nothing_that_can_be_read_in_a_name_and_expires_by_itself() {
    let (origin, redis) = (pages().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, PAGES).await;
    weir.get("/page/very-personal?name=ann").await.assert_stored();
    redis.filled("page", 1).await;
    let key = redis.entries("page").await.remove(0);
    assert!(!key.contains("personal") && !key.contains("ann"), "{key}");
    let digest = key.rsplit(':').next().unwrap();
    assert!(digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()), "{key}");
    let left: i64 = redis.run(&["PTTL", &key]).await;
    assert!(left > 0 && left <= 10 * 60 * 1000, "it expires: {left} ms");
    // Database 0 belongs to somebody else.
    let info: String = redis.run(&["INFO", "keyspace"]).await;
    assert!(info.contains("db1:") && !info.contains("db0:"), "{info}");
}

#[tokio::test]
async fn another_prefix_is_another_cache() {
    let (origin, redis) = (pages().await, Redis::start().await);
    let prefixed = |prefix: &str| format!("[redis]\nprefix = \"{prefix}\"\n{PAGES}");
    let one = Weir::with_redis(&origin, &redis, &prefixed("one")).await;
    one.get("/page/1").await.assert_stored();
    eventually("stored", Duration::from_secs(10), || async { !redis.keys("one:page:*").await.is_empty() })
        .await;
    let two = Weir::with_redis(&origin, &redis, &prefixed("two")).await;
    two.get("/page/1").await.assert_not_hit();
}
