//! Whose answer is it? Nobody ever sees what was meant for somebody else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use support::{Origin, Redis, Reply, Weir};

const PER_HEADER: &str = r#"
    [[route]]
    name = "me"
    match = "GET /me"
    ttl = "5m"
    subject = { header = "authorization" }
"#;

/// A backend that greets whoever the credentials name, and counts.
async fn greeter() -> Origin {
    let origin = Origin::start().await;
    let n = AtomicUsize::new(0);
    origin.on("* /*", move |seen| {
        let n = n.fetch_add(1, Ordering::SeqCst) + 1;
        let who = seen.header("authorization").or(seen.header("cookie")).or(seen.header("x-api-key"));
        Reply::text(format!("{} #{n}", who.unwrap_or("nobody")))
    });
    origin
}

#[tokio::test]
async fn two_users_of_one_url_have_an_answer_each() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, PER_HEADER).await;
    assert_eq!(weir.get("/me").bearer("ann").await.assert_stored().text(), "Bearer ann #1");
    assert_eq!(weir.get("/me").bearer("bob").await.assert_stored().text(), "Bearer bob #2");
    for _ in 0..3 {
        assert_eq!(weir.get("/me").bearer("ann").await.assert_hit().text(), "Bearer ann #1");
        assert_eq!(weir.get("/me").bearer("bob").await.assert_hit().text(), "Bearer bob #2");
    }
    assert_eq!(origin.count("/me"), 2);
}

#[tokio::test]
async fn two_users_never_share_through_redis_either() {
    let (origin, redis) = (greeter().await, Redis::start().await);
    let first = Weir::with_redis(&origin, &redis, PER_HEADER).await;
    first.get("/me").bearer("ann").await.assert_stored();
    redis.filled("me", 1).await;
    let second = Weir::with_redis(&origin, &redis, PER_HEADER).await;
    assert_eq!(second.get("/me").bearer("bob").await.assert_not_hit().text(), "Bearer bob #2");
    assert_eq!(second.get("/me").bearer("ann").await.assert_hit().text(), "Bearer ann #1");
    for name in redis.keys("*").await {
        assert!(!name.contains("ann") && !name.contains("bob"), "a key names its user: {name}");
    }
}

#[tokio::test]
async fn two_users_at_the_same_moment_are_two_requests_at_the_backend() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, PER_HEADER).await;
    let hold = origin.hold("GET /me");
    let ann = weir.get("/me").bearer("ann").spawn();
    hold.caught(1).await;
    let bob = weir.get("/me").bearer("bob").spawn();
    hold.caught(2).await;
    hold.release();
    assert!(ann.await.unwrap().text().starts_with("Bearer ann"));
    assert!(bob.await.unwrap().text().starts_with("Bearer bob"));
}

#[tokio::test]
async fn somebody_and_nobody_are_two() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, PER_HEADER).await;
    assert_eq!(weir.get("/me").bearer("ann").await.text(), "Bearer ann #1");
    assert_eq!(weir.get("/me").await.assert_not_hit().text(), "nobody #2");
    assert_eq!(weir.get("/me").await.text().split(' ').next(), Some("nobody"));
    assert_eq!(weir.get("/me").bearer("ann").await.assert_hit().text(), "Bearer ann #1");
}

#[tokio::test]
async fn a_credential_that_is_not_the_subject_passes_through() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, PER_HEADER).await;
    weir.get("/me").bearer("ann").await.assert_stored();
    let foreign = [
        ("cookie", "sid=1"),
        ("x-api-key", "k"),
        ("x-forwarded-user", "bob"),
        ("x-forwarded-client-cert", "Hash=1"),
        ("proxy-authorization", "Basic eA=="),
    ];
    for (n, (name, value)) in foreign.into_iter().enumerate() {
        for _ in 0..2 {
            let answer = weir.get("/me").bearer("ann").header(name, value).await;
            assert!(!answer.hit() && !answer.cache().stored, "{name} is foreign: {answer:?}");
        }
        assert_eq!(origin.count("/me"), 1 + 2 * (n + 1), "{name}: both reached the backend");
    }
    assert_eq!(weir.get("/me").bearer("ann").await.assert_hit().text(), "Bearer ann #1");
}

#[tokio::test]
async fn authorization_on_a_route_without_a_subject_passes_through() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, "[[route]]\nname = \"news\"\nmatch = \"GET /news\"\nttl = \"5m\"").await;
    for n in 1..=3 {
        let answer = weir.get("/news").bearer("ann").await;
        assert_eq!(answer.assert_not_hit().text(), format!("Bearer ann #{n}"));
        assert!(!answer.cache().stored, "{answer:?}");
    }
    assert_eq!(weir.get("/news").await.assert_stored().text(), "nobody #4");
    assert_eq!(weir.get("/news").await.assert_hit().text(), "nobody #4");
    assert_eq!(weir.get("/news").bearer("bob").await.assert_not_hit().text(), "Bearer bob #5");
}

#[tokio::test]
async fn a_public_route_is_shared_whatever_is_sent() {
    let origin = Origin::start().await;
    origin.counting("GET /news");
    let route = "[[route]]\nname = \"news\"\nmatch = \"GET /news\"\nttl = \"5m\"\npublic = true";
    let weir = Weir::start(&origin, route).await;
    weir.get("/news").bearer("ann").await.assert_stored();
    weir.get("/news").bearer("bob").await.assert_hit();
    weir.get("/news").cookie("sid=1").await.assert_hit();
    weir.get("/news").await.assert_hit();
    assert_eq!(origin.count("/news"), 1);
}

#[tokio::test]
async fn a_cookie_can_be_the_subject() {
    let origin = greeter().await;
    let route = r#"
        [[route]]
        name = "cart"
        match = "GET /cart"
        ttl = "5m"
        subject = { cookie = "sid" }
    "#;
    let weir = Weir::start(&origin, route).await;
    assert_eq!(weir.get("/cart").cookie("sid=a").await.assert_stored().text(), "sid=a #1");
    assert_eq!(weir.get("/cart").cookie("sid=b").await.assert_stored().text(), "sid=b #2");
    assert_eq!(weir.get("/cart").cookie("sid=a").await.assert_hit().text(), "sid=a #1");
    // Another cookie may be what the backend answers by.
    weir.get("/cart").cookie("sid=a; role=admin").await.assert_not_hit();
    // Two of the name: who knows which one the backend takes?
    let twice = weir.get("/cart").cookie("sid=a; sid=b").await;
    assert!(!twice.hit() && !twice.cache().stored, "{twice:?}");
    let twice = weir.get("/cart").cookie("sid=a").cookie("sid=b").await;
    assert!(!twice.hit() && !twice.cache().stored, "{twice:?}");
    assert_eq!(weir.get("/cart").cookie("sid=b").await.assert_hit().text(), "sid=b #2");
}

#[tokio::test]
async fn an_ignored_cookie_is_stripped_so_that_it_cannot_matter() {
    let origin = greeter().await;
    let route = r#"
        [[route]]
        name = "page"
        match = "GET /page"
        ttl = "5m"
        ignore = ["cookie:_ga*", "header:x-api-key"]
    "#;
    let weir = Weir::start(&origin, route).await;
    weir.get("/page").cookie("_ga=1; _ga_X=2").await.assert_stored();
    let seen = origin.last("/page");
    assert_eq!(seen.header("cookie"), None, "the analytics cookies stayed here");
    weir.get("/page").cookie("_ga=other").await.assert_hit();
    weir.get("/page").header("x-api-key", "k").await.assert_hit();
    weir.get("/page").await.assert_hit();
    assert_eq!(origin.count("/page"), 1);
    // A cookie that was not declared is a credential as ever.
    weir.get("/page").cookie("_ga=1; sid=2").await.assert_not_hit();
    assert!(origin.last("/page").header("cookie").unwrap().contains("sid=2"));
}

#[tokio::test]
async fn what_sets_a_cookie_is_never_stored() {
    let origin = Origin::start().await;
    origin.counting_with("GET /me", |reply| reply.header("set-cookie", "sid=fresh"));
    origin.counting_with("GET /login", |reply| reply.header("set-cookie", "sid=fresh"));
    let text = format!("{PER_HEADER}\n[[route]]\nname = \"login\"\nmatch = \"GET /login\"\nttl = \"5m\"");
    let weir = Weir::start(&origin, &text).await;
    for n in 1..=3 {
        for ask in [weir.get("/me").bearer("ann"), weir.get("/login")] {
            let answer = ask.await;
            assert_eq!(answer.assert_not_hit().text(), format!("answer {n}"));
            assert!(!answer.cache().stored, "{answer:?}");
            assert_eq!(answer.header("set-cookie"), Some("sid=fresh"), "the client gets its cookie");
        }
    }
}

#[tokio::test]
async fn private_needs_a_subject() {
    let origin = Origin::start().await;
    origin.counting_with("GET /me", |reply| reply.header("cache-control", "private"));
    origin.counting_with("GET /shared", |reply| reply.header("cache-control", "private"));
    let text = format!("{PER_HEADER}\n[[route]]\nname = \"shared\"\nmatch = \"GET /shared\"\nttl = \"5m\"");
    let weir = Weir::start(&origin, &text).await;
    weir.get("/me").bearer("ann").await.assert_stored();
    weir.get("/me").bearer("ann").await.assert_hit();
    for _ in 0..2 {
        assert!(!weir.get("/shared").await.assert_not_hit().cache().stored);
    }
}

#[tokio::test]
async fn private_is_not_kept_for_callers_who_are_nobody() {
    let origin = Origin::start().await;
    origin.counting_with("GET /me", |reply| reply.header("cache-control", "private"));
    let weir = Weir::start(&origin, PER_HEADER).await;
    for n in 1..=3 {
        // The route has a subject and this caller has none: everybody who sends no credential would share the entry.
        let answer = weir.get("/me").await;
        assert_eq!(answer.assert_not_hit().text(), format!("answer {n}"));
        assert!(!answer.cache().stored, "{answer:?}");
    }
    weir.get("/me").bearer("ann").await.assert_stored();
    assert_eq!(weir.get("/me").bearer("ann").await.assert_hit().text(), "answer 4");
    weir.get("/me").await.assert_not_hit();
}

const SECRET: &str = "a-shared-secret-of-more-than-32-bytes-for-hs256";

const JWT: &str = r#"
    [[keys]]
    name = "main"
    secret = "a-shared-secret-of-more-than-32-bytes-for-hs256"

    [[route]]
    name = "me"
    match = "GET /me"
    ttl = "5m"
    subject = { jwt = { keys = "main", claim = "sub", from = { header = "authorization" } } }
"#;

/// A token for `sub`, valid for `lifetime` seconds from now, signed with `secret`.
fn token(sub: &str, lifetime: i64, secret: &str, extra: &Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() as i64;
    let mut claims = json!({ "sub": sub, "exp": now + lifetime });
    claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

#[tokio::test]
async fn a_verified_claim_is_the_subject_whatever_else_the_token_says() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, JWT).await;
    let ann = token("ann", 3600, SECRET, &json!({"jti": "1"}));
    let ann_again = token("ann", 7200, SECRET, &json!({"jti": "2"}));
    let bob = token("bob", 3600, SECRET, &json!({}));
    let first = weir.get("/me").bearer(&ann).await;
    first.assert_stored();
    assert_eq!(weir.get("/me").bearer(&ann_again).await.assert_hit().text(), first.text());
    assert_eq!(weir.get("/me").bearer(&bob).await.assert_stored().text(), format!("Bearer {bob} #2"));
    assert_eq!(weir.get("/me").bearer(&bob).await.assert_hit().text(), format!("Bearer {bob} #2"));
    assert_eq!(origin.count("/me"), 2);
}

#[tokio::test]
async fn a_token_that_cannot_be_trusted_passes_through_to_the_backend() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, JWT).await;
    let good = token("ann", 3600, SECRET, &json!({}));
    weir.get("/me").bearer(&good).await.assert_stored();
    let unsigned = {
        // {"alg":"none","typ":"JWT"} with ann's own claims and no signature.
        let claims = good.split('.').nth(1).unwrap();
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
    };
    let untrusted = [
        ("forged", token("ann", 3600, "another-secret-of-more-than-32-bytes-entirely", &json!({}))),
        ("expired", token("ann", -3600, SECRET, &json!({}))),
        ("not yet valid", token("ann", 7200, SECRET, &json!({"nbf": 4_102_444_800_i64}))),
        ("unsigned", unsigned),
        ("garbled", "not.a.token".to_owned()),
    ];
    for (what, token) in untrusted {
        let before = origin.count("/me");
        for _ in 0..2 {
            let answer = weir.get("/me").bearer(&token).await;
            assert!(!answer.hit() && !answer.cache().stored, "{what}: {answer:?}");
        }
        assert_eq!(origin.count("/me"), before + 2, "{what}: both reached the backend");
    }
    weir.get("/me").bearer(&good).await.assert_hit();
}

/// The halves of one key, and the public half of another; made for this test.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIHA0XhyzMHNKI9zTqnsiJoYyk2WCKIt+dc8jsTzYdjMx\n-----END PRIVATE KEY-----";
const PUBLIC: &str = "90xcFFXyBCAQC4eVnTyHo8kB0D17oWVwEN33pPzWeRw";
const ANOTHER: &str = "o3NNl9faETnz8HnHBlZkSJb59kfii7Z5jcQjHm6Px54";

#[tokio::test]
async fn a_token_whose_key_is_withdrawn_is_known_no_longer() {
    let origin = greeter().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.json");
    let publish = |x: &str| {
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]});
        // Moved there whole: nobody reads half of it.
        let draft = dir.path().join("draft.json");
        std::fs::write(&draft, keys.to_string()).unwrap();
        std::fs::rename(&draft, &file).unwrap();
    };
    publish(PUBLIC);
    let keys = format!("jwks_file = '{}'\nrefresh = '1s'", file.display());
    let secret = format!("secret = \"{SECRET}\"");
    let weir = Weir::start(&origin, &JWT.replace(&secret, &keys)).await;
    let claims = json!({"sub": "ann", "exp": 4_102_444_800_i64});
    let key = EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap();
    let ann = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap();
    weir.get("/me").bearer(&ann).await.assert_stored();
    weir.get("/me").bearer(&ann).await.assert_hit();
    publish(ANOTHER);
    support::eventually("the withdrawn key is trusted no longer", support::DEADLINE, async || {
        !weir.get("/me").bearer(&ann).await.hit()
    })
    .await;
    let answer = weir.get("/me").bearer(&ann).await;
    assert!(!answer.hit() && !answer.cache().stored, "{answer:?}");
}

#[tokio::test]
async fn a_token_that_lacks_the_claim_passes_through_and_more_claims_make_more_subjects() {
    let origin = greeter().await;
    let both = JWT.replace("claim = \"sub\"", "claims = [\"sub\", \"tenant\"]");
    let weir = Weir::start(&origin, &both).await;
    let without = token("ann", 3600, SECRET, &json!({}));
    for _ in 0..2 {
        assert!(!weir.get("/me").bearer(&without).await.assert_not_hit().cache().stored);
    }
    let red = token("ann", 3600, SECRET, &json!({"tenant": "red"}));
    let blue = token("ann", 3600, SECRET, &json!({"tenant": "blue"}));
    weir.get("/me").bearer(&red).await.assert_stored();
    weir.get("/me").bearer(&blue).await.assert_stored();
    weir.get("/me").bearer(&red).await.assert_hit();
}

#[tokio::test]
async fn the_query_is_part_of_the_key_and_what_is_not_keyed_is_not_forwarded() {
    let origin = Origin::start().await;
    origin.on("GET /list", |seen| Reply::text(format!("?{}", seen.query)));
    let route = r#"
        [[route]]
        name = "list"
        match = "GET /list"
        ttl = "5m"
        query = { ignore = ["utm_*"], sets = ["symbols"] }
    "#;
    let weir = Weir::start(&origin, route).await;
    weir.get("/list?b=2&a=1&utm_source=mail").await.assert_stored();
    assert_eq!(origin.last("/list").query, "a=1&b=2", "sorted, and without what is not keyed");
    weir.get("/list?a=1&b=2").await.assert_hit();
    weir.get("/list?a=1&b=3").await.assert_not_hit();
    weir.get("/list?symbols=MSFT,AAPL").await.assert_stored();
    weir.get("/list?symbols=AAPL,MSFT").await.assert_hit();
    weir.get("/list?a=2&a=1").await.assert_stored();
    weir.get("/list?a=1&a=2").await.assert_not_hit();
}

#[tokio::test]
async fn two_hosts_are_two_unless_the_route_says_any() {
    let origin = Origin::start().await;
    origin.counting("GET /a");
    origin.counting("GET /any");
    let text = r#"
        [[route]]
        name = "a"
        match = "GET /a"
        ttl = "5m"
        [[route]]
        name = "any"
        match = "GET /any"
        ttl = "5m"
        host = "any"
    "#;
    let weir = Weir::start(&origin, text).await;
    weir.get("/a").header("host", "one.test").await.assert_stored();
    weir.get("/a").header("host", "two.test").await.assert_stored();
    weir.get("/a").header("host", "ONE.test").await.assert_hit();
    weir.get("/any").header("host", "one.test").await.assert_stored();
    weir.get("/any").header("host", "two.test").await.assert_hit();
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_outside_is_part_of_the_key() {
    let origin = Origin::start().await;
    origin.on("GET /a", |seen| {
        let told = |name| seen.header(name).unwrap_or("none").to_owned();
        let told = ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-prefix"].map(told);
        Reply::text(format!("{told:?}, {}", seen.header("forwarded").unwrap_or("not forwarded")))
    });
    let route = "[[route]]\nname = \"a\"\nmatch = \"GET /a\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, &format!("[server]\ntrust_forwarded = true\n{route}")).await;
    weir.get("/a").await.assert_stored();
    let outsides = [
        ("x-forwarded-host", "one.test"),
        ("x-forwarded-host", "two.test"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/api"),
    ];
    for (name, value) in outsides {
        // A backend builds links out of these.
        let answer = weir.get("/a").header(name, value).await;
        assert!(answer.assert_stored().text().contains(value), "{answer:?}");
        assert_eq!(weir.get("/a").header(name, value).await.assert_hit().text(), answer.text());
    }
    // `Forwarded` says the same and is not keyed, so it goes no further.
    let answer = weir.get("/a?2").header("forwarded", "host=three.test").await;
    assert!(answer.assert_stored().text().ends_with("not forwarded"), "{answer:?}");
}

#[tokio::test]
async fn a_read_with_a_body_that_is_not_keyed_passes_through() {
    let origin = Origin::start().await;
    origin.on("GET /search", |seen| Reply::text(String::from_utf8_lossy(&seen.body).into_owned()));
    let route = "[[route]]\nname = \"search\"\nmatch = \"GET /search\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, route).await;
    weir.get("/search").await.assert_stored();
    for body in ["one", "two"] {
        let answer = weir.get("/search").body(body).await;
        assert_eq!(answer.assert_not_hit().text(), body);
        assert!(!answer.cache().stored, "{answer:?}");
    }
    assert_eq!(weir.get("/search").await.assert_hit().text(), "");
}

#[tokio::test]
async fn method_and_url_overrides_do_not_reach_the_backend_on_cached_routes() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, PER_HEADER).await;
    weir.get("/me")
        .bearer("ann")
        .header("x-http-method-override", "DELETE")
        .header("x-original-url", "/admin")
        .header("x-rewrite-url", "/admin")
        .await;
    let seen = origin.last("/me");
    for name in ["x-http-method-override", "x-original-url", "x-rewrite-url"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn overrides_do_not_slip_past_a_cached_route_either() {
    let origin = greeter().await;
    let weir = Weir::start(&origin, PER_HEADER).await;
    // The foreign cookie makes it pass through; what it asks for is still said by its method and path alone.
    let passing = weir.get("/me").bearer("ann").cookie("sid=1");
    let answer = passing.header("x-http-method-override", "DELETE").header("x-original-url", "/admin").await;
    assert!(!answer.hit() && !answer.cache().stored, "{answer:?}");
    let seen = origin.last("/me");
    assert_eq!(seen.header("cookie"), Some("sid=1"), "it passed as it came");
    for name in ["x-http-method-override", "x-original-url"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn a_path_that_backends_read_differently_passes_through() {
    let origin = greeter().await;
    let route = "[[route]]\nname = \"all\"\nmatch = \"GET /files/**\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, route).await;
    weir.get("/files/a").await.assert_stored();
    for path in ["/files/x%2Fy", "/files/../me", "/files/%2e%2e/me", "/files/a;v=1", "/files/a%00"] {
        for _ in 0..2 {
            let answer = weir.get(path).await;
            assert!(!answer.hit() && !answer.cache().stored, "{path}: {answer:?}");
        }
        assert_eq!(origin.count(&format!("GET {path}")), 2, "{path} is forwarded as it came");
    }
}

#[tokio::test]
async fn nobody_takes_the_place_of_a_subject_that_connection_took_away() {
    let origin = Origin::start().await;
    origin.on("GET /me", |seen| Reply::text(seen.header("x-account").unwrap_or("nobody").to_owned()));
    let text = PER_HEADER.replace("authorization", "x-account");
    let weir = Weir::start(&origin, &text).await;
    let ask = weir.get("/me").header("x-account", "ann").header("connection", "x-account");
    assert_eq!(ask.await.text(), "nobody");
    assert_eq!(weir.get("/me").header("x-account", "ann").await.text(), "ann");
}

#[tokio::test]
async fn what_a_stranger_claims_about_the_outside_colours_no_shared_answer() {
    let claims = [
        "x-forwarded-host",
        "x-forwarded-protocol",
        "x-forwarded-path",
        "x-original-host",
        "x-url-scheme",
        "front-end-https",
    ];
    let origin = Origin::start().await;
    origin.on("GET /links", move |seen| {
        let believed = claims.iter().filter(|c| seen.header(c).is_some_and(|v| v.contains("evil")));
        Reply::text(believed.copied().collect::<Vec<_>>().join(" "))
    });
    let weir =
        Weir::start(&origin, "[[route]]\nname = \"links\"\nmatch = \"GET /links\"\nttl = \"5m\"").await;
    let mut ask = weir.get("/links");
    for claim in claims {
        ask = ask.header(claim, "evil");
    }
    assert_eq!(ask.await.assert_stored().text(), "", "believed by the backend, stored for everybody");
}

#[tokio::test]
async fn a_keyed_body_has_one_type() {
    let origin = Origin::start().await;
    origin.on("POST /search", |seen| {
        let last = seen.headers.get_all("content-type").iter().next_back().unwrap().to_str().unwrap();
        Reply::text(last.to_owned())
    });
    let text = "[[route]]\nname = \"search\"\nmatch = \"POST /search\"\nbody = \"any\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, text).await;
    let ask = || weir.post("/search").json(&json!({}));
    let forked = ask().header("content-type", "text/other").await;
    assert_eq!(forked.assert_not_hit().text(), "text/other");
    assert!(!forked.cache().stored);
    assert_eq!(ask().await.text(), "application/json");
}
