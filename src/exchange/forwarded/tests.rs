//! What comes, what goes, and that the short ways lead where the long ones do.

use super::*;
use proptest::prelude::*;

fn peer(ip: &str) -> Peer {
    Peer { addr: (ip.parse::<IpAddr>().unwrap(), 40_000).into(), tls: false }
}

fn request(fields: &[(&str, &str)]) -> request::Parts {
    let mut request = http::Request::builder().uri("/x?y=1");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
}

#[test]
fn an_untrusted_peer_is_not_believed() {
    let mut parts = request(&[
        ("host", "api.example"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-prefix", "/admin"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
        ("x_forwarded_for", "1.2.3.4"),
        ("X-Forwarded_Host", "evil.example"),
        ("x_other", "stays"),
    ]);
    prepare_request(&mut parts, peer("192.0.2.7"), &Trust::Nobody, "weir");
    assert_eq!(all(&parts.headers, "x-forwarded-for"), ["192.0.2.7"]);
    assert_eq!(all(&parts.headers, "x-forwarded-proto"), ["http"]);
    assert_eq!(all(&parts.headers, "x-forwarded-host"), ["api.example"]);
    for gone in ["forwarded", "x-real-ip", "x-forwarded-prefix", "x_forwarded_for", "x-forwarded_host"] {
        assert!(!parts.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(all(&parts.headers, "x_other"), ["stays"]);
}

#[test]
fn a_trusted_peer_is_believed_and_added() {
    let mut parts = request(&[
        ("host", "inner"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-for", "10.0.0.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example"),
        ("forwarded", "for=1.2.3.4"),
    ]);
    let trust = Trust::Networks(vec![("10.0.0.0".parse().unwrap(), 8)]);
    prepare_request(&mut parts, peer("::ffff:10.1.2.3"), &trust, "weir");
    assert_eq!(all(&parts.headers, "x-forwarded-for"), ["1.2.3.4, 10.0.0.9, 10.1.2.3"]);
    assert_eq!(all(&parts.headers, "x-forwarded-proto"), ["https"]);
    assert_eq!(all(&parts.headers, "x-forwarded-host"), ["api.example"]);
    assert_eq!(all(&parts.headers, "forwarded"), ["for=1.2.3.4"]);
}

#[test]
fn where_there_is_nothing_to_do_the_short_way_does_what_the_long_one_does() {
    use crate::semantics::fields::is_override;
    let plain = [
        ("user-agent", "u"),
        ("accept", "*/*"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("x-request-id", "1"),
        ("authorization", "Bearer t"),
        ("cookie", "a=b"),
        ("connection", "Keep-Alive"),
        ("upgrade-insecure-requests", "1"),
        ("content-length", "1"),
        ("content-type", "application/json"),
        ("if-none-match", "\"a\""),
        ("range", "bytes=0-1"),
        ("x-api-key", "k"),
    ];
    let headers = request(&plain).headers;
    assert!(!headers.keys().any(is_override) && is_plain(&headers));
    let others = [
        ("connection", "close"),
        ("connection", "keep-alive, x-api-key"),
        ("connection", "x-api-key"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("proxy-authorization", "x"),
        ("expect", "100-continue"),
        ("via", "1.0 edge"),
        ("forwarded", "for=a"),
        ("x-forwarded-for", "a"),
        ("x-forwarded-host", "a"),
        ("x_real_ip", "a"),
        ("x-http-method-override", "DELETE"),
        ("x-other", "a"),
    ];
    for host in [&[("host", "a")][..], &[("host", "")], &[]] {
        for extra in others.iter().map(Some).chain([None]) {
            let fields: Vec<_> = plain.iter().chain(host).chain(extra).copied().collect();
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                for trust in [Trust::Nobody, Trust::All] {
                    is_prepared_alike(&fields, extra.is_none(), version, &trust);
                }
            }
        }
    }
}

fn is_prepared_alike(fields: &[(&str, &str)], plain: bool, version: Version, trust: &Trust) {
    let lines = |headers: &HeaderMap| {
        let mut lines: Vec<String> = headers.iter().map(|line| format!("{line:?}")).collect();
        lines.sort();
        lines
    };
    let mut long = request(fields);
    long.version = version;
    let mut short = long.clone();
    assert_eq!(is_plain(&short.headers), plain, "{fields:?}");
    let (peer, own) = (peer("::ffff:192.0.2.7"), via(Version::HTTP_11, "weir"));
    prepare_request(&mut long, peer, trust, "weir");
    prepare_seen_request(&mut short, plain, peer, trust, "weir", &own);
    assert_eq!(lines(&short.headers), lines(&long.headers), "{fields:?} {version:?}");
    assert_eq!(short.uri, long.uri);
}

#[test]
fn of_a_usual_response_nothing_is_taken_and_the_others_are_looked_at() {
    for name in TAG_FIELDS {
        assert!(!is_usual(&HeaderName::from_static(name)), "{name}");
    }
    let own = via(Version::HTTP_11, "weir");
    for (name, gone) in [
        ("etag", false),
        ("x-other", false),
        ("connection", true),
        ("keep-alive", true),
        ("transfer-encoding", true),
        ("te", true),
        ("upgrade", true),
        ("proxy-connection", true),
        ("proxy-authenticate", true),
        ("proxy-authorization", true),
        ("proxy-authentication-info", true),
        ("http2-settings", true),
        ("surrogate-key", true),
        ("via", false),
    ] {
        for version in [Version::HTTP_10, Version::HTTP_11] {
            let response = http::Response::builder().header("cache-control", "no-store").header(name, "x");
            let (mut long, ()) = response.body(()).unwrap().into_parts();
            long.version = version;
            let mut short = long.headers.clone();
            prepare_response(&mut long, "weir");
            prepare_usual_response(&mut short, version, "weir", &own);
            assert_eq!(short, long.headers, "{name} {version:?}");
            assert_eq!(!short.contains_key(name), gone, "{name}");
        }
    }
}

#[test]
fn what_is_said_of_the_connection_alone_goes_from_a_usual_response() {
    let own = via(Version::HTTP_11, "weir");
    for connection in ["keep-alive", "Keep-Alive", "keep-alive, x-other", "close", ""] {
        let response = http::Response::builder()
            .header("etag", "x")
            .header("connection", connection)
            .header("keep-alive", "timeout=5")
            .header("connection", "keep-alive");
        let (mut long, ()) = response.body(()).unwrap().into_parts();
        long.version = Version::HTTP_11;
        let mut short = long.headers.clone();
        prepare_response(&mut long, "weir");
        prepare_usual_response(&mut short, Version::HTTP_11, "weir", &own);
        assert_eq!(short, long.headers, "{connection}");
        assert!(!short.contains_key("connection") && !short.contains_key("keep-alive"), "{connection}");
    }
}

#[test]
fn hop_by_hop_fields_go_and_host_and_trailer_stay() {
    let mut parts = request(&[
        ("host", "a"),
        ("connection", "keep-alive, x-secret, host, trailer"),
        ("x-secret", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("trailer", "x-sum"),
        ("te", "gzip;q=0.5, trailers"),
        ("accept", "*/*"),
    ]);
    prepare_request(&mut parts, peer("::1"), &Trust::Nobody, "weir");
    for gone in ["x-secret", "keep-alive", "transfer-encoding"] {
        assert!(!parts.headers.contains_key(gone), "{gone}");
    }
    assert_eq!(all(&parts.headers, "host"), ["a"]);
    assert_eq!(all(&parts.headers, "trailer"), ["x-sum"]);
    assert_eq!(all(&parts.headers, "te"), ["trailers"]);
    assert_eq!(all(&parts.headers, "connection"), ["te"]);
    assert_eq!(all(&parts.headers, "accept"), ["*/*"]);
    assert_eq!(all(&parts.headers, "x-forwarded-for"), ["::1"]);
}

#[test]
fn via_is_appended_with_the_version_received() {
    for (version, expected) in [
        (Version::HTTP_10, "1.0 edge, 1.0 weir"),
        (Version::HTTP_11, "1.0 edge, 1.1 weir"),
        (Version::HTTP_2, "1.0 edge, 2 weir"),
    ] {
        let mut parts = request(&[("host", "a"), ("via", "1.0 edge"), ("expect", "100-continue")]);
        parts.version = version;
        prepare_request(&mut parts, peer("::1"), &Trust::All, "weir");
        assert_eq!(all(&parts.headers, "via"), [expected]);
        assert_eq!(parts.headers.contains_key(EXPECT), version != Version::HTTP_10);
    }
}

#[test]
fn targets_take_origin_form() {
    let mut parts = request(&[]);
    parts.version = Version::HTTP_2;
    parts.uri = Uri::from_static("http://api.example:80/x?y");
    prepare_request(&mut parts, peer("::1"), &Trust::Nobody, "weir");
    assert_eq!(parts.uri, "/x?y");
    assert_eq!(all(&parts.headers, "host"), ["api.example:80"]);
    assert_eq!(all(&parts.headers, "x-forwarded-host"), ["api.example:80"]);
}

#[test]
fn responses_lose_tags_and_hop_by_hop_fields() {
    let mut parts = http::Response::builder()
        .header("surrogate-key", "a b")
        .header("cache-tag", "a")
        .header("xkey", "a")
        .header("cache-groups", "\"a\"")
        .header("connection", "close, x-hop")
        .header("x-hop", "1")
        .header("trailer", "x-sum")
        .header("etag", "\"1\"")
        .body(())
        .unwrap()
        .into_parts()
        .0;
    prepare_response(&mut parts, "weir");
    let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["etag", "trailer", "via"]);
    assert_eq!(parts.headers["via"], "1.1 weir");
}

#[test]
fn networks() {
    let cases = [
        ("10.1.2.3", "10.0.0.0", 8, true),
        ("11.1.2.3", "10.0.0.0", 8, false),
        ("10.1.2.3", "10.1.2.3", 32, true),
        ("10.1.2.4", "10.1.2.3", 32, false),
        ("203.0.113.9", "0.0.0.0", 0, true),
        ("2001:db8::1", "2001:db8::", 32, true),
        ("2001:db9::1", "2001:db8::", 32, false),
        ("2001:db8::1", "::", 0, true),
        ("2001:db8::1", "2001:db8::1", 128, true),
        ("10.1.2.3", "::ffff:10.0.0.0", 104, true),
        ("11.1.2.3", "::ffff:10.0.0.0", 104, false),
        ("10.1.2.3", "::", 0, false),
        ("2001:db8::1", "0.0.0.0", 0, false),
    ];
    for (peer, network, length, expected) in cases {
        let trust = Trust::Networks(vec![(network.parse().unwrap(), length)]);
        assert_eq!(trusted(&trust, peer.parse().unwrap()), expected, "{peer} in {network}/{length}");
    }
    assert!(!trusted(&Trust::Nobody, "127.0.0.1".parse().unwrap()));
    assert!(trusted(&Trust::All, "203.0.113.9".parse().unwrap()));
}

#[test]
fn request_names() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parts = request(&[("traceparent", trace), ("x-request-id", "other")]);
    assert_eq!(request_id(&parts.headers), (id.to_owned(), false));
    let parts = request(&[("x-request-id", "abc-1")]);
    assert_eq!(request_id(&parts.headers), ("abc-1".to_owned(), false));
    let long = "a".repeat(LONGEST_ID + 1);
    for bad in ["", "a b", long.as_str()] {
        let mut parts = request(&[("x-request-id", bad)]);
        let (made, new) = request_id(&parts.headers);
        assert!(new && made.len() == 32, "{bad:?}");
        let made = name_request(&mut parts.headers, true).unwrap();
        assert!(made.len() == 32 && made.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{made}");
        assert_eq!(all(&parts.headers, "x-request-id"), std::slice::from_ref(&made));
        assert_eq!(name_request(&mut parts.headers, true), Some(made), "it has a name by now");
        assert_eq!(name_request(&mut parts.headers, false), None, "nobody wants to know");
    }
    assert_ne!(new_id(), new_id());
}

#[test]
fn only_valid_traces_count() {
    let valid = |v: &str| trace_id(v.as_bytes()).is_some();
    assert!(valid("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later"));
    for bad in [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert!(!valid(bad), "{bad}");
    }
}

#[test]
fn the_listener_s_scheme_counts_unless_a_trusted_peer_says_another() {
    let [plain, tls] = [false, true].map(|tls| Peer { tls, ..peer("10.0.0.1") });
    for (peer, trust, told, scheme) in [
        (plain, &Trust::Nobody, None, "http"),
        (tls, &Trust::Nobody, None, "https"),
        (tls, &Trust::Nobody, Some("http"), "https"),
        (plain, &Trust::Nobody, Some("https"), "http"),
        (tls, &Trust::All, None, "https"),
        (tls, &Trust::All, Some("http"), "http"),
        (plain, &Trust::All, Some("HTTPS"), "https"),
    ] {
        let mut parts = request(&[("host", "a")]);
        if let Some(told) = told {
            parts.headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(told));
        }
        assert_eq!(outside(&parts.headers, peer, trust, "a").scheme, scheme, "{peer:?} {trust:?} {told:?}");
        prepare_request(&mut parts, peer, trust, "weir");
        assert_eq!(all(&parts.headers, "x-forwarded-proto").concat().to_lowercase(), scheme);
    }
}

/// The names in a function's list, read from its source: whatever is added to it is tried, too.
fn listed(source: &str, function: &str) -> Vec<HeaderName> {
    let body = source.split(&format!("fn {function}(")).nth(1).unwrap();
    let body = body.split("\n}\n").next().unwrap();
    let quoted = body.split('"').skip(1).step_by(2).filter(|text| !text.contains('\n'));
    let names: Vec<_> = quoted.filter_map(|name| HeaderName::try_from(name).ok()).collect();
    assert!(names.len() > 20, "{function}: {names:?}");
    names
}

/// Those of responses about which there is said to be nothing to do.
fn usual() -> Vec<HeaderName> {
    let names = listed(include_str!("../forwarded.rs"), "is_usual");
    assert!(names.iter().all(is_usual));
    names
}

/// Those of requests.
fn plain() -> Vec<HeaderName> {
    let mut names = listed(include_str!("../forwarded.rs"), "is_plain");
    names.extend(listed(include_str!("../../semantics/fields.rs"), "sight_of"));
    let one = |name: &HeaderName| HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
    // One that depends on its value, and that value.
    names.retain(|name| *name != CONNECTION && *name != KEEP_ALIVE);
    assert!(names.iter().all(|name| is_plain(&one(name))), "{names:?}");
    names
}

fn values() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![
        4 => "[ -~]{0,30}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
        // What would mean something to whoever took the field for another.
        2 => prop::sample::select(vec!["close", "keep-alive", "etag", "chunked", "trailers", "1.1 weir", "", ",", "a, b"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ];
    bytes.prop_filter_map("no value", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

/// Several of these fields, some more than once.
fn some_of(names: Vec<HeaderName>) -> impl Strategy<Value = HeaderMap> {
    let field = (prop::sample::select(names), values());
    proptest::collection::vec(field, 0..20).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

#[test]
fn each_usual_field_alone_is_left_alone() {
    let own = via(Version::HTTP_11, "weir");
    for name in usual() {
        for value in ["", "x", "close", "etag, vary", "chunked"] {
            let response = http::Response::builder().header(&name, value).header(&name, "another");
            let (mut long, ()) = response.body(()).unwrap().into_parts();
            let mut short = long.headers.clone();
            prepare_response(&mut long, "weir");
            prepare_usual_response(&mut short, Version::HTTP_11, "weir", &own);
            assert_eq!(short, long.headers, "{name}: {value}");
            assert_eq!(all(&short, name.as_str()), [value, "another"], "it stays as it is");
        }
    }
    for name in plain() {
        is_prepared_alike(&[(name.as_str(), "x")], true, Version::HTTP_11, &Trust::Nobody);
    }
}

proptest! {
    #[test]
    fn usual_responses_are_prepared_alike(
        mut headers in some_of(usual()),
        of_connection in proptest::collection::vec(
            prop::sample::select(vec![
                ("connection", "keep-alive"),
                ("connection", "Keep-Alive"),
                ("keep-alive", "timeout=5"),
                ("keep-alive", "etag"),
            ]),
            0..3,
        ),
        version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
    ) {
        for (name, value) in of_connection {
            headers.append(name, HeaderValue::from_static(value));
        }
        let (mut long, ()) = http::Response::new(()).into_parts();
        (long.headers, long.version) = (headers.clone(), version);
        prepare_response(&mut long, "weir");
        prepare_usual_response(&mut headers, version, "weir", &via(Version::HTTP_11, "weir"));
        prop_assert_eq!(headers, long.headers);
    }

    #[test]
    fn plain_requests_are_prepared_alike(
        headers in some_of(plain()),
        host in proptest::option::of("[a-z.:0-9]{0,12}"),
        keeps in any::<bool>(),
        ip in prop::sample::select(vec!["192.0.2.7", "::ffff:10.0.0.1", "2001:db8::1"]),
        tls in any::<bool>(),
        version in prop::sample::select(vec![Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
        trust in prop::sample::select(vec![Trust::Nobody, Trust::All]),
    ) {
        let mut long = request(&[]);
        (long.headers, long.version) = (headers, version);
        // Two of them are refused before.
        long.headers.remove(HOST);
        if let Some(host) = host {
            long.headers.insert(HOST, HeaderValue::try_from(host).unwrap());
        }
        if keeps {
            long.headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        // As the server has done when a request comes here.
        settle(&mut long.uri, &mut long.headers);
        let mut short = long.clone();
        prop_assert!(is_plain(&short.headers));
        let (peer, own) = (Peer { tls, ..peer(ip) }, via(Version::HTTP_11, "weir"));
        prepare_request(&mut long, peer, &trust, "weir");
        prepare_seen_request(&mut short, true, peer, &trust, "weir", &own);
        prop_assert_eq!(short.headers, long.headers);
        prop_assert_eq!(short.uri, long.uri);
    }

    #[test]
    fn any_fields_pass_without_panic(
        fields in proptest::collection::vec(("[a-z_-]{1,20}", proptest::collection::vec(any::<u8>(), 0..80)), 0..8),
        trust in any::<bool>(),
    ) {
        let mut parts = request(&[]);
        for (name, value) in fields {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
                parts.headers.append(name, value);
            }
        }
        let (id, _) = request_id(&parts.headers);
        prop_assert!(!id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|b| b.is_ascii_graphic()));
        let trust = if trust { Trust::All } else { Trust::Nobody };
        prepare_request(&mut parts, peer("192.0.2.7"), &trust, "weir");
        prop_assert!(parts.headers["x-forwarded-for"].to_str().unwrap().ends_with("192.0.2.7"));
    }

    #[test]
    fn traces_never_panic(value in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = trace_id(&value);
    }
}
