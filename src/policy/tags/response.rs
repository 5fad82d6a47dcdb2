//! What response fields say about tags: `Surrogate-Key`, `Cache-Tag`, `xkey` and `Cache-Groups` (RFC 9875) on reads;
//! `Location`, `Content-Location` (RFC 9111 §4.4) and `Cache-Group-Invalidation` (RFC 9875 §3) on mutations.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::TAG_FIELDS;

/// Most groups of one field; beyond them they are not all known (RFC 9875 §2 asks for 32 at least).
const MAX_GROUPS: usize = 1024;

/// Tags found, and whether they are all of them.
pub(super) struct Found {
    pub(super) tags: Vec<String>,
    pub(super) complete: bool,
}

/// The tags that a response names for itself.
pub(super) fn header_tags(headers: &HeaderMap) -> Found {
    let mut found = Found { tags: Vec::new(), complete: true };
    for field in TAG_FIELDS {
        if field == "cache-groups" {
            push_groups(&mut found, headers, field);
            continue;
        }
        let separates = |c: char| match field {
            "surrogate-key" => c.is_ascii_whitespace(),
            "cache-tag" => c == ',',
            _ => c == ',' || c.is_ascii_whitespace(),
        };
        for line in headers.get_all(field) {
            let text = String::from_utf8_lossy(line.as_bytes());
            let tags = text.split(separates).map(str::trim).filter(|tag| !tag.is_empty());
            found.tags.extend(tags.map(str::to_owned));
        }
    }
    found
}

/// The groups that a mutation's response invalidates.
pub(super) fn invalidated_groups(headers: &HeaderMap) -> Found {
    let mut found = Found { tags: Vec::new(), complete: true };
    push_groups(&mut found, headers, "cache-group-invalidation");
    found
}

/// The groups that a response might have invalidated that never came.
pub(super) fn unknown_groups() -> Found {
    Found { tags: Vec::new(), complete: false }
}

/// RFC 9875 §2: a list of strings. What cannot be read is not known not to be there.
fn push_groups(found: &mut Found, headers: &HeaderMap, field: &'static str) {
    let lines: Vec<&[u8]> = headers.get_all(field).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return;
    }
    match sfv::Parser::new(&lines.join(&b", "[..])).parse::<sfv::List>() {
        Ok(list) => {
            found.complete &= list.len() <= MAX_GROUPS;
            for member in list.into_iter().take(MAX_GROUPS) {
                if let sfv::ListEntry::Item(item) = member
                    && let sfv::BareItem::String(group) = item.bare_item
                {
                    found.tags.push(group.as_str().to_owned());
                }
            }
        }
        Err(_) => found.complete = false,
    }
}

/// Paths that a mutation's response names on the same origin (RFC 9111 §4.4), not normalised.
pub(super) fn related_paths(headers: &HeaderMap, host: &str, base: &str) -> Vec<String> {
    let of = |field: HeaderName| headers.get_all(field).into_iter();
    of(header::LOCATION)
        .chain(of(header::CONTENT_LOCATION))
        .filter_map(|value| same_origin_path(value.to_str().ok()?.trim(), host, base))
        .collect()
}

/// The path of a URI reference, if its authority is `host` or it has none.
fn same_origin_path(reference: &str, host: &str, base: &str) -> Option<String> {
    let end = reference.find(['?', '#']).unwrap_or(reference.len());
    let reference = &reference[..end];
    let (default_port, rest) = match reference.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (":80", Some(rest)),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (":443", Some(rest)),
        Some((scheme, _)) if !scheme.contains('/') => return None,
        _ => ("", reference.strip_prefix("//")),
    };
    if let Some(rest) = rest {
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let authority = authority.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
        let same = authority == host || authority.strip_suffix(default_port) == Some(host);
        return same.then(|| path.to_owned());
    }
    Some(match reference {
        "" => base.to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        // RFC 3986 §5.2.3: in place of the base's last segment; dot segments are resolved by the caller.
        relative => format!("{}{relative}", &base[..base.rfind('/').map_or(0, |at| at + 1)]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(n, v)| (n.parse::<HeaderName>().unwrap(), HeaderValue::from_str(v).unwrap()))
            .collect()
    }

    #[test]
    fn every_dialect() {
        let found = header_tags(&headers(&[
            ("surrogate-key", "a  b,c"),
            ("surrogate-key", "d"),
            ("cache-tag", "e f, g,,"),
            ("xkey", "h, i j"),
            ("cache-groups", "\"k\";x, token, (\"l\" \"m\"), \"n o\""),
        ]));
        assert!(found.complete);
        assert_eq!(found.tags, ["a", "b,c", "d", "e f", "g", "h", "i", "j", "k", "n o"]);
        assert!(!header_tags(&headers(&[("cache-groups", "\"k")])).complete);
        assert!(header_tags(&HeaderMap::new()).tags.is_empty());
    }

    #[test]
    fn invalidated_groups_are_read() {
        assert_eq!(
            invalidated_groups(&headers(&[("cache-group-invalidation", "\"a\", \"b\"")])).tags,
            ["a", "b"]
        );
    }

    #[test]
    fn more_groups_than_are_read_are_not_all_known() {
        let groups = |n: usize| (0..n).map(|i| format!("\"g{i}\"")).collect::<Vec<_>>().join(",");
        let found = |n| invalidated_groups(&headers(&[("cache-group-invalidation", &groups(n))]));
        assert_eq!((found(MAX_GROUPS).tags.len(), found(MAX_GROUPS).complete), (MAX_GROUPS, true));
        assert_eq!((found(MAX_GROUPS + 1).tags.len(), found(MAX_GROUPS + 1).complete), (MAX_GROUPS, false));
    }

    #[test]
    fn related_uris_of_the_same_origin() {
        for (reference, path) in [
            ("/tx/1?a=b#c", Some("/tx/1")),
            ("https://api.example.com/tx/1", Some("/tx/1")),
            ("https://API.example.com:443/tx/1", Some("/tx/1")),
            ("http://api.example.com:80/tx/1", Some("/tx/1")),
            ("http://u:p@api.example.com", Some("/")),
            ("//api.example.com/x", Some("/x")),
            ("//other.example.com/x", None),
            ("https://api.example.com:8443/tx/1", None),
            ("https://other.example.com/tx/1", None),
            ("urn://api.example.com/tx", None),
            ("2", Some("/tx/2")),
            ("../2", Some("/tx/../2")),
            ("?x", Some("/tx/1")),
            ("", Some("/tx/1")),
        ] {
            assert_eq!(
                same_origin_path(reference, "api.example.com", "/tx/1").as_deref(),
                path,
                "{reference}"
            );
        }
        let fields = headers(&[("location", "/a"), ("content-location", "/b")]);
        assert_eq!(related_paths(&fields, "h", "/"), ["/a", "/b"]);
    }
}
