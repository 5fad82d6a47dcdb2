//! An authority that issues certificates, and clients that trust it alone.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use crate::support::within;

/// 2049-01-01T00:00:00Z, the end of what is issued.
pub const NOT_AFTER: i64 = 2_493_072_000;

/// Issues certificates for `localhost` into a directory of its own: `chain.pem` and `key.pem`.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
    issued: RefCell<Vec<u8>>,
}

impl Authority {
    pub fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer, dir: tempfile::tempdir().unwrap(), issued: RefCell::default() }
    }

    /// A new certificate with a new key.
    pub fn issue(&self) {
        self.issue_until(2049);
    }

    /// The same, good until that year begins.
    pub fn issue_until(&self, year: i32) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        self.write("chain.pem", &format!("{}{}", leaf.pem(), self.issuer.pem()));
        self.write("key.pem", &key.serialize_pem());
        self.issued.replace(leaf.der().to_vec());
    }

    /// The newest certificate.
    pub fn issued(&self) -> Vec<u8> {
        self.issued.borrow().clone()
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `[tls]` as a `proxy.toml` has it.
    pub fn section(&self) -> String {
        let (chain, key) = (self.path("chain.pem"), self.path("key.pem"));
        format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"", chain.display(), key.display())
    }

    /// A client of whoever listens there: TLS 1.3, no ALPN.
    pub fn client(&self, addr: SocketAddr) -> Trusting {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Trusting::new(addr, Arc::new(roots), &version::TLS13)
    }
}

/// A client that trusts one authority, and remembers its sessions.
#[derive(Clone)]
pub struct Trusting {
    addr: SocketAddr,
    roots: Arc<RootCertStore>,
    config: ClientConfig,
}

impl Trusting {
    fn new(
        addr: SocketAddr,
        roots: Arc<RootCertStore>,
        version: &'static SupportedProtocolVersion,
    ) -> Trusting {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        Trusting { addr, roots, config }
    }

    /// One that has never been here, of TLS 1.3.
    pub fn fresh(&self) -> Trusting {
        self.only(&version::TLS13)
    }

    /// The same of this version alone.
    pub fn only(&self, version: &'static SupportedProtocolVersion) -> Trusting {
        Trusting::new(self.addr, self.roots.clone(), version)
    }

    /// The same with these protocols in ALPN.
    pub fn offering(&self, protocols: &[&str]) -> Trusting {
        let mut other = self.clone();
        other.config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        other
    }

    /// A connection, its handshake done.
    pub async fn connect(&self) -> Stream {
        self.tapped().await.0
    }

    /// The same with what comes in over TCP.
    pub async fn tapped(&self) -> (Stream, Arc<Mutex<Vec<u8>>>) {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = connector.connect(name, Tapped { stream, seen: seen.clone() });
        (within("the handshake", connecting).await.unwrap(), seen)
    }

    /// GET by the protocol that was agreed on.
    pub async fn get(&self, path: &str) -> (response::Parts, Bytes) {
        self.get_with(path, &[]).await
    }

    /// The same with these fields.
    pub async fn get_with(&self, path: &str, fields: &[(&str, &str)]) -> (response::Parts, Bytes) {
        let stream = self.connect().await;
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let (answer, _) = http2(stream, path).await;
            return answer;
        }
        let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driving = tokio::spawn(connection);
        let mut request = Request::get(path).body(Empty::<Bytes>::new()).unwrap();
        request.headers_mut().insert("host", HeaderValue::from_static("api.test"));
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let answer = whole(within("an answer", sender.send_request(request)).await.unwrap()).await;
        driving.abort();
        answer
    }
}

async fn whole(answer: http::Response<hyper::body::Incoming>) -> (response::Parts, Bytes) {
    let (head, body) = answer.into_parts();
    (head, within("the content", body.collect()).await.unwrap().to_bytes())
}

/// One GET by HTTP/2, and the connection, which stays open until Weir ends it.
pub async fn http2(stream: Stream, path: &str) -> ((response::Parts, Bytes), JoinHandle<()>) {
    let io = TokioIo::new(stream);
    let (mut sender, connection) = conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let driving = tokio::spawn(async move { connection.await.unwrap() });
    let request = Request::get(format!("https://api.test{path}")).body(Empty::<Bytes>::new()).unwrap();
    let answer = whole(within("an answer", sender.send_request(request)).await.unwrap()).await;
    // As long as there is somebody who may ask, the connection is open.
    let held = tokio::spawn(async move {
        driving.await.unwrap();
        drop(sender);
    });
    (answer, held)
}

/// The certificate that was shown.
pub fn shown(stream: &Stream) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A head, with its empty line.
pub async fn head(stream: &mut Stream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within("a head", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Says this and reads an answer whose length is declared.
pub async fn ask(stream: &mut Stream, request: &str) -> (String, Vec<u8>) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = head(stream).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    within("the content", stream.read_exact(&mut body)).await.unwrap();
    (head, body)
}

/// The types and lengths of TLS' records in what came in (RFC 8446 §5.1).
pub fn records(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(*high) << 8 | usize::from(*low);
        records.push((*kind, length));
        bytes = &rest[length..];
    }
    records
}

pub type Stream = TlsStream<Tapped>;

/// TCP that remembers what came in.
#[derive(Debug)]
pub struct Tapped {
    stream: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.seen.lock().extend_from_slice(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
