//! `Cache-Control` (RFC 9111 §5.2), read as leniently as the field is written and as strictly as safety needs.
//!
//! All lines count, names in any case, arguments as tokens or quoted strings, unknown directives are
//! skipped. Where the field is unclear the reading that stores and reuses less wins (RFC 9111 §4.2.1
//! leaves the choice open):
//!
//! - a directive that occurs twice: the shortest lifetime, the longest `min-fresh`;
//! - a lifetime that is no number (negative, fractional, empty, spaced, in an unclosed string): zero;
//! - a number too large to represent: 2^31 seconds (RFC 9111 §1.2.2);
//! - a field list (`private="x"`) with a name that is none: the directive without its list;
//! - a flag with a needless argument (`no-store=1`): the flag; one that allows something (`public`, `max-stale`,
//!   `must-understand` beside `no-store`) in an unclosed string or with a malformed argument: nothing allowed.
//!
//! Targeted fields (RFC 9213) say the same to some caches alone, as structured fields: strictly. One that cannot be
//! parsed is not there; a lifetime that is no integer (`?0` neither) is zero; `no-store=?0` says nothing; a value of
//! another type than the directive has (`private=5`) is malformed.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::lists;

/// The longest time that HTTP caching counts (RFC 9111 §1.2.2): 2^31 seconds.
pub const LONGEST: Duration = Duration::from_secs(1 << 31);

/// How far `no-cache` or `private` reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Scope {
    /// The directive is absent.
    #[default]
    Absent,
    /// It is about these fields alone (RFC 9111 §5.2.2.4, §5.2.2.7).
    Fields(Vec<HeaderName>),
    /// It is about the whole response.
    Whole,
}

impl Scope {
    /// Whether it reaches this response: whole, or by a field that the response has. Treating a named
    /// field that is there as the whole response is what RFC 9111 §5.2.2.4 and §5.2.2.7 allow for.
    pub fn reaches(&self, response: &HeaderMap) -> bool {
        match self {
            Scope::Absent => false,
            Scope::Fields(names) => names.iter().any(|name| response.contains_key(name)),
            Scope::Whole => true,
        }
    }

    fn widen(&mut self, argument: &Argument<'_>) {
        let listed = match argument {
            Argument::Text(text) => field_names(text),
            Argument::None | Argument::Malformed => None,
        };
        *self = match (std::mem::take(self), listed) {
            (Scope::Whole, _) | (_, None) => Scope::Whole,
            (Scope::Absent, Some(names)) => Scope::Fields(names),
            (Scope::Fields(mut known), Some(names)) => {
                known.extend(names);
                Scope::Fields(known)
            }
        };
    }
}

/// What a response's `Cache-Control` says (RFC 9111 §5.2.2, RFC 5861).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResponseDirectives {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, with or without fields.
    pub no_cache: Scope,
    /// `private`, with or without fields.
    pub private: Scope,
    /// `public`.
    pub public: bool,
    /// `must-revalidate`.
    pub must_revalidate: bool,
    /// `proxy-revalidate`.
    pub proxy_revalidate: bool,
    /// `must-understand`.
    pub must_understand: bool,
    /// `no-transform`.
    pub no_transform: bool,
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `s-maxage`.
    pub s_maxage: Option<Duration>,
    /// `stale-while-revalidate`.
    pub stale_while_revalidate: Option<Duration>,
    /// `stale-if-error`.
    pub stale_if_error: Option<Duration>,
    /// A targeted field said all this: then neither `Cache-Control` nor `Expires` counts (RFC 9213 §2.2).
    pub targeted: bool,
}

impl ResponseDirectives {
    /// What a response says to this cache: in the first of the targeted fields that is there, valid and not empty, else
    /// in `Cache-Control`.
    pub fn of(response: &HeaderMap, target_list: &[HeaderName]) -> ResponseDirectives {
        let mut targeted = target_list.iter().filter_map(|name| ResponseDirectives::targeted(response, name));
        targeted.next().unwrap_or_else(|| ResponseDirectives::untargeted(response))
    }

    /// Reads a targeted field.
    fn targeted(response: &HeaderMap, name: &HeaderName) -> Option<ResponseDirectives> {
        let lines: Vec<&[u8]> = response.get_all(name).into_iter().map(HeaderValue::as_bytes).collect();
        let dictionary = match lines.as_slice() {
            [] => return None,
            lines => sfv::Parser::new(&lines.join(&b", "[..])).parse::<sfv::Dictionary>().ok()?,
        };
        let mut found = ResponseDirectives { targeted: true, ..ResponseDirectives::default() };
        for (name, entry) in &dictionary {
            let argument = match entry {
                sfv::ListEntry::Item(item) => match &item.bare_item {
                    sfv::BareItem::Boolean(false) if !is_lifetime(name.as_str()) => continue,
                    sfv::BareItem::Boolean(true) => Argument::None,
                    sfv::BareItem::Integer(n) if is_lifetime(name.as_str()) => {
                        Argument::Text(Cow::Owned(n.to_string().into_bytes()))
                    }
                    sfv::BareItem::String(text) if !is_lifetime(name.as_str()) => {
                        Argument::Text(Cow::Borrowed(text.as_str().as_bytes()))
                    }
                    _ => Argument::Malformed,
                },
                sfv::ListEntry::InnerList(_) => Argument::Malformed,
            };
            found.take(name.as_str().as_bytes(), argument);
        }
        (!dictionary.is_empty()).then_some(found)
    }

    /// Reads every `Cache-Control` line. `Pragma` means nothing in a response (RFC 9111 §5.4).
    fn untargeted(response: &HeaderMap) -> ResponseDirectives {
        let mut found = ResponseDirectives::default();
        each_directive(response, |name, argument| found.take(name, argument));
        found
    }

    fn take(&mut self, name: &[u8], argument: Argument<'_>) {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.widen(&argument),
            b"private" => self.private.widen(&argument),
            b"public" => self.public |= argument != Argument::Malformed,
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            // It may lift no-store (RFC 9111 §5.2.2.3), so what is not clearly it forbids as no-store does.
            b"must-understand" if argument == Argument::Malformed => self.no_store = true,
            b"must-understand" => self.must_understand = true,
            b"no-transform" => self.no_transform = true,
            b"max-age" => shortest(&mut self.max_age, argument.lifetime()),
            b"s-maxage" => shortest(&mut self.s_maxage, argument.lifetime()),
            b"stale-while-revalidate" => shortest(&mut self.stale_while_revalidate, argument.lifetime()),
            b"stale-if-error" => shortest(&mut self.stale_if_error, argument.lifetime()),
            _ => {}
        }
    }
}

/// Directives whose argument is a number of seconds.
fn is_lifetime(directive: &str) -> bool {
    matches!(directive, "max-age" | "s-maxage" | "stale-while-revalidate" | "stale-if-error")
}

/// What a request's `Cache-Control` (or, without one, `Pragma`) says (RFC 9111 §5.2.1, RFC 5861 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestDirectives {
    /// `no-store`.
    pub no_store: bool,
    /// `no-cache`, or `Pragma: no-cache` where there is no `Cache-Control`.
    pub no_cache: bool,
    /// `only-if-cached`.
    pub only_if_cached: bool,
    /// `no-transform`.
    pub no_transform: bool,
    /// `max-age`.
    pub max_age: Option<Duration>,
    /// `min-fresh`; a malformed one is not there.
    pub min_fresh: Option<Duration>,
    /// `max-stale`, [`LONGEST`] when it has no argument; a malformed one is not there.
    pub max_stale: Option<Duration>,
    /// `stale-if-error`; a malformed one is zero.
    pub stale_if_error: Option<Duration>,
}

impl RequestDirectives {
    /// Reads every `Cache-Control` line of a request, or its `Pragma` where there is none (RFC 9111 §5.4).
    pub fn of(request: &HeaderMap) -> RequestDirectives {
        let mut found = RequestDirectives::default();
        if request.contains_key(CACHE_CONTROL) {
            each_directive(request, |name, argument| found.take(name, argument));
        } else {
            let lines = request.get_all(PRAGMA).into_iter();
            found.no_cache = lines
                .flat_map(|line| lists::members(line.as_bytes()))
                .any(|member| member.eq_ignore_ascii_case(b"no-cache"));
        }
        found
    }

    fn take(&mut self, name: &[u8], argument: Argument<'_>) {
        match name {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"no-transform" => self.no_transform = true,
            b"max-age" => shortest(&mut self.max_age, argument.lifetime()),
            b"stale-if-error" => shortest(&mut self.stale_if_error, argument.lifetime()),
            b"min-fresh" => self.min_fresh = self.min_fresh.max(argument.seconds()),
            b"max-stale" => {
                let given = if argument == Argument::None { Some(LONGEST) } else { argument.seconds() };
                if let Some(given) = given {
                    shortest(&mut self.max_stale, given);
                }
            }
            _ => {}
        }
    }
}

/// What stands after a directive's `=`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument<'a> {
    /// No `=` at all.
    None,
    /// The text, quotes and escapes resolved.
    Text(Cow<'a, [u8]>),
    /// Neither token nor quoted string.
    Malformed,
}

impl Argument<'_> {
    /// As delta-seconds; `None` when it is no such thing.
    fn seconds(&self) -> Option<Duration> {
        match self {
            Argument::Text(text) => delta_seconds(text),
            Argument::None | Argument::Malformed => None,
        }
    }

    /// As a lifetime: what cannot be read has none (RFC 9111 §4.2.1 encourages that).
    fn lifetime(&self) -> Duration {
        self.seconds().unwrap_or(Duration::ZERO)
    }
}

/// `1*DIGIT` as a time, saturating at [`LONGEST`]; `None` for anything else.
pub(super) fn delta_seconds(digits: &[u8]) -> Option<Duration> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds =
        digits.iter().fold(0u64, |sum, d| sum.saturating_mul(10).saturating_add(u64::from(d - b'0')));
    Some(Duration::from_secs(seconds).min(LONGEST))
}

fn shortest(known: &mut Option<Duration>, given: Duration) {
    *known = Some(known.map_or(given, |known| known.min(given)));
}

/// Longer names than this are nobody's here.
const LONGEST_NAME: usize = 32;

/// Calls `take` with each directive's name in lower case and its argument.
fn each_directive(headers: &HeaderMap, mut take: impl FnMut(&[u8], Argument<'_>)) {
    for line in headers.get_all(CACHE_CONTROL) {
        let mut list = lists::members(line.as_bytes());
        while let Some(member) = list.next() {
            let (name, argument) = directive(member);
            // Inside a string that is never closed nothing is granted, not even by a mere name.
            let argument = if list.broken() { Argument::Malformed } else { argument };
            let mut lower = [0; LONGEST_NAME];
            if let Some(lower) = lower.get_mut(..name.len()) {
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                take(lower, argument);
            }
        }
    }
}

/// Splits `name=argument`. Space beside the `=` is no part of the grammar, and makes the argument malformed.
fn directive(member: &[u8]) -> (&[u8], Argument<'_>) {
    let Some(at) = member.iter().position(|&b| b == b'=') else { return (member, Argument::None) };
    let (name, argument) = (&member[..at], &member[at + 1..]);
    let spaced = name.last().is_some_and(u8::is_ascii_whitespace);
    (name.trim_ascii_end(), if spaced { Argument::Malformed } else { parse_argument(argument) })
}

fn parse_argument(argument: &[u8]) -> Argument<'_> {
    match argument {
        [b'"', inner @ .., b'"'] => unquote(inner).map_or(Argument::Malformed, Argument::Text),
        token if lists::is_token(token) => Argument::Text(Cow::Borrowed(token)),
        _ => Argument::Malformed,
    }
}

/// The content of a quoted-string without its quotes; `None` when a bare quote or a lone backslash is in it.
fn unquote(inner: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !inner.contains(&b'\\') && !inner.contains(&b'"') {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' => text.push(bytes.next()?),
            b'"' => return None,
            _ => text.push(b),
        }
    }
    Some(Cow::Owned(text))
}

/// The names in a field list; `None` when one of them is not a field name, or there is none.
fn field_names(text: &[u8]) -> Option<Vec<HeaderName>> {
    let names: Result<Vec<_>, _> = lists::members(text).map(HeaderName::from_bytes).collect();
    names.ok().filter(|names| !names.is_empty())
}

#[cfg(test)]
mod tests;
