//! What the origin and the bare server answer: as many bytes as the path asks for, with the fields of an API's answer.
//!
//! `/o/{bytes}/{key}` may be stored by everybody for an hour. `/u/{bytes}/{key}` is different for every
//! `Authorization` (and says `public`, so that caches which do not tell users apart keep it, too). `/pass/{bytes}/{key}` is
//! never stored, and `/slow/{bytes}/{key}` is `/o` after a delay.

use bytes::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED,
};

/// The largest body.
pub const LARGEST: usize = 1024 * 1024;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// How it may be stored, and when it is answered.
    pub kind: Kind,
    /// Bytes of the body.
    pub size: usize,
}

/// The first segment of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `/o`: everybody's, for an hour.
    Ordinary,
    /// `/u`: one for each `Authorization`.
    User,
    /// `/pass`: never stored.
    Pass,
    /// `/slow`: like `/o`, later.
    Slow,
}

/// Reads a path; `None` for one that is none of ours.
pub fn asked(path: &str) -> Option<Asked> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let kind = match segments.next()? {
        "o" => Kind::Ordinary,
        "u" => Kind::User,
        "pass" => Kind::Pass,
        "slow" => Kind::Slow,
        _ => return None,
    };
    let size = segments.next()?.parse().ok().filter(|size| *size <= LARGEST)?;
    Some(Asked { kind, size })
}

/// A body to cut others from: text, so that nothing is special about it.
pub fn filler() -> Bytes {
    let line = b"{\"id\": 12345, \"name\": \"something with a name\", \"price\": 99.95, \"tags\": [\"a\", \"b\"]},\n";
    Bytes::from(line.iter().copied().cycle().take(LARGEST).collect::<Vec<u8>>())
}

/// The body for one user: who it is for, then filler.
pub fn personal(filler: &Bytes, size: usize, authorization: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(size);
    body.extend_from_slice(b"{\"for\": \"");
    body.extend_from_slice(&authorization[..authorization.len().min(64)]);
    body.extend_from_slice(b"\"}\n");
    body.truncate(size);
    body.extend_from_slice(&filler[..size - body.len()]);
    Bytes::from(body)
}

/// The fields of an answer.
pub fn fields(kind: Kind, size: usize) -> HeaderMap {
    let control = match kind {
        Kind::Pass => "no-store",
        Kind::Ordinary | Kind::User | Kind::Slow => "public, max-age=3600",
    };
    let mut fields = HeaderMap::with_capacity(8);
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static(control));
    fields.insert(ETAG, HeaderValue::from_static("\"5f3c-61a0b7\""));
    fields.insert(LAST_MODIFIED, HeaderValue::from_static("Tue, 05 Aug 2025 10:00:00 GMT"));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(size));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let found = |kind, size| Some(Asked { kind, size });
        assert_eq!(asked("/o/1024/7"), found(Kind::Ordinary, 1024));
        assert_eq!(asked("/u/16384/a/b"), found(Kind::User, 16384));
        assert_eq!(asked("/pass/0"), found(Kind::Pass, 0));
        assert_eq!(asked("/slow/10/x"), found(Kind::Slow, 10));
        for other in ["", "/", "/o", "/o/", "/o/x/1", "/p/1/1", "/o/1048577/1", "o/1/1"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn bodies_have_their_size_and_differ_by_user() {
        let filler = filler();
        for size in [0, 5, 100, 1024] {
            assert_eq!(personal(&filler, size, b"Bearer a").len(), size);
        }
        assert_ne!(personal(&filler, 100, b"Bearer a"), personal(&filler, 100, b"Bearer b"));
    }
}
