//! `[redis]`: an address given whole or in parts, sentinels or a cluster; database 1 unless another is named, and 0
//! nowhere but in a cluster, which has no other.

use std::path::PathBuf;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use toml::Spanned;

use super::super::file::Redis;
use super::super::values::Text;
use super::{Builder, MS, secs};
use crate::store::redis::connect::node::Node;
use crate::store::redis::connect::tls::{check_certificates, check_key, check_pair};
use crate::store::redis::{RedisConfig, Servers};

const URL_FORM: &str = "\"redis://host:6379/1\" or \"rediss://user:password@host:6379/1\"";
const DATABASE_HELP: &str = "database 0 is where everything else lives; Weir never touches it. Use 1 (the default) or another. \
     (A `cluster` has no other, and should be Weir's own)";
const SENTINELS_FORM: &str = "`sentinels = [\"host:26379\", …]` with `service = \"mymaster\"`";
const CLUSTER_FORM: &str = "some nodes of the cluster: `cluster = [\"host:6379\", …]`";

/// What may stand unescaped in the user and password of a URL (RFC 3986 `unreserved`).
const USERINFO: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A Redis URL, taken apart. User and password as they stand in a URL, still encoded.
#[derive(Default)]
struct Address {
    tls: bool,
    user: Option<String>,
    password: Option<String>,
    /// Host and port.
    authority: String,
    database: Option<String>,
    query: String,
    servers: Servers,
}

impl Address {
    /// For logs and health.
    fn shown(&self, scheme: &str, database: u32) -> String {
        let list = |nodes: &[Node]| nodes.iter().map(Node::to_string).collect::<Vec<_>>().join(", ");
        match &self.servers {
            Servers::One => format!("{scheme}://{}/{database}", self.authority),
            Servers::Sentinel { nodes, service, .. } => {
                format!("{scheme}://{service}/{database} by sentinels {}", list(nodes))
            }
            Servers::Cluster { nodes } => format!("{scheme} cluster {}", list(nodes)),
        }
    }
}

/// The four ways to say where Redis is, with the keys that do not go with each.
const WAYS: [(&str, &[&str]); 4] = [
    ("url", &["host", "port", "database", "tls", "sentinels", "cluster"]),
    ("host", &["sentinels", "cluster"]),
    ("sentinels", &["port", "cluster"]),
    ("cluster", &["port"]),
];
const WAYS_HELP: &str = "one of `url`; `host` with `port`, `database` and `tls`; `sentinels` with `service`, `database` and \
     `tls`; `cluster` with `tls`";

impl Builder<'_, '_> {
    pub(super) fn redis(&mut self, given: Option<&Redis>) -> Option<RedisConfig> {
        let given = given?;
        self.redis_conflicts(given);
        let address = match given {
            Redis { url: Some(url), .. } => self.redis_url(&url.get_ref().0, &url.span()),
            Redis { host: Some(host), .. } => self.redis_host(given, host),
            Redis { sentinels: Some(list), .. } => self.redis_sentinels(given, list),
            Redis { cluster: Some(list), .. } => self.redis_cluster(given, list),
            _ => {
                self.redis_nowhere();
                None
            }
        };
        let prefix = self.redis_prefix(given);
        let database = self.redis_database(given, address.as_ref());
        let tls = address.as_ref().map(|a| a.tls);
        let (ca_file, own) = self.redis_tls_files(given, tls);
        let part = RedisConfig {
            url: String::new(),
            servers: Servers::One,
            shown: String::new(),
            prefix,
            pool: self.count(given.pool.as_ref(), 2, 1..=256),
            timeout: self.duration(given.timeout.as_ref(), MS * 50, MS..=secs(30)),
            connect_timeout: self.duration(given.connect_timeout.as_ref(), MS * 200, MS * 10..=secs(60)),
            append_timeout: self.duration(given.append_timeout.as_ref(), secs(2), MS * 100..=secs(120)),
            ca_file,
            cert_file: own.clone().map(|(cert, _)| cert),
            key_file: own.map(|(_, key)| key),
            max_pending_writes: self.count(given.max_pending_writes.as_ref(), 1024, 1..=1_000_000) as usize,
            max_pending_bytes: self.size(given.max_pending_bytes.as_ref(), 64 << 20, 1 << 10..=1 << 40),
        };
        let (address, database) = (address?, database?);
        let scheme = if address.tls { "rediss" } else { "redis" };
        let login = self.redis_login(given, &address);
        let shown = address.shown(scheme, database);
        let url = format!("{scheme}://{login}{}/{database}{}", address.authority, address.query);
        Some(RedisConfig { url, shown, servers: address.servers, ..part })
    }

    /// Saying twice where Redis is, is asking for a surprise; so is what belongs to another way of saying it.
    fn redis_conflicts(&mut self, given: &Redis) {
        let keys = [
            ("url", given.url.as_ref().map(Spanned::span)),
            ("host", given.host.as_ref().map(Spanned::span)),
            ("port", given.port.as_ref().map(Spanned::span)),
            ("database", given.database.as_ref().map(Spanned::span)),
            ("tls", given.tls.as_ref().map(Spanned::span)),
            ("sentinels", given.sentinels.as_ref().map(Spanned::span)),
            ("cluster", given.cluster.as_ref().map(Spanned::span)),
        ];
        let span_of =
            |wanted: &str| keys.iter().find_map(|(key, span)| span.clone().filter(|_| *key == wanted));
        let way = WAYS.into_iter().find(|(way, _)| span_of(way).is_some());
        for (way, key) in way.into_iter().flat_map(|(way, others)| others.iter().map(move |o| (way, *o))) {
            if let Some(span) = span_of(key) {
                self.error(&span, format!("both `{way}` and `{key}` are given")).allowed(WAYS_HELP);
            }
        }
        if given.sentinels.is_some() || self.document.was_damaged("redis.sentinels") {
            return;
        }
        let companions = [
            ("service", given.service.as_ref().map(Spanned::span)),
            ("sentinel_username", given.sentinel_username.as_ref().map(Spanned::span)),
            ("sentinel_password", given.sentinel_password.as_ref().map(Spanned::span)),
        ];
        for (key, span) in companions.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            self.error(&span, format!("`{key}` is given without `sentinels`")).allowed(SENTINELS_FORM);
        }
    }

    fn redis_sentinels(&mut self, given: &Redis, list: &Spanned<Vec<Text>>) -> Option<Address> {
        let nodes = self.redis_nodes(list, 26379, SENTINELS_FORM);
        if given.service.is_none() && !self.document.was_damaged("redis.service") {
            self.error(&list.span(), "`sentinels` without `service`")
                .allowed("`service = \"mymaster\"`: what the sentinels call the primary and its replicas");
        }
        let service = self.word("redis.service", Some(given.service.as_ref()?), "", "_.-");
        let nodes = nodes?;
        Some(Address {
            tls: given.tls.as_ref().is_some_and(|t| *t.get_ref()),
            authority: nodes.first()?.to_string(),
            servers: Servers::Sentinel {
                nodes,
                service,
                username: given.sentinel_username.as_ref().map(|u| u.get_ref().clone()),
                password: given.sentinel_password.as_ref().map(|p| p.get_ref().0.clone()),
            },
            ..Address::default()
        })
    }

    fn redis_cluster(&mut self, given: &Redis, list: &Spanned<Vec<Text>>) -> Option<Address> {
        let nodes = self.redis_nodes(list, 6379, CLUSTER_FORM)?;
        Some(Address {
            tls: given.tls.as_ref().is_some_and(|t| *t.get_ref()),
            authority: nodes.first()?.to_string(),
            servers: Servers::Cluster { nodes },
            ..Address::default()
        })
    }

    /// A list of `host:port`, the port filled in; nobody twice.
    fn redis_nodes(&mut self, list: &Spanned<Vec<Text>>, port: u16, form: &str) -> Option<Vec<Node>> {
        let mut nodes = Vec::new();
        for typed in list.get_ref() {
            let authority = authority_with_port(typed.get_ref().trim(), port);
            match authority.and_then(|a| Node::parse(&a)) {
                Some(node) if nodes.contains(&node) => {}
                Some(node) => nodes.push(node),
                None => {
                    self.error(&typed.span(), format!("`{}` is not a host and port", typed.get_ref()))
                        .allowed(form.to_owned());
                    return None;
                }
            }
        }
        if nodes.is_empty() {
            self.error(&list.span(), "the list is empty").allowed(form.to_owned());
            return None;
        }
        Some(nodes)
    }

    /// The authority's file, and our own certificate with its key; each has been looked into.
    fn redis_tls_files(
        &mut self,
        given: &Redis,
        tls: Option<bool>,
    ) -> (Option<PathBuf>, Option<(PathBuf, PathBuf)>) {
        let ca = self.redis_tls_file(given.ca_file.as_ref(), check_certificates);
        let cert = self.redis_tls_file(given.cert_file.as_ref(), check_certificates);
        let key = self.redis_tls_file(given.key_file.as_ref(), check_key);
        let pairs = [
            ("cert_file", "key_file", &given.cert_file, &given.key_file),
            ("key_file", "cert_file", &given.key_file, &given.cert_file),
        ];
        for (one, other, here, there) in pairs {
            if let (Some(typed), None) = (here, there)
                && !self.document.was_damaged(&format!("redis.{other}"))
            {
                self.error(&typed.span(), format!("`{one}` without `{other}`"))
                    .allowed("both, to show a certificate to Redis, or neither");
            }
        }
        if let (Some((_, cert)), Some((path, key)), Some(typed)) = (&cert, &key, &given.key_file)
            && let Err(why) = check_pair(cert, key)
        {
            self.error(&typed.span(), format!("the file `{}` is of no use: {why}", path.display()));
        }
        if tls == Some(false) {
            let found = [(&given.ca_file, ca.is_some()), (&given.cert_file, cert.is_some())];
            for typed in found.into_iter().filter_map(|(typed, sound)| typed.as_ref().filter(|_| sound)) {
                self.warn(&typed.span(), "no effect: Redis is reached without TLS")
                    .help("`tls = true`, or a URL that begins with rediss://");
            }
        }
        let paths = cert.zip(key).map(|((cert, _), (key, _))| (cert, key));
        (ca.map(|(path, _)| path), paths)
    }

    fn redis_tls_file(
        &mut self,
        typed: Option<&Text>,
        check: fn(&[u8]) -> Result<(), String>,
    ) -> Option<(PathBuf, Vec<u8>)> {
        let typed = typed?;
        let (path, pem) = self.read_file(typed)?;
        match check(&pem) {
            Ok(()) => Some((path, pem)),
            Err(why) => {
                self.error(&typed.span(), format!("the file `{}` is of no use: {why}", path.display()));
                None
            }
        }
    }

    fn redis_url(&mut self, url: &str, span: &std::ops::Range<usize>) -> Option<Address> {
        // Nothing of what was read is quoted here: it may hold a password.
        let (scheme, rest) = url.trim().split_once("://").unwrap_or(("", url));
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => {
                self.error(span, "the Redis URL does not begin with redis:// or rediss://").allowed(URL_FORM);
                return None;
            }
        };
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, format!("?{query}")),
            None => (rest, String::new()),
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (authority, database) = match rest.split_once('/') {
            Some((authority, database)) => (authority, Some(database).filter(|d| !d.is_empty())),
            None => (rest, None),
        };
        let Some(authority) = authority_with_port(authority, 6379) else {
            self.error(span, "the Redis URL has no usable host and port").allowed(URL_FORM);
            return None;
        };
        let (user, password) = match login.map(|l| l.split_once(':').unwrap_or((l, ""))) {
            Some((user, password)) => (non_empty(user), non_empty(password)),
            None => (None, None),
        };
        if [&user, &password].into_iter().flatten().any(|part| part.contains(['/', '#', ' ', '@'])) {
            self.error(
                span,
                "the user name or password in the Redis URL has characters that must be escaped",
            )
            .help("write them percent-encoded, or leave them to `username` and `password`");
            return None;
        }
        let database = database.map(str::to_owned);
        Some(Address { tls, user, password, authority, database, query, servers: Servers::One })
    }

    fn redis_nowhere(&mut self) {
        if WAYS.iter().any(|(way, _)| self.document.was_damaged(&format!("redis.{way}"))) {
            return;
        }
        let span = self.document.place_of("redis").filter(|s| !s.is_empty());
        match span {
            Some(span) => self.error(&span, "[redis] does not say where Redis is"),
            None => {
                let file = self.document.sources.file().to_owned();
                let message = "Redis settings are given, but not where Redis is";
                self.document.add(super::Problem::new(super::Severity::Error, file, message))
            }
        }
        .about("redis.url")
        .allowed(format!("`url`, such as {URL_FORM}, or `host`, or `sentinels` and `service`, or `cluster`"))
        .help("leave [redis] out altogether to cache in memory alone");
    }

    fn redis_host(&mut self, given: &Redis, host: &Text) -> Option<Address> {
        let port = self.count(given.port.as_ref(), 6379, 1..=65_535);
        let name = host.get_ref().trim();
        let bracketed =
            if name.contains(':') && !name.starts_with('[') { format!("[{name}]") } else { name.to_owned() };
        let Some(authority) = authority_with_port(&format!("{bracketed}:{port}"), 6379) else {
            self.error(&host.span(), format!("`{name}` is not a host name or address"))
                .allowed("a host name or IP address alone; the port goes into `port`");
            return None;
        };
        let tls = given.tls.as_ref().is_some_and(|t| *t.get_ref());
        Some(Address { tls, authority, ..Address::default() })
    }

    fn redis_database(&mut self, given: &Redis, address: Option<&Address>) -> Option<u32> {
        let cluster = address.is_some_and(|a| matches!(a.servers, Servers::Cluster { .. }));
        let (span, number) = match (address.and_then(|a| a.database.as_deref()), &given.database) {
            (Some(text), _) => (given.url.as_ref().map(Spanned::span)?, text.parse::<i64>().ok()),
            (None, Some(number)) => (number.span(), Some(*number.get_ref())),
            (None, None) => return Some(u32::from(!cluster)),
        };
        match number.map(u32::try_from) {
            Some(Ok(0)) if cluster => Some(0),
            _ if cluster => {
                self.error(&span, "a cluster has no database but 0").allowed("0, or no `database` at all");
                None
            }
            Some(Ok(0)) => {
                self.error(&span, "Redis database 0 is refused").allowed("1 or higher").help(DATABASE_HELP);
                None
            }
            Some(Ok(database)) if database < 1 << 16 => Some(database),
            _ => {
                self.error(&span, "the Redis database is not a number from 1 to 65535").allowed(URL_FORM);
                None
            }
        }
    }

    /// No braces: in a cluster they would decide alone which node has a key.
    fn redis_prefix(&mut self, given: &Redis) -> String {
        self.word("redis.prefix", given.prefix.as_ref(), "cache", "_.-:")
    }

    /// `user:password@`, from the URL or from the keys of their own.
    fn redis_login(&mut self, given: &Redis, address: &Address) -> String {
        let username = given.username.as_ref();
        if let (Some(_), Some(typed)) = (&address.user, username) {
            self.error(&typed.span(), "both `url` and `username` name a user");
        }
        if let (Some(_), Some(typed)) = (&address.password, &given.password) {
            self.error(&typed.span(), "both `url` and `password` give a password");
        }
        let encode = |text: &str| utf8_percent_encode(text, USERINFO).to_string();
        let user = address.user.clone().or_else(|| username.map(|u| encode(u.get_ref())));
        let password =
            address.password.clone().or_else(|| given.password.as_ref().map(|p| encode(&p.get_ref().0)));
        match (user, password) {
            (None, None) => String::new(),
            (Some(user), None) => format!("{user}@"),
            (user, Some(password)) => format!("{}:{password}@", user.unwrap_or_default()),
        }
    }
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// `host:port`, the port filled in.
fn authority_with_port(text: &str, port: u16) -> Option<String> {
    let authority: http::uri::Authority = text.parse().ok()?;
    if authority.host().is_empty() || text.contains('@') || !super::sections::has_sound_port(&authority) {
        return None;
    }
    Some(if authority.port_u16().is_some() { text.to_owned() } else { format!("{text}:{port}") })
}
