//! Making one connection: name → addresses → TCP → TLS → HTTP/1.1, all within one budget.
//!
//! Addresses are tried in turn, each with a fair share of what is left of the budget, so that one that
//! swallows packets does not eat the others' time. The process's own crypto provider is named explicitly:
//! two providers in one binary would otherwise fail at run time. There is no HTTP/2 to the upstream.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::driver::Driver;
use super::request_body::Outgoing;
use super::stream::{Hypers, Io, Stream};
use super::{UpstreamConfig, UpstreamError};

/// hyper's handle of a connection, what drives it, and its stream.
pub(super) type Opened = (SendRequest<Outgoing>, Driver, Weak<Mutex<Stream>>);

/// Knows where the upstream is and how to speak to it.
pub(super) struct Connector {
    /// Without brackets, as the resolver wants it.
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    budget: Duration,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("tls", &self.tls.is_some())
            .field("budget", &self.budget)
            .finish()
    }
}

impl Connector {
    /// Reads the CA file, if one is named; touches no network.
    pub(super) fn new(config: &UpstreamConfig) -> Result<Connector, String> {
        let origin = &config.origin;
        let https = match origin.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("upstream {origin}: the scheme must be http or https")),
        };
        let host = origin.host().filter(|h| !h.is_empty());
        let host = host.ok_or_else(|| format!("upstream {origin}: there is no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = origin.port_u16().unwrap_or(if https { 443 } else { 80 });
        let tls = if https {
            let name = ServerName::try_from(host.clone())
                .map_err(|_| format!("upstream {origin}: {host} is not a name a certificate can have"))?;
            Some((TlsConnector::from(Arc::new(tls_config(config.ca_file.as_deref())?)), name))
        } else {
            None
        };
        Ok(Connector { host, port, tls, budget: config.connect_timeout })
    }

    /// One connection, ready for its first request, and what drives it.
    pub(super) async fn connect(&self) -> Result<Opened, UpstreamError> {
        match timeout(self.budget, self.attempt(Instant::now() + self.budget)).await {
            Ok(done) => done,
            Err(_) => Err(UpstreamError::ConnectTimeout(self.budget)),
        }
    }

    async fn attempt(&self, until: Instant) -> Result<Opened, UpstreamError> {
        let stream = self.tcp(until).await?;
        match &self.tls {
            None => handshake(stream).await,
            Some((connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(|e| UpstreamError::Connect(format!("TLS with {}: {e}", self.host)))?;
                handshake(stream).await
            }
        }
    }

    async fn tcp(&self, until: Instant) -> Result<TcpStream, UpstreamError> {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .map_err(|e| UpstreamError::Connect(format!("{}: {e}", self.host)))?
            .collect();
        let mut failure = UpstreamError::Connect(format!("{} has no address", self.host));
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
            let share = until.saturating_duration_since(Instant::now()) / left;
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Without it small writes wait for the peer's delayed acknowledgement.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "TCP_NODELAY was refused");
                    }
                    return Ok(stream);
                }
                Ok(Err(error)) => failure = UpstreamError::Connect(format!("{address}: {error}")),
                Err(_) => failure = UpstreamError::ConnectTimeout(self.budget),
            }
        }
        Err(failure)
    }
}

/// Starts HTTP on a stream.
pub(super) async fn handshake(stream: impl Io + 'static) -> Result<Opened, UpstreamError> {
    let stream = Stream::new(stream);
    let shared = Arc::downgrade(&stream);
    let (sender, connection) = http1::Builder::new()
        .handshake(TokioIo::new(Hypers(stream)))
        .await
        .map_err(|e| UpstreamError::Connect(e.to_string()))?;
    let mut driver = Driver::new(Box::pin(async move {
        // Whoever has an exchange on it hears of the failure there; this is for the idle ones.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an upstream connection ended");
        }
    }));
    // From now on hyper waits for a request, however many it never hears of.
    driver.settle();
    Ok((sender, driver, shared))
}

/// The system's authorities, and those of `ca_file` besides.
fn tls_config(ca_file: Option<&std::path::Path>) -> Result<ClientConfig, String> {
    let mut extra = Vec::new();
    if let Some(path) = ca_file {
        let problem = |e: &dyn std::fmt::Display| format!("ca_file {}: {e}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| problem(&e))? {
            extra.push(certificate.map_err(|e| problem(&e))?);
        }
        if extra.is_empty() {
            return Err(problem(&"there is no certificate in it"));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Verifier::new_with_extra_roots(extra, provider.clone()).map_err(|e| e.to_string())?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous() // the name of rustls' door for verifiers of one's own; the platform's is a full one
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
