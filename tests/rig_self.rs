//! The rig tells the truth: what the stories lean on, checked directly against the origin and Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{CacheStatus, Client, Origin, RawOrigin, Redis, Reply, eventually, free_port, percentile};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn the_origin_counts_what_it_sees_and_answers_by_the_newest_handler() {
    let origin = Origin::start().await;
    let client = Client::new(origin.addr());
    assert_eq!(client.get("/a").await.code(), 404);
    origin.counting("GET /a");
    assert_eq!(client.get("/a?x=1").header("x-a", "b").await.text(), "answer 1");
    assert_eq!(client.get("/a").await.text(), "answer 2");
    origin.always("GET /a", || Reply::json(&json!({"n": 1})).header("x-b", "c"));
    let answer = client.get("/a").await;
    assert_eq!((answer.json()["n"].as_i64(), answer.header("x-b")), (Some(1), Some("c")));
    assert_eq!(origin.count("GET /a"), 4);
    assert_eq!(origin.count("POST /a"), 0);
    let second = &origin.seen("/a")[1];
    assert_eq!((second.query.as_str(), second.header("x-a")), ("x=1", Some("b")));
}

#[tokio::test]
async fn versions_rise_with_every_mutation() {
    let origin = Origin::versioned().await;
    let client = Client::new(origin.addr());
    assert_eq!(client.get("/items/7").await.item_version(), 1);
    assert_eq!(client.put("/items/7").json(&json!({"a": 1})).await.item_version(), 2);
    assert_eq!(client.get("/items/7").await.item_version(), 2);
    assert_eq!(client.get("/items").await.json()["items"][0]["version"], 2);
    assert_eq!(origin.last("PUT /items/7").json()["a"], 1);
}

#[tokio::test]
async fn a_hold_keeps_the_answer_that_was_computed_on_arrival() {
    let origin = Origin::versioned().await;
    let client = Client::new(origin.addr());
    let hold = origin.hold_next("GET /items/1", 1);
    let old = client.get("/items/1").spawn();
    hold.caught(1).await;
    client.put("/items/1").await;
    assert_eq!(client.get("/items/1").await.item_version(), 2, "the second GET is not held");
    hold.release();
    assert_eq!(old.await.unwrap().item_version(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let origin = Origin::versioned().await;
    let hold = origin.hold("GET /items/1");
    let socket = Client::new(origin.addr()).get("/items/1").and_leave_open().await;
    hold.caught(1).await;
    assert_eq!(origin.abandoned(), 0);
    drop(socket);
    eventually("the origin sees it", Duration::from_secs(5), || async { origin.abandoned() == 1 }).await;
}

#[tokio::test]
async fn answers_can_break_off() {
    let origin = Origin::start().await;
    let client = Client::new(origin.addr());
    origin.always("GET /cut", || Reply::cut("half", 8));
    origin.always("GET /chunked", || Reply::cut_chunked("half"));
    origin.always("GET /gone", Reply::gone);
    for path in ["/cut", "/chunked"] {
        let mut opened = client.get(path).open().await.unwrap();
        assert_eq!(opened.chunk().await.unwrap().unwrap(), "half", "{path}: what was sent arrives");
        opened.chunk().await.expect_err("and then it breaks off");
    }
    client.get("/gone").attempt().await.expect_err("no answer");
    let raw = client.raw("GET /cut HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(raw.contains("content-length: 8") && raw.ends_with("\r\n\r\nhalf"), "{raw}");
}

#[tokio::test]
async fn a_raw_origin_sends_what_the_story_writes() {
    let origin = RawOrigin::start(|mut stream| async move {
        let head = RawOrigin::read_head(&mut stream).await;
        assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    let addr = origin.url().trim_start_matches("http://").parse().unwrap();
    let answer = Client::new(addr).get("/x").await;
    assert_eq!((answer.text().as_str(), answer.trailers.unwrap()["x-sum"].to_str().unwrap()), ("hi", "2"));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn redis_is_killed_frozen_restarted_and_spoilt() {
    let mut redis = Redis::start().await;
    redis.run::<()>(&["SET", "cache:r:1", "v"]).await;
    assert_eq!(redis.entries("r").await, ["cache:r:1"]);
    redis.spoil("r", "garbage").await;
    assert_eq!(redis.run::<String>(&["GET", "cache:r:1"]).await, "garbage");
    redis.freeze();
    redis.thaw();
    redis.restart().await;
    assert!(redis.keys("*").await.is_empty());
    redis.kill();
    redis.restart().await;
    redis.flush_all().await;
    let locked = Redis::with_password("secret").await;
    assert!(locked.url().contains("secret") && locked.keys("*").await.is_empty());
}

#[test]
fn cache_status_is_read_as_rfc_9211_writes_it() {
    let status = CacheStatus::parse("weir; hit; ttl=-3; detail=memory; key=\"ab\"");
    assert!(status.hit && !status.stored);
    assert_eq!((status.ttl, status.key.as_deref(), status.name.as_str()), (Some(-3), Some("ab"), "weir"));
    let status = CacheStatus::parse("weir; fwd=uri-miss; fwd-status=304; stored; collapsed");
    assert_eq!((status.fwd.as_deref(), status.fwd_status), (Some("uri-miss"), Some(304)));
    assert!(status.stored && status.collapsed && !status.hit);
}

#[test]
fn ports_and_percentiles() {
    assert_ne!(free_port(), free_port());
    let mut times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
    assert_eq!(percentile(&mut times, 0.99), Duration::from_millis(99));
    assert_eq!(percentile(&mut [], 0.5), Duration::ZERO);
}
