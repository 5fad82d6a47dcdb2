//! The tags of names that many entries have, remembered: the hash of a short name costs many times what finding it does.
//!
//! Each thread remembers a few, of one secret; another secret makes it forget them all. A name takes the place of the
//! oldest of those it shares a set with. It lacks names that are longer than most.

use std::cell::RefCell;

use xxhash_rust::xxh3::xxh3_64;

use super::Tag;

/// A name has its place in one of these by its hash.
const SETS: usize = 16;
/// How many names share a set without taking each other's place.
const WAYS: usize = 4;
/// `subject:` with its digest is as long as 72.
const LONGEST: usize = 80;

#[derive(Clone, Copy)]
struct Known {
    hash: u64,
    /// 0 = nothing is known here.
    length: usize,
    name: [u8; LONGEST],
    tag: Tag,
}

#[derive(Clone, Copy)]
struct Set {
    known: [Known; WAYS],
    /// The one that goes first.
    oldest: usize,
}

struct Memory {
    secret: [u8; 32],
    sets: [Set; SETS],
}

const NOTHING: Known = Known { hash: 0, length: 0, name: [0; LONGEST], tag: Tag(0) };
const EMPTY: [Set; SETS] = [Set { known: [NOTHING; WAYS], oldest: 0 }; SETS];

thread_local! {
    static MEMORY: RefCell<Memory> = const { RefCell::new(Memory { secret: [0; 32], sets: EMPTY }) };
}

/// [`Tag::of`], remembered.
pub(super) fn tag(secret: &[u8; 32], name: &str) -> Tag {
    if name.is_empty() || name.len() > LONGEST {
        return Tag::of(secret, name);
    }
    MEMORY.with_borrow_mut(|memory| {
        if memory.secret != *secret {
            *memory = Memory { secret: *secret, sets: EMPTY };
        }
        let hash = xxh3_64(name.as_bytes());
        let set = &mut memory.sets[hash as usize % SETS];
        for known in &set.known {
            if known.hash == hash && known.name.get(..known.length) == Some(name.as_bytes()) {
                return known.tag;
            }
        }
        set.learn(hash, name, Tag::of(secret, name))
    })
}

impl Set {
    #[cold]
    fn learn(&mut self, hash: u64, name: &str, tag: Tag) -> Tag {
        let known = &mut self.known[self.oldest];
        self.oldest = (self.oldest + 1) % WAYS;
        *known = Known { hash, length: name.len(), tag, ..NOTHING };
        known.name[..name.len()].copy_from_slice(name.as_bytes());
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_would_be_hashed() {
        let names: Vec<String> = (0..1000).map(|n| "prefix:/x".repeat(n % 10) + &n.to_string()).collect();
        for secret in [[0; 32], [7; 32], [8; 32], [7; 32]] {
            for name in names.iter().chain(&names[..10]).chain(&names[..10]) {
                assert_eq!(tag(&secret, name), Tag::of(&secret, name), "{name}");
            }
            assert_eq!(tag(&secret, ""), Tag::of(&secret, ""));
        }
    }

    #[test]
    fn a_name_is_told_from_its_beginning() {
        let secret = [7; 32];
        for end in 1..=LONGEST + 1 {
            let name = "prefix:/".repeat(20);
            assert_eq!(tag(&secret, &name[..end]), Tag::of(&secret, &name[..end]), "{end}");
        }
    }
}
