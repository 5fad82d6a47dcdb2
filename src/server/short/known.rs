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

use crate::places::{Found, Places};

/// How many are kept at the most, the longest, and most fields: some 6 MB in all at the very most. A power of two.
const PLACES: usize = 1024;
const LONGEST: usize = 1024;
const MOST_FIELDS: usize = 32;

static KNOWN: LazyLock<Table> = LazyLock::new(|| Table(Places::of(PLACES)));

thread_local! {
    /// Hashes of what came last to each place, in part.
    static SEEN: RefCell<Box<[u32]>> = RefCell::new(vec![0; PLACES].into());
}

/// A request that came before.
pub(super) struct Known {
    pub(super) came: Bytes,
    pub(super) of_head: bool,
    pub(super) request: Arc<request::Parts>,
}

/// All that are known.
pub(super) fn known() -> &'static Table {
    &KNOWN
}

/// Those that are known, by a hash so wide that only the same bytes are ever compared: how long that takes tells nobody about
/// other people's credentials.
pub(super) struct Table(Places<(u128, Known)>);

impl Table {
    /// What these bytes were found to be before, if there are not too many; or a hash to remember them by.
    pub(super) fn find(&self, came: &[u8], longest: usize) -> Result<Found<(u128, Known)>, u128> {
        let hash = self.0.wide(came);
        if came.len() > longest {
            return Err(hash);
        }
        self.0.at(hash as u64, |(of, known)| *of == hash && *known.came == *came).ok_or(hash)
    }

    /// Remembers them if this is not the first time. `read` says what they are.
    pub(super) fn remember(&self, hash: u128, came: &Bytes, read: impl FnOnce() -> Option<Known>) {
        if came.len() > LONGEST || !is_seen(hash) {
            return;
        }
        let Some(known) = read().filter(|known| known.request.headers.len() <= MOST_FIELDS) else { return };
        self.0.put(hash as u64, |_| true, |(of, _)| *of == hash, || (hash, known));
    }
}

/// Whether this is what came last to its place on this thread.
fn is_seen(hash: u128) -> bool {
    // Reduced below the number of places; and another part of it.
    let (place, rest) = (hash as usize & (PLACES - 1), (hash >> 64) as u32);
    SEEN.with_borrow_mut(|seen| std::mem::replace(&mut seen[place], rest) == rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(came: &Bytes, fields: usize) -> Option<Known> {
        let mut request = http::Request::new(());
        for _ in 0..fields {
            request.headers_mut().append("x", http::HeaderValue::from_static("y"));
        }
        let (request, ()) = request.into_parts();
        Some(Known { came: came.clone(), of_head: false, request: Arc::new(request) })
    }

    /// Every place is looked at, so that nothing is told apart by its place alone.
    fn table() -> Table {
        Table(Places::of(1))
    }

    fn finds(table: &Table, came: &[u8]) -> bool {
        table.find(came, LONGEST).is_ok_and(|found| found.as_ref().unwrap().1.came == came)
    }

    #[test]
    fn the_same_bytes_are_found_from_the_second_time_on_and_no_others() {
        let (table, came) = (table(), Bytes::from_static(b"GET /known HTTP/1.1\r\nhost: known\r\n\r\n"));
        for _ in 0..2 {
            let Err(hash) = table.find(&came, LONGEST) else { panic!("known too early") };
            table.remember(hash, &came, || known(&came, 1));
        }
        assert!(finds(&table, &came));
        assert!(table.find(&came, came.len() - 1).is_err(), "another listener takes no heads of this length");
        for at in 0..came.len() {
            let mut other = came.to_vec();
            other[at] ^= 0x20;
            assert!(table.find(&other, LONGEST).is_err(), "{at}");
            assert!(table.find(&came[..at], LONGEST).is_err(), "{at}");
        }
    }

    #[test]
    fn what_is_long_what_has_many_fields_and_what_is_nothing_are_not_kept() {
        let long = Bytes::from(vec![b'x'; LONGEST + 1]);
        let short = Bytes::from_static(b"short");
        let table = table();
        for (came, fields) in [(&long, Some(1)), (&short, Some(MOST_FIELDS + 1)), (&short, None)] {
            for _ in 0..3 {
                let Err(hash) = table.find(came, LONGEST) else { panic!("{fields:?}") };
                table.remember(hash, came, || known(came, fields?));
            }
        }
        let Err(hash) = table.find(&short, LONGEST) else { panic!("not yet") };
        table.remember(hash, &short, || known(&short, MOST_FIELDS));
        assert!(finds(&table, &short));
    }
}
