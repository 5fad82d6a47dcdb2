//! `https://` upstreams: an authority of one's own, names that do not match, strangers.
//!
//! `tls/` holds a certificate for `localhost` and 127.0.0.1 with its key, and the authority it was signed by, whose
//! key no longer exists. They are good for nothing but this.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Request;
use http_body_util::BodyExt;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use weir::body::Body;
use weir::upstream::{Upstream, UpstreamError};

use crate::support::{Setup, within};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/net/tls").join(name)
}

/// Answers one request per connection with the protocol and the name that the client asked for.
async fn origin() -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = CertificateDer::pem_file_iter(file("leaf.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(file("leaf.key")).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let (_, session) = stream.get_ref();
                let protocol =
                    String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"none")).into_owned();
                let text = format!("{protocol} {}", session.server_name().unwrap_or("none"));
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = stream.read_u8().await;
            });
        }
    });
    addr
}

async fn fetch(url: &str, ca: Option<&str>) -> Result<String, UpstreamError> {
    let mut config = Setup::to(([127, 0, 0, 1], 1).into()).upstream;
    config.origin = url.parse().unwrap();
    config.ca_file = ca.map(file);
    let upstream = Upstream::new(config).expect("the settings are good");
    let response = upstream.send(Request::get("/").body(Body::Empty).unwrap(), None).await?;
    let content = response.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(content.to_vec()).unwrap())
}

#[tokio::test]
async fn an_authority_of_ones_own() {
    within(async {
        let port = origin().await.port();
        let text = fetch(&format!("https://localhost:{port}"), Some("ca.pem")).await.unwrap();
        assert_eq!(text, "http/1.1 localhost");
        // An address is no server name.
        let text = fetch(&format!("https://127.0.0.1:{port}"), Some("ca.pem")).await.unwrap();
        assert_eq!(text, "http/1.1 none");
    })
    .await;
}

#[tokio::test]
async fn strangers_and_wrong_names_are_not_spoken_to() {
    within(async {
        let port = origin().await.port();
        // The certificate itself is no authority, and the right authority does not vouch for other names.
        for (url, ca) in [
            (format!("https://localhost:{port}"), "leaf.pem"),
            (format!("https://127.0.0.2:{port}"), "ca.pem"),
        ] {
            let error = fetch(&url, Some(ca)).await.unwrap_err();
            assert!(error.never_sent(), "{url}: {error}");
            assert!(matches!(error, UpstreamError::Connect(_)), "{url}: {error}");
        }
    })
    .await;
}
