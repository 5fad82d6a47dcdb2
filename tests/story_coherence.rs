//! Several Weirs on one Redis: nobody who arrives after a mutation was answered gets anything older, from anybody.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::time::Duration;

use serde_json::json;
use support::{Answer, Forwarder, Origin, Redis, Reply, Weir, WeirConfig, eventually, within};
use tokio::io::AsyncReadExt;

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

/// The lease of most stories: short, so that what waits for it is soon over.
const LEASE: Duration = Duration::from_millis(600);
/// The lease where nobody is to wait for it: no machine is so loaded that it takes that long by itself.
const LONG: &str = "lease = \"5s\"";
const LONG_LEASE: Duration = Duration::from_secs(5);
/// What a loaded machine may add to any wait.
const SLACK: Duration = Duration::from_secs(5);

/// [`ITEMS`] with these lines in `[cache]`.
fn items(cache: &str) -> String {
    let own = cache.contains("lease = ");
    let lease = if own { String::new() } else { format!("lease = \"{}ms\"", LEASE.as_millis()) };
    format!("[cache]\n{lease}\n{cache}\n{ITEMS}")
}

/// Two instances that share a Redis.
struct Pair {
    origin: Origin,
    redis: Redis,
    a: Weir,
    b: Weir,
}

impl Pair {
    async fn start(cache: &str) -> Pair {
        let (origin, redis) = (Origin::versioned().await, Redis::start().await);
        let a = Weir::with_redis(&origin, &redis, &items(cache)).await;
        let b = Weir::with_redis(&origin, &redis, &items(cache)).await;
        Pair { origin, redis, a, b }
    }

    /// The same, where the second reaches Redis over a wire that can be cut.
    async fn wired(cache: &str) -> (Pair, Forwarder) {
        let (origin, redis) = (Origin::versioned().await, Redis::start().await);
        let wire = Forwarder::to(redis.port()).await;
        let a = Weir::with_redis(&origin, &redis, &items(cache)).await;
        let b = WeirConfig::new(&items(cache)).upstream(&origin.url()).redis_url(&wire.redis_url());
        let b = b.start().await;
        (Pair { origin, redis, a, b }, wire)
    }

    /// Changes item 1 through the first instance; returns the version that its answer tells.
    async fn change(&self) -> u64 {
        change(&self.a).await.item_version()
    }
}

async fn change(weir: &Weir) -> Answer {
    let answer = weir.put("/items/1").json(&json!({})).await;
    answer.assert_code(200);
    answer
}

async fn version(weir: &Weir) -> u64 {
    weir.get("/items/1").await.assert_code(200).item_version()
}

/// Asks until the answer comes from the cache; every answer on the way must be of `version`.
async fn warm(weir: &Weir, version: u64) {
    eventually("a hit", support::DEADLINE, || async {
        let answer = weir.get("/items/1").await;
        assert_eq!(answer.item_version(), version, "{answer:?}");
        answer.hit()
    })
    .await;
}

fn detail(answer: &Answer) -> String {
    answer.cache().detail.unwrap_or_default()
}

/// Waits until the instance says that it cannot prove anything.
async fn detached(weir: &Weir) {
    eventually("no lease", support::DEADLINE, || async { detail(&weir.get("/items/1").await) == "no-lease" })
        .await;
}

#[tokio::test]
async fn what_one_instance_changes_the_other_shows_at_once() {
    let pair = Pair::start("").await;
    let mut hits = 0;
    for round in 0..200 {
        let (writer, reader) = if round % 2 == 0 { (&pair.a, &pair.b) } else { (&pair.b, &pair.a) };
        reader.get("/items/1").await;
        hits += u32::from(reader.get("/items/1").await.hit());
        let made = change(writer).await.item_version();
        let seen = reader.get("/items/1").await;
        assert_eq!(seen.item_version(), made, "round {round}: {seen:?}");
        assert_eq!(version(writer).await, made, "round {round}, its own");
    }
    assert!(hits > 100, "the reader had something to lose in {hits} of 200 rounds");
    let metrics = pair.a.operator().get("/metrics").await.text();
    let waits = metrics.lines().find_map(|l| l.strip_prefix("weir_mutation_wait_seconds_count "));
    assert_eq!(waits, Some("100"), "{metrics}");
}

#[tokio::test]
async fn a_fill_on_the_other_instance_is_overtaken() {
    let pair = Pair::start("").await;
    pair.change().await;
    let hold = pair.origin.hold_next("GET /items/1", 1);
    let before = pair.b.get("/items/1").spawn();
    hold.caught(1).await;
    let made = pair.change().await;
    hold.release();
    assert_eq!(before.await.unwrap().item_version(), made - 1, "it asked before");
    warm(&pair.b, made).await;
}

#[tokio::test]
async fn who_arrives_after_the_answer_does_not_board_the_other_instances_old_flight() {
    let pair = Pair::start("").await;
    pair.change().await;
    warm(&pair.b, 2).await;
    pair.change().await;
    let hold = pair.origin.hold_next("GET /items/1", 1);
    let leader = pair.b.get("/items/1").spawn();
    hold.caught(1).await;
    let made = pair.change().await;
    let later: Vec<_> = (0..5).map(|_| pair.b.get("/items/1").spawn()).collect();
    for answer in later {
        let answer = within("a lease tells that the old flight is void", answer).await.unwrap();
        assert_eq!(answer.item_version(), made, "{answer:?}");
    }
    hold.release();
    assert_eq!(leader.await.unwrap().item_version(), made - 1);
    warm(&pair.b, made).await;
}

#[tokio::test]
async fn an_instance_that_wakes_from_a_freeze_shows_nothing_old() {
    let pair = Pair::start("").await;
    pair.change().await;
    for round in 0..4 {
        let before = version(&pair.a).await;
        warm(&pair.b, before).await;
        pair.b.freeze();
        let answer = change(&pair.a).await;
        println!("round {round}: with a frozen instance a mutation took {:?}", answer.elapsed);
        assert!(answer.elapsed < 2 * LEASE + SLACK, "{:?}", answer.elapsed);
        let made = answer.item_version();
        // They lie in its sockets when it wakes, and the first that it does may be to answer them.
        let mut queued = Vec::new();
        for _ in 0..20 {
            queued.push(pair.b.get("/items/1").header("connection", "close").and_leave_open().await);
        }
        pair.b.thaw();
        for mut socket in queued {
            let mut answer = String::new();
            within("an answer", socket.read_to_string(&mut answer)).await.unwrap();
            let told = format!("\"version\":{made}}}");
            assert!(answer.ends_with(&told), "round {round}, {told}: {answer}");
        }
        warm(&pair.b, made).await;
    }
}

#[tokio::test]
async fn an_instance_that_is_cut_off_shows_nothing_old_and_comes_back() {
    let (pair, wire) = Pair::wired("").await;
    pair.change().await;
    for round in 0..2 {
        let before = version(&pair.a).await;
        warm(&pair.b, before).await;
        wire.cut();
        // The answer waits for the lease of the one that cannot be told.
        let answer = change(&pair.a).await;
        println!("round {round}: with an instance cut off a mutation took {:?}", answer.elapsed);
        assert!(answer.elapsed < 2 * LEASE + SLACK, "{:?}", answer.elapsed);
        let made = answer.item_version();
        for _ in 0..50 {
            let seen = pair.b.get("/items/1").await;
            assert!(!seen.hit(), "no lease, no hit: {seen:?}");
            assert_eq!(seen.item_version(), made);
        }
        // What it fetches meanwhile is kept, and proved when it has heard of everything.
        let second = change(&pair.a).await;
        assert_eq!(version(&pair.b).await, second.item_version());
        wire.mend();
        warm(&pair.b, second.item_version()).await;
    }
    let third = change(&pair.a).await;
    assert_eq!(version(&pair.b).await, third.item_version());
}

#[tokio::test]
async fn without_a_lease_arrivals_share_the_next_flight() {
    let (pair, wire) = Pair::wired("").await;
    pair.change().await;
    warm(&pair.b, 2).await;
    wire.cut();
    detached(&pair.b).await;
    let hold = pair.origin.hold_next("GET /items/1", 1);
    let leader = pair.b.get("/items/1").spawn();
    hold.caught(1).await;
    let made = pair.change().await;
    let fetches = pair.origin.count("GET /items/1");
    let later: Vec<_> = (0..30).map(|_| pair.b.get("/items/1").spawn()).collect();
    pair.b.coalesces(30).await;
    assert_eq!(pair.origin.count("GET /items/1"), fetches, "nobody goes while one is in the air");
    hold.release();
    assert_eq!(leader.await.unwrap().item_version(), made - 1, "it asked before");
    let mut collapsed = 0;
    for answer in later {
        let answer = within("one flight more", answer).await.unwrap();
        assert_eq!(answer.item_version(), made, "{answer:?}");
        assert_eq!(detail(&answer), "no-lease");
        collapsed += usize::from(answer.cache().collapsed);
    }
    assert_eq!(pair.origin.count("GET /items/1"), fetches + 1, "one fetch served all who had waited");
    assert_eq!(collapsed, 29);
}

#[tokio::test]
async fn an_owner_killed_between_commit_and_purge_is_purged_for_by_the_others() {
    let pair = Pair::start("").await;
    pair.change().await;
    warm(&pair.b, 2).await;
    let hold = pair.origin.hold_next("PUT /items/1", 1);
    let orphan = tokio::spawn(pair.a.put("/items/1").json(&json!({})).attempt());
    hold.caught(1).await;
    assert_eq!(pair.origin.version("1"), 3, "committed");
    assert_eq!(version(&pair.b).await, 2, "and nobody told of it");
    let Pair { a, b, .. } = &pair;
    let pid = a.pid();
    support::signal(pid, "KILL");
    assert!(orphan.await.unwrap().is_err(), "it was never answered");
    let took = eventually("the survivor purges", support::DEADLINE, || async { version(b).await == 3 }).await;
    println!("purged {took:?} after its owner's death");
    assert!(took < 3 * LEASE + SLACK, "{took:?}");
    warm(b, 3).await;
}

#[tokio::test]
async fn an_owner_that_slept_through_its_eviction_tells_the_log_anew() {
    let pair = Pair::start("").await;
    pair.change().await;
    let hold = pair.origin.hold_next("PUT /items/1", 1);
    let open = tokio::spawn(pair.a.put("/items/1").json(&json!({})).attempt());
    hold.caught(1).await;
    let told = async || pair.redis.run::<u64>(&["HLEN", "{cache:log}:intents"]).await;
    assert_eq!(told().await, 1, "what is under way is in the log");
    pair.a.freeze();
    eventually("it is evicted", support::DEADLINE, async || told().await == 0).await;
    pair.a.thaw();
    eventually("what is under way is in the log again", support::DEADLINE, async || told().await == 1).await;
    hold.release();
    assert_eq!(open.await.unwrap().unwrap().status, 200);
    assert_eq!(told().await, 0);
    warm(&pair.b, 3).await;
}

#[tokio::test]
async fn an_instance_that_leaves_is_not_waited_for() {
    let Pair { a, mut b, origin: _origin, redis: _redis } = Pair::start(LONG).await;
    change(&a).await;
    warm(&b, 2).await;
    b.terminate();
    assert_eq!(b.exit_code().await, Some(0));
    let answer = change(&a).await;
    assert!(answer.elapsed < LONG_LEASE, "{:?}", answer.elapsed);
}

#[tokio::test]
async fn a_mutation_that_the_backend_refused_leaves_nothing_to_purge() {
    let Pair { mut a, b, origin, redis: _redis } = Pair::start("").await;
    change(&a).await;
    warm(&b, 2).await;
    let fetches = origin.count("GET /items/1");
    origin.always("PUT /items/1", || Reply::status(403));
    assert_eq!(detail(a.put("/items/1").json(&json!({})).await.assert_code(403)), "refused");
    a.terminate();
    assert_eq!(a.exit_code().await, Some(0));
    // Who leaves is evicted, and with it its open mutations; this one is not open any more. A stranger's purge comes
    // after whatever was purged then.
    b.put("/items/2").json(&json!({})).await.assert_code(200);
    warm(&b, 2).await;
    assert_eq!(origin.count("GET /items/1"), fetches, "nothing had to be fetched");
}

#[tokio::test]
async fn mutations_may_be_refused_while_the_log_cannot_be_reached() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, &items("on_unreachable_log = \"refuse\"")).await;
    change(&weir).await;
    let sent = origin.count("PUT /items/1");
    redis.kill();
    let refused = weir.put("/items/1").json(&json!({})).await;
    refused.assert_code(503);
    assert_eq!(refused.json()["reason"], "purge-log-unreachable");
    assert!(refused.header("retry-after").is_some());
    assert_eq!((detail(&refused).as_str(), refused.cache().fwd), ("refused-unreachable", None));
    assert_eq!(origin.count("PUT /items/1"), sent, "the backend never saw it");
    assert_eq!(version(&weir).await, 2);
    redis.restart().await;
    eventually("mutations are taken again", support::DEADLINE, || async {
        weir.put("/items/1").json(&json!({})).await.code() == 200
    })
    .await;
    assert_eq!(version(&weir).await, origin.version("1"));
}

#[tokio::test]
async fn a_purge_that_cannot_be_confirmed_is_no_success() {
    let (origin, mut redis) = (Origin::versioned().await, Redis::start().await);
    let weir = Weir::with_redis(&origin, &redis, &items("on_unreachable_log = \"refuse\"")).await;
    change(&weir).await;
    warm(&weir, 2).await;
    let hold = origin.hold_next("PUT /items/1", 1);
    let mutation = weir.put("/items/1").json(&json!({})).spawn();
    hold.caught(1).await;
    redis.kill();
    hold.release();
    let answer = mutation.await.unwrap();
    answer.assert_code(504);
    assert_eq!(answer.json()["reason"], "purge-unconfirmed");
    assert_eq!(detail(&answer), "purge-unconfirmed");
    assert_eq!(version(&weir).await, 3, "here it is in force");
    redis.restart().await;
    warm(&weir, 3).await;
}

#[tokio::test]
async fn an_owed_purge_reaches_the_others_when_the_log_is_back() {
    let pair = Pair::start("").await;
    pair.change().await;
    warm(&pair.a, 2).await;
    warm(&pair.b, 2).await;
    pair.redis.freeze();
    let answer = change(&pair.a).await;
    assert_eq!(detail(&answer), "purge-owed");
    println!("a mutation that is owed took {:?}", answer.elapsed);
    for weir in [&pair.a, &pair.b] {
        for _ in 0..5 {
            let seen = weir.get("/items/1").await;
            assert_eq!(seen.item_version(), 3, "{seen:?}");
        }
    }
    pair.redis.thaw();
    warm(&pair.b, 3).await;
    warm(&pair.a, 3).await;
    assert_eq!(change(&pair.a).await.item_version(), 4);
    assert_eq!(version(&pair.b).await, 4);
}

#[tokio::test]
async fn the_eventual_mode_waits_for_nobody() {
    let pair = Pair::start(&format!("{LONG}\ncoherence = \"eventual\"")).await;
    assert!(change(&pair.a).await.elapsed < LONG_LEASE, "not even for the epoch to settle");
    for made in 3..=6 {
        warm(&pair.b, made - 1).await;
        assert_eq!(pair.change().await, made);
        assert_eq!(version(&pair.a).await, made, "read your own write");
        eventually("the other follows", support::DEADLINE, || async { version(&pair.b).await == made }).await;
    }
    warm(&pair.b, 6).await;
    pair.b.freeze();
    let answer = change(&pair.a).await;
    pair.b.thaw();
    assert!(answer.elapsed < LONG_LEASE, "{:?}", answer.elapsed);
    eventually("the other follows", support::DEADLINE, || async { version(&pair.b).await == 7 }).await;
}

#[tokio::test]
async fn namespaces_do_not_wait_for_each_other() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let one = Weir::with_redis(&origin, &redis, &items("namespace = \"one\"")).await;
    let two = Weir::with_redis(&origin, &redis, &items("namespace = \"two\"")).await;
    for weir in [&one, &two] {
        change(weir).await;
    }
    warm(&two, 3).await;
    two.freeze();
    let mut took = Duration::MAX;
    for _ in 0..5 {
        took = took.min(change(&one).await.elapsed);
    }
    two.thaw();
    assert!(took < LEASE / 2, "{took:?}");
    warm(&two, 3).await;
}

#[tokio::test]
async fn who_wants_another_lease_takes_no_part() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let member = Weir::with_redis(&origin, &redis, &items("")).await;
    change(&member).await;
    let other = items("").replace(&format!("{}ms", LEASE.as_millis()), "3s");
    let stranger = Weir::with_redis(&origin, &redis, &other).await;
    warm(&member, 2).await;
    for _ in 0..5 {
        let answer = stranger.get("/items/1").await;
        assert!(!answer.hit() && detail(&answer) == "no-lease", "{answer:?}");
    }
    stranger.says("differs from what the namespace has agreed on").await;
    // Its purges reach the others all the same.
    for made in 3..=6 {
        assert_eq!(change(&stranger).await.item_version(), made);
        assert_eq!(version(&member).await, made);
        warm(&member, made).await;
        assert_eq!(version(&stranger).await, made);
    }
}

/// Two rules for one mutation: the item's own list becomes stale, everything else void.
const SOFT: &str = r#"
    [defaults]
    ttl = "5m"

    [[route]]
    name = "item"
    match = "GET /items/{id}"
    stale_while_revalidate = "1m"
    tags = ["item:{path.id}"]

    [[route]]
    name = "lists"
    match = "GET /items"
    stale_while_revalidate = "1m"
    tags = ["items:all"]

    [[route]]
    name = "strict"
    match = "GET /strict"
    tags = ["items:all"]

    [[route]]
    name = "robust"
    match = "GET /robust"
    stale_if_error = "1m"
    tags = ["items:all"]

    [[purge]]
    on = "PUT /items/{id}"
    tags = ["item:{path.id}"]

    [[purge]]
    on = "PUT /items/{id}"
    tags = ["items:all"]
    soft = true

    [[purge]]
    on = "POST /touch"
    tags = ["items:all"]
    soft = true
"#;

/// A versioned backend whose list and its likes have entity tags and dates.
async fn tagged() -> Origin {
    let origin = Origin::versioned().await;
    for path in ["GET /items", "GET /strict", "GET /robust"] {
        origin.counting_with(path, |reply| {
            reply.header("etag", "\"t\"").header("last-modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        });
    }
    origin.always("POST /touch", || Reply::status(204));
    origin
}

async fn warm_at(weir: &Weir, path: &str) {
    eventually("a hit", support::DEADLINE, || async {
        let answer = weir.get(path).await;
        answer.hit() && detail(&answer) != "soft-purged"
    })
    .await;
}

#[tokio::test]
async fn a_soft_purge_makes_stale_and_a_hard_one_beside_it_voids() {
    let (origin, redis) = (tagged().await, Redis::start().await);
    let one = Weir::with_redis(&origin, &redis, SOFT).await;
    let two = Weir::with_redis(&origin, &redis, SOFT).await;
    change(&one).await;
    for weir in [&one, &two] {
        for path in ["/items", "/items/1", "/strict"] {
            warm_at(weir, path).await;
        }
    }
    let hold = origin.hold("GET /items");
    let made = change(&one).await.item_version();
    let fetches = origin.count("GET /strict");
    let renewed = one.get("/strict").await;
    assert_eq!((renewed.cache().fwd.as_deref(), detail(&renewed).as_str()), (Some("stale"), "soft-purged"));
    assert_eq!(renewed.text(), format!("answer {}", fetches + 1), "no window, no stale answer");
    for weir in [&one, &two] {
        assert_eq!(version(weir).await, made, "its own URI and the other rule's tags are void");
        for _ in 0..3 {
            let stale = weir.get("/items").await;
            let cache = stale.assert_hit().cache();
            assert_eq!((cache.detail.as_deref(), cache.ttl), (Some("soft-purged"), Some(0)), "{stale:?}");
        }
        let strict = weir.get("/strict").await.text();
        let number: usize = strict.trim_start_matches("answer ").parse().unwrap();
        assert!(number > fetches, "nobody answers with the stale one: {strict}");
        let asked = weir.get("/items").header("cache-control", "only-if-cached, max-age=3600").await;
        asked.assert_code(504);
    }
    hold.caught(2).await;
    let asked = origin.last("GET /items");
    assert_eq!((asked.header("if-none-match"), asked.header("if-modified-since")), (Some("\"t\""), None));
    hold.release();
    for weir in [&one, &two] {
        warm_at(weir, "/items").await;
    }
}

#[tokio::test]
async fn where_every_rule_is_soft_so_is_the_purge_of_the_uri_itself() {
    let origin = tagged().await;
    origin.counting("GET /touch");
    let route = "[[route]]\nname = \"touch\"\nmatch = \"GET /touch\"\nstale_while_revalidate = \"1m\"";
    let weir = Weir::start(&origin, &format!("{SOFT}\n{route}")).await;
    for path in ["/touch", "/items"] {
        warm_at(&weir, path).await;
    }
    let hold = origin.hold("GET /*");
    weir.post("/touch").await.assert_code(204);
    for path in ["/touch", "/items"] {
        assert_eq!(detail(weir.get(path).await.assert_hit()), "soft-purged", "{path}");
    }
    hold.release();
    for path in ["/touch", "/items"] {
        warm_at(&weir, path).await;
    }
}

#[tokio::test]
async fn what_is_soft_purged_stands_in_for_errors_where_that_is_allowed() {
    let origin = tagged().await;
    let weir = Weir::start(&origin, SOFT).await;
    for path in ["/robust", "/strict"] {
        warm_at(&weir, path).await;
    }
    weir.post("/touch").await.assert_code(204);
    for path in ["GET /robust", "GET /strict"] {
        origin.always(path, || Reply::status(503));
    }
    let answer = weir.get("/robust").await;
    assert_eq!(detail(answer.assert_code(200).assert_hit()), "stale-if-error");
    weir.get("/strict").await.assert_code(503);
}

#[tokio::test]
async fn a_fill_that_a_soft_purge_overtakes_is_kept_and_stale() {
    let origin = tagged().await;
    let weir = Weir::start(&origin, SOFT).await;
    let hold = origin.hold_next("GET /items", 1);
    let before = weir.get("/items").spawn();
    hold.caught(1).await;
    weir.post("/touch").await.assert_code(204);
    hold.release();
    assert_eq!(before.await.unwrap().text(), "answer 1");
    let refresh = origin.hold_next("GET /items", 1);
    let stale = weir.get("/items").await;
    assert_eq!((detail(stale.assert_hit()).as_str(), stale.text().as_str()), ("soft-purged", "answer 1"));
    refresh.caught(1).await;
    refresh.release();
    warm_at(&weir, "/items").await;
}
