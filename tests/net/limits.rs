//! The listener: protocols, limits, clients that misbehave, drains.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use weir::server::Drained;

use crate::support::{Origin, Setup, Weir, Wire, until, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn http2_in_http1_out() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let io = TokioIo::new(TcpStream::connect(weir.addr).await.unwrap());
        let (mut h2, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://api.example/x?y=1")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = h2.send_request(request).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, Version::HTTP_2));
        assert_eq!(response.headers()["via"], "1.1 weir");
        let seen = response.into_body().collect().await.unwrap().to_bytes();
        let seen = std::str::from_utf8(&seen).unwrap();
        assert!(seen.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("host: api.example\r\n"), "{seen}");
        assert!(seen.contains("cookie: a=1; b=2\r\n"), "{seen}");
        assert!(seen.contains("via: 2 weir\r\n"), "{seen}");
        assert!(!seen.contains("transfer-encoding"), "{seen}");

        let request = Request::post("http://api.example/").body(Full::new(Bytes::from("four"))).unwrap();
        let response = h2.send_request(request).await.unwrap();
        let seen = response.into_body().collect().await.unwrap().to_bytes();
        let seen = std::str::from_utf8(&seen).unwrap();
        assert!(seen.contains("content-length: 4\r\n"), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn http2_content_cut_off_is_an_error() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            let _ = wire.message().await;
            wire.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
        })
        .await;
        let weir = Weir::before(&origin).await;
        let io = TokioIo::new(TcpStream::connect(weir.addr).await.unwrap());
        let (mut h2, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
        // Head and failure may arrive together.
        if let Ok(response) = h2.send_request(request).await {
            assert!(response.into_body().collect().await.is_err());
        }
    })
    .await;
}

#[tokio::test]
async fn clients_that_say_nothing_or_not_enough_are_closed() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.limits.header_timeout = Duration::from_secs(1);
        let weir = setup.start().await;
        let silent = ["", "G", "PRI * HT", "GET / HTTP/1.1\r\nhost: a\r\n"].map(async |words| {
            let mut client = weir.client().await;
            client.say(words).await;
            assert!(client.ended().await, "{words}");
        });
        let trickling = async {
            let mut client = weir.client().await;
            while client.try_say("x").await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let good_once = async {
            let mut client = weir.client().await;
            assert_eq!(client.ask(GET).await.status(), 200);
            client.say("GET / HTTP/1.1\r\n").await;
            assert!(client.ended().await);
        };
        // One that is merely idle may be so for longer.
        let idle = async {
            let mut client = weir.client().await;
            assert_eq!(client.ask(GET).await.status(), 200);
            tokio::time::sleep(Duration::from_millis(2500)).await;
            assert_eq!(client.ask(GET).await.status(), 200);
        };
        futures_util::join!(futures_util::future::join_all(silent), trickling, good_once, idle);
    })
    .await;
}

#[tokio::test]
async fn idle_clients_are_closed_in_time() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.limits.idle_timeout = Duration::from_millis(300);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        assert!(client.ended().await);

        let io = TokioIo::new(TcpStream::connect(weir.addr).await.unwrap());
        let (mut h2, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
        let ended = tokio::spawn(connection);
        let response = h2.send_request(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        ended.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_slow_upstream_is_no_idle_client() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            let _ = wire.message().await;
            tokio::time::sleep(Duration::from_millis(1600)).await;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        })
        .await;
        let mut setup = Setup::to(origin.addr);
        setup.limits.idle_timeout = Duration::from_millis(700);
        setup.limits.header_timeout = Duration::from_millis(700);
        let weir = setup.start().await;
        assert_eq!(weir.client().await.ask(GET).await.text(), "ok");
    })
    .await;
}

#[tokio::test]
async fn heads_too_large_are_refused() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let fits = "x".repeat(15 * 1024);
        assert_eq!(
            client.ask(&format!("GET / HTTP/1.1\r\nhost: a\r\nx: {fits}\r\n\r\n")).await.status(),
            200
        );
        // Whole but too large, and so large that it never becomes whole.
        for size in [16 * 1024, 2 << 20] {
            let mut client = weir.client().await;
            let large = "x".repeat(size);
            client.try_say(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {large}\r\n\r\n")).await;
            let reply = client.message().await.expect("an answer");
            assert_eq!(reply.status(), 431);
            assert!(client.ended().await);
        }
        let seen = client.ask(GET).await;
        assert_eq!(seen.status(), 200, "others go on");
        assert_eq!(origin.accepted(), 1);
    })
    .await;
}

#[tokio::test]
async fn requests_with_two_readings_are_refused() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        for (request, status) in [
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
            ("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx", 400),
            ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\nx", 400),
            ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
            ("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\r\n x: 1\r\n\r\n", 400),
        ] {
            let mut client = weir.client().await;
            client.say(request).await;
            let reply = client.message().await.expect(request);
            assert_eq!(reply.status(), status, "{request}");
            assert!(client.ended().await, "{request}");
        }
        assert_eq!(origin.accepted(), 0);
    })
    .await;
}

#[tokio::test]
async fn old_clients_and_those_that_say_close_are_closed() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        for request in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: x, Close\r\n\r\n",
        ] {
            let mut client = weir.client().await;
            assert_eq!(client.ask(request).await.status(), 200);
            assert!(client.ended().await, "{request}");
        }
        let mut client = weir.client().await;
        for _ in 0..2 {
            let reply = client.ask("GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n").await;
            assert_eq!(reply.field("connection"), Some("keep-alive"));
        }
    })
    .await;
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_turn() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client
            .say((0..10).map(|n| format!("GET /{n} HTTP/1.1\r\nhost: a\r\n\r\n")).collect::<String>())
            .await;
        for n in 0..10 {
            let reply = client.message().await.unwrap();
            assert!(reply.text().starts_with(&format!("GET /{n} ")), "{}", reply.text());
        }
    })
    .await;
}

#[tokio::test]
async fn a_panic_is_one_failed_request() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let reply = client.ask("GET /panic HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(reply.status(), 500);
        assert_eq!(reply.field("content-type"), Some("application/problem+json"));
        assert_eq!(client.ask(GET).await.status(), 200);
    })
    .await;
}

#[tokio::test]
async fn no_more_clients_than_there_is_room_for() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.limits.max_connections = 2;
        let weir = setup.start().await;
        let mut first = weir.client().await;
        let mut second = weir.client().await;
        first.ask(GET).await;
        second.ask(GET).await;
        // The kernel takes the third; Weir does not until there is room.
        let mut third = weir.client().await;
        third.say(GET).await;
        let waiting = tokio::time::timeout(Duration::from_millis(200), third.head()).await;
        assert!(waiting.is_err());
        drop(first);
        assert!(third.head().await.unwrap().starts_with("HTTP/1.1 200"));
    })
    .await;
}

/// An origin whose answers wait for a word.
async fn waits(word: Arc<AtomicBool>) -> Origin {
    Origin::start(move |_, mut wire| {
        let word = word.clone();
        async move {
            while wire.message().await.is_some() {
                wire.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbe").await;
                until("the word", || word.load(Ordering::SeqCst)).await;
                if !wire.try_say("en").await {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_drain_lets_requests_end() {
    within(async {
        let word = Arc::new(AtomicBool::new(false));
        let origin = waits(word.clone()).await;
        let weir = Weir::before(&origin).await;
        let addr = weir.addr;
        let mut silent = weir.client().await;
        let mut client = weir.client().await;
        client.say(GET).await;
        client.through("be").await.unwrap();
        weir.drain();
        assert!(silent.ended().await);
        // Nobody is let in any more.
        while TcpStream::connect(addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        word.store(true, Ordering::SeqCst);
        assert_eq!(client.through("en").await.unwrap(), "en");
        assert!(client.ended().await);
        assert_eq!(weir.drained().await, Drained::Clean);
    })
    .await;
}

#[tokio::test]
async fn a_drain_closes_idle_connections_at_once() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.ask(GET).await;
        weir.drain();
        assert!(client.ended().await);
        assert_eq!(weir.drained().await, Drained::Clean);
    })
    .await;
}

#[tokio::test]
async fn a_drain_lets_http2_requests_end() {
    within(async {
        let word = Arc::new(AtomicBool::new(false));
        let origin = waits(word.clone()).await;
        let weir = Weir::before(&origin).await;
        let io = TokioIo::new(TcpStream::connect(weir.addr).await.unwrap());
        let (mut h2, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://a/").body(Empty::<Bytes>::new()).unwrap();
        let response = h2.send_request(request).await.unwrap();
        weir.drain();
        word.store(true, Ordering::SeqCst);
        let content = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(content, "been");
        assert_eq!(weir.drained().await, Drained::Clean);
    })
    .await;
}

#[tokio::test]
async fn a_drain_ends() {
    within(async {
        let origin = waits(Arc::new(AtomicBool::new(false))).await;
        let mut setup = Setup::to(origin.addr);
        setup.drain_timeout = Duration::from_millis(200);
        let weir = setup.start().await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client: Wire = weir.client().await;
            client.say(GET).await;
            client.through("be").await.unwrap();
            clients.push(client);
        }
        weir.drain();
        let upstream = weir.upstream.clone();
        assert_eq!(weir.drained().await, Drained::Cut(3));
        for mut client in clients {
            assert!(client.message().await.is_none());
        }
        until("the upstream's are closed", || upstream.connections() == (0, 0)).await;
    })
    .await;
}
