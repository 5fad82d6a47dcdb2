//! One instance's view of the purge log, and the liveness test that guards every reuse.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;

use super::event::Event;
use super::marks::Marks;
use crate::policy::tags::Tag;

/// A random identity of one life of the log. An entry of another epoch is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Epoch(pub u128);

/// What an entry carries to prove it is not older than a purge: sampled before its fetch's first byte went upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Stamp {
    /// Epoch it was sampled in.
    pub epoch: Epoch,
    /// Sequence that had been applied then.
    pub seq: u64,
    /// Fingerprint of the rules its tags were made by.
    pub rules: u64,
}

/// Epoch, secret, rules, floor, marks and applied sequence: one object, swapped whole on a new epoch or new rules.
#[derive(Debug)]
pub struct View {
    /// The epoch.
    pub epoch: Epoch,
    /// Secret of keys and tag hashes; belongs to the epoch unless configured.
    pub secret: [u8; 32],
    /// Fingerprint of the rules in force.
    pub rules: u64,
    /// Entries below it are void.
    pub floor: AtomicU64,
    /// Every event up to here has been applied, without a gap.
    pub applied: AtomicU64,
    /// Newest purge per tag.
    pub marks: Marks,
}

/// Why an entry may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Void {
    /// Made in another epoch.
    Epoch,
    /// Tagged by other rules.
    Rules,
    /// Older than the log reaches back, or than a flush.
    Floor,
    /// A purge named one of its tags after it was fetched.
    Purged,
}

/// The verdict on a stamp and its tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It may be used.
    Live,
    /// It may not.
    Void(Void),
}

/// Shared handle.
#[derive(Debug)]
pub struct Coherence {
    #[allow(dead_code)]
    view: ArcSwap<View>,
}

impl Coherence {
    /// A fresh log of its own: random epoch and secret come from the caller.
    pub fn new(_epoch: Epoch, _secret: [u8; 32], _rules: u64, _slots: usize) -> Coherence {
        unimplemented!()
    }
    /// The view in force.
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }
    /// (epoch, applied sequence, rules) as one triple: taken before a fetch's first byte goes upstream.
    pub fn sample(&self) -> Stamp {
        unimplemented!()
    }
    /// The liveness test (DESIGN §4.3).
    pub fn liveness(&self, _stamp: &Stamp, _tags: &[Tag]) -> Liveness {
        unimplemented!()
    }
    /// Applies the event at `seq`: marks first, then `applied`. A gap raises the floor. Returns false if it was
    /// already applied.
    pub fn apply(&self, _epoch: Epoch, _seq: u64, _event: &Event) -> bool {
        unimplemented!()
    }
    /// Voids these tags here without an event in the log (it could not be reached): entries now stored or sampled
    /// at the present sequence are dead until the log moves on.
    pub fn apply_owed(&self, _event: &Event) {
        unimplemented!()
    }
    /// A new epoch: every entry of the old one is void.
    pub fn enter_epoch(&self, _epoch: Epoch, _secret: [u8; 32], _seq: u64) {
        unimplemented!()
    }
    /// New rules (reload): entries tagged by others are void.
    pub fn set_rules(&self, _rules: u64) {
        unimplemented!()
    }
}
