//! The one encoder of canonical tag names. A name is `family:value`; the value is text in which `%`, `*`, `?`, `|`
//! and control characters are escaped, so that no value can look like a wildcard.

use crate::policy::path::{escaped_byte, push_escape};

/// `family:value`.
pub(super) fn value_name(family: &str, value: &str) -> String {
    let mut name = String::with_capacity(family.len() + value.len() + 1);
    name.push_str(family);
    name.push(':');
    push_encoded(&mut name, value);
    name
}

/// What an entry carries whose value is absent, and what every purge of the family names.
pub(super) fn absent_name(family: &str) -> String {
    format!("{family}:*")
}

/// What every entry with any tag of the family carries, and what a purge of unknown value names.
pub(super) fn any_name(family: &str) -> String {
    format!("{family}:?")
}

/// `T@<hex>`: a tag narrowed to one subject.
pub(super) fn narrowed_name(name: &str, subject: &str) -> String {
    format!("{name}@{subject}")
}

/// Escapes a value.
pub(super) fn push_encoded(out: &mut String, value: &str) {
    for c in value.chars() {
        if matches!(c, '%' | '*' | '?' | '|') || c.is_ascii_control() {
            push_escape(out, c as u8);
        } else {
            out.push(c);
        }
    }
}

/// Reads what an operator typed as a value: `%XX` is the byte it stands for, any other `%` is itself.
pub(super) fn decode_typed(typed: &str) -> String {
    let bytes = typed.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match escaped_byte(&bytes[i..]) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Two hex digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = Vec::with_capacity(2 * bytes.len());
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
    // Digits are text.
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: &str) -> String {
        let mut out = String::new();
        push_encoded(&mut out, value);
        out
    }

    #[test]
    fn wildcards_cannot_be_forged() {
        assert_eq!(value_name("s", "*"), "s:%2A");
        assert_eq!(value_name("s", "?"), "s:%3F");
        assert_eq!(value_name("s", "a|b%\n"), "s:a%7Cb%25%0A");
        assert_eq!(value_name("user", "bob@example.com"), "user:bob@example.com");
        assert_eq!(decode_typed("50%"), "50%");
        assert_eq!(decode_typed("%2A%zz"), "*%zz");
    }

    proptest! {
        #[test]
        fn encoding_is_injective_and_reversible(value in "\\PC*|[%*?|\u{0}-\u{1f}a]{0,8}") {
            let text = encoded(&value);
            prop_assert!(!text.contains(['*', '?', '|']));
            prop_assert_eq!(decode_typed(&text), value);
        }
    }
}
