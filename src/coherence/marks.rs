//! The newest sequence that purged each tag: a fixed array of atomics indexed by tag hash.

use std::sync::atomic::AtomicU64;

/// 2^20 slots by default (8 MiB). A collision costs a needless miss, never a stale hit.
#[derive(Debug)]
pub struct Marks {
    #[allow(dead_code)]
    slots: Box<[AtomicU64]>,
}
