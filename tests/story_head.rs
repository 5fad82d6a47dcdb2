//! HEAD: answered from GET's entry, and what its own response tells of that entry.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Answer, Origin, Redis, Reply, Weir, eventually};

const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"\nkeep = \"5m\"";

/// The stored page, and its backend.
async fn stored(settings: &str, page: fn() -> Reply) -> (Origin, Weir) {
    let origin = Origin::start().await;
    origin.always("GET /page", page);
    let weir = Weir::start(&origin, &format!("{PAGE}\n{settings}")).await;
    weir.get("/page").await.assert_stored();
    (origin, weir)
}

fn v1() -> Reply {
    Reply::text("content").header("etag", "\"v1\"").header("surrogate-key", "news").header("x-from", "get")
}

/// A HEAD that the stored response may not answer.
async fn insisting(weir: &Weir) -> Answer {
    weir.client().head("/page").header("cache-control", "no-cache").await
}

fn detail(answer: &Answer) -> String {
    answer.cache().detail.unwrap_or_default()
}

#[tokio::test]
async fn a_head_that_may_not_be_stored_for_its_own_sake_says_nothing_about_others() {
    let (origin, weir) = stored("", v1).await;
    origin.always("HEAD /page", || Reply::text("content").header("etag", "\"v2\""));
    let head = weir.client().head("/page").header("cache-control", "no-cache, no-store").await;
    assert_eq!((head.header("etag"), &*detail(&head)), (Some("\"v2\""), "head"));
    weir.get("/page").await.assert_hit();
    assert_eq!(detail(&insisting(&weir).await), "head-stale", "for anybody's sake");
    weir.get("/page").await.assert_not_hit();
}

#[tokio::test]
async fn a_head_freshens_what_is_stored() {
    let (origin, weir) = stored("origin = \"honour\"", || v1().header("cache-control", "max-age=1")).await;
    origin.always("HEAD /page", || {
        v1().header("x-from", "head").header("cache-control", "max-age=300").header("content-type", "x/y")
    });
    eventually("a head that goes upstream", Duration::from_secs(10), || async {
        let head = weir.client().head("/page").await;
        assert_eq!(head.assert_code(200).header("surrogate-key"), None);
        !head.hit() && detail(&head) == "head-freshened"
    })
    .await;
    let page = weir.get("/page").await;
    assert_eq!((page.assert_hit().text().as_str(), page.header("content-type")), ("content", None));
    let from: Vec<_> = page.headers.get_all("x-from").iter().collect();
    assert_eq!(
        from.last().unwrap().to_str().unwrap(),
        "head",
        "the head's fields take the stored ones' place"
    );
    assert!(page.cache().ttl.unwrap() > 200, "{page:?}");
    assert_eq!(origin.count("GET /page"), 1);
    // The head named its tags again, and the stored response's still count.
    let purged = weir.operator().post("/purge").json(&json!({"tags": ["news"]})).await;
    assert_eq!(purged.json()["purged"], 1, "{purged:?}");
    weir.get("/page").await.assert_not_hit();
}

#[tokio::test]
async fn a_head_that_names_no_tags_takes_none_away() {
    let (origin, weir) = stored("", v1).await;
    origin.always("HEAD /page", || Reply::text("content").header("etag", "W/\"v1\""));
    assert_eq!(detail(&insisting(&weir).await), "head-freshened");
    weir.get("/page").await.assert_hit();
    let purged = weir.operator().post("/purge").json(&json!({"tags": ["news"]})).await;
    assert_eq!(purged.json()["purged"], 1, "{purged:?}");
    weir.get("/page").await.assert_not_hit();
}

#[tokio::test]
async fn a_head_of_another_content_makes_the_stored_one_stale() {
    for other in [
        || Reply::text("content").header("etag", "\"v2\""),
        || Reply::text("contents").header("etag", "\"v1\""),
        || v1().header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        || v1().header("cache-control", "no-store"),
    ] {
        let (origin, weir) = stored("stale_if_error = \"5m\"", v1).await;
        origin.always("HEAD /page", other);
        assert_eq!(detail(&insisting(&weir).await), "head-stale");
        // Not even in place of an error; but its tag may be asked about.
        origin.always("GET /page", || Reply::status(503));
        assert_eq!(weir.get("/page").await.code(), 503);
        assert_eq!(origin.last("GET /page").header("if-none-match"), Some("\"v1\""));
        origin.always("GET /page", || Reply::text("new").header("etag", "\"v2\""));
        assert_eq!(weir.get("/page").await.assert_stored().text(), "new");
        assert_eq!(weir.get("/page").await.assert_hit().text(), "new");
    }
}

#[tokio::test]
async fn a_head_that_proves_nothing_changes_nothing() {
    for (told, code) in [
        (|| Reply::text("content"), 200),
        (|| Reply::status(404).header("etag", "\"v2\""), 404),
        (|| v1().header("set-cookie", "a=b"), 200),
    ] as [(fn() -> Reply, u16); 3]
    {
        let (origin, weir) = stored("", v1).await;
        origin.always("HEAD /page", told);
        let head = insisting(&weir).await;
        assert_eq!((head.code(), detail(&head).as_str()), (code, "head"));
        let page = weir.get("/page").await;
        assert_eq!(page.assert_hit().header("x-from"), Some("get"));
    }
    // Who forbids storing does not make anything stored, fresher or staler.
    let (origin, weir) = stored("", v1).await;
    origin.always("HEAD /page", || v1().header("x-from", "head"));
    let head = weir.client().head("/page").header("cache-control", "no-cache, no-store").await;
    assert_eq!(detail(&head), "head");
    weir.get("/page").await.assert_hit();
}

#[tokio::test]
async fn a_head_goes_as_it_is_keyed_and_without_conditions() {
    let origin = Origin::start().await;
    origin.always("* /page", || v1().header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT"));
    let weir = Weir::start(&origin, &format!("{PAGE}\nquery = {{ ignore = [\"utm\"] }}")).await;
    let head = weir
        .client()
        .head("/page?b=1&utm=x&a=2")
        .header("if-none-match", "\"v1\"")
        .header("range", "bytes=0-1")
        .await;
    let asked = origin.last("HEAD /page");
    assert_eq!(asked.query, "a=2&b=1", "what is not keyed is not forwarded");
    assert!(asked.header("if-none-match").is_none() && asked.header("range").is_none());
    assert_eq!(head.assert_code(304).header("etag"), Some("\"v1\""), "the client's condition is judged here");
    let whole = weir.client().head("/page").await;
    assert_eq!((whole.code(), whole.header("content-length")), (200, Some("7")));
    weir.get("/page").await.assert_stored();
}

#[tokio::test]
async fn a_head_under_way_is_overtaken_by_a_purge() {
    let (origin, weir) = stored("", v1).await;
    origin.always("HEAD /page", v1);
    let hold = origin.hold_next("HEAD /page", 1);
    let head = weir.client().head("/page").header("cache-control", "no-cache").spawn();
    hold.caught(1).await;
    origin.always("PUT /page", || Reply::status(204));
    weir.put("/page").await.assert_code(204);
    hold.release();
    assert_eq!(detail(&head.await.unwrap()), "head", "what is void is not revived");
    weir.get("/page").await.assert_not_hit();
}

#[tokio::test]
async fn no_head_revives_what_a_purge_has_voided() {
    let (origin, weir) = stored("", v1).await;
    origin.always("HEAD /page", v1);
    origin.always("PUT /page", || Reply::status(204));
    weir.put("/page").await.assert_code(204);
    assert_eq!(detail(&weir.client().head("/page").await), "head");
    weir.get("/page").await.assert_not_hit();
    // A soft purge says that it is out of date, too.
    let soft = "[[purge]]\non = \"PUT /page\"\npaths = [\"/page\"]\nsoft = true";
    let (origin, weir) = stored(soft, v1).await;
    origin.always("HEAD /page", v1);
    origin.always("PUT /page", || Reply::status(204));
    weir.put("/page").await.assert_code(204);
    assert_eq!(detail(&weir.client().head("/page").await), "head");
    weir.get("/page").await.assert_not_hit();
}

#[tokio::test]
async fn a_head_says_nothing_about_what_came_after_it() {
    let (origin, weir) = stored("", v1).await;
    origin.always("HEAD /page", v1);
    let hold = origin.hold_next("HEAD /page", 1);
    let head = weir.client().head("/page").header("cache-control", "no-cache").spawn();
    hold.caught(1).await;
    origin.always("GET /page", || Reply::text("new").header("etag", "\"v2\""));
    assert_eq!(weir.get("/page").header("cache-control", "no-cache").await.text(), "new");
    hold.release();
    assert_eq!(detail(&head.await.unwrap()), "head");
    assert_eq!(weir.get("/page").await.assert_hit().text(), "new");
}

#[tokio::test]
async fn a_stored_response_stands_in_for_a_head_that_fails() {
    let (origin, weir) =
        stored("stale_if_error = \"5m\"", || v1().header("cache-control", "max-age=1")).await;
    for failure in [|| Reply::status(503), Reply::gone] as [fn() -> Reply; 2] {
        origin.always("* /page", failure);
        eventually("a stand-in", Duration::from_secs(10), || async {
            let head = weir.client().head("/page").await;
            assert_eq!(head.assert_code(200).header("content-length"), Some("7"));
            detail(&head) == "stale-if-error"
        })
        .await;
    }
    let insists = insisting(&weir).await;
    assert_eq!(insists.code(), 502, "who wants the upstream's own word gets it");
}

#[tokio::test]
async fn what_lies_in_redis_is_freshened_whole() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.always("GET /page", v1);
    let alone = format!("[cache]\nmemory = \"0\"\n{PAGE}");
    let (one, two) =
        (Weir::with_redis(&origin, &redis, &alone).await, Weir::with_redis(&origin, &redis, &alone).await);
    one.get("/page").await.assert_stored();
    redis.filled("page", 1).await;
    origin.always("HEAD /page", || Reply::text("content").header("etag", "\"v1\"").header("x-from", "head"));
    assert_eq!(detail(&insisting(&one).await), "head-freshened");
    for weir in [&one, &two] {
        eventually("the new fields", support::DEADLINE, || async {
            let page = weir.get("/page").await;
            assert_eq!(page.assert_hit().text(), "content");
            page.header("x-from") == Some("head")
        })
        .await;
    }
    assert_eq!(origin.count("GET /page"), 1);
    // Overtaken by a purge that comes by way of another instance.
    origin.always("PUT /page", || Reply::status(204));
    let hold = origin.hold_next("HEAD /page", 1);
    let head = one.client().head("/page").header("cache-control", "no-cache").spawn();
    hold.caught(1).await;
    two.put("/page").await.assert_code(204);
    hold.release();
    assert_eq!(detail(&head.await.unwrap()), "head");
    origin.always("GET /page", || Reply::text("new").header("etag", "\"v2\""));
    for weir in [&one, &two] {
        assert_eq!(weir.get("/page").await.text(), "new");
    }
}
