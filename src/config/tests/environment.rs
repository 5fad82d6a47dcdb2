//! Overrides, `${VAR}`, `*_FILE`, and that nothing secret gets out.

use super::*;

const ROUTE: &str = "[[route]]\nname = \"daily-report\"\nmatch = \"/daily\"\nsubject = \"none\"\n";

#[track_caller]
fn with(text: &str, vars: &[(&str, &str)]) -> Loaded {
    load_str("proxy.toml", text, &env(vars)).unwrap_or_else(|problems| panic!("{}", show(&problems)))
}

#[track_caller]
fn refused(text: &str, vars: &[(&str, &str)]) -> String {
    show(&load_str("proxy.toml", text, &env(vars)).expect_err("it should have been refused"))
}

#[test]
fn every_kind_of_setting_can_be_overridden() {
    let text =
        format!("listen = \"127.0.0.1:1\"\n{BASE}[cache]\nmemory = \"1MiB\"\nmax_body = \"1MiB\"\n{ROUTE}");
    let loaded = with(
        &text,
        &[
            ("WEIR_LISTEN", "127.0.0.1:2"),
            ("WEIR_UPSTREAM", "http://b:3"),
            ("WEIR_UPSTREAM_CONNECT_TIMEOUT", "7s"),
            ("WEIR_UPSTREAM_PRESERVE_HOST", "false"),
            ("WEIR_SERVER_TRUST_FORWARDED", "[\"10.0.0.0/8\"]"),
            ("WEIR_SERVER_MAX_STREAMS", "5"),
            ("WEIR_CACHE_MEMORY", "4194304"),
            ("WEIR_REDIS_URL", "redis://r/4"),
            ("WEIR_LOG_ACCESS", "false"),
            ("WEIR_DEFAULTS_TTL", "9s"),
            ("WEIR_DEFAULTS_JITTER", "0.2"),
            ("WEIR_ROUTE_DAILY_REPORT_TTL", "8s"),
            ("WEIR_ROUTE_DAILY_REPORT_TAGS", "a:1, b"),
            ("WEIR_ROUTE_DAILY_REPORT_QUERY_IGNORE", "utm_*"),
            ("WEIR_ROUTE_DAILY_REPORT_SUBJECT", "{ cookie = \"sid\" }"),
            ("WEIR_CONFIG", "proxy.toml"),
        ],
    );
    // The tags that the variable adds are purged by no rule.
    assert!(loaded.warnings.iter().all(|p| p.path == "route[0].tags[0]"), "{}", show(&loaded.warnings));
    let c = loaded.config;
    assert_eq!(c.listen.port(), 2);
    assert_eq!(c.upstream.origin.to_string(), "http://b:3/");
    assert_eq!((c.upstream.connect_timeout, c.upstream.preserve_host), (Duration::from_secs(7), false));
    assert_eq!(c.exchange.trust_forwarded, Trust::Networks(vec![([10, 0, 0, 0].into(), 8)]));
    assert_eq!((c.limits.max_streams, c.store.memory_bytes), (5, 4 << 20));
    assert_eq!(c.store.redis.unwrap().url, "redis://r:6379/4");
    assert_eq!(c.log.access, None);
    let route = c.policy.routes.iter().next().unwrap();
    assert_eq!((route.terms.ttl, route.jitter), (Some(Duration::from_secs(8)), 0.2));
    assert_eq!(route.tags.iter().map(|t| &*t.text).collect::<Vec<_>>(), ["a:1", "b"]);
    assert_eq!(route.query.ignore, ["utm_*"]);
    assert!(route.terms.per_subject);
}

#[test]
fn the_environment_alone_is_enough() {
    let loaded = with("", &[("WEIR_UPSTREAM", "http://b:3"), ("WEIR_REDIS_HOST", "r")]);
    assert_eq!(loaded.config.store.redis.unwrap().url, "redis://r:6379/1");
    let loaded = with(
        "[[purge]]\non = \"PUT /x\"\npaths = [\"/y\"]\n",
        &[("WEIR_UPSTREAM", "http://b:3"), ("WEIR_PURGE_0_SETTLE", "2s"), ("WEIR_DEFAULTS_CACHE", "rfc")],
    );
    assert_eq!(loaded.config.policy.tags.rules[0].settle, Duration::from_secs(2));
}

#[test]
fn a_whole_redis_url_replaces_the_parts() {
    let text = format!("{BASE}[redis]\nhost = \"old\"\nport = 1\npassword = \"old\"\n");
    let loaded = with(&text, &[("WEIR_REDIS_URL", "redis://new/2"), ("WEIR_REDIS_PASSWORD", "p")]);
    assert_eq!(loaded.config.store.redis.unwrap().url, "redis://:p@new:6379/2");
}

#[test]
fn a_variable_that_says_where_redis_is_replaces_what_the_file_says() {
    let text = format!("{BASE}[redis]\nurl = \"redis://:old@old/3\"\nprefix = \"kept\"\n");
    let redis = |text: &str, vars: &[(&str, &str)]| with(text, vars).config.store.redis.unwrap();
    let found = redis(
        &text,
        &[
            ("WEIR_REDIS_SENTINELS", "a, b:1"),
            ("WEIR_REDIS_SERVICE", "m"),
            ("WEIR_REDIS_SENTINEL_USERNAME", "su"),
            ("WEIR_REDIS_SENTINEL_PASSWORD", "hunter2"),
        ],
    );
    assert_eq!(found.shown, "redis://m/1 by sentinels a:26379, b:1");
    assert_eq!((found.url.as_str(), found.prefix.as_str()), ("redis://a:26379/1", "kept"));
    assert!(!format!("{found:?}").contains("hunter2"));
    let found = redis(&text, &[("WEIR_REDIS_CLUSTER", "a:7000,b:7000"), ("WEIR_REDIS_TLS", "true")]);
    assert_eq!(found.shown, "rediss cluster a:7000, b:7000");
    let text = format!("{BASE}[redis]\nsentinels = [\"a\"]\nservice = \"m\"\nsentinel_password = \"p\"\n");
    assert_eq!(redis(&text, &[("WEIR_REDIS_URL", "redis://new/2")]).url, "redis://new:6379/2");
    assert_eq!(redis(&text, &[("WEIR_REDIS_CLUSTER", "c")]).url, "redis://c:6379/0");
}

#[test]
fn empty_variables_and_service_links_do_not_count() {
    let vars = [
        ("WEIR_LISTEN", ""),
        ("WEIR_REDIS_URL", ""),
        ("WEIR_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("WEIR_REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("WEIR_SERVICE_HOST", "10.0.0.2"),
        ("WEIR_SERVICE_PORT_HTTP", "80"),
    ];
    let loaded = with(BASE, &vars);
    assert_eq!(loaded.warnings, []);
    assert!(loaded.config.store.redis.is_none());
}

#[test]
fn unknown_variables_are_warned_about() {
    let loaded =
        with(BASE, &[("WEIR_CACHE_MEMROY", "1MiB"), ("OTHER", "x"), ("WEIR_CACHE_MEMORY_FILE", "x")]);
    let shown = show(&loaded.warnings);
    assert_eq!(loaded.warnings.len(), 2, "{shown}");
    assert!(shown.contains("did you mean `WEIR_CACHE_MEMORY`?"), "{shown}");
}

#[test]
fn errors_name_the_variable() {
    for (name, value, part) in [
        ("WEIR_CACHE_MEMORY", "lots", "`lots` is not a size"),
        ("WEIR_CACHE_MAX_TAGS", "many", "a whole number"),
        ("WEIR_CACHE_MAX_TAGS", "1", "1 is too small"),
        ("WEIR_LOG_FORMAT", "jsno", "did you mean `json`?"),
        ("WEIR_ADMIN_ENABLED", "maybe", "true or false"),
        ("WEIR_DEFAULTS_SUBJECT", "{ header = ", "as it would be typed"),
        ("WEIR_DEFAULTS_SUBJECT", "{ heade = \"x\" }", "did you mean `header`?"),
        ("WEIR_DEFAULTS_VARY", "a b,c", "`a b` is not a header name"),
        ("WEIR_UPSTREAM", "nonsense", "is not a URL"),
    ] {
        let shown = refused(BASE, &[(name, value)]);
        assert!(shown.contains(&format!("environment variable {name}")) && shown.contains(part), "{shown}");
        assert!(shown.contains(&format!("{name}={value}")), "{shown}");
        assert_eq!(shown.matches("error: ").count(), 1, "{shown}");
    }
}

#[test]
fn a_variable_that_could_mean_two_settings_is_refused() {
    let text = format!(
        "{BASE}[[route]]\nname = \"x\"\nmatch = \"/a\"\nsubject = \"none\"\n[[route]]\nname = \"x-negative\"\nmatch = \"/b\"\nsubject = \"none\"\n"
    );
    with(&text, &[("WEIR_ROUTE_X_TTL", "5s")]);
    let shown = refused(&text, &[("WEIR_ROUTE_X_NEGATIVE_TTL", "5s")]);
    assert!(shown.contains("route[0].negative_ttl") && shown.contains("route[1].ttl"), "{shown}");
}

#[test]
fn variables_inside_strings() {
    let text = "upstream = \"http://${HOST:-127.0.0.1}:${PORT}\"\n[cache]\nnamespace = \"a${EMPTY:-b}${EMPTY}\"\n\
                [[route]]\nname = \"r\"\nmatch = \"/cost$$5/$x\"\nsubject = \"none\"\n";
    let loaded = with(text, &[("PORT", "9"), ("EMPTY", "")]);
    assert_eq!(loaded.config.upstream.origin.to_string(), "http://127.0.0.1:9/");
    assert_eq!(loaded.config.store.namespace, "ab");
    assert_eq!(&*loaded.config.policy.routes.iter().next().unwrap().matcher.path.text, "/cost$5/$x");
}

#[test]
fn an_unset_variable_is_pointed_at_once() {
    let text = "upstream = \"http://${HOST}:9\"\n[cache]\nname = \"x${open\"\nnamespace = \"${a-b}\"\n";
    let problems = load_str("proxy.toml", text, &Env::empty()).unwrap_err();
    let places: Vec<_> = problems.iter().map(|p| (p.line, p.column, p.message.as_str())).collect();
    assert_eq!(
        places,
        [
            (1, 20, "the environment variable `HOST` is not set"),
            (3, 10, "`${` is never closed by `}`"),
            (4, 14, "`${a-b}` does not name a variable"),
        ]
    );
}

#[test]
fn overrides_are_taken_as_they_are() {
    let loaded = with(BASE, &[("WEIR_ADMIN_TOKEN", "a$$b${HOME}")]);
    assert_eq!(loaded.config.admin.unwrap().token.as_deref(), Some("a$$b${HOME}"));
}

#[test]
fn secrets_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (token, password) = (write("t", "se same\r\n"), write("p", "p4ss\n"));
    let secret = write("s", "0123456789abcdef0123456789abcdef\n");
    let text = format!("{BASE}[redis]\nhost = \"r\"\n[[keys]]\nname = \"my-keys\"\n");
    let loaded = with(
        &text,
        &[
            ("WEIR_ADMIN_TOKEN_FILE", &token),
            ("WEIR_REDIS_PASSWORD_FILE", &password),
            ("WEIR_CACHE_SECRET_FILE", &secret),
            ("WEIR_KEYS_MY_KEYS_SECRET_FILE", &secret),
        ],
    );
    assert_eq!(loaded.config.admin.as_ref().unwrap().token.as_deref(), Some("se same"));
    assert_eq!(loaded.config.store.redis.as_ref().unwrap().url, "redis://:p4ss@r:6379/1");
    assert!(loaded.config.store.secret.is_some());

    let shown = refused(BASE, &[("WEIR_ADMIN_TOKEN", "x"), ("WEIR_ADMIN_TOKEN_FILE", &token)]);
    assert!(shown.contains("both WEIR_ADMIN_TOKEN and WEIR_ADMIN_TOKEN_FILE are set"), "{shown}");
    let shown = refused(BASE, &[("WEIR_REDIS_URL_FILE", "/nowhere/x")]);
    assert!(shown.contains("WEIR_REDIS_URL_FILE") && shown.contains("it does not exist"), "{shown}");
    let shown = refused(BASE, &[("WEIR_ADMIN_TOKEN_FILE", &write("e", "\n"))]);
    assert!(shown.contains("is empty"), "{shown}");
}

#[test]
fn no_secret_is_ever_shown() {
    const SECRET: &str = "hunter2hunter2hunter2hunter2hunter2";
    let text = format!(
        "{BASE}[admin]\ntoken = \"{SECRET}\"\n[redis]\nurl = \"redis://u:{SECRET}@h/1\"\n\
         [cache]\nsecret = \"{SECRET}\"\n[[keys]]\nname = \"k\"\nsecret = \"{SECRET}\"\n"
    );
    let config = with(&text, &[]).config;
    let shown = format!("{config:?} {:?} {:?} {}", config.admin, config.key_sets, describe(&config));
    assert!(!shown.contains("hunter2"), "{shown}");

    // In every way a line with a secret can be wrong.
    for bad in [
        format!("[admin]\ntoken = \"{SECRET}\"\ntoken = \"{SECRET}\"\n"),
        format!("[admin]\ntoken = \"{SECRET}\n"),
        format!("[admin]\ntoken = {SECRET}\n"),
        format!("[admin]\ntokens = \"{SECRET}\"\n"),
        format!("[admin]\npasswd = \"{SECRET}\"\n"),
        format!("admin = {{ listen = 5, token = \"{SECRET}\", x = 1 }}\n"),
        format!("admin = {{ listen = 5, token = \"{SECRET}\" x = 1 }}\n"),
        format!("[admin]\ntoken = [\"{SECRET}\"]\n"),
        format!("[admin]\ntoken = {{ x = \"{SECRET}\" }}\n"),
        format!("[admin]\ntoken = \"\"\"\n{SECRET}\n${{X\n\"\"\"\n"),
        format!("[admin]\ntoken = \"\"\"\n{SECRET}\n"),
        format!("[redis]\nurl = \"http://u:{SECRET}@h\"\n"),
        format!("[redis]\nurl = \"redis://u:{SECRET}@h:port\"\n"),
        format!("[redis]\nurl = \"redis://u:{SECRET}@h/zero\"\n"),
        format!("[redis]\nurl = \"redis://u:{SECRET}\"\n"),
        format!("[redis]\nurl = \"redis://{SECRET}/x\"\n"),
        format!("[redis]\nurl = \"redis://u:{SECRET}@h/0\"\nport = 1\n"),
        format!("[redis]\nurl = \"redis://u:{SECRET}@h\"\npassword = \"{SECRET}\"\n"),
        format!("[cache]\nsecret = [\"{SECRET}\"]\n"),
        format!("[[keys]]\nname = \"k\"\nsecret = \"{SECRET}\"\npem = \"x\"\n"),
        format!("upstream = \"http://u:{SECRET}@h\"\n"),
        format!("upstream = \"u:{SECRET}@h\"\n"),
        format!("[[keys]]\nname = \"k\"\npem = \"-----BEGIN PRIVATE KEY-----\\n{SECRET}\"\n"),
        format!("upstream = \"ftp://u:{SECRET}@h\"\n"),
        format!("[[keys]]\nname = \"k\"\njwks_url = \"ftp://u:{SECRET}@h\"\n"),
        // Behind brackets that are never closed it is read as another setting's value.
        format!(
            "[[route]]\nsubject = {{ jwt = {{ claims = [\"a\"GET /a/\"\nttl = \"1m 30s\"\nsubject = {{ jwt = {{ keys = \"b\"\n\
             [[purge]]\non \"/a/**\"]\nsubject = \"c\nX=1\n\n[admin]\ntoken = \"{SECRET}\"\n"
        ),
    ] {
        let base = if bad.contains("upstream") { "" } else { BASE };
        let shown = refused(&format!("{base}{bad}"), &[]);
        assert!(!shown.contains("hunter2"), "{bad}\n{shown}");
    }
    for (name, value) in [
        ("WEIR_REDIS_URL", "hunter2"),
        ("WEIR_CACHE_SECRET", "hunter2"),
        ("WEIR_UPSTREAM", "http://u:hunter2@h"),
    ] {
        let shown = refused(BASE, &[(name, value)]);
        assert!(!shown.contains("hunter2") && shown.contains(name), "{shown}");
    }
    assert!(!format!("{:?}", env(&[("A", "hunter2")])).contains("hunter2"));
}
