//! What an entry weighs in memory, and whether a look-up or a route costs more where there are more of them.
//!
//! Each command does one thing so often as it is told and says what it took; `docs/performance.md` has the figures.
//! Instructions per operation are the difference of two runs under `valgrind --tool=callgrind`, divided by the difference
//! of their numbers of operations: what comes before cancels out.

#![expect(clippy::expect_used, reason = "a bench may stop where it stands")]

use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use weir::coherence::{Coherence, Epoch};
use weir::config::{self, env::Env};
use weir::policy::key::CacheKey;
use weir::policy::route::request_host;
use weir::policy::tags::Tag;
use weir::semantics::stored::{Lifetimes, StoredResponse};
use weir::semantics::timestamp::Timestamp;
use weir::semantics::vary::Selecting;
use weir::store::Lookup;
use weir::store::codec::{decode, encode_entry};
use weir::store::entry::Entry;
use weir::store::memory::{Asked, Memory};

const USAGE: &str = "\
usage: scale weigh ENTRIES [BODY]      bytes of process memory per entry, and the bytes that Weir reckons
       scale weigh-decoded ENTRIES     the same for entries as they come from Redis
       scale bound MIB                 fills memory over its bound, and compares it with the process' memory
       scale look-up ENTRIES TIMES     looks entries up, one after the other, all over the memory
       scale map TIMES                 makes a response's fields a map
       scale decode TIMES              reads an entry as Redis has it
       scale route KIND ROUTES TIMES   finds a route; KIND is literal, captured, rest, host or when
       scale redis ENTRIES             writes as many values as Redis commands, for `redis-cli --pipe`";

const NOW: Timestamp = Timestamp(1_780_000_000_000);

fn main() {
    // Whatever runs all benches passes this too.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["weigh", entries] => number(entries).map(|n| weigh(n, 200)),
        ["weigh", entries, body] => number(entries).zip(number(body)).map(|(n, body)| weigh(n, body)),
        ["weigh-decoded", entries] => number(entries).map(weigh_decoded),
        ["bound", mib] => number(mib).map(bound),
        ["look-up", entries, times] => number(entries).zip(number(times)).map(|(n, times)| look_up(n, times)),
        ["map", times] => number(times).map(map),
        ["decode", times] => number(times).map(decoded),
        ["route", kind, routes, times] => {
            number(routes).zip(number(times)).map(|(n, times)| route(kind, n, times))
        }
        ["redis", entries] => number(entries).map(redis),
        _ => None,
    };
    if done.is_none() {
        println!("{USAGE}");
    }
}

fn number(text: &str) -> Option<usize> {
    text.replace('_', "").parse().ok()
}

fn coherence() -> Coherence {
    Coherence::new(Epoch(7), [7; 32], 1, 1 << 20)
}

/// Digests have no pattern; neither have these.
fn key(n: usize) -> CacheKey {
    let mut bytes = [0; 32];
    let mut state = n as u64;
    for chunk in bytes.as_chunks_mut::<8>().0 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *chunk = (z ^ (z >> 31)).to_le_bytes();
    }
    CacheKey(bytes)
}

/// A small JSON answer: six fields, two tags.
fn entry(coherence: &Coherence, route: &Arc<str>, n: usize, body: usize) -> Entry {
    let mut headers = HeaderMap::new();
    let etag = format!("\"{n:016x}\"");
    for (name, value) in [
        ("content-type", "application/json"),
        ("cache-control", "public, max-age=300"),
        ("etag", &etag),
        ("date", "Thu, 28 May 2026 20:26:40 GMT"),
        ("last-modified", "Thu, 28 May 2026 19:00:00 GMT"),
        ("vary", "accept-encoding"),
    ] {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            headers.append(name, value);
        }
    }
    let mut content = format!("{{\"id\":{n},\"name\":\"").into_bytes();
    content.resize(body.max(2) - 2, b'x');
    content.extend_from_slice(b"\"}");
    // As hyper gives it: a piece of a larger buffer.
    let mut buffer = vec![0; 8192];
    buffer.splice(..0, content.iter().copied());
    let content = Bytes::from(buffer).slice(..content.len());
    let response = StoredResponse::new(
        StatusCode::OK,
        headers,
        content,
        NOW,
        NOW,
        Lifetimes { fresh: Duration::from_secs(300), keep: Duration::from_secs(60), ..Lifetimes::default() },
        Selecting::default(),
    );
    let tags = vec![Tag(n as u64), Tag(u64::MAX / 2)];
    Entry::new(key(n), route, coherence.sample(), tags, response)
}

/// Bytes of process memory that are in use.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or_default() * 1024
}

/// Bytes of the content and of the names and values, as they stand.
fn text(entry: &Entry) -> usize {
    entry.response.body_bytes().len() + entry.response.fields().text_len()
}

fn asks(memory: &Memory, coherence: &Coherence, n: usize) -> Option<Arc<Entry>> {
    let request = HeaderMap::new();
    let asked = Asked { request: &request, arrived: Duration::ZERO, now: NOW };
    match memory.lookup(&key(n), asked, coherence) {
        Lookup::Found(entry, _) => Some(entry),
        _ => None,
    }
}

fn filled(entries: usize, made: impl Fn(&Coherence, usize) -> Entry) -> (Memory, Coherence, usize) {
    let coherence = coherence();
    let memory = Memory::new(1 << 36, 1 << 23, 32).expect("a bound above zero");
    let mut texts = 0;
    for n in 0..entries {
        let entry = Arc::new(made(&coherence, n));
        texts += text(&entry);
        memory.insert(&entry);
    }
    (memory, coherence, texts)
}

fn weigh(entries: usize, body: usize) {
    let route: Arc<str> = Arc::from("route");
    report(entries, |coherence, n| entry(coherence, &route, n, body));
}

fn weigh_decoded(entries: usize) {
    let route: Arc<str> = Arc::from("route");
    report(entries, |coherence, n| {
        let entry = entry(coherence, &route, n, 200);
        let mut value = encode_entry(&entry).expect("small");
        // As it is read: no more than it needs.
        value.shrink_to_fit();
        match decode(value.into(), &entry.key, &route, 1 << 20) {
            Ok(weir::store::Slot::Entry(entry)) => Arc::into_inner(entry).expect("the only one"),
            other => panic!("{other:?}"),
        }
    });
}

fn report(entries: usize, made: impl Fn(&Coherence, usize) -> Entry) {
    let nothing = made(&coherence(), 0);
    println!("text of an entry: {} bytes of content and fields", text(&nothing));
    let before = resident();
    let (memory, coherence, texts) = filled(entries, made);
    let stored = resident() - before;
    // Each is used once, so that whatever comes with the first use has come.
    let used = (0..entries).filter(|n| {
        asks(&memory, &coherence, *n).is_some_and(|entry| !entry.response.fields().to_map(4).is_empty())
    });
    let used = used.count();
    let after = resident() - before;
    let each = |bytes: usize| bytes as f64 / used.max(1) as f64;
    println!("entries: {used} kept of {entries}");
    println!("process memory per entry: {:.1} bytes stored, {:.1} once used", each(stored), each(after));
    println!(
        "over content and fields: {:.1} bytes stored, {:.1} once used",
        each(stored - texts),
        each(after - texts)
    );
    let weight = usize::try_from(memory.bytes()).unwrap_or(usize::MAX);
    println!(
        "reckoned per entry: {:.1} bytes, {:.3} of what it is",
        each(weight),
        weight as f64 / after as f64
    );
}

fn bound(mib: usize) {
    let (route, coherence) = (Arc::from("route"), coherence());
    let bytes = (mib as u64) << 20;
    let before = resident();
    let memory = Memory::new(bytes, 1 << 20, 32).expect("a bound above zero");
    for n in 0..mib * 4000 {
        memory.insert(&Arc::new(entry(&coherence, &route, n, 200)));
        // Now and then something is used, and everything kept is used once.
        black_box(asks(&memory, &coherence, n).map(|entry| entry.response.fields().to_map(4)));
        black_box(asks(&memory, &coherence, n / 2));
    }
    let taken = resident() - before;
    println!(
        "bound {bytes}, reckoned {}, process memory {taken}: {:.3} of the bound",
        memory.bytes(),
        taken as f64 / bytes as f64
    );
    println!("{} entries", memory.len());
}

fn look_up(entries: usize, times: usize) {
    let route: Arc<str> = Arc::from("route");
    let (memory, coherence, _) = filled(entries, |coherence, n| entry(coherence, &route, n, 200));
    let keys: Vec<CacheKey> = (0..times.min(4096)).map(|n| key(n.wrapping_mul(7919) % entries)).collect();
    let request = HeaderMap::new();
    let asked = Asked { request: &request, arrived: Duration::ZERO, now: NOW };
    let began = Instant::now();
    for n in 0..times {
        let found = memory.lookup(&keys[n % keys.len()], asked, &coherence);
        assert!(matches!(black_box(found), Lookup::Found(..)));
    }
    each(began, times);
}

fn map(times: usize) {
    let entry = entry(&coherence(), &Arc::from("route"), 1, 200);
    let began = Instant::now();
    for _ in 0..times {
        black_box(entry.response.fields().to_map(4));
    }
    each(began, times);
}

fn decoded(times: usize) {
    let route: Arc<str> = Arc::from("route");
    let entry = entry(&coherence(), &route, 1, 200);
    let value = Bytes::from(encode_entry(&entry).expect("small"));
    let began = Instant::now();
    for _ in 0..times {
        black_box(decode(value.clone(), &entry.key, &route, 1 << 20).is_ok());
    }
    each(began, times);
}

fn each(began: Instant, times: usize) {
    println!("{:.1} ns each", began.elapsed().as_nanos() as f64 / times.max(1) as f64);
}

/// The path that the last route is for.
fn routes(kind: &str, count: usize) -> Option<(String, String)> {
    let mut text =
        "upstream = \"http://127.0.0.1:9\"\n[defaults]\nttl = \"5m\"\nsubject = \"none\"\n".to_owned();
    let last = count - 1;
    for n in 0..count {
        let (path, more) = match kind {
            "literal" => (format!("/v1/things{n}"), String::new()),
            "captured" => (format!("/v1/things{n}/{{id}}/parts/{{part}}"), String::new()),
            "rest" => (format!("/v1/things{n}/**"), String::new()),
            "host" => ("/v1/things/{id}".to_owned(), format!("host = \"h{n}.example\"\n")),
            "when" => {
                ("/v1/things/{id}".to_owned(), format!("when = {{ header = {{ x-tenant = \"t{n}\" }} }}\n"))
            }
            _ => return None,
        };
        text += &format!("[[route]]\nname = \"r{n}\"\nmatch = \"GET {path}\"\n{more}");
    }
    let path = match kind {
        "literal" => format!("/v1/things{last}"),
        "captured" => format!("/v1/things{last}/42/parts/7"),
        "rest" => format!("/v1/things{last}/a/b/c"),
        _ => "/v1/things/42".to_owned(),
    };
    Some((text, path))
}

fn route(kind: &str, count: usize, times: usize) {
    let Some((text, path)) = routes(kind, count.max(1)) else { return println!("{USAGE}") };
    let loaded = match config::load_str("bench.toml", &text, &Env::empty()) {
        Ok(loaded) => loaded,
        Err(problems) => return problems.iter().for_each(|problem| println!("{problem}")),
    };
    let (host, tenant) = (format!("h{}.example", count - 1), format!("t{}", count - 1));
    let request = Request::get(&path).header("host", &host).header("x-tenant", &tenant).body(());
    let parts = request.expect("a request").into_parts().0;
    let host = request_host(&parts, "http");
    let began = Instant::now();
    for _ in 0..times {
        let found = loaded.config.policy.routes.find(&parts, &host);
        assert!(black_box(found).is_some_and(|found| found.index == count - 1));
    }
    each(began, times);
}

/// As an instance writes them under the prefix `cache`, of an epoch that is nobody's.
fn redis(entries: usize) {
    let (route, coherence) = (Arc::from("route"), coherence());
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for n in 0..entries {
        let entry = entry(&coherence, &route, n, 200);
        let value = encode_entry(&entry).expect("small");
        let name = format!("cache:route:{}", entry.key.hex());
        let written = write!(out, "*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n${}\r\n", name.len(), value.len())
            .and_then(|()| out.write_all(&value))
            .and_then(|()| out.write_all(b"\r\n"));
        if written.is_err() {
            return;
        }
    }
}
