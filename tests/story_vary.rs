//! `Vary`: one URL, several variants, each for the requests that select it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::{Origin, Redis, Reply, Weir};

const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"";

/// A backend whose page differs by `accept-language`, and says so.
async fn polyglot() -> Origin {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let language = seen.header("accept-language").unwrap_or("none");
        Reply::text(language.to_owned()).header("vary", "Accept-Language")
    });
    origin
}

#[tokio::test]
async fn each_variant_is_an_entry_of_its_own() {
    let origin = polyglot().await;
    let weir = Weir::start(&origin, PAGE).await;
    for language in ["de", "fr", "en"] {
        let answer = weir.get("/page").header("accept-language", language).await;
        assert_eq!(answer.assert_stored().text(), language);
        assert_eq!(answer.header("vary"), Some("Accept-Language"));
    }
    weir.get("/page").await.assert_stored();
    for language in ["de", "fr", "en"] {
        assert_eq!(weir.get("/page").header("accept-language", language).await.assert_hit().text(), language);
    }
    assert_eq!(weir.get("/page").await.assert_hit().text(), "none", "an absent field is a value too");
    assert_eq!(origin.count("/page"), 4);
}

#[tokio::test]
async fn a_variant_that_is_not_there_says_so() {
    let origin = polyglot().await;
    let weir = Weir::start(&origin, PAGE).await;
    assert_eq!(
        weir.get("/page").header("accept-language", "de").await.cache().fwd.as_deref(),
        Some("uri-miss")
    );
    assert_eq!(
        weir.get("/page").header("accept-language", "fr").await.cache().fwd.as_deref(),
        Some("vary-miss")
    );
}

#[tokio::test]
async fn variants_travel_through_redis() {
    let (origin, redis) = (polyglot().await, Redis::start().await);
    let one = Weir::with_redis(&origin, &redis, PAGE).await;
    for language in ["de", "fr"] {
        one.get("/page").header("accept-language", language).await.assert_stored();
    }
    // An index and two variants.
    redis.filled("page", 2).await;
    let two = Weir::with_redis(&origin, &redis, PAGE).await;
    for language in ["de", "fr"] {
        support::eventually("the second finds it", support::DEADLINE, || async {
            let answer = two.get("/page").header("accept-language", language).await;
            assert_eq!(answer.text(), language);
            answer.hit()
        })
        .await;
    }
    assert_eq!(two.get("/page").header("accept-language", "en").await.text(), "en");
}

#[tokio::test]
async fn a_variant_under_another_variants_name_is_not_taken() {
    let (origin, redis) = (polyglot().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, &format!("[cache]\nmemory = \"0\"\n{PAGE}")).await;
    let languages = ["de-ch-1996", "fr-ch-1990"];
    for language in languages {
        weir.get("/page").header("accept-language", language).await.assert_stored();
        support::eventually("Redis has it", support::DEADLINE, || async {
            weir.get("/page").header("accept-language", language).await.hit()
        })
        .await;
    }
    // A value ends with its content.
    let mut names = Vec::new();
    for language in languages {
        for name in redis.entries("page").await {
            let value: Vec<u8> = redis.run(&["GET", &name]).await;
            if value.ends_with(language.as_bytes()) {
                names.push(name);
            }
        }
    }
    assert_eq!(names.len(), 2, "{names:?}");
    redis.run::<()>(&["COPY", &names[0], &names[1], "REPLACE"]).await;
    let french = weir.get("/page").header("accept-language", languages[1]).await;
    assert_eq!(french.assert_not_hit().text(), languages[1]);
}

#[tokio::test]
async fn the_number_of_variants_is_bounded() {
    let origin = polyglot().await;
    let weir = Weir::start(&origin, &format!("[cache]\nmax_variants = 4\n{PAGE}")).await;
    for n in 0..50 {
        let language = format!("l{n}");
        let answer = weir.get("/page").header("accept-language", &language).await;
        assert_eq!(answer.assert_code(200).text(), language);
    }
    let stats = weir.operator().get("/stats").await.json();
    let keys = stats["keys"].as_u64().unwrap_or_else(|| panic!("no keys in {stats}"));
    // Four variants and their index.
    assert!(keys <= 5, "{keys} entries of 50 variants: {stats}");
    let mut hits = 0;
    for n in 0..50 {
        let language = format!("l{n}");
        let answer = weir.get("/page").header("accept-language", &language).await;
        assert_eq!(answer.text(), language, "whatever is kept is the right one");
        hits += usize::from(answer.hit());
    }
    assert!(hits <= 4, "{hits} of 50 variants came from the cache");
}

#[tokio::test]
async fn accept_encoding_is_normalised_before_it_selects() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let encoding = seen.header("accept-encoding").unwrap_or("identity").to_owned();
        Reply::text(encoding).header("vary", "accept-encoding")
    });
    let weir = Weir::start(&origin, PAGE).await;
    let first = weir.get("/page").header("accept-encoding", "gzip, deflate, br").await;
    first.assert_stored();
    for same in ["br, gzip", "gzip;q=0.8, br;q=1.0, x-odd", "deflate, GZIP, BR", "gzip,br"] {
        let answer = weir.get("/page").header("accept-encoding", same).await;
        assert_eq!(answer.assert_hit().text(), first.text(), "{same}");
    }
    weir.get("/page").header("accept-encoding", "gzip").await.assert_not_hit();
    weir.get("/page").header("accept-encoding", "gzip, br;q=0").await.assert_hit();
    weir.get("/page").await.assert_not_hit();
    weir.get("/page").header("accept-encoding", "identity").await.assert_hit();
    assert_eq!(origin.count("/page"), 3);
    // What does not select is not forwarded either: the next who selects this entry could not read it.
    weir.get("/page?2").header("accept-encoding", "x-odd, gzip;q=0.5").await.assert_stored();
    assert_eq!(origin.last("/page").header("accept-encoding"), Some("gzip"));
}

#[tokio::test]
async fn vary_star_is_never_reused() {
    let origin = Origin::start().await;
    origin.counting_with("GET /page", |reply| reply.header("vary", "*"));
    let weir = Weir::start(&origin, PAGE).await;
    for n in 1..=3 {
        let answer = weir.get("/page").await;
        assert_eq!(answer.assert_not_hit().text(), format!("answer {n}"));
        assert!(!answer.cache().stored, "{answer:?}");
    }
}

#[tokio::test]
async fn every_line_of_vary_counts() {
    let origin = Origin::start().await;
    origin.counting_with("GET /page", |reply| reply.header("vary", "x-a").header("vary", "x-b, x-c"));
    let weir = Weir::start(&origin, PAGE).await;
    weir.get("/page").await.assert_stored();
    weir.get("/page").await.assert_hit();
    for name in ["x-a", "x-b", "x-c"] {
        weir.get("/page").header(name, "1").await.assert_stored();
        weir.get("/page").header(name, "1").await.assert_hit();
    }
    weir.get("/page").header("x-d", "1").await.assert_hit();
    assert_eq!(origin.count("/page"), 4);
}

#[tokio::test]
async fn the_route_may_know_better_than_the_backend() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| Reply::text(seen.header("x-tenant").unwrap_or("none").to_owned()));
    let weir = Weir::start(&origin, &format!("{PAGE}\nvary = [\"x-tenant\"]")).await;
    for tenant in ["red", "blue"] {
        assert_eq!(weir.get("/page").header("x-tenant", tenant).await.assert_stored().text(), tenant);
        assert_eq!(weir.get("/page").header("x-tenant", tenant).await.assert_hit().text(), tenant);
    }
}

#[tokio::test]
async fn those_who_wait_take_only_what_they_select() {
    let origin = polyglot().await;
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold_next("GET /page", 1);
    let german = weir.get("/page").header("accept-language", "de").spawn();
    hold.caught(1).await;
    let others: Vec<_> = ["fr", "de", "en", "de", "fr"]
        .map(|language| (language, weir.get("/page").header("accept-language", language).spawn()))
        .into();
    hold.release();
    assert_eq!(german.await.unwrap().text(), "de");
    for (language, answer) in others {
        assert_eq!(answer.await.unwrap().text(), language);
    }
}

#[tokio::test]
async fn a_purge_takes_all_variants() {
    let origin = polyglot().await;
    origin.always("PUT /page", || Reply::status(204));
    let weir = Weir::start(&origin, PAGE).await;
    for language in ["de", "fr"] {
        weir.get("/page").header("accept-language", language).await.assert_stored();
        weir.get("/page").header("accept-language", language).await.assert_hit();
    }
    weir.put("/page").await.assert_code(204);
    for language in ["de", "fr"] {
        weir.get("/page").header("accept-language", language).await.assert_not_hit();
    }
}

#[tokio::test]
async fn a_vary_that_changes_is_followed() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        let reply = Reply::text(format!("{:?} {:?}", seen.header("x-a"), seen.header("x-b")));
        match seen.header("x-b") {
            None => reply.header("vary", "x-a"),
            Some(_) => reply.header("vary", "x-a, x-b"),
        }
    });
    origin.always("PUT /page", || Reply::status(204));
    let weir = Weir::start(&origin, PAGE).await;
    weir.get("/page").header("x-a", "1").await.assert_stored();
    weir.put("/page").await;
    let both = || weir.get("/page").header("x-a", "1").header("x-b", "2");
    both().await.assert_stored();
    both().await.assert_hit();
    let other = weir.get("/page").header("x-a", "1").header("x-b", "3").await;
    assert_eq!(other.assert_not_hit().text(), "Some(\"1\") Some(\"3\")");
}

#[tokio::test]
async fn a_field_that_does_not_reach_the_backend_selects_nothing() {
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| {
        Reply::text(seen.header("x-version").unwrap_or("none").to_owned()).header("vary", "X-Version")
    });
    let weir = Weir::start(&origin, PAGE).await;
    // `Connection` takes the field away between Weir and the backend: this is no answer for version 2.
    let ask = weir.get("/page").header("x-version", "2").header("connection", "x-version");
    assert_eq!(ask.await.text(), "none");
    assert_eq!(weir.get("/page").header("x-version", "2").await.text(), "2");
    assert_eq!(weir.get("/page").await.assert_hit().text(), "none");
}

#[tokio::test]
async fn answers_that_vary_by_what_weir_itself_says_are_not_shared() {
    let origin = Origin::start().await;
    let dress = |reply: Reply| reply.header("vary", "X-Forwarded-For").header("etag", "\"1\"");
    origin.counting_with("GET /page", dress);
    let weir = Weir::start(&origin, PAGE).await;
    let first = weir.get("/page").await;
    assert_eq!(first.cache().detail.as_deref(), Some("vary-client"));
    assert_eq!(weir.get("/page").await.assert_not_hit().text(), "answer 2");
    // Nor after a validation that says so.
    let origin = Origin::start().await;
    origin.on("GET /page", |seen| match seen.header("if-none-match") {
        Some(_) => Reply::status(304).header("etag", "\"1\"").header("vary", "X-Forwarded-For"),
        None => Reply::text("here").header("etag", "\"1\"").header("cache-control", "no-cache"),
    });
    let weir = Weir::start(&origin, PAGE).await;
    weir.get("/page").await.assert_stored();
    let validated = weir.get("/page").await;
    assert_eq!(validated.text(), "here");
    assert!(!validated.cache().stored);
}
