//! The certificate in force, and its renewal while Weir serves.
//!
//! The files are read every ten seconds, and at once after [`Certificates::look`] (SIGHUP): what renews certificates
//! changes files, replaces them, or turns a symbolic link, with or without a word to anybody, so their content is what
//! counts. New handshakes get the new certificate; connections that are open keep what they have.
//!
//! Invariant: what is in force has been a sound pair. Files that are not (one of them is written before the other)
//! change nothing; where they stay so, it is said once, and shown until it is over.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::leaf::Leaf;
use super::pair::{Pair, PairError, Texts, TlsFiles};
use crate::time::Clock;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(10);

/// How long files that do not fit may be in the middle of being written.
const SETTLE: Duration = Duration::from_secs(1);

/// The certificate that handshakes get.
pub struct Certificates {
    files: TlsFiles,
    in_force: ArcSwap<Pair>,
    /// Why the files' content is not in force.
    failure: Mutex<Option<PairError>>,
    wake: Notify,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What handshakes get now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// What the certificate says; `None` where it could not be read.
    pub leaf: Option<Leaf>,
    /// Why what is in the files now is not in force.
    pub failure: Option<String>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.in_force.load().certified.clone())
    }
}

impl Certificates {
    /// Reads the files, and goes on doing so until `shutdown`. Needs a running tokio runtime.
    pub fn open(
        files: TlsFiles,
        clock: Clock,
        shutdown: CancellationToken,
    ) -> Result<Arc<Certificates>, PairError> {
        let texts = Texts::read(&files)?;
        let certificates = Arc::new(Certificates {
            in_force: ArcSwap::from_pointee(texts.pair(&files)?),
            files,
            failure: Mutex::new(None),
            wake: Notify::new(),
        });
        let (known, watching) = (texts.digest(), certificates.clone());
        tokio::spawn(async move { shutdown.run_until_cancelled(watching.watch(known, clock)).await });
        Ok(certificates)
    }

    /// Looks at the files now.
    pub fn look(&self) {
        self.wake.notify_one();
    }

    /// What handshakes get, and whether the files say something else.
    pub fn in_force(&self) -> InForce {
        let failure = self.failure.lock().as_ref().map(PairError::to_string);
        InForce { leaf: self.in_force.load().leaf.clone(), failure }
    }

    async fn watch(&self, mut known: [u8; 32], clock: Clock) {
        loop {
            let asked = timeout(EVERY, self.wake.notified()).await.is_ok();
            let found = match self.changed(&known).await {
                // Both files are not written at the same moment.
                Some(Err(_)) => {
                    sleep(SETTLE).await;
                    self.changed(&known).await
                }
                found => found,
            };
            match found {
                None => {
                    if self.failure.lock().take().is_some() || asked {
                        tracing::info!("the certificate in force is the one in its file");
                    }
                }
                Some(Ok((digest, pair))) => {
                    known = digest;
                    self.renew(pair, &clock);
                }
                Some(Err(error)) => self.keep(error),
            }
        }
    }

    /// What the files hold that is not in force.
    async fn changed(&self, known: &[u8; 32]) -> Option<Result<([u8; 32], Pair), PairError>> {
        let files = self.files.clone();
        // Only a runtime that ends drops the task.
        let read = tokio::task::spawn_blocking(move || Texts::read(&files)).await.ok()?;
        let texts = match read {
            Ok(texts) => texts,
            Err(error) => return Some(Err(error)),
        };
        let digest = texts.digest();
        (digest != *known).then(|| texts.pair(&self.files).map(|pair| (digest, pair)))
    }

    fn renew(&self, pair: Pair, clock: &Clock) {
        let shown = pair.leaf.as_ref().map_or_else(|| "unknown".to_owned(), Leaf::to_string);
        if pair.leaf.as_ref().is_some_and(|leaf| leaf.is_over(clock.now().0)) {
            tracing::warn!(certificate = shown, "the certificate has changed, and the new one has expired");
        } else {
            tracing::info!(certificate = shown, "the certificate has been renewed");
        }
        self.in_force.store(Arc::new(pair));
        *self.failure.lock() = None;
    }

    fn keep(&self, error: PairError) {
        let mut failure = self.failure.lock();
        if failure.as_ref() != Some(&error) {
            tracing::warn!(%error, "the new certificate cannot be used; the old one stays in force");
            *failure = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// Two files in a directory.
    struct Disk {
        dir: TempDir,
        files: TlsFiles,
    }

    impl Disk {
        fn new() -> Disk {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            let files = TlsFiles { certificate: at("chain.pem"), key: at("key.pem") };
            let disk = Disk { dir, files };
            disk.issue("first.example");
            disk
        }

        fn issue(&self, name: &str) {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            std::fs::write(&self.files.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(&self.files.key, key.serialize_pem()).unwrap();
        }

        async fn opened(&self) -> Arc<Certificates> {
            Certificates::open(self.files.clone(), Clock::system(), CancellationToken::new()).unwrap()
        }
    }

    fn name(certificates: &Certificates) -> String {
        certificates.in_force().leaf.unwrap().names.concat()
    }

    /// Lets at most so many seconds pass until it holds. The files are read by another thread, which time waits for.
    async fn within(seconds: u64, mut condition: impl FnMut() -> bool) -> bool {
        for _ in 0..seconds * 10 {
            if condition() {
                return true;
            }
            timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
        }
        condition()
    }

    #[tokio::test(start_paused = true)]
    async fn new_files_are_found_without_a_word() {
        let disk = Disk::new();
        let certificates = disk.opened().await;
        assert_eq!(name(&certificates), "first.example");
        disk.issue("second.example");
        assert!(within(11, || name(&certificates) == "second.example").await);
        // As cert-manager does it: what is there turns into something else.
        let other = Disk::new();
        other.issue("third.example");
        for (from, to) in
            [(&other.files.certificate, &disk.files.certificate), (&other.files.key, &disk.files.key)]
        {
            std::fs::remove_file(to).unwrap();
            std::os::unix::fs::symlink(from, to).unwrap();
        }
        assert!(within(11, || name(&certificates) == "third.example").await);
        assert_eq!(certificates.in_force().failure, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_used_changes_nothing_and_is_forgotten_when_it_is_gone() {
        let disk = Disk::new();
        let certificates = disk.opened().await;
        let sound = std::fs::read(&disk.files.key).unwrap();
        let failed = || certificates.in_force().failure.is_some();
        std::fs::write(&disk.files.key, "half a ke").unwrap();
        assert!(within(12, failed).await && name(&certificates) == "first.example");
        std::fs::remove_file(&disk.files.key).unwrap();
        let gone = || certificates.in_force().failure.is_some_and(|why| why.contains("cannot be read"));
        assert!(within(12, gone).await && name(&certificates) == "first.example");
        std::fs::write(&disk.files.key, sound).unwrap();
        assert!(within(12, || !failed()).await && name(&certificates) == "first.example");
        assert!(disk.dir.path().exists());
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_are_being_written_have_a_moment() {
        let disk = Disk::new();
        let certificates = disk.opened().await;
        let old = std::fs::read(&disk.files.key).unwrap();
        disk.issue("second.example");
        let new = std::fs::read(&disk.files.key).unwrap();
        std::fs::write(&disk.files.key, &old).unwrap();
        certificates.look();
        // The certificate is there, and its key comes within the second.
        timeout(SETTLE / 2, std::future::pending::<()>()).await.unwrap_err();
        std::fs::write(&disk.files.key, &new).unwrap();
        let failed = || certificates.in_force().failure.is_some();
        assert!(within(2, || failed() || name(&certificates) == "second.example").await);
        assert!(!failed());
    }
}
