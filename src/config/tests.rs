//! What is refused and where it is pointed at, what the environment does, and that nothing secret gets out.

mod bad;
mod coherence;
mod environment;
mod settings;

use super::*;

/// The root file, DESIGN's example and smaller texts of the tests.
const BASE: &str = "upstream = \"http://127.0.0.1:9\"\n";

fn env(vars: &[(&str, &str)]) -> Env {
    vars.iter().copied().collect()
}

#[track_caller]
fn good(text: &str) -> Loaded {
    load_str("proxy.toml", text, &Env::empty()).unwrap_or_else(|problems| panic!("{}", show(&problems)))
}

/// All findings, whether the text was accepted or not.
fn findings(text: &str, env: &Env) -> Vec<Problem> {
    match load_str("proxy.toml", text, env) {
        Ok(loaded) => loaded.warnings,
        Err(problems) => problems,
    }
}

fn show(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("{p}\n\n")).collect()
}

const DESIGN_EXAMPLE: &str = r#"
listen   = "0.0.0.0:8080"
upstream = "http://127.0.0.1:8000"

[admin]
listen = "127.0.0.1:8081"          # health, metrics, dashboard, purge, stats
token  = "${WEIR_ADMIN_TOKEN}"

[redis]                             # leave out: memory alone
url = "redis://127.0.0.1:6379/1"

[defaults]
ttl     = "5m"
subject = { header = "authorization" }

[[route]]
name = "transactions"
match = "GET /transactions"
ttl  = "5m"
tags = ["session:{query.session_id}", "tx:{response.items[*].id}"]

[[route]]
name = "summary"
match = "GET /summary"
ttl  = "30m"
stale_while_revalidate = "1m"
tags = ["session:{query.session_id}"]

[[purge]]
on   = "PUT /transactions/{id}"
tags = ["tx:{path.id}", "session:{response.session_id}"]

[[purge]]
on    = "POST /bulk-categorise"
tags  = ["session:{request.session_id}"]
paths = ["/reports/**"]

[[route]]
name = "reports"
match = "GET /reports/{year}"
"#;

#[test]
fn the_example_of_the_design_parses() {
    let loaded = load_str("proxy.toml", DESIGN_EXAMPLE, &env(&[("WEIR_ADMIN_TOKEN", "sesame")])).unwrap();
    assert_eq!(loaded.warnings, []);
    let c = loaded.config;
    assert_eq!(c.admin.unwrap().token.as_deref(), Some("sesame"));
    let redis = c.store.redis.unwrap();
    assert_eq!((redis.url.as_str(), redis.prefix.as_str()), ("redis://127.0.0.1:6379/1", "cache"));
    let names: Vec<&str> = c.policy.routes.iter().map(|r| &*r.name).collect();
    assert_eq!(names, ["transactions", "summary", "reports"]);
    let summary = c.policy.routes.iter().nth(1).unwrap();
    assert_eq!(summary.terms.ttl, Some(Duration::from_secs(1800)));
    assert_eq!(summary.terms.stale_while_revalidate, Some(Duration::from_secs(60)));
    assert!(summary.terms.per_subject);
    assert_eq!(c.policy.tags.rules.len(), 2);
    assert_ne!(c.policy.tags.fingerprint, 0);
}

#[test]
fn the_root_file_has_no_findings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy.toml");
    let loaded = load(&path, &Env::empty()).unwrap_or_else(|problems| panic!("{}", show(&problems)));
    assert_eq!(loaded.warnings, [], "{}", show(&loaded.warnings));
    let shown = describe(&loaded.config);
    assert!(shown.contains("catalogue  GET /catalogue/**"), "{shown}");
}

#[test]
fn defaults_are_the_documented_ones() {
    let c = good(BASE).config;
    let secs = Duration::from_secs;
    assert_eq!(c.listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(c.admin.as_ref().map(|a| a.listen), Some("127.0.0.1:8081".parse().unwrap()));
    assert!(c.store.redis.is_none() && c.store.secret.is_none());
    assert_eq!((c.store.memory_bytes, c.store.max_body, c.store.mark_slots), (256 << 20, 8 << 20, 1 << 20));
    assert_eq!((c.store.max_variants, c.policy.tags.max_tags), (32, 128));
    assert_eq!((c.upstream.connect_timeout, c.upstream.first_byte_timeout), (secs(5), secs(60)));
    assert_eq!((c.upstream.keep_alive, c.upstream.max_connections), (secs(4), 1024));
    assert_eq!((c.limits.header_timeout, c.limits.max_header_bytes), (secs(30), 64 << 10));
    assert_eq!((c.drain_timeout, c.drain_delay), (secs(30), secs(0)));
    assert_eq!(c.exchange.trust_forwarded, Trust::Nobody);
    assert_eq!((c.exchange.max_fill_bytes, c.exchange.max_tag_body), (256 << 20, 1 << 20));
    assert_eq!((c.exchange.hit_for_miss, c.exchange.coalesce_timeout), (secs(10), secs(30)));
    assert_eq!(c.log.access.as_deref(), Some("-"));
    assert_eq!(c.policy.unlisted, crate::policy::Unlisted::Pass);
    assert_eq!(&*c.policy.rfc_route.name, "unlisted");
    assert_eq!(c.policy.rfc_route.terms.ttl, None);
}

#[test]
fn routes_inherit_and_may_decline() {
    use crate::policy::subject::SubjectSpec;
    use crate::semantics::storing::OriginMode;
    let loaded = good(&format!(
        "{BASE}[defaults]\nttl = \"1d\"\nkeep = \"2m\"\njitter = 0.1\nsubject = {{ cookie = \"sid\" }}\nvary = [\"Accept-Language\"]\n\
         [[route]]\nname = \"a\"\nmatch = \"/a\"\n\
         [[route]]\nname = \"b\"\nmatch = \"/b\"\nttl = \"1m 30s\"\nsubject = \"none\"\nvary = []\norigin = \"honour\"\n"
    ));
    assert_eq!(loaded.warnings, []);
    let routes: Vec<_> = loaded.config.policy.routes.iter().collect();
    assert_eq!(routes[0].terms.ttl, Some(Duration::from_secs(86_400)));
    assert_eq!((routes[0].terms.keep, routes[0].jitter), (Duration::from_secs(120), 0.1));
    assert!(matches!(&routes[0].subject, SubjectSpec::Cookie(c) if &**c == "sid"));
    assert_eq!(routes[0].vary, ["accept-language"]);
    assert!(matches!(routes[1].subject, SubjectSpec::None) && !routes[1].terms.per_subject);
    assert_eq!(
        (routes[1].terms.ttl, routes[1].terms.origin),
        (Some(Duration::from_secs(90)), OriginMode::Honour)
    );
    assert!(routes[1].vary.is_empty());
    // The backend alone decides where nobody gave a lifetime.
    let loaded = good(&format!(
        "{BASE}[[route]]\nname = \"a\"\nmatch = \"/a\"\norigin = \"honour\"\nsubject = \"none\"\n"
    ));
    assert_eq!(loaded.config.policy.routes.iter().next().unwrap().terms.ttl, None);
}

#[test]
fn redis_from_its_parts() {
    let url = |text: &str| good(&format!("{BASE}[redis]\n{text}")).config.store.redis.unwrap();
    assert_eq!(url("host = \"r\"").url, "redis://r:6379/1");
    let full =
        url("host = \"::1\"\nport = 7000\nusername = \"u\"\npassword = \"p@/:\"\ndatabase = 3\ntls = true");
    assert_eq!(full.url, "rediss://u:p%40%2F%3A@[::1]:7000/3");
    assert_eq!(full.shown, "rediss://[::1]:7000/3");
    assert_eq!(url("url = \"redis://u:p@h\"").url, "redis://u:p@h:6379/1");
    assert_eq!(
        url("url = \"redis://h/2?protocol=resp3\"\npassword = \"x\"").url,
        "redis://:x@h:6379/2?protocol=resp3"
    );
}

#[test]
fn redis_behind_sentinels_and_as_a_cluster() {
    use crate::store::redis::Servers;
    let redis = |text: &str| good(&format!("{BASE}[redis]\n{text}")).config.store.redis.unwrap();
    let found = redis(
        "sentinels = [\"a\", \"[::1]:5000\", \"a:26379\"]\nservice = \"mymaster\"\nusername = \"u\"\npassword = \"p\"\n\
         sentinel_username = \"su\"\nsentinel_password = \"sp\"\ndatabase = 2\ntls = true",
    );
    assert_eq!(found.url, "rediss://u:p@a:26379/2");
    assert_eq!(found.shown, "rediss://mymaster/2 by sentinels a:26379, [::1]:5000");
    let Servers::Sentinel { nodes, service, username, password } = &found.servers else { panic!() };
    assert_eq!((nodes.len(), service.as_str()), (2, "mymaster"));
    assert_eq!((username.as_deref(), password.as_deref()), (Some("su"), Some("sp")));
    assert!(!format!("{found:?}").contains("sp"), "{found:?}");

    assert_eq!(redis("sentinels = [\"a\"]\nservice = \"m\"").url, "redis://a:26379/1");
    let found = redis("cluster = [\"a:7000\", \"b\"]\npassword = \"p\"\ndatabase = 0");
    assert_eq!(found.url, "redis://:p@a:7000/0");
    assert_eq!(found.shown, "redis cluster a:7000, b:6379");
    assert!(matches!(&found.servers, Servers::Cluster { nodes } if nodes.len() == 2));
    assert_eq!(redis("cluster = [\"a\"]").url, "redis://a:6379/0");

    let files = "ca_file = \"tests/net/tls/ca.pem\"\ncert_file = \"tests/net/tls/leaf.pem\"\nkey_file = \"tests/net/tls/leaf.key\"";
    let found = redis(&format!("cluster = [\"a\"]\ntls = true\n{files}"));
    assert!(found.url.starts_with("rediss://") && found.ca_file.is_some());
    assert!(found.cert_file.is_some() && found.key_file.is_some());
}

#[test]
fn verification_keys_and_their_subject() {
    use crate::policy::subject::SubjectSpec;
    let text = format!(
        "{BASE}[[keys]]\nname = \"main\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
         [[keys]]\nname = \"web\"\njwks_url = \"https://id.example.com/jwks\"\n\
         [[route]]\nname = \"a\"\nmatch = \"/a\"\ntags = [\"t:{{claim.tenant}}\"]\n\
         subject = {{ jwt = {{ keys = \"web\", claims = [\"sub\", \"tenant\"], audience = \"api\", from = {{ cookie = \"t\" }} }} }}\n"
    );
    let config = good(&text).config;
    let SubjectSpec::Jwt(spec) = &config.policy.routes.iter().next().unwrap().subject else { panic!() };
    assert_eq!((spec.keys, spec.claims.as_slice()), (1, &["sub".to_owned(), "tenant".to_owned()][..]));
    assert_eq!(spec.leeway, 30);
    assert!(!spec.algorithms.contains(&jsonwebtoken::Algorithm::HS256));
    let sets = initial_key_sets(&config.key_sets).unwrap();
    assert_eq!((sets.0[0].keys.len(), sets.0[1].keys.len()), (1, 0));
}

#[test]
fn a_missing_file_mentions_the_demo() {
    let problems = load(Path::new(DEFAULT_FILE), &Env::empty());
    // The tests run in the repository, which has one.
    assert!(problems.is_ok());
    let error = std::io::Error::from(std::io::ErrorKind::NotFound);
    let shown = unreadable(Path::new(DEFAULT_FILE), DEFAULT_FILE, &error).to_string();
    assert!(shown.contains("it does not exist") && shown.contains("weir demo"), "{shown}");
    let shown = show(&load(Path::new("/nowhere/x.toml"), &Env::empty()).unwrap_err());
    assert!(shown.contains("/nowhere/x.toml") && !shown.contains("demo"), "{shown}");
}

#[test]
fn the_summary_says_what_was_typed() {
    let text = format!(
        "{BASE}[[route]]\nname = \"search\"\nmatch = \"GET|POST /search\"\nbody = \"graphql\"\npublic = true\nhost = \"any\"\n\
         when = {{ header = {{ x-key = \"s3cret\" }}, query = {{ v = \"2\" }} }}\nstale_while_revalidate = \"10s\"\n\
         [[route]]\nname = \"live\"\nmatch = \"/live/**\"\ncache = false\n\
         [[purge]]\non = \"PUT /x/{{id}}\"\nroutes = [\"search\"]\npaths = [\"/search\"]\nsettle = \"2s\"\n"
    );
    let shown = describe(&good(&text).config);
    for part in [
        "GET|POST /search on any host with x-key: … ?v=2 if a GraphQL query",
        "5m + 10s stale",
        "public",
        "live    GET /live/**",
        "PUT /x/{id}  /search, route search, settling 2s",
        "upstream  http://127.0.0.1:9/",
        "everything else passes through",
    ] {
        assert!(shown.contains(part), "{part} in\n{shown}");
    }
    assert!(!shown.contains("s3cret"));
}

mod never_panics {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Any damage to a real file is reported or harmless.
        #[test]
        fn on_damaged_files(at in 0_usize..1200, cut in 0_usize..40, put in "[\\[\\]{}\"=$\\n a-z0-9é]{0,8}") {
            let mut text = DESIGN_EXAMPLE.to_owned();
            let at = at.min(text.len());
            let end = (at + cut).min(text.len());
            text.replace_range(at..end, &put);
            for problem in findings(&text, &Env::empty()) {
                let _ = problem.to_string();
            }
        }

        #[test]
        fn on_anything(text in "\\PC{0,80}") {
            let _ = findings(&text, &Env::empty());
        }
    }
}

#[test]
fn relative_files_start_at_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.toml");
    std::fs::write(dir.path().join("keys.json"), "{\"keys\":[]}").unwrap();
    std::fs::write(&path, format!("{BASE}[log]\naccess = \"a.log\"\n")).unwrap();
    let config = load(&path, &Env::empty()).unwrap().config;
    assert_eq!(config.log.access.as_deref(), dir.path().join("a.log").to_str());
    std::fs::write(&path, format!("{BASE}[[keys]]\nname = \"k\"\njwks_file = \"keys.json\"\n")).unwrap();
    let shown = show(&load(&path, &Env::empty()).unwrap_err());
    assert!(shown.contains("weir.toml:4:13") && shown.contains("no usable JWKS"), "{shown}");
    let shared = r#"{"keys":[{"kty":"oct","kid":"old","alg":"HS256","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}]}"#;
    std::fs::write(dir.path().join("keys.json"), shared).unwrap();
    let shown = show(&load(&path, &Env::empty()).unwrap_err());
    for part in [
        "weir.toml:4:13",
        "kid \"old\"",
        "kty \"oct\"",
        "alg \"HS256\"",
        "shared secret",
        "RSA, EC or Ed25519",
    ] {
        assert!(shown.contains(part) && !shown.contains("MDEy"), "{part}: {shown}");
    }
    let source = KeySetSource::JwksFile {
        name: "k".into(),
        path: dir.path().join("keys.json"),
        refresh: Duration::from_secs(60),
    };
    let error = initial_key_sets(&[source]).unwrap_err();
    assert!(error.contains("keys.json") && error.contains("none of its 1 keys"), "{error}");
    std::fs::write(&path, b"\xff").unwrap();
    assert!(show(&load(&path, &Env::empty()).unwrap_err()).contains("not UTF-8"));
}

#[test]
fn queries_and_parts_are_as_the_route_says() {
    let route = |setting: &str| {
        let text = format!("upstream = \"http://h\"\n[[route]]\nname = \"a\"\nmatch = \"GET /a\"\n{setting}");
        let policy = good(&text).config.policy;
        policy.routes.iter().next().map(|r| (r.no_vary_search, r.fetch_whole))
    };
    for (setting, search, whole) in [
        ("", false, u64::MAX),
        ("origin = \"honour\"\nfetch_whole = true", true, u64::MAX),
        ("origin = \"honour\"\nno_vary_search = false\nfetch_whole = false", false, 0),
        ("no_vary_search = true\nfetch_whole = \"8KiB\"", true, 8192),
    ] {
        assert_eq!(route(setting), Some((search, whole)), "{setting}");
    }
}
