//! A small HTTP/1.1 client on one kept-alive connection: what a test needs, nothing more.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

/// The name all clients ask for, through Weir and directly: backends write it into links.
const HOST: &str = "api.example.com";

pub(crate) struct Client {
    addr: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// From the request's first byte to the body's last.
    pub(crate) elapsed: Duration,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Client {
        Client { addr, connection: None }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    /// Sends and receives; a request that fails fails the test.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&serde_json::Value>,
    ) -> Answer {
        match self.try_send(method, path, headers, body).await {
            Ok(answer) => answer,
            Err(e) => panic!("{method} {path} at {}: {e}", self.addr),
        }
    }

    pub(crate) async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&serde_json::Value>,
    ) -> Result<Answer, hyper::Error> {
        let mut request = Request::builder().method(method).uri(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let content = match body {
            Some(json) => {
                request = request.header("content-type", "application/json");
                Full::from(serde_json::to_vec(json).unwrap())
            }
            None => Full::default(),
        };
        let request = request.body(content).unwrap();

        let started = Instant::now();
        let retry = method == "GET";
        let kept = self.connection.is_some();
        let response = match self.connection().await.send_request(request.clone()).await {
            Ok(response) => response,
            // The peer closed a kept-alive connection just as we used it: only a read may simply go again.
            Err(e) if kept && (retry || e.is_canceled()) => {
                self.connection = None;
                self.connection().await.send_request(request).await?
            }
            Err(e) => {
                self.connection = None;
                return Err(e);
            }
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, elapsed: started.elapsed() })
    }

    async fn connection(&mut self) -> &mut SendRequest<Full<Bytes>> {
        let open = match &mut self.connection {
            Some(connection) => connection.ready().await.is_ok(),
            None => false,
        };
        if !open {
            let stream = tokio::net::TcpStream::connect(self.addr).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            self.connection = Some(sender);
        }
        self.connection.as_mut().expect("just made")
    }
}

/// What `Cache-Status` says of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// From the cache.
    Hit,
    /// From a fetch that another request had begun.
    Shared,
    /// By the backend.
    Forwarded,
    /// There was no `Cache-Status`.
    Unsaid,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(crate) fn served(&self) -> Served {
        let status = self.header("cache-status");
        let has = |word: &str| status.split(';').any(|p| p.trim() == word);
        match status {
            "" => Served::Unsaid,
            _ if has("hit") => Served::Hit,
            _ if has("collapsed") => Served::Shared,
            _ => Served::Forwarded,
        }
    }
}
