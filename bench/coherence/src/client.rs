//! A client: one kept-alive HTTP/1.1 connection, one request at a time.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::backend::TOOK;

/// Longer than any fault: who is not answered by then has an error.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One connection.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: HeaderValue,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// `Cache-Status`, where there is one.
    pub cache_status: Option<HeaderValue>,
    /// `ETag`.
    pub etag: Option<HeaderValue>,
    /// How long the backend said it took for a mutation.
    pub backend: Option<Duration>,
    /// The answer is an old one that was served on purpose, to see whether the judge notices.
    pub sabotaged: bool,
    /// The content.
    pub body: Bytes,
}

/// How the answer came about, by its `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the cache.
    Hit,
    /// From another request's fetch, shared.
    Collapsed,
    /// From the backend, for this request.
    Backend,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No connection, or it broke.
    Broken(String),
    /// Nothing within [`PATIENCE`].
    Silent,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Broken(why) => f.write_str(why),
            Failure::Silent => write!(f, "no answer within {PATIENCE:?}"),
        }
    }
}

fn broken(error: impl fmt::Display + fmt::Debug) -> Failure {
    Failure::Broken(format!("{error} ({error:?})"))
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(address).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Its end shows in the request that it belongs to.
        tokio::spawn(connection);
        let host = HeaderValue::from_str(&address.to_string()).map_err(broken)?;
        Ok(Connection { sender, host })
    }

    /// True when the next request can be sent on it.
    pub async fn usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// GET, with `If-None-Match` where an entity tag is given.
    pub async fn read(&mut self, path: &str, etag: Option<&HeaderValue>) -> Result<Answer, Failure> {
        let mut request = self.request(Method::GET, path, Bytes::new())?;
        if let Some(etag) = etag {
            request.headers_mut().insert(IF_NONE_MATCH, etag.clone());
        }
        self.send(request).await
    }

    /// PUT of a JSON text.
    pub async fn mutate(&mut self, path: &str, body: &'static str) -> Result<Answer, Failure> {
        let mut request = self.request(Method::PUT, path, Bytes::from_static(body.as_bytes()))?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request).await
    }

    /// POST of a JSON text with a bearer token.
    pub async fn post(&mut self, path: &str, token: &str, body: String) -> Result<Answer, Failure> {
        let mut request = self.request(Method::POST, path, Bytes::from(body))?;
        let token = HeaderValue::from_str(&format!("Bearer {token}")).map_err(broken)?;
        request.headers_mut().insert(hyper::header::AUTHORIZATION, token);
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.send(request).await
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(broken)?;
        request.headers_mut().insert(HOST, self.host.clone());
        Ok(request)
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let exchange = async {
            // The connection may still be tidying up after the last answer.
            self.sender.ready().await.map_err(broken)?;
            let response = self.sender.send_request(request).await.map_err(broken)?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(broken)?.to_bytes();
            Ok(answer(head.status.as_u16(), &head.headers, body))
        };
        tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(Failure::Silent))
    }
}

fn answer(status: u16, headers: &HeaderMap, body: Bytes) -> Answer {
    let micros = headers.get(TOOK).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    Answer {
        status,
        cache_status: headers.get("cache-status").cloned(),
        etag: headers.get(ETAG).cloned(),
        backend: micros.map(Duration::from_micros),
        sabotaged: headers.contains_key(crate::sabotage::MARK),
        body,
    }
}

impl Answer {
    /// How it came about.
    pub fn source(&self) -> Source {
        let status = self.cache_status.as_ref().map_or(&b""[..], |value| value.as_bytes());
        let mut parameters = status.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).skip(1);
        // `hit` and `collapsed` exclude each other.
        parameters
            .find_map(|parameter| match parameter {
                b"hit" => Some(Source::Hit),
                b"collapsed" => Some(Source::Collapsed),
                _ => None,
            })
            .unwrap_or(Source::Backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_by_cache_status() {
        for (text, source) in [
            ("weir; hit; ttl=299; detail=memory", Source::Hit),
            ("weir;hit", Source::Hit),
            ("weir; fwd=miss; collapsed", Source::Collapsed),
            ("weir; fwd=miss; stored; detail=purged", Source::Backend),
            ("weir; fwd=uri-miss; detail=hit-for-miss", Source::Backend),
            ("hit; fwd=miss", Source::Backend),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cache-status", HeaderValue::from_static(text));
            assert_eq!(answer(200, &headers, Bytes::new()).source(), source, "{text}");
        }
        assert_eq!(answer(200, &HeaderMap::new(), Bytes::new()).source(), Source::Backend);
    }
}
