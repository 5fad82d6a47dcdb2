//! Path templates (`/transactions/{id}`, `/reports/**`) and the paths they may safely be matched against.

use std::sync::Arc;

/// Captured path parameters, in template order, percent-decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathParams(pub Vec<(Arc<str>, String)>);

impl PathParams {
    /// The value captured under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, v)| v.as_str())
    }
}

/// A compiled template: literal segments, `{name}` (one whole segment), `*` (one whole segment, unnamed),
/// and `**` or `{name**}`-free tail `/**` (the rest, zero or more segments; only last).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    /// As the operator typed it.
    pub text: Arc<str>,
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Must equal this (decoded) text.
    Literal(Arc<str>),
    /// Any one non-empty segment, captured.
    Param(Arc<str>),
    /// Any one non-empty segment.
    Any,
    /// Everything that follows, also nothing. Last only.
    Rest,
}

impl PathTemplate {
    /// Compiles; the error says what is wrong and what is allowed.
    pub fn parse(_text: &str) -> Result<PathTemplate, String> {
        unimplemented!()
    }
    /// Matches a whole path (as received, still encoded).
    pub fn matches(&self, _path: &str) -> Option<PathParams> {
        unimplemented!()
    }
}

/// Why a path cannot be a cache identity (DESIGN §3): caches and backends disagree about such paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnsafePath {
    /// `%2F` or `%5C`, or a backslash.
    EncodedSlash,
    /// `.` or `..` segments, encoded or not.
    DotSegment,
    /// `%00`.
    Nul,
    /// `;` parameters.
    Semicolon,
    /// A `%` that is not followed by two hex digits, or bytes outside a path.
    BadEncoding,
}

/// The normal form of a path (RFC 3986 §6.2.2: upper-case hex, unreserved characters decoded), or why it has none.
pub fn normalise(_path: &str) -> Result<String, UnsafePath> {
    unimplemented!()
}
