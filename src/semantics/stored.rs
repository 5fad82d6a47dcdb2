//! A stored response (RFC 9111 §3) and the windows of its life.
//!
//! ```text
//! response_time - initial_age
//!   |--------- fresh ---------|- stale-while-revalidate -|
//!                             |- stale-if-error -------------|
//!                             |- keep: only to validate --------|→ gone
//! ```
//!
//! All arithmetic saturates: a window may be as long as the operator likes.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, CONNECTION, CONTENT_LENGTH, DATE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::block::{self, Fields};
use super::coding::{Coded, Coding};
use super::timestamp::Timestamp;
use super::vary::Selecting;
use super::{fields, freshness, validation};

/// A whole response as the cache keeps it: packed, since there may be millions.
///
/// Its fields are what may be sent again: no hop-by-hop fields, no `Age`, no tag-carrying fields
/// (`Surrogate-Key`, `Cache-Tag`, `xkey`). `Content-Length` is not kept; it follows from the content. They lie in a
/// [`block`], and a content that is not large lies behind them in the same piece of memory, so that none keeps alive the
/// buffer it was received in. Durations have milliseconds.
#[derive(Clone)]
pub struct StoredResponse {
    content: Content,
    response_time: Timestamp,
    /// `None` = all requests select it.
    selecting: Option<Box<Selecting>>,
    initial_age: Span,
    fresh: Span,
    stale_while_revalidate: Span,
    stale_if_error: Span,
    keep: Span,
    /// Length of a content that was coded here, without its coding.
    plain_length: Span,
    coding: Option<Coding>,
    always_validate: bool,
    must_revalidate: bool,
    status: StatusCode,
}

/// A stored response with its parts in the open.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// Status of the response.
    pub status: StatusCode,
    /// End-to-end fields, in the order received.
    pub headers: HeaderMap,
    /// The complete content, coded by this cache if `coded` says so.
    pub body: Bytes,
    /// How this cache coded the content; by `headers` it is uncoded.
    pub coded: Option<Coded>,
    /// When its head arrived (RFC 9111 §4.2.3 `response_time`).
    pub response_time: Timestamp,
    /// `corrected_initial_age` of RFC 9111 §4.2.3.
    pub initial_age: Duration,
    /// Its windows, computed once when it was stored or freshened.
    pub lifetimes: Lifetimes,
    /// The request fields its `Vary` nominated, with the (normalised) values of its own request.
    pub selecting: Selecting,
}

/// Contents up to this many bytes are copied to lie behind their fields.
pub const JOINED: usize = 16 << 10;

/// Where fields and content lie.
#[derive(Clone)]
enum Content {
    /// In one piece: the fields, then from byte `at` on the content. What lies before `from` is of no interest, but there.
    Joined { whole: Bytes, from: u32, at: u32 },
    /// Apart: the block of fields, and the content.
    Apart(Box<(Bytes, Bytes)>),
}

impl Content {
    /// Of a block that is in other memory.
    fn of_block(fields: &[u8], body: Bytes) -> Content {
        Content::join(with_room(fields, body.len()), body)
    }

    /// Of a block, and most cheaply where it has just the room that the content needs.
    fn join(mut fields: Vec<u8>, body: Bytes) -> Content {
        match u32::try_from(fields.len()) {
            Ok(at) if body.len() <= JOINED => {
                fields.reserve_exact(body.len());
                fields.extend_from_slice(&body);
                fields.shrink_to_fit();
                Content::Joined { whole: fields.into(), from: 0, at }
            }
            _ => {
                fields.shrink_to_fit();
                Content::Apart(Box::new((fields.into(), body)))
            }
        }
    }

    fn fields(&self) -> Fields<'_> {
        match self {
            Content::Joined { whole, from, at } => Fields::new(whole, *from as usize..*at as usize),
            Content::Apart(parts) => Fields::new(&parts.0, 0..parts.0.len()),
        }
    }

    fn body(&self) -> Bytes {
        match self {
            Content::Joined { whole, at, .. } => whole.slice((*at as usize).min(whole.len())..),
            Content::Apart(parts) => parts.1.clone(),
        }
    }

    fn body_bytes(&self) -> &[u8] {
        match self {
            Content::Joined { whole, at, .. } => whole.get(*at as usize..).unwrap_or_default(),
            Content::Apart(parts) => &parts.1,
        }
    }
}

/// A block in memory that has room for a content of so many bytes too, if that is to lie behind it.
fn with_room(fields: &[u8], content: usize) -> Vec<u8> {
    let joined = if content <= JOINED { content } else { 0 };
    let mut whole = Vec::with_capacity(fields.len() + joined);
    whole.extend_from_slice(fields);
    whole
}

/// Writes a block, and looks at it: how long it is, is known only then.
fn written<'a, R>(
    fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    look: impl FnOnce(&[u8]) -> R,
) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        block::write(fields, scratch);
        let seen = look(scratch);
        // One that is large is not kept for the sake of those that are not.
        scratch.shrink_to(JOINED);
        seen
    })
}

/// Whole milliseconds, up to some 8,900 years, in six bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Span([u8; 6]);

impl Span {
    const MOST: u64 = (1 << 48) - 1;

    fn of(n: u64) -> Span {
        let [a, b, c, d, e, f, ..] = n.min(Span::MOST).to_le_bytes();
        Span([a, b, c, d, e, f])
    }

    fn get(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        // Rounded up: the time has whole milliseconds, and is before the end of a millisecond if before a part of it.
        let whole = duration.as_nanos().div_ceil(1_000_000);
        Span::of(u64::try_from(whole).unwrap_or(u64::MAX))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        Duration::from_millis(span.get())
    }
}

/// The windows of a stored response, all counted from the moment its age was zero except where said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lifetimes {
    /// Freshness lifetime: how long it may be reused without a word to the upstream.
    pub fresh: Duration,
    /// How long after `fresh` it may be served while a refresh runs (RFC 5861 §3).
    pub stale_while_revalidate: Duration,
    /// How long after `fresh` it may be served when the upstream fails (RFC 5861 §4).
    pub stale_if_error: Duration,
    /// How long after `fresh` it is kept at all, to be validated.
    pub keep: Duration,
    /// `no-cache`: every reuse needs a successful validation first.
    pub always_validate: bool,
    /// `must-revalidate`, `proxy-revalidate` or `s-maxage`: never served stale by the client's leave. The windows
    /// above are then zero, unless the backend itself gave them beside `s-maxage`.
    pub must_revalidate: bool,
}

impl Lifetimes {
    /// The age past which nothing can be done with the entry any more.
    pub fn gone_after(&self) -> Duration {
        self.fresh.saturating_add(self.stale_while_revalidate.max(self.stale_if_error).max(self.keep))
    }
}

/// Fields that carry tags for Weir alone (and would tell a client which); they go before storing.
const TAG_FIELDS: [HeaderName; 4] = [
    HeaderName::from_static("surrogate-key"),
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("xkey"),
    HeaderName::from_static("cache-groups"),
];

/// Removes what a stored response does not keep: hop-by-hop fields, `Age`, `Content-Length`, `Trailer`
/// (trailers are not stored) and tag-carrying fields.
pub fn strip_for_storage(headers: &mut HeaderMap) {
    let nominated = nominated(headers);
    let gone: Vec<HeaderName> = headers.keys().filter(|name| !is_kept(name, &nominated)).cloned().collect();
    for name in &gone {
        headers.remove(name);
    }
}

/// Whether a stored response keeps this field; `nominated` are those that `Connection` names.
fn is_kept(name: &HeaderName, nominated: &[HeaderName]) -> bool {
    // So do the others begin, and so long are they: a look tells of most that they are none.
    let text = name.as_str().as_bytes();
    let may_go = match text.first() {
        Some(b'a') => text.len() == 3,
        Some(b'c') => matches!(text.len(), 9 | 12 | 14),
        Some(b's') => text.len() == 13,
        Some(b't') => text.len() == 7,
        Some(b'x') => text.len() == 4,
        _ => false,
    };
    let kept = !may_go || ![AGE, CONTENT_LENGTH, TRAILER].contains(name) && !TAG_FIELDS.contains(name);
    kept && !fields::is_of_connection(name) && !nominated.contains(name)
}

fn nominated(headers: &HeaderMap) -> Vec<HeaderName> {
    if headers.contains_key(CONNECTION) { fields::nominated(headers) } else { Vec::new() }
}

/// Records the moment of receipt as `Date` where a response has none (RFC 9110 §6.6.1).
pub(super) fn ensure_date(headers: &mut HeaderMap, response_time: Timestamp) {
    if let Some(date) = missing_date(headers, response_time) {
        headers.insert(DATE, date);
    }
}

fn missing_date(headers: &HeaderMap, response_time: Timestamp) -> Option<HeaderValue> {
    // An IMF-fixdate is visible ASCII, so the conversion cannot fail.
    (!headers.contains_key(DATE)).then(|| HeaderValue::try_from(response_time.to_http_date()).ok()).flatten()
}

/// A response as it is going to be stored, while its content is on its way.
#[derive(Debug)]
pub struct Beginning {
    /// A block, perhaps with room for the content.
    fields: Vec<u8>,
    status: StatusCode,
    response_time: Timestamp,
    initial_age: Duration,
    lifetimes: Lifetimes,
    selecting: Selecting,
}

impl Beginning {
    /// Of a head as received: computes its age, leaves out what is not kept, dates it. Room is made for a content of
    /// `room` bytes.
    pub fn of(
        status: StatusCode,
        headers: &HeaderMap,
        request_time: Timestamp,
        response_time: Timestamp,
        lifetimes: Lifetimes,
        selecting: Selecting,
        room: usize,
    ) -> Beginning {
        let (nominated, date) = (nominated(headers), missing_date(headers, response_time));
        let kept = headers.iter().filter(|(name, _)| is_kept(name, &nominated));
        let dated = kept.chain(date.as_ref().map(|date| (&DATE, date)));
        let fields = written(dated, |fields| with_room(fields, room));
        let initial_age = freshness::initial_age(headers, request_time, response_time);
        Beginning { fields, status, response_time, initial_age, lifetimes, selecting }
    }

    /// With all its content.
    pub fn with(self, body: Bytes) -> StoredResponse {
        let Beginning { fields, status, response_time, initial_age, lifetimes, selecting } = self;
        let content = Content::join(fields, body);
        let mut packed = StoredResponse::around(content, status, response_time, initial_age, selecting);
        packed.set_lifetimes(lifetimes);
        packed
    }
}

impl StoredResponse {
    /// Makes one from a response as received: computes its age, strips what is not kept, dates it.
    pub fn new(
        status: StatusCode,
        mut headers: HeaderMap,
        body: Bytes,
        request_time: Timestamp,
        response_time: Timestamp,
        lifetimes: Lifetimes,
        selecting: Selecting,
    ) -> StoredResponse {
        // The larger table leaves the next entry no gap that is almost of its size, which some allocators would give it
        // whole.
        headers.reserve(1);
        let room = body.len();
        Beginning::of(status, &headers, request_time, response_time, lifetimes, selecting, room).with(body)
    }

    /// One without windows.
    fn around(
        content: Content,
        status: StatusCode,
        response_time: Timestamp,
        initial_age: Duration,
        selecting: Selecting,
    ) -> StoredResponse {
        let none = Span::of(0);
        StoredResponse {
            content,
            response_time,
            selecting: (!selecting.0.is_empty()).then(|| Box::new(selecting)),
            initial_age: initial_age.into(),
            fresh: none,
            stale_while_revalidate: none,
            stale_if_error: none,
            keep: none,
            plain_length: none,
            coding: None,
            always_validate: false,
            must_revalidate: false,
            status,
        }
    }

    /// One whose fields and content lie in `whole` already: from byte `from` on a block, then the content. `about` says
    /// the rest. `None` = there is no block.
    pub fn of_whole(about: Unpacked, whole: Bytes, from: usize) -> Option<StoredResponse> {
        let at = u32::try_from(from + block::check(whole.get(from..)?)?).ok()?;
        let from = u32::try_from(from).ok()?;
        Some(about.pack_around(Content::Joined { whole, from, at }))
    }

    /// One whose fields are the block that `bytes` begin with, and whose content of `size` bytes `fill` adds to what it is
    /// given, from the bytes behind the block. `about` says the rest. `None` = there is no block, or no such content.
    pub fn of_block(
        about: Unpacked,
        bytes: &[u8],
        size: usize,
        fill: impl FnOnce(Vec<u8>, &[u8]) -> Option<Vec<u8>>,
    ) -> Option<StoredResponse> {
        let (fields, behind) = bytes.split_at_checked(block::check(bytes)?)?;
        let content = if size <= JOINED {
            let whole = fill(with_room(fields, size), behind)?;
            let sound = whole.len() == fields.len() + size && whole.starts_with(fields);
            let at = u32::try_from(fields.len()).ok().filter(|_| sound)?;
            Content::Joined { whole: whole.into(), from: 0, at }
        } else {
            let body = fill(Vec::with_capacity(size), behind).filter(|body| body.len() == size)?;
            Content::Apart(Box::new((fields.to_vec().into(), body.into())))
        };
        Some(about.pack_around(content))
    }

    /// With its parts in the open.
    pub fn unpack(&self) -> Unpacked {
        Unpacked {
            status: self.status,
            headers: self.fields().to_map(0),
            body: self.body(),
            coded: self.coded(),
            response_time: self.response_time,
            initial_age: self.initial_age(),
            lifetimes: self.lifetimes(),
            selecting: self.selecting().clone(),
        }
    }

    /// The same in memory of its own: what came as a part of something larger no longer keeps all of that.
    pub fn compact(&self) -> StoredResponse {
        let content = match &self.content {
            Content::Joined { whole, from, at } if *from > 0 && whole.len() <= JOINED => {
                let own: Box<[u8]> = whole.get(*from as usize..).unwrap_or_default().into();
                Content::Joined { whole: own.into(), from: 0, at: at - from }
            }
            content => content.clone(),
        };
        StoredResponse { content, ..self.clone() }
    }

    /// Changes parts of it.
    pub fn change(&mut self, with: impl FnOnce(&mut Unpacked)) {
        let mut parts = self.unpack();
        with(&mut parts);
        *self = parts.pack();
    }

    /// Status of the response.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// End-to-end fields, in the order received.
    pub fn fields(&self) -> Fields<'_> {
        self.content.fields()
    }

    /// The complete content, coded by this cache if [`StoredResponse::coded`] says so; it shares the stored memory.
    pub fn body(&self) -> Bytes {
        self.content.body()
    }

    /// Length of the content as it is kept, bytes.
    pub fn content_size(&self) -> u64 {
        self.body_bytes().len() as u64
    }

    /// The complete content, to look at.
    pub fn body_bytes(&self) -> &[u8] {
        self.content.body_bytes()
    }

    /// How this cache coded the content; by its fields it is uncoded.
    pub fn coded(&self) -> Option<Coded> {
        self.coding.map(|coding| Coded { coding, length: self.plain_length.get() })
    }

    /// Says how this cache coded the content that was given.
    pub fn set_coded(&mut self, coded: Option<Coded>) {
        self.coding = coded.map(|coded| coded.coding);
        self.plain_length = Span::of(coded.map_or(0, |coded| coded.length));
    }

    /// When its head arrived (RFC 9111 §4.2.3 `response_time`).
    pub fn response_time(&self) -> Timestamp {
        self.response_time
    }

    /// `corrected_initial_age` of RFC 9111 §4.2.3.
    pub fn initial_age(&self) -> Duration {
        self.initial_age.into()
    }

    /// Its windows, computed once when it was stored or freshened.
    pub fn lifetimes(&self) -> Lifetimes {
        Lifetimes {
            fresh: self.fresh.into(),
            stale_while_revalidate: self.stale_while_revalidate.into(),
            stale_if_error: self.stale_if_error.into(),
            keep: self.keep.into(),
            always_validate: self.always_validate,
            must_revalidate: self.must_revalidate,
        }
    }

    /// Gives it other windows.
    pub fn set_lifetimes(&mut self, lifetimes: Lifetimes) {
        self.fresh = lifetimes.fresh.into();
        self.stale_while_revalidate = lifetimes.stale_while_revalidate.into();
        self.stale_if_error = lifetimes.stale_if_error.into();
        self.keep = lifetimes.keep.into();
        self.always_validate = lifetimes.always_validate;
        self.must_revalidate = lifetimes.must_revalidate;
    }

    /// The request fields its `Vary` nominated, with the (normalised) values of its own request.
    pub fn selecting(&self) -> &Selecting {
        const ALL: &Selecting = &Selecting(Vec::new());
        self.selecting.as_deref().unwrap_or(ALL)
    }

    /// `current_age` of RFC 9111 §4.2.3.
    pub fn current_age(&self, now: Timestamp) -> Duration {
        self.initial_age().saturating_add(now.since(self.response_time))
    }

    /// Length of the content as the backend sent it, bytes.
    pub fn content_length(&self) -> u64 {
        self.coded().map_or(self.body_bytes().len() as u64, |coded| coded.length)
    }

    /// Whether every window has closed.
    pub fn is_gone(&self, now: Timestamp) -> bool {
        self.current_age(now) >= self.lifetimes().gone_after()
    }

    /// How long from `now` until every window has closed; zero when they have.
    pub fn remaining(&self, now: Timestamp) -> Duration {
        self.lifetimes().gone_after().saturating_sub(self.current_age(now))
    }

    /// Whether there is something to ask the upstream about: an `ETag` or a usable `Last-Modified`.
    pub fn has_validator(&self) -> bool {
        validation::has_validator(&self.fields(), self.response_time)
    }

    /// The pieces of memory that hold it, bytes each: first the one that fields, and mostly content, lie in.
    pub fn pieces(&self) -> [usize; 3] {
        let selecting = self.selecting.iter().flat_map(|selecting| &selecting.0);
        let selecting: usize = selecting
            .map(|(name, value)| SELECTING + name.as_str().len() + value.as_ref().map_or(0, HeaderValue::len))
            .sum();
        match &self.content {
            Content::Joined { whole, .. } => [whole.len(), 0, selecting],
            Content::Apart(parts) => [parts.0.len(), parts.1.len(), selecting],
        }
    }
}

/// What a selecting field takes beside its text.
const SELECTING: usize = size_of::<(HeaderName, Option<HeaderValue>)>();

impl Unpacked {
    /// As it is kept.
    pub fn pack(self) -> StoredResponse {
        let content = written(&self.headers, |fields| Content::of_block(fields, self.body.clone()));
        self.pack_around(content)
    }

    fn pack_around(self, content: Content) -> StoredResponse {
        let Unpacked { status, response_time, initial_age, selecting, .. } = self;
        let mut packed = StoredResponse::around(content, status, response_time, initial_age, selecting);
        packed.set_coded(self.coded);
        packed.set_lifetimes(self.lifetimes);
        packed
    }
}

impl std::fmt::Debug for StoredResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.unpack().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stored(headers: HeaderMap) -> StoredResponse {
        StoredResponse::new(
            StatusCode::OK,
            headers,
            Bytes::from_static(b"x"),
            Timestamp(9_000),
            Timestamp(10_000),
            Lifetimes {
                fresh: Duration::from_secs(60),
                keep: Duration::from_secs(30),
                ..Lifetimes::default()
            },
            Selecting::default(),
        )
    }

    #[test]
    fn what_is_not_kept_goes_and_what_is_missing_comes() {
        let mut headers = HeaderMap::new();
        for name in [
            "connection",
            "transfer-encoding",
            "age",
            "content-length",
            "trailer",
            "surrogate-key",
            "cache-tag",
            "xkey",
            "cache-groups",
            "x-nominated",
            "content-type",
            "etag",
        ] {
            headers.insert(name, HeaderValue::from_static("x-nominated"));
        }
        headers.insert(AGE, HeaderValue::from_static("5"));
        let stored = stored(headers);
        let headers = stored.fields().to_map(0);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "etag", "date"], "in the order received");
        assert_eq!(headers[DATE], "Thu, 01 Jan 1970 00:00:10 GMT");
        assert_eq!(stored.initial_age(), Duration::from_secs(6));
        assert!(stored.has_validator());
    }

    #[test]
    fn with_or_without_room_it_is_the_same() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("etag", "\"a\""), ("connection", "x-own"), ("x-own", "1"), ("age", "5")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for length in [0, 1, 100, JOINED, JOINED + 1] {
            let body = Bytes::from(vec![b'x'; length]);
            let of = |room| {
                let (lifetimes, selecting) = (Lifetimes::default(), Selecting::default());
                let (sent, came) = (Timestamp(9_000), Timestamp(10_000));
                Beginning::of(StatusCode::OK, &headers, sent, came, lifetimes, selecting, room)
                    .with(body.clone())
            };
            for room in [0, 1, length, JOINED, JOINED + 1] {
                let made = of(room);
                let names: Vec<_> = made.fields().to_map(0).keys().map(HeaderName::to_string).collect();
                assert_eq!(names, ["etag", "date"], "{length} {room}");
                assert_eq!(made.fields().to_map(0)[DATE], "Thu, 01 Jan 1970 00:00:10 GMT");
                assert_eq!((made.body(), made.initial_age()), (body.clone(), Duration::from_secs(6)));
                assert_eq!(made.pieces(), of(length).pieces(), "{length} {room}");
            }
        }
    }

    #[test]
    fn windows_close() {
        let stored = stored(HeaderMap::new());
        assert!(!stored.is_gone(Timestamp(10_000)));
        assert_eq!(stored.remaining(Timestamp(10_000)), Duration::from_secs(89));
        assert!(!stored.is_gone(Timestamp(98_999)));
        assert!(stored.is_gone(Timestamp(99_000)));
        assert_eq!(stored.remaining(Timestamp(100_000)), Duration::ZERO);
        assert!(!stored.has_validator());
    }

    #[test]
    fn endless_windows_do_not_overflow() {
        let endless = Lifetimes { fresh: Duration::MAX, keep: Duration::MAX, ..Lifetimes::default() };
        let mut stored = stored(HeaderMap::new());
        stored.change(|parts| (parts.lifetimes, parts.initial_age) = (endless, Duration::MAX));
        let longest = Duration::from_millis(Span::MOST);
        assert!(stored.current_age(Timestamp(u64::MAX)) > longest);
        assert_eq!(stored.lifetimes().keep, longest);
        assert_eq!(stored.lifetimes().gone_after(), longest * 2);
        assert_eq!(endless.gone_after(), Duration::MAX);
    }

    proptest! {
        #[test]
        fn age_never_falls_as_time_passes(earlier: u64, later: u64) {
            let (earlier, later) = (earlier.min(later), earlier.max(later));
            let stored = stored(HeaderMap::new());
            prop_assert!(stored.current_age(Timestamp(earlier)) <= stored.current_age(Timestamp(later)));
            prop_assert!(!stored.is_gone(Timestamp(earlier)) || stored.is_gone(Timestamp(later)));
        }
    }
}
