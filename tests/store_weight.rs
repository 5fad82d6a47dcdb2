//! What Weir reckons that an entry takes is what the process takes for it: a bound on memory is one on the process.
//!
//! Alone in its binary, so that nothing else takes memory meanwhile.

#![expect(clippy::unwrap_used, reason = "test code")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LAST_MODIFIED, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use weir::coherence::{Coherence, Epoch};
use weir::policy::key::CacheKey;
use weir::policy::tags::Tag;
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::vary::Selecting;
use weir::store::codec::{decode, encode_entry};
use weir::store::entry::{Entry, Slot};
use weir::store::memory::{Asked, Memory};

const NOW: Timestamp = Timestamp(1_780_000_000_000);
const ENTRIES: u64 = 60_000;

/// `tags` and a content of `body` bytes, in a piece of a buffer as large as a server's reads are.
fn entry(coherence: &Coherence, route: &Arc<str>, n: u64, tags: u64, body: usize) -> Entry {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "public, max-age=300"),
        (ETAG, "\"0123456789abcdef\""),
        (LAST_MODIFIED, "Thu, 28 May 2026 19:00:00 GMT"),
        (VARY, "accept-encoding"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers.append("x-own", HeaderValue::from_static("something of the backend's"));
    let mut key = [0; 32];
    // As good as random, in the bytes that the map looks at.
    key[..8].copy_from_slice(&(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    let response = StoredResponse::new(
        StatusCode::OK,
        headers,
        Bytes::from(vec![b'x'; 8192.max(2 * body)]).slice(..body),
        NOW,
        NOW,
        Lifetimes { fresh: Duration::from_secs(300), ..Lifetimes::default() },
        Selecting::default(),
    );
    let tags: Vec<_> = (0..tags).map(Tag).collect();
    Entry::new(CacheKey(key), route, coherence.sample(), tags, response)
}

fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0
}

/// Fills a memory, uses each entry once, and tells what an entry is reckoned to take, what it takes, and how much of that
/// is content and text of fields.
fn weighed(make: impl Fn(&Coherence, u64) -> Entry) -> [f64; 3] {
    let coherence = Coherence::new(Epoch(7), [7; 32], 1, 1 << 10);
    let memory = Memory::new(1 << 32, 1 << 20, 32).unwrap();
    let request = HeaderMap::new();
    let asked = Asked { request: &request, arrived: Duration::ZERO, now: NOW };
    let before = resident();
    let mut text = 0;
    for n in 0..ENTRIES {
        let entry = Arc::new(make(&coherence, n));
        text += entry.response.body_bytes().len() + entry.response.fields().text_len();
        memory.insert(&entry);
        assert!(!entry.response.fields().to_map(0).is_empty());
        assert!(matches!(memory.lookup(&entry.key, asked, &coherence), weir::store::Lookup::Found(..)));
    }
    assert_eq!(memory.len(), ENTRIES);
    let each = |bytes: f64| bytes / ENTRIES as f64;
    let (reckoned, taken) = (each(memory.bytes() as f64), each(resident() - before));
    // What this one gave back must not serve the next.
    std::mem::forget(memory);
    [reckoned, taken, each(text as f64)]
}

#[test]
fn what_is_reckoned_is_what_is_taken() {
    let route: Arc<str> = Arc::from("route");
    let decoded = |coherence: &Coherence, n| {
        let entry = entry(coherence, &route, n, 2, 200);
        let mut value = encode_entry(&entry).unwrap();
        value.shrink_to_fit();
        let Ok(Slot::Entry(entry)) = decode(value.into(), &entry.key, &route, 1 << 20) else {
            panic!("not what was encoded")
        };
        Arc::into_inner(entry).unwrap()
    };
    let promoted = |coherence: &Coherence, n| decoded(coherence, n).compact();
    let small = weighed(|coherence, n| entry(coherence, &route, n, 2, 200));
    let tables = [
        ("small", small),
        ("empty, without tags", weighed(|coherence, n| entry(coherence, &route, n, 0, 0))),
        ("many tags", weighed(|coherence, n| entry(coherence, &route, n, 20, 300))),
        ("a page", weighed(|coherence, n| entry(coherence, &route, n, 1, 5000))),
        ("as Redis had it", weighed(decoded)),
        ("from Redis", weighed(promoted)),
    ];
    for (what, [reckoned, taken, text]) in tables {
        println!("{what}: reckoned {reckoned:.0}, taken {taken:.0}, of which {text:.0} are text");
        assert!((0.9..=1.1).contains(&(reckoned / taken)), "{what}: reckoned {reckoned}, taken {taken}");
    }
    let [_, taken, text] = small;
    assert!(taken - text <= 300.0, "a small entry costs {} bytes beside what it holds", taken - text);
}
