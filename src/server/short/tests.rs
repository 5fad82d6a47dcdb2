//! Scripted clients, served by short exchanges and by hyper alone: nobody can tell which it was.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::HeaderValue;
use http::{Method, Request, StatusCode};
use http_body_util::StreamBody;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::body::{Body, BodyError};
use crate::interim::{Interim, Line};
use crate::server::activity::Activity;
use crate::server::connection::{self, http1_builder};
use crate::server::exchanges::Serving;
use crate::server::tests::fixture::{hold, limits, pair};
use crate::server::wire::Protocol;
use crate::server::{Answering, Later, Peer, Phase, Whole};

/// Answers as the target says, and notes who asked for what.
struct Says {
    asked: Mutex<Vec<String>>,
    /// How many of them had come before.
    again: AtomicUsize,
    /// Lets answers pass that are late.
    gate: Arc<Semaphore>,
}

impl Default for Says {
    fn default() -> Says {
        Says { asked: Mutex::default(), again: AtomicUsize::default(), gate: Arc::new(Semaphore::new(0)) }
    }
}

impl Handler for Says {
    fn handle(&self, request: Request<Body>, _: Peer, interim: &Interim) -> Answering {
        self.asked.lock().push(format!("{} {} {:?}", request.method(), request.uri(), request.headers()));
        assert_ne!(request.uri().path(), "/panics", "as the test asked");
        let response = answer_to(request.method(), request.uri().path());
        match request.uri().query() {
            None => Answering::Now(response),
            Some("late") => Answering::Later(late(Arc::clone(&self.gate), response)),
            Some("told") => Answering::Later(told(Arc::clone(&self.gate), interim.clone(), response)),
            Some("never") => Answering::Later(Box::pin(std::future::pending())),
            Some(_) => Answering::Now(response),
        }
    }

    /// The same, and what can be written is.
    fn handle_again(
        &self,
        head: &Arc<request::Parts>,
        peer: Peer,
        interim: &Interim,
    ) -> Option<Answering<Whole>> {
        // Some handlers know no shorter way for some requests.
        if head.uri.path() == "/empty" {
            return None;
        }
        self.again.fetch_add(1, Ordering::Relaxed);
        let request = Request::from_parts(request::Parts::clone(head), Body::Empty);
        Some(match self.handle(request, peer, interim) {
            Answering::Now(response) if head.method == Method::GET => match Written::head_of(&response) {
                Some(written) => {
                    let content = match response.into_body() {
                        Body::Full(Some(content)) => content,
                        _ => Bytes::new(),
                    };
                    Answering::Now(Whole::Written(Written { head: written, content }))
                }
                None => Answering::Now(Whole::Response(response)),
            },
            answering => answering.map(Whole::Response),
        })
    }
}

/// Comes when the test says so.
fn late(gate: Arc<Semaphore>, response: Response<Body>) -> Later {
    Box::pin(async move {
        gate.acquire().await.unwrap().forget();
        response
    })
}

/// Early hints come before it.
fn told(gate: Arc<Semaphore>, interim: Interim, response: Response<Body>) -> Later {
    Box::pin(async move {
        let listener = interim.listen(&HeaderValue::from_static("1.1 weir")).await.unwrap();
        listener.pass_on(StatusCode::EARLY_HINTS, &http::HeaderMap::new());
        late(gate, response).await
    })
}

fn answer_to(method: &Method, path: &str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    let mut say = |fields: &[(&'static str, &'static str)]| {
        for (name, value) in fields {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
    };
    if path != "/undated" {
        say(&[("date", "Sun, 22 Nov 2026 05:00:00 GMT")]);
    }
    say(&[("x-first", "1"), ("x-first", "2"), ("etag", "\"e\"")]);
    match path {
        "/measured" => say(&[("content-length", "7"), ("x-last", "3")]),
        "/zero" => say(&[("content-length", "0"), ("x-last", "3")]),
        "/measured-twice" => say(&[("content-length", "7"), ("content-length", "7")]),
        "/closes" => say(&[("connection", "close")]),
        "/keeps" => say(&[("connection", "keep-alive")]),
        "/trails" => say(&[("trailer", "x-sum")]),
        "/chunked" => say(&[("transfer-encoding", "chunked")]),
        "/latin" => {
            let value = HeaderValue::from_bytes(b"caf\xe9\t!").unwrap();
            response.headers_mut().insert("x-latin", value);
        }
        "/reason" => {
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Quite so"));
        }
        _ => {}
    }
    if let Some(status) = path.strip_prefix("/status/") {
        *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap();
    }
    *response.body_mut() = match path {
        "/empty" | "/zero" => Body::Empty,
        "/taken" => Body::Full(None),
        "/declared" => Body::Head(12),
        "/large" => Body::full(vec![b'x'; 3 << 20]),
        "/streams" => {
            let frames = ["con", "tent"].map(|text| Ok::<_, BodyError>(http_body::Frame::data(text.into())));
            Body::stream(StreamBody::new(futures_util::stream::iter(frames)))
        }
        _ if method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED => Body::Empty,
        _ if response.status() == StatusCode::NO_CONTENT => Body::Empty,
        _ => Body::full("content"),
    };
    response
}

/// A client's side of a connection, and its serving.
struct Served {
    client: TcpStream,
    handler: Arc<Says>,
    orders: watch::Sender<Phase>,
    ends: JoinHandle<()>,
}

async fn serve(short: bool) -> Served {
    let (client, server, addr) = pair().await;
    let limits = limits();
    let (handler, orders) = (Arc::<Says>::default(), watch::channel(Phase::Serving).0);
    let (peer, hold) = (Peer { addr, tls: false }, hold());
    let ends = if short {
        let (handler, phase) = (handler.clone(), orders.subscribe());
        tokio::spawn(connection::serve(server, peer, None, handler, Arc::new(limits), hold, phase))
    } else {
        let activity = Activity::new(limits.header_timeout, limits.idle_timeout);
        let line = Arc::<Line>::default();
        let mut wire = Wire::new(server.into(), activity.clone(), line.clone());
        let (handler, patience) = (handler.clone(), limits.header_timeout);
        let exchanges = Arc::new(Exchanges { handler, peer, hold, activity, line, patience });
        let mut phase = orders.subscribe();
        tokio::spawn(async move {
            let Ok(Some(Protocol::Http1)) = wire.sniff().await else { return };
            let service = Serving::new(exchanges, None);
            let connection = http1_builder(&limits).serve_connection(TokioIo::new(wire), service);
            let mut connection = std::pin::pin!(connection.with_upgrades());
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
            }
            connection.as_mut().graceful_shutdown();
            // What hyper says of an end is for the log.
            let _ = connection.await;
        })
    };
    Served { client, handler, orders, ends }
}

/// What a client does.
#[derive(Debug, Clone)]
enum Does {
    Says(Vec<u8>),
    /// Waits until all is quiet.
    Waits,
    /// Has what is late come, and waits again.
    Gets,
    /// Closes its half.
    Ends,
    /// The server is to be gone.
    Drains,
}

use Does::{Drains, Ends, Gets, Says as Speaks, Waits};

fn speaks(text: impl AsRef<[u8]>) -> Does {
    Speaks(text.as_ref().to_vec())
}

/// What came of a script: all that was said, who was asked for what, and after how many acts the server closed.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    said: String,
    asked: Vec<String>,
    closed: Option<usize>,
}

async fn outcome(script: &[Does], short: bool, patience: u32) -> Outcome {
    let Served { mut client, handler, orders, mut ends } = serve(short).await;
    let (mut said, mut closed) = (Vec::new(), None);
    for (place, act) in script.iter().enumerate() {
        match act {
            // A server that has closed may say so.
            Speaks(text) => drop(client.write_all(text).await),
            Ends => drop(client.shutdown().await),
            Drains => drop(orders.send(Phase::Draining)),
            Waits | Gets => {
                handler.gate.add_permits(usize::from(matches!(act, Gets)));
                let wait = quiet(patience);
                tokio::pin!(wait);
                while closed.is_none() {
                    tokio::select! {
                        biased;
                        read = client.read_buf(&mut said) => {
                            if read.unwrap_or(0) == 0 {
                                closed = Some(place);
                            }
                        }
                        () = &mut wait => break,
                    }
                }
            }
        }
    }
    drop(client);
    (&mut ends).await.unwrap();
    let asked = std::mem::take(&mut *handler.asked.lock());
    Outcome { said: without_our_dates(&said), asked, closed }
}

/// Lets everybody have his turn, and the system carry what is under way.
async fn quiet(patience: u32) {
    for _ in 0..4 * patience {
        std::thread::park_timeout(Duration::from_micros(20));
        tokio::task::yield_now().await;
    }
}

/// What time it was is not the same for both.
fn without_our_dates(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines = said.split("\r\n").map(|line| match line.strip_prefix("date: ") {
        Some(date) if date != "Sun, 22 Nov 2026 05:00:00 GMT" => "date: now",
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The same comes of it, whoever serves. Returns what that is.
async fn alike(script: &[Does]) -> Outcome {
    // Bytes may be under way when all is quiet: what differs for that reason does so no more where there is time.
    for patience in [1, 10, 100] {
        let (short, long) = (outcome(script, true, patience).await, outcome(script, false, patience).await);
        if short == long {
            return short;
        }
    }
    let (short, long) = (outcome(script, true, 1000).await, outcome(script, false, 1000).await);
    assert_eq!(short, long, "{script:?}");
    short
}

/// Long enough for what is to happen at once, on any machine.
const DEADLINE: Duration = Duration::from_secs(20);

const GET: &str = "GET /x HTTP/1.1\r\nhost: a\r\n\r\n";

const PATHS: [&str; 24] = [
    "/",
    "/empty",
    "/taken",
    "/declared",
    "/measured",
    "/zero",
    "/measured-twice",
    "/closes",
    "/keeps",
    "/trails",
    "/chunked",
    "/latin",
    "/reason",
    "/undated",
    "/streams",
    "/panics",
    "/large",
    "/status/204",
    "/status/304",
    "/status/205",
    "/status/404",
    "/status/500",
    "/status/299",
    "/status/999",
];

#[tokio::test(start_paused = true)]
async fn answers_are_what_hyper_would_have_said() {
    for path in PATHS {
        for method in ["GET", "HEAD", "DELETE"] {
            // No handler says these of a HEAD, and hyper's own checks forbid it to try.
            if method == "HEAD" && ["/large", "/streams", "/measured-twice"].contains(&path) {
                continue;
            }
            // The like: a length that is not the content's.
            if method == "DELETE" && path == "/declared" {
                continue;
            }
            for query in ["", "?late", "?told"] {
                let head = format!("{method} {path}{query} HTTP/1.1\r\nhost: a\r\n\r\n");
                alike(&[speaks(GET), Waits, speaks(&head), Gets, speaks(GET), Waits]).await;
                // The third time it is known, if it ever is.
                alike(&[speaks(&head), Gets, speaks(&head), Gets, speaks(&head), Gets]).await;
            }
        }
    }
}

/// Heads that are plain, and all sorts of others.
fn heads() -> Vec<String> {
    let mut heads: Vec<String> = [
        "GET /x HTTP/1.0\r\nhost: a\r\n\r\n",
        "GET /x HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n",
        "GET /x HTTP/1.1\r\n\r\n",
        "GET /x HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET /x\r\n\r\n",
        "get /x HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\nGET /x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /x HTTP/1.1\r\nhost: a\n\r\n",
        "GET /x HTTP/1.1\nhost: a\n\n",
        "GET http://a/x HTTP/1.1\r\nhost: b\r\n\r\n",
        "GET http://a HTTP/1.1\r\nhost: b\r\n\r\n",
        "GET * HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET  /x HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /x#y HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET //x/../y?a=b&&c HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /%zz\"<>{} HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /caf\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]
    .map(str::to_owned)
    .into();
    let fields = [
        "connection: close",
        "connection: keep-alive",
        "Connection: Keep-Alive",
        "connection: keep-alive, te",
        "connection:",
        "connection: upgrade\r\nupgrade: x",
        "upgrade: x",
        "content-length: 0",
        "content-length: 3",
        "content-length: x",
        "transfer-encoding: chunked",
        "transfer-encoding: gzip",
        "expect: 100-continue",
        "expect: x",
        "te: trailers",
        "trailer: x",
        "host: b",
        "Host : b",
        " folded: x",
        "x: y\r\n folded",
        "x",
        ": x",
        "x:",
        "x:\t y \t",
        "x: \u{e9}",
        "x: a\0b",
        "x: a\rb",
        "x\u{e9}: y",
        "x: y\r\nx: z\r\nX: y",
        "cookie: a=b; c=d",
        "keep-alive: 5",
        "proxy-connection: close",
        "http2-settings: x",
    ];
    for field in fields {
        for method in ["GET", "HEAD"] {
            heads.push(format!("{method} /x HTTP/1.1\r\nhost: a\r\n{field}\r\n\r\n"));
        }
    }
    for many in [99, 100, 101] {
        heads.push(format!("GET /x HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(many - 1)));
    }
    for long in [LONGEST - 60, LONGEST - 40, LONGEST, 2 * LONGEST, 70_000] {
        heads.push(format!("GET /x HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(long)));
        heads.push(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "y".repeat(long)));
    }
    heads
}

#[tokio::test(start_paused = true)]
async fn requests_are_what_hyper_would_have_read() {
    for head in heads() {
        // At a connection's beginning that is another protocol.
        if !head.starts_with("PRI") {
            alike(&[speaks(&head), Waits, speaks(GET), Waits, Ends, Waits]).await;
        }
        alike(&[speaks(GET), Waits, speaks(&head), Waits]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn heads_may_come_in_pieces_and_behind_one_another() {
    for head in heads().iter().filter(|head| head.len() < 200) {
        for at in (1..head.len()).step_by(5) {
            let (one, other) = head.as_bytes().split_at(at);
            alike(&[speaks(GET), Waits, speaks(one), Waits, speaks(other), Waits]).await;
        }
        let three = [GET, head, GET].concat();
        for at in [0, GET.len() - 2, GET.len() + 5] {
            let (one, other) = three.as_bytes().split_at(at);
            alike(&[speaks(one), Waits, speaks(other), Waits]).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_for_an_answer_gets_all_of_them_in_turn() {
    for query in ["?late", "?told"] {
        for path in ["/", "/streams", "/closes", "/large", "/undated"] {
            let head = format!("GET {path}{query} HTTP/1.1\r\nhost: a\r\n\r\n");
            for next in [
                GET,
                &GET[..9],
                "\r\n",
                "PUT / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n",
                "\0",
                "GET / H#\r\n",
            ] {
                let script = [speaks(&head), Waits, speaks(next), Gets, speaks(&GET[9..]), Gets];
                let script = &script[..if next.len() == 9 { 6 } else { 4 }];
                assert!(alike(script).await.said.starts_with("HTTP/1.1 "), "{script:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_answers_end() {
    for head in
        [GET, "GET /?late HTTP/1.1\r\nhost: a\r\n\r\n", "GET /streams?late HTTP/1.1\r\nhost: a\r\n\r\n"]
    {
        let outcome = alike(&[speaks(head), Waits, Drains, Waits, Gets]).await;
        assert!(
            outcome.said.contains("tent") && outcome.closed == Some(if head == GET { 3 } else { 4 }),
            "{outcome:?}"
        );
        assert_eq!(outcome.said.contains("connection: close"), head != GET, "{outcome:?}");
    }
    let outcome = alike(&[speaks(GET), Waits, Drains, Waits]).await;
    assert_eq!((outcome.asked.len(), outcome.closed), (1, Some(3)));
}

/// Serves a client without hyper, as far as that goes.
async fn alone(script: &[u8]) -> (io::Result<Over>, Arc<Says>) {
    let (mut client, server, addr) = pair().await;
    let activity = Activity::new(Duration::from_secs(1), Duration::from_secs(1));
    let (line, handler) = (Arc::<Line>::default(), Arc::<Says>::default());
    let mut wire = Wire::new(server.into(), activity.clone(), line.clone());
    let exchanges = Exchanges {
        handler: handler.clone(),
        peer: Peer { addr, tls: false },
        hold: hold(),
        activity,
        line,
        patience: Duration::from_secs(1),
    };
    client.write_all(script).await.unwrap();
    client.shutdown().await.unwrap();
    wire.sniff().await.unwrap();
    let mut short = Short::new(wire, Arc::new(exchanges), 1 << 16);
    (std::future::poll_fn(|cx| Pin::new(&mut short).poll(cx)).await, handler)
}

#[tokio::test]
async fn what_is_plain_does_without_hyper_and_nothing_else_does() {
    let plain = |head: &str| {
        !head.contains("HTTP/1.0")
            && (head.trim_start().starts_with("GET /") || head.starts_with("HEAD /"))
            && ![
                "connection: close",
                "te\r",
                "connection:\r",
                "content-length",
                "transfer-encoding",
                "expect",
                "upgrade: ",
            ]
            .iter()
            .any(|other| head.replace("proxy-connection", "").contains(other))
    };
    let mut count = 0;
    for head in heads() {
        let (over, handler) = alone(head.as_bytes()).await;
        let (over, asked) = (over.unwrap_or_else(|e| panic!("{e:?} {head}")), handler.asked.lock().len());
        match over {
            Over::Ended if asked == 1 => {
                assert!(plain(&head), "{head}");
                count += 1;
            }
            Over::Ended => assert_eq!(asked, 0, "{head}"),
            Over::Hypers(reply) => assert!(asked <= usize::from(reply.is_some()), "{head}"),
        }
    }
    assert!(count > 20, "{count} of them are plain");
    for path in PATHS {
        let here = ![
            "/closes",
            "/keeps",
            "/trails",
            "/chunked",
            "/undated",
            "/streams",
            "/measured-twice",
            "/panics",
        ]
        .contains(&path);
        let (over, _) = alone(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        assert_eq!(matches!(over, Ok(Over::Ended)), here, "{path}");
    }
}

#[tokio::test]
async fn who_has_left_is_not_answered() {
    // The second time and the third are not the first.
    for _ in 0..3 {
        let Served { mut client, handler, ends, orders } = serve(true).await;
        client.write_all(b"GET /?never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let asked = async {
            while handler.asked.lock().is_empty() {
                quiet(1).await;
            }
        };
        tokio::time::timeout(DEADLINE, asked).await.expect("asked");
        drop(client);
        tokio::time::timeout(DEADLINE, ends).await.expect("given up").unwrap();
        assert!(orders.is_closed());
    }
}

#[tokio::test]
async fn who_closes_its_half_gets_what_is_there_at_once() {
    for _ in 0..3 {
        let Served { mut client, handler: _handler, orders: _orders, ends } = serve(true).await;
        client.write_all(GET.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = Vec::new();
        tokio::time::timeout(DEADLINE, client.read_to_end(&mut said)).await.unwrap().unwrap();
        assert!(said.ends_with(b"content"), "{}", String::from_utf8_lossy(&said));
        tokio::time::timeout(DEADLINE, ends).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_came_before_is_not_read_again_and_every_field_counts() {
    let Served { mut client, handler, orders: _orders, ends: _ends } = serve(true).await;
    let mut ask = async |field: &str| {
        let head = format!("GET /x HTTP/1.1\r\nhost: a\r\ncookie: {field}\r\ncookie: b\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"content") {
            assert!(client.read_buf(&mut said).await.unwrap() > 0);
        }
        (handler.asked.lock().last().unwrap().clone(), handler.again.load(Ordering::Relaxed))
    };
    let (first, _) = ask("one").await;
    assert!(first.contains("one; b"), "{first}: as every handler gets it");
    // Others in the same place keep it from being kept.
    let mut tries = 0;
    while ask("one").await.1 == 0 {
        tries += 1;
        assert!(tries < 100);
    }
    let (again, before) = ask("one").await;
    assert_eq!(again, first);
    let (other, after) = ask("two").await;
    assert!(other.contains("two; b") && after == before, "{other}");
}
