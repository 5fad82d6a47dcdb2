//! What is overtaken by a purge: validations, stand-ins and waits under way, and what lies in Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{Origin, Redis, Reply, Weir, eventually};

/// Items by id and the list of all, purged by what changes one of them.
const ITEMS: &str = r#"
    [defaults]
    ttl = "5m"

    [[route]]
    name = "item"
    match = "GET /items/{id}"
    tags = ["item:{path.id}"]

    [[route]]
    name = "items"
    match = "GET /items"
    tags = ["items:all"]

    [[purge]]
    on = "PUT|PATCH|DELETE /items/{id}"
    tags = ["item:{path.id}", "items:all"]
"#;

/// Fetches until the answer comes from the cache, so that later misses are known to be purges.
async fn warm(weir: &Weir, paths: &[&str]) {
    for path in paths {
        weir.get(path).await;
        weir.get(path).await.assert_hit();
    }
}

/// Whether a path is answered from the cache now. Asking fills it again.
async fn cached(weir: &Weir, path: &str) -> bool {
    weir.get(path).await.hit()
}

/// Items with entity tags and, of little use, dates. A validation that fits is a 304.
async fn validated_items() -> Origin {
    let origin = Origin::start().await;
    let version = Arc::new(AtomicU64::new(1));
    let changing = version.clone();
    origin.on("PUT /items/*", move |_| {
        changing.fetch_add(1, Ordering::SeqCst);
        Reply::status(200)
    });
    origin.on("GET /items/*", move |seen| {
        let now = version.load(Ordering::SeqCst);
        let tag = format!("\"v{now}\"");
        if seen.header("if-none-match") == Some(&tag) {
            return Reply::status(304).header("etag", &tag);
        }
        let reply = Reply::json(&json!({"id": "1", "version": now})).header("etag", &tag);
        reply.header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT").header("surrogate-key", "news")
    });
    origin
}

#[tokio::test]
async fn a_validation_under_way_is_overtaken_by_a_purge() {
    let origin = validated_items().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    let hold = origin.hold_next("GET /items/1", 1);
    let before = weir.get("/items/1").header("cache-control", "no-cache").spawn();
    hold.caught(1).await;
    weir.put("/items/1").await.assert_code(200);
    hold.release();
    let before = before.await.unwrap();
    assert_eq!((before.cache().fwd_status, before.item_version()), (Some(304), 1), "it asked before");
    for _ in 0..2 {
        // The 304 was true when it was sent; what it confirmed is not true any more.
        assert_eq!(weir.get("/items/1").await.item_version(), 2);
    }
}

#[tokio::test]
async fn what_a_304_leaves_unsaid_can_still_be_purged() {
    let origin = validated_items().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    let validated = weir.get("/items/1").header("cache-control", "no-cache").await;
    assert_eq!(validated.cache().fwd_status, Some(304), "{validated:?}");
    weir.get("/items/1").await.assert_hit();
    let purged = weir.operator().post("/purge").json(&json!({"tags": ["header:news"]})).await;
    assert_eq!(purged.assert_code(200).json()["purged"], 1, "the 304 did not say `news`: {purged:?}");
    assert!(!cached(&weir, "/items/1").await);
}

#[tokio::test]
async fn a_purged_entry_is_asked_about_by_its_etag_alone() {
    let origin = validated_items().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    weir.get("/items/1").header("cache-control", "no-cache").await;
    let asked = origin.last("GET /items/1");
    assert!(asked.header("if-none-match").is_some() && asked.header("if-modified-since").is_some());
    weir.put("/items/1").await.assert_code(200);
    assert_eq!(weir.get("/items/1").await.assert_not_hit().item_version(), 2);
    let asked = origin.last("GET /items/1");
    assert_eq!(asked.header("if-none-match"), Some("\"v1\""), "the tag can still save the transfer");
    assert_eq!(
        asked.header("if-modified-since"),
        None,
        "the date could not tell one second's two versions apart"
    );
}

#[tokio::test]
async fn a_stand_in_that_was_purged_during_the_fetch_is_none() {
    let origin = Origin::versioned().await;
    let text = ITEMS.replace("ttl = \"5m\"", "ttl = \"5m\"\nstale_if_error = \"1h\"");
    let weir = Weir::start(&origin, &text).await;
    warm(&weir, &["/items/1"]).await;
    origin.always("GET /items/1", || Reply::status(503));
    let reload = || weir.get("/items/1").header("cache-control", "max-age=0");
    assert_eq!(reload().await.assert_code(200).item_version(), 1, "the entry stands in");
    let hold = origin.hold_next("GET /items/1", 1);
    let waiting = reload().spawn();
    hold.caught(1).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    hold.release();
    waiting.await.unwrap().assert_code(503);
}

#[tokio::test]
async fn who_waits_does_not_get_what_a_purge_found_only_in_the_answer() {
    let origin = Origin::versioned().await;
    origin.always("POST /touch", || Reply::status(204));
    // Which row the answer shows is known only when it is there: until then, no purge of a row voids its flight.
    let text = r#"
        [[route]]
        name = "item"
        match = "GET /items/{id}"
        ttl = "5m"
        tags = ["row:{response.id}"]
        [[purge]]
        on = "POST /touch"
        tags = ["row:{request.id}"]
    "#;
    let weir = Weir::start(&origin, text).await;
    let hold = origin.hold_next("GET /items/1", 1);
    let leader = weir.get("/items/1").spawn();
    hold.caught(1).await;
    origin.bump("1");
    weir.post("/touch").json(&json!({"id": "1"})).await.assert_code(204);
    let later: Vec<_> = (0..10).map(|_| weir.get("/items/1").spawn()).collect();
    // A stranger's round trip gives them time to join.
    weir.get("/elsewhere").await;
    hold.release();
    assert_eq!(leader.await.unwrap().item_version(), 1, "it asked before");
    for answer in later {
        assert_eq!(answer.await.unwrap().item_version(), 2, "they asked after the purge was answered");
    }
    assert_eq!(weir.get("/items/1").await.assert_hit().item_version(), 2);
}

#[tokio::test]
async fn a_purge_voids_what_redis_holds() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    // No memory: every look-up asks Redis, and nothing is removed there by the purge itself.
    let weir = Weir::with_redis(&origin, &redis, &format!("[cache]\nmemory = \"0\"\n{ITEMS}")).await;
    weir.get("/items/1").await.assert_stored();
    eventually("Redis has it", Duration::from_secs(5), || cached(&weir, "/items/1")).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    for _ in 0..5 {
        assert_eq!(weir.get("/items/1").await.item_version(), 2);
    }
}

#[tokio::test]
async fn nobody_keeps_what_a_lagging_backend_says_until_it_has_settled() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let version = Arc::new(AtomicU64::new(1));
    for path in ["GET /items/1", "GET /items"] {
        let told = version.clone();
        origin.on(path, move |_| Reply::json(&json!({"version": told.load(Ordering::SeqCst)})));
    }
    origin.always("PUT /items/1", || Reply::status(202));
    let text = format!("{ITEMS}\nsettle = \"2s\"");
    let one = Weir::with_redis(&origin, &redis, &text).await;
    let two = Weir::with_redis(&origin, &redis, &text).await;
    // The first mutation of a new log waits for its epoch to settle, as long as its tags do.
    one.put("/items/1").json(&json!({})).await.assert_code(202);
    one.put("/items/1").json(&json!({})).await.assert_code(202);
    for weir in [&one, &two, &one, &two] {
        assert!(!cached(weir, "/items").await, "every instance knows that the backend may lag");
    }
    // What the backend still says of the old comes late.
    let hold = origin.hold_next("GET /items/1", 1);
    let late = one.get("/items/1").spawn();
    hold.caught(1).await;
    version.store(2, Ordering::SeqCst);
    for weir in [&one, &two] {
        eventually("it has settled", Duration::from_secs(20), || cached(weir, "/items")).await;
    }
    hold.release();
    assert_eq!(late.await.unwrap().item_version(), 1, "the backend's own word");
    for weir in [&one, &two, &one] {
        assert_eq!(
            weir.get("/items/1").await.item_version(),
            2,
            "it was purged once more when it had settled"
        );
    }
}
