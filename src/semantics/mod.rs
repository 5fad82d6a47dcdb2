//! What the HTTP standards say about caching: RFC 9111, 9110, 5861, 9211. Pure functions over the
//! `http` crate's types; time is always an argument.

pub mod block;
pub mod cache_control;
pub mod cache_status;
pub mod coding;
pub mod fields;
pub mod freshness;
pub mod head;
mod lists;
pub mod ranges;
pub mod reuse;
pub mod search;
pub mod stored;
pub mod storing;
pub mod timestamp;
pub mod validation;
pub mod vary;

use http::{HeaderMap, HeaderName, HeaderValue};

/// A field's value where it has exactly one line.
fn sole<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).into_iter();
    lines.next().filter(|_| lines.next().is_none())
}
