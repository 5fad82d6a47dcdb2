//! The fields of a stored response in one block of bytes, as memory and Redis both keep them.
//!
//! ```text
//! block := number of fields (u16, little endian), then per field: name, length of value, value
//! name  := 1..=255, the number of a known name  |  0, length, bytes
//! length := seven bits per byte, the least first; the high bit says that another follows
//! ```
//!
//! Invariants: lines keep their order and their number, as `HeaderMap` iterates over them. Known names are written by
//! number and by nothing else, so that two names are equal if and only if they are written equally. A block that passed
//! `check` has only names and values that fields may have, whoever wrote it.
//!
//! It lacks a way to change a block: who changes fields makes a map of it, and a block of that.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Field lines by name, whatever holds them.
pub trait Lines {
    /// The values of all lines of this name, in their order.
    fn lines<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// The value where there is exactly one line of this name.
    fn sole<'a>(&'a self, name: &HeaderName) -> Option<&'a [u8]> {
        let mut lines = self.lines(name);
        lines.next().filter(|_| lines.next().is_none())
    }
}

impl Lines for HeaderMap {
    fn lines<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).into_iter().map(HeaderValue::as_bytes)
    }
}

/// More fields than this are no block; a map could not hold many more.
const MOST_FIELDS: usize = 16_384;
/// Bytes of a length are at most so many: 28 bits.
const LONGEST_LENGTH: u32 = 4;

/// Fields in a block.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    /// What holds the block: values are slices of it.
    whole: &'a Bytes,
    block: &'a [u8],
    /// Where in `whole` the block begins.
    from: usize,
}

impl<'a> Fields<'a> {
    /// Those in this part of `whole`, which [`write`] wrote or [`check`] has passed.
    pub(super) fn new(whole: &'a Bytes, part: Range<usize>) -> Fields<'a> {
        // Nowhere, there is an empty block at the beginning.
        let (from, block) = whole.get(part.clone()).map_or((0, &[][..]), |block| (part.start, block));
        Fields { whole, block, from }
    }

    /// The block.
    pub fn as_bytes(self) -> &'a [u8] {
        self.block
    }

    /// How many lines there are.
    pub fn len(self) -> usize {
        count(self.as_bytes())
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether there is a line of this name.
    pub fn contains(self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }

    /// The value of the first line of this name.
    pub fn get(self, name: &HeaderName) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The values of all lines of this name, in their order.
    pub fn all<'n>(self, name: &'n HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let wanted = Name::of(name);
        Walk::over(self.as_bytes()).filter(move |(given, _)| *given == wanted).map(|(_, value)| value)
    }

    /// A value of this block as one that can be sent; it shares the block's memory.
    pub fn value(self, value: &'a [u8]) -> Option<HeaderValue> {
        HeaderValue::from_maybe_shared(self.whole.slice_ref(value)).ok()
    }

    /// Name and value of each line, in their order.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        Walk::over(self.block).map(|(name, value)| (name.as_bytes(), value))
    }

    /// As a map, with room for `more` fields. Values share the block's memory.
    pub fn to_map(self, more: usize) -> HeaderMap {
        let mut map = HeaderMap::try_with_capacity(self.len() + more).unwrap_or_default();
        let mut walk = Walk::over(self.block);
        while let Some((name, value)) = walk.next() {
            // The walk ends where the block does, and the value ends where the walk stands.
            let end = self.from + self.block.len() - walk.rest.len();
            let shared = self.whole.slice(end - value.len()..end);
            // Checked when the block came; neither can fail.
            if let (Some(name), Ok(value)) = (name.to_name(), HeaderValue::from_maybe_shared(shared)) {
                let _ = map.try_append(name, value);
            }
        }
        map
    }

    /// Bytes of the names and values as such.
    pub fn text_len(self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl Lines for Fields<'_> {
    fn lines<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
        // Known names, as all are that are asked for here, are compared by number.
        let (number, name) = (number(name), name.clone());
        Walk::over(self.as_bytes())
            .filter(move |(given, _)| match given {
                Name::Known(given) => *given == number,
                Name::Other(given) => number == 0 && *given == name.as_str().as_bytes(),
            })
            .map(|(_, value)| value)
    }
}

impl std::fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.to_map(0).fmt(f)
    }
}

/// Writes fields as a block. What a block cannot hold (lines without number, lengths without end) is left out; no
/// message that was received has it.
pub(super) fn write<'a>(
    fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    out: &mut Vec<u8>,
) {
    let at = out.len();
    out.extend_from_slice(&[0; 2]);
    let mut written: u16 = 0;
    for (name, value) in fields.into_iter().take(MOST_FIELDS) {
        if value.len() >> (7 * LONGEST_LENGTH) != 0 {
            continue;
        }
        match Name::of(name) {
            Name::Known(number) => out.push(number),
            Name::Other(name) => {
                out.push(0);
                write_length(name.len(), out);
                out.extend_from_slice(name);
            }
        }
        write_length(value.len(), out);
        out.extend_from_slice(value.as_bytes());
        written += 1;
    }
    if let Some(count) = out.get_mut(at..at + 2) {
        count.copy_from_slice(&written.to_le_bytes());
    }
}

/// The length of the block that `bytes` begin with; `None` = they do not begin with one.
pub(super) fn check(bytes: &[u8]) -> Option<usize> {
    let fields = count(bytes);
    let mut walk = Walk::over(bytes);
    let mut sound = true;
    for _ in 0..fields {
        let (name, value) = walk.next()?;
        sound &= name.is_one() && is_value(value);
    }
    (sound && bytes.len() >= 2 && fields <= MOST_FIELDS).then(|| bytes.len() - walk.rest.len())
}

/// Whether these are bytes that a field's value may have (RFC 9110 §5.5, and what is obsolete there).
fn is_value(bytes: &[u8]) -> bool {
    let may = |byte: &u8| *byte >= 0x20 && *byte != 0x7f || *byte == b'\t';
    let (words, rest) = bytes.as_chunks();
    words.iter().all(|word| no_control(u64::from_ne_bytes(*word)) || word.iter().all(may))
        && rest.iter().all(may)
}

/// Whether none of eight bytes is below 0x20 or 0x7f. The high bit of each byte that is comes out set; a borrow may set it in
/// others too, but never alone.
fn no_control(word: u64) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let delete = word ^ (ONES * 0x7f);
    let low = word.wrapping_sub(ONES * 0x20) & !word;
    (low | delete.wrapping_sub(ONES) & !delete) & (ONES * 0x80) == 0
}

fn count(bytes: &[u8]) -> usize {
    bytes.first_chunk().map_or(0, |count| usize::from(u16::from_le_bytes(*count)))
}

fn write_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// A name as it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name<'a> {
    Known(u8),
    Other(&'a [u8]),
}

impl<'a> Name<'a> {
    fn of(name: &'a HeaderName) -> Name<'a> {
        match number(name) {
            0 => Name::Other(name.as_str().as_bytes()),
            number => Name::Known(number),
        }
    }

    #[inline]
    fn to_name(self) -> Option<HeaderName> {
        match self {
            Name::Known(number) => KNOWN.get(usize::from(number).wrapping_sub(1)).cloned(),
            Name::Other(name) => with_other(name, HeaderName::clone),
        }
    }

    /// Whether it names anything.
    #[inline]
    fn is_one(self) -> bool {
        match self {
            Name::Known(number) => usize::from(number).wrapping_sub(1) < KNOWN.len(),
            Name::Other(name) => with_other(name, |_| ()).is_some(),
        }
    }

    #[inline]
    fn as_bytes(self) -> &'a [u8] {
        match self {
            Name::Known(number) => KNOWN
                .get(usize::from(number).wrapping_sub(1))
                .map_or(&[][..], |name| name.as_str().as_bytes()),
            Name::Other(name) => name,
        }
    }
}

/// The fields of a block one by one; ends early where it is cut.
struct Walk<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Walk<'a> {
    fn over(block: &'a [u8]) -> Walk<'a> {
        Walk { rest: block.get(2..).unwrap_or_default(), left: count(block) }
    }

    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    #[inline]
    fn length(&mut self) -> Option<usize> {
        let first = usize::from(self.byte()?);
        if first < 0x80 { Some(first) } else { self.long(first & 0x7f) }
    }

    #[cold]
    fn long(&mut self, mut length: usize) -> Option<usize> {
        for n in 1..LONGEST_LENGTH {
            let byte = usize::from(self.byte()?);
            length |= (byte & 0x7f) << (7 * n);
            if byte < 0x80 {
                // One length has one form.
                return (byte != 0).then_some(length);
            }
        }
        None
    }

    #[inline]
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = (Name<'a>, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = match self.byte()? {
            0 => {
                let length = self.length()?;
                Name::Other(self.take(length)?)
            }
            number => Name::Known(number),
        };
        let length = self.length()?;
        Some((name, self.take(length)?))
    }
}

/// What is to be had of a name that is not among the known ones; `None` for what is no name, or not written as one should
/// be.
///
/// A backend has few names of its own and says them over and over. The last ones are remembered, so that naming a field
/// is no allocation.
fn with_other<R>(text: &[u8], of: impl FnOnce(&HeaderName) -> R) -> Option<R> {
    const REMEMBERED: usize = 128;
    thread_local! {
        static NAMES: RefCell<[Option<HeaderName>; REMEMBERED]> = const { RefCell::new([const { None }; REMEMBERED]) };
    }
    let (first, last) = (usize::from(*text.first()?), usize::from(*text.last()?));
    let middle = text.get(text.len() / 2).map_or(0, |b| usize::from(*b));
    let slot = (text.len() ^ first << 1 ^ middle << 2 ^ last << 4) % REMEMBERED;
    NAMES.with_borrow_mut(|names| {
        let kept = names.get_mut(slot)?;
        if let Some(name) = kept.as_ref().filter(|name| name.as_str().as_bytes() == text) {
            return Some(of(name));
        }
        let name = HeaderName::from_bytes(text).ok()?;
        // In lower case, and not one that has a number.
        let sound = name.as_str().as_bytes() == text && number(&name) == 0;
        sound.then(|| of(kept.insert(name)))
    })
}

/// The number of a known name, from 1; 0 = it is not known.
fn number(name: &HeaderName) -> u8 {
    static NUMBERS: LazyLock<HeaderMap<u8>> = LazyLock::new(|| KNOWN.iter().cloned().zip(1..).collect());
    NUMBERS.get(name).copied().unwrap_or(0)
}

macro_rules! known {
    ([$($standard:ident)*] [$($other:literal)*]) => {
        /// The names that have a number: their place here, from 1. What is stored is written by it, so names are only
        /// ever added, at the end, and with a new version of the codec: an older reader does not know the number, and a
        /// newer one takes the name's text for another spelling.
        static KNOWN: [HeaderName; known!(@ $($standard)*) + known!(@ $($other)*)] =
            [$(header::$standard,)* $(HeaderName::from_static($other),)*];
    };
    (@ $($one:tt)*) => { <[&str]>::len(&[$(stringify!($one)),*]) };
}

known! {
    [
        ACCEPT ACCEPT_CHARSET ACCEPT_ENCODING ACCEPT_LANGUAGE ACCEPT_RANGES ACCESS_CONTROL_ALLOW_CREDENTIALS
        ACCESS_CONTROL_ALLOW_HEADERS ACCESS_CONTROL_ALLOW_METHODS ACCESS_CONTROL_ALLOW_ORIGIN
        ACCESS_CONTROL_EXPOSE_HEADERS ACCESS_CONTROL_MAX_AGE ACCESS_CONTROL_REQUEST_HEADERS
        ACCESS_CONTROL_REQUEST_METHOD AGE ALLOW ALT_SVC AUTHORIZATION CACHE_CONTROL CACHE_STATUS CDN_CACHE_CONTROL
        CONNECTION CONTENT_DISPOSITION CONTENT_ENCODING CONTENT_LANGUAGE CONTENT_LENGTH CONTENT_LOCATION
        CONTENT_RANGE CONTENT_SECURITY_POLICY CONTENT_SECURITY_POLICY_REPORT_ONLY CONTENT_TYPE COOKIE DNT DATE ETAG
        EXPECT EXPIRES FORWARDED FROM HOST IF_MATCH IF_MODIFIED_SINCE IF_NONE_MATCH IF_RANGE IF_UNMODIFIED_SINCE
        LAST_MODIFIED LINK LOCATION MAX_FORWARDS ORIGIN PRAGMA PROXY_AUTHENTICATE PROXY_AUTHORIZATION
        PUBLIC_KEY_PINS PUBLIC_KEY_PINS_REPORT_ONLY RANGE REFERER REFERRER_POLICY REFRESH RETRY_AFTER
        SEC_WEBSOCKET_ACCEPT SEC_WEBSOCKET_EXTENSIONS SEC_WEBSOCKET_KEY SEC_WEBSOCKET_PROTOCOL
        SEC_WEBSOCKET_VERSION SERVER SET_COOKIE STRICT_TRANSPORT_SECURITY TE TRAILER TRANSFER_ENCODING UPGRADE
        UPGRADE_INSECURE_REQUESTS USER_AGENT VARY VIA WARNING WWW_AUTHENTICATE X_CONTENT_TYPE_OPTIONS
        X_DNS_PREFETCH_CONTROL X_FRAME_OPTIONS X_XSS_PROTECTION
    ]
    [
        "accept-ch" "accept-patch" "accept-post" "cf-cache-status" "cf-ray" "clear-site-data" "content-digest"
        "cross-origin-embedder-policy" "cross-origin-opener-policy" "cross-origin-resource-policy" "deprecation"
        "digest" "expect-ct" "feature-policy" "idempotency-key" "keep-alive" "nel" "no-vary-search" "origin-agent-cluster"
        "permissions-policy" "preference-applied" "priority" "ratelimit" "ratelimit-limit" "ratelimit-policy"
        "ratelimit-remaining" "ratelimit-reset" "report-to" "reporting-endpoints" "repr-digest" "server-timing"
        "sourcemap" "sunset" "surrogate-control" "timing-allow-origin" "traceparent" "tracestate" "x-amz-cf-id"
        "x-amz-request-id" "x-amzn-requestid" "x-amzn-trace-id" "x-api-version" "x-aspnet-version" "x-cache"
        "x-correlation-id" "x-content-duration" "x-download-options" "x-envoy-upstream-service-time"
        "x-permitted-cross-domain-policies" "x-powered-by" "x-ratelimit-limit" "x-ratelimit-remaining"
        "x-ratelimit-reset" "x-request-id" "x-response-time" "x-robots-tag" "x-runtime" "x-served-by" "x-trace-id"
        "x-total-count" "x-ua-compatible" "x-version"
    ]
}

#[cfg(test)]
mod tests;
