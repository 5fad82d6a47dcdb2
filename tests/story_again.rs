//! Asked again: whatever was asked before, by whomever, an answer is the answer to this very request.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Origin, Redis, Reply, Weir, eventually};

/// A backend whose answers say what they are answers to.
async fn echo() -> Origin {
    let origin = Origin::start().await;
    origin.on("* /*", |seen| {
        let told = |name| seen.header(name).unwrap_or("-").to_owned();
        let host = told("host").to_lowercase();
        let host = host.strip_suffix(":80").unwrap_or(&host);
        let (auth, cookie) = match seen.path.starts_with("/p/") {
            true => ("any".to_owned(), "any".to_owned()),
            false => (told("authorization"), told("cookie")),
        };
        let path = seen.path.replace("%31", "1");
        let proto = told("x-forwarded-proto");
        let said = format!("{proto} {host} {path} {} {auth} {cookie} {}", seen.query, told("x-lang"));
        // Once more in a field, of the same length whatever is said: heads are remembered apart from contents.
        Reply::text(said.clone()).header("x-said", &format!("{said:80}."))
    });
    origin
}

const ROUTES: &str = r#"
    [[route]]
    name = "public"
    match = "GET /p/{id}"
    ttl = "5m"
    public = true
    vary = ["x-lang"]

    [[route]]
    name = "mine"
    match = "GET /m/{id}"
    ttl = "5m"
    subject = { header = "authorization" }
    vary = ["x-lang"]

    [[route]]
    name = "nobody"
    match = "GET /n/{id}"
    ttl = "5m"
    vary = ["x-lang"]
"#;

/// Small and even enough to draw requests by.
struct Draw(u64);

impl Draw {
    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        choices[(self.0 >> 33) as usize % choices.len()]
    }
}

async fn every_answer_is_to_its_own_request(weir: &Weir, mut draw: Draw, protos: &[&str]) -> usize {
    let mut hits = 0;
    for n in 0..600 {
        let method = draw.of(&["GET", "GET", "GET", "HEAD"]);
        let path = draw.of(&["/p/1", "/p/2", "/m/1", "/m/%31", "/n/1", "/p/%31"]);
        let query = draw.of(&["", "", "a=1&b=2", "b=2&a=1"]);
        let host = draw.of(&["a.example", "A.example", "a.example:80", "b.example"]);
        let auth = draw.of(&["-", "-", "Bearer ann", "Bearer bob"]);
        let cookie = draw.of(&["-", "-", "-", "s=1"]);
        let lang = draw.of(&["-", "-", "fr"]);
        let proto = draw.of(protos);
        let connection = draw.of(&["-", "keep-alive", "Keep-Alive", "authorization", "x-lang"]);
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut ask = weir.request(method, &target).header("host", host);
        for (name, value) in
            [("authorization", auth), ("cookie", cookie), ("x-lang", lang), ("connection", connection)]
        {
            if value != "-" {
                ask = ask.header(name, value);
            }
        }
        if proto != "-" {
            ask = ask.header("x-forwarded-proto", proto);
        }
        let answer = ask.await;
        assert_eq!(answer.code(), 200);
        hits += usize::from(answer.hit());
        if method == "HEAD" {
            continue;
        }
        let host = host.to_lowercase().replace(":80", "");
        // A field that `Connection` names goes no further, unless it says who asks.
        let lang = if connection == "x-lang" { "-" } else { lang };
        let (auth, cookie) = if path.starts_with("/p/") { ("any", "any") } else { (auth, cookie) };
        let proto = if proto == "https" { "https" } else { "http" };
        let path = path.replace("%31", "1");
        let mut said = answer.text();
        assert_eq!(
            answer.header("x-said").unwrap().trim_end_matches(['.', ' ']),
            said.trim_end(),
            "request {n}"
        );
        // What the cache has no part in is sent on as it came.
        said = said.replace("b=2&a=1", "a=1&b=2");
        let query = query.replace("b=2&a=1", "a=1&b=2");
        assert_eq!(said, format!("{proto} {host} {path} {query} {auth} {cookie} {lang}"), "request {n}");
    }
    hits
}

#[tokio::test]
async fn answers_are_to_the_request_they_answer() {
    let origin = echo().await;
    let weir = Weir::start(&origin, ROUTES).await;
    let hits = every_answer_is_to_its_own_request(&weir, Draw(1), &["-"]).await;
    assert!(hits > 200, "of 600 requests {hits} were hits: nothing was asked again");
}

#[tokio::test]
async fn they_are_from_redis_alone_too() {
    let (origin, redis) = (echo().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, &format!("[cache]\nmemory = \"0\"\n{ROUTES}")).await;
    let hits = every_answer_is_to_its_own_request(&weir, Draw(3), &["-"]).await;
    assert!(hits > 200, "of 600 requests {hits} were hits: nothing was asked again");
}

#[tokio::test]
async fn what_redis_no_longer_has_is_fetched_also_for_a_target_that_was_hit() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("/x");
    let route = "[cache]\nmemory = \"0\"\n[[route]]\nname = \"x\"\nmatch = \"GET /x\"\nttl = \"5m\"\npublic = true\ntags = [\"x:all\"]";
    let weir = Weir::with_redis(&origin, &redis, route).await;
    for n in 1..4 {
        eventually("it is a hit", Duration::from_secs(10), || async { weir.get("/x").await.hit() }).await;
        // Often enough for whatever is remembered of it.
        for _ in 0..5 {
            let answer = weir.get("/x").await;
            assert!(answer.hit() && answer.text().starts_with("answer "), "{n}");
        }
        let before = origin.count("/x");
        weir.operator().post("/purge").json(&json!({"tags": ["x:all"]})).await.assert_code(200);
        let answer = weir.get("/x").await;
        assert_eq!((answer.hit(), answer.text()), (false, format!("answer {}", before + 1)));
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_outside_counts_again_and_again() {
    let origin = echo().await;
    let trusting = format!("[server]\ntrust_forwarded = true\n{ROUTES}");
    let weir = Weir::start(&origin, &trusting).await;
    let hits = every_answer_is_to_its_own_request(&weir, Draw(2), &["-", "http", "https"]).await;
    assert!(hits > 100, "of 600 requests {hits} were hits: nothing was asked again");
}

#[tokio::test]
async fn a_field_may_choose_the_route_of_a_target_that_is_known() {
    let origin = Origin::start().await;
    origin.counting("/x");
    let weir = Weir::start(
        &origin,
        r#"
        [[route]]
        name = "beta"
        match = "GET /x"
        when = { header = { user-agent = "beta" } }
        ttl = "5m"
        public = true

        [[route]]
        name = "all"
        match = "GET /x"
        ttl = "5m"
        public = true
        "#,
    )
    .await;
    for _ in 0..3 {
        assert_eq!(weir.get("/x").await.text(), "answer 1");
        assert_eq!(weir.get("/x").header("user-agent", "beta").await.text(), "answer 2");
    }
    assert_eq!(origin.count("/x"), 2);
}

#[tokio::test]
async fn somebody_with_a_field_of_plain_sight_for_a_name_is_not_nobody() {
    let origin = Origin::start().await;
    origin.on("* /*", |seen| Reply::text(seen.header("user-agent").unwrap_or("-").to_owned()));
    let weir = Weir::start(
        &origin,
        r#"
        [[route]]
        name = "x"
        match = "GET /x"
        ttl = "5m"
        subject = { header = "user-agent" }
        "#,
    )
    .await;
    for _ in 0..3 {
        assert_eq!(weir.get("/x").await.text(), "-");
        assert_eq!(weir.get("/x").header("user-agent", "a").await.text(), "a");
        assert_eq!(weir.get("/x").header("user-agent", "b").await.text(), "b");
    }
}
