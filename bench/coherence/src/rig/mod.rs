//! The processes under test and what stands between them, all on loopback and in one temporary directory.

pub mod forward;
pub mod varnish;
pub mod weir;

pub use bench_rig::{Outcome, START, during, free_port, process, redis, until};
