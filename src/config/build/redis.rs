//! `[redis]`: an address given whole or in parts, database 1 unless another (never 0) is named.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use toml::Spanned;

use super::super::file::Redis;
use super::{Builder, MS, secs};
use crate::store::redis::RedisConfig;

const URL_FORM: &str = "\"redis://host:6379/1\" or \"rediss://user:password@host:6379/1\"";
const DATABASE_HELP: &str =
    "database 0 is where everything else lives; Weir never touches it. Use 1 (the default) or another";

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
}

impl Builder<'_, '_> {
    pub(super) fn redis(&mut self, given: Option<&Redis>) -> Option<RedisConfig> {
        let given = given?;
        let address = match &given.url {
            Some(url) => {
                self.redis_conflicts(given);
                self.redis_url(&url.get_ref().0, &url.span())
            }
            None => self.redis_parts(given),
        };
        let prefix = self.redis_prefix(given);
        let database = self.redis_database(given, address.as_ref().and_then(|a| a.database.as_deref()));
        let part = RedisConfig {
            url: String::new(),
            shown: String::new(),
            prefix,
            pool: self.count(given.pool.as_ref(), 2, 1..=256),
            timeout: self.duration(given.timeout.as_ref(), MS * 50, MS..=secs(30)),
            connect_timeout: self.duration(given.connect_timeout.as_ref(), MS * 200, MS * 10..=secs(60)),
            append_timeout: self.duration(given.append_timeout.as_ref(), secs(2), MS * 100..=secs(120)),
            servers: crate::store::redis::Servers::One,
            ca_file: given.ca_file.as_ref().and_then(|f| self.read_file(f)).map(|(path, _)| path),
            cert_file: None,
            key_file: None,
            max_pending_writes: self.count(given.max_pending_writes.as_ref(), 1024, 1..=1_000_000) as usize,
            max_pending_bytes: self.size(given.max_pending_bytes.as_ref(), 64 << 20, 1 << 10..=1 << 40),
        };
        let (address, database) = (address?, database?);
        let scheme = if address.tls { "rediss" } else { "redis" };
        let login = self.redis_login(given, &address);
        let shown = format!("{scheme}://{}/{database}", address.authority);
        let url = format!("{scheme}://{login}{}/{database}{}", address.authority, address.query);
        Some(RedisConfig { url, shown, ..part })
    }

    /// `url` says host, port, database and TLS; saying them twice is asking for a surprise.
    fn redis_conflicts(&mut self, given: &Redis) {
        let parts = [
            ("host", given.host.as_ref().map(Spanned::span)),
            ("port", given.port.as_ref().map(Spanned::span)),
            ("database", given.database.as_ref().map(Spanned::span)),
            ("tls", given.tls.as_ref().map(Spanned::span)),
        ];
        for (key, span) in parts.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            self.error(&span, format!("both `url` and `{key}` are given"))
                .allowed("either `url`, or `host` with `port`, `database` and `tls`");
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
        let Some(authority) = authority_with_port(authority) else {
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
        Some(Address { tls, user, password, authority, database, query })
    }

    fn redis_parts(&mut self, given: &Redis) -> Option<Address> {
        let Some(host) = &given.host else {
            if !self.document.was_damaged("redis.url") && !self.document.was_damaged("redis.host") {
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
                .allowed(format!("`url`, such as {URL_FORM}, or `host`"))
                .help("leave [redis] out altogether to cache in memory alone");
            }
            return None;
        };
        let port = self.count(given.port.as_ref(), 6379, 1..=65_535);
        let name = host.get_ref().trim();
        let bracketed =
            if name.contains(':') && !name.starts_with('[') { format!("[{name}]") } else { name.to_owned() };
        let Some(authority) = authority_with_port(&format!("{bracketed}:{port}")) else {
            self.error(&host.span(), format!("`{name}` is not a host name or address"))
                .allowed("a host name or IP address alone; the port goes into `port`");
            return None;
        };
        let tls = given.tls.as_ref().is_some_and(|t| *t.get_ref());
        Some(Address { tls, authority, ..Address::default() })
    }

    fn redis_database(&mut self, given: &Redis, in_url: Option<&str>) -> Option<u32> {
        let (span, number) = match (in_url, &given.database) {
            (Some(text), _) => (given.url.as_ref().map(Spanned::span)?, text.parse::<i64>().ok()),
            (None, Some(number)) => (number.span(), Some(*number.get_ref())),
            (None, None) => return Some(1),
        };
        match number.map(u32::try_from) {
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
fn authority_with_port(text: &str) -> Option<String> {
    let authority: http::uri::Authority = text.parse().ok()?;
    if authority.host().is_empty() || text.contains('@') || !super::sections::has_sound_port(&authority) {
        return None;
    }
    Some(if authority.port_u16().is_some() { text.to_owned() } else { format!("{text}:6379") })
}
