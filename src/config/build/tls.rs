//! `[tls]`: a certificate and its key, read and held against each other before anything is served.

use toml::Spanned;

use super::super::TlsConfig;
use super::super::file::Tls;
use super::Builder;
use crate::server::tls::{Pair, PairError, TlsFiles};
use crate::time::Clock;

const FILES_FORM: &str = "both `certificate` and `key`: names of PEM files";

impl Builder<'_, '_> {
    /// `None` = no TLS, or wrong; then it has been reported.
    pub(super) fn tls(&mut self, given: Option<&Spanned<Tls>>) -> Option<TlsConfig> {
        let given = given?;
        let Tls { certificate, key } = given.get_ref();
        // A table that came from the environment stands nowhere.
        let place = Some(given.span()).filter(|span| !span.is_empty());
        for (name, typed) in [("certificate", certificate), ("key", key)] {
            if typed.is_none() {
                self.missing("tls", place.as_ref(), name, FILES_FORM);
            }
        }
        let (certificate, key) = (certificate.as_ref()?, key.as_ref()?);
        // Each is looked for before both are looked into: what is missing is found in one go.
        let (found, other) = (self.read_file(certificate), self.read_file(key));
        let files = TlsFiles { certificate: found?.0, key: other?.0 };
        match Pair::read(&files) {
            Ok(Pair { leaf, .. }) => {
                if let Some(leaf) = leaf.as_ref().filter(|leaf| leaf.is_over(Clock::system().now().0)) {
                    let message = format!("the certificate in `{}` has expired", files.certificate.display());
                    self.warn(&certificate.span(), message).help(format!("it was good for {leaf}"));
                }
                Some(TlsConfig { files, leaf })
            }
            Err(error) => {
                let span = match &error {
                    PairError::Certificate(..) => certificate.span(),
                    PairError::Key(..) | PairError::Mismatch(_) => key.span(),
                };
                self.error(&span, error.to_string());
                None
            }
        }
    }
}
