//! Ranges sliced from whole stored responses (RFC 9110 §14).

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::stored::StoredResponse;

/// How to answer a request, as far as `Range` and `If-Range` go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// No (usable) range: the whole content, 200.
    Whole,
    /// One range: 206 with `Content-Range`.
    Single {
        /// The bytes.
        body: Bytes,
        /// Value of `Content-Range`.
        content_range: String,
    },
    /// Several ranges: 206 as `multipart/byteranges`.
    Multiple {
        /// The multipart content.
        body: Bytes,
        /// Value of `Content-Type`, with the boundary.
        content_type: String,
    },
    /// 416 with this `Content-Range`.
    Unsatisfiable {
        /// `bytes */length`.
        content_range: String,
    },
}

/// Evaluates `Range` (and `If-Range`) of a GET against a stored 200. HEAD and other statuses are `Whole`.
pub fn slice(_method: &Method, _request: &HeaderMap, _stored: &StoredResponse) -> Slice {
    unimplemented!()
}
