//! Responses of which another reader could make more, fewer or others: each becomes a 502 or one plain response, none
//! that is broken is stored, and no connection on which one came is used again.

use std::sync::{Arc, Mutex};

use super::backend::weir;
use crate::support::{Message, Origin, Wire, within};

/// What a backend says to somebody who should never have asked on this connection.
const STOLEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// 502; nothing of it is told.
    Refused,
    /// The head was told before the content showed to be none: the client sees that it is cut off.
    CutOff,
    /// This is the content.
    Plain(&'static str),
}

use Expect::{CutOff, Plain, Refused};

/// A backend that gives `response` to whoever asks first on a connection, and that the stolen one to whoever asks
/// after that. Notes the connection of each request.
async fn origin(response: &'static [u8], asked: Arc<Mutex<Vec<usize>>>) -> Origin {
    Origin::start(move |connection, mut wire| {
        let asked = asked.clone();
        async move {
            let mut answer = response;
            while wire.message().await.is_some() {
                asked.lock().unwrap().push(connection);
                if !wire.try_say(answer).await {
                    return;
                }
                answer = STOLEN.as_bytes();
            }
        }
    })
    .await
}

struct Observed {
    /// `None` where it was cut off or nothing came.
    first: Option<Message>,
    second: Option<Message>,
    connections: Vec<usize>,
}

/// Asks twice for the same, on a route that is cached.
async fn observe(response: &'static [u8]) -> Observed {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let origin = origin(response, asked.clone()).await;
    let weir = weir(&origin).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut client = Wire::connect(weir.addr()).await;
        client.say("GET /cached/x HTTP/1.1\r\nhost: a\r\n\r\n").await;
        answers.push(client.message().await);
    }
    let connections = asked.lock().unwrap().clone();
    let (second, first) = (answers.pop().unwrap(), answers.pop().unwrap());
    Observed { first, second, connections }
}

async fn check(cases: &[(&str, &'static [u8], Expect)]) {
    for (name, response, expect) in cases {
        let Observed { first, second, connections } = within(observe(response)).await;
        for answer in [&first, &second].into_iter().flatten() {
            assert_ne!(answer.text(), "stolen", "{name}: one answer was two");
            assert!(!answer.head.contains("injected"), "{name}: {}", answer.head);
        }
        let status = first.as_ref().map(Message::status);
        match expect {
            Refused => assert_eq!(status, Some(502), "{name}: {first:?}"),
            CutOff => assert_eq!(status, None, "{name}: {first:?}"),
            Plain(text) => {
                let first = first.unwrap_or_else(|| panic!("{name}: no answer"));
                assert_eq!((first.status(), first.text()), (200, *text), "{name}");
            }
        }
        // Nothing that was broken is stored: the second client is asked for anew, on a connection of its own.
        let stored = connections.len() == 1;
        assert!(!stored || matches!(expect, Plain(_)), "{name}: stored");
        assert!(stored || connections.len() == 2, "{name}: {connections:?}");
        assert!(stored || connections[0] != connections[1], "{name}: the connection was used again");
        if let (Plain(text), Some(second)) = (expect, second) {
            assert_eq!(second.text(), *text, "{name}");
        }
    }
}

macro_rules! ok {
    ($rest:literal) => {
        concat!("HTTP/1.1 200 OK\r\n", $rest).as_bytes()
    };
}

#[tokio::test]
async fn response_framings() {
    check(&[
        ("CL twice, different", ok!("content-length: 2\r\ncontent-length: 3\r\n\r\nhi!"), Refused),
        ("CL twice, equal", ok!("content-length: 2\r\ncontent-length: 2\r\n\r\nhi"), Plain("hi")),
        ("CL: 2, 3", ok!("content-length: 2, 3\r\n\r\nhi!"), Refused),
        ("CL: +2", ok!("content-length: +2\r\n\r\nhi"), Refused),
        ("CL: -2", ok!("content-length: -2\r\n\r\nhi"), Refused),
        ("CL: 0x2", ok!("content-length: 0x2\r\n\r\nhi"), Refused),
        ("CL: x", ok!("content-length: x\r\n\r\nhi"), Refused),
        ("CL: 2^64", ok!("content-length: 18446744073709551616\r\n\r\nhi"), Refused),
        (
            "CL and TE",
            ok!("content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
            Refused,
        ),
        (
            "TE and CL",
            ok!("transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
            Refused,
        ),
        ("TE: xchunked", ok!("transfer-encoding: xchunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), Refused),
        (
            "TE: chunked, identity",
            ok!("transfer-encoding: chunked, identity\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
            Refused,
        ),
        ("TE: gzip, chunked", ok!("transfer-encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"), Refused),
        (
            "TE twice",
            ok!("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
            Refused,
        ),
        (
            "TE in HTTP/1.0",
            b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            Refused,
        ),
        ("CL with zeros in front", ok!("content-length: 002\r\n\r\nhi"), Plain("hi")),
    ])
    .await;
}

#[tokio::test]
async fn response_chunks() {
    check(&[
        ("size no hex", ok!("transfer-encoding: chunked\r\n\r\nzz\r\nhi\r\n0\r\n\r\n"), CutOff),
        ("size negative", ok!("transfer-encoding: chunked\r\n\r\n-2\r\nhi\r\n0\r\n\r\n"), CutOff),
        ("size of 17 digits", ok!("transfer-encoding: chunked\r\n\r\n10000000000000002\r\nhi\r\n0\r\n\r\n"), CutOff),
        ("no CRLF after the data", ok!("transfer-encoding: chunked\r\n\r\n2\r\nhi0\r\n\r\n"), CutOff),
        ("LF after the size", ok!("transfer-encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n"), CutOff),
        ("extension with a bare LF", ok!("transfer-encoding: chunked\r\n\r\n2;a\nb\r\nhi\r\n0\r\n\r\n"), CutOff),
        ("extension", ok!("transfer-encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\n\r\n"), Plain("hi")),
        (
            "trailer that claims a length",
            ok!("transfer-encoding: chunked\r\ntrailer: content-length\r\n\r\n2\r\nhi\r\n0\r\ncontent-length: 9\r\n\r\n"),
            Plain("hi"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn response_heads() {
    check(&[
        ("obs-fold", ok!("x: a\r\n injected: b\r\ncontent-length: 2\r\n\r\nhi"), Refused),
        ("space before the colon", ok!("content-length : 2\r\n\r\nhi"), Refused),
        ("space in a name", ok!("x y: b\r\ncontent-length: 2\r\n\r\nhi"), Refused),
        ("NUL in a value", ok!("x: a\0b\r\ncontent-length: 2\r\n\r\nhi"), Refused),
        ("CR in a value", ok!("x: a\rinjected: b\r\ncontent-length: 2\r\n\r\nhi"), Refused),
        ("no colon", ok!("xy\r\ncontent-length: 2\r\n\r\nhi"), Refused),
        ("status of two digits", b"HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nhi", Refused),
        ("HTTP/1.2", b"HTTP/1.2 200 OK\r\ncontent-length: 2\r\n\r\nhi", Refused),
        ("HTTP/0.9", b"hi", Refused),
        ("LF after the status line", b"HTTP/1.1 200 OK\ncontent-length: 2\r\n\r\nhi", Plain("hi")),
        ("LF after a field", ok!("content-length: 2\nx: y\r\n\r\nhi"), Plain("hi")),
        (
            "101 unasked",
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhi",
            Refused,
        ),
    ])
    .await;
}

/// Bytes behind a response belong to nobody.
#[tokio::test]
async fn more_than_one_response() {
    check(&[
        (
            "two responses",
            ok!("content-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
            Plain("hi"),
        ),
        ("two bytes too many", ok!("content-length: 2\r\ncache-control: no-store\r\n\r\nhi\r\n"), Plain("hi")),
        (
            "two, not stored",
            ok!("cache-control: no-store\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
            Plain("hi"),
        ),
        (
            "two in chunks",
            ok!("cache-control: no-store\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
            Plain("hi"),
        ),
    ])
    .await;
}

/// The same for those that have no content whatever their fields say (RFC 9112 §6.3).
#[tokio::test]
async fn content_where_there_is_none() {
    within(async {
        for (request, response) in [
            ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 44\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
            ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 44\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
            ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 44\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstolen"),
        ] {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let origin = origin(response.as_bytes(), asked.clone()).await;
            let weir = weir(&origin).await;
            for _ in 0..2 {
                let mut client = Wire::connect(weir.addr()).await;
                client.say(format!("{request} /x HTTP/1.1\r\nhost: a\r\n\r\n")).await;
                let head = client.head().await.expect("a head");
                let expected = response.split(' ').nth(1).unwrap();
                assert_eq!(head.split(' ').nth(1), Some(expected), "{request}: {head}");
            }
            let connections = asked.lock().unwrap().clone();
            assert_eq!(connections, [0, 1], "{request}: the connection was used again");
        }
    })
    .await;
}
