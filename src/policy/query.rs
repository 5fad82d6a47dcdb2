//! Query normalising: what is keyed is what is forwarded (DESIGN §3).
//!
//! Pairs are split on `&` alone (a `;` is data), names are compared decoded (`+` as a space), and the result is
//! re-encoded in one way: unreserved characters plain, all else that a query may not hold escaped in upper case.
//! `+` and `%20` are kept apart, because not every backend reads both as a space; so are `a` and `a=`, and a broken
//! escape such as `%zz` is sent as the text it is (`%25zz`). Since the very same string is forwarded, no choice made here can hide a
//! parameter from the key that the backend gets to see. Normalising is idempotent.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::path::{escaped_byte, is_pchar, is_unreserved, push_escape};

/// The route's words about its query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryRules {
    /// Parameters of no influence: neither keyed nor forwarded. A trailing `*` matches a prefix (`utm_*`).
    pub ignore: Vec<String>,
    /// When present, all others are dropped. A trailing `*` matches a prefix.
    pub only: Option<Vec<String>>,
    /// Parameters holding comma lists whose order and repeats do not matter.
    pub sets: Vec<String>,
}

impl QueryRules {
    /// The normalised query (without `?`; empty = none): pairs sorted by decoded name, order of repeats kept.
    /// This very string is both keyed and forwarded.
    pub fn normalise<'a>(&self, query: Option<&'a str>) -> Cow<'a, str> {
        match query {
            None => Cow::Borrowed(""),
            Some(query) => Cow::Owned(self.rewritten(query)),
        }
    }

    fn rewritten(&self, query: &str) -> String {
        let mut pairs: Vec<(Vec<u8>, String)> = query
            .split('&')
            .filter(|piece| !piece.is_empty())
            .filter_map(|piece| {
                let (name, value) = split_pair(piece);
                let decoded = decode(name);
                self.keeps(&decoded).then(|| {
                    let text = self.encode_pair(name, &decoded, value);
                    (decoded, text)
                })
            })
            .collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let mut out = String::with_capacity(query.len());
        for (_, text) in &pairs {
            if !out.is_empty() {
                out.push('&');
            }
            out.push_str(text);
        }
        out
    }

    fn keeps(&self, name: &[u8]) -> bool {
        let listed = |list: &[String]| list.iter().any(|pattern| name_matches(pattern, name));
        !listed(&self.ignore) && self.only.as_deref().is_none_or(listed)
    }

    fn encode_pair(&self, name: &str, decoded: &[u8], value: Option<&str>) -> String {
        let mut text = encode(name, true);
        if let Some(value) = value {
            text.push('=');
            let value = encode(value, false);
            if self.sets.iter().any(|set| set.as_bytes() == decoded) {
                text.push_str(&sorted_set(&value));
            } else {
                text.push_str(&value);
            }
        }
        text
    }
}

/// All decoded values of `name` in a query string, in order (`+` reads as a space; a bare name has the value "").
pub fn values(query: &str, name: &str) -> Vec<String> {
    raw_values(query, name).map(|raw| String::from_utf8_lossy(&decode(raw)).into_owned()).collect()
}

/// All values of `name` as they stand in the query.
pub(crate) fn raw_values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(split_pair)
        .filter(move |(n, _)| decode(n) == name.as_bytes())
        .map(|(_, value)| value.unwrap_or_default())
}

/// Whether `name` equals `pattern`, or begins with it where it ends in `*`.
pub(crate) fn name_matches(pattern: &str, name: &[u8]) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix.as_bytes()),
        None => name == pattern.as_bytes(),
    }
}

fn split_pair(piece: &str) -> (&str, Option<&str>) {
    match piece.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (piece, None),
    }
}

fn decode(text: &str) -> Vec<u8> {
    if text.contains('+') {
        percent_decode(text.replace('+', " ").as_bytes()).collect()
    } else {
        percent_decode(text.as_bytes()).collect()
    }
}

/// RFC 3986 §3.4: `pchar`, `/` and `?`, without what separates pairs. A name must not gain an `=`.
fn encode(text: &str, is_name: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < bytes.len() {
        let byte = bytes[i];
        if let Some(meant) = escaped_byte(&bytes[i..]) {
            if is_unreserved(meant) {
                out.push(char::from(meant))
            } else {
                push_escape(&mut out, meant)
            }
            i += 3;
            continue;
        }
        let plain = is_pchar(byte) || matches!(byte, b'/' | b'?');
        if plain && byte != b'&' && !(is_name && byte == b'=') {
            out.push(char::from(byte));
        } else {
            push_escape(&mut out, byte);
        }
        i += 1;
    }
    out
}

/// Splits on commas, encoded ones too, sorts, drops repeats.
fn sorted_set(value: &str) -> String {
    let plain = value.replace("%2C", ",");
    let mut items: Vec<&str> = plain.split(',').collect();
    items.sort_unstable();
    items.dedup();
    items.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn plain(query: &str) -> String {
        QueryRules::default().normalise(Some(query)).into_owned()
    }

    #[test]
    fn sorted_by_name_with_repeats_in_order() {
        assert_eq!(plain("b=2&a=3&b=1&a=4"), "a=3&a=4&b=2&b=1");
        assert_eq!(plain("%62=2&a=1"), "a=1&b=2");
        assert_eq!(plain(""), "");
        assert_eq!(plain("&&"), "");
        assert_eq!(QueryRules::default().normalise(None), "");
    }

    #[test]
    fn one_encoding() {
        assert_eq!(plain("a=%7e%2f%3D"), "a=~%2F%3D");
        assert_eq!(plain("filter[name]=x"), "filter%5Bname%5D=x");
        assert_eq!(plain("filter%5bname%5d=x"), "filter%5Bname%5D=x");
        assert_eq!(plain("q=é"), "q=%C3%A9");
        assert_eq!(plain("q=a+b"), "q=a+b");
        assert_eq!(plain("q=a%20b"), "q=a%20b");
        assert_eq!(plain("q=%zz%"), "q=%25zz%25");
        assert_eq!(plain("a"), "a");
        assert_eq!(plain("a="), "a=");
        assert_eq!(plain("a=b=c"), "a=b=c");
        assert_eq!(plain("a%3Db=c"), "a%3Db=c");
        assert_eq!(plain("a=1;b=2"), "a=1;b=2");
    }

    #[test]
    fn ignored_parameters_go_however_they_are_spelt() {
        let rules = QueryRules { ignore: strings(&["utm_*", "_"]), ..QueryRules::default() };
        assert_eq!(rules.normalise(Some("utm_source=a&%75tm_x=1&_=9&a=1&utm=2")), "a=1&utm=2");
    }

    #[test]
    fn only_drops_the_rest() {
        let rules = QueryRules {
            only: Some(strings(&["page", "f_*"])),
            ignore: strings(&["f_x"]),
            ..QueryRules::default()
        };
        assert_eq!(rules.normalise(Some("x=1&page=2&f_a=3&f_x=4")), "f_a=3&page=2");
        let none = QueryRules { only: Some(Vec::new()), ..QueryRules::default() };
        assert_eq!(none.normalise(Some("x=1")), "");
    }

    #[test]
    fn sets_are_sorted_and_unique() {
        let rules = QueryRules { sets: strings(&["symbols"]), ..QueryRules::default() };
        assert_eq!(rules.normalise(Some("symbols=MSFT,AAPL%2cMSFT&o=b,a")), "o=b,a&symbols=AAPL,MSFT");
        assert_eq!(rules.normalise(Some("symbols")), "symbols");
        assert_eq!(rules.normalise(Some("symbols=")), "symbols=");
    }

    #[test]
    fn values_are_decoded() {
        assert_eq!(values("a=1&b=x+y&a=%32&a", "a"), ["1", "2", ""]);
        assert_eq!(values("a=1&b=x+y", "b"), ["x y"]);
        assert!(values("a=1", "c").is_empty());
    }

    proptest! {
        #[test]
        fn idempotent(query in "([ab+%;,=&\\[é]|%2[0-9cC6B]|%3D){0,20}") {
            let rules = QueryRules { sets: strings(&["a"]), ignore: strings(&["b"]), only: None };
            let once = rules.normalise(Some(&query));
            prop_assert_eq!(rules.normalise(Some(&once)), &*once);
        }

        #[test]
        fn values_survive(query in "[ab+%=&;é ]{0,20}", name in "[ab]") {
            let once = plain(&query);
            prop_assert_eq!(values(&query, &name), values(&once, &name));
        }

        #[test]
        fn fit_for_a_request_line(query in "\\PC*") {
            let once = plain(&query);
            prop_assert!(once.bytes().all(|b| b.is_ascii_graphic() && b != b'#'));
        }
    }
}
