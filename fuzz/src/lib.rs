//! What the fuzz targets share: how bytes become fields, and the sorting of an input into its parts.
//!
//! Inputs are text as far as possible, so that a finding can be read: lines, and sections that a line `--` ends.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Fields out of `name: value` lines; lines that are none are skipped.
pub fn fields(text: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in text.split(|&b| b == b'\n') {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let name = HeaderName::from_bytes(line[..colon].trim_ascii());
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// One field with every line of the text as a line of it; what cannot be a value is skipped.
pub fn lines(name: &HeaderName, text: &[u8]) -> HeaderMap {
    let values =
        text.split(|&b| b == b'\n').filter_map(|line| HeaderValue::from_bytes(line.trim_ascii()).ok());
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name, value);
    }
    headers
}

/// The sections of an input; those that it lacks are empty.
pub fn sections<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut parts = [&[][..]; N];
    let mut rest = data;
    for (i, part) in parts.iter_mut().enumerate() {
        match rest.windows(4).position(|w| w == b"\n--\n").filter(|_| i + 1 < N) {
            Some(at) => (*part, rest) = (&rest[..at], &rest[at + 4..]),
            None => (*part, rest) = (rest, &[]),
        }
    }
    parts
}

/// The number at the head of a text (decimal, saturating), and what follows its line.
pub fn number(text: &[u8]) -> (u64, &[u8]) {
    let end = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    let digits = text[..end].iter().take_while(|b| b.is_ascii_digit());
    let n = digits.fold(0u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0')));
    (n, text.get(end + 1..).unwrap_or_default())
}

/// Several numbers at the head of a text, a line each.
pub fn numbers<const N: usize>(text: &[u8]) -> ([u64; N], &[u8]) {
    let mut rest = text;
    let found = std::array::from_fn(|_| {
        let (n, tail) = number(rest);
        rest = tail;
        n
    });
    (found, rest)
}

/// The same fields, names and order kept, with every value changed.
pub fn map_values(headers: &HeaderMap, change: impl Fn(&HeaderName, &[u8]) -> Vec<u8>) -> HeaderMap {
    let mut changed = HeaderMap::new();
    for (name, value) in headers {
        let value = HeaderValue::from_bytes(&change(name, value.as_bytes())).expect("still a value");
        changed.append(name, value);
    }
    changed
}
