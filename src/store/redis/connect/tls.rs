//! Certificates and keys for `rediss://`: read from their files whenever a connection is made, so that renewed ones
//! come into force by themselves.

use std::path::{Path, PathBuf};

use redis::{ClientTlsConfig, ErrorKind, RedisError, RedisResult, TlsCertificates};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The files.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The authority that signed Redis' certificate; `None` = the system's authorities.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key, for servers that ask for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// What they hold now. Errors name the file.
    pub async fn read(&self) -> RedisResult<TlsCertificates> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error means that somebody else has just installed one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        let root_cert = match &self.ca {
            Some(path) => Some(read(path, check_certificates).await?),
            None => None,
        };
        let client_tls = match &self.own {
            Some((cert, key)) => Some(ClientTlsConfig {
                client_cert: read(cert, check_certificates).await?,
                client_key: read(key, check_key).await?,
            }),
            None => None,
        };
        Ok(TlsCertificates { client_tls, root_cert })
    }
}

async fn read(path: &Path, check: fn(&[u8]) -> Result<(), String>) -> RedisResult<Vec<u8>> {
    let refuse = |why: String| {
        let detail = format!("{}: {why}", path.display());
        RedisError::from((ErrorKind::InvalidClientConfig, "a file for TLS is of no use", detail))
    };
    let pem = tokio::fs::read(path).await.map_err(|e| refuse(e.to_string()))?;
    check(&pem).map_err(refuse)?;
    Ok(pem)
}

/// Whether these are certificates in PEM; else what is wrong, in words that go after the file's name.
pub fn check_certificates(pem: &[u8]) -> Result<(), String> {
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        certificate.map_err(|e| format!("its PEM cannot be read: {e}"))?;
        found += 1;
    }
    if found == 0 { Err("it holds no PEM certificate".to_owned()) } else { Ok(()) }
}

/// Whether this is a private key in PEM; else what is wrong.
pub fn check_key(pem: &[u8]) -> Result<(), String> {
    PrivateKeyDer::from_pem_slice(pem).map(drop).map_err(|_| "it holds no PEM private key".to_owned())
}

/// Whether a key belongs to a certificate; both have been found sound.
pub fn check_pair(certificates: &[u8], key: &[u8]) -> Result<(), String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates).filter_map(Result::ok).collect();
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| e.to_string())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err("the key is not the certificate's".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
