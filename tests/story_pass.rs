//! What has no route passes through untouched and unbuffered, both ways; and what fails, fails properly.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;
use support::{Origin, OriginBody, RawOrigin, Reply, Weir, WeirConfig, body_of, eventually, nobody, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// A whole body for streaming handlers.
fn whole(text: impl Into<Bytes>) -> OriginBody {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Echoes what it saw: the content, with the method and the target in fields.
async fn mirror() -> Origin {
    let origin = Origin::start().await;
    origin.on("* /*", |seen| {
        Reply::text(seen.body.clone())
            .header("x-method", seen.method.as_str())
            .header("x-target", &format!("{}?{}", seen.path, seen.query))
    });
    origin
}

#[tokio::test]
async fn requests_and_answers_pass_as_they_are() {
    let origin = mirror().await;
    origin.always("GET /answer", || {
        Reply::text("body")
            .code(203)
            .header("x-one", "1")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2; Path=/")
            .header("server", "the backend's")
            .header("cache-control", "max-age=60")
            .header("surrogate-key", "t")
    });
    let weir = Weir::start(&origin, "").await;
    let answer =
        weir.get("/answer").header("accept", "text/html").header("x-twice", "1").header("x-twice", "2").await;
    assert_eq!((answer.code(), answer.text().as_str()), (203, "body"));
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2; Path=/"]);
    assert_eq!((answer.header("server"), answer.header("x-one")), (Some("the backend's"), Some("1")));
    let seen = origin.last("/answer");
    assert_eq!(seen.header("host"), Some("api.test"), "the client's Host reaches the backend");
    assert_eq!(seen.headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(seen.header("accept"), Some("text/html"));
    let strange = "/a//b/./c%2Fd;v=1?x=%20&&y&x=2&=";
    assert_eq!(weir.get(strange).await.header("x-target"), Some(strange), "targets are not rewritten");
}

#[tokio::test]
async fn any_method_passes() {
    let origin = mirror().await;
    let weir = Weir::start(&origin, "").await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "QUERY", "BREW"] {
        let answer = weir.request(method, "/x?a=1").body("content").await;
        assert_eq!((answer.header("x-method"), answer.text().as_str()), (Some(method), "content"));
    }
    let head = weir.client().head("/x").await;
    assert_eq!((head.code(), head.header("x-method")), (200, Some("HEAD")));
    let raw = weir.client().raw("OPTIONS * HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n").await;
    assert!(raw.starts_with("HTTP/1.1 "), "{raw}");
}

#[tokio::test]
async fn head_keeps_the_length_of_get() {
    let origin = Origin::start().await;
    origin.always("* /x", || Reply::text("twelve bytes"));
    let weir = Weir::start(&origin, "").await;
    let head = weir.client().head("/x").await;
    assert_eq!((head.header("content-length"), head.text().as_str()), (Some("12"), ""));
    assert_eq!(origin.last("/x").method, "HEAD");
}

#[tokio::test]
async fn an_upload_streams_piece_by_piece() {
    let origin = Origin::start().await;
    let (arrived, mut pieces) = mpsc::channel::<Bytes>(16);
    origin.on_stream("POST /upload", move |request| {
        let arrived = arrived.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data() {
                    arrived.send(data).await.unwrap();
                }
            }
            Response::new(whole("got it"))
        }
    });
    let weir = Weir::start(&origin, "").await;
    let (send, ask) = weir.post("/upload").chunks();
    let answer = ask.spawn();
    for piece in ["one", "two", "three"] {
        send.send(Frame::data(piece.into())).await.unwrap();
        let got =
            within("the piece reaches the backend before the next is sent", pieces.recv()).await.unwrap();
        assert_eq!(got, piece);
    }
    drop(send);
    assert_eq!(answer.await.unwrap().text(), "got it");
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let origin = Origin::start().await;
    let (events, stream) = Reply::channel();
    let stream = std::sync::Mutex::new(Some(stream));
    origin.on("GET /events", move |_| {
        stream.lock().unwrap().take().unwrap().header("content-type", "text/event-stream")
    });
    let weir = Weir::start(&origin, "").await;
    let mut opened = weir.get("/events").open().await.unwrap();
    for n in 1..=5 {
        let event = format!("data: {n}\n\n");
        events.send(event.clone().into()).await.unwrap();
        assert_eq!(opened.chunk().await.unwrap().unwrap(), event, "before the next one is sent");
    }
    drop(events);
    assert_eq!(opened.chunk().await.unwrap(), None);
}

#[tokio::test]
async fn events_arrive_one_by_one_over_a_cached_route_too() {
    let origin = Origin::start().await;
    let (events, stream) = Reply::channel();
    let stream = std::sync::Mutex::new(Some(stream));
    origin.on("GET /events", move |_| {
        stream.lock().unwrap().take().unwrap().header("content-type", "text/event-stream")
    });
    let route = "[[route]]\nname = \"events\"\nmatch = \"GET /events\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, route).await;
    let mut opened = weir.get("/events").open().await.unwrap();
    for n in 1..=3 {
        let event = format!("data: {n}\n\n");
        events.send(event.clone().into()).await.unwrap();
        assert_eq!(opened.chunk().await.unwrap().unwrap(), event, "a miss streams while it fills");
    }
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let origin = Origin::start().await;
    origin.on_stream("POST /echo", |request| async move {
        let (sender, receiver) = mpsc::channel(4);
        let mut body = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send(data).await.is_err()
                {
                    return;
                }
            }
        });
        Response::new(body_of(receiver))
    });
    let weir = Weir::start(&origin, "").await;
    for http2 in [false, true] {
        let (send, ask) = weir.post("/echo").chunks();
        let ask = if http2 { ask.http2() } else { ask };
        send.send(Frame::data("ping 0".into())).await.unwrap();
        let mut opened = ask.open().await.unwrap();
        assert_eq!(opened.chunk().await.unwrap().unwrap(), "ping 0");
        for n in 1..=3 {
            send.send(Frame::data(format!("ping {n}").into())).await.unwrap();
            assert_eq!(opened.chunk().await.unwrap().unwrap(), format!("ping {n}"));
        }
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let origin = RawOrigin::start(|mut stream| async move {
        RawOrigin::read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n";
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    let answer = weir.get("/x").header("te", "trailers").await;
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.trailers.expect("trailers of the answer")["x-sum"], "42");

    let origin = mirror().await;
    let weir = Weir::start(&origin, "").await;
    let (send, ask) = weir.post("/up").header("trailer", "x-sum").chunks();
    let answer = ask.spawn();
    send.send(Frame::data("hello".into())).await.unwrap();
    let mut fields = HeaderMap::new();
    fields.insert("x-sum", "42".parse().unwrap());
    send.send(Frame::trailers(fields)).await.unwrap();
    drop(send);
    assert_eq!(answer.await.unwrap().text(), "hello");
    assert_eq!(origin.last("/up").trailers.expect("trailers of the request")["x-sum"], "42");
}

#[tokio::test]
async fn early_hints_go_to_the_client_that_the_backend_is_asked_for() {
    let origin = RawOrigin::start(|mut stream| async move {
        RawOrigin::read_head(&mut stream).await;
        let answer = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nx-hint: 1\r\n\r\n\
                      HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    let text = "[[route]]\nname = \"page\"\nmatch = \"GET /page\"\nttl = \"5m\"";
    let weir = WeirConfig::new(text).upstream(&origin.url()).start().await;
    for (request, hinted) in
        [("GET /other", true), ("POST /other", true), ("GET /page", true), ("GET /page", false)]
    {
        let mut socket = tokio::net::TcpStream::connect(weir.addr()).await.unwrap();
        let head = format!("{request} HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut all = String::new();
        within("a whole answer", socket.read_to_string(&mut all)).await.unwrap();
        let last = match all
            .strip_prefix("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nx-hint: 1\r\nvia: 1.1 weir\r\n\r\n")
        {
            Some(rest) if hinted => rest,
            None if !hinted => &all,
            _ => panic!("{request}: {all}"),
        };
        assert!(last.starts_with("HTTP/1.1 200 OK\r\n") && last.ends_with("\r\n\r\nok"), "{request}: {all}");
        assert!(
            !last.contains("x-hint"),
            "what was said before is no part of the response: {request}: {all}"
        );
    }
}

#[tokio::test]
async fn a_websocket_echoes_through() {
    let origin = RawOrigin::start(|stream| async move {
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                drop(socket.send(message).await);
            }
        }
    })
    .await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    let stream = weir.client().connect().await;
    let (mut socket, answer) = tokio_tungstenite::client_async("ws://api.test/socket", stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    for text in ["hello", "again"] {
        socket.send(Message::text(text)).await.unwrap();
        let echo = within("an echo", socket.next()).await.unwrap().unwrap();
        assert_eq!(echo.into_text().unwrap().as_str(), text);
    }
    let large = "x".repeat(300_000);
    socket.send(Message::text(large.clone())).await.unwrap();
    assert_eq!(
        within("a large echo", socket.next()).await.unwrap().unwrap().into_text().unwrap().len(),
        large.len()
    );
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = within("the end", socket.next()).await {}
    weir.get("/still-alive").attempt().await.ok();
    assert_eq!(weir.admin().get("/livez").await.code(), 200);
}

#[tokio::test]
async fn an_unsafe_method_may_be_upgraded_too() {
    let origin = RawOrigin::start(|mut stream| async move {
        let head = RawOrigin::read_head(&mut stream).await.to_lowercase();
        assert!(head.contains("upgrade: tcp"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\nraw";
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    let ask = "POST /exec HTTP/1.1\r\nhost: api.test\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";
    let answer = weir.client().raw(ask).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\nraw"), "{answer}");
    assert!(answer.contains("detail=purged"), "what it did is purged before it is answered: {answer}");
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_ordinary_answer() {
    let origin = Origin::start().await;
    origin.always("GET /socket", || Reply::text("no sockets here").code(426).header("upgrade", "other"));
    let weir = Weir::start(&origin, "").await;
    let answer = weir.get("/socket").header("connection", "upgrade").header("upgrade", "websocket").await;
    assert_eq!((answer.code(), answer.text().as_str()), (426, "no sockets here"));
}

#[tokio::test]
async fn who_offers_tls_or_http_is_answered_like_anybody() {
    let origin = Origin::start().await;
    origin.always("* /x", || Reply::text("kept"));
    origin.always("* /unlisted", || Reply::text("passed"));
    let route = "[[route]]\nname = \"x\"\nmatch = \"GET /x\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, route).await;
    weir.get("/x").await;
    for offer in ["TLS/1.2", "h2c", "HTTP/2.0, h2c", "tls/1.3, TLS/1.2"] {
        let ask = weir.get("/x").header("connection", "Upgrade").header("upgrade", offer);
        let answer = ask.await;
        let status = answer.header("cache-status").unwrap_or_default();
        assert!(status.contains("hit") && answer.text() == "kept", "{offer}: {status}");
        for (method, path) in [("GET", "/x?other"), ("GET", "/unlisted"), ("POST", "/unlisted")] {
            weir.request(method, path).header("connection", "Upgrade").header("upgrade", offer).await;
            let seen = origin.last(path.split('?').next().unwrap());
            assert_eq!((seen.header("upgrade"), seen.header("connection")), (None, None), "{method} {path}");
        }
    }
    let count = origin.count("GET /x");
    let both = weir.get("/x").header("connection", "Upgrade").header("upgrade", "TLS/1.2, websocket").await;
    let status = both.header("cache-status").unwrap_or_default();
    assert!(status.contains("detail=upgrade"), "{status}");
    assert_eq!(origin.count("GET /x"), count + 1);
    assert_eq!(origin.last("/x").header("upgrade"), Some("websocket"), "what a tunnel is for is left");
}

#[tokio::test]
async fn expect_continue_is_carried_end_to_end() {
    let origin = RawOrigin::start(|mut stream| async move {
        let head = RawOrigin::read_head(&mut stream).await.to_lowercase();
        assert!(head.contains("expect: 100-continue"), "{head}");
        if head.starts_with("post /refused") {
            let refusal =
                "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
            drop(stream.write_all(refusal.as_bytes()).await);
            return;
        }
        drop(stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await);
        let mut content = [0u8; 5];
        drop(stream.read_exact(&mut content).await);
        assert_eq!(&content, b"hello");
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere";
        drop(stream.write_all(answer.as_bytes()).await);
    })
    .await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: api.test\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n")
    };
    let mut stream = weir.client().connect().await;
    stream.write_all(head("/welcome").as_bytes()).await.unwrap();
    let interim = within("100 before the body was sent", RawOrigin::read_head(&mut stream)).await;
    assert!(interim.starts_with("HTTP/1.1 100"), "{interim}");
    stream.write_all(b"hello").await.unwrap();
    let answer = within("the answer", RawOrigin::read_head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    let mut stream = weir.client().connect().await;
    stream.write_all(head("/refused").as_bytes()).await.unwrap();
    let answer = within("a refusal without the body", RawOrigin::read_head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 417"), "{answer}");
}

const BIG: u64 = 64 * 1024 * 1024;

/// How much the memory of the process may grow while it passes [`BIG`] bytes.
const GROWTH: u64 = 24 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_at_flat_memory() {
    let origin = Origin::start().await;
    let received = Arc::new(AtomicU64::new(0));
    let count = received.clone();
    origin.on_stream("POST /up", move |request| {
        let count = count.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                count.fetch_add(frame.data_ref().map_or(0, |d| d.len() as u64), Ordering::SeqCst);
            }
            Response::new(whole("got it"))
        }
    });
    origin.on_stream("GET /down", |_| async move {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let piece = Bytes::from(vec![7u8; 64 * 1024]);
            for _ in 0..BIG / piece.len() as u64 {
                if sender.send(piece.clone()).await.is_err() {
                    return;
                }
            }
        });
        Response::new(body_of(receiver))
    });
    let weir = Weir::start(&origin, "").await;
    // The first exchanges fill pools and buffers that stay.
    weir.post("/up").body("x").await;
    received.store(0, Ordering::SeqCst);
    let before = weir.resident_bytes();

    let (send, ask) = weir.post("/up").chunks();
    let answer = ask.spawn();
    let piece = Bytes::from(vec![7u8; 64 * 1024]);
    let mut most = before;
    for n in 0..BIG / piece.len() as u64 {
        send.send(Frame::data(piece.clone())).await.unwrap();
        if n % 64 == 0 {
            most = most.max(weir.resident_bytes());
        }
    }
    drop(send);
    assert_eq!(answer.await.unwrap().text(), "got it");
    assert_eq!(received.load(Ordering::SeqCst), BIG);

    let mut opened = weir.get("/down").open().await.unwrap();
    let (mut got, mut pieces) = (0, 0);
    while let Some(data) = opened.chunk().await.unwrap() {
        got += data.len() as u64;
        pieces += 1;
        if pieces % 256 == 0 {
            most = most.max(weir.resident_bytes());
        }
    }
    assert_eq!(got, BIG);
    println!("resident: {before} bytes before, {most} at most");
    assert!(most < before + GROWTH, "memory grew from {before} to {most} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_the_backend_down_instead_of_filling_memory() {
    let origin = Origin::start().await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    origin.on_stream("GET /down", move |_| {
        let (sender, receiver) = mpsc::channel(1);
        let count = count.clone();
        async move {
            tokio::spawn(async move {
                let piece = Bytes::from(vec![7u8; 64 * 1024]);
                while count.load(Ordering::SeqCst) < BIG && sender.send(piece.clone()).await.is_ok() {
                    count.fetch_add(piece.len() as u64, Ordering::SeqCst);
                }
            });
            Response::new(body_of(receiver))
        }
    });
    let weir = Weir::start(&origin, "").await;
    let before = weir.resident_bytes();
    let mut opened = weir.get("/down").open().await.unwrap();
    opened.chunk().await.unwrap().unwrap();
    // The reader stops. What the backend sends must come to rest at what sockets hold.
    let mut last = 0;
    eventually("the backend is slowed down", Duration::from_secs(20), || {
        let now = sent.load(Ordering::SeqCst);
        let rests = now == last && now > 0;
        last = now;
        async move {
            // A pause is the subject here: nothing more may arrive within it.
            tokio::time::sleep(Duration::from_millis(300)).await;
            rests
        }
    })
    .await;
    let (held, resident) = (sent.load(Ordering::SeqCst), weir.resident_bytes());
    println!("{held} bytes left the backend; resident {before} → {resident}");
    assert!(held < BIG, "the whole body was swallowed");
    assert!(resident < before + GROWTH, "{before} → {resident}");
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_hop() {
    let origin = mirror().await;
    origin.always("GET /answer", || {
        Reply::text("x")
            .header("connection", "x-private, keep-alive")
            .header("x-private", "1")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("x-public", "1")
    });
    let weir = Weir::start(&origin, "").await;
    let answer = weir
        .get("/answer")
        .header("connection", "x-secret, close")
        .header("x-secret", "1")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("te", "gzip")
        .header("x-open", "1")
        .await;
    let seen = origin.last("/answer");
    for name in ["x-secret", "keep-alive", "proxy-connection"] {
        assert_eq!(seen.header(name), None, "{name} reached the backend");
    }
    assert!(!seen.header("te").unwrap_or_default().contains("gzip"));
    assert_eq!(seen.header("x-open"), Some("1"));
    for name in ["x-private", "keep-alive"] {
        assert_eq!(answer.header(name), None, "{name} reached the client");
    }
    assert!(!answer.header("connection").unwrap_or_default().contains("x-private"));
    assert_eq!(answer.header("x-public"), Some("1"));
}

#[tokio::test]
async fn forwarding_fields_tell_what_weir_saw() {
    let origin = mirror().await;
    let claim = |weir: &Weir| {
        weir.get("/x")
            .header("x-forwarded-for", "203.0.113.9")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "claimed.test")
    };
    let nobody = Weir::start(&origin, "").await;
    claim(&nobody).await;
    let seen = origin.last("/x");
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"), "a stranger's claim is not passed on");
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("api.test"));
    assert!(seen.header("via").unwrap().contains("weir"), "{seen:?}");
    for trust in ["true", "[\"127.0.0.0/8\"]"] {
        let trusting = Weir::start(&origin, &format!("[server]\ntrust_forwarded = {trust}")).await;
        claim(&trusting).await;
        let seen = origin.last("/x");
        assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"), "{trust}");
        assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.header("x-forwarded-host"), Some("claimed.test"));
        trusting.get("/x").header("via", "1.0 before").await;
        let via: Vec<_> =
            origin.last("/x").headers.get_all("via").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
        assert!(via.join(", ").starts_with("1.0 before, 1.1 "), "{via:?}");
    }
    let elsewhere = Weir::start(&origin, "[server]\ntrust_forwarded = [\"10.0.0.0/8\"]").await;
    claim(&elsewhere).await;
    assert_eq!(origin.last("/x").header("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn traceparent_is_passed_on() {
    let origin = mirror().await;
    let route = "[[route]]\nname = \"cached\"\nmatch = \"GET /cached\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, route).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for path in ["/x", "/cached"] {
        weir.get(path).header("traceparent", trace).header("tracestate", "a=1").await;
        let seen = origin.last(path);
        let id = seen.header("traceparent").unwrap().split('-').nth(1).unwrap().to_owned();
        assert_eq!(id, "0af7651916cd43dd8448eb211c80319c", "{path}: the trace goes on");
        assert_eq!(seen.header("tracestate"), Some("a=1"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_upstream_request() {
    let origin = mirror().await;
    let weir = Weir::start(&origin, "").await;
    let hold = origin.hold("GET /slow");
    let socket = weir.get("/slow").and_leave_open().await;
    hold.caught(1).await;
    drop(socket);
    eventually("the backend hears of it", Duration::from_secs(10), || async { origin.abandoned() == 1 })
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_mid_answer_stops_the_upstream_body() {
    let origin = Origin::start().await;
    let (events, stream) = Reply::channel();
    let stream = std::sync::Mutex::new(Some(stream));
    origin.on("GET /events", move |_| stream.lock().unwrap().take().unwrap());
    let weir = Weir::start(&origin, "").await;
    let mut opened = weir.get("/events").open().await.unwrap();
    events.send("one".into()).await.unwrap();
    opened.chunk().await.unwrap();
    drop(opened);
    within("the backend's body is dropped", events.closed()).await;
}

#[tokio::test]
async fn a_backend_that_is_down_is_a_502_that_says_why() {
    let down = format!("http://{}", nobody());
    let route = "[[route]]\nname = \"cached\"\nmatch = \"GET /cached\"\nttl = \"5m\"";
    let weir = WeirConfig::new(route).upstream(&down).start().await;
    let mut connection = weir.client().keep_alive().await;
    for path in ["/x", "/cached", "/x"] {
        let answer = connection.send("GET", path).await.expect("the connection stays");
        assert_eq!(answer.assert_code(502).header("content-type"), Some("application/problem+json"));
        let problem = answer.json();
        assert_eq!(problem["status"], 502, "{problem}");
        assert!(answer.text().len() < 1000 && problem.get("title").is_some(), "{problem}");
        assert!(!answer.text().contains("127.0.0.1"), "no addresses of the inside: {problem}");
        assert!(!answer.cache().stored && !answer.hit());
    }
    assert_eq!(weir.post("/x").body("content").await.assert_code(502).code(), 502);
}

#[tokio::test]
async fn a_backend_that_is_slow_is_a_504() {
    let origin = mirror().await;
    let text = "[upstream]\nfirst_byte_timeout = \"200ms\"\n[[route]]\nname = \"c\"\nmatch = \"GET /cached\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, text).await;
    for path in ["/x", "/cached"] {
        let hold = origin.hold(path);
        let answer = weir.get(path).await;
        assert_eq!(answer.assert_code(504).header("content-type"), Some("application/problem+json"));
        hold.release();
        weir.get(path).await.assert_code(200);
    }
}

#[tokio::test]
async fn a_backend_that_falls_silent_mid_body_is_cut_off() {
    let origin = Origin::start().await;
    let (events, stream) = Reply::channel();
    let stream = std::sync::Mutex::new(Some(stream));
    origin.on("GET /events", move |_| stream.lock().unwrap().take().unwrap());
    let weir = Weir::start(&origin, "[upstream]\nidle_timeout = \"200ms\"").await;
    let mut opened = weir.get("/events").open().await.unwrap();
    events.send("one".into()).await.unwrap();
    assert_eq!(opened.chunk().await.unwrap().unwrap(), "one");
    opened.chunk().await.expect_err("silence is an end, and not a regular one");
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_not_the_clients_problem() {
    // Answers one request per connection and closes without saying so beforehand.
    let origin = RawOrigin::start(|mut stream| async move {
        if !RawOrigin::read_head(&mut stream).await.is_empty() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
        }
    })
    .await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    for _ in 0..30 {
        assert_eq!(weir.get("/x").await.assert_code(200).text(), "ok");
    }
}

#[tokio::test]
async fn connections_to_the_backend_are_kept_alive() {
    let origin = RawOrigin::start(|mut stream| async move {
        while !RawOrigin::read_head(&mut stream).await.is_empty() {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
        }
    })
    .await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    for _ in 0..50 {
        weir.get("/x").await.assert_code(200);
    }
    assert!(origin.connections() <= 5, "{} connections for 50 requests in a row", origin.connections());
}

#[tokio::test]
async fn http2_comes_in_with_prior_knowledge() {
    let origin = mirror().await;
    let route = "[[route]]\nname = \"cached\"\nmatch = \"GET /cached\"\nttl = \"5m\"";
    let weir = Weir::start(&origin, route).await;
    let answer = weir.post("/x?a=1").body("content").http2().await;
    assert_eq!((answer.version, answer.text().as_str()), (Version::HTTP_2, "content"));
    assert_eq!(origin.last("/x").header("host"), Some("api.test"), ":authority becomes Host");
    weir.get("/cached").http2().await.assert_stored();
    weir.get("/cached").http2().await.assert_hit();
    weir.get("/cached").await.assert_hit();
    let hold = origin.hold("GET /many");
    let crowd: Vec<_> = (0..30).map(|_| weir.get("/many").http2().spawn()).collect();
    hold.caught(30).await;
    hold.release();
    for answer in crowd {
        answer.await.unwrap().assert_code(200);
    }
    // Fields of one hop of HTTP/1.1 must not appear in HTTP/2.
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.header("connection"), None);
}

#[tokio::test]
async fn cookies_split_by_http2_are_one_field_again() {
    let origin = mirror().await;
    let weir = Weir::start(&origin, "").await;
    weir.get("/x").http2().header("cookie", "a=1").header("cookie", "b=2").await;
    let seen = origin.last("/x");
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[tokio::test]
async fn limits_hold() {
    let origin = mirror().await;
    let text = "[server]\nheader_timeout = \"300ms\"\nmax_header_bytes = \"8KiB\"";
    let weir = Weir::start(&origin, text).await;
    let long = "x".repeat(20_000);
    let raw = weir.client().raw(format!("GET /x HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n")).await;
    assert!(raw.starts_with("HTTP/1.1 431"), "{raw}");
    for silent in ["", "G", "GET / HTTP/1.1\r\nhost: a\r\n"] {
        // `raw` returns when the other side closes.
        let raw = weir.client().raw(silent).await;
        assert!(raw.is_empty() || raw.starts_with("HTTP/1.1 408"), "{silent:?}: {raw}");
    }
    assert_eq!(origin.count("/x"), 0);
    weir.get("/x").await.assert_code(200);
}

#[tokio::test]
async fn smuggling_is_refused() {
    let origin = mirror().await;
    let weir = Weir::start(&origin, "").await;
    let ambiguous = [
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\nabcd",
        "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a\r\n bad-fold: 1\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost : a\r\n\r\n",
    ];
    for text in ambiguous {
        let raw = weir.client().raw(text).await;
        assert!(raw.is_empty() || raw.starts_with("HTTP/1.1 4"), "{text:?}: {raw}");
    }
    assert_eq!(origin.count("/x"), 0, "nothing ambiguous reaches the backend");
}

#[tokio::test]
async fn the_upstreams_own_host_can_be_sent_instead() {
    let origin = mirror().await;
    let weir = Weir::start(&origin, "[upstream]\npreserve_host = false").await;
    weir.get("/x").await;
    assert_eq!(origin.last("/x").header("host"), Some(origin.addr().to_string().as_str()));
    assert_eq!(origin.last("/x").header("x-forwarded-host"), Some("api.test"));
}

#[tokio::test]
async fn every_refusal_gives_its_reason_in_the_same_way() {
    let origin = Origin::start().await;
    let weir = WeirConfig::new("").upstream(&origin.url()).start().await;
    for (ask, reason) in
        [("GET / HTTP/1.1\r\n\r\n", "no-host"), ("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", "connect")]
    {
        let answer = weir.client().raw(ask).await;
        let problem: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(problem["reason"], reason, "{answer}");
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{answer}");
    }
}
