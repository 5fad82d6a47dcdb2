//! One GET of a small document over `http` or `https`, on a connection of its own.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

/// Fetches one URL again and again.
pub(super) struct Fetcher {
    url: Uri,
    /// Made when first needed: it reads the system's certificate store.
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Fetcher {
    pub(super) fn new(url: Uri) -> Fetcher {
        Fetcher { url, tls: OnceLock::new() }
    }

    /// The document, at most `limit` bytes. Only 200 is an answer; redirects are not followed. There is no timeout
    /// here: drop the future, and the connection goes with it.
    pub(super) async fn fetch(&self, limit: usize) -> Result<Vec<u8>, String> {
        let host = self.url.host().filter(|h| !h.is_empty()).ok_or("the URL has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let https = match self.url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err("the URL must begin with http:// or https://".to_owned()),
        };
        let port = self.url.port_u16().unwrap_or(if https { 443 } else { 80 });
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|e| format!("cannot connect to {host}:{port}: {e}"))?;
        if !https {
            return self.exchange(stream, limit).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|e| format!("{host}: {e}"))?;
        let stream = TlsConnector::from(self.tls_config()?)
            .connect(name, stream)
            .await
            .map_err(|e| format!("TLS with {host}:{port}: {e}"))?;
        self.exchange(stream, limit).await
    }

    async fn exchange<S>(&self, stream: S, limit: usize) -> Result<Vec<u8>, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("handshake: {e}"))?;
        // Its failures reach us through the exchange below.
        let _driver = AbortOnDropHandle::new(tokio::spawn(async move { connection.await.is_ok() }));
        let response = sender.send_request(self.request()?).await.map_err(|e| format!("request: {e}"))?;
        if response.status() != StatusCode::OK {
            return Err(format!(
                "answered {} instead of 200 (redirects are not followed)",
                response.status()
            ));
        }
        let body = Limited::new(response.into_body(), limit).collect().await;
        body.map(|body| body.to_bytes().to_vec())
            .map_err(|e| format!("document (at most {limit} bytes): {e}"))
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        // Credentials in the URL, if any, do not belong into `Host`.
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        Request::get(target)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(header::USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|e| e.to_string())
    }

    /// The system's authorities, with the provider named: two in one binary would otherwise fail at run time.
    fn tls_config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(|e| format!("TLS cannot be set up: {e}"))?
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| Arc::new(config)).clone())
    }
}
