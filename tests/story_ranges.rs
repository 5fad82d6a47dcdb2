//! Parts of what is not stored: when the whole is fetched for them, and when not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use bytes::Bytes;
use support::{Answer, Origin, Reply, Weir};

const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /**\"\nttl = \"5m\"";

/// A backend that knows ranges (of ten bytes from the start): `/small`, `/large`, and `/unsized`, which does not tell
/// its length.
async fn ranged() -> Origin {
    let origin = Origin::start().await;
    for (path, size) in [("/small", 1000usize), ("/large", 100_000)] {
        origin.on(&format!("GET {path}"), move |seen| match seen.header("range") {
            Some(_) => Reply::text("x".repeat(10))
                .code(206)
                .header("content-range", &format!("bytes 0-9/{size}"))
                .header("etag", "\"v1\""),
            None => Reply::text("x".repeat(size)).header("etag", "\"v1\""),
        });
    }
    origin.on("GET /unsized", |_| {
        let (sender, reply) = Reply::channel();
        sender.try_send(Bytes::from("x".repeat(100_000))).unwrap();
        reply
    });
    origin
}

async fn part(weir: &Weir, path: &str) -> Answer {
    let answer = weir.get(path).header("range", "bytes=0-9").await;
    assert_eq!(answer.assert_code(206).body.len(), 10, "{answer:?}");
    answer
}

#[tokio::test]
async fn the_whole_is_fetched_for_a_part_unless_the_operator_says_otherwise() {
    let origin = ranged().await;
    let weir = Weir::start(&origin, PAGE).await;
    for path in ["/small", "/large", "/unsized"] {
        assert!(part(&weir, path).await.cache().stored, "{path}");
        assert_eq!(origin.last(path).header("range"), None, "{path}");
        part(&weir, path).await.assert_hit();
        weir.get(path).await.assert_hit();
        assert_eq!(origin.count(path), 1, "{path}");
    }
}

#[tokio::test]
async fn a_part_may_be_passed_on() {
    let origin = ranged().await;
    let weir = Weir::start(&origin, &format!("{PAGE}\nfetch_whole = false")).await;
    for n in 1..=2 {
        let passed = part(&weir, "/small").await;
        assert_eq!(passed.assert_not_hit().cache().detail.as_deref(), Some("range"));
        assert_eq!(origin.last("/small").header("range"), Some("bytes=0-9"));
        assert_eq!(origin.count("/small"), n);
    }
    // Once somebody has fetched the whole, parts are cut from it.
    weir.get("/small").await.assert_stored();
    part(&weir, "/small").await.assert_hit();
    assert_eq!(origin.count("/small"), 3);
}

#[tokio::test]
async fn what_is_stale_is_validated_for_a_part_too() {
    let origin = Origin::start().await;
    origin.on("GET /small", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("etag", "\"v1\""),
        _ => Reply::text("x".repeat(100)).header("etag", "\"v1\""),
    });
    let weir = Weir::start(&origin, &format!("{PAGE}\nfetch_whole = false")).await;
    weir.get("/small").await.assert_stored();
    let asked = weir.get("/small").header("range", "bytes=0-9").header("cache-control", "no-cache").await;
    assert_eq!((asked.code(), asked.cache().fwd_status, asked.body.len()), (206, Some(304), 10));
}

#[tokio::test]
async fn a_part_may_be_worth_the_whole_up_to_a_size() {
    let origin = ranged().await;
    let weir = Weir::start(&origin, &format!("{PAGE}\nfetch_whole = \"10KB\"")).await;
    assert!(part(&weir, "/small").await.cache().stored);
    assert_eq!(origin.count("/small"), 1);
    let large = part(&weir, "/large").await;
    assert!(!large.cache().stored, "{large:?}");
    assert_eq!(origin.count("/large"), 2, "the whole was looked at, and the part asked for");
    assert_eq!(origin.last("/large").header("range"), Some("bytes=0-9"));
    part(&weir, "/large").await;
    assert_eq!(origin.count("/large"), 3, "now it is known");
    // Who wants the whole gets it, and it is kept: parts are then cut from it.
    weir.get("/large").await.assert_stored();
    part(&weir, "/large").await.assert_hit();
    // Nobody knows beforehand how large this is.
    assert!(part(&weir, "/unsized").await.cache().stored);
}
