//! `Vary`, the selecting fields, and the normal forms of `Accept-Encoding` and its kin (RFC 9111 §4.1).
#![no_main]

use http::header::{ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, VARY};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use weir::policy::key::CacheKey;
use weir::semantics::coding::is_coded;
use weir::semantics::fields::{accept_encoding, accepts, normalise_accept_encoding, strip_hop_by_hop};
use weir::semantics::vary::{MOST_FIELDS, Selecting, Vary};
use weir_fuzz::{fields, lines, map_values, sections};

fuzz_target!(|data: &[u8]| {
    let [varies, one, other] = sections(data);
    let response = lines(&VARY, varies);
    let (one, other) = (fields(one), fields(other));
    encodings(&one);
    codings(Vary::of(&response, &[]), &other);
    let names = match Vary::of(&response, &[]) {
        Vary::Fields(names) => names,
        Vary::None => vec![ACCEPT_ENCODING, ACCEPT_LANGUAGE],
        Vary::Any => {
            // Nothing that is added can make it readable.
            assert_eq!(Vary::of(&response, &[ACCEPT]), Vary::Any);
            return;
        }
    };
    listed(&response, &names);
    selecting(&names, &one, &other);
    let mut stripped = one;
    strip_hop_by_hop(&mut stripped);
    let again = stripped.clone();
    strip_hop_by_hop(&mut stripped);
    assert_eq!(stripped, again);
});

/// A content that came coded is told apart by `Accept-Encoding`; one that came uncoded because that was asked for is
/// not; no other field comes or goes.
fn codings(said: Vary, response: &HeaderMap) {
    let coded = is_coded(response);
    let others = |vary: &Vary| -> Vec<HeaderName> {
        let Vary::Fields(names) = vary else { return Vec::new() };
        names.iter().filter(|name| **name != ACCEPT_ENCODING).cloned().collect()
    };
    let names = |vary: &Vary| matches!(vary, Vary::Fields(names) if names.contains(&ACCEPT_ENCODING));
    for asked_uncoded in [false, true] {
        let vary = said.clone().by_coding(response, asked_uncoded);
        assert_eq!(vary.clone().by_coding(response, asked_uncoded), vary);
        assert_eq!((vary == Vary::Any, others(&vary)), (said == Vary::Any, others(&said)));
        assert_eq!(names(&vary), said != Vary::Any && (coded || names(&said) && !asked_uncoded), "{vary:?}");
        if let Vary::Fields(names) = &vary {
            assert!(!names.is_empty() && names.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
        }
    }
    let mut forced = response.clone();
    forced.append(CONTENT_ENCODING, HeaderValue::from_static("br"));
    assert!(is_coded(&forced));
    forced.insert(CONTENT_ENCODING, HeaderValue::from_static("Identity"));
    assert!(!is_coded(&forced));
}

fn listed(response: &HeaderMap, names: &[HeaderName]) {
    assert!(names.len() <= MOST_FIELDS && !names.is_empty());
    assert!(names.windows(2).all(|pair| pair[0].as_str() < pair[1].as_str()));
    // Said again, in one line and upper case, it is the same.
    let whole: Vec<String> = names.iter().map(|name| name.as_str().to_uppercase()).collect();
    let again = HeaderMap::from_iter([(VARY, HeaderValue::try_from(whole.join(",")).expect("names"))]);
    if !response.is_empty() {
        assert_eq!(Vary::of(&again, &[]), Vary::Fields(names.to_vec()));
        assert_eq!(Vary::of(&again, names), Vary::Fields(names.to_vec()));
    }
    let mut starred = response.clone();
    starred.append(VARY, HeaderValue::from_static("*"));
    assert_eq!(Vary::of(&starred, &[]), Vary::Any);
}

fn selecting(names: &[HeaderName], one: &HeaderMap, other: &HeaderMap) {
    let (mine, theirs) = (Selecting::from_request(names, one), Selecting::from_request(names, other));
    assert!(mine.matches(one), "{mine:?}");
    assert_eq!(mine.matches(other), mine == theirs, "{mine:?} {theirs:?}");
    assert_eq!(theirs.matches(one), mine == theirs);
    let key = CacheKey([7; 32]);
    assert_eq!(key.variant(&mine) == key.variant(&theirs), mine == theirs);
    assert!(mine.names().eq(names));
    // The normal form is its own.
    let mut normal = HeaderMap::new();
    for (name, value) in &mine.0 {
        normal.extend(value.clone().map(|value| (name.clone(), value)));
    }
    assert_eq!(Selecting::from_request(names, &normal), mine);
    // Lines of a list are one list, with any space about its commas (RFC 9110 §5.3).
    let lists = [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE];
    let mut rewritten = one.clone();
    for name in lists.iter().filter(|name| one.contains_key(*name)) {
        let lines: Vec<&[u8]> = one.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        if lines.iter().any(|line| line.contains(&b'"')) {
            continue;
        }
        let joined = lines.join(&b" ,\t"[..]);
        rewritten.insert(name, HeaderValue::from_bytes(&joined).expect("still a value"));
    }
    let lists: Vec<HeaderName> = lists.into_iter().collect();
    let (before, after) = (Selecting::from_request(&lists, one), Selecting::from_request(&lists, &rewritten));
    for (before, after) in before.0.iter().zip(&after.0) {
        assert_eq!(before, after);
    }
    let shouted = map_values(one, |name, value| match *name == ACCEPT_LANGUAGE || *name == ACCEPT_ENCODING {
        true => value.to_ascii_uppercase(),
        false => value.to_vec(),
    });
    assert!(mine.matches(&shouted));
}

fn encodings(request: &HeaderMap) {
    let normal = accept_encoding(request);
    let mut normalised = request.clone();
    normalise_accept_encoding(&mut normalised);
    assert_eq!(normalised.get(ACCEPT_ENCODING), normal.as_ref());
    assert_eq!(accept_encoding(&normalised), normal);
    // Nothing is accepted that the client did not name, and all of it is refused when it says so.
    let said: Vec<u8> =
        request.get_all(ACCEPT_ENCODING).iter().flat_map(|l| [l.as_bytes(), b","].concat()).collect();
    let said = said.to_ascii_lowercase();
    if let Some(normal) = &normal {
        for coding in ["zstd", "br", "gzip"] {
            let granted = normal.to_str().expect("ASCII").split(", ").any(|one| one == coding);
            let named = said.windows(coding.len()).any(|w| w == coding.as_bytes()) || said.contains(&b'*');
            assert!(!granted || named, "{coding}");
            assert_eq!(accepts(request, coding), granted, "{coding}");
        }
    }
    let refuses = normal.as_ref().is_some_and(|normal| normal.as_bytes().ends_with(b"identity;q=0"));
    assert_eq!(accepts(request, "identity"), !refuses);
    let mut refusing = request.clone();
    refusing.append(ACCEPT_ENCODING, HeaderValue::from_static("zstd;q=0, br;q=0.0, gzip;q=0.00"));
    let refused = accept_encoding(&refusing);
    assert!(refused.is_none_or(|normal| normal == "identity;q=0"));
}
