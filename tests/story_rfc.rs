//! The rules of HTTP caching that hold in every mode: age, validators, ranges, stale answers, directives.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{Origin, Reply, Weir, eventually};

const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"";

async fn weir_with(origin: &Origin, settings: &str) -> Weir {
    let route = if settings.contains("ttl = ") { PAGE.replace("ttl = \"5m\"", "") } else { PAGE.to_owned() };
    Weir::start(origin, &format!("{route}\n{settings}")).await
}

#[tokio::test]
async fn age_counts_what_the_answer_brought_and_grows() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("x").header("age", "10"));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    eventually("it grows older", Duration::from_secs(10), || async {
        let answer = weir.get("/page").await;
        let (age, ttl) = (answer.assert_hit().age().unwrap(), answer.cache().ttl.unwrap());
        assert!((10..40).contains(&age), "{answer:?}");
        assert!((299..=301).contains(&(age as i64 + ttl)), "age and ttl make up the lifetime: {answer:?}");
        age >= 12
    })
    .await;
}

#[tokio::test]
async fn cache_status_tells_what_happened() {
    let origin = Origin::start().await;
    origin.counting("* /*");
    let settings = "[cache]\nname = \"edge\"\nshow_key = true\nx_cache = true";
    let weir = Weir::start(&origin, &format!("{settings}\n{PAGE}")).await;
    let miss = weir.get("/page").await;
    let status = miss.cache();
    assert_eq!(
        (status.name.as_str(), status.fwd.as_deref(), status.stored),
        ("edge", Some("uri-miss"), true)
    );
    assert_eq!(miss.header("x-cache"), Some("MISS"));
    let hit = weir.get("/page").await;
    let status = hit.cache();
    assert!(status.hit && status.fwd.is_none() && !status.stored, "{status:?}");
    assert_eq!(status.detail.as_deref(), Some("memory"));
    assert!((290..=300).contains(&status.ttl.unwrap()), "{status:?}");
    assert_eq!(status.key.as_deref().map(str::len), Some(64));
    assert_eq!(hit.header("x-cache"), Some("HIT"));
    let pass = weir.get("/unlisted").await.cache();
    assert_eq!(pass.fwd.as_deref(), Some("bypass"), "{pass:?}");
    let mutation = weir.put("/page").await.cache();
    assert_eq!(mutation.fwd.as_deref(), Some("method"), "{mutation:?}");
    let refused = weir.get("/page").bearer("x").await.cache();
    assert!(refused.fwd.is_some() && refused.detail.is_some(), "a bypass says why: {refused:?}");
    // Without being asked for, no key is shown.
    let quiet = weir_with(&origin, "").await;
    assert_eq!(quiet.get("/page").await.cache().key, None);
}

#[tokio::test]
async fn cache_status_of_caches_behind_is_kept() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("x").header("cache-status", "inner; hit"));
    let weir = weir_with(&origin, "").await;
    let answer = weir.get("/page").await;
    let lines: Vec<&str> =
        answer.headers.get_all("cache-status").iter().map(|v| v.to_str().unwrap()).collect();
    let all = lines.join(", ");
    assert!(all.starts_with("inner; hit") && all.contains("weir;"), "ours is added at the end: {all}");
}

#[tokio::test]
async fn a_client_that_has_it_gets_304() {
    let origin = Origin::start().await;
    let date = "Mon, 01 Jan 2024 00:00:00 GMT";
    origin.always("GET /page", move || {
        Reply::text("content").header("etag", "\"v1\"").header("last-modified", date)
    });
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    for (name, value, code) in [
        ("if-none-match", "\"v1\"", 304),
        ("if-none-match", "W/\"v1\"", 304),
        ("if-none-match", "\"v0\", \"v1\"", 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"v2\"", 200),
        ("if-modified-since", date, 304),
        ("if-modified-since", "Sun, 31 Dec 2023 23:59:59 GMT", 200),
        ("if-modified-since", "nonsense", 200),
    ] {
        let answer = weir.get("/page").header(name, value).await;
        assert_eq!(answer.assert_hit().code(), code, "{name}: {value}");
        assert_eq!(answer.header("etag"), Some("\"v1\""), "{name}: {value}");
        assert_eq!(answer.text(), if code == 304 { "" } else { "content" });
    }
    // The tag decides where both are given.
    let both = weir.get("/page").header("if-none-match", "\"v2\"").header("if-modified-since", date).await;
    both.assert_code(200);
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn a_conditional_client_on_a_cold_key_fills_the_whole() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        Some(_) => Reply::status(304).header("etag", "\"v1\""),
        None => Reply::text("content").header("etag", "\"v1\""),
    });
    let weir = weir_with(&origin, "").await;
    weir.get("/page").header("if-none-match", "\"v1\"").await.assert_code(304);
    assert_eq!(origin.last("/page").header("if-none-match"), None, "the fetch is for everybody");
    // From the store, or from the fill that the 304 did not wait for.
    assert_eq!(weir.get("/page").await.text(), "content");
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn a_stale_entry_is_validated_and_lives_on() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("etag", "\"v1\"").header("x-fresh", "yes"),
        _ => Reply::text("content").header("etag", "\"v1\"").header("x-fresh", "no"),
    });
    let weir = weir_with(&origin, "ttl = \"300ms\"\nkeep = \"5m\"").await;
    weir.get("/page").await.assert_stored();
    eventually("a validation", Duration::from_secs(10), || async {
        let answer = weir.get("/page").await;
        assert_eq!(answer.assert_code(200).text(), "content");
        let status = answer.cache();
        if status.hit {
            return false;
        }
        assert_eq!((status.fwd.as_deref(), status.fwd_status), (Some("stale"), Some(304)), "{answer:?}");
        assert_eq!(answer.header("x-fresh"), Some("yes"), "the 304's fields replace the stored ones");
        true
    })
    .await;
    let again = weir.get("/page").await;
    assert_eq!((again.text().as_str(), again.header("x-fresh")), ("content", Some("yes")));
    assert!(origin.seen("/page")[1..].iter().all(|s| s.header("if-none-match") == Some("\"v1\"")));
}

#[tokio::test]
async fn a_validation_that_brings_something_new_replaces_the_entry() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("old").header("etag", "\"v1\""));
    let weir = weir_with(&origin, "ttl = \"300ms\"\nkeep = \"5m\"").await;
    weir.get("/page").await.assert_stored();
    origin.always("GET /page", || Reply::text("new").header("etag", "\"v2\""));
    eventually("the new one", Duration::from_secs(10), || async { weir.get("/page").await.text() == "new" })
        .await;
    assert_eq!(origin.seen("/page")[1].header("if-none-match"), Some("\"v1\""));
    assert_eq!(weir.get("/page").await.header("etag"), Some("\"v2\""));
}

#[tokio::test]
async fn a_304_about_another_response_is_not_believed() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("old").header("etag", "\"v1\""));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        // Confused, or behind a cache that is: it vouches for something that nobody asked about.
        Some(_) => Reply::status(304).header("etag", "\"v2\""),
        None => Reply::text("new").header("etag", "\"v2\""),
    });
    let answer = weir.get("/page").header("cache-control", "no-cache").await;
    assert_eq!(answer.assert_code(200).text(), "new", "asked once more, without conditions");
    assert_eq!(origin.count("/page"), 3);
    let again = weir.get("/page").await;
    assert_eq!((again.assert_hit().text().as_str(), again.header("etag")), ("new", Some("\"v2\"")));
}

#[tokio::test]
async fn ranges_are_sliced_from_the_whole() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("0123456789").header("etag", "\"v1\""));
    let weir = weir_with(&origin, "").await;
    // A part of what is not stored is the backend's to give (this one gives the whole), and is not taken for the whole.
    let cold = weir.get("/page").header("range", "bytes=0-3").await;
    assert!([("0123456789".to_owned(), 200), ("0123".to_owned(), 206)].contains(&(cold.text(), cold.code())));
    assert_eq!(weir.get("/page").await.text(), "0123456789");
    let asked = origin.count("/page");
    for (range, content, content_range) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=4-", "456789", "bytes 4-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=8-99", "89", "bytes 8-9/10"),
    ] {
        let answer = weir.get("/page").header("range", range).await;
        assert_eq!(answer.assert_code(206).assert_hit().text(), content, "{range}");
        assert_eq!(answer.header("content-range"), Some(content_range), "{range}");
        assert_eq!(answer.header("content-length"), Some(content.len().to_string().as_str()));
    }
    let beyond = weir.get("/page").header("range", "bytes=10-").await;
    assert_eq!(beyond.assert_code(416).header("content-range"), Some("bytes */10"));
    for nonsense in ["bytes=5-2", "lines=0-1", "bytes=x"] {
        assert_eq!(weir.get("/page").header("range", nonsense).await.assert_code(200).text(), "0123456789");
    }
    let several = weir.get("/page").header("range", "bytes=0-1,8-9").await;
    assert!(several.header("content-type").unwrap().starts_with("multipart/byteranges"), "{several:?}");
    let if_range = |tag: &str| weir.get("/page").header("range", "bytes=0-1").header("if-range", tag);
    if_range("\"v1\"").await.assert_code(206);
    if_range("\"v0\"").await.assert_code(200);
    assert_eq!(origin.count("/page"), asked, "slices are cut here");
}

#[tokio::test]
async fn only_if_cached_never_goes_further() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = weir_with(&origin, "").await;
    let only = || weir.get("/page").header("cache-control", "only-if-cached");
    only().await.assert_code(504);
    assert_eq!(origin.count("/page"), 0);
    weir.get("/page").await.assert_stored();
    only().await.assert_code(200).assert_hit();
}

#[tokio::test]
async fn stale_while_revalidate_answers_at_once_and_refreshes_behind() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = weir_with(&origin, "ttl = \"300ms\"\nstale_while_revalidate = \"5m\"").await;
    weir.get("/page").await.assert_stored();
    let hold = origin.hold("GET /page");
    eventually("a stale answer while the refresh is under way", Duration::from_secs(10), || async {
        let answer = weir.get("/page").await;
        assert_eq!(answer.assert_hit().text(), "answer 1", "nobody waits");
        hold.count() == 1 && answer.cache().ttl.unwrap() < 0
    })
    .await;
    hold.release();
    eventually("the refresh shows", Duration::from_secs(10), || async {
        weir.get("/page").await.text() != "answer 1"
    })
    .await;
}

#[tokio::test]
async fn stale_if_error_stands_in_for_a_failing_backend() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("good"));
    let weir = weir_with(&origin, "ttl = \"200ms\"\nstale_if_error = \"5m\"").await;
    weir.get("/page").await.assert_stored();
    let failures: [fn() -> Reply; 4] =
        [|| Reply::status(500), || Reply::status(503), Reply::gone, || Reply::cut("ha", 10)];
    for fail in failures {
        origin.always("GET /page", fail);
        let before = origin.count("/page");
        eventually("a failed fetch", Duration::from_secs(10), || async {
            let answer = weir.get("/page").attempt().await;
            let tried = origin.count("/page") > before;
            match answer {
                Ok(answer) => assert_eq!(answer.assert_code(200).text(), "good"),
                // A body that breaks off after its head was passed on can only be a broken transfer.
                Err(_) => assert!(tried),
            }
            tried
        })
        .await;
    }
    origin.always("GET /page", || Reply::text("gone").code(404));
    eventually("an answer is an answer", Duration::from_secs(10), || async {
        weir.get("/page").await.code() == 404
    })
    .await;
}

#[tokio::test]
async fn must_revalidate_is_never_served_stale() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("good").header("cache-control", "max-age=1, must-revalidate"));
    let weir = weir_with(&origin, "stale_if_error = \"5m\"\nstale_while_revalidate = \"5m\"").await;
    weir.get("/page").await.assert_stored();
    origin.always("GET /page", || Reply::status(503));
    eventually("its freshness is over", Duration::from_secs(10), || async {
        let answer = weir.get("/page").await;
        assert!(answer.code() != 200 || answer.cache().ttl.unwrap_or(0) >= 0, "{answer:?}");
        answer.code() >= 500
    })
    .await;
}

#[tokio::test]
async fn a_client_may_ask_for_something_newer() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    for (n, (name, value)) in [
        ("cache-control", "no-cache"),
        ("cache-control", "max-age=0"),
        ("cache-control", "min-fresh=3600"),
        ("pragma", "no-cache"),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = weir.get("/page").header(name, value).await;
        assert_eq!(answer.assert_not_hit().text(), format!("answer {}", n + 2), "{value}");
        assert_eq!(answer.cache().fwd.as_deref(), Some("request"), "{value}");
        assert_eq!(
            weir.get("/page").await.assert_hit().text(),
            format!("answer {}", n + 2),
            "it replaced it"
        );
    }
    let stubborn = weir_with(&origin, "client_refresh = false").await;
    stubborn.get("/page").await.assert_stored();
    stubborn.get("/page").header("cache-control", "no-cache").await.assert_hit();
}

#[tokio::test]
async fn a_request_that_says_no_store_is_not_stored() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = weir_with(&origin, "").await;
    let answer = weir.get("/page").header("cache-control", "no-store").await;
    assert!(!answer.assert_not_hit().cache().stored);
    weir.get("/page").await.assert_not_hit();
}

#[tokio::test]
async fn missing_things_are_remembered_only_where_the_route_says_so() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("no such page").code(404));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_code(404);
    weir.get("/page").await.assert_code(404).assert_not_hit();
    let remembering = weir_with(&origin, "negative_ttl = \"1m\"").await;
    remembering.get("/page").await.assert_code(404).assert_not_hit();
    let again = remembering.get("/page").await;
    assert_eq!(again.assert_code(404).assert_hit().text(), "no such page");
    assert!(again.cache().ttl.unwrap() <= 60, "{again:?}");
    origin.always("GET /page", || Reply::status(410));
    let gone = weir_with(&origin, "negative_ttl = \"1m\"").await;
    gone.get("/page").await.assert_code(410);
    gone.get("/page").await.assert_code(410).assert_hit();
}

#[tokio::test]
async fn head_is_answered_from_the_entry_of_get() {
    let origin = Origin::start().await;
    origin.always("* /page", || Reply::text("content").header("etag", "\"v1\""));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    let head = weir.client().head("/page").await;
    assert_eq!(
        (head.assert_code(200).assert_hit().text().as_str(), head.header("content-length")),
        ("", Some("7"))
    );
    assert_eq!(head.header("etag"), Some("\"v1\""));
    assert_eq!(origin.count("/page"), 1);
    // A HEAD on a cold key is answered, and never mistaken for an empty GET.
    let cold = weir_with(&origin, "").await;
    let head = cold.client().head("/page").await;
    assert_eq!((head.code(), head.header("content-length")), (200, Some("7")));
    assert_eq!(cold.get("/page").await.text(), "content");
}

#[tokio::test]
async fn the_stricter_word_wins_by_default() {
    let origin = Origin::start().await;
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "no-store"));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await;
    weir.get("/page").await.assert_not_hit();
    let ignoring = weir_with(&origin, "origin = \"ignore\"").await;
    ignoring.get("/page").await.assert_stored();
    ignoring.get("/page").await.assert_hit();
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "max-age=7"));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    assert!(weir.get("/page").await.assert_hit().cache().ttl.unwrap() <= 7, "a shorter max-age");
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "max-age=7000"));
    let weir = weir_with(&origin, "").await;
    weir.get("/page").await.assert_stored();
    assert!(weir.get("/page").await.assert_hit().cache().ttl.unwrap() <= 300, "the operator's ttl");
    let honouring = weir_with(&origin, "origin = \"honour\"").await;
    honouring.get("/page").await.assert_stored();
    assert!(honouring.get("/page").await.assert_hit().cache().ttl.unwrap() > 6000);
}

#[tokio::test]
async fn no_cache_is_stored_and_validated_every_time() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304).header("etag", "\"v1\"").header("cache-control", "no-cache"),
        _ => Reply::text("content").header("etag", "\"v1\"").header("cache-control", "no-cache"),
    });
    let weir = weir_with(&origin, "origin = \"honour\"").await;
    weir.get("/page").await.assert_not_hit();
    for n in 2..=4 {
        let answer = weir.get("/page").await;
        assert_eq!((answer.assert_not_hit().text().as_str(), origin.count("/page")), ("content", n));
    }
}

#[tokio::test]
async fn unlisted_traffic_follows_the_rfc_where_the_operator_says_so() {
    let origin = Origin::start().await;
    origin.counting_with("GET /fresh", |reply| reply.header("cache-control", "max-age=60"));
    origin.counting("GET /silent");
    let weir = Weir::start(&origin, "[defaults]\ncache = \"rfc\"").await;
    weir.get("/fresh").await.assert_stored();
    weir.get("/fresh").await.assert_hit();
    weir.get("/silent").await;
    weir.get("/silent").await.assert_not_hit();
    let passing = Weir::start(&origin, "").await;
    passing.get("/fresh").await;
    passing.get("/fresh").await.assert_not_hit();
}

#[tokio::test]
async fn posts_that_are_reads_are_keyed_by_their_body() {
    let origin = Origin::start().await;
    origin.on("POST /graphql", |seen| Reply::text(format!("answer to {}", seen.json()["query"])));
    let route = "[[route]]\nname = \"gql\"\nmatch = \"POST /graphql\"\nttl = \"5m\"\nbody = \"graphql\"";
    let weir = Weir::start(&origin, route).await;
    let ask = |query: &str| weir.post("/graphql").json(&serde_json::json!({ "query": query }));
    ask("{ me { name } }").await.assert_stored();
    assert_eq!(ask("{ me { name } }").await.assert_hit().text(), "answer to \"{ me { name } }\"");
    assert_eq!(ask("{ me { age } }").await.assert_not_hit().text(), "answer to \"{ me { age } }\"");
    for _ in 0..2 {
        ask("mutation { rename }").await.assert_not_hit();
    }
    assert_eq!(origin.count("/graphql"), 4);
}

#[tokio::test]
async fn whoever_has_the_whole_answer_finds_it_stored() {
    // Reading tags out of this content takes long enough for a client to come back meanwhile.
    let rows: Vec<_> =
        (0..5000).map(|id| serde_json::json!({ "id": id, "name": "a row of some length" })).collect();
    let content = serde_json::json!({ "items": rows }).to_string();
    let origin = Origin::start().await;
    let whole = content.clone();
    origin.on("GET /page", move |_| Reply::text(whole.clone()));
    origin.on("GET /chunked", move |_| {
        let (sender, reply) = Reply::channel();
        sender.try_send(content.clone().into()).unwrap();
        reply
    });
    let route = PAGE.replace("GET /page", "GET /**");
    let weir = Weir::start(&origin, &format!("{route}\ntags = [\"row:{{response.items[*].id}}\"]")).await;
    for n in 0..10 {
        for path in ["/page", "/chunked"] {
            let path = format!("{path}?{n}");
            weir.get(&path).await.assert_stored();
            weir.get(&path).await.assert_hit();
        }
    }
}

#[tokio::test]
async fn a_keyed_body_that_never_comes_is_not_waited_for_without_end() {
    let origin = Origin::start().await;
    origin.counting("* /search");
    let text = "[upstream]\nfirst_byte_timeout = \"300ms\"\n\
                [[route]]\nname = \"search\"\nmatch = \"POST /search\"\nbody = \"any\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, text).await;
    let ask = "POST /search HTTP/1.1\r\nhost: api.test\r\ncontent-length: 10\r\n\r\nhalf";
    let answer = support::within("an answer, and the end", weir.client().raw(ask)).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("request-body"), "{answer}");
}

/// Only a broken backend does this; what it says must not bring an old answer back.
#[tokio::test]
async fn a_304_that_nobody_asked_for_vouches_for_nothing() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("without any validator"));
    let weir = weir_with(&origin, "ttl = \"200ms\"\nstale_if_error = \"5m\"").await;
    weir.get("/page").await.assert_stored();
    origin.always("GET /page", || Reply::status(304));
    eventually("the backend's own word", Duration::from_secs(10), || async {
        weir.get("/page").await.code() == 304
    })
    .await;
    weir.get("/page").await.assert_code(304);
}

#[tokio::test]
async fn an_error_is_kept_by_leave_and_not_where_something_stale_stands_in_for_it() {
    let origin = Origin::start().await;
    let asked = AtomicUsize::new(0);
    origin.on("GET /page", move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::text("fine").header("cache-control", "max-age=0"),
        1 => Reply::text("sorry").code(503).header("cache-control", "max-age=60"),
        _ => Reply::text("fine again").header("cache-control", "max-age=0"),
    });
    origin.always("GET /down", || Reply::text("sorry").code(503).header("cache-control", "max-age=60"));
    let text = "[defaults]\ncache = \"rfc\"\nstore_errors = true\nstale_if_error = \"1h\"";
    let weir = Weir::start(&origin, text).await;
    for expected in ["fine", "fine", "fine again"] {
        assert_eq!(weir.get("/page").await.assert_code(200).text(), expected);
    }
    weir.get("/down").await.assert_code(503).assert_not_hit();
    weir.get("/down").await.assert_code(503).assert_hit();
    let careful = Weir::start(&origin, "[defaults]\ncache = \"rfc\"").await;
    for _ in 0..2 {
        careful.get("/down").await.assert_code(503).assert_not_hit();
    }
}

/// RFC 9111 §4.3.4: what a 304 is about "MUST" take its fields, so what they forbid to store is stored no longer.
#[tokio::test]
async fn a_304_that_forbids_storing_ends_the_stored_response() {
    for forbids in ["no-store", "private", "max-age=0"] {
        let origin = Origin::start().await;
        origin.on("GET /page", move |request| match request.header("if-none-match") {
            Some(_) => Reply::status(304).header("etag", "\"v1\"").header("cache-control", forbids),
            None => Reply::text("content").header("etag", "\"v1\""),
        });
        let weir = weir_with(&origin, "keep = \"0s\"").await;
        weir.get("/page").await.assert_stored();
        weir.get("/page").await.assert_hit();
        let asked = weir.get("/page").header("cache-control", "no-cache").await;
        assert_eq!((asked.cache().fwd_status, &*asked.text()), (Some(304), "content"), "{asked:?}");
        assert!(!asked.cache().stored, "{forbids}");
        let next = weir.get("/page").await;
        assert!(!next.cache().hit, "{forbids}: {next:?}");
    }
}

/// What one client is told is no matter of the others, whose variants and whose waiting for each other stay.
#[tokio::test]
async fn a_304_that_forbids_storing_is_about_its_variant_alone() {
    for (says, ended) in [(("cache-control", "no-store"), true), (("set-cookie", "a=b"), false)] {
        let origin = Origin::start().await;
        origin.on("GET /page", move |request| match request.header("if-none-match") {
            Some(_) => Reply::status(304).header("etag", "\"v1\"").header(says.0, says.1),
            None => Reply::text("content").header("etag", "\"v1\"").header("vary", "x-a"),
        });
        let weir = weir_with(&origin, "").await;
        let one = || weir.get("/page").header("x-a", "1");
        one().await.assert_stored();
        weir.get("/page").header("x-a", "2").await.assert_stored();
        let asked = one().header("cache-control", "no-cache").await;
        assert_eq!(asked.cache().fwd_status, Some(304), "{asked:?}");
        assert_eq!(asked.header("set-cookie"), (says.0 == "set-cookie").then_some("a=b"));
        weir.get("/page").header("x-a", "2").await.assert_hit();
        assert_eq!(one().await.hit(), !ended, "{says:?}");
    }
}

#[tokio::test]
async fn who_wants_nothing_stored_does_not_part_those_who_wait_together() {
    let origin = Origin::start().await;
    origin.on("GET /page", |request| match request.header("if-none-match") {
        Some(_) => Reply::status(304),
        None => Reply::text("content").header("etag", "\"v1\""),
    });
    let text = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"1ms\"\nkeep = \"5m\"";
    let weir = Weir::start(&origin, text).await;
    weir.get("/page").await.assert_stored();
    let asked = weir.get("/page").header("cache-control", "no-store").await;
    assert_eq!(asked.cache().fwd_status, Some(304), "{asked:?}");
    let hold = origin.hold_next("GET /page", 1);
    let clients: Vec<_> = (0..4).map(|_| weir.get("/page").spawn()).collect();
    hold.caught(1).await;
    weir.coalesces(3).await;
    hold.release();
    for client in clients {
        assert_eq!(client.await.unwrap().text(), "content");
    }
}

/// RFC 9111 §4.3.4: the stored response takes the `Vary` of its 304, and no longer answers those it leaves out.
#[tokio::test]
async fn a_304_that_varies_by_more_leaves_nothing_that_varies_by_less() {
    let origin = Origin::start().await;
    origin.on("GET /page", |request| match request.header("if-none-match") {
        Some(_) => Reply::status(304).header("etag", "\"v1\"").header("vary", "x-a, x-b"),
        None => Reply::text("content").header("etag", "\"v1\"").header("vary", "x-a"),
    });
    let weir = weir_with(&origin, "").await;
    weir.get("/page").header("x-a", "1").await.assert_stored();
    weir.get("/page").header("x-a", "1").header("x-b", "2").await.assert_hit();
    let asked = weir.get("/page").header("x-a", "1").header("cache-control", "no-cache").await;
    assert!(asked.cache().stored, "{asked:?}");
    weir.get("/page").header("x-a", "1").await.assert_hit();
    let other = weir.get("/page").header("x-a", "1").header("x-b", "2").await;
    assert!(!other.cache().hit, "{other:?}");
}

#[tokio::test]
async fn what_was_validated_together_does_not_expire_together_either() {
    let origin = Origin::start().await;
    origin.on("GET /item", |seen| match seen.header("if-none-match") {
        Some(_) => Reply::status(304),
        None => Reply::text("x").header("etag", "\"1\""),
    });
    let text = "[[route]]\nname = \"item\"\nmatch = \"GET /item\"\nttl = \"100d\"\njitter = 0.5";
    let weir = Weir::start(&origin, text).await;
    weir.get("/item").await.assert_stored();
    let mut lifetimes = std::collections::BTreeSet::new();
    for _ in 0..5 {
        weir.get("/item").header("cache-control", "no-cache").await.assert_code(200);
        lifetimes.insert(weir.get("/item").await.assert_hit().cache().ttl.unwrap());
    }
    assert!(lifetimes.len() >= 4, "{lifetimes:?}");
    assert_eq!(origin.count("/item"), 6);
}
