//! What an operator sees: health, figures and log lines of coherence, when all is well and when it is not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use serde_json::{Value, json};
use support::{DEADLINE, Origin, Redis, Weir, WeirConfig, eventually};

const ITEMS: &str = "[cache]\nalone = \"bypass\"\n[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"";
const LEASE: &str = "300ms";

async fn weir(origin: &Origin, redis: &Redis) -> Weir {
    WeirConfig::new(ITEMS).upstream(&origin.url()).redis(redis).lease(LEASE).start().await
}

async fn health(weir: &Weir) -> Value {
    weir.admin().get("/healthz").await.json()
}

/// Waits until health looks like this.
async fn seen(weir: &Weir, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    eventually(what, DEADLINE, || async { condition(&health(weir).await) }).await;
    health(weir).await
}

#[tokio::test]
async fn two_members_know_each_other_and_hold_leases() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let (a, b) = (weir(&origin, &redis).await, weir(&origin, &redis).await);
    let settled = |health: &Value| health["log"]["members"] == 2 && health["log"]["settled"] == true;
    let (ours, theirs) = (seen(&a, "two members", settled).await, seen(&b, "two members", settled).await);
    for health in [&ours, &theirs] {
        let log = &health["log"];
        assert_eq!(health["status"], "ok", "{health}");
        assert_eq!((&log["mode"], &log["lease_ms"]), (&json!("strong"), &json!(300)), "{log}");
        assert_eq!(
            (&log["standing"], &log["held"], &log["agreed"]),
            (&json!("member"), &json!(true), &Value::Null)
        );
        assert!((1..=300).contains(&log["lease_left_ms"].as_u64().unwrap()), "{log}");
        assert_eq!(
            (&log["owed"], &log["open_intents"], &log["away_ms"]),
            (&json!(0), &json!(0), &Value::Null)
        );
    }
    assert_eq!(ours["log"]["epoch"], theirs["log"]["epoch"]);
    assert_ne!(ours["log"]["member"], theirs["log"]["member"]);
    assert_eq!(a.figure("weir_log_members").await, Some(2.0));
    assert_eq!(a.figure("weir_log_lease_held").await, Some(1.0));
    assert!(a.figure("weir_log_lease_seconds_left").await.unwrap() <= 0.3);
    assert_eq!(a.figure("weir_log_epochs_total").await, Some(1.0));
    let stats = a.admin().get("/stats").await.json();
    assert_eq!((&stats["log"]["members"], &stats["log"]["held"]), (&json!(2), &json!(true)), "{stats}");

    a.operator().post("/purge").json(&json!({ "tag": "x:1" })).await.assert_code(200);
    let caught_up = |health: &Value| health["log"]["applied"] == 1 && health["log"]["lag"] == 0;
    seen(&b, "the purge has arrived", caught_up).await;
    assert_eq!(b.figure("weir_log_end_sequence").await, Some(1.0));
}

#[tokio::test]
async fn who_is_cut_off_says_so_once_and_once_that_it_is_back() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    let weir = weir(&origin, &redis).await;
    weir.get("/items/1").await;
    weir.get("/items/1").await.assert_hit();
    redis.kill();
    let away = seen(&weir, "the lease is over", |health| health["log"]["held"] == false).await;
    assert_eq!(away["status"], "degraded", "{away}");
    assert_eq!(away["log"]["lease_left_ms"], 0, "{away}");
    assert!(away["log"]["away_ms"].is_u64(), "{away}");
    assert!(!weir.get("/items/1").await.hit());
    assert_eq!(weir.figure("weir_log_lease_held").await, Some(0.0));
    assert!(weir.figure("weir_entries_void_total{reason=\"lease\"}").await.unwrap() >= 1.0);
    weir.says("the lease is lost").await;
    redis.restart().await;
    let back = seen(&weir, "a lease is held", |health| health["status"] == "ok").await;
    assert_eq!((&back["log"]["held"], &back["log"]["away_ms"]), (&json!(true), &Value::Null), "{back}");
    assert_eq!(weir.figure("weir_log_epochs_total").await, Some(2.0));
    let held = || weir.said().matches("a lease is held").count();
    eventually("the log says that it is back", DEADLINE, || async { held() == 2 }).await;
    assert_eq!(weir.said().matches("the lease is lost").count(), 1, "{}", weir.said());
}

#[tokio::test]
async fn who_disagrees_is_refused_and_shows_what_was_agreed_on() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let first = weir(&origin, &redis).await;
    let other = WeirConfig::new(ITEMS).upstream(&origin.url()).redis(&redis).lease("1s").start().await;
    let refused = seen(&other, "refused", |health| health["log"]["standing"] == "refused").await;
    assert_eq!(refused["status"], "degraded", "{refused}");
    assert_eq!(refused["log"]["agreed"], json!({ "mode": "strong", "lease_ms": 300 }), "{refused}");
    assert_eq!((&refused["log"]["held"], &refused["log"]["lease_ms"]), (&json!(false), &json!(1000)));
    other.get("/items/1").await;
    assert!(!other.get("/items/1").await.hit());
    assert_eq!(health(&first).await["status"], "ok", "the others are not disturbed");
    assert_eq!(health(&first).await["log"]["members"], 1);
    drop(first);
    seen(&other, "a member once the others are gone", |health| {
        health["status"] == "ok" && health["log"]["standing"] == "member"
    })
    .await;
}

#[tokio::test]
async fn who_falls_silent_is_evicted_and_counted() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let (a, b) = (weir(&origin, &redis).await, weir(&origin, &redis).await);
    seen(&a, "two members", |health| health["log"]["members"] == 2).await;
    let gone = health(&b).await["log"]["member"].as_str().unwrap().to_owned();
    drop(b);
    seen(&a, "alone", |health| health["log"]["members"] == 1).await;
    assert_eq!(a.figure("weir_log_evictions_total").await, Some(1.0));
    let said = a.says("has fallen silent").await;
    let line = said.lines().find(|line| line.contains("has fallen silent")).expect("a line in the log");
    assert!(line.contains(&gone), "{line}");
}

#[tokio::test]
async fn what_is_owed_is_shown_until_it_is_paid() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    let weir = weir(&origin, &redis).await;
    redis.kill();
    let purge = || weir.operator().post("/purge").json(&json!({ "tag": "x:1" }));
    let answer = purge().await.assert_code(200).json();
    assert_eq!(
        (&answer["applied"], &answer["owed"], &answer["seq"]),
        (&json!("owed"), &json!(true), &json!(0))
    );
    let owing = health(&weir).await;
    assert_eq!((&owing["status"], &owing["log"]["owed"]), (&json!("degraded"), &json!(1)), "{owing}");
    assert_eq!(weir.figure("weir_log_owed_purges").await, Some(1.0));
    redis.restart().await;
    seen(&weir, "paid", |health| health["log"]["owed"] == 0 && health["status"] == "ok").await;
    weir.says("the purge log can be reached again").await;
    let answer = purge().await.assert_code(200).json();
    assert_eq!((&answer["applied"], &answer["owed"]), (&json!("everywhere"), &json!(false)));
}

#[tokio::test]
async fn memory_alone_is_in_order() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, "").await;
    let health = health(&weir).await;
    let log = &health["log"];
    assert_eq!(
        (&health["status"], &log["mode"], &log["held"]),
        (&json!("ok"), &json!("alone"), &json!(true))
    );
    assert_eq!(
        (&log["lease_ms"], &log["lease_left_ms"], &log["members"]),
        (&Value::Null, &Value::Null, &json!(1))
    );
    assert_eq!(
        weir.figure("weir_log_members").await,
        None,
        "nothing is claimed about a log that is not there"
    );
}
