use super::*;
use proptest::prelude::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn left(fields: &[(&str, &str)]) -> Vec<String> {
    let mut map = headers(fields);
    strip_hop_by_hop(&mut map);
    map.keys().map(ToString::to_string).collect()
}

#[test]
fn what_belongs_to_a_connection_is_seen_at_a_glance() {
    for name in HOP_BY_HOP.iter().chain([&CONNECTION]) {
        assert!(is_of_connection(name), "{name}");
    }
    for name in ["content-type", "cookie", "host", "user-agent", "trailer", "upgrades", "connectiom"] {
        assert!(!is_of_connection(&HeaderName::from_static(name)), "{name}");
    }
}

#[test]
fn fields_of_one_hop_go() {
    let fields = [
        ("connection", "keep-alive, X-Hop"),
        ("connection", "x-other ,, close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAA"),
        ("proxy-authorization", "Basic x"),
        ("proxy-authenticate", "Basic"),
        ("x-hop", "1"),
        ("x-other", "1"),
        ("x-kept", "1"),
        ("trailer", "x-checksum"),
    ];
    assert_eq!(left(&fields), ["x-kept", "trailer"]);
}

#[test]
fn nobody_nominates_away_what_others_must_read() {
    for name in [
        "host",
        "content-length",
        "content-type",
        "cache-control",
        "authorization",
        "cookie",
        "set-cookie",
        "x-api-key",
        "x-forwarded-for",
        "x-original-url",
        "via",
        "vary",
        "etag",
        "if-none-match",
        "accept-encoding",
        "range",
    ] {
        assert_eq!(left(&[("connection", name), (name, "x")]), [name], "{name}");
    }
}

#[test]
fn without_connection_nothing_else_goes() {
    assert_eq!(left(&[("x-a", "1"), ("cache-control", "no-store")]), ["x-a", "cache-control"]);
    assert_eq!(left(&[("connection", "not a token, \u{e9}"), ("x-a", "1")]), ["x-a"]);
}

#[test]
fn credentials_are_known() {
    assert!(CREDENTIALS.is_sorted());
    for name in [
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "x-auth-token",
        "x-access-token",
        "x-forwarded-user",
        "x-remote-user",
        "remote-user",
        "x-auth-request-user",
        "x-auth-request-email",
        "x-authenticated-user",
        "x-user-id",
        "x-forwarded-client-cert",
        "x-client-cert",
        "x-ssl-client-cert",
        "x-ssl-client-s-dn",
        "ssl-client-cert",
        "client-cert",
        "x-amzn-oidc-accesstoken",
        "x-ms-client-principal-name",
        "x-acme-api-key",
        "cf-access-jwt-assertion",
        "x-goog-authenticated-user-email",
        "dpop",
        "signature",
    ] {
        assert!(is_credential(&HeaderName::from_static(name)), "{name}");
    }
    for listed in CREDENTIALS {
        assert!(is_credential(&HeaderName::from_static(listed)), "{listed}");
    }
}

#[test]
fn ordinary_fields_are_no_credentials() {
    for name in [
        "accept",
        "accept-language",
        "host",
        "user-agent",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "traceparent",
        "x-csrf-token",
        "x-tenant-id",
        "x-requested-with",
        "if-none-match",
        "referer",
        "origin",
        "dnt",
        "sec-fetch-mode",
    ] {
        assert!(!is_credential(&HeaderName::from_static(name)), "{name}");
    }
}

#[test]
fn overrides_are_known() {
    for name in
        ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"]
    {
        assert!(is_override(&HeaderName::from_static(name)), "{name}");
    }
    assert!(!is_override(&HeaderName::from_static("x-forwarded-for")));
}

#[test]
fn accept_encoding_has_one_normal_form() {
    let table = [
        ("gzip", Some("gzip")),
        ("GZIP", Some("gzip")),
        ("x-gzip", Some("gzip")),
        ("gzip, deflate, br, zstd", Some("zstd, br, gzip")),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", Some("zstd, br, gzip")),
        ("gzip ; q=0.5", Some("gzip")),
        ("gzip;Q=1.000", Some("gzip")),
        ("*", Some("zstd, br, gzip")),
        ("*, br;q=0", Some("zstd, gzip")),
        ("deflate", None),
        ("", None),
        (", ,", None),
        ("identity", None),
        ("gzip;q=0", None),
        ("gzip;q=0.000", None),
        ("gzip;q=0.0001", None),
        ("gzip;q=2", None),
        ("gzip;q=", None),
        ("gzip;level=1", None),
        ("gzip, gzip;q=0", None),
        ("gzip, identity;q=0", Some("gzip, identity;q=0")),
        ("gzip, *;q=0", Some("gzip, identity;q=0")),
        ("gzip, identity;q=0.5, *;q=0", Some("gzip")),
        ("identity;q=0", Some("identity;q=0")),
        ("*;q=0", Some("identity;q=0")),
    ];
    for (given, expected) in table {
        let mut map = headers(&[("accept-encoding", given)]);
        normalise_accept_encoding(&mut map);
        assert_eq!(map.get(ACCEPT_ENCODING).map(|v| v.to_str().unwrap()), expected, "{given}");
    }
    let mut lines = headers(&[("accept-encoding", "br"), ("accept-encoding", "gzip")]);
    normalise_accept_encoding(&mut lines);
    assert_eq!(lines.get_all(ACCEPT_ENCODING).iter().collect::<Vec<_>>(), ["br, gzip"]);
    let mut none = HeaderMap::new();
    normalise_accept_encoding(&mut none);
    assert!(none.is_empty());
}

#[test]
fn every_normal_form_is_its_own() {
    for form in NORMAL_FORMS.iter().filter(|form| !form.is_empty()) {
        assert_eq!(accept_encoding(&headers(&[("accept-encoding", form)])).unwrap(), form);
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_normalising_twice_changes_nothing(
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
        text in "((gzip|br|zstd|identity|\\*)?[;q=01., ]{0,7}){0,5}",
    ) {
        let mut map = HeaderMap::new();
        for value in [&bytes[..], text.as_bytes()] {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                map.append(ACCEPT_ENCODING, value.clone());
                map.append(CONNECTION, value);
            }
        }
        normalise_accept_encoding(&mut map);
        let once = map.get(ACCEPT_ENCODING).cloned();
        normalise_accept_encoding(&mut map);
        prop_assert_eq!(map.get(ACCEPT_ENCODING), once.as_ref());
        strip_hop_by_hop(&mut map);
        prop_assert!(!map.contains_key(CONNECTION));
    }
}

#[test]
fn plain_is_what_says_nothing_of_caller_connection_or_conditions() {
    let seen = |lines: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        sight(&headers)
    };
    assert_eq!(seen(&[]), Sight::Plain);
    assert_eq!(seen(&[("host", "a"), ("accept", "*/*"), ("connection", "Keep-Alive")]), Sight::Plain);
    for personal in ["authorization", "cookie"] {
        assert_eq!(seen(&[("host", "a"), (personal, "x")]), Sight::Personal, "{personal}");
    }
    for (name, value) in [
        ("connection", "close, host"),
        ("connection", "keep-alive, accept"),
        ("connection", "upgrade"),
        ("range", "bytes=0-1"),
        ("if-none-match", "*"),
        ("if-match", "*"),
        ("cache-control", "no-cache"),
        ("pragma", "no-cache"),
        ("proxy-authorization", "x"),
        ("x-api-key", "x"),
        ("x_authorization", "x"),
        ("x-http-method-override", "PUT"),
        ("x-forwarded-host", "b"),
        ("expect", "100-continue"),
        ("upgrade", "websocket"),
    ] {
        assert_eq!(seen(&[("cookie", "x"), (name, value)]), Sight::Other, "{name}: {value}");
        assert!(!is_in_plain_sight(&name.parse().unwrap()), "{name}");
    }
    assert_eq!(seen(&[("connection", "keep-alive"), ("connection", "host")]), Sight::Other);
}

#[test]
fn no_credential_is_in_plain_sight() {
    let listed = CREDENTIALS.iter().map(|name| (*name).to_owned());
    let begun = CREDENTIAL_PREFIXES.iter().map(|prefix| format!("{prefix}x"));
    let ended = CREDENTIAL_SUFFIXES.iter().map(|suffix| format!("x{suffix}"));
    for name in listed.chain(begun).chain(ended) {
        let name: HeaderName = name.parse().unwrap();
        assert!(is_credential(&name) && !is_in_plain_sight(&name), "{name}");
    }
    let plain = "host user-agent accept accept-encoding accept-language referer origin dnt priority sec-ch-ua \
        sec-ch-ua-mobile sec-ch-ua-platform sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc \
        traceparent tracestate upgrade-insecure-requests x-request-id";
    for name in plain.split_whitespace() {
        let name: HeaderName = name.parse().unwrap();
        assert!(is_in_plain_sight(&name) && !is_credential(&name) && !is_override(&name), "{name}");
        assert!(!name.as_str().contains('_'), "{name} has another spelling");
    }
}
