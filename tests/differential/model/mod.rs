//! The naive model: what a shared cache may do, read off the RFCs one sentence at a time.
//!
//! It shares no code with `weir::semantics` and none of its types: messages are lists of strings, moments and spans are
//! nanoseconds in an `i128`, nothing is computed ahead, nothing is fast. Where an RFC leaves a choice, the comment says
//! "Weir:" and gives the choice in the words of Weir's documentation.

#![allow(clippy::collapsible_if, reason = "one sentence of the text, one condition")]

pub mod cache_control;
pub mod dates;
pub mod freshness;
pub mod message;
pub mod ranges;
pub mod reuse;
pub mod storing;
pub mod structured;
pub mod validation;
pub mod vary;

use message::Fields;

/// Nanoseconds since 1970, or between two moments.
pub type Nanos = i128;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;

/// One millisecond.
pub const MILLISECOND: Nanos = 1_000_000;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub fields: Fields,
}

/// A response as it came from the backend.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
}

/// Whose word counts (`origin`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Stricter,
    Ignore,
    Honour,
}

/// What the operator says about the route.
#[derive(Debug, Clone)]
pub struct Operator {
    pub ttl: Option<Nanos>,
    pub negative_ttl: Option<Nanos>,
    pub stale_while_revalidate: Option<Nanos>,
    pub stale_if_error: Option<Nanos>,
    pub keep: Nanos,
    pub origin: Origin,
    pub per_subject: bool,
    pub public: bool,
    pub store_set_cookie: bool,
    pub store_errors: bool,
    pub client_refresh: bool,
    /// The backend is asked for uncoded content.
    pub asks_uncoded: bool,
    pub target_list: Vec<String>,
    /// Request fields that select whatever the backend says (`vary` of the route).
    pub vary: Vec<String>,
}

/// The windows of a stored response's life, as docs/architecture and the head of `stored.rs` draw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    pub fresh: Nanos,
    pub stale_while_revalidate: Nanos,
    pub stale_if_error: Nanos,
    pub keep: Nanos,
    pub always_validate: bool,
    pub must_revalidate: bool,
}

/// A stored response.
#[derive(Debug, Clone)]
pub struct Stored {
    pub status: u16,
    pub fields: Fields,
    pub body: Vec<u8>,
    pub response_time: Nanos,
    pub initial_age: Nanos,
    pub windows: Windows,
    /// The names its `Vary` nominated.
    pub nominated: Vec<String>,
    /// The fields of the request that brought it.
    pub original: Fields,
}
