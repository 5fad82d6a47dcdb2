//! `No-Vary-Search`: which parts of a query the backend declares to be of no influence (draft-ietf-httpbis-no-vary-search).
//!
//! Two queries that are equivalent by it may share a stored response, so whatever is unclear means that none are: a field
//! that is no dictionary, a member of the wrong type, both lists at once, too many names, a query that is not UTF-8. The
//! drafts before the last wrote `params, except=("x")` and `params` for what is now `except=("x")` and `except=()`; both
//! spellings say the same.
//!
//! Queries are compared as `application/x-www-form-urlencoded` reads them: `+` is a space, escapes are decoded, `a` and
//! `a=` are the same.

use std::borrow::Cow;
use std::collections::BTreeSet;

use http::HeaderName;
use percent_encoding::percent_decode;

use super::block::Lines;

/// The field.
pub const NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// Most parameters that a field may name, and most bytes it may have: beyond them it is not there.
const MOST_NAMES: usize = 64;
const MOST_BYTES: usize = 1024;

/// What of a query matters. The default, that all of it does, is no `Variance`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Variance {
    matters: Matters,
    order_matters: bool,
}

/// Which parameters do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Matters {
    AllBut(BTreeSet<String>),
    Only(BTreeSet<String>),
}

impl Variance {
    /// What a response says; `None` = every byte of its query matters.
    pub fn of(response: &impl Lines) -> Option<Variance> {
        let lines: Vec<&[u8]> = response.lines(&NO_VARY_SEARCH).collect();
        if lines.is_empty() || lines.iter().map(|l| l.len()).sum::<usize>() > MOST_BYTES {
            return None;
        }
        let dictionary = sfv::Parser::new(&lines.join(&b", "[..])).parse::<sfv::Dictionary>().ok()?;
        let order_matters = !dictionary.get("key-order").map_or(Some(false), flag)?;
        let except = dictionary.get("except").map(names);
        let params = match dictionary.get("params") {
            Some(entry @ sfv::ListEntry::Item(_)) => Params::All(flag(entry)?),
            Some(list) => Params::These(names(list)?),
            None => Params::Absent,
        };
        let matters = match (params, except) {
            (_, Some(None)) => return None,
            (Params::Absent | Params::All(true), Some(Some(except))) => Matters::Only(except),
            (Params::All(true), None) => Matters::Only(BTreeSet::new()),
            (Params::Absent | Params::All(false), None) => Matters::AllBut(BTreeSet::new()),
            (Params::These(params), None) => Matters::AllBut(params),
            (Params::These(_) | Params::All(false), Some(Some(_))) => return None,
        };
        let default = order_matters && matters == Matters::AllBut(BTreeSet::new());
        (!default).then_some(Variance { matters, order_matters })
    }

    /// Whether a parameter is of no influence.
    pub fn drops(&self, name: &str) -> bool {
        match &self.matters {
            Matters::AllBut(dropped) => dropped.contains(name),
            Matters::Only(kept) => !kept.contains(name),
        }
    }

    /// Whether some parameter whose name begins so may be of no influence.
    pub fn drops_some(&self, prefix: &str) -> bool {
        match &self.matters {
            Matters::AllBut(dropped) => dropped.iter().any(|name| name.starts_with(prefix)),
            Matters::Only(_) => true,
        }
    }

    /// What matters of a query, in a form that is equal for equivalent queries and for no others; `None` = it cannot be
    /// told.
    pub fn reduce(&self, query: &str) -> Option<Vec<u8>> {
        let mut pairs = Vec::new();
        for piece in query.split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let (name, value) = (decode(name)?, decode(value)?);
            if !self.drops(&name) {
                pairs.push((name, value));
            }
        }
        if !self.order_matters {
            // Stable: the order of values of one name stays.
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let mut reduced = Vec::with_capacity(query.len() + 16 * pairs.len());
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            put(&mut reduced, text);
        }
        Some(reduced)
    }

    /// The rule itself, in a form of its own: equal for equal rules and for no others.
    pub fn canonical(&self) -> Vec<u8> {
        let (kind, names) = match &self.matters {
            Matters::AllBut(names) => (0, names),
            Matters::Only(names) => (1, names),
        };
        let mut canonical = vec![kind, u8::from(self.order_matters)];
        names.iter().for_each(|name| put(&mut canonical, name));
        canonical
    }
}

/// What `params` says.
enum Params {
    Absent,
    All(bool),
    These(BTreeSet<String>),
}

fn flag(entry: &sfv::ListEntry) -> Option<bool> {
    match entry {
        sfv::ListEntry::Item(item) => item.bare_item.as_boolean(),
        sfv::ListEntry::InnerList(_) => None,
    }
}

/// An inner list of strings, each an encoded name.
fn names(entry: &sfv::ListEntry) -> Option<BTreeSet<String>> {
    let sfv::ListEntry::InnerList(list) = entry else { return None };
    if list.items.len() > MOST_NAMES {
        return None;
    }
    list.items.iter().map(|item| decode(item.bare_item.as_string()?.as_str())).collect()
}

/// As a form reads it.
fn decode(text: &str) -> Option<String> {
    let spaced: Cow<'_, str> = if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(Cow::into_owned)
}

fn put(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use proptest::prelude::*;

    fn of(line: &str) -> Option<Variance> {
        let mut headers = HeaderMap::new();
        headers.insert(NO_VARY_SEARCH, HeaderValue::from_str(line).unwrap());
        Variance::of(&headers)
    }

    fn equivalent(line: &str, a: &str, b: &str) -> bool {
        let rule = of(line).unwrap_or_else(|| panic!("{line} is a rule"));
        rule.reduce(a).unwrap() == rule.reduce(b).unwrap()
    }

    #[test]
    fn what_is_unclear_or_says_nothing_is_no_rule() {
        for line in [
            "",
            "unknown",
            "key-order=\"yes\"",
            "key-order=1",
            "key-order=()",
            "params=\"a\"",
            "params=(a)",
            "params=(1)",
            "params=(\"a\"), except=(\"x\")",
            "params=(), except=()",
            "params=?0, except=(\"x\")",
            "params, except=(x)",
            "params, except=\"x\"",
            "params, except",
            "except",
            "except=\"x\"",
            "params=?0",
            "params=()",
            "key-order=?0",
            "params=(\"a\"",
            "params=(\"%ff\")",
            "params=(\"a\"), key-order=2",
            "params=(\"a\"), , key-order",
        ] {
            assert_eq!(of(line), None, "{line}");
        }
        assert_eq!(Variance::of(&HeaderMap::new()), None);
        let many: Vec<String> = (0..65).map(|n| format!("\"p{n}\"")).collect();
        assert_eq!(of(&format!("params=({})", many.join(" "))), None);
        assert!(of(&format!("params=({})", many[..64].join(" "))).is_some());
        assert_eq!(of(&format!("params=(\"{}\")", "a".repeat(5000))), None);
    }

    #[test]
    fn spellings_of_one_rule() {
        for (one, other) in [
            ("except=(\"x\")", "params, except=(\"x\")"),
            ("except=()", "params"),
            ("params", "params=?1"),
            ("key-order", "key-order=?1"),
            ("params=(\"a\" \"b\")", "params=(\"b\" \"a\" \"a\")"),
            ("params=(\"a b\")", "params=(\"a+b\")"),
            ("params=(\"%C3%A9\")", "params=(\"%c3%a9\"), later=3"),
            ("key-order, params=(\"a\");x=1", "params=(\"a\";y), key-order"),
        ] {
            assert_eq!(of(one).map(|r| r.canonical()), of(other).map(|r| r.canonical()), "{one} | {other}");
            assert!(of(one).is_some(), "{one}");
        }
        assert_ne!(of("params=(\"a\")").unwrap().canonical(), of("except=(\"a\")").unwrap().canonical());
        let mut lines = HeaderMap::new();
        lines.append(NO_VARY_SEARCH, HeaderValue::from_static("key-order"));
        lines.append(NO_VARY_SEARCH, HeaderValue::from_static("params=(\"a\")"));
        assert_eq!(Variance::of(&lines), of("key-order, params=(\"a\")"));
    }

    #[test]
    fn equivalent_queries() {
        for (line, a, b, same) in [
            ("params=(\"utm\")", "id=1&utm=a", "id=1&utm=b", true),
            ("params=(\"utm\")", "id=1&utm=a", "id=1", true),
            ("params=(\"utm\")", "id=1&utm=a", "id=2&utm=a", false),
            ("params=(\"utm\")", "id=1&UTM=a", "id=1&UTM=b", false),
            ("params=(\"utm\")", "a=1&b=2", "b=2&a=1", false),
            ("params=(\"utm\")", "utm=1&%75tm=2&utm", "", true),
            ("key-order", "a=1&b=2", "b=2&a=1", true),
            ("key-order", "a=1&a=2", "a=2&a=1", false),
            ("except=(\"id\")", "id=1&x=2", "y=3&id=1", true),
            ("except=(\"id\")", "id=1", "id=1&id=1", false),
            ("except=()", "anything", "", true),
            ("key-order", "a=x&&&", "a=%78", true),
            ("key-order", "a", "a=", true),
            ("key-order", "a=%20", "a=+", true),
            ("key-order", "a=%2B", "a=+", false),
            ("key-order", "a=b&c=d", "a=b%26c%3Dd", false),
            ("key-order", "a=b=c", "a=b%3Dc", true),
            ("key-order", "ab=c", "a=bc", false),
            ("params=(\"%C3%A9+%E6%B0%97\")", "%C3%A9%20%E6%B0%97=3", "", true),
        ] {
            assert_eq!(equivalent(line, a, b), same, "{line}: {a} | {b}");
        }
        assert_eq!(of("key-order").unwrap().reduce("a=%f6"), None, "which byte it was matters");
    }

    #[test]
    fn what_a_rule_drops() {
        let params = of("params=(\"utm_source\")").unwrap();
        assert!(params.drops("utm_source") && !params.drops("id"));
        assert!(params.drops_some("utm_") && !params.drops_some("f_"));
        let except = of("except=(\"id\")").unwrap();
        assert!(except.drops("utm_source") && !except.drops("id") && except.drops_some("i"));
        assert!(!of("key-order").unwrap().drops("id"));
    }

    proptest! {
        /// An independent reading: pairs kept apart by what no pair holds.
        #[test]
        fn reduced_forms_are_equal_exactly_if_queries_are_equivalent(
            a in "([abc]|%61|&|=|\\+|%26|%3D|%00){0,9}", b in "([abc]|%61|&|=|\\+|%26|%3D|%00){0,9}",
            order in any::<bool>(), only in any::<bool>(),
        ) {
            let list = if only { "except=(\"a\" \"b\")" } else { "params=(\"a\")" };
            let rule = of(&format!("{list}{}", if order { ", key-order" } else { "" })).unwrap();
            let naive = |query: &str| {
                let pairs: Vec<(String, String)> = query.split('&').filter(|p| !p.is_empty()).map(|p| {
                    let (n, v) = p.split_once('=').unwrap_or((p, ""));
                    (decode(n).unwrap(), decode(v).unwrap())
                }).filter(|(n, _)| if only { n == "a" || n == "b" } else { n != "a" }).collect();
                let mut pairs = pairs;
                if order { pairs.sort_by(|x, y| x.0.cmp(&y.0)); }
                pairs
            };
            prop_assert_eq!(rule.reduce(&a) == rule.reduce(&b), naive(&a) == naive(&b));
        }

        #[test]
        fn reading_never_panics(line in "[ -~]{0,60}", query in "\\PC{0,30}") {
            if let Some(rule) = of(&line) {
                let _ = rule.reduce(&query);
            }
        }
    }
}
