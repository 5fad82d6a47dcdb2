//! The network layer alone: listener → a handler that passes everything → upstream pool, between raw TCP peers.

#![allow(missing_docs)]

mod bodies;
mod limits;
mod reuse;
mod support;
mod upgrades;
