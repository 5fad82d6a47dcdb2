//! Injective hashing: every part goes in with its label, its presence and its length, so that neither moved
//! boundaries nor absent parts can make two different inputs read alike.

/// A keyed blake3 over labelled parts.
pub(super) struct Digest(blake3::Hasher);

impl Digest {
    /// `domain` keeps digests made for different purposes apart.
    pub(super) fn new(secret: &[u8; 32], domain: &str) -> Digest {
        let mut digest = Digest(blake3::Hasher::new_keyed(secret));
        digest.bytes(domain.as_bytes());
        digest
    }

    /// A part that is always there.
    pub(super) fn part(&mut self, label: u8, bytes: &[u8]) -> &mut Digest {
        self.0.update(&[label, 1]);
        self.bytes(bytes);
        self
    }

    /// A part that is not there.
    pub(super) fn absent(&mut self, label: u8) -> &mut Digest {
        self.0.update(&[label, 0]);
        self
    }

    /// A part that may be there.
    pub(super) fn maybe(&mut self, label: u8, bytes: Option<&[u8]>) -> &mut Digest {
        match bytes {
            Some(bytes) => self.part(label, bytes),
            None => self.absent(label),
        }
    }

    /// How many parts follow.
    pub(super) fn count(&mut self, label: u8, count: usize) -> &mut Digest {
        self.part(label, &(count as u64).to_le_bytes())
    }

    pub(super) fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}
