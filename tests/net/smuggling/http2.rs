//! HTTP/2 requests that would be others in HTTP/1.1, written frame by frame: what h2's own client refuses to send.

use super::backend::{Log, strict, weir};
use crate::support::{Wire, within};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Answered with this status; 0 for those that have no index of their own (RFC 7541, appendix A).
    Answered(u16),
    /// The stream was reset, with this error code.
    Reset(u32),
    /// The connection was, with this one.
    GoAway(u32),
    Closed,
}

/// A connection whose frames a test writes itself.
struct Connection(Wire);

impl Connection {
    async fn to(addr: std::net::SocketAddr) -> Connection {
        let mut connection = Connection(Wire::connect(addr).await);
        connection.0.say("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        connection.frame(SETTINGS, 0, 0, &[]).await;
        connection
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.try_say(frame).await;
    }

    /// A request and, where there is one, its content in one frame.
    async fn send(&mut self, fields: &[(&str, &str)], content: Option<&str>) {
        let flags = if content.is_none() { END_HEADERS | END_STREAM } else { END_HEADERS };
        self.frame(HEADERS, flags, 1, &block(fields)).await;
        if let Some(content) = content {
            self.frame(DATA, END_STREAM, 1, content.as_bytes()).await;
        }
    }

    /// What comes of stream 1.
    async fn outcome(&mut self) -> Outcome {
        loop {
            let Some(head) = self.0.exactly(9).await else { return Outcome::Closed };
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            let Some(payload) = self.0.exactly(length as usize).await else { return Outcome::Closed };
            let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
            match (head[3], stream) {
                (SETTINGS, 0) if head[4] & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
                (HEADERS, 1) => return Outcome::Answered(status(&payload)),
                (RST_STREAM, 1) => return Outcome::Reset(code(0)),
                (GOAWAY, 0) => return Outcome::GoAway(code(4)),
                _ => {}
            }
        }
    }
}

/// Fields as literals without index or Huffman code (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for text in fields.iter().flat_map(|(name, value)| [Err(()), Ok(*name), Ok(*value)]) {
        let Ok(text) = text else {
            block.push(0);
            continue;
        };
        // All are shorter than the prefix holds.
        block.push(u8::try_from(text.len()).ok().filter(|n| *n < 127).unwrap());
        block.extend(text.as_bytes());
    }
    block
}

/// The status of a block that begins with one of the static table, behind size updates.
fn status(block: &[u8]) -> u16 {
    let first = block.iter().find(|b| **b & 0xe0 != 0x20).copied().unwrap_or_default();
    match first {
        0x88..=0x8e => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        _ => 0,
    }
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/x")];

/// The same with another value for one, or without it.
fn with(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().map(|(n, v)| if n == name { (n, value) } else { (n, v) }).collect()
}

fn and(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GET.into_iter().chain([(name, value)]).collect()
}

/// A name, the fields, and the content where there is some.
type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Option<&'a str>);

/// Each of them, and nothing of it reaches the backend.
async fn refused(cases: Vec<Case<'_>>) {
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        for (name, fields, content) in cases {
            let mut connection = Connection::to(weir.addr()).await;
            connection.send(&fields, content).await;
            let outcome = connection.outcome().await;
            // PROTOCOL_ERROR, or an answer that says so.
            let refused = matches!(outcome, Outcome::Reset(1) | Outcome::GoAway(1) | Outcome::Answered(400));
            assert!(refused, "{name}: {outcome:?}");
            drop(connection);
            let mut other = Wire::connect(weir.addr()).await;
            other.ask("GET /after HTTP/1.1\r\nhost: a\r\n\r\n").await;
            let got: Vec<String> = log.take().into_iter().filter_map(|one| Some(one.ok()?.line)).collect();
            assert_eq!(got, ["GET /after"], "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn fields_that_are_none() {
    refused(vec![
        ("CR in a value", and("x", "a\rb"), None),
        ("LF in a value", and("x", "a\nb"), None),
        ("CRLF in a value", and("x", "a\r\ntransfer-encoding: chunked"), None),
        ("NUL in a value", and("x", "a\0b"), None),
        ("upper case", and("X-Y", "a"), None),
        ("colon in a name", and("x:y", "a"), None),
        ("space in a name", and("x y", "a"), None),
        ("CRLF in a name", and("x\r\ny", "a"), None),
        ("empty name", and("", "a"), None),
        ("pseudo-field of one's own", and(":x", "a"), None),
        ("pseudo-field twice", and(":path", "/y"), None),
        ("transfer-encoding", and("transfer-encoding", "chunked"), None),
        ("connection", and("connection", "x"), None),
        ("keep-alive", and("keep-alive", "x"), None),
        ("proxy-connection", and("proxy-connection", "x"), None),
        ("upgrade", and("upgrade", "websocket"), None),
        ("te: gzip", and("te", "gzip"), None),
    ])
    .await;
}

#[tokio::test]
async fn targets_that_are_none() {
    refused(vec![
        ("space in the path", with(":path", "/x y"), None),
        ("CRLF in the path", with(":path", "/x HTTP/1.1\r\ny: z"), None),
        ("NUL in the path", with(":path", "/x\0"), None),
        ("empty path", with(":path", ""), None),
        ("path without a slash", with(":path", "x"), None),
        ("asterisk with GET", with(":path", "*"), None),
        ("CRLF in the method", with(":method", "GET / HTTP/1.1\r\nx: y"), None),
        ("space in the method", with(":method", "GET /"), None),
        ("CRLF in the authority", with(":authority", "a\r\nx: y"), None),
        ("slash in the authority", with(":authority", "a/b"), None),
        ("another scheme", with(":scheme", "ftp"), None),
        ("no path", GET[..3].to_vec(), None),
        ("no method", GET[1..].to_vec(), None),
        ("two hosts", [&GET[..], &[("host", "a"), ("host", "b")]].concat(), None),
        ("bad host", and("host", "a/b"), None),
    ])
    .await;
}

#[tokio::test]
async fn lengths_that_are_none() {
    let post = |length| POST.into_iter().chain([("content-length", length)]).collect::<Vec<_>>();
    refused(vec![
        ("more than there is", post("5"), Some("hi")),
        ("less than there is", post("1"), Some("hi")),
        ("none at all", post("2"), None),
        ("zero", post("0"), Some("hi")),
        ("+2", post("+2"), Some("hi")),
        ("2, 2", post("2, 2"), Some("hi")),
        ("twice, different", [&post("2")[..], &[("content-length", "3")]].concat(), Some("hi")),
    ])
    .await;
}

/// What is plain stays plain in HTTP/1.1.
#[tokio::test]
async fn what_goes_on() {
    within(async {
        let log = Log::default();
        let origin = strict(log.clone()).await;
        let weir = weir(&origin).await;
        let cookies = [("cookie", "a=1"), ("cookie", "b=2")];
        for (name, fields, content, line, body) in [
            ("no length", POST.to_vec(), Some("hi"), "POST /x", "hi"),
            ("a length", [&POST[..], &[("content-length", "2")]].concat(), Some("hi"), "POST /x", "hi"),
            (
                "zeros in front",
                [&POST[..], &[("content-length", "002")]].concat(),
                Some("hi"),
                "POST /x",
                "hi",
            ),
            ("a length of zero", [&POST[..], &[("content-length", "0")]].concat(), Some(""), "POST /x", ""),
            (
                "content that looks like chunks",
                POST.to_vec(),
                Some("0\r\n\r\nGET /y HTTP/1.1\r\n\r\n"),
                "POST /x",
                "0\r\n\r\nGET /y HTTP/1.1\r\n\r\n",
            ),
            ("te: trailers", and("te", "trailers"), None, "GET /x", ""),
            ("another host", and("host", "b"), None, "GET /x", ""),
            ("cookies", [&GET[..], &cookies].concat(), None, "GET /x", ""),
            ("fragment", with(":path", "/x#y"), None, "GET /x", ""),
        ] {
            let mut connection = Connection::to(weir.addr()).await;
            connection.send(&fields, content).await;
            assert_eq!(connection.outcome().await, Outcome::Answered(200), "{name}");
            let [got] = &log.plain(name)[..] else { panic!("{name}: one request") };
            assert_eq!((&*got.line, &*got.body), (line, body), "{name}");
            assert!(got.head.contains("host: a\r\n"), "{name}: {}", got.head);
            assert!(name != "cookies" || got.head.contains("cookie: a=1; b=2\r\n"), "{}", got.head);
        }
    })
    .await;
}
