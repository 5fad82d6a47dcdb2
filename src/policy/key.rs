//! Cache keys: a keyed blake3 over length-prefixed parts (DESIGN §3). No two different requests share one.

use super::subject::Subject;

/// 256 bits that identify a stored response's primary key or variant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CacheKey(pub [u8; 32]);

/// What identifies a request, already normalised.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'a> {
    /// Namespace of the installation.
    pub namespace: &'a str,
    /// Route name.
    pub route: &'a str,
    /// `scheme://host`, or `None` for `host = "any"`.
    pub origin: Option<(&'a str, &'a str)>,
    /// Normalised path.
    pub path: &'a str,
    /// Normalised query.
    pub query: &'a str,
    /// Whose answer.
    pub subject: &'a Subject,
    /// Method and content (type and bytes) of a keyed body.
    pub body: Option<(&'a str, &'a [u8], &'a [u8])>,
}

impl CacheKey {
    /// The key of `parts` under the namespace's secret.
    pub fn compute(_secret: &[u8; 32], _parts: &KeyParts<'_>) -> CacheKey {
        unimplemented!()
    }
    /// The key of one variant of this primary key.
    pub fn variant(&self, _selecting: &crate::semantics::vary::Selecting) -> CacheKey {
        unimplemented!()
    }
    /// 64 hex digits.
    pub fn hex(&self) -> String {
        unimplemented!()
    }
}

impl std::fmt::Debug for CacheKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CacheKey({:02x}{:02x}{:02x}{:02x}…)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}
