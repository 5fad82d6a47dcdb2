//! What connections take that are kept open and not used.
//!
//! Alone in its binary, so that nothing else takes time meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use support::{DEADLINE, Origin, Reply, WeirConfig, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Few enough for the usual limit on open files, 1,024.
const CONNECTIONS: u64 = 900;

/// Served by hyper, whose part is parked: with buffers a connection takes 13.9 KB here, at rest 9.3 to 9.9 KB. And served
/// without: 2.7 KB. (Built for release 13.9, 6.5 and 3.0.)
const HEADS: [(&str, u64); 2] = [
    ("GET /things HTTP/1.1\r\nhost: api.test\r\nte: trailers\r\nconnection: keep-alive, te\r\n\r\n", 11_500),
    ("GET /things HTTP/1.1\r\nhost: api.test\r\n\r\n", 4_500),
];

async fn ask(stream: &mut TcpStream, head: &str) {
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"all of it") {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "{}", String::from_utf8_lossy(&text));
    }
}

#[tokio::test]
async fn idle_connections_weigh_little() {
    let origin = Origin::start().await;
    let route = "[[route]]\nname = \"things\"\nmatch = \"GET /things\"\nttl = \"5m\"";
    // What is free goes back to the system at once and in small pieces, so that it is not the allocator's habits that are
    // measured.
    let config = WeirConfig::new(route)
        .upstream(&origin.url())
        .env("MIMALLOC_PURGE_DELAY", "0")
        .env("MIMALLOC_ALLOW_THP", "0");
    let weir = config.start().await;
    origin.always("GET /things", || Reply::text("all of it"));
    for (head, most) in HEADS {
        // What serving takes at all is there before.
        let mut first = TcpStream::connect(weir.addr()).await.unwrap();
        for _ in 0..2000 {
            ask(&mut first, head).await;
        }
        let before = weir.resident_bytes();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(weir.addr()).await.unwrap();
            ask(&mut stream, head).await;
            held.push(stream);
        }
        let mut each = 0;
        let light = || {
            each = weir.resident_bytes().saturating_sub(before) / CONNECTIONS;
            let light = each <= most;
            async move { light }
        };
        eventually("idle connections weigh little", DEADLINE, light).await;
        println!("{each} bytes each");
        // And all of them are open.
        for stream in &mut held {
            ask(stream, head).await;
        }
    }
}
