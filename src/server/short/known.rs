//! Requests that came before, found by their bytes: what is the same is not read twice.
//!
//! Invariants:
//! - What is found has come in the very same bytes, all of them compared, and was plain; what is kept of it is what a
//!   handler was given.
//! - Only what comes a second time, and before others took its place, is kept; how much that is has a bound.
//!
//! One for the process: the same bytes are the same request, wherever they come in.

use std::cell::RefCell;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::request;

use crate::places::Places;

/// How many are kept at the most, and the longest: some 2 MB in all. A power of two.
const PLACES: usize = 1024;
const LONGEST: usize = 1024;

static KNOWN: LazyLock<Places<Known>> = LazyLock::new(|| Places::of(PLACES));

thread_local! {
    /// Hashes of what came last to each place, by their upper halves.
    static SEEN: RefCell<Box<[u32]>> = RefCell::new(vec![0; PLACES].into());
}

/// A request that came before.
pub(super) struct Known {
    pub(super) came: Bytes,
    pub(super) of_head: bool,
    pub(super) request: Arc<request::Parts>,
}

/// What these bytes were found by before, or a hash to remember them by.
pub(super) fn find(came: &[u8]) -> Result<Arc<Known>, u64> {
    let hash = KNOWN.hash(came, b"");
    let found = KNOWN.at(hash, |known| *known.came == *came);
    found.and_then(|found| found.as_ref().map(Arc::clone)).ok_or(hash)
}

/// Remembers them if this is not the first time. `read` says what a handler is given for them.
pub(super) fn remember(hash: u64, came: &Bytes, read: impl FnOnce() -> Option<Known>) {
    if came.len() > LONGEST || !is_seen(hash) {
        return;
    }
    let Some(known) = read() else { return };
    KNOWN.put(hash, |_| true, |there| there.came == came, || known);
}

/// Whether this is what came last to its place on this thread.
fn is_seen(hash: u64) -> bool {
    // Reduced below the number of places; and what that leaves of the hash.
    let (place, rest) = (hash as usize & (PLACES - 1), (hash >> 32) as u32);
    SEEN.with_borrow_mut(|seen| std::mem::replace(&mut seen[place], rest) == rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(came: &Bytes) -> Option<Known> {
        let (request, ()) = http::Request::new(()).into_parts();
        Some(Known { came: came.clone(), of_head: false, request: Arc::new(request) })
    }

    #[test]
    fn the_same_bytes_are_found_from_the_second_time_on() {
        let came = Bytes::from_static(b"GET /known HTTP/1.1\r\nhost: known\r\n\r\n");
        for time in 0..3 {
            match find(&came) {
                Ok(found) => assert!(time == 2 && found.came == came),
                Err(hash) => {
                    assert!(time < 2);
                    remember(hash, &came, || known(&came));
                }
            }
        }
        let other = Bytes::from_static(b"GET /known HTTP/1.1\r\nhost: Known\r\n\r\n");
        let Err(hash) = find(&other) else { panic!("these are not the same") };
        // Nor would they be in the same place.
        KNOWN.put(hash, |_| false, |_| false, || known(&came).unwrap());
        assert!(find(&other).is_err());
    }

    #[test]
    fn what_is_long_and_what_is_nothing_are_not_kept() {
        let long = Bytes::from(vec![b'x'; LONGEST + 1]);
        for _ in 0..3 {
            let Err(hash) = find(&long) else { panic!("too long") };
            remember(hash, &long, || known(&long));
        }
        let refused = Bytes::from_static(b"refused");
        for _ in 0..3 {
            let Err(hash) = find(&refused) else { panic!("nothing") };
            remember(hash, &refused, || None);
        }
    }
}
