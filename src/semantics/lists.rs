//! Comma-separated lists with quoted strings (RFC 9110 §5.6.1), the shape that most fields share.
//!
//! A comma inside a quoted string does not split. A string that is never closed, or goes on after
//! its end, is not believed: from the start of its member on quotes count as ordinary characters, and [`Members::broken`]
//! says so, so that a caller can distrust what the line grants and still heed what it forbids.

/// The members of one field line, trimmed, empty ones skipped.
#[derive(Debug)]
pub(super) struct Members<'a> {
    rest: &'a [u8],
    /// Whether `\` escapes inside quotes: so in a quoted-string, not in an entity tag.
    escapes: bool,
    broken: bool,
}

/// The members of a line whose quotes are quoted-strings.
pub(super) fn members(line: &[u8]) -> Members<'_> {
    Members { rest: line, escapes: true, broken: false }
}

/// The members of a line of entity tags, in which `\` is a character like any other (RFC 9110 §8.8.3).
pub(super) fn entity_tags(line: &[u8]) -> Members<'_> {
    Members { rest: line, escapes: false, broken: false }
}

impl Members<'_> {
    /// Whether a quoted string was met that has no end.
    pub(super) fn broken(&self) -> bool {
        self.broken
    }

    /// Where the next member ends: at a comma outside quotes, or with the line.
    fn end(&mut self) -> usize {
        let mut i = 0;
        while let Some(&b) = self.rest.get(i) {
            match b {
                b',' => return i,
                b'"' if !self.broken => match self.closing(i + 1) {
                    Some(close) => i = close,
                    None => {
                        self.broken = true;
                        return self.rest.iter().position(|&b| b == b',').unwrap_or(self.rest.len());
                    }
                },
                _ => {}
            }
            i += 1;
        }
        i
    }

    /// The quote that closes a string whose content begins at `from`. Only a comma, a parameter or the end may
    /// follow it: otherwise the quotes are not what they seem, and the string might hide a directive.
    fn closing(&self, from: usize) -> Option<usize> {
        let mut escaped = false;
        for (i, &b) in self.rest.iter().enumerate().skip(from) {
            match b {
                _ if escaped => escaped = false,
                b'\\' if self.escapes => escaped = true,
                b'"' => {
                    let after = self.rest.get(i + 1..).unwrap_or_default().trim_ascii_start();
                    return matches!(after.first(), None | Some(b',' | b';')).then_some(i);
                }
                _ => {}
            }
        }
        None
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let end = self.end();
            let (member, rest) = self.rest.split_at(end);
            self.rest = rest.get(1..).unwrap_or_default();
            let member = member.trim_ascii();
            if !member.is_empty() {
                return Some(member);
            }
        }
        None
    }
}

/// Whether these bytes are a token (RFC 9110 §5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_tchar)
}

/// A character of a token.
pub(super) fn is_tchar(b: u8) -> bool {
    const TCHARS: [bool; 256] = {
        let mut table = [false; 256];
        let mut b = 0;
        while b < 256 {
            table[b] = (b as u8).is_ascii_alphanumeric();
            b += 1;
        }
        let others = b"!#$%&'*+-.^_`|~";
        let mut i = 0;
        while i < others.len() {
            table[others[i] as usize] = true;
            i += 1;
        }
        table
    };
    TCHARS[usize::from(b)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Vec<String> {
        members(line.as_bytes()).map(|m| String::from_utf8_lossy(m).into_owned()).collect()
    }

    #[test]
    fn commas_split_outside_quotes_only() {
        let table: [(&str, &[&str]); 10] = [
            ("", &[]),
            (" , ,", &[]),
            ("a", &["a"]),
            ("a , b,\tc", &["a", "b", "c"]),
            (r#"a="x, y", b"#, &[r#"a="x, y""#, "b"]),
            (r#"a="x\", y", b"#, &[r#"a="x\", y""#, "b"]),
            (r#"a="x, y"#, &[r#"a="x"#, "y"]),
            (r#"a="x, y, b="z"#, &[r#"a="x"#, "y", r#"b="z"#]),
            (r#"a;b="c,d";q=1, e"#, &[r#"a;b="c,d";q=1"#, "e"]),
            (r#"a="b", c="d, e"#, &[r#"a="b""#, r#"c="d"#, "e"]),
        ];
        for (line, expected) in table {
            assert_eq!(split(line), expected, "{line}");
        }
    }

    #[test]
    fn an_open_quote_is_reported() {
        let mut list = members(br#"a="x, no-store"#);
        assert_eq!(list.by_ref().count(), 2);
        assert!(list.broken());
    }

    #[test]
    fn a_backslash_in_an_entity_tag_escapes_nothing() {
        let tags: Vec<_> = entity_tags(br#""a\", "b""#).collect();
        assert_eq!(tags, [&br#""a\""#[..], &br#""b""#[..]]);
    }

    proptest! {
        #[test]
        fn splitting_never_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            for member in members(&line).chain(entity_tags(&line)) {
                prop_assert!(!member.is_empty());
            }
        }
    }
}
