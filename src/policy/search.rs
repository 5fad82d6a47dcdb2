//! Whether the backend's `No-Vary-Search` may be followed on a route.
//!
//! Not where it drops a parameter that the operator's own words name. Tags above all: two sessions that shared an entry
//! would be purged by the tag of the one that filled it, and not by the other's.

use std::fmt;
use std::sync::Arc;

use super::route::Route;
use super::tags::{Part, Source};
use crate::semantics::search::Variance;

/// Why a rule is not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// This tag's value is taken from the dropped parameter.
    Tag(Arc<str>),
    /// The parameter is one of the route's `sets`.
    Set(String),
    /// It is one of those that alone count (`only`).
    Only(String),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::Tag(tag) => write!(f, "the tag `{tag}` depends on a parameter that it drops"),
            Conflict::Set(name) => write!(f, "it drops `{name}`, which is in the route's `sets`"),
            Conflict::Only(name) => write!(f, "it drops what the route's `only` says with `{name}`"),
        }
    }
}

/// What of a route speaks against a rule.
pub fn conflict(route: &Route, rule: &Variance) -> Option<Conflict> {
    let by_dropped = |part: &Part| matches!(part, Part::Value(Source::Query(name)) if rule.drops(name));
    if let Some(tag) = route.tags.iter().find(|tag| tag.parts.iter().any(by_dropped)) {
        return Some(Conflict::Tag(Arc::clone(&tag.text)));
    }
    if let Some(name) = route.query.sets.iter().find(|name| rule.drops(name)) {
        return Some(Conflict::Set(name.clone()));
    }
    let dropped = |pattern: &&String| match pattern.strip_suffix('*') {
        Some(prefix) => rule.drops_some(prefix),
        None => rule.drops(pattern),
    };
    route.query.only.iter().flatten().find(dropped).cloned().map(Conflict::Only)
}

#[cfg(test)]
mod tests;
