//! What the store tells about where Redis is: one server, sentinels, a cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::{DEADLINE, Redis, RedisCluster, RedisWithSentinels, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir::config::{Env, load_str};
use weir::metrics::Metrics;
use weir::store::{RedisHealth, Store};
use weir::time::Clock;

/// A store with this `[redis]`.
async fn store(section: &str) -> Arc<Store> {
    let text = format!("upstream = \"http://127.0.0.1:9\"\n[redis]\nconnect_timeout = \"1s\"\n{section}");
    let loaded = load_str("proxy.toml", &text, &Env::empty()).unwrap_or_else(|p| panic!("{p:?}"));
    Store::open(loaded.config.store, 7, Clock::system(), Metrics::new(&["-"])).await
}

/// Its health, once it is connected and follows the log.
async fn health(store: &Store) -> RedisHealth {
    eventually("connected, and the log is followed", DEADLINE, || async {
        let health = store.redis_health().await.unwrap();
        health.connected && health.log_followed
    })
    .await;
    store.redis_health().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server() {
    let redis = Redis::start().await;
    let store = store(&format!("url = \"{}\"\n", redis.url())).await;
    let health = health(&store).await;
    assert_eq!((health.mode, health.primary), ("standalone", Some(redis.address())));
    assert!(health.warnings.is_empty(), "{:?}", health.warnings);
    // A replica that was configured as if it were the primary.
    redis.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    eventually("a warning", DEADLINE, || async {
        let warnings = store.redis_health().await.unwrap().warnings;
        warnings.iter().any(|w| w.contains("this Redis is a replica"))
    })
    .await;
    store.close(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_sentinels() {
    let mut redis = RedisWithSentinels::start().await;
    let store = store(&redis.section()).await;
    let before = health(&store).await;
    assert_eq!((before.mode, before.primary), ("sentinel", Some(redis.servers[0].address())));
    assert!(before.warnings.is_empty(), "{:?}", before.warnings);
    redis.servers[0].run::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]).await;
    let warned = health(&store).await.warnings;
    assert!(warned.len() == 1 && warned[0].contains("min-replicas-to-write is 0"), "{warned:?}");

    redis.servers[0].kill();
    let new = redis.failed_over(0).await;
    eventually("health tells the new primary", DEADLINE, || async {
        health(&store).await.primary == Some(redis.servers[new].address())
    })
    .await;
    store.close(Duration::from_secs(1)).await;
}

/// A sentinel of few words: whatever it is asked, the primary is on that port.
async fn sentinel_that_names(port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut asked = [0; 1024];
                while stream.read(&mut asked).await.is_ok_and(|n| n > 0) {
                    let port = port.to_string();
                    let answer = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_names_a_replica_is_not_believed() {
    let primary = Redis::start().await;
    let replica = Redis::with_options(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).await;
    let (outdated, nobody) =
        (sentinel_that_names(replica.port()).await, sentinel_that_names(support::free_port()).await);
    let current = sentinel_that_names(primary.port()).await;
    let section = |sentinels: &str| format!("sentinels = [{sentinels}]\nservice = \"m\"\n");

    let misled = store(&section(&format!("\"{outdated}\""))).await;
    eventually("the reason is told", DEADLINE, || async {
        let health = misled.redis_health().await.unwrap();
        health.last_error.is_some_and(|e| e.contains("is a replica") && e.contains(&replica.address()))
    })
    .await;
    let told = store(&section(&format!("\"{outdated}\", \"{nobody}\", \"{current}\""))).await;
    assert_eq!(health(&told).await.primary, Some(primary.address()));
    for store in [misled, told] {
        store.close(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster() {
    let mut cluster = RedisCluster::start().await;
    let owner = cluster.owner("cache:log").await;
    let store = store(&cluster.section()).await;
    let health_now = health(&store).await;
    assert_eq!((health_now.mode, health_now.primary), ("cluster", Some(cluster.primaries[owner].address())));
    assert!(health_now.warnings.is_empty(), "{:?}", health_now.warnings);
    assert!(health_now.used_memory.unwrap() > 3_000_000, "three servers: {:?}", health_now.used_memory);
    cluster.add_replica(owner).await;
    let warned = health(&store).await.warnings;
    let named =
        format!("{}: Redis has replicas but min-replicas-to-write is 0", cluster.primaries[owner].address());
    assert!(warned.len() == 1 && warned[0].starts_with(&named), "{warned:?}");
    store.close(Duration::from_secs(1)).await;
}
