//! Kept-alive connections: used again, found closed, repeated only where that is harmless.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use weir::body::Body;
use weir::upstream::Upstream;

use crate::support::{Origin, Setup, Weir, Wire, until, within};

const GET: &str = "GET /a?b=1 HTTP/1.1\r\nhost: api.example\r\n\r\n";
const POST: &str = "POST /a HTTP/1.1\r\nhost: api.example\r\ncontent-length: 2\r\n\r\nhi";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn one_connection_serves_many_requests() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        for _ in 0..20 {
            let reply = client.ask(GET).await;
            assert!(reply.text().starts_with("GET /a?b=1 HTTP/1.1\r\n"), "{}", reply.text());
        }
        assert_eq!(origin.accepted(), 1);
        assert_eq!(weir.upstream.connections(), (1, 1));
        assert!(client.ask(POST).await.text().starts_with("POST /a HTTP/1.1\r\n"));
    })
    .await;
}

#[tokio::test]
async fn what_the_upstream_is_told() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        let reply = client.ask(GET).await;
        let seen = reply.text();
        assert!(seen.contains("host: api.example\r\n"), "{seen}");
        assert!(seen.contains("via: 1.1 weir\r\n"), "{seen}");
        assert!(seen.contains("x-forwarded-for: 127.0.0.1\r\n"), "{seen}");
        assert!(!seen.contains("transfer-encoding") && !seen.contains("content-length"), "{seen}");
        let reply = client.ask("POST / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(reply.text().contains("content-length: 0\r\n"), "{}", reply.text());
        let reply = client.ask(POST).await;
        assert!(reply.text().contains("content-length: 2\r\n"), "{}", reply.text());
        let reply = client
            .ask("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .await;
        assert!(reply.text().contains("transfer-encoding: chunked\r\n"), "{}", reply.text());
        // Two lengths: the chunks count, the other is not passed on, and the connection ends with the answer.
        let reply = client
            .ask("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
            .await;
        assert!(reply.text().contains("transfer-encoding: chunked\r\n"), "{}", reply.text());
        assert!(!reply.text().contains("content-length"), "{}", reply.text());
        assert_eq!(reply.field("connection"), Some("close"));
        assert!(client.ended().await);
    })
    .await;
}

#[tokio::test]
async fn the_upstreams_own_host_where_asked_for() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.preserve_host = false;
        let weir = setup.start().await;
        let reply = weir.client().await.ask(GET).await;
        assert!(reply.text().contains(&format!("host: {}\r\n", origin.addr)), "{}", reply.text());
    })
    .await;
}

/// Answers the first request of the first connection, reads a second one and closes without a word; answers all
/// others. This is the race of a server whose keep-alive ends as a request arrives.
async fn closes_under_the_second() -> Origin {
    Origin::start(|n, mut wire| async move {
        let mut served = 0;
        while let Some(_request) = wire.message().await {
            if n == 0 && served == 1 {
                return;
            }
            served += 1;
            wire.say(OK).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_read_is_repeated_when_the_connection_closed_under_it() {
    within(async {
        let origin = closes_under_the_second().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(client.ask(GET).await.status(), 200);
        assert_eq!(origin.accepted(), 2);
    })
    .await;
}

#[tokio::test]
async fn what_is_repeated_is_word_for_word_what_was_said() {
    within(async {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let origin = Origin::start(move |n, mut wire| {
            let tell = tell.clone();
            async move {
                let mut served = 0;
                while let Some(request) = wire.message().await {
                    let _ = tell.send(request.head);
                    if n == 0 && served == 1 {
                        return;
                    }
                    served += 1;
                    wire.say(OK).await;
                }
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        let long = "v".repeat(5000);
        let request = format!(
            "GET /%C3%A9?q=a:b HTTP/1.1\r\nhost: a:81\r\nx-a: 1\r\nx-a: : 2\r\nx-empty: \r\nx-long: {long}\r\nx-e: \u{e9}\r\n\r\n"
        );
        assert_eq!(client.ask(&request).await.status(), 200);
        assert_eq!(origin.accepted(), 2);
        let mut said = Vec::new();
        while let Ok(request) = told.try_recv() {
            said.push(request);
        }
        assert_eq!(said.len(), 3);
        assert_eq!(said[1], said[2]);
        let text = &said[2];
        assert!(text.starts_with("GET /%C3%A9?q=a:b HTTP/1.1\r\n"), "{text}");
        for line in ["host: a:81", "x-a: 1", "x-a: : 2", "x-empty: ", "x-e: \u{e9}", "via: 1.1 weir"] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{line}: {text}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_mutation_is_never_repeated() {
    within(async {
        for request in [POST, "DELETE /a HTTP/1.1\r\nhost: a\r\n\r\n"] {
            loop {
                let origin = closes_under_the_second().await;
                let weir = Weir::before(&origin).await;
                let mut client = weir.client().await;
                assert_eq!(client.ask(GET).await.status(), 200);
                let reply = client.ask(request).await;
                if reply.status() == 200 {
                    // The machine dawdled for a second, and the kept connection was too old: once more.
                    continue;
                }
                assert_eq!((reply.status(), reply.text()), (502, "upstream-closed"));
                assert_eq!(origin.accepted(), 1);
                break;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_read_is_repeated_once_and_on_a_new_connection_only() {
    within(async {
        let origin = Origin::start(|n, mut wire| async move {
            let _ = wire.message().await;
            if n == 0 {
                wire.say(OK).await;
                let _ = wire.message().await;
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        assert_eq!(client.ask(GET).await.status(), 200);
        let reply = client.ask(GET).await;
        assert_eq!((reply.status(), reply.text()), (502, "upstream-closed"));
        let reply = client.ask(GET).await;
        assert_eq!((reply.status(), reply.text()), (502, "upstream-closed"));
        assert_eq!(origin.accepted(), 3);
    })
    .await;
}

#[tokio::test]
async fn a_connection_closed_while_idle_harms_no_request() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            let _ = wire.message().await;
            wire.say(OK).await;
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        for n in 1..=10 {
            // Every connection is closed by the upstream right after its answer.
            assert_eq!(client.ask(POST).await.status(), 200, "{n}");
            until("the close has arrived", || weir.upstream.connections() == (0, 0)).await;
        }
        assert_eq!(origin.accepted(), 10);
    })
    .await;
}

#[tokio::test]
async fn mutations_avoid_connections_that_idled() {
    within(async {
        let origin = Origin::echo().await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        client.ask(GET).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        client.ask(POST).await;
        assert_eq!(origin.accepted(), 2);
        assert_eq!(weir.upstream.connections(), (2, 2));
        // The one used last is used next.
        client.ask(GET).await;
        assert_eq!(origin.accepted(), 2);
    })
    .await;
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    within(async {
        let closed = Arc::new(AtomicUsize::new(0));
        let counter = closed.clone();
        let origin = Origin::start(move |_, mut wire| {
            let counter = counter.clone();
            async move {
                while wire.message().await.is_some() {
                    wire.say(OK).await;
                }
                counter.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.keep_alive = Duration::from_millis(200);
        let weir = setup.start().await;
        let mut client = weir.client().await;
        client.ask(GET).await;
        until("the origin sees the close", || closed.load(Ordering::SeqCst) == 1).await;
        assert_eq!(weir.upstream.connections(), (0, 0));
        client.ask(GET).await;
        assert_eq!(origin.accepted(), 2);
    })
    .await;
}

#[tokio::test]
async fn answers_that_end_the_connection_are_not_waited_on() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            while wire.message().await.is_some() {
                wire.say("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut client = weir.client().await;
        for _ in 0..3 {
            let reply = client.ask(POST).await;
            assert_eq!(reply.status(), 200);
            assert_eq!(reply.field("connection"), None, "the upstream's close is not the client's");
        }
        assert_eq!(origin.accepted(), 3);
        until("all are closed", || weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}

#[tokio::test]
async fn the_limit_makes_requests_wait_and_then_refuses_them() {
    within(async {
        let open = Arc::new(AtomicBool::new(false));
        let gate = open.clone();
        let origin = Origin::start(move |_, mut wire| {
            let gate = gate.clone();
            async move {
                while wire.message().await.is_some() {
                    until("the gate opens", || gate.load(Ordering::SeqCst)).await;
                    wire.say(OK).await;
                }
            }
        })
        .await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.max_connections = 1;
        setup.upstream.connect_timeout = Duration::from_secs(1);
        let weir = setup.start().await;
        let mut first = weir.client().await;
        first.say(GET).await;
        until("the first is under way", || origin.accepted() == 1).await;
        let mut second = weir.client().await;
        let reply = second.ask(GET).await;
        assert_eq!((reply.status(), reply.text()), (503, "upstream-busy"));
        second.say(GET).await;
        open.store(true, Ordering::SeqCst);
        assert_eq!(first.message().await.unwrap().status(), 200);
        assert_eq!(second.message().await.unwrap().status(), 200);
        assert_eq!(origin.accepted(), 1, "the second had the first's connection");
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_makes_room_for_a_new_one() {
    within(async {
        let origin = Origin::echo().await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.max_connections = 1;
        let weir = setup.start().await;
        let mut client = weir.client().await;
        client.ask(GET).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        client.ask(POST).await;
        assert_eq!(origin.accepted(), 2);
        assert_eq!(weir.upstream.connections(), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn nobody_there() {
    within(async {
        let addr = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let weir = Setup::to(addr).start().await;
        let mut client = weir.client().await;
        for request in [GET, POST] {
            let reply = client.ask(request).await;
            assert_eq!((reply.status(), reply.text()), (502, "upstream-unreachable"));
        }
        assert_eq!(weir.upstream.connections(), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_name_that_is_nobodys() {
    within(async {
        let mut setup = Setup::to(([127, 0, 0, 1], 1).into());
        setup.upstream.origin = "http://nobody.invalid".parse().unwrap();
        let weir = setup.start().await;
        let reply = weir.client().await.ask(GET).await;
        // A resolver that swallows questions is a time-out, and just as good.
        assert!(reply.text().starts_with("upstream-"), "{}", reply.text());
        assert!([502, 504].contains(&reply.status()));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_takes_the_call_and_says_nothing_in_tls() {
    within(async {
        let origin = Origin::start(|_, mut wire| async move {
            wire.ended().await;
        })
        .await;
        let mut setup = Setup::to(origin.addr);
        setup.upstream.origin = format!("https://{}", origin.addr).parse().unwrap();
        setup.upstream.connect_timeout = Duration::from_millis(300);
        let weir = setup.start().await;
        let reply = weir.client().await.ask(GET).await;
        assert_eq!((reply.status(), reply.text()), (504, "upstream-connect-timeout"));
    })
    .await;
}

#[tokio::test]
async fn a_response_that_is_none() {
    within(async {
        for garbage in [
            "SSH-2.0-OpenSSH_9.2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: two\r\n\r\nok",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ] {
            let origin = Origin::start(move |_, mut wire| async move {
                let _ = wire.message().await;
                wire.say(garbage).await;
                wire.ended().await;
            })
            .await;
            let weir = Weir::before(&origin).await;
            let reply = weir.client().await.ask(GET).await;
            assert_eq!((reply.status(), reply.text()), (502, "upstream-protocol"), "{garbage}");
            assert_eq!(origin.accepted(), 1);
            until("it is closed", || weir.upstream.connections() == (0, 0)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_said_at_the_start() {
    for (origin, ca, expected) in [
        ("ftp://a", None, "scheme"),
        ("/path", None, "host"),
        ("http://me:pw@a", None, "user and password"),
        ("https://a", Some("/nonexistent/ca.pem"), "/nonexistent/ca.pem"),
        ("https://a", Some("/dev/null"), "no certificate"),
    ] {
        let mut config = Setup::to(([127, 0, 0, 1], 1).into()).upstream;
        config.origin = origin.parse().unwrap();
        config.ca_file = ca.map(Into::into);
        let error = Upstream::new(config).unwrap_err();
        assert!(error.contains(expected), "{origin}: {error}");
    }
}

#[tokio::test]
async fn dropping_the_wait_closes_the_connection() {
    within(async {
        let gone = Arc::new(AtomicBool::new(false));
        let flag = gone.clone();
        let origin = Origin::start(move |_, mut wire| {
            let flag = flag.clone();
            async move {
                let _ = wire.message().await;
                wire.ended().await;
                flag.store(true, Ordering::SeqCst);
            }
        })
        .await;
        let upstream = Upstream::new(Setup::to(origin.addr).upstream).unwrap();
        let send = upstream.send(Request::get("/").body(Body::Empty).unwrap(), None);
        tokio::select! {
            _ = send => panic!("there is no answer"),
            () = until("it is under way", || origin.accepted() == 1) => {}
        }
        until("the origin sees it", || gone.load(Ordering::SeqCst)).await;
        assert_eq!(upstream.connections(), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    within(async {
        let gone = Arc::new(AtomicUsize::new(0));
        let counter = gone.clone();
        let origin = Origin::start(move |n, mut wire| {
            let counter = counter.clone();
            async move {
                let _ = wire.message().await;
                if n == 1 {
                    wire.say("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome").await;
                }
                wire.ended().await;
                counter.fetch_add(1, Ordering::SeqCst);
            }
        })
        .await;
        let weir = Weir::before(&origin).await;
        let mut before_the_head: Wire = weir.client().await;
        before_the_head.say(GET).await;
        until("it is under way", || origin.accepted() == 1).await;
        drop(before_the_head);
        until("the origin sees it", || gone.load(Ordering::SeqCst) == 1).await;

        let mut within_the_body = weir.client().await;
        within_the_body.say(GET).await;
        within_the_body.through("some").await.unwrap();
        drop(within_the_body);
        until("the origin sees that", || gone.load(Ordering::SeqCst) == 2).await;
        until("both are closed", || weir.upstream.connections() == (0, 0)).await;
    })
    .await;
}
