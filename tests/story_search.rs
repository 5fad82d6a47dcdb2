//! `No-Vary-Search`: URLs whose difference the backend declares to be of no influence share an answer; no others do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use serde_json::json;
use support::{Origin, Redis, Reply, Weir, eventually};

const RFC: &str = "[defaults]\ncache = \"rfc\"";
const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"\norigin = \"honour\"";

/// A backend that answers with the query it was asked, and says `rule`.
async fn saying(rule: &'static str) -> Origin {
    let origin = Origin::start().await;
    origin.on("GET /page", move |seen| {
        let reply = Reply::text(seen.query.clone()).header("cache-control", "max-age=300");
        if rule.is_empty() { reply } else { reply.header("no-vary-search", rule) }
    });
    origin
}

#[tokio::test]
async fn what_is_of_no_influence_does_not_part_answers() {
    let origin = saying("params=(\"utm\")").await;
    let weir = Weir::start(&origin, RFC).await;
    let first = weir.get("/page?id=1&utm=a").await;
    assert_eq!(
        first.assert_stored().header("no-vary-search"),
        Some("params=(\"utm\")"),
        "browsers read it too"
    );
    for same in
        ["/page?id=1&utm=b", "/page?utm=c&id=1", "/page?id=1", "/page?%69d=1&utm=a", "/page?id=1&utm=a"]
    {
        assert_eq!(weir.get(same).await.assert_hit().text(), "id=1&utm=a", "{same}");
    }
    for other in ["/page?id=2&utm=a", "/page", "/page?id=1&id=1", "/page?ID=1"] {
        weir.get(other).await.assert_stored();
    }
    assert_eq!(origin.count("GET /page"), 5);
    assert_eq!(weir.client().head("/page?id=2&utm=z").await.assert_hit().code(), 200);
}

#[tokio::test]
async fn only_what_is_named_counts() {
    for rule in ["except=(\"id\")", "params, except=(\"id\")"] {
        let origin = saying(rule).await;
        let weir = Weir::start(&origin, RFC).await;
        weir.get("/page?id=1&x=1").await.assert_stored();
        weir.get("/page?id=1&y=2").await.assert_hit();
        weir.get("/page?id=2&x=1").await.assert_stored();
    }
}

#[tokio::test]
async fn what_is_malformed_parts_every_two_queries() {
    for rule in ["", "params=(utm)", "params=(\"utm\"), except=(\"id\")", "params=\"utm\"", "params=(\"utm\""]
    {
        let origin = saying(rule).await;
        let weir = Weir::start(&origin, RFC).await;
        weir.get("/page?utm=a").await.assert_stored();
        assert_eq!(weir.get("/page?utm=b").await.assert_stored().text(), "utm=b", "{rule}");
    }
}

#[tokio::test]
async fn it_counts_where_the_operator_lets_it() {
    for (setting, counts) in [
        ("origin = \"honour\"", true),
        ("origin = \"honour\"\nno_vary_search = false", false),
        ("", false),
        ("no_vary_search = true", true),
        ("origin = \"ignore\"", false),
    ] {
        let origin = saying("params=(\"utm\")").await;
        let route = PAGE.replace("origin = \"honour\"", setting);
        let weir = Weir::start(&origin, &route).await;
        weir.get("/page?utm=a").await.assert_stored();
        assert_eq!(weir.get("/page?utm=b").await.hit(), counts, "{setting}");
    }
    let origin = saying("params=(\"utm\")").await;
    let weir = Weir::start(&origin, &format!("{RFC}\nno_vary_search = false")).await;
    weir.get("/page?utm=a").await.assert_stored();
    weir.get("/page?utm=b").await.assert_not_hit();
}

#[tokio::test]
async fn a_response_that_does_not_say_so_is_not_shared() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let reply = Reply::text(seen.query.clone()).header("cache-control", "max-age=300");
        if seen.query.contains("id=1") { reply.header("no-vary-search", "params=(\"utm\")") } else { reply }
    });
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page?id=1&utm=a").await.assert_stored();
    weir.get("/page?id=1&utm=b").await.assert_hit();
    for query in ["id=2&utm=a", "id=2&utm=b"] {
        let path = format!("/page?{query}");
        assert_eq!(weir.get(&path).await.assert_stored().text(), query);
        assert_eq!(weir.get(&path).await.assert_hit().text(), query, "stored for its own query");
    }
    weir.get("/page?id=1&utm=c").await.assert_hit();
}

#[tokio::test]
async fn who_waits_by_a_rule_gets_only_what_says_the_rule() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let reply = Reply::text(seen.query.clone()).header("cache-control", "max-age=300");
        if seen.query.contains("id=2") { reply } else { reply.header("no-vary-search", "params=(\"utm\")") }
    });
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page?id=1").await.assert_stored();
    for (id, fetches) in [(3, 1), (2, 2)] {
        let before = origin.count("GET /page");
        let hold = origin.hold_next("GET /page", 1);
        let first = weir.get(&format!("/page?id={id}&utm=a")).spawn();
        hold.caught(1).await;
        let second = weir.get(&format!("/page?id={id}&utm=b")).spawn();
        weir.coalesces(1).await;
        hold.release();
        assert_eq!(first.await.unwrap().text(), format!("id={id}&utm=a"));
        let shared = if fetches == 1 { "a" } else { "b" };
        assert_eq!(second.await.unwrap().text(), format!("id={id}&utm={shared}"));
        assert_eq!(origin.count("GET /page") - before, fetches);
    }
}

#[tokio::test]
async fn another_rule_takes_the_place_of_the_first() {
    let origin = saying("params=(\"utm\")").await;
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page?utm=a").await.assert_stored();
    weir.get("/page?utm=b").await.assert_hit();
    origin.on("GET /page", |seen| {
        let reply = Reply::text(seen.query.clone()).header("cache-control", "max-age=300");
        reply.header("no-vary-search", "params=(\"ref\")")
    });
    let forced = weir.get("/page?utm=c&ref=a").header("cache-control", "no-cache").await;
    assert_eq!(forced.assert_stored().text(), "ref=a&utm=c");
    assert_eq!(weir.get("/page?utm=c&ref=b").await.assert_hit().text(), "ref=a&utm=c");
    assert_eq!(weir.get("/page?utm=d&ref=b").await.assert_stored().text(), "ref=b&utm=d");
}

#[tokio::test]
async fn two_rules_of_one_path_do_not_keep_each_other_out() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let rule = if seen.query.contains("id=1") { "params=(\"utm\")" } else { "params=(\"ref\")" };
        let reply = Reply::text(seen.query.clone()).header("cache-control", "max-age=300");
        reply.header("no-vary-search", rule)
    });
    let weir = Weir::start(&origin, RFC).await;
    for _ in 0..3 {
        for id in [1, 2] {
            assert_eq!(weir.get(&format!("/page?id={id}")).await.text(), format!("id={id}"));
        }
    }
    let asked = origin.count("GET /page");
    assert!(asked <= 4, "{asked} fetches");
    for id in [1, 2] {
        weir.get(&format!("/page?id={id}")).await.assert_hit();
    }
}

#[tokio::test]
async fn a_rule_against_the_tags_is_not_followed() {
    let origin = saying("params=(\"session\" \"utm\")").await;
    let weir = Weir::start(&origin, &format!("{PAGE}\ntags = [\"session:{{query.session}}\"]")).await;
    weir.get("/page?session=1").await.assert_stored();
    assert_eq!(weir.get("/page?session=2").await.assert_stored().text(), "session=2");
    let said = weir.says("No-Vary-Search is not followed").await;
    assert!(said.contains("session:{query.session}"), "{said}");
    assert_eq!(said.matches("is not followed").count(), 1, "once");
    weir.get("/page?session=1&utm=x").await.assert_not_hit();
}

#[tokio::test]
async fn what_is_shared_is_purged_for_all() {
    let origin = saying("params=(\"utm\")").await;
    origin.always("PUT /page", || Reply::status(204));
    let tagged = format!("{PAGE}\ntags = [\"session:{{query.session}}\"]");
    let weir = Weir::start(&origin, &tagged).await;
    weir.get("/page?session=1&utm=a").await.assert_stored();
    weir.get("/page?session=1&utm=b").await.assert_hit();
    let purged = weir.operator().post("/purge").json(&json!({"tags": ["session:1"]})).await;
    purged.assert_code(200);
    weir.get("/page?session=1&utm=b").await.assert_stored();
    weir.get("/page?session=1&utm=a").await.assert_hit();
    weir.put("/page?utm=z").await.assert_code(204);
    weir.get("/page?session=1&utm=a").await.assert_not_hit();
    // A fetch under way is overtaken under this key as under any.
    weir.get("/page?session=2&utm=a").await.assert_stored();
    let hold = origin.hold_next("GET /page", 1);
    let before = weir.get("/page?session=2&utm=b").header("cache-control", "no-cache").spawn();
    hold.caught(1).await;
    weir.put("/page").await.assert_code(204);
    hold.release();
    before.await.unwrap();
    weir.get("/page?session=2&utm=c").await.assert_not_hit();
}

#[tokio::test]
async fn subjects_share_nothing_by_a_rule() {
    let origin = saying("params=(\"utm\")").await;
    let weir = Weir::start(&origin, &format!("{PAGE}\nsubject = {{ header = \"authorization\" }}")).await;
    weir.get("/page?utm=a").bearer("ann").await.assert_stored();
    weir.get("/page?utm=b").bearer("ann").await.assert_hit();
    assert_eq!(weir.get("/page?utm=c").bearer("bob").await.assert_stored().text(), "utm=c");
    weir.get("/page?utm=d").await.assert_not_hit();
}

#[tokio::test]
async fn variants_are_told_apart_under_a_rule_too() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let language = seen.header("accept-language").unwrap_or("none");
        let reply = Reply::text(language.to_owned()).header("vary", "accept-language");
        reply.header("no-vary-search", "params=(\"utm\")").header("cache-control", "max-age=300")
    });
    let weir = Weir::start(&origin, RFC).await;
    for (language, path) in [("de", "/page?utm=1"), ("en", "/page?utm=2")] {
        weir.get(path).header("accept-language", language).await.assert_stored();
    }
    for language in ["de", "en"] {
        let answer = weir.get("/page?utm=3").header("accept-language", language).await;
        assert_eq!(answer.assert_hit().text(), language);
    }
}

#[tokio::test]
async fn a_validation_keeps_the_rule() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("etag", "\"v1\"").header("cache-control", "max-age=300"),
        _ => Reply::text("content").header("etag", "\"v1\"").header("cache-control", "max-age=0"),
    });
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page?utm=0").await;
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("etag", "\"v1\"").header("cache-control", "max-age=300"),
        _ => Reply::text("content")
            .header("etag", "\"v1\"")
            .header("cache-control", "no-cache")
            .header("no-vary-search", "params=(\"utm\")"),
    });
    weir.get("/page?utm=a").await.assert_stored();
    let validated = weir.get("/page?utm=b").await;
    assert_eq!(validated.cache().fwd_status, Some(304), "{validated:?}");
    weir.get("/page?utm=c").await.assert_hit();
}

#[tokio::test]
async fn another_instance_learns_from_what_it_finds_in_redis() {
    let redis = Redis::start().await;
    let origin = saying("params=(\"utm\")").await;
    let one = Weir::with_redis(&origin, &redis, RFC).await;
    let two = Weir::with_redis(&origin, &redis, RFC).await;
    one.get("/page?utm=a").await.assert_stored();
    eventually("the other finds it", support::DEADLINE, || async { two.get("/page?utm=a").await.hit() })
        .await;
    let asked = origin.count("GET /page");
    two.get("/page?utm=b").await.assert_hit();
    one.get("/page?utm=c").await.assert_hit();
    assert_eq!(origin.count("GET /page"), asked);
}
