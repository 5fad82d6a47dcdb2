//! `Cache-Status` (RFC 9211) and the one vocabulary of outcomes that the response header, the access
//! log, the metrics labels and the admin API share.
//!
//! Rendering never fails: a name or detail that is no token becomes a string, and what no string may
//! hold becomes `?` (RFC 8941 §3.3.3). One allocation per member.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::lists;

/// The field.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request went forward to the upstream (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Forward {
    /// The cache was configured not to handle this request.
    Bypass,
    /// The method's semantics require it.
    Method,
    /// No stored response for the URI.
    UriMiss,
    /// A stored response for the URI, but none this request's fields select.
    VaryMiss,
    /// No stored response could be used, and no closer reason is known.
    Miss,
    /// A fresh response was stored, but the request's fields asked for the upstream.
    Request,
    /// A stored response was stale.
    Stale,
    /// Only part of the representation was stored.
    Partial,
}

impl Forward {
    /// All of them, for tables and metrics.
    pub const ALL: [Forward; 8] = [
        Forward::Bypass,
        Forward::Method,
        Forward::UriMiss,
        Forward::VaryMiss,
        Forward::Miss,
        Forward::Request,
        Forward::Stale,
        Forward::Partial,
    ];

    /// The token of RFC 9211 §2.2.
    pub fn as_str(self) -> &'static str {
        match self {
            Forward::Bypass => "bypass",
            Forward::Method => "method",
            Forward::UriMiss => "uri-miss",
            Forward::VaryMiss => "vary-miss",
            Forward::Miss => "miss",
            Forward::Request => "request",
            Forward::Stale => "stale",
            Forward::Partial => "partial",
        }
    }
}

/// How a request ended, as one word: metrics label, log field, `X-Cache`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered from a fresh stored response.
    Hit,
    /// Answered from a stale stored response, while it is refreshed or because the upstream failed.
    Stale,
    /// Fetched from the upstream for this request.
    Miss,
    /// Answered from a fetch that another request had begun.
    Coalesced,
    /// A stored response was validated upstream (304) and reused.
    Revalidated,
    /// Forwarded without the cache taking part.
    Pass,
    /// An unsafe method forwarded, with the purges that follow.
    Mutation,
    /// Answered by Weir itself because the upstream could not (502, 503, 504) or the request was refused.
    Error,
}

impl Outcome {
    /// All of them, for tables and metrics.
    pub const ALL: [Outcome; 8] = [
        Outcome::Hit,
        Outcome::Stale,
        Outcome::Miss,
        Outcome::Coalesced,
        Outcome::Revalidated,
        Outcome::Pass,
        Outcome::Mutation,
        Outcome::Error,
    ];
    /// The word itself.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Hit => "hit",
            Outcome::Stale => "stale",
            Outcome::Miss => "miss",
            Outcome::Coalesced => "coalesced",
            Outcome::Revalidated => "revalidated",
            Outcome::Pass => "pass",
            Outcome::Mutation => "mutation",
            Outcome::Error => "error",
        }
    }
}

/// One member of a `Cache-Status` field: what Weir did with a request, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheStatus {
    /// `hit`: answered without going forward.
    pub hit: bool,
    /// `fwd`: why it went forward. Never together with `hit`.
    pub forward: Option<Forward>,
    /// `fwd-status`: the upstream's status where it differs from the one sent.
    pub forward_status: Option<u16>,
    /// `stored`: the answer was stored.
    pub stored: bool,
    /// `collapsed`: the request shared another's fetch. Rendered, like `fwd-status` and `stored`, only
    /// beside `fwd`, as RFC 9211 §2.3–2.6 has it.
    pub collapsed: bool,
    /// `ttl`: remaining freshness in seconds, negative when stale.
    pub ttl: Option<i64>,
    /// `key`: the cache key's digest in hex, where the operator asked for it.
    pub key: Option<String>,
    /// `detail`: a short token or sentence naming the tier or the reason (`memory`, `no-store`, …).
    pub detail: Option<&'static str>,
}

impl CacheStatus {
    /// Renders the member under the cache's name, e.g. `weir; hit; ttl=278; detail=memory`.
    pub fn render(&self, cache: &str) -> HeaderValue {
        let mut out = String::with_capacity(cache.len() + 64 + self.key.as_ref().map_or(0, String::len));
        push_item(&mut out, cache);
        match self.forward {
            _ if self.hit => out.push_str("; hit"),
            Some(forward) => self.push_forward(&mut out, forward),
            None => {}
        }
        if let Some(ttl) = self.ttl {
            let ttl = ttl.clamp(-LARGEST_INTEGER, LARGEST_INTEGER);
            out.push_str("; ttl=");
            out.push_str(itoa::Buffer::new().format(ttl));
        }
        if let Some(key) = &self.key {
            out.push_str("; key=");
            push_string(&mut out, key);
        }
        if let Some(detail) = self.detail {
            out.push_str("; detail=");
            push_item(&mut out, detail);
        }
        // All of it is visible ASCII and space, so the conversion cannot fail.
        HeaderValue::from_maybe_shared(Bytes::from(out)).unwrap_or(HeaderValue::from_static("cache"))
    }

    fn push_forward(&self, out: &mut String, forward: Forward) {
        out.push_str("; fwd=");
        out.push_str(forward.as_str());
        if let Some(status) = self.forward_status {
            out.push_str("; fwd-status=");
            out.push_str(itoa::Buffer::new().format(status));
        }
        if self.stored {
            out.push_str("; stored");
        }
        if self.collapsed {
            out.push_str("; collapsed");
        }
    }
}

/// Whether what caches closer to the backend have said is a list (RFC 9211 §2). Where it is not, nobody could read a
/// member that is added to it.
pub fn is_readable(response: &HeaderMap) -> bool {
    let lines = response.get_all(&CACHE_STATUS).into_iter();
    let lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
    sfv::Parser::new(&lines.join(&b", "[..])).parse::<sfv::List>().is_ok()
}

/// The largest integer of a structured field (RFC 8941 §3.3.1).
const LARGEST_INTEGER: i64 = 999_999_999_999_999;

/// As a token where it is one, else as a string.
fn push_item(out: &mut String, text: &str) {
    if is_sf_token(text) { out.push_str(text) } else { push_string(out, text) }
}

/// `sf-token` (RFC 8941 §3.3.4).
fn is_sf_token(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(|&b| b.is_ascii_alphabetic() || b == b'*')
        && bytes.iter().all(|&b| lists::is_tchar(b) || b == b':' || b == b'/')
}

/// `sf-string` (RFC 8941 §3.3.3); characters it may not hold become `?`.
fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => out.push('?'),
        }
    }
    out.push('"');
}

/// Remaining freshness as RFC 9211 `ttl` counts it: whole seconds rounded down, negative once stale.
pub fn ttl_seconds(fresh: Duration, age: Duration) -> i64 {
    // Far beyond what a lifetime can be, and within what a subtraction can take.
    const MOST: u64 = i64::MAX as u64 / 4000;
    let millis = |d: Duration| d.as_secs().min(MOST) as i64 * 1000 + i64::from(d.subsec_millis());
    (millis(fresh) - millis(age)).div_euclid(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sfv::Parser;

    fn rendered(status: &CacheStatus, cache: &str) -> String {
        status.render(cache).to_str().unwrap().to_owned()
    }

    #[test]
    fn what_caches_behind_have_said_is_a_list_or_nothing() {
        for (lines, readable) in [
            (&[][..], true),
            (&["inner; hit"], true),
            (&["inner; hit, \"the middle\"; fwd=stale", "last"], true),
            (&[""], true),
            (&["inner; hit", "last; hit="], false),
            (&["inner,"], false),
            (&["\"inner"], false),
        ] {
            let mut headers = HeaderMap::new();
            lines.iter().for_each(|line| {
                headers.append(CACHE_STATUS, HeaderValue::from_static(line));
            });
            assert_eq!(is_readable(&headers), readable, "{lines:?}");
        }
    }

    #[test]
    fn members_as_the_standard_writes_them() {
        let hit = CacheStatus { hit: true, ttl: Some(278), detail: Some("memory"), ..CacheStatus::default() };
        assert_eq!(rendered(&hit, "weir"), "weir; hit; ttl=278; detail=memory");
        let miss = CacheStatus {
            forward: Some(Forward::UriMiss),
            forward_status: Some(200),
            stored: true,
            collapsed: true,
            key: Some("0a\"b".into()),
            ..CacheStatus::default()
        };
        assert_eq!(
            rendered(&miss, "weir"),
            r#"weir; fwd=uri-miss; fwd-status=200; stored; collapsed; key="0a\"b""#
        );
        let stale = CacheStatus {
            hit: true,
            ttl: Some(-12),
            detail: Some("stale if error"),
            ..CacheStatus::default()
        };
        assert_eq!(rendered(&stale, "weir"), r#"weir; hit; ttl=-12; detail="stale if error""#);
        assert_eq!(rendered(&CacheStatus::default(), "weir"), "weir");
    }

    #[test]
    fn what_belongs_to_fwd_is_not_said_without_it() {
        let both = CacheStatus {
            hit: true,
            forward: Some(Forward::Stale),
            forward_status: Some(304),
            stored: true,
            collapsed: true,
            ..CacheStatus::default()
        };
        assert_eq!(rendered(&both, "weir"), "weir; hit");
    }

    #[test]
    fn names_that_are_no_tokens_become_strings() {
        for (name, expected) in [
            ("weir", "weir"),
            ("*weir:a/b", "*weir:a/b"),
            ("edge cache", r#""edge cache""#),
            ("1st", r#""1st""#),
            ("", r#""""#),
            ("a\"\\b", r#""a\"\\b""#),
            ("b\u{fc}ro\n", r#""b?ro?""#),
        ] {
            assert_eq!(rendered(&CacheStatus::default(), name), expected, "{name}");
        }
    }

    #[test]
    fn every_word_is_its_own_token() {
        let forwards: std::collections::HashSet<_> = Forward::ALL.iter().map(|f| f.as_str()).collect();
        assert_eq!(forwards.len(), Forward::ALL.len());
        assert!(forwards.iter().all(|word| is_sf_token(word)));
        let outcomes: std::collections::HashSet<_> = Outcome::ALL.iter().map(|o| o.as_str()).collect();
        assert_eq!(outcomes.len(), Outcome::ALL.len());
    }

    #[test]
    fn remaining_freshness() {
        let ms = Duration::from_millis;
        for (fresh, age, expected) in
            [(5000, 0, 5), (5000, 1, 4), (5000, 5000, 0), (5000, 5001, -1), (0, 7000, -7)]
        {
            assert_eq!(ttl_seconds(ms(fresh), ms(age)), expected);
        }
        assert!(ttl_seconds(Duration::MAX, Duration::ZERO) > 0);
        assert!(ttl_seconds(Duration::ZERO, Duration::MAX) < 0);
    }

    proptest! {
        #[test]
        fn whatever_is_rendered_is_a_structured_field(
            name in ".{0,20}", key in proptest::option::of(".{0,20}"), ttl in proptest::option::of(any::<i64>()),
            hit: bool, stored: bool, collapsed: bool, status in proptest::option::of(any::<u16>()),
            forward in proptest::option::of(0..8usize),
            detail in proptest::sample::select(vec![None, Some("memory"), Some("not a token"), Some("\u{e9}\"\\"), Some("")]),
        ) {
            let forward = forward.map(|i| Forward::ALL[i]);
            let member = CacheStatus { hit, forward, forward_status: status, stored, collapsed, ttl, key, detail };
            let value = member.render(&name);
            prop_assert!(Parser::new(value.as_bytes()).parse::<sfv::List>().is_ok(), "{:?}", value);
        }
    }
}
