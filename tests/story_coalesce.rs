//! Many ask at once, one goes to the backend; and nobody queues behind what cannot be shared.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{Origin, Reply, Weir, eventually, within};

/// Dresses an answer up.
type Dress = fn(Reply) -> Reply;

const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_for_a_cold_key_are_one_at_the_backend() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold("GET /page");
    let crowd: Vec<_> = (0..200).map(|_| weir.get("/page").spawn()).collect();
    hold.caught(1).await;
    weir.coalesces(199).await;
    let released = Instant::now();
    hold.release();
    let mut collapsed = 0;
    for answer in crowd {
        let answer = answer.await.unwrap();
        assert_eq!(answer.assert_code(200).text(), "answer 1");
        collapsed += usize::from(answer.cache().collapsed);
    }
    println!("200 answers within {:?} of the backend's, {collapsed} collapsed", released.elapsed());
    assert_eq!(origin.count("/page"), 1);
    assert!(collapsed >= 1, "those who waited say so");
}

#[tokio::test]
async fn the_leaders_client_may_leave() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold("GET /page");
    let leader = weir.get("/page").and_leave_open().await;
    hold.caught(1).await;
    let crowd: Vec<_> = (0..20).map(|_| weir.get("/page").spawn()).collect();
    weir.coalesces(20).await;
    drop(leader);
    weir.get("/elsewhere").await;
    hold.release();
    for answer in crowd {
        assert_eq!(answer.await.unwrap().assert_code(200).text(), "answer 1");
    }
    assert_eq!(origin.count("/page"), 1);
    weir.get("/page").await.assert_hit();
}

#[tokio::test]
async fn a_failure_elects_another_and_everybody_is_answered() {
    let origin = Origin::start().await;
    let n = AtomicUsize::new(0);
    origin.on("GET /page", move |_| match n.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::text("sorry").code(500),
        _ => Reply::text("fine"),
    });
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold_next("GET /page", 1);
    let leader = weir.get("/page").spawn();
    hold.caught(1).await;
    let crowd: Vec<_> = (0..10).map(|_| weir.get("/page").spawn()).collect();
    weir.coalesces(10).await;
    hold.release();
    leader.await.unwrap().assert_code(500);
    let mut fine = 0;
    for answer in crowd {
        let answer = within("everybody is answered", answer).await.unwrap();
        assert!([200, 500].contains(&answer.code()), "{answer:?}");
        fine += usize::from(answer.code() == 200);
    }
    println!("{fine} of 10 who waited were served by the next fetch, {} fetches", origin.count("/page"));
    assert_eq!(weir.get("/page").await.text(), "fine");
}

#[tokio::test]
async fn a_connection_that_dies_elects_another() {
    let origin = Origin::start().await;
    let n = AtomicUsize::new(0);
    // The proxy may retry a safe request by itself; either way nobody who waits goes without.
    origin.on("GET /page", move |_| match n.fetch_add(1, Ordering::SeqCst) {
        0..2 => Reply::gone(),
        _ => Reply::text("fine"),
    });
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold_next("GET /page", 1);
    let leader = weir.get("/page").spawn();
    hold.caught(1).await;
    let crowd: Vec<_> = (0..10).map(|_| weir.get("/page").spawn()).collect();
    weir.coalesces(10).await;
    hold.release();
    assert!([200, 502].contains(&leader.await.unwrap().code()));
    for answer in crowd {
        let answer = within("everybody is answered", answer).await.unwrap();
        assert!([200, 502].contains(&answer.code()), "{answer:?}");
    }
    assert_eq!(weir.get("/page").await.text(), "fine");
}

#[tokio::test]
async fn a_fetch_without_an_answer_elects_another_for_those_who_wait() {
    let origin = Origin::start().await;
    let n = AtomicUsize::new(0);
    // The first fetch goes over a new connection, so it is not repeated by itself.
    origin.on("GET /page", move |_| match n.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::gone(),
        _ => Reply::text("fine"),
    });
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold_next("GET /page", 1);
    let leader = weir.get("/page").spawn();
    hold.caught(1).await;
    let crowd: Vec<_> = (0..10).map(|_| weir.get("/page").spawn()).collect();
    weir.coalesces(10).await;
    hold.release();
    leader.await.unwrap().assert_code(502);
    for answer in crowd {
        assert_eq!(answer.await.unwrap().assert_code(200).text(), "fine");
    }
    assert_eq!(origin.count("/page"), 2, "one more fetch served them all");
}

/// Asks `n` times while the backend keeps every answer back; all `n` must get there side by side.
async fn all_at_the_backend_at_once(origin: &Origin, weir: &Weir, n: usize) {
    let hold = origin.hold("GET /page");
    let crowd: Vec<_> = (0..n).map(|_| weir.get("/page").spawn()).collect();
    let took =
        eventually("all of them at the backend, none answered yet", Duration::from_secs(10), || async {
            hold.count() == n
        })
        .await;
    println!("{n} requests side by side at the backend within {took:?}");
    hold.release();
    for answer in crowd {
        answer.await.unwrap().assert_code(200).assert_not_hit();
    }
}

#[tokio::test]
async fn what_is_known_not_to_be_shared_does_not_serialise() {
    let unshareable: [(&str, Dress); 3] = [
        ("no-store", |reply| reply.header("cache-control", "no-store")),
        ("Set-Cookie", |reply| reply.header("set-cookie", "a=b")),
        ("private", |reply| reply.header("cache-control", "private")),
    ];
    for (what, dress) in unshareable {
        let origin = Origin::start().await;
        origin.counting_with("GET /page", dress);
        let weir = Weir::start(&origin, PAGE).await;
        weir.get("/page").await;
        println!("{what}:");
        all_at_the_backend_at_once(&origin, &weir, 20).await;
    }
}

#[tokio::test]
async fn those_who_waited_for_what_cannot_be_shared_go_side_by_side() {
    let origin = Origin::start().await;
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "no-store"));
    let weir = Weir::start(&origin, PAGE).await;
    // Nobody knows yet that it cannot be shared: the crowd waits for the first.
    let first = origin.hold_next("GET /page", 1);
    let leader = weir.get("/page").spawn();
    first.caught(1).await;
    let crowd: Vec<_> = (0..20).map(|_| weir.get("/page").spawn()).collect();
    weir.coalesces(20).await;
    let rest = origin.hold("GET /page");
    first.release();
    leader.await.unwrap().assert_code(200);
    eventually("the whole crowd at the backend at once", Duration::from_secs(10), || async {
        rest.count() == 20
    })
    .await;
    rest.release();
    let mut answers = Vec::new();
    for answer in crowd {
        answers.push(answer.await.unwrap().assert_not_hit().text());
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 20, "everybody got an answer of their own");
}

#[tokio::test]
async fn those_who_waited_for_a_server_error_go_side_by_side() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("sorry").code(503));
    let weir = Weir::start(&origin, PAGE).await;
    let first = origin.hold_next("GET /page", 1);
    let leader = weir.get("/page").spawn();
    first.caught(1).await;
    let crowd: Vec<_> = (0..10).map(|_| weir.get("/page").spawn()).collect();
    weir.coalesces(10).await;
    let rest = origin.hold("GET /page");
    first.release();
    leader.await.unwrap().assert_code(503);
    // An error is nobody else's answer, and nothing that is remembered: they do not queue for the next one.
    eventually("the whole crowd at the backend at once", Duration::from_secs(10), || async {
        rest.count() == 10
    })
    .await;
    rest.release();
    for answer in crowd {
        answer.await.unwrap().assert_code(503);
    }
}

#[tokio::test]
async fn a_key_that_was_not_shareable_becomes_shareable_again() {
    let origin = Origin::start().await;
    origin.counting_with("GET /page", |reply| reply.header("cache-control", "no-store"));
    let weir = Weir::start(&origin, &format!("[cache]\nhit_for_miss = \"200ms\"\n{PAGE}")).await;
    weir.get("/page").await.assert_not_hit();
    origin.counting("GET /page");
    eventually("it is stored again", Duration::from_secs(10), || async { weir.get("/page").await.hit() })
        .await;
}

#[tokio::test]
async fn a_route_may_do_without() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = Weir::start(&origin, &format!("{PAGE}\ncoalesce = false")).await;
    let hold = origin.hold("GET /page");
    let crowd: Vec<_> = (0..10).map(|_| weir.get("/page").spawn()).collect();
    eventually("all of them at the backend", Duration::from_secs(10), || async { hold.count() == 10 }).await;
    hold.release();
    for answer in crowd {
        answer.await.unwrap().assert_code(200);
    }
}

#[tokio::test]
async fn who_waits_too_long_goes_alone() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let weir = Weir::start(&origin, &format!("[cache]\ncoalesce_timeout = \"300ms\"\n{PAGE}")).await;
    let hold = origin.hold_next("GET /page", 1);
    let leader = weir.get("/page").spawn();
    hold.caught(1).await;
    let follower = within("the follower goes itself", weir.get("/page").spawn()).await.unwrap();
    assert_eq!(follower.assert_code(200).text(), "answer 2");
    hold.release();
    assert_eq!(leader.await.unwrap().text(), "answer 1");
}

#[tokio::test]
async fn a_stale_entry_is_refreshed_once_however_many_ask() {
    let origin = Origin::start().await;
    origin.counting("GET /page");
    let text = PAGE.replace("ttl = \"5m\"", "ttl = \"300ms\"\nstale_while_revalidate = \"5m\"");
    let weir = Weir::start(&origin, &text).await;
    weir.get("/page").await.assert_stored();
    let hold = origin.hold("GET /page");
    eventually("a refresh begins", Duration::from_secs(10), || async {
        assert_eq!(weir.get("/page").await.text(), "answer 1");
        hold.count() == 1
    })
    .await;
    let crowd: Vec<_> = (0..50).map(|_| weir.get("/page").spawn()).collect();
    for answer in crowd {
        let answer = within("stale answers do not wait", answer).await.unwrap();
        assert_eq!(answer.assert_hit().text(), "answer 1");
    }
    assert_eq!(hold.count(), 1, "one refresh");
    hold.release();
}

#[tokio::test]
async fn a_slow_body_is_shared_while_it_streams_or_after() {
    let origin = Origin::start().await;
    let (sender, slow) = Reply::channel();
    let slow = std::sync::Mutex::new(Some(slow));
    origin.on("GET /page", move |_| {
        slow.lock().unwrap().take().unwrap_or_else(|| Reply::text("a second fetch"))
    });
    let weir = Weir::start(&origin, PAGE).await;
    let mut leader = weir.get("/page").open().await.unwrap();
    sender.send("one ".into()).await.unwrap();
    assert_eq!(leader.chunk().await.unwrap().unwrap(), "one ");
    let follower = weir.get("/page").spawn();
    weir.coalesces(1).await;
    sender.send("two".into()).await.unwrap();
    drop(sender);
    assert_eq!(leader.finish().await.unwrap().text(), "two");
    assert_eq!(follower.await.unwrap().text(), "one two");
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn an_event_stream_is_everybodys_own_and_ends_with_its_client() {
    let origin = Origin::start().await;
    let senders = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let begun = senders.clone();
    origin.on("GET /page", move |_| {
        let (sender, events) = Reply::channel();
        sender.try_send("data: 1\n\n".into()).unwrap();
        begun.lock().unwrap().push(sender);
        events.header("content-type", "text/event-stream; charset=utf-8")
    });
    let weir = Weir::start(&origin, PAGE).await;
    let mut one = weir.get("/page").open().await.unwrap();
    assert_eq!(one.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    let mut two = within("nobody waits for its end", weir.get("/page").open()).await.unwrap();
    assert_eq!(two.chunk().await.unwrap().unwrap(), "data: 1\n\n");
    drop((one, two));
    let senders: Vec<_> = senders.lock().unwrap().drain(..).collect();
    for sender in &senders {
        within("the backend's stream ends with its client", sender.closed()).await;
    }
}
