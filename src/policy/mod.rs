//! What the operator says: routes, keys, subjects, lifetimes, tags. Pure values and functions, built by
//! `config` from `proxy.toml`; nothing here reads a file, an environment variable or a clock.

pub mod body;
mod cookies;
mod digest;
mod graphql;
pub mod json;
mod jwt;
pub mod key;
pub mod lifetime;
pub mod path;
pub mod query;
pub mod route;
pub mod search;
pub mod subject;
pub mod tags;

use std::sync::Arc;

/// One whole, validated policy. Swapped whole on reload.
#[derive(Debug)]
pub struct Policy {
    /// Routes in the order in which they are tried.
    pub routes: route::RouteTable,
    /// Which tags entries get and which tags mutations purge.
    pub tags: tags::TagPlan,
    /// What happens to a safe request that no route matches.
    pub unlisted: Unlisted,
    /// The stand-in route under which unlisted traffic is cached with `Unlisted::Rfc`.
    pub rfc_route: Arc<route::Route>,
}

/// Traffic without a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unlisted {
    /// Streamed through untouched (default).
    #[default]
    Pass,
    /// Cached as RFC 9111 says (`[defaults] cache = "rfc"`).
    Rfc,
}
