//! Others write to Redis too, and what they write is not always good: nobody is answered with anything older for it,
//! and the cache comes back by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Forwarder, Origin, Redis, Weir, WeirConfig, eventually};

/// Items by id, purged by what changes one of them.
const ITEMS: &str = r#"
    [defaults]
    ttl = "5m"
    [[route]]
    name = "item"
    match = "GET /items/{id}"
    tags = ["item:{path.id}"]
    [[purge]]
    on = "PUT /items/{id}"
    tags = ["item:{path.id}"]
"#;

/// [`ITEMS`] with these lines in `[cache]`.
fn items(cache: &str) -> String {
    format!("[cache]\n{cache}\n{ITEMS}")
}

async fn change(weir: &Weir) -> u64 {
    weir.put("/items/1").json(&json!({})).await.assert_code(200).item_version()
}

/// Asks until the answer comes from the cache.
async fn warm(weir: &Weir) {
    eventually("a hit", support::DEADLINE, || async { weir.get("/items/1").await.hit() }).await;
}

/// Whoever is late for a purge from outside has appended nothing, whatever has been appended since: that is others'.
#[tokio::test]
async fn purges_from_outside_that_others_take_up_hide_no_purge() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = items("lease = \"2s\"");
    let (a, b) =
        (Weir::with_redis(&origin, &redis, &text).await, Weir::with_redis(&origin, &redis, &text).await);
    let mut connection = redis.connection().await.unwrap();
    let mut outside = async || {
        for _ in 0..6 {
            let mut purge = redis::cmd("XADD");
            purge.arg("{cache:log}:inbox").arg("*").arg("tag").arg("item:2");
            purge.query_async::<()>(&mut connection).await.unwrap();
        }
    };
    for round in 0..400 {
        b.get("/items/1").await;
        let (made, ()) = tokio::join!(change(&a), outside());
        let seen = b.get("/items/1").await;
        assert_eq!(seen.item_version(), made, "round {round}: {seen:?}");
    }
}

/// One that waits for nobody may not answer where others count on being waited for.
#[tokio::test]
async fn an_eventual_instance_answers_nothing_among_strong_ones() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let a = Weir::with_redis(&origin, &redis, &items("lease = \"300ms\"")).await;
    let b = Weir::with_redis(&origin, &redis, &items("lease = \"300ms\"\ncoherence = \"eventual\"")).await;
    warm(&a).await;
    b.says("differs from what").await;
    for _ in 0..3 {
        let answer = b.get("/items/1").await;
        assert!(!answer.hit(), "{answer:?}");
        assert_eq!(answer.cache().detail.as_deref(), Some("no-lease"));
    }
    drop(a);
    eventually("it is the only one left", support::DEADLINE, || async { b.get("/items/1").await.hit() })
        .await;
}

/// A registration that vanished is not one that was given up: its lease still runs.
#[tokio::test]
async fn members_that_vanish_are_a_new_epoch() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = items("lease = \"3s\"");
    let wire = Forwarder::to(redis.port()).await;
    let a = Weir::with_redis(&origin, &redis, &text).await;
    let b = WeirConfig::new(&text).upstream(&origin.url()).redis_url(&wire.redis_url()).start().await;
    change(&a).await;
    for spoil in [&["DEL", "{cache:log}:members"][..], &["HSET", "{cache:log}:members", "ff", "x"]] {
        warm(&b).await;
        wire.cut();
        redis.run::<redis::Value>(spoil).await;
        let made = change(&a).await;
        let seen = b.get("/items/1").await;
        assert_eq!(seen.item_version(), made, "{spoil:?}: {seen:?}");
        wire.mend();
    }
}

/// Whatever somebody makes of the log's keys, it heals.
#[tokio::test]
async fn spoilt_keys_of_the_log_heal() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = items("lease = \"300ms\"");
    let a = Weir::with_redis(&origin, &redis, &text).await;
    let b = Weir::with_redis(&origin, &redis, &text).await;
    for spoil in [
        &["SET", "cache:log", "x"][..],
        &["SET", "{cache:log}:state", "x"],
        &["SET", "{cache:log}:members", "x"],
        &["SET", "{cache:log}:intents", "x"],
        &["SET", "{cache:log}:acks", "x"],
        &["SET", "{cache:log}:inbox", "x"],
        &["HSET", "{cache:log}:members", "garbage", "x"],
        &["HSET", "{cache:log}:members", "00000000000000ff", "7"],
        &["HSET", "{cache:log}:intents", "00000000000000ff:1", "garbage"],
        &["HSET", "{cache:log}:state", "turn", "x"],
        &["HSET", "{cache:log}:state", "settled", "x"],
        &["HSET", "{cache:log}:state", "mode", "x"],
        &["XADD", "{cache:log}:acks", "*", "m", "x"],
    ] {
        redis.run::<redis::Value>(spoil).await;
        for weir in [&a, &b] {
            eventually(&format!("{spoil:?}: a hit"), support::DEADLINE, || async {
                weir.get("/items/1").await.hit()
            })
            .await;
        }
        eventually(&format!("{spoil:?}: a mutation waits for nobody"), support::DEADLINE, || async {
            let began = std::time::Instant::now();
            let made = change(&a).await;
            let took = began.elapsed();
            assert_eq!(b.get("/items/1").await.item_version(), made, "{spoil:?}");
            took < Duration::from_millis(200)
        })
        .await;
        eventually(&format!("{spoil:?}: all is well"), support::DEADLINE, || async {
            a.admin().get("/healthz").await.json()["status"] == "ok"
        })
        .await;
    }
}

/// A mutation whose purge is in the log and only waits for others is not recorded anew when contact was lost meanwhile:
/// nobody would take it out again.
#[tokio::test]
async fn no_intent_outlives_its_mutation() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = items("lease = \"2s\"");
    let a = Weir::with_redis(&origin, &redis, &text).await;
    let b = Weir::with_redis(&origin, &redis, &text).await;
    change(&a).await;
    warm(&b).await;
    b.freeze();
    let waiting = a.put("/items/1").json(&json!({})).spawn();
    eventually("the purge is in the log", support::DEADLINE, || async {
        redis.run::<u64>(&["XLEN", "cache:log"]).await == 2
    })
    .await;
    redis.run::<redis::Value>(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    waiting.await.unwrap().assert_code(200);
    b.thaw();
    change(&a).await;
    assert_eq!(redis.run::<u64>(&["HLEN", "{cache:log}:intents"]).await, 0);
}
