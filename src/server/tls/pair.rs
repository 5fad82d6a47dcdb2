//! A certificate chain with its key, as two PEM files hold them. Every error names the file, or both.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::InconsistentKeys;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::leaf::Leaf;

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: the certificate, and after it those that lead to an authority.
    pub certificate: PathBuf,
    /// PEM: its key (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key: PathBuf,
}

/// A certificate chain whose key is known.
#[derive(Debug)]
pub struct Pair {
    pub(super) certified: Arc<CertifiedKey>,
    /// What the certificate says; `None` where it could not be read.
    pub leaf: Option<Leaf>,
}

/// Why files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PairError {
    /// The certificate's file alone.
    Certificate(PathBuf, String),
    /// The key's file alone.
    Key(PathBuf, String),
    /// Both are sound, and are strangers to each other.
    Mismatch(TlsFiles),
}

impl fmt::Display for PairError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PairError::Certificate(path, why) | PairError::Key(path, why) => {
                write!(f, "the file `{}` {why}", path.display())
            }
            PairError::Mismatch(TlsFiles { certificate, key }) => write!(
                f,
                "the key in `{}` does not belong to the certificate in `{}`",
                key.display(),
                certificate.display()
            ),
        }
    }
}

impl std::error::Error for PairError {}

/// What the two files hold, read at one moment.
pub(super) struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Texts {
    pub(super) fn read(files: &TlsFiles) -> Result<Texts, PairError> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("cannot be read: {error}"));
        Ok(Texts {
            certificate: read(&files.certificate)
                .map_err(|why| PairError::Certificate(files.certificate.clone(), why))?,
            key: read(&files.key).map_err(|why| PairError::Key(files.key.clone(), why))?,
        })
    }

    /// Tells one content from another without keeping the key about.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for text in [&self.certificate, &self.key] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text);
        }
        *hasher.finalize().as_bytes()
    }

    pub(super) fn pair(&self, files: &TlsFiles) -> Result<Pair, PairError> {
        let chain =
            chain(&self.certificate).map_err(|why| PairError::Certificate(files.certificate.clone(), why))?;
        let key = key(&self.key).map_err(|why| PairError::Key(files.key.clone(), why))?;
        let leaf = chain.first().and_then(|der| Leaf::read(der));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let signing = provider.key_provider.load_private_key(key).map_err(|error| {
            PairError::Key(files.key.clone(), format!("holds no key that can be used: {error}"))
        })?;
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) => Ok(Pair { certified: Arc::new(certified), leaf }),
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                Err(PairError::Mismatch(files.clone()))
            }
            Err(error) => Err(PairError::Certificate(
                files.certificate.clone(),
                format!("holds a certificate that cannot be used: {error}"),
            )),
        }
    }
}

impl Pair {
    /// Reads both files.
    pub fn read(files: &TlsFiles) -> Result<Pair, PairError> {
        Texts::read(files)?.pair(files)
    }
}

fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|error| format!("is no sound PEM: {error}"))?;
    if chain.is_empty() { Err("holds no PEM certificate".to_owned()) } else { Ok(chain) }
}

fn key(text: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        pem::Error::NoItemsFound if text.windows(ENCRYPTED.len()).any(|w| w == ENCRYPTED) => {
            "holds an encrypted key: Weir has no passphrase for it".to_owned()
        }
        pem::Error::NoItemsFound => "holds no PEM private key".to_owned(),
        error => format!("is no sound PEM: {error}"),
    })
}

/// How an encrypted PKCS #8 key begins (RFC 7468 §11).
const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
