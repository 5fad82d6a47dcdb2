//! `listen`, `[upstream]`, `[server]`, `[admin]`, `[cache]`, `[log]`, `[[keys]]`.

use std::io::IsTerminal;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::Uri;

use super::super::file::{Admin, Cache, Keys, Log, LogFormat, Server, Upstream};
use super::super::values::{Secret, Switch, Text};
use super::super::{AdminConfig, ExchangeConfig, KeySetSource, LogConfig, Trust};
use super::{Builder, MS, YEAR, secs};
use crate::policy::subject::KeySet;
use crate::server::ServerLimits;
use crate::upstream::UpstreamConfig;
use toml::Spanned;

const URL_FORM: &str = "\"http://host:port\" or \"https://host\", without a path";
const ADDRESS_FORM: &str =
    "an IP address and a port, such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\"";
/// Secrets shorter than this can be guessed.
const LEAST_SECRET: usize = 32;
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// `[server]`, checked.
pub(super) struct ServerPart {
    pub(super) limits: ServerLimits,
    pub(super) drain_timeout: Duration,
    pub(super) drain_delay: Duration,
    pub(super) trust: Trust,
    pub(super) probes: bool,
}

/// `[cache]`, checked.
pub(super) struct CachePart {
    pub(super) namespace: String,
    pub(super) memory: u64,
    pub(super) max_body: u64,
    pub(super) max_variants: usize,
    pub(super) max_tags: usize,
    pub(super) mark_slots: usize,
    pub(super) secret: Option<[u8; 32]>,
    max_fill: u64,
    name: String,
    show_key: bool,
    x_cache: bool,
    hit_for_miss: Duration,
    coalesce_timeout: Duration,
    max_tag_body: u64,
    max_key_body: u64,
}

impl CachePart {
    /// What of it the exchange needs.
    pub(super) fn exchange(&self, trust: Trust, probes: bool) -> ExchangeConfig {
        ExchangeConfig {
            name: self.name.clone(),
            show_key: self.show_key,
            x_cache: self.x_cache,
            trust_forwarded: trust,
            max_fill_bytes: self.max_fill,
            max_tag_body: self.max_tag_body,
            max_key_body: self.max_key_body,
            hit_for_miss: self.hit_for_miss,
            coalesce_timeout: self.coalesce_timeout,
            probes_on_traffic: probes,
        }
    }
}

/// One `[[keys]]`. `source` is `None` where it was wrong; its position still counts.
pub(super) struct KeyPart {
    pub(super) name: String,
    pub(super) source: Option<KeySetSource>,
    /// A shared secret (HS*), not public keys.
    pub(super) shared: bool,
    /// The kind could be told.
    pub(super) sound: bool,
}

impl Builder<'_, '_> {
    /// A listener's address.
    pub(super) fn address(&mut self, path: &str, given: Option<&Text>, default: &str) -> Option<SocketAddr> {
        let typed = given.map_or(default, |t| t.get_ref().as_str()).trim();
        let numeric = match typed.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => typed.to_owned(),
        };
        if let Ok(address) = numeric.parse() {
            return Some(address);
        }
        let span = given.map(Spanned::span)?;
        let problem =
            self.error(&span, format!("`{typed}` is not an address to listen on")).allowed(ADDRESS_FORM);
        problem.about(path);
        if let Some(port) = typed.strip_prefix(':').or(Some(typed)).filter(|p| p.parse::<u16>().is_ok()) {
            problem.help(format!("for every address of this machine: \"0.0.0.0:{port}\""));
        }
        None
    }

    pub(super) fn upstream(
        &mut self,
        given: &Upstream,
        listen: Option<SocketAddr>,
    ) -> Option<UpstreamConfig> {
        let origin = match &given.url {
            Some(url) => self.upstream_url(url, listen),
            None => {
                if !self.document.was_damaged("upstream") {
                    self.missing("", None, "upstream", URL_FORM);
                }
                None
            }
        };
        let config = UpstreamConfig {
            origin: Uri::default(),
            preserve_host: given.preserve_host.unwrap_or(true),
            connect_timeout: self.duration(given.connect_timeout.as_ref(), secs(5), MS * 10..=secs(600)),
            first_byte_timeout: self.duration(
                given.first_byte_timeout.as_ref(),
                secs(60),
                MS * 10..=secs(86_400),
            ),
            idle_timeout: self.duration(given.idle_timeout.as_ref(), secs(60), Duration::ZERO..=secs(86_400)),
            keep_alive: self.duration(given.keep_alive.as_ref(), secs(4), Duration::ZERO..=secs(3600)),
            max_connections: self.count(given.max_connections.as_ref(), 1024, 1..=65_536) as usize,
            ca_file: given.ca_file.as_ref().and_then(|f| self.read_file(f)).map(|(path, _)| path),
        };
        Some(UpstreamConfig { origin: origin?, ..config })
    }

    fn upstream_url(&mut self, url: &Text, listen: Option<SocketAddr>) -> Option<Uri> {
        let (typed, span) = (url.get_ref().trim(), url.span());
        if typed
            .split("://")
            .nth(1)
            .is_some_and(|rest| rest.split('/').next().is_some_and(|a| a.contains('@')))
        {
            self.error(&span, "the URL holds a user name or password, which Weir would not send")
                .allowed(URL_FORM);
            return None;
        }
        let Some(uri) = self.http_url(url) else {
            if !typed.contains("://")
                && !typed.contains('@')
                && format!("http://{typed}").parse::<Uri>().is_ok()
            {
                let last = self.document.problems.last_mut();
                last.map(|p| p.help(format!("did you mean \"http://{typed}\"?")));
            }
            return None;
        };
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        if path != "/" {
            let at = self.document.sources.within(&span, path);
            self.error(&at, format!("the URL has a path, `{path}`"))
                .allowed(URL_FORM)
                .help("Weir forwards each request's own path; a backend below a path is not supported");
            return None;
        }
        if listen.is_some_and(|l| is_own_listener(&uri, l)) {
            self.error(&span, "the upstream is this Weir's own listener: every request would come back in")
                .help("give Weir another port with `listen`, or name the backend's");
            return None;
        }
        Some(uri)
    }

    /// An absolute `http` or `https` URL with a host.
    fn http_url(&mut self, url: &Text) -> Option<Uri> {
        let parsed: Result<Uri, _> = url.get_ref().trim().parse();
        let good = parsed.ok().filter(|u| {
            matches!(u.scheme_str(), Some("http" | "https"))
                && u.authority().is_some_and(|a| !a.host().is_empty() && has_sound_port(a))
        });
        if good.is_none() {
            self.error(&url.span(), format!("`{}` is not a URL", without_credentials(url.get_ref())))
                .allowed(URL_FORM);
        }
        good
    }

    pub(super) fn server(&mut self, given: &Server) -> ServerPart {
        let limits = ServerLimits {
            header_timeout: self.duration(given.header_timeout.as_ref(), secs(30), MS * 100..=secs(600)),
            idle_timeout: self.duration(given.idle_timeout.as_ref(), secs(75), MS * 100..=secs(86_400)),
            // At most 16 MiB: fits every usize.
            max_header_bytes: self.size(given.max_header_bytes.as_ref(), 64 << 10, 8 << 10..=16 << 20)
                as usize,
            max_connections: self.count(given.max_connections.as_ref(), 10_000, 1..=1_000_000) as usize,
            max_streams: self.count(given.max_streams.as_ref(), 200, 1..=10_000),
        };
        ServerPart {
            limits,
            drain_timeout: self.duration(given.drain_timeout.as_ref(), secs(30), Duration::ZERO..=secs(3600)),
            drain_delay: self.duration(
                given.drain_delay.as_ref(),
                Duration::ZERO,
                Duration::ZERO..=secs(600),
            ),
            trust: self.trust(given.trust_forwarded.as_ref()),
            probes: given.probes.unwrap_or(false),
        }
    }

    fn trust(&mut self, given: Option<&Switch<Vec<Text>>>) -> Trust {
        match given {
            None | Some(Switch::Plain(false)) => Trust::Nobody,
            Some(Switch::Plain(true)) => Trust::All,
            Some(Switch::Given(networks)) => {
                let mut all = Vec::new();
                for typed in networks {
                    match network(typed.get_ref()) {
                        Some(network) => all.push(network),
                        None => {
                            let message = format!("`{}` is not a network", typed.get_ref());
                            self.error(&typed.span(), message).allowed(
                                "an address with a prefix length, such as \"10.0.0.0/8\" or \"fd00::/8\"",
                            );
                        }
                    }
                }
                Trust::Networks(all)
            }
        }
    }

    /// The outer `None` = wrong; the inner = switched off.
    pub(super) fn admin(
        &mut self,
        given: &Admin,
        traffic: Option<SocketAddr>,
    ) -> Option<Option<AdminConfig>> {
        let listen = self.address("admin.listen", given.listen.as_ref(), "127.0.0.1:8081");
        let token = given.token.as_ref().map(|t| t.get_ref().0.clone());
        if let Some(given) = given.token.as_ref().filter(|t| t.get_ref().0.trim().is_empty()) {
            self.error(&given.span(), "the token is empty").help("leave it out to refuse what needs one");
        }
        if given.enabled == Some(false) {
            return Some(None);
        }
        let listen = listen?;
        let place = given.listen.as_ref().map(Spanned::span).or_else(|| self.document.place_of("listen"));
        if let Some(span) = place {
            let same_host = traffic.is_some_and(|t| overlap(t.ip(), listen.ip()));
            if listen.port() != 0 && traffic.is_some_and(|t| t.port() == listen.port()) && same_host {
                self.error(&span, format!("traffic and admin both listen on port {}", listen.port()))
                    .about("admin.listen")
                    .help("give one of `listen` and `[admin] listen` another port");
            }
            if !listen.ip().is_loopback() && token.is_none() && !self.document.was_removed("admin.token") {
                self.warn(
                    &span,
                    format!("the admin listener {listen} can be reached from outside and has no token"),
                )
                .help(
                    "whatever changes something stays refused without `[admin] token`, but health, metrics \
                           and statistics are open to all",
                );
            }
        }
        Some(Some(AdminConfig { listen, token }))
    }

    pub(super) fn cache(&mut self, given: &Cache, has_redis: bool) -> CachePart {
        let max_body = self.size(given.max_body.as_ref(), 8 << 20, 1 << 10..=1 << 30);
        let part = CachePart {
            namespace: self.word("cache.namespace", given.namespace.as_ref(), "default", "_.-"),
            memory: self.size(given.memory.as_ref(), 256 << 20, 0..=1 << 50),
            max_body,
            max_variants: self.count(given.max_variants.as_ref(), 32, 1..=10_000) as usize,
            max_tags: self.count(given.max_tags.as_ref(), 128, 8..=10_000) as usize,
            mark_slots: self.count(given.mark_slots.as_ref(), 1 << 20, 1 << 10..=1 << 28) as usize,
            secret: self.cache_secret(given.secret.as_ref()),
            max_fill: self.size(given.max_fill.as_ref(), 256 << 20, 1 << 10..=1 << 50),
            name: self.word("cache.name", given.name.as_ref(), "weir", "_.-"),
            show_key: given.show_key.unwrap_or(false),
            x_cache: given.x_cache.unwrap_or(false),
            hit_for_miss: self.duration(given.hit_for_miss.as_ref(), secs(10), Duration::ZERO..=secs(3600)),
            coalesce_timeout: self.duration(given.coalesce_timeout.as_ref(), secs(30), MS * 10..=secs(3600)),
            max_tag_body: self.size(given.max_tag_body.as_ref(), 1 << 20, 0..=1 << 30),
            max_key_body: self.size(given.max_key_body.as_ref(), 64 << 10, 0..=64 << 20),
        };
        if let Some(slots) = given.mark_slots.as_ref().filter(|_| !part.mark_slots.is_power_of_two()) {
            let near = part.mark_slots.next_power_of_two();
            self.error(&slots.span(), format!("{} is not a power of two", part.mark_slots))
                .allowed(format!("1024, 2048, … such as {near}"));
        }
        self.cache_relations(given, &part, has_redis);
        part
    }

    /// Sizes that make sense alone but not together.
    fn cache_relations(&mut self, given: &Cache, part: &CachePart, has_redis: bool) {
        let size_place =
            |a: &Option<Spanned<_>>, b: &Option<Spanned<_>>| a.as_ref().or(b.as_ref()).map(Spanned::span);
        if let Some(span) = size_place(&given.memory, &given.max_body) {
            if part.memory == 0 && !has_redis {
                self.warn(&span, "without memory and without [redis] nothing can be kept");
            } else if part.memory > 0 && part.memory < part.max_body {
                self.warn(
                    &span,
                    "`memory` is smaller than `max_body`: the largest answers never fit into memory",
                );
            }
        }
        if let Some(span) = size_place(&given.max_fill, &given.max_body)
            && part.max_fill < part.max_body
        {
            self.warn(
                &span,
                "`max_fill` is smaller than `max_body`: the largest answers can never be stored",
            );
        }
    }

    fn cache_secret(&mut self, given: Option<&Spanned<Secret>>) -> Option<[u8; 32]> {
        let secret = given?;
        self.secret_length(secret);
        Some(blake3::derive_key("weir cache.secret v1", secret.get_ref().0.as_bytes()))
    }

    fn secret_length(&mut self, secret: &Spanned<Secret>) {
        let length = secret.get_ref().0.len();
        if length < LEAST_SECRET {
            self.error(&secret.span(), format!("the secret is {length} bytes long and could be guessed"))
                .allowed(format!("at least {LEAST_SECRET} bytes"))
                .help("make one with `openssl rand -hex 32`");
        }
    }

    /// A short name of letters, digits and `extra`.
    pub(super) fn word(&mut self, path: &str, given: Option<&Text>, default: &str, extra: &str) -> String {
        let Some(given) = given else { return default.to_owned() };
        let typed = given.get_ref();
        let good = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
        if typed.is_empty() || typed.len() > 64 || !typed.chars().all(good) {
            self.error(&given.span(), format!("`{typed}` cannot be a name here")).about(path).allowed(
                format!(
                    "1 to 64 letters, digits and {}",
                    extra.chars().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(" ")
                ),
            );
        }
        typed.clone()
    }

    pub(super) fn log(&mut self, given: &Log) -> LogConfig {
        let level = given.level.as_ref().map_or("info", |l| l.get_ref().as_str()).to_owned();
        if let Some(typed) = &given.level {
            let words = || level.split(',').map(|d| d.rsplit('=').next().unwrap_or(d).trim());
            let bad = words().find(|w| !LEVELS.contains(&w.to_ascii_lowercase().as_str())).map(str::to_owned);
            if let Some(bad) = bad {
                let at = self.document.sources.within(&typed.span(), &bad);
                self.error(&at, format!("`{bad}` is not a log level"))
                    .allowed(format!("{}, or a list such as \"info,weir::store=debug\"", LEVELS.join(", ")));
            }
        }
        let json = match given.format {
            Some(format) => format == LogFormat::Json,
            None => !std::io::stderr().is_terminal(),
        };
        let access = match &given.access {
            None | Some(Switch::Plain(true)) => Some("-".to_owned()),
            Some(Switch::Plain(false)) => None,
            Some(Switch::Given(file)) if file.0 == "-" => Some(file.0.clone()),
            Some(Switch::Given(file)) => Some(self.file_name(&file.0).to_string_lossy().into_owned()),
        };
        LogConfig { level, json, access }
    }

    pub(super) fn keys(&mut self, given: &[Spanned<Keys>]) -> Vec<KeyPart> {
        let mut parts: Vec<KeyPart> = Vec::new();
        for entry in given {
            let path = self.document.path_of(&entry.span());
            let keys = entry.get_ref();
            match &keys.name {
                None => {
                    self.missing(&path, Some(&entry.span()), "name", "a name that `keys = \"…\"` refers to")
                }
                Some(name) if parts.iter().any(|p| p.name == *name.get_ref()) => {
                    self.error(&name.span(), format!("two key sets are called `{}`", name.get_ref()));
                }
                Some(name) => {
                    self.word(&format!("{path}.name"), Some(name), "", "_-.");
                }
            }
            let name = keys.name.as_ref().map_or(String::new(), |n| n.get_ref().clone());
            let source = self.key_source(&name, keys, &entry.span(), &path);
            let sound = source.is_some() && !self.document.was_damaged(&path);
            parts.push(KeyPart { name, shared: keys.secret.is_some(), source, sound });
        }
        parts
    }

    fn key_source(
        &mut self,
        name: &str,
        keys: &Keys,
        span: &std::ops::Range<usize>,
        path: &str,
    ) -> Option<KeySetSource> {
        const FORM: &str = "exactly one of secret, pem, pem_file, jwks_file, jwks_url";
        let refresh = self.duration(keys.refresh.as_ref(), secs(300), secs(1)..=YEAR);
        let name = name.to_owned();
        let given = [
            keys.pem.as_ref().map(|k| ("pem", k.span())),
            keys.pem_file.as_ref().map(|k| ("pem_file", k.span())),
            keys.jwks_file.as_ref().map(|k| ("jwks_file", k.span())),
            keys.jwks_url.as_ref().map(|k| ("jwks_url", k.span())),
            keys.secret.as_ref().map(|k| ("secret", k.span())),
        ];
        let given: Vec<_> = given.into_iter().flatten().collect();
        match given.as_slice() {
            [_] => {}
            [] => {
                if !self.document.was_damaged(path) {
                    self.error(span, "the key set has no keys").allowed(FORM);
                }
                return None;
            }
            [(first, _), (second, place), ..] => {
                self.error(place, format!("both `{first}` and `{second}` are given")).allowed(FORM);
                return None;
            }
        }
        if let Some(secret) = &keys.secret {
            self.secret_length(secret);
            return Some(KeySetSource::Secret { name, secret: secret.get_ref().0.clone().into_bytes() });
        }
        if let Some(pem) = &keys.pem {
            return self.pem(name, pem, pem.get_ref().clone().into_bytes());
        }
        if let Some(file) = &keys.pem_file {
            let (_, bytes) = self.read_file(file)?;
            return self.pem(name, file, bytes);
        }
        if let Some(file) = &keys.jwks_file {
            let (path, bytes) = self.read_file(file)?;
            if let Err(error) = KeySet::from_jwks(&name, &bytes) {
                self.error(&file.span(), format!("the file holds no usable JWKS: {error}"))
                    .allowed("a JSON Web Key Set (RFC 7517) with at least one RSA, EC or Ed25519 key")
                    .help("a shared secret goes into `secret`, or WEIR_KEYS_<NAME>_SECRET");
            }
            return Some(KeySetSource::JwksFile { name, path, refresh });
        }
        let url = self.http_url(keys.jwks_url.as_ref()?)?;
        Some(KeySetSource::JwksUrl { name, url, refresh })
    }

    fn pem(&mut self, name: String, typed: &Text, pem: Vec<u8>) -> Option<KeySetSource> {
        if let Err(error) = KeySet::from_pem(&name, &pem) {
            self.error(&typed.span(), format!("this is no usable key: {error}"))
                .allowed("a PEM text with an RSA, EC or Ed25519 public key, or a certificate");
        }
        Some(KeySetSource::Pem { name, pem })
    }
}

/// `10.0.0.0/8`; a bare address is a network of one.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.trim().split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text.trim(), None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |l| l.parse().ok())?;
    (length <= most).then_some((address, length))
}

/// Whether listening on both addresses at one port collides.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

fn is_own_listener(upstream: &Uri, listen: SocketAddr) -> bool {
    let default = if upstream.scheme_str() == Some("https") { 443 } else { 80 };
    let host = upstream.host().unwrap_or("").trim_matches(['[', ']']);
    let address = if host == "localhost" { Some(IpAddr::from([127, 0, 0, 1])) } else { host.parse().ok() };
    let same_host = address.is_some_and(|a: IpAddr| {
        a == listen.ip() || (listen.ip().is_unspecified() && a.is_loopback()) || a.is_unspecified()
    });
    upstream.port_u16().unwrap_or(default) == listen.port() && same_host && listen.port() != 0
}

/// The parser lets any text stand where a port belongs.
pub(super) fn has_sound_port(authority: &http::uri::Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    let after = text.rfind(host).map_or("", |at| &text[at + host.len()..]);
    after.is_empty() || authority.port_u16().is_some_and(|p| p > 0)
}

/// A URL fit for a message.
pub(in crate::config) fn without_credentials(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}***{}", &url[..scheme + 3], &url[at..]),
        (None, Some(at)) => format!("***{}", &url[at..]),
        _ => url.to_owned(),
    }
}
