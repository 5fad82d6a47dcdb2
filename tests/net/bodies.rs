//! Content both ways: whole or visibly not, trailers, expectations, events, time-outs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::{Origin, Setup, Weir, until, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// An origin that answers each first request with a text and then closes, or waits.
async fn says(text: &'static str, closes: bool) -> Origin {
    Origin::start(move |_, mut wire| async move {
        let _ = wire.message().await;
        wire.say(text).await;
        if !closes {
            wire.ended().await;
        }
    })
    .await
}

#[tokio::test]
async fn content_that_is_cut_off_arrives_cut_off() {
    within(async {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
        ] {
            let origin = says(text, true).await;
            let weir = Weir::before(&origin).await;
            let mut client = weir.client().await;
            client.say(GET).await;
            assert!(client.message().await.is_none(), "{text}");
            until("it is closed", || weir.upstream.connections() == (0, 0)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_old_client_can_tell_a_part_from_the_whole() {
    within(async {
        let request = "GET / HTTP/1.0\r\nhost: a\r\n\r\n";
        let origin = says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", true).await;
        let mut client = Weir::before(&origin).await.client().await;
        client.say(request).await;
        let (_, end) = client.rest().await;
        assert!(end.is_err(), "nothing but a reset tells it");

        let origin =
            says("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n\r\n", true).await;
        let mut client = Weir::before(&origin).await.client().await;
        client.say(request).await;
        let (all, end) = client.rest().await;
        assert!(end.is_ok());
        let all = String::from_utf8(all).unwrap();
        assert!(all.starts_with("HTTP/1.0 200 OK\r\n") && all.ends_with("\r\n\r\nhalf"), "{all}");
        assert!(!all.contains("transfer-encoding"), "{all}");
    })
    .await;
}

#[tokio::test]
async fn old_upstreams_end_their_content_by_closing() {
    within(async {
        let origin = says("HTTP/1.0 200 OK\r\n\r\nto the end", true).await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        for n in 1..=2 {
            assert_eq!(client.ask(GET).await.text(), "to the end");
            assert_eq!(origin.accepted(), n);
        }
    })
    .await;
}

#[tokio::test]
async fn no_head_in_time() {
    within(async {
        let origin = says("", false).await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.first_byte_timeout = Duration::from_millis(200);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        for request in [GET, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"] {
            let reply = client.ask(request).await;
            assert_eq!((reply.status(), reply.text()), (504, "upstream-timeout"));
        }
        until("they are closed", || weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn silence_within_the_content_ends_it_badly() {
    within(async {
        let origin = says("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", false).await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.idle_timeout = Duration::from_millis(200);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        client.say(GET).await;
        assert!(client.message().await.is_none());
        until("it is closed", || weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn a_long_upload_is_no_silence() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.first_byte_timeout = Duration::from_secs(1);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        client.say("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\n").await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            client.say("x").await;
        }
        assert_eq!(client.message().await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_stops_is_the_clients_failure() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.first_byte_timeout = Duration::from_millis(200);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        client.say("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf").await;
        let reply = client.message().await.unwrap();
        assert_eq!((reply.status(), reply.text()), (400, "request-body"));
        assert!(client.ended().await);
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_never_reaches_the_upstream_whole() {
    within(async {
        let outcome = Arc::new(AtomicUsize::new(0));
        let seen = outcome.clone();
        let origin = Origin::start(move |_, mut wire| {
            let seen = seen.clone();
            async move {
                let whole = wire.message().await.is_some();
                seen.store(if whole { 2 } else { 1 }, Ordering::SeqCst);
            }
        })
        .await;
        for request in [
            "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf",
            "PUT / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        ] {
            outcome.store(0, Ordering::SeqCst);
            let before = origin.accepted();
            let weir = Weir::before(&origin).await;
            let mut client = weir.client().await;
            client.say(request).await;
            until("it is under way", || origin.accepted() > before).await;
            drop(client);
            until("the origin has made up its mind", || outcome.load(Ordering::SeqCst) > 0).await;
            assert_eq!(outcome.load(Ordering::SeqCst), 1, "{request}");
        }
    })
    .await;
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            let request = wire.message().await.unwrap();
            assert_eq!(request.field("te"), Some("trailers"));
            assert_eq!(request.field("transfer-encoding"), Some("chunked"));
            assert_eq!(request.text(), "hello world");
            assert_eq!(request.trailers, "x-sum: 11\r\n");
            wire.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n").await;
            wire.say("3\r\nyes\r\n0\r\nx-end: 3\r\n\r\n").await;
            wire.ended().await;
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client
            .say("POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        client.say("5\r\nhello\r\n6\r\n world\r\n0\r\nx-sum: 11\r\n\r\n").await;
        let reply = client.message().await.unwrap();
        assert_eq!(reply.text(), "yes");
        assert_eq!(reply.trailers, "x-end: 3\r\n");
        assert_eq!(weir.upstream.connections(), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn answers_without_content_keep_their_fields() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            while let Some(request) = wire.message().await {
                let answer = if request.head.starts_with("HEAD") {
                    "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"1\"\r\n\r\n"
                } else if request.head.starts_with("OPTIONS *") {
                    "HTTP/1.1 204 No Content\r\nallow: GET\r\n\r\n"
                } else {
                    "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"
                };
                wire.say(answer).await;
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        for _ in 0..2 {
            client.say("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let head = client.head().await.unwrap();
            assert!(head.contains("content-length: 1234\r\n"), "{head}");
            let reply = client.ask("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert_eq!((reply.status(), reply.field("allow")), (204, Some("GET")));
            let reply = client.ask(GET).await;
            assert_eq!((reply.status(), reply.field("etag")), (304, Some("\"1\"")));
        }
        assert_eq!(origin.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn an_expectation_is_met_by_the_upstream() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            let head = wire.head().await.unwrap();
            assert!(head.contains("expect: 100-continue"), "{head}");
            wire.say("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(wire.exactly(4).await.unwrap(), b"data");
            wire.say("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await;
            wire.ended().await;
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.say("PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
        assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        client.say("data").await;
        assert_eq!(client.message().await.unwrap().status(), 201);
        assert_eq!(weir.upstream.connections(), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn an_expectation_refused_spares_the_content() {
    within(async {
        let got_content = Arc::new(AtomicBool::new(false));
        let flag = got_content.clone();
        let origin = Origin::start(move |_, mut wire| {
            let flag = flag.clone();
            async move {
                let _ = wire.head().await;
                wire.say("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await;
                flag.store(!wire.ended().await, Ordering::SeqCst);
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.say("PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
        let reply = client.message().await.unwrap();
        assert_eq!((reply.status(), reply.text()), (417, "no"), "and no 100 before it");
        assert!(client.ended().await);
        until("the connection is closed, not reused", || weir.upstream.connections() == (0, 0)).await;
        assert!(!got_content.load(Ordering::SeqCst));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_ignores_expectations_gets_the_content_all_the_same() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let start = Instant::now();
        client.say("PUT / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
        assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(start.elapsed() >= Duration::from_millis(900));
        client.say("data").await;
        assert_eq!(client.message().await.unwrap().status(), 200);
    })
    .await;
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            let _ = wire.head().await;
            wire.say("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno").await;
            let _ = wire.rest().await;
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.say("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000000\r\n\r\n").await;
        // The client goes on sending for a while, as clients do; the answer arrives all the same.
        for _ in 0..20 {
            if !client.try_say(&vec![b'x'; 16 * 1024]).await {
                break;
            }
        }
        let reply = client.message().await.unwrap();
        assert_eq!((reply.status(), reply.text()), (413, "no"));
        until("it is closed", || weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    within(async {
        let next = Arc::new(AtomicUsize::new(0));
        let allowed = next.clone();
        let origin = Origin::start(move |_, mut wire| {
            let allowed = allowed.clone();
            async move {
                let _ = wire.message().await;
                wire.say("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                    .await;
                for n in 0..5 {
                    until("the last one has arrived", || allowed.load(Ordering::SeqCst) >= n).await;
                    wire.say(format!("9\r\ndata: {n}\n\n\r\n")).await;
                }
                wire.say("0\r\n\r\n").await;
                wire.ended().await;
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.say(GET).await;
        client.head().await.unwrap();
        for n in 0..5 {
            let event = client.through("\n\n\r\n").await.unwrap();
            assert_eq!(event, format!("9\r\ndata: {n}\n\n\r\n"));
            next.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(client.through("0\r\n\r\n").await.unwrap(), "0\r\n\r\n");
    })
    .await;
}

#[tokio::test]
async fn much_content_passes_both_ways() {
    within(async {
        const SIZE: usize = 32 << 20;
        let origin = Origin::start(|_, mut wire| async move {
            let request = wire.message().await.unwrap();
            wire.say(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.body.len())).await;
            wire.say(&request.body).await;
            wire.ended().await;
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let content: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect();
        client.say(format!("PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: {SIZE}\r\n\r\n")).await;
        client.say(&content).await;
        assert!(client.message().await.unwrap().body == content);
        assert_eq!(weir.upstream.connections(), (1, 1));
    })
    .await;
}
