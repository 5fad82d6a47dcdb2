//! The standards around RFC 9111: QUERY, 421, `Cache-Status` of several caches, `Cache-Groups`, tags, trailers, and the
//! fields that mean less than they seem to.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use support::{Answer, Origin, RawOrigin, Reply, Weir, eventually};
use tokio::io::AsyncWriteExt;

const RFC: &str = "[defaults]\ncache = \"rfc\"\n";
const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"\n";
const SEARCH: &str = "[[route]]\nname = \"search\"\nmatch = \"GET|QUERY /search\"\nttl = \"5m\"\n";

async fn query(weir: &Weir, kind: &str, content: &'static str) -> Answer {
    weir.request("QUERY", "/search").header("content-type", kind).body(content).await
}

#[tokio::test]
async fn a_query_is_keyed_by_its_content() {
    let origin = Origin::start().await;
    origin.on("* /search", |seen| {
        let kind = seen.header("content-type").unwrap_or("none");
        Reply::text(format!("{} {kind} {}", seen.method, String::from_utf8_lossy(&seen.body)))
            .header("location", "/search")
            .header("content-location", "/search")
    });
    let weir = Weir::start(&origin, SEARCH).await;
    weir.get("/search").await.assert_stored();
    for (kind, content) in [("text/a", "one"), ("text/a", "two"), ("text/b", "one"), ("text/a", "")] {
        query(&weir, kind, content).await.assert_stored();
        let again = query(&weir, kind, content).await;
        assert_eq!(again.assert_hit().text(), format!("QUERY {kind} {content}"));
    }
    assert_eq!(weir.get("/search").await.assert_hit().text(), "GET none ", "a safe method purges nothing");
    // What the key cannot be made of passes.
    let coded = weir.request("QUERY", "/search").header("content-encoding", "gzip").body("one").await;
    assert_eq!(coded.cache().detail.as_deref(), Some("request-encoding"));
    let unclear =
        weir.request("QUERY", "/search").header("content-type", "text/a").header("content-type", "text/b");
    assert_eq!(unclear.body("one").await.cache().detail.as_deref(), Some("request-encoding"));
    weir.get("/search").await.assert_hit();
    query(&weir, "text/a", "one").await.assert_hit();
}

#[tokio::test]
async fn a_query_without_a_route_passes_as_the_safe_method_it_is() {
    let origin = Origin::start().await;
    origin.always("* /page", || Reply::text("x").header("cache-control", "max-age=300"));
    for config in [RFC.to_owned(), PAGE.to_owned()] {
        let weir = Weir::start(&origin, &config).await;
        weir.get("/page").await.assert_stored();
        for _ in 0..2 {
            let passed = weir.request("QUERY", "/page").body("q").await;
            assert_eq!(passed.cache().fwd.as_deref(), Some("bypass"), "{passed:?}");
        }
        weir.get("/page").await.assert_hit();
    }
}

/// The condition that a validation adds means 304 to a backend that takes QUERY for a kind of GET, and 412 to one that
/// goes by RFC 9110 §13.1.2 alone. No client has to know.
#[tokio::test]
async fn what_is_keyed_by_content_is_validated_too() {
    for code in [304, 412] {
        let origin = Origin::start().await;
        origin.on("* /search", move |seen| match seen.header("if-none-match") {
            Some(_) => Reply::status(code).header("etag", "\"v1\""),
            None => Reply::text("found").header("etag", "\"v1\""),
        });
        let both = SEARCH.replace("GET|QUERY", "QUERY|POST") + "body = \"any\"";
        let weir = Weir::start(&origin, &both).await;
        for method in ["QUERY", "POST"] {
            let ask = || weir.request(method, "/search").body("q");
            ask().await.assert_stored();
            let insisting = ask().header("cache-control", "no-cache").await;
            assert_eq!((insisting.code(), insisting.text().as_str()), (200, "found"), "{method} {code}");
            assert_eq!(insisting.cache().fwd_status, (code == 304).then_some(304), "{method}");
            ask().await.assert_hit();
            // The client's own condition is judged here, as one of GET or not at all.
            let conditional = ask().header("if-none-match", "\"v1\"").await;
            assert_eq!((conditional.assert_hit().code(), conditional.text().as_str()), (200, "found"));
        }
    }
}

/// RFC 9110 §15.5.20: a 421 is about the connection it came on, and is not heuristically cacheable.
#[tokio::test]
async fn a_misdirected_request_is_the_clients_to_repeat() {
    let origin = Origin::start().await;
    let year = "Mon, 01 Jan 2024 00:00:00 GMT";
    origin.always("GET /page", move || Reply::text("elsewhere").code(421).header("last-modified", year));
    for config in [RFC, PAGE, &format!("{PAGE}origin = \"ignore\"")] {
        let weir = Weir::start(&origin, config).await;
        let before = origin.count("GET /page");
        for n in 1..=2 {
            let answer = weir.get("/page").await;
            assert_eq!(answer.assert_code(421).assert_not_hit().text(), "elsewhere");
            assert_eq!(
                origin.count("GET /page"),
                before + n,
                "asked once each: not repeated here, and not kept"
            );
        }
    }
    origin.always("GET /page", || Reply::text("x").code(421).header("cache-control", "max-age=60"));
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page").await.assert_code(421).assert_stored();
    weir.get("/page").await.assert_code(421).assert_hit();
}

fn members(answer: &Answer) -> Vec<String> {
    let lines = answer.headers.get_all("cache-status").iter().map(|line| line.to_str().unwrap());
    lines.flat_map(|line| line.split(", ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn caches_behind_are_named_before_this_one() {
    let origin = Origin::start().await;
    origin.always("* /page", || {
        Reply::text("x")
            .header("cache-status", "inner; hit, \"the middle\"; fwd=stale")
            .header("cache-status", "last; hit")
    });
    let weir = Weir::start(&origin, PAGE).await;
    let passed = ["OPTIONS", "PUT"].map(|method| weir.request(method, "/page"));
    let mut answers = Vec::new();
    for ask in passed {
        answers.push(ask.await);
    }
    answers.push(weir.get("/page").await);
    answers.push(weir.get("/page").await);
    answers.push(weir.client().head("/page").await);
    for answer in answers {
        let all = members(&answer);
        assert_eq!(all[..3], ["inner; hit", "\"the middle\"; fwd=stale", "last; hit"], "{answer:?}");
        assert!(all.len() == 4 && all[3].starts_with("weir; "), "{answer:?}");
    }
}

#[tokio::test]
async fn what_is_no_list_of_caches_is_not_added_to() {
    let origin = Origin::start().await;
    for malformed in ["inner; hit=", "inner,", "1inner; hit, ,", "\"inner"] {
        origin.always("* /page", move || Reply::text("x").header("cache-status", malformed));
        let weir = Weir::start(&origin, PAGE).await;
        for _ in 0..2 {
            let answer = weir.get("/page").await;
            let all = members(&answer);
            assert!(all.len() == 1 && all[0].starts_with("weir; "), "{malformed}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn groups_are_purged_by_the_answers_to_unsafe_requests() {
    let origin = Origin::start().await;
    for (path, groups) in
        [("/a", "\"news\", \"other\""), ("/b", "\"News\""), ("/c", "\"other\""), ("/d", "news")]
    {
        origin.always(&format!("GET {path}"), move || {
            Reply::text("x").header("cache-groups", groups).header("cache-control", "max-age=300")
        });
    }
    let invalidating = |code: u16, groups: &'static str| {
        move || Reply::status(code).header("cache-group-invalidation", groups)
    };
    origin.always("POST /x", invalidating(200, "\"news\""));
    origin.always("POST /refused", invalidating(403, "\"news\""));
    origin.always("POST /malformed", invalidating(200, "\"news"));
    origin.always("OPTIONS /x", invalidating(200, "\"news\""));
    origin.always("GET /x", || {
        Reply::text("x").header("cache-group-invalidation", "\"news\"").header("cache-control", "max-age=300")
    });
    let weir = Weir::start(&origin, RFC).await;
    for (method, path, gone) in [
        ("POST", "/x", &["/a"][..]),
        ("POST", "/refused", &["/a"]),
        ("POST", "/malformed", &["/a", "/b", "/c"]),
        // RFC 9875 §3: on responses to safe methods it means nothing.
        ("GET", "/x", &[]),
        ("OPTIONS", "/x", &[]),
    ] {
        for path in ["/a", "/b", "/c", "/d"] {
            let stored = weir.get(path).await;
            assert_eq!(stored.header("cache-groups"), None);
            weir.get(path).await.assert_hit();
        }
        weir.request(method, path).await;
        for path in ["/a", "/b", "/c", "/d"] {
            assert_eq!(weir.get(path).await.hit(), !gone.contains(&path), "{method}: {path}");
        }
    }
}

#[tokio::test]
async fn tags_stay_here_whichever_way_an_answer_goes() {
    let origin = Origin::start().await;
    let fields = ["surrogate-key", "cache-tag", "xkey", "cache-groups"];
    origin.on("* /page", move |seen| {
        let reply = match seen.header("if-none-match") {
            Some(_) => Reply::status(304),
            None => Reply::text("x"),
        };
        fields.iter().fold(reply.header("etag", "\"v1\""), |reply, name| reply.header(name, "\"tag\""))
    });
    let weir = Weir::start(&origin, PAGE).await;
    let passing = Weir::start(&origin, "").await;
    let refreshing = || weir.get("/page").header("cache-control", "no-cache");
    let client = weir.client();
    for (what, ask, code) in [
        ("cold HEAD", client.head("/page"), 200),
        ("miss", weir.get("/page"), 200),
        ("hit", weir.get("/page"), 200),
        ("HEAD", client.head("/page"), 200),
        ("304 from here", weir.get("/page").header("if-none-match", "\"v1\""), 304),
        ("validated", refreshing(), 200),
        ("validated, 304", refreshing().header("if-none-match", "\"v1\""), 304),
        ("validating HEAD", client.head("/page").header("cache-control", "no-cache"), 200),
        ("with a foreign credential", weir.get("/page").bearer("ann"), 200),
        ("pass", passing.get("/page"), 200),
        ("passed 304", passing.get("/page").header("if-none-match", "\"v1\""), 304),
        ("mutation", weir.put("/page"), 200),
    ] {
        let answer = ask.await;
        assert_eq!(answer.code(), code, "{what}");
        for name in fields {
            assert_eq!(answer.header(name), None, "{what}");
        }
    }
}

/// RFC 9111 §5.5: obsolete; so nothing is added, and what the backend says is its own.
#[tokio::test]
async fn no_warnings_are_made_here() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("good"));
    let weir = Weir::start(&origin, &format!("{}stale_if_error = \"5m\"", PAGE.replace("5m", "200ms"))).await;
    weir.get("/page").await.assert_stored();
    origin.always("GET /page", || Reply::status(503));
    eventually("a stale answer", Duration::from_secs(10), || async {
        let answer = weir.get("/page").await;
        assert_eq!((answer.text().as_str(), answer.header("warning")), ("good", None));
        answer.cache().detail.as_deref() == Some("stale-if-error")
    })
    .await;
    origin.always("GET /other", || Reply::text("x").header("warning", "199 - \"mind\""));
    let passed = Weir::start(&origin, &PAGE.replace("/page", "/other")).await;
    for _ in 0..2 {
        assert_eq!(passed.get("/other").await.header("warning"), Some("199 - \"mind\""));
    }
}

/// RFC 8246 tells clients not to ask. A client that asks all the same is answered as it wishes.
#[tokio::test]
async fn immutable_speaks_to_clients() {
    let origin = Origin::start().await;
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "max-age=300, immutable"));
    let weir = Weir::start(&origin, RFC).await;
    weir.get("/page").await.assert_stored();
    let hit = weir.get("/page").await;
    assert_eq!(hit.assert_hit().header("cache-control"), Some("max-age=300, immutable"));
    for reload in ["max-age=0", "no-cache"] {
        weir.get("/page").header("cache-control", reload).await.assert_not_hit();
    }
    let strict = Weir::start(&origin, &format!("{RFC}client_refresh = false")).await;
    strict.get("/page").await.assert_stored();
    strict.get("/page").header("cache-control", "max-age=0").await.assert_hit();
}

/// RFC 9110 §6.5: trailers may be dropped. They reach the client they were sent to, and are not kept.
#[tokio::test]
async fn trailers_are_for_the_moment() {
    let origin = RawOrigin::start(|mut stream| async move {
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n\
                      5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n";
        while !RawOrigin::read_head(&mut stream).await.is_empty() {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let weir = support::WeirConfig::new(PAGE).upstream(&origin.url()).start().await;
    let streamed = weir.get("/page").header("te", "trailers").await;
    assert_eq!(streamed.assert_stored().text(), "hello");
    assert_eq!(streamed.trailers.expect("what was sent along")["x-sum"], "42");
    let hit = weir.get("/page").header("te", "trailers").await;
    assert_eq!(hit.assert_hit().text(), "hello");
    assert!(
        hit.trailers.is_none() && hit.header("trailer").is_none() && hit.header("x-sum").is_none(),
        "{hit:?}"
    );
}

#[tokio::test]
async fn words_that_cancel_each_other() {
    let origin = Origin::start().await;
    let future = "Thu, 01 Jan 2099 00:00:00 GMT";
    for (path, fields, stored) in [
        // RFC 9111 §5.2.2.3: who knows the status ignores no-store.
        ("/understood", vec![("cache-control", "must-understand, no-store, max-age=300")], true),
        ("/no-store", vec![("cache-control", "no-store, max-age=300")], false),
        // §5.3: max-age counts rather than Expires, which counts alone; a date that is none is the past.
        ("/expires", vec![("expires", future)], true),
        ("/expired", vec![("expires", "0")], false),
        ("/both", vec![("expires", future), ("cache-control", "max-age=0")], false),
        ("/other-way", vec![("expires", "0"), ("cache-control", "max-age=300")], true),
        // §5.4: in a response Pragma says nothing.
        ("/pragma", vec![("pragma", "no-cache"), ("cache-control", "max-age=300")], true),
    ] {
        origin.always(&format!("GET {path}"), move || {
            fields.iter().fold(Reply::text("x"), |reply, (name, value)| reply.header(name, value))
        });
        let weir = Weir::start(&origin, RFC).await;
        assert_eq!(weir.get(path).await.cache().stored, stored, "{path}");
        assert_eq!(weir.get(path).await.hit(), stored, "{path}");
    }
    origin.always("GET /odd", || {
        Reply::text("x").code(299).header("cache-control", "must-understand, no-store, max-age=300")
    });
    let weir = Weir::start(&origin, RFC).await;
    assert!(!weir.get("/odd").await.cache().stored, "a status that nobody here understands");
    // In a request it is no-cache, unless Cache-Control speaks.
    weir.get("/pragma").await;
    weir.get("/pragma").header("pragma", "no-cache").await.assert_not_hit();
    weir.get("/pragma").header("pragma", "no-cache").header("cache-control", "max-stale").await.assert_hit();
}
