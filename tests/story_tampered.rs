//! Others write to Redis too, and what they write is not always good: nobody is answered with anything older for it,
//! and the cache comes back by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use serde_json::json;
use support::{Origin, Redis, Weir};

/// Items by id, purged by what changes one of them.
const ITEMS: &str = r#"
    [defaults]
    ttl = "5m"
    [[route]]
    name = "item"
    match = "GET /items/{id}"
    tags = ["item:{path.id}"]
    [[purge]]
    on = "PUT /items/{id}"
    tags = ["item:{path.id}"]
"#;

/// [`ITEMS`] with these lines in `[cache]`.
fn items(cache: &str) -> String {
    format!("[cache]\n{cache}\n{ITEMS}")
}

async fn change(weir: &Weir) -> u64 {
    weir.put("/items/1").json(&json!({})).await.assert_code(200).item_version()
}

/// Whoever is late for a purge from outside has appended nothing, whatever has been appended since: that is others'.
#[tokio::test]
async fn purges_from_outside_that_others_take_up_hide_no_purge() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = items("lease = \"2s\"");
    let (a, b) =
        (Weir::with_redis(&origin, &redis, &text).await, Weir::with_redis(&origin, &redis, &text).await);
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let writer = tokio::spawn(async move {
        loop {
            for _ in 0..3 {
                let mut purge = redis::cmd("XADD");
                purge.arg("{cache:log}:inbox").arg("*").arg("tag").arg("item:2");
                purge.query_async::<()>(&mut connection).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    for round in 0..400 {
        b.get("/items/1").await;
        let made = change(&a).await;
        let seen = b.get("/items/1").await;
        assert_eq!(seen.item_version(), made, "round {round}: {seen:?}");
    }
    writer.abort();
}
