//! A client's connection: HTTP/1.1 or HTTP/2, with or without TLS. Answers are read whole and not kept.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bench_rig::{Outcome, during};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderValue};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::origin::{COUNTS, Counts};

/// Who is not answered by then has an error.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How to connect.
#[derive(Debug, Clone)]
pub struct Door {
    /// Where.
    pub address: SocketAddr,
    /// HTTP/2.
    pub h2: bool,
    /// TLS, trusting this certificate.
    pub certificate: Option<PathBuf>,
}

/// An open connection; of HTTP/2, one of its users.
#[derive(Debug)]
pub enum Connection {
    /// One request at a time.
    H1(http1::SendRequest<Empty<Bytes>>),
    /// Several.
    H2(http2::SendRequest<Empty<Bytes>>),
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path.
    pub path: String,
    /// `Authorization`.
    pub authorization: Option<String>,
}

impl Target {
    /// A path, asked for by nobody in particular.
    pub fn path(path: impl Into<String>) -> Target {
        Target { path: path.into(), authorization: None }
    }
}

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its content.
    pub body: Bytes,
}

impl Door {
    /// A door without TLS, for HTTP/1.1.
    pub fn plain(address: SocketAddr) -> Door {
        Door { address, h2: false, certificate: None }
    }

    /// Connects.
    pub async fn open(&self) -> Outcome<Connection> {
        let stream = TcpStream::connect(self.address).await.map_err(during("connecting"))?;
        stream.set_nodelay(true).map_err(during("connecting"))?;
        let Some(certificate) = &self.certificate else { return self.speak(stream).await };
        let config = crate::tls::client(certificate, if self.h2 { b"h2" } else { b"http/1.1" })?;
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(during("TLS"))?;
        self.speak(stream).await
    }

    async fn speak<S>(&self, stream: S) -> Outcome<Connection>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        // The end of a connection shows in the requests that it belongs to.
        if self.h2 {
            let shaken = http2::Builder::new(TokioExecutor::new()).handshake(io).await;
            let (sender, connection) = shaken.map_err(during("HTTP/2"))?;
            tokio::spawn(connection);
            Ok(Connection::H2(sender))
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(during("HTTP/1.1"))?;
            tokio::spawn(connection);
            Ok(Connection::H1(sender))
        }
    }

    /// The request for a target.
    pub fn request(&self, method: &Method, target: &Target) -> Outcome<Request<Empty<Bytes>>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = method.clone();
        let authority = self.address;
        if self.h2 {
            let scheme = if self.certificate.is_some() { "https" } else { "http" };
            let uri = format!("{scheme}://{authority}{}", target.path);
            *request.uri_mut() = uri.parse().map_err(during("a path"))?;
        } else {
            *request.uri_mut() = target.path.parse().map_err(during("a path"))?;
            let host = HeaderValue::from_str(&authority.to_string()).map_err(during("an address"))?;
            request.headers_mut().insert(HOST, host);
        }
        if *method != Method::GET {
            // Without it, Traffic Server answers 411.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if let Some(authorization) = &target.authorization {
            let value = HeaderValue::from_str(authorization).map_err(during("a token"))?;
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// GET on a connection of its own.
    pub async fn get(&self, target: &Target) -> Outcome<Answer> {
        self.ask(&Method::GET, target).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, method: &Method, target: &Target) -> Outcome<Answer> {
        let request = self.request(method, target)?;
        let exchange = async { self.open().await?.ask(request).await };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| format!("{} did not answer within {PATIENCE:?}", self.address))?
    }
}

impl Connection {
    /// Another user of the same connection; `None` where one is all it can have.
    pub fn share(&self) -> Option<Connection> {
        match self {
            Connection::H1(_) => None,
            Connection::H2(sender) => Some(Connection::H2(sender.clone())),
        }
    }

    /// One request; the answer's status. The content is read and dropped.
    pub async fn send(&mut self, request: Request<Empty<Bytes>>) -> Outcome<u16> {
        let mut response = self.response(request).await?;
        while let Some(frame) = response.frame().await {
            frame.map_err(during("an answer's content"))?;
        }
        Ok(response.status().as_u16())
    }

    /// One request; the whole answer.
    pub async fn ask(&mut self, request: Request<Empty<Bytes>>) -> Outcome<Answer> {
        let response = self.response(request).await?;
        let status = response.status().as_u16();
        let body = response.collect().await.map_err(during("an answer's content"))?.to_bytes();
        Ok(Answer { status, body })
    }

    async fn response(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> Outcome<hyper::Response<hyper::body::Incoming>> {
        match self {
            Connection::H1(sender) => {
                // The connection may still be tidying up after the last answer.
                sender.ready().await.map_err(during("a connection"))?;
                sender.send_request(request).await.map_err(during("a request"))
            }
            Connection::H2(sender) => {
                sender.ready().await.map_err(during("a connection"))?;
                sender.send_request(request).await.map_err(during("a request"))
            }
        }
    }
}

/// What reached the origin so far.
pub async fn counts(origin: SocketAddr) -> Outcome<Counts> {
    let answer = Door::plain(origin).get(&Target::path(COUNTS)).await?;
    serde_json::from_slice(&answer.body).map_err(during("the origin's counts"))
}
