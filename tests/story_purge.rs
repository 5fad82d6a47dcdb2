//! After a mutation was answered, nobody gets anything older: tags, paths, unknowns, and answers under way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use support::{Origin, RawOrigin, Redis, Reply, Weir, WeirConfig, eventually, within};
use tokio::io::AsyncWriteExt;

/// Makes an answer.
type Make = fn() -> Reply;

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

#[tokio::test]
async fn a_mutation_purges_the_item_and_its_lists_and_nothing_else() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1", "/items/2", "/items"]).await;
    assert_eq!(weir.put("/items/1").json(&json!({})).await.assert_code(200).item_version(), 2);
    assert_eq!(weir.get("/items/1").await.assert_not_hit().item_version(), 2);
    assert_eq!(weir.get("/items").await.assert_not_hit().json()["items"][0]["version"], 2);
    assert_eq!(weir.get("/items/2").await.assert_hit().item_version(), 1);
    weir.request("DELETE", "/items/2").await;
    assert_eq!(weir.get("/items/2").await.assert_not_hit().item_version(), 2);
    weir.get("/items/1").await.assert_hit();
}

#[tokio::test]
async fn every_instance_purges_its_own_uri_even_without_a_rule() {
    let origin = Origin::versioned().await;
    let weir =
        Weir::start(&origin, "[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"\nttl = \"5m\"").await;
    warm(&weir, &["/items/1", "/items/1?view=full", "/items/2"]).await;
    for method in ["PUT", "POST", "PATCH", "DELETE", "BREW"] {
        let made = weir.request(method, "/items/1").await.item_version();
        assert_eq!(weir.get("/items/1").await.assert_not_hit().item_version(), made, "{method}");
        weir.get("/items/1").await.assert_hit();
    }
    assert!(!cached(&weir, "/items/1?view=full").await, "any query of the URI's path");
    assert!(cached(&weir, "/items/2").await);
}

#[tokio::test]
async fn location_and_content_location_of_the_same_origin_are_purged_too() {
    let origin = Origin::start().await;
    for path in ["GET /a", "GET /b", "GET /c", "GET /elsewhere"] {
        origin.counting(path);
    }
    origin.always("POST /make", || {
        Reply::status(201).header("location", "/a").header("content-location", "http://api.test/b")
    });
    origin.always("POST /foreign", || Reply::status(201).header("location", "http://other.test/elsewhere"));
    let weir = Weir::start(&origin, "[[route]]\nname = \"all\"\nmatch = \"GET /**\"\nttl = \"5m\"").await;
    warm(&weir, &["/a", "/b", "/c", "/elsewhere"]).await;
    weir.post("/make").await.assert_code(201);
    weir.post("/foreign").await.assert_code(201);
    assert!(!cached(&weir, "/a").await, "Location");
    assert!(!cached(&weir, "/b").await, "Content-Location");
    assert!(cached(&weir, "/c").await);
    assert!(cached(&weir, "/elsewhere").await, "another origin's URI is not ours to purge");
}

/// Reads by query, tagged by session; mutations name the session in different places.
const SESSIONS: &str = r#"
    [[route]]
    name = "transactions"
    match = "GET /transactions"
    ttl = "5m"
    tags = ["session:{query.session_id}", "tx:{response.items[*].id}"]

    [[purge]]
    on = "PUT /transactions/{id}"
    tags = ["tx:{path.id}", "session:{response.session_id}"]

    [[purge]]
    on = "POST /bulk"
    tags = ["session:{request.session_id}"]

    [[purge]]
    on = "POST /by-query"
    tags = ["session:{query.session_id}"]

    [[purge]]
    on = "POST /by-header"
    tags = ["session:{header.x-session}"]

    [[purge]]
    on = "POST /many"
    tags = ["session:{request.sessions[*].id}"]
"#;

/// A backend of sessions: every list counts its answers and shows one row per session.
async fn sessions() -> Origin {
    let origin = Origin::start().await;
    origin.on("GET /transactions", |seen| {
        let session = seen.query.strip_prefix("session_id=").unwrap_or("none");
        Reply::json(&json!({"items": [{"id": format!("tx-{session}")}]}))
    });
    origin.always("POST /*", || Reply::json(&json!({"ok": true})));
    origin
}

/// Which of the sessions `a`, `b` and of the unfiltered list are cached now.
async fn sessions_cached(weir: &Weir) -> (bool, bool, bool) {
    let (a, b) = ("/transactions?session_id=a", "/transactions?session_id=b");
    (cached(weir, a).await, cached(weir, b).await, cached(weir, "/transactions").await)
}

async fn warm_sessions(weir: &Weir) {
    warm(weir, &["/transactions?session_id=a", "/transactions?session_id=b", "/transactions"]).await;
}

#[tokio::test]
async fn tags_come_from_path_query_header_request_and_response() {
    let origin = sessions().await;
    origin.always("PUT /transactions/*", || Reply::json(&json!({"session_id": "a"})));
    let weir = Weir::start(&origin, SESSIONS).await;
    let hits_a = (false, true, false);
    warm_sessions(&weir).await;

    weir.put("/transactions/99").json(&json!({})).await.assert_code(200);
    assert_eq!(
        sessions_cached(&weir).await,
        hits_a,
        "response.session_id; the unfiltered list holds every session"
    );
    weir.post("/bulk").json(&json!({"session_id": "a"})).await;
    assert_eq!(sessions_cached(&weir).await, hits_a, "request.session_id");
    weir.post("/by-query?session_id=a").await;
    assert_eq!(sessions_cached(&weir).await, hits_a, "query.session_id");
    weir.post("/by-header").header("x-session", "a").await;
    assert_eq!(sessions_cached(&weir).await, hits_a, "header.x-session");
    weir.post("/many").json(&json!({"sessions": [{"id": "a"}, {"id": "b"}]})).await;
    assert_eq!(sessions_cached(&weir).await, (false, false, false), "both of them");
    weir.post("/bulk").json(&json!({"session_id": "unheard-of"})).await;
    assert_eq!(
        sessions_cached(&weir).await,
        (true, true, false),
        "an unknown session is in the unfiltered list too"
    );
}

#[tokio::test]
async fn a_row_in_a_list_purges_that_list() {
    let origin = sessions().await;
    origin.always("PUT /transactions/*", || Reply::json(&json!({"session_id": "c"})));
    let weir = Weir::start(&origin, SESSIONS).await;
    warm_sessions(&weir).await;
    weir.put("/transactions/tx-b").json(&json!({})).await;
    let (a, b, _) = sessions_cached(&weir).await;
    assert!(a && !b, "tx:{{path.id}} met tx:{{response.items[*].id}} of b alone");
}

#[tokio::test]
async fn an_unknown_value_purges_the_whole_family() {
    let origin = sessions().await;
    let unknowns: [(&str, Make); 4] = [
        ("not JSON", || Reply::text("saved").header("content-type", "text/plain")),
        ("no such member", || Reply::json(&json!({"ok": true}))),
        ("empty", || Reply::status(204)),
        ("broken JSON", || Reply::text("{\"session_id\":").header("content-type", "application/json")),
    ];
    let weir = Weir::start(&origin, SESSIONS).await;
    for (what, make) in unknowns {
        origin.always("PUT /transactions/*", make);
        warm_sessions(&weir).await;
        weir.put("/transactions/1").json(&json!({})).await;
        assert_eq!(sessions_cached(&weir).await, (false, false, false), "{what}");
    }
    warm_sessions(&weir).await;
    weir.post("/bulk").body("not json").await;
    assert_eq!(sessions_cached(&weir).await, (false, false, false), "an unreadable request");
}

#[tokio::test]
async fn a_plain_refusal_purges_nothing() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1", "/items"]).await;
    for code in [400, 401, 403, 404, 405, 412, 422] {
        origin.always("PUT /items/1", move || Reply::status(code));
        weir.put("/items/1").json(&json!({})).await.assert_code(code);
        assert!(cached(&weir, "/items/1").await && cached(&weir, "/items").await, "{code} changed nothing");
    }
}

#[tokio::test]
async fn an_unclear_answer_purges() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    for code in [200, 201, 202, 204, 303, 408, 409, 425, 429, 500, 502, 503, 504] {
        warm(&weir, &["/items/1"]).await;
        origin.always("PUT /items/1", move || Reply::status(code));
        weir.put("/items/1").json(&json!({})).await.assert_code(code);
        assert!(!cached(&weir, "/items/1").await, "{code} may have changed it");
    }
}

#[tokio::test]
async fn a_mutation_without_an_answer_purges() {
    let origin = Origin::versioned().await;
    let impatient = format!("{ITEMS}\n[upstream]\nfirst_byte_timeout = \"300ms\"");
    let weir = Weir::start(&origin, &impatient).await;
    warm(&weir, &["/items/1", "/items/2"]).await;
    let hold = origin.hold("PUT /items/1");
    weir.put("/items/1").json(&json!({})).await.assert_code(504);
    hold.release();
    assert_eq!(weir.get("/items/1").await.assert_not_hit().item_version(), 2, "the backend had done it");
    origin.always("PUT /items/2", Reply::gone);
    weir.put("/items/2").json(&json!({})).await.assert_code(502);
    assert!(!cached(&weir, "/items/2").await, "the connection closed: who knows");
    assert_eq!(origin.count("PUT /items/2"), 1, "an unsafe method is never sent twice");
}

#[tokio::test]
async fn a_method_in_a_field_purges_like_the_method() {
    let origin = Origin::versioned().await;
    origin.always("GET /admin/*", || Reply::status(204));
    let text =
        format!("{ITEMS}\n[[purge]]\non = \"DELETE /admin/items/{{id}}\"\ntags = [\"item:{{path.id}}\"]");
    let weir = Weir::start(&origin, &text).await;
    for field in ["x-http-method-override", "x-http-method", "x-method-override"] {
        warm(&weir, &["/items/1", "/items/2"]).await;
        weir.get("/admin/items/1").await.assert_code(204);
        assert!(cached(&weir, "/items/1").await, "a read is a read");
        weir.get("/admin/items/1").header(field, "DELETE").await.assert_code(204);
        assert!(!cached(&weir, "/items/1").await, "{field}: some backends have deleted it");
        assert!(cached(&weir, "/items/2").await);
    }
}

#[tokio::test]
async fn a_mutation_that_reached_nobody_is_a_502_and_life_goes_on() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    drop(origin);
    let answer = weir.put("/items/1").json(&json!({})).await;
    assert_eq!(answer.assert_code(502).header("content-type"), Some("application/problem+json"));
    // Whether this voided the entry is the proxy's choice (nothing was mutated); that it lives on is not.
    assert!([200, 502].contains(&weir.get("/items/1").await.code()));
    assert_eq!(weir.admin().get("/livez").await.code(), 200);
}

#[tokio::test]
async fn rules_purge_paths_and_routes() {
    let origin = Origin::start().await;
    origin.counting("GET /*");
    origin.always("POST /*", || Reply::status(204));
    let text = r#"
        [defaults]
        ttl = "5m"
        [[route]]
        name = "reports"
        match = "GET /reports/**"
        [[route]]
        name = "orders"
        match = "GET /users/{user}/orders"
        [[route]]
        name = "dashboard"
        match = "GET /dashboard"
        [[purge]]
        on = "POST /run"
        paths = ["/reports/daily/**"]
        [[purge]]
        on = "POST /exact"
        paths = ["/reports/weekly"]
        [[purge]]
        on = "POST /users/{user}/buy"
        paths = ["/users/{user}/orders"]
        [[purge]]
        on = "POST /all-orders"
        paths = ["/users/*/orders"]
        [[purge]]
        on = "POST /appointments"
        routes = ["dashboard"]
    "#;
    let weir = Weir::start(&origin, text).await;
    let paths = [
        "/reports/daily/1",
        "/reports/daily/2?x=1",
        "/reports/weekly",
        "/users/ann/orders",
        "/users/bob/orders",
        "/dashboard",
    ];
    let cases = [
        ("/run", vec!["/reports/daily/1", "/reports/daily/2?x=1"]),
        ("/exact", vec!["/reports/weekly"]),
        ("/users/ann/buy", vec!["/users/ann/orders"]),
        ("/all-orders", vec!["/users/ann/orders", "/users/bob/orders"]),
        ("/appointments", vec!["/dashboard"]),
    ];
    for (post, purged) in cases {
        warm(&weir, &paths).await;
        weir.post(post).await.assert_code(204);
        for path in paths {
            assert_eq!(!cached(&weir, path).await, purged.contains(&path), "POST {post} and {path}");
        }
    }
}

#[tokio::test]
async fn subject_same_purges_the_callers_entries_alone() {
    let origin = Origin::start().await;
    origin.counting("GET /*");
    origin.always("POST /*", || Reply::status(204));
    let text = r#"
        [defaults]
        ttl = "5m"
        subject = { header = "authorization" }
        [[route]]
        name = "summary"
        match = "GET /summary"
        [[purge]]
        on = "POST /mine"
        routes = ["summary"]
        subject = "same"
        [[purge]]
        on = "POST /everyone"
        routes = ["summary"]
    "#;
    let weir = Weir::start(&origin, text).await;
    let warm_both = || async {
        for user in ["ann", "bob"] {
            weir.get("/summary").bearer(user).await;
            weir.get("/summary").bearer(user).await.assert_hit();
        }
    };
    warm_both().await;
    weir.post("/mine").bearer("ann").await.assert_code(204);
    weir.get("/summary").bearer("ann").await.assert_not_hit();
    weir.get("/summary").bearer("bob").await.assert_hit();
    warm_both().await;
    weir.post("/everyone").bearer("ann").await.assert_code(204);
    weir.get("/summary").bearer("ann").await.assert_not_hit();
    weir.get("/summary").bearer("bob").await.assert_not_hit();
}

#[tokio::test]
async fn tags_of_the_backend_are_purged_by_name_and_do_not_leave_weir() {
    let origin = Origin::start().await;
    origin
        .counting_with("GET /page", |reply| reply.header("surrogate-key", "users news").header("xkey", "x1"));
    let weir = Weir::start(&origin, "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"").await;
    for tag in ["users", "news", "x1"] {
        let answer = weir.get("/page").await;
        assert_eq!((answer.header("surrogate-key"), answer.header("xkey")), (None, None));
        weir.get("/page").await.assert_hit();
        let body = json!({"tags": [format!("header:{tag}")]});
        let purged = weir.operator().post("/purge").json(&body).await;
        assert_eq!(purged.assert_code(200).json()["purged"], 1, "{tag}: {purged:?}");
        assert!(!cached(&weir, "/page").await, "{tag}");
    }
}

#[tokio::test]
async fn a_fill_under_way_is_overtaken_by_a_purge() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    let hold = origin.hold_next("GET /items/1", 1);
    let before = weir.get("/items/1").spawn();
    hold.caught(1).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    hold.release();
    assert_eq!(before.await.unwrap().item_version(), 1, "it asked before the mutation");
    let after = weir.get("/items/1").await;
    assert_eq!(after.assert_not_hit().item_version(), 2, "the old answer was not kept");
    assert_eq!(weir.get("/items/1").await.assert_hit().item_version(), 2);
    assert_eq!(origin.count("GET /items/1"), 2);
}

#[tokio::test]
async fn a_fill_whose_body_is_under_way_is_overtaken_too() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    let (sender, slow) = Reply::channel();
    let slow = std::sync::Mutex::new(Some(slow));
    origin.on("GET /items/1", move |_| match slow.lock().unwrap().take() {
        Some(reply) => reply.header("content-type", "application/json"),
        None => Reply::json(&json!({"id": "1", "version": 2})),
    });
    let mut before = weir.get("/items/1").open().await.unwrap();
    sender.send("{\"id\":\"1\",".into()).await.unwrap();
    assert_eq!(before.chunk().await.unwrap().unwrap(), "{\"id\":\"1\",", "a miss streams while it fills");
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    sender.send("\"version\":1}".into()).await.unwrap();
    drop(sender);
    assert_eq!(before.finish().await.unwrap().text(), "\"version\":1}");
    assert_eq!(weir.get("/items/1").await.assert_not_hit().item_version(), 2);
}

#[tokio::test]
async fn who_arrives_after_the_purge_does_not_join_the_flight_before_it() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    let hold = origin.hold_next("GET /items/1", 1);
    let leader = weir.get("/items/1").spawn();
    hold.caught(1).await;
    let earlier: Vec<_> = (0..5).map(|_| weir.get("/items/1").spawn()).collect();
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    let later: Vec<_> = (0..5).map(|_| weir.get("/items/1").spawn()).collect();
    for answer in later {
        let answer = within("those who came later do not wait for the old flight", answer).await.unwrap();
        assert_eq!(answer.item_version(), 2);
    }
    hold.release();
    assert_eq!(leader.await.unwrap().item_version(), 1);
    for answer in earlier {
        // They asked before the mutation was answered: either version is true for them.
        assert!([1, 2].contains(&answer.await.unwrap().item_version()));
    }
    assert_eq!(weir.get("/items/1").await.item_version(), 2);
    assert_eq!(weir.get("/items/1").await.assert_hit().item_version(), 2);
}

#[tokio::test]
async fn who_arrives_after_a_purge_that_only_the_answer_knows_of_does_not_take_it() {
    let origin = Origin::versioned().await;
    origin.bump("7");
    let text = r#"
        [[route]]
        name = "items"
        match = "GET /items"
        ttl = "5m"
        tags = ["item:{response.items[*].id}"]
        [[purge]]
        on = "PUT /items/{id}"
        tags = ["item:{path.id}"]
    "#;
    let weir = Weir::start(&origin, text).await;
    let hold = origin.hold_next("GET /items", 1);
    let before = weir.get("/items").spawn();
    hold.caught(1).await;
    // Nobody can know yet that the list holds item 7.
    assert_eq!(weir.put("/items/7").json(&json!({})).await.item_version(), 3);
    let later: Vec<_> = (0..5).map(|_| weir.get("/items").spawn()).collect();
    weir.get("/elsewhere").await;
    hold.release();
    assert_eq!(before.await.unwrap().json()["items"][0]["version"], 2);
    for answer in later {
        let answer = within("those who came later are answered", answer).await.unwrap();
        assert_eq!(answer.json()["items"][0]["version"], 3, "{answer:?}");
    }
}

#[tokio::test]
async fn the_flight_after_the_purge_is_shared_as_ever() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    let hold = origin.hold("GET /items/1");
    let old = weir.get("/items/1").spawn();
    hold.caught(1).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    let first = weir.get("/items/1").spawn();
    hold.caught(2).await;
    let others: Vec<_> = (0..20).map(|_| weir.get("/items/1").spawn()).collect();
    // A stranger's round trip gives the others time to arrive; all of them then wait for one request.
    weir.get("/items/2").await;
    hold.release();
    assert_eq!(old.await.unwrap().item_version(), 1);
    assert_eq!(first.await.unwrap().item_version(), 2);
    for answer in others {
        assert_eq!(answer.await.unwrap().item_version(), 2);
    }
    assert_eq!(origin.count("GET /items/1"), 2);
}

#[tokio::test]
async fn a_refresh_behind_the_scenes_is_overtaken_by_a_purge() {
    let origin = Origin::versioned().await;
    let text = ITEMS.replace("ttl = \"5m\"", "ttl = \"100ms\"\nstale_while_revalidate = \"5m\"");
    let weir = Weir::start(&origin, &text).await;
    weir.get("/items/1").await;
    let hold = origin.hold_next("GET /items/1", 1);
    eventually("a stale answer begins a refresh", Duration::from_secs(10), || async {
        assert_eq!(weir.get("/items/1").await.item_version(), 1);
        hold.count() == 1
    })
    .await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    assert_eq!(weir.get("/items/1").await.item_version(), 2, "the stale entry is void");
    hold.release();
    for _ in 0..20 {
        assert_eq!(weir.get("/items/1").await.item_version(), 2, "and the refresh brought nothing older");
    }
}

#[tokio::test]
async fn stale_if_error_does_not_bring_back_what_was_purged() {
    let origin = Origin::versioned().await;
    let text = ITEMS.replace("ttl = \"5m\"", "ttl = \"5m\"\nstale_if_error = \"1h\"");
    let weir = Weir::start(&origin, &text).await;
    warm(&weir, &["/items/1"]).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    origin.always("GET /items/1", || Reply::status(503));
    weir.get("/items/1").await.assert_code(503);
    origin.always("GET /items/1", Reply::gone);
    weir.get("/items/1").await.assert_code(502);
}

#[tokio::test]
async fn stale_if_error_does_not_bring_back_what_was_purged_meanwhile() {
    let origin = Origin::versioned().await;
    let text = ITEMS.replace("ttl = \"5m\"", "ttl = \"100ms\"\nstale_if_error = \"1h\"");
    let weir = Weir::start(&origin, &text).await;
    weir.get("/items/1").await.assert_stored();
    origin.always("GET /items/1", || Reply::status(503));
    let hold = origin.hold_next("GET /items/1", 1);
    // Answers come from the cache until it is stale; then one waits for a backend that is about to fail.
    let mut waiting = weir.get("/items/1").spawn();
    eventually("the entry is stale", Duration::from_secs(10), || {
        if waiting.is_finished() && hold.count() == 0 {
            waiting = weir.get("/items/1").spawn();
        }
        async { hold.count() == 1 }
    })
    .await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    hold.release();
    waiting.await.unwrap().assert_code(503);
}

#[tokio::test]
async fn a_purged_entry_is_not_revived_by_its_date() {
    let origin = Origin::versioned().await;
    let date = "Mon, 01 Jan 2024 00:00:00 GMT";
    origin.on("GET /items/1", move |seen| match seen.header("if-modified-since") {
        // Dates have seconds only: the backend believes that nothing changed.
        Some(_) => Reply::status(304),
        None => Reply::json(&json!({"id": "1", "version": 2})).header("last-modified", date),
    });
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    weir.get("/items/1").await.assert_code(200);
    assert!(origin.seen("GET /items/1").iter().all(|s| s.header("if-modified-since").is_none()));
}

#[tokio::test]
async fn a_purged_entry_may_be_revived_by_its_etag_alone() {
    let origin = Origin::versioned().await;
    origin.on("GET /items/1", |seen| {
        let reply = match seen.header("if-none-match") {
            Some("\"same\"") => Reply::status(304),
            _ => Reply::json(&json!({"id": "1", "version": 1})),
        };
        reply.header("etag", "\"same\"").header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")
    });
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    weir.put("/items/1").json(&json!({})).await.assert_code(200);
    assert_eq!(weir.get("/items/1").await.assert_code(200).assert_not_hit().item_version(), 1);
    assert_eq!(
        weir.get("/items/1").await.assert_hit().item_version(),
        1,
        "the backend says that it is the same"
    );
    assert_eq!(origin.count("GET /items/1"), 2);
    assert!(origin.seen("GET /items/1").iter().all(|s| s.header("if-modified-since").is_none()));
}

#[tokio::test]
async fn a_mutation_whose_client_leaves_still_purges() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    let hold = origin.hold("PUT /items/1");
    let socket = weir.put("/items/1").json(&json!({"a": 1})).and_leave_open().await;
    hold.caught(1).await;
    drop(socket);
    // The proxy may learn of it before or after the backend answers; both must end in a purge.
    weir.get("/items/2").await;
    hold.release();
    let took = eventually("the purge", Duration::from_secs(10), || async {
        weir.get("/items/1").await.item_version() == 2
    })
    .await;
    println!("purged {took:?} after the backend's answer, without a client");
    assert_eq!(origin.abandoned(), 0, "the mutation itself was seen through");
}

#[tokio::test]
async fn a_mutation_is_answered_after_its_purge() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    for n in 2..=40 {
        warm(&weir, &["/items/1"]).await;
        assert_eq!(weir.put("/items/1").json(&json!({})).await.item_version(), n);
        assert_eq!(weir.get("/items/1").await.item_version(), n, "read your own write");
    }
}

#[tokio::test]
async fn two_weirs_on_one_redis_follow_each_others_purges() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let one = Weir::with_redis(&origin, &redis, ITEMS).await;
    let two = Weir::with_redis(&origin, &redis, ITEMS).await;
    for round in 2..=6 {
        for weir in [&one, &two] {
            weir.get("/items/1").await;
            eventually("both hold it", Duration::from_secs(5), || cached(weir, "/items/1")).await;
        }
        let (writer, reader) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        assert_eq!(writer.put("/items/1").json(&json!({})).await.item_version(), round);
        assert_eq!(writer.get("/items/1").await.item_version(), round, "the writer itself at once");
        let took = eventually("the other follows", Duration::from_secs(5), || async {
            reader.get("/items/1").await.item_version() == round
        })
        .await;
        println!("round {round}: the other instance followed within {took:?}");
    }
}

#[tokio::test]
async fn a_fill_under_way_on_one_weir_is_overtaken_by_a_purge_on_the_other() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let one = Weir::with_redis(&origin, &redis, ITEMS).await;
    let two = Weir::with_redis(&origin, &redis, ITEMS).await;
    // The list is purged by the same rule: once it is gone on the second, the second has seen the purge.
    warm(&two, &["/items"]).await;
    let hold = origin.hold_next("GET /items/1", 1);
    let before = two.get("/items/1").spawn();
    hold.caught(1).await;
    one.put("/items/1").json(&json!({})).await.assert_code(200);
    eventually("the second sees the purge", Duration::from_secs(5), || async {
        !cached(&two, "/items").await
    })
    .await;
    hold.release();
    assert_eq!(before.await.unwrap().item_version(), 1);
    for weir in [&two, &one, &two, &one] {
        assert_eq!(weir.get("/items/1").await.item_version(), 2, "nobody took the old answer from the store");
    }
}

#[tokio::test]
async fn an_entry_of_other_rules_is_absent() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let first = Weir::with_redis(&origin, &redis, ITEMS).await;
    warm(&first, &["/items/1"]).await;
    redis.filled("item", 1).await;
    let other_rules = ITEMS.replace("item:{path.id}", "thing:{path.id}");
    let second = Weir::with_redis(&origin, &redis, &other_rules).await;
    assert!(!cached(&second, "/items/1").await, "its tags say nothing under these rules");
}

#[tokio::test]
async fn a_list_of_no_rows_carries_the_wildcard() {
    let origin = sessions().await;
    origin.always("GET /transactions", || Reply::json(&json!({"items": []})));
    origin.always("PUT /transactions/*", || Reply::json(&json!({"session_id": "z"})));
    let weir = Weir::start(&origin, SESSIONS).await;
    warm(&weir, &["/transactions?session_id=a"]).await;
    weir.put("/transactions/77").json(&json!({})).await;
    assert!(!cached(&weir, "/transactions?session_id=a").await, "tx:77 may be what the empty list now lacks");
}

/// A backend whose reads lag its writes: it acknowledges a PUT and goes on telling the old for a while.
#[tokio::test]
async fn a_settling_purge_keeps_what_a_lagging_backend_says_out_of_the_store() {
    let origin = Origin::start().await;
    let shown = std::sync::Arc::new(std::sync::Mutex::new("old"));
    let tells = shown.clone();
    origin.on("GET /items/1", move |_| Reply::text(*tells.lock().unwrap()));
    origin.always("PUT /items/1", || Reply::status(204));
    let weir = Weir::start(&origin, &format!("{ITEMS}\nsettle = \"2s\"")).await;
    warm(&weir, &["/items/1"]).await;
    weir.put("/items/1").await.assert_code(204);
    for _ in 0..3 {
        let answer = weir.get("/items/1").await;
        assert_eq!(answer.assert_not_hit().text(), "old", "the backend's own word, and not kept");
    }
    *shown.lock().unwrap() = "new";
    eventually("the new is kept", Duration::from_secs(20), || async {
        let answer = weir.get("/items/1").await;
        assert_eq!(answer.text(), "new");
        answer.hit()
    })
    .await;
}

#[tokio::test]
async fn a_mutation_purges_whatever_else_it_asks_for() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    let disguises: [&[(&str, &str)]; 3] = [
        &[("connection", "upgrade"), ("upgrade", "websocket")],
        &[("x_http_method_override", "PUT")],
        &[("x-http-method-override", "PUT"), ("connection", "upgrade"), ("upgrade", "websocket")],
    ];
    for (n, disguise) in disguises.into_iter().enumerate() {
        warm(&weir, &["/items/1", "/items"]).await;
        // What a field overrides is the backend's to read: the rig's versions rise by an unsafe method alone.
        let method = if n == 0 { "PUT" } else { "OPTIONS" };
        let mut ask = weir.request(method, "/items/1");
        for (name, value) in disguise {
            ask = ask.header(name, value);
        }
        ask.await;
        assert!(!cached(&weir, "/items/1").await, "{disguise:?}");
        assert!(!cached(&weir, "/items").await, "{disguise:?}: the rule's tags");
    }
}

#[tokio::test]
async fn a_graphql_mutation_purges_though_the_cache_takes_no_part() {
    let origin = Origin::start().await;
    origin.counting("* /graphql");
    let weir = Weir::start(
        &origin,
        r#"
        [[route]]
        name = "graphql"
        match = "POST /graphql"
        body = "graphql"
        ttl = "5m"
        "#,
    )
    .await;
    let ask = |document: &str| weir.post("/graphql").json(&json!({ "query": document }));
    ask("{ a }").await.assert_stored();
    ask("{ a }").await.assert_hit();
    // A read with somebody's credential passes by, and purges nothing.
    ask("{ a }").bearer("ann").await.assert_not_hit();
    ask("{ a }").await.assert_hit();
    let answer = ask("mutation { b }").bearer("ann").await;
    assert_eq!(answer.cache().detail.as_deref(), Some("purged"));
    ask("{ a }").await.assert_not_hit();
}

#[tokio::test]
async fn what_an_override_makes_unsafe_is_never_sent_twice() {
    let asked = Arc::new(AtomicUsize::new(0));
    let deletes = Arc::clone(&asked);
    let origin = RawOrigin::start(move |mut stream| {
        let deletes = Arc::clone(&deletes);
        async move {
            loop {
                let head = RawOrigin::read_head(&mut stream).await.to_lowercase();
                let answer = match head.contains("x-http-method-override: delete") {
                    _ if head.is_empty() => return,
                    // Deleted, and gone before it could say so.
                    true if deletes.fetch_add(1, Ordering::SeqCst) == 0 => return,
                    true => "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
                    false => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                };
                drop(stream.write_all(answer.as_bytes()).await);
            }
        }
    })
    .await;
    // The route is not cached for OPTIONS, so the override goes through, on the connection that is kept alive.
    let weir = WeirConfig::new(ITEMS).upstream(&origin.url()).start().await;
    warm(&weir, &["/items/1"]).await;
    let answer = weir.request("OPTIONS", "/items/1").header("x-http-method-override", "DELETE").await;
    assert_eq!(asked.load(Ordering::SeqCst), 1, "{answer:?}");
    answer.assert_code(502);
    assert!(!cached(&weir, "/items/1").await, "it may have been deleted");
}

#[tokio::test]
async fn no_other_spelling_of_a_path_outlives_its_purge() {
    // Many backends take several slashes for one.
    let origin = Origin::versioned().await;
    let weir =
        Weir::start(&origin, "[[route]]\nname = \"all\"\nmatch = \"GET /items/**\"\nttl = \"5m\"").await;
    let spellings = ["/items/1", "/items//1", "/items/%31"];
    for path in spellings {
        weir.get(path).await.assert_code(200);
    }
    let made = weir.put("/items/1").json(&json!({})).await.item_version();
    for path in spellings {
        assert_eq!(weir.get(path).await.item_version(), made, "{path}");
    }
}
