//! TLS on the traffic listener: what clients agree on, what backends hear of it, how certificates are renewed, and that
//! nothing which holds without TLS is lost under it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "story_tls/client.rs"]
mod client;
mod support;

use http::Version;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use client::{Authority, records};
use support::{
    DEADLINE, Origin, RawOrigin, Redis, Reply, Weir, WeirConfig, eventually, run_weir, signal, within,
};

const ROUTE: &str = r#"
    [[route]]
    name = "items"
    match = "GET /items/**"
    ttl = "5m"
    subject = "none"
"#;

/// A Weir that speaks TLS, and an authority whose certificate it shows.
async fn weir(url: &str, more: &str) -> (Weir, Authority) {
    let authority = Authority::new();
    authority.issue();
    let config = WeirConfig::new(&format!("{}\n{more}\n{ROUTE}", authority.section()));
    (config.upstream(url).start().await, authority)
}

#[tokio::test]
async fn http1_and_http2_by_alpn_share_what_is_cached() {
    let origin = Origin::start().await;
    origin.counting("GET /items/*");
    let (weir, authority) = weir(&origin.url(), "").await;
    for (n, version) in [&TLS13, &TLS12].into_iter().enumerate() {
        let path = format!("/items/{n}");
        let client = authority.client(weir.addr()).only(version);
        for (alpn, spoken, sign) in [
            (&["h2", "http/1.1"][..], Version::HTTP_2, "fwd=uri-miss"),
            (&["h2", "http/1.1"], Version::HTTP_2, "hit"),
            (&["http/1.1"], Version::HTTP_11, "hit"),
            (&[], Version::HTTP_11, "hit"),
        ] {
            let answer = client.offering(alpn).get(&path).await;
            assert_eq!(answer.0.version, spoken, "{alpn:?}");
            let status = answer.0.headers["cache-status"].to_str().unwrap();
            assert!(status.contains(sign), "{alpn:?}: {status}");
            assert_eq!(&answer.1[..], format!("answer {}", n + 1).as_bytes());
        }
    }
    assert_eq!(origin.count("GET /items/*"), 2);
    let seen = origin.last("GET /items/*");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("api.test"));
}

#[tokio::test]
async fn http2_without_alpn_is_told_by_its_first_bytes() {
    let origin = Origin::start().await;
    origin.counting("GET /items/*");
    let (weir, authority) = weir(&origin.url(), "").await;
    let stream = authority.client(weir.addr()).connect().await;
    let ((answer, _), _open) = client::http2(stream, "/items/1").await;
    assert_eq!((answer.status.as_u16(), answer.version), (200, Version::HTTP_2));
}

#[tokio::test]
async fn http_and_https_have_an_answer_each() {
    let (origin, redis) = (Origin::start().await, Redis::start().await);
    origin.counting("GET /items/*");
    let authority = Authority::new();
    authority.issue();
    let secure = WeirConfig::new(&format!("{}\n{ROUTE}", authority.section()));
    let secure = secure.upstream(&origin.url()).redis(&redis).start().await;
    let plain = Weir::with_redis(&origin, &redis, ROUTE).await;
    let client = authority.client(secure.addr());
    assert_eq!(&client.get("/items/1").await.1[..], b"answer 1");
    assert_eq!(plain.get("/items/1").await.text(), "answer 2", "another scheme is another URL");
    assert_eq!(&client.get("/items/1").await.1[..], b"answer 1");
    // Nobody is trusted to say another scheme.
    let (_, body) = client.get_with("/items/1", &[("x-forwarded-proto", "http")]).await;
    assert_eq!(&body[..], b"answer 1");
    // 443 is the port of https, and 80 is not.
    assert_eq!(&client.get_with("/items/1", &[("host", "api.test:443")]).await.1[..], b"answer 1");
    assert_eq!(&client.get_with("/items/1", &[("host", "api.test:80")]).await.1[..], b"answer 3");
}

#[tokio::test]
async fn a_trusted_proxy_says_which_scheme_it_was() {
    let origin = Origin::start().await;
    origin.counting("GET /items/*");
    let (weir, authority) = weir(&origin.url(), "[server]\ntrust_forwarded = true").await;
    let client = authority.client(weir.addr());
    assert_eq!(&client.get("/items/1").await.1[..], b"answer 1");
    for (told, answer) in [("http", "answer 2"), ("https", "answer 3")] {
        let (_, body) = client.get_with("/items/1", &[("x-forwarded-proto", told)]).await;
        assert_eq!(&body[..], answer.as_bytes());
        assert_eq!(origin.last("GET /items/*").header("x-forwarded-proto"), Some(told));
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let origin = Origin::start().await;
    let (weir, authority) = weir(&origin.url(), "").await;
    for version in [&TLS13, &TLS12] {
        let client = authority.client(weir.addr()).only(version).offering(&["http/1.1"]);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut stream = client.connect().await;
            // Tickets of TLS 1.3 come with the first answer.
            client::ask(&mut stream, "GET /x HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

#[tokio::test]
async fn interim_responses_come_before_the_final_one() {
    let origin = RawOrigin::start(|mut stream| async move {
        RawOrigin::read_head(&mut stream).await;
        let text =
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(text.as_bytes()).await.unwrap();
    })
    .await;
    let (weir, authority) = weir(&origin.url(), "").await;
    let mut stream = authority.client(weir.addr()).connect().await;
    let request = "GET /x HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within("the whole answer", stream.read_to_string(&mut text)).await.expect("a close that says so");
    assert!(text.starts_with("HTTP/1.1 103 Early Hints\r\n") && text.contains("HTTP/1.1 200 OK"), "{text}");
    assert!(text.ends_with("\r\n\r\nok"), "{text}");
}

#[tokio::test]
async fn upgraded_connections_are_tunnels_under_tls_too() {
    let origin = RawOrigin::start(|mut stream| async move {
        RawOrigin::read_head(&mut stream).await;
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut word = [0; 4];
        while stream.read_exact(&mut word).await.is_ok() {
            stream.write_all(&word).await.unwrap();
        }
    })
    .await;
    let (weir, authority) = weir(&origin.url(), "").await;
    let mut stream = authority.client(weir.addr()).connect().await;
    let request = "GET /x HTTP/1.1\r\nhost: api.test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    assert!(client::head(&mut stream).await.starts_with("HTTP/1.1 101"));
    for word in [b"a\nb\n", b"ping"] {
        stream.write_all(word).await.unwrap();
        let mut back = [0; 4];
        within("the echo", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(&back, word);
    }
}

#[tokio::test]
async fn what_two_readers_could_read_differently_is_refused() {
    let origin = Origin::start().await;
    let (weir, authority) = weir(&origin.url(), "").await;
    for request in [
        "GET /x HTTP/1.1\nhost: a\n\n",
        "GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ] {
        let mut stream = authority.client(weir.addr()).offering(&["http/1.1"]).connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        within("an end", stream.read_to_string(&mut text)).await.expect("a close that says so");
        assert!(text.starts_with("HTTP/1.1 400"), "{request:?}: {text}");
    }
    // Who is still sending when it is refused hears why.
    let mut stream = authority.client(weir.addr()).offering(&["http/1.1"]).connect().await;
    let request = format!("GET /x HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within("an end", stream.read_to_string(&mut text)).await.expect("a close that says so");
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    assert_eq!(origin.count("* /x"), 0);
}

#[tokio::test]
async fn a_large_answer_comes_whole_over_both_versions() {
    let origin = Origin::start().await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = large.clone();
    origin.always("GET /items/*", move || Reply::text(sent.clone()));
    let (weir, authority) = weir(&origin.url(), "").await;
    for alpn in [&["h2"][..], &["http/1.1"], &["h2"]] {
        let (_, body) = authority.client(weir.addr()).offering(alpn).get("/items/1").await;
        assert!(body == large, "{alpn:?}: {} bytes", body.len());
    }
    assert_eq!(origin.count("GET /items/*"), 1);
}

#[tokio::test]
async fn a_small_answer_is_one_record() {
    let origin = Origin::start().await;
    origin.always("GET /items/*", || Reply::text("x".repeat(1024)));
    let (weir, authority) = weir(&origin.url(), "").await;
    let client = authority.client(weir.addr());
    let (mut stream, tap) = client.offering(&["http/1.1"]).tapped().await;
    let request = "GET /items/1 HTTP/1.1\r\nhost: api.test\r\n\r\n";
    // The first one is stored, and brings the tickets.
    for _ in 0..2 {
        tap.lock().clear();
        let (head, body) = client::ask(&mut stream, request).await;
        assert!(head.starts_with("HTTP/1.1 200") && body.len() == 1024, "{head}");
    }
    let found = records(&tap.lock());
    assert_eq!(found.len(), 1, "head and body in one record: {found:?}");
    // HTTP/2 has settings and acknowledgements besides; the frames of its answer share a record, too.
    let (stream, tap) = client.offering(&["h2"]).tapped().await;
    let _open = client::http2(stream, "/items/1").await;
    let found = records(&tap.lock());
    // Alone, the content's frame would have 9 bytes and what TLS adds.
    assert!(matches!(found.last(), Some((23, 1090..))), "{found:?}");
}

#[tokio::test]
async fn plain_http_is_told_that_this_port_speaks_tls() {
    let origin = Origin::start().await;
    let (weir, authority) = weir(&origin.url(), "").await;
    for request in ["GET / HTTP/1.1\r\nhost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = weir.client().raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(text.contains("speaks TLS"), "{answer}");
        assert!(head.contains(&format!("content-length: {}", text.len())), "{answer}");
    }
    let garbage = weir.client().raw([0_u8; 64]).await;
    assert!(!garbage.contains("HTTP"), "{garbage}");
    assert_eq!(authority.client(weir.addr()).get("/x").await.0.status.as_u16(), 404, "and goes on serving");
}

#[tokio::test]
async fn who_does_not_finish_a_handshake_is_closed_upon() {
    let origin = Origin::start().await;
    let (weir, authority) = weir(&origin.url(), "[server]\nheader_timeout = \"300ms\"").await;
    // A record of 512 bytes is announced, and two of them come.
    for said in [&b""[..], &[0x16], &[0x16, 3, 1, 2, 0, 1, 0]] {
        let mut stream = TcpStream::connect(weir.addr()).await.unwrap();
        stream.write_all(said).await.unwrap();
        let mut rest = Vec::new();
        // Nobody waits for the default of 30 s, nor for a client that is idle.
        let ended = within("Weir closes", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty(), "{said:?}: {ended:?} {rest:?}");
    }
    // The head's time runs from accept on, the handshake included.
    let mut stream = authority.client(weir.addr()).offering(&["http/1.1"]).connect().await;
    stream.write_all(b"GET /x HTTP/1.1\r\n").await.unwrap();
    let mut rest = Vec::new();
    within("Weir closes", stream.read_to_end(&mut rest)).await.expect("a close that says so");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn who_takes_nothing_of_an_answer_is_closed_upon() {
    let origin = Origin::start().await;
    origin.always("GET /large", || Reply::text(vec![b'x'; 64 << 20]));
    let (weir, authority) = weir(&origin.url(), "[server]\nidle_timeout = \"300ms\"").await;
    let mut stream = authority.client(weir.addr()).offering(&["http/1.1"]).connect().await;
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: api.test\r\n\r\n").await.unwrap();
    within("the request arrives", origin.arrived("GET /large", 1)).await;
    eventually("the backend's connection is given up", DEADLINE, || async {
        weir.figure("weir_upstream_connections{state=\"busy\"}").await == Some(0.0)
    })
    .await;
    let mut rest = Vec::new();
    let ended = within("the end", stream.read_to_end(&mut rest)).await;
    assert!(ended.is_err() && rest.len() < 64 << 20, "{ended:?}, {} bytes", rest.len());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_seen_to() {
    for whole in [true, false] {
        let origin = RawOrigin::start(move |mut stream| async move {
            RawOrigin::read_head(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n";
            let end = if whole { "0\r\n\r\n" } else { "" };
            stream.write_all(format!("{head}{end}").as_bytes()).await.unwrap();
        })
        .await;
        let (weir, authority) = weir(&origin.url(), "").await;
        let mut stream = authority.client(weir.addr()).offering(&["http/1.1"]).connect().await;
        // HTTP/1.0 knows no chunks: the end of the connection is the end of the answer.
        stream.write_all(b"GET /x HTTP/1.0\r\nhost: api.test\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        let ended = within("the end", stream.read_to_end(&mut text)).await;
        assert_eq!(ended.is_ok(), whole, "{ended:?} {}", String::from_utf8_lossy(&text));
        assert!(!whole || text.ends_with(b"part"));
    }
}

#[tokio::test]
async fn a_drain_closes_idle_connections_and_says_so() {
    let origin = Origin::start().await;
    let (mut weir, authority) = weir(&origin.url(), "").await;
    let client = authority.client(weir.addr());
    let mut silent = client.offering(&["http/1.1"]).connect().await;
    let mut used = client.offering(&["http/1.1"]).connect().await;
    client::ask(&mut used, "GET /x HTTP/1.1\r\nhost: api.test\r\n\r\n").await;
    let (_, http2) = client::http2(client.offering(&["h2"]).connect().await, "/x").await;
    let unfinished = TcpStream::connect(weir.addr()).await.unwrap();
    weir.terminate();
    for stream in [&mut silent, &mut used] {
        let mut rest = Vec::new();
        within("the end", stream.read_to_end(&mut rest)).await.expect("a close that says so");
        assert!(rest.is_empty());
    }
    within("HTTP/2 ends", http2).await.unwrap();
    assert_eq!(weir.exit_code().await, Some(0), "nothing was left to cut off");
    drop(unfinished);
}

#[tokio::test]
async fn renewed_files_come_into_force() {
    let origin = Origin::start().await;
    let (weir, authority) = weir(&origin.url(), "").await;
    let client = authority.client(weir.addr()).offering(&["http/1.1"]);
    let mut open = client.connect().await;
    let old = client::shown(&open);
    assert_eq!(old, authority.issued());
    authority.issue();
    assert_ne!(old, authority.issued());
    signal(weir.pid(), "HUP");
    weir.says("the certificate has been renewed").await;
    assert_eq!(client::shown(&client.fresh().connect().await), authority.issued());
    let request = "GET /x HTTP/1.1\r\nhost: api.test\r\n\r\n";
    let (head, _) = client::ask(&mut open, request).await;
    assert!(head.starts_with("HTTP/1.1 404"), "who is connected stays so: {head}");
}

#[tokio::test]
async fn a_renewal_that_cannot_be_used_changes_nothing_and_is_told() {
    let origin = Origin::start().await;
    let (weir, authority) = weir(&origin.url(), "").await;
    let client = authority.client(weir.addr());
    let old = authority.issued();
    let end = weir.figure("weir_tls_certificate_expiry_timestamp_seconds").await.unwrap();
    assert_eq!(end, client::NOT_AFTER as f64);
    assert_eq!(weir.figure("weir_tls_certificate_renewal_failed").await, Some(0.0));
    let key = authority.read("key.pem");
    authority.issue();
    let renewed = authority.read("key.pem");
    authority.write("key.pem", &key);
    signal(weir.pid(), "HUP");
    let said = weir.says("the old one stays in force").await;
    assert!(
        said.contains("key.pem") && said.contains("chain.pem") && said.contains("does not belong"),
        "{said}"
    );
    assert_eq!(client::shown(&client.connect().await), old);
    assert_eq!(weir.figure("weir_tls_certificate_renewal_failed").await, Some(1.0));
    let health = weir.admin().get("/healthz").await.json();
    assert_eq!(health["status"], "degraded", "{health}");
    assert!(health["certificate"]["failure"].as_str().unwrap().contains("key.pem"), "{health}");
    // The other file follows, late.
    authority.write("key.pem", &renewed);
    signal(weir.pid(), "HUP");
    weir.says("the certificate has been renewed").await;
    assert_eq!(client::shown(&client.fresh().connect().await), authority.issued());
    let health = weir.admin().get("/healthz").await.json();
    assert_eq!(
        (&health["status"], &health["certificate"]["failure"]),
        (&"ok".into(), &Value::Null),
        "{health}"
    );
    assert_eq!(health["certificate"]["names"], serde_json::json!(["localhost", "127.0.0.1"]), "{health}");
}

#[tokio::test]
async fn what_does_not_belong_together_is_refused_with_both_names() {
    let authority = Authority::new();
    authority.issue();
    let key = authority.read("key.pem");
    authority.issue();
    authority.write("key.pem", &key);
    let text = format!("upstream = \"http://127.0.0.1:9\"\n{}", authority.section());
    std::fs::write(authority.path("proxy.toml"), text).unwrap();
    for command in [&["check"][..], &[]] {
        let run = run_weir(authority.dir(), command, &[]).await;
        assert_eq!(run.code, Some(2), "{}", run.stderr);
        for words in ["key.pem", "chain.pem", "does not belong", "proxy.toml:4"] {
            assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
        }
    }
}

#[tokio::test]
async fn check_tells_names_and_end() {
    let authority = Authority::new();
    authority.issue();
    // Relative names start at the file's directory.
    let text =
        "upstream = \"http://127.0.0.1:9\"\n[tls]\ncertificate = \"chain.pem\"\nkey = \"${KEY}.pem\"\n";
    std::fs::write(authority.path("proxy.toml"), text).unwrap();
    let run = run_weir(authority.dir(), &["check"], &[("KEY", "key")]).await;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stdout.contains("https") && run.stdout.contains("chain.pem"), "{}", run.stdout);
    assert!(run.stdout.contains("localhost, 127.0.0.1, until 2049-01-01T00:00:00Z"), "{}", run.stdout);
    let run = run_weir(authority.dir(), &["check"], &[("KEY", "key"), ("WEIR_TLS_KEY", "nowhere.pem")]).await;
    assert!(run.code == Some(2) && run.stderr.contains("nowhere.pem"), "{}", run.stderr);
    authority.issue_until(2001);
    let run = run_weir(authority.dir(), &["check"], &[("KEY", "key")]).await;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert!(run.stderr.contains("has expired") && run.stderr.contains("2001-01-01"), "{}", run.stderr);
}
