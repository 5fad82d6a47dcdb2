//! Requests in HTTP/1.1 of which another reader could make more, fewer or others. Behind each comes a second request:
//! it is answered as itself where the first was plain, and never looked at where it was not.

use super::backend::{Log, PART, Received, strict, weir};
use crate::support::{PATIENCE, Wire, within};

const SECOND: &str = "GET /second HTTP/1.1\r\nhost: a\r\n\r\n";

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Answered with this status (0: not at all) and closed upon; the backend hears nothing.
    Refused(u16),
    /// The same, but that the backend may have seen the beginning of the request: it went on its way before its content
    /// showed to be none.
    Broken(u16),
    /// The backend gets this, once, and the second request after it.
    Once(&'static str, &'static str),
    /// The backend gets this, once; then the connection is closed upon.
    OnceThenClosed(&'static str, &'static str),
}

use Expect::{Broken, Once, OnceThenClosed, Refused};

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    status: u16,
    /// What the second request was answered with; `None`: the connection was closed.
    second: Option<String>,
    backend: Vec<Result<Received, String>>,
}

async fn observe(to: std::net::SocketAddr, log: &Log, name: &str, request: &[u8]) -> Observed {
    log.take();
    let mut client = Wire::connect(to).await;
    client.try_say([request, SECOND.as_bytes()].concat()).await;
    let first = client.message().await;
    let status = first.as_ref().map_or(0, crate::support::Message::status);
    let second = match first {
        Some(_) => client.message().await.map(|message| message.text().to_owned()),
        None => None,
    };
    if second.is_none() {
        let (rest, _) = client.rest().await;
        assert!(rest.is_empty(), "{name}: after its answer came {:?}", String::from_utf8_lossy(&rest));
    }
    drop(client);
    // Whatever was under way is over when another request has been answered.
    let mut other = Wire::connect(to).await;
    assert_eq!(other.ask("GET /after HTTP/1.1\r\nhost: a\r\n\r\n").await.text(), "GET /after", "{name}");
    let mut backend = log.take();
    assert_eq!(backend.pop().expect("the last request").expect("a plain one").line, "GET /after", "{name}");
    Observed { status, second, backend }
}

/// `None` = as expected.
fn differs(expect: Expect, observed: &Observed) -> bool {
    let plain = observed.backend.iter().flatten();
    let got: Vec<(&str, &str)> = plain.map(|r| (&*r.line, &*r.body)).collect();
    let mut odd = observed.backend.iter().filter_map(|one| one.as_ref().err());
    let second = observed.second.as_deref();
    if expect != Broken(observed.status) && odd.next().is_some() {
        return true;
    }
    match expect {
        Broken(status) => {
            let parts = odd.all(|odd| odd.starts_with(PART));
            observed.status != status || second.is_some() || !got.is_empty() || !parts
        }
        Refused(status) => observed.status != status || second.is_some() || !got.is_empty(),
        Once(line, body) => {
            observed.status != 200
                || second != Some("GET /second")
                || got != [(line, body), ("GET /second", "")]
        }
        OnceThenClosed(line, body) => observed.status != 200 || second.is_some() || got != [(line, body)],
    }
}

async fn check(cases: &[(&str, &[u8], Expect)]) {
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        let mut wrong = Vec::new();
        for (name, request, expect) in cases {
            let Ok(observed) =
                tokio::time::timeout(PATIENCE / 4, observe(weir.addr(), &log, name, request)).await
            else {
                wrong.push(format!("{name}: hangs {:?}", log.take()));
                continue;
            };
            if differs(*expect, &observed) {
                wrong.push(format!("{name}: expected {expect:?}, got {observed:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

/// A POST with these fields, and what follows its head.
macro_rules! post {
    ($fields:literal, $rest:literal) => {
        concat!("POST /x HTTP/1.1\r\nhost: a\r\n", $fields, "\r\n", $rest).as_bytes()
    };
}

/// The same with chunks that mean `hi`.
macro_rules! chunked {
    ($fields:literal) => {
        post!($fields, "2\r\nhi\r\n0\r\n\r\n")
    };
}

/// A chunked POST with this content.
macro_rules! chunks {
    ($rest:literal) => {
        post!("transfer-encoding: chunked\r\n", $rest)
    };
}

macro_rules! get {
    ($line:literal) => {
        concat!($line, "\r\nhost: a\r\n\r\n").as_bytes()
    };
}

macro_rules! fields {
    ($fields:literal) => {
        concat!("GET /x HTTP/1.1\r\n", $fields, "\r\n").as_bytes()
    };
}

#[tokio::test]
async fn requests_with_two_framings() {
    check(&[
        (
            "CL, then TE",
            chunked!("content-length: 100\r\ntransfer-encoding: chunked\r\n"),
            OnceThenClosed("POST /x", "hi"),
        ),
        (
            "TE, then CL",
            chunked!("transfer-encoding: chunked\r\ncontent-length: 3\r\n"),
            OnceThenClosed("POST /x", "hi"),
        ),
        ("CL: 0, then TE", chunked!("content-length: 0\r\ntransfer-encoding: chunked\r\n"), OnceThenClosed("POST /x", "hi")),
        (
            "bad CL beside TE",
            chunked!("content-length: x\r\ntransfer-encoding: chunked\r\n"),
            Refused(400),
        ),
        ("TE: chunked", chunked!("transfer-encoding: chunked\r\n"), Once("POST /x", "hi")),
        ("TE: Chunked", chunked!("Transfer-Encoding: Chunked\r\n"), Once("POST /x", "hi")),
        ("TE after a tab", chunked!("transfer-encoding:\tchunked\t \r\n"), Once("POST /x", "hi")),
        ("TE: xchunked", chunked!("transfer-encoding: xchunked\r\n"), Refused(400)),
        ("TE: chunked, identity", chunked!("transfer-encoding: chunked, identity\r\n"), Refused(400)),
        ("TE: identity, chunked", chunked!("transfer-encoding: identity, chunked\r\n"), Refused(501)),
        ("TE: gzip, chunked", chunked!("transfer-encoding: gzip, chunked\r\n"), Refused(501)),
        ("TE: identity", post!("transfer-encoding: identity\r\n", ""), Refused(400)),
        ("TE: identity beside CL", post!("transfer-encoding: identity\r\ncontent-length: 2\r\n", "hi"), Refused(400)),
        ("TE: empty", post!("transfer-encoding:\r\ncontent-length: 2\r\n", "hi"), Refused(400)),
        ("TE: \"chunked\"", chunked!("transfer-encoding: \"chunked\"\r\n"), Refused(400)),
        ("TE: chunked;x=1", chunked!("transfer-encoding: chunked;x=1\r\n"), Refused(400)),
        ("TE: chunked,", chunked!("transfer-encoding: chunked,\r\n"), Refused(400)),
        ("TE: , chunked", chunked!("transfer-encoding: , chunked\r\n"), Refused(501)),
        ("TE: chunked chunked", chunked!("transfer-encoding: chunked chunked\r\n"), Refused(400)),
        ("TE: chunked, chunked", chunked!("transfer-encoding: chunked, chunked\r\n"), Refused(501)),
        ("TE with a form feed", chunked!("transfer-encoding: \x0cchunked\r\n"), Refused(400)),
        ("TE twice", chunked!("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"), Refused(501)),
        ("TE: identity and TE: chunked", chunked!("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n"), Refused(501)),
        ("TE: chunked and TE: identity", chunked!("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"), Refused(400)),
        ("space before the colon", chunked!("transfer-encoding : chunked\r\n"), Refused(400)),
        ("tab before the colon", chunked!("content-length\t: 2\r\n"), Refused(400)),
        ("TE_ with an underscore", post!("transfer_encoding: chunked\r\ncontent-length: 2\r\n", "hi"), Once("POST /x", "hi")),
        (
            "TE in HTTP/1.0",
            b"POST /x HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "TE and CL in HTTP/1.0",
            b"POST /x HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nhi",
            Refused(400),
        ),
        (
            "CL named in Connection",
            post!("connection: content-length\r\ncontent-length: 2\r\n", "hi"),
            Once("POST /x", "hi"),
        ),
        (
            "TE named in Connection",
            chunked!("connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n"),
            Once("POST /x", "hi"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn request_lengths() {
    check(&[
        ("CL twice, equal", post!("content-length: 2\r\ncontent-length: 2\r\n", "hi"), Once("POST /x", "hi")),
        ("CL twice, different", post!("content-length: 2\r\ncontent-length: 3\r\n", "hi"), Refused(400)),
        ("CL: 2, 2", post!("content-length: 2, 2\r\n", "hi"), Refused(400)),
        ("CL: 2, 3", post!("content-length: 2, 3\r\n", "hi"), Refused(400)),
        ("CL: +2", post!("content-length: +2\r\n", "hi"), Refused(400)),
        ("CL: -2", post!("content-length: -2\r\n", "hi"), Refused(400)),
        ("CL: -0", post!("content-length: -0\r\n", ""), Refused(400)),
        ("CL: 0x2", post!("content-length: 0x2\r\n", "hi"), Refused(400)),
        ("CL: 2.0", post!("content-length: 2.0\r\n", "hi"), Refused(400)),
        ("CL: 2 2", post!("content-length: 2 2\r\n", "hi"), Refused(400)),
        ("CL: 2;", post!("content-length: 2;\r\n", "hi"), Refused(400)),
        ("CL: 002", post!("content-length: 002\r\n", "hi"), Once("POST /x", "hi")),
        ("CL with space around", post!("content-length: \t 2 \t\r\n", "hi"), Once("POST /x", "hi")),
        ("CL with a vertical tab", post!("content-length: \x0b2\r\n", "hi"), Refused(400)),
        ("CL empty", post!("content-length:\r\n", ""), Refused(400)),
        ("CL: 2^64", post!("content-length: 18446744073709551616\r\n", "hi"), Refused(400)),
        ("CL: 2^64 - 1", post!("content-length: 18446744073709551615\r\n", "hi"), Refused(431)),
        ("CL: fullwidth digit", post!("content-length: \u{ff12}\r\n", "hi"), Refused(400)),
        (
            "CL_ with an underscore",
            post!("content_length: 9\r\ncontent-length: 2\r\n", "hi"),
            Once("POST /x", "hi"),
        ),
        (
            "CL twice, equal, then TE",
            chunked!("content-length: 2\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n"),
            OnceThenClosed("POST /x", "hi"),
        ),
        ("no length at all", post!("", ""), Once("POST /x", "")),
        ("GET with CL", b"GET /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi", Once("GET /x", "hi")),
        ("two bytes more than CL says", post!("content-length: 2\r\n", "hi\r\n"), Once("POST /x", "hi")),
    ])
    .await;
}

#[tokio::test]
async fn chunk_sizes() {
    check(&[
        ("size no hex", chunks!("zz\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("size negative", chunks!("-2\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("size with a plus", chunks!("+2\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("size with 0x", chunks!("0x2\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("size empty", chunks!("\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("size of 17 digits", chunks!("10000000000000002\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("size with zeros in front", chunks!("0002\r\nhi\r\n000\r\n\r\n"), Once("POST /x", "hi")),
        ("space before the size", chunks!(" 2\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("space after the size", chunks!("2 \r\nhi\r\n0\r\n\r\n"), Once("POST /x", "hi")),
        ("no CRLF after the data", chunks!("2\r\nhi0\r\n\r\n"), Broken(400)),
        ("LF after the data", chunks!("2\r\nhi\n0\r\n\r\n"), Broken(400)),
        ("LF after the size", chunks!("2\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("CR after the size", chunks!("2\rhi\r\n0\r\n\r\n"), Broken(400)),
        ("more data than said", chunks!("2\r\nhiho\r\n0\r\n\r\n"), Broken(400)),
        ("LF at the very end", chunks!("2\r\nhi\r\n0\r\n\n"), Broken(400)),
        ("extension", chunks!("2;a=b;c\r\nhi\r\n0;d\r\n\r\n"), Once("POST /x", "hi")),
        ("extension with a quoted string", chunks!("2;a=\"b;c\"\r\nhi\r\n0\r\n\r\n"), Once("POST /x", "hi")),
        ("extension with a bare LF", chunks!("2;a\nb\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("extension with a bare CR", chunks!("2;a\rb\r\nhi\r\n0\r\n\r\n"), Broken(400)),
        ("extension with a NUL", chunks!("2;a\0b\r\nhi\r\n0\r\n\r\n"), Once("POST /x", "hi")),
    ])
    .await;
}

#[tokio::test]
async fn a_long_chunk_extension() {
    let long = format!(
        "POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2;{}\r\nhi\r\n0\r\n\r\n",
        "a".repeat(20_000)
    );
    check(&[("extension of 20,000 bytes", long.as_bytes(), Broken(400))]).await;
}

#[tokio::test]
async fn request_trailers() {
    check(&[
        ("plain", chunks!("2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"), Once("POST /x", "hi")),
        ("Content-Length", chunks!("2\r\nhi\r\n0\r\ncontent-length: 100\r\n\r\n"), Once("POST /x", "hi")),
        ("Transfer-Encoding", chunks!("2\r\nhi\r\n0\r\ntransfer-encoding: x\r\n\r\n"), Once("POST /x", "hi")),
        ("Host", chunks!("2\r\nhi\r\n0\r\nhost: b\r\n\r\n"), Once("POST /x", "hi")),
        ("Authorization", chunks!("2\r\nhi\r\n0\r\nauthorization: b\r\n\r\n"), Once("POST /x", "hi")),
        (
            "all of these, announced",
            post!(
                "transfer-encoding: chunked\r\ntrailer: content-length, transfer-encoding, host, authorization\r\n",
                "2\r\nhi\r\n0\r\ncontent-length: 9\r\ntransfer-encoding: x\r\nhost: b\r\nauthorization: b\r\n\r\n"
            ),
            Once("POST /x", "hi"),
        ),
        ("no field", chunks!("2\r\nhi\r\n0\r\nGET /y HTTP/1.1\r\n\r\n"), Broken(400)),
        ("bare LF", chunks!("2\r\nhi\r\n0\r\nx: 1\ny: 2\r\n\r\n"), Broken(400)),
        ("obs-fold", chunks!("2\r\nhi\r\n0\r\nx: 1\r\n 2\r\n\r\n"), Broken(400)),
    ])
    .await;
}

#[tokio::test]
async fn head_lines() {
    check(&[
        ("LF after the request line", b"GET /x HTTP/1.1\nhost: a\r\n\r\n", Refused(400)),
        ("LF after a field", b"GET /x HTTP/1.1\r\nhost: a\nx: b\r\n\r\n", Refused(400)),
        ("LF alone", b"GET /x HTTP/1.1\nhost: a\n\n", Refused(400)),
        ("LF instead of the empty line", b"GET /x HTTP/1.1\r\nhost: a\r\n\n", Refused(400)),
        ("CR alone", b"GET /x HTTP/1.1\rhost: a\r\r", Refused(400)),
        ("CR in a value", fields!("host: a\r\nx: b\rc\r\n"), Refused(400)),
        ("CR at the end of a value", fields!("host: a\r\nx: b\r\r\n"), Refused(400)),
        ("NUL in a value", fields!("host: a\r\nx: b\0c\r\n"), Refused(400)),
        ("DEL in a value", fields!("host: a\r\nx: b\x7fc\r\n"), Refused(400)),
        ("obs-fold, first field", b"GET /x HTTP/1.1\r\n host: a\r\nhost: b\r\n\r\n", Refused(400)),
        ("obs-fold, later field", fields!("host: a\r\nx: b\r\n c\r\n"), Refused(400)),
        ("obs-fold by tab", fields!("host: a\r\nx: b\r\n\tc\r\n"), Refused(400)),
        (
            "obs-fold of TE",
            post!("transfer-encoding:\r\n chunked\r\ncontent-length: 2\r\n", "hi"),
            Refused(400),
        ),
        ("space in a name", fields!("host: a\r\nx y: b\r\n"), Refused(400)),
        ("no name", fields!("host: a\r\n: b\r\n"), Refused(400)),
        ("no colon", fields!("host: a\r\nxy\r\n"), Refused(400)),
        ("NUL in a name", fields!("host: a\r\nx\0: b\r\n"), Refused(400)),
        ("UTF-8 in a name", fields!("host: a\r\n\u{e9}: b\r\n"), Refused(400)),
        ("empty lines in front", b"\r\n\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n", Once("GET /x", "")),
        ("space in front", b" GET /x HTTP/1.1\r\nhost: a\r\n\r\n", Refused(400)),
    ])
    .await;
}

#[tokio::test]
async fn request_hosts() {
    check(&[
        ("none", fields!("x: a\r\n"), Refused(400)),
        ("two", fields!("host: a\r\nhost: b\r\n"), Refused(400)),
        ("two, equal", fields!("host: a\r\nhost: a\r\n"), Refused(400)),
        ("list", fields!("host: a, b\r\n"), Refused(400)),
        ("list without space", fields!("host: a,b\r\n"), Refused(400)),
        ("with a path", fields!("host: a/b\r\n"), Refused(400)),
        ("with a user", fields!("host: u@a\r\n"), Refused(400)),
        ("with a space", fields!("host: a b\r\n"), Refused(400)),
        ("with a bad port", fields!("host: a:b\r\n"), Refused(400)),
        ("with a port too large", fields!("host: a:65536\r\n"), Refused(400)),
        ("with a backslash", fields!("host: a\\b\r\n"), Refused(400)),
        ("space before the colon", fields!("host : a\r\n"), Refused(400)),
        ("absolute form, same host", b"GET http://a/x HTTP/1.1\r\nhost: a\r\n\r\n", Once("GET /x", "")),
        ("absolute form, another host", b"GET http://b/x HTTP/1.1\r\nhost: a\r\n\r\n", Once("GET /x", "")),
        ("absolute form, two hosts", b"GET http://a/x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", Refused(400)),
        ("absolute form, no host", b"GET http://a/x HTTP/1.1\r\n\r\n", Once("GET /x", "")),
        ("absolute form, bad port", b"GET http://a:65536/x HTTP/1.1\r\nhost: a\r\n\r\n", Refused(400)),
        ("absolute form, bad host", b"GET http://a/x HTTP/1.1\r\nhost: a/b\r\n\r\n", Refused(400)),
        ("absolute form, user and host", b"GET http://u@a/x HTTP/1.1\r\nhost: a\r\n\r\n", Once("GET /x", "")),
    ])
    .await;
}

#[tokio::test]
async fn request_lines() {
    check(&[
        ("two spaces before the target", get!("GET  /x HTTP/1.1"), Refused(400)),
        ("two spaces before the version", get!("GET /x  HTTP/1.1"), Refused(400)),
        ("tab for a space", get!("GET\t/x\tHTTP/1.1"), Refused(400)),
        ("space after the version", get!("GET /x HTTP/1.1 "), Refused(400)),
        ("space in the target", get!("GET /x y HTTP/1.1"), Refused(400)),
        ("no version", get!("GET /x"), Refused(400)),
        ("HTTP/0.9", b"GET /x\r\n", Refused(400)),
        ("HTTP/1.2", get!("GET /x HTTP/1.2"), Refused(400)),
        ("HTTP/2.0", get!("GET /x HTTP/2.0"), Refused(400)),
        ("HTTP/3.0", get!("GET /x HTTP/3.0"), Refused(400)),
        ("HTTP/1.10", get!("GET /x HTTP/1.10"), Refused(400)),
        ("http/1.1", get!("GET /x http/1.1"), Refused(400)),
        ("ICY", get!("GET /x ICY/1.1"), Refused(400)),
        ("lower-case method", get!("get /x HTTP/1.1"), Once("get /x", "")),
        ("method with a colon", get!("GE:T /x HTTP/1.1"), Refused(400)),
        ("no method", get!("/x HTTP/1.1"), Refused(400)),
        ("CONNECT", get!("CONNECT a:443 HTTP/1.1"), Refused(501)),
        ("CONNECT with a path", get!("CONNECT /x HTTP/1.1"), Refused(501)),
        ("asterisk with GET", get!("GET * HTTP/1.1"), Refused(400)),
        ("asterisk with OPTIONS", get!("OPTIONS * HTTP/1.1"), Once("OPTIONS *", "")),
        ("fragment", get!("GET /x#y HTTP/1.1"), Refused(400)),
        ("target without slash", get!("GET x HTTP/1.1"), Refused(400)),
        ("control in the target", get!("GET /x\x01 HTTP/1.1"), Refused(400)),
        ("NUL in the target", get!("GET /x\0 HTTP/1.1"), Refused(400)),
        ("CR in the target", get!("GET /x\ry HTTP/1.1"), Refused(400)),
        ("escaped CRLF in the target", get!("GET /x%0d%0ax:%20y HTTP/1.1"), Once("GET /x%0d%0ax:%20y", "")),
        ("another scheme", get!("GET ftp://a/x HTTP/1.1"), Refused(400)),
        ("TRACE", get!("TRACE /x HTTP/1.1"), Once("TRACE /x", "")),
    ])
    .await;
}

/// What goes on as a trailer decides nothing that a head decides.
#[tokio::test]
async fn forwarded_trailers() {
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        let mut client = Wire::connect(weir.addr()).await;
        let announced = "x-sum, content-length, transfer-encoding, host, authorization, cookie, trailer";
        let trailers = "content-length: 9\r\nx-sum: 1\r\ntransfer-encoding: x\r\nhost: b\r\nauthorization: b\r\ntrailer: c\r\n";
        let head = format!("POST /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntrailer: {announced}\r\n\r\n");
        let answer = client.ask(&format!("{head}2\r\nhi\r\n0\r\n{trailers}\r\n")).await;
        assert_eq!(answer.text(), "POST /x");
        let [got] = &log.plain("trailers")[..] else { panic!("one request") };
        assert_eq!((&*got.body, &*got.trailers), ("hi", "x-sum: 1\r\n"));
    })
    .await;
}

/// A chunk that is too large to ever come: its client waits in vain, and nobody else.
#[tokio::test]
async fn an_endless_chunk() {
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        let mut client = Wire::connect(weir.addr()).await;
        let request = chunks!("ffffffffffffffff\r\nhi\r\n0\r\n\r\n");
        client.say([request, SECOND.as_bytes()].concat()).await;
        let mut other = Wire::connect(weir.addr()).await;
        assert_eq!(other.ask("GET /after HTTP/1.1\r\nhost: a\r\n\r\n").await.text(), "GET /after");
        drop(client);
        assert_eq!(other.ask("GET /later HTTP/1.1\r\nhost: a\r\n\r\n").await.text(), "GET /later");
        let whole: Vec<String> = log.take().into_iter().flatten().map(|r| r.line).collect();
        assert_eq!(whole, ["GET /after", "GET /later"]);
    })
    .await;
}

/// A read with content is no business of the cache: it goes on with its content, and that is nobody's request.
#[tokio::test]
async fn content_of_a_read() {
    const INNER: &str = "GET /inner HTTP/1.1\r\nhost: a\r\n\r\n";
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        let mut client = Wire::connect(weir.addr()).await;
        let stored = "GET /cached/1 HTTP/1.1\r\nhost: a\r\n\r\n";
        client.ask(stored).await;
        let hit = client.ask(stored).await;
        assert!(hit.head.contains("; hit"), "{}", hit.head);
        log.take();
        let size = INNER.len();
        let get = "GET /cached/1 HTTP/1.1\r\nhost: a\r\n";
        for (name, request) in [
            ("by length", format!("{get}content-length: {size}\r\n\r\n{INNER}")),
            ("in chunks", format!("{get}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{INNER}\r\n0\r\n\r\n")),
        ] {
            let mut client = Wire::connect(weir.addr()).await;
            client.say(format!("{request}{SECOND}")).await;
            let first = client.message().await.expect("an answer");
            assert!(first.head.contains("detail=request-body"), "{name}: {}", first.head);
            assert_eq!(client.message().await.expect("another").text(), "GET /second", "{name}");
            let got: Vec<_> = log.plain(name).into_iter().map(|r| (r.line, r.body)).collect();
            let expected = [("GET /cached/1", INNER), ("GET /second", "")];
            assert_eq!(got, expected.map(|(line, body)| (line.to_owned(), body.to_owned())), "{name}");
        }
    })
    .await;
}

/// What Weir answers itself: the content is read off, or the connection closed.
#[tokio::test]
async fn content_of_what_weir_answers_itself() {
    const INNER: &str = "GET /inner HTTP/1.1\r\nhost: a\r\n\r\n";
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        let size = INNER.len();
        let large = "x".repeat(1 << 20);
        let get = "GET /livez HTTP/1.1\r\nhost: a\r\n";
        for (name, request) in [
            ("by length", format!("{get}content-length: {size}\r\n\r\n{INNER}")),
            ("in chunks", format!("{get}transfer-encoding: chunked\r\n\r\n{size:x}\r\n{INNER}\r\n0\r\n\r\n")),
            ("large", format!("{get}content-length: {}\r\n\r\n{large}{INNER}", large.len() + size)),
            ("in bad chunks", format!("{get}transfer-encoding: chunked\r\n\r\nzz\r\n{INNER}\r\n0\r\n\r\n")),
        ] {
            let mut client = Wire::connect(weir.addr()).await;
            client.try_say(format!("{request}{SECOND}")).await;
            assert_eq!(client.message().await.expect("an answer").text(), "ok\n", "{name}");
            let second = client.message().await.map(|message| message.text().to_owned());
            assert!(second.as_deref().is_none_or(|text| text == "GET /second"), "{name}: {second:?}");
            let lines: Vec<String> = log.plain(name).into_iter().map(|r| r.line).collect();
            assert_eq!(lines, second.into_iter().collect::<Vec<_>>(), "{name}");
        }
    })
    .await;
}
