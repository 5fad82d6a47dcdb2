//! `Vary` and the selecting fields (RFC 9111 §4.1, RFC 9110 §12.5.5).

use super::Stored;
use super::message::{Fields, has, is_token, lines, split_list, trim};

/// Weir: "More selecting fields than this are taken for `*`".
const MOST_FIELDS: usize = 32;

/// The nominated fields; `None` = no request is ever a match. RFC 9111 §4.1: "A stored response with a Vary header
/// field value containing a member "*" always fails to match". Weir: "An unreadable `Vary` counts as `*`".
pub fn nominated(fields: &Fields) -> Option<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for line in lines(fields, "vary") {
        for member in split_list(line, true).all() {
            if member == "*" || !is_token(&member) {
                return None;
            }
            let name = member.to_ascii_lowercase();
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    if names.len() > MOST_FIELDS { None } else { Some(names) }
}

/// What selects a response that may be stored. Weir: "adds the route's own list"; "A content that came coded is for those
/// alone who asked as this request did, whatever its `Vary` says. One that was asked for uncoded, and came so, is the same
/// for everybody".
pub fn selecting(fields: &Fields, own: &[String], asked_uncoded: bool) -> Vec<String> {
    let mut names = nominated(fields).unwrap_or_default();
    for name in own {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let mut coded = false;
    for line in lines(fields, "content-encoding") {
        for coding in split_list(line, true).all() {
            if !coding.eq_ignore_ascii_case("identity") {
                coded = true;
            }
        }
    }
    if coded {
        if !names.contains(&"accept-encoding".to_owned()) {
            names.push("accept-encoding".to_owned());
        }
        return names;
    }
    if asked_uncoded {
        names.retain(|name| name != "accept-encoding");
    }
    names
}

/// RFC 9111 §4.1: "the cache MUST NOT use that stored response without revalidation unless all the presented request
/// header fields nominated by that Vary field value match those fields in the original request".
pub fn matches(stored: &Stored, presented: &Fields) -> bool {
    for name in &stored.nominated {
        if normal(&stored.original, name) != normal(presented, name) {
            return false;
        }
    }
    true
}

/// A field as it selects: "If (after any normalization that might take place) a header field is absent from a request,
/// it can only match another request if it is also absent there."
fn normal(fields: &Fields, name: &str) -> Option<String> {
    if name == "accept-encoding" {
        return accept_encoding(fields);
    }
    if !has(fields, name) {
        return None;
    }
    // "combining multiple header field lines with the same field name".
    let all = lines(fields, name).join(", ");
    // "adding or removing whitespace, where allowed in the header field's syntax". Weir: "space around the commas of
    // list fields evened out".
    if !["accept", "accept-charset", "accept-language"].contains(&name) {
        return Some(trim(&all).to_owned());
    }
    let all = split_list(&all, true).all().join(", ");
    // "case-normalization, where values are defined to be case-insensitive": language tags are (RFC 9110 §8.5.1).
    if name == "accept-language" {
        return Some(all.to_ascii_lowercase());
    }
    Some(all)
}

/// Weir: "the supported codings among `zstd, br, gzip` that the client accepts, in that order, or … (identity only). A
/// client that refuses identity keeps `identity;q=0`."
pub fn accept_encoding(fields: &Fields) -> Option<String> {
    let mut said: Vec<(String, bool)> = Vec::new();
    for line in lines(fields, "accept-encoding") {
        for member in split_list(line, true).all() {
            let mut parts = member.split(';');
            let mut coding = trim(parts.next().unwrap_or("")).to_ascii_lowercase();
            // RFC 9110 §8.4.1.3: "A recipient SHOULD consider "x-gzip" to be equivalent to "gzip"."
            if coding == "x-gzip" {
                coding = "gzip".to_owned();
            }
            let mut accepted = true;
            for parameter in parts {
                // RFC 9110 §12.4.2: `weight = OWS ";" OWS "q=" qvalue`. Weir: "What is malformed is not" above zero.
                let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                if !trim(name).eq_ignore_ascii_case("q") || !is_above_zero(trim(value)) {
                    accepted = false;
                }
            }
            said.push((coding, accepted));
        }
    }
    let accepts = |coding: &str| {
        // RFC 9110 §12.5.3: "The asterisk "*" symbol in an Accept-Encoding field matches any available content coding
        // not explicitly listed in the field."
        let mut verdict = None;
        for wanted in [coding, "*"] {
            for (named, accepted) in &said {
                // Weir: "Named twice: refusing wins".
                if named == wanted {
                    verdict = Some(verdict.unwrap_or(true) && *accepted);
                }
            }
            if verdict.is_some() {
                break;
            }
        }
        verdict
    };
    let mut normal = Vec::new();
    for coding in ["zstd", "br", "gzip"] {
        if accepts(coding) == Some(true) {
            normal.push(coding);
        }
    }
    // "If the representation has no content coding, then it is acceptable by default unless specifically excluded by the
    // Accept-Encoding header field stating either "identity;q=0" or "*;q=0" without a more specific entry".
    if accepts("identity") == Some(false) {
        normal.push("identity;q=0");
    }
    if normal.is_empty() { None } else { Some(normal.join(", ")) }
}

/// `qvalue = ( "0" [ "." 0*3DIGIT ] ) / ( "1" [ "." 0*3("0") ] )` (RFC 9110 §12.4.2).
fn is_above_zero(value: &str) -> bool {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return false;
    }
    match whole {
        "0" => fraction.chars().any(|c| c != '0'),
        "1" => fraction.chars().all(|c| c == '0'),
        _ => false,
    }
}
