//! Changes that pass Weir by: announced in Redis or by `weir purge`, they are in force on every instance.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::process::Command;

use serde_json::json;
use support::{ADMIN_TOKEN, DEADLINE, Origin, Redis, Run, Weir, eventually, nobody, run_weir};

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
    tags = ["shelf:all"]
"#;
const INBOX: &str = "{cache:log}:inbox";
const ALL: [&str; 3] = ["/items/1", "/items/2", "/items"];

/// Two instances on one Redis.
struct Pair {
    redis: Redis,
    weirs: [Weir; 2],
    _origin: Origin,
}

impl Pair {
    async fn start() -> Pair {
        let (origin, redis) = (Origin::versioned().await, Redis::start().await);
        let weirs =
            [Weir::with_redis(&origin, &redis, ITEMS).await, Weir::with_redis(&origin, &redis, ITEMS).await];
        Pair { redis, weirs, _origin: origin }
    }

    /// Everything is a hit, on both.
    async fn warm(&self) {
        for weir in &self.weirs {
            for path in ALL {
                eventually(&format!("a hit for {path}"), DEADLINE, || async { weir.get(path).await.hit() })
                    .await;
            }
        }
    }

    /// Which paths are no longer hits, per instance.
    async fn gone(&self) -> [Vec<&'static str>; 2] {
        let mut gone = [Vec::new(), Vec::new()];
        for (weir, gone) in self.weirs.iter().zip(&mut gone) {
            for path in ALL {
                if !applied_hit(weir, path).await {
                    gone.push(path);
                }
            }
        }
        gone
    }

    /// `redis-cli` in database 1.
    fn cli(&self, login: &[&str], words: &[&str]) -> String {
        let port = self.redis.port().to_string();
        let output = Command::new("redis-cli")
            .args(["-p", &port, "-n", "1"])
            .args(login)
            .args(words)
            .output()
            .expect("redis-cli can be started");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Waits until each instance has applied a purge that it had not before.
    async fn applied(&self, before: [u64; 2]) {
        eventually("the purge is applied on both", DEADLINE, || async {
            let now = self.sequences().await;
            now[0] > before[0] && now[1] > before[1]
        })
        .await;
    }

    async fn sequences(&self) -> [u64; 2] {
        let mut now = [0; 2];
        for (weir, applied) in self.weirs.iter().zip(&mut now) {
            let health = weir.admin().get("/healthz").await.json();
            *applied = health["log"]["applied"].as_u64().unwrap();
        }
        now
    }

    async fn purge(&self, arguments: &[&str]) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let file = self.weirs[0].config_file();
        let arguments: Vec<&str> =
            ["purge", "-c", file.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
        run_weir(dir.path(), &arguments, &[]).await
    }
}

/// A conditional request that never fills the cache: whether the answer was there already.
async fn applied_hit(weir: &Weir, path: &str) -> bool {
    weir.get(path).header("cache-control", "only-if-cached").await.code() == 200
}

#[tokio::test]
async fn one_command_in_redis_purges_on_every_instance() {
    let pair = Pair::start().await;
    pair.warm().await;
    let before = pair.sequences().await;
    let id = pair.cli(&[], &["XADD", INBOX, "*", "tag", "item:1"]);
    assert!(id.trim().ends_with("-0"), "{id}");
    pair.applied(before).await;
    assert_eq!(pair.gone().await, [["/items/1"], ["/items/1"]]);
    assert_eq!(pair.redis.run::<u64>(&["XLEN", INBOX]).await, 0, "taken up once, and gone");
    assert_eq!(pair.sequences().await.map(|seq| seq - before[0]), [1, 1], "appended once");

    pair.warm().await;
    let before = pair.sequences().await;
    pair.cli(&[], &["XADD", INBOX, "*", "path", "/items/2", "route", "items", "tag", "nobody:7"]);
    pair.applied(before).await;
    assert_eq!(pair.gone().await, [["/items/2", "/items"], ["/items/2", "/items"]]);
}

#[tokio::test]
async fn what_is_not_understood_purges_everything_and_says_so() {
    let pair = Pair::start().await;
    for (words, reason) in [
        (&["tags", "item:1"][..], "unknown field `tags`"),
        (&["tag", "item:1*"], "`item:1*`"),
        (&["route", "itms"], "known routes: item, items"),
        (&["tag", "item:1", "soft", "perhaps"], "`soft` is `perhaps`"),
        (&["soft", "1"], "it names nothing"),
        (&["all", "1"], "a purge from outside"),
    ] {
        pair.warm().await;
        let before = pair.sequences().await;
        let id = pair.cli(&[], &[&["XADD", INBOX, "*"], words].concat());
        pair.applied(before).await;
        assert_eq!(pair.gone().await, [ALL, ALL], "{words:?}");
        // Whoever took it up says so; the other may have come too late to read it.
        let said = pair.weirs.each_ref().map(Weir::said).concat();
        let line = said.lines().find(|line| line.contains(id.trim())).expect("a line about it");
        assert_eq!(line.contains("everything is purged instead"), words[0] != "all", "{words:?}: {line}");
        assert!(line.contains(reason), "{words:?}: {line}");
    }
}

#[tokio::test]
async fn who_writes_needs_the_right_to_one_command_on_one_key() {
    let pair = Pair::start().await;
    pair.warm().await;
    let rule = [
        "ACL",
        "SETUSER",
        "purger",
        "on",
        ">pw",
        "resetkeys",
        "%W~{cache:log}:inbox",
        "-@all",
        "+xadd",
        "+select",
    ];
    assert_eq!(pair.cli(&[], &rule).trim(), "OK");
    let login = ["--user", "purger", "--pass", "pw", "--no-auth-warning"];
    for refused in [
        &["XADD", "cache:log", "*", "k", "purge"][..],
        &["DEL", INBOX],
        &["XRANGE", INBOX, "-", "+"],
        &["KEYS", "*"],
    ] {
        assert!(pair.cli(&login, refused).contains("NOPERM"), "{refused:?}");
    }
    let before = pair.sequences().await;
    pair.cli(&login, &["XADD", INBOX, "*", "tag", "item:1"]);
    pair.applied(before).await;
    assert_eq!(pair.gone().await, [["/items/1"], ["/items/1"]]);
}

#[tokio::test]
async fn what_was_left_while_no_instance_ran_is_taken_up_by_the_next() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let mut weir = Weir::with_redis(&origin, &redis, ITEMS).await;
    weir.get("/items/1").await;
    weir.get("/items/2").await;
    redis.filled("item", 2).await;
    weir.terminate();
    assert_eq!(weir.exit_code().await, Some(0));
    redis.run::<String>(&["XADD", INBOX, "*", "tag", "item:1"]).await;
    let next = Weir::with_redis(&origin, &redis, ITEMS).await;
    eventually("the purge is taken up", DEADLINE, || async { !applied_hit(&next, "/items/1").await }).await;
    assert_eq!(redis.run::<u64>(&["XLEN", INBOX]).await, 0);
    assert!(applied_hit(&next, "/items/2").await, "what was not named is there from before");
}

#[tokio::test]
async fn weir_purge_is_done_when_every_instance_is() {
    let pair = Pair::start().await;
    pair.warm().await;
    let run = pair.purge(&["item:1"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("purged 1 entry: ") && run.stdout.contains("item:1"), "{run:?}");
    assert!(run.stdout.ends_with("applied everywhere\n") && run.stderr.is_empty(), "{run:?}");
    assert_eq!(pair.gone().await, [["/items/1"], ["/items/1"]], "at once");

    pair.warm().await;
    let run = pair.purge(&["--path", "/items/2", "--route", "items"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert_eq!(pair.gone().await, [["/items/2", "/items"], ["/items/2", "/items"]]);

    pair.warm().await;
    let run = pair.purge(&["--all"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains("purged at least 3 entries: *"), "{run:?}");
    assert_eq!(pair.gone().await, [ALL, ALL]);

    let run = pair.purge(&["item:nobody"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("warning: Nothing carried these tags."), "{run:?}");
}

#[tokio::test]
async fn weir_purge_goes_by_redis_where_no_admin_listener_can_be_reached() {
    let pair = Pair::start().await;
    pair.warm().await;
    let away = format!("http://{}", nobody());
    let run = pair.purge(&["item:1", "--admin", &away]).await;
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains(&away) && run.stderr.contains("--via redis"), "{run:?}");
    let before = pair.sequences().await;
    let run = pair.purge(&["item:1", "--via", "redis"]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.contains(INBOX) && run.stdout.contains("tag item:1"), "{run:?}");
    pair.applied(before).await;
    assert_eq!(pair.gone().await, [["/items/1"], ["/items/1"]]);
}

#[tokio::test]
async fn weir_purge_refuses_what_cannot_be_purged_with_what_is_allowed() {
    let pair = Pair::start().await;
    pair.warm().await;
    let before = pair.sequences().await;
    for via in ["admin", "redis"] {
        for (wrong, allowed) in [
            (["item:1*", "--soft"], "`item:*`"),
            (["--route", "itms"], "known routes: item, items"),
            (["--path", "items"], "must begin with `/`"),
        ] {
            let run = pair.purge(&[&wrong[..], &["--via", via]].concat()).await;
            assert_eq!(run.code, Some(2), "{via} {wrong:?}: {run:?}");
            assert!(run.stderr.contains(allowed), "{via} {wrong:?}: {run:?}");
        }
    }
    assert_eq!(pair.sequences().await, before, "nothing was purged");
    assert_eq!(pair.redis.run::<u64>(&["EXISTS", INBOX]).await, 0);
}

#[tokio::test]
async fn weir_purge_needs_the_token_and_may_have_it_from_the_environment() {
    let origin = Origin::versioned().await;
    let weir = Weir::start(&origin, ITEMS).await;
    weir.get("/items/1").await;
    let (dir, url) = (tempfile::tempdir().unwrap(), format!("http://{}", weir.admin_addr()));
    let arguments = ["purge", "item:1", "--admin", url.as_str()];
    let run = run_weir(dir.path(), &arguments, &[]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("WEIR_ADMIN_TOKEN"), "{run:?}");
    let run = run_weir(dir.path(), &arguments, &[("WEIR_ADMIN_TOKEN", "another-token")]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("401") && !run.stderr.contains("another-token"), "{run:?}");
    assert!(applied_hit(&weir, "/items/1").await);
    let run = run_weir(dir.path(), &arguments, &[("WEIR_ADMIN_TOKEN", ADMIN_TOKEN)]).await;
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!applied_hit(&weir, "/items/1").await);
    let run = run_weir(dir.path(), &["purge", "item:1"], &[]).await;
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("there is no proxy.toml"), "{run:?}");
}

#[tokio::test]
async fn a_soft_purge_by_hand_makes_stale_and_voids_nothing() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let text = ITEMS.replace("ttl = \"5m\"", "ttl = \"5m\"\n    stale_while_revalidate = \"5m\"");
    let weir = Weir::with_redis(&origin, &redis, &text).await;
    weir.get("/items/1").await;
    weir.get("/items/1").await.assert_hit();
    let done = weir.operator().post("/purge").json(&json!({ "tag": "item:1", "soft": true })).await;
    let done = done.assert_code(200).json();
    assert_eq!(
        (&done["applied"], &done["owed"], &done["purged"]),
        (&json!("everywhere"), &json!(false), &json!(1))
    );
    weir.get("/items/1").await;
    let metrics = weir.admin().get("/metrics").await.text();
    assert!(metrics.contains("weir_entries_void_total{reason=\"stale\"} 1\n"), "{metrics}");
    assert!(metrics.contains("weir_entries_void_total{reason=\"purged\"} 0\n"), "{metrics}");
}
