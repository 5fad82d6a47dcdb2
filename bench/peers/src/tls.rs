//! A certificate for the run, and rustls on both sides of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bench_rig::{Outcome, during};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate for 127.0.0.1 that signs itself, and its key.
#[derive(Debug, Clone)]
pub struct Pair {
    /// PEM file of the certificate.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of both, for those that want one file.
    pub both: PathBuf,
}

/// Has `openssl` make a pair in `dir`: an elliptic curve key, as is usual today.
pub fn pair(dir: &Path) -> Outcome<Pair> {
    let pair = Pair {
        certificate: dir.join("certificate.pem"),
        key: dir.join("key.pem"),
        both: dir.join("certificate-and-key.pem"),
    };
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "30", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&pair.key)
        .arg("-out")
        .arg(&pair.certificate)
        .output()
        .map_err(during("openssl"))?;
    if !done.status.success() {
        return Err(format!("openssl: {}", String::from_utf8_lossy(&done.stderr)));
    }
    let read = |path: &Path| std::fs::read_to_string(path).map_err(during("what openssl wrote"));
    let both = read(&pair.certificate)? + &read(&pair.key)?;
    std::fs::write(&pair.both, both).map_err(during("a certificate"))?;
    // Peers that run as users of their own read them; they are worth nothing.
    use std::os::unix::fs::PermissionsExt as _;
    for path in [&pair.key, &pair.both] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
            .map_err(during("a certificate"))?;
    }
    Ok(pair)
}

/// What a server needs that shows this certificate and speaks this one protocol.
pub fn server(certificate: &Path, key: &Path, protocol: &[u8]) -> Outcome<Arc<ServerConfig>> {
    let chain = vec![CertificateDer::from_pem_file(certificate).map_err(during("a certificate"))?];
    let key = PrivateKeyDer::from_pem_file(key).map_err(during("a key"))?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(during("TLS"))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(during("TLS"))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// What a client needs that trusts this certificate alone and speaks this one protocol.
pub fn client(certificate: &Path, protocol: &[u8]) -> Outcome<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(certificate).map_err(during("a certificate"))?;
    roots.add(certificate).map_err(during("a certificate"))?;
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder.map_err(during("TLS"))?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
