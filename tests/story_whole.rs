//! What cannot be proved whole is not kept, and a part is never presented as the whole.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use support::{Origin, RawOrigin, Redis, Reply, Weir, WeirConfig, eventually};
use tokio::io::AsyncWriteExt;

/// Makes an answer.
type Make = fn() -> Reply;

const PAGE: &str = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"";

#[tokio::test]
async fn a_body_cut_off_reaches_the_client_as_broken_and_is_not_kept() {
    let origin = Origin::start().await;
    let weir = Weir::start(&origin, PAGE).await;
    let cuts: [(&str, Make); 2] = [
        ("Content-Length", || Reply::cut("half of it", 20)),
        ("chunked", || Reply::cut_chunked("half of it")),
    ];
    for (what, cut) in cuts {
        origin.always("GET /page", cut);
        for _ in 0..2 {
            let broken = weir.get("/page").attempt().await;
            broken.expect_err(&format!("{what}: the client must notice"));
        }
    }
    origin.always("GET /page", || Reply::text("all of it"));
    assert_eq!(weir.get("/page").await.assert_stored().text(), "all of it");
    assert_eq!(weir.get("/page").await.assert_hit().text(), "all of it");
    assert_eq!(origin.count("/page"), 5, "each broken transfer was fetched again");
}

#[tokio::test]
async fn a_cut_body_over_http2_is_broken_too() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::cut_chunked("half of it"));
    let weir = Weir::start(&origin, PAGE).await;
    weir.get("/page").http2().attempt().await.expect_err("a reset stream, not a short body");
}

#[tokio::test]
async fn those_who_wait_for_a_body_that_breaks_off_notice_it_too() {
    let origin = Origin::start().await;
    let fetched = AtomicUsize::new(0);
    origin.on("GET /page", move |_| match fetched.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::cut("half of it", 20),
        _ => Reply::text("all of it"),
    });
    let weir = Weir::start(&origin, PAGE).await;
    let hold = origin.hold_next("GET /page", 1);
    let leader = tokio::spawn(weir.get("/page").attempt());
    hold.caught(1).await;
    let others: Vec<_> = (0..10).map(|_| tokio::spawn(weir.get("/page").attempt())).collect();
    weir.coalesces(10).await;
    hold.release();
    leader.await.unwrap().expect_err("the leader got the half");
    for other in others {
        // Whoever was streamed to must see the break; whoever was not is served whole.
        if let Ok(answer) = other.await.unwrap() {
            assert_eq!(answer.text(), "all of it");
        }
    }
    assert_eq!(weir.get("/page").await.text(), "all of it");
}

#[tokio::test]
async fn nothing_partial_reaches_redis() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.always("GET /page", || Reply::cut("half of it", 20));
    let weir = Weir::with_redis(&origin, &redis, PAGE).await;
    weir.get("/page").attempt().await.expect_err("broken");
    // Something that is stored afterwards proves that earlier writes would have arrived.
    origin.always("GET /page", || Reply::text("all of it"));
    weir.get("/page").await.assert_stored();
    redis.filled("page", 1).await;
    let second = Weir::with_redis(&origin, &redis, PAGE).await;
    assert_eq!(second.get("/page").await.assert_hit().text(), "all of it");
}

#[tokio::test]
async fn a_body_over_the_limit_streams_through_and_is_not_kept() {
    let origin = Origin::start().await;
    let big = "x".repeat(300_000);
    let content = big.clone();
    origin.on("GET /page", move |_| Reply::text(content.clone()));
    let content = big.clone();
    origin.on("GET /chunked", move |_| {
        let (sender, reply) = Reply::channel();
        let content = content.clone();
        tokio::spawn(async move {
            for chunk in content.as_bytes().chunks(10_000) {
                if sender.send(chunk.to_vec().into()).await.is_err() {
                    return;
                }
            }
        });
        reply
    });
    let text = format!(
        "[cache]\nmax_body = \"100KiB\"\n{PAGE}\n[[route]]\nname = \"chunked\"\nmatch = \"GET /chunked\"\nttl = \"5m\""
    );
    let weir = Weir::start(&origin, &text).await;
    for path in ["/page", "/chunked"] {
        for _ in 0..2 {
            let answer = weir.get(path).await;
            assert_eq!(answer.assert_not_hit().body.len(), big.len(), "{path}");
        }
        assert_eq!(origin.count(path), 2, "{path} was not kept");
    }
}

#[tokio::test]
async fn a_body_over_its_routes_limit_is_not_kept_however_it_comes() {
    let origin = Origin::start().await;
    origin.on("GET /page", |_| Reply::text("x".repeat(300_000)));
    origin.on("GET /chunked", |_| {
        let (sender, reply) = Reply::channel();
        for _ in 0..15 {
            sender.try_send("x".repeat(20_000).into()).unwrap();
        }
        reply
    });
    // The store would take them; the route does not.
    let route = PAGE.replace("GET /page", "GET /**");
    let weir = Weir::start(&origin, &format!("{route}\nmax_body = \"100KiB\"")).await;
    for path in ["/page", "/chunked"] {
        for n in 1..=2 {
            let answer = weir.get(path).await;
            assert_eq!(answer.assert_not_hit().body.len(), 300_000, "{path}");
            assert_eq!(origin.count(path), n, "{path} was not kept");
            if path == "/page" {
                // Its head tells its length, so the head of the answer can tell what comes of it.
                let status = answer.cache();
                assert_eq!((status.stored, status.detail.as_deref()), (false, Some("too-large")));
            }
        }
    }
}

#[tokio::test]
async fn all_fills_together_have_a_budget() {
    let origin = Origin::start().await;
    let (sender, slow) = Reply::channel();
    let slow = std::sync::Mutex::new(Some(slow));
    origin.on("GET /slow", move |_| slow.lock().unwrap().take().unwrap_or_else(|| Reply::text("again")));
    origin.on("GET /page", |_| Reply::text("x".repeat(600_000)));
    let limits = "[cache]\nmax_body = \"1MB\"\nmax_fill = \"1MB\"";
    let weir = Weir::start(&origin, &format!("{limits}\n{}", PAGE.replace("GET /page", "GET /**"))).await;
    let mut first = weir.get("/slow").open().await.unwrap();
    sender.send("y".repeat(600_000).into()).await.unwrap();
    let mut got = 0;
    while got < 600_000 {
        got += first.chunk().await.unwrap().unwrap().len();
    }
    // While the first is under way, there is no room for another of its size.
    for n in 1..=2 {
        assert_eq!(weir.get("/page?1").await.assert_not_hit().body.len(), 600_000);
        assert_eq!(origin.count("/page"), n);
    }
    drop(sender);
    first.finish().await.unwrap();
    assert_eq!(weir.get("/slow").await.assert_hit().body.len(), 600_000);
    weir.get("/page?2").await.assert_stored();
    weir.get("/page?2").await.assert_hit();
}

#[tokio::test]
async fn a_body_over_the_limit_goes_to_everybody_who_waits() {
    let origin = Origin::start().await;
    let big = "x".repeat(300_000);
    let content = big.clone();
    origin.on("GET /page", move |_| Reply::text(content.clone()));
    let weir = Weir::start(&origin, &format!("[cache]\nmax_body = \"100KiB\"\n{PAGE}")).await;
    let hold = origin.hold_next("GET /page", 1);
    let first = weir.get("/page").spawn();
    hold.caught(1).await;
    let others: Vec<_> = (0..5).map(|_| weir.get("/page").spawn()).collect();
    hold.release();
    assert_eq!(first.await.unwrap().body.len(), big.len());
    for other in others {
        assert_eq!(other.await.unwrap().body.len(), big.len());
    }
}

#[tokio::test]
async fn server_errors_are_not_kept() {
    let origin = Origin::start().await;
    let weir = Weir::start(&origin, PAGE).await;
    for code in [500, 501, 502, 503, 504, 507] {
        origin.always("GET /page", move || Reply::text("no").code(code));
        for _ in 0..2 {
            let answer = weir.get("/page").await;
            answer.assert_code(code).assert_not_hit();
            assert!(!answer.cache().stored, "{answer:?}");
        }
    }
    assert_eq!(origin.count("/page"), 12);
    origin.always("GET /page", || Reply::text("yes"));
    weir.get("/page").await.assert_stored();
}

#[tokio::test]
async fn a_partial_answer_is_not_taken_for_the_whole() {
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text("0123").code(206).header("content-range", "bytes 0-3/10"));
    let weir = Weir::start(&origin, PAGE).await;
    for _ in 0..2 {
        assert!(!weir.get("/page").await.assert_not_hit().cache().stored);
    }
}

#[tokio::test]
async fn an_answer_with_two_lengths_or_a_broken_chunk_is_not_kept() {
    let broken = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-len",
        "this is not HTTP\r\n\r\n",
    ];
    for text in broken {
        let origin = RawOrigin::start(move |mut stream| async move {
            while !RawOrigin::read_head(&mut stream).await.is_empty() {
                drop(stream.write_all(text.as_bytes()).await);
                drop(stream.shutdown().await);
            }
        })
        .await;
        let weir = WeirConfig::new(PAGE).upstream(&origin.url()).start().await;
        for _ in 0..2 {
            match weir.get("/page").attempt().await {
                Err(_) => {}
                Ok(answer) => {
                    answer.assert_code(502).assert_not_hit();
                }
            }
        }
    }
}

#[tokio::test]
async fn a_length_that_ends_with_the_connection_is_streamed_whole() {
    // HTTP/1.0 style: the end of the connection is the end of the body. Whether it is whole cannot be proved.
    let origin = RawOrigin::start(|mut stream| async move {
        RawOrigin::read_head(&mut stream).await;
        drop(stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\nhello").await);
    })
    .await;
    let weir = WeirConfig::new(PAGE).upstream(&origin.url()).start().await;
    for _ in 0..2 {
        assert_eq!(weir.get("/page").await.assert_not_hit().text(), "hello");
    }
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn garbage_in_redis_is_a_miss() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /page");
    // No memory: every look-up asks Redis.
    let text = format!("[cache]\nmemory = \"0\"\n{PAGE}");
    let weir = Weir::with_redis(&origin, &redis, &text).await;
    weir.get("/page").await.assert_stored();
    redis.filled("page", 1).await;
    weir.get("/page").await.assert_hit();
    let key = redis.entries("page").await.remove(0);
    let whole: Vec<u8> = redis.run(&["GET", &key]).await;
    for garbage in ["", "garbage", "\u{0}\u{1}\u{2}", &"x".repeat(5000)] {
        redis.spoil("page", garbage).await;
        let answer = weir.get("/page").await;
        answer.assert_code(200).assert_not_hit();
        eventually("it is stored anew", support::DEADLINE, || async { weir.get("/page").await.hit() }).await;
    }
    // One flipped bit anywhere is enough.
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let offset = at.to_string();
        let flipped: String = if whole[at] == b'!' { "?".into() } else { "!".into() };
        redis.run::<()>(&["SETRANGE", &key, &offset, &flipped]).await;
        weir.get("/page").await.assert_code(200).assert_not_hit();
        eventually("it is stored anew", support::DEADLINE, || async { weir.get("/page").await.hit() }).await;
    }
    // A value of another type under our name.
    redis.run::<()>(&["DEL", &key]).await;
    redis.run::<()>(&["LPUSH", &key, "a"]).await;
    weir.get("/page").await.assert_code(200).assert_not_hit();
}

#[tokio::test]
async fn an_entry_under_another_name_is_not_taken() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.on("GET /page", |seen| Reply::text(format!("for {}", seen.query)));
    let weir = Weir::with_redis(&origin, &redis, &format!("[cache]\nmemory = \"0\"\n{PAGE}")).await;
    weir.get("/page?ann").await.assert_stored();
    redis.filled("page", 1).await;
    let anns = redis.entries("page").await.remove(0);
    weir.get("/page?bob").await.assert_stored();
    redis.filled("page", 2).await;
    let bobs = redis.entries("page").await.into_iter().find(|k| *k != anns).unwrap();
    redis.run::<()>(&["COPY", &anns, &bobs, "REPLACE"]).await;
    assert_eq!(weir.get("/page?bob").await.assert_not_hit().text(), "for bob");
}

#[tokio::test]
async fn a_client_that_leaves_mid_body_does_not_spoil_the_fill() {
    let origin = Origin::start().await;
    let (sender, slow) = Reply::channel();
    let slow = std::sync::Mutex::new(Some(slow));
    origin.on("GET /page", move |_| {
        slow.lock().unwrap().take().unwrap_or_else(|| Reply::text("fetched again"))
    });
    let weir = Weir::start(&origin, PAGE).await;
    let mut opened = weir.get("/page").open().await.unwrap();
    sender.send("all ".into()).await.unwrap();
    assert_eq!(opened.chunk().await.unwrap().unwrap(), "all ");
    let follower = weir.get("/page").spawn();
    weir.coalesces(1).await;
    drop(opened);
    // The proxy learns sooner or later that the client has left; the fill belongs to the flight and goes on.
    for piece in ["o", "f", " ", "i", "t"] {
        weir.get("/elsewhere").await;
        sender.send(piece.into()).await.unwrap();
    }
    drop(sender);
    assert_eq!(follower.await.unwrap().text(), "all of it");
    assert_eq!(weir.get("/page").await.assert_hit().text(), "all of it");
    assert_eq!(origin.count("/page"), 1);
}

#[tokio::test]
async fn what_slow_clients_have_yet_to_read_counts_as_buffered() {
    const BODY: usize = 24 << 20;
    let origin = Origin::start().await;
    origin.always("GET /*", || Reply::text(vec![b'x'; BODY]));
    let text = "[cache]\nmax_fill = \"40MiB\"\nmax_body = \"32MiB\"\nhit_for_miss = \"1ms\"\n\
                [[route]]\nname = \"all\"\nmatch = \"GET /**\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, text).await;
    // More than the sockets between hold: the rest waits in Weir.
    let slow = weir.get("/slow").open().await.unwrap();
    eventually("it is stored", support::DEADLINE, || async { weir.get("/slow").await.hit() }).await;
    assert_eq!(weir.get("/other").await.body.len(), BODY);
    assert_eq!(weir.get("/other").await.assert_not_hit().body.len(), BODY, "there is no room to keep it");
    drop(slow);
    eventually("room again", support::DEADLINE, || async { weir.get("/other").await.hit() }).await;
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_all_and_one_that_does_not_read_is_let_go() {
    const BODY: usize = 24 << 20;
    let origin = Origin::start().await;
    origin.always("GET /page", || Reply::text(vec![b'x'; BODY]));
    let text = format!("[server]\nidle_timeout = \"2s\"\n[cache]\nmax_body = \"32MiB\"\n{PAGE}");
    let weir = Weir::start(&origin, &text).await;
    weir.get("/page").await.assert_stored();
    // A hit is one piece: Weir is done with it long before the client is.
    let mut slow = weir.get("/page").open().await.unwrap();
    let mut read = 0;
    let mut pause = 0;
    while let Some(piece) = slow.chunk().await.expect("all of it, however slowly") {
        read += piece.len();
        if read >> 20 > pause {
            pause = read >> 20;
            tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        }
    }
    assert_eq!(read, BODY);
    // Who takes nothing at all for that long does not hold the backend up.
    let (sender, endless) = Reply::channel();
    let endless = std::sync::Mutex::new(Some(endless));
    origin.on("GET /streamed", move |_| endless.lock().unwrap().take().unwrap());
    let _stuck = weir.get("/streamed").and_leave_open().await;
    let feed = async { while sender.send(vec![b'x'; 1 << 20].into()).await.is_ok() {} };
    support::within("the backend is let go", feed).await;
}
