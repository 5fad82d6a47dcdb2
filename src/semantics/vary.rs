//! `Vary` and the selecting request fields (RFC 9111 §4.1, RFC 9110 §12.5.5).
//!
//! Two requests choose the same variant when every nominated field has the same normalised value:
//! lines joined, space around the commas of list fields evened out, `Accept-Language` in lower case, `Accept-Encoding`
//! in its normal form. Nothing else is normalised (not the order of languages, by which backends choose); values that mean the same in other spellings are different variants,
//! which costs a fetch and never an answer. An unreadable `Vary` counts as `*`.

use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{coding, fields, lists, sole};

/// More selecting fields than this are taken for `*`.
pub const MOST_FIELDS: usize = 32;

/// The nominated request fields with their values, normalised, sorted by name.
/// `None` = the field was absent. Equal `Selecting`s choose the same variant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selecting(pub Vec<(HeaderName, Option<HeaderValue>)>);

/// What a response's `Vary` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// No `Vary`: every request selects this response.
    None,
    /// These request fields select (sorted, no repeats).
    Fields(Vec<HeaderName>),
    /// `*`, or unparseable: never reused.
    Any,
}

impl Vary {
    /// Reads every `Vary` line of a response and adds `extra` (the route's own list).
    pub fn of(response: &HeaderMap, extra: &[HeaderName]) -> Vary {
        if extra.is_empty() && !response.contains_key(VARY) {
            return Vary::None;
        }
        let mut names = extra.to_vec();
        for line in response.get_all(VARY) {
            for member in lists::members(line.as_bytes()) {
                match HeaderName::from_bytes(member) {
                    Ok(name) if member != b"*" => names.push(name),
                    _ => return Vary::Any,
                }
            }
        }
        sort(&mut names);
        match names.len() {
            0 => Vary::None,
            1..=MOST_FIELDS => Vary::Fields(names),
            _ => Vary::Any,
        }
    }
}

impl Vary {
    /// With what a coding adds and takes away. A content that came coded is for those alone who asked as this request
    /// did, whatever its `Vary` says. One that was asked for uncoded, and came so, is the same for everybody.
    pub fn by_coding(self, response: &HeaderMap, asked_uncoded: bool) -> Vary {
        let mut names = match self {
            Vary::Any => return Vary::Any,
            Vary::None => Vec::new(),
            Vary::Fields(names) => names,
        };
        if coding::is_coded(response) {
            names.push(ACCEPT_ENCODING);
            sort(&mut names);
        } else if asked_uncoded {
            names.retain(|name| *name != ACCEPT_ENCODING);
        }
        if names.is_empty() { Vary::None } else { Vary::Fields(names) }
    }
}

impl Selecting {
    /// The values that `request` gives for `fields`.
    pub fn from_request(fields: &[HeaderName], request: &HeaderMap) -> Selecting {
        let mut names = fields.to_vec();
        sort(&mut names);
        let values = names.into_iter().map(|name| {
            let value = selecting_value(&name, request);
            (name, value)
        });
        Selecting(values.collect())
    }

    /// Whether `request` would have selected the same variant.
    pub fn matches(&self, request: &HeaderMap) -> bool {
        self.0.iter().all(|(name, value)| {
            let unchanged = match (value, sole(request, name)) {
                // Normalising is idempotent: what equals a normal form has that normal form.
                (Some(stored), Some(given)) => stored == given,
                (None, None) => !request.contains_key(name),
                _ => false,
            };
            unchanged || *value == selecting_value(name, request)
        })
    }

    /// The nominated fields, sorted.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().map(|(name, _)| name)
    }
}

fn sort(names: &mut Vec<HeaderName>) {
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
}

/// A field's value as it selects; `None` when the request has no such field.
fn selecting_value(name: &HeaderName, request: &HeaderMap) -> Option<HeaderValue> {
    if *name == ACCEPT_ENCODING {
        return fields::accept_encoding(request);
    }
    let is_list = *name == ACCEPT || *name == ACCEPT_LANGUAGE || *name == ACCEPT_CHARSET;
    let value = match sole(request, name) {
        Some(only) if !is_list || !only.as_bytes().contains(&b',') => Some(only.clone()),
        _ if !request.contains_key(name) => None,
        _ => joined(name, request, is_list),
    };
    if *name == ACCEPT_LANGUAGE { value.map(in_lower_case) } else { value }
}

/// Language tags mean the same in any case (RFC 9110 §8.5.1).
fn in_lower_case(value: HeaderValue) -> HeaderValue {
    if !value.as_bytes().iter().any(u8::is_ascii_uppercase) {
        return value;
    }
    HeaderValue::from_bytes(&value.as_bytes().to_ascii_lowercase()).unwrap_or(value)
}

/// All lines as one (RFC 9110 §5.3), with one space after each comma of a list.
fn joined(name: &HeaderName, request: &HeaderMap, is_list: bool) -> Option<HeaderValue> {
    let mut whole = Vec::new();
    let mut is_first = true;
    let mut push = |part: &[u8]| {
        // An empty line counts: only of a list is it known that it means nothing.
        if !std::mem::take(&mut is_first) {
            whole.extend_from_slice(b", ");
        }
        whole.extend_from_slice(part);
    };
    for line in request.get_all(name) {
        match is_list {
            true => lists::members(line.as_bytes()).for_each(&mut push),
            false => push(line.as_bytes()),
        }
    }
    // Made of field values and ", " alone, so this is always a field value.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(whole)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn names(list: &[&'static str]) -> Vec<HeaderName> {
        list.iter().map(|name| HeaderName::from_static(name)).collect()
    }

    fn fields(list: &[&'static str]) -> Vary {
        Vary::Fields(names(list))
    }

    #[test]
    fn what_vary_says() {
        let table: [(&[&str], Vary); 10] = [
            (&[], Vary::None),
            (&[""], Vary::None),
            (&["Accept"], fields(&["accept"])),
            (&["Origin, accept ,ORIGIN"], fields(&["accept", "origin"])),
            (&["origin", "accept"], fields(&["accept", "origin"])),
            (&["*"], Vary::Any),
            (&["accept", "origin, *"], Vary::Any),
            (&["accept, bad name"], Vary::Any),
            (&["accept \"x\""], Vary::Any),
            (&["(x)"], Vary::Any),
        ];
        for (lines, expected) in table {
            let fields: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            assert_eq!(Vary::of(&headers(&fields), &[]), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_route_may_add_fields() {
        let extra = names(&["x-version", "accept"]);
        assert_eq!(Vary::of(&HeaderMap::new(), &extra), fields(&["accept", "x-version"]));
        assert_eq!(
            Vary::of(&headers(&[("vary", "origin")]), &extra),
            fields(&["accept", "origin", "x-version"])
        );
        assert_eq!(Vary::of(&headers(&[("vary", "*")]), &extra), Vary::Any);
    }

    #[test]
    fn codings_add_and_take_away() {
        let by = |said: &[(&str, &str)], asked_uncoded| {
            let response = headers(said);
            Vary::of(&response, &[]).by_coding(&response, asked_uncoded)
        };
        let (coded, selected) = (("content-encoding", "gzip"), ("vary", "Accept-Encoding, Origin"));
        assert_eq!(by(&[coded], false), fields(&["accept-encoding"]), "whatever its Vary says");
        assert_eq!(by(&[coded, selected], false), fields(&["accept-encoding", "origin"]));
        assert_eq!(by(&[coded, selected], true), fields(&["accept-encoding", "origin"]), "asked in vain");
        assert_eq!(by(&[("content-encoding", "identity"), selected], true), fields(&["origin"]));
        assert_eq!(by(&[selected], true), fields(&["origin"]));
        assert_eq!(by(&[("vary", "accept-encoding")], true), Vary::None);
        assert_eq!(by(&[selected], false), fields(&["accept-encoding", "origin"]));
        assert_eq!(by(&[], false), Vary::None);
        assert_eq!(by(&[coded, ("vary", "*")], true), Vary::Any);
    }

    #[test]
    fn too_many_fields_are_any() {
        let many = (0..=MOST_FIELDS).map(|i| format!("x-{i}")).collect::<Vec<_>>().join(",");
        assert_eq!(Vary::of(&headers(&[("vary", &many)]), &[]), Vary::Any);
    }

    #[test]
    fn requests_that_mean_the_same_match() {
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let table: [(&str, Fields<'_>, Fields<'_>, bool); 24] = [
            ("accept", &[], &[], true),
            ("accept", &[], &[("accept", "a/b")], false),
            ("accept", &[("accept", "a/b")], &[], false),
            ("accept", &[("accept", "a/b")], &[("accept", "a/b")], true),
            ("accept", &[("accept", "a/b,c/d")], &[("accept", "a/b ,  c/d")], true),
            ("accept", &[("accept", "a/b"), ("accept", "c/d")], &[("accept", "a/b,c/d")], true),
            ("accept", &[("accept", "a/b,c/d")], &[("accept", "c/d,a/b")], false),
            ("accept-language", &[("accept-language", "de,en")], &[("accept-language", "de, en")], true),
            (
                "accept-language",
                &[("accept-language", "de-AT, EN")],
                &[("accept-language", "DE-at,en")],
                true,
            ),
            ("accept-language", &[("accept-language", "de-AT")], &[("accept-language", "de-at")], true),
            ("accept-language", &[("accept-language", "de, en")], &[("accept-language", "en, de")], false),
            ("accept", &[("accept", "a/b;v=X")], &[("accept", "a/b;v=x")], false),
            ("x-v", &[("x-v", "1")], &[("x-v", "2")], false),
            ("x-v", &[("x-v", "1,2")], &[("x-v", "1, 2")], false),
            ("x-v", &[("x-v", "1"), ("x-v", "2")], &[("x-v", "1, 2")], true),
            ("x-v", &[("x-v", "1"), ("x-v", "2")], &[("x-v", "1")], false),
            ("x-v", &[("x-v", "1")], &[("x-v", "1"), ("x-v", "2")], false),
            ("x-v", &[("x-v", "")], &[], false),
            ("x-v", &[("x-v", ""), ("x-v", "1")], &[("x-v", "1")], false),
            ("accept", &[("accept", ""), ("accept", "a/b")], &[("accept", "a/b")], true),
            (
                "accept-encoding",
                &[("accept-encoding", "br, gzip")],
                &[("accept-encoding", "gzip;q=1,br")],
                true,
            ),
            ("accept-encoding", &[], &[("accept-encoding", "identity")], true),
            ("accept-encoding", &[("accept-encoding", "gzip")], &[], false),
            ("accept-encoding", &[("accept-encoding", "gzip")], &[("accept-encoding", "gzip, br")], false),
        ];
        for (name, stored, given, expected) in table {
            let selecting = Selecting::from_request(&[HeaderName::from_static(name)], &headers(stored));
            let given = headers(given);
            assert_eq!(selecting.matches(&given), expected, "{name} {stored:?} {given:?}");
            let other = Selecting::from_request(&[HeaderName::from_static(name)], &given);
            assert_eq!(selecting == other, expected, "{name} {stored:?} {given:?}");
        }
    }

    #[test]
    fn selecting_is_sorted_whatever_the_order_of_names() {
        let request = headers(&[("accept", "a/b"), ("origin", "x")]);
        let one = Selecting::from_request(&names(&["origin", "accept", "origin"]), &request);
        let two = Selecting::from_request(&names(&["accept", "origin"]), &request);
        assert_eq!(one, two);
        assert_eq!(one.names().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept", "origin"]);
    }

    const NAMES: [&str; 5] = ["accept", "accept-encoding", "accept-language", "x-v", "cookie"];

    proptest! {
        #[test]
        fn a_request_selects_what_it_stored(
            lines in proptest::collection::vec((0..5usize, proptest::collection::vec(any::<u8>(), 0..20)), 0..8),
            other in proptest::collection::vec((0..5usize, "[a-c,;=\" ]{0,6}"), 0..8),
        ) {
            let mut request = HeaderMap::new();
            for (name, value) in &lines {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    request.append(NAMES[*name], value);
                }
            }
            let selecting = Selecting::from_request(&names(&NAMES), &request);
            prop_assert!(selecting.matches(&request));
            let mut second = HeaderMap::new();
            for (name, value) in &other {
                second.append(NAMES[*name], HeaderValue::from_str(value).unwrap());
            }
            let theirs = Selecting::from_request(&names(&NAMES), &second);
            prop_assert!(theirs.matches(&second));
            prop_assert_eq!(selecting.matches(&second), selecting == theirs);
        }

        #[test]
        fn reading_vary_never_panics(line in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut map = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                map.append(VARY, value);
            }
            if let Vary::Fields(names) = Vary::of(&map, &[]) {
                prop_assert!(names.is_sorted_by(|a, b| a.as_str() < b.as_str()));
            }
        }
    }
}
