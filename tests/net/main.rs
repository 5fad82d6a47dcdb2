//! The network layer alone: listener → a handler that passes everything → upstream pool, between raw TCP peers.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failure is a panic")]

mod bodies;
mod interim;
mod limits;
mod reuse;
#[path = "../support/mod.rs"]
mod rig;
mod smuggling;
mod stress;
mod support;
mod tls;
mod upgrades;
