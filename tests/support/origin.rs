//! A backend in this process, on a loopback port of its own.
//!
//! [`Origin`] speaks HTTP/1.1 through hyper and answers by handlers that a story registers; it keeps what it saw.
//! Its answers can be kept back ([`Origin::hold`]) *after* they were computed, which is what makes an answer old
//! while it is under way. [`RawOrigin`] hands the bare socket to a story, for everything that hyper would not send.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::eventually;

/// What the origin's answers are made of.
pub type OriginBody = UnsyncBoxBody<Bytes, io::Error>;

/// A request as it arrived at the backend.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method.
    pub method: Method,
    /// Path, as received.
    pub path: String,
    /// Query without `?`, empty if there was none.
    pub query: String,
    /// Fields.
    pub headers: HeaderMap,
    /// Content, once it has arrived whole.
    pub body: Bytes,
    /// Trailer fields, if any came.
    pub trailers: Option<HeaderMap>,
}

impl Seen {
    /// One field as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().expect("a text field"))
    }

    /// The content as JSON, `null` if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    headers: Vec<(String, String)>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Whole(Bytes),
    /// These bytes, then the connection breaks off; the length declared, if any.
    Cut(Bytes, Option<u64>),
    /// No answer at all: the connection closes.
    Gone,
    Channel(mpsc::Receiver<Bytes>),
}

impl Reply {
    /// 200 with JSON.
    pub fn json(value: &Value) -> Reply {
        Reply::text(value.to_string()).header("content-type", "application/json")
    }

    /// 200 with plain text.
    pub fn text(text: impl Into<Bytes>) -> Reply {
        Reply { status: StatusCode::OK, headers: Vec::new(), content: Content::Whole(text.into()) }
    }

    /// An empty answer with this status.
    pub fn status(code: u16) -> Reply {
        Reply::text("").code(code)
    }

    /// Changes the status.
    pub fn code(mut self, code: u16) -> Reply {
        self.status = StatusCode::from_u16(code).expect("a status code");
        self
    }

    /// Adds a field.
    pub fn header(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Declares `length` bytes, sends these and breaks off.
    pub fn cut(sent: impl Into<Bytes>, length: u64) -> Reply {
        Reply {
            status: StatusCode::OK,
            headers: Vec::new(),
            content: Content::Cut(sent.into(), Some(length)),
        }
    }

    /// Sends these in chunks and breaks off before the last one.
    pub fn cut_chunked(sent: impl Into<Bytes>) -> Reply {
        Reply { status: StatusCode::OK, headers: Vec::new(), content: Content::Cut(sent.into(), None) }
    }

    /// Closes the connection without a word.
    pub fn gone() -> Reply {
        Reply { status: StatusCode::OK, headers: Vec::new(), content: Content::Gone }
    }

    /// A chunked answer whose pieces the story sends one by one.
    pub fn channel() -> (mpsc::Sender<Bytes>, Reply) {
        let (sender, receiver) = mpsc::channel(16);
        let content = Content::Channel(receiver);
        (sender, Reply { status: StatusCode::OK, headers: Vec::new(), content })
    }

    fn into_response(self) -> Result<Response<OriginBody>, io::Error> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.headers {
            response = response.header(name, value);
        }
        let body = match self.content {
            Content::Whole(bytes) => Full::new(bytes).map_err(|never| match never {}).boxed_unsync(),
            Content::Cut(bytes, declared) => {
                if let Some(length) = declared {
                    response = response.header("content-length", length);
                }
                cut_body(bytes)
            }
            Content::Gone => return Err(io::Error::other("the story wants no answer")),
            Content::Channel(receiver) => body_of(receiver),
        };
        Ok(response.body(body).expect("a well-formed answer"))
    }
}

/// A streaming body out of a channel; it ends when the sender is dropped.
pub fn body_of(receiver: mpsc::Receiver<Bytes>) -> OriginBody {
    let frames = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok(Frame::data(bytes)), receiver))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Sends `bytes`, lets them be flushed, and fails.
fn cut_body(bytes: Bytes) -> OriginBody {
    let frames = stream::unfold(Some(bytes), |left| async move {
        match left {
            Some(bytes) if !bytes.is_empty() => Some((Ok(Frame::data(bytes)), Some(Bytes::new()))),
            Some(_) => {
                // A pending poll makes hyper flush what it has before it hears of the failure.
                tokio::task::yield_now().await;
                Some((Err(io::Error::other("cut off")), None))
            }
            None => None,
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

type Whole = dyn Fn(&Seen) -> Reply + Send + Sync;
type Streaming =
    dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Response<OriginBody>> + Send>> + Send + Sync;

#[derive(Clone)]
enum Handler {
    Whole(Arc<Whole>),
    Streaming(Arc<Streaming>),
}

/// `GET /items/1`, `* /x`, `GET /items/*` (a prefix).
#[derive(Debug, Clone)]
struct Pattern {
    method: String,
    path: String,
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let (method, path) = text.split_once(' ').unwrap_or(("*", text));
        assert!(
            path.starts_with('/'),
            "a pattern is \"METHOD /path\", \"METHOD /path/*\" or \"/path\": {text}"
        );
        Pattern { method: method.to_owned(), path: path.to_owned() }
    }

    fn matches(&self, method: &Method, path: &str) -> bool {
        let path_fits = match self.path.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == self.path,
        };
        path_fits && (self.method == "*" || self.method == method.as_str())
    }
}

#[derive(Debug)]
struct HoldState {
    pattern: Pattern,
    left: AtomicUsize,
    caught: AtomicUsize,
    open: watch::Sender<bool>,
}

/// Answers kept back at the backend until [`Hold::release`] (or until this is dropped).
#[must_use = "a hold that is dropped holds nothing"]
#[derive(Debug)]
pub struct Hold(Arc<HoldState>);

impl Hold {
    /// Waits until `n` requests have arrived and are being held.
    pub async fn caught(&self, n: usize) {
        eventually(&format!("{n} requests held at the origin"), super::DEADLINE, || async {
            self.count() >= n
        })
        .await;
    }

    /// How many requests it has caught so far.
    pub fn count(&self) -> usize {
        self.0.caught.load(Ordering::SeqCst)
    }

    /// Lets the answers go, and catches no more.
    pub fn release(&self) {
        self.0.left.store(0, Ordering::SeqCst);
        self.0.open.send_replace(true);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}

#[derive(Default)]
struct State {
    handlers: Mutex<Vec<(Pattern, Handler)>>,
    seen: Mutex<Vec<Seen>>,
    holds: Mutex<Vec<Arc<HoldState>>>,
    versions: Mutex<BTreeMap<String, u64>>,
    abandoned: AtomicUsize,
}

/// The backend.
pub struct Origin {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Origin {
    /// A backend that answers 404 to everything until handlers are registered.
    pub async fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Origin { addr, state, accepting }
    }

    /// A backend with a store of versions, for stories about staleness:
    ///
    /// `GET /items/{id}` tells the item's version and `GET /items` all of them; `PUT`, `PATCH` and `POST` on an
    /// item make the next version and answer with it, `DELETE` too. Every answer is JSON.
    pub async fn versioned() -> Origin {
        let origin = Origin::start().await;
        let state = origin.state.clone();
        origin.on("* /items*", move |seen| versioned(&state, seen));
        origin
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Answers requests that match `pattern` (`"GET /x"`, `"* /x"`, `"GET /x/*"`); the newest handler that matches wins.
    pub fn on(&self, pattern: &str, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        self.register(pattern, Handler::Whole(Arc::new(handler)));
    }

    /// The same answer every time.
    pub fn always(&self, pattern: &str, make: impl Fn() -> Reply + Send + Sync + 'static) {
        self.on(pattern, move |_| make());
    }

    /// Answers with a count that rises with every request: `answer 1`, `answer 2`, …
    pub fn counting(&self, pattern: &str) {
        self.counting_with(pattern, |reply| reply);
    }

    /// [`Origin::counting`], with the reply dressed up by `dress`.
    pub fn counting_with(&self, pattern: &str, dress: impl Fn(Reply) -> Reply + Send + Sync + 'static) {
        let n = AtomicUsize::new(0);
        self.on(pattern, move |_| {
            dress(Reply::text(format!("answer {}", n.fetch_add(1, Ordering::SeqCst) + 1)))
        });
    }

    /// A handler that gets the request before its content has arrived, and streams. Holds do not apply.
    pub fn on_stream<F, Fut>(&self, pattern: &str, handler: F)
    where
        F: Fn(Request<Incoming>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Response<OriginBody>> + Send + 'static,
    {
        let handler = move |request| {
            let answer: Pin<Box<dyn Future<Output = Response<OriginBody>> + Send>> =
                Box::pin(handler(request));
            answer
        };
        self.register(pattern, Handler::Streaming(Arc::new(handler)));
    }

    fn register(&self, pattern: &str, handler: Handler) {
        self.state.handlers.lock().unwrap().push((Pattern::new(pattern), handler));
    }

    /// Keeps back the answers to all matching requests from now on. They are computed before they wait.
    pub fn hold(&self, pattern: &str) -> Hold {
        self.hold_next(pattern, usize::MAX)
    }

    /// Keeps back the answers to the next `n` matching requests only.
    pub fn hold_next(&self, pattern: &str, n: usize) -> Hold {
        let state = Arc::new(HoldState {
            pattern: Pattern::new(pattern),
            left: AtomicUsize::new(n),
            caught: AtomicUsize::new(0),
            open: watch::channel(false).0,
        });
        self.state.holds.lock().unwrap().push(state.clone());
        Hold(state)
    }

    /// How many matching requests have arrived.
    pub fn count(&self, pattern: &str) -> usize {
        self.seen(pattern).len()
    }

    /// The matching requests that have arrived, oldest first.
    pub fn seen(&self, pattern: &str) -> Vec<Seen> {
        let pattern = Pattern::new(pattern);
        let seen = self.state.seen.lock().unwrap();
        seen.iter().filter(|s| pattern.matches(&s.method, &s.path)).cloned().collect()
    }

    /// The newest matching request.
    pub fn last(&self, pattern: &str) -> Seen {
        self.seen(pattern).pop().unwrap_or_else(|| panic!("the origin saw no {pattern}"))
    }

    /// Waits until `n` matching requests have arrived.
    pub async fn arrived(&self, pattern: &str, n: usize) {
        eventually(&format!("{n} × {pattern} at the origin"), super::DEADLINE, || async {
            self.count(pattern) >= n
        })
        .await;
    }

    /// How many requests were given up by the other side before they were answered.
    pub fn abandoned(&self) -> usize {
        self.state.abandoned.load(Ordering::SeqCst)
    }

    /// The version of an item, as it is now.
    pub fn version(&self, id: &str) -> u64 {
        *self.state.versions.lock().unwrap().entry(id.to_owned()).or_insert(1)
    }

    /// Changes an item behind everybody's back.
    pub fn bump(&self, id: &str) {
        *self.state.versions.lock().unwrap().entry(id.to_owned()).or_insert(1) += 1;
    }
}

fn versioned(state: &State, seen: &Seen) -> Reply {
    let mut versions = state.versions.lock().unwrap();
    let id = seen.path.strip_prefix("/items").unwrap_or_default().trim_start_matches('/').to_owned();
    if id.is_empty() {
        let items: Vec<Value> = versions.iter().map(|(id, v)| json!({"id": id, "version": v})).collect();
        return Reply::json(&json!({ "items": items }));
    }
    let version = versions.entry(id.clone()).or_insert(1);
    if !seen.method.is_safe() {
        *version += 1;
    }
    Reply::json(&json!({ "id": id, "version": version }))
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Connections live in this set, so that they end with the origin.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        stream.set_nodelay(true).ok();
        while connections.try_join_next().is_some() {}
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| answer(state.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            // Broken connections are what some stories are about.
            drop(connection.await);
        });
    }
}

/// Counts a request whose answer nobody waited for.
struct Waiting<'a>(&'a State, bool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<OriginBody>, io::Error> {
    let seen = Seen {
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
        headers: request.headers().clone(),
        body: Bytes::new(),
        trailers: None,
    };
    let handler = {
        let handlers = state.handlers.lock().unwrap();
        handlers.iter().rev().find(|(p, _)| p.matches(&seen.method, &seen.path)).map(|(_, h)| h.clone())
    };
    let index = {
        let mut all = state.seen.lock().unwrap();
        all.push(seen.clone());
        all.len() - 1
    };
    let mut waiting = Waiting(&state, false);
    let response = match handler {
        Some(Handler::Streaming(handler)) => Ok(handler(request).await),
        Some(Handler::Whole(handler)) => whole(&state, handler, request, seen, index).await,
        None => {
            Reply::text(format!("no handler for {} {}", seen.method, seen.path)).code(404).into_response()
        }
    };
    waiting.1 = true;
    response
}

async fn whole(
    state: &State,
    handler: Arc<Whole>,
    request: Request<Incoming>,
    mut seen: Seen,
    index: usize,
) -> Result<Response<OriginBody>, io::Error> {
    let collected = request.into_body().collect().await.map_err(io::Error::other)?;
    seen.trailers = collected.trailers().cloned();
    seen.body = collected.to_bytes();
    state.seen.lock().unwrap()[index] = seen.clone();
    let reply = handler(&seen);
    let holds: Vec<Arc<HoldState>> = state.holds.lock().unwrap().clone();
    for hold in holds.iter().filter(|h| h.pattern.matches(&seen.method, &seen.path)) {
        let token = hold.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if token.is_ok() {
            let mut open = hold.open.subscribe();
            hold.caught.fetch_add(1, Ordering::SeqCst);
            drop(open.wait_for(|open| *open).await);
        }
    }
    reply.into_response()
}

/// A backend that gives every accepted socket to the story.
pub struct RawOrigin {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Drop for RawOrigin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl RawOrigin {
    /// `serve` gets each connection; when it returns, the socket closes.
    pub async fn start<F, Fut>(serve: F) -> RawOrigin
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let addr = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                stream.set_nodelay(true).ok();
                serving.spawn(serve(stream));
            }
        });
        RawOrigin { addr, connections, accepting }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Reads one request head from a socket, up to and including the empty line; empty when the peer closed.
    pub async fn read_head(stream: &mut TcpStream) -> String {
        use tokio::io::AsyncReadExt;
        let mut head = Vec::new();
        let mut byte = [0u8; 1];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte).await {
                Ok(1) => head.push(byte[0]),
                _ => break,
            }
        }
        String::from_utf8_lossy(&head).into_owned()
    }
}

/// So that a closure may return what hyper's services return.
pub type Never = Infallible;

/// How long raw helpers wait before they give up.
pub const PATIENCE: Duration = Duration::from_secs(20);
