//! TLS on the traffic listener: 1.2 and 1.3, ALPN `h2` and `http/1.1`, sessions resumed by tickets.
//!
//! ```text
//! accept ─► first byte ─┬─► a letter: plain HTTP on the wrong port, told so in HTTP/1.1
//!                       └─► handshake ─► ALPN names the protocol, or the first bytes tell it as they do without TLS
//! ```
//!
//! A handshake has the time that a request's head has, from accept on. The certificate is the one in force at that
//! moment ([`Certificates`]). What it lacks: certificates chosen by the name that a client asks for (the one given may
//! have many names), certificates of clients, 0-RTT (it could be replayed), tickets shared by instances (a client that
//! comes to another one shakes hands in full), stapled OCSP.

mod certificates;
mod leaf;
mod pair;

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

pub use self::certificates::{Certificates, InForce};
pub use self::leaf::Leaf;
pub use self::pair::{Pair, PairError, TlsFiles};
use super::activity::Activity;
use super::socket::{Noted, Socket};
use super::wire::Protocol;

/// What a client hears that speaks plain HTTP here.
const NO_TLS: &str = "This port speaks TLS. Ask again with https://.\n";

/// Makes TLS connections of a listener's TCP connections. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Acceptor")
    }
}

/// How a connection began.
pub(super) enum Opened {
    /// With TLS, and a protocol where the client named any.
    Tls(Socket, Option<Protocol>),
    /// With plain HTTP; nothing has been read.
    NoTls(TcpStream),
    /// It ended before it began.
    Nothing,
}

impl Acceptor {
    /// For connections that are shown the certificate in force. The error is the crypto library's.
    pub fn new(certificates: Arc<Certificates>) -> Result<Acceptor, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| error.to_string())?;
        Ok(Acceptor(TlsAcceptor::from(Arc::new(config))))
    }

    /// The handshake.
    pub(super) async fn accept(&self, stream: TcpStream, activity: Arc<Activity>) -> io::Result<Opened> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(Opened::Nothing);
        }
        // Every method and HTTP/2's preface begin with a letter, and no record of TLS does (RFC 8446 §5.1).
        if first[0].is_ascii_alphabetic() {
            return Ok(Opened::NoTls(stream));
        }
        let stream = self.0.accept(Noted::new(stream, activity)).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Some(Protocol::Http2),
            Some(_) => Some(Protocol::Http1),
            None => None,
        };
        Ok(Opened::Tls(Socket::Tls(Box::new(stream)), protocol))
    }
}

/// What is answered without TLS.
pub(super) fn refusal() -> String {
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{NO_TLS}",
        NO_TLS.len()
    )
}
