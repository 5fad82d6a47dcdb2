//! Weir: a caching reverse proxy for HTTP APIs.
//!
//! Read the modules in this order; imports point only downward through the layers:
//!
//! ```text
//! main → cli → config, server, admin, exchange
//! admin → exchange, store, metrics
//! exchange → store, upstream, coherence, policy, semantics
//! store → coherence, policy, semantics
//! config → policy → semantics → (the http crate's types only)
//! server, upstream, exchange → interim → semantics
//! exchange → coder → semantics
//! server, exchange → places
//! server, upstream → woken, in unit tests
//! ```
//!
//! `semantics`, `policy` and `coherence` are pure: they never name a runtime, a socket, a file, an
//! environment variable or a clock; `now` is always an argument. `redis` and `bb8` appear under
//! `store::redis` alone, clocks in `time` alone. `tests/tidy.rs` guards all of this.

pub mod admin;
pub mod body;
pub mod cli;
pub mod coder;
pub mod coherence;
pub mod config;
pub mod exchange;
pub mod interim;
pub mod metrics;
mod places;
pub mod policy;
pub mod semantics;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod time;
pub mod upstream;
#[cfg(test)]
mod woken;
