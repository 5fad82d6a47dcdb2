//! Events of the purge log and their wire form.

use crate::policy::tags::Tag;

/// What an event does to the entries it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventKind {
    /// They are void.
    #[default]
    Purge,
    /// Everything is void (the floor rises to this event).
    Flush,
    /// They are stale: servable under stale-while-revalidate where a route allows it, else void.
    Soft,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// What it does.
    pub kind: EventKind,
    /// Which tags, hashed with the epoch's secret.
    pub tags: Vec<Tag>,
    /// Canonical names for events appended from outside, hashed by whoever applies them.
    pub names: Vec<String>,
    /// Fingerprint of the rules of whoever made it; 0 = made outside, valid under any rules.
    pub rules: u64,
    /// Instance that made it; 0 = outside.
    pub origin: u64,
}
