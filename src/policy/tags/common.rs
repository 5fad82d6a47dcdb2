//! The tags of names that many entries have, remembered: the hash of a short name costs many times what finding it does.
//!
//! Each thread remembers a few, of one secret; another secret makes it forget them all. A name that falls into the place
//! of another takes it. It lacks names that are longer than most.

use std::cell::RefCell;

use xxhash_rust::xxh3::xxh3_64;

use super::Tag;

const PLACES: usize = 64;
/// `subject:` with its digest is as long as 72.
const LONGEST: usize = 80;

#[derive(Clone, Copy)]
struct Known {
    /// 0 = nothing is known here.
    length: usize,
    name: [u8; LONGEST],
    tag: Tag,
}

const NOTHING: Known = Known { length: 0, name: [0; LONGEST], tag: Tag(0) };

struct Memory {
    secret: [u8; 32],
    places: [Known; PLACES],
}

thread_local! {
    static MEMORY: RefCell<Memory> =
        const { RefCell::new(Memory { secret: [0; 32], places: [NOTHING; PLACES] }) };
}

/// [`Tag::of`], remembered.
pub(super) fn tag(secret: &[u8; 32], name: &str) -> Tag {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > LONGEST {
        return Tag::of(secret, name);
    }
    MEMORY.with_borrow_mut(|memory| {
        if memory.secret != *secret {
            *memory = Memory { secret: *secret, places: [NOTHING; PLACES] };
        }
        let place = xxh3_64(bytes) as usize % PLACES;
        let known = &mut memory.places[place];
        if known.name.get(..known.length) != Some(bytes) {
            let tag = Tag::of(secret, name);
            *known = Known { length: bytes.len(), tag, ..NOTHING };
            known.name[..bytes.len()].copy_from_slice(bytes);
        }
        known.tag
    })
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
