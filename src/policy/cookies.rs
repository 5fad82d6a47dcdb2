//! The cookies of a request (RFC 6265 §4.2), read warily: a piece that servers may split in different ways is
//! unclear, and a route never takes an unclear piece for its own or for an ignored one.

use http::{HeaderMap, HeaderValue, header};

/// One piece between semicolons, without surrounding white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cookie<'a> {
    /// The whole piece.
    pub(super) piece: &'a [u8],
    /// What precedes the first `=`; `None` without one (some servers take it for a name, others for a value).
    pub(super) name: Option<&'a [u8]>,
    /// What follows it.
    pub(super) value: &'a [u8],
}

/// All cookies of all `Cookie` lines (RFC 9113 §8.2.3 allows several), in order; empty pieces are skipped.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = Cookie<'_>> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b';'))
        .map(|piece| piece.trim_ascii())
        .filter(|piece| !piece.is_empty())
        .map(|piece| match piece.iter().position(|b| *b == b'=') {
            Some(at) => {
                Cookie { piece, name: Some(piece[..at].trim_ascii()), value: piece[at + 1..].trim_ascii() }
            }
            None => Cookie { piece, name: None, value: piece },
        })
}

impl Cookie<'_> {
    /// An open quote: servers of the older school (RFC 2109) read on to the next one, across semicolons.
    pub(super) fn is_unclear(&self) -> bool {
        self.piece.iter().filter(|b| **b == b'"').count() % 2 == 1
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        self.name == Some(name.as_bytes())
    }
}

/// Rewrites `Cookie` as one line of those that `keep` wants; no line if none is left.
pub(super) fn retain(headers: &mut HeaderMap, keep: impl Fn(&Cookie<'_>) -> bool) {
    if cookies(headers).all(|cookie| keep(&cookie)) {
        return;
    }
    let line = cookies(headers).filter(keep).map(|c| c.piece).collect::<Vec<_>>().join(&b"; "[..]);
    headers.remove(header::COOKIE);
    // The pieces come from valid lines, so the new one is valid too.
    if !line.is_empty()
        && let Ok(line) = HeaderValue::from_bytes(&line)
    {
        headers.insert(header::COOKIE, line);
    }
}
