//! Events of the purge log and their wire form: the fields of one entry of a Redis stream.
//!
//! ```text
//! k  kind: purge | flush | soft          g  tags, 64-bit little endian, one after the other
//! n  names, one field each               r  rules fingerprint, decimal
//! o  origin, decimal                     s  fingerprint of the secret that hashed the tags, decimal
//! i  the origin's number for the event, decimal
//! w  milliseconds for which nothing that carries the tags may be stored, decimal; or `over`
//! ```
//!
//! Whoever writes the log may be newer than whoever reads it. What a reader does not understand (an unknown
//! kind or field, a number that is none, tags cut short) it reads as a flush: the one reading that cannot
//! leave a purged entry alive.

use crate::policy::tags::Tag;

/// What an event does to the entries it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventKind {
    /// They are void.
    #[default]
    Purge,
    /// Everything is void (the floor rises to this event).
    Flush,
    /// They are stale: servable under stale-while-revalidate where a route allows it, else of no use.
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
    /// Fingerprint of the secret that hashed `tags` (`View::secret_id`); 0 = the publishing store's present one.
    /// Hashes of another secret name nothing here, so such an event purges everything.
    pub hashed_with: u64,
    /// The origin's own number for it, given by the publishing store; 0 = outside. An append whose answer was lost
    /// is repeated under the same number, so that its origin can tell when it has come through.
    pub id: u64,
    /// Whether what carries the tags may be stored.
    pub settle: Settle,
}

/// Whether what carries an event's tags may be stored: the backend's reads may lag its writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Settle {
    /// At once.
    #[default]
    AtOnce,
    /// Not for so many milliseconds; then its origin purges once more.
    For(u64),
    /// Now: this is the purge that ends the waiting.
    Over,
}

impl Event {
    /// An event that voids everything.
    pub fn flush() -> Event {
        Event { kind: EventKind::Flush, ..Event::default() }
    }

    /// The event as field and value pairs, in a fixed order; absent parts are left out.
    pub fn encode(&self) -> Vec<(&'static str, Vec<u8>)> {
        let kind: &[u8] = match self.kind {
            EventKind::Purge => b"purge",
            EventKind::Flush => b"flush",
            EventKind::Soft => b"soft",
        };
        let mut fields = vec![("k", kind.to_vec())];
        if !self.tags.is_empty() {
            fields.push(("g", self.tags.iter().flat_map(|t| t.0.to_le_bytes()).collect()));
        }
        fields.extend(self.names.iter().map(|n| ("n", n.clone().into_bytes())));
        for (name, value) in [("r", self.rules), ("o", self.origin), ("s", self.hashed_with), ("i", self.id)]
        {
            if value != 0 {
                fields.push((name, value.to_string().into_bytes()));
            }
        }
        match self.settle {
            Settle::AtOnce => {}
            Settle::For(ms) => fields.push(("w", ms.to_string().into_bytes())),
            Settle::Over => fields.push(("w", b"over".to_vec())),
        }
        fields
    }

    /// Reads field and value pairs. What cannot be understood makes it a flush.
    pub fn decode<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Event {
        let mut event = Event::default();
        let mut kind = None;
        for (field, value) in fields {
            let understood = match field {
                b"k" => {
                    kind = match value {
                        b"purge" => Some(EventKind::Purge),
                        b"soft" => Some(EventKind::Soft),
                        _ => Some(EventKind::Flush),
                    };
                    true
                }
                b"g" => event.read_tags(value),
                b"n" => std::str::from_utf8(value).is_ok_and(|name| {
                    event.names.push(name.to_owned());
                    true
                }),
                b"r" => number(value).is_some_and(|n| set(&mut event.rules, n)),
                b"o" => number(value).is_some_and(|n| set(&mut event.origin, n)),
                b"s" => number(value).is_some_and(|n| set(&mut event.hashed_with, n)),
                b"i" => number(value).is_some_and(|n| set(&mut event.id, n)),
                b"w" => match (value, number(value)) {
                    (b"over", _) => set(&mut event.settle, Settle::Over),
                    (_, Some(ms)) => set(&mut event.settle, Settle::For(ms)),
                    _ => false,
                },
                _ => false,
            };
            if !understood {
                return Event::flush();
            }
        }
        match kind {
            Some(kind) => Event { kind, ..event },
            None => Event::flush(),
        }
    }

    fn read_tags(&mut self, packed: &[u8]) -> bool {
        let (words, rest) = packed.as_chunks::<8>();
        self.tags.extend(words.iter().map(|w| Tag(u64::from_le_bytes(*w))));
        rest.is_empty()
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn set<T>(slot: &mut T, value: T) -> bool {
    *slot = value;
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(fields: &[(&str, &[u8])]) -> Event {
        Event::decode(fields.iter().map(|(f, v)| (f.as_bytes(), *v)))
    }

    #[test]
    fn what_is_not_understood_is_a_flush() {
        for fields in [
            &[("k", b"prune".as_slice())][..],
            &[("k", b"purge"), ("novel", b"1")],
            &[("k", b"purge"), ("g", b"1234567")],
            &[("k", b"purge"), ("r", b"many")],
            &[("k", b"purge"), ("n", b"\xff")],
            &[("g", b"12345678")],
            &[],
        ] {
            assert_eq!(decode(fields).kind, EventKind::Flush, "{fields:?}");
        }
    }

    #[test]
    fn an_event_from_outside_needs_a_kind_and_names() {
        let event = decode(&[("k", b"purge"), ("n", b"session:abc"), ("n", b"session:*")]);
        assert_eq!(event.kind, EventKind::Purge);
        assert_eq!(event.names, ["session:abc", "session:*"]);
        assert_eq!(event.rules, 0);
    }

    fn events() -> impl Strategy<Value = Event> {
        (
            prop_oneof![Just(EventKind::Purge), Just(EventKind::Flush), Just(EventKind::Soft)],
            prop::collection::vec(any::<u64>().prop_map(Tag), 0..20),
            prop::collection::vec(any::<String>(), 0..5),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            prop_oneof![Just(Settle::AtOnce), Just(Settle::Over), any::<u64>().prop_map(Settle::For)],
        )
            .prop_map(|(kind, tags, names, rules, origin, hashed_with, id, settle)| Event {
                kind,
                tags,
                names,
                rules,
                origin,
                hashed_with,
                id,
                settle,
            })
    }

    proptest! {
        #[test]
        fn round_trip(event in events()) {
            let fields = event.encode();
            let back = Event::decode(fields.iter().map(|(f, v)| (f.as_bytes(), v.as_slice())));
            prop_assert_eq!(back, event);
        }

        #[test]
        fn never_panics(fields in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..2), prop::collection::vec(any::<u8>(), 0..40)), 0..6)) {
            Event::decode(fields.iter().map(|(f, v)| (f.as_slice(), v.as_slice())));
        }
    }
}
