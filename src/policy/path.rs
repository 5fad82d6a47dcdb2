//! Path templates (`/transactions/{id}`, `/reports/**`) and the paths they may safely be matched against.
//!
//! A path is compared segment by segment, each percent-decoded on its own, so `/caf%C3%A9` meets the template
//! `/café` and an encoded slash never splits a segment. A trailing slash is an empty last segment and therefore
//! significant, except under a trailing `/**`, which also matches the bare prefix. Empty segments (`//`) identify no
//! entry: to some backends they are not there, and a purge of the path without them would miss it.
//!
//! Only [`normalise`] decides whether a path may identify an entry; templates match anything. What a mutation might
//! mean to a more lenient backend is the business of `readings`: there, too many matches only cost a needless purge.

use std::borrow::Cow;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

/// Captured path parameters, in template order, percent-decoded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PathParams(pub Vec<(Arc<str>, String)>);

impl PathParams {
    /// The value captured under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, v)| v.as_str())
    }
}

/// A compiled template: literal segments, `{name}` (one whole segment), `*` (one whole segment, unnamed),
/// and a trailing `/**` (the rest, zero or more segments; only last). A trailing slash is an empty last literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    /// As the operator typed it.
    pub text: Arc<str>,
    /// Its segments.
    pub segments: Vec<Segment>,
}

/// One segment of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Must equal this (decoded) text.
    Literal(Arc<str>),
    /// Any one non-empty segment, captured.
    Param(Arc<str>),
    /// Any one non-empty segment.
    Any,
    /// Everything that follows, also nothing. Last only.
    Rest,
}

const ALLOWED: &str =
    "allowed are literal segments, `{name}` or `*` as one whole segment, and `/**` at the very end";

impl PathTemplate {
    /// Compiles; the error says what is wrong and what is allowed.
    pub fn parse(text: &str) -> Result<PathTemplate, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("path template `{text}` must begin with `/`"));
        };
        if let Some(c) = rest.chars().find(|c| matches!(c, '?' | '#')) {
            return Err(format!(
                "path template `{text}` contains `{c}`: a template is about the path alone; for query parameters use `when = {{ query = {{ … }} }}`"
            ));
        }
        let raw: Vec<&str> = rest.split('/').collect();
        let mut segments = Vec::with_capacity(raw.len());
        for (i, piece) in raw.iter().enumerate() {
            let last = i + 1 == raw.len();
            segments
                .push(parse_segment(piece, last).map_err(|why| format!("path template `{text}`: {why}"))?);
        }
        for (i, segment) in segments.iter().enumerate() {
            if matches!(segment, Segment::Param(_)) && segments[..i].contains(segment) {
                return Err(format!(
                    "path template `{text}` captures `{}` twice; every `{{name}}` may occur once",
                    raw[i]
                ));
            }
        }
        Ok(PathTemplate { text: text.into(), segments })
    }

    /// Matches a whole path (as received, still encoded).
    pub fn matches(&self, path: &str) -> Option<PathParams> {
        self.matches_by(path, |literal, segment| literal == segment)
    }

    /// The same for backends that do not tell upper from lower case in their routes.
    pub(crate) fn matches_in_any_case(&self, path: &str) -> Option<PathParams> {
        self.matches_by(path, |literal, segment| literal.to_lowercase() == segment.to_lowercase())
    }

    /// [`PathTemplate::matches`] for who does not want what is captured.
    pub(crate) fn covers(&self, path: &str) -> bool {
        self.walk(path, |literal, segment| literal == segment, |_, _| {})
    }

    fn matches_by(&self, path: &str, equal: impl Fn(&str, &str) -> bool) -> Option<PathParams> {
        let mut params = Vec::new();
        let capture = |name: &Arc<str>, value: &str| params.push((name.clone(), decode(value).into_owned()));
        self.walk(path, equal, capture).then_some(PathParams(params))
    }

    fn walk(
        &self,
        path: &str,
        equal: impl Fn(&str, &str) -> bool,
        mut capture: impl FnMut(&Arc<str>, &str),
    ) -> bool {
        let mut rest = path.strip_prefix('/');
        if rest.is_none() {
            return false;
        }
        for segment in &self.segments {
            if matches!(segment, Segment::Rest) {
                return true;
            }
            let Some(left) = rest else { return false };
            let (head, tail) = split_segment(left);
            match segment {
                Segment::Literal(text) if equal(text, &decode(head)) => {}
                Segment::Any if !head.is_empty() => {}
                Segment::Param(name) if !head.is_empty() => capture(name, head),
                _ => return false,
            }
            rest = tail;
        }
        rest.is_none()
    }
}

fn parse_segment(piece: &str, last: bool) -> Result<Segment, String> {
    if piece == "**" {
        return if last {
            Ok(Segment::Rest)
        } else {
            Err("`**` may only be the last segment (use `*` for one segment)".to_owned())
        };
    }
    if piece == "*" {
        return Ok(Segment::Any);
    }
    if let Some(name) = piece.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
        let mut chars = name.chars();
        let head_ok = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        return if head_ok && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
            Ok(Segment::Param(name.into()))
        } else {
            Err(format!(
                "`{{{name}}}` is no parameter name: a letter or `_`, then letters, digits, `_` and `-`; {ALLOWED}"
            ))
        };
    }
    if piece.is_empty() {
        return if last {
            Ok(Segment::Literal("".into()))
        } else {
            Err("an empty segment (`//`) matches nothing that backends agree on; write one `/`".to_owned())
        };
    }
    if piece.contains(['{', '}', '*']) {
        return Err(format!("`{piece}` mixes text and wildcard in one segment; {ALLOWED}"));
    }
    parse_literal(piece)
}

fn parse_literal(piece: &str) -> Result<Segment, String> {
    if !escapes_are_valid(piece) {
        return Err(format!("`{piece}` has a `%` that is not followed by two hex digits; write `%25`"));
    }
    let text = percent_decode_str(piece)
        .decode_utf8()
        .map_err(|_| format!("`{piece}` does not decode to UTF-8 text"))?;
    if text == "." || text == ".." {
        return Err(format!("`{piece}` is a dot segment, which no cacheable path contains"));
    }
    if text.contains(['/', '\\', '\0']) {
        return Err(format!(
            "`{piece}` contains an encoded slash, backslash or NUL, which no cacheable path contains"
        ));
    }
    Ok(Segment::Literal(text.into()))
}

/// The first segment and, after a `/`, what follows it.
pub(crate) fn split_segment(rest: &str) -> (&str, Option<&str>) {
    match rest.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (rest, None),
    }
}

/// One segment decoded. Bytes that are not UTF-8 become U+FFFD: two such segments may then give the same parameter
/// value, which can only purge too much.
pub(crate) fn decode(segment: &str) -> Cow<'_, str> {
    if !segment.as_bytes().contains(&b'%') {
        return Cow::Borrowed(segment);
    }
    percent_decode_str(segment).decode_utf8_lossy()
}

pub(crate) fn escapes_are_valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().filter(|(_, b)| **b == b'%').all(|(i, _)| escaped_byte(&bytes[i..]).is_some())
}

/// The byte that a leading `%XX` stands for.
pub(crate) fn escaped_byte(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [b'%', high, low, ..] => Some(hex_value(*high)? << 4 | hex_value(*low)?),
        _ => None,
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// RFC 3986 §2.3.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 §3.3 `pchar` without the escapes.
pub(crate) fn is_pchar(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@'
        )
}

/// Appends `%XX` in upper case (RFC 3986 §6.2.2.1).
pub(crate) fn push_escape(out: &mut String, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

/// Encodes text as one path segment.
pub(crate) fn encode_segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if is_pchar(byte) && byte != b';' {
            out.push(char::from(byte));
        } else {
            push_escape(&mut out, byte);
        }
    }
    out
}

/// Why a path cannot be a cache identity (DESIGN §3): caches and backends disagree about such paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnsafePath {
    /// `%2F` or `%5C`, or a backslash.
    EncodedSlash,
    /// `.` or `..` segments, encoded or not.
    DotSegment,
    /// `%00`.
    Nul,
    /// `;` parameters (an encoded `%3B` is data and stays).
    Semicolon,
    /// `//`: some backends take it for one slash, so that another path would be what a purge names.
    EmptySegment,
    /// A `%` that is not followed by two hex digits, or bytes outside a path.
    BadEncoding,
}

impl UnsafePath {
    /// A short token for logs and `Cache-Status` detail.
    pub fn token(self) -> &'static str {
        match self {
            UnsafePath::EncodedSlash => "path-encoded-slash",
            UnsafePath::DotSegment => "path-dot-segment",
            UnsafePath::Nul => "path-nul",
            UnsafePath::Semicolon => "path-semicolon",
            UnsafePath::EmptySegment => "path-empty-segment",
            UnsafePath::BadEncoding => "path-encoding",
        }
    }
}

/// The normal form of a path (RFC 3986 §6.2.2: upper-case hex, unreserved characters decoded), or why it has none.
pub fn normalise(path: &str) -> Result<Cow<'_, str>, UnsafePath> {
    if !path.starts_with('/') {
        return Err(UnsafePath::BadEncoding);
    }
    let normal = match path.bytes().all(|byte| byte == b'/' || (byte != b';' && is_pchar(byte))) {
        true => Cow::Borrowed(path),
        false => Cow::Owned(rewritten(path.as_bytes())?),
    };
    // Escaped dots are plain by now (RFC 3986 §6.2.2.3 would resolve them; backends disagree whether to).
    let mut empty = false;
    let mut segments = normal[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        if segment == "." || segment == ".." {
            return Err(UnsafePath::DotSegment);
        }
        // The last may be empty: a trailing slash.
        empty |= segment.is_empty() && segments.peek().is_some();
    }
    if empty { Err(UnsafePath::EmptySegment) } else { Ok(normal) }
}

/// With every escape in its normal form.
fn rewritten(bytes: &[u8]) -> Result<String, UnsafePath> {
    let mut out = String::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'%' => {
                let byte = escaped_byte(&bytes[i..]).ok_or(UnsafePath::BadEncoding)?;
                match byte {
                    0 => return Err(UnsafePath::Nul),
                    b'/' | b'\\' => return Err(UnsafePath::EncodedSlash),
                    byte if is_unreserved(byte) => out.push(char::from(byte)),
                    byte => push_escape(&mut out, byte),
                }
                i += 2;
            }
            0 => return Err(UnsafePath::Nul),
            b'\\' => return Err(UnsafePath::EncodedSlash),
            b';' => return Err(UnsafePath::Semicolon),
            byte if byte == b'/' || is_pchar(byte) => out.push(char::from(byte)),
            _ => return Err(UnsafePath::BadEncoding),
        }
        i += 1;
    }
    Ok(out)
}

/// Every path that a backend might take `path` for: as it is, normalised, leniently resolved (encoded slashes and
/// backslashes split, parameters after `;` cut, dot and empty segments gone), each with and without a trailing slash.
///
/// For mutations only: a purge that names one path too many is a needless miss, one too few is a stale answer.
pub(crate) fn readings(path: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |candidate: String| {
        if !found.contains(&candidate) {
            found.push(candidate);
        }
    };
    let forms = [Some(path.to_owned()), normalise(path).ok().map(Cow::into_owned), resolve(path)];
    for form in forms.into_iter().flatten() {
        let toggled = match form.strip_suffix('/') {
            Some("") => None,
            Some(bare) => Some(bare.to_owned()),
            None => Some(format!("{form}/")),
        };
        add(form);
        toggled.into_iter().for_each(&mut add);
    }
    found
}

/// The lenient reading of a path, in normal form where it has one.
fn resolve(path: &str) -> Option<String> {
    let mut plain = Vec::with_capacity(path.len());
    let bytes = path.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        match escaped_byte(&bytes[i..]) {
            // These decide the structure, so they are taken as plain; all else stays as received.
            Some(byte @ (b'/' | b'\\' | b'.')) => {
                plain.push(byte);
                i += 3;
            }
            Some(0) => break,
            _ => {
                plain.push(bytes[i]);
                i += 1;
            }
        }
    }
    let plain = String::from_utf8_lossy(&plain).replace('\\', "/");
    let rest = plain.strip_prefix('/')?;
    let mut kept: Vec<&str> = Vec::new();
    let mut open_end = false;
    for segment in rest.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        open_end = matches!(name, "" | "." | "..");
        match name {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut resolved: String = kept.iter().flat_map(|s| ["/", s]).collect();
    if open_end || resolved.is_empty() {
        resolved.push('/');
    }
    let normal = normalise(&resolved).ok().map(Cow::into_owned);
    Some(normal.unwrap_or(resolved))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template(text: &str) -> PathTemplate {
        PathTemplate::parse(text).unwrap()
    }

    fn hits(text: &str, path: &str) -> bool {
        template(text).matches(path).is_some()
    }

    #[test]
    fn literals_are_compared_decoded_and_whole() {
        assert!(hits("/transactions", "/transactions"));
        assert!(hits("/transactions", "/%74ransactions"));
        assert!(hits("/café", "/caf%C3%A9"));
        assert!(hits("/caf%c3%a9", "/caf%C3%A9"));
        assert!(!hits("/transactions", "/transactions/"));
        assert!(!hits("/transactions", "/Transactions"));
        assert!(!hits("/transactions", "/transactions/1"));
        assert!(!hits("/a/b", "/a%2Fb"));
        assert!(hits("/", "/"));
        assert!(!hits("/", "/a"));
        assert!(!hits("/a", "*"));
        assert!(!hits("/a", ""));
    }

    #[test]
    fn a_trailing_slash_counts() {
        assert!(hits("/a/", "/a/"));
        assert!(!hits("/a/", "/a"));
        assert!(!hits("/a/{id}", "/a/"));
        assert!(!hits("/a/*", "/a/"));
    }

    #[test]
    fn parameters_are_captured_decoded() {
        let params = template("/users/{user}/tx/{id}").matches("/users/a%20b/tx/42").unwrap();
        assert_eq!(params.get("user"), Some("a b"));
        assert_eq!(params.get("id"), Some("42"));
        assert_eq!(params.get("other"), None);
    }

    #[test]
    fn the_rest_also_matches_nothing() {
        for path in ["/reports", "/reports/", "/reports/a", "/reports/a/b/"] {
            assert!(hits("/reports/**", path), "{path}");
        }
        assert!(!hits("/reports/**", "/reportsx"));
        assert!(!hits("/reports/**", "/"));
        assert!(hits("/**", "/"));
        assert!(hits("/**", "/x/y"));
        assert!(hits("/users/*/orders/**", "/users/7/orders"));
    }

    #[test]
    fn bad_templates_say_what_is_allowed() {
        for (text, part) in [
            ("a", "must begin with `/`"),
            ("/a?b=c", "when"),
            ("/a#b", "path alone"),
            ("/**/b", "last segment"),
            ("/a{id}", "whole segment"),
            ("/a*", "whole segment"),
            ("/{}", "parameter name"),
            ("/{1x}", "parameter name"),
            ("/{rest**}", "parameter name"),
            ("/{a}/{a}", "twice"),
            ("/a//b", "empty segment"),
            ("/a/../b", "dot segment"),
            ("/%2e", "dot segment"),
            ("/a%2Fb", "encoded slash"),
            ("/a%", "%25"),
            ("/%ff", "UTF-8"),
        ] {
            let error = PathTemplate::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn normal_forms() {
        for (path, normal) in [
            ("/", "/"),
            ("/a/%7euser/%41", "/a/~user/A"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%3Bb", "/a%3Bb"),
            ("/a%252e", "/a%252e"),
            ("/...", "/..."),
            ("/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
        ] {
            assert_eq!(normalise(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn unsafe_paths_have_reasons() {
        for (path, why) in [
            ("/a%2Fb", UnsafePath::EncodedSlash),
            ("/a%2fb", UnsafePath::EncodedSlash),
            ("/a%5Cb", UnsafePath::EncodedSlash),
            ("/a\\b", UnsafePath::EncodedSlash),
            ("/a/../b", UnsafePath::DotSegment),
            ("/a/%2e%2E/b", UnsafePath::DotSegment),
            ("/.", UnsafePath::DotSegment),
            ("/a%00", UnsafePath::Nul),
            ("/a\0", UnsafePath::Nul),
            ("/a;v=1", UnsafePath::Semicolon),
            ("/a//b", UnsafePath::EmptySegment),
            ("//a", UnsafePath::EmptySegment),
            ("/a//", UnsafePath::EmptySegment),
            ("/a%", UnsafePath::BadEncoding),
            ("/a%2", UnsafePath::BadEncoding),
            ("/a%zz", UnsafePath::BadEncoding),
            ("/a b", UnsafePath::BadEncoding),
            ("/é", UnsafePath::BadEncoding),
            ("*", UnsafePath::BadEncoding),
            ("", UnsafePath::BadEncoding),
        ] {
            assert_eq!(normalise(path), Err(why), "{path}");
            assert!(why.token().starts_with("path-"));
        }
    }

    #[test]
    fn a_mutation_is_read_every_way_a_backend_might() {
        for (path, reading) in [
            ("/a/../tx/1", "/tx/1"),
            ("/a/%2e%2e/tx/1", "/tx/1"),
            ("/tx%2F1", "/tx/1"),
            ("/tx/1;v=2", "/tx/1"),
            ("//tx//1", "/tx/1"),
            ("/tx/1/", "/tx/1"),
            ("/tx/1", "/tx/1/"),
            ("/tx\\1", "/tx/1"),
            ("/%74x/1", "/tx/1"),
            ("/..", "/"),
        ] {
            let found = readings(path);
            assert!(found.contains(&reading.to_owned()), "{path}: {found:?}");
            assert!(found.contains(&path.to_owned()), "{path}: {found:?}");
        }
        assert_eq!(readings("/"), ["/"]);
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent(path in "/[a-zA-Z0-9./%~;!*+=:@é _-]{0,24}") {
            if let Ok(once) = normalise(&path) {
                prop_assert_eq!(normalise(&once), Ok(once.clone()));
            }
        }

        #[test]
        fn normalising_keeps_what_matches(path in "/([a-z.~-]|%[2-7][0-9a-f]|/){0,12}", t in "/[a-z~-]{0,2}") {
            if let (Ok(normal), Ok(template)) = (normalise(&path), PathTemplate::parse(&t)) {
                prop_assert_eq!(template.matches(&path), template.matches(&normal));
            }
        }

        #[test]
        fn a_segment_survives_encoding(text in "\\PC{1,12}") {
            let path = format!("/{}", encode_segment(&text));
            let params = template("/{x}").matches(&path).unwrap();
            prop_assert_eq!(params.get("x"), Some(text.as_str()));
        }

        #[test]
        fn nothing_panics(text in "\\PC*", path in "\\PC*") {
            let _ = normalise(&path);
            let _ = readings(&path);
            if let Ok(template) = PathTemplate::parse(&text) {
                let _ = template.matches(&path);
            }
        }
    }
}
