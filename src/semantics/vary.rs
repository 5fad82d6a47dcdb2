//! `Vary` and the selecting request fields (RFC 9111 §4.1, RFC 9110 §12.5.5).

use http::{HeaderMap, HeaderName, HeaderValue};

/// The nominated request fields with their values, normalised, sorted by name.
/// `None` = the field was absent. Equal `Selecting`s choose the same variant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selecting(pub Vec<(HeaderName, Option<HeaderValue>)>);

/// What a response's `Vary` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// No `Vary`: every request selects this response.
    None,
    /// These request fields select (sorted, no repeats).
    Fields(Vec<HeaderName>),
    /// `*`, or unparseable: never reused.
    Any,
}

impl Vary {
    /// Reads every `Vary` line of a response and adds `extra` (the route's own list).
    pub fn of(_response: &HeaderMap, _extra: &[HeaderName]) -> Vary {
        unimplemented!()
    }
}

impl Selecting {
    /// The values that `request` gives for `fields`.
    pub fn from_request(_fields: &[HeaderName], _request: &HeaderMap) -> Selecting {
        unimplemented!()
    }
    /// Whether `request` would have selected the same variant.
    pub fn matches(&self, _request: &HeaderMap) -> bool {
        unimplemented!()
    }
}
