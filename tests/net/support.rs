//! Raw peers on both sides of Weir's network layer: origins and clients that say exactly what a test wants said.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weir::body::Body;
use weir::config::Trust;
use weir::exchange::forwarded::{prepare_request, prepare_response};
use weir::exchange::upgrade::{Tunnels, requested, restore};
use weir::interim::Interim;
use weir::server::{Answering, Drained, Handler, Hold, Peer, ServerLimits};
use weir::upstream::{Upstream, UpstreamConfig};

/// Longer than anything here may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Fails the test, rather than hang it.
pub async fn within<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("the test took too long")
}

/// Waits for a condition.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came to pass: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One end of a TCP connection.
pub struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A message: its head as text, its content, and trailers as text.
#[derive(Debug)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
    pub trailers: String,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0)
    }
    pub fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (n, v) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then_some(v.trim())
    })
}

impl Wire {
    pub async fn connect(to: SocketAddr) -> Wire {
        Wire::new(TcpStream::connect(to).await.unwrap())
    }
    pub fn new(stream: TcpStream) -> Wire {
        Wire { stream, unread: Vec::new() }
    }
    pub async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }
    /// For peers that may be gone.
    pub async fn try_say(&mut self, text: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(text.as_ref()).await.is_ok()
    }
    /// More bytes; false at the end. An error is an end, too.
    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(n) if n > 0)
    }
    /// Reads through `end`; `None` if the connection ends before.
    pub async fn through(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self.unread.windows(end.len()).position(|w| w == end.as_bytes());
            if let Some(at) = found {
                let rest = self.unread.split_off(at + end.len());
                let taken = std::mem::replace(&mut self.unread, rest);
                return Some(String::from_utf8(taken).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }
    pub async fn head(&mut self) -> Option<String> {
        self.through("\r\n\r\n").await
    }
    pub async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.unread.len() < length {
            if !self.more().await {
                return None;
            }
        }
        let rest = self.unread.split_off(length);
        Some(std::mem::replace(&mut self.unread, rest))
    }
    /// A whole message; `None` if it is cut off. Content by length or chunks, else none.
    pub async fn message(&mut self) -> Option<Message> {
        let head = self.head().await?;
        self.content(head).await
    }
    /// The rest of a message whose head has been read.
    pub async fn content(&mut self, head: String) -> Option<Message> {
        if field(&head, "transfer-encoding").is_some() {
            let mut body = Vec::new();
            loop {
                let size = self.through("\r\n").await?;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                if size == 0 {
                    break;
                }
                body.extend(self.exactly(size).await?);
                self.exactly(2).await?;
            }
            let mut trailers = String::new();
            loop {
                let line = self.through("\r\n").await?;
                if line == "\r\n" {
                    return Some(Message { head, body, trailers });
                }
                trailers.push_str(&line);
            }
        }
        let length = field(&head, "content-length").map_or(0, |v| v.parse().unwrap());
        let body = self.exactly(length).await?;
        Some(Message { head, body, trailers: String::new() })
    }
    /// Reads to the end and says how the connection ended: `Ok` for a close, the error otherwise.
    pub async fn rest(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        loop {
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) => return (std::mem::take(&mut self.unread), Ok(())),
                Ok(_) => {}
                Err(error) => return (std::mem::take(&mut self.unread), Err(error)),
            }
        }
    }
    /// Closes this side's half.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
    /// Whether the other side ends the connection without another byte.
    pub async fn ended(&mut self) -> bool {
        self.rest().await.0.is_empty()
    }
    pub async fn ask(&mut self, request: &str) -> Message {
        self.say(request).await;
        self.message().await.expect("a whole response")
    }
}

/// An upstream that does as told, connection by connection.
pub struct Origin {
    pub addr: SocketAddr,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Origin {
    /// `serve` gets each connection with its number, from 0.
    pub async fn start<F, Fut>(serve: F) -> Origin
    where
        F: Fn(usize, Wire) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let n = counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(n, Wire::new(stream)));
            }
        });
        Origin { addr, accepted, task }
    }
    /// Answers every request of every connection with its own head as content.
    pub async fn echo() -> Origin {
        Origin::start(|_, mut wire| async move {
            while let Some(message) = wire.message().await {
                let length = message.head.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                if !wire.try_say(head + &message.head).await {
                    return;
                }
            }
        })
        .await
    }
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Weir's network layer with nothing in between: everything passes through.
pub struct Weir {
    pub addr: SocketAddr,
    pub upstream: Arc<Upstream>,
    pub tunnels: Arc<Tunnels>,
    drain: CancellationToken,
    done: JoinHandle<Drained>,
}

pub struct Setup {
    pub upstream: UpstreamConfig,
    pub limits: ServerLimits,
    pub drain_timeout: Duration,
}

impl Setup {
    pub fn to(origin: SocketAddr) -> Setup {
        Setup {
            upstream: UpstreamConfig {
                origin: format!("http://{origin}").parse().unwrap(),
                preserve_host: true,
                connect_timeout: Duration::from_secs(5),
                first_byte_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                keep_alive: PATIENCE * 10,
                max_connections: 100,
                ca_file: None,
            },
            limits: ServerLimits {
                header_timeout: PATIENCE,
                idle_timeout: PATIENCE,
                max_header_bytes: 16 * 1024,
                max_connections: 100,
                max_streams: 100,
            },
            drain_timeout: PATIENCE,
        }
    }
    pub async fn start(self) -> Weir {
        let upstream = Arc::new(Upstream::new(self.upstream).unwrap());
        let tunnels = Arc::new(Tunnels::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let handler = Pass { upstream: upstream.clone(), tunnels: tunnels.clone() };
        let serving =
            weir::server::serve(listener, None, self.limits, handler, drain.clone(), self.drain_timeout);
        Weir { addr, upstream, tunnels, drain, done: tokio::spawn(serving) }
    }
}

impl Weir {
    pub async fn before(origin: &Origin) -> Weir {
        Setup::to(origin.addr).start().await
    }
    pub async fn client(&self) -> Wire {
        Wire::connect(self.addr).await
    }
    pub fn drain(&self) {
        self.drain.cancel();
    }
    pub async fn drained(self) -> Drained {
        self.done.await.unwrap()
    }
}

struct Pass {
    upstream: Arc<Upstream>,
    tunnels: Arc<Tunnels>,
}

impl Handler for Pass {
    fn handle(&self, request: Request<Body>, peer: Peer, interim: &Interim) -> Answering {
        let pass = Pass { upstream: self.upstream.clone(), tunnels: self.tunnels.clone() };
        Answering::Later(Box::pin(pass.answer(request, peer, interim.clone())))
    }
}

impl Pass {
    async fn answer(self, request: Request<Body>, peer: Peer, interim: Interim) -> Response<Body> {
        assert_ne!(request.uri().path(), "/panic", "as the test asked");
        let (mut parts, body) = request.into_parts();
        let protocols = requested(&parts);
        let hold = parts.extensions.get::<Hold>().cloned();
        let client = protocols.as_ref().and_then(|_| parts.extensions.remove::<hyper::upgrade::OnUpgrade>());
        let interim = interim.listen(&HeaderValue::from_static("1.1 weir")).await;
        prepare_request(&mut parts, peer, &Trust::Nobody, "weir");
        if let Some(protocols) = &protocols {
            restore(&mut parts.headers, protocols);
        }
        match self.upstream.send(Request::from_parts(parts, Body::stream(body)), interim).await {
            Ok(response) if response.status() == 101 => {
                self.tunnels.splice(client.expect("an upgrade was asked for"), hold, response, "weir")
            }
            Ok(response) => {
                let (mut parts, body) = response.into_parts();
                prepare_response(&mut parts, "weir");
                Response::from_parts(parts, body)
            }
            Err(error) => {
                let mut response = Response::new(Body::full(error.token()));
                *response.status_mut() = error.status();
                response
            }
        }
    }
}
