//! Request targets: paths and their templates, queries and their rules, route matching (RFC 3986, RFC 9110 §4.2).
#![no_main]

use std::sync::OnceLock;

use http::{HeaderValue, Method, Uri, header};
use libfuzzer_sys::fuzz_target;
use weir::config::{Env, load_str};
use weir::policy::Policy;
use weir::policy::path::{PathTemplate, normalise};
use weir::policy::query::{QueryRules, values};
use weir::policy::route::request_host;
use weir::policy::tags::PathPattern;
use weir::server::{ambiguous, settle};
use weir_fuzz::sections;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let [path, query, template, rules, host] =
        sections(text.as_bytes()).map(|s| std::str::from_utf8(s).unwrap_or(""));
    paths(path);
    templates(template, path);
    queries(query, rules);
    routes(path, query, host);
});

fn paths(path: &str) {
    let Ok(normal) = normalise(path) else { return };
    assert_eq!(normalise(&normal).as_ref(), Ok(&normal), "{path:?}");
    assert!(normal.starts_with('/') && normal.is_ascii());
    assert!(!normal.contains("//") && !normal.contains([';', '\\', '\0', '?', '#', ' ']));
    let segments = || normal.split('/');
    assert!(segments().all(|s| s != "." && s != ".."));
    for hidden in ["%2F", "%5C", "%00", "%2E", "%41", "%7E"] {
        assert!(!normal.contains(hidden), "{normal}");
    }
    assert_eq!(path.split('/').count(), segments().count());
    // Escapes have no case; what needs none is the same without.
    assert_eq!(normalise(&escaped(path, false)), Ok(normal.clone()));
    assert_eq!(normalise(&escaped(path, true)), Ok(normal));
}

/// Its escapes in lower or upper case, all its letters escaped.
fn escaped(path: &str, upper: bool) -> String {
    let (mut out, bytes) = (String::new(), path.as_bytes());
    let mut i = 0;
    while i < bytes.len() {
        let byte = match bytes[i] {
            b'%' => {
                let hex = std::str::from_utf8(&bytes[i + 1..i + 3]).expect("two digits");
                i += 2;
                u8::from_str_radix(hex, 16).expect("hex")
            }
            byte if byte.is_ascii_alphabetic() => byte,
            byte => {
                out.push(char::from(byte));
                i += 1;
                continue;
            }
        };
        out.push_str(&if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") });
        i += 1;
    }
    out
}

fn templates(text: &str, path: &str) {
    let _ = PathPattern::parse(text);
    let Ok(template) = PathTemplate::parse(text) else { return };
    assert_eq!(PathTemplate::parse(&template.text).as_ref(), Ok(&template));
    let found = template.matches(path);
    if let Ok(normal) = normalise(path) {
        assert_eq!(template.matches(&normal), found, "{text:?} {path:?}");
    }
    if let Some(params) = found {
        // Parameters are whole segments, and there are as many as the template says.
        assert!(params.0.iter().all(|(name, value)| params.get(name) == Some(value)));
        assert_eq!(params.0.len(), text.matches('{').count());
        assert!(params.0.iter().all(|(_, value)| !value.is_empty()));
    }
}

fn queries(query: &str, rules: &str) {
    let free = QueryRules::default();
    let normal = free.normalise(Some(query));
    stable(&free, query);
    // Without rules every value is there, in its order.
    for piece in query.split('&') {
        let name = piece.split('=').next().unwrap_or_default();
        let Some(name) = decoded(name) else { continue };
        assert_eq!(values(query, &name), values(&normal, &name), "{query:?} {normal:?} {name:?}");
    }
    let mut words = rules.lines();
    let mut list = || -> Vec<String> {
        words.next().unwrap_or_default().split(',').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    };
    let (ignore, only, sets) = (list(), list(), list());
    let rules = QueryRules { ignore, only: (!only.is_empty()).then_some(only), sets };
    stable(&rules, query);
    let kept = rules.normalise(Some(query));
    for name in &rules.ignore {
        if !name.ends_with('*') {
            assert!(values(&kept, name).is_empty(), "{kept:?} {name:?}");
        }
    }
    // What was dropped does not come back, and nothing new appears.
    assert_eq!(free.normalise(Some(&kept)), kept);
    let count = |query: &str| query.split('&').filter(|piece| !piece.is_empty()).count();
    assert!(count(&kept) <= count(query));
}

fn stable(rules: &QueryRules, query: &str) {
    let normal = rules.normalise(Some(query));
    assert_eq!(rules.normalise(Some(&normal)), normal, "{query:?}");
    assert!(normal.is_ascii() && !normal.contains(['#', ' ', '"', '<', '>', '\n']));
    // It goes into a request target as it is.
    let target = format!("/?{normal}").parse::<Uri>().expect("a target");
    assert_eq!(target.query(), Some(&*normal));
}

fn decoded(name: &str) -> Option<String> {
    values(&format!("x={name}"), "x").pop().filter(|name| !name.contains('\u{fffd}'))
}

fn routes(path: &str, query: &str, host: &str) {
    let Ok(uri) = format!("{path}?{query}").parse::<Uri>() else { return };
    let Ok(host) = HeaderValue::from_str(host.trim()) else { return };
    let mut request = http::Request::new(());
    (*request.uri_mut(), *request.method_mut()) = (uri, Method::HEAD);
    request.headers_mut().insert(header::HOST, host);
    // The server lets no other host in.
    if ambiguous(&request).is_some() {
        return;
    }
    let mut parts = request.into_parts().0;
    let before = request_host(&parts, "http").into_owned();
    settle(&mut parts.uri, &mut parts.headers);
    let (uri, headers) = (parts.uri.clone(), parts.headers.clone());
    settle(&mut parts.uri, &mut parts.headers);
    assert_eq!((&uri, &headers), (&parts.uri, &parts.headers));
    let host = request_host(&parts, "http").into_owned();
    assert!(host.bytes().all(|b| !b.is_ascii_uppercase()) && !host.ends_with(":80"));
    assert!(
        parts.uri.authority().is_none() && (before == host || before.contains(':')),
        "{before:?} {host:?}"
    );
    // The index narrows down and never decides.
    let table = &policy().routes;
    let plainly = table.iter().find(|route| route.matcher.fits(&parts, &host));
    let found = table.find(&parts, &host);
    assert_eq!(found.map(|route| route.index), plainly.map(|route| route.index), "{path:?}");
    let captured = found.map(|route| route.matcher.path.matches(parts.uri.path()));
    assert!(captured.is_none_or(|params| params.is_some()), "{path:?}");
}

fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let matches = [
            "GET /",
            "GET /a",
            "GET /a/",
            "GET /a/{id}",
            "GET /{x}/b",
            "GET /a/*/c",
            "GET /a/b/**",
            "GET /**",
            "GET /caf%C3%A9",
            "GET /a/{id}/{y}",
            "GET /{z}/**",
        ];
        let mut text = "listen = \"127.0.0.1:1\"\nupstream = \"http://127.0.0.1:2\"\n".to_owned();
        for (i, matched) in matches.iter().enumerate() {
            let when = match i % 3 {
                0 => "when = { query = { q = true } }",
                1 if i > 4 => "host = \"*.example\"",
                _ => "",
            };
            text += &format!("[[route]]\nname = \"r{i}\"\nmatch = \"{matched}\"\nttl = \"1m\"\n{when}\n");
        }
        load_str("routes", &text, &Env::empty()).expect("a configuration").config.policy
    })
}
