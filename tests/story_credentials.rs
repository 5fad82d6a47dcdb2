//! `credentials = "rfc"`: unlisted traffic is shared as RFC 9111 says, and no further.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Origin, Redis, Reply, Weir};

const RFC: &str = "[defaults]\ncache = \"rfc\"\ncredentials = \"rfc\"";

/// What lets a shared cache use a response to an authorized request for another (RFC 9111 §3.5).
const LEAVES: [&str; 3] = ["public, max-age=300", "s-maxage=300", "max-age=300, must-revalidate"];

/// A backend that greets whoever asks, counts, and says this about caching.
async fn greeter(cache_control: &'static str, more: &'static [(&'static str, &'static str)]) -> Origin {
    let origin = Origin::start().await;
    let n = AtomicUsize::new(0);
    origin.on("* /*", move |seen| {
        let n = n.fetch_add(1, Ordering::SeqCst) + 1;
        let who = seen.header("authorization").or(seen.header("cookie")).unwrap_or("nobody");
        let reply = Reply::text(format!("{who} #{n}")).header("cache-control", cache_control);
        more.iter().fold(reply, |reply, (name, value)| reply.header(name, value))
    });
    origin
}

#[tokio::test]
async fn what_was_authorized_is_shared_only_by_the_backends_leave() {
    for leave in
        ["max-age=300", "max-age=300, proxy-revalidate", "private, public, max-age=300", "public, no-store"]
    {
        let origin = greeter(leave, &[]).await;
        let weir = Weir::start(&origin, RFC).await;
        for (n, who) in ["ann", "bob", "ann"].iter().enumerate() {
            let answer = weir.get("/me").bearer(who).await;
            assert_eq!(answer.assert_not_hit().text(), format!("Bearer {who} #{}", n + 1), "{leave}");
            assert!(!answer.cache().stored, "{leave}");
        }
        assert!(weir.get("/me").await.text().starts_with("nobody"), "{leave}: nor for who sends none");
    }
    for leave in LEAVES {
        let origin = greeter(leave, &[]).await;
        let weir = Weir::start(&origin, RFC).await;
        weir.get("/me").bearer("ann").await.assert_stored();
        assert_eq!(weir.get("/me").bearer("bob").await.assert_hit().text(), "Bearer ann #1", "{leave}");
        assert_eq!(weir.get("/me").await.assert_hit().text(), "Bearer ann #1", "{leave}");
    }
}

#[tokio::test]
async fn the_reason_is_told() {
    let origin = greeter("max-age=300", &[]).await;
    let weir = Weir::start(&origin, RFC).await;
    let answer = weir.get("/me").bearer("ann").await;
    assert_eq!(answer.cache().detail.as_deref(), Some("authorization"), "{answer:?}");
}

/// RFC 9111 §3.5 is about responses to authorized requests; of others any request may have the benefit (§4).
#[tokio::test]
async fn what_nobody_in_particular_got_everybody_may_get() {
    let origin = greeter("max-age=300", &[]).await;
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/me").await.assert_stored();
    assert_eq!(weir.get("/me").bearer("ann").await.assert_hit().text(), "nobody #1");
    // And who insists on the upstream's word leaves nothing of it to others.
    let fresh = weir.get("/me").bearer("ann").header("cache-control", "no-cache").await;
    assert_eq!(fresh.assert_not_hit().text(), "Bearer ann #2");
    assert_eq!(weir.get("/me").bearer("bob").await.assert_hit().text(), "nobody #1");
    // Where the backend wants them apart, they are.
    let origin = greeter("max-age=300", &[("vary", "authorization")]).await;
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/me").await.assert_stored();
    assert_eq!(weir.get("/me").bearer("ann").await.assert_not_hit().text(), "Bearer ann #2");
}

#[tokio::test]
async fn two_users_at_the_same_moment_are_two_requests() {
    for (leave, fetches) in [("max-age=300", 2), ("public, max-age=300", 1)] {
        let origin = greeter(leave, &[]).await;
        let weir = Weir::start(&origin, RFC).await;
        let hold = origin.hold_next("GET /me", 1);
        let ann = weir.get("/me").bearer("ann").spawn();
        hold.caught(1).await;
        let bob = weir.get("/me").bearer("bob").spawn();
        weir.coalesces(1).await;
        hold.release();
        assert_eq!(ann.await.unwrap().text(), "Bearer ann #1");
        let expected = if fetches == 2 { "Bearer bob #2" } else { "Bearer ann #1" };
        assert_eq!(bob.await.unwrap().text(), expected, "{leave}");
        assert_eq!(origin.count("GET /me"), fetches, "{leave}");
    }
}

#[tokio::test]
async fn a_validation_by_one_user_gives_nothing_of_his_to_others() {
    let origin = Origin::start().await;
    origin.on("GET /me", |seen| {
        let who = seen.header("authorization").unwrap_or("nobody").to_owned();
        match seen.header("if-none-match") {
            Some("\"nobody\"") if who == "nobody" => Reply::status(304).header("etag", "\"nobody\""),
            _ => Reply::text(who.clone())
                .header("etag", &format!("\"{}\"", who.replace(' ', "-")))
                .header("cache-control", "no-cache, max-age=300"),
        }
    });
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/me").await.assert_stored();
    assert_eq!(weir.get("/me").bearer("ann").await.assert_not_hit().text(), "Bearer ann");
    assert_eq!(weir.get("/me").bearer("bob").await.text(), "Bearer bob");
    let nobody = weir.get("/me").await;
    assert_eq!((nobody.text().as_str(), nobody.cache().fwd_status), ("nobody", Some(304)));
}

#[tokio::test]
async fn nothing_authorized_reaches_redis_without_leave() {
    let (origin, redis) = (greeter("max-age=300", &[]).await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, RFC).await;
    weir.get("/me").bearer("ann").await.assert_not_hit();
    weir.get("/other").await.assert_stored();
    redis.filled("unlisted", 1).await;
    let other = Weir::with_redis(&origin, &redis, RFC).await;
    assert_eq!(other.get("/me").bearer("bob").await.assert_not_hit().text(), "Bearer bob #3");
}

#[tokio::test]
async fn cookies_count_where_the_backend_says_so() {
    let origin = greeter("max-age=300", &[]).await;
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page").cookie("sid=ann").await.assert_stored();
    assert_eq!(
        weir.get("/page").cookie("sid=bob").await.assert_hit().text(),
        "sid=ann #1",
        "as the RFC has it"
    );
    for (name, value) in [("vary", "cookie"), ("set-cookie", "sid=new")] {
        let more: &'static [(&str, &str)] = Box::leak(Box::new([(name, value)]));
        let origin = greeter("max-age=300", more).await;
        let weir = Weir::start(&origin, RFC).await;
        weir.get("/page").cookie("sid=ann").await;
        assert_eq!(weir.get("/page").cookie("sid=bob").await.assert_not_hit().text(), "sid=bob #2", "{name}");
    }
    let origin = greeter("private, max-age=300", &[]).await;
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page").cookie("sid=ann").await.assert_not_hit();
    assert_eq!(weir.get("/page").cookie("sid=bob").await.assert_not_hit().text(), "sid=bob #2");
    // Unasked, credentials are not the cache's business at all.
    let origin = greeter("public, max-age=300", &[]).await;
    let careful = Weir::start(&origin, "[defaults]\ncache = \"rfc\"").await;
    for who in ["sid=ann", "sid=bob"] {
        let answer = careful.get("/page").cookie(who).await;
        assert_eq!(answer.cache().detail.as_deref(), Some("foreign-credential"), "{answer:?}");
    }
}
