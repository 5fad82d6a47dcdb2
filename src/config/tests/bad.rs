//! Bad inputs: where each finding points, and what it says.

use super::*;

/// A text, and the only finding it gives: severity, line, column, path, parts of what is printed.
type Case = (&'static str, Severity, usize, usize, &'static str, &'static [&'static str]);

use Severity::{Error, Note, Warning};

#[rustfmt::skip] // one case, one line
const SECTIONS: &[Case] = &[
    ("listen = \":8080\"", Error, 2, 10, "listen", &["not an address", "\"0.0.0.0:8080\""]),
    ("listen = 8080", Error, 2, 10, "listen", &["read integer `8080`", "a string"]),
    ("listen = \"127.0.0.1:9\"", Error, 1, 12, "upstream.url", &["own listener"]),
    ("lisen = \"127.0.0.1:9\"", Error, 2, 1, "lisen", &["unknown key `lisen`", "did you mean `listen`?"]),
    ("[admin]\nlisten = \"127.0.0.1:8080\"", Error, 3, 10, "admin.listen", &["both listen on port 8080"]),
    ("[admin]\nlisten = \"0.0.0.0:1\"", Warning, 3, 10, "admin.listen", &["no token"]),
    ("[admin]\ntoken = \" \"", Error, 3, 9, "admin.token", &["empty"]),
    ("[tls]\nkey = \"k\"", Error, 2, 1, "tls.certificate", &["`certificate` is missing", "both `certificate` and `key`"]),
    ("[tls]\ncertificate = \"Cargo.toml\"", Error, 2, 1, "tls.key", &["`key` is missing"]),
    ("[tls]\ncertificate = \"/nowhere.pem\"\nkey = \"Cargo.toml\"", Error, 3, 15, "tls.certificate", &["`/nowhere.pem`", "does not exist"]),
    ("[tls]\ncertificate = \"Cargo.toml\"\nkey = \"/nowhere.pem\"", Error, 4, 7, "tls.key", &["`/nowhere.pem`", "does not exist"]),
    ("[tls]\ncertificate = \"Cargo.toml\"\nkey = \"tests/net/tls/leaf.key\"", Error, 3, 15, "tls.certificate", &["`Cargo.toml` holds no PEM certificate"]),
    ("[tls]\ncertificate = \"tests/net/tls/leaf.pem\"\nkey = \"Cargo.toml\"", Error, 4, 7, "tls.key", &["`Cargo.toml` holds no PEM private key"]),
    ("[tls]\ncertificate = \"tests/net/tls/ca.pem\"\nkey = \"tests/net/tls/leaf.key\"", Error, 4, 7, "tls.key", &["tests/net/tls/leaf.key` does not belong", "tests/net/tls/ca.pem`"]),
    ("tls = true", Error, 2, 7, "tls", &["read boolean `true`", "a table"]),
    ("[server]\ndrain_timeout = 30", Error, 3, 17, "server.drain_timeout", &["`30` has no unit", "\"90s\""]),
    ("[server]\nheader_timeout = \"5 eons\"", Error, 3, 18, "server.header_timeout", &["not a duration"]),
    ("[server]\nheader_timeout = \"1d\"", Error, 3, 18, "server.header_timeout", &["1d is too long", "100ms to 10m"]),
    ("[server]\nmax_header_bytes = \"1KB\"", Error, 3, 20, "server.max_header_bytes", &["too small", "8KiB to 16MiB"]),
    ("[server]\nmax_streams = 0", Error, 3, 15, "server.max_streams", &["0 is too small", "1 to 10000"]),
    ("[server]\nmax_streams = -7", Error, 3, 15, "server.max_streams", &["-7 is too small"]),
    ("[server]\ntrust_forwarded = [\"10.0.0.0/8\", \"x/8\"]", Error, 3, 34, "server.trust_forwarded[1]", &["`x/8` is not a network"]),
    ("[server]\ntrust_forwarded = \"yes\"", Error, 3, 19, "server.trust_forwarded", &["list of networks"]),
    ("[cache]\nmemory = \"8 cows\"", Error, 3, 10, "cache.memory", &["not a size", "8MiB"]),
    ("[cache]\nmemory = \"1MiB\"", Warning, 3, 10, "cache.memory", &["smaller than `max_body`"]),
    ("[cache]\nmemory = 0", Warning, 3, 10, "cache.memory", &["nothing can be kept"]),
    ("[cache]\nmark_slots = 5000", Error, 3, 14, "cache.mark_slots", &["not a power of two", "8192"]),
    ("[cache]\nsecret = \"short\"", Error, 3, 10, "cache.secret", &["5 bytes", "at least 32"]),
    ("[cache]\nname = \"a b\"", Error, 3, 8, "cache.name", &["letters, digits"]),
    ("[cache]\nx_cache = 1", Error, 3, 11, "cache.x_cache", &["read integer `1`", "true or false"]),
    ("[cache]\nmax_body = \"8MiB\"\nmax_fill = \"1MiB\"", Warning, 4, 12, "cache.max_fill", &["never be stored"]),
    ("[cache]\ncoherence = \"weak\"", Error, 3, 13, "cache.coherence", &["read `weak`", "`strong` or `eventual`"]),
    ("[cache]\nalone = \"die\"", Error, 3, 9, "cache.alone", &["read `die`", "`serve` or `bypass`"]),
    ("[cache]\non_unreachable_log = \"wait\"", Error, 3, 22, "cache.on_unreachable_log", &["read `wait`", "`forward` or `refuse`"]),
    ("[cache]\nlease = \"50ms\"", Error, 3, 9, "cache.lease", &["50ms is too short", "100ms to 1m"]),
    ("[cache]\nlease = \"2m\"", Error, 3, 9, "cache.lease", &["2m is too long", "100ms to 1m"]),
    ("[cache]\nlease = 2", Error, 3, 9, "cache.lease", &["`2` has no unit", "\"5 minutes\""]),
    ("[cache]\nlease = \"1s\"", Note, 3, 9, "cache.lease", &["without [redis]", "`lease` is idle"]),
    ("[cache]\ncoherence = \"eventual\"\nlease = \"1s\"", Note, 3, 13, "cache.coherence", &["`coherence` and `lease` are idle"]),
    ("[redis]\nhost = \"h\"\nappend_timeout = \"1s\"", Error, 4, 18, "redis.append_timeout", &["1s is shorter than the lease, 2s"]),
    ("[defaults]\ncoalesce = \"shared\"", Warning, 3, 12, "defaults.coalesce", &["within this instance alone"]),
    ("[defaults]\ncoalesce = \"all\"", Error, 3, 12, "defaults.coalesce", &["\"shared\" (by all instances"]),
    ("[log]\nlevel = \"loud\"", Error, 3, 10, "log.level", &["`loud` is not a log level", "debug"]),
    ("[log]\nlevel = \"info,weir::store=verbose\"", Error, 3, 27, "log.level", &["`verbose`"]),
    ("[log]\nformat = \"xml\"", Error, 3, 10, "log.format", &["read `xml`", "`json` or `human`"]),
    ("log = 5", Error, 2, 7, "log", &["read integer `5`", "a table"]),
    ("[redis]", Error, 2, 1, "redis.url", &["where Redis is"]),
    ("[redis]\nurl = \"redis://h/0\"", Error, 3, 7, "redis.url", &["database 0 is refused"]),
    ("[redis]\nhost = \"h\"\ndatabase = 0", Error, 4, 12, "redis.database", &["database 0 is refused", "never touches"]),
    ("[redis]\nurl = \"http://h\"", Error, 3, 7, "redis.url", &["redis:// or rediss://"]),
    ("[redis]\nurl = \"redis://h\"\nhost = \"h\"", Error, 4, 8, "redis.host", &["both `url` and `host`"]),
    ("[redis]\nhost = \"a b\"", Error, 3, 8, "redis.host", &["not a host name"]),
    ("[redis]\nhost = \"h\"\ntimeout = \"0s\"", Error, 4, 11, "redis.timeout", &["too short", "1ms to 30s"]),
    ("[redis]\nhost = \"h\"\nca_file = \"/nowhere.pem\"", Error, 4, 11, "redis.ca_file", &["does not exist"]),
    ("[[keys]]\nname = \"k\"", Error, 2, 1, "keys[0]", &["no keys", "exactly one of"]),
    ("[[keys]]\nsecret = \"0123456789abcdef0123456789abcdef\"", Error, 2, 1, "keys[0].name", &["`name` is missing"]),
    ("[[keys]]\nname = \"k\"\nsecret = \"short\"", Error, 4, 10, "keys[0].secret", &["5 bytes"]),
    ("[[keys]]\nname = \"k\"\npem = \"x\"", Error, 4, 7, "keys[0].pem", &["no usable key"]),
    ("[[keys]]\nname = \"k\"\npem = \"x\"\njwks_file = \"y\"", Error, 5, 13, "keys[0].jwks_file", &["both `pem` and `jwks_file`"]),
    ("[[keys]]\nname = \"k\"\njwks_file = \"/nowhere\"", Error, 4, 13, "keys[0].jwks_file", &["does not exist"]),
    ("[[keys]]\nname = \"k\"\njwks_url = \"ftp://h\"", Error, 4, 12, "keys[0].jwks_url", &["not a URL"]),
    ("[[keys]]\nname = \"k\"\njwks_url = \"http://h\"\n[[keys]]\nname = \"k\"\njwks_url = \"http://h\"", Error, 6, 8, "keys[1].name", &["two key sets"]),
    ("[redis]\nurl = \"redis://u:p@h\"\nusername = \"v\"", Error, 4, 12, "redis.username", &["both `url` and `username`"]),
    ("[redis]\nurl = \"redis://u:p/w@h\"", Error, 3, 7, "redis.url", &["must be escaped"]),
    ("[redis]\nhost = \"h\"\nport = 70000", Error, 4, 8, "redis.port", &["70000 is too large"]),
    ("[redis]\nhost = \"h\"\nprefix = \"a*\"", Error, 4, 10, "redis.prefix", &["cannot be a name"]),
    ("[redis]\npool = 3", Error, 2, 1, "redis.url", &["where Redis is", "`sentinels` and `service`", "`cluster`"]),
    ("[redis]\nhost = \"h\"\nprefix = \"{a}\"", Error, 4, 10, "redis.prefix", &["`{a}` cannot be a name"]),
    ("[redis]\nurl = \"redis://h\"\nservice = \"m\"\nsentinels = [\"s\"]", Error, 5, 13, "redis.sentinels", &["both `url` and `sentinels`", "`sentinels` with `service`"]),
    ("[redis]\nurl = \"redis://h\"\ncluster = [\"c\"]", Error, 4, 11, "redis.cluster", &["both `url` and `cluster`"]),
    ("[redis]\nhost = \"h\"\ncluster = [\"c\"]", Error, 4, 11, "redis.cluster", &["both `host` and `cluster`"]),
    ("[redis]\nsentinels = [\"s\"]\nservice = \"m\"\ncluster = [\"c\"]", Error, 5, 11, "redis.cluster", &["both `sentinels` and `cluster`"]),
    ("[redis]\nsentinels = [\"s\"]\nservice = \"m\"\nport = 6379", Error, 5, 8, "redis.port", &["both `sentinels` and `port`"]),
    ("[redis]\nsentinels = [\"s\"]", Error, 3, 13, "redis.sentinels", &["`sentinels` without `service`", "mymaster"]),
    ("[redis]\nsentinels = []\nservice = \"m\"", Error, 3, 13, "redis.sentinels", &["the list is empty", "host:26379"]),
    ("[redis]\nsentinels = [\"s:1\", \"s:x\"]\nservice = \"m\"", Error, 3, 21, "redis.sentinels[1]", &["`s:x` is not a host and port", "host:26379"]),
    ("[redis]\nsentinels = \"s:1\"\nservice = \"m\"", Error, 3, 13, "redis.sentinels", &["read string", "a list, such as"]),
    ("[redis]\nsentinels = [\"s\"]\nservice = \"m m\"", Error, 4, 11, "redis.service", &["`m m` cannot be a name"]),
    ("[redis]\nsentinels = [\"s\"]\nservice = \"m\"\ndatabase = 0", Error, 5, 12, "redis.database", &["database 0 is refused"]),
    ("[redis]\nhost = \"h\"\nservice = \"m\"", Error, 4, 11, "redis.service", &["`service` is given without `sentinels`", "host:26379"]),
    ("[redis]\nhost = \"h\"\nsentinel_username = \"u\"", Error, 4, 21, "redis.sentinel_username", &["given without `sentinels`"]),
    ("[redis]\ncluster = [\"c\"]\nsentinel_password = \"p\"", Error, 4, 21, "redis.sentinel_password", &["given without `sentinels`"]),
    ("[redis]\ncluster = [\"c\"]\ndatabase = 1", Error, 4, 12, "redis.database", &["a cluster has no database but 0", "or no `database`"]),
    ("[redis]\ncluster = [\"c\"]\nport = 1", Error, 4, 8, "redis.port", &["both `cluster` and `port`"]),
    ("[redis]\ncluster = [\"redis://c:1\"]", Error, 3, 12, "redis.cluster[0]", &["not a host and port", "host:6379"]),
    ("[redis]\ncluster = []", Error, 3, 11, "redis.cluster", &["the list is empty", "some nodes"]),
    ("[redis]\nurl = \"rediss://h\"\nca_file = \"src/lib.rs\"", Error, 4, 11, "redis.ca_file", &["src/lib.rs` is of no use", "no PEM certificate"]),
    ("[redis]\nurl = \"rediss://h\"\ncert_file = \"tests/net/tls/leaf.pem\"", Error, 4, 13, "redis.cert_file", &["`cert_file` without `key_file`"]),
    ("[redis]\nurl = \"rediss://h\"\nkey_file = \"tests/net/tls/leaf.key\"", Error, 4, 12, "redis.key_file", &["`key_file` without `cert_file`"]),
    ("[redis]\nurl = \"rediss://h\"\ncert_file = \"tests/net/tls/leaf.pem\"\nkey_file = \"tests/net/tls/ca.pem\"", Error, 5, 12, "redis.key_file", &["ca.pem` is of no use", "no PEM private key"]),
    ("[redis]\nurl = \"rediss://h\"\ncert_file = \"tests/net/tls/ca.pem\"\nkey_file = \"tests/net/tls/leaf.key\"", Error, 5, 12, "redis.key_file", &["the key is not the certificate's"]),
    ("[redis]\nhost = \"h\"\nca_file = \"tests/net/tls/ca.pem\"", Warning, 4, 11, "redis.ca_file", &["without TLS", "rediss://"]),
    ("[defaults]\nmax_body = 0", Error, 3, 12, "defaults.max_body", &["too small"]),
    ("[defaults]\nttl = \"0s\"", Error, 3, 7, "defaults.ttl", &["keep nothing", "cache = false"]),
    ("[defaults]\nfetch_whole = \"much\"", Error, 3, 15, "defaults.fetch_whole", &["true, false, or a size"]),
    ("[defaults]\nno_vary_search = \"yes\"", Error, 3, 18, "defaults.no_vary_search", &["yes"]),
    ("[defaults]\njitter = 0.6", Error, 3, 10, "defaults.jitter", &["0.0 to 0.5"]),
    ("[defaults]\norigin = \"honor\"", Error, 3, 10, "defaults.origin", &["did you mean `honour`?"]),
    ("[defaults]\nvary = [\"*\"]", Error, 3, 9, "defaults.vary[0]", &["vary by everything"]),
    ("[defaults]\ntarget_list = [\"Cache-Control\"]", Error, 3, 16, "defaults.target_list[0]", &["every cache", "CDN-Cache-Control"]),
    ("[defaults]\ntarget_list = [\"a b\"]", Error, 3, 16, "defaults.target_list[0]", &["not a header name"]),
    ("[defaults]\ncredentials = \"share\"", Error, 3, 15, "defaults.credentials", &["read `share`", "`bypass` or `rfc`"]),
    ("[defaults]\ncredentials = \"rfc\"", Warning, 3, 15, "defaults.credentials", &["is idle", "unlisted"]),
    ("[defaults]\ncache = \"rfc\"\ncredentials = \"rfc\"\nsubject = { cookie = \"s\" }", Warning, 4, 15, "defaults.credentials", &["does not count"]),
    ("[defaults]\nignore = [\"_ga\"]", Error, 3, 11, "defaults.ignore[0]", &["cookie:name"]),
    ("[defaults]\nsubject = \"nobody\"", Error, 3, 11, "defaults.subject", &["read `nobody`", "\"none\""]),
    ("[defaults]\nsubject = {}", Error, 3, 11, "defaults.subject", &["the subject is empty"]),
    ("[defaults]\nsubject = { header = \"a\", cookie = \"b\" }", Error, 3, 36, "defaults.subject.cookie", &["one source"]),
    ("[defaults]\nsubject = { header = \"a b\" }", Error, 3, 22, "defaults.subject.header", &["not a header name"]),
    ("[defaults]\nsubject = { jwt = { keys = \"k\" } }", Error, 3, 28, "defaults.subject.jwt.keys", &["no [[keys]] is called `k`"]),
    ("[defaults]\nsubject = { jwt = { claim = \"sub\" } }", Error, 3, 19, "defaults.subject.jwt.keys", &["`keys` is missing"]),
    ("[defaults]\nquery = { only = [\"a\"], ignore = [\"a\"] }", Error, 3, 35, "defaults.query.ignore[0]", &["both `only` and `ignore`"]),
    ("[defaults]\nignore = [\"header:authorization\"]\nsubject = { header = \"authorization\" }", Error, 3, 11, "defaults.ignore[0]", &["own subject"]),
];

#[test]
fn sections() {
    check(SECTIONS, BASE);
}

/// Two sound routes, so that what is added is the only finding; 12 lines with the base.
const ROUTES: &str = "upstream = \"http://127.0.0.1:9\"
[[keys]]
name = \"web\"
jwks_url = \"https://id.example.com/jwks\"
[defaults]
subject = { header = \"authorization\" }
[[route]]
name = \"list\"
match = \"GET /items\"
tags = [\"list:{query.list}\"]
[[route]]
name = \"item\"
match = \"GET /items/{id}\"
";

#[rustfmt::skip] // one case, one line
const ON_ROUTES: &[Case] = &[
    ("[[route]]\nmatch = \"/z\"", Error, 14, 1, "route[2].name", &["`name` is missing"]),
    ("[[route]]\nname = \"z\"", Error, 14, 1, "route[2].match", &["`match` is missing", "GET /path/{name}"]),
    ("[[route]]\nname = \"Z z\"\nmatch = \"/z\"", Error, 15, 8, "route[2].name", &["for example `z-z`"]),
    ("[[route]]\nname = \"list\"\nmatch = \"/z\"", Error, 15, 8, "route[2].name", &["two routes are called `list`"]),
    ("[[route]]\nname = \"unlisted\"\nmatch = \"/z\"", Error, 15, 8, "route[2].name", &["without a route"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET z\"", Error, 16, 14, "route[2].match", &["must begin with `/`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET|get /z\"", Error, 16, 14, "route[2].match", &["`get` is not a method"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET\"", Error, 16, 9, "route[2].match", &["has no path"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET /z?a=1\"", Error, 16, 14, "route[2].match", &["holds a query", "when"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET /z/**/y\"", Error, 16, 14, "route[2].match", &["only be the last"]),
    ("[[route]]\nname = \"z\"\nmatch = \"PUT /z\"", Error, 16, 10, "route[2].match", &["answers to PUT are not cached", "[[purge]]"]),
    ("[[route]]\nname = \"z\"\nmatch = \"POST /z\"", Error, 16, 10, "route[2].match", &["a POST is a mutation", "graphql"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nbody = \"any\"", Warning, 17, 8, "route[2].body", &["no effect"]),
    ("[[route]]\nname = \"z\"\nmatch = \"POST /z\"\nbody = { member = \"a\" }", Error, 17, 8, "route[2].body", &["belong together"]),
    ("[[route]]\nname = \"z\"\nmatch = \"POST /z\"\nbody = \"grapql\"", Error, 17, 8, "route[2].body", &["read `grapql`", "graphql"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nttl = \"0s\"", Error, 17, 7, "route[2].ttl", &["keep nothing"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nttl = \"400d\"", Error, 17, 7, "route[2].ttl", &["too long", "365d"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nttl = 5", Error, 17, 7, "route[2].ttl", &["has no unit"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntll = \"5m\"", Error, 17, 1, "route[2].tll", &["unknown key", "did you mean `ttl`?"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nmax_body = \"9MiB\"", Error, 17, 12, "route[2].max_body", &["[cache] max_body, 8MiB"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nhost = \"a/b\"", Error, 17, 8, "route[2].host", &["not a host"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nwhen = { query = { a = false } }", Error, 17, 24, "route[2].when.query.a", &["absence"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nwhen = { header = { \"a b\" = true } }", Error, 17, 21, "route[2].when.header.a b", &["not a header name"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntags = [\"a:1\", 5]", Error, 17, 16, "route[2].tags[1]", &["read integer `5`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntags = [\"{path.id}\"]", Error, 17, 9, "route[2].tags[0]", &["literal `family:`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntags = [\"a:{path.id}\"]", Error, 17, 12, "route[2].tags[0]", &["`{path.id}` is not in `match = \"/z\"`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntags = [\"a:{request.id}\"]", Warning, 17, 9, "route[2].tags[0]", &["no request body"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntags = [\"a:{claim.sub}\"]", Error, 17, 12, "route[2].tags[0]", &["needs a subject"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\" } }\ntags = [\"a:{claim.org}\"]", Error, 18, 12, "route[2].tags[0]", &["not part of the route's subject", "{claim.sub}"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = \"none\"\ntags = [\"a:{subject}\"]", Warning, 18, 9, "route[2].tags[0]", &["same for everybody"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\ntags = [\"a:{response.items[*].id}\"]", Warning, 17, 9, "route[2].tags[0]", &["newly enters the list"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\npublic = true", Warning, 17, 10, "route[2].public", &["default subject", "subject = \"none\""]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\npublic = true\nsubject = { cookie = \"s\" }", Warning, 17, 10, "route[2].public", &["together with a `subject`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\npublic = true\nsubject = \"none\"\norigin = \"ignore\"", Warning, 19, 10, "route[2].origin", &["calls private are shared"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"wbe\" } }", Error, 17, 28, "route[2].subject.jwt.keys", &["did you mean `web`?"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\", algorithms = [\"RS256\", \"HS256\"] } }", Error, 17, 58, "route[2].subject.jwt.algorithms[1]", &["`HS256` does not go with", "public keys"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\", algorithms = [\"none\"] } }", Error, 17, 49, "route[2].subject.jwt.algorithms[0]", &["not an algorithm"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\", claims = [] } }", Error, 17, 44, "route[2].subject.jwt.claims", &["at least one claim"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\", claim = \"a\", claims = [\"b\"] } }", Error, 17, 57, "route[2].subject.jwt.claims", &["both `claim` and `claims`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\", leeway = \"1500ms\" } }", Error, 17, 44, "route[2].subject.jwt.leeway", &["whole number of seconds"]),
    ("[[route]]\nname = \"z\"\nmatch = \"/z\"\nsubject = { jwt = { keys = \"web\", from = {} } }", Error, 17, 42, "route[2].subject.jwt.from", &["one place"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET /items/latest\"", Warning, 16, 9, "route[2].match", &["`z` is never reached", "put `z` before `item`"]),
    ("[[route]]\nname = \"z\"\nmatch = \"GET /{any}/latest\"", Warning, 16, 9, "route[2].match", &["`item` and `z` both match"]),
    ("[[purge]]\ntags = [\"list:1\"]", Error, 14, 1, "purge[0].on", &["`on` is missing"]),
    ("[[purge]]\non = \"PUT /x\"", Error, 15, 6, "purge[0]", &["purges nothing"]),
    ("[[purge]]\non = \"/x\"\ntags = [\"list:1\"]", Error, 15, 6, "purge[0].on", &["names no method"]),
    ("[[purge]]\non = \"PUT|GET /x\"\ntags = [\"list:1\"]", Error, 15, 11, "purge[0].on", &["GET is a safe method"]),
    ("[[purge]]\non = \"PUT /x\"\ntags = [\"lst:1\"]", Warning, 16, 9, "purge[0].tags[0]", &["no route carries", "did you mean `list`?"]),
    ("[[purge]]\non = \"PUT /x\"\ntags = [\"list:{path.id}\"]", Error, 16, 15, "purge[0].tags[0]", &["not in `on = \"/x\"`"]),
    ("[[purge]]\non = \"PUT /x\"\ntags = [\"list:{claim.org}\"]", Warning, 16, 15, "purge[0].tags[0]", &["no route's subject holds"]),
    ("[[purge]]\non = \"PUT /x\"\nroutes = [\"lits\"]", Error, 16, 11, "purge[0].routes[0]", &["no route is called", "did you mean `list`?"]),
    ("[[purge]]\non = \"PUT /x/{id}\"\npaths = [\"/items/{no}\"]", Error, 16, 18, "purge[0].paths[0]", &["`{no}` is not in", "{id}"]),
    ("[[purge]]\non = \"PUT /x/{id}\"\npaths = [\"/items/{path.id}\"]", Error, 16, 18, "purge[0].paths[0]", &["write `{id}`"]),
    ("[[purge]]\non = \"PUT /x\"\npaths = [\"/items/{response.id}\"]", Error, 16, 18, "purge[0].paths[0]", &["cannot stand in a path"]),
    ("[[purge]]\non = \"PUT /x\"\npaths = [\"/nothing/**\"]", Warning, 16, 10, "purge[0].paths[0]", &["no cached route"]),
    ("[[purge]]\non = \"PUT /x\"\npaths = [\"items\"]", Error, 16, 10, "purge[0].paths[0]", &["must begin with `/`"]),
    ("[[purge]]\non = \"PUT /x\"\nroutes = [\"list\"]\nsubject = \"all\"", Error, 17, 11, "purge[0].subject", &["read `all`", "`same`"]),
    ("[[purge]]\non = \"PUT /x\"\nroutes = [\"list\"]\n[[purge]]\non = \"PUT /x\"\nroutes = [\"list\"]", Warning, 18, 6, "purge[1].on", &["adds nothing"]),
];

#[test]
fn routes_and_rules() {
    check(ON_ROUTES, ROUTES);
}

#[rustfmt::skip] // one case, one line
const ALONE: &[Case] = &[
    ("", Error, 0, 0, "upstream", &["`upstream` is missing"]),
    ("upstream = 5", Error, 1, 12, "upstream", &["read integer `5`", "a URL such as"]),
    ("upstream = \"127.0.0.1:8000\"", Error, 1, 12, "upstream.url", &["did you mean \"http://127.0.0.1:8000\"?"]),
    ("[upstream]\nurl = \"http://h/api\"", Error, 2, 16, "upstream.url", &["has a path, `/api`"]),
    ("upstream = \"http://h:port\"", Error, 1, 12, "upstream.url", &["not a URL"]),
    ("upstream = \"http://u:p@h\"", Error, 1, 12, "upstream.url", &["user name or password"]),
    ("upstream = \"http://h\"\n[upstream]\npreserve_host = true", Error, 2, 2, "", &["duplicate key"]),
    ("upstream = \"http://h\"\nlisten =", Error, 2, 9, "", &["string"]),
    ("upstream = \"http://h\"\n[[route]]\nname = \"a\"\nmatch = \"/a\"\n[[route]]\nname = \"b\"\nmatch = \"/b\"", Note, 4, 9, "route[0].match", &["pass through uncached (a, b)", "public = true"]),
    ("upstream = \"http://h\"\n[[route]]\nname = \"a\"\nmatch = \"/a\"\nsubject = \"none\"\n[[purge]]\non = \"PUT /x\"\nroutes = [\"a\"]\nsubject = \"same\"", Warning, 9, 11, "purge[0].subject", &["nobody in particular"]),
];

#[test]
fn whole_files() {
    check(ALONE, "");
}

fn check(cases: &[Case], base: &str) {
    let mut wrong = String::new();
    for (text, severity, line, column, path, parts) in cases {
        let mut found = findings(&format!("{base}{text}\n"), &Env::empty());
        // The base has tags that nothing purges.
        found.retain(|p| p.severity != Note || *severity == Note);
        let fits = |p: &Problem| {
            let shown = p.to_string();
            (p.severity, p.line, p.column, p.path.as_str()) == (*severity, *line, *column, *path)
                && parts.iter().all(|part| shown.contains(part))
        };
        if found.len() != 1 || !fits(&found[0]) {
            wrong.push_str(&format!(
                "=== {text}\nwanted {severity:?} {line}:{column} ({path}) {parts:?}, got\n{}",
                show(&found)
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn all_at_once_and_nothing_twice() {
    let text = "\
listen = 5
upstream = \"http://h\"
[defaults]
subject = { headr = \"x\" }
ttl = 7
[[route]]
name = 3
match = \"/a\"
[[route]]
name = \"b\"
match = 5
tll = \"5s\"
[[purge]]
on = \"PUT /x\"
routes = [\"b\"]
tags = [\"gone:{path.x}\", 5]
[[purge]]
on = 7
";
    let problems = load_str("proxy.toml", text, &Env::empty()).unwrap_err();
    let places: Vec<_> = problems.iter().map(|p| (p.line, p.column, p.path.as_str())).collect();
    let want = [
        (1, 10, "listen"),
        (4, 13, "defaults.subject.headr"),
        (5, 7, "defaults.ttl"),
        (7, 8, "route[0].name"),
        (11, 9, "route[1].match"),
        (12, 1, "route[1].tll"),
        (16, 15, "purge[0].tags[0]"),
        (16, 26, "purge[0].tags[1]"),
        (18, 6, "purge[1].on"),
    ];
    assert_eq!(places, want, "{}", show(&problems));
}

#[test]
fn several_syntax_errors() {
    let problems = findings("listen = \nupstream = \"x\n[cache]\nmemory = = 5\n", &Env::empty());
    let lines: Vec<usize> = problems.iter().map(|p| p.line).collect();
    assert!(problems.len() >= 3 && [1, 2, 4].iter().all(|l| lines.contains(l)), "{}", show(&problems));
}

#[test]
fn good_neighbours_are_not_complained_about() {
    let text = format!(
        "{ROUTES}[[route]]\nname = \"v2\"\nmatch = \"GET /z\"\nwhen = {{ header = {{ x-v = \"2\" }} }}\n\
         [[route]]\nname = \"v1\"\nmatch = \"GET /z\"\n\
         [[route]]\nname = \"rows\"\nmatch = \"GET /rows\"\ntags = [\"row:{{response[*].id}}\"]\n\
         [[route]]\nname = \"gql\"\nmatch = \"GET|POST /gql\"\nbody = \"graphql\"\n\
         [[route]]\nname = \"find\"\nmatch = \"QUERY /find\"\ntags = [\"f:{{request.kind}}\"]\n\
         [[purge]]\non = \"POST /rows\"\npaths = [\"/rows\", \"/items/*\"]\ntags = [\"header:rows\"]\nsubject = \"same\"\n"
    );
    let found = findings(&text, &Env::empty());
    let [note] = found.as_slice() else { panic!("{}", show(&found)) };
    assert_eq!((note.severity, note.path.as_str()), (Note, "route[0].tags[0]"), "{note}");
    let said = note.to_string();
    assert!(said.contains("no purge rule names the tag families `list`, `row`, `f`"), "{note}");
}

#[test]
fn a_tag_that_is_purged_needs_no_word() {
    let rule = "[[purge]]\non = \"PUT /x\"\ntags = [\"list:*\"]\n";
    assert_eq!(findings(&format!("{ROUTES}{rule}"), &Env::empty()), []);
    assert!(
        show(&findings(ROUTES, &Env::empty())).contains("the tag family `list`: only a purge from outside")
    );
}
