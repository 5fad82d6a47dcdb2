//! Injective hashing: every part goes in with its label, its presence and its length, so that neither moved
//! boundaries nor absent parts can make two different inputs read alike.

/// What most digests are made of fits here, and is hashed in one go: blake3's state is large, and small updates are dear.
const AT_ONCE: usize = 512;

/// A keyed blake3 over labelled parts.
pub(super) struct Digest {
    secret: [u8; 32],
    begun: [u8; AT_ONCE],
    length: usize,
    /// Where the rest goes once `begun` is full; that went in first.
    long: Option<Box<blake3::Hasher>>,
}

impl Digest {
    /// `domain` keeps digests made for different purposes apart.
    pub(super) fn new(secret: &[u8; 32], domain: &str) -> Digest {
        let mut digest = Digest { secret: *secret, begun: [0; AT_ONCE], length: 0, long: None };
        digest.bytes(domain.as_bytes());
        digest
    }

    /// A part that is always there.
    pub(super) fn part(&mut self, label: u8, bytes: &[u8]) -> &mut Digest {
        self.put(&[label, 1]);
        self.bytes(bytes);
        self
    }

    /// A part that is not there.
    pub(super) fn absent(&mut self, label: u8) -> &mut Digest {
        self.put(&[label, 0]);
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
        match &self.long {
            Some(hasher) => *hasher.finalize().as_bytes(),
            None => *blake3::keyed_hash(&self.secret, &self.begun[..self.length]).as_bytes(),
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.put(&(bytes.len() as u64).to_le_bytes());
        self.put(bytes);
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        match (&mut self.long, self.begun.get_mut(self.length..end)) {
            (None, Some(room)) => {
                room.copy_from_slice(bytes);
                self.length = end;
            }
            (Some(hasher), _) => {
                hasher.update(bytes);
            }
            (None, None) => {
                let mut hasher = Box::new(blake3::Hasher::new_keyed(&self.secret));
                hasher.update(&self.begun[..self.length]).update(bytes);
                self.long = Some(hasher);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_digests_are_of_the_same_bytes() {
        let secret = [7; 32];
        for length in [0, 1, AT_ONCE - 40, AT_ONCE - 12, AT_ONCE - 11, AT_ONCE - 10, AT_ONCE, 3 * AT_ONCE] {
            let text = vec![b'x'; length];
            let mut digest = Digest::new(&secret, "d");
            digest.part(1, &text).absent(2).part(3, b"end");
            let mut naive = blake3::Hasher::new_keyed(&secret);
            for (head, bytes) in [(&b""[..], &b"d"[..]), (&[1, 1], &text), (&[2, 0, 3, 1], b"end")] {
                naive.update(head).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
            }
            assert_eq!(digest.finish(), *naive.finalize().as_bytes(), "{length}");
        }
    }
}
