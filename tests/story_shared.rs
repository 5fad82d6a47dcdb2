//! Many instances, one fetch: who fetches for all, who waits, and for how long at most.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::{
    Answer, Hold, Origin, Redis, RedisCluster, Reply, Weir, WeirConfig, body_of, eventually, signal, within,
};

/// What a lock lasts without its holder (`store::BOUND`).
const BOUND: Duration = Duration::from_secs(1);
/// For a busy machine; far less than followers' patience, thirty seconds.
const MARGIN: Duration = Duration::from_secs(10);

/// A budget that a busy machine does not exceed by itself: who gives up on Redis fetches for itself.
const PATIENT: &str = "[redis]\ntimeout = \"1s\"\n";
const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"\ncoalesce = \"shared\"\n";
const ITEMS: &str = r#"
    [[route]]
    name = "items"
    match = "GET /items/{id}"
    ttl = "5m"
    coalesce = "shared"
    tags = ["item:{path.id}"]

    [[purge]]
    on = "PUT|PATCH|DELETE /items/{id}"
    tags = ["item:{path.id}"]
"#;

async fn several(n: usize, origin: &Origin, redis: &Redis, text: &str) -> Vec<Weir> {
    join_all((0..n).map(|_| Weir::with_redis(origin, redis, text))).await
}

/// How often instances asked the others, by what came of it.
async fn asked(weirs: &[Weir], result: &str) -> u64 {
    let line = format!("weir_shared_coalesce_total{{result=\"{result}\"}} ");
    let told = join_all(weirs.iter().map(async |weir| {
        let metrics = weir.operator().get("/metrics").await.text();
        metrics.lines().find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok()).unwrap()
    }));
    told.await.iter().sum()
}

/// One instance fetches `path`, held at the backend; the others wait for it.
async fn one_fetches_others_wait(
    origin: &Origin,
    weirs: &[Weir],
    path: &str,
) -> (Hold, Vec<tokio::task::JoinHandle<Answer>>) {
    let hold = origin.hold_next(&format!("GET {path}"), 1);
    let mut answers = vec![weirs[0].get(path).spawn()];
    hold.caught(1).await;
    for weir in &weirs[1..] {
        answers.push(weir.get(path).spawn());
        weir.coalesces(1).await;
    }
    (hold, answers)
}

fn found(answer: &Answer) -> bool {
    let status = answer.cache();
    status.collapsed && answer.header("cache-status").unwrap().contains("detail=shared")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_instances_and_one_cold_key_are_one_request_at_the_backend() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on_stream("GET /page", async |_| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (content, receiver) = tokio::sync::mpsc::channel(1);
        content.send("the page".into()).await.unwrap();
        http::Response::new(body_of(receiver))
    });
    let weirs = several(3, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let began = Instant::now();
    let asking = weirs.iter().flat_map(|weir| (0..100).map(|_| weir.get("/page").spawn()));
    let mut elapsed = Vec::new();
    let mut shared = 0;
    for answer in asking.collect::<Vec<_>>() {
        let answer = within("everybody is answered", answer).await.unwrap();
        assert_eq!(answer.assert_code(200).text(), "the page");
        shared += usize::from(found(&answer));
        elapsed.push(answer.elapsed);
    }
    elapsed.sort_unstable();
    println!("3 × 100: first {:?}, last {:?}, all {:?}", elapsed[0], elapsed[299], began.elapsed());
    assert_eq!(origin.count("/page"), 1);
    assert!(shared >= 2, "whoever had it from another instance says so: {shared}");
    assert_eq!((asked(&weirs, "led").await, asked(&weirs, "found").await), (1, 2));
    for weir in &weirs {
        weir.get("/page").await.assert_hit();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subjects_do_not_share() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("GET /page", |seen| Reply::text(format!("for {}", seen.header("authorization").unwrap())));
    let text = format!("{PATIENT}{PAGE}subject = {{ header = \"authorization\" }}\n");
    let weirs = several(2, &origin, &redis, &text).await;
    let hold = origin.hold("GET /page");
    let ask = |weir: &Weir, who| weir.get("/page").header("authorization", who).spawn();
    let asking: Vec<_> =
        weirs.iter().flat_map(|weir| ["ann", "bob"].map(|who| (who, ask(weir, who)))).collect();
    hold.caught(2).await;
    eventually("the others wait", support::DEADLINE, async || {
        let waiting = weirs.iter().map(|weir| weir.figure("weir_coalesced_waiting"));
        join_all(waiting).await.iter().flatten().sum::<f64>() == (asking.len() - 2) as f64
    })
    .await;
    hold.release();
    for (who, answer) in asking {
        assert_eq!(answer.await.unwrap().assert_code(200).text(), format!("for {who}"));
    }
    assert_eq!(origin.count("/page"), 2, "one for each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_killed_costs_the_others_no_more_than_the_bound() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    let mut weirs = several(3, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let hold = origin.hold_next("GET /page", 1);
    let _holder = weirs[0].get("/page").and_leave_open().await;
    hold.caught(1).await;
    let mut answers = Vec::new();
    for weir in &weirs[1..] {
        answers.push(weir.get("/page").spawn());
        weir.coalesces(1).await;
    }
    let killed = Instant::now();
    signal(weirs[0].pid(), "KILL");
    for answer in answers {
        within("who waited is answered", answer).await.unwrap().assert_code(200);
    }
    let took = killed.elapsed();
    println!("answered {took:?} after the holder was killed");
    assert!(took < BOUND + MARGIN, "{took:?}");
    assert_eq!(origin.count("/page"), 2, "one of those who waited fetched for the others");
    assert_eq!(asked(&weirs.split_off(1), "led").await, 1);
    drop(hold);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_while_they_wait() {
    let (origin, mut redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    let weirs = several(3, &origin, &redis, PAGE).await;
    let (hold, answers) = one_fetches_others_wait(&origin, &weirs, "/page").await;
    redis.kill();
    all_go_without(&origin, hold, answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_frozen_while_they_wait() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    let weirs = several(3, &origin, &redis, PAGE).await;
    let (hold, answers) = one_fetches_others_wait(&origin, &weirs, "/page").await;
    redis.freeze();
    all_go_without(&origin, hold, answers).await;
    redis.thaw();
}

/// While the first fetch is still held, everybody else is answered.
async fn all_go_without(origin: &Origin, hold: Hold, answers: Vec<tokio::task::JoinHandle<Answer>>) {
    let began = Instant::now();
    let mut answers = answers.into_iter();
    let leader = answers.next().unwrap();
    for answer in answers {
        within("who waited is answered", answer).await.unwrap().assert_code(200);
    }
    println!("without Redis after {:?}", began.elapsed());
    assert!(began.elapsed() < MARGIN, "{:?}", began.elapsed());
    assert_eq!(origin.count("/page"), 3);
    hold.release();
    within("who fetched is answered", leader).await.unwrap().assert_code(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_shared_does_not_serialise_the_instances() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "no-store"));
    let weirs = several(4, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let (hold, answers) = one_fetches_others_wait(&origin, &weirs, "/page").await;
    let others = origin.hold("GET /page");
    hold.release();
    others.caught(3).await;
    others.release();
    for answer in answers {
        answer.await.unwrap().assert_code(200);
    }
    assert_eq!(origin.count("/page"), 4);
    assert_eq!(asked(&weirs, "not_shareable").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_backend_does_not_serialise_the_instances() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.always("GET /page", || Reply::text("sorry").code(500));
    let weirs = several(4, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let (hold, answers) = one_fetches_others_wait(&origin, &weirs, "/page").await;
    let others = origin.hold("GET /page");
    hold.release();
    others.caught(3).await;
    others.release();
    for answer in answers {
        answer.await.unwrap().assert_code(500);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_purge_has_overtaken_is_waited_for_by_nobody() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let weirs = several(3, &origin, &redis, &format!("{PATIENT}{ITEMS}")).await;
    // B fetches version 1, which is held on its way; C waits for it.
    let hold = origin.hold_next("GET /items/1", 1);
    let old = weirs[1].get("/items/1").spawn();
    hold.caught(1).await;
    let early = weirs[2].get("/items/1").spawn();
    weirs[2].coalesces(1).await;
    weirs[0].put("/items/1").body("{}").await.assert_code(200);
    for weir in [&weirs[2], &weirs[1], &weirs[0]] {
        let answer = within("nobody waits for the old", async { weir.get("/items/1").await }).await;
        assert_eq!(answer.assert_code(200).item_version(), 2, "{answer:?}");
    }
    assert_eq!(hold.count(), 1, "and that while the old is still on its way");
    assert_eq!(within("who waited before is answered", early).await.unwrap().item_version(), 2);
    hold.release();
    assert_eq!(old.await.unwrap().item_version(), 1, "its request came before the purge");
    for weir in &weirs {
        assert_eq!(weir.get("/items/1").await.assert_hit().item_version(), 2);
    }
    assert_eq!(origin.count("GET /items/1"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_after_a_purge_does_not_get_what_its_flight_has_found() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let weirs = several(2, &origin, &redis, &format!("{PATIENT}{ITEMS}")).await;
    for round in 0..20 {
        let path = format!("/items/{round}");
        let hold = origin.hold_next(&format!("GET {path}"), 1);
        let led = weirs[0].get(&path).spawn();
        hold.caught(1).await;
        let waits: Vec<_> = (0..5).map(|_| weirs[1].get(&path).spawn()).collect();
        hold.release();
        // The old lands at the other instance while the purge is on its way to it.
        let version = weirs[0].put(&path).body("{}").await.assert_code(200).item_version();
        let late: Vec<_> = (0..5).map(|_| weirs[1].get(&path).spawn()).collect();
        for answer in late {
            assert_eq!(answer.await.unwrap().assert_code(200).item_version(), version);
        }
        for answer in waits.into_iter().chain([led]) {
            answer.await.unwrap().assert_code(200);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_longer_than_the_bound_keeps_its_lock() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    let weirs = several(2, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let (hold, answers) = one_fetches_others_wait(&origin, &weirs, "/page").await;
    let names = redis.keys("cache:page:*:lock").await;
    assert_eq!(names.len(), 1, "{names:?}");
    let holder: String = redis.run(&["GET", &names[0]]).await;
    let began = Instant::now();
    eventually("the bound is long over", support::DEADLINE, async || {
        let now: Option<String> = redis.run(&["GET", &names[0]]).await;
        assert_eq!(now.as_ref(), Some(&holder), "after {:?}", began.elapsed());
        began.elapsed() > BOUND * 5 / 2
    })
    .await;
    hold.release();
    for answer in answers {
        assert_eq!(answer.await.unwrap().assert_code(200).text(), "answer 1");
    }
    assert_eq!(origin.count("/page"), 1);
    eventually("the lock is given up", support::DEADLINE, async || {
        redis.keys("cache:page:*:lock").await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_longer_than_one_may_goes_alone() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    // The holder would keep its lock for as long as its own clients wait.
    let mut weirs = several(1, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let hasty = format!("{PATIENT}[cache]\ncoalesce_timeout = \"300ms\"\n{PAGE}");
    weirs.extend(several(1, &origin, &redis, &hasty).await);
    let (hold, mut answers) = one_fetches_others_wait(&origin, &weirs, "/page").await;
    let answer = within("who waited is answered", answers.pop().unwrap()).await.unwrap();
    assert_eq!(answer.assert_code(200).text(), "answer 2");
    assert_eq!(hold.count(), 1);
    hold.release();
    answers.pop().unwrap().await.unwrap().assert_code(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_that_leads_may_leave_while_its_instance_waits() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    let weirs = several(2, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    let hold = origin.hold_next("GET /page", 1);
    let first = weirs[0].get("/page").spawn();
    hold.caught(1).await;
    let leader = weirs[1].get("/page").and_leave_open().await;
    weirs[1].coalesces(1).await;
    let crowd: Vec<_> = (0..10).map(|_| weirs[1].get("/page").spawn()).collect();
    weirs[1].coalesces(11).await;
    drop(leader);
    weirs[1].get("/elsewhere").await;
    hold.release();
    for answer in crowd.into_iter().chain([first]) {
        assert_eq!(answer.await.unwrap().assert_code(200).text(), "answer 1");
    }
    assert_eq!(origin.count("/page"), 1);
    assert_eq!(asked(&weirs[1..], "found").await, 1, "the flight went on without its client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_insists_on_the_backend_waits_for_nobody() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    let weirs = several(2, &origin, &redis, &format!("{PATIENT}{PAGE}")).await;
    weirs[1].get("/page").await.assert_code(200);
    eventually("the other instance has it, too", support::DEADLINE, async || {
        weirs[0].get("/page").await.hit()
    })
    .await;
    let hold = origin.hold("GET /page");
    let insist = |weir: &Weir| weir.get("/page").header("cache-control", "no-cache").spawn();
    let insisting: Vec<_> = weirs.iter().map(insist).collect();
    hold.caught(2).await;
    hold.release();
    for answer in insisting {
        answer.await.unwrap().assert_code(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_behind_the_answer_is_one_for_all() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    let n = AtomicUsize::new(0);
    origin.on("GET /page", move |_| {
        let n = n.fetch_add(1, Ordering::SeqCst) + 1;
        let fresh = if n == 1 { 1 } else { 300 };
        Reply::text(format!("answer {n}")).header("cache-control", &format!("max-age={fresh}"))
    });
    let text = format!("{PATIENT}{PAGE}stale_while_revalidate = \"5m\"\n");
    let weirs = several(2, &origin, &redis, &text).await;
    weirs[0].get("/page").await.assert_code(200);
    eventually("the other instance has it, too", support::DEADLINE, async || {
        weirs[1].get("/page").await.text() == "answer 1" && weirs[1].get("/page").await.hit()
    })
    .await;
    assert_eq!(origin.count("/page"), 1);
    let before = asked(&weirs, "found").await;
    let hold = origin.hold("GET /page");
    let stale = |answer: &Answer| answer.header("cache-status").unwrap().contains("stale-while-revalidate");
    eventually("it is stale", support::DEADLINE, async || stale(&weirs[0].get("/page").await)).await;
    hold.caught(1).await;
    for _ in 0..50 {
        let answer = weirs[1].get("/page").await;
        assert!(stale(&answer), "nobody waits for a refresh: {answer:?}");
    }
    hold.release();
    for weir in &weirs {
        eventually("both have the new one", support::DEADLINE, async || {
            let answer = weir.get("/page").await;
            answer.text() == "answer 2" && !stale(&answer)
        })
        .await;
    }
    assert_eq!(origin.count("/page"), 2, "one refresh for both");
    assert_eq!(asked(&weirs, "found").await, before + 1, "and that without asking for every stale answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_in_a_locks_place_and_is_none_stops_nobody() {
    let (origin, redis) = (Origin::versioned().await, Redis::start().await);
    let weirs = several(1, &origin, &redis, &format!("{PATIENT}{ITEMS}")).await;
    let weir = &weirs[0];
    weir.get("/items/1").await.assert_code(200);
    redis.filled("items", 1).await;
    eventually("the lock is given up", support::DEADLINE, async || {
        redis.keys("cache:items:*:lock").await.is_empty()
    })
    .await;
    let lock = redis.entries("items").await[0].clone() + ":lock";
    for garbage in [&["SET", &lock, "for ever"][..], &["RPUSH", &lock, "a list"]] {
        weir.put("/items/1").body("{}").await.assert_code(200);
        redis.run::<redis::Value>(garbage).await;
        let answer = weir.get("/items/1").await;
        assert!(answer.assert_code(200).elapsed < MARGIN, "{answer:?}");
        redis.run::<()>(&["DEL", &lock]).await;
    }
    assert_eq!(asked(&weirs, "store_unavailable").await, 2);
}

/// Locks lie where their names hash to, their ends are announced where the log is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_cluster_too() {
    let (origin, cluster) = (Origin::start().await, RedisCluster::start().await);
    origin.on("GET /page/*", |seen| Reply::text(format!("page {}", seen.path)));
    let route = PAGE.replace("/page", "/page/{id}");
    let text = format!("{PATIENT}{route}");
    let section = cluster.section();
    let start = || WeirConfig::new(&text).upstream(&origin.url()).redis_section(&section).start();
    let weirs = join_all((0..2).map(|_| start())).await;
    for n in 0..10 {
        let path = format!("/page/{n}");
        let hold = origin.hold_next(&format!("GET {path}"), 1);
        let first = weirs[0].get(&path).spawn();
        hold.caught(1).await;
        let second = weirs[1].get(&path).spawn();
        weirs[1].coalesces(1).await;
        hold.release();
        for answer in [first, second] {
            let answer = within("both are answered", answer).await.unwrap();
            assert_eq!(answer.assert_code(200).text(), format!("page {path}"));
        }
        assert_eq!(origin.count(&path), 1);
    }
    assert_eq!((asked(&weirs, "led").await, asked(&weirs, "found").await), (10, 10));
}
