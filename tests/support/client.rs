//! Clients: one request per connection by default, so that every request is a whole story of its own.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Longest that one exchange may take before the story fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client sends.
type ClientBody = UnsyncBoxBody<Bytes, io::Error>;

/// Somebody who asks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    addr: SocketAddr,
    host: String,
    token: Option<String>,
}

impl Client {
    /// Asks at `addr`, naming the host `api.test`, so that several Weirs mean the same URL.
    pub fn new(addr: SocketAddr) -> Client {
        Client { addr, host: "api.test".to_owned(), token: None }
    }

    /// The same with a bearer token on every request.
    pub fn with_token(mut self, token: &str) -> Client {
        self.token = Some(token.to_owned());
        self
    }

    /// Begins a request.
    pub fn request(&self, method: &str, path: &str) -> Ask {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_str(&self.host).expect("a host"));
        let ask = Ask {
            addr: self.addr,
            method: Method::from_bytes(method.as_bytes()).expect("a method"),
            path: path.to_owned(),
            headers,
            body: None,
            http2: false,
        };
        match &self.token {
            Some(token) => ask.bearer(token),
            None => ask,
        }
    }

    /// GET.
    pub fn get(&self, path: &str) -> Ask {
        self.request("GET", path)
    }

    /// HEAD.
    pub fn head(&self, path: &str) -> Ask {
        self.request("HEAD", path)
    }

    /// PUT.
    pub fn put(&self, path: &str) -> Ask {
        self.request("PUT", path)
    }

    /// POST.
    pub fn post(&self, path: &str) -> Ask {
        self.request("POST", path)
    }

    /// DELETE.
    pub fn delete(&self, path: &str) -> Ask {
        self.request("DELETE", path)
    }

    /// A bare connection.
    pub async fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr).await.expect("a connection");
        stream.set_nodelay(true).ok();
        stream
    }

    /// Sends bytes as they are and returns everything that comes until the other side closes.
    pub async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.expect("bytes sent");
        let mut answer = Vec::new();
        // A reset after the answer is an end like any other.
        let read = stream.read_to_end(&mut answer);
        drop(tokio::time::timeout(PATIENCE, read).await.expect("the other side closes"));
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A kept-alive HTTP/1.1 connection.
    pub async fn keep_alive(&self) -> Conn {
        let io = TokioIo::new(self.connect().await);
        let (sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("a connection");
        let driver = tokio::spawn(async move { drop(connection.await) });
        Conn { sender, driver, client: self.clone() }
    }
}

/// One connection, several requests.
pub struct Conn {
    sender: hyper::client::conn::http1::SendRequest<ClientBody>,
    driver: JoinHandle<()>,
    client: Client,
}

impl Conn {
    /// One exchange on this connection; an error in words when it breaks.
    pub async fn send(&mut self, method: &str, path: &str) -> Result<Answer, String> {
        let request = self.client.request(method, path).into_request()?;
        let exchange = async {
            self.sender.ready().await.map_err(in_words)?;
            let response = self.sender.send_request(request).await.map_err(in_words)?;
            collect(response).await
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())?
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request in the making. Awaiting it sends it and fails the story if the exchange breaks.
pub struct Ask {
    addr: SocketAddr,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Option<ClientBody>,
    http2: bool,
}

impl Ask {
    /// Adds a field; `host` is replaced instead.
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        let name: HeaderName = name.parse().expect("a field name");
        let value = HeaderValue::from_str(value).expect("a field value");
        if name == "host" {
            self.headers.insert(name, value);
        } else {
            self.headers.append(name, value);
        }
        self
    }

    /// `Authorization: Bearer …`
    pub fn bearer(self, token: &str) -> Ask {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// `Cookie: …`
    pub fn cookie(self, cookies: &str) -> Ask {
        self.header("cookie", cookies)
    }

    /// A JSON body.
    pub fn json(self, value: &Value) -> Ask {
        self.header("content-type", "application/json").body(value.to_string())
    }

    /// A whole body.
    pub fn body(mut self, bytes: impl Into<Bytes>) -> Ask {
        self.body = Some(Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync());
        self
    }

    /// A chunked body whose pieces the story sends one by one; it ends when the sender is dropped.
    pub fn chunks(self) -> (mpsc::Sender<Frame<Bytes>>, Ask) {
        let (sender, receiver) = mpsc::channel(4);
        let frames = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Frame<Bytes>>| async move {
            receiver.recv().await.map(|frame| (Ok(frame), receiver))
        });
        (sender, Ask { body: Some(StreamBody::new(frames).boxed_unsync()), ..self })
    }

    /// Speaks HTTP/2 with prior knowledge.
    pub fn http2(mut self) -> Ask {
        self.http2 = true;
        self
    }

    fn into_request(self) -> Result<Request<ClientBody>, String> {
        let mut headers = self.headers;
        let uri = if self.http2 {
            // HTTP/2 carries the host in `:authority`.
            let host = headers.remove("host").expect("a host");
            format!("http://{}{}", host.to_str().map_err(|e| e.to_string())?, self.path)
        } else {
            self.path
        };
        let body = self.body.unwrap_or_else(|| {
            http_body_util::Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync()
        });
        let mut request = Request::builder().method(self.method).uri(uri).body(body).map_err(in_words)?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Sends it and returns as soon as the head of the answer is there.
    pub async fn open(self) -> Result<Opened, String> {
        let began = Instant::now();
        let stream = TcpStream::connect(self.addr).await.map_err(in_words)?;
        stream.set_nodelay(true).ok();
        let io = TokioIo::new(stream);
        let http2 = self.http2;
        let request = self.into_request()?;
        let exchange = async {
            if http2 {
                let executor = TokioExecutor::new();
                let (mut sender, connection) =
                    hyper::client::conn::http2::handshake(executor, io).await.map_err(in_words)?;
                let driver = tokio::spawn(async move { drop(connection.await) });
                let response = sender.send_request(request).await.map_err(in_words)?;
                Ok::<_, String>((response, driver))
            } else {
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(io).await.map_err(in_words)?;
                let driver = tokio::spawn(async move { drop(connection.with_upgrades().await) });
                let response = sender.send_request(request).await.map_err(in_words)?;
                Ok((response, driver))
            }
        };
        let (response, driver) =
            tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())??;
        let (parts, body) = response.into_parts();
        let (status, version, headers) = (parts.status, parts.version, parts.headers);
        Ok(Opened { status, version, headers, body, driver, head_after: began.elapsed() })
    }

    /// Sends it and waits for the whole answer; an error in words when the exchange breaks.
    pub async fn attempt(self) -> Result<Answer, String> {
        let began = Instant::now();
        let opened = self.open().await?;
        let mut answer = opened.finish().await?;
        answer.elapsed = began.elapsed();
        Ok(answer)
    }

    /// Sends it in a task of its own.
    pub fn spawn(self) -> JoinHandle<Answer> {
        tokio::spawn(self.into_future())
    }

    /// Sends the request's head over a bare socket and returns the socket: dropping it is a client that leaves.
    pub async fn and_leave_open(self) -> TcpStream {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            head += &format!("{name}: {}\r\n", value.to_str().expect("a text field"));
        }
        let body = match self.body {
            Some(body) => body.collect().await.expect("a whole body").to_bytes(),
            None => Bytes::new(),
        };
        if !body.is_empty() {
            head += &format!("content-length: {}\r\n", body.len());
        }
        head += "\r\n";
        let mut stream = TcpStream::connect(self.addr).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("a head sent");
        stream.write_all(&body).await.expect("a body sent");
        stream
    }
}

impl IntoFuture for Ask {
    type Output = Answer;
    type IntoFuture = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let what = format!("{} {}", self.method, self.path);
        Box::pin(async move { self.attempt().await.unwrap_or_else(|e| panic!("{what}: {e}")) })
    }
}

fn in_words(error: impl std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words += &format!(": {cause}");
        source = cause.source();
    }
    words
}

async fn collect(response: http::Response<Incoming>) -> Result<Answer, String> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.map_err(|e| format!("the body broke off: {}", in_words(e)))?;
    let trailers = collected.trailers().cloned();
    Ok(Answer {
        status: parts.status,
        version: parts.version,
        headers: parts.headers,
        body: collected.to_bytes(),
        trailers,
        elapsed: Duration::ZERO,
    })
}

/// An answer whose content is still to come. Dropping it closes the connection.
pub struct Opened {
    /// Status.
    pub status: StatusCode,
    /// Version of the answer.
    pub version: Version,
    /// Fields.
    pub headers: HeaderMap,
    /// Content to come.
    pub body: Incoming,
    /// How long the head took.
    pub head_after: Duration,
    driver: JoinHandle<()>,
}

impl Opened {
    /// The next piece of content; `None` at its regular end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .map_err(|_| "no content in time".to_owned())?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(in_words(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    /// Waits for the rest.
    pub async fn finish(mut self) -> Result<Answer, String> {
        let collecting = (&mut self.body).collect();
        let collected = tokio::time::timeout(PATIENCE, collecting)
            .await
            .map_err(|_| "the body did not end in time".to_owned())?
            .map_err(|e| format!("the body broke off: {}", in_words(e)))?;
        let trailers = collected.trailers().cloned();
        Ok(Answer {
            status: self.status,
            version: self.version,
            headers: std::mem::take(&mut self.headers),
            body: collected.to_bytes(),
            trailers,
            elapsed: Duration::ZERO,
        })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // Ends the connection even where the other side would keep it.
        self.driver.abort();
    }
}

/// A whole answer.
#[derive(Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Version of the answer.
    pub version: Version,
    /// Fields.
    pub headers: HeaderMap,
    /// Content.
    pub body: Bytes,
    /// Trailer fields, if any came.
    pub trailers: Option<HeaderMap>,
    /// From the first byte sent to the last received.
    pub elapsed: Duration,
}

impl Answer {
    /// The status as a number.
    pub fn code(&self) -> u16 {
        self.status.as_u16()
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The content as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// One field as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// `version` of the versioned backend's answers.
    pub fn item_version(&self) -> u64 {
        self.json()["version"].as_u64().unwrap_or_else(|| panic!("no version: {self:?}"))
    }

    /// `Age` in seconds.
    pub fn age(&self) -> Option<u64> {
        self.header("age").map(|age| age.parse().unwrap_or_else(|_| panic!("a bad Age: {self:?}")))
    }

    /// What Weir says it did.
    pub fn cache(&self) -> CacheStatus {
        CacheStatus::parse(self.header("cache-status").unwrap_or_default())
    }

    /// Whether it came from the cache.
    pub fn hit(&self) -> bool {
        self.cache().hit
    }

    /// Fails unless it is a 200 from the cache.
    #[track_caller]
    pub fn assert_hit(&self) -> &Answer {
        assert!(self.hit(), "should come from the cache: {self:?}");
        self
    }

    /// Fails if it came from the cache.
    #[track_caller]
    pub fn assert_not_hit(&self) -> &Answer {
        assert!(!self.hit(), "should not come from the cache: {self:?}");
        self
    }

    /// Fails unless it was stored while it passed.
    #[track_caller]
    pub fn assert_stored(&self) -> &Answer {
        assert!(!self.hit() && self.cache().stored, "should be a miss that is stored: {self:?}");
        self
    }

    /// Fails unless the status is `code`.
    #[track_caller]
    pub fn assert_code(&self, code: u16) -> &Answer {
        assert_eq!(self.code(), code, "{self:?}");
        self
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} {}", self.version, self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "  {name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let shown = &self.body[..self.body.len().min(400)];
        write!(f, "  ({} bytes) {}", self.body.len(), String::from_utf8_lossy(shown))
    }
}

/// `Cache-Status` (RFC 9211), as far as the stories read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// The cache's name; empty when there was no such field.
    pub name: String,
    /// `hit`
    pub hit: bool,
    /// `fwd`
    pub fwd: Option<String>,
    /// `fwd-status`
    pub fwd_status: Option<u16>,
    /// `stored`
    pub stored: bool,
    /// `collapsed`
    pub collapsed: bool,
    /// `ttl`, seconds
    pub ttl: Option<i64>,
    /// `key`
    pub key: Option<String>,
    /// `detail`
    pub detail: Option<String>,
}

impl CacheStatus {
    /// Reads one member.
    pub fn parse(text: &str) -> CacheStatus {
        let mut parts = text.split(';').map(str::trim);
        let mut status =
            CacheStatus { name: parts.next().unwrap_or_default().to_owned(), ..Default::default() };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, "?1"));
            let value = value.trim_matches('"').to_owned();
            match name {
                "hit" => status.hit = value == "?1",
                "stored" => status.stored = value == "?1",
                "collapsed" => status.collapsed = value == "?1",
                "fwd" => status.fwd = Some(value),
                "fwd-status" => status.fwd_status = value.parse().ok(),
                "ttl" => status.ttl = value.parse().ok(),
                "key" => status.key = Some(value),
                "detail" => status.detail = Some(value),
                other => panic!("an unknown Cache-Status parameter {other}: {text}"),
            }
        }
        status
    }
}
