//! The admin listener: probes, figures, purges by hand, the switch; and how Weir stops.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Origin, Redis, Reply, Weir, WeirConfig, eventually};

const ITEMS: &str = r#"
    [defaults]
    ttl = "5m"
    [[route]]
    name = "item"
    match = "GET /items/{id}"
    tags = ["item:{path.id}", "shelf:{query.shelf}"]
    [[route]]
    name = "items"
    match = "GET /items"
"#;

async fn warm(weir: &Weir, paths: &[&str]) {
    for path in paths {
        weir.get(path).await;
        weir.get(path).await.assert_hit();
    }
}

#[tokio::test]
async fn probes_answer_without_a_token() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    for path in ["/livez", "/readyz", "/healthz"] {
        let answer = weir.admin().get(path).await;
        assert_eq!(answer.assert_code(200).header("cache-control"), Some("no-store"), "{path}");
        weir.admin().head(path).await.assert_code(200);
    }
    let health = weir.admin().get("/healthz").await.json();
    assert_eq!((&health["status"], &health["enabled"]), (&json!("ok"), &json!(true)), "{health}");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"));
    weir.admin().get("/nonsense").await.assert_code(404);
    weir.admin().get("/purge").await.assert_code(405);
}

#[tokio::test]
async fn the_traffic_port_has_no_admin_and_probes_only_where_asked_for() {
    let origin = Origin::start().await;
    origin.always("* /*", || Reply::text("the API's own"));
    let weir = Weir::start(&origin, ITEMS).await;
    for path in ["/livez", "/readyz", "/healthz", "/metrics", "/stats"] {
        assert_eq!(weir.get(path).await.text(), "the API's own", "{path}");
    }
    assert_eq!(weir.post("/flush").await.text(), "the API's own");
    let probing = Weir::start(&origin, &format!("[server]\nprobes = true\n{ITEMS}")).await;
    for path in ["/livez", "/readyz"] {
        let answer = probing.get(path).await;
        assert!(answer.code() == 200 && answer.text() != "the API's own", "{path}: {answer:?}");
    }
    assert_eq!(probing.get("/healthz").await.text(), "the API's own");
}

#[tokio::test]
async fn what_changes_something_needs_the_token() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    let calls = [
        ("/purge", json!({"tags": ["item:1"]})),
        ("/flush", json!({})),
        ("/disable", json!({})),
        ("/enable", json!({})),
    ];
    for (path, body) in &calls {
        let anonymous = weir.admin().post(path).json(body).await;
        assert_eq!(anonymous.assert_code(401).header("content-type"), Some("application/problem+json"));
        for wrong in ["wrong", "", "a-token-for-the-stories-0123456789abcde"] {
            let refused = weir.admin().post(path).bearer(wrong).json(body).await;
            assert!([401, 403].contains(&refused.code()), "{path} with {wrong:?}: {refused:?}");
        }
    }
    weir.get("/items/1").await.assert_hit();
    let tokenless = WeirConfig::new(ITEMS).upstream(&origin.url()).without_token().start().await;
    for (path, body) in &calls {
        for refused in
            [tokenless.admin().post(path).json(body).await, tokenless.operator().post(path).json(body).await]
        {
            refused.assert_code(403);
            assert!(refused.text().contains("token"), "it says what is missing: {refused:?}");
        }
    }
    tokenless.admin().get("/stats").await.assert_code(200);
}

#[tokio::test]
async fn a_purge_by_hand_tells_how_many_entries_went() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    let all = ["/items/1", "/items/1?shelf=a", "/items/2?shelf=a", "/items/3?shelf=b", "/items"];
    let cases: [(Value, &[&str]); 8] = [
        (json!({"tags": ["item:1"]}), &["/items/1", "/items/1?shelf=a"]),
        // Without a shelf in its query, an answer may be about every shelf.
        (json!({"tags": ["shelf:b"]}), &["/items/1", "/items/3?shelf=b"]),
        (json!({"tags": ["item:1", "item:2"]}), &["/items/1", "/items/1?shelf=a", "/items/2?shelf=a"]),
        (
            json!({"tags": ["shelf:*"]}),
            &["/items/1", "/items/1?shelf=a", "/items/2?shelf=a", "/items/3?shelf=b"],
        ),
        (json!({"paths": ["/items/2"]}), &["/items/2?shelf=a"]),
        (json!({"paths": ["/items/**"]}), &all),
        (json!({"routes": ["items"]}), &["/items"]),
        (json!({"tags": ["item:nobody"]}), &[]),
    ];
    for (body, gone) in cases {
        warm(&weir, &all).await;
        let answer = weir.operator().post("/purge").json(&body).await;
        assert_eq!(answer.assert_code(200).json()["purged"], gone.len(), "{body}: {answer:?}");
        for path in all {
            assert_eq!(!weir.get(path).await.hit(), gone.contains(&path), "{body} and {path}");
        }
    }
    warm(&weir, &all).await;
    let uncounted = json!({"routes": ["items"], "count": "none"});
    let answer = weir.operator().post("/purge").json(&uncounted).await;
    assert_eq!(answer.assert_code(200).json()["purged"], Value::Null);
    assert!(!weir.get("/items").await.hit(), "counted or not, it is purged");
}

#[tokio::test]
async fn a_purge_that_names_nothing_or_nonsense_is_refused() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    for body in [
        json!({}),
        json!({"tags": []}),
        json!({"tag_s": ["a"]}),
        json!({"routes": ["unheard-of"]}),
        json!([1]),
    ] {
        let answer = weir.operator().post("/purge").json(&body).await;
        assert_eq!(answer.code() / 100, 4, "{body}: {answer:?}");
    }
    weir.operator().post("/purge").body("not json").await.assert_code(400);
    weir.get("/items/1").await.assert_hit();
}

#[tokio::test]
async fn flush_voids_everything_here_and_leaves_redis_to_its_other_users() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let (one, two) =
        (Weir::with_redis(&origin, &redis, ITEMS).await, Weir::with_redis(&origin, &redis, ITEMS).await);
    redis.run::<()>(&["SET", "somebody:elses", "value"]).await;
    warm(&one, &["/items/1", "/items"]).await;
    redis.filled("item", 1).await;
    warm(&two, &["/items/1"]).await;
    one.operator().post("/flush").await.assert_code(200);
    one.get("/items/1").await.assert_not_hit();
    one.get("/items").await.assert_not_hit();
    origin.bump("1");
    one.operator().post("/flush").await.assert_code(200);
    eventually("the other instance follows", Duration::from_secs(5), || async {
        two.get("/items/1").await.item_version() == 2
    })
    .await;
    assert_eq!(redis.run::<String>(&["GET", "somebody:elses"]).await, "value");
}

#[tokio::test]
async fn the_switch_turns_caching_off_and_on() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    warm(&weir, &["/items/1"]).await;
    weir.operator().post("/disable").await.assert_code(200);
    assert_eq!(weir.admin().get("/stats").await.json()["enabled"], false);
    for _ in 0..2 {
        let answer = weir.get("/items/1").await;
        assert!(!answer.hit() && !answer.cache().stored, "{answer:?}");
    }
    // Purges go on counting while it is off.
    weir.put("/items/1").await;
    weir.operator().post("/enable").await.assert_code(200);
    assert_eq!(weir.get("/items/1").await.item_version(), 2);
    weir.get("/items/1").await.assert_hit();
}

#[tokio::test]
async fn stats_add_up() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    for _ in 0..4 {
        weir.get("/items/1").await;
    }
    weir.get("/items/2").await;
    weir.get("/unlisted").await;
    eventually("the figures are in", Duration::from_secs(5), || async {
        let stats = weir.admin().get("/stats").await.json();
        stats["hits"] == 3 && stats["misses"] == 2
    })
    .await;
    let stats = weir.admin().get("/stats").await.json();
    for key in ["enabled", "hits", "misses", "sets", "deletes", "hit_rate", "size_mb", "keys"] {
        assert!(!stats[key].is_null(), "{key} is missing: {stats}");
    }
    assert_eq!(
        (&stats["sets"], &stats["keys"], &stats["enabled"]),
        (&json!(2), &json!(2), &json!(true)),
        "{stats}"
    );
    assert!((stats["hit_rate"].as_f64().unwrap() - 60.0).abs() < 0.1, "{stats}");
}

#[tokio::test]
async fn metrics_count_by_route_and_outcome_and_name_nobody() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = format!("{ITEMS}\nsubject = {{ header = \"authorization\" }}");
    let weir = Weir::with_redis(&origin, &redis, &text).await;
    weir.get("/items").bearer("very-secret-token").await;
    weir.get("/items").bearer("very-secret-token").await;
    weir.get("/items/personal-id").await;
    weir.put("/items/personal-id").await;
    let answer = weir.admin().get("/metrics").await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"), "{answer:?}");
    let metrics = answer.text();
    for part in [
        "weir_requests_total{route=\"items\",outcome=\"hit\"} 1",
        "weir_requests_total{route=\"items\",outcome=\"miss\"} 1",
        "# TYPE weir_requests_total counter",
        "weir_redis_up 1",
        "outcome=\"mutation\"",
        "_bucket{",
    ] {
        assert!(metrics.contains(part), "no {part} in:\n{metrics}");
    }
    for secret in ["very-secret-token", "personal-id", "127.0.0.1"] {
        assert!(!metrics.contains(secret), "{secret} is in the metrics");
    }
}

#[tokio::test]
async fn redis_away_is_degraded_and_still_ready() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, ITEMS).await;
    let health = || async { weir.admin().get("/healthz").await.json() };
    eventually("all is well", Duration::from_secs(10), || async { health().await["status"] == "ok" }).await;
    assert!(health().await["redis"]["response_ms"].is_number(), "{}", health().await);
    redis.kill();
    eventually("degraded", Duration::from_secs(10), || async {
        weir.get("/items/1").await.assert_code(200);
        health().await["status"] == "degraded"
    })
    .await;
    weir.admin().get("/readyz").await.assert_code(200);
    weir.admin().get("/healthz").await.assert_code(200);
    redis.restart().await;
    eventually("all is well again", Duration::from_secs(10), || async { health().await["status"] == "ok" })
        .await;
    redis.freeze();
    let answer = weir.admin().get("/healthz").await;
    assert!(
        answer.elapsed < Duration::from_secs(5),
        "a frozen Redis must not hang a probe: {:?}",
        answer.elapsed
    );
    redis.thaw();
}

#[tokio::test]
async fn health_does_not_tell_the_password() {
    let origin = Origin::versioned().await;
    let redis = Redis::with_password("very-secret").await;
    let weir = Weir::with_redis(&origin, &redis, ITEMS).await;
    for path in ["/healthz", "/stats", "/metrics"] {
        let answer = weir.admin().get(path).await;
        assert!(!answer.text().contains("very-secret"), "{path}: {answer:?}");
    }
    assert!(!weir.said().contains("very-secret"));
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_end() {
    let origin = Origin::versioned().await;
    let mut weir = Weir::start(&origin, ITEMS).await;
    let hold = origin.hold("GET /*");
    let cached = weir.get("/items/1").spawn();
    let passed = weir.get("/items/2?x=1").header("cookie", "a=b").spawn();
    hold.caught(2).await;
    weir.terminate();
    eventually("the listener closes", Duration::from_secs(10), || async {
        tokio::net::TcpStream::connect(weir.addr()).await.is_err()
    })
    .await;
    if let Ok(answer) = weir.admin().get("/readyz").attempt().await {
        answer.assert_code(503);
    }
    hold.release();
    assert_eq!(cached.await.unwrap().assert_code(200).item_version(), 1);
    assert_eq!(passed.await.unwrap().assert_code(200).item_version(), 1);
    assert_eq!(weir.exit_code().await, Some(0));
}

#[tokio::test]
async fn readiness_falls_before_the_listener_closes() {
    let origin = Origin::versioned().await;
    let mut weir =
        Weir::start(&origin, &format!("[server]\nprobes = true\ndrain_delay = \"1s\"\n{ITEMS}")).await;
    weir.terminate();
    eventually("readiness falls", Duration::from_secs(5), || async {
        weir.admin().get("/readyz").await.code() == 503
    })
    .await;
    weir.get("/readyz").await.assert_code(503);
    weir.get("/livez").await.assert_code(200);
    weir.get("/items/1").await.assert_code(200);
    assert_eq!(weir.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_drain_that_takes_too_long_ends_and_says_so() {
    let origin = Origin::versioned().await;
    let mut weir = Weir::start(&origin, &format!("[server]\ndrain_timeout = \"300ms\"\n{ITEMS}")).await;
    let hold = origin.hold("GET /items/1");
    let cut = tokio::spawn(weir.get("/items/1").attempt());
    hold.caught(1).await;
    weir.terminate();
    assert_eq!(weir.exit_code().await, Some(3), "requests were cut");
    cut.await.unwrap().expect_err("the request was cut");
}

#[tokio::test]
async fn an_idle_weir_stops_at_once() {
    let origin = Origin::versioned().await;
    let redis = Redis::start().await;
    let mut weir = Weir::with_redis(&origin, &redis, ITEMS).await;
    let mut idle = weir.client().keep_alive().await;
    idle.send("GET", "/items/1").await.unwrap().assert_code(200);
    let began = std::time::Instant::now();
    weir.terminate();
    assert_eq!(weir.exit_code().await, Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "an idle connection held it up: {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_mutation_in_flight_at_sigterm_still_purges_for_the_others() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = format!("{ITEMS}\n[[purge]]\non = \"PUT /items/{{id}}\"\ntags = [\"item:{{path.id}}\"]");
    let mut one = Weir::with_redis(&origin, &redis, &text).await;
    let two = Weir::with_redis(&origin, &redis, &text).await;
    warm(&two, &["/items/1"]).await;
    let hold = origin.hold("PUT /items/1");
    let socket = one.put("/items/1").and_leave_open().await;
    hold.caught(1).await;
    one.terminate();
    drop(socket);
    hold.release();
    assert_eq!(one.exit_code().await, Some(0));
    eventually("the purge arrived", Duration::from_secs(5), || async {
        two.get("/items/1").await.item_version() == 2
    })
    .await;
}

#[tokio::test]
async fn a_mutation_whose_client_left_is_waited_for_at_sigterm() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = format!("{ITEMS}\n[[purge]]\non = \"PUT /items/{{id}}\"\ntags = [\"item:{{path.id}}\"]");
    let mut one = Weir::with_redis(&origin, &redis, &text).await;
    let two = Weir::with_redis(&origin, &redis, &text).await;
    warm(&two, &["/items/1"]).await;
    let hold = origin.hold("PUT /items/1");
    let socket = one.put("/items/1").and_leave_open().await;
    hold.caught(1).await;
    drop(socket);
    one.terminate();
    eventually("the listener closes", Duration::from_secs(5), || async {
        tokio::net::TcpStream::connect(one.addr()).await.is_err()
    })
    .await;
    // A pause is the subject here: no connection is left, and still it must not end within it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(two.get("/items/1").await.assert_hit().item_version(), 1, "the backend has not answered yet");
    hold.release();
    assert_eq!(one.exit_code().await, Some(0));
    eventually("the purge arrived", Duration::from_secs(5), || async {
        two.get("/items/1").await.item_version() == 2
    })
    .await;
}

#[tokio::test]
async fn the_access_log_tells_route_outcome_and_trace_without_the_query() {
    let origin = Origin::versioned().await;
    let text = format!("[log]\naccess = true\nformat = \"json\"\n{ITEMS}");
    let weir = Weir::start(&origin, &text).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    weir.get("/items/1?secret=1").header("traceparent", trace).await;
    weir.get("/items/1?secret=1").await;
    let lines = || -> Vec<Value> {
        weir.said()
            .lines()
            .filter_map(|l| serde_json::from_str(l).ok())
            .filter(|v: &Value| v["route"] == "item")
            .collect()
    };
    eventually("two lines", Duration::from_secs(5), || async { lines().len() == 2 }).await;
    let lines = lines();
    assert_eq!((&lines[0]["outcome"], &lines[1]["outcome"]), (&json!("miss"), &json!("hit")), "{lines:?}");
    assert_eq!((&lines[0]["status"], &lines[0]["path"]), (&json!(200), &json!("/items/1")));
    assert!(lines[0].to_string().contains("0af7651916cd43dd8448eb211c80319c"), "{}", lines[0]);
    assert!(!weir.said().contains("secret=1"));
}
