//! Scripted backends, asked by the short way and by hyper alone: nobody can tell which it was.

use std::collections::VecDeque;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::{CloseDelimited, Failure, Upstream, UpstreamConfig};
use super::*;

/// What a backend does next.
#[derive(Debug, Clone)]
enum Event {
    /// Waits for one more head.
    Head,
    Say(Vec<u8>),
    /// Lets the other side look in between.
    Pause,
    End,
    Reset,
}

use Event::{End, Head, Pause, Reset, Say};

/// A backend that does as its script says, and then nothing.
#[derive(Debug, Clone, Default)]
struct Backend(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    events: VecDeque<Event>,
    heard: Vec<u8>,
    heads: usize,
    /// Bytes that each write takes; then all. 0 = not now.
    takes: VecDeque<usize>,
    /// Writing is over.
    deaf: bool,
    waker: Option<std::task::Waker>,
}

impl Backend {
    fn new(events: &[Event]) -> Backend {
        let backend = Backend::default();
        backend.0.lock().events = events.iter().cloned().collect();
        backend
    }
}

impl AsyncRead for Backend {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let script = &mut *self.0.lock();
        loop {
            match script.events.pop_front() {
                Some(Head) if script.heads > 0 => script.heads -= 1,
                Some(Say(mut bytes)) => {
                    let rest = bytes.split_off(bytes.len().min(buffer.remaining()));
                    buffer.put_slice(&bytes);
                    if !rest.is_empty() {
                        script.events.push_front(Say(rest));
                    }
                    return Poll::Ready(Ok(()));
                }
                Some(Pause) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Some(End) => {
                    script.events.push_front(End);
                    return Poll::Ready(Ok(()));
                }
                Some(Reset) => {
                    // As with TLS, the second look is at an end like any other.
                    script.events.push_front(End);
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                waits => {
                    script.events.extend(waits);
                    script.events.rotate_right(usize::from(!script.events.is_empty()));
                    script.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl AsyncWrite for Backend {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let script = &mut *self.0.lock();
        if script.deaf {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let n = script.takes.pop_front().unwrap_or(bytes.len()).min(bytes.len());
        if n == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        script.heard.extend_from_slice(&bytes[..n]);
        if script.heard.ends_with(b"\r\n\r\n") {
            script.heads += 1;
            script.waker.take().into_iter().for_each(std::task::Waker::wake);
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn upstream() -> Upstream {
    Upstream::new(UpstreamConfig {
        origin: "http://127.0.0.1:1".parse().unwrap(),
        preserve_host: true,
        connect_timeout: Duration::from_secs(5),
        first_byte_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        keep_alive: Duration::from_secs(3600),
        max_connections: 8,
        ca_file: None,
    })
    .unwrap()
}

fn request() -> Request<Body> {
    Request::get("/a?b").header("host", "h").header("authorization", "secret").body(Body::Empty).unwrap()
}

/// All that can be told of an exchange from outside.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    what: String,
    content: Vec<u8>,
    /// Connections that wait for another exchange.
    idle: usize,
    heard: String,
}

async fn told(result: Result<Response<Body>, Failure>) -> (String, Vec<u8>) {
    let response = match result {
        Ok(response) => response,
        Err(Failure::Unsent(request, why)) => {
            return (format!("unsent {:?}: {why}", request.uri()), Vec::new());
        }
        Err(Failure::Broken(said, error)) => {
            let again = said.map(|said| format!("{} {} {:?}", said.method(), said.uri(), said.headers()));
            return (format!("broken {error}, again: {again:?}"), Vec::new());
        }
        Err(Failure::Final(error)) => return (format!("final {error}"), Vec::new()),
    };
    let (head, mut body) = response.into_parts();
    let reason = head.extensions.get::<ReasonPhrase>();
    let delimited = head.extensions.get::<CloseDelimited>();
    let mut what = format!("{:?} {} {reason:?} {delimited:?}\n{:?}", head.version, head.status, head.headers);
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame.map(|frame| frame.into_data()) {
            Ok(Ok(data)) => content.extend_from_slice(&data),
            Ok(Err(trailers)) => what.push_str(&format!("\n{:?}", trailers.into_trailers())),
            Err(error) => what.push_str(&format!("\nbroke off: {error}")),
        }
    }
    (what, content)
}

/// One exchange with a backend, by the short way or without it; and whether hyper had to do with it.
async fn exchange(backend: &Backend, reused: bool, short: bool) -> (Outcome, bool) {
    let upstream = upstream();
    let lease = upstream.pool.lease_of(backend.clone(), reused).await;
    let mut fitted = upstream.fit(request(), false);
    assert!(fitted.asked.plain);
    fitted.asked.plain = short;
    let result = upstream.attempt(lease, &mut fitted.request, None, fitted.asked, reused, None).await;
    let (what, content) = told(result).await;
    let asked = upstream.pool.asked() != [false];
    // Whatever else the backend says comes to light.
    let idle = (0..4).map(|_| upstream.connections().1).last().unwrap();
    let heard = String::from_utf8(backend.0.lock().heard.clone()).unwrap();
    (Outcome { what, content, idle, heard }, asked)
}

/// The same outcome either way; whether the short way was gone to its end.
async fn same(events: &[Event], takes: &[usize], deaf: bool) -> bool {
    let mut short_to_its_end = true;
    for reused in [false, true] {
        let backend = || {
            let backend = Backend::new(events);
            backend.0.lock().takes = takes.iter().copied().collect();
            backend.0.lock().deaf = deaf;
            backend
        };
        let (short, asked) = exchange(&backend(), reused, true).await;
        let (long, _) = exchange(&backend(), reused, false).await;
        assert_eq!(short, long, "{events:?} {takes:?} {reused}");
        short_to_its_end &= !asked;
    }
    short_to_its_end
}

fn response(lines: &[&str], content: &str) -> Vec<u8> {
    let mut response: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    response.push_str("\r\n");
    response.push_str(content);
    response.into_bytes()
}

const OK: &str = "HTTP/1.1 200 OK";

/// Responses that the short way may answer.
fn plain() -> Vec<Vec<u8>> {
    let fields = |n: usize| (0..n).map(|i| format!("x-{i}: {i}\r\n")).collect::<String>();
    let of = |lines: &[&str], content: &str| response(lines, content);
    vec![
        of(&[OK, "Content-Length: 5"], "hello"),
        of(&[OK, "content-length:5", "Server:", "x-a: b", "X-A: c", "x-b: d", "x-a:\t e \t"], "hello"),
        of(&[OK, "CONTENT-LENGTH: \t 5 \t", "Connection: keep-alive", "Keep-Alive: timeout=5"], "hello"),
        of(&[OK, "connection: Keep-Alive", "connection: keep-alive", "content-length: 0"], ""),
        of(&["HTTP/1.1 200 Fine, thanks", "content-length: 2"], "ok"),
        of(&["HTTP/1.1 200 ", "content-length: 2"], "ok"),
        of(&["HTTP/1.1 200", "content-length: 2"], "ok"),
        of(&["HTTP/1.1 205 Reset Content", "content-length: 0"], ""),
        of(&["HTTP/1.1 204 No Content", "server: x"], ""),
        of(&["HTTP/1.1 204 No Content", "content-length: 0"], ""),
        of(&["HTTP/1.1 304 Not Modified", "etag: \"x\"", "content-length: 12345"], ""),
        of(&["HTTP/1.1 404 Not Found", "content-length: 1", "upgrade: h2c", "trailer: x"], "x"),
        of(&["HTTP/1.1 599 What", "content-length: 1"], "x"),
        of(&["", "", OK, "content-length: 1"], "x"),
        b"HTTP/1.1 200 OK\ncontent-length: 1\nx-a: b\n\nx".to_vec(),
        [b"HTTP/1.1 200 OK\r\nx-odd: \xff\x80\t\r\ncontent-length: 1\r\n\r\n", &b"\0"[..]].concat(),
        b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: 1\r\n\r\nx".to_vec(),
        format!("{OK}\r\n{}content-length: 1\r\n\r\nx", fields(99)).into_bytes(),
    ]
}

/// Responses that it may not.
fn other() -> Vec<Vec<u8>> {
    let of = |lines: &[&str], content: &str| response(lines, content);
    let mut all: Vec<_> = [
        "5, 5",
        "5,5",
        "+5",
        "-5",
        "005",
        "5 5",
        "5x",
        "0x5",
        "",
        "5,",
        ",5",
        "5;5",
        "\"5\"",
        "5\0",
        "99999999999999999999",
        "18446744073709551615",
        "18446744073709551616",
        "1e1",
        "\u{665}",
    ]
    .iter()
    .map(|length| of(&[OK, &format!("content-length: {length}")], "hello"))
    .collect();
    all.extend(
        [
            "chunked",
            "Chunked",
            "gzip, chunked",
            "chunked, gzip",
            "identity",
            "",
            "x",
            "chunked\0",
            "\u{b}chunked",
        ]
        .iter()
        .flat_map(|coding| {
            let field = format!("transfer-encoding: {coding}");
            [
                of(&[OK, &field], "5\r\nhello\r\n0\r\n\r\n"),
                of(&[OK, &field, "content-length: 5"], "hello"),
                of(&["HTTP/1.1 304 Not Modified", &field], ""),
            ]
        }),
    );
    all.extend(
        ["close", "Close", "keep-alive, close", "close, keep-alive", "x", "", "upgrade"].iter().flat_map(
            |connection| {
                let field = format!("connection: {connection}");
                [
                    of(&[OK, &field, "content-length: 5"], "hello"),
                    of(&[OK, "connection: keep-alive", "content-length: 5", &field], "hello"),
                    of(&["HTTP/1.1 204 No Content", &field], ""),
                ]
            },
        ),
    );
    all.extend([
        of(&[OK, "content-length: 5", "content-length: 5"], "hello"),
        of(&[OK, "content-length: 5", "content-length: 6"], "hello"),
        of(&["HTTP/1.1 304 Not Modified", "content-length: 5", "content-length: 6"], ""),
        of(&[OK], "until the end"),
        of(&[OK, "content_length: 5"], "hello"),
        of(&[OK, "content-length : 5"], "hello"),
        of(&[OK, " content-length: 5"], "hello"),
        of(&[OK, "x-a: b", " c", "content-length: 5"], "hello"),
        of(&[OK, "x-a: b\0c", "content-length: 5"], "hello"),
        of(&[OK, "x-a: b\rc", "content-length: 5"], "hello"),
        of(&[OK, "x a: b", "content-length: 5"], "hello"),
        of(&[OK, ": b", "content-length: 5"], "hello"),
        of(&[OK, "x-a", "content-length: 5"], "hello"),
        of(&[OK, "transfer-encoding : chunked", "content-length: 5"], "hello"),
        of(&["HTTP/1.0 200 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.0 200 OK", "content-length: 5", "connection: keep-alive"], "hello"),
        of(&["HTTP/1.2 200 OK", "content-length: 5"], "hello"),
        of(&["HTTP/2.0 200 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1  200 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1 99 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1 099 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1 600 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1 999 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1 2000 OK", "content-length: 5"], "hello"),
        of(&["HTTP/1.1 100 Continue", "", OK, "content-length: 5"], "hello"),
        of(&["HTTP/1.1 103 Early Hints", "link: x", "", OK, "content-length: 5"], "hello"),
        of(&["HTTP/1.1 101 Switching Protocols", "upgrade: x", "connection: upgrade"], "hello"),
        of(&["HTTP/1.1 199 What", "content-length: 5"], "hello"),
        of(&[OK, "content-length: 5"], "hello!"),
        of(&[OK, "content-length: 5"], "hello\r\n"),
        of(&[OK, "content-length: 5"], "helloHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"),
        of(&["HTTP/1.1 204 No Content"], "x"),
        of(&["HTTP/1.1 304 Not Modified", "content-length: 5"], "hello"),
        b"ICY 200 OK\r\n\r\n".to_vec(),
        b"\0".to_vec(),
        b"<html>".to_vec(),
        format!("{OK}\r\n{}content-length: 1\r\n\r\nx", "x: y\r\n".repeat(100)).into_bytes(),
    ]);
    all
}

/// Every way to end after what was said.
const ENDS: [&[Event]; 4] = [&[], &[End], &[Reset], &[Pause, End]];

#[tokio::test(start_paused = true)]
async fn what_is_plain_and_here_goes_the_short_way() {
    for response in plain() {
        for end in ENDS {
            let events = [&[Head, Say(response.clone())], end].concat();
            assert!(same(&events, &[], false).await, "{}", String::from_utf8_lossy(&response));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_goes_hypers() {
    for response in other() {
        for end in ENDS {
            let events = [&[Head, Say(response.clone())], end].concat();
            assert!(!same(&events, &[], false).await, "{}", String::from_utf8_lossy(&response));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn wherever_it_is_cut_it_is_the_same_response() {
    for response in plain().into_iter().chain(other()) {
        // Every few bytes of the long ones.
        let step = response.len() / 200 + 1;
        for at in (0..response.len()).step_by(step) {
            let (first, rest) = response.split_at(at);
            for between in [&[][..], &[Pause], &[Pause, Pause]] {
                let mut events = vec![Head];
                events.extend((!first.is_empty()).then(|| Say(first.to_vec())));
                events.extend_from_slice(between);
                events.push(Say(rest.to_vec()));
                same(&events, &[], false).await;
            }
            if !first.is_empty() {
                for end in [End, Reset] {
                    same(&[Head, Say(first.to_vec()), Pause, end.clone()], &[], false).await;
                    same(&[Head, Say(first.to_vec()), end], &[], false).await;
                }
                same(&[Head, Say(first.to_vec())], &[], false).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_has_one_turn_to_come() {
    for response in plain() {
        let head = response.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
        for at in [1, head.unwrap_or(20), response.len() - 1] {
            let (first, rest) = response.split_at(at);
            if rest.is_empty() {
                continue;
            }
            let of = |pauses: usize| {
                let said = [vec![Head, Say(first.to_vec())], vec![Pause; pauses], vec![Say(rest.to_vec())]];
                said.concat()
            };
            assert!(same(&of(1), &[], false).await, "{at} {}", String::from_utf8_lossy(&response));
            assert!(!same(&of(2), &[], false).await, "{at} {}", String::from_utf8_lossy(&response));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_many_pieces_and_of_every_length() {
    let whole = |content: usize, more: usize| {
        let mut all = format!("{OK}\r\ncontent-length: {content}\r\n\r\n").into_bytes();
        all.extend((0..content + more).map(|n| b'a' + (n % 23) as u8));
        all
    };
    // With their heads of 41 bytes, some fill the room that there is at first to the last byte.
    let lengths =
        [1000, LEAST - 42, LEAST - 41, LEAST - 40, 8192, 20_000, 65_535, 65_536, 65_537, 80_000, 200_000];
    for length in lengths {
        for more in [0, 1] {
            let response = whole(length, more);
            let short = same(&[Head, Say(response.clone())], &[], false).await;
            assert_eq!(short, more == 0 && length <= MOST_CONTENT, "{length} {more}");
            for piece in [1_021, 4_000, 30_000] {
                for pause in [None, Some(Pause)] {
                    let pieces = response.chunks(piece).flat_map(|p| [Some(Say(p.to_vec())), pause.clone()]);
                    let events: Vec<_> = std::iter::once(Head).chain(pieces.flatten()).collect();
                    same(&events, &[], false).await;
                }
            }
        }
    }
    for head in [3_000, 5_000, 70_000, 80_000, 500_000] {
        let response = format!("{OK}\r\nx: {}\r\ncontent-length: 1\r\n\r\nx", "y".repeat(head)).into_bytes();
        assert_eq!(same(&[Head, Say(response)], &[], false).await, head < MOST - 100, "{head}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_waited_for_as_long_and_who_leaves_is_left() {
    for end in [&[][..], &[End], &[Reset], &[Pause, End], &[Pause, Reset]] {
        assert!(!same(&[&[Head][..], end].concat(), &[], false).await);
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_spoken_or_left_before_is_sent_nothing() {
    let response = response(&[OK, "content-length: 5"], "hello");
    for first in [Say(b"x".to_vec()), Say(b"\r\n".to_vec()), Say(response.clone()), End, Reset] {
        let events = [first, Head, Say(response.clone())];
        for short in [true, false] {
            // hyper looks once when it is given the connection.
            let backend = Backend::new(&[&[Pause], &events[..]].concat());
            let (outcome, _) = exchange(&backend, true, short).await;
            assert!(outcome.what.starts_with("unsent") || outcome.what.starts_with("broken"), "{outcome:?}");
            assert_eq!((outcome.heard.as_str(), outcome.idle), ("", 0), "{events:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_leaves_in_parts_leaves_once() {
    let response = response(&[OK, "content-length: 5"], "hello");
    for takes in [&[10][..], &[0], &[10, 0], &[1, 1, 0, 20, 0, 0], &[69, 0]] {
        for response in [response.clone(), other()[0].clone()] {
            same(&[Head, Say(response)], takes, false).await;
        }
    }
    for end in ENDS {
        assert!(!same(&[&[Head][..], end].concat(), &[], true).await, "nobody hears");
    }
}

#[tokio::test(start_paused = true)]
async fn the_two_ways_take_turns_on_one_connection() {
    let say = |content: &str| Say(response(&[OK, &format!("content-length: {}", content.len())], content));
    let chunked = Say(response(&[OK, "transfer-encoding: chunked"], "1\r\nc\r\n0\r\n\r\n"));
    let said = [
        say("one"),
        chunked.clone(),
        say("two"),
        chunked.clone(),
        chunked,
        say("three"),
        say("four"),
        say("posted"),
        say("five"),
    ];
    let backend = Backend::new(&said.map(|said| [Head, said]).concat());
    let upstream = upstream();
    upstream.pool.lease_of(backend.clone(), true).await.give_back();
    let posted = || Request::post("/p").header("host", "h").body(Body::Empty).unwrap();
    for (expected, by_hyper, request) in [
        ("one", false, request()),
        ("c", true, request()),
        ("two", false, request()),
        ("c", true, request()),
        ("c", true, request()),
        // It is not tried again at once.
        ("three", true, request()),
        ("four", false, request()),
        ("posted", true, posted()),
        ("five", false, request()),
    ] {
        let response = upstream.send(request, None).await.unwrap();
        let content = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((content.as_ref(), upstream.pool.asked()), (expected.as_bytes(), vec![by_hyper]));
    }
    assert_eq!(
        backend.0.lock().heard.windows(4).filter(|end| end == b"\r\n\r\n").count(),
        9,
        "each head once"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_speaks_or_ends_is_closed_whatever_it_did_before() {
    let whole = response(&[OK, "content-length: 5"], "hello");
    let chunked = response(&[OK, "transfer-encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n");
    for first in [&whole, &chunked] {
        for then in [Say(b"x".to_vec()), End, Reset] {
            // Found by whoever looks after idle connections.
            let upstream = upstream();
            let backend = Backend::new(&[Head, Say(first.clone()), Pause, then.clone()]);
            upstream.pool.lease_of(backend, true).await.give_back();
            let response = upstream.send(request(), None).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
            let idle = (0..3).map(|_| upstream.connections()).last().unwrap();
            assert_eq!(idle, (0, 0), "{then:?}");
            // Found by the next request, which then finds nobody else.
            let upstream = self::upstream();
            let backend =
                Backend::new(&[Head, Say(first.clone()), Pause, then.clone(), Head, Say(whole.clone())]);
            upstream.pool.lease_of(backend.clone(), true).await.give_back();
            let response = upstream.send(request(), None).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
            backend.0.lock().events.retain(|event| !matches!(event, Pause));
            let heard = backend.0.lock().heard.len();
            upstream.send(request(), None).await.unwrap_err();
            assert_eq!(backend.0.lock().heard.len(), heard, "nothing more was sent: {then:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_midway_closes_the_connection() {
    for events in [&[Head][..], &[Head, Say(b"HTTP/1.1 ".to_vec())]] {
        let upstream = upstream();
        let lease = upstream.pool.lease_of(Backend::new(events), true).await;
        let mut fitted = upstream.fit(request(), false);
        let attempt = upstream.attempt(lease, &mut fitted.request, None, fitted.asked, true, None);
        assert!(tokio::time::timeout(Duration::from_secs(1), attempt).await.is_err());
        assert_eq!(upstream.connections(), (0, 0));
    }
}

#[test]
fn what_is_asked_for_more_than_a_representation_is_not_plain() {
    let upstream = upstream();
    let plain = |method: Method, field: Option<(&str, &str)>, body: Body| {
        let mut request = Request::builder().method(method).uri("/").header("host", "h");
        if let Some((name, value)) = field {
            request = request.header(name, value);
        }
        upstream.fit(request.body(body).unwrap(), false).asked.plain
    };
    assert!(plain(Method::GET, None, Body::Empty));
    assert!(plain(Method::OPTIONS, None, Body::Empty));
    for method in [Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::CONNECT] {
        assert!(!plain(method, None, Body::Empty));
    }
    assert!(!plain(Method::GET, None, Body::full("content")));
    for field in [("upgrade", "x"), ("connection", "te"), ("x-http-method-override", "DELETE")] {
        assert!(!plain(Method::GET, Some(field), Body::Empty), "{field:?}");
    }
}

#[test]
fn where_it_does_not_succeed_it_is_tried_less_and_less() {
    let mut trial = Trial::default();
    let mut waits = Vec::new();
    for _ in 0..7 {
        waits.push(std::iter::from_fn(|| (!trial.is_on()).then_some(())).count());
        trial.end(false);
    }
    assert_eq!(waits, [0, 0, 1, 2, 4, 8, 16]);
    while !trial.is_on() {}
    trial.end(true);
    assert!(trial.is_on());
    trial.end(false);
    assert!(trial.is_on(), "it starts over");
}

#[test]
fn the_same_names_again_are_the_same() {
    let mut precedent = Precedent::default();
    for names in [
        &["Server", "Date", "X-A"][..],
        &["server", "DATE", "x-a"],
        &["date", "server"],
        &["Date", "Server", "X-B", "X-A", "\u{e9}"],
        &["Dat", "Date2", ""],
        &["date", &"x".repeat(65), "server"],
        &["date", &"x".repeat(65), "server"],
    ] {
        for (place, name) in names.iter().enumerate() {
            assert_eq!(precedent.name(place, name), HeaderName::from_bytes(name.as_bytes()).ok(), "{name}");
        }
    }
}

#[test]
fn lengths_are_read_as_everybody_reads_them() {
    for (value, expected) in [
        ("0", Some(0)),
        ("5", Some(5)),
        ("65537", Some(65_537)),
        ("123456789", Some(123_456_789)),
        ("1234567890", None),
        ("00", None),
        ("05", None),
        ("", None),
        ("+5", None),
        ("5 ", None),
        ("5,5", None),
        ("5x", None),
    ] {
        assert_eq!(plain_length(value.as_bytes()), expected, "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_a_task_drives_is_hypers() {
    let upstream = upstream();
    let whole = response(&[OK, "content-length: 5"], "hello");
    let backend = Backend::new(&[Head, Say(whole)]);
    let mut lease = upstream.pool.lease_of(backend, true).await;
    lease.detach();
    lease.give_back();
    let response = upstream.send(request(), None).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_eq!(upstream.pool.asked(), [true]);
}
