//! Redis over TLS with an authority of one's own, client certificates, and a user with the documented rights alone:
//! one server, sentinels, a cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fs;

use support::{DEADLINE, Origin, Redis, RedisCluster, RedisWithSentinels, Weir, WeirConfig, eventually};
use support::{tls_file, tls_section};

/// Without memory every hit comes from Redis.
const ITEMS: &str = "[cache]\nmemory = \"0\"\n[[route]]\nname = \"item\"\nmatch = \"GET /items/{id}\"\nttl = \"5m\"\nvary = [\"accept-language\"]";

const USER: &str = "username = \"weir\"\npassword = \"a p@ss/word\"\n";

async fn weir(origin: &Origin, section: &str) -> Weir {
    // Without optimisation, handshakes take their time.
    let section = format!("tls = true\nconnect_timeout = \"2s\"\n{section}");
    WeirConfig::new(ITEMS).upstream(&origin.url()).redis_section(&section).start().await
}

/// The rule that the documentation gives, word for word, for the prefix `cache`.
fn documented_rule() -> Vec<String> {
    let text = fs::read_to_string(format!("{}/docs/operations.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let from = text.find("ACL SETUSER weir ").expect("the rule in docs/operations.md");
    let rule = text[from..].split("```").next().unwrap().replace('\\', " ");
    rule.split_whitespace().map(|w| if w == ">password" { ">a p@ss/word" } else { w }.to_owned()).collect()
}

/// Gives the user its rights; more of them in a cluster.
async fn introduce(redis: &Redis, more: &[&str]) {
    let rule = documented_rule();
    assert!(!rule.iter().any(|w| w.starts_with("+@") || w == "~*" || w == "allkeys"), "{rule:?}");
    let rule: Vec<&str> = rule.iter().map(String::as_str).chain(more.iter().copied()).collect();
    redis.run::<()>(&rule).await;
}

/// What was refused to the user, in Redis' own record: `(reason, object)`.
async fn refused(redis: &Redis) -> BTreeSet<(String, String)> {
    let log: Vec<HashMap<String, redis::Value>> = redis.run(&["ACL", "LOG"]).await;
    let word = |entry: &HashMap<String, redis::Value>, key: &str| match &entry[key] {
        redis::Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    };
    log.iter().map(|entry| (word(entry, "reason"), word(entry, "object"))).collect()
}

/// Everything that Weir does with Redis: entries, variants, mutations, purges, flushes, counts, health.
async fn everything(one: &Weir, two: &Weir) {
    one.get("/items/1").await;
    eventually("a hit at the other Weir", DEADLINE, || async { two.get("/items/1").await.hit() }).await;
    for language in ["de", "en"] {
        one.get("/items/1").header("accept-language", language).await.assert_code(200);
    }
    for _ in 0..3 {
        let version = one.put("/items/1").await.assert_code(200).item_version();
        eventually("the new version at the other Weir", DEADLINE, || async {
            two.get("/items/1").await.item_version() == version
        })
        .await;
    }
    eventually("a hit again", DEADLINE, || async { two.get("/items/1").await.hit() }).await;
    let whole = "{\"paths\":[\"/items/1\"],\"count\":\"whole\"}";
    let purge = one.operator().post("/purge").body(whole).await.assert_code(200).json();
    assert_eq!((&purge["complete"], &purge["owed"]), (&true.into(), &false.into()), "{purge}");
    let flush = one.operator().post("/flush").await.assert_code(200).json();
    assert_eq!(flush["owed"], false, "{flush}");
    for weir in [one, two] {
        let health = weir.admin().get("/healthz").await.json()["redis"].clone();
        assert_eq!((&health["connected"], &health["log_followed"]), (&true.into(), &true.into()), "{health}");
        assert!(health["used_memory"].as_u64() > Some(0), "{health}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_the_documented_rights_can_do_everything() {
    let (origin, redis) = tokio::join!(Origin::versioned(), Redis::with_tls());
    introduce(&redis, &[]).await;
    let section =
        format!("host = \"localhost\"\nport = {}\n{USER}{}", redis.tls_port().unwrap(), tls_section());
    let (one, two) = (weir(&origin, &section).await, weir(&origin, &section).await);
    everything(&one, &two).await;
    // Reclaiming what is void takes a walk and removals; nothing of it may have been refused. What stays is the list
    // of variants, which is no answer.
    eventually("what was flushed is gone", DEADLINE * 3, || async { redis.entries("item").await.len() == 1 })
        .await;
    assert_eq!(refused(&redis).await, BTreeSet::new());

    let used: String = redis.run(&["INFO", "commandstats"]).await;
    let unused: Vec<String> = documented_rule()
        .into_iter()
        .filter(|word| word.starts_with('+'))
        .filter(|word| !used.contains(&format!("cmdstat_{}:", &word[1..])))
        .collect();
    println!("granted and not used in this story: {unused:?}");
    let clients: String = redis.run(&["CLIENT", "LIST"]).await;
    assert!(clients.contains("user=weir"), "{clients}");
    for weir in [&one, &two] {
        assert!(!weir.said().contains("p@ss") && !weir.said().contains("p%40ss"), "{}", weir.said());
    }
}

/// What Weir says about Redis in `/healthz` while it cannot connect.
async fn complaint(weir: &Weir) -> String {
    let mut words = String::new();
    eventually("a reason in /healthz", DEADLINE, || async {
        weir.admin().get("/healthz").await.json()["redis"]["last_error"].is_string()
    })
    .await;
    let health = weir.admin().get("/healthz").await.json();
    assert_eq!(health["redis"]["connected"], false, "{health}");
    words.push_str(health["redis"]["last_error"].as_str().unwrap());
    words
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_on_either_side() {
    let (origin, redis) = tokio::join!(Origin::versioned(), Redis::with_tls());
    let host = format!("host = \"127.0.0.1\"\nport = {}\n", redis.tls_port().unwrap());
    // The system's authorities have not signed Redis' certificate.
    let certificate = tls_section().lines().skip(1).collect::<Vec<_>>().join("\n");
    let system = weir(&origin, &format!("{host}{certificate}")).await;
    let words = complaint(&system).await;
    assert!(words.contains("UnknownIssuer"), "{words}");
    // Redis wants a certificate of us.
    let bare = weir(&origin, &format!("{host}ca_file = \"{}\"\n", tls_file("ca.pem"))).await;
    complaint(&bare).await;
    for weir in [&system, &bare] {
        weir.get("/items/1").await.assert_code(200);
        weir.put("/items/1").await.assert_code(200);
    }
}

/// Files are read again with every connection: a renewed certificate needs no restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_authority_comes_into_force_by_itself() {
    let (origin, redis) = tokio::join!(Origin::versioned(), Redis::with_tls());
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::copy(tls_file("stranger.pem"), &ca).unwrap();
    let certificate = tls_section().lines().skip(1).collect::<Vec<_>>().join("\n");
    let section = format!(
        "host = \"127.0.0.1\"\nport = {}\nca_file = \"{}\"\n{certificate}",
        redis.tls_port().unwrap(),
        ca.display()
    );
    let weir = weir(&origin, &section).await;
    let words = complaint(&weir).await;
    assert!(words.contains("UnknownIssuer"), "{words}");
    fs::write(&ca, "renewed, but badly").unwrap();
    eventually("the file is named", DEADLINE, || async {
        complaint(&weir).await.contains(&format!("{}: it holds no PEM certificate", ca.display()))
    })
    .await;
    fs::copy(tls_file("ca.pem"), &ca).unwrap();
    eventually("hits from Redis", DEADLINE, || async { weir.get("/items/1").await.assert_code(200).hit() })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_with_tls_and_a_password() {
    let (origin, redis) = tokio::join!(Origin::versioned(), RedisWithSentinels::with_tls("open-sesame"));
    for server in &redis.servers {
        introduce(server, &[]).await;
    }
    let section = format!("{}{USER}{}", redis.section(), tls_section());
    let locked = weir(&origin, &section).await;
    eventually("the sentinels want a password", DEADLINE, || async {
        complaint(&locked).await.contains("NOAUTH")
    })
    .await;
    let section = format!("{section}sentinel_password = \"open-sesame\"\n");
    let (one, two) = (weir(&origin, &section).await, weir(&origin, &section).await);
    everything(&one, &two).await;
    assert_eq!(refused(&redis.servers[0]).await, BTreeSet::new());
    assert!(!one.said().contains("sesame"), "{}", one.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_tls_and_few_rights() {
    let (origin, cluster) = tokio::join!(Origin::versioned(), RedisCluster::with_tls());
    for node in &cluster.primaries {
        introduce(node, &["+cluster|slots", "+asking"]).await;
    }
    let section = format!("{}{USER}{}", cluster.section(), tls_section());
    let (one, two) = (weir(&origin, &section).await, weir(&origin, &section).await);
    everything(&one, &two).await;
    let from = cluster.owner("cache:log").await;
    cluster.move_slot("cache:log", from, (from + 1) % 3).await;
    eventually("the log goes on at the new owner", DEADLINE, || async {
        one.put("/items/7").await.assert_code(200);
        cluster.primaries[(from + 1) % 3].keys("*cache:log*").await.len() >= 2
    })
    .await;
    for node in &cluster.primaries {
        assert_eq!(refused(node).await, BTreeSet::new());
    }
}
