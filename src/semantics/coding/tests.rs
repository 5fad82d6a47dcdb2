use proptest::prelude::*;

use super::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn words() -> Compression {
    let types = COMPRESSIBLE.iter().map(|text| MediaRange::parse(text).unwrap()).collect();
    Compression { coding: Coding::Gzip, level: 6, min_size: 100, types }
}

#[test]
fn what_is_coded_and_what_is_not() {
    type Case<'a> = (&'a [(&'a str, &'a str)], u16, Option<u64>, Result<Coding, Uncoded>);
    let json = ("content-type", "application/json");
    let good = Ok(Coding::Gzip);
    let table: [Case<'_>; 22] = [
        (&[json], 200, Some(100), good),
        (&[json], 200, None, good),
        (&[json], 404, Some(100), good),
        (&[("content-type", "Application/Problem+JSON ; charset=utf-8")], 200, None, good),
        (&[("content-type", "text/x-anything")], 200, None, good),
        (&[json, ("content-encoding", "identity")], 200, None, good),
        (&[json, ("content-encoding", "")], 200, None, good),
        (&[json], 200, Some(99), Err(Uncoded::Small)),
        (&[json], 200, Some(0), Err(Uncoded::Nothing)),
        (&[json], 204, None, Err(Uncoded::Nothing)),
        (&[json, ("content-range", "bytes 0-1/2")], 200, None, Err(Uncoded::Nothing)),
        (&[json, ("content-encoding", "gzip")], 200, None, Err(Uncoded::Already)),
        (&[json, ("content-encoding", "identity, br")], 200, None, Err(Uncoded::Already)),
        (&[json, ("cache-control", "max-age=9, no-transform")], 200, None, Err(Uncoded::NoTransform)),
        (&[json, ("cdn-cache-control", "no-transform")], 200, None, Err(Uncoded::NoTransform)),
        (
            &[json, ("cdn-cache-control", "max-age=9"), ("cache-control", "no-transform")],
            200,
            None,
            Err(Uncoded::NoTransform),
        ),
        (&[], 200, None, Err(Uncoded::Type)),
        (&[("content-type", "image/png")], 200, None, Err(Uncoded::Type)),
        (&[("content-type", "application/octet-stream")], 200, None, Err(Uncoded::Type)),
        (&[("content-type", "application/json-seq")], 200, None, Err(Uncoded::Type)),
        (&[("content-type", "json")], 200, None, Err(Uncoded::Type)),
        (&[json, json], 200, None, Err(Uncoded::Type)),
    ];
    let list = [crate::semantics::storing::CDN_CACHE_CONTROL];
    for (fields, status, length, expected) in table {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(admit(&words(), status, &headers(fields), length, &list), expected, "{fields:?} {status}");
    }
}

#[test]
fn who_gets_which_form() {
    let gzip = |fields: &[(&str, &str)], part| form(&headers(fields), Coding::Gzip, part);
    for (accept, whole, part) in [
        ("gzip", Form::Coded, Form::Plain),
        ("br, GZIP;q=0.1", Form::Coded, Form::Plain),
        ("x-gzip", Form::Coded, Form::Plain),
        ("*", Form::Coded, Form::Plain),
        ("identity;q=0, *", Form::Coded, Form::Coded),
        ("gzip, identity;q=0", Form::Coded, Form::Coded),
        ("br", Form::Plain, Form::Plain),
        ("gzip;q=0, *", Form::Plain, Form::Plain),
        ("identity", Form::Plain, Form::Plain),
        ("gzip;q=x", Form::Plain, Form::Plain),
        ("", Form::Plain, Form::Plain),
    ] {
        assert_eq!(gzip(&[("accept-encoding", accept)], false), whole, "{accept}");
        assert_eq!(gzip(&[("accept-encoding", accept)], true), part, "{accept}, a part");
    }
    assert_eq!(gzip(&[], false), Form::Plain, "not a word about codings");
    let untouched = [("accept-encoding", "gzip"), ("cache-control", "no-transform")];
    assert_eq!(gzip(&untouched, false), Form::Plain);
    for coding in Coding::ALL {
        assert_eq!(form(&headers(&[("accept-encoding", coding.as_str())]), coding, false), Form::Coded);
    }
}

#[test]
fn the_fields_of_both_forms() {
    let received = headers(&[
        ("content-type", "text/plain"),
        ("content-length", "1000"),
        ("etag", "\"a\""),
        ("last-modified", "Thu, 01 Jan 1970 00:00:10 GMT"),
        ("accept-ranges", "bytes"),
        ("content-digest", "sha-256=:AA==:"),
        ("repr-digest", "sha-256=:AA==:"),
        ("vary", "Origin"),
    ]);
    let mut plain = received.clone();
    dress(&mut plain, Coding::Br, Form::Plain);
    let mut with_vary = received.clone();
    with_vary.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    assert_eq!(plain, with_vary);
    let mut coded = received;
    dress(&mut coded, Coding::Br, Form::Coded);
    let expected = headers(&[
        ("content-type", "text/plain"),
        ("etag", "W/\"a\""),
        ("last-modified", "Thu, 01 Jan 1970 00:00:10 GMT"),
        ("vary", "Origin"),
        ("vary", "Accept-Encoding"),
        ("content-encoding", "br"),
    ]);
    assert_eq!(coded, expected);
    let again = coded.clone();
    dress(&mut coded, Coding::Br, Form::Coded);
    assert_eq!(coded, again, "it is said once");
}

#[test]
fn tags_that_are_weak_or_none() {
    let dressed = |tags: &[(&str, &str)]| {
        let mut fields = headers(tags);
        dress(&mut fields, Coding::Gzip, Form::Coded);
        fields.get(ETAG).cloned()
    };
    assert_eq!(dressed(&[("etag", "W/\"a\"")]).unwrap(), "W/\"a\"");
    assert_eq!(dressed(&[("etag", "\"\"")]).unwrap(), "W/\"\"");
    for none in [
        &[("etag", "a")][..],
        &[("etag", "\"")],
        &[("etag", "W/a")],
        &[("etag", "\"a\""), ("etag", "\"b\"")],
        &[],
    ] {
        assert_eq!(dressed(none), None, "{none:?}");
    }
}

#[test]
fn vary_that_says_it_already() {
    for line in ["*", "accept-encoding", "Origin, Accept-Encoding"] {
        let mut fields = headers(&[("vary", line)]);
        dress(&mut fields, Coding::Gzip, Form::Plain);
        assert_eq!(fields.get_all(VARY).iter().count(), 1, "{line}");
    }
}

#[test]
fn media_ranges_that_are_none() {
    for text in [
        "",
        "json",
        "/",
        "text/",
        "/x",
        "*/*",
        "text/*json",
        "text/*+",
        "text/plain; charset=x",
        "te xt/x",
        "t*/x",
    ] {
        assert_eq!(MediaRange::parse(text), None, "{text}");
    }
    assert_eq!(MediaRange::parse(" Text/HTML "), MediaRange::parse("text/html"));
}

proptest! {
    #[test]
    fn coded_bytes_only_for_who_asked(line in "((gzip|br|zstd|identity|\\*|x)(;q=[01](\\.[0-9]{0,4})?)?, ?){0,5}") {
        let is_weight = |q: &str| {
            let short = q.split_once('.').is_none_or(|(_, digits)| digits.len() <= 3);
            short && q.parse().is_ok_and(|q: f64| q > 0.0 && q <= 1.0)
        };
        let request = headers(&[("accept-encoding", &line)]);
        for coding in Coding::ALL {
            // The members that name the coding decide, else those that name all; a refusal wins.
            let weighed = |name: &str| {
                let named = line.split(',').map(str::trim).filter(|m| m.split(';').next() == Some(name));
                let answers: Vec<bool> = named.map(|m| m.split_once("q=").is_none_or(|(_, q)| is_weight(q))).collect();
                (!answers.is_empty()).then(|| answers.iter().all(|yes| *yes))
            };
            let expected = weighed(coding.as_str()).or(weighed("*")) == Some(true);
            prop_assert_eq!(form(&request, coding, false) == Form::Coded, expected, "{} in {}", coding.as_str(), line);
        }
    }

    #[test]
    fn nothing_panics(kind in "\\PC{0,30}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = MediaRange::parse(&kind);
        let mut fields = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            for name in [ETAG, VARY, CONTENT_ENCODING, CONTENT_TYPE, ACCEPT_ENCODING] {
                fields.append(name, value.clone());
            }
        }
        let _ = admit(&words(), StatusCode::OK, &fields, None, &[]);
        let _ = form(&fields, Coding::Zstd, false);
        dress(&mut fields, Coding::Gzip, Form::Coded);
        prop_assert_eq!(&fields[CONTENT_ENCODING], "gzip");
    }
}
